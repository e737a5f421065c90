"""Speaks the protocols of running programs: corral's own, MCP, or none at all.

A Line shakes hands, asks the program to end in the words of its protocol, and reads its last words. It
knows the pipes of one incarnation; of the worker it knows the spec and what Hooks hands it.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.protocol.messages import Era
from corral.mcp.upstream.session import Listener, Session, SessionHandover, Terms
from corral.supervisor.config.spec.probe_spec import WORKER_RECOVERY, Check, Readiness
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.logs.capture import LogStream, StreamHandover
from corral.worker.contract.channel import NO_NOTES, Channel, ChannelHandover, Notes
from corral.worker.contract.errors import CorralError, InvalidParams
from corral.worker.contract.jsonrpc import Foreign, Id, Notification, Peer, Request
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.read_turns import ReadTurns
from corral.worker.contract.worker_messages import PROTOCOL_VERSION, HealthOffer, Hello

from ..process.launcher_client import Child
from .probes import Finding

DRAIN_S = 1.0
"""Seconds that the pipes of a dead process are still read: a grandchild may hold them open."""


class Log(Protocol):
    """Receives the lines that are no messages."""

    def __call__(self, text: bytes, *, ended: bool = True, cut_bytes: int = 0) -> None:
        """Takes a line or a piece of it, `ended` with its last one; so much as `cut_bytes` of it comes never."""
        ...


class Hooks(Protocol):
    """Connects a line with the worker that it is for.

    `generation` is the daemon's, which marks request ids; `era_hint` is the era of MCP that its last life spoke.
    """

    incarnation: int
    log: Log
    printed: LogStream
    """The stream of what is no message."""

    @property
    def name(self) -> str:
        """Returns the worker's id."""
        ...

    @property
    def generation(self) -> int:
        """Returns the number of the daemon's start."""
        ...

    @property
    def turns(self) -> ReadTurns:
        """Returns the turns that the lines of all workers take."""
        ...

    @property
    def era_hint(self) -> Era | None:
        """Returns the era that the server spoke last; None: it is to be found out."""
        ...

    def initial(self) -> Mapping[str, object]:
        """Returns further params of `initialize`."""
        ...

    def serve(self, request: Request) -> Awaitable[object]:
        """Answers a request of the worker."""
        ...

    def receive(self, notification: Notification) -> None:
        """Takes a notification of the worker."""
        ...

    def catalogue_changed(self, catalogue: Catalogue) -> None:
        """Takes a catalogue that differs from the one before."""
        ...

    def resource_updated(self, uri: str) -> None:
        """Takes the URI of a resource that has changed."""
        ...

    async def probe(self, ready: Readiness) -> Finding:
        """Returns whether a program without a protocol is ready."""
        ...

    async def token(self, wish: Mapping[str, object]) -> object:
        """Answers a request for an access token, see `mcp.upstream.http_token`."""
        ...


class LineHandover(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: stdout and stdin of the worker, the connection, and what it announced.

    `rest` is of what it prints that is no message, `session` of an MCP server, and `begun` is noted of its requests.
    """

    fds: tuple[int, int]
    channel: ChannelHandover
    announced: tuple[str, ...]
    checks: tuple[Check, ...]
    rest: StreamHandover
    session: SessionHandover | None = None
    begun: Notes = NO_NOTES


class Line(Protocol):
    """Speaks the protocol with one incarnation."""

    @property
    def last_message_at(self) -> float:
        """Returns the time of the last valid message of the program, on the loop's clock."""
        ...

    async def open(self, child: Child) -> None:
        """Shakes hands; returns when the program is ready."""
        ...

    def configure(self, spec: Spec) -> None:
        """Adopts a changed spec, as far as the running program can."""
        ...

    def ask(self, grace_s: float) -> bool:
        """Requests the end of the program; returns False if the protocol has no message for it, or the program reads none."""
        ...

    @property
    def has_to_finish(self) -> bool:
        """Returns True if `finish` may have work."""
        ...

    async def finish(self, error: CorralError) -> None:
        """Handles the death of the process: reads the rest for DRAIN_S, ends requests in flight with `error`."""
        ...


CARRIED = "task/run"
"""The method whose requests in flight go on with the next program."""


ANEW = frozenset({"tools/list", "task/parts", "task/ask", "task/cancel", "step/list", "memory/get", "memory/search"})
"""Requests of a worker that another program of the daemon serves anew: they change nothing, or nothing more the second time."""


UNSETTLED = "unsettled"
"""Key of what is noted of a request: number of beginnings of which it is not known yet what they have begun."""


def goes_on(request: Request, begun: Mapping[str, object] | None) -> bool:
    """Returns whether another program may serve a request of a worker anew; `begun` is noted of it."""
    if request.method in ANEW or (request.method == "task/delegate" and request.params.get("idempotency_key")):
        return True  # a task with the same key is found again
    return begun is not None and not begun.get(UNSETTLED)


class CorralLine:
    """Speaks the worker protocol on the pipes of an agent's worker."""

    has_to_finish = True

    def __init__(self, spec: Spec, hooks: Hooks) -> None:
        self.channel: Channel | None = None
        self.announced: tuple[str, ...] = ()
        self.checks: tuple[Check, ...] = ()
        self.answers: Mapping[Id, asyncio.Future[object]] = {}
        """Those to requests of the program before."""
        self._is_first = True  # of what is no message
        self._last_message_at = 0.0
        self._spec = spec
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()

    @property
    def last_message_at(self) -> float:
        """Returns the time of the last valid message."""
        return self._last_message_at

    async def open(self, child: Child) -> None:
        """Sends `initialize` and checks the answer; see Line.open."""
        assert child.stdin_fd is not None, "a worker that speaks has a stdin"
        assert child.stdout_fd is not None, "a worker that speaks has a stdout"
        await self._connect(child.stdout_fd, child.stdin_fd)
        assert self.channel is not None, "it is connected"
        hooks = self._hooks
        spec = self._spec
        params: dict[str, object] = {
            "protocolVersion": PROTOCOL_VERSION,
            "agent": spec.name,
            "worker": hooks.name,
            "incarnation": hooks.incarnation,
            **_settings(spec),
            "config": spec.config,
            **hooks.initial(),
        }
        answer = await self.channel.request("initialize", params, timeout_s=None)
        try:
            hello = msgspec.convert(answer, Hello)
        except msgspec.ValidationError as error:
            fault = misfit_of(error, answer, Hello).words
            raise InvalidParams(f"cannot read its answer to initialize: {fault}") from error
        if hello.protocolVersion != PROTOCOL_VERSION:
            raise InvalidParams(
                f'cannot speak protocol version "{hello.protocolVersion}" with it: "{PROTOCOL_VERSION}" is the only one'
            )
        self.announced = tuple(hello.capabilities)
        self.checks = tuple(map(_check_of, hello.health))

    async def _connect(self, stdout_fd: int, stdin_fd: int, *, is_held: bool = False) -> None:
        hooks = self._hooks
        self.channel = Channel(
            Peer(str(hooks.generation), log_foreign=True),
            name=f'worker "{hooks.name}"',
            on_request=hooks.serve,
            on_notification=hooks.receive,
            on_foreign=self._log,
            on_message=self._note,
            turns=hooks.turns,
        )
        if is_held:
            self.channel.hold()
        await self.channel.open_pipes(stdout_fd, stdin_fd)

    # -- from one program of the daemon to the next

    @property
    def obstacle(self) -> str:
        """Returns a request, in words, that no other program can go on with; empty where there is none."""
        name, channel = self._hooks.name, self.channel
        if channel is None or channel.is_closed:
            return f'worker "{name}" is ending'
        if not channel.is_drained:
            return f'worker "{name}" does not read'
        notes = channel.notes
        methods = [request.method for request in channel.requests if not goes_on(request, notes.get(request.id))]
        methods += [method for method in channel.peer.asked if method != CARRIED]
        return f'"{methods[0]}" of worker "{name}" is under way' if methods else ""

    def hand_over(self, child: Child) -> LineHandover | None:
        """Returns what the next program goes on from; None before it is connected."""
        if self.channel is None or child.stdout_fd is None or child.stdin_fd is None:
            return None
        fds, rest = (child.stdout_fd, child.stdin_fd), self._hooks.printed.hand_over()
        return LineHandover(
            fds=fds,
            channel=self.channel.hand_over(),
            announced=self.announced,
            checks=self.checks,
            rest=rest,
            begun=self.channel.notes,
        )

    async def take_up(self, left: LineHandover) -> None:
        """Goes on from what the program before has left; reads nothing before the channel is released."""
        self._hooks.printed.take_up(left.rest)
        self.announced, self.checks, self._is_first = left.announced, left.checks, False
        await self._connect(*left.fds, is_held=True)
        assert self.channel is not None, "it is connected"
        self.answers = self.channel.take_up(left.channel, left.begun)

    def hold(self) -> None:
        """Reads no more messages, until `release`."""
        if self.channel is not None:
            self.channel.hold()

    def leave(self) -> None:
        """Writes nothing more: the next program does."""
        if self.channel is not None:
            self.channel.leave()

    def release(self) -> None:
        """Reads messages again."""
        if self.channel is not None:
            self.channel.release()

    def configure(self, spec: Spec) -> None:
        """Sends the limits and the interval of heartbeats, if they differ from those that the worker knows."""
        before, self._spec = self._spec, spec
        if self.channel is not None and not self.channel.is_closed and _settings(before) != _settings(spec):
            self.channel.notify("configure", _settings(spec))

    def _note(self) -> None:
        self._last_message_at = self._loop.time()

    def _log(self, foreign: Foreign) -> None:
        is_first, self._is_first = self._is_first, False
        if is_first and not self._last_message_at and not (foreign.line or foreign.cut_bytes):
            return  # the SDK ends an incomplete beginning with it (`runtime.run`), which may be absent
        self._hooks.log(foreign.line, ended=foreign.ended, cut_bytes=foreign.cut_bytes)

    def ask(self, grace_s: float) -> bool:
        """Sends `shutdown`."""
        if self.channel is None or self.channel.is_closed:
            return False
        self.channel.notify("shutdown", {"grace_s": grace_s})
        return True

    async def finish(self, error: CorralError) -> None:
        """Reads what is left, for DRAIN_S."""
        if self.channel is not None:
            with contextlib.suppress(TimeoutError):  # something holds the pipe: it is not waited for
                async with asyncio.timeout(DRAIN_S):
                    await self.channel.wait_closed()
            self.channel.close(error)


def _settings(spec: Spec) -> dict[str, object]:
    """Returns the part of a spec that `initialize` tells a worker, and `configure` again after a change."""
    return {
        "heartbeat_interval_s": spec.monitoring.heartbeat_interval,
        "limits": msgspec.structs.asdict(spec.resources),
    }


def _check_of(offer: HealthOffer) -> Check:
    """Returns the health check that a worker has announced."""
    return Check(
        name=offer.name,
        way="worker",
        interval=offer.interval_s,
        timeout=offer.timeout_s,
        threshold=offer.threshold,
        recovery=WORKER_RECOVERY if offer.recovers else "none",
    )


class McpLine:
    """Speaks MCP on the pipes of a tool server."""

    has_to_finish = True

    def __init__(self, spec: Spec, hooks: Hooks) -> None:
        self._spec = spec
        self._hooks = hooks
        self._opened = False
        settings = spec.mcp
        terms = Terms(
            settings.request_timeout,
            settings.max_request_timeout,
            settings.protocol_version,
            hooks.era_hint,
            settings.probe_timeout,
            frozenset(spec.relays),
        )
        authorize = hooks.token if spec.asks_tokens else None
        listener = Listener(self._log, hooks.catalogue_changed, hooks.resource_updated, hooks.receive, authorize)
        self.session = Session(spec.name, terms, listener, hooks.turns)

    def _log(self, foreign: Foreign) -> None:
        self._hooks.log(foreign.line, ended=foreign.ended, cut_bytes=foreign.cut_bytes)

    @property
    def last_message_at(self) -> float:
        """Returns the time of the last valid message."""
        return self.session.liveness.last_message_at

    # -- from one program of the daemon to the next

    @property
    def obstacle(self) -> str:
        """Returns what is under way that no other program can go on with; empty where there is nothing."""
        return self.session.obstacle

    def hand_over(self, child: Child) -> LineHandover | None:
        """Returns what the next program goes on from; None before it is open."""
        if not self.session.is_open or child.stdout_fd is None or child.stdin_fd is None:
            return None
        session, channel = self.session.hand_over()
        fds, rest = (child.stdout_fd, child.stdin_fd), self._hooks.printed.hand_over()
        return LineHandover(fds=fds, channel=channel, announced=(), checks=(), rest=rest, session=session)

    async def take_up(self, left: LineHandover) -> None:
        """Goes on from what the program before has left; reads nothing before `release`."""
        assert left.session is not None, "it was an MCP server"
        self._opened = True
        self._hooks.printed.take_up(left.rest)
        await self.session.take_up(left.session, left.channel, *left.fds)

    def hold(self) -> None:
        """Reads no more messages, until `release`."""
        self.session.hold()

    def leave(self) -> None:
        """Writes nothing more: the next program does."""
        self.session.leave()

    def release(self) -> None:
        """Reads messages again."""
        self.session.release()

    def configure(self, spec: Spec) -> None:
        """Adopts the timeouts of requests."""
        self.session.limit(spec.mcp.request_timeout, spec.mcp.max_request_timeout)

    async def open(self, child: Child) -> None:
        """Agrees on an era and lists the tools; see Line.open."""
        assert child.stdin_fd is not None, "a server that speaks has a stdin"
        assert child.stdout_fd is not None, "a server that speaks has a stdout"
        self._opened = True
        timeout_s = self._spec.process.spawn_timeout + DRAIN_S  # the lifecycle's deadline comes first
        await self.session.open(child.stdout_fd, child.stdin_fd, timeout_s=timeout_s)

    def ask(self, grace_s: float) -> bool:
        """Closes the server's stdin (MCP, lifecycle, shutdown on stdio)."""
        if not self._opened:
            return False
        self.session.close_input()
        return True

    async def finish(self, error: CorralError) -> None:
        """Reads what is left, for DRAIN_S."""
        if self._opened:
            with contextlib.suppress(TimeoutError):  # something holds the pipe: it is not waited for
                async with asyncio.timeout(DRAIN_S):
                    await self.session.wait_closed()
            self.session.close()


class StillLine:
    """A program that speaks no protocol, and is not asked either: one for all, since there may be thousands."""

    last_message_at = 0.0
    has_to_finish = False

    async def open(self, child: Child) -> None:
        """Returns at once: the program is ready after some seconds of life."""

    def configure(self, spec: Spec) -> None:
        """Ignores the call: there is no protocol."""

    def ask(self, grace_s: float) -> bool:
        """Ignores the call: there is no protocol."""
        return False

    async def finish(self, error: CorralError) -> None:
        """Ignores the call: there are no requests."""


class SilentLine:
    """A program that speaks no protocol, and is asked whether it is ready."""

    last_message_at = 0.0

    def __init__(self, spec: Spec, hooks: Hooks) -> None:
        self._ready = spec.ready
        self._probe = hooks.probe
        self._opening: asyncio.Task[None] | None = None
        self._watch: LogWatch | None = None
        if spec.ready is not None and spec.ready.way == "log":
            self._watch = LogWatch(spec.ready.target[0])

    def tap(self) -> Callable[[bytes], None] | None:
        """Returns a function that takes the bytes of one stream, where a line of it makes the program Ready."""
        return None if self._watch is None else self._watch.reader()

    async def open(self, child: Child) -> None:
        """Returns when the program is ready by `ready` of its spec; the lifecycle bounds how long that takes."""
        self._opening = asyncio.current_task()
        if self._watch is not None:
            await self._watch.found.wait()
        elif self._ready is not None:
            while not (await self._probe(self._ready)).is_good:
                await asyncio.sleep(self._ready.interval)

    def configure(self, spec: Spec) -> None:
        """Ignores the call: there is no protocol."""

    def ask(self, grace_s: float) -> bool:
        """Ignores the call: there is no protocol."""
        return False

    @property
    def has_to_finish(self) -> bool:
        """Returns True if its readiness may be awaited."""
        return self._opening is not None

    async def finish(self, error: CorralError) -> None:
        """Ends the wait for readiness, if it goes on."""
        if self._opening is not None:
            self._opening.cancel()


WATCHED_BYTES = 1024
"""Bytes of each line that are searched, so that a long line costs little with any pattern."""

_TOO_LONG = re.compile(rb"([^\n]{%d})[^\n]+" % WATCHED_BYTES)


class LogWatch:
    """Waits for a line that a pattern matches, on any of several streams, however they are cut into reads."""

    def __init__(self, pattern: str) -> None:
        self.found = asyncio.Event()
        self._pattern = re.compile(pattern.encode("utf-8"), re.MULTILINE)

    def reader(self) -> Callable[[bytes], None]:
        """Returns the receiver of the bytes of one stream."""
        rest = b""  # the beginning of a line

        def read(chunk: bytes) -> None:
            nonlocal rest
            if self.found.is_set():
                return
            lines, newline, rest_of_chunk = chunk.rpartition(b"\n")
            if not newline:
                rest = (rest + chunk)[: WATCHED_BYTES + 1]
                return
            if self._pattern.search(_TOO_LONG.sub(rb"\1", rest + lines)):
                self.found.set()
            rest = rest_of_chunk[: WATCHED_BYTES + 1]

        return read


_STILL = StillLine()
_LINES: dict[str, Callable[[Spec, Hooks], Line]] = {"corral": CorralLine, "mcp": McpLine, "none": SilentLine}


def line_of(spec: Spec, hooks: Hooks) -> Line:
    """Creates the line for a new incarnation, by the protocol of the spec."""
    if spec.protocol == "none" and spec.ready is None:
        return _STILL
    return _LINES[spec.speaks](spec, hooks)
