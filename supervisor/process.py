"""The daemon's side of the launcher: spawn, signal, kill, and the exits as they happen.

It guarantees that every unit that was spawned is reported once as exited and once as empty, even
when the launcher itself is killed or hangs: then everything that it kept is killed and reaped here,
and a new launcher takes its place.  It never blocks the loop.  It knows processes, not agents.

The messages, in both directions JSON objects over SOCK_SEQPACKET (see `packet.encode`):

    → spawn {seq, unit, argv, env, cwd, umask, nice, user, group, no_new_privs, limits} + 3 descriptors
    → signal {unit, signal, scope: leader|tree}    → kill {unit}    → ping {seq}    → list {seq}
    ← spawned {seq, unit, pid, starttime}
    ← failed {seq, unit, stage, errno, message, retryable, data}
    ← exited {unit, pid, status, rusage {utime_s, stime_s, maxrss_bytes}, left}    ← emptied {unit}
    ← pong {seq}    ← listed {seq, units: [{unit, pid, starttime, processes}], unknown: [pids]}
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, Literal, TypeVar

import msgspec

from ..worker.errors import Overloaded, ShuttingDown, SpawnFailed, Timeout
from . import kernel, orphan
from .link import PING_S, Link, close_all

SILENCE_S = 5.0
"""A launcher that says nothing for so long is replaced."""
START_S = 10.0
"""A new launcher answers within this time."""
CLOSE_S = 5.0
"""How long `close` waits for each of: the last units, the launcher's own end, the last orphan."""
QUEUE_MESSAGES = 1024
"""What the launcher has not read yet; beyond it `spawn` and `signal` are refused."""
RETRY_S = (0.1, 5.0)
"""First and last pause between two attempts to start a new launcher."""
LIST_S = 5.0

log = logging.getLogger(__name__)

Scope = Literal["leader", "tree"]
T = TypeVar("T")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: `unit` names this one life of the worker, and is never used again."""

    unit: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    umask: int = 0o077
    nice: int = 0
    user: str | None = None
    group: str | None = None
    no_new_privs: bool = True
    limits: Mapping[str, int] = {}


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A running process; the descriptors are our ends of its pipes, non-blocking, the caller's to close.

    `stdin_fd` and `stdout_fd` are None where the child has /dev/null instead of a pipe.
    """

    unit: str
    pid: int
    starttime: int
    stdin_fd: int | None
    stdout_fd: int | None
    stderr_fd: int


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a unit's leader: the wait status, and how many of its processes are left.

    `lost` says that the launcher died with it: the status is then what we did to it, SIGKILL.
    """

    unit: str
    pid: int
    status: int
    utime_s: float = 0.0
    stime_s: float = 0.0
    maxrss_bytes: int = 0
    left: int = 0
    lost: bool = False


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A unit and all of its living processes, as the launcher sees them now."""

    unit: str
    pid: int
    starttime: int
    processes: list[int]


class _Stage(Enum):
    STARTING = auto()
    RUNNING = auto()
    EXITED = auto()


class _Unit:
    def __init__(self, answer: asyncio.Future[tuple[int, int]]) -> None:
        self.answer = answer
        self.stage = _Stage.STARTING
        self.pid = 0
        self.is_killed = False
        self.is_silent = False  # its spawn was cancelled: nobody knows of it


class Launcher:
    """The launcher process and its units; for use in one event loop.

    `on_exit` and `on_empty` are called from the loop, for every unit that `spawn` returned: an exit
    once and then, when nothing of the unit is left, empty once.  `on_lost` is called when the
    launcher has died and its units have been reported; a new one starts by itself.

    A dead launcher's processes become our children.  Where other parts of this process have children
    too, only those are killed that are known to be the launcher's: by their pid, their session, their
    mark or their parents.  `sole_parent` promises that there are no others, so that all are.
    """

    def __init__(
        self,
        *,
        on_exit: Callable[[Exit], None],
        on_empty: Callable[[str], None],
        on_lost: Callable[[], None] | None = None,
        python: str = sys.executable,
        sole_parent: bool = False,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._on_exit = on_exit
        self._on_empty = on_empty
        self._on_lost = on_lost
        self._python = python
        self._sole_parent = sole_parent
        self._silence_s = silence_s
        self._units: dict[str, _Unit] = {}
        self._lists: dict[int, asyncio.Future[list[Listed]]] = {}
        self._seq = 0
        self._pid = 0
        self._link: Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()  # the launcher answers, or we are closing
        self._idle = asyncio.Event()  # no unit is left
        self._closing = asyncio.Event()

    @property
    def pid(self) -> int:
        """The pid of the launcher that runs now."""
        return self._pid

    async def start(self) -> None:
        """Start the launcher, and return when it answers.

        Raises:
            SpawnFailed: it does not; `data["retryable"]` says whether that may change.
        """
        assert self._keeper is None, "a Launcher starts once"
        orphan.become_subreaper()
        try:
            await self._begin()
        except BaseException:
            orphan.undo_subreaper()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="launcher-keeper")
        self._keeper.add_done_callback(_complain)

    async def spawn(
        self, launch: Launch, *, pipe_stdin: bool = True, pipe_stdout: bool = True
    ) -> Child:
        """Start a process, and return when its program runs: its exec has been confirmed.

        Without a pipe the child has /dev/null there.  A spawn that is cancelled leaves no process,
        and no callback follows it.

        Raises:
            SpawnFailed: `data` has the `stage` that failed, its `errno`, and `retryable`; and where a
                program is not in PATH, the `search_path`.
            ShuttingDown: the launcher is being closed.
        """
        await self._ready.wait()
        if self._closing.is_set():
            raise ShuttingDown(f'cannot start "{launch.unit}": the launcher is closing')
        assert self._link is not None, "it is there while the launcher is ready"
        if launch.unit in self._units:
            raise _failed(launch.unit, "unit", errno.EEXIST, "this unit lives already")
        if len(self._link.channel) >= QUEUE_MESSAGES:
            raise _failed(launch.unit, "queue", errno.EAGAIN, "too many starts wait already")
        request: dict[str, object] = {
            "op": "spawn",
            "seq": self._next_seq(),
            **msgspec.structs.asdict(launch),
            "argv": list(launch.argv),
            "env": dict(launch.env),
            "limits": dict(launch.limits),
        }
        unit = _Unit(asyncio.get_running_loop().create_future())
        ours: list[int] = []
        try:
            theirs = _pipes(ours, pipe_stdin, pipe_stdout)
            self._link.channel.send(request, theirs)
        except OSError as error:
            close_all(ours)
            raise _failed(launch.unit, "pipe", error.errno or 0, str(error.strerror)) from error
        self._units[launch.unit] = unit
        self._idle.clear()
        try:
            pid, starttime = await unit.answer
        except BaseException as error:
            close_all(ours)
            if isinstance(error, asyncio.CancelledError):
                unit.is_silent = True
                self.kill(launch.unit)
            raise
        stdin_fd = ours.pop(0) if pipe_stdin else None
        stdout_fd = ours.pop(0) if pipe_stdout else None
        return Child(
            unit=launch.unit,
            pid=pid,
            starttime=starttime,
            stdin_fd=stdin_fd,
            stdout_fd=stdout_fd,
            stderr_fd=ours[0],
        )

    def signal(self, unit: str, signum: int, scope: Scope = "leader") -> None:
        """Signal the unit's leader or all of its processes; nothing happens when it is gone already.

        SIGTERM, SIGINT, SIGQUIT and SIGHUP to a tree also continue what is stopped in it, since
        they would only pend there.

        Raises:
            Overloaded: the launcher has not read so many messages yet that this one is refused.
        """
        if unit not in self._units or self._link is None:
            return
        if len(self._link.channel) >= QUEUE_MESSAGES:
            text = f'cannot signal "{unit}": the launcher does not keep up'
            raise Overloaded(text, limit=QUEUE_MESSAGES, retry_after_s=PING_S)
        self._link.channel.send(
            {"op": "signal", "unit": unit, "signal": int(signum), "scope": scope}
        )

    def kill(self, unit: str) -> None:
        """SIGKILL everything of the unit until it is empty, which `on_empty` tells."""
        found = self._units.get(unit)
        if found is None or found.is_killed or self._link is None:
            return
        found.is_killed = True
        self._link.channel.send({"op": "kill", "unit": unit})

    async def listed(self) -> list[Listed]:
        """All units with their processes, as the launcher finds them now.

        Raises:
            Timeout: the launcher does not answer; it is about to be replaced.
        """
        await self._ready.wait()
        if self._link is None:
            return []
        seq = self._next_seq()
        answer: asyncio.Future[list[Listed]] = asyncio.get_running_loop().create_future()
        self._lists[seq] = answer
        self._link.channel.send({"op": "list", "seq": seq})
        try:
            async with asyncio.timeout(LIST_S):
                return await answer
        except TimeoutError:
            raise Timeout("cannot list the processes: the launcher does not answer") from None
        finally:
            del self._lists[seq]

    async def close(self) -> None:
        """Kill every unit, report it, and end the launcher; bounded, and again harmless."""
        if self._keeper is None or self._closing.is_set():
            return
        self._closing.set()
        for unit in self._units:
            self.kill(unit)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._units:
                    self._idle.clear()
                    await self._idle.wait()
        self._ready.set()
        if self._link is not None:
            self._link.hang_up()  # at the end of the file it kills what is left, and ends
        done, _ = await asyncio.wait([self._keeper], timeout=CLOSE_S)
        if not done:
            if self._link is not None:
                self._link.kill()
            await asyncio.wait([self._keeper], timeout=2 * CLOSE_S)
            self._keeper.cancel()
        orphan.undo_subreaper()

    # --- one launcher process ----------------------------------------------------------------

    async def _begin(self) -> None:
        """Start a launcher process and wait for its first answer."""
        try:
            link = Link(self._python, self._hear, self._silence_s)
        except OSError as error:
            raise _failed("launcher", "launcher", error.errno or 0, str(error.strerror)) from error
        self._link, self._pid = link, link.pid
        ended = asyncio.create_task(link.ended.wait())
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ended, ready), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            ready.cancel()
            if not self._ready.is_set() or link.ended.is_set():
                link.kill()
                link.bury()
                self._link = None
        if self._link is None:
            raise _failed("launcher", "launcher", errno.ECHILD, "it does not answer")
        link.watch()

    async def _keep(self) -> None:
        """Replace the launcher whenever it ends, until we close."""
        while True:
            assert self._link is not None, "a launcher answers before it is kept"
            await self._link.ended.wait()
            await self._mourn(self._link)
            if self._closing.is_set():
                return
            log.error("the launcher has died; its workers were killed, and a new one is started")
            if self._on_lost is not None:
                self._on_lost()
            pause_s = RETRY_S[0]
            while not self._ready.is_set():
                try:
                    await self._begin()
                except SpawnFailed as error:
                    log.error("%s; trying again in %.1f s", error, pause_s)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._closing.wait()
                            return
                    pause_s = min(2 * pause_s, RETRY_S[1])

    async def _mourn(self, link: Link) -> None:
        """Report every unit of the dead launcher as lost, and end what it left behind."""
        link.channel.read()  # what it still said is true
        self._ready.clear()
        sessions = {link.pid, *(unit.pid for unit in self._units.values() if unit.pid)}
        link.bury()
        self._link = None
        for key, unit in list(self._units.items()):
            if not unit.answer.done():
                error = _failed(key, "launcher", errno.EAGAIN, "the launcher died meanwhile")
                unit.answer.set_exception(error)
                unit.is_silent = True
            elif unit.stage is not _Stage.EXITED:
                unit.stage = _Stage.EXITED
                self._tell(unit, self._on_exit, _lost(key, unit.pid))
        family = orphan.Family(sessions, self._units, self._sole_parent)
        await family.end(self._closing.is_set)
        for key in list(self._units):
            self._forget(key)
        if self._closing.is_set():
            self._ready.set()

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # --- what the launcher says ----------------------------------------------------------------

    def _hear(self, message: Any) -> None:  # Any: JSON
        match message["op"]:
            case "pong":
                self._ready.set()
            case "spawned":
                unit = self._units[message["unit"]]
                unit.stage, unit.pid = _Stage.RUNNING, message["pid"]
                if not unit.answer.done():
                    unit.answer.set_result((message["pid"], message["starttime"]))
            case "failed":
                unit = self._units[message["unit"]]
                facts = {key: message[key] for key in ("unit", "stage", "errno", "retryable")}
                if not unit.answer.done():
                    unit.answer.set_exception(
                        SpawnFailed(
                            message["message"], result="exec-failed", **facts, **message["data"]
                        )
                    )
                unit.is_silent = True
                self._forget(message["unit"])
            case "exited":
                unit = self._units[message["unit"]]
                unit.stage = _Stage.EXITED
                facts = {key: message[key] for key in ("unit", "pid", "status", "left")}
                self._tell(unit, self._on_exit, Exit(**facts, **message["rusage"]))
            case "emptied":
                self._forget(message["unit"])
            case "listed":
                answer = self._lists.get(message["seq"])
                if answer is not None and not answer.done():
                    answer.set_result(msgspec.convert(message["units"], list[Listed]))
            case other:
                raise AssertionError(f"the launcher is of our version, yet says {other!r}")

    def _forget(self, key: str) -> None:
        self._tell(self._units.pop(key), self._on_empty, key)
        if not self._units:
            self._idle.set()

    def _tell(self, unit: _Unit, callback: Callable[[T], None], fact: T) -> None:
        """Call back after whoever awaits the spawn has run: it knows its unit by then."""

        def call() -> None:
            if not unit.is_silent:
                callback(fact)

        asyncio.get_running_loop().call_soon(call)


def _lost(unit: str, pid: int) -> Exit:
    return Exit(unit=unit, pid=pid, status=int(signal.SIGKILL), lost=True)


def _failed(unit: str, stage: str, number: int, reason: str) -> SpawnFailed:
    return SpawnFailed(
        f'cannot start "{unit}": {reason.lower()}',
        result="exec-failed",
        unit=unit,
        stage=stage,
        errno=number,
        retryable=number in kernel.RETRYABLE,
    )


def _pipes(ours: list[int], pipe_stdin: bool, pipe_stdout: bool) -> list[int]:
    """The child's stdin, stdout and stderr; our ends, which do not block, are added to `ours`."""
    theirs: list[int] = []
    try:
        for is_wanted, is_input in ((pipe_stdin, True), (pipe_stdout, False), (True, False)):
            if not is_wanted:
                theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
                continue
            reading, writing = os.pipe2(os.O_CLOEXEC)
            theirs.append(reading if is_input else writing)
            ours.append(writing if is_input else reading)
            os.set_blocking(ours[-1], False)
    except OSError:
        close_all(theirs)
        raise
    return theirs


def _complain(keeper: asyncio.Task[None]) -> None:
    if not keeper.cancelled() and (error := keeper.exception()) is not None:
        context = {"message": "the keeper of the launcher has failed", "exception": error}
        keeper.get_loop().call_exception_handler(context)
