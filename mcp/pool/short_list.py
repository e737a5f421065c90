"""Keeps a long list of tools short: two tools stand for it, which find and call the others, beside those that are pinned.

Values in, values out. Who calls has to take `target_of` a call first, so that it counts as one of the tool that is meant.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

import msgspec

from corral.worker.contract import codec
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InvalidParams, NotFound
from corral.worker.contract.mcp_info import CALL_TOOL, FIND_TOOL
from corral.worker.contract.misfit import misfit_of

from .directory import MAX_NEAR, SEPARATOR, near_names
from .tool_index import RESULTS, Document, search

RESULTS_MAX = 20

SERVERS_TOLD = 40
"""Number of servers that are named to a model."""

SHOWN = ("name", "title", "description", "inputSchema", "annotations")
"""What a model is told of a tool that was found."""


class FindArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of FIND_TOOL."""

    query: Annotated[str, msgspec.Meta(max_length=2000, description="What the tool has to do, in a few words")]
    limit: Annotated[int, msgspec.Meta(ge=1, le=RESULTS_MAX, description="How many to return at most")] = RESULTS


_FIND_SCHEMA = {
    key: value
    for key, value in msgspec.json.schema(FindArguments)["$defs"]["FindArguments"].items()
    if key not in ("title", "description")  # of the Struct: they mean nothing to a client
}


class Target(NamedTuple):
    """Represents the call that a call of CALL_TOOL stands for."""

    name: str
    arguments: dict[str, object]


def is_long(tools: Sequence[object], list_limit: int) -> bool:
    """Returns True if a list is replaced by a short one; a limit of 0 replaces none."""
    return 0 < list_limit < len(tools)


def pinned_of(tools: Iterable[dict[str, object]], patterns: Sequence[str]) -> list[dict[str, object]]:
    """Returns the tools that a short list has as well."""
    return [tool for tool in tools if any(fnmatchcase(str(tool["name"]), pattern) for pattern in patterns)]


def finders(tools: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Returns MCP's objects of the two tools that stand for a list."""
    counts = sorted(Counter(str(tool["name"]).partition(SEPARATOR)[0] for tool in tools).items())
    servers = ", ".join(f"{server} ({count})" for server, count in counts[:SERVERS_TOLD])
    hints = [as_object(tool.get("annotations")) or {} for tool in tools]
    call: dict[str, object] = {
        "name": CALL_TOOL,
        "title": "Call a tool",
        "description": f"Calls a tool that {FIND_TOOL} has found.",
        "execution": {"taskSupport": "optional"},
        "inputSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Its name"},
                "arguments": {"type": "object", "description": "Arguments by its inputSchema"},
            },
            "required": ["name"],
        },
        "annotations": {
            "title": "Call a tool",
            "readOnlyHint": all(each.get("readOnlyHint") is True for each in hints),
        },
    }
    find: dict[str, object] = {
        "name": FIND_TOOL,
        "title": "Find a tool",
        "description": f"Finds tools by what they do, to be called with {CALL_TOOL}. There are {len(tools)}; search before"
        f" you say that something cannot be done. They are of: {servers}{', …' if len(counts) > SERVERS_TOLD else ''}",
        "inputSchema": _FIND_SCHEMA,
        "annotations": {"title": "Find a tool", "readOnlyHint": True, "openWorldHint": False},
    }
    return [call, find]


def target_of(arguments: Mapping[str, object]) -> Target:
    """Returns the call that the arguments of CALL_TOOL stand for."""
    name, given = arguments.get("name"), as_object(arguments.get("arguments", {}))
    if not isinstance(name, str) or name == CALL_TOOL:
        raise InvalidParams(f'cannot call {name!r} with {CALL_TOOL}: "name" has to name a tool', key="name", value=name)
    if given is None:
        raise InvalidParams(f'cannot call "{name}": "arguments" has to be an object', key="arguments", tool=name)
    return Target(name, given)


def find(
    arguments: Mapping[str, object], tools: tuple[Document, ...], tool_of: Callable[[str], Mapping[str, object] | None]
) -> dict[str, object]:
    """Returns MCP's result of FIND_TOOL: what a model has to know to call the tools that fit; `tool_of` has MCP's objects."""
    try:
        asked = msgspec.convert(arguments, FindArguments)
    except msgspec.ValidationError as error:
        wrong = misfit_of(error, arguments, FindArguments)
        raise InvalidParams(f'cannot call "{FIND_TOOL}": {wrong.words}', key=wrong.key, value=wrong.shown) from error
    fitting = [tool for name in search(asked.query, tools, asked.limit) if (tool := tool_of(name)) is not None]
    entries = [{key: tool[key] for key in SHOWN if tool.get(key)} for tool in fitting]
    structured = {"tools": entries, "searched": len(tools)}
    text = codec.encode(structured).decode() if entries else f"none of {len(tools)} tools fits: try other words"
    return {"content": [{"type": "text", "text": text}], "structuredContent": structured, "isError": False}


def unknown(name: str, tools: tuple[Document, ...]) -> NotFound:
    """Returns the error of a call of a tool that is not there, with the names of similar ones for a model to read."""
    near = near_names(name, [each.name for each in tools])
    near += [each for each in search(name, tools, MAX_NEAR) if each not in near]
    hint = f"; near: {', '.join(near[:MAX_NEAR])}" if near else ""
    return NotFound(f'cannot find tool "{name}"{hint}', tool=name, near=near[:MAX_NEAR])
