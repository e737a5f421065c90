"""Keeps the sessions of browsers: two random words stand for a token, until a time, or until the token ends.

A browser sends a cookie to every port of a host (RFC 6265, 8.5), so that another server of this machine may be sent it:
the cookie is one of the two. The other is known to the page alone, which sends it as a header; what a page stores is
its origin's, port included. They are in memory alone: after a restart of the daemon a browser logs in again. Both are kept
as one SHA-256, so that nothing that shows the memory of the daemon shows them. Times are seconds of the monotonic clock,
as arguments.
"""

import secrets
from hashlib import sha256
from typing import NamedTuple

SESSION_S = 12 * 3600.0
"""Seconds that a session lasts, whether it is used or not: about a working day."""

MAX_SESSIONS = 200

WORD_BYTES = 32
"""Bytes of chance in each of the two words."""


class Proof(NamedTuple):
    """What a browser shows of its session: the value of its cookie, and that of its header."""

    cookie: str
    header: str


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

    def open(self, token: bytes, now: float) -> Proof:
        """Opens a session of the token with this digest."""
        for each in [each for each, session in self._open.items() if session.until <= now]:
            del self._open[each]
        while len(self._open) >= self._most:
            del self._open[next(iter(self._open))]
        proof = Proof(secrets.token_urlsafe(WORD_BYTES), secrets.token_urlsafe(WORD_BYTES))
        self._open[_digest(proof)] = _Session(token, now + self._duration_s)
        return proof

    def token(self, proof: Proof, now: float) -> bytes | None:
        """Returns the digest of the token of a session; None if it is closed, over, or none."""
        session = self._open.get(_digest(proof))
        return None if session is None or session.until <= now else session.token

    def close(self, proof: Proof) -> None:
        """Closes a session; one that is closed stays so."""
        self._open.pop(_digest(proof), None)


def _digest(proof: Proof) -> bytes:
    return sha256(" ".join(proof).encode("utf-8", "surrogateescape")).digest()
