"""Decides whether a call is admitted: by the rights of its caller, its tenant, its scope, and the number of its changes."""

import asyncio

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.records.audit.log import Audit, refusal_key
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.tenants.tokens.change_rate import ChangeRate
from corral.worker.contract.errors import NotFound, Overloaded, PermissionDenied
from corral.worker.control.access import permits
from corral.worker.methods.method import AnyMethod

from .caller import Caller
from .inventory import Inventory
from .scoping import AgentScope, Scope, WholeScope

UNLIMITED = frozenset({"daemon.emergency_stop", "daemon.reload", "daemon.stop", "package.upload"})
"""Changes that are no part of max_changes_per_minute: an emergency, the ways to another limit, and the parts of a package,
whose `package.add` counts."""


class Admission:
    """Admits the calls of one daemon."""

    def __init__(
        self,
        in_force: InForce,
        tenants: Tenants,
        accounts: Accounts,
        registry: Registry,
        logs: LogStore,
        inventory: Inventory,
        audit: Audit,
    ) -> None:
        self._in_force = in_force
        self._tenants = tenants
        self._accounts = accounts
        self._registry = registry
        self._logs = logs
        self._inventory = inventory
        self._audit = audit
        self._rate = ChangeRate()
        self._loop = asyncio.get_running_loop()

    def scope(self, method: AnyMethod, caller: Caller) -> Scope:
        """Returns what a call is to be restricted to; refuses one whose tenant may not make it, or whose caller lacks the right."""
        if caller.tenant:
            self._check_tenant(method, caller.tenant)
        if not permits(caller.permission, method.access.permission):
            raise PermissionDenied(
                f'cannot call "{method.name}": {caller.name} may only {caller.permission}',
                method=method.name,
                needs=method.access.permission,
            )
        if caller.agents is None:
            return WholeScope()
        folder = str(self._accounts.folder(caller.tenant)) if caller.tenant else ""
        return AgentScope(method, caller.agents, caller.tenant, folder, self._registry, self._logs, self._inventory)

    def _check_tenant(self, method: AnyMethod, tenant: str) -> None:
        """Refuses a tenant that is not there, and the changes of one that is suspended."""
        if self._tenants.find(tenant) is None:
            raise NotFound(f'cannot find tenant "{tenant}"', name=tenant, known=[])
        if method.access.permission != "read" and self._tenants.is_suspended(tenant):
            raise PermissionDenied(
                f'cannot call "{method.name}": tenant "{tenant}" is suspended',
                method=method.name,
                tenant=tenant,
                reason="suspended",
            )

    async def check_change(self, method: AnyMethod, caller: Caller) -> None:
        """Refuses a change beyond the rate of its caller, and one that needs a record while none can be stored."""
        if method.name not in UNLIMITED:
            self._check_rate(method, caller)
        if method.access.recorded == "or-refused":
            await self._audit.require(f'call "{method.name}"')

    def _check_rate(self, method: AnyMethod, caller: Caller) -> None:
        limit = self._in_force.config.daemon.max_changes_per_minute
        token = caller.who.get("token")  # an HTTP client chooses its other name itself
        name = refusal_key(caller.who) if token is None else f"token {token}"
        wait_s = self._rate.take(name, limit, self._loop.time())
        if wait_s:
            raise Overloaded(
                f'cannot call "{method.name}": {caller.name} has made {limit} changes within a minute',
                limit="max_changes_per_minute",
                value=limit,
                retry_after_s=round(wait_s, 3),
            )
