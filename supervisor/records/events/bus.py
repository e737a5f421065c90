"""Publishes events in one ordered stream: numbered here, stored by the sink, delivered to every subscriber.

Everything is on the loop's thread and nothing here waits: a publisher is never held up, and a
subscriber that does not read loses the oldest events of its own queue and is sent their number. A queue is
bounded in events and in bytes. Events of the daemon itself have the fields of the catalogue of their types.
"""

import asyncio
import fnmatch
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from typing import Self

import msgspec

from corral.worker.contract.errors import InvalidParams, Overloaded

from .catalog import FIELDS, SKIPPED

ROUTES_LIMIT = 1_000
"""Number of types whose subscribers are remembered."""

SUBSCRIPTIONS_LIMIT = 10_000
"""Number of open subscriptions."""

PATTERNS_LIMIT = 64
"""Number of globs of one subscription."""

PATTERN_LIMIT_BYTES = 256
"""Bytes of one glob."""

PATTERNS_LIMIT_BYTES = 1_024
"""Bytes of all globs together: while they are compiled, no other client is served."""

QUEUE_LIMIT = 1_000
"""Number of events that wait for one subscriber."""

QUEUE_LIMIT_BYTES = 4 * 1024 * 1024
"""Bytes of the events that wait for one subscriber; one event always has room."""

ENVELOPE_BYTES = 256
"""Bytes that an event is estimated to take beside its text."""

RESERVE = 100_000
"""Number of sequence numbers reserved ahead, so that none that was shown is given again after a kill."""

logger = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True):
    """Represents an event. Shared by all its subscribers: `fields` is not to be changed."""

    seq: int
    at: str
    type: str
    agent: str | None
    worker: str | None
    incarnation: int | None
    fields: dict[str, object]
    size_bytes: int = ENVELOPE_BYTES
    """About the bytes that it takes in memory and as JSON."""

    def record(self) -> dict[str, object]:
        """Returns the event as JSON shows it: `{"seq", "at", "type", "agent", "worker", "incarnation", …}`."""
        return {
            **self.fields,
            "seq": self.seq,
            "at": self.at,
            "type": self.type,
            "agent": self.agent,
            "worker": self.worker,
            "incarnation": self.incarnation,
        }


Where = Callable[[Event], bool]


class Subscription:
    """Queues the events of some types, in order, for one reader; a `with` closes it."""

    def __init__(self, bus: "Bus", types: "Types", *, limit: int, limit_bytes: int, where: Where | None) -> None:
        self._bus = bus
        self._types = types
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._where = where
        self._queue: deque[Event] = deque()
        self._queued_bytes = 0
        self._skipped: tuple[int, Event] | None = None  # how many, and the last of them
        self._ready = asyncio.Event()
        self._closed = False

    async def next_batch(self) -> list[Event]:
        """Returns all events since the last call, at least one; [] once it is closed.

        If the queue overflowed, the first is an `events.skipped` with `count`, and with the `seq` of
        the last event that was dropped.
        """
        while not self._queue and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        batch = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        if self._skipped is not None:
            count, last = self._skipped
            self._skipped = None
            batch.insert(0, skipped(count, last.seq, last.at))
        return batch

    async def __aiter__(self) -> AsyncIterator[Event]:
        while batch := await self.next_batch():
            for event in batch:
                yield event

    def close(self) -> None:
        """Takes no more events; queued ones can still be read, then the reading ends."""
        if not self._closed:
            self._closed = True
            self._ready.set()
            self._bus.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def matches(self, event_type: str) -> bool:
        """Returns whether an event of this type is wanted."""
        return self._types.match(event_type)

    def offer(self, event: Event) -> None:
        """Queues an event; the bus calls this."""
        if self._where is not None and not self._where(event):
            return
        queue = self._queue
        self._queued_bytes += event.size_bytes
        while queue and (len(queue) >= self._limit or self._queued_bytes > self._limit_bytes):
            last = queue.popleft()
            self._queued_bytes -= last.size_bytes
            count = self._skipped[0] if self._skipped else 0
            self._skipped = (count + 1, last)
        queue.append(event)
        self._ready.set()


class Bus:
    """Publishes events in one stream. `sink` gets every event that is to be stored, at once and in order.

    `reserve` is called, ahead of time, with the number up to which events may have been given out.
    """

    def __init__(
        self,
        first_seq: int,
        sink: Callable[[Event], None] | None = None,
        *,
        reserve: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._next_seq = first_seq
        self._sink = sink
        self._reserve = reserve
        self._reserve_at = first_seq + RESERVE // 2
        self._clock = clock
        self._subscriptions: dict[Subscription, None] = {}  # in the order of subscribing
        # By type, until a subscription is opened or closed.
        self._routes: dict[str, tuple[Subscription, ...]] = {}

    def has_subscribers(self, event_type: str) -> bool:
        """Returns whether an event of this type that is not stored would have a subscriber, or be logged."""
        return bool(self._route(event_type)) or logger.isEnabledFor(logging.DEBUG)

    @property
    def newest(self) -> int:
        """Returns the sequence number that was given last."""
        return self._next_seq - 1

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
        """Publishes an event of the daemon's own: to the sink, unless `store` is false, and its subscribers.

        `fields` are those of the catalogue, and must not be changed afterwards. Never raises for an error of
        the sink or a subscriber; may be called by a subscriber.
        """
        assert fields.keys() == FIELDS.get(event_type), (
            f"{event_type} with {sorted(fields)} is not as the catalogue has it"
        )
        size_bytes = ENVELOPE_BYTES
        for value in fields.values():
            if type(value) is str:  # isinstance takes thrice the time, of every field
                size_bytes += len(value)
            elif value is not None:
                size_bytes += _weight(value)
        return self._post(event_type, agent, worker, incarnation, fields, size_bytes, store)

    def relay(
        self,
        event_type: str,
        data: object,
        /,
        *,
        sender: str,
        agent: str | None = None,
        worker: str | None = None,
        incarnation: int | None = None,
        data_bytes: int,
    ) -> Event:
        """Publishes an event of a worker or client, which chooses its type; it is always stored.

        The caller bounds `data`, whose size as JSON is `data_bytes`; it may be that JSON, as a `msgspec.Raw`.
        """
        fields = {"data": data, "from": sender}
        return self._post(event_type, agent, worker, incarnation, fields, ENVELOPE_BYTES + data_bytes, True)

    def _post(
        self,
        event_type: str,
        agent: str | None,
        worker: str | None,
        incarnation: int | None,
        fields: dict[str, object],
        size_bytes: int,
        store: bool,
    ) -> Event:
        seq = self._next_seq
        event = Event(seq, rfc3339(self._clock()), event_type, agent, worker, incarnation, fields, size_bytes)
        self._next_seq += 1
        if seq >= self._reserve_at and self._reserve is not None:
            self._reserve_at = seq + RESERVE // 2
            self._reserve(seq + RESERVE)
        if store and self._sink is not None:
            try:
                self._sink(event)
            except Exception:
                # The publisher is in the middle of something that must not be left half done.
                logger.exception("cannot keep event %d of type %s", seq, event_type)
        for subscription in self._route(event_type):
            subscription.offer(event)
        if logger.isEnabledFor(logging.DEBUG):
            facts = {k: bytes(v) if isinstance(v, msgspec.Raw) else v for k, v in fields.items()}
            shown = msgspec.structs.replace(event, fields=facts).record()
            logger.debug("event %s", event_type, extra={"fields": shown})
        return event

    def subscribe(
        self,
        types: Sequence[str] = ("*",),
        *,
        limit: int = QUEUE_LIMIT,
        limit_bytes: int = QUEUE_LIMIT_BYTES,
        where: Where | None = None,
    ) -> Subscription:
        """Subscribes to the events from now on whose type matches one of the globs (`task.*`) and that `where` takes.

        At most `limit` of them, and `limit_bytes`, are queued.
        """
        patterns = Types(types)
        if len(self._subscriptions) >= SUBSCRIPTIONS_LIMIT:
            text = f"cannot subscribe: {SUBSCRIPTIONS_LIMIT} subscriptions are open"
            raise Overloaded(text, limit=SUBSCRIPTIONS_LIMIT, retry_after_s=1.0)
        subscription = Subscription(self, patterns, limit=limit, limit_bytes=limit_bytes, where=where)
        self._subscriptions[subscription] = None
        self._routes.clear()
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drops a subscription, which calls this when it is closed."""
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


class Types:
    """Represents globs of event types, as in fnmatch(3): `*` is any text, dots included, `?` one character."""

    def __init__(self, globs: Sequence[str]) -> None:
        if len(globs) > PATTERNS_LIMIT:
            text = f"cannot subscribe to {len(globs)} patterns: the limit is {PATTERNS_LIMIT}"
            raise InvalidParams(text, key="types", limit=PATTERNS_LIMIT, value=len(globs))
        for glob in globs:
            if len(glob) > PATTERN_LIMIT_BYTES:
                text = f'cannot subscribe to "{glob[:32]}…": the pattern is too long'
                raise InvalidParams(text, key="types", limit=PATTERN_LIMIT_BYTES, value=len(glob))
        size = sum(map(len, globs))
        if size > PATTERNS_LIMIT_BYTES:
            text = f"cannot subscribe to patterns of {size} characters: the limit is {PATTERNS_LIMIT_BYTES}"
            raise InvalidParams(text, key="types", limit=PATTERNS_LIMIT_BYTES, value=size)
        self._patterns = tuple(re.compile(fnmatch.translate(glob)) for glob in globs)

    def match(self, event_type: str) -> bool:
        """Returns whether one of the globs matches the whole type."""
        return any(pattern.match(event_type) for pattern in self._patterns)


def skipped(count: int, seq: int, at: str) -> Event:
    """Returns the event that a reader gets in place of `count` events; the last one had this number."""
    return Event(seq, at, SKIPPED, None, None, None, {"count": count})


def rfc3339(at_s: float) -> str:
    """Formats unix seconds as `2026-01-01T00:00:00.123Z`."""
    return _millisecond(int(at_s * 1000))


@lru_cache(64)
def _millisecond(at_ms: int) -> str:
    second, ms = divmod(at_ms, 1000)
    return f"{_second(second)}.{ms:03d}Z"


@lru_cache(64)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _weight(value: object) -> int:
    """Estimates the bytes of a field: those of the daemon's own events are short, but for lists of names."""
    if isinstance(value, str):
        return len(value)
    return 64 * len(value) if isinstance(value, list | tuple | dict) else 8  # pyright: ignore[reportUnknownArgumentType]  only its length matters
