"""Watches the process trees of each tenant with limits, and ends or freezes workers that exceed them together.

One watch per tenant runs while a worker of it does. Resident memory is the gate, and proportional memory decides. Of processor time
each worker gets a share that is max-min fair: light workers are not held back for a heavy one.
"""

import asyncio
import logging
import math
from collections.abc import Callable

from msgspec.structs import replace

from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.workers.lifecycle.state_machine import Replace, State
from corral.supervisor.workers.process.containment import Containment
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.usage import limits
from corral.supervisor.workers.usage.limits import Throttle
from corral.supervisor.workers.usage.tree import Tree
from corral.worker.contract.names import tenant_of

from ..quotas.room import Refusals
from ..registry.tenants import Tenants
from .sums import LOOK_S, Over, look_in_s, over_memory, over_processes, shared_percent

REASON = "tenant.cpu_limit_percent"
"""Reason of the freezes here; a tree may be frozen for other reasons at the same time."""

SHARE_S = 0.5
"""Seconds over which the use of a worker counts for its next share."""

logger = logging.getLogger(__name__)


class TenantTrees:
    """Holds the tenants of one daemon to sums of trees."""

    def __init__(self, tenants: Tenants, enforcer: LimitEnforcer, launcher: Launcher, refusals: Refusals) -> None:
        self._tenants = tenants
        self._enforcer = enforcer
        self._launcher = launcher
        self._refusals = refusals
        self._running: dict[str, set[WorkerSupervisor]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, int] = {}
        self._memory: dict[str, int] = {}
        self._is_closed = False
        tenants.subscribe(self._consider)

    def processes(self, tenant: str) -> int:
        """Returns the number of processes and threads that a tenant was seen to have at the last look."""
        return self._processes.get(tenant, 0)

    def memory_bytes(self, tenant: str) -> int:
        """Returns the bytes that a tenant with a limit was seen to use at the last look; 0 where the kernel holds it."""
        return self._memory.get(tenant, 0)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a worker's start and end."""
        tenant = tenant_of(supervisor.spec.name)
        if not tenant:
            return
        running = self._running.setdefault(tenant, set())
        if supervisor.worker.pid is not None and supervisor.life is not None:
            running.add(supervisor)
        else:
            running.discard(supervisor)
            if not running:
                del self._running[tenant]
        self._consider(tenant)

    def reloaded(self) -> None:
        """Watches tenants that have limits now."""
        for tenant in tuple(self._running):
            self._consider(tenant)

    def hold_all(self, tenant: str, over: Over, hold: Callable[[WorkerSupervisor, str, str], None]) -> None:
        """Ends all workers of a tenant that has passed a limit, since it is not known which one did, until there is room."""
        for supervisor in tuple(self._running.get(tenant, ())):
            if self._may_end(tenant, supervisor, over):
                hold(supervisor, over.result, over.reason)

    async def close(self) -> None:
        """Ends all watches."""
        self._is_closed = True
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    def _consider(self, tenant: str) -> None:
        """Begins to watch a tenant, if it has limits, and workers."""
        if self._is_closed or tenant in self._watches or tenant not in self._running:
            return
        if self._limits(tenant) is not None:
            watch = asyncio.get_running_loop().create_task(self._watch(tenant))
            self._watches[tenant] = watch
            watch.add_done_callback(lambda done: self._ended(tenant, done))

    def _ended(self, tenant: str, done: asyncio.Task[None]) -> None:
        self._watches.pop(tenant, None)
        self._processes.pop(tenant, None)
        self._memory.pop(tenant, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("cannot hold tenant %s to its limits", tenant, exc_info=error)
            asyncio.get_running_loop().call_later(LOOK_S, self._consider, tenant)

    def _limits(self, tenant: str) -> Tenant | None:
        """Returns the limits of a tenant that sums of trees have to hold; None where there are none."""
        found, contained = self._tenants.find(tenant), self._launcher.containment
        if found is None:
            return None
        if any(each.spec.process.isolation == "container" for each in self._running[tenant]):
            contained = Containment()  # an engine's container is not below the group of the tenant
        asked = replace(
            found,
            max_memory_bytes=found.max_memory_bytes if contained.memory == "sampled" else 0,
            cpu_limit_percent=found.cpu_limit_percent if contained.cpu == "sampled" else 0,
            max_processes=found.max_processes if contained.processes == "rlimit" else 0,
        )
        is_held = asked.max_memory_bytes or asked.cpu_limit_percent or asked.max_processes
        return asked if is_held else None

    # -- one tenant

    async def _watch(self, tenant: str) -> None:
        share = _CpuShare()
        try:
            while tenant in self._running and (asked := self._limits(tenant)) is not None:
                found = {each: self._enforcer.tree(each) for each in self._running[tenant]}
                trees = {each: tree for each, tree in found.items() if tree is not None}
                room_bytes = await self._look(asked, trees)
                share_wait_s = math.inf
                if asked.cpu_limit_percent:
                    share_wait_s = await share.hold(asked.cpu_limit_percent, trees)
                    if share.is_holding:
                        self._note_held(asked, share)
                else:
                    share.release()
                wait_s = look_in_s(
                    room_bytes, holds_cpu=bool(asked.cpu_limit_percent), counts=bool(asked.max_processes)
                )
                cost_s = sum(tree.cost_s for tree in trees.values())
                await asyncio.sleep(max(min(wait_s, share_wait_s), limits.pause_s(cost_s)))
        finally:
            share.release()

    async def _look(self, asked: Tenant, trees: dict[WorkerSupervisor, Tree]) -> int | None:
        """Ends a worker if all together have passed a limit; returns the bytes that are left, None without a limit."""
        for tree in tuple(trees.values()):
            if not tree.is_quiet() and tree.quick_look() is None:
                await tree.survey()
        by_id = {each.id: each for each in trees}
        threads = {each.id: tree.usage.threads for each, tree in trees.items()}
        self._processes[asked.name] = sum(threads.values())
        found = over_processes(asked.name, asked.max_processes, threads)
        if found is not None:
            self._end(asked, by_id[found[0]], found[1])
            return 0
        if not asked.max_memory_bytes:
            return None
        resident = {each.id: tree.usage.rss_bytes for each, tree in trees.items()}
        self._memory[asked.name] = sum(resident.values())
        if over_memory(asked.name, asked.max_memory_bytes, resident) is not None:
            for each, tree in trees.items():  # shared pages count once
                resident[each.id] = await tree.pss_bytes()
            self._memory[asked.name] = sum(resident.values())
            found = over_memory(asked.name, asked.max_memory_bytes, resident)
            if found is not None:
                self._end(asked, by_id[found[0]], found[1])
                return 0
        return asked.max_memory_bytes - sum(resident.values())

    def _end(self, asked: Tenant, supervisor: WorkerSupervisor, over: Over) -> None:
        if self._may_end(asked.name, supervisor, over):
            supervisor.send(Replace(over.result, over.reason))

    def _may_end(self, tenant: str, supervisor: WorkerSupervisor, over: Over) -> bool:
        """Publishes the refusal, and returns whether a worker is yet to be ended; one that is ending has lost its grace."""
        if supervisor.life is None or supervisor.worker.pid is None:
            return False  # it has ended meanwhile
        name = supervisor.spec.name
        self._refusals.note(tenant, over.key, over.limit, over.used, over.reason, agent=name)
        if supervisor.worker.state is State.SHUTTING_DOWN:
            supervisor.life.parent.kill(supervisor.life.unit)
            return False
        return True

    def _note_held(self, asked: Tenant, share: "_CpuShare") -> None:
        limit = asked.cpu_limit_percent
        text = f'the tenant "{asked.name}" uses all of cpu_limit_percent = {limit}'
        used = round(share.used_percent, 1)
        self._refusals.note(asked.name, "cpu_limit_percent", limit, used, text, agent=None)


class _CpuShare:
    """Divides the processor time of one tenant among its workers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accounts: dict[WorkerSupervisor, Throttle] = {}
        self._lives: dict[WorkerSupervisor, object] = {}
        self._before: dict[WorkerSupervisor, float] = {}
        self._since = 0.0
        self._held = set[WorkerSupervisor]()
        self._wanted: dict[WorkerSupervisor, float] = {}
        self.is_holding = False
        """True if a worker is frozen now."""
        self.used_percent = 0.0
        """Percent of one core that all used in the last SHARE_S."""

    async def hold(self, limit: int, trees: dict[WorkerSupervisor, Tree]) -> float:
        """Freezes and thaws workers so that all together keep within `limit`; returns the seconds until the next look."""
        used = {each: await tree.cpu_s() for each, tree in trees.items()}
        now = self._loop.time()
        for each in [each for each in self._accounts if self._lives[each] is not each.life]:
            self._forget(each)
        if now - self._since >= SHARE_S:
            self._weigh(used, now)
        percent = shared_percent(limit, {each: self._wanted.get(each, 0.0) for each in used})
        wait_s = limits.IDLE_LOOK_S
        self.is_holding = False
        for each, used_s in used.items():
            account = self._accounts.get(each)
            if account is None:
                account = limits.begin(percent[each], 0.0, now)
                self._lives[each] = each.life
            account, next_s = limits.step(replace(account, limit_percent=percent[each]), used_s, now)
            self._accounts[each] = account
            self._apply(each, account.is_frozen, next_s)
            wait_s = min(wait_s, next_s)
        return wait_s

    def _apply(self, supervisor: WorkerSupervisor, is_frozen: bool, wait_s: float) -> None:
        life = supervisor.life
        if life is None or supervisor.worker.state is State.SHUTTING_DOWN:
            return  # an end needs it awake
        if is_frozen:
            self.is_holding = True
            self._held.add(supervisor)
            life.freeze(REASON)
            supervisor.excuse(wait_s)
        else:
            life.thaw(REASON)

    def _weigh(self, used: dict[WorkerSupervisor, float], now: float) -> None:
        """Takes the last use of each for its next demand; one that was held back wants all."""
        passed_s = now - self._since
        self._wanted = {}
        self.used_percent = 0.0
        for each, used_s in used.items():
            use = max(0.0, used_s - self._before.get(each, used_s)) / passed_s * 100
            self.used_percent += use
            self._wanted[each] = math.inf if each in self._held else use
        self._before, self._since = dict(used), now
        self._held = {each for each, account in self._accounts.items() if account.is_frozen}

    def release(self) -> None:
        """Freezes none of them any more."""
        for each in tuple(self._accounts):
            self._forget(each)

    def _forget(self, supervisor: WorkerSupervisor) -> None:
        del self._accounts[supervisor]
        if supervisor.life is not None and supervisor.life is self._lives.pop(supervisor):
            supervisor.life.thaw(REASON)
        self._before.pop(supervisor, None)
        self._held.discard(supervisor)
