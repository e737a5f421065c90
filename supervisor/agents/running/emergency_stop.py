"""Decides whether an emergency stop is in force, and keeps it in the store, so that no later daemon forgets it.

It refuses work while one is. Killing the workers is `operations`' part.
"""

import asyncio

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import Conflict, Overloaded

from ..kept.revision_rows import AgentTable, EmergencyStop

STORE_S = 2.0
"""Seconds an emergency stop waits for the store: a disk that hangs must not delay its answer."""


class EmergencyStopSwitch:
    """Holds the emergency stop of one daemon; `in_force` is None as a rule."""

    def __init__(self, table: AgentTable, bus: Bus) -> None:
        self.in_force: EmergencyStop | None = None
        self._table = table
        self._bus = bus
        self._storing = asyncio.Lock()

    async def load(self) -> None:
        """Takes over an emergency stop of an earlier daemon."""
        self.in_force = await self._table.emergency_stop()

    def check(self, what: str) -> None:
        """Refuses work while an emergency stop is in force; `what` is what cannot be done."""
        if self.in_force is not None:
            words = f"cannot {what}: an emergency stop is in force; corral start NAME, or --all"
            raise Conflict(words, reason="emergency-stop", **{"at": self.in_force.at, "by": self.in_force.by})

    def engage(self, by: str) -> EmergencyStop:
        """Puts an emergency stop in force at once, on behalf of the caller `by`."""
        self.in_force = EmergencyStop(utc_now(), by)
        return self.in_force

    async def store(self, emergency_stop: EmergencyStop) -> None:
        """Makes an emergency stop durable."""
        try:
            async with asyncio.timeout(STORE_S), self._storing:
                await self._table.set_emergency_stop(emergency_stop)
        except TimeoutError:
            words = "cannot keep the emergency stop for a new daemon: the store has not answered; all are killed"
            raise Overloaded(words, reason="stalled", retry_after_s=1.0) from None

    async def release(self) -> None:
        """Ends the emergency stop, if one is in force; waits for one that is being stored."""
        async with self._storing:
            emergency_stop = self.in_force
            if emergency_stop is None:
                return
            await self._table.clear_emergency_stop()
            if self.in_force is not emergency_stop:
                self.check("start anything")
            self.in_force = None
        self._bus.publish("daemon.emergency_over")
