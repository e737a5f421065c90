"""Publishes events of workers and clients, and decides the events that each worker receives.

Any worker may publish under a type of its own choosing, as fast as the configuration lets it, and may
subscribe to types. It receives the events of agents and clients, the daemon's events about its own agent, and of
those about others only the fields that the catalogue shows to all, since reasons, tasks and tool calls
are theirs. The events of a tenant are for its own workers alone, and these receive no others. An agent that may read the control socket (`control` of its spec) receives everything.

A subscription belongs to one incarnation and ends with it. Its queue is bounded: when a worker reads too
slowly the oldest events are dropped, and it receives their number.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.records.events.bus import Bus, Event, Subscription
from corral.supervisor.records.events.catalog import CATALOGUE, SKIPPED, TYPE_CHARS, is_reserved, is_type
from corral.supervisor.workers.lifecycle.state_machine import UP, State
from corral.supervisor.workers.supervision.incarnation import Incarnation
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, Overloaded, PermissionDenied
from corral.worker.contract.names import SEPARATOR, tenant_of

MAX_DATA_BYTES = 1024 * 1024
"""Bytes of the data of one event, as JSON."""

SHARED_BYTES = 4 * 1024
"""Bytes from which on data is kept as encoded JSON: encoding it again would cost more than the rest of a message."""

SPARE_DEPTH = 100
"""Number of levels that messages around the data may add, here and at a reader."""

DAEMON = "corrald"
"""The sender of the daemon's own events."""

OUTSIDE = "control"
"""The publisher that stands for all clients of the control socket: together they have the rate of one worker."""


logger = logging.getLogger(__name__)


class Meter:
    """Limits the rate of one publisher: a second's worth at once."""

    def __init__(self, now: float) -> None:
        self._left = 1.0  # of a second's worth
        self._counted_at = now

    def wait_s(self, per_s: int, now: float) -> float:
        """Returns 0 when one more may be published now, and counts it; else the seconds until it may."""
        if not per_s:
            return 0.0
        self._left = min(1.0, self._left + now - self._counted_at)
        self._counted_at = now
        cost = 1 / per_s
        if self._left < cost:
            return cost - self._left
        self._left -= cost
        return 0.0


@dataclass(frozen=True)
class _WorkerSubscription:
    life: Incarnation
    types: tuple[str, ...]
    subscription: Subscription
    forwarding: asyncio.Task[None]


class WorkerPubsub:
    """Connects the workers of one daemon to its bus."""

    def __init__(self, bus: Bus, in_force: InForce) -> None:
        self._bus = bus
        self._in_force = in_force
        self._loop = asyncio.get_running_loop()
        self._subscriptions: dict[WorkerSupervisor, _WorkerSubscription] = {}
        self._meters: dict[object, Meter] = {}

    def publish(self, supervisor: WorkerSupervisor, event_type: str, data: object) -> int:
        """Publishes a worker's event and returns its number."""
        line = self._checked(supervisor, supervisor.id, event_type, data)
        return self._bus.relay(
            event_type,
            _shared(data, line),
            sender=supervisor.id,
            agent=supervisor.spec.name,
            worker=supervisor.id,
            incarnation=supervisor.worker.incarnation,
            data_bytes=len(line),
        ).seq

    def publish_from(self, who: Mapping[str, object], event_type: str, data: object) -> int:
        """Publishes the event of a caller of a control method and returns its number.

        `who` has its `uid` on the socket and its name in `http` there, the `agent` in whose tree it is, if any, and its
        `tenant`: the event is one of the tenant then. The callers of a tenant have the rate of one worker together.
        """
        sender = f"http {who['http']}" if "http" in who else f"uid {who['uid']}"
        tenant = who.get("tenant")
        line = self._checked((OUTSIDE, tenant) if tenant else OUTSIDE, sender, event_type, data)
        agent = who.get("agent") or (f"{tenant}{SEPARATOR}" if tenant else None)
        return self._bus.relay(
            event_type,
            _shared(data, line),
            sender=sender,
            agent=agent if isinstance(agent, str) else None,
            data_bytes=len(line),
        ).seq

    def _checked(self, publisher: object, name: str, event_type: str, data: object) -> bytes:
        if not is_type(event_type):
            raise InvalidParams(
                f'cannot publish "{event_type[:TYPE_CHARS]}": a type is words of A-Z a-z 0-9 _ -, joined by dots, '
                f"{TYPE_CHARS} characters at most",
                key="type",
                value=event_type[:TYPE_CHARS],
                limit=TYPE_CHARS,
            )
        if is_reserved(event_type):
            words = f'cannot publish "{event_type}": events of that kind are the daemon\'s'
            raise PermissionDenied(words, type=event_type)
        per_s = self._in_force.config.events.max_publish_per_second
        now = self._loop.time()
        meter = self._meters.get(publisher)
        if meter is None:
            meter = self._meters[publisher] = Meter(now)
        wait_s = meter.wait_s(per_s, now)
        if wait_s > 0:
            words = f'cannot publish "{event_type}": {name} has published {per_s} events in a second'
            raise Overloaded(words, limit="events.max_publish_per_second", value=per_s, retry_after_s=round(wait_s, 3))
        try:
            line = codec.encode(_nested(data))[SPARE_DEPTH:-SPARE_DEPTH]
        except ValueError as error:  # it was read, but in the store and in answers it would nest deeper
            raise InvalidParams(f'cannot publish "{event_type}": its data is nested too deep', key="data") from error
        if len(line) > MAX_DATA_BYTES:
            words = f'cannot publish "{event_type}": {len(line)} bytes of data are more than {MAX_DATA_BYTES}'
            raise InvalidParams(words, key="data", limit=MAX_DATA_BYTES, value=len(line))
        return line

    def subscribe(self, supervisor: WorkerSupervisor, types: list[str]) -> None:
        """Sends a worker, from now on, the events of these types, in place of what it subscribed to before."""
        life = supervisor.life
        assert life is not None, "only what lives can ask"

        def is_visible(event: Event) -> bool:
            return _shown(supervisor, event) is not None

        subscription = self._bus.subscribe(types, where=is_visible)
        self._end(supervisor)
        forwarding = self._loop.create_task(_forward(supervisor, subscription))
        self._subscriptions[supervisor] = _WorkerSubscription(life, tuple(types), subscription, forwarding)

    def hand_over(self) -> dict[str, tuple[str, ...]]:
        """Returns the types that each worker is subscribed to, by its id, for the next program of the daemon."""
        return {supervisor.id: each.types for supervisor, each in self._subscriptions.items()}

    def take_up(self, left: Mapping[str, Sequence[str]], workers: Iterable[WorkerSupervisor]) -> None:
        """Goes on with the subscriptions that another program has left."""
        for supervisor in workers:
            if supervisor.id in left and supervisor.life is not None:
                self.subscribe(supervisor, list(left[supervisor.id]))

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Ends the subscription of an incarnation that has ended."""
        current = self._subscriptions.get(supervisor)
        state = supervisor.worker.state
        is_alive = state in UP or state is State.STARTING
        if current is not None and not (is_alive and supervisor.life is current.life):
            self._end(supervisor)
        if not is_alive:
            self._meters.pop(supervisor, None)

    def _end(self, supervisor: WorkerSupervisor) -> None:
        current = self._subscriptions.pop(supervisor, None)
        if current is not None:
            current.subscription.close()
            current.forwarding.cancel()

    async def close(self) -> None:
        """Ends all subscriptions."""
        forwardings = [current.forwarding for current in self._subscriptions.values()]
        for supervisor in list(self._subscriptions):
            self._end(supervisor)
        await asyncio.gather(*forwardings, return_exceptions=True)


def _shared(data: object, line: bytes) -> object:
    """Encodes large event data once and shares the bytes between store and subscribers."""
    return msgspec.Raw(line) if len(line) > SHARED_BYTES else data


def _nested(data: object) -> object:
    for _ in range(SPARE_DEPTH):
        data = [data]
    return data


def _shown(supervisor: WorkerSupervisor, event: Event) -> object:
    """Returns the data of an event as a worker may see it; None where it may not see it at all."""
    known = CATALOGUE.get(event.type)
    tenant = tenant_of(supervisor.spec.name)
    if tenant != tenant_of(event.agent or "") and (tenant or supervisor.spec.control == "none"):
        return None
    if known is None:
        return event.fields
    if event.agent == supervisor.spec.name or supervisor.spec.control != "none":
        return event.fields
    if known.shown is None:
        return None
    return {key: value for key, value in event.fields.items() if key in known.shown}


def _message(supervisor: WorkerSupervisor, event: Event) -> dict[str, object]:
    """Returns the `event` notification of a worker: for events of agents, the data as it was published."""
    head: dict[str, object] = {"type": event.type, "at": event.at, "seq": event.seq}
    if event.type == SKIPPED:
        return {**head, "data": event.fields, "from": DAEMON}
    if not is_reserved(event.type):
        return {**head, "data": event.fields["data"], "from": event.fields["from"]}
    fields = _shown(supervisor, event)
    assert isinstance(fields, dict), "the subscription takes nothing else"
    whom = {"agent": event.agent, "worker": event.worker, "incarnation": event.incarnation}
    return {**head, "data": {**whom, **fields}, "from": DAEMON}


async def _forward(supervisor: WorkerSupervisor, subscription: Subscription) -> None:
    try:
        channel = supervisor.channel
        while batch := await subscription.next_batch():
            for event in batch:
                channel.notify("event", _message(supervisor, event))
            await channel.drain()
    except CorralError:
        subscription.close()  # the worker is gone, or has been given up since it does not read
    except Exception:
        logger.exception("cannot send events to %s any more", supervisor.id)
        subscription.close()
