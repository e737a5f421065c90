"""Runs the tools of an MCP server in its own process: a FastMCP server, or one of the official SDK.

A task names a tool in its objective, with the arguments in its input; with a single tool, the objective is free. The pool's
tools are not given to it: a server has no model that could call them.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

from ..contract.errors import InvalidParams, ToolFailed
from ..sdk.results import Json
from ..sdk.task import Task
from .exchange import ToolsOf, as_json

SDKS = ("mcp", "fastmcp")
"""Packages whose errors report that a tool has failed."""


def handler_of(found: Any, options: Mapping[str, Json], _: ToolsOf) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler that calls a tool of the server; `options` are further arguments of its `call_tool`."""

    async def run(task: Task) -> object:
        names = await _names(found)
        name = task.objective.strip()
        if name not in names and len(names) == 1:
            name = names[0]
        if name not in names:
            text = f'cannot find tool "{name}": the server has {", ".join(names) or "none"}'
            raise InvalidParams(text, key="objective", value=name, tools=names)
        arguments = _arguments(task)
        try:
            result = await found.call_tool(name, arguments, **options)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in SDKS:
                raise
            raise ToolFailed(f'cannot complete the call of "{name}": {error}', tool=name) from error
        return _output(name, result)

    return run


async def _names(server: Any) -> list[str]:
    listed = server.list_tools() if hasattr(server, "list_tools") else server.get_tools()
    found = await listed if inspect.isawaitable(listed) else listed
    each: Iterable[Any] = getattr(found, "tools", found)
    return [tool if isinstance(tool, str) else str(tool.name) for tool in each]


def _arguments(task: Task) -> dict[str, Json]:
    if task.input is None:
        return {}
    if not isinstance(task.input, dict):
        text = f"cannot call a tool with {task.input!r:.100}: its arguments are an object"
        raise InvalidParams(text, key="input", value=task.input)
    return cast("dict[str, Json]", task.input)


def _output(name: str, result: Any) -> Json:
    """Returns what a tool has answered: its structured content, else its text; each SDK has its own form of it."""
    structured = getattr(result, "structured_content", None)
    content = getattr(result, "content", result)
    if isinstance(result, tuple):  # (content, structured): the official SDK before version 2
        content, structured = cast("tuple[Any, Any]", result)
    blocks = cast("Iterable[Any]", content if isinstance(content, list | tuple) else ())
    text = "\n".join(str(each.text) for each in blocks if hasattr(each, "text"))
    if getattr(result, "is_error", None) or getattr(result, "isError", None):
        raise ToolFailed(f'cannot complete the call of "{name}": {text}', tool=name)
    if isinstance(structured, dict) and set(cast("dict[str, Json]", structured)) == {"result"}:
        return as_json(structured["result"])
    return text if structured is None else as_json(structured)
