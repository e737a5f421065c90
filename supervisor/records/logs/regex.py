"""Searches with regular expressions of callers, in slices between which the loop turns, and gives up on a line that takes too long.

`re` holds the interpreter's lock while it searches, so that no thread and no task could end it; but it lets
signal handlers run (CPython, `_sre`), and one that raises ends the search. The clock is ITIMER_VIRTUAL, which
only runs while this process works. Only the main thread can search. Why not RE2: docs/decisions/0008.
"""

import re
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from types import FrameType
from typing import TypeVar

from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded

LENGTH_LIMIT = 1_000
"""Characters of an expression."""

SEARCHED_CHARS = 16 * 1024
"""Characters of each text that are searched; the rest is not."""

SEARCH_S = 0.1
"""Seconds of processor time for one call."""

LINE_S = 0.05
"""Seconds of processor time for one slice, of which a single line takes most then: so long the loop may stand still."""

SLICE_S = 0.01
"""Seconds after which a slice ends with the line that is searched."""

T = TypeVar("T")


class Pattern:
    """Represents a compiled regular expression."""

    def __init__(self, text: str) -> None:
        """Compiles the expression."""
        self._text = text
        if len(text) > LENGTH_LIMIT:
            raise self._refusal(f"it is longer than {LENGTH_LIMIT} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of syntax whose meaning may change one day
                self._search = re.compile(text).search
        except (re.error, RecursionError, OverflowError) as error:
            raise self._refusal(str(error)) from error

    def _refusal(self, reason: str) -> InvalidParams:
        shown = self._text[:LENGTH_LIMIT]
        return InvalidParams(f'cannot search for "{shown}": {reason}', key="grep", value=shown, reason=reason)

    def matching(self, items: Iterable[T], text_of: Callable[[T], str | None]) -> Iterator[list[T]]:
        """Yields the items whose text matches somewhere, or that have none, a list for each slice of the search."""
        left, left_s = iter(items), SEARCH_S
        is_last = False
        while not is_last:
            if left_s <= 0.0:  # the timer has run out at the end of a slice; set to 0 it would never ring
                raise self._too_long()
            found: list[T] = []
            with _Clock(min(LINE_S, left_s)) as clock:
                try:
                    is_last = self._fill(found, left, text_of)
                    clock.is_running = False
                except _TimeIsOver:
                    raise self._too_long() from None
            left_s -= clock.spent_s
            yield found

    def _too_long(self) -> ResourceLimitExceeded:
        return ResourceLimitExceeded(
            f'cannot search for "{self._text}": it takes longer than {SEARCH_S:g} s for a few lines, or {LINE_S:g} s for one',
            key="grep",
            value=self._text,
            limit=SEARCH_S,
        )

    def _fill(self, found: list[T], left: Iterator[T], text_of: Callable[[T], str | None]) -> bool:
        """Searches one slice; returns whether nothing is left."""
        search, until = self._search, perf_counter() + SLICE_S
        for item in left:
            if (text := text_of(item)) is None or search(text[:SEARCHED_CHARS]):
                found.append(item)
            if perf_counter() >= until:
                return False
        return True


class _TimeIsOver(Exception):
    pass


class _Clock:
    """Raises _TimeIsOver in the block after `limit_s`, unless `is_running` was set to False before."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.is_running = True
        self.spent_s = 0.0

    def __enter__(self) -> "_Clock":
        self._before = signal.signal(signal.SIGVTALRM, self._ring)
        signal.setitimer(signal.ITIMER_VIRTUAL, self._limit_s)
        return self

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        if self.is_running:
            self.is_running = False
            raise _TimeIsOver

    def __exit__(self, *_: object) -> None:
        self.is_running = False
        self.spent_s = self._limit_s - signal.setitimer(signal.ITIMER_VIRTUAL, 0)[0]
        signal.signal(signal.SIGVTALRM, self._before)
