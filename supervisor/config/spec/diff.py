"""Compares a changed configuration with the running set, and returns a plan.

Only agents that came from the file are compared: those added at run time, and built-in ones, stay
as they are unless the file names them now, since the file wins.
"""

import json
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ..decoding.decoder import STORE
from ..decoding.keys import fields_of
from ..decoding.values import is_table
from .job import Schedule
from .spec import DAEMON_TABLES, SECTIONS, Config, Group, Spec

Effect = Literal["live", "restart"]

RESTART_KEYS = frozenset(k for k, f in fields_of(Spec).items() if f.change == "restart") | {
    "kind",
    "process",
    "resources",
}
"""What a running worker was started with, but for live keys of the two sections."""

NAMED_TABLES = ("stores", "models", "pools", "tenants", "tiers")
"""Tables of a file whose entries take effect at a reload, as `[mcp.profiles]` do."""

LIVE = frozenset(
    (
        *NAMED_TABLES,
        "mcp.profiles",
        *(
            f"{name}.{key}"
            for name, table in {**DAEMON_TABLES, **SECTIONS}.items()
            for key, field in fields_of(table).items()
            if field.change == "daemon, live"
        ),
    )
)
"""Daemon-wide keys that take effect at a reload; the others wait for the next start of the daemon."""


class Plan(Struct, frozen=True):
    """Lists the names to add, remove and change; `keys` are those that made a change.

    Of the daemon-wide keys, `live` take effect now, `pending` at the next start. Teams, workflows and schedules are
    added, removed or changed. `renewed` are agents with the same configuration and changed sources. `overrides_ended`
    are names whose table was set, and is the file's own again, which has changed. `rolling` are those of `changed` whose
    workers are replaced by new ones, `revisions` the numbers of what was changed.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: dict[str, Effect] = {}
    pending: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    keys: dict[str, tuple[str, ...]] = {}
    teams: dict[str, str] = {}
    workflows: dict[str, str] = {}
    schedules: dict[str, str] = {}
    renewed: tuple[str, ...] = ()
    overrides_ended: tuple[str, ...] = ()
    rolling: tuple[str, ...] = ()
    revisions: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """Returns whether nothing has changed."""
        return self == Plan()


def changed(old: Spec, new: Spec) -> dict[str, Effect]:
    """Returns the keys that differ, as `command` or `tasks.max_attempts`: in force at once, or in new workers."""
    kinds: dict[str, Effect] = {}
    for key in ("kind", *fields_of(Spec)):
        if not _same(getattr(old, key), getattr(new, key)):
            kinds[key] = "restart" if key in RESTART_KEYS else "live"
    if old.store_urls != new.store_urls:
        kinds["stores"] = "restart"
    if old.model_kinds != new.model_kinds:
        kinds["models"] = "restart"
    for name, section in SECTIONS.items():
        before, after = getattr(old, name), getattr(new, name)
        for key, field in fields_of(section).items():
            if field.is_daemon_wide or getattr(before, key) == getattr(after, key):
                continue
            # The era of MCP is settled when a server starts.
            settled = new.protocol == "mcp" and key == "protocol_version"
            kinds[f"{name}.{key}"] = "restart" if settled or field.change == "restart" else "live"
    if not kinds and not _same(old.own, new.own):
        kinds["template"] = "live"  # the same agent, of which another part is its own
    return kinds


def _same(before: object, after: object) -> bool:
    if is_table(before) and is_table(after):  # 1 and true are equal in Python, not in JSON
        return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    return before == after


def plan(
    running: Mapping[str, Spec],
    from_file: frozenset[str],
    old: Config,
    new: Config,
    derived: Mapping[str, Spec] | None = None,
) -> Plan:
    """Returns the changes that make the running set that of the new file."""
    wanted = {name: spec for name, spec in new.agents.items() if not spec.disabled}
    wanted |= derived or {}
    effects: dict[str, Effect] = {}
    keys: dict[str, tuple[str, ...]] = {}
    for name, spec in wanted.items():
        if name in running:
            kinds = changed(running[name], spec)
            if kinds:
                effects[name] = "restart" if "restart" in kinds.values() else "live"
                keys[name] = tuple(kinds)
    return Plan(
        added=tuple(name for name in wanted if name not in running),
        removed=tuple(name for name in running if name in from_file and name not in wanted),
        changed=effects,
        pending=_pending(old, new),
        live=_live(old, new),
        keys=keys,
        schedules=_schedule_changes(old.schedules, new.schedules),
    )


def _schedule_changes(old: Mapping[str, Schedule], new: Mapping[str, Schedule]) -> dict[str, str]:
    changes = {n: "changed" if n in old else "added" for n in new if new[n] != old.get(n)}
    return changes | {name: "removed" for name in old if name not in new}


def group_changes(running: Mapping[str, Group], wanted: Mapping[str, Group]) -> dict[str, str]:
    """Returns the teams and workflows that a file adds, removes and changes; those added at run time stay, unless it names them."""
    changes: dict[str, str] = {}
    for name, group in wanted.items():
        if name not in running:
            changes[name] = "added"
        elif running[name] != group:
            changes[name] = "changed"
    gone = [n for n, e in running.items() if e.source != STORE and n not in wanted]
    return changes | dict.fromkeys(gone, "removed")


def _live(old: Config, new: Config) -> tuple[str, ...]:
    before, after = _daemon_wide(old), _daemon_wide(new)
    return tuple(key for key in before if key in LIVE and before[key] != after[key])


def _pending(old: Config, new: Config) -> tuple[str, ...]:
    before, after = _daemon_wide(old), _daemon_wide(new)
    keys = dict.fromkeys([*before, *after])  # those of `[cluster]` may be missing
    return tuple(key for key in keys if key not in LIVE and before.get(key) != after.get(key))


def _daemon_wide(config: Config) -> dict[str, object]:
    tables: dict[str, Struct | None] = {name: getattr(config, name) for name in (*DAEMON_TABLES, "cluster")}
    tables |= {name: getattr(config.defaults, name) for name in SECTIONS}
    values: dict[str, object] = {
        f"{name}.{key}": getattr(table, key)
        for name, table in tables.items()
        if table is not None
        for key, field in fields_of(type(table)).items()
        if field.is_daemon_wide
    }
    return values | {"mcp.profiles": config.profiles, **{name: getattr(config, name) for name in NAMED_TABLES}}
