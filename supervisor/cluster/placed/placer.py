"""Places the replicas of all agents, on the one node that has the role: by compare-and-swap, at the least load per capacity.

The role is a lease of its own. It spares the others from following every beat; were two nodes to have it at a time,
each assignment would still be stored once. A node that still may run a replica is asked to pass it on; only the replicas of a
node whose lease is over are given to another one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.errors import Conflict, CorralError

from ..engine.interface import Engine
from ..lease.lease_holder import LeaseHolder
from ..lease.observer import Observer
from ..lease.record import NodeRecord
from ..state.state import Assignment, ReplicaName, assignment_key, encoded
from ..state.view import ClusterView
from .joining import Joining
from .placed_agents import placement_of
from .placement import Change, Node, decide

ROLES = "roles"
ROLE_KEY = f"{ROLES}/placer"

LOOK_S = 0.25
"""Seconds between two looks while a node without a lease still may run replicas."""

logger = logging.getLogger(__name__)


class Placer:
    """Takes the role when it is free, and places while it has it."""

    def __init__(
        self, node: str, view: ClusterView, bus: Bus, joining: Joining, holder: LeaseHolder, on_over: Callable[[], None]
    ) -> None:
        self._value = f"{node} {joining.incarnation}".encode()
        self._view = view
        self._bus = bus
        self._timing = joining.timing
        self._on_over = on_over
        self._holder = holder
        self._revision = 0
        self._wake = asyncio.Event()
        self._refusals: dict[str, str] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._observer: Observer | None = None
        view.subscribe(self._wake.set)

    async def run(self, engine: Engine) -> None:
        """Tries for the role whenever it is free, until it is cancelled."""
        watch = await engine.watch(ROLES)
        try:
            while True:
                is_held = any(e.value != self._value for e in watch.entries().values())
                if not is_held and self._holder.may_start and await self._has_role(engine):
                    await self._lead(engine)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if is_held else self._timing.beat_s):
                        await watch.next()
        finally:
            await watch.close()

    async def leave(self, engine: Engine) -> None:
        """Gives the role back, so that another node has it at once."""
        if self._revision:
            await engine.put(ROLE_KEY, None, revision=self._revision)

    async def _has_role(self, engine: Engine) -> bool:
        """Takes the role or renews it; returns whether this node has it."""
        ttl_s = int(self._timing.lease_s)
        try:
            try:
                self._revision = await engine.put(ROLE_KEY, self._value, revision=self._revision, ttl_s=ttl_s)
                return True
            except Conflict:
                entry = await engine.get(ROLE_KEY)
                is_own = entry is not None and entry.value == self._value
                self._revision = entry.revision if entry is not None and is_own else 0
                return is_own
        except CorralError as error:
            logger.info("cannot ask for the role of placing: %s", error)
            return False

    async def _lead(self, engine: Engine) -> None:
        """Places until the role is lost."""
        logger.info("this node places the agents of the cluster")
        self._on_over()  # of the one that had the role
        observer = Observer(engine, self._note_over, on_change=self._wake.set, timing=self._timing)
        self._observer = observer
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(observer.run()), group.create_task(self._place_always(engine, observer))]
            try:
                while True:
                    await asyncio.sleep(max(self._timing.beat_s, self._timing.lease_s / 4))
                    if not self._holder.may_start or not await self._has_role(engine):
                        break
            finally:
                for task in tasks:
                    task.cancel()
        self._observer = None
        logger.info("this node no longer places agents")

    def _note_over(self, name: str) -> None:
        logger.warning("node %s is over: its replicas get other nodes", name)
        self._bus.publish("node.over", node=name)
        self._on_over()
        self._wake.set()

    async def _place_always(self, engine: Engine, observer: Observer) -> None:
        await observer.began()
        await self._view.synced.wait()
        while True:
            self._wake.clear()
            waits = False
            try:
                waits = await self._place(engine, observer)
            except CorralError as error:
                logger.warning("cannot place now: %s", error)
                waits = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if waits else None):
                    await self._wake.wait()

    # -- one look

    async def _place(self, engine: Engine, observer: Observer) -> bool:
        """Writes the assignments that are missing or wrong; returns whether a node may turn out to be over by time alone."""
        view = self._view
        nodes = nodes_of(view, observer.records)
        self._labels |= {name: record.labels for name, record in observer.records.items()}
        waits = False
        for known in view.assignments.values():
            name = known.value.node
            if name and name not in nodes and observer.may_run(name):
                nodes[name] = Node(name, 1, 0, self._labels.get(name, {}), "cordoned")
                waits = True
        for agent in list(view.specs):
            placement = placement_of(view.specs[agent].value)
            if placement is None:
                continue
            held = {number: node for number, node in view.placed(agent).items() if node}
            changes, refusal, nodes = decide(agent, placement, nodes, held)
            self._note_refusal(agent, "" if refusal is None else refusal.reason)
            for change in changes:
                await self._write(engine, observer, change)
        for replica, known in list(view.assignments.items()):
            node, to = known.value.node, known.value.to
            if node and observer.may_run(node):
                continue  # it does so itself
            if replica[0] not in view.specs or to == "":
                await self._delete(engine, replica)
            elif node and to is not None:  # it died on the way
                await self._put(engine, replica, Assignment(node=to))
        return waits

    async def _write(self, engine: Engine, observer: Observer, change: Change) -> None:
        """Stores one change; a node that may still run the replica passes it on by itself."""
        replica = (change.agent, change.number)
        known = self._view.assignments.get(replica)
        present = None if known is None else known.value
        if present is not None and present.node and observer.may_run(present.node):
            wanted = replace(present, to=change.node, gently=change.gently)
            if not present.lease and change.node:  # it has not begun there
                wanted = Assignment(node=change.node)
        elif not change.node:
            await self._delete(engine, replica)
            return
        else:
            wanted = Assignment(node=change.node)
        if wanted != present:
            await self._put(engine, replica, wanted)

    async def _put(self, engine: Engine, replica: ReplicaName, wanted: Assignment) -> None:
        known = self._view.assignments.get(replica)
        revision = 0 if known is None else known.revision
        try:
            written = await engine.put(assignment_key(replica), encoded(wanted), revision=revision)
        except Conflict:
            return  # the watch brings the newer state, and with it the next look
        self._view.put(replica, wanted, written)

    async def _delete(self, engine: Engine, replica: ReplicaName) -> None:
        known = self._view.assignments.get(replica)
        if known is not None:
            with contextlib.suppress(Conflict):
                await engine.put(assignment_key(replica), None, revision=known.revision)

    def _note_refusal(self, agent: str, reason: str) -> None:
        if reason == self._refusals.get(agent, ""):
            return
        self._refusals[agent] = reason
        if reason:
            self._bus.publish("agent.unplaced", agent=agent, reason=reason)


def nodes_of(view: ClusterView, records: Mapping[str, NodeRecord]) -> dict[str, Node]:
    """Returns the nodes that have a lease, as placing sees them: the load is that of the assignments, those under way included."""
    load: dict[str, int] = {}
    for known in view.assignments.values():
        name = known.value.node if known.value.to is None else known.value.to
        load[name] = load.get(name, 0) + 1
    return {
        name: Node(
            name,
            record.capacity,
            load.get(name, 0),
            record.labels,
            "draining" if name in view.drained else record.state,
            frozenset(record.refuses),
        )
        for name, record in records.items()
    }
