"""Builds virtual environments: one for each lock, interpreter and owner, shared by all versions and packages with these."""

import asyncio
import os
from pathlib import Path
from weakref import WeakValueDictionary

from msgspec import Struct

from corral.worker.contract.errors import SpawnFailed

from .folders import OF_TENANT, MarkedFolders, Owner, remove
from .runner import Place, Runner, failure
from .steps import LOCK_NAME, Tool, create, environment_key, install

VENV = "venv"
"""Folder of the environment itself, beside its lock."""


class Setting(Struct, frozen=True):
    """Holds what all commands of one installation have in common: the tool, the owner, the variables, the cache."""

    tool: Tool
    owner: Owner
    variables: dict[str, str]
    cache: Path
    readable: tuple[str, ...] = ()
    tenant: str = ""

    def place(self, folder: Path, *readable: str) -> Place:
        """Returns the place of a command that works in `folder` and fills it."""
        return Place(
            folder,
            folder,
            self.variables,
            readable=(*self.readable, *readable),
            writable=(str(folder), str(self.cache)),
        )


class Environments:
    """Builds the environments in one folder, each once."""

    def __init__(self, folders: MarkedFolders) -> None:
        self.folders = folders
        self._building = WeakValueDictionary[str, asyncio.Lock]()

    def python_of(self, key: str) -> Path:
        """Returns the interpreter of an environment."""
        return self.folders.path_of(key) / VENV / "bin" / "python"

    def key_of(self, path: str) -> str:
        """Returns the key of the environment that a path is in; "" for paths elsewhere."""
        root = str(self.folders.root) + os.sep
        return path.removeprefix(root).partition(os.sep)[0] if path.startswith(root) else ""

    async def provide(self, runner: Runner, setting: Setting, lock: str, python: str) -> str:
        """Returns the key of the environment of a lock, which is built if it is not there."""
        key = environment_key(lock, python, str(setting.owner.uid))
        if setting.tenant:
            key = f"{setting.tenant}{OF_TENANT}{key}"
        turn = self._building.setdefault(key, asyncio.Lock())
        async with turn:
            if not self.folders.is_whole(key):
                await self._build(runner, setting, key, lock, python)
        return key

    async def _build(self, runner: Runner, setting: Setting, key: str, lock: str, python: str) -> None:
        path = await asyncio.to_thread(self.folders.begin, key)
        is_built = False
        try:
            locked, venv = path / LOCK_NAME, path / VENV
            locked.write_text(lock, "utf-8")
            locked.chmod(0o644)
            venv.mkdir(mode=0o700)
            setting.owner.give(venv)  # and no more: the marker is the daemon's
            place = setting.place(venv, str(locked), os.path.dirname(python))
            steps = {"create the environment": create(setting.tool, python, str(venv))}
            if lock.strip():
                argv = install(setting.tool, str(venv), str(locked))
                steps["install the dependencies"] = argv
            for what, argv in steps.items():
                outcome = await runner.run(what, argv, place)
                if not outcome.is_success:
                    raise failure(what, runner.spec.name, outcome, SpawnFailed)
            await asyncio.to_thread(self.folders.finish, key)
            is_built = True
        finally:
            if not is_built:
                await asyncio.shield(asyncio.to_thread(remove, path))
