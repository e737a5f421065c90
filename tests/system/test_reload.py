"""A new configuration under a running daemon."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams
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


@pytest.mark.long
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
    daemon.call("task.cancel", task=task["id"])  # or the daemon's end would wait for it


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


def plain(names: Iterable[str], *, seconds: int = 600, limit: int = 100) -> str:
    """A file with programs that are Ready by living."""
    agents = "".join(PLAIN.format(name=name, seconds=seconds) for name in names)
    return f"process.max_concurrent_processes = {limit}\n{agents}"


def up(daemon: DaemonProcess) -> list[str]:
    """The workers that have a process."""
    agents = daemon.call("daemon.status")["agents"]
    return [w["id"] for agent in agents for w in agent["workers"] if w["pid"] is not None]


def test_what_found_no_room_is_not_started_because_it_has_changed(tmp_path: Path) -> None:
    three = ("one", "two", "three")
    with DaemonProcess(tmp_path, plain(three, limit=1)) as daemon:
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        daemon.config.write_text(plain(three, seconds=601, limit=1))
        assert daemon.call("daemon.reload")["changed"] == dict.fromkeys(three, "restart")
        daemon.await_worker("one-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
        assert up(daemon) == ["one-0"]


def test_a_reload_that_only_raises_a_limit_is_reported_and_starts_waiting_workers(tmp_path: Path) -> None:
    two = ("one", "two")
    with DaemonProcess(tmp_path, plain(two, limit=1)) as daemon:
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        daemon.config.write_text(plain(two, limit=2))
        assert daemon.corral("reload").stdout != "nothing has changed\n"
        daemon.await_worker("two-0", lambda w: w["state"] == "Ready")


def test_what_waits_for_another_goes_on_waiting_when_it_has_changed(tmp_path: Path) -> None:
    first = PLAIN.format(name="first", seconds=600) + 'ready = { log = "never" }\n'
    after = PLAIN.format(name="after", seconds=600) + 'requires = ["first"]\n'
    with DaemonProcess(tmp_path, first + after) as daemon:
        daemon.await_worker("first-0", lambda w: w["state"] == "Starting")
        daemon.config.write_text(first + after.replace("600", "601"))
        assert daemon.call("daemon.reload")["changed"] == {"after": "restart"}
        assert daemon.worker("after-0")["state"] == "Initial"


def test_a_requirement_that_is_removed_frees_the_worker_that_waits_for_it(tmp_path: Path) -> None:
    first = PLAIN.format(name="first", seconds=600) + 'ready = { log = "never" }\n'
    after = PLAIN.format(name="after", seconds=600)
    other = PLAIN.format(name="other", seconds=600)
    idle = PLAIN.format(name="idle", seconds=600) + "autostart = false\n"
    needs = 'requires = ["first"]\n'
    with DaemonProcess(tmp_path, first + after + needs + other + needs + idle) as daemon:
        daemon.await_worker("first-0", lambda w: w["state"] == "Starting")
        assert daemon.worker("after-0")["state"] == "Initial"
        daemon.config.write_text(first + after + other + 'requires = ["idle"]\n' + idle)
        assert daemon.call("daemon.reload")["changed"] == {"after": "live", "other": "live"}
        daemon.await_worker("after-0", lambda w: w["state"] == "Ready")
        daemon.await_worker("other-0", lambda w: w["state"] == "Ready")
        assert daemon.worker("idle-0")["state"] == "Ready"
        assert daemon.worker("first-0")["state"] == "Starting"


def test_a_worker_whose_heartbeat_interval_gets_shorter_does_not_count_as_hung(tmp_path: Path) -> None:
    slow = CREW + "monitoring = { heartbeat_interval = '1h', heartbeat_timeout = '2h' }\n"
    with DaemonProcess(tmp_path, slow) as daemon:
        pid = daemon.await_worker("crew-0", lambda w: w["state"] == "Ready")["pid"]
        daemon.corral("run", "crew", "wait", "--timeout", "1s")
        daemon.config.write_text(slow.replace("1h", "300ms").replace("2h", "1s"))
        assert daemon.call("daemon.reload")["changed"] == {"crew": "live"}
        daemon.corral("run", "crew", "wait", "--timeout", "3s")
        assert daemon.worker("crew-0")["pid"] == pid


def test_workers_that_require_each_other_are_renewed_in_order(tmp_path: Path) -> None:
    first, after = PLAIN.format(name="first", seconds=600), PLAIN.format(name="after", seconds=600)
    config = f"{after}requires = ['first']\n{first}"
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("after-0", lambda w: w["state"] == "Ready")
        daemon.config.write_text(config.replace("600", "601"))
        daemon.call("daemon.reload")
        daemon.await_worker("after-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
        events = daemon.call("event.list", types=["worker.state"])["events"]
        seen = {(e["agent"], e["to"], e["incarnation"]): e["seq"] for e in events}
        assert seen["first", "Ready", 2] < seen["after", "Starting", 2]
        assert seen["after", "Ready", 2] < seen["after", "ShuttingDown", 1]


def test_what_the_file_names_again_while_it_ends_comes_back(tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(AGENTS / "raw_worker.py"), "deaf"]
    slow = f"[agents.slow]\ncommand = {command}\nprocess.shutdown_grace_period = '1s'\n"
    stays = PLAIN.format(name="stays", seconds=600)
    with DaemonProcess(tmp_path, stays + slow) as daemon:
        daemon.await_worker("slow-0", lambda w: w["state"] == "Ready")
        daemon.config.write_text(stays)
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.await_worker("slow-0", lambda w: w["state"] == "ShuttingDown")
        daemon.config.write_text(stays + slow)
        with daemon.client() as client:
            client.call("event.follow", {"types": ["agent.added"]}, timeout_s=BOUND_S)
            daemon.call("daemon.reload")
            next(client.notifications())
        daemon.await_worker("slow-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
