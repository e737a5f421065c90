"""Changes the running set: loads, adds and removes agents and servers, and follows the configuration file.

Guarantees one change after the other per agent, each in the store before it is answered; several agents at once
are all taken or none.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import asdict, replace

from ...worker.contract import codec
from ...worker.contract.errors import Conflict, CorralError, NotFound
from ..config.decoder import STORE
from ..config.diff import Plan, plan
from ..config.loader import decode_agent, to_table
from ..config.references import check_addresses, check_requires
from ..config.sources import Variables
from ..config.spec import Config, Spec, changed
from ..lifecycle import state_machine
from ..supervision.shared import Shared
from ..supervision.worker_supervisor import Service, WorkerSupervisor
from .agent import Agent, processes_of, spec_of
from .emergency_stop import EmergencyStopSwitch
from .groups import Groups
from .mcp_server import McpServers
from .operations import Operations
from .registry import Registry, was_removed
from .replicas import Replicas, seen_through
from .startup import Startup, idle_count
from .table import AgentTable, Entry
from .tool_cache import ToolCache

ETAG_DIGITS = 16

logger = logging.getLogger(__name__)


class Addition(NamedTuple):
    """Represents an agent or server to be added: its table as in the configuration, and the folder of relative paths.

    `environment` has the values of its variables; None expands nothing.
    """

    name: str
    kind: Literal["agent", "mcp"]
    table: Mapping[str, object]
    directory: str
    environment: Mapping[str, str] | None = None


class Membership:
    """Decides which agents and servers there are."""

    def __init__(
        self,
        shared: Shared,
        service: Service,
        registry: Registry,
        table: AgentTable,
        groups: Groups,
        emergency: EmergencyStopSwitch,
        startup: Startup,
        operations: Operations,
        replicas: Replicas,
        tools: ToolCache,
        servers: McpServers,
    ) -> None:
        self._shared = shared
        self._service = service
        self._registry = registry
        self._agents = registry.agents
        self._table = table
        self._groups = groups
        self._emergency = emergency
        self._startup = startup
        self._operations = operations
        self._replicas = replicas
        self._tools = tools
        self._servers = servers
        self._setting = asyncio.Lock()
        self._on_reload: list[Callable[[Config], None]] = []

    def subscribe(self, on_reload: Callable[[Config], None]) -> Callable[[], None]:
        """Subscribes `on_reload` to each reloaded configuration in force; returns the function that unsubscribes."""
        self._on_reload.append(on_reload)
        return partial(self._unsubscribe, on_reload)

    def _unsubscribe(self, on_reload: Callable[[Config], None]) -> None:
        with contextlib.suppress(ValueError):  # again is harmless
            self._on_reload.remove(on_reload)

    # -- from the file and an earlier daemon

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        await self._shared.incarnations.load()
        await self._emergency.load()
        await self._tools.load()
        for spec in self._registry.config.agents.values():
            if not spec.disabled:
                self._insert(spec)
        entries = await self._table.entries()
        for entry in entries:
            if entry.kind in ("agent", "mcp"):
                self._load_added(entry)
        for spec in built_in:
            if spec.name not in self._agents and spec.name not in self._registry.config.agents:
                self._insert(spec)
        groups = [entry for entry in entries if entry.kind in ("team", "workflow")]
        self._groups.load(self._registry.config.groups, groups)

    def _load_added(self, entry: Entry) -> None:
        name = entry.name
        if name in self._registry.config.agents or name in self._registry.config.groups:
            self._shared.bus.publish(
                "config.shadowed",
                agent=name,
                reason="the configuration file names it too, and wins",
            )
            return
        kind: Literal["agent", "mcp"] = "mcp" if entry.kind == "mcp" else "agent"
        try:
            self._insert(self._decode(Addition(name, kind, entry.table, "/")), added=True)
        except CorralError as error:
            logger.error("%s", error)
            self._shared.bus.publish("config.refused", agent=name, reason=error.message)

    def _decode(self, addition: Addition) -> Spec:
        environment = addition.environment
        return decode_agent(
            addition.name,
            addition.table,
            kind=addition.kind,
            defaults=self._registry.config.defaults,
            source=STORE,
            directory=addition.directory,
            variables=None if environment is None else Variables(environment, {}),
        )

    def _insert(self, spec: Spec, *, added: bool = False) -> Agent:
        agent = Agent(spec, added=added, held=self._emergency.in_force is not None)
        self._agents[spec.name] = agent
        for number in range(processes_of(spec)):
            agent.supervisors.append(self._replicas.supervisor(spec, number))
        if spec.kind == "mcp":
            self._servers.add(agent)
        self._shared.bus.publish("agent.added", agent=spec.name, kind=spec.kind)
        return agent

    # -- adding

    def compared(self, additions: Iterable[Addition]) -> dict[str, tuple[str, ...]]:
        """Returns, for each taken name, the keys that differ from its present table; none if they are equal.

        Raises:
            Conflict: they differ, and the present one was not added at run time, or is of the other kind.
            InvalidParams: a table is not valid.
        """
        found: dict[str, tuple[str, ...]] = {}
        for addition in additions:
            agent = self._agents.get(addition.name)
            if agent is None:
                continue
            keys = tuple(changed(agent.spec, self._decode(addition)))
            if keys and (not agent.added or agent.spec.kind != addition.kind):
                source = agent.spec.source if not agent.added else f"the {agent.spec.kind} there"
                words = f'cannot add "{agent.name}": {source} has this name'
                raise Conflict(words, name=agent.name, keys=list(keys), source=agent.spec.source)
            found[addition.name] = keys
        return found

    def check(self, additions: Sequence[Addition], *, replacing: Collection[str] = ()) -> None:
        """Refuses what `add` would refuse because of what is asked for; nothing is done."""
        self._checked(additions, replacing)

    async def add(
        self,
        additions: Sequence[Addition],
        *,
        start: bool,
        wait: bool,
        replacing: Collection[str] = (),
    ) -> dict[str, CorralError]:
        """Adds agents and servers at run time, all or none; they are in the store before this returns.

        An existing one named in `replacing` gets its new table, as at a reload.
        Returns by name why started ones did not come up; they are added all the same.

        Raises:
            Conflict: a name is taken, twice there, or an emergency stop is in force and they are to start.
            InvalidParams: a table is not valid, or requires one that does not exist.
            ResourceLimitExceeded: there is no room for their workers.
        """
        self._startup.check_may_start(())
        if start:
            self._emergency.check("start anything")
        checked = self._checked(additions, replacing)
        changes = [spec for spec in checked if spec.name in self._agents]
        specs = [spec for spec in checked if spec.name not in self._agents]
        needs = {spec.name: processes_of(spec) if start else 0 for spec in specs}
        self._startup.check_capacity(sum(needs.values()) + self._idle_required(specs, start))
        entries = [
            Entry(spec.name, spec.kind, to_table(spec, self._registry.config.defaults))
            for spec in checked
        ]
        agents = [self._insert(spec, added=True) for spec in specs]  # so that the names are taken
        supervisors = [supervisor for agent in agents for supervisor in agent.supervisors]
        for supervisor in supervisors:
            supervisor.has_room = start  # also while others are added
        try:
            await self._keep_added(agents, supervisors, entries, changes)
            for spec in changes:
                await self._replicas.rescale(spec.name, spec.instances.minimum)
            return await self._start_added(agents, wait) if start else {}
        finally:
            for supervisor in supervisors:
                supervisor.has_room = False

    # -- changing one

    def etag(self, name: str) -> str:
        """Returns what stands for the whole table of an agent or server: it changes with each key of it.

        Raises:
            NotFound: there is none of that name.
        """
        table = to_table(self._registry.of(name).spec, self._registry.config.defaults)
        return hashlib.sha256(msgspec.json.encode(table, order="sorted")).hexdigest()[:ETAG_DIGITS]

    def check_etag(self, name: str, expected: str) -> None:
        """Refuses a table that has changed.

        Raises:
            NotFound: there is no agent or server of that name.
            Conflict: its etag is another; `data["reason"]` is "stale".
        """
        if (etag := self.etag(name)) != expected:
            words = f'cannot change "{name}": its etag is {etag}, and no longer {expected}'
            raise Conflict(words, name=name, reason="stale", etag=etag, expected=expected)

    async def change(
        self, name: str, changes: Mapping[str, object], *, expected: str | None
    ) -> list[str]:
        """Replaces keys of the table of one that was added at run time, null removing them; returns those that differ.

        One change after the other: none is made to a table that another has changed meanwhile.

        Raises:
            NotFound: there is none of that name.
            Conflict: it is of the configuration file, or its etag is not the `expected` one.
            InvalidParams: the new table is not valid.
        """
        async with self._setting:
            agent = self._registry.of(name)
            if expected is not None:
                self.check_etag(name, expected)
            if not agent.added:
                words = f'cannot set "{name}": {agent.spec.source} has it; change it there, then corral reload'
                raise Conflict(words, name=name, source=agent.spec.source, remedy="corral reload")
            table = _patched(to_table(agent.spec, self._registry.config.defaults), changes)
            addition = Addition(name, agent.spec.kind, table, "/")
            keys = self.compared([addition])[name]
            if keys:
                await self.add([addition], start=False, wait=False, replacing=[name])
            return list(keys)

    async def _keep_added(
        self,
        agents: Sequence[Agent],
        supervisors: Sequence[WorkerSupervisor],
        entries: Iterable[Entry],
        changes: Iterable[Spec],
    ) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for agent in agents:  # which nobody else knows yet: none is waited for
                await stack.enter_async_context(agent.changing)
            stack.enter_context(self._registry.excluded(supervisors))
            try:
                for spec in sorted(changes, key=lambda each: each.name):  # in one order for all
                    await stack.enter_async_context(
                        self._registry.changing(self._registry.of(spec.name))
                    )
                await seen_through(self._keep(entries, changes))
            except CorralError:
                await self._forget(agents)
                raise

    async def _keep(self, entries: Iterable[Entry], changes: Iterable[Spec]) -> None:
        await self._table.add(entries)
        self._change_added(changes)

    def _change_added(self, specs: Iterable[Spec]) -> None:
        """Gives agents that were added at run time what was added under their names once more."""
        keys = {spec.name: changed(self._agents[spec.name].spec, spec) for spec in specs}
        for spec in specs:
            self._change(self._agents[spec.name], spec)
            self._agents[spec.name].added = True
        self._renew_changed(name for name, kinds in keys.items() if "restart" in kinds.values())
        self._start_changed(keys)
        for name, kinds in keys.items():
            effect = "restart" if "restart" in kinds.values() else "live"
            self._shared.bus.publish("agent.changed", agent=name, effect=effect, keys=list(kinds))

    def _checked(self, additions: Sequence[Addition], replacing: Collection[str]) -> list[Spec]:
        for n, addition in enumerate(additions):
            name = addition.name
            if name in self._agents and name not in replacing:
                has = "MCP server" if self._agents[name].spec.kind == "mcp" else "agent"
                text = f'cannot add "{name}": the name is taken by an {has}'
                raise Conflict(text, name=name)
            self._groups.check_free(name, "add")
            if any(name == each.name for each in additions[:n]):
                raise Conflict(f'cannot add "{name}": the name is there twice', name=name)
        specs = [self._decode(addition) for addition in additions]
        present = self._registry.specs()
        wanted = {**present, **{spec.name: spec for spec in specs}}
        check_requires(wanted)
        groups = self._groups.by_name.values()
        check_addresses([*groups, *wanted.values()], self._registry.config.daemon)
        for spec in specs:
            for required in spec.requires:
                agent = self._agents.get(required)
                if agent is not None and self._registry.leaving.intersection(agent.supervisors):
                    raise Conflict(
                        f'cannot add "{spec.name}": it requires "{required}", which is being removed',
                        name=spec.name,
                    )
        return specs

    def _idle_required(self, specs: Iterable[Spec], start: bool) -> int:
        names = {name for spec in specs for name in spec.requires if name in self._agents}
        supervisors = [
            supervisor for name in names for supervisor in self._agents[name].supervisors
        ]
        return idle_count(self._startup.needed(supervisors)) if start else 0

    async def _start_added(self, agents: Iterable[Agent], wait: bool) -> dict[str, CorralError]:
        failures: dict[str, CorralError] = {}

        async def start(agent: Agent) -> None:
            try:
                await self._startup.bring_up(agent.supervisors, wait=wait)
            except CorralError as error:
                failures[agent.name] = error

        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(start(agent))
        return failures

    # -- removing

    async def remove(self, names: Sequence[str], *, cascade: bool = False) -> list[str]:
        """Stops and removes agents, all or none; with `cascade` also their dependents. Returns the removed names.

        A named team or workflow is removed; its tasks continue.

        Raises:
            NotFound: there is no such agent.
            Conflict: another agent requires one of them; `data["required_by"]`.
            Overloaded: the store takes nothing now; they are stopped, and still there.
        """
        groups = [name for name in dict.fromkeys(names) if name in self._groups.by_name]
        chosen = {name: self._registry.of(name) for name in names if name not in groups}
        if cascade:
            for agent in self._agents.values():
                if not chosen.keys().isdisjoint(self._all_required(agent)):
                    chosen[agent.name] = agent
            groups += self._groups.users({*chosen, *groups})
        self._check_not_required({*chosen, *groups})
        if chosen:
            return await self._remove(list(chosen.values()), groups)
        await self._table.remove(groups)
        self._groups.forget(groups)
        return groups

    def _all_required(self, agent: Agent) -> set[str]:
        found = set(agent.spec.requires)
        for name in agent.spec.requires:
            found |= self._all_required(self._agents[name])
        return found

    def _check_not_required(self, names: Collection[str]) -> None:
        self._groups.check_not_needed(names)
        for agent in self._agents.values():
            needed = [name for name in agent.spec.requires if name in names]
            if needed and agent.name not in names:
                by = [a.name for a in self._agents.values() if needed[0] in a.spec.requires]
                others = [name for name in by if name not in names]
                raise Conflict(
                    f'cannot remove "{needed[0]}": it is required by {", ".join(others)}; --cascade'
                    " removes them too",
                    name=needed[0],
                    required_by=others,
                )

    async def _remove(self, agents: Iterable[Agent], groups: Sequence[str] = ()) -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            for agent in sorted(agents, key=lambda each: each.name):  # in one order for all
                await stack.enter_async_context(agent.changing)
            present = [agent for agent in agents if self._agents.get(agent.name) is agent]
            if not present:
                raise was_removed(next(iter(agents)).name)
            supervisors = [supervisor for agent in present for supervisor in agent.supervisors]
            stack.enter_context(self._registry.excluded(supervisors))
            await self._operations.stop(supervisors)
            names = [agent.name for agent in present]
            self._check_not_required({*names, *groups})  # the file may have come to name one

            async def forget() -> None:
                await self._table.remove([*names, *groups])
                self._groups.forget(groups)
                await self._forget(present)

            await seen_through(forget())  # what the store has not, nobody has
            return [*names, *groups]

    async def _forget(self, agents: Sequence[Agent]) -> None:
        supervisors = [supervisor for agent in agents for supervisor in agent.supervisors]
        for agent in agents:  # before anything is awaited: the caller may hang up
            del self._agents[agent.name]
            if agent.spec.kind == "mcp":
                self._servers.remove(agent.name)
            else:
                self._servers.end_of(agent.name)
        for agent in agents:
            self._shared.zygotes.forget(agent.name)
            self._service.removed(agent.name)
            self._shared.bus.publish("agent.removed", agent=agent.name)
        await self._replicas.close(supervisors)

    # -- the file

    async def reload(self, config: Config, *, dry_run: bool) -> Plan:
        """Adopts a new configuration; touches only changed agents, and waits for none.

        Raises:
            InvalidParams: an agent that was added at run time requires one that no longer exists.
        """
        specs = self._registry.specs()
        from_file = frozenset(
            n for n, spec in specs.items() if spec.source not in (STORE, "built-in")
        )
        planned = plan(specs, from_file, self._registry.config, config)
        kept = {name: spec for name, spec in specs.items() if name not in planned.removed}
        wanted = {**kept, **{n: s for n, s in config.agents.items() if not s.disabled}}
        check_requires(wanted)
        planned = replace(planned, **self._groups.planned(config.groups, wanted))
        groups = self._groups.following(config.groups).values()
        check_addresses([*groups, *wanted.values()], config.daemon)
        self._startup.check_may_start(())
        if dry_run:
            changed = await self._shared.zygotes.check_sources(kept, dry_run=True)
            return replace(planned, renewed=tuple(changed))
        self._registry.config = config
        for listener in list(self._on_reload):
            listener(config)
        if planned.is_empty:
            return replace(planned, renewed=await self._read_anew())
        # Nothing is awaited until all is as the plan found it.
        self._groups.follow(config.groups)
        added = [self._insert(config.agents[name]) for name in planned.added]
        for name in planned.changed:
            self._change(self._agents[name], config.agents[name])
        self._renew_changed(n for n, effect in planned.changed.items() if effect == "restart")
        self._start_changed(planned.keys)
        leaving = [self._agents[name] for name in planned.removed]
        self._start_from_file(added)
        self._startup.fill_room()
        for name in planned.changed:
            await self._replicas.rescale(name, config.agents[name].instances.minimum)
        if leaving:
            with contextlib.suppress(NotFound):  # a concurrent call removes them, too
                await self._remove(leaving)
            self._start_from_file([self._insert(spec) for spec in self._come_back(planned.removed)])
        fields = {k: v for k, v in asdict(planned).items() if k not in ("keys", "renewed")}
        self._shared.bus.publish("config.reloaded", **fields)
        for name, effect in planned.changed.items():
            keys = planned.keys[name]
            self._shared.bus.publish("agent.changed", agent=name, effect=effect, keys=keys)
        return replace(planned, renewed=await self._read_anew())

    async def _read_anew(self) -> tuple[str, ...]:
        return tuple(await self._shared.zygotes.check_sources(list(self._agents)))

    def _start_from_file(self, agents: Iterable[Agent]) -> None:
        if self._emergency.in_force is None and not self._registry.draining:
            self._startup.start_within_limit(
                supervisor
                for agent in agents
                if agent.spec.autostart
                for supervisor in agent.supervisors
            )

    def _come_back(self, names: Iterable[str]) -> list[Spec]:
        """Returns the removed agents that the file names again: it was reloaded while they ended."""
        specs = [
            self._registry.config.agents[name]
            for name in names
            if name in self._registry.config.agents
        ]
        return [spec for spec in specs if not spec.disabled and spec.name not in self._agents]

    def _change(self, agent: Agent, spec: Spec) -> None:
        before, agent.spec = agent.spec, spec
        agent.added = False
        for number, supervisor in enumerate(agent.supervisors):
            supervisor.reconfigure(spec_of(spec, number))
        self._shared.zygotes.note(agent)
        if spec.kind == "mcp":
            self._tools.reconfigure(agent, before)

    def _start_changed(self, keys: Mapping[str, Collection[str]]) -> None:
        """Starts workers that the changed keys free: they require others than before, or are to start by themselves."""
        chosen: list[WorkerSupervisor] = []
        for name, changes in keys.items():
            agent = self._agents[name]
            is_new = "autostart" in changes and agent.spec.autostart and not agent.held
            for supervisor in agent.supervisors:
                worker = supervisor.worker
                is_freed = "requires" in changes and worker.waits and supervisor.job.is_waiting
                if is_freed or (is_new and not worker.wanted):
                    chosen.append(supervisor)
        self._startup.start_by_itself(chosen)

    def _renew_changed(self, names: Iterable[str]) -> None:
        """Replaces workers for a new configuration in the order of dependencies, within the limits.

        One that waits for its start, or is about to end, takes the new configuration with its next life. The success of a
        job was that of another command: it runs again.
        """
        names = tuple(names)
        outdated = {k for name in names for k in self._agents[name].supervisors if k.worker.done}
        for supervisor in outdated:
            supervisor.send(state_machine.Stop(reason="its configuration has changed"))
        wanted = [
            supervisor
            for name in names
            for supervisor in self._agents[name].supervisors
            if supervisor.worker.wanted
            or (
                (supervisor in outdated and supervisor.spec.autostart)
                and not (supervisor.worker.waits or supervisor.job.is_to_end)
            )
            if supervisor not in self._registry.leaving
        ]
        chosen = {supervisor: None for supervisor in wanted if supervisor.takes_room}
        idle = [
            supervisor
            for supervisor in [*self._startup.needed(chosen), *wanted]
            if supervisor not in chosen
        ]
        self._startup.start_within_limit(dict.fromkeys(idle))
        self._operations.renew_each(list(chosen), "its configuration has changed")


def _patched(table: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Returns a table with the changes of a merge patch (RFC 7396)."""
    found = dict(table)
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        elif (inner := codec.as_object(value)) is not None:
            found[key] = _patched(codec.as_object(found.get(key)) or {}, inner)
        else:
            found[key] = value
    return found
