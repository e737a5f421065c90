"""The examples, and the one in the README, with a real daemon: a newcomer's first minute."""

import re
import shlex
import socket
from pathlib import Path

import pytest

from daemon_process import DaemonProcess
from mcp_editor import serving

ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )


def test_the_agent_in_the_readme_does_what_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "greeter.py").write_text(blocks("python")[0])
    with DaemonProcess(tmp_path, blocks("toml")[0]) as daemon:
        daemon.call("agent.start", names=["greeter"])
        done = daemon.corral("run", "greeter", "say hello", "--input", '"world"')
        assert (done.returncode, done.stdout) == (0, "hello, world\n")
        assert daemon.corral("status").returncode == 0
        assert daemon.corral("logs", "greeter").returncode == 0


def test_the_tasks_in_the_readme_do_what_the_readme_says(tmp_path: Path) -> None:
    for name in ("greeter", "reader", "writer"):
        (tmp_path / f"{name}.py").write_text(blocks("python")[0])
    others = "".join(f'[agents.{n}]\nentrypoint = "{n}:agent"\n' for n in ("reader", "writer"))
    (commands,) = [block for block in blocks("console") if "--session" in block]
    with DaemonProcess(tmp_path, blocks("toml")[0] + others + blocks("toml")[1]) as daemon:
        daemon.call("agent.start", names=["greeter", "reader", "writer"])
        first = daemon.call("task.run", agent="greeter", objective="first")["id"]
        lines = [shlex.split(line, comments=True) for line in commands.splitlines()]
        for _, corral, *words in lines:
            assert corral == "corral"
            done = daemon.corral(*[first if word == "ID" else word for word in words])
            assert done.returncode == 0, done.stderr
        made = [record["name"] for record in daemon.call("schedule.list")["schedules"]]
        assert made == ["morning"]
        done = daemon.corral("run", "report", "the week", "--input", '"it"')
        assert done.returncode == 0, done.stderr
        assert "reader" in done.stdout


@pytest.mark.parametrize("example", ["hello", "protocol", "warm"])
def test_an_example_runs_under_its_own_configuration(tmp_path: Path, example: str) -> None:
    folder = ROOT / "examples" / example
    with DaemonProcess(tmp_path, "", f"--config={folder / 'corral.toml'}") as daemon:
        daemon.call("agent.start", all=True)
        agents = daemon.call("daemon.status")["agents"]
        assert agents
        for agent in agents:
            task = daemon.call("task.run", agent=agent["name"], objective="try it", input="corral")
            assert task["state"] == "succeeded", task
            assert task["output"] is not None


def test_the_plain_service_is_replaced_when_it_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    config = (ROOT / "examples" / "web" / "corral.toml").read_text("utf-8").replace("8765", port)
    with DaemonProcess(tmp_path, config) as daemon:
        assert daemon.corral("start", "web").returncode == 0
        assert daemon.corral("signal", "web", "STOP").returncode == 0
        second = daemon.await_worker(
            "web-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready"
        )
        assert second["last_exit"]["result"] == "stopped"


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
