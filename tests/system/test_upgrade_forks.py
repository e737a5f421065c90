"""`corral daemon upgrade` with workers that are forks: they, their zygotes and the spares live on, and the next forks are of the same."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.linux import kernel
from daemon_process import AGENTS, DaemonProcess, marked, until
from upgrading import check_unchanged, lives

PLACE = f'process.working_directory = "{AGENTS}"'
FORKED = f'entrypoint = "forked_agent:agent"\n{PLACE}\n'
UP = ("Ready", "Idle", "Busy")

CONFIG = f"""
[daemon]
containment = "{{tier}}"
[agents.pair]
instances = 2
min_spare = 1
{FORKED}
[agents.one]
preload = ["json"]
{FORKED}
[agents.two]
preload = ["json"]
{FORKED}
"""

TIERS = ["launcher", *(pytest.param(tier, marks=pytest.mark.long) for tier in ("auto", "pidns"))]


@pytest.fixture(scope="module", params=TIERS)
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    if request.param == "pidns" and os.geteuid() != 0:
        pytest.skip("an ordinary user's namespaces may be refused")
    folder = tmp_path_factory.mktemp("forks")
    with DaemonProcess(folder, CONFIG.format(tier=request.param)) as process:
        yield process
        assert process.stop() == 0
    assert marked(folder) == []


def warmth(daemon: DaemonProcess, agent: str) -> Any:
    (entry,) = daemon.call("daemon.status", names=[agent])["agents"]
    return entry["warm"]


def await_up(daemon: DaemonProcess, *workers: str) -> None:
    for worker in workers:
        daemon.await_worker(worker, lambda w: w["state"] in UP)


def await_spare(daemon: DaemonProcess) -> None:
    until(lambda: warmth(daemon, "pair")["spares"] == 1)


def upgrade(daemon: DaemonProcess) -> None:
    """Upgrades; workers, zygotes and spares are the same after it."""
    await_spare(daemon)
    before = lives(daemon), [warmth(daemon, name) for name in ("pair", "one", "two")]
    upgrades = daemon.call("daemon.status")["daemon"]["upgrades"]
    daemon.call("daemon.upgrade")
    check_unchanged(daemon, before[0], upgrades + 1)
    assert [warmth(daemon, name) for name in ("pair", "one", "two")] == before[1]


def parent_of(pid: int) -> int:
    process = kernel.look_up(pid)
    assert process is not None
    return process.parent


def test_forks_go_on_and_the_next_are_of_the_same_zygote(daemon: DaemonProcess) -> None:
    """A spare that was forked before becomes a worker after, and others are forked."""
    await_up(daemon, "pair-0", "pair-1", "one-0", "two-0")
    for _ in range(2):
        upgrade(daemon)
        zygote = warmth(daemon, "pair")["pid"]
        (spare,) = [
            int(pid)
            for pid in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
            if int(pid) not in [daemon.worker(f"pair-{number}")["pid"] for number in (0, 1)]
        ]
        daemon.call("agent.scale", name="pair", instances=4)
        await_up(daemon, "pair-2", "pair-3")
        pids = [daemon.worker(f"pair-{number}")["pid"] for number in range(4)]
        assert spare in pids
        assert {parent_of(pid) for pid in pids} == {zygote}
        daemon.call("agent.scale", name="pair", instances=2)
        assert parent_of(warmth(daemon, "two")["pid"]) == warmth(daemon, "one")["shared_pid"]
        for name in ("pair", "one", "two"):
            assert daemon.call("task.run", agent=name, objective="print")["state"] == "succeeded"


def test_the_end_of_a_fork_and_of_a_zygote_are_seen_after_an_upgrade(daemon: DaemonProcess) -> None:
    await_up(daemon, "pair-0", "pair-1")
    upgrade(daemon)
    before, zygote = daemon.worker("pair-0"), warmth(daemon, "pair")["pid"]
    os.kill(before["pid"], signal.SIGKILL)
    again = daemon.await_worker("pair-0", lambda w: w["state"] in UP and w["pid"] != before["pid"])
    assert (again["incarnation"], parent_of(again["pid"])) == (before["incarnation"] + 1, zygote)
    upgrade(daemon)
    os.kill(zygote, signal.SIGKILL)
    daemon.await_worker("pair-0", lambda w: w["state"] in UP and w["pid"] != again["pid"])
    await_up(daemon, "pair-1")
    until(lambda: warmth(daemon, "pair")["pid"] not in (None, zygote))
    assert daemon.worker("one-0")["restarts"] == 0


def test_a_change_of_the_environment_reloads_the_zygote_after_an_upgrade(daemon: DaemonProcess) -> None:
    await_up(daemon, "one-0", "two-0")
    upgrade(daemon)
    before, other = warmth(daemon, "one"), warmth(daemon, "two")
    daemon.call("agent.restart", names=["one"])
    await_up(daemon, "one-0")
    assert warmth(daemon, "one")["pid"] == before["pid"], "nothing has changed"
    daemon.call("agent.set", name="one", spec={"environment": {"MORE": "1"}})
    until(lambda: warmth(daemon, "one")["pid"] not in (None, before["pid"]))
    await_up(daemon, "one-0")
    assert warmth(daemon, "two") == other


def test_after_a_kill_of_the_daemon_no_fork_or_zygote_is_left(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG.format(tier="launcher")) as daemon:
        await_up(daemon, "pair-1", "one-0", "two-0")
        upgrade(daemon)
        daemon.kill()
        until(lambda: marked(tmp_path) == [])
