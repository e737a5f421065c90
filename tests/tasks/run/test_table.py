"""The records of tasks over a real store: found, listed, damaged, expired."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import uvloop
from msgspec.structs import replace

from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run import table as room
from corral.supervisor.tasks.run.table import Records, Retention
from corral.worker.contract.errors import Conflict, Corrupted, InvalidParams
from corral.worker.contract.records import Boundaries, Task
from corral.worker.control.params import TaskListParams, TasksParams

pytestmark = pytest.mark.shell

BOUND_S = 60.0
DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corral.db"


def run(path: Path, test: Callable[[Records, Store], Awaitable[None]]) -> None:
    async def bounded() -> None:
        store = Store.open(path)
        try:
            async with asyncio.timeout(BOUND_S):
                await test(Records(store), store)
        finally:
            await store.close()

    uvloop.run(bounded())


def task(number: int, **changes: object) -> Task:
    made = Task(id=f"t{number:04}", agent="crew", objective=f"thing {number}", state="succeeded")
    return replace(made, **changes)


async def save_all(records: Records, *tasks: Task) -> None:
    for number, each in enumerate(tasks):
        await records.save(each, 1000.0 + number)


async def listed(records: Records, **wanted: object) -> list[str]:
    page = await records.page(TaskListParams(**wanted))  # type: ignore[arg-type]  # as a test says them
    return [each.id for each in page.tasks]


def damage(path: Path, task_id: str) -> None:
    """Changes one letter of an objective, which leaves good JSON."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE task SET record = CAST(replace(CAST(record AS TEXT), 'thing', 'thong') AS BLOB) WHERE id = ?",
            (task_id,),
        )
        connection.commit()


def test_a_record_comes_back_as_it_was(path: Path) -> None:
    async def test(records: Records, _: Store) -> None:
        whole = task(
            1,
            input={"a": [None, 0, False, ""]},
            boundaries=Boundaries(timeout_s=3.0, constraints=["none"]),
            output=None,
            children=["x"],
            session="s",
        )
        await save_all(records, whole, task(2))
        assert await records.find("t0001") == whole
        assert await records.find("t0002") == task(2)
        assert await records.find("t0003") is None

    run(path, test)


def test_filters_find_what_they_name_and_nothing_else(path: Path) -> None:
    async def test(records: Records, _: Store) -> None:
        await save_all(
            records,
            task(0),
            task(1, agent="other"),
            task(2, state="failed"),
            task(3, parent="t0000", state="failed"),
            task(4, schedule="nightly", objective='say "100% sure" \\ maybe_'),
            task(5, session="s_1", agent="third"),
            task(6, session="sx1", state="timeout"),
        )
        assert await listed(records) == [f"t{n:04}" for n in range(6, -1, -1)]
        assert await listed(records, agent="other") == ["t0001"]
        assert await listed(records, agents=["other", "third"]) == ["t0005", "t0001"]
        assert await listed(records, state="failed") == ["t0003", "t0002"]
        assert await listed(records, states=["failed", "timeout"]) == ["t0006", "t0003", "t0002"]
        assert await listed(records, agent="crew", state="failed", roots=True) == ["t0002"]
        assert await listed(records, parent="t0000") == ["t0003"]
        assert await listed(records, parent="t0000", state="succeeded") == []
        assert await listed(records, dead=True) == ["t0006", "t0002"]
        assert await listed(records, dead=True, agent="other") == []
        assert await listed(records, since=1004.0) == ["t0006", "t0005", "t0004"]
        assert await listed(records, until=1002.0, agent="crew") == ["t0000"]
        assert await listed(records, schedule="nightly") == ["t0004"]
        assert await listed(records, session="s_1") == ["t0005"]
        assert await listed(records, text="THING 2") == ["t0002"]
        assert await listed(records, text='"100% SURE" \\ maybe_') == ["t0004"]
        assert await listed(records, text="100_") == []

    run(path, test)


def test_pages_follow_one_another_without_a_gap_or_a_repeat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_ROWS", 7)
    monkeypatch.setattr(room, "MOST_LOOKED", 14)

    async def test(records: Records, _: Store) -> None:
        for number in range(100):
            state = "failed" if number % 10 == 0 else "succeeded"
            agent = "crew" if number % 2 else "other"
            # Ten of them come in the same moment.
            await records.save(task(number, state=state, agent=agent), float(number // 10))
        for wanted in (
            TaskListParams(limit=9),
            TaskListParams(limit=3, agent="other", state="failed"),
            TaskListParams(limit=3, text="thing 3"),
            TaskListParams(limit=3, agents=["crew", "none"]),
        ):
            whole = await listed(records, limit=1000) if wanted.limit == 9 else None
            seen: list[str] = []
            place: str | None = None
            for _turn in range(200):
                page = await records.page(replace(wanted, before=place))
                assert len(page.tasks) <= wanted.limit
                seen += [each.id for each in page.tasks]
                place = page.more
                if place is None:
                    break
            assert len(seen) == len(set(seen))
            assert seen == sorted(seen, reverse=True)
            assert whole is None or seen == whole
            assert len(seen) == {9: 100}.get(wanted.limit, len(seen))
        with pytest.raises(InvalidParams) as refused:
            await records.page(TaskListParams(before="yesterday"))
        assert refused.value.data["key"] == "before"

    run(path, test)


def test_a_flipped_letter_is_a_corruption_that_names_the_task_and_harms_no_other(path: Path) -> None:
    async def test(_: Records, store: Store) -> None:
        records = Records(store, lambda error: told.append(error.data["task"]))
        await save_all(records, task(1), task(2), task(3, state="running"), task(4, state="queued"))
        damage(path, "t0002")
        damage(path, "t0003")
        told: list[object] = []
        with pytest.raises(Corrupted) as corrupted:
            await records.find("t0002")
        assert corrupted.value.data["task"] == "t0002"
        page = await records.page(TaskListParams())
        assert ([each.id for each in page.tasks], page.skipped) == (["t0004", "t0001"], 2)
        assert [each.id for each, _ in await records.unfinished()] == ["t0004"]
        assert told == ["t0003"]
        # It can never be run, so it does not come up at every start.
        told.clear()
        await records.unfinished()
        assert told == []
        assert (await records.counts())["failed"] == 1

    run(path, test)


def test_garbage_is_a_corruption_too_and_what_was_written_before_checksums_is_read(path: Path) -> None:
    async def test(records: Records, store: Store) -> None:
        await save_all(records, task(1), task(2), task(3))
        garbage = "UPDATE task SET record = ?, checksum = NULL WHERE id = ?"
        await store.write((garbage, (b"\xff{", "t0001")), (garbage, ("text", "t0002")))
        await store.write(("UPDATE task SET checksum = NULL WHERE id = ?", ("t0003",)))
        for task_id in ("t0001", "t0002"):
            with pytest.raises(Corrupted):
                await records.find(task_id)
        assert await records.find("t0003") == task(3)

    run(path, test)


def test_an_idempotency_key_is_one_task_of_an_agent(path: Path) -> None:
    async def test(records: Records, _: Store) -> None:
        await save_all(records, task(1, idempotency_key="k"), task(2, agent="b", idempotency_key="k"))
        with pytest.raises(Conflict):
            await records.save(task(3, idempotency_key="k"), 5.0)
        found = await records.find_by_key("k", "b")
        assert found is not None
        assert found.id == "t0002"
        anybody = await records.find_by_key("k", None, since=1001.0)
        assert anybody is not None
        assert anybody.id == "t0002"
        assert await records.find_by_key("k", None, since=1002.0) is None
        assert await records.find_by_key("other", "b") is None

    run(path, test)


def test_statements_that_are_saved_with_a_task_happen_with_it_or_not_at_all(path: Path) -> None:
    async def test(records: Records, store: Store) -> None:
        put = "INSERT INTO meta (key, value) VALUES (?, ?)"
        await records.save(task(1), 1.0, (put, ("one", 1)))
        with pytest.raises(Conflict):
            await records.save(task(2), 2.0, (put, ("one", 2)))
        assert await records.find("t0002") is None
        assert await store.read("SELECT value FROM meta WHERE key = 'one'") == [(1,)]

    run(path, test)


def test_a_failed_task_is_a_dead_letter_until_it_is_tried_again_or_discarded(path: Path) -> None:
    async def test(records: Records, _: Store) -> None:
        await save_all(
            records,
            task(1, state="failed"),
            task(2, state="timeout", agent="other"),
            task(3, state="cancelled"),
            task(4, state="failed"),
            task(5, state="failed", parent="t0003"),
        )
        assert (await records.dead_letters(TasksParams()))[0] == ["t0001", "t0002", "t0004"]
        assert (await records.dead_letters(TasksParams(agent="other")))[0] == ["t0002"]
        first, more = await records.dead_letters(TasksParams(limit=2))
        assert first == ["t0001", "t0002"]
        assert (await records.dead_letters(TasksParams(limit=2, after=more)))[0] == ["t0004"]
        assert (await records.dead_letters(TasksParams(until=1001.0)))[0] == ["t0001"]
        again = task(6, state="queued", retry_of="t0001")
        await records.save(again, 1006.0)
        old = await records.find("t0001")
        assert old is not None
        assert (old.state, old.retried_by) == ("failed", "t0006")
        assert await records.discard(["t0002", "t0003", "none"]) == 1
        assert (await records.dead_letters(TasksParams()))[0] == ["t0004"]
        assert await records.find("t0002") is not None
        await records.save(replace(again, state="failed", attempt=1), 1006.0)
        assert (await records.dead_letters(TasksParams()))[0] == ["t0004", "t0006"]

    run(path, test)


def test_children_are_reported_in_the_order_in_which_they_came(path: Path) -> None:
    async def test(records: Records, _: Store) -> None:
        await save_all(records, *[task(n, parent="p" if n % 2 else None) for n in range(9, 0, -1)])
        found = await records.children("p", 4)
        assert [each.id for each in found] == ["t0009", "t0007", "t0005", "t0003"]

    run(path, test)


def test_each_agent_keeps_its_tasks_for_as_long_as_it_says_and_dead_letters_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "EXPIRE_ROWS", 3)

    async def test(records: Records, store: Store) -> None:
        now = time.time()
        number = 0
        for agent in ("default", "long", "short"):
            for age_days in (0.0, 2.0, 8.0, 40.0):
                for state in ("succeeded", "failed", "queued"):
                    for _ in range(2):
                        number += 1
                        each = task(number, agent=agent, state=state, worker=f"{state}{age_days:g}")
                        created = now - age_days * DAY_S
                        await records.save(each, created)
        ended = "UPDATE task SET finished_at = created_at + 1 WHERE finished_at IS NOT NULL"
        await store.write((ended, ()))
        removed = await records.expire(
            now,
            Retention(7 * DAY_S, 30 * DAY_S),
            {"long": Retention(60 * DAY_S, 60 * DAY_S), "short": Retention(DAY_S, DAY_S)},
        )
        left: dict[str, set[str]] = {}
        for each in (await records.page(TaskListParams(limit=1000))).tasks:
            left.setdefault(each.agent, set()).add(str(each.worker))
        queued = {"queued0", "queued2", "queued8", "queued40"}
        assert left["default"] == queued | {"succeeded0", "succeeded2", "failed0", "failed2", "failed8"}
        assert left["short"] == queued | {"succeeded0", "failed0"}
        assert len(left["long"]) == 12
        assert removed == 2 * (2 + 1 + 3 + 3)

    run(path, test)


def test_what_ended_a_moment_ago_is_kept_however_long_it_had_waited(path: Path) -> None:
    async def test(records: Records, _: Store) -> None:
        now = time.time()
        await records.save(task(1), now - 100 * DAY_S)
        assert await records.expire(now, Retention(DAY_S, DAY_S), {}) == 0
        assert await records.find("t0001") is not None

    run(path, test)


QUESTIONS = {
    "unfinished": "state IN ('queued', 'running') ORDER BY created_at",
    "newest": "1 ORDER BY created_at DESC, rowid DESC LIMIT 1",
    "of an agent": "agent = 'a' AND (created_at, rowid) < (1, 1) ORDER BY created_at DESC, rowid DESC LIMIT 1",
    "in a state": "state = 'failed' ORDER BY created_at DESC, rowid DESC LIMIT 1",
    "of a parent": "parent = 'p' ORDER BY created_at, rowid LIMIT 1",
    "dead": "dead = 1 AND +agent = 'a' ORDER BY created_at, rowid LIMIT 1",
    "by key": "agent = 'a' AND idempotency_key = 'k'",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_looks_at_all_tasks_or_sorts_them(path: Path, question: str) -> None:
    async def test(_: Records, store: Store) -> None:
        plan = await store.read(f"EXPLAIN QUERY PLAN SELECT record FROM task WHERE {QUESTIONS[question]}")
        steps = [str(row[3]) for row in plan]
        assert all("INDEX" in step or "PRIMARY KEY" in step for step in steps[:1]), steps
        assert not any("TEMP B-TREE" in step for step in steps) or question == "unfinished", steps

    run(path, test)
