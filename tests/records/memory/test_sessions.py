"""What agents remember, with a real store: limits, the pool, what expires, and what was damaged."""

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.records.memory.listing import LIST_MAX
from corral.supervisor.records.memory.session import ROWS_MAX, SINCE_BYTES
from corral.supervisor.records.store.schema import APPLICATION_ID, MIGRATIONS
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    Conflict,
    Corrupted,
    InvalidParams,
    NotFound,
    ResourceLimitExceeded,
    WorkerFailed,
)
from memory_room import on_loop, room, told

pytestmark = pytest.mark.shell

KIB = 1024


# -- sessions


@on_loop
async def test_a_session_comes_back_from_the_store_as_it_was_left(tmp_path: Path) -> None:
    async with room(tmp_path) as first:
        task = first.begun("s")
        given = await first.recalled("s")
        assert given == {"session": "s", "turns": 0, "history": [], "variables": {}, "data": {}}
        await first.finish(
            task,
            {
                "append": [{"role": "user", "content": "é"}],
                "variables": {"set": {"name": "Ada", "old": 1}},
                "data": {"set": {"cart": [1, 2]}},
            },
        )
        task = first.begun("s")
        await first.recalled("s")
        await first.finish(task, {"history": [{"role": "user", "content": "e"}], "variables": {"delete": ["old"]}})
    async with room(tmp_path) as second:
        assert await second.recalled("s") == {
            "session": "s",
            "turns": 2,
            "history": [{"role": "user", "content": "e"}],
            "variables": {"name": "Ada"},
            "data": {"cart": [1, 2]},
        }


@on_loop
async def test_a_session_goes_to_another_store_as_one_record_and_goes_on_there(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    async with room(tmp_path / "one") as one, room(tmp_path / "two") as two:
        for text in ("a", "b"):
            task = one.begun("s")
            await one.recalled("s")
            await one.finish(
                task, {"append": [{"role": "user", "content": text}], "variables": {"set": {"last": text}}}
            )
        assert await one.memory.packed("a", "absent") is None
        record = await one.memory.packed(task.agent, "s")
        assert record is not None
        for _ in range(2):  # also over what is there
            await two.memory.unpack(task.agent, "s", record)
            assert await two.recalled("s") == await one.recalled("s")
        task = two.begun("s")
        await two.recalled("s")
        await two.finish(task, {"append": [{"role": "user", "content": "c"}]})
        found = await two.recalled("s")
        assert found["turns"] == 3
        assert [each["content"] for each in found["history"]] == ["a", "b", "c"]


@on_loop
async def test_a_turn_that_was_not_written_leaves_no_trace(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.turn("s", "one")
        task = here.begun("s")
        await here.recalled("s")
        assert here.memory.keep(task, {"append": [{"content": "never"}]})
        here.memory.dropped(task)
        here.memory.ended(task)
        assert await here.seen("s") == ["one"]
        await here.turn("s", "two")
        assert await here.seen("s") == ["one", "two"]


@on_loop
async def test_agents_do_not_see_each_others_sessions(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.turn("s", "mine", agent="a")
        assert await here.seen("s", agent="b") == []


@pytest.mark.parametrize("pool_bytes", [0, 64 * KIB * KIB])
@on_loop
async def test_many_turns_are_put_together_and_lose_nothing(tmp_path: Path, pool_bytes: int) -> None:
    async with room(tmp_path, max_pool_bytes=pool_bytes) as here:
        turns = ROWS_MAX + 3
        for number in range(turns):
            await here.turn("s", str(number))
        assert await here.seen("s") == [str(number) for number in range(turns)]
        assert here.rows("SELECT COUNT(*) FROM session_turn")[0][0] < ROWS_MAX
    async with room(tmp_path) as again:
        assert await again.seen("s") == [str(number) for number in range(turns)]


@on_loop
async def test_histories_that_are_changed_as_a_whole_do_not_pile_up_in_the_store(tmp_path: Path) -> None:
    async with room(tmp_path, compression=False) as here:
        for number in range(12):
            task = here.begun("s")
            await here.recalled("s")
            message = {"role": "user", "content": str(number) * 256 * KIB}
            await here.finish(task, {"history": [message], "data": {"set": {str(number): 1}}})
        await here.store.write(("SELECT 1", ()))  # after what was posted before
        (listed,) = await here.listing.sessions("a", 10)
        assert int(str(listed["stored_bytes"])) < 2 * SINCE_BYTES
        given = await here.recalled("s")
        assert (len(given["history"]), len(given["data"])) == (1, 12)


@on_loop
async def test_what_is_put_together_is_compressed_where_that_is_wanted(tmp_path: Path) -> None:
    sizes: dict[bool, int] = {}
    for compression in (True, False):
        folder = tmp_path / str(compression)
        async with room(folder, compression=compression) as here:
            for _ in range(ROWS_MAX + 1):
                await here.turn("s", "the same words again and again")
            (listed,) = await here.listing.sessions("a", 10)
            sizes[compression] = int(str(listed["stored_bytes"]))
    assert sizes[True] * 4 < sizes[False]


@on_loop
async def test_the_pool_holds_no_more_than_it_may_and_the_store_has_the_rest(tmp_path: Path) -> None:
    async with room(tmp_path, max_pool_bytes=20 * KIB) as here:
        for name in "abcdef":
            await here.turn(name, name * 4 * KIB)
            assert here.memory.cache.size_bytes <= 20 * KIB
        assert 0 < len(here.memory.cache) < 6
        for name in "abcdef":
            assert await here.seen(name) == [name * 4 * KIB]
            assert here.memory.cache.size_bytes <= 20 * KIB
        assert here.memory.cache.misses > 6


@on_loop
async def test_a_task_whose_session_left_the_pool_is_kept_all_the_same(tmp_path: Path) -> None:
    async with room(tmp_path, max_pool_bytes=8 * KIB, max_session_bytes=KIB) as here:
        await here.turn("s", "x" * 500)
        task = here.begun("s")
        await here.recalled("s")
        for name in "abcdefghij":
            await here.turn(name, "x" * 900)
        await here.finish(task, {"append": [{"role": "user", "content": "y" * 600}]})
        assert await here.seen("s") == ["y" * 600]  # and it was known that it has to be trimmed


@on_loop
async def test_the_oldest_messages_go_where_a_session_is_full_and_an_event_says_so(tmp_path: Path) -> None:
    async with room(tmp_path, max_session_bytes=KIB) as here:
        for number in range(10):
            await here.turn("s", str(number) * 200)
        texts = await here.seen("s")
        assert texts == [str(n) * 200 for n in range(10 - len(texts), 10)]
        assert 1 < len(texts) < 5
        fields = await told(here, "memory.trimmed")
        assert (fields["agent"], fields["session"]) == ("a", "s")
        assert int(str(fields["size_bytes"])) <= KIB


@on_loop
async def test_a_session_that_may_not_be_trimmed_refuses_what_is_too_much(tmp_path: Path) -> None:
    async with room(tmp_path, max_session_bytes=KIB, overflow="refuse") as here:
        await here.turn("s", "x" * 800)
        with pytest.raises(ResourceLimitExceeded) as refused:
            await here.turn("s", "y" * 800)
        assert refused.value.data["limit"] == "max_session_bytes"
        assert await here.seen("s") == ["x" * 800]


@on_loop
async def test_the_session_that_was_used_least_recently_gives_way_to_a_new_one(tmp_path: Path) -> None:
    async with room(tmp_path, max_sessions=3) as here:
        for name in "abc":
            await here.turn(name)
        await here.turn("x", agent="b")  # the sessions of others do not count
        await here.seen("a")  # reading is an access
        await here.turn("d")
        assert (await told(here, "memory.evicted"))["session"] == "b"
        there = {each["session"] for each in await here.listing.sessions("a", 10)}
        assert there == {"a", "c", "d"}
        assert await here.seen("b") == []


@on_loop
async def test_a_session_that_a_task_works_on_does_not_give_way(tmp_path: Path) -> None:
    async with room(tmp_path, max_sessions=1) as here:
        await here.turn("a", "one")
        task = here.begun("a")
        await here.recalled("a")
        await here.turn("b")
        await here.finish(task, {"append": [{"content": "two"}]})
        assert await here.seen("a") == ["one", "two"]


@on_loop
async def test_a_session_whose_task_has_just_begun_is_neither_evicted_nor_expired(tmp_path: Path) -> None:
    async with room(tmp_path, max_sessions=1) as here:
        await here.turn("a", "one")
        task = here.begun("a")
        await here.turn("b")
        await here.expiry.expire(4_000_000_000.0)
        await here.recalled("a")
        await here.finish(task, {"append": [{"content": "two"}]})
        assert await here.seen("a") == ["one", "two"]


@on_loop
async def test_an_agent_that_may_evict_nothing_is_refused_another_session_before_its_task_runs(tmp_path: Path) -> None:
    async with room(tmp_path, max_sessions=2, session_overflow="refuse") as here:
        await here.turn("a")
        here.begun("b")
        await here.recalled("b")  # under way: it counts
        with pytest.raises(ResourceLimitExceeded) as refused:
            await here.recalled("c")
        assert refused.value.data["limit"] == "max_sessions"
        assert await here.seen("a") == ["hello"]


@on_loop
async def test_a_session_that_is_removed_while_its_task_runs_begins_again_with_that_turn(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.turn("s", "one")
        task = here.begun("s")
        await here.recalled("s")
        await here.store.write(("DELETE FROM session", ()), ("DELETE FROM session_turn", ()))
        await here.finish(task, {"append": [{"content": "two"}]})
        assert await here.seen("s") == ["two"]
        await here.turn("s", "three")
        assert await here.seen("s") == ["two", "three"]


@on_loop
async def test_sessions_that_nobody_used_for_long_are_forgotten(tmp_path: Path) -> None:
    async with room(tmp_path, retention=100.0) as here:
        for name in ("old", "read", "busy"):
            await here.turn(name)
        await here.store.write(("UPDATE session SET accessed_at = 1000", ()))
        await here.seen("read")
        here.begun("busy")
        await here.recalled("busy")
        await here.store.write(("UPDATE session SET accessed_at = 1000 WHERE session = 'busy'", ()))
        (accessed,) = here.rows("SELECT accessed_at FROM session WHERE session = 'read'")[0]
        await here.expiry.expire(accessed + 99)
        assert await told(here, "memory.expired") == {"agent": "a", "sessions": 1, "keys": 0}
        there = {each["session"] for each in await here.listing.sessions(None, 10)}
        assert there == {"read", "busy"}
        assert here.rows("SELECT COUNT(*) FROM session_turn") == [(2,)]


@pytest.mark.parametrize("put_together", [True, False])
@on_loop
async def test_a_byte_that_is_changed_is_reported_by_name_and_hurts_no_other_session(
    tmp_path: Path, put_together: bool
) -> None:
    async with room(tmp_path) as here:
        for _ in range(ROWS_MAX if put_together else 1):
            await here.turn("s")
    async with room(tmp_path) as here:
        here.damage("session" if put_together else "session_turn")
        with pytest.raises(Corrupted) as found:
            await here.recalled("s")
        data = found.value.data
        assert (data["agent"], data["session"], data["reason"]) == ("a", "s", "checksum")
        assert (await told(here, "memory.corrupted"))["session"] == "s"
        with pytest.raises(Corrupted):
            await here.memory.show("a", "s", None)
        await here.turn("other")
        assert await here.seen("other") == ["hello"]
        assert await here.memory.clear("a", "s") == {"sessions": 1, "keys": 0}
        assert await here.seen("s") == []


NO_NUMBERS = ["text", 1e200, -(2**62), 2**62]
"""What a damaged byte may make of a number or a time in a row."""


@pytest.mark.parametrize("value", NO_NUMBERS)
@on_loop
async def test_a_damaged_number_or_time_of_a_session_is_no_defect_of_the_daemon(tmp_path: Path, value: object) -> None:
    async with room(tmp_path) as here:
        await here.turn("s")
        await here.turn("whole")
        for column in ("created_at", "accessed_at", "size_bytes", "messages", "turns"):
            await here.store.write((f"UPDATE session SET {column} = ? WHERE session = 's'", (value,)))
            listed = await here.listing.sessions("a", 10)
            assert {each["session"] for each in listed} == {"s", "whole"}
            with suppress(Corrupted):
                await here.memory.show("a", "s", None)
            await here.listing.stats("a")
        assert await here.seen("whole") == ["hello"]


@pytest.mark.parametrize("value", NO_NUMBERS)
@on_loop
async def test_how_many_keys_there_are_is_counted_anew_where_that_is_damaged(tmp_path: Path, value: object) -> None:
    async with room(tmp_path, max_keys=2) as here:
        key_values = here.memory.key_values
        await key_values.put("a", "", "one", 1, ttl_s=None)
        await here.store.write(("UPDATE memory_usage SET keys = ?", (value,)))
        await here.listing.stats("a")
        if not isinstance(value, int) or value < 0:
            await key_values.put("a", "", "two", 2, ttl_s=None)
            assert [count for _, count, _ in await here.usage("a")] == [2]
        with pytest.raises(ResourceLimitExceeded):
            await key_values.put("a", "", "three", 3, ttl_s=None)


@on_loop
async def test_what_a_worker_answers_must_be_a_change_of_a_session(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        task = here.begun("s")
        await here.recalled("s")
        answers: list[object] = [7, {"append": ["text"]}, {"variables": {"set": []}}]
        for said in answers:
            with pytest.raises(WorkerFailed):
                here.memory.keep(task, said)
        await here.finish(task, None)  # it answered nothing: that is a turn, too
        assert (await here.recalled("s"))["turns"] == 1


# -- what people ask


@on_loop
async def test_a_session_is_shown_and_listed_and_counted(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        for number in range(3):
            await here.turn("s", str(number))
        shown = await here.memory.show("a", "s", 2)
        assert (shown["turns"], shown["messages"]) == (3, 3)
        assert [m["content"] for m in json.loads(codec.encode(shown))["history"]] == ["1", "2"]
        (listed,) = await here.listing.sessions("a", 10)
        assert {key: listed[key] for key in ("agent", "session", "turns", "messages")} == {
            "agent": "a",
            "session": "s",
            "turns": 3,
            "messages": 3,
        }
        assert listed["size_bytes"] == shown["size_bytes"]
        stats = await here.listing.stats(None)
        assert stats["agents"] == [
            {
                "agent": "a",
                "pool": None,
                "sessions": 1,
                "turns": 3,
                "messages": 3,
                "size_bytes": shown["size_bytes"],
                "keys": 0,
                "keys_bytes": 0,
            }
        ]
        with pytest.raises(NotFound):
            await here.memory.show("a", "other", None)


@on_loop
async def test_a_session_that_a_task_works_on_is_not_cleared(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.turn("s")
        task = here.begun("s")
        for session in ("s", None):
            with pytest.raises(Conflict) as refused:
                await here.memory.clear("a", session)
            assert refused.value.data["task"] == task.id
        here.memory.ended(task)
        await here.memory.key_values.put("a", "s", "k", 1, ttl_s=None)
        await here.memory.key_values.put("a", "", "k", 1, ttl_s=None)
        assert await here.memory.clear("a", "s") == {"sessions": 1, "keys": 1}
        with pytest.raises(NotFound):
            await here.memory.clear("a", "s")
        assert await here.memory.clear("a", None) == {"sessions": 0, "keys": 1}


# -- keys


@on_loop
async def test_an_agent_has_no_more_keys_than_it_may(tmp_path: Path) -> None:
    async with room(tmp_path, max_keys=2) as here:
        key_values = here.memory.key_values
        for key in ("one", "two", "one"):
            await key_values.put("a", "", key, "value", ttl_s=None)
        with pytest.raises(ResourceLimitExceeded) as refused:
            await key_values.put("a", "s", "three", 3, ttl_s=None)
        assert refused.value.data["limit"] == "max_keys"
        await key_values.put("b", "", "three", 3, ttl_s=None)
        assert await key_values.delete("a", "", "one") == 1
        await key_values.put("a", "s", "three", 3, ttl_s=None)
        assert await key_values.get("a", "s", "three") == 3


@on_loop
async def test_the_keys_of_an_agent_have_no_more_bytes_than_they_may(tmp_path: Path) -> None:
    async with room(tmp_path, max_keys_bytes=2 * KIB) as here:
        key_values = here.memory.key_values
        await key_values.put("a", "", "k", "x" * KIB, ttl_s=None)
        with pytest.raises(ResourceLimitExceeded) as refused:
            await key_values.put("a", "", "l", "x" * KIB, ttl_s=None)
        assert refused.value.data["limit"] == "max_keys_bytes"
        await key_values.put("a", "", "k", "x" * (2 * KIB - 10), ttl_s=None)  # in its place it fits
        here.rules(max_keys_bytes=KIB)
        await key_values.put("a", "", "k", "x" * (2 * KIB - 20), ttl_s=None)  # less always does
        await key_values.put("a", "", "k", "", ttl_s=None)
        assert await here.usage("a") == [("a", 1, 3)]


@on_loop
async def test_keys_whose_time_is_over_make_room_and_are_never_found(tmp_path: Path) -> None:
    async with room(tmp_path, max_keys=1) as here:
        key_values = here.memory.key_values
        await key_values.put("a", "", "brief", 1, ttl_s=1e-9)
        assert await key_values.get("a", "", "brief") is None
        assert await key_values.search("a", None, "brief", 10) == []
        await key_values.put("a", "", "next", 2, ttl_s=1e-9)
        assert here.rows("SELECT key FROM memory") == [("next",)]
        await here.expiry.expire(4_000_000_000.0)
        assert here.rows("SELECT key FROM memory") == []
        assert await here.usage() == []


@on_loop
async def test_a_damaged_value_is_reported_by_its_key(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        key_values = here.memory.key_values
        await key_values.put("a", "", "k", "value", ttl_s=None)
        here.damage("memory")
        with pytest.raises(Corrupted) as found:
            await key_values.get("a", "", "k")
        assert (found.value.data["agent"], found.value.data["key"]) == ("a", "k")
        (item,) = await key_values.search("a", None, "k", 10)
        assert item == {"session": "", "key": "k", "value": None, "corrupted": True}


@on_loop
async def test_a_value_that_is_too_large_is_refused_by_name(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        with pytest.raises(InvalidParams) as refused:
            await here.memory.key_values.put("a", "", "k", "x" * (KIB * KIB), ttl_s=None)
        assert refused.value.data["key"] == "value"


@on_loop
async def test_keys_of_a_store_from_before_there_were_limits_are_counted_and_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "corral.db", isolation_level=None)) as old:
        for statement in "; ".join(MIGRATIONS[:3]).split(";"):
            old.execute(statement)
        old.execute("INSERT INTO memory VALUES ('a', '', 'ü', '\"text\"', 1.0, NULL)")
        old.execute("UPDATE memory SET value = CAST(value AS BLOB)")
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute("PRAGMA user_version = 3")
    async with room(tmp_path) as here:
        assert await here.memory.key_values.get("a", "", "ü") == "text"
        assert await here.usage() == [("a", 1, 8)]


@on_loop
async def test_statistics_of_some_agents_are_chosen_before_the_list_is_cut(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.turn("s")
        await here.memory.key_values.put("z", "", "one", 1, ttl_s=None)
        others = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO memory_usage SELECT 'b' || i, 1, 1, 0, 0 FROM n"
        )
        await here.store.write((others, (LIST_MAX + 1,)))
        for wanted in ({"z"}, {"a"}, {"a", "z"}, {"none"}):
            stats: Any = await here.listing.stats(None, wanted.__contains__)
            assert {each["agent"] for each in stats["agents"]} == wanted - {"none"}
