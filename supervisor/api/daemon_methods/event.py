"""Serves the methods `event.*` of the table: lists, follows and publishes events, and says which types there are."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from corral.supervisor.records.events import catalog
from corral.supervisor.records.events.bus import Bus, Event, Types, skipped
from corral.supervisor.records.events.catalog import CATALOGUE, SKIPPED
from corral.supervisor.records.events.history import PAGE_BYTES, SCAN_ROWS, EventFilter, EventHistory, Page
from corral.supervisor.tasks.worker_api.pubsub import WorkerPubsub
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract.errors import InvalidParams
from corral.worker.control.params import EventParams, EventPublishParams
from corral.worker.control.results import Events, Position, Published
from corral.worker.methods.events import (
    EVENT_FOLLOW,
    EVENT_LIST,
    EVENT_PUBLISH,
    EVENT_TYPES,
    EventField,
    EventType,
    EventTypes,
    EventTypesParams,
)

from ..table.caller import Caller
from ..table.handlers import serve

ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of JSON in one answer, whose `next` says where to go on."""

PASSED_ON_BYTES = 256 * 1024
"""Bytes of events in an answer to another node of the cluster, beyond which no page is added: all have to fit into one message."""

ANSWER_EVENTS = 1_000
"""Number of events in one answer, unless `n` asks for more."""


class Reader(Protocol):
    """Represents the part of a caller that a follower needs."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while it reads too slowly."""
        ...


class EventFollower:
    """Sends events to one reader by its position: events that it missed while it was slow are read from the store."""

    def __init__(
        self, bus: Bus, event_history: EventHistory, wanted: EventFilter, types: Sequence[str], caller: Reader
    ) -> None:
        self._bus = bus
        self._history = event_history
        self._wanted = wanted
        self._types = types
        self._caller = caller

    async def run(self, position: int, *, reports_expired: bool) -> None:
        """Sends stored events after `position`, then new ones, until the reader is gone."""
        with self._bus.subscribe(self._types, where=self._wanted.takes) as subscription:
            newest = self._bus.newest
            await self._send_stored(position, newest, reports_expired=reports_expired)
            position = newest
            while batch := await subscription.next_batch():
                if batch[0].type == SKIPPED:
                    await self._catch_up(position, batch[0], batch[1].seq - 1)
                    del batch[0]
                await self._send_live(batch)
                position = batch[-1].seq

    async def _catch_up(self, position: int, skip: Event, until: int) -> None:
        """Reads the events that the queue dropped from the store; those that were never stored are lost, and counted."""
        count = skip.fields["count"]
        assert isinstance(count, int), "the bus counts them"
        lost = count - await self._send_stored(position, until, reports_expired=True)
        if lost > 0:
            await self._send([skipped(lost, skip.seq, skip.at).record()])

    async def _send_stored(self, position: int, until: int, *, reports_expired: bool) -> int:
        """Sends the stored events in (`position`, `until`], and returns their number."""
        sent = 0
        pages = self._history.history(position, until, self._wanted, reports_expired=reports_expired)
        async for page in pages:
            sent += 0 if page.is_notice else len(page.records)
            await self._send(page.records)
        return sent

    async def _send_live(self, batch: Sequence[Event]) -> None:
        page = Page(0)
        for event in batch:
            if page.records and page.size_bytes + event.size_bytes > PAGE_BYTES:
                await self._send(page.records)
                page = Page(0)
            page.add(event.record(), event.size_bytes)
        await self._send(page.records)

    async def _send(self, records: list[dict[str, object]]) -> None:
        self._caller.notify("event", {"events": records})
        await self._caller.drain()


class EventMethods:
    """Serves the methods `event.*`."""

    def __init__(self, bus: Bus, history: EventHistory, pubsub: WorkerPubsub) -> None:
        self._bus = bus
        self._history = history
        self._pubsub = pubsub

    @serve(EVENT_LIST)
    async def _list(self, params: EventParams, caller: Caller) -> Events:
        event_history, newest = self._history, self._bus.newest
        wanted = _wanted(params, caller)
        since, until = _number("since", params.since), _number("until", params.until)
        until = newest if until is None else min(until, newest)
        most = ANSWER_EVENTS if params.n is None else params.n
        n = ANSWER_EVENTS if since is None and params.since_time is None else None
        n = n if params.n is None else params.n
        start = await event_history.begin(wanted, newest=newest, since=since, n=n, until=until)
        found: list[dict[str, object]] = []
        size_bytes = 0
        most_bytes = PASSED_ON_BYTES if "node" in caller.who else ANSWER_BYTES
        next_seq: int | None = None
        is_gapless = since is not None and params.n is None
        # One more than is answered shows that there are more.
        rows = min(most + 1, SCAN_ROWS)
        pages = event_history.history(start, until, wanted, reports_expired=is_gapless, rows=rows)
        async for page in pages:
            for record in page.records:
                if len(found) >= most or size_bytes > most_bytes:
                    next_seq = int(str(found[-1]["seq"])) if found else start
                    break
                found.append(record)
            size_bytes += page.size_bytes
            if next_seq is not None:
                break
        return Events(events=found, next=next_seq, newest=newest)

    @serve(EVENT_FOLLOW)
    async def _follow(self, params: EventParams, caller: Caller) -> Position:
        wanted = _wanted(params, caller)
        newest = self._bus.newest
        since = _number("since", params.since)
        has_past = since is not None or params.since_time is not None or params.n is not None
        n = params.n if has_past else 0
        start = await self._history.begin(wanted, newest=newest, since=since, n=n, until=newest)
        follower = EventFollower(self._bus, self._history, wanted, params.types or ["*"], caller)
        caller.follow(follower.run(start, reports_expired=since is not None))
        return Position(position=start)

    @serve(EVENT_TYPES)
    async def _types(self, params: EventTypesParams, _caller: Caller) -> EventTypes:
        chosen = Types(["*"] if params.types is None else params.types)
        return EventTypes(types=[_described(each) for name, each in sorted(CATALOGUE.items()) if chosen.match(name)])

    @serve(EVENT_PUBLISH)
    async def _publish(self, params: EventPublishParams, caller: Caller) -> Published:
        return Published(seq=self._pubsub.publish_from(caller.who, params.type, params.data))


def _wanted(params: EventParams, caller: Caller) -> EventFilter:
    only = knows(caller.agents)
    return EventFilter(params.types, params.agent, params.worker, params.task, params.since_time, only)


def _number(key: str, value: int | str | None) -> int | None:
    """Returns the number of an event of this daemon."""
    if isinstance(value, str):
        text = f"cannot use {key} = {value}: numbers of several nodes are for the events of a cluster"
        raise InvalidParams(text, key=key, value=value)
    return value


def _described(type_: catalog.EventType) -> EventType:
    return EventType(
        type=type_.name,
        meaning=type_.meaning,
        subject=type_.subject,
        stored=type_.stored,
        fields=[EventField(name=each.name, kind=each.kind, meaning=each.meaning) for each in type_.fields],
    )
