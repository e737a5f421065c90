"""Implements `corral logs`: shows and follows the output of workers."""

from collections.abc import Callable, Mapping

import click

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Unreachable, from_wire
from corral.worker.contract.log_pieces import PieceJoiner

from ..context import ANSWER_S, Session, between, command, complete_agents, given, option, selecting, selection
from ..log_lines import MISSING, LogWriter, Records, Times, report_missing
from ..render import inners, word

LEVELS = ("debug", "info", "warning", "error", "critical")
LINES_SHOWN = 100
LINES_BEFORE_FOLLOWING = 10
MOST_LINES = 1_000_000


@command(
    "logs",
    epilog="""\b
Examples:
  corral logs -f greeter
  corral logs --since 1h --level warning
  corral logs --previous greeter-0
  corral logs --task 3f2a
""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
@option("-f, --follow", "Print new lines as they are written, until Ctrl-C.")
@option(
    "-n, --tail N",
    "Number of lines, counted from the last; default 100, with -f 10.",
    "count",
    type=click.IntRange(0, MOST_LINES),
)
@option("--since T", "Print only lines after this: 5m (ago), or 2026-01-31T12:00:00Z.")
@option("--until T", "Print only lines before this: 5m (ago), or a time.")
@option(
    "--stream",
    "Print only this stream; log has the messages with a level.",
    type=click.Choice(("stdout", "stderr", "log")),
)
@option("--level", "Print only messages of at least this level.", type=click.Choice(LEVELS))
@option("-g, --grep REGEX", "Print only lines that match this regular expression.")
@option("-p, --previous", "Print the output of the previous incarnation of each worker.")
@option("--task ID", "Print only lines of this task, of all its attempts.")
@option("--after POSITION", "Print all lines after this: the `position` of an answer, or of a broken -f.")
@option("--utc", "Print times in UTC, in full, also on a terminal.")
@option("--no-time", "Print no times.")
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
    after: str | None,
    utc: bool,
    no_time: bool,
    **only: str | None,
) -> None:
    """Show output and log messages of agents and MCP servers.

    In a cluster the lines are those of all nodes, `corral --node NAME logs` those of one.
    """
    if follow and (until is not None or previous):
        raise click.UsageError("-f does not go with --until or --previous: they select past lines")
    if only["task"] is not None and (names or selector or previous):
        raise click.UsageError("--task does not go with NAME, -l or --previous: the task says which")
    params = given(**only, previous=previous or None, after=after)
    params |= selection(names, selector) | between(since, until)
    times: Times = "none" if no_time else "utc" if utc else "local"
    if count is not None or (since is None and only["task"] is None):
        shown = LINES_BEFORE_FOLLOWING if follow else LINES_SHOWN
        params["n"] = shown if count is None else count
    write = session.print_ndjson if session.json else LogWriter(session, times=times).write
    try:
        with session.connect() as connection:
            # Never as one answer: of lines of megabytes the daemon would have to hold all of them.
            _follow(session, connection, params if follow else {**params, "follow": False}, write)
    except KeyboardInterrupt:
        if not follow:
            raise


def _follow(
    session: Session, connection: Client, params: Mapping[str, object], write: Callable[[Records], None]
) -> None:
    """Writes records as they arrive, until the daemon ends the stream."""
    connection.call("log.follow", params, timeout_s=ANSWER_S)
    last = after = ""
    joiner = PieceJoiner(waits=params.get("follow") is False)
    missing: list[str] = []
    try:
        for notification in connection.notifications():
            if notification.method == "log":
                records = inners(notification.params, "records")
                write(joiner.join(records))
                last = word(records[-1], "at") if records else last
                after = word(notification.params, "position") or after
            elif notification.method == MISSING:
                missing = report_missing(session, notification.params, missing)
            elif notification.method == "log.end":
                write(joiner.flush())
                if "error" in notification.params:
                    raise from_wire(notification.params["error"])
                return
    except Unreachable as error:
        write(joiner.flush())
        if not last:
            raise
        words = f"{error.message}; --after {after} goes on"
        raise Unreachable(words, **{**error.data, "since": last, "after": after}) from error
