"""Implements `corral status`, `show` and the commands that change the running set: agents and MCP servers alike."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from ...worker.contract.codec import as_array, as_object
from ...worker.contract.errors import InvalidParams, from_wire
from .. import render
from ..context import (
    AddCommand,
    Command,
    Session,
    admit_msgspec,
    complete_agents,
    complete_named,
    pair,
    selecting,
    selection,
    text_document,
    waiting_s,
)
from ..context import duration as a_duration
from ..fields import toml_text
from ..render import inner, inners, items, word
from ..status_table import JOB_WORDS, print_entries, print_status
from ..team_table import print_group, print_service

TAIL_LINES = 20
WILDCARDS = frozenset("*?[")
EXITS_SHOWN = 5
FILE_OPTIONS = frozenset({"path", "name", "command", "no_start", "no_wait"})
"""Options of `add` that may stand beside `--file`, and the command, which is refused in other words."""
OPTION_NAMES = {
    "is_server": "mcp",
    "capabilities": "capability",
    "environment": "env",
    "labels": "label",
    "url": "webhook",
    "headers": "header",
    "policy": "restart",
}

# --- status and show --------------------------------------------------------------------------------------


@click.command("status", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_named)
@click.option("--failed", is_flag=True, help="Show only those that failed or are degraded.")
@selecting
@click.pass_obj
def status(
    session: Session, names: tuple[str, ...], failed: bool, selector: tuple[str, ...]
) -> None:
    """Show agents, their workers and MCP servers."""
    params = selection(names, selector) | ({"failed": True} if failed else {})
    found = session.call("daemon.status", params)
    if session.json:
        session.print_json(found)
    elif failed and not inners(found, "agents") + inners(found, "mcp_servers"):
        session.print("nothing has failed")
    else:
        print_status(session, found, all_of_it=not params)


@click.command("show", cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_named)
@selecting
@click.pass_obj
def show(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show agents, workers or MCP servers in full."""
    params = _chosen("show", names, selector)
    is_plain = not selector and all(WILDCARDS.isdisjoint(name) for name in names)
    wanted = names if is_plain else items(session.call("agent.select", params), "names")
    found = [session.call("agent.show", {"name": str(name)}) for name in wanted]
    if session.json:
        session.print_json(found[0] if is_plain and len(found) == 1 else found)
        return
    for number, each in enumerate(found):
        if number:
            session.print("")
        _print_shown(session, each)


def _print_shown(session: Session, found: Mapping[str, object]) -> None:
    """Prints the result of `agent.show`."""
    if "agent" not in found:
        print_group(session, found)
        return
    entry = inner(found, "agent")
    print_entries(session, [entry])
    keys = ("protocol", "wanted", "degraded")
    words = {True: "yes", False: "no"}
    values = {key: entry.get(key) for key in keys}
    facts = [f"{k} {words[v] if isinstance(v, bool) else v}" for k, v in values.items()]
    session.print(render.one_line(", ".join(facts)))
    made = inner(found, "tool_calls")
    if made.get("limit") or made.get("last_minute"):
        limit = word(made, "limit") if made.get("limit") else "any number"
        session.print(f"tool calls in the last minute: {word(made, 'last_minute')} of {limit}")
    if warm := inner(entry, "warm"):
        session.print(render.one_line(_warmth(warm)))
    print_service(session, entry)
    _print_spec(session, inner(found, "spec"))
    if checks := [
        _check_row(session, worker, check)
        for worker in inners(entry, "workers")
        for check in inners(worker, "health")
    ]:
        session.print("\n" + session.styled("health", "bold"))
        session.print_table(
            ("WORKER", "CHECK", "HEALTHY", "FAILURES", "AT", "MESSAGE"), checks, droppable=("AT",)
        )
    if exits := inners(found, "exits"):
        session.print("\n" + session.styled("last exits", "bold"))
        session.print_table(
            ("AT", "WORKER", "LIFE", "RESULT", "MESSAGE"),
            [_exit_row(session, each) for each in exits[:EXITS_SHOWN]],
            droppable=("LIFE", "WORKER"),
        )
    for worker, lines in inner(found, "stderr").items():
        text = "\n".join(str(line) for line in (as_array(lines) or [])[-TAIL_LINES:])
        if text:
            session.print("\n" + session.styled(f"stderr of {render.one_line(worker)}", "bold"))
            session.print_foreign(text)


def _warmth(warm: Mapping[str, object]) -> str:
    """Describes how the workers start, and the memory and load time of their zygote."""
    parts = [f"workers start {word(warm, 'state')}"]
    if pid := word(warm, "pid"):
        parts = [f"workers are forks of zygote {pid}"]
        if word(warm, "state") != "warm":
            parts.append(word(warm, "state"))
    if modules := word(warm, "modules"):
        load = render.duration(render.number(warm, "load_s"))
        parts.append(
            f"{modules} modules in {load}, {render.size(render.number(warm, 'rss_bytes'))}"
        )
    if spares := render.number(warm, "spares"):
        parts.append(f"{spares:.0f} {'spare' if spares == 1 else 'spares'}")
    if reason := word(warm, "reason"):
        parts.append(reason)
    return ", ".join(parts)


def _check_row(
    session: Session, worker: Mapping[str, object], check: Mapping[str, object]
) -> list[str]:
    words = {True: "yes", False: "no, degraded" if check.get("degraded") else "no"}
    is_healthy = check.get("healthy")
    healthy = words[is_healthy] if isinstance(is_healthy, bool) else "-"
    cells = [word(worker, "id"), word(check, "name"), healthy, word(check, "failures", "0")]
    return [*cells, session.at(word(check, "at")), word(check, "message")]


def _exit_row(session: Session, record: Mapping[str, object]) -> list[str]:
    keys = ("worker", "incarnation", "result", "message")
    return [session.at(word(record, "at")), *(word(record, key, "-") for key in keys)]


def _print_spec(session: Session, spec: Mapping[str, object]) -> None:
    if spec:
        session.print("\n" + session.styled("spec", "bold"))
    tables = [key for key, value in spec.items() if as_object(value) is not None]
    for key, value in spec.items():
        if key not in tables and value is not None:
            session.print(render.one_line(f"{key} = {toml_text(value)}"))
    for key in tables:
        session.print(render.one_line(f"[{key}]"))
        for inner_key, value in inner(spec, key).items():
            if value is not None:
                session.print(render.one_line(f"{inner_key} = {toml_text(value)}"))


# --- starting and stopping ------------------------------------------------------------------------


def _verb(name: str, help_text: str, done: str) -> click.Command:
    """Defines start, stop, restart, reset or wake: they share options and output."""

    def act(session: Session, **options: Any) -> None:  # Any: the values of the options below
        params = _chosen(
            name, options["names"], options["selector"], everything=options["everything"]
        )
        params["wait"] = not options["no_wait"]
        if (timeout_s := options["timeout_s"]) is not None:
            params["timeout_s"] = timeout_s
        found = session.call(f"agent.{name}", params, timeout_s=waiting_s(timeout_s))
        if session.json:
            session.print_json(found)
            return
        verb = done if params["wait"] else f"asked to {name}"
        for named, state in _named(found, options["names"]):
            session.print(render.one_line(f"{verb} {named} ({state})"))

    command: Callable[..., None] = click.pass_obj(act)
    for option in (
        click.option(
            "--timeout", "timeout_s", type=a_duration, metavar="D", help="Wait at most this long."
        ),
        click.option(
            "--no-wait", is_flag=True, help="Return at once instead of waiting for the result."
        ),
        click.option(
            "--all", "everything", is_flag=True, help="Select all agents and MCP servers."
        ),
        selecting,
        click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents),
    ):
        command = option(command)
    return click.command(name, cls=Command, help=help_text)(command)


def _named(found: Mapping[str, object], given: Sequence[object]) -> Iterator[tuple[str, str]]:
    """Yields the chosen agents and, for others, the workers whose ids were chosen, with their states."""
    names = items(found, "names") or given
    for entry in inners(found, "agents"):
        workers = [each for each in inners(entry, "workers") if word(each, "id") in names]
        if word(entry, "name") in names or not workers:
            state = JOB_WORDS.get(word(entry, "job"), word(entry, "state", "-"))
            yield word(entry, "name"), state
        else:
            yield from ((word(each, "id"), word(each, "state", "-")) for each in workers)


def _chosen(
    verb: str,
    names: tuple[str, ...],
    selector: tuple[str, ...],
    *,
    everything: bool | None = None,
) -> dict[str, object]:
    """Returns the params of a command with names, `-l` and, unless `everything` is None, `--all`."""
    if everything and (names or selector):
        words = f"cannot {verb}: both {'names' if names else '-l'} and --all are given"
        raise InvalidParams(words, key="names", value=list(names))
    if not (everything or names or selector):
        ways = (
            "names, or labels with -l" if everything is None else "names, labels with -l, or --all"
        )
        raise InvalidParams(f"cannot {verb}: give {ways}", key="names", value=[])
    return {"all": True} if everything else selection(names, selector)


start = _verb(
    "start", "Start agents, workers or MCP servers. Waits until they are ready.", "started"
)
stop = _verb("stop", "Stop agents, workers or MCP servers. Waits until they have ended.", "stopped")
restart = _verb("restart", "Restart agents, workers or MCP servers.", "restarted")
reset = _verb("reset", "Forget failures, and start workers that gave up.", "reset")


def _pausing(name: str, help_text: str, done: str) -> click.Command:
    """Defines pause or resume, which take effect at once."""

    def act(
        session: Session, names: tuple[str, ...], selector: tuple[str, ...], everything: bool
    ) -> None:
        found = session.call(f"agent.{name}", _chosen(name, names, selector, everything=everything))
        if session.json:
            session.print_json(found)
            return
        for named, state in _named(found, names):
            session.print(render.one_line(f"{done} {named} ({state})"))

    command: Callable[..., None] = click.pass_obj(act)
    for option in (
        click.option(
            "--all", "everything", is_flag=True, help="Select all agents and MCP servers."
        ),
        selecting,
        click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents),
    ):
        command = option(command)
    return click.command(name, cls=Command, help=help_text)(command)


pause = _pausing("pause", "Freeze all processes of agents, workers or MCP servers.", "paused")
resume = _pausing("resume", "Continue paused agents, workers or MCP servers.", "resumed")


wake = _verb("wake", "Start hibernated agents from their checkpoints.", "woken")


@click.command("hibernate", cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_agents)
@selecting
@click.option(
    "--timeout",
    "timeout_s",
    type=a_duration,
    metavar="D",
    help="Wait at most this long for running tasks.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Hibernate agents that save no checkpoint, too: they start without state.",
)
@click.pass_obj
def hibernate(
    session: Session,
    names: tuple[str, ...],
    selector: tuple[str, ...],
    timeout_s: float | None,
    force: bool,
) -> None:
    """Save checkpoints of agents, and end their processes.

    A task or `corral wake` starts them again.
    """
    params = _chosen("hibernate", names, selector) | {"force": force}
    if timeout_s is not None:
        params["timeout_s"] = timeout_s
    found = session.call("agent.hibernate", params, timeout_s=None)
    if session.json:
        session.print_json(found)
        return
    for named, state in _named(found, names):
        session.print(render.one_line(f"hibernated {named} ({state})"))


# --- changing the set -----------------------------------------------------------------------------


@click.command(
    "add",
    cls=AddCommand,
    epilog="""\b
Examples:
  corral add greeter -- python greeter.py
  corral add crawler --instances 4 --env API_KEY=secret -- ./crawl --depth 2
  corral add translator --webhook https://example.org/translate
  corral add --file agents.toml

Write the command after --, so that its options are not read as options of corral.""",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
@click.option(
    "--file",
    "path",
    metavar="F",
    help="Add the [agents.NAME] and [mcp.servers.NAME] tables of a TOML file, all of them or NAME.",
)
@click.option(
    "--protocol",
    type=click.Choice(("corral", "mcp", "none")),
    help="Protocol on stdin and stdout; default corral.",
)
@click.option(
    "--webhook", "url", metavar="URL", help="Send the tasks to this address in place of a command."
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="K=V",
    help="Request header for --webhook, which may name a secret: ${secret:NAME}; repeatable.",
)
@click.option(
    "--webhook-secret",
    metavar="KEY",
    help="Key that signs the requests, such as '${secret:NAME}'.",
)
@click.option(
    "--mcp", "is_server", is_flag=True, help="Add an MCP server, whose tools every agent may call."
)
@click.option(
    "--entrypoint",
    metavar="M:A",
    help="Run this Python agent (module:attribute) in place of a command.",
)
@click.option("--python", metavar="PATH", help="Python interpreter for --entrypoint.")
@click.option(
    "--instances", type=click.IntRange(0), metavar="N", help="Number of workers; default 1."
)
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    metavar="WORD",
    help="Capability that the agent offers; repeatable.",
)
@click.option(
    "--env", "environment", multiple=True, metavar="K=V", help="Environment variable; repeatable."
)
@click.option(
    "--label", "labels", multiple=True, metavar="K=V", help="Label for selectors; repeatable."
)
@click.option("--title", metavar="TEXT", help="Name for people.")
@click.option("--description", metavar="TEXT", help="Description for people and models.")
@click.option("--cwd", metavar="DIR", help="Working directory; default is the current one.")
@click.option(
    "--memory", metavar="SIZE", help='Memory limit of the process tree, such as "512MiB".'
)
@click.option(
    "--restart",
    "policy",
    type=click.Choice(("always", "on-failure", "never")),
    help="When to restart an exited worker; default on-failure.",
)
@click.option("--no-start", is_flag=True, help="Add it without starting it.")
@click.option(
    "--no-wait", is_flag=True, help="Return at once instead of waiting until it is ready."
)
@click.pass_obj
def add(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Add an agent or an MCP server. A restart of the daemon keeps it."""
    how = {"start": not options["no_start"], "wait": not options["no_wait"]}
    if options["path"] is None:
        found = session.call("agent.add", _request_of_options(options) | how, timeout_s=None)
        entries, failures = [found], dict[str, object]()
    else:
        request = {"agents": _requests_of_file(options), **how}
        found = session.call("agent.add_all", request, timeout_s=None)
        entries, failures = inners(found, "agents"), inner(found, "failures")
    for entry in () if session.json else entries:
        session.print(render.one_line(f"added {word(entry, 'name')} ({word(entry, 'state', '-')})"))
    for failure in failures.values():  # it was added all the same
        raise from_wire(failure)
    if session.json:
        session.print_json(entries if options["path"] is not None else entries[0])


def _request_of_options(options: Mapping[str, Any]) -> dict[str, object]:
    name = options["name"]
    if name is None:
        raise InvalidParams("cannot add: no NAME is given", key="name", value=None)
    ways = sum(bool(options[key]) for key in ("command", "entrypoint", "url"))
    if ways != 1:
        reason = "write one of: a command after --, --entrypoint, --webhook"
        raise InvalidParams(f'cannot add "{name}": {reason}', key="command", value=None)
    spec: dict[str, object] = {
        "process": {"working_directory": os.path.abspath(options["cwd"] or ".")}
    }
    if options["url"] is not None:
        spec["protocol"] = "webhook"
    direct = ("entrypoint", "protocol", "instances", "python", "title", "description", "url")
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
    return {
        "name": name,
        "kind": "mcp" if options["is_server"] else "agent",
        "spec": spec,
        "directory": os.getcwd(),
    }


def _requests_of_file(options: Mapping[str, Any]) -> list[dict[str, object]]:
    """Returns the agents and servers of `--file`, or the one that is named."""
    path, wanted = options["path"], options["name"]
    extra = [
        key
        for key, value in options.items()
        if value not in (None, False, ()) and key not in FILE_OPTIONS
    ]
    if options["command"] or extra:
        key = f"--{OPTION_NAMES.get(extra[0], extra[0])}" if extra else "command"
        raise InvalidParams(
            f"cannot add from {path!r}: {key} stands beside --file", key=key, value=None
        )
    document, folders, environment = _tables_of(path)
    mcp = inner(document, "mcp")
    tables = [("agent", name, table) for name, table in inner(document, "agents").items()]
    tables += [("mcp", name, table) for name, table in inner(mcp, "servers").items()]
    unknown = [key for key in document if key not in ("agents", "mcp")]
    unknown += [f"mcp.{key}" for key in mcp if key != "servers"]
    if unknown:
        words = f"cannot add from {path!r}: [{unknown[0]}] is no [agents.NAME] and no [mcp.servers.NAME]"
        raise InvalidParams(words, file=path, key=unknown[0], reason="not an agent or server")
    chosen = [each for each in tables if wanted in (None, each[1])]
    if not chosen:
        words = f"cannot add from {path!r}: it has no {wanted or 'agents and no servers'}"
        raise InvalidParams(words, file=path, key=wanted, reason="not in the file")
    return [
        {
            "name": name,
            "kind": kind,
            "spec": _placed(render.as_record(table)),
            "directory": folders(kind, name),
            "environment": environment,
        }
        for kind, name, table in chosen
    ]


def _tables_of(
    path: str,
) -> tuple[dict[str, Any], Callable[[str, str], str], dict[str, str]]:  # Any: TOML
    """Returns the tables of a file and of those that it includes, the folder of each agent, and the values of variables.

    The variables are those of this command's environment and of `.env` beside the file.
    """
    admit_msgspec()
    from ...supervisor.config import decoder, sources  # noqa: PLC0415 - start-up time: only --file

    folder = os.path.dirname(os.path.abspath(path))
    document = decoder.Document(path, text_document(path), folder)
    known = sources.Variables.beside(folder, os.environ)
    tables = sources.merged(document, known, expands=False)
    document.check()

    def folder_of(kind: str, name: str) -> str:
        key = ("agents", name) if kind == "agent" else ("mcp", "servers", name)
        return document.part_of(key).directory

    return tables, folder_of, known.used_by(tables)


def _placed(table: dict[str, object]) -> dict[str, object]:
    """Sets the current directory as the default of the working directory."""
    process = as_object(table.get("process", {}))
    if process is None:
        return table  # the daemon reports the error
    return {**table, "process": {"working_directory": os.getcwd(), **process}}


@click.command("rm", cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_named)
@selecting
@click.option("--cascade", is_flag=True, help="Also remove agents and servers that require them.")
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], selector: tuple[str, ...], cascade: bool) -> None:
    """Remove agents, MCP servers, teams or workflows. Removes all of them or none."""
    request = _chosen("rm", names, selector) | {"cascade": cascade}
    found = session.call("agent.rm", request, timeout_s=None)
    if session.json:
        session.print_json(found)
        return
    for name in items(found, "removed"):
        session.print(render.one_line(f"removed {name}"))


@click.command("scale", cls=Command)
@click.argument("name", metavar="NAME", shell_complete=complete_agents)
@click.argument("instances", type=click.IntRange(0), metavar="N")
@click.pass_obj
def scale(session: Session, name: str, instances: int) -> None:
    """Set the number of workers of an agent.

    For an agent with a range of instances, N lies within the range, or is 0 for no workers until the next scale.
    """
    entry = session.call("agent.scale", {"name": name, "instances": instances}, timeout_s=None)
    if session.json:
        session.print_json(entry)
        return
    session.print(render.one_line(f"scaled {name} to {instances} ({word(entry, 'state', '-')})"))


def _complete_signals(
    _context: click.Context, _parameter: click.Parameter, start: str
) -> list[str]:
    from signal import Signals  # noqa: PLC0415 - start-up time: this command alone needs it

    return [each.name for each in Signals if each.name.startswith(start.upper())]


@click.command("signal", cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_agents)
@click.argument("signal_name", metavar="SIG", shell_complete=_complete_signals)
@selecting
@click.pass_obj
def signal(
    session: Session, names: tuple[str, ...], signal_name: str, selector: tuple[str, ...]
) -> None:
    """Send a signal to agents or workers. SIG is a name such as HUP or SIGHUP, or a number."""
    params = _chosen("signal", names, selector) | {"signal": _signal(signal_name)}
    found = session.call("agent.signal", params)
    if session.json:
        session.print_json(found)
        return
    workers = ", ".join(map(str, items(found, "names") or names))
    session.print(render.one_line(f"sent {_signal(signal_name)} to {workers}"))


def _signal(text: str) -> str:
    from signal import Signals  # noqa: PLC0415 - start-up time: this command alone needs it

    try:
        if text.isdecimal():
            return Signals(int(text)).name
        name = text.upper()
        return Signals[name if name.startswith("SIG") else f"SIG{name}"].name
    except (KeyError, ValueError) as error:
        words = f'cannot send "{text}": there is no such signal'
        raise InvalidParams(words, key="signal", value=text) from error
