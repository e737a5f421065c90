"""The tool calls of tasks in a real store: read as they were, bounded, gone with their task; and those of a minute, by agent."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Step, Store
from corral.supervisor.tasks.worker_api.call_records import (
    MAX_CALLS,
    RESULT_BYTES,
    CallHistory,
    CallRates,
    Ended,
    bounded_result,
)
from corral.worker.contract import codec

pytestmark = pytest.mark.shell

OLD_S = 3600.0

SAVE = (
    "INSERT INTO task (id, agent, state, priority, attempt, created_at, record)"
    " VALUES (?, 'a', 'succeeded', 5, 1, 0, x'7b7d')"
)


def call(task: str, number: int = 0, *, age_s: float = 0.0, result: object = None) -> Ended:
    return Ended(
        task=task,
        delivery=1,
        at_s=time.time() - age_s,
        tool=f"odd__{number}",
        outcome="ok",
        duration_s=0.5,
        result=result,
    )


async def written(history: CallHistory, store: Store) -> None:
    history.flush()
    await store.write(("UPDATE meta SET value = value", ()))  # comes after what was posted


def test_calls_are_kept_in_order_and_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store.open(tmp_path / "corral.db")
        history = CallHistory(store)
        for number in range(MAX_CALLS + 5):
            history.add(call("t", number, result={"token": "x"}), with_result=True)
        await written(history, store)
        found = await history.of("t")
        assert [each.tool for each in found] == [f"odd__{number}" for number in range(MAX_CALLS)]
        assert found[0].result == {"token": "***"}, "a result is masked"
        assert found[0].size_bytes == len(codec.encode({"token": "x"}))
        await store.write(("UPDATE task_call SET result = x'00' WHERE id = 1", ()))
        first = (await history.of("t"))[0]
        assert (first.tool, first.result) == ("odd__0", None), "a damaged byte costs one result"
        await store.close()

    asyncio.run(scenario())


def test_a_call_is_there_as_soon_as_it_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store.open(tmp_path / "corral.db")
        history = CallHistory(store)
        history.add(call("t", 1), with_result=False)
        assert [each.tool for each in await history.of("t")] == ["odd__1"]
        history.add(call("t", 2), with_result=False)
        history.flush()  # given to the store, and not on disk yet
        assert [each.tool for each in await history.of("t")] == ["odd__1", "odd__2"]
        await store.close()

    asyncio.run(scenario())


class Tracing(Step):
    """A step of the store, after which it has all statements."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def run(self, connection: sqlite3.Connection) -> int:
        connection.set_trace_callback(self.statements.append)
        return 0


def test_calls_that_end_together_are_few_statements(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store.open(tmp_path / "corral.db")
        tracing = Tracing()
        await store.write(tracing)
        history = CallHistory(store)
        for number in range(128):
            history.add(call("t", number), with_result=False)
        await written(history, store)
        assert len([each for each in tracing.statements if "task_call" in each]) == 2
        assert len(await history.of("t")) == 128
        await store.close()

    asyncio.run(scenario())


def test_calls_go_with_the_record_of_their_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store.open(tmp_path / "corral.db")
        history = CallHistory(store)
        await store.write((SAVE, ("kept",)))
        for number in range(1500):
            history.add(call("gone", number, age_s=OLD_S), with_result=False)
            history.add(call("kept", number, age_s=OLD_S), with_result=False)
        history.add(call("running"), with_result=False)
        await written(history, store)
        assert await history.expire() == 1500
        assert await history.of("gone") == []
        assert len(await history.of("kept")) == MAX_CALLS
        assert len(await history.of("running")) == 1, "a task that is not durable may run still"
        assert await history.expire() == 0
        await store.close()

    asyncio.run(scenario())


def test_a_long_result_is_the_beginning_of_its_text() -> None:
    content = [{"type": "image", "data": "x" * 9000}, {"type": "text", "text": "é" * 9000}]
    kept = bounded_result({"content": content}, 30_000)
    assert isinstance(kept, dict)
    assert kept["cut"] is True
    assert kept["text"] == "é" * (RESULT_BYTES // 2)
    assert bounded_result({"content": "none"}, 30_000) == {"cut": True, "text": ""}


def test_agents_are_counted_apart_and_without_a_limit_too() -> None:
    rates = CallRates(Bus(1))
    for _ in range(5):
        assert rates.take("a", 0, 10.0) == 0
    assert rates.take("b", 1, 10.5) == 0
    assert rates.take("b", 1, 10.6) > 0
    assert (rates.last_minute("a", 11.0), rates.last_minute("b", 11.0)) == (5, 1)
    assert (rates.last_minute("c", 11.0), rates.total(11.0)) == (0, 6)
    assert rates.total(100.0) == 0
    assert rates.take("a", 3, 100.0) == 0, "a limit that is set meanwhile counts what was before"
