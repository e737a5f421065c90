"""How many workers each agent and server has: somebody says a number, its load or the file does.

One change of an agent's workers at a time, and none while it is removed. Which number is right is not known here.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence

from msgspec.structs import replace

from ...mcp.pool.pool import Pool
from ...worker.contract.errors import CorralError, NotFound, ResourceLimitExceeded
from ..config.loader import to_table
from ..config.spec import Config, Scale, Spec
from ..supervision.worker_supervisor import Service, Shared, WorkerSupervisor
from .agent import Agent, check_range, has_range, spec_of
from .mcp_server import McpServers
from .operations import Running
from .tool_cache import ToolCache


class Staffing(Running):
    """The workers of one daemon's agents and servers."""

    def __init__(self, shared: Shared, config: Config, service: Service, pool: Pool) -> None:
        super().__init__(shared, config)
        self.servers = McpServers(pool, shared.bus, ToolCache(shared.store), self)
        self.on_scaled: Callable[[Agent], None] = _overlook
        """Called when somebody has given an agent another number of workers."""
        self._service = service
        self._closing: set[asyncio.Task[None]] = set()

    async def scale(
        self, name: str, instances: int, *, wait: bool, reason: str = "somebody asked for it"
    ) -> Agent:
        """Gives an agent more or fewer workers; the highest numbers go first.

        Raises:
            InvalidParams: it has a range, and that is neither in it nor 0.
            NotFound, ResourceLimitExceeded, SpawnFailed, Timeout: as for start and stop.
        """
        agent = self.of(name)
        async with self._changing(agent):
            self.check_may_start(())
            check_range(agent.spec, instances)
            spares = agent.spec.spares if instances > 0 else 0
            before = max(0, len(agent.supervisors) - spares)
            more = instances - before
            if more > 0:
                await self._grow(agent, instances + spares - len(agent.supervisors), wait)
            elif more < 0:
                await self._shrink(agent, instances + spares)
            is_kept = agent.added and not has_range(agent.spec)
            if is_kept and instances > 0:  # of the file's agents the file says how many
                agent.spec = replace(agent.spec, instances=Scale(instances, instances))
                await self._roster.change(name, to_table(agent.spec, self.config.defaults))
            self._tell_scaled(name, instances, before, reason)
            self.on_scaled(agent)
        return agent

    async def adjust(
        self, agent: Agent, instances: int, reason: str, is_right: Callable[[], bool]
    ) -> bool:
        """Gives an agent with a range more workers, or takes away the last ones if they have no task.

        False when nothing was done: they have, or `is_right` says no, once nobody else changes the agent.

        Raises:
            NotFound, Conflict, ResourceLimitExceeded, ShuttingDown, Timeout: as for start and stop.
        """
        async with self._changing(agent):
            self.check_may_start(())
            before, leaving = len(agent.supervisors), agent.supervisors[instances:]
            if any(supervisor.running for supervisor in leaving) or not is_right():
                return False
            if leaving:
                await self._shrink(agent, instances)
            else:
                await self._grow(agent, instances - before, wait=False)
            self._tell_scaled(agent.name, instances, before, reason)
        return True

    def _tell_scaled(self, name: str, instances: int, before: int, reason: str) -> None:
        self.shared.bus.publish(
            "agent.scaled", agent=name, instances=instances, before=before, reason=reason
        )

    async def grow(self, agent: Agent) -> None:
        """Gives a server one more worker for a caller, which starts it.

        Raises:
            NotFound, ResourceLimitExceeded, ShuttingDown: that cannot be done.
        """
        async with self._changing(agent):
            self.check_may_start(())
            self.check_capacity(1)
            before = len(agent.supervisors)
            if before < agent.spec.instances.maximum + agent.spec.spares:
                self._append(agent, 1)
                self._tell_scaled(agent.name, before + 1, before, "a call found no free process")

    def _append(self, agent: Agent, more: int) -> list[WorkerSupervisor]:
        first = len(agent.supervisors)
        new = [self._supervisor(agent.spec, number) for number in range(first, first + more)]
        agent.supervisors += new
        if agent.spec.kind == "mcp":
            for supervisor in new:
                self.servers.attach(agent, supervisor)
        return new

    async def _grow(self, agent: Agent, more: int, wait: bool) -> None:
        wanted = agent.wanted or not (agent.supervisors or agent.held)
        if wanted:
            self.check_capacity(more)
        first = len(agent.supervisors)
        new = self._append(agent, more)
        if wanted:
            try:
                self.check_may_begin(new)
            except CorralError:
                del agent.supervisors[first:]  # nobody would start them later
                await self._close(new)
                raise
            await self.bring_up(new, wait=wait)

    async def _shrink(self, agent: Agent, instances: int) -> None:
        leaving = agent.supervisors[instances:]
        held = agent.held
        async with self._leave(leaving):
            await self.stop(leaving)
            # All of them before anything is awaited: whoever asked may hang up, and a number is a place.
            del agent.supervisors[instances:]
            agent.held = held
            await self._close(leaving)

    async def _rescale(self, name: str, instances: int) -> None:
        agent = self.agents.get(name)
        if agent is None:
            return
        spec = agent.spec
        most = spec.instances.maximum
        if instances + spec.spares <= len(agent.supervisors) <= most + spec.spares:
            return  # calls or tasks may have asked for more than the least
        if spec.kind == "agent" and len(agent.supervisors) > most:
            instances = most
        try:
            reason = "the configuration says so"
            await self.scale(name, instances, wait=False, reason=reason)
        except ResourceLimitExceeded as error:
            self.shared.bus.publish("limit.processes", agent=name, reason=error.message)

    # -- one change at a time

    @contextlib.asynccontextmanager
    async def _changing(self, agent: Agent) -> AsyncGenerator[None, None]:
        """One change of an agent's workers at a time; whoever waited may find it gone."""
        async with agent.changing:
            if self.agents.get(agent.name) is not agent:
                raise was_removed(agent.name)
            yield

    @contextlib.asynccontextmanager
    async def _leave(self, supervisors: Sequence[WorkerSupervisor]) -> AsyncGenerator[None, None]:
        """While workers come or go, nobody starts them."""
        self._leaving.update(supervisors)
        try:
            yield
        finally:
            self._leaving.difference_update(supervisors)

    # -- workers

    def _supervisor(self, spec: Spec, number: int) -> WorkerSupervisor:
        worker_id = f"{spec.name}-{number}"
        earlier = self.shared.incarnations.last(worker_id)
        own = spec_of(spec, number)
        return WorkerSupervisor(self.shared, worker_id, own, self._service, incarnation=earlier)

    async def _close(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Closes what is no more, to the last also when whoever waits for it hangs up."""
        closing = asyncio.create_task(_close_each(supervisors))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)


async def seen_through(work: Coroutine[None, None, None]) -> None:
    """Does something to its end, also when whoever asked for it hangs up; it has to be bounded."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _close_each(supervisors: Iterable[WorkerSupervisor]) -> None:
    for supervisor in supervisors:
        await supervisor.close()


def _overlook(_agent: Agent) -> None:
    pass


def was_removed(name: str) -> NotFound:
    """For whoever waited for an agent that is gone by now."""
    return NotFound(f'cannot find agent "{name}": it was removed', name=name)
