"""Checks the keys of one agent's or server's table against each other: its program, its probes, and what it may not have.

An error names the key that contradicts, and the remedy.
"""

import json
from collections.abc import Mapping
from typing import Any

from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import fields_of
from ..decoding.values import did_you_mean, is_list, is_table
from .probe_spec import NO_ACTIONS, SIGNAL
from .references import check_acp, check_call, check_exposed, check_webhook
from .spec import DAEMON_WIDE, SECTIONS, Recovery, Spec


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
