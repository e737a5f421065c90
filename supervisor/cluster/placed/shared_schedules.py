"""Keeps the schedules that all nodes have in the engine: those that were added for placed agents at run time.

Every node has each of them, and one node submits each run, as `placed_runner` decides. They live as long as the engine.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import msgspec

from corral.supervisor.tasks.run import cluster
from corral.worker.contract.errors import Conflict, NotFound
from corral.worker.contract.records import ScheduleRecord

from ..state.state import decoded, encoded, schedule_key
from ..state.view import ClusterView
from .joining import Joining

SEEN_S = 2.0
"""Seconds that this node waits until it sees that a schedule is gone."""


class SharedSchedules(cluster.SharedSchedules):
    """Adds, removes and pauses schedules of the cluster."""

    def __init__(self, view: ClusterView, joining: Joining) -> None:
        self._view = view
        self._reached = joining.reached

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change."""
        self._view.subscribe(listener)

    def known(self) -> Mapping[str, ScheduleRecord] | None:
        """Returns them by name; None before they were read from the engine."""
        if not self._view.synced.is_set():
            return None
        return {name: known.value for name, known in self._view.schedules.items()}

    async def add(self, record: ScheduleRecord) -> None:
        """Adds one, on the engine when this returns."""
        name = record.name
        engine, value = self._reached(f'add schedule "{name}"'), encoded(record)
        try:
            revision = await engine.put(schedule_key(name), value, revision=0)
        except Conflict:
            text = f'cannot add schedule "{name}": the cluster has one; corral schedule rm {name}'
            raise Conflict(text, name=name) from None
        self._view.put_schedule(record, revision)

    async def remove(self, name: str) -> None:
        """Removes one; one that is gone already is as wanted."""
        engine = self._reached(f'remove schedule "{name}"')
        while (entry := await engine.get(schedule_key(name))) is not None:
            try:
                await engine.put(schedule_key(name), None, revision=entry.revision)
            except Conflict:
                continue  # another node has just paused it
            break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                await self._view.until(lambda: name not in self._view.schedules)

    async def set_paused(self, name: str, *, paused: bool) -> None:
        """Pauses or resumes one on all nodes."""
        engine = self._reached(f'{"pause" if paused else "resume"} schedule "{name}"')
        while True:
            entry = await engine.get(schedule_key(name))
            record = None if entry is None else decoded(entry.value, ScheduleRecord)
            if entry is None or record is None:
                raise NotFound(f'cannot find schedule "{name}"', name=name, known=[])
            wanted = msgspec.structs.replace(record, paused=paused)
            try:
                revision = await engine.put(schedule_key(name), encoded(wanted), revision=entry.revision)
            except Conflict:
                continue
            self._view.put_schedule(wanted, revision)
            return
