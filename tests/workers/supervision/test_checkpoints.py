"""What is kept of what was saved: the newest that is whole, so many of each, so long; and what is pending stays."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.supervisor.config.spec.spec import Recovery
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.store.store import Store
from corral.supervisor.workers.supervision.checkpoints import BESIDE_BYTES, Checkpoints, Resumption
from corral.worker.contract.errors import Conflict, Corrupted, NotFound, ResourceLimitExceeded

pytestmark = pytest.mark.shell

LIMITS = Recovery(max_checkpoints=2, max_checkpoint_bytes=4 * BESIDE_BYTES, checkpoint_retention=100)
LONG = {"pages": [random.Random(7).random() for _ in range(BESIDE_BYTES // 16)]}


class Desk:
    """Checkpoints in a store of their own, and what the bus was told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.told: list[Event] = []
        self.checkpoints = Checkpoints(store, Bus(1, self.told.append), lambda _: LIMITS)

    async def save(self, data: object, task: str | None = None, worker: str = "a-0") -> int:
        agent = worker.rpartition("-")[0]
        return await self.checkpoints.put(agent, worker, task, data, "task" if task else "asked")

    async def damage(self, number: int, at: int = -1) -> None:
        ((blob,),) = await self.store.read("SELECT data FROM checkpoint WHERE id = ?", (number,))
        assert isinstance(blob, bytes)
        spoilt = bytearray(blob)
        spoilt[at] ^= 1
        await self.store.write(("UPDATE checkpoint SET data = ? WHERE id = ?", (bytes(spoilt), number)))

    async def numbers(self, name: str | None = None) -> list[int]:
        return [each.id for each in await self.checkpoints.list(name, 100)]

    async def task(self, task_id: str, state: str) -> None:
        await self.store.write(
            (
                "INSERT OR REPLACE INTO task (id, agent, state, priority, attempt, created_at, record)"
                " VALUES (?, 'a', ?, 5, 1, 0, '')",
                (task_id, state),
            )
        )


def on_a_desk(test: Callable[[Desk], Awaitable[None]]) -> Callable[[Path], None]:
    """Makes a test of a coroutine that needs a desk."""

    @asynccontextmanager
    async def desk(folder: Path) -> AsyncGenerator[Desk, None]:
        store = Store.open(folder / "corral.db")
        try:
            yield Desk(store)
        finally:
            await store.close()

    async def play(folder: Path) -> None:
        async with desk(folder) as it:
            await test(it)

    def run(tmp_path: Path) -> None:
        asyncio.run(play(tmp_path))

    return run


@on_a_desk
async def test_what_was_saved_last_is_found(desk: Desk) -> None:
    assert await desk.checkpoints.of_task("t") == {}
    assert await desk.checkpoints.latest("a-0") == {}
    await desk.save({"n": 1}, "t")
    await desk.save(LONG, "t")
    number = await desk.save(None)
    assert await desk.checkpoints.of_task("t") == {"checkpoint": LONG}
    assert await desk.checkpoints.latest("a-0") == {"checkpoint": None}
    record, data = await desk.checkpoints.find(number)
    assert (record.agent, record.worker, record.task, record.reason) == ("a", "a-0", None, "asked")
    assert (record.size_bytes, data) == (4, None)
    with pytest.raises(NotFound):
        await desk.checkpoints.find(number + 1)


@on_a_desk
async def test_a_list_for_some_agents_is_cut_after_the_others_are_left_out(desk: Desk) -> None:
    workers = ("a-0", "b-0", "c-0")
    made = [(await desk.save(n, f"{worker}:{n}", worker), worker[0]) for n in range(20) for worker in workers]
    wanted = [number for number, agent in reversed(made) if agent != "b"]

    async def listed(name: str | None, limit: int, names: str) -> list[int]:
        found = await desk.checkpoints.list(name, limit, lambda agent: agent in names)
        return [each.id for each in found]

    assert await listed(None, 25, "ac") == wanted[:25]
    assert await listed(None, 100, "ac") == wanted
    assert await listed("a-0:7", 100, "ac") == [made[21][0]]
    assert await listed("b-0:7", 100, "ac") == []
    assert await listed(None, 100, "") == []


@on_a_desk
async def test_a_row_from_before_there_were_envelopes_is_read(desk: Desk) -> None:
    old = "INSERT INTO checkpoint (agent, worker, task, at, data) VALUES ('a', 'a-0', 't', 1, ?)"
    await desk.store.write((old, (b'{"n":1}',)))
    assert await desk.checkpoints.of_task("t") == {"checkpoint": {"n": 1}}


@on_a_desk
async def test_a_damaged_one_is_passed_over_with_an_event_and_named_to_who_asks_for_it(desk: Desk) -> None:
    await desk.save({"n": 1}, "t")
    number = await desk.save({"n": 2}, "t")
    await desk.damage(number)
    assert await desk.checkpoints.of_task("t") == {"checkpoint": {"n": 1}}
    (event,) = desk.told
    assert (event.type, event.fields["checkpoint"]) == ("checkpoint.corrupted", number)
    with pytest.raises(Corrupted) as refusal:
        await desk.checkpoints.find(number)
    assert refusal.value.data["record"] == f"checkpoint {number}"


@on_a_desk
async def test_a_damaged_number_or_time_hides_no_checkpoint_and_no_sleep(desk: Desk) -> None:
    number = await desk.save({"n": 1})
    await desk.checkpoints.resume({"a-0": Resumption("a", number, True, 7.0)})
    for value in ("text", 1e200, -(2**62), 2**62):
        await desk.store.write(
            ("UPDATE checkpoint SET at = ?, size_bytes = ?", (value, value)),
            ("UPDATE resumption SET at = ?, checkpoint = ?", (value, value)),
        )
        assert await desk.numbers() == [number]
        assert (await desk.checkpoints.find(number))[1] == {"n": 1}
        pending = (await desk.checkpoints.resumptions())["a-0"]
        assert pending.hibernated
        assert pending.checkpoint not in (number, None)  # it begins with no other state than its own


@on_a_desk
async def test_where_none_is_whole_the_newest_is_named(desk: Desk) -> None:
    numbers = [await desk.save({"n": n}) for n in range(2)]
    for number in numbers:
        await desk.damage(number, at=0)
    with pytest.raises(Corrupted) as refusal:
        await desk.checkpoints.latest("a-0")
    assert refusal.value.data["record"] == f"checkpoint {numbers[-1]}"


@on_a_desk
async def test_so_many_are_kept_of_each_task_and_of_each_worker_for_each_reason(desk: Desk) -> None:
    first = await desk.save("first", "t")
    for n in range(2):
        await desk.save(n, "t")
        await desk.save(n, "u")
        await desk.save(n, worker="a-1")
    assert first not in await desk.numbers()
    assert len(await desk.numbers("t")) == len(await desk.numbers("u")) == 2
    asked = [await desk.save(n) for n in range(2)]
    for n in range(4):  # what comes by itself does not push out what somebody asked for
        await desk.checkpoints.put("a", "a-0", None, n, "interval")
    assert set(asked) < set(await desk.numbers("a-0"))
    assert len(await desk.numbers("a-0")) == 4


@on_a_desk
async def test_what_is_too_long_is_refused_and_the_earlier_one_stays(desk: Desk) -> None:
    await desk.save({"n": 1}, "t")
    with pytest.raises(ResourceLimitExceeded) as refusal:
        await desk.save("x" * LIMITS.max_checkpoint_bytes, "t")
    assert refusal.value.data["limit"] == "max_checkpoint_bytes"
    assert await desk.checkpoints.of_task("t") == {"checkpoint": {"n": 1}}


@on_a_desk
async def test_what_a_worker_is_to_begin_with_is_not_pushed_out_and_is_removed_only_by_force(desk: Desk) -> None:
    pending = await desk.save("kept")
    await desk.checkpoints.resume({"a-0": Resumption("a", pending, True, 7.0)})
    others = [await desk.save(n) for n in range(3)]
    assert await desk.numbers() == [others[2], others[1], pending]
    await desk.checkpoints.expire(1e12)
    assert await desk.numbers() == [pending]
    with pytest.raises(Conflict):
        await desk.checkpoints.remove([pending])
    await desk.checkpoints.remove([pending], force=True)
    assert await desk.checkpoints.resumptions() == {"a-0": Resumption("a", None, True, 7.0)}


@on_a_desk
async def test_several_are_removed_or_none(desk: Desk) -> None:
    number = await desk.save(1)
    with pytest.raises(NotFound):
        await desk.checkpoints.remove([number, number + 1])
    assert await desk.numbers() == [number]
    await desk.checkpoints.remove([number, number])
    assert await desk.numbers() == []


@on_a_desk
async def test_what_is_old_expires_unless_its_task_goes_on_and_what_succeeded_needs_nothing(desk: Desk) -> None:
    for task, state in (("runs", "running"), ("failed", "failed"), ("done", "succeeded")):
        await desk.task(task, state)
        await desk.save(1, task)
    await desk.save(1)
    now = (await desk.store.read("SELECT MAX(at) FROM checkpoint"))[0][0]
    assert isinstance(now, float)
    await desk.checkpoints.expire(now + LIMITS.checkpoint_retention - 1)
    assert len(await desk.numbers()) == 3
    assert await desk.numbers("done") == []
    await desk.checkpoints.expire(now + LIMITS.checkpoint_retention + 1)
    assert await desk.numbers() == await desk.numbers("runs")


@on_a_desk
async def test_another_agent_of_the_same_name_does_not_begin_with_what_it_did_not_save(desk: Desk) -> None:
    number = await desk.save("old")
    await desk.checkpoints.resume({"a-0": Resumption("a", number, True, 7.0)})
    desk.checkpoints.removed("a")
    await desk.save("other", worker="b-0")  # its commit is theirs
    assert await desk.checkpoints.latest("a-0") == {}
    assert await desk.checkpoints.resumptions() == {}
    assert (await desk.checkpoints.find(number))[1] == "old"  # who asks for it may have it
