"""The main loop of the launcher: the daemon's requests, the reports of new processes, the deaths of all.

It guarantees that whatever becomes of a worker, its wait status is told at once, and `emptied` when
nothing of it is left.  It decides nothing: no restart, no grace period, no policy.
Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import time
from collections import deque

from ..linux import cgroup
from ..linux.kernel import (
    MARK,
    RETRYABLE,
    Process,
    brand_for,
    kill_below,
    look_up,
    signal_child,
    signal_other,
)
from .child_setup import PAGE_BYTES, heard, quoted
from .process_tree import KILL_AGAIN_S, Trees, Unit
from .protocol import Channel, receive
from .raw_spawn import EVERY_SIGNAL, FAILED_LATE

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import pthread_sigmask
    from typing import Any, NoReturn

    from .raw_spawn import RawSpawner

    Become = Callable[[Any, list[int], int], NoReturn]
    """In the new process: turns it into what a request asks for; its descriptors, and where failures are told."""
else:
    from _signal import pthread_sigmask  # as in `birth`: what signal wraps

SURVEY_S = 1.0
"""The pace of surveys of the trees while anything runs…"""
SURVEY_SHARE = 0.0005
"""…unless they would take more than this share of one core: a brand is there without them."""
ROOTS_S = 0.1
"""The pace at which it is told which processes have escaped."""
ROOTS = 1024
"""So many of one unit."""
SERVE_S = 0.003
"""For so long requests are served, one after the other, before deaths and confirmations are looked at again."""
STOP_ROUNDS = 10
"""Looks at one tree that is being stopped, before others are served…"""
STOP_AGAIN_S = 0.01
"""…and the pause before the next ones."""
REMOVE_S = 1.0
"""How long the launcher stays at its end to remove its groups."""
# A tree that was stopped would not see these before it is continued.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP))


class MainLoop:
    """The parent of workers; `become` is what a fork does from its first instruction on.

    `listeners` are further descriptors, and what is done whenever they can be read.
    """

    DESCRIPTORS: tuple[int, ...] = (3,)
    """How many may come with a spawn."""

    def __init__(
        self, channel: Channel, daemon: int, wake: int, become: Become, trees: Trees
    ) -> None:
        self.channel = channel
        self.daemon = daemon  # a pidfd
        self.wake = wake
        self.become = become
        self.poller = select.poll()
        self.trees = trees
        self.reports: dict[int, Unit] = {}
        self.killed: set[Unit] = set()
        self.ended: set[Unit] = set()  # the leader is dead; there may be thousands that live
        self.dead: deque[tuple[Unit, int, resource.struct_rusage]] = deque()
        self.is_settled = True
        self.survey_due_s = 0.0
        self.turned: set[Unit] = set()  # to be frozen or thawed, as far as they are not yet
        self.frozen: set[Unit] = set()
        self.told: dict[str, list[int]] = {}  # the escaped processes of each unit
        self.tell_due_s = 0.0
        self.is_told = True
        self.abandoned: set[str] = set()  # groups to be removed as soon as they are empty
        self.listeners: dict[int, Callable[[], None]] = {}
        self.raw_spawner: RawSpawner | None = None  # where new processes may follow a plan
        # What was asked for and the signals since then, until confirmed: a plan leaves them for its end.
        self.planned: dict[Unit, tuple[Any, list[int], set[tuple[int, str]]]] = {}

    def run(self) -> None:
        """Serve until the daemon is gone."""
        sock = self.channel.sock.fileno()
        for fd in (sock, self.daemon, self.wake, *self.listeners):
            self.poller.register(fd, select.POLLIN)
        while True:
            self.poller.modify(sock, select.POLLIN | (select.POLLOUT if self.channel.queue else 0))
            events = dict(self.poller.poll(self._timeout_ms()))
            for unit in [self.reports[fd] for fd in events if fd in self.reports]:
                self._confirm(unit)
            if self.wake in events:
                drain(self.wake)
                self._reap()
            for fd in self.listeners.keys() & events.keys():
                self.listeners[fd]()
            self.channel.flush()
            if self.daemon in events or (
                events.get(sock, 0) & ~select.POLLOUT and not self._serve()
            ):
                return
            try:
                self._tidy()
            except OSError as error:
                self._put_off(error)

    def _timeout_ms(self) -> float | None:
        now = time.monotonic()
        due = [unit.again_s for unit in self.killed]
        if self.trees.units:
            due.append(self.survey_due_s)
        if not self.is_told:
            due.append(self.tell_due_s)
        if self.turned:
            due.append(now + STOP_AGAIN_S)
        if not self.is_settled or self.abandoned:
            due.append(now + KILL_AGAIN_S[1])
        return max(0.0, min(due) - now) * 1000 + 1 if due else None

    def _put_off(self, error: OSError) -> None:
        """Out of descriptors or memory: nothing was concluded, and soon we look again."""
        if error.errno not in RETRYABLE:
            raise error
        self.is_settled = False

    def _serve(self) -> bool:
        """Do what the messages ask for that are there; False when the daemon has closed its end."""
        until_s = time.monotonic() + SERVE_S
        while True:  # what follows is of the same cost for one message as for many
            try:
                message, fds = receive(self.channel.sock)
            except BlockingIOError:
                return True
            except (EOFError, ConnectionResetError):
                return False
            try:
                self._obey(message, fds)
            except OSError as error:
                self._put_off(error)
            finally:
                for fd in fds:
                    os.close(fd)
            if message["op"] not in ("spawn", "signal") or time.monotonic() >= until_s:
                return True  # kills and freezes are carried out before anything else is answered

    def _obey(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        match message["op"]:
            case "spawn":
                self._spawn(message, fds)
            case "signal":
                self._signal(message["unit"], message["signal"], message["scope"])
            case "kill":
                self._kill(message["unit"])
            case "freeze" | "thaw":
                self._turn(message["unit"], message["op"] == "freeze")
            case "ping":
                if not self.channel.queue:  # else what waits there is sign of life enough
                    self.channel.send(op="pong", seq=message["seq"])
            case "list":
                self._tell_units(message["seq"])
            case other:
                raise AssertionError(f"the daemon is of our version, yet asks for {other!r}")

    def _spawn(self, message: Any, fds: list[int], *, may_plan: bool = True) -> None:  # Any: JSON
        seq, key = message["seq"], message["unit"]
        stage, group = "descriptors", None
        try:
            if len(fds) not in self.DESCRIPTORS or "argv" not in message:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if key in self.trees.units:
                raise OSError(errno.EEXIST, "this unit lives already")
            report, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stage = "cgroup"
            try:
                group = message["cgroup"] = self._make_group(message)
                self.abandoned.discard(group or "")
                stage = "fork"
                message["env"][MARK] = key
                brand = brand_for(self.trees.state, seq)
                if brand is not None:
                    message["limits"]["RSS"] = brand
                pid, is_planned = self._fork(message, fds, told, may_plan)
                self.trees.note_birth(pid)
                try:
                    unit = Unit(key, pid, seq, report, group)
                except OSError:  # it cannot be looked at: a failed start, not one without an answer
                    self.trees.failed.add(pid)
                    signal_child(pid, signal.SIGKILL)
                    raise
            except BaseException:
                os.close(report)
                raise
            finally:
                os.close(told)
        except OSError as error:
            self._abandon(group)
            text = f"cannot start {quoted(key)}: {str(error.strerror).lower()}"
            self._refuse(seq, key, stage, error.errno or 0, text, {})
            return
        if not self.trees.units:
            self.survey_due_s = time.monotonic() + SURVEY_S
        self.trees.units[key] = self.trees.leaders[pid] = self.reports[report] = unit
        self.poller.register(report, select.POLLIN)
        if is_planned:
            self.planned[unit] = message, fds[:], set()
            fds.clear()  # they are kept until it is confirmed

    def _fork(
        self, message: Any, fds: list[int], told: int, may_plan: bool
    ) -> tuple[int, bool]:  # Any: JSON
        """The new process, and whether it follows a plan."""
        if self.raw_spawner is not None:
            pid = self.raw_spawner.bear(message, fds, told) if may_plan else None
            if pid is not None:
                return pid, True
            self.raw_spawner.uncover()
        # What comes before the new process has handlers of its own waits: ours ignore what would end it.
        before = pthread_sigmask(signal.SIG_SETMASK, EVERY_SIGNAL)
        try:
            pid = self._split(fds)
            if pid == 0:
                self.become(message, fds, told)
        finally:
            pthread_sigmask(signal.SIG_SETMASK, before)
        return pid, False

    def _split(self, _fds: list[int]) -> int:
        return os.fork()

    def _bear_again(self, unit: Unit, told: bytes) -> None:
        """Its plan did not work out: now with all the words for what is in the way, if it still is."""
        message, fds, signals = self.planned.pop(unit)
        was_killed = unit in self.killed
        del self.trees.leaders[unit.pid]
        self._forget(unit)
        self.trees.failed.add(unit.pid)
        try:
            if told == FAILED_LATE and message.get("temporary") is not None:
                with contextlib.suppress(OSError):
                    os.rmdir(message["temporary"])
            self._spawn(message, fds, may_plan=False)
        finally:
            for fd in fds:
                os.close(fd)
        for signum, scope in signals:
            self._signal(unit.key, signum, scope)
        if was_killed:
            self._kill(unit.key)
        self._turn(unit.key, unit.is_frozen)

    def _make_group(self, message: Any) -> str | None:  # Any: JSON
        if self.trees.groups is None:
            return None
        names = ("memory_bytes", "cpu_percent", "processes")
        return self.trees.groups.make(message["unit"], *(message[name] for name in names))

    def _abandon(self, group: str | None) -> None:
        if group is not None:
            self.abandoned.add(group)

    def _refuse(
        self, seq: int, unit: str, stage: str, number: int, message: str, data: dict[str, str]
    ) -> None:
        self.channel.send(
            op="failed",
            seq=seq,
            unit=unit,
            stage=stage,
            errno=number,
            message=message,
            retryable=number in RETRYABLE,
            data=data,
        )

    def _confirm(self, unit: Unit) -> None:
        """Read what the new process has to tell: nothing but the end of the file is success."""
        told = os.read(unit.report, PAGE_BYTES)
        self.poller.unregister(unit.report)
        del self.reports[unit.report]
        os.close(unit.report)
        unit.report = -1
        if unit in self.planned:
            if told:
                self._bear_again(unit, told)
                return
            for fd in self.planned.pop(unit)[1]:
                os.close(fd)
        if not told:
            starttime = unit.starttime
            self.channel.send(
                op="spawned", seq=unit.seq, unit=unit.key, pid=unit.pid, starttime=starttime
            )
            return
        del self.trees.leaders[unit.pid]
        self._forget(unit)
        self.trees.failed.add(unit.pid)
        self._refuse(unit.seq, unit.key, *heard(told))

    def _forget(self, unit: Unit) -> None:
        del self.trees.units[unit.key]
        for marked in (self.ended, self.killed, self.turned, self.frozen):
            marked.discard(unit)
        self._abandon(unit.group)

    def _reap(self) -> None:
        """Reap every dead child; its pid may be another's from then on."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return  # at once, when one was only stopped or continued
            self._bury(pid, status, usage)
            with contextlib.suppress(OSError):  # then it is told with the next look
                self._tell_deaths()  # before we look what is left: the daemon has to do meanwhile

    def _bury(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        self.is_settled = False
        self.trees.note_reaped(pid)
        unit = self.trees.leaders.get(pid)
        if unit is not None and unit.report >= 0:
            self._confirm(unit)  # its only writer is dead, so that all has been said
        # Not one that has been born again meanwhile, perhaps with this very pid.
        if unit is not None and self.trees.leaders.get(pid) is unit:
            del self.trees.leaders[pid]
            unit.is_alive = False
            self.ended.add(unit)
            self.dead.append((unit, status, usage))
        self.trees.strays.pop(pid, None)
        self.trees.failed.discard(pid)

    def _let_go(self, unit: Unit) -> None:
        """Take for gone what is dead, and kept from us by a debugger that does not wait for it (ptrace(2))."""
        for pid in self.trees.roots(unit):
            process = look_up(pid)
            if process is not None and process.is_dead:
                reaped, status, usage = os.wait4(pid, os.WNOHANG)
                self._bury(pid, status if reaped else signal.SIGKILL, usage)

    def _tidy(self) -> None:
        """What follows from deaths and from time: reports, rounds of SIGKILL and SIGSTOP, the survey."""
        # Not those of units that are told to be empty below: what is started in their place is more urgent.
        self.abandoned = {group for group in self.abandoned if not cgroup.remove(group)}
        if not self.is_settled:
            self._settle()
        for unit in [unit for unit in self.killed if unit.again_s <= time.monotonic()]:
            unit.again_s = time.monotonic() + unit.pause_s
            unit.pause_s = min(2 * unit.pause_s, KILL_AGAIN_S[1])
            self._signal_tree(unit, signal.SIGKILL)
            self._let_go(unit)
        started = time.monotonic()
        if self.trees.units and self.survey_due_s <= started:
            self.survey_due_s = started + SURVEY_S
            self.trees.survey()
            cost = time.monotonic() - started
            self.survey_due_s = started + max(SURVEY_S, cost / SURVEY_SHARE)
            self._settle()
        for unit in list(self.turned):
            if self._is_turned(unit):
                self.turned.discard(unit)
        if not self.is_told:
            self._tell_roots()

    def _tell_deaths(self) -> None:
        """Tell the deaths of leaders; raises OSError where no descriptor is left to see what they died of."""
        while self.dead:
            unit, status, usage = self.dead[0]
            oom_kills = 0 if unit.group is None else cgroup.oom_kills(unit.group)
            self.dead.popleft()  # not before all has been read
            self.channel.send(
                op="exited",
                unit=unit.key,
                pid=unit.pid,
                status=status,
                rusage={
                    "utime_s": usage.ru_utime,
                    "stime_s": usage.ru_stime,
                    "maxrss_bytes": usage.ru_maxrss * 1024,
                },
                oom_kills=oom_kills,
            )

    def _settle(self) -> None:
        """Tell the deaths of leaders and which units are empty; end what is nobody's."""
        trees = self.trees
        self._tell_deaths()
        trees.adopt()
        for stray in trees.unknown():
            stray.candidates = [unit for unit in stray.candidates if trees.has(unit)]
            if not all(unit.is_alive for unit in stray.candidates) or not stray.candidates:
                kill_below(stray.pid)
        for unit in [unit for unit in self.ended if trees.is_empty(unit)]:
            self._forget(unit)
            self.channel.send(op="emptied", unit=unit.key)
        for unit in self.killed:
            if not unit.is_alive:
                unit.again_s = 0.0  # something of it has just escaped from a dead parent
        # One that escaped from a stopped parent, or was forked behind our back, is to be stopped too.
        self.turned |= self.frozen
        self.is_told = False
        # What a group holds that is no child of ours dies without a word to us.
        self.is_settled = all(unit.group is None or trees.roots(unit) for unit in self.ended)

    def _tell_roots(self) -> None:
        """Tell which processes have escaped, once that has changed: in time, and never into a queue."""
        now = time.monotonic()
        found = self.trees.strays_of()
        if found != self.told:
            if self.channel.queue:
                self.tell_due_s = now + ROOTS_S
            if now < self.tell_due_s:
                return
            for key in found.keys() | self.told.keys():
                pids = found.get(key, [])
                if key in self.trees.units and pids != self.told.get(key, []):
                    self.channel.send(op="roots", unit=key, pids=pids[:ROOTS])
            self.told = found
            self.tell_due_s = now + ROOTS_S
        self.is_told = True

    def _signal(self, key: str, signum: int, scope: str) -> None:
        unit = self.trees.units.get(key)
        if unit is None:
            return  # it has just become empty, and `emptied` is on its way
        if unit in self.planned:
            self.planned[unit][2].add((signum, scope))
        if unit.is_frozen and signum in ENDING:
            self._turn(key, False)
            self._is_turned(unit)
        if scope == "tree":
            self._signal_tree(unit, signum)
        elif unit.is_alive:
            signal_child(unit.pid, signum)

    def _kill(self, key: str) -> None:
        unit = self.trees.units.get(key)
        if unit is not None:
            unit.again_s = 0.0
            unit.is_frozen = False  # SIGKILL reaches what is frozen
            self.frozen.discard(unit)
            self.turned.discard(unit)
            self.killed.add(unit)

    def _turn(self, key: str, is_frozen: bool) -> None:
        unit = self.trees.units.get(key)
        if unit is not None and unit.is_frozen != is_frozen:
            unit.is_frozen = is_frozen
            (self.frozen.add if is_frozen else self.frozen.discard)(unit)
            unit.is_scattered = unit.is_scattered and not is_frozen
            self.turned.add(unit)

    def _is_turned(self, unit: Unit) -> bool:
        """Freeze or thaw it; False when it has to be looked at again, since a fork may have raced."""
        if unit.group is not None:
            cgroup.freeze(unit.group, unit.is_frozen)
            return True
        if unit.is_frozen:
            return self._is_stopped(unit)
        if unit.is_scattered or not unit.is_alive:
            self._signal_tree(unit, signal.SIGCONT)
        else:
            signal_child(-unit.pid, signal.SIGCONT)
        return True

    def _is_stopped(self, unit: Unit) -> bool:
        if unit.is_alive:
            signal_child(-unit.pid, signal.SIGSTOP)  # no fork escapes what is sent to a group
        seen: set[int] = set()
        for _ in range(STOP_ROUNDS):
            self.trees.adopt()
            others = [
                process
                for process in self.trees.members(unit)
                if not (unit.is_alive and process.group == unit.pid)
            ]
            unit.is_scattered = unit.is_scattered or bool(others)
            running = [process for process in others if process.state not in b"Tt"]
            if not running:
                return True
            if seen.issuperset(process.pid for process in running):
                break  # they have been told, and only need time
            for process in running:
                seen.add(process.pid)
                self._signal_one(process, signal.SIGSTOP)
        return False

    def _signal_tree(self, unit: Unit, signum: int) -> None:
        """Signal the leader's group at once and every other process of the unit one by one."""
        members: list[Process] = []
        try:
            if unit.group is not None and signum == signal.SIGKILL:
                cgroup.kill(unit.group)  # first, since it is at once; what has left it remains
            self.trees.adopt()
            members = self.trees.members(unit)
        finally:
            if unit.is_alive:
                signal_child(-unit.pid, signum)
                if unit.report >= 0:
                    signal_child(unit.pid, signum)  # perhaps not yet in a session of its own
        for process in members:
            if not (unit.is_alive and process.group == unit.pid):
                self._signal_one(process, signum)
        if signum in ENDING:
            for process in members:
                if process.state == b"T":
                    self._signal_one(process, signal.SIGCONT)

    def _signal_one(self, process: Process, signum: int) -> None:
        if process.pid in self.trees.leaders or process.pid in self.trees.strays:
            signal_child(process.pid, signum)
        else:
            signal_other(process, signum)

    def _tell_units(self, seq: int) -> None:
        self.trees.adopt()
        units = [
            {
                "unit": unit.key,
                "pid": unit.pid,
                "starttime": unit.starttime,
                "processes": [process.pid for process in self.trees.members(unit)],
            }
            for unit in self.trees.units.values()
        ]
        unknown = [stray.pid for stray in self.trees.unknown()]
        self.channel.send(op="listed", seq=seq, units=units, unknown=unknown)

    def end(self) -> None:
        """Kill everything below us, again and again, until nothing is left.

        The groups of other units may be the next daemon's already, and so is the folder of them all.
        """
        groups = {unit.group for unit in self.trees.units.values() if unit.group is not None}
        pause_s = KILL_AGAIN_S[0]
        dead: list[int] = []
        while True:
            with contextlib.suppress(OSError):  # the rounds below need no descriptor
                for group in groups:
                    cgroup.kill(group)
            try:
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            left = self.trees.own_children()
            if left == dead:
                break  # a debugger keeps them from us
            dead = left if is_dead(left) else []
            for pid in left:
                kill_below(pid)
            select.select([self.wake], [], [], pause_s)
            drain(self.wake)
            pause_s = min(2 * pause_s, KILL_AGAIN_S[1])
        if self.trees.groups is not None:
            with contextlib.suppress(OSError):  # else the next daemon removes them
                self._remove_groups(self.trees.groups.path, groups | self.abandoned)

    def _remove_groups(self, path: str, left: set[str]) -> None:
        deadline_s = time.monotonic() + REMOVE_S
        while time.monotonic() < deadline_s:
            left = {group for group in left if not cgroup.remove(group)}
            if not left:
                try:
                    cgroup.remove_unheld(path)
                    return
                except BlockingIOError:
                    pass  # by the next daemon; or ours has not closed everything yet, dying
            time.sleep(KILL_AGAIN_S[0])


def is_dead(pids: list[int]) -> bool:
    """None of these lives, as far as we have the means to look."""
    try:
        processes = [look_up(pid) for pid in pids]
    except OSError:
        return False
    return all(process is None or process.is_dead for process in processes)


def drain(fd: int) -> None:
    """Empty a non-blocking pipe."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass
