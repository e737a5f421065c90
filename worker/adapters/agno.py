"""Runs an agent or a team of agno: tools as its functions, the session as messages, its metrics as tokens.

One that has a database of its own keeps its sessions there, under the session's id.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agno.models.message import Message
from agno.tools.function import Function

from ..contract.errors import TaskFailed
from ..sdk.results import Json
from ..sdk.task import Task
from .exchange import Entry, PoolTool, ToolsOf, as_json, earlier, is_streamed, prompt_of, remember, stream_text

FRAMEWORK = "agno"

CONTENT_EVENTS = ("RunContent", "TeamRunContent")


def native_tool(tool: PoolTool) -> Function:
    """Returns a tool of the pool as one of the framework."""

    async def call(**arguments: Json) -> str:
        return await tool.call(arguments)

    return Function(
        name=tool.name,
        description=tool.description,
        parameters=tool.schema,
        entrypoint=call,
        skip_entrypoint_processing=True,
    )


def handler_of(found: Any, options: Mapping[str, Json], tools_of: ToolsOf) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler that runs the agent or team; `options` are further arguments of its `arun`."""

    async def run(task: Task) -> object:
        tools = [native_tool(each) for each in await tools_of(task)]
        agent = found.deep_copy(update={"tools": [*(found.tools or ()), *tools]})
        asked = Message(role="user", content=prompt_of(task))
        before = [] if found.db is not None else earlier(task, FRAMEWORK)
        natives = [each.native or {"role": each.role, "content": each.text} for each in before]
        messages = [*map(Message.from_dict, natives), asked]
        given = {"session_id": task.session, **options}
        if is_streamed(task):
            result = await _streamed(task, agent, messages, given)
        else:
            result = await agent.arun(messages, stream=False, **given)
        if result.metrics is not None:
            task.usage(tokens=result.metrics.total_tokens)
        if str(getattr(result.status, "value", "")) == "ERROR":
            raise TaskFailed(f"cannot finish the run: {result.content}")
        if found.db is None:
            remember(task, FRAMEWORK, [_entry_of(asked), *_entries(result.messages, len(messages))])
        return as_json(result.content)

    return run


async def _streamed(task: Task, agent: Any, messages: list[Message], given: Mapping[str, Json]) -> Any:
    result: Any = None
    events = agent.arun(messages, stream=True, yield_run_output=True, **given)
    async for event in events:
        if getattr(event, "event", None) in CONTENT_EVENTS and isinstance(event.content, str):
            await stream_text(task, event.content)
        result = event
    return result


def _entries(messages: Sequence[Message] | None, given: int) -> list[Entry]:
    """Returns the messages of a run that follow those it was given; its system message may come before them."""
    found = [each for each in messages or () if each.role not in ("system", "developer")]
    return [_entry_of(each) for each in found[given:]]


def _entry_of(message: Message) -> Entry:
    native = json.loads(json.dumps(message.to_dict(), default=str))
    return Entry(message.role, str(message.content or ""), native)
