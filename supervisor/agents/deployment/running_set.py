"""Connects deployments to the running set: a version comes in force by a rolling change, the first one by a proven start.

Guarantees that workers of the first version get no task before they are up, healthy and past the smoke task.
"""

import asyncio
import shutil
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.loader import decode_agent
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.process.launch import Host
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, SpawnFailed, WorkerFailed
from corral.worker.contract.names import local_name, tenant_of

from ..kept.record import Cause
from ..membership.additions import Addition
from ..membership.agents import Agents
from ..rollout.roll import failure
from ..rollout.rollouts import Rollout, Rollouts
from .plan import Facts

LOOK_S = 0.05
"""Seconds between two looks at the health checks of a first version, whose success is no event, and at finishing workers."""


LENT = ("tenant", "agent")
"""Shares of the owner's servers that a tenant's agents may have."""


class Change(Struct, frozen=True, kw_only=True):
    """Describes the change of an agent to a version of a package: its author and reason, and the share of the workers."""

    package: str
    by: str
    why: str = ""
    share: float = 1.0


class RunningSet:
    """Brings versions of packages in force in the running set of one daemon."""

    def __init__(self, agents: Agents, rollouts: Rollouts, host: Host, folder_of: Callable[[str], str]) -> None:
        self._agents = agents
        self._folder_of = folder_of
        self._rollouts = rollouts
        self._host = host
        self._begun: dict[str, Rollout] = {}
        """The changes of deployments that are under way: another caller may begin one in place of it."""

    def spec_of(self, name: str) -> Spec | None:
        """Returns the spec that is in force."""
        agent = self._agents.agents.get(name)
        return None if agent is None else agent.spec

    def decode(self, name: str, table: Mapping[str, object]) -> Spec:
        """Returns the spec of a table."""
        agent = self._agents.agents.get(name)
        if agent is None:
            self._agents.groups.check_free(name, "deploy")
        elif agent.spec.kind != "agent" or not agent.added:
            has = f"the MCP server {name}" if agent.spec.kind == "mcp" else agent.spec.source
            words = f'cannot deploy "{name}": {has} has this name; deploy it --as another'
            raise Conflict(words, name=name, source=agent.spec.source)
        return decode_agent(
            name,
            table,
            kind="agent",
            defaults=self._agents.config.defaults,
            source=STORE,
            directory=self._directory(name),
        )

    def _directory(self, name: str) -> str:
        tenant = tenant_of(name)
        return self._folder_of(tenant) if tenant else "/"

    async def roll(self, name: str, table: Mapping[str, object], change: Change) -> int | None:
        """Changes an agent, or adds it, and returns its revision when the version serves, or its share of the workers does."""
        addition = Addition(name, "agent", table, self._directory(name))
        cause = Cause("deploy", change.by, change.why, change.package)
        if name not in self._agents.agents:
            await self._add(addition, cause)
            return self._agents.revisions.head(name).current
        await self._agents.membership.replace(addition, cause, change.share)
        head = self._agents.revisions.head(name)
        rollout = self._rollouts.of(name)
        if rollout is not None:
            self._begun[name] = rollout
            await self._until_done(rollout)
        return head.rolling or head.current

    async def promote(self, name: str) -> None:
        """Gives the rest of the workers the version that a share of them has."""
        rollout = self._begun[name]
        if self._rollouts.of(name) is rollout:
            self._rollouts.proceed(name)
        await self._until_done(rollout)

    async def abort(self, name: str, reason: str) -> None:
        """Takes a change that is under way back; returns when the spec before is in force again."""
        rollout = self._begun.pop(name, None)
        if rollout is not None and self._rollouts.of(name) is rollout:
            self._rollouts.take_back(name, reason)
            await rollout.result()
        await self.quiet(name, or_finishing=True)

    async def quiet(self, name: str, *, or_finishing: bool = False) -> None:
        """Waits until all workers of an agent are those of its spec: former and refused ones have ended."""
        while True:
            await asyncio.sleep(LOOK_S)  # a change that was taken back begins its way back a moment later
            agent = self._agents.agents.get(name)
            if agent is None or self._agents.draining:
                return
            if agent.rolling is None and (or_finishing or not (agent.incoming or agent.outgoing)):
                return

    async def remove(self, name: str) -> None:
        """Removes an agent."""
        await self._agents.membership.remove([name])

    async def failed(self, name: str) -> str:
        """Waits until the change of a share is taken back, and returns why."""
        return (await self._begun[name].result()).reason or "another change has taken its place"

    async def _until_done(self, rollout: Rollout) -> None:
        """Waits until a change has ended, or holds."""
        held = asyncio.ensure_future(rollout.held.wait())
        ended = asyncio.ensure_future(rollout.result())
        try:
            await asyncio.wait({held, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            held.cancel()
            if not ended.done():
                ended.cancel()
        if ended.done() and not ended.cancelled() and not ended.result().succeeded:
            reason = ended.result().reason
            words = f'cannot change "{rollout.agent}": {reason}'
            raise WorkerFailed(words, name=rollout.agent, reason=reason)

    async def _add(self, addition: Addition, cause: Cause) -> None:
        """Adds the first version; it is removed again unless it proves itself."""
        name = addition.name
        await self._agents.membership.add([addition], start=False, wait=False, cause=cause)
        is_proven = False
        try:
            agent = self._agents.of(name)
            for supervisor in agent.supervisors:
                supervisor.cordon(Unschedulable.INCOMING)
            if agent.spec.autostart:
                await self._prove(agent.supervisors, agent.spec)
            for supervisor in agent.supervisors:
                supervisor.uncordon(Unschedulable.INCOMING)
                supervisor.publish_change()
            is_proven = True
        finally:
            if not is_proven and name in self._agents.agents and not self._agents.draining:
                await self.remove(name)

    async def _prove(self, supervisors: Collection[WorkerSupervisor], spec: Spec) -> None:
        await self._agents.startup.bring_up(list(supervisors))
        for supervisor in supervisors:
            supervisor.health_monitor.hurry()
            while not _is_healthy(supervisor):
                if reason := failure(supervisor, None):
                    words = f'cannot add "{spec.name}": {reason}'
                    raise SpawnFailed(words, agent=spec.name, reason=reason)
                await asyncio.sleep(LOOK_S)
            supervisor.health_monitor.hurry(is_due=False)
        if spec.smoke is not None and supervisors:
            reason = await self._rollouts.attempt(next(iter(supervisors)), spec)
            if reason:
                words = f"its smoke task has failed: {reason}"
                raise WorkerFailed(f'cannot add "{spec.name}": {words}', agent=spec.name, reason=words)

    def referred(self) -> Collection[str]:
        """Returns the working directories and interpreters of all specs that are in force or are to be."""
        found: set[str] = set()
        for agent in self._agents.agents.values():
            for spec in (agent.spec, agent.target, *(each.spec for each in agent.lives)):
                if spec is not None:
                    found |= {spec.process.working_directory, str(spec.python or "")}
                    found.add(spec.environment.get("VIRTUAL_ENV", ""))
        return found

    def facts(self, commands: Collection[str], tenant: str) -> Facts:
        """Returns the local names of what an owner has on this machine; of `commands` those in PATH."""
        every = [agent.spec for agent in self._agents.agents.values()]
        specs = [spec for spec in every if tenant_of(spec.name) == tenant]
        shared = {spec.name for spec in every if spec.kind == "mcp" and not tenant_of(spec.name) and spec.share in LENT}
        secrets = [str(each["name"]) for each in self._host.secrets.listed()]
        path = self._host.environ.get("PATH")
        return Facts(
            mcp={local_name(spec.name) for spec in specs if spec.kind == "mcp"} | shared,
            agents={local_name(spec.name) for spec in specs if spec.kind == "agent"},
            capabilities={each for spec in specs for each in spec.capabilities},
            secrets={local_name(name) for name in secrets if tenant_of(name) == tenant},
            commands={each for each in commands if shutil.which(each, path=path)},
        )


def _is_healthy(supervisor: WorkerSupervisor) -> bool:
    """Returns whether a worker is up, and all health checks that its agent has written have succeeded."""
    healths = supervisor.health_monitor.healths if supervisor.spec.health is not None else ()
    return supervisor.worker.state in UP and all(each.healthy for each in healths)
