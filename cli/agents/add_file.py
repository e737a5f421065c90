"""Implements `corral add --file`: reads the tables of a TOML file, and adds all of them or the one that is named."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InvalidParams

from .. import render
from ..context import Session, admit_msgspec, text_document
from ..render import inner, inners, items

FILE_OPTIONS = frozenset({"path", "name", "command", "no_start", "no_wait"})
"""Options of `add` that may stand beside `--file`, and the command, which is refused in other words."""
OPTION_NAMES = {
    "is_server": "mcp",
    "capabilities": "capability",
    "environment": "env",
    "labels": "label",
    "url": "webhook",
    "a2a_url": "a2a",
    "headers": "header",
    "policy": "restart",
    "params": "set",
}

OF_FILE = ("stores", "models", "templates")
"""Tables with names that only the configuration file of a daemon can have, as `mcp.profiles`; an export has them."""

GROUPS = ("teams", "workflows", "schedules")
"""Tables with names that are no agents or servers."""

Added = tuple[list[dict[str, object]], dict[str, object]]


def add_file(session: Session, options: Mapping[str, Any], how: Mapping[str, bool]) -> Added:
    """Adds what a file has; returns the entries of what was added, and the errors of agents that did not start."""
    request, left_out = _request(options)
    if left_out:
        session.note(render.one_line(f"left out, since only a configuration file has them: {', '.join(left_out)}"))
    if not any(request[key] for key in GROUPS):
        found = session.call("agent.add_all", {"agents": request["agents"], **how}, timeout_s=None)
        return inners(found, "agents"), inner(found, "failures")
    found = session.call("daemon.import", {**request, **how}, timeout_s=None)
    added: list[dict[str, object]] = [
        {"name": name, "kind": kind[:-1]} for kind in ("agents", *GROUPS) for name in items(found, kind)
    ]
    return added, inner(found, "failures")


def _request(options: Mapping[str, Any]) -> tuple[dict[str, object], list[str]]:
    """Returns the params of `daemon.import` for the file, or for the one table that is named, and the tables left out."""
    path, wanted = options["path"], options["name"]
    extra = [key for key, value in options.items() if value not in (None, False, ()) and key not in FILE_OPTIONS]
    if options["command"] or extra:
        key = f"--{OPTION_NAMES.get(extra[0], extra[0])}" if extra else "command"
        raise InvalidParams(f"cannot add from {path!r}: {key} stands beside --file", key=key, value=None)
    document, folders, environment = _tables_of(path)
    mcp = inner(document, "mcp")
    tables = [("agent", name, table) for name, table in inner(document, "agents").items()]
    tables += [("mcp", name, table) for name, table in inner(mcp, "servers").items()]
    groups = {key: inner(document, key) for key in GROUPS}
    unknown = [key for key in document if key not in ("agents", "mcp", *GROUPS, *OF_FILE)]
    unknown += [f"mcp.{key}" for key in mcp if key not in ("servers", "profiles")]
    left_out = [f"{key}.{name}" for key in OF_FILE for name in inner(document, key)]
    left_out += [f"mcp.profiles.{name}" for name in inner(mcp, "profiles")]
    if unknown:
        words = f"cannot add from {path!r}: [{unknown[0]}] is a table of corral.toml only; add takes agents, mcp.servers, {', '.join(GROUPS)}"
        raise InvalidParams(words, file=path, key=unknown[0], reason="cannot be added")
    chosen = [each for each in tables if wanted in (None, each[1])]
    named = {
        key: {name: table for name, table in group.items() if wanted in (None, name)} for key, group in groups.items()
    }
    if not chosen and not any(named.values()):
        words = f"cannot add from {path!r}: it has no {wanted or 'table to add'}"
        raise InvalidParams(words, file=path, key=wanted, reason="not in the file")
    agents = [
        {
            "name": name,
            "kind": kind,
            "spec": _placed(render.as_record(table)),
            "directory": folders(kind, name),
            "environment": environment,
        }
        for kind, name, table in chosen
    ]
    folder = os.path.dirname(os.path.abspath(path))
    request = {"agents": agents, **named, "directory": folder, "environment": environment}
    return request, left_out if wanted is None else []


def _tables_of(path: str) -> tuple[dict[str, Any], Callable[[str, str], str], dict[str, str]]:  # Any: TOML
    """Returns the tables of a file and of those that it includes, the folder of each agent, and the values of variables.

    The variables are those of this command's environment and of `.env` beside the file.
    """
    admit_msgspec()
    from corral.supervisor.config.decoding import decoder  # noqa: PLC0415 - start-up time: only --file
    from corral.supervisor.config.spec import sources  # noqa: PLC0415 - start-up time: only --file

    folder = os.path.dirname(os.path.abspath(path))
    document = decoder.Document(path, text_document(path), folder)
    known = sources.Variables.beside(folder, os.environ)
    tables = sources.merged(document, known, expands=False)
    document.check()

    def folder_of(kind: str, name: str) -> str:
        return document.part_of(("agents", name) if kind == "agent" else ("mcp", "servers", name)).directory

    return tables, folder_of, known.used_by(tables)


def _placed(table: dict[str, object]) -> dict[str, object]:
    """Sets the current directory as the default of the working directory."""
    process = as_object(table.get("process", {}))
    if process is None or "template" in table:
        return table  # the daemon reports a mistake, and the template has the folder
    return {**table, "process": {"working_directory": os.getcwd(), **process}}
