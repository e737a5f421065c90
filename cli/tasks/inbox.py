"""Implements `corral inbox`: lists what waits for a person, answers questions, and marks items as seen."""

import click

from .. import render
from ..context import ANSWER_S, CommandGroup, Session, complete_agents, complete_names, given, option, session_of
from ..render import Record, Table, inners, word
from .approval import give_answer

TABLE = Table(
    "NEED=kind ID AGENT TEXT ANSWERS AT",
    drop="AT ANSWERS",
    answers=lambda item: ", ".join(map(str, render.items(item, "options"))),
    kind=lambda item: f"{word(item, 'kind')} (seen)" if item.get("seen") else word(item, "kind"),
)

NEWS = ("approval.*", "task.ended", "worker.state", "limit.cost")
"""Types of the events after which there may be a new item."""

complete_items = complete_names("inbox.list", "items")


@click.group(
    "inbox",
    cls=CommandGroup,
    invoke_without_command=True,
    epilog="""\b
Examples:
  corral inbox
  corral inbox answer q7 yes
  corral inbox seen --all
""",
)
@option("-f, --follow", "Print new items as they come, until Ctrl-C.")
@option("--agent NAME", "Only those of this agent.", shell_complete=complete_agents)
@click.pass_context
def inbox(context: click.Context, follow: bool, agent: str | None) -> None:
    """List what waits for you, the newest need first.

    These are open questions, workers that gave up, budgets that are used up, and tasks that failed or succeeded while nobody waited for them.
    """
    session = session_of(context)
    if context.invoked_subcommand is not None:
        if follow or agent is not None:
            raise click.UsageError(f"options do not go with {context.invoked_subcommand}")
        return
    params = given(agent=agent)
    if follow:
        _follow(session, params)
        return
    found = session.call("inbox.list", params)
    session.print_list(found, "items", "nothing waits for you", TABLE)
    if found.get("more") is True:
        session.note("there are more; --agent selects some")


def _follow(session: Session, params: Record) -> None:
    """Prints the items, then each new one, until Ctrl-C."""
    shown: set[tuple[str, str]] = set()
    try:
        with session.connect() as connection, session.connect() as asking:
            connection.call("event.follow", {"types": list(NEWS), "n": 0}, timeout_s=ANSWER_S)
            news = connection.notifications()
            while True:
                found = inners(render.as_record(asking.call("inbox.list", params, timeout_s=ANSWER_S)), "items")
                present = {(word(item, "node"), word(item, "id")): item for item in found}
                _print(session, [item for key, item in reversed(present.items()) if key not in shown])
                shown = set(present)
                if next(news, None) is None:
                    return
    except KeyboardInterrupt:
        return


def _print(session: Session, items: list[Record]) -> None:
    if session.json:
        session.print_ndjson(items)
        return
    for item in items:
        answers = ", ".join(map(str, render.items(item, "options")))
        line = f"{session.at(word(item, 'at'))} {word(item, 'kind')} {word(item, 'id')} {word(item, 'agent')}: {word(item, 'text')}"
        session.print_line(f"{line} [{answers}]" if answers else line)
    session.stdout.flush()


@inbox.define("answer")
@click.argument("item", metavar="ID", shell_complete=complete_items)
@click.argument("answer", metavar="ANSWER")
def answer(session: Session, item: str, answer: str) -> None:
    """Answer a question.

    With one of its options, or with any text where it has none.
    """
    number = item.removeprefix("q")
    if not number.isascii() or not number.isdigit():
        raise click.UsageError(f'cannot answer "{item}": only questions, such as q7, take an answer')
    give_answer(session, [int(number)], answer)


@inbox.define("seen")
@click.argument("items", metavar="[ID…]", nargs=-1, shell_complete=complete_items)
@option("--all", "All items.", "everything")
def seen(session: Session, items: tuple[str, ...], everything: bool) -> None:
    """Mark items as seen.

    They leave the list; questions do when they are answered.
    """
    if everything == bool(items):
        raise click.UsageError("name items, or give --all")
    found = session.call("inbox.seen", {"all": True} if everything else {"items": list(items)})
    session.answer(found, f"seen: {', '.join(map(str, render.items(found, 'seen'))) or 'nothing was there'}")
