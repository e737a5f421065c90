"""Changes how many workers an agent or server has: on request, by its load, or by the configuration.

Guarantees one change of an agent's workers at a time, and none while it is removed. Does not know which number is
right.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable

from corral.supervisor.config.spec.loader import to_table
from corral.supervisor.config.spec.spec import Spec, rescaled
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, CorralError, ResourceLimitExceeded

from ..kept.record import Cause
from ..kept.revisions import Revisions
from .agent import Agent, check_range, has_range, spec_of
from .operations import Operations
from .registry import Registry
from .startup import Startup
from .tool_cache import ToolCache

CLOSED_MAX = 250
"""Number of removed workers whose garbage may stay: 3 to 9 MB, with the zygotes of their agents."""

COLLECTION_S = 1.0
"""Seconds until it is collected: more are removed in one go, or the daemon ends."""


class Garbage:
    """Collects what removed workers leave: they and their zygotes are circles, for which the collector would wait for days."""

    def __init__(self, collect: Callable[[], object] = gc.collect) -> None:
        self._collect = collect
        self._closed = 0

    def add(self) -> None:
        """Notes that a worker was closed."""
        self._closed += 1
        if self._closed == CLOSED_MAX:
            asyncio.get_running_loop().call_later(COLLECTION_S, self._clear)

    def _clear(self) -> None:
        self._closed = 0
        self._collect()


class Replicas:
    """Makes, adds and removes the workers of one daemon's agents and servers."""

    def __init__(
        self,
        workers: WorkersGroup,
        registry: Registry,
        revisions: Revisions,
        startup: Startup,
        operations: Operations,
        tools: ToolCache,
    ) -> None:
        self._workers = workers
        self._shared = workers.shared
        self._registry = registry
        self._revisions = revisions
        self._startup = startup
        self._operations = operations
        self._tools = tools
        self._on_scaled: list[Callable[[Agent], None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._garbage = Garbage()

    def subscribe(self, on_scaled: Callable[[Agent], None]) -> None:
        """Subscribes `on_scaled` to agents that a caller or the configuration gave another number of workers."""
        self._on_scaled.append(on_scaled)

    async def scale(
        self,
        name: str,
        instances: int,
        *,
        wait: bool,
        reason: str = "requested by a caller",
        cause: Cause | None = None,
    ) -> Agent:
        """Gives an agent more or fewer workers, the highest numbers go first. With a `cause` the number becomes part of the table of an added one."""
        agent = self._registry.of(name)
        async with self._registry.changing(agent):
            self._startup.check_may_start(())
            if cause is not None and agent.spec.placement is not None:
                reason = "the cluster, which has placed it, ends it"
                raise Conflict(f'cannot scale "{name}": {reason}', name=name)
            check_range(agent.spec, instances)
            spares = agent.spec.spares if instances > 0 else 0
            before = max(0, len(agent.supervisors) - spares)
            more = instances - before
            if more > 0:
                self._check_ids(agent, instances + spares)
                await self._grow(agent, instances + spares - len(agent.supervisors), wait)
            elif more < 0:
                await self._shrink(agent, instances + spares)
            is_kept = agent.added and not has_range(agent.spec)  # of the file's, the file says it
            is_other = 0 < instances != agent.spec.instances.minimum
            if is_kept and is_other and cause is not None:
                agent.spec = rescaled(agent.spec, instances)
                table = to_table(agent.spec, self._registry.config.defaults)
                await self._revisions.record(name, agent.spec.kind, table, cause, is_settled=True)
            self._publish_scaled(name, instances, before, reason)
            for notify in self._on_scaled:
                notify(agent)
        return agent

    async def adjust(self, agent: Agent, instances: int, reason: str, is_right: Callable[[], bool]) -> bool:
        """Gives an agent with a range more workers, or removes the last ones without tasks; False if it did not, or `is_right` says no in its lock."""
        async with self._registry.changing(agent):
            self._startup.check_may_start(())
            before, leaving = len(agent.supervisors), agent.supervisors[instances:]
            if any(supervisor.running for supervisor in leaving) or not is_right():
                return False
            if leaving:
                await self._shrink(agent, instances)
            else:
                instances = min(instances, self._bounded(agent, instances))
                await self._grow(agent, instances - before, wait=False)
            self._publish_scaled(agent.name, instances, before, reason)
        return True

    def _publish_scaled(self, name: str, instances: int, before: int, reason: str) -> None:
        self._shared.bus.publish("agent.scaled", agent=name, instances=instances, before=before, reason=reason)

    async def grow(self, agent: Agent) -> None:
        """Adds a worker to a server for a call, which starts it."""
        async with self._registry.changing(agent):
            self._startup.check_may_start(())
            self._startup.check_capacity({agent.name: 1})
            before = len(agent.supervisors)
            most = agent.spec.instances.maximum + agent.spec.spares
            free = self._registry.workers_max(agent.name)
            if before < (most if free is None else min(most, free)):
                self._append(agent, 1)
                self._publish_scaled(agent.name, before + 1, before, "a call found no free process")

    def _check_ids(self, agent: Agent, number: int) -> None:
        """Refuses a number of workers with which the id of one were the name of another agent, server, team or workflow."""
        most = self._registry.workers_max(agent.name)
        if most is not None and number > most:
            name = f"{agent.name}-{most}"
            words = f'cannot scale "{agent.name}" to {number}: "{name}" is a name of its own, and no worker'
            raise Conflict(words, name=name, agent=agent.name, max=most, value=number)

    def _bounded(self, agent: Agent, number: int) -> int:
        """Returns as many of that number of workers as names of others leave."""
        most = self._registry.workers_max(agent.name)
        if most is None or number <= most:
            return number
        if most <= len(agent.supervisors):
            self._check_ids(agent, number)
        return most

    def _append(self, agent: Agent, more: int) -> list[WorkerSupervisor]:
        first = len(agent.supervisors)
        new = [self.supervisor(agent.spec, number) for number in range(first, first + more)]
        agent.supervisors += new
        if agent.spec.kind == "mcp":
            for supervisor in new:
                self._tools.attach(agent, supervisor)
        return new

    async def _grow(self, agent: Agent, more: int, wait: bool) -> None:
        wanted = agent.wanted or not (agent.supervisors or agent.held)
        if wanted:
            self._startup.check_capacity({agent.name: more})
        first = len(agent.supervisors)
        new = self._append(agent, more)
        if wanted:
            try:
                self._startup.check_may_begin(new)
            except CorralError:
                del agent.supervisors[first:]  # nobody would start them later
                await self.close(new)
                raise
            await self._startup.bring_up(new, wait=wait)

    async def _shrink(self, agent: Agent, instances: int) -> None:
        leaving = agent.supervisors[instances:]
        held = agent.held
        with self._registry.excluded(leaving):
            await self._operations.stop(leaving)
            # All of them before anything is awaited: the caller may be cancelled, and a worker's number is its index.
            del agent.supervisors[instances:]
            coming = [agent.incoming.pop(n) for n in list(agent.incoming) if n >= instances]
            agent.held = held
            await self.close([*leaving, *coming])

    async def rescale(self, name: str, instances: int) -> None:
        """Scales an agent to what its spec says, if it has fewer workers than the least, or more than the most."""
        agent = self._registry.agents.get(name)
        if agent is None:
            return
        spec = agent.spec
        if agent.target is not None:
            return  # the number of workers is part of the change, which ends with this
        most = spec.instances.maximum
        if instances + spec.spares <= len(agent.supervisors) <= most + spec.spares:
            return  # calls or tasks may have asked for more than the least
        if spec.kind == "agent" and len(agent.supervisors) > most:
            instances = most
        try:
            await self.scale(name, instances, wait=False, reason="the configuration says so")
        except ResourceLimitExceeded as error:
            self._shared.bus.publish("limit.processes", agent=name, reason=error.message)

    async def fit(self, agent: Agent, number: int) -> None:
        """Gives an agent as many workers as another program had, before one of them has begun."""
        self._append(agent, max(0, number - len(agent.supervisors)))
        surplus = agent.supervisors[number:]
        del agent.supervisors[number:]
        await self.close(surplus)

    def put_in_force(self, agent: Agent, spec: Spec) -> None:
        """Puts the keys of a spec in force that need no new process; the others with the next process of each worker."""
        before, agent.spec = agent.spec, spec
        for number, supervisor in enumerate(agent.supervisors):
            supervisor.reconfigure(spec_of(spec, number))
        self._shared.zygotes.note(agent)
        if spec.kind == "mcp":
            self._tools.reconfigure(agent, before)

    def supervisor(self, spec: Spec, number: int) -> WorkerSupervisor:
        """Makes the supervisor of worker `number`, which continues the incarnations of an earlier daemon."""
        worker_id = f"{spec.name}-{number}"
        earlier = self._shared.incarnations.last(worker_id)
        own, workers = spec_of(spec, number), self._workers
        return WorkerSupervisor(workers.shared, workers.requests, workers.changes, worker_id, own, incarnation=earlier)

    async def settle(self) -> None:
        """Waits until every worker that was removed is closed."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def close(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Closes supervisors of removed workers; also to the end if the caller is cancelled."""
        closing = asyncio.create_task(self._close_each(supervisors))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)

    async def _close_each(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        for supervisor in supervisors:
            await supervisor.close()
            self._garbage.add()


async def seen_through(work: Coroutine[None, None, None]) -> None:
    """Awaits `work` to its end, also if the caller is cancelled; `work` has to be bounded."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
