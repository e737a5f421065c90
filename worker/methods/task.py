"""Defines the methods about tasks."""

from ..contract.records import Task, TaskParams
from ..control import params
from ..control.results import TaskNode, TaskPage, TasksDiscarded, TasksRetried
from .faces import faces
from .method import Signature, access, method
from .rules import NEW_TASK, TASK, Rule

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
    Signature("task.tree", params.TaskTreeParams, TaskNode),
    access("read", TASK),
    faces("GET /tasks/{task}/tree", python="task_tree", command="task show"),
    "Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}.",
    example={"task": "task-1f0c5a7e9b3d", "depth": 3},
)

TASK_LIST = method(
    Signature("task.list", params.TaskListParams, TaskPage),
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
    Signature("task.retry", params.TasksParams, TasksRetried),
    access("operate", TASK),
    faces("POST /tasks/{tasks}/retry", "POST /tasks/retry", python="retry_tasks", command="task retry"),
    "Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}.",
    example={"dead": True, "agent": "crawler"},
)

TASK_DISCARD = method(
    Signature("task.discard", params.TasksParams, TasksDiscarded),
    access("operate", TASK),
    faces("POST /tasks/{tasks}/discard", "POST /tasks/discard", python="discard_tasks", command="task discard"),
    "Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}.",
    example={"dead": True, "agent": "crawler"},
)
