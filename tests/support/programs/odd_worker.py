"""A worker without the SDK for the tests of the scenarios: `odd_worker.py HOW [ARGUMENT]`."""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

LONG_BYTES = 64 * 1024 * 1024


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def hear(*, version: str = "1") -> None:
    """Answers everything until it is told to end."""
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "initialize":
            say({"id": message["id"], "result": {"protocolVersion": version, "name": "odd"}})
        elif message.get("method") == "shutdown":
            return
        elif "id" in message:
            say({"id": message["id"], "result": {"output": dict(os.environ)}})


def main() -> None:
    how = sys.argv[1]
    if how == "late":  # as long as the FIFO has no writer
        with open(sys.argv[2]) as fifo:
            fifo.read()
    if how == "flood":  # beats of its own and in the name of another
        beat = b'{"jsonrpc":"2.0","method":"heartbeat","params":{"busy":true,"worker":"calm-0"}}\n'

        def beats() -> None:
            while True:
                os.write(1, beat * 500)

        threading.Thread(target=beats, daemon=True).start()
    if how == "long":
        for _ in range(LONG_BYTES // 65536):
            os.write(2, b"x" * 65536)
        os.write(2, b"\nthe next line\n")
    if how == "closes":
        os.close(1)
        os.close(2)
        signal.pause()
    if how == "blocks":  # a thread lives, what beats does not
        threading.Thread(target=time.sleep, args=(1_000_000,), daemon=True).start()
        message = json.loads(sys.stdin.readline())
        say({"id": message["id"], "result": {"protocolVersion": "1", "name": "odd"}})
        say({"method": "heartbeat", "params": {"busy": False}})
        signal.pause()
    hear()
    os._exit(0)  # whatever thread still writes


if __name__ == "__main__":
    main()
