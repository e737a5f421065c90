"""One shared pool of MCP servers: who may call which tool, in which order, and how often it is tried.

The pool decides; a `Backend` keeps the process. Calls to a server run in the order of their arrival, one
at a time, for many servers lose writes when calls overlap; tools marked `readOnlyHint` overlap each other,
and `concurrency` in the configuration has the last word. Waiting is bounded in number and in time.
What it decides without awaiting stands at the end as plain functions.
"""

import asyncio
import difflib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, Protocol

import msgspec

from ..worker.errors import (
    Conflict,
    CorralError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Timeout,
    ToolFailed,
)
from .messages import Progress, Tool, exposed_names
from .session import Session

Concurrency = Literal["auto", "serial", "parallel"]

MAX_WAITING = 1_000
"""Calls that wait for their turn at one server."""

UNSENT_RETRIES = 2
"""How often a server that died before it was sent the call is started anew for it."""

MAX_NEAR = 3
"""Names suggested for one that does not exist."""


class Backend(Protocol):
    """A configured server, running or not, as the pool sees it."""

    @property
    def name(self) -> str:
        """The server's, the first part of its tools' exposed names."""
        ...

    @property
    def concurrency(self) -> Concurrency:
        """What the configuration says about overlapping calls."""
        ...

    @property
    def request_timeout_s(self) -> float:
        """For calls that bring no timeout."""
        ...

    @property
    def max_retries(self) -> int:
        """How often a call that is safe to repeat is repeated when the server dies."""
        ...

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the server listed last, also while it is stopped; empty when it never did."""
        ...

    async def acquire(self) -> Session:
        """A session with `is_open`; starts the server if need be and waits until it is ready.

        Bounded by the backend itself (spawn timeout, restart limit). Concurrent callers share one start.
        """
        ...


class Stats(msgspec.Struct, frozen=True):
    """What the pool did for one server since it was added."""

    calls: int = 0
    failures: int = 0
    """Calls that ended in an error of ours or with `isError`."""
    retries: int = 0
    in_flight: int = 0
    waiting: int = 0


class _Entry:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.gate = Gate(backend.name)
        self.calls = 0
        self.failures = 0
        self.retries = 0
        self.in_flight = 0
        self._listed: tuple[Tool, ...] = ()
        self._exposed: dict[str, Tool] = {}

    @property
    def exposed(self) -> dict[str, Tool]:
        """The tools by exposed name, computed once per listing."""
        if self.backend.tools is not self._listed:
            self._listed = self.backend.tools
            self._exposed = exposed_names(self.backend.name, self._listed)
        return self._exposed


class Pool:
    """The servers that are shared.

    Args:
        on_flight: called with a server's name and its number of calls in flight whenever that changes;
            a server with none is idle.
    """

    def __init__(self, *, on_flight: Callable[[str, int], None] | None = None) -> None:
        self._entries: dict[str, _Entry] = {}
        self._on_flight = on_flight

    def add(self, backend: Backend) -> None:
        """Adds a server.

        Raises:
            Conflict: the name is taken.
        """
        if backend.name in self._entries:
            raise Conflict(f'cannot add MCP server "{backend.name}": the name is taken')
        self._entries[backend.name] = _Entry(backend)

    def remove(self, name: str) -> None:
        """Removes a server; calls that are under way end by themselves.

        Raises:
            NotFound: there is none of this name.
        """
        self._entry(name)
        del self._entries[name]

    def names(self) -> list[str]:
        """The servers, sorted."""
        return sorted(self._entries)

    def stats(self, name: str) -> Stats:
        """What was done for a server so far.

        Raises:
            NotFound: there is none of this name.
        """
        entry = self._entry(name)
        return Stats(
            entry.calls, entry.failures, entry.retries, entry.in_flight, entry.gate.waiting
        )

    def tools(self, allowed: Sequence[str] | None = None) -> list[dict[str, object]]:
        """The records of the tools that are known and allowed, sorted by exposed name; starts nothing.

        Args:
            allowed: patterns as in `fnmatch` on exposed names; None allows all, an empty list none.
        """
        return [
            tool_record(exposed, server, tool)
            for exposed, (server, tool) in sorted(self._catalogue().items())
            if is_allowed(exposed, allowed)
        ]

    async def list_servers(self, names: Sequence[str] | None = None) -> dict[str, CorralError]:
        """Starts the servers that have never listed their tools, so that `tools` knows them.

        Returns the errors of those that could not be started, by name.
        """
        wanted = [
            self._entries[name]
            for name in (self._entries if names is None else names)
            if name in self._entries and not self._entries[name].backend.tools
        ]
        failures: dict[str, CorralError] = {}

        async def start(entry: _Entry) -> None:
            try:
                await entry.backend.acquire()
            except CorralError as error:
                failures[entry.backend.name] = error

        async with asyncio.TaskGroup() as group:
            for entry in wanted:
                group.create_task(start(entry))
        return failures

    async def resolve(
        self, name: str, allowed: Sequence[str] | None = None
    ) -> tuple[Backend, Tool]:
        """The server and the tool that a name means; a server that never listed its tools is started.

        Args:
            name: an exposed name, or a tool's own name where only one server has it.
            allowed: as for `tools`.

        Raises:
            NotFound: nothing has this name; `data["near"]` has those that look like it.
            Conflict: several servers have it; `data["candidates"]` has the exposed names.
            PermissionDenied: it is not allowed.
            CorralError: the server that the name begins with cannot be started.
        """
        server, separator, _ = name.partition("__")
        entry = self._entries.get(server) if separator else None
        if entry is not None:
            if not is_allowed(name, allowed):
                raise _not_allowed(name)
            if not entry.backend.tools:
                await entry.backend.acquire()
            known = entry.exposed.get(name)
            if known is not None:
                return entry.backend, known
        elif name not in self._catalogue():
            await (
                self.list_servers()
            )  # one that cannot be started has no say in what the name means
        catalogue = self._catalogue()
        exposed = choose(name, catalogue, allowed)
        server, tool = catalogue[exposed]
        return self._entries[server].backend, tool

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        allowed: Sequence[str] | None = None,
        timeout_s: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, object]:
        """MCP's result object of one call.

        Args:
            name: as for `resolve`.
            arguments: for the tool.
            allowed: as for `tools`.
            timeout_s: for everything, the start of the server and the wait for its turn included.
                When absent, the server's request timeout bounds the wait and the call, and a start
                has its own bounds.
            on_progress: called with the server's progress.

        Raises:
            NotFound, Conflict, PermissionDenied: as for `resolve`.
            InvalidParams, ToolFailed, ResourceLimitExceeded: as for `Session.call_tool`.
            Timeout: it took too long; the server was told to stop.
            Overloaded: too many calls wait for this server.
            CorralError: the server could not be started.
        """
        loop = asyncio.get_running_loop()
        limit_s = timeout_s
        try:
            async with asyncio.timeout(timeout_s) as clock:
                backend, tool = await self.resolve(name, allowed)
                entry = self._entry(backend.name)
                if limit_s is None:
                    await backend.acquire()
                    limit_s = backend.request_timeout_s
                    clock.reschedule(loop.time() + limit_s)
                with self._counted(entry) as outcome:
                    deadline = clock.when()
                    assert deadline is not None, "every call has a deadline by now"
                    result = await self._call(entry, tool, arguments, deadline, on_progress)
                    outcome.is_failure = result.get("isError") is True
                    return result
        except TimeoutError as error:
            assert limit_s is not None, "without a limit nothing of ours times out"
            text = f'cannot wait for "{name}" longer than {limit_s:g} s'
            raise Timeout(text, tool=name, timeout_s=limit_s) from error

    async def _call(
        self,
        entry: _Entry,
        tool: Tool,
        arguments: Mapping[str, object],
        deadline: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        backend = entry.backend
        attempt = 0
        async with entry.gate.hold(shared=may_overlap(tool, backend.concurrency)):
            while True:
                session = await backend.acquire()
                try:
                    return await session.call_tool(
                        tool.name,
                        arguments,
                        timeout_s=max(0.0, deadline - loop.time()),
                        on_progress=on_progress,
                    )
                except ToolFailed as error:
                    attempt += 1
                    if not may_retry(tool, error, attempt, backend.max_retries):
                        raise
                    entry.retries += 1

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            near = difflib.get_close_matches(name, self._entries, MAX_NEAR)
            raise NotFound(f'cannot find MCP server "{name}"', server=name, near=near)
        return entry

    def _catalogue(self) -> dict[str, tuple[str, Tool]]:
        """All known tools by exposed name; of two servers with the same (cut off) name the first counts."""
        found: dict[str, tuple[str, Tool]] = {}
        for server, entry in self._entries.items():
            for exposed, tool in entry.exposed.items():
                found.setdefault(exposed, (server, tool))
        return found

    def _counted(self, entry: _Entry) -> "_Counted":
        return _Counted(entry, self._on_flight)


class _Counted:
    """Counts one call while it waits and runs, and how it ended."""

    def __init__(self, entry: _Entry, on_flight: Callable[[str, int], None] | None) -> None:
        self._entry = entry
        self._on_flight = on_flight
        self.is_failure = True

    def __enter__(self) -> "_Counted":
        self._entry.calls += 1
        self._change(+1)
        return self

    def __exit__(self, *_: object) -> None:
        self._entry.failures += self.is_failure
        self._change(-1)

    def _change(self, step: int) -> None:
        self._entry.in_flight += step
        if self._on_flight is not None:
            self._on_flight(self._entry.backend.name, self._entry.in_flight)


class _Turn(NamedTuple):
    ready: asyncio.Future[None]
    shared: bool


class Gate:
    """Whose turn it is at one server: either several that share, or one alone, in order of arrival.

    Nobody overtakes: a writer that waits holds back the readers that came after it.
    """

    def __init__(self, name: str, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._queue: deque[_Turn] = deque()
        self._sharing = 0
        self._is_exclusive = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    @asynccontextmanager
    async def hold(self, *, shared: bool) -> AsyncGenerator[None, None]:
        """Waits for a turn and keeps it for the block.

        Raises:
            Overloaded: too many wait already.
        """
        if self._queue or not self._is_free(shared):
            await self._wait(shared)
        else:
            self._take(shared)
        try:
            yield
        finally:
            self._give_back(shared)

    async def _wait(self, shared: bool) -> None:
        if len(self._queue) >= self._max_waiting:
            text = f'cannot queue a call of MCP server "{self._name}": {self._max_waiting} wait already'
            raise Overloaded(
                text, server=self._name, limit="queue", value=self._max_waiting, retry_after_s=1
            )
        turn = _Turn(asyncio.get_running_loop().create_future(), shared)
        self._queue.append(turn)
        try:
            await turn.ready
        except asyncio.CancelledError:
            if turn.ready.done() and not turn.ready.cancelled():
                self._give_back(shared)  # the turn came in the same instant
            else:
                with suppress(ValueError):  # its turn may have been passed over already
                    self._queue.remove(turn)
                self._admit()  # those behind may share with whoever is in
            raise

    def _is_free(self, shared: bool) -> bool:
        return not self._is_exclusive and (shared or self._sharing == 0)

    def _take(self, shared: bool) -> None:
        if shared:
            self._sharing += 1
        else:
            self._is_exclusive = True

    def _give_back(self, shared: bool) -> None:
        if shared:
            self._sharing -= 1
        else:
            self._is_exclusive = False
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._is_free(self._queue[0].shared):
            turn = self._queue.popleft()
            if not turn.ready.done():
                self._take(turn.shared)
                turn.ready.set_result(None)


# -- decisions


def is_allowed(exposed: str, allowed: Sequence[str] | None) -> bool:
    """Whether an allow-list admits an exposed name; None admits all, an empty list none."""
    return allowed is None or any(fnmatchcase(exposed, pattern) for pattern in allowed)


def may_overlap(tool: Tool, concurrency: Concurrency) -> bool:
    """Whether a call may run beside others that may."""
    return concurrency == "parallel" or (concurrency == "auto" and tool.is_read_only)


def may_retry(tool: Tool, error: ToolFailed, attempt: int, max_retries: int) -> bool:
    """Whether to try again after the attempt with this number, from 1, ended with `error`.

    Only a server that is gone is worth another try. If it cannot have seen the call, any call is; else
    those that are safe to repeat.
    """
    if error.data.get("lost") is not True:
        return False
    if error.data.get("sent") is False:
        return attempt <= max(UNSENT_RETRIES, max_retries)
    return tool.is_idempotent and attempt <= max_retries


def choose(
    name: str, catalogue: Mapping[str, tuple[str, Tool]], allowed: Sequence[str] | None
) -> str:
    """The exposed name that `name` means: itself, or the one tool whose own name it is.

    Raises:
        NotFound, Conflict, PermissionDenied: as for `Pool.resolve`.
    """
    if name in catalogue:
        if not is_allowed(name, allowed):
            raise _not_allowed(name)
        return name
    having = sorted(exposed for exposed, (_, tool) in catalogue.items() if tool.name == name)
    candidates = [exposed for exposed in having if is_allowed(exposed, allowed)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        text = f'cannot choose a tool "{name}": {len(candidates)} servers have one'
        raise Conflict(text, tool=name, candidates=candidates)
    if having:
        raise _not_allowed(name)
    visible = [exposed for exposed in catalogue if is_allowed(exposed, allowed)]
    raise NotFound(f'cannot find tool "{name}"', tool=name, near=near_names(name, visible))


def near_names(name: str, exposed: Sequence[str]) -> list[str]:
    """Exposed names that resemble `name`, as a whole or in their part after the server's name."""
    own = {each.partition("__")[2] or each: each for each in exposed}
    short = name.partition("__")[2] or name
    matches = [own[each] for each in difflib.get_close_matches(short, own, MAX_NEAR)]
    return list(dict.fromkeys(difflib.get_close_matches(name, exposed, MAX_NEAR) + matches))


def tool_record(exposed: str, server: str, tool: Tool) -> dict[str, object]:
    """A tool as control clients and agents see it."""
    record: dict[str, object] = {
        "name": exposed,
        "server": server,
        "tool": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "annotations": tool.annotations,
    }
    if tool.output_schema is not None:
        record["output_schema"] = tool.output_schema
    return record


def _not_allowed(name: str) -> PermissionDenied:
    return PermissionDenied(f'cannot call "{name}": it is not in the list of tools', tool=name)
