"""The store: real SQLite files and a real kill -9; what was acknowledged is there."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import uvloop

from corral.supervisor.records.store import schema
from corral.supervisor.records.store import store as store_module
from corral.supervisor.records.store.store import Statement, Step, Store, insert
from corral.worker.contract.errors import Conflict, Overloaded, PermissionDenied, ShuttingDown
from small_disk import mounted

pytestmark = pytest.mark.shell

BOUND_S = 60.0
PUT = "INSERT INTO meta (key, value) VALUES (?, ?)"
COUNT = "SELECT count(*) FROM meta WHERE key != 'generation'"


def run(path: Path, test: Callable[[Store], Awaitable[None]]) -> None:
    async def bounded() -> None:
        store = Store.open(path)
        try:
            async with asyncio.timeout(BOUND_S):
                await test(store)
        finally:
            await store.close()

    uvloop.run(bounded())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "corral.db"


async def nothing(store: Store) -> None:
    pass


def test_folder_and_file_are_created_private(path: Path) -> None:
    run(path, nothing)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_generation_grows_at_every_opening_also_after_a_kill(path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from corral.supervisor.records.store.store import Store
print(Store.open(Path(sys.argv[1])).generation, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    seen: list[int] = []
    for _ in range(3):
        arguments = [sys.executable, "-c", program, str(path)]
        seen.append(int(subprocess.run(arguments, stdout=subprocess.PIPE, check=False).stdout))
    store = Store.open(path)
    assert [*seen, store.generation] == [1, 2, 3, 4]
    asyncio.run(store.close())


def test_a_write_answers_with_rowids_and_counts_and_is_there_for_the_next_read(path: Path) -> None:
    async def test(store: Store) -> None:
        insert = "INSERT INTO checkpoint (agent, at, data) VALUES (:agent, 1.0, :data)"
        assert await store.write((insert, {"agent": "a", "data": b"x"})) == [1]
        upsert = "INSERT INTO incarnation VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
        statements = ((PUT, ("k", "v")), (upsert, ("a-0", 1)), ("DELETE FROM checkpoint", ()))
        assert (await store.write(*statements))[1:] == [1, 1]
        assert await store.read("SELECT value FROM meta WHERE key = ?", ("k",)) == [("v",)]
        assert await store.write() == []

    run(path, test)


def test_a_group_happens_as_a_whole_or_not_at_all_and_its_neighbours_are_unharmed(path: Path) -> None:
    async def test(store: Store) -> None:
        def put(key: str) -> tuple[str, tuple[str, int]]:
            return PUT, (key, 1)

        results = await asyncio.gather(
            store.write(put("a")),
            store.write(put("b"), put("a")),  # a constraint
            store.write(put("c"), ("INSERT INTO no_such_table VALUES (1)", ())),
            store.write(put("d"), (PUT, ("e", object()))),
            store.write(put("f"), (PUT, ("\udc80", 1))),
            store.write(put("z")),
            return_exceptions=True,
        )
        assert isinstance(results[1], Conflict)
        assert results[1].data["reason"] == "constraint"
        assert isinstance(results[2], sqlite3.OperationalError)
        assert isinstance(results[3], sqlite3.Error)
        assert isinstance(results[4], UnicodeEncodeError)
        rows = await store.read("SELECT key FROM meta WHERE key != 'generation' ORDER BY key")
        assert rows == [("a",), ("z",)]

    run(path, test)


def test_a_posted_group_is_stored_soon_without_anybody_waiting(path: Path) -> None:
    async def test(store: Store) -> None:
        store.post((PUT, ("posted", 1)))
        while not await store.read("SELECT 1 FROM meta WHERE key = 'posted'"):
            await asyncio.sleep(0.01)
        store.post((PUT, ("posted", 1)))  # fails, which harms nobody
        store.post((PUT, ("with the next commit", 1)))
        await store.write((PUT, ("k", 1)))
        assert await store.read(COUNT) == [(3,)]
        assert store.lost_posts == 1

    run(path, test)


def put(key: str) -> Statement:
    return (PUT, (key, 1))


class Rows(Step):
    """A step that inserts rows, and then fails if it is told to."""

    size_bytes = 100

    def __init__(self, *keys: str, fails: bool = False) -> None:
        self._keys = keys
        self.count = len(keys)
        self._fails = fails

    def seal(self) -> None:
        self.is_sealed = True

    def run(self, connection: sqlite3.Connection) -> int:
        assert self.is_sealed
        insert(connection, "INSERT INTO meta (key, value) VALUES (?, ?)", [(key, 1) for key in self._keys])
        if self._fails:
            raise ValueError("no")
        return len(self._keys)


def test_a_step_is_done_whole_or_not_at_all_and_what_it_would_have_stored_counts_as_lost(path: Path) -> None:
    many = [f"many {number}" for number in range(200)]

    async def test(store: Store) -> None:
        assert (await store.write(Rows(*many), put("k")))[0] == len(many)
        with pytest.raises(ValueError, match="no"):
            await store.write(Rows("a", "b", fails=True))
        with pytest.raises(ValueError, match="no"):
            await store.write(put("c"), Rows("d", fails=True))
        with pytest.raises(Conflict):
            await store.write(Rows("e", "f", "many 199"))
        store.post(Rows("g", "h", "i", fails=True))
        await store.write(put("z"))
        assert store.lost_posts == 3
        rows = await store.read("SELECT key FROM meta WHERE key NOT IN ('generation')")
        assert {key for (key,) in rows} == {*many, "k", "z"}

    run(path, test)


def test_what_was_accepted_is_stored_before_the_store_is_closed(path: Path) -> None:
    async def test(store: Store) -> None:
        writes = [asyncio.ensure_future(store.write((PUT, (str(n), 1)))) for n in range(100)]
        await asyncio.sleep(0)
        store.post((PUT, ("posted", 1)))
        await store.close()
        await asyncio.gather(*writes)
        with pytest.raises(ShuttingDown):
            await store.write((PUT, ("late", 1)))
        with pytest.raises(ShuttingDown):
            await store.read("SELECT 1")
        store.post((PUT, ("late", 1)))
        assert store.lost_posts == 1

    run(path, test)
    with sqlite3.connect(path) as connection:
        assert connection.execute(COUNT).fetchone() == (101,)
    connection.close()


def test_many_writes_share_few_commits(path: Path) -> None:
    async def test(store: Store) -> None:
        before = os.stat(f"{path}-wal").st_size
        await asyncio.gather(*(store.write((PUT, (str(n), 1))) for n in range(2_000)))
        assert await store.read(COUNT) == [(2_000,)]
        # A commit of its own is at least one page in the log.
        assert os.stat(f"{path}-wal").st_size - before < 1_000 * 4_096

    run(path, test)


def test_a_write_that_may_wait_is_committed_with_the_next_one(path: Path) -> None:
    async def test(store: Store) -> None:
        patient = store.begin(put("patient"), wait_s=10 * BOUND_S)
        store.post(put("posted"))
        await store.read("SELECT 1")
        await store.write(put("urgent"))
        await patient
        assert await store.read(COUNT) == [(3,)]

    run(path, test)


def test_a_write_that_may_wait_waits_no_longer_than_it_may(path: Path) -> None:
    async def test(store: Store) -> None:
        for round_ in range(20):
            await store.begin(put(f"alone {round_}"), wait_s=0.005)
        patient = store.begin(put("patient"), wait_s=10 * BOUND_S)
        await store.begin(put("less patient"), wait_s=0.005)
        await patient
        assert await store.read(COUNT) == [(22,)]

    run(path, test)


def test_what_waits_is_committed_when_it_is_hastened(path: Path) -> None:
    async def test(store: Store) -> None:
        store.hasten()
        await store.write(put("after nothing"))
        patient = store.begin(put("patient"), wait_s=10 * BOUND_S)
        await store.read("SELECT 1")
        store.hasten()
        await patient
        left = store.begin(put("left"), wait_s=10 * BOUND_S)
        await store.close()
        await left

    run(path, test)


def test_a_read_does_not_wait_for_a_write(path: Path) -> None:
    async def test(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # no write of ours can go on
        write = asyncio.ensure_future(store.write((PUT, ("k", 1))))
        while not store.stalled_s:
            await asyncio.sleep(0)
        assert await store.read(COUNT) == [(0,)]
        assert not write.done()
        other.execute("ROLLBACK")
        other.close()
        await write
        assert store.stalled_s == 0

    run(path, test)


def test_a_lock_that_is_never_released_fails_the_write_typed_and_the_store_recovers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.05)

    async def test(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Overloaded) as refused:
            await store.write((PUT, ("k", 1)))
        assert refused.value.data["reason"] == "locked"
        assert refused.value.data["retry_after_s"]
        other.execute("ROLLBACK")
        other.close()
        await store.write((PUT, ("k", 1)))

    run(path, test)


def test_a_full_queue_refuses_with_a_hint_when_to_come_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "QUEUE_LIMIT", 10)

    async def test(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.ensure_future(store.write((PUT, ("first", 1))))
        while not store.stalled_s:
            await asyncio.sleep(0)
        writes = [asyncio.ensure_future(store.write((PUT, (str(n), 1)))) for n in range(30)]
        await asyncio.sleep(0)
        store.post((PUT, ("posted", 1)))
        other.execute("ROLLBACK")
        other.close()
        await first
        results = await asyncio.gather(*writes, return_exceptions=True)
        refused = [each for each in results if isinstance(each, Overloaded)]
        assert len(refused) >= 20 - 1
        assert all(each.data["retry_after_s"] for each in refused)
        assert await store.read(COUNT) == [(1 + 30 - len(refused),)]
        assert store.lost_posts == 1

    run(path, test)


def test_a_stalled_store_refuses_new_work(path: Path) -> None:
    now_s = [0.0]

    async def bounded() -> None:
        store = Store.open(path, clock=lambda: now_s[0])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.ensure_future(store.write((PUT, ("first", 1))))
        await asyncio.sleep(0)
        now_s[0] = 60.0
        assert store.stalled_s == 60.0
        with pytest.raises(Overloaded) as refused:
            await store.write((PUT, ("second", 1)))
        assert refused.value.data["reason"] == "stalled"
        other.execute("ROLLBACK")
        other.close()
        assert await first
        await store.write((PUT, ("third", 1)))
        await store.close()

    asyncio.run(bounded())


def test_a_cancelled_writer_disturbs_nobody(path: Path) -> None:
    async def test(store: Store) -> None:
        gone = asyncio.ensure_future(store.write((PUT, ("gone", 1))))
        await asyncio.sleep(0)
        gone.cancel()
        await store.write((PUT, ("k", 1)))
        assert await store.read(COUNT) == [(2,)]

    run(path, test)


def test_a_store_gives_back_what_was_removed_while_it_is_used(path: Path) -> None:
    async def test(store: Store) -> None:
        await store.write(*((PUT, (f"gone {n}", b"x" * 1_000_000)) for n in range(40)))
        await store.write((PUT, ("kept", b"y" * 1_000_000)))
        await store.write(("DELETE FROM meta WHERE key LIKE 'gone %'", ()))
        await store.shrink()
        assert await store.read("SELECT value FROM meta WHERE key = 'kept'") == [(b"y" * 1_000_000,)]

    run(path, test)
    assert path.stat().st_size < 12_000_000


def test_an_older_file_of_which_most_is_free_is_rewritten_at_the_start(path: Path) -> None:
    run(path, nothing)
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute("PRAGMA auto_vacuum = NONE")
        older.execute("VACUUM")
        older.executemany(PUT, [(f"gone {n}", b"x" * 1_000_000) for n in range(10)])
        older.execute("DELETE FROM meta WHERE key LIKE 'gone %'")
    assert path.stat().st_size > 10_000_000
    run(path, nothing)
    assert path.stat().st_size < 1_000_000
    test_a_store_gives_back_what_was_removed_while_it_is_used(path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 500])
def test_a_file_that_is_no_database_is_refused_by_name_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Conflict) as refused:
        Store.open(path)
    assert refused.value.data["file"] == str(path)
    assert refused.value.data["reason"] in {"not-a-store", "corrupt"}
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(Conflict) as refused:
        Store.open(path)
    assert refused.value.data["reason"] == "not-a-store"


def test_a_store_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    run(path, nothing)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Conflict) as refused:
        Store.open(path)
    assert (refused.value.data["reason"], refused.value.data["version"]) == ("newer-version", 99)


def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    async def fill(store: Store) -> None:
        await store.write(*((PUT, (f"{n:0500d}", 1)) for n in range(200)))

    run(path, fill)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8_192] = os.urandom(8_192)
    path.write_bytes(data)
    with pytest.raises(Conflict) as refused:
        Store.open(path)
    assert (refused.value.data["reason"], refused.value.data["file"]) == ("corrupt", str(path))


def test_a_store_that_is_open_elsewhere_is_refused(path: Path) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(Conflict) as refused:
            Store.open(path)
        assert refused.value.data["reason"] == "in-use"

    run(path, test)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionDenied):
        Store.open(tmp_path / "state" / "corral.db")
    tmp_path.chmod(0o700)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "4m")


def test_on_a_full_disk_writes_fail_typed_and_the_store_recovers(small_disk: Path) -> None:
    async def test(store: Store) -> None:
        (small_disk / "ballast").write_bytes(b"x" * 1_000_000)
        # One that is too big does not take the small ones with it that share its commit.
        sizes = (10, 8_000_000, 10, 10)
        results = await asyncio.gather(
            *(store.write((PUT, (f"shared {n}", b"x" * size))) for n, size in enumerate(sizes)), return_exceptions=True
        )
        assert [type(each) for each in results] == [list, Overloaded, list, list]

        async def fill() -> None:
            for number in range(1_000):
                await store.write((PUT, (str(number), b"x" * 10_000)))

        with pytest.raises(Overloaded) as refused:
            await fill()
        assert refused.value.data["reason"] in {"disk-full", "io-error"}
        stored = (await store.read(COUNT))[0][0]
        (small_disk / "ballast").unlink()
        await store.write((PUT, ("works again", 1)))
        assert await store.read(COUNT) == [(int(str(stored)) + 1,)]

    run(small_disk / "corral.db", test)


@pytest.mark.long
def test_everything_acknowledged_is_there_after_a_kill(path: Path) -> None:
    program = """
import asyncio, os, sys
from pathlib import Path
from corral.supervisor.records.store.store import Store
PUT = (
    "INSERT INTO task (id, agent, state, priority, attempt, created_at, record)"
    " VALUES (?, 'a', 'queued', 5, 0, 0.0, ?)"
)

async def client(store, name):
    for number in range(1_000_000):
        task = f"{name}-{number}"
        await store.write((PUT, (task, b"{}")), ("INSERT INTO event VALUES (NULL, '', 't', ?, '', NULL)", (task,)))
        os.write(1, task.encode() + b"\\n")

async def main():
    store = Store.open(Path(sys.argv[1]))
    await asyncio.gather(*(client(store, f"{store.generation}-{n}") for n in range(16)))

asyncio.run(main())
"""
    acknowledged: set[str] = set()
    for round_number in range(20):
        arguments = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(1 + 37 * round_number):
                acknowledged.add(process.stdout.readline().strip())
            process.kill()
            acknowledged.update(process.stdout.read().split())

        async def check(store: Store) -> None:
            tasks = {row[0] for row in await store.read("SELECT id FROM task")}
            events = {row[0] for row in await store.read("SELECT agent FROM event")}
            assert acknowledged <= tasks
            assert tasks == events, "a group is whole"

        run(path, check)
    assert len(acknowledged) > 37 * 190


def test_a_store_that_has_rested_wakes_for_each_write_and_leaves_nothing_open(path: Path) -> None:
    def open_fds() -> set[str]:
        return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}

    async def test() -> None:
        before = open_fds()
        store = Store.open(path)
        async with asyncio.timeout(BOUND_S):
            for n in range(200):
                if n % 3 == 0:
                    assert store.post((PUT, (f"p{n}", 1)))
                first, second = store.begin((PUT, (f"a{n}", 1))), store.begin((PUT, (f"b{n}", 1)))
                await first
                await second
            left = store.begin((PUT, ("last", 1)))
            await store.close()
            await left
        assert open_fds() == before

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as first:
        first.run(asyncio.sleep(0))  # the first loop of libuv keeps a pipe for the process
        first.run(test())
