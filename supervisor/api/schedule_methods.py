"""The methods `schedule.*` of the table: tasks that are made again and again."""

import msgspec

from ...worker.contract.shapes import NoParams, ScheduleNameParams, ScheduleParams, ScheduleRecord
from .table import Caller, Control, method


def _told(record: ScheduleRecord) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(record)
    return told


@method("schedule.add", "operate", ScheduleParams, recorded="or-refused", tells=("name",))
async def _add(control: Control, params: ScheduleParams, _caller: Caller) -> object:
    """Makes a task again and again, from its next time on; stays over a restart of the daemon."""
    return _told(await control.timetable.add(params))


@method("schedule.rm", "operate", ScheduleNameParams, recorded="always")
async def _remove(control: Control, params: ScheduleNameParams, _caller: Caller) -> object:
    """Removes a schedule; the tasks that it made stay."""
    await control.timetable.remove(params.name)
    return {"removed": [params.name]}


@method("schedule.list", "read", NoParams)
async def _list(control: Control, _params: NoParams, _caller: Caller) -> object:
    """All schedules, by name."""
    return {"schedules": [_told(record) for record in control.timetable.list()]}


@method("schedule.show", "read", ScheduleNameParams)
async def _show(control: Control, params: ScheduleNameParams, _caller: Caller) -> object:
    """A schedule, and the next times that it runs."""
    record = control.timetable.show(params.name)
    return {**_told(record), "upcoming": control.timetable.upcoming(params.name)}


@method("schedule.pause", "operate", ScheduleNameParams, recorded="always")
async def _pause(control: Control, params: ScheduleNameParams, _caller: Caller) -> object:
    """Has a schedule make no tasks until it is resumed; what is due meanwhile is not made up for."""
    return _told(await control.timetable.pause(params.name))


@method("schedule.resume", "operate", ScheduleNameParams, recorded="or-refused")
async def _resume(control: Control, params: ScheduleNameParams, _caller: Caller) -> object:
    """Has a paused schedule make tasks again."""
    return _told(await control.timetable.resume(params.name))


@method("schedule.run", "operate", ScheduleNameParams)
async def _run(control: Control, params: ScheduleNameParams, _caller: Caller) -> object:
    """Makes the task of a schedule now, beside its times, and answers with its record."""
    return msgspec.to_builtins(await control.timetable.run_now(params.name))
