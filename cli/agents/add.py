"""Implements `corral add`: one agent or server from options or a template, or the tables of a file."""

import os
from collections.abc import Mapping
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams, from_wire

from ..context import AddCommand, Session, command, option, pair, typed_pairs
from ..render import inner, inners, word


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
        from .add_file import add_file  # noqa: PLC0415 - start-up time: only --file

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
    lists = ("command", "capabilities")
    spec |= {key: list(options[key]) for key in lists if options[key]}
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
