"""Serves the methods `tenant.*` of the table: adds, shows, changes, suspends, resumes and removes tenants."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.declared.pools import check_pool
from corral.supervisor.config.declared.tenant import Tenant, decode_tenant
from corral.supervisor.config.decoding.decoder import STORE, Document
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.workers.lifecycle.state_machine import State
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

from ..table.table import Caller, Control, serve
from .layers import layers_of


@serve(TENANT_ADD)
async def _add(control: Control, params: TenantAddParams, _caller: Caller) -> TenantAdded:
    tenants, name = control.tenants, params.name
    present = tenants.find(name)
    if present is not None:
        _check_same(control, present, params)
        return TenantAdded(tenant=_record(control, present), created=False, restarted=_reset(control, name))
    if tenants.kept(name).removing:
        words = f'cannot add tenant "{name}": it is being removed'
        raise Conflict(words, name=name, reason="removing")
    asked = _decoded(control, name, params.spec)
    kept = replace(tenants.kept(name), added=True, table=params.spec, suspended=False)
    await tenants.keep(name, tenants.prepared(name, kept, asked.user is None))
    control.shared.bus.publish("tenant.added", tenant=name)
    return TenantAdded(tenant=_record(control, tenants.of(name)), created=True)


@serve(TENANT_LIST)
async def _list(control: Control, _params: NoParams, _caller: Caller) -> Tenants:
    found = control.tenants.all()
    by_tenant: dict[str, list[Agent]] = {}
    for agent in control.agents.agents.values():
        by_tenant.setdefault(tenant_of(agent.name), []).append(agent)
    records = [_counted(control, found[name], by_tenant.get(name, [])) for name in sorted(found)]
    return Tenants(records)


@serve(TENANT_SHOW)
async def _show(control: Control, params: TenantShowParams, _caller: Caller) -> TenantShown:
    if params.name is None:
        raise InvalidParams("cannot show a tenant: name one", key="name")
    tenant = control.tenants.of(params.name)
    agents = [agent for agent in control.agents.agents.values() if tenant_of(agent.name) == tenant.name]
    groups = control.agents.groups.by_name.values()
    return TenantShown(
        layers=layers_of(control, tenant.name),
        tenant=_record(control, tenant),
        spec=_table(control, tenant),
        agents=sorted(agent.name for agent in agents if agent.spec.kind == "agent"),
        servers=sorted(agent.name for agent in agents if agent.spec.kind == "mcp"),
        groups=sorted(
            f"{kind_of_group(group)}:{group.name}" for group in groups if tenant_of(group.name) == tenant.name
        ),
    )


@serve(TENANT_SET)
async def _set(control: Control, params: TenantSetParams, _caller: Caller) -> TenantChanged:
    tenants, name = control.tenants, params.name
    before = tenants.of(name)
    kept = tenants.kept(name)
    table = {**kept.table, **params.spec}
    table = {key: value for key, value in table.items() if value is not None}
    of_file = control.agents.config.tenants.get(name)
    base = {} if of_file is None else of_file.written
    after = _decoded(control, name, {**base, **table})
    keys = [
        key
        for key in after.__struct_fields__
        if key not in ("source", "written") and getattr(before, key) != getattr(after, key)
    ]
    if table != kept.table:
        await tenants.keep(name, replace(kept, table=table))
    if keys:
        control.shared.bus.publish("tenant.changed", tenant=name, keys=keys)
    return TenantChanged(tenant=_record(control, tenants.of(name)), keys=keys)


@serve(TENANT_SUSPEND)
async def _suspend(control: Control, params: TenantNameParams, _caller: Caller) -> TenantSwitched:
    tenants, name = control.tenants, params.name
    tenant = tenants.of(name)
    kept = tenants.kept(name)
    if not kept.suspended:
        await tenants.keep(name, replace(kept, suspended=True))
        control.shared.bus.publish("tenant.suspended", tenant=name)
    present = supervisors_of(control, name)
    stopped = [supervisor.id for supervisor in present if supervisor.worker.tree]
    control.hibernation.stopped(present)
    await control.agents.operations.stop(present)
    return TenantSwitched(tenant=_record(control, tenant), workers=sorted(stopped))


@serve(TENANT_RESUME)
async def _resume(control: Control, params: TenantNameParams, _caller: Caller) -> TenantSwitched:
    tenants, name = control.tenants, params.name
    tenant = tenants.of(name)
    kept = tenants.kept(name)
    chosen: list[WorkerSupervisor] = []
    if kept.suspended and not kept.removing:
        await tenants.keep(name, replace(kept, suspended=False))
        control.shared.bus.publish("tenant.resumed", tenant=name)
        chosen = [each for each in supervisors_of(control, name) if each.spec.autostart]
        control.agents.startup.start_by_itself(chosen)
    return TenantSwitched(tenant=_record(control, tenant), workers=sorted(each.id for each in chosen))


# -- helpers


def supervisors_of(control: Control, name: str) -> list[WorkerSupervisor]:
    """Returns the supervisors of all agents and servers of a tenant."""
    return [
        supervisor
        for agent in control.agents.agents.values()
        if tenant_of(agent.name) == name
        for supervisor in agent.supervisors
    ]


def _decoded(control: Control, name: str, table: Mapping[str, object]) -> Tenant:
    """Returns a tenant from its table."""
    config = control.agents.config
    tenant = decode_tenant(name, table, config.tiers)
    document = Document(STORE, "")
    check_pool(document, ("tenants", name, "pool"), tenant.pool, config.pools, name)
    return tenant


def _check_same(control: Control, present: Tenant, params: TenantAddParams) -> None:
    """Refuses a second addition that asks for a new tenant, or for other values."""
    name = params.name
    if params.new:
        raise Conflict(f'cannot add tenant "{name}": there is one of this name', name=name)
    asked = _decoded(control, name, params.spec)
    keys = [key for key in params.spec if getattr(asked, key) != getattr(present, key)]
    if keys:
        words = f'it has another {", ".join(keys)}; "corral tenant set {name}" changes it'
        raise Conflict(f'cannot add tenant "{name}": {words}', name=name, keys=keys)


def _reset(control: Control, name: str) -> list[str]:
    """Starts the wanted agents of a tenant again that have given up; returns their names."""
    found = [
        supervisor
        for supervisor in supervisors_of(control, name)
        if supervisor.worker.wanted and supervisor.worker.state is State.TERMINATED
    ]
    control.agents.operations.reset(found)
    return sorted({supervisor.spec.name for supervisor in found})


def _table(control: Control, tenant: Tenant) -> dict[str, object]:
    """Returns the table that is in force: that of the file, with the keys that were set over it."""
    of_file = control.agents.config.tenants.get(tenant.name)
    table: Mapping[str, object] = {} if of_file is None else of_file.written
    return codec.as_object(msgspec.to_builtins({**table, **control.tenants.kept(tenant.name).table})) or {}


def _record(control: Control, tenant: Tenant) -> TenantRecord:
    agents = control.agents.agents.values()
    return _counted(control, tenant, [each for each in agents if tenant_of(each.name) == tenant.name])


def _counted(control: Control, tenant: Tenant, agents: Collection[Agent]) -> TenantRecord:
    kept = control.tenants.kept(tenant.name)
    return TenantRecord(
        name=tenant.name,
        runtime_id=kept.runtime_id,
        source=tenant.source,
        suspended=kept.suspended,
        tier=tenant.tier,
        user=tenant.user,
        uid=kept.uid,
        pool=tenant.pool,
        folder=str(control.accounts.folder(tenant.name)),
        created_at=_stamp(kept.created_at) if kept.created_at else None,
        limits=dict(tenant.limits),
        agents=sum(agent.spec.kind == "agent" for agent in agents),
        servers=sum(agent.spec.kind == "mcp" for agent in agents),
        workers=sum(supervisor.worker.tree for agent in agents for supervisor in agent.supervisors),
    )


def _stamp(moment: float) -> str:
    at = datetime.fromtimestamp(moment, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
