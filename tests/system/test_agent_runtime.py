"""`corral.AgentRuntime` with real daemons: one that is there, and those that a program has for itself."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from corral import AgentRuntime, Conflict, InvalidParams, NotFound, SpawnFailed, Task, TaskFailed, Timeout, Unreachable
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CLASSES
from corral.worker.contract.records import InstancesStatus
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess, marked

EXAMPLE = Path(__file__).parents[2] / "examples" / "embedded" / "summary.py"

ENTRY = "crew_agent:agent"
PLACE = {"working_directory": str(AGENTS)}
CREW = {"entrypoint": ENTRY, "process": PLACE}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("runtime"), "") as process:
        process.call("agent.add", name="crew", spec=CREW)
        yield process


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * BOUND_S):
            await test()

    asyncio.run(bounded())


def python(code: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
        **more,
    )


# --- the package ----------------------------------------------------------------------------------


def test_to_import_corral_costs_next_to_nothing() -> None:
    done = python(
        """
        import sys
        before = set(sys.modules)
        import corral
        print(sorted(name for name in set(sys.modules) - before))
        assert corral.AgentRuntime is corral.AgentRuntime
        """
    )
    assert done.returncode == 0, done.stderr
    assert "asyncio" not in done.stdout
    assert "msgspec" not in done.stdout


def test_every_name_of_the_package_is_there_and_no_other() -> None:
    for name in corral.__all__:
        assert getattr(corral, name) is not None
        assert name in dir(corral)
    with pytest.raises(AttributeError):
        _ = corral.nonsense  # type: ignore[attr-defined]  # it is not there
    of_wire = {"ParseError", "InvalidRequest", "MethodNotFound"}  # mistakes that the runtime does not make
    assert {each.__name__ for each in CLASSES.values()} - of_wire <= set(corral.__all__)


# --- a daemon that is there -----------------------------------------------------------------------


def test_agents_are_added_started_stopped_and_removed(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            status = await runtime.spawn_agent("one", entrypoint=ENTRY, process=PLACE, instances=2)
            assert (status.state, len(status.workers)) == ("Ready", 2)
            assert (await runtime.stop_agent("one")).state == "Terminated"
            assert (await runtime.start_agent("one")).state == "Ready"
            assert (await runtime.restart_agent("one-0")).name == "one"
            with pytest.raises(Conflict):
                await runtime.register_agent("one", entrypoint=ENTRY, process=PLACE)
            assert await runtime.remove_agent("one") == ["one"]
            with pytest.raises(NotFound):
                await runtime.agent_status("one")
            registered = await runtime.register_agent("two", entrypoint=ENTRY, process=PLACE)
            assert (registered.state, registered.wanted) == ("Initial", False)
            with pytest.raises(InvalidParams) as caught:
                await runtime.spawn_agent("three", command=["true"], nonsense=1)
            assert caught.value.data["key"] == "agents.three.nonsense"
            with pytest.raises(SpawnFailed):
                await runtime.spawn_agent("four", command=["/nonexistent"])
            assert await runtime.remove_agent("four") == ["four"]
            await runtime.remove_agent("two")
            names = [each.name for each in (await runtime.status()).agents]
            assert names == ["crew"]

    run(test)


def test_an_agent_runs_and_its_errors_are_those_of_the_table(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            output = await runtime.run_agent("crew", "echo", input={"a": [1, "ü"]}, priority=9)
            assert (as_object(output) or {})["input"] == {"a": [1, "ü"]}
            with pytest.raises(TaskFailed) as failed:
                await runtime.run_agent("crew", "raise because")
            assert failed.value.data["exception"] == "ValueError"
            with pytest.raises(Timeout):
                await runtime.run_agent("crew", "wait", timeout_s=0.1)
            with pytest.raises(NotFound):
                await runtime.execute_task("nobody", "x")
            task = await runtime.execute_task(None, "echo", capability="anything")
            assert (task.agent, task.state) == ("crew", "succeeded")
            assert await runtime.show_task(task.id) == task
            assert task in await runtime.list_tasks(agent="crew", state="succeeded")

    run(test)


def test_a_task_that_was_submitted_is_followed_waited_for_and_cancelled(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            said: asyncio.Queue[str] = asyncio.Queue()
            task = await runtime.submit_task("crew", "wait")
            waiting = asyncio.ensure_future(
                runtime.wait_task(task.id, on_progress=lambda p: said.put_nowait(p.message))
            )
            while await said.get() != "waits":
                pass
            with pytest.raises(Timeout):
                await runtime.wait_task(task.id, timeout_s=0.05)
            assert (await runtime.cancel_task(task.id)).state == "cancelled"
            assert (await waiting).state == "cancelled"

    run(test)


def test_a_cancelled_execution_ends_its_task_in_the_daemon(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            async with runtime.events(["task.*"], agent="crew") as events:
                working = asyncio.ensure_future(runtime.execute_task("crew", "wait"))
                async for each in events:
                    if each.type == "task.progress":
                        working.cancel()
                    if each.type == "task.ended":
                        assert each.fields["state"] == "cancelled"
                        break
            with pytest.raises(asyncio.CancelledError):
                await working

    run(test)


def test_many_tasks_at_once_come_back_in_their_order(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            tasks: list[dict[str, object]] = [{"agent": "crew", "objective": "echo", "input": n} for n in range(200)]
            tasks[7] = {"agent": "nobody", "objective": "echo"}
            results = await runtime.execute_tasks_parallel(tasks, max_parallel=20)
        outputs = [(as_object(each.output) or {})["input"] if isinstance(each, Task) else None for each in results]
        assert outputs == [None if n == 7 else n for n in range(200)]
        assert isinstance(results[7], NotFound)

    run(test)


def test_teams_and_workflows_are_added_run_counted_and_removed(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            await runtime.add_team("pair", {"members": ["crew"], "mode": "broadcast"})
            steps = [{"name": "one", "agent": "crew", "objective": "echo"}]
            await runtime.add_workflow("line", {"steps": steps})
            assert await runtime.run_team("pair", "echo", input=1) is not None
            assert await runtime.run_workflow("line", "echo", input=1) is not None
            told = await runtime.get_statistics()
            assert (told.teams["pair"].executor.ok, told.workflows["line"].executor.ok) == (1, 1)
            assert told.teams["pair"].runtime.spawned == 0
            with pytest.raises(Conflict):
                await runtime.add_team("crew", {"members": ["crew"], "mode": "broadcast"})
            assert await runtime.remove_workflow("line") == ["line"]
            assert await runtime.remove_team("pair") == ["pair"]
            with pytest.raises(NotFound):
                await runtime.get_statistics(["pair"])

    run(test)


async def read_by(runtime: AgentRuntime, diarist: str) -> object:
    output = as_object(await runtime.run_agent(diarist, "read"))
    assert output is not None
    return output["pages"]


def test_a_new_agent_goes_on_where_the_old_one_stood(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            diarist = "diarist_agent:agent"
            await runtime.spawn_agent("old", entrypoint=diarist, process=PLACE)
            await runtime.run_agent("old", "write", input="dear diary")
            saved = await runtime.save_state("old")
            await runtime.register_agent("new", entrypoint=diarist, process=PLACE)
            assert await runtime.restore_agent(saved, "new", start=False) == "new"
            assert (await runtime.agent_status("new")).state == "Initial"
            assert await runtime.restore_agent(saved, "new") == "new"
            assert (await read_by(runtime, "new")) == ["dear diary"]
            asleep = await runtime.hibernate_agent("new")
            assert asleep.workers[0].pid is None
            assert (await runtime.wake_agent("new")).state == "Ready"
            assert (await read_by(runtime, "new")) == ["dear diary"]
            with pytest.raises(NotFound):
                await runtime.restore_agent(2**60, "new")
            await runtime.spawn_agent("many", entrypoint=diarist, process=PLACE, instances=2)
            assert (await runtime.agent_status("many")).instances == InstancesStatus(2, 2)
            with pytest.raises(Conflict) as caught:
                await runtime.save_state("many")
            assert len(caught.value.data["checkpoints"]) == 2  # type: ignore[arg-type]  # a list
            for name in ("old", "new", "many"):
                await runtime.remove_agent(name)
            assert await runtime.restore_agent(saved) == "old"
            assert await read_by(runtime, "old") == ["dear diary"]
            assert await runtime.restore_agent(saved, "third", start=False) == "third"
            third = [each for each in (await runtime.list_agents()).agents if each.name == "third"]
            assert third[0].workers[0].pid is None
            await runtime.start_agent("third")
            assert await read_by(runtime, "third") == ["dear diary"]
            for name in ("old", "third"):
                await runtime.remove_agent(name)

    run(test)


def test_statistics_and_resources_are_typed_records(daemon: DaemonProcess) -> None:
    async def test() -> None:
        async with await AgentRuntime.connect(daemon.socket) as runtime:
            before = await runtime.get_statistics(["crew"])
            await runtime.run_agent("crew", "echo")
            after = await runtime.get_statistics(["crew"])
            assert after.executor.ok == before.executor.ok + 1
            assert after.agents["crew"].executor.ok == before.agents["crew"].executor.ok + 1
            used = await runtime.get_resource_usage("crew")
            assert (used.processes, list(used.parts)) == (1, ["crew-0"])
            assert used.cpu_ms is not None
            assert used.cpu_ms > 0
            assert used.limits["tasks.max_queue_size"] == 10_000
            whole = await runtime.get_resource_usage()
            assert whole.tokens >= used.tokens
            assert {"crew", "cortex"} <= set(whole.parts)
            with pytest.raises(NotFound):
                await runtime.get_resource_usage("nobody")

    run(test)


# --- a daemon of one's own ------------------------------------------------------------------------


def test_an_embedded_daemon_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    async def test() -> None:
        async with AgentRuntime.start() as runtime:
            folder = Path(runtime.socket).parent
            assert runtime.daemon_pid is not None
            status = await runtime.spawn_agent("crew", entrypoint=ENTRY, process=PLACE)
            assert status.workers[0].pid is not None
            pids.extend([runtime.daemon_pid, status.workers[0].pid])
            folders.append(folder)
            assert (await runtime.execute_task("crew", "echo")).state == "succeeded"
        with pytest.raises(Unreachable):
            await runtime.status()

    pids: list[int] = []
    folders: list[Path] = []
    run(test)
    assert not folders[0].exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert marked(folders[0]) == []


def test_an_embedded_daemon_with_a_state_folder_knows_its_tasks_the_next_time(tmp_path: Path) -> None:
    text = 'quo"te\n\\ \x7f ü \u2028'
    config: dict[str, object] = {
        "agents": {"crew": {**CREW, "config": {"text": text}, "tools": ("a__*",)}},
        "daemon": {"log_level": "warning"},
        "tasks": {"max_attempts": 2},
    }

    async def first() -> str:
        async with AgentRuntime.start(config, tmp_path / "state") as runtime:
            await runtime.start_agent("crew")
            return (await runtime.execute_task("crew", "echo", input=1)).id

    async def test() -> None:
        task = await first()
        async with AgentRuntime.start(config, tmp_path / "state") as runtime:
            assert (await runtime.show_task(task)).state == "succeeded"
            shown = as_object(await runtime.call("agent.show", name="crew")) or {}
            spec = as_object(shown["spec"]) or {}
            assert (spec["config"], spec["tools"]) == ({"text": text}, ["a__*"])

    run(test)
    assert (tmp_path / "state").is_dir()


def test_a_wrong_configuration_of_an_embedded_daemon_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(InvalidParams):
            async with AgentRuntime.start({"daemon": {"nonsense": 1}}):
                pass
        with pytest.raises(InvalidParams) as refused:
            async with AgentRuntime.start({"daemon": {"log_level": object()}}):
                pass
        assert refused.value.data["key"] == "daemon.log_level"
        file = tmp_path / "corral.toml"
        file.write_text("[daemon\n")
        with pytest.raises(InvalidParams):
            async with AgentRuntime.start(file):
                pass
        blocked = tmp_path / "blocked"
        blocked.write_text("")
        with pytest.raises(SpawnFailed):
            async with AgentRuntime.start(None, blocked):
                pass

    run(test)


PROGRAM = f"""
import asyncio, os, sys
from corral import AgentRuntime

async def main():
    async with AgentRuntime.start() as runtime:
        status = await runtime.spawn_agent("crew", entrypoint="crew_agent:agent",
            process={{"working_directory": {str(AGENTS)!r}}})
        holder = os.fork() if "fork" in sys.argv else None
        if holder == 0:  # a child without an exec holds all that its parent had open
            os.setsid()
            import signal
            signal.pause()
        print(runtime.daemon_pid, status.workers[0].pid, os.path.dirname(runtime.socket), holder or 0, flush=True)
        if "leave" in sys.argv:
            os._exit(0)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["kill", "fork", "leave"])
def test_an_embedded_daemon_ends_with_its_program_however_that_ends(end: str) -> None:
    with subprocess.Popen([sys.executable, "-P", "-c", PROGRAM, end], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        words = program.stdout.readline().split()
        daemon, worker, holder = int(words[0]), int(words[1]), int(words[3])
        if end == "leave":
            program.wait(BOUND_S)
        else:
            watched = [os.pidfd_open(pid) for pid in (daemon, worker)]
            program.kill()
            for fd in watched:
                assert select.select([fd], [], [], BOUND_S)[0], "it outlives its program"
                os.close(fd)
        for pid in (daemon, worker):
            wait_gone(pid)
    if holder:
        os.kill(holder, signal.SIGKILL)
    assert not Path(words[2]).exists()


def wait_gone(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], BOUND_S)[0], "it outlives its program"
    os.close(fd)


def test_ctrl_c_is_the_programs_and_the_daemon_is_stopped_in_order() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        words = program.stdout.readline().split()
        assert os.getsid(int(words[0])) == int(words[0])
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait(BOUND_S) != 0
    assert not Path(f"/proc/{words[0]}").exists()
    assert not Path(words[2]).exists()


def test_a_daemon_whose_lifeline_is_closed_ends_while_its_program_lives(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    theirs, ours = os.pipe()
    options = (f"--lifeline={theirs}", f"--scratch={scratch}", f"--state-dir={scratch}/state")
    with subprocess.Popen([str(BIN / "corrald"), f"--socket={scratch}/s", *options], pass_fds=(theirs,)) as daemon:
        os.close(theirs)
        os.close(ours)
        try:
            assert daemon.wait(BOUND_S) == 0
        finally:
            daemon.kill()
    assert not scratch.exists()


def test_a_lifeline_that_is_not_open_is_a_wrong_option(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "corrald"), "--lifeline=999", f"--socket={tmp_path}/s"],
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 2


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLE), "a crew of agents", "", "one"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "4 words, the longest is agents"
    assert lines[1].startswith("failed: ")
    assert lines[3] == "2 of 3 tasks succeeded"


def test_the_document_names_every_method() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "python.md").read_text("utf-8")
    methods = [name for name in vars(AgentRuntime) if not name.startswith("_")]
    assert [name for name in methods if f"`{name}" not in text] == []
