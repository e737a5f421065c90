"""The running set: every agent and MCP server with its keepers, and what people do with them.

Start, stop and restart are events for the lifecycle, which puts them in order by itself, so they
need no lock. What changes the set (add, rm, scale) is done one after the other per agent.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import asdict, replace

from ..mcp.messages import Tool
from ..mcp.pool import Concurrency, Pool
from ..mcp.session import Session
from ..worker import codec
from ..worker.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    ResourceLimitExceeded,
    ShuttingDown,
    SpawnFailed,
    Timeout,
)
from . import lifecycle
from .keeper import Keeper, Service, Shared
from .lifecycle import UP, State, Worker
from .process import Exit
from .reload import Effect, Plan, plan
from .spec import Config, Scale, Spec, check_requires, decode_agent, to_table

STOP_MARGIN_S = 30.0
"""Beyond the grace period: a stop that takes longer meets a process that the kernel cannot end."""

LEAST_ADVANCED = (State.TERMINATED, State.SHUTTING_DOWN, State.INITIAL, State.STARTING)

logger = logging.getLogger(__name__)


@dataclass
class Agent:
    """One agent or MCP server and its workers. `held`: somebody stopped it, so calls do not start it."""

    spec: Spec
    keepers: list[Keeper] = field(default_factory=list[Keeper])
    held: bool = False
    added: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.spec.name

    @property
    def wanted(self) -> bool:
        """Whether somebody wants a worker of it up."""
        return any(keeper.worker.wanted for keeper in self.keepers)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """A server's tools, as it listed them last."""
        return next((keeper.tools for keeper in self.keepers if keeper.tools), ())

    @property
    def state(self) -> State:
        """The one state for all workers, as `status` shows it."""
        workers = [keeper.worker for keeper in self.keepers]
        counted = [worker for worker in workers if worker.wanted] or workers
        states = [worker.state for worker in counted]
        for state in LEAST_ADVANCED:
            if state in states:
                return state
        for state in (State.BUSY, State.IDLE, State.READY):
            if state in states:
                return state
        return State.INITIAL  # scaled to none


class Agents:
    """The running set of one daemon."""

    def __init__(self, shared: Shared, config: Config, service: Service, pool: Pool) -> None:
        self.shared = shared
        self.config = config
        self.pool = pool
        self.agents: dict[str, Agent] = {}
        self.draining = False
        self._service = service
        self._incarnations: dict[str, int] = {}
        self._no_room: list[Keeper] = []
        self._leaving: set[Keeper] = set()

    # -- the set

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        rows = await self.shared.store.read("SELECT worker, value FROM incarnation")
        self._incarnations = {str(worker): int(str(value)) for worker, value in rows}
        for spec in self.config.agents.values():
            if not spec.disabled:
                self._insert(spec)
        rows = await self.shared.store.read("SELECT name, kind, table_json FROM agent")
        for name, kind, text in rows:
            self._load_added(str(name), str(kind), str(text))
        for spec in built_in:
            if spec.name not in self.agents and spec.name not in self.config.agents:
                self._insert(spec)

    def _load_added(self, name: str, kind: str, text: str) -> None:
        if name in self.config.agents:
            self.shared.bus.publish(
                "config.shadowed",
                agent=name,
                reason="the configuration file names it too, and wins",
            )
            return
        table = codec.as_object(codec.decode(text.encode()))
        assert table is not None, "the store holds tables that this program wrote"
        try:
            spec = self._decode(name, table, "mcp" if kind == "mcp" else "agent", "/")
            self._insert(spec, added=True)
        except CorralError as error:
            logger.error("%s", error)
            self.shared.bus.publish("config.refused", agent=name, reason=error.message)

    def _decode(self, name: str, table: Mapping[str, object], kind: str, directory: str) -> Spec:
        return decode_agent(
            name,
            table,
            kind="mcp" if kind == "mcp" else "agent",
            defaults=self.config.defaults,
            source="store",
            directory=directory,
        )

    def _insert(self, spec: Spec, *, added: bool = False) -> Agent:
        agent = Agent(spec, added=added)
        self.agents[spec.name] = agent
        for number in range(spec.instances.minimum):
            agent.keepers.append(self._keeper(spec, number))
        if spec.kind == "mcp":
            self.pool.add(ServerBackend(self, agent))
        self.shared.bus.publish("agent.added", agent=spec.name, kind=spec.kind)
        return agent

    def _keeper(self, spec: Spec, number: int) -> Keeper:
        worker_id = f"{spec.name}-{number}"
        earlier = self._incarnations.get(worker_id, 0)
        return Keeper(self.shared, worker_id, spec, self._service, incarnation=earlier)

    def of(self, name: str) -> Agent:
        """The agent or server of that name.

        Raises:
            NotFound: there is none.
        """
        agent = self.agents.get(name)
        if agent is None:
            raise NotFound(f'cannot find agent "{name}"', name=name, known=sorted(self.agents))
        return agent

    def keepers(self, name: str) -> list[Keeper]:
        """All keepers of an agent, or the one of a worker id.

        Raises:
            NotFound: the name is neither.
        """
        if name in self.agents:
            return self.agents[name].keepers
        for keeper in self.all_keepers():
            if keeper.id == name:
                return [keeper]
        raise NotFound(
            f'cannot find agent or worker "{name}"', name=name, known=sorted(self.agents)
        )

    def all_keepers(self) -> list[Keeper]:
        """Every keeper, in the order of the configuration."""
        return [keeper for agent in self.agents.values() for keeper in agent.keepers]

    def selected(self, names: Sequence[str], everything: bool) -> list[Keeper]:
        """The keepers that a command names.

        Raises:
            NotFound: a name is unknown.
            InvalidParams: nothing is named, or both names and all.
        """
        if everything == bool(names):
            raise InvalidParams(
                "cannot tell whom: give names, or all", key="names", value=list(names)
            )
        if everything:
            return self.all_keepers()
        return [keeper for name in names for keeper in self.keepers(name)]

    # -- reports of the launcher

    def exited(self, report: Exit) -> None:
        """Hands the death of a leader to its keeper."""
        for keeper in self._keeper_of_unit(report.unit):
            keeper.exited(report)

    def emptied(self, unit: str) -> None:
        """Hands the end of a tree to its keeper."""
        for keeper in self._keeper_of_unit(unit):
            keeper.emptied(unit)

    def fill_room(self) -> None:
        """Starts what found no room at boot, as far as there is some now."""
        limit = self.config.process.max_concurrent_processes
        while self._no_room and not self.draining and self.active() < limit:
            keeper = self._no_room.pop(0)
            if keeper.worker.wanted and keeper.worker.state is State.INITIAL:
                keeper.send(lifecycle.Start())

    def _keeper_of_unit(self, unit: str) -> list[Keeper]:
        worker_id = unit.rpartition("#")[0]
        agent = self.agents.get(worker_id.rpartition("-")[0])
        if agent is None:
            return []
        return [keeper for keeper in agent.keepers if keeper.id == worker_id]

    # -- what people ask for

    def boot(self) -> None:
        """Starts what starts by itself, as far as the process limit goes."""
        for agent in self.agents.values():
            if agent.spec.autostart:
                self._start_in_order(agent, agent.keepers, at_boot=True)

    def _start_in_order(
        self, agent: Agent, keepers: Iterable[Keeper], *, at_boot: bool = False
    ) -> None:
        agent.held = False
        for keeper in keepers:
            if at_boot and self.active() >= self.config.process.max_concurrent_processes:
                limit = self.config.process.max_concurrent_processes
                reason = f"max_concurrent_processes = {limit} is reached"
                keeper.send(lifecycle.Want(reason))
                self._no_room.append(keeper)
                self.shared.bus.publish("limit.processes", worker=keeper.id, reason=reason)
            elif agent.spec.requires:
                for required in (self.agents[name] for name in agent.spec.requires):
                    if not at_boot or not required.wanted:
                        idle = [k for k in required.keepers if not _is_active(k.worker)]
                        self._start_in_order(required, idle)
                names = ", ".join(agent.spec.requires)
                keeper.start_after(self._required_are_up(agent), f"waits for {names}")
            else:
                keeper.send(lifecycle.Start())

    async def _required_are_up(self, agent: Agent) -> None:
        for name in agent.spec.requires:
            for keeper in self.agents[name].keepers:
                await keeper.until(lambda worker: worker.state in UP)

    def active(self) -> int:
        """How many workers and servers have, or are about to have, processes."""
        return sum(_is_active(keeper.worker) for keeper in self.all_keepers())

    def check_capacity(self, more: int) -> None:
        """Refuses to start more processes than the daemon may have.

        Raises:
            ResourceLimitExceeded: with `limit` and `value`.
        """
        limit = self.config.process.max_concurrent_processes
        if more and self.active() + more > limit:
            raise ResourceLimitExceeded(
                f"cannot start {more} more processes: {self.active()} of"
                f" max_concurrent_processes = {limit} are in use",
                limit="max_concurrent_processes",
                value=self.active() + more,
            )

    async def start(self, keepers: Sequence[Keeper], *, wait: bool = True) -> None:
        """Starts workers, and waits until they are up.

        Raises:
            SpawnFailed: one did not come up; `data` has `result`.
            Timeout: one was not ready in time.
            ResourceLimitExceeded: they are too many; none is started.
        """
        self._check_may_start(keepers)
        self.check_capacity(sum(not _is_active(keeper.worker) for keeper in keepers))
        before = {keeper.id: keeper.worker.last_exit for keeper in self.all_keepers()}
        for keeper in keepers:
            self._start_in_order(self.agents[keeper.spec.name], [keeper])
        if wait:
            await self.until_up(keepers, before)

    def _check_may_start(self, keepers: Iterable[Keeper]) -> None:
        if self.draining:
            raise ShuttingDown("cannot start anything: the daemon is stopping")
        for keeper in keepers:
            if keeper in self._leaving:
                raise Conflict(f'cannot start "{keeper.id}": it is being removed', worker=keeper.id)

    async def until_up(
        self, keepers: Sequence[Keeper], before: Mapping[str, lifecycle.LastExit | None]
    ) -> None:
        """Waits until workers and what they require are up, or one has failed since `before`.

        `before` has last exits by worker id.

        Raises:
            SpawnFailed, Timeout, Conflict: one is not coming up.
        """

        def settled(keeper: Keeper) -> Callable[[Worker], bool]:
            def check(worker: Worker) -> bool:
                ended = worker.last_exit is not None and worker.last_exit is not before.get(
                    keeper.id
                )
                return (
                    worker.state in UP
                    or not worker.wanted
                    or (ended and worker.state in (State.TERMINATED, State.INITIAL, State.STARTING))
                )

            return check

        for keeper in keepers:
            if keeper.worker.waits:
                for name in keeper.spec.requires:
                    await self.until_up(self.agents[name].keepers, before)
            worker = await keeper.until(settled(keeper))
            if worker.state not in UP:
                raise _not_up(worker)

    async def stop(self, keepers: Sequence[Keeper], *, wait: bool = True) -> None:
        """Stops workers, all at once, and waits until nothing of them is left.

        Raises:
            Timeout: something survives SIGKILL; the killing goes on.
        """
        for keeper in keepers:
            keeper.forget_start()
            agent = self.agents.get(keeper.spec.name)
            if agent is not None and set(agent.keepers) <= set(keepers):
                agent.held = True  # one of several workers leaves the others to be called
            keeper.send(lifecycle.Stop())
        if wait:
            await self._until_gone(keepers)

    async def _until_gone(self, keepers: Sequence[Keeper]) -> None:
        grace_s = max((k.spec.process.shutdown_grace_period for k in keepers), default=0.0)
        try:
            async with asyncio.timeout(grace_s + STOP_MARGIN_S):
                for keeper in keepers:
                    await keeper.until(lambda worker: not worker.tree or worker.wanted)
        except TimeoutError:
            left = [keeper.id for keeper in keepers if keeper.worker.tree]
            raise Timeout(
                f"cannot end {', '.join(left)}: processes survive SIGKILL", workers=left
            ) from None

    async def restart(self, keepers: Sequence[Keeper], *, wait: bool = True) -> None:
        """Ends workers and starts a new incarnation of each.

        Raises:
            SpawnFailed, Timeout: as for start.
        """
        self._check_may_start(keepers)
        self.check_capacity(sum(not _is_active(keeper.worker) for keeper in keepers))
        numbers = {keeper.id: keeper.worker.incarnation for keeper in keepers}
        for keeper in keepers:
            self.agents[keeper.spec.name].held = False
            keeper.send(lifecycle.Restart())
        if not wait:
            return
        for keeper in keepers:
            await keeper.until(_has_moved_on(numbers[keeper.id]))
        # One may have failed again while another was still ending: that is not its exit from before.
        before = {keeper.id: _last_exit_until(keeper, numbers[keeper.id]) for keeper in keepers}
        await self.until_up(keepers, before)

    def reset(self, keepers: Sequence[Keeper]) -> None:
        """Forgets failures; what is wanted and has given up is started."""
        for keeper in keepers:
            keeper.send(lifecycle.Reset())

    async def add(
        self,
        name: str,
        table: Mapping[str, object],
        kind: str,
        *,
        directory: str,
        start: bool,
        wait: bool,
    ) -> Agent:
        """Adds an agent at run time; it is in the store before this returns.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is not valid.
            ResourceLimitExceeded: there is no room for its workers.
            SpawnFailed, Timeout: it was added, and did not come up.
        """
        self._check_may_start(())
        if name in self.agents:
            raise Conflict(f'cannot add "{name}": the name is taken', name=name)
        spec = self._decode(name, table, kind, directory)
        specs = {each: agent.spec for each, agent in self.agents.items()} | {name: spec}
        check_requires(specs)
        stored = self._stored(spec)
        if start:
            self.check_capacity(spec.instances.minimum)
        agent = self._insert(spec, added=True)  # before the first wait, so that the name is taken
        try:
            await self.shared.store.write(
                (
                    "INSERT OR REPLACE INTO agent (name, kind, table_json, created_at)"
                    " VALUES (?, ?, ?, ?)",
                    (name, kind, stored, time.time()),
                )
            )
        except CorralError:
            await self._forget(agent)
            raise
        if start:
            await self.start(agent.keepers, wait=wait)
        return agent

    async def remove(self, name: str) -> None:
        """Stops an agent and forgets it.

        Raises:
            NotFound: there is no such agent.
            Conflict: another agent requires it.
            Overloaded: the store takes nothing now; the agent is stopped, and still there.
        """
        agent = self.of(name)
        needed_by = [other.name for other in self.agents.values() if name in other.spec.requires]
        if needed_by:
            raise Conflict(
                f'cannot remove "{name}": it is required by {", ".join(needed_by)}',
                required_by=needed_by,
            )
        await self._remove(agent)

    async def _remove(self, agent: Agent) -> None:
        async with self._changing(agent), self._leave(agent.keepers):
            await self.stop(agent.keepers)
            await self.shared.store.write(("DELETE FROM agent WHERE name = ?", (agent.name,)))
            await self._forget(agent)

    async def _forget(self, agent: Agent) -> None:
        del self.agents[agent.name]
        if agent.spec.kind == "mcp":
            self.pool.remove(agent.name)
        self._service.removed(agent.name)  # before anything is awaited: the caller may hang up
        for keeper in agent.keepers:
            await keeper.close()
        self.shared.bus.publish("agent.removed", agent=agent.name)

    @contextlib.asynccontextmanager
    async def _changing(self, agent: Agent) -> AsyncGenerator[None, None]:
        """One change of an agent's workers at a time; whoever waited may find it gone."""
        async with agent.changing:
            if self.agents.get(agent.name) is not agent:
                raise NotFound(f'cannot find agent "{agent.name}": it was removed', name=agent.name)
            yield

    @contextlib.asynccontextmanager
    async def _leave(self, keepers: Sequence[Keeper]) -> AsyncGenerator[None, None]:
        """While workers are being removed, nobody starts them again."""
        self._leaving.update(keepers)
        try:
            yield
        finally:
            self._leaving.difference_update(keepers)

    async def reload(self, config: Config, *, dry_run: bool) -> Plan:
        """Goes over to a new configuration; only what has changed is touched, and nobody is waited for.

        Raises:
            InvalidParams: what was added at run time requires something that is no longer there.
        """
        specs = {name: agent.spec for name, agent in self.agents.items()}
        from_file = frozenset(
            n for n, spec in specs.items() if spec.source not in ("store", "built-in")
        )
        planned = plan(specs, from_file, self.config, config)
        kept = {name: spec for name, spec in specs.items() if name not in planned.removed}
        check_requires({**kept, **{n: s for n, s in config.agents.items() if not s.disabled}})
        self._check_may_start(())
        if dry_run or planned.is_empty:
            return planned
        self.config = config
        for name in planned.added:  # nothing is awaited until all is as the plan found it
            agent = self._insert(config.agents[name])
            if agent.spec.autostart:
                self._start_in_order(agent, agent.keepers, at_boot=True)
        for name, effect in planned.changed.items():
            self._change(self.agents[name], config.agents[name], effect)
        for name in planned.changed:
            await self._rescale(name, config.agents[name].instances.minimum)
        for name in planned.removed:
            with contextlib.suppress(NotFound):  # somebody else removes it, too
                await self._remove(self.of(name))
        self.shared.bus.publish("config.reloaded", **asdict(planned))
        return planned

    def _change(self, agent: Agent, spec: Spec, effect: Effect) -> None:
        agent.spec = spec
        agent.added = False
        for keeper in agent.keepers:
            keeper.reconfigure(spec)
            if effect == "restart" and keeper.worker.wanted:
                keeper.send(lifecycle.Restart("its configuration has changed"))

    async def _rescale(self, name: str, instances: int) -> None:
        agent = self.agents.get(name)
        if agent is None or len(agent.keepers) == instances:
            return
        try:
            await self.scale(name, instances, wait=False)
        except ResourceLimitExceeded as error:
            self.shared.bus.publish("limit.processes", agent=name, reason=error.message)

    async def scale(self, name: str, instances: int, *, wait: bool) -> Agent:
        """Gives an agent more or fewer workers; the highest numbers go first.

        Raises:
            NotFound, ResourceLimitExceeded, SpawnFailed, Timeout: as for start and stop.
        """
        agent = self.of(name)
        async with self._changing(agent):
            self._check_may_start(())
            more = instances - len(agent.keepers)
            if more > 0:
                if agent.wanted or not agent.keepers:
                    self.check_capacity(more)
                numbers = range(len(agent.keepers), instances)
                new = [self._keeper(agent.spec, number) for number in numbers]
                wanted = agent.wanted or not agent.keepers
                agent.keepers += new
                if wanted:
                    await self.start(new, wait=wait)
            elif more < 0:
                leaving = agent.keepers[instances:]
                held = agent.held
                async with self._leave(leaving):
                    await self.stop(leaving)
                    for keeper in leaving:
                        agent.keepers.remove(keeper)
                        await keeper.close()
                agent.held = held
            if agent.added and instances > 0:  # of the file's agents the file says how many
                agent.spec = replace(agent.spec, instances=Scale(instances, instances))
                await self.shared.store.write(
                    (
                        "UPDATE agent SET table_json = ? WHERE name = ?",
                        (self._stored(agent.spec), name),
                    )
                )
            self.shared.bus.publish("agent.scaled", agent=name, instances=instances)
        return agent

    def _stored(self, spec: Spec) -> str:
        return codec.encode(to_table(spec, self.config.defaults)).decode()

    async def drain(self) -> None:
        """Stops everything: what requires others first, then those."""
        self.draining = True
        left = dict(self.agents)
        while left:
            needed = {name for agent in left.values() for name in agent.spec.requires}
            wave = [agent for name, agent in left.items() if name not in needed] or list(
                left.values()
            )
            try:
                await self.stop([keeper for agent in wave for keeper in agent.keepers])
            except Timeout as error:  # what the kernel cannot end must not keep the others
                logger.error("%s", error)
            for agent in wave:
                del left[agent.name]
        for keeper in self.all_keepers():
            await keeper.close()


class ServerBackend:
    """One MCP server as the tool pool sees it: started by a call, its tools known while it is stopped."""

    def __init__(self, agents: Agents, agent: Agent) -> None:
        self._agents = agents
        self._agent = agent

    @property
    def name(self) -> str:
        """The server's name."""
        return self._agent.name

    @property
    def concurrency(self) -> Concurrency:
        """How its calls may overlap: auto, serial or parallel."""
        return self._agent.spec.concurrency

    @property
    def request_timeout_s(self) -> float:
        """The longest wait for an answer where the caller names none."""
        return self._agent.spec.mcp.request_timeout

    @property
    def max_retries(self) -> int:
        """How often a call that is safe to repeat is repeated."""
        return self._agent.spec.mcp.max_retries

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Its tools, as it listed them last."""
        return self._agent.tools

    async def acquire(self) -> Session:
        """A session with the server, which is started if it is not up.

        Raises:
            Conflict: somebody stopped it.
            SpawnFailed, Timeout: it does not come up.
            ResourceLimitExceeded: there is no room for its process.
        """
        if self._agent.held or self._agents.draining or not self._agent.keepers:
            raise Conflict(
                f'cannot call MCP server "{self.name}": it is stopped; corral start {self.name}',
                server=self.name,
            )
        up = [keeper for keeper in self._agent.keepers if keeper.worker.state in UP]
        keeper = min(up or self._agent.keepers, key=lambda each: len(each.running))
        if keeper.worker.state not in UP:
            await self._bring_up(keeper)
        return keeper.session

    async def _bring_up(self, keeper: Keeper) -> None:
        worker = keeper.worker
        last = worker.last_exit
        if worker.state is State.TERMINATED and last is not None and last.result == "restart-limit":
            raise _not_up(worker)
        if worker.wanted and worker.state is not State.TERMINATED:
            await self._agents.until_up([keeper], {keeper.id: last})  # on its way already
        else:
            await self._agents.start([keeper])


def _last_exit_until(keeper: Keeper, incarnation: int) -> lifecycle.LastExit | None:
    return next((last for number, last in keeper.exits if number <= incarnation), None)


def _has_moved_on(incarnation: int) -> Callable[[Worker], bool]:
    return lambda worker: worker.incarnation > incarnation or not worker.wanted


def _is_active(worker: Worker) -> bool:
    waits_out_backoff = worker.state is State.INITIAL and worker.deadline is not None
    return worker.tree or waits_out_backoff


def _not_up(worker: Worker) -> CorralError:
    last = worker.last_exit
    if last is None:
        return Conflict(f'cannot start "{worker.id}": it was stopped', worker=worker.id)
    facts = {"worker": worker.id, "result": last.result, "code": last.code, "signal": last.signal}
    text = f'cannot start "{worker.id}": {last.message}'
    if last.result == "start-timeout":
        return Timeout(text, **facts)
    return SpawnFailed(text, **facts)
