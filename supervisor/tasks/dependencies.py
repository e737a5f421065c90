"""Tasks that may not line up yet: their time has not come, or others have to succeed first.

Times are those of the wall clock, which may be set: it is looked at again every LOOK_S at the latest, so that
what a jump made due begins soon, and nothing begins before the clock says so.
"""

import asyncio
import heapq
import time
from collections.abc import Callable

from ...worker.contract.errors import Cancelled
from ...worker.contract.records import Task
from .backlog import Entry

LOOK_S = 60.0

SLACK = 64
"""How many of those that are gone the heap may hold, beside as many as wait."""


class Dependencies:
    """The tasks of one daemon that wait for a time or for other tasks; `on_ready` is told when one waits for neither."""

    def __init__(
        self, on_ready: Callable[[Entry], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._on_ready = on_ready
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._dependants: dict[str, dict[str, Entry]] = {}
        self._timed: dict[str, Entry] = {}
        self._due: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> None:
        """Takes in a task with its blockers, before anything else can happen."""
        for blocker in entry.blockers:
            self._dependants.setdefault(blocker, {})[entry.task.id] = entry

    def holds(self, entry: Entry) -> bool:
        """Whether a task has to wait still; then `on_ready` follows, unless it is forgotten."""
        if entry.blockers:
            return True
        if entry.task.id in self._timed:
            return (
                True  # also when its time has just come: it goes on once, when `on_ready` is told
            )
        if entry.due is None or entry.due <= self._clock():
            return False
        self._timed[entry.task.id] = entry
        heapq.heappush(self._due, (entry.due, entry.task.id))
        if len(self._due) > 2 * len(self._timed) + SLACK:
            self._due = [place for place in self._due if place[1] in self._timed]
            heapq.heapify(self._due)
        self._rearm()
        return True

    def forget(self, entry: Entry) -> None:
        """A task has ended, or was not taken."""
        self._timed.pop(entry.task.id, None)
        for blocker in entry.blockers:
            others = self._dependants.get(blocker)
            if others is not None:
                others.pop(entry.task.id, None)
                if not others:
                    del self._dependants[blocker]

    def ended(self, task: Task) -> None:
        """Another task has ended: who waits for it may go on, or never will."""
        for entry in self._dependants.pop(task.id, {}).values():
            entry.blockers.discard(task.id)
            if task.state != "succeeded" and entry.doom is None:
                entry.doom = doomed(entry.task.id, task.id, task.state)
            if entry.doom is not None or not entry.blockers:
                self._on_ready(entry)

    def close(self) -> None:
        """Looks at the clock no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rearm(self) -> None:
        self.close()
        while self._due and self._due[0][1] not in self._timed:
            heapq.heappop(self._due)
        if self._due:
            wait_s = min(max(self._due[0][0] - self._clock(), 0.0), LOOK_S)
            self._timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            entry = self._timed.pop(heapq.heappop(self._due)[1], None)
            if entry is not None:
                self._on_ready(entry)
        self._rearm()


def doomed(task: str, blocker: str, state: str) -> Cancelled:
    """Why a task never begins: another one that had to succeed is in this state."""
    what = "is not known any more" if state == "unknown" else f"ended as {state}"
    return Cancelled(
        f'cannot begin task "{task}": task "{blocker}", which had to succeed before, {what}',
        reason="dependency",
        dependency=blocker,
        state=state,
    )


def reason_of(entry: Entry) -> str:
    """What a task waits for, in words; "" when for neither time nor task."""
    if entry.blockers:
        some = sorted(entry.blockers)[:3]
        more = len(entry.blockers) - len(some)
        also = f" and {more} more" if more else ""
        return f"it waits for {'task' if len(some) == 1 else 'tasks'} {', '.join(some)}{also}"
    return "" if entry.due is None else f"it begins at {entry.task.scheduled_at}"
