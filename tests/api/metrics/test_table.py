"""The history in a real store, and a collector whose clock is an argument: rows, ranges, pruning and a restart against a count by hand."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from corral.supervisor.api.metrics.step import DAEMON, PERIOD_MS, RollUp, Row, Step, Tier, total
from corral.supervisor.api.metrics.table import MetricTable, storage_bytes
from corral.supervisor.records.store.store import Store

pytestmark = pytest.mark.shell

STEP_MS, MINUTE_MS, HOUR_MS = 5_000, PERIOD_MS[Tier.MINUTE], PERIOD_MS[Tier.HOUR]
BEGIN_MS = 500_000 * HOUR_MS
ALWAYS = 1 << 60
NAMES = ("ann", "bob", "cat")


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[MetricTable]:
    store = Store.open(folder / "corral.db")
    try:
        yield MetricTable(store)
    finally:
        await store.close()


def steps_of(number: int, chance: random.Random) -> dict[str, Step]:
    """The steps of one moment: of the daemon always, of others now and then."""
    found = {DAEMON: Step(span_ms=STEP_MS, begins=number == 0, ok=number)}
    for name in NAMES:
        if chance.random() < 0.4:
            found[name] = Step(span_ms=STEP_MS, ok=number, up=1)
    return found


async def kept(table: MetricTable, count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Writes the rows of so many steps; returns the raw ones and those that were rolled up."""
    chance, roll_up = random.Random(seed), RollUp()
    raw: list[Row] = []
    rolled: list[Row] = []
    for number in range(count):
        at_ms, steps = BEGIN_MS + number * STEP_MS, steps_of(number, chance)
        own = [Row(Tier.RAW, at_ms, *each) for each in steps.items()]
        complete = roll_up.feed(at_ms, steps)
        raw += own
        rolled += complete
    await table.write([*raw, *rolled])
    return raw, rolled


def test_rows_of_a_subject_and_of_all_are_those_that_were_written(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    async def test() -> None:
        async with opened(tmp_path) as table:
            raw, rolled = await kept(table, 150, seed)
            for since, until in ((0, 150), (10, 20), (7, 8), (149, 150), (150, 200), (20, 20)):
                since_ms, until_ms = BEGIN_MS + since * STEP_MS, BEGIN_MS + until * STEP_MS
                inside = [row for row in raw if since_ms <= row.at_ms < until_ms]
                for at_once in (1_000, 3):
                    found = await table.of_all(Tier.RAW, since_ms, until_ms, at_once=at_once)
                    assert found == sorted(inside, key=lambda row: row[:3])
                for name in (DAEMON, *NAMES, "nobody"):
                    own = [(row.at_ms, row.step) for row in inside if row.subject == name]
                    assert await table.of_subject(Tier.RAW, name, since_ms, until_ms, 999) == own
            own = [(row.at_ms, row.step) for row in rolled if row.subject == "ann"]
            assert await table.of_subject(Tier.MINUTE, "ann", 0, ALWAYS, 999) == own
            assert len(await table.of_subject(Tier.RAW, DAEMON, 0, ALWAYS, 7)) == 7

    asyncio.run(test())


def test_the_last_row_before_a_range_is_found_unless_another_daemon_began_since(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as table:
            daemon = [Row(Tier.RAW, n * STEP_MS, DAEMON, Step(begins=n == 6)) for n in range(1, 10)]
            ann = [Row(Tier.RAW, n * STEP_MS, "ann", Step(up=n)) for n in (2, 4, 8)]
            await table.write([*daemon, *ann])

            async def last(before: int, looks: int = 100) -> int | None:
                found = await table.last_before(Tier.RAW, "ann", before * STEP_MS, looks)
                return None if found is None else found.up

            assert [await last(n) for n in range(1, 11)] == [*(None, None, 2, 2, 4, 4, None, None, 8, 8)]
            assert await last(6, looks=1) is None, "it looks no further"

    asyncio.run(test())


def test_a_new_daemon_takes_up_the_minute_and_the_hour_that_were_not_over(tmp_path: Path) -> None:
    count = 800  # an hour and 6 minutes and 40 seconds

    async def test() -> None:
        async with opened(tmp_path) as table:
            raw, rolled = await kept(table, count, 7)
        async with opened(tmp_path) as table:
            roll_up = RollUp()
            assert roll_up.seed(*await table.unfinished()) == []
            begin_ms, partial = roll_up.partial(Tier.HOUR)
            assert begin_ms == BEGIN_MS + HOUR_MS
            for name in (DAEMON, *NAMES):
                own = [row.step for row in raw if row.subject == name and row.at_ms >= begin_ms]
                assert partial[name] == total(own)
            later_ms = BEGIN_MS + 5 * HOUR_MS
            rows = roll_up.feed(later_ms, {DAEMON: Step(span_ms=STEP_MS)})
            hours = [row for row in [*rolled, *rows] if row.tier is Tier.HOUR]
            assert sum(row.step.ok for row in hours if row.subject == DAEMON) == sum(range(count))

    asyncio.run(test())


def test_what_is_too_old_is_removed_from_each_tier_by_its_own_time(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as table:
            raw, rolled = await kept(table, 1_500, 3)  # two hours
            bound = {Tier.RAW: BEGIN_MS + 1_400 * STEP_MS, Tier.MINUTE: BEGIN_MS + 30 * MINUTE_MS, Tier.HOUR: BEGIN_MS}
            before = [*raw, *rolled]
            left = [row for row in before if row.at_ms >= bound[row.tier]]
            assert await table.expire(bound) == len(before) - len(left)
            for tier in Tier:
                own = [row for row in left if row.tier is tier]
                assert await table.of_all(tier, 0, ALWAYS) == sorted(own, key=lambda row: row[:3])
            assert await table.expire(bound) == 0
            assert await table.expire(dict.fromkeys(Tier, ALWAYS)) == len(left)
            assert await table.newest_ms(Tier.RAW) is None

    asyncio.run(test())


def test_more_rows_than_are_kept_go_before_their_time(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as table:
            raw, _ = await kept(table, 200, 5)
            removed = await table.expire({Tier.RAW: 0}, rows_max=100, at_once=30)
            found = await table.of_all(Tier.RAW, 0, ALWAYS)
            assert len(found) <= 100
            assert removed + len(found) == len(raw)
            assert found == sorted(raw, key=lambda row: row[:3])[removed:]

    asyncio.run(test())


def test_a_damaged_row_is_passed_over(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store.open(tmp_path / "corral.db")
        table = MetricTable(store)
        await table.write([Row(Tier.RAW, n, DAEMON, Step(ok=n)) for n in (1, 2, 3)])
        await store.write(("UPDATE metric SET value = x'c1' WHERE at = 2", ()))
        found = await table.of_subject(Tier.RAW, DAEMON, 0, 9, 9)
        assert [at for at, _ in found] == [1, 3]
        assert [row.at_ms for row in await table.of_all(Tier.RAW, 0, 9)] == [1, 3]
        await store.close()

    asyncio.run(test())


def test_storage_is_what_the_parts_of_the_state_folder_take_on_disk(tmp_path: Path) -> None:
    for name, size in (("corral.db", 9_000), ("logs/a/b.log", 5_000), ("packages/p", 100)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "logs" / "link").symlink_to("/")
    found = storage_bytes(tmp_path)
    assert found["store"] == (tmp_path / "corral.db").stat().st_blocks * 512
    assert found["logs"] >= 5_000
    assert found["logs"] < 1 << 20, "a link is not followed"
    assert (found["memory"], found["packages"] > 0) == (0, True)
