"""Delivers subscribed events to the hooks of a worker: to each hook in order, one at a time.

A hook that is slow, or raises, delays no other hook and not the loop. The queue of a hook is bounded in number and
in bytes: the oldest events are dropped, and a hook that subscribed to `events.skipped` receives their number.
It needs the standard library alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..contract import codec
from .results import Json
from .stdio import log_line, log_traceback
from .task import Event, EventHook

MAX_EVENTS = 1000
"""Number of events queued for one hook."""

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Bytes of their data as JSON; one event is always accepted."""

SKIPPED = "events.skipped"

Call = Callable[[Callable[..., object], Event], Awaitable[object]]


class Subscriptions:
    """Holds the event hooks of one worker; `call` runs a hook, on the loop or in a thread."""

    def __init__(self, hooks: Sequence[EventHook], call: Call) -> None:
        self._queues = [_HookQueue(hook, call) for hook in hooks]

    @property
    def types(self) -> list[str]:
        """Returns the globs of all hooks, without duplicates."""
        return list(dict.fromkeys(glob for queue in self._queues for glob in queue.hook.types))

    def deliver(self, params: Mapping[str, Json]) -> None:
        """Queues the event of an `event` notification for the hooks that want its type."""
        event = Event(
            str(params.get("type", "")), params.get("data"), str(params.get("from", "")), str(params.get("at", ""))
        )
        if event.type == SKIPPED:
            count = event.data.get("count") if isinstance(event.data, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  JSON
            log_line(f"corral: {count} events were left out: this worker reads too slowly")
        size_bytes = len(codec.encode(event.data))
        for queue in self._queues:
            if queue.wants(event.type):
                queue.put(event, size_bytes)

    def deliveries(self) -> list[Coroutine[Any, Any, None]]:
        """Returns one endless coroutine a hook, which delivers its events."""
        return [queue.run() for queue in self._queues]


class _HookQueue:
    """Queues the events of one hook."""

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

    def put(self, event: Event, size_bytes: int) -> None:
        waiting = self._waiting
        self._waiting_bytes += size_bytes
        while waiting and (len(waiting) >= MAX_EVENTS or self._waiting_bytes > MAX_EVENT_BYTES):
            oldest, oldest_bytes = waiting.popleft()
            self._waiting_bytes -= oldest_bytes
            self._lost += 1
            self._lost_at = oldest.at
        waiting.append((event, size_bytes))
        self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            if self._lost:
                lost, self._lost = self._lost, 0
                log_line(f"corral: {lost} events were left out: {_name(self.hook)} is too slow")
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
        except BaseException as error:  # a hook may raise anything, and call sys.exit
            is_cancelled = isinstance(error, asyncio.CancelledError)
            if isinstance(error, GeneratorExit) or (is_cancelled and _is_ending()):
                raise
            log_traceback(error, f'{_name(self.hook)} failed for "{event.type}"')


def _is_ending() -> bool:
    """Returns True if the worker cancels the delivery, not an awaitable of the hook that was cancelled."""
    me = asyncio.current_task()
    return me is None or me.cancelling() > 0


def _name(hook: EventHook) -> str:
    return f"on_event {getattr(hook.call, '__name__', 'hook')}"
