"""Finds the adapter of an object by the names of its classes, and wraps the object as an agent.

It imports an adapter only for an object that has one, and no framework: the object's class is imported already.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from ..contract.errors import InvalidParams
from ..sdk.agent import Agent, Handler
from ..sdk.results import Json
from ..sdk.task import stateless
from .exchange import ToolsOf, pool_tools

CLASSES: Mapping[tuple[str, str], str] = {
    ("langgraph", "Pregel"): "langgraph",
    ("langgraph", "StateGraph"): "langgraph",
    ("pydantic_ai", "AbstractAgent"): "pydantic_ai",
    ("agents", "Agent"): "openai_agents",
    ("agno", "Agent"): "agno",
    ("agno", "Team"): "agno",
    ("crewai", "Crew"): "crewai",
    ("fastmcp", "FastMCP"): "mcp_server",
    ("mcp", "FastMCP"): "mcp_server",
    ("mcp", "MCPServer"): "mcp_server",
}
"""The adapter, a module beside this one, by the package and the name of a class."""

FUNCTION = "function"


class Adapter(Protocol):
    """Defines an adapter, one module for each framework."""

    def handler_of(
        self,
        found: Any,  # of a framework
        options: Mapping[str, Json],
        tools_of: ToolsOf,
        /,
    ) -> Handler:
        """Returns the handler that runs the object, with further arguments of each run, and the tools of a task."""
        ...


def kind_of(found: object) -> str | None:
    """Returns the name of the adapter of an object, None if it has none."""
    if isinstance(found, type):
        return None
    for each in type(found).__mro__:
        package = each.__module__.partition(".")[0]
        if (kind := CLASSES.get((package, each.__name__))) is not None:
            return kind
    return FUNCTION if inspect.isroutine(found) else None


def adapter_of(kind: str) -> Adapter:
    """Imports an adapter, and with it the framework."""
    return cast("Adapter", import_module(f".{kind}", __package__))


def adapt(found: object) -> Agent | None:
    """Returns an agent that runs the object; itself if it is an agent, None if nothing is known about it."""
    if isinstance(found, Agent):
        return found
    kind = kind_of(found)
    return None if kind is None else _wrapped(found, kind, None, {})


def wrap(found: object, /, name: str | None = None, **options: Json) -> Agent:
    """Returns an agent that runs an object of a framework, or a function."""
    kind = kind_of(found)
    if kind is None:
        kinds = "a LangGraph graph, an agent of pydantic-ai, OpenAI Agents SDK or agno, a CrewAI crew, a FastMCP server or a function"
        text = f"cannot wrap {_described(found)}: it is none of {kinds}"
        raise InvalidParams(text, key="agent", value=_described(found))
    return _wrapped(found, kind, name, options)


def _wrapped(found: object, kind: str, name: str | None, options: Mapping[str, Json]) -> Agent:
    agent = Agent(name)
    agent.task(adapter_of(kind).handler_of(found, options, pool_tools))
    agent.checkpoint(stateless)
    return agent


def _described(found: object) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"an object of type {type(found).__name__}"
