"""A zygote's process on its own: real ones, spoken to over their sockets as the daemon does."""

import os
import pwd
import py_compile
import resource
import select
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import corral
from corral.supervisor.machine.linux import kernel, landlock, seccomp
from corral.supervisor.workers.process import containment
from launcher_wire import AGENTS, BOUND_S, Wire, birth
from zygote_wire import Worker, ZygoteWire, piped

pytestmark = pytest.mark.shell

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
needs_landlock = pytest.mark.skipif(landlock.abi() < 6, reason=f"this kernel has version {landlock.abi()} of Landlock")
SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGE = Path(corral.__file__).parent


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def report() -> Iterator[ZygoteWire]:
    """One zygote of fork_report, for all tests that leave it as it is."""
    wire = ZygoteWire("fork_report:agent")
    wire.loaded()
    yield wire
    wire.close()


def zygote(stack: ExitStack, *given: Any, **options: Any) -> ZygoteWire:
    wire = ZygoteWire(*given, **options)
    stack.callback(wire.close)
    return wire


def module(folder: Path, text: str, name: str = "subject") -> str:
    """The entrypoint of a module of this text."""
    head = "import os, socket, sys\nfrom corral.worker import Agent\nagent = Agent()\n"
    (folder / f"{name}.py").write_text(head + text)
    return f"{name}:agent"


ANSWERS = "VERSION = 1\n@agent.task\nasync def run(task):\n    return VERSION\n"


def worker_of(wire: ZygoteWire, unit: str, **options: Any) -> Worker:
    """A fork that is Ready."""
    worker = wire.fork(unit, **options)
    worker.initialize()
    return worker


class Watched:
    """Processes whose ends are waited for."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.fds = [os.pidfd_open(pid) for pid in pids]

    def assert_end(self) -> None:
        try:
            for fd in self.fds:
                assert select.select([fd], [], [], BOUND_S)[0], "it lives"
        finally:
            for fd in self.fds:
                os.close(fd)


def lives(pid: int) -> bool:
    process = kernel.look_up(pid)
    return process is not None and not process.is_dead


# --- what a fork finds


def started_cold(launcher: Wire, unit: str, **options: Any) -> Worker:
    argv = [sys.executable, "-P", "-m", "corral.worker", "fork_report:agent"]
    with piped(unit) as (worker, theirs):
        request = birth({}, AGENTS) | options
        seq = launcher.send(theirs, op="spawn", unit=unit, argv=argv, **request)
        worker.pid = launcher.hear("spawned", seq=seq)["pid"]
    return worker


def test_a_fork_finds_all_that_a_worker_finds_that_was_started_by_itself(tmp_path: Path, stack: ExitStack) -> None:
    launcher = Wire()
    stack.callback(launcher.close)
    env = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    limits = {"NOFILE": 256, "CORE": 0, "CPU": 1000}
    options = {"limits": limits, "nice": 3, "umask": 0o027, "scope_signals": landlock.abi() >= 6}
    options["scope_limits"] = seccomp.can_scope_limits()
    folders = [str(tmp_path / name) for name in ("cold", "zygote", "zygote/warm")]
    given: list[dict[str, Any]] = [options | {"temporary": path, "env": env | {"TMPDIR": path}} for path in folders]
    given[1]["limits"] = {"NOFILE": 256, "CORE": 0}  # the other one is each worker's own
    cold = started_cold(launcher, "tested-0#1", **given[0])
    stack.callback(cold.close)
    wire = zygote(stack, "fork_report:agent", launcher=launcher, **given[1])
    assert wire.loaded()["unfit"] == []
    warm = wire.fork("tested-0#1", **given[2])
    found: list[dict[str, Any]] = []
    for worker, folder in ((cold, folders[0]), (warm, folders[2])):
        worker.initialize()
        facts = worker.run("surroundings")
        assert (facts["tempdir"], facts["environment"].pop("TMPDIR")) == (folder, folder)
        del facts["tempdir"]
        # The file that the module has open comes after the pipes of a cold one, and before a warm one's.
        facts["descriptors"] = sorted(facts["descriptors"].values())
        found.append(facts)
    assert found[0] == found[1]
    assert found[1]["environment"]["SET_BY_IMPORT"] == "yes"
    assert Path(f"/proc/{warm.pid}/comm").read_text() == "tested-0\n"
    assert Path(f"/proc/{wire.pid}/comm").read_text() == "corral-zygote\n"


def test_what_the_import_has_changed_of_the_process_stays_so(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "own").mkdir()
    text = (
        'os.chdir("own"); os.umask(0o007); del os.environ["GIVEN"]; os.environ["PATH"] = "/own"\n'
        "@agent.task\nasync def run(task):\n"
        "    mask = os.umask(0)\n"
        '    return [os.getcwd(), mask, os.environ.get("GIVEN"), os.environ["PATH"]]\n'
    )
    env = {"PATH": os.defpath, "GIVEN": "x", "GONE": "x"}
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path, env=env)
    wire.loaded()
    worker = worker_of(wire, "tested-0#1", env=env | {"GIVEN": "y"})
    assert worker.run() == [str(tmp_path / "own"), 0o007, None, "/own"]


def test_variables_and_umask_are_those_of_the_spawn_and_not_of_the_zygote(report: ZygoteWire) -> None:
    worker = worker_of(report, "tested-5#1", env={"NEW": "1", "PATH": "/new"}, umask=0o027)
    assert worker.run("surroundings")["Umask"] == "0027"
    values = [worker.run("environment", name=name) for name in ("NEW", "PATH", "LANG")]
    assert values == ["1", "/new", None]


def test_no_two_forks_draw_the_same_numbers(report: ZygoteWire) -> None:
    workers = [worker_of(report, f"tested-6#{n}") for n in range(3)]
    drawn = [worker.run("chance") for worker in workers]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(workers)


def test_numpy_draws_other_numbers_in_each_fork(tmp_path: Path, stack: ExitStack) -> None:
    pytest.importorskip("numpy")
    text = "import numpy\n@agent.task\nasync def run(task):\n    return numpy.random.random()\n"
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    assert wire.loaded()["unfit"] == []
    first, second = (worker_of(wire, f"tested-0#{n}").run() for n in (1, 2))
    assert first != second


def test_an_open_file_has_a_place_of_its_own_in_each_fork(report: ZygoteWire) -> None:
    first, second = (worker_of(report, f"tested-7#{n}") for n in (1, 2))
    lines = [first.run("read"), first.run("read"), second.run("read")]
    assert lines[0] == lines[2] != lines[1]


def test_what_libraries_do_after_a_fork_is_done(report: ZygoteWire) -> None:
    assert worker_of(report, "tested-8#1").run("forked")


def test_a_fork_logs_to_its_own_stderr(report: ZygoteWire) -> None:
    worker = worker_of(report, "tested-9#1")
    pid = worker.run("log")
    worker.hang_up()
    assert f"logged by {pid}" in worker.said()


def test_functions_for_the_exit_run_once_and_in_workers_that_leave_by_themselves(stack: ExitStack) -> None:
    wire = zygote(stack, "fork_report:agent")
    wire.loaded()
    first, second = (worker_of(wire, f"tested-0#{n}") for n in (1, 2))
    first.stop()
    assert wire.hear("exited", unit="tested-0#1")["status"] == 0
    wire.send(op="kill", unit="tested-0#2")
    wire.hear("emptied", unit="tested-0#2")
    said = first.said()
    assert [said.count(f"the {whose}'s exit {first.pid}") for whose in ("agent", "module")] == [1, 1]
    assert "'s exit" not in second.said()
    wire.sock.close()
    assert wire.process.wait(BOUND_S) == 0
    assert "'s exit" not in wire.log()


def test_the_exit_status_of_a_fork_is_that_of_its_agent(tmp_path: Path, stack: ExitStack) -> None:
    text = "@agent.on_start\ndef start(_):\n    raise SystemExit(7)\n"
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    wire.loaded()
    worker = wire.fork()
    with pytest.raises(AssertionError):
        worker.initialize()
    assert os.waitstatus_to_exitcode(wire.hear("exited")["status"]) == 1


# --- its life and its end


def test_signals_that_the_import_has_blocked_are_so_in_forks_and_their_ends_are_reported(
    tmp_path: Path, stack: ExitStack
) -> None:
    text = (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGUSR2])\n"
        "@agent.task\nasync def run(task):\n"
        "    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    wire.loaded()
    worker = worker_of(wire, "tested-0#1")
    assert worker.run() == sorted([signal.SIGCHLD, signal.SIGUSR2])
    worker.stop()
    wire.hear("emptied", unit="tested-0#1")


EAGER = """
import signal
def hook():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    os.kill(os.getpid(), signal.SIGTERM)
os.register_at_fork(after_in_child=hook)
"""


def test_a_signal_that_a_hook_of_a_fork_lets_through_ends_that_fork_alone(tmp_path: Path, stack: ExitStack) -> None:
    wire = zygote(stack, module(tmp_path, EAGER + ANSWERS), folder=tmp_path)
    wire.loaded()
    wire.fork("tested-0#1")
    assert wire.hear("exited", unit="tested-0#1")["status"] == signal.SIGTERM
    assert wire.hear("checked", seq=wire.send(op="check"))["changed"] == []


def test_a_spare_that_is_renamed_is_called_so_from_then_on(stack: ExitStack) -> None:
    wire = zygote(stack, "fork_report:agent")
    wire.loaded()
    worker = wire.fork("tested-spare#1")
    wire.send(op="rename", unit="tested-spare#1", to="other-3#2.4")
    worker.initialize("other-3", "2.4")
    assert worker.run("environment", name="CORRAL_WORKER") == "other-3#2.4"
    assert Path(f"/proc/{worker.pid}/comm").read_text() == "other-3\n"
    (listed,) = wire.listed()["units"]
    assert (listed["unit"], listed["pid"]) == ("other-3#2.4", worker.pid)
    wire.send(op="rename", unit="tested-unknown#1", to="other-4#1")
    worker.run("breed")
    wire.send(op="kill", unit="other-3#2.4")
    assert wire.hear("exited")["unit"] == "other-3#2.4"
    wire.hear("emptied", unit="other-3#2.4")


def test_a_killed_fork_takes_what_has_escaped_of_it_along_and_nobody_elses(stack: ExitStack) -> None:
    wire = zygote(stack, "fork_report:agent")
    wire.loaded()
    first, second = (worker_of(wire, f"tested-{n}#1") for n in (0, 1))
    its, others = first.run("breed"), second.run("breed")
    assert set(wire.hear("roots", unit="tested-1#1")["pids"]) == {others[1]}
    watched = Watched([first.pid, *its])
    wire.send(op="kill", unit="tested-0#1")
    wire.hear("emptied", unit="tested-0#1")
    watched.assert_end()
    assert all(lives(pid) for pid in (second.pid, *others))


@pytest.mark.parametrize("how", ["the channel ends", "SIGTERM"])
def test_with_the_zygote_ends_all_that_is_below_it(how: str, stack: ExitStack) -> None:
    wire = zygote(stack, "fork_report:agent")
    wire.loaded()
    worker = worker_of(wire, "tested-0#1")
    watched = Watched([worker.pid, *worker.run("breed")])
    if how == "SIGTERM":
        wire.process.terminate()
    else:
        wire.sock.close()
    watched.assert_end()
    assert wire.process.wait(BOUND_S) == 0


@pytest.mark.parametrize("victim", ["launcher", "zygote"])
def test_a_killed_launcher_or_zygote_leaves_no_fork(victim: str, stack: ExitStack) -> None:
    launcher = Wire()
    stack.callback(launcher.close)
    wire = zygote(stack, "fork_report:agent", launcher=launcher)
    wire.loaded()
    worker = worker_of(wire, "tested-0#1")
    pids = [wire.pid, worker.pid]
    if victim == "launcher":  # which would have to kill what has escaped
        watched = Watched(pids)
        launcher.process.kill()
        watched.assert_end()
        return
    watched = Watched([*pids, *worker.run("breed")])
    os.kill(wire.pid, signal.SIGKILL)
    assert launcher.hear("exited", unit=wire.unit)["status"] == signal.SIGKILL
    launcher.send(op="kill", unit=wire.unit)
    launcher.hear("emptied", unit=wire.unit)
    watched.assert_end()


def test_a_fork_that_cannot_become_a_worker_says_which_stage_failed(tmp_path: Path, report: ZygoteWire) -> None:
    _, seq = report.ask_fork("tested-10#1", cwd=str(tmp_path / "missing"))
    failed = report.hear("failed", seq=seq)
    assert (failed["stage"], failed["unit"]) == ("chdir", "tested-10#1")
    assert worker_of(report, "tested-10#1").run("forked")


def test_a_fork_joins_the_group_whose_list_it_is_given(tmp_path: Path, stack: ExitStack) -> None:
    try:
        subtree = containment.claim(tmp_path)
    except containment.Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")
    stack.callback(subtree.remove)
    group = subtree.groups.make("tested-0#1", 0, 0, 0)
    wire = zygote(stack, "fork_report:agent")
    wire.loaded()
    fd = os.open(f"{group}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    worker = wire.fork(more_fds=[fd])
    os.close(fd)
    assert subtree.groups.unit_of(worker.pid) == "tested-0#1"
    worker.initialize()
    assert str(group) not in worker.run("surroundings")["descriptors"].values()
    wire.send(op="kill", unit="tested-0#1")
    wire.hear("emptied")


@pytest.mark.parametrize("hooks", [False, True], ids=["none-hooks-forks", "one-hooks-forks"])
def test_a_fork_begins_in_its_group_unless_a_library_has_to_be_called_at_forks(
    hooks: bool, tmp_path: Path, stack: ExitStack
) -> None:
    try:
        subtree = containment.claim(tmp_path)
    except containment.Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")
    stack.callback(subtree.remove)
    own, group = (subtree.groups.make(f"{name}#1", 0, 0, 0) for name in ("zygote-0", "tested-0"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho $$ > "{own}/cgroup.procs"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    # libuv has handlers of pthread_atfork(3), which only the C library's own fork calls.
    wire = zygote(stack, "fork_report:agent", ["uvloop"] if hooks else [], python=str(python))
    assert wire.loaded()["unfit"] == []
    # Who has only this can join nothing: what is there now was never anywhere else.
    fd = os.open(f"{group}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
    worker, seq = wire.ask_fork("tested-0#1", more_fds=[fd])
    os.close(fd)
    if hooks:
        assert wire.hear("failed", seq=seq)["stage"] == "cgroup"
        return
    worker.pid = wire.hear("spawned", seq=seq)["pid"]
    assert subtree.groups.unit_of(worker.pid) == "tested-0#1"
    worker.initialize()
    assert worker.run("forked")
    assert str(group) not in worker.run("surroundings")["descriptors"].values()


def test_a_group_that_cannot_be_joined_is_a_failed_stage(report: ZygoteWire) -> None:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    _, seq = report.ask_fork("tested-11#1", more_fds=[null])
    os.close(null)
    assert report.hear("failed", seq=seq)["stage"] == "cgroup"


# --- imports


def test_what_was_loaded_is_reported(report: ZygoteWire) -> None:
    wire = ZygoteWire("sdk_async:agent", ["json", "decimal"])
    text_ = wire.loaded()
    wire.close()
    assert text_["unfit"] == []
    assert text_["duration_s"] > 0
    assert text_["rss_bytes"] > 1 << 20
    assert text_["modules"] > text_["files"] > 10


@pytest.mark.parametrize(
    ("text", "preload", "words"),
    [
        ("raise ValueError('broken')", [], ["cannot load entrypoint", "ValueError: broken"]),
        ("raise SystemExit(0)", [], ["cannot load entrypoint", "SystemExit"]),
        ("agent = 7", [], ["cannot load entrypoint", "not an Agent"]),
        ("", ["not_there"], ['cannot load preload "not_there"', "ModuleNotFoundError"]),
    ],
)
def test_what_cannot_be_loaded_is_said_as_a_cold_worker_says_it(
    tmp_path: Path, stack: ExitStack, text: str, preload: list[str], words: list[str]
) -> None:
    wire = zygote(stack, module(tmp_path, text), preload, folder=tmp_path)
    assert wire.process.wait(BOUND_S) == 1
    log = wire.log()
    assert "Traceback" in log
    assert all(word in log for word in words)


@pytest.mark.parametrize("arguments", [[], ["{}"], ['{"entrypoint": "only"}']])
def test_wrong_usage_has_its_own_status(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "corral.worker.zygote.program", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert process.wait(BOUND_S) == 2


UNFIT = {
    "thread": (
        "import threading\nevent = threading.Event()\ndef beat(): event.wait()\n"
        'threading.Thread(target=beat, name="pulse", daemon=True).start()',
        ("thread", "pulse, subject.beat"),
    ),
    "nameless thread": (
        "import _thread\nlock = _thread.allocate_lock()\nlock.acquire()\n_thread.start_new_thread(lock.acquire, ())",
        ("thread", ""),
    ),
    "listener": (
        's = socket.socket()\ns.bind(("127.0.0.1", 0))\ns.listen()',
        ("socket", "AF_INET SOCK_STREAM 127.0.0.1:"),
    ),
    "connection": (
        's = socket.socket()\ns.bind(("127.0.0.1", 0))\ns.listen()\n'
        "c = socket.create_connection(s.getsockname())\npeer = s.accept()",
        ("socket", " to 127.0.0.1:"),
    ),
    "loop": ("import asyncio\nloop = asyncio.new_event_loop()", ("descriptor", "eventpoll")),
    "eventfd": ("fd = os.eventfd(0)", ("descriptor", "eventfd")),
    "pipe": ("fds = os.pipe()", ("descriptor", "pipe")),
    "writer": ('file = open("x", "w")', ("descriptor", "/x, open for writing")),
    "database": (
        'import sqlite3\ndb = sqlite3.connect("x")\ndb.execute("CREATE TABLE t (x)")',
        ("descriptor", "/x, open for writing"),
    ),
    "lock of processes": ("import multiprocessing\nlock = multiprocessing.Lock()", ("memory", "/dev/shm/sem.")),
    "shared memory": ("import mmap\nshared = mmap.mmap(-1, 4096)", ("memory", "/dev/zero")),
    "process": ('import subprocess\nchild = subprocess.Popen(["sleep", "1000"])', ("process", "sleep, pid ")),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("is_preloaded", [False, True])
def test_what_no_fork_may_share_is_named_with_the_module_that_brought_it(
    tmp_path: Path, stack: ExitStack, name: str, is_preloaded: bool
) -> None:
    text, (kind, what) = UNFIT[name]
    entrypoint = module(tmp_path, text)
    other = module(tmp_path, "", "other")
    if is_preloaded:
        wire = zygote(stack, other, ["json", "subject"], folder=tmp_path)
    else:
        wire = zygote(stack, entrypoint, ["json", "other"], folder=tmp_path)
    unfit = wire.loaded()["unfit"]
    assert {each["module"] for each in unfit} == {"subject"}
    assert any(each["kind"] == kind and what in each["what"] for each in unfit), unfit


def test_what_is_named_can_be_read_whatever_it_is_called(tmp_path: Path, stack: ExitStack) -> None:
    text = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True,"
        ' name="one\\n\\udcff" + 1000 * "x").start()\n'
        'sys.modules["odd"] = type("Odd", (), {"__getattr__": lambda *_: 1 / 0})()\n'
    )
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    (unfit,) = wire.loaded()["unfit"]
    assert unfit["what"].encode().startswith(b"one \\udcffxxx")
    assert len(unfit["what"]) <= 200


def test_what_is_harmless_and_what_is_gone_again_is_no_reason(tmp_path: Path, stack: ExitStack) -> None:
    text = (
        'import logging, subprocess, threading\nhandler = logging.FileHandler("log")\n'
        'reader, null, folder = open(__file__), open("/dev/null", "w"), os.open(".", os.O_RDONLY)\n'
        'subprocess.run(["true"])\nsocket.socket().close()\nzombie = os.fork() or os._exit(0)\n'
        "os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)\n"
        "thread = threading.Thread(target=int)\nthread.start()\nthread.join()\n" + ANSWERS
    )
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    assert wire.loaded()["unfit"] == []
    assert worker_of(wire, "tested-0#1").run() == 1


def test_a_thread_that_its_library_ends_before_a_fork_is_no_reason(tmp_path: Path, stack: ExitStack) -> None:
    text = (
        "import threading\nevent = threading.Event()\nthread = threading.Thread(target=event.wait)\n"
        "thread.start()\n@os.register_at_fork\n"
    ).replace("@os.register_at_fork\n", "os.register_at_fork(before=lambda: (event.set(), thread.join()))\n") + ANSWERS
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    assert wire.loaded()["unfit"] == []
    assert worker_of(wire, "tested-0#1").run() == 1


# --- sources


class Project:
    """A zygote with a module of its own beside the agent's."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.source = folder / "part.py"
        self.source.write_text("NUMBER = 1\n")
        entrypoint = module(folder, "import part\n" + ANSWERS)
        self.wire = zygote(stack, entrypoint, folder=folder)
        self.wire.loaded()

    def checked(self) -> list[str]:
        changed: list[str] = self.wire.hear("checked", seq=self.wire.send(op="check"))["changed"]
        return changed

    def decode_failure(self) -> list[str]:
        paths: list[str] = self.wire.hear("changed")["paths"]
        return paths


@pytest.fixture
def project(tmp_path: Path, stack: ExitStack) -> Project:
    return Project(tmp_path, stack)


def test_a_changed_source_is_reported_and_found(project: Project) -> None:
    assert project.checked() == []
    project.source.write_text("NUMBER = 2\n")
    assert project.decode_failure() == [str(project.source)]
    assert project.checked() == [str(project.source)]
    project.source.write_text("NUMBER = 3\n")
    assert project.decode_failure() == [str(project.source)]


def test_a_source_that_an_editor_has_replaced_is_reported(project: Project) -> None:
    beside = project.source.with_suffix(".tmp")
    beside.write_text("NUMBER = 2\n")
    beside.replace(project.source)
    assert project.decode_failure() == [str(project.source)]


def test_a_burst_of_changes_is_one_message_without_what_was_not_imported(project: Project, tmp_path: Path) -> None:
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    (tmp_path / "__pycache__" / "part.cpython-0.pyc").write_bytes(b"x")
    subject = tmp_path / "subject.py"
    subject.write_text(subject.read_text() + "\n# changed\n")
    for number in range(20):
        project.source.write_text(f"NUMBER = {number}\n")
    assert project.decode_failure() == [str(project.source), str(subject)]
    assert project.checked() == [str(project.source), str(subject)] or project.checked() == [
        str(subject),
        str(project.source),
    ]
    assert not [said for said in project.wire.said if said["op"] == "changed"]


def test_what_was_touched_or_written_again_as_it_was_has_not_changed(project: Project, tmp_path: Path) -> None:
    text = project.source.read_text()
    project.source.touch()
    project.source.write_text(text)
    assert project.checked() == []
    project.source.write_text("NUMBER = 2\n")
    project.source.write_text(text)
    assert project.checked() == []
    subject = tmp_path / "subject.py"
    subject.write_text(subject.read_text() + "\n# changed\n")
    assert project.decode_failure() == [str(subject)]


def test_a_source_that_is_gone_is_found_and_reported_when_it_is_there_again(project: Project) -> None:
    project.source.unlink()
    assert project.checked() == [str(project.source)]
    project.source.write_text("NUMBER = 2\n")
    assert project.decode_failure() == [str(project.source)]


def test_a_folder_that_is_replaced_is_watched_again(tmp_path: Path, stack: ExitStack) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("NUMBER = 1\n")
    wire = zygote(stack, module(tmp_path, "import package\n" + ANSWERS), folder=tmp_path)
    wire.loaded()
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "__init__.py").write_text("NUMBER = 2\n")
    package.rename(tmp_path / "old")
    fresh.rename(package)
    path = str(package / "__init__.py")
    assert wire.hear("changed")["paths"] == [path]
    (package / "__init__.py").write_text("NUMBER = 3\n")
    assert wire.hear("changed")["paths"] == [path]


REWRITES = """
import part
written_s = os.stat(part.__file__).st_mtime
open(part.__file__, "w").write("NUMBER = 2\\n")
os.utime(part.__file__, (written_s, written_s))
"""
"""What leaves the bytecode as good as it was, as far as Python looks."""


def test_a_source_that_was_written_while_it_was_imported_is_reported(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "part.py").write_text("NUMBER = 1\n")
    wire = zygote(stack, module(tmp_path, REWRITES + ANSWERS), folder=tmp_path)
    assert wire.hear("changed")["paths"] == [str(tmp_path / "part.py")]


def test_what_was_written_twice_in_a_second_is_imported_as_it_is_now(tmp_path: Path, stack: ExitStack) -> None:
    part = tmp_path / "part.py"
    part.write_text("NUMBER = 1\n")
    py_compile.compile(str(part), doraise=True)
    written_ns = part.stat().st_mtime_ns
    beside = tmp_path / "beside.py"
    beside.write_text("NUMBER = 2\n")
    os.utime(beside, ns=(written_ns, written_ns))
    beside.replace(part)
    entrypoint = module(tmp_path, f"import part\nprint(part.NUMBER)\n{ANSWERS}VERSION = part.NUMBER\n")
    env = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    wire = zygote(stack, entrypoint, folder=tmp_path, env=env)
    wire.loaded()
    assert worker_of(wire, "tested-0#1").run() == 2
    cold = subprocess.run(
        [sys.executable, "-P", "-m", "corral.worker", entrypoint],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )
    assert cold.stdout == b"2\n"


def test_a_module_that_is_written_by_the_import_before_its_own_is_as_it_was_imported(
    tmp_path: Path, stack: ExitStack
) -> None:
    text = "open('part.py', 'w').write('x = 1\\n')\nimport part\n" + ANSWERS
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path)
    wire.loaded()
    assert wire.hear("checked", seq=wire.send(op="check"))["changed"] == []


# --- other interpreters, other users


@pytest.fixture
def sdk() -> Iterator[Path]:
    """A folder that holds nothing but the package, and that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "corral").symlink_to(PACKAGE)
        yield folder


def test_another_virtual_environment_needs_nothing_of_ours(tmp_path: Path, sdk: Path, stack: ExitStack) -> None:
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    text = (
        "@agent.task\nasync def run(task):\n"
        '    return [sys.prefix, "msgspec" in sys.modules, os.environ["CORRAL_WORKER"]]\n'
    )
    env = {"PATH": os.defpath, "PYTHONPATH": str(sdk)}
    wire = zygote(stack, module(tmp_path, text), folder=tmp_path, python=str(python), env=env)
    assert wire.loaded()["unfit"] == []
    worker = worker_of(wire, "tested-0#1")
    assert worker.run() == [str(tmp_path / "venv"), False, "tested-0#1"]


@needs_root
@pytest.mark.skipif(not os.access(SYSTEM_PYTHON, os.X_OK), reason="no python for everybody")
def test_another_user_with_limits_forks_as_that_user(sdk: Path, stack: ExitStack) -> None:
    launcher = Wire()
    stack.callback(launcher.close)
    limits = {"AS": 1 << 30, "NPROC": 4000, "NOFILE": 64, "CORE": 0}
    options = {"user": "nobody", "limits": limits, "nice": 5}
    env = {"PATH": os.defpath, "PYTHONPATH": str(sdk)}
    folder = sdk / "agents"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "fork_report.py").write_bytes((AGENTS / "fork_report.py").read_bytes())
    given: dict[str, Any] = {"folder": folder, "python": SYSTEM_PYTHON, "env": env}
    wire = zygote(stack, "fork_report:agent", launcher=launcher, **given, **options)
    assert wire.loaded()["unfit"] == []
    worker = worker_of(wire, "tested-0#1", **options)
    found = worker.run("surroundings")
    uid = pwd.getpwnam("nobody").pw_uid
    assert found["Uid"].split() == [str(uid)] * 4
    assert (found["nice"], found["NoNewPrivs"]) == (os.nice(0) + 5, "1")
    held = {name: found["limits"][f"RLIMIT_{name}"] for name in limits}
    assert held == {name: [value, value] for name, value in limits.items()}
    watched = Watched(worker.run("breed"))
    wire.send(op="kill", unit="tested-0#1")
    wire.hear("emptied")
    watched.assert_end()


@needs_landlock
def test_each_fork_has_a_temporary_folder_and_signals_of_its_own(tmp_path: Path, stack: ExitStack) -> None:
    launcher = Wire()
    stack.callback(launcher.close)
    above = str(tmp_path / "zygote")
    folders = [f"{above}/{name}" for name in ("first", "second")]

    def given(folder: str) -> dict[str, Any]:
        env = {"PATH": os.defpath, "TMPDIR": folder}
        return {"env": env, "temporary": folder, "write_paths": [], "scope_signals": True}

    wire = zygote(stack, "fork_report:agent", launcher=launcher, **given(above))
    wire.loaded()
    first, second = (worker_of(wire, f"tested-{n}#1", **given(folder)) for n, folder in enumerate(folders))
    assert first.run("write", path=f"{folders[0]}/file")
    with pytest.raises(AssertionError, match="Permission denied"):
        first.run("write", path=f"{folders[1]}/file")
    assert not first.run("signal", pid=second.pid)
    assert not first.run("signal", pid=wire.pid)
    wire.send(op="kill", unit="tested-0#1")
    wire.hear("emptied", unit="tested-0#1")


def test_a_worker_keeps_the_mark_of_its_zygote_and_has_one_within_it(report: ZygoteWire) -> None:
    first, second = (report.fork(f"tested-12#{n}") for n in (1, 2))
    softs = [resource.prlimit(worker.pid, resource.RLIMIT_RSS)[0] for worker in (first, second)]
    assert softs[0] != softs[1]
    hard = resource.prlimit(report.pid, resource.RLIMIT_RSS)[1]
    assert resource.prlimit(first.pid, resource.RLIMIT_RSS)[1] == hard
