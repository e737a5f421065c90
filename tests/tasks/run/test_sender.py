"""One reader gets parts at its own pace, and holds up nobody."""

import asyncio
from collections.abc import Mapping

from corral.supervisor.tasks.run.buffer import PartBuffer, PartBuffers, PartSender
from worker_peer import on_loop


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
