"""What a worker's process is started with: its spec and the host's facts in, a Launch out.

Everything that a spec says about a process becomes a field of Launch here, and what cannot be held on this
host is refused by name. It reads the environment file and the user database, and starts nothing.
"""

import os
import pwd
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..worker.errors import SpawnFailed
from . import confinement
from .containment import Containment
from .process import Launch
from .spec import Spec


@dataclass(frozen=True)
class Host:
    """What the daemon's host gives to every process, found out once at the daemon's start.

    `environ` is the daemon's own environment, of which a spec inherits names; `sdk_path` a folder that holds
    nothing but `corral/`; `default_user` whom agents of a root daemon run as where their spec is silent;
    every isolated worker has a temporary folder of its own in `temporary_root`; `containment` is what holds
    processes, which is known once the launcher runs.
    """

    environ: Mapping[str, str]
    sdk_path: Path
    ordinary_user: bool
    default_user: str | None = None
    temporary_root: Path | None = None
    containment: Callable[[], Containment] = Containment


def launch_of(spec: Spec, host: Host, worker: str, unit: str) -> Launch:
    """How one incarnation, `unit`, of a worker is started.

    Raises:
        SpawnFailed: the spec asks for what cannot be held here, or its environment file cannot be read.
    """
    _refuse_what_is_not_there(spec)
    process = spec.process
    user = process.user or host.default_user
    is_isolated = process.isolation != "none"
    argv, env = _argv(spec), _environment(spec, host, user)
    temporary: str | None = None
    if is_isolated and host.temporary_root is not None and "TMPDIR" not in env:
        temporary = env["TMPDIR"] = confinement.temporary_of(host.temporary_root, unit)
    read_paths: Sequence[str] | None = process.read_paths
    write_paths: Sequence[str] | None = process.write_paths
    if read_paths is not None:
        sdk = confinement.sdk_folders(host.sdk_path)
        read_paths = confinement.readable(read_paths, argv, env, process.working_directory, sdk)
    if write_paths is not None:
        write_paths = confinement.writable(write_paths)
    return Launch(
        unit=unit,
        argv=argv,
        env=env,
        cwd=process.working_directory,
        umask=int(process.umask, 8),
        nice=process.nice,
        user=user,
        group=process.group,
        no_new_privs=is_isolated,
        limits=_limits(spec, host, user),
        memory_bytes=spec.resources.max_memory_bytes,
        cpu_percent=spec.resources.cpu_limit_percent,
        processes=spec.resources.max_processes,
        temporary=temporary,
        read_paths=read_paths,
        write_paths=write_paths,
        connect_ports=process.connect_ports,
        scope_signals=is_isolated and confinement.scopes_signals(),
    )


def _argv(spec: Spec) -> tuple[str, ...]:
    if spec.entrypoint is None:
        return spec.command
    return (spec.python or sys.executable, "-P", "-m", "corral.worker", spec.entrypoint)


def _environment(spec: Spec, host: Host, user: str | None) -> dict[str, str]:
    process = spec.process
    env = {name: host.environ[name] for name in process.inherit_environment if name in host.environ}
    if process.environment_file is not None:
        env |= read_environment_file(Path(process.environment_file))
    if user is not None:
        env |= _home_of(user)
    env |= spec.environment
    if spec.entrypoint is not None and spec.python is not None:
        inherited = env.get("PYTHONPATH")
        env["PYTHONPATH"] = os.pathsep.join(
            [str(host.sdk_path), *([inherited] if inherited else [])]
        )
    return env


def _limits(spec: Spec, host: Host, user: str | None) -> dict[str, int]:
    """What setrlimit(2) sets: each holds for one process, NPROC for all of its user."""
    resources = spec.resources
    limits = {"NOFILE": resources.max_file_descriptors, "CORE": 0}
    optional = {
        "CPU": resources.max_cpu_seconds,
        "FSIZE": resources.max_file_size_bytes,
        "AS": resources.max_address_space_bytes,
    }
    limits |= {name: value for name, value in optional.items() if value}
    if resources.max_processes and host.containment().processes == "rlimit":
        if _is_root(host, user):
            raise SpawnFailed(
                f"cannot hold max_processes = {resources.max_processes}: it needs a cgroup or an"
                " ordinary user, because the kernel does not count root's processes",
                limit="max_processes",
                value=resources.max_processes,
            )
        limits["NPROC"] = resources.max_processes
    return limits


def _is_root(host: Host, user: str | None) -> bool:
    if user is None:
        return not host.ordinary_user
    try:
        return (int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid) == 0
    except KeyError:
        return False  # it does not exist, which the start says


def _refuse_what_is_not_there(spec: Spec) -> None:
    """A limit that cannot be held is an error at the start, never silently dropped.

    Raises:
        SpawnFailed: with `key`.
    """
    asked: dict[str, object] = {
        "recovery.enable_checkpointing": spec.recovery.enable_checkpointing,
        "environment": next((v for v in spec.environment.values() if "${secret:" in v), None)
        and "…",
    }
    for key, value in asked.items():
        if value:
            raise SpawnFailed(f"cannot have {key}: it is not available in this version", key=key)


def _home_of(user: str) -> dict[str, str]:
    """What login(1) sets: the variables by which programs find their home. An unknown user fails later."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return {}
    return {"HOME": account.pw_dir, "USER": user, "LOGNAME": user, "SHELL": account.pw_shell}


def read_environment_file(path: Path) -> dict[str, str]:
    """The variables of a file of `NAME=value` lines; `#` begins a comment line, nothing is expanded.

    Raises:
        SpawnFailed: the file cannot be read, or a line is none of these.
    """
    found: dict[str, str] = {}
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise SpawnFailed(f'cannot read environment_file "{path}": {error}') from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise SpawnFailed(
                f'cannot read environment_file "{path}": line {number} has no NAME=value'
            )
        found[name.strip()] = value
    return found
