"""Stores the stream of events, reads it back in pages, and bounds it in age and size.

A reader is a position, the number of the last event that it has seen. From a position on it reads all events:
those that were posted and are not on disk yet come from memory, so that between the past and the present
nothing is left out and nothing comes twice. Removed events are reported, never passed over.

Every read and every removal is a slice of bounded rows and bytes, since one thread reads for all
and one writes.
"""

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, CorralError, Overloaded

from ..store.store import Row, Statement, Step, Store, insert
from .bus import RESERVE, Event, Types, rfc3339
from .catalog import EXPIRED, RESERVED, is_reserved

SCAN_ROWS = 2_000
"""Number of rows that one read looks at."""

PAGE_BYTES = 512 * 1024
"""Bytes of the events in one page; one event always has room."""

REMOVED_ROWS = 1_000
"""Number of rows that one write removes at most: other writes wait for so long."""

REMOVED_BYTES = 4 * 1024 * 1024
"""Bytes that one write removes at most."""

COUNTED_ROWS = 20_000
"""Number of rows that one read adds up."""

RECENT_EVENTS = 256
"""Number of events that are kept in memory until they are certainly on disk; beyond, a reader has the store write."""

RECENT_BYTES = 4 * 1024 * 1024
"""Bytes of those events."""

KEPT_SHARE = 0.9
"""Fraction of the limit that is left after events were removed for it."""

AGENTS_SHARE = 0.5
"""Fraction of the limit that the events of agents may take: they cannot crowd out the daemon's."""

ROW_BYTES = 48
"""Bytes that a row is estimated to take beside its text."""

POSTED_BYTES = 64 * 1024
"""Bytes of the events that are posted together."""

RETRY_S = 5.0
"""Seconds until events are removed again after an error of the store."""

_COST = f"length(data) + length(type) + ifnull(length(agent), 0) + ifnull(length(worker), 0) + {ROW_BYTES}"
_IS_AGENTS = (
    f"substr(type, 1, instr(type || '.', '.') - 1) NOT IN ({', '.join(repr(word) for word in sorted(RESERVED))})"
)

INSERT = "INSERT INTO event (seq, at, type, agent, worker, data) VALUES (?, ?, ?, ?, ?, ?)"

logger = logging.getLogger(__name__)


class EventFilter:
    """Selects events by type, agent, worker, task and time, and by a filter of agents; None is all."""

    def __init__(
        self,
        types: Sequence[str] | None = None,
        agent: str | None = None,
        worker: str | None = None,
        task: str | None = None,
        since_s: float | None = None,
        knows: Callable[[str], bool] | None = None,
    ) -> None:
        self._types = Types(types or ["*"])
        self._agent = agent
        self._worker = worker
        self._knows = knows
        self.task = task
        self.is_all = types in (None, [], ["*"]) and {agent, worker, task, since_s} == {None}
        self.is_all = self.is_all and knows is None
        """Whether every event is wanted."""
        self.since_at = None if since_s is None else rfc3339(max(since_s, 0.0))

    def takes(self, event: Event) -> bool:
        """Returns whether a live event is wanted."""
        is_wanted = self.wants(event.type, event.agent, event.worker, event.at)
        return is_wanted and (self.task is None or event.fields.get("task") == self.task)

    def wants(self, event_type: object, agent: object, worker: object, at: object) -> bool:
        """Returns whether a row is wanted, but for its task."""
        return (
            (self._agent is None or agent == self._agent)
            and (self._worker is None or worker == self._worker)
            and (self._knows is None or (agent is not None and self._knows(str(agent))))
            and (self.since_at is None or str(at) >= self.since_at)
            and self._types.match(str(event_type))
        )


@dataclass
class Page:
    """Holds events in ascending order, and the number up to which all were looked at."""

    scanned_to: int
    records: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    size_bytes: int = 0
    is_last: bool = False
    is_notice: bool = False
    """Whether it reports removed events."""

    def add(self, record: dict[str, object], size_bytes: int) -> None:
        """Adds an event."""
        self.records.append(record)
        self.size_bytes += size_bytes


class _Rows(Step):
    """Collects events that are posted together, until the writer takes them or there is no more room."""

    def __init__(self, row: Row, data_bytes: int) -> None:
        self.size_bytes = max(POSTED_BYTES, data_bytes)  # at its largest
        self._lock = threading.Lock()
        # Under the lock:
        self._rows: list[Row] = [row]
        self.count = 1
        self._room_bytes = POSTED_BYTES - data_bytes
        self._is_taken = False

    def add(self, row: Row, data_bytes: int) -> bool:
        """Adds an event; returns False where it is too late or too much."""
        with self._lock:
            self._room_bytes -= data_bytes + ROW_BYTES
            if self._is_taken or self._room_bytes < 0:
                self._is_taken = True
                return False
            self._rows.append(row)
            self.count += 1
            return True

    def seal(self) -> None:
        """Takes no more events; called on the writer's thread."""
        with self._lock:
            self._is_taken = True

    def run(self, connection: sqlite3.Connection) -> int:
        """Inserts the rows; called on the writer's thread."""
        return insert(connection, INSERT, self._rows)


class EventHistory:
    """Owns the event table of one daemon; belongs to the loop's thread."""

    def __init__(self, store: Store, in_force: InForce, *, first_seq: int, was_clean: bool, removed_to: int) -> None:
        self.first_seq = first_seq
        """The first number that this daemon may give."""
        self.was_clean = was_clean
        """Whether the daemon before ended in order, or there was none."""
        self.removed_to = removed_to
        """The newest event that was ever removed."""
        self._store = store
        self._in_force = in_force
        self._recent: deque[Event] = deque()
        self._recent_bytes = 0
        self._forgotten_to = 0
        self._posted: _Rows | None = None  # posted last, and open for more
        self._all_bytes = 0
        self._agents_bytes = 0
        self._limit_bytes: int | None = None  # None until all is counted
        self._recheck = asyncio.Event()
        in_force.subscribe(lambda _: self._recheck.set())
        self._counted = asyncio.Event()
        self._removing = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, in_force: InForce) -> "EventHistory":
        """Finds out where the daemon before left off, and reserves the next numbers."""
        rows = await store.read(
            "SELECT key, value FROM meta WHERE key IN ('ended_at_seq', 'events_reserved', 'events_removed')"
        )
        meta = {str(key): int(str(value)) for key, value in rows}
        newest = await store.read("SELECT COALESCE(MAX(seq), 0) FROM event")
        last = int(str(newest[0][0]))
        was_clean = "ended_at_seq" in meta or (not last and "events_reserved" not in meta)
        # After a kill, numbers may have been shown up to the reserved one, and are not given again.
        shown = meta.get("ended_at_seq") if was_clean else meta.get("events_reserved", last + RESERVE)
        first = max(last, shown or 0) + 1
        await store.write(("DELETE FROM meta WHERE key = 'ended_at_seq'", ()), _reservation(first + RESERVE))
        return cls(store, in_force, first_seq=first, was_clean=was_clean, removed_to=meta.get("events_removed", 0))

    def reserve(self, up_to: int) -> None:
        """Notes that numbers up to this one may be given: the next daemon begins after them."""
        self._store.post(_reservation(up_to))

    async def end(self, last: int) -> None:
        """Notes the last number of a daemon that ends in order; all that was posted is on disk after it."""
        await self._store.write(("INSERT OR REPLACE INTO meta (key, value) VALUES ('ended_at_seq', ?)", (last,)))

    # -- keeping

    def keep(self, event: Event) -> None:
        """Posts an event to the store: on disk within 100 ms."""
        fields = event.fields
        if event.incarnation is not None:
            fields = {**fields, "incarnation": event.incarnation}
        data = codec.encode(fields)
        row = (event.seq, event.at, event.type, event.agent, event.worker, data)
        if self._posted is None or not self._posted.add(row, len(data)):
            rows = _Rows(row, len(data))
            self._posted = rows if self._store.post(rows) else None
        self._remember(event)
        names = len(event.type) + len(event.agent or "") + len(event.worker or "")
        self._account(len(data) + names + ROW_BYTES, is_agents=not is_reserved(event.type))

    def _remember(self, event: Event) -> None:
        self._recent.append(event)
        self._recent_bytes += event.size_bytes
        while len(self._recent) > RECENT_EVENTS or self._recent_bytes > RECENT_BYTES:
            forgotten = self._recent.popleft()
            self._recent_bytes -= forgotten.size_bytes
            self._forgotten_to = forgotten.seq

    def _account(self, size_bytes: int, *, is_agents: bool) -> None:
        self._all_bytes += size_bytes
        if is_agents:
            self._agents_bytes += size_bytes
        if self._limit_bytes is not None and self._is_over(1.0):
            self._recheck.set()

    def _is_over(self, share: float) -> bool:
        """Returns whether more is stored than this share of the limit."""
        limit = self._limit_bytes
        if limit is None:
            return False
        is_agents_over = self._agents_bytes > limit * AGENTS_SHARE * share
        return is_agents_over or self._all_bytes > limit * share

    # -- reading

    async def page(self, position: int, until: int, wanted: EventFilter, rows: int = SCAN_ROWS) -> Page:
        """Returns the next events on disk after `position`, up to number `until`: at most so many, and PAGE_BYTES."""
        looked_at = min(rows + 1, SCAN_ROWS) if wanted.is_all else SCAN_ROWS
        task = b"" if wanted.task is None else codec.encode(wanted.task)
        scanned = await self._store.read(
            "SELECT seq, type, agent, worker, at, length(data), ? = x'' OR instr(data, ?)"
            " FROM event WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (task, task, position, until, looked_at),
        )
        page = Page(position, is_last=len(scanned) < looked_at)
        chosen: list[int] = []
        size_bytes = 0
        for seq, event_type, agent, worker, at, length, has_task in scanned:
            assert isinstance(seq, int), "the table's key"
            assert isinstance(length, int), "the sink stores JSON"
            if has_task and wanted.wants(event_type, agent, worker, at):
                size_bytes += length
                if chosen and (size_bytes > PAGE_BYTES or len(chosen) >= rows):
                    page.is_last = False
                    break
                chosen.append(seq)
            page.scanned_to = seq
        # The wanted ones among the first rows are most often all of them.
        is_range = bool(chosen) and scanned[len(chosen) - 1][0] == chosen[-1]
        for row in await (self._range(chosen) if is_range else self._rows(chosen)):
            record, length = _record(row)
            if wanted.task is None or record.get("task") == wanted.task:
                page.add(record, length)
        return page

    async def _range(self, seqs: Sequence[int]) -> Sequence[Row]:
        return await self._store.read(
            "SELECT seq, at, type, agent, worker, data FROM event WHERE seq BETWEEN ? AND ? ORDER BY seq",
            (seqs[0], seqs[-1]),
        )

    async def _rows(self, seqs: Sequence[int]) -> Sequence[Row]:
        if not seqs:
            return ()
        marks = ", ".join("?" * len(seqs))
        return await self._store.read(
            f"SELECT seq, at, type, agent, worker, data FROM event WHERE seq IN ({marks}) ORDER BY seq", seqs
        )

    async def history(
        self, position: int, until: int, wanted: EventFilter, *, reports_expired: bool = True, rows: int = SCAN_ROWS
    ) -> AsyncGenerator[Page, None]:
        """Yields all wanted events that were to be stored with a number in (`position`, `until`], in pages.

        Those that are on disk come at most `rows` in one page, for a caller that takes no more. `until` is a number
        that has been given. Where events in between were removed, an `events.expired` comes before the rest.
        """
        reported_to = position if reports_expired else self.removed_to
        is_written = False
        while True:
            page = await self.page(position, until, wanted, rows)
            removed_to = min(self.removed_to, until)
            if removed_to > max(position, reported_to):
                yield Page(position, [_expired(position, removed_to + 1)], is_notice=True)
                reported_to = removed_to
            position = page.scanned_to
            if page.records:
                yield page
            if not page.is_last:
                continue
            if is_written or position >= until or self._forgotten_to <= position:
                break
            # More is on its way to the disk than is remembered: all of it is there after this.
            await self._store.write()
            is_written = True
        rest = Page(until)
        for event in [e for e in self._recent if position < e.seq <= until and wanted.takes(e)]:
            if rest.size_bytes + event.size_bytes > PAGE_BYTES and rest.records:
                yield rest
                rest = Page(until)
            rest.add(event.record(), event.size_bytes)
        if rest.records:
            yield rest

    async def begin(self, wanted: EventFilter, *, newest: int, since: int | None, n: int | None, until: int) -> int:
        """Returns the position from which a reader begins: before the last `n`, after `since`, not too old."""
        if since is not None and since > newest:
            raise Conflict(
                f"cannot go on after event {since}: the newest is {newest}",
                since=since,
                newest=newest,
                reason="no such event yet",
            )
        floor = since or 0
        if n == 0:
            return until
        # With a number there is no need to look for the time: a list that goes on would do it each time.
        if n is None and (wanted.since_at is None or since is not None):
            return floor
        with suppress(Overloaded):  # then the events on disk have to do
            await self._store.write()
        left = n
        top = until
        while True:
            task = b"" if wanted.task is None else codec.encode(wanted.task)
            rows = await self._store.read(
                "SELECT seq, type, agent, worker, at, ? = x'' OR instr(data, ?) FROM event"
                " WHERE seq > ? AND seq <= ? ORDER BY seq DESC LIMIT ?",
                (task, task, floor, top, SCAN_ROWS),
            )
            young = False
            for seq, event_type, agent, worker, at, has_task in rows:
                assert isinstance(seq, int), "the table's key"
                top = seq - 1
                young = young or wanted.since_at is None or str(at) >= wanted.since_at
                if left is not None and has_task and wanted.wants(event_type, agent, worker, at):
                    left -= 1
                    if left == 0:
                        return top
            if len(rows) < SCAN_ROWS or not young:
                return max(top, floor) if len(rows) == SCAN_ROWS else floor

    # -- removing

    async def run(self) -> None:
        """Keeps the table below `max_bytes` until it is cancelled."""
        try:
            await self._count()
        except CorralError as error:
            logger.warning("cannot count the events that are stored: %s", error)
        self._counted.set()
        while True:
            self._recheck.clear()
            self._limit_bytes = self._in_force.config.events.max_bytes
            try:
                if self._is_over(1.0):
                    await self._shrink(self._limit_bytes)
            except CorralError as error:
                logger.warning("cannot remove events for events.max_bytes: %s", error)
                await asyncio.sleep(RETRY_S)
                self._recheck.set()
            await self._recheck.wait()

    async def _count(self) -> None:
        """Adds up the events of earlier daemons; new ones are added as they are stored."""
        position = 0
        while True:
            rows = await self._store.read(
                f"SELECT max(seq), sum(cost), sum(cost) FILTER (WHERE {_IS_AGENTS}), count(*) FROM ("
                f"SELECT seq, type, {_COST} AS cost FROM event WHERE seq > ? AND seq < ?"
                " ORDER BY seq LIMIT ?)",
                (position, self.first_seq, COUNTED_ROWS),
            )
            last, all_bytes, agents_bytes, count = (int(str(value or 0)) for value in rows[0])
            self._all_bytes += all_bytes
            self._agents_bytes += agents_bytes
            if count < COUNTED_ROWS:
                return
            position = last

    async def _shrink(self, limit: int) -> None:
        """Removes the oldest down to KEPT_SHARE; of the daemon's none while agents have more than their share."""
        share = limit * AGENTS_SHARE
        while self._is_over(1.0):
            if self._agents_bytes > share:
                await self._remove(lambda: self._agents_bytes > share * KEPT_SHARE, only_agents=True)
            else:
                await self._remove(lambda: self._all_bytes > limit * KEPT_SHARE and self._agents_bytes <= share)

    async def expire(self, before_s: float) -> None:
        """Removes events older than a time of the Unix epoch, while `run` is active."""
        await self._counted.wait()  # rows must not go while they are counted
        await self._remove(lambda: True, before_at=rfc3339(max(before_s, 0.0)))

    async def _remove(
        self, more: Callable[[], bool], *, only_agents: bool = False, before_at: str | None = None
    ) -> None:
        async with self._removing:
            await self._remove_slices(more, only_agents=only_agents, before_at=before_at)

    async def _remove_slices(self, more: Callable[[], bool], *, only_agents: bool, before_at: str | None) -> None:
        position = 0
        is_written = False
        while more():
            rows = await self._store.read(
                f"SELECT seq, type, at, {_COST} FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (position, SCAN_ROWS)
            )
            chosen: list[int] = []
            size_bytes = agents_bytes = 0
            for seq, event_type, at, cost in rows:
                assert isinstance(seq, int), "the table's key"
                assert isinstance(cost, int), "a sum of lengths"
                position = seq
                is_agents = not is_reserved(str(event_type))
                if (only_agents and not is_agents) or (before_at and str(at) >= before_at):
                    continue
                chosen.append(seq)
                size_bytes += cost
                agents_bytes += cost if is_agents else 0
                self._all_bytes -= cost
                self._agents_bytes -= cost if is_agents else 0
                if len(chosen) >= REMOVED_ROWS or size_bytes >= REMOVED_BYTES or not more():
                    break
            if before_at and not chosen:
                return
            if not rows and is_written:
                self._forget_sizes(only_agents=only_agents)
                return
            if not rows:
                await self._store.write()  # rows that are counted and not on disk yet are there after this
                is_written = True
            if chosen:
                # Before it is so: a reader must neither miss them unreported nor find them in memory later.
                self.removed_to = max(self.removed_to, chosen[-1])
                gone = set(chosen)
                self._recent = deque(event for event in self._recent if event.seq not in gone)
                self._recent_bytes = sum(event.size_bytes for event in self._recent)
                try:
                    await self._store.write(*self._removal(chosen))
                except CorralError:
                    self._all_bytes += size_bytes
                    self._agents_bytes += agents_bytes
                    raise

    def _forget_sizes(self, *, only_agents: bool) -> None:
        """Resets the sizes: none is left, though some are counted, since the store could not keep posted events."""
        self._all_bytes -= self._agents_bytes if only_agents else self._all_bytes
        self._agents_bytes = 0

    def _removal(self, seqs: Sequence[int]) -> tuple[Statement, ...]:
        marks = ", ".join("?" * len(seqs))
        return (
            (f"DELETE FROM event WHERE seq IN ({marks})", seqs),
            ("INSERT OR REPLACE INTO meta (key, value) VALUES ('events_removed', ?)", (self.removed_to,)),
        )


def _reservation(up_to: int) -> Statement:
    return ("INSERT OR REPLACE INTO meta (key, value) VALUES ('events_reserved', ?)", (up_to,))


def _record(row: Row) -> tuple[dict[str, object], int]:
    """Returns the record as it was when it was shown, and its size."""
    seq, at, event_type, agent, worker, data = row
    assert isinstance(data, bytes), "the sink stores JSON"
    fields = codec.as_object(codec.decode(data)) or {}
    return {
        **fields,
        "seq": seq,
        "at": at,
        "type": event_type,
        "agent": agent,
        "worker": worker,
        "incarnation": fields.pop("incarnation", None),
    }, len(data)


def _expired(after: int, first: int) -> dict[str, object]:
    empty: dict[str, object] = {"at": None, "agent": None, "worker": None, "incarnation": None}
    return {"seq": after, "type": EXPIRED, **empty, "after": after, "first": first}
