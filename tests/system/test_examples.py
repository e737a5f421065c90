"""Runs the examples with a real daemon; tests/docs runs what README and docs show."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cluster_of_daemons import engine_or_skip
from daemon_process import BOUND_S, DaemonProcess, until
from free_ports import free_port
from mcp_editor import serving
from node_packages import NODE_FOLDER

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("example", ["hello", "protocol", "warm", "node", "streaming", "acp"])
def test_an_example_runs_under_its_own_configuration(
    tmp_path: Path, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{NODE_FOLDER / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CORTEX_DB", str(tmp_path / "cortex.db"))
    folder = ROOT / "examples" / example
    with DaemonProcess(tmp_path, "", f"--config={folder / 'corral.toml'}") as daemon:
        daemon.call("agent.start", all=True)
        agents = daemon.call("daemon.status")["agents"]
        assert agents
        for agent in agents:
            task = daemon.call("task.run", agent=agent["name"], objective="try it", input="corral")
            assert task["state"] == "succeeded", task
            assert task["output"] is not None


def test_the_jobs_and_timers_of_the_example_run(tmp_path: Path) -> None:
    port = str(free_port())
    folder = ROOT / "examples" / "jobs"
    config = (folder / "corral.toml").read_text("utf-8").replace("8766", port)
    config += f'process.working_directory = "{folder}"\n'.replace("process.", "[process]\n", 1)
    with DaemonProcess(tmp_path, config) as daemon:
        assert daemon.corral("start", "web").returncode == 0
        (migrate,) = daemon.call("daemon.status", names=["migrate"])["agents"]
        assert migrate["job"] == "succeeded"
        for name in ("backup", "report"):
            task = daemon.call("schedule.run", name=name)
            assert daemon.call("task.wait", task=task["id"])["state"] == "succeeded"
        assert "copied everything" in daemon.corral("logs", "backup").stdout


def test_the_models_of_the_example_are_measured_limited_and_replaced(tmp_path: Path) -> None:
    port, folder = str(free_port()), ROOT / "examples" / "models"
    config = (folder / "corral.toml").read_text("utf-8").replace("18433", port)
    config += f'\n[process]\nworking_directory = "{folder}"\n'
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", all=True)
        task = daemon.call("task.run", agent="writer", objective="the sea is deep")
        assert (task["output"], task["tokens_used"]) == ("the sea is deep", 8)
        assert task["cost_cents"] == pytest.approx(2.0)
        assert daemon.call("task.run", agent="patient", objective="two words")["tokens_used"] == 4
        assert daemon.call("task.run", agent="frugal", objective="a " * 8)["tokens_used"] == 16
        held = daemon.call("task.submit", agent="frugal", objective="no cent is left")
        until(lambda: "max_cost_cents_per_day" in daemon.call("task.show", task=held["id"])["reason"])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts", timeout=BOUND_S) as answer:
            counts = json.load(answer)
        models = {each["name"]: each for each in daemon.call("models.list")["models"]}
        assert counts["tokens"] == models["small"]["tokens_today"] == 28
        assert models["busy"]["tokens_today"] == 0


@pytest.mark.long
def test_the_plain_service_is_replaced_when_it_hangs(tmp_path: Path) -> None:
    port = str(free_port())
    config = (ROOT / "examples" / "web" / "corral.toml").read_text("utf-8").replace("8765", port)
    with DaemonProcess(tmp_path, config) as daemon:
        assert daemon.corral("start", "web").returncode == 0
        assert daemon.corral("signal", "web", "STOP").returncode == 0
        second = daemon.await_worker("web-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
        assert second["last_exit"]["result"] == "stopped"


@pytest.mark.long
def test_an_editor_sees_what_its_profile_shows_of_servers_that_all_share(tmp_path: Path) -> None:
    config = ROOT / "examples" / "editor" / "corral.toml"
    with DaemonProcess(tmp_path, "", f"--config={config}") as daemon:
        with serving(daemon.socket, "--profile", "reading") as session:
            session.initialize()
            tools = {tool["name"] for tool in session.ask(2, "tools/list")["result"]["tools"]}
            asked = {"name": "time__get_current_time", "arguments": {"timezone": "UTC"}}
            answer = session.ask(3, "tools/call", **asked)["result"]
        assert {"git__git_log", "time__get_current_time"} <= tools
        assert not tools & {"git__git_commit", "time__convert_time", "corral__stop"}
        assert "UTC" in answer["content"][0]["text"]
        done = daemon.corral("mcp", "call", "time__get_current_time", "timezone=UTC")
        assert (done.returncode, "UTC" in done.stdout) == (0, True)


def test_the_node_worker_lets_go_of_a_task_in_time_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{NODE_FOLDER / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CORTEX_DB", str(tmp_path / "cortex.db"))
    config = ROOT / "examples" / "node" / "corral.toml"
    with DaemonProcess(tmp_path, "", f"--config={config}") as daemon:
        daemon.call("agent.start", names=["node"])
        before = daemon.worker("node-0")["pid"]
        slow = {"wait_s": 100}
        task = daemon.call("task.run", agent="node", objective="slow", input=slow, timeout_s=1.0)
        assert task["state"] == "timeout"
        task = daemon.call("task.run", agent="node", objective="again")
        assert task["output"] == {"said": "again", "attempt": 1}
        assert daemon.worker("node-0")["pid"] == before


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("runtime_example", "restarts: 1"),
        ("dynamic_runtime_management", "removed: ['second']"),
        ("multi_agent_runtime", "poet: 20 of 20 tasks succeeded"),
        ("mcp_agent_example", "the first commit"),
        ("cluster_runtime_example", "berlin is ready oslo is ready\nherons: grey wings over the pond (poet-0)\n"),
    ],
)
def test_a_program_with_a_daemon_of_its_own_runs_to_its_end(tmp_path: Path, name: str, shown: str) -> None:
    if name.startswith("cluster"):
        engine_or_skip("nats")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@localhost"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "the first commit"], check=True)
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "examples" / f"{name}.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=2 * BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_programs_that_use_either_runtime_are_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="it comes with the extra `check`")
    names = ["runtime_example", "dynamic_runtime_management", "multi_agent_runtime", "cluster_runtime_example"]
    files = [str(ROOT / "examples" / f"{name}.py") for name in [*names, "mcp_agent_example"]]
    checker = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path)]
    done = subprocess.run(
        [*checker, "--config-file=", *files],
        capture_output=True,
        text=True,
        timeout=4 * BOUND_S,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
