"""The control group above a tenant's workers: one for all of them, with the limits of the tenant, as long as one lives."""

import errno
import json
import os
import sys
import time
from pathlib import Path

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess
from tier_groups import MIB, await_value, below, ended, event, figure, lines, pids, program, start, value, worker_group


def daemon_of(folder: Path, config: str) -> DaemonProcess:
    """A daemon that starts agents of tenants although the guest has no Landlock."""
    program = AGENTS / "corrald_without_landlock.py"
    return DaemonProcess(folder, config, prefix=[sys.executable, "-P", str(program)])


def of_tenant(program_table: str, tenant: str) -> str:
    """The table of an agent, in a tenant."""
    return program_table.replace("[agents.", f'[agents."{tenant}/', 1).replace("]", '"]', 1)


def test_the_workers_of_a_tenant_are_below_one_group_with_its_limits(tmp_path: Path) -> None:
    config = (
        '[tenants.acme]\nmax_memory_bytes = "300MiB"\ncpu_limit_percent = 70\nmax_processes = 90\n[tenants.other]\n'
    )
    config += of_tenant(program("one", "take", "1"), "acme")
    config += of_tenant(program("two", "take", "1", max_memory_bytes="50MiB"), "acme")
    config += of_tenant(program("one", "take", "1"), "other") + program("mine", "take", "1")
    with daemon_of(tmp_path, config) as daemon:
        start(daemon, "acme/one", "acme/two", "other/one", "mine")
        one, two = worker_group(daemon, "acme/one-0"), worker_group(daemon, "acme/two-0")
        other, mine = worker_group(daemon, "other/one-0"), worker_group(daemon, "mine-0")
        slice_ = one.parent
        assert slice_.name == "tenant-acme"
        assert two.parent == slice_
        assert other.parent.name == "tenant-other"
        assert mine.parent == slice_.parent == other.parent.parent
        assert value(slice_, "memory.max") == str(300 * MIB)
        assert value(slice_, "cpu.max") == "70000 100000"
        assert value(slice_, "pids.max") == "90"
        assert value(slice_, "memory.oom.group") == "0"
        assert value(two, "memory.max") == str(50 * MIB)
        assert value(other.parent, "memory.max") == "max"
        pid = daemon.worker("acme/one-0")["pid"]
        done = daemon.corral("tenant", "set", "acme", "max_processes=0", "max_memory_bytes=400MiB")
        assert done.returncode == 0, done.stderr
        await_value(slice_, "pids.max", "max")
        await_value(slice_, "memory.max", str(400 * MIB))
        assert daemon.worker("acme/one-0")["pid"] == pid
        text = daemon.config.read_text().replace("cpu_limit_percent = 70", "cpu_limit_percent = 30")
        daemon.config.write_text(text)
        daemon.call("daemon.reload")
        await_value(slice_, "cpu.max", "30000 100000")
        daemon.call("agent.stop", names=["acme/one"])
        await_gone(one)
        assert below(slice_) == [two.name]
        daemon.call("agent.stop", names=["acme/two"])
        await_gone(slice_)
        start(daemon, "acme/one")
        assert value(slice_, "memory.max") == str(400 * MIB)
        assert value(slice_, "cpu.max") == "30000 100000"


def await_gone(folder: Path) -> None:
    deadline = time.monotonic() + BOUND_S
    while folder.exists():
        assert time.monotonic() < deadline, f"{folder} is left"


def test_a_tenant_that_uses_up_its_memory_loses_one_worker_whole_and_others_none(tmp_path: Path) -> None:
    config = '[tenants.acme]\nmax_memory_bytes = "150MiB"\n[tenants.other]\n'
    config += of_tenant(program("small", "take", "20", max_memory_bytes="100MiB"), "acme")
    config += of_tenant(program("hog", "child", "200", max_memory_bytes=0), "acme")
    config += of_tenant(program("safe", "take", "50"), "other")
    with daemon_of(tmp_path, config) as daemon:
        start(daemon, "acme/small", "other/safe")
        lines(daemon, "acme/small", 1)
        start(daemon, "acme/hog", wait=False)
        last = ended(daemon, "acme/hog-0")["last_exit"]
        assert last["result"] == "oom"
        assert "tenant" in last["message"]
        assert "150.0 MiB" in last["message"]
        told = event(daemon, "limit.memory", worker="acme/hog-0")
        assert told["limit"] == 150 * MIB
        assert 140 * MIB < told["used"] <= 151 * MIB
        told = event(daemon, "limit.tenant", tenant="acme", key="max_memory_bytes")
        assert 140 * MIB < told["used"] <= 151 * MIB
        for name in ("acme/small-0", "other/safe-0"):
            worker = daemon.worker(name)
            assert (worker["state"], worker["restarts"]) == ("Ready", 0)


def test_forks_of_one_worker_are_refused_when_its_tenant_has_all_that_it_may(tmp_path: Path) -> None:
    config = "[tenants.acme]\nmax_processes = 30\n[tenants.other]\n"
    config += of_tenant(program("crew", "shared", "1", "9"), "acme")
    config += of_tenant(program("hog", "fork-until-refused", "100"), "acme")
    config += of_tenant(program("free", "fork-until-refused", "40"), "other")
    with daemon_of(tmp_path, config) as daemon:
        start(daemon, "acme/crew")
        lines(daemon, "acme/crew", 10)
        start(daemon, "acme/hog")
        assert lines(daemon, "acme/hog", 1) == [str(errno.EAGAIN)]
        slice_ = worker_group(daemon, "acme/hog-0").parent
        assert int(value(slice_, "pids.current")) == len(pids(slice_)) == 30
        told = event(daemon, "limit.tenant", tenant="acme", key="max_processes")
        assert (told["limit"], told["used"]) == (30, 30)
        assert "refused" in told["reason"]
        start(daemon, "other/free")
        free = worker_group(daemon, "other/free-0")
        deadline = time.monotonic() + BOUND_S
        while len(pids(free)) < 41:
            assert time.monotonic() < deadline


def test_the_share_of_a_tenant_is_that_of_all_its_workers_together(tmp_path: Path) -> None:
    config = "[tenants.acme]\ncpu_limit_percent = 20\n"
    config += of_tenant(program("one", "spin"), "acme") + of_tenant(program("two", "spin"), "acme")
    with daemon_of(tmp_path, config) as daemon:
        start(daemon, "acme/one", "acme/two")
        slice_ = worker_group(daemon, "acme/one-0").parent
        lines(daemon, "acme/one", 1)
        began, used = time.monotonic(), figure(slice_, "cpu.stat", "usage_usec")
        lines(daemon, "acme/one", 4)
        lines(daemon, "acme/two", 4)
        passed_s = time.monotonic() - began
        used_s = (figure(slice_, "cpu.stat", "usage_usec") - used) / 1e6
        assert 0.02 < used_s / passed_s < 0.4
        assert figure(slice_, "cpu.stat", "throttled_usec") > 0
        told = event(daemon, "limit.tenant", tenant="acme", key="cpu_limit_percent")
        assert told["limit"] == 20
        assert "held back" in told["reason"]


WARM = f"""
[agents."acme/warm"]
entrypoint = "forked_agent:agent"
instances = 2
autostart = false
process.working_directory = "{AGENTS}"
"""


def test_agents_of_the_sdk_are_in_the_group_of_their_tenant(tmp_path: Path) -> None:
    with daemon_of(tmp_path, "[tenants.acme]\nmax_processes = 50\n" + WARM) as daemon:
        start(daemon, "acme/warm")
        slice_ = worker_group(daemon, "acme/warm-0").parent
        assert slice_.name == "tenant-acme"
        assert worker_group(daemon, "acme/warm-1").parent == slice_
        daemon.call("agent.stop", names=["acme/warm"])
        for worker in ("acme/warm-0", "acme/warm-1"):
            assert daemon.worker(worker)["pid"] is None


@pytest.mark.parametrize("how", ["stop", "kill", "suspend", "rm"])
def test_nothing_is_left_of_a_tenant(tmp_path: Path, how: str) -> None:
    config = "" if how == "rm" else "[tenants.acme]\n"
    with daemon_of(tmp_path, config + "[process]\nshutdown_grace_period = '1s'\n") as daemon:
        if how == "rm":
            assert daemon.corral("tenant", "add", "acme").returncode == 0
        command = json.dumps([sys.executable, str(AGENTS / "hog.py"), "escapee", "1"])
        spec = {"protocol": "none", "command": json.loads(command), "recovery": {"restart": "never"}}
        daemon.call("agent.add", name="acme/gone", spec=spec)
        daemon.await_worker("acme/gone-0", lambda worker: worker["state"] == "Ready")
        lines(daemon, "acme/gone", 2)
        slice_ = worker_group(daemon, "acme/gone-0").parent
        kept = pids(slice_)
        assert len(kept) == 2
        if how == "stop":
            daemon.stop()
        elif how == "kill":
            daemon.kill()
        else:
            done = daemon.corral("tenant", how, "acme")
            assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + (1.0 if how == "kill" else BOUND_S)
        while [pid for pid in kept if os.path.exists(f"/proc/{pid}")]:
            assert time.monotonic() < deadline, "processes are left"
        await_gone(slice_)
