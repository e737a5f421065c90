"""Records each action with its actor, time and result, in a hash chain in the store that only grows at its end.

The hash of a record stands for it and for all before it: SHA-256 of the hash before, its number (8 bytes,
big-endian) and its bytes. It is calculated by the store's writer inside the transaction that
appends the record, so that the chain has the order of the commits, and a commit that fails leaves no hole.
Only the oldest records are pruned, behind an *anchor* (the number and hash of the last pruned one), and a
record in the chain names them.

A record that the store does not take waits here, in bounded memory; beyond that records are counted, and one
record `audit.gap` stands in their place. The content of a record is its writer's business.
"""

import asyncio
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
    ShuttingDown,
)

from ..store.store import Statement, Store
from .hash_chain import (
    CHAIN,
    COLUMNS,
    MAX_RECORD_BYTES,
    ROW_BYTES,
    SLICE,
    AppendRecords,
    Chain,
    ChainVerifier,
    Position,
    Record,
    cells,
    decode,
    encode,
    integer,
    to_bytes,
)

SOON_S = 0.04
"""Seconds for which a record may wait for others, to be stored with them, where no caller waits for it."""

KEEP_S = 2.0
"""Seconds for which a change waits for its record before it is answered all the same."""

RETRY_S = 0.5
"""Seconds until records that the store has refused are offered again."""

BATCH_RECORDS = 500
"""Number of records that are stored as one group."""

WAITING_LIMIT = 10_000
"""Number of records that wait for a store that takes none; later ones are only counted."""

WAITING_LIMIT_BYTES = 8 * 1024 * 1024
"""Bytes of the records that wait."""

REPEAT_S = 60.0
"""Seconds within which equal refusals to one caller are one record, and one with their number."""

KINDS_PER_CALLER = 20
"""Number of kinds of refusals that are told apart within that time, of one caller."""

CALLERS_LIMIT = 200
"""Number of callers that are told apart; all others are counted together."""

REFUSALS_KEPT = 100
"""Number of records that refusals of one caller may take before they are only counted; one more after each REPEAT_S."""

SLICE_ROWS = 250
"""Number of rows that are read in one go: the loop and the reader's thread do other work in between."""

LOOKED_ROWS = 20_000
"""Number of rows that one page looks at: a filter that few records match must not exceed a client's timeout."""

PRUNE_ROWS = 1_000
"""Number of records that are pruned in one transaction, for which other writes wait."""

LEAST_BYTES = 64 * 1024
"""Bytes of the least limit: below it the records of pruning would cause more pruning."""

FILL_LEVEL = 0.9
"""Fraction of the limit that is left after pruning."""

ANSWER_BYTES = 4 * 1024 * 1024
"""Bytes of the records on one page."""


REFUSALS = (Conflict, InvalidParams, NotFound, Overloaded, PermissionDenied, ResourceLimitExceeded, ShuttingDown)
"""Errors that cost a caller nothing to cause: of many alike, the audit keeps the number."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    record: bytes
    since_s: float
    is_stored: asyncio.Future[bool] | None = None


@dataclass(slots=True)
class _Gap:
    """Counts records that found no room here while the store took none."""

    since_s: float
    first_at: str
    last_at: str
    count: int = 1

    @property
    def record(self) -> bytes:
        """Returns the record that stands in their place."""
        return encode(daemon_record("audit.gap", count=self.count, first_at=self.first_at, last_at=self.last_at))


@dataclass(slots=True)
class _Repeats:
    """Counts the refusals of one caller since the window began, by kind: those beyond the first, and the last of them."""

    kinds: dict[str, tuple[int, Record]] = field(default_factory=dict[str, tuple[int, Record]])
    more: int = 0
    left: int = field(default_factory=lambda: REFUSALS_KEPT)


def now() -> str:
    """Returns the wall-clock time, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refusal_key(who: Mapping[str, object]) -> str:
    """Returns the key by which refusals are limited: an agent with all its workers, a token, an HTTP client's name, or a user."""
    if "agent" in who:  # null where it has left its tree: it is not to be taken for its user
        return "inside" if who["agent"] is None else str(who["agent"])
    key = f"over {who['http']}" if "http" in who else str(who.get("uid"))
    return f"{key} as {who['token']}" if "token" in who else key


def daemon_record(action: str, **facts: object) -> Record:
    """Returns a record of an action of the daemon itself."""
    who = {"uid": os.getuid(), "pid": os.getpid(), "daemon": True}
    return {"at": now(), "action": action, "who": who, "result": "ok", **facts}


class Audit:
    """Writes, reads and verifies the audit of one daemon. It follows the configuration in force.

    All methods belong to the loop's thread. `open` begins and `close` ends the writing task.
    """

    def __init__(self, store: Store, in_force: InForce, size_bytes: int) -> None:
        self._store = store
        self._in_force = in_force
        self._size_bytes = size_bytes
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting | _Gap] = deque()
        self._waiting_bytes = 0
        self._storing: list[_Waiting | _Gap] = []
        self._not_empty = asyncio.Event()
        self._urgent = asyncio.Event()
        self._stored = asyncio.Event()
        self._queued_count = 0
        self._stored_count = 0
        self._closing = False
        self._refusals: dict[str, _Repeats] = {}
        self._window: asyncio.TimerHandle | None = None
        self._pruning_lock = asyncio.Lock()  # nothing is pruned during a verification
        self._pruning: asyncio.Task[None] | None = None
        self._writing = self._loop.create_task(self._write())

    @classmethod
    async def open(cls, store: Store, in_force: InForce) -> "Audit":
        """Opens the audit in a store."""
        found = await store.read(CHAIN)
        return cls(store, in_force, integer(found[0][4]) if found else 0)

    async def close(self) -> None:
        """Stores the waiting records, as far as the store takes them within KEEP_S; the rest goes to the daemon's log."""
        self._closing = True
        self.record_repeats()
        self._not_empty.set()
        self._urgent.set()
        await asyncio.wait([self._writing], timeout=KEEP_S)
        for task in (self._writing, self._pruning):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for lost in [*self._storing, *self._waiting]:
            _log(lost.record)

    # -- writing

    @property
    def is_behind(self) -> bool:
        """Returns whether a record waits for longer than a change does: the store takes none."""
        oldest = next(iter(self._storing), None) or next(iter(self._waiting), None)
        return oldest is not None and self._loop.time() - oldest.since_s > KEEP_S

    def add(self, record: Record) -> None:
        """Stores a record within 100 ms, if the store takes it."""
        self._enqueue(record)

    async def keep(self, record: Record) -> bool:
        """Stores a record, which is durable when this returns True.

        False where the store does not take it now, after KEEP_S at most: it is in the daemon's log then, and
        is stored as soon as that goes.
        """
        entry = self._enqueue(record)
        if entry is not None:
            entry.is_stored = self._loop.create_future()
            self._urgent.set()
            done, _ = await asyncio.wait([entry.is_stored], timeout=KEEP_S)
            if done and entry.is_stored.result():
                return True
        _log(_encoded(record))
        return False

    async def require(self, what: str) -> None:
        """Refuses an action that needs a record while none can be stored; `what` names the action in the error."""
        if self.is_behind and not await self.settle():
            raise Overloaded(f"cannot {what}: no audit record of it can be stored", reason="audit", retry_after_s=1.0)

    async def settle(self) -> bool:
        """Waits until all records added so far are stored, KEEP_S at most; returns whether they are."""
        end = self._queued_count
        try:
            async with asyncio.timeout(KEEP_S):
                while self._stored_count < end:
                    self._urgent.set()
                    self._stored.clear()
                    await self._stored.wait()
        except TimeoutError:
            return False
        return True

    def refuse(self, record: Record, caller: str) -> bool:
        """Adds the record of a refusal; one of many alike is only counted. Returns whether it was the first.

        A caller that asks in a loop neither pushes older records out of the audit nor keeps the store busy.
        """
        if self._window is None:
            self._window = self._loop.call_later(REPEAT_S, self.record_repeats)
        if caller not in self._refusals and len(self._refusals) >= CALLERS_LIMIT:
            caller = ""
        repeats = self._refusals.setdefault(caller, _Repeats())
        names = record.get("names") or record.get("tool")
        kind = f"{record['action']} {names} {record['result']}"
        if kind in repeats.kinds:
            count, _ = repeats.kinds[kind]
            repeats.kinds[kind] = (count + 1, record)
        elif len(repeats.kinds) < KINDS_PER_CALLER and repeats.left and caller:
            repeats.kinds[kind] = (0, record)
            repeats.left -= 1
            return True
        else:
            repeats.more += 1
        return False

    def record_repeats(self) -> None:
        """Ends the window in which refusals alike are one: adds their numbers."""
        if self._window is not None:
            self._window.cancel()
            self._window = None
        ended, self._refusals = self._refusals, {}
        for caller, repeats in ended.items():
            for count, record in repeats.kinds.values():
                if count and repeats.left:
                    repeats.left -= 1
                    self._enqueue({**record, "repeated": count})
                else:
                    repeats.more += count
            if repeats.more:
                self._enqueue(daemon_record("audit.refusals", caller=caller, repeated=repeats.more))
            if repeats.left + 1 < REFUSALS_KEPT and not self._closing:
                self._refusals[caller] = _Repeats(left=repeats.left + 1)
        if self._refusals:
            self._window = self._loop.call_later(REPEAT_S, self.record_repeats)

    def _enqueue(self, record: Record) -> _Waiting | None:
        """Queues a record; returns None where it is only counted."""
        encoded = _encoded(record)
        at = str(record.get("at"))
        since_s = self._loop.time()
        is_full = len(self._waiting) >= WAITING_LIMIT or self._waiting_bytes + len(encoded) > WAITING_LIMIT_BYTES
        if self._writing.done():  # it is closed
            _log(encoded)
            return None
        self._not_empty.set()
        if is_full:
            last = self._waiting[-1] if self._waiting else None
            if isinstance(last, _Gap):
                last.count += 1
                last.last_at = at
            else:
                self._waiting.append(_Gap(since_s, at, at))
                self._queued_count += 1
            return None
        entry = _Waiting(encoded, since_s)
        self._waiting.append(entry)
        self._waiting_bytes += len(encoded)
        self._queued_count += 1
        return entry

    async def _write(self) -> None:
        """Hands the waiting records to the store, group by group, until the audit is closed."""
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._not_empty.clear()
                await self._not_empty.wait()
                continue
            await _wait(self._urgent, SOON_S)
            self._urgent.clear()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_RECORDS))]
            self._storing = batch
            is_stored = await self._store_batch(batch)
            if not is_stored:
                self._waiting.extendleft(reversed(batch))
            else:
                self._waiting_bytes -= sum(len(each.record) for each in batch if isinstance(each, _Waiting))
                self._stored_count += len(batch)
                self._stored.set()
                self._prune_if_full()
            self._storing = []
            for each in batch:
                if isinstance(each, _Waiting) and each.is_stored and not each.is_stored.done():
                    each.is_stored.set_result(is_stored)
            if len(self._waiting) > BATCH_RECORDS and is_stored:
                self._urgent.set()  # they have waited
            elif not is_stored:
                if self._closing:
                    return
                await _wait(self._urgent, RETRY_S)

    async def _store_batch(self, batch: list[_Waiting | _Gap]) -> bool:
        records = [each.record for each in batch]
        try:
            (appended,) = await self._store.write(AppendRecords(records))
        except (CorralError, sqlite3.Error) as error:
            logger.warning("cannot store %d audit records: %s", len(batch), error)
            return False
        if appended != len(records):  # a chain without a state takes nothing
            logger.error("cannot store %d audit records: the chain has no head", len(batch))
            return False
        self._size_bytes += sum(len(record) + ROW_BYTES for record in records)
        return True

    # -- reading

    async def page(
        self, n: int, wanted: Callable[[Record], bool], *, after: int | None = None, before: int | None = None
    ) -> tuple[list[Record], int | None]:
        """Returns records in their order: those after a number, else the newest (before a number); and where to go on.

        That is the next `after`, or without it the next `before`, None at the end. Less than `n` where they would be
        more than ANSWER_BYTES, or where LOOKED_ROWS have not enough that are wanted.
        """
        await self.settle()
        forward = after is not None
        order = "id > ? ORDER BY id" if forward else "id < ? ORDER BY id DESC"
        edge = after if after is not None else 2**63 - 1 if before is None else before
        found: list[Record] = []
        room, looked = ANSWER_BYTES, 0

        def page(following: int | None) -> tuple[list[Record], int | None]:
            return (found if forward else found[::-1]), following

        while rows := await self._store.read(f"SELECT {COLUMNS} FROM audit WHERE {order} LIMIT ?", (edge, SLICE_ROWS)):
            for row in rows:
                number, record, hash_ = cells(row)
                shown = decode(record)
                if wanted(shown):
                    room -= len(record) + 200
                    if len(found) == n or (room < 0 and found):
                        return page(edge)
                    found.append({"id": number, **shown, "hash": hash_.hex()})
                edge = number
            looked += len(rows)
            if looked >= LOOKED_ROWS or (len(found) == n and not forward):
                return page(edge)
        return page(None)

    async def chain(self) -> Chain:
        """Reads where the chain begins and ends."""
        rows = await self._store.read(CHAIN)
        if not rows:
            raise Conflict("cannot read the audit: its chain has no head", reason="corrupt")
        anchor_id, anchor_hash, head_id, head_hash, size_bytes = rows[0]
        return Chain(
            Position(integer(anchor_id), to_bytes(anchor_hash)),
            Position(integer(head_id), to_bytes(head_hash)),
            integer(size_bytes),
        )

    async def verify(self, expected: Position | None = None) -> Record:
        """Verifies the whole chain; returns its extent, and the first number at which it is wrong, if any.

        `{"ok", "records", "first", "last", "anchor", "head", "wrong"}`; `wrong` is None or `{"id", "what"}`. With
        `expected`, a position that was noted earlier, the chain has to contain that.
        """
        await self.settle()
        async with self._pruning_lock:
            chain = await self.chain()
            verifier = ChainVerifier(chain, expected)
            verifier.check_start(await self._first("SELECT MIN(id) FROM audit"))
            while verifier.wrong is None:
                rows = await self._store.read(SLICE, (verifier.at.number, chain.head.number, SLICE_ROWS))
                if not rows:
                    break
                verifier.take(rows)
            # After the walk, since records are appended meanwhile: those are in the chain by then.
            beyond = "SELECT MIN(id) FROM audit WHERE id > (SELECT head_id FROM audit_chain)"
            verifier.check_end(await self._first(beyond))
        return verifier.verdict()

    async def _first(self, sql: str) -> int | None:
        ((number,),) = await self._store.read(sql)
        return None if number is None else integer(number)

    # -- pruning

    def _prune_if_full(self) -> None:
        limit = max(self._in_force.config.audit.max_bytes, LEAST_BYTES)
        is_idle = self._pruning is None or self._pruning.done()
        if self._size_bytes > limit and is_idle and not self._closing:
            self._pruning = self._loop.create_task(self.prune())

    async def prune(self, now_s: float | None = None) -> None:
        """Removes the oldest records: those beyond the size limit, and those that are too old at `now_s`.

        Where the store refuses that now, they stay until the next time.
        """
        try:
            async with self._pruning_lock:
                while await self._prune(now_s):  # new records were too much again
                    now_s = None
        except (CorralError, sqlite3.Error) as error:
            if not isinstance(error, ShuttingDown):
                logger.warning("cannot prune the audit: %s", error)

    async def _prune(self, now_s: float | None) -> bool:
        """Runs one round; returns whether records were removed and there are still too many."""
        config = self._in_force.config.audit
        chain = await self.chain()
        end, position, size_bytes = chain.head.number, chain.anchor.number, chain.size_bytes
        limit = max(config.max_bytes, LEAST_BYTES)
        goal = limit * FILL_LEVEL if size_bytes > limit else size_bytes
        before = "" if now_s is None else stamp(now_s - config.retention)
        gain = 0
        while True:
            rows = await self._store.read(SLICE, (position, end, PRUNE_ROWS))
            freed = 0
            last: Position | None = None
            for row in rows:
                number, record, hash_ = cells(row)
                is_old = before and str(decode(record).get("at", "")) < before
                if not is_old and size_bytes - freed <= goal:
                    break
                freed += len(record) + ROW_BYTES
                last = Position(number, hash_)
            if last is None:
                break
            note = encode(daemon_record("audit.pruned", first=position + 1, last=last.number, hash=last.hash.hex()))
            await self._store.write(*_prune_statements(last, freed, note))
            size_bytes -= freed
            gain += freed - len(note) - ROW_BYTES
            position = last.number
        self._size_bytes = (await self.chain()).size_bytes
        # Each slice adds a record of its own: where no more than that was freed, it must not go on for ever.
        return self._size_bytes > limit and gain > 0


def _encoded(record: Record) -> bytes:
    """Encodes a record; of one that is too long, or that JSON cannot express, only its actor, action and result."""
    try:
        encoded = encode(record)
    except ValueError:
        encoded = b""
    if 0 < len(encoded) <= MAX_RECORD_BYTES:
        return encoded
    kept = ("at", "action", "who", "result", "duration_s", "code")
    return encode({**{key: record[key] for key in kept if key in record}, "cut": True})


def _log(record: bytes) -> None:
    logger.warning("cannot store an audit record now: %s", record.decode())


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _prune_statements(last: Position, freed_bytes: int, note: bytes) -> list[Statement]:
    return [
        (
            "UPDATE audit_chain SET anchor_id = ?, anchor_hash = ?, size_bytes = size_bytes - ?",
            (last.number, last.hash, freed_bytes),
        ),
        ("DELETE FROM audit WHERE id <= ?", (last.number,)),
        AppendRecords([note]),
    ]


def stamp(at_s: float) -> str:
    """Returns the beginning that is common to all times in records of that moment, in seconds of the Unix epoch."""
    return datetime.fromtimestamp(max(at_s, 0.0), UTC).isoformat(timespec="milliseconds")[:23]
