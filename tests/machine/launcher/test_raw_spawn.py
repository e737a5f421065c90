"""Births by a plan: the same processes as by `birth`, or none."""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.launcher import child_setup
from corral.supervisor.machine.launcher import program as launcher
from corral.supervisor.machine.launcher.raw_spawn import FAILED_EARLY, FAILED_LATE, PLAN_BYTES, RawSpawner
from corral.supervisor.machine.linux import cgroup
from corral.supervisor.workers.process.containment import Refusal, Subtree, claim
from launcher_wire import PYTHON, Wire

pytestmark = pytest.mark.shell

BOUND_S = 60.0
ALTERED = [int(signal.SIGPIPE), int(signal.SIGXFSZ), int(signal.SIGINT)]
REPORT = """
import json, os, resource, signal, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
kept = ("Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups")
print(json.dumps({
    "environ": dict(os.environ), "words": sys.argv, "cwd": os.getcwd(), "nice": os.nice(0),
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
    "limits": [resource.getrlimit(n) for n in range(16)],
    "files": [fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")],
    "score": open("/proc/self/oom_score_adj").read(), "group": open("/proc/self/cgroup").read(),
    "parent": os.getppid(), **{name: status[name] for name in kept},
}))
"""


@pytest.fixture
def raw_spawner() -> Iterator[RawSpawner]:
    """One that is this process's; its memory is its own to fork afterwards."""
    try:
        found = RawSpawner(os.getpid(), ALTERED)
    except OSError as error:
        pytest.skip(f"no plans on this machine: {error}")
    found.include_memory()
    yield found
    found.include_memory()


def asked(argv: Sequence[str], **options: Any) -> dict[str, Any]:
    return {
        "seq": 1,
        "unit": "a-0#1",
        "argv": list(argv),
        "env": {"PATH": os.defpath, "OWN": "é = 1"},
        "cwd": "/",
        "umask": 0o027,
        "nice": 0,
        "user": None,
        "group": None,
        "no_new_privs": True,
        "limits": {"NOFILE": 64, "CORE": 0},
    } | options


def born(raw_spawner: RawSpawner | None, spawn: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What the new process prints and reports; by a plan, or without a midwife by `birth`."""
    null = os.open(os.devnull, os.O_RDWR)
    (reading, writing), (text_, report) = os.pipe(), os.pipe()
    fds, launcher = [null, writing, null], os.getpid()
    pid: int | None
    if raw_spawner is not None:
        pid = raw_spawner.start(spawn, fds, report)
        assert pid is not None, "this can be planned"
    else:
        pid = os.fork()
        if pid == 0:
            child_setup.become(dict(spawn), fds, report, launcher, ALTERED)  # type: ignore[arg-type]  # as JSON brings it
    for fd in (null, writing, report):
        os.close(fd)
    found = _all(reading), _all(text_)
    os.waitpid(pid, 0)
    return found


def _all(fd: int) -> bytes:
    parts: list[bytes] = []
    with os.fdopen(fd, "rb", 0) as file:
        while True:
            assert select.select([fd], [], [], BOUND_S)[0], "the process does not end"
            if not (part := file.read(65536)):
                return b"".join(parts)
            parts.append(part)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_new_privs": False, "cwd": "/usr"},
        {"limits": {"CPU": 100, "AS": 1 << 30, "RSS": 1 << 61, "NOFILE": 64}},
        {"limits": {"CPU": -1, "NOFILE": 64, "FSIZE": 0}},
        {"argv_more": ["", "é", "\udcff", "a\nb"], "env": {"PATH": "", "A": "", "B": "=\udcff"}},
        {"scope_signals": True},
        {"scope_limits": True},
    ],
    ids=["plain", "privileged", "limits", "no limits", "words", "scoped", "filtered"],
)
def test_a_process_by_a_plan_is_what_it_is_without(raw_spawner: RawSpawner, options: Any) -> None:
    if options.get("scope_signals") and raw_spawner.landlock < 6:
        pytest.skip("this kernel scopes no signals")
    more = options.pop("argv_more", [])
    spawn = asked([sys.executable, "-I", "-S", "-c", REPORT, *more], **options)
    by_plan = born(raw_spawner, spawn)
    raw_spawner.include_memory()
    without = born(None, spawn)
    assert by_plan[1] == without[1] == b""
    assert json.loads(by_plan[0]) == json.loads(without[0])


def test_a_process_is_born_in_its_group_and_not_moved_there(raw_spawner: RawSpawner, tmp_path: Path) -> None:
    try:
        subtree = claim(tmp_path)
    except Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")
    group = subtree.groups.make("a-0#1", 0, 0, 0)
    try:
        text_, failure = born(raw_spawner, asked([sys.executable, "-I", "-S", "-c", REPORT], cgroup=group))
        assert failure == b""
        assert json.loads(text_)["group"].rstrip().endswith("/a-0#1")
        plan = ctypes.string_at(raw_spawner.plan, PLAN_BYTES)
        assert b"cgroup.procs" not in plan, "which takes the kernel 10 to 20 ms"
    finally:
        assert cgroup.remove(group)
        subtree.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
@pytest.mark.parametrize(
    "options",
    [
        {"user": "nobody", "identity": (65534, 65533, [65533, 7])},
        {"user": "nobody", "group": "7", "identity": (65534, 7, [7])},
        {"group": "7", "identity": (0, 7, [7])},
        {"user": "root", "identity": (0, 0, [0])},
    ],
    ids=["user", "user and group", "group", "itself"],
)
def test_a_process_of_another_user_is_what_it_is_without(raw_spawner: RawSpawner, options: Any) -> None:
    kept = "Uid|Gid|Groups|NoNewPrivs|SigBlk|SigIgn|Cap"
    look = f"grep -E '^({kept})' /proc/self/status; ls -l /proc/self/fd/"
    spawn = asked(["sh", "-c", f"{look} | wc -l; umask; kill -0 $PPID; echo $?"], **options)
    by_plan = born(raw_spawner, spawn)
    raw_spawner.include_memory()
    assert by_plan == born(None, spawn)
    assert str(options["identity"][0]).encode() in by_plan[0]


def test_a_program_is_found_in_the_path(raw_spawner: RawSpawner, tmp_path: Path) -> None:
    spawn = asked(["echo", "here"], env={"PATH": f"{tmp_path}:/no/such/folder:{os.defpath}"})
    assert born(raw_spawner, spawn) == (b"here\n", b"")


def test_a_temporary_folder_is_made_by_a_plan(raw_spawner: RawSpawner, tmp_path: Path) -> None:
    assert born(raw_spawner, asked(["true"], temporary=str(tmp_path / "own"))) == (b"", b"")
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
def test_a_temporary_folder_by_a_plan_is_the_workers_own(raw_spawner: RawSpawner, tmp_path: Path) -> None:
    options = {"user": "nobody", "identity": (65534, 65533, [7])}
    assert born(raw_spawner, asked(["true"], temporary=str(tmp_path / "own"), **options)) == (b"", b"")
    found = (tmp_path / "own").lstat()
    assert (found.st_uid, found.st_gid) == (65534, 65533)


@pytest.mark.parametrize(
    ("options", "report"),
    [
        ({"argv": ["/no/such/program"]}, FAILED_LATE),
        ({"argv": ["no-such-program"]}, FAILED_LATE),
        ({"cwd": "/no/such/folder"}, FAILED_LATE),
        ({"cgroup": "/no/such/group"}, FAILED_EARLY),
        ({"temporary": "/proc/own"}, FAILED_EARLY),
        ({"limits": {"NOFILE": 1 << 40}}, FAILED_LATE),
        ({"argv": ["/"]}, FAILED_LATE),
        ({"argv": ["true", "x" * 140_000]}, FAILED_LATE),
    ],
)
def test_a_plan_that_does_not_work_out_says_so(raw_spawner: RawSpawner, options: Any, report: bytes) -> None:
    assert born(raw_spawner, asked(["true"]) | options) == (b"", report)


@pytest.mark.parametrize(
    "options",
    [
        {"user": "nobody"},
        {"group": "nogroup"},
        {"nice": 5},
        {"read_paths": ["/"]},
        {"write_paths": []},
        {"connect_ports": [1]},
        {"limits": {"NO_SUCH": 1}},
        {"argv": []},
        {"argv": ["a\0b"]},
        {"env": {"A=B": "C"}},
        {"env": {"": "C"}},
        {"limits": {"NOFILE": 1 << 63}},
        {"limits": {"CPU": (1 << 64) + 5}},
        {"argv": ["true", "x" * PLAN_BYTES]},
        {"argv": ["\ud800"]},
    ],
)
def test_what_needs_more_than_a_plan_gets_none(raw_spawner: RawSpawner, options: Any) -> None:
    assert raw_spawner.start(asked(["true"]) | options, [0, 1, 2], 3) is None


def test_a_failure_is_reported_even_before_the_report_has_its_place(raw_spawner: RawSpawner) -> None:
    (text_, report), (silent, three) = os.pipe(), os.pipe()
    assert report > 3
    pid = os.fork()
    if pid == 0:  # where nobody else uses the third
        try:
            os.dup2(three, 3)
            os.waitpid(raw_spawner.start(asked(["true"]), [1 << 20] * 3, report) or 0, 0)
        finally:
            os._exit(0)
    os.close(report)
    os.close(three)
    assert _all(text_) == FAILED_EARLY
    assert _all(silent) == b"", "what else is open is nobody's business"
    os.waitpid(pid, 0)


def test_what_was_blocked_stays_blocked(raw_spawner: RawSpawner) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        assert born(raw_spawner, asked(["true"])) == (b"", b"")
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_after_a_fork_that_was_refused_python_can_fork_again(raw_spawner: RawSpawner) -> None:
    pid = os.fork()
    if pid == 0:
        answer = 1
        try:
            hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            if os.geteuid() == 0:
                os.setresuid(54321, 54321, 54321)  # root is not counted
            resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
            try:
                raw_spawner.start(asked(["true"]), [0, 1, 2], 2)
            except OSError as error:
                answer = 2 if error.errno == errno.EAGAIN else 3
            resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
            raw_spawner.include_memory()
            if os.waitpid(os.fork() or os._exit(0), 0)[1] == 0 and answer == 2:
                answer = 0
        finally:
            os._exit(answer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- in a launcher --------------------------------------------------------------------------------


FILTERED = """
import ctypes, runpy, struct, sys
ACCESS, F_OK, KILL, ALLOW = 21, 0, 0x80000000, 0x7fff0000
load, equal, answer = 0x20, 0x15, 0x06
steps = [(load, 0, 0, 0), (equal, 0, 3, ACCESS), (load, 0, 0, 24), (equal, 0, 1, F_OK), (answer, 0, 0, KILL), (answer, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
program = struct.pack("=H6xQ", len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
runpy.run_path(PROGRAM, run_name="__main__")
"""
FORBIDDEN = """
import ctypes, runpy, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit(77)
runpy.run_path(PROGRAM, run_name="__main__")
"""


@pytest.mark.parametrize("host", [FILTERED, FORBIDDEN], ids=["seccomp", "no new code"])
def test_where_no_plan_works_processes_are_forked(tmp_path: Path, host: str) -> None:
    """A filter that kills for access(2), and a host that lets no memory become code (MemoryDenyWriteExecute=)."""
    program = tmp_path / "launcher.py"
    program.write_text(f"PROGRAM = {launcher.__file__!r}\n{host}")
    with contextlib.closing(Wire(program=str(program))) as wire:
        try:
            said = wire.start("a-0#1", ["sh", "-c", "echo here; exec sleep 100"])[1]
        except EOFError:
            assert wire.process.wait(BOUND_S) == 77
            pytest.skip("this kernel cannot forbid it")
        assert said == "here\n"
        assert wire.hear("unplanned")["reason"]
        maps = Path(f"/proc/{wire.process.pid}/smaps").read_text()
        assert " dc" not in maps


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Wire, Wire]]:
    """A launcher that goes by plans, and one that does not."""
    with contextlib.closing(Wire()) as one, contextlib.closing(Wire(plans=False)) as other:
        yield one, other


REFUSED: dict[str, dict[str, Any]] = {
    "missing": {"argv": ["/no/such/program"]},
    "not in PATH": {"argv": ["no-such-program"], "env": {"PATH": "/é::/no"}},
    "folder": {"argv": ["/"]},
    "folder in PATH": {"argv": ["usr"], "env": {"PATH": "/no:/"}},
    "not a folder": {"argv": ["/etc/passwd/x"]},
    "not executable": {"argv": ["/etc/passwd"]},
    "not executable in PATH": {"argv": ["passwd"], "env": {"PATH": "/no:/etc"}},
    "long word": {"argv": ["true", "x" * 140_000]},
    "long name": {"argv": ["/" + "x" * 300]},
    "long path": {"argv": ["/x" * 3000]},
    "no argv": {"argv": []},
    "no name": {"argv": [""]},
    "zero byte": {"argv": ["true", "a\0b"]},
    "surrogate": {"argv": ["true", "\ud800"]},
    "zero byte in a variable": {"env": {"A": "\0"}},
    "odd variable": {"env": {"A=B": ""}},
    "nameless variable": {"env": {"": "x"}},
    "no cwd": {"cwd": "/no/such/folder"},
    "empty cwd": {"cwd": ""},
    "file for cwd": {"cwd": "/etc/passwd"},
    "zero byte in cwd": {"cwd": "/\0"},
    "limit": {"limits": {"NOFILE": 1 << 40}},
    "long limit": {"limits": {"CPU": 1 << 64}},
    "unknown limit": {"limits": {"NO_SUCH": 1}},
    "no room": {"limits": {"AS": 1 << 12}},
    "temporary": {"temporary": "/proc/own"},
    "temporary that is there": {"temporary": "/usr"},
    "no user": {"user": "no-such-user"},
    "no group": {"group": "no-such-group"},
    "no cwd for this user": {"user": "nobody", "cwd": "/root", "identity": [65534, 65534, [65534]]},
    "no path": {"read_paths": ["/no/such/path"]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_that_fails_is_reported_in_the_words_of_birth(both: tuple[Wire, Wire], case: str) -> None:
    words: list[dict[str, Any]] = []
    for wire in both:
        options = {"argv": ["true"]} | REFUSED[case]
        seq, reading = wire.spawn("a-0#1", **options)
        answer = wire.hear(seq=seq)
        os.close(reading)
        if answer["op"] == "spawned":  # by the kernel, after the end of the old program
            answer = {"status": wire.hear("exited", unit="a-0#1")["status"]}
            wire.hear("emptied", unit="a-0#1")
        words.append({key: value for key, value in answer.items() if key != "seq"})
    assert words[0] == words[1]
    assert words[0].get("op") == "failed" or case == "no room"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with contextlib.closing(Wire()) as found:
        yield found


def test_births_with_a_plan_and_without_follow_each_other(wire: Wire) -> None:
    for number, nice in enumerate((0, 1, 0, 0, 2, 0)):
        text_ = ["sh", "-c", "nice; exec sleep 100"]
        niceness = os.nice(0) + nice  # on top of that of the tests
        assert wire.start(f"a-0#{number}", text_, nice=nice)[1] == f"{niceness}\n"


def test_niceness_counts_also_where_the_kernel_makes_a_group_of_each_session(wire: Wire) -> None:
    if os.geteuid() != 0 or not Path("/proc/self/autogroup").exists():
        pytest.skip("needs root, for whom the kernel bounds no rate, and groups of sessions")
    words = ["sh", "-c", "cat /proc/self/autogroup; exec sleep 100"]
    assert wire.start("a-0#1", words, nice=7)[1].split()[-2:] == ["nice", "7"]
    assert wire.start("a-0#2", words)[1].split()[-2:] == ["nice", "0"]


def test_what_a_failed_plan_has_made_is_in_nobodys_way(wire: Wire, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    seq, reading = wire.spawn("a-0#1", ["true"], cwd="/no/such/folder", temporary=str(folder))
    assert wire.hear("failed", seq=seq)["stage"] == "chdir"
    os.close(reading)


def test_a_temporary_folder_of_somebody_else_is_left_alone(wire: Wire, tmp_path: Path) -> None:
    seq, reading = wire.spawn("a-0#1", ["true"], temporary=str(tmp_path))
    assert wire.hear("failed", seq=seq)["stage"] == "temporary"
    assert tmp_path.is_dir()
    os.close(reading)


def test_the_ends_of_a_failed_process_are_closed(wire: Wire) -> None:
    seq, reading = wire.spawn("a-0#1", ["/no/such/program"])
    assert wire.hear("failed", seq=seq)["stage"] == "exec"
    assert select.select([reading], [], [], BOUND_S)[0]
    assert os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.usefixtures("raw_spawner")
def test_a_launcher_of_this_machine_goes_by_plans(wire: Wire) -> None:
    wire.start("a-0#1", [*PYTHON, "-c", "print(1, flush=True); import time; time.sleep(100)"])
    maps = Path(f"/proc/{wire.process.pid}/smaps").read_text()
    assert " dc" in maps, "its memory is not to be copied"


def test_a_signal_is_not_lost_with_a_plan_that_fails(tmp_path: Path) -> None:
    """The plan waits for room in its "group", until nobody reads it; what comes next waits for a reader."""
    groups = tmp_path / "groups"
    (groups / "a-0#1").mkdir(parents=True)
    fifo = groups / "a-0#1" / "cgroup.procs"
    os.mkfifo(fifo)
    with contextlib.closing(Wire(Subtree(groups, "/no/such/group"))) as wire:
        try:
            with open(fifo, "r+b", 0) as group:
                os.set_blocking(group.fileno(), False)
                while group.write(b" " * 4096) is not None:
                    pass
                seq, reading = wire.spawn("a-0#1", ["true"])
                os.close(reading)
                wire.send(op="signal", unit="a-0#1", signal=int(signal.SIGTERM), scope="leader")
                until_s = time.monotonic() + BOUND_S
                while not _holds(wire.listed()["units"][0]["pid"], fifo):
                    assert time.monotonic() < until_s, "the plan has not got there"
            assert wire.hear(seq=seq)["op"] == "spawned"
            assert wire.hear("exited", unit="a-0#1")["status"] == signal.SIGTERM
        finally:
            fifo.unlink()


def _holds(pid: int, path: Path) -> bool:
    try:
        return any(Path(os.readlink(fd)) == path for fd in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # closed meanwhile
        return False
