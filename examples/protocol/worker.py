"""A corral worker without the SDK: one JSON-RPC 2.0 object per line on stdin and stdout."""

import json
import os
import select
import sys
import time

HELLO = {"protocolVersion": "1", "name": "plain", "version": "1", "capabilities": []}


def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(method, params):
    said = {"said": params.get("objective")}  # here an agent does its work
    results = {"initialize": HELLO, "ping": {}, "task/run": {"output": said}}
    if method in results:
        return {"result": results[method]}
    return {"error": {"code": -32601, "message": f"cannot {method}"}}


pending, beat_s, beat_at = b"", 0.0, float("inf")
while True:
    wait_s = min(60.0, max(0.0, beat_at - time.monotonic()))
    if select.select([0], [], [], wait_s)[0]:
        if not (data := os.read(0, 65536)):  # the daemon is gone
            sys.exit(0)
        *lines, pending = (pending + data).split(b"\n")
        for message in map(json.loads, lines):
            if message.get("method") == "shutdown":
                sys.exit(0)
            if "id" in message:
                send(id=message["id"], **answer(message.get("method"), message.get("params", {})))
            if message.get("method") == "initialize":
                beat_s, beat_at = message["params"]["heartbeat_interval_s"], 0.0
    if time.monotonic() >= beat_at:
        send(method="heartbeat", params={"busy": False})
        beat_at = time.monotonic() + beat_s
