"""What every test gets: a bound in time, a folder in memory, and SIGINT as a terminal has it.

Stores wait for their disk at every commit, and no test ends the power: where memory can hold the folders of all tests, they are there.

A shell that starts `make test &` without job control, nohup and some CI systems have SIGINT ignored, and a process keeps
that over exec(2): Python then installs no handler, and the programs under test, which the user would end with Ctrl-C, never end.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

TEST_BOUND_S = 120

LONG_BOUND_S = 600
"""Seconds for one that is marked `long`: a minute of an idle machine is several of a busy one."""

# A loaded machine may take its time to make an example, and to try it; a checkout may be another user's.
settings.register_profile("corral", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corral")

# A test that has no daemon wants to hear of it at once; tests/cli/test_connecting.py waits for one.
os.environ.setdefault("CORRAL_CONNECT_TIMEOUT", "0")

# Hundreds of processes are started here: without bytecode each would compile what it imports, and rewrite the tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = "/dev/shm"

ROOM_BYTES = 8 * 2**30
"""Free memory with which half a gigabyte of folders, twice, costs nobody anything."""

OWN_FOLDER = re.compile(r"pytest-corral-(\d+)")
"""The folder of a run, by the pid of its first process."""


SLOW = ("docs", "faces", "layout", "system")
"""Folders with the files that take longest: they begin first, so that no long one is left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] not in SLOW)


def has_room(folder: str) -> bool:
    """Whether the folder is in memory, programs can be run there, and there is plenty of it."""
    if not os.path.ismount(folder) or not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free_bytes = min(free_bytes, found.f_bavail * found.f_frsize)
    return not found.f_flag & os.ST_NOEXEC and free_bytes >= ROOM_BYTES


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def own_folder() -> Path:
    """Where the folders of all tests of this run will be. Those of earlier runs, which are left for their readers, go.

    pytest's own has the user's name in it, which may be so long that no path below it is one of a socket (107 bytes).
    """
    root = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or (MEMORY if has_room(MEMORY) else tempfile.gettempdir()))
    for left in root.iterdir():
        named = OWN_FOLDER.fullmatch(left.name)
        if named and not Path(f"/proc/{named[1]}").exists() and left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    return root / f"pytest-corral-{os.getpid()}"


@pytest.hookimpl(tryfirst=True)  # before pytest looks where its folder is to be
def pytest_configure(config: pytest.Config) -> None:
    """Chooses the folder of all tests, and in a fresh clone has pytest rewrite the modules once: else each worker would."""
    if hasattr(config, "workerinput"):
        return
    if config.option.basetemp is None:
        config.option.basetemp = str(own_folder())
    tests = Path(__file__).parent
    modules, written = len([*tests.rglob("test_*.py")]), len([*tests.rglob("test_*.pyc")])
    if written > modules / 2 or not config.getoption("numprocesses", None):
        return
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--collect-only"]
    both = [
        subprocess.Popen([*command, *half], cwd=tests.parent, stdout=subprocess.DEVNULL)
        for half in (["tests/system"], ["tests", "--ignore=tests/system"])
    ]
    for each in both:
        each.wait()


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    bound_s = TEST_BOUND_S if request.node.get_closest_marker("long") is None else LONG_BOUND_S

    def end(_signal: int, _frame: FrameType | None) -> None:
        # No OSError, as TimeoutError is one: whoever waits for a socket may take that for its own.
        raise AssertionError(f"the test did not end within {bound_s} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(bound_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
