"""Decodes the sections of a configuration, such as `[process]`, over the values that they inherit.

Keys of one section that bound or contradict each other are settled here. It knows no agent.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import fields_of
from ..decoding.values import dotted, is_table
from .references import why_unknown
from .spec import Monitoring, Process, Recovery

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
    """Refuses a container without an image, and keys of containers elsewhere."""
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
