"""A legacy MCP server that falls silent in the ways in which real ones do. Standard library alone.

`mcp_silent.py FOLDER [--refuse-ping]`. While FOLDER/mute exists it reads and answers nothing. It has the tools `echo`,
`slow` {seconds}, which answers late and reads nothing meanwhile, and `die`, after which it reads nothing
ever again, as a server does whose reader has failed. Each question whether it lives adds a line to FOLDER/pings,
SIGABRT one to FOLDER/aborts, and whatever comes while `slow` is at work one to FOLDER/disturbed.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

folder = Path(sys.argv[1])
refuses = "--refuse-ping" in sys.argv
Message = dict[str, Any]  # JSON, read freely


def note(name: str) -> None:
    with (folder / name).open("a") as file:
        file.write("x\n")


def abort(_signal: int, _frame: FrameType | None) -> None:
    note("aborts")
    os._exit(134)


def send(message: Message) -> None:
    os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def result(name: str, arguments: Message) -> Message:
    if name == "slow":
        time.sleep(arguments["seconds"])
        if select.select([0], [], [], 0)[0]:
            note("disturbed")
    if name == "die":
        while True:
            signal.pause()
    return {"content": [{"type": "text", "text": name}], "isError": False}


def main() -> None:
    signal.signal(signal.SIGABRT, abort)
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "slow", "die")]
    for line in sys.stdin:
        while (folder / "mute").exists():
            time.sleep(0.02)
        message: Message = json.loads(line)
        method, request_id = message.get("method"), message.get("id")
        if request_id is None:
            continue
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            info = {"name": "silent", "version": "1"}
            send({"id": request_id, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}})  # fmt: skip
        elif method == "tools/list":
            send({"id": request_id, "result": {"tools": tools}})
        elif method == "tools/call":
            params = message["params"]
            answer = result(params["name"], params.get("arguments") or {})
            send({"id": request_id, "result": answer})
        elif method == "ping" and not refuses:
            note("pings")
            send({"id": request_id, "result": {}})
        else:
            note("pings")
            send({"id": request_id, "error": {"code": -32601, "message": "no such method"}})


if __name__ == "__main__":
    main()
