"""Runs an agent of pydantic-ai: tools as one more toolset, the session as its message history, its usage as tokens."""

import json
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from pydantic_ai import ModelMessagesTypeAdapter, RunContext, RunUsage, Tool
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.toolsets import FunctionToolset

from ..sdk.results import Json
from ..sdk.task import Task
from .exchange import Entry, PoolTool, ToolsOf, as_json, earlier, is_streamed, prompt_of, remember, stream_text

FRAMEWORK = "pydantic-ai"


def native_tool(tool: PoolTool) -> Tool[Any]:
    """Returns a tool of the pool as one of the framework."""

    async def call(**arguments: Json) -> str:
        return await tool.call(arguments)

    return Tool.from_schema(call, name=tool.name, description=tool.description, json_schema=tool.schema)


def handler_of(found: Any, options: Mapping[str, Json], tools_of: ToolsOf) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler that runs the agent; `options` are further arguments of its `run`."""

    async def run(task: Task) -> object:
        usage = RunUsage()
        tools = FunctionToolset([native_tool(each) for each in await tools_of(task)])
        given = dict(options)
        toolsets = [*given.pop("toolsets", ()), tools]
        if is_streamed(task) and _can_stream(given.get("model") or found.model):
            given.setdefault("event_stream_handler", _streaming(task))
        try:
            result = await found.run(
                prompt_of(task),
                message_history=_messages(earlier(task, FRAMEWORK)),
                toolsets=toolsets,
                usage=usage,
                **given,
            )
        finally:
            task.usage(tokens=usage.total_tokens)
        remember(task, FRAMEWORK, _entries(result.new_messages()))
        return as_json(result.output)

    return run


def _can_stream(model: object) -> bool:
    """Returns False for a model that is known not to stream."""
    if isinstance(model, FunctionModel):
        return model.stream_function is not None
    return not isinstance(model, Model) or type(model).request_stream is not Model.request_stream


def _streaming(task: Task) -> Callable[..., Awaitable[None]]:
    async def stream(_: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for event in events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                await stream_text(task, event.part.content)
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                await stream_text(task, event.delta.content_delta)

    return stream


def _messages(entries: Sequence[Entry]) -> list[ModelMessage]:
    found: list[ModelMessage] = []
    for each in entries:
        if each.native is not None:
            found += ModelMessagesTypeAdapter.validate_python([each.native])
        elif each.role == "user":
            found.append(ModelRequest([UserPromptPart(each.text)]))
        else:
            found.append(ModelResponse([TextPart(each.text)]))
    return found


def _entries(messages: Sequence[ModelMessage]) -> list[Entry]:
    natives = cast("list[Json]", json.loads(ModelMessagesTypeAdapter.dump_json([*messages])))
    return [_entry_of(each, native) for each, native in zip(messages, natives, strict=True)]


def _entry_of(message: ModelMessage, native: Json) -> Entry:
    if isinstance(message, ModelResponse):
        return Entry("assistant", message.text or "", native)
    asked = [part.content for part in message.parts if isinstance(part, UserPromptPart)]
    text = "\n".join(each if isinstance(each, str) else "" for each in asked)
    return Entry("user" if asked else "tool", text, native)
