"""Runs a crew of CrewAI in a thread: objective, input and session as its inputs, its tools as CrewAI tools.

Descriptions of its tasks and agents name what they need: `{objective}`, `{input}`, `{history}`, or a key of the input.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

from ..sdk.results import Json
from ..sdk.task import Task
from ..sdk.threads import ThreadBridge, run_in_thread
from .exchange import Entry, PoolTool, ToolsOf, as_json, earlier, prompt_of, remember

FRAMEWORK = "crewai"

TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}
"""The type of an argument by its type in JSON Schema; others are any value."""


def native_tool(tool: PoolTool, bridge: ThreadBridge) -> Any:
    """Returns a tool of the pool as one of the framework, for its threads."""
    base: Any = import_module("crewai.tools").BaseTool  # its types need the framework

    async def answer(arguments: Mapping[str, Json]) -> str:
        return await tool.call(arguments)

    class PooledTool(base):  # type: ignore[misc]  # a class of the framework
        def _run(self, **arguments: Json) -> str:
            return bridge.wait(answer({key: value for key, value in arguments.items() if value is not None}))

    return PooledTool(name=tool.name, description=tool.description, args_schema=_arguments(tool.schema))


def handler_of(found: Any, options: Mapping[str, Json], tools_of: ToolsOf) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler that runs the crew; `options` are further arguments of its `kickoff`."""

    async def run(task: Task) -> object:
        bridge = ThreadBridge(asyncio.get_running_loop())
        tools = [native_tool(each, bridge) for each in await tools_of(task)]
        copied = found.copy()
        for member in copied.agents:
            member.tools = [*(member.tools or ()), *tools]
        for work in copied.tasks:  # which may have copies of its agent's tools
            if work.tools:
                work.tools = [*work.tools, *tools]
        given = {**options, "inputs": {**_inputs(task), **options.get("inputs", {})}}
        end = await run_in_thread(lambda: copied.kickoff(**given), bridge.cancel)
        if end.token_usage is not None:
            task.usage(tokens=end.token_usage.total_tokens)
        entries = (Entry("user", prompt_of(task), None), Entry("assistant", str(end.raw), None))
        remember(task, FRAMEWORK, entries)
        if end.json_dict is not None:
            return as_json(end.json_dict)
        return str(end.raw) if end.pydantic is None else as_json(end.pydantic)

    return run


def _inputs(task: Task) -> dict[str, Json]:
    """Returns the values for the placeholders of the crew's descriptions."""
    history = "\n".join(f"{each.role}: {each.text}" for each in earlier(task, FRAMEWORK))
    fields = task.input if isinstance(task.input, dict) else {}
    text = task.input if isinstance(task.input, str) else json.dumps(task.input)
    given = "" if task.input is None else text
    return {"objective": task.objective, "input": given, "history": history, **fields}


def _arguments(schema: Mapping[str, Json]) -> Any:
    """Returns the model of the arguments of a tool."""
    create_model = import_module("pydantic").create_model
    needed = schema.get("required", [])
    fields: dict[str, Any] = {}
    for name, about in schema["properties"].items():
        kind: Any = TYPES.get(str(about.get("type")), Any) if isinstance(about, dict) else Any
        fields[name] = (kind, ...) if name in needed else (kind | None if kind is not Any else Any, None)
    return create_model("Arguments", **fields)
