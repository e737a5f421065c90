"""corral as an MCP server, without a transport: both eras, and every way in which something is refused."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

from corral.mcp.endpoint.server import PAGE, McpEndpoint
from corral.mcp.protocol.forms import MAX_ROUNDS
from corral.mcp.protocol.messages import LEGACY_VERSIONS, META, Caller, Progress
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
    Timeout,
    ToolFailed,
)
from fake_provider import FakeProvider

pytestmark = pytest.mark.contract

BOUND_S = 60.0

MODERN: dict[str, object] = {
    META + "protocolVersion": "2026-07-28",
    META + "clientCapabilities": {"elicitation": {}},
    META + "clientInfo": {"name": "test", "version": "1"},
}

NEEDED: dict[str, object] = {"sampling": {}}


class Way:
    """The way back to a client that notes what it is told, and answers what it is asked."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.asked: list[tuple[str, Any]] = []
        self.stirred = asyncio.Event()

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        self.told.append((method, dict(params)))
        self.stirred.set()

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        self.asked.append((method, dict(params)))
        return {"action": "accept", "n": len(self.asked)}


class Client:
    """A client of a face of its own."""

    def __init__(self) -> None:
        self.provider = FakeProvider()
        self.way = Way()
        self.unasked: list[tuple[str, Any]] = []
        caller = Caller(name="tester", sharer="s")
        self.endpoint = McpEndpoint(self.provider, version="9", caller=caller, notify=self._notify)
        self._last = 0

    def _notify(self, method: str, params: Mapping[str, object]) -> None:
        self.unasked.append((method, dict(params)))

    async def ask(self, method: str, **params: object) -> Any:
        self._last += 1
        return await self.endpoint.request(self._last, method, params, self.way)

    async def modern(self, method: str, meta: Mapping[str, object] = {}, **params: object) -> Any:
        return await self.ask(method, **params, _meta={**MODERN, **meta})

    async def initialize(
        self, version: str = "2025-11-25", capabilities: Mapping[str, object] = {}
    ) -> Any:  # the result
        result = await self.ask("initialize", protocolVersion=version, capabilities=capabilities)
        self.endpoint.handle_notification("notifications/initialized", {})
        return result

    async def refusal(self, call: Awaitable[object]) -> Any:  # the error object of the wire
        with pytest.raises(CorralError) as caught:
            await call
        return caught.value.to_wire()


def run(test: Callable[[Client], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test(Client())

    uvloop.run(bounded())


async def turns() -> None:
    """Lets what was planned for the next turns of the loop happen."""
    for _ in range(3):
        await asyncio.sleep(0)


# -- opening


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_a_legacy_client_gets_the_revision_it_asks_for(version: str) -> None:
    async def test(client: Client) -> None:
        result = await client.initialize(version)
        assert result["protocolVersion"] == version == client.endpoint.version
        assert result["serverInfo"] == {"name": "corral", "version": "9"}
        assert result["instructions"] == "Be brief."
        assert result["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
        assert client.endpoint.era == "legacy"

    run(test)


@pytest.mark.parametrize("version", ["2026-07-28", "1999-01-01"])
def test_initialize_with_another_revision_is_answered_with_the_newest_that_has_it(version: str) -> None:
    async def test(client: Client) -> None:
        assert (await client.initialize(version))["protocolVersion"] == LEGACY_VERSIONS[-1]

    run(test)


def test_before_initialize_only_ping_is_served_without_a_revision() -> None:
    async def test(client: Client) -> None:
        assert await client.ask("ping") == {}
        for method in ("tools/list", "server/discover", "no/such"):
            error = await client.refusal(client.ask(method))
            assert error["code"] == -32602
        assert client.endpoint.era is None

    run(test)


def test_a_modern_client_discovers_what_there_is_and_who_we_are() -> None:
    async def test(client: Client) -> None:
        result = await client.modern("server/discover")
        assert result["supportedVersions"] == ["2026-07-28"]
        assert result["capabilities"].keys() >= {"tools", "prompts", "resources", "completions"}
        assert result["resultType"] == "complete"
        assert result["_meta"][META + "serverInfo"]["name"] == "corral"
        assert client.endpoint.era == "modern"

    run(test)


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({META + "protocolVersion": "2030-01-01"}, -32022),
        ({META + "protocolVersion": 7}, -32602),
        ({META + "clientCapabilities": None}, -32602),
        ({META + "clientCapabilities": ["sampling"]}, -32602),
        ({META + "logLevel": "loud"}, -32602),
    ],
)
def test_a_modern_request_that_says_of_itself_what_cannot_be_is_refused(meta: dict[str, object], code: int) -> None:
    async def test(client: Client) -> None:
        error = await client.refusal(client.modern("tools/list", meta))
        assert error["code"] == code
        if code == -32022:
            assert error["data"]["supported"] == ["2026-07-28"]
            assert error["data"]["requested"] == "2030-01-01"

    run(test)


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "x"]
)
def test_the_modern_era_does_not_have_what_it_has_removed(method: str) -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        error = await client.refusal(client.modern(method, uri="test://a", level="info"))
        assert error["code"] == -32601

    run(test)


def test_who_began_without_initialize_is_refused_it() -> None:
    async def test(client: Client) -> None:
        await client.modern("tools/list")
        error = await client.refusal(client.ask("initialize", protocolVersion="2025-11-25"))
        assert (error["code"], error["data"]["supported"]) == (-32022, ["2026-07-28"])

    run(test)


def test_a_request_that_stands_for_itself_is_served_between_those_of_a_legacy_client() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        assert (await client.modern("tools/list"))["resultType"] == "complete"
        assert "resultType" not in await client.ask("tools/list")
        error = await client.refusal(client.ask("no/such"))
        assert error["code"] == -32601

    run(test)


# -- lists


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("tools/list", "tools"),
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ],
)
def test_every_list_is_there_in_both_eras(method: str, key: str) -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        expected = client.provider.lists[key]  # type: ignore[index]  # the keys are the kinds
        assert await client.ask(method) == {key: expected}
        result = await client.modern(method)
        assert result[key] == expected
        assert (result["ttlMs"], result["cacheScope"]) == (0, "private")

    run(test)


def test_a_long_list_comes_in_pages_that_survive_a_change_between_them() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        count = 2 * PAGE + 50
        tools: list[dict[str, object]] = [{"name": f"t{n:04}"} for n in range(count)]
        client.provider.lists["tools"] = list(tools)
        first = await client.ask("tools/list")
        del client.provider.lists["tools"][3]  # it was on the first page: nothing may be skipped
        second = await client.ask("tools/list", cursor=first["nextCursor"])
        third = await client.ask("tools/list", cursor=second["nextCursor"])
        assert [*first["tools"], *second["tools"], *third["tools"]] == tools
        assert [len(first["tools"]), len(second["tools"])] == [PAGE, PAGE]
        assert "nextCursor" not in third

    run(test)


def test_a_cursor_that_is_none_of_ours_is_refused() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        client.provider.lists["prompts"] = [{"name": f"p{n}"} for n in range(PAGE + 1)]
        of_prompts = (await client.ask("prompts/list"))["nextCursor"]
        for cursor in ("", "x", "AAAA", "ä", 5, of_prompts):
            error = await client.refusal(client.ask("tools/list", cursor=cursor))
            assert error["code"] == -32602, cursor

    run(test)


# -- calls


def test_a_call_reaches_the_offering_without_what_is_between_the_client_and_us() -> None:
    async def test(client: Client) -> None:
        await client.initialize(capabilities={"roots": {}})
        meta = {"progressToken": 5, "mine": 1}
        await client.ask("tools/call", name="echo", arguments={"a": 1}, _meta=meta)
        method, params, caller = client.provider.asked[-1]
        assert method == "tools/call"
        assert params == {"name": "echo", "arguments": {"a": 1}, "_meta": {"mine": 1}}
        assert (caller.name, caller.sharer, caller.capabilities) == ("tester", "s", {"roots": {}})
        await client.modern("tools/call", name="echo")
        assert client.provider.asked[-1][1] == {"name": "echo"}
        assert client.provider.asked[-1][2].capabilities == {"elicitation": {}}

    run(test)


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    "error",
    [
        InvalidParams('cannot call "echo": argument "n" is no number', key="n", rule="type"),
        ToolFailed("cannot finish it", server="s", code=-32603),
        PermissionDenied("cannot call it"),
        Timeout("cannot wait"),
        Overloaded("cannot take more"),
        ToolFailed("cannot go on"),
        NotFound('cannot find agent "x"', agent="x"),
        Conflict("cannot start it twice"),
        InternalError("cannot say why"),
    ],
)
def test_a_call_that_fails_has_a_result_that_says_why(era: str, error: CorralError) -> None:
    async def test(client: Client) -> None:
        client.provider.errors["echo"] = error
        if era == "legacy":
            await client.initialize()
            result = await client.ask("tools/call", name="echo")
        else:
            result = await client.modern("tools/call", name="echo")
        assert result["isError"] is True
        assert result["content"] == [{"type": "text", "text": error.message}]
        assert result["_meta"]["corral/error"] == error.to_record()

    run(test)


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("nope", NotFound("cannot find tool", tool="nope"), -32602),
        ("gone__x", NotFound("cannot find MCP server", server="gone"), -32602),
        ("short", Conflict("cannot tell which", candidates=["a__short"]), -32602),
        ("own", ToolFailed("no", server="s", code=-32021, details={"requiredCapabilities": NEEDED}), -32021),
        ("url", InternalError("no", code=-32042, elicitations=[]), -32042),
        ("state", InvalidParams("no", server="s", tool="state"), -32602),
        (5, None, -32602),
    ],
)
def test_an_unknown_tool_and_a_code_of_the_server_are_errors_of_the_protocol(
    era: str, name: object, error: CorralError | None, code: int
) -> None:
    async def test(client: Client) -> None:
        if error is not None:
            client.provider.errors[str(name)] = error
        if era == "legacy":
            await client.initialize()
            said = await client.refusal(client.ask("tools/call", name=name))
        else:
            said = await client.refusal(client.modern("tools/call", name=name))
        assert said["code"] == code
        if code == -32021:
            assert said["data"] == {"requiredCapabilities": NEEDED}

    run(test)


def test_a_resource_or_prompt_that_there_is_not_is_refused_as_each_era_does() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        for name in ("test://none", "nobody"):
            client.provider.errors[name] = NotFound("cannot find it")
        legacy = await client.refusal(client.ask("resources/read", uri="test://none"))
        assert (legacy["code"], legacy["data"]["uri"]) == (-32002, "test://none")
        modern = await client.refusal(client.modern("resources/read", uri="test://none"))
        assert (modern["code"], modern["data"]["uri"]) == (-32602, "test://none")
        prompt = await client.refusal(client.ask("prompts/get", name="nobody"))
        assert prompt["code"] == -32602
        failed = ToolFailed("cannot complete", server="s", code=-32601)
        client.provider.errors["completion/complete"] = failed
        error = await client.refusal(client.ask("completion/complete", ref={}, argument={}))
        assert error["code"] == -32601
        assert (await client.refusal(client.ask("completion/complete")))["code"] == -32602

    run(test)


def test_what_is_read_says_how_long_it_may_be_kept() -> None:
    async def test(client: Client) -> None:
        class Reading(FakeProvider):
            async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
                return {"contents": [], "ttlMs": 5}

        face = McpEndpoint(Reading(), version="9")
        params = {"uri": "test://a", "_meta": MODERN}
        result = await face.request(1, "resources/read", params, client.way)
        assert (result["ttlMs"], result["cacheScope"]) == (5, "private")
        assert "ttlMs" not in await client.modern("prompts/get", name="greet")

    run(test)


# -- while a call goes on


def test_progress_is_reported_under_the_client_s_own_token_and_never_after_the_end() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        client.provider.go_on.set()
        await client.ask("tools/call", name="progress", _meta={"progressToken": "mine"})
        assert client.way.told == [
            ("notifications/progress", {"progressToken": "mine", "progress": 1, "total": 2, "message": "half"}),
            ("notifications/progress", {"progressToken": "mine", "progress": 2, "total": 2}),
        ]
        caller = client.provider.asked[-1][2]
        assert caller.on_progress is not None
        client.way.told.clear()
        caller.on_progress(Progress(3))
        assert client.way.told == []
        await client.ask("tools/call", name="progress")
        assert client.provider.asked[-1][2].on_progress is None

    run(test)


def test_a_legacy_client_chooses_the_level_of_what_servers_log() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        await client.ask("tools/call", name="chat")
        assert len(client.way.told) == 3
        client.way.told.clear()
        assert await client.ask("logging/setLevel", level="warning") == {}
        await client.ask("tools/call", name="chat")
        assert [params["level"] for _, params in client.way.told] == ["error"]
        sent = client.provider.asked[-1][1]
        assert sent["_meta"] == {META + "logLevel": "warning"}, "a modern server has to be told"
        await client.modern("tools/call", name="chat")
        assert "_meta" not in client.provider.asked[-1][1], "a modern request stands for itself"
        assert (await client.refusal(client.ask("logging/setLevel", level="x")))["code"] == -32602

    run(test)


def test_a_modern_client_learns_of_logs_only_with_a_request_that_asks_for_them() -> None:
    async def test(client: Client) -> None:
        await client.modern("tools/call", name="chat")
        assert client.way.told == []
        await client.modern("tools/call", {META + "logLevel": "info"}, name="chat")
        assert [params["level"] for _, params in client.way.told] == ["info", "error"]
        assert client.provider.asked[-1][1]["_meta"] == {META + "logLevel": "info"}

    run(test)


def test_a_legacy_client_is_asked_only_what_it_has_declared() -> None:
    async def test(client: Client) -> None:
        await client.initialize(capabilities={"sampling": {}, "elicitation": {}})
        result = await client.ask("tools/call", name="ask")
        assert "accept" in result["content"][0]["text"]
        caller = client.provider.asked[-1][2]
        assert caller.ask is not None
        for method in ("roots/list", "sampling/createMessage", "x"):  # undeclared, over, unknown
            with pytest.raises(MethodNotFound):
                await caller.ask(method, {})
        await client.initialize()
        await client.ask("tools/call", name="echo")
        assert client.provider.asked[-1][2].ask is None
        await client.modern("tools/call", name="echo")
        assert client.provider.asked[-1][2].ask is None

    run(test)


def test_a_modern_client_gets_what_the_server_asks() -> None:
    async def test(client: Client) -> None:
        result = await client.modern("tools/call", name="more")
        assert (result["resultType"], result["requestState"]) == ("input_required", "x")
        answers = {"q": {"action": "accept"}}
        await client.modern("tools/call", name="more", inputResponses=answers, requestState="x")
        params = client.provider.asked[-1][1]
        assert (params["inputResponses"], params["requestState"]) == (answers, "x")

    run(test)


def test_a_legacy_client_is_asked_for_a_modern_server_until_that_has_an_answer() -> None:
    async def test(client: Client) -> None:
        await client.initialize(capabilities={"elicitation": {}})
        result = await client.ask("tools/call", name="more", arguments={"a": 1})
        assert [params["message"] for _, params in client.way.asked] == ["", "x"]
        assert result.keys() == {"content"}
        assert "'n': 1" in result["content"][0]["text"]
        assert client.provider.asked[-1][1]["arguments"] == {"a": 1}
        await client.initialize()
        result = await client.ask("tools/call", name="more")
        assert result["isError"] is True

    run(test)


def test_a_server_that_never_knows_enough_is_not_asked_for_ever() -> None:
    async def test(client: Client) -> None:
        class Curious(FakeProvider):
            async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
                self.asked.append(("", {}, Caller()))
                return {"resultType": "input_required", "requestState": "x"}

        provider = Curious()
        face = McpEndpoint(provider, version="9")
        await face.request(1, "initialize", {"protocolVersion": "2025-11-25"}, client.way)
        with pytest.raises(ToolFailed):
            await face.request(2, "tools/call", {"name": "x"}, client.way)
        assert len(provider.asked) == MAX_ROUNDS + 1

    run(test)


# -- what comes unasked


def test_changed_lists_are_reported_once_for_all_changes_of_a_moment() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        client.provider.change("tools", "tools", "resources", "resourceTemplates")
        await turns()
        assert sorted(method for method, _ in client.unasked) == [
            "notifications/resources/list_changed",
            "notifications/tools/list_changed",
        ]
        client.endpoint.close()
        assert client.provider.changed == []

    run(test)


def test_a_modern_client_learns_nothing_unasked() -> None:
    async def test(client: Client) -> None:
        await client.modern("tools/list")
        client.endpoint.handle_notification("notifications/initialized", {})
        assert client.provider.changed == []

    run(test)


def test_a_legacy_client_learns_of_a_resource_from_subscribe_to_unsubscribe() -> None:
    async def test(client: Client) -> None:
        await client.initialize()
        for _ in range(2):
            assert await client.ask("resources/subscribe", uri="test://a") == {}
        client.provider.tell_updated("test://a")
        assert client.unasked == [("notifications/resources/updated", {"uri": "test://a"})]
        for _ in range(2):
            assert await client.ask("resources/unsubscribe", uri="test://a") == {}
        assert client.provider.updated["test://a"] == []
        error = await client.refusal(client.ask("resources/subscribe", uri="test://none"))
        assert (error["code"], error["data"]["uri"]) == (-32002, "test://none")
        await client.ask("resources/subscribe", uri="test://a")
        client.endpoint.close()
        assert client.provider.updated["test://a"] == []

    run(test)


def test_a_modern_client_that_listens_first_learns_what_is_accepted_and_then_gets_only_that() -> None:
    async def test(client: Client) -> None:
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": False,
            "resourceSubscriptions": ["test://a", "test://none", "test://mute", "test://a"],
            "taskIds": ["7"],
        }
        listening = asyncio.ensure_future(client.modern("subscriptions/listen", notifications=wanted))
        await client.way.stirred.wait()
        meta = {META + "subscriptionId": 1}
        honored = {"toolsListChanged": True, "resourceSubscriptions": ["test://a"]}
        acknowledged = {"notifications": honored, "_meta": meta}
        assert client.way.told == [("notifications/subscriptions/acknowledged", acknowledged)]
        client.provider.change("prompts", "tools", "resources")
        client.provider.tell_updated("test://a")
        await turns()
        assert client.way.told[1:] == [
            ("notifications/resources/updated", {"uri": "test://a", "_meta": meta}),
            ("notifications/tools/list_changed", {"_meta": meta}),
        ]
        assert client.unasked == []
        client.endpoint.close()
        result = await listening
        assert result["_meta"][META + "subscriptionId"] == 1
        assert (client.provider.changed, client.provider.updated["test://a"]) == ([], [])

    run(test)


def test_who_is_about_to_listen_when_the_face_is_closed_is_answered() -> None:
    async def test(client: Client) -> None:
        wanted = {"resourceSubscriptions": ["test://slow"]}
        listening = asyncio.ensure_future(client.modern("subscriptions/listen", notifications=wanted))
        await client.provider.begun.wait()
        client.endpoint.close()
        client.provider.go_on.set()
        assert (await listening)["_meta"][META + "subscriptionId"] == 1
        assert client.provider.updated["test://slow"] == []

    run(test)


def test_a_face_that_was_closed_is_freed_without_the_garbage_collector() -> None:
    async def test(client: Client) -> None:
        gc.disable()
        try:
            await client.initialize()
            client.endpoint.close()
            freed = weakref.ref(client.endpoint)
            del client.endpoint
            assert freed() is None
        finally:
            gc.enable()

    run(test)


def test_a_client_that_withdraws_leaves_nothing_behind() -> None:
    async def test(client: Client) -> None:
        listening = asyncio.ensure_future(
            client.modern("subscriptions/listen", notifications={"toolsListChanged": True})
        )
        await client.way.stirred.wait()
        waiting = asyncio.ensure_future(client.modern("tools/call", name="wait"))
        await client.provider.begun.wait()
        for task in (listening, waiting):
            task.cancel()
        await asyncio.wait({listening, waiting})
        assert client.provider.changed == []
        assert client.provider.cancelled.is_set()

    run(test)
