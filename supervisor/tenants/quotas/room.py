"""Refuses what would exceed the limits of a tenant: its agents and their workers, and what it keeps on disk; publishes few events about many refusals."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.names import tenant_of

from ..registry.tenants import Tenants

AGENTS, PROCESSES, DISK = "max_agents", "max_processes", "max_disk_bytes"
"""Keys of the limits that are held here."""

EVENT_S = 60.0
"""Seconds between two events about one limit of one tenant; refusals in between are counted in the next."""


class Refusals:
    """Counts the refusals of one daemon by tenant and key."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._clock = clock
        self.counts = Counter[tuple[str, str]]()
        """Number of refusals since the start of the daemon, by tenant and key."""
        self._published: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, tenant: str, key: str, limit: float, used: float, reason: str, *, agent: str | None) -> None:
        """Counts a refusal, and publishes it unless an event about the same limit is younger than EVENT_S."""
        self.counts[tenant, key] += 1
        now, count = self._clock(), self.counts[tenant, key]
        at, before = self._published.get((tenant, key), (-EVENT_S, 0))
        if now < at + EVENT_S:
            return
        self._published[tenant, key] = now, count
        self._bus.publish(
            "limit.tenant",
            agent=agent,
            tenant=tenant,
            key=key,
            limit=limit,
            used=used,
            refused=count - before,
            reason=reason,
        )

    def forget(self, tenant: str) -> None:
        """Drops the counts of a tenant that is gone."""
        for pair in [pair for pair in self.counts if pair[0] == tenant]:
            del self.counts[pair]
            self._published.pop(pair, None)


class DiskUse:
    """Holds how much each tenant was seen to keep on disk."""

    def __init__(self, tenants: Tenants, refusals: Refusals) -> None:
        self._tenants = tenants
        self._refusals = refusals
        self._used_bytes: dict[str, int] = {}
        self._file_bytes: dict[str, int] = {}

    def limit(self, tenant: str) -> int:
        """Returns the bytes that a tenant may keep; 0 without a limit."""
        found = self._tenants.find(tenant) if tenant else None
        return 0 if found is None else found.max_disk_bytes

    def limited(self) -> list[str]:
        """Returns the tenants with a limit."""
        return [name for name, each in self._tenants.all().items() if each.max_disk_bytes]

    def note(self, tenant: str, used_bytes: int, file_bytes: int) -> None:
        """Takes what a look has found: all that is kept, and the files that its processes wrote."""
        self._used_bytes[tenant] = used_bytes
        self._file_bytes[tenant] = file_bytes

    def files(self, tenant: str) -> int:
        """Returns the bytes of the files that processes of a tenant wrote, as of the last look."""
        return self._file_bytes.get(tenant, 0)

    def used(self, tenant: str) -> int:
        """Returns the bytes that a tenant kept at the last look; 0 before the first."""
        return self._used_bytes.get(tenant, 0)

    def check(self, tenant: str, agent: str, what: str) -> None:
        """Returns if more may be kept for a tenant; `what` is the thing that is to be done for `agent`."""
        limit = self.limit(tenant)
        used = self._used_bytes.get(tenant, 0) if limit else 0
        if not limit or used < limit:
            return
        text = f'the tenant "{tenant}" keeps {used} bytes on disk, and {DISK} is {limit}'
        self._refusals.note(tenant, DISK, limit, used, text, agent=agent)
        raise ResourceLimitExceeded(
            f'cannot {what} "{agent}": {text}', limit=DISK, value=limit, used=used, tenant=tenant, agent=agent
        )

    def forget(self, tenant: str) -> None:
        """Drops the figure of a tenant that is gone."""
        self._used_bytes.pop(tenant, None)
        self._file_bytes.pop(tenant, None)


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
            text = f'the tenant "{tenant}" would have {used} agents and servers, and {AGENTS} is {limit}'
            self._gate.refused(tenant, AGENTS, limit, used, text, agent=name)
            raise ResourceLimitExceeded(
                f'cannot add "{name}": {text}', limit=AGENTS, value=used, tenant=tenant, agent=name
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
                text = f'the tenant "{tenant}" would have {used} workers, and {AGENTS} is {found.max_agents}'
                return tenant, AGENTS, found.max_agents, used, text
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
