"""Serves the methods `event.*` and `log.*` of the table: events, their types, and the lines of workers."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import cast

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.events import catalog
from corral.supervisor.records.events.bus import Bus, Event, Types, skipped
from corral.supervisor.records.events.catalog import CATALOGUE, SKIPPED
from corral.supervisor.records.events.history import PAGE_BYTES, SCAN_ROWS, EventFilter, EventHistory, Page
from corral.supervisor.records.logs.file_format import LogFilter
from corral.supervisor.records.logs.file_format import Record as LogRecord
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.regex import Pattern
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.run.buffer import Receiver
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.pubsub import WorkerPubsub
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from corral.worker.contract.log_pieces import PieceJoiner
from corral.worker.contract.records import copied
from corral.worker.control.params import EventParams, EventPublishParams, LogParams
from corral.worker.control.results import Events, LogLine, LogLines, LogPlace, Position, Published
from corral.worker.methods import events as methods

from ..reports.timeline import TaskLines
from ..table.handlers import Caller, serve

ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of JSON in one answer: of events, whose `next` says where to go on; longer logs have to be followed."""

PASSED_ON_BYTES = 256 * 1024
"""Bytes of events in an answer to another node of the cluster, beyond which no page is added: all have to fit into one message."""

ANSWER_EVENTS = 1_000
"""Number of events in one answer, unless `n` asks for more."""


class EventFollower:
    """Sends events to one reader by its position: events that it missed while it was slow are read from the store."""

    def __init__(
        self, bus: Bus, event_history: EventHistory, wanted: EventFilter, types: Sequence[str], caller: Receiver
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
                page = Page(0)
                for event in batch:
                    if page.records and page.size_bytes + event.size_bytes > PAGE_BYTES:
                        await self._send(page.records)
                        page = Page(0)
                    page.add(event.record(), event.size_bytes)
                await self._send(page.records)
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

    async def _send(self, records: list[dict[str, object]]) -> None:
        self._caller.notify("event", {"events": records})
        await self._caller.drain()


class EventMethods:
    """Serves the methods `event.*`."""

    def __init__(self, bus: Bus, history: EventHistory, pubsub: WorkerPubsub) -> None:
        self._bus = bus
        self._history = history
        self._pubsub = pubsub

    @serve(methods.EVENT_LIST)
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

    @serve(methods.EVENT_FOLLOW)
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

    @serve(methods.EVENT_TYPES)
    async def _types(self, params: methods.EventTypesParams, _caller: Caller) -> methods.EventTypes:
        chosen = Types(["*"] if params.types is None else params.types)
        return methods.EventTypes(
            types=[_described(each) for name, each in sorted(CATALOGUE.items()) if chosen.match(name)]
        )

    @serve(methods.EVENT_PUBLISH)
    async def _publish(self, params: EventPublishParams, caller: Caller) -> Published:
        return Published(seq=self._pubsub.publish_from(caller.who, params.type, params.data))


def _wanted(params: EventParams, caller: Caller) -> EventFilter:
    only = knows(caller.agents)
    return EventFilter(params.types, params.agent, params.worker, params.task, params.since_time, only)


def _number(key: str, value: int | str | None) -> int | None:
    if isinstance(value, str):
        text = f"cannot use {key} = {value}: numbers of several nodes are for the events of a cluster"
        raise InvalidParams(text, key=key, value=value)
    return value


def _described(type_: catalog.EventType) -> methods.EventType:
    return methods.EventType(
        type=type_.name,
        meaning=type_.meaning,
        subject=type_.subject,
        stored=type_.stored,
        fields=[methods.EventField(name=each.name, kind=each.kind, meaning=each.meaning) for each in type_.fields],
    )


LINES = 100
"""Number of lines in one answer, unless `n`, a time or a task asks for more."""

LINES_FOLLOWED = 10
"""Number of past lines that a follower gets first, likewise."""


class LogMethods:
    """Serves the methods `log.*`."""

    def __init__(self, agents: Agents, tasks: Tasks, logs: LogStore, lines: TaskLines) -> None:
        self._agents = agents
        self._tasks = tasks
        self._logs = logs
        self._lines = lines

    def _log_filter(self, params: LogParams) -> LogFilter:
        given = params.names or []
        with_files = self._logs.names() if given else set[str]()
        names = self._agents.registry.chosen(given, params.selector, extra=sorted(with_files))
        for name in names:
            if name not in with_files:
                self._agents.supervisors(name)
        running = frozenset(
            supervisor.id for supervisor in self._agents.all_supervisors() if supervisor.worker.pid is not None
        )
        return LogFilter(
            **copied(params, "since until stream level previous"),
            names=frozenset(names),
            pattern=None if params.grep is None else Pattern(params.grep),
            running=running,
        )

    @serve(methods.LOG_READ)
    async def _read(self, params: LogParams, _caller: Caller) -> LogLines:
        found: list[LogRecord] = []
        size = 0
        joiner = PieceJoiner()
        position = _position(params)
        batches = await self._batches(params, LINES, position, follow=False)
        async with self._logs.answering, contextlib.aclosing(batches):
            async for batch in batches:
                size += len(codec.encode(batch))
                if size > ANSWER_BYTES:
                    words = f"cannot answer with more than {ANSWER_BYTES} bytes of log: follow it"
                    raise ResourceLimitExceeded(words, limit="answer", value=ANSWER_BYTES)
                found += joiner.join(batch)
        found += joiner.flush()
        records = cast("list[LogLine]", found)  # the shape that `logs.record` gives them
        return LogLines(records=records, position=None if position is None else position.text())

    @serve(methods.LOG_FOLLOW)
    async def _follow(self, params: LogParams, caller: Caller) -> LogPlace:
        if params.follow and (params.until is not None or params.previous):
            key = "previous" if params.previous else "until"
            raise InvalidParams(f'cannot follow a log with "{key}": that is over', key=key)
        lines = LINES_FOLLOWED if params.follow else LINES
        position = _position(params)
        batches = await self._batches(params, lines, position, follow=params.follow)
        begin = None
        if position is not None:
            position.begin_round(self._logs.newest())
            begin = position.text() if params.after is None else params.after
        caller.follow(_send_batches(caller, batches, position))
        return LogPlace(position=begin)

    async def _batches(
        self, params: LogParams, lines: int, position: LogPosition | None, *, follow: bool
    ) -> AsyncGenerator[list[LogRecord], None]:
        """Returns the records that are asked for; of a task or since a time all, else the last `lines` unless `n` says how many."""
        wanted = self._log_filter(params)
        is_all = params.since is not None or params.task is not None
        n = lines if params.n is None and not is_all else params.n
        n = None if params.after is not None else n
        if params.task is not None:
            if params.names or params.selector or params.previous:
                words = f'cannot select lines of task "{params.task}" by names or incarnations: the task says which'
                raise InvalidParams(words, key="task", value=params.task)
            return self._lines.of_task(await self._tasks.show(params.task), wanted, n, position, follow=follow)
        logs = self._logs
        if follow:
            return logs.follow(wanted, n, position=position)
        return logs.history(wanted, n, position)


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
