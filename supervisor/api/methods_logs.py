"""The methods `log.*` of the table: what workers wrote, and what comes."""

import contextlib
from collections.abc import AsyncGenerator

from ...worker.contract import codec
from ...worker.contract.control_params import LogParams
from ...worker.contract.errors import InvalidParams, ResourceLimitExceeded
from ..logs.file_format import Record, Wanted
from ..logs.regex import Pattern
from .table import Caller, Control, method

ANSWER_BYTES = 8 * 1024 * 1024
"""Of JSON in one answer; whoever wants more follows, which has no end."""


def _wanted(control: Control, params: LogParams) -> Wanted:
    names = params.names or []
    with_files = control.shared.logs.names() if names else set[str]()
    for name in names:
        if name not in with_files:
            control.agents.supervisors(name)
    running = frozenset(
        supervisor.id
        for supervisor in control.agents.all_supervisors()
        if supervisor.worker.pid is not None
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
