"""The stored part of the stream: a reader is a position, and between the past and the present nothing is lost."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, closing
from functools import wraps
from pathlib import Path
from typing import cast

import pytest

from configurations import configuration, in_force
from corral.supervisor.api.daemon_methods.event import EventFollower
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Events
from corral.supervisor.records.events.bus import QUEUE_LIMIT, RESERVE, Bus
from corral.supervisor.records.events.history import RECENT_EVENTS, EventFilter, EventHistory
from corral.supervisor.records.store.store import Store
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, Overloaded
from seeds import seeds

pytestmark = pytest.mark.shell

BOUND_S = 60.0

Record = dict[str, object]


class Stream:
    """A stream with its store, as a daemon has it."""

    def __init__(self, store: Store, in_force: InForce, event_history: EventHistory) -> None:
        self.in_force = in_force
        self.store = store
        self.event_history = event_history
        self.bus = Bus(event_history.first_seq, event_history.keep, reserve=event_history.reserve)

    def say(self, event_type: str = "build.done", data: object = None, **whom: str) -> int:
        return self.bus.relay(
            event_type,
            data,
            sender="a-0",
            agent=whom.get("agent"),
            worker=whom.get("worker"),
            data_bytes=len(codec.encode(data)),
        ).seq

    def flip(self) -> int:
        """Publishes an event that is not stored."""
        return self.bus.publish(
            "task.progress",
            store=False,
            agent="a",
            task="t",
            attempt=1,
            progress=0.5,
            total=None,
            message="",
            memory_bytes=None,
        ).seq

    async def read(self, since: int, wanted: EventFilter | None = None) -> list[Record]:
        pages = self.event_history.history(since, self.bus.newest, wanted or EventFilter())
        return [record async for page in pages for record in page.records]


@asynccontextmanager
async def stream(folder: Path) -> AsyncGenerator[Stream, None]:
    store = Store.open(folder / "corral.db")
    try:
        following = in_force()
        yield Stream(store, following, await EventHistory.open(store, following))
    finally:
        await store.close()


def on_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    @wraps(test)
    def wrapper(*args: object, **kwargs: object) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return wrapper


class SlowReader:
    """A follower's client: it takes a batch now and then, and lets many turns of the loop pass in between."""

    def __init__(self, chance: random.Random, last: int, turns: int) -> None:
        self.records: list[Record] = []
        self.done = asyncio.Event()
        self._chance = chance
        self._turns = turns
        self.last = last

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        # What it gets is what a client would: JSON.
        events = codec.decode(codec.encode(params["events"]))
        self.records += cast("list[Record]", events)
        if self.records[-1]["seq"] == self.last:
            self.done.set()

    async def drain(self) -> None:
        for _ in range(self._chance.randrange(self._turns)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("types", [["*"], ["even"], ["nobody"]])
@on_loop
async def test_whoever_takes_no_more_than_some_gets_no_more_in_one_page_and_all_in_the_end(
    tmp_path: Path, types: list[str], rows: int
) -> None:
    async with stream(tmp_path) as events:
        for number in range(6):
            kind = "odd" if number % 2 else "even"
            events.bus.relay(kind, number, sender="a-0", data_bytes=1)
        await events.event_history.end(events.bus.newest)  # all is on disk
        wanted = EventFilter(types)
        pages = events.event_history.history(0, events.bus.newest, wanted, rows=rows)
        found = [page.records async for page in pages]
        assert all(0 < len(records) <= rows for records in found)
        told = [record["data"] for records in found for record in records]
        assert told == {"*": [0, 1, 2, 3, 4, 5], "even": [0, 2, 4], "nobody": []}[types[0]]


@pytest.mark.parametrize("seed", seeds(8, 2))
@on_loop
async def test_slow_followers_see_every_stored_event_once_and_in_order(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    print("seed", seed)
    async with stream(tmp_path) as events:
        stored: dict[int, Record] = {}
        unstored: list[int] = []

        def publish() -> None:
            if chance.random() < 0.2:
                unstored.append(events.flip())
                return
            number = chance.randrange(1000)
            event_type = chance.choice(["build.done", "deploy"])
            fields: object = {"number": number, "null": None}
            seq = events.bus.relay(
                event_type,
                fields,
                sender="a-0",
                agent=chance.choice(["a", None]),
                incarnation=chance.choice([3, None]),
                data_bytes=chance.choice([10, 10_000]),
            ).seq
            stored[seq] = {"number": number, "null": None}

        for _ in range(chance.randrange(3_000)):
            publish()
        last = events.bus.newest + 6_000
        readers: list[tuple[int, int, SlowReader, asyncio.Task[None]]] = []
        while events.bus.newest < last - 1:
            if len(readers) < 5 and chance.random() < 0.4:
                since = chance.randrange(events.bus.newest + 1)
                reader = SlowReader(chance, last, chance.choice([1, 5, 100]))
                following = EventFollower(events.bus, events.event_history, EventFilter(), ["*"], reader)
                begun_at = events.bus.newest
                task = asyncio.create_task(following.run(since, reports_expired=True))
                await asyncio.sleep(0)  # it has subscribed
                readers.append((since, begun_at, reader, task))
            burst = chance.choice([1, 10, QUEUE_LIMIT // 2, QUEUE_LIMIT + RECENT_EVENTS // 2])
            for _ in range(min(burst, last - 1 - events.bus.newest)):
                publish()
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
        assert events.say("the.end") == last
        stored[last] = {}
        assert readers
        for since, begun_at, reader, task in readers:
            await reader.done.wait()
            task.cancel()
            told = [r for r in reader.records if r["type"] == "events.skipped"]
            seqs = [cast("int", r["seq"]) for r in reader.records if r["type"] != "events.skipped"]
            assert seqs == sorted(set(seqs))
            assert [seq for seq in seqs if seq in stored] == [s for s in stored if s > since]
            missed = {seq for seq in unstored if seq > begun_at} - set(seqs)
            assert sum(cast("int", each["count"]) for each in told) == len(missed)


@on_loop
async def test_what_is_read_back_is_what_was_shown(tmp_path: Path) -> None:
    async with stream(tmp_path) as events:
        with events.bus.subscribe() as subscription:
            events.say(data={"a": [1, None, "ü\u0000"]}, agent="a", worker="a-0")
            events.bus.publish("daemon.stopping")
            events.bus.publish("agent.paused", agent="a", worker="a-0", incarnation=7)
            shown = [event.record() for event in await subscription.next_batch()]
        from_memory = await events.read(0)
        await events.store.write()
        assert from_memory == shown
    async with stream(tmp_path) as events:
        assert await events.read(0) == shown


@on_loop
async def test_an_event_is_on_disk_no_later_than_what_is_written_after_it(tmp_path: Path) -> None:
    async with stream(tmp_path) as events:
        meta = 0
        for size in (1, 10, 1_000, 100, 1):
            for number in range(size):
                events.say(data="x" * (number * 37 % 700))
            meta += size
            await events.store.write(("INSERT OR REPLACE INTO meta (key, value) VALUES ('later', ?)", (size,)))
            with closing(sqlite3.connect(tmp_path / "corral.db")) as file:
                numbers = file.execute("SELECT seq FROM event ORDER BY seq").fetchall()
            assert [number for (number,) in numbers] == list(range(1, meta + 1))


@on_loop
async def test_events_that_a_locked_store_could_not_take_are_counted_and_later_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.supervisor.records.store.schema.BUSY_TIMEOUT_S", 0.0)
    async with stream(tmp_path) as events:
        with closing(sqlite3.connect(tmp_path / "corral.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            events.say()
            events.say()
            with pytest.raises(Overloaded):
                await events.store.write()
            other.execute("ROLLBACK")
            assert events.store.lost_posts == 2
        kept = events.say()
        await events.store.write()
        assert events.store.lost_posts == 2
        with closing(sqlite3.connect(tmp_path / "corral.db")) as file:
            assert file.execute("SELECT seq FROM event").fetchall() == [(kept,)]


@on_loop
async def test_more_than_is_remembered_is_on_its_way_to_the_disk_and_is_read_all_the_same(tmp_path: Path) -> None:
    async with stream(tmp_path) as events:
        with closing(sqlite3.connect(tmp_path / "corral.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # nothing is written as long as this is open
            for _ in range(3 * RECENT_EVENTS):
                events.say()
            reading = asyncio.create_task(events.read(0))
            for _ in range(3):  # one at a time is read, in order: it has looked at what is there
                await events.store.read("SELECT 1")
            other.execute("ROLLBACK")
        found = [record["seq"] for record in await reading]
        assert found == list(range(1, 3 * RECENT_EVENTS + 1))


@on_loop
async def test_a_reader_may_want_a_type_an_agent_a_worker_or_a_task(tmp_path: Path) -> None:
    async with stream(tmp_path) as events:
        events.say("build.done", {"task": "t-1"}, agent="a", worker="a-0")
        events.say("build.done", agent="a", worker="a-1")
        events.say("deploy", agent="b", worker="b-0")
        events.bus.publish("task.started", agent="b", worker="b-0", task="t-1", attempt=1, delivery=1)
        await events.store.write()
        choices = {
            "types": EventFilter(["build.*", "dep?oy"]),
            "agent": EventFilter(agent="a"),
            "worker": EventFilter(worker="b-0"),
            "task": EventFilter(task="t-1"),
            "none": EventFilter(["nothing"]),
        }
        found = {k: [r["seq"] for r in await events.read(0, v)] for k, v in choices.items()}
        assert found == {"types": [1, 2, 3], "agent": [1, 2], "worker": [3, 4], "task": [4], "none": []}


@on_loop
async def test_a_reader_begins_at_the_last_events_that_it_wants(tmp_path: Path) -> None:
    async with stream(tmp_path) as events:
        for number in range(5_000):
            events.say("rare" if number % 1_000 == 0 else "often")
        newest = events.bus.newest
        begin = events.event_history.begin
        wanted = EventFilter(["rare"])
        assert await begin(wanted, newest=newest, since=None, n=2, until=newest) == 3_000
        assert await begin(wanted, newest=newest, since=3_500, n=9, until=newest) == 3_500
        assert await begin(wanted, newest=newest, since=None, n=9, until=newest) == 0
        assert await begin(wanted, newest=newest, since=None, n=0, until=newest) == newest
        old = EventFilter(since_s=0.0)
        assert await begin(old, newest=newest, since=None, n=None, until=newest) == 0
        assert await events.read(0, EventFilter(since_s=1e11)) == []
        with pytest.raises(Conflict) as refusal:
            await begin(wanted, newest=newest, since=newest + 1, n=None, until=newest)
        assert refusal.value.data["newest"] == newest


@on_loop
async def test_a_number_that_was_given_is_not_given_again_after_a_kill(tmp_path: Path) -> None:
    async with stream(tmp_path) as events:
        assert events.event_history.was_clean
        assert events.event_history.first_seq == 1
        last = [events.flip() for _ in range(RESERVE + 10)][-1]  # shown, and never stored
        await events.store.write()
    async with stream(tmp_path) as events:  # the one before did not end in order
        assert not events.event_history.was_clean
        assert events.event_history.first_seq > last
        last = events.say()
        await events.event_history.end(last)
    async with stream(tmp_path) as events:
        assert events.event_history.was_clean
        assert events.event_history.first_seq == last + 1


# -- retention


def rows(folder: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(folder / "corral.db")) as connection:
        return connection.execute("SELECT seq, type FROM event ORDER BY seq").fetchall()


@asynccontextmanager
async def kept_to(events: Stream, limit: int) -> AsyncGenerator[None, None]:
    events.in_force.adopt(configuration(events=Events(max_bytes=limit)))
    chore = asyncio.create_task(events.event_history.run())
    try:
        yield
    finally:
        chore.cancel()
        await asyncio.gather(chore, return_exceptions=True)


async def until(events: Stream, is_so: Callable[[], bool]) -> None:
    """Waits for what the store does meanwhile."""
    while not is_so():
        await events.store.write()


@on_loop
async def test_agents_that_flood_do_not_erase_what_the_daemon_told(tmp_path: Path) -> None:
    limit = 400_000
    async with stream(tmp_path) as events:
        for _ in range(50):
            events.bus.publish("daemon.stopping")
        async with kept_to(events, limit):
            for _ in range(400):
                events.say(data="x" * 5_000)
                await asyncio.sleep(0)
            newest = events.bus.newest
            await events.store.write()  # all of it has been on disk
            await until(events, lambda: len(rows(tmp_path)) < 50 + limit // 2 // 5_000)
            left = rows(tmp_path)
            assert [seq for seq, kind in left if kind == "daemon.stopping"] == list(range(1, 51))
            agents = [seq for seq, kind in left if kind != "daemon.stopping"]
            assert agents == list(range(newest - len(agents) + 1, newest + 1))
            assert 0.8 * limit / 2 < len(agents) * 5_000


@on_loop
async def test_the_oldest_are_dropped_when_the_limit_shrinks_and_a_reader_learns_it(tmp_path: Path) -> None:
    limit = 1_000_000
    async with stream(tmp_path) as events:
        for _ in range(3_000):
            events.bus.publish("daemon.stopping")
    async with (
        stream(tmp_path) as events,  # which has to find out how much there is
        kept_to(events, limit),
    ):
        assert await events.read(0) != []
        assert len(rows(tmp_path)) == 3_000
        events.in_force.adopt(configuration(events=Events(max_bytes=100_000)))
        await until(events, lambda: events.event_history.removed_to > 0)
        await until(events, lambda: len(rows(tmp_path)) < 1_500)
        left = [seq for seq, _ in rows(tmp_path)]
        assert left == list(range(left[0], 3_001))
        assert 85_000 < len(left) * (2 + len("daemon.stopping") + 48) <= 100_000
        first, second, *_ = await events.read(5)
        assert (first["type"], first["after"], first["first"]) == ("events.expired", 5, left[0])
        assert second["seq"] == left[0]
        assert (await events.read(left[0]))[0]["seq"] == left[0] + 1
    async with stream(tmp_path) as events:
        assert (await events.read(0))[0]["type"] == "events.expired"


@on_loop
async def test_what_is_too_old_goes_in_slices_and_the_rest_stays(tmp_path: Path) -> None:
    now = 1_767_225_600.0
    async with stream(tmp_path) as events:
        events.bus = Bus(1, events.event_history.keep, clock=lambda: now)
        for _ in range(2_500):
            events.say()
        now += 100.0
        kept = [events.say() for _ in range(100)]
        await events.store.write()
        async with kept_to(events, Events().max_bytes):
            await events.event_history.expire(now - 50.0)
        assert [seq for seq, _ in rows(tmp_path)] == kept
        now_read = [record["seq"] for record in await events.read(kept[0] - 1)]
        assert now_read == kept
        events.bus.publish("daemon.stopping")
        async with kept_to(events, Events().max_bytes):
            await events.event_history.expire(now + 50.0)  # also what is still remembered
        (told,) = await events.read(0)
        assert told["type"] == "events.expired"


@on_loop
async def test_a_list_that_goes_on_after_a_number_does_not_look_for_its_time_again(tmp_path: Path) -> None:
    async with stream(tmp_path) as it:
        seq = it.say()
        await it.store.close()  # so that to look would fail
        wanted = EventFilter(since_s=0.0)
        assert await it.event_history.begin(wanted, newest=seq, since=0, n=None, until=seq) == 0
