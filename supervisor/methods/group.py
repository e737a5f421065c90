"""Serves the methods `team.*` and `workflow.*` of the table: shows, adds and removes teams and workflows."""

from collections.abc import Mapping

import msgspec

from ...worker.contract.control_params import (
    GroupAddParams,
    GroupRemoveParams,
    NameParams,
    NoParams,
)
from ...worker.contract.control_results import Removed, Teams, TeamShown, Workflows, WorkflowShown
from ...worker.contract.errors import InvalidParams
from ..api.faces import faces
from ..api.table import Caller, Control, method


def _list(control: Control, kind: str) -> object:
    found = control.agents.groups.all(kind)
    return {f"{kind}s": [msgspec.to_builtins(control.status.group_status(each)) for each in found]}


def _show_group(control: Control, kind: str, name: str) -> object:
    return control.status.group_shown(control.agents.groups.of(name, kind))


async def _add_group(control: Control, kind: str, params: GroupAddParams) -> object:
    tables: dict[str, Mapping[str, object]] = dict(params.specs)
    if params.name is not None and params.spec is not None:
        tables[params.name] = params.spec
    if not tables or (params.name is None) != (params.spec is None):
        text = f"cannot add a {kind}: give name and spec, or specs"
        raise InvalidParams(text, key="name", value=params.name)
    _ = control.schedules  # refuses where the room of teams and workflows is not installed
    added = await control.agents.groups.add(kind, tables)
    return {f"{kind}s": [msgspec.to_builtins(control.status.group_status(each)) for each in added]}


async def _remove(control: Control, kind: str, params: GroupRemoveParams) -> object:
    control.agents.groups.of(params.name, kind)
    return {
        "removed": await control.agents.membership.remove([params.name], cascade=params.cascade)
    }


@method(
    "team.list",
    "read",
    NoParams,
    Teams,
    faces=faces("GET /teams", python="list_teams", command="team list"),
)
async def _team_list(control: Control, _params: NoParams, _caller: Caller) -> object:
    """Lists the teams."""
    return _list(control, "team")


@method(
    "team.show",
    "read",
    NameParams,
    TeamShown,
    faces=faces("GET /teams/{name}", python="show_team", command="team show"),
)
async def _team_show(control: Control, params: NameParams, _caller: Caller) -> object:
    """Returns one team in full, with its spec."""
    return _show_group(control, "team", params.name)


@method(
    "team.add",
    "admin",
    GroupAddParams,
    Teams,
    recorded="or-refused",
    faces=faces("POST /teams", python="add_team", command="team add"),
)
async def _team_add(control: Control, params: GroupAddParams, _caller: Caller) -> object:
    """Adds teams, which are kept until they are removed."""
    return await _add_group(control, "team", params)


@method(
    "team.rm",
    "admin",
    GroupRemoveParams,
    Removed,
    recorded="always",
    recorded_keys=("removed",),
    faces=faces("DELETE /teams/{name}", python="remove_team", command="team rm"),
)
async def _team_rm(control: Control, params: GroupRemoveParams, _caller: Caller) -> object:
    """Removes a team; its tasks that are under way go on."""
    return await _remove(control, "team", params)


@method(
    "workflow.list",
    "read",
    NoParams,
    Workflows,
    faces=faces("GET /workflows", python="list_workflows", command="workflow list"),
)
async def _workflow_list(control: Control, _params: NoParams, _caller: Caller) -> object:
    """Lists the workflows."""
    return _list(control, "workflow")


@method(
    "workflow.show",
    "read",
    NameParams,
    WorkflowShown,
    faces=faces("GET /workflows/{name}", python="show_workflow", command="workflow show"),
)
async def _workflow_show(control: Control, params: NameParams, _caller: Caller) -> object:
    """Returns one workflow in full, with its steps."""
    return _show_group(control, "workflow", params.name)


@method(
    "workflow.add",
    "admin",
    GroupAddParams,
    Workflows,
    recorded="or-refused",
    faces=faces("POST /workflows", python="add_workflow", command="workflow add"),
)
async def _workflow_add(control: Control, params: GroupAddParams, _caller: Caller) -> object:
    """Adds workflows, which are kept until they are removed."""
    return await _add_group(control, "workflow", params)


@method(
    "workflow.rm",
    "admin",
    GroupRemoveParams,
    Removed,
    recorded="always",
    recorded_keys=("removed",),
    faces=faces("DELETE /workflows/{name}", python="remove_workflow", command="workflow rm"),
)
async def _workflow_rm(control: Control, params: GroupRemoveParams, _caller: Caller) -> object:
    """Removes a workflow; its tasks that are under way go on."""
    return await _remove(control, "workflow", params)
