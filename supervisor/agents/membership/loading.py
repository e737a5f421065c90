"""Takes up what the configuration file, the store and an earlier daemon have: agents, groups, unfinished changes."""

import contextlib
import logging
from collections.abc import Iterable

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.loader import group_table, to_table
from corral.supervisor.config.spec.spec import BUILT_IN, Spec, kind_of_group
from corral.worker.contract.errors import Conflict, CorralError

from ..kept.agent_rows import Entry
from ..kept.decision import InForce
from ..kept.overrides import Override, Overrides, base_of, in_file_form
from ..kept.record import Revision
from ..running.running_agents import RunningAgents
from .additions import Addition, addition_of
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
        """Returns the names in the store whose tables could not be put in force."""
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
