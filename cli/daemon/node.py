"""Implements `corral nodes` and `corral node`: lists the nodes of the cluster, and drains one."""

from collections.abc import Mapping

import click

from corral.worker.contract.errors import NotFound

from .. import render
from ..context import CommandGroup, Session, command, complete_names
from ..render import Table, inner, items, number, word

complete_nodes = complete_names("node.list", "nodes")

node = CommandGroup("node", help="Show, drain and resume a node of the cluster.")


@command("nodes")
def nodes(session: Session) -> None:
    """List the nodes of the cluster, or the last known ones."""
    session.print_list(session.call("node.list", {}), "nodes", "no node has a lease", NODES)


def _labels(record: Mapping[str, object]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(inner(record, "labels").items()))


NODES = Table(
    "NODE=name STATE LOAD CAPACITY LABELS VERSION =here",
    drop="VERSION LABELS",
    right="LOAD CAPACITY",
    labels=_labels,
    here=lambda record: "here" if record.get("here") is True else "",
)


@node.define("show")
@click.argument("name", metavar="NAME", shell_complete=complete_nodes)
def show(session: Session, name: str) -> None:
    """Show a node, with the agents and MCP servers that it runs."""
    records = render.inners(session.call("node.list", {}), "nodes")
    record = next((each for each in records if word(each, "name") == name), None)
    if record is None:
        raise NotFound(f'cannot find node "{name}"', name=name, known=[word(each, "name") for each in records])
    status = session.call("daemon.status", {"node": name})
    agents = [
        {key: each.get(key) for key in ("name", "kind", "state")}
        for kind in ("agents", "mcp_servers")
        for each in render.inners(status, kind)
    ]
    daemon, tasks = inner(status, "daemon"), inner(status, "tasks")
    if session.printed_json({**record, "daemon": daemon, "tasks": tasks, "agents": agents}):
        return
    session.print_fields(
        {
            **{key: word(record, key) for key in ("name", "state", "version")},
            "load": f"{word(record, 'load')} of {word(record, 'capacity')}",
            "labels": _labels(record) or "-",
            "uptime": render.duration(number(daemon, "uptime_s")),
            "degraded": ", ".join(map(str, items(daemon, "degraded"))),
            "tasks": ", ".join(f"{count} {state}" for state, count in tasks.items()),
        }
    )
    if agents:
        session.print("")
        session.print_records(agents, Table("NAME KIND STATE"))


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


def _print(session: Session, record: Mapping[str, object]) -> None:
    session.answer(record, f"{word(record, 'name')}: {word(record, 'state')}")
