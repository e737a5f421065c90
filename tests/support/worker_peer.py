"""The daemon's side of one real worker process, for tests of whatever speaks the worker protocol.

It reads and writes the lines by itself, so that it does not share a mistake with the code under test.
Every wait is for an event and bounded by BOUND_S; nothing sleeps. What the worker says is kept in
`heard`, lines that are no messages in `foreign`, its stderr in `stderr`.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

from corral.worker.contract.errors import CorralError, MethodNotFound, from_wire

BOUND_S = 60.0
ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "tests" / "support" / "programs"
BEAT_S = 0.05

Json = dict[str, object]
Answer = Callable[[Json], object]  # may return an awaitable, or raise a CorralError


def on_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """The test on a loop of its own."""

    @wraps(test)
    def wrapper(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return wrapper


def text_result(text: str, *, is_error: bool = False) -> Json:
    """What an MCP server answers to `tools/call`."""
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


async def never(_: Json) -> object:
    """An answer that never comes."""
    return await asyncio.get_running_loop().create_future()


class Said(NamedTuple):
    """A request or notification of the worker."""

    method: str
    params: Json


class WorkerPeer:
    """`async with WorkerPeer([sys.executable, "agent.py"]) as peer`: starts it, and kills it in the end."""

    def __init__(
        self, command: Sequence[str | Path], *, cwd: Path = AGENTS, environment: Mapping[str, str] | None = None
    ) -> None:
        self.heard: list[Said] = []
        self.asked: list[Said] = []
        self.foreign: list[bytes] = []
        self.stderr = b""
        self.answers: dict[str, Answer] = {}
        self.withdrawn: list[object] = []
        self._command = [str(each) for each in command]
        self._cwd = cwd
        self._environment = {
            **os.environ,
            "CORRAL_WORKER": "tested-0#1",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._changes: set[asyncio.Event] = set()
        self._last_id = 0
        self._waiting: dict[object, asyncio.Future[Json]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._open: set[str] = set()
        self._line: list[bytes] = []

    @classmethod
    def of(cls, agent: str, *arguments: str) -> Self:
        """A worker that runs tests/support/programs/AGENT.py."""
        return cls([sys.executable, "-P", AGENTS / f"{agent}.py", *arguments])

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        stdin_read, stdin_write = os.pipe()
        stdout_read, stdout_write = os.pipe()
        stderr_read, stderr_write = os.pipe()
        self.process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._environment,
            stdin=stdin_read,
            stdout=stdout_write,
            stderr=stderr_write,
            start_new_session=True,
        )
        for fd in (stdin_read, stdout_write, stderr_write):
            os.close(fd)
        self._exit: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(self.process.pid)
        loop.add_reader(self._pidfd, self._ended)
        self._stderr = await self._read(stderr_read, _Reader(self, "stderr", self._hear_errors))
        self._stdout = await self._read(stdout_read, _Reader(self, "stdout", self._hear_output))
        self._stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(stdin_write, "wb", buffering=0))
        return self

    async def _read(self, fd: int, reader: "_Reader") -> asyncio.ReadTransport:
        file = os.fdopen(fd, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: reader, file)
        self._open.add(reader.name)
        return transport

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._exit.done():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        async with asyncio.timeout(BOUND_S):
            await self._exit
        for task in self._serving:
            task.cancel()
        if not self._stdin.is_closing():
            self._stdin.abort()
        self._stdout.close()
        self._stderr.close()
        await asyncio.sleep(0)  # transports close their files in the next turn of the loop
        await asyncio.sleep(0)
        if error is not None:
            sys.stderr.write(f"--- stderr of the worker\n{self.stderr.decode(errors='replace')}")

    # -- what it does

    def send_bytes(self, data: bytes) -> None:
        self._stdin.write(data)

    def send_line(self, line: bytes) -> None:
        self.send_bytes(line + b"\n")

    def send(self, message: Json) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def notify(self, method: str, params: Json | None = None) -> None:
        self.send({"method": method, "params": params or {}})

    def ask(self, method: str, params: Json | None = None) -> str:
        """Sends a request, and returns its id for `answer` and `cancel`."""
        self._last_id += 1
        request_id = f"7-{self._last_id}"
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        self.send({"id": request_id, "method": method, "params": params or {}})
        return request_id

    async def answer(self, request_id: str) -> object:
        """The result of a request.

        Raises:
            CorralError: what it was answered with.
        """
        async with asyncio.timeout(BOUND_S):
            message = await self._waiting[request_id]
        if message.get("error") is not None:
            raise from_wire(message["error"])
        return message["result"]

    def cancel(self, request_id: str, reason: str = "") -> None:
        self.notify("notifications/cancelled", {"requestId": request_id, "reason": reason})

    async def request(self, method: str, params: Json | None = None) -> object:
        return await self.answer(self.ask(method, params))

    async def initialize(self, **changes: object) -> Json:
        params: Json = {
            "protocolVersion": "1",
            "agent": "tested",
            "worker": "tested-0",
            "incarnation": 1,
            "heartbeat_interval_s": BEAT_S,
            "limits": {"max_concurrent_requests": 1},
            "config": {},
        }
        return cast("Json", await self.request("initialize", {**params, **changes}))

    def start(self, objective: str = "", data: object = None, **changes: object) -> str:
        """Sends a task, and returns the id of the request."""
        params: Json = {
            "task": "t-1",
            "attempt": 1,
            "objective": objective,
            "input": data,
            "context": None,
            "boundaries": {},
        }
        return self.ask("task/run", {**params, **changes})

    async def output(self, request_id: str) -> object:
        """The output of a task that was started."""
        return cast("Json", await self.answer(request_id))["output"]

    async def run(self, objective: str = "", data: object = None, **changes: object) -> object:
        """The output of a task."""
        return await self.output(self.start(objective, data, **changes))

    async def fails(self, awaitable: Awaitable[object]) -> CorralError:
        """The error with which it ends."""
        try:
            value = await awaitable
        except CorralError as error:
            return error
        raise AssertionError(f"expected an error, got {value!r}")

    def shut_down(self, grace_s: float) -> None:
        self.notify("shutdown", {"grace_s": grace_s})

    def close_stdin(self) -> None:
        """What the worker sees when the daemon dies."""
        self._stdin.close()

    async def exit_status(self) -> int:
        """Its exit status, negative for a signal, once its stdout and stderr are read to their ends."""
        async with asyncio.timeout(BOUND_S):
            status = await self._exit
        await self.until(lambda: not self._open)
        return status

    # -- what it hears

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until it is so; looked at after whatever the worker says or does."""
        changed = asyncio.Event()
        self._changes.add(changed)
        try:
            async with asyncio.timeout(BOUND_S):
                while not is_so():
                    changed.clear()
                    await changed.wait()
        finally:
            self._changes.discard(changed)

    async def hear(self, method: str, **params: object) -> Json:
        """The params of the first notification, heard or yet to come, that has at least these."""
        await self.until(lambda: bool(self.notified(method, **params)))
        return self.notified(method, **params)[0]

    async def hear_request(self, method: str) -> Json:
        """The params of the first request of that method, asked or yet to come."""
        await self.until(lambda: any(each.method == method for each in self.asked))
        return next(each.params for each in self.asked if each.method == method)

    def notified(self, method: str, **params: object) -> list[Json]:
        mine = [each.params for each in self.heard if each.method == method]
        return [each for each in mine if params.items() <= each.items()]

    def count(self, method: str) -> int:
        return sum(each.method == method for each in self.heard)

    async def hear_more(self, method: str, times: int) -> None:
        """Waits until it has said that so many more times."""
        wanted = self.count(method) + times
        await self.until(lambda: self.count(method) >= wanted)

    async def hear_stderr(self, text: str) -> None:
        await self.until(lambda: text.encode() in self.stderr)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._exit.set_result(self.process.wait())
        self.changed()

    def changed(self, closed: str = "") -> None:
        self._open.discard(closed)
        for event in self._changes:
            event.set()

    def _hear_errors(self, data: bytes) -> None:
        self.stderr += data

    def _hear_output(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._line.append(end)
            self._hear_line(b"".join(self._line))
            self._line.clear()
        self._line.append(rest)

    def _hear_line(self, line: bytes) -> None:
        if not line:
            return
        try:
            message = cast("Json", json.loads(line))
            assert message["jsonrpc"] == "2.0", line
        except (ValueError, KeyError, TypeError):
            self.foreign.append(line)
            return
        if "method" not in message:
            self._waiting[message["id"]].set_result(message)
            return
        said = Said(str(message["method"]), cast("Json", message.get("params") or {}))
        if "id" in message:
            self.asked.append(said)
            task = asyncio.get_running_loop().create_task(self._serve(message["id"], said))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        elif said.method == "notifications/cancelled":
            self.withdrawn.append(said.params["requestId"])
        else:
            self.heard.append(said)

    async def _serve(self, request_id: object, said: Said) -> None:
        answer = self.answers.get(said.method)
        try:
            if answer is None:
                raise MethodNotFound(f'cannot call "{said.method}": the test does not serve it')
            result = answer(said.params)
            if isinstance(result, Awaitable):
                result = await cast("Awaitable[object]", result)
        except CorralError as error:
            self.send({"id": request_id, "error": error.to_wire()})
        else:
            self.send({"id": request_id, "result": result})


class _Reader(asyncio.Protocol):
    """One stream of the worker."""

    def __init__(self, peer: WorkerPeer, name: str, take: Callable[[bytes], None]) -> None:
        self.name = name
        self._peer = peer
        self._take = take

    def data_received(self, data: bytes) -> None:
        self._take(data)
        self._peer.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.changed(closed=self.name)
