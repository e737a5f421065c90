"""Runs the commands of an installation as the agent's user inside its isolation, bounded in time, disk and output.

Two installers are known: uv, and pip where uv is missing. Both resolve the requirements of a package to a lock (exact
versions with their hashes), and install nothing but that lock. A command sees no environment but the one given here. Its
output goes to the log of the agent's installations; a failure has its last lines. The end of a command is the end of every
process that it started.
"""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.decoding.values import GIB, MIB
from corral.supervisor.config.spec.spec import Process, Spec
from corral.supervisor.workers.process.command import Commands, Outcome
from corral.worker.contract.errors import CorralError, ResourceLimitExceeded, SpawnFailed, Timeout
from corral.worker.contract.names import tenant_of

Argv = tuple[str, ...]

LOCK_NAME = "requirements.lock"
REPORT_NAME = "report.json"
KEY_DIGITS = 32
"""Number of hexadecimal digits of an environment's key, which is the name of its folder."""

PASSED = ("UV_*", "PIP_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "*_PROXY", "*_proxy", "npm_config_*")
"""Variables of the daemon's environment that an installation sees: indexes, their credentials, proxies, certificates."""

LENT = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "*_PROXY", "*_proxy"),
    *("UV_OFFLINE", "UV_NO_INDEX", "UV_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX"),
    *("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_INDEX_URL", "npm_config_registry"),
)
"""Variables among them that the installation of a tenant sees, where no credentials are in them."""

KEPT = ("UV_PYTHON", "UV_PROJECT*", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "PIP_TARGET")
"""Variables among them that would send an installation to another place, and do not pass."""


class Dependencies(Struct, frozen=True):
    """Holds what a package needs to be installed.

    `python` are requirements (PEP 508), `npm` names with their ranges (`left-pad@^1`), `requires_python` a specifier (PEP
    440) or "", `lock` the package's own lock or "", `install` the program of its script in the installed folder.
    `uses_python` is False where it has a command and no requirements: it gets no environment.
    """

    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    requires_python: str = ""
    lock: str = ""
    install: tuple[str, ...] = ()
    uses_python: bool = True


class Tool(Struct, frozen=True):
    """Represents an installer of Python packages: uv, or the pip of `path`, an interpreter."""

    kind: Literal["uv", "pip"]
    path: str


def environment_key(lock: str, python: str, user: str) -> str:
    """Returns the name of the environment of this lock, interpreter and owner, who can change the programs of all that share it."""
    return hashlib.sha256("\0".join((lock, python, user)).encode()).hexdigest()[:KEY_DIGITS]


def passed_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of the daemon's environment that an installation sees."""
    return {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in PASSED)
        and not any(fnmatchcase(name, pattern) for pattern in KEPT)
    }


def lent_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns those of the variables that the programs of a tenant may see: without an address that has credentials, or another secret."""
    return {
        name: value
        for name, value in variables.items()
        if any(fnmatchcase(name, pattern) for pattern in LENT) and "@" not in value
    }


def find_python(tool: Tool, specifier: str) -> Argv:
    """Returns the command that prints the path of an interpreter for a specifier (PEP 440)."""
    return (tool.path, "python", "find", "--system", "--no-python-downloads", specifier)


def resolve(tool: Tool, python: str, requirements: str, folder: str) -> Argv:
    """Returns the command that resolves the file `requirements` to a lock or a report in `folder`."""
    if tool.kind == "uv":
        options = ("--generate-hashes", "--no-header", "--no-annotate", "--quiet")
        output = ("--python", python, "--output-file", f"{folder}/{LOCK_NAME}")
        return (tool.path, "pip", "compile", *options, *output, requirements)
    options = ("--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check")
    report = ("--report", f"{folder}/{REPORT_NAME}")
    return (tool.path, "-m", "pip", "install", *options, *report, "-r", requirements)


def lock_of_report(report: str) -> str:
    """Returns the lock that pip's report of a resolution stands for."""
    lines: list[str] = []
    for each in json.loads(report)["install"]:
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        hashes = each["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise ValueError(f"{name} {version} has no sha256")
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{hashes['sha256']}\n")
    return "".join(sorted(lines))


def create(tool: Tool, python: str, environment: str) -> Argv:
    """Returns the command that creates an empty environment."""
    if tool.kind == "uv":
        return (tool.path, "venv", "--quiet", "--no-project", "--python", python, environment)
    return (python, "-m", "venv", environment)


def install(tool: Tool, environment: str, lock: str) -> Argv:
    """Returns the command that installs the file `lock` into an environment, and nothing else."""
    own = f"{environment}/bin/python"
    if tool.kind == "uv":
        options = ("--require-hashes", "--no-deps", "--python", own)
        return (tool.path, "pip", "install", *options, "-r", lock)
    quiet = ("--require-hashes", "--no-deps", "--disable-pip-version-check")
    return (own, "-m", "pip", "install", *quiet, "-r", lock)


def npm_install(npm: str, names: Sequence[str], *, locked: bool) -> Argv:
    """Returns the command that installs npm dependencies into the folder that it runs in, without running their scripts."""
    options = ("--ignore-scripts", "--no-audit", "--no-fund")
    if locked:
        return (npm, "ci", *options)
    return (npm, "install", *options, *names)


def last_lines(output: str, count: int = 12) -> str:
    """Returns the last lines of an output that are not blank."""
    return "\n".join([line.rstrip() for line in output.splitlines() if line.strip()][-count:])


LOOK_S = 0.5
"""Seconds between two measurements of what an installation takes on the disk."""

INHERITED = ("HOME", "LOGNAME", "PATH", "USER", "LANG")
PORTS = (80, 443)
"""Ports of package indexes, which an agent that may connect to some ports alone can reach while it is installed."""

LEAST_MEMORY_BYTES = 2 * GIB
LEAST_DESCRIPTORS = 4096


class Limits(Struct, frozen=True):
    """Holds the bounds of one installation, all of its commands together."""

    timeout_s: float = 600.0
    size_bytes: int = 4 * GIB
    output_bytes: int = MIB


class Place(Struct, frozen=True):
    """Describes where a command of an installation runs.

    `measured` is the folder that it fills, `environment` all that it sees beside what every process gets; the lists hold
    the paths that it may read and write, where the agent may not read and write all.
    """

    cwd: Path
    measured: Path
    environment: Mapping[str, str]
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()


def installing_spec(spec: Spec, place: Place) -> Spec:
    """Returns the spec of an agent's installation: the agent's user and isolation, with other paths and limits.

        Its environment, with secrets in it, is not for programs of strangers. Limits that suit the agent, such as its memory,
        are raised to what an installer needs, and its network is the host's: packages come from hosts that the agent need not reach.
    That of a tenant stays as it is.
    """
    process = spec.process
    read, write, ports = process.read_paths, process.write_paths, process.connect_ports
    is_of_tenant = bool(tenant_of(spec.name))
    if process.isolation == "strict" or is_of_tenant:  # without a list it sees nothing more
        read, write = read or (), write or ()
    return replace(
        spec,
        entrypoint=None,
        environment={},
        process=replace(
            process,
            working_directory=str(place.cwd),
            read_paths=None if read is None else (*read, *place.readable, *place.writable),
            write_paths=None if write is None else (*write, *place.writable),
            network=process.network if is_of_tenant else "host",
            allowed_hosts=process.allowed_hosts if is_of_tenant else (),
            connect_ports=None if ports is None else tuple(dict.fromkeys((*ports, *PORTS))),
            inherit_environment=INHERITED,
            environment_file=None,
            environment=Process().environment,
        ),
        resources=replace(
            spec.resources,
            max_memory_bytes=max(spec.resources.max_memory_bytes, LEAST_MEMORY_BYTES),
            max_file_descriptors=max(spec.resources.max_file_descriptors, LEAST_DESCRIPTORS),
            max_cpu_seconds=0,
            max_file_size_bytes=0,
            max_address_space_bytes=0,
        ),
    )


class Runner:
    """Runs the commands of one installation, one after the other; together they stay within the limits."""

    def __init__(self, commands: Commands, spec: Spec, limits: Limits, on_output: Callable[[bytes], None]) -> None:
        self.spec = spec
        self._commands = commands
        self._limits = limits
        self._deadline = asyncio.get_running_loop().time() + limits.timeout_s
        self._on_output = on_output
        self._printed = 0

    async def run(self, what: str, argv: Sequence[str], place: Place) -> Outcome:
        """Runs one command, and returns how it ended; `what` names it in errors, as "resolve the dependencies"."""
        left_s = self._deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise self._too_late(what)
        spec = installing_spec(self.spec, place)
        self._log(f"$ {' '.join(argv)}\n".encode())
        running = asyncio.ensure_future(
            self._commands.run(
                spec,
                argv,
                unit=f"{self.spec.name}.install",
                timeout_s=left_s,
                environment=place.environment,
                on_output=self._log,
            )
        )
        try:
            size_bytes = await self._watched(running, place.measured)
        finally:
            if not running.done():
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        if size_bytes > self._limits.size_bytes:
            text = f'cannot {what} of "{self.spec.name}": it takes more than {self._limits.size_bytes} bytes'
            raise ResourceLimitExceeded(text, limit=self._limits.size_bytes, value=size_bytes)
        outcome = running.result()
        if outcome.problem and asyncio.get_running_loop().time() >= self._deadline:
            raise self._too_late(what)
        if outcome.code is None and outcome.signal is None:
            text = f'cannot {what} of "{self.spec.name}": {outcome.problem}'
            raise SpawnFailed(text, agent=self.spec.name, stage=what, program=argv[0])
        return outcome

    async def _watched(self, running: asyncio.Future[Outcome], measured: Path) -> int:
        """Waits for the end of a command, or for its files to be too large; returns their last size."""
        while True:
            done, _ = await asyncio.wait({running}, timeout=LOOK_S)
            size_bytes = await asyncio.to_thread(size_of, measured, self._limits.size_bytes)
            if done or size_bytes > self._limits.size_bytes:
                return size_bytes

    def _log(self, chunk: bytes) -> None:
        room = self._limits.output_bytes - self._printed
        self._printed += len(chunk)
        if room > 0:
            self._on_output(chunk[:room])
            if len(chunk) > room:
                self._on_output(b"\n(more output is left out)\n")

    def _too_late(self, what: str) -> Timeout:
        limit_s = self._limits.timeout_s
        return Timeout(f'cannot {what} of "{self.spec.name}" within {limit_s:g} s', limit=limit_s, stage=what)


def failure(what: str, name: str, outcome: Outcome, kind: type[CorralError]) -> CorralError:
    """Returns the error of a command that ended badly, with the last lines that it printed."""
    output = last_lines(outcome.output)
    ended = outcome.problem or (f"killed by {outcome.signal}" if outcome.signal else f"exit status {outcome.code}")
    text = f'cannot {what} of "{name}": {ended}'
    if output:
        text += f": {output.splitlines()[-1].strip()}"
    return kind(text, agent=name, stage=what, code=outcome.code, output=output)


def size_of(path: Path, enough: int) -> int:
    """Returns the bytes that a folder takes on the disk; stops counting beyond `enough`. Links are not followed."""
    total = 0
    folders = [os.fspath(path)]
    while folders and total <= enough:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # removed meanwhile
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    return total
