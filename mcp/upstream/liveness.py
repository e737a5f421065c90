"""Decides whether the silence of a server is excused by calls in flight.

A server that works on a call may be silent for as long as the call may take: a call in flight is an excuse. But calls
to a server that has proved silent excuse nothing, else a server that no longer reads would look busy as long as it is
called. It has proved silent when a call ended without an answer and no message was received for `patience_s`. Times
are the loop's; this module reads no clock.
"""


class Liveness:
    """Tracks the messages and calls of one connection."""

    def __init__(self, patience_s: float) -> None:
        self.last_message_at = 0.0
        """Time of the last valid message."""
        self.rested_at = 0.0
        """Time at which the last excusing call ended."""
        self._patience_s = patience_s
        self._asked_at: float | None = None  # the first call since the last message
        self._in_flight = 0
        self._no_excuses: set[int] = set()  # the calls in flight that excuse nothing, usually none
        self._has_proved_silent = False
        self._last_call = 0

    @property
    def is_excused(self) -> bool:
        """Returns True if its silence is excused now."""
        return self._in_flight > len(self._no_excuses)

    def received(self, now: float) -> None:
        """Records a valid message, which proves it alive: every call in flight is an excuse again."""
        self.last_message_at = now
        self._asked_at = now if self._in_flight else None
        if self._has_proved_silent:
            self._has_proved_silent = False
            self._no_excuses.clear()

    def began(self, now: float) -> int:
        """Records a call and returns its number for `ended`."""
        self._last_call += 1
        self._in_flight += 1
        if self._asked_at is None:
            self._asked_at = now
        if self._has_proved_silent:
            self._no_excuses.add(self._last_call)
        return self._last_call

    def ended(self, call: int, now: float, *, is_answered: bool) -> None:
        """Records the end of a call; unanswered after a timeout or a cancellation."""
        self._in_flight -= 1
        asked_at = self._asked_at
        if not is_answered and asked_at is not None and now - asked_at >= self._patience_s:
            self._has_proved_silent = True
        if call in self._no_excuses:
            self._no_excuses.discard(call)
        elif self._in_flight == len(self._no_excuses):
            self.rested_at = now
