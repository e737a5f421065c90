"""What a team or a workflow looks like on a terminal: its line in a list, and the whole of it."""

from collections.abc import Iterable, Mapping

from . import render
from .console import Session
from .render import inner, inners, items, word

HEADER = ("NAME", "KIND", "RUNNING", "MODE", "WHO")
SHORT = 60
"""Characters of a text in a table."""


def print_ensembles(session: Session, records: Iterable[Mapping[str, object]]) -> None:
    """Teams and workflows, one in a line."""
    session.print_table(HEADER, [_row(record) for record in records], right=("RUNNING",))


def _row(record: Mapping[str, object]) -> list[str]:
    cells = [word(record, "name"), word(record, "kind"), word(record, "running", "0")]
    if word(record, "kind") == "workflow":
        return [*cells, "steps", ", ".join(map(str, items(record, "steps")))]
    members = ", ".join(map(str, items(record, "members")))
    lead = word(record, "lead")
    return [*cells, word(record, "mode", "-"), f"{lead}: {members}" if lead else members]


def print_ensemble(session: Session, found: Mapping[str, object]) -> None:
    """One in full: the answer to `team.show`, `workflow.show`, and to `agent.show` for either."""
    spec = inner(found, "spec")
    for kind in ("team", "workflow"):
        if kind in found:
            print_ensembles(session, [inner(found, kind)])
    for key, value in spec.items():
        if key != "steps":
            text = render.json_text(value, indent=False)
            session.print(render.one_line(f"{key} = {text}"))
    if steps := inners(spec, "steps"):
        session.print("")
        session.print_table(
            ("STEP", "WHO", "AFTER", "WHEN", "FOR EACH", "ON FAILURE", "OBJECTIVE"),
            [_step_row(step) for step in steps],
            droppable=("ON FAILURE", "FOR EACH", "WHEN"),
        )


def _step_row(step: Mapping[str, object]) -> list[str]:
    who = word(step, "agent") or f"capability {word(step, 'capability')}"
    each = step.get("for_each")
    over = (
        each
        if isinstance(each, str)
        else ""
        if each is None
        else render.json_text(each, indent=False)
    )
    return [
        word(step, "name"),
        who,
        ", ".join(map(str, items(step, "after"))),
        _short(word(step, "when")),
        _short(over),
        word(step, "on_failure", "fail"),
        _short(word(step, "objective")),
    ]


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 4]} ..."
