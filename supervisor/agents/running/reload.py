"""Follows the configuration file: compares it with the running set, and adds, changes and removes what it says.

Guarantees that only changed agents are touched, and that nothing is waited for but the end of those that were removed.
"""

import contextlib
import logging
from collections.abc import Iterable, Mapping

from msgspec.structs import asdict, replace

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import Plan, plan
from corral.supervisor.config.spec.loader import decode_agent, group_table, to_table
from corral.supervisor.config.spec.references import check_addresses, check_requires, check_worker_ids
from corral.supervisor.config.spec.spec import BUILT_IN, Config, Spec, kind_of_group
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.supervision.shared import Shared
from corral.worker.contract.errors import CorralError, NotFound

from ..kept.decision import BY_FILE
from ..kept.overrides import Overrides
from ..kept.record import Cause, Draft
from ..kept.revisions import Recording, Revisions
from .agent import Agent, processes_of
from .changes import SpecChanges
from .emergency_stop import EmergencyStopSwitch
from .groups import Groups
from .membership import Membership
from .registry import Registry
from .replicas import Replicas
from .startup import Startup

logger = logging.getLogger(__name__)


class Reload:
    """Adopts changed configurations for one daemon."""

    def __init__(
        self,
        shared: Shared,
        registry: Registry,
        groups: Groups,
        emergency: EmergencyStopSwitch,
        startup: Startup,
        room: TenantRoom,
        replicas: Replicas,
        membership: Membership,
        changes: SpecChanges,
        revisions: Revisions,
        overrides: Overrides,
        tenants: Tenants,
    ) -> None:
        self._shared = shared
        self._registry = registry
        self._agents = registry.agents
        self._groups = groups
        self._emergency = emergency
        self._startup = startup
        self._room = room
        self._replicas = replicas
        self._membership = membership
        self._changes = changes
        self._tenants = tenants
        self._revisions = revisions
        self._overrides = overrides

    async def adopt(self, config: Config, *, dry_run: bool, by: str = BY_FILE) -> Plan:
        """Adopts a new configuration; touches only changed agents, and waits for none. `by` is the caller."""
        if not dry_run:
            await self._tenants.prepare(config.tenants)
        file, (config, ended) = config, self._overrides.overlaid(config)
        specs = self._registry.specs()
        from_file = frozenset(n for n, spec in specs.items() if spec.source not in (STORE, BUILT_IN))
        derived = self._derived(config)
        planned = plan(specs, from_file, self._registry.config, config, derived)
        planned = replace(planned, overrides_ended=ended)
        kept = {name: spec for name, spec in specs.items() if name not in planned.removed}
        present = {n: s for n, s in config.agents.items() if not s.disabled} | derived
        wanted = {**kept, **present}
        self._room.check_names(planned.added, going=planned.removed, config=config)
        check_requires(wanted)
        planned = replace(planned, **self._groups.planned(config.groups, {**config.placed, **wanted}))
        groups = self._groups.following(config.groups).values()
        check_addresses([*groups, *wanted.values()], config.daemon)
        changing = {*planned.added, *planned.changed}
        counts = {
            name: processes_of(spec) if name in changing else len(self._agents[name].supervisors)
            for name, spec in wanted.items()
            if name in changing or name in self._agents
        }
        check_worker_ids(counts, [*wanted, *(group.name for group in groups)], "reload")
        self._startup.check_may_start(())
        rolling = tuple(n for n in planned.changed if self._changes.has_to_roll(present[n]))
        planned = replace(planned, rolling=rolling)
        if dry_run:
            changed = await self._shared.zygotes.check_sources(kept, dry_run=True)
            return replace(planned, renewed=tuple(changed))
        self._overrides.file = file
        self._registry.in_force.adopt(config)
        if planned.is_empty:
            return replace(planned, renewed=await self._read_anew())
        # Nothing is awaited until all is as the plan found it.
        recording = self._record(config, planned, present, Cause("reload", by))
        planned = replace(planned, revisions=recording.by_name)
        self._groups.follow(config.groups)
        added = [self._membership.insert(config.agents[name]) for name in planned.added]
        changes = [present[name] for name in planned.changed]
        self._changes.apply(changes, planned.keys)
        for name in derived.keys() & planned.changed.keys():
            self._agents[name].added = True  # its template is of the file, not itself
        leaving = [self._agents[name] for name in planned.removed]
        self._start_from_file(added)
        self._startup.fill_room()
        for name in planned.changed:
            await self._replicas.rescale(name, present[name].instances.minimum)
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
        self._shared.bus.publish("config.reloaded", **fields)
        self._changes.publish(planned.changed, planned.keys)
        return replace(planned, renewed=await self._read_anew())

    def _record(self, config: Config, planned: Plan, present: Mapping[str, Spec], cause: Cause) -> Recording:
        """Begins to write the revisions of what is added and changed."""
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
            agent.name: decode_agent(
                agent.name,
                to_table(agent.spec, before.defaults),
                kind=agent.spec.kind,
                defaults=config.defaults,
                source=STORE,
                directory="/",
                templates=config.templates,
                stores=config.stores,
                models=config.models,
                pools=config.pools,
            )
            for agent in self._agents.values()
            if agent.added and agent.name not in config.agents and _is_affected(agent.spec, before, config)
        }

    async def _read_anew(self) -> tuple[str, ...]:
        return tuple(await self._shared.zygotes.check_sources(list(self._agents)))

    def _start_from_file(self, agents: Iterable[Agent]) -> None:
        if self._emergency.in_force is None and not self._registry.draining:
            self._startup.start_within_limit(
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
