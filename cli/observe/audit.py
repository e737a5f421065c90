"""Implements `corral audit`: lists and verifies the audit log."""

import time
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from .. import render
from ..context import ANSWER_S, CommandGroup, Session, complete_agents, given, moment, option, place
from ..render import Record, Table, inner, inners, items, number, word

RECORDS_SHOWN = 100
MOST_RECORDS = 10_000
"""Number of records in one answer."""

VERIFY_S = 600.0
"""Seconds that a verification may take: a slow disk reads the log in a minute."""

ARGUMENTS_SHOWN = 100
"""Number of characters shown of the arguments of a tool call."""

GLOBAL_OPTIONS = frozenset({"--json", "--no-color"})


class _Audit(CommandGroup):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `list` where the command would stand, if none is there."""
        place = 0
        while place < len(args) and (args[place] in GLOBAL_OPTIONS or args[place] == "--socket"):
            place += 2 if args[place] == "--socket" else 1
        if ctx.resilient_parsing and place >= len(args):
            return super().parse_args(ctx, args)  # completion offers the commands
        word = args[place] if place < len(args) else "-"
        if word.startswith("-") and word not in ctx.help_option_names:
            args = [*args[:place], "list", *args[place:]]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Returns the commands, or the options of `list`."""
        if incomplete.startswith("-"):
            return list_.shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)


@click.group("audit", cls=_Audit, epilog="Without a command, list: `corral audit -n 20` is `corral audit list -n 20`.")
def audit() -> None:
    """Show and verify the audit log.

    It has the changes, the calls of tools, and what was refused.
    """


@audit.define("list")
@option(
    "-n N", "Number of records, counted from the last; default 100, with --since all.", "count", type=click.IntRange(0)
)
@option("--since N|T", "Print only records after number N, or after a time: 5m (ago) or RFC 3339.")
@option("--until T", "Print only records before this: 5m (ago), or a time.")
@option("--action GLOB", 'Print only this action, such as "agent.*"; repeatable.', "actions", multiple=True)
@option("--name NAME", "Print only records about or by this agent or worker.", shell_complete=complete_agents)
def list_(
    session: Session,
    count: int | None,
    since: str | None,
    until: str | None,
    actions: tuple[str, ...],
    name: str | None,
) -> None:
    """List records of changes and tool calls, the oldest first."""
    params = given(actions=list(actions) or None, name=name)
    now = time.time()
    if until is not None:
        params["until_time"] = moment(until, "--until", now)
    if since is not None:
        params |= place(since, now)
    after = int(str(params.pop("since", 0)))
    if since is None or count is not None:
        _print_last(session, params, RECORDS_SHOWN if count is None else count, after)
    else:
        _print_all(session, params, after)


def _print_last(session: Session, params: Record, count: int, after: int) -> None:
    """Prints the newest records, of those after a number, when the oldest of them is there."""
    newest: list[Sequence[Record]] = []
    before: dict[str, object] = {}
    with session.connect() as connection:
        while count > 0:
            page = {**params, **before, "n": min(count, MOST_RECORDS)}
            found = render.as_record(connection.call("audit.list", page, timeout_s=ANSWER_S))
            records = inners(found, "records")
            newest.append([each for each in records if (number(each, "id") or 0) > after])
            count -= len(records)
            if found.get("next") is None or len(newest[-1]) < len(records):
                break
            before = {"before": found["next"]}
    _print(session, [record for records in reversed(newest) for record in records])


def _print_all(session: Session, params: Record, after: int) -> None:
    following: object = after
    with session.connect() as connection:
        while following is not None:
            page = {**params, "n": MOST_RECORDS, "since": following}
            found = render.as_record(connection.call("audit.list", page, timeout_s=ANSWER_S))
            _print(session, inners(found, "records"))
            following = found.get("next")


def _print(session: Session, records: Sequence[Record]) -> None:
    if session.json:
        session.print_ndjson(records)
    elif records:
        session.print_records(records, RECORDS)


def _subject(record: Record) -> str:
    about = word(record, "tool") or " ".join(str(each) for each in items(record, "names"))
    kept = inner(inner(record, "arguments"), "value")
    return f"{about} {_brief(kept)}" if kept else about


def _result(record: Record) -> str:
    message = f": {word(record, 'message')}" if word(record, "message") else ""
    repeated = f" ({word(record, 'repeated')} times more)" if record.get("repeated") is not None else ""
    return word(record, "result", "-") + message + repeated


def _brief(arguments: Record) -> str:
    """Formats the arguments of a call, cut to one line; `--json` has all of them."""
    text = render.json_text(arguments, indent=False)
    return text if len(text) <= ARGUMENTS_SHOWN else f"{text[: ARGUMENTS_SHOWN - 1]}…"


def _caller(who: Record) -> str:
    if who.get("daemon"):
        return "corrald"
    if word(who, "signal"):
        return word(who, "signal")
    process = f"{_user(who.get('uid'))} pid {word(who, 'pid', '-')}"
    inside = word(who, "worker") or word(who, "agent") or ("inside" if "agent" in who else "")
    return f"{inside} ({process})" if inside else process


def _user(uid: object) -> str:
    import pwd  # noqa: PLC0415 - start-up time: only here

    try:
        return pwd.getpwuid(uid).pw_name if isinstance(uid, int) else "-"
    except (KeyError, OverflowError):
        return f"uid {uid}"


RECORDS = Table(
    "ID TIME=at CALLER ACTION SUBJECT TOOK=duration_s RESULT",
    drop="ID TOOK",
    right="ID TOOK",
    caller=lambda record: _caller(inner(record, "who")),
    subject=_subject,
    result=_result,
)


@audit.define("verify")
@option("--head NUMBER:HASH", "Head that was printed earlier and that the log must contain.")
def verify(session: Session, head: str | None) -> int:
    """Verify that no record was changed or removed. Prints the head of the chain of hashes."""
    found = session.call("audit.verify", {} if head is None else {"head": head}, timeout_s=VERIFY_S)
    is_whole = found.get("ok") is True
    if session.json:
        session.print_json(found)
    elif is_whole:
        span = f", {word(found, 'first')} to {word(found, 'last')}" if found.get("last") else ""
        session.print(f"{word(found, 'records')} records{span}: as they were written")
        session.print(f"head {word(found, 'head')}")
    else:
        wrong = inner(found, "wrong")
        session.print(session.styled(render.one_line(f"record {word(wrong, 'id')} {word(wrong, 'what')}"), "red"))
        session.print(f"right up to {word(found, 'head')}")
    return 0 if is_whole else 1
