"""Defines the columns of the tables on the screen of `corral top`: their texts, colours and orders, and which of them fit.

Values in, values out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .. import render
from ..local_time import brief
from ..render import Record, inner, number, word
from .samples import milliseconds

Cell: TypeAlias = tuple[str, str]
"""Represents a text and its style: a name of `render.COLOURS`, or empty."""

BARS = "▁▂▃▄▅▆▇█"

HISTORY_SHOWN = 20
"""Number of samples in a history."""

FULL_LEAST = 5.0
"""Number of per cent that fills a bar, at the least: the noise of an idle process is not shown as load."""

WIDE = 100
"""Number of terminal columns from which two blanks stand between the columns of a table."""

NEVER = 0
"""Number that ranks a column that is never dropped."""


@dataclass(frozen=True)
class Column:
    """Describes a column.

    The column with the highest `rank` is dropped first while the lines are too wide; one that is `flexible` is cut down to
    `least` columns of the terminal before. `order` is the key by which the rows are sorted, the largest first if it is a number.
    """

    name: str
    cell: Callable[[Record, float], Cell]
    order: Callable[[Record], float | str] | None = None
    rank: int = NEVER
    is_right: bool = False
    flexible: bool = False
    least: int = 8


def _text(key: str) -> Callable[[Record, float], Cell]:
    return lambda row, _now: (word(row, key, "-") or "-", "")


def _order_by_text(key: str) -> Callable[[Record], str]:
    return lambda row: word(row, key)


def _order_by_number(key: str) -> Callable[[Record], float]:
    def order(row: Record) -> float:
        found = number(row, key)
        return -1.0 if found is None else found

    return order


def _figure(key: str, name: str, rank: int, bad: str = "") -> Column:
    """Returns a column of a count; one that is `bad` has this colour where it is not 0."""

    def cell(row: Record, _now: float) -> Cell:
        found = number(row, key)
        return ("-" if found is None else f"{found:.0f}"), (bad if found else "")

    return Column(name, cell, _order_by_number(key), rank, is_right=True)


def _named(key: str, name: str, least: int) -> Column:
    return Column(name, _text(key), _order_by_text(key), flexible=True, least=least)


def _state(row: Record, _now: float) -> Cell:
    state = word(row, "state", "-")
    if state == "Terminated" and word(row, "health") == "failed":
        state = "Failed"
    return state, render.STATE_COLOURS.get(state, "")


def _reason(row: Record, _now: float) -> Cell:
    return word(row, "reason"), "yellow"


def _workers(row: Record, _now: float) -> Cell:
    up, count = number(row, "up"), number(row, "workers") or 0
    return f"{'-' if up is None else f'{up:.0f}'}/{count:.0f}", "yellow" if up is not None and 0 < up < count else ""


HEALTH_COLOURS = {"ok": "green", "degraded": "yellow", "failed": "red"}


def health(row: Record, _now: float = 0.0) -> Cell:
    """Returns the health of an agent or server: a word where it is not up or not as it should be, else its score of 0 to 100."""
    score, found = number(row, "health_score"), word(row, "health", "-")
    if score is not None and found == "ok":
        return f"{score:.0f}", "green" if score >= 90 else "yellow" if score >= 50 else "red"
    return found, HEALTH_COLOURS.get(found, "")


def _health_order(row: Record) -> float:
    score, found = number(row, "health_score"), word(row, "health")
    if found in ("failed", "degraded"):
        return -2.0 if found == "failed" else -1.0
    return 101.0 if found != "ok" else 100.0 if score is None else score


def _cpu(row: Record, _now: float) -> Cell:
    return f"{number(row, 'cpu_percent') or 0:.1f}", ""


def _size(key: str) -> Callable[[Record, float], Cell]:
    return lambda row, _now: (render.size(number(row, key)), "")


def _milliseconds(key: str) -> Callable[[Record, float], Cell]:
    return lambda row, _now: (milliseconds(row, key), "")


def _history(row: Record, _now: float) -> Cell:
    return sparkline([float(str(each)) for each in render.items(row, "history")]), "blue"


def sparkline(values: Sequence[float], full: float = FULL_LEAST) -> str:
    """Returns bars for the last HISTORY_SHOWN values, from 0 to the largest of them, or to `full` if that is more."""
    shown = values[-HISTORY_SHOWN:]
    most = max((full, *shown))
    steps = [round(each / most * (len(BARS) - 1)) if most > 0 else 0 for each in shown]
    return "".join(BARS[min(max(step, 0), len(BARS) - 1)] for step in steps)


AGENTS = (
    _named("name", "NAME", 20),
    Column("KIND", _text("kind"), _order_by_text("kind"), 11),
    Column("STATE", _state, _order_by_text("state")),
    Column("WORKERS", _workers, _order_by_number("workers"), 4, is_right=True),
    Column("HEALTH", health, _health_order, 2, is_right=True),
    Column("CPU%", _cpu, _order_by_number("cpu_percent"), is_right=True),
    Column("MEM", _size("memory_bytes"), _order_by_number("memory_bytes"), is_right=True),
    _figure("running", "RUN", 3),
    _figure("queued", "QUEUE", 5),
    _figure("ok", "OK", 6),
    _figure("failed", "FAILED", 1, "red"),
    Column("P50", _milliseconds("p50_ms"), _order_by_number("p50_ms"), 7, is_right=True),
    Column("P99", _milliseconds("p99_ms"), _order_by_number("p99_ms"), 9, is_right=True),
    _figure("tool_calls", "CALLS", 12),
    _figure("restarts", "RESTARTS", 10, "yellow"),
    Column("REASON", _reason, None, 8, flexible=True, least=20),
    Column("CPU HISTORY", _history, None, 13),
)


def _worker_state(row: Record, now: float) -> Cell:
    return ("paused", "yellow") if row.get("paused") else _state(row, now)


def _worker_text(row: Record, _now: float) -> Cell:
    """Returns the task of a worker and what it waits for, or the reason why it is not up."""
    if task := word(row, "task"):
        return (f"{task} {reason}", "yellow") if (reason := word(row, "task_reason")) else (task, "")
    if (wait_s := number(row, "next_start_in_s")) is not None:
        return f"next start in {render.duration(wait_s)}", "yellow"
    last = inner(row, "last_exit")
    return word(row, "reason") or word(last, "message") or word(last, "result"), ""


def _uptime(row: Record, _now: float) -> Cell:
    return (render.duration(number(row, "uptime_s")) if row.get("pid") is not None else "-"), ""


WORKERS = (
    _named("id", "WORKER", 12),
    Column("STATE", _worker_state, _order_by_text("state")),
    Column("PID", _text("pid"), _order_by_number("pid"), 2, is_right=True),
    Column("UPTIME", _uptime, _order_by_number("uptime_s"), 3, is_right=True),
    Column("CPU%", _cpu, _order_by_number("cpu_percent"), is_right=True),
    Column("MEM", _size("rss_bytes"), _order_by_number("rss_bytes"), is_right=True),
    _figure("open_files", "FILES", 5),
    _figure("restarts", "RESTARTS", 4, "yellow"),
    Column("TASK/REASON", _worker_text, flexible=True, least=12),
)


def _task_progress(row: Record, _now: float) -> Cell:
    done, total = number(row, "progress"), number(row, "progress_total") or 1.0
    if done is None or word(row, "state") != "running":
        return "-", ""
    return f"{min(max(done / total, 0.0), 1.0):.0%}", ""


def _took(row: Record, _now: float) -> Cell:
    return render.duration(number(row, "duration_s")), ""


def _created(row: Record, now: float) -> Cell:
    return brief(word(row, "created_at", "-"), now), ""


def _objective(row: Record, _now: float) -> Cell:
    objective, message = word(row, "objective"), word(inner(row, "error"), "message")
    if not message:
        reason = word(row, "reason")
        return ": ".join(filter(None, (objective, reason))), "yellow" if reason else ""
    cause = message.partition('": ')[2] if message.startswith("cannot ") else ""
    return ": ".join(filter(None, (objective, cause or message))), "red"


TASKS = (
    Column("ID", _text("id"), _order_by_text("id")),
    _named("agent", "AGENT", 8),
    Column("WORKER", _text("worker"), _order_by_text("worker"), 4),
    Column("STATE", _state, _order_by_text("state")),
    _figure("attempt", "TRY", 3),
    Column("DONE", _task_progress, _order_by_number("progress"), 5, is_right=True),
    Column("TOOK", _took, _order_by_number("duration_s"), 1, is_right=True),
    Column("CREATED", _created, _order_by_text("created_at"), 2),
    Column("OBJECTIVE/ERROR", _objective, _order_by_text("objective"), flexible=True, least=10),
)

DESCENDING = frozenset(
    {
        *("WORKERS", "CPU%", "MEM", "RUN", "QUEUE", "OK", "FAILED", "P50", "P99", "CALLS"),
        *("RESTARTS", "PID", "UPTIME", "FILES", "TRY", "DONE", "TOOK", "CREATED"),
    }
)
"""Names of the columns that are sorted with the largest values first."""


def ordered(rows: Sequence[Record], columns: Sequence[Column], name: str, *, is_descending: bool) -> list[Record]:
    """Returns the rows sorted by a column, equal ones in the order in which they are."""
    column = next((each for each in columns if each.name == name), None)
    if column is None or column.order is None:
        return list(rows)
    return sorted(rows, key=column.order, reverse=is_descending)


def gap(width: int) -> int:
    """Returns the number of blanks between the columns of a table."""
    return 2 if width >= WIDE else 1


def fitted(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[tuple[Column, int]]:
    """Returns the columns that fit into a line, with their widths."""
    kept = list(zip(columns, natural, strict=True))
    while _taken(kept, width) > width and any(c.rank for c, _ in kept):
        kept.remove(max(kept, key=lambda each: each[0].rank))
    spare = width - _taken(kept, width)
    result: list[tuple[Column, int]] = []
    for column, wanted in kept:
        least = _least(column, wanted)
        given = min(max(spare, 0), wanted - least)
        spare -= given
        result.append((column, least + given))
    return result


def _least(column: Column, wanted: int) -> int:
    return min(column.least, wanted) if column.flexible else wanted


def _taken(kept: Sequence[tuple[Column, int]], width: int) -> int:
    return sum([_least(column, wanted) for column, wanted in kept]) + gap(width) * (len(kept) - 1)
