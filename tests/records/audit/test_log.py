"""The audit's chain: real SQLite, tampered with from outside; what was written is there, and what was changed is named."""

import asyncio
import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from configurations import in_force
from corral.supervisor.api.table.cluster import JoinedCluster
from corral.supervisor.api.table.handlers import Handler
from corral.supervisor.api.table.table import Admission, CallAudit, Control
from corral.supervisor.config.spec.spec import Audit as Keys
from corral.supervisor.records.audit import hash_chain
from corral.supervisor.records.audit import log as audit_module
from corral.supervisor.records.audit.hash_chain import ROW_BYTES, Position, parse_position
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.records.store import schema
from corral.supervisor.records.store.schema import MIGRATIONS
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.worker.contract.errors import Conflict, CorralError, Overloaded, PermissionDenied, ResourceLimitExceeded
from corral.worker.control.access import Rights
from corral.worker.control.params import NoParams
from corral.worker.control.results import Done
from corral.worker.methods.faces import faces
from corral.worker.methods.method import Signature, access, method
from seeds import seeds

pytestmark = pytest.mark.shell

BOUND_S = 60.0

Test = Callable[[Audit, Store], Awaitable[None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corral.db"


def run(path: Path, test: Test, keys: Keys | None = None) -> None:
    async def bounded() -> None:
        store = Store.open(path)
        try:
            audit = await Audit.open(store, in_force(audit=keys or Keys()))
            try:
                async with asyncio.timeout(BOUND_S):
                    await test(audit, store)
            finally:
                await audit.close()
        finally:
            await store.close()

    uvloop.run(bounded())


def record(number: int, **facts: object) -> dict[str, object]:
    return {"at": audit_module.now(), "action": "test.done", "number": number, **facts}


async def filled(audit: Audit, count: int) -> None:
    for number in range(1, count + 1):
        audit.add(record(number))
    assert await audit.settle()


def outside(path: Path, *statements: str) -> None:
    """What somebody does who can write the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("chain_hash", 3, hash_chain.chain_hash)
        for statement in statements:
            connection.execute(statement)


# -- what is written


def test_each_hash_stands_for_the_one_before_the_number_and_the_bytes(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 20)

    run(path, test)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, record, hash FROM audit ORDER BY id").fetchall()
    before = bytes(32)
    for expected, (number, data, hash_) in enumerate(rows, 1):
        assert number == expected
        before = hashlib.sha256(before + number.to_bytes(8, "big") + data).digest()
        assert hash_ == before
    assert len(rows) == 20


def test_the_chain_goes_on_in_the_next_life_of_the_daemon(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 3)
        found = await audit.verify()
        assert (found["ok"], found["first"]) == (True, 1)
        lengths.append(found["last"])

    lengths: list[object] = []
    for _ in range(3):
        run(path, test)
    assert lengths == [3, 6, 9]


def test_what_is_kept_is_on_disk_when_it_is_answered_and_what_is_added_follows_soon(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        assert await audit.keep(record(1))
        assert await store.read("SELECT count(*) FROM audit") == [(1,)]
        audit.add(record(2))
        while await store.read("SELECT count(*) FROM audit") != [(2,)]:
            await asyncio.sleep(0)

    run(path, test)


def test_records_of_many_at_once_are_one_chain_in_the_order_of_their_numbers(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        async def client(name: int) -> None:
            for number in range(25):
                assert await audit.keep(record(number, client=name))
                audit.add(record(number, client=name, soon=True))

        await asyncio.gather(*(client(name) for name in range(8)))
        found = await audit.verify()
        assert (found["ok"], found["records"]) == (True, 400)
        records, following = await audit.page(1000, lambda _: True, after=0)
        assert [each["id"] for each in records] == list(range(1, 401))
        assert following is None
        for name in range(8):
            for soon in (None, True):
                numbers = [r["number"] for r in records if (r["client"], r.get("soon")) == (name, soon)]
                assert numbers == list(range(25))

    run(path, test)


def test_what_waits_at_the_end_is_stored_before_the_store_is_closed(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        for number in range(2_000):
            audit.add(record(number))

    run(path, test)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone() == (2_000,)


@pytest.mark.parametrize("odd", ["x" * 20_000, "\udc80", object()], ids=["too long", "no UTF-8", "no JSON"])
def test_a_record_that_cannot_be_stored_as_it_is_says_at_least_who_did_what(path: Path, odd: object) -> None:
    async def test(audit: Audit, store: Store) -> None:
        assert await audit.keep(record(1, who={"uid": 7}, params=odd))
        ((found,), _) = await audit.page(10, lambda _: True)
        assert (found["action"], found["who"], found["cut"]) == ("test.done", {"uid": 7}, True)

    run(path, test)


def test_a_store_of_an_earlier_version_gets_an_audit(path: Path) -> None:
    outside(
        path,
        *MIGRATIONS[0].split(";"),
        "INSERT INTO tool_call (at, tool) VALUES ('2026-01-01T00:00:00Z', 'a__b')",
        f"PRAGMA application_id = {schema.APPLICATION_ID}",
        "PRAGMA user_version = 1",
    )

    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 1)
        assert (await audit.verify())["records"] == 1

    run(path, test)


# -- what is changed from outside

CHANGES: dict[str, tuple[int, tuple[str, ...]]] = {
    "a record": (7, ("UPDATE audit SET record = CAST('{}' AS BLOB) WHERE id = 7",)),
    "a record is no text": (7, ("UPDATE audit SET record = 5 WHERE id = 7",)),
    "a record is no UTF-8": (7, ("UPDATE audit SET record = CAST(x'ff' AS TEXT) WHERE id = 7",)),
    "a record is huge": (7, ("UPDATE audit SET record = zeroblob(30000000) WHERE id = 7",)),
    "a hash": (7, ("UPDATE audit SET hash = zeroblob(32) WHERE id = 7",)),
    "a record with its hash": (
        8,
        (
            "UPDATE audit SET record = CAST('{}' AS BLOB) WHERE id = 7",
            "UPDATE audit SET hash = chain_hash((SELECT hash FROM audit WHERE id = 6), 7, record) WHERE id = 7",
        ),
    ),
    "a number": (7, ("UPDATE audit SET id = 700 WHERE id = 7",)),
    "two records change places": (
        7,
        (
            "UPDATE audit SET id = 700 WHERE id = 7",
            "UPDATE audit SET id = 7 WHERE id = 9",
            "UPDATE audit SET id = 9 WHERE id = 700",
        ),
    ),
    "one is removed": (7, ("DELETE FROM audit WHERE id = 7",)),
    "the first is removed": (1, ("DELETE FROM audit WHERE id = 1",)),
    "the last is removed": (20, ("DELETE FROM audit WHERE id = 20",)),
    "all are removed": (1, ("DELETE FROM audit",)),
    "one is slipped in before the first": (0, ("INSERT INTO audit VALUES (0, x'00', x'00')",)),
    "one is slipped in behind the last": (21, ("INSERT INTO audit VALUES (21, x'00', x'00')",)),
    "the anchor's hash": (1, ("UPDATE audit_chain SET anchor_hash = x'00'",)),
    "the anchor's number": (1, ("UPDATE audit_chain SET anchor_id = 5",)),
    "the head's hash": (20, ("UPDATE audit_chain SET head_hash = x'00'",)),
    "the head's number": (10, ("UPDATE audit_chain SET head_id = 10",)),
    "the oldest are removed behind an anchor of somebody's own": (
        5,
        (
            "UPDATE audit_chain SET anchor_id = 5, anchor_hash = (SELECT hash FROM audit WHERE id = 5)",
            "DELETE FROM audit WHERE id <= 5",
        ),
    ),
}


@pytest.mark.parametrize(("wrong", "statements"), CHANGES.values(), ids=CHANGES)
def test_what_somebody_changed_is_named_by_its_number(path: Path, wrong: int, statements: tuple[str, ...]) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 20)
        assert (await audit.verify())["ok"] is True
        outside(path, *statements)
        found: Any = await audit.verify()
        assert found["ok"] is False
        assert found["wrong"]["id"] == wrong

    run(path, test)


def test_every_byte_counts(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 5)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for column in ("record", "hash"):
                ((whole,),) = connection.execute(f"SELECT {column} FROM audit WHERE id = 3")
                for place in range(len(whole)):
                    changed = bytearray(whole)
                    changed[place] ^= 1 << place % 8
                    change = f"UPDATE audit SET {column} = ? WHERE id = 3"
                    connection.execute(change, (bytes(changed),))
                    found: Any = await audit.verify()
                    assert found["wrong"] is not None, (column, place)
                    assert found["wrong"]["id"] == 3, (column, place)
                    connection.execute(change, (whole,))
        assert (await audit.verify())["ok"] is True

    run(path, test)


REWRITTEN = """
UPDATE audit_chain SET head_id = 15, head_hash = (SELECT hash FROM audit WHERE id = 15);
DELETE FROM audit WHERE id > 15
"""


def test_a_tail_that_was_cut_with_its_head_is_found_by_a_head_that_was_noted(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 20)
        noted = parse_position(str((await audit.verify())["head"]))
        outside(path, *REWRITTEN.split(";"))
        assert (await audit.verify())["ok"] is True, "the file alone cannot tell"
        found: Any = await audit.verify(noted)
        assert (found["ok"], found["wrong"]["id"]) == (False, 20)

    run(path, test)


def test_a_chain_that_was_calculated_anew_is_found_by_a_head_that_was_noted(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 20)
        noted = parse_position(str((await audit.verify())["head"]))
        outside(path, "UPDATE audit SET record = CAST('{}' AS BLOB) WHERE id = 7")
        for number in range(7, 21):
            before = f"(SELECT hash FROM audit WHERE id = {number - 1})"
            outside(path, f"UPDATE audit SET hash = chain_hash({before}, id, record) WHERE id = {number}")
        outside(path, "UPDATE audit_chain SET head_hash = (SELECT hash FROM audit WHERE id = 20)")
        await filled(audit, 5)  # it grows on
        assert (await audit.verify())["ok"] is True, "the file alone cannot tell"
        found: Any = await audit.verify(noted)
        assert (found["ok"], found["wrong"]["id"]) == (False, 20)

    run(path, test)


def test_a_head_that_was_noted_is_in_a_chain_that_only_grew(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        assert (await audit.verify(Position(0, bytes(32))))["ok"] is True, "nothing was there"
        for _ in range(3):
            await filled(audit, 5)
            noted = parse_position(str((await audit.verify())["head"]))
            await filled(audit, 5)
            assert (await audit.verify(noted))["ok"] is True

    run(path, test)


def test_a_page_that_sqlite_refuses_is_a_typed_error_and_the_rest_goes_on(path: Path) -> None:
    async def fill(audit: Audit, store: Store) -> None:
        for number in range(2_000):
            audit.add(record(number, text="x" * 100))

    run(path, fill)
    marker = b'"number":1000'

    async def test(audit: Audit, store: Store) -> None:
        data = bytearray(path.read_bytes())
        start = data.index(marker) // 4096 * 4096
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"\xff" * 4096)
        with pytest.raises(Conflict) as refused:
            await audit.verify()
        assert refused.value.data["reason"] == "corrupt"
        assert await store.read("SELECT 1") == [(1,)]

    run(path, test)


def test_a_damaged_record_is_shown_as_such_beside_the_others(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 3)
        outside(path, "UPDATE audit SET record = x'ff00' WHERE id = 2")
        records, _ = await audit.page(10, lambda _: True)
        assert [(r["id"], r.get("damaged", False)) for r in records] == [(1, False), (2, True), (3, False)]

    run(path, test)


# -- what goes


def test_what_is_too_much_goes_behind_an_anchor_and_the_rest_is_still_verified(path: Path) -> None:
    keys = Keys(max_bytes=100_000)

    async def test(audit: Audit, store: Store) -> None:
        async def size() -> int:
            ((found,),) = await store.read("SELECT SUM(length(record)) FROM audit")
            return int(str(found))

        await filled(audit, 3_000)
        while await size() > 100_000:
            await asyncio.sleep(0)
        found: Any = await audit.verify()  # it waits for what is still going on
        assert found["ok"] is True
        assert found["first"] > 1
        hash_chain = await audit.chain()
        assert hash_chain.anchor.number == found["first"] - 1
        ((counted,),) = await store.read(f"SELECT SUM(length(record) + {ROW_BYTES}) FROM audit")
        assert hash_chain.size_bytes == counted
        noted = parse_position(found["anchor"])
        assert (await audit.verify(noted))["ok"] is True
        older: Any = await audit.verify(Position(noted.number - 1, bytes(32)))
        assert (older["ok"], older["wrong"]["id"]) == (False, noted.number - 1)
        outside(path, "UPDATE audit_chain SET anchor_hash = zeroblob(32)")
        assert (await audit.verify())["ok"] is False

    run(path, test, keys)


def test_what_is_too_old_goes_and_the_audit_says_so(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        for day in range(1, 10):
            audit.add(record(day) | {"at": f"2026-01-0{day}T00:00:00.000Z"})
        await audit.settle()
        await audit.prune(1_767_571_200.0 + 90 * 86_400)  # 2026-01-05 and the retention
        records, _ = await audit.page(100, lambda _: True)
        assert [each.get("number") for each in records] == [5, 6, 7, 8, 9, None]
        said = records[-1]
        assert (said["action"], said["first"], said["last"]) == ("audit.pruned", 1, 4)
        assert (await audit.verify())["ok"] is True
        await audit.prune(1_767_571_200.0 + 90 * 86_400)
        assert len((await audit.page(100, lambda _: True))[0]) == 6, "nothing more is too old"
        await audit.prune(time.time() + 91 * 86_400)
        found: Any = await audit.verify()
        assert (found["ok"], found["records"]) == (True, 1)

    run(path, test)


# -- what a store does not take


class Held:
    """A lock on the file: nobody else can write."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_a_store_that_takes_nothing_holds_up_an_answer_for_a_bounded_time_and_loses_no_record(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", BOUND_S)
    monkeypatch.setattr(audit_module, "KEEP_S", 0.05)

    async def test(audit: Audit, store: Store) -> None:
        assert not audit.is_behind
        await audit.require("try")
        with Held(path):
            assert await audit.keep(record(1)) is False
            assert store.stalled_s > 0, "the store has not said anything yet"
            while not audit.is_behind:
                await asyncio.sleep(0)
            with pytest.raises(Overloaded) as refused:
                await audit.require("try")
            assert refused.value.data["reason"] == "audit"
            assert await audit.keep(record(2)) is False
        monkeypatch.setattr(audit_module, "KEEP_S", BOUND_S)
        assert await audit.settle()
        assert not audit.is_behind
        await audit.require("try")
        records, _ = await audit.page(10, lambda _: True)
        assert [each["number"] for each in records] == [1, 2]

    run(path, test)


def test_records_beyond_what_may_wait_are_counted_and_their_place_says_how_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(audit_module, "WAITING_LIMIT", 10)

    async def test(audit: Audit, store: Store) -> None:
        with Held(path):
            first = [await_soon(audit, n) for n in range(1, 2)]
            while not store.stalled_s:
                await asyncio.sleep(0)
            for number in range(2, 52):
                audit.add(record(number))
        assert first
        assert await audit.settle()
        audit.add(record(52))
        records, _ = await audit.page(100, lambda _: True)
        kept = [each["number"] for each in records if each["action"] == "test.done"]
        gaps = [each for each in records if each["action"] == "audit.gap"]
        assert len(kept) + sum(int(str(gap["count"])) for gap in gaps) == 52
        assert len(gaps) == 1
        place = records.index(gaps[0])
        assert [each.get("number") for each in records[:place]] == kept[:-1], "in their place"
        assert kept[-1] == 52
        assert (await audit.verify())["ok"] is True

    run(path, test)


def await_soon(audit: Audit, number: int) -> int:
    audit.add(record(number))
    return number


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.records.store.store import Store

async def main() -> None:
    path = Path(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store.open(path)
    audit = await Audit.open(store, InForce(decode("", source="none", directory="/")))
    kept = [await audit.keep({"action": "before"})]
    size = Path(f"{path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    kept += [await audit.keep({"action": "full", "text": "x" * 9000}) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept += [await audit.settle(), await audit.keep({"action": "after"})]
    found = await audit.verify()
    records, _ = await audit.page(10, lambda _: True)
    print(kept, found["ok"], [each["action"] for each in records])
    await audit.close()
    await store.close()

asyncio.run(main())
"""


def test_a_full_disk_costs_no_record_once_there_is_room_again(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    kept = [True, False, False, False, True, True]
    assert done.stdout.strip() == f"{kept} True {['before', *['full'] * 3, 'after']}"
    assert done.stderr.count('"action":"full"') == 3, "the daemon's log has what the store has not"


# -- what is asked for in a loop


def test_refusals_alike_are_one_record_and_one_with_their_number(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        refusal = record(0, result="PermissionDenied", names=["a"])
        told = [audit.refuse(refusal, "mallory") for _ in range(1_000)]
        assert told == [True] + [False] * 999
        for number in range(1_000):  # nor can others be pushed out by asking for ever new things
            audit.refuse(record(number, result="NotFound", names=[str(number)]), "mallory")
        assert audit.refuse(refusal, "another"), "each caller by itself"

    run(path, test)

    async def look(audit: Audit, store: Store) -> None:
        records, _ = await audit.page(100, lambda _: True)
        by_action = {r["action"]: r for r in records if r.get("result") != "NotFound"}
        assert by_action["test.done"]["repeated"] == 999
        assert by_action["audit.refusals"]["caller"] == "mallory"
        assert by_action["audit.refusals"]["repeated"] == 1_000 - (audit_module.KINDS_PER_CALLER - 1)
        assert len(records) == 2

    run(path, look)


def test_who_is_refused_ever_new_things_for_long_takes_few_records_and_is_still_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "REFUSALS_KEPT", 30)
    windows = 40

    async def test(audit: Audit, store: Store) -> None:
        for window in range(windows):
            for number in range(20):
                for _ in range(2):
                    refusal = record(number, result="NotFound", names=[f"{window}-{number}"])
                    if audit.refuse(refusal, "mallory"):
                        audit.add(refusal)
            audit.record_repeats()

    run(path, test)

    async def look(audit: Audit, store: Store) -> None:
        records, _ = await audit.page(10_000, lambda _: True)
        own = [each for each in records if each["action"] == "audit.refusals"]
        assert len(records) - len(own) <= 30 + windows
        counted = sum(int(str(each["repeated"])) for each in records if "repeated" in each)
        first = sum("repeated" not in each for each in records)
        assert first + counted == windows * 40, "none is forgotten"

    run(path, look)


def test_the_record_of_whoever_has_no_right_is_short(path: Path) -> None:
    async def never(*_: object) -> object:
        raise AssertionError

    async def test(audit: Audit, store: Store) -> None:
        table = control(audit, never, permission="admin")
        with pytest.raises(PermissionDenied):
            await table.call("test.change", {"names": ["x" * 100] * 50}, caller())
        await audit.settle()
        ((size,),) = await store.read("SELECT length(record) FROM audit")
        assert int(str(size)) < 4_096

    run(path, test)


def lasted(name: str, seconds: float) -> None:
    """Statistics of no use here."""


def control(audit: Audit, serve: Handler, *, permission: Rights = "operate") -> Control:
    """A method table with one change, `test.change`, and nothing behind it."""
    change = Signature("test.change", NoParams, Done)
    entry: Any = method(change, access(permission, recorded="always"), faces(), "Changes.")
    nothing: Any = None  # of what the method does not ask for
    statistics: Any = SimpleNamespace(served=lasted)
    admission = Admission(in_force(), nothing, nothing, nothing, nothing, nothing, audit)
    turns = CallTurns(asyncio.get_running_loop())
    calls = CallAudit(audit, nothing, nothing)
    return Control({entry.name: entry}, {entry.name: serve}, admission, calls, turns, statistics, JoinedCluster())


def caller(permission: Rights = "operate") -> Any:  # as much of a Caller as is looked at
    return SimpleNamespace(name="test", permission=permission, who={"uid": 7, "pid": 8}, agents=None, tenant="")


async def stored(store: Store) -> list[object]:
    """What is on disk at this moment."""
    rows = await store.read("SELECT CAST(record AS TEXT) FROM audit ORDER BY id")
    return [json.loads(str(row[0]))["result"] for row in rows]


def test_a_change_that_ends_in_a_defect_of_ours_has_its_record_before_the_answer(path: Path) -> None:
    async def fail(*_: object) -> object:
        raise ZeroDivisionError

    async def test(audit: Audit, store: Store) -> None:
        with pytest.raises(ZeroDivisionError):
            await control(audit, fail).call("test.change", {}, caller())
        assert await stored(store) == ["InternalError"]

    run(path, test)


@pytest.mark.parametrize("error", [Conflict("x"), Overloaded("x"), ResourceLimitExceeded("x")], ids=lambda e: e.name)
def test_a_change_that_may_be_done_in_part_has_a_record_before_the_answer_each_time(
    path: Path, error: CorralError
) -> None:
    async def fail(*_: object) -> object:
        raise error

    async def test(audit: Audit, store: Store) -> None:
        table = control(audit, fail)
        for number in range(1, 4):
            with pytest.raises(type(error)):
                await table.call("test.change", {}, caller())
            assert await stored(store) == [error.name] * number

    run(path, test)


def test_any_number_of_callers_who_are_refused_take_bounded_memory(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        told = [audit.refuse(record(n, result="NotFound"), str(n)) for n in range(10_000)]
        assert sum(told) == audit_module.CALLERS_LIMIT
        await audit.close()

    run(path, test)


# -- reading


def test_pages_give_each_record_once_while_others_come(path: Path) -> None:
    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 700)
        seen: list[object] = []
        following: int | None = 0
        while following is not None:
            records, following = await audit.page(97, lambda r: r["number"] != 50, after=following)
            assert len(records) <= 97
            seen += [each["id"] for each in records]
            if len(seen) < 500:
                audit.add(record(1_000 + len(seen)))
        assert seen == [n for n in range(1, len(seen) + 2) if n != 50]
        assert len(seen) > 700
        newest, _ = await audit.page(5, lambda r: r["number"] != 50)
        assert [each["id"] for each in newest] == seen[-5:]

    run(path, test)


def test_a_page_is_bounded_in_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "ANSWER_BYTES", 10_000)

    async def test(audit: Audit, store: Store) -> None:
        for number in range(10):
            audit.add(record(number, text="x" * 3_000))
        seen: list[object] = []
        following: int | None = 0
        while following is not None:
            records, following = await audit.page(100, lambda _: True, after=following)
            assert 1 <= len(records) <= 3
            seen += [each["id"] for each in records]
        assert seen == list(range(1, 11))
        assert [r["id"] for r in (await audit.page(100, lambda _: True))[0]] == [8, 9, 10]

    run(path, test)


def test_a_question_that_few_records_answer_is_answered_page_by_page_in_both_directions(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "SLICE_ROWS", 10)
    monkeypatch.setattr(audit_module, "LOOKED_ROWS", 50)

    async def test(audit: Audit, store: Store) -> None:
        await filled(audit, 400)
        for edge, start in (("after", 0), ("before", None)):
            seen: list[object] = []
            pages, following = 0, start
            while pages == 0 or following is not None:
                records, following = await audit.page(5, lambda r: r["number"] in (3, 399), **{edge: following})
                seen += [each["id"] for each in records]
                pages += 1
            assert sorted(map(str, seen)) == ["3", "399"]
            assert pages >= 8, "none looks at all of them"

    run(path, test)


# -- long random lives


@pytest.mark.parametrize("seed", seeds(8, 3))
def test_a_random_audit_is_whole_until_one_thing_is_changed_and_that_is_named(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    monkeypatch.setattr(audit_module, "SLICE_ROWS", dice.randint(1, 40))
    monkeypatch.setattr(audit_module, "PRUNE_ROWS", dice.randint(1, 40))
    monkeypatch.setattr(audit_module, "BATCH_RECORDS", dice.randint(1, 40))
    monkeypatch.setattr(audit_module, "LEAST_BYTES", 0)
    keys = SimpleNamespace(max_bytes=10**9, retention=0.0)

    async def live(audit: Audit, store: Store) -> None:
        noted: Position | None = None
        for step in range(dice.randint(10, 60)):
            match dice.randrange(6):
                case 0:
                    assert await audit.keep(record(step, text="é" * dice.randrange(300)))
                case 1:
                    for number in range(dice.randrange(60)):
                        audit.add(record(number))
                case 2:
                    keys.max_bytes = dice.randrange(1_000, 20_000)
                    await audit.prune()
                    keys.max_bytes = 10**9
                case 3:
                    found = await audit.verify()
                    assert found["ok"] is True, found
                    noted = parse_position(str(found["head"]))
                case 4:
                    await asyncio.gather(*(audit.keep(record(n)) for n in range(10)))
                case _:
                    await audit.settle()
        await audit.keep(record(0))
        hash_chain = await audit.chain()
        is_there = noted is not None and noted.number >= hash_chain.anchor.number
        found = await audit.verify(noted if is_there else None)
        assert found["ok"] is True, found

    run(path, live, keys)  # type: ignore[arg-type]  # it has the two keys

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = connection.execute("SELECT id, record, hash FROM audit ORDER BY id").fetchall()
        number, data, hash_ = dice.choice(rows)
        what = dice.choice(("record", "hash", "row"))
        if what == "row":
            connection.execute("DELETE FROM audit WHERE id = ?", (number,))
        else:
            changed = bytearray(data if what == "record" else hash_)
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
            sql = f"UPDATE audit SET {what} = ? WHERE id = ?"
            connection.execute(sql, (bytes(changed), number))

    async def look(audit: Audit, store: Store) -> None:
        found: Any = await audit.verify()
        assert found["wrong"] is not None, (what, number)
        assert found["wrong"]["id"] == number, what

    run(path, look)
