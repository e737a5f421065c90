"""How calls of one tool are timed, and the least that makes such calls: over pipes, a unix socket or HTTP.

Everybody who calls is timed by the same `measured`. `Raw` and `Http` do nothing for safety: no limits, no deadlines, no
cancellation. What they leave out is the price of a client that has it.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

TEXT = "the quick brown fox jumps over the lazy dog"

CALLERS = 64

ARGUMENTS = {"text": TEXT}

encode = msgspec.json.Encoder().encode

Call = Callable[[], Awaitable[object]]
"""One call of the tool; returns what contains its text."""


async def measured(call: Call, size: Mapping[str, int]) -> dict[str, object]:
    """Times `size["one"]` calls one after the other, and `size["many"]` by 64 callers at once.

    Returns the microseconds of each of the former, and how many of the latter there were in a second.
    """
    for _ in range(size["warm"]):
        said = await call()
        assert TEXT in str(said), said
    clock = time.perf_counter
    each_us: list[float] = []
    for _ in range(size["one"]):
        began = clock()
        await call()
        each_us.append((clock() - began) * 1e6)
    left = iter(range(size["many"]))

    async def caller() -> None:
        for _ in left:
            await call()

    began = clock()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return {"each_us": each_us, "per_s": size["many"] / (clock() - began)}


class Raw(asyncio.Protocol):
    """JSON-RPC on lines, with msgspec; `on_request` answers what the other side asks."""

    def __init__(self, on_request: Callable[[Any], Awaitable[object]] | None = None) -> None:
        self._decode = msgspec.json.Decoder().decode
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._rest = b""
        self._last_id = 0
        self._on_request = on_request
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.writer: Any = None
        self.ended = asyncio.Event()

    @classmethod
    async def over_pipes(cls, read_fd: int, write_fd: int, **options: Any) -> "Raw":
        """On two pipes, which belong to it from now on."""
        loop = asyncio.get_running_loop()
        self = cls(**options)
        self.writer, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(write_fd, "wb", 0))
        await loop.connect_read_pipe(lambda: self, os.fdopen(read_fd, "rb", 0))
        return self

    @classmethod
    async def over_socket(cls, path: str) -> "Raw":
        """On a unix socket."""
        self = cls()
        self.writer, _ = await self._loop.create_unix_connection(lambda: self, path)
        return self

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = self._decode(line)
            if "method" not in message:
                self._waiting.pop(message["id"]).set_result(message)
            elif self._on_request is not None and "id" in message:
                task = self._loop.create_task(self._serve(message))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
            elif message["method"] == "shutdown":
                self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    async def _serve(self, message: Any) -> None:
        assert self._on_request is not None, "else nothing is served"
        result = await self._on_request(message)
        said = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        self.writer.write(encode(said) + b"\n")

    async def request(self, method: str, params: object) -> Any:
        """The result."""
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = answer
        said = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.writer.write(encode(said) + b"\n")
        message = await answer
        return message["result"]

    def notify(self, method: str) -> None:
        """Tells."""
        self.writer.write(encode({"jsonrpc": "2.0", "method": method}) + b"\n")


HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}


class Http:
    """Streamable HTTP with a pool of connections that stay open; an answer is one JSON body or one event stream."""

    def __init__(self, port: int, path: str, headers: Mapping[str, str]) -> None:
        self._port = port
        self._path = path
        self._headers = dict(headers)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._last_id = 0

    async def open(self) -> None:
        """Greets the server."""
        said = await self._post("initialize", HELLO, is_request=True)
        assert "result" in said, said
        await self._post("notifications/initialized", None, is_request=False)

    async def request(self, method: str, params: object) -> Any:
        """The result."""
        return (await self._post(method, params, is_request=True))["result"]

    async def _post(self, method: str, params: object, *, is_request: bool) -> Any:
        message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        if is_request:
            self._last_id += 1
            message["id"] = self._last_id
        body = encode(message)
        head = [
            f"POST {self._path} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self._headers.items()),
        ]
        while self._idle and self._idle[-1][0].at_eof():  # closed while others had their rounds
            self._idle.pop()[1].close()
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = connection
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        found = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        text = await _body(reader, found)
        assert status in (200, 202), (status, text)
        if "mcp-session-id" in found:
            self._headers["Mcp-Session-Id"] = found["mcp-session-id"]
            self._headers["MCP-Protocol-Version"] = str(HELLO["protocolVersion"])
        if found.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append(connection)
        if not is_request:
            return None
        if found["content-type"].startswith("text/event-stream"):
            said = [line[5:] for line in text.splitlines() if line.startswith(b"data:")]
            text = next(each for each in said if b'"id"' in each)
        return msgspec.json.decode(text)


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    found = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        found += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return found
