"""Agents that have as many workers as their queue needs, through the whole: daemon, launcher, workers."""

import os
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, InvalidParams
from daemon_process import AGENTS, BOUND_S, DaemonProcess

WINDOW_S = 0.3

AGENT = f"""
entrypoint = "scaled_agent:agent"
warm = false
autostart = false
process.working_directory = "{AGENTS}"
process.shutdown_grace_period = "200ms"
recovery.restart_backoff_base = "30s"
recovery.restart_backoff_max = "30s"
tasks.scale_up_after = "100ms"
"""

CONFIG = f"""
process.max_concurrent_processes = 5

[agents.many]
instances = {{ min = 1, max = 4 }}
tasks.scale_down_after = "{WINDOW_S}s"
{AGENT}
[agents.alone]
instances = {{ min = 1, max = 64 }}
config.alone = true
{AGENT}
[agents.broad]
instances = {{ min = 1, max = 4 }}
resources.max_concurrent_requests = 2
tasks.scale_down_after = "{WINDOW_S}s"
{AGENT}
[agents.still]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
instances = {{ min = 1, max = 4 }}
[agents.fixed]
instances = 3
{AGENT}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("scaling"), CONFIG) as process:
        yield process


@pytest.fixture(autouse=True)
def _nothing_left(daemon: DaemonProcess) -> Iterator[None]:
    yield
    for state in ("queued", "running"):
        for task in daemon.call("task.list", state=state)["tasks"]:
            daemon.call("task.cancel", task=task["id"])
    daemon.call("agent.stop", all=True)
    for name in ("many", "alone", "broad"):
        daemon.call("agent.scale", name=name, instances=1)


class Steps:
    """What is told of an agent's number, as it comes."""

    def __init__(self, client: Client, agent: str) -> None:
        self._agent = agent
        self.events: list[Any] = []
        types = ["agent.scaled", "task.started"]
        client.call("event.follow", {"types": types}, timeout_s=BOUND_S)
        self._coming = client.notifications()

    def until(self, instances: int) -> list[Any]:
        """The events up to the one that tells of so many, in this order."""
        begun = len(self.events)
        while True:
            told: Any = next(self._coming).params["events"]
            found = [each for each in told if each["agent"] == self._agent]
            self.events += found
            if any(each.get("instances") == instances for each in found):
                return self.events[begun:]

    def until_started(self, task: str) -> str:
        """The worker of a task, as soon as it has one."""
        while True:
            for event in self.events:
                if event.get("task") == task:
                    return str(event["worker"])
            told: Any = next(self._coming).params["events"]
            self.events += [each for each in told if each["agent"] == self._agent]

    def until_told(self, word: str) -> Any:
        """The event whose reason has the word."""
        while True:
            for event in self.events:
                if word in event.get("reason", ""):
                    return event
            told: Any = next(self._coming).params["events"]
            self.events += [each for each in told if each["agent"] == self._agent]


@contextmanager
def steps(daemon: DaemonProcess, agent: str) -> Generator[Steps]:
    with daemon.client() as client:
        yield Steps(client, agent)


def submit(daemon: DaemonProcess, agent: str, objective: str = "wait", **more: object) -> str:
    return str(daemon.call("task.submit", agent=agent, objective=objective, **more)["id"])


def workers(daemon: DaemonProcess, agent: str) -> list[str]:
    entry = daemon.call("daemon.status", names=[agent])["agents"][0]
    return [worker["id"] for worker in entry["workers"]]


def change(daemon: DaemonProcess, config: str) -> None:
    daemon.config.write_text(config)
    daemon.call("daemon.reload")


def changes(events: list[Any]) -> list[tuple[int, int]]:
    return [(e["before"], e["instances"]) for e in events if e["type"] == "agent.scaled"]


def test_a_backlog_adds_workers_and_idleness_removes_them(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["many"])
    with steps(daemon, "many") as told:
        tasks = [submit(daemon, "many") for _ in range(6)]
        assert changes(told.until(4)) == [(1, 2), (2, 4)]
        assert told.until_told("max = 4")["instances"] == 4
        for task in tasks:
            daemon.call("task.cancel", task=task)
        assert changes(told.until(1))[-3:] == [(4, 3), (3, 2), (2, 1)]
        assert all(each["reason"] for each in told.events if each["type"] == "agent.scaled")
    assert workers(daemon, "many") == ["many-0"]


def test_a_worker_that_is_to_go_is_given_nothing_more_and_keeps_what_it_has(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["broad"])
    daemon.call("agent.scale", name="broad", instances=2)
    with steps(daemon, "broad") as told:
        tasks = [submit(daemon, "broad") for _ in range(2)]
        found = {told.until_started(each): each for each in tasks}
        daemon.call("task.cancel", task=found["broad-0"])
        # When this one begins, one worker has been enough for long; the last still has its task.
        third = submit(daemon, "broad", at=time.time() + 3 * WINDOW_S)
        assert told.until_started(third) == "broad-0"
        fourth = submit(daemon, "broad")
        assert told.until_started(fourth) == "broad-0", "the other one has rested for longer"
        assert changes(told.events) == []
        daemon.call("task.cancel", task=fourth)
        change(
            daemon, CONFIG.replace("[agents.broad]\ninstances = { min = 1, max = 4 }", "[agents.broad]\ninstances = 2")
        )
        fifth = submit(daemon, "broad")
        assert told.until_started(fifth) == "broad-1", "without a range nobody is to go"
        change(daemon, CONFIG)
        daemon.call("task.cancel", task=fifth)
        daemon.call("task.cancel", task=found["broad-1"])
        assert told.until(1)[-1]["before"] == 2
    assert daemon.call("task.show", task=third)["state"] == "running"
    assert daemon.call("task.show", task=found["broad-1"])["error"]["name"] == "Cancelled"


def test_the_last_worker_that_runs_stays_while_the_others_are_stopped(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["many"])
    daemon.call("agent.scale", name="many", instances=2)
    daemon.call("agent.stop", names=["many-0"])
    with steps(daemon, "many") as told:
        late = submit(daemon, "many", at=time.time() + 3 * WINDOW_S)
        assert told.until_started(late) == "many-1"


def test_a_reload_that_lets_more_processes_be_adds_what_waited_for_room(tmp_path: Path) -> None:
    config = f"process.max_concurrent_processes = 1\n[agents.many]\ninstances = {{ min = 1, max = 4 }}\n{AGENT}"
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["many"])
        with steps(daemon, "many") as told:
            for _ in range(9):
                submit(daemon, "many")
            told.until_told("max_concurrent_processes")
            change(daemon, config.replace("processes = 1", "processes = 9"))
            told.until(4)


def test_what_takes_no_tasks_keeps_the_number_that_it_was_given(daemon: DaemonProcess) -> None:
    entry = daemon.call("agent.scale", name="still", instances=2)
    assert "instances" not in entry, "nothing else decides"
    daemon.call("agent.scale", name="still", instances=1)


def test_nothing_is_added_to_an_agent_whose_workers_fail_to_start(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["alone"])
    with steps(daemon, "alone") as told:
        for _ in range(9):
            submit(daemon, "alone")
        event = told.until_told("licence")
        assert event["before"] == event["instances"] < 9
        assert changes(told.events)[-1] == (event["before"], event["instances"])
    assert len(workers(daemon, "alone")) == event["instances"]


def test_workers_are_added_when_there_is_room_for_more_processes(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["many", "fixed"])
    with steps(daemon, "many") as told:
        for _ in range(9):
            submit(daemon, "many")
        event = told.until_told("max_concurrent_processes")
        assert (event["before"], event["instances"]) == (2, 2)
        daemon.call("agent.stop", names=["fixed"])
        told.until(4)


def test_somebody_may_set_a_number_within_the_range_and_the_load_goes_on_from_there(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["many"])
    with steps(daemon, "many") as told:
        with pytest.raises(InvalidParams) as refused:
            daemon.call("agent.scale", name="many", instances=5)
        assert (refused.value.data["min"], refused.value.data["max"]) == (1, 4)
        entry = daemon.call("agent.scale", name="many", instances=3)
        assert entry["instances"] == {"min": 1, "max": 4}
        assert len(entry["workers"]) == 3
        assert changes(told.until(1)) == [(1, 3), (3, 2), (2, 1)]
    shown = daemon.corral("status", "many").stdout
    assert "1 of 1 to 4 workers" in shown


def test_an_agent_that_was_scaled_to_none_stays_there(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["many"])
    task = submit(daemon, "many")
    daemon.call("agent.scale", name="many", instances=0)
    assert workers(daemon, "many") == []
    with pytest.raises(Conflict) as refused:
        submit(daemon, "many")
    assert refused.value.data["instances"] == 0, "a start would not help"
    daemon.call("agent.scale", name="many", instances=1)
    assert daemon.call("task.show", task=task)["state"] in {"queued", "running"}


def test_a_new_daemon_begins_with_the_least(tmp_path: Path) -> None:
    config = f"[agents.many]\ninstances = {{ min = 1, max = 4 }}\n{AGENT}"
    config = config.replace("autostart = false", "autostart = true")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.scale", name="many", instances=2)
        assert daemon.stop() == 0
        daemon.start()
        assert workers(daemon, "many") == ["many-0"]


def test_a_start_does_not_wait_for_whom_idleness_has_taken_away_meanwhile(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "gated.py").write_text(
        "import os\n"
        "from corral.worker import Agent\n"
        f"if os.environ['CORRAL_WORKER'].startswith('gated-0#2'):\n    open({str(gate)!r}).close()\n"
        "agent = Agent('gated')\n"
        "agent.task(lambda task: None)\n"
    )
    config = f"""
    [agents.gated]
    entrypoint = "gated:agent"
    warm = false
    autostart = false
    instances = {{ min = 1, max = 2 }}
    tasks.scale_down_after = "300ms"
    process.working_directory = "{tmp_path}"
    """
    with DaemonProcess(tmp_path, config) as daemon, daemon.client() as client:
        steps = Steps(client, "gated")
        daemon.call("agent.start", names=["gated"])
        daemon.call("agent.scale", name="gated", instances=2)
        daemon.call("agent.stop", names=["gated"])
        assert len(workers(daemon, "gated")) == 2
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(daemon.call, "agent.start", names=["gated"])
            steps.until(2)
            steps.until(1)
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            (entry,) = starting.result(BOUND_S)["agents"]
    assert [worker["id"] for worker in entry["workers"]] == ["gated-0"]
