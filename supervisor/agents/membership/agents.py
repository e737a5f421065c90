"""Composes the running set of one daemon, and offers it to the rooms above.

Begin reading here: `registry` finds agents by name, `membership` adds and removes them, `Tables` changes the table of one,
`reload` follows the file, `replicas` changes their number of workers, `operations` starts and stops workers, `startup` knows
the order and the limit.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping

import msgspec

from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.loader import expanded_table, group_table, to_table
from corral.supervisor.config.spec.spec import BUILT_IN, Config, Spec, kind_of_group
from corral.supervisor.config.spec.template_spec import merge
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.supervision.worker_supervisor import WorkerHandover, WorkerSupervisor
from corral.worker.contract.errors import Conflict, Timeout

from ..external.logins import Logins
from ..kept.overrides import Overrides
from ..kept.record import Cause, Kind
from ..kept.revision_rows import EmergencyStop
from ..rollout.rollouts import Rollouts
from ..running.registry import Registry
from ..running.running_agents import RunningAgents
from .additions import Addition
from .changes import SpecChanges
from .groups import Groups
from .membership import Membership
from .reload import Loading, Reload

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


logger = logging.getLogger(__name__)


class AgentHandover(msgspec.Struct, frozen=True):
    """Holds what the next program goes on from: whether it was stopped on request, and its workers by their numbers."""

    held: bool
    workers: tuple[WorkerHandover, ...]


class Agents:
    """Holds the agents and MCP servers of one daemon by name, and offers the operations on them."""

    def __init__(self, running: RunningAgents, rollouts: Rollouts, logins: Logins) -> None:
        self.shared = running.workers.shared
        self.registry = registry = running.registry
        self.in_force = registry.in_force
        self.agents = registry.agents
        self.of, self.unknown = registry.of, registry.unknown
        self.supervisors, self.all_supervisors, self.selected = (
            registry.supervisors,
            registry.all_supervisors,
            registry.selected,
        )
        self.tenants = running.tenants
        self.revisions = running.revisions
        self.emergency = running.emergency
        self.startup = running.startup
        self.operations = running.operations
        self.replicas = running.replicas
        self.servers = running.servers
        self.check_may_call = running.control.check_may_call
        self.overrides = overrides = Overrides(running.revisions, registry.config)
        self.groups = groups = Groups(running, overrides)
        self.changes = changes = SpecChanges(running, rollouts)
        self.membership = membership = Membership(running, changes, groups, overrides, logins)
        self.tables = Tables(registry, groups, overrides, membership)
        self.reload = Reload(running, membership, changes, groups, overrides)
        self._loading = Loading(running, membership, changes, groups, overrides)
        self._taken_up: frozenset[str] = frozenset()  # the names of those that went on from an earlier program

    @property
    def config(self) -> Config:
        """Returns the configuration in force."""
        return self.registry.config

    @property
    def draining(self) -> bool:
        """Returns whether the daemon is stopping."""
        return self.registry.draining

    @property
    def emergency_stop(self) -> EmergencyStop | None:
        """Returns the emergency stop that is in force."""
        return self.emergency.in_force

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        await self._loading.load(built_in)

    def boot(self) -> None:
        """Starts what starts by itself, within the process limit and unless there is an emergency stop; unfinished changes go on."""
        if self.emergency.in_force is None:
            self.startup.start_within_limit(
                supervisor
                for agent in self.agents.values()
                for supervisor in agent.supervisors
                if not supervisor.is_cordoned(Unschedulable.HIBERNATED)
                and (supervisor.worker.waits if agent.name in self._taken_up else agent.spec.autostart)
            )
        self._loading.resume()

    # -- from one program of the daemon to the next

    def obstacles(self) -> list[str]:
        """Returns what no other program can go on with, each in words."""
        found = [words for each in self.registry.lives() if (words := each.obstacle)]
        for agent in self.agents.values():
            if agent.changing.locked() or agent.target is not None or agent.beside:
                found.append(f'"{agent.name}" is being changed')
        return found

    def hand_over(self) -> dict[str, AgentHandover]:
        """Returns what the next program goes on from, by the names of the agents; without obstacles."""
        return {
            agent.name: AgentHandover(agent.held, tuple(each.hand_over() for each in agent.supervisors))
            for agent in self.agents.values()
        }

    def hold(self) -> None:
        """Reads no more messages of workers, until `release`."""
        for each in self.registry.lives():
            each.hold()

    def release(self) -> None:
        """Reads the messages of workers again."""
        for each in self.registry.lives():
            each.release()

    def leave(self) -> None:
        """Does nothing more with the workers: the next program does."""
        for each in self.registry.lives():
            each.leave()

    async def take_up(self, left: Mapping[str, AgentHandover]) -> dict[str, WorkerSupervisor]:
        """Goes on from what the program before has left; returns the supervisors of the units that have processes.

        `resume` of each follows, when what runs on them was taken up.
        """
        found = {name: self.agents[name] for name in left if name in self.agents}
        for name, agent in found.items():
            await self.replicas.fit(agent, len(left[name].workers))
        for name, agent in found.items():
            agent.held = left[name].held
            for supervisor, worker in zip(agent.supervisors, left[name].workers, strict=True):
                await supervisor.take_up(worker)
        self._taken_up = frozenset(found)
        return {each.life.unit: each for each in self.registry.lives() if each.life is not None}

    async def drain(self) -> None:
        """Stops everything, dependents before the agents that they require."""
        self.registry.draining = True
        try:
            await self.operations.stop(self.registry.lives())
        except Timeout as error:  # what the kernel cannot end must not keep the others
            logger.error("%s", error)
        await self.replicas.close(self.registry.lives())
        await self.replicas.settle()

    async def settle(self) -> None:
        """Finishes what is removed and written beside the workers, at the end of this program."""
        await self.shared.removals.finish()
        await self.shared.incarnations.release_unused()
