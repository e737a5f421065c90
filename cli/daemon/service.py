"""Implements `corral install-service` and `uninstall-service`: puts corrald under systemd, for the machine or for a user.

The files are those of systemd/, which `make -C systemd install` copies, too. Says each thing that it does.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import click

from corral.worker.contract.errors import Conflict, InvalidParams, PermissionDenied, SpawnFailed

from ..context import Command, Session, option
from .manual import pages

BOOTED = "/run/systemd/system"
"""Folder that is there where systemd is process 1; see sd_booted(3)."""

LOCAL = "/usr/local"
COMMAND_S = 120.0
"""Seconds for one command of systemd; a start waits for corrald."""


class Plan(NamedTuple):
    """Holds the files of an installation by path, with their modes, and the commands that follow."""

    texts: dict[str, tuple[str, int]]
    kept: frozenset[str]
    """Paths of `texts` that stay as they are if they exist, and that no removal touches."""
    links: dict[str, str]
    commands: list[list[str]]


def _options(command: click.Command) -> click.Command:
    command.params += [
        click.Option(["--user", "scope"], flag_value="user", help="For this user; default unless you are root."),
        click.Option(["--system", "scope"], flag_value="system", help="For the machine; default for root."),
        click.Option(["--dry-run"], is_flag=True, help="Print the files and commands, and do nothing."),
    ]
    return command


@click.command("install-service", cls=Command)
@option("--now", "Start it now, too.")
@click.pass_context
def install_service(context: click.Context, scope: str | None, now: bool, dry_run: bool) -> None:
    """Install corrald as a service of systemd, and enable it."""
    session: Session = context.obj
    is_user = _is_user(scope)
    plan = planned(context, is_user=is_user, now=now)
    if dry_run:
        _print_plan(session, plan)
        return
    _check("install", is_user=is_user)
    for path, (text, mode) in plan.texts.items():
        if path in plan.kept and os.path.exists(path):
            session.print(f"kept {path}")
        else:
            _write(path, text, mode)
            session.print(f"wrote {path}")
    for path, target in plan.links.items():
        if os.path.islink(path):
            os.unlink(path)
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(target, path)
        session.print(f"linked {path} to {target}")
    _run_all(session, plan.commands)
    if not now:
        start = "systemctl --user start corrald" if is_user else "systemctl start corrald"
        session.note(f'enabled, not started: "{start}"')
    if is_user:
        session.note('it ends when you log out, unless "loginctl enable-linger" was run')


@click.command("uninstall-service", cls=Command)
@click.pass_context
def uninstall_service(context: click.Context, scope: str | None, dry_run: bool) -> None:
    """Stop and remove the service of systemd. Configuration, state and accounts stay."""
    session: Session = context.obj
    is_user = _is_user(scope)
    plan = planned(context, is_user=is_user, now=False)
    systemctl = ["systemctl", *(["--user"] if is_user else [])]
    units = ["corrald.service"] if is_user else ["corrald.socket", "corrald.service"]
    gone = [path for path in plan.texts if path not in plan.kept and os.path.lexists(path)]
    gone += [path for path, target in plan.links.items() if os.path.islink(path) and os.readlink(path) == target]
    if dry_run:
        for path in gone:
            session.print(f"remove {path}")
        return
    _check("remove", is_user=is_user)
    if any(path.endswith(".service") for path in gone):
        _run_all(session, [[*systemctl, "disable", "--now", *units]])
    for path in gone:
        os.unlink(path)
        session.print(f"removed {path}")
    _run_all(session, [[*systemctl, "daemon-reload"]])
    if not gone:
        session.print("there is no service to remove")


_options(install_service)
_options(uninstall_service)


def _is_user(scope: str | None) -> bool:
    return os.getuid() != 0 if scope is None else scope == "user"


def _check(verb: str, *, is_user: bool) -> None:
    if not is_user and os.getuid() != 0:
        words = f"cannot {verb} the service of the machine: only root may; --user is for your own"
        raise PermissionDenied(words, scope="system")
    if not os.path.isdir(BOOTED):
        words = (
            f"cannot {verb} the service: systemd is not process 1 here; corrald --detach runs it in the"
            " background, --dry-run prints the files"
        )
        raise Conflict(words, reason="no systemd")
    if is_user and not os.environ.get("XDG_RUNTIME_DIR"):
        words = f"cannot {verb} the service: there is no session of this user (XDG_RUNTIME_DIR is not set); log in, not by su"
        raise Conflict(words, reason="no session")


def planned(context: click.Context, *, is_user: bool, now: bool) -> Plan:
    """Returns the files and commands of an installation of this corral."""
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))
    folder = folder if os.path.exists(os.path.join(folder, "corrald")) else os.path.join(sys.prefix, "bin")
    if any(letter.isspace() or letter in "%\"'\\|" for letter in folder):
        words = f'cannot install from "{folder}": a path in a unit has no spaces, quotes and % signs'
        raise InvalidParams(words, path=folder)
    enable = ["enable", *(["--now"] if now else [])]
    if is_user:
        return _planned_user(context, folder, enable)
    unit = _source("corrald.service").replace("@PREFIX@", os.path.dirname(folder))
    texts = {
        f"{LOCAL}/lib/systemd/system/corrald.service": (unit, 0o644),
        f"{LOCAL}/lib/systemd/system/corrald.socket": (_source("corrald.socket"), 0o644),
        f"{LOCAL}/lib/sysusers.d/corral.conf": (_source("corral.sysusers"), 0o644),
        f"{LOCAL}/lib/tmpfiles.d/corral.conf": (_source("corral.tmpfiles"), 0o644),
        "/etc/corral/corral.toml": (_source("corral.toml"), 0o600),
    }
    commands = [
        ["systemd-sysusers", f"{LOCAL}/lib/sysusers.d/corral.conf"],
        ["systemd-tmpfiles", "--create", f"{LOCAL}/lib/tmpfiles.d/corral.conf"],
        ["systemctl", "daemon-reload"],
        ["systemctl", *enable, "corrald.socket", "corrald.service"],
    ]
    manual = {path: (text, 0o644) for path, text in pages(context.find_root(), f"{LOCAL}/share/man").items()}
    # One that is there already came from elsewhere: it is not replaced, nor removed later.
    links = {f"{LOCAL}/bin/corral": f"{folder}/corral"} if folder != f"{LOCAL}/bin" else {}
    return Plan(texts | manual, frozenset({"/etc/corral/corral.toml"}), links, commands)


def _planned_user(context: click.Context, folder: str, enable: Sequence[str]) -> Plan:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    unit = _source("corrald-user.service").replace("@CORRALD@", f"{folder}/corrald")
    texts = {f"{config}/systemd/user/corrald.service": (unit.replace("@BIN@", folder), 0o644)}
    manual = {path: (text, 0o644) for path, text in pages(context.find_root(), f"{data}/man").items()}
    systemctl = ["systemctl", "--user"]
    commands = [[*systemctl, "daemon-reload"], [*systemctl, *enable, "corrald.service"]]
    return Plan(texts | manual, frozenset(), {}, commands)


def _source(name: str) -> str:
    return files("corral.cli").joinpath("systemd", name).read_text("utf-8")


def _print_plan(session: Session, plan: Plan) -> None:
    if session.json:
        texts = {path: text for path, (text, _) in plan.texts.items()}
        session.print_json({"files": texts, "links": plan.links, "commands": plan.commands})
        return
    for path, (text, mode) in plan.texts.items():
        session.print(f"# {path} (mode {mode:04o})")
        if "/man/" not in path:
            session.print(text)
    for path, target in plan.links.items():
        session.print(f"# {path} -> {target}")
    for command in plan.commands:
        session.print(f"# {' '.join(command)}")


def _write(path: str, text: str, mode: int) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise PermissionDenied(f'cannot write "{path}": {reason}', file=path) from error


def _run_all(session: Session, commands: Sequence[Sequence[str]]) -> None:
    for command in commands:
        words = " ".join(command)
        if shutil.which(command[0]) is None:
            raise SpawnFailed(f'cannot run "{words}": there is no {command[0]}', command=words)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SpawnFailed(f'cannot run "{words}": it does not end', command=words) from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
            raise SpawnFailed(f'cannot run "{words}": {reason}', command=words, stderr=done.stderr)
        session.print(f"ran {words}")
