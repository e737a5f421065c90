"""A session with MCP servers that misbehave in all the ways known, and with the official SDK's."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.protocol.messages import LEGACY_VERSIONS, Caller, Progress
from corral.mcp.upstream.listing import MAX_PAGES, RELIST_PAUSE_S
from corral.mcp.upstream.session import Session
from corral.worker.contract.errors import CorralError, InvalidParams, ResourceLimitExceeded, Timeout, ToolFailed
from corral.worker.contract.jsonrpc import Foreign
from programs.mcp_odd import NOISE, NOISE_FOREIGN
from programs.mcp_process import BOUND_S, ODD, OFFICIAL, Life, ended, life, session_of

pytestmark = pytest.mark.contract

SHORT_S = 0.2
"""A timeout that is meant to run out."""


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    uvloop.run(bounded())  # the daemon's loop


async def heard(server: Life) -> list[Any]:
    """All messages that the server has got so far."""
    messages: list[Any] = json.loads(await server.text("methods"))
    return messages


async def methods(server: Life) -> list[str]:
    return [message["method"] for message in await heard(server) if "method" in message]


async def call(
    session: Session,
    tool: str,
    arguments: Mapping[str, object],
    *,
    timeout_s: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, object]:
    """The result of a tool."""
    return await session.request(
        "tools/call",
        {"name": tool, "arguments": arguments},
        timeout_s=timeout_s,
        caller=Caller(on_progress=on_progress),
    )


async def refusal(call: Awaitable[object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        await call
    return caught.value


async def failed_open(*flags: str, **options: Any) -> CorralError:
    async def attempt() -> None:
        async with life((*ODD, *flags), **options):
            pass

    return await refusal(attempt())


# -- opening


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_every_legacy_revision_is_spoken_when_the_server_chooses_it(version: str) -> None:
    async def test() -> None:
        async with life((*ODD, f"--answer-version={version}")) as server:
            assert (server.session.era, server.session.version) == ("legacy", version)
            assert server.session.catalogue.server_info == {"name": "odd", "version": "1"}
            assert await server.text("echo", text="hi") == "hi"

    run(test())


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_a_configured_revision_is_the_one_that_is_offered(version: str) -> None:
    async def test() -> None:
        async with life(ODD, protocol_version=version) as server:
            assert server.session.version == version

    run(test())


def test_a_server_that_ends_at_anything_but_initialize_is_opened() -> None:
    async def test() -> None:
        async with life((*ODD, "--era=strict")) as server:
            assert await methods(server) == ["initialize", "notifications/initialized", "tools/list", "tools/call"]

    run(test())


@pytest.mark.parametrize("flags", [["--era=modern"], ["--era=modern", "--refuse=-32601"], ["--era=forgetful"]])
def test_a_server_that_refuses_initialize_is_asked_the_modern_way(flags: list[str]) -> None:
    async def test() -> None:
        async with life((*ODD, *flags)) as server:
            assert (server.session.era, server.session.version) == ("modern", "2026-07-28")
            assert server.session.catalogue.server_info == {"name": "odd", "version": "2"}
            assert await server.text("echo", text="hi") == "hi"

    run(test())


def test_a_server_of_both_eras_is_spoken_to_in_the_one_that_it_is_known_for() -> None:
    async def test() -> None:
        async with life((*ODD, "--era=both")) as server:
            assert server.session.era == "legacy"
        async with life((*ODD, "--era=both"), era_hint="modern") as server:
            assert server.session.era == "modern"
            assert (await methods(server))[0] == "server/discover"

    run(test())


@pytest.mark.parametrize("flags", [["--refuse=-32601"], ["--refuse=-32602"], ["--discover=silent"]])
def test_a_server_no_longer_modern_is_still_opened(flags: list[str]) -> None:
    async def test() -> None:
        async with life((*ODD, *flags), era_hint="modern", probe_s=SHORT_S) as server:
            assert server.session.era == "legacy"
            assert await server.text("echo", text="hi") == "hi"

    run(test())


def test_a_modern_server_slow_to_answer_the_probe_is_not_lost() -> None:
    async def test() -> None:
        command = (*ODD, "--era=both", "--discover=late")
        async with life(command, era_hint="modern", probe_s=SHORT_S) as server:
            assert server.session.era == "modern"
            assert await server.text("echo", text="hi") == "hi"

    run(test())


def test_a_server_that_ends_at_the_probe_is_opened_in_its_next_life() -> None:
    async def test() -> None:
        error = await failed_open("--discover=exit", era_hint="modern")
        assert (error.code, error.data["server"]) == (ToolFailed.code, "odd")
        async with life((*ODD, "--discover=exit")) as server:
            assert server.session.era == "legacy"

    run(test())


@pytest.mark.parametrize("point", ["start", "initialize", "initialized", "list"])
def test_a_server_that_ends_during_the_handshake_is_named(point: str) -> None:
    async def test() -> None:
        error = await failed_open(f"--crash={point}")
        assert (error.code, error.data["server"]) == (ToolFailed.code, "odd")

    run(test())


def test_a_session_that_ends_with_the_last_answer_is_never_taken_for_open() -> None:
    async def test() -> None:
        def close(_: object) -> None:
            session.close()

        session = session_of("brief", on_notification=close)
        its_stdin, write_fd = os.pipe()
        read_fd, its_stdout = os.pipe()
        server = asyncio.to_thread(answer_in_one_piece, its_stdin, its_stdout)
        opening = session.open(read_fd, write_fd, timeout_s=BOUND_S)
        error, _ = await asyncio.gather(refusal(opening), server)
        assert error.data["lost"] is True
        assert not session.is_open

    run(test())


def answer_in_one_piece(stdin: int, stdout: int) -> None:
    """A server whose list of tools comes in one write with a notification."""
    greeting = '{"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}'
    notice = '{"jsonrpc": "2.0", "method": "notifications/message", "params": {}}\n'
    with os.fdopen(stdin, "rb") as lines, os.fdopen(stdout, "wb", buffering=0) as answers:
        for line in lines:
            message = json.loads(line)
            if "id" in message:
                is_first = message["method"] == "initialize"
                result = greeting if is_first else '{"tools": []}'
                answer = f'{{"jsonrpc": "2.0", "id": {message["id"]}, "result": {result}}}\n'
                answers.write((answer if is_first else answer + notice).encode())


@pytest.mark.parametrize("method", ["initialize", "tools/list"])
def test_a_server_that_stays_silent_runs_into_the_timeout(method: str) -> None:
    async def test() -> None:
        flags = f"--silent={method}"
        error = await failed_open(flags, timeout_s=1.0)
        assert error.code == Timeout.code
        assert error.data == {"server": "odd", "timeout_s": 1.0}

    run(test())


def test_a_silent_handshake_is_given_up_without_a_cancel_which_mcp_forbids() -> None:
    async def test() -> None:
        session = session_of("mute")
        its_stdin, write_fd = os.pipe()
        read_fd, its_stdout = os.pipe()
        error = await refusal(session.open(read_fd, write_fd, timeout_s=SHORT_S))
        assert error.code == Timeout.code
        os.close(its_stdout)
        sent = await asyncio.to_thread(read_all, its_stdin)
        assert [json.loads(line)["method"] for line in sent.splitlines()] == ["initialize"]

    run(test())


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("version", ["2026-07-28", "1999-01-01"])
def test_a_legacy_answer_of_an_unknown_revision_is_refused(version: str) -> None:
    async def test() -> None:
        error = await failed_open(f"--answer-version={version}", protocol_version="2025-11-25")
        assert (error.code, error.data["version"]) == (ToolFailed.code, version)

    run(test())


def test_a_revision_that_does_not_exist_is_refused_before_anything_is_sent() -> None:
    async def test() -> None:
        with pytest.raises(InvalidParams) as caught:
            session_of("odd", protocol_version="2020-02-02")
        assert caught.value.data["key"] == "protocol_version"

    run(test())


# -- tools


@pytest.mark.parametrize("cursor", ["plain", "empty", "loop", "ignored"])
def test_every_page_of_tools_is_read_whatever_the_cursors_are(cursor: str) -> None:
    async def test() -> None:
        async with life((*ODD, "--pages=3", f"--cursor={cursor}")) as server:
            names = [tool.name for tool in server.session.catalogue.tools]
            assert len(names) == len(set(names))
            assert names[:3] == ["echo", "methods", "replies"]
            if cursor != "loop":
                assert "crash" in names
            asked = [m["params"] for m in await heard(server) if m["method"] == "tools/list"]
            if cursor == "empty":
                assert asked == [{}, {"cursor": ""}, {"cursor": "c1"}]

    run(test())


def test_a_list_without_end_is_given_up() -> None:
    async def test() -> None:
        error = await failed_open("--pages=1", "--cursor=endless")
        assert error.code == ResourceLimitExceeded.code
        limit: Any = error.data["limit"]
        assert (error.data["server"], limit["pages"]) == ("odd", MAX_PAGES)

    run(test())


def test_a_server_without_tools_has_none() -> None:
    async def test() -> None:
        async with life((*ODD, "--no-tools")) as server:
            assert server.session.catalogue.tools == ()

    run(test())


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_changed_list_of_tools_is_read_again(era: str) -> None:
    async def test() -> None:
        changed: asyncio.Queue[Catalogue] = asyncio.Queue()
        async with life((*ODD, f"--era={era}"), on_catalogue=changed.put_nowait) as server:
            before = {tool.name for tool in server.session.catalogue.tools}
            await server.text("grow", name="sprout")
            tools = (await changed.get()).tools
            assert {tool.name for tool in tools} - before == {"sprout"}
            assert server.session.catalogue.tools == tools

    run(test())


def test_a_modern_server_that_announces_changes_is_listened_to() -> None:
    async def test() -> None:
        async with life((*ODD, "--era=modern")) as server:
            messages = await heard(server)
            asked = [message["method"] for message in messages]
            # In this order: a change between the list and the subscription would be missed.
            assert asked[-3:] == ["subscriptions/listen", "tools/list", "tools/call"]
            assert messages[-3]["params"]["notifications"] == {"toolsListChanged": True}

    run(test())


def test_a_flood_of_changes_costs_few_listings() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with life((*ODD, "--chatty=100")) as server:
            for n in range(300):
                await server.text("echo", text=str(n))
            listings = (await methods(server)).count("tools/list")
            assert 2 <= listings <= 3 + (loop.time() - started) / RELIST_PAUSE_S

    run(test())


# -- calls


def test_rubbish_on_stdout_goes_to_the_log_and_breaks_nothing() -> None:
    async def test() -> None:
        log: list[bytes] = []
        notices: list[object] = []

        def on_log(foreign: Foreign) -> None:
            log.append(foreign.line)

        options: dict[str, Any] = {"on_log": on_log, "on_notification": notices.append}
        async with life((*ODD, "--noise"), **options) as server:
            before = len(log)
            for n in range(20):
                assert await server.text("echo", text=f"täxt {n}") == f"täxt {n}"
            assert len(log) - before == 20 * NOISE_FOREIGN
            assert set(log) <= {part for noise in NOISE for part in noise.split(b"\n")}
            assert len(notices) == len(log) / NOISE_FOREIGN

    run(test())


def test_a_server_may_ping_and_is_refused_all_else() -> None:
    async def test() -> None:
        async with life((*ODD, "--asks")) as server:
            replies: list[Any] = json.loads(await server.text("replies"))
            answers = {reply["id"]: reply for reply in replies}
            assert answers["ask-3"]["result"] == {}
            for n in range(3):
                assert answers[f"ask-{n}"]["error"]["code"] == -32601
            assert len(answers) == 4

    run(test())


def test_an_answer_of_five_megabytes_arrives_whole() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            assert await server.text("big", size=5_000_000) == "x" * 5_000_000

    run(test())


def test_an_answer_that_is_too_long_fails_its_call_alone() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            held = asyncio.create_task(server.text("hold"))
            error = await refusal(server.text("big", size=17 * 1024 * 1024))
            assert error.code == ResourceLimitExceeded.code
            assert error.data["server"] == "odd"
            assert await server.text("release") == "done"
            assert await held == "released"

    run(test())


def test_a_call_that_takes_too_long_is_cancelled_at_the_server_and_its_answer_dropped() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            error = await refusal(call(server.session, "hold", {}, timeout_s=SHORT_S))
            assert error.code == Timeout.code
            assert error.data == {"server": "odd", "tool": "hold", "timeout_s": SHORT_S}
            assert await server.text("echo", text="next") == "next"
            messages = await heard(server)
            held = [m["id"] for m in messages if m.get("params", {}).get("name") == "hold"]
            cancelled = [m for m in messages if m["method"] == "notifications/cancelled"]
            assert [m["params"]["requestId"] for m in cancelled] == held

    run(test())


def test_a_caller_that_goes_away_cancels_its_call() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            held = asyncio.create_task(server.text("hold"))
            await server.text("echo", text="so that it is sent")
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            assert "notifications/cancelled" in await methods(server)
            assert await server.text("release") == "done"

    run(test())


def test_progress_reaches_the_call_that_makes_it() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            reports: dict[str, list[Progress]] = {"a": [], "b": []}
            calls = [
                call(server.session, "progress", {"text": key}, on_progress=reports[key].append) for key in reports
            ]
            await asyncio.gather(*calls)
            await server.text("echo", text="progress of finished calls comes before this")
            for key, reported in reports.items():
                assert reported == [Progress(1, 2, key), Progress(2, 2, key)]

    run(test())


@pytest.mark.parametrize(
    "result",
    [
        {"content": [], "isError": True},
        {"content": [{"type": "text", "text": "Error: none such"}]},
        {"content": [], "structuredContent": {"a": [1, None]}, "_meta": {"x": 1}},
        {"resultType": "input_required", "requestState": "opaque", "inputRequests": {"q": {}}},
        {"resultType": "something-new", "content": []},
    ],
)
def test_a_result_is_handed_over_as_it_came(result: dict[str, object]) -> None:
    async def test() -> None:
        async with life(ODD) as server:
            assert await call(server.session, "raw", {"result": result}) == result

    run(test())


@pytest.mark.parametrize("result", [None, [], "text", {"content": "text"}, {"content": [1]}])
def test_a_result_outside_the_protocol_is_a_failure_of_the_tool(result: object) -> None:
    async def test() -> None:
        async with life(ODD) as server:
            error = await refusal(call(server.session, "raw", {"result": result}))
            assert error.code == ToolFailed.code
            assert error.data == {"server": "odd", "tool": "raw"}

    run(test())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": -32602, "message": "no"}, InvalidParams),
        ({"code": -32603, "message": "no"}, ToolFailed),
        ({"code": -32601, "message": "no"}, ToolFailed),
        ({"code": -32000, "message": "no", "data": [1]}, ToolFailed),
        ({"code": -33003, "message": "our own code"}, ToolFailed),
        ({"code": -33012, "message": "our own code", "data": {"lost": True}}, ToolFailed),
        ({"code": "text"}, ToolFailed),
        ("text", ToolFailed),
    ],
)
def test_an_error_of_the_server_is_a_failure_of_the_tool_unless_the_arguments_are_wrong(
    error: object, expected: type[CorralError]
) -> None:
    async def test() -> None:
        async with life(ODD) as server:
            caught = await refusal(call(server.session, "error", {"error": error}))
            assert type(caught) is expected
            assert (caught.data["server"], caught.data["tool"]) == ("odd", "error")
            assert "lost" not in caught.data

    run(test())


def test_arguments_that_json_cannot_say_are_refused() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            error = await refusal(call(server.session, "echo", {"text": object()}))
            assert error.code == InvalidParams.code
            assert await server.text("echo", text="next") == "next"

    run(test())


# -- the end


def test_a_server_that_ends_during_calls_fails_them_all() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            held = asyncio.create_task(refusal(server.text("hold")))
            await server.text("echo", text="so that it is sent")
            for error in (await refusal(server.text("crash")), await held):
                assert error.code == ToolFailed.code
                assert (error.data["lost"], error.data["sent"]) == (True, True)
                assert error.data["server"] == "odd"
            assert not server.session.is_open
            await server.session.wait_closed()

    run(test())


def test_a_server_that_closes_its_stdin_is_given_up_at_the_next_call() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            assert await server.text("deaf") == "deaf"
            error = await refusal(server.text("echo", text="hi"))
            assert error.data == {"server": "odd", "tool": "echo", "lost": True, "sent": False}
            assert not server.session.is_open
            await server.session.wait_closed()

    run(test())


def test_a_call_to_a_server_that_has_just_died_counts_as_not_sent() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            server.process.kill()
            server.process.wait(BOUND_S)  # without a turn of the loop: nobody has read the EOF
            assert server.session.is_open
            error = await refusal(server.text("echo", text="hi"))
            assert error.data == {"server": "odd", "tool": "echo", "lost": True, "sent": False}

    run(test())


def test_eof_on_its_stdin_ends_a_server_that_is_well() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            server.session.close_input()
            error = await refusal(server.text("echo", text="hi"))
            assert (error.data["lost"], error.data["sent"]) == (True, False)
            await server.session.wait_closed()
            assert await ended(server.process) == 0

    run(test())


def test_a_call_in_flight_is_still_answered_after_eof() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            call = asyncio.create_task(server.text("echo", text="hi"))
            await asyncio.sleep(0)  # one turn of the loop: the call is under way
            server.session.close_input()
            assert await call == "hi"

    run(test())


def test_closing_ends_what_a_grandchild_would_keep_open() -> None:
    async def test() -> None:
        async with life((*ODD, "--orphan")) as server:
            held = asyncio.create_task(refusal(server.text("hold")))
            await server.text("echo", text="so that it is sent")
            os.killpg(server.process.pid, signal.SIGSTOP)
            os.kill(server.process.pid, signal.SIGKILL)
            await ended(server.process)
            server.session.close()
            error = await held
            assert (error.code, error.data["lost"]) == (ToolFailed.code, True)
            os.killpg(server.process.pid, signal.SIGKILL)

    run(test())


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_ping_is_answered_by_a_server_that_turns_and_not_by_one_that_hangs(era: str) -> None:
    async def test() -> None:
        async with life((*ODD, f"--era={era}")) as server:
            server.session.liveness.last_message_at = 0.0
            await server.session.ping(timeout_s=BOUND_S)
            assert server.session.liveness.last_message_at > 0.0
            assert ("ping" in await methods(server)) == (era == "legacy")
            os.kill(server.process.pid, signal.SIGSTOP)
            error = await refusal(server.session.ping(timeout_s=SHORT_S))
            assert error.code == Timeout.code

    run(test())


def test_a_ping_of_a_server_that_is_gone_fails() -> None:
    async def test() -> None:
        async with life(ODD) as server:
            os.kill(server.process.pid, signal.SIGKILL)
            await server.session.wait_closed()
            error = await refusal(server.session.ping(timeout_s=BOUND_S))
            assert (error.code, error.data["server"]) == (ToolFailed.code, "odd")

    run(test())


# -- the official SDK on the other side


@pytest.mark.parametrize(
    ("asked", "era", "version"), [("auto", "legacy", "2025-11-25"), ("2026-07-28", "modern", "2026-07-28")]
)
def test_the_official_server_is_spoken_to_in_both_eras(asked: str, era: str, version: str) -> None:
    async def test() -> None:
        changed: asyncio.Queue[Catalogue] = asyncio.Queue()
        updated: asyncio.Queue[str] = asyncio.Queue()
        options: dict[str, Any] = {
            "protocol_version": asked,
            "relays": ("elicitation",),
            "on_catalogue": changed.put_nowait,
            "on_updated": updated.put_nowait,
        }
        async with life(OFFICIAL, **options) as server:
            session = server.session
            assert (session.era, session.version) == (era, version)
            assert session.catalogue.server_info["name"] == "official"
            assert session.catalogue.instructions == "Ask nicely."
            tools = {tool.name: tool for tool in session.catalogue.tools}
            assert tools["add"].is_read_only
            assert tools["add"].output_schema is not None
            result = await call(session, "add", {"a": 1, "b": 2})
            assert result["structuredContent"] == {"result": 3}
            assert (await call(session, "fail", {}))["isError"] is True
            assert (await call(session, "nothing", {}))["isError"] is True
            reports: list[Progress] = []
            await call(session, "count", {"to": 3}, on_progress=reports.append)
            assert [report.progress for report in reports] == [1, 2, 3]
            await session.ping(timeout_s=BOUND_S)
            if era == "modern":
                await call(session, "grow", {})
                assert "grown" in {tool.name for tool in (await changed.get()).tools}
                await session.request("resources/subscribe", {"uri": "official://a"})
                await call(session, "touch", {"uri": "official://a"})
                assert await updated.get() == "official://a"
                await session.request("resources/unsubscribe", {"uri": "official://a"})
            await speak_to_the_official_server(session, era)
            session.close_input()
            assert await ended(server.process) == 0

    run(test())


async def speak_to_the_official_server(session: Session, era: str) -> None:
    """Everything beside tools."""
    catalogue = session.catalogue
    assert [(each["name"], each["title"]) for each in catalogue.prompts] == [("greet", "Greeting")]
    assert [each["uri"] for each in catalogue.resources] == ["official://a"]
    assert [each["uriTemplate"] for each in catalogue.templates] == ["official://of/{name}"]
    prompt: Any = await session.request("prompts/get", {"name": "greet", "arguments": {"whom": "x"}})
    assert prompt["messages"][0]["content"]["text"] == "Greet x."
    for uri, text in (("official://a", "the text of a"), ("official://of/x", "of x")):
        read: Any = await session.request("resources/read", {"uri": uri})
        assert read["contents"][0]["text"] == text
    ref = {"type": "ref/prompt", "name": "greet"}
    argument = {"name": "whom", "value": ""}
    completed: Any = await session.request("completion/complete", {"ref": ref, "argument": argument})
    assert completed["completion"]["values"] == ["one", "two"]
    error = await refusal(session.request("resources/read", {"uri": "official://none"}))
    assert type(error) is InvalidParams or error.data.get("code") == -32002
    error = await refusal(session.request("prompts/get", {"name": "none"}))
    assert error.data["prompt"] == "none"
    await meet_the_user(session, era)


async def meet_the_user(session: Session, era: str) -> None:
    """A tool that has to ask: the legacy server asks, the modern one has to be called again."""
    answer = {"action": "accept", "content": {"name": "Ann"}}

    async def ask(method: str, _params: Mapping[str, object]) -> object:
        assert method == "elicitation/create"
        return answer

    caller = Caller(capabilities={"elicitation": {}}, ask=ask)
    call: dict[str, object] = {"name": "meet", "arguments": {}}
    result: Any = await session.request("tools/call", call, caller=caller)
    if era == "modern":
        assert result["resultType"] == "input_required"
        assert result["inputRequests"]["name"]["method"] == "elicitation/create"
        again = {"inputResponses": {"name": answer}, "requestState": result["requestState"]}
        result = await session.request("tools/call", {**call, **again}, caller=caller)
    assert result["content"][0]["text"] == "accept Ann"
