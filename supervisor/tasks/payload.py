"""What the output of a task has to look like: checked when the task is accepted, and held to when it is answered.

A schema comes from whoever delegates, and is hostile input: nothing is fetched for it, and what a check may
cost is bounded (`mcp.validation` says how). Unlike a tool's, it is never passed over: it is refused, or holds.
"""

import math
from functools import lru_cache

import msgspec

from ...mcp.pool.validation import Schema
from ...worker.contract import codec
from ...worker.contract.errors import InvalidParams, ResourceLimitExceeded, TaskFailed
from ...worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from ...worker.contract.records import Boundaries, Error, OutputFormat, Task

NO_BOUNDARIES = Boundaries()

RECORD_MARGIN_BYTES = 64 * 1024
"""What a record may take beside the caller's words and the output."""

CHILD_BYTES = 16
"""Of the id of one task that a record names as a child."""

ERROR_BYTES = 1024 * 1024
"""What the error of a record may take, at most."""

ERROR_LEAST_BYTES = RECORD_MARGIN_BYTES // 2
"""What there is room for in any case, however long the caller's words are."""

OMITTED_NAMES = 5
"""How many facts that found no room an error names."""

OMITTED_CHARS = 50
"""Of such a name."""

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


def check_result(
    task: Task, output: object, words: int, limit_bytes: int = MAX_MESSAGE_BYTES
) -> None:
    """Returns when an output is what its task asks for, and not too long beside so many bytes of the caller's words.

    Raises:
        ResourceLimitExceeded: it is too long, too long to be held against its schema, or nested too deep.
        TaskFailed: it is not what the schema says.
    """
    size = _length(output)
    # The record holds the caller's words too, and must fit into a message with them.
    taken = words + CHILD_BYTES * len(task.children)
    limit = min(limit_bytes, MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - taken)
    if size > limit:
        raise ResourceLimitExceeded(
            f'cannot take the result of task "{task.id}": {size} bytes are more than {limit}',
            limit="max_output_size_bytes",
            value=size,
        )
    check_output(task, output)


def error_room(words: int) -> int:
    """What the error of a record may take beside so many bytes of the caller's words."""
    left = MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - words
    return max(ERROR_LEAST_BYTES, min(ERROR_BYTES, left))


def bounded(error: Error, limit_bytes: int) -> Error:
    """An error that takes no more than that: its facts as far as there is room, the short ones first.

    `data["omitted"]` names those that are left out; a message is cut.
    """
    message = error.message[: limit_bytes // 16]  # a character takes six bytes at most
    room = limit_bytes / 2
    facts: dict[str, object] = {}
    sizes = {key: _size({key: value}) for key, value in error.data.items()}
    if message == error.message and sum(sizes.values()) <= room:
        return error
    for key in sorted(sizes, key=sizes.__getitem__):
        if sizes[key] <= room:
            room -= sizes[key]
            facts[key] = error.data[key]
    omitted = [key[:OMITTED_CHARS] for key in error.data if key not in facts]
    if omitted:
        facts["omitted"] = omitted[:OMITTED_NAMES]
    return Error(error.code, error.name, message, facts)


def _size(value: object) -> float:
    """How long a value is, as JSON; what no record could hold is longer than anything."""
    try:
        return len(codec.encode_with_margin(value))
    except ValueError:
        return math.inf


def words_bytes(task: Task) -> int:
    """How long the caller's part of a record is: objective, input and context, and what the output is to be.

    Raises:
        ResourceLimitExceeded: it is nested too deep.
    """
    size = _length([task.objective, task.input, task.context])
    if task.boundaries != NO_BOUNDARIES or task.output_format is not None:
        size += len(msgspec.json.encode([task.boundaries, task.output_format]))
    return size


def _length(value: object) -> int:
    """How long a value is as JSON. What could be read may be too deep to be written, by a caller deeper in the stack."""
    try:
        return len(codec.encode_with_margin(value))
    except ValueError as error:
        raise ResourceLimitExceeded(
            "cannot keep a task's input, context or output: it is nested too deep", limit="depth"
        ) from error
