"""Bounds the input, output and error of a task's record, and validates the output against its schema.

Guarantees that a record fits into one message. A schema comes from a caller, and is hostile input: nothing is fetched
for it, and the cost of a check is bounded (see `mcp.pool.validation`). Unlike a tool's, it is never ignored: it is
refused when the task is submitted, or it holds.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from corral.mcp.pool.validation import Schema
from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded, TaskFailed
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.contract.records import Boundaries, Error, OutputFormat, Task

NO_BOUNDARIES = Boundaries()

RECORD_MARGIN_BYTES = 64 * 1024
"""Bytes of a record beside input and output."""

CHILD_BYTES = 16
"""Bytes of the id of one child in a record."""

ERROR_BYTES = 1024 * 1024
"""Bytes of the error of a record, at most."""

ERROR_LEAST_BYTES = RECORD_MARGIN_BYTES // 2
"""Bytes of the error of a record that have room beside any input."""

OMITTED_NAMES = 5
"""Number of omitted facts that an error names."""

OMITTED_CHARS = 50
"""Characters of such a name."""

MAX_SCHEMA_BYTES = 64 * 1024
"""Bytes of JSON of a schema; one of this size takes 50 ms to compile at most."""

KEPT = 256
"""Number of compiled schemas that are cached: the tasks of one caller have the same."""


def check_format(asked: OutputFormat | None) -> None:
    """Returns if outputs can be validated against the schema, or there is none."""
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
        raise InvalidParams(f'cannot take the task: "{key}": {reason}', key=key, reason=reason) from error


def check_output(task: Task, output: object) -> None:
    """Returns if an output matches the schema of its task."""
    asked = task.output_format
    if asked is None or asked.schema is None:
        return
    if task.kind == "team":
        return  # each member was asked for it, and a broadcast's output is a list of theirs
    try:
        faults = _compiled(codec.encode(asked.schema)).faults(output)
    except ResourceLimitExceeded as error:
        words = f'cannot take the result of task "{task.id}": it is too long to be held against its output_format'
        raise ResourceLimitExceeded(words, **error.data, worker=task.worker) from error
    if faults:
        first = faults[0]
        raise TaskFailed(
            f'cannot take the result of task "{task.id}": its output_format asks for something else: {first["reason"]}',
            limit="output_format",
            **first,
            errors=faults,
            worker=task.worker,
        )


def check_input(name: str, schema: Mapping[str, object], value: object) -> None:
    """Returns if the input of a task matches the `input_schema` of its agent."""
    if faults := _compiled(codec.encode(schema)).faults(value):
        first = faults[0]
        raise InvalidParams(
            f'cannot run the task on "{name}": the input breaks its input_schema: {first["reason"]}',
            key=f"input.{first['path']}" if first["path"] else "input",
            **first,
            errors=faults,
            agent=name,
        )


def check_agent_output(task: Task, schema: Mapping[str, object] | None, output: object) -> None:
    """Returns if an output matches the `output_schema` of its agent, or there is none."""
    if schema is not None and (faults := _compiled(codec.encode(schema)).faults(output)):
        first = faults[0]
        raise TaskFailed(
            f'cannot take the result of task "{task.id}": it breaks the output_schema of "{task.agent}":'
            f" {first['reason']}",
            limit="output_schema",
            **first,
            errors=faults,
            worker=task.worker,
        )


@lru_cache(KEPT)
def _compiled(text: bytes) -> Schema:
    return Schema(msgspec.json.decode(text, type=dict[str, object] | bool))


def check_result(task: Task, output: object, words: int, limit_bytes: int = MAX_MESSAGE_BYTES) -> None:
    """Returns if an output matches the schema of its task, and is not too long beside `words` bytes of input."""
    size = _length(output)
    # The record holds the input too, and must fit into a message with it.
    taken = words + CHILD_BYTES * len(task.children)
    limit = min(limit_bytes, MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - taken)
    if size > limit:
        text = f'cannot take the result of task "{task.id}": {size} bytes are more than {limit}'
        raise ResourceLimitExceeded(text, limit="max_output_size_bytes", value=size)
    check_output(task, output)


def error_room(words: int) -> int:
    """Returns the bytes of the error of a record beside `words` bytes of input."""
    return max(ERROR_LEAST_BYTES, min(ERROR_BYTES, MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - words))


def bounded(error: Error, limit_bytes: int) -> Error:
    """Returns an error of at most `limit_bytes`: short facts first, `data["omitted"]` names those left out; a message is cut."""
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
    try:
        return len(codec.encode_with_margin(value))
    except ValueError:
        return math.inf


def words_bytes(task: Task) -> int:
    """Returns the bytes of the caller's part of a record: objective, input and context, boundaries and output format."""
    size = _length([task.objective, task.input, task.context])
    if task.boundaries != NO_BOUNDARIES or task.output_format is not None:
        size += len(msgspec.json.encode([task.boundaries, task.output_format]))
    return size


def _length(value: object) -> int:
    """Returns the bytes of a value as JSON, which may be nested too deep to be encoded although it was decoded."""
    try:
        return len(codec.encode_with_margin(value))
    except ValueError as error:
        words = "cannot keep a task's input, context or output: it is nested too deep"
        raise ResourceLimitExceeded(words, limit="depth") from error
