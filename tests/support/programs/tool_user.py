"""A worker without the SDK: a task's input is a request that it makes, without saying for which task; or it holds it."""

import json
import sys
from itertools import count
from typing import Any


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def main() -> None:
    numbers = count(1)
    asked: dict[object, object] = {}  # own requests, and whose answers theirs are
    for line in sys.stdin:
        message: dict[str, Any] = json.loads(line)
        method, number = message.get("method"), message.get("id")
        params = message.get("params", {})
        if method == "initialize":
            say({"id": number, "result": {"protocolVersion": "1", "name": "tools"}})
        elif method == "task/run" and params["objective"] != "hold":
            own = f"own-{next(numbers)}"
            asked[own] = number
            say({"id": own, "method": params["objective"], "params": params["input"]})
        elif method == "notifications/cancelled":
            say({"id": params["requestId"], "error": {"code": -33010, "message": "let go"}})
        elif method == "shutdown":
            return
        elif method is None and number in asked:
            answer = message.get("result", message.get("error"))
            say({"id": asked.pop(number), "result": {"output": answer}})
        elif method not in (None, "task/run") and number is not None:
            say({"id": number, "result": {}})


main()
