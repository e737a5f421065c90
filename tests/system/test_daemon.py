"""The daemon as a whole: what it does when programs, people and machines misbehave."""

import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from corral.worker.contract.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
    SpawnFailed,
    Timeout,
)
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess, marked

RAW = AGENTS / "raw_worker.py"


def raw(name: str, fault: str, more: str = "") -> str:
    return f'[agents.{name}]\ncommand = ["{sys.executable}", "{RAW}", "{fault}"]\n{more}\n'


QUICK = 'recovery.restart_backoff_base = "10ms"'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    config = "".join(
        (
            raw("exits", "exit", f"autostart = false\n{QUICK}"),
            raw("silent", "silent", 'autostart = false\nprocess.spawn_timeout = "300ms"\nrecovery.restart = "never"'),
            raw("garbage", "garbage"),
            raw("chatter", "only-garbage", 'autostart = false\nprocess.spawn_timeout = "1s"\nrecovery.restart = "never"'),
            raw("future", "version", "autostart = false"),
            raw("deaf", "deaf", 'autostart = false\nprocess.shutdown_grace_period = "400ms"'),
            raw("litter", "litter", 'autostart = false\nprocess.shutdown_grace_period = "1s"'),
            raw("still", "garbage", 'autostart = false\nmonitoring.heartbeat_interval = "100ms"\nmonitoring.heartbeat_timeout = "600ms"'),
            '[agents.missing]\ncommand = ["no-such-program"]\nautostart = false\n',
            '[agents.plain]\ncommand = ["sleep", "600"]\nprotocol = "none"\nautostart = false\n',
            '[agents.after]\ncommand = ["sleep", "600"]\nprotocol = "none"\nautostart = false\nrequires = ["plain"]\n',
            '[mcp.servers.git]\ncommand = ["mcp-server-git"]\nautostart = false\n',
        )
    )  # fmt: skip
    with DaemonProcess(tmp_path_factory.mktemp("daemon"), config) as process:
        yield process


# -- starts


def test_a_worker_that_exits_at_once_is_restarted_three_times_and_then_given_up(daemon: DaemonProcess) -> None:
    with pytest.raises(SpawnFailed) as failure:
        daemon.call("agent.start", names=["exits"])
    assert failure.value.data["code"] == 3
    worker = daemon.await_worker("exits-0", lambda w: w["state"] == "Terminated" and w["incarnation"] == 4)
    assert worker["last_exit"]["result"] == "restart-limit"
    assert worker["incarnation"] == 4
    assert worker["restarts"] == 3
    assert "the last words" in worker["last_exit"]["message"]
    daemon.call("agent.reset", names=["exits"])
    again = daemon.await_worker("exits-0", lambda w: w["state"] == "Terminated" and w["incarnation"] == 8)
    assert again["last_exit"]["result"] == "restart-limit"


def test_a_worker_that_never_becomes_ready_is_a_start_timeout(daemon: DaemonProcess) -> None:
    for name in ("silent", "chatter"):
        with pytest.raises(Timeout):
            daemon.call("agent.start", names=[name])
        assert daemon.worker(f"{name}-0")["last_exit"]["result"] == "start-timeout"


def test_garbage_between_messages_goes_to_the_log_and_harms_nothing(daemon: DaemonProcess) -> None:
    daemon.await_worker("garbage-0", lambda w: w["state"] in ("Ready", "Idle"))
    assert daemon.call("task.run", agent="garbage", objective="x")["output"] == "done"
    lines = daemon.call("log.read", names=["garbage"], stream="stdout")["records"]
    assert [line["text"] for line in lines][1:4] == ["[1,2]", "{}", "null"]


def test_a_missing_program_is_not_tried_again(daemon: DaemonProcess) -> None:
    with pytest.raises(SpawnFailed) as failure:
        daemon.call("agent.start", names=["missing"])
    assert failure.value.data["result"] == "exec-failed"
    worker = daemon.worker("missing-0")
    assert (worker["state"], worker["restarts"]) == ("Terminated", 0)


def test_starts_that_are_taken_back_leave_no_descriptors(daemon: DaemonProcess) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))

    params = {"names": ["future"]}
    before = open_files()
    with daemon.client() as client:
        for _ in range(20):
            client.call("agent.start", {**params, "wait": False}, timeout_s=BOUND_S)
            client.call("agent.stop", params, timeout_s=BOUND_S)
    # Pipes of a dead worker are read for a while, which other tests' workers are, too: never 20 of them.
    assert open_files() < before + 20


def test_a_worker_of_another_protocol_version_is_refused(daemon: DaemonProcess) -> None:
    with pytest.raises(SpawnFailed) as failure:
        daemon.call("agent.start", names=["future"])
    assert failure.value.data["result"] == "exec-failed"
    assert daemon.worker("future-0")["restarts"] == 0


def test_what_requires_another_starts_after_it(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["after"])
    states = {
        (event["worker"], event["to"]): event["seq"]
        for event in daemon.call("event.list", types=["worker.state"])["events"]
    }
    assert states["plain-0", "Ready"] < states["after-0", "Starting"]
    daemon.call("agent.stop", names=["after", "plain"])


def test_what_requires_something_that_does_not_come_up_says_so(tmp_path: Path) -> None:
    config = f"""
        [agents.missing]
        command = ["{tmp_path}/program"]
        protocol = "none"
        autostart = false
        [agents.after]
        command = ["sleep", "600"]
        protocol = "none"
        autostart = false
        requires = ["missing"]
        """
    with DaemonProcess(tmp_path, config) as daemon:
        with pytest.raises(SpawnFailed) as failure:
            daemon.call("agent.start", names=["after"])
        assert failure.value.data["worker"] == "missing-0"
        (tmp_path / "program").write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / "program").chmod(0o755)
        daemon.call("agent.start", names=["after"])  # which tries again what it requires
        assert daemon.worker("after-0")["state"] == "Ready"


def test_a_restart_reports_a_failure_while_another_worker_was_still_ending(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.symlink_to("/bin/sleep")
    config = f'[agents.gone]\ncommand = ["{program}", "600"]\nprotocol = "none"\n' + raw(
        "deaf", "deaf", 'process.shutdown_grace_period = "1s"'
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", all=False, names=["gone", "deaf"])
        program.unlink()
        with pytest.raises(SpawnFailed) as failure:
            daemon.call("agent.restart", names=["deaf", "gone"])
        assert failure.value.data["worker"] == "gone-0"


def test_room_that_a_failed_start_leaves_is_used(tmp_path: Path) -> None:
    config = """
        process.max_concurrent_processes = 1
        [agents.missing]
        command = ["no-such-program"]
        [agents.waits]
        command = ["sleep", "600"]
        protocol = "none"
        """
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("waits-0", lambda w: w["state"] == "Ready")


def test_more_processes_than_the_limit_are_refused_as_a_whole(tmp_path: Path) -> None:
    config = "process.max_concurrent_processes = 2\n" + "".join(
        f'[agents.s{n}]\ncommand = ["sleep", "600"]\nprotocol = "none"\n' for n in range(3)
    )
    with DaemonProcess(tmp_path, config) as daemon:
        states = [daemon.worker(f"s{n}-0")["state"] for n in range(3)]
        assert states.count("Initial") == 1
        with pytest.raises(ResourceLimitExceeded):
            daemon.call("agent.start", names=["s2"])
        with pytest.raises(ResourceLimitExceeded):
            daemon.call("agent.scale", name="s0", instances=5)
        daemon.call("agent.stop", names=["s0"])
        daemon.await_worker("s2-0", lambda w: w["state"] == "Ready")  # there is room now


def test_room_for_several_at_once_is_taken_by_all_of_them(tmp_path: Path) -> None:
    agents = "".join(f'[agents.s{n}]\ncommand = ["sleep", "600"]\nprotocol = "none"\n' for n in range(5))
    with DaemonProcess(tmp_path, f"process.max_concurrent_processes = 1\n{agents}") as daemon:
        daemon.config.write_text(f"process.max_concurrent_processes = 5\n{agents}")
        daemon.call("daemon.reload")
        for n in range(5):
            daemon.await_worker(f"s{n}-0", lambda w: w["state"] == "Ready")


# -- tasks


def test_an_error_that_an_agent_returns_is_not_its_death(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, raw("blames", "blames", QUICK)) as daemon:
        daemon.call("agent.start", names=["blames"])
        task = daemon.call("task.run", agent="blames", objective="x")
        assert (task["state"], task["attempt"]) == ("failed", 1)
        assert task["error"]["name"] == "WorkerFailed"
        assert daemon.worker("blames-0")["incarnation"] == 1


def test_a_worker_that_closed_its_pipe_is_given_no_tasks(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, raw("mute", "mute", "instances = 2")) as daemon:
        daemon.call("agent.start", names=["mute"])
        tasks = [daemon.call("task.run", agent="mute", objective="x") for _ in range(5)]
        assert {task["state"] for task in tasks} == {"succeeded"}
        # The first may have been on its way when the pipe was closed.
        assert {(task["worker"], task["attempt"]) for task in tasks[1:]} == {("mute-1", 1)}
        assert daemon.worker("mute-0")["incarnation"] == 1


# -- ends


def test_an_end_is_reported_once_whatever_is_learned_of_it_later(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["litter"])
    daemon.call("agent.stop", names=["litter"])
    exits = daemon.call("agent.show", name="litter")["exits"]
    assert len({each["incarnation"] for each in exits}) == len(exits)


def test_a_stop_that_is_ignored_ends_in_a_kill_and_says_so(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["deaf"])
    pid = daemon.worker("deaf-0")["pid"]
    daemon.call("agent.stop", names=["deaf"])
    worker = daemon.worker("deaf-0")
    assert worker["state"] == "Terminated"
    assert worker["last_exit"]["result"] == "stopped"
    assert worker["last_exit"]["forced"] is True
    assert not Path(f"/proc/{pid}").exists()


def test_a_stop_returns_when_the_whole_tree_is_gone(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["litter"])
    pid = daemon.worker("litter-0")["pid"]
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(children) == 3
    daemon.call("agent.stop", names=["litter"])
    assert not any(Path(f"/proc/{each}").exists() for each in (pid, *children))
    assert daemon.worker("litter-0")["last_exit"]["forced"] is True


def test_a_killed_worker_is_replaced_after_its_processes_have_ended(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["litter"])
    before = daemon.worker("litter-0")
    pid = before["pid"]
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(pid, signal.SIGKILL)
    after = daemon.await_worker(
        "litter-0", lambda w: w["incarnation"] > before["incarnation"] and w["state"] == "Ready"
    )
    assert after["pid"] != pid
    assert not any(Path(f"/proc/{each}").exists() for each in children)
    exits = daemon.call("agent.show", name="litter")["exits"]
    assert exits[0]["signal"] == "SIGKILL"
    daemon.call("agent.stop", names=["litter"])


def test_a_worker_that_stops_beating_is_hung_and_replaced(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["still"])  # it never beats at all
    worker = daemon.await_worker("still-0", lambda w: w["incarnation"] >= 2)
    assert worker["last_exit"]["result"] == "hung"
    daemon.call("agent.stop", names=["still"])


def test_a_daemon_that_was_stopped_itself_holds_nobody_for_hung(tmp_path: Path) -> None:
    config = f"""
        [agents.crew]
        entrypoint = "crew_agent:agent"
        process.working_directory = "{AGENTS}"
        monitoring.heartbeat_interval = "200ms"
        monitoring.heartbeat_timeout = "2s"
        """
    with DaemonProcess(tmp_path, config) as daemon:
        before = daemon.await_worker("crew-0", lambda w: w["state"] == "Ready")
        os.kill(daemon.pid, signal.SIGSTOP)
        # The subject is time that passes while the daemon does not run: nothing can be waited for.
        subprocess.run(["sleep", "4"], check=True)
        os.kill(daemon.pid, signal.SIGCONT)
        assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
        assert daemon.worker("crew-0")["incarnation"] == before["incarnation"]


def test_stalls_of_the_daemon_that_are_short_hold_nobody_for_hung_either(tmp_path: Path) -> None:
    config = f"""
        [agents.crew]
        entrypoint = "crew_agent:agent"
        process.working_directory = "{AGENTS}"
        monitoring.heartbeat_interval = "200ms"
        monitoring.heartbeat_timeout = "800ms"
        """
    with DaemonProcess(tmp_path, config) as daemon:
        before = daemon.await_worker("crew-0", lambda w: w["state"] == "Ready")
        for _ in range(3):
            os.kill(daemon.pid, signal.SIGSTOP)
            # The subject is time that passes while the daemon does not run, as above.
            subprocess.run(["sleep", "1.5"], check=True)
            os.kill(daemon.pid, signal.SIGCONT)
            assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
        assert daemon.worker("crew-0")["incarnation"] == before["incarnation"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_daemon_ends(tmp_path: Path, how: signal.Signals) -> None:
    config = "".join(
        (
            raw("litter", "litter", 'instances = 5\nprocess.shutdown_grace_period = "1s"'),
            '[mcp.servers.git]\ncommand = ["mcp-server-git"]\n',
        )
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["litter", "git"])
        launcher_pid = daemon.call("daemon.status")["daemon"]["launcher_pid"]
        last = daemon.worker("git-0")["incarnation"]
        kept = marked(tmp_path)
        assert len(kept) >= 5 * 4 + 1
        launcher = os.pidfd_open(launcher_pid)
        try:
            assert daemon.process is not None
            daemon.process.send_signal(how)
            status = daemon.process.wait(BOUND_S)
            assert status == (0 if how is signal.SIGTERM else -signal.SIGKILL)
            assert select.select([launcher], [], [], BOUND_S)[0]  # it ends last, when all are gone
        finally:
            os.close(launcher)
        assert marked(tmp_path) == []
        assert daemon.socket.exists() == (how is signal.SIGKILL)
        daemon.start()  # a stale socket is reclaimed
        daemon.call("agent.start", names=["git"])
        skipped = 0 if how is signal.SIGTERM else 1  # what was reserved may have been used
        assert daemon.worker("git-0")["incarnation"] == last + 1 + skipped


def test_the_death_of_the_launcher_costs_its_workers_and_nothing_else(tmp_path: Path) -> None:
    config = raw("litter", "litter", 'process.shutdown_grace_period = "1s"') + raw("garbage", "garbage")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", all=True)
        status = daemon.call("daemon.status")
        before = marked(tmp_path)
        os.kill(status["daemon"]["launcher_pid"], signal.SIGKILL)
        for worker_id in ("litter-0", "garbage-0"):
            worker = daemon.await_worker(worker_id, lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
            assert worker["last_exit"]["signal"] == "SIGKILL"
        assert set(before) & set(marked(tmp_path)) == set()
        assert daemon.call("task.run", agent="garbage", objective="x")["state"] == "succeeded"


@pytest.mark.parametrize("method", ["event.list", "event.follow"])
@pytest.mark.parametrize("params", [{"since": 2**63}, {"since": -1}, {"since_time": 1e300}, {"since_time": -1e300}])
def test_a_beginning_that_no_event_can_have_is_a_wrong_parameter(
    daemon: DaemonProcess, method: str, params: dict[str, float]
) -> None:
    with pytest.raises(InvalidParams) as refusal:
        daemon.call(method, **params)
    assert refusal.value.data["key"] in params


# -- the running set


def test_what_is_added_at_run_time_survives_a_restart_and_what_is_removed_does_not(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as daemon:
        spec = {"command": ["sleep", "600"], "protocol": "none"}
        assert daemon.call("agent.add", name="one", spec=spec)["state"] == "Ready"
        daemon.call("agent.add", name="two", spec=spec)
        with pytest.raises(Conflict):
            daemon.call("agent.add", name="one", spec=spec)
        with pytest.raises(InvalidParams) as refusal:
            daemon.call("agent.add", name="three", spec={**spec, "nicw": 1})
        assert refusal.value.data["key"] == "agents.three.nicw"
        daemon.call("agent.rm", name="two")
        daemon.call("agent.scale", name="one", instances=3)
        daemon.kill()
        daemon.start()
        (one,) = daemon.call("daemon.status")["agents"]
        assert (one["name"], len(one["workers"])) == ("one", 3)
        with pytest.raises(NotFound):
            daemon.call("agent.rm", name="two")


def test_what_is_being_removed_cannot_be_started_and_leaves_nothing(tmp_path: Path) -> None:
    slow = 'autostart = false\nprocess.shutdown_grace_period = "600ms"\ninstances = 2'
    with DaemonProcess(tmp_path, raw("deaf", "deaf", slow)) as daemon:
        daemon.call("agent.start", names=["deaf"])
        for method, params in (("agent.scale", {"name": "deaf", "instances": 1}), ("agent.rm", {"name": "deaf"})):
            last = daemon.call("daemon.status")["agents"][0]["workers"][-1]
            with ThreadPoolExecutor() as pool:
                removal = pool.submit(daemon.call, method, **params)
                daemon.await_worker(last["id"], lambda w: w["state"] == "ShuttingDown")
                for verb in ("start", "restart"):
                    with pytest.raises(Conflict):
                        daemon.call(f"agent.{verb}", names=[last["id"]], wait=False)
                removal.result(BOUND_S)
            assert not Path(f"/proc/{last['pid']}").exists()
        assert marked(tmp_path) == []
        with pytest.raises(NotFound):
            daemon.call("agent.start", names=["deaf"])


def test_who_removes_what_another_removes_does_not_remove_what_a_third_adds(tmp_path: Path) -> None:
    slow = 'process.shutdown_grace_period = "600ms"'
    with DaemonProcess(tmp_path, raw("deaf", "deaf", slow)) as daemon:
        daemon.call("agent.start", names=["deaf"])
        with ThreadPoolExecutor() as pool:
            both = [pool.submit(daemon.call, "agent.rm", name="deaf") for _ in range(2)]
            ends = [each.exception(BOUND_S) for each in both]
        assert sorted(type(end).__name__ for end in ends) == ["NoneType", "NotFound"]


@pytest.mark.long
def test_an_agent_that_the_store_refuses_is_not_added(tmp_path: Path) -> None:
    spec = {"command": ["sleep", "600"], "protocol": "none"}
    with DaemonProcess(tmp_path, "") as daemon:
        held = sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)
        with closing(held):
            held.execute("BEGIN IMMEDIATE")
            with pytest.raises(Overloaded):
                daemon.call("agent.add", name="one", spec=spec)
        assert daemon.call("daemon.status")["agents"] == []
        assert daemon.call("agent.add", name="one", spec=spec)["state"] == "Ready"


def test_a_daemon_that_stops_starts_nothing(tmp_path: Path) -> None:
    slow = 'process.shutdown_grace_period = "2s"'
    config = raw("deaf", "deaf", slow) + raw("other", "garbage", "autostart = false")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["deaf"])
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.await_worker("deaf-0", lambda w: w["state"] == "ShuttingDown")
        for method, params in (
            ("agent.start", {"names": ["other"]}),
            ("agent.scale", {"name": "other", "instances": 2}),
            ("agent.add", {"name": "new", "spec": {"command": ["true"]}}),
        ):
            with pytest.raises(ShuttingDown):
                daemon.call(method, **params)


def test_an_agent_that_another_requires_is_not_removed(daemon: DaemonProcess) -> None:
    with pytest.raises(Conflict):
        daemon.call("agent.rm", name="plain")


def test_an_agent_is_scaled_up_and_down(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["plain"])
    up = daemon.call("agent.scale", name="plain", instances=3)
    assert [worker["state"] for worker in up["workers"]] == ["Ready"] * 3
    down = daemon.call("agent.scale", name="plain", instances=1)
    assert [worker["id"] for worker in down["workers"]] == ["plain-0"]
    daemon.call("agent.stop", names=["plain"])


def repository(folder: Path) -> str:
    """Makes a repository of this user: git refuses a checkout that is another's."""
    subprocess.run(["git", "init", "--quiet", folder / "repository"], check=True)
    return str(folder / "repository")


def test_an_mcp_server_that_was_killed_serves_the_next_call(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["git"])
    arguments = {"repo_path": repository(daemon.folder)}
    first = daemon.call("mcp.call", name="git__git_status", arguments=arguments)
    assert first["isError"] is False
    before = daemon.worker("git-0")
    os.kill(before["pid"], signal.SIGKILL)
    second = daemon.call("mcp.call", name="git_status", arguments=arguments)
    assert second["isError"] is False
    assert daemon.worker("git-0")["incarnation"] == before["incarnation"] + 1


def test_a_stopped_server_is_not_started_by_a_call(daemon: DaemonProcess) -> None:
    daemon.call("agent.stop", names=["git"])
    with pytest.raises(Conflict):
        daemon.call("mcp.call", name="git__git_status", arguments={"repo_path": "/"})
    daemon.call("agent.start", names=["git"])


def test_a_stop_of_one_of_two_servers_leaves_the_other_and_none_is_a_conflict(tmp_path: Path) -> None:
    config = '[mcp.servers.git]\ncommand = ["mcp-server-git"]\ninstances = 2\n'
    arguments = {"repo_path": repository(tmp_path)}
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["git"])
        daemon.call("agent.stop", names=["git-1"])
        called = daemon.call("mcp.call", name="git__git_status", arguments=arguments)
        assert called["isError"] is False
        daemon.call("agent.scale", name="git", instances=0)
        with pytest.raises(Conflict):
            daemon.call("mcp.call", name="git__git_status", arguments=arguments)


# -- the socket


def test_a_second_daemon_is_refused_and_names_the_first(daemon: DaemonProcess) -> None:
    second = subprocess.run(
        [str(BIN / "corrald"), f"--config={daemon.config}", f"--socket={daemon.socket}"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert second.returncode == 1
    assert str(daemon.pid) in second.stderr
    assert len(second.stderr.splitlines()) == 1
    daemon.call("daemon.ping")


def test_the_socket_is_for_its_owner_alone(daemon: DaemonProcess) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_even_where_the_mode_would_let_it(tmp_path: Path) -> None:
    # A folder that everybody can enter, which tmp_path's parents are not.
    folder = Path("/tmp") / f"corral-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    script = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}\\n\')\n'
        "sys.stdout.write(s.recv(65536).decode())\n"
    )
    try:
        with DaemonProcess(tmp_path, "", f"--socket={folder}/s") as daemon:
            os.chmod(folder / "s", 0o777)
            done = subprocess.run(
                [sys.executable, "-c", script, str(folder / "s")], capture_output=True, text=True, check=True
            )
            assert json.loads(done.stdout)["error"]["code"] == -33003
            assert daemon.process is not None
            assert daemon.process.poll() is None
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_malformed_lines_are_answered_and_the_connection_lives_on(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        lines = connection.makefile("rb")
        for sent, code in (
            (b"nonsense", -32700),
            (b"\xff\xfe", -32700),
            (b"[]", -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
            (b'{"jsonrpc":"2.0","id":2,"method":"daemon.ping","params":{"x":1}}', -32602),
            (b'{"jsonrpc":"2.0","id":3,"method":"daemon.ping","params":[1]}', -32602),
            (b"[" * 100_000, -32700),
        ):
            connection.sendall(sent + b"\n")
            assert json.loads(lines.readline())["error"]["code"] == code, sent
        connection.sendall(b'{"jsonrpc":"2.0","id":4,"method":"daemon.ping"}\n')
        assert json.loads(lines.readline()) == {"jsonrpc": "2.0", "id": 4, "result": {}}


def test_a_thousand_idle_clients_keep_nobody_from_being_served(daemon: DaemonProcess) -> None:
    idle: list[socket.socket] = []
    try:
        for _ in range(1000):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(daemon.socket))
            idle.append(connection)
        daemon.call("daemon.status")
    finally:
        for connection in idle:
            connection.close()


def test_the_method_table_describes_itself(daemon: DaemonProcess) -> None:
    document = daemon.call("rpc.discover")
    methods = {method["name"]: method for method in document["methods"]}
    assert methods["agent.add"]["x-permission"] == "admin"
    assert all(method["summary"] for method in methods.values())


# -- the configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[agents.a\n", ["corral.toml", "line"]),
        ("[agents.a]\ncommand = ['x']\ninstance = 2\n", ["corral.toml", "agents.a.instance"]),
        ("[agents.a]\ncommand = 'x'\n", ["corral.toml", "agents.a.command"]),
        ("[agents.a]\n", ["corral.toml", "agents.a"]),
    ],
)
def test_a_broken_configuration_starts_nothing(tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "corral.toml"
    config.write_text(text)
    for more in ([], ["--check"]):
        done = subprocess.run(
            [str(BIN / "corrald"), f"--config={config}", f"--socket={tmp_path}/s", *more],
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert all(word in done.stderr for word in words)
    assert not (tmp_path / "s").exists()


def test_a_socket_path_that_is_too_long_is_said_so(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    done = subprocess.run(
        [str(BIN / "corrald"), f"--socket={long}/s", f"--state-dir={tmp_path}/state"],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 2
    assert "107" in done.stderr


def test_a_server_that_a_call_has_started_is_not_unused_while_the_call_lasts(tmp_path: Path) -> None:
    config = f"""
        [mcp.servers.odd]
        command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
        autostart = false
        idle_timeout = "500ms"
        process.shutdown_grace_period = "500ms"
        """
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("mcp.call", name="odd__echo", arguments={"text": "x"})
        daemon.await_worker("odd-0", lambda w: w["state"] == "Terminated")
        with pytest.raises(Timeout):  # of the call, which never saw the end of its server
            daemon.call("mcp.call", name="odd__hold", timeout_s=2)
        events = daemon.call("event.list", types=["worker.state"])["events"]
        assert max(event["incarnation"] for event in events) == 2
        assert "Ready" not in [e["from"] for e in events if e["to"] == "ShuttingDown"]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_stopped_before_it_is_ready_ends_in_order(tmp_path: Path, number: signal.Signals) -> None:
    command = [str(BIN / "corrald"), f"--socket={tmp_path}/s", f"--state-dir={tmp_path}/state"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as daemon:
        deadline = time.monotonic() + BOUND_S
        while not (tmp_path / "state/corral.db").exists():  # its first act
            assert time.monotonic() < deadline
        daemon.send_signal(signal.SIGHUP)
        daemon.send_signal(number)
        assert daemon.wait(BOUND_S) == 0
    assert not (tmp_path / "s").exists()
    assert marked(tmp_path) == []
