"""An MCP server that keeps a state in its process, as its arguments say. Standard library alone.

--dies            says why on stderr and ends before the handshake
--extra=NAME      has one more tool of this name
Its tools: put {value}, get, pid, meet {folder, name, other} (returns when the other has met it), read_folder of a
schema with rules. It has one prompt, one resource that is `put`, and a template.
"""

import json
import os
import sys
import time
from typing import Any

TEXT = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
STRICT = {
    "type": "object",
    "properties": {"path": {"type": "string", "pattern": "^(/[a-z]+)+$"}},
    "required": ["path"],
    "additionalProperties": False,
}
MEET_S = 20.0

TOOLS: list[dict[str, Any]] = [
    {"name": "put", "inputSchema": TEXT},
    {"name": "get", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {"name": "pid", "inputSchema": {"type": "object"}},
    {"name": "meet", "inputSchema": {"type": "object"}},
    {"name": "read_folder", "inputSchema": STRICT},
]


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def meet(arguments: dict[str, Any]) -> str:
    open(f"{arguments['folder']}/{arguments['name']}", "w").close()
    until = time.monotonic() + MEET_S
    while not os.path.exists(f"{arguments['folder']}/{arguments['other']}"):
        if time.monotonic() > until:
            return "nobody came"
        time.sleep(0.005)
    return "met"


class State:
    def __init__(self) -> None:
        self.value = ""
        self.subscribed = False

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        if name == "put":
            self.value = arguments["value"]
            if self.subscribed:
                params = {"uri": "state://value"}
                send({"method": "notifications/resources/updated", "params": params})
            return "ok"
        if name == "pid":
            return str(os.getpid())
        if name == "meet":
            return meet(arguments)
        return self.value

    def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        if method == "initialize":
            declared = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}}
            version = "2025-11-25"
            info = {"name": "state", "version": "1"}
            return {"protocolVersion": version, "capabilities": declared, "serverInfo": info}
        if method == "tools/list":
            extra = [arg.partition("=")[2] for arg in sys.argv[1:] if arg.startswith("--extra=")]
            return {"tools": [*TOOLS, *({"name": n, "inputSchema": TEXT} for n in extra)]}
        if method == "tools/call":
            text = self.call(params["name"], params.get("arguments", {}))
            return {"content": [{"type": "text", "text": text}]}
        if method == "prompts/list":
            return {"prompts": [{"name": "greet"}]}
        if method == "resources/list":
            return {"resources": [{"uri": "state://value", "name": "value"}]}
        if method == "resources/templates/list":
            return {"resourceTemplates": [{"uriTemplate": "state://{key}", "name": "any"}]}
        if method in ("resources/subscribe", "resources/unsubscribe"):
            self.subscribed = method == "resources/subscribe"
            return {}
        if method == "resources/read":
            return {"contents": [{"uri": params["uri"], "text": self.value}]}
        return {} if method == "ping" else None


def main() -> None:
    if "--dies" in sys.argv:
        sys.exit("the moon is in the wrong house")
    state = State()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = state.answer(message["method"], message.get("params", {}))
        if result is None:
            send({"id": message["id"], "error": {"code": -32601, "message": "unknown"}})
        else:
            send({"id": message["id"], "result": result})


main()
