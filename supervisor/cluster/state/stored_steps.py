"""Defines the steps of a placed task as the engine keeps them: pages, in the order in which the steps were done. Pure."""

from heapq import heappop, heappush

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from corral.supervisor.tasks.run.cluster import KeptSteps
from corral.worker.contract.records import TaskStep

STEPS = "steps"
"""The prefix of the pages."""


class StepPage(Struct, frozen=True, kw_only=True):
    """Represents a page: `by` is the run that has written it last, `delivery` the number of that run's delivery."""

    delivery: int
    by: str
    steps: list[Raw] = []


class _Read(Struct, frozen=True):
    steps: list[TaskStep]


def page_key(task_id: str, number: int) -> str:
    """Returns the key of a page of a task, from 1."""
    return f"{STEPS}/{task_id}/{number}"


class StepFold:
    """Makes the steps of a task of its pages: the first end of a step counts, and its failures before are counted.

    Of results beyond `room_bytes` none is kept, so that a long task takes no more memory than a message.
    """

    def __init__(self, after: int, room_bytes: int) -> None:
        self._after = after
        self._room_bytes = room_bytes
        self._found: dict[int, TaskStep] = {}
        self._whole: list[int] = []
        """Numbers of the steps whose results are kept, the last one first, as negative numbers."""
        self._cut: list[int] = []

    def add(self, page: bytes) -> None:
        """Takes the next page."""
        for step in msgspec.json.decode(page, type=_Read).steps:
            self._add(step)

    def _add(self, step: TaskStep) -> None:
        old = self._found.get(step.number)
        if old is not None:
            if old.state == "done":
                return
            step = replace(step, tries=old.tries + step.tries)
        self._found[step.number] = step
        if step.number <= self._after or step.state != "done":
            return
        heappush(self._whole, -step.number)
        self._room_bytes -= step.size_bytes
        while self._room_bytes < 0 and len(self._whole) > 1:
            number = -heappop(self._whole)
            self._cut.append(number)
            self._room_bytes += self._found[number].size_bytes
            self._found[number] = replace(self._found[number], result=None)

    def steps(self) -> KeptSteps:
        """Returns the steps after the number."""
        found = [self._found[number] for number in sorted(self._found) if number > self._after]
        end = (
            next((place for place, each in enumerate(found) if each.number == min(self._cut)), 0) if self._cut else None
        )
        return KeptSteps(found[:end], [] if end is None else found[end:])
