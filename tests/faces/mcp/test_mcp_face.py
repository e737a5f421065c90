"""MCP over HTTP on real sockets: who is let in, sessions, streams, and what a lost connection costs."""

import asyncio
import contextlib
import gc
import io
import json
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

import mcp
from corral.mcp.endpoint.request import ProtocolError
from corral.mcp.protocol.messages import META, Caller
from corral.mcp.upstream import http_headers
from corral.supervisor.faces.http.admission import address_of
from corral.supervisor.faces.http.answers import MAX_BODY_BYTES
from corral.supervisor.faces.http.credentials import read_token
from corral.supervisor.faces.http.face import Access, HttpClient
from corral.supervisor.faces.http.server import HttpServer
from corral.supervisor.faces.http.sse import MAX_BYTES, MAX_EVENTS, Stream, place_of
from corral.supervisor.faces.mcp import mcp_request
from corral.supervisor.faces.mcp.mcp_face import McpFace
from corral.supervisor.faces.mcp.mcp_request import ViewQuery
from corral.supervisor.faces.mcp.mcp_session import HttpSession, Reply, RpcRequest
from corral.worker.contract.errors import InvalidParams, NotFound, Overloaded, PermissionDenied
from daemon_process import BIN, DaemonProcess
from fake_provider import REGIONAL, FakeProvider

pytestmark = pytest.mark.shell

BOUND_S = 60.0

TOKEN = "a" * 40

BOTH = "application/json, text/event-stream"

META_2026: dict[str, object] = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}}


def authenticate(sent: str | None) -> HttpClient:
    if sent != TOKEN:
        raise PermissionDenied("cannot serve the request")
    return HttpClient("test", "admin")


class Site:
    """A served provider, and a client of it."""

    web: HttpServer

    def __init__(self, http: aiohttp.ClientSession, provider: FakeProvider) -> None:
        self.http = http
        self.provider = provider
        self.wanted: list[ViewQuery] = []
        self.callers: list[Caller] = []
        self.address = ""
        self._last = 0

    @property
    def url(self) -> str:
        return f"http://{self.address}/mcp"

    def offer(self, wanted: ViewQuery, caller: Caller, client: HttpClient) -> FakeProvider:
        if wanted.profile == "none":
            raise NotFound('cannot find profile "none"')
        self.wanted.append(wanted)
        self.callers.append(caller)
        return self.provider

    def post(
        self, body: object, headers: Mapping[str, str] = {}, query: str = ""
    ) -> Any:  # aiohttp's context of a response
        all_headers = {"Accept": BOTH, "Content-Type": "application/json", **headers}
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        return self.http.post(self.url + query, data=data, headers=all_headers)

    def message(self, method: str, **params: object) -> dict[str, object]:
        self._last += 1
        return {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}

    async def initialize(self, version: str = "2025-11-25", **params: object) -> dict[str, str]:
        """The headers of a new session."""
        asked = self.message("initialize", protocolVersion=version, **params)
        async with self.post(asked) as answer:
            assert answer.status == 200
            session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        headers = {**session, "MCP-Protocol-Version": version}
        async with self.post(note, headers) as answer:
            assert (answer.status, await answer.read()) == (202, b"")
        return headers

    def modern(
        self, method: str, headers: Mapping[str, str] = {}, query: str = "", **params: object
    ) -> Any:  # aiohttp's context of a response
        name = {"Mcp-Name": str(params["name"])} if "name" in params else {}
        routing = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, **name}
        message = self.message(method, **{"_meta": META_2026, **params})
        return self.post(message, {**routing, **headers}, query)


@contextlib.asynccontextmanager
async def site(**options: Any) -> AsyncGenerator[Site, None]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    timeout = aiohttp.ClientTimeout(total=BOUND_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        found = Site(http, FakeProvider())
        kept = {key: options.pop(key) for key in ("max_sessions",) if key in options}
        face = McpFace(found.offer, version="9", **kept)
        found.web = HttpServer([face], Access(authenticate), **options)
        found.address = await found.web.open("127.0.0.1", 0)
        try:
            yield found
        finally:
            await found.web.close()
            assert found.provider.changed == []


def run(test: Callable[[Site], Awaitable[None]], **options: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S), site(**options) as found:
            await test(found)

    uvloop.run(bounded())  # the daemon's loop


class Event:
    """One event of a stream."""

    def __init__(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith(":"))
        self.id = fields.get("id", "")
        self.retry = fields.get("retry")
        self.data = fields.get("data", "")
        self.message: Any = json.loads(self.data) if self.data else None


async def event(answer: aiohttp.ClientResponse) -> Event | None:
    """The next event that is more than a comment; None at the end."""
    while True:
        lines: list[str] = []
        while line := (await answer.content.readline()).decode():
            if line == "\n":
                break
            lines.append(line.removesuffix("\n"))
        if not lines and not line:
            return None
        if any(not each.startswith(":") for each in lines):
            return Event("\n".join(lines))


async def events(answer: aiohttp.ClientResponse) -> list[Event]:
    found: list[Event] = []
    while (each := await event(answer)) is not None:
        found.append(each)
    return found


# -- who is let in


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "[::]", "example.com", "localhost.x"])
def test_an_address_that_others_could_reach_is_refused_by_name(host: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        address_of(f"{host}:8080", is_protected=False)
    assert caught.value.data["key"] == "daemon.http"
    assert caught.value.data["value"] == f"{host}:8080"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_a_loopback_address_is_taken(host: str) -> None:
    assert address_of(f"{host}:8080", is_protected=False) == (host.strip("[]"), 8080)


def test_the_token_is_made_once_with_256_bits_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.token"
    token = read_token(path)
    assert len(token) == 43  # 32 bytes in base64
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == token
    assert read_token(tmp_path / "other") != token


def test_a_token_that_could_not_be_written_is_made_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "http.token"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as a full disk would
    try:
        with pytest.raises(PermissionDenied):
            read_token(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    assert len(read_token(path)) == 43
    assert list(tmp_path.iterdir()) == [path]


def test_a_token_file_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "http.token"
    token = read_token(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    folder = tmp_path / "folder"
    folder.mkdir(0o700)
    path.chmod(0o640)
    for refused in (path, link, folder, tmp_path / "missing" / "x"):
        with pytest.raises(PermissionDenied) as caught:
            read_token(refused)
        assert caught.value.data["key"] == "daemon.http_token_file"
        assert token not in caught.value.message
    path.chmod(0o600)
    for text in ("", "short", "has space in it " * 3, "ä" * 40):
        path.write_text(text)
        with pytest.raises(InvalidParams):
            read_token(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "http.token"
    read_token(path)
    os.chown(path, 65534, -1)
    with pytest.raises(PermissionDenied):
        read_token(path)


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Authorization", "", 401),
        ("Authorization", "Bearer wrong", 401),
        ("Authorization", f"Basic {TOKEN}", 401),
        ("Authorization", f"bearer  {TOKEN} ", 200),
        ("Host", "evil.example.com", 403),
        ("Host", "127.0.0.1:1", 403),
        ("Host", "127.0.0.1", 403),
        ("Origin", "http://evil.example.com", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost.evil.example", 403),
        ("Origin", "file://localhost", 403),
        ("Origin", "http://localhost:6274", 200),
        ("Origin", "http://[::1]", 200),
    ],
)
def test_only_who_is_here_and_has_the_token_is_served(header: str, value: str, status: int) -> None:
    async def test(site: Site) -> None:
        async with site.modern("tools/list", {header: value}) as answer:
            assert answer.status == status
            if status == 401:
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert TOKEN not in await answer.text()

    run(test)


def test_connections_that_never_show_the_token_do_not_keep_out_who_has_it() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        async with contextlib.AsyncExitStack() as stack:
            listening = await stack.enter_async_context(site.http.get(site.url, headers=session))
            host, port = site.address.split(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
            for _, writer in silent:
                stack.callback(writer.close)
            assert await silent[0][0].read() == b"", "the first to come is the first to go"
            async with site.post(site.message("ping"), session) as answer:
                assert answer.status == 200
            site.provider.change("tools")
            told = await event(listening)
            assert told is not None
            assert told.message["method"] == "notifications/tools/list_changed"

    run(test, max_connections=4)


def test_what_http_forbids_is_answered_with_its_status() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        listing = site.message("tools/list")
        cases: list[tuple[Callable[[], Any], int]] = [
            (lambda: site.http.get(site.url.replace("/mcp", "/"), headers=session), 404),
            (lambda: site.http.put(site.url, headers=session), 405),
            (lambda: site.http.get(site.url, headers={"MCP-Protocol-Version": "2026-07-28"}), 405),
            (lambda: site.http.get(site.url, headers={**session, "Accept": "text/html"}), 406),
            (lambda: site.post(listing, {**session, "Accept": "text/html"}), 406),
            (lambda: site.post(listing, {**session, "Accept": "application/json;q=0"}), 406),
            (lambda: site.post(listing, {**session, "Content-Type": "text/plain"}), 415),
            (lambda: site.post(b"{", session), 400),
            (lambda: site.post([listing], session), 400),
            (lambda: site.post({**listing, "jsonrpc": "1.0"}, session), 400),
            (lambda: site.post({**listing, "id": None}, session), 400),
            (lambda: site.post({**listing, "params": [1]}, session), 400),
            (lambda: site.post({"jsonrpc": "2.0"}, session), 400),
            (lambda: site.post(listing), 400),
            (lambda: site.post(listing, {"Mcp-Session-Id": "x"}), 404),
            (lambda: site.post(listing, {**session, "MCP-Protocol-Version": "1999-01-01"}), 400),
            (lambda: site.post(b" " * (MAX_BODY_BYTES + 1), session), 413),
            (lambda: site.post(listing, session), 200),
        ]
        for number, (ask, status) in enumerate(cases):
            async with ask() as answer:
                assert answer.status == status, number
                if status != 200:
                    assert "error" in await answer.json()

    run(test)


@pytest.mark.parametrize(
    ("token", "expected", "lines"),
    [
        (TOKEN, "100-continue", ["HTTP/1.1 100 Continue", "HTTP/1.1 200 OK"]),
        (TOKEN, "magic", ["HTTP/1.1 417 Expectation Failed"]),
        ("b" * 40, "100-continue", ["HTTP/1.1 401 Unauthorized"]),
    ],
)
def test_a_client_that_asks_before_it_sends_its_body_gets_an_answer_at_once(
    token: str, expected: str, lines: list[str]
) -> None:
    async def test(site: Site) -> None:
        body = json.dumps(site.message("initialize", protocolVersion="2025-11-25")).encode()
        head = [
            "POST /mcp HTTP/1.1",
            f"Host: {site.address}",
            f"Authorization: Bearer {token}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Expect: {expected}",
        ]
        reader, writer = await asyncio.open_connection(*site.address.split(":"))
        writer.write("\r\n".join([*head, "", ""]).encode())
        for number, line in enumerate(lines):
            if number:
                writer.write(body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.decode().splitlines()[0] == line
        writer.close()

    run(test)


def test_the_address_selects_what_a_client_sees() -> None:
    async def test(site: Site) -> None:
        query = "?only=time__*&only=git__*&deny=*rm*&read_only=1&profile=p"
        async with site.modern("tools/list", query=query) as answer:
            assert answer.status == 200
        assert site.wanted == [ViewQuery(("time__*", "git__*"), ("*rm*",), True, "p")]
        for wrong in ("?onyl=time__*", "?read_only=yes", "?profile=none"):
            async with site.modern("tools/list", query=wrong) as answer:
                assert answer.status == 400
            asked = site.message("initialize", protocolVersion="2025-11-25")
            async with site.post(asked, query=wrong) as answer:
                assert answer.status == 400

    run(test)


# -- sessions of the legacy era


def test_a_session_lasts_until_its_client_ends_it() -> None:
    async def test(site: Site) -> None:
        first, second = await site.initialize(), await site.initialize()
        assert first != second
        assert [caller.sharer for caller in site.callers] == list(
            dict.fromkeys(caller.sharer for caller in site.callers)
        )
        async with site.http.delete(site.url, headers=first) as answer:
            assert answer.status == 204
        for headers, status in ((first, 404), (second, 200)):
            async with site.post(site.message("tools/list"), headers) as answer:
                assert answer.status == status

    run(test)


def test_beyond_the_limit_of_sessions_the_longest_idle_one_ends() -> None:
    async def test(site: Site) -> None:
        sessions = [await site.initialize() for _ in range(2)]
        async with site.http.get(site.url, headers=sessions[0]) as listening:
            assert listening.status == 200
            sessions.append(await site.initialize())
            statuses: list[int] = []
            for headers in sessions:
                async with site.post(site.message("ping"), headers) as answer:
                    statuses.append(answer.status)
            assert statuses == [200, 404, 200]
            async with site.http.get(site.url, headers=sessions[2]) as also:
                asked = site.message("initialize", protocolVersion="2025-11-25")
                async with site.post(asked) as answer:
                    assert (also.status, answer.status) == (200, 503)

    run(test, max_sessions=2)


def test_the_idle_session_that_was_used_last_stays() -> None:
    async def test(site: Site) -> None:
        sessions = [await site.initialize() for _ in range(2)]
        async with site.post(site.message("ping"), sessions[0]) as answer:
            assert answer.status == 200
        await site.initialize()
        for headers, status in zip(sessions, (200, 404), strict=True):
            async with site.post(site.message("ping"), headers) as answer:
                assert answer.status == status

    run(test, max_sessions=2)


def test_a_batch_is_taken_in_the_one_revision_that_has_them() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize("2025-03-26")
        note = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
        batch: list[dict[str, Any]] = [site.message("ping"), note, site.message("no/such")]
        async with site.post(batch, session) as answer:
            said = await answer.json()
        assert [each["id"] for each in said] == [batch[0]["id"], batch[2]["id"]]
        assert said[1]["error"]["code"] == -32601
        async with site.post([], session) as answer:
            assert answer.status == 400

    run(test)


def test_what_a_call_reports_comes_on_a_stream_that_ends_with_its_result() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        asked = site.message("tools/call", name="progress", _meta={"progressToken": 7})
        async with site.post(asked, session) as answer:
            assert answer.content_type == "text/event-stream"
            first = await event(answer)
            assert first is not None
            assert (first.data, first.retry) == ("", "1000")
            half = await event(answer)
            assert half is not None
            assert half.message["params"]["progressToken"] == 7
            site.provider.go_on.set()
            rest = await events(answer)
        assert [each.message.get("id") for each in rest] == [None, asked["id"]]
        assert len({first.id, half.id, *(each.id for each in rest)}) == 4

    run(test)


def test_an_older_client_is_sent_no_event_without_data() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize("2025-06-18")
        site.provider.go_on.set()
        asked = site.message("tools/call", name="progress", _meta={"progressToken": 7})
        async with site.post(asked, session) as answer:
            assert all(each.data for each in await events(answer))

    run(test)


def test_a_client_that_takes_json_alone_gets_the_result_alone() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize(capabilities={"elicitation": {}})
        site.provider.go_on.set()
        headers = {**session, "Accept": "application/json"}
        asked = site.message("tools/call", name="progress", _meta={"progressToken": 7})
        async with site.post(asked, headers) as answer:
            assert (await answer.json())["result"] == {"content": []}
        asked = site.message("tools/call", name="ask")
        async with site.post(asked, headers) as answer:
            assert (await answer.json())["result"]["isError"] is True

    run(test)


def test_a_client_is_asked_on_the_stream_of_its_call_and_answers_by_a_post() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize(capabilities={"elicitation": {}})
        replies: tuple[dict[str, Any], ...] = ({"result": {"action": "yes"}}, {"error": {"code": 1, "message": "no"}})
        for reply in replies:
            async with site.post(site.message("tools/call", name="ask"), session) as answer:
                await event(answer)
                asked = await event(answer)
                assert asked is not None
                assert asked.message["method"] == "elicitation/create"
                said = {"jsonrpc": "2.0", "id": asked.message["id"], **reply}
                async with site.post(said, session) as accepted:
                    assert accepted.status == 202
                (last,) = await events(answer)
                is_error = last.message["result"].get("isError", False)
                assert is_error == ("error" in reply)

    run(test)


def test_a_call_whose_stream_was_lost_goes_on_and_is_heard_to_its_end_once() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        asked = site.message("tools/call", name="progress", _meta={"progressToken": 7})
        async with site.post(asked, session) as answer:
            await event(answer)
            half = await event(answer)
            assert half is not None
            answer.close()  # the connection with it
        back = {**session, "Last-Event-ID": half.id, "Accept": "text/event-stream"}
        async with site.http.get(site.url, headers=back) as answer:
            site.provider.go_on.set()
            rest = await events(answer)
        assert [each.message.get("id") for each in rest] == [None, asked["id"]]
        async with site.http.get(site.url, headers=back) as answer:  # lost again: kept for a while
            assert [each.data for each in await events(answer)] == [each.data for each in rest]
        for unknown in ("77-1", "x"):
            headers = {**back, "Last-Event-ID": unknown}
            async with site.http.get(site.url, headers=headers) as answer:
                assert answer.status == 400

    run(test)


@pytest.mark.long
def test_what_is_kept_for_a_session_goes_with_it() -> None:
    def streams() -> int:
        gc.collect()
        return sum(type(each) is Stream for each in gc.get_objects())

    async def test(site: Site) -> None:
        before = streams()
        for name in ("progress", "wait"):  # one stream is finished by then, the other is not
            session = await site.initialize()
            asked = site.message("tools/call", name=name, _meta={"progressToken": 7})
            async with site.post(asked, session) as answer:
                await event(answer)
                if name == "progress":
                    site.provider.go_on.set()
                    await events(answer)
                    site.provider.go_on.clear()
                assert streams() > before
                async with site.http.delete(site.url, headers=session) as ended:
                    assert ended.status == 204
                await events(answer)
        site.provider.asked.clear()  # each has a way back to its client
        assert streams() == before

    run(test)


def test_a_session_that_has_ended_is_freed_without_the_garbage_collector() -> None:
    async def test() -> None:
        gc.disable()
        try:
            visit = HttpSession("x", FakeProvider(), Caller(), "9", owner="")
            opened = RpcRequest(1, "initialize", {"protocolVersion": "2025-11-25"})
            await Reply(None).answer(visit.endpoint, opened)
            visit.take({"jsonrpc": "2.0", "method": "notifications/initialized"})
            visit.close()
            freed = weakref.ref(visit)
            del visit
            assert freed() is None
        finally:
            gc.enable()

    uvloop.run(test())


def test_a_call_that_is_withdrawn_is_cancelled_and_has_no_answer() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        asked = site.message("tools/call", name="wait")
        async with site.post(asked, session) as answer:  # its stream begins, as it takes long
            params = {"requestId": asked["id"]}
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            async with site.post(note, session) as accepted:
                assert accepted.status == 202
            assert [each.data for each in await events(answer)] == [""]
        assert site.provider.cancelled.is_set()
        assert site.provider.reasons, "who serves it can tell that from a client that is gone"

    run(test)


def test_an_id_in_use_is_refused() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        asked = site.message("tools/call", name="wait")
        async with site.post(asked, session), site.post(asked, session) as answer:
            assert answer.status == 400

    run(test)


def test_what_belongs_to_no_request_comes_on_the_stream_of_the_session_also_later() -> None:
    async def test(site: Site) -> None:
        session = await site.initialize()
        site.provider.change("tools")  # nobody listens yet
        async with site.http.get(site.url, headers=session) as answer:
            first = await event(answer)
            assert first is not None
            assert first.message["method"] == "notifications/tools/list_changed"
            async with site.http.get(site.url, headers=session) as newer:
                assert await events(answer) == []  # the newer one has taken over
                site.provider.change("prompts")
                second = await event(newer)
                assert second is not None
                assert second.message["method"] == "notifications/prompts/list_changed"
                async with site.http.delete(site.url, headers=session):
                    assert await events(newer) == []

    run(test)


# -- the modern era


@pytest.mark.parametrize(
    ("headers", "params", "code"),
    [
        ({"Mcp-Method": "prompts/list"}, {}, -32020),
        ({"Mcp-Method": "TOOLS/CALL"}, {}, -32020),
        ({"Mcp-Method": ""}, {}, -32020),
        ({"Mcp-Name": "other"}, {}, -32020),
        ({"Mcp-Name": "=?base64?ZWNobw==?="}, {}, None),
        ({"Mcp-Name": " echo "}, {}, None),
        ({"MCP-Protocol-Version": "2025-11-25"}, {}, -32020),
        ({}, {"_meta": {}}, -32602),
        ({}, {"_meta": {**META_2026, META + "protocolVersion": "2030-01-01"}}, -32020),
        (
            {"MCP-Protocol-Version": "2030-01-01"},
            {"_meta": {**META_2026, META + "protocolVersion": "2030-01-01"}},
            -32022,
        ),
        ({}, {"name": "regional", "arguments": {}}, None),
        ({}, {"name": "regional", "arguments": {"region": "eu"}}, -32020),
        ({"Mcp-Param-Region": "us"}, {"name": "regional", "arguments": {"region": "eu"}}, -32020),
        ({"Mcp-Param-Region": "eu"}, {"name": "regional", "arguments": {}}, -32020),
        ({"mcp-param-region": "eu"}, {"name": "regional", "arguments": {"region": "eu"}}, None),
        ({"Mcp-Param-Region": "=?base64?w6Q=?="}, {"name": "regional", "arguments": {"region": "ä"}}, None),
        ({"Mcp-Param-Region": "=?base64?w6Q?="}, {"name": "regional", "arguments": {"region": "ä"}}, -32020),
        ({"Mcp-Param-Zone": "4.0"}, {"name": "regional", "arguments": {"place": {"zone": 4}}}, None),
        ({"Mcp-Param-Zone": "5"}, {"name": "regional", "arguments": {"place": {"zone": 4}}}, -32020),
    ],
)
def test_headers_that_do_not_say_the_same_as_the_body_are_refused(
    headers: dict[str, str], params: dict[str, Any], code: int | None
) -> None:
    async def test(site: Site) -> None:
        call = {"name": "echo", **params}
        async with site.modern("tools/call", headers, **call) as answer:
            said = await answer.json()
            assert answer.status == (200 if code is None else 400)
            assert said.get("error", {}).get("code") == code
            assert "Mcp-Session-Id" not in answer.headers

    run(test)


SCHEMA = {
    "properties": {
        "region": {"type": ["string", "null"], "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
    }
}


@pytest.mark.parametrize(
    ("said", "value", "is_same"),
    [
        ([], None, True),
        (["eu"], "eu", True),
        (["=?base64?w6Q=?="], "ä", True),
        (["us"], "eu", False),
        (["eu", "eu"], "eu", False),
        (["=?base64?w6R=?="], "ä", False),  # its last bits are no part of the text
        (["=?base64?!?="], None, False),
        (["=?base64?/w==?="], "ÿ", False),
    ],
)
def test_a_header_says_the_same_as_an_argument_or_the_call_is_refused(
    said: list[str], value: object, is_same: bool
) -> None:
    arguments = {} if value is None else {"region": value}
    refused = contextlib.nullcontext() if is_same else pytest.raises(ProtocolError)
    with refused:
        mcp_request.check_params(lambda name: said if name == "Mcp-Param-Region" else [], SCHEMA, arguments)


@pytest.mark.parametrize(
    "arguments", [{}, {"region": "eu", "count": 7}, {"region": "ä", "count": 0}, {"count": 2**60}, {"region": None}]
)
def test_what_our_own_client_says_in_headers_is_accepted(arguments: dict[str, object]) -> None:
    params = {"name": "count", "arguments": arguments}
    said = http_headers.request_headers("2026-07-28", "tools/call", params, http_headers.marks_of(SCHEMA))

    def values(name: str) -> list[str]:
        return [said[name]] if name in said else []

    mcp_request.check_routing(values, "tools/call", params, "2026-07-28")
    mcp_request.check_params(values, SCHEMA, arguments)


def test_who_listens_is_answered_when_the_daemon_ends() -> None:
    async def test() -> None:
        async with site() as found:
            asked = found.modern("subscriptions/listen", notifications={"toolsListChanged": True})
            answer = await asked
            await event(answer)
            await found.web.close()
            last = await event(answer)
            assert last is not None
            assert last.message["result"]["resultType"] == "complete"
            answer.close()

    uvloop.run(test())


def test_a_modern_client_is_answered_with_the_status_of_its_error() -> None:
    async def test(site: Site) -> None:
        for method, status in (("initialize", 404), ("ping", 404), ("tools/list", 200)):
            async with site.modern(method) as answer:
                assert answer.status == status
        note = {"jsonrpc": "2.0", "method": "notifications/x"}
        for version, status in (("2026-07-28", 202), ("2030-01-01", 400)):
            async with site.post(note, {"MCP-Protocol-Version": version}) as answer:
                assert answer.status == status
        headers = {"Accept": "application/json"}
        async with site.modern("subscriptions/listen", headers, notifications={}) as answer:
            assert answer.status == 406

    run(test)


def test_a_modern_call_ends_with_its_connection() -> None:
    async def test(site: Site) -> None:
        async def call() -> None:
            async with site.modern("tools/call", name="wait"):
                pass

        task = asyncio.ensure_future(call())
        await site.provider.begun.wait()
        task.cancel()
        await site.provider.cancelled.wait()
        assert site.provider.reasons, "hanging up is how it is withdrawn"

    run(test)


def test_a_modern_call_that_the_end_of_the_daemon_cuts_short_is_answered_and_not_withdrawn() -> None:
    async def test(site: Site) -> None:
        async def call() -> int:
            async with site.modern("tools/call", name="wait") as answer:
                assert (await answer.json())["error"]["code"] == Overloaded.code
                return int(answer.status)

        task = asyncio.ensure_future(call())
        await site.provider.begun.wait()
        await site.web.close()
        assert await task == 503
        assert site.provider.cancelled.is_set()
        assert not site.provider.reasons

    run(test)


def test_a_modern_client_listens_on_a_stream_until_it_hangs_up() -> None:
    async def test(site: Site) -> None:
        wanted = {"toolsListChanged": True}
        async with site.modern("subscriptions/listen", notifications=wanted) as answer:
            first = await event(answer)
            assert first is not None
            assert first.message["method"] == "notifications/subscriptions/acknowledged"
            site.provider.change("prompts", "tools")
            second = await event(answer)
            assert second is not None
            assert second.message["method"] == "notifications/tools/list_changed"

    run(test)


# -- streams


def test_a_stream_that_nobody_reads_is_bounded() -> None:
    async def test() -> None:
        kept, other = Stream(1, keeps=True), Stream(1, keeps=False)
        for number in range(MAX_EVENTS + 10):
            kept.put({"n": number})
            other.put({"n": number})
        assert other.is_broken
        kept.finish()
        text = b"".join([data async for data in kept.read()])
        assert text.count(b"data: ") == MAX_EVENTS
        assert f'"n":{MAX_EVENTS + 9}}}'.encode() in text
        large = Stream(1, keeps=True)
        for _ in range(20):
            large.put({"x": "x" * (MAX_BYTES // 8)})
        assert large.size_bytes < MAX_BYTES * 1.3

    uvloop.run(test())


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "-1", "1-1-1", "a-1", "1" * 99 + "-1", "²-1"])
def test_an_id_that_is_none_of_ours_has_no_place(text: str) -> None:
    assert place_of(text) is None


# -- the whole


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_the_official_client_speaks_with_it(mode: str) -> None:
    async def test(site: Site) -> None:
        site.provider.go_on.set()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with create_mcp_http_client(headers=headers) as http:
            transport = streamable_http_client(site.url, http_client=http)
            async with mcp.Client(transport, mode=mode) as client:
                tools = await client.list_tools()
                assert [tool.name for tool in tools.tools] == ["echo", "regional"]
                seen: list[float] = []

                async def told(progress: float, total: float | None, message: str | None) -> None:
                    seen.append(progress)

                await client.call_tool("progress", progress_callback=told)
                assert seen == [1, 2]
                result = await client.call_tool("regional", {"region": "eu"})
                assert not result.is_error

    run(test)


REGIONAL_SERVER = f"""
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    results = {{
        "initialize": {{"protocolVersion": "2025-06-18", "capabilities": {{}}, "serverInfo": {{}}}},
        "tools/list": {{"tools": [{REGIONAL!r}]}},
        "tools/call": {{"content": []}},
    }}
    if "id" in asked:
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": results.get(asked["method"], {{}})}}), flush=True)
"""


def test_a_daemon_serves_its_own_tools_to_who_has_its_token(tmp_path: Path) -> None:
    script = tmp_path / "regional.py"
    script.write_text(REGIONAL_SERVER)
    server = f'[mcp.servers.r]\ncommand = ["{sys.executable}", "-I", "{script}"]\n'
    with DaemonProcess(tmp_path, f'[daemon]\nhttp = "127.0.0.1:0"\n{server}') as daemon:
        daemon.call("mcp.call", name="r__regional", arguments={})
        address = daemon.call("daemon.status")["daemon"]["http"]
        token = (daemon.state_dir / "http.token").read_text().strip()

        async def test() -> None:
            headers = {
                "Authorization": f"Bearer {token}",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/list",
            }
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META_2026}}
            async with aiohttp.ClientSession(headers=headers) as http:
                url = f"http://{address}/mcp?only=corral__*"
                async with http.post(url, json=body) as answer:
                    tools = (await answer.json())["result"]["tools"]
                    assert {"corral__list", "corral__run"} <= {tool["name"] for tool in tools}
                for name in ("one", "one", "two"):
                    meta = {**META_2026, META + "clientInfo": {"name": name, "version": "1"}}
                    params = {"_meta": meta, "name": "corral__stop", "arguments": {"name": "nobody"}}
                    asked = {**body, "method": "tools/call", "params": params}
                    said = {**headers, "Mcp-Method": "tools/call", "Mcp-Name": "corral__stop"}
                    async with http.post(url, json=asked, headers=said) as answer:
                        assert (await answer.json())["result"]["isError"]
                for name in ("r__regional", "regional"):  # a short name means the same tool
                    arguments = {"region": "eu"}
                    params = {"_meta": META_2026, "name": name, "arguments": arguments}
                    asked = {**body, "method": "tools/call", "params": params}
                    said = {**headers, "Mcp-Method": "tools/call", "Mcp-Name": name}
                    for region, status in (("eu", 200), ("us", 400)):
                        routed = {**said, "Mcp-Param-Region": region}
                        async with http.post(url + "&only=r__*", json=asked, headers=routed) as answer:
                            assert answer.status == status
                records = daemon.call("audit.list", actions=["agent.stop"])["records"]
                assert [each["who"] for each in records] == [
                    {"http": "http one", "token": "http.token"},
                    {"http": "http two", "token": "http.token"},
                ], "refusals of one client do not hide those of another"
                headers["Authorization"] = "Bearer x"
                async with http.post(url, json=body, headers=headers) as answer:
                    assert answer.status == 401

        uvloop.run(test())


def test_who_does_not_want_http_does_not_pay_for_it() -> None:
    code = "import sys, corral.supervisor.__main__; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.call([sys.executable, "-P", "-c", code], timeout=BOUND_S) == 0


def test_a_daemon_does_not_start_where_others_could_reach_it(tmp_path: Path) -> None:
    config = tmp_path / "corral.toml"
    config.write_text('[daemon]\nhttp = "0.0.0.0:0"\n')
    options = [f"--{name}={tmp_path / name}" for name in ("socket", "state-dir")]
    command = [str(BIN / "corrald"), f"--config={config}", *options]
    for check in ([], ["--check"]):
        ended = subprocess.run([*command, *check], capture_output=True, timeout=BOUND_S, check=False)
        assert ended.returncode == 2
        assert b"0.0.0.0:0" in ended.stderr
    assert not (tmp_path / "state-dir").exists()
