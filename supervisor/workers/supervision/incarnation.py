"""Represents one incarnation of a worker and brings it up: from the decision to start to Ready, or to the reason why not.

It owns the process, its pipes and its folder, and guarantees that each is released once. It knows
nothing of restarts or of intent: it returns events, and the state machine decides.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Resources, Spec
from corral.supervisor.records.logs.capture import LogWriter, StreamName
from corral.supervisor.records.logs.capture_pipe import PRESENT_READS, Capture, CaptureHandover
from corral.worker.contract.errors import CorralError, Overloaded, SpawnFailed, Timeout, WorkerFailed

from ..containers.files import failure_of
from ..lifecycle import state_machine
from ..lifecycle.start_failure import shell_hint
from ..lifecycle.state_machine import State, Worker
from ..process.launch import prepare, with_sockets
from ..process.parent import Child, Exit, Launch, Parent, UnitOwner
from ..process.sandbox import Removals
from ..usage import limits
from ..usage.limits import Excess
from ..zygote.client import Zygote
from .line import DRAIN_S, Line, SilentLine
from .shared import Shared, utc_now

FREEZE_AGAIN_S = 0.5
"""Seconds after which a freeze or thaw that the parent refused is sent again."""

NO_REASONS: frozenset[str] = frozenset()

logger = logging.getLogger(__name__)


class Owner(UnitOwner, Protocol):
    """Represents the supervisor of the worker, as far as the bring-up needs it."""

    log: LogWriter
    worker: Worker

    @property
    def id(self) -> str:
        """Returns the worker's id."""
        ...

    @property
    def spec(self) -> Spec:
        """Returns the spec in force: it may change while a start waits."""
        ...

    async def load_checkpoint(self) -> Mapping[str, object]:
        """Returns the state that the incarnation begins with, as `{"checkpoint": data}`, or nothing."""
        ...

    def spawned(self, incarnation: "Incarnation") -> None:
        """Takes note that the process runs."""
        ...


class Death(NamedTuple):
    """Describes the end of a leader: exit status or signal, the cause in words, and the limit that it broke."""

    code: int | None
    signal: str | None
    cause: str
    excess: Excess | None

    @property
    def facts(self) -> dict[str, object]:
        """Returns the end as data of an error."""
        result: str | None = "signaled" if self.signal else "exited"
        if self.excess is not None:
            result = self.excess.result
        return {"result": result, "code": self.code, "signal": self.signal}


class LifeHandover(Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: the process, its pipes that are read into the log, and its folders."""

    number: int
    unit: str
    started_at: float
    child: Child
    captures: tuple[CaptureHandover, ...]
    temporary: str | None
    container: str | None
    proc_fd: int | None
    frozen_for: tuple[str, ...]
    used_s: float
    parent: str = ""
    """The unit of the zygote that it is a fork of."""

    @property
    def descriptors(self) -> list[int]:
        """Returns the descriptors that are handed over."""
        return [*(each.fd for each in self.captures), *([] if self.proc_fd is None else [self.proc_fd])]


@dataclass(slots=True, eq=False)
class Incarnation:
    """Represents one life of the worker.

    `unit` names it at its parent, the launcher or a zygote; `abandoned` is set when it is to end before it
    has a process; `early` holds reports of its end, None for its tree's, that came before its start was
    known; `numbered` is pending until its number is on disk: it must not begin before.
    """

    number: int
    unit: str
    line: Line
    started_at: float
    parent: Parent
    child: Child | None = None
    captures: tuple[Capture, ...] = ()
    task: asyncio.Task[None] | None = None
    is_abandoned: bool = False
    abandoned: asyncio.Event | None = None
    early: tuple[Exit | None, ...] = ()
    temporary: str | None = None
    container: str | None = None
    proc_fd: int | None = None
    checkpoint: Mapping[str, object] | None = None
    numbered: asyncio.Future[None] | None = None
    used_s: float = 0.0
    """Seconds of processor time of its leader and of all that this has waited for, once it is dead."""
    frozen_for: frozenset[str] = NO_REASONS
    has_failed_handshake: bool = False

    def forget_task(self, _: object) -> None:
        """Drops the task of the bring-up, a kilobyte, once it is done."""
        self.task = None

    # -- from one program of the daemon to the next

    def hand_over(self) -> LifeHandover:
        """Returns what the next program goes on from; for one that has a process."""
        assert self.child is not None, "it has a process"
        return LifeHandover(
            number=self.number,
            unit=self.unit,
            started_at=self.started_at,
            child=self.child,
            captures=tuple(each.hand_over() for each in self.captures if not each.closed),
            temporary=self.temporary,
            container=self.container,
            proc_fd=self.proc_fd,
            frozen_for=tuple(self.frozen_for),
            used_s=self.used_s,
            parent=self.parent.unit if isinstance(self.parent, Zygote) else "",
        )

    @classmethod
    def taken_up(cls, left: LifeHandover, line: Line, parent: Parent, log: LogWriter) -> Self:
        """Makes an incarnation from what the program before has left, and reads its pipes from now on."""
        life = cls(left.number, left.unit, line, left.started_at, parent, left.child)
        for each in left.captures:
            stream = log.stream(each.name)
            stream.take_up(each.stream)
            life.captures += (Capture(each.fd, stream),)
        life.temporary, life.container, life.proc_fd = left.temporary, left.container, left.proc_fd
        life.frozen_for, life.used_s = frozenset(left.frozen_for) or NO_REASONS, left.used_s
        return life

    # -- while it runs

    def signal(self, name: str, *, tree: bool) -> None:
        """Sends a signal to the leader, or to every process group of the tree."""
        try:
            self.parent.signal(self.unit, signal.Signals[name], "tree" if tree else "leader")
        except Overloaded as error:  # the next stage comes by its deadline
            logger.warning("%s", error)

    def freeze(self, reason: str) -> None:
        """Freezes the process tree, for one more reason."""
        self.frozen_for |= {reason}
        if len(self.frozen_for) == 1:
            self._apply_freeze()

    def thaw(self, reason: str) -> None:
        """Takes one reason back; the tree runs again when there is none left."""
        if reason in self.frozen_for:
            self.frozen_for = self.frozen_for - {reason} or NO_REASONS
            if not self.frozen_for:
                self._apply_freeze()

    def thaw_to_end(self) -> None:
        """Takes all reasons back: a frozen tree cannot end within its grace period."""
        if self.frozen_for:
            self.frozen_for = NO_REASONS
            self._apply_freeze()

    def _apply_freeze(self) -> None:
        if self.child is None:
            return
        try:
            if self.frozen_for:
                self.parent.freeze(self.unit)
            else:
                self.parent.thaw(self.unit)
        except Overloaded as error:
            logger.warning("%s", error)
            asyncio.get_running_loop().call_later(FREEZE_AGAIN_S, self._apply_freeze)

    # -- its end

    def kill(self) -> None:
        """Kills the whole tree, frozen or not; before there is one, abandons the start."""
        self.frozen_for = NO_REASONS
        if self.child is not None:
            self.parent.kill(self.unit)
            return
        self.is_abandoned = True
        if self.abandoned is not None:
            self.abandoned.set()

    def catch_up(self) -> None:
        """Reads all that it has printed until now: a later line in the log was printed later."""
        for capture in self.captures:
            capture.catch_up(PRESENT_READS)

    def exited(self, report: Exit, asked: Resources) -> Death:
        """Reads the last bytes of the pipes, and returns how the leader ended under these limits."""
        for capture in self.captures:
            capture.catch_up()
        code, name = _code_and_signal(report.status)
        self.used_s = report.utime_s + report.stime_s
        excess = limits.at_end(code, name, self.used_s, report.oom, asked)
        if excess is not None:
            cause = excess.message
        elif report.lost:
            cause = report.cause
        elif self.container is not None and (failure := failure_of(self.container)):
            cause = failure
        else:
            cause = f"killed by {name}" if name is not None else f"exited with status {code}"
        return Death(code, name, cause, excess)

    def finish(self, error: WorkerFailed) -> asyncio.Future[list[object]] | None:
        """Returns the reading of pipes that are still open, and the end of calls in flight; None: there is nothing."""
        still_open = [capture for capture in self.captures if not capture.closed]
        self.captures = tuple(capture for capture in self.captures if capture.closed)
        if not still_open and not self.line.has_to_finish:
            return None
        drains = (capture.drain(DRAIN_S) for capture in still_open)
        return asyncio.gather(self.line.finish(error), *drains)

    def release_pipes(self) -> None:
        """Releases the pipes, which have been read to their ends."""
        for capture in self.captures:
            capture.release()
        self.captures = ()

    def release_folders(self, removals: Removals) -> None:
        """Removes the temporary folder and lets go of /proc/PID, once no process is left."""
        if self.proc_fd is not None:
            os.close(self.proc_fd)
            self.proc_fd = None
        if self.temporary is not None:
            removals.add(self.temporary)
            self.temporary = None
        if self.container is not None:
            removals.add_container(self.container)
            self.container = None


async def bring_up(life: Incarnation, owner: Owner, shared: Shared) -> state_machine.Event | None:
    """Starts the process and shakes hands with it; returns the event that ends the start, None where one is to come.

    None: the process is ready by living on, or has ended, closed its pipes or gone silent, which its exit or
    the deadline reports.
    """
    try:
        if owner.spec.entrypoint is not None:
            life.abandoned = asyncio.Event()
            await shared.zygotes.prepared(owner.spec, life.abandoned)
        async with shared.starting:
            child = await _launch(life, owner, shared)
    except CorralError as error:
        retryable = bool(error.data.get("retryable")) or not isinstance(error, SpawnFailed)
        hint = shell_hint(owner.spec.command) if error.data.get("stage") == "exec" else ""
        text = f"{error.message}; {hint}" if hint else error.message
        is_corrupted = error.data.get("result") == state_machine.CORRUPTED
        return _spawn_failed(
            text, retryable=retryable, result=state_machine.CORRUPTED if is_corrupted else "exec-failed"
        )
    except Exception as error:  # a defect of ours: the start has to end all the same
        logger.exception("cannot start worker %s", owner.id)
        if life.child is None:
            return _spawn_failed(f'cannot start worker "{owner.id}": {error!r}', retryable=False)
        life.kill()  # its exit reports the rest
        return None
    speaks = owner.spec.protocol != "none"
    if not speaks and owner.spec.ready is None:
        return None
    if speaks and owner.worker.state is not State.STARTING:  # it was stopped first: nothing else takes its pipes
        for fd in (child.stdin_fd, child.stdout_fd):
            assert fd is not None, "a worker that speaks has both"
            os.close(fd)
        return None
    try:
        await life.line.open(child)
    except CorralError as error:
        life.has_failed_handshake = True
        is_gone = isinstance(error, WorkerFailed | Timeout) or bool(error.data.get("lost"))
        reason = error.message.removeprefix(f'cannot start worker "{owner.id}": ')
        if is_gone:
            return None
        if error.data.get("reason") == state_machine.NEEDS_LOGIN:
            return state_machine.Refused(reason, state_machine.NEEDS_LOGIN)
        return state_machine.Refused(reason)
    life.checkpoint = None  # it may be megabytes
    return state_machine.Shaken()


async def _launch(life: Incarnation, owner: Owner, shared: Shared) -> Child:
    if life.is_abandoned:
        raise SpawnFailed(f'cannot start worker "{owner.id}": it was stopped first')
    if owner.spec.speaks == "corral":
        life.checkpoint = await owner.load_checkpoint()
    if life.numbered is not None:
        await asyncio.shield(life.numbered)  # others wait for the same
        life.numbered = None
    owner.log.note_life()  # not before its turn: a thousand files would keep the first process waiting
    launch = await prepare(owner.spec, shared.host, life.unit)
    if owner.spec.placement is not None:
        launch = replace(launch, lease=shared.placements.lease(owner.spec.name))
    life.temporary, life.container = launch.temporary, launch.container
    try:
        child = await _spawn(life, owner, launch, shared)
    except BaseException:
        life.release_folders(shared.removals)
        raise
    if launch.read_paths is not None:
        # Landlock's rules for /proc/PID are lost when the kernel drops that folder, unless it is held open.
        with contextlib.suppress(OSError):
            life.proc_fd = os.open(f"/proc/{child.pid}", os.O_PATH | os.O_CLOEXEC)
    life.child = child
    life.started_at = asyncio.get_running_loop().time()
    life.captures += (_capture(life, owner, child.stderr_fd, "stderr"),)
    if owner.spec.protocol == "none" and child.stdout_fd is not None:
        life.captures += (_capture(life, owner, child.stdout_fd, "stdout"),)
    owner.spawned(life)
    return child


async def _spawn(life: Incarnation, owner: Owner, launch: Launch, shared: Shared) -> Child:
    spec = owner.spec
    pipe_stdin = spec.protocol != "none"
    if spec.listen:
        sockets = shared.sockets.hand_out(spec, life.unit)
        launch = with_sockets(launch, [each.name or spec.name for each in spec.listen])
        try:
            return await shared.launcher.spawn(launch, owner, pipe_stdin=pipe_stdin, sockets=sockets)
        except BaseException:
            shared.sockets.ended(life.unit)
            raise
    if spec.entrypoint is None:
        return await shared.launcher.spawn(launch, owner, pipe_stdin=pipe_stdin)
    life.parent, child, life.temporary = await shared.zygotes.spawn(spec, launch, owner, pipe_stdin=pipe_stdin)
    return child


def is_serving(life: Incarnation | None, worker: Worker, shared: Shared, now: float) -> bool:
    """Returns whether it has connections to finish; asked only where its end waits for them."""
    if life is None or worker.drain_until <= now:
        return False
    return shared.sockets.is_serving(life.unit, life.parent.roots(life.unit))


def _capture(life: Incarnation, owner: Owner, fd: int, name: StreamName) -> Capture:
    return Capture(fd, owner.log.stream(name, life.line.tap() if isinstance(life.line, SilentLine) else None))


def _spawn_failed(text: str, *, retryable: bool, result: str = "exec-failed") -> state_machine.SpawnFailed:
    return state_machine.SpawnFailed(text, retryable, utc_now(), random.random(), result)


def _code_and_signal(status: int) -> tuple[int | None, str | None]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return None, signal.Signals(number).name
        except ValueError:
            return None, f"SIG{number}"
    return os.waitstatus_to_exitcode(status), None
