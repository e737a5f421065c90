"""A worker that subscribes to everything, says so, and then never reads again."""

import json
import sys
import time
from typing import Any


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


request = json.loads(sys.stdin.readline())
say({"id": 1, "method": "event/subscribe", "params": {"types": ["*"]}})
assert json.loads(sys.stdin.readline())["id"] == 1
say({"id": request["id"], "result": {"protocolVersion": "1", "name": "deaf"}})
while True:
    say({"method": "heartbeat", "params": {}})
    time.sleep(1)
