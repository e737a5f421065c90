"""Resolves exposed names to servers: holds the catalogues of all servers under the names that clients see.

Values in, values out; no I/O and no clock. Entries that a caller has no access to are neither listed nor found, and no
hint reveals them.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property

from corral.worker.contract.errors import Conflict, NotFound, PermissionDenied
from corral.worker.contract.names import local_name, tenant_of

from ..protocol.catalog import (
    FULL,
    KINDS,
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
from .placement import Share
from .tool_index import Document, document_of

MAX_NEAR = 3
"""Number of names suggested for one that does not exist."""

SEPARATOR = "__"
"""Separates the name of a server from its own name of a tool, prompt or resource."""

Entry = Mapping[str, object]

EMPTY = Catalogue()


class _View:
    """Holds the entries that one tenant sees, by exposed name: those of `servers`, by the name that each has there."""

    def __init__(
        self, servers: Mapping[str, str], catalogues: Mapping[str, Catalogue], denied: Mapping[str, Sequence[str]]
    ) -> None:
        self.servers = servers
        self.names = {full: shown for shown, full in servers.items()}
        self._catalogues = catalogues
        self._denied = denied

    @cached_property
    def tools(self) -> dict[str, tuple[str, Tool]]:
        """Returns all tools, each with the full name of its server; if two have the same (truncated) name, the first one counts."""
        tools: dict[str, tuple[str, Tool]] = {}
        for shown, server in self.servers.items():
            for exposed, tool in exposed_tools(shown, self._catalogues[server].tools, self._denied[server]).items():
                tools.setdefault(exposed, (server, tool))
        return tools

    @cached_property
    def documents(self) -> list[tuple[Document, bool]]:
        """Returns what is searched of all tools, sorted by exposed name, each with whether it is read-only."""
        return [
            (document_of({**tool_object(tool), "name": exposed}), tool.is_read_only)
            for exposed, (_, tool) in sorted(self.tools.items())
            if tool.is_listed
        ]

    @cached_property
    def prompts(self) -> dict[str, tuple[str, Entry]]:
        """Returns all prompts; if two have the same name, the first one counts."""
        prompts: dict[str, tuple[str, Entry]] = {}
        for shown, server in self.servers.items():
            for exposed, prompt in exposed_prompts(shown, self._catalogues[server].prompts).items():
                prompts.setdefault(exposed, (server, prompt))
        return prompts

    @cached_property
    def resources(self) -> dict[str, tuple[str, Entry]]:
        """Returns all resources by URI, each with the name of its server in this view."""
        return exposed_uris({shown: self._catalogues[full].resources for shown, full in self.servers.items()}, "uri")

    @cached_property
    def templates(self) -> dict[str, tuple[str, Entry]]:
        """Returns all resource templates by URI template, each with the name of its server in this view."""
        listed = {shown: self._catalogues[full].templates for shown, full in self.servers.items()}
        return exposed_uris(listed, "uriTemplate")

    def of(self, shown: str) -> Catalogue:
        """Returns the catalogue of a server, by its name in this view."""
        return self._catalogues[self.servers[shown]]


class Directory:
    """Holds the catalogues of the servers, in the order in which they were added, and who may see which.

    A tenant sees its own servers, under their short names, and those of the owner that give each sharer a process of
    its own. The owner sees its own. An access without a tenant (`FULL`) sees all, under their full names.
    """

    def __init__(self) -> None:
        self._catalogues: dict[str, Catalogue] = {}
        self._denied: dict[str, Sequence[str]] = {}
        self._shares: dict[str, Share] = {}
        self._views: dict[str | None, _View] = {}

    def put(self, server: str, catalogue: Catalogue, denied: Sequence[str] = (), share: Share = "all") -> list[Kind]:
        """Sets the catalogue of a server, its patterns of hidden tools and its share; returns the kinds that changed."""
        kinds = self._catalogues.get(server, EMPTY).differs(catalogue)
        if tuple(self._denied.get(server, ())) != tuple(denied) and "tools" not in kinds:
            kinds.append("tools")
        if self._shares.get(server, share) != share:
            kinds = list(KINDS)
        self._catalogues[server] = catalogue
        self._denied[server] = tuple(denied)
        self._shares[server] = share
        self._views.clear()
        return kinds

    def drop(self, server: str) -> list[Kind]:
        """Removes a server; returns the kinds of its entries."""
        self._denied.pop(server, None)
        self._shares.pop(server, None)
        self._views.clear()
        return self._catalogues.pop(server, EMPTY).differs(EMPTY)

    def of(self, server: str) -> Catalogue:
        """Returns the catalogue of a server."""
        return self._catalogues.get(server, EMPTY)

    def view(self, access: Access) -> _View:
        """Returns the entries in the view of an access."""
        tenant = access.view
        view = self._views.get(tenant)
        if view is None:
            servers: dict[str, str] = {}
            own_first = sorted(self._catalogues, key=lambda server: tenant_of(server) != tenant)
            for full in own_first if tenant else self._catalogues:
                shown = name_seen(full, self._shares[full], tenant)
                if shown is not None:
                    servers.setdefault(shown, full)
            view = self._views[tenant] = _View(servers, self._catalogues, self._denied)
        return view

    def offered(self, kind: Kind, access: Access = FULL) -> list[dict[str, object]]:
        """Returns MCP's objects of one kind within an access, sorted by name."""
        view = self.view(access)
        if kind == "tools":
            return [
                {**tool_object(tool), "name": exposed}
                for exposed, (_, tool) in sorted(view.tools.items())
                if admits(access, exposed, tool.is_read_only) and tool.is_listed
            ]
        if kind == "prompts":
            return [
                {**prompt, "name": exposed}
                for exposed, (_, prompt) in sorted(view.prompts.items())
                if admits(access, exposed, True)
            ]
        key = "uri" if kind == "resources" else "uriTemplate"
        known = view.resources if kind == "resources" else view.templates
        return [
            {**entry, key: uri}
            for uri, (server, entry) in sorted(known.items())
            if _admits_uri(access, server, str(entry[key]))
        ]

    def records(self, access: Access = FULL) -> list[dict[str, object]]:
        """Returns the tools as records for control clients and agents, sorted by exposed name."""
        return [
            tool_record(exposed, server, tool)
            for exposed, (server, tool) in sorted(self.view(access).tools.items())
            if admits(access, exposed, tool.is_read_only) and tool.is_listed
        ]

    def documents(self, access: Access = FULL) -> list[Document]:
        """Returns what is searched of the tools within an access, sorted by exposed name."""
        documents = self.view(access).documents
        return [each for each, is_read_only in documents if admits(access, each.name, is_read_only)]

    # -- names to entries

    def server_in(self, name: str, access: Access = FULL) -> str | None:
        """Returns the server that an exposed name or URI begins with, if there is one."""
        shown, separator, _ = name.partition(SEPARATOR)
        return self.view(access).servers.get(shown) if separator else None

    def tool(self, name: str, access: Access) -> tuple[str, Tool]:
        """Returns the server and the tool of a name: an exposed one, or a tool's own name that only one server has."""
        tools = self.view(access).tools
        flags = {exposed: tool.is_read_only for exposed, (_, tool) in tools.items()}
        own = {exposed: tool.name for exposed, (_, tool) in tools.items()}
        return tools[_choose("tool", name, own, flags, access)]

    def prompt(self, name: str, access: Access) -> tuple[str, str]:
        """Returns the server of a prompt and its own name there."""
        prompts = self.view(access).prompts
        own = {exposed: str(prompt["name"]) for exposed, (_, prompt) in prompts.items()}
        exposed = _choose("prompt", name, own, dict.fromkeys(own, True), access)
        return prompts[exposed][0], own[exposed]

    def resource(self, uri: str, access: Access) -> tuple[str, str]:
        """Returns the server of a resource and its own URI there.

        An unlisted resource may be read too: from the server that is named before `__`, whose template it matches,
        or that is the only one with resources.
        """
        view = self.view(access)
        shown, own = self._resource(uri, access, view)
        return view.servers[shown], own

    def _resource(self, uri: str, access: Access, view: _View) -> tuple[str, str]:
        for known, key in ((view.resources, "uri"), (view.templates, "uriTemplate")):
            found = known.get(uri)
            if found is not None:
                return _admitted_uri(access, found[0], str(found[1][key]), uri)
        named, separator, rest = uri.partition(SEPARATOR)
        if separator and named in view.servers:
            return _admitted_uri(access, named, rest, uri)
        servers = view.servers
        listing = [name for name in servers if any(each.get("uri") == uri for each in view.of(name).resources)]
        fitting = listing or [name for name in servers if _fits(view.of(name), uri)]
        having = fitting or [name for name in servers if _has_resources(view.of(name))]
        allowed = [name for name in having if _admits_uri(access, name, uri)]
        if len(allowed) == 1 and (fitting or len(having) == 1):
            return allowed[0], uri
        if fitting and allowed:
            text = f'cannot choose a resource "{uri}": {len(allowed)} servers have one'
            raise Conflict(text, uri=uri, candidates=[f"{name}{SEPARATOR}{uri}" for name in sorted(allowed)])
        if fitting:
            raise _not_allowed("resource", uri)
        visible = [str(each["uri"]) for each in self.offered("resources", access)]
        near = difflib.get_close_matches(uri, visible, MAX_NEAR)
        raise NotFound(f'cannot find resource "{uri}"', uri=uri, near=near)


def name_seen(server: str, share: Share, tenant: str | None) -> str | None:
    """Returns the name under which a tenant sees a server, None where it does not; the one place that decides it."""
    if tenant is None:
        return server
    if tenant_of(server) == tenant:
        return local_name(server)
    return server if not tenant_of(server) and share != "all" else None


def _fits(catalogue: Catalogue, uri: str) -> bool:
    templates = (each.get("uriTemplate") for each in catalogue.templates)
    return any(isinstance(each, str) and template_matches(each, uri) for each in templates)


def may_admit(access: Access, exposed: str) -> bool:
    """Returns True if a tool of this name may be allowed, before its properties are known.

    A call that is refused in any case must not start a server.
    """
    return admits(access, exposed, True)


def not_allowed(name: str) -> PermissionDenied:
    """Returns the error of a call of a tool that is not allowed."""
    return _not_allowed("tool", name)


def held(name: str, server: str) -> Conflict:
    """Returns the error of a call of a tool that is held."""
    remedy = f"corral mcp diff {name} shows what; corral mcp accept {name}"
    text = f'cannot call "{name}": it has changed since it was accepted, and is held: {remedy}'
    return Conflict(text, tool=name, server=server, reason="held")


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


def _choose(what: str, name: str, own: Mapping[str, str], flags: Mapping[str, bool], access: Access) -> str:
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
    near = near_names(name, [exposed for exposed in own if admits(access, exposed, flags[exposed])])
    raise NotFound(f'cannot find {what} "{name}"', **{what: name}, near=near)


def near_names(name: str, exposed: Sequence[str]) -> list[str]:
    """Returns exposed names that resemble `name`, as a whole or after the server's name."""
    own = {each.partition(SEPARATOR)[2] or each: each for each in exposed}
    matches = [own[each] for each in difflib.get_close_matches(name.partition(SEPARATOR)[2] or name, own, MAX_NEAR)]
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
