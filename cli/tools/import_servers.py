"""Implements `corral mcp import`: adds the MCP servers of the files of editors and agents.

`import_files` finds and reads the files, `import_convert` translates their entries to tables of corral's configuration.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from corral.worker.contract.errors import Conflict, InvalidParams, from_wire

from .. import render
from ..context import Session, command, option, pair
from ..new_file import write_new
from ..render import inner, items
from .import_convert import Server, Skipped, chosen, hidden, toml, with_references
from .import_files import Section, Surroundings, read, usual_files


@command("import", epilog="Variables are expanded during the import; the daemon expands ${secret:NAME}.")
@click.argument("words", nargs=-1, metavar="[FILE]...", type=click.Path())
@option("--scan", "Search the usual files of editors; import [NAME]... or --all of their servers.")
@option("--all", "With --scan, import all servers found.", "everything")
@option("--only NAME", "Import only this server; repeatable.", multiple=True)
@option("--project DIR", "Import only servers of this project folder, and those of all projects.")
@option("--rename OLD=NEW", "Import server OLD under the name NEW; repeatable.", "renames", multiple=True)
@option("--input ID=VALUE", "Value of ${input:ID}; repeatable.", "inputs", multiple=True)
@option("--replace", "Replace servers of the same name that differ and were added at run time.")
@option("--start", "Start each server now instead of at its first call.")
@option("--dry-run", "Print the changes without making them.")
@option("--write FILE|-", "Write TOML to a file instead of changing the daemon.")
def import_(session: Session, /, **options: Any) -> None:  # Any: the values of the options
    """Import MCP servers from files of editors and agents."""
    around = Surroundings(
        os.environ,
        os.path.expanduser("~"),
        dict(pair("inputs", "--input", each) for each in options["inputs"]),
        os.path.abspath(options["project"]) if options["project"] else None,
    )
    only = [*options["only"], *(options["words"] if options["scan"] else ())]
    sections, failures = _sections(session, around, options)
    if options["scan"] and not (only or options["everything"]):
        _print_found(session, sections, failures)
        return
    renames = dict(pair("names", "--rename", each) for each in options["renames"])
    servers, skipped = chosen(sections, around, only=only, renames=renames)
    _print_notes(session, servers, skipped, is_written=options["write"] is not None)
    if options["write"] is not None:
        _write(session, servers, skipped, options["write"])
    elif servers:
        _take(session, servers, skipped, options)
    elif session.json:
        session.print_json({"added": [], "changed": {}, "unchanged": [], **_untaken(skipped)})
    else:
        session.print("there is nothing to import")


def _sections(
    session: Session, around: Surroundings, options: Mapping[str, Any]
) -> tuple[list[Section], dict[str, str]]:
    """Returns the sections of the named or, with --scan, found files, and why some of these cannot be read."""
    failures: dict[str, str] = {}
    if not (options["scan"] or options["words"]):
        raise InvalidParams("cannot import: give a FILE or --scan", key="FILE", value=None)
    if not options["scan"]:
        sections = [each for path in options["words"] for each in read(path, around.home)]
        if not any(each.entries for each in sections):
            keys = "mcpServers, servers, context_servers or mcp_servers"
            words = f'cannot import "{options["words"][0]}": it has no MCP servers under {keys}'
            raise InvalidParams(words, file=options["words"][0], reason="no servers")
    else:
        sections = list[Section]()
        for _client, path in usual_files(around, around.project or os.getcwd()):
            try:
                sections += read(path, around.home)
            except InvalidParams as error:
                failures[path] = error.message
                session.note(f"corral: {error.message}")
    if around.project is not None:
        sections = [each for each in sections if each.project in (None, around.project)]
    return [each for each in sections if each.entries], failures


def _print_found(session: Session, sections: Sequence[Section], failures: Mapping[str, str]) -> None:
    if session.json:
        found = [{"file": each.file, "project": each.project, "servers": list(each.entries)} for each in sections]
        session.print_json({"found": found, "failures": failures})
        return
    if not sections:
        session.print("no usual file has MCP servers")
        return
    session.print_table(("NAME", "FILE"), [(name, each.place) for each in sections for name in each.entries])
    session.note('"corral mcp import --scan NAME..." imports some, --all imports all of them')


def _print_notes(session: Session, servers: Sequence[Server], skipped: Sequence[Skipped], *, is_written: bool) -> None:
    for each in skipped:
        session.note(f"skipped {each.name} of {each.place}: {each.reason}")
    for server in servers:
        for note in server.notes:
            session.note(f"{server.original}: {note}")
        if server.secrets and not is_written:
            names = ", ".join(name for _, name in server.secrets)
            advice = "kept as it stands; safer is ${secret:NAME} in its place"
            session.note(f"{server.original}: looks like a secret: {names}: {advice}")


def _untaken(skipped: Sequence[Skipped], servers: Sequence[Server] = ()) -> dict[str, object]:
    return {
        "skipped": [each._asdict() for each in skipped],
        "notes": {server.name: list(server.notes) for server in servers if server.notes},
        "secrets": {s.name: [name for _, name in s.secrets] for s in servers if s.secrets},
    }


def _write(session: Session, servers: Sequence[Server], skipped: Sequence[Skipped], target: str) -> None:
    """Writes TOML with references in place of values that look like secrets; never overwrites a file."""
    servers, wanted = with_references(servers)
    text = toml(servers)
    if target == "-":
        if session.json:
            session.print_json({"toml": text, "wanted": wanted, **_untaken(skipped, servers)})
        else:
            sys.stdout.write(text)
    else:
        write_new(target, text)
        names = [server.name for server in servers]
        if session.json:
            found = {"file": target, "servers": names, "wanted": wanted}
            session.print_json({**found, **_untaken(skipped, servers)})
        else:
            session.print_line(f"wrote {len(names)} servers to {target}")
    if wanted:
        names = sorted({name for each in wanted.values() for name in each})
        session.note(f"write NAME=VALUE lines for these into [daemon] secrets_file: {', '.join(names)}")


def _take(session: Session, servers: Sequence[Server], skipped: Sequence[Skipped], options: Mapping[str, Any]) -> None:
    """Adds the servers to the running set; with --dry-run prints the changes only."""
    is_dry = options["dry_run"]
    request = {
        "agents": [
            {"name": each.name, "kind": "mcp", "spec": each.table, "directory": os.getcwd()} for each in servers
        ],
        "start": options["start"],
        "present": "replace" if options["replace"] else "keep",
        "dry_run": is_dry,
    }
    places = {each.name: f'"{each.original}" of {each.place}' for each in servers}
    try:
        found = session.call("agent.add_all", request, timeout_s=None)
    except Conflict as error:
        if (place := places.get(str(error.data.get("name")))) is None:
            raise
        reason = error.message.partition(": ")[2]
        hint = "--replace, --rename or --only" if error.data.get("changed") else "--rename or --only"
        raise Conflict(f"cannot import {place}: {reason}; {hint}", **error.data) from error
    if session.json:
        done = {key: found.get(key) for key in ("added", "changed", "unchanged", "failures")}
        tables = {"servers": {s.name: hidden(s.table) for s in servers}} if is_dry else {}
        session.print_json({**done, **tables, **_untaken(skipped, servers)})
    else:
        _print_taken(session, found, servers if is_dry else (), is_refused=not options["replace"])
    for failure in inner(found, "failures").values():  # it was added all the same
        raise from_wire(failure)


def _print_taken(session: Session, found: Mapping[str, object], dry: Sequence[Server], *, is_refused: bool) -> None:
    verbs = ("would add", "would leave", "would replace") if dry else ("added", "unchanged", "replaced")
    lines = [f"{verbs[0]} {name}" for name in items(found, "added")]
    lines += [f"{verbs[1]} {name}" for name in items(found, "unchanged")]
    for name, keys in inner(found, "changed").items():
        verb = "would refuse" if dry and is_refused else verbs[2]
        hint = "; see --replace" if dry and is_refused else ""
        words = ", ".join(str(key) for key in render.items({"keys": keys}, "keys"))
        lines.append(f"{verb} {name}: it differs in {words}{hint}")
    for line in lines:
        session.print_line(line)
    if dry:
        session.print("\n" + toml([each._replace(table=hidden(each.table)) for each in dry]).rstrip())
    elif items(found, "added"):
        session.note('a server starts at its first call; "corral mcp tools" starts each once')
