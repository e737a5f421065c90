"""The stream of events: one order for everybody, and no reader that can hurt another."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from corral.supervisor.bus import Bus, Event
from corral.worker.errors import InvalidParams

BOUND_S = 20.0


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test()

    asyncio.run(bounded())


def test_an_event_has_the_shape_that_programs_rely_on() -> None:
    bus = Bus(7, clock=lambda: 1_767_225_600.5)
    event = bus.publish("worker.state", agent="a", worker="a-0", incarnation=3, to="Ready")
    assert event.record() == {
        "seq": 7,
        "at": "2026-01-01T00:00:00.500Z",
        "type": "worker.state",
        "agent": "a",
        "worker": "a-0",
        "incarnation": 3,
        "to": "Ready",
    }


def test_a_field_cannot_take_the_place_of_what_the_bus_says() -> None:
    record = Bus(1).publish("agent.added", seq=99, at="never").record()
    assert record["seq"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(record["at"]))


def test_the_sink_gets_what_is_to_be_kept_in_order_and_numbers_never_repeat() -> None:
    kept: list[Event] = []
    bus = Bus(1, kept.append)
    for number in range(10):
        bus.publish("worker.state", store=number % 2 == 0)
    assert [event.seq for event in kept] == [1, 3, 5, 7, 9]


def test_a_sink_that_raises_stops_neither_the_publisher_nor_the_subscribers() -> None:
    def broken(event: Event) -> None:
        raise RuntimeError(event.type)

    async def test() -> None:
        bus = Bus(1, broken)
        with bus.subscribe() as subscription:
            bus.publish("task.queued")
            assert [event.seq for event in await subscription.next_batch()] == [1]

    run(test)


def test_a_subscriber_gets_only_the_types_it_asked_for_in_order() -> None:
    async def test() -> None:
        bus = Bus(0)
        bus.publish("task.queued")  # before anybody asked
        with bus.subscribe(["task.*", "agent.added"]) as subscription:
            for kind in ("task.queued", "agent.added", "agent.removed", "mcp.call", "task.ended"):
                bus.publish(kind)
            batch = await subscription.next_batch()
            assert [event.type for event in batch] == ["task.queued", "agent.added", "task.ended"]

    run(test)


def test_a_subscriber_that_waits_is_woken_and_ends_when_it_is_closed() -> None:
    async def test() -> None:
        bus = Bus(1)
        subscription = bus.subscribe()
        seen: list[int] = []

        async def reader() -> None:
            async for event in subscription:
                seen.append(event.seq)
                if event.seq < 3:
                    bus.publish("again")  # a subscriber may publish
                else:
                    subscription.close()

        task = asyncio.create_task(reader())
        await asyncio.sleep(0)
        bus.publish("first")
        await task
        bus.publish("nobody listens")
        assert seen == [1, 2, 3]
        assert await subscription.next_batch() == []

    run(test)


def test_a_subscriber_that_does_not_read_loses_the_oldest_and_is_told_how_many() -> None:
    async def test() -> None:
        bus = Bus(1)
        slow, quick = bus.subscribe(limit=10), bus.subscribe(limit=1_000)
        for _ in range(35):
            bus.publish("task.progress")
        first, *rest = await slow.next_batch()
        assert (first.type, first.seq, first.fields) == ("events.skipped", 25, {"count": 25})
        assert [event.seq for event in rest] == list(range(26, 36))
        assert [event.seq for event in await quick.next_batch()] == list(range(1, 36))
        bus.publish("task.progress")
        assert [event.type for event in await slow.next_batch()] == ["task.progress"]
        slow.close()
        quick.close()

    run(test)


def test_a_subscriber_that_raises_harms_nobody() -> None:
    async def test() -> None:
        bus = Bus(1)
        other = bus.subscribe()

        async def broken() -> None:
            with bus.subscribe() as subscription:
                async for event in subscription:
                    raise RuntimeError(event.type)

        task = asyncio.create_task(broken())
        await asyncio.sleep(0)
        bus.publish("one")
        with pytest.raises(RuntimeError):
            await task
        bus.publish("two")
        assert [event.type for event in await other.next_batch()] == ["one", "two"]

    run(test)


@pytest.mark.parametrize("types", [["*"] * 65, ["x" * 257]])
def test_patterns_are_bounded(types: list[str]) -> None:
    with pytest.raises(InvalidParams):
        Bus(1).subscribe(types)
