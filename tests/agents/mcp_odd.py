"""An MCP server that fails in the ways in which real ones do, as its arguments say. Standard library alone.

It answers as a plain legacy server of revision 2025-11-25 (or as the client asks), except:
  --era=legacy|strict|modern|both|forgetful   strict ends at any first message but initialize; modern knows
                            discover alone; both is pinned by the first message; forgetful has no initialize
  --refuse=CODE             the error code for what the era does not have
  --discover=silent|exit|late   what it does instead of answering server/discover; late: at the next message
  --answer-version=V        answers initialize with this revision
  --crash=start|initialize|initialized|list|listed    ends there, with status 3
  --silent=METHOD           never answers it
  --noise                   writes rubbish around each answer
  --asks                    asks the client for roots, sampling, elicitation and ping
  --pages=N                 lists one tool a page; --cursor=plain|empty|loop|ignored|endless
  --extra=NAME              has one more tool of this name (repeatable)
  --no-tools                does not know tools/list
  --chatty=N                sends N list_changed after each tools/list
  --orphan                  leaves a child that holds stdout
Progress of a call comes once more after its end, and every cancelled call is answered nevertheless.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from typing import Any

Message = dict[str, Any]  # JSON, read freely

READ_ONLY: Message = {"readOnlyHint": True}
TOOLS: dict[str, Message] = {
    "echo": READ_ONLY,
    "methods": READ_ONLY,
    "replies": READ_ONLY,
    "hold": READ_ONLY,
    "release": READ_ONLY,
    "big": READ_ONLY,
    "progress": READ_ONLY,
    "raw": {},
    "error": {},
    "grow": {},
    "deaf": {},
    "crash": {},
    "crash_once": {},
    "crash_once_reading": READ_ONLY,
    "crash_once_idempotent": {"idempotentHint": True},
}


class Odd:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.heard: list[object] = []
        self.replies: list[object] = []
        self.names = [*TOOLS, *options.extra]
        self.held: list[object] = []
        self.late: list[object] = []
        self.finished: list[object] = []
        self.pinned: str | None = None

    def write(self, raw: bytes) -> None:
        os.write(1, raw) if len(raw) < 65_536 else self.write_all(raw)

    @staticmethod
    def write_all(raw: bytes) -> None:
        view = memoryview(raw)
        while view:
            view = view[os.write(1, view) :]

    def send(self, message: Message) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode() + b"\n"
        if not self.options.noise:
            self.write(line)
            return
        for noise in NOISE:
            self.write(noise)
        half = len(line) // 2
        self.write(line[:half])
        self.write(line[half:])

    def result(self, request_id: object, result: object) -> None:
        self.send({"id": request_id, "result": result})

    def refuse(self, request_id: object, code: int, text: str = "no") -> None:
        self.send({"id": request_id, "error": {"code": code, "message": text}})

    def text(self, request_id: object, text: str) -> None:
        self.result(request_id, {"content": [{"type": "text", "text": text}], "isError": False})

    def crash_at(self, point: str) -> None:
        if self.options.crash == point:
            os._exit(3)

    def serve(self) -> None:
        self.crash_at("start")
        if self.options.orphan:
            subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
        for line in sys.stdin.buffer:
            message = json.loads(line)
            self.heard.append(message)
            if "method" not in message:
                self.replies.append(message)
                continue
            if message["method"] == self.options.silent:
                continue
            for request_id in self.late:
                self.pinned = "modern"
                self.discovered(request_id)
            self.late.clear()
            self.take(message["method"], message.get("params") or {}, message.get("id"))

    def take(self, method: str, params: Message, request_id: object) -> None:
        if not self.speaks(method, params, request_id):
            return
        if method == "initialize":
            self.crash_at("initialize")
            version = self.options.answer_version or params["protocolVersion"]
            capabilities = {"tools": {"listChanged": True}}
            info = {"name": "odd", "version": "1"}
            self.result(
                request_id,
                {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info},
            )
        elif method == "notifications/initialized":
            self.crash_at("initialized")
            if self.options.asks:
                for n, asked in enumerate(ASKED):
                    self.send({"id": f"ask-{n}", "method": asked, "params": {}})
        elif method == "server/discover":
            self.discover(request_id)
        elif method == "ping":
            self.result(request_id, {})
        elif method == "tools/list":
            self.list_tools(params, request_id)
        elif method == "tools/call":
            self.call(params["name"], params["arguments"], params, request_id)
        elif method == "notifications/cancelled":
            if params.get("requestId") in self.held:
                self.held.remove(params["requestId"])
                self.text(params["requestId"], "too late")
        elif request_id is not None:
            self.refuse(request_id, -32601)

    def speaks(self, method: str, params: Message, request_id: object) -> bool:
        era = self.options.era
        if era == "strict" and self.pinned is None and method != "initialize":
            os._exit(4)
        meta: Message = params.get("_meta") or {}
        is_modern = "io.modelcontextprotocol/protocolVersion" in meta
        if self.pinned is None and request_id is not None:
            self.pinned = "legacy" if not is_modern else "modern"
        if era == "both":
            era = self.pinned
        if era == "modern" and request_id is not None:
            if method == "initialize":
                self.refuse(request_id, self.options.refuse or -32022)
                return False
            if not is_modern:
                self.refuse(request_id, -32602)
                return False
        if era == "forgetful" and method == "initialize":
            self.refuse(request_id, self.options.refuse or -32601)
            return False
        if (
            era in ("legacy", "strict")
            and method == "server/discover"
            and not self.options.discover
        ):
            self.refuse(request_id, self.options.refuse or -32601)
            return False
        return True

    def discover(self, request_id: object) -> None:
        if self.options.discover == "exit":
            os._exit(5)
        if self.options.discover == "silent":
            return
        if self.options.discover == "late" and self.pinned == "modern" and not self.late:
            self.options.discover = ""
            self.late.append(request_id)
            return
        self.discovered(request_id)

    def discovered(self, request_id: object) -> None:
        self.result(
            request_id,
            {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {"listChanged": True}},
                "resultType": "complete",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "odd", "version": "2"}},
            },
        )

    def list_tools(self, params: Message, request_id: object) -> None:
        self.crash_at("list")
        if self.options.no_tools:
            self.refuse(request_id, -32601)
            return
        tools: list[Message] = [
            {"name": n, "inputSchema": {"type": "object"}, "annotations": TOOLS.get(n, {})}
            for n in self.names
        ]
        self.result(request_id, self.page([*tools, {"title": "no name"}], params.get("cursor")))
        for _ in range(self.options.chatty):
            self.send({"method": "notifications/tools/list_changed"})
        self.crash_at("listed")

    def page(self, tools: list[Message], cursor: str | None) -> Message:
        count = self.options.pages
        kind = self.options.cursor
        if not count:
            return {"tools": tools}
        if kind == "endless":
            return {"tools": tools[:1], "nextCursor": f"{cursor}+"}
        if kind == "ignored":
            return {"tools": tools, "nextCursor": "next"}
        if kind == "loop":
            number = {"a": 1, "b": 2}.get(str(cursor), 0)
            return {
                "tools": tools[number : number + 1],
                "nextCursor": "b" if cursor == "a" else "a",
            }
        cursors: list[str | None] = [
            None,
            *("" if kind == "empty" and n == 0 else f"c{n}" for n in range(count - 1)),
        ]
        number = cursors.index(cursor)
        last = number == count - 1
        page: Message = {"tools": tools[number:] if last else tools[number : number + 1]}
        if not last:
            page["nextCursor"] = cursors[number + 1]
        return page

    def call(self, name: str, arguments: Message, params: Message, request_id: object) -> None:
        if name == "echo":
            for token in self.finished:
                late: Message = {"progressToken": token, "progress": 3}
                self.send({"method": "notifications/progress", "params": late})
            self.finished.clear()
            self.text(request_id, str(arguments.get("text", "")))
        elif name == "methods":
            self.text(request_id, json.dumps(self.heard))
        elif name == "replies":
            self.text(request_id, json.dumps(self.replies))
        elif name == "hold":
            self.held.append(request_id)
        elif name == "release":
            for held in self.held:
                self.text(held, "released")
            self.held.clear()
            self.text(request_id, "done")
        elif name == "big":
            self.text(request_id, "x" * arguments["size"])
        elif name == "progress":
            self.progress(arguments, params, request_id)
        elif name == "raw":
            self.result(request_id, arguments["result"])
        elif name == "error":
            self.send({"id": request_id, "error": arguments["error"]})
        elif name == "grow":
            self.names.append(str(arguments["name"]))
            self.send({"method": "notifications/tools/list_changed"})
            self.text(request_id, "grown")
        elif name == "deaf":
            os.close(0)
            self.text(request_id, "deaf")
            signal.pause()
        elif name == "crash":
            os._exit(7)
        elif name.startswith("crash_once"):
            self.crash_once(str(arguments["mark"]), request_id)
        else:
            self.refuse(request_id, -32602, f"Unknown tool: {name}")

    def progress(self, arguments: Message, params: Message, request_id: object) -> None:
        meta: Message = params.get("_meta") or {}
        token = meta.get("progressToken")
        for step in (1, 2):
            self.send(
                {
                    "method": "notifications/progress",
                    "params": {
                        "progressToken": token,
                        "progress": step,
                        "total": 2,
                        "message": arguments["text"],
                    },
                }
            )
        self.text(request_id, str(arguments["text"]))
        self.finished.append(token)

    def crash_once(self, mark: str, request_id: object) -> None:
        if not os.path.exists(mark):
            with open(mark, "w"):
                os._exit(8)
        self.text(request_id, "survived")


ASKED = ("roots/list", "sampling/createMessage", "elicitation/create", "ping")

NOISE = (
    b"Server listening, have a nice day\n",
    b"\xff\xfe\x80 not UTF-8\n",
    b"\n   \n",
    b'{"jsonrpc": "2.0", "id": \n',
    b'{"id": 1, "result": {}}\n',
    b'[{"jsonrpc": "2.0", "id": 1, "result": {}}]\n',
    b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "?"}}\n',
    b'{"jsonrpc": "2.0", "id": "nobody-asked", "result": {}}\n',
    b'{"jsonrpc": "2.0", "id": 99999, "error": "a string"}\n',
    b'{"jsonrpc": "2.0", "id": true, "result": {}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 77, "progress": 1}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": [1], "progress": "x"}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "x:y"}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hello"}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/unheard-of"}\n',
)
NOISE_FOREIGN = 7
"""How many lines of them are no messages; answers to nobody are dropped without a word."""


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--era", default="legacy")
    parser.add_argument("--refuse", type=int)
    parser.add_argument("--discover", default="")
    parser.add_argument("--answer-version")
    parser.add_argument("--crash")
    parser.add_argument("--silent")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--asks", action="store_true")
    parser.add_argument("--pages", type=int, default=0)
    parser.add_argument("--cursor", default="plain")
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--no-tools", action="store_true")
    parser.add_argument("--chatty", type=int, default=0)
    parser.add_argument("--orphan", action="store_true")
    Odd(parser.parse_args()).serve()


if __name__ == "__main__":
    main()
