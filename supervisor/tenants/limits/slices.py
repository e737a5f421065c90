"""Keeps the limits of tenants in the control groups above their workers, where there are control groups with controllers.

A slice is made with its limits when the first worker of a tenant starts, and removed with its last one: see
`linux.cgroup`. Here the limits of a slice that exists are changed when those of the tenant change, and what the kernel did
because of them is told. Where a controller is missing, nothing is done: the sums of trees are compared elsewhere.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from corral.supervisor.machine.linux import cgroup
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.names import tenant_of

from ..quotas.room import Refusals
from ..registry.tenants import Tenants, limits_in_kernel

WATCH_S = 2.0
"""Seconds between two looks at the counts of slices with limits."""

NO_FORKS: dict[str, int] = {}

logger = logging.getLogger(__name__)


class Counts(NamedTuple):
    """Holds what the kernel has counted of a slice: refused forks by group, the others since the slice was made."""

    oom: int = 0
    peak_bytes: int = 0
    refused: dict[str, int] = NO_FORKS
    used_us: int = 0
    throttled_us: int = 0


def counts_of(path: Path) -> Counts:
    """Returns the counts of a slice, zeros where it does not exist."""
    folder = str(path)
    if not path.exists():
        return Counts()
    # Before Linux 6.11 a refused fork counts in the group of the process, whichever group above it was full.
    groups = [unit for unit in cgroup.below(folder) if cgroup.read(unit, "pids.max") == "max\n"]
    return Counts(
        cgroup.figure(folder, "memory.events.local", "oom"),
        int(cgroup.read(folder, "memory.peak").strip() or 0),
        {group: cgroup.figure(group, "pids.events", "max") for group in (folder, *groups)},
        cgroup.figure(folder, "cpu.stat", "usage_usec"),
        cgroup.figure(folder, "cpu.stat", "throttled_usec"),
    )


def _all_counts(paths: Mapping[str, Path]) -> dict[str, Counts]:
    return {name: counts_of(path) for name, path in paths.items()}


class Slices:
    """Changes the limits of slices, and tells when they are reached."""

    def __init__(self, tenants: Tenants, launcher: Launcher, refusals: Refusals) -> None:
        self._tenants = tenants
        self._launcher = launcher
        self._publish = refusals.note
        self._pids: dict[WorkerSupervisor, int] = {}
        self._counts: dict[str, Counts] = {}
        tenants.subscribe(self.relimit)

    async def run(self) -> None:
        """Looks at the counts of slices again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            paths: dict[str, Path] = {}
            for name, tenant in self._tenants.all().items():
                path = self._launcher.slice_of(name)
                if path is not None and any(limits_in_kernel(tenant)):
                    paths[name] = path
            self._counts = {name: self._counts.get(name, Counts()) for name in paths}
            if not paths:
                continue
            try:
                found = await asyncio.to_thread(_all_counts, paths)
            except OSError as error:  # descriptors have run out: the next look sees all
                logger.warning("cannot read the counts of tenants: %s", error)
                continue
            for name, counts in found.items():
                self._report(name, self._counts[name], counts)
            self._counts = found

    def _report(self, name: str, before: Counts, now: Counts) -> None:
        tenant = self._tenants.find(name)
        if tenant is None:
            return
        if tenant.max_memory_bytes and now.oom > before.oom:
            text = f'the tenant "{name}" used up its max_memory_bytes, and the kernel ended a worker of it'
            limit, used = tenant.max_memory_bytes, now.peak_bytes
            self._publish(name, "max_memory_bytes", limit, used, text, agent=None)
        refused = sum(max(0, count - before.refused.get(group, 0)) for group, count in now.refused.items())
        if tenant.max_processes and refused:
            limit = tenant.max_processes
            text = f'{refused} forks of the tenant "{name}" were refused: it had {limit} of max_processes = {limit}'
            self._publish(name, "max_processes", limit, limit, text, agent=None)
        held_s = (now.throttled_us - before.throttled_us) / 1e6
        if tenant.cpu_limit_percent and held_s > 0:
            limit = tenant.cpu_limit_percent
            used = round(max(0, now.used_us - before.used_us) / 1e4 / WATCH_S)
            text = f'the tenant "{name}" was held back for {held_s:.1f} s: cpu_limit_percent = {limit}'
            self._publish(name, "cpu_limit_percent", limit, used, text, agent=None)

    def changed(self, worker: WorkerSupervisor) -> None:
        """Compares the limits of a tenant's slice when a worker of it starts: they may have changed since it was asked for."""
        tenant = tenant_of(worker.spec.name)
        if not tenant:
            return
        before, pid = self._pids.pop(worker, None), worker.worker.pid
        if pid is None:
            return
        self._pids[worker] = pid
        if before != pid:
            self.relimit(tenant)

    def reloaded(self) -> None:
        """Gives all slices the limits of the reloaded file."""
        for name in self._tenants.all():
            self.relimit(name)

    def relimit(self, name: str) -> None:
        """Gives the slice of a tenant the limits in force, if it exists."""
        path = self._launcher.slice_of(name)
        if path is None or not path.exists():
            return
        limits = limits_in_kernel(self._tenants.find(name))
        writing = asyncio.get_running_loop().run_in_executor(None, cgroup.relimit_slice, str(path), *limits)

        def written(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                logger.warning('cannot change the limits of tenant "%s": %s', name, error)

        writing.add_done_callback(written)
