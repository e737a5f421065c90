"""The methods `checkpoint.*` of the table: what workers and tasks saved is listed, shown, made, restored, removed."""

import msgspec

from ...worker.contract.errors import InvalidParams
from ...worker.contract.shapes import (
    CheckpointIdParams,
    CheckpointListParams,
    CheckpointRemoveParams,
    CheckpointRestoreParams,
    CheckpointSaveParams,
)
from .table import Caller, Control, method


@method("checkpoint.save", "operate", CheckpointSaveParams)
async def _save(control: Control, params: CheckpointSaveParams, _caller: Caller) -> object:
    """Has the workers of an agent that are up, or one worker, save a checkpoint."""
    saved = await control.service.hibernation.save(params.name, params.timeout_s)
    return {"checkpoints": msgspec.to_builtins(saved)}


@method(
    "checkpoint.restore",
    "operate",
    CheckpointRestoreParams,
    recorded="or-refused",
    tells=("worker",),
)
async def _restore(control: Control, params: CheckpointRestoreParams, _caller: Caller) -> object:
    """Has a worker, also another's, go on with a checkpoint; one that does not run begins with it.

    `checkpoint` is the worker's own copy, `live` whether it goes on at once.
    """
    has_data = not isinstance(params.data, msgspec.UnsetType)
    if has_data == (params.checkpoint is not None):
        text = "cannot tell what to restore: give a checkpoint, or data"
        raise InvalidParams(text, key="checkpoint")
    keeper, copy, is_live = await control.service.hibernation.restore(
        params.checkpoint, params.data if has_data else None, params.name, params.timeout_s
    )
    return {"worker": keeper.id, "checkpoint": msgspec.to_builtins(copy), "live": is_live}


@method("checkpoint.list", "read", CheckpointListParams)
async def _list(control: Control, params: CheckpointListParams, _caller: Caller) -> object:
    """Checkpoints without their data, newest first."""
    found = await control.shared.checkpoints.list(params.name, params.limit)
    return {"checkpoints": msgspec.to_builtins(found)}


@method("checkpoint.show", "read", CheckpointIdParams)
async def _show(control: Control, params: CheckpointIdParams, _caller: Caller) -> object:
    """One checkpoint with its data."""
    record, data = await control.shared.checkpoints.find(params.checkpoint)
    return {**msgspec.to_builtins(record), "data": data}


@method("checkpoint.rm", "operate", CheckpointRemoveParams, recorded="always", tells=("removed",))
async def _rm(control: Control, params: CheckpointRemoveParams, _caller: Caller) -> object:
    """Removes checkpoints, all or none; what a worker is to begin with only with `force`."""
    removed = await control.service.hibernation.remove(params.checkpoints, force=params.force)
    return {"removed": list(removed)}
