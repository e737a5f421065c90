"""Implements `corral stats` and `corral top`: totals since the start of the daemon, and the present load."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from ...worker.client.sync import Client
from .. import render
from ..context import (
    ANSWER_S,
    Command,
    Session,
    complete_agents,
    duration,
    selecting,
    selection,
)
from ..render import Record, inner, inners, number, word

GROUPS = ("agents", "mcp_servers", "teams", "workflows")

STATISTICS_HEADER = (
    *("NAME", "UP", "SPAWNED", "TASKS", "OK", "FAILED", "CANCELLED", "CALLS"),
    *("CALLS/MIN", "AVERAGE", "P50", "P99", "MEMORY", "CPU"),
)

TOP_HEADER = (
    *("NAME", "STATE", "WORKERS", "CPU%", "MEMORY", "RUNNING", "QUEUED", "OK", "FAILED"),
    *("CALLS", "P50", "RESTARTS"),
)

INTERVAL_S = 2.0
INTERVAL_LEAST_S = 0.1

CLEAR = "\x1b[H\x1b[2J"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
"""Control sequences of ECMA-48: the new frame overwrites the old one, which avoids flicker."""

LINES = 24
"""Number of lines of a terminal that does not report it."""


@click.command("stats", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
@click.pass_obj
def stats(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show numbers of tasks and tool calls since the start."""
    document = session.call("statistics.show", selection(names, selector))
    if session.json:
        session.print_json(document)
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
    session.print(_overhead_line(document))


def _overhead_line(found: Record) -> str:
    """Returns the resident memory of corral's own processes, which the totals include."""
    words: list[str] = []
    for part, figures in inner(found, "overhead").items():
        active = number(render.as_record(figures), "active") or 0
        memory = render.size(number(render.as_record(figures), "memory_bytes"))
        words.append(f"{active:.0f} zygotes {memory}" if part == "zygotes" else f"{part} {memory}")
    return f"corral itself (RSS, part of the totals): {', '.join(words)}"


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
        *(_milliseconds(executor, key) for key in ("average_ms", "p50_ms", "p99_ms")),
        render.size(number(process, "memory_bytes")),
        _milliseconds(process, "cpu_ms"),
    ]


def _milliseconds(record: Record, key: str) -> str:
    found = number(record, key)
    if found is not None and found < 9.95:
        return f"{found:.1f}ms"
    return render.duration(None if found is None else found / 1000)


# --- top ------------------------------------------------------------------------------------------

Order = Callable[[Record], tuple[object, ...]]

ORDERS: Mapping[str, Order] = {
    "cpu": lambda row: (-(number(row, "cpu_percent") or 0), word(row, "name")),
    "memory": lambda row: (-(number(row, "memory_bytes") or 0), word(row, "name")),
    "tasks": lambda row: (
        *(-(number(row, key) or 0) for key in ("running", "queued", "total")),
        word(row, "name"),
    ),
    "name": lambda row: (word(row, "name"),),
}
"""Name of an order -> sort key; equal rows are sorted by name."""


@click.command("top", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@click.option(
    "--interval",
    type=duration,
    default="2s",
    metavar="D",
    help="Time between two samples; default 2s.",
)
@click.option(
    "-n", "count", type=click.IntRange(1), metavar="COUNT", help="Exit after this many samples."
)
@click.option("--once", is_flag=True, help="Print one sample and exit, like -n 1.")
@click.option(
    "--sort", type=click.Choice(list(ORDERS)), default="cpu", help="Column to sort by; default cpu."
)
@selecting
@click.pass_obj
def top(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Show the load of agents and MCP servers until Ctrl-C."""
    interval_s: float = options["interval"]
    if interval_s < INTERVAL_LEAST_S:
        raise click.BadParameter(f"it is less than {INTERVAL_LEAST_S:g}s", param_hint="--interval")
    left: int | None = 1 if options["once"] else options["count"]
    params = selection(options["names"], options["selector"])
    is_first = True
    try:
        with session.connect() as connection:
            while True:
                frame = _sample(connection, params, ORDERS[options["sort"]])
                _write(session, frame, is_first=is_first, is_only=left == 1 and is_first)
                is_first = False
                left = None if left is None else left - 1
                if left == 0:
                    return
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


FRAME = ("since", "uptime_s", "runtime", "process", "executor", "overhead")


def _sample(connection: Client, params: Record, order: Order) -> dict[str, object]:
    """Returns one sample, as `top --json` prints it."""
    status = render.as_record(connection.call("daemon.status", params, timeout_s=ANSWER_S))
    found = render.as_record(connection.call("statistics.show", params, timeout_s=ANSWER_S))
    known = {name: each for group in GROUPS[:2] for name, each in inner(found, group).items()}
    rows = [
        _row(entry, render.as_record(known.get(word(entry, "name"))))
        for key in GROUPS[:2]
        for entry in inners(status, key)
    ]
    return {
        "at": _now(),
        "tasks": status.get("tasks"),
        **{key: found.get(key) for key in FRAME},
        "agents": sorted(rows, key=order),
    }


def _row(entry: Record, figures: Record) -> dict[str, object]:
    workers, executor = inners(entry, "workers"), inner(figures, "executor")
    present = [worker for worker in workers if worker.get("pid") is not None]
    return {
        "name": word(entry, "name"),
        "kind": word(entry, "kind", "agent"),
        "state": word(entry, "state", "-"),
        "up": inner(figures, "runtime").get("active"),
        "workers": len(workers),
        "cpu_percent": round(sum(number(worker, "cpu_percent") or 0 for worker in present), 1),
        "memory_bytes": sum(int(number(worker, "rss_bytes") or 0) for worker in present),
        "running": sum(worker.get("state") == "Busy" for worker in workers),
        "queued": entry.get("queued", 0),
        "restarts": sum(int(number(worker, "restarts") or 0) for worker in workers),
        "renewals": sum(int(number(worker, "renewals") or 0) for worker in workers),
        **{
            key: executor.get(key)
            for key in ("total", "ok", "failed", "tool_calls", "p50_ms", "p99_ms")
        },
    }


def _now() -> str:
    seconds = time.time()
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{day}.{int(seconds % 1 * 1000):03d}Z"


def _write(session: Session, frame: dict[str, object], *, is_first: bool, is_only: bool) -> None:
    if session.json:
        session.print_ndjson([frame])
        return
    lines = _lines(session, frame)
    if not session.is_terminal:
        session.print("\n".join([*([] if is_first else [""]), *lines]))
    elif is_only:
        session.print("\n".join(lines))
    else:
        room = _height() - 1
        if len(lines) > room:
            lines[room - 1 :] = [f"… and {len(lines) - room + 1} more"]
        over = CLEAR if is_first else HOME
        session.stdout.write(over + "".join(f"{line}{REST_OF_LINE}\n" for line in lines))
        session.stdout.write(REST_OF_SCREEN)
    session.stdout.flush()


def _height() -> int:
    try:
        return os.get_terminal_size().lines or LINES
    except OSError:
        return LINES


def _lines(session: Session, frame: Record) -> list[str]:
    tasks, process = inner(frame, "tasks"), inner(frame, "process")
    head = (
        f"{session.at(word(frame, 'at'))}  up {render.duration(number(frame, 'uptime_s'))}  "
        f"{word(process, 'active')} processes, {render.size(number(process, 'memory_bytes'))}  "
        f"tasks: {word(tasks, 'running')} running, {word(tasks, 'queued')} queued, "
        f"{word(tasks, 'succeeded')} succeeded, {word(tasks, 'failed')} failed"
    )
    paint = {key: render.COLOURS[value] for key, value in render.STATE_COLOURS.items()}
    table = render.table(
        TOP_HEADER,
        [[render.one_line(cell) for cell in _top_row(row)] for row in inners(frame, "agents")],
        width=session.width,
        droppable=("RESTARTS", "P50", "CALLS", "QUEUED", "WORKERS", "STATE"),
        right=TOP_HEADER[2:],
        paint=paint if session.colours else None,
    )
    if session.colours:
        table[0] = render.styled(table[0], render.COLOURS["bold"])
    heads = [head, _overhead_line(frame)]
    width = session.width
    return [*(each if width is None else render.cut(each, width) for each in heads), *table]


def _top_row(row: Record) -> list[str]:
    up, workers = word(row, "up", "-"), word(row, "workers")
    return [
        word(row, "name"),
        word(row, "state"),
        f"{up}/{workers}",
        f"{number(row, 'cpu_percent') or 0:.1f}",
        render.size(number(row, "memory_bytes")),
        word(row, "running"),
        word(row, "queued"),
        word(row, "ok", "-"),
        word(row, "failed", "-"),
        word(row, "tool_calls", "-"),
        _milliseconds(row, "p50_ms"),
        word(row, "restarts"),
    ]
