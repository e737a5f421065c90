"""Adds and removes agents and servers.

Guarantees one change after the other per agent, each in the store before it is answered; several agents at once
are all taken or none.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.loader import to_table
from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams
from corral.worker.contract.names import tenant_of

from ..external.logins import Logins
from ..kept.overrides import Overrides
from ..kept.record import Cause, Draft
from ..running.agent import Agent, processes_of
from ..running.registry import was_removed
from ..running.replicas import seen_through
from ..running.running_agents import RunningAgents
from ..running.startup import idle_counts
from .additions import Addition, Wanted, decoded
from .changes import SpecChanges
from .groups import Groups


class Membership:
    """Decides which agents and servers there are."""

    def __init__(
        self, running: RunningAgents, changes: SpecChanges, groups: Groups, overrides: Overrides, logins: Logins
    ) -> None:
        self._running = running
        self._bus = running.bus
        self._registry = running.registry
        self._agents = running.agents
        self._changes = changes
        self._groups = groups
        self._overrides = overrides
        self._logins = logins
        self._on_removed: list[Callable[[str], None]] = []

    def subscribe(self, on_removed: Callable[[str], None]) -> None:
        """Subscribes `on_removed` to the names of agents and servers that were removed."""
        self._on_removed.append(on_removed)

    def decoded(self, addition: Addition) -> Spec:
        """Returns the spec of an addition under the configuration in force."""
        return decoded(addition, self._registry.config, self._overrides)

    def insert(self, spec: Spec, *, added: bool = False) -> Agent:
        """Puts an agent or server among the others, with its workers; none is started."""
        agent = Agent(spec, added=added, held=self._running.emergency.in_force is not None)
        self._agents[spec.name] = agent
        for number in range(processes_of(spec)):
            agent.supervisors.append(self._running.replicas.supervisor(spec, number))
        if spec.kind == "mcp":
            self._running.servers.add(agent)
        self._bus.publish("agent.added", agent=spec.name, kind=spec.kind)
        return agent

    def compared(self, additions: Iterable[Addition]) -> dict[str, tuple[str, ...]]:
        """Returns, for each taken name, the keys that differ from its present table; none if they are equal."""
        found: dict[str, tuple[str, ...]] = {}
        for addition in additions:
            agent = self._agents.get(addition.name)
            if agent is None:
                continue
            keys = tuple(changed(agent.intended, self.decoded(addition)))
            if keys and (not agent.added or agent.spec.kind != addition.kind):
                source = agent.spec.source if not agent.added else f"the {agent.spec.kind} there"
                words = f'cannot add "{agent.name}": {source} has this name'
                raise Conflict(words, name=agent.name, keys=list(keys), source=agent.spec.source)
            found[addition.name] = keys
        return found

    async def add(
        self, additions: Sequence[Addition], *, start: bool, wait: bool, cause: Cause, replacing: Collection[str] = ()
    ) -> dict[str, CorralError]:
        """Adds agents and servers at run time, all or none; they are in the store before this returns.

        An existing one named in `replacing` gets its new table, as by `replace`.
        Returns by name why started ones did not come up; they are added all the same.
        """
        if start:
            self._running.emergency.check("start anything")
        self._check_may_change(additions)
        checked = self.check(additions, replacing=replacing)
        changes = [spec for spec in checked if spec.name in self._agents]
        specs = [spec for spec in checked if spec.name not in self._agents]
        if start:
            needs = Counter({spec.name: processes_of(spec) for spec in specs})
            self._running.startup.check_capacity(needs + self._idle_required(specs))
        drafts = [self.draft(spec, cause) for spec in checked]
        agents = [self.insert(spec, added=True) for spec in specs]  # so that the names are taken
        supervisors = [supervisor for agent in agents for supervisor in agent.supervisors]
        for supervisor in supervisors:
            supervisor.has_room = start  # also while others are added
        try:
            async with contextlib.AsyncExitStack() as stack:
                for agent in agents:  # which nobody else knows yet: none is waited for
                    await stack.enter_async_context(agent.changing)
                stack.enter_context(self._registry.excluded(supervisors))
                try:
                    await self._put(drafts, changes, 1.0)
                except CorralError:
                    await self._forget(agents)
                    raise
            await self._rescale(changes)
            return await self._start_added(agents, wait) if start else {}
        finally:
            for supervisor in supervisors:
                supervisor.has_room = False

    async def replace(self, addition: Addition, cause: Cause, share: float = 1.0) -> None:
        """Gives an agent or server a new table, which is in the store before this returns; with a `share` below 1 that part of its workers gets it."""
        self._check_may_change([addition])
        changes = self.check([addition], replacing=[addition.name])
        await self._put([self.draft(spec, cause) for spec in changes], changes, share)
        await self._rescale(changes)

    async def _put(self, drafts: Sequence[Draft], changes: Sequence[Spec], share: float) -> None:
        """Stores what is to be, and puts changed specs in force; completes although the caller disconnects."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._registry.writing(changes))
            for spec in sorted(changes, key=lambda each: each.name):  # in one order for all
                await stack.enter_async_context(self._registry.changing(self._registry.of(spec.name)))
            await seen_through(self._keep(drafts, changes, share))

    async def _keep(self, drafts: Sequence[Draft], changes: Sequence[Spec], share: float) -> None:
        file = self._overrides.file
        recording = self._running.revisions.begin(drafts)
        for draft, number in zip(drafts, recording.numbers, strict=True):
            if not draft.is_stored or draft.base is not None:
                self._overrides.note(draft, number)  # at once: a reload meanwhile is to find it
        await asyncio.shield(recording.written)
        for draft in drafts:
            self._overrides.check_unchanged(draft.name, file)
        if self._overrides.file is not file:  # of what was decoded with the earlier one other defaults may be in force
            changes = [self._registry.config.agents.get(each.name, each) for each in changes]
        self._changes.apply_added(changes, share)

    async def _rescale(self, specs: Iterable[Spec]) -> None:
        for spec in specs:
            await self._running.replicas.rescale(spec.name, spec.instances.minimum)

    def draft(self, spec: Spec, cause: Cause) -> Draft:
        """Returns the revision of a spec that is to be in force; it is settled at once where no worker has to be replaced before."""
        is_settled = not self._changes.has_to_roll(spec)
        if spec.source == STORE:
            table = to_table(spec, self._registry.config.defaults)
            return Draft(spec.name, spec.kind, table, cause, is_settled=is_settled)
        table, base = self._overrides.draft_of(spec)
        return Draft(spec.name, spec.kind, table, cause, base is not None, base, is_settled)

    def _check_may_change(self, additions: Iterable[Addition]) -> None:
        self._running.startup.check_may_start(())
        for addition in additions:
            self._running.tenants.check_known(addition.name)
            self._running.tenants.check_active(addition.name, "add")

    def check(self, additions: Sequence[Addition], *, replacing: Collection[str] = ()) -> list[Spec]:
        """Refuses what `add` would refuse because of what is asked for; returns the specs, and does nothing."""
        for n, addition in enumerate(additions):
            name = addition.name
            self._running.tenants.check_known(name)
            if name in self._agents and name not in replacing:
                has = "MCP server" if self._agents[name].spec.kind == "mcp" else "agent"
                raise Conflict(f'cannot add "{name}": the name is taken by an {has}', name=name)
            self._groups.check_free(name, "add")
            if any(name == each.name for each in additions[:n]):
                raise Conflict(f'cannot add "{name}": the name is there twice', name=name)
        specs = [self.decoded(addition) for addition in additions]
        for spec in specs:
            if spec.placement is not None:
                reason = "the nodes of a cluster run it: add it at one of them, without agents of this daemon"
                raise InvalidParams(f'cannot set "{spec.name}": {reason}', key="placement", reason=reason)
        self._registry.check_worker_ids(specs)
        new = {spec.name: spec for spec in specs}
        wanted = {**self._registry.specs(), **new}
        Wanted(wanted, self._groups.by_name, self._registry.config, [*new]).check(self._running.room)
        for spec in specs:
            for required in spec.requires:
                agent = self._agents.get(required)
                leaving = () if agent is None else agent.supervisors
                if required in self._registry.going or self._registry.leaving.intersection(leaving):
                    words = f'cannot add "{spec.name}": it requires "{required}", which is being removed'
                    raise Conflict(words, name=spec.name)
        return specs

    def _idle_required(self, specs: Iterable[Spec]) -> Counter[str]:
        names = {name for spec in specs for name in spec.requires if name in self._agents}
        supervisors = [supervisor for name in names for supervisor in self._agents[name].supervisors]
        return idle_counts(self._running.startup.needed(supervisors))

    async def _start_added(self, agents: Iterable[Agent], wait: bool) -> dict[str, CorralError]:
        failures: dict[str, CorralError] = {}

        async def start(agent: Agent) -> None:
            try:
                await self._running.startup.bring_up(agent.supervisors, wait=wait)
            except CorralError as error:
                failures[agent.name] = error

        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(start(agent))
        return failures

    async def remove(self, names: Sequence[str], *, cascade: bool = False) -> list[str]:
        """Stops and removes agents, all or none, with `cascade` also their dependents, and groups, whose tasks go on. Returns the removed names."""
        groups = [name for name in dict.fromkeys(names) if name in self._groups.by_name]
        chosen = {name: self._registry.of(name) for name in names if name not in groups}
        for agent in chosen.values():
            if agent.spec.placement is not None:
                reason = "the cluster places it: take it out of the configuration file"
                raise Conflict(f'cannot remove "{agent.name}": {reason}', name=agent.name)
        if cascade:
            for agent in self._agents.values():
                if not chosen.keys().isdisjoint(self._all_required(agent)):
                    chosen[agent.name] = agent
            groups += self._groups.users({*chosen, *groups})
        self._check_not_required({*chosen, *groups})
        if chosen:
            return await self.take_out(list(chosen.values()), groups)
        await self._running.revisions.remove(groups)
        self._groups.forget(groups)
        return groups

    def _all_required(self, agent: Agent) -> set[str]:
        found = self._registry.requirements(agent)
        for name in tuple(found):
            found |= self._all_required(self._agents[name])
        return found

    def _check_not_required(self, names: Collection[str]) -> None:
        self._groups.check_not_needed(names)
        for agent in self._agents.values():
            needed = sorted(self._registry.requirements(agent).intersection(names))
            if needed and agent.name not in names:
                by = [each.name for each in self._agents.values() if needed[0] in self._registry.requirements(each)]
                others = [name for name in by if name not in names]
                raise Conflict(
                    f'cannot remove "{needed[0]}": it is required by {", ".join(others)}; --cascade removes them too',
                    name=needed[0],
                    required_by=others,
                )

    async def take_out(self, agents: Iterable[Agent], groups: Sequence[str] = ()) -> list[str]:
        """Stops and removes agents and groups, also if others require them by now; returns the removed names."""
        async with contextlib.AsyncExitStack() as stack:
            for agent in sorted(agents, key=lambda each: each.name):  # in one order for all
                await stack.enter_async_context(agent.changing)
            present = [agent for agent in agents if self._agents.get(agent.name) is agent]
            if not present:
                raise was_removed(next(iter(agents)).name)
            supervisors = [supervisor for agent in present for supervisor in agent.supervisors]
            stack.enter_context(self._registry.excluded(supervisors))
            stack.enter_context(self._registry.removing([agent.name for agent in present]))
            await self._running.operations.stop(supervisors)
            names = [agent.name for agent in present]
            self._check_not_required({*names, *groups})  # the file may have come to name one

            async def forget() -> None:
                await self._running.revisions.remove([*names, *groups])
                self._groups.forget(groups)
                await self._forget(present)

            await seen_through(forget())  # what the store has not, nobody has
            return [*names, *groups]

    async def _forget(self, agents: Sequence[Agent]) -> None:
        supervisors = [supervisor for agent in agents for supervisor in agent.lives]
        for agent in agents:  # before anything is awaited: the caller may hang up
            del self._agents[agent.name]
            agent.incoming, agent.outgoing = {}, []
            if agent.spec.kind == "mcp":
                self._running.servers.remove(agent.name)
            else:
                self._running.servers.pool.end(agent.name)
        kept = {tenant_of(name) for name, each in self._agents.items() if each.spec.kind == "agent"}
        for tenant in {tenant_of(agent.name) for agent in agents} - kept:
            self._running.servers.pool.end_tenant(tenant)
        for agent in agents:
            self._running.zygotes.forget(agent.name)
            for notify in self._on_removed:
                notify(agent.name)
            self._bus.publish("agent.removed", agent=agent.name)
        await self._running.replicas.close(supervisors)
        for agent in agents:
            if agent.spec.asks_tokens:
                await self._logins.removed(agent.name)
