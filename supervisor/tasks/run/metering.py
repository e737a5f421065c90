"""Measures the processor time and the memory that the attempts of tasks use on their workers."""

from functools import partial

from corral.supervisor.workers.supervision.incarnation import Incarnation
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.usage.task_usage import Meters, peak_bytes

from .backlog import Backlog, Entry


class TaskMeters:
    """Measures the tasks of one daemon, from the samples of its workers."""

    def __init__(self, limits: LimitEnforcer, backlog: Backlog) -> None:
        self._limits = limits
        self._backlog = backlog
        self._meters = Meters()

    def begin(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Begins to measure what the worker uses for a task."""
        pid, life, limits = supervisor.worker.pid, supervisor.life, self._limits
        if pid is not None and life is not None:
            peak = partial(_peak_of, life, pid)
            rss_bytes, cpu_s = limits.sample(supervisor).rss_bytes, limits.cpu_s(supervisor)
            entry.meter = self._meters.begin(life.unit, pid, peak, rss_bytes, cpu_s)

    def end(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Adds what an attempt has used to its task."""
        meter, limits = entry.meter, self._limits
        if meter is not None:
            self._meters.end(meter, limits.sample(supervisor).rss_bytes, limits.cpu_s(supervisor))
            entry.cpu_ns += meter.cpu_ns
            entry.peak_memory_bytes = max(entry.peak_memory_bytes, meter.most_bytes)
            entry.meter = None

    def note_sample(self, supervisor: WorkerSupervisor) -> None:
        """Takes a new sample of what a worker uses, for the tasks that it runs."""
        if not supervisor.running:
            return
        rss_bytes = self._limits.sample(supervisor).rss_bytes
        for task_id in supervisor.running:
            entry = self._backlog.find(task_id)
            if entry is not None and entry.meter is not None:
                entry.meter.note(rss_bytes)


def _peak_of(life: Incarnation, pid: int) -> int | None:
    """Returns the most memory that an incarnation has used so far, in bytes."""
    return peak_bytes(pid, life.parent.cgroup_of(life.unit))
