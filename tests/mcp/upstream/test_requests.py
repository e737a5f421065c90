"""What a session sends for its callers, and which of them hears what a server says meanwhile."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from corral.mcp.protocol.messages import META, NOBODY, Caller, Progress
from corral.mcp.upstream.session import Session
from corral.worker.contract.errors import Cancelled, CorralError, Overloaded, Timeout
from corral.worker.contract.jsonrpc import Foreign
from programs.mcp_process import BOUND_S, ODD, Life, life, session_of

pytestmark = pytest.mark.contract

ERAS = ("legacy", "modern")
ALL = ("--declares=tools", "--declares=prompts", "--declares=resources")
SHORT_S = 0.3
"""A timeout that is meant to run out, or to be outlived."""

ASKED = ("elicitation/create", "roots/list", "sampling/createMessage")
RELAYS: dict[str, Any] = {"relays": ("elicitation", "roots", "sampling")}
ABLE: dict[str, object] = {"elicitation": {}, "roots": {}, "sampling": {}}


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    uvloop.run(bounded())  # the daemon's loop


async def call(server: Life, tool: str, caller: Caller = NOBODY, **arguments: object) -> Any:
    """What a tool answers as text, read as JSON."""
    params: dict[str, object] = {"name": tool, "arguments": arguments}
    result: Any = await server.session.request("tools/call", params, caller=caller, timeout_s=BOUND_S)
    return json.loads(result["content"][0]["text"])


async def say(server: Life, tool: str, caller: Caller = NOBODY, **arguments: object) -> None:
    params: dict[str, object] = {"name": tool, "arguments": arguments}
    await server.session.request("tools/call", params, caller=caller, timeout_s=BOUND_S)


async def params_of(server: Life, given: dict[str, object], caller: Caller = NOBODY) -> Any:
    """The params as the server gets them."""
    params: dict[str, object] = {"name": "params", "arguments": {}, **given}
    result: Any = await server.session.request("tools/call", params, caller=caller)
    return json.loads(result["content"][0]["text"])


async def refusal(call: Awaitable[object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        await call
    return caught.value


def answering(answer: object) -> Callable[[str, Mapping[str, object]], Awaitable[object]]:
    async def ask(method: str, params: Mapping[str, object]) -> object:
        return {"asked": method, "params": dict(params), "answer": answer}

    return ask


# -- what is sent and what comes back


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {"name": "greet", "arguments": {"whom": "ä"}}),
        ("resources/read", {"uri": "odd://a"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}}),
    ],
)
def test_a_result_of_any_kind_is_handed_over_as_it_came(era: str, method: str, params: dict[str, Any]) -> None:
    async def test() -> None:
        async with life((*ODD, f"--era={era}", *ALL)) as server:
            assert await server.session.request(method, params) == {
                "method": method,
                "about": params.get("name") or params.get("uri") or params.get("ref"),
                "given": params.get("arguments", {}),
                "_meta": {"x": 1},
                "new": [1.0],
            }

    run(test())


@pytest.mark.parametrize(
    ("method", "params"), [("prompts/get", {"name": "input"}), ("resources/read", {"uri": "odd://input"})]
)
def test_a_request_for_input_is_the_callers_and_so_is_what_he_answers(method: str, params: dict[str, object]) -> None:
    async def test() -> None:
        async with life((*ODD, "--era=modern", *ALL)) as server:
            wanted = await server.session.request(method, params)
            assert wanted == {"resultType": "input_required", "requestState": "s", "inputRequests": {"q": {}}}
            again = {"inputResponses": {"q": {"x": 1}}, "requestState": "s"}
            assert await server.session.request(method, {**params, **again}) == {"echo": again}

    run(test())


def test_what_a_caller_says_beside_his_request_is_passed_on_but_his_token() -> None:
    async def test() -> None:
        said: dict[str, object] = {
            "traceparent": "00-1",
            "progressToken": "mine",
            META + "protocolVersion": "1999-01-01",
            META + "clientInfo": {"name": "x"},
            META + "clientCapabilities": {"a": {}},
            META + "logLevel": "debug",
        }
        async with life(ODD) as server:
            got = await params_of(server, {"_meta": said})
            assert got["_meta"].keys() == {"traceparent", "progressToken"}
            assert type(got["_meta"]["progressToken"]) is int
            again = await params_of(server, {"_meta": said})
            assert again["_meta"]["progressToken"] != got["_meta"]["progressToken"]
            whole: dict[str, object] = {"name": "params", "arguments": {}}
            bounded: Any = await server.session.request("tools/call", whole, timeout_s=BOUND_S)
            assert json.loads(bounded["content"][0]["text"]) == whole
        caller = Caller(capabilities={"elicitation": {"url": {}}})
        async with life((*ODD, "--era=modern")) as server:
            meta = (await params_of(server, {"_meta": said}, caller))["_meta"]
            assert meta["traceparent"] == "00-1"
            assert type(meta["progressToken"]) is int
            assert meta[META + "protocolVersion"] == "2026-07-28"
            assert meta[META + "clientInfo"]["name"] == "corral"
            assert meta[META + "clientCapabilities"] == {"elicitation": {"url": {}}}
            assert meta[META + "logLevel"] == "debug"

    run(test())


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
def test_answers_in_one_batch_are_taken_in_the_revision_that_has_batches(version: str) -> None:
    async def test() -> None:
        log: list[Foreign] = []
        command = (*ODD, f"--answer-version={version}", "--batches")
        async with life(command, on_log=log.append) as server:
            hold: dict[str, object] = {"name": "hold", "arguments": {}}
            held = [asyncio.create_task(server.session.request("tools/call", hold)) for _ in "ab"]
            await say(server, "echo")
            await say(server, "release")
            if version == "2025-03-26":
                for result in await asyncio.gather(*held):
                    assert result["content"] == [{"type": "text", "text": "released"}]
            assert len(log) == (0 if version == "2025-03-26" else 1)
            for task in held:
                task.cancel()

    run(test())


# -- time


def test_progress_gives_a_request_more_time_but_never_more_than_the_maximum() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"request_timeout_s": SHORT_S, "max_request_timeout_s": 4 * SHORT_S}
        async with life(ODD, **options) as server:
            hold: dict[str, object] = {"name": "hold", "arguments": {}}
            started = loop.time()
            held = asyncio.create_task(server.session.request("tools/call", hold))
            while loop.time() < started + 2 * SHORT_S:
                await say(server, "nudge")
            assert not held.done()
            while not held.done():
                await say(server, "nudge")
            error = await refusal(held)
            assert type(error) is Timeout
            assert error.data == {"server": "odd", "tool": "hold", "timeout_s": 4 * SHORT_S}
            error = await refusal(server.session.request("tools/call", hold))
            assert error.data["timeout_s"] == SHORT_S

    run(test())


def test_a_callers_own_time_limit_is_one_for_the_whole() -> None:
    async def test() -> None:
        reports: list[Progress] = []
        async with life(ODD) as server:
            hold: dict[str, object] = {"name": "hold", "arguments": {}}
            caller = Caller(on_progress=reports.append)
            held = asyncio.create_task(server.session.request("tools/call", hold, timeout_s=SHORT_S, caller=caller))
            while not held.done():
                await say(server, "nudge")
            assert (await refusal(held)).data["timeout_s"] == SHORT_S
            assert reports
            count = len(reports)
            await say(server, "nudge")
            assert len(reports) == count

    run(test())


# -- what a server asks


def test_what_may_be_asked_for_is_declared_and_nothing_else() -> None:
    async def test() -> None:
        nothing: dict[str, Any] = {}
        for options, declared in (
            (nothing, {}),
            (RELAYS, {"elicitation": {}, "roots": {"listChanged": False}, "sampling": {}}),
        ):
            async with life(ODD, **options) as server:
                (greeting,) = [m for m in await call(server, "methods") if m["method"] == "initialize"]
                assert greeting["params"]["capabilities"] == declared

    run(test())


@pytest.mark.parametrize("method", ASKED)
def test_the_one_caller_who_waits_is_asked(method: str) -> None:
    async def test() -> None:
        async with life(ODD, **RELAYS) as server:
            caller = Caller(capabilities=ABLE, ask=answering(7))
            reply = await call(server, "ask", caller, method=method, params={"a": 1})
            assert reply["result"] == {"asked": method, "params": {"a": 1}, "answer": 7}

    run(test())


def test_nobody_is_asked_who_is_not_certain_to_be_meant_or_cannot_answer() -> None:
    async def test() -> None:
        able = Caller(capabilities=ABLE, ask=answering(7))
        async with life(ODD, **RELAYS) as server:
            for caller in (NOBODY, Caller(capabilities=ABLE), Caller(capabilities={"roots": {}}, ask=answering(7))):
                reply = await call(server, "ask", caller, method=ASKED[0])
                assert reply["error"]["code"] == -32601
            held = asyncio.create_task(say(server, "hold", able))
            await say(server, "echo")
            reply = await call(server, "ask", able, method=ASKED[0])
            assert reply["error"]["code"] == -32601
            await say(server, "release")
            await held
            reply = await call(server, "ask", able, method="unheard/of")
            assert reply["error"]["code"] == -32601
            url = {"mode": "url", "url": "https://example.org"}
            reply = await call(server, "ask", able, method=ASKED[0], params=url)
            assert reply["error"]["code"] == -32602
            assert (await call(server, "ask", able, method=ASKED[0]))["result"]["answer"] == 7
            assert (await call(server, "ask", NOBODY, method="ping"))["result"] == {}
        async with life(ODD, relays=frozenset({"roots"})) as server:
            reply = await call(server, "ask", able, method=ASKED[0])
            assert reply["error"]["code"] == -32601

    run(test())


def test_what_a_caller_refuses_is_reported_to_the_server() -> None:
    async def test() -> None:
        async def ask(_method: str, _params: Mapping[str, object]) -> object:
            raise Cancelled("cannot answer: nobody is there", why="away")

        async with life(ODD, **RELAYS) as server:
            caller = Caller(capabilities=ABLE, ask=ask)
            reply = await call(server, "ask", caller, method=ASKED[0])
            assert (reply["error"]["code"], reply["error"]["data"]) == (Cancelled.code, {"why": "away"})

    run(test())


def test_a_caller_who_is_asked_has_the_time_that_his_request_may_take_at_most() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        given_up = asyncio.Event()

        async def slowly(_method: str, _params: Mapping[str, object]) -> object:
            while loop.time() < started + 2 * SHORT_S:
                await server.session.ping(timeout_s=None)
            return {}

        async def never(_method: str, _params: Mapping[str, object]) -> object:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()
            return {}

        options: dict[str, Any] = {"request_timeout_s": SHORT_S, **RELAYS}
        ask = {"name": "ask", "arguments": {"method": ASKED[0]}}
        async with life(ODD, **options) as server:
            started = loop.time()
            caller = Caller(capabilities=ABLE, ask=slowly)
            await server.session.request("tools/call", ask, caller=caller)
        async with life(ODD, **options, max_request_timeout_s=2 * SHORT_S) as server:
            caller = Caller(capabilities=ABLE, ask=never)
            error = await refusal(server.session.request("tools/call", ask, caller=caller))
            assert (type(error), error.data["timeout_s"]) == (Timeout, 2 * SHORT_S)
            await given_up.wait()
            replies = await call(server, "replies")
            assert replies[-1]["error"]["code"] == Cancelled.code

    run(test())


def test_what_a_server_logs_is_the_callers_as_well_while_he_is_alone() -> None:
    async def test() -> None:
        notices: list[Any] = []
        mine: list[Any] = []
        params = {"level": "info", "data": {"a": 1}, "logger": "odd"}
        caller = Caller(on_message=mine.append)
        async with life(ODD, on_notification=notices.append) as server:
            await say(server, "log", caller, params=params)
            assert mine == [params]
            held = asyncio.create_task(say(server, "hold", caller))
            await say(server, "echo")
            await say(server, "log", caller, params=params)
            assert mine == [params]
            await say(server, "release")
            await held
            assert [notice.params for notice in notices] == [params, params]

    run(test())


def test_a_caller_that_cannot_be_answered_costs_nobody_the_connection() -> None:
    async def test() -> None:
        def refuse(_: object) -> None:
            raise Overloaded("cannot take more", retry_after_s=1)

        caller = Caller(on_progress=refuse, on_message=refuse)
        async with life(ODD) as server:
            await say(server, "progress", caller, text="a")
            await say(server, "log", caller, params={"level": "info", "data": 1})
            assert server.session.is_open

    run(test())


# -- to the turn of the loop


class Played:
    """A server that is played by the test, which decides what comes together."""

    def __init__(self, lines: asyncio.StreamReader, stdout: int) -> None:
        self._lines = lines
        self._stdout = stdout

    async def next(self) -> Any:
        """The next message of the client."""
        return json.loads(await self._lines.readline())

    def write(self, *messages: dict[str, object]) -> None:
        """Sends messages in one piece."""
        lines = [json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in messages]
        os.write(self._stdout, b"".join(lines))


@asynccontextmanager
async def played(**options: Any) -> AsyncGenerator[tuple[Session, Played], None]:
    session = session_of("played", **options)
    its_stdin, write_fd = os.pipe()
    read_fd, its_stdout = os.pipe()
    lines = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(its_stdin, "rb", buffering=0)
    )
    server = Played(lines, its_stdout)
    opening = asyncio.create_task(session.open(read_fd, write_fd, timeout_s=BOUND_S))
    greeting: dict[str, object] = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
    server.write({"id": (await server.next())["id"], "result": greeting})
    assert (await server.next())["method"] == "notifications/initialized"
    server.write({"id": (await server.next())["id"], "result": {"tools": []}})
    await opening
    try:
        yield session, server
    finally:
        session.close()
        transport.close()
        os.close(its_stdout)


ASK: dict[str, object] = {"id": "q", "method": "roots/list", "params": {}}


def test_progress_that_comes_with_the_answer_but_after_it_is_dropped() -> None:
    async def test() -> None:
        reports: list[Progress] = []
        async with played() as (session, server):
            caller = Caller(on_progress=reports.append)
            call = asyncio.create_task(session.request("tools/call", {"name": "a"}, caller=caller))
            request = await server.next()
            token = request["params"]["_meta"]["progressToken"]
            step: list[dict[str, object]] = [
                {"method": "notifications/progress", "params": {"progressToken": token, "progress": n}} for n in (1, 2)
            ]
            server.write(step[0], {"id": request["id"], "result": {}}, step[1])
            await call
            assert reports == [Progress(1)]

    run(test())


def test_a_question_that_comes_with_the_answer_is_nobodys() -> None:
    async def test() -> None:
        async with played(**RELAYS) as (session, server):
            able = Caller(capabilities=ABLE, ask=answering(7))
            call = asyncio.create_task(session.request("tools/call", {"name": "a"}, caller=able))
            request = await server.next()
            server.write(ASK, {"id": request["id"], "result": {}})
            await call
            assert (await server.next())["error"]["code"] == -32601

    run(test())


def test_a_question_that_came_before_a_request_is_not_about_it() -> None:
    async def test() -> None:
        able = Caller(capabilities=ABLE, ask=answering(7))
        calls: list[asyncio.Task[Any]] = []

        def call(_: object) -> None:
            request = session.request("tools/call", {"name": "a"}, caller=able)
            calls.append(asyncio.create_task(request))

        async with played(on_notification=call, **RELAYS) as (session, server):
            server.write({"method": "notifications/message", "params": {}}, ASK)
            messages = [await server.next(), await server.next()]
            (reply,) = [each for each in messages if each.get("id") == "q"]
            assert reply["error"]["code"] == -32601
            (request,) = [each for each in messages if "method" in each]
            server.write({"id": request["id"], "result": {}})
            await calls[0]

    run(test())


# -- all at once


@pytest.mark.parametrize("era", ERAS)
def test_each_of_many_callers_gets_his_own_answer_from_a_server_that_does_everything_wrong(era: str) -> None:
    async def test() -> None:
        notices: list[object] = []
        log: list[object] = []
        options: dict[str, Any] = {"on_notification": notices.append, "on_log": log.append}
        command = (*ODD, f"--era={era}", "--everything", *ALL)
        async with life(command, **options, **RELAYS) as server:

            async def request(name: str, caller: Caller, **arguments: object) -> Any:
                params = {"name": name, "arguments": arguments}
                return await server.session.request("tools/call", params, caller=caller)

            async def work(number: int) -> None:
                reports: list[Progress] = []
                caller = Caller(capabilities=ABLE, ask=answering(number), on_progress=reports.append)
                for n in range(4):
                    text = f"{number}/{n} ä\u2028\u0000\U0001f600 \\u0041 \"'"
                    structured = {"n": [number, n / 3, None, True, -(10**25)], text: {"": text}}
                    result = {
                        "content": [{"type": "text", "text": text, "_meta": {"k": [n]}}],
                        "structuredContent": structured,
                        "isError": False,
                        "_meta": {"x/y": structured},
                        "more": text,
                    }
                    assert await request("raw", caller, result=result) == result
                    answer = await request("echo", caller, text=text)
                    assert answer["content"] == [{"type": "text", "text": text}]
                    await request("progress", caller, text=text)
                    # More may come before the answer, which is held back; none after it.
                    assert reports[:2] == [Progress(1, 2, text), Progress(2, 2, text)]
                    reports.clear()

            async def give_up() -> None:
                for _ in range(8):
                    held = asyncio.create_task(request("hold", NOBODY))
                    await request("echo", NOBODY, text="")
                    held.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await held

            async def read_much() -> None:
                answer = await request("big", NOBODY, size=5_000_000)
                assert answer["content"][0]["text"] == "x" * 5_000_000

            async with asyncio.TaskGroup() as group:
                for number in range(64):
                    group.create_task(work(number))
                group.create_task(give_up())
                group.create_task(read_much())
            assert server.session.is_open
            assert log
            assert notices
            replies = await request("replies", NOBODY)
            for reply in json.loads(replies["content"][0]["text"]):
                assert reply.get("result") == {} or reply["error"]["code"] == -32601

    run(test())
