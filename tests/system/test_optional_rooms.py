"""A daemon runs without each of its optional rooms, and refuses by name what needs them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import corral
from corral.worker.contract.errors import InvalidParams, NotFound
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess

pytestmark = pytest.mark.long

ECHO = f"""
[agents.echo]
command = ["python", "{AGENTS / "sdk_sync.py"}"]
"""


def package_without(folder: Path, *rooms: str) -> dict[str, str]:
    """Returns the environment of a process that imports a copy of corral, in `folder`, without some of its rooms."""
    copy = folder / "lib" / "corral"
    shutil.copytree(corral.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    for room in rooms:
        shutil.rmtree(copy / room)
    return {"PYTHONPATH": str(copy.parent)}


def refused_config(folder: Path, config: str, environ: dict[str, str]) -> str:
    """Returns the last line of a daemon that ends because of its configuration."""
    path = folder / "refused.toml"
    path.write_text(config)
    ended = subprocess.run(
        [str(BIN / "corrald"), f"--config={path}", f"--socket={folder / 'refused.sock'}"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert ended.returncode != 0
    return ended.stderr.strip().splitlines()[-1]


def test_without_orchestration_agents_run_tasks_and_schedules_and_teams_are_refused(tmp_path: Path) -> None:
    environ = package_without(tmp_path, "supervisor/tasks/workflows")
    with DaemonProcess(tmp_path, ECHO, environ=environ) as here:
        done = here.call("task.run", agent="echo", objective="echo")
        assert done["state"] == "succeeded"
        with pytest.raises(NotFound) as schedule:
            here.call("schedule.list")
        assert schedule.value.data["room"] == "orchestration"
        team = {"members": ["echo"], "mode": "broadcast"}
        with pytest.raises(NotFound) as added:
            here.call("team.add", name="duo", spec=team)
        assert added.value.data["room"] == "orchestration"
        here.config.write_text(ECHO + '\n[teams.duo]\nmembers = ["echo"]\nmode = "broadcast"\n')
        with pytest.raises(InvalidParams) as reload:
            here.call("daemon.reload")
        assert reload.value.data["key"] == "teams.duo"


def test_without_orchestration_a_configuration_with_a_workflow_is_refused_by_its_name(tmp_path: Path) -> None:
    environ = package_without(tmp_path, "supervisor/tasks/workflows")
    config = ECHO + '\n[workflows.chain]\nsteps = [{ name = "one", agent = "echo" }]\n'
    assert "workflows.chain" in refused_config(tmp_path, config, environ)


def test_without_cortex_there_is_no_memory_server_and_the_memory_of_sessions_stays(tmp_path: Path) -> None:
    environ = package_without(tmp_path, "mcp/cortex")
    config = ECHO + '\n[daemon]\nlog_level = "debug"\n'
    with DaemonProcess(tmp_path, config, environ=environ) as here:
        assert here.call("daemon.status")["mcp_servers"] == []
        assert here.call("mcp.tools")["tools"] == []
        done = here.call("task.run", agent="echo", objective="echo")
        assert done["state"] == "succeeded"
        here.call("memory.put", agent="echo", key="k", value=1)
        assert here.call("memory.get", agent="echo", key="k") == {"value": 1}
        assert "no built-in memory server" in here.log.read_text()


def test_without_zygotes_workers_start_cold_and_say_why(tmp_path: Path) -> None:
    environ = package_without(tmp_path, "supervisor/workers/zygote", "worker/zygote")
    config = f"""
[agents.pair]
entrypoint = "forked_agent:agent"
instances = 2
process.working_directory = "{AGENTS}"
"""
    with DaemonProcess(tmp_path, config, environ=environ) as daemon:
        daemon.call("agent.start", names=["pair"])
        (agent,) = daemon.call("daemon.status", names=["pair"])["agents"]
        assert [worker["state"] in ("Ready", "Idle") for worker in agent["workers"]] == [True] * 2
        assert agent["warm"]["state"] == "cold"
        assert "no zygotes" in agent["warm"]["reason"]
        (event,) = daemon.call("event.list", types=["agent.cold"])["events"]
        assert event["agent"] == "pair"
        daemon.call("agent.restart", names=["pair"])
        ran = daemon.call("task.run", agent="pair", objective="say")["output"]
        assert ran["pid"] in [daemon.worker(f"pair-{number}")["pid"] for number in range(2)]
        daemon.config.write_text(config.replace("instances = 2", "instances = 1"))
        assert daemon.call("daemon.reload")["changed"]
