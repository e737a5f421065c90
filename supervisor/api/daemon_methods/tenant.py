"""Serves the methods `tenant.*` of the table: adds, shows, changes, suspends, resumes and removes tenants."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.declared.pools import check_pool
from corral.supervisor.config.declared.tenant import Tenant, decode_tenant
from corral.supervisor.config.decoding.decoder import STORE, Document
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.tenants import Tenants as TenantRegistry
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, InvalidParams
from corral.worker.contract.names import tenant_of
from corral.worker.control.params import NoParams
from corral.worker.control.tenants import (
    TenantAdded,
    TenantAddParams,
    TenantChanged,
    TenantNameParams,
    TenantRecord,
    Tenants,
    TenantSetParams,
    TenantShown,
    TenantShowParams,
    TenantSwitched,
)
from corral.worker.methods.tenant import TENANT_ADD, TENANT_LIST, TENANT_RESUME, TENANT_SET, TENANT_SHOW, TENANT_SUSPEND

from ..table.caller import Caller
from ..table.handlers import serve
from .layers import layers_of


class TenantMethods:
    """Serves the methods `tenant.*` but for `tenant.rm`."""

    def __init__(
        self,
        agents: Agents,
        tenants: TenantRegistry,
        accounts: Accounts,
        hibernation: Hibernation,
        launcher: Launcher,
        bus: Bus,
    ) -> None:
        self._agents = agents
        self._tenants = tenants
        self._accounts = accounts
        self._hibernation = hibernation
        self._launcher = launcher
        self._bus = bus

    @serve(TENANT_ADD)
    async def _add(self, params: TenantAddParams, _caller: Caller) -> TenantAdded:
        tenants, name = self._tenants, params.name
        present = tenants.find(name)
        if present is not None:
            self._check_same(present, params)
            return TenantAdded(tenant=self._record(present), created=False, restarted=self._reset(name))
        if tenants.kept(name).removing:
            raise Conflict(f'cannot add tenant "{name}": it is being removed', name=name, reason="removing")
        asked = self._decoded(name, params.spec)
        kept = replace(tenants.kept(name), added=True, table=params.spec, suspended=False)
        await tenants.keep(name, tenants.prepared(name, kept, asked.user is None))
        self._bus.publish("tenant.added", tenant=name)
        return TenantAdded(tenant=self._record(tenants.of(name)), created=True)

    @serve(TENANT_LIST)
    async def _list(self, _params: NoParams, _caller: Caller) -> Tenants:
        found = self._tenants.all()
        by_tenant: dict[str, list[Agent]] = {}
        for agent in self._agents.agents.values():
            by_tenant.setdefault(tenant_of(agent.name), []).append(agent)
        return Tenants([self._counted(found[name], by_tenant.get(name, [])) for name in sorted(found)])

    @serve(TENANT_SHOW)
    async def _show(self, params: TenantShowParams, _caller: Caller) -> TenantShown:
        if params.name is None:
            raise InvalidParams("cannot show a tenant: name one", key="name")
        tenant = self._tenants.of(params.name)
        agents = [agent for agent in self._agents.agents.values() if tenant_of(agent.name) == tenant.name]
        groups = self._agents.groups.by_name.values()
        return TenantShown(
            layers=layers_of(self._accounts, self._launcher.containment, tenant.name),
            tenant=self._record(tenant),
            spec=self._table(tenant),
            agents=sorted(agent.name for agent in agents if agent.spec.kind == "agent"),
            servers=sorted(agent.name for agent in agents if agent.spec.kind == "mcp"),
            groups=sorted(
                f"{kind_of_group(group)}:{group.name}" for group in groups if tenant_of(group.name) == tenant.name
            ),
        )

    @serve(TENANT_SET)
    async def _set(self, params: TenantSetParams, _caller: Caller) -> TenantChanged:
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
        return TenantChanged(tenant=self._record(tenants.of(name)), keys=keys)

    @serve(TENANT_SUSPEND)
    async def _suspend(self, params: TenantNameParams, _caller: Caller) -> TenantSwitched:
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
        return TenantSwitched(tenant=self._record(tenant), workers=sorted(stopped))

    @serve(TENANT_RESUME)
    async def _resume(self, params: TenantNameParams, _caller: Caller) -> TenantSwitched:
        tenants, name = self._tenants, params.name
        tenant = tenants.of(name)
        kept = tenants.kept(name)
        chosen: list[WorkerSupervisor] = []
        if kept.suspended and not kept.removing:
            await tenants.keep(name, replace(kept, suspended=False))
            self._bus.publish("tenant.resumed", tenant=name)
            chosen = [each for each in self._supervisors_of(name) if each.spec.autostart]
            self._agents.startup.start_by_itself(chosen)
        return TenantSwitched(tenant=self._record(tenant), workers=sorted(each.id for each in chosen))

    def _supervisors_of(self, name: str) -> list[WorkerSupervisor]:
        """Returns the supervisors of all agents and servers of a tenant."""
        return [
            supervisor
            for agent in self._agents.agents.values()
            if tenant_of(agent.name) == name
            for supervisor in agent.supervisors
        ]

    def _decoded(self, name: str, table: Mapping[str, object]) -> Tenant:
        """Returns a tenant from its table."""
        config = self._agents.config
        tenant = decode_tenant(name, table, config.tiers)
        check_pool(Document(STORE, ""), ("tenants", name, "pool"), tenant.pool, config.pools, name)
        return tenant

    def _check_same(self, present: Tenant, params: TenantAddParams) -> None:
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
        """Starts the wanted agents of a tenant again that have given up; returns their names."""
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

    def _record(self, tenant: Tenant) -> TenantRecord:
        agents = self._agents.agents.values()
        return self._counted(tenant, [each for each in agents if tenant_of(each.name) == tenant.name])

    def _counted(self, tenant: Tenant, agents: Collection[Agent]) -> TenantRecord:
        kept = self._tenants.kept(tenant.name)
        return TenantRecord(
            name=tenant.name,
            runtime_id=kept.runtime_id,
            source=tenant.source,
            suspended=kept.suspended,
            tier=tenant.tier,
            user=tenant.user,
            uid=kept.uid,
            pool=tenant.pool,
            folder=str(self._accounts.folder(tenant.name)),
            created_at=_stamp(kept.created_at) if kept.created_at else None,
            limits=dict(tenant.limits),
            agents=sum(agent.spec.kind == "agent" for agent in agents),
            servers=sum(agent.spec.kind == "mcp" for agent in agents),
            workers=sum(supervisor.worker.tree for agent in agents for supervisor in agent.supervisors),
        )


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
