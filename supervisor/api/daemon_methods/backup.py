"""Serves `backup.*`, the whole state in one file, and `daemon.export` and `daemon.import`, the running set as TOML."""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from corral import __version__
from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.decoding.decoder import STORE, Document
from corral.supervisor.config.spec.job import Schedule, commands_of, decode_schedule
from corral.supervisor.config.spec.sources import DOTENV, Variables, expanded, files_of
from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.config.spec.template_spec import Template
from corral.supervisor.records.backup.backups import Backups
from corral.supervisor.records.backup.export import FileTables, export
from corral.supervisor.records.backup.snapshot import Source
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.schema import MIGRATIONS
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.workflows.schedules import Schedules as ScheduleTable
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound
from corral.worker.contract.records import ScheduleRecord, copied
from corral.worker.control import backup as shapes
from corral.worker.control.params import ScheduleParams
from corral.worker.control.results import Done
from corral.worker.methods.daemon import BACKUP_DISCARD, BACKUP_MAKE, BACKUP_READ, DAEMON_EXPORT, DAEMON_IMPORT

from ..table.handlers import Caller, error_records, made_by, serve
from ..table.status import DaemonFacts


class BackupMethods:
    """Serves the methods `backup.*`."""

    def __init__(self, backups: Backups, daemon: DaemonFacts, agents: Agents, store: Store, bus: Bus) -> None:
        self._backups = backups
        self._daemon = daemon
        self._agents = agents
        self._store = store
        self._bus = bus

    @serve(BACKUP_MAKE)
    async def _make(self, params: shapes.BackupParams, _caller: Caller) -> shapes.BackupMade:
        store = self._store
        config = None if self._daemon.config is None else Path(self._daemon.config)
        secrets_file = self._agents.config.daemon.secrets_file
        # This commit has all that was posted before, which then is in the copy as well.
        await store.write(("DELETE FROM meta WHERE key = 'no such key'", ()))
        source = Source(
            state_dir=Path(self._daemon.state_dir),
            config=config,
            others=await asyncio.to_thread(_config_files, config, secrets_file, params.secrets),
            version=__version__,
            store_version=len(MIGRATIONS),
            generation=self._store.generation,
            logs=params.logs,
            secrets=params.secrets,
        )
        made = await self._backups.make(source)
        self._bus.publish(
            "daemon.backed_up",
            size_bytes=made.size,
            files=made.files,
            logs=params.logs,
            secrets=params.secrets,
            duration_s=made.duration_s,
        )
        return made

    @serve(BACKUP_READ)
    async def _read(self, params: shapes.BackupReadParams, _caller: Caller) -> shapes.BackupPiece:
        return await self._backups.read(params.id, params.offset)

    @serve(BACKUP_DISCARD)
    async def _discard(self, params: shapes.BackupDiscardParams, _caller: Caller) -> Done:
        self._backups.discard(params.id)
        return Done()


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


class _Added:
    def __init__(self, agents: Agents, schedules: ScheduleTable) -> None:
        self.names: list[str] = []
        self.schedules: list[str] = []
        self._agents = agents
        self._schedules = schedules

    async def undo(self) -> None:
        """Removes all of it, the last first."""
        for name in reversed(self.schedules):
            await self._schedules.remove(name)
        if self.names:
            await self._agents.membership.remove(self.names)


class TransferMethods:
    """Serves the methods that export and import the running set."""

    def __init__(self, agents: Agents, schedules: ScheduleTable) -> None:
        self._agents = agents
        self._schedules = schedules

    @serve(DAEMON_EXPORT)
    async def _export(self, params: shapes.ExportParams, caller: Caller) -> shapes.Exported:
        agents, groups = self._agents.agents, self._agents.groups.by_name
        schedules = self._schedules.list()
        wanted = self._wanted(params, schedules)
        chosen = [each for each in schedules if wanted is None or {each.name, each.task.agent} & wanted]
        jobs = {each.name for each in chosen if each.command is not None}
        specs = [each.spec for each in agents.values()]
        found = export(
            [each for each in specs if wanted is None or each.name in wanted | jobs],
            [each for each in groups.values() if wanted is None or each.name in wanted],
            chosen,
            _file_tables(self._agents.config, None if wanted is None else [e for e in specs if e.name in wanted]),
            shows_values=caller.permission == "admin",
        )
        return shapes.Exported(toml=found.toml, names=found.names, secrets=found.secrets, hidden=found.hidden)

    def _wanted(self, params: shapes.ExportParams, schedules: Sequence[ScheduleRecord]) -> set[str] | None:
        if params.names is None and params.selector is None:
            return None
        extra = [each.name for each in schedules]
        names = self._agents.registry.chosen(params.names or [], params.selector, groups=True, extra=extra)
        known = {*self._agents.agents, *self._agents.groups.by_name, *extra}
        for name in names:
            if name not in known:
                words = f'cannot export "{name}": there is no agent, server, team, workflow or schedule of this name'
                raise NotFound(words, name=name, known=sorted(known))
        return set(names)

    @serve(DAEMON_IMPORT)
    async def _import(self, params: shapes.ImportParams, caller: Caller) -> shapes.Imported:
        if not any((params.agents, params.teams, params.workflows, params.schedules)):
            raise InvalidParams("cannot import: there is no table", key="agents", value=None)
        schedules, jobs = _read_schedules(params)
        additions = [
            Addition(each.name, each.kind, each.spec, each.directory or "/", each.environment) for each in params.agents
        ]
        added, cause = _Added(self._agents, self._schedules), Cause("add", made_by(caller))
        try:
            if additions or jobs:
                names = [each.name for each in (*additions, *jobs)]
                await self._agents.membership.add([*additions, *jobs], start=False, wait=False, cause=cause)
                added.names += names
            for kind, tables in (("team", params.teams), ("workflow", params.workflows)):
                if tables:
                    expanded_tables = _expanded(params, f"{kind}s", tables) if kind == "team" else tables
                    await self._agents.groups.add(kind, expanded_tables, cause)
                    added.names += tables
            for each in schedules.values():
                record = await self._schedules.add(
                    ScheduleParams(every_s=each.every, **copied(each, "task name cron timezone catch_up overlap at")),
                    command=list(each.command) or None,
                )
                added.schedules.append(record.name)
        except BaseException:
            await asyncio.shield(added.undo())
            raise
        failures: dict[str, CorralError] = {}
        if params.start:
            failures = await self._start([each.name for each in additions], wait=params.wait)
        return shapes.Imported(
            agents=[each.name for each in additions],
            teams=list(params.teams),
            workflows=list(params.workflows),
            schedules=added.schedules,
            failures=error_records(failures),
        )

    async def _start(self, names: Sequence[str], *, wait: bool) -> dict[str, CorralError]:
        failures: dict[str, CorralError] = {}

        async def start(name: str) -> None:
            try:
                await self._agents.operations.start(self._agents.supervisors(name), wait=wait)
            except CorralError as error:
                failures[name] = error

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(start(name))
        return failures


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


def _expanded(
    params: shapes.ImportParams, section: str, tables: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, object]]:
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


def _read_schedules(params: shapes.ImportParams) -> tuple[dict[str, Schedule], list[Addition]]:
    """Returns the schedules of a call, and the jobs of their commands."""
    tables = _expanded(params, "schedules", params.schedules)
    document = Document(STORE, "", params.directory or "/")
    found: dict[str, Schedule] = {}
    for name, table in tables.items():
        with document.collecting():
            found[name] = decode_schedule(document, name, table)
    document.check()
    directory = params.directory or "/"
    return found, [Addition(n, "agent", table, directory) for n, table in commands_of(tables).items()]
