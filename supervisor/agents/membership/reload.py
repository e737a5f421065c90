"""Takes up what the file, the store and an earlier daemon have, and follows the configuration file from then on.

Guarantees that only changed agents are touched, and that nothing is waited for but the end of those that were removed.
"""

import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import asdict, replace

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import Plan, plan
from corral.supervisor.config.spec.loader import group_table, to_table
from corral.supervisor.config.spec.references import check_worker_ids
from corral.supervisor.config.spec.spec import BUILT_IN, Config, Spec, kind_of_group
from corral.worker.contract.errors import Conflict, CorralError, NotFound

from ..kept.overrides import Override, Overrides, base_of, in_file_form
from ..kept.record import BY_FILE, Cause, Draft, InForce, Revision
from ..kept.revision_rows import Entry
from ..kept.revisions import Recording
from ..running.agent import Agent, processes_of
from ..running.running_agents import RunningAgents
from .additions import Addition, Wanted, addition_of, decoded
from .changes import SpecChanges
from .groups import Groups
from .membership import Membership

logger = logging.getLogger(__name__)


class Loading:
    """Loads the agents of one daemon."""

    def __init__(
        self, running: RunningAgents, membership: Membership, changes: SpecChanges, groups: Groups, overrides: Overrides
    ) -> None:
        self._running = running
        self._bus = running.bus
        self._registry = running.registry
        self._agents = running.agents
        self._membership = membership
        self._changes = changes
        self._groups = groups
        self._overrides = overrides
        self._unfinished: list[Spec] = []

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        await self._running.workers.shared.incarnations.load()
        await self._running.emergency.load()
        await self._running.tools.load()
        entries = await self._running.table.entries()
        bases = {entry.name: entry.base for entry in entries}
        self._load_overrides(entries)
        entries = [each for each in entries if each.base is None]
        for spec in self._registry.config.agents.values():
            if not spec.disabled:
                self._membership.insert(spec)
        for entry in entries:
            if entry.kind in ("agent", "mcp"):
                self._load_added(entry)
        for spec in built_in:
            if spec.name not in self._agents and spec.name not in self._registry.config.agents:
                self._membership.insert(spec)
        groups = [entry for entry in entries if entry.kind in ("team", "workflow")]
        self._groups.load(self._registry.config.groups, groups)
        unfinished = await self._running.revisions.load(self._in_force(entries), self._left_out(entries))
        self._overrides.begin()
        present = {*self._agents, *self._groups.by_name}
        await self._running.revisions.remove([n for n, base in bases.items() if base and n not in present])
        for revision in unfinished:
            await self._load_unfinished(revision)

    async def _load_unfinished(self, revision: Revision) -> None:
        """Keeps a change that an earlier daemon had not finished for `resume`; one that does not fit any more has failed."""
        name = revision.name
        is_of_file = not self._registry.of(name).added
        table = in_file_form(revision) if is_of_file else revision.table
        kind = self._registry.of(name).spec.kind
        try:
            if revision.base is not None and revision.base != base_of(self._overrides.file, name):
                words = f'cannot set "{name}": the configuration file has changed it meanwhile'
                raise Conflict(words, name=name, reason="stale")
            addition = Addition(name, kind, table, "/", overrides=is_of_file)
            [spec] = self._membership.check([addition], replacing=[name])
        except CorralError as error:
            await self._running.revisions.settle(name, revision.number, False, error.message)
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
                    added.append(self._membership.decoded(addition_of(each)))
        found = [Override(e.name, e.kind, e.table, e.base) for e in entries if e.base is not None]
        for name, error in self._overrides.load(found, added).items():
            logger.error("%s", error)
            self._bus.publish("config.refused", agent=name, reason=error.message)
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
        present = {*self._agents, *self._groups.by_name}
        return [entry.name for entry in entries if entry.name not in present]

    def _load_added(self, entry: Entry) -> None:
        name = entry.name
        if name in self._registry.config.agents or name in self._registry.config.groups:
            self._bus.publish("config.shadowed", agent=name, reason="the configuration file names it too, and wins")
            return
        try:
            self._running.tenants.check_known(name)
            spec = self._membership.decoded(addition_of(entry))
            self._registry.check_worker_ids([spec], self._registry.config.groups)
            self._membership.insert(spec, added=True)
        except CorralError as error:
            logger.error("%s", error)
            self._bus.publish("config.refused", agent=name, reason=error.message)


class Adoption(NamedTuple):
    """Describes what a configuration is to change, against what there is.

    `specs` are those that it wants; `derived` names agents that were added at run time, and follow a template, store or pool of it.
    """

    plan: Plan
    specs: Mapping[str, Spec]
    derived: Collection[str]


class Reload:
    """Adopts changed configurations for one daemon."""

    def __init__(
        self, running: RunningAgents, membership: Membership, changes: SpecChanges, groups: Groups, overrides: Overrides
    ) -> None:
        self._running = running
        self._registry = running.registry
        self._agents = running.agents
        self._revisions = running.revisions
        self._membership = membership
        self._changes = changes
        self._groups = groups
        self._overrides = overrides

    async def adopt(self, config: Config, *, dry_run: bool, by: str = BY_FILE) -> Plan:
        """Adopts a new configuration; touches only changed agents, and waits for none. `by` is the caller."""
        if not dry_run:
            await self._running.tenants.prepare(config.tenants)
        file, (config, ended) = config, self._overrides.overlaid(config)
        planned, specs, derived = self._planned(config, ended)
        if dry_run:
            kept = [name for name in self._agents if name not in planned.removed]
            return replace(planned, renewed=tuple(await self._running.zygotes.check_sources(kept, dry_run=True)))
        self._overrides.file = file
        self._registry.in_force.adopt(config)
        if planned.is_empty:
            return replace(planned, renewed=await self._read_anew())
        # Nothing is awaited until all is as the plan found it.
        recording = self._record(config, planned, specs, Cause("reload", by))
        planned = replace(planned, revisions=recording.by_name)
        self._groups.follow(config.groups)
        added = [self._membership.insert(config.agents[name]) for name in planned.added]
        self._changes.apply([specs[name] for name in planned.changed], planned.keys)
        for name in planned.changed:
            if name in derived:
                self._agents[name].added = True  # its template is of the file, not itself
        leaving = [self._agents[name] for name in planned.removed]
        self._start_from_file(added)
        self._running.startup.fill_room()
        for name in planned.changed:
            await self._running.replicas.rescale(name, specs[name].instances.minimum)
        if leaving:
            with contextlib.suppress(NotFound):  # a concurrent call removes them, too
                await self._membership.take_out(leaving)
            self._start_from_file([self._membership.insert(spec) for spec in self._come_back(planned.removed)])
        await self._recorded(recording, planned)
        fields = {
            k: v
            for k, v in asdict(planned).items()
            if k not in ("keys", "renewed", "overrides_ended", "rolling", "revisions")
        }
        self._running.bus.publish("config.reloaded", **fields)
        self._changes.publish(planned.changed, planned.keys)
        return replace(planned, renewed=await self._read_anew())

    def _planned(self, config: Config, ended: tuple[str, ...]) -> Adoption:
        specs = self._registry.specs()
        from_file = frozenset(n for n, spec in specs.items() if spec.source not in (STORE, BUILT_IN))
        derived = self._derived(config)
        planned = plan(specs, from_file, self._registry.config, config, derived)
        planned = replace(planned, overrides_ended=ended)
        kept = {name: spec for name, spec in specs.items() if name not in planned.removed}
        present = {n: s for n, s in config.agents.items() if not s.disabled} | derived
        wanted, groups = {**kept, **present}, self._groups.following(config.groups)
        Wanted(wanted, groups, config, planned.added, planned.removed).check(self._running.room)
        planned = replace(planned, **self._groups.planned(config.groups, {**config.placed, **wanted}))
        changing = {*planned.added, *planned.changed}
        counts = {
            name: processes_of(spec) if name in changing else len(self._agents[name].supervisors)
            for name, spec in wanted.items()
            if name in changing or name in self._agents
        }
        check_worker_ids(counts, [*wanted, *groups], "reload")
        self._running.startup.check_may_start(())
        rolling = tuple(n for n in planned.changed if self._changes.has_to_roll(present[n]))
        return Adoption(replace(planned, rolling=rolling), present, [*derived])

    def _record(self, config: Config, planned: Plan, present: Mapping[str, Spec], cause: Cause) -> Recording:
        drafts: list[Draft] = []
        effects = {**planned.teams, **planned.workflows}
        ended = [n for n in planned.overrides_ended if n in present or n in config.groups]
        for name in dict.fromkeys([*planned.added, *planned.changed, *ended]):
            if name not in present:
                continue
            drafts.append(self._membership.draft(present[name], cause))
        for name in dict.fromkeys([*effects, *ended]):
            if name in config.groups and effects.get(name) != "removed":
                group = config.groups[name]
                kind, table = kind_of_group(group), group_table(group)
                override = self._overrides.of(name) if name not in ended else None
                base = None if override is None else override.base
                is_stored = base is not None
                drafts.append(Draft(name, kind, table, cause, is_stored, base, is_settled=True))
        recording = self._revisions.begin(drafts)
        for draft, number in zip(drafts, recording.numbers, strict=True):
            self._overrides.note(draft, number)
        return recording

    async def _recorded(self, recording: Recording, planned: Plan) -> None:
        """Waits until the revisions are durable; the configuration is in force even where the store takes nothing."""
        effects = {**planned.teams, **planned.workflows}
        try:
            await recording.written
            await self._revisions.remove([n for n, each in effects.items() if each == "removed"])
        except CorralError as error:
            logger.warning("cannot record the revisions of a reload: %s", error)

    def _derived(self, config: Config) -> dict[str, Spec]:
        """Returns the agents that were added at run time and have a template, a store or a pool that has changed, as they become."""
        before = self._registry.config
        return {
            name: decoded(
                Addition(name, agent.spec.kind, to_table(agent.spec, before.defaults), "/"), config, self._overrides
            )
            for name, agent in self._agents.items()
            if agent.added and name not in config.agents and _is_affected(agent.spec, before, config)
        }

    async def _read_anew(self) -> tuple[str, ...]:
        return tuple(await self._running.zygotes.check_sources(list(self._agents)))

    def _start_from_file(self, agents: Iterable[Agent]) -> None:
        if self._running.emergency.in_force is None and not self._registry.draining:
            self._running.startup.start_within_limit(
                supervisor for agent in agents if agent.spec.autostart for supervisor in agent.supervisors
            )

    def _come_back(self, names: Iterable[str]) -> list[Spec]:
        """Returns the removed agents that the file names again: it was reloaded while they ended."""
        specs = [self._registry.config.agents[name] for name in names if name in self._registry.config.agents]
        return [spec for spec in specs if not spec.disabled and spec.name not in self._agents]


def _is_affected(spec: Spec, before: Config, after: Config) -> bool:
    """Returns whether the template or a store of an agent differs between two configurations, or its pool is gone."""
    template = spec.template
    if template is not None and after.templates.get(template) != before.templates.get(template):
        return True
    if spec.memory.pool is not None and spec.memory.pool not in after.pools:
        return True
    for name in spec.models:
        old, new = before.models.get(name), after.models.get(name)
        if old is None or new is None or (old.kind, old.tenants) != (new.kind, new.tenants):
            return True
    return any(after.stores.get(name) != before.stores.get(name) for name in spec.stores)
