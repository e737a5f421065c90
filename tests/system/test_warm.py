"""Workers that are forks of their agent's zygote: the same life as any other, and the zygote's end."""

import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.linux import kernel
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked

PLACE = f'process.working_directory = "{AGENTS}"'
UP = ("Ready", "Idle", "Busy")

CONFIG = f"""
[daemon]
containment = "{{tier}}"

[agents.pair]
entrypoint = "forked_agent:agent"
instances = 2
{PLACE}

[agents.small]
entrypoint = "forked_agent:agent"
resources.max_memory_bytes = "200MB"
monitoring.metrics_interval = "500ms"
autostart = false
{PLACE}

[agents.once]
entrypoint = "forked_agent:agent"
autostart = false
recovery.restart_backoff_base = "10ms"
{PLACE}

[agents.hanging]
entrypoint = "forked_agent:agent"
environment.HANG = "1"
autostart = false
process.spawn_timeout = "1s"
recovery.restart = "never"
{PLACE}

[agents.patient]
entrypoint = "forked_agent:agent"
environment.HANG = "1"
autostart = false
{PLACE}

[agents.unfit]
entrypoint = "threaded_agent:agent"
autostart = false
process.working_directory = "{{folder}}"

[agents.broken]
entrypoint = "no_such_module:agent"
autostart = false
recovery.restart = "never"
{PLACE}

[agents.confined]
entrypoint = "forked_agent:agent"
autostart = false
process.read_paths = ["{AGENTS}", "{Path(__file__).parents[2]}"]
{PLACE}

[agents.liar]
entrypoint = "perjurer:agent"
autostart = false
environment.PERJURY = "flood"
recovery.restart_backoff_base = "10ms"
{PLACE}
"""

THREADED = """
import threading
from forked_agent import agent
threading.Thread(target=threading.Event().wait, name="exporter", daemon=True).start()
"""


def config(folder: Path, tier: str) -> str:
    (folder / "threaded_agent.py").write_text(THREADED)
    (folder / "forked_agent.py").write_text((AGENTS / "forked_agent.py").read_text())
    return CONFIG.format(folder=folder, tier=tier)


TIERS = ["launcher", *(pytest.param(tier, marks=pytest.mark.long) for tier in ("auto", "pidns"))]


@pytest.fixture(scope="module", params=TIERS)
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon in each tier; what `auto` finds here is not the first one, where there are cgroups."""
    if request.param == "pidns" and os.geteuid() != 0:
        pytest.skip("an ordinary user's namespaces may be refused")
    folder = tmp_path_factory.mktemp("warm")
    with DaemonProcess(folder, config(folder, request.param)) as process:
        if request.param == "auto":
            tier = process.call("daemon.status", names=[])["daemon"]["containment"]
            if tier == "launcher":
                pytest.skip("no cgroups here")
        yield process


def up(daemon: DaemonProcess, worker: str) -> Any:
    return daemon.await_worker(worker, lambda status: status["state"] in UP)


def up_again(daemon: DaemonProcess, worker: str, life: int) -> Any:
    return daemon.await_worker(worker, lambda status: status["incarnation"] > life and status["state"] in UP)


def ask(daemon: DaemonProcess, agent: str, objective: str, **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, **more)["output"]


def warmth(daemon: DaemonProcess, agent: str) -> Any:
    (entry,) = daemon.call("daemon.status", names=[agent])["agents"]
    return entry["warm"]


def parent_of(pid: int) -> int:
    process = kernel.look_up(pid)
    assert process is not None
    return process.parent


def await_end(pids: list[int]) -> None:
    """Until these processes are dead, as their pidfds say."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([fd], [], [], BOUND_S)[0], f"pid {pid} lives"
        finally:
            os.close(fd)


# --- a life as any other's ---


def test_the_workers_of_an_agent_are_forks_of_one_zygote(daemon: DaemonProcess) -> None:
    pids = [up(daemon, f"pair-{number}")["pid"] for number in (0, 1)]
    zygote = warmth(daemon, "pair")
    assert zygote["state"] == "warm"
    assert {parent_of(pid) for pid in pids} == {zygote["pid"]}
    said = ask(daemon, "pair", "who")
    assert said["session"] == said["pid"], "each has a session of its own"
    assert said["unit"].startswith("pair-")
    own, short = said["temporary"].rpartition("/")[::2]
    assert own.rpartition("/")[2].startswith("pair.zygote.")
    assert said["unit"].replace("#", ".") == f"pair-{short}", "a path of a socket there has 107 bytes"


def test_each_fork_prints_into_its_own_log_and_the_zygote_into_its_own(daemon: DaemonProcess) -> None:
    up(daemon, "pair-0")
    unit = ask(daemon, "pair", "print")["unit"]
    shown = daemon.corral("logs", "pair").stdout.splitlines()
    assert all(len(line.split()) > len(("time", "worker", "stream")) for line in shown), "one is empty"
    ours = [line for line in shown if line.endswith(("to stdout", "to stderr"))]
    assert len(ours) == 2
    assert all(unit.partition("#")[0] in line for line in ours)
    (imported,) = [line for line in shown if "imported by" in line]
    assert "pair.zygote" in imported


def test_a_fork_that_is_killed_is_restarted_as_another_fork(daemon: DaemonProcess) -> None:
    before = up(daemon, "pair-1")
    zygote = warmth(daemon, "pair")["pid"]
    os.kill(before["pid"], signal.SIGKILL)
    after = daemon.await_worker(
        "pair-1", lambda status: status["incarnation"] > before["incarnation"] and status["state"] in UP
    )
    assert after["last_exit"]["signal"] == "SIGKILL"
    assert parent_of(after["pid"]) == zygote


def test_what_escapes_from_a_fork_is_ended_with_it(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["once"])
    ask(daemon, "once", "escape")
    zygote = warmth(daemon, "once")["pid"]
    tree = [process.pid for process in kernel.walk(zygote)]
    daemon.call("agent.stop", names=["once"])
    await_end(tree)


def test_a_paused_fork_stands_still_and_goes_on(daemon: DaemonProcess) -> None:
    up(daemon, "pair-0")
    daemon.call("agent.pause", names=["pair"])
    assert daemon.worker("pair-0")["paused"]
    daemon.call("agent.resume", names=["pair"])
    assert ask(daemon, "pair", "who")["unit"].startswith("pair-")


def test_a_signal_reaches_the_fork_alone(daemon: DaemonProcess) -> None:
    before = up(daemon, "pair-1")
    zygote = warmth(daemon, "pair")["pid"]
    assert daemon.corral("signal", "pair-1", "KILL").returncode == 0
    daemon.await_worker(
        "pair-1", lambda status: status["incarnation"] > before["incarnation"] and status["state"] in UP
    )
    assert warmth(daemon, "pair")["pid"] == zygote


def test_a_fork_that_takes_too_much_memory_is_ended(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["small"])
    task = daemon.call("task.submit", agent="small", objective="eat")["id"]
    status = daemon.await_worker("small-0", lambda status: status["last_exit"] is not None)
    assert status["last_exit"]["result"] == "oom"
    daemon.call("task.cancel", task=task)
    daemon.call("agent.stop", names=["small"])


def test_the_tree_of_a_fork_has_only_the_rights_of_its_agent(daemon: DaemonProcess) -> None:
    up(daemon, "pair-0")
    record = daemon.call("task.run", agent="pair", objective="stop another", input=str(daemon.socket))
    assert record["state"] == "failed"
    assert "PermissionDenied" in json.dumps(record["error"])


def test_nothing_is_left_of_an_agent_that_was_stopped(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["once"])
    zygote = warmth(daemon, "once")["pid"]
    daemon.call("agent.stop", names=["once"])
    await_end([zygote])
    assert warmth(daemon, "once") is None


# --- where there are no forks ---


def test_an_import_that_hangs_is_a_start_timeout(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["hanging"], wait=False)
    status = daemon.await_worker("hanging-0", lambda status: status["state"] == "Terminated")
    assert status["last_exit"]["result"] == "start-timeout"


def test_a_stop_during_an_import_does_not_wait_for_it(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["patient"], wait=False)
    daemon.await_worker("patient-0", lambda status: status["state"] == "Starting")
    assert warmth(daemon, "patient")["state"] == "loading"
    daemon.call("agent.stop", names=["patient"])
    assert daemon.worker("patient-0")["state"] == "Terminated"
    assert warmth(daemon, "patient") is None


def test_what_cannot_be_forked_starts_cold_and_it_is_said_why(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["unfit"])
    found = warmth(daemon, "unfit")
    assert found["state"] == "cold"
    assert "exporter" in found["reason"]
    assert "threaded_agent" in found["reason"]
    assert "starts cold" in daemon.corral("status", "unfit").stdout
    assert "unfit starts cold" in daemon.corral("doctor").stdout
    told = daemon.call("event.list", types=["agent.cold"])["events"]
    assert [event["reason"] for event in told if event["agent"] == "unfit"] == [found["reason"]]
    assert ask(daemon, "unfit", "who")["parent"] != 0
    daemon.call("agent.stop", names=["unfit"])


def test_an_agent_whose_files_are_kept_from_it_starts_cold(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["confined"])
    found = warmth(daemon, "confined")
    assert (found["state"], found["pid"]) == ("cold", None)
    assert "read_paths" in found["reason"]
    daemon.call("agent.stop", names=["confined"])


def test_an_entrypoint_that_is_not_there_is_shown_by_the_start(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["broken"], wait=False)
    status = daemon.await_worker("broken-0", lambda status: status["state"] == "Terminated")
    assert "no_such_module" in status["last_exit"]["message"]


# --- the end of a zygote ---


def test_the_death_of_a_zygote_is_that_of_its_workers_and_they_are_restarted(daemon: DaemonProcess) -> None:
    lives = {name: up(daemon, name)["incarnation"] for name in ("pair-0", "pair-1")}
    zygote = warmth(daemon, "pair")["pid"]
    os.kill(zygote, signal.SIGSEGV)
    for name, life in lives.items():
        status = up_again(daemon, name, life)
        assert "the zygote died (killed by SIGSEGV)" in status["last_exit"]["message"]
    assert warmth(daemon, "pair")["pid"] not in (zygote, None)


def test_a_zygote_that_floods_the_daemon_is_given_up_and_the_agent_works(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["liar"], wait=False)
    with daemon.client() as client:
        client.call("event.follow", {"types": ["agent.cold"]}, timeout_s=BOUND_S)
        changes = client.notifications()
        while (found := warmth(daemon, "liar")) is None or found["state"] != "cold":
            next(changes)
    assert "sent an invalid message" in warmth(daemon, "liar")["reason"]
    assert warmth(daemon, "pair")["state"] == "warm"
    daemon.call("agent.stop", names=["liar"])


def test_an_emergency_stop_leaves_no_zygote(daemon: DaemonProcess) -> None:
    up(daemon, "pair-0")
    ask(daemon, "pair", "escape")
    tree = [process.pid for process in kernel.walk(warmth(daemon, "pair")["pid"])]
    daemon.call("daemon.emergency_stop")
    await_end(tree)
    daemon.call("agent.start", names=["pair"])


@pytest.mark.parametrize("victim", ["daemon", "launcher"])
def test_nothing_of_a_zygote_outlives_daemon_or_launcher(daemon: DaemonProcess, tmp_path: Path, victim: str) -> None:
    tier = daemon.call("daemon.status", names=[])["daemon"]["containment"]
    asked = tier if tier in ("launcher", "pidns") else "auto"
    with DaemonProcess(tmp_path, config(tmp_path, asked)) as other:
        before = [up(other, name) for name in ("pair-0", "pair-1")]
        ask(other, "pair", "escape")
        tree = [process.pid for process in kernel.walk(warmth(other, "pair")["pid"])]
        assert len(tree) >= 4
        if victim == "daemon":
            other.kill()
            await_end(tree)
            return
        os.kill(other.call("daemon.status", names=[])["daemon"]["launcher_pid"], signal.SIGKILL)
        await_end(tree)
        for status in before:
            again = up_again(other, status["id"], status["incarnation"])
            assert "the launcher died" in again["last_exit"]["message"]
    assert marked(tmp_path) == []
