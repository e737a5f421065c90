"""Defines the methods about costs and logs of tasks."""

from ..control.reports import CostParams, Costs, TaskLog, TaskLogParams
from .faces import faces
from .method import Signature, access, method
from .rules import TASK, Rule

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
