"""An MCP server whose tools are those of a JSON file, which the command names; a call answers its name and arguments."""

import json
import sys
from pathlib import Path
from typing import Any

TOOLS: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text("utf-8"))


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        info = {"name": "listed", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        text = json.dumps([params["name"], params.get("arguments")])
        return {"content": [{"type": "text", "text": text}]}
    return {}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message and "method" in message:
        result = result_of(message["method"], message.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
