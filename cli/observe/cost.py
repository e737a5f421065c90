"""Implements `corral cost`: prints the usage of ended tasks, summed from the store."""

import click

from .. import render
from ..context import Session, between, command, complete_agents, given, option
from ..render import Record, inner, inners, number, word

GROUPS = ("agent", "session", "day", "hour", "tenant")


@command(
    "cost",
    epilog="""\b
Examples:
  corral cost --since 24h
  corral cost --by day --agent crawler
  corral cost --by session --since 1h --json
""",
)
@option(
    "--by", "Sum by this; days and hours are of UTC.", type=click.Choice(GROUPS), default="agent", show_default=True
)
@option("--since T", "Count only tasks that ended since: 24h (ago), or a time.")
@option("--until T", "Count only tasks that ended before this.")
@option("--agent NAME", "Count only this agent.", shell_complete=complete_agents)
def cost(session: Session, by: str, since: str | None, until: str | None, agent: str | None) -> None:
    """Show tokens, cents and processor time of ended tasks.

    Tokens and cents are what agents have reported. Sums stay when an agent is removed.
    """
    document = session.call("cost.list", given(by=by, agent=agent) | between(since, until))
    if session.printed_json(document):
        return
    costs = inners(document, "costs")
    if not costs:
        session.note("no task has ended in this time")
        return
    first = ("AGENT", "SESSION") if by == "session" else ("FROM",) if by in ("day", "hour") else (by.upper(),)
    header = (*first, "TASKS", "FAILED", "TOKENS", "CENTS", "CPU")
    rows = [[*_names(by, each), *_figures(each)] for each in costs]
    total = inner(document, "total")
    if len(costs) > 1:
        rows.append(["(all)", *[""] * (len(first) - 1), *_figures(total)])
    session.print_table(header, rows, droppable=("FAILED", "CPU"), right=header[len(first) :])


def _names(by: str, found: Record) -> list[str]:
    if by == "session":
        return [word(found, "name"), word(found, "session", "-")]
    if by in ("day", "hour"):
        at = word(found, "at")
        return [at[:10] if by == "day" else f"{at[:13]}h".replace("T", " ")]
    return [word(found, "name", "-")]


def _figures(found: Record) -> list[str]:
    return [
        word(found, "tasks"),
        word(found, "failed"),
        word(found, "tokens"),
        f"{number(found, 'cost_cents') or 0:.12g}",
        render.duration((number(found, "cpu_ms") or 0) / 1000),
    ]
