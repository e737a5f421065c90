"""A new configuration under a running daemon."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from corral.worker.errors import InvalidParams
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CREW = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
"""

PLAIN = '[agents.{name}]\ncommand = ["sleep", "{seconds}"]\nprotocol = "none"\n'


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    config = CREW + PLAIN.format(name="plain", seconds=600) + PLAIN.format(name="goes", seconds=600)
    with DaemonProcess(tmp_path_factory.mktemp("reload"), config) as process:
        process.call("agent.start", all=False, names=["crew", "plain", "goes"])
        yield process


def names(daemon: DaemonProcess) -> set[str]:
    return {agent["name"] for agent in daemon.call("daemon.status")["agents"]}


def test_only_what_has_changed_is_touched_and_running_tasks_go_on(daemon: DaemonProcess) -> None:
    crew, plain = daemon.worker("crew-0"), daemon.worker("plain-0")
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent="crew", objective="wait")
        next(client.notifications())
    daemon.config.write_text(
        CREW
        + PLAIN.format(name="plain", seconds=601)
        + PLAIN.format(name="new", seconds=600)
        + '[mcp.servers.git]\ncommand = ["mcp-server-git"]\n'
    )
    dry = daemon.call("daemon.reload", dry_run=True)
    assert dry["added"] == ["new", "git"]
    assert dry["removed"] == ["goes"]
    assert dry["changed"] == {"plain": "restart"}
    assert "goes" in names(daemon)
    assert daemon.call("daemon.reload") == dry
    daemon.await_worker("plain-0", lambda w: w["incarnation"] > 1 and w["state"] == "Ready")
    daemon.await_worker("new-0", lambda w: w["state"] == "Ready")
    assert names(daemon) == {"crew", "plain", "new"}
    assert daemon.worker("plain-0")["pid"] != plain["pid"]
    assert daemon.worker("crew-0")["pid"] == crew["pid"]
    assert daemon.call("task.show", task=task["id"])["state"] == "running"
    assert any(t["server"] == "git" for t in daemon.call("mcp.tools")["tools"])
    assert daemon.corral("reload").stdout == "nothing has changed\n"


def test_a_broken_file_changes_nothing(daemon: DaemonProcess) -> None:
    before = daemon.call("daemon.status")["agents"]
    daemon.config.write_text(CREW + "[agents.other]\ncomand = ['x']\n")
    with pytest.raises(InvalidParams) as refusal:
        daemon.call("daemon.reload")
    assert refusal.value.data["key"] == "agents.other.comand"
    assert refusal.value.data["line"] == 6
    done = daemon.corral("reload")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    after = daemon.call("daemon.status")["agents"]
    assert [a["workers"][0]["pid"] for a in after] == [a["workers"][0]["pid"] for a in before]


def test_a_hangup_is_a_reload(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("event.follow", {"types": ["config.*"]}, timeout_s=BOUND_S)
        daemon.config.write_text(CREW)
        os.kill(daemon.pid, signal.SIGHUP)
        events: Any = next(client.notifications()).params["events"]
        assert events[-1]["type"] == "config.reloaded"
    assert names(daemon) == {"crew"}


def test_more_workers_in_the_file_are_more_workers(daemon: DaemonProcess) -> None:
    daemon.config.write_text(CREW + "instances = 2\n" + PLAIN.format(name="plain", seconds=600))
    before = daemon.worker("crew-0")["pid"]
    assert daemon.call("daemon.reload")["changed"] == {"crew": "live"}
    daemon.await_worker("crew-1", lambda w: w["state"] == "Ready")
    assert daemon.worker("crew-0")["pid"] == before
