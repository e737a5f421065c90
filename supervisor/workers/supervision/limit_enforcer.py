"""Enforces `[resources]` of each worker, as far as the kernel does not do so by itself, and publishes events.

`usage.limits` decides; here a tree that is over a limit is ended, one that uses too much of the
processors is frozen and thawed, with events about it. The mechanism of each limit is in `Launcher.containment`:
the kernel where a cgroup has the controller, else sampling here. It also reports log lines that the limits of a log lost.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Resources
from corral.supervisor.machine.linux import cgroup
from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.errors import Overloaded
from corral.worker.contract.names import tenant_of

from ..lifecycle.state_machine import Replace, State
from ..process.containment import Containment
from ..process.launcher_client import Launcher
from ..process.parent import Parent
from ..usage import limits
from ..usage.limits import Excess, Throttle
from ..usage.sampler import Judge, Sample, Sampler
from ..usage.tree import Tree, Usage
from .incarnation import Incarnation
from .worker_changes import publish
from .worker_supervisor import WorkerSupervisor

EPISODE_S = 5.0
"""Seconds without throttling that end an episode: one event at each end, none between."""

KERNEL_SAMPLE_S = 1.0
"""Seconds between two samples of the throttling by the kernel."""

BELOW = 0.9
"""Fraction of its limit below which a full table counts as free: its next filling is a new event."""

REASON = "cpu_limit_percent"
"""Reason of the freezes here; a tree may be frozen for other reasons at the same time."""

PROCESSORS = os.cpu_count() or 1

NO_TABLES: frozenset[str] = frozenset()
"""One for all: an empty set of its own costs each of thousands of workers 216 bytes."""

logger = logging.getLogger(__name__)


class Throttling(NamedTuple):
    """Represents the throttling of a worker: now, and seconds in this incarnation."""

    throttled: bool = False
    throttled_s: float = 0.0


class LimitEnforcer:
    """Enforces the limits of all workers."""

    def __init__(self, launcher: Launcher, bus: Bus) -> None:
        self._launcher = launcher
        self._bus = bus
        self._metrics = Sampler(self._sampled)
        self._on_sample: list[Callable[[WorkerSupervisor], None]] = []
        self._monitors: dict[WorkerSupervisor, LimitMonitor] = {}
        self._in_kernel: dict[WorkerSupervisor, _InKernel] = {}
        """The limits that the cgroups of workers have."""

    def subscribe(self, on_sample: Callable[[WorkerSupervisor], None]) -> None:
        """Calls `on_sample` from now on when the result of `sample` for a worker has changed."""
        self._on_sample.append(on_sample)

    async def run(self) -> None:
        """Holds them until it is cancelled."""
        await self._metrics.run()

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a worker's start and end; for every change of a worker."""
        worker, life = supervisor.worker, supervisor.life
        monitor = self._monitors.get(supervisor)
        if monitor is not None and (life is not monitor.life or worker.pid is None):
            del self._monitors[supervisor]
            monitor.release()
            self._metrics.forget(monitor.life.unit)
            monitor = None
        if worker.pid is None or life is None:
            self._in_kernel.pop(supervisor, None)
            return
        if self._launcher.containment.memory == "cgroup" or self._launcher.containment.cpu == "cgroup":
            self._relimit(supervisor, life)
        if monitor is not None and monitor.is_outdated:
            del self._monitors[supervisor]
            monitor.release()
            self._metrics.forget(life.unit)
            monitor = None
        if monitor is None:
            self._watch(supervisor, life)
            return
        self._metrics.stir(life.unit)  # its spec may be another
        if worker.state is State.SHUTTING_DOWN:
            monitor.release()  # what is frozen cannot end within its grace period

    def _watch(self, supervisor: WorkerSupervisor, life: Incarnation) -> None:
        unit = life.unit
        is_of_tenant = bool(tenant_of(supervisor.spec.name))  # whose sums need each tree
        contained, parent = self._launcher.containment, life.parent
        folder = parent.cgroup_of(unit)
        if supervisor.spec.process.isolation == "container":
            # An engine gives a container a cgroup of its own, which is not below that of the unit.
            folder = None
            contained = replace(contained, memory="sampled", cpu="sampled")
        if not is_of_tenant and not _is_needed(supervisor.spec.resources, contained):
            return
        tree = Tree(_Roots(parent, unit, self._launcher), folder)
        monitor = LimitMonitor(supervisor, life, tree, contained, self._bus)
        self._monitors[supervisor] = monitor
        self._metrics.watch(unit, tree, monitor)

    def _relimit(self, supervisor: WorkerSupervisor, life: Incarnation) -> None:
        """Gives the cgroup of a worker the limits of its spec, where they have changed since its start."""
        asked = supervisor.spec.resources
        limit = _InKernel(life, asked.max_memory_bytes, asked.cpu_limit_percent)
        before, self._in_kernel[supervisor] = self._in_kernel.get(supervisor), limit
        path = life.parent.cgroup_of(life.unit)
        if before is None or before.life is not life or before == limit or path is None:
            return
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, cgroup.relimit, str(path), limit.memory_bytes, limit.cpu_percent)

        def written(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                logger.warning("cannot change the limits of %s: %s", supervisor.id, error)

        writing.add_done_callback(written)

    def _sampled(self, judge: Judge) -> None:
        if isinstance(judge, LimitMonitor):
            for on_sample in self._on_sample:
                on_sample(judge.supervisor)

    def sample(self, supervisor: WorkerSupervisor) -> Sample:
        """Returns the last sample of the usage of a worker."""
        monitor = self._monitors.get(supervisor)
        if monitor is None or not monitor.resources.enable_resource_tracking:
            return Sample()
        return self._metrics.of(monitor.life.unit)

    def tree(self, supervisor: WorkerSupervisor) -> Tree | None:
        """Returns the process tree of a worker that runs; None of one that is not watched."""
        monitor = self._monitors.get(supervisor)
        return None if monitor is None else monitor.tree

    def cpu_s(self, supervisor: WorkerSupervisor) -> float:
        """Returns the CPU seconds of a worker's tree in this incarnation, at the last sample; 0.0 without samples."""
        monitor = self._monitors.get(supervisor)
        return 0.0 if monitor is None else monitor.tree.usage.cpu_s

    def throttling(self, supervisor: WorkerSupervisor) -> Throttling:
        """Returns the throttling of a worker by cpu_limit_percent."""
        monitor = self._monitors.get(supervisor)
        return NOT_THROTTLED if monitor is None else monitor.throttling


class _InKernel(NamedTuple):
    """Represents the limits of one incarnation that its cgroup holds."""

    life: Incarnation
    memory_bytes: int
    cpu_percent: int


class _Roots:
    """Locates the processes of a unit; a closure or a partial takes six times as much memory."""

    __slots__ = ("_launcher", "_parent", "_unit")

    def __init__(self, parent: Parent, unit: str, launcher: Launcher) -> None:
        self._parent = parent
        self._unit = unit
        self._launcher = launcher

    def __call__(self) -> Sequence[int]:
        return self._parent.roots(self._unit) + self._launcher.guest_roots(self._unit)


NOT_THROTTLED = Throttling()


class LimitMonitor:
    """Holds one incarnation of one worker to its limits."""

    # There may be thousands.
    __slots__ = (
        "_attending",
        "_bus",
        "_contained",
        "_full",
        "_held_at",
        "_is_holding",
        "_is_over",
        "_is_released",
        "_loop",
        "_refused",
        "_stirred",
        "_used_bytes",
        "life",
        "resources",
        "supervisor",
        "throttling",
        "tree",
    )

    def __init__(
        self, supervisor: WorkerSupervisor, life: Incarnation, tree: Tree, contained: Containment, bus: Bus
    ) -> None:
        self.supervisor = supervisor
        self.life = life
        self.resources = supervisor.spec.resources
        self.throttling = NOT_THROTTLED
        self.tree = tree
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._contained = contained
        self._used_bytes = 0
        self._is_over = False
        self._is_released = False
        self._is_holding = False
        self._attending: asyncio.Task[object] | None = None
        self._stirred: asyncio.Event | None = None
        self._held_at = 0.0
        self._full = NO_TABLES
        self._refused = 0  # forks, told and untold

    @property
    def is_outdated(self) -> bool:
        """Returns whether a limit that changes while the worker runs is another one now."""
        asked, now = self.resources, self.supervisor.spec.resources
        before = (asked.max_memory_bytes, asked.cpu_limit_percent)
        return before != (now.max_memory_bytes, now.cpu_limit_percent)

    @property
    def _samples_memory(self) -> bool:
        return self._contained.memory == "sampled"

    @property
    def _samples_cpu(self) -> bool:
        return self._contained.cpu == "sampled"

    # -- outcomes of samples

    async def judge(self, usage: Usage) -> None:
        """Ends a tree that is over a limit, and publishes full tables."""
        self._used_bytes = usage.rss_bytes
        if self._stirred is not None:
            self._stirred.set()
        if self._is_over:
            return
        over = limits.cpu_seconds(usage.cpu_s, self.resources)
        if self._samples_memory and limits.memory(usage.rss_bytes, self.resources):
            self._used_bytes = await self.tree.pss_bytes()
            over = limits.memory(self._used_bytes, self.resources) or over
        if over is not None:
            self._end(over)
            return
        refused = self._refused_forks()
        self._refused += refused
        files = self.tree.most_files
        for full, used in ((limits.file_descriptors, files), (limits.processes, usage.threads)):
            found = full(used, self.resources)
            name = full.__name__
            if full is limits.processes:
                found = found or limits.refused_forks(refused, self.resources)
            if found is not None and name not in self._full:
                self._full |= {name}
                publish(self._bus, found.event, self.supervisor.worker, **found.facts)
            elif found is None and full(int(used / BELOW), self.resources) is None:
                self._full = self._full - {name} or NO_TABLES

    def is_fine(self, usage: Usage) -> bool:
        """Returns True if `judge` would do nothing: no limit is reached, or a reached one was handled."""
        asked = self.resources
        if (
            self._full
            or limits.cpu_seconds(usage.cpu_s, asked) is not None
            or (self._samples_memory and limits.memory(usage.rss_bytes, asked) is not None)
            or limits.file_descriptors(self.tree.most_files, asked) is not None
            or limits.processes(usage.threads, asked) is not None
            or self._refused_forks()
        ):
            return self._is_over  # then it ends already
        self._used_bytes = usage.rss_bytes
        if self._stirred is not None:
            self._stirred.set()
        return True

    def _refused_forks(self) -> int:
        """Returns how many forks the kernel has refused the tree since the last time that it was told."""
        if not self.resources.max_processes or self._contained.processes != "cgroup":
            return 0
        path = self.life.parent.cgroup_of(self.life.unit)
        return 0 if path is None else cgroup.figure(str(path), "pids.events", "max") - self._refused

    def wait_s(self) -> float:
        """Returns the seconds to the next sample, without regard to memory that is taken meanwhile."""
        longest_s = self.supervisor.spec.monitoring.metrics_interval
        if self._is_holding:
            longest_s = min(longest_s, limits.IDLE_LOOK_S)
        wait_s = limits.look_in_s(
            self.tree.usage.cpu_s,
            self.resources,
            age_s=self._loop.time() - self.life.started_at,
            interval_s=longest_s,
            processors=PROCESSORS,
        )
        return max(wait_s, self.pause_s())

    def pause_s(self) -> float:
        """Returns the least seconds between two samples, which keep their cost low."""
        return limits.pause_s(self.tree.cost_s)

    def room_bytes(self) -> int | None:
        """Returns the bytes of memory left to the tree; None if the kernel enforces the limit, or there is none."""
        if not self._samples_memory or not self.resources.max_memory_bytes:
            return None
        return self.resources.max_memory_bytes - self._used_bytes

    def _end(self, over: Excess) -> None:
        """Ends a tree that is over a limit, whatever it is doing."""
        supervisor = self.supervisor
        if supervisor.life is not self.life or supervisor.worker.pid is None:
            return  # it has ended meanwhile
        assert over.result is not None, "only an excess that ends a worker comes here"
        self._is_over = True
        publish(self._bus, over.event, self.supervisor.worker, **over.facts)
        if supervisor.worker.state is State.SHUTTING_DOWN:
            # It has been asked already, and has lost its grace.
            self.life.parent.kill(self.life.unit)
        else:
            supervisor.send(Replace(over.result, over.message))

    # -- the share of the processors

    def attend(self) -> Coroutine[None, None, None] | None:
        """Returns the coroutine that throttles the tree, or observes the kernel's throttling; None without a limit."""
        if not self.resources.cpu_limit_percent or self._is_released:
            return None
        self._is_holding = self._samples_cpu
        return self._attend(self.resources.cpu_limit_percent)

    async def _attend(self, percent: int) -> None:
        self._attending = asyncio.current_task()
        if self._samples_cpu:
            await self._hold(limits.begin(percent, 0.0, self._loop.time()))
        else:
            await self._watch_kernel()

    def release(self) -> None:
        """Freezes the tree no more."""
        self._is_released = True
        self._is_holding = False
        if self._attending is not None:
            self._attending.cancel()

    async def _hold(self, account: Throttle) -> None:
        is_frozen = False
        stirred = self._stirred = asyncio.Event()
        try:
            while True:
                used_s = await self.tree.cpu_s()
                has_run = used_s > account.used_s
                account, wait_s = limits.step(account, used_s, self._loop.time())
                if account.is_frozen:
                    self._freeze()
                    if is_frozen and has_run:  # it was forked while the others were being frozen
                        self._freeze_again()
                    self.supervisor.excuse(wait_s)
                else:
                    self.life.thaw(REASON)
                    wait_s = max(wait_s, self.tree.cost_s / limits.SHARE)
                is_frozen = account.is_frozen
                self._note_held(is_frozen, account.frozen_s)
                stirred.clear()
                if is_frozen or has_run or self.throttling.throttled:
                    await asyncio.sleep(wait_s)
                else:
                    await stirred.wait()  # an idle one is looked at with all others, for less
        finally:
            if self.supervisor.life is self.life:
                self.life.thaw(REASON)

    def _freeze(self) -> None:
        worker = self.supervisor.worker
        if worker.pid is not None and worker.state is not State.SHUTTING_DOWN:  # an end needs it awake
            self.life.freeze(REASON)

    def _freeze_again(self) -> None:
        try:
            self.life.parent.freeze(self.life.unit)
        except Overloaded as error:  # the next sample shows it
            logger.warning("%s", error)

    async def _watch_kernel(self) -> None:
        path = self.life.parent.cgroup_of(self.life.unit)
        before_s = 0.0
        while path is not None:
            held_s = _throttled_s(path)
            self._note_held(held_s > before_s, held_s)
            before_s = held_s
            await asyncio.sleep(KERNEL_SAMPLE_S)

    def _note_held(self, is_held: bool, held_s: float) -> None:
        """Publishes the beginning and the end of an episode, not each freeze in it."""
        now = self._loop.time()
        before = self.throttling.throttled
        if is_held:
            self._held_at = now
        is_throttled = is_held or (before and now - self._held_at < EPISODE_S)
        self.throttling = Throttling(is_throttled, round(held_s, 3))
        if is_throttled != before:
            self._bus.publish(
                "limit.cpu",
                agent=self.supervisor.spec.name,
                worker=self.supervisor.id,
                incarnation=self.life.number,
                limit=self.resources.cpu_limit_percent,
                throttled=is_throttled,
                throttled_s=self.throttling.throttled_s,
            )


class LossReporter:
    """Reports lost log lines per worker, once for each change."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._losing: set[WorkerSupervisor] = set()
        self._reported: dict[WorkerSupervisor, tuple[int, int]] = {}  # lines and bytes, in all

    def report(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Publishes changes; has to be called about every second."""
        losing, self._losing = self._losing, set()
        reported, self._reported = self._reported, {}
        for supervisor in supervisors:
            log = supervisor.log
            lost = (log.lost_lines, log.lost_bytes)
            before = reported.get(supervisor, (0, 0))
            if log.trouble is not None:
                self._losing.add(supervisor)
                if supervisor not in losing:
                    self._publish(supervisor, "log.losing", reason=log.trouble)
            elif lost != before:
                lines, size_bytes = lost[0] - before[0], lost[1] - before[1]
                self._publish(supervisor, "log.lost", lines=lines, bytes=size_bytes)
                before = lost
            if before != (0, 0):
                self._reported[supervisor] = before

    def _publish(self, supervisor: WorkerSupervisor, what: str, **facts: object) -> None:
        self._bus.publish(what, agent=supervisor.spec.name, worker=supervisor.id, incarnation=None, store=True, **facts)


def _is_needed(asked: Resources, contained: Containment) -> bool:
    """Returns True if there is a tree to sample."""
    holds_memory = contained.memory == "sampled" and asked.max_memory_bytes > 0
    return asked.enable_resource_tracking or holds_memory or asked.max_cpu_seconds > 0 or asked.cpu_limit_percent > 0


def _throttled_s(path: Path) -> float:
    return cgroup.figure(str(path), "cpu.stat", "throttled_usec") / 1e6
