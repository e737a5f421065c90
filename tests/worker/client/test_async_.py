"""The asyncio client and the runtime on it, against a scripted daemon: answers, cancelling, streams, a daemon that goes."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from corral import (
    AgentRuntime,
    CorralError,
    InternalError,
    InvalidParams,
    NotFound,
    Progress,
    TaskFailed,
    Timeout,
    Unreachable,
)
from corral.worker.client import async_ as module
from corral.worker.client.async_ import Connection, Stream, decode_answer
from corral.worker.contract.jsonrpc import Peer
from corral.worker.contract.records import Task, TaskParams
from scripted_daemon import BOUND_S, SILENCE, Caller, ScriptedDaemon

pytestmark = pytest.mark.shell

HELD_S = 0.3
"""How long a sender is seen not to get on: it never does, so that no machine is too slow for that."""

Test = Callable[[], Coroutine[Any, Any, None]]  # Any: what a coroutine is sent is asyncio's affair

QUEUED: dict[str, object] = {"id": "t1", "agent": "echo"}
DONE = QUEUED | {"state": "succeeded", "output": 7}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    async def bounded(test: Test) -> None:
        async with asyncio.timeout(BOUND_S):
            await test()

    def runs(test: Test) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded(test))

    return runs


async def heard(daemon: ScriptedDaemon, condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(daemon.wait_until, condition)


def silent(_caller: Caller, _params: dict[str, object]) -> object:
    return SILENCE


def missing(_caller: Caller, _params: dict[str, object]) -> object:
    raise NotFound("cannot find it", name="x")


def leave(caller: Caller, _params: dict[str, object]) -> object:
    caller.hang_up()
    return SILENCE


# --- calls ----------------------------------------------------------------------------------------


def test_many_calls_share_one_connection(run: Callable[[Test], None], tmp_path: Path) -> None:
    def echo(_caller: Caller, params: dict[str, object]) -> object:
        return params["n"]

    async def test() -> None:
        async with await Connection.open(str(daemon.path)) as connection:
            calls = [connection.call("echo", {"n": n}) for n in range(3 * module.MAX_CALLS)]
            assert await asyncio.gather(*calls) == list(range(3 * module.MAX_CALLS))
        assert connection.is_closed

    with ScriptedDaemon(tmp_path / "s", {"echo": echo}) as daemon:
        run(test)


def test_an_error_has_the_class_and_the_data_of_the_answer(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        async with await Connection.open(str(daemon.path)) as connection:
            with pytest.raises(NotFound) as caught:
                await connection.call("find")
            assert caught.value.data == {"name": "x"}
            with pytest.raises(Timeout):
                await connection.call("wait", timeout_s=0.05)
            with pytest.raises(InternalError):
                decode_answer(Task, await connection.call("odd"), "odd")
            assert decode_answer(Task, await connection.call("task"), "task").output == 7

    scripts = {"find": missing, "wait": silent, "odd": {"id": 3}, "task": DONE}
    with ScriptedDaemon(tmp_path / "s", scripts) as daemon:
        run(test)


def test_a_cancelled_call_is_withdrawn_and_the_connection_lives_on(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        async with await Connection.open(str(daemon.path)) as connection:
            call = asyncio.ensure_future(connection.call("wait"))
            await heard(daemon, lambda: bool(daemon.calls))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await heard(daemon, lambda: bool(daemon.withdrawn))
            assert await connection.call("ping") == {}

    with ScriptedDaemon(tmp_path / "s", {"wait": silent, "ping": {}}) as daemon:
        run(test)


def test_a_daemon_that_goes_away_ends_calls_as_unreachable_with_the_reason(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    async def test() -> None:
        connection = await Connection.open(str(daemon.path))
        with pytest.raises(Unreachable) as caught:
            await connection.call("leave")
        assert caught.value.data == {"socket": str(daemon.path), "reason": "closed"}
        await connection.channel.wait_closed()
        with pytest.raises(Unreachable) as again:
            await connection.call("leave")
        assert again.value.data["reason"] == "closed"
        with pytest.raises(Unreachable) as nobody:
            await Connection.open(str(tmp_path / "nowhere"))
        assert nobody.value.data["reason"] == "missing"

    with ScriptedDaemon(tmp_path / "s", {"leave": leave}) as daemon:
        run(test)


def test_what_answers_in_another_language_is_no_corrald(run: Callable[[Test], None], tmp_path: Path) -> None:
    def babble(caller: Caller, _params: dict[str, object]) -> object:
        caller.send_raw(b"HTTP/1.1 400 Bad Request\n")
        return SILENCE

    async def test() -> None:
        connection = await Connection.open(str(daemon.path))
        with pytest.raises(Unreachable) as caught:
            await connection.call("ping")
        assert caught.value.data["reason"] == "foreign"

    with ScriptedDaemon(tmp_path / "s", {"ping": babble}) as daemon:
        run(test)


# --- streams --------------------------------------------------------------------------------------


def test_a_slow_reader_gets_everything_in_order_and_keeps_little(run: Callable[[Test], None], tmp_path: Path) -> None:
    many = 20 * module.WAITING_MAX
    sender = Peer()
    for n in range(many):
        sender.notify("event", {"n": n, "text": "x" * 500})
    everything = sender.take()

    def follow(caller: Caller, _params: dict[str, object]) -> object:
        caller.send_raw(everything)
        told.set()
        return {}

    async def test() -> None:
        stream = await Stream.open(str(daemon.path))
        async with stream.connection as connection:
            following = asyncio.ensure_future(connection.call("follow"))
            seen: list[object] = []
            async for notification in stream:
                if not seen:  # it is held up by us, however long we take
                    assert not await asyncio.to_thread(told.wait, HELD_S)
                seen.append(notification.params["n"])
                if len(seen) == many:
                    break
            assert seen == list(range(many))
            assert await following == {}

    told = threading.Event()
    with ScriptedDaemon(tmp_path / "s", {"follow": follow}) as daemon:
        run(test)


def test_a_stream_gives_out_what_came_before_it_ends(run: Callable[[Test], None], tmp_path: Path) -> None:
    def follow(caller: Caller, _params: dict[str, object]) -> object:
        caller.notify("event", {"n": 1})
        caller.hang_up()
        return SILENCE

    async def test() -> None:
        stream = await Stream.open(str(daemon.path))
        following = asyncio.ensure_future(stream.connection.call("follow"))
        seen: list[object] = []

        async def read() -> None:
            async for notification in stream:
                seen.append(notification.params["n"])

        with pytest.raises(Unreachable):
            await read()
        with pytest.raises(Unreachable):
            await following
        assert seen == [1]

    with ScriptedDaemon(tmp_path / "s", {"follow": follow}) as daemon:
        run(test)


def event(seq: int, kind: str = "a.b", **fields: object) -> dict[str, object]:
    return {"seq": seq, "at": "2026-01-01T00:00:00Z", "type": kind, **fields}


def test_events_go_on_where_they_were_when_the_connection_breaks(run: Callable[[Test], None], tmp_path: Path) -> None:
    def follow(caller: Caller, params: dict[str, object]) -> object:
        since = params.get("since", 10)
        assert isinstance(since, int)
        caller.peer.notify("event", {"events": [event(since + 1, agent="x", n=since)]})
        callers.append(caller)
        return {"position": since}

    async def test() -> None:
        runtime = await AgentRuntime.connect(daemon.path)
        seen: list[tuple[int, object]] = []
        async with runtime, runtime.events(["a.*"]) as events:
            async for each in events:
                seen.append((each.seq, each.fields["n"]))
                if len(seen) == 1:
                    callers[0].hang_up()
                assert (each.type, each.agent) == ("a.b", "x")
                if len(seen) == 2:
                    break
        assert seen == [(11, 10), (12, 11)]
        assert [params.get("since") for params in daemon.asked("event.follow")] == [None, 11]

    callers: list[Caller] = []
    with ScriptedDaemon(tmp_path / "s", {"event.follow": follow}) as daemon:
        run(test)


def test_events_of_a_daemon_that_is_gone_end_with_the_place_to_go_on(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    async def test() -> None:
        runtime = await AgentRuntime.connect(daemon.path)
        async with runtime:

            async def read() -> None:
                async with runtime.events() as events:
                    await asyncio.to_thread(daemon.die)
                    async for _ in events:
                        pass

            with pytest.raises(Unreachable) as caught:
                await read()
            assert caught.value.data["since"] == 41

    with ScriptedDaemon(tmp_path / "s", {"event.follow": {"position": 41}}) as daemon:
        run(test)


# --- the runtime ----------------------------------------------------------------------------------


def test_the_next_call_after_a_restart_of_the_daemon_makes_a_new_connection(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(tmp_path / "s") as runtime:
            with ScriptedDaemon(tmp_path / "s", {"daemon.ping": {"n": 2}}) as second:
                await asyncio.to_thread(first.die)
                answers = await asyncio.gather(*(runtime.call("daemon.ping") for _ in range(20)))
                assert answers == [{"n": 2}] * 20
                assert len(second._callers) == 1  # pyright: ignore[reportPrivateUsage]  it counts
        with pytest.raises(Unreachable):
            await runtime.call("daemon.ping")

    with ScriptedDaemon(tmp_path / "s", {"daemon.ping": {"n": 1}}) as first:
        run(test)


def test_progress_goes_to_who_waits_for_that_task(run: Callable[[Test], None], tmp_path: Path) -> None:
    def wait(caller: Caller, params: dict[str, object]) -> object:
        for task in ("t0", params["task"]):
            caller.notify("task.progress", {"task": task, "progress": 0.5, "message": "half"})
        return DONE

    async def test() -> None:
        seen: list[Progress] = []
        async with await AgentRuntime.connect(daemon.path) as runtime:
            task = await runtime.execute_task("echo", "go", on_progress=seen.append)
        assert task.output == 7
        assert [(each.task, each.progress, each.message) for each in seen] == [("t1", 0.5, "half")]

    scripts = {"task.submit": QUEUED, "task.wait": wait}
    with ScriptedDaemon(tmp_path / "s", scripts) as daemon:
        run(test)


def test_a_cancelled_execution_cancels_its_task(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.path) as runtime:
            working = asyncio.ensure_future(runtime.run_agent("echo", "go"))
            await heard(daemon, lambda: any(name == "task.wait" for name, _ in daemon.calls))
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
        assert daemon.asked("task.cancel") == [{"task": "t1"}]

    scripts = {"task.submit": QUEUED, "task.wait": silent, "task.cancel": DONE}
    with ScriptedDaemon(tmp_path / "s", scripts) as daemon:
        run(test)


def test_an_execution_that_is_cancelled_before_it_has_an_id_cancels_its_task_too(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    may_answer = threading.Event()

    def submit(_caller: Caller, _params: dict[str, object]) -> object:
        assert may_answer.wait(BOUND_S)
        return QUEUED

    async def test() -> None:
        async with await AgentRuntime.connect(daemon.path) as runtime:
            working = asyncio.ensure_future(runtime.execute_task("echo", "go"))
            await heard(daemon, lambda: bool(daemon.calls))
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            may_answer.set()
        assert daemon.asked("task.cancel") == [{"task": "t1"}]

    with ScriptedDaemon(tmp_path / "s", {"task.submit": submit, "task.cancel": DONE}) as daemon:
        run(test)


def test_a_command_that_loses_the_daemon_prints_which_task_to_wait_for(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.path) as runtime:
            with pytest.raises(Unreachable) as caught:
                await runtime.execute_task("echo", "go")
            assert caught.value.data["task"] == "t1"

    with ScriptedDaemon(tmp_path / "s", {"task.submit": QUEUED, "task.wait": leave}) as daemon:
        run(test)


def test_tasks_in_parallel_come_back_in_their_order_with_their_errors(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    at_once: list[int] = []
    open_tasks: set[object] = set()
    guard = threading.Lock()

    def submit(_caller: Caller, params: dict[str, object]) -> object:
        if params["agent"] == "nobody":
            raise NotFound("cannot find it")
        with guard:
            open_tasks.add(params["objective"])
            at_once.append(len(open_tasks))
        return {"id": params["objective"], "agent": params["agent"]}

    def wait(_caller: Caller, params: dict[str, object]) -> object:
        with guard:
            open_tasks.discard(params["task"])
        return DONE | {"id": params["task"], "output": params["task"]}

    async def test() -> None:
        tasks = [TaskParams(objective=f"{n}", agent="echo") for n in range(10)]
        given: list[TaskParams | dict[str, object]] = [
            *tasks,
            {"agent": "nobody", "objective": "x"},
            {"agent": "echo", "objective": "z"},
        ]
        async with await AgentRuntime.connect(daemon.path) as runtime:
            results = await runtime.execute_tasks_parallel(given, max_parallel=3)
            assert await runtime.execute_tasks_parallel([]) == []
            with pytest.raises(InvalidParams):
                await runtime.execute_tasks_parallel(given, max_parallel=0)
        assert [each.output for each in results if isinstance(each, Task)] == [*(f"{n}" for n in range(10)), "z"]
        assert [n for n, each in enumerate(results) if isinstance(each, CorralError)] == [10]
        assert max(at_once) <= 3

    with ScriptedDaemon(tmp_path / "s", {"task.submit": submit, "task.wait": wait}) as daemon:
        run(test)


def test_a_failed_task_raises_the_error_of_its_record(run: Callable[[Test], None], tmp_path: Path) -> None:
    error = {"code": TaskFailed.code, "name": "TaskFailed", "message": "cannot", "data": {"n": 1}}
    failed = QUEUED | {"state": "failed", "error": error}

    async def test() -> None:
        async with await AgentRuntime.connect(daemon.path) as runtime:
            assert (await runtime.execute_task("echo", "go")).state == "failed"
            with pytest.raises(TaskFailed) as caught:
                await runtime.run_agent("echo", "go")
            assert caught.value.data == {"task": "t1", "n": 1}

    with ScriptedDaemon(tmp_path / "s", {"task.submit": QUEUED, "task.wait": failed}) as daemon:
        run(test)
