"""Decodes the sections of a configuration, such as `[process]`, and checks the keys of one agent's table against each other.

An error names the key that contradicts, and the remedy.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import fields_of
from ..decoding.values import did_you_mean, dotted, is_list, is_table
from .probe_spec import NO_ACTIONS, SIGNAL
from .references import check_acp, check_call, check_exposed, check_webhook, why_unknown
from .spec import DAEMON_WIDE, SECTIONS, Monitoring, Process, Recovery, Spec

_S = TypeVar("_S", bound=Struct)

NAMED = ("agents", "servers", "teams", "workflows", "templates", "stores", "models", "pools", "tenants", "tiers")
"""Names of tables of tables."""

CONFINING = ("read_paths", "write_paths", "connect_ports")
"""Keys that confine a process, which has to be isolated for that."""


def table_at(document: Document, path: KeyPath, raw: object) -> Mapping[str, object]:
    """Returns a value that has to be a table."""
    if not is_table(raw):
        name = ".NAME" if path[-1] in NAMED else ""
        if path[-1] == "memory":  # elsewhere the word is the limit
            raise document.error(path, raw, "write a table, or resources.max_memory_bytes for the limit")
        raise document.error(path, raw, f"write a table: [{dotted(path)}{name}]")
    return raw


def table_in(document: Document, path: KeyPath, tables: Mapping[str, object]) -> Mapping[str, object]:
    """Returns the table that `path` ends with; an empty one if there is none, or it is refused."""
    with document.collecting():
        return table_at(document, path, tables.get(path[-1], {}))
    return {}


def decode_section(document: Document, path: KeyPath, raw: object, base: _S) -> _S:
    """Returns `base` with the keys of `raw` over it; the keys that are refused are noted, and left out."""
    table = table_at(document, path, raw)
    if not table:
        return base
    before = document.failures
    changes = document.decode_keys(path, table, fields_of(type(base)), unknown=why_unknown)
    if isinstance(base, Process):
        with document.collecting():
            changes |= _isolation(document, path, changes, base)
        if "environment" in changes:
            changes["environment"] = base.environment | changes["environment"]
    if isinstance(base, Recovery) and "actions" in changes:
        changes["actions"] = base.actions | changes["actions"]
    section = replace(base, **changes)
    if document.failures > before:
        return section
    with document.collecting():
        return _ordered(document, path, table, section)
    return section


def _isolation(document: Document, path: KeyPath, table: Mapping[str, object], base: Process) -> dict[str, Any]:
    """Returns both keys of one choice, from either; `enable_isolation` is a switch, `isolation` the level."""
    level = table.get("isolation")
    switch = table.get("enable_isolation")
    if level is None and switch is None:
        return {}
    if level is None:
        usual = base.isolation if base.isolation != "none" else "basic"
        return {"isolation": usual if switch else "none"}
    inherited_off = switch is None and not base.enable_isolation and level != "none"
    if inherited_off or (switch is not None and switch != (level != "none")):
        switched = "false" if inherited_off or not switch else "true"
        raise document.error((*path, "isolation"), level, f"it contradicts enable_isolation = {switched}")
    return {"enable_isolation": level != "none"}


def _check_network(document: Document, path: KeyPath, table: Mapping[str, object], section: Process) -> None:
    """Refuses a network that the level of isolation cannot hold, and hosts that no proxy looks at."""
    if section.network != "host" and section.isolation in ("none", "basic"):
        guilty, other = ("network", "isolation") if "network" in table else ("isolation", "network")
        value = getattr(section, guilty)
        reason = f'network = "{section.network}" needs isolation = "strict" or "container"'
        raise document.error((*path, guilty), value, f"it contradicts {other}: {reason}")
    if section.allowed_hosts and section.network != "proxy" and "allowed_hosts" in table:
        raise document.error((*path, "allowed_hosts"), table["allowed_hosts"], 'it needs network = "proxy"')


def _check_image(document: Document, path: KeyPath, table: Mapping[str, object], section: Process) -> None:
    if section.isolation == "container":
        if not section.image and "isolation" in table:
            raise document.error((*path, "isolation"), "container", 'it needs "image"')
        if section.connect_ports is not None and "connect_ports" in table:
            reason = "it contradicts isolation: a container has no list of ports"
            raise document.error((*path, "connect_ports"), table["connect_ports"], reason)
        return
    for key in ("image", "runtime"):
        if key in table and getattr(section, key) != getattr(Process(), key):  # the default is no wish
            raise document.error((*path, key), table[key], 'it needs isolation = "container"')


def _ordered(document: Document, path: KeyPath, table: Mapping[str, object], section: _S) -> _S:
    """Adapts keys that bound one another: the written one counts, two that contradict are refused."""
    if isinstance(section, Process) and section.isolation == "none":
        for key in CONFINING:
            if getattr(section, key) is not None:
                switch = "isolation" if "isolation" in table else "enable_isolation"
                guilty, other = (key, switch) if key in table else (switch, key)
                raise document.error((*path, guilty), table[guilty], f"it contradicts {other}")
    if isinstance(section, Process):
        _check_network(document, path, table, section)
        _check_image(document, path, table, section)
    if isinstance(section, Recovery):
        base, most = section.restart_backoff_base, section.restart_backoff_max
        if base <= most:
            return section
        if "restart_backoff_max" not in table:
            return replace(section, restart_backoff_max=base)
        if "restart_backoff_base" not in table:
            return replace(section, restart_backoff_base=most)
        reason = f"it contradicts restart_backoff_base: write at least {base:g} s"
        raise document.error((*path, "restart_backoff_max"), table["restart_backoff_max"], reason)
    if isinstance(section, Monitoring) and section.heartbeat_interval >= section.heartbeat_timeout:
        if "heartbeat_timeout" in table:
            key, words = ("heartbeat_timeout", f"above heartbeat_interval, {section.heartbeat_interval:g} s")
        else:
            key, words = ("heartbeat_interval", f"below heartbeat_timeout, {section.heartbeat_timeout:g} s")
        raise document.error((*path, key), table[key], f"write a duration {words}")
    return section


def hides_program(key: str) -> bool:
    """Returns whether a key says, or may be meant to say, which program it is: its mistake explains that there is none."""
    return key in PROGRAM_KEYS or (key not in SECTIONS and key not in fields_of(Spec))


PROGRAM_KEYS = frozenset({"command", "entrypoint", "url"})


def check_type(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Refuses the type of a server in the table of an agent, and the other way round."""
    if (own["type"] in ("http", "sse")) != (path[:2] == ("mcp", "servers")):
        reason = 'an agent has "service" or "oneshot", a server with a url "http" or "sse"'
        raise document.error(path, own["type"], reason)


def check_program(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Requires exactly one of command, entrypoint and url, and refuses keys that go with another of them."""
    command, entrypoint = own.get("command"), own.get("entrypoint")
    if path[:2] != ("mcp", "servers"):
        check_webhook(document, path, own)
        check_acp(document, path, own)
    if "url" in own:
        if command:
            raise document.error((*path, "url"), own["url"], "it contradicts command: write one of the two")
        return
    document.refuse(path, own, ["headers"], "they go with url only", shown=False)
    if path[:2] == ("mcp", "servers"):
        document.refuse(path, own, ["oauth", "type"], "it goes with url only", shown=False)
    if command and entrypoint:
        raise document.error((*path, "entrypoint"), entrypoint, "it contradicts command: write one of the two")
    if not command and not entrypoint:
        is_cortex = path == ("mcp", "servers", "cortex")
        if is_cortex and own.get("disabled") is True:
            return
        reason = (
            'it is missing: write entrypoint = "MODULE:NAME" for an agent of the Python SDK,'
            ' or a list, such as command = ["python", "agent.py"]'
        )
        if path[:2] == ("mcp", "servers"):
            reason = 'it is missing: write a list, such as command = ["npx", "-y", "PACKAGE"], or a url'
        if is_cortex:
            reason += ", or disabled = true to go without the built-in server"
        raise document.error((*path, "command"), None, reason)
    if not entrypoint and "python" in own:
        raise document.error((*path, "python"), own["python"], "it goes with entrypoint only")
    ahead = ["warm", "preload", "min_spare"]
    if not entrypoint:
        document.refuse(path, own, ahead, "it goes with entrypoint only")
    elif not own.get("warm", True):
        document.refuse(path, own, ahead, "it contradicts warm = false")
    if entrypoint and own.get("protocol", "corral") != "corral":
        reason = 'it contradicts entrypoint: such an agent speaks "corral"'
        raise document.error((*path, "protocol"), own["protocol"], reason)


def check_health(
    document: Document, path: KeyPath, own: Mapping[str, Any], recovery: Recovery
) -> None:  # Any: the values of a Spec's fields
    """Refuses probes that the protocol does not have, and recoveries without an action."""
    protocol = own.get("protocol", "corral")
    if protocol in ("none", "mcp"):
        document.refuse(path, own, ["hibernate_after"], f'protocol "{protocol}" has no checkpoints')
    check_exposed(document, path, own)
    check_call(document, path, own)
    if own.get("ready") is not None and protocol != "none":
        reason = f'it goes with protocol = "none": protocol "{protocol}" reports when it is ready'
        raise document.error((*path, "ready"), own["ready"].way, reason)
    if own.get("smoke") is not None and protocol in ("none", "mcp"):
        reason = f'a task needs an agent that takes tasks, and protocol "{protocol}" has none'
        raise document.error((*path, "smoke"), own["smoke"].objective, reason)
    for check in own.get("health") or ():
        if check.way == "mcp" and protocol != "mcp":
            raise document.error((*path, "health", "mcp"), True, 'it goes with protocol = "mcp"')
        action = check.recovery
        if action in NO_ACTIONS or action.startswith(SIGNAL) or action in recovery.actions:
            continue
        guess = did_you_mean(action, [*NO_ACTIONS, *recovery.actions])
        reason = f"no action in [recovery.actions] has this name{guess}"
        raise document.error((*path, "health", "recovery"), action, reason)


def check_daemon_wide(document: Document, path: KeyPath, raw: object) -> None:
    """Refuses keys that count for the whole daemon in the section of one agent."""
    if is_table(raw):
        for key in DAEMON_WIDE.get(path[-1], frozenset()).intersection(raw):
            raise document.error((*path, key), raw[key], f"it counts for the whole daemon: write it in [{path[-1]}]")


def check_pasted(document: Document, path: KeyPath, table: Mapping[str, object]) -> None:
    """Refuses the `mcpServers` spelling of editors (a command string, `args`, `env`), and shows the right one."""
    found = [key for key in ("args", "env") if key in table]
    if not found:
        return
    command, args = table.get("command", "PROGRAM"), table.get("args", [])
    head = list(command) if is_list(command) else [str(command)]
    words = json.dumps([*head, *(args if is_list(args) else [args])], default=str)
    advice = [f"command = {words}"] if "args" in table or isinstance(command, str) else []
    advice += ['environment = { NAME = "value" } in place of env'] if "env" in table else []
    reason = f"this is the spelling of an editor: write {', and '.join(advice)}"
    raise document.error((*path, found[0]), table[found[0]], reason)
