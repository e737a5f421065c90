"""Serves the methods `checkpoint.*` and `memory.*` of the table: what agents have saved and remember.

Memory of an agent that was removed is still shown, until it is cleared.
"""

import asyncio
import os
import time
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import asdict

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.memory.listing import Listing
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tenants.tokens.scope import knows
from corral.supervisor.workers.supervision.checkpoints import Checkpoints as CheckpointStore
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied
from corral.worker.control import state_results as shapes
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
from corral.worker.methods import state as methods

from ..table.handlers import Caller, as_result, made_by, serve


class _BroughtBack(NamedTuple):
    """Represents an agent that was added for a checkpoint, and the worker that the checkpoint is for."""

    agent: str
    worker: str


class CheckpointMethods:
    """Serves the methods `checkpoint.*`."""

    def __init__(self, agents: Agents, hibernation: Hibernation, checkpoints: CheckpointStore) -> None:
        self._agents = agents
        self._hibernation = hibernation
        self._checkpoints = checkpoints

    @serve(methods.CHECKPOINT_SAVE)
    async def _save(self, params: CheckpointSaveParams, _caller: Caller) -> shapes.Checkpoints:
        return shapes.Checkpoints(checkpoints=await self._hibernation.saver.save(params.name, params.timeout_s))

    @serve(methods.CHECKPOINT_RESTORE)
    async def _restore(self, params: CheckpointRestoreParams, caller: Caller) -> shapes.CheckpointRestored:
        has_data = not isinstance(params.data, msgspec.UnsetType)
        if has_data == (params.checkpoint is not None):
            raise InvalidParams("cannot restore: give a checkpoint, or data", key="checkpoint")
        name, added = params.name, None
        if params.checkpoint is not None:
            added = await self._brought_back(params.checkpoint, name, caller)
            name = name if added is None else added.worker
        try:
            supervisor, copy, is_live = await self._hibernation.restore(
                params.checkpoint, params.data if has_data else None, name, params.timeout_s
            )
        except BaseException:
            if added is not None:
                await asyncio.shield(self._agents.membership.remove([added.agent]))
            raise
        starts = params.start is not False if added is not None else params.start and not is_live
        if starts:
            async with asyncio.timeout(params.timeout_s):
                await self._agents.operations.start([supervisor], wait=True)
            is_live = True
        agent = supervisor.spec.name
        return shapes.CheckpointRestored(
            agent=agent, worker=supervisor.id, checkpoint=copy, live=is_live, added=added is not None
        )

    async def _brought_back(self, checkpoint: int, name: str | None, caller: Caller) -> _BroughtBack | None:
        """Adds the agent of a checkpoint again, under `name` or its own; returns None where it, or its worker, is there."""
        agents = self._agents
        record, _ = await self._checkpoints.find(checkpoint)
        agent = name or record.agent
        is_there = agent in agents.agents or agents.registry.supervisor(agent) is not None
        if is_there or record.task is not None or record.worker is None:
            return None
        if name == record.worker:
            agent = record.agent
        if caller.permission != "admin" or caller.agents is not None:
            words = (
                f'cannot restore checkpoint {checkpoint}: there is no agent "{agent}", and {caller.name} may add none'
            )
            raise PermissionDenied(words, name=agent, needs="admin")
        number = await self._checkpoints.revision_of(checkpoint)
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
        addition = Addition(agent, kind, found.table, "/", None if found.is_stored else dict(os.environ))
        await agents.membership.add([addition], start=False, wait=False, cause=cause)
        return _BroughtBack(agent, f"{agent}-{record.worker.rpartition('-')[2]}")

    @serve(methods.CHECKPOINT_LIST)
    async def _list(self, params: CheckpointListParams, caller: Caller) -> shapes.Checkpoints:
        found = await self._checkpoints.list(params.name, params.limit, knows(caller.agents))
        return shapes.Checkpoints(checkpoints=list(found))

    @serve(methods.CHECKPOINT_SHOW)
    async def _show(self, params: CheckpointIdParams, _caller: Caller) -> shapes.CheckpointShown:
        record, data = await self._checkpoints.find(params.checkpoint)
        return shapes.CheckpointShown(**asdict(record), data=data)

    @serve(methods.CHECKPOINT_RM)
    async def _rm(self, params: CheckpointRemoveParams, _caller: Caller) -> shapes.CheckpointsRemoved:
        removed = await self._hibernation.remove(params.checkpoints, force=params.force)
        return shapes.CheckpointsRemoved(removed=list(removed))


class MemoryMethods:
    """Serves the methods `memory.*`."""

    def __init__(self, agents: Agents, memory: Memory, memory_expiry: Expiry, memory_listing: Listing) -> None:
        self._agents = agents
        self._memory = memory
        self._memory_expiry = memory_expiry
        self._memory_listing = memory_listing

    @serve(methods.MEMORY_SESSIONS)
    async def _sessions(self, params: MemoryListParams, caller: Caller) -> shapes.Sessions:
        found = await self._memory_listing.sessions(params.agent, params.limit, knows(caller.agents))
        return shapes.Sessions(sessions=as_result(found, list[shapes.Session]))

    @serve(methods.MEMORY_SHOW)
    async def _show(self, params: MemoryShowParams, _caller: Caller) -> shapes.SessionShown:
        shown: dict[str, Any] = await self._memory.show(params.agent, params.session, params.last)
        return shapes.SessionShown(**shown)  # its parts are encoded JSON, which nothing decodes on its way

    @serve(methods.MEMORY_PUT)
    async def _put(self, params: MemoryPutParams, _caller: Caller) -> Done:
        agent = self._agents.of(params.agent).name
        await self._memory.key_values.put(agent, params.session, params.key, params.value, ttl_s=params.ttl_s)
        return Done()

    @serve(methods.MEMORY_GET)
    async def _get(self, params: MemoryKeyParams, _caller: Caller) -> shapes.Value:
        return shapes.Value(value=await self._memory.key_values.get(params.agent, params.session, params.key))

    @serve(methods.MEMORY_DELETE)
    async def _delete(self, params: MemoryKeyParams, _caller: Caller) -> Done:
        if not await self._memory.key_values.delete(params.agent, params.session, params.key):
            text = f'cannot find key "{params.key}" of agent "{params.agent}"'
            raise NotFound(text, agent=params.agent, key=params.key)
        return Done()

    @serve(methods.MEMORY_SEARCH)
    async def _search(self, params: MemoryFindParams, _caller: Caller) -> shapes.Items:
        items = await self._memory.key_values.search(params.agent, params.session, params.query, params.limit)
        return shapes.Items(items=as_result(items, list[shapes.Item]))

    @serve(methods.MEMORY_CLEAR)
    async def _clear(self, params: MemoryClearParams, _caller: Caller) -> shapes.MemoryRemoved:
        return shapes.MemoryRemoved(**await self._memory.clear(params.agent, params.session))

    @serve(methods.MEMORY_CLEANUP)
    async def _cleanup(self, params: MemoryCleanupParams, _caller: Caller) -> shapes.MemoryRemoved:
        return shapes.MemoryRemoved(**await self._memory_expiry.expire(time.time(), params.agent))

    @serve(methods.MEMORY_EXPIRE)
    async def _expire(self, params: MemoryExpireParams, _caller: Caller) -> shapes.SessionExpiry:
        agent, session = params.agent, params.session
        at = await self._memory.expire_session(agent, session, params.ttl_s)
        return shapes.SessionExpiry(agent=agent, session=session, expires_at=at)

    @serve(methods.MEMORY_POOLS)
    async def _pools(self, _params: NoParams, caller: Caller) -> shapes.MemoryPools:
        found = await self._memory_listing.pools(self._agents.agents, knows(caller.agents))
        return shapes.MemoryPools(pools=as_result(found, list[shapes.MemoryPool]))

    @serve(methods.MEMORY_STATS)
    async def _stats(self, params: MemoryStatsParams, caller: Caller) -> shapes.MemoryStatistics:
        return as_result(await self._memory_listing.stats(params.agent, knows(caller.agents)), shapes.MemoryStatistics)
