"""Defines the methods about schedules."""

from ..contract.records import ScheduleRecord, Task
from ..control.params import NoParams, ScheduleCommandParams, ScheduleNameParams, ScheduleParams
from ..control.results import Removed, Schedules, ScheduleShown
from .faces import faces
from .method import method
from .rules import SCHEDULE, Rule

SCHEDULE_ADD = method(
    "schedule.add",
    "operate",
    ScheduleParams,
    ScheduleRecord,
    recorded="or-refused",
    recorded_keys=("name",),
    scope=Rule("new schedule"),
    faces=faces("POST /schedules", python="add_schedule", command="schedule add"),
    doc="Adds a schedule, which submits a task at each of its times; it survives a restart of the daemon.",
    example={
        "name": "nightly",
        "cron": "0 3 * * *",
        "task": {"objective": "Summarise the page", "input": {"url": "https://example.org"}, "agent": "crawler"},
    },
)

SCHEDULE_ADD_COMMAND = method(
    "schedule.add_command",
    "admin",
    ScheduleCommandParams,
    ScheduleRecord,
    recorded="or-refused",
    recorded_keys=("name",),
    faces=faces("POST /schedules/commands", python="add_command_schedule", command="schedule add"),
    doc="Adds a schedule of a command, and a job of its name that runs the command.",
    example={"name": "cleanup", "command": ["/bin/true"], "every_s": 3600.0},
)

SCHEDULE_RM = method(
    "schedule.rm",
    "operate",
    ScheduleNameParams,
    Removed,
    recorded="always",
    scope=SCHEDULE,
    faces=faces("DELETE /schedules/{name}", python="remove_schedule", command="schedule rm"),
    doc="Removes a schedule, and the job that was added with its command; the tasks that it submitted stay.",
    example={"name": "nightly"},
)

SCHEDULE_LIST = method(
    "schedule.list",
    "read",
    NoParams,
    Schedules,
    scope=Rule(lists=(("schedules", "task.agent"),)),
    tenant=Rule(lists=(("schedules", "name"),)),
    faces=faces("GET /schedules", python="list_schedules", command="schedules"),
    doc="Lists all schedules, by name.",
)

SCHEDULE_SHOW = method(
    "schedule.show",
    "read",
    ScheduleNameParams,
    ScheduleShown,
    scope=SCHEDULE,
    faces=faces("GET /schedules/{name}", python="show_schedule", command="schedule show"),
    doc="Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first.",
    example={"name": "nightly"},
)

SCHEDULE_PAUSE = method(
    "schedule.pause",
    "operate",
    ScheduleNameParams,
    ScheduleRecord,
    recorded="always",
    scope=SCHEDULE,
    faces=faces("POST /schedules/{name}/pause", python="pause_schedule", command="schedule pause"),
    doc="Pauses a schedule until it is resumed; the times meanwhile are skipped.",
    example={"name": "nightly"},
)

SCHEDULE_RESUME = method(
    "schedule.resume",
    "operate",
    ScheduleNameParams,
    ScheduleRecord,
    recorded="or-refused",
    scope=SCHEDULE,
    faces=faces("POST /schedules/{name}/resume", python="resume_schedule", command="schedule resume"),
    doc="Resumes a paused schedule.",
    example={"name": "nightly"},
)

SCHEDULE_RUN = method(
    "schedule.run",
    "operate",
    ScheduleNameParams,
    Task,
    scope=SCHEDULE,
    faces=faces("POST /schedules/{name}/run", python="run_schedule", command="schedule run"),
    doc="Submits the task of a schedule now, beside its times, and returns its record.",
    example={"name": "nightly"},
)
