"""Whether a server's silence may be held against it: what was heard of it, and which calls excuse it.

A server that works on a call may be silent for as long as the call may take: a call in flight is an excuse.
But calls that are sent to a server that has proved silent excuse nothing, else one that no longer reads
would look busy for as long as somebody calls it. It has proved silent when a call went without an answer
and nothing at all was heard since `patience_s`. Times are the loop's; this module reads no clock.
"""


class Liveness:
    """What is known of one connection."""

    def __init__(self, patience_s: float) -> None:
        self.heard_at = 0.0
        """When the last valid message came."""
        self.rested_at = 0.0
        """When the last call that excused its silence ended."""
        self._patience_s = patience_s
        self._asked_at: float | None = None  # the first call since it was heard
        self._in_flight = 0
        self._no_excuses: set[int] = (
            set()
        )  # of the calls in flight; the others are, in all but bad times all
        self._has_proved_silent = False
        self._last_call = 0

    @property
    def is_excused(self) -> bool:
        """Whether its silence means nothing now."""
        return self._in_flight > len(self._no_excuses)

    def heard(self, now: float) -> None:
        """A valid message came: it lives, so that every call in flight is an excuse."""
        self.heard_at = now
        self._asked_at = now if self._in_flight else None
        if self._has_proved_silent:
            self._has_proved_silent = False
            self._no_excuses.clear()

    def began(self, now: float) -> int:
        """A call was sent; returns its number for `ended`."""
        self._last_call += 1
        self._in_flight += 1
        if self._asked_at is None:
            self._asked_at = now
        if self._has_proved_silent:
            self._no_excuses.add(self._last_call)
        return self._last_call

    def ended(self, call: int, now: float, *, is_answered: bool) -> None:
        """A call has ended; without an answer, when its time was over or its caller gave it up."""
        self._in_flight -= 1
        asked_at = self._asked_at
        if not is_answered and asked_at is not None and now - asked_at >= self._patience_s:
            self._has_proved_silent = True
        if call in self._no_excuses:
            self._no_excuses.discard(call)
        elif self._in_flight == len(self._no_excuses):
            self.rested_at = now
