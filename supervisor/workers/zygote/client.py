"""Controls one zygote: a unit of the launcher that holds an agent's imports, and is the parent of its forks.

Guarantees the same as the launcher: every worker that was forked is reported once as exited and once as empty, even
when the zygote dies, hangs or sends wrong messages. The other end runs the agent's code as the agent's user, so
every message is verified: an invalid one, and 5 s of silence, end the zygote and its workers
with it. Where there are cgroups, the workers' own are made, frozen, killed and removed here. It knows units, not agents.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

import msgspec

from corral.supervisor.machine.launcher.tree_signals import ENDING
from corral.supervisor.machine.linux import cgroup, kernel
from corral.supervisor.records.logs.capture import LogWriter
from corral.supervisor.records.logs.capture_pipe import Capture
from corral.worker.contract.errors import CorralError, SpawnFailed, Timeout

from ..lifecycle.start_failure import last_words
from ..process.containment import Containment
from ..process.launcher_client import Launcher
from ..process.launcher_link import PING_S, Channel, Heartbeat, close_all
from ..process.parent import Child, Exit, Launch, ParentClient, Scope, Stage, Unit, UnitOwner, failed
from ..process.sandbox import remove_temporary
from ..usage.limits import oom_of
from .fork_processes import ForkCgroups, ForkPids
from .handover import ZygoteHandover
from .protocol import (
    Changed,
    Checked,
    Emptied,
    Exited,
    Failed,
    InvalidMessage,
    Loaded,
    Message,
    MessageLimit,
    Pong,
    Roots,
    Spawned,
    Unfit,
    check,
    decoded,
    receive,
)

__all__ = ["Loaded", "Unfit", "Zygote"]

SILENCE_S = 5.0
"""Seconds of silence after which a zygote is killed."""
KILL_S = 10.0
"""Seconds a killed unit may take to become empty before the zygote is considered broken."""
BIRTH_S = 5.0
"""Seconds that a fork may take to become a worker: an at-fork hook of the agent may hang for ever."""
END_S = 1.0
"""Seconds between the end of the channel and the report of the zygote's own end."""
CHECK_S = 10.0
"""Seconds that a check of all source files may take."""
CLOSE_S = 5.0
"""Seconds that `close` waits for the last units, and again for the zygote's own end."""
DRAIN_S = 1.0
"""Seconds that the pipes of a dead zygote are read: remaining processes may hold them."""
LOOK_S = 0.25
"""Seconds between two samples of the memory of a zygote that imports; PING_S for one that serves."""
POLL_S = (0.005, 0.25)
"""Seconds of the first and last pause between two checks of a group that is being emptied."""
BATCH = 64
"""Number of messages that are read in one turn of the loop."""
SO_PASSRIGHTS = 83
"""Number of a socket option of Linux 6.16: with 0 the other end can send no descriptors, whose close may block (SO_LINGER)."""
LAST_WORDS = 1024
"""Number of messages that are read of a dead zygote, because another process may hold its end."""

log = logging.getLogger(__name__)


class Zygote(ParentClient):
    """Manages one zygote and its workers; for use in one event loop.

    `launch` describes its start, as for any unit; `launcher` may be another zygote, `is_shared`, of which it is a fork.
    `on_changed` with the source files that have changed; `on_lost` once, when it has died unrequested,
    before the ends of its workers are reported. Its output goes to `log`, which the caller releases.

    The receiver of the launcher's reports passes those about its `unit` to `exited` and `emptied`.
    """

    def __init__(
        self,
        launcher: "Launcher | Zygote",
        launch: Launch,
        *,
        on_changed: Callable[[list[str]], None],
        on_lost: Callable[["Zygote", str], None],
        log: LogWriter,
        silence_s: float = SILENCE_S,
        is_shared: bool = False,
    ) -> None:
        super().__init__("the zygote")
        if isinstance(launcher, Zygote):
            launch = msgspec.structs.replace(launch, temporary=launcher.temporary_of(launch))
        self.unit = launch.unit
        self.pid = 0
        self.gone = asyncio.Event()
        """Set when no process of it is left."""
        self.launcher = launcher
        """Its parent."""
        self._is_shared = is_shared
        self._launch = launch
        self._cgroups = ForkCgroups(launcher.groups)
        self._pids = ForkPids(0, is_inside=launcher.containment.pid_namespace)
        self._samples_memory = launcher.containment.memory == "sampled"
        self._on_changed = on_changed
        self._on_lost = on_lost
        self._log = log
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self._is_retired = False
        self._is_held = False
        self._is_ending = False
        self._fault: str | None = None
        self._exit: Exit | None = None
        self._pulse: Heartbeat | None = None
        self._pongs = 0
        self._checks: dict[int, asyncio.Future[list[str]]] = {}
        self._captures: list[Capture] = []
        self._proc_fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._due: dict[str, tuple[float, str]] = {}  # by a unit: when, and what is wrong by then
        self._aliases: dict[str, str] = {}  # what a unit was called before it was renamed
        self._emptying: dict[str, asyncio.TimerHandle] = {}
        self._unrequested = MessageLimit(self._loop.time())
        self._chores: set[asyncio.Task[object]] = set()

    @property
    def is_loaded(self) -> bool:
        """Returns True if it can fork: it has imported everything, lives, and is not ending."""
        is_there = self._loaded.done() and self._loaded.exception() is None
        return is_there and not self._is_retired and not self._is_over

    @property
    def count(self) -> int:
        """Returns the number of its workers and spares, including those with only some processes left."""
        return len(self._units)

    @property
    def _is_over(self) -> bool:
        return self._is_ending or self._fault is not None or self._exit is not None

    @property
    def groups(self) -> cgroup.Groups | None:
        """Returns the parent of its units' cgroups; None without cgroups."""
        return self.launcher.groups

    @property
    def containment(self) -> Containment:
        """Returns how the processes of its units are contained."""
        return self.launcher.containment

    def cgroup_of(self, unit: str) -> Path | None:
        """Returns the folder of the cgroup of a living unit, if it has one."""
        found = self._units.get(unit)
        return None if found is None or found.group is None else Path(found.group)

    def roots(self, unit: str) -> tuple[int, ...]:
        """Returns the roots of the process trees of a unit, as far as they are children of the zygote."""
        found = self._units.get(unit)
        if found is None:
            return ()
        strays = tuple(pid for pid in found.strays if self._pids.is_child(pid))
        return (found.pid, *strays) if found.stage is Stage.RUNNING else strays

    def temporary_of(self, launch: Launch) -> str | None:
        """Returns the temporary folder of a worker with this launch: below the zygote's own."""
        if launch.temporary is None or self._launch.temporary is None:
            return None
        # Without the agent's name, which is above already: of sockets there, no path may have over 107 bytes.
        agent = self.unit.partition(".")[0]
        name = os.path.basename(launch.temporary)
        if self._is_shared:  # below it are other agents
            return os.path.join(self._launch.temporary, name)
        return os.path.join(self._launch.temporary, name.removeprefix(agent).lstrip("-."))

    # --- its life ------------------------------------------------------------------------------

    async def start(self) -> Loaded:
        """Starts it, and returns when it has imported everything. The caller bounds the time; a cancel ends the zygote."""
        self._log.begin()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(OSError):  # an older kernel
            ours.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        try:
            child = await self.launcher.spawn(self._launch, self, stdin_fd=theirs.detach())
        except BaseException:
            ours.close()
            self.gone.set()
            raise
        ours.setblocking(False)
        self._know(child.pid)
        assert child.stdout_fd is not None, "it has two pipes"
        with contextlib.suppress(OSError):  # see WorkerSupervisor: Landlock's allowance hangs on it
            self._proc_fd = os.open(f"/proc/{child.pid}", os.O_PATH | os.O_CLOEXEC)
        for fd, name in ((child.stdout_fd, "stdout"), (child.stderr_fd, "stderr")):
            self._captures.append(Capture(fd, self._log.stream("stdout" if name == "stdout" else "stderr")))
        self._connect(ours)
        self._look()
        try:
            # Its own word may be on its way when the caller waits no longer.
            return await asyncio.shield(self._loaded)
        except BaseException:
            self._end()
            raise

    def _know(self, pid: int) -> None:
        self.pid = pid
        self._pids = ForkPids(pid, is_inside=self.launcher.containment.pid_namespace)

    def _connect(self, sock: socket.socket, pings: int = 0) -> None:
        self._channel = Channel(sock, self._on_message, receive=receive, on_end=self._on_end, batch=BATCH)
        silent = partial(self._kill_faulty, f"sent nothing for {self._silence_s:g} s")
        self._pulse = Heartbeat(self._channel, self._silence_s, silent, pings)

    # --- from one program of the daemon to the next --------------------------------------------

    @property
    def obstacle(self) -> str:
        """Returns what is under way that no other program can go on with; empty where it may be handed over."""
        if self._channel is None or not self.is_running:
            return f'"{self.unit}" is loading or ending'
        is_asked = self._is_starting or self._checks or len(self._channel)
        return f'"{self.unit}" is busy' if is_asked or self._emptying or self._chores else ""

    @property
    def is_running(self) -> bool:
        """Returns whether it has loaded and lives: it can be handed over."""
        return self._channel is not None and not self._is_over and self._loaded.done()

    def hand_over(self) -> ZygoteHandover:
        """Returns what the next program goes on from; for one that runs."""
        assert self._channel is not None, "it is connected"
        assert self._pulse is not None, "it is connected"
        frozen, abandoned = self._cgroups.hand_over()
        return ZygoteHandover(
            unit=self.unit,
            parent=self.launcher.unit if isinstance(self.launcher, Zygote) else "",
            pid=self.pid,
            socket_fd=self._channel.fd,
            proc_fd=self._proc_fd if self._proc_fd >= 0 else None,
            temporary=self._launch.temporary,
            memory_bytes=self._launch.memory_bytes,
            loaded=self._loaded.result(),
            captures=tuple(each.hand_over() for each in self._captures if not each.closed),
            units=tuple(unit.hand_over() for unit in self._units.values()),
            seq=self._seq,
            pings=self._pulse.pings,
            pongs=self._pongs,
            is_retired=self._is_retired,
            due=self._due,
            aliases=self._aliases,
            frozen=frozen,
            abandoned=abandoned,
        )

    def hold(self) -> None:
        """Reads and forks nothing more: another program goes on from here."""
        self._is_held = True
        self._let_go()
        if self._channel is not None:
            self._channel.hold()

    def take_up(self, left: ZygoteHandover) -> None:
        """Takes what the program before has left; `resume` follows, before which nothing is read or sent."""
        self._know(left.pid)
        self._proc_fd = -1 if left.proc_fd is None else left.proc_fd
        for each in left.captures:
            stream = self._log.stream(each.name)
            stream.take_up(each.stream)
            self._captures.append(Capture(each.fd, stream))
        self._seq, self._pongs, self._is_retired = left.seq, left.pongs, left.is_retired
        self._due, self._aliases = dict(left.due), dict(left.aliases)
        self._cgroups.take_up(left.frozen, left.abandoned)
        self._loaded.set_result(left.loaded)

    def resume(self, left: ZygoteHandover, owners: Mapping[str, UnitOwner]) -> None:
        """Reads and forks again; a unit without an owner is killed."""
        self._connect(socket.socket(fileno=left.socket_fd), left.pings)
        self._take_up_units(left.units, owners)
        assert self._pulse is not None, "it is connected"
        self._pulse.watch()
        self._look()

    async def spawn(
        self,
        launch: Launch,
        owner: UnitOwner,
        *,
        pipe_stdin: bool = True,
        pipe_stdout: bool = True,
        stdin_fd: int | None = None,
    ) -> Child:
        """Forks a worker, and returns when it has become one; with the channel `stdin_fd`, which is closed here, a zygote.

        Its command, user and limits are those of the zygote; its temporary folder is `temporary_of(launch)`.
        """
        unit = self._unit(launch.unit, owner)
        try:
            if self._is_held:
                await self._loop.create_future()  # the next program starts it
            if not self.is_loaded:
                raise failed(launch.unit, "zygote", errno.EAGAIN, "its zygote is gone")
            joining = self._cgroups.make(launch, unit)
        except BaseException:
            close_all([] if stdin_fd is None else [stdin_fd])
            raise
        temporary = launch.temporary if stdin_fd is not None else self.temporary_of(launch)
        env = {key: value for key, value in launch.env.items() if value != launch.temporary}
        if temporary is not None:
            env["TMPDIR"] = temporary
        argv = () if stdin_fd is None else launch.argv
        own = msgspec.structs.replace(launch, argv=argv, env=env, temporary=temporary)
        stdin = pipe_stdin if stdin_fd is None else stdin_fd
        try:
            async with asyncio.timeout(BIRTH_S):
                return await self._spawn(own, unit, stdin=stdin, pipe_stdout=pipe_stdout, more=joining)
        except TimeoutError:
            reason = f"its fork has not become a worker within {BIRTH_S:g} s"
            raise failed(launch.unit, "fork", errno.EAGAIN, reason) from None
        except BaseException:
            if self._units.get(launch.unit) is not unit:
                self._cgroups.abandon(unit)
            raise

    def rename(self, unit: str, to: str, owner: UnitOwner) -> bool:
        """Gives a unit another name and owner in all further reports; returns False if it is known to have ended."""
        found = self._units.get(unit)
        if found is None or found.stage is not Stage.RUNNING:
            return False  # the end is or will be reported under the old name
        assert to not in self._units, "no unit has the name of another"
        del self._units[unit]
        found.key, found.owner = to, owner
        self._units[to] = found
        self._aliases[unit] = to
        if unit in self._due:
            self._due[to] = self._due.pop(unit)
        if unit in self._emptying:
            self._emptying[to] = self._emptying.pop(unit)
        if self._channel is not None:
            self._channel.send({"op": "rename", "unit": unit, "to": to})
        return True

    async def check(self) -> list[str]:
        """Returns the source files that differ from the imported ones now."""
        if self._channel is None or not self.is_loaded:
            raise Timeout(f'cannot look at the sources of "{self.unit}": its zygote is gone')
        seq = self._next_seq()
        answer: asyncio.Future[list[str]] = self._loop.create_future()
        self._checks[seq] = answer
        self._channel.send({"op": "check", "seq": seq})
        try:
            async with asyncio.timeout(CHECK_S):
                return await answer
        except TimeoutError:
            raise Timeout(f'cannot look at the sources of "{self.unit}": no answer within {CHECK_S:g} s') from None
        finally:
            del self._checks[seq]

    def retire(self) -> None:
        """Forks no more, and ends when the last unit is empty."""
        self._is_retired = True
        if not self._units:
            self._end()

    async def close(self) -> None:
        """Kills and reports every unit, and ends; takes a bounded time, and may be called again."""
        self._is_retired = True
        for unit in list(self._units):
            self.kill(unit)
        await self._until_idle(CLOSE_S)
        self._end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.gone.wait()
        if self._chores:
            await asyncio.gather(*self._chores, return_exceptions=True)

    # --- operations on a unit ----------------------------------------------------------------

    def signal(self, unit: str, signum: int, scope: Scope = "leader") -> None:
        """Sends a signal, like `Launcher.signal`."""
        found = self._units.get(unit)
        if signum in ENDING and found is not None and self._cgroups.is_frozen(found):
            self.thaw(unit)
        super().signal(unit, signum, scope)

    def kill(self, unit: str) -> None:
        """Kills all processes of the unit until it is empty; a zygote that fails to do so is killed itself."""
        found = self._units.get(unit)
        if found is None or found.is_killed:
            return
        super().kill(unit)
        found.is_killed = True
        self._due[unit] = self._loop.time() + KILL_S, f"did not end {unit} within {KILL_S:g} s"
        self._cgroups.kill(found)

    def freeze(self, unit: str) -> None:
        """Freezes a unit, like `Launcher.freeze`."""
        self._set_frozen(unit, True)

    def thaw(self, unit: str) -> None:
        """Thaws a unit, like `Launcher.thaw`."""
        self._set_frozen(unit, False)

    def _set_frozen(self, unit: str, is_frozen: bool) -> None:
        found = self._units.get(unit)
        if found is None:
            return
        if found.group is None:
            self._ask(unit, "freeze" if is_frozen else "thaw")
        else:
            self._cgroups.set_frozen(found, is_frozen)

    def _empty(self, key: str, pause_s: float = POLL_S[0]) -> None:
        """Forgets a unit that its parent reported as empty, once its group is empty, too."""
        self._emptying.pop(key, None)
        unit = self._units.get(key)
        if unit is None:
            return
        if unit.group is not None and cgroup.is_populated(unit.group):
            self._cgroups.kill(unit)
            again_s = min(2 * pause_s, POLL_S[1])
            self._emptying[key] = self._loop.call_later(pause_s, lambda: self._empty(unit.key, again_s))
            return
        self._forget(key)

    def _forget(self, key: str) -> None:
        unit = self._units[key]
        super()._forget(key)
        self._due.pop(key, None)
        self._aliases = {was: now for was, now in self._aliases.items() if now != key}
        self._cgroups.abandon(unit)
        if self._is_retired and not self._units:
            self._end()

    # --- its messages --------------------------------------------------------------------------

    def _on_message(self, packet: bytes) -> None:
        if self._fault is not None or self._pulse is None:
            return
        self._pulse.received()
        try:
            self._handle(decoded(packet))
        except InvalidMessage as error:
            self._kill_faulty(f"sent an invalid message: {error}")

    def _handle(self, message: Message) -> None:
        if isinstance(message, Pong):
            assert self._pulse is not None, "it was asked"
            check(self._pongs < message.seq <= self._pulse.pings, "an answer to no question")
            self._pongs = message.seq
        elif isinstance(message, Checked):
            answer = self._checks.get(message.seq)
            check(0 < message.seq <= self._seq, "an answer to no question")
            self._unrequested.count(self._loop.time(), len(self._units))
            if answer is not None and not answer.done():
                answer.set_result(message.changed)
        elif isinstance(message, Loaded):
            check(not self._loaded.done(), "loaded twice")
            self._loaded.set_result(message)
            assert self._pulse is not None, "it is there from the start"
            self._pulse.watch()
        elif isinstance(message, Changed):
            self._unrequested.count(self._loop.time(), len(self._units))
            self._on_changed(message.paths)
        else:
            self._handle_of_unit(message)

    def _handle_of_unit(self, message: Spawned | Failed | Exited | Emptied | Roots) -> None:
        unit = self._units.get(self._aliases.get(message.unit, message.unit))
        if unit is None:
            raise InvalidMessage(f"there is no unit {message.unit[:100]!r}")
        is_starting = unit.stage is Stage.STARTING and unit.key not in self._emptying
        if isinstance(message, Spawned):
            check(is_starting, "a unit is spawned twice")
            self._on_spawned(unit.key, *self._identity_of(unit, message))
        elif isinstance(message, Failed):
            check(is_starting, "a unit that runs cannot fail to start")
            error = SpawnFailed(message.words, result="exec-failed", unit=unit.key, **message.facts)
            self._on_failed(unit.key, error)
        elif isinstance(message, Exited):
            check(unit.stage is Stage.RUNNING, "a unit ends that does not run")
            self._on_exited(self._end_of(unit, message))
        elif isinstance(message, Roots):
            self._unrequested.count(self._loop.time(), len(self._units))
            unit.strays = tuple(self._pids.ours(message.pids))
        else:
            check(unit.stage is Stage.EXITED, "a unit is empty before it has ended")
            check(unit.key not in self._emptying, "a unit is empty twice")
            self._empty(unit.key)

    def _identity_of(self, unit: Unit, message: Spawned) -> tuple[int, int]:
        """Returns pid and starttime of a new worker in our pid namespace; zeros if it has ended already."""
        found = self._pids.identity(message)
        if found is None:
            due_s = self._loop.time() + KILL_S
            self._due[unit.key] = due_s, f"did not report the end of {unit.key}"
        return found or (0, 0)

    def _end_of(self, unit: Unit, message: Exited) -> Exit:
        if unit.pid and self._pids.is_child(unit.pid):
            raise InvalidMessage(f"pid {unit.pid} has not ended")
        if not unit.is_killed:
            self._due.pop(unit.key, None)
        return Exit(
            unit=unit.key,
            pid=unit.pid,
            status=message.status,
            oom=oom_of(None if unit.group is None else cgroup.oom(unit.group)),
            **msgspec.structs.asdict(message.rusage),
        )

    # --- its end -------------------------------------------------------------------------------

    def exited(self, report: Exit) -> None:
        """Handles the death of the zygote, reported by the launcher: its workers are dead, too."""
        for capture in self._captures:
            capture.catch_up()
        if self._channel is not None:
            self._channel.read(LAST_WORDS)  # its last messages are as valid as the earlier ones
        self._exit = report
        how = _how(report)
        words = f"died ({how})" if self._fault is None else f"was killed: it {self._fault}"
        cause = f"the zygote {words}"
        if not self._loaded.done():
            self._loaded.set_exception(self._not_loaded(report, how))
            self._loaded.exception()  # the caller that waited for it may be gone
        is_lost = not self._is_ending
        self._let_go()
        if is_lost:
            self._on_lost(self, cause)
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._report_lost(report.cause if report.lost else f"{cause}, and its workers with it")
        for unit in self._units.values():
            self._cgroups.kill(unit)
        self.launcher.kill(self.unit)  # escaped processes
        for capture in self._captures:
            self._do(capture.drain(DRAIN_S))

    def emptied(self, unit: str) -> None:
        """Handles the launcher's report that no process of the zygote is left."""
        for key, handle in list(self._emptying.items()):
            handle.cancel()
            del self._emptying[key]
        for key in list(self._units):
            self._empty(key)
        if self._proc_fd >= 0:
            os.close(self._proc_fd)
            self._proc_fd = -1
        if self._launch.temporary is not None:
            self._do(asyncio.to_thread(remove_temporary, self._launch.temporary))
        self._cgroups.sweep()
        self.gone.set()

    def _not_loaded(self, report: Exit, how: str) -> CorralError:
        tail = self._log.tail("stderr", 20)
        words = last_words(tail) or how
        if self._fault is not None:
            words = f"it {self._fault}"
        return SpawnFailed(
            words if words.startswith("cannot load ") else f'cannot load "{self.unit}": {words}',
            result="exec-failed",
            unit=self.unit,
            stage="import",
            retryable=report.lost,
            log=tail,
        )

    def _end(self) -> None:
        """Lets the launcher kill it now."""
        if not self._is_ending:
            self._is_ending = True
            if self._pulse is not None:
                self._pulse.stop()
            if self._exit is None:
                self.launcher.kill(self.unit)

    def _kill_faulty(self, fault: str) -> None:
        """Kills a zygote that cannot be trusted, with a reason."""
        if self._fault is None and self._exit is None:
            self._fault = fault
            log.error("the zygote %s, pid %d, is killed: it %s", self.unit, self.pid, fault)
            self._log.stream("log").line(f"killed: it {fault}".encode(), "error", None)
            self.launcher.kill(self.unit)
            if self._channel is not None:
                self._channel.close()

    def _let_go(self) -> None:
        """Stops the timers of a dead zygote, and fails its open checks."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pulse is not None:
            self._pulse.stop()
        for answer in self._checks.values():
            if not answer.done():
                answer.set_exception(Timeout(f'cannot look at "{self.unit}": its zygote is gone'))

    def _on_end(self) -> None:
        self._loop.call_later(END_S, self._kill_faulty, "closed its channel")

    def _look(self) -> None:
        """Checks deadlines and memory at intervals."""
        now = self._loop.time()
        late = [what for due_s, what in self._due.values() if due_s < now]
        if late:
            self._kill_faulty(late[0])
        limit = self._launch.memory_bytes
        if limit and self._samples_memory and (used := _rss_bytes(self.pid)) > limit:
            self._kill_faulty(f"used {used} bytes of memory of its own, of {limit}")
        self._cgroups.sweep()
        self._timer = self._loop.call_later(PING_S if self._loaded.done() else LOOK_S, self._look)

    def _do(self, chore: Coroutine[object, object, object]) -> None:
        task: asyncio.Task[object] = self._loop.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _how(report: Exit) -> str:
    if report.lost:
        return report.cause
    if os.WIFSIGNALED(report.status):
        number = os.WTERMSIG(report.status)
        known = {each.value: each.name for each in signal.Signals}
        return f"killed by {known.get(number, f'SIG{number}')}"
    return f"exited with status {os.waitstatus_to_exitcode(report.status)}"


def _rss_bytes(pid: int) -> int:
    fields = kernel.read_proc(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0
