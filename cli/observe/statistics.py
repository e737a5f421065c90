"""Implements `corral stats`: totals since the start of the daemon."""

import click

from .. import render
from ..context import Session, command, complete_agents, selecting, selection
from ..render import Record, inner, number, word
from ..screen.samples import KINDS, milliseconds, overhead_line

GROUPS = (*KINDS, "teams", "workflows")

STATISTICS_HEADER = (
    *("NAME", "UP", "SPAWNED", "TASKS", "OK", "FAILED", "CANCELLED", "CALLS"),
    *("CALLS/MIN", "AVERAGE", "P50", "P99", "MEMORY", "CPU"),
)


@command("stats")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
def stats(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show numbers of tasks and tool calls since the start."""
    document = session.call("statistics.show", selection(names, selector))
    if session.printed_json(document):
        return
    named = [(name, found) for group in GROUPS for name, found in inner(document, group).items()]
    lifetime = render.duration(number(document, "uptime_s"))
    session.print(f"since {session.at(word(document, 'since'))}, {lifetime} ago")
    rows = [_statistics_row(name, render.as_record(found)) for name, found in named]
    session.print_table(
        STATISTICS_HEADER,
        [*rows, _statistics_row("(all)", document)],
        droppable=("CANCELLED", "AVERAGE", "SPAWNED", "UP", "CPU", "P50", "CALLS/MIN", "CALLS"),
        right=STATISTICS_HEADER[1:],
    )
    session.print(overhead_line(document))


def _statistics_row(name: str, found: Record) -> list[str]:
    runtime, process = inner(found, "runtime"), inner(found, "process")
    executor = inner(found, "executor")
    return [
        name,
        word(runtime, "active", "-"),
        word(runtime, "spawned", "-"),
        word(executor, "total", "-"),
        word(executor, "ok", "-"),
        word(executor, "failed", "-"),
        word(executor, "cancelled", "-"),
        word(executor, "tool_calls", "-"),
        word(executor, "tool_calls_last_minute", "-"),
        *(milliseconds(executor, key) for key in ("average_ms", "p50_ms", "p99_ms")),
        render.size(number(process, "memory_bytes")),
        milliseconds(process, "cpu_ms"),
    ]
