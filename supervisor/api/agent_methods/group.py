"""Serves the methods `team.*` and `workflow.*` of the table: shows, adds and removes teams and workflows."""

from collections.abc import Iterable, Mapping, Sequence

from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.loader import group_table
from corral.supervisor.config.spec.spec import Group
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import qualified
from corral.worker.contract.records import TeamStatus, WorkflowStatus
from corral.worker.control.params import GroupAddParams, GroupRemoveParams, NameParams, NoParams
from corral.worker.control.results import Removed, Teams, TeamShown, Workflows, WorkflowShown
from corral.worker.methods import agent as methods

from ..table.handlers import Caller, generated_name, made_by, serve
from ..table.status import StatusReport


class GroupMethods:
    """Serves the methods `team.*` and `workflow.*`."""

    def __init__(self, agents: Agents, status: StatusReport) -> None:
        self._agents = agents
        self._status = status

    def _statuses(self, groups: Iterable[Group]) -> list[TeamStatus | WorkflowStatus]:
        return [self._status.group_status(each) for each in groups]

    def _teams(self, groups: Iterable[Group]) -> Teams:
        return Teams(teams=[each for each in self._statuses(groups) if isinstance(each, TeamStatus)])

    def _workflows(self, groups: Iterable[Group]) -> Workflows:
        statuses = self._statuses(groups)
        return Workflows(workflows=[each for each in statuses if isinstance(each, WorkflowStatus)])

    async def _add_groups(self, kind: str, params: GroupAddParams, caller: Caller) -> Sequence[Group]:
        tables: dict[str, Mapping[str, object]] = dict(params.specs)
        if params.spec is not None:
            tables[params.name or self._free_name(kind, caller.tenant)] = params.spec
        if not tables or (params.name is not None and params.spec is None):
            raise InvalidParams(f"cannot add a {kind}: give spec, or specs", key="name", value=params.name)
        return await self._agents.groups.add(kind, tables, Cause("add", made_by(caller)))

    def _free_name(self, kind: str, tenant: str) -> str:
        while True:
            name = qualified(generated_name(kind), tenant)
            if name not in self._agents.agents and name not in self._agents.groups.by_name:
                return name

    async def _remove(self, kind: str, params: GroupRemoveParams) -> Removed:
        self._agents.groups.of(params.name, kind)
        return Removed(removed=await self._agents.membership.remove([params.name], cascade=params.cascade))

    @serve(methods.TEAM_LIST)
    async def _team_list(self, _params: NoParams, _caller: Caller) -> Teams:
        return self._teams(self._agents.groups.all("team"))

    @serve(methods.TEAM_SHOW)
    async def _team_show(self, params: NameParams, _caller: Caller) -> TeamShown:
        group = self._agents.groups.of(params.name, "team")
        status = self._status.group_status(group)
        assert isinstance(status, TeamStatus), "it was looked for as one"
        return TeamShown(team=status, spec=group_table(group), source=group.source)

    @serve(methods.TEAM_ADD)
    async def _team_add(self, params: GroupAddParams, caller: Caller) -> Teams:
        return self._teams(await self._add_groups("team", params, caller))

    @serve(methods.TEAM_RM)
    async def _team_rm(self, params: GroupRemoveParams, _caller: Caller) -> Removed:
        return await self._remove("team", params)

    @serve(methods.WORKFLOW_LIST)
    async def _workflow_list(self, _params: NoParams, _caller: Caller) -> Workflows:
        return self._workflows(self._agents.groups.all("workflow"))

    @serve(methods.WORKFLOW_SHOW)
    async def _workflow_show(self, params: NameParams, _caller: Caller) -> WorkflowShown:
        group = self._agents.groups.of(params.name, "workflow")
        status = self._status.group_status(group)
        assert isinstance(status, WorkflowStatus), "it was looked for as one"
        return WorkflowShown(workflow=status, spec=group_table(group), source=group.source)

    @serve(methods.WORKFLOW_ADD)
    async def _workflow_add(self, params: GroupAddParams, caller: Caller) -> Workflows:
        return self._workflows(await self._add_groups("workflow", params, caller))

    @serve(methods.WORKFLOW_RM)
    async def _workflow_rm(self, params: GroupRemoveParams, _caller: Caller) -> Removed:
        return await self._remove("workflow", params)
