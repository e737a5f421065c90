"""Defines the params and results of the methods about tools of MCP servers whose words are not those that were accepted."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

ToolName = Annotated[str, Meta(max_length=10_000)]


class ToolDiffParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a server, and one of its tools: by its own name, or by what follows `SERVER__` in its exposed one."""

    name: str
    tool: ToolName | None = None


class AcceptParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Accepts the words that the tools of a server have now, or one of them; with the `digest` of the diff that was seen, only those."""

    name: str
    tool: ToolName | None = None
    digest: Annotated[str, Meta(max_length=64)] | None = None


class ToolChange(Struct, frozen=True, kw_only=True):
    """Represents a tool that is not as it was accepted: `parts` have changed, or it is `new`.

    `accepted` (null for a new tool) and `pending` have the keys of MCP that are compared: `title`, `description`, `inputSchema`,
    `outputSchema`, `annotations`. A `held` one cannot be called.
    """

    tool: str
    parts: list[Literal["new", "title", "description", "inputSchema", "outputSchema", "annotations"]]
    accepted: dict[str, object] | None
    pending: dict[str, object]
    held: bool


class ToolDiff(Struct, frozen=True, kw_only=True):
    """Lists the tools of a server that are not as they were accepted; `digest` stands for all of them."""

    name: str
    digest: str
    changes: list[ToolChange]


class Accepted(Struct, frozen=True, kw_only=True):
    """Lists the tools of a server whose words were accepted, by their own names."""

    name: str
    tools: list[str]
