"""Implements `corral secret`: sets, lists, rotates and removes secrets. A value is read, and never printed."""

import sys
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams

from ..context import CommandGroup, Session, complete_agents, complete_names, option
from ..render import Table, items, word

complete_secrets = complete_names("secret.list", "secrets")

secret = CommandGroup("secret", help="Set, list, rotate and remove secrets.")

SECRETS = Table(
    "NAME KEPT_IN=source FOR=agents CHANGED=changed_at USED_BY",
    drop="CHANGED",
    source=lambda record: word(record, "problem") or word(record, "source", "nowhere"),
    agents=lambda record: " ".join(map(str, items(record, "agents"))) or "all",
)

of_name = click.argument("name", metavar="NAME", shell_complete=complete_secrets)
of_source = click.argument("source", metavar="[-]", required=False, type=click.Choice(["-"]))
of_file = option("--file F", "Read the value from this file, or from stdin with -.", "path")
of_agents = option(
    "--agent GLOB",
    "Let only these agents and servers have it; repeatable.",
    "agents",
    multiple=True,
    shell_complete=complete_agents,
)


@secret.define("set")
@of_name
@of_source
@of_file
@of_agents
@option("--replace", "Replace a secret of this name.")
def set_(session: Session, /, name: str, **options: Any) -> None:  # Any: the options above
    """Keep a secret. Asks for its value, unless it comes from a file or from stdin."""
    params: dict[str, object] = {"name": name, "secret": _value(name, options)}
    params |= {"agents": list(options["agents"]), "replace": options["replace"]}
    _show(session, session.call("secret.set", params), "set")


@secret.define("rotate")
@of_name
@of_source
@of_file
@of_agents
@option("--restart", "Restart the workers that use it, one after another.")
def rotate(session: Session, /, name: str, **options: Any) -> None:  # Any: the options above
    """Replace the value of a secret.

    Without --agent it stays for the same agents.
    """
    params: dict[str, object] = {"name": name, "secret": _value(name, options)}
    params |= {"agents": list(options["agents"]) or None, "restart": options["restart"]}
    timeout: dict[str, Any] = {"timeout_s": None} if options["restart"] else {}
    _show(session, session.call("secret.rotate", params, **timeout), "rotated")


@secret.define("list")
def list_(session: Session) -> None:
    """List the secrets and the agents that name them, without values."""
    nothing = 'there are no secrets; "corral secret set" keeps one'
    session.print_list(session.call("secret.list", {}), "secrets", nothing, SECRETS)


@secret.define("rm")
@of_name
@option("--force", "Remove it although agents name it.")
def remove(session: Session, name: str, force: bool) -> None:
    """Remove a secret."""
    session.answer(session.call("secret.rm", {"name": name, "force": force}), f"removed {name}")


def _show(session: Session, found: dict[str, object], done: str) -> None:
    if session.printed_json(found):
        return
    session.print_line(f"{done} {word(found, 'name')}")
    restarted = [str(each) for each in items(found, "restarted")]
    if restarted:
        session.print_line(f"restarted {' '.join(restarted)}")
    elif users := " ".join(map(str, items(found, "used_by"))):
        session.note(f"processes that run keep the value before: corral restart {users}")


def _value(name: str, options: dict[str, Any]) -> str:
    """Reads the value: from a file, from stdin, or from a person at the terminal; without one final newline."""
    path = options["path"] if options["source"] is None else "-"
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        elif path is not None:
            with open(path, "rb") as file:
                data = file.read()
        elif sys.stdin.isatty():
            from getpass import getpass  # noqa: PLC0415 - start-up time: only where a person is asked

            data = getpass(f"value of {name}: ").encode("utf-8", "surrogateescape")
        else:
            words = f'cannot read secret "{name}": stdin is no terminal; write - or --file F'
            raise InvalidParams(words, key="--file", name=name)
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        words = f'cannot read secret "{name}" from "{path}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, key="--file", value=path) from error
    except UnicodeError:  # whose text has the bytes
        raise InvalidParams(f'cannot read secret "{name}": it is not UTF-8', key="--file", value=path) from None
