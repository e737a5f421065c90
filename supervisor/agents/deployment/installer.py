"""Installs one version of a package: its files into a folder, its dependencies into an environment, its script last.

The order is: interpreter, lock, environment, files, npm, script. Whatever fails raises with the reason, and leaves nothing
behind; the environment alone stays once it is whole: all versions and packages with the same lock, interpreter and owner share it.
"""

import asyncio
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from msgspec import Struct

from corral.supervisor.config.decoding.values import MIB
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.workers.process.command import Commands
from corral.supervisor.workers.process.launch import Host, Identity
from corral.worker.contract.errors import Conflict, NotFound, SpawnFailed
from corral.worker.contract.names import tenant_of

from .folders import FILES, OF_TENANT, MarkedFolders, Owner, files_in, note_sums, remove
from .runner import (
    LOCK_NAME,
    REPORT_NAME,
    Dependencies,
    Limits,
    Place,
    Runner,
    Tool,
    create,
    environment_key,
    failure,
    find_python,
    install,
    lent_variables,
    lock_of_report,
    npm_install,
    passed_variables,
    resolve,
)

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


INSTALLED = "installed"
CACHE = "cache"
"""Folder of the installers' caches, one for each user: an environment's files are links to those there."""

REQUIREMENTS = "requirements.in"
RESOLVING = "resolving"
RESULT = "result"
MAX_LOCK_BYTES = 8 * MIB

Floor = Callable[[Spec], tuple[Spec, Identity | None]]
"""Returns the spec with which what is a tenant's is run, and its identity where its user is a number alone; may block."""

Unpack = Callable[[Path], None]
"""Writes the files of a package, which were verified, into a folder."""


class Installation(Struct, frozen=True):
    """Describes an installed version: `environment` and `python` are "" where it needs no Python of its own."""

    folder: str
    lock: str = ""
    base: str = ""
    environment: str = ""
    python: str = ""


class Installer:
    """Installs packages in the state folder of one daemon."""

    def __init__(
        self, commands: Commands, host: Host, floor: Floor, logs: LogStore, state_dir: Path, tool: Tool | None = None
    ) -> None:
        self.installed = MarkedFolders(state_dir / INSTALLED)
        self.environments = Environments(MarkedFolders(state_dir / "environments"))
        self._cache = state_dir / CACHE
        self._commands = commands
        self._host = host
        self._floor = floor
        self._logs = logs
        self._tool = tool or tool_of(host.environ)
        self._numbers = itertools.count(1)

    def prepare(self) -> list[Path]:
        """Makes the folders, and returns what an earlier daemon did not finish, set aside."""
        self.installed.prepare()
        self.environments.folders.prepare()
        MarkedFolders(self._cache).prepare()
        return [*self.installed.set_aside(), *self.environments.folders.set_aside()]

    def files_of(self, name: str) -> Path:
        """Returns the folder of the files of an installed version, in which it works."""
        return self.installed.path_of(name) / FILES

    async def install(
        self,
        spec: Spec,
        dependencies: Dependencies,
        unpack: Unpack,
        name: str,
        limits: Limits,
        on_step: Callable[[str], None],
    ) -> Installation:
        """Installs a version as `name`; `on_step` is told what is done next, as "resolve"."""
        writer = self._logs.writer(spec.name, f"{spec.name}-install", LogLimits.of(spec.monitoring))
        stream = writer.stream("stdout")
        try:
            runner = Runner(self._commands, spec, limits, stream.write)
            setting = await asyncio.to_thread(self._setting, spec)
            found = Installation(str(self.files_of(name)))
            if dependencies.uses_python:
                found = await self._provide_python(runner, setting, dependencies, found, on_step)
            await self._provide_files(runner, setting, dependencies, unpack, name, found, on_step)
            return found
        finally:
            stream.flush()
            self._logs.release(writer)

    def _setting(self, spec: Spec) -> Setting:
        owner, tenant = Owner.of(*self._floor(spec), self._host.default_user), tenant_of(spec.name)
        cache = self._cache / (f"{tenant}{OF_TENANT}{owner.uid}" if tenant else str(owner.uid))
        if not cache.is_dir():
            cache.mkdir(mode=0o700)
            owner.give(cache)
        environ = passed_variables(self._host.environ)
        if tenant:
            environ = lent_variables(environ)
        caches = {
            "UV_CACHE_DIR": str(cache / "uv"),
            "PIP_CACHE_DIR": str(cache / "pip"),
            "npm_config_cache": str(cache / "npm"),
        }
        folders = environ.get("UV_FIND_LINKS", "").replace(",", " ").split()
        readable = (*folders, *environ.get("PIP_FIND_LINKS", "").split())
        return Setting(self._tool, owner, caches | environ, cache, readable, tenant)

    async def _provide_python(
        self,
        runner: Runner,
        setting: Setting,
        dependencies: Dependencies,
        found: Installation,
        on_step: Callable[[str], None],
    ) -> Installation:
        on_step("resolve")
        scratch = await asyncio.to_thread(self.environments.folders.begin, f"{RESOLVING}-{next(self._numbers)}")
        try:
            wanted, result = scratch / REQUIREMENTS, scratch / RESULT
            wanted.write_text("".join(f"{each}\n" for each in dependencies.python), "utf-8")
            wanted.chmod(0o644)
            result.mkdir(mode=0o700)
            setting.owner.give(result)
            place = setting.place(result, str(wanted))
            base = await self._interpreter(runner, setting, dependencies.requires_python, place)
            lock = dependencies.lock
            if not lock and dependencies.python:
                lock = await self._resolved(runner, setting, base, wanted, result)
        finally:
            await asyncio.shield(asyncio.to_thread(remove, scratch))
        on_step("install")
        key = await self.environments.provide(runner, setting, lock, base)
        return Installation(found.folder, lock, base, key, str(self.environments.python_of(key)))

    async def _interpreter(self, runner: Runner, setting: Setting, specifier: str, place: Place) -> str:
        """Returns the path of an interpreter that a specifier allows: the daemon's own where it fits."""
        own = os.path.realpath(sys.executable)
        version = ".".join(map(str, sys.version_info[:3]))
        if not specifier or satisfies(version, specifier):
            return own
        what = f"find Python {specifier}"
        if setting.tool.kind == "uv":
            outcome = await runner.run(what, find_python(setting.tool, specifier), place)
            path = (outcome.output.strip().splitlines() or [""])[-1].strip()
            if outcome.is_success and path.startswith("/"):
                return os.path.realpath(path)
        text = f'cannot {what} for "{runner.spec.name}": there is none here; this daemon runs on {version}'
        raise NotFound(text, agent=runner.spec.name, python=specifier, own=version)

    async def _resolved(self, runner: Runner, setting: Setting, base: str, wanted: Path, result: Path) -> str:
        what = "resolve the dependencies"
        argv = resolve(setting.tool, base, str(wanted), str(result))
        outcome = await runner.run(what, argv, setting.place(result, str(wanted), os.path.dirname(base)))
        if not outcome.is_success:
            raise failure(what, runner.spec.name, outcome, Conflict)
        try:
            if setting.tool.kind == "uv":
                return _read(result / LOCK_NAME)
            return lock_of_report(_read(result / REPORT_NAME))
        except (OSError, ValueError, KeyError) as error:
            text = f'cannot {what} of "{runner.spec.name}": {error}'
            raise Conflict(text, agent=runner.spec.name, stage=what) from error

    async def _provide_files(
        self,
        runner: Runner,
        setting: Setting,
        dependencies: Dependencies,
        unpack: Unpack,
        name: str,
        found: Installation,
        on_step: Callable[[str], None],
    ) -> None:
        on_step("unpack")
        root = await asyncio.to_thread(self.installed.begin, name)
        files = root / FILES
        is_whole = False
        try:
            files.mkdir(mode=0o700)
            await asyncio.to_thread(unpack, files)
            names = await asyncio.to_thread(files_in, files)
            await asyncio.to_thread(setting.owner.give_tree, files)
            steps = self._own_steps(runner, dependencies, files)
            place = _with_environment(setting.place(files, *_above(found.python)), found.python)
            for what, argv in steps.items():
                on_step(what)
                outcome = await runner.run(what, argv, place)
                if not outcome.is_success:
                    raise failure(what, runner.spec.name, outcome, SpawnFailed)
            await asyncio.to_thread(setting.owner.take_tree, files)
            await asyncio.to_thread(note_sums, root, names)
            await asyncio.to_thread(self.installed.finish, name)
            is_whole = True
        finally:
            if not is_whole:
                await asyncio.shield(asyncio.to_thread(remove, root))

    def _own_steps(self, runner: Runner, dependencies: Dependencies, files: Path) -> dict[str, tuple[str, ...]]:
        steps: dict[str, tuple[str, ...]] = {}
        if dependencies.npm:
            npm = shutil.which("npm", path=self._host.environ.get("PATH"))
            if npm is None:
                name = runner.spec.name
                text = f'cannot install the npm dependencies of "{name}": npm is not in PATH; install Node.js'
                raise NotFound(text, agent=name, program="npm")
            locked = (files / "package-lock.json").is_file()
            steps["install the npm dependencies"] = npm_install(npm, dependencies.npm, locked=locked)
        if dependencies.install:
            steps["run the install script"] = dependencies.install
        return steps


def satisfies(version: str, specifier: str) -> bool:
    """Returns whether a version of Python is one that a specifier (PEP 440) allows."""
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415  # only who deploys pays

    return SpecifierSet(specifier).contains(version, prereleases=True)


def tool_of(environ: Mapping[str, str]) -> Tool:
    """Returns uv, from its Python package or PATH; pip of this interpreter where it is missing."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    path = beside if os.access(beside, os.X_OK) else shutil.which("uv", path=environ.get("PATH"))
    return Tool("pip", sys.executable) if path is None else Tool("uv", path)


def _read(path: Path) -> str:
    """Reads a file that a command of another user has written, and nothing that it links to."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        text = file.read(MAX_LOCK_BYTES + 1)
    if len(text) > MAX_LOCK_BYTES:
        raise ValueError(f"the lock takes more than {MAX_LOCK_BYTES} bytes")
    return text.decode("utf-8")


def _above(python: str) -> tuple[str, ...]:
    return (os.path.dirname(os.path.dirname(python)),) if python else ()


def _with_environment(place: Place, python: str) -> Place:
    if not python:
        return place
    programs = os.path.dirname(python)
    path = os.pathsep.join((programs, os.environ.get("PATH", os.defpath)))
    variables = {"PATH": path, "VIRTUAL_ENV": os.path.dirname(programs)}
    return Place(place.cwd, place.measured, {**place.environment, **variables}, place.readable, place.writable)
