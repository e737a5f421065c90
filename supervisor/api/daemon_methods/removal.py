"""Serves the method `tenant.rm`: ends all of a tenant, then erases it."""

from pathlib import Path

from msgspec.structs import replace

from corral.supervisor.tenants.registry.removal import erase
from corral.worker.contract.errors import Conflict
from corral.worker.contract.names import tenant_of
from corral.worker.control.tenants import TenantNameParams, TenantRemoved
from corral.worker.methods.tenant import TENANT_RM

from ..table.table import Caller, Control, serve


@serve(TENANT_RM)
async def _remove(control: Control, params: TenantNameParams, _caller: Caller) -> TenantRemoved:
    name, tenants = params.name, control.tenants
    _check(control, name)
    with tenants.removal(name):
        await tenants.keep(name, replace(tenants.kept(name), removing=True))
        await _forget(control, name)
        erased = await erase(control.shared.store, tenants, Path(control.daemon.state_dir), name)
    control.shared.bus.publish("tenant.removed", tenant=name, store=False)
    return TenantRemoved(removed=[name], erased=erased)


def _check(control: Control, name: str) -> None:
    """Refuses a tenant that is not there, or that the file has."""
    tenants, config = control.tenants, control.agents.config
    if tenants.find(name) is None and name not in tenants.kept_names():
        tenants.of(name)
    of_file = [key for key in (*config.agents, *config.groups, *config.schedules) if tenant_of(key) == name]
    if name in config.tenants or of_file:
        words = "the configuration file has it: take its tables out, and reload"
        raise Conflict(f'cannot remove tenant "{name}": {words}', name=name, reason="file", names=sorted(of_file))


async def _forget(control: Control, name: str) -> None:
    """Ends what the daemon itself holds of a tenant: its processes, tasks, schedules, tokens and secrets."""
    await control.deployments.forget(name)
    control.packages.forget(name)
    agents = [each for each in control.agents.agents.values() if tenant_of(each.name) == name]
    groups = [each for each in control.agents.groups.by_name if tenant_of(each) == name]
    control.hibernation.stopped([k for agent in agents for k in agent.supervisors])
    await control.tasks.cancel_all(name)
    if agents:
        await control.agents.membership.take_out(agents, groups)
    elif groups:
        await control.agents.membership.remove(groups, cascade=True)
    for schedule in control.schedules.list():
        if tenant_of(schedule.task.agent or schedule.name) == name:
            await control.schedules.remove(schedule.name)
    for token in control.tokens.list():
        if tenant_of(token.name) == name:
            await control.tokens.remove(token.name)
    if (secrets := control.shared.host.secrets.store) is not None:
        for secret in secrets.names():
            if tenant_of(secret) == name:
                secrets.remove(secret)
    for agent in agents:
        await control.memory.clear(agent.name, None)
    await control.costs.settle()
    await control.shared.incarnations.forget(name)
    control.metrics.forget(name)
    control.models.ledger.forget(name)
