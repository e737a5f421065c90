"""Implements `corral top`: a screen on a terminal; samples as lines or JSON for a pipe, a dumb terminal, and a count."""

import os
import sys
import time
from importlib.util import find_spec
from typing import Any

import click

from .. import render
from ..context import ANSWER_S, Session, admit_msgspec, command, complete_agents, duration, option, selecting, selection
from ..render import Record, inner, inners, number, word
from ..screen.samples import ORDERS, key_of, milliseconds, overhead_line, sample

SAMPLE = render.Table(
    "NAME STATE WORKERS CPU%=cpu MEMORY RUNNING QUEUED OK FAILED CALLS=tool_calls P50 RESTARTS REASON",
    drop="RESTARTS P50 CALLS QUEUED WORKERS STATE",
    right="WORKERS CPU% MEMORY RUNNING QUEUED OK FAILED CALLS P50 RESTARTS",
    name=key_of,
    workers=lambda row: f"{word(row, 'up', '-')}/{word(row, 'workers')}",
    cpu=lambda row: f"{number(row, 'cpu_percent') or 0:.1f}",
    memory=lambda row: render.size(number(row, "memory_bytes") or None),  # 0 is not measured yet
    p50=lambda row: milliseconds(row, "p50_ms"),
)

INTERVAL_LEAST_S = 0.1

CLEAR = "\x1b[H\x1b[2J"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
"""Control sequences of ECMA-48: the new frame overwrites the old one, which avoids flicker."""

LINES = 24
"""Number of lines of a terminal that does not report it."""

DUMB = frozenset({"", "dumb", "unknown"})
"""Values of TERM of a terminal that cannot move its cursor."""


@command("top")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@option("--interval D", "Time between two samples; default 2s.", type=duration, default="2s")
@option("-n COUNT", "Exit after this many samples.", "count", type=click.IntRange(1))
@option("--once", "Print one sample and exit, like -n 1.")
@option("--sort", "Column to sort by; default cpu.", type=click.Choice(list(ORDERS)), default="cpu")
@selecting
def top(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Watch and control agents and MCP servers on a screen.

    In a cluster they are those of all nodes, as NAME@NODE. On a terminal ? lists the keys, and q ends it. Elsewhere, and with --json, -n or --once, it prints samples.
    """
    interval_s: float = options["interval"]
    if interval_s < INTERVAL_LEAST_S:
        raise click.BadParameter(f"it is less than {INTERVAL_LEAST_S:g}s", param_hint="--interval")
    left: int | None = 1 if options["once"] else options["count"]
    params = selection(options["names"], options["selector"])
    if left is None and not session.json and _has_screen(session):
        admit_msgspec()  # the screen speaks over the client of asyncio, which needs it
        from ..screen.screen import show  # noqa: PLC0415 - start-up time: asyncio and curses

        if show(session, params, interval_s, options["sort"]):
            return
    is_first = True
    try:
        with session.connect() as connection:
            while True:
                status = render.as_record(connection.call("daemon.status", params, timeout_s=ANSWER_S))
                found = render.as_record(connection.call("statistics.show", params, timeout_s=ANSWER_S))
                frame = sample(status, found, ORDERS[options["sort"]], _now())
                _write(session, frame, is_first=is_first, is_only=left == 1 and is_first)
                is_first = False
                left = None if left is None else left - 1
                if left == 0:
                    return
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _is_dumb() -> bool:
    return os.environ.get("TERM", "") in DUMB


def _has_screen(session: Session) -> bool:
    """Returns whether there is a terminal that shows a screen and has keys."""
    has_keys = session.is_terminal and sys.stdin.isatty() and not _is_dumb()
    return has_keys and find_spec("_curses") is not None  # which some builds of Python leave out


def _now() -> str:
    seconds = time.time()
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{day}.{int(seconds % 1 * 1000):03d}Z"


def _write(session: Session, frame: dict[str, object], *, is_first: bool, is_only: bool) -> None:
    if session.json:
        session.print_ndjson([frame])
        return
    lines = _lines(session, frame)
    if not session.is_terminal or _is_dumb():
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
    heads = [head, overhead_line(frame)]
    width = session.width
    return [
        *(each if width is None else render.cut(each, width) for each in heads),
        *session.lines_of(inners(frame, "agents"), SAMPLE),
    ]
