"""Tells when lines of workers' logs begin to be lost, and how many it were when they are not any more."""

from collections.abc import Iterable

from ..events.bus import Bus
from .worker_supervisor import Keeper


class Losses:
    """What was told of losses, per worker."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._losing: set[Keeper] = set()
        self._told: dict[Keeper, tuple[int, int]] = {}  # lines and bytes, in all

    def look(self, keepers: Iterable[Keeper]) -> None:
        """Tells what has changed; to be called every second or so."""
        losing, self._losing = self._losing, set()
        told, self._told = self._told, {}
        for keeper in keepers:
            log = keeper.log
            lost = (log.lost_lines, log.lost_bytes)
            before = told.get(keeper, (0, 0))
            if log.trouble is not None:
                self._losing.add(keeper)
                if keeper not in losing:
                    self._tell(keeper, "log.losing", reason=log.trouble)
            elif lost != before:
                lines, size_bytes = lost[0] - before[0], lost[1] - before[1]
                self._tell(keeper, "log.lost", lines=lines, bytes=size_bytes)
                before = lost
            if before != (0, 0):
                self._told[keeper] = before

    def _tell(self, keeper: Keeper, what: str, **facts: object) -> None:
        self._bus.publish(
            what,
            agent=keeper.spec.name,
            worker=keeper.id,
            incarnation=None,
            store=True,
            **facts,
        )
