"""One call that ends everything at once, and keeps it ended until somebody starts something."""

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, Overloaded
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked, until

RAW = AGENTS / "raw_worker.py"
LONG = 600
"""Number of queued tasks, more than end in one turn of the loop."""

WORKERS = 100
"""Each with two children that have left its session."""

CONFIG = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
tasks.retry_backoff_base = "10ms"

[agents.deaf]
command = ["{sys.executable}", "{RAW}", "deaf"]
process.shutdown_grace_period = "1h"

[agents.silent]
command = ["{sys.executable}", "{RAW}", "silent"]
process.spawn_timeout = "1h"
autostart = false

[agents.after]
command = ["sleep", "600"]
protocol = "none"
autostart = false
requires = ["silent"]

[agents.plain]
command = ["sleep", "600"]
protocol = "none"
autostart = false

[agents.later]
command = ["sleep", "600"]
protocol = "none"
autostart = false
requires = ["plain"]

[agents.crashes]
command = ["false"]
protocol = "none"
autostart = false
recovery.restart_backoff_base = "1h"
recovery.restart_backoff_max = "1h"

[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, CONFIG) as process:
        process.call("agent.start", names=["crew", "deaf", "odd"])
        yield process


def pids(daemon: DaemonProcess) -> list[int]:
    return [w["pid"] for w in workers(daemon) if w["pid"] is not None]


def workers(daemon: DaemonProcess) -> list[Any]:
    status = daemon.call("daemon.status")
    return [w for a in (*status["agents"], *status["mcp_servers"]) for w in a["workers"]]


def refusals(daemon: DaemonProcess) -> list[str | None]:
    """Why each kind of work is refused, None where it is not."""
    spec = {"command": ["sleep", "600"], "protocol": "none"}
    asked: list[Callable[[], object]] = [
        lambda: daemon.call("task.run", agent="crew", objective="echo"),
        lambda: daemon.call("task.submit", agent="crew", objective="echo"),
        lambda: daemon.call("mcp.call", name="odd__echo", arguments={"text": "a"}),
        lambda: daemon.call("agent.restart", names=["crew"]),
        lambda: daemon.call("agent.add", name="new", spec=spec),
    ]
    found: list[str | None] = []
    for ask in asked:
        try:
            ask()
        except Conflict as error:
            found.append(str(error.data["reason"]))
        else:
            found.append(None)
    return found


def test_a_hundred_trees_are_gone_when_it_is_answered(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tree = "setsid sleep 600 & setsid sleep 600 & exec sleep 600"
    config = f"""
        process.max_concurrent_processes = {WORKERS}
        [agents.tree]
        command = ["sh", "-c", "{tree}"]
        protocol = "none"
        instances = {WORKERS}
        process.shutdown_grace_period = "1h"
        """
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["tree"])
        assert len(marked(tmp_path)) == 3 * WORKERS
        before = time.monotonic()
        answer = daemon.call("daemon.emergency_stop")
        took_s = time.monotonic() - before
        assert marked(tmp_path) == []
        assert answer == {"workers": WORKERS, "tasks": 0}
        record_property("seconds", took_s)
        print(f"{WORKERS} trees of 3 processes were gone after {took_s:.3f} s")
        ends = [w["last_exit"] for w in workers(daemon) if w["id"].startswith("tree-")]
        assert {(end["result"], end["forced"]) for end in ends} == {("stopped", True)}


def test_nothing_is_left_and_everything_is_refused_until_a_start(daemon: DaemonProcess) -> None:
    daemon.call("agent.stop", names=["deaf"], wait=False)  # it would take its hour
    before = pids(daemon)
    assert len(before) == 3
    daemon.call("daemon.emergency_stop")
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)
    assert pids(daemon) == []
    status = daemon.call("daemon.status")
    assert status["daemon"]["degraded"] == ["emergency-stop"]
    assert not any(agent["wanted"] for agent in (*status["agents"], *status["mcp_servers"]))
    assert refusals(daemon) == ["emergency-stop"] * 5
    daemon.call("agent.start", names=["crew"])
    assert daemon.call("daemon.status")["daemon"]["degraded"] == []
    assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"


def test_it_can_be_asked_for_again_and_with_nothing_to_stop(daemon: DaemonProcess) -> None:
    assert daemon.call("daemon.emergency_stop")["workers"] == 3
    assert daemon.call("daemon.emergency_stop") == {"workers": 0, "tasks": 0}
    assert refusals(daemon) == ["emergency-stop"] * 5


def test_every_task_is_cancelled_and_stays_so(daemon: DaemonProcess) -> None:
    tasks = [daemon.call("task.submit", agent="crew", objective="wait")["id"] for _ in range(5)]
    answer = daemon.call("daemon.emergency_stop")
    assert answer["tasks"] == 5
    daemon.kill()
    daemon.start()
    shown = [daemon.call("task.show", task=task) for task in tasks]
    assert {(task["state"], task["error"]["name"]) for task in shown} == {("cancelled", "Cancelled")}
    daemon.call("agent.start", names=["crew"])
    assert daemon.call("daemon.status")["tasks"]["queued"] == 0


def test_a_kill_in_the_middle_of_ending_a_long_queue_loses_no_task(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["crew"])
    with daemon.client() as client:
        asked = [{"agent": "crew", "objective": "wait", "idempotency_key": f"long-{number}"} for number in range(LONG)]
        submitted: list[Any] = [client.call("task.submit", each) for each in asked]
        tasks = {task["id"] for task in submitted}
        client.call("event.follow", {"types": ["task.ended"]}, timeout_s=BOUND_S)
        with daemon.client() as another, ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(another.call, "daemon.emergency_stop", {}, timeout_s=BOUND_S)
            next(client.notifications())  # the first ends are committed, the last are not
            daemon.kill()
            with suppress(CorralError):
                stopping.result()
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as store:
        before = dict(store.execute("SELECT id, state FROM task"))
    assert tasks <= before.keys()
    daemon.start()
    in_force = "emergency-stop" in daemon.call("daemon.status")["daemon"]["degraded"]
    if not in_force:  # it was killed before that was on the disk: nothing was answered
        daemon.call("daemon.emergency_stop")
    states = {daemon.call("task.wait", task=task)["state"] for task in tasks}
    assert states == {"cancelled"}
    daemon.call("agent.start", names=["crew"])


def test_who_waits_for_a_task_or_a_start_is_answered(daemon: DaemonProcess) -> None:
    with ThreadPoolExecutor() as pool:
        run = pool.submit(daemon.call, "task.run", agent="crew", objective="wait")
        start = pool.submit(daemon.call, "agent.start", names=["after"])
        daemon.await_worker("silent-0", lambda w: w["state"] == "Starting")
        daemon.await_worker("crew-0", lambda w: w["state"] == "Busy")
        daemon.call("daemon.emergency_stop")
        assert run.result(BOUND_S)["state"] == "cancelled"
        assert isinstance(start.exception(BOUND_S), CorralError)


def test_what_waited_to_be_started_is_forgotten(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["crashes"], wait=False)
    daemon.await_worker("crashes-0", lambda w: w["next_start_in_s"] is not None)
    daemon.call("agent.start", names=["after", "later"], wait=False)
    daemon.call("daemon.emergency_stop")
    daemon.call("agent.start", names=["plain"])  # for which `later` waited
    daemon.call("agent.start", names=["crew"])
    others = [w for w in workers(daemon) if w["id"] not in ("crew-0", "plain-0")]
    assert {w["state"] for w in others} <= {"Terminated", "Initial"}
    assert {w["next_start_in_s"] for w in others} == {None}


def test_a_new_daemon_does_not_release_the_brake(daemon: DaemonProcess) -> None:
    daemon.call("daemon.emergency_stop")
    daemon.kill()
    daemon.start()
    assert daemon.call("daemon.status")["daemon"]["degraded"] == ["emergency-stop"]
    assert marked(daemon.folder) == []
    assert {w["state"] for w in workers(daemon)} == {"Initial"}
    assert refusals(daemon) == ["emergency-stop"] * 5
    daemon.call("daemon.reload")
    assert {w["state"] for w in workers(daemon)} == {"Initial"}
    daemon.call("agent.start", names=["crew", "deaf", "odd"])
    assert len(pids(daemon)) == 3
    daemon.kill()
    daemon.start()
    daemon.await_worker("crew-0", lambda w: w["state"] == "Ready")
    assert daemon.call("daemon.status")["daemon"]["degraded"] == []
    daemon.call("daemon.emergency_stop")  # the deaf one would take its hour


def test_the_event_names_who_asked_for_it(daemon: DaemonProcess) -> None:
    daemon.call("daemon.emergency_stop")
    (event,) = daemon.call("event.list", types=["daemon.emergency_stop"])["events"]
    assert str(os.getuid()) in event["by"].split()
    assert event["workers"] == 3


def test_it_needs_no_store_to_end_what_runs(daemon: DaemonProcess) -> None:
    held = sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)
    with closing(held):
        held.execute("BEGIN IMMEDIATE")
        before = pids(daemon)
        with pytest.raises(Overloaded):
            daemon.call("daemon.emergency_stop")
        assert not any(Path(f"/proc/{pid}").exists() for pid in before)
        held.execute("ROLLBACK")
    assert refusals(daemon) == ["emergency-stop"] * 5
    until(lambda: "store" not in daemon.call("daemon.status")["daemon"]["degraded"])
    assert daemon.call("daemon.emergency_stop")["workers"] == 0


def test_starts_and_emergency_stops_at_once_end_as_the_last_of_them_says(daemon: DaemonProcess) -> None:
    def start() -> str:
        try:
            daemon.call("agent.start", names=["crew"])
        except CorralError as error:
            return error.name
        return "started"

    with ThreadPoolExecutor() as pool:
        for _ in range(10):
            starts = [pool.submit(start) for _ in range(3)]
            stops = [pool.submit(daemon.call, "daemon.emergency_stop") for _ in range(2)]
            assert all("workers" in stop.result(BOUND_S) for stop in stops)
            assert {each.result(BOUND_S) for each in starts} <= {"started", "Conflict", "SpawnFailed"}
            is_on = daemon.call("daemon.status")["daemon"]["degraded"] == ["emergency-stop"]
            if is_on:
                assert pids(daemon) == []
            else:
                daemon.await_worker("crew-0", lambda w: w["state"] in ("Ready", "Idle"))
    daemon.call("daemon.emergency_stop")
    assert pids(daemon) == []
