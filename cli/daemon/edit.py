"""Implements `corral edit`: opens the configuration file in an editor, checks the text, and saves it as a whole.

The editor gets a copy beside the file. Nothing is saved that corrald would refuse, or over a change that was made meanwhile.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import click

from corral.supervisor.machine.linux.durable import sync_folder
from corral.worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    PermissionDenied,
    Unreachable,
)

from .. import render
from ..config_check import problem_of
from ..context import Session, command, option
from ..render import inner, word
from .control import print_changes

EDITORS = ("sensible-editor", "editor", "nano", "vim", "vi")
"""Programs to try where neither VISUAL nor EDITOR is set."""


class Original(NamedTuple):
    """Holds a file as it was read."""

    path: str
    content: bytes
    mode: int
    uid: int
    gid: int


@command("edit")
@click.argument("path", required=False, metavar="[FILE]", type=click.Path())
@option("--no-reload", "Save without applying the changes.")
def edit(session: Session, path: str | None, no_reload: bool) -> None:
    """Edit the configuration file. Checks it before it is saved, and applies the changes.

    FILE is by default the file of the running daemon, else $CORRAL_CONFIG, else the standard path.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        reason = "there is no terminal; change the file, and run corral reload"
        raise InvalidParams(f"cannot edit: {reason}", key="terminal", value=None)
    editor = editor_of(os.environ)
    running = _of_daemon(session)
    main = os.path.realpath(running or default_path(os.environ, os.getuid()))
    original = read(path or main)
    is_part = original.path != main and _is_below(original.path, main)
    if not _edited(session, original, editor, is_part=is_part):
        session.print("nothing has changed")
        return
    session.print(f"saved {original.path}")
    if running is None or not (is_part or original.path == main):
        session.note("no running daemon has this file")
    elif not no_reload:
        _reload(session)


def editor_of(environ: Mapping[str, str]) -> list[str]:
    """Returns the words that start the editor."""
    for name in ("VISUAL", "EDITOR"):
        if environ.get(name, "").strip():
            with contextlib.suppress(ValueError):
                return shlex.split(environ[name])
    for program in EDITORS:
        if shutil.which(program):
            return [program]
    raise NotFound("cannot edit: there is no editor; set EDITOR", editors=list(EDITORS))


def default_path(environ: Mapping[str, str], uid: int) -> str:
    """Returns the file that a daemon would read."""
    if named := environ.get("CORRAL_CONFIG"):
        return named
    if uid == 0:
        return "/etc/corral/corral.toml"
    return os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "corral", "corral.toml")


def _of_daemon(session: Session) -> str | None:
    session.set_option("connect_timeout", 0.0)
    try:
        found = session.call("daemon.status", {"names": []})
    except Unreachable:
        return None
    return word(inner(found, "daemon"), "config") or None


def read(path: str) -> Original:
    """Reads a file that is to be edited."""
    real = os.path.realpath(path)
    try:
        with open(real, "rb") as file:
            content, facts = file.read(), os.fstat(file.fileno())
    except FileNotFoundError as error:
        hint = "corral init makes one"
        raise NotFound(f'cannot edit "{path}": there is no such file; {hint}', file=path) from error
    except PermissionError as error:
        raise PermissionDenied(f'cannot edit "{path}": permission denied', file=path) from error
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParams(f'cannot edit "{path}": {reason}', file=path) from error
    if not os.access(os.path.dirname(real), os.W_OK):
        reason = "its folder may not be written"
        raise PermissionDenied(f'cannot edit "{path}": {reason}', file=path)
    return Original(real, content, facts.st_mode & 0o7777, facts.st_uid, facts.st_gid)


def _is_below(path: str, main: str) -> bool:
    """Returns whether a file is in the folder of the main file, which may include it then."""
    return os.path.commonpath([os.path.dirname(main), path]) == os.path.dirname(main)


def _edited(session: Session, original: Original, editor: list[str], *, is_part: bool) -> bool:
    """Lets the user edit a copy until it is valid, and saves it; returns False if nothing has changed.

    A part of a configuration is checked alone, without the names in the other files, so that it may be saved as it is.
    """
    folder, name = os.path.split(original.path)
    # Beside the file, so that relative paths in it and a .env lead to the same places.
    descriptor, copy = tempfile.mkstemp(suffix=f".{name}", prefix=".edit-", dir=folder)
    with open(descriptor, "wb") as file:
        file.write(original.content)
    keep = False
    try:
        while True:
            _run(editor, copy)
            with open(copy, "rb") as file:
                content = file.read()
            if content == original.content:
                return False
            problem = problem_of(copy)
            if not problem:
                break
            for line in problem.splitlines():
                session.note(render.one_line(line.replace(copy, original.path)))
            keep = True
            others = ", save all the same (s)," if is_part else ","
            answer = _answer(f"edit again (e){others} or give up (g)?", "e")
            if is_part and answer.startswith("s"):
                break
            if not answer.startswith("e"):
                raise Cancelled(f'cannot save "{original.path}": it is not valid; your text is in "{copy}"', file=copy)
        keep = True
        save(original, content, copy)
        keep = False
        return True
    finally:
        if not keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(copy)


def _run(editor: list[str], path: str) -> None:
    try:
        status = subprocess.run([*editor, path], check=False).returncode
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParams(f'cannot run the editor "{editor[0]}": {reason}', editor=editor[0]) from error
    if status != 0:
        raise Cancelled(f"cannot save: the editor ended with status {status}", status=status)


def _answer(question: str, usual: str) -> str:
    """Asks on the terminal; an empty line is the usual answer, the end of the input is none."""
    print(f"{question} [{usual}] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    return (answer.strip().lower() or usual) if answer else ""


def save(original: Original, content: bytes, copy: str) -> None:
    """Puts a new content in place of the file at once; mode and owner stay."""
    try:
        with open(original.path, "rb") as file:
            is_same = file.read() == original.content
    except OSError:
        is_same = False
    if not is_same:
        reason = f'it was changed meanwhile; your text is in "{copy}"'
        raise Conflict(f'cannot save "{original.path}": {reason}', file=original.path, copy=copy)
    folder = os.path.dirname(original.path)
    descriptor, fresh = tempfile.mkstemp(prefix=".save-", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), original.uid, original.gid)
            os.fchmod(file.fileno(), original.mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, original.path)
    except OSError as error:
        os.unlink(fresh)
        reason = (error.strerror or "").lower()
        words = f'cannot save "{original.path}": {reason}; your text is in "{copy}"'
        raise PermissionDenied(words, file=original.path, copy=copy) from error
    sync_folder(folder)


def _reload(session: Session) -> None:
    """Prints the changes, and applies them if the user agrees."""
    planned = session.call("daemon.reload", {"dry_run": True})
    print_changes(session, planned)
    if not any(planned.values()):
        return
    if not _answer("apply now (y), or later by corral reload (n)?", "y").startswith("y"):
        session.note('"corral reload" applies the changes')
        return
    try:
        session.call("daemon.reload", {"dry_run": False}, timeout_s=None)
    except CorralError as error:
        session.note(f"the file is saved; {error.message}")
        raise
    session.print("applied")
