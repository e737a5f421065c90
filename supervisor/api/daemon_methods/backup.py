"""Serves the methods `daemon.export`, `daemon.import` and `backup.*`: the running set as TOML, and the whole state."""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from corral import __version__
from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.config.decoding.decoder import STORE, Document
from corral.supervisor.config.spec.job import Schedule, commands_of, decode_schedule
from corral.supervisor.config.spec.sources import DOTENV, Variables, expanded, files_of
from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.config.spec.template_spec import Template
from corral.supervisor.records.backup.export import FileTables, export
from corral.supervisor.records.backup.snapshot import Source
from corral.supervisor.records.store.schema import MIGRATIONS
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound
from corral.worker.contract.records import ScheduleRecord
from corral.worker.control.backup import (
    BackupDiscardParams,
    BackupMade,
    BackupParams,
    BackupPiece,
    BackupReadParams,
    Exported,
    ExportParams,
    Imported,
    ImportParams,
)
from corral.worker.control.params import ScheduleParams
from corral.worker.control.results import Done
from corral.worker.methods.backup import BACKUP_DISCARD, BACKUP_MAKE, BACKUP_READ, DAEMON_EXPORT, DAEMON_IMPORT

from ..table.caller import made_by
from ..table.results import error_records
from ..table.table import Caller, Control, serve


@serve(DAEMON_EXPORT)
async def _export(control: Control, params: ExportParams, caller: Caller) -> Exported:
    agents, groups = control.agents.agents, control.agents.groups.by_name
    schedules = control.schedules.list()
    wanted = _wanted(control, params, schedules)
    chosen = [each for each in schedules if wanted is None or _users(each) & wanted]
    jobs = {each.name for each in chosen if each.command is not None}
    specs = [each.spec for each in agents.values()]
    found = export(
        [each for each in specs if wanted is None or each.name in wanted | jobs],
        [each for each in groups.values() if wanted is None or each.name in wanted],
        chosen,
        _file_tables(control.agents.config, None if wanted is None else [e for e in specs if e.name in wanted]),
        shows_values=caller.permission == "admin",
    )
    return Exported(toml=found.toml, names=found.names, secrets=found.secrets, hidden=found.hidden)


def _file_tables(config: Config, users: Sequence[Spec] | None) -> FileTables:
    """Returns the tables of the file that others refer to: all, or those that the `users` have."""
    if users is None:
        return FileTables(
            config.stores.values(),
            config.templates.values(),
            config.profiles,
            config.pools.values(),
            config.models.values(),
        )
    names = {each.template for each in users if each.template is not None}
    stores = {name for each in users for name in each.stores}
    pending = [config.templates[name] for name in names if name in config.templates]
    templates: dict[str, Template] = {}
    while pending:
        template = pending.pop()
        templates[template.name] = template
        if template.base is not None and template.base not in templates:
            pending.append(config.templates[template.base])
    pools = {each.memory.pool for each in users}
    models = {name for each in users for name in each.models}
    models |= {name for each in models for name in config.models[each].fallback if each in config.models}
    return FileTables(
        [config.stores[name] for name in stores],
        templates.values(),
        pools=[each for name, each in config.pools.items() if name in pools],
        models=[each for name, each in config.models.items() if name in models],
    )


def _wanted(control: Control, params: ExportParams, schedules: Sequence[ScheduleRecord]) -> set[str] | None:
    """Returns the names that the params choose; None for all."""
    if params.names is None and params.selector is None:
        return None
    extra = [each.name for each in schedules]
    registry = control.agents.registry
    names = registry.chosen(params.names or [], params.selector, groups=True, extra=extra)
    known = {*control.agents.agents, *control.agents.groups.by_name, *extra}
    for name in names:
        if name not in known:
            words = f'cannot export "{name}": there is no agent, server, team, workflow or schedule of this name'
            raise NotFound(words, name=name, known=sorted(known))
    return set(names)


def _users(schedule: ScheduleRecord) -> set[str | None]:
    """Returns the names by which a schedule is chosen: its own, and that of what runs its tasks."""
    return {schedule.name, schedule.task.agent}


@serve(DAEMON_IMPORT)
async def _import(control: Control, params: ImportParams, caller: Caller) -> Imported:
    if not any((params.agents, params.teams, params.workflows, params.schedules)):
        raise InvalidParams("cannot import: there is no table", key="agents", value=None)
    schedules, jobs = _read_schedules(params)
    additions = [
        Addition(each.name, each.kind, each.spec, each.directory or "/", each.environment) for each in params.agents
    ]
    added, cause = _Added(control), Cause("add", made_by(caller))
    try:
        if additions or jobs:
            names = [each.name for each in (*additions, *jobs)]
            await control.agents.membership.add([*additions, *jobs], start=False, wait=False, cause=cause)
            added.names += names
        for kind, tables in (("team", params.teams), ("workflow", params.workflows)):
            if tables:
                expanded_tables = _expanded(params, f"{kind}s", tables) if kind == "team" else tables
                await control.agents.groups.add(kind, expanded_tables, cause)
                added.names += tables
        for each in schedules.values():
            record = await control.schedules.add(_schedule_params(each), command=list(each.command) or None)
            added.schedules.append(record.name)
    except BaseException:
        await asyncio.shield(added.undo())
        raise
    failures: dict[str, CorralError] = {}
    if params.start:
        failures = await _start(control, [each.name for each in additions], wait=params.wait)
    return Imported(
        agents=[each.name for each in additions],
        teams=list(params.teams),
        workflows=list(params.workflows),
        schedules=added.schedules,
        failures=error_records(failures),
    )


class _Added:
    """Remembers what an import has added, so that one that is refused leaves nothing."""

    def __init__(self, control: Control) -> None:
        self.names: list[str] = []
        self.schedules: list[str] = []
        self._control = control

    async def undo(self) -> None:
        """Removes all of it, the last first."""
        for name in reversed(self.schedules):
            await self._control.schedules.remove(name)
        if self.names:
            await self._control.agents.membership.remove(self.names)


def _expanded(
    params: ImportParams, section: str, tables: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, object]]:
    """Returns tables with their variables replaced, if the call has values of variables."""
    if params.environment is None:
        return {name: dict(table) for name, table in tables.items()}
    document = Document(STORE, "", params.directory or "/")
    variables = Variables(params.environment, {})
    found: dict[str, dict[str, object]] = {}
    for name, table in tables.items():
        value = expanded(document, (section, name), dict(table), variables)
        assert isinstance(value, dict), "a table stays one"
        found[name] = value
    document.check()
    return found


def _read_schedules(params: ImportParams) -> tuple[dict[str, Schedule], list[Addition]]:
    """Returns the schedules of a call, and the jobs of their commands."""
    tables = _expanded(params, "schedules", params.schedules)
    document = Document(STORE, "", params.directory or "/")
    found: dict[str, Schedule] = {}
    for name, table in tables.items():
        with document.collecting():
            found[name] = decode_schedule(document, name, table)
    document.check()
    directory = params.directory or "/"
    jobs = [Addition(n, "agent", table, directory) for n, table in commands_of(tables).items()]
    return found, jobs


def _schedule_params(schedule: Schedule) -> ScheduleParams:
    return ScheduleParams(
        task=schedule.task,
        name=schedule.name,
        every_s=schedule.every,
        cron=schedule.cron,
        timezone=schedule.timezone,
        catch_up=schedule.catch_up,
        overlap=schedule.overlap,
        at=schedule.at,
    )


async def _start(control: Control, names: Sequence[str], *, wait: bool) -> dict[str, CorralError]:
    """Starts agents; returns by name why some did not come up."""
    failures: dict[str, CorralError] = {}

    async def start(name: str) -> None:
        try:
            await control.agents.operations.start(control.agents.supervisors(name), wait=wait)
        except CorralError as error:
            failures[name] = error

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(start(name))
    return failures


@serve(BACKUP_MAKE)
async def _make(control: Control, params: BackupParams, _caller: Caller) -> BackupMade:
    store = control.shared.store
    config = None if control.daemon.config is None else Path(control.daemon.config)
    secrets_file = control.agents.config.daemon.secrets_file
    # This commit has all that was posted before, which then is in the copy as well.
    await store.write(("DELETE FROM meta WHERE key = 'no such key'", ()))
    source = Source(
        state_dir=Path(control.daemon.state_dir),
        config=config,
        others=await asyncio.to_thread(_config_files, config, secrets_file, params.secrets),
        version=__version__,
        store_version=len(MIGRATIONS),
        generation=control.shared.generation,
        logs=params.logs,
        secrets=params.secrets,
    )
    made = await control.backups.make(source)
    control.shared.bus.publish(
        "daemon.backed_up",
        size_bytes=made.size,
        files=made.files,
        logs=params.logs,
        secrets=params.secrets,
        duration_s=made.duration_s,
    )
    return made


def _config_files(config: Path | None, secrets_file: str | None, secrets: bool) -> list[Path]:
    """Returns the files that belong to a configuration file: included ones, and those with values of variables and secrets."""
    if config is None or not config.is_file():
        return []
    folder = config.resolve().parent
    found: list[Path] = []
    with contextlib.suppress(OSError, UnicodeError, CorralError):  # a broken one is saved alone
        document = Document(str(config), config.read_text("utf-8"), str(folder))
        found += map(Path, files_of(document, Variables.beside(str(folder), os.environ)))
    if secrets:
        found.append(folder / DOTENV)
        found += [] if secrets_file is None else [Path(secrets_file)]
    return [each for each in found if each.is_file()]


@serve(BACKUP_READ)
async def _read(control: Control, params: BackupReadParams, _caller: Caller) -> BackupPiece:
    return await control.backups.read(params.id, params.offset)


@serve(BACKUP_DISCARD)
async def _discard(control: Control, params: BackupDiscardParams, _caller: Caller) -> Done:
    control.backups.discard(params.id)
    return Done()
