"""Serves the methods `backup.*`: the whole state in one file."""

import asyncio
import contextlib
import os
from pathlib import Path

from corral import __version__
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.decoding.decoder import Document
from corral.supervisor.config.spec.sources import DOTENV, Variables, files_of
from corral.supervisor.records.backup.backups import Backups
from corral.supervisor.records.backup.snapshot import Source
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.schema import MIGRATIONS
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import CorralError
from corral.worker.control.backup import BackupDiscardParams, BackupMade, BackupParams, BackupPiece, BackupReadParams
from corral.worker.control.results import Done
from corral.worker.methods.backup import BACKUP_DISCARD, BACKUP_MAKE, BACKUP_READ

from ..table.caller import Caller
from ..table.handlers import serve
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
    async def _make(self, params: BackupParams, _caller: Caller) -> BackupMade:
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
    async def _read(self, params: BackupReadParams, _caller: Caller) -> BackupPiece:
        return await self._backups.read(params.id, params.offset)

    @serve(BACKUP_DISCARD)
    async def _discard(self, params: BackupDiscardParams, _caller: Caller) -> Done:
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
