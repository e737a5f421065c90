"""Keeps the sessions of browsers: a random id in a cookie stands for a token, until a time, or until the token ends.

They are in memory alone: after a restart of the daemon a browser logs in again. An id is kept as its SHA-256, so that
nothing that shows the memory of the daemon shows a cookie. Times are seconds of the monotonic clock, as arguments.
"""

import secrets
from hashlib import sha256
from typing import NamedTuple

SESSION_S = 12 * 3600.0
"""Seconds that a session lasts, whether it is used or not: about a working day."""

MAX_SESSIONS = 200

ID_BYTES = 32
"""Bytes of chance in the id of a session."""


class _Session(NamedTuple):
    """Holds the digest of the token that a session stands for, and its end."""

    token: bytes
    until: float


class Sessions:
    """Holds the open sessions, the oldest first; beyond `most` of them the oldest is closed."""

    def __init__(self, most: int = MAX_SESSIONS, duration_s: float = SESSION_S) -> None:
        self._most = most
        self._duration_s = duration_s
        self._open: dict[bytes, _Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, token: bytes, now: float) -> str:
        """Opens a session of the token with this digest, and returns its id."""
        for each in [each for each, session in self._open.items() if session.until <= now]:
            del self._open[each]
        while len(self._open) >= self._most:
            del self._open[next(iter(self._open))]
        session_id = secrets.token_urlsafe(ID_BYTES)
        self._open[_digest(session_id)] = _Session(token, now + self._duration_s)
        return session_id

    def token(self, session_id: str, now: float) -> bytes | None:
        """Returns the digest of the token of a session; None if it is closed, over, or none."""
        session = self._open.get(_digest(session_id))
        return None if session is None or session.until <= now else session.token

    def close(self, session_id: str) -> None:
        """Closes a session; one that is closed stays so."""
        self._open.pop(_digest(session_id), None)


def _digest(session_id: str) -> bytes:
    return sha256(session_id.encode("utf-8", "surrogateescape")).digest()
