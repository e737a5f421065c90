"""Rows that are written together, each with its own end."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from corral.supervisor.records.store.batch import BATCH_BYTES, BATCH_ROWS, Batches
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import Conflict

pytestmark = pytest.mark.shell

SAVE = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
BOUND_S = 60.0


def with_store(path: Path, act: Callable[[Store, Batches], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store.open(path)
        try:
            async with asyncio.timeout(BOUND_S):
                await act(store, Batches(store))
        finally:
            await store.close()

    asyncio.run(run())


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 63, 64, 65, 500, BATCH_ROWS + 3])
def test_all_rows_that_come_at_once_are_written(tmp_path: Path, count: int) -> None:
    async def act(_store: Store, batches: Batches) -> None:
        await asyncio.gather(*(batches.write(SAVE, (f"k{n}", n)) for n in range(count)))

    with_store(tmp_path / "db", act)
    rows = read(tmp_path / "db", "SELECT value FROM meta WHERE key LIKE 'k%' ORDER BY value")
    assert [value for (value,) in rows] == list(range(count))


def test_the_last_of_many_writes_to_one_row_is_kept(tmp_path: Path) -> None:
    async def act(store: Store, batches: Batches) -> None:
        writes = [batches.write(SAVE, ("k", n)) for n in range(100)]
        batches.end_batch()
        writes.append(store.begin((SAVE, ("other", "between"))))
        writes += [batches.write(SAVE, ("other", n)) for n in range(3)]
        await asyncio.gather(*writes)

    with_store(tmp_path / "db", act)
    assert read(tmp_path / "db", "SELECT value FROM meta WHERE key = 'k'") == [(99,)]
    assert read(tmp_path / "db", "SELECT value FROM meta WHERE key = 'other'") == [(2,)]


def test_a_row_in_a_hurry_takes_along_those_that_may_wait(tmp_path: Path) -> None:
    async def act(store: Store, batches: Batches) -> None:
        for n in range(3):
            patient = [batches.write(SAVE, (f"patient {n}", m), 10 * BOUND_S) for m in range(3)]
            await store.read("SELECT 1")
            assert not any(each.done() for each in patient)
            await batches.write(SAVE, (f"urgent {n}", 1))
            await asyncio.gather(*patient)

    with_store(tmp_path / "db", act)


def test_a_row_that_is_refused_takes_no_other_with_it(tmp_path: Path) -> None:
    sql = "INSERT INTO meta (key, value) VALUES (?, ?)"

    async def act(_store: Store, batches: Batches) -> None:
        keys = [*map(str, range(50)), "generation", *map(str, range(50, 100))]
        ends = await asyncio.gather(*(batches.write(sql, (key, 1)) for key in keys), return_exceptions=True)
        failed = [key for key, end in zip(keys, ends, strict=True) if isinstance(end, Exception)]
        assert failed == ["generation"]
        assert isinstance(ends[50], Conflict)

    with_store(tmp_path / "db", act)
    assert read(tmp_path / "db", "SELECT count(*) FROM meta WHERE value = 1 AND key < 'a'") == [(100,)]


def test_rows_that_are_longer_than_a_sheet_are_written_too(tmp_path: Path) -> None:
    async def act(_store: Store, batches: Batches) -> None:
        long = b"x" * (BATCH_BYTES + 1)
        rows: list[tuple[object, ...]] = [("short", b""), ("k1", long), ("k2", long), ("last", b"")]
        await asyncio.gather(*(batches.write(SAVE, row) for row in rows))

    with_store(tmp_path / "db", act)
    assert read(tmp_path / "db", "SELECT length(value) FROM meta WHERE key IN ('k1', 'k2')") == [(BATCH_BYTES + 1,)] * 2
    assert read(tmp_path / "db", "SELECT count(*) FROM meta WHERE key IN ('short', 'last')") == [(2,)]
