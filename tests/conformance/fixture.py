"""An MCP server on stdio that has everything that the conformance suite asks a server for, in either era.

Only the standard library: it is the server behind the pool when `run.py` measures the face, and must not owe
its answers to the code under test. `--era legacy` or `--era modern` refuses the other era; without it each
request is served in the era it is written in.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

Json = dict[str, Any]  # what came over the wire: any JSON object

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
MAX_LINE_BYTES = 16 * 1024 * 1024

# One red pixel, and a tenth of a second of nothing.
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
AUDIO = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Refused(Exception):
    """Becomes a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.wire: Json = {"code": code, "message": message}
        if data is not None:
            self.wire["data"] = data


class InputRequired(Exception):
    """Becomes the modern era's result of that type."""

    def __init__(self, requests: Json, state: str | None) -> None:
        super().__init__("input required")
        self.wire: Json = {"resultType": "input_required", "inputRequests": requests}
        if state is not None:
            self.wire["requestState"] = state


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def said(words: str) -> Json:
    return {"content": [text(words)]}


def embedded(uri: str, mime: str, words: str) -> Json:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": words}}


def form(message: str, properties: Json, *required: str) -> Json:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sample(prompt: str, tokens: int) -> Json:
    messages = [{"role": "user", "content": text(prompt)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": tokens}}


ROOTS: Json = {"method": "roots/list", "params": {}}

STATE_KEY = secrets.token_bytes(32)


def sealed(**payload: object) -> str:
    """State that only we can have made; each one is new."""
    body = json.dumps({**payload, "nonce": secrets.token_hex(8)})
    seal = hmac.new(STATE_KEY, body.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": body, "seal": seal})


def unsealed(state: str) -> Json:
    try:
        parts = json.loads(state)
        body, seal = str(parts["body"]), str(parts["seal"])
    except (ValueError, KeyError, TypeError):
        body, seal = "", ""
    expected = hmac.new(STATE_KEY, body.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(seal, expected):
        raise Refused(-32602, "requestState is not ours")
    payload: Json = json.loads(body)
    return payload


class Call:
    """One request, and all that its tool, prompt or resource may do meanwhile."""

    def __init__(self, server: "Server", params: Json) -> None:
        self.server = server
        self.params = params
        self.arguments: Json = params.get("arguments") or {}
        self.meta: Json = params.get("_meta") or {}
        self.is_modern = META + "protocolVersion" in self.meta
        self.capabilities: Json = self.meta.get(META + "clientCapabilities") or {}
        responses = params.get("inputResponses")
        self.responses: Json = responses if isinstance(responses, dict) else {}
        state = params.get("requestState")
        self.state = state if isinstance(state, str) else None

    def log(self, level: str, words: str) -> None:
        floor = self.meta.get(META + "logLevel") if self.is_modern else self.server.level
        if floor in LEVELS and LEVELS.index(level) >= LEVELS.index(floor):
            self.server.notify("notifications/message", {"level": level, "logger": "fixture", "data": words})

    def progress(self, done: int) -> None:
        token = self.meta.get("progressToken")
        if token is not None:
            params = {"progressToken": token, "progress": done, "total": 100, "message": f"{done} of 100"}
            self.server.notify("notifications/progress", params)

    async def ask(self, request: Json) -> Json:
        """The client's answer: over the wire in the legacy era, in its next try in the modern one."""
        if not self.is_modern:
            return await self.server.ask(request["method"], request["params"])
        answer: Json = self.given({"answer": request})["answer"]
        return answer

    def given(self, requests: Json, *, state: str | None = None) -> Json:
        """What the client was told to bring; what is missing, or is no answer, is asked for again."""
        missing = {key: one for key, one in requests.items() if not isinstance(self.responses.get(key), dict)}
        if missing:
            raise InputRequired(missing, state)
        return self.responses


def field(response: Json, name: str) -> str:
    content: Json = response.get("content") or {}
    return str(content.get(name, "unknown"))


# -- tools


async def greet(call: Call) -> Json:
    return said(f"Hello, {call.arguments.get('name')}!")


async def simple_text(_: Call) -> Json:
    return said("This is a simple text response for testing.")


async def image(_: Call) -> Json:
    return {"content": [{"type": "image", "data": IMAGE, "mimeType": "image/png"}]}


async def audio(_: Call) -> Json:
    return {"content": [{"type": "audio", "data": AUDIO, "mimeType": "audio/wav"}]}


async def embedded_resource(_: Call) -> Json:
    words = "This is an embedded resource content."
    return {"content": [embedded("test://embedded-resource", "text/plain", words)]}


async def mixed(_: Call) -> Json:
    picture = {"type": "image", "data": IMAGE, "mimeType": "image/png"}
    data = json.dumps({"test": "data", "value": 123})
    resource = embedded("test://mixed-content-resource", "application/json", data)
    return {"content": [text("Multiple content types test:"), picture, resource]}


async def with_logging(call: Call) -> Json:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        call.log("info", words)
    return said("Tool with logging executed successfully")


async def with_progress(call: Call) -> Json:
    for done in (0, 50, 100):
        call.progress(done)
    return said(str(call.meta.get("progressToken")))


async def failing(_: Call) -> Json:
    return {**said("This tool intentionally returns an error for testing"), "isError": True}


async def sampling(call: Call) -> Json:
    answer = await call.ask(sample(str(call.arguments.get("prompt")), 100))
    return said(f"LLM response: {field(answer, 'text')}")


async def elicitation(call: Call) -> Json:
    properties = {"response": {"type": "string", "description": "User's response"}}
    return elicited(await call.ask(form(str(call.arguments.get("message")), properties, "response")))


async def elicitation_defaults(call: Call) -> Json:
    statuses = ["active", "inactive", "pending"]
    properties: Json = {
        "name": {"type": "string", "description": "Name", "default": "John Doe"},
        "age": {"type": "integer", "description": "Age", "default": 30},
        "score": {"type": "number", "description": "Score", "default": 95.5},
        "status": {"type": "string", "description": "Status", "enum": statuses, "default": "active"},
        "verified": {"type": "boolean", "description": "Verified", "default": True},
    }
    return elicited(await call.ask(form("Please review the defaults", properties)))


async def elicitation_enums(call: Call) -> Json:
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]
    names = ["Option One", "Option Two", "Option Three"]
    many: Json = {"type": "array", "minItems": 1, "maxItems": 3}
    properties: Json = {
        "untitledSingle": {"type": "string", "description": "One", "enum": options},
        "titledSingle": {"type": "string", "description": "One", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names},
        "untitledMulti": {**many, "items": {"type": "string", "enum": options}},
        "titledMulti": {**many, "items": {"anyOf": titled}},
    }
    return elicited(await call.ask(form("Please select", properties)))


def elicited(answer: Json) -> Json:
    return said(f"User response: action={answer.get('action')}, content={json.dumps(answer.get('content'))}")


async def json_schema(call: Call) -> Json:
    return said(f"called with {json.dumps(call.arguments)}")


async def missing_capability(call: Call) -> Json:
    if call.is_modern and "sampling" not in call.capabilities:
        raise Refused(-32021, "sampling is needed", {"requiredCapabilities": {"sampling": {}}})
    return said("Success")


async def streaming(call: Call) -> Json:
    call.progress(50)
    return said("Streaming complete")


async def logging_tool(call: Call) -> Json:
    call.log("info", "asked for, or you would not see it")
    return said("Logging evaluated")


async def change_tools(call: Call) -> Json:
    call.server.has_dynamic_tool = not call.server.has_dynamic_tool
    call.server.changed("tools")
    return said("the list of tools has changed")


async def change_prompts(call: Call) -> Json:
    call.server.has_dynamic_prompt = not call.server.has_dynamic_prompt
    call.server.changed("prompts")
    return said("the list of prompts has changed")


NAME = form("What is your name?", {"name": {"type": "string"}}, "name")
CONFIRM = form("Please confirm", {"ok": {"type": "boolean"}}, "ok")


async def ask_elicitation(call: Call) -> Json:
    return said(f"Hello, {field(call.given({'user_name': NAME})['user_name'], 'name')}!")


async def ask_sampling(call: Call) -> Json:
    given = call.given({"sample_request": sample("What is the capital of France?", 100)})
    return said(f"Sampling result: {field(given['sample_request'], 'text')}")


async def ask_roots(call: Call) -> Json:
    roots: list[Json] = call.given({"roots_request": ROOTS})["roots_request"].get("roots") or []
    return said(f"Found {len(roots)} root(s)")


async def ask_with_state(call: Call) -> Json:
    if call.state is not None:
        unsealed(call.state)
    call.given({"confirm": CONFIRM}, state=sealed(kind="confirm"))
    if call.state is None:
        raise Refused(-32602, "requestState is missing")
    return said("state-ok: the state is ours")


async def ask_much(call: Call) -> Json:
    if call.state is not None:
        unsealed(call.state)
    requests = {"user_name": NAME, "greeting": sample("Generate a greeting", 50), "client_roots": ROOTS}
    given = call.given(requests, state=sealed(kind="much"))
    return said(f"Name: {field(given['user_name'], 'name')}")


async def ask_in_rounds(call: Call) -> Json:
    state = {} if call.state is None else unsealed(call.state)
    if state.get("round") != 2:
        first = form("Step 1: What is your name?", {"name": {"type": "string"}}, "name")
        name = field(call.given({"step1": first}, state=sealed(round=1))["step1"], "name")
        state = {"name": name}
    second = form("Step 2: What is your favorite color?", {"color": {"type": "string"}}, "color")
    given = call.given({"step2": second}, state=sealed(round=2, name=state["name"]))
    return said(f"{state['name']} likes {field(given['step2'], 'color')}")


async def ask_what_is_possible(call: Call) -> Json:
    value = form("A value?", {"value": {"type": "string"}}, "value")
    possible = {"elicitation": ("elicit_input", value), "sampling": ("sample_input", sample("Say", 50))}
    requests = dict(one for name, one in possible.items() if name in call.capabilities)
    call.given(requests, state=sealed(kind="possible"))
    return said(f"capabilities-ok: {', '.join(requests) or 'none declared'}")


EMPTY: Json = {"type": "object", "properties": {}}
SCHEMA_2020_12: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def takes(name: str) -> Json:
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


MIRRORED: Json = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "query": {"type": "string"}},
    "required": ["region"],
}

Tool = Callable[[Call], Awaitable[Json]]

TOOLS: dict[str, tuple[Tool, Json]] = {
    "greet": (greet, takes("name")),
    "test_simple_text": (simple_text, EMPTY),
    "test_image_content": (image, EMPTY),
    "test_audio_content": (audio, EMPTY),
    "test_embedded_resource": (embedded_resource, EMPTY),
    "test_multiple_content_types": (mixed, EMPTY),
    "test_tool_with_logging": (with_logging, EMPTY),
    "test_tool_with_progress": (with_progress, EMPTY),
    "test_error_handling": (failing, EMPTY),
    "test_sampling": (sampling, takes("prompt")),
    "test_elicitation": (elicitation, takes("message")),
    "test_elicitation_sep1034_defaults": (elicitation_defaults, EMPTY),
    "test_elicitation_sep1330_enums": (elicitation_enums, EMPTY),
    "json_schema_2020_12_tool": (json_schema, SCHEMA_2020_12),
    "test_x_mcp_header": (json_schema, MIRRORED),
    "test_missing_capability": (missing_capability, EMPTY),
    "test_streaming_elicitation": (streaming, EMPTY),
    "test_logging_tool": (logging_tool, EMPTY),
    "test_trigger_tool_change": (change_tools, EMPTY),
    "test_trigger_prompt_change": (change_prompts, EMPTY),
    "test_input_required_result_elicitation": (ask_elicitation, EMPTY),
    "test_input_required_result_sampling": (ask_sampling, EMPTY),
    "test_input_required_result_list_roots": (ask_roots, EMPTY),
    "test_input_required_result_request_state": (ask_with_state, EMPTY),
    "test_input_required_result_multiple_inputs": (ask_much, EMPTY),
    "test_input_required_result_multi_round": (ask_in_rounds, EMPTY),
    "test_input_required_result_tampered_state": (ask_with_state, EMPTY),
    "test_input_required_result_capabilities": (ask_what_is_possible, EMPTY),
}


# -- prompts and resources


def user(*contents: Json) -> Json:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def simple_prompt(_: Call) -> Json:
    return user(text("This is a simple prompt for testing."))


def prompt_with_arguments(call: Call) -> Json:
    one, two = call.arguments.get("arg1"), call.arguments.get("arg2")
    return user(text(f"Prompt with arguments: arg1='{one}', arg2='{two}'"))


def prompt_with_resource(call: Call) -> Json:
    uri = str(call.arguments.get("resourceUri"))
    resource = embedded(uri, "text/plain", "Embedded resource content for testing.")
    return user(resource, text("Please process the embedded resource above."))


def prompt_with_image(_: Call) -> Json:
    picture = {"type": "image", "data": IMAGE, "mimeType": "image/png"}
    return user(picture, text("Please analyze the image above."))


def prompt_that_asks(call: Call) -> Json:
    asked = form("What context should the prompt use?", {"context": {"type": "string"}}, "context")
    return user(text(f"Prompt with context: {field(call.given({'user_context': asked})['user_context'], 'context')}"))


PROMPTS: dict[str, tuple[Callable[[Call], Json], tuple[str, ...]]] = {
    "test_simple_prompt": (simple_prompt, ()),
    "test_prompt_with_arguments": (prompt_with_arguments, ("arg1", "arg2")),
    "test_prompt_with_embedded_resource": (prompt_with_resource, ("resourceUri",)),
    "test_prompt_with_image": (prompt_with_image, ()),
    "test_input_required_result_prompt": (prompt_that_asks, ()),
}

RESOURCES: dict[str, tuple[str, Json]] = {
    "test://static-text": ("text/plain", {"text": "This is the content of the static text resource."}),
    "test://static-binary": ("image/png", {"blob": IMAGE}),
    "test://watched-resource": ("text/plain", {"text": "Watched resource content"}),
}
TEMPLATE = ("test://template/", "/data")


def read(uri: str) -> Json:
    before, after = TEMPLATE
    if uri in RESOURCES:
        mime, content = RESOURCES[uri]
    elif uri.startswith(before) and uri.endswith(after) and len(uri) > len(before) + len(after):
        number = uri[len(before) : -len(after)]
        data = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        mime, content = "application/json", {"text": json.dumps(data)}
    else:
        raise Refused(-32602, f"no resource {uri}", {"uri": uri})
    return {"contents": [{"uri": uri, "mimeType": mime, **content}]}


# -- the server

CAPABILITIES: Json = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
    "completions": {},
}
INFO = {"name": "fixture", "version": "1"}
CACHED = {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"}


class Server:
    """Both eras on one pair of pipes."""

    def __init__(self, era: str) -> None:
        self.era = era
        self.level: str | None = "debug"
        self.has_dynamic_tool = False
        self.has_dynamic_prompt = False
        self.listeners: dict[object, Json] = {}
        self.asked: dict[str, asyncio.Future[Json]] = {}
        self.serving: dict[object, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with asyncio.TaskGroup() as group:
            while line := await reader.readline():
                message: Json = json.loads(line)
                if "method" not in message:
                    self.answered(message)
                elif "id" in message:
                    task = group.create_task(self.answer(message))
                    self.serving[message["id"]] = task
                else:
                    self.told(message["method"], message.get("params") or {})
            for task in self.serving.values():
                task.cancel()

    def send(self, message: Json) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        self.send({"method": method, "params": params})

    async def ask(self, method: str, params: Json) -> Json:
        number = f"fixture-{len(self.asked)}"
        answer = self.asked[number] = asyncio.get_running_loop().create_future()
        self.send({"id": number, "method": method, "params": params})
        result: Json = await answer
        return result

    def answered(self, message: Json) -> None:
        answer = self.asked.get(str(message.get("id")))
        if answer is not None and not answer.done():
            if "error" in message:
                answer.set_exception(Refused(-32603, f"the client refused: {message['error']}"))
            else:
                answer.set_result(message["result"])

    def told(self, method: str, params: Json) -> None:
        if method == "notifications/cancelled":
            self.listeners.pop(params.get("requestId"), None)
            task = self.serving.get(params.get("requestId"))
            if task is not None:
                task.cancel()

    def changed(self, kind: str) -> None:
        method = f"notifications/{kind}/list_changed"
        if self.era != "modern" and not self.listeners:
            self.notify(method, {})
        for number, wanted in self.listeners.items():
            if wanted.get(f"{kind}ListChanged") is True:
                self.notify(method, {"_meta": {META + "subscriptionId": number}})

    async def answer(self, message: Json) -> None:
        number, method = message["id"], message["method"]
        call = Call(self, message.get("params") or {})
        try:
            result = await self.result(number, method, call)
        except Refused as refused:
            self.send({"id": number, "error": refused.wire})
        except InputRequired as required:
            self.send({"id": number, "result": required.wire})
        except asyncio.CancelledError:
            return
        else:
            if result is not None:
                self.send({"id": number, "result": self.stamped(method, call, result)})
        finally:
            self.serving.pop(number, None)

    @staticmethod
    def stamped(method: str, call: Call, result: Json) -> Json:
        if not call.is_modern:
            return result
        hints = {"ttlMs": 0, "cacheScope": "public"} if method in CACHED else {}
        return {"resultType": "complete", **hints, **result}

    async def result(self, number: object, method: str, call: Call) -> Json | None:
        if not call.is_modern:
            return await self.legacy(method, call)
        version = call.meta[META + "protocolVersion"]
        if version != MODERN or self.era == "legacy":
            if self.era == "legacy":
                unknown(method)
            data = {"supported": [MODERN], "requested": version}
            raise Refused(-32022, f"revision {version} is not supported", data)
        if META + "clientCapabilities" not in call.meta:
            raise Refused(-32602, "_meta has no client capabilities")
        if method == "server/discover":
            kept = {key: value for key, value in CAPABILITIES.items() if key != "logging"}
            stamp = {META + "serverInfo": INFO}
            hints: Json = {"ttlMs": 0, "cacheScope": "private"}
            return {"supportedVersions": [MODERN], "capabilities": kept, "_meta": stamp, **hints}
        if method == "subscriptions/listen":
            wanted = self.listeners[number] = call.params.get("notifications") or {}
            told = {META + "subscriptionId": number}
            self.notify("notifications/subscriptions/acknowledged", {"_meta": told, "notifications": wanted})
            return None
        return await self.common(method, call)

    async def legacy(self, method: str, call: Call) -> Json:
        if self.era == "modern":
            data = {"supported": [MODERN], "requested": call.params.get("protocolVersion")}
            raise Refused(-32022, "only the modern era is spoken here", data)
        if method == "initialize":
            asked = call.params.get("protocolVersion")
            version = asked if asked in LEGACY else LEGACY[-1]
            return {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO}
        if method == "ping":
            return {}
        if method == "logging/setLevel":
            self.level = call.params.get("level")
            return {}
        if method in ("resources/subscribe", "resources/unsubscribe"):
            read(str(call.params.get("uri")))
            return {}
        return await self.common(method, call)

    async def common(self, method: str, call: Call) -> Json:
        name = call.params.get("name")
        if method == "tools/list":
            return {"tools": self.tools()}
        if method == "tools/call":
            if name == "test_dynamic_tool" and self.has_dynamic_tool:
                return said("here for now")
            if name not in TOOLS:
                raise Refused(-32602, f"no tool {name}")
            return await TOOLS[name][0](call)
        if method == "prompts/list":
            return {"prompts": self.prompts()}
        if method == "prompts/get":
            if name not in PROMPTS:
                raise Refused(-32602, f"no prompt {name}")
            return PROMPTS[name][0](call)
        if method == "resources/list":
            named = ((uri, uri.removeprefix("test://"), mime) for uri, (mime, _) in RESOURCES.items())
            return {"resources": [{"uri": uri, "name": name, "mimeType": mime} for uri, name, mime in named]}
        if method == "resources/templates/list":
            template = {"uriTemplate": "{id}".join(TEMPLATE), "name": "template", "mimeType": "application/json"}
            return {"resourceTemplates": [template]}
        if method == "resources/read":
            return read(str(call.params.get("uri")))
        if method == "completion/complete":
            return {"completion": {"values": ["paris", "park"], "total": 2, "hasMore": False}}
        return unknown(method)

    def tools(self) -> list[Json]:
        listed = [
            {"name": name, "description": f"For the conformance suite: {name}", "inputSchema": schema}
            for name, (_, schema) in TOOLS.items()
        ]
        if self.has_dynamic_tool:
            listed.append({"name": "test_dynamic_tool", "description": "Comes and goes", "inputSchema": EMPTY})
        return listed

    def prompts(self) -> list[Json]:
        listed: list[Json] = [
            {
                "name": name,
                "description": f"For the conformance suite: {name}",
                "arguments": [{"name": one, "required": True} for one in arguments],
            }
            for name, (_, arguments) in PROMPTS.items()
        ]
        if self.has_dynamic_prompt:
            listed.append({"name": "test_dynamic_prompt", "description": "Comes and goes"})
        return listed


def unknown(method: str) -> NoReturn:
    raise Refused(-32601, f"no method {method}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", choices=("both", "legacy", "modern"), default="both")
    asyncio.run(Server(parser.parse_args().era).serve())


if __name__ == "__main__":
    main()
