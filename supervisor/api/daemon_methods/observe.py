"""Serves the methods `event.*`, `audit.*` and `log.*` of the table: reads and follows what was recorded."""

import contextlib
import fnmatch
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol, cast

from corral.supervisor.records.audit.hash_chain import Record, parse_position
from corral.supervisor.records.audit.log import stamp
from corral.supervisor.records.events.bus import Bus, Event, skipped
from corral.supervisor.records.events.catalog import SKIPPED
from corral.supervisor.records.events.history import PAGE_BYTES, SCAN_ROWS, EventFilter, EventHistory, Page
from corral.supervisor.records.logs.file_format import LogFilter
from corral.supervisor.records.logs.file_format import Record as LogRecord
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.regex import Pattern
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from corral.worker.contract.log_pieces import PieceJoiner
from corral.worker.contract.names import tenant_of
from corral.worker.control.params import AuditParams, EventParams, EventPublishParams, LogParams, VerifyParams
from corral.worker.control.results import (
    AuditPage,
    AuditVerdict,
    Events,
    LogLine,
    LogLines,
    LogPlace,
    Position,
    Published,
)
from corral.worker.methods.events import (
    AUDIT_LIST,
    AUDIT_VERIFY,
    EVENT_FOLLOW,
    EVENT_LIST,
    EVENT_PUBLISH,
    LOG_FOLLOW,
    LOG_READ,
)

from ..reports.task_lines import lines_of_task
from ..table.results import as_result
from ..table.table import Caller, Control, serve

ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of JSON in one answer: `next` of events says where to go on, longer logs have to be followed."""

PASSED_ON_BYTES = 256 * 1024
"""Bytes of events in an answer to another node of the cluster, beyond which no page is added: all have to fit into one message."""

ANSWER_EVENTS = 1_000
"""Number of events in one answer, unless `n` asks for more."""


def _wanted(params: EventParams, caller: Caller) -> EventFilter:
    only = knows(caller.agents)
    return EventFilter(params.types, params.agent, params.worker, params.task, params.since_time, only)


def _number(key: str, value: int | str | None) -> int | None:
    """Returns the number of an event of this daemon."""
    if isinstance(value, str):
        text = f"cannot use {key} = {value}: numbers of several nodes are for the events of a cluster"
        raise InvalidParams(text, key=key, value=value)
    return value


@serve(EVENT_LIST)
async def _list_events(control: Control, params: EventParams, caller: Caller) -> Events:
    event_history, newest = control.shared.event_history, control.shared.bus.newest
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
async def _follow_events(control: Control, params: EventParams, caller: Caller) -> Position:
    wanted = _wanted(params, caller)
    newest = control.shared.bus.newest
    since = _number("since", params.since)
    has_past = since is not None or params.since_time is not None or params.n is not None
    n = params.n if has_past else 0
    start = await control.shared.event_history.begin(wanted, newest=newest, since=since, n=n, until=newest)
    shared = control.shared
    follower = EventFollower(shared.bus, shared.event_history, wanted, params.types or ["*"], caller)
    caller.follow(follower.run(start, reports_expired=since is not None))
    return Position(position=start)


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


@serve(EVENT_PUBLISH)
async def _publish_event(control: Control, params: EventPublishParams, caller: Caller) -> Published:
    return Published(seq=control.pubsub.publish_from(caller.who, params.type, params.data))


LINES = 100
"""Number of lines in one answer, unless `n`, a time or a task asks for more."""

LINES_FOLLOWED = 10
"""Number of past lines that a follower gets first, likewise."""

RECORDS = 100
"""Number of records on a page, unless `n` asks for more."""


def _filter(params: AuditParams, tenant: str) -> Callable[[Record], bool]:
    actions = [re.compile(fnmatch.translate(glob)) for glob in params.actions or ()]
    since = None if params.since_time is None else stamp(params.since_time)
    until = None if params.until_time is None else stamp(params.until_time)

    def is_wanted(record: Record) -> bool:
        at, action = str(record.get("at")), str(record.get("action"))
        return (
            (since is None or at >= since)
            and (until is None or at < until)
            and (not actions or any(each.match(action) for each in actions))
            and (params.name is None or _is_about(record, params.name))
            and (not tenant or _is_of(record, tenant))
        )

    return is_wanted


def _is_of(record: Record, tenant: str) -> bool:
    """Returns whether a record is one of a tenant: of its callers and agents, or about nothing but what is its own."""
    who = codec.as_object(record.get("who")) or {}
    if who.get("tenant") == tenant or tenant_of(str(who.get("agent") or "")) == tenant:
        return True
    names = codec.as_array(record.get("names")) or []
    return bool(names) and all(tenant_of(str(each)) == tenant for each in names)


def _is_about(record: Record, name: str) -> bool:
    """Returns whether a record is about an agent or a worker, or one of its actions."""
    who = codec.as_object(record.get("who")) or {}
    words = [*(codec.as_array(record.get("names")) or ()), record.get("server")]
    words += [who.get("agent"), who.get("worker")]
    results = codec.as_object(record.get("told")) or {}
    for value in results.values():  # what a reload touched
        words += codec.as_array(value) or codec.as_object(value) or ()
    return any(word in (name, "*") or (isinstance(word, str) and word.rpartition("-")[0] == name) for word in words)


@serve(AUDIT_LIST)
async def _list(control: Control, params: AuditParams, caller: Caller) -> AuditPage:
    n = RECORDS if params.n is None else params.n
    if params.since is not None and params.before is not None:
        raise InvalidParams("cannot list from both ends: give since or before", key="before")
    records, next_place = await control.audit.page(
        n, _filter(params, caller.tenant), after=params.since, before=params.before
    )
    return AuditPage(records=records, next=next_place)


@serve(AUDIT_VERIFY)
async def _verify(control: Control, params: VerifyParams, _caller: Caller) -> AuditVerdict:
    expected = None
    if params.head is not None:
        try:
            expected = parse_position(params.head)
        except ValueError:
            raise InvalidParams(
                f'cannot look for "{params.head}": a head is NUMBER:HASH, with 64 digits of hash',
                key="head",
                value=params.head,
            ) from None
    return as_result(await control.audit.verify(expected), AuditVerdict)


def _log_filter(control: Control, params: LogParams) -> LogFilter:
    given = params.names or []
    with_files = control.shared.logs.names() if given else set[str]()
    names = control.agents.registry.chosen(given, params.selector, extra=sorted(with_files))
    for name in names:
        if name not in with_files:
            control.agents.supervisors(name)
    running = frozenset(
        supervisor.id for supervisor in control.agents.all_supervisors() if supervisor.worker.pid is not None
    )
    return LogFilter(
        names=frozenset(names),
        since=params.since,
        until=params.until,
        stream=params.stream,
        level=params.level,
        pattern=None if params.grep is None else Pattern(params.grep),
        previous=params.previous,
        running=running,
    )


@serve(LOG_READ)
async def _read_log(control: Control, params: LogParams, _caller: Caller) -> LogLines:
    found: list[LogRecord] = []
    size = 0
    joiner = PieceJoiner()
    position = _position(params)
    batches = await _batches(control, params, LINES, position, follow=False)
    async with control.shared.logs.answering, contextlib.aclosing(batches):
        async for batch in batches:
            size += len(codec.encode(batch))
            if size > ANSWER_BYTES:
                raise ResourceLimitExceeded(
                    f"cannot answer with more than {ANSWER_BYTES} bytes of log: follow it",
                    limit="answer",
                    value=ANSWER_BYTES,
                )
            found += joiner.join(batch)
    found += joiner.flush()
    records = cast("list[LogLine]", found)  # the shape that `logs.record` gives them
    return LogLines(records=records, position=None if position is None else position.text())


@serve(LOG_FOLLOW)
async def _follow_log(control: Control, params: LogParams, caller: Caller) -> LogPlace:
    if params.follow and (params.until is not None or params.previous):
        key = "previous" if params.previous else "until"
        raise InvalidParams(f'cannot follow a log with "{key}": that is over', key=key)
    lines = LINES_FOLLOWED if params.follow else LINES
    position = _position(params)
    batches = await _batches(control, params, lines, position, follow=params.follow)
    begin = None
    if position is not None:
        position.begin_round(control.shared.logs.newest())
        begin = position.text() if params.after is None else params.after
    caller.follow(_send_batches(caller, batches, position))
    return LogPlace(position=begin)


def _position(params: LogParams) -> LogPosition | None:
    """Returns the position that is moved with what is read; None where nobody can go on from it."""
    if params.after is None:
        has_end = params.until is not None or params.previous
        return None if has_end else LogPosition()
    if params.previous:
        raise InvalidParams('cannot go on after a position in "previous" ones', key="after")
    try:
        return LogPosition.parse(params.after)
    except ValueError:
        raise InvalidParams("cannot go on after that: take the position of an answer as it is", key="after") from None


async def _batches(
    control: Control, params: LogParams, lines: int, position: LogPosition | None, *, follow: bool
) -> AsyncGenerator[list[LogRecord], None]:
    """Returns the records that are asked for; of a task or since a time all, else the last `lines` unless `n` says how many."""
    wanted = _log_filter(control, params)
    is_all = params.since is not None or params.task is not None
    n = lines if params.n is None and not is_all else params.n
    n = None if params.after is not None else n
    if params.task is not None:
        if params.names or params.selector or params.previous:
            raise InvalidParams(
                f'cannot select lines of task "{params.task}" by names or incarnations: the task says which',
                key="task",
                value=params.task,
            )
        task = await control.tasks.show(params.task)
        return lines_of_task(control.shared, task, wanted, n, position, follow=follow)
    logs = control.shared.logs
    if follow:
        return logs.follow(wanted, n, position=position)
    return logs.history(wanted, n, position)


async def _send_batches(
    caller: Caller, batches: AsyncGenerator[list[LogRecord], None], position: LogPosition | None
) -> None:
    end: dict[str, object] = {}
    try:
        async with contextlib.aclosing(batches):
            async for batch in batches:
                place = None if position is None else position.text()
                caller.notify("log", {"records": batch, "position": place})
                batch.clear()  # it is encoded: while its reader takes its time, nothing is held twice
                await caller.drain()
    except ResourceLimitExceeded as error:  # of the pattern
        end = {"error": error.to_wire()}
    caller.notify("log.end", end)
