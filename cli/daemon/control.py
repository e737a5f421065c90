"""Implements the commands about a daemon as a whole: `reload`, `log-level`, `emergency-stop`, `daemon stop`, `call`, `nodes` and `node`."""

import os
import select
from collections.abc import Mapping
from contextlib import suppress

import click

from corral.worker.contract.errors import InvalidParams, NotFound, Timeout
from corral.worker.contract.jsonrpc import Notification

from .. import render
from ..context import (
    ANSWER_S,
    WAIT,
    WAIT_S,
    CommandGroup,
    Session,
    calling,
    command,
    complete_names,
    duration,
    json_value,
    limit_s,
    listing,
    option,
    waiting,
)
from ..render import Table, inner, items, number, word

LEVELS = ("debug", "info", "warning", "error")


@command("reload")
@option("--dry-run", "Print the changes without making them.")
@WAIT
@WAIT_S
def reload(session: Session, dry_run: bool, wait: bool, timeout_s: float | None) -> None:
    """Read the configuration again, and apply its changes."""
    params = {"dry_run": dry_run, **waiting(wait, timeout_s)}
    found = session.call("daemon.reload", params, timeout_s=limit_s(params))
    if session.printed_json(found):
        return
    print_changes(session, found)


def print_changes(session: Session, found: render.Record) -> None:
    """Prints the result of `daemon.reload`, one line for each change."""
    lines = [f"+ {name}" for name in items(found, "added")]
    lines += [f"- {name}" for name in items(found, "removed")]
    effects = {"live": "takes effect at once", "restart": "restarts"}
    rolling = items(found, "rolling")
    for name, effect in inner(found, "changed").items():
        how = "rolls" if name in rolling else effect
        keys = ", ".join(map(str, items(inner(found, "keys"), name)))
        lines.append(f"~ {name}: {effects.get(str(how), how)}" + (f": {keys}" if keys else ""))
    lines += [f"~ {name}: renewed, its sources have changed" for name in items(found, "renewed")]
    signs = {"added": "+", "removed": "-"}
    for kind in ("teams", "workflows", "schedules"):
        for name, effect in inner(found, kind).items():
            lines.append(f"{signs.get(str(effect), '~')} {name}: {kind[:-1]}, {effect}")
    lines += [f"~ {key}: takes effect at once" for key in items(found, "live")]
    lines += [
        f"~ {name}: the file has changed it, and wins over what was set" for name in items(found, "overrides_ended")
    ]
    lines += [f"! {key}: takes effect when corrald starts" for key in items(found, "pending")]
    for line in lines or ["nothing has changed"]:
        session.print_line(line)


@command("log-level")
@click.argument("level", required=False, metavar="[LEVEL]", type=click.Choice(LEVELS))
def log_level(session: Session, level: str | None) -> None:
    """Show or set the level of the daemon's own log.

    LEVEL is debug, info, warning or error. It holds until the next reload, which restores the level of the
    configuration file, or until corrald ends.
    """
    if level is None:
        level = word(inner(session.call("daemon.status", {"names": []}), "daemon"), "log_level")
    else:
        session.call("daemon.log_level", {"level": level})
    session.answer({"level": level}, level)


emergency_stop = calling(
    "emergency-stop",
    "daemon.emergency_stop",
    'killed {0[workers]} workers, cancelled {0[tasks]} tasks; "corral start --all" goes on',
    text="Kill every worker and MCP server at once. Cancels every task, and refuses work until `corral start`.",
    timeout_s=None,
)


@click.group("daemon", cls=CommandGroup)
def daemon() -> None:
    """Control the daemon itself."""


@daemon.define("stop")
@option("--timeout D", "Give up waiting (exit 5).", "timeout_s", type=duration)
@option("--no-wait", "Return when the daemon has begun to stop.")
def daemon_stop(session: Session, timeout_s: float | None, no_wait: bool) -> None:
    """Stop the daemon and all that it runs, and wait for its end.

    A daemon that a service manager has started is stopped there: systemctl stop corrald.socket corrald.
    """
    found = session.call("daemon.stop", {})
    pid = int(number(found, "pid") or 0)
    if not no_wait and not _has_ended(pid, timeout_s):
        text = f"cannot see the end of the daemon with pid {pid} within {render.duration(timeout_s)}"
        raise Timeout(f"{text}: it goes on stopping", pid=pid, limit=timeout_s)
    session.answer(found, f"{'stopping' if no_wait else 'stopped'} corrald, pid {pid}")


@daemon.define("upgrade")
@option("--python PATH", "Interpreter of the installation that is to go on; by default the present one.", "python")
@option("--check", "Let the next program prove that it can go on, and change nothing.")
@option("--timeout D", "Time for what cannot be taken along to end (10 s).", "timeout_s", type=duration)
def daemon_upgrade(session: Session, python: str | None, check: bool, timeout_s: float | None) -> None:
    """Let a newer program take the daemon's place, and end nothing.

    Workers, MCP servers and their pids stay. What cannot be taken along is waited for, and then refuses the upgrade by name.
    """
    params = {"python": python, "check": check, **({} if timeout_s is None else {"timeout_s": timeout_s})}
    found = session.call("daemon.upgrade", params, timeout_s=None)
    version, before = word(found, "version"), word(found, "before")
    if check:
        session.answer(found, f"corral {version} can go on in place of {before}")
        return
    gap = render.duration(number(found, "gap_s"))
    session.answer(
        found, f"corral {version} runs in place of {before}, pid {word(found, 'pid')}; nothing was answered for {gap}"
    )


def _has_ended(pid: int, timeout_s: float | None) -> bool:
    with suppress(ProcessLookupError):  # it has ended already
        fd = os.pidfd_open(pid)
        try:
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))
        finally:
            os.close(fd)
    return True


FOLLOW = ".follow"
"""End of the names of methods that send notifications."""

ENDLESS = ("event.follow", "log.follow")
"""Methods whose notifications come after the answer."""

LAST = "log.end"
"""The notification after which no other comes."""


@command("call")
@click.argument("method", metavar="METHOD")
@click.argument("given", nargs=-1, metavar="[KEY=VALUE]...")
@option("--params JSON|@FILE|-", "The params as a JSON object.")
@option("--timeout D", "Give up waiting.", "timeout_s", type=duration)
def call(session: Session, method: str, given: tuple[str, ...], params: str | None, timeout_s: float | None) -> None:
    """Call any method of the daemon, as JSON.

    METHOD is one of those in "corral call rpc.discover", such as daemon.status. VALUE is JSON, or a text where it is
    none; KEY=VALUE takes precedence over --params. The notifications of a follow method are printed as they come, one
    JSON object a line, until Ctrl-C.
    """
    asked = _read_params(given, params)
    if method.endswith(FOLLOW):
        _follow(session, method, asked, timeout_s)
        return
    with session.connect() as connection:
        result = connection.call(method, asked, timeout_s=timeout_s, on_notification=_ignore)
    session.print_json(result)


def _read_params(given: tuple[str, ...], text: str | None) -> dict[str, object]:
    params: dict[str, object] = {}
    if text is not None:
        found = json_value(text, "--params")
        if not isinstance(found, dict):
            raise InvalidParams("cannot read --params: it is no JSON object", key="--params", value=text)
        params |= found
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InvalidParams(f"cannot read {each!r}: write KEY=VALUE", key="params", value=each)
        try:
            params[key] = json_value(value, key, or_text=True)
        except InvalidParams:
            if value.startswith("@") or value == "-":  # a file that cannot be read is no text
                raise
            params[key] = value
    return params


def _follow(session: Session, method: str, params: Mapping[str, object], timeout_s: float | None) -> None:
    """Prints notifications and the result in the order in which they come."""

    def show(notification: Notification) -> None:
        session.print_ndjson([{"method": notification.method, "params": notification.params}])

    is_endless = method in ENDLESS
    try:
        with session.connect() as connection:
            limit_s = ANSWER_S if is_endless and timeout_s is None else timeout_s
            result = connection.call(method, params, timeout_s=limit_s, on_notification=None if is_endless else show)
            session.print_ndjson([{"result": result}])
            for notification in connection.notifications() if is_endless else ():
                show(notification)
                if notification.method == LAST:
                    return
    except KeyboardInterrupt:
        return


def _ignore(_notification: Notification) -> None:
    """Drops progress: the result is what is printed."""


complete_nodes = complete_names("node.list", "nodes")

node = CommandGroup("node", help="Show, drain and resume a node of the cluster.")


def _labels(record: Mapping[str, object]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(inner(record, "labels").items()))


NODES = Table(
    "NODE=name STATE LOAD CAPACITY LABELS VERSION =here",
    drop="VERSION LABELS",
    right="LOAD CAPACITY",
    labels=_labels,
    here=lambda record: "here" if record.get("here") is True else "",
)
ABOUT_NODES = "List the nodes of the cluster, or the last known ones."
nodes = listing("nodes", "node.list", "nodes", "no node has a lease", NODES, text=ABOUT_NODES)
of_node = click.argument("name", metavar="NAME", shell_complete=complete_nodes)


@node.define("show")
@of_node
def show(session: Session, name: str) -> None:
    """Show a node, with the agents and MCP servers that it runs."""
    records = render.inners(session.call("node.list", {}), "nodes")
    record = next((each for each in records if word(each, "name") == name), None)
    if record is None:
        raise NotFound(f'cannot find node "{name}"', name=name, known=[word(each, "name") for each in records])
    status = session.call("daemon.status", {"node": name})
    agents = [
        {key: each.get(key) for key in ("name", "kind", "state")}
        for kind in ("agents", "mcp_servers")
        for each in render.inners(status, kind)
    ]
    daemon, tasks = inner(status, "daemon"), inner(status, "tasks")
    if session.printed_json({**record, "daemon": daemon, "tasks": tasks, "agents": agents}):
        return
    session.print_fields(
        {
            **{key: word(record, key) for key in ("name", "state", "version")},
            "load": f"{word(record, 'load')} of {word(record, 'capacity')}",
            "labels": _labels(record) or "-",
            "uptime": render.duration(number(daemon, "uptime_s")),
            "degraded": ", ".join(map(str, items(daemon, "degraded"))),
            "tasks": ", ".join(f"{count} {state}" for state, count in tasks.items()),
        }
    )
    if agents:
        session.print("")
        session.print_records(agents, Table("NAME KIND STATE"))


DRAIN = "Move the placed agents of a node to other nodes.\n\nIt gets none until `resume`. Its local agents go on."
NODE_STATE = "{0[name]}: {0[state]}"
node.add_command(calling("drain", "node.drain", NODE_STATE, of_node, text=DRAIN))
node.add_command(calling("resume", "node.resume", NODE_STATE, of_node, text="Let a node get placed agents again."))
