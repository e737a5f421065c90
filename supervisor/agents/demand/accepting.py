"""Decides whether the sockets of an agent are open, and whether the next connection starts it.

Like systemd: a stop closes them, an agent that is down and has not failed is started by a connection, and one that has
failed refuses connections.
"""

import enum
from collections.abc import Iterable

from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, State, Worker


class Listening(enum.StrEnum):
    """Represents whether an agent listens, as `status` shows it."""

    OPEN = "open"
    """Its workers accept, or will when they are up."""
    ON_DEMAND = "on-demand"
    """It has no process: the next connection starts it."""
    CLOSED = "closed"
    """Connections are refused."""


def listening(workers: Iterable[Worker], *, held: bool) -> Listening:
    """Returns what follows from the states of an agent's workers; `held` is true for one that was stopped on request."""
    workers = list(workers)
    if held or not workers:
        return Listening.CLOSED
    if not all(map(_is_down, workers)):
        return Listening.OPEN
    return Listening.ON_DEMAND if any(map(_may_start, workers)) else Listening.CLOSED


def _is_down(worker: Worker) -> bool:
    """Returns True if it has no process, and none is coming."""
    if worker.waits or worker.tree:
        return False
    if worker.state is State.INITIAL:
        return worker.deadline is None
    return worker.state is State.TERMINATED and worker.resume_at is None


def _may_start(worker: Worker) -> bool:
    """Returns True if it was never started, was ended because nothing needed it, or has ended by itself without a failure."""
    last = worker.last_exit
    if last is None or last.result in ASKED_FOR:
        return True
    return last.result == "exited" and last.code == 0 and worker.spawn_failures == 0
