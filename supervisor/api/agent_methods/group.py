"""Serves the methods `team.*` and `workflow.*` of the table: shows, adds and removes teams and workflows."""

from collections.abc import Iterable, Mapping, Sequence

from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.config.spec.loader import group_table
from corral.supervisor.config.spec.spec import Group
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import qualified
from corral.worker.contract.records import TeamStatus, WorkflowStatus
from corral.worker.control.params import GroupAddParams, GroupRemoveParams, NameParams, NoParams
from corral.worker.control.results import Removed, Teams, TeamShown, Workflows, WorkflowShown
from corral.worker.methods.group import (
    TEAM_ADD,
    TEAM_LIST,
    TEAM_RM,
    TEAM_SHOW,
    WORKFLOW_ADD,
    WORKFLOW_LIST,
    WORKFLOW_RM,
    WORKFLOW_SHOW,
)

from ..table.caller import generated_name, made_by
from ..table.table import Caller, Control, serve


def _statuses(control: Control, groups: Iterable[Group]) -> list[TeamStatus | WorkflowStatus]:
    return [control.status.group_status(each) for each in groups]


def _teams(control: Control, groups: Iterable[Group]) -> Teams:
    statuses = _statuses(control, groups)
    return Teams(teams=[each for each in statuses if isinstance(each, TeamStatus)])


def _workflows(control: Control, groups: Iterable[Group]) -> Workflows:
    statuses = _statuses(control, groups)
    return Workflows(workflows=[each for each in statuses if isinstance(each, WorkflowStatus)])


async def _add_groups(control: Control, kind: str, params: GroupAddParams, caller: Caller) -> Sequence[Group]:
    tables: dict[str, Mapping[str, object]] = dict(params.specs)
    if params.spec is not None:
        tables[params.name or _free_name(control, kind, caller.tenant)] = params.spec
    if not tables or (params.name is not None and params.spec is None):
        text = f"cannot add a {kind}: give spec, or specs"
        raise InvalidParams(text, key="name", value=params.name)
    return await control.agents.groups.add(kind, tables, Cause("add", made_by(caller)))


def _free_name(control: Control, kind: str, tenant: str) -> str:
    """Returns a name of a tenant, "" for the owner, that nothing has."""
    while True:
        name = qualified(generated_name(kind), tenant)
        if name not in control.agents.agents and name not in control.agents.groups.by_name:
            return name


async def _remove(control: Control, kind: str, params: GroupRemoveParams) -> Removed:
    control.agents.groups.of(params.name, kind)
    removed = await control.agents.membership.remove([params.name], cascade=params.cascade)
    return Removed(removed=removed)


@serve(TEAM_LIST)
async def _team_list(control: Control, _params: NoParams, _caller: Caller) -> Teams:
    return _teams(control, control.agents.groups.all("team"))


@serve(TEAM_SHOW)
async def _team_show(control: Control, params: NameParams, _caller: Caller) -> TeamShown:
    group = control.agents.groups.of(params.name, "team")
    status = control.status.group_status(group)
    assert isinstance(status, TeamStatus), "it was looked for as one"
    return TeamShown(team=status, spec=group_table(group), source=group.source)


@serve(TEAM_ADD)
async def _team_add(control: Control, params: GroupAddParams, caller: Caller) -> Teams:
    return _teams(control, await _add_groups(control, "team", params, caller))


@serve(TEAM_RM)
async def _team_rm(control: Control, params: GroupRemoveParams, _caller: Caller) -> Removed:
    return await _remove(control, "team", params)


@serve(WORKFLOW_LIST)
async def _workflow_list(control: Control, _params: NoParams, _caller: Caller) -> Workflows:
    return _workflows(control, control.agents.groups.all("workflow"))


@serve(WORKFLOW_SHOW)
async def _workflow_show(control: Control, params: NameParams, _caller: Caller) -> WorkflowShown:
    group = control.agents.groups.of(params.name, "workflow")
    status = control.status.group_status(group)
    assert isinstance(status, WorkflowStatus), "it was looked for as one"
    return WorkflowShown(workflow=status, spec=group_table(group), source=group.source)


@serve(WORKFLOW_ADD)
async def _workflow_add(control: Control, params: GroupAddParams, caller: Caller) -> Workflows:
    return _workflows(control, await _add_groups(control, "workflow", params, caller))


@serve(WORKFLOW_RM)
async def _workflow_rm(control: Control, params: GroupRemoveParams, _caller: Caller) -> Removed:
    return await _remove(control, "workflow", params)
