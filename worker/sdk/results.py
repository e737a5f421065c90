"""Decodes the daemon's responses for handlers: the result of a tool, and of a delegated task.

It is imported together with the agent, so it must stay cheap: no asyncio, no json.
"""

import os
from typing import Any, NamedTuple, cast

from ..contract.errors import CorralError, InternalError, NotFound, TaskFailed, Timeout, from_wire

Json = Any  # a JSON value of the agent's own: only its author knows the shape


class ToolResult(NamedTuple):
    """Represents the result of a tool of an MCP server."""

    content: list[dict[str, Json]]
    """The content blocks as MCP defines them."""
    structured: Json
    """`structuredContent`, or None when the tool gave none."""
    is_error: bool
    """True if the tool reports that it failed."""

    @property
    def text(self) -> str:
        """Returns the text of all text blocks, joined by newlines."""
        blocks = [block for block in self.content if block.get("type") == "text"]
        return "\n".join(str(block.get("text", "")) for block in blocks)


class Result(NamedTuple):
    """Represents the end of a delegated task."""

    record: dict[str, Json]
    """The task's record, as `corral task show --json` prints it."""

    @property
    def id(self) -> str:
        """Returns the task's id."""
        return str(self.record.get("id", ""))

    @property
    def state(self) -> str:
        """Returns the task's state: succeeded, failed, cancelled or timeout."""
        return str(self.record.get("state", ""))

    @property
    def output(self) -> Json:
        """Returns the output of the other agent's handler."""
        return self.record.get("output")


def object_of(answer: object) -> dict[str, Json]:
    """Returns an answer as an object.

    Raises:
        InternalError: it is not an object.
    """
    if not isinstance(answer, dict):
        raise InternalError("cannot read the daemon's answer: it is not an object", answer=answer)
    return cast("dict[str, Json]", answer)  # it was read from JSON: its keys are strings


def objects_of(answer: object, key: str) -> list[dict[str, Json]]:
    """Returns the list of objects under a key of an answer.

    Raises:
        InternalError: there is no such list.
    """
    items = object_of(answer).get(key)
    if not isinstance(items, list):
        raise InternalError(f'cannot read the daemon\'s answer: it has no "{key}"', answer=answer)
    return [object_of(item) for item in cast("list[object]", items)]


def tool_result(answer: object) -> ToolResult:
    """Decodes the response to `tools/call`."""
    fields = object_of(answer)
    content = objects_of(fields, "content") if "content" in fields else []
    return ToolResult(content, fields.get("structuredContent"), fields.get("isError") is True)


def answer_of(answer: object) -> str:
    """Decodes the response to `task/ask`.

    Raises:
        Timeout: nobody has answered in time, and the question has no default.
    """
    record = object_of(answer)
    found = record.get("answer")
    if isinstance(found, str):
        return found
    text = f"cannot get an answer to question {record.get('id')}: it is {record.get('state')}"
    raise Timeout(text, approval=record.get("id"), state=record.get("state"))


def delegated(answer: object) -> Result:
    """Decodes the response to `task/delegate`.

    Raises:
        CorralError: the error of the other task.
    """
    found = result_or_error(object_of(answer))
    if isinstance(found, CorralError):
        raise found
    return found


def result_or_error(answer: dict[str, Json]) -> Result | CorralError:
    """Returns the Result of a task that succeeded, else its error, or the error with which it was refused."""
    result = Result(answer)
    if result.state == "succeeded":
        return result
    error = answer.get("error")
    if error is None:
        return TaskFailed(f'cannot finish task "{result.id}": {result.state}', task=result.id)
    failure = from_wire(error)
    if result.id:
        failure.data.setdefault("task", result.id)
    return failure


MODEL_VARIABLE = "CORRAL_MODEL_"
"""The beginning of the variables of a model: CORRAL_MODEL_NAME_URL and CORRAL_MODEL_NAME_KEY."""


class ModelAccess(NamedTuple):
    """Represents the access to a model, as clients of its provider take it."""

    base_url: str
    api_key: str


def access_of(name: str, task: str) -> ModelAccess:
    """Returns the access to a model, with a key by which calls count for one task.

    Raises:
        NotFound: the agent has no model of this name.
    """
    word = name.upper().replace("-", "_")
    url, key = (os.environ.get(f"{MODEL_VARIABLE}{word}_{part}", "") for part in ("URL", "KEY"))
    if not url or not key:
        raise NotFound(f'cannot use model "{name}": it is not among models of this agent', model=name)
    return ModelAccess(url, f"{key}.{task}")
