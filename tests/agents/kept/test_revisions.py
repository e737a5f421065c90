"""The history of tables: numbers grow, one revision is current, and it is the table in force in the store; real SQLite."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from corral.supervisor.agents.kept.record import (
    DAEMON_ENDED,
    RESUMES_MAX,
    Cause,
    Draft,
    Head,
    How,
    InForce,
    Revision,
    aligned,
)
from corral.supervisor.agents.kept.revision_rows import MAX_REVISIONS
from corral.supervisor.agents.kept.revisions import Revisions
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import NotFound, Timeout, WorkerFailed

pytestmark = pytest.mark.shell

BOUND_S = 60.0
SET = Cause("set", "root", "because")


def open_revisions(path: Path) -> tuple[Store, Revisions, list[tuple[str, dict[str, Any]]]]:
    store = Store.open(path)
    told: list[tuple[str, dict[str, Any]]] = []
    bus = Bus(1, lambda event: told.append((event.type, dict(event.fields))))
    return store, Revisions(store, bus), told


def run(path: Path, test: Callable[[Revisions], Awaitable[None]]) -> list[tuple[str, Any]]:
    """Runs a test with a store, closes it, and returns the published events."""

    async def bounded() -> list[tuple[str, Any]]:
        store, revisions, told = open_revisions(path)
        try:
            async with asyncio.timeout(BOUND_S):
                await test(revisions)
        finally:
            await store.close()
        return told

    return uvloop.run(bounded())


def in_force(path: Path) -> dict[str, tuple[str, str | None]]:
    """Returns the tables with which the next daemon begins, as the store has them."""
    with closing(sqlite3.connect(path)) as database:
        return {
            name: (table, base) for name, table, base in database.execute("SELECT name, table_json, base FROM agent")
        }


def states(found: list[Revision]) -> list[tuple[int, str]]:
    return [(each.number, each.state) for each in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_settled_revision_is_current_and_its_table_is_in_force(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])
        assert await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True) == 1
        assert await revisions.record("a", "agent", {"n": 2}, SET, is_settled=True) == 2
        found = await revisions.list("a", 10)
        assert states(found) == [(2, "current"), (1, "superseded")]
        assert (found[0].cause, found[0].table) == (SET, {"n": 2})

    told = run(path, test)
    assert in_force(path) == {"a": ('{"n":2}', None)}
    assert [type_ for type_, _ in told] == ["revision.recorded"] * 2


def test_a_rolling_revision_is_in_force_when_it_has_settled_and_not_before(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])
        await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True)
        assert await revisions.record("a", "agent", {"n": 2}, SET) == 2
        assert revisions.head("a").rolling == 2
        assert in_force(path)["a"][0] == '{"n":1}'
        assert await revisions.settle("a", 2, True)
        assert in_force(path)["a"][0] == '{"n":2}'
        assert not await revisions.settle("a", 2, False, "late")
        await revisions.record("a", "agent", {"n": 3}, SET)
        assert await revisions.settle("a", 3, False, "exited")
        found = await revisions.list("a", 10)
        assert states(found) == [(3, "failed"), (2, "current"), (1, "superseded")]
        assert found[0].reason == "exited"

    run(path, test)
    assert in_force(path)["a"][0] == '{"n":2}'


def test_a_change_gives_up_the_one_that_is_still_rolling(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])
        await revisions.record("a", "agent", {"n": 1}, SET)
        await revisions.record("a", "agent", {"n": 2}, SET)
        assert not await revisions.settle("a", 1, True)
        assert await revisions.settle("a", 2, True)
        assert states(await revisions.list("a", 10)) == [(2, "current"), (1, "failed")]

    told = run(path, test)
    assert ("revision.settled", 1) in [(type_, fields["revision"]) for type_, fields in told]


def test_a_table_of_the_file_is_not_kept_in_the_store_and_ends_an_override(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([InForce("a", "agent", {"n": 1}, False)])
        await revisions.record("a", "agent", {"n": 2}, SET, base="of the file", is_settled=True)
        assert in_force(path) == {"a": ('{"n":2}', "of the file")}
        await revisions.record("a", "agent", {"n": 1}, SET, is_stored=False, is_settled=True)

    run(path, test)
    assert in_force(path) == {}


def test_a_removed_name_keeps_its_history_and_counts_on(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])
        await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True)
        await revisions.remove(["a"])
        assert states(await revisions.list("a", 10)) == [(1, "superseded")]
        assert await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True) == 2
        await revisions.remove(["a"])

    async def later(revisions: Revisions) -> None:
        await revisions.load([])
        assert await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True) == 3
        with pytest.raises(NotFound):
            await revisions.find("a", 9)

    run(path, test)
    assert in_force(path) == {}
    run(path, later)


@pytest.mark.parametrize("has_changed", [False, True])
def test_a_start_settles_what_was_rolling_by_the_table_in_force(path: Path, has_changed: bool) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([InForce("a", "agent", {"n": 1}, False)])
        cause = Cause("reload", "file")
        await revisions.record("a", "agent", {"n": 2}, cause, is_stored=False)

    async def later(revisions: Revisions) -> None:
        await revisions.load([InForce("a", "agent", {"n": 2 if has_changed else 1}, False)])
        found = await revisions.list("a", 10)
        if has_changed:
            assert states(found) == [(2, "current"), (1, "superseded")]
        else:
            assert states(found) == [(2, "failed"), (1, "current")]
            assert found[0].reason == DAEMON_ENDED
        assert revisions.head("a").current == (2 if has_changed else 1)

    run(path, test)
    run(path, later)


def test_a_caller_that_waits_for_a_revision_learns_of_its_end_whatever_ends_it(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])

        async def end_of(number: int, ending: Awaitable[object]) -> dict[str, str]:
            waiting = asyncio.ensure_future(revisions.until_settled({"a": number}, BOUND_S))
            await asyncio.sleep(0)  # it waits now
            await ending
            try:
                await waiting
            except WorkerFailed as error:
                reasons: Any = error.data["taken_back"]
                return {**reasons}
            return {}

        async def begun() -> int:
            return await revisions.record("a", "agent", {}, SET)

        assert await end_of(1, revisions.record("a", "agent", {}, SET, is_settled=True)) == {}
        number = await begun()
        assert await end_of(number, revisions.settle("a", number, True)) == {}
        number = await begun()
        assert await end_of(number, revisions.settle("a", number, False, "bad")) == {"a": "bad"}
        number = await begun()
        [reason] = (await end_of(number, begun())).values()
        assert str(number + 1) in reason, "a newer one has taken its place"
        with pytest.raises(Timeout):
            await revisions.until_settled({"a": number + 1}, 0.01)
        assert await end_of(number + 1, revisions.remove(["a"])) == {"a": "removed"}

    run(path, test)


@pytest.mark.parametrize("how", ["add", "set", "rollback"])
def test_what_was_acknowledged_and_rolling_goes_on_in_the_next_daemons_but_not_for_ever(path: Path, how: How) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])
        await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True)
        await revisions.record("a", "agent", {"n": 2}, Cause(how, "root"))

    async def later(revisions: Revisions, is_resumed: bool) -> None:
        resumed = await revisions.load([InForce("a", "agent", {"n": 1}, True)])
        assert [each.number for each in resumed] == [2] * is_resumed
        state = "rolling" if is_resumed else "failed"
        assert states(await revisions.list("a", 10)) == [(2, state), (1, "current")]
        assert revisions.head("a") == Head(2, 1, 2 if is_resumed else None)

    run(path, test)
    for daemon in range(RESUMES_MAX + 2):
        run(path, lambda each, n=daemon: later(each, n < RESUMES_MAX))  # type: ignore[misc]  # n is bound
    assert in_force(path) == {"a": ('{"n":1}', None)}


OPEN = Revision(
    name="a",
    number=2,
    kind="agent",
    state="rolling",
    reason="",
    cause=SET,
    table={"n": 2},
    is_stored=True,
    base=None,
    at=0.0,
    settled_at=None,
)


@pytest.mark.parametrize(
    ("rolling", "present", "current", "resumed", "failed"),
    [
        (OPEN, InForce("a", "agent", {"n": 1}, True), 1, 2, []),
        (OPEN, InForce("a", "agent", {"n": 2}, True), 2, None, []),  # it had come up
        (OPEN, InForce("a", "agent", {"n": 3}, True), None, None, [2]),  # another one is in force
        (OPEN, InForce("a", "agent", {"n": 1}, False), None, None, [2]),  # the file names it now
        (OPEN, None, None, None, [2]),  # it was removed
        (replace(OPEN, cause=Cause("deploy", "root")), InForce("a", "agent", {"n": 1}, True), *(1, None, [2])),
        (replace(OPEN, cause=Cause("reload", "file")), InForce("a", "agent", {"n": 1}, True), *(1, None, [2])),
        (replace(OPEN, resumes=2), InForce("a", "agent", {"n": 1}, True), 1, None, [2]),
        (replace(OPEN, base="f"), InForce("a", "agent", {"n": 1}, True), 1, 2, []),  # an override
    ],
)
def test_a_start_decides_what_becomes_of_a_rolling_revision(
    rolling: Revision, present: InForce | None, current: int | None, resumed: int | None, failed: list[int]
) -> None:
    before = replace(OPEN, number=1, state="current", table={"n": 1})
    found = aligned([before, rolling], present)
    assert found.current == current
    assert (None if found.resumed is None else found.resumed.number) == resumed
    assert [each.number for each in found.failed] == failed
    assert (found.draft is not None) == (current is None and present is not None)


def test_a_file_that_changed_while_no_daemon_ran_makes_a_revision(path: Path) -> None:
    async def test(revisions: Revisions, n: int) -> None:
        await revisions.load([InForce("a", "agent", {"n": n}, False)])

    for n in (1, 1, 2):
        run(path, lambda revisions, n=n: test(revisions, n))  # type: ignore[misc]  # n is bound

    async def look(revisions: Revisions) -> None:
        await revisions.load([])
        found = await revisions.list("a", 10)
        assert states(found) == [(2, "superseded"), (1, "superseded")]
        assert found[0].cause.how == "file"

    run(path, look)


def test_retention_keeps_the_newest_the_last_good_one_and_those_of_checkpoints(path: Path) -> None:
    async def test(revisions: Revisions) -> None:
        await revisions.load([])
        await revisions.record("a", "agent", {"n": 0}, SET, is_settled=True)
        await revisions.record("a", "agent", {"n": 1}, SET, is_settled=True)
        for n in range(2, MAX_REVISIONS + 10):
            number = await revisions.record("a", "agent", {"n": n}, SET)
            await revisions.settle("a", number, False, "exited")
        await revisions.record("gone", "agent", {}, SET, is_settled=True)
        await revisions.remove(["gone"])
        await revisions.expire(0.0)
        found = [each.number for each in await revisions.list("a", 1000)]
        assert len(found) == MAX_REVISIONS + 2
        assert found[-2:] == [2, 1], "the current one, and the last that was"
        assert len(await revisions.list("gone", 10)) == 1
        await revisions.expire(2.0**40)
        with pytest.raises(NotFound):
            await revisions.list("gone", 10)
        assert await revisions.record("gone", "agent", {}, SET) == 2
        assert len(await revisions.list("a", 1000)) == len(found)

    run(path, test)


Step = tuple[str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["set", "roll", "succeed", "fail", "remove", "end", "both"]),
        st.sampled_from("ab"),
        st.integers(1, 4),
    ),
    max_size=30,
)


@pytest.mark.long
@settings(max_examples=60, deadline=None, print_blob=True)
@given(STEPS)
def test_after_any_changes_the_current_revision_is_the_table_in_force(steps: list[Step]) -> None:
    async def live(path: Path) -> None:
        store, revisions, _ = open_revisions(path)
        await revisions.load([])
        wanted: dict[str, int] = {}
        rolling: dict[str, tuple[int, int]] = {}
        resumes: Counter[tuple[str, int]] = Counter()
        last = {"a": 0, "b": 0}
        for what, name, n in steps:
            match what:
                case "set" | "roll":
                    number = await revisions.record(name, "agent", {"n": n}, SET, is_settled=what == "set")
                    assert number > last[name]
                    last[name] = number
                    rolling.pop(name, None)
                    if what == "set":
                        wanted[name] = n
                    else:
                        rolling[name] = (number, n)
                case "both":
                    drafts = [Draft(each, "agent", {"n": n}, SET, is_settled=True) for each in "ab"]
                    numbers = await asyncio.gather(revisions.record_all(drafts), revisions.record_all(drafts))
                    assert all(one < other for one, other in zip(*numbers, strict=True))
                    last = dict(zip("ab", numbers[1], strict=True))
                    wanted, rolling = {"a": n, "b": n}, {}
                case "succeed" | "fail":
                    number, n = rolling.pop(name, (0, 0))
                    has_ended = await revisions.settle(name, number, what == "succeed", "x")
                    assert has_ended == (number > 0)
                    if number and what == "succeed":
                        wanted[name] = n
                case "remove":
                    await revisions.remove([name])
                    wanted.pop(name, None)
                    rolling.pop(name, None)
                case _:  # the daemon ends, and another begins with what the store has
                    await store.close()
                    store, revisions, _ = open_revisions(path)
                    tables = {each: {"n": n} for each, n in wanted.items()}
                    await revisions.load([InForce(each, "agent", table, True) for each, table in tables.items()])
                    rolling = {
                        each: (number, n)
                        for each, (number, n) in rolling.items()
                        if n != wanted.get(each, n) and resumes[each, number] < RESUMES_MAX
                    }
                    resumes.update((each, number) for each, (number, _) in rolling.items())
        for name in "ab":
            head = revisions.head(name)
            found = await revisions.list(name, 100) if head.last else []
            assert [each.number for each in found] == list(range(head.last, 0, -1))
            current = [each for each in found if each.state == "current"]
            assert [each.table for each in current] == ([{"n": wanted[name]}] if name in wanted else [])
            assert head.current == (current[0].number if current else None)
            assert [each.number for each in found if each.state == "rolling"] == (
                [rolling[name][0]] if name in rolling else []
            )
        await store.close()
        assert in_force(path) == {n: (f'{{"n":{each}}}', None) for n, each in wanted.items()}

    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(live(Path(folder) / "store.db"))
