"""The stages between fork and exec, each in a real new process."""

import errno
import fcntl
import json
import os
import pwd
import select
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.launcher import child_setup
from corral.supervisor.machine.linux import landlock

pytestmark = pytest.mark.shell

BOUND_S = 60.0
ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")

needs_root = pytest.mark.skipif(not ROOT, reason="only root may change the user")
needs_landlock = pytest.mark.skipif(landlock.abi() < 6, reason=f"this kernel has version {landlock.abi()} of Landlock")


def born(argv: Sequence[str], **options: Any) -> tuple[str, dict[str, Any]]:
    """What the new process prints; and the stage that failed, its errno and facts, if one did."""
    spawn: Any = {
        "seq": 1,
        "unit": "a-0#1",
        "argv": list(argv),
        "env": {"PATH": os.defpath},
        "cwd": "/",
        "umask": 0o077,
        "nice": 0,
        "user": None,
        "group": None,
        "no_new_privs": True,
        "limits": {},
    } | options
    launcher = os.getpid()
    null = os.open(os.devnull, os.O_RDWR)
    (reading, writing), (text_, report) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        child_setup.become(spawn, [null, writing, null], report, launcher, [])
    for fd in (null, writing, report):
        os.close(fd)
    said = [_all(fd) for fd in (reading, text_)]
    os.waitpid(pid, 0)
    if not said[1]:
        return said[0].decode(), {}
    stage, number, _message, facts = child_setup.decode_failure(said[1])
    return said[0].decode(), {"stage": stage, "errno": number, **facts}


def _all(fd: int) -> bytes:
    parts: list[bytes] = []
    with os.fdopen(fd, "rb", 0) as file:
        while True:
            assert select.select([fd], [], [], BOUND_S)[0], "the process does not end"
            part = file.read(65536)
            if not part:
                return b"".join(parts)
            parts.append(part)


def test_the_stages_come_in_the_order_of_the_contract() -> None:
    names = [name for name, _perform in child_setup.ChildSetup.STAGES]
    order = ["cgroup", "session", "limits", "user", "parent", "chdir", "umask", "no-new-privs"]
    order += ["landlock", "files", "exec"]
    assert [name for name in names if name in order] == order


# --- cgroup ---------------------------------------------------------------------------------------


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A new group of cgroup v2."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line.split()[1] for line in lines if line.split()[2] == "cgroup2"]
    if not mounts:
        pytest.skip("cgroup v2 is not mounted")
    (own,) = (
        line.strip().removeprefix("0::")
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )
    group = Path(f"{mounts[0]}{own}", f"test-birth-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group may be made: {error.strerror}")
    yield str(group)
    group.rmdir()


def test_a_process_is_in_its_cgroup_before_its_program_runs(cgroup: str) -> None:
    printed, failure = born(["cat", "/proc/self/cgroup"], cgroup=cgroup)
    assert failure == {}
    (group,) = (line for line in printed.splitlines() if line.startswith("0::"))
    assert group.endswith(os.path.basename(cgroup))


def test_a_cgroup_that_is_not_there_fails_its_stage(tmp_path: Path) -> None:
    _, failure = born(["true"], cgroup=str(tmp_path / "missing"))
    assert (failure["stage"], failure["errno"]) == ("cgroup", errno.ENOENT)


# --- the OOM killer -------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(0, 200), (300, 500), (900, 1000), (1000, 1000)])
def test_a_worker_is_a_better_victim_than_its_supervisor(before: int, after: int) -> None:
    own = Path("/proc/self/oom_score_adj")
    floor = int(own.read_text())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            own.write_text(str(max(before, floor)))
            os.write(writing, born(["cat", str(own)])[0].encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as said:
        assert int(said.read()) == min(max(before, floor) + 200, 1000) >= after


@needs_root
def test_a_worker_of_another_user_is_a_better_victim_too() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    printed, _ = born(["cat", "/proc/self/oom_score_adj"], user="nobody")
    assert int(printed) == min(own + 200, 1000)


# --- the temporary folder -------------------------------------------------------------------------


def test_a_temporary_folder_is_made_for_the_process_alone(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    before = os.umask(0)
    try:
        assert born(["true"], temporary=str(folder))[1] == {}
    finally:
        os.umask(before)
    found = folder.lstat()
    assert stat.S_ISDIR(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


@needs_root
def test_a_temporary_folder_is_the_workers_own(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    assert born(["true"], temporary=str(folder), user="nobody")[1] == {}
    found = folder.lstat()
    assert (found.st_uid, found.st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert stat.S_IMODE(found.st_mode) == 0o700


@pytest.mark.parametrize("what", ["folder", "link", "dangling link", "file"])
def test_what_is_there_already_is_nobodys_temporary_folder(tmp_path: Path, what: str) -> None:
    path = tmp_path / "own"
    if what == "folder":
        path.mkdir()
    elif what == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path if what == "link" else tmp_path / "missing")
    _, failure = born(["true"], temporary=str(path))
    assert (failure["stage"], failure["errno"]) == ("temporary", errno.EEXIST)


# --- Landlock -------------------------------------------------------------------------------------


@needs_landlock
@pytest.mark.parametrize("key", ["read_paths", "write_paths"])
def test_a_path_that_is_not_there_fails_the_start_by_name(tmp_path: Path, key: str) -> None:
    path = str(tmp_path / "missing")
    _, failure = born(["true"], **{key: ["/usr", path]})
    assert (failure["stage"], failure["errno"]) == ("landlock", errno.ENOENT)
    assert (failure["key"], failure["path"]) == (f"process.{key}", path)


@needs_landlock
def test_the_program_itself_has_to_be_allowed(tmp_path: Path) -> None:
    _, failure = born(["/bin/true"], read_paths=[str(tmp_path)])
    assert (failure["stage"], failure["errno"]) == ("exec", errno.EACCES)
    paths = ["/usr", "-/bin", "-/lib", "-/lib64"]
    assert born(["/bin/true"], read_paths=paths)[1] == {}


@needs_landlock
def test_a_confinement_fits_below_the_lowest_limit_of_descriptors(tmp_path: Path) -> None:
    filler = [os.dup(0) for _ in range(50)]
    try:
        os.set_inheritable(filler[0], True)
        paths = ["/usr", "-/bin", "-/lib", "-/lib64", "/proc"]
        options = {"read_paths": paths, "write_paths": [str(tmp_path)], "connect_ports": [1]}
        printed, failure = born(["ls", "/proc/self/fd"], limits={"NOFILE": 8}, **options)
    finally:
        for fd in filler:
            os.close(fd)
    assert failure == {}
    assert printed.split() == ["0", "1", "2", "3"]  # the last is of ls itself


@needs_landlock
def test_ports_are_held_against_ways_that_landlock_does_not_see() -> None:
    program = (
        "import json, socket\n"
        "said = []\n"
        "for protocol in (6, 262):\n"
        "    try:\n"
        "        socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).connect(('127.0.0.1', 9))\n"
        "    except OSError as error:\n"
        "        said.append(error.errno)\n"
        "print(json.dumps(said))\n"
    )
    printed, _ = born([sys.executable, "-I", "-S", "-c", program], connect_ports=[])
    assert json.loads(printed) == [errno.EACCES, errno.EPROTONOSUPPORT]


INHERITED = """
import os, json
count = int(os.environ["LISTEN_FDS"])
inodes = [os.fstat(3 + n).st_ino for n in range(count)]
with os.scandir("/proc/self/fd") as found:
    names = sorted(int(each.name) for each in found)
print(json.dumps([int(os.environ["LISTEN_PID"]) == os.getpid(), inodes, names]))
"""


def test_sockets_are_inherited_in_order_whatever_their_numbers_were() -> None:
    count = 10
    (reading, writing), (text_, report) = os.pipe(), os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    sockets = [socket.socket() for _ in range(count)]
    wanted = [os.fstat(each.fileno()).st_ino for each in sockets]
    spawn: Any = {
        **{"seq": 1, "unit": "a-0#1", "argv": [sys.executable, "-I", "-S", "-c", INHERITED]},
        **{"env": {"LISTEN_FDS": str(count)}, "cwd": "/", "umask": 0o077, "nice": 0},
        **{"user": None, "group": None, "no_new_privs": True, "limits": {"NOFILE": 20}},
        "sockets": count,
    }
    launcher = os.getpid()
    pid = os.fork()
    if pid == 0:  # low and in disorder: each would overwrite another; and the report is among them
        high = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD, 100) for each in sockets]
        own = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (null, writing, null, report)]
        fds = [os.dup2(fd, 3 + count - 1 - n) for n, fd in enumerate(high[:-1])]
        fds.append(os.dup2(high[-1], 20))
        child_setup.become(spawn, [*own[:3], *fds], os.dup2(own[3], 3), launcher, [])
    for fd in (null, writing, report):
        os.close(fd)
    said = [_all(fd) for fd in (reading, text_)]
    os.waitpid(pid, 0)
    for each in sockets:
        each.close()
    assert said[1] == b""
    is_own_pid, inodes, names = json.loads(said[0])
    assert is_own_pid
    assert inodes == wanted
    assert set(names) - {3 + count} == set(range(3 + count)), "nothing else; and scandir's own"
