"""Defines the methods about tasks, their reports, requests for approval, and schedules."""

from ..contract.approvals import Approval
from ..contract.records import ScheduleRecord, Task, TaskParams
from ..control import params, results
from ..control.reports import (
    ApprovalAnswerParams,
    ApprovalListParams,
    ApprovalParams,
    Approvals,
    CostParams,
    Costs,
    InboxItems,
    InboxListParams,
    InboxSeen,
    InboxSeenParams,
    TaskLog,
    TaskLogParams,
)
from .faces import faces
from .method import Signature, access, method
from .rules import APPROVAL, NEW_TASK, OPEN, SCHEDULE, TASK, Rule

TASK_RUN = method(
    Signature("task.run", params.TaskRunParams, Task),
    access("operate", NEW_TASK),
    faces(
        "POST /agents/{agent}/run",
        "POST /teams/{agent}/run",
        "POST /workflows/{agent}/run",
        "POST /run",
        python="execute_task",
        command="run",
        streams=True,
        parts=True,
    ),
    "Runs a task and answers when it has ended; a caller that hangs up leaves it running.",
    example={
        "objective": "Summarise the page",
        "input": {"url": "https://example.org"},
        "agent": "crawler",
        "timeout_s": 60.0,
    },
)

TASK_SUBMIT = method(
    Signature("task.submit", TaskParams, Task),
    access("operate", NEW_TASK),
    faces("POST /tasks", python="submit_task", command="run"),
    "Queues a task and answers with its record at once; it is durable by then.",
    example={
        "objective": "Summarise the page",
        "input": {"url": "https://example.org"},
        "agent": "crawler",
        "idempotency_key": "page-17",
    },
)

TASK_WAIT = method(
    Signature("task.wait", params.TaskWaitParams, Task),
    access("read", TASK),
    faces("GET /tasks/{task}/wait", python="wait_task", command="task wait", streams=True, parts=True),
    "Answers with the record of a task when it has ended.",
    example={"task": "task-1f0c5a7e9b3d", "timeout_s": 60.0},
)

TASK_FOLLOW = method(
    Signature("task.follow", params.TaskFollowParams, Task),
    access("read", TASK),
    faces("GET /tasks/{task}/follow", python="follow_task", command="task follow", streams=True),
    "Returns as `task.wait`; meanwhile sends the events of the task and those below it as `task.event` notifications {event}.",
    example={"task": "task-1f0c5a7e9b3d"},
)

TASK_SHOW = method(
    Signature("task.show", params.TaskShowParams, Task),
    access("read", TASK),
    faces("GET /tasks/{task}", python="show_task", command="task show"),
    "Returns the record of a task, on request with its tool calls.",
    example={"task": "task-1f0c5a7e9b3d", "calls": True},
)

TASK_TREE = method(
    Signature("task.tree", params.TaskTreeParams, results.TaskNode),
    access("read", TASK),
    faces("GET /tasks/{task}/tree", python="task_tree", command="task show"),
    "Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}.",
    example={"task": "task-1f0c5a7e9b3d", "depth": 3},
)

TASK_LIST = method(
    Signature("task.list", params.TaskListParams, results.TaskPage),
    access("read", Rule("agent", lists=(("tasks", "agent"),))),
    faces("GET /tasks", python="list_tasks", command="tasks"),
    "Lists records of tasks, newest first; `more`, where it is not null, is the `before` for the rest; `skipped` cannot be read.",
    example={"agent": "crawler", "state": "failed", "limit": 20},
)

TASK_CANCEL = method(
    Signature("task.cancel", params.TaskIdParams, Task),
    access("operate", TASK),
    faces("DELETE /tasks/{task}", "POST /tasks/{task}/cancel", python="cancel_task", command="task cancel"),
    "Cancels a task and those that it delegated.",
    example={"task": "task-1f0c5a7e9b3d"},
)

TASK_RETRY = method(
    Signature("task.retry", params.TasksRetryParams, results.TasksRetried),
    access("operate", TASK),
    faces("POST /tasks/{tasks}/retry", "POST /tasks/retry", python="retry_tasks", command="task retry"),
    "Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}.",
    example={"dead": True, "agent": "crawler"},
)

TASK_DISCARD = method(
    Signature("task.discard", params.TasksParams, results.TasksDiscarded),
    access("operate", TASK),
    faces("POST /tasks/{tasks}/discard", "POST /tasks/discard", python="discard_tasks", command="task discard"),
    "Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}.",
    example={"dead": True, "agent": "crawler"},
)


COST_LIST = method(
    Signature("cost.list", CostParams, Costs),
    access("read", Rule("agent"), tenant=Rule("agent", lists_all=True)),
    faces("GET /costs", python="list_costs", command="cost"),
    "Returns what ended tasks have used, summed by agent, session, tenant, day or hour; also of agents that were removed.",
    example={"by": "day", "agent": "crawler"},
)

TASK_LOG = method(
    Signature("task.log", TaskLogParams, TaskLog),
    access("read", TASK),
    faces("GET /tasks/{task}/log", python="task_log", command="task log", streams=True),
    """Returns what a task has done in order of time: attempts, progress, log lines, tool calls, delegated tasks.

    With `follow` they are sent as `task.log` notifications {entries}, until it has ended.
    """,
    example={"task": "task-1f0c5a7e9b3d", "lines": 100},
)


APPROVAL_LIST = method(
    Signature("approval.list", ApprovalListParams, Approvals),
    access("read", Rule("agent", lists=(("approvals", "agent"),))),
    faces("GET /approvals", python="list_approvals", command="approvals list"),
    "Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first.",
    example={"agent": "crawler"},
)

APPROVAL_SHOW = method(
    Signature("approval.show", ApprovalParams, Approval),
    access("read", APPROVAL),
    faces("GET /approvals/{approval}", python="show_approval", command="approvals show"),
    "Returns a question of a task, with its answer where it has one.",
    example={"approval": 7},
)

APPROVAL_ANSWER = method(
    Signature("approval.answer", ApprovalAnswerParams, Approval),
    access("operate", APPROVAL, recorded="always", recorded_keys=("agent", "task", "question", "answer")),
    faces("POST /approvals/{approval}/answer", python="answer_approval", command="approvals allow"),
    "Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form.",
    example={"approval": 7, "answer": "allow"},
)

INBOX_LIST = method(
    Signature("inbox.list", InboxListParams, InboxItems),
    access("read", Rule("agent", lists=(("items", "agent"),))),
    faces("GET /inbox", python="list_inbox", command="inbox"),
    "Lists what waits for a person, the newest need first: open questions, workers that gave up, tasks that nobody waited for.",
    example={"agent": "crawler"},
)

INBOX_SEEN = method(
    Signature("inbox.seen", InboxSeenParams, InboxSeen),
    access("operate", OPEN, recorded="or-refused", recorded_keys=("items", "all")),
    faces("POST /inbox/seen", python="mark_inbox_seen", command="inbox seen"),
    "Marks items of the inbox as seen; questions stay in it until they are answered.",
    example={"items": ["task-1f0c5a7e9b3d"]},
)


SCHEDULE_ADD = method(
    Signature("schedule.add", params.ScheduleParams, ScheduleRecord),
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
    Signature("schedule.add_command", params.ScheduleCommandParams, ScheduleRecord),
    access("admin", recorded="or-refused", recorded_keys=("name",)),
    faces("POST /schedules/commands", python="add_command_schedule", command="schedule add"),
    "Adds a schedule of a command, and a job of its name that runs the command.",
    example={"name": "cleanup", "command": ["/bin/true"], "every_s": 3600.0},
)

SCHEDULE_RM = method(
    Signature("schedule.rm", params.ScheduleNameParams, results.Removed),
    access("operate", SCHEDULE, recorded="always"),
    faces("DELETE /schedules/{name}", python="remove_schedule", command="schedule rm"),
    "Removes a schedule, and the job that was added with its command; the tasks that it submitted stay.",
    example={"name": "nightly"},
)

SCHEDULE_LIST = method(
    Signature("schedule.list", params.NoParams, results.Schedules),
    access("read", Rule(lists=(("schedules", "task.agent"),)), tenant=Rule(lists=(("schedules", "name"),))),
    faces("GET /schedules", python="list_schedules", command="schedules"),
    "Lists all schedules, by name.",
)

SCHEDULE_SHOW = method(
    Signature("schedule.show", params.ScheduleNameParams, results.ScheduleShown),
    access("read", SCHEDULE),
    faces("GET /schedules/{name}", python="show_schedule", command="schedule show"),
    "Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first.",
    example={"name": "nightly"},
)

SCHEDULE_PAUSE = method(
    Signature("schedule.pause", params.ScheduleNameParams, ScheduleRecord),
    access("operate", SCHEDULE, recorded="always"),
    faces("POST /schedules/{name}/pause", python="pause_schedule", command="schedule pause"),
    "Pauses a schedule until it is resumed; the times meanwhile are skipped.",
    example={"name": "nightly"},
)

SCHEDULE_RESUME = method(
    Signature("schedule.resume", params.ScheduleNameParams, ScheduleRecord),
    access("operate", SCHEDULE, recorded="or-refused"),
    faces("POST /schedules/{name}/resume", python="resume_schedule", command="schedule resume"),
    "Resumes a paused schedule.",
    example={"name": "nightly"},
)

SCHEDULE_RUN = method(
    Signature("schedule.run", params.ScheduleNameParams, Task),
    access("operate", SCHEDULE),
    faces("POST /schedules/{name}/run", python="run_schedule", command="schedule run"),
    "Submits the task of a schedule now, in addition to its times, and returns its record.",
    example={"name": "nightly"},
)
