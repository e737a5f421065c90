"""What every test gets: a bound in time, and SIGINT as a terminal has it.

A shell that starts `make test &` without job control, nohup and some CI systems have SIGINT ignored, and a process keeps
that over exec(2): Python then installs no handler, and the programs under test, which the user would end with Ctrl-C, never end.
"""

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

TEST_BOUND_S = 120

# A test that has no daemon wants to hear of it at once; tests/cli/test_connecting.py waits for one.
os.environ.setdefault("CORRAL_CONNECT_TIMEOUT", "0")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
