"""What the pool decides: names, rights, turns and retries. No process: the sessions are played."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from corral.mcp.messages import (
    MAX_EXPOSED_CHARACTERS,
    Era,
    Progress,
    Tool,
    eras_to_try,
    exposed_names,
)
from corral.mcp.pool import (
    UNSENT_RETRIES,
    Concurrency,
    Gate,
    Pool,
    choose,
    is_allowed,
    may_overlap,
    may_retry,
    near_names,
)
from corral.mcp.session import Session
from corral.worker.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    SpawnFailed,
    Timeout,
    ToolFailed,
)

BOUND_S = 20.0
SHORT_S = 0.05
"""A timeout that is meant to run out."""

READ_ONLY: dict[str, object] = {"readOnlyHint": True}
IDEMPOTENT: dict[str, object] = {"idempotentHint": True}


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    asyncio.run(bounded())


async def turns() -> None:
    """Lets every task run until it waits for another."""
    for _ in range(50):
        await asyncio.sleep(0)


def tool(name: str, annotations: dict[str, object] | None = None) -> Tool:
    return Tool(name=name, annotations=annotations or {})


# -- eras


@pytest.mark.parametrize(
    ("version", "hint", "eras"),
    [
        ("auto", None, ("legacy", "modern")),
        ("auto", "legacy", ("legacy", "modern")),
        ("auto", "modern", ("modern", "legacy", "modern")),
        ("2024-11-05", None, ("legacy",)),
        ("2025-11-25", "modern", ("legacy",)),
        ("2026-07-28", None, ("modern",)),
        ("2026-07-28", "legacy", ("modern",)),
    ],
)
def test_eras_are_tried_in_an_order_that_no_legacy_server_suffers_from(
    version: str, hint: Era | None, eras: tuple[Era, ...]
) -> None:
    assert eras_to_try(version, hint) == eras


# -- names


@pytest.mark.parametrize(
    ("name", "exposed"),
    [
        ("get_current_time", "time__get_current_time"),
        ("a-b-9", "time__a-b-9"),
        ("a.b/c d", "time__a_b_c_d"),
        ("größe", "time__gr__e"),
        ("x" * 42, "time__" + "x" * 42),
    ],
)
def test_a_tool_is_exposed_under_the_name_of_its_server(name: str, exposed: str) -> None:
    assert exposed_names("time", [tool(name)]) == {exposed: tool(name)}


@pytest.mark.parametrize("server", ["t", "time", "s" * 48])
@pytest.mark.parametrize("length", [46, 70, 5_000])
def test_a_long_name_ends_in_a_hash_that_never_changes(server: str, length: int) -> None:
    one, two = tool("x" * length + "1"), tool("x" * length + "2")
    exposed = exposed_names(server, [one, two])
    assert len(exposed) == 2
    assert all(len(name) == MAX_EXPOSED_CHARACTERS for name in exposed)
    assert exposed_names(server, [one]) | exposed_names(server, [two]) == exposed


def test_the_hash_of_a_long_name_is_the_same_in_every_version() -> None:
    exposed = exposed_names("files", [tool("t" * 70)])
    assert list(exposed) == ["files__" + "t" * 32 + "_2ef75ea1"]


def test_names_that_would_be_the_same_are_told_apart_in_any_order() -> None:
    tools = [tool("a.b"), tool("a/b"), tool("a_b"), tool("c.d")]
    exposed = exposed_names("s", tools)
    assert exposed["s__a_b"].name == "a_b"
    assert exposed["s__c_d"].name == "c.d"
    assert {t.name for t in exposed.values()} == {"a.b", "a/b", "a_b", "c.d"}
    assert exposed_names("s", reversed(tools)) == exposed


def test_any_names_are_exposed_once_and_within_the_rules() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(200):
        names = {
            "".join(draw.choices("ab_-./ é\x00\ud800", k=draw.randint(1, 60))) for _ in range(20)
        }
        exposed = exposed_names("s", [tool(name) for name in names])
        assert {t.name for t in exposed.values()} == names
        assert all(re.fullmatch(r"s__[A-Za-z0-9_-]{1,45}", name) for name in exposed)


def test_of_two_tools_of_one_name_the_first_counts() -> None:
    first, second = Tool(name="a", description="1"), Tool(name="a", description="2")
    assert exposed_names("s", [first, second]) == {"s__a": first}


@pytest.mark.parametrize(
    "value", [None, [], "text", {}, {"name": ""}, {"name": 3}, {"title": "no name"}]
)
def test_an_entry_without_a_name_is_no_tool(value: object) -> None:
    assert Tool.from_wire(value) is None


def test_a_tool_with_odd_fields_is_a_tool_all_the_same() -> None:
    entry: dict[str, object] = {
        "name": "a",
        "description": 3,
        "inputSchema": [],
        "annotations": "x",
        "new": 1,
    }
    assert Tool.from_wire(entry) == Tool(name="a", input_schema={"type": "object"})


# -- rights and choice

CATALOGUE = {
    "git__log": ("git", tool("log")),
    "git__status": ("git", tool("status")),
    "svn__log": ("svn", tool("log")),
    "svn__a_b": ("svn", tool("a.b")),
}


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, True),
        ([], False),
        (["*"], True),
        (["git__*"], True),
        (["git__log"], True),
        (["git__lo?"], True),
        (["GIT__*"], False),
        (["log"], False),
        (["svn__*", "git__l*"], True),
    ],
)
def test_an_allow_list_has_patterns_on_exposed_names(
    allowed: list[str] | None, expected: bool
) -> None:
    assert is_allowed("git__log", allowed) is expected


@pytest.mark.parametrize(
    ("name", "allowed", "chosen"),
    [
        ("git__log", None, "git__log"),
        ("status", None, "git__status"),
        ("a.b", None, "svn__a_b"),
        ("svn__a_b", None, "svn__a_b"),
        ("log", ["git__*"], "git__log"),
    ],
)
def test_a_name_means_the_tool_of_this_name(
    name: str, allowed: list[str] | None, chosen: str
) -> None:
    assert choose(name, CATALOGUE, allowed) == chosen


@pytest.mark.parametrize(
    ("name", "allowed", "error", "key", "value"),
    [
        ("log", None, Conflict, "candidates", ["git__log", "svn__log"]),
        ("nothing", None, NotFound, "near", []),
        ("git__lag", ["git__l*"], NotFound, "near", ["git__log"]),
        ("statsu", None, NotFound, "near", ["git__status"]),
        ("statsu", ["svn__*"], NotFound, "near", []),
        ("git__log", ["svn__*"], PermissionDenied, "tool", "git__log"),
        ("status", ["svn__*"], PermissionDenied, "tool", "status"),
        ("git__log", [], PermissionDenied, "tool", "git__log"),
    ],
)
def test_a_name_that_means_no_tool_is_refused_with_a_reason(
    name: str, allowed: list[str] | None, error: type[CorralError], key: str, value: object
) -> None:
    with pytest.raises(error) as caught:
        choose(name, CATALOGUE, allowed)
    assert caught.value.data[key] == value
    assert caught.value.data["tool"] == name


def test_near_names_are_found_by_either_part() -> None:
    names = ["git__git_log", "git__git_status", "cortex__cortex_store"]
    assert near_names("git_lgo", names)[0] == "git__git_log"
    assert near_names("cortx__cortex_store", names)[0] == "cortex__cortex_store"
    assert near_names("zzz", names) == []


@pytest.mark.parametrize(
    ("annotations", "concurrency", "expected"),
    [
        ({}, "auto", False),
        (READ_ONLY, "auto", True),
        ({"readOnlyHint": "yes"}, "auto", False),
        (IDEMPOTENT, "auto", False),
        (READ_ONLY, "serial", False),
        ({}, "parallel", True),
    ],
)
def test_calls_overlap_where_it_is_safe_or_asked_for(
    annotations: dict[str, object], concurrency: Concurrency, expected: bool
) -> None:
    assert may_overlap(tool("a", annotations), concurrency) is expected


LOST = ToolFailed("cannot", lost=True, sent=True)
UNSENT = ToolFailed("cannot", lost=True, sent=False)
ANSWERED = ToolFailed("cannot", code=-32603)


@pytest.mark.parametrize(
    ("annotations", "error", "attempt", "max_retries", "expected"),
    [
        ({}, ANSWERED, 1, 3, False),
        (READ_ONLY, ANSWERED, 1, 3, False),
        ({}, LOST, 1, 3, False),
        ({"destructiveHint": False}, LOST, 1, 3, False),
        (READ_ONLY, LOST, 1, 3, True),
        (IDEMPOTENT, LOST, 3, 3, True),
        (IDEMPOTENT, LOST, 4, 3, False),
        (READ_ONLY, LOST, 1, 0, False),
        ({}, UNSENT, 1, 0, True),
        ({}, UNSENT, UNSENT_RETRIES, 0, True),
        ({}, UNSENT, UNSENT_RETRIES + 1, 0, False),
        ({}, UNSENT, 5, 5, True),
    ],
)
def test_a_call_is_repeated_only_when_that_is_safe(
    annotations: dict[str, object],
    error: ToolFailed,
    attempt: int,
    max_retries: int,
    expected: bool,
) -> None:
    assert may_retry(tool("a", annotations), error, attempt, max_retries) is expected


# -- turns


class Walkers:
    """Tasks that enter a gate and leave it when told."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.leave: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """Lower case shares, upper case is alone."""
        for name in names:
            self.leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self.walk(name))
            await turns()

    async def walk(self, name: str) -> None:
        async with self.gate.hold(shared=name.islower()):
            self.inside.append(name)
            try:
                await self.leave[name].wait()
            finally:
                self.inside.remove(name)

    async def go(self, *names: str) -> None:
        for name in names:
            self.leave[name].set()
            await self.tasks.pop(name)
        await turns()

    async def give_up(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks.pop(name), return_exceptions=True)
        await turns()


def test_readers_share_and_writers_are_alone_in_order_of_arrival() -> None:
    async def test() -> None:
        gate = Gate("g")
        w = Walkers(gate)
        await w.come("a", "b", "C", "d", "E", "f", "g")
        assert (w.inside, gate.waiting) == (["a", "b"], 5)
        await w.go("a")
        assert w.inside == ["b"]
        await w.go("b")
        assert w.inside == ["C"]
        await w.go("C")
        assert w.inside == ["d"]
        await w.go("d")
        assert w.inside == ["E"]
        await w.go("E")
        assert (w.inside, gate.waiting) == (["f", "g"], 0)
        await w.go("f", "g")
        await w.come("H")
        assert w.inside == ["H"]
        await w.go("H")

    run(test())


def test_a_writer_that_gives_up_lets_those_behind_it_in() -> None:
    async def test() -> None:
        gate = Gate("g")
        w = Walkers(gate)
        await w.come("a", "B", "c")
        await w.give_up("B")
        assert w.inside == ["a", "c"]
        await w.go("a", "c")
        assert gate.waiting == 0

    run(test())


def test_a_turn_that_comes_in_the_instant_of_giving_up_is_passed_on() -> None:
    async def test() -> None:
        gate = Gate("g")
        w = Walkers(gate)
        async with gate.hold(shared=False):
            await w.come("B", "C")
        w.tasks["B"].cancel()  # B has its turn, but has not run since
        await turns()
        assert w.tasks.pop("B").cancelled()
        assert w.inside == ["C"]
        await w.go("C")

    run(test())


def test_one_that_fails_inside_gives_its_turn_back() -> None:
    async def test() -> None:
        gate = Gate("g")
        for shared in (False, True, False):
            with pytest.raises(ZeroDivisionError):
                async with gate.hold(shared=shared):
                    _ = 1 / 0

    run(test())


def test_the_queue_for_a_turn_is_bounded() -> None:
    async def test() -> None:
        gate = Gate("g", max_waiting=2)
        w = Walkers(gate)
        await w.come("A", "B", "C")
        with pytest.raises(Overloaded) as caught:
            async with gate.hold(shared=True):
                raise AssertionError("nobody may enter")
        assert caught.value.data["server"] == "g"
        assert "retry_after_s" in caught.value.data
        for name in "ABC":
            await w.go(name)

    run(test())


def test_the_rules_of_the_gate_hold_in_long_random_lives() -> None:
    async def life(seed: int) -> None:
        draw = random.Random(seed)
        gate = Gate("g", max_waiting=50)
        w = Walkers(gate)
        for n in range(300):
            waiting = [name for name in w.tasks if name not in w.inside]
            roll = draw.random()
            if roll < 0.5 and len(w.tasks) < 30:
                await w.come(draw.choice(("r", "W")) + str(n))
            elif roll < 0.8 and w.inside:
                await w.go(draw.choice(w.inside))
            elif waiting:
                await w.give_up(draw.choice(waiting))
            writers = [name for name in w.inside if not name.islower()]
            assert not writers or len(w.inside) == 1
            assert w.inside or not w.tasks, "nobody waits while nobody is inside"
        while w.inside:
            await w.go(w.inside[0])
        assert not w.tasks
        assert gate.waiting == 0

    async def test() -> None:
        first = random.randrange(2**32)
        print(f"seeds {first} to {first + 19}")
        for seed in range(first, first + 20):
            await life(seed)

    run(test())


# -- the pool


class Played:
    """A session that does what the test says, one answer after the other, and says what it got."""

    def __init__(self, play: Callable[[str], Awaitable[dict[str, object]]]) -> None:
        self.play = play
        self.timeouts_s: list[float | None] = []

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, object]:
        self.timeouts_s.append(timeout_s)
        if on_progress is not None:
            on_progress(Progress(1))
        return await self.play(name)


class PlayedBackend:
    def __init__(
        self,
        name: str,
        *tools: Tool,
        play: Callable[[str], Awaitable[dict[str, object]]] | None = None,
        lazy: bool = False,
        concurrency: Concurrency = "auto",
        request_timeout_s: float = BOUND_S,
        max_retries: int = 3,
    ) -> None:
        self.name = name
        self.concurrency: Concurrency = concurrency
        self.request_timeout_s = request_timeout_s
        self.max_retries = max_retries
        self.tools: tuple[Tool, ...] = () if lazy else tools
        self.starts = 0
        self.failure: CorralError | None = None
        self.session = Played(play or self.echo)
        self._all = tools

    @staticmethod
    async def echo(name: str) -> dict[str, object]:
        return {"content": [{"type": "text", "text": name}]}

    async def acquire(self) -> Session:
        self.starts += 1
        if self.failure is not None:
            raise self.failure
        self.tools = self._all
        return cast("Session", self.session)  # it has what the pool uses of one


def pool_of(*backends: PlayedBackend) -> Pool:
    pool = Pool()
    for backend in backends:
        pool.add(backend)
    return pool


async def refusal(call: Awaitable[object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        await call
    return caught.value


def test_the_tools_of_all_servers_are_listed_by_exposed_name_as_far_as_allowed() -> None:
    schema: dict[str, object] = {"type": "object"}
    full = Tool(
        name="b", description="B.", input_schema=schema, output_schema=schema, annotations=READ_ONLY
    )

    async def test() -> None:
        pool = pool_of(PlayedBackend("two", full), PlayedBackend("one", tool("a"), tool("b")))
        assert pool.names() == ["one", "two"]
        assert [record["name"] for record in pool.tools()] == ["one__a", "one__b", "two__b"]
        assert pool.tools(["t*"]) == [
            {
                "name": "two__b",
                "server": "two",
                "tool": "b",
                "description": "B.",
                "input_schema": schema,
                "output_schema": schema,
                "annotations": READ_ONLY,
            }
        ]
        assert pool.tools([]) == []

    run(test())


def test_a_server_has_one_name_and_is_gone_when_removed() -> None:
    async def test() -> None:
        pool = pool_of(PlayedBackend("git", tool("log")))
        with pytest.raises(Conflict):
            pool.add(PlayedBackend("git"))
        pool.remove("git")
        assert pool.tools() == []
        for gone in (lambda: pool.remove("git"), lambda: pool.stats("git")):
            with pytest.raises(NotFound):
                gone()
        error = await refusal(pool.call("git__log", {}))
        assert error.code == NotFound.code

    run(test())


@pytest.mark.parametrize("name", ["git__log", "log"])
def test_a_server_that_never_listed_its_tools_is_started_to_find_one(name: str) -> None:
    async def test() -> None:
        git = PlayedBackend("git", tool("log"), lazy=True)
        broken = PlayedBackend("broken", lazy=True)
        broken.failure = SpawnFailed("cannot")
        backend, found = await pool_of(broken, git).resolve(name)
        assert (backend.name, found.name) == ("git", "log")

    run(test())


def test_what_is_listed_already_starts_nothing() -> None:
    async def test() -> None:
        git, svn = PlayedBackend("git", tool("log")), PlayedBackend("svn", tool("x"), lazy=True)
        pool = pool_of(git, svn)
        await pool.resolve("git__log")
        assert pool.tools()[0]["name"] == "git__log"
        assert (git.starts, svn.starts) == (0, 0)

    run(test())


def test_the_error_of_a_server_that_does_not_start_reaches_the_caller() -> None:
    async def test() -> None:
        git = PlayedBackend("git", tool("log"), lazy=True)
        git.failure = SpawnFailed("cannot", result="exec-failed")
        pool = pool_of(git, PlayedBackend("svn", tool("x"), lazy=True))
        error = await refusal(pool.call("git__log", {}))
        assert error.data["result"] == "exec-failed"
        assert await pool.list_servers() == {"git": error}
        assert [record["name"] for record in pool.tools()] == ["svn__x"]

    run(test())


@pytest.mark.parametrize("name", ["git__log", "log"])
def test_what_is_not_allowed_is_not_called(name: str) -> None:
    async def test() -> None:
        git = PlayedBackend("git", tool("log"), lazy=name == "git__log")
        pool = pool_of(git)
        error = await refusal(pool.call(name, {}, allowed=["svn__*"]))
        assert (error.code, error.data) == (PermissionDenied.code, {"tool": name})
        assert git.starts == 0
        assert pool.stats("git").calls == 0

    run(test())


def test_calls_of_one_server_wait_for_their_turn_and_readers_overlap() -> None:
    async def test() -> None:
        answers: dict[str, asyncio.Event] = {}
        order: list[str] = []

        async def play(name: str) -> dict[str, object]:
            order.append(name)
            await answers.setdefault(name, asyncio.Event()).wait()
            return {"content": []}

        tools = [tool("r1", READ_ONLY), tool("r2", READ_ONLY), tool("w1"), tool("w2")]
        flights: list[int] = []
        pool = Pool(on_flight=lambda _, count: flights.append(count))
        pool.add(PlayedBackend("s", *tools, play=play))
        pool.add(PlayedBackend("other", tool("x")))
        calls: list[asyncio.Task[dict[str, object]]] = []
        for name in ("w1", "r1", "r2", "w2"):
            calls.append(asyncio.create_task(pool.call(name, {})))
            await turns()
        assert order == ["w1"]
        stats = pool.stats("s")
        assert (stats.in_flight, stats.waiting) == (4, 3)
        assert (await pool.call("other__x", {}))["content"]
        answers["w1"].set()
        await turns()
        assert order == ["w1", "r1", "r2"]
        answers["r1"].set()
        answers["r2"].set()
        await turns()
        assert order == ["w1", "r1", "r2", "w2"]
        answers["w2"].set()
        await asyncio.gather(*calls)
        stats = pool.stats("s")
        assert (stats.calls, stats.failures, stats.in_flight, stats.waiting) == (4, 0, 0, 0)
        assert (max(flights), flights[-1]) == (4, 0)

    run(test())


def test_waiting_for_a_turn_counts_towards_the_timeout() -> None:
    async def test() -> None:
        never = asyncio.Event()

        async def play(name: str) -> dict[str, object]:
            await never.wait()
            return {}

        backend = PlayedBackend("s", tool("w"), play=play, request_timeout_s=SHORT_S)
        pool = pool_of(backend)
        first = asyncio.create_task(refusal(pool.call("w", {}, timeout_s=BOUND_S)))
        await turns()
        for timeout_s in (SHORT_S, None):
            error = await refusal(pool.call("w", {}, timeout_s=timeout_s))
            assert (error.code, error.data["timeout_s"]) == (Timeout.code, SHORT_S)
        assert len(backend.session.timeouts_s) == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        stats = pool.stats("s")
        assert (stats.calls, stats.failures, stats.in_flight, stats.waiting) == (3, 3, 0, 0)

    run(test())


def test_the_start_of_a_server_counts_only_towards_a_timeout_of_the_caller() -> None:
    async def test() -> None:
        class Slow(PlayedBackend):
            async def acquire(self) -> Session:
                if self.starts == 0:
                    await asyncio.sleep(3 * SHORT_S)  # the start is what takes time here
                return await super().acquire()

        slow = Slow("s", tool("w"), request_timeout_s=SHORT_S)
        assert await pool_of(slow).call("w", {}) == await slow.echo("w")
        slow = Slow("s", tool("w"))
        error = await refusal(pool_of(slow).call("w", {}, timeout_s=SHORT_S))
        assert error.code == Timeout.code

    run(test())


def test_what_is_left_of_the_timeout_bounds_the_call() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("w"))
        await pool_of(backend).call("w", {}, timeout_s=5.0)
        left_s: Any = backend.session.timeouts_s[0]
        assert 0 < left_s <= 5.0

    run(test())


@pytest.mark.parametrize(
    ("annotations", "errors", "max_retries", "expected"),
    [
        ({}, [UNSENT], 0, None),
        ({}, [LOST], 3, LOST),
        (READ_ONLY, [LOST, UNSENT, LOST], 3, None),
        (READ_ONLY, [LOST, LOST], 1, LOST),
        ({}, [InvalidParams("cannot")], 3, InvalidParams("cannot")),
    ],
)
def test_a_call_whose_server_dies_is_repeated_when_that_is_safe(
    annotations: dict[str, object],
    errors: list[CorralError],
    max_retries: int,
    expected: CorralError | None,
) -> None:
    async def test() -> None:
        left = list(errors)

        async def play(name: str) -> dict[str, object]:
            if left:
                raise left.pop(0)
            return {"content": []}

        backend = PlayedBackend("s", tool("t", annotations), play=play, max_retries=max_retries)
        pool = pool_of(backend)
        if expected is None:
            assert await pool.call("t", {}) == {"content": []}
            assert pool.stats("s").retries == len(errors)
            assert pool.stats("s").failures == 0
        else:
            error = await refusal(pool.call("t", {}))
            assert (error.code, error.data) == (expected.code, expected.data)
            assert (pool.stats("s").calls, pool.stats("s").failures) == (1, 1)

    run(test())


def test_a_tool_that_says_it_failed_is_a_result_and_a_failure() -> None:
    async def test() -> None:
        async def play(name: str) -> dict[str, object]:
            return {"content": [], "isError": True}

        pool = pool_of(PlayedBackend("s", tool("t"), play=play))
        assert (await pool.call("t", {}))["isError"] is True
        assert pool.stats("s").failures == 1

    run(test())


def test_a_caller_hears_of_progress() -> None:
    async def test() -> None:
        reports: list[Progress] = []
        await pool_of(PlayedBackend("s", tool("t"))).call("t", {}, on_progress=reports.append)
        assert reports == [Progress(1)]

    run(test())


def test_a_changed_list_of_tools_is_seen_at_once() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"))
        pool = pool_of(backend)
        assert [record["name"] for record in pool.tools()] == ["s__t"]
        backend.tools = (tool("u"),)
        assert [record["name"] for record in pool.tools()] == ["s__u"]
        assert (await refusal(pool.resolve("s__t"))).code == NotFound.code

    run(test())
