"""A worker without the SDK whose faults are chosen by argument: the ways in which programs misbehave."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def serve(version: str = "1") -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "initialize":
            say({"id": message["id"], "result": {"protocolVersion": version, "name": "raw"}})
        elif message.get("method") == "shutdown":
            return
        elif "id" in message:
            say({"id": message["id"], "result": {"output": "done"}})


def main() -> int:
    fault = sys.argv[1]
    if fault == "exit":
        print("the last words", file=sys.stderr)
        return 3
    if fault == "silent":
        time.sleep(600)
    if fault == "garbage":
        sys.stdout.buffer.write(b'\xff\xfe garbage\n[1,2]\n{}\nnull\n\x00\n{"jsonrpc":"2.0"}\n')
        sys.stdout.flush()
        serve()
    if fault == "only-garbage":
        while True:
            sys.stdout.buffer.write(b"garbage \xff" * 1000 + b"\n")
    if fault == "version":
        serve("99")
    if fault == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for line in sys.stdin:
            message = json.loads(line)
            if message.get("method") == "initialize":
                say({"id": message["id"], "result": {"protocolVersion": "1", "name": "deaf"}})
                break
        while True:
            time.sleep(600)
    if fault == "mute":  # the first of two closes its stdout and lives, the other serves
        message = json.loads(sys.stdin.readline())
        say({"id": message["id"], "result": {"protocolVersion": "1", "name": "mute"}})
        if message["params"]["worker"].endswith("-0"):
            os.close(1)
            time.sleep(600)
        serve()
        os._exit(0)
    if fault == "spends":  # it tells of each of its many tokens by itself
        for line in sys.stdin:
            message = json.loads(line)
            if message.get("method") == "task/run":
                for _ in range(int(sys.argv[2])):
                    say({"method": "usage", "params": {"tokens": 1, "cost_cents": 0}})
                say({"id": message["id"], "result": {"output": "done"}})
            elif message.get("method") == "initialize":
                say({"id": message["id"], "result": {"protocolVersion": "1", "name": "spends"}})
            elif message.get("method") == "shutdown":
                return 0
    if fault == "bills":  # it tells of what it has used with its answers alone
        used = {"tokens_used": int(sys.argv[2]), "cost_cents": float(sys.argv[3])}
        for line in sys.stdin:
            message = json.loads(line)
            if message.get("method") == "task/run":
                say({"id": message["id"], "result": {"output": "done", **used}})
            elif message.get("method") == "initialize":
                say({"id": message["id"], "result": {"protocolVersion": "1", "name": "bills"}})
            elif message.get("method") == "shutdown":
                return 0
    if fault == "blames":  # its task fails with the error of a task that it delegated
        for line in sys.stdin:
            message = json.loads(line)
            if message.get("method") == "initialize":
                say({"id": message["id"], "result": {"protocolVersion": "1", "name": "blames"}})
            elif "id" in message:
                say({"id": message["id"], "error": {"code": -33009, "message": "cannot"}})
            else:
                return 0
    if fault == "litter":  # grandchildren in sessions of their own that ignore SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which they inherit
        for _ in range(3):
            subprocess.Popen(["sleep", "600"], start_new_session=True)
        serve()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
