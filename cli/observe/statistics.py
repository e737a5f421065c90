"""Implements `corral stats`: totals since the start of the daemon."""

import click

from .. import render
from ..context import Session, command, complete_agents, selecting, selection
from ..render import Table, inner, number, word
from ..screen.samples import KINDS, milliseconds, overhead_line

GROUPS = (*KINDS, "teams", "workflows")

STATISTICS = Table(
    "NAME UP=runtime.active SPAWNED=runtime.spawned TASKS=executor.total OK=executor.ok FAILED=executor.failed "
    "CANCELLED=executor.cancelled CALLS=executor.tool_calls CALLS/MIN=executor.tool_calls_last_minute "
    "AVERAGE P50 P99 MEMORY=process.memory_bytes CPU",
    drop="CANCELLED AVERAGE SPAWNED UP CPU P50 CALLS/MIN CALLS",
    right="UP SPAWNED TASKS OK FAILED CANCELLED CALLS CALLS/MIN AVERAGE P50 P99 MEMORY CPU",
    average=lambda found: milliseconds(inner(found, "executor"), "average_ms"),
    p50=lambda found: milliseconds(inner(found, "executor"), "p50_ms"),
    p99=lambda found: milliseconds(inner(found, "executor"), "p99_ms"),
    cpu=lambda found: milliseconds(inner(found, "process"), "cpu_ms"),
)


@command("stats")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
def stats(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show numbers of tasks and tool calls since the start."""
    document = session.call("statistics.show", selection(names, selector))
    if session.printed_json(document):
        return
    named = [
        {**render.as_record(found), "name": name} for group in GROUPS for name, found in inner(document, group).items()
    ]
    lifetime = render.duration(number(document, "uptime_s"))
    session.print(f"since {session.at(word(document, 'since'))}, {lifetime} ago")
    session.print_records([*named, {**document, "name": "(all)"}], STATISTICS)
    session.print(overhead_line(document))
