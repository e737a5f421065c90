"""Sums of process trees of a tenant in a whole daemon: memory, processes and processor time."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import ResourceLimitExceeded
from daemon_process import AGENTS, BOUND_S, DaemonProcess, until

HOG = f"{AGENTS}/hog.py"


def hog(*words: object) -> str:
    command = ", ".join(f'"{word}"' for word in (sys.executable, "-I", HOG, *words))
    return f'command = [{command}]\nprotocol = "none"\nautostart = false\nrecovery.restart = "never"\n'


CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[tenants.other]
[agents."acme/small"]
{hog("take", 20)}
[agents."acme/large"]
{hog("take", 90)}
[agents."acme/shared"]
{hog("shared", 60, 4)}
[agents."other/large"]
{hog("take", 90)}
[agents."acme/spin"]
{hog("spin")}
instances = 2
[agents."acme/writer"]
command = ["/bin/sh", "-c", "dd if=/dev/zero of=$HOME/big bs=1M count=3 2>&1; exec sleep 600"]
protocol = "none"
autostart = false
[agents."acme/quiet"]
command = ["sleep", "600"]
protocol = "none"
autostart = false
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder: Path = tmp_path_factory.mktemp("trees")
    with DaemonProcess(folder, f"{CONFIG}\n[tenants.acme]\n") as daemon:
        if daemon.call("daemon.status")["daemon"]["containment"] == "cgroup":
            pytest.skip("the kernel holds the limits of tenants here, by control groups")
        yield daemon


@pytest.fixture
def daemon(running: DaemonProcess) -> Iterator[DaemonProcess]:
    yield running
    running.call("agent.stop", names=[], all=True)
    limited(running)


def limited(daemon: DaemonProcess, **limits: object) -> None:
    table = "".join(f"{key} = {value}\n" for key, value in limits.items())
    daemon.config.write_text(f"{CONFIG}\n[tenants.acme]\n{table}")
    daemon.call("daemon.reload")


def start(daemon: DaemonProcess, *names: str) -> None:
    daemon.call("agent.start", names=list(names), all=False, wait=False)


def ended(daemon: DaemonProcess, worker: str) -> Any:
    return daemon.await_worker(worker, lambda w: w["state"] == "Terminated")["last_exit"]


def test_memory_of_all_workers_ends_the_one_that_uses_the_most(daemon: DaemonProcess) -> None:
    limited(daemon, max_memory_bytes='"100MiB"')
    start(daemon, "acme/small", "other/large")
    start(daemon, "acme/large")
    last = ended(daemon, "acme/large-0")
    assert last["result"] == "oom"
    for part in ('tenant "acme"', "100.0 MiB of the tenant"):
        assert part in last["message"]
    assert daemon.worker("acme/small-0")["pid"]
    assert daemon.worker("other/large-0")["pid"]
    events = daemon.call("event.list", types=["limit.tenant"])["events"]
    assert [(e["key"], e["agent"]) for e in events] == [("max_memory_bytes", "acme/large")]


def test_shared_pages_count_once(daemon: DaemonProcess) -> None:
    limited(daemon, max_memory_bytes='"180MiB"')
    start(daemon, "acme/shared")  # 5 processes with the same 60 MiB
    start(daemon, "acme/small")
    until(lambda: used_bytes(daemon) >= 60 * 2**20)
    for _ in range(100):
        shared = daemon.worker("acme/shared-0")
        assert shared["pid"], shared
    limited(daemon, max_memory_bytes='"50MiB"')
    assert "max_memory_bytes = 50.0 MiB" in ended(daemon, "acme/shared-0")["message"]
    assert daemon.worker("acme/small-0")["restarts"] == 0


def test_processes_of_all_workers_end_the_one_with_the_most_and_refuse_a_start(daemon: DaemonProcess) -> None:
    start(daemon, "acme/quiet")
    start(daemon, "acme/shared")
    limited(daemon, max_processes=5)
    last = ended(daemon, "acme/shared-0")
    assert last["result"] == "processes"
    assert "max_processes = 5" in last["message"]
    limited(daemon, max_processes=1)
    deadline = time.monotonic() + BOUND_S
    refused = None
    while refused is None and time.monotonic() < deadline:
        daemon.call("agent.stop", names=["acme/small"], all=False)
        try:
            start(daemon, "acme/small")
        except ResourceLimitExceeded as error:
            refused = error
    assert refused is not None
    assert refused.data["limit"] == "max_processes"


@pytest.mark.long
def test_files_beyond_the_limit_end_their_writers_until_there_is_room(daemon: DaemonProcess) -> None:
    start(daemon, "acme/writer", "other/large")
    limited(daemon, max_disk_bytes='"1MiB"')
    last = ended(daemon, "acme/writer-0")
    assert last["result"] == "disk"
    assert "max_disk_bytes = 1.0 MiB" in last["message"]
    assert daemon.worker("other/large-0")["pid"]
    with pytest.raises(ResourceLimitExceeded) as refused:
        start(daemon, "acme/quiet")
    assert refused.value.data["limit"] == "max_disk_bytes"
    waiting = daemon.await_worker("acme/writer-0", lambda w: w["state"] == "Terminated")
    assert (waiting["pid"], waiting["restarts"], waiting["incarnation"]) == (None, 0, 1)
    (daemon.state_dir / "tenants" / "acme" / "big").unlink()
    again = daemon.await_worker("acme/writer-0", lambda w: w["incarnation"] == 2)
    assert again["restarts"] == 0
    (daemon.state_dir / "tenants" / "acme" / "big").unlink(missing_ok=True)
    deadline = time.monotonic() + BOUND_S
    while not daemon.worker("acme/quiet-0")["pid"]:
        assert time.monotonic() < deadline
        with contextlib.suppress(ResourceLimitExceeded):
            start(daemon, "acme/quiet")


def test_workers_of_a_tenant_share_its_processor_time(daemon: DaemonProcess) -> None:
    limited(daemon, cpu_limit_percent=40)
    start(daemon, "acme/spin", "acme/quiet")

    def used() -> list[float]:
        return [cpu_s(daemon.worker(f"acme/spin-{n}")["pid"]) for n in (0, 1)]

    def is_held() -> bool:
        events = daemon.call("event.list", types=["limit.tenant"])["events"]
        return any(each["key"] == "cpu_limit_percent" for each in events)

    until(is_held)
    began, before = time.monotonic(), used()

    def look() -> tuple[float, list[float]]:
        return time.monotonic() - began, [now - then for now, then in zip(used(), before, strict=True)]

    # Both had their part, and together no more than the limit: a sample may come late.
    until(look, lambda found: min(found[1]) >= 0.2 and sum(found[1]) / found[0] < 0.6)
    limited(daemon)


def used_bytes(daemon: DaemonProcess) -> int:
    found = daemon.call("quota.list")["quotas"]
    return next(int(each["used"]) for each in found if each["key"] == "tenants.max_memory_bytes")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
