"""Reports changes of a worker: to listeners in the daemon by calls, to everybody else as events on the bus.

Guarantees the order of the listeners. Decides nothing, and knows no supervisor but as the argument of its listeners.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from corral.supervisor.records.events.bus import Bus

from ..lifecycle.state_machine import State, Transition, Worker

LOG_S = 0.02
"""Seconds by which the log line about an end is delayed if another life follows."""

logger = logging.getLogger(__name__)

Supervisor = TypeVar("Supervisor")


class WorkerChanges(Generic[Supervisor]):
    """Calls listeners when a worker has changed, in the order in which they subscribed.

    A change of load (a worker takes up work, or puts down the last of it) comes with every task, so only
    those that ask for it are called for that.
    """

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[Supervisor], None], ...] = ()
        self._load_listeners: tuple[Callable[[Supervisor], None], ...] = ()

    def subscribe(self, listener: Callable[[Supervisor], None], *, load: bool = False) -> None:
        """Calls `listener` after each change of state, life, spec or intent; with `load` also after one of load alone."""
        self._listeners += (listener,)
        if load:
            self._load_listeners += (listener,)

    def publish(self, supervisor: Supervisor) -> None:
        """Calls every listener."""
        for listener in self._listeners:
            listener(supervisor)

    def publish_load(self, supervisor: Supervisor) -> None:
        """Calls the listeners for changes of load."""
        for listener in self._load_listeners:
            listener(supervisor)


def publish(bus: Bus, event: str, worker: Worker, **facts: object) -> None:
    """Publishes and stores an event about the present incarnation of a worker."""
    bus.publish(event, agent=worker.spec.name, worker=worker.id, incarnation=worker.incarnation, store=True, **facts)


def publish_transition(bus: Bus, worker: Worker, transition: Transition, incarnation: int) -> None:
    """Publishes a transition of an incarnation of `worker`, which is as after it; logs an end."""
    old, new = transition.old, transition.new
    is_stored = not (new is State.BUSY or (new is State.IDLE and old is State.BUSY))
    if not is_stored and not bus.has_subscribers("worker.state"):
        return  # with each task there are two
    bus.publish(
        "worker.state",
        agent=worker.spec.name,
        worker=worker.id,
        incarnation=incarnation,
        store=is_stored,
        **{"from": str(old), "to": str(new)},
        reason=transition.reason,
    )
    if new is State.TERMINATED:
        facts = {"agent": worker.spec.name, "worker": worker.id, "incarnation": incarnation}
        report = functools.partial(
            logger.info, "worker %s is Terminated: %s", worker.id, transition.reason, extra={"fields": facts}
        )
        if worker.resume_at is None:
            report()
        else:
            asyncio.get_running_loop().call_later(LOG_S, report)
