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
  --declares=FAMILY         declares tools, prompts, resources, completions or logging (repeatable; tools alone without
                            it; `nothing` declares nothing); prompts and resources are listed by pages as tools are
  --broken=METHOD           answers it with an internal error
  --batches                 answers all calls that were held in one line
  --listen=silent|refuse|nothing   what it does instead of acknowledging subscriptions/listen; acknowledges nothing
  --everything              all at once: noise, questions, changed lists after each listing, cursors that are ignored,
                            answers that come twice, out of order, and once more after they were cancelled
Progress of a call comes once more after its end, and every cancelled call is answered nevertheless.
"""

import argparse
import json
import os
import select
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
    "ask": READ_ONLY,
    "break": READ_ONLY,
    "log": READ_ONLY,
    "nudge": READ_ONLY,
    "params": READ_ONLY,
    "touch": READ_ONLY,
    "unlisten": READ_ONLY,
    "deaf": {},
    "crash": {},
    "crash_once": {},
    "crash_once_reading": READ_ONLY,
    "crash_once_idempotent": {"idempotentHint": True},
}


OFFERS: dict[str, list[Message]] = {
    "prompts": [{"name": "greet", "title": "Greeting", "arguments": [{"name": "whom"}], "icons": [], "new": 1}],
    "resources": [{"uri": "odd://a", "name": "a", "size": 3}, {"uri": "odd://b", "name": "b"}],
    "resourceTemplates": [{"uriTemplate": "odd://{name}", "name": "any", "_meta": {"x": [1]}}],
}
KINDS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
META = "io.modelcontextprotocol/"


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
        self.offers = {kind: list(entries) for kind, entries in OFFERS.items()}
        self.asked: dict[str, object] = {}  # the call that each question belongs to
        self.listening: dict[object, Message] = {}
        self.delayed: list[Message] = []
        self.answers = 0
        self.tokens: list[object] = []  # of the calls that are held, or were

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
        if not self.options.everything or self.pinned is None:
            self.send({"id": request_id, "result": result})
            return
        self.delayed.append({"id": request_id, "result": result})
        if len(self.delayed) >= 4:
            self.flush()

    def flush(self) -> None:
        for answer in reversed(self.delayed):
            self.answers += 1
            if self.answers % 5 == 0:
                asked = ASKED[self.answers // 5 % len(ASKED)]
                self.send({"id": f"everything-{self.answers}", "method": asked, "params": {}})
            self.send(answer)
            self.send(answer)
        self.delayed.clear()

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
            orphan = [sys.executable, "-c", "import sys; sys.stdin.read()"]
            subprocess.Popen(orphan, stdin=subprocess.PIPE)  # ours has the client's messages
        for line in sys.stdin.buffer:
            self.hear(json.loads(line))
            if self.delayed and not select.select([0], [], [], 0)[0]:
                self.flush()

    def hear(self, message: Message) -> None:
        self.heard.append(message)
        if "method" not in message:
            self.replies.append(message)
            call_id = self.asked.pop(str(message.get("id")), None)
            if call_id is not None:
                self.text(call_id, json.dumps(message))
        elif message["method"] != self.options.silent:
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
            info = {"name": "odd", "version": "1"}
            declared = self.capabilities()
            answer = {"protocolVersion": version, "capabilities": declared, "serverInfo": info}
            self.send({"id": request_id, "result": answer})
        elif method == "notifications/initialized":
            self.crash_at("initialized")
            if self.options.asks:
                for n, asked in enumerate(ASKED):
                    self.send({"id": f"ask-{n}", "method": asked, "params": {}})
        elif method == "server/discover":
            self.discover(request_id)
        elif method == self.options.broken:
            self.refuse(request_id, -32603)
        elif method == "subscriptions/listen":
            self.listen(params["notifications"], request_id)
        elif method in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
            self.result(request_id, {})
        elif method == "tools/list":
            self.list_tools(params, request_id)
        elif method in KINDS:
            self.list_others(KINDS[method], params, request_id)
        elif method in ("prompts/get", "resources/read", "completion/complete"):
            self.fetch(method, params, request_id)
        elif method == "tools/call":
            self.call(params["name"], params["arguments"], params, request_id)
        elif method == "notifications/cancelled":
            self.listening.pop(params.get("requestId"), None)
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
        if era in ("legacy", "strict") and method == "server/discover" and not self.options.discover:
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
                "capabilities": self.capabilities(),
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
            {"name": n, "inputSchema": {"type": "object"}, "annotations": TOOLS.get(n, {})} for n in self.names
        ]
        self.result(request_id, self.page([*tools, {"title": "no name"}], params.get("cursor")))
        for _ in range(self.options.chatty):
            self.send({"method": "notifications/tools/list_changed"})
        self.crash_at("listed")

    def list_others(self, kind: str, params: Message, request_id: object) -> None:
        self.result(request_id, self.page(self.offers[kind], params.get("cursor"), kind))
        for _ in range(self.options.chatty):
            self.send({"method": f"notifications/{KINDS_OF[kind]}/list_changed"})

    def capabilities(self) -> Message:
        declared: Message = {}
        for family in self.options.declares or ["tools"]:
            if family in ("tools", "prompts"):
                declared[family] = {"listChanged": True}
            elif family == "resources":
                declared[family] = {"listChanged": True, "subscribe": True}
            elif family != "nothing":
                declared[family] = {}
        return declared

    def listen(self, wanted: Message, request_id: object) -> None:
        if self.options.listen == "refuse":
            self.refuse(request_id, -32601)
        elif self.options.listen != "silent":
            self.listening[request_id] = wanted
            meta = {META + "subscriptionId": request_id}
            honoured: Message = {} if self.options.listen == "nothing" else wanted
            notice: Message = {"notifications": honoured, "_meta": meta}
            self.send({"method": "notifications/subscriptions/acknowledged", "params": notice})

    def announce(self, what: str, uri: str | None = None) -> None:
        """Tells of a change as the era does: to everybody, or on the subscriptions that want it."""
        method = "resources/updated" if uri is not None else f"{what}/list_changed"
        params: Message = {} if uri is None else {"uri": uri}
        era = self.pinned if self.options.era == "both" else self.options.era
        if era in ("legacy", "strict"):
            self.send({"method": f"notifications/{method}", "params": params})
            return
        for request_id, wanted in self.listening.items():
            if wanted.get(f"{what}ListChanged") or uri in wanted.get("resourceSubscriptions", []):
                tagged = {**params, "_meta": {META + "subscriptionId": request_id}}
                self.send({"method": f"notifications/{method}", "params": tagged})

    def fetch(self, method: str, params: Message, request_id: object) -> None:
        given: Message = params.get("arguments") or {}
        name = params.get("name") or params.get("uri") or params.get("ref")
        if params.get("inputResponses") is not None:
            answer: Message = {"echo": {key: params[key] for key in ("inputResponses", "requestState")}}
        elif name in ("input", "odd://input"):
            answer = {"resultType": "input_required", "requestState": "s", "inputRequests": {"q": {}}}
        elif name == "odd://gone":
            self.refuse(request_id, -32002)
            return
        else:
            answer = {"method": method, "about": name, "given": given, "_meta": {"x": 1}, "new": [1.0]}
        self.result(request_id, answer)

    def page(self, tools: list[Message], cursor: str | None, kind: str = "tools") -> Message:
        count = self.options.pages
        style = self.options.cursor
        if not count:
            return {kind: tools}
        if style == "endless":
            return {kind: tools[:1], "nextCursor": f"{cursor}+"}
        if style == "ignored":
            return {kind: tools, "nextCursor": "next"}
        if style == "loop":
            number = {"a": 1, "b": 2}.get(str(cursor), 0)
            return {kind: tools[number : number + 1], "nextCursor": "b" if cursor == "a" else "a"}
        cursors: list[str | None] = [None, *("" if style == "empty" and n == 0 else f"c{n}" for n in range(count - 1))]
        number = cursors.index(cursor)
        last = number == count - 1
        page: Message = {kind: tools[number:] if last else tools[number : number + 1]}
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
            meta: Message = params.get("_meta") or {}
            self.tokens.append(meta.get("progressToken"))
        elif name == "release":
            if self.options.batches:
                released: Message = {"content": [{"type": "text", "text": "released"}]}
                batch = [{"jsonrpc": "2.0", "id": held, "result": released} for held in self.held]
                self.write(json.dumps(batch).encode() + b"\n")
                self.held.clear()
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
            kind = arguments.get("kind", "tools")
            if kind == "tools":
                self.names.append(str(arguments["name"]))
            else:
                self.offers[kind].append(arguments["entry"])
            self.announce(KINDS_OF[kind])
            self.text(request_id, "grown")
        elif name == "ask":
            self.asked[f"ask-{request_id}"] = request_id
            about: Message = {"method": arguments["method"], "params": arguments.get("params", {})}
            self.send({"id": f"ask-{request_id}", **about})
        elif name == "log":
            self.send({"method": "notifications/message", "params": arguments["params"]})
            self.text(request_id, "logged")
        elif name == "nudge":
            for token in self.tokens:
                step: Message = {"progressToken": token, "progress": 1}
                self.send({"method": "notifications/progress", "params": step})
            self.text(request_id, "nudged")
        elif name == "params":
            self.text(request_id, json.dumps(params))
        elif name == "touch":
            self.announce("", str(arguments["uri"]))
            self.text(request_id, "touched")
        elif name == "unlisten":
            self.unlisten(str(arguments["how"]))
            self.text(request_id, "unlistened")
        elif name == "break":
            self.options.broken = str(arguments["method"])
            self.text(request_id, "broken")
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

    def unlisten(self, how: str) -> None:
        for request_id in list(self.listening):
            if how == "result":
                meta = {META + "subscriptionId": request_id}
                self.result(request_id, {"resultType": "complete", "_meta": meta})
            else:
                params: Message = {"requestId": request_id}
                self.send({"method": "notifications/cancelled", "params": params})
        self.listening.clear()

    def progress(self, arguments: Message, params: Message, request_id: object) -> None:
        meta: Message = params.get("_meta") or {}
        token = meta.get("progressToken")
        for step in (1, 2):
            self.send(
                {
                    "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": step, "total": 2, "message": arguments["text"]},
                }
            )
        self.text(request_id, str(arguments["text"]))
        self.finished.append(token)

    def crash_once(self, mark: str, request_id: object) -> None:
        if not os.path.exists(mark):
            with open(mark, "w"):
                os._exit(8)
        self.text(request_id, "survived")


KINDS_OF = {"tools": "tools", "prompts": "prompts", "resources": "resources", "resourceTemplates": "resources"}

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
    b'{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 777777, "progress": 1}}\n',
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
    parser.add_argument("--declares", action="append", default=[])
    parser.add_argument("--broken")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--listen", default="")
    parser.add_argument("--everything", action="store_true")
    options = parser.parse_args()
    if options.everything:
        options.noise = options.asks = True
        options.pages, options.cursor, options.chatty = 2, "ignored", 2
    Odd(options).serve()


if __name__ == "__main__":
    main()
