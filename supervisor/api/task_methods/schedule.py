"""Serves the methods `schedule.*` of the table."""

from msgspec.structs import asdict, replace

from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.running.membership import Addition
from corral.supervisor.config.spec.job import commands_of, job_task
from corral.supervisor.tenants.tokens.scope import SCHEDULE, Rule
from corral.worker.contract.names import qualified
from corral.worker.contract.records import ScheduleRecord, Task
from corral.worker.control.params import NoParams, ScheduleCommandParams, ScheduleNameParams, ScheduleParams
from corral.worker.control.results import Removed, Schedules, ScheduleShown

from ..table.caller import generated_name, made_by
from ..table.faces import faces
from ..table.table import Caller, Control, method


@method(
    "schedule.add",
    "operate",
    ScheduleParams,
    ScheduleRecord,
    recorded="or-refused",
    recorded_keys=("name",),
    scope=Rule("new schedule"),
    faces=faces("POST /schedules", python="add_schedule", command="schedule add"),
)
async def _add(control: Control, params: ScheduleParams, caller: Caller) -> ScheduleRecord:
    """Adds a schedule, which submits a task at each of its times; it survives a restart of the daemon."""
    if caller.tenant and params.name is None:
        name = qualified(generated_name("schedule"), caller.tenant)
        params = replace(params, name=name)
    return await control.schedules.add(params)


@method(
    "schedule.add_command",
    "admin",
    ScheduleCommandParams,
    ScheduleRecord,
    recorded="or-refused",
    recorded_keys=("name",),
    faces=faces("POST /schedules/commands", python="add_command_schedule", command="schedule add"),
)
async def _add_command(control: Control, params: ScheduleCommandParams, caller: Caller) -> ScheduleRecord:
    """Adds a schedule of a command, and a job of its name that runs the command."""
    name, command = params.name, list(params.command)
    table = commands_of({name: {**params.spec, "command": command}})[name]
    asked = ScheduleParams(
        task=job_task(name, command),
        name=name,
        every_s=params.every_s,
        cron=params.cron,
        timezone=params.timezone,
        catch_up=params.catch_up,
        overlap=params.overlap,
        start_at=params.start_at,
        at=params.at,
    )
    control.schedules.check_free(name)
    membership = control.agents.membership
    addition = Addition(name, "agent", table, params.directory or "/")
    cause = Cause("add", made_by(caller))
    await membership.add([addition], start=False, wait=False, cause=cause)
    try:
        return await control.schedules.add(asked, command=command)
    except BaseException:
        await membership.remove([name])
        raise


@method(
    "schedule.rm",
    "operate",
    ScheduleNameParams,
    Removed,
    recorded="always",
    scope=SCHEDULE,
    faces=faces("DELETE /schedules/{name}", python="remove_schedule", command="schedule rm"),
)
async def _remove(control: Control, params: ScheduleNameParams, _caller: Caller) -> Removed:
    """Removes a schedule, and the job that was added with its command; the tasks that it submitted stay."""
    removed = await control.schedules.remove(params.name)
    agent = control.agents.agents.get(params.name)
    if removed.command is not None and agent is not None and agent.added:
        await control.agents.membership.remove([params.name])
    return Removed(removed=[params.name])


@method(
    "schedule.list",
    "read",
    NoParams,
    Schedules,
    scope=Rule(lists=(("schedules", "task.agent"),)),
    tenant=Rule(lists=(("schedules", "name"),)),
    faces=faces("GET /schedules", python="list_schedules", command="schedules"),
)
async def _list(control: Control, _params: NoParams, _caller: Caller) -> Schedules:
    """Lists all schedules, by name."""
    return Schedules(schedules=control.schedules.list())


@method(
    "schedule.show",
    "read",
    ScheduleNameParams,
    ScheduleShown,
    scope=SCHEDULE,
    faces=faces("GET /schedules/{name}", python="show_schedule", command="schedule show"),
)
async def _show(control: Control, params: ScheduleNameParams, _caller: Caller) -> ScheduleShown:
    """Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first."""
    record = control.schedules.show(params.name)
    return ScheduleShown(
        **asdict(record),
        upcoming=list(control.schedules.upcoming(params.name)),
        recent=list(await control.schedules.recent(params.name)),
    )


@method(
    "schedule.pause",
    "operate",
    ScheduleNameParams,
    ScheduleRecord,
    recorded="always",
    scope=SCHEDULE,
    faces=faces("POST /schedules/{name}/pause", python="pause_schedule", command="schedule pause"),
)
async def _pause(control: Control, params: ScheduleNameParams, _caller: Caller) -> ScheduleRecord:
    """Pauses a schedule until it is resumed; the times meanwhile are skipped."""
    return await control.schedules.pause(params.name)


@method(
    "schedule.resume",
    "operate",
    ScheduleNameParams,
    ScheduleRecord,
    recorded="or-refused",
    scope=SCHEDULE,
    faces=faces("POST /schedules/{name}/resume", python="resume_schedule", command="schedule resume"),
)
async def _resume(control: Control, params: ScheduleNameParams, _caller: Caller) -> ScheduleRecord:
    """Resumes a paused schedule."""
    return await control.schedules.resume(params.name)


@method(
    "schedule.run",
    "operate",
    ScheduleNameParams,
    Task,
    scope=SCHEDULE,
    faces=faces("POST /schedules/{name}/run", python="run_schedule", command="schedule run"),
)
async def _run_schedule(control: Control, params: ScheduleNameParams, _caller: Caller) -> Task:
    """Submits the task of a schedule now, beside its times, and returns its record."""
    return await control.schedules.run_now(params.name)
