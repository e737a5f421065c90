"""Agents made with real frameworks, warm: one import for all workers, each of which does its task and comes back after a kill."""

import os
import shutil
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

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"

CREWAI = "CORRAL_CREWAI"
"""The variable that names an interpreter with crewai, which needs another version of mcp than the tests: `make long crewai`."""

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
def test_an_agent_of_a_framework_is_forked_works_and_comes_back(daemon: DaemonProcess, agent: str) -> None:
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


def test_an_agent_whose_import_cannot_be_forked_starts_cold_and_says_why(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["unfit"])
    warm = status(daemon, "unfit")["warm"]
    assert warm["state"] == "cold"
    for word in ("telemetry", "framework_unfit"):
        assert word in warm["reason"]
    done = run_on_each(daemon, "unfit")
    assert len({output["random"] for output in done.values()}) == 2
    assert "telemetry" in daemon.corral("show", "unfit").stdout
    daemon.call("agent.stop", names=["unfit"])


def talk(daemon: DaemonProcess, agent: str) -> None:
    """Has two turns of one session, each of which calls a tool of the pool."""
    daemon.call("agent.start", names=[agent])
    for turn, objective in enumerate(("the sea is blue", "the sky too"), start=1):
        task = daemon.call("task.run", agent=agent, objective=objective, session="ada")
        assert task["state"] == "succeeded", task["error"]
        assert task["output"] == f"stored, in turn {turn}"
        assert (turn, task["tool_calls"]) == (turn, 1), task
        assert agent == "crewai" or task["tokens_used"] > 0  # its offline model counts none
    found = daemon.call("mcp.call", name="cortex__cortex_search", arguments={"query": "sky"})
    assert [item["content"] for item in found["structuredContent"]["items"]] == ["the sky too"]


@pytest.mark.parametrize("agent", ["langgraph", "pydantic-ai", "openai-agents", "agno"])
def test_an_example_of_a_framework_calls_tools_and_remembers_its_session(
    tmp_path: Path, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORTEX_DB", str(tmp_path / "cortex.db"))
    with DaemonProcess(tmp_path, "", f"--config={EXAMPLES / 'corral.toml'}") as daemon:
        talk(daemon, agent)
        assert status(daemon, agent)["warm"]["state"] == "warm"


@pytest.mark.skipif(CREWAI not in os.environ, reason="crewai is not installed; make crewai does it")
def test_the_example_of_crewai_calls_tools_and_remembers_its_session(tmp_path: Path) -> None:
    for name in ("crewai_agent.py", "crewai.toml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    config = (tmp_path / "crewai.toml").read_text().replace("crewai/bin/python", "{python}")
    with DaemonProcess(tmp_path, config.format(python=os.environ[CREWAI])) as daemon:
        talk(daemon, "crewai")
