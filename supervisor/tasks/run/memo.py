"""Holds what the calls of one task were answered in its earlier beginnings, for agents that have no steps of their own.

A call is named by the digest of its request. Each recorded answer is given once, in the order of the record: a request that is
repeated within one beginning goes out again, unless an earlier beginning repeated it, too. What is answered now is for later
beginnings.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from corral.worker.contract.records import StepState, Task

from .steps import MEMO, Steps

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Represents the place of a call among the steps of its task, with the state of the one that an earlier beginning made there."""

    number: int
    name: str
    state: StepState | None = None

    @property
    def is_answered(self) -> bool:
        """Returns whether an earlier beginning got the answer."""
        return self.state == "done"


class Memo:
    """Holds the recorded calls of one beginning of a task; belongs to the loop's thread.

    `recorded` are the numbers of those that it may be answered from, where an earlier program of this daemon knew them.
    """

    def __init__(self, delivery: int, recorded: Collection[int] | None = None) -> None:
        self.delivery = delivery
        self._only = recorded
        self._reading = asyncio.Lock()
        self._is_read = False
        self._left: dict[str, deque[Place]] = {}
        self._times: dict[str, int] = {}
        self._last = 0
        self._has_told = False

    @property
    def recorded(self) -> tuple[int, ...] | None:
        """Returns the numbers of the calls that it may still be answered from; None before it has read them."""
        return tuple(each.number for left in self._left.values() for each in left) if self._is_read else None

    async def take(self, task: Task, steps: Steps, request: str) -> Place | None:
        """Returns the next recorded call of a request, None where there is none left."""
        async with self._reading:
            if not self._is_read:
                await self._read(task, steps)
        left = self._left.get(request)
        return left.popleft() if left else None

    def place(self, request: str, most: int) -> Place | None:
        """Returns a new place for a request that is not recorded; None where the task has `most` steps already."""
        if self._last >= most:
            return None
        self._last += 1
        times = self._times[request] = self._times.get(request, 0) + 1
        return Place(self._last, request if times == 1 else f"{request}#{times}")

    def tell(self, task: Task, reason: str) -> None:
        """Logs, once, that an answer is not kept."""
        if not self._has_told:
            self._has_told = True
            logger.warning(
                'cannot keep an answer of task "%s", which goes out again if it begins again: %s', task.id, reason
            )

    async def _read(self, task: Task, steps: Steps) -> None:
        is_first = task.delivery == 1 and task.retry_of is None and self._only is None
        for each in [] if is_first else await steps.all(task):
            self._last = each.number
            if each.kind != MEMO:
                continue
            request, _, times = each.name.partition("#")
            self._times[request] = max(self._times.get(request, 0), int(times or 1))
            if self._only is None or each.number in self._only:
                self._left.setdefault(request, deque()).append(Place(each.number, each.name, each.state))
        self._is_read = True
        if self._left:
            count = sum(map(len, self._left.values()))
            logger.info('task "%s" begins again with %d recorded calls', task.id, count)
