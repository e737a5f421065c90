"""The methods `log.*` and `event.*` of the table: what was, and what comes."""

import contextlib
import time
from collections.abc import AsyncGenerator

from ..worker import codec
from ..worker.errors import InvalidParams, ResourceLimitExceeded
from ..worker.schema import EventParams, LogParams
from .bus import Event
from .control import Caller, Control, method
from .logfile import Record, Wanted
from .pattern import Pattern

ANSWER_BYTES = 8 * 1024 * 1024
"""Of JSON in one answer; whoever wants more follows, which has no end."""


def _wanted(control: Control, params: LogParams) -> Wanted:
    names = params.names or []
    with_files = control.shared.logs.names() if names else set[str]()
    for name in names:
        if name not in with_files:
            control.agents.keepers(name)
    running = frozenset(
        keeper.id for keeper in control.agents.all_keepers() if keeper.worker.pid is not None
    )
    return Wanted(
        names=frozenset(names),
        since=params.since,
        until=params.until,
        stream=params.stream,
        level=params.level,
        pattern=None if params.grep is None else Pattern(params.grep),
        previous=params.previous,
        running=running,
    )


@method("log.read", "read", LogParams)
async def _read_log(control: Control, params: LogParams, _caller: Caller) -> object:
    """The last lines of the logs, merged by time, up to 8 MiB of JSON."""
    found: list[Record] = []
    size = 0
    n = 100 if params.n is None and params.since is None else params.n
    async for batch in control.shared.logs.history(_wanted(control, params), n):
        size += len(codec.encode(batch))
        if size > ANSWER_BYTES:
            raise ResourceLimitExceeded(
                f"cannot answer with more than {ANSWER_BYTES} bytes of log: follow it",
                limit="answer",
                value=ANSWER_BYTES,
            )
        found += batch
    return {"records": found}


@method("log.follow", "read", LogParams)
async def _follow_log(control: Control, params: LogParams, caller: Caller) -> object:
    """The last lines, then all that comes, as `log` notifications {records}; without `follow` then `log.end`."""
    wanted = _wanted(control, params)
    if params.follow and (params.until is not None or params.previous):
        key = "previous" if params.previous else "until"
        raise InvalidParams(f'cannot follow a log with "{key}": that is over', key=key)
    logs = control.shared.logs
    if params.follow:
        n = 10 if params.n is None and params.since is None else params.n
        caller.follow(_send_batches(caller, logs.follow(wanted, n)))
    else:
        n = 100 if params.n is None and params.since is None else params.n
        caller.follow(_send_batches(caller, logs.history(wanted, n)))
    return {}


async def _send_batches(caller: Caller, batches: AsyncGenerator[list[Record], None]) -> None:
    end: dict[str, object] = {}
    try:
        async with contextlib.aclosing(batches):
            async for batch in batches:
                caller.notify("log", {"records": batch})
                await caller.drain()
    except ResourceLimitExceeded as error:  # of the pattern
        end = {"error": error.to_wire()}
    caller.notify("log.end", end)


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
