"""Formats tables, durations, sizes, colours and JSON; values in, text out.

Text of workers and servers reaches a terminal only through `visible`: a log line must not move the
cursor, set the title of the window or hide other text. This module reads no socket and writes nothing.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

Record = Mapping[str, object]


class Table:
    """Describes how records are shown as a table: its columns, in their order, as words.

    The word `HEADING` shows the key of that name, `HEADING=key` another, or one within: `task.objective`; an underscore in a heading
    is a space. `cells` are functions for what is no plain value, by key. Columns of `drop` are left out one by one where the terminal
    is too narrow, those of `sparse` where no record has a value; those of `right` have figures.
    """

    def __init__(
        self, columns: str, *, drop: str = "", sparse: str = "", right: str = "", **cells: Callable[[Record], str]
    ) -> None:
        pairs = [word.partition("=") for word in columns.split()]
        self.keys = {heading.replace("_", " "): key or heading.lower() for heading, _, key in pairs}
        self.cells = cells
        self.drop, self.sparse, self.right = (
            [word.replace("_", " ") for word in words.split()] for words in (drop, sparse, right)
        )


COLOURS = {"grey": "90", "red": "31", "green": "32", "yellow": "33", "blue": "34", "bold": "1"}
WORKER_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
"""SGR codes that distinguish workers in `logs`, by order of appearance, like docker compose."""

STATE_COLOURS = {
    "Ready": "green",
    "Idle": "green",
    "Busy": "blue",
    "Initial": "yellow",
    "Starting": "yellow",
    "ShuttingDown": "yellow",
    "Terminated": "red",
    "Failed": "red",
    "queued": "yellow",
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "timeout": "red",
    "cancelled": "yellow",
}

ASKED_FOR = frozenset({"", "stopped", "hibernated"})
"""Results of the last exit of a worker that was asked to end, or has not ended yet."""

TEXT_COLUMNS = 20
"""Number of terminal columns that a cell of text keeps while droppable columns go; a longer one is cut first."""

TEXT_COLUMNS_LEAST = 8
"""Number of terminal columns that a cell of text keeps before figures are cut."""

# Patterns are compiled at their first use: a table of printable names needs none of them.
_SGR = r"\x1b\[[0-9;:]*m"
_FORMAT = (
    r"\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    r"\ud800-\udfff\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
"""Characters that have no shape or change the direction of others: controls, fillers, tags, variation selectors but that of emoji."""
_UNSEEN = rf"[\x00-\x08\x0b-\x1f{_FORMAT}]"
_SEEN_COLOURS = (
    r"0?[0-79]|2[1-9]|3[1-69]|9[0-6]|[34]9|38[;:]5[;:](?:[1-6]|9|1[0-4]|1[7-9]|[2-9][0-9]|1[0-9][0-9]|2[0-2][0-9]|230)"
)
"""Attributes that conceal nothing: no concealed text, no background, no colour that may be that of the background."""


# --- text of workers and servers -----------------------------------------------------------------------


def visible(text: str, *, keep_colours: bool = False) -> str:
    r"""Makes everything visible that would control a terminal or cannot be seen, like `cat -v`.

    Newlines and tabs stay. Control characters become `^[`, others (C1, changes of direction, characters without a shape)
    become `\u009b`. Colours (SGR sequences) stay with `keep_colours`, ended by a reset, as far as they conceal nothing;
    else they go.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    if not keep_colours:
        return re.sub(_UNSEEN, _shown, re.sub(_SGR, "", text))
    pieces: list[str] = []
    end = 0
    for match in re.finditer(_SGR, text):
        pieces += (re.sub(_UNSEEN, _shown, text[end : match.start()]), _seen_colours(match.group()))
        end = match.end()
    return "".join((*pieces, re.sub(_UNSEEN, _shown, text[end:]), "\x1b[0m" if pieces else ""))


def has_failed(worker: Record) -> bool:
    """Returns whether a worker in `status` ended by itself, not with status 0, and stays down."""
    last = inner(worker, "last_exit")
    is_well = word(last, "result") in ASKED_FOR or (word(last, "result") == "exited" and last.get("code") == 0)
    return word(worker, "state") == "Terminated" and not is_well


def one_line(text: str) -> str:
    r"""Returns the text as one harmless line: newlines become `\n`."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def one_lines(texts: Iterable[str]) -> list[str]:
    """Applies `one_line` to each text; checks all of them at once, since as a rule none needs it."""
    found = list(texts)
    whole = "".join(found)
    return found if whole.isascii() and whole.isprintable() else [one_line(text) for text in found]


def _seen_colours(sequence: str) -> str:
    """Returns an SGR sequence without the attributes by which text could be there and not be seen."""
    given = re.findall(r"[34]8[;:](?:5[;:]\d+|2(?:[;:]\d*){3,4})|[^;]+", sequence[2:-1])
    kept = [each for each in given if re.fullmatch(_SEEN_COLOURS, each)]
    return f"\x1b[{';'.join(kept)}m" if kept or sequence == "\x1b[m" else ""


def _shown(match: re.Match[str]) -> str:
    number = ord(match.group())
    if number < 0x20:
        return "^" + chr(number + 0x40)
    if number == 0x7F:
        return "^?"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


# --- JSON -----------------------------------------------------------------------------------------


def json_text(value: object, *, indent: bool, ascii_only: bool = False) -> str:
    """Encodes one JSON document without a newline at its end; safe on a terminal."""
    text = json.dumps(
        value, ensure_ascii=ascii_only, indent=2 if indent else None, separators=None if indent else (",", ":")
    )
    if text.isascii():
        return text
    return re.sub(f"[{_FORMAT}]", lambda match: json.dumps(match.group())[1:-1], text)


def output_text(value: object) -> str:
    """Formats the output of a task for people: text as it is, other values as JSON on several lines."""
    return value if isinstance(value, str) else json_text(value, indent=True)


# --- reading records ------------------------------------------------------------------------------


def word(record: Record, key: str, default: str = "") -> str:
    """Returns the value as text; `default` if it is absent or null."""
    value = record.get(key)
    return default if value is None else value if isinstance(value, str) else str(value)


def number(record: Record, key: str) -> float | None:
    """Returns the value if it is a number."""
    value = record.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return None


def as_record(value: object) -> dict[str, object]:
    """Returns the value if it is a JSON object, else an empty one."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]  # JSON has no keys but strings
    return {}


def inner(record: Record, key: str) -> dict[str, object]:
    """Returns the object under `key`; empty if it is absent, null or no object."""
    return as_record(record.get(key))


def inners(record: Record, key: str) -> list[dict[str, object]]:
    """Returns the objects in the array under `key`."""
    return [as_record(item) for item in items(record, key)]


def items(record: Record, key: str) -> list[object]:
    """Returns the array under `key`; empty if it is absent, null or no array."""
    value = record.get(key)
    if isinstance(value, list):
        return value  # pyright: ignore[reportUnknownVariableType]  # a JSON array may hold anything
    return []


# --- quantities -----------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """Formats seconds in two units at most: `350ms`, `4.2s`, `3m12s`, `5h7m`, `2d4h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for big, small, names in ((86_400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big}{names[0]}" + (f"{rest}{names[1]}" if rest else "")
    return f"{whole}s"


def duration_s(text: str) -> float | None:
    """Returns the seconds, or None if the text is no duration."""
    found = re.fullmatch(_DURATION, text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


_DURATION = r"(\d{1,12}(?:\.\d{1,9})?)\s*(ms|s|m|h|d|)"
_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def size(count: float | None) -> str:
    """Formats bytes in binary units with three digits at most: `640K`, `13.2M`, `1.5G`; `-` for None."""
    if count is None:
        return "-"
    for unit in ("B", "K", "M", "G"):
        if count < 999.5:
            small = unit != "B" and count < 99.95
            return f"{count:.1f}{unit}" if small else f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


def at(stamp: str) -> str:
    """Formats an RFC 3339 time for people: milliseconds, in the zone that was sent."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-].*)", stamp)
    if not found:
        return one_line(stamp)
    day, clock, fraction, zone = found.groups()
    return f"{day}T{clock}.{(fraction or '.')[1:4]:0<3}{zone}"


# --- tables ---------------------------------------------------------------------------------------


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int | None,
    droppable: Sequence[str] = (),
    right: Sequence[str] = (),
    paint: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns aligned lines, the header first."""
    grid = [list(header), *([cell or "-" for cell in row] for row in rows)]
    names = list(header)
    widths = [_width(column) for column in zip(*grid, strict=True)]
    left = list(droppable)
    while width is not None and left and _needed(names, widths, right) > width:
        if (name := left.pop(0)) in names:
            i = names.index(name)
            del names[i], widths[i]
            for row in grid:
                del row[i]
    aligned = [name in right for name in names]
    if width is not None:
        widths = _fitted(widths, aligned, width)
    if not paint and all("".join(row).isascii() for row in grid):
        return _plain_lines(grid, widths, aligned, cut=width is not None)
    return [_line(row, widths, aligned, paint or {}, cut=width is not None) for row in grid]


def _width(cells: Sequence[str]) -> int:
    return max(map(len if "".join(cells).isascii() else columns, cells))


def _plain_lines(
    grid: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool], *, cut: bool
) -> list[str]:
    """Formats all lines at once, like `_line`: a status has thousands, as a rule of ASCII only."""
    padded: list[list[str]] = []
    for i, cells in enumerate(zip(*grid, strict=True)):
        width = widths[i]
        shown = [_cut(cell, width) for cell in cells] if cut else cells
        padded.append([c.rjust(width) if right[i] else c.ljust(width) for c in shown])
    return [line.rstrip() for line in map("  ".join, zip(*padded, strict=True))]


def columns(text: str) -> int:
    """Returns the number of terminal columns that the text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - start-up time: names are ASCII, as a rule

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """Cuts a text that takes more than `width` columns; it ends with … then."""
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[: min(len(text) - 1, width)]
    return text + "…"


def styled(text: str, sgr: str | None) -> str:
    """Returns the text in an SGR style."""
    return f"\x1b[{sgr}m{text}\x1b[0m" if sgr and text else text


def _needed(names: Sequence[str], widths: Sequence[int], right: Sequence[str]) -> int:
    """Returns the columns that a line needs at least, before a column of it is dropped."""
    kept = [w if n in right else min(w, TEXT_COLUMNS) for n, w in zip(names, widths, strict=True)]
    return sum(kept) + 2 * (len(kept) - 1)


def _fitted(widths: Sequence[int], right: Sequence[bool], width: int) -> list[int]:
    """Returns widths with which no line is longer than `width`: the widest text is cut first, figures last."""
    room = max(width - 2 * (len(widths) - 1), len(widths))
    fitted = [min(each, room) for each in widths]
    texts = [i for i, is_right in enumerate(right) if not is_right]
    for indexes, least in ((texts, TEXT_COLUMNS_LEAST), (range(len(fitted)), 1)):
        while sum(fitted) > room and indexes:
            widest = max(indexes, key=fitted.__getitem__)
            if fitted[widest] <= least:
                break
            fitted[widest] -= 1
    return fitted


def _line(
    row: Sequence[str], widths: Sequence[int], right: Sequence[bool], paint: Mapping[str, str], *, cut: bool
) -> str:
    cells: list[str] = []
    for i, cell in enumerate(row):
        last = i == len(row) - 1
        text = _cut(cell, widths[i]) if cut else cell
        padding = " " * (widths[i] - columns(text))
        painted = styled(text, paint.get(cell))
        cells.append(padding + painted if right[i] else painted if last else painted + padding)
    return "  ".join(cells).rstrip()


_cut = cut
