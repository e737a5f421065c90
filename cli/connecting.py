"""Waits for a daemon that is about to listen, so that a command may follow `corrald &` at once.

A socket that is missing, or at which no process listens, is tried again within a bound. A second and longer bound holds
while a process has the lock of that socket: it is a daemon that is starting. Nothing else is waited for.
"""

import os
import time
from collections.abc import Callable, Mapping

from corral.worker.client.sync import Client
from corral.worker.contract.errors import InvalidParams, Unreachable

from .render import duration_s

VARIABLE = "CORRAL_CONNECT_TIMEOUT"
"""Name of the variable that has the bound where no option gives it; 0 switches the waiting off."""

PATIENCE_S = 3.0
"""Seconds to wait for a socket of which nothing shows that a daemon is about to make it."""

STARTING_S = 10.0
"""Seconds to wait while a process has the lock of the socket: a large store is read before the socket is there."""

NOTE_AFTER_S = 0.5
"""Seconds of waiting after which the user is told."""

RETRY_FIRST_S, RETRY_LAST_S = 0.02, 0.1

ABSENT = frozenset({"missing", "stale"})
"""Reasons of Unreachable that a daemon that starts would end."""


def patience_of(given_s: float | None, environ: Mapping[str, str]) -> tuple[float, float]:
    """Returns the seconds to wait for a socket, and for one whose lock is held."""
    text = environ.get(VARIABLE, "")
    if given_s is None and text:
        given_s = duration_s(text)
        if given_s is None:
            words = f'cannot read {VARIABLE} = "{text}": write a duration such as 500ms, 3s, or 0'
            raise InvalidParams(words, key=VARIABLE, value=text)
    return (PATIENCE_S, STARTING_S) if given_s is None else (given_s, given_s)


def connected(socket_path: Callable[[], str], patience: tuple[float, float], note: Callable[[str], None]) -> Client:
    """Returns a connection to the daemon, once it listens."""
    begun = time.monotonic()
    pause_s = RETRY_FIRST_S
    is_noted = False
    while True:
        path = socket_path()
        try:
            return Client(path)
        except Unreachable as error:
            waited_s = time.monotonic() - begun
            if error.data["reason"] not in ABSENT or not any(patience):
                raise
            patience_s, starting_s = patience
            bound_s = starting_s if _is_locked(path) else patience_s
            if waited_s + pause_s > bound_s:
                raise Unreachable(f"{error.message}; waited {bound_s:g} s", **error.data) from error
        if waited_s >= NOTE_AFTER_S and not is_noted:
            is_noted = True
            note(f'waiting up to {bound_s:g} s for a daemon at "{path}"')
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_LAST_S)


def _is_locked(socket_path: str) -> bool:
    """Returns whether a process has the lock of the socket.

    Looked up, not tried: a lock that is taken for an instant would refuse the daemon that wants it just then.
    """
    try:
        inode = os.stat(f"{socket_path}.lock").st_ino
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            return any(" FLOCK " in line and f":{inode} " in line for line in locks)
    except OSError:
        return False
