"""Tells when lines of workers' logs begin to be lost, and how many it were when they are not any more."""

from collections.abc import Iterable

from ..events.bus import Bus
from .worker_supervisor import WorkerSupervisor


class Losses:
    """What was told of losses, per worker."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._losing: set[WorkerSupervisor] = set()
        self._told: dict[WorkerSupervisor, tuple[int, int]] = {}  # lines and bytes, in all

    def look(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Tells what has changed; to be called every second or so."""
        losing, self._losing = self._losing, set()
        told, self._told = self._told, {}
        for supervisor in supervisors:
            log = supervisor.log
            lost = (log.lost_lines, log.lost_bytes)
            before = told.get(supervisor, (0, 0))
            if log.trouble is not None:
                self._losing.add(supervisor)
                if supervisor not in losing:
                    self._tell(supervisor, "log.losing", reason=log.trouble)
            elif lost != before:
                lines, size_bytes = lost[0] - before[0], lost[1] - before[1]
                self._tell(supervisor, "log.lost", lines=lines, bytes=size_bytes)
                before = lost
            if before != (0, 0):
                self._told[supervisor] = before

    def _tell(self, supervisor: WorkerSupervisor, what: str, **facts: object) -> None:
        self._bus.publish(
            what,
            agent=supervisor.spec.name,
            worker=supervisor.id,
            incarnation=None,
            store=True,
            **facts,
        )
