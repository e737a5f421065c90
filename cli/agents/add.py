"""Implements `corral add`: one agent or server from options or a template, or the tables of a file."""

import os
from collections.abc import Mapping
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams, from_wire

from ..context import AddCommand, Session, command, pair, typed_pairs
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
@click.option(
    "--file",
    "path",
    metavar="F",
    help="Add the agents, servers, teams, workflows and schedules of a TOML file, all of them or NAME.",
)
@click.option(
    "--protocol",
    type=click.Choice(("corral", "mcp", "none", "acp")),
    help="Protocol on stdin and stdout; default corral; acp for an agent of the Agent Client Protocol.",
)
@click.option("--webhook", "url", metavar="URL", help="Send the tasks to this address in place of a command.")
@click.option(
    "--a2a",
    "a2a_url",
    metavar="URL",
    help="Have the A2A agent at this address, or of this card, run the tasks in place of a command.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="K=V",
    help="Request header for --webhook and --a2a, which may name a secret: ${secret:NAME}; repeatable.",
)
@click.option("--webhook-secret", metavar="KEY", help="Key that signs the requests, such as '${secret:NAME}'.")
@click.option("--mcp", "is_server", is_flag=True, help="Add an MCP server, whose tools every agent may call.")
@click.option("--entrypoint", metavar="M:A", help="Run this Python agent (module:attribute) in place of a command.")
@click.option("--python", metavar="PATH", help="Python interpreter for --entrypoint.")
@click.option("--instances", type=click.IntRange(0), metavar="N", help="Number of workers; default 1.")
@click.option(
    "--capability", "capabilities", multiple=True, metavar="WORD", help="Capability that the agent offers; repeatable."
)
@click.option("--env", "environment", multiple=True, metavar="K=V", help="Environment variable; repeatable.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label for selectors; repeatable.")
@click.option("--title", metavar="TEXT", help="Name for people.")
@click.option("--description", metavar="TEXT", help="Description for people and models.")
@click.option("--cwd", metavar="DIR", help="Working directory; default is the current one.")
@click.option("--memory", metavar="SIZE", help='Memory limit of the process tree, such as "512MiB".')
@click.option(
    "--restart",
    "policy",
    type=click.Choice(("always", "on-failure", "never")),
    help="When to restart an exited worker; default on-failure.",
)
@click.option("--template", metavar="NAME", help="Take the keys of this template; see corral templates.")
@click.option(
    "--set", "params", multiple=True, metavar="K=V", help="Value of a parameter of --template, or K:=JSON; repeatable."
)
@click.option("--no-start", is_flag=True, help="Add it without starting it.")
@click.option("--no-wait", is_flag=True, help="Return at once instead of waiting until it is ready.")
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
    for key, option in (("labels", "--label"), ("environment", "--env"), ("headers", "--header")):
        if options[key]:
            spec[key] = dict(pair(name, option, each) for each in options[key])
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
