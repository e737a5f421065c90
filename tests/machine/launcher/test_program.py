"""The launcher on its own: a real process, spoken to over its socket as the daemon does."""

import errno
import grp
import json
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.launcher import program as launcher
from corral.supervisor.machine.linux import cgroup, kernel
from corral.supervisor.workers.process import containment
from launcher_wire import AGENTS, BOUND_S, PATH, PYTHON, Wire, debugged, first_line, with_token

pytestmark = pytest.mark.shell

ROOT = os.geteuid() == 0
CAN_IGNORE = 0x7FFFFFFF & ~(1 << 8 | 1 << 18)  # glibc keeps signals 32 and 33 for itself

needs_root = pytest.mark.skipif(not ROOT, reason="only root may change the user")

ATTEMPTS = [0, *(pytest.param(number, marks=pytest.mark.long) for number in (1, 2))]


@pytest.fixture(params=["launcher", "cgroup", "forks"])
def way(request: pytest.FixtureRequest) -> str:
    """The tier, with processes that are born by plans; and the first once more, without plans."""
    found: str = request.param
    return found


@pytest.fixture
def subtree(way: str, tmp_path: Path) -> Iterator[containment.Subtree | None]:
    """Where units have their groups; nothing is left of it in the end."""
    if way != "cgroup":
        yield None
        return
    try:
        found = containment.claim(tmp_path)
    except containment.Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")
    yield found
    assert cgroup.below(str(found.path)) == [], "the launcher removes what it made"
    found.remove()


@pytest.fixture
def wire(way: str, subtree: containment.Subtree | None) -> Iterator[Wire]:
    it = Wire(subtree, plans=way != "forks")
    yield it
    it.close()


@pytest.fixture
def token(tmp_path: Path) -> Iterator[str]:
    """A word that only processes of this test have; whatever has it is gone in the end."""
    word = f"token-{os.getpid()}-{time.monotonic_ns()}"
    yield word
    for pid in with_token(word):
        os.kill(pid, signal.SIGKILL)


def born_with(wire: Wire, unit: str = "a-0#1", **options: Any) -> dict[str, Any]:
    program = [*PYTHON, str(AGENTS / "launcher_birth.py"), *options.pop("arguments", [])]
    born: dict[str, Any] = json.loads(wire.start(unit, program, **options)[1])
    return born


# --- starts that fail ---


def script(path: Path, first_line: str, mode: int = 0o755) -> str:
    path.write_text(first_line)
    path.chmod(mode)
    return str(path)


def refusal(wire: Wire, argv: Sequence[str], **options: Any) -> dict[str, Any]:
    seq, reading = wire.spawn("a-0#1", argv, **options)
    answer = wire.hear("failed", seq=seq)
    assert os.read(reading, 1) == b"", "nobody holds the pipe of a start that failed"
    os.close(reading)
    return answer


def test_every_reason_why_a_program_cannot_run_has_its_own_words(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    starts: dict[str, tuple[Sequence[str], dict[str, Any], str, int]] = {
        "missing": (["/no/such/program"], {}, "exec", errno.ENOENT),
        "not in PATH": (["no-such-program"], {}, "exec", errno.ENOENT),
        "odd name": (['/no/such\n\t"program"'], {}, "exec", errno.ENOENT),
        "long name": (["/no/such/" + "x" * 3000], {}, "exec", errno.ENOENT),
        "odd cwd": (["true"], {"cwd": "/no/such\nfolder"}, "chdir", errno.ENOENT),
        "not executable": ([script(tmp_path / "a", "#!/bin/sh\n", 0o644)], {}, "exec", errno.EACCES),
        "folder": ([str(tmp_path)], {}, "exec", errno.EACCES),
        "interpreter": ([script(tmp_path / "b", "#!/no/such/sh\n")], {}, "exec", errno.ENOENT),
        "no program": ([script(tmp_path / "c", "exit\n")], {}, "exec", errno.ENOEXEC),
        "too long": (["true", *["x" * 100_000] * 30], {}, "exec", errno.E2BIG),
        "no cwd": (["true"], {"cwd": "/no/such/folder"}, "chdir", errno.ENOENT),
        "cwd a file": (["true"], {"cwd": str(tmp_path / "file")}, "chdir", errno.ENOTDIR),
        "no user": (["true"], {"user": "no-such-user"}, "user", errno.ENOENT),
        "no group": (["true"], {"group": "no-such-group"}, "user", errno.ENOENT),
        "limit": (["true"], {"limits": {"NOFILE": 1 << 40}}, "limits", errno.EPERM),
        "no limit": (["true"], {"limits": {"NOSUCH": 1}}, "limits", errno.EINVAL),
    }
    words: dict[str, str] = {}
    for case, (argv, options, stage, number) in starts.items():
        answer = refusal(wire, argv, **options)
        assert (answer["stage"], answer["errno"]) == (stage, number), case
        assert not answer["retryable"], case
        assert answer["message"] not in words, (case, words.get(answer["message"]))
        assert answer["message"].isprintable(), "one line"
        assert len(answer["message"]) < 300, case
        words[answer["message"]] = case
    assert not with_children(wire), "a start that failed leaves no process, not even a zombie"
    assert wire.listed()["units"] == []


def test_a_program_that_is_not_in_path_comes_with_the_path(wire: Wire) -> None:
    assert refusal(wire, ["nope"])["data"] == {"search_path": PATH}
    assert refusal(wire, ["nope"], env={"PATH": "/ü:" * 1000})["message"]
    assert refusal(wire, ["/nope"])["data"] == {}


def test_a_folder_of_path_that_its_user_may_not_enter_is_passed_over(wire: Wire, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    options: dict[str, Any] = {"env": {"PATH": f"{closed}:{PATH}"}, **({"user": "nobody"} if ROOT else {})}
    answer = refusal(wire, ["no-such-program"], **options)
    assert (answer["errno"], answer["data"]) == (errno.ENOENT, {"search_path": f"{closed}:{PATH}"})
    assert wire.start("a-0#1", ["echo", "found"], **options)[1] == "found\n"


def with_children(wire: Wire) -> list[int]:
    process = kernel.look_up(wire.process.pid)
    assert process is not None
    wire.hear("pong", seq=wire.send(op="ping"))
    deadline = time.monotonic() + BOUND_S
    while (found := kernel.children(process)) and time.monotonic() < deadline:
        wire.hear("pong", seq=wire.send(op="ping"))
    return found


@needs_root
def test_a_user_with_too_many_processes_is_retryable(wire: Wire) -> None:
    wire.start("b-0#1", ["sh", "-c", "echo; sleep 1000"], user="nobody")
    answer = refusal(wire, ["true"], user="nobody", limits={"NPROC": 0})
    assert (answer["stage"], answer["errno"], answer["retryable"]) == ("exec", errno.EAGAIN, True)


def test_an_ordinary_user_may_not_become_another(wire: Wire) -> None:
    if ROOT:
        pytest.skip("root may; see the test that does")
    answer = refusal(wire, ["true"], user="root")
    assert (answer["stage"], answer["errno"]) == ("user", errno.EPERM)


def test_a_launcher_without_descriptors_says_so_and_lives(wire: Wire) -> None:
    wire.start("a-0#1", ["echo"])
    wire.hear("emptied")
    wire.hear("pong", seq=wire.send(op="ping"))
    pid = wire.process.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    failures = 0
    answer: dict[str, Any] = {"op": "failed"}
    while answer["op"] == "failed":
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + failures, before[1]))
        seq, reading = wire.spawn(f"b-{failures}#1", ["sleep", "1000"])
        os.close(reading)
        answer = wire.hear(seq=seq)
        if answer["op"] == "failed":
            assert (answer["errno"], answer["retryable"]) == (errno.EMFILE, True)
            failures += 1
    assert failures >= 3, "three descriptors came with the request alone"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wire.start("c-0#1", ["echo"])
    wire.hear("emptied")
    wire.hear("pong", seq=wire.send(op="ping"))
    assert len(os.listdir(f"/proc/{pid}/fd")) == used


def test_a_death_without_a_descriptor_to_look_is_reported_all_the_same(wire: Wire) -> None:
    wire.start("a-0#1", ["sh", "-c", "(sleep 1000 &) ; echo; sleep 1000"])
    pid = wire.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGCONT, scope="tree")
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGKILL, scope="leader")
    wire.hear("pong", seq=wire.send(op="ping"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wire.hear("exited")
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied")


def test_no_death_is_lost_while_there_is_no_descriptor(wire: Wire) -> None:
    leader, _ = wire.start("a-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    pid = wire.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    pidfd = os.pidfd_open(leader)
    os.kill(leader, signal.SIGKILL)
    assert select.select([pidfd], [], [], BOUND_S)[0], "it is dead"
    os.close(pidfd)
    for _ in range(2):  # the second is answered after it was tried to tell the death
        wire.hear("pong", seq=wire.send(op="ping"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert wire.hear("exited", unit="a-0#1")["status"] == signal.SIGKILL
    wire.hear("emptied", unit="a-0#1")


BLIND = """
import errno, sys
sys.path.append({source!r})
from corral.supervisor.machine.launcher import process_tree, program
look_up = process_tree.look_up
def refuse(pid):
    process_tree.look_up = look_up
    raise OSError(errno.ENFILE, "Too many open files in system")
process_tree.look_up = refuse
program.main()
"""
"""A launcher for which the machine has no file left at its first look at a process."""


def test_a_start_that_cannot_be_looked_at_is_answered_and_leaves_nothing(tmp_path: Path, token: str) -> None:
    program = tmp_path / "blind.py"
    program.write_text(BLIND.format(source=str(Path(launcher.__file__).parents[4])))
    wire = Wire(program=str(program))
    answer = refusal(wire, ["sh", "-c", "sleep 1000", token])
    assert (answer["errno"], answer["retryable"]) == (errno.ENFILE, True)
    wire.start("b-0#1", ["echo"])
    wire.hear("emptied", unit="b-0#1")
    assert wire.listed()["units"] == []
    assert with_token(token) == []
    wire.close()


# --- what a process is born with ---


def test_a_process_is_born_alone_and_clean(wire: Wire, tmp_path: Path) -> None:
    born = born_with(wire, cwd=str(tmp_path), env={"PATH": PATH, "WORD": "ü%'\"\n#"}, nice=3)
    assert born["session"] == born["group"] == born["pid"]
    assert int(born["umask"], 8) == 0o077
    assert born["no_new_privs"] == "1"
    assert int(born["blocked"], 16) == 0
    # A new Python ignores these two by itself.
    ignored = int(born["ignored"], 16) & CAN_IGNORE
    assert ignored & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
    assert born["parent_death_signal"] == signal.SIGKILL
    assert born["fds"] == [0, 1, 2]
    assert born["blocking"] == [True, True, True]
    assert born["cwd"] == str(tmp_path)
    assert born["nice"] == min(os.nice(0) + 3, 19)  # than whoever started it: see nice(2)
    env = {name: value for name, value in born["env"].items() if name != "LC_CTYPE"}  # PEP 538
    assert env == {"PATH": PATH, "WORD": "ü%'\"\n#", "CORRAL_WORKER": "a-0#1"}


def test_the_signals_that_python_ignores_are_default_in_a_child(wire: Wire) -> None:
    _pid, line = wire.start("a-0#1", ["grep", "SigIgn", "/proc/self/status"])
    assert int(line.split()[1], 16) & CAN_IGNORE == 0


def test_privileges_and_umask_are_as_asked(wire: Wire) -> None:
    born = born_with(wire, umask=0o022, no_new_privs=False)
    assert (int(born["umask"], 8), born["no_new_privs"]) == (0o022, "0")


def test_limits_hold_before_the_first_instruction(wire: Wire) -> None:
    limits = {"NOFILE": 123, "FSIZE": 4 << 20, "AS": 1 << 33, "NPROC": 900, "CORE": 0}
    for n in range(50):
        limits["NOFILE"] = 100 + n
        _pid, line = wire.start(f"a-0#{n}", ["sh", "-c", "ulimit -n"], limits=limits)
        assert int(line) == 100 + n
    born = born_with(wire, limits=limits)["limits"]
    assert {name: born[name] for name in limits} == {k: [v, v] for k, v in limits.items()}


def test_too_much_processor_time_ends_with_sigxcpu(wire: Wire) -> None:
    seq, reading = wire.spawn("a-0#1", [*PYTHON, "-c", "while True: pass"], limits={"CPU": 1})
    os.close(reading)
    wire.hear("spawned", seq=seq)
    assert os.WTERMSIG(wire.hear("exited")["status"]) == signal.SIGXCPU


@needs_root
def test_another_user_comes_with_its_groups_and_may_not_return(wire: Wire) -> None:
    program = Path("/usr/bin/python3")
    if not program.exists():
        pytest.skip("no python that another user may run")
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
    _pid, line = wire.start("a-0#1", ["id"], user="nobody")
    assert "(nobody)" in line
    assert "(root)" not in line
    _pid, line = wire.start("a-0#2", [str(program), "-c", code], user="65534", group="daemon")
    gid = grp.getgrnam("daemon").gr_gid
    assert line == f"{(65534,) * 3} {(gid,) * 3} [{gid}]\n"


# --- ends ---


def test_an_exit_is_reported_with_status_and_use(wire: Wire) -> None:
    pid, _line = wire.start("a-0#1", ["sh", "-c", "echo; exit 7"])
    exited = wire.hear("exited", unit="a-0#1", pid=pid)
    assert os.waitstatus_to_exitcode(exited["status"]) == 7
    assert exited["rusage"]["maxrss_bytes"] > 100_000
    wire.hear("emptied", unit="a-0#1")


def test_an_exit_is_reported_while_a_grandchild_holds_the_pipe(wire: Wire) -> None:
    seq, reading = wire.spawn("a-0#1", ["sh", "-c", "sleep 1000 & exit 3"])
    pid = wire.hear("spawned", seq=seq)["pid"]
    wire.hear("exited", unit="a-0#1", pid=pid)
    assert not select.select([reading], [], [], 0)[0], "the pipe is still open"
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_what_a_dead_leader_left_lives_until_the_daemon_says_kill(wire: Wire, token: str) -> None:
    pids = wire.tree("a-0#1", token, 2, 2, "--exit")
    wire.hear("exited")
    units = {unit["unit"]: unit["processes"] for unit in wire.listed()["units"]}
    assert sorted(units["a-0#1"]) == sorted(pids[1:])
    assert all(message["op"] != "emptied" for message in wire.said)
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    assert with_token(token) == []


def test_grandchildren_that_escaped_are_found_and_killed(wire: Wire, token: str) -> None:
    pids = wire.tree("a-0#1", token, 3, 1)
    (unit,) = wire.listed()["units"]
    assert sorted(unit["processes"]) == sorted(pids)
    wire.send(op="kill", unit="a-0#1")
    assert os.WTERMSIG(wire.hear("exited")["status"]) == signal.SIGKILL
    wire.hear("emptied", unit="a-0#1")
    assert with_token(token) == []


@pytest.mark.parametrize("ends", ["a-0#1", "b-0#1"])
def test_an_escape_without_a_trace_ends_with_a_worker_that_it_could_belong_to(
    wire: Wire, token: str, ends: str
) -> None:
    wire.start("b-0#1", ["sh", "-c", "echo; sleep 1000"])
    leader, *escaped = wire.tree("a-0#1", token, 2, 0, "--no-brand")
    listed = wire.listed()
    members = {unit["unit"]: unit["processes"] for unit in listed["units"]}
    if wire.subtree is not None:  # where a group is a trace that it cannot cover
        assert sorted(members["a-0#1"]) == sorted([leader, *escaped])
        return
    # A survey may have met one before its parent died; the other cases are of no interest here.
    assert sorted([*members["a-0#1"], *listed["unknown"]]) == sorted([leader, *escaped])
    unknown = [os.pidfd_open(pid) for pid in listed["unknown"]]
    wire.send(op="kill", unit=ends)
    wire.hear("emptied", unit=ends)
    dead = select.select(unknown, [], [], 0)[0]
    assert dead == unknown, "a worker is not empty before what could be its own is dead"
    for pidfd in unknown:
        os.close(pidfd)
    assert leader not in with_token(token) or ends == "b-0#1"
    listed = wire.listed()
    assert [unit["unit"] for unit in listed["units"]] == [{"a-0#1": "b-0#1"}.get(ends, "a-0#1")]
    assert listed["unknown"] == []


def test_an_escape_without_environment_and_session_is_known_by_its_brand(wire: Wire, token: str) -> None:
    wire.start("b-0#1", ["sh", "-c", "echo; sleep 1000"])
    pids = wire.tree("a-0#1", token, 3, 0)
    listed = wire.listed()
    assert listed["unknown"] == []
    members = {unit["unit"]: unit["processes"] for unit in listed["units"]}
    assert sorted(members["a-0#1"]) == sorted(pids)


def test_an_escape_whose_mark_is_left_is_not_mistaken(wire: Wire, token: str) -> None:
    code = "(setsid sh -c 'sleep 1000 & exec sleep 1000' &); sleep 0; echo; exec sleep 1000"
    wire.start("b-0#1", ["sh", "-c", "echo; sleep 1000"])
    wire.start("a-0#1", ["sh", "-c", code])
    assert wire.listed()["unknown"] == []
    wire.send(op="kill", unit="b-0#1")
    wire.hear("emptied", unit="b-0#1")
    (unit,) = wire.listed()["units"]
    assert len(unit["processes"]) >= 2


@pytest.mark.parametrize("user", [None, pytest.param("nobody", marks=needs_root)])
def test_a_killed_launcher_takes_its_children_along(wire: Wire, user: str | None) -> None:
    pid, _line = wire.start("a-0#1", ["sh", "-c", "echo; exec sleep 1000"], user=user)
    pidfd = os.pidfd_open(pid)
    wire.process.kill()
    assert select.select([pidfd], [], [], BOUND_S)[0], "the kernel tells the child (PDEATHSIG)"
    os.close(pidfd)
    if wire.subtree is not None:
        wire.process.wait()
        assert cgroup.remove(str(wire.subtree.unit("a-0#1")))  # which is the daemon's task then


def test_a_dead_worker_that_a_debugger_keeps_is_reported_as_gone(wire: Wire) -> None:
    pid, _ = wire.start("a-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    with debugged(pid):
        wire.send(op="kill", unit="a-0#1")
        assert wire.hear("exited", unit="a-0#1")["status"] == signal.SIGKILL
        wire.hear("emptied", unit="a-0#1")
        assert kernel.look_up(pid) is not None, "as a zombie"
    wire.start("b-0#1", ["echo"])
    wire.hear("emptied", unit="b-0#1")


def test_a_dead_worker_that_a_debugger_keeps_does_not_keep_the_launcher(wire: Wire) -> None:
    pid, _ = wire.start("a-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    with debugged(pid):
        wire.sock.close()
        assert wire.process.wait(BOUND_S) == 0


def test_kill_0_9_harms_nobody_else(wire: Wire) -> None:
    wire.start("b-0#1", ["sh", "-c", "echo; sleep 1000"])
    wire.start("a-0#1", ["sh", "-c", "echo; kill -9 0"])
    assert os.WTERMSIG(wire.hear("exited", unit="a-0#1")["status"]) == signal.SIGKILL
    assert [unit["unit"] for unit in wire.listed()["units"]] == ["b-0#1"]


def test_a_signal_reaches_the_leader_or_the_whole_tree(wire: Wire, token: str) -> None:
    # The leader answers each signal; its child, in a group of its own, ends by it.
    code = "trap 'echo got' USR1; setsid sh -c 'echo; exec sleep 1000' & while :; do wait; done"
    seq, reading = wire.spawn("a-0#1", ["sh", "-c", code])
    wire.hear("spawned", seq=seq)
    first_line(reading)
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGUSR1, scope="leader")
    assert first_line(reading) == "got\n"
    (unit,) = wire.listed()["units"]
    other = next(pid for pid in unit["processes"] if pid != unit["pid"])
    pidfd = os.pidfd_open(other)
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGUSR1, scope="tree")
    assert first_line(reading) == "got\n"
    assert select.select([pidfd], [], [], BOUND_S)[0], "the other one of the tree had it too"
    os.close(pidfd)
    os.close(reading)


def test_a_stopped_tree_that_is_asked_to_end_ends(wire: Wire) -> None:
    wire.start("a-0#1", ["sh", "-c", "sleep 1000 & echo; wait"])
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGSTOP, scope="tree")
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGTERM, scope="tree")
    assert os.WTERMSIG(wire.hear("exited")["status"]) == signal.SIGTERM
    wire.hear("emptied", unit="a-0#1")


def test_late_requests_for_a_unit_that_is_gone_are_dropped(wire: Wire) -> None:
    wire.start("a-0#1", ["echo"])
    wire.hear("emptied")
    wire.send(op="kill", unit="a-0#1")
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGKILL, scope="tree")
    wire.hear("pong", seq=wire.send(op="ping"))


def test_a_storm_of_escapes_is_ended_by_one_kill(wire: Wire, token: str) -> None:
    # Seven generations, 128 processes, each of them in a session of its own.
    code = "import os, signal\nprint(flush=True)\nfor _ in range(7):\n    os.fork() or os.setsid()\n"
    wire.start("a-0#1", [*PYTHON, "-c", code + "signal.pause()", token])
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    assert with_token(token) == []


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_chain_of_processes_that_never_stands_still_is_ended_by_one_kill(
    wire: Wire, token: str, attempt: int
) -> None:
    # Each link is in a session of its own and lives for an instant; bounded, in case of the worst.
    code = """
import os
os.closerange(3, 100)
print(flush=True)
for _ in range(200_000):
    if os.fork():
        os._exit(0)
    os.setsid()
"""
    wire.start("a-0#1", [*PYTHON, "-c", code, token])
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    assert with_token(token) == []


def test_three_storms_of_forks_are_ended_while_a_neighbour_lives(wire: Wire, token: str) -> None:
    # Each process forks until there are 3^5 of them in as many sessions, without environment or TERM.
    code = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
for _ in range(5):
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            break
while True: signal.pause()
"""
    wire.start("n-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    for n in range(3):
        wire.start(f"a-{n}#1", ["env", "-i", *PYTHON, "-c", code, token])
    started = time.monotonic()
    for n in range(3):
        wire.send(op="kill", unit=f"a-{n}#1")
    for n in range(3):
        wire.hear("emptied", unit=f"a-{n}#1")
    print(f"empty after {time.monotonic() - started:.3f} s")
    assert with_token(token) == []
    assert [unit["unit"] for unit in wire.listed()["units"]] == ["n-0#1"]


@needs_root
def test_a_fork_bomb_is_ended_by_one_kill_and_others_are_served(wire: Wire) -> None:
    bomb = 'setsid sh -c "$BOMB" & setsid sh -c "$BOMB" & wait; exec sh -c "$BOMB"'
    env = {"PATH": PATH, "BOMB": bomb}
    limits = {"NPROC": 100}  # which root would not obey
    code = 'echo; exec sh -c "$BOMB"'
    wire.start("a-0#1", ["sh", "-c", code], env=env, user="nobody", limits=limits)
    while len(next(u for u in wire.listed()["units"] if u["unit"] == "a-0#1")["processes"]) < 50:
        pass
    wire.start("b-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    (unit,) = wire.listed()["units"]
    assert unit["unit"] == "b-0#1"


# --- frozen ---

SPIN = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
leader = os.getpid()
reading, writing = os.pipe()
for _ in range(2):
    os.fork() or os.setsid()
os.write(writing, b"x")
while os.getpid() == leader and reading >= 0:  # until all four are what they are to be
    for _ in range(4):
        os.read(reading, 1)
    print(flush=True)
    reading = -1
while True: pass
"""


def ticks_of(pids: list[int]) -> list[int]:
    """The processor time of each of them so far."""
    lines = [kernel.read_proc(f"/proc/{pid}/stat") for pid in pids]
    return [sum(map(int, line[line.rindex(b")") :].split()[12:14])) for line in lines]


def wait_until_still(wire: Wire, pids: list[int]) -> None:
    """Wait until none of them runs, by the state of each or by that of their group."""
    deadline = time.monotonic() + BOUND_S
    while True:
        assert time.monotonic() < deadline
        states = [process.state for pid in pids if (process := kernel.look_up(pid))]
        if all(state == b"T" for state in states):
            return
        if wire.subtree is not None:
            events = cgroup.read(str(wire.subtree.unit("a-0#1")), "cgroup.events")
            if "frozen 1" in events:
                return


def members(wire: Wire, unit: str = "a-0#1") -> list[int]:
    found: list[int] = next(u for u in wire.listed()["units"] if u["unit"] == unit)["processes"]
    return found


def start_spinning(wire: Wire, token: str) -> list[int]:
    wire.start("a-0#1", [*PYTHON, "-c", SPIN, token])
    found = members(wire)
    assert len(found) == 4
    return found


def test_a_frozen_tree_takes_no_processor_time_until_it_is_thawed(wire: Wire, token: str) -> None:
    pids = start_spinning(wire, token)
    for _ in range(3):
        wire.send(op="freeze", unit="a-0#1")
        wait_until_still(wire, pids)
        before = ticks_of(pids)
        for _ in range(200):
            wire.hear("pong", seq=wire.send(op="ping"))
        assert ticks_of(pids) == before
        wire.send(op="thaw", unit="a-0#1")
        deadline = time.monotonic() + BOUND_S
        while any(now == then for now, then in zip(ticks_of(pids), before, strict=True)):
            assert time.monotonic() < deadline, "all of them run again"


def test_a_kill_and_an_ending_signal_reach_what_is_frozen(wire: Wire, token: str) -> None:
    pids = start_spinning(wire, token)
    wire.send(op="freeze", unit="a-0#1")
    wait_until_still(wire, pids)
    wire.send(op="signal", unit="a-0#1", signal=signal.SIGTERM, scope="tree")
    assert os.waitstatus_to_exitcode(wire.hear("exited")["status"]) == 7, "its handler has run"
    wire.hear("emptied")
    pids = start_spinning(wire, token)
    wire.send(op="freeze", unit="a-0#1")
    wait_until_still(wire, pids)
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied")
    assert with_token(token) == []


def test_what_is_frozen_ends_with_the_daemon(wire: Wire, token: str) -> None:
    pids = start_spinning(wire, token)
    wire.send(op="freeze", unit="a-0#1")
    wait_until_still(wire, pids)
    wire.close()
    assert with_token(token) == []


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_tree_that_forks_while_it_is_frozen_stands_still(wire: Wire, token: str, attempt: int) -> None:
    # Bounded: each process is in a session of its own, and there are 255 of them at last.
    code = (
        "import os, time\nprint(flush=True)\nfor _ in range(8):\n    os.fork() or os.setsid()\n    time.sleep(0.005)\n"
    )
    wire.start("a-0#1", [*PYTHON, "-c", code + "while True: time.sleep(0.01)", token])
    wire.send(op="freeze", unit="a-0#1")
    deadline = time.monotonic() + BOUND_S
    count = -1
    while count != len(pids := members(wire)):  # until nothing new comes between two looks
        count = len(pids)
        wait_until_still(wire, pids)
        assert time.monotonic() < deadline
    before = ticks_of(pids)
    for _ in range(50):
        wire.hear("pong", seq=wire.send(op="ping"))
    assert (sorted(members(wire)), ticks_of(pids)) == (sorted(pids), before)
    wire.send(op="thaw", unit="a-0#1")
    while len(members(wire)) < 256:
        assert time.monotonic() < deadline


def test_what_escapes_is_reported_by_its_unit_until_it_is_gone(wire: Wire, token: str) -> None:
    wire.start("b-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    leader, *escaped = wire.tree("a-0#1", token, 3, 1)
    orphans = escaped[:3]
    known: list[int] = []
    while sorted(known) != sorted(orphans):
        known = wire.hear("roots", unit="a-0#1")["pids"]
        assert set(known) <= set(orphans)
    os.kill(orphans[0], signal.SIGKILL)
    while orphans[0] in known:
        known = wire.hear("roots", unit="a-0#1")["pids"]
    assert sorted(known) == sorted(orphans[1:])
    assert leader in with_token(token)


# --- the daemon is gone ---


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_is_left_when_the_daemon_hangs_up(wire: Wire, token: str, attempt: int) -> None:
    for n in range(5):
        assert len(wire.tree(f"a-{n}#1", token, 3, 1)) == 5
    assert len(with_token(token)) == 25
    wire.close()
    assert with_token(token) == [], "the launcher ends after its last descendant"
    assert wire.process.returncode == 0


LEADER = """
import os, pathlib, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
print("up", flush=True)
signal.sigwait([signal.SIGRTMIN])
os.mkdir(sys.argv[1])
"""


def test_the_leader_of_a_container_removes_it_when_the_daemon_hangs_up(wire: Wire, tmp_path: Path, token: str) -> None:
    removed = tmp_path / "removed"
    words = [*PYTHON, "-c", LEADER, str(removed), token]
    assert wire.start("a-0#1", words, container=str(tmp_path))[1] == "up\n"
    assert len(wire.tree("a-1#1", token, 3, 1)) == 5
    wire.close()
    assert removed.exists()
    assert with_token(token) == []
    assert wire.process.returncode == 0


def test_a_launcher_ignores_a_request_of_others_to_end(wire: Wire) -> None:
    wire.hear("pong", seq=wire.send(op="ping"))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        wire.process.send_signal(signum)
    wire.hear("pong", seq=wire.send(op="ping"))


# --- size and speed ---


def test_a_request_of_a_megabyte_arrives_whole(wire: Wire) -> None:
    words = {f"WORD_{n}": str(n) * 20_000 for n in range(8)} | {"PATH": PATH}
    born = born_with(wire, env=words)
    assert {name: born["env"][name] for name in words} == words


def test_two_hundred_starts_at_once_are_all_confirmed_and_ended(wire: Wire) -> None:
    readers: list[int] = []
    answers: list[int] = []

    def send() -> None:  # from another thread, since the launcher's answers must be read meanwhile
        for n in range(200):
            seq, reading = wire.spawn(f"a-{n}#1", ["sleep", "1000"])
            answers.append(seq)
            readers.append(reading)

    thread = threading.Thread(target=send)
    thread.start()
    pids = {wire.hear("spawned")["pid"] for _ in range(200)}
    thread.join()
    assert len(pids) == 200
    for n in range(200):
        wire.send(op="kill", unit=f"a-{n}#1")
    for _ in range(200):
        wire.hear("emptied")
    for reading in readers:
        os.close(reading)


def test_a_daemon_that_does_not_read_learns_everything_later(wire: Wire) -> None:
    for n in range(100):
        _seq, reading = wire.spawn(f"a-{n}#1", ["true"])
        os.close(reading)
        for _ in range(50):
            wire.send(op="ping")
    for n in range(100):
        wire.hear("exited", unit=f"a-{n}#1")
        wire.hear("emptied", unit=f"a-{n}#1")


# --- where it is loaded from ---


def test_the_launcher_loads_the_standard_library_and_two_packages_alone() -> None:
    code = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="launcher")
print(*(name for name in sys.modules if name.partition(".")[0] not in sys.stdlib_module_names))
"""
    loaded = subprocess.check_output([*PYTHON, "-c", code, launcher.__file__], text=True).split()
    rooms = {
        "linux": ("cgroup", "kernel", "landlock", "seccomp"),
        "launcher": (
            *("child_setup", "main_loop", "process_tree", "protocol", "raw_spawn", "shutdown", "tree_signals"),
            "sandboxes",
            "lease",
        ),
    }
    expected = {"corral", "corral.supervisor", "corral.supervisor.machine"}
    for room, modules in rooms.items():
        expected |= {f"corral.supervisor.machine.{room}"}
        expected |= {f"corral.supervisor.machine.{room}.{module}" for module in modules}
    assert set(loaded) - {"__main__", "sitecustomize"} == expected


def test_a_launcher_that_may_not_keep_its_compiled_code_works(tmp_path: Path) -> None:
    package = tmp_path / "corral"
    rooms = [Path("supervisor", "machine", room) for room in ("linux", "launcher")]
    for room in rooms:
        (package / room).mkdir(parents=True)
        for path in (Path(launcher.__file__).parents[1] / room.name).glob("*.py"):
            (package / room / path.name).write_bytes(path.read_bytes())
    (package / "__init__.py").touch()
    for folder in (package, *(package / room for room in rooms)):
        (folder / "__pycache__").touch()  # so that not even root can make it a folder
    wire = Wire(program=str(package / rooms[1] / "program.py"))
    wire.start("a-0#1", ["echo"])
    wire.hear("emptied")
    wire.close()
