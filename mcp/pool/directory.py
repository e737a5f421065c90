"""Resolves exposed names to servers: holds the catalogues of all servers under the names that clients see.

Values in, values out; no I/O and no clock. Entries that a caller has no access to are neither listed nor found, and no
hint reveals them.
"""

import difflib
from collections.abc import Mapping, Sequence

from ...worker.contract.errors import Conflict, NotFound, PermissionDenied
from ..protocol.catalog import (
    FULL,
    Access,
    Catalogue,
    Kind,
    admits,
    exposed_prompts,
    exposed_tools,
    exposed_uris,
    template_matches,
)
from ..protocol.messages import Tool

MAX_NEAR = 3
"""Number of names suggested for one that does not exist."""

SEPARATOR = "__"
"""Separates the name of a server from its own name of a tool, prompt or resource."""

Entry = Mapping[str, object]

EMPTY = Catalogue()


class Directory:
    """Holds the catalogues of the servers, in the order in which they were added."""

    def __init__(self) -> None:
        self._catalogues: dict[str, Catalogue] = {}
        self._denied: dict[str, Sequence[str]] = {}
        self._tools: dict[str, tuple[str, Tool]] | None = None
        self._prompts: dict[str, tuple[str, Entry]] | None = None
        self._resources: dict[str, tuple[str, Entry]] | None = None
        self._templates: dict[str, tuple[str, Entry]] | None = None

    def put(self, server: str, catalogue: Catalogue, denied: Sequence[str] = ()) -> list[Kind]:
        """Sets the catalogue of a server and its patterns of hidden tools; returns the kinds that changed."""
        before = self._catalogues.get(server, EMPTY)
        kinds = before.differs(catalogue)
        if tuple(self._denied.get(server, ())) != tuple(denied) and "tools" not in kinds:
            kinds.append("tools")
        self._catalogues[server] = catalogue
        self._denied[server] = tuple(denied)
        self._forget()
        return kinds

    def drop(self, server: str) -> list[Kind]:
        """Removes a server; returns the kinds of its entries."""
        self._denied.pop(server, None)
        self._forget()
        return self._catalogues.pop(server, EMPTY).differs(EMPTY)

    def of(self, server: str) -> Catalogue:
        """Returns the catalogue of a server."""
        return self._catalogues.get(server, EMPTY)

    def _forget(self) -> None:
        self._tools = self._prompts = self._resources = self._templates = None

    # -- entries by exposed name

    @property
    def tools(self) -> dict[str, tuple[str, Tool]]:
        """Returns all tools; if two have the same (truncated) name, the first one counts."""
        if self._tools is None:
            self._tools = {}
            for server, catalogue in self._catalogues.items():
                found = exposed_tools(server, catalogue.tools, self._denied[server])
                for exposed, tool in found.items():
                    self._tools.setdefault(exposed, (server, tool))
        return self._tools

    @property
    def prompts(self) -> dict[str, tuple[str, Entry]]:
        """Returns all prompts; if two have the same name, the first one counts."""
        if self._prompts is None:
            self._prompts = {}
            for server, catalogue in self._catalogues.items():
                for exposed, prompt in exposed_prompts(server, catalogue.prompts).items():
                    self._prompts.setdefault(exposed, (server, prompt))
        return self._prompts

    @property
    def resources(self) -> dict[str, tuple[str, Entry]]:
        """Returns all resources by URI."""
        if self._resources is None:
            listed = {name: each.resources for name, each in self._catalogues.items()}
            self._resources = exposed_uris(listed, "uri")
        return self._resources

    @property
    def templates(self) -> dict[str, tuple[str, Entry]]:
        """Returns all resource templates by URI template."""
        if self._templates is None:
            listed = {name: each.templates for name, each in self._catalogues.items()}
            self._templates = exposed_uris(listed, "uriTemplate")
        return self._templates

    def offered(self, kind: Kind, access: Access = FULL) -> list[dict[str, object]]:
        """Returns MCP's objects of one kind within an access, sorted by name."""
        if kind == "tools":
            return [
                {**tool_object(tool), "name": exposed}
                for exposed, (_, tool) in sorted(self.tools.items())
                if admits(access, exposed, tool.is_read_only)
            ]
        if kind == "prompts":
            return [
                {**prompt, "name": exposed}
                for exposed, (_, prompt) in sorted(self.prompts.items())
                if admits(access, exposed, True)
            ]
        key = "uri" if kind == "resources" else "uriTemplate"
        known = self.resources if kind == "resources" else self.templates
        return [
            {**entry, key: uri}
            for uri, (server, entry) in sorted(known.items())
            if _admits_uri(access, server, str(entry[key]))
        ]

    def records(self, access: Access = FULL) -> list[dict[str, object]]:
        """Returns the tools as records for control clients and agents, sorted by exposed name."""
        return [
            tool_record(exposed, server, tool)
            for exposed, (server, tool) in sorted(self.tools.items())
            if admits(access, exposed, tool.is_read_only)
        ]

    # -- names to entries

    def server_in(self, name: str) -> str | None:
        """Returns the server that an exposed name or URI begins with, if there is one."""
        server, separator, _ = name.partition(SEPARATOR)
        return server if separator and server in self._catalogues else None

    def tool(self, name: str, access: Access) -> tuple[str, Tool]:
        """Returns the server and the tool of a name: an exposed one, or a tool's own name that only one server has.

        Raises:
            NotFound: no tool has this name; `data["near"]` has similar names.
            Conflict: several servers have it; `data["candidates"]` has the exposed names.
            PermissionDenied: it is not allowed.
        """
        flags = {exposed: tool.is_read_only for exposed, (_, tool) in self.tools.items()}
        own = {exposed: tool.name for exposed, (_, tool) in self.tools.items()}
        return self.tools[_choose("tool", name, own, flags, access)]

    def prompt(self, name: str, access: Access) -> tuple[str, str]:
        """Returns the server of a prompt and its own name there.

        Raises:
            NotFound, Conflict, PermissionDenied: as for `tool`.
        """
        own = {exposed: str(prompt["name"]) for exposed, (_, prompt) in self.prompts.items()}
        exposed = _choose("prompt", name, own, dict.fromkeys(own, True), access)
        return self.prompts[exposed][0], own[exposed]

    def resource(self, uri: str, access: Access) -> tuple[str, str]:
        """Returns the server of a resource and its own URI there.

        An unlisted resource may be read too: from the server that is named before `__`, whose template it matches,
        or that is the only one with resources.

        Raises:
            NotFound, Conflict, PermissionDenied: as for `tool`.
        """
        for known, key in ((self.resources, "uri"), (self.templates, "uriTemplate")):
            found = known.get(uri)
            if found is not None:
                return _admitted_uri(access, found[0], str(found[1][key]), uri)
        server = self.server_in(uri)
        if server is not None:
            return _admitted_uri(access, server, uri.partition(SEPARATOR)[2], uri)
        listing = [name for name in self._catalogues if self._lists(name, uri)]
        fitting = listing or [name for name in self._catalogues if self._fits(name, uri)]
        having = fitting or [name for name in self._catalogues if _has_resources(self.of(name))]
        allowed = [name for name in having if _admits_uri(access, name, uri)]
        if len(allowed) == 1 and (fitting or len(having) == 1):
            return allowed[0], uri
        if fitting and allowed:
            text = f'cannot choose a resource "{uri}": {len(allowed)} servers have one'
            candidates = [f"{name}{SEPARATOR}{uri}" for name in sorted(allowed)]
            raise Conflict(text, uri=uri, candidates=candidates)
        if fitting:
            raise _not_allowed("resource", uri)
        visible = [str(each["uri"]) for each in self.offered("resources", access)]
        near = difflib.get_close_matches(uri, visible, MAX_NEAR)
        raise NotFound(f'cannot find resource "{uri}"', uri=uri, near=near)

    def _lists(self, server: str, uri: str) -> bool:
        return any(each.get("uri") == uri for each in self.of(server).resources)

    def _fits(self, server: str, uri: str) -> bool:
        templates = (each.get("uriTemplate") for each in self.of(server).templates)
        return any(isinstance(each, str) and template_matches(each, uri) for each in templates)


def may_admit(access: Access, exposed: str) -> bool:
    """Returns True if a tool of this name may be allowed, before its properties are known.

    A call that is refused in any case must not start a server.
    """
    return admits(access, exposed, True)


def not_allowed(name: str) -> PermissionDenied:
    """Returns the error of a call of a tool that is not allowed."""
    return _not_allowed("tool", name)


def _not_allowed(kind: str, name: str) -> PermissionDenied:
    if kind == "tool":
        return PermissionDenied(f'cannot call "{name}": it is not in the list of tools', tool=name)
    return PermissionDenied(f'cannot use {kind} "{name}": it is not allowed', **{kind: name})


def _admits_uri(access: Access, server: str, uri: str) -> bool:
    return access is FULL or access.admits(f"{server}{SEPARATOR}{uri}", is_read_only=True)


def _admitted_uri(access: Access, server: str, own: str, uri: str) -> tuple[str, str]:
    if not _admits_uri(access, server, own):
        raise _not_allowed("resource", uri)
    return server, own


def _has_resources(catalogue: Catalogue) -> bool:
    return bool(catalogue.resources or catalogue.templates or "resources" in catalogue.capabilities)


def _choose(
    what: str, name: str, own: Mapping[str, str], flags: Mapping[str, bool], access: Access
) -> str:
    """Returns the exposed name for `name`: itself, or the only one whose own name it is."""
    if name in own:
        if not admits(access, name, flags[name]):
            raise _not_allowed(what, name)
        return name
    having = sorted(exposed for exposed, each in own.items() if each == name)
    candidates = [exposed for exposed in having if admits(access, exposed, flags[exposed])]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        text = f'cannot choose a {what} "{name}": {len(candidates)} servers have one'
        raise Conflict(text, **{what: name}, candidates=candidates)
    if having:
        raise _not_allowed(what, name)
    visible = [exposed for exposed in own if admits(access, exposed, flags[exposed])]
    near = near_names(name, visible)
    raise NotFound(f'cannot find {what} "{name}"', **{what: name}, near=near)


def near_names(name: str, exposed: Sequence[str]) -> list[str]:
    """Returns exposed names that resemble `name`, as a whole or after the server's name."""
    own = {each.partition(SEPARATOR)[2] or each: each for each in exposed}
    short = name.partition(SEPARATOR)[2] or name
    matches = [own[each] for each in difflib.get_close_matches(short, own, MAX_NEAR)]
    return list(dict.fromkeys(difflib.get_close_matches(name, exposed, MAX_NEAR) + matches))


def tool_record(exposed: str, server: str, tool: Tool) -> dict[str, object]:
    """Returns a tool as a record for control clients and agents."""
    record: dict[str, object] = {
        "name": exposed,
        "server": server,
        "tool": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "annotations": tool.annotations,
    }
    if tool.output_schema is not None:
        record["output_schema"] = tool.output_schema
    return record


def tool_object(tool: Tool) -> dict[str, object]:
    """Returns a tool as its server sent it, always with an input schema, which clients rely on."""
    fields: dict[str, object] = {**tool.fields}
    if not fields:
        fields = {"name": tool.name, "description": tool.description}
        if tool.output_schema is not None:
            fields["outputSchema"] = tool.output_schema
        if tool.annotations:
            fields["annotations"] = tool.annotations
    fields["inputSchema"] = tool.input_schema
    return fields
