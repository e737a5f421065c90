"""Collects the facts of a machine that decide how corral can contain, limit and isolate processes on it.

The facts are read, not judged: `host_check` judges them.
"""

import contextlib
import os
import pwd
import re
import resource
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.supervisor.machine.isolation import availability
from corral.supervisor.machine.linux import cgroup, kernel, landlock

from ..containers import engines

AGENT_USER = "corral-agent"
CONTROLLERS = ("memory", "cpu", "pids")
CAP_SYS_PTRACE = 19


NO_TRIAL = availability.Trial()
"""Result of a trial that was not made."""
NO_ENGINES = engines.Trial()
"""Result of engines that were not tried."""


@dataclass(frozen=True)
class Containment:
    """Describes how a worker's processes are contained, each part by itself."""

    tier: str = "launcher"
    kill: str = "subreaper"
    freeze: str = "signals"
    memory: str = "sampled"
    cpu: str = "sampled"
    processes: str = "rlimit"
    branded: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """Holds the facts of the machine as one process sees it; `is_daemon` is true if that is the daemon itself.

    `agent_user` is the user of agents without a `user`, None where that is the daemon's own user; `unplanned` is the
    reason why processes are not spawned by plans of system calls (see `launcher.raw_spawn`), empty where they are.
    """

    is_daemon: bool
    uid: int
    agent_user: str | None
    under_systemd: bool
    containment: Containment
    landlock_abi: int
    isolation: str
    descriptors: tuple[int, int]
    pids: int
    state_dir: str
    state_free_bytes: int | None
    state_filesystem: str
    state_problem: str
    socket: str
    socket_problem: str
    reads_others: bool
    oom_score_adj: int
    store_stalled_s: float = 0.0
    config_problem: str = ""
    log: str = ""
    journal_problem: str = ""
    unplanned: str = ""
    versions: tuple[str, str] = ("", "")
    """That of the running daemon, and that which is installed."""
    services: "Services | None" = None
    strict: availability.Trial = NO_TRIAL
    container: engines.Trial = NO_ENGINES


@dataclass(frozen=True)
class Services:
    """Holds the facts that only a running daemon knows.

    `secrets` is the number of values that name a secret, `secret_problems` their errors; `failed` are MCP servers that
    gave up, each with its reason, `cold` agents whose workers are not forks as they should be, each with the reason;
    `http` is the address of HTTP and its protection, empty without it.
    `http` is the address of the MCP endpoint, empty without one; `degraded` are services of agents over HTTP that
    cannot listen at their address, each with the reason. `tenants` is the number of tenants, `sharing` why the
    processes of some have the user of others, each with the reason. `models` is the number of declared models,
    `model_problems` those that are used and cannot be, each with the reason. `cluster` is the engine of the cluster,
    empty without one, `cluster_problem` why the daemon has not joined it, `cluster_weaknesses` what the engine cannot promise.
    """

    secrets: int = 0
    secret_problems: tuple[str, ...] = ()
    servers: int = 0
    up: int = 0
    failed: tuple[str, ...] = ()
    cold: tuple[str, ...] = ()
    http: str = ""
    degraded: tuple[str, ...] = ()
    tenants: int = 0
    sharing: tuple[str, ...] = ()
    models: int = 0
    model_problems: tuple[str, ...] = ()
    cluster: str = ""
    cluster_problem: str = ""
    cluster_weaknesses: tuple[str, ...] = ()


def look(
    *,
    socket: str,
    state_dir: str,
    isolation: str = "basic",
    containment: Containment | None = None,
    store_stalled_s: float = 0.0,
    config_problem: str = "",
    log: str = "",
    journal_problem: str = "",
    unplanned: str = "",
    version: str = "",
    services: Services | None = None,
    environ: Mapping[str, str],
) -> Facts:
    """Collects the facts. With `containment`, which only a daemon has, they are those of the daemon itself."""
    is_daemon = containment is not None
    free_bytes, filesystem, problem = _storage(Path(state_dir))
    return Facts(
        is_daemon=is_daemon,
        uid=os.geteuid(),
        agent_user=_agent_user(),
        under_systemd=is_daemon and _is_service(environ),
        containment=_expected_containment() if containment is None else containment,
        landlock_abi=landlock.abi(),
        isolation=isolation,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE),
        pids=min(_number("/proc/sys/kernel/pid_max"), _number("/proc/sys/kernel/threads-max")),
        state_dir=state_dir,
        state_free_bytes=free_bytes,
        state_filesystem=filesystem,
        state_problem=problem,
        socket=socket,
        socket_problem="" if is_daemon else _folder_problem(Path(socket).parent),
        reads_others=os.geteuid() != 0 or _has_capability(CAP_SYS_PTRACE),
        oom_score_adj=_number("/proc/self/oom_score_adj", 0),
        store_stalled_s=store_stalled_s,
        config_problem=config_problem,
        log=log,
        journal_problem=journal_problem,
        unplanned=unplanned,
        versions=(version, _installed()),
        services=services,
        strict=availability.tried(environ),
        container=engines.tried(environ, may_leave_traces=is_daemon),
    )


def default_state_dir(environ: Mapping[str, str], uid: int) -> str:
    """Returns the state folder of a daemon of this user whose configuration names none."""
    if named := environ.get("CORRAL_STATE_DIR"):
        return named
    if uid == 0:
        return "/var/lib/corral"
    home = environ.get("HOME") or pwd.getpwuid(uid).pw_dir
    return f"{environ.get('XDG_STATE_HOME') or home + '/.local/state'}/corral"


def _is_service(environ: Mapping[str, str]) -> bool:
    """Returns True if systemd has started this very process: descendants of a service inherit INVOCATION_ID."""
    if "INVOCATION_ID" not in environ:
        return False
    pid = environ.get("SYSTEMD_EXEC_PID")  # since systemd 248
    return "NOTIFY_SOCKET" in environ if pid is None else pid == str(os.getpid())


def _agent_user() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(AGENT_USER).pw_name
    except KeyError:
        return None


def _expected_containment() -> Containment:
    """Returns the containment that a daemon started by this process would find, as far as can be said without trying."""
    name = cgroup.name_of("self")
    folder = _cgroup_folder(name) if name else None
    branded = kernel.brand_for(0, 0) is not None
    if folder is None:
        return Containment(branded=branded, reason="there are no control groups of version 2 here")
    uid = os.geteuid()
    is_own = uid != 0 and folder.stat().st_uid == uid
    if not is_own and os.path.isdir("/run/systemd/system"):
        return Containment(branded=branded, reason="a daemon started by hand gets no subtree from systemd")
    if not os.access(folder / "cgroup.procs", os.W_OK):
        return Containment(branded=branded, reason=f"uid {uid} may not write to {folder}")
    if not (folder / "cgroup.freeze").exists() and name != "/":
        return Containment(branded=branded, reason="this kernel's control groups cannot be frozen")
    offered = cgroup.read(str(folder), "cgroup.controllers").split()
    missing = [each for each in CONTROLLERS if each not in offered]
    return Containment(
        tier="cgroup-kill" if missing else "cgroup",
        kill="cgroup.kill",
        freeze="cgroup.freeze",
        memory="cgroup" if "memory" in offered else "sampled",
        cpu="cgroup" if "cpu" in offered else "sampled",
        processes="cgroup" if "pids" in offered else "rlimit",
        branded=branded,
        reason=f"{folder} does not offer the controllers: {', '.join(missing)}" if missing else "",
    )


def _cgroup_folder(name: str) -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, kind = line.partition(" - ")
        root, mounted = fields.split()[3:5]
        if kind.startswith("cgroup2 ") and (name + "/").startswith(root.rstrip("/") + "/"):
            folder = Path(mounted + name[len(root.rstrip("/")) :])
            if (folder / "cgroup.procs").exists():
                return folder
    return None


def _storage(folder: Path) -> tuple[int | None, str, str]:
    """Returns free bytes and file system of a folder, or of the place where it would be made, and why it cannot be used."""
    problem = _folder_problem(folder)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free, _filesystem(folder), problem
    except OSError as error:
        return None, "", problem or str(error.strerror).lower()


def _folder_problem(folder: Path) -> str:
    """Returns why files cannot be made in a folder, which may have to be made first; empty if they can."""
    if folder.exists():
        if not folder.is_dir():
            return "it is no folder"
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"uid {os.geteuid()} may not write there"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"uid {os.geteuid()} may not make it in {folder}"


def _filesystem(folder: Path) -> str:
    """Returns the type of the file system, from the longest mount point above the folder."""
    import psutil  # noqa: PLC0415  # it costs 1 MB: only who asks for the facts pays

    mounted = {
        each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)
    }  # a later one covers an earlier
    real = Path(os.path.realpath(folder))
    return next((mounted[str(each)] for each in (real, *real.parents) if str(each) in mounted), "")


def _number(path: str, otherwise: int = 1 << 22) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return otherwise


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _installed() -> str:
    """Returns the version of corral that is installed in place of this one; empty where that cannot be read."""
    with contextlib.suppress(OSError, UnicodeError):
        text = Path(sys.modules["corral"].__path__[0], "__init__.py").read_text("utf-8")
        if (found := re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)) is not None:
            return found[1]
    return ""
