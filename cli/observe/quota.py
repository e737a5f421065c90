"""Implements `corral quota`: the limits that the daemon holds, and what is used of them."""

import click

from .. import render
from ..context import Session, command, complete_agents, selecting, selection
from ..render import Record, Table, inners, number, word


@command("quota")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
def quota(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show limits and what is used of each.

    These are the limits of queues, calls, tokens and cost that the daemon holds; those of
    processes are in status. A limit that is off is left out. REFUSED counts since the start
    of the daemon. The limits of a tenant, whose name ends with a slash, stand before those
    of its agents.
    """
    document = session.call("quota.list", selection(names, selector))
    if not session.printed_json(document):
        session.print_records(inners(document, "quotas"), QUOTAS)


def _amount(found: Record, key: str) -> str:
    value = number(found, key)
    return render.size(value) if word(found, "key").endswith("_bytes") else f"{value or 0:.12g}"


QUOTAS = Table(
    "NAME LIMIT=key VALUE USED WINDOW=window_s REFUSED",
    drop="WINDOW REFUSED",
    right="VALUE USED WINDOW REFUSED",
    name=lambda found: f"{word(found, 'tenant')}/" if found.get("tenant") else word(found, "name", "(all)"),
    value=lambda found: _amount(found, "limit"),
    used=lambda found: _amount(found, "used"),
)
