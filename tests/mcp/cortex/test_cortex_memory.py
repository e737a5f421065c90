"""What the memory keeps, finds, forgets and merges; and which server is started for it."""

import hashlib
import os
import random
import sqlite3
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.mcp.cortex.command import command
from corral.mcp.cortex.database import SCHEMA_VERSION, STEPS, WAL_BYTES, Item, Store
from corral.mcp.cortex.memory import MAX_ITEM_BYTES, Memory, Quota
from corral.mcp.cortex.search import MAX_TERMS
from corral.worker.contract.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
)

pytestmark = pytest.mark.core

DAY_S = 86_400.0


class Clock:
    """A wall clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "cortex.db")
    yield store
    store.close()


@pytest.fixture
def memory(store: Store, clock: Clock) -> Memory:
    return Memory(store, clock=clock)


def found(memory: Memory, query: str, *, namespace: str | None = None, tags: Sequence[str] = ()) -> list[str]:
    items = memory.search(query, namespace=namespace, tags=tags).items
    return [item.content for item, _score in items]


def get(memory: Memory, item_id: str) -> Item:
    return memory.retrieve(item_id=item_id)


# -- storing


def test_what_was_stored_comes_back_whole(memory: Memory) -> None:
    content = 'Straße\n\t"quoted" \0 nul \U0001f40e'
    stored = memory.store(content, key="k", namespace="n", tags=["b", "a", "b"], metadata={"x": [1, None, {"y": 0.5}]})
    item = memory.retrieve(key="k", namespace="n")
    assert item == get(memory, stored.id)
    assert (item.content, item.tags, item.metadata) == (content, ["a", "b"], {"x": [1, None, {"y": 0.5}]})
    assert item.created_at == "2027-01-15T08:00:00.000Z"
    assert (item.expires_at, item.archived_at) == (None, None)


def test_the_same_content_is_kept_once_in_a_namespace(memory: Memory) -> None:
    first = memory.store("the sky is blue", tags=["sky"], metadata={"a": 1, "b": 1})
    again = memory.store("the sky is blue", tags=["colour"], metadata={"b": 2})
    other = memory.store("the sky is blue", namespace="elsewhere")
    assert first.created
    assert again == (first.id, False)
    assert other.created
    assert other.id != first.id
    assert get(memory, first.id).tags == ["colour", "sky"]
    assert get(memory, first.id).metadata == {"a": 1, "b": 2}


def test_storing_under_a_key_again_replaces_the_content(memory: Memory, store: Store) -> None:
    first = memory.store("paris", key="capital", tags=["old"])
    again = memory.store("bonn", key="capital")
    assert again == (first.id, False)
    assert get(memory, first.id).content == "bonn"
    assert get(memory, first.id).tags == []
    assert found(memory, "paris") == []
    assert found(memory, "bonn") == ["bonn"]
    kept = store.connection.execute("SELECT content FROM memory WHERE archived_why = 'replaced'")
    assert kept.fetchall() == [("paris",)]


def test_a_key_is_of_its_namespace(memory: Memory) -> None:
    memory.store("one", key="k", namespace="a")
    memory.store("two", key="k", namespace="b")
    assert memory.retrieve(key="k", namespace="a").content == "one"
    assert memory.retrieve(key="k", namespace="b").content == "two"


def test_two_keys_may_have_the_same_content(memory: Memory) -> None:
    first = memory.store("same", key="a")
    second = memory.store("same", key="b")
    assert second.created
    assert second.id != first.id
    assert memory.retrieve(key="b", namespace="default").content == "same"


@pytest.mark.parametrize("with_key_first", [True, False])
def test_a_content_stored_without_a_key_outlives_the_key(memory: Memory, with_key_first: bool) -> None:
    keys = ["k", None] if with_key_first else [None, "k"]
    ids = {memory.store("promised", key=key).id for key in keys}
    assert len(ids) == 1
    memory.store("something else", key="k")
    assert get(memory, ids.pop()).content == "promised"
    assert found(memory, "promised") == ["promised"]
    assert memory.retrieve(key="k", namespace="default").content == "something else"


def test_a_duplicate_lives_as_long_as_the_longest_of_its_stores(memory: Memory, clock: Clock) -> None:
    stored = memory.store("short", ttl_s=10)
    memory.store("short", ttl_s=100)
    memory.store("short", ttl_s=5)
    clock.now += 99
    assert get(memory, stored.id).content == "short"
    memory.store("short")
    clock.now += 1000
    assert get(memory, stored.id).expires_at is None


def test_an_item_beyond_the_limit_is_refused_and_leaves_nothing(memory: Memory) -> None:
    with pytest.raises(ResourceLimitExceeded) as caught:
        memory.store("x" * (MAX_ITEM_BYTES + 1))
    assert caught.value.data["limit"] == MAX_ITEM_BYTES
    assert found(memory, "x") == []


def test_merging_cannot_grow_an_item_beyond_the_limit(memory: Memory) -> None:
    half = "y" * (MAX_ITEM_BYTES // 2)
    memory.store("grows", metadata={"a": half})
    with pytest.raises(ResourceLimitExceeded):
        memory.store("grows", metadata={"b": half})


# -- expiry


def test_an_expired_item_never_comes_back(memory: Memory, clock: Clock) -> None:
    stored = memory.store("fleeting thought", key="k", ttl_s=60)
    assert found(memory, "fleeting") == ["fleeting thought"]
    clock.now += 60
    assert found(memory, "fleeting") == []
    with pytest.raises(NotFound):
        get(memory, stored.id)
    with pytest.raises(NotFound):
        memory.retrieve(key="k", namespace="default")


def test_an_expired_key_and_an_expired_content_can_be_stored_anew(memory: Memory, clock: Clock) -> None:
    old_key = memory.store("first", key="k", ttl_s=1)
    old_content = memory.store("second", ttl_s=1)
    clock.now += 2
    new_key = memory.store("first", key="k")
    new_content = memory.store("second")
    assert new_key.created
    assert new_content.created
    assert {old_key.id, old_content.id}.isdisjoint({new_key.id, new_content.id})
    assert memory.retrieve(key="k", namespace="default").id == new_key.id


# -- searching


def test_a_search_ignores_case_and_diacritics(memory: Memory) -> None:
    memory.store("El Niño is warm")
    assert found(memory, "EL NINO") == ["El Niño is warm"]


def test_all_words_are_preferred_and_any_word_is_accepted(memory: Memory) -> None:
    memory.store("red apple")
    memory.store("red brick")
    assert found(memory, "red apple") == ["red apple"]
    assert found(memory, "red pear") == ["red brick", "red apple"]
    assert found(memory, "green pear") == []


def test_a_search_finds_words_of_keys_and_tags_too(memory: Memory) -> None:
    memory.store("one", key="release notes")
    memory.store("two", tags=["release"])
    assert sorted(found(memory, "release")) == ["one", "two"]


def test_a_search_keeps_to_its_namespace_and_has_all_tags(memory: Memory) -> None:
    memory.store("word one", namespace="a", tags=["x", "y"])
    memory.store("word two", namespace="a", tags=["x"])
    memory.store("word three", namespace="b", tags=["x", "y"])
    assert found(memory, "word", namespace="a", tags=["x", "y"]) == ["word one"]
    assert sorted(found(memory, "word", tags=["y"])) == ["word one", "word three"]
    assert found(memory, "word", namespace="c") == []


def test_between_equal_hits_the_newer_one_comes_first(memory: Memory, clock: Clock) -> None:
    for age_days in (3, 0, 400, 30):
        clock.now -= age_days * DAY_S
        memory.store(f"note {age_days}")
        clock.now += age_days * DAY_S
    assert found(memory, "note") == ["note 0", "note 3", "note 30", "note 400"]
    scores = [score for _item, score in memory.search("note").items]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0


def test_a_better_hit_comes_before_a_newer_one(memory: Memory, clock: Clock) -> None:
    for number in range(20):
        memory.store(f"filler {number}")
    memory.store("kestrel kestrel kestrel")
    clock.now += 20 * DAY_S
    memory.store("a kestrel was one of the very many birds that were seen there on that long day")
    assert found(memory, "kestrel")[0] == "kestrel kestrel kestrel"


def test_a_search_gives_no_more_than_its_limit(memory: Memory) -> None:
    for number in range(12):
        memory.store(f"item {number}")
    assert len(memory.search("item").items) == 10
    assert len(memory.search("item", limit=3).items) == 3
    assert not memory.search("item", limit=3).truncated


def test_an_answer_that_would_be_too_large_is_truncated_and_says_so(memory: Memory) -> None:
    for number in range(5):
        memory.store(f"big {number} " + "z" * (MAX_ITEM_BYTES // 3))
    result = memory.search("big")
    assert result.truncated
    assert len(result.items) == 2
    largest = memory.store("w" * (MAX_ITEM_BYTES - 100))
    assert [item.id for item, _ in memory.search("w" * (MAX_ITEM_BYTES - 100)).items] == [largest.id]


@pytest.mark.parametrize(
    "query", ["", " ", '"', '""', "*", "a AND", "NOT", "NEAR(", "content:x", "^a", "-", "\0", "'; DROP", "(" * 999]
)
def test_operators_are_only_words(memory: Memory, query: str) -> None:
    memory.store("nothing of the kind")
    assert memory.search(query).items == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.text(
        alphabet=st.one_of(st.sampled_from("\"'*()^:+-{}[]\0 aAN\nORDTE"), st.characters(exclude_categories=["Cs"]))
    )
)
def test_any_text_is_a_safe_query_and_finds_itself(memory: Memory, query: str) -> None:
    memory.search(query)
    if query:
        memory.store(query, namespace="self")
    words = query.replace("\0", " ").split()[:MAX_TERMS]
    if any(unicodedata.category(c)[0] in "LN" and c.isascii() for word in words for c in word):
        assert query in found(memory, query, namespace="self") or len(found(memory, query)) == 10


def test_a_search_in_ten_thousand_items_finds_the_one(memory: Memory, store: Store) -> None:
    source = random.Random(7)
    words = [f"w{number}" for number in range(500)]
    store.connection.execute("PRAGMA synchronous = OFF")  # this is about searching
    for number in range(10_000):
        memory.store(f"row {number} " + " ".join(source.choices(words, k=12)), tags=[f"t{number % 10}"])
    memory.store("the needle lies here", key="needle")
    assert found(memory, "needle") == ["the needle lies here"]
    assert found(memory, "row 1234 needle missing")[0] == "the needle lies here"
    assert len(memory.search("row", limit=100, tags=["t3"]).items) == 100
    assert found(memory, "row 4321")[0].startswith("row 4321 ")


# -- consolidating


def test_a_dry_run_says_what_would_happen_and_changes_nothing(memory: Memory, clock: Clock) -> None:
    old = memory.store("Hello  World")
    clock.now += 1
    new = memory.store("hello world")
    gone = memory.store("gone soon", ttl_s=1)
    clock.now += 1
    planned = memory.consolidate()
    assert planned == ([gone.id, old.id], [new.id])
    assert memory.consolidate() == planned
    assert len(found(memory, "hello")) == 2
    assert memory.consolidate(dry_run=False) == planned
    assert memory.consolidate(dry_run=False) == ([], [])


def test_only_the_newest_of_nearly_equal_texts_is_found(memory: Memory, store: Store, clock: Clock) -> None:
    ids: list[str] = []
    for text in ("Café au lait", "cafe\u0301  au\nlait", " CAFÉ AU LAIT ", "thé au lait"):
        ids.append(memory.store(text).id)
        clock.now += 1
    done = memory.consolidate(dry_run=False)
    assert done == ([ids[1], ids[0]], [ids[2]])
    assert found(memory, "café") == [" CAFÉ AU LAIT "]
    assert store.connection.execute("SELECT count(*) FROM memory").fetchone() == (4,)


def test_a_merged_item_is_still_there_by_id_and_by_key(memory: Memory, clock: Clock) -> None:
    old = memory.store("Same", key="old", tags=["a"], ttl_s=100)
    clock.now += 1
    new = memory.store("same", key="new", tags=["b"], ttl_s=10)
    memory.consolidate(dry_run=False)
    assert found(memory, "same") == ["same"]
    assert get(memory, new.id).tags == ["a", "b"]
    assert get(memory, old.id).archived_at is not None
    assert memory.retrieve(key="old", namespace="default").content == "Same"
    clock.now += 50
    assert found(memory, "same", tags=["a"]) == ["same"]
    assert memory.store("other", key="old") == (old.id, False)
    assert get(memory, old.id).archived_at is None
    assert found(memory, "other") == ["other"]


def test_namespaces_are_consolidated_apart(memory: Memory) -> None:
    for namespace in ("a", "b"):
        memory.store("X", namespace=namespace)
    memory.store("x", namespace="a")
    assert memory.consolidate() == memory.consolidate(namespace="a")
    assert memory.consolidate(namespace="b") == ([], [])
    assert len(memory.consolidate().archived) == 1


def test_index_usage_and_seals_agree_with_the_table_after_a_long_life(
    memory: Memory, store: Store, clock: Clock
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(300):
        clock.now += source.random()
        text = source.choice(["Alpha", "alpha ", "ALPHA bétà", "gamma", "delta"])
        memory.store(
            text * source.randint(1, 2),
            key=source.choice([None, None, "k1", "k2", "k3"]),
            namespace=source.choice("ab"),
            tags=source.sample("xyzä", 1),
            ttl_s=source.choice([None, 3.0]),
        )
        if source.random() < 0.05:
            memory.consolidate(dry_run=False)
    connection = store.connection
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.execute("""CREATE VIRTUAL TABLE temp.fresh USING
        fts5 (content, key, tags, tokenize = 'unicode61 remove_diacritics 2')""")
    connection.execute(
        """INSERT INTO fresh (rowid, content, key, tags)
        SELECT seq, content, key, tags FROM memory WHERE archived_at IS NULL"""
    )
    for word in ("alpha", "beta", "gamma", "delta", "k1", "k2", "k3", "x", "y", "z", "a"):
        hits = [
            connection.execute(f"SELECT rowid FROM {index} ('{word}')").fetchall()
            for index in ("memory_index", "fresh")
        ]
        assert hits[0] == hits[1], word
    counted = """SELECT namespace, count(*), sum(length(CAST(content AS BLOB))
        + length(CAST(tags AS BLOB)) + length(CAST(metadata AS BLOB)))
        FROM memory WHERE archived_at IS NULL GROUP BY namespace"""
    used = connection.execute("SELECT * FROM usage").fetchall()
    assert used == connection.execute(counted).fetchall()
    for row in connection.execute("SELECT id FROM memory").fetchall():
        try:
            memory.retrieve(item_id=row[0])
        except NotFound:
            continue  # expired or replaced; a broken seal is a Conflict


# -- the file


def test_file_and_folder_are_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "corral" / "cortex.db"
    before = os.umask(0)
    try:
        store = Store(path)
    finally:
        os.umask(before)
    Memory(store).store("private")
    try:
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        store.close()


def test_a_commit_waits_for_the_disk_and_no_other_process_checkpoints(store: Store) -> None:
    assert store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store.connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_the_write_ahead_log_stays_bounded(memory: Memory, tmp_path: Path) -> None:
    for number in range(40):
        memory.store(f"{number} " + os.urandom(200_000).hex())
    assert (tmp_path / "cortex.db-wal").stat().st_size < 2 * WAL_BYTES


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cortex.db"
    path.write_bytes(b"these are my letters, not a database\n" * 100)
    before = path.read_bytes()
    with pytest.raises(Conflict):
        Store(path)
    assert path.read_bytes() == before


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cortex.db"
    store = Store(path)
    Memory(store).store("x" * 10_000)
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    with pytest.raises(Conflict):
        Store(path)


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(Conflict):
        Store(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "cortex.db"
    store = Store(path)
    store.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()
    with pytest.raises(Conflict) as caught:
        Store(path)
    assert caught.value.data["version"] == SCHEMA_VERSION + 1


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        Store(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionDenied):
            Store(tmp_path / "cortex.db")
    finally:
        tmp_path.chmod(0o700)


def test_a_lock_that_is_kept_too_long_is_reported_as_overload(tmp_path: Path) -> None:
    store = Store(tmp_path / "cortex.db", busy_s=0)
    other = sqlite3.connect(tmp_path / "cortex.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Overloaded) as caught:
            Memory(store).store("late")
        assert caught.value.data["retry_after_s"]
        other.execute("ROLLBACK")
        assert Memory(store).store("late").created
    finally:
        other.close()
        store.close()


# -- which server

BUILT_IN = ("py", "-P", "-m", "corral.mcp.cortex", "mcp", "stdio")
EVERYWHERE = {"./dist/cortex", "./../dist/cortex", "/a/cortex", "/b/cortex", "cortex"}


@pytest.mark.parametrize(
    ("explicit", "environ", "ordinary_user", "executable", "expected"),
    [
        pytest.param(None, {}, True, set[str](), BUILT_IN, id="nothing is there"),
        pytest.param("/x", {"CORTEX_BINARY": "/y"}, True, EVERYWHERE, "/x", id="explicit wins"),
        pytest.param("/x", {}, False, set[str](), "/x", id="explicit is taken even if it is broken"),
        pytest.param(None, {"CORTEX_BINARY": "/y"}, False, EVERYWHERE, "/y", id="then the variable"),
        pytest.param("", {"CORTEX_BINARY": ""}, False, EVERYWHERE, BUILT_IN, id="empty is unset"),
        pytest.param(None, {"PATH": "/a"}, True, EVERYWHERE, "./dist/cortex", id="then ./dist"),
        pytest.param(None, {"PATH": "/a"}, True, EVERYWHERE - {"./dist/cortex"}, "./../dist/cortex", id="then ../dist"),
        pytest.param(
            None,
            {"PATH": "::.:rel:/a/:/b"},
            True,
            {"/a/cortex", "/b/cortex", "./cortex", "rel/cortex", "cortex", "/cortex"},
            "/a/cortex",
            id="then PATH, its absolute entries",
        ),
        pytest.param(None, {"PATH": "/a"}, False, EVERYWHERE, BUILT_IN, id="never found for root"),
    ],
)
def test_which_memory_server_is_started(
    explicit: str | None,
    environ: dict[str, str],
    ordinary_user: bool,
    executable: set[str],
    expected: str | tuple[str, ...],
) -> None:
    line = command(
        explicit,
        ["mcp", "stdio"],
        environ,
        ordinary_user=ordinary_user,
        is_executable=executable.__contains__,
        python="py",
    )
    assert line == (expected if isinstance(expected, tuple) else (expected, "mcp", "stdio"))


def test_dist_is_relative_to_the_folder_that_is_given() -> None:
    line = command(
        None, [], {}, ordinary_user=True, is_executable="/srv/../dist/cortex".__eq__, python="py", folder="/srv"
    )
    assert line == ("/srv/../dist/cortex",)


# -- idempotency, quotas, pages, damage


def test_a_store_with_a_known_idempotency_key_does_nothing_and_answers_as_before(memory: Memory, clock: Clock) -> None:
    first = memory.store("one", key="k", idempotency_key="i")
    memory.store("two", key="k")
    assert memory.store("one", key="k", idempotency_key="i") == first
    assert memory.retrieve(key="k", namespace="default").content == "two"
    with pytest.raises(Conflict) as caught:
        memory.store("another", key="k", idempotency_key="i")
    assert caught.value.data["field"] == "idempotency_key"
    assert memory.store("one", namespace="other", idempotency_key="i").created
    clock.now += 8 * DAY_S
    assert memory.store("another", key="k", idempotency_key="i") == (first.id, False)


def test_a_refused_store_leaves_its_idempotency_key_free(store: Store) -> None:
    memory = Memory(store, quota=Quota(items=1))
    memory.store("one")
    with pytest.raises(ResourceLimitExceeded):
        memory.store("two", idempotency_key="i")
    memory = Memory(store)
    assert memory.store("two", idempotency_key="i").created


@pytest.mark.parametrize("quota", [Quota(items=3), Quota(bytes=3 * len("text 0" + "[]" + "{}"))])
def test_a_namespace_that_has_its_quota_takes_nothing_more(store: Store, clock: Clock, quota: Quota) -> None:
    memory = Memory(store, clock=clock, quota=quota)
    for number in range(2):
        memory.store(f"text {number}", key=str(number))
    memory.store("text 2", key="2", ttl_s=60)
    with pytest.raises(ResourceLimitExceeded) as caught:
        memory.store("text 3")
    limit = caught.value.data["limit"]
    assert limit == ("items" if quota.items == 3 else "bytes")
    assert caught.value.data["namespace"] == "default"
    assert found(memory, "text 3 text") == ["text 2", "text 1", "text 0"]
    memory.store("text 3", namespace="other")
    memory.store("text 4", key="0")  # in place of another
    memory.store("text 4")  # the same
    clock.now += 61
    memory.store("text 5")  # what has expired makes room


def test_a_namespace_over_its_quota_may_shrink(store: Store) -> None:
    Memory(store).store("x" * 1000, key="k")
    memory = Memory(store, quota=Quota(bytes=10))
    memory.store("x" * 900, key="k")
    with pytest.raises(ResourceLimitExceeded):
        memory.store("x" * 901, key="k")
    assert len(memory.retrieve(key="k", namespace="default").content) == 900


def test_a_file_may_not_grow_beyond_its_limit(tmp_path: Path) -> None:
    store = Store(tmp_path / "cortex.db", max_file_bytes=512 * 1024)
    memory = Memory(store)
    stored: list[str] = []

    def fill() -> None:
        for number in range(100):
            stored.append(memory.store(f"{number} " + os.urandom(20_000).hex()).id)

    with pytest.raises(ResourceLimitExceeded) as caught:
        fill()
    assert caught.value.data["limit"] == "disk"
    assert [get(memory, item_id).id for item_id in stored] == stored
    store.close()


def test_a_cursor_leads_through_all_that_was_found_once(memory: Memory, clock: Clock) -> None:
    for number in range(23):
        clock.now += 1
        memory.store(f"page word{number % 3} number {number}")
    seen: list[str] = []
    cursor = None
    for _ in range(4):
        page = memory.search("page number", limit=7, cursor=cursor)
        seen += [item.content for item, _score in page.items]
        clock.now += DAY_S
        memory.store(f"page number late {clock.now}")
        cursor = page.cursor
    assert cursor is None
    assert len(seen) == len(set(seen)) == 23
    assert not any("late" in content for content in seen)


def test_the_last_page_has_no_cursor_and_a_foreign_one_is_refused(memory: Memory) -> None:
    for number in range(4):
        memory.store(f"row {number}")
    assert memory.search("row", limit=4).cursor is None
    cursor = memory.search("row", limit=3).cursor
    assert cursor is not None
    assert len(memory.search("row", limit=3, cursor=cursor).items) == 1
    for wrong in ("", "x", cursor[:-4], "A" * 40, "ü"):
        with pytest.raises(InvalidParams):
            memory.search("row", cursor=wrong)
    with pytest.raises(InvalidParams):
        memory.search("other", cursor=cursor)
    with pytest.raises(InvalidParams):
        memory.search("row", tags=["t"], cursor=cursor)


def test_an_answer_that_is_cut_by_its_size_goes_on_with_its_cursor(memory: Memory) -> None:
    for number in range(3):
        memory.store(f"large {number} " + "x" * 2_500_000)
    first = memory.search("large")
    assert (len(first.items), first.truncated) == (1, True)
    second = memory.search("large", cursor=first.cursor)
    third = memory.search("large", cursor=second.cursor)
    contents = {page.items[0][0].content[:8] for page in (first, second, third)}
    assert len(contents) == 3
    assert (third.truncated, third.cursor) == (False, None)


def test_a_search_keeps_to_times_and_metadata(memory: Memory, clock: Clock) -> None:
    begin = clock.now
    facts: list[dict[str, object]] = [{"n": 1, "a": {"b": [1]}}, {"n": 1.5}, {"n": "1"}, {"n": True}]
    for number, metadata in enumerate(facts):
        clock.now = begin + number
        memory.store(f"row {number}", metadata=metadata)

    def rows(**how: Any) -> str:  # Any: what `search` takes
        items = memory.search("row", **how).items
        return "".join(sorted(item.content[4:] for item, _score in items))

    assert rows(since=begin + 1, until=begin + 3) == "12"
    assert rows(metadata={"n": 1}) == "0"
    assert rows(metadata={"n": "1"}) == "2"
    assert rows(metadata={"n": True}) == "3"
    assert rows(metadata={"a": {"b": [1]}, "n": 1}) == "0"
    assert rows(metadata={"gone": None}) == ""
    assert rows(metadata={}) == "0123"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("content", "the 0tter sleeps"),
        ("content", b"the otter \xff sleeps"),
        ("tags", '["river","lake"]'),
        ("tags", "[broken"),
        ("metadata", '{"n": 2}'),
        ("namespace", "elsewhere"),
        ("key", "another"),
        ("created_at", 12.5),
        ("expires_at", 1e12),
        ("hash", b"x"),
    ],
)
def test_an_item_that_the_disk_has_changed_is_named_and_the_others_are_served(
    memory: Memory, store: Store, column: str, value: object
) -> None:
    item_id = memory.store("the otter sleeps", tags=["river"], metadata={"n": 1}).id
    memory.store("the other otter sleeps")
    is_text = isinstance(value, bytes) and column != "hash"
    marker = "CAST(? AS TEXT)" if is_text else "?"
    query = f"UPDATE memory SET {column} = {marker} WHERE id = ?"
    store.connection.execute(query, (value, item_id))
    with pytest.raises(Conflict) as caught:
        memory.retrieve(item_id=item_id)
    assert (caught.value.data["id"], caught.value.data["reason"]) == (item_id, "checksum")
    page = memory.search("sleeps")
    assert (page.damaged, len(page.items)) == ((item_id,), 1)
    other = memory.store("THE OTTER SLEEPS").id
    assert memory.consolidate(dry_run=False).archived == []
    again = memory.store("the otter sleeps")
    assert (again.created, get(memory, again.id).content) == (True, "the otter sleeps")
    assert memory.consolidate(dry_run=False) == ([other], [again.id])


def test_the_pages_of_a_search_stay_what_they_were_whatever_is_stored_between_them(
    memory: Memory, clock: Clock
) -> None:
    words = ("otter", "lake", "otter lake", "lake lake otter reed", "otter reed reed")
    for number in range(30):
        clock.now += 1
        memory.store(f"{number} {words[number % 5]} {words[number % 3]}", key=f"k{number}")
    whole = [item.id for item, _score in memory.search("otter lake sky", limit=100).items]
    found: list[str] = []
    page = memory.search("otter lake sky", limit=4)
    while True:
        found += [item.id for item, _score in page.items]
        if page.cursor is None:
            break
        for number in range(5):
            memory.store(f"{number} {len(found)} " + "lake " * 40)
        cursor = page.cursor
        page = memory.search("otter lake sky", limit=4, cursor=cursor)
        assert memory.search("otter lake sky", limit=4, cursor=cursor) == page
    assert found == whole


@pytest.mark.parametrize(("column", "value"), [("expires_at", 5.0), ("archived_at", "never"), ("archived_at", 1e300)])
def test_a_time_that_the_disk_has_changed_is_damage_too(
    memory: Memory, store: Store, column: str, value: object
) -> None:
    item_id = memory.store("the otter sleeps", ttl_s=1e6).id
    store.connection.execute(f"UPDATE memory SET {column} = ?", (value,))
    with pytest.raises(Conflict) as caught:
        memory.retrieve(item_id=item_id)
    assert caught.value.data["reason"] == "checksum"


def test_an_id_that_the_disk_has_changed_ends_nothing(memory: Memory, store: Store) -> None:
    memory.store("the otter sleeps", key="otter")
    store.connection.execute("UPDATE memory SET id = x'ff41'")
    assert len(memory.search("otter").damaged) == 1
    with pytest.raises(Conflict):
        memory.retrieve(key="otter", namespace="default")
    again = memory.store("the otter wakes", key="otter")
    assert get(memory, again.id).content == "the otter wakes"


def test_the_same_text_is_kept_once_beside_one_that_is_damaged(memory: Memory, store: Store) -> None:
    memory.store("the otter sleeps")
    store.connection.execute("UPDATE memory SET tags = '[broken'")
    found = [memory.store("the otter sleeps") for _ in range(3)]
    assert [each.created for each in found] == [True, False, False]


def test_an_item_is_whole_after_its_key_has_come_and_gone(memory: Memory) -> None:
    first = memory.store("one", tags=["a"])
    assert memory.store("one", key="k").id == first.id
    second = memory.store("two", key="k")
    assert memory.store("three", key="k").id == second.id
    assert get(memory, first.id).key is None
    assert get(memory, second.id).key == "k"


def test_a_file_of_the_first_schema_is_taken_over_with_all_it_has(tmp_path: Path) -> None:
    path = tmp_path / "cortex.db"
    old = sqlite3.connect(path)
    for statement in STEPS[0]:
        old.execute(statement)
    old.execute("PRAGMA user_version = 1")
    old.execute(
        """INSERT INTO memory (id, namespace, plain, content, hash, normal, tags, metadata, created_at)
        VALUES ('a', 'n', 1, 'an old text', ?, x'00', '["t"]', '{}', 1.5)""",
        (hashlib.sha256(b"an old text").digest(),),
    )
    old.commit()
    old.close()
    store = Store(path)
    memory = Memory(store, quota=Quota(items=2))
    assert get(memory, "a").content == "an old text"
    assert found(memory, "old", tags=["t"]) == ["an old text"]
    assert memory.store("an old text", namespace="n", tags=["u"]) == ("a", False)
    assert get(memory, "a").tags == ["t", "u"]
    memory.store("second", namespace="n")
    with pytest.raises(ResourceLimitExceeded):
        memory.store("third", namespace="n")
    store.close()
