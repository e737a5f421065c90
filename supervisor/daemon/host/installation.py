"""Locates the daemon's files, prepares its folders, and collects the facts of this machine that workers start with."""

import contextlib
import logging
import os
import pwd
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.mcp.cortex import command as cortex
from corral.supervisor.config.secrets.secrets import Secrets
from corral.supervisor.config.spec.loader import decode, decode_agent
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config, Process, Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.process.containment import state_number
from corral.supervisor.workers.process.launch import Host
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.process.sandbox import make_temporary_root
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied

from .state_folder import make_sdk_folder, preparing

AGENT_USER = "corral-agent"
"""The system user that agents of a root daemon run as, when it exists."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """Holds the places of files: `config` None means that there is no configuration file."""

    config: Path | None
    socket: Path
    state_dir: Path


def default_paths(environ: Mapping[str, str], uid: int) -> Paths:
    """Returns the places that the platform's conventions give; the XDG base directories for an ordinary user."""
    if uid == 0:
        return Paths(Path("/etc/corral/corral.toml"), Path("/run/corral/corral.sock"), Path("/var/lib/corral"))
    home = environ.get("HOME") or pwd.getpwuid(uid).pw_dir
    config = Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config")
    state = Path(environ.get("XDG_STATE_HOME") or f"{home}/.local/state")
    runtime = environ.get("XDG_RUNTIME_DIR")
    run = Path(runtime) / "corral" if runtime else Path(f"/tmp/corral-{uid}")
    return Paths(config / "corral" / "corral.toml", run / "corral.sock", state / "corral")


def read_config(path: Path | None) -> Config:
    """Reads the configuration of a file; the defaults when there is none."""
    if path is None:
        return decode("", source="(no configuration file)", directory="/")
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFound(f'cannot read "{path}": it does not exist', file=str(path)) from error
    except UnicodeError as error:
        raise InvalidParams(f'cannot read "{path}": it is not UTF-8', file=str(path), reason=str(error)) from error
    except OSError as error:
        raise PermissionDenied(f'cannot read "{path}": {error.strerror}', file=str(path)) from error
    folder = str(path.resolve().parent)
    variables = Variables.beside(folder, os.environ)
    return decode(text, source=str(path), directory=folder, variables=variables)


def raise_descriptor_limit() -> None:
    """Raises the soft limit of descriptors to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # as many as we may have
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_launcher(config: Config, paths: Paths, bus: Bus) -> Launcher:
    """Returns what spawns and contains all processes; it is started later."""
    tier = config.daemon.containment

    def note_loss() -> None:
        bus.publish("daemon.launcher_lost")

    return Launcher(
        on_lost=note_loss,
        sole_parent=True,
        state_dir=paths.state_dir,
        tier="auto" if tier == "pidns" else tier,
        pid_namespace=tier == "pidns",
    )


def make_host(config: Config, paths: Paths, launcher: Launcher) -> Host:
    """Returns the facts of this machine that workers are started with."""
    with preparing(paths.state_dir):
        temporary_root = make_temporary_root(paths.state_dir)
        containers_root = paths.state_dir / "containers"
        containers_root.mkdir(mode=0o711, exist_ok=True)
    return Host(
        environ=dict(os.environ),
        sdk_path=make_sdk_folder(paths.state_dir),
        ordinary_user=os.getuid() != 0,
        default_user=default_user(),
        temporary_root=temporary_root,
        containment=lambda: launcher.containment,
        secrets=Secrets.of(config.daemon.secrets_file, os.environ, paths.state_dir),
        socket=paths.socket,
        containers_root=containers_root,
        state=f"{state_number(paths.state_dir):08x}",
    )


def default_user() -> str | None:
    """Returns the user for agents whose spec names none; None where they run as the daemon."""
    if os.getuid() != 0:
        return None
    try:
        pwd.getpwnam(AGENT_USER)
    except KeyError:
        text = "agents without a user run as root, because user %s does not exist"
        logger.warning(text, AGENT_USER, extra={"fields": {"user": AGENT_USER}})
        return None
    return AGENT_USER


def built_in(config: Config, paths: Paths, default_user: str | None) -> Spec:
    """Returns the spec of the built-in memory server."""
    command = cortex.command(
        config.defaults.mcp.cortex_binary_path,
        config.defaults.mcp.cortex_args,
        os.environ,
        ordinary_user=os.getuid() != 0 and "INVOCATION_ID" not in os.environ,
        is_executable=lambda path: os.path.isfile(path) and os.access(path, os.X_OK),
        python=sys.executable,
        folder=os.getcwd(),
    )
    folder = paths.state_dir / "cortex"
    with preparing(paths.state_dir):
        folder.mkdir(mode=0o700, exist_ok=True)
        if default_user is not None:
            account = pwd.getpwnam(default_user)
            os.chown(folder, account.pw_uid, account.pw_gid)
    table: dict[str, object] = {
        "command": list(command),
        "autostart": False,
        "environment": {"CORTEX_DB": str(folder / "cortex.db")},
        "process": _with_own(config.defaults.process, str(folder)),
    }
    return decode_agent("cortex", table, kind="mcp", defaults=config.defaults, source="built-in", directory=str(folder))


def _with_own(process: Process, folder: str) -> dict[str, object]:
    """Returns the paths of `[process]` to which processes are confined, with the server's own folder."""
    lists = {"read_paths": process.read_paths, "write_paths": process.write_paths}
    return {key: [*paths, folder] for key, paths in lists.items() if paths is not None}
