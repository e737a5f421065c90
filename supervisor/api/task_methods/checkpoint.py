"""Serves the methods `checkpoint.*` of the table: saves, restores, lists and removes checkpoints of agents."""

import asyncio
import os
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import asdict

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.tenants.tokens.scope import knows
from corral.supervisor.workers.supervision.checkpoints import Checkpoints as CheckpointStore
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied
from corral.worker.control.params import (
    CheckpointIdParams,
    CheckpointListParams,
    CheckpointRemoveParams,
    CheckpointRestoreParams,
    CheckpointSaveParams,
)
from corral.worker.control.state_results import CheckpointRestored, Checkpoints, CheckpointShown, CheckpointsRemoved
from corral.worker.methods.state import (
    CHECKPOINT_LIST,
    CHECKPOINT_RESTORE,
    CHECKPOINT_RM,
    CHECKPOINT_SAVE,
    CHECKPOINT_SHOW,
)

from ..table.caller import Caller, made_by
from ..table.handlers import serve


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

    @serve(CHECKPOINT_SAVE)
    async def _save(self, params: CheckpointSaveParams, _caller: Caller) -> Checkpoints:
        return Checkpoints(checkpoints=await self._hibernation.saver.save(params.name, params.timeout_s))

    @serve(CHECKPOINT_RESTORE)
    async def _restore(self, params: CheckpointRestoreParams, caller: Caller) -> CheckpointRestored:
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
        return CheckpointRestored(
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

    @serve(CHECKPOINT_LIST)
    async def _list(self, params: CheckpointListParams, caller: Caller) -> Checkpoints:
        found = await self._checkpoints.list(params.name, params.limit, knows(caller.agents))
        return Checkpoints(checkpoints=list(found))

    @serve(CHECKPOINT_SHOW)
    async def _show(self, params: CheckpointIdParams, _caller: Caller) -> CheckpointShown:
        record, data = await self._checkpoints.find(params.checkpoint)
        return CheckpointShown(**asdict(record), data=data)

    @serve(CHECKPOINT_RM)
    async def _rm(self, params: CheckpointRemoveParams, _caller: Caller) -> CheckpointsRemoved:
        removed = await self._hibernation.remove(params.checkpoints, force=params.force)
        return CheckpointsRemoved(removed=list(removed))
