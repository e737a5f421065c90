"""Implements `corral schedules` and `schedule …`; `corral run --every` creates a schedule of tasks, too."""

import os
from collections.abc import Mapping
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams, NotFound

from .. import render
from ..context import AddCommand, CommandGroup, Session, calling, command, complete_names, duration, option, pair
from ..render import Record, Table, inner, inners, items, number, word
from .run_options import add_times, times

complete_schedules = complete_names("schedule.list", "schedules")

of_schedule = click.argument("name", metavar="NAME", shell_complete=complete_schedules)
of_schedules = click.argument("names", metavar="NAME…", nargs=-1, required=True, shell_complete=complete_schedules)


def _list(session: Session) -> None:
    nothing = "there are no schedules; corral schedule add NAME --cron EXPR -- CMD makes one"
    table = Table(
        "NAME FOR=whom WHEN NEXT LAST RUNS SKIPPED REFUSED FROM=origin OBJECTIVE",
        drop="FROM SKIPPED REFUSED RUNS WHEN",
        right="RUNS SKIPPED REFUSED",
        last=_last,
        objective=_objective,
        whom=_whom,
        origin=_source,
        when=lambda record: _when(session, record),
        next=lambda record: "paused" if record.get("paused") is True else session.at(word(record, "next_at")),
    )
    session.print_list(session.call("schedule.list", {}), "schedules", nothing, table)


def _whom(record: Record) -> str:
    task = inner(record, "task")
    return word(task, "agent") or f"any {word(task, 'capability')}"


def _source(record: Record) -> str:
    source = word(record, "source")
    return source if source in ("store", "cluster") else "file"


def _objective(record: Record) -> str:
    error, objective = word(inner(record, "last_error"), "name"), word(inner(record, "task"), "objective")
    return f"{error}: {objective}" if error else objective


def _last(record: Mapping[str, object]) -> str:
    """Returns how the last run has ended; "running" while it has not."""
    run, task = inner(record, "last_run"), word(record, "last_task")
    if task and word(run, "task") != task:
        return "running"
    return _result(run)


def _result(run: Mapping[str, object]) -> str:
    """Returns the state of a run, with the exit code or the signal of a command that has failed."""
    state = word(run, "state")
    why = word(run, "signal") or (f"code {word(run, 'code')}" if number(run, "code") else "")
    return f"{state}, {why}" if why else state


def _when(session: Session, record: Mapping[str, object]) -> str:
    every_s = number(record, "every_s")
    if every_s is not None:
        return f"every {render.duration(every_s)}"
    if record.get("at") is not None:
        return f"at {session.at(word(record, 'at'))}"
    zone = word(record, "timezone")
    return word(record, "cron") + (f" {zone}" if zone else "")


schedules = command("schedules", help="List the schedules.")(_list)
schedule = CommandGroup("schedule", help="Add, show, pause, run and remove schedules.")


@schedule.define(
    "add",
    cls=AddCommand,
    epilog="""\b
Examples:
  corral schedule add backup --cron "0 3 * * *" --timezone Europe/Berlin -- ./backup.sh /srv
  corral schedule add sync --every 15m --overlap replace --time-limit 10m -- rsync -a /a/ /b/
  corral schedule add once --at 18:00 -- ./migrate.sh

Write the command after --, so that its options are not read as options of corral. Tasks of agents are scheduled by
corral run AGENT OBJECTIVE --cron EXPR.""",
)
@click.argument("name", metavar="NAME")
@click.argument("command", nargs=-1, metavar="-- CMD...", type=click.UNPROCESSED)
@add_times
@option("--time-limit D", "Kill a run that takes longer; it has failed.", type=duration)
@option("--env K=V", "Environment variable; repeatable.", "environment", multiple=True)
@option("--user USER", "User that the command runs as.")
@option("--cwd DIR", "Working directory; default is the current one.")
@option("--memory SIZE", 'Memory limit of the process tree, such as "512MiB".')
def add(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Add a schedule of a command.

    The command becomes a job of the same name. A restart of the daemon keeps both.
    """
    name = options["name"]
    if not options["command"]:
        raise InvalidParams(f'cannot add "{name}": write a command after --', key="command", value=None)
    process = {"working_directory": os.path.abspath(options["cwd"] or ".")}
    if options["user"] is not None:
        process["user"] = options["user"]
    spec: dict[str, object] = {"process": process}
    if options["time_limit"] is not None:
        spec["timeout"] = options["time_limit"]
    if options["memory"] is not None:
        spec["resources"] = {"max_memory_bytes": options["memory"]}
    if options["environment"]:
        spec["environment"] = dict(pair(name, "--env", each) for each in options["environment"])
    params = {"name": name, "command": list(options["command"]), "spec": spec, **times(options)}
    record = session.call("schedule.add_command", params)
    session.answer(record, f"added {name}")
    session.note(f"runs next at {word(record, 'next_at', 'no time at all')}")


schedule.define("list", help="List the schedules.")(_list)


@schedule.define("show")
@of_schedule
def show(session: Session, name: str) -> None:
    """Show a schedule in full, with its next and last runs."""
    record = session.call("schedule.show", {"name": name})
    if session.printed_json(record):
        return
    runs = inners(record, "recent")
    left_out = ("recent",) if items(record, "missing_nodes") else ("recent", "missing_nodes")
    session.print_fields({key: value for key, value in record.items() if key not in left_out})
    if runs:
        session.print("\n" + session.styled("last runs", "bold"))
        session.print_records(runs, RUNS)


RUNS = Table(
    "TASK STARTED=started_at TOOK=duration_s RESULT LIFE=incarnation ERROR NODE",
    drop="LIFE",
    sparse="NODE",
    right="TOOK",
    result=_result,
)


@schedule.define("rm")
@of_schedules
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
    known = {word(each, "name") for each in inners(session.call("schedule.list", {}), "schedules")}
    for name in names:
        if name not in known:
            raise NotFound(f'cannot find schedule "{name}"', name=name, known=sorted(known))


def _switch(verb: str, text: str) -> None:
    def act(session: Session, names: tuple[str, ...]) -> None:
        _check_known(session, names)
        records = [session.call(f"schedule.{verb}", {"name": name}) for name in dict.fromkeys(names)]
        if session.printed_json({"schedules": records}):
            return
        for record in records:
            following = "paused" if record.get("paused") is True else word(record, "next_at", "never")
            session.print_line(f"{word(record, 'name')} {following}")

    schedule.define(verb, help=text)(of_schedules(act))


_switch("pause", "Pause schedules. Runs that are due meanwhile are skipped.")
_switch("resume", "Resume paused schedules at their next run time.")
RUN = "Submit the task of a schedule now, and print its id."
schedule.add_command(calling("run", "schedule.run", "{0[id]}", of_schedule, text=RUN))
