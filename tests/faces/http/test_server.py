"""The server on real sockets, with faces of a test: time limits, errors, prefixes, and TLS."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol

from corral.supervisor.faces.http.answers import Bodies, Refused, answer, read_body
from corral.supervisor.faces.http.face import ANONYMOUS, Access, HttpClient
from corral.supervisor.faces.http.server import HttpServer
from corral.worker.contract.errors import CLASSES, Conflict, InvalidParams, Overloaded, PermissionDenied

pytestmark = pytest.mark.shell

BOUND_S = 60.0

Serve = Callable[[web.BaseRequest, HttpClient], Coroutine[Any, Any, web.StreamResponse]]


class FakeFace:
    """A face that is a function."""

    def __init__(self, prefix: str, answer: Serve, *, is_open: bool = False) -> None:
        self.prefix = prefix
        self.open = is_open
        self._answer = answer
        self.is_closed = False

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        return await self._answer(request, client)

    async def close(self) -> None:
        self.is_closed = True


def authenticate(sent: str | None) -> HttpClient:
    if sent != "secret":
        raise PermissionDenied("cannot serve the request")
    return HttpClient("test", "operate")


@contextlib.asynccontextmanager
async def served(*faces: FakeFace, **options: Any) -> AsyncGenerator[tuple[HttpServer, str], None]:
    server = HttpServer(faces, Access(authenticate), **options)
    address = await server.open("127.0.0.1", 0)
    try:
        yield server, address
    finally:
        await server.close()
        assert all(face.is_closed for face in faces)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test()

    uvloop.run(bounded())


async def get(address: str, path: str, token: str = "secret") -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"http://{address}{path}") as found:
        return found.status, await found.json(), found.headers


def names(prefix: str, *, is_open: bool = False) -> FakeFace:
    async def serve(request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        return answer([prefix, client.name])

    return FakeFace(prefix, serve, is_open=is_open)


def test_the_longest_prefix_decides_and_ends_with_a_segment() -> None:
    async def test() -> None:
        faces = (names("/a"), names("/a/b"), names("/c", is_open=True))
        async with served(*faces) as (_, address):
            assert (await get(address, "/a"))[:2] == (200, ["/a", "test"])
            assert (await get(address, "/a/bc"))[:2] == (200, ["/a", "test"])
            assert (await get(address, "/a/b/c?x=/c"))[:2] == (200, ["/a/b", "test"])
            assert (await get(address, "/ab"))[0] == 404
            assert (await get(address, "/c/d"))[:2] == (200, ["/c", "test"])
            assert (await get(address, "/c/d", "wrong"))[:2] == (200, ["/c", ANONYMOUS.name])
            status, body, headers = await get(address, "/a", "wrong")
            assert (status, body["error"]["name"]) == (401, "PermissionDenied")
            assert headers["WWW-Authenticate"] == 'Bearer realm="corral"'
            assert (await get(address, "/unknown", "wrong"))[0] == 401

    run(test)


STATUS = {
    "ParseError": 400,
    "InvalidRequest": 400,
    "MethodNotFound": 404,
    "InvalidParams": 422,
    "InternalError": 500,
    "NotFound": 404,
    "Conflict": 409,
    "PermissionDenied": 403,
    "Timeout": 504,
    "ResourceLimitExceeded": 429,
    "NotInitialized": 409,
    "ShuttingDown": 503,
    "Unreachable": 503,
    "SpawnFailed": 502,
    "WorkerFailed": 502,
    "Cancelled": 409,
    "Overloaded": 429,
    "ToolFailed": 502,
    "TaskFailed": 502,
    "Corrupted": 500,
}


async def raised(error: Exception) -> tuple[int, Any, Any]:
    async def serve(request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        raise error

    async with served(FakeFace("/x", serve)) as (_, address):
        return await get(address, "/x")


def test_each_class_of_errors_has_its_status_and_its_record() -> None:
    async def test() -> None:
        for cls in CLASSES.values():
            error = cls("cannot", key=1)
            status, body, _ = await raised(error)
            assert (status, body) == (STATUS[error.name], {"error": error.to_record()})

    run(test)


@pytest.mark.parametrize(
    ("error", "status", "header", "value"),
    [
        (Overloaded("cannot", retry_after_s=0.2), 429, "Retry-After", "1"),
        (Overloaded("cannot", retry_after_s=2.1), 429, "Retry-After", "3"),
        (Conflict("cannot", reason="stale"), 412, "Retry-After", None),
        (Refused(405, InvalidParams("cannot"), Allow="GET"), 405, "Allow", "GET"),
        (InvalidParams("cannot \udcff"), 422, "Allow", None),
        (RuntimeError("secret"), 500, "Allow", None),
    ],
)
def test_an_error_says_when_to_try_again_and_what_is_allowed(
    error: Exception, status: int, header: str, value: str | None
) -> None:
    async def test() -> None:
        found, body, headers = await raised(error)
        assert (found, headers.get(header)) == (status, value)
        assert "secret" not in str(body)

    run(test)


def test_a_connection_that_sends_no_whole_head_ends_in_time() -> None:
    async def test() -> None:
        async with served(names("/a"), idle_s=0.2) as (server, address):
            host, port = address.split(":")
            for beginning in (b"", b"GET /a HTTP/1.1\r\nHost: x", b"GET"):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(beginning)
                assert await reader.read() == b""
                writer.close()
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionError):  # one that drips
                while not reader.at_eof():
                    writer.write(b"G")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await reader.read()
            writer.close()
            while server.connections:
                await asyncio.sleep(0)

    run(test)


def test_a_body_that_does_not_come_in_time_is_answered() -> None:
    async def serve(request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        return answer(len(await read_body(request, within_s=0.1)))

    async def test() -> None:
        async with served(FakeFace("/x", serve)) as (_, address):
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /x HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer secret\r\n"
            writer.write(head.encode() + b"Content-Length: 9\r\n\r\n{")
            assert (await reader.readline()).split()[1] == b"408"
            assert b"Connection: close" in await reader.read()
            writer.close()

    run(test)


def test_an_answer_that_has_begun_is_broken_off_and_not_answered_again() -> None:
    async def serve(request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"one")
        raise InvalidParams("cannot go on")

    async def test() -> None:
        async with served(FakeFace("/x", serve)) as (_, address), aiohttp.ClientSession() as http:
            headers = {"Authorization": "Bearer secret"}
            async with http.get(f"http://{address}/x", headers=headers) as found:
                assert found.status == 200
                with pytest.raises(aiohttp.ClientError):
                    await found.read()

    run(test)


def test_out_of_descriptors_a_connection_waits_until_there_are_some(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with served(names("/a")) as (_, address):
            host, port = address.split(":")
            assert (await get(address, "/a"))[0] == 200  # all that is imported at first use is
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, limits[1]))
                try:
                    await loop.sock_connect(client, (host, int(port)))
                    while not caplog.records:
                        await asyncio.sleep(0)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                head = f"GET /a HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer secret\r\n\r\n"
                await loop.sock_sendall(client, head.encode())
                assert b" 200 " in await loop.sock_recv(client, 1000)

    run(test)
    assert len(caplog.records) == 1


def test_no_answer_has_the_versions_of_libraries() -> None:
    async def serve(_request: web.BaseRequest, _client: HttpClient) -> web.StreamResponse:
        return answer({})

    async def test() -> None:
        async with served(FakeFace("/a", serve)) as (_server, address):
            host, _, port = address.rpartition(":")
            for request in (
                b"GET /a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n",
                b"GET /a HTTP/1.1\r\nHost: localhost\r\n",
                b"GET / HTTP/9.9\r\nHost: localhost\r\n",
                b"nonsense\r\n",
            ):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(request + b"Connection: close\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.")
                assert b"server:" not in head
                assert b"aiohttp" not in head
                writer.close()

    run(test)


def test_the_bodies_of_all_requests_together_are_bounded() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, protocol = await loop.create_connection(lambda: BaseProtocol(loop), sock=ours)
            bodies = Bodies(100)
            first, second, third = (aiohttp.StreamReader(protocol, 2**16, loop=loop) for _ in range(3))
            first.feed_data(b"x" * 90)
            reading = asyncio.create_task(bodies.read(first, 1000))
            await asyncio.sleep(0)
            second.feed_data(b"y" * 20)
            with pytest.raises(Refused) as refused:
                await bodies.read(second, 1000)
            assert (refused.value.status, refused.value.error.data["limit"]) == (503, "messages")
            first.feed_eof()
            assert await reading == b"x" * 90
            third.feed_data(b"z" * 100)
            third.feed_eof()
            assert await bodies.read(third, 1000) == b"z" * 100
            transport.close()

    run(scene)
