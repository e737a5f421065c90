"""Holds what all adapters share: the prompt of a task, its tools, its earlier messages, and outputs as JSON.

Adapters keep a conversation in the history of the session, one entry for each message of the framework: role and text for
people, and the framework's own form under the framework's name. So the limits of sessions hold, and a turn costs its own size.
"""

import copy
import dataclasses
import enum
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from ..contract.errors import ToolFailed
from ..sdk.results import Json
from ..sdk.task import Task

PIECE_CHARS = 8192
"""Characters of one streamed part: at most 48 KiB of JSON, below the limit of a part."""


class PoolTool(NamedTuple):
    """Represents a tool of the pool that a task may call."""

    name: str
    description: str
    schema: dict[str, Json]
    """The JSON Schema of the arguments, an object."""
    call: Callable[[Mapping[str, Json]], Awaitable[str]]
    """Returns the tool's answer as text; a failure of the tool is an answer too, which a model may react to."""


ToolsOf = Callable[[Task], Awaitable[list[PoolTool]]]
"""Returns the tools that an object is given for a task."""


class Entry(NamedTuple):
    """Represents a message of a conversation."""

    role: str
    text: str
    native: Json
    """The message in the framework's own form, as JSON."""


class _Dumping(Protocol):
    """Defines what a pydantic model can do."""

    def model_dump(self, *, mode: str) -> Json:
        """Returns its fields."""
        ...


def prompt_of(task: Task) -> str:
    """Returns the objective and the input of a task as one text."""
    if task.input is None:
        return task.objective
    given = task.input if isinstance(task.input, str) else json.dumps(task.input, ensure_ascii=False)
    return f"{task.objective}\n\n{given}" if task.objective else given


async def pool_tools(task: Task) -> list[PoolTool]:
    """Returns the tools that this task may call."""

    def tool(about: Mapping[str, Json]) -> PoolTool:
        name = str(about["name"])

        async def call(arguments: Mapping[str, Json]) -> str:
            try:
                result = await task.tool(name, arguments, check=False)
            except ToolFailed as error:
                return error.message
            if result.text or result.structured is None:
                return result.text
            return json.dumps(result.structured, ensure_ascii=False)

        schema = {"type": "object", "properties": {}, **(about.get("input_schema") or {})}
        return PoolTool(name, str(about.get("description") or name), schema, call)

    return [tool(each) for each in await task.tools()]


async def no_tools(_: Task) -> list[PoolTool]:
    """Returns no tools, for an object that was made with them."""
    return []


async def stream_text(task: Task, text: str) -> None:
    """Streams a text in pieces that are not too large."""
    for start in range(0, len(text), PIECE_CHARS):
        await task.stream(text[start : start + PIECE_CHARS])


def is_streamed(task: Task) -> bool:
    """Returns False if the agent's `config` says `stream = false`: for a model that cannot stream."""
    return task.config.get("stream") is not False


def earlier(task: Task, framework: str) -> list[Entry]:
    """Returns the messages of the session, from the first one of the user on: a history may have been trimmed.

    `native` is None in those that another program has stored; else a copy, which the framework may change.
    """
    entries = [
        Entry(str(each.get("role")), str(each.get("content")), copy.deepcopy(each.get(framework)))
        for each in (task.memory.history if task.session is not None else ())
    ]
    return entries[next((at for at, each in enumerate(entries) if each.role == "user"), len(entries)) :]


def remember(task: Task, framework: str, entries: Iterable[Entry], *, anew: bool = False) -> None:
    """Adds messages to the session, or replaces all with them; nothing happens without a session."""
    if task.session is None:
        return
    if anew:
        task.memory.history = []
    for each in entries:
        task.memory.add(each.role, each.text, **{framework: each.native})


def as_json(value: object) -> Json:
    """Returns an output as JSON: models, dataclasses, sets and enumerations too; other objects as they are."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        return cast("_Dumping", value).model_dump(mode="json") if dump else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(each) for each in cast("Iterable[Any]", value)]
    return value.value if isinstance(value, enum.Enum) else value
