"""Keeps the rows of the history in the store: all rows of one step are one write, and reads are bounded.

The rows of a tier lie in the order of time, so that a write appends and a removal takes from the front. The rows of one
subject are found by going from time to time, which costs one look per step, whatever else the store has.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from corral.supervisor.records.store import store
from corral.supervisor.records.store.store import Row as StoredRow
from corral.supervisor.records.store.store import Store, insert, number_of

from .step import DAEMON, PERIOD_MS, Row, Step, Tier, decoded, encoded

PARTS: Mapping[str, tuple[str, ...]] = {
    "store": ("corral.db", "corral.db-wal", "corral.db-shm"),
    "logs": ("logs",),
    "memory": ("cortex",),
    "packages": ("packages", "installed", "environments"),
}
"""Part -> the files and folders of it. The sessions and keys of agents are in the store, and their size is added to `memory`."""

ENTRIES_MAX = 500_000
"""Number of entries of one part that are looked at; further ones are not counted."""


def storage_bytes(state_dir: Path) -> dict[str, int]:
    """Returns the bytes on disk of each part; blocks."""
    return {part: sum(_bytes_of(str(state_dir / name)) for name in names) for part, names in PARTS.items()}


def _bytes_of(path: str) -> int:
    found, left = 0, [path]
    looks = 0
    while left and looks < ENTRIES_MAX:
        each = left.pop()
        looks += 1
        try:
            with os.scandir(each) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    else:
                        looks += 1
                        found += _size_of(entry.stat(follow_symlinks=False))
        except NotADirectoryError:
            found += _size_of(os.lstat(each))
        except OSError:
            continue  # it was removed meanwhile
    return found


def _size_of(status: os.stat_result) -> int:
    return status.st_blocks * 512


ROW_BYTES = 96
"""Bytes that a row is estimated to take."""

RAW_ROWS_MAX = 2_000_000
"""Number of raw rows that are kept: the oldest go first, before their time, where very many agents are busy."""

EXPIRE_ROWS = 5_000
"""Number of rows, about, that one transaction removes; other writes come in between."""

READ_ROWS = 20_000
"""Number of rows of one read of all subjects; other reads come in between."""

_OF_SUBJECT = """
WITH RECURSIVE t(at) AS (
    SELECT min(at) FROM metric WHERE tier = :tier AND at >= :since
    UNION ALL
    SELECT (SELECT min(at) FROM metric WHERE tier = :tier AND at > t.at) FROM t WHERE t.at < :until
)
SELECT m.at, m.value FROM t JOIN metric m ON m.tier = :tier AND m.at = t.at AND m.subject = :subject
WHERE t.at < :until LIMIT :limit
"""

_LAST_BEFORE = """
WITH RECURSIVE t(at, left) AS (
    SELECT max(at), :looks FROM metric WHERE tier = :tier AND at < :since
    UNION ALL
    SELECT (SELECT max(at) FROM metric WHERE tier = :tier AND at < t.at), left - 1 FROM t
    WHERE t.at IS NOT NULL AND left > 1
)
SELECT m.at, m.subject, m.value FROM t JOIN metric m ON m.tier = :tier AND m.at = t.at
AND m.subject IN (:subject, :daemon)
"""


class _Insertion(store.Step):
    """Inserts the rows of one step with few statements; it is lost or kept as a whole."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.size_bytes = ROW_BYTES * len(rows)

    def run(self, connection: sqlite3.Connection) -> int:
        """Writes the rows, on the writer's thread, which encodes them too."""
        cells = [(int(row.tier), row.at_ms, row.subject, encoded(row.step)) for row in self._rows]
        # A clock that was set back comes by the same time again.
        return insert(connection, "INSERT OR REPLACE INTO metric (tier, at, subject, value) VALUES (?, ?, ?, ?)", cells)


class MetricTable:
    """Reads and writes the history in a store; belongs to the loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, rows: Sequence[Row]) -> None:
        """Writes rows as one group."""
        await self._store.write(_Insertion(rows))

    async def of_subject(
        self, tier: Tier, subject: str, since_ms: int, until_ms: int, limit: int
    ) -> list[tuple[int, Step]]:
        """Returns the rows of a subject from `since_ms` on and before `until_ms`, by time."""
        given = {"tier": int(tier), "since": since_ms, "until": until_ms}
        rows = await self._store.read(_OF_SUBJECT, {**given, "subject": subject, "limit": limit})
        found = [(number_of(at), decoded(value)) for at, value in rows]
        return [(at, step) for at, step in found if step is not None]

    async def last_before(self, tier: Tier, subject: str, since_ms: int, looks: int) -> Step | None:
        """Returns the last row of a subject within `looks` steps before a time, if the daemon that wrote it is the one of that time."""
        given = {"tier": int(tier), "since": since_ms, "looks": looks}
        rows = await self._store.read(_LAST_BEFORE, {**given, "subject": subject, "daemon": DAEMON})
        kept = [(number_of(at), name, decoded(value)) for at, name, value in rows]
        found = max((at for at, name, step in kept if name == subject and step), default=None)
        if found is None or any(
            at > found and name == DAEMON and step is not None and step.begins for at, name, step in kept
        ):
            return None
        return next(step for at, name, step in kept if at == found and name == subject)

    async def of_all(self, tier: Tier, since_ms: int, until_ms: int, *, at_once: int = READ_ROWS) -> list[Row]:
        """Returns the rows of all subjects from `since_ms` on and before `until_ms`, by time."""
        found: list[Row] = []
        place, name = since_ms, ""
        while True:
            rows = await self._store.read(
                "SELECT at, subject, value FROM metric WHERE tier = ? AND (at, subject) >= (?, ?)"
                " AND at < ? ORDER BY at, subject LIMIT ?",
                (int(tier), place, name, until_ms, at_once),
            )
            found += await asyncio.to_thread(_decoded_rows, tier, rows)
            if len(rows) < at_once:
                return found
            place, name = number_of(rows[-1][0]), f"{rows[-1][1]}\x00"

    async def newest_ms(self, tier: Tier) -> int | None:
        """Returns the time of the newest row of a tier; None without any."""
        rows = await self._store.read("SELECT max(at) FROM metric WHERE tier = ?", (int(tier),))
        return None if rows[0][0] is None else number_of(rows[0][0])

    async def unfinished(self) -> tuple[list[Row], list[Row]]:
        """Returns the rows of minutes that are in no hour yet, and the raw rows that are in no minute."""
        hour_ms = await self.newest_ms(Tier.HOUR)
        minute_ms = await self.newest_ms(Tier.MINUTE)
        last_ms = 1 << 62
        after_hour = 0 if hour_ms is None else hour_ms + PERIOD_MS[Tier.HOUR]
        after_minute = 0 if minute_ms is None else minute_ms + PERIOD_MS[Tier.MINUTE]
        minutes = await self.of_all(Tier.MINUTE, after_hour, last_ms)
        return minutes, await self.of_all(Tier.RAW, after_minute, last_ms)

    async def expire(
        self, before_ms: Mapping[Tier, int], *, rows_max: int = RAW_ROWS_MAX, at_once: int = EXPIRE_ROWS
    ) -> int:
        """Removes the rows of each tier before its time, and raw ones beyond `rows_max`; returns how many there were."""
        removed = 0
        for tier, bound_ms in before_ms.items():
            removed += await self._remove(tier, bound_ms, at_once)
        rows = await self._store.read("SELECT count(*) FROM metric WHERE tier = 0")
        over = number_of(rows[0][0]) - rows_max
        if over > 0:
            rows = await self._store.read(
                "SELECT at FROM metric WHERE tier = 0 ORDER BY at LIMIT 1 OFFSET ?", (over - 1,)
            )
            removed += await self._remove(Tier.RAW, number_of(rows[0][0]) + 1, at_once)
        return removed

    async def _remove(self, tier: Tier, before_ms: int, at_once: int) -> int:
        removed = 0
        while True:
            rows = await self._store.read(
                "SELECT at FROM metric WHERE tier = ? AND at < ? ORDER BY at LIMIT 1 OFFSET ?",
                (int(tier), before_ms, at_once),
            )
            until_ms = min(before_ms, number_of(rows[0][0]) + 1) if rows else before_ms
            gone = await self._store.write(("DELETE FROM metric WHERE tier = ? AND at < ?", (int(tier), until_ms)))
            removed += gone[0]
            if not rows:
                return removed
            await asyncio.sleep(0.02)


def _decoded_rows(tier: Tier, rows: Sequence[StoredRow]) -> list[Row]:
    """Returns rows as values; takes tens of milliseconds of a full read."""
    found = ((number_of(at), str(name), decoded(value)) for at, name, value in rows)
    return [Row(tier, at, name, step) for at, name, step in found if step is not None]


def by_subject(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns rows by subject, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.subject, []).append(row)
    return found
