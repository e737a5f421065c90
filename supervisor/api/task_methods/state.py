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
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.tenants.tokens.scope import knows
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
from corral.worker.methods.state import (
    CHECKPOINT_LIST,
    CHECKPOINT_RESTORE,
    CHECKPOINT_RM,
    CHECKPOINT_SAVE,
    CHECKPOINT_SHOW,
    MEMORY_CLEANUP,
    MEMORY_CLEAR,
    MEMORY_DELETE,
    MEMORY_EXPIRE,
    MEMORY_GET,
    MEMORY_POOLS,
    MEMORY_PUT,
    MEMORY_SEARCH,
    MEMORY_SESSIONS,
    MEMORY_SHOW,
    MEMORY_STATS,
)

from ..table.caller import made_by
from ..table.results import as_result
from ..table.table import Caller, Control, serve


@serve(MEMORY_SESSIONS)
async def _sessions(control: Control, params: MemoryListParams, caller: Caller) -> Sessions:
    found = await control.memory_listing.sessions(params.agent, params.limit, knows(caller.agents))
    return Sessions(sessions=as_result(found, list[Session]))


@serve(MEMORY_SHOW)
async def _show(control: Control, params: MemoryShowParams, _caller: Caller) -> SessionShown:
    shown: dict[str, Any] = await control.memory.show(params.agent, params.session, params.last)
    return SessionShown(**shown)  # its parts are encoded JSON, which nothing decodes on its way


@serve(MEMORY_PUT)
async def _put(control: Control, params: MemoryPutParams, _caller: Caller) -> Done:
    agent = control.agents.of(params.agent).name
    await control.memory.key_values.put(agent, params.session, params.key, params.value, ttl_s=params.ttl_s)
    return Done()


@serve(MEMORY_GET)
async def _get(control: Control, params: MemoryKeyParams, _caller: Caller) -> Value:
    key_values = control.memory.key_values
    return Value(value=await key_values.get(params.agent, params.session, params.key))


@serve(MEMORY_DELETE)
async def _delete(control: Control, params: MemoryKeyParams, _caller: Caller) -> Done:
    if not await control.memory.key_values.delete(params.agent, params.session, params.key):
        text = f'cannot find key "{params.key}" of agent "{params.agent}"'
        raise NotFound(text, agent=params.agent, key=params.key)
    return Done()


@serve(MEMORY_SEARCH)
async def _search(control: Control, params: MemoryFindParams, _caller: Caller) -> Items:
    key_values = control.memory.key_values
    items = await key_values.search(params.agent, params.session, params.query, params.limit)
    return Items(items=as_result(items, list[Item]))


@serve(MEMORY_CLEAR)
async def _clear(control: Control, params: MemoryClearParams, _caller: Caller) -> MemoryRemoved:
    return MemoryRemoved(**await control.memory.clear(params.agent, params.session))


@serve(MEMORY_CLEANUP)
async def _cleanup(control: Control, params: MemoryCleanupParams, _caller: Caller) -> MemoryRemoved:
    return MemoryRemoved(**await control.memory_expiry.expire(time.time(), params.agent))


@serve(MEMORY_EXPIRE)
async def _expire(control: Control, params: MemoryExpireParams, _caller: Caller) -> SessionExpiry:
    agent, session = params.agent, params.session
    at = await control.memory.expire_session(agent, session, params.ttl_s)
    return SessionExpiry(agent=agent, session=session, expires_at=at)


@serve(MEMORY_POOLS)
async def _pools(control: Control, _params: NoParams, caller: Caller) -> MemoryPools:
    found = await control.memory_listing.pools(control.agents.agents, knows(caller.agents))
    return MemoryPools(pools=as_result(found, list[MemoryPool]))


@serve(MEMORY_STATS)
async def _stats(control: Control, params: MemoryStatsParams, caller: Caller) -> MemoryStatistics:
    found = await control.memory_listing.stats(params.agent, knows(caller.agents))
    return as_result(found, MemoryStatistics)


@serve(CHECKPOINT_SAVE)
async def _save(control: Control, params: CheckpointSaveParams, _caller: Caller) -> Checkpoints:
    saved = await control.hibernation.saver.save(params.name, params.timeout_s)
    return Checkpoints(checkpoints=saved)


@serve(CHECKPOINT_RESTORE)
async def _restore(control: Control, params: CheckpointRestoreParams, caller: Caller) -> CheckpointRestored:
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
    starts = params.start is not False if added is not None else params.start and not is_live
    if starts:
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


@serve(CHECKPOINT_LIST)
async def _list(control: Control, params: CheckpointListParams, caller: Caller) -> Checkpoints:
    checkpoints = control.shared.checkpoints
    found = await checkpoints.list(params.name, params.limit, knows(caller.agents))
    return Checkpoints(checkpoints=list(found))


@serve(CHECKPOINT_SHOW)
async def _show_checkpoint(control: Control, params: CheckpointIdParams, _caller: Caller) -> CheckpointShown:
    record, data = await control.shared.checkpoints.find(params.checkpoint)
    return CheckpointShown(**asdict(record), data=data)


@serve(CHECKPOINT_RM)
async def _rm(control: Control, params: CheckpointRemoveParams, _caller: Caller) -> CheckpointsRemoved:
    removed = await control.hibernation.remove(params.checkpoints, force=params.force)
    return CheckpointsRemoved(removed=list(removed))
