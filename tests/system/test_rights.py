"""Whom the daemon trusts with what, tried by programs that try to get round it."""

import grp
import json
import os
import pwd
import shutil
import socket
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import systemd_box
from corral.supervisor.machine.linux import landlock, seccomp
from corral.worker.contract.errors import PermissionDenied
from daemon_process import AGENTS, BOUND_S, NO_RIGHTS, DaemonProcess

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="it takes root to be several users")
DENIED = str(PermissionDenied.code)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can pass."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def interpreter() -> str:
    found = systemd_box.python_for_all()
    if found is None:
        pytest.skip("there is no Python of this version here that other users can reach")
    return found


def printed(daemon: DaemonProcess, name: str) -> str:
    """The first line that an agent prints."""
    with daemon.client() as client:
        client.call("log.follow", {"names": [name], "n": 1}, timeout_s=BOUND_S)
        for notification in client.notifications():
            records: Any = notification.params["records"]
            for record in records:
                return str(record["text"])
    raise AssertionError("the daemon has gone")


def intrusion(place: Path, user: str | None, control: str = "none", daemon_keys: str = "") -> Mapping[str, str]:
    """What comes of every attempt of an intruder that runs as `user`, or as the daemon does."""
    for name in ("intruder.py", "forger.py"):
        shutil.copy(AGENTS / name, place)
    whose = "" if user is None else f'process.user = "{user}"\n'
    sleeper = f'[agents.neighbour]\ncommand = ["sh", "-c", "echo up; exec sleep 1000"]\nprotocol = "none"\n{whose}'
    with DaemonProcess(place, f"[daemon]\n{daemon_keys}\n{sleeper}") as daemon:
        daemon.call("agent.start", names=["neighbour"])
        daemon.config.chmod(0o600)
        neighbour = daemon.worker("neighbour-0")["pid"]
        assert printed(daemon, "neighbour") == "up"  # so that there is a log to be read
        os.chmod(daemon.socket, 0o666)  # the mode is not what keeps it out
        arguments = [str(daemon.socket), str(daemon.state_dir), str(daemon.config), str(neighbour)]
        process = {} if user is None else {"process": {"user": user}}
        table = {
            "command": [interpreter(), str(place / "intruder.py"), *arguments],
            "protocol": "none",
            "control": control,
            **process,
        }
        daemon.call("agent.add", name="intruder", spec=table, wait=False)
        found: dict[str, str] = json.loads(printed(daemon, "intruder"))
        # Whatever it has tried, the daemon, the launcher and the neighbour are as they were.
        assert daemon.worker("neighbour-0")["pid"] == neighbour
        return found


CALLS = {"call", "reload", "call as orphan", "call on a passed connection", "call on a dead one's connection"}
TOUCHES = {"signal launcher", "signal daemon", "signal neighbour", "debug daemon", "debug neighbour"}
READS = {"read store", "read logs", "read configuration", "read daemon's environment", "read daemon's files"}


@AS_ROOT
def test_a_worker_of_another_user_gets_at_nothing(place: Path) -> None:
    found = intrusion(place, "nobody")
    assert {found[name] for name in CALLS} == {DENIED}
    assert {found[name] for name in READS} == {"PermissionError"}
    own = {"signal neighbour", "debug neighbour"}  # which is of the same user
    assert {found[name] for name in TOUCHES - own} == {"PermissionError"}
    if landlock.abi() >= landlock.NEEDED_ABI["scope_signals"]:
        assert {found[name] for name in own} == {"PermissionError"}


def test_a_worker_of_the_daemon_s_own_user_neither_steers_nor_signals_it(place: Path) -> None:
    if landlock.abi() < landlock.NEEDED_ABI["scope_signals"]:
        pytest.skip("this kernel's Landlock cannot keep signals in")
    found = intrusion(place, "root" if os.getuid() == 0 else None)
    assert {found[name] for name in CALLS} == {DENIED}
    assert {found[name] for name in TOUCHES} == {"PermissionError"}
    # What the same user may read, it reads, unless read_paths says otherwise: doctor says so.


@pytest.mark.parametrize(
    ("control", "status", "reload"),
    [("read", "served", DENIED), ("operate", "served", DENIED), ("admin", "served", "served")],
)
def test_a_spec_grants_rights_to_its_own_tree_and_to_nobody_who_has_left_it(
    place: Path, control: str, status: str, reload: str
) -> None:
    found = intrusion(place, None, control)
    assert (found["call"], found["reload"]) == (status, reload)
    assert found["call on a passed connection"] == status
    assert found["call as orphan"] == DENIED
    # It depends on who is first, its death or the look at it; a connection that was served is not worth more.
    assert found["call on a dead one's connection"] in (status, DENIED)


def test_a_grant_is_taken_back_by_a_reload_without_a_restart(tmp_path: Path) -> None:
    config = """
[agents.steward]
command = ["sleep", "1000"]
protocol = "none"
control = "read"
"""
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["steward"])
        pid = daemon.worker("steward-0")["pid"]
        daemon.config.write_text(config.replace("read", "none"))
        changed = daemon.call("daemon.reload")
        assert daemon.worker("steward-0")["pid"] == pid, changed
        shown = daemon.call("agent.show", name="steward")
        assert "control" not in shown["spec"]


TRACES = {
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "move_pages"),
    *("migrate_pages", "perf_event_open", "/proc/PID/mem", "/proc/PID/environ"),
}
SIGNALS = {"kill", "tgkill", "sigqueue", "pidfd_send_signal"}
SCHEDULING = {"setpriority", "sched_setscheduler", "sched_setaffinity", "ioprio_set"}
WRITES = {"/proc/PID/oom_score_adj", "/proc/PID/coredump_filter"}
LISTS = {"/proc/PID/fd"}
"""The names of descriptors, without their targets."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("keys", "is_open"),
    [
        ('isolation = "none"', {*SIGNALS, *TRACES, *SCHEDULING, *WRITES, *LISTS, "prlimit"}),
        ('isolation = "basic"', {*SCHEDULING, *WRITES, *LISTS}),
        ('isolation = "basic"\nwrite_paths = []', {*SCHEDULING, *LISTS}),
        ('isolation = "basic"\nread_paths = []\nwrite_paths = []', SCHEDULING),
    ],
    ids=["none", "basic", "basic with write_paths", "basic with both paths"],
)
def test_the_ways_to_a_process_of_the_same_user_are_those_of_the_table(
    tmp_path: Path, keys: str, is_open: set[str]
) -> None:
    """docs/reference/operations.md has the table."""
    if landlock.abi() < landlock.NEEDED_ABI["scope_signals"] or not seccomp.can_scope_limits():
        pytest.skip("this kernel has no Landlock 6, or no filters of system calls")
    prefix = NO_RIGHTS if os.getuid() == 0 else ()
    sleeper = '[agents.neighbour]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'
    with DaemonProcess(tmp_path, sleeper, prefix=prefix) as daemon:
        daemon.call("agent.start", names=["neighbour"])
        neighbour = daemon.worker("neighbour-0")["pid"]
        command = [sys.executable, str(AGENTS / "trespasser.py")]
        command += [str(daemon.pid), str(neighbour)]
        spec = {"command": command, "protocol": "none", "process": tomllib.loads(keys)}
        daemon.call("agent.add", name="trespasser", spec=spec, wait=False)
        found: Any = json.loads(printed(daemon, "trespasser"))
    # Bystanders are treated as the daemon is.
    assert {name for name, outcomes in found["others"].items() if "done" in outcomes} == is_open
    closed = "EPERM" if "prlimit" not in is_open else "done"
    assert found["limits"] == {"set by 0": "done", "set by pid": closed, "asked of others": "done"}


def test_a_forged_mark_neither_spares_the_forger_nor_costs_the_other(tmp_path: Path) -> None:
    config = """
[agents.victim]
command = ["sleep", "1000"]
protocol = "none"
"""
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["victim"])
        victim = daemon.worker("victim-0")["pid"]
        environ = Path(f"/proc/{victim}/environ").read_bytes().split(b"\0")
        (mark,) = [each[14:].decode() for each in environ if each.startswith(b"CORRAL_WORKER=")]
        command = [interpreter(), str(AGENTS / "forger.py"), mark]
        daemon.call("agent.add", name="forger", spec={"command": command, "protocol": "none"}, wait=False)
        forged = int(printed(daemon, "forger").removeprefix("forged "))
        daemon.call("agent.stop", names=["forger"])
        assert systemd_box.start_time(forged) is None
        assert daemon.worker("victim-0")["pid"] == victim


# -- people


def as_user(uid: int, gid: int, path: Path, requests: list[tuple[str, dict[str, object]]]) -> list[Any]:
    """The answers that another user gets: a child of ours becomes it and asks. None where it does not get in."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answers: list[Any] = []
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(BOUND_S)
                sock.connect(str(path))
                lines = sock.makefile()
                for number, (method, params) in enumerate(requests):
                    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                    sock.sendall(json.dumps(request).encode() + b"\n")
                    answer = json.loads(lines.readline())
                    answers.append(answer.get("error", {}).get("code"))
        except OSError as error:
            answers.append(type(error).__name__)
        finally:
            os.write(writing, json.dumps(answers).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    found: list[Any] = json.loads(text)
    return found


REQUESTS: list[tuple[str, dict[str, object]]] = [
    ("daemon.status", {}),
    ("agent.restart", {"names": ["plain"]}),
    ("agent.add", {"name": "mine", "spec": {"command": ["true"]}}),
    ("agent.add", {"name": "mine", "spec": {"command": ["true"], "process": {"user": "root"}}}),
    ("agent.rm", {"name": "plain"}),
    ("daemon.reload", {}),
]


@AS_ROOT
@pytest.mark.parametrize("with_group", [False, True])
def test_a_member_of_the_readers_reads_alone(place: Path, with_group: bool) -> None:
    group = pwd.getpwuid(NOBODY).pw_gid
    operator = pwd.getpwnam("daemon")
    config = f'[daemon]\nreaders = "{grp.getgrgid(group).gr_name}"\n'
    if with_group:
        config += f'group = "{grp.getgrgid(operator.pw_gid).gr_name}"\n'
    config += '[agents.plain]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'
    with DaemonProcess(place, config) as daemon:
        denied = PermissionDenied.code
        answers = as_user(NOBODY, group, daemon.socket, REQUESTS)
        assert answers == [None, denied, denied, denied, denied, denied]
        of_group = as_user(operator.pw_uid, operator.pw_gid, daemon.socket, REQUESTS[:2])
        assert of_group == ([None, None] if with_group else ["PermissionError"])
        assert as_user(NOBODY - 1, NOBODY - 1, daemon.socket, REQUESTS[:1]) == ["PermissionError"]


@AS_ROOT
def test_a_member_of_the_group_operates_and_changes_nothing_that_runs(place: Path) -> None:
    group = pwd.getpwuid(NOBODY).pw_gid
    name = grp.getgrgid(group).gr_name
    config = f'[daemon]\ngroup = "{name}"\n[agents.plain]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'
    with DaemonProcess(place, config) as daemon:
        answers = as_user(NOBODY, group, daemon.socket, REQUESTS)
        denied = PermissionDenied.code
        assert answers == [None, None, denied, denied, denied, denied]
        # Somebody else has the group's id, but is no member of it, and a stranger does not even get in.
        assert as_user(NOBODY - 1, group, daemon.socket, REQUESTS[:1]) == [denied]
        assert as_user(NOBODY - 1, NOBODY - 1, daemon.socket, REQUESTS[:1]) == ["PermissionError"]
