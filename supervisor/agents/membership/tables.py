"""Reads and changes the table of one agent, server, team or workflow, wherever it comes from."""

import asyncio
import hashlib
from collections.abc import Mapping

import msgspec

from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.loader import expanded_table, group_table, to_table
from corral.supervisor.config.spec.spec import BUILT_IN, kind_of_group
from corral.supervisor.config.spec.template_spec import merge
from corral.worker.contract.errors import Conflict

from ..kept.overrides import Overrides
from ..kept.record import Cause, Kind
from ..running.registry import Registry
from .additions import Addition
from .groups import Groups
from .membership import Membership

ETAG_DIGITS = 16


class Tables:
    """Holds the tables of one daemon; one change of a table is made after the other."""

    def __init__(self, registry: Registry, groups: Groups, overrides: Overrides, membership: Membership) -> None:
        self._registry = registry
        self._agents = registry.agents
        self._groups = groups
        self._overrides = overrides
        self._membership = membership
        self._setting = asyncio.Lock()

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
        return hashlib.sha256(msgspec.json.encode(table, order="sorted")).hexdigest()[:ETAG_DIGITS]

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
            return await self._replace(name, merge(table, changes), cause, expected, dry_run)

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
            raise Conflict(f'cannot set "{name}": it is built in', name=name, source=BUILT_IN)
        if agent.spec.placement is not None:
            words = (
                f'cannot set "{name}": the cluster places it; change it in the file of a node, then corral reload there'
            )
            raise Conflict(words, name=name, remedy="corral reload")
        addition = Addition(name, agent.spec.kind, table, "/", overrides=not agent.added)
        keys = tuple(changed(agent.intended, self._membership.decoded(addition)))
        if keys and dry_run:
            self._membership.check([addition], replacing=[name])
        elif keys:
            await self._membership.replace(addition, cause)
        return list(keys)
