"""Where a daemon finds a subtree of its own, with which controllers, and what it says where it finds less than it could use."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from corral.supervisor.machine.linux import cgroup
from daemon_process import BOUND_S, DaemonProcess
from tier_groups import MIB, MOUNTED, ended, event, group_of, lines, pids, program, start, value, worker_group

NOBODY = 65534
ALL = ("memory", "cpu", "pids")


def enter(folder: Path) -> list[str]:
    """The beginning of a command that runs in a group."""
    return ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh"]


@contextlib.contextmanager
def offered(*controllers: str) -> Generator[None]:
    """Gives the groups at the top these controllers, and no others."""
    for name in ALL:
        sign = "+" if name in controllers else "-"
        cgroup.write(str(MOUNTED), "cgroup.subtree_control", f"{sign}{name}")
    yield


@pytest.fixture
def service() -> Iterator[Path]:
    """A group as systemd makes it for a service with Delegate=yes."""
    folder = MOUNTED / "corrald.service"
    folder.mkdir()
    os.setxattr(folder, "trusted.delegate", b"1")
    yield folder
    deadline = time.monotonic() + BOUND_S
    while not cgroup.remove(str(folder)):
        assert time.monotonic() < deadline, f"{pids(folder)} are left"


def tier_of(daemon: DaemonProcess) -> str:
    tier: str = daemon.call("daemon.status")["daemon"]["containment"]
    return tier


def test_a_delegated_group_gives_all_that_it_is_offered(tmp_path: Path, service: Path) -> None:
    config = program("hog", "take", "1", max_memory_bytes="100MiB", max_processes=9)
    with offered(*ALL), DaemonProcess(tmp_path, config, prefix=enter(service)) as daemon:
        assert tier_of(daemon) == "cgroup"
        start(daemon, "hog")
        assert group_of(daemon.pid) == service / "supervisor"
        folder = worker_group(daemon, "hog-0")
        assert folder.parent == service / "agents"
        assert (value(folder, "memory.max"), value(folder, "pids.max")) == (str(100 * MIB), "9")
        assert value(service, "cgroup.procs") == ""
        daemon.stop()
        assert not (service / "agents").exists()


def test_a_process_that_stays_in_a_delegated_group_is_named_as_the_reason(tmp_path: Path, service: Path) -> None:
    config = program("hog", "take", "300", max_memory_bytes="100MiB")
    with offered(*ALL), subprocess.Popen([*enter(service), "sleep", "1000"]) as stays:
        try:
            with DaemonProcess(tmp_path, config, prefix=enter(service)) as daemon:
                assert tier_of(daemon) == "cgroup-kill"
                said = daemon.corral("doctor").stdout
                assert "cannot enable the controller" in said
                assert f"in {service}: device or resource busy" in said
                start(daemon, "hog", wait=False)
                assert ended(daemon, "hog-0")["last_exit"]["result"] == "oom", "by samples"
        finally:
            stays.kill()


@pytest.mark.parametrize("some", [("pids",), ("memory",), ()])
def test_each_controller_that_is_missing_is_replaced_by_itself(
    tmp_path: Path, service: Path, some: tuple[str, ...]
) -> None:
    config = program("hog", "take", "300", max_memory_bytes="100MiB")
    config += program("crew", "fork-until-refused", "300", max_processes=20)
    with offered(*some), DaemonProcess(tmp_path, config, prefix=enter(service)) as daemon:
        assert tier_of(daemon) == "cgroup-kill"
        missing = ", ".join(name for name in ("memory", "pids", "cpu") if name not in some)
        assert f"does not offer the controllers: {missing}" in daemon.corral("doctor").stdout
        start(daemon, "hog", wait=False)
        last = ended(daemon, "hog-0")["last_exit"]
        assert last["result"] == "oom"
        assert ("kernel" in last["message"]) == ("memory" in some)
        if "pids" in some:
            start(daemon, "crew")
            event(daemon, "limit.worker_processes", worker="crew-0")
        else:
            start(daemon, "crew", wait=False)
            assert "max_processes" in ended(daemon, "crew-0")["last_exit"]["message"]


def test_an_ordinary_user_has_limits_in_a_subtree_of_its_own(tmp_path: Path, service: Path) -> None:
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(service / name, NOBODY, NOBODY)
    os.removexattr(service, "trusted.delegate")
    os.setxattr(service, "user.delegate", b"1")
    folder = tmp_path / "home"
    folder.mkdir()
    for each in (folder, *tmp_path.parents[:2], tmp_path):
        os.chmod(each, 0o755)
    os.chown(folder, NOBODY, NOBODY)
    config = program("hog", "child", "300", max_memory_bytes="100MiB")
    config += program("crew", "fork-until-refused", "300", max_processes=20)
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    before = os.umask(0)  # the socket that hears of its start
    try:
        with (
            offered(*ALL),
            DaemonProcess(folder, config, prefix=[*enter(service), *user], environ={"HOME": str(folder)}) as daemon,
        ):
            os.umask(before)
            assert tier_of(daemon) == "cgroup"
            start(daemon, "hog", wait=False)
            last = ended(daemon, "hog-0")["last_exit"]
            assert (last["result"], "100.0 MiB" in last["message"]) == ("oom", True)
            start(daemon, "crew")
            event(daemon, "limit.worker_processes", worker="crew-0", used=20)
            kept = pids(worker_group(daemon, "crew-0"))
            daemon.kill()
            deadline = time.monotonic() + 1.0
            while [pid for pid in kept if os.path.exists(f"/proc/{pid}")]:
                assert time.monotonic() < deadline, "processes are left after a second"
    finally:
        os.umask(before)


def test_without_delegation_a_machine_of_systemd_gives_no_group(tmp_path: Path) -> None:
    group = MOUNTED / "ssh.scope"
    group.mkdir()
    systemd = Path("/run/systemd/system")
    systemd.mkdir(parents=True)
    try:
        with offered(*ALL), DaemonProcess(tmp_path, program("hog", "take", "1"), prefix=enter(group)) as daemon:
            assert tier_of(daemon) == "launcher"
            said = daemon.corral("doctor").stdout
            assert f"systemd has not delegated {group}" in said
            assert "Delegate=yes" in said
    finally:
        systemd.rmdir()
        assert cgroup.remove(str(group))


def test_what_a_daemon_and_its_launcher_left_is_ended_by_the_next(tmp_path: Path) -> None:
    config = program("gone", "escapee", "1")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "gone")
        lines(daemon, "gone", 2)
        parent = worker_group(daemon, "gone-0").parent
        kept = pids(parent)
        assert len(kept) == 2
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        for pid in [daemon.pid, *map(int, children)]:
            os.kill(pid, signal.SIGSTOP)
        for pid in [*map(int, children), daemon.pid]:
            os.kill(pid, signal.SIGKILL)
        assert daemon.process is not None
        daemon.process.wait(BOUND_S)
        daemon.start()
        assert [pid for pid in kept if os.path.exists(f"/proc/{pid}")] == []
        assert cgroup.below(str(parent)) == []


GREEDY = """
from corral.worker import Agent
agent = Agent("greedy")
@agent.task
async def run(task):
    kept = bytearray(b"x") * (int(task.objective) << 20)
    return len(kept)
"""


def test_one_fork_of_a_zygote_that_takes_too_much_ends_alone(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    config = (
        '[agents.greedy]\nentrypoint = "greedy:agent"\ninstances = 2\ntasks.max_attempts = 1\n'
        f'resources.max_memory_bytes = "100MiB"\nprocess.working_directory = "{tmp_path}"\n'
        'recovery.restart_backoff_base = "10ms"\n'
    )
    with DaemonProcess(tmp_path, config) as daemon:
        for index in (0, 1):
            daemon.await_worker(f"greedy-{index}", lambda worker: worker["state"] == "Ready")
        before = {index: daemon.worker(f"greedy-{index}")["pid"] for index in (0, 1)}
        failed = daemon.call("task.run", agent="greedy", objective="300")
        assert failed["state"] == "failed"
        told = event(daemon, "limit.memory")
        assert told["limit"] == 100 * MIB
        died = int(told["worker"].rpartition("-")[2])
        daemon.await_worker(
            f"greedy-{died}", lambda worker: worker["state"] == "Ready" and worker["pid"] != before[died]
        )
        assert daemon.worker(f"greedy-{died}")["last_exit"]["result"] == "oom"
        assert daemon.worker(f"greedy-{1 - died}")["pid"] == before[1 - died]
        done = daemon.call("task.run", agent="greedy", objective="3")
        assert done["state"] == "succeeded"
