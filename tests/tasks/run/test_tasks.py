"""The delivery of tasks over a store that refuses and workers that die: what is acknowledged comes to its end."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Statement
from corral.supervisor.tasks.rules.boundaries import Limits
from corral.supervisor.tasks.run import dispatcher, record_writer
from corral.supervisor.tasks.run.backlog import Dependencies, Entry, Origin
from corral.supervisor.tasks.run.cluster import Cluster
from corral.supervisor.tasks.workflows.schedules import Schedules
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    TaskFailed,
    from_wire,
)
from corral.worker.contract.records import Task, TaskParams
from corral.worker.control.params import ScheduleParams
from seeds import seeds
from task_harness import BOUND_S, RETRY_S, TaskHarness, full, task_harness
from worker_peer import on_loop

pytestmark = pytest.mark.shell


def nested(depth: int) -> object:
    """A list in a list in a list."""
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


# -- delegation


@on_loop
async def test_a_delegated_task_that_was_refused_never_turns_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 2)
        parent = await here.submit()
        worker = await here.begun(parent.id)
        after_itself = TaskParams(objective="o", agent="a", after=[parent.id])
        with pytest.raises(Conflict):
            await here.tasks.submit(after_itself, Origin(parent))
        waits = asyncio.ensure_future(here.tasks.wait(parent.id))
        worker.answer(parent.id)
        assert (await waits).state == "succeeded"
        await here.settle()
        here.check_is_empty()
        assert [*await here.rows()] == [parent.id]


@on_loop
async def test_what_is_delegated_while_its_parent_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 2)
        before = await here.run()
        parent = await here.submit()
        worker = await here.begun(parent.id)
        after = TaskParams(objective="o", agent="a", after=[before.id])
        asked = asyncio.ensure_future(here.tasks.submit(after, Origin(parent)))
        await asyncio.sleep(0)  # now it is looked up how the one before has ended
        here.backlog.find(parent.id).is_ending = True  # type: ignore[union-attr]  # it runs
        with pytest.raises(CorralError):
            await asked
        here.backlog.find(parent.id).is_ending = False  # type: ignore[union-attr]  # it runs
        worker.answer(parent.id)
        await here.tasks.wait(parent.id)
        here.check_is_empty()


@on_loop
async def test_a_task_cannot_delegate_to_itself_by_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 3)
        first = await here.submit(idempotency_key="k")
        await here.begun(first.id)
        second = await here.tasks.submit(TaskParams(objective="o", agent="a"), Origin(first))
        await here.begun(second.id)
        for parent in (first, second):
            again = TaskParams(objective="o", agent="a", idempotency_key="k")
            with pytest.raises(Conflict):
                await here.tasks.submit(again, Origin(parent))
        other = await here.submit(idempotency_key="k")
        assert other.id == first.id, "anybody else may ask for it"
        await here.tasks.cancel(first.id)


# -- times


@on_loop
async def test_a_task_whose_time_comes_while_it_is_looked_at_goes_on_once() -> None:
    ready: list[str] = []
    now = 0.0
    is_ready = asyncio.Event()

    def on_ready(entry: Entry) -> None:
        ready.append(entry.task.id)
        is_ready.set()

    dependencies = Dependencies(on_ready, lambda: now)
    entries = [
        Entry(Task(id=name, agent="a", objective="o"), 0.0, Limits(0.0, 0, None), 0.0, due=0.001) for name in "xy"
    ]
    assert all(map(dependencies.holds, entries))
    now = 1.0
    assert dependencies.holds(entries[0]), "a second answer would enqueue a task that `on_ready` reports later"
    async with asyncio.timeout(BOUND_S):
        await is_ready.wait()
    assert ready == ["x", "y"]
    assert not dependencies.holds(entries[0])
    dependencies.close()


# -- sticky keys


@on_loop
async def test_what_sticks_to_a_worker_that_gave_up_goes_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 3)
        gone = here.workers("a")[0]
        gone.worker = replace(gone.worker, state=State.TERMINATED, resume_at=None)
        for number in range(20):
            task = await here.submit(sticky_key=f"k{number}")
            (await here.begun(task.id)).answer(task.id)
            await here.tasks.wait(task.id)


# -- a store that refuses


@on_loop
async def test_who_cancels_what_the_store_then_refuses_learns_that_it_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a")
        here.store.refuses = full
        asked = asyncio.ensure_future(here.submit())
        while not (ids := [entry.task.id for entry in here.backlog]):
            await asyncio.sleep(0)
        cancelled = asyncio.ensure_future(here.tasks.cancel(ids[0]))
        waited = asyncio.ensure_future(here.tasks.wait(ids[0]))
        with pytest.raises(Overloaded):
            await asked
        for each in (cancelled, waited):
            with pytest.raises(NotFound):
                await each
        here.check_is_empty()


@on_loop
async def test_a_store_that_refuses_is_not_asked_for_every_task_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a")
        tasks = await asyncio.gather(*(here.submit() for _ in range(100)))
        worker = await here.begun(tasks[0].id)
        here.store.refuses = full
        since = time.monotonic()
        worker.die()
        worker.rise()
        await here.settle(2000)
        assert 0 < here.store.refused <= (time.monotonic() - since) / RETRY_S * 2 + 5
        here.store.refuses = None
        while list(here.backlog):
            for task_id in list(worker.calls):
                worker.finish(task_id, None)
            await asyncio.sleep(0)
        here.check_is_empty()


@on_loop
async def test_a_record_that_was_refused_at_first_does_not_undo_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        records = here.tasks.records
        queued = Task(id="t", agent="a", objective="o")
        ended = replace(queued, state="cancelled", finished_at="2026-01-01T00:00:00Z")
        await records.save(ended, 1000.0)
        await records.save(queued, 1000.0)
        found = await records.find("t")
        assert found is not None
        assert found.state == "cancelled"
        assert await here.rows() == {"t": "cancelled"}
        assert here.tasks.find("t") is None


class OnStart:
    """Calls a function at each start of an attempt."""

    def __init__(self, on_start: Callable[[Task], None]) -> None:
        self._on_start = on_start

    def started(self, task: Task) -> None:
        self._on_start(task)

    def ended(self, task: Task) -> None:
        """Observes nothing of an end."""


class Remembering:
    """What a session remembers; what is to be written of it is refused for ever."""

    key_values = None

    def __init__(self) -> None:
        self.dropped_ones: list[str] = []

    def started(self, task: Task) -> None:
        """Observes nothing of a start."""

    def ended(self, task: Task) -> None:
        """Observes nothing of an end."""

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        return {}

    def keep(self, task: Task, answer: object) -> tuple[Statement, ...]:
        return (("INSERT INTO meta (key, value) VALUES ('generation', 1)", ()),)

    def kept(self, task: Task) -> None:
        raise AssertionError("the store has refused it")

    def dropped(self, task: Task) -> None:
        self.dropped_ones.append(task.id)


@on_loop
async def test_a_task_whose_session_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Remembering()
    async with task_harness(tmp_path, monkeypatch, sessions) as here:
        here.add("a")
        task = await here.submit(session="s")
        (await here.begun(task.id)).answer(task.id)
        ended = await here.tasks.wait(task.id)
        assert ended.state == "failed"
        assert ended.error is not None
        assert ended.error.name == "Conflict"
        assert sessions.dropped_ones == [task.id]
        here.check_is_empty()


class Forgetful(Remembering):
    """Reads nothing for a while."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        self.refusals -= 1
        if self.refusals >= 0:
            raise full()
        return {}

    def keep(self, task: Task, answer: object) -> tuple[Statement, ...]:
        return ()

    def kept(self, task: Task) -> None:
        pass


@on_loop
async def test_an_attempt_that_reached_no_worker_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch, Forgetful(4)) as here:
        here.add("a")
        task = await here.submit(session="s")
        (await here.begun(task.id)).answer(task.id)
        ended = await here.tasks.wait(task.id)
        assert (ended.attempt, ended.delivery) == (1, 1)


@on_loop
async def test_every_beginning_is_a_delivery_and_only_a_failed_one_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        (worker,) = here.workers(here.add("a").name)
        task = await here.submit()
        await here.begun(task.id)
        assert (await here.tasks.records.find(task.id) or task).delivery == 1  # before it was sent
        worker.worker = replace(worker.worker, cause="stopped")  # asked to restart
        worker.die()
        await here.settle()
        worker.rise()
        await here.begun(task.id)
        record = here.tasks.find(task.id)
        assert record is not None
        assert (record.attempt, record.delivery) == (1, 2)
        worker.worker = replace(worker.worker, cause="")
        worker.die()
        await here.settle()
        worker.rise()
        (await here.begun(task.id)).answer(task.id)
        ended = await here.tasks.wait(task.id)
        assert (ended.attempt, ended.delivery) == (2, 3)


@pytest.mark.parametrize("attempt", [0, 1, 2])
@on_loop
async def test_a_task_that_an_earlier_version_began_is_no_first_delivery(
    attempt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        task = Task(id="t", agent="a", attempt=attempt, started_at=here.stamp(1.0))
        await here.tasks.records.save(task, 1.0)  # without the key, which is omitted at 0
        found = await here.tasks.records.find("t")
        assert found is not None
        assert found.delivery == max(attempt, 1)


@pytest.mark.parametrize(
    "error",
    [
        {"code": -32603, "message": "m"},
        {"code": -32000, "message": "m"},
        {"code": 1, "message": "m"},
        {"code": -32601, "message": "m"},
        {"code": "E1", "message": "m"},
        {"code": -33000, "message": "m"},
        "no object",
    ],
)
@on_loop
async def test_an_error_code_of_a_workers_own_is_the_failure_of_its_task(
    error: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a")
        task = await here.submit()
        (await here.begun(task.id)).answer(task.id, from_wire(error))
        ended = await here.tasks.wait(task.id)
        assert ended.error is not None
        assert (ended.state, ended.error.name) == ("failed", "TaskFailed")
        if isinstance(error, dict):
            assert ended.error.data["code"] == error["code"]


@on_loop
async def test_a_pause_that_the_store_refused_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a")
        bus = Bus(1, lambda _: None)
        schedules = Schedules(here.store, bus, cast(Agents, here.running_set), here.tasks, Cluster())
        task = TaskParams(objective="o", agent="a")
        added = await schedules.add(ScheduleParams(task=task, name="n", every_s=3600.0))
        for act, is_paused in ((schedules.pause, True), (schedules.resume, False)):
            here.store.refuses = full
            with pytest.raises(Overloaded):
                await act("n")
            here.store.refuses = None
            assert (await act("n")).paused == is_paused
            later = Schedules(here.store, bus, cast(Agents, here.running_set), here.tasks, Cluster())
            await later.load()
            assert later.show("n").paused == is_paused
        assert schedules.show("n").next_at == added.next_at


# -- what no record can hold


@on_loop
async def test_what_is_nested_too_deep_to_be_written_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a")
        for depth in (*range(800, 1000, 7), 5000):
            try:
                task = await here.submit(input=nested(depth))
            except ResourceLimitExceeded:
                continue
            (await here.begun(task.id)).answer(task.id, nested(depth))
            ended = await here.tasks.wait(task.id)
            assert ended.error is None or ended.error.name == "ResourceLimitExceeded"
            here.check_is_empty()


@on_loop
async def test_a_mistake_of_ours_ends_the_task_and_frees_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistake(task: Task) -> None:
        if task.objective == "odd":
            raise ZeroDivisionError

    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a")
        here.group.writer.subscribe(OnStart(mistake))
        with caplog.at_level(logging.CRITICAL):
            ended = await here.tasks.wait((await here.submit(objective="odd")).id)
        assert ended.error is not None
        assert ended.error.name == "InternalError"
        assert (await here.run()).state == "succeeded"
        here.check_is_empty()


# -- a new daemon


@on_loop
async def test_what_waited_for_another_task_has_its_queue_timeout_from_that_ones_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", queue_timeout=600.0)
        here.workers("a")[0].is_closed = True
        now = time.time()
        stamp = here.stamp(now)
        first = Task(id="1", agent="a", objective="o", state="succeeded", finished_at=stamp)
        await here.tasks.records.save(first, now - 7200.0)
        await here.tasks.records.save(Task(id="2", agent="a", objective="o", after=["1"]), now - 7200.0)
        await here.group.recovery.load()
        await here.settle()
        worker = here.workers("a")[0]
        worker.is_closed = False
        here.note_change(worker)
        (await here.begun("2")).answer("2")
        assert (await here.tasks.wait("2")).state == "succeeded"


# -- many lives


class Life:
    """Some hundred things that happen to a queue in a random order, and whether all of it comes to its end."""

    def __init__(self, here: TaskHarness, seed: int) -> None:
        self.here = here
        self.chance = random.Random(seed)
        self.acknowledged: list[Task] = []
        self.waits: list[asyncio.Task[Task]] = []
        self.asked: list[asyncio.Task[None]] = []

    async def submit(self) -> None:
        chance, here = self.chance, self.here
        parent = None
        more: dict[str, Any] = {
            "durable": chance.random() < 0.8,
            "sticky_key": chance.choice([None, None, "x", "y"]),
            "session": chance.choice([None, None, "s", "t"]),
            "idempotency_key": chance.choice([None, None, None, "k", "l"]),
            "priority": chance.choice([None, 1, 10]),
        }
        if chance.random() < 0.2:
            more["at"] = time.time() + chance.choice([-5.0, 0.01])
        if self.acknowledged and chance.random() < 0.3:
            more["after"] = [chance.choice(self.acknowledged[-5:]).id]
        if here.doing and chance.random() < 0.3:
            parent = here.tasks.find(chance.choice(list(here.doing)))
        params = TaskParams(objective="o", agent=chance.choice("ab"), **more)
        try:
            task = await here.tasks.submit(params, Origin(parent))
        except CorralError:
            return
        self.acknowledged.append(task)
        self.waits.append(asyncio.ensure_future(here.tasks.wait(task.id)))

    async def cancel(self) -> None:
        if self.acknowledged:
            await self.here.tasks.cancel(self.chance.choice(self.acknowledged).id)

    def happen(self) -> None:
        """One of the things that may happen."""
        here, chance = self.here, self.chance
        worker = chance.choice([worker for name in here.agents for worker in here.workers(name)])
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                self.asked.append(asyncio.ensure_future(self.submit()))
            case 4:
                self.asked.append(asyncio.ensure_future(self.cancel()))
            case 5 | 6 | 7:
                for task_id in list(worker.calls):
                    worker.finish(task_id, chance.choice([None, None, TaskFailed("cannot: odd")]))
            case 8:
                worker.die()
                here.loop.call_soon(worker.rise)
            case 9:
                worker.pause()
                here.loop.call_soon(worker.resume)
            case 10:
                here.store.is_late = chance.random() < 0.7
                here.store.refuses = None if chance.random() < 0.5 else self.refuses
            case _:
                if chance.random() < 0.2:
                    name = chance.choice("ab")
                    here.remove(name)
                    here.add(name, 3, retry_on="any")

    def refuses(self, _: object) -> CorralError | None:
        return full() if self.chance.random() < 0.5 else None

    async def end(self) -> None:
        """From now on nothing goes wrong any more."""
        here = self.here
        here.store.refuses = None
        while any(not each.done() for each in (*self.asked, *self.waits)):
            for worker in [worker for name in here.agents for worker in here.workers(name)]:
                for task_id in list(worker.calls):
                    worker.finish(task_id, None)
            await asyncio.sleep(0)
        for each in (*self.asked, *self.waits):
            each.result()


@pytest.mark.parametrize("seed", seeds(6, 2))
@on_loop
async def test_whatever_happens_each_task_ends_once(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed", seed)
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 2, retry_on="any")
        here.add("b", 1, capacity=2)
        life = Life(here, seed)
        for _ in range(300):
            life.happen()
            for _turn in range(life.chance.randrange(4)):
                await asyncio.sleep(0)
        await life.end()
        await here.settle()
        here.check_is_empty()
        rows = await here.rows()
        for task in life.acknowledged:
            record = await here.tasks.show(task.id)
            assert record.finished_at is not None
            assert not task.durable or rows[task.id] == record.state
        assert set(here.ends.values()) == {1}
        assert not [each for each in rows.values() if each in ("queued", "running")]


# -- what is not durable


@pytest.mark.parametrize("durable", [True, False])
@on_loop
async def test_many_tasks_that_end_at_once_hold_up_nobody_and_none_of_them_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    monkeypatch.setattr(record_writer, "ENDS_AT_ONCE", 3)
    async with task_harness(tmp_path, monkeypatch) as here:
        (worker,) = here.workers(here.add("a").name)
        running = await here.submit(durable=durable)
        await here.begun(running.id)
        waiting = [await here.submit(durable=durable) for _ in range(8)]
        halted = here.tasks.halt()
        assert set(halted) == {running.id, *(task.id for task in waiting)}
        worker.answer(running.id)  # it is free for the next
        most = before = 0
        while len(here.ends) < len(halted):
            await asyncio.sleep(0)
            most, before = max(most, len(here.ends) - before), len(here.ends)
        assert most <= 4, "three of those that wait, and the one that ran"
        await here.tasks.halted(halted)
        assert set(here.ends) == set(halted)
        assert [*here.ever] == [running.id]
        here.add("b")
        gone = [await here.submit("b", durable=durable) for _ in range(8)]
        here.remove("b")
        states = [(await here.tasks.wait(task.id)).state for task in gone]
        assert states == ["failed"] * len(gone)
        assert set(here.ends.values()) == {1}
        here.check_is_empty()


@on_loop
async def test_a_long_queue_is_ended_a_few_tasks_in_each_turn_and_a_new_agent_begins_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_writer, "ENDS_AT_ONCE", 3)
    async with task_harness(tmp_path, monkeypatch) as here:
        for name in ("removed", "down"):
            (worker,) = here.workers(here.add(name).name)
            running = await here.submit(name)
            await here.begun(running.id)
            waiting = [(await here.submit(name)).id for _ in range(20)]
            if name == "removed":
                here.remove(name)
                here.add(name)  # at once, and with a free worker
            else:
                worker.die()
                worker.worker = replace(worker.worker, resume_at=None)
                here.note_change(worker)
            most, before = 0, len(here.ends)
            while not set(waiting) <= set(here.ends):
                await asyncio.sleep(0)
                most, before = max(most, len(here.ends) - before), len(here.ends)
            assert most <= 4, "three of those that wait, and the one that ran"
            assert not set(waiting) & set(here.ever)
            states = {(await here.tasks.wait(task)).state for task in waiting}
            assert states == {"failed"}
            if name == "removed":  # the one that had begun is tried again
                (await here.begun(running.id)).answer(running.id)
            assert (await here.tasks.wait(running.id)).finished_at is not None
        assert (await here.run("removed")).state == "succeeded"
        here.check_is_empty()


@on_loop
async def test_the_reason_of_a_wait_is_recorded_in_a_few_tasks_in_each_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOOKED_AT_ONCE", 3)
    async with task_harness(tmp_path, monkeypatch) as here:
        (worker,) = here.workers(here.add("a", when_down="queue").name)
        worker.die()
        worker.worker = replace(worker.worker, resume_at=1.0)  # it backs off
        waiting = [(await here.submit()).id for _ in range(20)]
        await here.settle()
        worker.worker = replace(worker.worker, resume_at=None)
        here.note_change(worker)

        def recorded() -> int:
            found = [here.tasks.find(task) for task in waiting]
            return sum(bool(task and task.reason) for task in found)

        most = before = 0
        while (now := recorded()) < len(waiting):
            most, before = max(most, now - before), now
            await asyncio.sleep(0)
        assert most <= 3
        worker.rise()
        for task in waiting:
            (await here.begun(task)).answer(task)
            assert (await here.tasks.wait(task)).state == "succeeded"


@on_loop
async def test_a_task_that_is_not_durable_is_with_a_free_worker_before_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 1)
        submitting = here.tasks.submit(TaskParams(objective="o", agent="a", durable=False))
        with pytest.raises(StopIteration) as taken:
            submitting.send(None)
        task_id = taken.value.value.id
        assert here.doing == {task_id: "a-0"}
        (await here.begun(task_id)).answer(task_id)
        assert (await here.tasks.wait(task_id)).state == "succeeded"
        await here.settle()
        here.check_is_empty()


@on_loop
async def test_a_task_that_is_cancelled_as_soon_as_its_worker_has_it_is_withdrawn_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 1)
        task = await here.submit(durable=False)
        assert here.doing == {task.id: "a-0"}
        assert (await here.tasks.cancel(task.id)).state == "cancelled"
        await here.settle()
        assert here.doing == {}
        here.check_is_empty()
        assert (await here.run()).state == "succeeded"  # its place is free


@on_loop
async def test_a_mistake_of_ours_while_a_task_begins_ends_that_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with task_harness(tmp_path, monkeypatch) as here:
        here.add("a", 1)

        mistakes = iter([ZeroDivisionError()])

        def stumble_once(_: Task) -> None:
            for mistake in mistakes:
                raise mistake

        here.group.writer.subscribe(OnStart(stumble_once))
        with caplog.at_level(logging.CRITICAL):
            task = await here.submit(durable=False)
            ended = await here.tasks.wait(task.id)
        assert ended.state == "failed"
        assert ended.error is not None
        assert ended.error.name == "InternalError"
        assert (await here.run(durable=False)).state == "succeeded"
        await here.settle()
        here.check_is_empty()
