"""Lays the overrides over a configuration, and knows which revision of a name is one.

An override has the table in the form of the file: variables, secrets and escapes as they are written, relative to the
folder of the file. `base` is the fingerprint of the file's own table when it was made.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.loader import decode_agent, decode_group, group_table, to_table
from corral.supervisor.config.spec.references import check_addresses, check_groups, check_requires, check_worker_ids
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config, Defaults, Group, Spec, kind_of_group
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams
from corral.worker.contract.records import copied
from corral.worker.contract.toml_text import literal

from .record import Draft, Kind, Revision
from .revisions import Revisions

_HIDDEN = ("environment", "headers")


class Override(NamedTuple):
    """Represents the table of a name of the file that is in force instead of the file's own."""

    name: str
    kind: Kind
    table: Mapping[str, object]
    base: str


class Overrides:
    """Holds the overrides of one daemon."""

    def __init__(self, revisions: Revisions, config: Config) -> None:
        self._revisions = revisions
        self._made: dict[str, dict[int, Override]] = {}
        self.file = config
        self.loaded: dict[str, Override] = {}
        """Overrides in force since the start of the daemon, until their revisions are known."""

    def of(self, name: str) -> Override | None:
        """Returns the override that is in force, or about to be, for a name; None where the file's table is."""
        head = self._revisions.head(name)
        number = head.current if head.rolling is None else head.rolling
        return None if number is None else self._made.get(name, {}).get(number)

    def revision(self, name: str) -> int | None:
        """Returns the number of the revision that overrides the file's table of a name; None where none does."""
        current = self._revisions.head(name).current
        return current if current in self._made.get(name, {}) else None

    def load(self, overrides: Iterable[Override], others: Iterable[Spec]) -> dict[str, CorralError]:
        """Takes the overrides whose base is the file's table still; returns those that do not fit any more. `others` were added at run time."""
        refused: dict[str, CorralError] = {}
        added = {spec.name: spec for spec in others if spec.name not in self.file.agents}
        found = self.file
        for each in overrides:
            if each.base != base_of(self.file, each.name):
                continue
            try:
                wanted = _laid_over(found, self.file, each)
                _check(wanted, added)
            except CorralError as error:
                refused[each.name] = error
                continue
            found, self.loaded[each.name] = wanted, each
        return refused

    def begin(self) -> None:
        """Takes note of the revisions of the loaded overrides, which are known now."""
        for name, override in self.loaded.items():
            number = self._revisions.head(name).current
            if number is not None:
                self._made[name] = {number: override}
        self.loaded = {}

    def note(self, draft: Draft | Revision, number: int) -> None:
        """Takes note of the number of a revision, which is an override if it has a base."""
        head = self._revisions.head(draft.name)
        made = self._made.get(draft.name, {})
        former = max(made, default=None)  # in force again where this one cannot be stored
        kept = {n: each for n, each in made.items() if n in (head.current, head.rolling, former)}
        if draft.base is not None:
            kept[number] = Override(draft.name, draft.kind, draft.table, draft.base)
        self._made[draft.name] = kept
        if not kept:
            del self._made[draft.name]

    def check_unchanged(self, name: str, file: Config) -> None:
        """Refuses a change of a table that was made to that of an earlier file, and not of the present one."""
        if self.file is not file and base_of(self.file, name) != base_of(file, name):
            words = f'cannot set "{name}": the configuration file has changed it meanwhile'
            raise Conflict(words, name=name, reason="stale")

    def overlaid(self, config: Config) -> tuple[Config, tuple[str, ...]]:
        """Returns a configuration of the file with the overrides in it, and the names of those that end because its table has changed."""
        found, ended = config, list[str]()
        for name in self._made:
            override = self.of(name)
            if override is None:
                continue
            base = base_of(config, name)
            if override.base == base:
                found = _laid_over(found, config, override)
            elif base is not None:
                ended.append(name)
        return found, tuple(ended)

    def in_force(self) -> Config:
        """Returns the configuration of the file with the overrides that were loaded."""
        found = self.file
        for override in self.loaded.values():
            found = _laid_over(found, self.file, override)
        return found

    def table(self, spec: Spec) -> dict[str, object]:
        """Returns the table of an agent or server of the file in the form of the file."""
        return written_table(spec, self.file.defaults)

    def spec(self, name: str, table: Mapping[str, object]) -> Spec:
        """Returns the agent or server of the file with another table; the file's own where it means the same."""
        own = self.file.agents.get(name)
        if own is None or name in self.file.schedules:
            why = "it is no longer in the configuration file"
            if own is not None:
                why = f"it is the command of a schedule of {own.source}; change it there, then corral reload"
            raise Conflict(f'cannot set "{name}": {why}', name=name, remedy="corral reload")
        _decoded(own, table, self.file, STORE)  # mistakes are the caller's, not the file's
        spec = _decoded(own, table, self.file, own.source)
        if spec.disabled:
            words = f'cannot set "{name}": disabled is a key of the file; corral stop {name} stops it'
            raise InvalidParams(words, name=name, key="disabled", value=True)
        return spec if changed(own, spec) else own

    def draft_of(self, spec: Spec) -> tuple[dict[str, object], str | None]:
        """Returns the table of an agent or server of the file for its revision, and the base if it is an override."""
        if spec is self.file.agents.get(spec.name):
            return to_table(spec, self.file.defaults), None
        return self.table(spec), base_of(self.file, spec.name)

    def group(self, group: Group, table: Mapping[str, object]) -> tuple[Group, str | None]:
        """Returns a team or workflow of the file with another table, and the base if it is not the file's own."""
        kind = kind_of_group(group)
        decode_group(group.name, table, kind=kind, source=STORE)
        new = decode_group(group.name, table, kind=kind, source=group.source)
        own = self.file.groups.get(group.name)
        if own is not None and group_table(own) == group_table(new):
            return own, None
        return new, base_of(self.file, group.name)


def base_of(config: Config, name: str) -> str | None:
    """Returns the fingerprint of the file's table of a name; None where the file has none."""
    if (group := config.groups.get(name)) is not None:
        found: list[object] = [kind_of_group(group), group_table(group)]
    elif (spec := config.agents.get(name)) is not None:
        found = [spec.kind, written_table(spec, config.defaults)]
    else:
        return None
    return hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()


def written_table(spec: Spec, defaults: Defaults) -> dict[str, object]:
    """Returns the table of an agent as a file has it, from which `decode_agent` with the variables makes an equal Spec."""
    table = to_table(spec, defaults)
    for key in _HIDDEN:
        if (values := codec.as_object(table.get(key))) is not None:
            table[key] = {n: spec.written_secrets.get((key, n), literal(str(value))) for n, value in values.items()}
    if (secret := table.get("webhook_secret")) is not None:
        path = ("webhook_secret",)
        table["webhook_secret"] = spec.written_secrets.get(path, literal(str(secret)))
    process = dict(codec.as_object(table.get("process")) or {})
    if process.get("working_directory") == _folder(spec):
        del process["working_directory"]
        table = {**table, "process": process}
        if not process:
            del table["process"]
    return table


def in_file_form(revision: Revision) -> Mapping[str, object]:
    """Returns the table of a revision with its environment and headers as a file has them, to be read with the variables.

    An override has that form, and the file's own table, unless it has a template. Tables that were added at run time have
    the values, in which nothing is expanded.
    """
    table = revision.table
    is_written = revision.base is not None or not revision.is_stored
    if is_written and (revision.base is not None or "template" not in table):
        return table
    found = dict(table)
    for key in _HIDDEN:
        if (values := codec.as_object(table.get(key))) is not None:
            found[key] = {n: literal(str(value)) for n, value in values.items()}
    if "webhook_secret" in found:
        found["webhook_secret"] = literal(str(found["webhook_secret"]))
    return found


def _folder(spec: Spec) -> str:
    return os.path.dirname(os.path.realpath(spec.source))


def _decoded(own: Spec, table: Mapping[str, object], config: Config, source: str) -> Spec:
    return decode_agent(
        own.name,
        table,
        kind=own.kind,
        defaults=config.defaults,
        source=source,
        directory=_folder(own),
        variables=Variables(config.values, {}),
        **copied(config, "templates stores models pools"),
        keeps_written=True,
    )


def _laid_over(config: Config, file: Config, override: Override) -> Config:
    name, table = override.name, override.table
    if (group := file.groups.get(name)) is not None:
        new = decode_group(name, table, kind=override.kind, source=group.source)
        return replace(config, groups={**config.groups, name: new})
    spec = _decoded(file.agents[name], table, file, file.agents[name].source)
    return replace(config, agents={**config.agents, name: spec})


def _check(config: Config, added: Mapping[str, Spec]) -> None:
    specs = {name: spec for name, spec in {**added, **config.agents}.items() if not spec.disabled}
    check_requires(specs)
    check_groups(config.groups, {**config.placed, **specs})
    check_addresses([*specs.values(), *config.groups.values()], config.daemon)
    counts = {name: spec.instances.minimum + spec.spares for name, spec in specs.items()}
    check_worker_ids(counts, [*specs, *config.groups], "set")
