"""Serves the methods `schedule.*` of the table."""

from msgspec.structs import asdict, replace

from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.job import commands_of, job_task
from corral.supervisor.tasks.workflows.schedules import Schedules as ScheduleTable
from corral.worker.contract.names import qualified
from corral.worker.contract.records import ScheduleRecord, Task, copied
from corral.worker.control.params import NoParams, ScheduleCommandParams, ScheduleNameParams, ScheduleParams
from corral.worker.control.results import Removed, Schedules, ScheduleShown
from corral.worker.methods import task as methods

from ..table.handlers import Caller, generated_name, made_by, serve


class ScheduleMethods:
    """Serves the methods `schedule.*`."""

    def __init__(self, schedules: ScheduleTable, agents: Agents) -> None:
        self._schedules = schedules
        self._agents = agents

    @serve(methods.SCHEDULE_ADD)
    async def _add(self, params: ScheduleParams, caller: Caller) -> ScheduleRecord:
        if caller.tenant and params.name is None:
            params = replace(params, name=qualified(generated_name("schedule"), caller.tenant))
        return await self._schedules.add(params)

    @serve(methods.SCHEDULE_ADD_COMMAND)
    async def _add_command(self, params: ScheduleCommandParams, caller: Caller) -> ScheduleRecord:
        name, command = params.name, list(params.command)
        table = commands_of({name: {**params.spec, "command": command}})[name]
        times = copied(params, "every_s cron timezone catch_up overlap start_at at")
        asked = ScheduleParams(task=job_task(name, command), name=name, **times)
        self._schedules.check_free(name)
        membership = self._agents.membership
        addition = Addition(name, "agent", table, params.directory or "/")
        cause = Cause("add", made_by(caller))
        await membership.add([addition], start=False, wait=False, cause=cause)
        try:
            return await self._schedules.add(asked, command=command)
        except BaseException:
            await membership.remove([name])
            raise

    @serve(methods.SCHEDULE_RM)
    async def _rm(self, params: ScheduleNameParams, _caller: Caller) -> Removed:
        removed = await self._schedules.remove(params.name)
        agent = self._agents.agents.get(params.name)
        if removed.command is not None and agent is not None and agent.added:
            await self._agents.membership.remove([params.name])
        return Removed(removed=[params.name])

    @serve(methods.SCHEDULE_LIST)
    async def _list(self, _params: NoParams, _caller: Caller) -> Schedules:
        return Schedules(schedules=self._schedules.list())

    @serve(methods.SCHEDULE_SHOW)
    async def _show(self, params: ScheduleNameParams, _caller: Caller) -> ScheduleShown:
        return ScheduleShown(
            **asdict(self._schedules.show(params.name)),
            upcoming=list(self._schedules.upcoming(params.name)),
            recent=list(await self._schedules.recent(params.name)),
        )

    @serve(methods.SCHEDULE_PAUSE)
    async def _pause(self, params: ScheduleNameParams, _caller: Caller) -> ScheduleRecord:
        return await self._schedules.pause(params.name)

    @serve(methods.SCHEDULE_RESUME)
    async def _resume(self, params: ScheduleNameParams, _caller: Caller) -> ScheduleRecord:
        return await self._schedules.resume(params.name)

    @serve(methods.SCHEDULE_RUN)
    async def _run(self, params: ScheduleNameParams, _caller: Caller) -> Task:
        return await self._schedules.run_now(params.name)
