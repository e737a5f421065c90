"""One suite for all engines: real servers on the loopback address, killed, stopped and started again.

Each test holds for NATS and for Redis. A test whose server is not installed is skipped.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import REDELIVERY_S, VALUE_BYTES_MAX, Change, Engine, Taken, Watch
from corral.supervisor.cluster.engine.local_servers import LocalServers, program_of
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound, ResourceLimitExceeded, Timeout
from daemon_process import BOUND_S

pytestmark = [
    pytest.mark.shell,
    # The clients do not wait for the end of a connection that they lost.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

LONG_S = 600.0
"""Seconds that a call may take which has to end long before."""

Kind = Literal["nats", "redis"]


def installed(kind: Kind) -> str:
    """Why an engine cannot be tested here; "" if it can."""
    try:
        program_of(kind)
        __import__(kind)
    except InvalidParams as error:
        return error.message
    except ImportError as error:
        return f"{error.name} is not installed"
    return ""


def started(kind: Literal["nats", "redis"], folder: Path, fsync: Literal["usual", "always"]) -> Iterator[LocalServers]:
    if reason := installed(kind):
        pytest.skip(reason)
    with LocalServers(kind, 1, folder, fsync=fsync) as found:
        yield found


@pytest.fixture(params=["nats", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalServers]:
    yield from started(request.param, tmp_path, "usual")


@pytest.fixture(params=["nats", "redis"])
def syncing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalServers]:
    """Servers that confirm nothing before it is on the disk: a kill of Redis may lose writes otherwise."""
    yield from started(request.param, tmp_path, "always")


def settings(servers: LocalServers, **more: Any) -> ClusterSettings:
    return ClusterSettings(engine=servers.kind, url=servers.url, **more)


def run(servers: LocalServers, test: Callable[[Engine], Awaitable[None]], **how: Any) -> None:
    """Runs a test with a connection of its own, bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S * 2):
            engine = await open_engine(settings(servers), **how)
            try:
                await test(engine)
            finally:
                await engine.close()

    asyncio.run(bounded())


async def soon(engine: Engine, work: Callable[[], Awaitable[Any]]) -> Any:
    """Repeats work until the engine answers."""
    end = time.monotonic() + BOUND_S
    while True:
        try:
            return await work()
        except Timeout:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def until_stopped(pid: int) -> None:
    """Waits until each thread of a process is stopped."""
    end = time.monotonic() + BOUND_S
    while True:
        states = [each.read_text().rpartition(")")[2] for each in Path("/proc").glob(f"{pid}/task/*/stat")]
        if all(each.split()[0] == "T" for each in states):
            return
        assert time.monotonic() < end
        await asyncio.sleep(0)


async def changed(watch: Watch, key: str) -> Change:
    async with asyncio.timeout(BOUND_S):
        while True:
            change = await watch.next()
            if change.key == key:
                return change


# -- keys


def test_a_key_is_stored_only_at_its_revision(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        assert await engine.get("a/b") is None
        first = await engine.put("a/b", b"1", revision=0)
        with pytest.raises(Conflict) as caught:
            await engine.put("a/b", b"2", revision=0)
        assert caught.value.data["revision"] == first
        second = await engine.put("a/b", b"2", revision=first)
        assert second > first
        with pytest.raises(Conflict):
            await engine.put("a/b", b"3", revision=first)
        found = await engine.get("a/b")
        assert found is not None
        assert (found.value, found.revision) == (b"2", second)

    run(servers, test)


def test_a_revision_grows_over_all_keys(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        found = [await engine.put(f"k/{i % 5}-{i}", b"", revision=0) for i in range(50)]
        assert found == sorted(set(found))

    run(servers, test)


def test_one_of_many_writers_of_a_revision_wins(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        async def write(i: int) -> bool:
            try:
                await engine.put("one", str(i).encode(), revision=0)
            except Conflict:
                return False
            return True

        assert sum(await asyncio.gather(*map(write, range(50)))) == 1

    run(servers, test, timeout_s=BOUND_S)  # each of them may open a connection


def test_a_deleted_key_is_gone_and_can_be_made_again(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        first = await engine.put("a", b"1", revision=0)
        with pytest.raises(Conflict):
            await engine.put("a", None, revision=first + 999)
        await engine.put("a", None, revision=first)
        assert await engine.get("a") is None
        with pytest.raises(Conflict):
            await engine.put("a", None, revision=first)
        with pytest.raises(Conflict):
            await engine.put("a", b"2", revision=first)
        assert await engine.put("a", b"2", revision=0) > first

    run(servers, test)


def test_a_lease_ends_by_itself_and_a_watch_sees_it(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        watch = await engine.watch("leases")
        await engine.put("leases/n1", b"x", revision=0, ttl_s=1)
        assert (await changed(watch, "leases/n1")).value == b"x"
        assert (await changed(watch, "leases/n1")).value is None
        assert await engine.get("leases/n1") is None
        await engine.put("leases/n1", b"y", revision=0, ttl_s=1)

    run(servers, test)


def test_a_lease_that_is_renewed_goes_on(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        revision = await engine.put("lease", b"x", revision=0, ttl_s=2)
        began = time.monotonic()
        while time.monotonic() - began < 3.5:
            revision = await engine.put("lease", b"x", revision=revision, ttl_s=2)
            await asyncio.sleep(0.25)
        assert await engine.get("lease") is not None

    run(servers, test)


def test_large_values_pass_whole_and_larger_ones_are_refused(servers: LocalServers) -> None:
    value = os.urandom(VALUE_BYTES_MAX)

    async def test(engine: Engine) -> None:
        watch = await engine.watch("big")
        await engine.put("big/one", value, revision=0)
        found = await engine.get("big/one")
        assert found is not None
        assert found.value == value
        assert (await changed(watch, "big/one")).value == value
        await engine.append("big", "one", value)
        (taken,) = await engine.take("big", 5)
        assert taken.payload == value
        for work in (
            engine.put("big/two", value + b"1", revision=0),
            engine.append("big", "two", value + b"1"),
            engine.publish("big", value + b"1"),
            engine.request("big", value + b"1", 1),
        ):
            with pytest.raises(ResourceLimitExceeded) as caught:
                await work
            assert caught.value.data["limit"] == VALUE_BYTES_MAX

    run(servers, test)


def test_a_name_that_an_engine_would_misread_is_refused(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        for name in ("", "a.b", "a b", "a//b", "/a", "a/", "a/*", "a\n", "ä", ">"):
            for work in (
                engine.get(name),
                engine.put(name, b"", revision=0),
                engine.append("q", name, b""),
                engine.take(name, 0),
                engine.publish(name, b""),
                engine.request(name, b"", 1),
            ):
                with pytest.raises(InvalidParams):
                    await work
        with pytest.raises(ResourceLimitExceeded):
            await engine.get("a" * 257)

    run(servers, test)


# -- watches


def test_a_watch_begins_with_what_is_there_and_sees_its_prefix_alone(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        for key in ("nodes/a", "nodes/b", "nodesx", "other/a"):
            await engine.put(key, key.encode(), revision=0)
        watch = await engine.watch("nodes")
        await watch.synced()
        assert set(watch.entries()) == {"nodes/a", "nodes/b"}
        empty = await engine.watch("nothing")
        async with asyncio.timeout(5):
            await empty.synced()
        assert empty.entries() == {}

    run(servers, test)


def test_a_slow_reader_gets_the_newest_state_of_each_key(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        watch = await engine.watch("k")
        await watch.synced()
        revisions = [0, 0, 0]
        for i in range(300):
            key = i % 3
            revisions[key] = await engine.put(f"k/{key}", str(i).encode(), revision=revisions[key])
        async with asyncio.timeout(BOUND_S):
            while watch.entries().get("k/2") is None or watch.entries()["k/2"].revision != revisions[2]:
                await asyncio.sleep(0.01)
        found = [await watch.next() for _ in range(3)]
        assert {change.key: change.value for change in found} == {"k/0": b"297", "k/1": b"298", "k/2": b"299"}

    run(servers, test)


def test_a_watch_survives_the_kill_of_its_server(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        watch = await engine.watch("k")
        first = await engine.put("k/stays", b"1", revision=0)
        await engine.put("k/lease", b"1", revision=0, ttl_s=2)
        await changed(watch, "k/lease")
        servers.kill(0)
        servers.start(0)
        await soon(engine, lambda: engine.put("k/stays", b"2", revision=first))
        while (await changed(watch, "k/stays")).value != b"2":
            pass
        while "k/lease" in watch.entries():
            await asyncio.wait_for(watch.next(), BOUND_S)
        # A connection that the client kept from before may tell of the end first.
        assert await soon(engine, lambda: engine.get("k/lease")) is None

    run(servers, test)


# -- tasks


def test_a_task_is_taken_once_and_ends(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        for i in range(20):
            await engine.append("q/x", f"t{i}", str(i).encode())
        await engine.append("q/x", "t7", b"again")
        found: list[Taken] = []
        while taken := await engine.take("q/x", 0.3):
            found += taken
            await engine.settle(taken[0], "done")
        assert [each.id for each in found] == [f"t{i}" for i in range(20)]
        assert [each.payload for each in found] == [str(i).encode() for i in range(20)]
        assert {each.delivery for each in found} == {1}

    run(servers, test)


def test_tasks_that_are_there_are_taken_together_and_no_more_than_asked_for(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        for i in range(5):
            await engine.append("q", f"t{i}", b"")
        first = await engine.take("q", 5, 3)
        assert [each.id for each in first] == ["t0", "t1", "t2"]
        began = time.monotonic()
        rest = await engine.take("q", LONG_S, 3)
        assert [each.id for each in rest] == ["t3", "t4"]
        assert time.monotonic() - began < LONG_S / 2  # it waits for none beside those
        assert await engine.take("q", 0, 3) == []

    run(servers, test)


def test_a_queue_shows_what_is_not_done_in_its_order(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        assert await engine.queued("q/x", 10) == []
        for i in range(3):
            await engine.append("q/x", f"t{i}", str(i).encode())
        await engine.append("q/x/y", "other", b"other")
        (taken,) = await engine.take("q/x", 5)
        assert await engine.queued("q/x", 10) == [b"0", b"1", b"2"]
        await engine.settle(taken, "done")
        async with asyncio.timeout(BOUND_S):
            while await engine.queued("q/x", 1) != [b"1"]:
                await asyncio.sleep(0.01)

    run(servers, test)


def test_an_empty_queue_waits_no_longer_than_it_may_and_wakes_at_once(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        async with asyncio.timeout(BOUND_S):
            assert await engine.take("q", 0.5) == []
            assert await engine.take("q", 0) == []
        waiting = asyncio.create_task(engine.take("q", LONG_S))
        await asyncio.sleep(0.2)
        await engine.append("q", "one", b"")
        async with asyncio.timeout(BOUND_S):
            assert await waiting != []

    run(servers, test)


def test_a_task_whose_taker_is_silent_is_delivered_to_another(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        other = await open_engine(settings(servers))
        await engine.append("q", "one", b"x")
        assert len(await other.take("q", 5)) == 1
        await other.close()  # it never settles
        began = time.monotonic()
        (again,) = await engine.take("q", BOUND_S)
        assert (again.id, again.delivery) == ("one", 2)
        assert REDELIVERY_S - 0.5 < time.monotonic() - began < REDELIVERY_S + 2
        await engine.settle(again, "done")

    run(servers, test)


@pytest.mark.long
def test_a_task_whose_taker_works_stays_with_it(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        other = await open_engine(settings(servers))
        await engine.append("q", "one", b"x")
        (taken,) = await other.take("q", 5)
        began = time.monotonic()
        while time.monotonic() - began < REDELIVERY_S + 1.5:
            await other.settle(taken, "working")
            assert await engine.take("q", 0.4) == []
        await other.settle(taken, "done")
        assert await engine.take("q", 0.4) == []
        await other.close()

    run(servers, test)


def test_a_task_that_is_given_back_is_delivered_at_once(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        await engine.append("q", "one", b"x")
        (taken,) = await engine.take("q", 5)
        await engine.settle(taken, "again")
        async with asyncio.timeout(REDELIVERY_S - 1):
            (again,) = await engine.take("q", 5)
        assert (again.id, again.payload, again.delivery) == ("one", b"x", 2)

    run(servers, test)


def test_what_was_confirmed_survives_the_kill_of_its_server(syncing: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        confirmed: list[str] = []
        stop = asyncio.Event()

        async def append() -> None:
            number = 0
            while not stop.is_set():
                name = f"t{number}"
                await soon(engine, lambda: engine.append("q", name, b"x"))  # noqa: B023  # awaited at once
                confirmed.append(name)
                number += 1

        task = asyncio.create_task(append())
        for _ in range(3):
            seen = len(confirmed)
            while len(confirmed) < seen + 50:
                await asyncio.sleep(0.01)
            syncing.kill(0)
            syncing.start(0)
        seen = len(confirmed)
        while len(confirmed) < seen + 50:
            await asyncio.sleep(0.01)
        stop.set()
        await task
        found: list[str] = []
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:  # one whose taker had no answer comes again after a time
            if taken := await engine.take("q", 1.0):
                found.append(taken[0].id)
                await soon(engine, partial(engine.settle, taken[0], "done"))
            elif set(confirmed) <= set(found):
                break
        assert set(confirmed) <= set(found)
        assert len(found) == len(set(found))

    run(syncing, test)


# -- messages


def test_a_message_reaches_all_who_listen(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        await engine.publish("events/a", b"nobody")
        one, two = await engine.subscribe("events/a"), await engine.subscribe("events/*")
        await engine.publish("events/a", b"x y")
        await engine.publish("events/b/c", b"")
        assert (await one.next()).payload == b"x y"
        assert [(m := await two.next()).subject, m.payload] == ["events/a", b"x y"]
        assert (await two.next()).subject == "events/b/c"

    run(servers, test)


def test_a_request_is_answered_and_one_without_a_listener_fails_at_once(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        other = await open_engine(settings(servers))
        calls = await other.subscribe("nodes/n2")

        async def serve() -> None:
            while True:
                message = await calls.next()
                await message.answer(b"re " + message.payload)

        serving = asyncio.create_task(serve())
        found = await asyncio.gather(*(engine.request("nodes/n2", str(i).encode(), BOUND_S) for i in range(200)))
        assert found == [b"re " + str(i).encode() for i in range(200)]
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(NotFound):
                await engine.request("nodes/n3", b"", LONG_S)
            serving.cancel()
            with pytest.raises(Timeout) as caught:
                await engine.request("nodes/n2", b"", 0.5)
        assert caught.value.data["uncertain"] is True
        await other.close()

    run(servers, test)


def test_a_slow_subscriber_is_bounded_and_hurts_nobody(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        slow = await engine.subscribe("flood", messages_max=100)
        fast = await engine.subscribe("flood", messages_max=10_000)
        for i in range(2000):
            await engine.publish("flood", str(i).encode() * 100)
        last = 0
        async with asyncio.timeout(BOUND_S):
            while last < 1999:
                last = int((await fast.next()).payload[: len(str(1999))])
                if not str(last).startswith("1999"):
                    last = 0
        assert fast.dropped == 0
        assert slow.dropped == 1900
        assert (await slow.next()).payload == b"0" * 100

    run(servers, test)


def test_a_subscription_survives_the_kill_of_its_server(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        found = await engine.subscribe("events/a")
        servers.kill(0)
        servers.start(0)
        end = time.monotonic() + BOUND_S
        while True:
            await soon(engine, lambda: engine.publish("events/a", b"x"))
            try:
                async with asyncio.timeout(0.2):
                    await found.next()
                return
            except TimeoutError:
                assert time.monotonic() < end

    run(servers, test)


# -- waits


def test_every_operation_ends_while_the_server_is_frozen_and_works_afterwards(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        revision = await engine.put("a", b"1", revision=0)
        await engine.append("q", "one", b"")
        (taken,) = await engine.take("q", 5)
        servers.signal(0, signal.SIGSTOP)
        await until_stopped(servers.processes[0].pid)
        async with asyncio.timeout(BOUND_S):
            ends = await asyncio.gather(
                engine.get("a"),
                engine.put("a", b"2", revision=revision),
                engine.put("a", None, revision=revision),
                engine.append("q", "two", b""),
                engine.request("x", b"", 1),
                return_exceptions=True,
            )
            assert [each for each in ends if not isinstance(each, CorralError)] == []
            with contextlib.suppress(CorralError):  # it is not confirmed
                await engine.settle(taken, "done")
            assert await engine.take("q", 0.5) == []
        servers.signal(0, signal.SIGCONT)
        await soon(engine, lambda: engine.get("a"))
        await soon(engine, lambda: engine.append("q2", "three", b""))
        assert await engine.take("q2", BOUND_S) != []

    run(servers, test, timeout_s=1.0)


def test_a_server_that_is_not_there_is_named() -> None:
    kinds: tuple[Kind, ...] = ("nats", "redis")
    for kind in kinds:
        if installed(kind):
            continue
        wanted = ClusterSettings(engine=kind, url=f"{kind}://u:secret-word@127.0.0.1:1")
        with pytest.raises(Timeout) as caught:
            asyncio.run(open_engine(wanted, start_s=0.5))
        assert "secret-word" not in f"{caught.value} {caught.value.data}"
        assert "127.0.0.1:1" in str(caught.value)


def test_a_wrong_token_is_refused_and_a_right_one_is_taken(tmp_path: Path) -> None:
    if reason := installed("nats"):
        pytest.skip(reason)
    with LocalServers("nats", 1, tmp_path, token="right") as servers:
        with pytest.raises(CorralError):
            asyncio.run(open_engine(settings(servers, token="wrong"), start_s=1.0))

        async def right() -> None:
            engine = await open_engine(settings(servers, token="right"))
            await engine.close()

        asyncio.run(right())


def test_what_an_engine_cannot_promise_is_said(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        found = " ".join(await engine.weaknesses())
        assert ("sync_interval" if engine.kind == "nats" else "appendfsync everysec") in found

    run(servers, test)
