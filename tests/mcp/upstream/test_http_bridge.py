"""Remote servers over streamable HTTP: real servers on loopback, ours that misbehave and the official SDK's."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop
from aiohttp import web
from yarl import URL

from corral.mcp.protocol.messages import META, Caller, Progress
from corral.mcp.protocol.sse import Event, EventStream
from corral.mcp.upstream import http_headers
from corral.mcp.upstream.http_bridge import HEADERS_VARIABLE, MAX_RESUMES, URL_VARIABLE, HttpBridge, Lost
from corral.mcp.upstream.session import Session
from corral.worker.contract.errors import Overloaded, ResourceLimitExceeded, ToolFailed
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from programs.mcp_process import BOUND_S, HERE, ended, session_of, spawn

pytestmark = pytest.mark.contract

MODERN = "2026-07-28"
SECRET = "a-token-that-nobody-may-see"
Json = dict[str, Any]  # JSON-RPC, read freely
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    uvloop.run(bounded())


class Far:
    """A server on loopback that does as a test says, and remembers what it was sent."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.url = ""
        self.heard: asyncio.Queue[tuple[str, Json, Json | None]] = asyncio.Queue()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body: Json | None = await request.json() if request.can_read_body else None
        headers: Json = {name.lower(): value for name, value in request.headers.items()}
        self.heard.put_nowait((request.method, headers, body))
        return await self.handler(request)

    async def hear(self, verb: str, **fields: object) -> tuple[Json, Json]:
        """The headers and the body of the next request of this kind; what comes before is dropped."""
        while True:
            said, headers, body = await self.heard.get()
            if said == verb and fields.items() <= (body or {}).items():
                return headers, body or {}


@asynccontextmanager
async def far(handler: Handler) -> AsyncGenerator[Far, None]:
    server = Far(handler)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", server.serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
        yield server
    finally:
        await runner.cleanup()


class Near:
    """This side of an HttpBridge: what its process has on stdin and stdout."""

    def __init__(self, url: str) -> None:
        self.reader = asyncio.StreamReader()
        self._written: asyncio.Queue[bytes] = asyncio.Queue()
        headers = {"Authorization": f"Bearer {SECRET}"}
        self.remote = HttpBridge(URL(url), headers, self._written.put, listen_s=BOUND_S)

    def send(self, method: str, number: int | None = None, **params: object) -> None:
        message: Json = {"jsonrpc": "2.0", "method": method, "params": params}
        self.reader.feed_data(json.dumps(message if number is None else {**message, "id": number}).encode() + b"\n")

    def ask(self, number: int, method: str = "tools/call", **params: object) -> None:
        """Sends a request of the modern era."""
        meta: Json = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        self.send(method, number, **params, _meta=meta)

    async def get(self) -> Json:
        line: Json = json.loads(await self._written.get())
        return line

    async def raw(self) -> bytes:
        return await self._written.get()

    async def fault(self) -> Json:
        """The error of the next answer, which gives nothing away."""
        answer = await self.get()
        assert SECRET not in json.dumps(answer)
        error: Json = answer["error"]
        return error


@asynccontextmanager
async def near(url: str) -> AsyncGenerator[Near, None]:
    side = Near(url)
    task = asyncio.create_task(side.remote.run(side.reader))
    try:
        yield side
        side.reader.feed_eof()
        await task
    finally:
        task.cancel()
        with suppress(BaseException):
            await task


def reply(body: Json, result: object) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result})


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


def event(message: Json, *fields: str) -> bytes:
    return "\n".join((*fields, f"data: {json.dumps(message)}", "", "")).encode()


def echo(body: Json) -> Json:
    return {"jsonrpc": "2.0", "id": body["id"], "result": {"echo": body["params"].get("name")}}


def opened(body: Json, **headers: str) -> web.Response:
    result: Json = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}}
    response = reply(body, result)
    response.headers.update(headers)
    return response


async def legacy(request: web.Request) -> web.StreamResponse:
    """A server with a session that answers everything else by its name."""
    if request.method != "POST":
        return web.Response(status=405)
    body: Json = await request.json()
    if "id" not in body:
        return web.Response(status=202)
    if body["method"] == "initialize":
        return opened(body, **{"Mcp-Session-Id": "s1"})
    return web.json_response(echo(body))


def play(handler: Handler, test: Callable[[Near, Far], Awaitable[None]]) -> None:
    async def both() -> None:
        async with far(handler) as server, near(server.url) as client:
            await test(client, server)

    run(both())


# -- messages


def test_answers_come_as_json_as_a_stream_and_as_a_batch() -> None:
    notice: Json = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}

    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        name = body["params"]["name"]
        if name == "json":
            return web.json_response(echo(body))
        if name == "batch":
            return web.json_response([notice, echo(body)])
        response = await stream(request)
        await response.write(b": hello\r\n\r\n" + event(notice) + event(echo(body)))
        return response

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 1, name="json")
        assert (await client.get())["result"] == {"echo": "json"}
        for name in ("stream", "batch"):
            client.send("tools/call", 1, name=name)
            assert await client.get() == notice
            assert (await client.get())["result"] == {"echo": name}

    play(handler, test)


def test_an_answer_is_passed_on_byte_for_byte() -> None:
    text = '{"jsonrpc": "2.0",\t"id":1, "result":{"n":1e400000,"x":12345678901234567890123,"s":"\\u00e9"}}'

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text.replace("1e400000", "1.50"), content_type="application/json")

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 1)
        assert await client.raw() == text.replace("1e400000", "1.50").encode() + b"\n"

    play(handler, test)


def test_requests_overlap_and_each_gets_its_own_answer() -> None:
    waiting: list[asyncio.Event] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        mine = asyncio.Event()
        waiting.append(mine)
        if len(waiting) == 64:
            waiting[-1].set()
        await mine.wait()  # the last one is answered first
        place = waiting.index(mine)
        if place:
            waiting[place - 1].set()
        return web.json_response(echo(body))

    async def test(client: Near, _: Far) -> None:
        for number in range(64):
            client.send("tools/call", number, name=f"n{number}")
        answers = [await client.get() for _ in range(64)]
        assert {one["id"]: one["result"]["echo"] for one in answers} == {number: f"n{number}" for number in range(64)}

    play(handler, test)


def test_a_session_is_kept_named_in_each_request_and_ended() -> None:
    async def test() -> None:
        async with far(legacy) as server:
            async with near(server.url) as client:
                client.send("initialize", 1)
                await client.get()
                client.send("notifications/initialized")
                client.send("tools/call", 2, name="x")
                assert (await client.get())["result"] == {"echo": "x"}
            first, _ = await server.hear("POST", method="initialize")
            assert "mcp-session-id" not in first
            assert first["authorization"] == f"Bearer {SECRET}"
            assert first["accept"] == "application/json, text/event-stream"
            for verb, fields in (("POST", {"id": 2}), ("DELETE", {})):
                headers, _ = await server.hear(verb, **fields)
                assert headers["mcp-session-id"] == "s1"
                assert headers["mcp-protocol-version"] == "2025-06-18"

    run(test())


def test_the_server_knows_of_initialized_before_anything_else_is_asked() -> None:
    release = asyncio.Event()
    order: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            body: Json = await request.json()
            if body["method"] == "notifications/initialized":
                await release.wait()
            order.append(body["method"])
        return await legacy(request)

    async def test(client: Near, server: Far) -> None:
        client.send("initialize", 1)
        await client.get()
        client.send("notifications/initialized")
        client.send("tools/list", 2)
        await server.hear("POST", method="notifications/initialized")
        release.set()
        await client.get()
        assert order == ["initialize", "notifications/initialized", "tools/list"]

    play(handler, test)


def test_the_stream_for_what_nobody_asked_is_open_before_anything_else_is_asked() -> None:
    order: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            for _ in range(1000):  # turns of the loop, in which whatever did not wait would arrive
                await asyncio.sleep(0)
            order.append("GET")
            return web.Response(status=405)
        body: Json = await request.json()
        order.append(body["method"])
        return await legacy(request)

    async def test(client: Near, _: Far) -> None:
        client.send("initialize", 1)
        await client.get()
        client.send("notifications/initialized")
        client.send("tools/list", 2)
        await client.get()
        assert order == ["initialize", "notifications/initialized", "GET", "tools/list"]

    play(handler, test)


def test_what_nobody_asked_comes_on_a_stream_of_its_own_that_is_opened_again() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            return await legacy(request)
        last = request.headers.get("Last-Event-ID", "none")
        told = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"after": last}}
        response = await stream(request)
        await response.write(event(told, "id: e7", "retry: 1"))
        return response  # and closes it

    async def test(client: Near, _: Far) -> None:
        client.send("initialize", 1)
        await client.get()
        client.send("notifications/initialized")
        assert (await client.get())["params"] == {"after": "none"}
        assert (await client.get())["params"] == {"after": "e7"}

    play(handler, test)


def test_a_question_of_the_server_is_passed_on_and_its_answer_posted() -> None:
    answers: list[Json] = []
    is_answered = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        if "method" not in body:
            answers.append(body)
            is_answered.set()
            return web.Response(status=202)
        response = await stream(request)
        await response.write(event({"jsonrpc": "2.0", "id": "q", "method": "roots/list"}))
        await is_answered.wait()
        await response.write(event({**echo(body), "result": answers[0]["result"]}))
        return response

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 1)
        assert (await client.get())["method"] == "roots/list"
        client.reader.feed_data(b'{"jsonrpc":"2.0","id":"q","result":{"roots":[]}}\n')
        assert (await client.get())["result"] == {"roots": []}

    play(handler, test)


# -- streams that break


def test_a_stream_that_ends_early_is_taken_up_where_it_ended() -> None:
    number = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal number
        if request.method == "POST":
            number = (await request.json())["id"]
            response = await stream(request)
            await response.write(b"id: 1\nretry: 1\ndata:\n\n")
            return response
        last = request.headers["Last-Event-ID"]
        response = await stream(request)
        if last == "3":
            await response.write(event({"jsonrpc": "2.0", "id": number, "result": {"last": last}}))
            await response.write(event({"jsonrpc": "2.0", "method": "notifications/late"}))
        else:
            await response.write(f"id: {int(last) + 1}\ndata:\n\n".encode())
        return response

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 5)
        assert await client.get() == {"jsonrpc": "2.0", "id": 5, "result": {"last": "3"}}

    play(handler, test)


def test_a_stream_that_cannot_be_taken_up_fails_its_request_alone() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            response = await stream(request)
            await response.write(b":\n\n")
            return response
        body: Json = await request.json()
        if body["params"]["name"] == "fine":
            return web.json_response(echo(body))
        response = await stream(request)
        if body["params"]["name"] == "numbered":
            await response.write(b"id: 1\nretry: 1\ndata:\n\n")
        return response

    async def test(client: Near, server: Far) -> None:
        client.send("tools/call", 1, name="numbered")
        assert (await client.fault())["code"] == ToolFailed.code
        for _ in range(MAX_RESUMES):
            await server.hear("GET")
        client.send("tools/call", 2, name="plain")
        assert (await client.fault())["code"] == ToolFailed.code
        client.ask(3, name="numbered")  # streams of the modern era are not taken up
        assert (await client.fault())["code"] == ToolFailed.code
        client.send("tools/call", 4, name="fine")
        assert (await client.get())["result"] == {"echo": "fine"}

    play(handler, test)


@pytest.mark.parametrize("kind", ["json", "stream", "line"])
def test_an_answer_that_is_too_long_fails_its_request_alone(kind: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        if body["id"] != 1:
            return web.json_response(echo(body))
        content_type = "application/json" if kind == "json" else "text/event-stream"
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        piece = b"x" * 2**20 if kind != "stream" else b"data: " + b"x" * 2**20 + b"\n"
        with suppress(ConnectionError):
            for _ in range(MAX_MESSAGE_BYTES // 2**20 + 1):
                await response.write(piece)
        return response

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 1)
        error = await client.fault()
        assert error["code"] == ResourceLimitExceeded.code
        client.send("tools/call", 2, name="x")
        assert (await client.get())["result"] == {"echo": "x"}

    play(handler, test)


def test_withdrawing_a_modern_request_closes_its_stream_and_posts_nothing() -> None:
    closed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        if body["id"] == 2:
            return web.json_response(echo(body))
        response = await stream(request)
        await response.write(b":\n\n")
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()
        return response

    async def test(client: Near, server: Far) -> None:
        client.ask(1)
        await server.hear("POST")
        client.send("notifications/cancelled", requestId=1)
        await closed.wait()
        client.ask(2)
        _, body = await server.hear("POST")
        assert body["id"] == 2
        assert (await client.get())["id"] == 2

    play(handler, test)


def test_withdrawing_a_legacy_request_is_posted_too() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if "id" in await request.json():
            await asyncio.Event().wait()
        return web.Response(status=202)

    async def test(client: Near, server: Far) -> None:
        client.send("tools/call", 1)
        await server.hear("POST", id=1)
        client.send("notifications/cancelled", requestId=1)
        _, body = await server.hear("POST")
        assert (body["method"], body["params"]) == ("notifications/cancelled", {"requestId": 1})

    play(handler, test)


# -- errors


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500, 502])
def test_an_http_error_fails_its_request_with_the_status_and_no_secret(status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        said = f"you sent {request.headers['Authorization']}"
        return web.Response(status=status, text=said, headers={"X-Secret": "hidden"})

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 1)
        error = await client.fault()
        assert (error["code"], error["data"]) == (ToolFailed.code, {"status": status})
        assert str(status) in error["message"]
        assert "hidden" not in error["message"]

    play(handler, test)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_says_when_to_come_back(status: int) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": "7"})

    async def test(client: Near, _: Far) -> None:
        client.send("tools/call", 1)
        error = await client.fault()
        assert error["code"] == Overloaded.code
        assert error["data"] == {"status": status, "retry_after_s": 7}

    play(handler, test)


def test_a_json_rpc_error_under_an_http_error_is_the_answer() -> None:
    unsupported = {"code": -32022, "message": "no", "data": {"supported": [MODERN]}}

    async def handler(request: web.Request) -> web.StreamResponse:
        number = (await request.json())["id"]
        body = {"jsonrpc": "2.0", "id": number if number == 1 else None, "error": unsupported}
        return web.json_response(body, status=400)

    async def test(client: Near, _: Far) -> None:
        for number in (1, 2):
            client.ask(number)
            answer = await client.get()
            assert answer == {"jsonrpc": "2.0", "id": number, "error": unsupported}

    play(handler, test)


def test_a_server_that_is_not_there_never_saw_the_request() -> None:
    async def test() -> None:
        async with near("http://127.0.0.1:9/mcp") as client:
            client.send("tools/call", 1)
            error = await client.fault()
            assert (error["code"], error["data"]) == (ToolFailed.code, {"sent": False})

    run(test())


def test_only_redirections_within_the_origin_are_followed() -> None:
    async def test() -> None:
        strangers: list[str] = []

        async def stranger(request: web.Request) -> web.StreamResponse:
            strangers.append(request.path)
            return web.Response()

        async with far(stranger) as other:

            async def handler(request: web.Request) -> web.StreamResponse:
                if request.path == "/mcp/":
                    return web.json_response(echo(await request.json()))
                kind = (await request.json())["params"]["name"]
                targets = {"within": "/mcp/", "elsewhere": other.url, "round": "/mcp"}
                return web.Response(status=307, headers={"Location": targets[kind]})

            async with far(handler) as server, near(server.url) as client:
                client.send("tools/call", 1, name="within")
                assert (await client.get())["result"] == {"echo": "within"}
                for kind in ("elsewhere", "round"):
                    client.send("tools/call", 2, name=kind)
                    assert (await client.fault())["code"] == ToolFailed.code
        assert strangers == []

    run(test())


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, ""),
        (404, '{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"unknown"}}'),
        (400, '{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"No valid session ID"}}'),
        (400, "Invalid or missing session ID"),
    ],
)
def test_a_forgotten_session_is_the_end(status: int, said: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Mcp-Session-Id") is None:
            return await legacy(request)
        return web.Response(status=status, text=said)

    async def test() -> None:
        async with far(handler) as server:
            client = Near(server.url)
            task = asyncio.create_task(client.remote.run(client.reader))
            client.send("initialize", 1)
            await client.get()
            client.send("tools/call", 2)
            with pytest.raises(BaseExceptionGroup) as caught:
                await task
            assert caught.value.subgroup(Lost) is not None

    run(test())


def test_an_error_about_one_request_does_not_end_the_session() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        if body.get("id") != 2:
            return await legacy(request)
        error = {"code": -32601, "message": "there is no such session method"}
        return web.json_response({"jsonrpc": "2.0", "id": 2, "error": error}, status=404)

    async def test(client: Near, _: Far) -> None:
        client.send("initialize", 1)
        await client.get()
        client.send("unknown", 2)
        assert (await client.fault())["code"] == -32601
        client.send("tools/call", 3, name="x")
        assert (await client.get())["result"] == {"echo": "x"}

    play(handler, test)


# -- the transport of 2024-11-05


def test_a_server_of_2024_11_05_is_spoken_to_in_its_own_way() -> None:
    async def test() -> None:
        streams: list[web.StreamResponse] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/messages":
                await streams[0].write(event(echo(await request.json()), "event: message"))
                return web.Response(status=202)
            if request.method != "GET":
                return web.Response(status=405)
            response = await stream(request)
            streams.append(response)
            await response.write(b"event: endpoint\ndata: /messages?session=4\n\n")
            await asyncio.Event().wait()
            return response

        async with far(handler) as server, near(server.url) as client:
            for number, method in enumerate(("initialize", "tools/list", "tools/call")):
                client.send(method, number, name=method)
                assert (await client.get())["result"] == {"echo": method}

    run(test())


# -- headers of the modern era


def test_a_modern_request_repeats_itself_in_headers() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        if body["method"] != "tools/list":
            return web.json_response(echo(body))
        marked = {"type": "string", http_headers.MARK: "Region"}
        schemas = {
            "plain": {"type": "object"},
            "marked": {"type": "object", "properties": {"region": marked}},
            "bad": {"type": "object", "properties": {"a": marked, "b": marked}},
        }
        tools = [{"name": name, "inputSchema": schema} for name, schema in schemas.items()]
        return reply(body, {"tools": tools, "kept": 1})

    async def test(client: Near, server: Far) -> None:
        client.ask(1, "tools/list")
        listed = (await client.get())["result"]
        assert ([tool["name"] for tool in listed["tools"]], listed["kept"]) == (["plain", "marked"], 1)
        client.ask(2, name="marked", arguments={"region": "Zürich"})
        await client.get()
        headers, _ = await server.hear("POST", id=2)
        assert headers["mcp-protocol-version"] == MODERN
        assert (headers["mcp-method"], headers["mcp-name"]) == ("tools/call", "marked")
        assert headers["mcp-param-region"] == http_headers.encoded("Zürich") == "=?base64?WsO8cmljaA==?="
        client.ask(3, name="plain", arguments={"region": "x"})
        await client.get()
        headers, _ = await server.hear("POST", id=3)
        assert "mcp-param-region" not in headers

    play(handler, test)


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("us-west1", True),
        ("us west 1", True),
        ("", True),
        (" padded ", False),
        ("a\nb", False),
        ("\tindented", False),
        ("é", False),
        ("=?base64?literal?=", False),
    ],
)
def test_a_header_carries_any_text(text: str, is_plain: bool) -> None:
    assert (http_headers.encoded(text) == text) is is_plain
    assert http_headers.encoded(text).isascii()
    assert not {"\r", "\n"} & set(http_headers.encoded(text))


MARKED: Json = {"type": "string", http_headers.MARK: "Name"}


MISPLACED: list[Json] = [
    {"properties": {"a": {"type": "string", http_headers.MARK: ""}}},
    {"properties": {"a": {"type": "string", http_headers.MARK: 7}}},
    {"properties": {"a": {"type": "string", http_headers.MARK: "a b"}}},
    {"properties": {"a": {"type": "string", http_headers.MARK: "a:b"}}},
    {"properties": {"a": {"type": "string", http_headers.MARK: "é"}}},
    {"properties": {"a": {"type": "number", http_headers.MARK: "A"}}},
    {"properties": {"a": {"type": "object", http_headers.MARK: "A"}}},
    {"properties": {"a": {"type": "null", http_headers.MARK: "A"}}},
    {"properties": {"a": {"type": [{}], http_headers.MARK: "A"}}},
    {"properties": {"a": {http_headers.MARK: "A"}}},
    {"properties": {"a": MARKED, "b": {**MARKED, http_headers.MARK: "nAME"}}},
    {"properties": {"a": {"type": "array", "items": MARKED}}},
    {"properties": {"a": {"anyOf": [MARKED]}}},
    {"$defs": {"a": MARKED}},
    {"if": {"properties": {"a": MARKED}}},
    MARKED,
]


@pytest.mark.parametrize("schema", MISPLACED)
def test_marks_where_none_may_be_are_refused(schema: Json) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        http_headers.marks_of(schema)


def test_marks_are_found_at_any_depth_and_read_where_they_were_found() -> None:
    inner = {"type": "object", "properties": {"name": MARKED, "n": {"type": "integer", http_headers.MARK: "N"}}}
    schema = {"properties": {"who": inner, "free": {"default": MARKED}}}
    marks = http_headers.marks_of(schema)
    assert marks == {("who", "name"): "Name", ("who", "n"): "N"}
    for arguments, expected in (
        ({"who": {"name": "x", "n": 42.0}}, {"Mcp-Param-Name": "x", "Mcp-Param-N": "42"}),
        ({"who": {"name": None}}, {}),
        ({"who": 7, "name": "x"}, {}),
        (None, {}),
    ):
        headers = http_headers.request_headers(MODERN, "tools/call", {"arguments": arguments}, marks)
        assert {k: v for k, v in headers.items() if k.startswith("Mcp-Param")} == expected


def test_events_are_the_same_however_the_stream_is_cut() -> None:
    text = (
        b"\xef\xbb\xbf: note\r\ndata: one\r\ndata: 1\r\n\r\nevent: kind\rid: 7\rdata: two\rdata:three\r\r"
        b"id: bad\0\nretry: 1500\nretry: x\nnothing\ndata\n\ndata: \xc3\xa9\n\ndata: lost"
    )
    expected = [Event("message", b"one\n1"), Event("kind", b"two\nthree"), Event("message", "é".encode())]
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    chance = random.Random(seed)
    for _ in range(300):
        reader = EventStream()
        found: list[Event] = []
        at = 0
        while at < len(text):
            size = chance.choice((1, 2, 3, 10, 200))
            found += reader.feed(text[at : at + size])
            at += size
        assert (found, reader.last_id, reader.retry_s) == (expected, "7", 1.5)


# -- the process


@asynccontextmanager
async def session(url: str, **options: Any) -> AsyncGenerator[Session, None]:
    """A session over a process of its own, which ends by itself when it is told so."""
    os.environ[URL_VARIABLE], os.environ[HEADERS_VARIABLE] = url, "{}"
    try:
        process, read_fd, write_fd = spawn((sys.executable, "-P", "-m", "corral.mcp.upstream.http_bridge"))
    finally:
        del os.environ[URL_VARIABLE], os.environ[HEADERS_VARIABLE]
    client = session_of("far", **options)
    try:
        await client.open(read_fd, write_fd, timeout_s=BOUND_S)
        yield client
        client.close_input()
        assert await ended(process) == 0
    finally:
        client.close()
        process.kill()
        await ended(process)


@asynccontextmanager
async def official() -> AsyncGenerator[str, None]:
    """The official SDK's server over HTTP."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "programs.mcp_official_http"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert server.stdout is not None, "it was asked for"
    try:
        port = int(await server.stdout.readline())
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.send_signal(signal.SIGKILL)
        await server.wait()


def test_the_official_server_is_used_in_both_eras_through_the_process() -> None:
    async def test() -> None:
        async with official() as url:
            for version, era in (("2025-11-25", "legacy"), (MODERN, "modern")):
                async with session(url, protocol_version=version) as client:
                    assert client.era == era
                    assert "add" in {tool.name for tool in client.catalogue.tools}
                    heard: list[Progress] = []
                    result: Any = await client.request(
                        "tools/call", {"name": "count", "arguments": {"to": 3}}, caller=Caller(on_progress=heard.append)
                    )
                    assert result["content"][0]["text"] == "counted"
                    assert [at.progress for at in heard] == [1, 2, 3]

    run(test())


def test_eof_ends_the_process_at_once_although_a_request_hangs() -> None:
    hanging = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        body: Json = await request.json() if request.method == "POST" else {}
        if body.get("method") == "ping":
            hanging.set()
            await asyncio.Event().wait()
        if body.get("method") == "tools/list":
            return reply(body, {"tools": []})
        return await legacy(request)

    async def test() -> None:
        async with far(handler) as server, session(server.url) as client:
            asking = asyncio.create_task(client.ping(timeout_s=BOUND_S))
            await hanging.wait()
            asking.cancel()

    run(test())


def test_a_process_that_is_not_told_where_to_go_says_so_and_ends() -> None:
    async def test() -> None:
        process, read_fd, write_fd = spawn((sys.executable, "-P", "-m", "corral.mcp.upstream.http_bridge"))
        try:
            assert await ended(process) == 2
        finally:
            os.close(read_fd)
            os.close(write_fd)

    run(test())
