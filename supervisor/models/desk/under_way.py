"""Holds the calls of models that are under way, so that a task ends with the usage of all its calls.

A worker that leaves a stream and ends its task is heard of at once; that its connection is closed, the gateway sees a moment
later. The end of such a task waits for that.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from corral.supervisor.config.declared.models import DeclaredModel

SETTLE_S = 0.5
"""Seconds that the end of a task waits for calls of it that are under way."""


class Call(NamedTuple):
    """Represents a call under way: its agent, its task, the models that may answer it, and the traceparent above it."""

    agent: str
    task: str | None
    models: Mapping[str, DeclaredModel]
    above: str | None = None

    @property
    def first(self) -> str:
        """Returns the name of the model that is asked first."""
        return next(iter(self.models))


class CallsUnderWay:
    """Holds the calls of one daemon; belongs to the loop's thread."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._by_model = Counter[str]()
        self._waiting: dict[str, asyncio.Event] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, number: int, call: Call) -> None:
        """Adds a call that was let pass."""
        self._calls[number] = call
        self._by_model[call.first] += 1

    def of_model(self, name: str) -> int:
        """Returns the number of calls that a model is to answer."""
        return self._by_model[name]

    def take(self, number: int) -> Call | None:
        """Returns a call that has ended; None for one that was not let pass."""
        call = self._calls.pop(number, None)
        if call is not None:
            self._by_model[call.first] -= 1
        return call

    def ended(self, call: Call) -> None:
        """Notes that the usage of a call is counted."""
        event = None if call.task is None else self._waiting.get(call.task)
        if event is not None and not self._is_calling(call.task):
            event.set()

    def drain(self) -> list[Call]:
        """Returns all calls, which are lost."""
        calls = list(self._calls.values())
        self._calls.clear()
        self._by_model.clear()
        for event in self._waiting.values():
            event.set()
        return calls

    async def settled(self, task: str) -> None:
        """Returns when no call of a task is under way, or after SETTLE_S."""
        if not self._is_calling(task):
            return
        event = self._waiting.setdefault(task, asyncio.Event())
        try:
            async with asyncio.timeout(SETTLE_S):
                await event.wait()
        except TimeoutError:
            pass  # it goes on without its task, and counts for its agent
        finally:
            self._waiting.pop(task, None)

    def _is_calling(self, task: str | None) -> bool:
        return any(call.task == task for call in self._calls.values())
