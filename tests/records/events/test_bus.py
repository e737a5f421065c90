"""The stream of events: one order for everybody, and no reader that can hurt another."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from corral.supervisor.records.events.bus import RESERVE, Bus, Event
from corral.supervisor.records.events.catalog import is_reserved, is_type
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.shell

BOUND_S = 60.0


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test()

    asyncio.run(bounded())


def say(bus: Bus, event_type: str, *, data_bytes: int = 4) -> Event:
    """Publishes an agent's event."""
    return bus.relay(event_type, None, sender="a-0", data_bytes=data_bytes)


def test_an_event_has_the_shape_that_programs_rely_on() -> None:
    bus = Bus(7, clock=lambda: 1_767_225_600.5)
    fields: dict[str, Any] = {"from": "Starting", "to": "Ready", "reason": "it answered"}
    event = bus.publish("worker.state", agent="a", worker="a-0", incarnation=3, **fields)
    assert event.record() == {
        "seq": 7,
        "at": "2026-01-01T00:00:00.500Z",
        "type": "worker.state",
        "agent": "a",
        "worker": "a-0",
        "incarnation": 3,
        **fields,
    }


def test_an_agents_event_names_who_published_it() -> None:
    event = Bus(1).relay("build.done", {"seq": 9}, sender="a-0", agent="a", data_bytes=9)
    assert (event.record()["data"], event.record()["from"]) == ({"seq": 9}, "a-0")
    assert event.record()["seq"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(event.record()["at"]))


@pytest.mark.parametrize(
    ("event_type", "fields"),
    [
        ("agent.added", {}),
        ("agent.added", {"kind": "mcp", "more": 1}),
        ("agent.invented", {}),
        ("build.done", {"data": None, "from": "a-0"}),
    ],
)
def test_the_daemon_can_publish_only_what_the_catalogue_has(event_type: str, fields: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        Bus(1).publish(event_type, store=True, agent=None, worker=None, incarnation=None, **fields)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a b", "a*", "ä", "a" * 129, "a\n"])
def test_a_type_is_words_joined_by_dots(text: str) -> None:
    assert not is_type(text)


@pytest.mark.parametrize("text", ["a", "build.done", "A-1.b_2.c", "a" * 128])
def test_a_type_may_have_one_word_or_many(text: str) -> None:
    assert is_type(text)
    assert not is_reserved(text)


@pytest.mark.parametrize("text", ["task", "task.x", "worker.state", "events.skipped", "mcp.x.y"])
def test_what_begins_with_a_word_of_the_daemons_is_the_daemons(text: str) -> None:
    assert is_reserved(text)
    assert not is_reserved(f"my-{text}")


def test_numbers_are_reserved_before_they_are_given() -> None:
    reserved: list[int] = []
    bus = Bus(1, reserve=reserved.append)  # up to RESERVE is reserved by whoever made it
    for _ in range(2 * RESERVE):
        seq = say(bus, "x").seq
        assert seq < (reserved[-1] if reserved else RESERVE)
    assert len(reserved) < 8


def test_the_sink_gets_what_is_to_be_kept_in_order_and_numbers_never_repeat() -> None:
    kept: list[Event] = []
    bus = Bus(1, kept.append)
    for number in range(10):
        bus.publish("agent.removed", store=number % 2 == 0)
    assert [event.seq for event in kept] == [1, 3, 5, 7, 9]


def test_a_type_is_delivered_while_somebody_follows_it() -> None:
    async def test() -> None:
        bus = Bus(1)
        assert not bus.has_subscribers("mcp.call")
        with bus.subscribe(["mcp.*"]):
            assert bus.has_subscribers("mcp.call")
            assert not bus.has_subscribers("task.progress")
        assert not bus.has_subscribers("mcp.call")

    run(test)


def test_a_sink_that_raises_stops_neither_the_publisher_nor_the_subscribers() -> None:
    def broken(event: Event) -> None:
        raise RuntimeError(event.type)

    async def test() -> None:
        bus = Bus(1, broken)
        with bus.subscribe() as subscription:
            say(bus, "build.begun")
            assert [event.seq for event in await subscription.next_batch()] == [1]

    run(test)


def test_a_subscriber_gets_only_the_types_it_asked_for_in_order() -> None:
    async def test() -> None:
        bus = Bus(0)
        say(bus, "build.begun")  # before anybody asked
        with bus.subscribe(["build.*", "done"]) as subscription:
            for kind in ("build.begun", "done", "done.not", "building", "build.x.ended"):
                say(bus, kind)
            batch = await subscription.next_batch()
            assert [event.type for event in batch] == ["build.begun", "done", "build.x.ended"]

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
                    say(bus, "again")  # a subscriber may publish
                else:
                    subscription.close()

        task = asyncio.create_task(reader())
        await asyncio.sleep(0)
        say(bus, "first")
        await task
        say(bus, "nobody")
        assert seen == [1, 2, 3]
        assert await subscription.next_batch() == []

    run(test)


def test_a_subscriber_that_does_not_read_loses_the_oldest_and_learns_how_many() -> None:
    async def test() -> None:
        bus = Bus(1)
        slow, quick = bus.subscribe(limit=10), bus.subscribe(limit=1_000)
        for _ in range(35):
            say(bus, "progress")
        first, *rest = await slow.next_batch()
        assert (first.type, first.seq, first.fields) == ("events.skipped", 25, {"count": 25})
        assert [event.seq for event in rest] == list(range(26, 36))
        assert [event.seq for event in await quick.next_batch()] == list(range(1, 36))
        say(bus, "progress")
        assert [event.type for event in await slow.next_batch()] == ["progress"]
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
        say(bus, "one")
        with pytest.raises(RuntimeError):
            await task
        say(bus, "two")
        assert [event.type for event in await other.next_batch()] == ["one", "two"]

    run(test)


@pytest.mark.parametrize("types", [["*"] * 65, ["x" * 257]])
def test_patterns_are_bounded(types: list[str]) -> None:
    with pytest.raises(InvalidParams):
        Bus(1).subscribe(types)


def test_a_queue_is_bounded_in_bytes_and_one_event_always_has_room() -> None:
    async def test() -> None:
        bus = Bus(1)
        with bus.subscribe(limit=1_000, limit_bytes=1_000_000) as subscription:
            for _ in range(10):
                say(bus, "big", data_bytes=300_000)
            first, *rest = await subscription.next_batch()
            assert first.fields == {"count": 7}
            assert [event.seq for event in rest] == [8, 9, 10]
            say(bus, "small")
            say(bus, "huge", data_bytes=5_000_000)
            first, *rest = await subscription.next_batch()
            assert [event.type for event in rest] == ["huge"]

    run(test)


def test_a_subscriber_gets_no_event_that_it_does_not_take() -> None:
    async def test() -> None:
        bus = Bus(1)
        with bus.subscribe(limit=2, where=lambda event: event.seq % 2 == 0) as subscription:
            for _ in range(8):
                say(bus, "x")
            first, *rest = await subscription.next_batch()
            assert (first.fields, [event.seq for event in rest]) == ({"count": 2}, [6, 8])

    run(test)
