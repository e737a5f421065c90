"""Serves the methods `memory.*` and `checkpoint.*` of the table: sessions, keys and checkpoints of agents.

The sessions and keys of an agent that was removed are still shown, until they are cleared.
"""

import asyncio
import os
import time
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import asdict

from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.running.membership import Addition
from corral.supervisor.tenants.tokens.scope import AGENT, CHECKPOINT, NAME, OPEN, Rule, knows
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied
from corral.worker.control.params import (
    CheckpointIdParams,
    CheckpointListParams,
    CheckpointRemoveParams,
    CheckpointRestoreParams,
    CheckpointSaveParams,
    MemoryCleanupParams,
    MemoryClearParams,
    MemoryExpireParams,
    MemoryFindParams,
    MemoryKeyParams,
    MemoryListParams,
    MemoryPutParams,
    MemoryShowParams,
    MemoryStatsParams,
    NoParams,
)
from corral.worker.control.results import Done
from corral.worker.control.state_results import (
    CheckpointRestored,
    Checkpoints,
    CheckpointShown,
    CheckpointsRemoved,
    Item,
    Items,
    MemoryPool,
    MemoryPools,
    MemoryRemoved,
    MemoryStatistics,
    Session,
    SessionExpiry,
    Sessions,
    SessionShown,
    Value,
)

from ..table.caller import made_by
from ..table.faces import faces
from ..table.results import as_result
from ..table.table import Caller, Control, method


@method(
    "memory.sessions",
    "read",
    MemoryListParams,
    Sessions,
    scope=Rule("agent", lists=(("sessions", "agent"),)),
    faces=faces("GET /sessions", "GET /sessions/{agent}", python="list_sessions", command="memory list"),
)
async def _sessions(control: Control, params: MemoryListParams, caller: Caller) -> Sessions:
    """Lists sessions with turns, messages, sizes and last access, the last used first."""
    found = await control.memory_listing.sessions(params.agent, params.limit, knows(caller.agents))
    return Sessions(sessions=as_result(found, list[Session]))


@method(
    "memory.show",
    "read",
    MemoryShowParams,
    SessionShown,
    scope=AGENT,
    faces=faces("GET /sessions/{agent}/{session}", python="show_session", command="memory show"),
)
async def _show(control: Control, params: MemoryShowParams, _caller: Caller) -> SessionShown:
    """Returns a session: history, variables and data; counts as an access."""
    shown: dict[str, Any] = await control.memory.show(params.agent, params.session, params.last)
    return SessionShown(**shown)  # its parts are encoded JSON, which nothing decodes on its way


@method(
    "memory.put",
    "operate",
    MemoryPutParams,
    Done,
    scope=AGENT,
    faces=faces("PUT /memory/{agent}/{key}", python="put_memory", command="memory put"),
)
async def _put(control: Control, params: MemoryPutParams, _caller: Caller) -> Done:
    """Stores a value under a key of an agent; it is durable when this returns."""
    agent = control.agents.of(params.agent).name
    await control.memory.key_values.put(agent, params.session, params.key, params.value, ttl_s=params.ttl_s)
    return Done()


@method(
    "memory.get",
    "read",
    MemoryKeyParams,
    Value,
    scope=AGENT,
    faces=faces("GET /memory/{agent}/{key}", python="get_memory", command="memory get"),
)
async def _get(control: Control, params: MemoryKeyParams, _caller: Caller) -> Value:
    """Returns the value under a key of an agent; null where there is none."""
    key_values = control.memory.key_values
    return Value(value=await key_values.get(params.agent, params.session, params.key))


@method(
    "memory.delete",
    "operate",
    MemoryKeyParams,
    Done,
    scope=AGENT,
    faces=faces("DELETE /memory/{agent}/{key}", python="delete_memory", command="memory rm"),
)
async def _delete(control: Control, params: MemoryKeyParams, _caller: Caller) -> Done:
    """Deletes a key of an agent."""
    if not await control.memory.key_values.delete(params.agent, params.session, params.key):
        text = f'cannot find key "{params.key}" of agent "{params.agent}"'
        raise NotFound(text, agent=params.agent, key=params.key)
    return Done()


@method(
    "memory.search",
    "read",
    MemoryFindParams,
    Items,
    scope=AGENT,
    faces=faces("GET /memory/{agent}", python="search_memory", command="memory search"),
)
async def _search(control: Control, params: MemoryFindParams, _caller: Caller) -> Items:
    """Returns keys and values of an agent that contain a text, the newest first."""
    key_values = control.memory.key_values
    items = await key_values.search(params.agent, params.session, params.query, params.limit)
    return Items(items=as_result(items, list[Item]))


@method(
    "memory.clear",
    "operate",
    MemoryClearParams,
    MemoryRemoved,
    scope=AGENT,
    faces=faces(
        "DELETE /sessions/{agent}/{session}", "DELETE /sessions/{agent}", python="clear_memory", command="memory clear"
    ),
)
async def _clear(control: Control, params: MemoryClearParams, _caller: Caller) -> MemoryRemoved:
    """Deletes a session of an agent with its keys, or all of them; refused while a task works on it."""
    return MemoryRemoved(**await control.memory.clear(params.agent, params.session))


@method(
    "memory.cleanup",
    "operate",
    MemoryCleanupParams,
    MemoryRemoved,
    scope=AGENT,
    faces=faces("POST /memory/cleanup", python="clean_up_memory", command="memory cleanup"),
)
async def _cleanup(control: Control, params: MemoryCleanupParams, _caller: Caller) -> MemoryRemoved:
    """Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each."""
    return MemoryRemoved(**await control.memory_expiry.expire(time.time(), params.agent))


@method(
    "memory.expire",
    "operate",
    MemoryExpireParams,
    SessionExpiry,
    scope=AGENT,
    faces=faces("POST /sessions/{agent}/{session}/expire", python="expire_session", command="memory expire"),
)
async def _expire(control: Control, params: MemoryExpireParams, _caller: Caller) -> SessionExpiry:
    """Sets the time after which a session is gone, from now on; without `ttl_s` only `retention` counts."""
    agent, session = params.agent, params.session
    at = await control.memory.expire_session(agent, session, params.ttl_s)
    return SessionExpiry(agent=agent, session=session, expires_at=at)


@method(
    "memory.pools",
    "read",
    NoParams,
    MemoryPools,
    scope=OPEN,
    faces=faces("GET /memory/pools", python="memory_pools", command="memory pools"),
)
async def _pools(control: Control, _params: NoParams, caller: Caller) -> MemoryPools:
    """Lists the memory pools: their limits, the size of their sessions and keys, and the agents in them."""
    found = await control.memory_listing.pools(control.agents.agents, knows(caller.agents))
    return MemoryPools(pools=as_result(found, list[MemoryPool]))


@method(
    "memory.stats",
    "read",
    MemoryStatsParams,
    MemoryStatistics,
    scope=Rule("agent", lists=(("agents", "agent"),)),
    faces=faces("GET /memory", python="memory_stats", command="memory stats"),
)
async def _stats(control: Control, params: MemoryStatsParams, caller: Caller) -> MemoryStatistics:
    """Returns the size of sessions and keys by agent, without expired ones, and the bytes of them in the daemon's memory."""
    found = await control.memory_listing.stats(params.agent, knows(caller.agents))
    return as_result(found, MemoryStatistics)


@method(
    "checkpoint.save",
    "operate",
    CheckpointSaveParams,
    Checkpoints,
    scope=NAME,
    faces=faces("POST /checkpoints", "POST /agents/{name}/checkpoint", python="save_state", command="checkpoint save"),
)
async def _save(control: Control, params: CheckpointSaveParams, _caller: Caller) -> Checkpoints:
    """Saves a checkpoint of one worker, or of each worker of an agent that is up."""
    saved = await control.hibernation.saver.save(params.name, params.timeout_s)
    return Checkpoints(checkpoints=saved)


@method(
    "checkpoint.restore",
    "operate",
    CheckpointRestoreParams,
    CheckpointRestored,
    recorded="or-refused",
    recorded_keys=("worker", "added"),
    scope=CHECKPOINT,
    faces=faces(
        "POST /checkpoints/{checkpoint}/restore",
        "POST /checkpoints/restore",
        python="restore_agent",
        command="checkpoint restore",
    ),
)
async def _restore(control: Control, params: CheckpointRestoreParams, caller: Caller) -> CheckpointRestored:
    """Restores a checkpoint, also another worker's, in a worker; one that does not run begins with it.

    `checkpoint` is the worker's own copy, `live` whether it goes on with it at once. A removed agent is brought back.
    """
    has_data = not isinstance(params.data, msgspec.UnsetType)
    if has_data == (params.checkpoint is not None):
        text = "cannot restore: give a checkpoint, or data"
        raise InvalidParams(text, key="checkpoint")
    name, added = params.name, None
    if params.checkpoint is not None:
        added = await _brought_back(control, params.checkpoint, name, caller)
        name = name if added is None else added.worker
    try:
        supervisor, copy, is_live = await control.hibernation.restore(
            params.checkpoint, params.data if has_data else None, name, params.timeout_s
        )
    except BaseException:
        if added is not None:
            await asyncio.shield(control.agents.membership.remove([added.agent]))
        raise
    if added is not None and params.start:
        async with asyncio.timeout(params.timeout_s):
            await control.agents.operations.start([supervisor], wait=True)
        is_live = True
    agent = supervisor.spec.name
    return CheckpointRestored(agent=agent, worker=supervisor.id, checkpoint=copy, live=is_live, added=added is not None)


class _BroughtBack(NamedTuple):
    """Represents an agent that was added for a checkpoint, and the worker that the checkpoint is for."""

    agent: str
    worker: str


async def _brought_back(control: Control, checkpoint: int, name: str | None, caller: Caller) -> _BroughtBack | None:
    """Adds the agent of a checkpoint again, under `name` or its own; returns None where it, or its worker, is there."""
    agents = control.agents
    record, _ = await control.shared.checkpoints.find(checkpoint)
    agent = name or record.agent
    is_there = agent in agents.agents or agents.registry.supervisor(agent) is not None
    if is_there or record.task is not None or record.worker is None:
        return None
    if name == record.worker:
        agent = record.agent
    if caller.permission != "admin" or caller.agents is not None:
        words = f'cannot restore checkpoint {checkpoint}: there is no agent "{agent}", and {caller.name} may add none'
        raise PermissionDenied(words, name=agent, needs="admin")
    number = await control.shared.checkpoints.revision_of(checkpoint)
    found = None
    if number is not None:
        found = await agents.revisions.find(record.agent, number)
    else:  # it was saved by an earlier version
        last = agents.revisions.head(record.agent).last
        found = await agents.revisions.before(record.agent, last + 1)
    if found is None:
        words = f'cannot restore checkpoint {checkpoint}: no revision of agent "{record.agent}" is kept'
        raise NotFound(words, name=record.agent, checkpoint=checkpoint)
    cause = Cause("add", made_by(caller), f"restored from checkpoint {checkpoint}")
    kind: Literal["agent", "mcp"] = "mcp" if found.kind == "mcp" else "agent"
    # The table of the file has its variables as they were written.
    environment = None if found.is_stored else dict(os.environ)
    addition = Addition(agent, kind, found.table, "/", environment)
    await agents.membership.add([addition], start=False, wait=False, cause=cause)
    return _BroughtBack(agent, f"{agent}-{record.worker.rpartition('-')[2]}")


@method(
    "checkpoint.list",
    "read",
    CheckpointListParams,
    Checkpoints,
    scope=Rule(lists=(("checkpoints", "agent"),)),
    faces=faces("GET /checkpoints", python="list_checkpoints", command="checkpoint list"),
)
async def _list(control: Control, params: CheckpointListParams, caller: Caller) -> Checkpoints:
    """Lists checkpoints without their data, newest first."""
    checkpoints = control.shared.checkpoints
    found = await checkpoints.list(params.name, params.limit, knows(caller.agents))
    return Checkpoints(checkpoints=list(found))


@method(
    "checkpoint.show",
    "read",
    CheckpointIdParams,
    CheckpointShown,
    scope=CHECKPOINT,
    faces=faces("GET /checkpoints/{checkpoint}", python="show_checkpoint", command="checkpoint show"),
)
async def _show_checkpoint(control: Control, params: CheckpointIdParams, _caller: Caller) -> CheckpointShown:
    """Returns one checkpoint with its data."""
    record, data = await control.shared.checkpoints.find(params.checkpoint)
    return CheckpointShown(**asdict(record), data=data)


@method(
    "checkpoint.rm",
    "operate",
    CheckpointRemoveParams,
    CheckpointsRemoved,
    recorded="always",
    recorded_keys=("removed",),
    scope=CHECKPOINT,
    faces=faces(
        "DELETE /checkpoints/{checkpoints}", "DELETE /checkpoints", python="remove_checkpoints", command="checkpoint rm"
    ),
)
async def _rm(control: Control, params: CheckpointRemoveParams, _caller: Caller) -> CheckpointsRemoved:
    """Removes checkpoints, all or none; one that a worker is to begin with only with `force`."""
    removed = await control.hibernation.remove(params.checkpoints, force=params.force)
    return CheckpointsRemoved(removed=list(removed))
