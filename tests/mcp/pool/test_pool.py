"""What the pool decides: names, rights, turns and retries. No process: the sessions are played."""

import asyncio
import gc
import random
import re
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from corral.mcp.pool.backend import Concurrency, Settings
from corral.mcp.pool.directory import Directory, name_seen, near_names
from corral.mcp.pool.dispatcher import UNSENT_RETRIES, Gate, may_retry
from corral.mcp.pool.placement import Phase, Share
from corral.mcp.pool.pool import Pool, may_overlap
from corral.mcp.protocol.catalog import (
    FULL,
    KINDS,
    MAX_EXPOSED_CHARACTERS,
    Access,
    Catalogue,
    Kind,
    concerns,
    exposed_tools,
    exposed_uris,
    template_matches,
)
from corral.mcp.protocol.messages import NOBODY, Caller, Era, Progress, Tool, eras_to_try
from corral.mcp.upstream.session import Session
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
    SpawnFailed,
    Timeout,
    ToolFailed,
)

pytestmark = pytest.mark.core

BOUND_S = 60.0
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
    assert exposed_tools("time", [tool(name)]) == {exposed: tool(name)}


@pytest.mark.parametrize("server", ["t", "time", "s" * 48])
@pytest.mark.parametrize("length", [46, 70, 5_000])
def test_a_long_name_ends_in_a_hash_that_never_changes(server: str, length: int) -> None:
    one, two = tool("x" * length + "1"), tool("x" * length + "2")
    exposed = exposed_tools(server, [one, two])
    assert len(exposed) == 2
    assert all(len(name) == MAX_EXPOSED_CHARACTERS for name in exposed)
    assert exposed_tools(server, [one]) | exposed_tools(server, [two]) == exposed


def test_the_hash_of_a_long_name_is_the_same_in_every_version() -> None:
    exposed = exposed_tools("files", [tool("t" * 70)])
    assert list(exposed) == ["files__" + "t" * 32 + "_2ef75ea1"]


def test_names_that_would_be_the_same_are_distinguished_in_any_order() -> None:
    tools = [tool("a.b"), tool("a/b"), tool("a_b"), tool("c.d")]
    exposed = exposed_tools("s", tools)
    assert exposed["s__a_b"].name == "a_b"
    assert exposed["s__c_d"].name == "c.d"
    assert {t.name for t in exposed.values()} == {"a.b", "a/b", "a_b", "c.d"}
    assert exposed_tools("s", reversed(tools)) == exposed


def test_any_names_are_exposed_once_and_within_the_rules() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(200):
        names = {"".join(draw.choices("ab_-./ é\x00\ud800", k=draw.randint(1, 60))) for _ in range(20)}
        exposed = exposed_tools("s", [tool(name) for name in names])
        assert {t.name for t in exposed.values()} == names
        assert all(re.fullmatch(r"s__[A-Za-z0-9_-]{1,45}", name) for name in exposed)


def test_the_first_of_two_tools_with_one_name_counts() -> None:
    first, second = Tool(name="a", description="1"), Tool(name="a", description="2")
    assert exposed_tools("s", [first, second]) == {"s__a": first}


@pytest.mark.parametrize("value", [None, [], "text", {}, {"name": ""}, {"name": 3}, {"title": "no name"}])
def test_an_entry_without_a_name_is_no_tool(value: object) -> None:
    assert Tool.from_wire(value) is None


def test_a_tool_with_odd_fields_is_a_tool_all_the_same() -> None:
    entry: dict[str, object] = {"name": "a", "description": 3, "inputSchema": [], "annotations": "x", "new": 1}
    assert Tool.from_wire(entry) == Tool(name="a", input_schema={"type": "object"}, fields=entry)


def test_tools_that_nobody_is_to_see_are_meant_by_their_own_or_their_exposed_name() -> None:
    tools = [tool("add"), tool("remove"), tool("remove_all")]
    assert list(exposed_tools("s", tools, ["remove*"])) == ["s__add"]
    assert list(exposed_tools("s", tools, ["s__add", "remove"])) == ["s__remove_all"]
    assert exposed_tools("s", tools, ["other__*"]).keys() == exposed_tools("s", tools).keys()


def test_a_resource_keeps_its_uri_where_one_server_has_it() -> None:
    listed = {
        "a": [{"uri": "file:///x", "name": "x"}, {"uri": "file:///both"}, {"name": "none"}],
        "b": [{"uri": "file:///both"}, {"uri": "file:///both", "name": "again"}],
    }
    assert exposed_uris(listed, "uri") == {
        "file:///x": ("a", {"uri": "file:///x", "name": "x"}),
        "a__file:///both": ("a", {"uri": "file:///both"}),
        "b__file:///both": ("b", {"uri": "file:///both"}),
    }


@pytest.mark.parametrize(
    ("template", "uri", "expected"),
    [
        ("file:///{path}", "file:///etc/hosts", True),
        ("file:///{path}", "http://x", False),
        ("db://{table}/{id}", "db://users/3", True),
        ("db://{table}/{id}", "db://users", False),
        ("db://{table}/{id}/x", "db://a/x", False),
        ("same", "same", True),
        ("same", "sam", False),
        ("{a}" * 200, "x" * 2000, True),
        ("{a}x" * 200 + "y", "x" * 20_000, False),
    ],
)
def test_a_template_says_which_uris_a_server_has(template: str, uri: str, expected: bool) -> None:
    assert template_matches(template, uri) is expected


# -- rights and choice

DIRECTORY = Directory()
DIRECTORY.put("git", Catalogue(tools=(tool("log", READ_ONLY), tool("status")), listed_at=1))
DIRECTORY.put("svn", Catalogue(tools=(tool("log"), tool("a.b")), listed_at=1))


def access(*allowed: str) -> Access:
    return Access(allowed)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FULL, True),
        (access(), False),
        (access("*"), True),
        (access("git__*"), True),
        (access("git__lo?"), True),
        (access("GIT__*"), False),
        (access("log"), False),
        (access("svn__*", "git__l*"), True),
        (Access(denied=("git__*",)), False),
        (Access(("git__log",), ("*log",)), False),
        (Access(within=access("svn__*")), False),
        (Access(("git__*",), within=access("*log")), True),
        (Access(read_only=True), True),
    ],
)
def test_an_access_has_patterns_on_exposed_names(given: Access, expected: bool) -> None:
    named = {record["name"] for record in DIRECTORY.records(given)}
    assert ("git__log" in named) is expected
    assert {each["name"] for each in DIRECTORY.offered("tools", given)} == named
    if expected:
        assert DIRECTORY.tool("git__log", given)[1].name == "log"
    else:
        with pytest.raises(PermissionDenied):
            DIRECTORY.tool("git__log", given)


def test_with_read_only_there_are_only_tools_that_say_they_change_nothing() -> None:
    given = Access(read_only=True)
    assert [record["name"] for record in DIRECTORY.records(given)] == ["git__log"]
    assert DIRECTORY.tool("log", given) == ("git", tool("log", READ_ONLY))
    with pytest.raises(PermissionDenied):
        DIRECTORY.tool("status", given)


@pytest.mark.parametrize(
    ("name", "given", "server", "own"),
    [
        ("git__log", FULL, "git", "log"),
        ("status", FULL, "git", "status"),
        ("a.b", FULL, "svn", "a.b"),
        ("svn__a_b", FULL, "svn", "a.b"),
        ("log", access("git__*"), "git", "log"),
    ],
)
def test_a_name_means_the_tool_of_this_name(name: str, given: Access, server: str, own: str) -> None:
    found, meant = DIRECTORY.tool(name, given)
    assert (found, meant.name) == (server, own)


@pytest.mark.parametrize(
    ("name", "given", "error", "key", "value"),
    [
        ("log", FULL, Conflict, "candidates", ["git__log", "svn__log"]),
        ("nothing", FULL, NotFound, "near", []),
        ("git__lag", access("git__l*"), NotFound, "near", ["git__log"]),
        ("statsu", FULL, NotFound, "near", ["git__status"]),
        ("statsu", access("svn__*"), NotFound, "near", []),
        ("git__log", access("svn__*"), PermissionDenied, "tool", "git__log"),
        ("status", access("svn__*"), PermissionDenied, "tool", "status"),
        ("git__log", access(), PermissionDenied, "tool", "git__log"),
    ],
)
def test_a_name_that_means_no_tool_is_refused_with_a_reason(
    name: str, given: Access, error: type[CorralError], key: str, value: object
) -> None:
    with pytest.raises(error) as caught:
        DIRECTORY.tool(name, given)
    assert caught.value.data[key] == value
    assert caught.value.data["tool"] == name


def files(name: str, *uris: str, template: str | None = None) -> Catalogue:
    resources: list[dict[str, object]] = [{"uri": uri, "name": name} for uri in uris]
    templates: list[dict[str, object]] = [{"uriTemplate": template}] if template else []
    return Catalogue(resources=tuple(resources), templates=tuple(templates), listed_at=1)


def shelves(**catalogues: Catalogue) -> Directory:
    directory = Directory()
    for name, catalogue in catalogues.items():
        directory.put(name, catalogue)
    return directory


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("file:///a", ("a", "file:///a")),
        ("b__file:///both", ("b", "file:///both")),
        ("b__file:///unlisted", ("b", "file:///unlisted")),
        ("log://2026/1", ("b", "log://2026/1")),
    ],
)
def test_a_uri_means_the_server_that_lists_it_or_whose_template_it_fits(uri: str, found: tuple[str, str]) -> None:
    directory = shelves(
        a=files("a", "file:///a", "file:///both"),
        b=files("b", "file:///both", template="log://{day}/{n}"),
        c=Catalogue(tools=(tool("t"),), listed_at=1),
    )
    assert directory.resource(uri, FULL) == found


def test_a_uri_that_nobody_lists_is_of_the_only_server_with_resources() -> None:
    tools = Catalogue(tools=(tool("t"),), listed_at=1)
    assert shelves(a=files("a", "x:1"), b=tools).resource("y:2", FULL) == ("a", "y:2")
    declared = Catalogue(capabilities={"resources": {}}, listed_at=1)
    assert shelves(a=declared, b=tools).resource("y:2", FULL) == ("a", "y:2")
    with pytest.raises(NotFound):
        shelves(a=files("a", "x:1"), b=files("b", "z:1")).resource("y:2", FULL)


def test_a_uri_that_two_servers_have_is_ambiguous_unless_one_is_allowed() -> None:
    directory = shelves(a=files("a", "x:1"), b=files("b", "x:1"))
    with pytest.raises(Conflict) as caught:
        directory.resource("x:1", FULL)
    assert caught.value.data["candidates"] == ["a__x:1", "b__x:1"]
    assert directory.resource("x:1", access("b__*")) == ("b", "x:1")
    for uri in ("x:1", "a__x:1"):
        with pytest.raises(PermissionDenied):
            directory.resource(uri, access("c__*"))
    assert [each["uri"] for each in directory.offered("resources", access("b__*"))] == ["b__x:1"]


def test_a_prompt_is_exposed_found_and_refused_as_a_tool_is() -> None:
    directory = shelves(a=Catalogue(prompts=({"name": "p.q", "x": 1}, {"x": 2}), listed_at=1))
    assert directory.offered("prompts") == [{"name": "a__p_q", "x": 1}]
    assert directory.prompt("a__p_q", FULL) == directory.prompt("p.q", FULL) == ("a", "p.q")
    with pytest.raises(PermissionDenied):
        directory.prompt("p.q", access("b__*"))
    assert directory.offered("prompts", access("b__*")) == []


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
    annotations: dict[str, object], error: ToolFailed, attempt: int, max_retries: int, expected: bool
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
        shared = name.islower()
        if not self.gate.enter(shared):
            await self.gate.wait(shared)
        self.inside.append(name)
        try:
            await self.leave[name].wait()
        finally:
            self.inside.remove(name)
            self.gate.leave(shared)

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
        assert gate.enter(False)
        await w.come("B", "C")
        gate.leave(False)
        w.tasks["B"].cancel()  # B has its turn, but has not run since
        await turns()
        assert w.tasks.pop("B").cancelled()
        assert w.inside == ["C"]
        await w.go("C")

    run(test())


def test_the_queue_for_a_turn_is_bounded() -> None:
    async def test() -> None:
        gate = Gate("g", max_waiting=2)
        w = Walkers(gate)
        await w.come("A", "B", "C")
        with pytest.raises(Overloaded) as caught:
            await gate.wait(True)
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
        self.ttl_s: dict[Kind, float] = {}
        self.catalogue = Catalogue()
        self.requests: list[tuple[str, Mapping[str, object]]] = []
        self.timeouts_s: list[float | None] = []
        self.refreshed: list[Sequence[Kind]] = []

    async def request(
        self, method: str, params: Mapping[str, object], *, timeout_s: float | None = None, caller: Caller = NOBODY
    ) -> dict[str, object]:
        self.requests.append((method, params))
        self.timeouts_s.append(timeout_s)
        if caller.on_progress is not None:
            caller.on_progress(Progress(1))
        return await self.play(str(params.get("name", method)))

    def refresh(self, kinds: Sequence[Kind]) -> None:
        self.refreshed.append(kinds)


class PlayedProcess:
    def __init__(self, backend: "PlayedBackend", *, is_up: bool) -> None:
        self.backend = backend
        self.life = 1 if is_up else 0
        self.is_up = is_up
        self.is_lost = False
        self.played = Played(backend.play)
        self.starts = 0
        self.renewals = 0
        self.ends = 0
        self.busy: list[bool] = []

    @property
    def phase(self) -> Phase:
        if self.is_lost:
            return Phase.LOST
        return Phase.UP if self.is_up else Phase.DOWN

    @property
    def session(self) -> Session | None:
        return cast("Session", self.played) if self.is_up else None  # it has what the pool uses

    async def acquire(self) -> Session:
        await self.backend.starting()
        if self.backend.failure is not None:
            raise self.backend.failure
        if not self.is_up:
            self.starts += 1
            self.life += 1
            self.is_up = True
            self.backend.list()
        return cast("Session", self.played)  # it has what the pool uses of one

    async def renew(self) -> None:
        self.renewals += 1
        self.die()
        await self.acquire()

    def start(self) -> None:
        self.starts += 1
        self.life += 1
        self.is_up = True

    def die(self) -> None:
        self.is_up = False

    def end(self) -> None:
        self.ends += 1
        self.die()

    def note(self, *, is_busy: bool) -> None:
        self.busy.append(is_busy)

    def trouble(self) -> CorralError | None:
        return self.backend.trouble


SETTINGS = Settings("auto", "all", 0, BOUND_S, 10 * BOUND_S, 3, 0, ())


class PlayedBackend:
    def __init__(
        self,
        name: str,
        *tools: Tool,
        play: Callable[[str], Awaitable[dict[str, object]]] | None = None,
        lazy: bool = False,
        catalogue: Catalogue | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.max_processes: int = options.get("max_processes", 1)
        known = {key: value for key, value in options.items() if key in Settings._fields}
        self.settings = SETTINGS._replace(**known)
        self.play = play or self.echo
        self.failure: CorralError | None = None
        self.trouble: CorralError | None = None
        self.refusal: CorralError | None = None
        self.pool: Pool | None = None
        self._all = catalogue or Catalogue(tools=tools, listed_at=1)
        self.catalogue = Catalogue() if lazy else self._all
        count = options.get("processes", 1)
        self.processes = tuple(PlayedProcess(self, is_up=not lazy) for _ in range(count))

    @property
    def played(self) -> Played:
        return self.processes[0].played

    @property
    def starts(self) -> int:
        return sum(process.starts for process in self.processes)

    @staticmethod
    async def echo(name: str) -> dict[str, object]:
        return {"content": [{"type": "text", "text": name}]}

    async def starting(self) -> None:
        return

    def list(self, *tools: Tool) -> None:
        if tools:
            self._all = replace(self._all, tools=tools)
        self.catalogue = self._all
        if self.pool is not None:
            self.pool.listed(self.name)

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def grow(self) -> None:
        self.processes = (*self.processes, PlayedProcess(self, is_up=False))


def pool_of(*backends: PlayedBackend) -> Pool:
    pool = Pool()
    for backend in backends:
        backend.pool = pool
        pool.add(backend)
    return pool


async def refusal(call: Awaitable[object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        await call
    return caught.value


def test_the_tools_of_all_servers_are_listed_by_exposed_name_as_far_as_allowed() -> None:
    schema: dict[str, object] = {"type": "object"}
    full = Tool(
        name="b",
        description="B.",
        input_schema=schema,
        output_schema=schema,
        annotations=READ_ONLY,
        fields={"name": "b", "title": "T", "_meta": {"x": 1}, "inputSchema": schema},
    )

    async def test() -> None:
        pool = pool_of(PlayedBackend("two", full), PlayedBackend("one", tool("a"), tool("b")))
        assert pool.names() == ["one", "two"]
        assert [record["name"] for record in pool.tools()] == ["one__a", "one__b", "two__b"]
        assert pool.tools(access("t*")) == [
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
        assert pool.offered("tools", access("t*")) == [
            {"name": "two__b", "title": "T", "_meta": {"x": 1}, "inputSchema": schema}
        ]
        assert pool.tools(access()) == []

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


def test_a_list_waits_for_a_start_no_longer_than_its_limit() -> None:
    async def test() -> None:
        class Slow(PlayedBackend):
            async def starting(self) -> None:
                await asyncio.Event().wait()

        pool = pool_of(Slow("slow", tool("x"), lazy=True), PlayedBackend("git", tool("log")))
        failures = await pool.list_servers(patience_s=SHORT_S)
        assert {name: error.code for name, error in failures.items()} == {"slow": Timeout.code}

    run(test())


@pytest.mark.parametrize("allowed", [["svn__*"], []], ids=["others", "none"])
@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("name", ["git__log", "log"])
def test_what_is_not_allowed_is_not_called(name: str, is_listed: bool, allowed: Sequence[str]) -> None:
    async def test() -> None:
        git = PlayedBackend("git", tool("log"), lazy=not is_listed)
        pool = pool_of(git)
        error = await refusal(pool.call(name, {}, access=access(*allowed)))
        assert (error.code, error.data) == (PermissionDenied.code, {"tool": name})
        assert git.starts == 0
        assert pool.stats("git").calls == 0

    run(test())


def test_a_name_is_looked_up_in_the_servers_that_may_be_called() -> None:
    async def test() -> None:
        git, svn = (PlayedBackend(name, tool("log"), lazy=True) for name in ("git", "svn"))
        pool = pool_of(git, svn)
        backend, _ = await pool.resolve("log", access("svn__*"))
        error = await refusal(pool.call("lgo", {}, access=access("svn__*")))
        assert (backend, error.code) == (svn, NotFound.code)
        assert error.data["near"] == ["svn__log"]
        assert (git.starts, svn.starts) == (0, 1)

    run(test())


def test_a_server_with_a_long_name_is_concerned_by_the_exposed_names_of_its_tools() -> None:
    server = "s" * 48
    (exposed,) = exposed_tools(server, [tool("log")])
    assert concerns(access(exposed), server)
    assert not concerns(access("t" + exposed), server)


def test_calls_of_one_server_wait_for_their_turn_and_readers_overlap() -> None:
    async def test() -> None:
        answers: dict[str, asyncio.Event] = {}
        order: list[str] = []

        async def play(name: str) -> dict[str, object]:
            order.append(name)
            await answers.setdefault(name, asyncio.Event()).wait()
            return {"content": []}

        tools = [tool("r1", READ_ONLY), tool("r2", READ_ONLY), tool("w1"), tool("w2")]
        backend = PlayedBackend("s", *tools, play=play)
        pool = pool_of(backend, PlayedBackend("other", tool("x")))
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
        busy = backend.processes[0].busy
        assert busy == [True]
        while busy != [True, False]:  # it is told when it has rested for a while
            await asyncio.sleep(0)
        await pool.close()

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
        assert len(backend.played.timeouts_s) == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        stats = pool.stats("s")
        assert (stats.calls, stats.failures, stats.in_flight, stats.waiting) == (3, 3, 0, 0)

    run(test())


def test_the_start_of_a_server_counts_only_towards_a_timeout_of_the_caller() -> None:
    async def test() -> None:
        class Slow(PlayedBackend):
            async def starting(self) -> None:
                if not self.starts:
                    await asyncio.sleep(3 * SHORT_S)  # the start is what takes time here

        slow = Slow("s", tool("w"), lazy=True, request_timeout_s=SHORT_S)
        assert await pool_of(slow).call("s__w", {}) == await slow.echo("w")
        slow = Slow("s", tool("w"), lazy=True)
        slow.list()
        error = await refusal(pool_of(slow).call("w", {}, timeout_s=SHORT_S))
        assert error.code == Timeout.code
        slow.trouble = SpawnFailed("cannot start", result="exited")
        error = await refusal(pool_of(slow).call("w", {}, timeout_s=SHORT_S))
        assert error.data["result"] == "exited", "its last words are worth more than the time"

    run(test())


def test_what_is_left_of_the_timeout_bounds_the_call_and_never_more_than_the_maximum() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("w"), max_request_timeout_s=10.0)
        pool = pool_of(backend)
        for timeout_s in (5.0, 1000.0, None):
            await pool.call("w", {}, timeout_s=timeout_s)
        short, cut, default = backend.played.timeouts_s
        assert short is not None
        assert cut is not None
        assert 0 < short <= 5.0
        assert 5.0 < cut <= 10.0
        assert default is None, "the session reckons from the last progress"

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
    annotations: dict[str, object], errors: list[CorralError], max_retries: int, expected: CorralError | None
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


def test_a_caller_learns_of_progress() -> None:
    async def test() -> None:
        reports: list[Progress] = []
        caller = Caller(on_progress=reports.append)
        await pool_of(PlayedBackend("s", tool("t"))).call("t", {}, caller=caller)
        assert reports == [Progress(1)]

    run(test())


def test_a_changed_list_is_seen_at_once_and_reported_by_its_kind() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"))
        pool = pool_of(backend)
        told: list[Kind] = []
        end = pool.watch(told.append)
        assert [record["name"] for record in pool.tools()] == ["s__t"]
        backend.list(tool("u"))
        assert [record["name"] for record in pool.tools()] == ["s__u"]
        assert (await refusal(pool.resolve("s__t"))).code == NotFound.code
        assert told == ["tools"]
        backend.list()
        assert told == ["tools"], "it lists the same"
        backend.settings = backend.settings._replace(denied_tools=("u",))
        backend.list()
        assert pool.tools() == []
        assert told == ["tools", "tools"]
        catalogue = replace(files("r", "x:1"), prompts=({"name": "p"},))
        pool.add(PlayedBackend("r", catalogue=catalogue))
        pool.remove("r")
        assert told[2:] == ["prompts", "resources"] * 2
        end()
        pool.remove("s")
        assert len(told) == 6

    run(test())


def test_requests_reach_the_server_under_its_own_names() -> None:
    prompt: dict[str, object] = {"name": "p.q"}
    catalogue = Catalogue(
        tools=(tool("t"),),
        prompts=(prompt,),
        resources=({"uri": "x:1"},),
        templates=({"uriTemplate": "x:{n}"},),
        listed_at=1,
    )
    asked: list[tuple[str, dict[str, object], dict[str, object]]] = [
        ("tools/call", {"name": "s__t", "_meta": {"a": 1}}, {"name": "t", "_meta": {"a": 1}}),
        ("prompts/get", {"name": "s__p_q", "arguments": {}}, {"name": "p.q", "arguments": {}}),
        ("resources/read", {"uri": "x:1"}, {"uri": "x:1"}),
        ("resources/read", {"uri": "s__x:7"}, {"uri": "x:7"}),
        ("resources/read", {"uri": "s__x:7", "ref": {}}, {"uri": "x:7", "ref": {}}),
        ("resources/read", {"uri": "x:9"}, {"uri": "x:9"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "s__p_q"}, "argument": {}},
            {"ref": {"type": "ref/prompt", "name": "p.q"}, "argument": {}},
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "s__x:{n}"}},
            {"ref": {"type": "ref/resource", "uri": "x:{n}"}},
        ),
    ]

    async def test() -> None:
        backend = PlayedBackend("s", catalogue=catalogue)
        pool = pool_of(backend)
        for method, params, _ in asked:
            await pool.request(method, params)
        assert backend.played.requests == [(method, sent) for method, _, sent in asked]
        wrong: list[tuple[str, dict[str, object], type[CorralError]]] = [
            ("tools/list", {}, MethodNotFound),
            ("tools/call", {}, InvalidParams),
            ("prompts/get", {"name": 3}, InvalidParams),
            ("completion/complete", {"ref": {"type": "ref/prompt"}}, InvalidParams),
            ("tools/call", {"name": "s__t", "arguments": []}, InvalidParams),
        ]
        for method, params, error in wrong:
            assert (await refusal(pool.request(method, params))).code == error.code

    run(test())


def test_reads_overlap_and_are_repeated() -> None:
    async def test() -> None:
        left: list[CorralError] = [LOST]

        async def play(name: str) -> dict[str, object]:
            if left:
                raise left.pop()
            await gate.wait()
            return {"contents": []}

        gate = asyncio.Event()
        backend = PlayedBackend("s", catalogue=files("s", "x:1"), play=play)
        pool = pool_of(backend)
        reads = [asyncio.create_task(pool.request("resources/read", {"uri": "x:1"})) for _ in range(3)]
        await turns()
        assert len(backend.played.requests) == 4
        gate.set()
        await asyncio.gather(*reads)
        assert pool.stats("s").retries == 1

    run(test())


def test_more_calls_than_a_minute_may_have_are_refused_with_a_hint_and_reported_once() -> None:
    async def test() -> None:
        told: list[tuple[str, int]] = []
        pool = Pool(on_refused=lambda name, limit, _: told.append((name, limit)))
        pool.add(PlayedBackend("s", tool("t"), max_calls_per_minute=3))
        pool.add(PlayedBackend("other", tool("u")))
        for _ in range(3):
            await pool.call("t", {})
        for _ in range(3):
            error = await refusal(pool.call("t", {}))
            assert (error.code, error.data["limit"]) == (Overloaded.code, "max_calls_per_minute")
            wait_s: Any = error.data["retry_after_s"]
            assert 0 < wait_s <= 20
        assert told == [("s", 3)]
        await pool.call("u", {})

    run(test())


def test_a_list_that_is_older_than_its_server_allows_is_read_again_when_somebody_lists() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"))
        pool = pool_of(backend)
        backend.played.ttl_s = {"tools": 0.0, "prompts": 1e12}
        for _ in range(3):
            assert await pool.list_servers() == {}
        assert backend.played.refreshed == [["tools"]]

    run(test())


def held(backend: PlayedBackend, answers: asyncio.Event) -> None:
    async def play(name: str) -> dict[str, object]:
        await answers.wait()
        return {"content": []}

    for process in backend.processes:
        process.played.play = play


def test_calls_go_to_the_process_with_the_least_work() -> None:
    async def test() -> None:
        answers = asyncio.Event()
        backend = PlayedBackend("s", tool("t"), processes=3, max_processes=3)
        held(backend, answers)
        pool = pool_of(backend)
        calls = [asyncio.create_task(pool.call("t", {})) for _ in range(7)]
        await turns()
        assert [len(process.played.requests) for process in backend.processes] == [1, 1, 1]
        stats = pool.stats("s")
        assert (stats.in_flight, stats.waiting) == (7, 4)
        answers.set()
        await asyncio.gather(*calls)
        assert sorted(len(p.played.requests) for p in backend.processes) == [2, 2, 3]

    run(test())


def test_a_spare_gets_no_call_until_another_is_down() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"), processes=2, max_processes=2, spares=1)
        pool = pool_of(backend)
        first, spare = backend.processes
        await asyncio.gather(*(pool.call("t", {}) for _ in range(5)))
        assert (len(first.played.requests), len(spare.played.requests)) == (5, 0)
        first.die()
        await pool.call("t", {})
        assert (len(first.played.requests), len(spare.played.requests)) == (5, 1)
        assert first.is_up, "it was started beside, so that one is in reserve again"

    run(test())


def names(requests: Sequence[PlayedProcess]) -> list[int]:
    return [len(process.played.requests) for process in requests]


def test_a_process_that_was_called_while_it_started_is_busy_when_it_is_up() -> None:
    async def test() -> None:
        may_start, answers = asyncio.Event(), asyncio.Event()
        backend = PlayedBackend("s", tool("t"))
        held(backend, answers)
        pool = pool_of(backend)
        (process,) = backend.processes
        process.die()  # its next life is under way, for another reason than the call
        process.life += 1
        backend.starting = may_start.wait  # type: ignore[method-assign,assignment]  # as long as the test says
        call = asyncio.create_task(pool.call("t", {}))
        await turns()
        process.busy.clear()  # what is starting cannot be busy, so that this was not heard
        process.is_up = True
        pool.changed("s")
        pool.changed("s")
        may_start.set()
        assert process.busy == [True]
        answers.set()
        await call

    run(test())


def test_a_client_that_shares_nothing_has_its_own_process_and_state() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t", READ_ONLY), share="agent", max_processes=2)
        pool = pool_of(backend)

        async def call(who: str) -> None:
            await pool.call("t", {}, caller=Caller(sharer=who))

        await asyncio.gather(*(call("a") for _ in range(3)))
        await call("b")
        await call("a")
        assert names(backend.processes) == [4, 1]
        assert [process.renewals for process in backend.processes] == [0, 0]
        await call("c")  # b has rested for longer than a
        assert names(backend.processes) == [4, 2]
        assert [process.renewals for process in backend.processes] == [0, 1]
        backend.processes[0].die()
        await call("d")  # a fresh life is as good as a new one
        assert [process.renewals for process in backend.processes] == [0, 1]
        assert names(backend.processes) == [5, 2]

    run(test())


@pytest.mark.parametrize("is_served_before", [False, True])
def test_who_gives_up_a_process_that_is_made_new_for_him_leaves_it_to_others_of_his(is_served_before: bool) -> None:
    async def test() -> None:
        may_start = asyncio.Event()
        starts = 0

        async def starting() -> None:
            nonlocal starts
            starts += 1
            if starts == 1 or not is_served_before:
                await may_start.wait()

        backend = PlayedBackend("s", tool("t", READ_ONLY), share="agent")
        pool = pool_of(backend)

        async def call(who: str) -> None:
            await pool.call("t", {}, caller=Caller(sharer=who))

        await call("a")
        backend.starting = starting  # type: ignore[method-assign]  # as long as the test says
        first, second = (asyncio.create_task(call("b")) for _ in range(2))
        await turns()
        assert second.done() is is_served_before
        first.cancel()
        await turns()
        may_start.set()
        await second
        assert backend.processes[0].renewals == 1
        await call("a")
        assert backend.processes[0].renewals == 2, "b has left something in it"

    run(test())


def test_the_end_of_a_sharer_ends_his_processes_and_no_other() -> None:
    async def test() -> None:
        own = PlayedBackend("s", tool("t"), share="agent", max_processes=2)
        common, tenants = (PlayedBackend("all", tool("u")), PlayedBackend("x", tool("v"), share="tenant"))
        pool = pool_of(own, common, tenants)
        for who in ("a", "b"):
            for name in ("t", "u", "v"):
                await pool.call(name, {}, caller=Caller(sharer=f"t/{who}", tenant="t"))
        pool.end("t/a")
        pool.end("nobody")
        assert [process.ends for process in own.processes] == [1, 0]
        assert [process.ends for process in (*common.processes, *tenants.processes)] == [0, 0]
        pool.end_tenant("other")
        assert [process.ends for process in tenants.processes] == [0]
        pool.end_tenant("t")
        assert [process.ends for process in (*common.processes, *tenants.processes)] == [0, 1]
        await pool.call("t", {}, caller=Caller(sharer="c"))
        pool.end("t/a")
        assert [process.ends for process in own.processes] == [1, 0], "it is c's now"
        own.processes[0].is_lost = True
        pool.end("c")
        assert [process.ends for process in own.processes] == [2, 0], "also while it is paused"

    run(test())


@pytest.mark.parametrize(
    ("server", "share", "tenant", "shown"),
    [
        ("s", "all", None, "s"),
        ("acme/s", "all", None, "acme/s"),
        ("s", "all", "", "s"),
        ("s", "agent", "", "s"),
        ("acme/s", "all", "", None),
        ("acme/s", "agent", "", None),
        ("acme/s", "all", "acme", "s"),
        ("acme/s", "tenant", "acme", "s"),
        ("s", "all", "acme", None),
        ("s", "tenant", "acme", "s"),
        ("s", "agent", "acme", "s"),
        ("bee/s", "all", "acme", None),
        ("bee/s", "tenant", "acme", None),
        ("bee/s", "agent", "acme", None),
    ],
)
def test_a_server_is_seen_by_its_tenant_and_where_it_is_given_to_each(
    server: str, share: Share, tenant: str | None, shown: str | None
) -> None:
    assert name_seen(server, share, tenant) == shown


def test_a_view_is_kept_through_narrower_accesses_and_follows_a_change_of_share() -> None:
    directory = Directory()
    tools = Catalogue(tools=(tool("t"),), listed_at=1.0)
    directory.put("s", tools, share="agent")
    directory.put("acme/s", tools)
    narrow = Access(("*",), within=Access(tenant="acme"))
    for access in (narrow, Access(tenant="acme")):
        assert [each["server"] for each in directory.records(access)] == ["acme/s"]
    bee = Access(("s__*",), within=Access(tenant="bee"))
    assert [each["server"] for each in directory.records(bee)] == ["s"]
    assert directory.put("s", tools, share="all") == list(KINDS)
    assert directory.records(bee) == []
    assert directory.drop("acme/s") == ["tools"]
    assert directory.records(narrow) == []


def test_tenants_share_by_tenant() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"), share="tenant", max_processes=2)
        pool = pool_of(backend)
        for agent, tenant in (("a", "x"), ("b", "x"), ("c", "y")):
            await pool.call("t", {}, caller=Caller(sharer=agent, tenant=tenant))
        assert names(backend.processes) == [2, 1]

    run(test())


def test_who_finds_all_processes_in_use_by_others_waits_and_is_refused_in_the_end() -> None:
    async def test() -> None:
        answers = asyncio.Event()
        backend = PlayedBackend("s", tool("t"), share="agent")
        held(backend, answers)
        pool = pool_of(backend)
        first = asyncio.create_task(pool.call("t", {}, caller=Caller(sharer="a")))
        await turns()
        error = await refusal(pool.call("t", {}, caller=Caller(sharer="b"), timeout_s=SHORT_S))
        assert (error.code, error.data["limit"]) == (Overloaded.code, "instances")
        second = asyncio.create_task(pool.call("t", {}, caller=Caller(sharer="b")))
        await turns()
        assert pool.stats("s").waiting == 1
        answers.set()
        await asyncio.gather(first, second)
        assert backend.processes[0].renewals == 1
        stats = pool.stats("s")
        assert (stats.in_flight, stats.waiting) == (0, 0)

    run(test())


def test_who_waits_for_a_process_shares_it_with_the_other_of_his_who_got_it() -> None:
    async def test() -> None:
        answers = asyncio.Event()
        backend = PlayedBackend("s", tool("t", READ_ONLY), share="agent")
        held(backend, answers)
        pool = pool_of(backend)

        def call(who: str) -> asyncio.Task[dict[str, object]]:
            return asyncio.create_task(pool.call("t", {}, caller=Caller(sharer=who)))

        calls = [call("a")]
        await turns()
        calls += [call(who) for who in "bcb"]
        await turns()
        assert pool.stats("s").waiting == 3
        together = asyncio.Barrier(2)

        async def meet(name: str) -> dict[str, object]:
            await together.wait()
            return {"content": []}

        backend.played.play = meet
        answers.set()
        await asyncio.gather(calls[0], calls[1], calls[3])
        calls[2].cancel()
        await asyncio.wait(calls)
        stats = pool.stats("s")
        assert (stats.in_flight, stats.waiting) == (0, 0)

    run(test())


def test_all_who_wait_for_a_process_hear_that_its_server_was_stopped() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"), share="agent")
        held(backend, asyncio.Event())
        pool = pool_of(backend)
        waiting = [asyncio.create_task(refusal(pool.call("t", {}, caller=Caller(sharer=who)))) for who in "abcd"]
        await turns()
        backend.refusal = Conflict("cannot call: it is stopped", server="s")
        pool.changed("s")
        for each in waiting[1:]:
            assert (await each).code == Conflict.code
        waiting[0].cancel()
        await asyncio.wait(waiting)

    run(test())


def test_a_server_that_was_stopped_is_not_called() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", tool("t"))
        backend.processes[0].die()
        backend.refusal = Conflict("cannot call: it is stopped", server="s")
        pool = pool_of(backend)
        assert (await refusal(pool.call("t", {}))).code == Conflict.code
        assert backend.starts == 0
        backend.processes = ()
        assert (await refusal(pool.call("t", {}))).code == Conflict.code

    run(test())


def test_subscribers_share_one_subscription_that_outlives_the_process() -> None:
    async def test() -> None:
        backend = PlayedBackend("s", catalogue=files("s", "x:1", "x:2"))
        pool = pool_of(backend)
        told: list[tuple[str, str]] = []
        ends = [
            await pool.subscribe(uri, lambda uri, who=who: told.append((who, uri)))  # type: ignore[misc]  # a default
            for who, uri in (("a", "x:1"), ("b", "s__x:1"), ("c", "x:2"))
        ]
        asked = [(method, params["uri"]) for method, params in backend.played.requests]
        assert asked == [("resources/subscribe", "x:1"), ("resources/subscribe", "x:2")]
        pool.updated("s", 0, "x:1")
        assert told == [("a", "x:1"), ("b", "s__x:1")]
        assert pool.stats("s").in_flight == 2, "who waits for news keeps a server from being unused"

        backend.played.requests.clear()
        told.clear()
        backend.processes[0].die()
        await backend.processes[0].acquire()
        pool.changed("s")
        pool.changed("s")
        await turns()
        assert len(backend.played.requests) == 2
        assert len(told) == 3, "what changed meanwhile was missed"

        backend.played.requests.clear()
        ends[0]()
        ends[0]()
        await turns()
        assert backend.played.requests == []
        ends[1]()
        ends[2]()
        await turns()
        methods = [method for method, _ in backend.played.requests]
        assert methods == ["resources/unsubscribe"] * 2
        assert pool.stats("s").in_flight == 0
        await pool.close()

    run(test())


def test_no_client_learns_what_changes_in_the_process_of_another() -> None:
    async def test() -> None:
        catalogue = files("s", "x:1")
        backend = PlayedBackend("s", catalogue=catalogue, share="agent", max_processes=2)
        pool = pool_of(backend)
        told: list[str] = []

        def hear(who: str) -> Callable[[str], None]:
            return lambda _: told.append(who)

        ends = [await pool.subscribe("x:1", hear(who), caller=Caller(sharer=who)) for who in "ab"]
        assert len(backend.processes) == 2
        pool.updated("s", 1, "x:1")
        assert told == ["b"]
        pool.updated("s", 0, "x:1")
        assert told == ["b", "a"]
        for end in ends:
            end()
        await turns()
        await pool.close()

    run(test())


def test_a_subscription_that_is_refused_leaves_nothing() -> None:
    async def test() -> None:
        async def play(name: str) -> dict[str, object]:
            raise ToolFailed("cannot", code=-32601)

        backend = PlayedBackend("s", catalogue=files("s", "x:1"), play=play)
        pool = pool_of(backend)
        for _ in range(2):
            error = await refusal(pool.subscribe("x:1", lambda _: None))
            assert error.data["code"] == -32601
        assert len(backend.played.requests) == 2
        assert pool.stats("s").in_flight == 0
        assert (await refusal(pool.subscribe("x:1", lambda _: None, access("t__*")))).code == (PermissionDenied.code)
        await pool.close()

    run(test())


# -- arguments


def schema_of(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


@pytest.mark.parametrize(
    ("arguments", "key", "rule"),
    [
        ({}, "n", "required"),
        ({"n": "x" * 5000}, "n", "type"),
        ({"n": 0}, "n", "minimum"),
        ({"n": 1, "m": 1}, "m", "additionalProperties"),
        ({"n": 1, "deep": {"list": [1, "two"]}}, "deep.list[1]", "type"),
        ({"n": 1, "one": "z" * 5000}, "one", "enum"),
    ],
)
def test_wrong_arguments_are_refused_by_name_before_the_server_sees_them(
    arguments: dict[str, object], key: str, rule: str
) -> None:
    deep = {"type": "object", "properties": {"list": {"items": {"type": "integer"}}}}
    schema = schema_of(n={"type": "integer", "minimum": 1}, deep=deep, one={"enum": ["a", "b"]})
    schema["required"] = ["n"]

    async def test() -> None:
        backend = PlayedBackend("s", Tool(name="t", input_schema=schema))
        pool = pool_of(backend)
        error = await refusal(pool.call("t", arguments))
        assert (error.code, error.data["key"], error.data["rule"]) == (InvalidParams.code, key, rule)
        assert len(str(error.to_record())) < 1000
        assert backend.played.requests == []
        assert (await pool.call("t", {"n": 1, "one": "a"}))["content"]

    run(test())


def doubling(levels: int) -> dict[str, object]:
    """A schema that is short and 2**levels wide."""
    defs: dict[str, object] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {"type": "object"}}}


def own_doubling(levels: int, name: str) -> dict[str, object]:
    """The same within a schema that has a name, so that its references are its own."""
    whole = doubling(levels)
    inner = {name: "https://example.org/inner", "allOf": [whole], "$defs": whole["$defs"]}
    schema = schema_of(x=inner)
    if name == "id":
        schema["$schema"] = "http://json-schema.org/draft-04/schema#"
    return {**schema, "$defs": {f"d{level}": {} for level in range(levels + 1)}}


def escaped_doubling(levels: int) -> dict[str, object]:
    """The same under a name that is that of another definition as it is written."""
    defs = cast("dict[str, object]", doubling(levels)["$defs"])
    return {**schema_of(x={"$ref": "#/$defs/d%30"}), "$defs": {**defs, "d%30": {}}}


def hidden_doubling(levels: int) -> dict[str, object]:
    """The same behind properties whose names look like keywords."""
    inner: dict[str, object] = {"type": "string"}
    for _ in range(levels):
        inner = {"allOf": [inner, inner]}
    return schema_of(definitions=inner, default=inner)


BRANCHING: dict[str, object] = {
    "type": "object",
    "properties": {"x": {"allOf": [{"$ref": "#"}, {"$ref": "#/$defs/again"}]}},
    "$defs": {"again": {"allOf": [{"type": "object"}, {"$ref": "#"}]}},
}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"properties": {"x": {"$ref": "https://example.org/a#/b"}}},
        {"$schema": "http://127.0.0.1:9/meta", "type": "object"},
        {"type": "no such type"},
        {"$ref": "#/$defs/nowhere"},
        {"$dynamicRef": "#x"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"properties": {"x": {"pattern": "(?=lookahead)"}}},
        {"properties": {f"p{n}": {"pattern": "a{1000}"} for n in range(500)}},
        doubling(40),
        hidden_doubling(40),
        own_doubling(40, "$id"),
        own_doubling(40, "id"),
        escaped_doubling(40),
        BRANCHING,
    ],
)
def test_a_schema_that_is_broken_hostile_or_too_much_costs_no_call(schema: dict[str, object]) -> None:
    deep: dict[str, object] = {"text": "x"}
    for _ in range(60):
        deep = {"x": deep}

    async def test() -> None:
        backend = PlayedBackend("s", Tool(name="t", input_schema=schema))
        assert (await pool_of(backend).call("t", deep))["content"]

    run(test())


class Schema(dict[str, object]):
    """One of which can be told whether it is still there."""


@pytest.mark.long
@pytest.mark.parametrize("is_removed", [False, True])
def test_a_schema_that_is_listed_no_more_is_not_kept(is_removed: bool) -> None:
    async def test() -> None:
        schema = Schema(schema_of(text={"type": "string"}))
        kept = weakref.ref(schema)
        backend = PlayedBackend("s", Tool(name="t", input_schema=schema))
        del schema
        pool = pool_of(backend)
        assert (await refusal(pool.call("t", {"text": 1}))).data["rule"] == "type"
        if is_removed:
            pool.remove("s")
            backend.pool = None
        backend.list(tool("t"))
        gc.collect()
        assert kept() is None

    run(test())


@pytest.mark.parametrize("draft", ["draft-04", "draft-07"])
def test_a_format_is_the_server_s_to_judge_whatever_the_draft(draft: str) -> None:
    schema = schema_of(at={"type": "string", "format": "date-time"})
    schema["$schema"] = f"http://json-schema.org/{draft}/schema#"

    async def test() -> None:
        pool = pool_of(PlayedBackend("s", Tool(name="t", input_schema=schema)))
        assert (await pool.call("t", {"at": "2026-01-01T00:00:00"}))["content"]
        assert (await refusal(pool.call("t", {"at": 1}))).data["rule"] == "type"

    run(test())


def test_a_pattern_that_would_backtrack_for_ever_is_matched_in_no_time() -> None:
    schema = schema_of(text={"type": "string", "pattern": "^(a+)+$"})

    async def test() -> None:
        pool = pool_of(PlayedBackend("s", Tool(name="t", input_schema=schema)))
        error = await refusal(pool.call("t", {"text": "a" * 50_000 + "b"}))
        assert error.data["rule"] == "pattern"
        assert (await pool.call("t", {"text": "a" * 50_000}))["content"]

    run(test())
