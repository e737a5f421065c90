"""A worker's life with the SDK: hooks, how it is started, how its tasks are cancelled, how it leaves."""

import asyncio
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from worker_peer import AGENTS, BEAT_S, BOUND_S, ROOT, WorkerPeer, never, on_loop, text_result

pytestmark = pytest.mark.shell

BOTH = pytest.mark.parametrize("agent", ["sdk_async", "sdk_sync"])
MIB = 1024 * 1024


# -- cancelling


@BOTH
@on_loop
async def test_a_cancelled_task_lets_go_and_withdraws_what_it_waits_for(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = never
        await peer.initialize()
        request_id = peer.start("wait")
        await peer.hear_request("tools/call")
        peer.cancel(request_id, "enough")
        error = await peer.fails(peer.answer(request_id))
        assert (error.code, error.data) == (-33010, {"reason": "enough"})
        await peer.until(lambda: len(peer.withdrawn) == 1)
        await peer.hear_stderr("let go")
        assert await peer.run("echo")


@on_loop
async def test_a_def_handler_sees_its_cancellation_and_its_next_call_raises() -> None:
    async with WorkerPeer.of("sdk_sync") as peer:
        await peer.initialize()
        request_id = peer.start("wait_for_cancel")
        await peer.hear("log", message="started")
        peer.cancel(request_id)
        assert (await peer.fails(peer.answer(request_id))).code == -33010
        await peer.hear_stderr("the call was refused")


@on_loop
async def test_a_def_handler_that_does_not_look_keeps_the_answer_until_it_ends(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hold = os.open(fifo, os.O_RDWR)
    try:
        async with WorkerPeer.of("sdk_sync") as peer:
            await peer.initialize()
            request_id = peer.start("hold", str(fifo))
            await peer.hear("log", message="started")
            peer.cancel(request_id)
            peer.cancel(request_id)
            assert await peer.request("ping") == {}
            peer.heard.clear()
            await peer.hear("heartbeat", busy=True)
            os.write(hold, b".")
            assert (await peer.fails(peer.answer(request_id))).code == -33010
    finally:
        os.close(hold)


@on_loop
async def test_a_handler_that_swallows_its_cancellation_is_cancelled_all_the_same() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        peer.answers["tools/call"] = never
        await peer.initialize()
        request_id = peer.start("swallow")
        await peer.hear_request("tools/call")
        peer.cancel(request_id)
        assert (await peer.fails(peer.answer(request_id))).code == -33010


# -- leaving


@BOTH
@on_loop
async def test_shutdown_lets_the_running_task_finish_and_takes_no_other(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        answered = asyncio.get_running_loop().create_future()

        async def answer(_: dict[str, object]) -> object:
            return await answered

        peer.answers["tools/call"] = answer
        await peer.initialize(limits={"max_concurrent_requests": 2})
        request_id = peer.start("wait")
        await peer.hear_request("tools/call")
        peer.shut_down(BOUND_S)
        assert (await peer.fails(peer.run("echo"))).code == -33007
        answered.set_result(text_result(""))
        assert await peer.output(request_id) == "done"
        assert await peer.exit_status() == 0
        assert b"bye from on_shutdown\n" in peer.stderr
        assert b"after run\n" in peer.stderr


@BOTH
@pytest.mark.parametrize("grace_s", [0, 0.5])
@on_loop
async def test_a_task_that_does_not_finish_in_the_grace_period_is_cancelled(agent: str, grace_s: float) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = never
        await peer.initialize()
        request_id = peer.start("wait")
        await peer.hear_request("tools/call")
        peer.shut_down(grace_s)
        assert (await peer.fails(peer.answer(request_id))).code == -33010
        assert await peer.exit_status() == 0
        assert b"bye from on_shutdown\n" in peer.stderr


@pytest.mark.parametrize(
    ("agent", "objective"),
    [
        ("sdk_async", "ignore_cancel"),
        ("sdk_async", "leave_thread_behind"),
        ("sdk_sync", "never_end"),
        ("sdk_sync", "spawn_thread"),
    ],
)
@on_loop
async def test_a_handler_that_cannot_be_ended_does_not_keep_the_worker(agent: str, objective: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        peer.start(objective)
        await peer.hear("log", message="started")
        peer.shut_down(0)
        assert await peer.exit_status() == 0
        assert b"bye from on_shutdown\n" in peer.stderr


@BOTH
@on_loop
async def test_the_daemons_end_ends_the_worker_whatever_runs(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        peer.answers["tools/call"] = never
        await peer.initialize()
        peer.start("wait")
        await peer.hear_request("tools/call")
        peer.close_stdin()
        assert await peer.exit_status() == 0


@on_loop
async def test_the_daemons_end_ends_a_worker_whose_thread_never_ends() -> None:
    async with WorkerPeer.of("sdk_sync") as peer:
        await peer.initialize()
        peer.start("never_end")
        await peer.hear("log", message="started")
        peer.close_stdin()
        assert await peer.exit_status() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@on_loop
async def test_a_signal_to_stop_is_a_shutdown(number: signal.Signals) -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        answered = asyncio.get_running_loop().create_future()

        async def answer(_: dict[str, object]) -> object:
            return await answered

        peer.answers["tools/call"] = answer
        await peer.initialize(limits={"max_concurrent_requests": 2})
        request_id = peer.start("wait")
        await peer.hear_request("tools/call")
        peer.process.send_signal(number)
        while (await peer.fails(peer.run("leave", "SystemExit"))).code != -33007:
            pass  # the signal is on its way
        await peer.hear_more("heartbeat", 20)  # longer than a worker without any grace would live
        answered.set_result(text_result(""))
        assert await peer.output(request_id) == "done"
        assert await peer.exit_status() == 0
        assert b"bye from on_shutdown\n" in peer.stderr


@BOTH
@on_loop
async def test_a_signal_to_what_a_handler_has_forked_is_not_one_to_the_worker(agent: str) -> None:
    async with WorkerPeer.of(agent) as peer:
        await peer.initialize()
        for _ in range(5):
            assert await peer.output(peer.start("end_child")) == -signal.SIGTERM


@on_loop
async def test_the_last_answer_is_whole_before_the_worker_leaves() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        await peer.initialize()
        request_id = peer.start("long", 4 * MIB)
        peer.shut_down(BOUND_S)
        assert await peer.output(request_id) == "x" * 4 * MIB
        assert await peer.exit_status() == 0


@on_loop
async def test_an_abort_shows_in_the_log_where_every_thread_was() -> None:
    async with WorkerPeer.of("sdk_sync") as peer:
        await peer.initialize()
        peer.start("never_end")
        await peer.hear("log", message="started")
        peer.process.send_signal(signal.SIGABRT)
        assert await peer.exit_status() == -signal.SIGABRT
        assert b"in never_end" in peer.stderr


# -- hooks


@pytest.mark.parametrize("kind", ["async", "sync"])
@on_loop
async def test_on_start_learns_everything_and_then_the_checkpoint_is_restored(kind: str) -> None:
    async with WorkerPeer.of("sdk_hooks", kind) as peer:
        peer.answers["event/subscribe"] = lambda _: {}
        limits = {"max_concurrent_requests": 1}
        await peer.initialize(config={"a": 1}, checkpoint={"seen": 7}, incarnation=4, limits=limits)
        start = {
            "agent": "tested",
            "worker": "tested-0",
            "incarnation": 4,
            "heartbeat_interval_s": BEAT_S,
            "limits": limits,
            "config": {"a": 1},
            "checkpoint": {"seen": 7},
            "fencing_token": None,
        }
        assert await peer.run() == [start, {"restored": {"seen": 7}}]
        assert await peer.request("checkpoint/save") == {"data": {"seen": 2}}
        assert await peer.request("checkpoint/restore", {"data": 5}) == {}
        output = await peer.run()
        assert isinstance(output, list)
        assert output[-1] == {"restored": 5}


@pytest.mark.parametrize(
    ("what", "code", "data"),
    [
        ("raise", -33008, {"exception": "OSError", "message": "the disk is gone"}),
        ("exit", -33008, {"exception": "SystemExit", "message": "5"}),
        ("raise typed", -33002, {"owner": "other"}),
    ],
)
@pytest.mark.parametrize("kind", ["async", "sync"])
@on_loop
async def test_a_worker_whose_on_start_fails_says_why_and_ends(kind: str, what: str, code: int, data: object) -> None:
    async with WorkerPeer.of("sdk_hooks", kind) as peer:
        error = await peer.fails(peer.initialize(config={"on_start": what}))
        place = str(error.data.pop("place", "sdk_hooks.py, "))
        assert (error.code, error.data) == (code, data)
        assert place.startswith("sdk_hooks.py, ")
        assert await peer.exit_status() == 1
        assert b"Traceback" in peer.stderr


@pytest.mark.parametrize(("kind", "types"), [("async", ["build.*", "deploy.*"]), ("sync", ["*"])])
@on_loop
async def test_subscribed_events_arrive_in_order(kind: str, types: list[str]) -> None:
    async with WorkerPeer.of("sdk_hooks", kind) as peer:
        peer.answers["event/subscribe"] = lambda _: {}
        await peer.initialize()
        assert await peer.hear_request("event/subscribe") == {"types": types}
        for data in ("raise", 2, 3):
            peer.notify("event", {"type": "build.x", "data": data, "from": "a", "at": "now"})
        await peer.hear_stderr("a bad event")
        heard: list[object] = []
        while len(heard) < 4:
            output = await peer.run()
            assert isinstance(output, list)
            heard = cast("list[object]", output)
        assert heard[1:] == [["build.x", data, "a", "now"] for data in ("raise", 2, 3)]


@pytest.mark.parametrize("how", ["exit", "cancelled"])
@pytest.mark.parametrize("kind", ["async", "sync"])
@on_loop
async def test_a_hook_that_exits_or_is_cancelled_ends_neither_the_worker_nor_its_hearing(kind: str, how: str) -> None:
    async with WorkerPeer.of("sdk_hooks", kind) as peer:
        peer.answers["event/subscribe"] = lambda _: {}
        await peer.initialize()
        for data in (how, "next"):
            peer.notify("event", {"type": "build.x", "data": data, "from": "a", "at": "now"})
        await peer.hear_stderr("a bad e")
        heard: list[object] = []
        while len(heard) < 3:
            heard = cast("list[object]", await peer.run())
        assert heard[2] == ["build.x", "next", "a", "now"]


@on_loop
async def test_a_worker_is_subscribed_to_what_all_its_hooks_want_before_it_is_ready() -> None:
    async with WorkerPeer.of("gossip") as peer:
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        peer.answers["event/publish"] = lambda _: {}
        peer.answers["event/subscribe"] = lambda _: answered
        starting = asyncio.create_task(peer.initialize())
        types = cast("list[str]", (await peer.hear_request("event/subscribe"))["types"])
        assert set(types) >= {"ping.*", "pong.*", "ask.tool", "trouble", "events.skipped"}
        assert len(types) == len(set(types))
        peer.notify("event", {"type": "told.early", "data": 1, "from": "a", "at": "now"})
        assert not starting.done()
        answered.set_result({})
        await starting
        heard: object = []
        while not heard:
            heard = await peer.run("heard")
        assert heard == [["told.early", 1, "a"]]


@on_loop
async def test_a_hook_that_wants_it_learns_what_the_daemon_left_out() -> None:
    async with WorkerPeer.of("gossip") as peer:
        peer.answers["event/publish"] = lambda _: {}
        peer.answers["event/subscribe"] = lambda _: {}
        await peer.initialize()
        left_out = {"type": "events.skipped", "data": {"count": 7}, "from": "corrald", "at": "now"}
        peer.notify("event", {**left_out})
        await peer.hear_stderr("7 events")
        heard: object = []
        while not heard:
            heard = await peer.run("heard")
        assert heard == [["events.skipped", {"count": 7}, "corrald"]]


@on_loop
async def test_an_agent_without_hooks_saves_nothing_and_restores_nothing() -> None:
    async with WorkerPeer.of("sdk_async") as peer:
        assert (await peer.fails(peer.request("checkpoint/save"))).code == -33006
        await peer.initialize(checkpoint={"old": 1})
        assert await peer.request("checkpoint/save") == {"data": None}
        assert (await peer.fails(peer.request("checkpoint/restore", {"data": 1}))).code == -32601


# -- how it is started


@on_loop
async def test_an_entrypoint_is_imported_with_its_stdout_safe_and_then_run() -> None:
    command = [sys.executable, "-P", "-m", "corral.worker", "sdk_loaded:Nested.agent"]
    async with WorkerPeer(command) as peer:
        assert (await peer.initialize())["name"] == "loaded"
        assert await peer.run() == "sdk_loaded"
        await peer.hear_stderr("imported to the end")
        await peer.hear_stderr("written while it was imported")
        assert peer.foreign == []
        peer.shut_down(1)
        assert await peer.exit_status() == 0


@on_loop
async def test_the_working_directory_of_an_entrypoint_shadows_nothing(tmp_path: Path) -> None:
    shutil.copy(AGENTS / "sdk_loaded.py", tmp_path / "sdk_loaded.py")
    for name in ("asyncio", "json", "mcp", "worker"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the author')\n")
    command = [sys.executable, "-P", "-m", "corral.worker", "sdk_loaded:agent"]
    async with WorkerPeer(command, cwd=tmp_path) as peer:
        await peer.initialize()
        assert await peer.run() == "sdk_loaded"


@pytest.mark.parametrize(
    ("entrypoint", "status", "word"),
    [
        ("no_such_module:agent", 1, "ModuleNotFoundError"),
        ("sdk_loaded:nobody", 1, "AttributeError"),
        ("sdk_loaded:not_an_agent", 1, "TypeError"),
        ("sdk_broken:agent", 1, "ZeroDivisionError"),
        ("sdk_leaves:agent", 1, "SystemExit"),
        ("sdk_loaded", 2, "usage"),
        (":agent", 2, "usage"),
    ],
)
def test_an_entrypoint_that_cannot_be_loaded_ends_with_one_line_and_its_traceback(
    tmp_path: Path, entrypoint: str, status: int, word: str
) -> None:
    shutil.copy(AGENTS / "sdk_loaded.py", tmp_path / "sdk_loaded.py")
    (tmp_path / "sdk_broken.py").write_text("1 / 0\n")
    (tmp_path / "sdk_leaves.py").write_text("raise SystemExit(0)\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "corral.worker", entrypoint],
        cwd=tmp_path,
        input=b"",
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, b"")
    assert any(word.encode() in line for line in done.stderr.splitlines())
    assert (b"Traceback" in done.stderr) == (status == 1)


def test_an_agent_started_by_hand_says_how_to_run_it() -> None:
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-P", AGENTS / "sdk_sync.py"],
            stdin=terminal,
            capture_output=True,
            timeout=BOUND_S,
            check=False,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1


def test_importing_the_sdk_imports_neither_asyncio_nor_json() -> None:
    code = (
        "import sys; from corral.worker import *; "
        "print([m for m in ('asyncio', 'json', 'msgspec', 'inspect', 'logging') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


@on_loop
async def test_the_sdk_runs_on_the_standard_library_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "corral", tmp_path / "corral")
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); "
        f"runpy.run_path({str(AGENTS / 'sdk_async.py')!r}, run_name='__main__')"
    )
    async with WorkerPeer([sys.executable, "-I", "-S", "-c", code]) as peer:
        peer.answers["tools/call"] = lambda _: text_result("yes")
        await peer.initialize()
        assert await peer.run("tool_unchecked") == [False, "yes"]
        assert (await peer.fails(peer.run("unspeakable"))).code == -33013
        assert await peer.run("modules", ["msgspec", "uvloop", "psutil", "click"]) == []
        peer.shut_down(1)
        assert await peer.exit_status() == 0
