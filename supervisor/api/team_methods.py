"""The methods `team.*` and `workflow.*` of the table: look at teams and workflows, add and remove them."""

from collections.abc import Mapping

import msgspec

from ...worker.contract.errors import InvalidParams
from ...worker.contract.shapes import EnsembleAddParams, EnsembleRemoveParams, NameParams, NoParams
from .status import ensemble_shown, ensemble_status
from .table import Caller, Control, method


def _list(control: Control, kind: str) -> object:
    found = control.agents.ensembles.all(kind)
    return {f"{kind}s": [msgspec.to_builtins(ensemble_status(control, each)) for each in found]}


def _show(control: Control, kind: str, name: str) -> object:
    return ensemble_shown(control, control.agents.ensembles.of(name, kind))


async def _add(control: Control, kind: str, params: EnsembleAddParams) -> object:
    tables: dict[str, Mapping[str, object]] = dict(params.specs)
    if params.name is not None and params.spec is not None:
        tables[params.name] = params.spec
    if not tables or (params.name is None) != (params.spec is None):
        text = f"cannot tell which {kind} to add: give name and spec, or specs"
        raise InvalidParams(text, key="name", value=params.name)
    added = await control.agents.ensembles.add(kind, tables)
    return {f"{kind}s": [msgspec.to_builtins(ensemble_status(control, each)) for each in added]}


async def _remove(control: Control, kind: str, params: EnsembleRemoveParams) -> object:
    control.agents.ensembles.of(params.name, kind)
    return {"removed": await control.agents.remove([params.name], cascade=params.cascade)}


@method("team.list", "read", NoParams)
async def _team_list(control: Control, _params: NoParams, _caller: Caller) -> object:
    """The teams."""
    return _list(control, "team")


@method("team.show", "read", NameParams)
async def _team_show(control: Control, params: NameParams, _caller: Caller) -> object:
    """One team in full, with its spec."""
    return _show(control, "team", params.name)


@method("team.add", "admin", EnsembleAddParams, recorded="or-refused")
async def _team_add(control: Control, params: EnsembleAddParams, _caller: Caller) -> object:
    """Adds teams, which are kept until they are removed."""
    return await _add(control, "team", params)


@method("team.rm", "admin", EnsembleRemoveParams, recorded="always", tells=("removed",))
async def _team_rm(control: Control, params: EnsembleRemoveParams, _caller: Caller) -> object:
    """Forgets a team; its tasks that are under way go on."""
    return await _remove(control, "team", params)


@method("workflow.list", "read", NoParams)
async def _workflow_list(control: Control, _params: NoParams, _caller: Caller) -> object:
    """The workflows."""
    return _list(control, "workflow")


@method("workflow.show", "read", NameParams)
async def _workflow_show(control: Control, params: NameParams, _caller: Caller) -> object:
    """One workflow in full, with its steps."""
    return _show(control, "workflow", params.name)


@method("workflow.add", "admin", EnsembleAddParams, recorded="or-refused")
async def _workflow_add(control: Control, params: EnsembleAddParams, _caller: Caller) -> object:
    """Adds workflows, which are kept until they are removed."""
    return await _add(control, "workflow", params)


@method("workflow.rm", "admin", EnsembleRemoveParams, recorded="always", tells=("removed",))
async def _workflow_rm(control: Control, params: EnsembleRemoveParams, _caller: Caller) -> object:
    """Forgets a workflow; its tasks that are under way go on."""
    return await _remove(control, "workflow", params)
