"""Remembers when attempts of tasks began and ended on their workers, by the clock of the logs: to the nanosecond.

Between two tasks on one worker there are often only microseconds, and the times in records have milliseconds: they could not say to
which of the two a line belongs.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

TASKS_KEPT = 4_096
"""Number of tasks that are remembered; of earlier ones the records say it to the millisecond."""


@dataclass(slots=True)
class Moments:
    """Represents one attempt: the worker, and when it began and ended there, in ns of the Unix epoch."""

    worker: str
    begin_ns: int
    end_ns: int | None = None


class TaskMoments:
    """Remembers the attempts of the tasks that began last."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, list[Moments]] = OrderedDict()

    def begin(self, task: str, worker: str) -> Moments:
        """Notes that an attempt begins now; the caller sets its end."""
        attempts = self._attempts.setdefault(task, [])
        self._attempts.move_to_end(task)
        attempts.append(Moments(worker, time.time_ns()))
        if len(self._attempts) > TASKS_KEPT:
            self._attempts.popitem(last=False)
        return attempts[-1]

    def of(self, task: str) -> Sequence[Moments]:
        """Returns the attempts of a task that are remembered, oldest first."""
        return self._attempts.get(task, ())
