"""Implements `corral events`: shows and follows events, and publishes them to agents."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams, Unreachable

from .. import render
from ..context import (
    ANSWER_S,
    CommandGroup,
    Session,
    complete_agents,
    given,
    json_value,
    option,
    place,
    session_of,
    unknown_word,
)
from ..log_lines import MISSING, line_at, report_missing
from ..render import inners, word

EVENTS_SHOWN = 100
EVENTS_BEFORE_FOLLOWING = 10
MOST_EVENTS = 100_000
EVENT_KEYS = frozenset({"seq", "at", "type", "agent", "worker", "incarnation", "node"})

TO_FOLLOW = frozenset({"subscribe", "follow", "listen", "watch", "tail"})
"""Names that other programs give to `corral events -f`."""

Records = list[dict[str, object]]


class _Events(CommandGroup):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command, or raises a usage error that shows how to follow events."""
        if args and args[0] in TO_FOLLOW:
            hint = 'corral events -f --type "GLOB"'
            raise InvalidParams(
                f'cannot run "corral events {args[0]}": no such command; it is {hint}',
                command=args[0],
                suggestions=[hint],
            )
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_word(ctx.command_path, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group("events", cls=_Events, invoke_without_command=True, subcommand_metavar="[publish]")
@option("-f, --follow", "Print new events as they happen, until Ctrl-C.")
@option(
    "-n N",
    "Number of events, counted from the last; default 100, with -f 10.",
    "count",
    type=click.IntRange(0, MOST_EVENTS),
)
@option(
    "--since N|T",
    "Print only events after number N, of all nodes NODE:N,NODE:N…, or after a time: 5m (ago) or RFC 3339.",
)
@option("--type GLOB", 'Print only events of this type, such as "task.*"; repeatable.', "types", multiple=True)
@option("--agent NAME", "Print only events of this agent.", shell_complete=complete_agents)
@option("--worker ID", "Print only events of this worker.")
@option("--task ID", "Print only events of this task.")
@option("--utc", "Print times in UTC, in full, also on a terminal.")
@click.pass_context
def events(
    context: click.Context,
    /,
    follow: bool,
    count: int | None,
    since: str | None,
    types: tuple[str, ...],
    utc: bool,
    **only: str | None,
) -> None:
    """Show events: state changes, tasks, tool calls, limits.

    With -f and --type it is a subscription. In a cluster the events are those of all nodes, `corral --node NAME events` those of one.
    """
    session = session_of(context)
    params = given(**only, types=list(types) or None)
    if since is not None:
        params |= place(since, time.time())
    if context.invoked_subcommand is not None:
        if params or follow or count is not None:
            raise click.UsageError(f"options do not go with {context.invoked_subcommand}")
        return
    if count is not None or since is None:
        shown = EVENTS_BEFORE_FOLLOWING if follow else EVENTS_SHOWN
        params["n"] = shown if count is None else count
    write = session.print_ndjson if session.json else _writer(session, utc)
    if follow:
        _follow(session, params, write)
    else:
        _list(session, params, write)


Write = Callable[[Records], None]


def _list(session: Session, params: Mapping[str, object], write: Write) -> None:
    """Writes stored events page by page, up to the newest of the first request."""
    with session.connect() as connection:
        asked = dict(params)
        missing: list[str] = []
        while True:
            found = render.as_record(connection.call("event.list", asked, timeout_s=ANSWER_S))
            write(inners(found, "events"))
            missing = report_missing(session, found, missing)
            if found.get("next") is None:
                return
            asked.pop("n", None)
            asked |= {"since": found["next"], "until": asked.get("until", found.get("newest"))}


def _follow(session: Session, params: Mapping[str, object], write: Write) -> None:
    """Writes stored and new events until Ctrl-C; when the daemon is lost, the error names the position to go on from."""
    last: object = params.get("since")
    try:
        with session.connect() as connection:
            started = render.as_record(connection.call("event.follow", params, timeout_s=ANSWER_S))
            last = started.get("position", last)
            missing: list[str] = []
            for notification in connection.notifications():
                if notification.method == "event":
                    records = inners(notification.params, "events")
                    write(records)
                    last = records[-1]["seq"] if records else last
                    last = notification.params.get("position", last)
                elif notification.method == MISSING:
                    missing = report_missing(session, notification.params, missing)
    except KeyboardInterrupt:
        return
    except Unreachable as error:
        if last is None:  # it was never reached
            raise
        raise Unreachable(
            f"{error.message}; go on with: corral events -f --since {last}", **{**error.data, "since": last}
        ) from error


def _writer(session: Session, utc: bool) -> Write:
    def write(records: Iterable[Mapping[str, object]]) -> None:
        for record in records:
            session.print(_line(session, record, utc))
        session.stdout.flush()

    return write


def _line(session: Session, record: Mapping[str, object], utc: bool) -> str:
    kind = word(record, "type", "-")
    subject = word(record, "worker") or word(record, "agent", "-")
    if node := word(record, "node"):
        subject += f"@{node}"
    at = line_at(word(record, "at"), is_local=session.is_terminal and not utc)
    head = render.one_line(f"{word(record, 'seq', '-'):>6} {kind} {subject}")
    taken = render.columns(at) + render.columns(head) + 2
    room = None if session.width is None else max(session.width - taken, 1)
    if kind == "worker.state":
        state = word(record, "to", "-")
        colour = render.STATE_COLOURS.get(state, "grey")
        reason = render.one_line(word(record, "reason"))
        before = f"{render.one_line(word(record, 'from', '-'))} -> {render.one_line(state)}"
        text = f"{before} ({reason})" if reason else before
        text = text if room is None else render.cut(text, room)
        text = text.replace(f"-> {state}", f"-> {session.styled(state, colour)}", 1)
    else:
        facts = [(k, v) for k, v in record.items() if k not in EVENT_KEYS and v is not None]
        shown = ((k, v if isinstance(v, str) else render.json_text(v, indent=False)) for k, v in facts)
        text = render.one_line(" ".join(f"{k}={v}" for k, v in shown))
        text = text if room is None else render.cut(text, room)
    return f"{session.styled(at, 'grey')} {head} {text}".rstrip()


@events.define("publish")
@click.argument("type", metavar="TYPE")
@click.argument("data", metavar="[JSON|TEXT|@FILE|-]", required=False)
def publish(session: Session, /, data: str | None, **arguments: Any) -> None:  # Any: click's
    """Publish an event to the subscribers of its type.

    TYPE is a name such as build.done.

    The data is JSON, or a text where it is none, read from a file with @FILE or from stdin with "-", and null by default.
    """
    params: dict[str, object] = {"type": arguments["type"]}
    if data is not None:
        params["data"] = json_value(data, "data", or_text=True)
    published = session.call("event.publish", params)
    if session.json:
        session.print_json(published)
    else:
        session.print(f"published as event {published.get('seq')}")
