"""Implements `corral nodes` and `corral node`: lists the nodes of the cluster, and drains one."""

import click

from .. import render
from ..context import Command, CommandGroup, Session, complete_names
from ..render import word

HEADER = ("NODE", "STATE", "LOAD", "CAPACITY", "LABELS", "VERSION", "")

complete_nodes = complete_names("node.list", "nodes")

node = CommandGroup("node", help="Drain a node of the cluster, and take it back.")


@click.command("nodes", cls=Command)
@click.pass_obj
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


@node.command("drain", cls=Command)
@click.argument("name", metavar="NAME", shell_complete=complete_nodes)
@click.pass_obj
def drain(session: Session, name: str) -> None:
    """Move the placed agents of a node to other nodes.

    It gets none until `resume`. Its local agents go on.
    """
    _print(session, session.call("node.drain", {"name": name}))


@node.command("resume", cls=Command)
@click.argument("name", metavar="NAME", shell_complete=complete_nodes)
@click.pass_obj
def resume(session: Session, name: str) -> None:
    """Let a node get placed agents again."""
    _print(session, session.call("node.resume", {"name": name}))


def _print(session: Session, found: object) -> None:
    record = render.as_record(found)
    if session.json:
        session.print_json(record)
    else:
        session.print(f"{word(record, 'name')}: {word(record, 'state')}")
