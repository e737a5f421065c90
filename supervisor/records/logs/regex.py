"""Searches with regular expressions of callers, and gives up after a bounded time of the processor.

`re` holds the interpreter's lock while it searches, so that no thread and no task could end it; but it lets
signal handlers run (CPython, `_sre`), and one that raises ends the search. The clock is ITIMER_VIRTUAL, which
only runs while this process works. Only the main thread can search. Why not RE2: docs/decisions/0008.
"""

import re
import signal
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded

LENGTH_LIMIT = 1_000
"""Characters of an expression."""

SEARCHED_CHARS = 16 * 1024
"""Characters of each text that are searched; the rest is not."""

SEARCH_S = 0.1
"""Seconds of processor time for one call: so long the loop may stand still."""

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

    def matching(self, items: Sequence[T], text_of: Callable[[T], str | None]) -> list[T]:
        """Returns the items whose text matches somewhere, or that have none."""
        search = self._search
        with _Clock() as clock:
            try:
                found = [item for item in items if (text := text_of(item)) is None or search(text[:SEARCHED_CHARS])]
                clock.is_running = False
            except _TimeIsOver:
                raise ResourceLimitExceeded(
                    f'cannot search for "{self._text}": it takes longer than {SEARCH_S:g} s for a few lines',
                    key="grep",
                    value=self._text,
                    limit=SEARCH_S,
                ) from None
        return found


class _TimeIsOver(Exception):
    pass


class _Clock:
    """Raises _TimeIsOver in the block after SEARCH_S, unless `is_running` was set to False before."""

    def __init__(self) -> None:
        self.is_running = True

    def __enter__(self) -> "_Clock":
        self._before = signal.signal(signal.SIGVTALRM, self._ring)
        signal.setitimer(signal.ITIMER_VIRTUAL, SEARCH_S)
        return self

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        if self.is_running:
            self.is_running = False
            raise _TimeIsOver

    def __exit__(self, *_: object) -> None:
        self.is_running = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, self._before)
