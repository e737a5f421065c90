"""Opens, watches and closes the listening sockets of one daemon's agents, and starts an agent whose socket has a connection.

Like systemd: a stop closes them, an agent that is down and has not failed is started by a connection, and one that has
failed refuses connections.
"""

import asyncio
import enum
import functools
import logging
import select
from collections.abc import Iterable

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, State, Worker
from corral.supervisor.workers.listening.sockets import ListenSockets
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import ListenStatus

from ..membership.agents import Agents
from ..running.agent import Agent


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


CHANGES = ("agent.added", "agent.removed", "agent.changed")
"""Types of events after which an agent may have other addresses, or is gone."""

RETRY_S = 5.0
"""Seconds after which an address that could not be had is tried again, and a connection that started nothing is looked at."""

logger = logging.getLogger(__name__)


class SocketActivation:
    """Follows the agents with `listen` of one daemon."""

    def __init__(self, agents: Agents, bus: Bus, sockets: ListenSockets) -> None:
        self._agents = agents
        self._bus = bus
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._states: dict[str, Listening] = {}
        self._watched: dict[str, select.epoll] = {}
        self._errors: dict[str, CorralError] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._is_closed = False

    def status(self, agent: Agent) -> list[ListenStatus]:
        """Returns the addresses of an agent, in the order of its spec."""
        if not agent.spec.listen:
            return []
        state = self._states.get(agent.name, Listening.CLOSED)
        error = self._errors.get(agent.name)
        bound = {each.address.address: each.bound for each in self._sockets.of(agent.name)}
        return [
            ListenStatus(
                address=each.address,
                name=each.name or agent.name,
                state="closed" if each.address not in bound else state.value,
                bound=bound.get(each.address),
                reason="" if error is None or each.address in bound else error.message,
            )
            for each in agent.spec.listen
        ]

    @property
    def degraded(self) -> list[str]:
        """Returns the names of agents that lack an address."""
        return [*self._errors]

    def open(self) -> None:
        """Opens the sockets of all agents, before any of them is started."""
        for agent in list(self._agents.agents.values()):
            self._settle(agent)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a change of a worker."""
        agent = self._agents.agents.get(supervisor.spec.name)
        if agent is not None and (agent.spec.listen or agent.name in self._states):
            self._settle(agent)

    async def run(self) -> None:
        """Follows agents that are added, changed and removed; until it is cancelled."""
        with self._bus.subscribe(CHANGES) as subscription:
            self.open()  # an agent may have been added since
            while await subscription.next_batch():
                for name in self._states.keys() - self._agents.agents.keys():
                    self._forget(name)
                self.open()

    def close(self) -> None:
        """Closes everything, for good."""
        self._is_closed = True
        for name in [*self._states]:
            self._forget(name)
        self._sockets.close_all()

    def _forget(self, name: str) -> None:
        self._unwatch(name)
        self._sockets.close(name)
        self._states.pop(name, None)
        self._errors.pop(name, None)
        if (retry := self._retries.pop(name, None)) is not None:
            retry.cancel()

    def _settle(self, agent: Agent) -> None:
        name = agent.name
        self._unwatch(name)  # before any descriptor is closed
        if self._is_closed or (agent.held and not agent.spec.listen):
            self._forget(name)
            return
        if not agent.spec.listen:
            self._sockets.keep(agent.spec)  # those of its former spec, which may be in force again
            if not self._sockets.of(name):
                self._forget(name)
            return
        workers = [supervisor.worker for supervisor in agent.supervisors]
        state = listening(workers, held=agent.held or self._agents.draining)
        self._states[name] = state
        if state is Listening.CLOSED:
            self._sockets.close(name)
            self._errors.pop(name, None)
            return
        self._open(agent)
        self._sockets.keep(agent.spec)
        if state is Listening.ON_DEMAND:
            self._watch(agent)

    def _open(self, agent: Agent) -> None:
        try:
            self._sockets.open(agent.spec)
        except CorralError as error:
            known = self._errors.get(agent.name)
            self._errors[agent.name] = error
            if known is None or known.message != error.message:
                logger.warning("%s", error.message)
                self._bus.publish(
                    "agent.listen_failed", agent=agent.name, address=str(error.data["address"]), reason=error.message
                )
            self._retry(agent)
        else:
            self._errors.pop(agent.name, None)

    def _retry(self, agent: Agent) -> None:
        if agent.name not in self._retries:
            again = functools.partial(self._look_again, agent)
            self._retries[agent.name] = self._loop.call_later(RETRY_S, again)

    def _look_again(self, agent: Agent) -> None:
        self._retries.pop(agent.name, None)
        if self._agents.agents.get(agent.name) is agent:
            self._settle(agent)

    def _watch(self, agent: Agent) -> None:
        # A poll of its own: the loop would make the sockets themselves non-blocking, for all workers that have them.
        watched = self._watched[agent.name] = select.epoll()
        for each in self._sockets.of(agent.name):
            watched.register(each.socket.fileno(), select.EPOLLIN)
        self._loop.add_reader(watched.fileno(), self._called, agent)

    def _unwatch(self, name: str) -> None:
        watched = self._watched.pop(name, None)
        if watched is not None:
            self._loop.remove_reader(watched.fileno())
            watched.close()

    def _called(self, agent: Agent) -> None:
        """Starts an agent whose socket has a connection; the connection waits until a worker accepts it."""
        self._unwatch(agent.name)
        self._bus.publish("agent.activated", agent=agent.name)
        self._agents.startup.start_by_itself(agent.supervisors)
        if self._states.get(agent.name) is Listening.ON_DEMAND:
            self._retry(agent)  # it cannot be started now: the connection waits for the next look
