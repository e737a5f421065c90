"""Memory pools over a real store: sums, limits of several agents together, and what gives way."""

import json
import random
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.records.memory.pooling import COUNTED_S, Bounds, Membership
from corral.worker.contract.errors import NotFound, ResourceLimitExceeded
from memory_room import Room, on_loop, room, told

pytestmark = pytest.mark.shell

KIB = 1024


def file(overflow: str = "evict", **more: object) -> str:
    keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
    return f"""
[pools.p]
max_bytes = "16KiB"
overflow = "{overflow}"
{keys}
[pools.other]
max_bytes = "1MiB"
[tenants.acme]
pool = "p"
[agents.a]
command = ["x"]
memory = {{ pool = "p" }}
[agents."acme/b"]
command = ["x"]
[agents.c]
command = ["x"]
memory = {{ pool = "other" }}
[agents.d]
command = ["x"]
"""


async def pool(here: Room, name: str = "p") -> dict[str, Any]:
    listed = await here.listing.pools(here.specs)
    return next(each for each in listed if each["name"] == name)


def counted(here: Room, *agents: str) -> int:
    """The bytes of sessions and keys, counted row by row."""
    marks = ", ".join("?" * len(agents))
    rows = here.rows(
        f"SELECT (SELECT COALESCE(SUM(size_bytes), 0) FROM session WHERE agent IN ({marks})) +"
        f" (SELECT COALESCE(SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)), 0) FROM memory WHERE agent IN ({marks}))",
        *agents,
        *agents,
    )
    return int(rows[0][0])


async def put(here: Room, agent: str, key: str, size: int, ttl_s: float | None = None) -> None:
    await here.memory.key_values.put(agent, "", key, "x" * size, ttl_s=ttl_s)


@on_loop
async def test_a_pool_sums_the_sessions_and_keys_of_its_agents_and_of_no_others(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file())
        for agent in ("a", "acme/b", "c", "d"):
            await here.turn("s", "x" * KIB, agent)
            await put(here, agent, "k", 500)
        found = await pool(here)
        assert found["used_bytes"] == counted(here, "a", "acme/b")
        assert found["used_bytes"] == found["size_bytes"] + found["keys_bytes"]
        assert (found["sessions"], found["keys"]) == (2, 2)
        assert (found["agents"], found["tenants"]) == (["a", "acme/b"], ["acme"])
        assert (await pool(here, "other"))["used_bytes"] == counted(here, "c")
        stats: Any = (await here.listing.stats(None))["agents"]
        assert [each["pool"] for each in stats] == ["p", "p", "other", None]
        some = await here.listing.pools(here.specs, lambda name: name.startswith("acme/"))
        assert [(each["name"], each["agents"]) for each in some] == [("p", ["acme/b"])]


@on_loop
async def test_what_was_used_longest_ago_gives_way_whichever_agent_has_it(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file())
        await put(here, "acme/b", "old", 4 * KIB)
        await here.turn("first", "x" * 4 * KIB)
        await here.turn("other", "x" * 4 * KIB, "c")
        await here.turn("second", "x" * 4 * KIB, "acme/b")
        await put(here, "a", "new", 10 * KIB)
        assert await told(here, "memory.evicted") == {"agent": "a", "session": "first", "pool": "p"}
        evicted = {"agent": "acme/b", "keys": 1, "pool": "p"}
        assert await told(here, "memory.keys_evicted") == evicted
        assert here.rows("SELECT agent, key FROM memory") == [("a", "new")]
        assert (await pool(here))["used_bytes"] == counted(here, "a", "acme/b") < 15.5 * KIB
        assert await here.seen("first") == []
        assert len(await here.seen("second", "acme/b")) == len(await here.seen("other", "c")) == 1


@on_loop
async def test_a_session_that_a_task_works_on_stays_and_what_cannot_fit_is_refused(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file())
        await here.turn("busy", "x" * 12 * KIB)
        task = here.begun("busy")
        with pytest.raises(ResourceLimitExceeded) as caught:
            await put(here, "acme/b", "k", 6 * KIB)
        assert {key: caught.value.data[key] for key in ("pool", "limit", "value", "key")} == {
            "pool": "p",
            "limit": "max_bytes",
            "value": 16 * KIB,
            "key": "k",
        }
        assert here.rows("SELECT COUNT(*) FROM memory") == [(0,)]
        here.memory.ended(task)
        await put(here, "acme/b", "k", 6 * KIB)
        assert here.rows("SELECT session FROM session") == []


@on_loop
async def test_a_pool_that_refuses_keeps_all_and_takes_what_grows_nothing(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file("refuse"))
        await here.turn("s", "x" * 10 * KIB)
        task = here.begun("s")
        await here.recalled("s")
        with pytest.raises(ResourceLimitExceeded) as caught:
            await here.finish(task, {"append": [{"content": "x" * 8 * KIB}]})
        here.memory.dropped(task)
        assert caught.value.data["session"] == "s"
        assert await here.seen("s") == ["x" * 10 * KIB]
        await put(here, "acme/b", "k", 4 * KIB)
        here.file(file("refuse").replace("16KiB", "8KiB"))
        await put(here, "acme/b", "k", 3 * KIB)
        task = here.begun("s")
        await here.recalled("s")
        await here.finish(task, {"history": [{"content": "y" * 6 * KIB}]})
        assert await here.seen("s") == ["y" * 6 * KIB]
        assert 8 * KIB < (await pool(here))["used_bytes"] == counted(here, "a", "acme/b")


@on_loop
async def test_a_pool_that_trims_takes_the_oldest_messages_of_the_session_alone(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file("trim"))
        await here.turn("s", "1" * 5 * KIB)
        await here.turn("s", "2" * 5 * KIB)
        await put(here, "acme/b", "k", 2 * KIB)
        await here.turn("s", "3" * 6 * KIB)
        assert [each[0] for each in await here.seen("s")] == ["2", "3"]
        assert (await told(here, "memory.trimmed"))["dropped"] == 1
        assert (await pool(here))["used_bytes"] == counted(here, "a", "acme/b") <= 16 * KIB
        here.memory.cache.remove(("a", "s"))  # what the store has is the same
        assert [each[0] for each in await here.seen("s")] == ["2", "3"]
        with pytest.raises(ResourceLimitExceeded):
            await put(here, "acme/b", "l", 8 * KIB)
        task = here.begun("s")
        await here.recalled("s")
        with pytest.raises(ResourceLimitExceeded):
            await here.finish(task, {"append": [{"content": "x" * 15 * KIB}]})


@on_loop
async def test_what_has_expired_makes_room_first_and_no_sum_has_it(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file("refuse"))
        await put(here, "acme/b", "k", 8 * KIB, ttl_s=1e-9)
        await here.turn("s", "x" * 7 * KIB)
        await here.memory.expire_session("a", "s", 1e-9)
        found = await pool(here)
        assert (found["used_bytes"], found["sessions"], found["keys"]) == (0, 0, 0)
        await put(here, "a", "k", 15 * KIB)
        gone = [await told(here, "memory.expired") for _ in range(2)]
        assert gone == [{"agent": "a", "sessions": 1, "keys": 0}, {"agent": "acme/b", "sessions": 0, "keys": 1}]
        assert (await pool(here))["used_bytes"] == counted(here, "a", "acme/b")


@on_loop
async def test_sums_are_right_after_any_mixture_of_changes(tmp_path: Path) -> None:
    chance = random.Random(79)
    async with room(tmp_path) as here:
        here.file(file())
        for number in range(300):
            agent, name = chance.choice(["a", "acme/b"]), chance.choice("uvwxyz")
            kind = chance.randrange(6)
            if kind < 2:
                await here.turn(name, "x" * chance.randrange(3 * KIB), agent)
            elif kind < 4:
                await put(here, agent, name, chance.randrange(3 * KIB), chance.choice([None, 9e9]))
            elif kind == 4:
                await here.memory.key_values.delete(agent, "", name)
            elif here.rows("SELECT 1 FROM session WHERE agent = ? AND session = ?", agent, name):
                await here.memory.clear(agent, name)
            if number % 25 == 0:
                found = await pool(here)
                assert found["used_bytes"] == counted(here, "a", "acme/b") <= 16 * KIB
        assert here.rows("SELECT SUM(sessions) FROM memory_usage") == here.rows("SELECT COUNT(*) FROM session")


@on_loop
async def test_the_memory_of_a_removed_agent_counts_in_the_pool_of_its_tenant(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file())
        await here.turn("s", "x" * KIB, "acme/b")
        await here.turn("s", "x" * KIB, "a")
        before = (await pool(here))["used_bytes"]
        del here.specs["acme/b"], here.specs["a"]
        assert (await pool(here))["used_bytes"] == before - counted(here, "a")
        assert (await pool(here))["agents"] == ["acme/b"]


def test_a_sum_is_a_bound_with_the_growth_since_until_it_is_old_or_the_file_changes() -> None:
    now = [0.0]
    config = decode(file(), source="none", directory="/")
    membership = Membership(config, config.tenants, config.agents.get)
    of_pool = config.pools["p"]
    bounds = Bounds(lambda: now[0])
    assert bounds.grown(membership, of_pool, 5) is None
    bounds.counted(membership, of_pool, 100)
    assert [bounds.grown(membership, of_pool, 5) for _ in range(2)] == [105, 110]
    assert bounds.grown(membership, config.pools["other"], 5) is None
    again = decode(file(), source="none", directory="/")
    other = Membership(again, again.tenants, again.agents.get)
    assert bounds.grown(other, again.pools["p"], 5) is None
    assert bounds.grown(membership._replace(tenants={}), of_pool, 5) is None
    now[0] = COUNTED_S
    assert bounds.grown(membership, of_pool, 5) is None


# -- ends


@on_loop
async def test_a_session_whose_time_is_over_is_gone_at_once_and_begins_anew(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        before = time.time()
        await here.turn("s")
        task = here.begun("s")
        await here.recalled("s")
        await here.finish(task, {"append": [{"content": "two"}], "ttl_s": 3600})
        (listed,) = await here.listing.sessions("a", 10)
        assert _seconds(listed) == pytest.approx(before + 3600, abs=60)
        await here.turn("s", "three")  # it leaves the end as it is
        assert _seconds(await here.memory.show("a", "s", None)) == _seconds(listed)
        for store_alone in (False, True):
            await here.memory.expire_session("a", "s", 1e-9)
            if store_alone:
                here.memory.cache.remove(("a", "s"))
            assert await here.listing.sessions("a", 10) == []
            assert (await here.listing.stats("a"))["agents"] == []
            with pytest.raises(NotFound):
                await here.memory.show("a", "s", None)
            with pytest.raises(NotFound):
                await here.memory.expire_session("a", "s", 60)
            assert (await here.turn("s", "again"))["turns"] == 0
            assert await told(here, "memory.expired") == {"agent": "a", "sessions": 1, "keys": 0}
            assert await here.seen("s") == ["again"]


@on_loop
async def test_an_end_that_is_taken_back_leaves_that_of_the_retention(tmp_path: Path) -> None:
    async with room(tmp_path, retention=7200.0) as here:
        await here.turn("s")
        await here.memory.expire_session("a", "s", 60)
        (listed,) = await here.listing.sessions("a", 10)
        assert _seconds(listed) == pytest.approx(time.time() + 60, abs=30)
        await here.memory.expire_session("a", "s", None)
        (listed,) = await here.listing.sessions("a", 10)
        assert _seconds(listed) == pytest.approx(time.time() + 7200, abs=30)
        assert await here.seen("s") == ["hello"]


@on_loop
async def test_a_session_that_a_task_works_on_outlives_its_end_until_the_task_has_ended(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.turn("s")
        task = here.begun("s")
        await here.recalled("s")
        await here.memory.expire_session("a", "s", 1e-9)
        assert await here.expiry.expire(time.time()) == {"sessions": 0, "keys": 0}
        await here.finish(task, {"append": [{"content": "two"}], "ttl_s": None})
        assert await here.seen("s") == ["hello", "two"]


@on_loop
async def test_each_pool_is_cleaned_up_at_its_own_interval_and_by_its_own_retention(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.file(file(retention=100, cleanup_interval=10))
        for agent in ("a", "c"):
            await here.turn("s", "x", agent)
            await put(here, agent, "k", 1, ttl_s=5.0)
        await here.expiry.expire_due(time.time())
        assert here.expiry.due_in_s == 10
        here.clock += 9.5
        await here.expiry.expire_due(time.time() + 3600)
        assert here.rows("SELECT COUNT(*) FROM session") == [(2,)]
        here.clock += 0.5
        await here.expiry.expire_due(time.time() + 3600)
        assert here.rows("SELECT agent FROM session") == [("c",)]
        assert here.rows("SELECT agent FROM memory") == [("c",)]
        assert await told(here, "memory.expired") == {"agent": "a", "sessions": 1, "keys": 1}
        here.clock += 3600
        await here.expiry.expire_due(time.time() + 3600)
        assert here.rows("SELECT agent FROM memory") == []
        assert here.rows("SELECT agent FROM session") == [("c",)]


def _seconds(record: Mapping[str, object]) -> float:
    return datetime.fromisoformat(str(record["expires_at"])).timestamp()
