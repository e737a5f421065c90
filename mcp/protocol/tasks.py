"""Defines the tasks of MCP in their two shapes, without I/O or a clock: values in, values out.

Revision 2025-11-25 has them as an experimental utility: the client asks for a task, and gets its result by `tasks/result`.
With revision 2026-07-28 they are an extension: the server decides, and a task has its result in itself.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from corral.worker.contract.codec import as_object
from corral.worker.contract.mcp_info import META, TASKS_EXTENSION

CANCEL_TASK = "tasks/cancel"
GET_TASK = "tasks/get"
LIST_TASKS = "tasks/list"
TASK_RESULT = "tasks/result"
UPDATE_TASK = "tasks/update"

STATUS_CHANGED = "notifications/tasks/status"
"""The notification of 2025-11-25, without the result."""

TASK_CHANGED = "notifications/tasks"
"""The notification of 2026-07-28, with all that `tasks/get` returns."""

RELATED_TASK = META + "related-task"
"""Key of `_meta` that names the task of a message, in 2025-11-25."""

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]

FINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""Statuses that never change again."""


class McpTask(msgspec.Struct, frozen=True, kw_only=True):
    """Represents a task.

    `result` is that of its call, once that has one; `is_error` says whether it is one of an error. `error` is the error object of a
    call that has no result. `inputs` are the requests that the client has to answer before the task goes on.
    """

    id: str
    status: TaskStatus
    message: str = ""
    created_at: str
    updated_at: str
    ttl_ms: int | None
    poll_ms: int
    result: dict[str, object] | None = None
    is_error: bool = False
    error: dict[str, object] | None = None
    inputs: Mapping[str, object] = {}


def legacy_task(task: McpTask) -> dict[str, object]:
    """Returns a task as 2025-11-25 has it: a call with an error has failed."""
    has_failed = task.status == "completed" and task.is_error
    return _head(task, "failed" if has_failed else task.status, ("ttl", "pollInterval"))


def modern_task(task: McpTask, *, is_new: bool = False) -> dict[str, object]:
    """Returns a task as the extension has it; a new one without anything that belongs to a status."""
    shown = _head(task, "working" if is_new else task.status, ("ttlMs", "pollIntervalMs"))
    if is_new:
        return shown
    if task.status == "completed" and task.result is not None:
        shown["result"] = task.result
    elif task.status == "failed" and task.error is not None:
        shown["error"] = task.error
    elif task.status == "input_required":
        shown["inputRequests"] = dict(task.inputs)
    return shown


def _head(task: McpTask, status: str, times: tuple[str, str]) -> dict[str, object]:
    """Returns the fields that both shapes have; `times` are the keys of the life and of the interval."""
    shown: dict[str, object] = {
        "taskId": task.id,
        "status": status,
        "createdAt": task.created_at,
        "lastUpdatedAt": task.updated_at,
        times[0]: task.ttl_ms,
        times[1]: task.poll_ms,
    }
    if task.message:
        shown["statusMessage"] = task.message
    return shown


def speaks_tasks(capabilities: Mapping[str, object]) -> bool:
    """Returns True if a modern client or server declares the extension."""
    extensions = as_object(capabilities.get("extensions")) or {}
    return as_object(extensions.get(TASKS_EXTENSION)) is not None


def without_tasks(capabilities: Mapping[str, object]) -> Mapping[str, object]:
    """Returns the capabilities of a client as servers are told them: a task of a server stays between it and corral."""
    if not speaks_tasks(capabilities):
        return capabilities
    extensions = as_object(capabilities.get("extensions")) or {}
    return {**capabilities, "extensions": {key: value for key, value in extensions.items() if key != TASKS_EXTENSION}}
