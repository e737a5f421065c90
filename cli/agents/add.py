"""Implements `corral add`: one agent or server from options or a template, or the tables of a file; and `corral templates`."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InvalidParams, NotFound, from_wire

from .. import render
from ..context import AddCommand, Session, admit_msgspec, command, option, pair, text_document, typed_pairs
from ..render import Table, inner, inners, items, word


@command(
    "add",
    cls=AddCommand,
    epilog="""\b
Examples:
  corral add greeter -- python greeter.py
  corral add crawler --instances 4 --env API_KEY=secret -- ./crawl --depth 2
  corral add coder --protocol acp -- npx -y @agentclientprotocol/claude-agent-acp
  corral add translator --webhook https://example.org/translate
  corral add analyst --a2a https://example.org/analyst --header "Authorization=Bearer ${secret:KEY}"
  corral add --file agents.toml
  corral add judge --template fast --set model=small --set retries=3

Write the command after --, so that its options are not read as options of corral.""",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
@option(
    "--file F", "Add the agents, servers, teams, workflows and schedules of a TOML file, all of them or NAME.", "path"
)
@option(
    "--protocol",
    "Protocol on stdin and stdout; default corral; acp for an agent of the Agent Client Protocol.",
    type=click.Choice(("corral", "mcp", "none", "acp")),
)
@option("--webhook URL", "Send the tasks to this address in place of a command.", "url")
@option(
    "--a2a URL", "Have the A2A agent at this address, or of this card, run the tasks in place of a command.", "a2a_url"
)
@option(
    "--header K=V",
    "Request header for --webhook and --a2a, which may name a secret: ${secret:NAME}; repeatable.",
    "headers",
    multiple=True,
)
@option("--webhook-secret KEY", "Key that signs the requests, such as '${secret:NAME}'.")
@option("--mcp", "Add an MCP server, whose tools every agent may call.", "is_server")
@option("--entrypoint M:A", "Run this Python agent (module:attribute) in place of a command.")
@option("--python PATH", "Python interpreter for --entrypoint.")
@option("--instances N", "Number of workers; default 1.", type=click.IntRange(0))
@option("--capability WORD", "Capability that the agent offers; repeatable.", "capabilities", multiple=True)
@option("--env K=V", "Environment variable; repeatable.", "environment", multiple=True)
@option("--label K=V", "Label for selectors; repeatable.", "labels", multiple=True)
@option("--title TEXT", "Name for people.")
@option("--description TEXT", "Description for people and models.")
@option("--cwd DIR", "Working directory; default is the current one.")
@option("--memory SIZE", 'Memory limit of the process tree, such as "512MiB".')
@option(
    "--restart",
    "When to restart an exited worker; default on-failure.",
    "policy",
    type=click.Choice(("always", "on-failure", "never")),
)
@option("--template NAME", "Take the keys of this template; see corral templates.")
@option("--set K=V", "Value of a parameter of --template, or K:=JSON; repeatable.", "params", multiple=True)
@option("--no-start", "Add it without starting it.")
@option("--no-wait", "Return at once instead of waiting until it is ready.")
def add(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Add an agent or an MCP server. A restart of the daemon keeps it."""
    how = {"start": not options["no_start"], "wait": not options["no_wait"]}
    if options["path"] is None:
        found = session.call("agent.add", _request_of_options(session, options) | how, timeout_s=None)
        entries, failures = [found], dict[str, object]()
    else:
        entries, failures = add_file(session, options, how)
    for entry in () if session.json else entries:
        session.print_line(f"added {word(entry, 'name')} ({word(entry, 'state', '-')})")
    for failure in failures.values():  # it was added all the same
        raise from_wire(failure)
    if session.json:
        session.print_json(entries if options["path"] is not None else entries[0])


def _request_of_options(session: Session, options: Mapping[str, Any]) -> dict[str, object]:
    name = options["name"]
    if name is None:
        raise InvalidParams("cannot add: no NAME is given", key="name", value=None)
    ways = sum(bool(options[key]) for key in ("command", "entrypoint", "url", "a2a_url"))
    if ways > 1 or (ways == 0 and options["template"] is None):
        reason = "write one of: a command after --, --entrypoint, --webhook, --a2a, --template"
        raise InvalidParams(f'cannot add "{name}": {reason}', key="command", value=None)
    if options["params"] and options["template"] is None:
        reason = "it goes with --template only"
        raise InvalidParams(f'cannot add "{name}": --set: {reason}', key="params", reason=reason)
    spec: dict[str, object] = {}
    if options["template"] is None or options["cwd"] is not None:
        # "." is relative to `directory`, in whose place a tenant has its own folder.
        folder = "." if options["cwd"] is None else os.path.abspath(options["cwd"])
        spec["process"] = {"working_directory": folder}
    if options["params"]:
        template = str(options["template"])
        spec["params"] = typed_pairs(
            f'cannot add "{name}"', "--set", options["params"], lambda: _schemas(session, template)
        )
    if options["url"] is not None:
        spec["protocol"] = "webhook"
    if options["a2a_url"] is not None:
        spec |= {"protocol": "a2a", "url": options["a2a_url"]}
    direct = ("template", "entrypoint", "protocol", "instances", "python", "title", "description", "url")
    spec |= {key: options[key] for key in (*direct, "webhook_secret") if options[key] is not None}
    spec |= {key: list(options[key]) for key in ("command", "capabilities") if options[key]}
    for key, flag in (("labels", "--label"), ("environment", "--env"), ("headers", "--header")):
        if options[key]:
            spec[key] = dict(pair(name, flag, each) for each in options[key])
    if options["memory"] is not None:
        memory = options["memory"]
        spec["resources"] = {"max_memory_bytes": int(memory) if memory.isdecimal() else memory}
    if options["policy"] is not None:
        spec["recovery"] = {"restart": options["policy"]}
    return {"name": name, "kind": "mcp" if options["is_server"] else "agent", "spec": spec, "directory": os.getcwd()}


def _schemas(session: Session, template: str) -> dict[str, object]:
    """Returns the schemas of the parameters of a template; empty if there is none."""
    found = inners(session.call("template.list", {}), "templates")
    params = [p for each in found if word(each, "name") == template for p in inners(each, "params")]
    return {word(each, "name"): inner(each, "schema") for each in params}


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
    schema = inner(param, "schema")
    if param.get("required"):
        return word(param, "name")
    default = schema.get("default")
    text = default if isinstance(default, str) else json.dumps(default)
    return f"{word(param, 'name')}={text}"
