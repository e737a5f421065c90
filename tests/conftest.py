"""One bound for every test: whatever waits for an event that does not come fails here."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

TEST_BOUND_S = 120


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
