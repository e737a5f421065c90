"""Implements `corral export`, `backup` and `restore`."""

import errno
import os
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corral.supervisor.machine.linux.durable import sync_folder
from corral.worker.contract.errors import Conflict, CorralError, Corrupted, InvalidParams, Unreachable

from .. import render
from ..context import Session, admit_msgspec, command, complete_named, option, selecting, selection
from ..new_file import write_new
from ..render import inner, items, number, word
from .edit import default_path

if TYPE_CHECKING:
    from corral.supervisor.records.backup.archive import Manifest


@command("export")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_named)
@selecting
@option("-o, --output FILE", "Write a new file in place of stdout.")
def export(session: Session, names: tuple[str, ...], selector: tuple[str, ...], output: str | None) -> None:
    """Print the running set as a configuration file.

    It has agents, MCP servers, teams, workflows and schedules, and the stores, templates and profiles of the file. `corral add --file` takes the text, and so does corrald as its configuration file. Secrets are in it by
    name only.
    """
    found = session.call("daemon.export", selection(names, selector))
    text = word(found, "toml")
    if output is not None:
        write_new(output, text)
        for key, words in (("secrets", "set these secrets first"), ("hidden", "set these variables first")):
            if needed := [str(each) for each in items(found, key)]:
                session.note(render.one_line(f"{words}: {', '.join(needed)}"))
    if session.json:
        session.print_json(found)
    elif output is not None:
        session.print_line(f"exported {len(items(found, 'names'))} to {output}")
    else:
        session.print(text.removesuffix("\n"))


@command("backup")
@click.argument("file", metavar="FILE", type=click.Path())
@option("--logs", "Include the logs of agents and servers.")
@option("--no-secrets", "Leave out kept secrets, tokens of HTTP and .env files.")
def backup(session: Session, file: str, logs: bool, no_secrets: bool) -> None:
    """Write an archive of the whole state.

    The daemon goes on meanwhile. All that was acknowledged before is in it. FILE is new, and readable by its owner alone: it has secrets in plain
    text.
    """
    if os.path.lexists(file):
        raise Conflict(f'cannot write "{file}": it is there already', file=file)
    request = {"logs": logs, "secrets": not no_secrets}
    with session.connect() as client:
        found = render.as_record(client.call("backup.make", request, timeout_s=None))
        try:
            _fetch(client.call, found, file)
        finally:
            with suppress(CorralError):  # it is forgotten anyway
                client.call("backup.discard", {"id": found["id"]})
    files, size = int(number(found, "files") or 0), int(number(found, "size") or 0)
    content = render.size(number(found, "content_bytes") or 0)
    session.answer(found, f"wrote {file}: {files} files, {content}, {render.size(size)} compressed")
    for path, reason in inner(found, "left").items():
        session.note(render.one_line(f"left out {path}: {reason}"))


def _fetch(call: Callable[..., Any], found: render.Record, file: str) -> None:  # Any: a result of the table
    """Writes the archive to a new file, which is there when it is whole and on disk."""
    part = f"{file}.part-{os.getpid()}"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as target:
                digest, offset, is_last = sha256(), 0, False
                while not is_last:
                    piece = render.as_record(call("backup.read", {"id": found["id"], "offset": offset}, timeout_s=60.0))
                    data = b64decode(word(piece, "data"))
                    digest.update(data)
                    target.write(data)
                    offset += len(data)
                    is_last = piece["last"] is True
                target.flush()
                os.fsync(fd)
            if digest.hexdigest() != word(found, "sha256"):
                raise Corrupted(f'cannot write "{file}": it is not what was made', file=file)
            os.link(part, file)  # never over another file
        finally:
            os.unlink(part)
        sync_folder(os.path.dirname(os.path.abspath(file)))
    except FileExistsError as error:
        raise Conflict(f'cannot write "{file}": it is there already', file=file) from error
    except OSError as error:
        why = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "unwritable"
        words = f'cannot write "{file}": {(error.strerror or "").lower()}; nothing of it is left'
        raise InvalidParams(words, file=file, reason=why) from error


@command("restore")
@click.argument("file", metavar="FILE", type=click.Path())
@option("--check", "Read and check the whole archive, and change nothing.")
@option("--replace", "Replace a state that is there, and keep it beside.")
@option("--state-dir DIR", "State folder; by default that of the daemon of --socket, else of corrald.")
@option("--config PATH", "Configuration file; by default likewise.")
def restore(session: Session, file: str, check: bool, replace: bool, state_dir: str | None, config: str | None) -> None:
    """Restore an archive of `corral backup`.

    The state takes effect when corrald starts the next time. It may run meanwhile: then restart it.
    """
    admit_msgspec()
    from corral.supervisor.records.backup import staging  # noqa: PLC0415 - start-up time
    from corral.supervisor.workers.process import host_facts  # noqa: PLC0415 - start-up time

    if check:
        found = staging.check(Path(file))
        _print_restored(session, "checked", found.manifest, found.audit_records)
        return
    if session.given_socket and not (state_dir and config):
        of_daemon = _of_daemon(session)
        state_dir, config = state_dir or word(of_daemon, "state_dir"), config or word(of_daemon, "config")
    state = state_dir or os.environ.get("CORRAL_STATE_DIR")
    folder = Path(state or host_facts.default_state_dir(os.environ, os.getuid()))
    place = Path(config or default_path(os.environ, os.getuid()))
    done = staging.restore(Path(file), folder.absolute(), place.absolute(), replace=replace)
    _print_restored(session, "restored", done.manifest, done.audit_records, str(folder))
    if session.json:
        return
    for path in done.config:
        session.print_line(f"wrote {path}")
    for path in done.kept:
        session.print_line(f"kept {path}")
    for path in done.elsewhere:
        session.note(render.one_line(f"{path} is in the archive below elsewhere/: put it there yourself"))
    session.print_line(f'start or restart corrald with the state folder "{folder}"')


def _of_daemon(session: Session) -> dict[str, object]:
    """Returns the status of the daemon of --socket, which alone knows its state folder and its configuration file."""
    try:
        return inner(session.call("daemon.status", {"names": []}), "daemon")
    except Unreachable as error:
        words = f"cannot restore: {error.message}; where it does not run, give --state-dir and --config"
        raise Unreachable(words, **error.data) from error


def _print_restored(session: Session, verb: str, manifest: "Manifest", audit_records: int, state_dir: str = "") -> None:
    facts: dict[str, object] = {
        "version": manifest.version,
        "store_version": manifest.store_version,
        "generation": manifest.generation,
        "created_at": manifest.created_at,
        "files": len(manifest.files),
        "content_bytes": manifest.size,
        "audit_records": audit_records,
        "has_secrets": manifest.has_secrets,
        "has_logs": manifest.has_logs,
        "from_state_dir": manifest.state_dir,
    }
    made_at = session.at(manifest.created_at, is_brief=False)
    of = f"backup of {made_at} by corral {manifest.version}"
    what = f"{len(manifest.files)} files, {render.size(manifest.size)}, {audit_records} audit records"
    session.answer({**facts, "state_dir": state_dir or None}, f"{verb} the {of}: {what}")
