"""`corral.Runtime`, for programs without asyncio, and what misuse of either runtime answers."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corral import (
    AgentRuntime,
    Conflict,
    CorralError,
    DaemonEvent,
    InvalidParams,
    NotFound,
    Runtime,
    TaskFailed,
    Unreachable,
)
from corral.worker.contract.codec import as_object
from daemon_process import AGENTS, BOUND_S, DaemonProcess

ENTRY = "crew_agent:agent"
PLACE = {"working_directory": str(AGENTS)}
CREW = {"entrypoint": ENTRY, "process": PLACE, "instances": 2}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("runtime"), "") as process:
        process.call("agent.add", name="crew", spec=CREW)
        yield process


@pytest.fixture
def runtime(daemon: DaemonProcess) -> Iterator[Runtime]:
    with Runtime.connect(daemon.socket) as connected:
        yield connected


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-P", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_agents_are_driven_without_asyncio(runtime: Runtime) -> None:
    assert runtime.spawn_agent("one", entrypoint=ENTRY, process=PLACE).state == "Ready"
    assert runtime.pause_agent("one").workers[0].paused
    assert runtime.resume_agents(["on*"]).names == ["one"]
    assert runtime.scale_agent("one", 2).workers[1].state == "Ready"
    output = as_object(runtime.run_agent("one", "echo", input=[1]))
    assert output is not None
    assert output["input"] == [1]
    runtime.put_memory("one", "k", {"a": 1})
    assert runtime.get_memory("one", "k").value == {"a": 1}
    assert runtime.add_team("pair", {"members": ["one"], "mode": "route"}).members == ["one"]
    assert runtime.remove_agent("one", cascade=True) == ["one", "pair"]
    with pytest.raises(NotFound):
        runtime.show_agent("one")


def test_what_runs_is_counted_by_attribute_and_by_key(runtime: Runtime) -> None:
    stats = runtime.get_runtime_stats()
    assert stats["agents"]["count"] == stats.agents.count == len(stats["agents"]["ids"]) > 0
    with pytest.raises(KeyError):
        stats["nothing"]
    assert not runtime.refresh_routes().changed


def test_a_retry_may_be_written_as_in_the_configuration(runtime: Runtime) -> None:
    retry = {"max_attempts": 2, "retry_on": "any", "retry_backoff_base": "10ms"}
    with pytest.raises(TaskFailed) as failed:
        runtime.run_agent("crew", "raise because", retry=retry)
    task = runtime.show_task(str(failed.value.data["task"]))
    assert task.retry is not None
    assert (task.attempt, task.retry.retry_backoff_base_s) == (2, 0.01)
    for wrong in ({"retry_backoff_base": "soon"}, {"retry_backoff_base": 1, "retry_backoff_base_s": 2}):
        with pytest.raises(InvalidParams) as caught:
            runtime.run_agent("crew", "echo", retry=wrong)
        assert caught.value.data["key"] == "retry.retry_backoff_base"
    with pytest.raises(InvalidParams, match="did you mean"):
        runtime.run_agent("crew", "echo", retry={"max_attempt": 2})


def test_a_task_runs_on_its_input_alone(runtime: Runtime) -> None:
    task = runtime.execute_task("crew", input=7)
    assert (task.state, task.objective, task.input) == ("succeeded", "", 7)
    (one,) = runtime.execute_tasks_parallel([{"agent": "crew", "input": 8}])
    assert not isinstance(one, CorralError)
    assert one.input == 8


def test_thirty_two_threads_share_one_runtime(runtime: Runtime) -> None:
    def work(number: int) -> list[object]:
        found = [runtime.execute_task("crew", "echo", input=[number, n]) for n in range(5)]
        return [task.input for task in found]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(work, range(32)))
    assert answers == [[[number, n] for n in range(5)] for number in range(32)]


def test_events_logs_and_a_task_are_iterated_over(runtime: Runtime) -> None:
    with runtime.events(["task.*"], agent="crew") as events:
        task = runtime.submit_task("crew", "echo", input="heron")
        followed = runtime.follow_task(task.id)
        types = [event.type for event in followed]
        assert types[-1] == "task.ended"
        assert followed.stream.task is not None
        assert followed.stream.task.state == "succeeded"
        assert next(event for event in events if event.type == "task.ended").fields["task"] == task.id
    with runtime.follow_logs(task=task.id, follow=False) as lines:
        assert "echoes heron" in [line["text"] for line in lines]
    with runtime.follow_logs(["crew"]) as lines:
        assert next(lines)["agent"] == "crew"


def test_an_event_reads_the_same_from_a_stream_and_a_list(runtime: Runtime) -> None:
    runtime.publish("spring.here", {"swallows": 1})
    with runtime.events(["spring.*"], n=1) as events:
        followed = next(iter(events))
    (listed,) = runtime.list_events(types=["spring.*"], n=1).events
    assert {key: followed[key] for key in listed} == listed
    assert (followed.get("data"), followed.get("nothing", 0)) == ({"swallows": 1}, 0)
    with pytest.raises(KeyError):
        followed["fields"]


def test_a_thread_that_waits_for_an_event_is_released_by_a_close(runtime: Runtime) -> None:
    events = runtime.events(["build.*"])
    runtime.publish("build.done")
    seen: list[str] = []
    first = threading.Event()

    def read() -> None:
        for event in events:
            seen.append(event.type)
            first.set()

    reading = threading.Thread(target=read)
    reading.start()
    assert first.wait(BOUND_S)
    events.close()
    reading.join(BOUND_S)
    assert not reading.is_alive()
    assert seen == ["build.done"]


def test_a_handler_gets_each_event_once_over_a_restart_of_the_daemon(tmp_path: Path) -> None:
    seen: list[object] = []
    all_seen = threading.Event()

    def handle(event: DaemonEvent) -> None:
        seen.append(event.fields["data"])
        if event.fields["data"] == 4:
            all_seen.set()
        if event.fields["data"] == 1:
            raise ValueError("a handler that fails")

    with DaemonProcess(tmp_path, "") as own, Runtime.connect(own.socket) as runtime:
        subscription = runtime.subscribe("build.*", handle)
        for number in range(3):
            runtime.publish("build.done", number)
        own.stop()
        own.start()
        for number in (3, 4):
            runtime.publish("build.done", number)
        assert all_seen.wait(BOUND_S)
        subscription.close()
        assert subscription.is_closed
        assert seen == [0, 1, 2, 3, 4]


def test_a_handler_that_is_a_coroutine_runs_in_the_loop(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            seen: asyncio.Queue[DaemonEvent] = asyncio.Queue()
            subscription = await runtime.subscribe(["build.*", "deploy.*"], seen.put)
            await runtime.publish("deploy.done", {"a": 1})
            async with asyncio.timeout(BOUND_S):
                assert (await seen.get()).fields["data"] == {"a": 1}
            await subscription.close()
            await runtime.publish("deploy.done")
            assert seen.empty()

    asyncio.run(test())


def test_a_handler_may_use_the_runtime(runtime: Runtime) -> None:
    found: list[str] = []
    done = threading.Event()

    def handle(_: DaemonEvent) -> None:
        found.append(runtime.agent_status("crew").name)
        done.set()

    with runtime.subscribe("build.*", handle):
        runtime.publish("build.done")
        assert done.wait(BOUND_S)
    assert found == ["crew"]


def test_a_daemon_of_its_own_is_gone_after_a_shutdown(tmp_path: Path) -> None:
    with Runtime.start(state_dir=tmp_path) as runtime:
        pid = runtime.daemon_pid
        assert pid is not None
        assert runtime.ping() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    runtime.shutdown()
    with pytest.raises(Unreachable) as caught:
        runtime.status()
    assert caught.value.data["reason"] == "closed"


def test_a_program_that_forgets_the_shutdown_ends_all_the_same() -> None:
    done = python(
        """
        from corral import Runtime
        runtime = Runtime.start()
        runtime.subscribe("*", lambda event: None)
        events = runtime.events()
        print(runtime.daemon_pid)
        """
    )
    # On a busy machine asyncio, being debugged, names what was slow.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing ")]
    assert (done.returncode, said) == (0, [])


def test_ctrl_c_ends_the_call_that_waits_and_cancels_its_task(daemon: DaemonProcess) -> None:
    code = """
        import sys
        from corral import Runtime
        runtime = Runtime.connect(sys.argv[1])
        try:
            runtime.run_agent("crew", "wait", on_progress=lambda p: print(p.task, flush=True))
        except KeyboardInterrupt:
            runtime.shutdown()
            print("interrupted")
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(code), str(daemon.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        task = program.stdout.readline().strip()
        program.send_signal(signal.SIGINT)
        rest, _ = program.communicate(timeout=BOUND_S)
    assert (program.returncode, rest.splitlines()[-1]) == (0, "interrupted")
    assert daemon.call("task.wait", task=task)["state"] == "cancelled"


# --- misuse ---------------------------------------------------------------------------------------


def reason_of(error: CorralError) -> object:
    return error.data["reason"]


def test_a_runtime_in_a_coroutine_is_refused(daemon: DaemonProcess, runtime: Runtime) -> None:
    async def test() -> None:
        with pytest.raises(Conflict) as made:
            Runtime.connect(daemon.socket)
        with pytest.raises(Conflict) as used:
            runtime.status()
        assert (reason_of(made.value), reason_of(used.value)) == ("in-loop", "in-loop")
        assert (await asyncio.to_thread(runtime.status)).agents

    asyncio.run(test())


def test_a_call_in_a_callback_of_the_loop_is_refused(runtime: Runtime) -> None:
    found: list[object] = []

    def note(_: object) -> None:
        try:
            runtime.ping()
        except Conflict as error:
            found.append(reason_of(error))

    task = runtime.submit_task("crew", "wait")
    watching = threading.Thread(target=lambda: runtime.wait_task(task.id, on_progress=note))
    watching.start()
    for _event in runtime.events(["task.*"], since=0, task=task.id):
        break
    runtime.cancel_task(task.id)
    watching.join(BOUND_S)
    assert found
    assert set(found) <= {"in-callback", "in-loop"}


def test_an_async_runtime_in_a_second_loop_is_refused(daemon: DaemonProcess) -> None:
    with asyncio.Runner() as first:
        runtime = first.run(AgentRuntime.connect(daemon.socket))
        with pytest.raises(Conflict) as caught:
            asyncio.run(runtime.status())
        assert reason_of(caught.value) == "second-loop"
        first.run(runtime.shutdown())
        with pytest.raises(Unreachable):
            first.run(runtime.status())


def test_a_runtime_in_a_forked_child_is_refused(daemon: DaemonProcess) -> None:
    done = python(
        """
        import os, sys, warnings
        from corral import Conflict, Runtime
        warnings.simplefilter("ignore")
        runtime = Runtime.connect(sys.argv[1])
        if (pid := os.fork()) == 0:
            try:
                runtime.ping()
            except Conflict as error:
                os._exit(7 if error.data["reason"] == "forked" else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), runtime.ping() is not None)
        runtime.shutdown()
        """,
        str(daemon.socket),
    )
    assert done.stdout.split() == ["7", "True"], done.stderr


def test_a_daemon_that_just_starts_is_waited_for(tmp_path: Path) -> None:
    connected: list[Runtime] = []
    socket = tmp_path / "corral.sock"
    waiting = threading.Thread(target=lambda: connected.append(Runtime.connect(socket, wait_s=BOUND_S)))
    waiting.start()
    with DaemonProcess(tmp_path, ""):
        waiting.join(BOUND_S)
        (runtime,) = connected
        assert runtime.ping() is not None
        runtime.shutdown()
    with pytest.raises(Unreachable):
        Runtime.connect(socket, wait_s=0.1)
