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

from .birth import PAGE_BYTES, become, heard, quoted
from .kernel import MARK, RETRYABLE, Process, kill_below, signal_child, signal_other
from .lineage import KILL_AGAIN_S, Trees, Unit
from .packet import Channel, receive

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from typing import Any

SURVEY_S = 1.0
"""The pace of surveys of the trees while anything runs…"""
SURVEY_SHARE = 0.005
"""…unless they would take more than this share of one core."""
# A tree that was stopped would not see these before it is continued.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP))


class Nursery:
    """The parent of all workers."""

    def __init__(self, channel: Channel, daemon: int, wake: int, altered: list[int]) -> None:
        self.channel = channel
        self.daemon = daemon  # a pidfd
        self.wake = wake
        self.altered = altered
        self.pid = os.getpid()
        self.poller = select.poll()
        self.trees = Trees()
        self.reports: dict[int, Unit] = {}
        self.killed: set[Unit] = set()
        self.dead: deque[tuple[Unit, int, resource.struct_rusage]] = deque()
        self.is_settled = True
        self.survey_due_s = 0.0

    def run(self) -> None:
        """Serve until the daemon is gone."""
        sock = self.channel.sock.fileno()
        for fd in (sock, self.daemon, self.wake):
            self.poller.register(fd, select.POLLIN)
        while True:
            self.poller.modify(sock, select.POLLIN | (select.POLLOUT if self.channel.queue else 0))
            events = dict(self.poller.poll(self._timeout_ms()))
            for unit in [self.reports[fd] for fd in events if fd in self.reports]:
                self._confirm(unit)
            if self.wake in events:
                drain(self.wake)
                self._reap()
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
        if not self.is_settled:
            due.append(now + KILL_AGAIN_S[1])
        return max(0.0, min(due) - now) * 1000 + 1 if due else None

    def _put_off(self, error: OSError) -> None:
        """Out of descriptors or memory: nothing was concluded, and soon we look again."""
        if error.errno not in RETRYABLE:
            raise error
        self.is_settled = False

    def _serve(self) -> bool:
        """Do what one message asks for; False when the daemon has closed its end."""
        try:
            message, fds = receive(self.channel.sock)
        except BlockingIOError:
            return True
        except (EOFError, ConnectionResetError):
            return False
        try:
            match message["op"]:
                case "spawn":
                    self._spawn(message, fds)
                case "signal":
                    self._signal(message["unit"], message["signal"], message["scope"])
                case "kill":
                    self._kill(message["unit"])
                case "ping":
                    if not self.channel.queue:  # else what waits there is sign of life enough
                        self.channel.send(op="pong", seq=message["seq"])
                case "list":
                    self._tell_units(message["seq"])
                case other:
                    raise AssertionError(f"the daemon is of our version, yet asks for {other!r}")
        except OSError as error:
            self._put_off(error)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        seq, key = message["seq"], message["unit"]
        stage = "descriptors"
        try:
            if len(fds) != 3 or "argv" not in message:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if key in self.trees.units:
                raise OSError(errno.EEXIST, "this unit lives already")
            report, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stage = "fork"
            message["env"][MARK] = key
            try:
                pid = os.fork()
                if pid == 0:
                    become(message, fds, told, self.pid, self.altered)
            except BaseException:
                os.close(report)
                raise
            finally:
                os.close(told)
        except OSError as error:
            text = f"cannot start {quoted(key)}: {str(error.strerror).lower()}"
            self._refuse(seq, key, stage, error.errno or 0, text, {})
            return
        if not self.trees.units:
            self.survey_due_s = time.monotonic() + SURVEY_S
        unit = Unit(key, pid, seq, report)
        self.trees.units[key] = self.trees.leaders[pid] = self.reports[report] = unit
        self.poller.register(report, select.POLLIN)

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
        if not told:
            starttime = unit.starttime
            self.channel.send(
                op="spawned", seq=unit.seq, unit=unit.key, pid=unit.pid, starttime=starttime
            )
            return
        del self.trees.units[unit.key], self.trees.leaders[unit.pid]
        self.killed.discard(unit)
        self.trees.failed.add(unit.pid)
        self._refuse(unit.seq, unit.key, *heard(told))

    def _reap(self) -> None:
        """Reap every dead child; its pid may be another's from then on."""
        self.is_settled = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            unit = self.trees.leaders.get(pid)
            if unit is not None and unit.report >= 0:
                self._confirm(unit)  # its only writer is dead, so that all has been said
            if self.trees.leaders.pop(pid, None) is not None:
                assert unit is not None, "what was popped is what was got"
                unit.is_alive = False
                self.dead.append((unit, status, usage))
            self.trees.strays.pop(pid, None)
            self.trees.failed.discard(pid)

    def _tidy(self) -> None:
        """What follows from deaths and from time: reports, further rounds of SIGKILL, the survey."""
        if not self.is_settled:
            self._settle()
        for unit in [unit for unit in self.killed if unit.again_s <= time.monotonic()]:
            unit.again_s = time.monotonic() + unit.pause_s
            unit.pause_s = min(2 * unit.pause_s, KILL_AGAIN_S[1])
            self._signal_tree(unit, signal.SIGKILL)
        started = time.monotonic()
        if self.trees.units and self.survey_due_s <= started:
            self.survey_due_s = started + SURVEY_S
            self.trees.survey()
            cost = time.monotonic() - started
            self.survey_due_s = started + max(SURVEY_S, cost / SURVEY_SHARE)
            self._settle()

    def _settle(self) -> None:
        """Tell the deaths of leaders and which units are empty; end what is nobody's."""
        trees = self.trees
        trees.adopt()
        while self.dead:
            unit, status, usage = self.dead[0]
            left = len(trees.members(unit))
            self.dead.popleft()
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
                left=left,
            )
        for stray in trees.unknown():
            stray.candidates = [unit for unit in stray.candidates if trees.has(unit)]
            if not all(unit.is_alive for unit in stray.candidates) or not stray.candidates:
                kill_below(stray.pid)
        for unit in [unit for unit in trees.units.values() if trees.is_empty(unit)]:
            del trees.units[unit.key]
            self.killed.discard(unit)
            self.channel.send(op="emptied", unit=unit.key)
        for unit in self.killed:
            if not unit.is_alive:
                unit.again_s = 0.0  # something of it has just escaped from a dead parent
        self.is_settled = True

    def _signal(self, key: str, signum: int, scope: str) -> None:
        unit = self.trees.units.get(key)
        if unit is None:
            return  # it has just become empty, and `emptied` is on its way
        if scope == "tree":
            self._signal_tree(unit, signum)
        elif unit.is_alive:
            signal_child(unit.pid, signum)

    def _kill(self, key: str) -> None:
        unit = self.trees.units.get(key)
        if unit is not None:
            unit.again_s = 0.0
            self.killed.add(unit)

    def _signal_tree(self, unit: Unit, signum: int) -> None:
        """Signal the leader's group at once and every other process of the unit one by one."""
        members: list[Process] = []
        try:
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
        """Kill everything below us, again and again, until nothing is left."""
        pause_s = KILL_AGAIN_S[0]
        while True:
            try:
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            for pid in self.trees.own_children():
                kill_below(pid)
            select.select([self.wake], [], [], pause_s)
            drain(self.wake)
            pause_s = min(2 * pause_s, KILL_AGAIN_S[1])


def drain(fd: int) -> None:
    """Empty a non-blocking pipe."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass
