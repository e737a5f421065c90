"""Limits that the kernel's controllers hold: what happens to programs that hit them, and what corral says of it."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from daemon_process import BOUND_S, DaemonProcess, marked
from tier_groups import (
    HOG,
    MIB,
    await_value,
    below,
    change,
    ended,
    event,
    figure,
    group_of,
    lines,
    pids,
    program,
    start,
    value,
    worker_group,
)


def test_the_tier_is_the_best_one_and_the_daemon_says_so(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, program("one", "take", "1")) as daemon:
        assert daemon.call("daemon.status")["daemon"]["containment"] == "cgroup"
        told = daemon.corral("doctor").stdout
        assert "cgroup" in told
        assert "does not offer the controllers" not in told


# -- memory


@pytest.mark.parametrize("where", ["take", "child", "escapee"])
def test_a_tree_over_its_memory_is_killed_whole_and_the_reason_has_the_figures(tmp_path: Path, where: str) -> None:
    config = program("hog", where, "300", max_memory_bytes="100MiB")
    config += program("neighbour", "take", "10", max_memory_bytes="100MiB")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "neighbour")
        before = daemon.worker("neighbour-0")
        start(daemon, "hog", wait=False)
        last = ended(daemon, "hog-0")["last_exit"]
        assert last["result"] == "oom"
        told = event(daemon, "limit.memory", worker="hog-0")
        assert (told["key"], told["limit"]) == ("max_memory_bytes", 100 * MIB)
        assert 90 * MIB < told["used"] <= 101 * MIB
        assert "100.0 MiB" in last["message"]
        after = daemon.worker("neighbour-0")
        assert (after["pid"], after["state"]) == (before["pid"], "Ready")


def test_memory_limits_change_live_and_a_smaller_one_than_is_used_ends_it(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, program("hog", "take", "60", max_memory_bytes="100MiB")) as daemon:
        start(daemon, "hog")
        lines(daemon, "hog", 1)
        folder = worker_group(daemon, "hog-0")
        assert value(folder, "memory.max") == str(100 * MIB)
        assert value(folder, "memory.oom.group") == "1"
        pid = daemon.worker("hog-0")["pid"]
        change(daemon, "hog", "resources.max_memory_bytes=200MiB")
        await_value(folder, "memory.max", str(200 * MIB))
        change(daemon, "hog", "resources.max_memory_bytes=0")
        await_value(folder, "memory.max", "max")
        assert daemon.worker("hog-0")["pid"] == pid
        change(daemon, "hog", "resources.max_memory_bytes=20MiB")
        last = ended(daemon, "hog-0")["last_exit"]
        assert last["result"] == "oom"
        assert "20.0 MiB" in last["message"]


# -- processors


def seconds_for(daemon: DaemonProcess, name: str, count: int) -> float:
    """How long an agent takes for so many lines, one for each 0.1 s of processor time."""
    start(daemon, name)
    lines(daemon, name, 1)
    began = time.monotonic()
    lines(daemon, name, count)
    took_s = time.monotonic() - began
    daemon.call("agent.stop", names=[name])
    return took_s


def test_a_share_of_the_processor_is_held_and_reported_and_changed_live(tmp_path: Path) -> None:
    config = program("free", "spin") + program("hog", "spin", cpu_limit_percent=20)
    with DaemonProcess(tmp_path, config) as daemon:
        free_s = seconds_for(daemon, "free", 8)
        held_s = seconds_for(daemon, "hog", 8)
        assert held_s > 2.5 * free_s, "a fifth of the processor, and some room for a busy machine"
        start(daemon, "hog")
        event(daemon, "limit.cpu", worker="hog-0", throttled=True)
        folder = worker_group(daemon, "hog-0")
        assert value(folder, "cpu.max") == "20000 100000"
        deadline = time.monotonic() + BOUND_S
        while not (told_s := daemon.worker("hog-0")["throttled_s"]):
            assert time.monotonic() < deadline, "it is not held back"
        assert told_s <= figure(folder, "cpu.stat", "throttled_usec") / 1e6
        pid = daemon.worker("hog-0")["pid"]
        change(daemon, "hog", "resources.cpu_limit_percent=50")
        await_value(folder, "cpu.max", "50000 100000")
        change(daemon, "hog", "resources.cpu_limit_percent=0")
        await_value(folder, "cpu.max", "max 100000")
        worker = daemon.worker("hog-0")
        assert (worker["pid"], worker["throttled"]) == (pid, False)


# -- processes


def test_forks_beyond_the_limit_are_refused_and_reported(tmp_path: Path) -> None:
    config = program("hog", "fork-until-refused", "300", max_processes=20)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert lines(daemon, "hog", 1) == [str(errno.EAGAIN)]
        told = event(daemon, "limit.worker_processes", worker="hog-0")
        assert (told["used"], told["limit"]) == (20, 20)
        assert "max_processes" in told["reason"]
        folder = worker_group(daemon, "hog-0")
        assert int(value(folder, "pids.current")) == 20
        assert len(pids(folder)) == 20


def test_forks_that_were_refused_between_two_looks_are_reported_too(tmp_path: Path) -> None:
    config = '[monitoring]\nmetrics_interval = "1s"\n'
    config += program("hog", "flare", "20", max_processes=20)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert lines(daemon, "hog", 2) == ["begins", str(errno.EAGAIN)]
        told = event(daemon, "limit.worker_processes", worker="hog-0")
        assert (told["used"], told["limit"]) == (20, 20)
        assert len(daemon.call("event.list", types=["limit.worker_processes"])["events"]) == 1


def test_a_fork_bomb_is_ended_at_once_with_all_of_it(tmp_path: Path) -> None:
    config = program("bomb", "bomb", "9", max_processes=200)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "bomb", wait=False)
        event(daemon, "limit.worker_processes", worker="bomb-0")
        folder = worker_group(daemon, "bomb-0")
        daemon.call("agent.stop", names=["bomb"])
        assert not folder.exists() or pids(folder) == set()
        assert [pid for pid in marked(tmp_path) if "hog.py" in command_of(pid)] == []


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# -- accounts


def test_what_status_shows_is_what_the_group_counts(tmp_path: Path) -> None:
    config = '[monitoring]\nmetrics_interval = "200ms"\n' + program("hog", "take", "80")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        lines(daemon, "hog", 1)
        folder = worker_group(daemon, "hog-0")
        counted = figure(folder, "memory.stat", "anon")
        assert counted > 80 * MIB
        deadline = time.monotonic() + BOUND_S
        while (seen := daemon.worker("hog-0")["rss_bytes"]) < counted:
            assert time.monotonic() < deadline, f"{seen} instead of {counted}"
        # Resident pages are those of the program's files, too, which the group counts that first read them.
        assert seen < counted + 16 * MIB


# -- freezing


def test_a_pause_freezes_the_group_and_a_kill_ends_it_nevertheless(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, program("crew", "shared", "1", "3")) as daemon:
        start(daemon, "crew")
        lines(daemon, "crew", 4)
        folder = worker_group(daemon, "crew-0")
        daemon.call("agent.pause", names=["crew"])
        assert figure(folder, "cgroup.events", "frozen") == 1
        daemon.call("agent.resume", names=["crew"])
        assert figure(folder, "cgroup.events", "frozen") == 0
        daemon.call("agent.pause", names=["crew"])
        kept = pids(folder)
        assert len(kept) == 4
        daemon.call("agent.stop", names=["crew"])
        assert [pid for pid in kept if os.path.exists(f"/proc/{pid}")] == []


# -- what is left


@pytest.mark.parametrize("how", ["stop", "kill", "launcher"])
def test_nothing_is_left_of_processes_or_groups(tmp_path: Path, how: str) -> None:
    config = program("crew", "shared", "1", "3") + program("gone", "escapee", "1")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "crew", "gone")
        lines(daemon, "crew", 4)
        lines(daemon, "gone", 2)
        parent = worker_group(daemon, "crew-0").parent
        kept = pids(parent)
        assert len(kept) >= 6
        if how == "stop":
            daemon.stop()
        elif how == "kill":
            daemon.kill()
        else:
            launcher = next(pid for pid in marked_children(daemon.pid) if pid not in kept)
            os.kill(launcher, 9)
            ended(daemon, "crew-0")
        bound = time.monotonic() + 1.0
        while [pid for pid in kept if os.path.exists(f"/proc/{pid}")]:
            assert time.monotonic() < bound, "processes are left after a second"
        if how == "launcher":
            while below(parent):
                assert time.monotonic() < bound + BOUND_S
        else:
            while parent.exists():
                assert time.monotonic() < bound + BOUND_S, f"{parent} is left"
        assert group_of(os.getpid()).exists()


def marked_children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- inside a sandbox


def test_the_limits_hold_inside_a_sandbox_too(tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("there is no bwrap here")
    strict = f'process.isolation = "strict"\nprocess.read_paths = ["{HOG.parent}"]\n'
    config = program("hog", "child", "300", max_memory_bytes="100MiB") + strict
    config += program("crew", "fork-until-refused", "300", max_processes=20) + strict
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog", wait=False)
        last = ended(daemon, "hog-0")["last_exit"]
        assert last["result"] == "oom", last
        assert "100.0 MiB" in last["message"]
        start(daemon, "crew")
        told = event(daemon, "limit.worker_processes", worker="crew-0")
        assert (told["used"], told["limit"]) == (20, 20)
        folder = worker_group(daemon, "crew-0")
        kept = pids(folder)
        assert len(kept) == 20
        daemon.call("agent.stop", names=["crew"])
        assert [pid for pid in kept if os.path.exists(f"/proc/{pid}")] == []
