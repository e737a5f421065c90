"""Joins a cluster, and keeps this node's part of it up until the daemon ends.

The engine is looked for again and again: a daemon whose engine is away runs its local agents, and says that it is degraded.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from ...worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Timeout,
    Unreachable,
)
from ...worker.control.nodes import Node
from ..agents.agents import Agents
from ..api.caller import Caller
from ..api.services import FoundEngine
from ..cluster.lease import Lease, Timing
from ..cluster.settings import ClusterSettings
from ..engine.connection import open_engine
from ..engine.interface import Engine, Watch
from ..nodes.membership import Membership, boot_clock
from ..nodes.observer import nodes_now
from ..nodes.record import NodeRecord
from ..supervision.shared import Shared, utc_now
from .carried_state import CarriedState
from .forwarding import Forwarding, Question
from .lease_holder import PART, LeaseHolder
from .one_view import UNITED, united
from .placed_agents import PlacedAgents
from .placed_runner import PlacedRunner
from .placed_tasks import PlacedTasks
from .placer import Placer
from .remote_caller import RemoteCaller
from .specs import SpecPublisher
from .state import STATE, Drained, drained_key, encoded
from .task_calls import TaskCalls
from .view import ClusterView

AGAIN_S = 1.0
"""Seconds between two attempts to reach an engine at the start."""

ANSWER_S = 5.0
"""Seconds that a question about all nodes may take."""

ALL_S = 2.0
"""Seconds that each node has for its part of an answer of all nodes; one that is silent is named as missing."""

LEAVE_S = 2.0
"""Seconds that the end of the daemon waits for the engine."""

ALL_NODES = "*"
"""The name that stands for all nodes."""

NODE_KEY = "node"
"""The key of the params of every method that names the node that is to answer."""

ABOUT_AGENTS = frozenset(
    (
        "agent",
        "checkpoint",
        "log",
        "mcp",
        "memory",
        "metrics",
        "statistics",
        "task",
        "team",
        "workflow",
    )
)
"""The first words of methods whose names are those of agents, servers, teams and workflows."""

SERVER_MARK = "__"
"""Stands between the name of a server and that of its tool."""

logger = logging.getLogger(__name__)


class ClusterNode:
    """Represents this daemon in its cluster.

    Args:
        settings: `[cluster]`.
        name: of this node.
        version: of corral.
        shared: the launcher, the events, and the rights to run placed agents.
        token: returns the token of the engine, with its secret in place.
        agents: the running set.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        name: str,
        version: str,
        shared: Shared,
        token: Callable[[], str],
        agents: Agents,
    ) -> None:
        self.name = name
        self.settings = settings
        self.timing = Timing(lease_s=float(settings.lease), beat_s=settings.beat)
        self._version = version
        self._token = token
        self._incarnation = uuid.uuid4().hex
        self._engine: Engine | None = None
        self._last: list[Node] = []
        self._problem = ""
        self.view = ClusterView()
        self._membership: Membership | None = None
        self.forwarding = forwarding = Forwarding(name)
        self.carried = CarriedState(
            lambda: self._engine,
            lambda agent: self.placed.fence(agent) if self._holds_lease() else None,
            lambda agent, task, reason: self.tasks.note_late(agent, task, reason),
        )
        self.tasks = PlacedTasks(
            name, self.view, agents, shared.placements, shared.bus, self._holds_lease, self.carried
        )
        self._task_calls = TaskCalls(name, self.tasks, forwarding)
        self.runner = PlacedRunner(name, self.tasks, lambda: self._engine)
        self.placed = PlacedAgents(name, self.view, agents, shared, self.tasks, self.carried)
        self.holder = LeaseHolder(
            name, shared.launcher, shared.bus, shared.placements, self._lease, self.placed
        )
        self._specs = SpecPublisher(name, agents.config, shared.bus)
        agents.reload.subscribe(self._specs.reloaded)
        self._placer = Placer(
            name,
            self._incarnation,
            self.view,
            shared.bus,
            self.timing,
            lambda: self.holder.may_start,
        )

    # -- for status

    @property
    def degraded(self) -> list[str]:
        """Returns the word for it where the node has no lease that it can rely on."""
        return [PART] if self.holder.is_degraded else []

    # -- for methods

    async def found(self) -> FoundEngine:
        """Returns what the engine is, why this node has not joined, and what the engine cannot promise as it is set up now."""
        name = f"{self.settings.engine} at {self.settings.shown}"
        if self._engine is None:
            return FoundEngine(name, problem=self._problem or f"{name}: no answer yet")
        try:
            weak = await self._engine.weaknesses()
        except CorralError as error:
            return FoundEngine(name, problem=error.message)
        return FoundEngine(f"{name}, as node {self.name}", weaknesses=weak)

    async def nodes(self) -> list[Node]:
        """Returns the nodes that have a lease, and those that are drained, by name; those known last while the engine is away.

        Raises:
            Timeout: the engine does not answer.
        """
        if self.holder.is_degraded:
            known = {each.name: each for each in self._last}
            own = _node(self._record(), self.name)
            others = [replace(each, state="unknown") for each in known.values() if not each.here]
            return sorted([replace(own, state="away"), *others], key=lambda each: each.name)
        self._last = await self._nodes_now()
        return self._last

    async def _nodes_now(self) -> list[Node]:
        engine = self._reached("list the nodes")
        try:
            records = {each.name: each for each in await nodes_now(engine, ANSWER_S)}
        except TimeoutError:
            raise self._no_answer("list the nodes") from None
        return [_node(record, self.name) for _, record in sorted(records.items())]

    async def drain(self, node: str, by: str) -> Node:
        """Requests that a node gives its replicas away, and gets no new ones, until `resume`.

        Raises:
            NotFound: no node of that name has a lease.
            Timeout: the engine does not answer.
        """
        return await self._set_drained(node, Drained(by=by, at=utc_now()))

    async def resume(self, node: str) -> Node:
        """Lets a node get replicas again.

        Raises:
            NotFound: no node of that name has a lease.
            Timeout: the engine does not answer.
        """
        return await self._set_drained(node, None)

    async def _set_drained(self, node: str, wanted: Drained | None) -> Node:
        found = {each.name: each for each in await self._nodes_now()}
        if node not in found:
            raise NotFound(f'cannot find node "{node}"', name=node, known=sorted(found))
        engine, key = self._reached(f'drain node "{node}"'), drained_key(node)
        while True:
            entry = await engine.get(key)
            try:
                if wanted is not None and entry is None:
                    await engine.put(key, encoded(wanted), revision=0)
                elif wanted is None and entry is not None:
                    await engine.delete(key, revision=entry.revision)
            except Conflict:
                continue  # another one has just done the same, or the opposite
            state = "ready" if wanted is None else "draining"
            return replace(found[node], state=state)

    def _reached(self, what: str) -> Engine:
        if self._engine is None:
            raise self._no_answer(what)
        return self._engine

    def _no_answer(self, what: str) -> Timeout:
        return Timeout(
            f"cannot {what}: the engine at {self.settings.shown} does not answer",
            engine=self.settings.engine,
            url=self.settings.shown,
            uncertain=False,
        )

    def placed_call(self, method: str, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Returns the answer to a call about a task of a placed agent, which the engine keeps; None for other calls."""
        return self._task_calls.answer(method, asked, caller, self._reached)

    # -- calls about other nodes

    async def routed(
        self,
        method: str,
        streams: bool,
        reads: bool,
        params: Mapping[str, object],
        caller: Caller,
        here: Callable[[Mapping[str, object]], Awaitable[object]],
    ) -> object:
        """Returns the answer of the node that the key `node` of the params names, or of the one that has what they are about.

        A name that this daemon does not know is looked for on the other nodes, for callers that are not restricted.

        Raises:
            Unreachable: that node is not there.
            CorralError: as the node answers.
        """
        own = {key: value for key, value in params.items() if key != NODE_KEY}
        is_free = caller.agents is None and not caller.tenant
        is_united = method in UNITED and is_free and not isinstance(caller, RemoteCaller)
        node = params.get(NODE_KEY, ALL_NODES if is_united else self.name)
        if not isinstance(node, str):
            raise InvalidParams("cannot choose a node: its name is a string", key=NODE_KEY)
        if node == ALL_NODES:
            if not reads or streams:
                reason = "it changes something, or streams"
                raise InvalidParams(
                    f"cannot call {method} on all nodes: {reason}", key=NODE_KEY, reason=reason
                )
            return await self._of_all(method, own, caller, here)
        if node == self.name:
            try:
                return await here(own)
            except NotFound:
                question = about(method, own)
                if question is None or not is_free or NODE_KEY in params or self._engine is None:
                    raise
                node = await self._node_of(self._engine, question)
                if not node:
                    raise
        engine = self._reached(f'reach node "{node}"')
        return await self.forwarding.forward(engine, node, method, own, caller, streams=streams)

    async def _of_all(
        self,
        method: str,
        own: Mapping[str, object],
        caller: Caller,
        here: Callable[[Mapping[str, object]], Awaitable[object]],
    ) -> object:
        """Returns the lists of all nodes as one, each entry with its node; other values are those of this node.

        `missing_nodes` are those that do not answer within ALL_S; with the engine away, all others that were known.

        Raises:
            NotFound: no node has the named one.
        """
        try:
            answers: dict[str, object] = {self.name: await here(own)}
            failed: NotFound | None = None
        except NotFound as error:
            answers, failed = {}, error
        others = await self._others()
        found = await asyncio.gather(*(self._of_one(each, method, own, caller) for each in others))
        missing = [node for node, answer in zip(others, found, strict=True) if answer is None]
        for node, answer in zip(others, found, strict=True):
            if answer is not None and not isinstance(answer, CorralError):
                answers[node] = answer
        if failed is not None and not answers:
            raise failed
        if method == "task.list" and self._engine is not None and not missing:
            with contextlib.suppress(CorralError):
                answers[""] = await self._task_calls.waiting(self._engine, own)
        return {**united(method, answers), "missing_nodes": missing}

    async def _others(self) -> list[str]:
        """Returns the names of the other nodes; those that were known last where the engine does not answer now."""
        if self._engine is not None and not self.holder.is_degraded:
            with contextlib.suppress(TimeoutError, CorralError):
                records = await nodes_now(self._engine, ALL_S)
                self._last = [_node(each, self.name) for each in records]
        return [each.name for each in self._last if not each.here]

    async def _of_one(
        self, node: str, method: str, own: Mapping[str, object], caller: Caller
    ) -> object:
        """Returns the answer of one of all nodes; an error where it has nothing to say, None where it does not answer."""
        if self._engine is None or self.holder.is_degraded:
            return None
        try:
            async with asyncio.timeout(ALL_S):
                return await self.forwarding.forward(
                    self._engine, node, method, own, caller, streams=False, timeout_s=ALL_S
                )
        except (Unreachable, Timeout, TimeoutError):
            return None
        except CorralError as error:
            return error

    async def _node_of(self, engine: Engine, question: Question) -> str:
        """Returns another node that has something, "" where there is none."""
        if len(question.names) == 1 and (found := self.view.nodes_of(question.names[0])):
            return next((each for each in found if each != self.name), "")
        return await self.forwarding.find(engine, question)

    # -- its life

    async def run(self) -> None:
        """Joins, and keeps the lease until it is cancelled; the workers of the cluster have to be stopped by then."""
        engine = await self._open()
        self._engine, self._problem = engine, ""
        try:
            membership = Membership(engine, self._record, self.holder, timing=self.timing)
            self._membership = membership
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(membership.run())
                    group.create_task(self._warn(engine))
                    group.create_task(self._follow(engine))
                    group.create_task(self.placed.run(engine))
                    group.create_task(self._specs.run(engine))
                    group.create_task(self._placer.run(engine))
                    group.create_task(self.tasks.follow_ends(engine))
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
                if not self._problem:
                    logger.warning("this node is not in its cluster yet: %s", error)
                self._problem = error.message
                self.holder.note_engine(is_there=False)
                await asyncio.sleep(AGAIN_S)

    async def _warn(self, engine: Engine) -> None:
        """Writes what the engine cannot promise to the log."""
        try:
            for each in await engine.weaknesses():
                logger.warning("the engine of the cluster: %s", each)
        except CorralError as error:
            logger.warning("cannot read the settings of the engine: %s", error)

    async def _follow(self, engine: Engine) -> None:
        """Follows what the engine keeps about the cluster."""
        watch: Watch = await engine.watch(STATE)
        try:
            await watch.synced()
            while True:
                if not watch.unread:
                    self.view.synced.set()
                self.view.take(await watch.next())
        finally:
            await watch.close()

    def _holds_lease(self) -> bool:
        """Returns whether the lease holds at this moment, also where nothing has looked at the clock yet."""
        lease = self._lease()
        is_held = lease.phase in ("held", "doubtful")
        return is_held and boot_clock() < lease.good_at + self.timing.stop_after_s

    def _lease(self) -> Lease:
        return Lease() if self._membership is None else self._membership.lease

    def _record(self) -> NodeRecord:
        return NodeRecord(
            name=self.name,
            incarnation=self._incarnation,
            version=self._version,
            labels=self.settings.labels,
            capacity=self.settings.capacity,
            load=self.placed.load,
            state="draining" if self.name in self.view.drained else "ready",
        )


def _node(record: NodeRecord, here: str) -> Node:
    return Node(
        name=record.name,
        state=record.state,
        version=record.version,
        labels=record.labels,
        capacity=record.capacity,
        load=record.load,
        here=record.name == here,
    )


def about(method: str, params: Mapping[str, object]) -> Question | None:
    """Returns what a call is about, as far as its params name agents, servers, workers or a task; None where they do not."""
    if method.partition(".")[0] not in ABOUT_AGENTS:
        return None
    task = params.get("task")
    if isinstance(task, str):
        return Question(task=task)
    names = [params[key] for key in ("name", "agent", "worker") if params.get(key) is not None]
    given = params.get("names")
    names += given if isinstance(given, list) else []
    found = [name for name in names if isinstance(name, str)]
    if method == "mcp.call":
        found = [name.partition(SERVER_MARK)[0] for name in found if SERVER_MARK in name]
    return Question(names=found) if found else None
