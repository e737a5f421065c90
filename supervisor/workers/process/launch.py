"""Computes the Launch of a worker's process from its spec and the facts of the host.

Every key of a spec that concerns a process becomes a field of Launch here; a key that this host cannot enforce is refused
by name. It reads secrets, the environment file and the user database, and starts nothing.
"""

import asyncio
import errno
import os
import pwd
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from corral.supervisor.config.declared.stores import variable_of
from corral.supervisor.config.secrets.secrets import Secrets, is_reference, read_text
from corral.supervisor.config.spec.spec import Process, Spec
from corral.supervisor.machine.isolation import availability
from corral.supervisor.machine.isolation.bubblewrap import joining, wrapped
from corral.supervisor.machine.isolation.levels import PROXY_PORT, Facts, Sandbox
from corral.supervisor.machine.isolation.mounts import visible
from corral.supervisor.machine.launcher.child_setup import Refused, identity_of
from corral.worker.contract.errors import SpawnFailed
from corral.worker.contract.names import tenant_of

from ..containers.launching import Unheld, contained
from . import sandbox
from .containment import Containment
from .instance_spec import instance_of, varies_at_import
from .parent import Launch

URL, HEADERS = "CORRAL_MCP_URL", "CORRAL_MCP_HEADERS"
"""The variables that pass the address and the headers (a JSON object) to the process of a remote server."""

TOKENS = "CORRAL_MCP_TOKENS"
"""The variable that tells the process of a remote server that the daemon answers its requests for access tokens."""

TRANSPORT = "CORRAL_MCP_TRANSPORT"
"""The variable that tells it that the server has the transport of 2024-11-05 alone: "sse"."""

WEBHOOK = "CORRAL_WEBHOOK_"
"""The beginning of the variables that pass the same, the method and the signing key to the process of a webhook."""

ACP = "CORRAL_ACP_"
"""The beginning of the variables that pass the permissions of an ACP agent to the process that translates for it."""

INSTANCE = "CORRAL_INSTANCE"
"""The variable that holds the number of a worker in its agent, from 0."""

HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
PORTS = {"http": 80, "https": 443}


Identity = tuple[int, int, Sequence[int]]
"""uid, gid and supplementary groups."""

TenantLimits = tuple[int, int, int]
"""Bytes of memory, percent of one core and number of processes of all workers of a tenant together; 0 is no limit."""


class Order(NamedTuple):
    """Describes a process that is to be started; a launch step returns it with what its room has to say about it.

    `unit` is one incarnation of a worker, or a program beside it. `identity` is that of a user who is a number alone,
    `variables` come on top of the spec's own, `model_port` is the port for calls of models, 0 for none. `tenant_limits` is
    None for what is not a tenant's.
    """

    spec: Spec
    unit: str
    identity: Identity | None = None
    variables: Mapping[str, str] = {}
    model_port: int = 0
    tenant_limits: TenantLimits | None = None


LaunchStep = Callable[[Order], Awaitable[Order]]


@dataclass(frozen=True)
class Host:
    """Holds the facts of the host that apply to every process, determined once at the daemon's start.

    `environ` is the daemon's own environment, from which a spec inherits names; `sdk_path` a folder that holds nothing but
    `corral/`; `default_user` the user for agents of a root daemon whose spec names none; every isolated worker has a
    temporary folder of its own in `temporary_root`; `containment` is known once the launcher runs; `socket` is the path of
    the control socket. `containers_root` has the folders of containers, and `state` is the mark in their names.
    `steps` are taken before each launch, in their order.
    """

    environ: Mapping[str, str]
    sdk_path: Path
    ordinary_user: bool
    default_user: str | None = None
    temporary_root: Path | None = None
    containment: Callable[[], Containment] = Containment
    secrets: Secrets = field(default_factory=Secrets)
    socket: Path | None = None
    containers_root: Path = Path("/nonexistent")
    state: str = ""
    steps: list[LaunchStep] = field(default_factory=list[LaunchStep])

    def before_launch(self, step: LaunchStep) -> None:
        """Takes one more step before each launch."""
        self.steps.append(step)


async def prepare(spec: Spec, host: Host, unit: str) -> Launch:
    """Takes the launch steps, and computes as `launch_of` does, in a thread where a disk or a user database may be slow."""
    return await _prepare(Order(spec, unit), host)


def inside(launch: Launch, sandbox: Sandbox, unit: str) -> Launch:
    """Returns the Launch of another program in the sandbox of a living unit, from the Launch of its own.

    It sees the processes of that unit alone, and may signal them, as they may each other.
    """
    env, joined = joining(sandbox, unit)
    return msgspec.structs.replace(launch, env=env, temporary=None, scope_signals=False, sandbox=joined)


async def prepare_zygote(spec: Spec, host: Host, unit: str, *, anew: bool = False) -> Launch:
    """Computes the Launch of an agent's zygote: that of a worker, with another program.

    `anew` is true if sources may have changed a moment ago.
    """
    asked = {"entrypoint": spec.entrypoint, "preload": spec.preload, "anew": anew}
    argv = _module(spec, "zygote.program", msgspec.json.encode(asked).decode())
    launch = await _prepare(Order(spec, unit), host, argv)
    # A zygote uses processor time for all workers and over days: each fork gets this limit by itself.
    limits = {name: value for name, value in launch.limits.items() if name != "CPU"}
    return msgspec.structs.replace(launch, limits=limits)


def why_cold(spec: Spec) -> str | None:
    """Returns why the spec of an agent with an entrypoint rules out forks; None if it allows them."""
    if not spec.warm:
        return "warm = false"
    if tenant_of(spec.name):
        return "a tenant's agent may read its own folder alone, where a zygote would not see its workers in /proc"
    if spec.placement is not None:
        return "placement ends each worker with the lease of its node"
    if varies_at_import(spec):
        return "its environment has ${instance} or ${port:N}, which imports could not share"
    if spec.models:
        return "models gives each worker a key of its own, which clients read when they are imported"
    if spec.listen:
        return "listen hands each worker descriptors at its exec"
    if spec.process.isolation in ("strict", "container"):
        return f'isolation = "{spec.process.isolation}" gives each worker namespaces of its own'
    if spec.process.read_paths is not None:
        # Landlock cannot be widened again: a zygote that sees its children in /proc shows the agent all processes.
        return "read_paths keeps a zygote from seeing its workers in /proc"
    return None


async def _prepare(order: Order, host: Host, argv: Sequence[str] | None = None) -> Launch:
    for step in host.steps:
        order = await step(order)
    spec, process = order.spec, order.spec.process
    may_take_long = (
        (process.user or process.group or host.default_user) is not None
        or process.read_paths is not None
        or process.isolation in ("strict", "container")
        or process.environment_file is not None
        or any(map(is_reference, spec.expandable))
    )
    if may_take_long:
        launch = await asyncio.to_thread(launch_of, order, host, argv)
    else:
        launch = launch_of(order, host, argv)
    if order.tenant_limits is None:
        return launch
    env = {name: value for name, value in launch.env.items() if name != "CORRAL_SOCKET"}
    scoped = launch.scope_signals  # the same version of Landlock holds both
    if launch.container is not None and os.getuid() == 0:  # else it costs no_new_privs
        scoped = sandbox.scopes_signals()
    return msgspec.structs.replace(launch, env=env, scope_signals=scoped, scope_sockets=scoped)


def has_own_network(process: Process) -> bool:
    """Returns whether a process has a network of its own, from which the machine's loopback is not reached."""
    return process.isolation == "strict" and process.network != "host"


def launch_of(order: Order, host: Host, argv: Sequence[str] | None = None) -> Launch:
    """Computes the Launch of what is ordered; `argv` replaces the program of the spec."""
    spec, unit = order.spec, order.unit
    process = spec.process
    user = process.user or host.default_user
    is_isolated = process.isolation != "none"
    argv = _argv(spec) if argv is None else argv
    env = {**_own(spec, host, unit), **order.variables, **_environment(spec, host, user)}
    temporary: str | None = None
    if is_isolated and host.temporary_root is not None and "TMPDIR" not in env:
        temporary = env["TMPDIR"] = sandbox.temporary_of(host.temporary_root, unit)
    read_paths: Sequence[str] | None = process.read_paths
    write_paths: Sequence[str] | None = process.write_paths
    if read_paths is not None:
        read_paths = _readable(spec, read_paths, argv, env, sandbox.sdk_folders(host.sdk_path))
    if write_paths is not None:
        write_paths = sandbox.writable(write_paths)
    launch = Launch(
        unit=unit,
        argv=argv,
        env=env,
        cwd=process.working_directory,
        umask=int(process.umask, 8),
        nice=process.nice,
        user=user,
        group=process.group,
        identity=order.identity or _identity(user, process.group),
        no_new_privs=is_isolated,
        limits=_limits(spec, host, user),
        memory_bytes=spec.resources.max_memory_bytes,
        cpu_percent=spec.resources.cpu_limit_percent,
        processes=spec.resources.max_processes,
        tenant_limits=order.tenant_limits,
        temporary=temporary,
        read_paths=read_paths,
        write_paths=write_paths,
        connect_ports=_connect_ports(spec, order.model_port),
        scope_signals=is_isolated and sandbox.scopes_signals(),
        scope_limits=is_isolated and sandbox.scopes_limits(),
    )
    if process.isolation == "container":
        return _contained(launch, spec, host)
    if process.isolation != "strict":
        return launch
    return _strict(launch, spec, host, has_models=bool(order.model_port))


def _contained(launch: Launch, spec: Spec, host: Host) -> Launch:
    """Returns the Launch of the monitor of a container, which runs the program of another Launch.

    The monitor and its engine run as the daemon, the program inside as the user of the spec.
    """
    if spec.protocol == "acp":
        why = 'isolation "container" with protocol "acp": its command may run the engine itself'
        raise _cannot_hold(spec, "isolation", why)
    if launch.identity is None and (launch.user, launch.group) != (None, None):
        try:  # it must not be root in place of a user who is not there
            identity_of(launch.user, launch.group)
        except Refused as refused:
            raise _cannot_hold(spec, "user", f"user: {refused}") from None
    try:
        found = contained(
            spec,
            unit=launch.unit,
            argv=launch.argv,
            env=launch.env,
            limits=launch.limits,
            identity=launch.identity or (os.getuid(), os.getgid(), ()),
            sdk=[str(host.sdk_path), *sandbox.sdk_folders(host.sdk_path)],
            socket=None if host.socket is None else str(host.socket),
            root=host.containers_root,
            state=host.state,
            environ=host.environ,
        )
    except Unheld as unheld:
        raise _cannot_hold(spec, unheld.key, str(unheld)) from None
    return msgspec.structs.replace(
        launch,
        argv=found.argv,
        env=found.env,
        cwd="/",
        umask=0o022,  # of the folders in which an engine mounts; the program has its own
        user=None,
        group=None,
        identity=None,
        no_new_privs=False,  # an engine of an ordinary user needs newuidmap; the program inside gains none
        limits={"CORE": 0},
        temporary=None,
        read_paths=None,
        write_paths=None,
        scope_signals=False,
        scope_limits=False,
        container=found.folder,
    )


def _strict(launch: Launch, spec: Spec, host: Host, *, has_models: bool) -> Launch:
    """Returns the Launch of a program inside bubblewrap, whose mounts take the place of Landlock's paths."""
    process, env = spec.process, dict(launch.env)
    for key, paths in (("read_paths", process.read_paths), ("write_paths", process.write_paths)):
        for path in paths or ():
            if not path.startswith("-") and not os.path.lexists(path):
                raise _cannot_hold(spec, key, f'{key} "{path}": it does not exist', errno.ENOENT)
    try:
        bwrap = availability.bubblewrap(host.environ)
        program_filter = availability.strict_filter()
    except availability.Missing as missing:
        raise _cannot_hold(spec, "isolation", f'isolation "strict": {missing}') from None
    reachable: list[str] = []
    if spec.control == "none":
        env.pop("CORRAL_SOCKET", None)
    elif host.socket is not None:
        reachable.append(f"-{host.socket}")
    sdk = sandbox.sdk_folders(host.sdk_path)
    needed = _readable(spec, process.read_paths or (), launch.argv, env, sdk)
    for argv in _programs(spec, launch.argv):
        needed += sandbox.named(argv, env, launch.cwd)
    mounted = visible([*needed, *reachable, f"-{launch.cwd}", f"-{host.sdk_path}"])
    facts = Facts(
        unit=launch.unit,
        argv=tuple(launch.argv),
        env=env,
        cwd=launch.cwd,
        mounts=(*mounted, *visible(process.write_paths or (), is_writable=True)),
        hidden=() if host.temporary_root is None else (str(host.temporary_root.parent),),
        temporary=launch.temporary,
        network=process.network,
        agent=spec.name,
        hosts=process.allowed_hosts,
        has_models=has_models,
        memory_bytes=launch.memory_bytes,
    )
    ports = launch.connect_ports
    if ports is not None and process.network == "proxy":
        ports = (*ports, PROXY_PORT)
    found = wrapped(facts, bwrap=bwrap, filter_hex=program_filter)
    return msgspec.structs.replace(
        launch,
        argv=found.argv,
        env=found.env,
        sandbox=found.sandbox,
        connect_ports=ports,
        scope_sockets=launch.scope_signals,  # the same version of Landlock holds both
        read_paths=None,
        write_paths=None,
    )


def _cannot_hold(spec: Spec, key: str, why: str, number: int = errno.EOPNOTSUPP) -> SpawnFailed:
    return SpawnFailed(
        f'cannot start "{spec.name}": cannot hold {why}',
        result="exec-failed",
        agent=spec.name,
        key=f"process.{key}",
        errno=number,
        retryable=False,
    )


def with_sockets(launch: Launch, names: Sequence[str]) -> Launch:
    """Returns the Launch of a process that inherits listening sockets of these names, as sd_listen_fds(3) has it.

    LISTEN_PID is added by the parent, in the new process.
    """
    env = {**launch.env, "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
    return msgspec.structs.replace(launch, env=env, sockets=len(names))


def secret_problems(specs: Iterable[Spec], secrets: Secrets) -> list[str]:
    """Returns one line for each value of the specs that names an unavailable secret."""
    return [
        problem
        for spec in specs
        if not spec.disabled
        for what, values in (
            ("variable", spec.environment),
            ("header", spec.headers),
            ("store", spec.store_urls),
            ("oauth", spec.oauth_secrets),
            ("key", {"webhook_secret": spec.webhook_secret}),
        )
        for problem in secrets.problems(values, spec.name, what)
    ]


def _argv(spec: Spec) -> tuple[str, ...]:
    if _is_remote(spec):
        modules = {"webhook": "worker.webhook", "a2a": "worker.a2a"}
        module = modules.get(spec.protocol, "mcp.upstream.http_bridge")
        return (sys.executable, "-P", "-m", f"corral.{module}")
    if spec.protocol == "acp":
        return (sys.executable, "-P", "-m", "corral.worker.acp", *spec.command)
    if spec.entrypoint is None:
        return spec.command
    return _module(spec, "", spec.entrypoint)


def _programs(spec: Spec, argv: Sequence[str]) -> list[Sequence[str]]:
    """Returns the command lines whose files a worker needs: its own, and that of an ACP agent, which it starts."""
    return [argv, spec.command] if spec.protocol == "acp" else [argv]


def _readable(
    spec: Spec, paths: Sequence[str], argv: Sequence[str], env: Mapping[str, str], sdk: Sequence[str]
) -> list[str]:
    found = list(paths)
    for program in _programs(spec, argv):
        found = sandbox.readable(found, program, env, spec.process.working_directory, sdk)
    return list(dict.fromkeys(found))


def _acp_variables(spec: Spec) -> dict[str, str]:
    """Returns the variables that tell the worker of an ACP agent what the agent may do."""
    policy = {"default": spec.permissions, "rules": spec.permission_rules, "timeout_s": spec.permission_timeout}
    found = {f"{ACP}PERMISSIONS": msgspec.json.encode(policy).decode(), f"{ACP}TOOLS": "0" if spec.tools == () else "1"}
    return found if spec.auth_method is None else {**found, f"{ACP}AUTH_METHOD": spec.auth_method}


def _module(spec: Spec, name: str, argument: str) -> tuple[str, ...]:
    """Returns the command that runs a module of corral.worker by the interpreter of the agent."""
    module = f"corral.worker.{name}" if name else "corral.worker"
    return (spec.python or sys.executable, "-P", "-m", module, argument)


def _is_remote(spec: Spec) -> bool:
    """Returns True if the process is corral's own, which speaks HTTP to a server or service, not a command of its health checks."""
    return spec.url is not None and not spec.command


def _own(spec: Spec, host: Host, unit: str) -> dict[str, str]:
    """Returns the variables that corral sets for every process of a worker; the spec may set each differently."""
    env = {"CORRAL_AGENT": spec.name, "PYTHONUNBUFFERED": "1"}
    if host.socket is not None:
        env["CORRAL_SOCKET"] = str(host.socket)
    instance = instance_of(unit)
    if instance is not None:
        env[INSTANCE] = str(instance)
    return env


def _environment(spec: Spec, host: Host, user: str | None) -> dict[str, str]:
    process = spec.process
    env = {name: host.environ[name] for name in process.inherit_environment if name in host.environ}
    if process.environment_file is not None:
        env |= read_environment_file(Path(process.environment_file))
    if user is not None:
        env |= _home_of(user)
    for name, url in host.secrets.expand(spec.store_urls, spec.name, "store").items():
        env[variable_of(name)] = url
    env |= host.secrets.expand(spec.environment, spec.name, "variable")
    if _is_remote(spec):
        env |= _remote_variables(spec, host)
    if spec.protocol == "acp":
        env |= _acp_variables(spec)
    if spec.entrypoint is not None and spec.python is not None:
        inherited = env.get("PYTHONPATH")
        env["PYTHONPATH"] = os.pathsep.join([str(host.sdk_path), *([inherited] if inherited else [])])
    if spec.entrypoint is not None and spec.resources.max_file_size_bytes:
        # Bytecode that the limit truncates would be loaded by every later worker.
        env.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    return env


def _remote_variables(spec: Spec, host: Host) -> dict[str, str]:
    """Returns the variables that say where a remote server, a webhook or an agent of A2A is, and with which credentials."""
    assert spec.url is not None, "what is remote has one"
    if spec.protocol == "a2a":
        return {f"{WEBHOOK}URL": spec.url, f"{WEBHOOK}HEADERS": _headers(spec, host)}
    if spec.protocol != "webhook":
        more = {TOKENS: "1"} if spec.asks_tokens else {}
        if spec.type == "sse":
            more[TRANSPORT] = spec.type
        return {URL: spec.url, HEADERS: _headers(spec, host), **more}
    key = {"webhook_secret": spec.webhook_secret}
    return {
        f"{WEBHOOK}URL": spec.url,
        f"{WEBHOOK}METHOD": spec.method,
        f"{WEBHOOK}HEADERS": _headers(spec, host),
        f"{WEBHOOK}SECRET": host.secrets.expand(key, spec.name, "key")["webhook_secret"],
    }


def _connect_ports(spec: Spec, model_port: int) -> tuple[int, ...] | None:
    """Returns the ports that the process may connect to; that of its models, a remote server or a webhook is always included."""
    ports = spec.process.connect_ports
    if ports is not None and model_port:
        ports = (*ports, model_port)
    if ports is None or not _is_remote(spec):
        return ports
    address = urlsplit(spec.url or "")
    own = address.port or PORTS[address.scheme]
    return ports if own in ports else (*ports, own)


def _headers(spec: Spec, host: Host) -> str:
    headers = host.secrets.expand(spec.headers, spec.name, "header")
    for name, value in headers.items():
        if not HEADER_VALUE.fullmatch(value):
            raise SpawnFailed(
                f'cannot send header "{name}" of "{spec.name}": with its secret it is not one line of'
                " printable ASCII characters",
                agent=spec.name,
                header=name,
            )
    return msgspec.json.encode(headers).decode()


def _limits(spec: Spec, host: Host, user: str | None) -> dict[str, int]:
    """Returns the limits for setrlimit(2): each applies to one process, NPROC to all of its user."""
    resources = spec.resources
    limits = {"NOFILE": resources.max_file_descriptors, "CORE": resources.max_core_dump_bytes}
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
        return False  # it does not exist, which the start reports


def _identity(user: str | None, group: str | None) -> tuple[int, int, Sequence[int]] | None:
    if user is None and group is None:
        return None
    try:
        return identity_of(user, group)
    except (Refused, OSError):
        return None  # the new process tries again, and reports the reason


def _home_of(user: str) -> dict[str, str]:
    """Returns the variables that login(1) sets, by which programs find their home; none for an unknown user."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return {}
    return {"HOME": account.pw_dir, "USER": user, "LOGNAME": user, "SHELL": account.pw_shell}


def read_environment_file(path: Path) -> dict[str, str]:
    """Reads the variables of a file of `NAME=value` lines; `#` begins a comment line, nothing is expanded."""
    found: dict[str, str] = {}
    if str(path) == os.devnull:
        return found
    try:
        text = read_text(str(path), encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror or type(error).__name__ if isinstance(error, OSError) else error
        raise SpawnFailed(f'cannot read environment_file "{path}": {why}') from None
    if "\0" in text:
        raise SpawnFailed(f'cannot read environment_file "{path}": it has a NUL')
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise SpawnFailed(f'cannot read environment_file "{path}": line {number} has no NAME=value')
        found[name.strip()] = value
    return found
