"""Agents made with real frameworks, warm: one import for all workers, each of which does its task and comes back after a kill."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, DaemonProcess

FRAMEWORKS = {
    "pydantic_ai": ("population", ["ToolCallPart", "ToolReturnPart", "TextPart"]),
    "langgraph": ("that is how many live in Vienna", ["AIMessage", "ToolMessage", "AIMessage"]),
    "mcp": ("{'result': 6000}", ["population"]),
}
"""What the answer of each has in it, and how its run ends."""

CONFIG = "".join(
    f"""
[agents.{name}]
entrypoint = "framework_{name}:agent"
instances = 2
autostart = false
process.working_directory = "{AGENTS}"
process.spawn_timeout = "60s"
recovery.restart_backoff_base = "10ms"
recovery.max_restart_attempts = 100
"""
    for name in [*FRAMEWORKS, "unfit"]
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("frameworks"), CONFIG) as process:
        yield process


def status(daemon: DaemonProcess, agent: str) -> Any:
    return daemon.call("daemon.status", names=[agent])["agents"][0]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def run_on_each(daemon: DaemonProcess, agent: str) -> dict[int, Any]:
    """What a task on each of two workers gave, by its pid."""
    found: dict[int, Any] = {}
    for _ in range(2):  # the longest rested is next
        task = daemon.call("task.run", agent=agent, objective="How many live in Vienna?")
        assert task["state"] == "succeeded", task["error"]
        found[task["output"]["pid"]] = task["output"]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("agent", FRAMEWORKS)
def test_an_agent_of_a_framework_is_forked_works_and_comes_back(
    daemon: DaemonProcess, agent: str
) -> None:
    daemon.call("agent.start", names=[agent])
    warm = status(daemon, agent)["warm"]
    assert (warm["state"], warm["reason"]) == ("warm", None)
    done = run_on_each(daemon, agent)
    assert {parent(pid) for pid in done} == {warm["pid"]}
    answer, end = FRAMEWORKS[agent]
    for output in done.values():
        assert answer in output["answer"]
        assert output["steps"][-len(end) :] == end
    # The import is not done again: the life after a kill is another fork of the same zygote.
    before = daemon.worker(f"{agent}-0")
    os.kill(before["pid"], signal.SIGKILL)
    after = daemon.await_worker(
        f"{agent}-0", lambda w: w["incarnation"] > before["incarnation"] and w["state"] == "Ready"
    )
    assert parent(after["pid"]) == warm["pid"]
    again = run_on_each(daemon, agent)
    assert after["pid"] in again
    values = [output["random"] for output in [*done.values(), *again.values()]]
    assert len(set(values)) == len(values), "forks draw the same random numbers"
    daemon.call("agent.stop", names=[agent])


def test_an_agent_whose_import_cannot_be_forked_starts_cold_and_says_why(
    daemon: DaemonProcess,
) -> None:
    daemon.call("agent.start", names=["unfit"])
    warm = status(daemon, "unfit")["warm"]
    assert warm["state"] == "cold"
    for word in ("telemetry", "framework_unfit"):
        assert word in warm["reason"]
    done = run_on_each(daemon, "unfit")
    assert len({output["random"] for output in done.values()}) == 2
    assert "telemetry" in daemon.corral("show", "unfit").stdout
    daemon.call("agent.stop", names=["unfit"])
