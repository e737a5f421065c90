"""What Landlock and the filter beside it forbid, in real processes that try it."""

import ctypes
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.linux import kernel, landlock, seccomp

BOUND_S = 60.0
ROOT = os.geteuid() == 0
FOREIGN_UID = 61_823
"""Nobody's, so that whoever has it may be shot at."""
SYSTEM = ["-/usr", "-/bin", "-/lib", "-/lib64"]
MSG_FASTOPEN = 0x20000000

needs_root = pytest.mark.skipif(not ROOT, reason="only root may change the user")
pytestmark = [
    pytest.mark.shell,
    pytest.mark.skipif(landlock.abi() < 6, reason=f"this kernel has version {landlock.abi()} of Landlock"),
]

Probe = Callable[[], object]


def tried(probe: Probe) -> object:
    """What the probe returns; of an OSError its name."""
    try:
        return probe()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def in_child(probe: Probe, prepare: Probe = lambda: None, /, **rules: Any) -> Any:
    """What the probe returns, or the name of its error, in a process that was restricted."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: object = "nothing"
        try:
            prepare()
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            landlock.restrict(**rules)
            answer = tried(probe)
        except landlock.Impossible as error:
            answer = {"key": error.key, "errno": error.errno, **error.facts}
        finally:
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answered:
        assert select.select([reading], [], [], BOUND_S)[0], "the probe does not end"
        said = answered.read()
    os.waitpid(pid, 0)
    return json.loads(said) if said else "killed"


def become_foreign() -> None:
    os.setresgid(FOREIGN_UID, FOREIGN_UID, FOREIGN_UID)
    os.setresuid(FOREIGN_UID, FOREIGN_UID, FOREIGN_UID)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with a file and a folder; beside it the same."""
    for name in ("inside", "outside"):
        (tmp_path / name / "folder").mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "inside"


def test_what_is_not_restricted_is_as_before(inside: Path) -> None:
    assert in_child(lambda: (inside.parent / "outside/file").read_text()) == "outside"
    written = in_child(lambda: (inside.parent / "outside/file").write_text("new"), connect_ports=[], scope_signals=True)
    assert written == 3


def test_only_what_is_below_read_paths_is_read(inside: Path) -> None:
    outside = inside.parent / "outside"
    rules = {"read_paths": [str(inside)]}
    assert in_child(lambda: (inside / "file").read_text(), **rules) == "inside"
    assert sorted(in_child(lambda: os.listdir(inside), **rules)) == ["file", "folder"]
    assert in_child(lambda: (outside / "file").read_text(), **rules) == "EACCES"
    assert in_child(lambda: os.listdir(outside), **rules) == "EACCES"
    file = {"read_paths": [str(outside / "file")]}
    assert in_child(lambda: (outside / "file").read_text(), **file) == "outside"
    assert in_child(lambda: os.listdir(outside), **file) == "EACCES"


def ways_out(inside: Path, pid: int) -> dict[str, Probe]:
    """How a program may try to read what is beside its folder."""
    outside = inside.parent / "outside"
    there, here = str(outside / "file"), str(inside / "new")

    def by_link() -> object:
        os.symlink(there, here)
        return Path(here).read_text()

    def by_hard_link() -> object:
        os.link(there, here)
        return Path(here).read_text()

    def by_rename() -> object:
        os.rename(there, here)
        return Path(here).read_text()

    def by_renamed_folder() -> object:
        os.rename(outside, here)
        return Path(here, "file").read_text()

    def by_path_descriptor() -> object:
        fd = os.open(there, os.O_PATH)
        return Path(f"/proc/self/fd/{fd}").read_text()

    def by_folder_descriptor() -> object:
        fd = os.open(outside, os.O_PATH | os.O_DIRECTORY)
        return os.read(os.open("file", os.O_RDONLY, dir_fd=fd), 100).decode()

    def by_current_folder() -> object:
        os.chdir(outside)
        return Path("file").read_text()

    def by_mount() -> object:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000 | 0x20000) != 0:  # CLONE_NEWUSER, CLONE_NEWNS
            raise OSError(errno.EACCES, "no user namespaces here")
        if libc.mount(str(outside).encode(), str(inside).encode(), None, 4096, None) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        return (inside / "file").read_text()

    def by_copied_program() -> object:
        program = shutil.copy("/bin/cat", here)
        done = subprocess.run([program, there], capture_output=True, text=True, check=False)
        return done.stdout or "EACCES"

    def by_child() -> object:
        done = subprocess.run(["/bin/cat", there], capture_output=True, text=True, check=False)
        return done.stdout or "EACCES"

    return {
        "open": lambda: Path(there).read_text(),
        "dots": lambda: Path(inside, "..", "outside", "file").read_text(),
        "link": by_link,
        "hard link": by_hard_link,
        "rename": by_rename,
        "renamed folder": by_renamed_folder,
        "O_PATH": by_path_descriptor,
        "dir_fd": by_folder_descriptor,
        "chdir": by_current_folder,
        "root of another": lambda: Path(f"/proc/{pid}/root{there}").read_text(),
        "folder of another": lambda: Path(f"/proc/{pid}/cwd/outside/file").read_text(),
        "mount": by_mount,
        "copied program": by_copied_program,
        "child": by_child,
    }


@pytest.fixture
def bystander(inside: Path) -> Iterator[int]:
    """A process that nothing restricts."""
    with subprocess.Popen(["sleep", "1000"], cwd=inside.parent) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("way", list(ways_out(Path("/"), 0)))
def test_there_is_no_way_out_of_read_paths(inside: Path, bystander: int, way: str) -> None:
    probe = ways_out(inside, bystander)[way]
    assert in_child(probe, read_paths=[str(inside), *SYSTEM]) in ("EACCES", "EXDEV", "EPERM")


@pytest.mark.parametrize("way", list(ways_out(Path("/"), 0)))
def test_each_way_out_is_one_where_nothing_is_restricted(inside: Path, bystander: int, way: str) -> None:
    said = in_child(ways_out(inside, bystander)[way])
    if way == "mount" and said in ("EACCES", "EPERM", "ENOSPC"):
        pytest.skip("no user namespaces here")
    assert said == "outside"


def test_a_program_outside_of_read_paths_is_not_executed(inside: Path) -> None:
    program = shutil.copy("/bin/true", inside.parent / "outside" / "program")

    def probe() -> object:
        return subprocess.run([program], check=True).returncode

    assert in_child(probe) == 0
    assert in_child(probe, read_paths=[str(inside), *SYSTEM]) == "EACCES"


def test_restricted_reading_leaves_writing_alone(inside: Path) -> None:
    outside = inside.parent / "outside"

    def probe() -> object:
        (outside / "new").write_text("x")
        os.rename(outside / "new", outside / "folder" / "new")
        return "written"

    assert in_child(probe, read_paths=[str(inside)]) == "written"


def ways_to_write(folder: Path) -> dict[str, Probe]:
    file, new = str(folder / "file"), str(folder / "new")

    def bind() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(new)

    return {
        "write": lambda: os.open(file, os.O_WRONLY),
        "append": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
        "truncate": lambda: os.truncate(file, 0),
        "open to truncate": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        "create": lambda: os.open(new, os.O_WRONLY | os.O_CREAT, 0o600),
        "remove": lambda: os.unlink(file),
        "rename": lambda: os.rename(file, new),
        "make a folder": lambda: os.mkdir(new),
        "remove a folder": lambda: os.rmdir(folder / "folder"),
        "move": lambda: os.rename(file, folder / "folder" / "file"),
        "link": lambda: os.symlink("file", new),
        "hard link": lambda: os.link(file, new),
        "make a fifo": lambda: os.mkfifo(new),
        "make a socket": bind,
        "by the parent": lambda: os.truncate(folder / ".." / folder.name / "file", 0),
    }


@pytest.mark.parametrize("way", list(ways_to_write(Path("/"))))
def test_only_what_is_below_write_paths_is_written(inside: Path, way: str) -> None:
    rules = {"write_paths": [str(inside)]}
    outside = ways_to_write(inside.parent / "outside")[way]
    assert in_child(outside, **rules) in ("EACCES", "EXDEV")
    allowed = in_child(ways_to_write(inside)[way], **rules)
    assert allowed is None or isinstance(allowed, int)
    free = in_child(outside)
    assert free is None or isinstance(free, int)


def test_the_temporary_folder_is_read_and_written_too(inside: Path) -> None:
    folder = inside / "folder"

    def probe() -> object:
        (folder / "new").write_text("x")
        return (folder / "new").read_text()

    assert in_child(probe, write_paths=[], read_paths=[]) == "EACCES"
    assert in_child(probe, write_paths=[], read_paths=[], temporary=str(folder)) == "x"
    assert in_child(probe, write_paths=[str(folder)], read_paths=[]) == "x"


@pytest.mark.parametrize("key", ["read_paths", "write_paths"])
def test_a_path_that_is_not_there_is_refused_by_name_unless_it_may_be_missing(inside: Path, key: str) -> None:
    path = str(inside / "missing")
    refused = in_child(lambda: "restricted", **{key: [path]})
    assert refused == {"key": key, "errno": errno.ENOENT, "path": path}
    below_file = in_child(lambda: "restricted", **{key: [str(inside / "file" / "x")]})
    assert below_file["errno"] == errno.ENOTDIR
    assert in_child(lambda: "restricted", **{key: [f"-{path}"]}) == "restricted"


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [("read_paths", [], 2), ("write_paths", [], 3), ("connect_ports", [], 4), ("scope_signals", True, 6)],
)
def test_an_older_kernel_refuses_what_it_cannot_hold(key: str, value: object, needed: int) -> None:
    for version in range(needed):
        refused = in_child(lambda: "restricted", version=version, **{key: value})
        assert refused["key"] == key
        assert (refused["needs_abi"], refused["abi"]) == (str(needed), str(version))
        assert refused["errno"] not in kernel.RETRYABLE
    assert in_child(lambda: "restricted", version=needed, **{key: value}) == "restricted"


@pytest.mark.parametrize("version", range(3, 7))
def test_every_version_that_can_holds_write_paths(inside: Path, version: int) -> None:
    probe = ways_to_write(inside.parent / "outside")["truncate"]
    assert in_child(probe, version=version, write_paths=[str(inside)]) == "EACCES"


# --- the network ----------------------------------------------------------------------------------


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Two ports of 127.0.0.1 where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield one.getsockname()[1], two.getsockname()[1]


def ways_to_connect(port: int) -> dict[str, Probe]:
    address = ("127.0.0.1", port)

    def connect(family: int = socket.AF_INET, protocol: int = 0) -> object:
        with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
            sock.connect(address)
        return "connected"

    def fast_open() -> object:
        with socket.socket() as sock:
            sock.sendto(b"x", MSG_FASTOPEN, address)
        return "connected"

    def fast_open_message() -> object:
        with socket.socket() as sock:
            sock.sendmsg([b"x"], [], MSG_FASTOPEN, address)
        return "connected"

    def fast_open_option() -> object:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            sock.connect(address)
            sock.send(b"x")
        return "connected"

    return {
        "connect": connect,
        "mptcp": lambda: connect(protocol=seccomp.IPPROTO_MPTCP),
        "smc": lambda: connect(protocol=seccomp.IPPROTO_SMC),
        "smc family": lambda: connect(family=seccomp.AF_SMC),
        "fast open": fast_open,
        "fast open message": fast_open_message,
        "fast open option": fast_open_option,
        "io_uring": lambda: "connected" if io_uring() else "ENOSYS",
    }


def io_uring() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if (fd := libc.syscall(seccomp.IO_URING_SETUP, 1, ctypes.create_string_buffer(256))) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    return int(fd)


REFUSALS = [
    errno.errorcode[number]  # EOPNOTSUPP has two names
    for number in (errno.EACCES, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOSYS)
]


@pytest.mark.skipif(os.uname().machine not in seccomp.CALLS, reason="no filter for this machine")
@pytest.mark.parametrize("way", list(ways_to_connect(0)))
def test_only_the_ports_that_are_listed_are_connected_to(ports: tuple[int, int], way: str) -> None:
    def filtered(port: int) -> Probe:
        def probe() -> object:
            seccomp.only_plain_connects()
            return ways_to_connect(port)[way]()

        return probe

    assert in_child(filtered(ports[1]), connect_ports=[ports[0]]) in REFUSALS
    assert in_child(filtered(ports[0]), connect_ports=[]) in REFUSALS
    if way in ("connect", "fast open option"):
        assert in_child(filtered(ports[0]), connect_ports=list(ports)) == "connected"


def test_a_datagram_and_a_plain_message_still_go(ports: tuple[int, int]) -> None:
    def probe() -> object:
        seccomp.only_plain_connects()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("127.0.0.1", ports[1]))
        with socket.create_connection(("127.0.0.1", ports[0])) as sock:
            sock.sendmsg([b"x"])
            sock.sendall(b"x")
        return subprocess.run(["/bin/true"], check=True).returncode

    assert in_child(probe, connect_ports=[ports[0]]) == 0


# --- signals --------------------------------------------------------------------------------------


def test_a_process_signals_only_what_it_has_started_itself(bystander: int) -> None:
    def own() -> object:
        with subprocess.Popen(["sleep", "1000"]) as child:
            child.kill()
        return child.returncode

    def by_pidfd() -> None:
        signal.pidfd_send_signal(os.pidfd_open(bystander), 0)

    rules = {"scope_signals": True}
    assert in_child(own, **rules) == -signal.SIGKILL
    assert in_child(lambda: os.kill(bystander, signal.SIGTERM), **rules) == "EPERM"
    assert in_child(lambda: os.kill(os.getppid(), 0), **rules) == "EPERM"
    assert in_child(by_pidfd, **rules) == "EPERM"
    assert in_child(by_pidfd) is None
    assert in_child(lambda: os.kill(bystander, 0), read_paths=[], connect_ports=[]) is None
    assert in_child(lambda: os.kill(bystander, 0)) is None


@needs_root
@pytest.mark.parametrize("scoped", [True, False])
def test_a_process_that_shoots_at_everybody_hits_only_itself(scoped: bool) -> None:
    with subprocess.Popen(["sleep", "1000"], user=FOREIGN_UID, group=FOREIGN_UID) as victim:
        in_child(lambda: os.kill(-1, signal.SIGKILL), become_foreign, scope_signals=scoped)
        if scoped:
            assert victim.poll() is None
            victim.kill()
        assert victim.wait(BOUND_S) == -signal.SIGKILL


def test_whoever_is_outside_still_signals_the_process() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(read_paths=[], write_paths=[], connect_ports=[], scope_signals=True)
        os.write(writing, b"x")
        signal.pause()
        os._exit(0)
    os.read(reading, 1)
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    os.close(reading)
    os.close(writing)


@needs_root  # of whom the kernel asks less: whoever has CAP_PERFMON may read of everybody
@pytest.mark.parametrize("name", ["environ", "maps", "mem", "auxv"])
def test_a_process_looks_into_nobody_outside_even_of_its_own_user(name: str) -> None:
    with subprocess.Popen(["sleep", "1000"], user=FOREIGN_UID, group=FOREIGN_UID) as other:

        def probe() -> object:
            return os.open(f"/proc/{other.pid}/{name}", os.O_RDONLY)

        assert in_child(probe, become_foreign, read_paths=["/"]) in ("EACCES", "EPERM")
        assert in_child(probe, become_foreign, scope_signals=True) in ("EACCES", "EPERM")
        assert isinstance(in_child(probe, become_foreign), int)
        other.kill()
