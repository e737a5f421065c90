"""The events that a worker has subscribed to: each hook gets its own, in order, one after the other.

A hook that is slow, or raises, holds up no other hook and not the loop. What waits for a hook is bounded in
number and in bytes: the oldest goes, and a hook that wants `events.skipped` is told how many.
It needs the standard library alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..contract import codec
from .results import Json
from .stdio import say, say_traceback
from .task import Event, EventHook

MAX_EVENTS = 1000
"""Events that wait for one hook…"""

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""…and the size of their data as JSON; one event always has room."""

SKIPPED = "events.skipped"

Call = Callable[[Callable[..., object], Event], Awaitable[object]]


class Subscriptions:
    """All hooks of one worker; `call` runs a hook, wherever hooks run."""

    def __init__(self, hooks: Sequence[EventHook], call: Call) -> None:
        self._ears = [_Ear(hook, call) for hook in hooks]

    @property
    def types(self) -> list[str]:
        """The globs of all hooks, each once."""
        return list(dict.fromkeys(glob for ear in self._ears for glob in ear.hook.types))

    def hear(self, params: Mapping[str, Json]) -> None:
        """Takes an `event` notification."""
        event = Event(
            str(params.get("type", "")),
            params.get("data"),
            str(params.get("from", "")),
            str(params.get("at", "")),
        )
        if event.type == SKIPPED:
            count = event.data.get("count") if isinstance(event.data, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  JSON
            say(f"corral: {count} events were left out: this worker reads too slowly")
        size_bytes = len(codec.encode(event.data))
        for ear in self._ears:
            if ear.wants(event.type):
                ear.offer(event, size_bytes)

    def listen(self) -> list[Coroutine[Any, Any, None]]:
        """What gives the hooks their events, one for each, without end."""
        return [ear.listen() for ear in self._ears]


class _Ear:
    """One hook and what waits for it."""

    def __init__(self, hook: EventHook, call: Call) -> None:
        self.hook = hook
        self._call = call
        self._waiting: deque[tuple[Event, int]] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._lost_at = ""
        self._some = asyncio.Event()

    def wants(self, event_type: str) -> bool:
        return any(fnmatchcase(event_type, glob) for glob in self.hook.types)

    def offer(self, event: Event, size_bytes: int) -> None:
        waiting = self._waiting
        self._waiting_bytes += size_bytes
        while waiting and (len(waiting) >= MAX_EVENTS or self._waiting_bytes > MAX_EVENT_BYTES):
            oldest, oldest_bytes = waiting.popleft()
            self._waiting_bytes -= oldest_bytes
            self._lost += 1
            self._lost_at = oldest.at
        waiting.append((event, size_bytes))
        self._some.set()

    async def listen(self) -> None:
        while True:
            await self._some.wait()
            if self._lost:
                lost, self._lost = self._lost, 0
                say(f"corral: {lost} events were left out: {_name(self.hook)} is too slow")
                if self.wants(SKIPPED):
                    await self._give(Event(SKIPPED, {"count": lost}, "", self._lost_at))
            event, size_bytes = self._waiting.popleft()
            self._waiting_bytes -= size_bytes
            if not self._waiting:
                self._some.clear()
            await self._give(event)

    async def _give(self, event: Event) -> None:
        try:
            await self._call(self.hook.call, event)
        except BaseException as error:  # an author's hook may raise anything, and call sys.exit
            is_cancelled = isinstance(error, asyncio.CancelledError)
            if isinstance(error, GeneratorExit) or (is_cancelled and _is_ending()):
                raise
            say_traceback(error, f'{_name(self.hook)} failed for "{event.type}"')


def _is_ending() -> bool:
    """Whether it is the worker that ends the delivery, and not what a hook awaited that was cancelled."""
    me = asyncio.current_task()
    return me is None or me.cancelling() > 0


def _name(hook: EventHook) -> str:
    return f"on_event {getattr(hook.call, '__name__', 'hook')}"
