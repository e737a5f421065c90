"""What the daemon answers a handler, as values: the result of a tool, and of a task that was delegated.

This module is imported together with the agent, so it must stay cheap: no asyncio, no json.
"""

from typing import Any, NamedTuple, cast

from ..contract.errors import CorralError, InternalError, TaskFailed, from_wire

Json = Any  # a JSON value of the agent's own: only its author knows the shape


class ToolResult(NamedTuple):
    """The answer of a tool of an MCP server."""

    content: list[dict[str, Json]]
    """The content blocks as MCP defines them."""
    structured: Json
    """`structuredContent`, or None when the tool gave none."""
    is_error: bool
    """Whether the tool itself says that it failed."""

    @property
    def text(self) -> str:
        """The text of all text blocks, joined by newlines."""
        blocks = [block for block in self.content if block.get("type") == "text"]
        return "\n".join(str(block.get("text", "")) for block in blocks)


class Result(NamedTuple):
    """How a delegated task ended."""

    record: dict[str, Json]
    """The task's record, as `corral task show --json` prints it."""

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.record.get("id", ""))

    @property
    def state(self) -> str:
        """succeeded, failed, cancelled or timeout."""
        return str(self.record.get("state", ""))

    @property
    def output(self) -> Json:
        """What the other agent's handler returned."""
        return self.record.get("output")


def object_of(answer: object) -> dict[str, Json]:
    """The answer as the object that it has to be.

    Raises:
        InternalError: it is none.
    """
    if not isinstance(answer, dict):
        raise InternalError("cannot read the daemon's answer: it is no object", answer=answer)
    return cast("dict[str, Json]", answer)  # it was read from JSON: its keys are strings


def objects_of(answer: object, key: str) -> list[dict[str, Json]]:
    """The list of objects under a key of an answer.

    Raises:
        InternalError: there is none.
    """
    items = object_of(answer).get(key)
    if not isinstance(items, list):
        raise InternalError(f'cannot read the daemon\'s answer: it has no "{key}"', answer=answer)
    return [object_of(item) for item in cast("list[object]", items)]


def tool_result(answer: object) -> ToolResult:
    """The answer of `tools/call`."""
    fields = object_of(answer)
    content = objects_of(fields, "content") if "content" in fields else []
    return ToolResult(content, fields.get("structuredContent"), fields.get("isError") is True)


def delegated(answer: object) -> Result:
    """The answer of `task/delegate`.

    Raises:
        CorralError: what the other task failed with.
    """
    found = result_or_error(object_of(answer))
    if isinstance(found, CorralError):
        raise found
    return found


def result_or_error(answer: dict[str, Json]) -> Result | CorralError:
    """A record as its Result when the task succeeded, else as its error; or the error of what was not accepted."""
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
