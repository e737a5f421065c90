"""Formats teams and workflows: one line in a list, or all of one."""

from collections.abc import Iterable, Mapping

from .console import Session
from .fields import toml_text
from .render import inner, inners, items, word

HEADER = ("NAME", "KIND", "RUNNING", "MODE", "MEMBERS")
SHORT = 60
"""Number of characters of a text in a table."""


def print_groups(session: Session, records: Iterable[Mapping[str, object]]) -> None:
    """Prints teams and workflows, one line each."""
    session.print_table(HEADER, [_row(record) for record in records], right=("RUNNING",))


def _row(record: Mapping[str, object]) -> list[str]:
    cells = [word(record, "name"), word(record, "kind"), word(record, "running", "0")]
    if word(record, "kind") == "workflow":
        return [*cells, "steps", ", ".join(map(str, items(record, "steps")))]
    members = ", ".join(map(str, items(record, "members")))
    lead = word(record, "lead")
    return [*cells, word(record, "mode", "-"), f"{lead}: {members}" if lead else members]


def print_group(session: Session, found: Mapping[str, object]) -> None:
    """Prints a team or a workflow in full: the result of `team.show`, `workflow.show`, or `agent.show` for either."""
    spec = inner(found, "spec")
    for kind in ("team", "workflow"):
        if kind in found:
            print_groups(session, [inner(found, kind)])
            print_service(session, inner(found, kind))
            if (revision := inner(found, kind).get("overridden")) is not None:
                session.print(f"set by revision {revision}, not as in the file")
    for key, value in spec.items():
        if key != "steps" and value is not None:
            session.print_line(f"{key} = {toml_text(value)}")
    if steps := inners(spec, "steps"):
        session.print("")
        session.print_table(
            ("STEP", "AGENT", "AFTER", "WHEN", "FOR EACH", "ON FAILURE", "OBJECTIVE"),
            [_step_row(step) for step in steps],
            droppable=("ON FAILURE", "FOR EACH", "WHEN"),
        )


def print_service(session: Session, entry: Mapping[str, object]) -> None:
    """Prints where an agent, team or workflow is served over HTTP, if it is."""
    if service := inner(entry, "service"):
        place = word(service, "url") or f"{word(service, 'address')}: {word(service, 'reason')}"
        by = ", by corral expose" if service.get("exposed") else ""
        session.print_line(f"HTTP {word(service, 'state')} at {place}{by}")


def print_listen(session: Session, entry: Mapping[str, object]) -> None:
    """Prints the addresses at which the daemon listens for an agent."""
    for each in inners(entry, "listen"):
        place = word(each, "bound") or word(each, "address")
        name = word(each, "name")
        named = f" ({name})" if name and name != entry.get("name") else ""
        reason = f": {word(each, 'reason')}" if word(each, "reason") else ""
        session.print_line(f"listen {word(each, 'state')} at {place}{named}{reason}")


def _step_row(step: Mapping[str, object]) -> list[str]:
    agent = word(step, "agent") or f"capability {word(step, 'capability')}"
    each = step.get("for_each")
    over = each if isinstance(each, str) else "" if each is None else toml_text(each)
    return [
        word(step, "name"),
        agent,
        ", ".join(map(str, items(step, "after"))),
        _short(word(step, "when")),
        _short(over),
        word(step, "on_failure", "fail"),
        _short(word(step, "objective")),
    ]


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 4]} ..."
