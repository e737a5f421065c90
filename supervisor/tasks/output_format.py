"""What the output of a task has to look like: checked when the task is accepted, and held to when it is answered.

A schema comes from whoever delegates, and is hostile input: nothing is fetched for it, and what a check may
cost is bounded (`mcp.validation` says how). Unlike a tool's, it is never passed over: it is refused, or holds.
"""

from functools import lru_cache

import msgspec

from ...mcp.pool.validation import Schema
from ...worker.contract import codec
from ...worker.contract.errors import InvalidParams, ResourceLimitExceeded, TaskFailed
from ...worker.contract.records import OutputFormat, Task

MAX_SCHEMA_BYTES = 64 * 1024
"""Of JSON. One of this size takes 50 ms to compile at most."""

KEPT = 256
"""Schemas that are remembered as they were compiled: the tasks of one caller ask for the same."""


def check_format(asked: OutputFormat | None) -> None:
    """Returns when outputs can be held against the schema, or there is none.

    Raises:
        InvalidParams: it is too long, no JSON Schema, or one that cannot be applied; `data` has `key` and `reason`.
    """
    if asked is None or asked.schema is None:
        return
    text = codec.encode(asked.schema)
    key = "output_format.schema"
    if len(text) > MAX_SCHEMA_BYTES:
        reason = f"{len(text)} bytes are more than {MAX_SCHEMA_BYTES}"
        raise InvalidParams(f'cannot take the task: "{key}": {reason}', key=key, reason=reason)
    try:
        _compiled(text)
    except InvalidParams as error:
        reason = str(error.data["reason"])
        raise InvalidParams(
            f'cannot take the task: "{key}": {reason}', key=key, reason=reason
        ) from error


def check_output(task: Task, output: object) -> None:
    """Returns when an output is what its task asks for.

    Raises:
        TaskFailed: it is not: `data` has `path`, `rule` and `reason` of the first fault, `errors` has some more.
        ResourceLimitExceeded: it cannot be told in a reasonable time; `data` has `limit` and `value`.
    """
    asked = task.output_format
    if asked is None or asked.schema is None:
        return
    if task.kind == "team":
        return  # each member was asked for it, and a broadcast's output is a list of theirs
    try:
        faults = _compiled(codec.encode(asked.schema)).faults(output)
    except ResourceLimitExceeded as error:
        raise ResourceLimitExceeded(
            f'cannot take the result of task "{task.id}": it is too long to be held against its output_format',
            **error.data,
            worker=task.worker,
        ) from error
    if faults:
        first = faults[0]
        raise TaskFailed(
            f'cannot take the result of task "{task.id}": its output_format asks for something else:'
            f" {first['reason']}",
            limit="output_format",
            **first,
            errors=faults,
            worker=task.worker,
        )


@lru_cache(KEPT)
def _compiled(text: bytes) -> Schema:
    return Schema(msgspec.json.decode(text, type=dict[str, object] | bool))
