"""Implements `corral nodes` and `corral node`: lists the nodes of the cluster, and drains one."""

import click

from corral.worker.contract.errors import NotFound

from .. import render
from ..context import CommandGroup, Session, command, complete_names
from ..render import inner, number, word

HEADER = ("NODE", "STATE", "LOAD", "CAPACITY", "LABELS", "VERSION", "")

complete_nodes = complete_names("node.list", "nodes")

node = CommandGroup("node", help="Show a node of the cluster, drain it, and take it back.")


@command("nodes")
def nodes(session: Session) -> None:
    """List the nodes of the cluster, or the last known ones."""
    found = session.call("node.list", {})
    records = session.records(found, "nodes", "no node has a lease")
    if not records:
        return
    rows: list[list[str]] = []
    for record in records:
        labels = render.as_record(record.get("labels"))
        cells = [word(record, key) for key in ("name", "state", "load", "capacity")]
        cells.append(",".join(f"{key}={value}" for key, value in sorted(labels.items())))
        here = "here" if record.get("here") is True else ""
        rows.append([*cells, word(record, "version"), here])
    session.print_table(HEADER, rows, droppable=("VERSION", "LABELS"), right=("LOAD", "CAPACITY"))


@node.define("show")
@click.argument("name", metavar="NAME", shell_complete=complete_nodes)
def show(session: Session, name: str) -> None:
    """Show a node, with the agents and MCP servers that it runs."""
    found = session.call("node.list", {})
    records = render.inners(render.as_record(found), "nodes")
    record = next((each for each in records if word(each, "name") == name), None)
    if record is None:
        known = [word(each, "name") for each in records]
        raise NotFound(f'cannot find node "{name}"', name=name, known=known)
    status = render.as_record(session.call("daemon.status", {"node": name}))
    agents = [
        {key: each.get(key) for key in ("name", "kind", "state")}
        for kind in ("agents", "mcp_servers")
        for each in render.inners(status, kind)
    ]
    daemon, tasks = inner(status, "daemon"), inner(status, "tasks")
    if session.printed_json({**record, "daemon": daemon, "tasks": tasks, "agents": agents}):
        return
    labels, degraded = render.as_record(record.get("labels")), daemon.get("degraded")
    session.print_fields(
        {
            **{key: word(record, key) for key in ("name", "state", "version")},
            "load": f"{word(record, 'load')} of {word(record, 'capacity')}",
            "labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-",
            "uptime": render.duration(number(daemon, "uptime_s")),
            "degraded": ", ".join(map(str, degraded)) if isinstance(degraded, list) else "",
            "tasks": ", ".join(f"{count} {state}" for state, count in tasks.items()),
        }
    )
    rows = [[word(each, key) for key in ("name", "kind", "state")] for each in agents]
    if rows:
        session.print("")
        session.print_table(("NAME", "KIND", "STATE"), rows)


@node.define("drain")
@click.argument("name", metavar="NAME", shell_complete=complete_nodes)
def drain(session: Session, name: str) -> None:
    """Move the placed agents of a node to other nodes.

    It gets none until `resume`. Its local agents go on.
    """
    _print(session, session.call("node.drain", {"name": name}))


@node.define("resume")
@click.argument("name", metavar="NAME", shell_complete=complete_nodes)
def resume(session: Session, name: str) -> None:
    """Let a node get placed agents again."""
    _print(session, session.call("node.resume", {"name": name}))


def _print(session: Session, found: object) -> None:
    record = render.as_record(found)
    if session.json:
        session.print_json(record)
    else:
        session.print(f"{word(record, 'name')}: {word(record, 'state')}")
