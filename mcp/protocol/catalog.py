"""What a server offers, under which names clients see it, and who may see and use what.

Values in, values out: no I/O and no clock. Entries of lists are kept as the server sent them, whatever keys they
have: clients of a later revision may know more of them than we do.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

import msgspec

from .messages import Era, Tool

MAX_EXPOSED_CHARACTERS = 48
"""Clients allow names of 64 characters and put a prefix of their own before ours."""

HASH_CHARACTERS = 8

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")

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

    @property
    def is_known(self) -> bool:
        """Whether the server has ever said what it offers."""
        return self.listed_at > 0 or bool(self.tools)

    def entries(self, kind: Kind) -> Sequence[object]:
        """What it lists of one kind."""
        if kind == "resourceTemplates":
            return self.templates
        return getattr(self, kind)  # type: ignore[no-any-return]  # the kinds are names of fields

    def differs(self, other: "Catalogue") -> list[Kind]:
        """The kinds of which it lists something else than the other."""
        return [kind for kind in KINDS if self.entries(kind) != other.entries(kind)]


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


@lru_cache(maxsize=8192)
def admits(access: Access, exposed: str, is_read_only: bool) -> bool:
    """As `Access.admits`, remembered: the same few names are asked for at every call."""
    return access.admits(exposed, is_read_only=is_read_only)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# -- names


def exposed_names(server: str, names: Iterable[str]) -> dict[str, str]:
    """The names under which clients see what a server has, `SERVER__NAME`, each with the server's own.

    Names consist of [A-Za-z0-9_-] and of MAX_EXPOSED_CHARACTERS at most. A longer one ends in a hash
    of the whole; so does one that had to be altered, where another would have the same. They do not
    depend on the order of what is named.
    """
    plain = {name: f"{server}__{_FORBIDDEN.sub('_', name)}" for name in names}
    crowd: dict[str, int] = {}
    for name in plain.values():
        crowd[name] = crowd.get(name, 0) + 1
    exposed: dict[str, str] = {}
    for name, short in plain.items():
        whole = f"{server}__{name}"
        is_altered_twin = short != whole and crowd[short] > 1
        if len(short) > MAX_EXPOSED_CHARACTERS or is_altered_twin:
            short = _hashed(short, whole)
        exposed[short] = name
    return exposed


def _hashed(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARACTERS]
    return f"{name[: MAX_EXPOSED_CHARACTERS - HASH_CHARACTERS - 1]}_{digest}"


def exposed_tools(
    server: str, tools: Iterable[Tool], denied: Sequence[str] = ()
) -> dict[str, Tool]:
    """The tools of a server by the names under which clients see them.

    Of two tools of one name the first counts. Those of which a pattern in `denied` means the own or the
    exposed name are left out; the names of the others do not depend on that.
    """
    distinct: dict[str, Tool] = {}
    for tool in tools:
        distinct.setdefault(tool.name, tool)
    return {
        exposed: distinct[name]
        for exposed, name in exposed_names(server, distinct).items()
        if not (denied and (_matches(name, denied) or _matches(exposed, denied)))
    }


def exposed_prompts(
    server: str, prompts: Iterable[Mapping[str, object]]
) -> dict[str, Mapping[str, object]]:
    """The prompts of a server by the names under which clients see them; of two of one name the first counts."""
    distinct: dict[str, Mapping[str, object]] = {}
    for prompt in prompts:
        name = prompt.get("name")
        if isinstance(name, str) and name:
            distinct.setdefault(name, prompt)
    return {exposed: distinct[name] for exposed, name in exposed_names(server, distinct).items()}


def exposed_uris(
    listed: Mapping[str, Iterable[Mapping[str, object]]], key: str
) -> dict[str, tuple[str, Mapping[str, object]]]:
    """The resources, or templates, of all servers by the URIs under which clients see them, each with its server.

    An own URI stays as it is where one server has it; else each is `SERVER__URI`.

    Args:
        listed: entries by server.
        key: under which an entry has its URI.
    """
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for server, entries in listed.items():
        for entry in entries:
            uri = entry.get(key)
            if isinstance(uri, str) and uri:
                found.setdefault(uri, {}).setdefault(server, entry)
    return {
        uri if len(having) == 1 else f"{server}__{uri}": (server, entry)
        for uri, having in found.items()
        for server, entry in having.items()
    }


_EXPRESSION = re.compile(r"\{[^{}]*\}")


def template_matches(template: str, uri: str) -> bool:
    """Whether a URI may be one of those that a template (RFC 6570) describes; in time that grows with its length.

    Any text may stand for an expression. That is wider than the RFC, and the server has the last word.
    """
    first, *rest = _EXPRESSION.split(template)
    if not rest:
        return uri == template
    *middle, last = rest
    if not uri.startswith(first) or not uri.endswith(last) or len(uri) < len(first) + len(last):
        return False
    at, end = len(first), len(uri) - len(last)
    for literal in middle:
        found = uri.find(literal, at, end)
        if found < 0:
            return False
        at = found + len(literal)
    return True
