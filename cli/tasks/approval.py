"""Implements `corral approvals`: lists the questions of tasks, and answers them."""

from collections.abc import Iterable

import click

from .. import render
from ..context import CommandGroup, Session, complete_names, given, option
from ..render import Table, word

OPEN = Table(
    "ID AGENT TASK QUESTION ANSWERS EXPIRES=expires_at",
    drop="TASK EXPIRES",
    right="ID",
    answers=lambda record: ", ".join(map(str, render.items(record, "options"))) or "any text",
)

ENDED = Table("ID AGENT TASK QUESTION STATE ANSWER BY=answered_by ENDED=ended_at", drop="TASK ENDED BY", right="ID")

complete_open = complete_names("approval.list", "approvals")


@click.group(
    "approvals",
    cls=CommandGroup,
    invoke_without_command=True,
    epilog="""\b
Examples:
  corral approvals
  corral approvals allow 7
  corral approvals answer 8 "the second one"
""",
)
@click.pass_context
def approvals(context: click.Context) -> None:
    """List the questions of tasks, and answer them.

    A handler asks with task.ask(QUESTION, OPTIONS), and waits. Without a command it lists the open questions.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_, agent=None, task=None, ended=False)


@approvals.define("list")
@option("--agent NAME", "Only those of this agent.")
@option("--task ID", "Only those of this task.")
@option("--ended", "Those that have ended, the newest first.")
def list_(session: Session, agent: str | None, task: str | None, ended: bool) -> None:
    """List the open questions, the oldest first."""
    found = session.call("approval.list", given(agent=agent, task=task, ended=ended or None))
    session.print_list(found, "approvals", "no task waits for an answer", ENDED if ended else OPEN)
    if found.get("more") is True:
        session.note("there are more; --agent or --task selects some")


@approvals.define("show")
@click.argument("number", metavar="ID", type=click.IntRange(1), shell_complete=complete_open)
def show(session: Session, number: int) -> None:
    """Show a question, with what it is about."""
    found = render.as_record(session.call("approval.show", {"approval": number}))
    if session.printed_json(found):
        return
    session.print_fields({key: value for key, value in found.items() if key != "detail"})
    if found.get("detail") is not None:
        session.print(session.styled("detail", "bold"))
        session.print_foreign(render.output_text(found["detail"]))


def give_answer(session: Session, numbers: Iterable[int], answer: str | None) -> None:
    """Answers questions alike, and prints what was answered."""
    for number in numbers:
        found = session.call("approval.answer", {"approval": number, "answer": answer})
        if session.json:
            session.print_json(found)
            continue
        record = render.as_record(found)
        line = f"declined {number} of {word(record, 'agent')}"
        if record.get("answer") is not None:
            line = f'answered {number} of {word(record, "agent")} with "{word(record, "answer")}"'
        session.print_line(line)


def _verb(name: str, answer: str | None, text: str) -> None:
    def act(session: Session, numbers: tuple[int, ...]) -> None:
        give_answer(session, numbers, answer)

    ids = click.argument("numbers", metavar="ID…", nargs=-1, required=True, type=click.IntRange(1))
    approvals.define(name, help=text)(ids(act))


ALLOW = "Answer with consent.\n\nIt is the option allow, yes, approve or ok, whichever the question has."
DENY = "Answer with refusal.\n\nIt is the option deny, no, reject or refuse, whichever the question has."
DECLINE = """Decline the form that a question belongs to.

This tells the MCP server or ACP agent, and withdraws its other questions. The question of a handler is denied."""
_verb("allow", "allow", ALLOW)
_verb("deny", "deny", DENY)
_verb("decline", None, DECLINE)


@approvals.define("answer")
@click.argument("number", metavar="ID", type=click.IntRange(1), shell_complete=complete_open)
@click.argument("answer", metavar="ANSWER")
def answer(session: Session, number: int, answer: str) -> None:
    """Answer with an option, or with any text.

    A question without options takes any text.
    """
    give_answer(session, (number,), answer)
