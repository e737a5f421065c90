"""Agents with the same `preload`: one process imports it for all, and what befalls one of them is its own."""

import contextlib
import os
import select
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.linux import kernel
from daemon_process import BOUND_S, DaemonProcess

SHARED = """
import os
VALUE = 1
IMPORTED_IN = os.getpid()
"""

AGENT = """
import os
import shared_imports
OWN = 1

def report():
    return {"value": shared_imports.VALUE, "imported_in": shared_imports.IMPORTED_IN, "own": OWN, "pid": os.getpid()}
"""

NAMES = ("one", "two", "three")

AGENTS = "".join(
    f"""
[agents.{name}]
entrypoint = "agent_{name}:report"
preload = ["{preload}"]
recovery.restart_backoff_base = "10ms"
recovery.max_restart_attempts = 100
{more}
"""
    for name, preload, more in (
        *((name, "shared_imports", "") for name in NAMES),
        ("secretive", "shared_imports", 'environment.API_KEY = "x"\nautostart = false'),
        ("dying", "shared_imports", 'autostart = false\nrecovery.restart = "never"'),
        ("bare", "no_such_module", 'autostart = false\nrecovery.restart = "never"'),
    )
)


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.new").write_text(text)
    (folder / f"{name}.new").replace(folder / f"{name}.py")


TIERS = ["launcher", *(pytest.param(tier, marks=pytest.mark.long) for tier in ("auto", "pidns"))]


@pytest.fixture(params=TIERS)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DaemonProcess]:
    if request.param == "pidns" and os.geteuid() != 0:
        pytest.skip("an ordinary user's namespaces may be refused")
    write(tmp_path, "shared_imports", SHARED)
    for name in (*NAMES, "secretive", "bare"):
        write(tmp_path, f"agent_{name}", AGENT)
    write(tmp_path, "agent_dying", "import os\nimport shared_imports\nos._exit(3)\n")
    with DaemonProcess(tmp_path, f'[daemon]\ncontainment = "{request.param}"\n{AGENTS}') as process:
        if request.param == "auto":
            tier = process.call("daemon.status", names=[])["daemon"]["containment"]
            if tier == "launcher":
                pytest.skip("no cgroups here")
        yield process


def ask(daemon: DaemonProcess, name: str) -> Any:
    task = daemon.call("task.run", agent=name, objective="report")
    assert task["state"] == "succeeded", task["error"]
    return task["output"]


def warm(daemon: DaemonProcess, name: str) -> Any:
    return daemon.call("daemon.status", names=[name])["agents"][0]["warm"]


@contextlib.contextmanager
def ending(pid: int) -> Generator[None]:
    """Waits for the end of a process."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        assert select.select([pidfd], [], [], BOUND_S)[0], "it has not ended"
    finally:
        os.close(pidfd)


def parent(pid: int) -> int:
    process = kernel.look_up(pid)
    assert process is not None
    return process.parent


def worker(daemon: DaemonProcess, name: str) -> Any:
    return daemon.await_worker(f"{name}-0", lambda found: found["state"] in ("Ready", "Idle"))


def again(daemon: DaemonProcess, name: str, life: int) -> Any:
    return daemon.await_worker(f"{name}-0", lambda found: found["incarnation"] > life and found["state"] == "Ready")


def test_one_process_imports_for_all_agents_that_are_started_alike(daemon: DaemonProcess) -> None:
    workers = {name: worker(daemon, name)["pid"] for name in NAMES}
    found = {name: warm(daemon, name) for name in NAMES}
    (shared,) = {each["shared_pid"] for each in found.values()}
    assert len({each["pid"] for each in found.values()}) == 3
    for name in NAMES:
        assert parent(workers[name]) == found[name]["pid"]
        assert parent(found[name]["pid"]) == shared
    assert len({ask(daemon, name)["imported_in"] for name in NAMES}) == 1
    # Another environment, which the others must not see, and another failure are by themselves.
    daemon.call("agent.start", names=["secretive"])
    assert ask(daemon, "secretive")["value"] == 1
    assert warm(daemon, "secretive")["shared_pid"] not in (shared, None)
    daemon.call("agent.start", names=["bare"])
    assert ask(daemon, "bare")["value"] == 1
    assert "no_such_module" in warm(daemon, "bare")["reason"]
    with ending(shared):
        daemon.call("agent.stop", names=["secretive", *NAMES])


def test_the_import_the_death_and_the_renewal_of_one_agent_are_its_own(daemon: DaemonProcess, tmp_path: Path) -> None:
    before = {name: worker(daemon, name) for name in NAMES}
    shared = warm(daemon, "one")["shared_pid"]
    daemon.call("agent.start", names=["dying"], wait=False)
    daemon.await_worker("dying-0", lambda found: found["state"] == "Terminated")
    os.kill(warm(daemon, "one")["pid"], signal.SIGKILL)
    after = again(daemon, "one", before["one"]["incarnation"])
    write(tmp_path, "agent_two", AGENT.replace("OWN = 1", "OWN = 2"))
    again(daemon, "two", before["two"]["incarnation"])
    assert ask(daemon, "two")["own"] == 2
    assert worker(daemon, "three")["pid"] == before["three"]["pid"]
    assert worker(daemon, "one")["pid"] == after["pid"]
    assert {warm(daemon, name)["shared_pid"] for name in NAMES} == {shared}


def test_a_change_of_the_shared_sources_reaches_all(daemon: DaemonProcess, tmp_path: Path) -> None:
    before = {name: worker(daemon, name) for name in NAMES}
    shared = warm(daemon, "one")["shared_pid"]
    with ending(shared):
        write(tmp_path, "shared_imports", SHARED.replace("VALUE = 1", "VALUE = 2"))
        for name in NAMES:
            again(daemon, name, before[name]["incarnation"])
            assert ask(daemon, name)["value"] == 2
    (now,) = {warm(daemon, name)["shared_pid"] for name in NAMES}
    assert now != shared


def test_the_death_of_the_shared_process_is_that_of_all_and_all_come_back(daemon: DaemonProcess) -> None:
    before = {name: worker(daemon, name) for name in NAMES}
    shared = warm(daemon, "one")["shared_pid"]
    os.kill(shared, signal.SIGKILL)
    for name in NAMES:
        again(daemon, name, before[name]["incarnation"])
        assert kernel.look_up(before[name]["pid"]) is None
    (now,) = {warm(daemon, name)["shared_pid"] for name in NAMES}
    assert now != shared
