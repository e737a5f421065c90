"""`corral mcp …`: the servers of the pool, their tools, and one call."""

from collections.abc import Iterable, Mapping

import click

from ..worker.errors import InvalidParams
from . import render
from .render import inner, inners, items, word
from .session import Noun, Session, complete_names, duration, json_value, waiting_s

mcp = Noun("mcp", help="MCP servers and their tools. As every client of the pool sees them.")

complete_servers = complete_names("mcp.servers", "servers")
complete_tools = complete_names("mcp.tools", "tools")


@mcp.command("servers")
@click.pass_obj
def servers(session: Session) -> None:
    """List MCP servers, whether they are up, and how many tools each has."""
    found = session.call("mcp.servers", {})
    if session.json:
        session.print_json(found.get("servers", []))
        return
    entries = inners(found, "servers")
    if not entries:
        session.note("there are no MCP servers")
        return
    rows = [
        (
            word(entry, "name"),
            word(entry, "state", "-"),
            str(len(items(entry, "tools"))),
            " ".join(map(str, items(entry, "tools"))),
        )
        for entry in entries
    ]
    session.print_table(("NAME", "STATE", "TOOLS", "NAMES"), rows, right=("TOOLS",))


@mcp.command("tools")
@click.argument("server", required=False, metavar="[SERVER]", shell_complete=complete_servers)
@click.pass_obj
def tools(session: Session, server: str | None) -> None:
    """List tools with what they do and what they take."""
    params = {} if server is None else {"server": server}
    found = session.call("mcp.tools", params, timeout_s=None)  # it may start a server first
    if session.json:
        session.print_json(found.get("tools", []))
        return
    for name, error in inner(found, "failures").items():
        session.note(f"corral: {name}: {word(render.as_record(error), 'message', 'it failed')}")
    records = inners(found, "tools")
    if not records:
        session.note("there are no tools")
        return
    rows = [
        (word(tool, "name"), _arguments(tool), word(tool, "description").strip().partition("\n")[0])
        for tool in records
    ]
    session.print_table(("NAME", "ARGUMENTS", "DESCRIPTION"), rows, droppable=("ARGUMENTS",))


def _arguments(tool: Mapping[str, object]) -> str:
    """The names that the schema has: required ones first, others in brackets."""
    schema = inner(tool, "input_schema")
    required = [str(name) for name in items(schema, "required")]
    optional = [name for name in inner(schema, "properties") if name not in required]
    return " ".join((*required, *(f"[{name}]" for name in optional)))


@mcp.command("call")
@click.argument("name", metavar="SERVER__TOOL", shell_complete=complete_tools)
@click.option(
    "--args",
    "arguments",
    default="{}",
    metavar="JSON|@FILE|-",
    help="What the tool takes; default {}.",
)
@click.option("--timeout", "timeout_s", type=duration, metavar="D", help="Give up after that long.")
@click.pass_obj
def call(session: Session, name: str, arguments: str, timeout_s: float | None) -> int:
    """Call a tool and print the text that it answers; 1 when it answers an error."""
    given = json_value(arguments, "--args")
    if not isinstance(given, dict):
        raise InvalidParams(
            "cannot read --args: it is no JSON object", key="--args", value=arguments
        )
    params: dict[str, object] = {"name": name, "arguments": given}
    if timeout_s is not None:
        params["timeout_s"] = timeout_s
    result = session.call("mcp.call", params, timeout_s=waiting_s(timeout_s))
    if session.json:
        session.print_json(result)
    else:
        for text in _texts(result):
            session.print_foreign(text)
    if result.get("isError"):
        session.note(f'corral: cannot finish the call of "{name}": the tool answered an error')
        return 1
    return 0


def _texts(result: Mapping[str, object]) -> Iterable[str]:
    """The content for people: text as it is, the rest by name; structured content where there is nothing else."""
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
        what = word(block, "mimeType") or word(resource, "mimeType")
        yield f"[{' '.join(part for part in (kind or 'content', where, what) if part)}]"
