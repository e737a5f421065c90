"""The methods `event.*` of the table: what happened, and what comes."""

import time

from ..worker import codec
from ..worker.schema import EventParams
from .bus import Event
from .control import Caller, Control, method


async def _events(control: Control, params: EventParams) -> list[dict[str, object]]:
    """Stored events, oldest first, and those of the last moments that are never stored."""
    clauses = ["1"]
    values: list[object] = []
    if params.since is not None:
        clauses.append("seq > ?")
        values.append(params.since)
    if params.since_time is not None:
        clauses.append("at >= ?")
        stamp = time.gmtime(params.since_time)
        values.append(time.strftime("%Y-%m-%dT%H:%M:%S", stamp))
    if params.agent is not None:
        clauses.append("agent = ?")
        values.append(params.agent)
    if params.types:
        clauses.append("(" + " OR ".join("type GLOB ?" for _ in params.types) + ")")
        values += params.types
    n = params.n if params.n is not None else 1000
    rows = await control.shared.store.read(
        "SELECT seq, at, type, agent, worker, data FROM event"
        f" WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?",
        [*values, n],
    )
    found: list[dict[str, object]] = []
    for seq, at, kind, agent, worker, data in reversed(rows):
        assert isinstance(data, bytes), "the sink stores JSON"
        fields = codec.as_object(codec.decode(data)) or {}
        found.append(
            {**fields, "seq": seq, "at": at, "type": kind, "agent": agent, "worker": worker}
        )
    return found


@method("event.list", "read", EventParams)
async def _list_events(control: Control, params: EventParams, _caller: Caller) -> object:
    """Events of the past, oldest first."""
    await control.shared.store.write()  # what is posted is in the store after this
    return {"events": await _events(control, params)}


@method("event.follow", "read", EventParams)
async def _follow_events(control: Control, params: EventParams, caller: Caller) -> object:
    """Events of the past, then all that happens, as `event` notifications {events}."""
    caller.follow(_send_events(control, params, caller))
    return {}


async def _send_events(control: Control, params: EventParams, caller: Caller) -> None:
    with control.shared.bus.subscribe(params.types or ["*"]) as subscription:
        await control.shared.store.write()
        past: list[dict[str, object]] = []
        if params.since is not None or params.since_time is not None or params.n:
            past = await _events(control, params)
        if past:
            caller.notify("event", {"events": past})
        last = past[-1]["seq"] if past else 0
        assert isinstance(last, int), "a sequence number is an integer"
        while batch := await subscription.next_batch():
            fresh = [event.record() for event in batch if _is_due(event, last, params.agent)]
            if fresh:
                caller.notify("event", {"events": fresh})
            await caller.drain()


def _is_due(event: Event, last: int, agent: str | None) -> bool:
    return event.seq > last and (agent is None or event.agent in (agent, None))
