"""Decides whether a tenant has room for more agents, and for more workers of them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.config.spec.spec import Config
from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.names import tenant_of

from ..registry.tenants import Tenants
from .refusals import Refusals

KEY = "max_agents"

PROCESSES = "max_processes"

DISK = "max_disk_bytes"


class TenantGate:
    """Joins the limits, the processes and the refusals of the tenants of one daemon."""

    def __init__(
        self,
        tenants: Tenants,
        refusals: Refusals,
        processes: Callable[[str], int] = lambda _: 0,
        files: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._tenants = tenants
        self.processes = processes
        self.files = files
        self.refused = refusals.note

    def limits(self, name: str, config: Config | None = None) -> Tenant | None:
        """Returns the limits in force, or those under a configuration that is to come; None of an unknown tenant."""
        return self._tenants.find(name, config)


class RunningSet(Protocol):
    """Names the agents and servers of a daemon, and counts their workers."""

    @property
    def names(self) -> Collection[str]:
        """Returns the full names of all agents and servers."""
        ...

    def active(self, tenant: str) -> int:
        """Returns the number of workers of a tenant that have, or are about to have, processes."""
        ...


class TenantRoom:
    """Decides whether a tenant has room for more agents and workers."""

    def __init__(self, running: RunningSet, gate: TenantGate | None) -> None:
        self._running = running
        self._gate = gate

    def check_names(self, coming: Iterable[str], *, going: Iterable[str] = (), config: Config | None = None) -> None:
        """Returns if each tenant may have the agents and servers that are to come, when those that go are gone."""
        present = set(self._running.names)
        new = {name for name in coming if tenant_of(name)} - present
        if not new or self._gate is None:
            return
        counts = Counter(tenant_of(name) for name in (present | new) - set(going))
        for name in sorted(new):
            tenant = tenant_of(name)
            found = self._gate.limits(tenant, config)
            if found is None or not found.max_agents or counts[tenant] <= found.max_agents:
                continue
            limit, used = found.max_agents, counts[tenant]
            text = f'the tenant "{tenant}" would have {used} agents and servers, and {KEY} is {limit}'
            self._gate.refused(tenant, KEY, limit, used, text, agent=name)
            raise ResourceLimitExceeded(
                f'cannot add "{name}": {text}', limit=KEY, value=used, tenant=tenant, agent=name
            )

    def check(self, wanted: Mapping[str, int]) -> None:
        """Returns if each tenant may start so many more workers of its agents."""
        found = self._full(wanted)
        if found is not None and self._gate is not None:
            tenant, key, limit, used, text = found
            agent = next(name for name in wanted if tenant_of(name) == tenant)
            self._gate.refused(tenant, key, limit, used, text, agent=agent)
            raise ResourceLimitExceeded(
                f'cannot start "{agent}": {text}', limit=key, value=used, tenant=tenant, agent=agent
            )

    def why_full(self, wanted: Mapping[str, int]) -> str:
        """Returns why a tenant may not start so many more workers of its agents; "" where it may."""
        found = self._full(wanted)
        return "" if found is None else found[4]

    def _full(self, wanted: Mapping[str, int]) -> tuple[str, str, int, int, str] | None:
        more = Counter[str]()
        if self._gate is None:
            return None
        for name, count in wanted.items():
            if count and (tenant := tenant_of(name)):
                more[tenant] += count
        for tenant, count in more.items():
            found = self._gate.limits(tenant)
            if found is None:
                continue
            used = self._running.active(tenant) + count if found.max_agents else 0
            if used > found.max_agents:
                text = f'the tenant "{tenant}" would have {used} workers, and {KEY} is {found.max_agents}'
                return tenant, KEY, found.max_agents, used, text
            limit = found.max_processes
            used = self._gate.processes(tenant) + count if limit else 0
            if used > limit:
                text = f'the tenant "{tenant}" would have {used} processes and threads, and {PROCESSES} is {limit}'
                return tenant, PROCESSES, limit, used, text
            limit = found.max_disk_bytes
            used = self._gate.files(tenant) if limit else 0
            if limit and used >= limit:
                text = f'the files of the tenant "{tenant}" have {used} bytes, and {DISK} is {limit}'
                return tenant, DISK, limit, used, text
        return None
