"""Tracks the units of one parent of workers, the launcher or a zygote: spawned, signalled, exited, empty.

It guarantees that every spawned unit is reported once as exited and once as empty, even if its parent dies. It knows
the messages, but neither which process is at the other end nor whether that is trusted.
"""

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Literal, Protocol, Self, TypeVar

import msgspec

from corral.supervisor.machine.isolation.levels import Sandbox
from corral.supervisor.machine.linux import kernel
from corral.worker.contract.errors import Overloaded, SpawnFailed

from ..usage.limits import NO_OOM, Oom
from .launcher_link import PING_S, Channel, close_all

STDERR_BYTES, REASON_CHARS = 4096, 300
"""Bytes of what a sandbox has written that are looked at, and characters of them in an error."""
QUEUE_MESSAGES = 1024
"""Number of messages that a parent has not read yet, beyond which `spawn` and `signal` are refused."""

Scope = Literal["leader", "tree"]
T = TypeVar("T")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Describes a process to start: `unit` names this incarnation of the worker, and is never used again.

    `memory_bytes`, `cpu_percent` and `processes` limit the whole tree, where the unit's cgroup has that controller (see
    `Launcher.containment`); 0 is no limit.  `tenant_limits` has the same three of its tenant, for all its units together;
    None where it has no tenant.  `identity` holds uid, gid and supplementary groups of `user` and `group`;
    None leaves the lookup to the new process.  `temporary` is the path of a temporary folder made for the process alone.
    The paths and ports are those that Landlock leaves accessible; None leaves all.  `sockets` counts the listening sockets
    that it inherits as descriptors 3, 4…; its environment has LISTEN_FDS and LISTEN_FDNAMES, its parent adds LISTEN_PID.
    `container` is the folder of the container that the process leads, see `containers.files`.
    `join_cgroup` is the folder of another unit's cgroup, which it joins in place of one of its own.  `terminal` makes its stdin
    the controlling terminal of its session.
    `lease` is the token of the cluster's lease that it ends with, at the latest; 0 for none.
    With `sandbox` the command is one that runs the program inside a sandbox, and leads the unit.
    """

    unit: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    umask: int = 0o077
    nice: int = 0
    user: str | None = None
    group: str | None = None
    identity: tuple[int, int, Sequence[int]] | None = None
    no_new_privs: bool = True
    limits: Mapping[str, int] = {}
    memory_bytes: int = 0
    cpu_percent: int = 0
    processes: int = 0
    tenant_limits: tuple[int, int, int] | None = None
    temporary: str | None = None
    read_paths: Sequence[str] | None = None
    write_paths: Sequence[str] | None = None
    connect_ports: Sequence[int] | None = None
    scope_signals: bool = False
    scope_sockets: bool = False
    scope_limits: bool = False
    sockets: int = 0
    container: str | None = None
    join_cgroup: str | None = None
    terminal: bool = False
    sandbox: Sandbox | None = None
    lease: int = 0


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """Represents a running process; the descriptors are the daemon's ends of its pipes, non-blocking.

    `pid` is that of the program, also where a sandbox leads the unit; 0 if that has ended already.
    The caller has to close them. `stdin_fd` and `stdout_fd` are None where the child has no pipe there.
    """

    unit: str
    pid: int
    starttime: int
    stdin_fd: int | None
    stdout_fd: int | None
    stderr_fd: int


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """Reports the end of a unit's leader: its wait status and its resource usage.

    With `lost` its parent died, for the reason `cause`, and it was killed with it: the status is SIGKILL.
    """

    unit: str
    pid: int
    status: int
    utime_s: float = 0.0
    stime_s: float = 0.0
    maxrss_bytes: int = 0
    lost: bool = False
    cause: str = ""
    oom: Oom = NO_OOM


class UnitHandover(msgspec.Struct, frozen=True):
    """Holds what the next program has to know of a unit: its stage by name, its processes that escaped, and its cgroup."""

    key: str
    pid: int
    stage: str
    strays: tuple[int, ...] = ()
    is_killed: bool = False
    group: str | None = None


class UnitOwner(Protocol):
    """Takes the reports about a unit: the exit of its leader once and then, when no process of it is left, empty once."""

    def exited(self, report: Exit) -> None:
        """Takes the exit of the leader."""
        ...

    def emptied(self, unit: str) -> None:
        """Takes the news that no process of the unit is left."""
        ...


class Parent(Protocol):
    """Starts and signals workers: the launcher, or a zygote."""

    async def spawn(
        self, launch: Launch, owner: UnitOwner, *, pipe_stdin: bool = True, pipe_stdout: bool = True
    ) -> Child:
        """Starts a process, and returns when its program runs; `owner` gets the reports about it."""
        ...

    def signal(self, unit: str, signum: int, scope: Scope = "leader") -> None:
        """Signals the unit's leader or all of its processes; does nothing if it is gone."""
        ...

    def kill(self, unit: str) -> None:
        """Sends SIGKILL to every process of the unit until it is empty."""
        ...

    def freeze(self, unit: str) -> None:
        """Freezes every process of the unit until `thaw`; a kill or an ending signal reaches them nevertheless."""
        ...

    def thaw(self, unit: str) -> None:
        """Lets the unit run again."""
        ...

    def roots(self, unit: str) -> tuple[int, ...]:
        """Returns the processes below which all of a unit's are: its leader, and those that escaped."""
        ...

    def cgroup_of(self, unit: str) -> Path | None:
        """Returns the folder of a living unit's cgroup; None if it has none."""
        ...


class Stage(Enum):
    """Names the stages of a unit."""

    STARTING = auto()
    RUNNING = auto()
    EXITED = auto()


class Unit:
    """Represents one incarnation of one worker, as far as its parent has reported it."""

    __slots__ = ("answer", "group", "is_killed", "is_silent", "key", "owner", "pid", "stage", "strays")

    def __init__(self, key: str, owner: UnitOwner, answer: asyncio.Future[tuple[int, int]] | None) -> None:
        self.key = key
        self.owner = owner
        self.answer = answer  # None once it was taken
        self.stage = Stage.STARTING
        self.pid = 0
        self.strays: tuple[int, ...] = ()  # its processes that escaped
        self.is_killed = False
        self.is_silent = False  # its spawn was cancelled: no callback
        self.group: str | None = None  # the folder of a cgroup that was made here

    def hand_over(self) -> UnitHandover:
        """Returns what the next program has to know of it."""
        return UnitHandover(self.key, self.pid, self.stage.name, self.strays, self.is_killed, self.group)

    @classmethod
    def taken_up(cls, left: UnitHandover, owner: UnitOwner) -> Self:
        """Makes a unit from what the program before has left."""
        unit = cls(left.key, owner, None)
        unit.pid, unit.stage, unit.strays = left.pid, Stage[left.stage], left.strays
        unit.is_killed, unit.group = left.is_killed, left.group
        return unit


class Nobody:
    """Owns a unit whose agent is gone: it is killed."""

    def exited(self, _: Exit) -> None:
        """Ignores its end."""

    def emptied(self, _: str) -> None:
        """Ignores its end."""


class ParentClient:
    """Tracks the units of one parent; for use in one event loop.

    `name` stands for the parent in messages. The owner of every unit that `spawn` returned is told of its end from the
    loop: the exit once and then, when no process of the unit is left, empty once.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._units: dict[str, Unit] = {}
        self._channel: Channel | None = None
        self._seq = 0
        self._idle = asyncio.Event()  # no unit is left

    def roots(self, unit: str) -> tuple[int, ...]:
        """Returns the processes below which all of a unit's are: its leader, and those that escaped (known within 0.1 s)."""
        found = self._units.get(unit)
        if found is None:
            return ()
        return (found.pid, *found.strays) if found.stage is Stage.RUNNING else found.strays

    def signal(self, unit: str, signum: int, scope: Scope = "leader") -> None:
        """Signals the unit's leader or all of its processes; does nothing if it is gone.

        SIGTERM, SIGINT, SIGQUIT and SIGHUP to a tree also continue its stopped processes, where they would only pend.
        """
        self._ask(unit, "signal", signal=int(signum), scope=scope)

    def kill(self, unit: str) -> None:
        """Sends SIGKILL to every process of the unit until it is empty; then its owner is notified."""
        found = self._units.get(unit)
        if found is None or found.is_killed or self._channel is None:
            return
        found.is_killed = True
        self._channel.send({"op": "kill", "unit": unit})

    def freeze(self, unit: str) -> None:
        """Freezes every process of the unit until `thaw`; a kill or an ending signal reaches them nevertheless."""
        self._ask(unit, "freeze")

    def thaw(self, unit: str) -> None:
        """Lets the unit run again.  Without cgroups, processes that had stopped themselves run again too."""
        self._ask(unit, "thaw")

    # --- requests to the parent ----------------------------------------------------------------

    async def _spawn(
        self, launch: Launch, unit: Unit, *, stdin: bool | int, pipe_stdout: bool, more: Sequence[int] = ()
    ) -> Child:
        """Starts a process; `stdin` is True for a pipe, False for /dev/null, or a descriptor to pass on.

        That descriptor and `more`, which follow the three standard ones, are closed here in any case.
        """
        given = [*more] if isinstance(stdin, bool) else [stdin, *more]
        ours: list[int] = []
        try:
            channel, request = self._admitted(launch)
            try:
                theirs = _pipes(ours, stdin, pipe_stdout)
            except OSError as error:
                raise _of_pipes(launch.unit, error) from error
            given = [*theirs, *more]
        except BaseException:
            close_all([*ours, *given])
            raise
        try:
            channel.send(request, given)
        except OSError as error:
            close_all(ours)
            raise _of_pipes(launch.unit, error) from error
        return await self._spawned(unit, launch, ours, stdin, pipe_stdout)

    async def _spawn_at(self, launch: Launch, owner: UnitOwner, fds: Sequence[int]) -> int:
        """Starts a process with these three as its stdin, stdout and stderr, which are closed here in any case; returns its pid."""
        try:
            channel, request = self._admitted(launch)
        except BaseException:
            close_all(fds)
            raise
        try:
            channel.send(request, fds)
        except OSError as error:
            raise _of_pipes(launch.unit, error) from error
        pid, _starttime = await self._answered(self._unit(launch.unit, owner), launch, [])
        return pid

    def _admitted(self, launch: Launch) -> tuple[Channel, dict[str, object]]:
        """Returns the channel and the request of a start."""
        if self._channel is None:
            raise failed(launch.unit, "parent", errno.EAGAIN, f"{self._name} is gone")
        if launch.unit in self._units:
            raise failed(launch.unit, "unit", errno.EEXIST, "this unit exists already")
        if len(self._channel) >= QUEUE_MESSAGES:
            raise failed(launch.unit, "queue", errno.EAGAIN, "too many starts wait already")
        return self._channel, self._request(launch)

    def _unit(self, key: str, owner: UnitOwner) -> Unit:
        return Unit(key, owner, asyncio.get_running_loop().create_future())

    async def _spawned(
        self, unit: Unit, launch: Launch, ours: list[int], stdin: bool | int, pipe_stdout: bool
    ) -> Child:
        pid, starttime = await self._answered(unit, launch, ours)
        return Child(
            unit=launch.unit,
            pid=pid,
            starttime=starttime,
            stdin_fd=ours.pop(0) if stdin is True else None,
            stdout_fd=ours.pop(0) if pipe_stdout else None,
            stderr_fd=ours[0],
        )

    async def _answered(self, unit: Unit, launch: Launch, ours: list[int]) -> tuple[int, int]:
        """Waits until the program runs; returns pid and start time. A failure closes `ours`."""
        assert unit.answer is not None, "a unit is spawned once"
        self._units[launch.unit] = unit
        self._idle.clear()
        try:
            return await unit.answer
        except BaseException as error:
            if ours and isinstance(error, SpawnFailed) and error.data.get("stage") == "sandbox":
                _explain(error, ours[-1])
            close_all(ours)
            if isinstance(error, asyncio.CancelledError):
                unit.is_silent = True
                self.kill(launch.unit)
            raise
        finally:
            unit.answer = None  # there may be thousands that live on

    def _request(self, launch: Launch) -> dict[str, object]:
        return {
            "op": "spawn",
            "seq": self._next_seq(),
            **msgspec.structs.asdict(launch),
            "argv": list(launch.argv),
            "env": dict(launch.env),
            "limits": dict(launch.limits),
            "sandbox": None if launch.sandbox is None else msgspec.structs.asdict(launch.sandbox),
        }

    def _take_up_units(self, left: Sequence[UnitHandover], owners: Mapping[str, UnitOwner]) -> None:
        """Goes on with units that the program before has left; kills those without an owner."""
        self._units = {each.key: Unit.taken_up(each, owners.get(each.key, Nobody())) for each in left}
        for key in self._units.keys() - owners.keys():
            self.kill(key)

    @property
    def _is_starting(self) -> bool:
        """Returns whether a process is being started."""
        return any(unit.answer is not None for unit in self._units.values())

    def _ask(self, unit: str, op: str, **facts: object) -> None:
        if unit not in self._units or self._channel is None:
            return
        if len(self._channel) >= QUEUE_MESSAGES:
            text = f'cannot {op} "{unit}": {self._name} does not keep up'
            raise Overloaded(text, limit=QUEUE_MESSAGES, retry_after_s=PING_S)
        self._channel.send({"op": op, "unit": unit, **facts})

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # --- messages from the parent --------------------------------------------------------------

    def _on_spawned(self, key: str, pid: int, starttime: int, inner: int = 0) -> None:
        unit = self._units[key]
        unit.stage = Stage.RUNNING
        unit.pid = pid
        if unit.answer is not None and not unit.answer.done():
            unit.answer.set_result((inner or pid, starttime))

    def _on_failed(self, key: str, error: SpawnFailed) -> None:
        unit = self._units[key]
        if unit.answer is not None and not unit.answer.done():
            unit.answer.set_exception(error)
        unit.is_silent = True
        self._forget(key)

    def _on_exited(self, report: Exit) -> None:
        unit = self._units[report.unit]
        unit.stage = Stage.EXITED
        self._call_back(unit, unit.owner.exited, report)

    def _report_lost(self, cause: str) -> None:
        """Reports every running unit as lost with its parent; each counts as empty only after `_forget`."""
        self._channel = None
        for key, unit in self._units.items():
            if unit.answer is not None and not unit.answer.done():
                unit.answer.set_exception(failed(key, "parent", errno.EAGAIN, cause))
                unit.is_silent = True
            elif unit.stage is not Stage.EXITED:
                self._on_exited(Exit(unit=key, pid=unit.pid, status=int(signal.SIGKILL), lost=True, cause=cause))

    def _forget(self, key: str) -> None:
        unit = self._units.pop(key)
        self._call_back(unit, unit.owner.emptied, key)
        if not self._units:
            self._idle.set()

    async def _until_idle(self, limit_s: float) -> None:
        """Waits until no unit is left, at most this long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._units:
                    self._idle.clear()
                    await self._idle.wait()

    def _call_back(self, unit: Unit, callback: Callable[[T], None], fact: T) -> None:
        """Schedules a callback behind the coroutine that awaits the spawn, which knows its unit by then."""

        def call() -> None:
            if not unit.is_silent:
                callback(fact)

        asyncio.get_running_loop().call_soon(call)


def failed(unit: str, stage: str, number: int, reason: str) -> SpawnFailed:
    """Returns the error for a start that failed in the daemon, before a process existed."""
    return SpawnFailed(
        f'cannot start "{unit}": {reason[:1].lower()}{reason[1:]}',
        result="exec-failed",
        unit=unit,
        stage=stage,
        errno=number,
        retryable=number in kernel.RETRYABLE,
    )


def _explain(error: SpawnFailed, stderr_fd: int) -> None:
    """Adds the last line that a sandbox has written to the reason of a failed start."""
    with contextlib.suppress(OSError):
        text = os.read(stderr_fd, STDERR_BYTES).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            error.message = f"{error.message}: {lines[-1][:REASON_CHARS]}"
            error.args = (error.message,)


def _of_pipes(unit: str, error: OSError) -> SpawnFailed:
    return failed(unit, "pipe", error.errno or 0, str(error.strerror))


def _pipes(ours: list[int], stdin: bool | int, pipe_stdout: bool) -> list[int]:
    """Opens the child's stdin, stdout and stderr; the daemon's non-blocking ends are added to `ours`."""
    theirs: list[int] = []
    try:
        for wanted, is_input in ((stdin, True), (pipe_stdout, False), (True, False)):
            if wanted is False:
                theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
                continue
            if wanted is not True:
                theirs.append(wanted)
                continue
            reading, writing = os.pipe2(os.O_CLOEXEC)
            theirs.append(reading if is_input else writing)
            ours.append(writing if is_input else reading)
            os.set_blocking(ours[-1], False)
    except OSError:
        close_all([fd for fd in theirs if isinstance(stdin, bool) or fd != stdin])
        raise
    return theirs
