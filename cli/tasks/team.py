"""Implements `corral team …` and `corral workflow …`: groups of agents are added, listed, shown and removed."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams

from ..context import CommandGroup, Session, complete_names, option, toml_document
from ..render import inner, inners, items, word
from ..status_table import print_group, print_groups

RUN = {"run": "tasks.task"}
"""`corral team run` is `corral run`: the name says whether it is a team."""

team = CommandGroup("team", table=RUN, help="List, add and remove teams of agents.")
workflow = CommandGroup("workflow", table=RUN, help="List, add and remove workflows of several agents.")


def _list(kind: str) -> Callable[..., None]:
    def act(session: Session) -> None:
        found = inners(session.call(f"{kind}.list", {}), f"{kind}s")
        if session.json:
            session.print_json(found)
        elif found:
            print_groups(session, found)
        else:
            session.note(f"there are no {kind}s")

    return act


def _show(kind: str) -> Callable[..., None]:
    def act(session: Session, name: str) -> None:
        found = session.call(f"{kind}.show", {"name": name})
        if session.json:
            session.print_json(found)
        else:
            print_group(session, found)

    return act


def _rm(kind: str) -> Callable[..., None]:
    def act(session: Session, name: str, cascade: bool) -> None:
        found = session.call(f"{kind}.rm", {"name": name, "cascade": cascade}, timeout_s=None)
        session.answer(found, *(f"removed {removed}" for removed in items(found, "removed")))

    return act


def _fill(noun: CommandGroup, kind: str) -> None:
    name = click.argument("name", metavar="NAME", shell_complete=complete_names(f"{kind}.list", f"{kind}s"))
    cascade = option("--cascade", f"Also remove everything that requires the {kind}.")
    noun.define("list", help=f"List the {kind}s.")(_list(kind))
    noun.define("show", help=f"Show one {kind} in full.")(name(_show(kind)))
    noun.define("rm", help=f"Remove a {kind}. Its running tasks continue.")(name(cascade(_rm(kind))))


_fill(team, "team")
_fill(workflow, "workflow")


@team.define("add")
@click.argument("name", required=False, metavar="[NAME]")
@option("--file F", "Add the [teams.NAME] tables of a TOML file, all of them or NAME.", "path")
@option("--lead AGENT", "Agent that gets the tasks in mode coordinate.")
@option("--member NAME", "Agent of the team; repeatable.", "members", multiple=True)
@option(
    "--mode",
    "Give a task to the lead, to every member, or to one member; default coordinate.",
    type=click.Choice(("coordinate", "broadcast", "route")),
)
@option(
    "--routing",
    "Choice of the member in mode route; default least-load.",
    type=click.Choice(("least-load", "round-robin", "sticky")),
)
@option("--max-parallel N", "Number of tasks that run at the same time; default 8.", type=click.IntRange(1))
def add_team(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Add a team. A restart of the daemon keeps it."""
    keys = ("lead", "mode", "routing", "max_parallel")
    spec: dict[str, object] = {key: options[key] for key in keys if options[key] is not None}
    if options["members"]:
        spec["members"] = list(options["members"])
    path, name = options["path"], options["name"]
    if path is None and name is None:
        raise InvalidParams("cannot add a team: give NAME or --file", key="name", value=None)
    if path is not None and spec:
        key = next(iter(spec)).replace("_", "-")
        raise InvalidParams(f"cannot add from {path!r}: --{key} stands beside --file", key=f"--{key}", value=None)
    _add(session, "team", {name: spec} if path is None else _tables("team", path, name))


@workflow.define("add")
@click.argument("name", required=False, metavar="[NAME]")
@option("--file F", "Add the [workflows.NAME] tables of a TOML file, all of them or NAME.", "path", required=True)
def add_workflow(session: Session, name: str | None, path: str) -> None:
    """Add workflows from a file. A restart of the daemon keeps them."""
    _add(session, "workflow", _tables("workflow", path, name))


def _tables(kind: str, path: str, wanted: str | None) -> dict[str, object]:
    """Returns the tables of a file, or the one that is named; ignores other tables."""
    chosen = {name: table for name, table in inner(toml_document(path), f"{kind}s").items() if wanted in (None, name)}
    if not chosen:
        missing = f"[{kind}s.{wanted or 'NAME'}]"
        text = f"cannot add from {path!r}: it has no {missing}"
        raise InvalidParams(text, file=path, key=wanted, reason="not in the file")
    return chosen


def _add(session: Session, kind: str, specs: Mapping[str, object]) -> None:
    found = inners(session.call(f"{kind}.add", {"specs": dict(specs)}, timeout_s=None), f"{kind}s")
    session.answer(found, *(f"added {kind} {word(record, 'name')}" for record in found))
