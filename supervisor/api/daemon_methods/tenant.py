"""Serves the methods `tenant.*` of the table: adds, shows, changes, suspends, resumes and removes tenants."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.declared.pools import check_pool
from corral.supervisor.config.declared.tenant import Tenant, decode_tenant
from corral.supervisor.config.decoding.decoder import STORE, Document
from corral.supervisor.config.secrets.store import SecretStore
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.workflows.schedules import Schedules
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.removal import erase
from corral.supervisor.tenants.registry.tenants import Tenants as TenantRegistry
from corral.supervisor.tenants.tokens.tokens import Tokens
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.supervisor.workers.process import sandbox
from corral.supervisor.workers.process.containment import Containment
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, InvalidParams
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import copied
from corral.worker.control import tenants as shapes
from corral.worker.control.params import NoParams
from corral.worker.methods import access as methods

from ..table.handlers import Caller, serve

FILES_ABI = 3
"""Version of Landlock that holds reads and writes."""


def layers_of(accounts: Accounts, containment: Containment, name: str) -> list[shapes.Layer]:
    """Returns the layers between a tenant's processes and others', each with its value or the reason for its lack."""
    abi = sandbox.landlock_abi()
    standing, why = accounts.standing(name), accounts.why_shared(name)
    has = f"version {abi} of Landlock" if abi else "this kernel has no Landlock"
    limits = "" if sandbox.scopes_limits() else "no filter of system calls is known for this machine"
    return [
        shapes.Layer("user", not why, why or f"{standing.user}"),
        shapes.Layer("folder", abi >= FILES_ABI, standing.folder if abi >= FILES_ABI else has),
        shapes.Layer("files", abi >= FILES_ABI, has),
        shapes.Layer("signals", sandbox.scopes_signals(), has),
        shapes.Layer("abstract-sockets", sandbox.scopes_signals(), has),
        shapes.Layer("limits-of-others", sandbox.scopes_limits(), limits),
        shapes.Layer("no-new-privileges", True),
        shapes.Layer("control-socket", True, "no right is granted on it"),
        shapes.Layer("cgroup", containment.tier != "launcher", containment.tier),
    ]


@dataclass(frozen=True, eq=False)
class TenantMethods:
    """Serves the methods `tenant.*` but for `tenant.rm`."""

    _agents: Agents
    _tenants: TenantRegistry
    _accounts: Accounts
    _hibernation: Hibernation
    _launcher: Launcher
    _bus: Bus

    @serve(methods.TENANT_ADD)
    async def _add(self, params: shapes.TenantAddParams, _caller: Caller) -> shapes.TenantAdded:
        tenants, name = self._tenants, params.name
        present = tenants.find(name)
        if present is not None:
            self._check_same(present, params)
            return shapes.TenantAdded(tenant=self._record(present), created=False, restarted=self._reset(name))
        if tenants.kept(name).removing:
            raise Conflict(f'cannot add tenant "{name}": it is being removed', name=name, reason="removing")
        asked = self._decoded(name, params.spec)
        kept = replace(tenants.kept(name), added=True, table=params.spec, suspended=False)
        await tenants.keep(name, tenants.prepared(name, kept, asked.user is None))
        self._bus.publish("tenant.added", tenant=name)
        return shapes.TenantAdded(tenant=self._record(tenants.of(name)), created=True)

    @serve(methods.TENANT_LIST)
    async def _list(self, _params: NoParams, _caller: Caller) -> shapes.Tenants:
        found = self._tenants.all()
        by_tenant: dict[str, list[Agent]] = {}
        for agent in self._agents.agents.values():
            by_tenant.setdefault(tenant_of(agent.name), []).append(agent)
        return shapes.Tenants([self._counted(found[name], by_tenant.get(name, [])) for name in sorted(found)])

    @serve(methods.TENANT_SHOW)
    async def _show(self, params: shapes.TenantShowParams, _caller: Caller) -> shapes.TenantShown:
        if params.name is None:
            raise InvalidParams("cannot show a tenant: name one", key="name")
        tenant = self._tenants.of(params.name)
        agents = [agent for agent in self._agents.agents.values() if tenant_of(agent.name) == tenant.name]
        groups = self._agents.groups.by_name.values()
        return shapes.TenantShown(
            layers=layers_of(self._accounts, self._launcher.containment, tenant.name),
            tenant=self._record(tenant),
            spec=self._table(tenant),
            agents=sorted(agent.name for agent in agents if agent.spec.kind == "agent"),
            servers=sorted(agent.name for agent in agents if agent.spec.kind == "mcp"),
            groups=sorted(
                f"{kind_of_group(group)}:{group.name}" for group in groups if tenant_of(group.name) == tenant.name
            ),
        )

    @serve(methods.TENANT_SET)
    async def _set(self, params: shapes.TenantSetParams, _caller: Caller) -> shapes.TenantChanged:
        tenants, name = self._tenants, params.name
        before = tenants.of(name)
        kept = tenants.kept(name)
        table = {**kept.table, **params.spec}
        table = {key: value for key, value in table.items() if value is not None}
        of_file = self._agents.config.tenants.get(name)
        base = {} if of_file is None else of_file.written
        after = self._decoded(name, {**base, **table})
        keys = [
            key
            for key in after.__struct_fields__
            if key not in ("source", "written") and getattr(before, key) != getattr(after, key)
        ]
        if table != kept.table:
            await tenants.keep(name, replace(kept, table=table))
        if keys:
            self._bus.publish("tenant.changed", tenant=name, keys=keys)
        return shapes.TenantChanged(tenant=self._record(tenants.of(name)), keys=keys)

    @serve(methods.TENANT_SUSPEND)
    async def _suspend(self, params: shapes.TenantNameParams, _caller: Caller) -> shapes.TenantSwitched:
        tenants, name = self._tenants, params.name
        tenant = tenants.of(name)
        kept = tenants.kept(name)
        if not kept.suspended:
            await tenants.keep(name, replace(kept, suspended=True))
            self._bus.publish("tenant.suspended", tenant=name)
        present = self._supervisors_of(name)
        stopped = [supervisor.id for supervisor in present if supervisor.worker.tree]
        self._hibernation.stopped(present)
        await self._agents.operations.stop(present)
        return shapes.TenantSwitched(tenant=self._record(tenant), workers=sorted(stopped))

    @serve(methods.TENANT_RESUME)
    async def _resume(self, params: shapes.TenantNameParams, _caller: Caller) -> shapes.TenantSwitched:
        tenants, name = self._tenants, params.name
        tenant = tenants.of(name)
        kept = tenants.kept(name)
        chosen: list[WorkerSupervisor] = []
        if kept.suspended and not kept.removing:
            await tenants.keep(name, replace(kept, suspended=False))
            self._bus.publish("tenant.resumed", tenant=name)
            chosen = [each for each in self._supervisors_of(name) if each.spec.autostart]
            self._agents.startup.start_by_itself(chosen)
        return shapes.TenantSwitched(tenant=self._record(tenant), workers=sorted(each.id for each in chosen))

    def _supervisors_of(self, name: str) -> list[WorkerSupervisor]:
        return [
            supervisor
            for agent in self._agents.agents.values()
            if tenant_of(agent.name) == name
            for supervisor in agent.supervisors
        ]

    def _decoded(self, name: str, table: Mapping[str, object]) -> Tenant:
        config = self._agents.config
        tenant = decode_tenant(name, table, config.tiers)
        check_pool(Document(STORE, ""), ("tenants", name, "pool"), tenant.pool, config.pools, name)
        return tenant

    def _check_same(self, present: Tenant, params: shapes.TenantAddParams) -> None:
        """Refuses a second addition that asks for a new tenant, or for other values."""
        name = params.name
        if params.new:
            raise Conflict(f'cannot add tenant "{name}": there is one of this name', name=name)
        asked = self._decoded(name, params.spec)
        keys = [key for key in params.spec if getattr(asked, key) != getattr(present, key)]
        if keys:
            words = f'it has another {", ".join(keys)}; "corral tenant set {name}" changes it'
            raise Conflict(f'cannot add tenant "{name}": {words}', name=name, keys=keys)

    def _reset(self, name: str) -> list[str]:
        found = [
            supervisor
            for supervisor in self._supervisors_of(name)
            if supervisor.worker.wanted and supervisor.worker.state is State.TERMINATED
        ]
        self._agents.operations.reset(found)
        return sorted({supervisor.spec.name for supervisor in found})

    def _table(self, tenant: Tenant) -> dict[str, object]:
        """Returns the table that is in force: that of the file, with the keys that were set over it."""
        of_file = self._agents.config.tenants.get(tenant.name)
        table: Mapping[str, object] = {} if of_file is None else of_file.written
        return codec.as_object(msgspec.to_builtins({**table, **self._tenants.kept(tenant.name).table})) or {}

    def _record(self, tenant: Tenant) -> shapes.TenantRecord:
        agents = self._agents.agents.values()
        return self._counted(tenant, [each for each in agents if tenant_of(each.name) == tenant.name])

    def _counted(self, tenant: Tenant, agents: Collection[Agent]) -> shapes.TenantRecord:
        kept = self._tenants.kept(tenant.name)
        return shapes.TenantRecord(
            **copied(tenant, "name source tier user pool"),
            **copied(kept, "runtime_id suspended uid"),
            folder=str(self._accounts.folder(tenant.name)),
            created_at=_stamp(kept.created_at) if kept.created_at else None,
            limits=dict(tenant.limits),
            agents=sum(agent.spec.kind == "agent" for agent in agents),
            servers=sum(agent.spec.kind == "mcp" for agent in agents),
            workers=sum(supervisor.worker.tree for agent in agents for supervisor in agent.supervisors),
        )


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Forget = Callable[[str], Awaitable[None] | None]
"""Ends and forgets what one part of the daemon holds of a tenant."""


@dataclass(frozen=True, eq=False)
class RemovalMethods:
    """Serves `tenant.rm`; `forgetting` are called in their order before files and rows are erased."""

    _tenants: TenantRegistry
    _agents: Agents
    _store: Store
    _bus: Bus
    _state_dir: Path
    _forgetting: Sequence[Forget]

    @serve(methods.TENANT_RM)
    async def _rm(self, params: shapes.TenantNameParams, _caller: Caller) -> shapes.TenantRemoved:
        name, tenants = params.name, self._tenants
        self._check(name)
        with tenants.removal(name):
            await tenants.keep(name, replace(tenants.kept(name), removing=True))
            for forget in self._forgetting:
                if (waiting := forget(name)) is not None:
                    await waiting
            erased = await erase(self._store, tenants, self._state_dir, name)
        self._bus.publish("tenant.removed", tenant=name, store=False)
        return shapes.TenantRemoved(removed=[name], erased=erased)

    def _check(self, name: str) -> None:
        tenants, config = self._tenants, self._agents.config
        if tenants.find(name) is None and name not in tenants.kept_names():
            tenants.of(name)
        of_file = [key for key in (*config.agents, *config.groups, *config.schedules) if tenant_of(key) == name]
        if name in config.tenants or of_file:
            words = "the configuration file has it: take its tables out, and reload"
            raise Conflict(f'cannot remove tenant "{name}": {words}', name=name, reason="file", names=sorted(of_file))


@dataclass(frozen=True, eq=False)
class RunningSet:
    """Ends what tenants run: their agents, the tasks and schedules of these, and what they remember."""

    _agents: Agents
    _hibernation: Hibernation
    _tasks: Tasks
    _schedules: Schedules
    _memory: Memory

    async def forget(self, tenant: str) -> None:
        """Ends all of a tenant, and removes it."""
        agents = [each for each in self._agents.agents.values() if tenant_of(each.name) == tenant]
        groups = [each for each in self._agents.groups.by_name if tenant_of(each) == tenant]
        self._hibernation.stopped([k for agent in agents for k in agent.supervisors])
        await self._tasks.cancel_all(tenant)
        if agents:
            await self._agents.membership.take_out(agents, groups)
        elif groups:
            await self._agents.membership.remove(groups, cascade=True)
        for schedule in self._schedules.list():
            if tenant_of(schedule.task.agent or schedule.name) == tenant:
                await self._schedules.remove(schedule.name)
        for agent in agents:
            await self._memory.clear(agent.name, None)


async def forget_tokens(tokens: Tokens, tenant: str) -> None:
    """Removes the tokens of a tenant."""
    for token in tokens.list():
        if tenant_of(token.name) == tenant:
            await tokens.remove(token.name)


def forget_secrets(secrets: SecretStore | None, tenant: str) -> None:
    """Removes the secrets of a tenant."""
    for secret in () if secrets is None else secrets.names():
        if secrets is not None and tenant_of(secret) == tenant:
            secrets.remove(secret)
