"""Implements `corral templates`: lists the templates of the configuration."""

import json
from collections.abc import Mapping

import click

from corral.worker.contract.errors import NotFound

from ..context import Session, command
from ..render import Table, inner, inners, items, word


@command("templates")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def templates(session: Session, names: tuple[str, ...]) -> None:
    """List templates with their parameters.

    An agent takes one by template = "NAME" in its table, or by corral add X --template NAME --set K=V.
    """
    found = inners(session.call("template.list", {}), "templates")
    known = [word(each, "name") for each in found]
    for name in names:
        if name not in known:
            raise NotFound(f'cannot find template "{name}"', name=name, known=known)
    chosen = [each for each in found if not names or word(each, "name") in names]
    if session.printed_json({"templates": chosen}):
        return
    table = Table(
        "TEMPLATE=name PARAMS USED_BY SOURCE DESCRIPTION",
        drop="DESCRIPTION SOURCE",
        params=lambda each: " ".join(_param(param) for param in inners(each, "params")),
        used_by=lambda each: ", ".join(map(str, items(each, "used_by"))),
    )
    session.print_records(chosen, table)


def _param(param: Mapping[str, object]) -> str:
    """Returns NAME, or NAME=DEFAULT."""
    schema = inner(param, "schema")
    if param.get("required"):
        return word(param, "name")
    default = schema.get("default")
    text = default if isinstance(default, str) else json.dumps(default)
    return f"{word(param, 'name')}={text}"
