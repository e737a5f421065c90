"""Implements `corral status`, `show`, `expose` and the commands that change the running set: agents and MCP servers alike."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams

from .. import render
from ..context import (
    ANSWER_S,
    Session,
    command,
    complete_agents,
    complete_named,
    given,
    option,
    selecting,
    selection,
    waiting_s,
)
from ..context import duration as a_duration
from ..fields import toml_text
from ..render import Record, Table, inner, inners, items, word
from ..status_table import JOB_WORDS, print_entries, print_group, print_listen, print_service, print_status

TAIL_LINES = 20
WILDCARDS = frozenset("*?[")
EXITS_SHOWN = 5

# --- status and show --------------------------------------------------------------------------------------


@command("status")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_named)
@option("--failed", "Show only those that failed or are degraded.")
@selecting
def status(session: Session, names: tuple[str, ...], failed: bool, selector: tuple[str, ...]) -> None:
    """Show agents, their workers and MCP servers."""
    params = selection(names, selector) | ({"failed": True} if failed else {})
    found = session.call("daemon.status", params)
    if session.json:
        session.print_json(found)
    elif failed and not inners(found, "agents") + inners(found, "mcp_servers"):
        session.print("nothing has failed")
    else:
        print_status(session, found, all_of_it=not params)


@command("show")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_named)
@selecting
def show(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show agents, workers or MCP servers in full."""
    params = _chosen("show", names, selector)
    is_plain = not selector and all(WILDCARDS.isdisjoint(name) for name in names)
    wanted = names if is_plain else items(session.call("agent.select", params), "names")
    found = [session.call("agent.show", {"name": str(name)}) for name in wanted]
    if session.printed_json(found[0] if is_plain and len(found) == 1 else found):
        return
    for number, each in enumerate(found):
        if number:
            session.print("")
        _print_shown(session, each)


def _print_shown(session: Session, found: Mapping[str, object]) -> None:
    if "agent" not in found:
        print_group(session, found)
        return
    entry = inner(found, "agent")
    print_entries(session, [entry])
    keys = ("protocol", "wanted", "degraded")
    words = {True: "yes", False: "no"}
    values = {key: entry.get(key) for key in keys}
    facts = [f"{k} {words[v] if isinstance(v, bool) else v}" for k, v in values.items()]
    if (revision := entry.get("overridden")) is not None:
        facts.append(f"set by revision {revision}, not as in the file")
    session.print_line(", ".join(facts))
    made = inner(found, "tool_calls")
    if made.get("limit") or made.get("last_minute"):
        limit = word(made, "limit") if made.get("limit") else "any number"
        session.print(f"tool calls in the last minute: {word(made, 'last_minute')} of {limit}")
    if warm := inner(entry, "warm"):
        session.print_line(_warmth(warm))
    print_service(session, entry)
    print_listen(session, entry)
    _print_spec(session, inner(found, "spec"))
    if template := inner(found, "template"):
        source = word(template, "source", "which is no longer there")
        session.print("\n" + render.one_line(f"with the template {word(template, 'name')} ({source}):"))
        _print_spec(session, inner(template, "spec"))
    if checks := [
        {"worker": worker["id"], **check} for worker in inners(entry, "workers") for check in inners(worker, "health")
    ]:
        session.print("\n" + session.styled("health", "bold"))
        session.print_records(checks, CHECKS)
    if exits := inners(found, "exits"):
        session.print("\n" + session.styled("last exits", "bold"))
        session.print_records(exits[:EXITS_SHOWN], EXITS)
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
        parts.append(f"{modules} modules in {load}, {render.size(render.number(warm, 'rss_bytes'))}")
    if spares := render.number(warm, "spares"):
        parts.append(f"{spares:.0f} {'spare' if spares == 1 else 'spares'}")
    if reason := word(warm, "reason"):
        parts.append(reason)
    return ", ".join(parts)


def _health(check: Record) -> str:
    words = {True: "yes", False: "no, degraded" if check.get("degraded") else "no"}
    is_healthy = check.get("healthy")
    return words[is_healthy] if isinstance(is_healthy, bool) else "-"


CHECKS = Table(
    "WORKER CHECK=name HEALTHY FAILURES AT MESSAGE",
    drop="AT",
    healthy=_health,
    failures=lambda check: word(check, "failures", "0"),
)

EXITS = Table("AT WORKER LIFE=incarnation RESULT MESSAGE", drop="LIFE WORKER")


def _print_spec(session: Session, spec: Mapping[str, object]) -> None:
    if spec:
        session.print("\n" + session.styled("spec", "bold"))
    tables = [key for key, value in spec.items() if as_object(value) is not None]
    for key, value in spec.items():
        if key not in tables and value is not None:
            session.print_line(f"{key} = {toml_text(value)}")
    for key in tables:
        session.print_line(f"[{key}]")
        for inner_key, value in inner(spec, key).items():
            if value is not None:
                session.print_line(f"{inner_key} = {toml_text(value)}")


# --- starting and stopping ------------------------------------------------------------------------


OF_CHOSEN = (
    option("--all", "Select all agents and MCP servers.", "everything"),
    selecting,
    click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents),
)
"""What the commands with names, `-l` or `--all` take; the last one stands first."""


OF_WAITING = (
    option("--timeout D", "Wait at most this long.", "timeout_s", type=a_duration),
    option("--no-wait", "Return at once instead of waiting for the result."),
)


def _verb(name: str, help_text: str, done: str, *, waits: bool = True) -> click.Command:
    """Defines a command that starts, stops or changes what is chosen; pause and resume take effect at once."""

    def act(session: Session, **options: Any) -> None:  # Any: the values of the options
        timeout_s = options.get("timeout_s")
        params = _chosen(name, options["names"], options["selector"], everything=options["everything"])
        params |= given(wait=not options["no_wait"], timeout_s=timeout_s) if waits else {}
        found = session.call(f"agent.{name}", params, timeout_s=waiting_s(timeout_s) if waits else ANSWER_S)
        verb = done if params.get("wait", True) else f"asked to {name}"
        session.answer(found, *(f"{verb} {named} ({state})" for named, state in _named(found, options["names"])))

    for add in (*(OF_WAITING if waits else ()), *OF_CHOSEN):
        add(act)
    return command(name, help=help_text)(act)


def _named(found: Mapping[str, object], given: Sequence[object]) -> Iterator[tuple[str, str]]:
    """Yields the chosen agents and, for others, the workers whose ids were chosen, with their states."""
    names = items(found, "names") or given
    for entry in inners(found, "agents"):
        workers = [each for each in inners(entry, "workers") if word(each, "id") in names]
        if word(entry, "name") in names or not workers:
            yield word(entry, "name"), JOB_WORDS.get(word(entry, "job"), word(entry, "state", "-"))
        else:
            yield from ((word(each, "id"), word(each, "state", "-")) for each in workers)


def _chosen(
    verb: str, names: tuple[str, ...], selector: tuple[str, ...], *, everything: bool | None = None
) -> dict[str, object]:
    """Returns the params of a command with names, `-l` and, unless `everything` is None, `--all`."""
    if everything and (names or selector):
        words = f"cannot {verb}: both {'names' if names else '-l'} and --all are given"
        raise InvalidParams(words, key="names", value=list(names))
    if not (everything or names or selector):
        ways = "names, or labels with -l" if everything is None else "names, labels with -l, or --all"
        raise InvalidParams(f"cannot {verb}: give {ways}", key="names", value=[])
    return {"all": True} if everything else selection(names, selector)


start = _verb("start", "Start agents, workers or MCP servers. Waits until they are ready.", "started")
stop = _verb("stop", "Stop agents, workers or MCP servers. Waits until they have ended.", "stopped")
restart = _verb("restart", "Restart agents, workers or MCP servers.", "restarted")
reset = _verb("reset", "Forget failures, and start workers that gave up.", "reset")


pause = _verb("pause", "Freeze all processes of agents, workers or MCP servers.", "paused", waits=False)
resume = _verb("resume", "Continue paused agents, workers or MCP servers.", "resumed", waits=False)
wake = _verb("wake", "Start hibernated agents from their checkpoints.", "woken")


@command("hibernate")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_agents)
@selecting
@option("--timeout D", "Wait at most this long for running tasks.", "timeout_s", type=a_duration)
@option("--force", "Hibernate agents that save no checkpoint, too: they start without state.")
def hibernate(
    session: Session, names: tuple[str, ...], selector: tuple[str, ...], timeout_s: float | None, force: bool
) -> None:
    """Save checkpoints of agents, and end their processes.

    A task or `corral wake` starts them again.
    """
    params = _chosen("hibernate", names, selector) | given(force=force, timeout_s=timeout_s)
    found = session.call("agent.hibernate", params, timeout_s=None)
    session.answer(found, *(f"hibernated {named} ({state})" for named, state in _named(found, names)))


# --- changing the set -----------------------------------------------------------------------------


@command("rm")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_named)
@selecting
@option("--cascade", "Also remove agents and servers that require them.")
def rm(session: Session, names: tuple[str, ...], selector: tuple[str, ...], cascade: bool) -> None:
    """Remove agents, MCP servers, teams or workflows. Removes all of them or none."""
    found = session.call("agent.rm", _chosen("rm", names, selector) | {"cascade": cascade}, timeout_s=None)
    session.answer(found, *(f"removed {name}" for name in items(found, "removed")))


@command("scale")
@click.argument("wanted", nargs=-1, required=True, metavar="NAME N", shell_complete=complete_agents)
def scale(session: Session, wanted: tuple[str, ...]) -> None:
    """Set the number of workers of an agent.

    NAME=N… sets those of several.
    For an agent with a range of instances, N lies within the range, or is 0 for no workers until the next scale.
    For an agent that a cluster places, N is the number of its replicas on all nodes together.
    """
    pairs = [each.rpartition("=")[::2] for each in wanted]
    if len(wanted) == 2 and "=" not in wanted[0]:
        pairs = [wanted]
    for name, number in pairs:
        if not name:
            raise click.UsageError("write NAME N, or NAME=N for each of several")
        if not (number.isascii() and number.isdecimal()):
            raise click.UsageError(f"number {number}: write a whole number of at least 0")
        entry = session.call("agent.scale", {"name": name, "instances": int(number)}, timeout_s=None)
        session.answer(entry, f"scaled {name} to {int(number)} ({word(entry, 'state', '-')})")


def _complete_signals(_context: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    from signal import Signals  # noqa: PLC0415 - start-up time: this command alone needs it

    return [each.name for each in Signals if each.name.startswith(start.upper())]


@command("signal")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_agents)
@click.argument("signal_name", metavar="SIG", shell_complete=_complete_signals)
@selecting
def signal(session: Session, names: tuple[str, ...], signal_name: str, selector: tuple[str, ...]) -> None:
    """Send a signal to agents or workers. SIG is a name such as HUP or SIGHUP, or a number."""
    chosen = _known_signal(signal_name)
    if chosen is None and names and (chosen := _known_signal(names[0])):  # the order of kill(1)
        names = (*names[1:], signal_name)
    if chosen is None:
        raise InvalidParams(f'cannot send "{signal_name}": there is no such signal', key="signal", value=signal_name)
    found = session.call("agent.signal", _chosen("signal", names, selector) | {"signal": chosen})
    workers = ", ".join(map(str, items(found, "names") or names))
    session.answer(found, f"sent {chosen} to {workers}")


def _known_signal(text: str) -> str | None:
    from signal import Signals  # noqa: PLC0415 - start-up time: this command alone needs it

    try:
        return Signals(int(text)).name if text.isdecimal() else Signals[f"SIG{text.upper().removeprefix('SIG')}"].name
    except (KeyError, ValueError):
        return None


@command("expose")
@click.argument("name", metavar="NAME", shell_complete=complete_named)
@option("--port N", "The port; 0 takes a free one.", type=click.IntRange(0, 65_535))
@option("--host ADDRESS", "The address; by default 127.0.0.1.")
@option("--no-token", "Require no token: every program of this machine may use it.")
@option("--off", "Stop serving it.")
def expose(session: Session, name: str, port: int | None, host: str | None, no_token: bool, off: bool) -> None:
    """Serve one agent alone over HTTP.

    At the address: POST /run, GET /health, GET /status. It may be a team or a workflow, too. It is served until it is
    removed, or --off; also by later daemons.
    """
    if off == (port is not None) or (off and (host is not None or no_token)):
        reason = "give --port N, or --off alone"
        raise InvalidParams(f'cannot expose "{name}": {reason}', key="port", reason=reason)
    place = "127.0.0.1" if host is None else host
    place = f"[{place}]" if ":" in place and not place.startswith("[") else place
    params = {"name": name, "address": None if off else f"{place}:{port}", "auth": "none" if no_token else "token"}
    found = session.call("agent.expose", params)
    if session.printed_json(found):
        return
    url = word(inner(found, "service"), "url")
    if not url:
        session.print_line(f"{name} is not served over HTTP")
        return
    session.print_line(f"{name} is served at {url}")
    session.print_line(f"curl {url}/health")
    line = shlex.join(["curl", f"{url}/run", "-H", "Content-Type: application/json", "-d", '{"input": null}'])
    if not no_token:
        file = shlex.quote(word(found, "token_file"))
        line += f' -H "Authorization: Bearer $(cat {file})"'
    session.print_line(line)
