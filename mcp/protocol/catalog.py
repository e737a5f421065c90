"""Represents the listing of a server, maps it to exposed names, and decides access to it.

Values in, values out: no I/O and no clock. Entries of lists are kept as the server sent them, with all keys: clients of
a later revision may know more of them.
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
"""Characters of an exposed name: clients allow 64 and add a prefix of their own."""

HASH_CHARACTERS = 8

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")

Kind = Literal["tools", "prompts", "resources", "resourceTemplates"]
"""The kinds of lists; the names are those of the results of `KIND/list`."""

KINDS: tuple[Kind, ...] = ("tools", "prompts", "resources", "resourceTemplates")


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Represents the last listing of one server; `listed_at` is in wall-clock seconds, 0 if there was none."""

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
        """Returns True if the server has ever listed its entries."""
        return self.listed_at > 0 or bool(self.tools)

    def entries(self, kind: Kind) -> Sequence[object]:
        """Returns the entries of one kind."""
        if kind == "resourceTemplates":
            return self.templates
        return getattr(self, kind)  # type: ignore[no-any-return]  # the kinds are names of fields

    def differs(self, other: "Catalogue") -> list[Kind]:
        """Returns the kinds whose entries differ from another catalogue."""
        return [kind for kind in KINDS if self.entries(kind) != other.entries(kind)]


class Access(msgspec.Struct, frozen=True):
    """Limits the tools that a caller may list and call, by exposed name.

    `allowed` None allows all and `()` none; `denied` takes precedence; with `read_only` only tools marked
    `readOnlyHint` are allowed. `within` is a second access that has to admit a name as well: a task's. `tenant` is the
    view that names are of: the servers that this tenant may use, "" for the owner's own; None leaves that to `within`,
    and where no access says it, all servers are seen, under their full names.
    """

    allowed: tuple[str, ...] | None = None
    denied: tuple[str, ...] = ()
    read_only: bool = False
    within: "Access | None" = None
    tenant: str | None = None

    @property
    def view(self) -> str | None:
        """Returns the tenant whose view it is; "" is the owner's, None that of all servers."""
        if self.tenant is not None or self.within is None:
            return self.tenant
        return self.within.view

    def admits(self, exposed: str, *, is_read_only: bool) -> bool:
        """Returns True if a tool of this exposed name may be listed and called."""
        return (
            (self.allowed is None or _matches(exposed, self.allowed))
            and not _matches(exposed, self.denied)
            and (is_read_only or not self.read_only)
            and (self.within is None or self.within.admits(exposed, is_read_only=is_read_only))
        )


FULL = Access()
"""Access to all entries."""

OWNERS = Access(tenant="")
"""Access to all entries of the owner's servers."""


@lru_cache(maxsize=8192)
def admits(access: Access, exposed: str, is_read_only: bool) -> bool:
    """Returns `Access.admits`, cached: the same few names are checked at every call."""
    return access.admits(exposed, is_read_only=is_read_only)


def concerns(access: Access, server: str) -> bool:
    """Returns True if any tool of a server could be admitted: a server without one is not started for a list or a name.

    `server` is its name in the view of the access.
    """
    patterns = access.allowed
    # An exposed name that is too long has a hash in place of its end, and of a long server name's.
    beginning = f"{server}__"[: MAX_EXPOSED_CHARACTERS - HASH_CHARACTERS - 1]
    if patterns is not None and not any(_may_mean(pattern, beginning) for pattern in patterns):
        return False
    return access.within is None or concerns(access.within, server)


def _may_mean(pattern: str, beginning: str) -> bool:
    head = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return head.startswith(beginning) or (head != pattern and beginning.startswith(head))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# -- names


def exposed_names(server: str, names: Iterable[str]) -> dict[str, str]:
    """Maps exposed names, `SERVER__NAME`, to a server's own names.

    Exposed names consist of at most MAX_EXPOSED_CHARACTERS of [A-Za-z0-9_-]. A longer one ends in a hash of the full
    name; so does an altered one that would collide with another. They do not depend on the order of `names`.
    """
    plain = {name: f"{server}__{_FORBIDDEN.sub('_', name)}" for name in names}
    uses: dict[str, int] = {}
    for name in plain.values():
        uses[name] = uses.get(name, 0) + 1
    exposed: dict[str, str] = {}
    for name, short in plain.items():
        whole = f"{server}__{name}"
        collides = short != whole and uses[short] > 1
        if len(short) > MAX_EXPOSED_CHARACTERS or collides:
            short = _hashed(short, whole)
        exposed[short] = name
    return exposed


def _hashed(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARACTERS]
    return f"{name[: MAX_EXPOSED_CHARACTERS - HASH_CHARACTERS - 1]}_{digest}"


def exposed_tools(server: str, tools: Iterable[Tool], denied: Sequence[str] = ()) -> dict[str, Tool]:
    """Returns the tools of a server by exposed name.

    If two tools have the same name, the first one counts. Tools whose own or exposed name matches a pattern in
    `denied` are left out, without an effect on the names of the others.
    """
    distinct: dict[str, Tool] = {}
    for tool in tools:
        distinct.setdefault(tool.name, tool)
    return {
        exposed: distinct[name]
        for exposed, name in exposed_names(server, distinct).items()
        if not (denied and (_matches(name, denied) or _matches(exposed, denied)))
    }


def exposed_prompts(server: str, prompts: Iterable[Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """Returns the prompts of a server by exposed name; if two have the same name, the first one counts."""
    distinct: dict[str, Mapping[str, object]] = {}
    for prompt in prompts:
        name = prompt.get("name")
        if isinstance(name, str) and name:
            distinct.setdefault(name, prompt)
    return {exposed: distinct[name] for exposed, name in exposed_names(server, distinct).items()}


def exposed_uris(
    listed: Mapping[str, Iterable[Mapping[str, object]]], key: str
) -> dict[str, tuple[str, Mapping[str, object]]]:
    """Returns the resources, or templates, of all servers by exposed URI, each with its server.

    A URI that only one server has is exposed unchanged, others as `SERVER__URI`.
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
    """Returns True if a URI may match a template (RFC 6570); takes time linear in its length.

    An expression matches any text. That is wider than the RFC; the server decides in the end.
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
