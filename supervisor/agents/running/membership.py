"""Changes the running set: loads, adds, changes and removes agents and servers.

Guarantees one change after the other per agent, each in the store before it is answered; several agents at once
are all taken or none.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.loader import decode_agent, expanded_table, group_table, to_table
from corral.supervisor.config.spec.references import check_addresses, check_requires
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import BUILT_IN, Spec, kind_of_group
from corral.supervisor.config.spec.template_spec import merge
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.supervision.shared import Shared
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams
from corral.worker.contract.names import tenant_of

from ..kept.agent_rows import AgentTable, Entry
from ..kept.decision import InForce
from ..kept.overrides import Override, Overrides, base_of, in_file_form
from ..kept.record import Cause, Draft, Kind, Revision
from ..kept.revisions import Revisions
from .agent import Agent, processes_of
from .changes import SpecChanges
from .emergency_stop import EmergencyStopSwitch
from .groups import Groups
from .mcp_server import McpServers
from .operations import Operations
from .registry import Registry, was_removed
from .replicas import Replicas, seen_through
from .startup import Startup, idle_counts
from .tool_cache import ToolCache

ETAG_DIGITS = 16

logger = logging.getLogger(__name__)


class Addition(NamedTuple):
    """Represents an agent or server to be added: its table as in the configuration, and the folder of relative paths.

    `environment` has the values of its variables; None expands nothing. `overrides` means that it is of the file, whose
    table this one overrides.
    """

    name: str
    kind: Literal["agent", "mcp"]
    table: Mapping[str, object]
    directory: str
    environment: Mapping[str, str] | None = None
    overrides: bool = False


class Membership:
    """Decides which agents and servers there are."""

    def __init__(
        self,
        shared: Shared,
        registry: Registry,
        table: AgentTable,
        revisions: Revisions,
        overrides: Overrides,
        groups: Groups,
        emergency: EmergencyStopSwitch,
        startup: Startup,
        room: TenantRoom,
        operations: Operations,
        replicas: Replicas,
        tools: ToolCache,
        servers: McpServers,
        changes: SpecChanges,
        tenants: Tenants,
    ) -> None:
        self._shared = shared
        self._on_removed: list[Callable[[str], None]] = []
        self._registry = registry
        self._agents = registry.agents
        self._table = table
        self._revisions = revisions
        self._overrides = overrides
        self._groups = groups
        self._emergency = emergency
        self._startup = startup
        self._room = room
        self._operations = operations
        self._replicas = replicas
        self._tools = tools
        self._servers = servers
        self._changes = changes
        self._tenants = tenants
        self._setting = asyncio.Lock()
        self._unfinished: list[Spec] = []

    def subscribe(self, on_removed: Callable[[str], None]) -> None:
        """Subscribes `on_removed` to the names of agents and servers that were removed."""
        self._on_removed.append(on_removed)

    # -- from the file and an earlier daemon

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        await self._shared.incarnations.load()
        await self._emergency.load()
        await self._tools.load()
        entries = await self._table.entries()
        bases = {entry.name: entry.base for entry in entries}
        self._load_overrides(entries)
        entries = [each for each in entries if each.base is None]
        for spec in self._registry.config.agents.values():
            if not spec.disabled:
                self.insert(spec)
        for entry in entries:
            if entry.kind in ("agent", "mcp"):
                self._load_added(entry)
        for spec in built_in:
            if spec.name not in self._agents and spec.name not in self._registry.config.agents:
                self.insert(spec)
        groups = [entry for entry in entries if entry.kind in ("team", "workflow")]
        self._groups.load(self._registry.config.groups, groups)
        unfinished = await self._revisions.load(self._in_force(entries), self._left_out(entries))
        self._overrides.begin()
        present = {*self._agents, *self._groups.by_name}
        await self._revisions.remove([n for n, base in bases.items() if base and n not in present])
        for revision in unfinished:
            await self._load_unfinished(revision)

    async def _load_unfinished(self, revision: Revision) -> None:
        """Keeps a change that an earlier daemon had not finished for `resume`; one that does not fit any more has failed."""
        name, is_of_file = revision.name, self.is_of_file(revision.name)
        table = in_file_form(revision) if is_of_file else revision.table
        kind = self._registry.of(name).spec.kind
        try:
            if revision.base is not None and revision.base != base_of(self._overrides.file, name):
                words = f'cannot set "{name}": the configuration file has changed it meanwhile'
                raise Conflict(words, name=name, reason="stale")
            addition = Addition(name, kind, table, "/", overrides=is_of_file)
            [spec] = self._checked([addition], [name])
        except CorralError as error:
            await self._revisions.settle(name, revision.number, False, error.message)
            return
        self._overrides.note(revision, revision.number)
        self._unfinished.append(spec)

    def resume(self) -> None:
        """Takes up the changes that an earlier daemon had not finished, beside the workers that are being started."""
        specs, self._unfinished = self._unfinished, []
        for spec in specs:
            logger.info("the change of %s, which the daemon had not finished, goes on", spec.name)
        self._changes.resume(specs)

    def _load_overrides(self, entries: Iterable[Entry]) -> None:
        """Lays the overrides of the store over the configuration; of what is refused the file's own table is in force."""
        added: list[Spec] = []
        for each in entries:
            if each.base is None and each.kind in ("agent", "mcp"):
                with contextlib.suppress(CorralError):  # said when it is loaded
                    added.append(self._decode(addition_of(each)))
        found = [Override(e.name, e.kind, e.table, e.base) for e in entries if e.base is not None]
        for name, error in self._overrides.load(found, added).items():
            logger.error("%s", error)
            self._shared.bus.publish("config.refused", agent=name, reason=error.message)
        self._registry.in_force.begin_with(self._overrides.in_force())

    def _in_force(self, entries: Iterable[Entry]) -> list[InForce]:
        """Returns the tables of all that there is, those of the store as it has them; not what is built in."""
        defaults, found = self._registry.config.defaults, list[InForce]()
        stored = {entry.name: entry for entry in entries}
        for agent in self._agents.values():
            if agent.added:
                entry = stored[agent.name]
                found.append(InForce(entry.name, entry.kind, entry.table, True))
            elif (override := self._overrides.loaded.get(agent.name)) is not None:
                found.append(InForce(*override[:3], True, override.base))
            elif agent.spec.source != BUILT_IN:
                table = to_table(agent.spec, defaults)
                found.append(InForce(agent.name, agent.spec.kind, table, False))
        for group in self._groups.by_name.values():
            if (override := self._overrides.loaded.get(group.name)) is not None:
                found.append(InForce(*override[:3], True, override.base))
                continue
            is_stored = group.source == STORE
            kept = stored[group.name].table if is_stored else group_table(group)
            found.append(InForce(group.name, kind_of_group(group), kept, is_stored))
        return found

    def _left_out(self, entries: Iterable[Entry]) -> list[str]:
        """Returns the names in the store whose tables could not be put in force."""
        present = {*self._agents, *self._groups.by_name}
        return [entry.name for entry in entries if entry.name not in present]

    def _load_added(self, entry: Entry) -> None:
        name = entry.name
        if name in self._registry.config.agents or name in self._registry.config.groups:
            self._shared.bus.publish(
                "config.shadowed", agent=name, reason="the configuration file names it too, and wins"
            )
            return
        try:
            self._tenants.check_known(name)
            spec = self._decode(addition_of(entry))
            self._registry.check_worker_ids([spec], self._registry.config.groups)
            self.insert(spec, added=True)
        except CorralError as error:
            logger.error("%s", error)
            self._shared.bus.publish("config.refused", agent=name, reason=error.message)

    def _decode(self, addition: Addition) -> Spec:
        if addition.overrides:
            return self._overrides.spec(addition.name, addition.table)
        environment = addition.environment
        return decode_agent(
            addition.name,
            addition.table,
            kind=addition.kind,
            defaults=self._registry.config.defaults,
            source=STORE,
            directory=addition.directory,
            variables=None if environment is None else Variables(environment, {}),
            templates=self._registry.config.templates,
            stores=self._registry.config.stores,
            models=self._registry.config.models,
            pools=self._registry.config.pools,
        )

    def insert(self, spec: Spec, *, added: bool = False) -> Agent:
        """Puts an agent or server among the others, with its workers; none is started."""
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
        """Returns, for each taken name, the keys that differ from its present table; none if they are equal."""
        found: dict[str, tuple[str, ...]] = {}
        for addition in additions:
            agent = self._agents.get(addition.name)
            if agent is None:
                continue
            keys = tuple(changed(agent.intended, self._decode(addition)))
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
        cause: Cause,
        replacing: Collection[str] = (),
        share: float = 1.0,
    ) -> dict[str, CorralError]:
        """Adds agents and servers at run time, all or none; they are in the store before this returns.

        An existing one named in `replacing` gets its new table, as at a reload; with a `share` below 1 that part of its
        workers, until the rest is asked for.
        Returns by name why started ones did not come up; they are added all the same.
        """
        self._startup.check_may_start(())
        if start:
            self._emergency.check("start anything")
        for addition in additions:
            self._tenants.check_known(addition.name)
            self._tenants.check_active(addition.name, "add")
        checked = self._checked(additions, replacing)
        changes = [spec for spec in checked if spec.name in self._agents]
        specs = [spec for spec in checked if spec.name not in self._agents]
        if start:
            needs = Counter({spec.name: processes_of(spec) for spec in specs})
            self._startup.check_capacity(needs + self._idle_required(specs))
        drafts = [self.draft(spec, cause) for spec in checked]
        agents = [self.insert(spec, added=True) for spec in specs]  # so that the names are taken
        supervisors = [supervisor for agent in agents for supervisor in agent.supervisors]
        for supervisor in supervisors:
            supervisor.has_room = start  # also while others are added
        try:
            await self._keep_added(agents, supervisors, drafts, changes, share)
            for spec in changes:
                await self._replicas.rescale(spec.name, spec.instances.minimum)
            return await self._start_added(agents, wait) if start else {}
        finally:
            for supervisor in supervisors:
                supervisor.has_room = False

    def draft(self, spec: Spec, cause: Cause) -> Draft:
        """Returns the revision of a spec that is to be in force, with what the store keeps of it.

        It is settled at once where no worker has to be replaced before.
        """
        is_settled = not self._changes.has_to_roll(spec)
        if spec.source == STORE:
            table = to_table(spec, self._registry.config.defaults)
            return Draft(spec.name, spec.kind, table, cause, is_settled=is_settled)
        table, base = self._overrides.draft_of(spec)
        return Draft(spec.name, spec.kind, table, cause, base is not None, base, is_settled)

    # -- changing one

    def kind_of(self, name: str) -> Kind:
        """Returns the kind of an agent, server, team or workflow."""
        group = self._groups.by_name.get(name)
        return self._registry.of(name).spec.kind if group is None else kind_of_group(group)

    def is_of_file(self, name: str) -> bool:
        """Returns whether an agent or server is of the configuration file, or built in."""
        agent = self._agents.get(name)
        return agent is not None and not agent.added

    def table(self, name: str) -> dict[str, object]:
        """Returns the table of an agent, server, team or workflow."""
        if (group := self._groups.by_name.get(name)) is not None:
            return group_table(group)
        return to_table(self._registry.of(name).intended, self._registry.config.defaults)

    def etag(self, name: str) -> str:
        """Returns what stands for the whole table of a name: it changes with each key of it."""
        table = self.table(name)
        agent = self._agents.get(name)
        if agent is not None and agent.intended.template is not None:
            # The keys of a template may change while the table stays.
            table = {"": expanded_table(agent.intended, self._registry.config.defaults), **table}
        encoded = msgspec.json.encode(table, order="sorted")
        return hashlib.sha256(encoded).hexdigest()[:ETAG_DIGITS]

    def check_etag(self, name: str, expected: str) -> None:
        """Refuses a table that has changed."""
        if (etag := self.etag(name)) != expected:
            words = f'cannot change "{name}": its etag is {etag}, and no longer {expected}'
            raise Conflict(words, name=name, reason="stale", etag=etag, expected=expected)

    async def change(
        self,
        name: str,
        changes: Mapping[str, object],
        cause: Cause,
        *,
        expected: str | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        """Replaces keys of the table of an agent, server, team or workflow, null removing them; returns those that differ.

        Of one of the file, the table is in force until the file's own changes. One change after the other: none is made
        to a table that another has changed meanwhile.
        """
        async with self._setting:
            table = self._overrides.table(self._agents[name].intended) if self.is_of_file(name) else self.table(name)
            table = merge(table, changes)
            return await self._replace(name, table, cause, expected, dry_run)

    async def replace(
        self,
        name: str,
        table: Mapping[str, object],
        cause: Cause,
        *,
        expected: str | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        """Replaces the whole table of an agent, server, team or workflow, as `change` replaces keys of it."""
        async with self._setting:
            return await self._replace(name, table, cause, expected, dry_run)

    async def _replace(
        self, name: str, table: Mapping[str, object], cause: Cause, expected: str | None, dry_run: bool
    ) -> list[str]:
        if expected is not None:
            self.check_etag(name, expected)
        group = self._groups.by_name.get(name)
        if group is not None:
            return await self._groups.change(group, table, cause, dry_run=dry_run)
        agent = self._registry.of(name)
        if agent.spec.source == BUILT_IN:
            words = f'cannot set "{name}": it is built in'
            raise Conflict(words, name=name, source=BUILT_IN)
        if agent.spec.placement is not None:
            words = (
                f'cannot set "{name}": the cluster places it; change it in the file of a node, then corral reload there'
            )
            raise Conflict(words, name=name, remedy="corral reload")
        addition = Addition(name, agent.spec.kind, table, "/", overrides=not agent.added)
        keys = tuple(changed(agent.intended, self._decode(addition)))
        if keys and dry_run:
            self.check([addition], replacing=[name])
        elif keys:
            await self.add([addition], start=False, wait=False, cause=cause, replacing=[name])
        return list(keys)

    async def _keep_added(
        self,
        agents: Sequence[Agent],
        supervisors: Sequence[WorkerSupervisor],
        drafts: Sequence[Draft],
        changes: Sequence[Spec],
        share: float,
    ) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for agent in agents:  # which nobody else knows yet: none is waited for
                await stack.enter_async_context(agent.changing)
            stack.enter_context(self._registry.excluded(supervisors))
            stack.enter_context(self._registry.writing(changes))
            try:
                for spec in sorted(changes, key=lambda each: each.name):  # in one order for all
                    await stack.enter_async_context(self._registry.changing(self._registry.of(spec.name)))
                await seen_through(self._keep(drafts, changes, share))
            except CorralError:
                await self._forget(agents)
                raise

    async def _keep(self, drafts: Sequence[Draft], changes: Sequence[Spec], share: float) -> None:
        numbers = await self._revisions.record_all(drafts)
        for draft, number in zip(drafts, numbers, strict=True):
            if draft.is_stored and draft.base is None:
                continue
            if self._revisions.head(draft.name).last != number:
                words = f'cannot set "{draft.name}": the configuration file has changed it meanwhile'
                raise Conflict(words, name=draft.name, reason="stale")
            self._overrides.note(draft, number)
        self._changes.apply_added(changes, share)

    def _checked(self, additions: Sequence[Addition], replacing: Collection[str]) -> list[Spec]:
        for n, addition in enumerate(additions):
            name = addition.name
            self._tenants.check_known(name)
            if name in self._agents and name not in replacing:
                has = "MCP server" if self._agents[name].spec.kind == "mcp" else "agent"
                text = f'cannot add "{name}": the name is taken by an {has}'
                raise Conflict(text, name=name)
            self._groups.check_free(name, "add")
            if any(name == each.name for each in additions[:n]):
                raise Conflict(f'cannot add "{name}": the name is there twice', name=name)
        specs = [self._decode(addition) for addition in additions]
        for spec in specs:
            if spec.placement is not None:
                reason = "a placed agent stands in the configuration file of a node"
                raise InvalidParams(f'cannot set "{spec.name}": {reason}', key="placement", reason=reason)
        self._room.check_names(spec.name for spec in specs)
        self._registry.check_worker_ids(specs)
        present = self._registry.specs()
        wanted = {**present, **{spec.name: spec for spec in specs}}
        check_requires(wanted)
        groups = self._groups.by_name.values()
        check_addresses([*groups, *wanted.values()], self._registry.config.daemon)
        for spec in specs:
            for required in spec.requires:
                agent = self._agents.get(required)
                leaving = () if agent is None else agent.supervisors
                is_going = required in self._registry.going
                if is_going or self._registry.leaving.intersection(leaving):
                    raise Conflict(
                        f'cannot add "{spec.name}": it requires "{required}", which is being removed', name=spec.name
                    )
        return specs

    def _idle_required(self, specs: Iterable[Spec]) -> Counter[str]:
        names = {name for spec in specs for name in spec.requires if name in self._agents}
        supervisors = [supervisor for name in names for supervisor in self._agents[name].supervisors]
        return idle_counts(self._startup.needed(supervisors))

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
        """
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
        await self._revisions.remove(groups)
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
            await self._operations.stop(supervisors)
            names = [agent.name for agent in present]
            self._check_not_required({*names, *groups})  # the file may have come to name one

            async def forget() -> None:
                await self._revisions.remove([*names, *groups])
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
                self._servers.remove(agent.name)
            else:
                self._servers.end_of(agent.name)
        kept = {tenant_of(name) for name, each in self._agents.items() if each.spec.kind == "agent"}
        for tenant in {tenant_of(agent.name) for agent in agents} - kept:
            self._servers.end_of_tenant(tenant)
        for agent in agents:
            self._shared.zygotes.forget(agent.name)
            for notify in self._on_removed:
                notify(agent.name)
            self._shared.bus.publish("agent.removed", agent=agent.name)
        await self._replicas.close(supervisors)
        for agent in agents:
            if agent.spec.asks_tokens:
                await self._shared.tokens.removed(agent.name)


def addition_of(entry: Entry) -> Addition:
    """Returns what the store has about an agent or server that was added at run time."""
    return Addition(entry.name, "mcp" if entry.kind == "mcp" else "agent", entry.table, "/")
