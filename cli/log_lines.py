"""Writes records of logs as lines for people; used by `logs` and by `run --logs`."""

import time
from collections.abc import Iterable, Mapping
from typing import Literal, TextIO, TypeAlias, cast

from . import render
from .console import Session
from .local_time import line_time
from .render import word

Records: TypeAlias = list[dict[str, object]]
Times: TypeAlias = Literal["local", "utc", "none"]

MISSING = "nodes.missing"
"""The notification that names the nodes of a cluster that do not answer."""

LOUD = {"warning": "yellow", "warn": "yellow", "error": "red", "critical": "red", "fatal": "red"}


def line_at(at: str, *, is_local: bool) -> str:
    """Returns the time of a line: in local time, short, or as the daemon has sent it."""
    return render.one_line(line_time(at, time.time())) if is_local else render.at(at)


class LogWriter:
    """Writes log records for people: time, worker, text; `!` in place of `|` marks stderr."""

    def __init__(self, session: Session, *, times: Times = "local", stream: TextIO | None = None) -> None:
        """Writes to stdout, or to another stream; times are local on a terminal only."""
        self._session = session
        self._times = times
        self._out = session.stdout if stream is None else stream
        self._is_terminal = self._out.isatty()
        self._has_colours = session.has_colours(self._is_terminal)
        self._colours: dict[str, str] = {}
        self._width = 0
        self._unended: tuple[str, str] | None = None  # of which the last piece was written

    def write(self, records: Iterable[Mapping[str, object]]) -> None:
        """Writes the records, and flushes."""
        records = list(records)
        for record in records:
            self._width = max(self._width, len(_origin(record)))
        for record in records:
            self._write_one(record)
        self._out.flush()

    def _write_one(self, record: Mapping[str, object]) -> None:
        source = (_origin(record), word(record, "stream"))
        is_continued, is_unended = source == self._unended, bool(record.get("partial"))
        if self._unended and not is_continued:
            self._out.write("\n")
        self._unended = source if is_unended else None
        if is_continued:
            self._print(word(record, "text"), "" if is_unended else "\n")
            return
        origin = render.one_line(_origin(record))
        mark = "!" if record.get("stream") == "stderr" else "|"
        head = f"{origin:<{self._width}} {mark} "
        if self._has_colours:
            order = len(self._colours) % len(render.WORKER_COLOURS)
            head = render.styled(head, self._colours.setdefault(origin, render.WORKER_COLOURS[order]))
        level = word(record, "level").lower()
        if level in LOUD:
            head += self._styled(level, LOUD[level]) + " "
        stamp = self._stamp(word(record, "at"))
        # A message may have several lines: none of them may look like a line of another worker.
        lines = word(record, "text").split("\n")
        for line in lines[:-1]:
            self._out.write(f"{stamp}{head}")
            self._print(line)
        self._out.write(f"{stamp}{head}")
        self._print(lines[-1] + _facts(record), "" if is_unended else "\n")

    def _stamp(self, at: str) -> str:
        if self._times == "none":
            return ""
        return self._styled(line_at(at, is_local=self._times == "local" and self._is_terminal), "grey") + " "

    def _styled(self, text: str, colour: str) -> str:
        return render.styled(text, render.COLOURS[colour]) if self._has_colours else text

    def _print(self, text: str, end: str = "\n") -> None:
        shown = render.visible(text, keep_colours=self._has_colours) if self._is_terminal else text
        self._out.write(shown if shown.endswith(end) else shown + end)


def _facts(record: Mapping[str, object]) -> str:
    fields = record.get("fields")
    if not isinstance(fields, dict):
        return ""
    facts = cast("dict[str, object]", fields)  # JSON has no other keys
    return "".join(
        render.one_line(f" {key}={value if isinstance(value, str) else render.json_text(value, indent=False)}")
        for key, value in facts.items()
    )


def _origin(record: Mapping[str, object]) -> str:
    origin = word(record, "worker") or word(record, "agent") or "corrald"
    node = word(record, "node")
    return f"{origin}@{node}" if node else origin


def report_missing(session: Session, found: Mapping[str, object], known: list[str]) -> list[str]:
    """Writes to stderr which nodes do not answer any more, and which are back; returns those that do not."""
    names = found.get("missing_nodes")
    missing = [str(each) for each in names] if isinstance(names, list) else []
    for node in missing:
        if node not in known:
            session.note(f'node "{node}" is missing: more of it comes once it is back')
    for node in known:
        if node not in missing:
            session.note(f'node "{node}" is back')
    return missing
