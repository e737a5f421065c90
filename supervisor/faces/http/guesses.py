"""Decides how long the answer to a wrong token waits: nobody who mistypes one notices it, and nobody guesses many."""

from collections import OrderedDict

FREE = 5
"""Wrong tokens of one address within a window that are answered at once."""

WINDOW_S = 60.0

STEP_S = 0.1
"""Seconds by which each further one waits longer."""

MOST_S = 0.3

ADDRESSES_MAX = 1000
"""Addresses that are remembered; beyond, the one that was silent for the longest is forgotten."""


class Guesses:
    """Counts the wrong tokens of each address; the clock is an argument, in seconds."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Counts one more wrong token, and returns the seconds that its answer has to wait."""
        count, since = self._counts.pop(address, (0, now))
        if now - since > WINDOW_S:
            count, since = 0, now
        self._counts[address] = (count + 1, since)
        if len(self._counts) > ADDRESSES_MAX:
            self._counts.popitem(last=False)
        return min(MOST_S, max(0, count + 1 - FREE) * STEP_S)
