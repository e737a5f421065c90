"""`corral logs` and `corral events`: what workers wrote and what happened, past and following."""

import time
from collections.abc import Callable, Iterable, Mapping

import click

from ..worker.errors import ResourceLimitExceeded, from_wire
from . import render
from .render import inners, word
from .session import ANSWER_S, Session, Verb, complete_agents, moment

LEVELS = ("debug", "info", "warning", "error", "critical")
LINES_SHOWN = 100
LINES_BEFORE_FOLLOWING = 10
LOUD = {"warning": "yellow", "warn": "yellow", "error": "red", "critical": "red", "fatal": "red"}

Records = list[dict[str, object]]


@click.command("logs", cls=Verb)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written, until Ctrl-C.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0),
    metavar="N",
    help="The last N lines; default 100, with -f 10.",
)
@click.option("--since", metavar="T", help="Not older than 5m, or than 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="T", help="Not younger than 5m, or than a time.")
@click.option("--stream", type=click.Choice(("stdout", "stderr", "log")), help="Only this stream.")
@click.option(
    "--level", type=click.Choice(LEVELS), help="Only messages that are at least so severe."
)
@click.option("-g", "--grep", metavar="REGEX", help="Only lines in which this is found.")
@click.option("-p", "--previous", is_flag=True, help="Of the incarnation before this one.")
@click.pass_obj
def logs(
    session: Session,
    /,
    names: tuple[str, ...],
    follow: bool,
    count: int | None,
    since: str | None,
    until: str | None,
    previous: bool,
    **only: str | None,
) -> None:
    """Show what agents and MCP servers wrote, merged by time."""
    if follow and (until is not None or previous):
        raise click.UsageError("-f goes on, --until and --previous are over: give one of them")
    params: dict[str, object] = {k: v for k, v in only.items() if v is not None}
    if names:
        params["names"] = list(names)
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
    _stream(session, "log", params, follow, write)


def _stream(
    session: Session,
    noun: str,
    params: Mapping[str, object],
    follow: bool,
    write: Callable[[Records], None],
) -> None:
    """Writes the records of `noun` that are there; with `follow` those that come, until Ctrl-C."""
    key = f"{noun}s" if noun == "event" else "records"
    with session.connect() as connection:
        try:
            if not follow:
                verb = "list" if noun == "event" else "read"
                try:
                    found = connection.call(f"{noun}.{verb}", params, timeout_s=ANSWER_S)
                    write(inners(render.as_record(found), key))
                    return
                except ResourceLimitExceeded as error:
                    if error.data.get("limit") != "answer":
                        raise
                params = {**params, "follow": False}  # too much for one answer: in pieces
            connection.call(f"{noun}.follow", params, timeout_s=ANSWER_S)
            for notification in connection.notifications():
                if notification.method == noun:
                    write(inners(notification.params, key))
                elif notification.method == f"{noun}.end":
                    if "error" in notification.params:
                        raise from_wire(notification.params["error"])
                    return
        except KeyboardInterrupt:
            if not follow:
                raise


class _LogWriter:
    """Log records for people: time, worker, text; `!` in place of `|` marks stderr."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._colours: dict[str, str] = {}
        self._width = 0

    def write(self, records: Iterable[Mapping[str, object]]) -> None:
        """Writes the records and hands them over at once."""
        records = list(records)
        for record in records:
            self._width = max(self._width, len(_origin(record)))
        for record in records:
            self._write_one(record)
        self._session.stdout.flush()

    def _write_one(self, record: Mapping[str, object]) -> None:
        session = self._session
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
        session.stdout.write(f"{stamp} {head}")
        session.print_foreign(word(record, "text"))


def _origin(record: Mapping[str, object]) -> str:
    return word(record, "worker") or word(record, "agent") or "corrald"


EVENT_KEYS = frozenset({"seq", "at", "type", "agent", "worker", "incarnation"})


@click.command("events", cls=Verb)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen, until Ctrl-C.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0),
    metavar="N",
    help="The last N events; default 100, with -f 10.",
)
@click.option(
    "--since", metavar="N|T", help="After event number N, or not older than 5m or a time."
)
@click.option(
    "--type", "types", multiple=True, metavar="GLOB", help='Only such as "task.*"; repeatable.'
)
@click.option("--agent", metavar="NAME", help="Only of this agent.", shell_complete=complete_agents)
@click.pass_obj
def events(
    session: Session,
    follow: bool,
    count: int | None,
    since: str | None,
    types: tuple[str, ...],
    agent: str | None,
) -> None:
    """Show what happened. Transitions, tasks, tool calls, health, limits, changes."""
    params: dict[str, object] = {}
    if types:
        params["types"] = list(types)
    if agent is not None:
        params["agent"] = agent
    if since is not None and since.isdecimal():
        params["since"] = int(since)
    elif since is not None:
        params["since_time"] = moment(since, "--since", time.time())
    if count is not None or since is None:
        shown = LINES_BEFORE_FOLLOWING if follow else LINES_SHOWN
        params["n"] = shown if count is None else count

    def write(records: Records) -> None:
        for record in records:
            session.print(_event_line(session, record))
        session.stdout.flush()

    _stream(session, "event", params, follow, session.print_ndjson if session.json else write)


def _event_line(session: Session, record: Mapping[str, object]) -> str:
    kind = word(record, "type", "-")
    whom = word(record, "worker") or word(record, "agent", "-")
    if kind == "worker.state":
        state = word(record, "to", "-")
        colour = render.STATE_COLOURS.get(state, "grey")
        reason = render.one_line(word(record, "reason"))
        text = f"{render.one_line(word(record, 'from', '-'))} -> {session.styled(render.one_line(state), colour)}"
        text += f" ({reason})" if reason else ""
    else:
        facts = [(k, v) for k, v in record.items() if k not in EVENT_KEYS and v is not None]
        shown = (
            (k, v if isinstance(v, str) else render.json_text(v, indent=False)) for k, v in facts
        )
        text = render.one_line(" ".join(f"{k}={v}" for k, v in shown))
    head = render.one_line(f"{word(record, 'seq', '-'):>6} {kind} {whom}")
    return f"{session.styled(render.at(word(record, 'at')), 'grey')} {head} {text}".rstrip()
