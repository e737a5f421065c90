"""Implements `corral quota`: the limits that the daemon holds, and what is used of them."""

import click

from .. import render
from ..context import Session, command, complete_agents, selecting, selection
from ..render import Record, inners, number, word

HEADER = ("NAME", "LIMIT", "VALUE", "USED", "WINDOW", "REFUSED")

BYTES = "_bytes"


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
    if session.printed_json(document):
        return
    session.print_table(
        HEADER, [_row(each) for each in inners(document, "quotas")], droppable=("WINDOW", "REFUSED"), right=HEADER[2:]
    )


def _row(found: Record) -> list[str]:
    key = word(found, "key")
    window_s = number(found, "window_s")
    return [
        f"{word(found, 'tenant')}/" if found.get("tenant") else word(found, "name", "(all)"),
        key,
        _amount(key, number(found, "limit")),
        _amount(key, number(found, "used")),
        "-" if window_s is None else render.duration(window_s),
        word(found, "refused"),
    ]


def _amount(key: str, value: float | None) -> str:
    return render.size(value) if key.endswith(BYTES) else f"{value or 0:.12g}"
