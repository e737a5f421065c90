"""Implements `corral logs`: shows and follows the output of workers."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import click

from ...worker.client.sync import Client
from ...worker.contract.errors import Unreachable, from_wire
from ...worker.contract.log_pieces import PieceJoiner
from .. import render
from ..context import ANSWER_S, Command, Session, complete_agents, moment, selecting, selection
from ..render import inners, word

LEVELS = ("debug", "info", "warning", "error", "critical")
LINES_SHOWN = 100
LINES_BEFORE_FOLLOWING = 10
MOST_LINES = 1_000_000
LOUD = {"warning": "yellow", "warn": "yellow", "error": "red", "critical": "red", "fatal": "red"}

Records = list[dict[str, object]]


@click.command(
    "logs",
    cls=Command,
    epilog="""\b
Examples:
  corral logs -f greeter
  corral logs --since 1h --level warning
  corral logs --previous greeter-0
""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
@click.option(
    "-f", "--follow", is_flag=True, help="Print new lines as they are written, until Ctrl-C."
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, MOST_LINES),
    metavar="N",
    help="Number of lines, counted from the last; default 100, with -f 10.",
)
@click.option(
    "--since", metavar="T", help="Print only lines after this: 5m (ago), or 2026-01-31T12:00:00Z."
)
@click.option("--until", metavar="T", help="Print only lines before this: 5m (ago), or a time.")
@click.option(
    "--stream",
    type=click.Choice(("stdout", "stderr", "log")),
    help="Print only this stream; log has the messages with a level.",
)
@click.option(
    "--level", type=click.Choice(LEVELS), help="Print only messages of at least this level."
)
@click.option(
    "-g", "--grep", metavar="REGEX", help="Print only lines that match this regular expression."
)
@click.option(
    "-p",
    "--previous",
    is_flag=True,
    help="Print the output of the previous incarnation of each worker.",
)
@click.pass_obj
def logs(
    session: Session,
    /,
    names: tuple[str, ...],
    selector: tuple[str, ...],
    follow: bool,
    count: int | None,
    since: str | None,
    until: str | None,
    previous: bool,
    **only: str | None,
) -> None:
    """Show output and log messages of agents and MCP servers."""
    if follow and (until is not None or previous):
        raise click.UsageError("-f does not go with --until or --previous: they select past lines")
    params: dict[str, object] = {k: v for k, v in only.items() if v is not None}
    params |= selection(names, selector)
    now = time.time()
    if since is not None:
        params["since"] = moment(since, "--since", now)
    if until is not None:
        params["until"] = moment(until, "--until", now)
    if previous:
        params["previous"] = True
    if count is not None or since is None:
        shown = LINES_BEFORE_FOLLOWING if follow else LINES_SHOWN
        params["n"] = shown if count is None else count
    write = session.print_ndjson if session.json else _LogWriter(session).write
    try:
        with session.connect() as connection:
            # Never as one answer: of lines of megabytes the daemon would have to hold all of them.
            _follow(connection, params if follow else {**params, "follow": False}, write)
    except KeyboardInterrupt:
        if not follow:
            raise


def _follow(
    connection: Client, params: Mapping[str, object], write: Callable[[Records], None]
) -> None:
    """Writes records as they arrive, until the daemon ends the stream.

    Raises:
        Unreachable: the daemon is gone; `since` in its data is the time of the last record that was written.
    """
    connection.call("log.follow", params, timeout_s=ANSWER_S)
    last = ""
    joiner = PieceJoiner()
    try:
        for notification in connection.notifications():
            if notification.method == "log":
                records = inners(notification.params, "records")
                write(joiner.join(records))
                last = word(records[-1], "at") if records else last
            elif notification.method == "log.end":
                write(joiner.flush())
                if "error" in notification.params:
                    raise from_wire(notification.params["error"])
                return
    except Unreachable as error:
        write(joiner.flush())
        if not last:
            raise
        words = f"{error.message}; --since {last} goes on"
        raise Unreachable(words, **{**error.data, "since": last}) from error


class _LogWriter:
    """Writes log records for people: time, worker, text; `!` in place of `|` marks stderr."""

    def __init__(self, session: Session) -> None:
        self._session = session
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
        self._session.stdout.flush()

    def _write_one(self, record: Mapping[str, object]) -> None:
        session = self._session
        source = (_origin(record), word(record, "stream"))
        is_continued, is_unended = source == self._unended, bool(record.get("partial"))
        if self._unended and not is_continued:
            session.stdout.write("\n")
        self._unended = source if is_unended else None
        if is_continued:
            session.print_foreign(word(record, "text"), "" if is_unended else "\n")
            return
        origin = render.one_line(_origin(record))
        mark = "!" if record.get("stream") == "stderr" else "|"
        head = f"{origin:<{self._width}} {mark} "
        if session.colours:
            order = len(self._colours) % len(render.WORKER_COLOURS)
            head = render.styled(
                head, self._colours.setdefault(origin, render.WORKER_COLOURS[order])
            )
        level = word(record, "level").lower()
        if level in LOUD:
            head += session.styled(level, LOUD[level]) + " "
        stamp = session.styled(render.at(word(record, "at")), "grey")
        # A message may have several lines: none of them may look like a line of another worker.
        lines = word(record, "text").split("\n")
        for line in lines[:-1]:
            session.stdout.write(f"{stamp} {head}")
            session.print_foreign(line)
        session.stdout.write(f"{stamp} {head}")
        session.print_foreign(lines[-1] + _facts(record), "" if is_unended else "\n")


def _facts(record: Mapping[str, object]) -> str:
    """Formats the fields of a message as ` key=value`."""
    fields = record.get("fields")
    if not isinstance(fields, dict):
        return ""
    facts = cast("dict[str, object]", fields)  # JSON has no other keys
    return "".join(
        render.one_line(
            f" {key}={value if isinstance(value, str) else render.json_text(value, indent=False)}"
        )
        for key, value in facts.items()
    )


def _origin(record: Mapping[str, object]) -> str:
    return word(record, "worker") or word(record, "agent") or "corrald"
