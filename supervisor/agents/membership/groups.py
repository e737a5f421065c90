"""Holds the teams and workflows of one daemon by name: from the file and from the store; adds, changes and removes them.

They have no processes: they need agents, which cannot be removed while a team or workflow names them. A running task
continues with its team or workflow as it was when the task began.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import group_changes
from corral.supervisor.config.spec.loader import decode_group, group_table
from corral.supervisor.config.spec.references import check_addresses, check_groups
from corral.supervisor.config.spec.spec import Group, Spec, kind_of_group
from corral.worker.contract.errors import Conflict, CorralError, NotFound

from ..kept.overrides import Overrides
from ..kept.record import Cause, Draft
from ..kept.revision_rows import Entry
from ..running.running_agents import RunningAgents

ADDED = {"team": "team.added", "workflow": "workflow.added"}
CHANGED = {"team": "team.changed", "workflow": "workflow.changed"}
REMOVED = {"team": "team.removed", "workflow": "workflow.removed"}


class Groups:
    """Holds the existing teams and workflows."""

    def __init__(self, running: RunningAgents, overrides: Overrides) -> None:
        self.by_name = running.registry.groups
        self.under_way = Counter[str]()
        """How many tasks of each are being performed."""
        self._bus = running.bus
        self._revisions = running.revisions
        self._overrides = overrides
        self._specs = running.registry.specs
        self._registry = running.registry
        self._tenants = running.tenants

    def of(self, name: str, kind: str) -> Group:
        """Returns the team or workflow (`kind`) of that name."""
        found = self.by_name.get(name)
        if found is None or kind_of_group(found) != kind:
            known = [] if found is not None else [each.name for each in self.all(kind)]
            what = "" if found is None else f": it is a {kind_of_group(found)}"
            raise NotFound(f'cannot find {kind} "{name}"{what}', name=name, known=known)
        return found

    def all(self, kind: str) -> list[Group]:
        """Returns the teams, or the workflows, in the order of their addition."""
        return [each for each in self.by_name.values() if kind_of_group(each) == kind]

    def check_free(self, name: str, verb: str) -> None:
        """Refuses a name that one of them has."""
        if (found := self.by_name.get(name)) is not None:
            kind = kind_of_group(found)
            raise Conflict(f'cannot {verb} "{name}": the name is taken by a {kind}', name=name)

    def _receivers(self) -> Mapping[str, Spec]:
        return {**self._registry.config.placed, **self._specs()}

    def load(self, from_file: Mapping[str, Group], entries: Iterable[Entry]) -> None:
        """Takes in those of the file, and of the store what the file does not shadow and the agents allow."""
        for group in from_file.values():
            self._insert(group)
        waiting: dict[str, Group] = {}
        for entry in entries:
            if entry.name in self._specs() or entry.name in self.by_name:
                reason = "the configuration file names it too, and wins"
                self._bus.publish("config.shadowed", agent=entry.name, reason=reason)
                continue
            try:
                self._tenants.check_known(entry.name)
                waiting[entry.name] = decode_group(entry.name, entry.table, kind=entry.kind, source=STORE)
            except CorralError as error:
                self._bus.publish("config.refused", agent=entry.name, reason=error.message)
        while waiting:  # a group that names one that is left out is left out as well
            try:
                check_groups({**self.by_name, **waiting}, self._receivers())
            except CorralError as error:
                name = str(error.data["key"]).split(".")[1]
                self._bus.publish("config.refused", agent=name, reason=error.message)
                del waiting[name]
                continue
            for group in waiting.values():
                self._insert(group)
            waiting = {}

    def _insert(self, group: Group) -> None:
        self.by_name[group.name] = group
        self._bus.publish(ADDED[kind_of_group(group)], agent=group.name)

    async def add(self, kind: str, tables: Mapping[str, Mapping[str, object]], cause: Cause) -> list[Group]:
        """Adds teams or workflows (`kind`), all or none; they are in the store before this returns."""
        for name in tables:
            self._tenants.check_known(name)
            self.check_free(name, "add")
            if (taken := self._specs().get(name)) is not None:
                has = "MCP server" if taken.kind == "mcp" else "agent"
                raise Conflict(f'cannot add "{name}": the name is taken by an {has}', name=name)
        added = {name: decode_group(name, table, kind=kind, source=STORE) for name, table in tables.items()}
        self._registry.check_worker_ids((), added)
        check_groups({**self.by_name, **added}, self._receivers())
        present = [*self._specs().values(), *self.by_name.values(), *added.values()]
        check_addresses(present, self._registry.config.daemon)
        self.by_name |= added  # before anything is awaited: the names are taken, and nobody they need goes
        try:
            await self._revisions.record_all(
                [
                    Draft(each.name, kind_of_group(each), group_table(each), cause, is_settled=True)
                    for each in added.values()
                ]
            )
        except CorralError:
            for name in added:
                del self.by_name[name]
            raise
        for name in added:
            self._bus.publish(ADDED[kind], agent=name)
        return list(added.values())

    async def change(
        self, group: Group, table: Mapping[str, object], cause: Cause, *, dry_run: bool = False
    ) -> list[str]:
        """Replaces the table of one; returns the keys that differ. Of one of the file it is in force until the file's changes."""
        name, kind = group.name, kind_of_group(group)
        base = None
        if group.source == STORE:
            new = decode_group(name, table, kind=kind, source=STORE)
        else:
            new, base = self._overrides.group(group, table)
        is_stored = new.source == STORE or base is not None
        before, after = group_table(group), group_table(new)
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        wanted = {**self.by_name, name: new}
        check_groups(wanted, self._receivers())
        check_addresses([*self._specs().values(), *wanted.values()], self._registry.config.daemon)
        if dry_run or not keys:
            return keys
        self.by_name[name] = new  # before anything is awaited: nobody that it needs goes
        file = self._overrides.file
        draft = Draft(name, kind, after, cause, is_stored, base, is_settled=True)
        try:
            recording = self._revisions.begin([draft])
            self._overrides.note(draft, recording.numbers[0])  # a reload meanwhile is to find it
            await asyncio.shield(recording.written)
        except CorralError:
            self.by_name[name] = group
            raise
        self._overrides.check_unchanged(name, file)
        self._bus.publish(CHANGED[kind], agent=name)
        return keys

    def users(self, names: Collection[str]) -> list[str]:
        """Returns the groups that need one of `names`, directly or through others, without `names` themselves."""
        found: dict[str, None] = {}
        while True:
            reached = {*names, *found}
            more = [
                each.name
                for each in self.by_name.values()
                if each.name not in reached and not reached.isdisjoint(each.needs)
            ]
            if not more:
                return list(found)
            found |= dict.fromkeys(more)

    def check_not_needed(self, names: Collection[str]) -> None:
        """Refuses to remove a name that one of them needs."""
        for name in names:
            others = [each.name for each in self.by_name.values() if name in each.needs and each.name not in names]
            if others:
                text = f'cannot remove "{name}": it is required by {", ".join(others)}; --cascade removes them too'
                raise Conflict(text, name=name, required_by=others)

    def forget(self, names: Iterable[str]) -> None:
        """Forgets groups that were removed from the store."""
        for name in names:
            group = self.by_name.pop(name, None)
            if group is not None:
                self._bus.publish(REMOVED[kind_of_group(group)], agent=name)

    def planned(self, wanted: Mapping[str, Group], agents: Mapping[str, Spec]) -> dict[str, dict[str, str]]:
        """Returns the changes by a configuration with `wanted` and `agents`: `teams` and `workflows`, by name."""
        following = self.following(wanted)
        for name in following:
            if name in agents:
                text = f'cannot reload: an agent and a team or workflow would have the name "{name}"'
                raise Conflict(text, name=name)
        check_groups(following, agents)
        changes = group_changes(self.by_name, wanted)
        return {
            f"{kind}s": {
                name: effect
                for name, effect in changes.items()
                if kind_of_group(wanted.get(name) or self.by_name[name]) == kind
            }
            for kind in ("team", "workflow")
        }

    def following(self, wanted: Mapping[str, Group]) -> dict[str, Group]:
        """Returns the groups after the adoption of those of the file: `wanted`, and those added at run time."""
        return {**{n: e for n, e in self.by_name.items() if e.source == STORE and n not in wanted}, **wanted}

    def follow(self, wanted: Mapping[str, Group]) -> None:
        """Adopts the groups of the file, and keeps those added at run time."""
        for name, effect in group_changes(self.by_name, wanted).items():
            if effect == "removed":
                self.forget([name])
            elif effect == "added":
                self._insert(wanted[name])
            else:
                before, self.by_name[name] = self.by_name[name], wanted[name]
                if before != wanted[name]:
                    self._bus.publish(CHANGED[kind_of_group(wanted[name])], agent=name)
