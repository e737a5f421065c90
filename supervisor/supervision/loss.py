"""Reports when log lines of workers begin to be lost, and their number when that ends."""

from collections.abc import Iterable

from ..events.bus import Bus
from .worker_supervisor import WorkerSupervisor


class Losses:
    """Reports lost log lines per worker, once for each change."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._losing: set[WorkerSupervisor] = set()
        self._reported: dict[WorkerSupervisor, tuple[int, int]] = {}  # lines and bytes, in all

    def look(self, supervisors: Iterable[WorkerSupervisor]) -> None:
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
        self._bus.publish(
            what,
            agent=supervisor.spec.name,
            worker=supervisor.id,
            incarnation=None,
            store=True,
            **facts,
        )
