"""Implements `corral schedules` and `schedule …`; `corral run --every` creates a schedule."""

from collections.abc import Mapping

import click

from ...worker.contract.errors import NotFound
from .. import render
from ..context import Command, CommandGroup, Session, complete_names
from ..render import inner, inners, number, word

complete_schedules = complete_names("schedule.list", "schedules")

of_schedules = click.argument(
    "names", metavar="NAME…", nargs=-1, required=True, shell_complete=complete_schedules
)


def _list(session: Session) -> None:
    found = session.call("schedule.list", {})
    records = session.records(
        found, "schedules", "there are no schedules; corral run AGENT OBJECTIVE --every D makes one"
    )
    if not records:
        return
    session.print_table(
        ("NAME", "FOR", "WHEN", "NEXT", "RUNS", "SKIPPED", "REFUSED", "LAST", "OBJECTIVE"),
        [_row(session, record) for record in records],
        droppable=("SKIPPED", "REFUSED", "LAST", "RUNS", "WHEN"),
        right=("RUNS", "SKIPPED", "REFUSED"),
    )


def _row(session: Session, record: Mapping[str, object]) -> list[str]:
    task = inner(record, "task")
    following = "paused" if record.get("paused") is True else session.at(word(record, "next_at"))
    counts = [word(record, key) for key in ("runs", "skipped", "refused")]
    error = word(inner(record, "last_error"), "name")
    objective = word(task, "objective")
    return [
        word(record, "name"),
        _whom(task),
        _when(record),
        following,
        *counts,
        word(record, "last_task"),
        f"{error}: {objective}" if error else objective,
    ]


def _whom(task: Mapping[str, object]) -> str:
    return word(task, "agent") or f"any {word(task, 'capability')}"


def _when(record: Mapping[str, object]) -> str:
    every_s = number(record, "every_s")
    if every_s is not None:
        return f"every {render.duration(every_s)}"
    zone = word(record, "timezone")
    return word(record, "cron") + (f" {zone}" if zone else "")


@click.command("schedules", cls=Command)
@click.pass_obj
def schedules(session: Session) -> None:
    """List the schedules."""
    _list(session)


schedule = CommandGroup("schedule", help="Show, pause, run and remove schedules of tasks.")


@schedule.command("list")
@click.pass_obj
def list_schedules(session: Session) -> None:
    """List the schedules."""
    _list(session)


@schedule.command("show")
@click.argument("name", metavar="NAME", shell_complete=complete_schedules)
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Show a schedule in full, with its next run times."""
    record = session.call("schedule.show", {"name": name})
    if session.json:
        session.print_json(record)
        return
    session.print_fields(record)


@schedule.command("rm")
@of_schedules
@click.pass_obj
def remove(session: Session, names: tuple[str, ...]) -> None:
    """Remove schedules, all of them or none. Their tasks stay."""
    _check_known(session, names)
    for name in dict.fromkeys(names):
        session.call("schedule.rm", {"name": name})
    if session.json:
        session.print_json({"removed": list(dict.fromkeys(names))})


def _check_known(session: Session, names: tuple[str, ...]) -> None:
    """Raises NotFound for a name that does not exist, before any of the others is changed."""
    if len(names) == 1:  # the daemon refuses that one itself
        return
    found = session.call("schedule.list", {})
    known = {word(each, "name") for each in inners(found, "schedules")}
    for name in names:
        if name not in known:
            raise NotFound(f'cannot find schedule "{name}"', name=name, known=sorted(known))


def _each(session: Session, method: str, names: tuple[str, ...]) -> None:
    _check_known(session, names)
    records = [session.call(method, {"name": name}) for name in dict.fromkeys(names)]
    if session.json:
        session.print_json({"schedules": records})
        return
    for record in records:
        following = "paused" if record.get("paused") is True else word(record, "next_at", "never")
        session.print(render.one_line(f"{word(record, 'name')} {following}"))


@schedule.command("pause")
@of_schedules
@click.pass_obj
def pause(session: Session, names: tuple[str, ...]) -> None:
    """Pause schedules. Runs that are due meanwhile are skipped."""
    _each(session, "schedule.pause", names)


@schedule.command("resume")
@of_schedules
@click.pass_obj
def resume(session: Session, names: tuple[str, ...]) -> None:
    """Resume paused schedules at their next run time."""
    _each(session, "schedule.resume", names)


@schedule.command("run")
@click.argument("name", metavar="NAME", shell_complete=complete_schedules)
@click.pass_obj
def run(session: Session, name: str) -> None:
    """Submit the task of a schedule now, and print its id."""
    record = session.call("schedule.run", {"name": name})
    if session.json:
        session.print_json(record)
        return
    session.print(render.one_line(word(record, "id")))
