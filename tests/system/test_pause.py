"""Workers that stand still: with all their processes, at nobody's cost, and without being forgotten."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked

PLACE = f'process.working_directory = "{AGENTS}"'
BEATS = 'monitoring.heartbeat_interval = "200ms"\nmonitoring.heartbeat_timeout = "800ms"'
RAW = AGENTS / "raw_worker.py"

CONFIG = f"""
[agents.spinner]
command = ["{sys.executable}", "-S", "{AGENTS}/spinner.py", "2"]
protocol = "none"
autostart = false
process.shutdown_grace_period = "30s"

[agents.crew]
entrypoint = "crew_agent:agent"
tasks.cancel_grace = "300ms"
process.shutdown_grace_period = "30s"
{PLACE}
{BEATS}

[agents.pair]
entrypoint = "crew_agent:agent"
instances = 2
autostart = false
{PLACE}

[agents.silent]
command = ["{sys.executable}", "{RAW}", "silent"]
autostart = false
process.spawn_timeout = "2s"
recovery.restart = "never"

[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
autostart = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("pause"), CONFIG) as process:
        process.call("agent.start", names=["crew"])
        yield process


def let_time_pass(seconds: float) -> None:
    """The subject is time in which nothing happens: there is no event that could be waited for."""
    subprocess.run(["sleep", str(seconds)], check=True)


def cpu_ticks(pids: list[int]) -> dict[int, int]:
    """What each process has used of the processor so far; see proc_pid_stat(5)."""
    used: dict[int, int] = {}
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[pid] = int(fields[11]) + int(fields[12])
    return used


def tree(daemon: DaemonProcess, size: int) -> list[int]:
    """The processes below the daemon's folder, as soon as there are so many."""
    while len(found := marked(daemon.folder)) < size:
        let_time_pass(0.01)  # they are about to fork
    return found


def state(daemon: DaemonProcess, worker_id: str) -> tuple[str, bool, int]:
    worker = daemon.worker(worker_id)
    return worker["state"], worker["paused"], worker["incarnation"]


def begin(daemon: DaemonProcess, objective: str, **more: object) -> Any:
    """A task of crew that runs: it has reported progress."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent="crew", objective=objective, **more)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(event["task"] == task["id"] for event in events):
                return task
    raise AssertionError("the stream of events does not end")


def test_no_processor_time_passes_in_the_whole_tree(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["spinner"])
    pids = tree(daemon, 4)
    assert len(pids) == 4, "the leader, two children, and one that left by a double fork"
    daemon.call("agent.pause", names=["spinner"])
    before = cpu_ticks(pids)
    let_time_pass(1.0)
    assert cpu_ticks(pids) == before
    assert state(daemon, "spinner-0")[:2] == ("Ready", True)
    daemon.call("agent.resume", names=["spinner"])
    while any(now <= before[pid] for pid, now in cpu_ticks(pids).items()):
        let_time_pass(0.05)
    daemon.call("agent.pause", names=["spinner"])
    daemon.call("agent.stop", names=["spinner"])
    assert marked(daemon.folder) == []
    assert daemon.worker("spinner-0")["last_exit"]["forced"] is False


def test_a_paused_worker_is_not_hung_and_works_when_it_is_resumed(daemon: DaemonProcess) -> None:
    before = state(daemon, "crew-0")
    daemon.call("agent.pause", names=["crew"])
    let_time_pass(2.0)
    assert state(daemon, "crew-0") == (before[0], True, before[2])
    daemon.call("agent.resume", names=["crew-0"])
    assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
    assert state(daemon, "crew-0")[1:] == (False, before[2])


def test_a_start_that_is_paused_does_not_time_out(daemon: DaemonProcess) -> None:
    while state(daemon, "silent-0")[1] is False:  # on a busy machine its time may be over before
        daemon.call("agent.start", names=["silent"], wait=False)
        while daemon.worker("silent-0")["pid"] is None:
            let_time_pass(0.01)  # to be spawned changes no state, so no event tells of it
        with suppress(Conflict):
            daemon.call("agent.pause", names=["silent"])
    let_time_pass(3.0)
    assert state(daemon, "silent-0")[:2] == ("Starting", True)
    with pytest.raises(Conflict):
        daemon.call("agent.start", names=["silent"])  # which would wait for ever
    daemon.call("agent.resume", names=["silent"])
    worker = daemon.await_worker("silent-0", lambda w: w["state"] == "Terminated")
    assert worker["last_exit"]["result"] == "start-timeout"


def test_pausing_and_resuming_again_is_fine_and_what_does_not_run_is_refused(daemon: DaemonProcess) -> None:
    for verb in ("pause", "pause", "resume", "resume"):
        daemon.call(f"agent.{verb}", names=["crew"])
    daemon.call("agent.resume", names=["pair"])
    for name in ("pair", "pair-1"):
        with pytest.raises(Conflict):
            daemon.call("agent.pause", names=["crew", name])
    assert state(daemon, "crew-0")[1] is False, "nobody is paused when one cannot be"
    with pytest.raises(NotFound):
        daemon.call("agent.pause", names=["nobody"])


def test_all_that_run_are_paused_and_resumed_by_all(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["pair-1"])
    answer = daemon.call("agent.pause", all=True)
    paused = {w["id"]: w["paused"] for agent in answer["agents"] for w in agent["workers"]}
    assert (paused["crew-0"], paused["pair-0"], paused["pair-1"]) == (True, False, True)
    daemon.call("agent.resume", all=True)
    daemon.call("agent.stop", names=["pair"])
    assert state(daemon, "crew-0")[1] is False


@pytest.mark.parametrize("how", ["stop", "restart", "scale", "rm"])
def test_what_is_paused_ends_politely_whatever_ends_it(daemon: DaemonProcess, how: str) -> None:
    name = f"brief-{how}"
    spec = {
        "entrypoint": "crew_agent:agent",
        "process": {"working_directory": str(AGENTS), "shutdown_grace_period": "60s"},
    }
    daemon.call("agent.add", name=name, spec=spec)
    daemon.call("agent.pause", names=[name])
    with daemon.client() as client:
        client.call("event.follow", {"types": ["worker.state"], "agent": name}, timeout_s=BOUND_S)
        if how == "rm":
            daemon.call("agent.rm", name=name)
            return  # in time: the grace period is longer than any wait of a test
        if how == "scale":
            daemon.call("agent.scale", name=name, instances=0)
        else:
            daemon.call(f"agent.{how}", names=[name])
            worker = daemon.worker(f"{name}-0")
            assert (worker["paused"], worker["last_exit"]["forced"]) == (False, False)
            assert worker["state"] == ("Terminated" if how == "stop" else "Ready")
    daemon.call("agent.rm", name=name)


def test_a_paused_worker_gets_no_new_task(daemon: DaemonProcess) -> None:
    daemon.call("agent.pause", names=["crew"])
    task = daemon.call("task.submit", agent="crew", objective="echo")
    let_time_pass(0.5)  # in which it would be dispatched
    shown = daemon.call("task.show", task=task["id"])
    assert (shown["state"], shown["attempt"]) == ("queued", 0)
    assert "paused" in shown["reason"], "a person has to learn why it waits"
    daemon.call("agent.resume", names=["crew"])
    assert daemon.call("task.wait", task=task["id"])["state"] == "succeeded"


def test_the_time_of_a_task_stands_still_with_its_worker(daemon: DaemonProcess) -> None:
    limit_s = 0.75
    task = shown = {"state": "none"}
    while shown["state"] != "running":  # on a busy machine its time may be over before the pause
        daemon.call("agent.resume", names=["crew"])
        limit_s *= 2
        task = begin(daemon, "wait", timeout_s=limit_s)
        daemon.call("agent.pause", names=["crew"])
        shown = daemon.call("task.show", task=task["id"])
    let_time_pass(limit_s + 1.0)
    assert daemon.call("task.show", task=task["id"])["state"] == "running"
    incarnation = state(daemon, "crew-0")[2]
    daemon.call("agent.resume", names=["crew"])
    ended = daemon.call("task.wait", task=task["id"])
    assert (ended["state"], ended["error"]["name"]) == ("timeout", "Timeout")
    assert ended["duration_s"] >= limit_s + limit_s + 1.0
    assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
    assert state(daemon, "crew-0")[2] == incarnation, "it let go in time"


def test_a_task_of_a_paused_worker_can_be_cancelled_and_its_worker_may_let_go_later(daemon: DaemonProcess) -> None:
    incarnation = state(daemon, "crew-0")[2]
    task = begin(daemon, "wait")
    daemon.call("agent.pause", names=["crew"])
    assert daemon.call("task.cancel", task=task["id"])["state"] == "cancelled"
    let_time_pass(1.0)  # more than cancel_grace
    daemon.call("agent.resume", names=["crew"])
    assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
    assert state(daemon, "crew-0")[2] == incarnation


def test_calls_of_a_paused_server_are_refused(daemon: DaemonProcess) -> None:
    daemon.call("mcp.call", name="odd__echo", arguments={"text": "a"})
    daemon.call("agent.pause", names=["odd"])
    with pytest.raises(Conflict) as refusal:
        daemon.call("mcp.call", name="odd__echo", arguments={"text": "b"})
    assert refusal.value.data["reason"] == "paused"
    daemon.call("agent.resume", names=["odd"])
    answer = daemon.call("mcp.call", name="odd__echo", arguments={"text": "c"})
    assert answer["content"][0]["text"] == "c"
    assert daemon.worker("odd-0")["incarnation"] == 1


def test_a_signal_does_not_wake_what_is_paused_and_a_kill_ends_it(daemon: DaemonProcess) -> None:
    before = daemon.call("agent.pause", names=["crew"])["agents"][0]["workers"][0]
    for name in ("CONT", "TERM", "HUP"):
        with pytest.raises(Conflict):
            daemon.call("agent.signal", name="crew", signal=name)
    daemon.call("agent.signal", name="crew", signal="KILL")
    after = daemon.await_worker("crew-0", lambda w: w["incarnation"] > before["incarnation"] and w["state"] == "Ready")
    assert after["paused"] is False
    assert after["last_exit"]["signal"] == "SIGKILL"
    assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"


def test_both_ends_of_a_pause_are_events_that_are_kept(daemon: DaemonProcess) -> None:
    daemon.call("agent.pause", names=["crew"])
    daemon.call("agent.resume", names=["crew"])
    events = daemon.call("event.list", types=["agent.paused", "agent.resumed"], agent="crew")
    last = [(event["type"], event["worker"]) for event in events["events"]][-2:]
    assert last == [("agent.paused", "crew-0"), ("agent.resumed", "crew-0")]


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_that_is_paused_outlives_the_daemon(tmp_path: Path, how: signal.Signals) -> None:
    config = CONFIG.replace("autostart = false", "autostart = true")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["spinner", "crew", "pair"])
        tree(daemon, 4)
        daemon.call("agent.pause", all=True)
        assert daemon.process is not None
        launcher = os.pidfd_open(daemon.call("daemon.status")["daemon"]["launcher_pid"])
        try:
            daemon.process.send_signal(how)
            daemon.process.wait(BOUND_S)
            assert select.select([launcher], [], [], BOUND_S)[0]
        finally:
            os.close(launcher)
        assert marked(tmp_path) == []
