"""Implements `corral mcp …`: lists servers and their tools, prompts and resources, calls tools, adds and removes servers."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams, NotFound
from corral.worker.contract.trace_context import of_environment

from .. import render
from ..context import (
    AddCommand,
    CommandGroup,
    Session,
    complete_names,
    duration,
    given,
    json_value,
    option,
    pair,
    typed_pairs,
    waiting_s,
)
from ..render import Record, Table, inner, inners, items, number, word

mcp = CommandGroup(
    "mcp",
    table={
        "import": "tools.import_servers",
        **dict.fromkeys(("login", "logins", "logout"), "tools.login"),
        **dict.fromkeys(("diff", "accept"), "tools.pins"),
    },
    help="Manage MCP servers, and list and call their tools.",
)

complete_servers = complete_names("mcp.servers", "servers")
complete_tools = complete_names("mcp.tools", "tools")


@mcp.define("servers")
def servers(session: Session) -> None:
    """List MCP servers with their state and tools."""
    entries = session.records(session.call("mcp.servers", {}), "servers", "there are no MCP servers")
    if not entries:
        return
    session.print_records(entries, SERVERS)
    for entry in entries:
        about = inner(entry, "mcp")
        ends = [inner(each, "last_exit") for each in inners(entry, "workers")]
        if word(entry, "state") != "Terminated":
            ends = []
        reasons = [word(end, "message") for end in ends if word(end, "result") != "stopped"]
        texts = [word(about, "warning"), *reasons, *map(str, items(about, "stderr"))]
        for text in dict.fromkeys(texts):
            if text:
                session.note(f"{word(entry, 'name')}: {text}")


def _calls(entry: Record) -> str:
    about = inner(entry, "mcp")
    now = f" ({word(about, 'in_flight')} now)" if number(about, "in_flight") else ""
    return word(about, "calls", "-") + now


SERVERS = Table(
    "NAME STATE SPEAKS CALLS FAILED=mcp.failures TOOLS=count NAMES=tools",
    drop="SPEAKS FAILED CALLS",
    right="CALLS FAILED TOOLS",
    speaks=lambda entry: word(inner(entry, "mcp"), "version") or word(inner(entry, "mcp"), "era"),
    calls=_calls,
    count=lambda entry: str(len(items(entry, "tools"))),
)


def _first_line(record: Record) -> str:
    return word(record, "description").strip().partition("\n")[0]


@mcp.define("tools")
@click.argument("server", required=False, metavar="[SERVER]", shell_complete=complete_servers)
def tools(session: Session, server: str | None) -> None:
    """List tools with their arguments and descriptions."""
    params = {} if server is None else {"server": server}
    session.print_list(_listed(session, "mcp.tools", params), "tools", "there are no tools", TOOLS)


def _arguments(tool: Mapping[str, object]) -> str:
    """Lists the properties of the input schema: required ones first, others in brackets."""
    schema = inner(tool, "input_schema")
    required = [str(name) for name in items(schema, "required")]
    optional = [name for name in inner(schema, "properties") if name not in required]
    return " ".join((*required, *(f"[{name}]" for name in optional)))


TOOLS = Table("NAME ARGUMENTS DESCRIPTION", drop="ARGUMENTS", arguments=_arguments, description=_first_line)


@mcp.define("call", epilog="KEY=VALUE has the type of the schema of the tool, else it is text; KEY:=JSON is JSON.")
@click.argument("name", metavar="SERVER__TOOL", shell_complete=complete_tools)
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@option("--args JSON|@FILE|-", "All arguments of the tool, in place of pairs; default {}.", "arguments")
@option("--timeout D", "Give up after this long.", "timeout_s", type=duration)
def call(session: Session, name: str, pairs: tuple[str, ...], arguments: str | None, timeout_s: float | None) -> int:
    """Call a tool and print its text. Exits 1 if the tool returns an error."""
    if arguments is not None and pairs:
        raise InvalidParams(f'cannot call "{name}": {pairs[0]!r} stands beside --args', key="--args", value=pairs[0])
    values: object = typed_pairs(
        f'cannot call "{name}"', "arguments", pairs, lambda: inner(_schema(session, name), "properties")
    )
    if arguments is not None:
        values = json_value(arguments, "--args")
    if not isinstance(values, dict):
        raise InvalidParams("cannot read --args: it is no JSON object", key="--args", value=arguments)
    params = given(name=name, arguments=values, timeout_s=timeout_s, traceparent=of_environment())
    result = session.call("mcp.call", params, timeout_s=waiting_s(timeout_s))
    if session.json:
        session.print_json(result)
    else:
        for text in _texts(result):
            session.print_foreign(text)
    if result.get("resultType") == "input_required":
        words = f'cannot finish the call of "{name}": the tool requests input, which is not supported here'
        session.note(f"corral: {words}; --json shows the request")
        return 1
    if result.get("isError"):
        session.note(f'corral: cannot finish the call of "{name}": the tool answered an error')
        return 1
    return 0


def _schema(session: Session, name: str) -> dict[str, object]:
    """Returns the input schema of a tool by its exposed or short name; empty if there is none."""
    tools = inners(session.call("mcp.tools", {}, timeout_s=None), "tools")
    named = [t for t in tools if word(t, "name") == name]
    named = named or [t for t in tools if word(t, "tool") == name]
    return inner(named[0], "input_schema") if named else {}


def _texts(result: Mapping[str, object]) -> Iterable[str]:
    """Yields the content for people: text as it is, the rest by name; structured content if there is nothing else."""
    content = inners(result, "content")
    if not content and result.get("structuredContent") is not None:
        yield render.json_text(result["structuredContent"], indent=True)
    for block in content:
        kind = word(block, "type")
        if kind == "text":
            yield word(block, "text")
            continue
        resource = inner(block, "resource")
        if "text" in resource:
            yield word(resource, "text")
            continue
        where = word(resource, "uri") or word(block, "uri")
        mime_type = word(block, "mimeType") or word(resource, "mimeType")
        yield f"[{' '.join(part for part in (kind or 'content', where, mime_type) if part)}]"


@mcp.define("serve")
@option("--only PATTERN", "Offer only tools whose names match; repeatable.", multiple=True)
@option("--deny PATTERN", "Offer no tools whose names match; repeatable.", multiple=True)
@option("--read-only", "Offer only tools that are declared read-only.")
@option("--profile NAME", "Offer the tools that [mcp.profiles.NAME] of the daemon allows.")
@option("--tools", "List all tools, even if that is long.", type=click.Choice(("auto", "all")))
def serve(session: Session, /, **options: Any) -> int:  # Any: the values of the options above
    """Serve all tools over MCP on stdin and stdout. Corral's own tools are among them."""
    from .serve import serve  # noqa: PLC0415 - main has run it already, unless the line is unusual

    return serve(session.given_socket, login=session.login, **options)


@mcp.define("prompts")
def prompts(session: Session) -> None:
    """List prompts with their arguments."""
    session.print_list(_listed(session, "mcp.prompts"), "prompts", "there are no prompts", PROMPTS)


def _parameters(prompt: Record) -> str:
    arguments = [(word(each, "name"), each.get("required")) for each in inners(prompt, "arguments")]
    return " ".join(name if required else f"[{name}]" for name, required in arguments)


PROMPTS = Table("NAME ARGUMENTS DESCRIPTION", drop="ARGUMENTS", arguments=_parameters, description=_first_line)


@mcp.define("resources")
def resources(session: Session) -> None:
    """List resources and resource templates."""
    found = _listed(session, "mcp.resources")
    if session.printed_json({key: found.get(key, []) for key in ("resources", "templates")}):
        return
    rows = [
        (word(each, key), word(each, "mimeType", "-"), word(each, "title") or word(each, "name"))
        for kind, key in (("resources", "uri"), ("templates", "uriTemplate"))
        for each in inners(found, kind)
    ]
    if not rows:
        session.note("there are no resources")
        return
    session.print_table(("URI", "TYPE", "NAME"), rows, droppable=("TYPE",))


def _listed(session: Session, method: str, params: Record | None = None) -> dict[str, object]:
    found = session.call(method, params or {}, timeout_s=None)  # it may start servers first
    for name, error in inner(found, "failures").items():
        session.note(f"corral: {name}: {word(render.as_record(error), 'message', 'it failed')}")
    return found


@mcp.define("read")
@click.argument("uri", metavar="URI")
@option("--timeout D", "Give up after this long.", "timeout_s", type=duration)
def read(session: Session, uri: str, timeout_s: float | None) -> None:
    """Read a resource and print its text. Other content is named in brackets."""
    result = session.call("mcp.read", given(uri=uri, timeout_s=timeout_s), timeout_s=waiting_s(timeout_s))
    if session.printed_json(result):
        return
    for text in _texts({"content": [{"resource": each} for each in inners(result, "contents")]}):
        session.print_foreign(text)


# --- servers come and go --------------------------------------------------------------------------


@mcp.define(
    "add",
    cls=AddCommand,
    epilog="""\b
Examples:
  corral mcp add time -- uvx mcp-server-time
  corral mcp add git --deny "git_reset*" -- uvx mcp-server-git
  corral mcp add docs --url https://example.org/mcp

Write the command after --, or give --url in place of a command.""",
)
@click.argument("name", required=False, metavar="NAME")
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
@option("--url URL", "Address of a remote server (streamable HTTP), in place of a command.")
@option("--header K=V", "Request header for --url; repeatable.", "headers", multiple=True)
@option("--env K=V", "Environment variable; repeatable.", "environment", multiple=True)
@option("--label K=V", "Label for selectors; repeatable.", "labels", multiple=True)
@option("--cwd DIR", "Working directory; default is the current one.")
@option("--idle-timeout D", "Stop the server after this long without a call; default 5m.")
@option(
    "--concurrency",
    "Let calls overlap, serialize them, or decide by the tool annotations.",
    type=click.Choice(("auto", "serial", "parallel")),
)
@option(
    "--share", "Scope in which callers share one process of the server.", type=click.Choice(("all", "tenant", "agent"))
)
@option("--deny PATTERN", "Hide tools of the server whose names match; repeatable.", "denied", multiple=True)
@option("--no-start", "Add the server without starting it.")
def add(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Add a server, and start it once to list its tools. A restart of the daemon keeps it."""
    request = {
        "name": options["name"],
        "kind": "mcp",
        "spec": _table(options),
        "directory": os.getcwd(),
        "start": not options["no_start"],
    }
    entry = session.call("agent.add", request, timeout_s=None)
    tools = f", {len(items(entry, 'tools'))} tools" if items(entry, "tools") else ""
    session.answer(entry, f"added {word(entry, 'name')} ({word(entry, 'state', '-')}{tools})")


def _table(options: Mapping[str, Any]) -> dict[str, object]:  # Any: the values of options
    name = options["name"]
    if name is None:
        raise InvalidParams("cannot add: no NAME is given", key="name", value=None)
    if bool(options["command"]) == bool(options["url"]):
        reason = "both a command and --url are given" if options["url"] else "no command and no --url"
        raise InvalidParams(f'cannot add "{name}": {reason}', key="command", value=None)
    spec: dict[str, object] = {"process": {"working_directory": os.path.abspath(options["cwd"] or ".")}}
    spec |= {key: options[key] for key in ("url", "idle_timeout", "concurrency", "share") if options[key] is not None}
    if options["command"]:
        spec["command"] = list(options["command"])
    if options["denied"]:
        spec["denied_tools"] = list(options["denied"])
    for kept, flag in (("environment", "--env"), ("headers", "--header"), ("labels", "--label")):
        if options[kept]:
            spec[kept] = dict(pair(name, flag, each) for each in options[kept])
    return spec


@mcp.define("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_servers)
@option("--cascade", "Also remove agents and servers that require them.")
def rm(session: Session, names: tuple[str, ...], cascade: bool) -> None:
    """Stop and remove servers, all of them or none."""
    known = [word(each, "name") for each in inners(session.call("mcp.servers", {}), "servers")]
    for name in names:
        if name not in known:
            raise NotFound(f'cannot remove "{name}": there is no such MCP server', name=name, known=known)
    request: dict[str, object] = {"names": list(names), "cascade": cascade}
    found = session.call("agent.rm", request, timeout_s=None)
    session.answer(found, *(f"removed {gone}" for gone in items(found, "removed")))
