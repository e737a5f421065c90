"""Defines the methods about schedules."""

from ..contract.records import ScheduleRecord, Task
from ..control.params import NoParams, ScheduleCommandParams, ScheduleNameParams, ScheduleParams
from ..control.results import Removed, Schedules, ScheduleShown
from .faces import faces
from .method import Signature, access, method
from .rules import SCHEDULE, Rule

SCHEDULE_ADD = method(
    Signature("schedule.add", ScheduleParams, ScheduleRecord),
    access("operate", Rule("new schedule"), recorded="or-refused", recorded_keys=("name",)),
    faces("POST /schedules", python="add_schedule", command="schedule add"),
    "Adds a schedule, which submits a task at each of its times; it survives a restart of the daemon.",
    example={
        "name": "nightly",
        "cron": "0 3 * * *",
        "task": {"objective": "Summarise the page", "input": {"url": "https://example.org"}, "agent": "crawler"},
    },
)

SCHEDULE_ADD_COMMAND = method(
    Signature("schedule.add_command", ScheduleCommandParams, ScheduleRecord),
    access("admin", recorded="or-refused", recorded_keys=("name",)),
    faces("POST /schedules/commands", python="add_command_schedule", command="schedule add"),
    "Adds a schedule of a command, and a job of its name that runs the command.",
    example={"name": "cleanup", "command": ["/bin/true"], "every_s": 3600.0},
)

SCHEDULE_RM = method(
    Signature("schedule.rm", ScheduleNameParams, Removed),
    access("operate", SCHEDULE, recorded="always"),
    faces("DELETE /schedules/{name}", python="remove_schedule", command="schedule rm"),
    "Removes a schedule, and the job that was added with its command; the tasks that it submitted stay.",
    example={"name": "nightly"},
)

SCHEDULE_LIST = method(
    Signature("schedule.list", NoParams, Schedules),
    access("read", Rule(lists=(("schedules", "task.agent"),)), tenant=Rule(lists=(("schedules", "name"),))),
    faces("GET /schedules", python="list_schedules", command="schedules"),
    "Lists all schedules, by name.",
)

SCHEDULE_SHOW = method(
    Signature("schedule.show", ScheduleNameParams, ScheduleShown),
    access("read", SCHEDULE),
    faces("GET /schedules/{name}", python="show_schedule", command="schedule show"),
    "Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first.",
    example={"name": "nightly"},
)

SCHEDULE_PAUSE = method(
    Signature("schedule.pause", ScheduleNameParams, ScheduleRecord),
    access("operate", SCHEDULE, recorded="always"),
    faces("POST /schedules/{name}/pause", python="pause_schedule", command="schedule pause"),
    "Pauses a schedule until it is resumed; the times meanwhile are skipped.",
    example={"name": "nightly"},
)

SCHEDULE_RESUME = method(
    Signature("schedule.resume", ScheduleNameParams, ScheduleRecord),
    access("operate", SCHEDULE, recorded="or-refused"),
    faces("POST /schedules/{name}/resume", python="resume_schedule", command="schedule resume"),
    "Resumes a paused schedule.",
    example={"name": "nightly"},
)

SCHEDULE_RUN = method(
    Signature("schedule.run", ScheduleNameParams, Task),
    access("operate", SCHEDULE),
    faces("POST /schedules/{name}/run", python="run_schedule", command="schedule run"),
    "Submits the task of a schedule now, in addition to its times, and returns its record.",
    example={"name": "nightly"},
)
