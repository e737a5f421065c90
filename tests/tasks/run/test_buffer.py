"""What readers at different places get of the parts of a task, and what is dropped."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from corral.supervisor.tasks.run.buffer import (
    BUFFER_BYTES,
    ENDED_BYTES,
    ENDED_S,
    MERGED_BYTES,
    OVERHEAD_BYTES,
    TASK_BYTES,
    TOTAL_BYTES,
    Cursor,
    PartBuffer,
    PartBuffers,
    PartSender,
)
from worker_peer import on_loop


def begun(task: str = "t", shared: PartBuffers | None = None) -> PartBuffer:
    buffer = PartBuffer(task, shared or PartBuffers())
    buffer.begin(1, 1)
    return buffer


def drained(buffer: PartBuffer, cursor: Cursor) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while (message := buffer.read(cursor)) is not None:
        found.append(message)
    return found


def test_text_is_merged_and_values_are_not() -> None:
    buffer = begun()
    for part in ("a", "b", {"c": 1}, "d", "e", ["f"], ["g"]):
        buffer.put(part, 3)
    found = drained(buffer, Cursor())
    assert [each["part"] for each in found] == ["ab", {"c": 1}, "de", ["f"], ["g"]]
    assert [each["number"] for each in found] == [2, 3, 5, 6, 7]
    assert {each["lost"] for each in found} == {0}


def test_a_message_of_text_is_bounded() -> None:
    buffer = begun()
    for _ in range(20):
        buffer.put("x" * 10_000, 10_002)
    sizes = [len(each["part"]) for each in drained(buffer, Cursor())]
    assert max(sizes) <= MERGED_BYTES
    assert sum(sizes) == 200_000


def test_a_reader_that_fell_behind_learns_how_many_parts_it_lost() -> None:
    buffer, slow = begun(), Cursor()
    buffer.put("first", 7)
    assert drained(buffer, slow)[0]["lost"] == 0
    for number in range(100):
        buffer.put({"n": number}, 10_000)
    found = drained(buffer, slow)
    kept = TASK_BYTES // (10_000 + OVERHEAD_BYTES)
    assert [each["part"]["n"] for each in found] == [*range(100 - kept, 100)]
    assert [each["lost"] for each in found] == [100 - kept, *[0] * (kept - 1)]


def test_many_small_parts_are_bounded_too() -> None:
    buffer = begun()
    for _ in range(50_000):
        buffer.put("x", 3)
    found = drained(buffer, Cursor())
    assert sum(len(each["part"]) for each in found) + found[0]["lost"] == 50_000
    assert buffer.size_bytes <= TASK_BYTES


def test_a_new_beginning_is_reported_to_those_who_have_read_of_the_old_one() -> None:
    buffer, old, new = begun(), Cursor(), Cursor()
    buffer.put("void", 6)
    drained(buffer, old)
    buffer.begin(2, 2)
    (message,) = drained(buffer, old)
    assert (message["number"], message["part"], message["attempt"]) == (0, "", 2)
    buffer.put("anew", 6)
    assert [each["part"] for each in drained(buffer, old)] == ["anew"]
    assert [each["part"] for each in drained(buffer, new)] == ["anew"]
    buffer.begin(2, 2)  # the same beginning once more
    assert drained(buffer, old) == []


def test_all_tasks_together_are_bounded() -> None:
    shared = PartBuffers()
    buffers = [begun(str(number), shared) for number in range(TOTAL_BYTES // TASK_BYTES + 50)]
    for _ in range(10):
        for buffer in buffers:
            buffer.put("x" * 40_000, 40_002)
    assert shared.size_bytes <= TOTAL_BYTES + len(buffers) * 40_100
    last = buffers[-1]
    assert last.size_bytes > 0
    for buffer in buffers:
        buffer.close()
    assert shared.size_bytes == 0


def test_the_last_parts_of_ended_tasks_are_kept_for_a_while() -> None:
    shared = PartBuffers()
    for number in range(200):
        buffer = begun(str(number), shared)
        buffer.put("x" * 40_000, 40_002)
        buffer.close()
        buffer.close()
    assert shared.of_ended("0") is None
    last = shared.of_ended("199")
    assert last is not None
    assert len(drained(last, Cursor())) == 1
    kept = sum(shared.of_ended(str(number)) is not None for number in range(200))
    assert kept == ENDED_BYTES // (40_002 + OVERHEAD_BYTES + BUFFER_BYTES)


def test_many_short_streams_are_kept_for_a_minute_and_their_buffers_count() -> None:
    now = 0.0
    shared = PartBuffers(clock=lambda: now)
    for number in range(ENDED_BYTES // BUFFER_BYTES):
        buffer = begun(str(number), shared)
        buffer.put({"n": 1}, 7)
        buffer.close()
    assert shared.of_ended("0") is None
    assert shared.of_ended("200") is not None
    now = ENDED_S + 1
    last = begun("last", shared)
    last.put({"n": 1}, 7)
    last.close()
    assert shared.of_ended("last") is last
    assert shared.of_ended("200") is None


def test_random_readers_get_all_parts_in_order_or_a_count_of_those_that_are_lost() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        buffer, cursors = begun(), [Cursor() for _ in range(3)]
        seen = [0] * 3
        for _ in range(3_000):
            if chance.random() < 0.7:
                size = chance.choice((3, 100, 60_000))
                buffer.put(chance.choice(("t" * size, {"v": 1})), size)
            which = chance.randrange(3)
            if chance.random() < (0.01, 0.2, 0.9)[which]:
                for message in drained(buffer, cursors[which]):
                    assert message["number"] > seen[which] + message["lost"], f"seed {seed}"
                    seen[which] = message["number"]
        for which in range(3):
            drained(buffer, cursors[which])
            assert cursors[which].number == buffer.last, f"seed {seed}"
        assert buffer.size_bytes <= TASK_BYTES


class Receiver:
    """Takes messages as long as it is open."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, object]] = []
        self.is_open = asyncio.Event()

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        assert method == "task.part"
        self.messages.append(params)

    async def drain(self) -> None:
        await self.is_open.wait()


def filled(count: int) -> PartBuffer:
    buffer = PartBuffer("t", PartBuffers())
    buffer.begin(1, 1)
    for number in range(count):
        buffer.put({"n": number}, 10_000)
    return buffer


async def turns() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@on_loop
async def test_nothing_more_is_sent_to_a_receiver_that_does_not_read() -> None:
    buffer, receiver = filled(5), Receiver()
    sender = PartSender(buffer, receiver)
    await turns()
    assert len(receiver.messages) == 1
    for number in range(100):
        buffer.put({"n": number}, 10_000)
    buffer.close()
    await turns()
    assert len(receiver.messages) == 1
    receiver.is_open.set()
    await sender.finish()
    assert receiver.messages[1]["lost"] != 0
    assert receiver.messages[-1]["number"] == 105
    await sender.close()


@on_loop
async def test_all_parts_are_sent_before_a_finished_sender_returns() -> None:
    buffer, receiver = filled(0), Receiver()
    receiver.is_open.set()
    sender = PartSender(buffer, receiver, pace_s=3600.0)
    buffer.put("first", 7)
    await turns()
    buffer.put("last", 6)  # it is gathered, until the end
    await turns()
    assert [each["part"] for each in receiver.messages] == ["first"]
    buffer.close()
    await sender.finish()
    assert [each["part"] for each in receiver.messages] == ["first", "last"]
    await sender.close()


@on_loop
async def test_a_task_that_streams_nothing_starts_no_sender() -> None:
    buffer, receiver = filled(0), Receiver()
    before = asyncio.all_tasks()
    sender = PartSender(buffer, receiver)
    await turns()
    assert asyncio.all_tasks() == before
    await sender.close()
    buffer.put("x", 3)
    await turns()
    assert receiver.messages == []
