"""Exports agents, servers, teams, workflows and schedules as a TOML text, from which the same ones can be added again.

Decides the order (kind, then name), the tables, and the values to show. Each table stands by itself: it says what
differs from corral's own defaults, so that it means the same beside any `[process]` or `[resources]`. It must not
know the running set, or read a file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from corral.supervisor.config.declared.models import DeclaredModel, Prices
from corral.supervisor.config.declared.pools import DeclaredPool
from corral.supervisor.config.declared.stores import DeclaredStore
from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.secrets.secrets import REFERENCE, masked_address
from corral.supervisor.config.spec.loader import expanded_table, group_table
from corral.supervisor.config.spec.spec import Defaults, Group, Profile, Spec, kind_of_group
from corral.supervisor.config.spec.template_spec import Template
from corral.supervisor.config.spec.templates import template_table
from corral.worker.contract import codec, toml_text
from corral.worker.contract.records import Boundaries, Retry, ScheduleRecord, TaskParams
from corral.worker.contract.toml_text import literal

Table = dict[str, object]

BUILT_IN = "built-in"
"""Source of the servers that a daemon has by itself, which are not exported."""

_SECRETS = ("environment", "headers")
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_NO_NAME = re.compile(r"[^A-Za-z0-9_]")
_DEFAULTS = Defaults()


@dataclass
class Item:
    """Holds one table of an export: the keys of its header, where it comes from, and what it leaves out."""

    path: tuple[str, ...]
    table: Table
    source: str
    notes: list[str] = field(default_factory=list[str])
    hidden: list[str] = field(default_factory=list[str])
    """Variables that stand for values that this caller may not see."""


@dataclass(frozen=True)
class Export:
    """Holds the text of an export, the names of the secrets that it refers to, and those of hidden values."""

    toml: str
    names: list[str]
    secrets: list[str]
    hidden: list[str]


@dataclass(frozen=True)
class FileTables:
    """Holds the tables that only a configuration file has, and that others refer to by name."""

    stores: Iterable[DeclaredStore] = ()
    templates: Iterable[Template] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict[str, Profile])
    pools: Iterable[DeclaredPool] = ()
    models: Iterable[DeclaredModel] = ()


def export(
    specs: Iterable[Spec],
    groups: Iterable[Group],
    schedules: Iterable[ScheduleRecord],
    file: FileTables = FileTables(),
    *,
    shows_values: bool,
) -> Export:
    """Returns the TOML of these agents, servers, teams, workflows and schedules."""
    chosen = list(schedules)
    commands = {each.name for each in chosen if each.command is not None}
    by_name = {each.name: each for each in specs if each.source != BUILT_IN}
    items = list(_file_items(file, shows_values))
    items += [
        _agent(each, shows_values)
        for each in sorted(by_name.values(), key=lambda spec: (spec.kind, spec.name))
        if each.name not in commands
    ]
    items += [_group(each) for each in sorted(groups, key=lambda g: (kind_of_group(g), g.name))]
    items += [
        _schedule(each, by_name.get(each.name), shows_values) for each in sorted(chosen, key=lambda record: record.name)
    ]
    tables = [_without_null(item) for item in items]
    secrets = sorted({name for item in tables for name in _secret_names(item.table)})
    hidden = sorted({name for item in tables for name in item.hidden})
    return Export(
        toml="\n".join(_lines(tables, secrets, hidden)) + "\n",
        names=[item.path[-1] for item in tables],
        secrets=secrets,
        hidden=hidden,
    )


def _lines(items: Sequence[Item], secrets: Sequence[str], hidden: Sequence[str]) -> Iterator[str]:
    yield "# Written by corral export. Add it with: corral add --file FILE"
    if secrets:
        yield f"# Secrets, which are set with corral secret set NAME: {', '.join(secrets)}"
    if hidden:
        yield f"# Variables in place of values that this caller may not see: {', '.join(hidden)}"
    for item in items:
        yield ""
        yield f"# {_one_line(_origin(item.source))}"
        for note in item.notes:
            yield f"# - {_one_line(note)}"
        mark = "" if item.table else "# "
        yield from (mark + line for line in toml_text.lines(item.path, item.table))


def _origin(source: str) -> str:
    return "added at run time" if source == STORE else f"from {source}"


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


# --- stores, templates, profiles ------------------------------------------------------------------


def _file_items(file: FileTables, shows_values: bool) -> Iterator[Item]:
    for store in sorted(file.stores, key=lambda each: each.name):
        hidden: list[str] = []
        url = literal(store.url)
        if not shows_values and store.shown != store.url and not REFERENCE.fullmatch(url):
            url = _hidden(store.name, "url", hidden)
        table: Table = {"kind": store.kind, "url": url}
        yield Item(("stores", store.name), table, "[stores]", hidden=hidden)
    for model in sorted(file.models, key=lambda each: each.name):
        yield _model(model, shows_values)
    for template in sorted(file.templates, key=lambda each: each.name):
        if template.source != BUILT_IN:
            yield _template(template, shows_values)
    for pool in sorted(file.pools, key=lambda each: each.name):
        yield Item(("pools", pool.name), _used(pool, DeclaredPool(name=pool.name, max_bytes=0)), "[pools]")
    for name, profile in sorted(file.profiles.items()):
        yield Item(("mcp", "profiles", name), _used(profile, Profile()), "[mcp.profiles]")


def _model(model: DeclaredModel, shows_values: bool) -> Item:
    """Returns the table of a model; for a caller that may not see values, without its key and its headers."""
    hidden: list[str] = []
    table = _used(model, DeclaredModel(name=model.name, kind=model.kind))
    table = {"kind": model.kind, **table}
    if model.prices != Prices():
        table["prices"] = msgspec.structs.asdict(model.prices)
    if model.key:
        key = literal(model.key)
        is_shown = shows_values or REFERENCE.fullmatch(key)
        table["key"] = key if is_shown else _hidden(model.name, "key", hidden)
    if model.headers:
        table["headers"] = {
            name: value if shows_values or REFERENCE.fullmatch(value) else _hidden(model.name, name, hidden)
            for name, value in ((name, literal(each)) for name, each in model.headers.items())
        }
    return Item(("models", model.name), table, "[models]", hidden=hidden)


def _template(template: Template, shows_values: bool) -> Item:
    """Returns the table of a template; for a caller that may not see values, without those of environments and headers."""
    hidden: list[str] = []
    table = template_table(template)
    if (params := table.get("params")) is not None:
        table["params"] = _literals(params)
    for key in _SECRETS:
        values = codec.as_object(table.get(key))
        if values is not None and not shows_values:
            table[key] = {
                n: each
                if REFERENCE.fullmatch(str(each)) or _VARIABLE.fullmatch(str(each))
                else _hidden(template.name, n, hidden)
                for n, each in values.items()
            }
    return Item(("templates", template.name), table, template.source, hidden=hidden)


# --- agents and servers ---------------------------------------------------------------------------


def _agent(spec: Spec, shows_values: bool) -> Item:
    path = ("mcp", "servers") if spec.kind == "mcp" else ("agents",)
    hidden: list[str] = []
    return Item((*path, spec.name), _spec_table(spec, shows_values, hidden), spec.source, hidden=hidden)


def _spec_table(spec: Spec, shows_values: bool, hidden: list[str]) -> Table:
    """Returns the table of a spec with its strings as a file has them; adds the variables of hidden values to `hidden`."""
    plain = expanded_table(msgspec.structs.replace(spec, written={}), _DEFAULTS)

    def shown(path: tuple[str, ...], value: str) -> str:
        written = spec.written_secrets.get(path, literal(value))
        if shows_values or REFERENCE.fullmatch(written) or _VARIABLE.fullmatch(written):
            return written
        return _hidden(spec.name, path[-1], hidden)

    table: Table = {}
    for key, value in plain.items():
        inner = codec.as_object(value)
        if key in _SECRETS and inner is not None:
            table[key] = {n: shown((key, n), str(each)) for n, each in inner.items()}
        elif key == "webhook_secret":
            table[key] = shown((key,), str(value))
        elif key == "url" and not shows_values and ("url",) not in spec.written:
            url = str(value)
            table[key] = literal(url) if masked_address(url) == url else _hidden(spec.name, key, hidden)
        else:
            table[key] = _literals(value)
    for path, value in spec.written.items():
        *above, last = path
        inner = table if not above else dict(codec.as_object(table.get(above[0])) or {})
        if path[0] in _SECRETS or last not in inner:
            continue
        inner[last] = value
        if above:
            table[above[0]] = inner
    return table


def _hidden(of: str, key: str, hidden: list[str]) -> str:
    """Returns the variable for a value that is not shown: no two values have the same."""
    name = _NO_NAME.sub("_", f"{of}_{key}").upper()
    hidden.append(name)
    return f"${{{name}}}"


def _literals(value: object) -> object:
    """Returns a value whose strings the configuration takes as they are: none of them is expanded."""
    if isinstance(value, str):
        return literal(value)
    if (table := codec.as_object(value)) is not None:
        return {key: _literals(each) for key, each in table.items()}
    if (array := codec.as_array(value)) is not None:
        return [_literals(each) for each in array]
    return value


def _secret_names(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield from REFERENCE.findall(value)
    elif (table := codec.as_object(value)) is not None:
        for each in table.values():
            yield from _secret_names(each)


# --- teams, workflows, schedules ------------------------------------------------------------------


def _group(group: Group) -> Item:
    kind = kind_of_group(group)
    table = codec.as_object(msgspec.to_builtins(group_table(group))) or {}
    if kind == "team":  # the strings of a workflow have expressions, and no variables
        table = codec.as_object(_literals(table)) or {}
    return Item((f"{kind}s", group.name), dict(table), group.source)


def _schedule(record: ScheduleRecord, job: Spec | None, shows_values: bool) -> Item:
    item = Item(("schedules", record.name), _times(record), record.source)
    if record.at is not None and record.next_at is None:
        item.notes.append(f"left out: its time, {record.at}, is past")
        item.table = {}
        return item
    if record.start_at is not None:
        item.notes.append(f"left out: its first time, {record.start_at}")
    if record.paused:
        item.notes.append("it is paused")
    if record.command is None:
        item.table |= _work(record.task, item.notes)
    elif job is None:
        item.notes.append("left out: the job of its command is not there")
        item.table = {}
    else:
        item.table |= _job(job, shows_values, item.hidden)
    return item


def _times(record: ScheduleRecord) -> Table:
    every = record.every_s
    times: Mapping[str, object] = {
        "every": int(every) if every is not None and every.is_integer() else every,
        "cron": record.cron,
        "at": record.at,
        "timezone": record.timezone if record.cron is not None else None,
    }
    table: Table = {key: value for key, value in times.items() if value is not None}
    if not record.catch_up:
        table["catch_up"] = False
    if record.overlap != "skip":
        table["overlap"] = record.overlap
    return table


def _job(job: Spec, shows_values: bool, hidden: list[str]) -> Table:
    """Returns the keys of a scheduled command: its job's, without what each such job has."""
    table = _spec_table(job, shows_values, hidden)
    table.pop("type", None)
    if table.pop("autostart", True) is not False:
        table["autostart"] = True
    recovery = dict(codec.as_object(table.pop("recovery", None)) or {})
    restart = recovery.pop("restart", _DEFAULTS.recovery.restart)
    if restart != "never":
        recovery["restart"] = restart
    return table | ({"recovery": recovery} if recovery else {})


def _work(task: TaskParams, notes: list[str]) -> Table:
    """Returns the keys of a schedule's task; notes those that only `schedule.add` takes."""
    plain = codec.as_object(msgspec.to_builtins(task)) or {}
    blank = codec.as_object(msgspec.to_builtins(TaskParams(objective=""))) or {}
    direct = ("objective", "input", "context", "priority", "session", "sticky_key")
    table: Table = {"agent": task.agent, "capability": task.capability}
    table |= {key: plain[key] for key in direct}
    bounds = _used(task.boundaries, Boundaries())
    retry = _used(task.retry, Retry())
    limit = bounds.pop("timeout_s", plain.get("timeout_s"))
    table |= {"timeout": limit, **{k: retry.pop(k, None) for k in ("max_attempts", "retry_on")}}
    known = {*direct, "agent", "capability", "timeout_s", "boundaries", "retry"}
    rest = [key for key, value in plain.items() if key not in known and value != blank[key]]
    rest += [*(f"boundaries.{key}" for key in bounds), *(f"retry.{key}" for key in retry)]
    if rest:
        notes.append(f"left out, since a file cannot have them here: {', '.join(rest)}")
    return {key: _literals(value) for key, value in table.items() if value not in (None, "")}


def _used(value: msgspec.Struct | None, blank: msgspec.Struct) -> Table:
    if value is None:
        return {}
    usual = codec.as_object(msgspec.to_builtins(blank)) or {}
    found = codec.as_object(msgspec.to_builtins(value)) or {}
    return {key: each for key, each in found.items() if each != usual[key]}


# --- values that TOML has not ---------------------------------------------------------------------


def _without_null(item: Item) -> Item:
    lost: list[str] = []

    def clean(value: object, where: str) -> object:
        if (table := codec.as_object(value)) is not None:
            kept: Table = {}
            for key, each in table.items():
                here = f"{where}.{key}" if where else key
                if each is None:
                    lost.append(here)
                else:
                    kept[key] = clean(each, here)
            return kept
        if (array := codec.as_array(value)) is not None:
            if any(each is None for each in array):
                lost.append(where)
            return [clean(each, where) for each in array if each is not None]
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat()
        return value

    item.table = dict(codec.as_object(clean(item.table, "")) or {})
    if lost:
        item.notes.append(f"left out, since TOML has no null: {', '.join(lost)}")
    return item
