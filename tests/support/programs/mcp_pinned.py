"""An MCP server whose tools are those of a file: it tells when the file has changed, and each call returns the name of the tool."""

import json
import os
import sys
import threading
import time

FILE = sys.argv[1]
lock = threading.Lock()


def say(message: dict[str, object]) -> None:
    with lock:
        print(json.dumps(message), flush=True)


def watch(seen: int) -> None:
    while True:
        time.sleep(0.01)
        if (now := os.stat(FILE).st_mtime_ns) != seen:
            seen = now
            say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})


def tools() -> list[object]:
    with open(FILE) as file:
        found: list[object] = json.load(file)
        return found


threading.Thread(target=watch, args=(os.stat(FILE).st_mtime_ns,), daemon=True).start()
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked or "method" not in asked:
        continue
    method = asked["method"]
    result: dict[str, object] = {}
    if method == "initialize":
        result = {
            "protocolVersion": asked["params"]["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "listed", "version": "1"},
        }
    elif method == "tools/list":
        result = {"tools": tools()}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": asked["params"]["name"]}]}
    if method == "server/discover":
        say({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no such method"}})
    else:
        say({"jsonrpc": "2.0", "id": asked["id"], "result": result})
