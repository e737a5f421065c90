"""Implements `corral checkpoint …`: workers save checkpoints and continue from them."""

import click

from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, NotFound

from .. import render
from ..context import (
    CommandGroup,
    Session,
    complete_agents,
    complete_names,
    duration,
    given,
    json_value,
    option,
    waiting_s,
)
from ..render import Table, inner, inners, number, word

checkpoint = CommandGroup("checkpoint", help="Save, restore, list and remove checkpoints of workers.")

CHECKPOINTS = Table("ID AT AGENT WORKER REASON SIZE=size_bytes TASK", drop="TASK AGENT", right="ID SIZE")

complete_checkpoints = complete_names("checkpoint.list", "checkpoints")


@checkpoint.define("save")
@click.argument("name", metavar="NAME", shell_complete=complete_agents)
@option("--timeout D", "Wait at most this long for each worker.", "timeout_s", type=duration)
def save(session: Session, name: str, timeout_s: float | None) -> None:
    """Save a checkpoint of each worker of an agent, or of one worker."""
    found = session.call("checkpoint.save", given(name=name, timeout_s=timeout_s), timeout_s=waiting_s(timeout_s))
    if session.printed_json(found):
        return
    for each in inners(found, "checkpoints"):
        words = f"saved checkpoint {word(each, 'id')} of {word(each, 'worker')}"
        session.print_line(f"{words} ({render.size(number(each, 'size_bytes'))})")


@checkpoint.define("restore")
@click.argument("which", metavar="ID|NAME", required=False, shell_complete=complete_checkpoints)
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_agents)
@option("--input JSON|@FILE|-", "Restore this JSON value in place of a stored checkpoint.", "data")
@option("--timeout D", "Wait at most this long for the worker.", "timeout_s", type=duration)
@click.option(
    "--start/--no-start", default=None, help="Start an agent that is stopped, too; or not even one that is added again."
)
def restore(
    session: Session, which: str | None, name: str | None, data: str | None, timeout_s: float | None, start: bool | None
) -> None:
    """Continue a worker from a checkpoint.

    ID alone restores the worker that saved it, NAME another one. Where there is no such agent, it is added with the table
    that it had then, and started. With --input, give NAME and no ID.
    """
    params = given(timeout_s=timeout_s, start=start)
    if data is None:
        params |= given(checkpoint=_id(which), name=name)
    elif which is None or name is not None:
        raise InvalidParams("cannot restore: with --input name a worker alone", key="--input")
    else:
        params |= {"data": json_value(data, "--input"), "name": which}
    found = session.call("checkpoint.restore", params, timeout_s=waiting_s(timeout_s))
    how = "goes on with it" if found.get("live") else "begins with it at its next start"
    number_ = word(inner(found, "checkpoint"), "id")
    session.answer(found, f"{word(found, 'worker')} {how} (checkpoint {number_})")


@checkpoint.define("list")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_agents)
@option("-n N", "List at most N; default 100.", "limit", type=click.IntRange(1, 10_000))
def list_(session: Session, name: str | None, limit: int | None) -> None:
    """List checkpoints, the newest first. NAME is an agent, a worker or a task."""
    found = session.call("checkpoint.list", given(name=name, limit=limit))
    of = "" if name is None else f' of "{name}"'
    session.print_list(found, "checkpoints", f"there are no checkpoints{of}", CHECKPOINTS)


@checkpoint.define("show")
@click.argument("which", metavar="ID", shell_complete=complete_checkpoints)
@option("--output FILE", "Write the data as JSON to this file.", "path")
def show(session: Session, which: str, path: str | None) -> None:
    """Show a checkpoint with its data."""
    found = session.call("checkpoint.show", {"checkpoint": _id(which)})
    if path is not None:
        try:
            with open(path, "wb") as file:
                file.write(codec.encode(found.get("data")) + b"\n")
        except OSError as error:
            text = f'cannot write "{path}": {(error.strerror or "").lower()}'
            raise InvalidParams(text, key="--output", value=path) from error
        session.print_line(f"wrote {path}")
        return
    if session.printed_json(found):
        return
    keys = ("id", "at", "agent", "worker", "task", "reason", "size_bytes")
    session.print_fields({key: found.get(key) for key in keys})
    session.print_foreign(render.json_text(found.get("data"), indent=True))


@checkpoint.define("rm")
@click.argument("which", nargs=-1, required=True, metavar="ID...", shell_complete=complete_checkpoints)
@option("--force", "Remove also a checkpoint that a worker would start from: it starts without state.")
def rm(session: Session, which: tuple[str, ...], force: bool) -> None:
    """Remove checkpoints."""
    params: dict[str, object] = {"checkpoints": [_id(each) for each in which], "force": force}
    session.answer(session.call("checkpoint.rm", params), f"removed {', '.join(which)}")


def _id(text: str | None) -> int:
    if text is None:
        raise InvalidParams("cannot restore: give a checkpoint's ID, or --input", key="ID")
    if not text.isdecimal() or not 0 < int(text[:20]) < 2**63:
        raise NotFound(f'cannot find checkpoint "{text}"', checkpoint=text)
    return int(text)
