"""Keeps what the engine has about placed agents and drained nodes, as this node knows it now."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract.records import ScheduleRecord

from ..engine.interface import Change, Engine, Watch
from .queues import Priorities
from .state import STATE, Assignment, Drained, PlacedSpec, ReplicaName, Spent, decoded, kind_and_name, replica_of

DEFAULT_PRIORITY = 5
"""Number that `tasks.default_priority` is without one."""

CANCELS_MAX = 10_000
"""Number of cancelled tasks whose message is remembered."""

_S = TypeVar("_S", bound=Struct)


class Known(NamedTuple, Generic[_S]):
    """Represents a value with its revision."""

    value: _S
    revision: int


class PlacedNames:
    """Knows which agents the cluster places: those that it has, and those that the configuration of this node adds."""

    def __init__(self, view: "ClusterView", in_force: InForce) -> None:
        self._view = view
        self._in_force = in_force

    def has(self, agent: str | None) -> bool:
        """Returns whether the tasks and the state of an agent are kept by the engine."""
        return agent is not None and (agent in self._view.specs or agent in self._in_force.config.placed)


class ClusterView:
    """Holds the newest state of each key; `subscribe` tells of changes."""

    def __init__(self) -> None:
        self.specs: dict[str, Known[PlacedSpec]] = {}
        self.assignments: dict[ReplicaName, Known[Assignment]] = {}
        self.drained: set[str] = set()
        self.schedules: dict[str, Known[ScheduleRecord]] = {}
        self.spent: dict[str, dict[str, Known[Spent]]] = {}
        """The use of the budgets of an agent, by node."""
        self.cancelled: dict[str, int] = {}
        """The revisions of the marks of cancelled tasks that are in a queue yet."""
        self._priorities: dict[str, Known[Priorities]] = {}
        self._announced: OrderedDict[str, None] = OrderedDict()
        self._watch: Watch | None = None
        self.synced = asyncio.Event()
        """Set once all that the engine has was seen."""
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change."""
        self._listeners.append(listener)

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Returns once `is_true` returns true, which is asked now and after each change."""
        found = asyncio.Event()

        def look() -> None:
            if is_true():
                found.set()

        self._listeners.append(look)
        try:
            look()
            await found.wait()
        finally:
            self._listeners.remove(look)

    async def follow(self, engine: Engine) -> None:
        """Follows the engine until it is cancelled."""
        self._watch = watch = await engine.watch(STATE)
        try:
            await watch.synced()
            while True:
                if not watch.unread:
                    self.synced.set()
                self.take(await watch.next())
        finally:
            await watch.close()

    def lag_s(self) -> float:
        """Returns the seconds since the engine last proved that all is known here that it has."""
        return math.inf if self._watch is None or self._watch.unread else self._watch.lag_s()

    def is_cancelled(self, task_id: str) -> bool:
        """Returns whether a task is known to be cancelled, by its mark or by a message."""
        return task_id in self.cancelled or task_id in self._announced

    def note_cancelled(self, task_id: str) -> None:
        """Remembers a message of another node that has cancelled a task."""
        self._announced[task_id] = None
        if len(self._announced) > CANCELS_MAX:
            self._announced.popitem(last=False)

    def take(self, change: Change) -> None:
        """Takes a change of the engine."""
        kind, name = kind_and_name(change.key)
        value, revision = change.value, change.revision
        if kind == "cancelled":
            if value is None:
                self.cancelled.pop(name, None)
            else:
                self.cancelled[name] = revision
            return
        if kind == "priorities":
            _put(self._priorities, name, value, revision, Priorities)
            return
        if kind == "spent":
            agent, _, node = name.rpartition("/")
            _put(self.spent.setdefault(agent, {}), node, value, revision, Spent)
            return
        if kind == "drained":
            present = value is not None and decoded(value, Drained) is not None
            (self.drained.add if present else self.drained.discard)(name)
        elif kind == "schedules":
            _put(self.schedules, name, value, revision, ScheduleRecord)
        elif kind == "specs":
            _put(self.specs, name, value, revision, PlacedSpec)
        elif kind == "placed" and (replica := replica_of(name)) is not None:
            _put(self.assignments, replica, value, revision, Assignment)
        for listener in self._listeners:
            listener()

    def default_priority(self, agent: str) -> int:
        """Returns the priority of tasks of an agent that have none."""
        known = self.specs.get(agent)
        section = None if known is None else known.value.table.get("tasks")
        found = section.get("default_priority") if isinstance(section, dict) else None
        return found if isinstance(found, int) else DEFAULT_PRIORITY

    def priorities(self, agent: str) -> Collection[int]:
        """Returns the priorities for which an agent has a queue beside that of its default one."""
        known = self._priorities.get(agent)
        return () if known is None else known.value.values

    def note_priorities(self, agent: str, values: list[int], revision: int) -> None:
        """Notes the priorities that this node has written or read; the watch will report them later."""
        known = self._priorities.get(agent)
        if known is None or known.revision < revision:
            self._priorities[agent] = Known(Priorities(values=values), revision)

    def put(self, replica: ReplicaName, assignment: Assignment | None, revision: int) -> None:
        """Notes a write of this node; the watch will report it later."""
        known = self.assignments.get(replica)
        if known is not None and known.revision > revision:
            return
        if assignment is None:
            self.assignments.pop(replica, None)
        else:
            self.assignments[replica] = Known(assignment, revision)

    def put_schedule(self, record: ScheduleRecord, revision: int) -> None:
        """Notes a schedule that this node has written; the watch will report it later."""
        known = self.schedules.get(record.name)
        if known is None or known.revision < revision:
            self.schedules[record.name] = Known(record, revision)

    def placed(self, agent: str) -> dict[int, str]:
        """Returns the node of each replica of an agent that has one; that to which it goes, where it is on its way."""
        return {
            number: known.value.node if known.value.to is None else known.value.to
            for (name, number), known in self.assignments.items()
            if name == agent and known.value.node
        }

    def nodes_of(self, agent: str) -> list[str]:
        """Returns the nodes that run replicas of an agent under a lease, by name."""
        return sorted(
            {known.value.node for (name, _), known in self.assignments.items() if name == agent and known.value.lease}
        )


_K = TypeVar("_K")


def _put(table: dict[_K, Known[_S]], key: _K, value: bytes | None, revision: int, kind: type[_S]) -> None:
    known = table.get(key)
    if known is not None and revision < known.revision:
        return  # this node has written since
    found = None if value is None else decoded(value, kind)
    if found is None:
        table.pop(key, None)
    else:
        table[key] = Known(found, revision)
