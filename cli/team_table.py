"""Formats teams and workflows: one line in a list, or all of one."""

from collections.abc import Iterable

from .console import Session
from .fields import toml_text
from .render import Record, Table, inner, inners, items, word

SHORT = 60
"""Number of characters of a text in a table."""


def print_groups(session: Session, records: Iterable[Record]) -> None:
    """Prints teams and workflows, one line each."""
    session.print_records(records, GROUPS)


def _mode(record: Record) -> str:
    return "steps" if word(record, "kind") == "workflow" else word(record, "mode")


def _members(record: Record) -> str:
    if word(record, "kind") == "workflow":
        return ", ".join(map(str, items(record, "steps")))
    members = ", ".join(map(str, items(record, "members")))
    return f"{record['lead']}: {members}" if record.get("lead") else members


GROUPS = Table(
    "NAME KIND RUNNING MODE MEMBERS",
    right="RUNNING",
    running=lambda record: word(record, "running", "0"),
    mode=_mode,
    members=_members,
)


def print_group(session: Session, found: Record) -> None:
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
        session.print_records(steps, STEPS)


def print_service(session: Session, entry: Record) -> None:
    """Prints where an agent, team or workflow is served over HTTP, if it is."""
    if service := inner(entry, "service"):
        place = word(service, "url") or f"{word(service, 'address')}: {word(service, 'reason')}"
        by = ", by corral expose" if service.get("exposed") else ""
        session.print_line(f"HTTP {word(service, 'state')} at {place}{by}")


def print_listen(session: Session, entry: Record) -> None:
    """Prints the addresses at which the daemon listens for an agent."""
    for each in inners(entry, "listen"):
        place = word(each, "bound") or word(each, "address")
        name = word(each, "name")
        named = f" ({name})" if name and name != entry.get("name") else ""
        reason = f": {word(each, 'reason')}" if word(each, "reason") else ""
        session.print_line(f"listen {word(each, 'state')} at {place}{named}{reason}")


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 4]} ..."


def _for_each(step: Record) -> str:
    each = step.get("for_each")
    return _short(each if isinstance(each, str) else "" if each is None else toml_text(each))


STEPS = Table(
    "STEP=name AGENT AFTER WHEN FOR_EACH ON_FAILURE OBJECTIVE",
    drop="ON_FAILURE FOR_EACH WHEN",
    agent=lambda step: word(step, "agent") or f"capability {word(step, 'capability')}",
    after=lambda step: ", ".join(map(str, items(step, "after"))),
    when=lambda step: _short(word(step, "when")),
    for_each=_for_each,
    on_failure=lambda step: word(step, "on_failure", "fail"),
    objective=lambda step: _short(word(step, "objective")),
)
