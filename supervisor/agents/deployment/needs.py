"""Decides what a package needs and does not find here. Pure: the facts of the machine are arguments."""

from collections.abc import Collection, Sequence
from typing import Literal

from msgspec import Struct

NeedKind = Literal["mcp", "agents", "capabilities", "secrets", "commands"]

WORDS: dict[NeedKind, tuple[str, str]] = {
    "mcp": ("MCP server", "add it with corral mcp add"),
    "agents": ("agent", "add or deploy it first"),
    "capabilities": ("an agent with the capability", "add one first"),
    "secrets": ("secret", "set it with corral secret set"),
    "commands": ("system command", "install it on this machine"),
}


class Need(Struct, frozen=True):
    """Represents one thing that a package needs."""

    kind: NeedKind
    name: str
    is_optional: bool = False


class Facts(Struct, frozen=True):
    """Holds the names that there are of each kind."""

    mcp: Collection[str] = ()
    agents: Collection[str] = ()
    capabilities: Collection[str] = ()
    secrets: Collection[str] = ()
    commands: Collection[str] = ()

    def has(self, need: Need) -> bool:
        """Returns whether a need is met."""
        found: Collection[str] = getattr(self, need.kind)
        return need.name in found


def missing(needs: Sequence[Need], facts: Facts) -> list[Need]:
    """Returns the needs that are not met, optional ones among them, in their order."""
    return [need for need in needs if not facts.has(need)]


def words(needs: Sequence[Need]) -> str:
    """Returns what is missing and the remedy of each, in one line."""
    lines: list[str] = []
    for need in needs:
        kind, remedy = WORDS[need.kind]
        lines.append(f'{kind} "{need.name}" is missing ({remedy})')
    return "; ".join(lines)
