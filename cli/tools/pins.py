"""Implements `corral mcp diff` and `accept`: tools of MCP servers whose words are not those that were accepted."""

import difflib
from collections.abc import Iterator, Mapping

import click

from .. import render
from ..context import Session, complete_names, given, option
from ..render import Record, inner, inners, items, word

complete_servers = complete_names("mcp.servers", "servers")


def _params(name: str) -> dict[str, object]:
    server, _, tool = name.partition("__")
    return given(name=server, tool=tool or None)


@click.command("diff")
@click.argument("name", metavar="SERVER[__TOOL]", shell_complete=complete_servers)
@click.pass_obj
def diff(session: Session, name: str) -> None:
    """Show how the tools of a server differ from what was accepted."""
    found = session.call("mcp.diff", _params(name))
    if session.printed_json(found):
        return
    changes = inners(found, "changes")
    if not changes:
        session.note(f"all tools of {name} are as they were accepted")
        return
    for change in changes:
        for line in _lines(word(found, "name"), change):
            session.print_line(line)
    session.note(f"to accept this, and nothing newer: corral mcp accept {name} --digest {word(found, 'digest')}")


@click.command("accept")
@click.argument("name", metavar="SERVER[__TOOL]", shell_complete=complete_servers)
@option("--digest DIGEST", "Refuse if anything has changed since the diff that showed this digest.", "digest")
@click.pass_obj
def accept(session: Session, name: str, digest: str | None) -> None:
    """Accept the words that the tools of a server have now. Those that were held can be called again."""
    found = session.call("mcp.accept", _params(name) | given(digest=digest))
    tools = ", ".join(map(str, items(found, "tools")))
    session.answer(found, f"accepted of {word(found, 'name')}: {tools}" if tools else f"nothing of {name} has changed")


def _lines(server: str, change: Record) -> Iterator[str]:
    """Yields what has changed of one tool, as `diff -u` has it."""
    held = ", held" if change.get("held") else ""
    yield f"{server}__{word(change, 'tool')}: {', '.join(map(str, items(change, 'parts')))}{held}"
    before, after = inner(change, "accepted"), inner(change, "pending")
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            earlier, now = _text(before, key), _text(after, key)
            yield f"  {key}"
            for line in list(difflib.unified_diff(earlier, now, n=2, lineterm=""))[2:]:
                if not line.startswith("@@"):
                    yield f"    {line}"


def _text(words: Mapping[str, object], key: str) -> list[str]:
    value = words.get(key)
    if value is None:
        return []
    return value.splitlines() if isinstance(value, str) else render.json_text(value, indent=True).splitlines()
