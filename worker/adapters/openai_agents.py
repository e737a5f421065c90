"""Runs an agent of the OpenAI Agents SDK: tools as function tools, the session as input items, its usage as tokens.

The agent that begins gets the pool's tools; agents to which it hands off keep their own.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from agents.tool_context import ToolContext

from agents import FunctionTool, Runner

from ..sdk.results import Json
from ..sdk.task import Task
from .exchange import Entry, PoolTool, ToolsOf, as_json, earlier, is_streamed, prompt_of, remember, stream_text

FRAMEWORK = "openai-agents"

TEXT_DELTA = "response.output_text.delta"


def native_tool(tool: PoolTool) -> FunctionTool:
    """Returns a tool of the pool as one of the framework."""

    async def call(_: ToolContext[Any], arguments: str) -> str:
        return await tool.call(json.loads(arguments or "{}"))

    return FunctionTool(
        name=tool.name,
        description=tool.description,
        params_json_schema=tool.schema,
        on_invoke_tool=call,
        strict_json_schema=False,
    )


def handler_of(found: Any, options: Mapping[str, Json], tools_of: ToolsOf) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler that runs the agent; `options` are further arguments of `Runner.run`."""

    async def run(task: Task) -> object:
        tools = [native_tool(each) for each in await tools_of(task)]
        agent = found.clone(tools=[*found.tools, *tools])
        items: list[Any] = [
            each.native or {"role": each.role, "content": each.text} for each in earlier(task, FRAMEWORK)
        ]
        items.append({"role": "user", "content": prompt_of(task)})
        if is_streamed(task):
            result: Any = await _streamed(task, agent, items, options)
        else:
            result = await Runner.run(agent, items, **options)
        task.usage(tokens=result.context_wrapper.usage.total_tokens)
        remember(task, FRAMEWORK, _entries(result.to_input_list()[len(items) - 1 :]))
        return as_json(result.final_output)

    return run


async def _streamed(task: Task, agent: Any, items: list[Any], options: Mapping[str, Json]) -> Any:
    result = Runner.run_streamed(agent, items, **options)
    try:
        async for event in result.stream_events():
            data: Any = getattr(event, "data", None)
            if getattr(data, "type", None) == TEXT_DELTA:
                await stream_text(task, data.delta)
    except BaseException:
        result.cancel()
        task.usage(tokens=result.context_wrapper.usage.total_tokens)
        raise
    return result


def _entries(items: Sequence[Json]) -> list[Entry]:
    return [_entry_of(cast("Mapping[str, Json]", each)) for each in items]


def _entry_of(item: Mapping[str, Json]) -> Entry:
    content = item.get("content")
    if isinstance(content, list):
        parts: list[Any] = content  # of the framework
        content = "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    is_result = str(item.get("type", "")).endswith("_output")
    role = str(item.get("role") or ("tool" if is_result else "assistant"))
    return Entry(role, str(content or ""), as_json(item))
