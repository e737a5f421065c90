"""Births by a plan: the same processes as by `birth`, or none."""

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor import birth
from corral.supervisor.midwife import FAILED_EARLY, FAILED_LATE, PLAN_BYTES, Midwife
from launcher_wire import PYTHON, Wire

BOUND_S = 20.0
ALTERED = [int(signal.SIGPIPE), int(signal.SIGXFSZ), int(signal.SIGINT)]
REPORT = """
import json, os, resource, signal
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
kept = ("Umask", "NoNewPrivs", "SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups")
print(json.dumps({
    "environ": dict(os.environ), "cwd": os.getcwd(), "nice": os.nice(0),
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
    "limits": [resource.getrlimit(n) for n in range(16)],
    "files": [fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")],
    "score": open("/proc/self/oom_score_adj").read(), "group": open("/proc/self/cgroup").read(),
    "parent": os.getppid(), **{name: status[name] for name in kept},
}))
"""


@pytest.fixture
def midwife() -> Iterator[Midwife]:
    """One that is this process's; its memory is its own to fork afterwards."""
    try:
        found = Midwife(os.getpid(), ALTERED)
    except OSError as error:
        pytest.skip(f"no plans on this machine: {error}")
    found.uncover()
    yield found
    found.uncover()


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


def born(midwife: Midwife | None, spawn: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What the new process prints and reports; by a plan, or without a midwife by `birth`."""
    null = os.open(os.devnull, os.O_RDWR)
    (reading, writing), (told, report) = os.pipe(), os.pipe()
    fds, launcher = [null, writing, null], os.getpid()
    pid: int | None
    if midwife is not None:
        pid = midwife.bear(spawn, fds, report)
        assert pid is not None, "this can be planned"
    else:
        pid = os.fork()
        if pid == 0:
            birth.become(dict(spawn), fds, report, launcher, ALTERED)  # type: ignore[arg-type]  # as JSON brings it
    for fd in (null, writing, report):
        os.close(fd)
    found = _all(reading), _all(told)
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
        {"scope_signals": True},
    ],
    ids=["plain", "with privileges", "with limits", "with scoped signals"],
)
def test_a_process_by_a_plan_is_what_it_is_without(midwife: Midwife, options: Any) -> None:
    if options.get("scope_signals") and midwife.landlock < 6:
        pytest.skip("this kernel scopes no signals")
    spawn = asked([sys.executable, "-I", "-S", "-c", REPORT], **options)
    by_plan = born(midwife, spawn)
    midwife.uncover()
    without = born(None, spawn)
    assert by_plan[1] == without[1] == b""
    assert json.loads(by_plan[0]) == json.loads(without[0])


def test_a_program_is_found_in_the_path(midwife: Midwife, tmp_path: Path) -> None:
    spawn = asked(["echo", "here"], env={"PATH": f"{tmp_path}:/no/such/folder:{os.defpath}"})
    assert born(midwife, spawn) == (b"here\n", b"")


def test_a_temporary_folder_is_made_by_a_plan(midwife: Midwife, tmp_path: Path) -> None:
    assert born(midwife, asked(["true"], temporary=str(tmp_path / "own"))) == (b"", b"")
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("options", "report"),
    [
        ({"argv": ["/no/such/program"]}, FAILED_LATE),
        ({"argv": ["no-such-program"]}, FAILED_LATE),
        ({"cwd": "/no/such/folder"}, FAILED_LATE),
        ({"cgroup": "/no/such/group"}, FAILED_EARLY),
        ({"temporary": "/proc/own"}, FAILED_EARLY),
    ],
)
def test_a_plan_that_does_not_work_out_says_so(
    midwife: Midwife, options: Any, report: bytes
) -> None:
    assert born(midwife, asked(["true"]) | options) == (b"", report)


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
        {"argv": ["true", "x" * PLAN_BYTES]},
        {"argv": ["\ud800"]},
    ],
)
def test_what_needs_more_than_a_plan_gets_none(midwife: Midwife, options: Any) -> None:
    assert midwife.bear(asked(["true"]) | options, [0, 1, 2], 3) is None


# --- in a launcher --------------------------------------------------------------------------------


@pytest.fixture
def wire() -> Iterator[Wire]:
    with contextlib.closing(Wire()) as found:
        yield found


def test_births_with_a_plan_and_without_follow_each_other(wire: Wire) -> None:
    for number, nice in enumerate((0, 1, 0, 0, 2, 0)):
        told = ["sh", "-c", "nice; exec sleep 100"]
        assert wire.start(f"a-0#{number}", told, nice=nice)[1] == f"{nice}\n"


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


@pytest.mark.usefixtures("midwife")
def test_a_launcher_of_this_machine_goes_by_plans(wire: Wire) -> None:
    wire.start("a-0#1", [*PYTHON, "-c", "print(1, flush=True); import time; time.sleep(100)"])
    maps = Path(f"/proc/{wire.process.pid}/smaps").read_text()
    assert " dc" in maps, "its memory is not to be copied"
