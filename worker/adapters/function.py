"""Runs a plain function as a handler: its parameters are taken from the task by name.

`task`, `objective`, `input`, `context`, `session` and `config` are those of the task; other parameters are keys of the input,
and the only one left is the input itself, or the objective where there is no input. A generator streams. A function that
returns an object of a framework is a factory: the object is run for the task. One with a parameter `tools` gets the pool's
tools in the shape of the framework that it returns.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, cast

from ..contract.errors import InvalidParams
from ..sdk.agent import Handler
from ..sdk.results import Json
from ..sdk.task import SyncTask, Task
from ..sdk.threads import run_in_thread
from . import recognition
from .exchange import ToolsOf, as_json, no_tools, pool_tools

PACKAGES: Mapping[str, str] = {
    "langgraph": "langgraph",
    "langchain": "langgraph",
    "langchain_core": "langgraph",
    "pydantic_ai": "pydantic_ai",
    "agents": "openai_agents",
    "agno": "agno",
}
"""The adapter that shapes tools, by a package that a function's module uses."""

TASK_FIELDS = frozenset({"objective", "input", "context", "session", "config"})

Function = Callable[..., Any]  # an author's


def handler_of(found: Function, options: Mapping[str, Json], _: ToolsOf) -> Handler:
    """Returns the handler that calls the function; `options` are further arguments of it."""
    signature = inspect.signature(found)
    given = partial(_arguments, found, signature, options)
    if inspect.isasyncgenfunction(found):

        async def stream(task: Task) -> AsyncIterator[object]:
            async for part in found(**given(task)):
                yield as_json(part)

        return stream
    if inspect.isgeneratorfunction(found):

        def stream_in_thread(task: SyncTask) -> Generator[object, None, object]:
            return (yield from cast("Generator[object, None, object]", found(**given(task))))

        return cast("Handler", stream_in_thread)
    if "task" in signature.parameters and not inspect.iscoroutinefunction(found):

        def run_in_its_thread(task: SyncTask) -> object:
            return as_json(found(**given(task)))

        return run_in_its_thread
    return _factory(found, signature, given)


def _factory(
    found: Function, signature: inspect.Signature, given: Callable[..., dict[str, Any]]
) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler of a function that may return an object of a framework."""
    shape = _shape_of(found) if "tools" in signature.parameters else None

    async def run(task: Task) -> object:
        arguments = given(task)
        if shape is not None:
            native: Any = recognition.adapter_of(shape)  # each has its own type of a tool
            arguments["tools"] = [native.native_tool(each) for each in await pool_tools(task)]
        call = partial(found, **arguments)
        made = await (call() if inspect.iscoroutinefunction(found) else run_in_thread(call, lambda _: None))
        kind = recognition.kind_of(made)
        if kind is None or kind == recognition.FUNCTION:
            return as_json(made)
        tools_of = pool_tools if shape is None else no_tools  # it has them already
        handler = recognition.adapter_of(kind).handler_of(made, {}, tools_of)
        return await cast("Awaitable[object]", handler(cast("Any", task)))

    return run


def _arguments(
    found: Function, signature: inspect.Signature, options: Mapping[str, Json], task: Task | SyncTask
) -> dict[str, Any]:
    """Returns the arguments of the function for a task."""
    fields = cast("dict[str, Json]", task.input) if isinstance(task.input, dict) else {}
    arguments: dict[str, Any] = dict(options)
    left: list[inspect.Parameter] = []
    has_used_input = False
    for parameter in signature.parameters.values():
        name = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= {k: v for k, v in fields.items() if k not in arguments}
        elif name in arguments or name == "tools" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif name == "task":
            arguments[name] = task
        elif name in fields:
            arguments[name] = fields[name]
            has_used_input = True
        elif name in TASK_FIELDS:
            arguments[name] = getattr(task, name)
        elif parameter.default is parameter.empty:
            left.append(parameter)
    if len(left) == 1 and not has_used_input:
        arguments[left[0].name] = task.objective if task.input is None else task.input
    elif left:
        names = [each.name for each in left]
        text = f'cannot call "{_name(found)}": the input has no {", ".join(names)}'
        raise InvalidParams(text, key="input", missing=names)
    return arguments


def _shape_of(found: Function) -> str:
    """Returns the adapter whose tools the function gets: that of its return annotation, else of what its module uses."""
    plain: Any = inspect.unwrap(found)
    annotation = _package_of(plain.__annotations__.get("return"))
    if annotation in PACKAGES:
        return PACKAGES[annotation]
    names: MutableMapping[str, object] = plain.__globals__
    used = {PACKAGES[each] for each in map(_package_of, _values(names)) if each in PACKAGES}
    if len(used) == 1:
        return used.pop()
    several = f"its module uses {', '.join(sorted(used))}" if used else "its module uses none"
    text = f'cannot give tools to "{_name(found)}": annotate the framework\'s type that it returns, as {several}'
    raise InvalidParams(text, key="tools", found=sorted(used))


def _values(names: Mapping[str, object]) -> Iterator[object]:
    return (value for name, value in names.items() if not name.startswith("__"))


def _package_of(value: object) -> str:
    """Returns the top package of a module, class, function or instance; "" if it has none."""
    if inspect.ismodule(value):
        return value.__name__.partition(".")[0]
    module = getattr(value, "__module__", None) if callable(value) else type(value).__module__
    return module.partition(".")[0] if isinstance(module, str) else ""


def _name(found: Function) -> str:
    return getattr(found, "__name__", type(found).__name__)
