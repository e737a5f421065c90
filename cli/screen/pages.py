"""Draws the pages of the screen of `corral top`: a view and a snapshot in, lines of styled text out.

Pure but for the snapshot, which it only reads. No line is wider, and no page longer, than the terminal; each text
of a worker or a user passes `render.one_line`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .. import render
from ..fields import field_lines
from ..local_time import brief, line_time, local
from ..log_lines import LOUD
from ..render import Record, inner, number, word
from .columns import AGENTS, DESCENDING, TASKS, WORKERS, Column, fitted, gap, health, ordered, sparkline
from .samples import milliseconds, parts_of
from .snapshot import Snapshot
from .view import KEYS_TO_ACT, KEYS_TO_READ, Shown, Sort, View, settled

Segment: TypeAlias = tuple[str, str]
"""A text and its style: a name of `render.COLOURS`, `bar`, `selected`, `alarm`, or empty."""

Line: TypeAlias = list[Segment]

FRAME_LINES = 3
"""Number of lines beside the body of a page: the totals, the title, and the keys."""

WORKERS_LEAST, TASKS_LEAST = 2, 3
"""Number of lines of the detail page that its tables take at least, if they have so many."""

DEFAULT_SORTS = {"agents": Sort("CPU%", True), "tasks": Sort("CREATED", True), "agent": Sort("WORKER", False)}

SORTS = {"cpu": "CPU%", "memory": "MEM", "tasks": "RUN", "name": "NAME"}
"""Values of `corral top --sort` -> the columns that they stand for."""


@dataclass
class Drawn:
    """Holds a page: its lines, and what a key or a click on it needs to know."""

    lines: list[Line]
    view: View
    shown: Shown = field(default_factory=Shown)
    header_at: int = -1
    """Index of the line with the names of the columns; -1 where there is none."""
    spans: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    """First and last column of the terminal of each name, and the name."""

    def column_at(self, line: int, column: int) -> str:
        """Returns the name of a table's column at a place on the screen; empty if there is none."""
        if line != self.header_at:
            return ""
        return next((name for start, end, name in self.spans if start <= column <= end), "")

    def index_at(self, line: int) -> int | None:
        """Returns the index of the entry on a line of the screen."""
        index = line - self.header_at - 1
        if self.header_at < 0 or not 0 <= index < self.shown.room:
            return None
        index += self.view.place(self.view.page).first
        return index if index < len(self.shown.ids) else None


def drawn(view: View, snapshot: Snapshot, size: tuple[int, int], now: float, message: str = "") -> Drawn:
    """Returns the page of a view."""
    width, height = max(size[0], 1), max(size[1], 1)
    body = max(height - FRAME_LINES, 1)
    if view.mode == "help":
        page = Drawn(_help(snapshot, width), view)
    else:
        page = _PAGES[view.page](view, snapshot, width, body, now)
    page.shown = replace(page.shown, may_act=snapshot.may_act)
    lines = page.lines[:body]
    lines += [[] for _ in range(body - len(lines))]
    head = [_totals(snapshot, width, now), _title(page.view, snapshot, width)]
    page.header_at += len(head) if page.header_at >= 0 else 0
    page.lines = [*head, *lines, _foot(page, width, message)][:height]
    return page


# --- the frame ------------------------------------------------------------------------------------


def _totals(snapshot: Snapshot, width: int, now: float) -> Line:
    tasks, process = inner(snapshot.status, "tasks"), inner(snapshot.statistics, "process")
    daemon = inner(snapshot.status, "daemon")
    counts = (("running", "running"), ("queued", "queued"), ("succeeded", "ok"), ("failed", "failed"))
    parts = [
        f"corral {brief(snapshot.at, now)}" if snapshot.at else "corral",
        f"up {render.duration(number(daemon, 'uptime_s'))}",
        f"{word(process, 'active', '-')} proc {render.size(number(process, 'memory_bytes'))}",
        "tasks " + " ".join(f"{word(tasks, key, '-')} {name}" for key, name in counts),
    ]
    if needs := int(number(daemon, "needs_you") or 0):
        parts.insert(0, f"needs you: {needs}")
    if daemon.get("draining"):
        parts.insert(1, "draining")
    if degraded := render.items(daemon, "degraded"):
        parts.insert(1, "degraded: " + ", ".join(map(str, degraded)))
    return [(_padded(" " + "  ".join(parts), width), "bar")]


def _title(view: View, snapshot: Snapshot, width: int) -> Line:
    if snapshot.trouble:
        return [(_padded(f" trying again: {snapshot.trouble}", width), "alarm")]
    pages = (("agents", " Agents and servers "), ("tasks", " Tasks "))
    line: Line = []
    for page, text in pages:
        is_here = view.page in (page, page[:-1])
        line.append((text, "selected" if is_here else "grey"))
    if view.page == "agent":
        line.append((f" {view.agent} ", "bold"))
    elif view.page == "task":
        line.append((f" {view.task} ", "bold"))
    if view.filter and view.page in ("agents", "tasks"):
        line.append((f" filter: {view.filter} ", "yellow"))
    if view.is_paused:
        line.append((" paused ", "alarm"))
    return _cut_line(line, width)


ACT_KEYS = {"agents": ["s start", "x stop", "r restart"], "tasks": ["c cancel"]}


def _foot(page: Drawn, width: int, message: str) -> Line:
    view = page.view
    if view.mode == "filter":
        return [(_padded(f" filter: {view.filter}▏ Enter keeps it, Esc clears it", width), "bar")]
    if view.mode == "confirm" and view.asked is not None:
        noun = "task " if view.asked.verb == "cancel" else ""
        text = f' {view.asked.verb} {noun}"{view.asked.name}"? y confirms, any other key does not'
        return [(_padded(text, width), "alarm")]
    if message:
        return [(_padded(" " + message, width), "bar")]
    words = ["any key goes back"] if view.mode == "help" else _keys_of(page, width)
    return [(_padded(" " + "  ".join(words), width), "bar")]


def _keys_of(page: Drawn, width: int) -> list[str]:
    view = page.view
    pause = "Space go on" if view.is_paused else "Space pause"
    words = ["q quit", "? keys"]
    if page.shown.may_act:
        words += ACT_KEYS["agents" if view.page in ("agents", "agent") else "tasks"]
    if view.page in ("agents", "tasks"):
        other = "t tasks" if view.page == "agents" else "a agents"
        words += ["/ filter", "< > sort", pause, "Enter show", other]
    else:
        words += ["Esc back", pause]
    while len(words) > 2 and sum(map(len, words)) + 2 * len(words) > width:
        words.pop()
    return words


def _help(snapshot: Snapshot, width: int) -> list[Line]:
    rows = [*KEYS_TO_READ, *(KEYS_TO_ACT if snapshot.may_act else ())]
    lines: list[Line] = [[], [(" Keys", "bold")]]
    for keys, text in rows:
        lines.append([(f"  {keys:<20}", "green"), (text, "")])
    if snapshot.rights == "read":
        lines += [[], [("  This token may read only: there are no keys that change anything.", "grey")]]
    return [_cut_line(line, width) for line in lines]


# --- lists ----------------------------------------------------------------------------------------


def _agents(view: View, snapshot: Snapshot, width: int, room: int, now: float) -> Drawn:
    rows: list[Record] = [each for each in snapshot.rows() if _matches(view, each, AGENT_TEXTS)]
    rows.sort(key=lambda each: word(each, "name"))
    empty = "no agent or server contains this text" if view.filter else "nothing to run"
    return _list(view, rows, AGENTS, "name", width, room, now, empty if snapshot.at else "…")


def _tasks(view: View, snapshot: Snapshot, width: int, room: int, now: float) -> Drawn:
    rows: list[Record] = [each for each in snapshot.tasks if _matches(view, each, TASK_TEXTS)]
    empty = "no task contains this text" if view.filter else "there are no tasks"
    return _list(view, rows, TASKS, "id", width, room, now, empty)


OF_AGENT = tuple(column for column in TASKS if column.name != "AGENT")
"""Columns of the tasks of one agent."""

AGENT_TEXTS = ("name", "kind", "state", "health")
TASK_TEXTS = ("id", "agent", "worker", "state", "objective")
"""Keys of a row in which a filter looks."""


def _matches(view: View, row: Record, keys: Sequence[str]) -> bool:
    text = view.filter.casefold()
    return not text or any(text in word(row, key).casefold() for key in keys)


def _list(
    view: View,
    rows: Sequence[Record],
    columns: Sequence[Column],
    key: str,
    width: int,
    room: int,
    now: float,
    empty: str,
) -> Drawn:
    """Returns a table whose first column identifies its rows, with the selected one in sight."""
    sort = view.sorts.get(view.page) or DEFAULT_SORTS[view.page]
    view = replace(view, sorts={**view.sorts, view.page: sort})
    rows = ordered(rows, columns, sort.column, is_descending=sort.is_descending)
    shown = Shown([word(row, key) for row in rows], max(room - 1, 1))
    view = settled(view, shown)
    place = view.place(view.page)
    page = _table(columns, rows[place.first : place.first + shown.room], width, now, sort, place.index - place.first)
    names = [name for _, _, name in page.spans if any(c.order for c in columns if c.name == name)]
    page.view, page.shown = view, replace(shown, columns=names, descending=DESCENDING)
    if not rows:
        page.lines.append([(f" {empty}", "grey")])
    return page


def _table(
    columns: Sequence[Column], rows: Sequence[Record], width: int, now: float, sort: Sort | None, selected: int
) -> Drawn:
    """Returns the header of a table and its rows, one line each."""
    marked = {sort.column: "▼" if sort.is_descending else "▲"} if sort else {}
    heads = [column.name + marked.get(column.name, "") for column in columns]
    grid = [[column.cell(row, now) for column in columns] for row in rows]
    safe = [[(render.one_line(text), style) for text, style in cells] for cells in grid]
    natural = [max(len(head), *(render.columns(cells[i][0]) for cells in safe), 1) for i, head in enumerate(heads)]
    kept = fitted(columns, natural, width)
    places = [columns.index(column) for column, _ in kept]
    space = " " * gap(width)
    spans: list[tuple[int, int, str]] = []
    header: Line = []
    at = 0
    for (column, taken), i in zip(kept, places, strict=True):
        style = "underlined" if column.name in marked else "bold"
        header += [(_aligned(heads[i], taken, column.is_right), style), (space, "")]
        spans.append((at, at + taken - 1, column.name))
        at += taken + len(space)
    lines = [_cut_line(header, width)]
    for number_, cells in enumerate(safe):
        line: Line = []
        for (column, taken), i in zip(kept, places, strict=True):
            text, style = cells[i]
            line += [(_aligned(text, taken, column.is_right), style), (space, "")]
        if number_ == selected:
            line = [(_padded("".join(text for text, _ in line).rstrip(), width), "selected")]
        lines.append(_cut_line(line, width))
    return Drawn(lines, View(), header_at=0, spans=spans)


# --- details --------------------------------------------------------------------------------------


def _agent(view: View, snapshot: Snapshot, width: int, room: int, now: float) -> Drawn:
    """Draws one agent or server: its figures, workers, tasks and the last log lines, which get the rest of the screen."""
    row, entry = snapshot.row_of(view.agent), snapshot.entry_of(view.agent)
    if not row:
        return Drawn([[(f' there is no agent or server "{view.agent}" any more', "grey")]], view)
    head = [_cut_line(line, width) for line in _agent_head(row, entry)]
    if snapshot.points:
        head.append(_cut_line(_last_hour(snapshot.points), width))
    workers: list[Record] = [*snapshot.workers_of(view.agent)]
    name, _ = parts_of(view.agent)
    tasks: list[Record] = [each for each in snapshot.tasks if word(each, "agent") == name]
    left = max(room - len(head) - 3, 3)  # beside the headers of the two tables and of the lines
    tasks_room = min(len(tasks), max(TASKS_LEAST, left // 5))
    workers_room = min(len(workers), max(WORKERS_LEAST, left // 4))
    shown = Shown([word(each, "id") for each in workers], max(workers_room, 1))
    view = settled(view, shown)
    first = view.place("agent").first
    lines = [*head, *_table(WORKERS, workers[first : first + workers_room], width, now, None, -1).lines]
    if len(workers) > workers_room:
        until = first + workers_room
        lines[len(head)][-1:] = [(f" {first + 1}-{until} of {len(workers)}", "grey")]
        lines[len(head)] = _cut_line(lines[len(head)], width)
    if tasks:
        lines += _table(OF_AGENT, tasks[:tasks_room], width, now, None, -1).lines
    lines.append(_cut_line([("LOG", "bold"), (" the last lines, as they come", "grey")], width))
    rest = max(room - len(lines), 0)
    last = list(snapshot.lines)[-rest:] if rest else []
    lines += [_cut_line(_log_line(record, now), width) for record in last]
    return Drawn(lines, view, shown)


def _agent_head(row: Record, entry: Record) -> list[Line]:
    state = word(row, "state")
    score, colour = health(row)
    first: Line = [
        (f"{word(row, 'kind')} ", "grey"),
        (state, render.STATE_COLOURS.get(state, "")),
        ("  health ", ""),
        (score, colour),
        (f"  {word(row, 'up', '-')}/{word(row, 'workers')} workers", ""),
        (f"  cpu {number(row, 'cpu_percent') or 0:.1f}%", ""),
        (f"  mem {render.size(number(row, 'memory_bytes'))}", ""),
        (f"  restarts {word(row, 'restarts')}", ""),
    ]
    figures = (
        f"tasks {word(row, 'running')} running, {word(row, 'queued')} queued, {word(row, 'ok', '-')} ok, "
        f"{word(row, 'failed', '-')} failed  p50 {milliseconds(row, 'p50_ms')}"
        f"  p99 {milliseconds(row, 'p99_ms')}  tool calls {word(row, 'tool_calls', '-')}"
    )
    lines: list[Line] = [first, [(figures, "")]]
    words = [word(entry, "title"), word(entry, "description")]
    words += [f"{key}={value}" for key, value in inner(entry, "labels").items()]
    about = render.one_line("  ".join(each for each in words if each))
    return [*lines, [(about, "grey")]] if about else lines


PAST = (
    ("runs/min", "executions_per_minute"),
    ("p99", "p99_ms"),
    ("cpu", "cpu_percent"),
    ("mem", "memory_bytes"),
    ("queued", "queued_peak"),
)
"""Labels and keys of the bars of the last hour."""


def _last_hour(points: Sequence[Record]) -> Line:
    line: Line = [("last hour", "grey")]
    for label, key in PAST:
        values = [number(point, key) or 0.0 for point in points]
        line += [(f"  {label} ", ""), (sparkline(values, 0.0), "blue")]
    return line


def _log_line(record: Record, now: float) -> Line:
    worker = word(record, "worker") or word(record, "agent")
    level = word(record, "level").lower()
    mark = "!" if record.get("stream") == "stderr" else "|"
    line: Line = [
        (render.one_line(line_time(word(record, "at"), now)) + " ", "grey"),
        (f"{render.one_line(worker)} {mark} ", "blue"),
    ]
    if level in LOUD:
        line.append((level + " ", LOUD[level]))
    return [*line, (render.one_line(word(record, "text")), "")]


def _task(view: View, snapshot: Snapshot, width: int, room: int, now: float) -> Drawn:
    record = snapshot.task_of(view.task)
    if not record:
        return Drawn([[(f' task "{view.task}" is not among the last ones', "grey")]], view)
    texts = [render.one_line(each) for each in field_lines(record, local)]
    shown = Shown([str(number_) for number_ in range(len(texts))], max(room, 1))
    view = settled(view, shown)
    first = view.place("task").first
    lines: list[Line] = []
    for text in texts[first : first + room]:
        key, space, rest = text.partition("  ")
        lines.append(_cut_line([(key + space, "grey"), (rest, "")], width))
    return Drawn(lines, view, shown)


_PAGES: dict[str, Callable[[View, Snapshot, int, int, float], Drawn]] = {
    "agents": _agents,
    "tasks": _tasks,
    "agent": _agent,
    "task": _task,
}


# --- text -----------------------------------------------------------------------------------------


def _aligned(text: str, width: int, is_right: bool) -> str:
    text = render.cut(text, width)
    padding = " " * (width - render.columns(text))
    return padding + text if is_right else text + padding


def _padded(text: str, width: int) -> str:
    return _aligned(render.one_line(text), width, is_right=False)


def _cut_line(line: Line, width: int) -> Line:
    kept: Line = []
    left = width
    for text, style in line:
        if left <= 0:
            break
        shown = render.cut(text, left) if text.strip() else text[:left]
        kept.append((shown, style))
        left -= render.columns(shown)
    return kept
