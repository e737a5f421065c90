"""Joins a cluster, and keeps this node's part of it up until the daemon ends.

The engine is looked for again and again: a daemon whose engine is away runs its local agents, and says that it is degraded.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from corral import __version__
from corral.supervisor.agents.group import AgentsGroup
from corral.supervisor.api.table.cluster import Cluster, FoundEngine, Here
from corral.supervisor.api.table.handlers import Caller
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound, Timeout
from corral.worker.control.nodes import Node
from corral.worker.control.params import AddAllParams, AddParams, RemoveParams, ScaleParams

from ..calls.forwarding import Forwarding
from ..calls.router import ALL_S, OPERATIONS, Router
from ..engine.connection import open_engine
from ..engine.interface import Engine
from ..lease.lease_holder import PART, LeaseHolder
from ..lease.membership import Membership
from ..lease.observer import nodes_now
from ..lease.record import NodeRecord
from ..state.state import Drained, drained_key, encoded
from ..state.view import ClusterView, PlacedNames
from .carried_state import CarriedState
from .deadlines import Deadlines
from .fences import Fences
from .joining import Joining
from .placed_agents import PlacedAgents
from .placed_changes import PlacedChanges
from .placed_runner import PlacedRunner
from .placed_tasks import PlacedTasks
from .placer import Placer
from .shared_budgets import SharedBudgets
from .shared_schedules import SharedSchedules
from .specs import SpecPublisher
from .task_calls import TaskCalls

AGAIN_S = 1.0
"""Seconds between two attempts to reach an engine at the start."""

ANSWER_S = 5.0
"""Seconds that a question about all nodes may take."""

LEAVE_S = 2.0
"""Seconds that the end of the daemon waits for the engine."""

logger = logging.getLogger(__name__)


class ClusterNode(Cluster):
    """Represents this daemon in its cluster."""

    def __init__(
        self, joining: Joining, token: Callable[[], str], workers: WorkersGroup, group: AgentsGroup, tasks: TasksGroup
    ) -> None:
        shared, agents = workers.shared, group.agents
        self.name = name = joining.node
        self.settings = joining.settings
        self._token = token
        self._last: list[Node] = []
        self._joining = joining
        self.view = view = ClusterView()
        placed, fences = PlacedNames(view, agents.in_force), Fences(joining, shared.placements)
        self.forwarding = Forwarding(name, joining.incarnation, joining.has_name)
        history = tasks.tool_calls.history
        self.carried = CarriedState(fences, placed, shared.bus, group.memory, workers.checkpoints, history)
        self.tasks = PlacedTasks(name, view, placed, fences, self.carried, agents, tasks.tasks)
        self.placed = PlacedAgents(name, view, fences, self.carried, agents, self.tasks)
        self.holder = LeaseHolder(name, shared.launcher, shared.bus, fences.placements, joining.lease, self.placed)
        self._task_calls = TaskCalls(name, self.tasks, self.forwarding, joining.reached)
        self._router = Router(
            name, self.forwarding, joining.reached, self._others, view.nodes_of, self._task_calls.kept, self._is_cut_off
        )
        self.runner = PlacedRunner(name, self.tasks, joining)
        self.budgets = SharedBudgets(name, view, tasks.budgets)
        self.schedules = SharedSchedules(view, joining)
        self.changes = PlacedChanges(name, view, agents)
        self._specs = SpecPublisher(name, agents.config, shared.bus)
        agents.in_force.subscribe(self._specs.reloaded)
        self._deadlines = Deadlines(view, self.tasks, self.changes, self.forwarding)
        self._placer = Placer(name, view, shared.bus, joining, self.holder, self._deadlines.look_through)

    # -- for status

    @property
    def degraded(self) -> list[str]:
        """Returns the word for it where the node has no lease that it can rely on."""
        return [PART] if self.holder.is_degraded else []

    @property
    def problem(self) -> str:
        """Returns why it has none."""
        return self._joining.trouble() if self.holder.is_degraded else ""

    # -- for methods

    async def found(self) -> FoundEngine:
        """Returns what the engine is, why this node has not joined, and what the engine cannot promise as it is set up now."""
        name = f"{self.settings.engine} at {self.settings.shown}"
        if self._joining.engine is None:
            return FoundEngine(name, problem=self._joining.problem or f"{name}: no answer yet")
        if self.holder.is_degraded:
            return FoundEngine(name, problem=self._joining.trouble())
        try:
            weak = await self._joining.engine.weaknesses()
        except CorralError as error:
            return FoundEngine(name, problem=error.message)
        return FoundEngine(f"{name}, as node {self.name}", weaknesses=weak)

    async def nodes(self) -> list[Node]:
        """Returns the nodes that have a lease, and those that are drained, by name; those known last while the engine is away."""
        if self._is_cut_off():
            known = {each.name: each for each in self._last}
            own = self._node(self._record())
            others = [replace(each, state="unknown") for each in known.values() if not each.here]
            return sorted([replace(own, state="away"), *others], key=lambda each: each.name)
        self._last = await self._nodes_now()
        return self._last

    async def _nodes_now(self) -> list[Node]:
        engine = self._joining.reached("list the nodes")
        try:
            records = {each.name: each for each in await nodes_now(engine, ANSWER_S)}
        except TimeoutError:
            raise self._joining.no_answer("list the nodes") from None
        return [self._node(record) for _, record in sorted(records.items())]

    def routed(
        self, method: str, streams: bool, reads: bool, params: Mapping[str, object], caller: Caller, here: Here
    ) -> Awaitable[object]:
        """Returns the answer of the node that the params name, or has what they are about, or of all."""
        return self._router.routed(method, streams, reads, params, caller, here)

    async def drain(self, node: str, by: str) -> Node:
        """Requests that a node gives its replicas away, and gets no new ones, until `resume`."""
        return await self._set_drained(node, Drained(by=by, at=utc_now()))

    async def resume(self, node: str) -> Node:
        """Lets a node get replicas again."""
        return await self._set_drained(node, None)

    async def _set_drained(self, node: str, wanted: Drained | None) -> Node:
        found = {each.name: each for each in await self._nodes_now()}
        if node not in found:
            raise NotFound(f'cannot find node "{node}"', name=node, known=sorted(found))
        engine, key = self._joining.reached(f'drain node "{node}"'), drained_key(node)
        while True:
            entry = await engine.get(key)
            try:
                if wanted is not None and entry is None:
                    await engine.put(key, encoded(wanted), revision=0)
                elif wanted is None and entry is not None:
                    await engine.put(key, None, revision=entry.revision)
            except Conflict:
                continue  # another one has just done the same, or the opposite
            state = "ready" if wanted is None else "draining"
            return replace(found[node], state=state)

    def placed_call(self, method: str, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Returns the answer to a call about a task or the memory of a placed agent, which all nodes have; None for other calls."""
        if method in OPERATIONS and (places := self._places(asked)):
            return self._router.on_all(method, asked, caller, places)
        if isinstance(asked, ScaleParams) and self.tasks.is_placed(asked.name):
            engine = self._joining.reached(f'scale "{asked.name}"')
            statuses = self._router.statuses(asked.name, caller)
            return self.changes.scale(engine, asked, statuses)
        if (changed := self._changed_set(asked, caller)) is not None:
            return changed
        agent = getattr(asked, "agent", None)
        if method.startswith("memory.") and self.tasks.is_placed(agent):
            nodes = self.view.nodes_of(str(agent))
            return self._router.of_placed(method, asked, caller, nodes)
        return self._task_calls.answer(method, asked, caller)

    def _changed_set(self, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Adds or removes placed agents in the whole cluster; returns None for a call about others."""
        if isinstance(asked, AddParams) and "placement" in asked.spec:
            engine = self._joining.reached(f'add "{asked.name}"')
            return self.changes.add(engine, asked, self._router.statuses(asked.name, caller))
        if isinstance(asked, AddAllParams) and any("placement" in each.spec for each in asked.agents):
            engine = self._joining.reached("add agents")
            return self.changes.add_all(engine, asked, lambda name: self._router.statuses(name, caller))
        if isinstance(asked, RemoveParams) and asked.selector is None and asked.expected is None:
            names = asked.names if asked.name is None else [asked.name, *asked.names]
            if names and all(name in self.view.specs for name in names):
                return self.changes.remove(self._joining.reached(f'remove "{names[0]}"'), names)
        return None

    def _places(self, asked: Struct) -> dict[str, list[str]]:
        """Returns the nodes that run the named agents, each with their names; none unless all of them are placed."""
        names = getattr(asked, "names", [])
        if not names or not all(map(self.tasks.is_placed, names)):
            return {}
        found: dict[str, list[str]] = {}
        for name in names:
            for node in self.view.nodes_of(name):
                found.setdefault(node, []).append(name)
        return found

    # -- calls about other nodes

    def _is_cut_off(self) -> bool:
        """Returns whether the engine does not answer, as far as is known."""
        return self.holder.is_degraded and self._joining.other is None

    async def _others(self) -> list[str]:
        """Returns the names of the other nodes; those that were known last where the engine does not answer now."""
        if self._joining.engine is not None and not self._is_cut_off():
            with contextlib.suppress(TimeoutError, CorralError):
                records = await nodes_now(self._joining.engine, ALL_S)
                self._last = [self._node(each) for each in records]
        return [each.name for each in self._last if each.name != self.name]

    # -- its life

    async def run(self) -> None:
        """Joins, and keeps the lease until it is cancelled; the workers of the cluster have to be stopped by then."""
        engine = await self._open()
        self._joining.engine, self._joining.problem = engine, ""
        try:
            membership = Membership(engine, self._record, self.holder, timing=self._joining.timing)
            self._joining.membership = membership
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(membership.run())
                    group.create_task(self._warn(engine))
                    group.create_task(self.view.follow(engine))
                    group.create_task(self.placed.run(engine))
                    group.create_task(self._tell_own(engine, membership))
                    group.create_task(self._placer.run(engine))
                    group.create_task(self.tasks.ends.follow(engine))
                    group.create_task(self._deadlines.run(engine))
                    group.create_task(self.tasks.report_always(engine))
                    group.create_task(self.tasks.follow_cancels(engine))
                    group.create_task(self.forwarding.serve(engine))
                    group.create_task(self.forwarding.answer_where(engine))
            finally:
                await self.tasks.close()
                with contextlib.suppress(TimeoutError, CorralError):
                    async with asyncio.timeout(LEAVE_S):
                        await self.placed.release(engine)
                        await self._placer.leave(engine)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_S):
                        await membership.leave()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await engine.close()

    async def _open(self) -> Engine:
        """Connects to the engine, however long that takes."""
        while True:
            try:
                return await open_engine(self.settings, token=self._token())
            except (InvalidParams, Timeout) as error:
                if not self._joining.problem:
                    logger.warning("this node is not in its cluster yet: %s", error)
                self._joining.problem = error.message
                self.holder.note_engine(is_there=False)
                await asyncio.sleep(AGAIN_S)

    async def _tell_own(self, engine: Engine, membership: Membership) -> None:
        """Writes what is known by the name of this node, once that is its own."""
        await membership.joined.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._specs.run(engine))
            group.create_task(self.budgets.run(engine))

    async def _warn(self, engine: Engine) -> None:
        """Writes what the engine cannot promise to the log."""
        try:
            for each in await engine.weaknesses():
                logger.warning("the engine of the cluster: %s", each)
        except CorralError as error:
            logger.warning("cannot read the settings of the engine: %s", error)

    def _record(self) -> NodeRecord:
        return NodeRecord(
            name=self.name,
            incarnation=self._joining.incarnation,
            version=__version__,
            address=self._joining.address,
            since=self._joining.since,
            labels=self.settings.labels,
            capacity=self.settings.capacity,
            load=self.placed.load,
            state="draining" if self.name in self.view.drained else "ready",
            refuses=self.placed.refuses,
        )

    def _node(self, record: NodeRecord) -> Node:
        return Node(
            name=record.name,
            state=record.state,
            version=record.version,
            labels=record.labels,
            capacity=record.capacity,
            load=record.load,
            here=record.incarnation == self._joining.incarnation,
        )
