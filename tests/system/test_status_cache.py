"""The status of all, which is kept current, against what is looked up anew: the same words in the same order."""

import os
import signal
from collections.abc import Iterator

import pytest

from daemon_process import AGENTS, DaemonProcess, check_status

CONFIG = f"""
[recovery]
restart_backoff_base = "30s"
max_restart_attempts = 3
[agents.sleeper]
command = ["sleep", "1000000"]
protocol = "none"
instances = 3
recovery.restart_backoff_base = "10ms"
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
autostart = false
[agents.idle]
command = ["sleep", "1000000"]
protocol = "none"
autostart = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("board"), CONFIG) as process:
        process.call("agent.start", names=["sleeper", "crew"])
        yield process


def test_what_is_kept_is_what_is_so(daemon: DaemonProcess) -> None:
    check_status(daemon)
    check_status(daemon)


def test_every_change_of_a_worker_is_reported(daemon: DaemonProcess) -> None:
    daemon.call("agent.pause", names=["sleeper-1"])
    check_status(daemon)
    daemon.call("agent.resume", names=["sleeper-1"])
    check_status(daemon)
    before = daemon.worker("sleeper-0")
    os.kill(before["pid"], signal.SIGKILL)
    daemon.await_worker("sleeper-0", lambda worker: worker["incarnation"] > before["incarnation"])
    check_status(daemon)
    daemon.call("agent.stop", names=["sleeper-2"])
    check_status(daemon)
    daemon.call("agent.start", names=["sleeper-2"])
    check_status(daemon)


def test_a_wait_that_gets_shorter_is_reported_at_each_look(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="brief", spec={"command": ["false"], "protocol": "none"}, wait=False)
    daemon.await_worker("brief-0", lambda worker: worker["next_start_in_s"] is not None)

    def left_s() -> float:
        entries = daemon.call("daemon.status")["agents"]
        (worker,) = next(entry["workers"] for entry in entries if entry["name"] == "brief")
        left = worker["next_start_in_s"]
        assert isinstance(left, float)
        return left

    first_s = left_s()
    while left_s() == first_s:
        pass
    check_status(daemon)
    daemon.call("agent.rm", names=["brief"])
    check_status(daemon)


def test_time_goes_on_for_those_that_are_up(daemon: DaemonProcess) -> None:
    def uptimes() -> list[float]:
        entries = daemon.call("daemon.status")["agents"]
        return [worker["uptime_s"] for entry in entries for worker in entry["workers"]]

    before = uptimes()
    while (after := uptimes())[0] == before[0]:
        pass
    assert [then == now for then, now in zip(before, after, strict=True)].count(False) >= 3
    assert after[-1] == 0.0, "one that was never started has been up for no time"


def test_tasks_and_queues_are_reported(daemon: DaemonProcess) -> None:
    daemon.call("task.run", agent="crew", objective="nothing")
    check_status(daemon)
    daemon.call("agent.pause", names=["crew"])
    daemon.call("task.submit", agent="crew", objective="nothing")
    check_status(daemon)
    told = daemon.call("daemon.status")["agents"]
    assert next(entry["queued"] for entry in told if entry["name"] == "crew") == 1
    daemon.call("agent.resume", names=["crew"])


def test_more_workers_and_fewer_are_reported(daemon: DaemonProcess) -> None:
    for instances in (5, 2, 0, 1, 0, 3):
        daemon.call("agent.scale", name="sleeper", instances=instances)
        check_status(daemon)
