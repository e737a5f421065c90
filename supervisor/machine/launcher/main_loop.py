"""Runs the launcher's loop: serves the daemon's requests, confirms new processes, reaps dead ones.

It guarantees that the wait status of every worker is sent at once, and `emptied` as soon as no process of it is
left.  It makes no decision about restarts or grace periods.  Standard library alone: it is part of the launcher.
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
from ..linux.kernel import MARK, RETRYABLE, brand_for, kill_below, look_up, signal_child
from .child_setup import PAGE_BYTES, decode_failure, quoted
from .lease import LeaseTimer
from .process_tree import KILL_AGAIN_S, Trees, Unit
from .protocol import Channel, receive
from .raw_spawn import EVERY_SIGNAL, FAILED_LATE
from .sandboxes import LOOK_S, Sandboxes, host_of, status_of
from .shutdown import drain, kill_all
from .tree_signals import ENDING, apply_freeze, signal_tree

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import pthread_sigmask
    from typing import Any, NoReturn

    from .raw_spawn import RawSpawner

    Become = Callable[[Any, list[int], int], NoReturn]
    """Turns a new process into the requested one: the request, its descriptors, the write end for a failure report."""
else:
    from _signal import pthread_sigmask  # the C functions without signal's enumerations, as in `child_setup`

SURVEY_S = 1.0
"""Seconds between two surveys of the trees while anything runs."""
SURVEY_SHARE = 0.0005
"""Ratio of one core that surveys may take before they become rarer; brands identify processes without them."""
ROOTS_S = 0.1
"""Seconds between two messages about escaped processes."""
ROOTS = 1024
"""Number of escaped processes of one unit in a message."""
SERVE_S = 0.003
"""Seconds for which requests are served before deaths and confirmations are looked at again."""
STOP_AGAIN_S = 0.01
"""Seconds of pause before the next looks at a tree that is being stopped."""


class MainLoop:
    """Serves as the parent of workers; `become` runs in each forked process, from its first instruction on.

    `listeners` maps further descriptors to functions that are called whenever they are readable.
    """

    DESCRIPTORS: tuple[int, ...] = (3,)
    """Numbers of descriptors that may come with a spawn request, beside its listening sockets."""

    def __init__(self, channel: Channel, daemon: int, wake: int, become: Become, trees: Trees) -> None:
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
        self.refreezing: set[Unit] = set()  # still to be frozen or thawed
        self.frozen: set[Unit] = set()
        self.sent_roots: dict[str, list[int]] = {}  # the escaped processes of each unit
        self.roots_due_s = 0.0
        self.are_roots_sent = True
        self.abandoned: set[str] = set()  # groups to be removed as soon as they are empty
        self.listeners: dict[int, Callable[[], None]] = {}
        self.raw_spawner: RawSpawner | None = None  # where new processes may follow a plan
        self.sandboxes = Sandboxes()
        self.lease = LeaseTimer()
        # The request, its descriptors and the signals since then, until the exec is confirmed: a failed plan needs them.
        self.planned: dict[Unit, tuple[Any, list[int], set[tuple[int, str]]]] = {}

    def run(self) -> None:
        """Serves until the daemon is gone."""
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
            if self.daemon in events or (events.get(sock, 0) & ~select.POLLOUT and not self._serve()):
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
        if not self.are_roots_sent:
            due.append(self.roots_due_s)
        if self.refreezing:
            due.append(now + STOP_AGAIN_S)
        if self.sandboxes.pending:
            due.append(now + LOOK_S)
        due += [ended[3] for ended in self.sandboxes.ended.values()]
        if not self.is_settled or self.abandoned:
            due.append(now + KILL_AGAIN_S[1])
        return max(0.0, min(due) - now) * 1000 + 1 if due else None

    def _put_off(self, error: OSError) -> None:
        """Postpones a look that failed for lack of descriptors or memory; raises any other error."""
        if error.errno not in RETRYABLE:
            raise error
        self.is_settled = False

    def _serve(self) -> bool:
        """Serves the requests that have arrived; returns False when the daemon has closed its end."""
        until_s = time.monotonic() + SERVE_S
        while True:  # the work after this loop costs the same for one message as for many
            try:
                message, fds = receive(self.channel.sock)
            except BlockingIOError:
                return True
            except (EOFError, ConnectionResetError):
                return False
            try:
                self._perform(message, fds)
            except OSError as error:
                self._put_off(error)
            finally:
                for fd in fds:
                    os.close(fd)
            if message["op"] not in ("spawn", "signal") or time.monotonic() >= until_s:
                return True  # kills and freezes are carried out before anything else is answered

    def _perform(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        match message["op"]:
            case "spawn":
                self._spawn(message, fds)
            case "signal":
                self._signal(message["unit"], message["signal"], message["scope"])
            case "kill":
                self._kill(message["unit"])
            case "freeze" | "thaw":
                self._set_frozen(message["unit"], message["op"] == "freeze")
            case "ping":
                if not self.channel.queue:  # else the waiting messages are sign of life enough
                    self.channel.send(op="pong", seq=message["seq"])
            case "list":
                self._send_units(message["seq"])
            case "lease":
                self._set_lease(message["token"], message["kill_at"])
            case other:
                raise AssertionError(f"the daemon is of our version, yet asks for {other!r}")

    def _spawn(self, message: Any, fds: list[int], *, may_plan: bool = True) -> None:  # Any: JSON
        seq, key = message["seq"], message["unit"]
        stage, group = "descriptors", None
        try:
            own = len(fds) - message.get("sockets", 0) - _handovers(message)
            if own not in self.DESCRIPTORS or "argv" not in message:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if key in self.trees.units:
                raise OSError(errno.EEXIST, "this unit exists already")
            lease = message.get("lease", 0)
            if lease and not self.lease.holds(lease):
                stage = "lease"
                raise OSError(errno.EAGAIN, "the lease of this node has ended")
            stage = "sandbox"
            host = host_of(message.get("sandbox"), self.trees.units)
            stage = "descriptors"
            report, report_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stage = "cgroup"
            try:
                joined = message.get("join_cgroup")
                group = self._make_group(message) if joined is None else None
                message["cgroup"] = group if joined is None else joined
                self.abandoned.discard(group or "")
                stage = "fork"
                message["env"][MARK] = key
                brand = brand_for(self.trees.state, seq)
                if brand is not None:
                    message["limits"]["RSS"] = brand
                pid, is_planned = self._fork(message, fds, report_in, may_plan)
                self.trees.note_forked(pid)
                try:
                    unit = Unit(key, pid, seq, report, group, lease)
                    unit.host = host
                    unit.is_contained = message.get("container") is not None
                except OSError:  # it cannot be looked at: a failed start, not one without an answer
                    self.trees.failed.add(pid)
                    signal_child(pid, signal.SIGKILL)
                    raise
            except BaseException:
                os.close(report)
                raise
            finally:
                os.close(report_in)
        except OSError as error:
            self._abandon(group)
            text = f"cannot start {quoted(key)}: {str(error.strerror).lower()}"
            self._refuse(seq, key, stage, error.errno or 0, text, {})
            return
        if not self.trees.units:
            self.survey_due_s = time.monotonic() + SURVEY_S
        self.trees.units[key] = self.trees.leaders[pid] = self.reports[report] = unit
        self.poller.register(report, select.POLLIN)
        if message.get("sandbox") is not None:
            self.sandboxes.add(unit)
        if is_planned:
            self.planned[unit] = message, fds[:], set()
            fds.clear()  # they are kept until it is confirmed

    def _fork(self, message: Any, fds: list[int], report_in: int, may_plan: bool) -> tuple[int, bool]:  # Any: JSON
        """Makes a process; returns the pid and whether the process follows a plan of raw system calls."""
        if self.raw_spawner is not None:
            pid = self.raw_spawner.start(message, fds, report_in) if may_plan else None
            if pid is not None:
                return pid, True
            self.raw_spawner.include_memory()
        # Signals wait until the new process has its own handlers: the launcher's would ignore those that end it.
        before = pthread_sigmask(signal.SIG_SETMASK, EVERY_SIGNAL)
        try:
            pid = self._fork_process(fds)
            if pid == 0:
                self.become(message, fds, report_in)
        finally:
            pthread_sigmask(signal.SIG_SETMASK, before)
        return pid, False

    def _fork_process(self, _fds: list[int]) -> int:
        return os.fork()

    def _respawn(self, unit: Unit, failure: bytes) -> None:
        """Starts a unit again in plain Python after its plan has failed, so that the reason can be reported."""
        message, fds, signals = self.planned.pop(unit)
        was_killed = unit in self.killed
        del self.trees.leaders[unit.pid]
        self._forget(unit)
        self.trees.failed.add(unit.pid)
        try:
            if failure == FAILED_LATE and message.get("temporary") is not None:
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
        self._set_frozen(unit.key, unit.is_frozen)

    def _make_group(self, message: Any) -> str | None:  # Any: JSON
        if self.trees.groups is None:
            return None
        names = ("memory_bytes", "cpu_percent", "processes")
        memory_bytes, cpu_percent, processes = (message[name] for name in names)
        return self.trees.groups.make(
            message["unit"], memory_bytes, cpu_percent, processes, message.get("tenant_limits")
        )

    def _abandon(self, group: str | None) -> None:
        if group is not None:
            self.abandoned.add(group)

    def _refuse(self, seq: int, unit: str, stage: str, number: int, message: str, data: dict[str, str]) -> None:
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
        """Reads the report of a new process: the end of the file means success, anything else is a failure."""
        try:
            failure = os.read(unit.report, PAGE_BYTES)
        except BlockingIOError:  # a dead leader's child has yet to close it
            failure = b""
        if unit in self.sandboxes.pending:
            self._note_report(unit, failure)
            return
        self._close_report(unit)
        if unit in self.planned:
            if failure:
                self._respawn(unit, failure)
                return
            for fd in self.planned.pop(unit)[1]:
                os.close(fd)
        if failure:
            self._fail(unit, *decode_failure(failure))
        else:
            self._send_spawned(unit)

    def _note_report(self, unit: Unit, written: bytes) -> None:
        """Takes what the leader of a sandbox writes; the end of the file means that it has ended or failed."""
        if written and self.sandboxes.note(unit, written):
            return
        if not written and self.sandboxes.has_run(unit):  # and has ended before it was seen
            self.sandboxes.pending.discard(unit)
            self._close_report(unit)
            self._send_spawned(unit)
            return
        self._close_report(unit)
        if written:
            self._fail(unit, *decode_failure(written))
            return
        text = f"cannot start {quoted(unit.key)}: its sandbox ended before the program ran"
        self._fail(unit, "sandbox", errno.EPERM, text, {})

    def _close_report(self, unit: Unit) -> None:
        os.close(self._take_report(unit))

    def _take_report(self, unit: Unit) -> int:
        self.poller.unregister(unit.report)
        del self.reports[unit.report]
        report, unit.report = unit.report, -1
        return report

    def _send_spawned(self, unit: Unit) -> None:
        self.channel.send(
            op="spawned", seq=unit.seq, unit=unit.key, pid=unit.pid, starttime=unit.starttime, inner=unit.inner
        )

    def _fail(self, unit: Unit, stage: str, number: int, text: str, data: dict[str, str]) -> None:
        self.trees.leaders.pop(unit.pid, None)
        self._forget(unit)
        self.trees.failed.add(unit.pid)
        self._refuse(unit.seq, unit.key, stage, number, text, data)

    def _forget(self, unit: Unit) -> None:
        del self.trees.units[unit.key]
        for marked in (self.ended, self.killed, self.refreezing, self.frozen):
            marked.discard(unit)
        self.sandboxes.forget(unit)
        self._abandon(unit.group)

    def _reap(self) -> None:
        """Reaps every dead child; its pid may be given to another process from then on."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return  # at once, when one was only stopped or continued
            self._note_exit(pid, status, usage)
            with contextlib.suppress(OSError):  # then it is sent at the next look
                self._send_exits()  # before the tree is looked at: the daemon can work meanwhile

    def _note_exit(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        self.is_settled = False
        self.trees.note_reaped(pid)
        unit = self.trees.leaders.get(pid)
        if unit is not None and unit.report >= 0:
            self._confirm(unit)  # its only writer is dead, so the report is complete
            while unit in self.sandboxes.pending:
                self._confirm(unit)
        # Unless it has been started again meanwhile, perhaps with the same pid.
        if unit is not None and self.trees.leaders.get(pid) is unit:
            del self.trees.leaders[pid]
            unit.is_alive = False
            self.ended.add(unit)
            if not unit.is_sandboxed or not self.sandboxes.hold(unit, status, usage):
                self.dead.append((unit, status, usage))
        if (held := self.sandboxes.release(pid)) is not None:
            self.dead.append((held[0], held[1], usage))
        self.trees.orphans.pop(pid, None)
        self.trees.failed.discard(pid)

    def _let_go(self, unit: Unit) -> None:
        """Counts dead processes as gone that a debugger keeps from being reaped, see ptrace(2)."""
        for pid in self.trees.roots(unit):
            process = look_up(pid)
            if process is not None and process.is_dead:
                reaped, status, usage = os.wait4(pid, os.WNOHANG)
                self._note_exit(pid, status if reaped else signal.SIGKILL, usage)

    def _tidy(self) -> None:
        """Performs the work due after deaths or by time: messages, rounds of SIGKILL and SIGSTOP, surveys."""
        for unit in self.sandboxes.running() if self.sandboxes.pending else ():
            self.sandboxes.reports[unit] = self._take_report(unit)
            self._send_spawned(unit)
        for ended in self.sandboxes.overdue() if self.sandboxes.ended else ():
            self.dead.append(ended[:3])
            self.is_settled = False
        # Not the groups of units that become empty below: their replacements are more urgent.
        self.abandoned = {group for group in self.abandoned if not cgroup.remove(group)}
        if not self.is_settled:
            self._settle()
        for unit in [unit for unit in self.killed if unit.again_s <= time.monotonic()]:
            unit.again_s = time.monotonic() + unit.pause_s
            unit.pause_s = min(2 * unit.pause_s, KILL_AGAIN_S[1])
            signal_tree(self.trees, unit, signal.SIGKILL)
            self._let_go(unit)
        started = time.monotonic()
        if self.trees.units and self.survey_due_s <= started:
            self.survey_due_s = started + SURVEY_S
            self.trees.survey()
            cost = time.monotonic() - started
            self.survey_due_s = started + max(SURVEY_S, cost / SURVEY_SHARE)
            self._settle()
        for unit in list(self.refreezing):
            if apply_freeze(self.trees, unit):
                self.refreezing.discard(unit)
        if not self.are_roots_sent:
            self._send_roots()

    def _send_exits(self) -> None:
        """Sends the exits of leaders."""
        while self.dead:
            unit, status, usage = self.dead[0]
            oom = None if unit.group is None else cgroup.oom(unit.group)
            self.dead.popleft()  # not before all has been read
            self.channel.send(
                op="exited",
                unit=unit.key,
                pid=unit.pid,
                status=status_of(unit, status) if unit.is_sandboxed else status,
                rusage={"utime_s": usage.ru_utime, "stime_s": usage.ru_stime, "maxrss_bytes": usage.ru_maxrss * 1024},
                oom=oom,
            )

    def _settle(self) -> None:
        """Sends the exits of leaders and the units that have become empty; kills processes of no living unit."""
        trees = self.trees
        self._send_exits()
        trees.adopt()
        for orphan in trees.unknown():
            orphan.candidates = [unit for unit in orphan.candidates if trees.has(unit)]
            if not all(unit.is_alive for unit in orphan.candidates) or not orphan.candidates:
                kill_below(orphan.pid)
        for unit in [unit for unit in self.ended if trees.is_empty(unit)]:
            if self.sandboxes.is_held(unit):
                continue
            self._forget(unit)
            self.channel.send(op="emptied", unit=unit.key)
        for unit in self.killed:
            if not unit.is_alive:
                unit.again_s = 0.0  # something of it has just escaped from a dead parent
        # A process that escaped from a stopped parent, or was forked unnoticed, has to be stopped too.
        self.refreezing |= self.frozen
        self.are_roots_sent = False
        # A process in a group or a sandbox that is not below a child of the launcher dies without a notification.
        self.is_settled = all((unit.group is None and unit.host is None) or trees.roots(unit) for unit in self.ended)

    def _send_roots(self) -> None:
        """Sends the escaped processes if they have changed, at most every ROOTS_S, and never into a queue."""
        now = time.monotonic()
        found = self.trees.orphans_of()
        if found != self.sent_roots:
            if self.channel.queue:
                self.roots_due_s = now + ROOTS_S
            if now < self.roots_due_s:
                return
            for key in found.keys() | self.sent_roots.keys():
                pids = found.get(key, [])
                if key in self.trees.units and pids != self.sent_roots.get(key, []):
                    self.channel.send(op="roots", unit=key, pids=pids[:ROOTS])
            self.sent_roots = found
            self.roots_due_s = now + ROOTS_S
        self.are_roots_sent = True

    def _signal(self, key: str, signum: int, scope: str) -> None:
        unit = self.trees.units.get(key)
        if unit is None:
            return  # it has just become empty, and `emptied` is on its way
        if unit in self.planned:
            self.planned[unit][2].add((signum, scope))
        if unit.is_frozen and signum in ENDING:
            self._set_frozen(key, False)
            apply_freeze(self.trees, unit)
        if scope == "tree":
            signal_tree(self.trees, unit, signum)
        elif unit.inner_fd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(unit.inner_fd, signum)
        elif unit.is_alive:
            signal_child(unit.pid, signum)

    def _kill(self, key: str) -> None:
        unit = self.trees.units.get(key)
        if unit is not None:
            unit.again_s = 0.0
            unit.is_frozen = False  # SIGKILL reaches what is frozen
            self.frozen.discard(unit)
            self.refreezing.discard(unit)
            self.killed.add(unit)

    def _set_lease(self, token: int, kill_at_s: float) -> None:
        """Sets when the units of a lease are killed unless this is called again; those of other leases are killed now."""
        fd = self.lease.set(token, kill_at_s)
        if fd not in self.listeners:
            self.listeners[fd] = self._end_leases
            self.poller.register(fd, select.POLLIN)
        self._end_leases()

    def _end_leases(self) -> None:
        """Kills the units whose lease is over."""
        self.lease.drain()
        for unit in list(self.trees.units.values()):
            if unit.lease and not self.lease.holds(unit.lease):
                self._kill(unit.key)

    def _set_frozen(self, key: str, is_frozen: bool) -> None:
        unit = self.trees.units.get(key)
        if unit is not None and unit.is_frozen != is_frozen:
            unit.is_frozen = is_frozen
            (self.frozen.add if is_frozen else self.frozen.discard)(unit)
            unit.is_scattered = unit.is_scattered and not is_frozen
            self.refreezing.add(unit)

    def _send_units(self, seq: int) -> None:
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
        unknown = [orphan.pid for orphan in self.trees.unknown()]
        self.channel.send(op="listed", seq=seq, units=units, unknown=unknown)

    def end(self) -> None:
        """Kills everything below the launcher, until nothing is left."""
        kill_all(self.trees, self.wake, self.abandoned)


def _handovers(message: Any) -> int:  # Any: JSON
    """Returns the number of descriptors by which a new process hands something to the daemon."""
    sandbox = message.get("sandbox")
    return 1 if sandbox is not None and sandbox["listen"] else 0
