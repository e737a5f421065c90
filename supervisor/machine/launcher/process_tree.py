"""Attributes processes to units: the tree below each unit's leader, and the orphans that escaped from one.

It guarantees that no unit counts as empty while a process is left that could belong to it.  It signals no process.
Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import os

from ..linux import cgroup
from ..linux.kernel import (
    HAS_CHILDREN_FILE,
    OWN_CHILDREN,
    Process,
    brand,
    children,
    children_by_parent,
    look_up,
    mark,
    read_fd,
    walk,
)

KILL_AGAIN_S = (0.005, 0.25)
"""Seconds of the first and of the longest pause between two rounds of SIGKILL at the same tree."""


class Unit:
    """Represents one incarnation of one worker: its leader and every process attributed to it."""

    __slots__ = (
        "again_s",
        "group",
        "host",
        "init",
        "inner",
        "inner_fd",
        "is_alive",
        "is_contained",
        "is_frozen",
        "is_sandboxed",
        "is_scattered",
        "key",
        "lease",
        "pause_s",
        "pid",
        "report",
        "seq",
        "starttime",
    )

    def __init__(self, key: str, pid: int, seq: int, report: int, group: str | None, lease: int = 0) -> None:
        self.key = key
        self.lease = lease  # the token of the lease that it ends with; 0 for none
        self.pid = pid
        self.seq = seq
        self.report = report  # the read end of its failure report; -1 once the exec is confirmed
        self.group = group  # the folder of its cgroup
        process = look_up(pid)
        assert process is not None, "a child that is not yet reaped is in /proc"
        self.starttime = process.starttime
        self.is_alive = True
        self.is_contained = False  # the leader runs a container
        self.is_frozen = False
        self.is_scattered = False  # since it was frozen: some of it is in other process groups
        self.again_s = 0.0  # when it is being killed: the next round
        self.pause_s = KILL_AGAIN_S[0]
        self.is_sandboxed = False  # the leader is bubblewrap, and its program is inside
        self.init = 0  # the first process of the sandbox
        self.inner = 0  # the program, which init has started
        self.inner_fd = -1  # a pidfd of the program
        self.host: Unit | None = None  # whose sandbox it is in, where it has none of its own


class Orphan:
    """Represents a process that was reparented to the launcher, the subreaper, when its parent died."""

    __slots__ = ("candidates", "pid", "unit")

    def __init__(self, pid: int, unit: Unit | None, candidates: list[Unit]) -> None:
        self.pid = pid
        self.unit = unit
        self.candidates = candidates  # units it could belong to, while `unit` is unknown


class ProcessTree:
    """Holds one survey: the unit of each (pid, starttime) and of each session number."""

    __slots__ = ("processes", "sessions")

    def __init__(self) -> None:
        self.processes: dict[int, tuple[int, Unit]] = {}
        self.sessions: dict[int, Unit] = {}


class Trees:
    """Tracks the processes of every unit.

    Every descendant is below a child of the launcher: below a leader or below an orphan.  So a unit is empty when its
    leader is reaped, no orphan belongs to it, and its cgroup holds no process that was put there from elsewhere; and only
    orphans need to be attributed.
    """

    def __init__(self, state: int = 0, groups: cgroup.Groups | None = None, *, is_nested: bool = False) -> None:
        self.state = state  # in the brand of every process
        self.is_nested = is_nested  # below those the launcher's: see `kernel.brand`
        self.groups = groups
        self.units: dict[str, Unit] = {}
        self.leaders: dict[int, Unit] = {}
        self.orphans: dict[int, Orphan] = {}
        self.failed: set[int] = set()  # forked, but a stage failed: only to be reaped
        self.now, self.before = ProcessTree(), ProcessTree()
        # Kept open, so that the list can be read when descriptors have run out.
        self.list_fd = os.open(OWN_CHILDREN, os.O_RDONLY | os.O_CLOEXEC) if HAS_CHILDREN_FILE else -1
        self.expected = b""  # the content of the list while every child is known

    def own_children(self) -> list[int]:
        """Returns the pids of all children of the launcher, exactly: see `kernel.children`."""
        if self.list_fd < 0:
            return children_by_parent(os.getpid())
        return list(map(int, read_fd(self.list_fd).split()))

    def note_forked(self, pid: int) -> None:
        """Notes a fork: the newest child is the last of the kernel's list."""
        self.expected += b"%d " % pid

    def note_reaped(self, pid: int) -> None:
        """Notes that a child has been reaped, so that the kernel lists it no more."""
        self.expected = (b" " + self.expected).replace(b" %d " % pid, b" ", 1)[1:]

    def adopt(self) -> None:
        """Finds processes that were reparented to the launcher, and attributes them to units."""
        for orphan in self.unknown():  # in the middle of an exec, for one, its mark cannot be read
            process = look_up(orphan.pid)
            orphan.unit = None if process is None else self.owner(process)
        listed = b"" if self.list_fd < 0 else read_fd(self.list_fd)
        if listed and listed == self.expected:
            return  # to take a thousand pids from it takes longer than to read it
        self.expected = b""
        is_whole = self._adopt(children_by_parent(os.getpid()) if self.list_fd < 0 else list(map(int, listed.split())))
        if is_whole:
            self.expected = listed

    def _adopt(self, pids: list[int]) -> bool:
        """Attributes children of the launcher; returns True if all of them are known now."""
        known, is_whole = self.leaders, True
        for pid in [pid for pid in pids if pid not in known]:  # of thousands, most
            if pid in self.orphans or pid in self.failed:
                continue
            process = look_up(pid)
            if process is None or process.is_dead:
                is_whole = False
                continue  # reaped at the next SIGCHLD
            unit = self.owner(process)
            candidates = [u for u in self.units.values() if u.starttime <= process.starttime]
            if unit is None and len(candidates) == 1:
                unit = candidates[0]
            self.orphans[pid] = Orphan(pid, unit, candidates)
        return is_whole

    def owner(self, process: Process) -> Unit | None:
        """Returns the unit of an escaped process: by its cgroup, ancestors, session, brand, and last its mark.

        A process group lies within one session, so that the session answers for both.
        """
        pid = process.pid
        if self.groups is not None and (unit := self.units.get(self.groups.unit_of(pid))):
            return self._guest(pid) or unit
        for process_tree in (self.now, self.before):
            starttime, seen = process_tree.processes.get(pid, (0, None))
            if seen is not None and starttime == process.starttime and self.has(seen):
                return seen
        for unit in self.units.values():
            if unit.pid == process.session:
                return unit
        for process_tree in (self.now, self.before):
            seen = process_tree.sessions.get(process.session)
            if seen is not None and self.has(seen):
                return seen
        state, seq = brand(pid, is_nested=self.is_nested)
        for unit in self.units.values():
            if state == self.state and seq == unit.seq & 0xFFFFFFFF:
                return unit
        return self.units.get(mark(pid))

    def _guest(self, pid: int) -> Unit | None:
        """Returns the unit of a process that is in the cgroup of another unit, which its own unit joined."""
        guests = [unit for unit in self.units.values() if unit.group is None]
        if not guests:
            return None
        state, seq = brand(pid, is_nested=self.is_nested)
        return next((u for u in guests if state == self.state and seq == u.seq & 0xFFFFFFFF), None)

    def has(self, unit: Unit) -> bool:
        """Returns True if the unit has not become empty yet."""
        return self.units.get(unit.key) is unit

    def orphans_of(self) -> dict[str, list[int]]:
        """Returns the pids of the orphans of each unit that has any."""
        found: dict[str, list[int]] = {}
        for orphan in self.orphans.values():
            if orphan.unit is not None:
                found.setdefault(orphan.unit.key, []).append(orphan.pid)
        return found

    def roots(self, unit: Unit) -> list[int]:
        """Returns the children of the launcher below which all processes of the unit are."""
        orphans = [orphan.pid for orphan in self.orphans.values() if orphan.unit is unit]
        return [unit.pid, *orphans] if unit.is_alive else orphans

    def members(self, unit: Unit) -> list[Process]:
        """Returns all living processes of the unit that can be found, and notes them for the time when they escape."""
        found = [process for root in self.roots(unit) for process in walk(root)]
        for process in found:
            if process.pid == unit.pid:
                continue  # for most units the only one; a child of the launcher needs no note, nor does its session
            self.now.processes[process.pid] = (process.starttime, unit)
            if process.session != unit.pid:
                self.now.sessions[process.session] = unit
        return found + self.escaped_inside(unit)

    def escaped_inside(self, unit: Unit) -> list[Process]:
        """Returns the living processes of a unit in the sandbox of another whose parents have died.

        They are children of the first process there, and no orphans of the launcher; their brand is that of their unit.
        """
        if unit.host is None or not self.has(unit.host):
            return []  # the kernel has killed all inside
        below = children(first) if (first := look_up(unit.host.init)) is not None else []
        state_and_seq = (self.state, unit.seq & 0xFFFFFFFF)
        roots = [pid for pid in below if brand(pid, is_nested=self.is_nested) == state_and_seq]
        return [process for root in roots for process in walk(root)]

    def survey(self) -> None:
        """Notes the unit of every process; a process that two surveys did not see is forgotten."""
        self.adopt()
        self.before, self.now = self.now, ProcessTree()
        for unit in self.units.values():
            self.members(unit)

    def unknown(self) -> list[Orphan]:
        """Returns the orphans that could belong to several units, or to none that is left."""
        return [orphan for orphan in self.orphans.values() if orphan.unit is None]

    def is_empty(self, unit: Unit) -> bool:
        """Returns True if no process is left that belongs to the unit, or that could."""
        if unit.is_alive or any(
            orphan.unit is unit or (orphan.unit is None and unit in orphan.candidates)
            for orphan in self.orphans.values()
        ):
            return False
        if unit.group is not None and cgroup.is_populated(unit.group):
            return False
        return not self.escaped_inside(unit)
