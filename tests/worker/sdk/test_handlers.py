"""The SDK in real worker processes: what an author may write, and what the daemon sees of it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from corral.worker import Agent
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, NotInitialized, PermissionDenied
from worker_peer import WorkerPeer, never, on_loop, text_result

pytestmark = pytest.mark.shell

BOTH = pytest.mark.parametrize("agent", ["sdk_async", "sdk_sync"])
MIB = 1024 * 1024


def record(**changes: object) -> dict[str, object]:
    return {"id": "t-2", "agent": "reader", "state": "succeeded", "output": 42, "error": None} | changes


# -- becoming Ready


@on_loop
async def test_initialize_is_answered_with_what_the_author_gave() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        assert await peer.initialize() == {
            "protocolVersion": "1",
            "name": "async",
            "version": "1.2",
            "capabilities": ["test", "async"],
        }


@on_loop
async def test_an_agent_without_a_name_takes_the_one_of_the_configuration() -> None:
    async with WorkerPeer.of("sdk_hooks") as peer:
        peer.answers["event/subscribe"] = lambda _: {}
        assert (await peer.initialize())["name"] == "tested"


@on_loop
async def test_a_task_before_initialize_is_refused() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        assert (await peer.fails(peer.run("echo"))).code == -33006
        assert await peer.request("ping") == {}
        await peer.initialize()
        assert await peer.run("echo")


@on_loop
async def test_a_second_initialize_is_refused_and_changes_nothing() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        await peer.initialize(config={"a": 1})
        error = await peer.fails(peer.initialize(config={"a": 2}))
        assert error.code == -33002
        output = await peer.run("echo")
        assert isinstance(output, dict)
        assert output["config"] == {"a": 1}


@pytest.mark.parametrize("version", ["2", 1, None])
@on_loop
async def test_another_protocol_version_ends_the_worker(version: object) -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        error = await peer.fails(peer.initialize(protocolVersion=version))
        assert (error.code, error.data["value"]) == (-32602, version)
        assert await peer.exit_status() == 1


@on_loop
async def test_an_unknown_method_is_refused_and_an_unknown_notification_is_dropped() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        await peer.initialize()
        peer.notify("task/praise", {})
        assert (await peer.fails(peer.request("task/juggle", {}))).code == -32601
        assert await peer.request("ping") == {}


# -- tasks


@BOTH
@on_loop
async def test_a_handler_sees_what_was_asked_and_its_value_is_the_output(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize(config={"depth": 3})
        asked: dict[str, object] = {
            "attempt": 2,
            "context": ["why"],
            "boundaries": {"max_tool_calls": 5},
            "checkpoint": {"step": 1},
        }
        assert await peer.run("echo", {"repo": "."}, task="t-9", **asked) == {
            "id": "t-9",
            "objective": "echo",
            "input": {"repo": "."},
            "agent": "tested",
            "worker": "tested-0",
            "config": {"depth": 3},
            **asked,
        }


@BOTH
@on_loop
async def test_a_tool_is_called_for_the_task_and_answers_as_mcp_says(agent: str) -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = lambda _: {"content": content, "structuredContent": {"n": 2}}
        await peer.initialize()
        assert await peer.run("tool") == {"text": "a\nb", "structured": {"n": 2}, "content": content, "is_error": False}
        assert await peer.hear_request("tools/call") == {
            "name": "git__log",
            "arguments": {"repo_path": ".", "max_count": 2},
            "task": "t-1",
        }


@BOTH
@on_loop
async def test_a_tool_that_says_it_failed_raises_unless_the_handler_wants_to_look(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = lambda _: text_result("no repo", is_error=True)
        await peer.initialize()
        error = await peer.fails(peer.run("tool"))
        assert error.code == -33012
        facts = {"tool": "git__log", "content": [{"type": "text", "text": "no repo"}]}
        assert error.data == facts
        assert await peer.run("tool_caught") == facts
        assert await peer.run("tool_unchecked") == [True, "no repo"]
        assert peer.asked[-1].params["arguments"] == {"check": 1, "class": 2}


@BOTH
@on_loop
async def test_tools_are_listed_as_the_daemon_lists_them(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/list"] = lambda _: {"tools": [{"name": "a__b"}, {"name": "c__d"}]}
        await peer.initialize()
        assert await peer.run("tools") == ["a__b", "c__d"]


@BOTH
@on_loop
async def test_delegated_work_comes_back_as_the_record_of_the_other_task(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["task/delegate"] = lambda _: record()
        await peer.initialize()
        assert await peer.run("delegate") == ["t-2", "succeeded", 42, "reader"]
        assert await peer.run("delegate_by_capability") == 42
        assert [each.params for each in peer.asked] == [
            {
                "task": "t-1",
                "agent": "reader",
                "objective": "read it",
                "input": {"path": "a"},
                "timeout_s": 3,
                "priority": 7,
            },
            {"task": "t-1", "capability": "reading", "objective": "read it"},
        ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "failed", "error": {"code": -33009, "name": "WorkerFailed", "message": "", "data": {}}}, -33009),
        ({"state": "timeout", "error": {"code": -33004, "name": "Timeout", "message": "", "data": {}}}, -33004),
        ({"state": "cancelled", "error": None}, -33013),
    ],
)
@BOTH
@on_loop
async def test_delegated_work_that_failed_raises_its_typed_error(
    agent: str, changes: dict[str, object], code: int
) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["task/delegate"] = lambda _: record(output=None, **changes)
        await peer.initialize()
        error = await peer.fails(peer.run("delegate"))
        assert (error.code, error.data["task"]) == (code, "t-2")


@BOTH
@on_loop
async def test_work_for_several_comes_back_in_order_with_each_error_in_its_place(agent: str) -> None:
    refusal: dict[str, object] = {"code": -33001, "name": "NotFound", "message": "", "data": {"capability": "reading"}}
    failure: dict[str, object] = {"code": -33009, "name": "WorkerFailed", "message": "", "data": {}}
    answers: list[list[object]] = [
        [record(), {"error": refusal}],
        [record(output=None, state="failed", error=failure), record()],
    ]
    async with WorkerPeer.of(agent) as peer:
        peer.answers["task/delegate_all"] = lambda _: {"results": answers.pop(0)}
        await peer.initialize()
        first = await peer.run("delegate_all")
        assert first == [42, {**refusal, "message": "the peer gave no message"}]
        second: Any = await peer.run("delegate_all")
        assert (second[0]["name"], second[0]["data"], second[1]) == ("WorkerFailed", {"task": "t-2"}, 42)
        assert peer.asked[0].params == {
            "task": "t-1",
            "tasks": [{"agent": "reader", "objective": "read it"}, {"capability": "reading", "objective": "b"}],
            "max_parallel": 2,
        }


@BOTH
@on_loop
async def test_all_that_can_be_said_of_a_delegation_reaches_the_daemon(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["task/delegate"] = lambda _: record()
        await peer.initialize()
        assert await peer.run("delegate_with_all") == 42
        assert peer.asked[0].params == {
            "task": "t-1",
            "objective": "read it",
            "required_capabilities": ["reading"],
            "allowed_tools": ["git__*"],
            "boundaries": {"timeout": "5s"},
            "output_format": {"schema": {"type": "integer"}},
            "session": "s",
            "sticky_key": "k",
            "idempotency_key": "once",
            "after": ["t-0"],
            "retry": {"max_attempts": 2},
        }


@BOTH
@on_loop
async def test_memory_is_put_got_deleted_and_searched(agent: str) -> None:
    def delete(params: dict[str, object]) -> object:
        if params["key"] == "missing":
            raise NotFound("cannot delete it: it is not there")
        return {}

    async with WorkerPeer.of(agent) as peer:
        peer.answers["memory/put"] = lambda _: {}
        peer.answers["memory/get"] = lambda p: {"value": [1] if p["key"] == "k" else None}
        peer.answers["memory/delete"] = delete
        peer.answers["memory/search"] = lambda _: {"items": [{"key": "k"}]}
        await peer.initialize()
        assert await peer.run("memory") == [[1], "a default", [{"key": "k"}]]
        assert [(each.method, each.params) for each in peer.asked] == [
            ("memory/put", {"key": "k", "value": {"v": 1}, "ttl_s": 5, "session": "s"}),
            ("memory/get", {"key": "k", "session": "s"}),
            ("memory/get", {"key": "missing"}),
            ("memory/delete", {"key": "k"}),
            ("memory/delete", {"key": "missing"}),
            ("memory/search", {"query": "words", "limit": 3}),
        ]


@BOTH
@on_loop
async def test_progress_usage_beats_and_log_records_are_reported_in_order(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["checkpoint/put"] = lambda _: {"id": "c-1"}
        await peer.initialize(heartbeat_interval_s=3600)
        answer = await peer.request("task/run", {"task": "t-1", "objective": "tell"})
        assert answer == {"output": "c-1"}
        told = [(each.method, each.params) for each in peer.heard if each.params != {"busy": False}]
        assert told == [
            ("progress", {"task": "t-1", "progress": 0.5, "message": "half"}),
            ("progress", {"task": "t-1", "progress": 3, "total": 4}),
            ("usage", {"tokens": 10, "cost_cents": 0.5, "task": "t-1"}),
            ("usage", {"tokens": 5, "cost_cents": 0.0, "task": "t-1"}),
            ("heartbeat", {"busy": True, "task": "t-1"}),
            ("log", {"level": "warning", "message": "look", "fields": {"path": "a"}, "task": "t-1"}),
        ]
        assert peer.asked[0].params == {"task": "t-1", "data": {"step": 2}}


@BOTH
@on_loop
async def test_an_event_is_published_and_a_refusal_is_the_tasks_error(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["event/publish"] = lambda _: {}
        await peer.initialize()
        assert await peer.run("publish") is None
        assert peer.asked[0].params == {"type": "build.done", "data": {"ok": True}}
        peer.answers["event/publish"] = refuse
        assert (await peer.fails(peer.run("publish"))).code == -33003


def refuse(_: dict[str, object]) -> object:
    raise PermissionDenied("cannot do that")


@on_loop
async def test_a_refusal_that_nobody_awaits_is_logged() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        peer.answers["event/publish"] = refuse
        await peer.initialize()
        assert await peer.run("publish_unawaited") is None
        await peer.hear_stderr("PermissionDenied")
        assert await peer.request("ping") == {}


# -- what an author gets wrong


@pytest.mark.parametrize("hook", ["task", "on_start", "on_shutdown", "checkpoint", "restore"])
def test_a_second_handler_or_hook_of_a_kind_is_refused(hook: str) -> None:
    agent = Agent("twice")
    getattr(agent, hook)(print)
    with pytest.raises(Conflict):
        getattr(agent, hook)(print)


def test_the_hooks_of_an_agent_can_want_so_many_types_together() -> None:
    agent = Agent("listens")
    agent.on_event(*(f"type.{number}" for number in range(40)))(print)
    agent.on_event(*(f"type.{number}" for number in range(20, 64)))(print)
    with pytest.raises(InvalidParams):
        agent.on_event("one.more")(print)


def test_a_hook_without_types_gets_all_events_and_a_wrong_type_is_refused() -> None:
    agent = Agent("listens")
    agent.on_event()(print)
    assert [hook.types for hook in agent._hooks.on_event] == [("*",)]  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(InvalidParams):
        agent.on_event(*cast("list[str]", [["build.*"]]))(print)


def test_an_agent_that_does_not_run_cannot_publish() -> None:
    agent = Agent("not yet")
    with pytest.raises(NotInitialized):
        agent.publish("too.early")
    with pytest.raises(NotInitialized):
        agent.wait(agent.tool("time__now"))


def test_capabilities_that_are_one_string_are_refused() -> None:
    with pytest.raises(InvalidParams):
        Agent("letters", capabilities="history")


@on_loop
async def test_an_agent_without_a_handler_is_not_ready(tmp_path: Path) -> None:
    script = tmp_path / "idle.py"
    script.write_text("from corral.worker import Agent\nAgent('idle').run()\n")
    async with WorkerPeer([sys.executable, "-P", script]) as peer:
        error = await peer.fails(peer.initialize())
        assert error.code == -33008
        assert "idle.py, line 2" in error.message
        assert await peer.exit_status() == 1


@on_loop
async def test_an_agent_with_event_hooks_alone_is_ready_and_refuses_tasks(tmp_path: Path) -> None:
    script = tmp_path / "hears.py"
    lines = ("from corral.worker import Agent", "agent = Agent()", "agent.on_event(print)")
    script.write_text("\n".join((*lines, "agent.run()")))
    async with WorkerPeer([sys.executable, "-P", script]) as peer:
        peer.answers["event/subscribe"] = lambda _: {}
        await peer.initialize()
        assert (await peer.fails(peer.run())).code == -32601


# -- failures


@BOTH
@on_loop
async def test_an_exception_is_a_typed_failure_with_its_traceback_in_the_log(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        error = await peer.fails(peer.run("fail"))
        assert error.code == -33013
        place = error.data.pop("place")
        assert error.data == {"exception": "ValueError", "message": "no such thing\nsecond line"}
        assert str(place).startswith(f"{agent}.py, line ")
        assert str(place) in error.message
        assert "\n" not in error.message
        await peer.hear_stderr(f"{agent}.py")
        await peer.hear_stderr("ValueError: no such thing\nsecond line")
        assert await peer.run("echo")


@BOTH
@on_loop
async def test_a_typed_error_that_the_handler_lets_through_keeps_its_code(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = refuse
        await peer.initialize()
        assert (await peer.fails(peer.run("fail_typed"))).code == -33003


@BOTH
@pytest.mark.parametrize("exception", ["SystemExit", "KeyboardInterrupt"])
@on_loop
async def test_a_handler_that_exits_fails_its_task_and_not_its_worker(agent: str, exception: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        error = await peer.fails(peer.run("leave", exception))
        assert (error.code, error.data["exception"]) == (-33013, exception)
        assert await peer.run("echo")


@pytest.mark.parametrize(
    ("agent", "objective", "exception"),
    [
        ("sdk_async", "unprintable", "Bad"),
        ("sdk_async", "own_cancel", "CancelledError"),
        ("sdk_async", "from_thread", "RuntimeError"),
        ("sdk_async", "no_such_function", "KeyError"),
        ("sdk_sync", "stop_iteration", "RuntimeError"),
        ("sdk_sync", "coroutine", "TypeError"),
        ("sdk_async", "unreachable", "Unreachable"),
        ("sdk_async", "untyped", "Untyped"),
        ("sdk_async", "unspeakable", "ValueError"),
        ("sdk_sync", "unspeakable", "ValueError"),
    ],
)
@on_loop
async def test_whatever_goes_wrong_in_a_handler_is_a_failed_task(agent: str, objective: str, exception: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        error = await peer.fails(peer.run(objective))
        assert (error.code, error.data["exception"]) == (-33013, exception)
        assert await peer.run("echo")


@BOTH
@on_loop
async def test_an_output_with_a_number_that_json_cannot_express_fails_by_its_place(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        error = await peer.fails(peer.run("not_finite"))
        assert (error.code, error.data["exception"]) == (-33013, "ValueError")
        assert str(error.data["message"]).startswith("it['loss'][1] is nan")


@BOTH
@on_loop
async def test_an_output_over_the_agents_limit_is_refused_by_name(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize(limits={"max_output_size_bytes": 1000})
        assert await peer.run("long", 998) == "x" * 998  # and two quotes
        error = await peer.fails(peer.run("long", 999))
        assert error.code == -33005
        assert error.data == {"limit": "max_output_size_bytes", "value": 1000, "size_bytes": 1001}


@BOTH
@on_loop
async def test_an_output_over_the_limit_of_a_message_is_refused_and_one_under_it_is_whole(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        assert (await peer.fails(peer.run("long", 17 * MIB))).code == -33005
        assert await peer.run("long", 15 * MIB) == "x" * 15 * MIB


@on_loop
async def test_arguments_over_the_limit_of_a_message_raise_in_the_handler() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        await peer.initialize()
        assert await peer.run("too_long_arguments") == -33005


# -- several tasks, heartbeats and what hung means


@BOTH
@on_loop
async def test_a_task_beyond_max_concurrent_requests_is_refused(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = never
        await peer.initialize()
        peer.start("wait", task="t-1")
        await peer.hear_request("tools/call")
        error = await peer.fails(peer.run("echo", task="t-2"))
        assert (error.code, error.data["limit"]) == (-33011, "max_concurrent_requests")


@on_loop
async def test_heartbeats_say_whether_the_worker_is_busy() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        answered = asyncio.get_running_loop().create_future()

        async def answer(_: dict[str, object]) -> object:
            return await answered

        peer.answers["tools/call"] = answer
        await peer.initialize()
        await peer.hear("heartbeat", busy=False)
        request_id = peer.start("wait")
        await peer.hear("heartbeat", busy=True)
        answered.set_result(text_result(""))
        assert await peer.output(request_id) == "done"
        peer.heard.clear()
        await peer.hear("heartbeat", busy=False)
        assert not peer.notified("heartbeat", busy=True)


@on_loop
async def test_a_blocked_coroutine_stops_the_beats_while_blocked_threads_do_not(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hold = os.open(fifo, os.O_RDWR)
    try:
        async with WorkerPeer.of("sdk_async") as coroutine, WorkerPeer.of("sdk_sync") as threads:
            coroutine.answers["tools/call"] = lambda _: text_result("go on")
            await coroutine.initialize()
            await threads.initialize(limits={"max_concurrent_requests": 3})
            in_threads = [threads.start("block", str(fifo), task=f"t-{n}") for n in range(3)]
            on_its_loop = coroutine.start("block", str(fifo))
            await coroutine.hear_stderr("blocking now")
            # What it had said before is in the pipe by now: it is read before the other's next beat.
            await threads.hear_more("heartbeat", 2)
            before = coroutine.count("heartbeat")
            await threads.hear_more("heartbeat", 20)
            assert coroutine.count("heartbeat") == before
            assert threads.notified("heartbeat")[-1] == {"busy": True}
            os.write(hold, b"....")
            assert await coroutine.output(on_its_loop) == "unblocked"
            await coroutine.hear_more("heartbeat", 2)
            assert [await threads.output(each) for each in in_threads] == ["unblocked"] * 3
    finally:
        os.close(hold)


# -- the wire is safe


@BOTH
@on_loop
async def test_whatever_is_written_to_stdout_is_log_and_not_protocol(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        assert await peer.run("shout") == {"stdin": "", "inherited": []}
        for text in ("printed\n", "no newline, ", "written to 1\n", "of a child\n"):
            await peer.hear_stderr(text)
        assert peer.foreign == []


@on_loop
async def test_half_a_line_before_run_does_not_spoil_the_first_message(tmp_path: Path) -> None:
    script = tmp_path / "early.py"
    script.write_text(
        "import os, subprocess\n"
        "from corral.worker import Agent\n"
        "os.write(1, b'half a line')\n"
        "agent = Agent('early')\n"
        "agent.task(print)\n"
        "agent.run()\n"
    )
    async with WorkerPeer([sys.executable, "-P", script]) as peer:
        assert (await peer.initialize())["name"] == "early"
        assert peer.foreign == [b"half a line"]


@on_loop
async def test_a_line_that_is_no_message_is_logged_and_the_next_is_answered() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        peer.send_line(b"garbage \xff")
        await peer.initialize()
        await peer.hear_stderr("garbage")
