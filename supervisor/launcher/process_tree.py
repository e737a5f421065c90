"""Whose is a process: the trees of all units, and what escaped from them.

It guarantees that no unit counts as empty while a process is left that could be its own.  It signals
nobody.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import os

from ..linux import cgroup
from ..linux.kernel import (
    HAS_CHILDREN_FILE,
    OWN_CHILDREN,
    Process,
    brand,
    children_by_parent,
    look_up,
    mark,
    read_fd,
    walk,
)

KILL_AGAIN_S = (0.005, 0.25)
"""First and last pause between two rounds of SIGKILL at the same tree."""


class Unit:
    """One life of one worker: its leader, and whatever else turns out to belong to it."""

    __slots__ = (
        "again_s",
        "group",
        "is_alive",
        "is_frozen",
        "is_scattered",
        "key",
        "pause_s",
        "pid",
        "report",
        "seq",
        "starttime",
    )

    def __init__(self, key: str, pid: int, seq: int, report: int, group: str | None) -> None:
        self.key = key
        self.pid = pid
        self.seq = seq
        self.report = report  # where a failing stage is told; -1 once the exec is confirmed
        self.group = group  # the folder of its cgroup
        process = look_up(pid)
        assert process is not None, "our own child has not been reaped yet"
        self.starttime = process.starttime
        self.is_alive = True
        self.is_frozen = False
        self.is_scattered = False  # since it was frozen: some of it is in other process groups
        self.again_s = 0.0  # when it is being killed: the next round
        self.pause_s = KILL_AGAIN_S[0]


class Stray:
    """A child of ours that no spawn made: its parent died, and it came to us, the subreaper."""

    __slots__ = ("candidates", "pid", "unit")

    def __init__(self, pid: int, unit: Unit | None, candidates: list[Unit]) -> None:
        self.pid = pid
        self.unit = unit
        self.candidates = candidates  # units it could belong to, while `unit` is unknown


class ProcessTree:
    """Who was seen in whose tree: (pid, starttime) and session numbers, from one survey to the next."""

    __slots__ = ("processes", "sessions")

    def __init__(self) -> None:
        self.processes: dict[int, tuple[int, Unit]] = {}
        self.sessions: dict[int, Unit] = {}


class Trees:
    """The processes of every unit.

    Every descendant hangs below a child of ours: below a leader, or below a stray.  So a unit is
    empty when its leader is reaped, no stray is its own, and its group holds no process that somebody
    else put there; and only strays need to be attributed.
    """

    def __init__(
        self,
        state: int = 0,
        groups: cgroup.Groups | None = None,
        *,
        is_nested: bool = False,
    ) -> None:
        self.state = state  # in the brand of every process
        self.is_nested = is_nested  # below those of a launcher: see `kernel.brand`
        self.groups = groups
        self.units: dict[str, Unit] = {}
        self.leaders: dict[int, Unit] = {}
        self.strays: dict[int, Stray] = {}
        self.failed: set[int] = set()  # forked, but a stage failed: only to be reaped
        self.now, self.before = ProcessTree(), ProcessTree()
        # Kept open, so that the list can be read when descriptors have run out.
        self.list_fd = (
            os.open(OWN_CHILDREN, os.O_RDONLY | os.O_CLOEXEC) if HAS_CHILDREN_FILE else -1
        )
        self.expected = b""  # what the list says while nobody has come who is not known

    def own_children(self) -> list[int]:
        """The pids of our children, exactly: see `children`."""
        if self.list_fd < 0:
            return children_by_parent(os.getpid())
        return list(map(int, read_fd(self.list_fd).split()))

    def note_birth(self, pid: int) -> None:
        """We have forked: the newest child is the last of the list."""
        self.expected += b"%d " % pid

    def note_reaped(self, pid: int) -> None:
        """This child is in no list any more."""
        self.expected = (b" " + self.expected).replace(b" %d " % pid, b" ", 1)[1:]

    def adopt(self) -> None:
        """Find what has become our child, and whose it is.

        Raises:
            OSError: no descriptor or memory to look at them; nothing may be concluded now.
        """
        for stray in self.unknown():  # in the middle of an exec, for one, its mark cannot be read
            process = look_up(stray.pid)
            stray.unit = None if process is None else self.owner(process)
        listed = b"" if self.list_fd < 0 else read_fd(self.list_fd)
        if listed and listed == self.expected:
            return  # to take a thousand pids from it takes longer than to read it
        self.expected = b""
        is_whole = self._adopt(
            children_by_parent(os.getpid()) if self.list_fd < 0 else list(map(int, listed.split()))
        )
        if is_whole:
            self.expected = listed

    def _adopt(self, pids: list[int]) -> bool:
        """Find whose these children of ours are; whether all are known now, until they are reaped."""
        known, is_whole = self.leaders, True
        for pid in [pid for pid in pids if pid not in known]:  # of thousands, most
            if pid in self.strays or pid in self.failed:
                continue
            process = look_up(pid)
            if process is None or process.is_dead:
                is_whole = False
                continue  # reaped at the next SIGCHLD
            unit = self.owner(process)
            candidates = [u for u in self.units.values() if u.starttime <= process.starttime]
            if unit is None and len(candidates) == 1:
                unit = candidates[0]
            self.strays[pid] = Stray(pid, unit, candidates)
        return is_whole

    def owner(self, process: Process) -> Unit | None:
        """The unit of an escaped process: by its cgroup, lineage, session, brand, and last its mark.

        A process group lies within one session, so that the session answers for both.
        """
        pid = process.pid
        if self.groups is not None and (unit := self.units.get(self.groups.unit_of(pid))):
            return unit
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

    def has(self, unit: Unit) -> bool:
        """It has not become empty yet."""
        return self.units.get(unit.key) is unit

    def strays_of(self) -> dict[str, list[int]]:
        """The children of ours that escaped, by unit."""
        found: dict[str, list[int]] = {}
        for stray in self.strays.values():
            if stray.unit is not None:
                found.setdefault(stray.unit.key, []).append(stray.pid)
        return found

    def roots(self, unit: Unit) -> list[int]:
        """Those of our children below which the unit's processes hang."""
        strays = [stray.pid for stray in self.strays.values() if stray.unit is unit]
        return [unit.pid, *strays] if unit.is_alive else strays

    def members(self, unit: Unit) -> list[Process]:
        """All living processes of the unit that can be found, noted for the time when they escape."""
        found = [process for root in self.roots(unit) for process in walk(root)]
        for process in found:
            if process.pid == unit.pid:
                continue  # of thousands, all there is; a child of ours needs no note, nor its session's number
            self.now.processes[process.pid] = (process.starttime, unit)
            if process.session != unit.pid:
                self.now.sessions[process.session] = unit
        return found

    def survey(self) -> None:
        """Note the lineage of everything; what two surveys did not see is forgotten."""
        self.adopt()
        self.before, self.now = self.now, ProcessTree()
        for unit in self.units.values():
            self.members(unit)

    def unknown(self) -> list[Stray]:
        """The strays that could be of several units, or of none that is left."""
        return [stray for stray in self.strays.values() if stray.unit is None]

    def is_empty(self, unit: Unit) -> bool:
        """Nothing is left that belongs to the unit, or that could."""
        if unit.is_alive or any(
            stray.unit is unit or (stray.unit is None and unit in stray.candidates)
            for stray in self.strays.values()
        ):
            return False
        return unit.group is None or not cgroup.is_populated(unit.group)
