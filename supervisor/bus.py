"""One ordered stream of all that happens: numbered here, kept by the sink, seen by every subscriber.

Everything is on the loop's thread and nothing here waits: a publisher is never held up, and a
subscriber that does not read loses the oldest events of its own queue and is told how many.
The stream's memory is bounded in events; whoever publishes what a peer sent bounds its size.
"""

import asyncio
import fnmatch
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

import msgspec

from ..worker.errors import InvalidParams, Overloaded

ROUTES_LIMIT = 1_000
SUBSCRIPTIONS_LIMIT = 10_000
PATTERNS_LIMIT = 64
PATTERN_LIMIT_BYTES = 256

SKIPPED = "events.skipped"

logger = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True):
    """Something that happened. Shared by all who see it: `fields` is not to be changed."""

    seq: int
    at: str
    type: str
    agent: str | None
    worker: str | None
    incarnation: int | None
    fields: dict[str, object]

    def record(self) -> dict[str, object]:
        """The event as JSON shows it: `{"seq", "at", "type", "agent", "worker", "incarnation", …}`."""
        return {
            **self.fields,
            "seq": self.seq,
            "at": self.at,
            "type": self.type,
            "agent": self.agent,
            "worker": self.worker,
            "incarnation": self.incarnation,
        }


class Subscription:
    """The events of some types, in order, for one reader; a `with` closes it."""

    def __init__(self, bus: "Bus", patterns: tuple[re.Pattern[str], ...], limit: int) -> None:
        self._bus = bus
        self._patterns = patterns
        self._limit = limit
        self._queue: deque[Event] = deque()
        self._skipped: tuple[int, Event] | None = None  # how many, and the last of them
        self._ready = asyncio.Event()
        self._closed = False

    async def next_batch(self) -> list[Event]:
        """All that has come since the last call, at least one; [] once it is closed.

        If the queue overflowed, the first is an `events.skipped` with `count`, and with the `seq` of
        the last event that was dropped.
        """
        while not self._queue and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        batch = list(self._queue)
        self._queue.clear()
        if self._skipped is not None:
            count, last = self._skipped
            self._skipped = None
            batch.insert(0, Event(last.seq, last.at, SKIPPED, None, None, None, {"count": count}))
        return batch

    async def __aiter__(self) -> AsyncIterator[Event]:
        while batch := await self.next_batch():
            for event in batch:
                yield event

    def close(self) -> None:
        """Take no more events; what is queued can still be read, then the reading ends."""
        if not self._closed:
            self._closed = True
            self._ready.set()
            self._bus.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def matches(self, event_type: str) -> bool:
        """Whether an event of this type is wanted."""
        return any(pattern.match(event_type) for pattern in self._patterns)

    def offer(self, event: Event) -> None:
        """Queue an event; the bus calls this."""
        if len(self._queue) >= self._limit:
            last = self._queue.popleft()
            count = self._skipped[0] if self._skipped else 0
            self._skipped = (count + 1, last)
        self._queue.append(event)
        self._ready.set()


class Bus:
    """The stream. `sink` gets every event that is to be kept, at once and in order."""

    def __init__(
        self,
        first_seq: int,
        sink: Callable[[Event], None] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._next_seq = first_seq
        self._sink = sink
        self._clock = clock
        self._subscriptions: dict[Subscription, None] = {}  # in the order of subscribing
        self._routes: dict[
            str, tuple[Subscription, ...]
        ] = {}  # by type, until somebody comes or goes

    def publish(
        self,
        event_type: str,
        /,
        *,
        agent: str | None = None,
        worker: str | None = None,
        incarnation: int | None = None,
        store: bool = True,
        **fields: object,
    ) -> Event:
        """Number the event, hand it to the sink (unless `store` is false) and to its subscribers.

        `fields` must be encodable as JSON and must not be changed afterwards. Never raises for what
        the sink or a subscriber does; may be called by a subscriber.
        """
        event = Event(
            self._next_seq, _rfc3339(self._clock()), event_type, agent, worker, incarnation, fields
        )
        self._next_seq += 1
        if store and self._sink is not None:
            try:
                self._sink(event)
            except Exception:
                # Whoever publishes is in the middle of something that must not be left half done.
                logger.exception("cannot keep event %d of type %s", event.seq, event_type)
        for subscription in self._route(event_type):
            subscription.offer(event)
        return event

    def subscribe(self, types: Sequence[str] = ("*",), *, limit: int = 1_000) -> Subscription:
        """The events from now on whose type matches one of the globs (`task.*`), at most `limit` queued.

        Raises:
            InvalidParams: too many globs, or one that is too long.
            Overloaded: too many subscriptions.
        """
        if len(types) > PATTERNS_LIMIT:
            text = f"cannot subscribe to {len(types)} patterns: the limit is {PATTERNS_LIMIT}"
            raise InvalidParams(text, key="types", limit=PATTERNS_LIMIT, value=len(types))
        for glob in types:
            if len(glob) > PATTERN_LIMIT_BYTES:
                text = f'cannot subscribe to "{glob[:32]}…": the pattern is too long'
                raise InvalidParams(text, key="types", limit=PATTERN_LIMIT_BYTES, value=len(glob))
        if len(self._subscriptions) >= SUBSCRIPTIONS_LIMIT:
            text = f"cannot subscribe: {SUBSCRIPTIONS_LIMIT} subscriptions are open"
            raise Overloaded(text, limit=SUBSCRIPTIONS_LIMIT, retry_after_s=1.0)
        patterns = tuple(re.compile(fnmatch.translate(glob)) for glob in types)
        subscription = Subscription(self, patterns, limit)
        self._subscriptions[subscription] = None
        self._routes.clear()
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drop a subscription; it calls this when it is closed."""
        self._subscriptions.pop(subscription, None)
        self._routes.clear()

    def _route(self, event_type: str) -> tuple[Subscription, ...]:
        route = self._routes.get(event_type)
        if route is None:
            route = tuple(each for each in self._subscriptions if each.matches(event_type))
            if len(self._routes) >= ROUTES_LIMIT:  # agents invent types
                self._routes.clear()
            self._routes[event_type] = route
        return route


def _rfc3339(at_s: float) -> str:
    """`2026-01-01T00:00:00.123Z`."""
    at_ms = int(at_s * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at_ms // 1000))}.{at_ms % 1000:03d}Z"
