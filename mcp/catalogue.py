"""What a server offers, under which names clients see it, and who may see and use what.

Values in, values out: no I/O and no clock. Entries of lists are kept as the server sent them, whatever keys they
have: clients of a later revision may know more of them than we do.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from .messages import Era, Tool

Kind = Literal["tools", "prompts", "resources", "resourceTemplates"]
"""What servers list; the names are those of the results of `KIND/list`."""

KINDS: tuple[Kind, ...] = ("tools", "prompts", "resources", "resourceTemplates")


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """All that one server offers, as it said last; `listed_at` is wall-clock seconds, 0 when it never did."""

    tools: tuple[Tool, ...] = ()
    prompts: tuple[dict[str, object], ...] = ()
    resources: tuple[dict[str, object], ...] = ()
    templates: tuple[dict[str, object], ...] = ()
    era: Era | None = None
    version: str = ""
    server_info: dict[str, object] = {}
    capabilities: dict[str, object] = {}
    instructions: str = ""
    listed_at: float = 0.0


class Access(msgspec.Struct, frozen=True):
    """Which tools somebody may see and call, by exposed name.

    `allowed` None allows all and `()` none; what is denied is denied whatever is allowed; with `read_only` only
    tools that say they change nothing. `within` is a second list that has to admit a name as well: a task's.
    """

    allowed: tuple[str, ...] | None = None
    denied: tuple[str, ...] = ()
    read_only: bool = False
    within: "Access | None" = None

    def admits(self, exposed: str, *, is_read_only: bool) -> bool:
        """Whether a tool of this exposed name may be seen and called."""
        return (
            (self.allowed is None or _matches(exposed, self.allowed))
            and not _matches(exposed, self.denied)
            and (is_read_only or not self.read_only)
            and (self.within is None or self.within.admits(exposed, is_read_only=is_read_only))
        )


FULL = Access()
"""Everything."""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
