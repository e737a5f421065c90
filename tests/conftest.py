"""What every test gets: a bound in time, a folder in memory, and SIGINT as a terminal has it.

Stores wait for their disk at every commit, and no test ends the power: where memory can hold the folders of all tests, they are there.

A shell that starts `make test &` without job control, nohup and some CI systems have SIGINT ignored, and a process keeps
that over exec(2): Python then installs no handler, and the programs under test, which the user would end with Ctrl-C, never end.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import settings

TEST_BOUND_S = 120

# A loaded machine may take its time for one example.
settings.register_profile("corral", deadline=None)
settings.load_profile("corral")

# A test that has no daemon wants to hear of it at once; tests/cli/test_connecting.py waits for one.
os.environ.setdefault("CORRAL_CONNECT_TIMEOUT", "0")

MEMORY = "/dev/shm"

ROOM_BYTES = 8 * 2**30
"""Free memory with which half a gigabyte of folders, twice, costs nobody anything."""


def has_room(folder: str) -> bool:
    """Whether the folder is in memory, programs can be run there, and there is plenty of it."""
    if not os.path.ismount(folder) or not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free_bytes = min(free_bytes, found.f_bavail * found.f_frsize)
    return not found.f_flag & os.ST_NOEXEC and free_bytes >= ROOM_BYTES


if has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """In a fresh clone, has pytest rewrite the modules once before the workers begin: each of them would rewrite all."""
    tests = Path(__file__).parent
    is_done = sys.dont_write_bytecode or any((tests / "layout" / "__pycache__").glob("test_*.pyc"))
    if is_done or hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        return
    folders = [str(path) for path in sorted(tests.iterdir()) if any(path.glob("test_*.py"))]
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--collect-only"]
    both = [
        subprocess.Popen([*command, *half], cwd=tests.parent, stdout=subprocess.DEVNULL)
        for half in (folders[::2], folders[1::2])
    ]
    for each in both:
        each.wait()


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    def end(_signal: int, _frame: FrameType | None) -> None:
        # No OSError, as TimeoutError is one: whoever waits for a socket may take that for its own.
        raise AssertionError(f"the test did not end within {TEST_BOUND_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(TEST_BOUND_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
