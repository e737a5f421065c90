"""Implements `corral import`: converts files of other supervisors to a corral configuration."""

import os
import re
import sys
from collections.abc import Callable, Mapping

import click

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import CorralError, InvalidParams

from .. import render
from ..context import Command, Session, admit_msgspec
from ..new_file import read_text, write_new
from ..tools import import_files, import_servers
from . import compose, crontab, pm2, procfile, supervisord, systemd_unit, yaml_text
from .draft import Draft, Entry, unreadable

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Bytes of the largest file that is read."""

FORMATS = ("compose", "procfile", "supervisord", "pm2", "systemd", "crontab", "mcp")
_CRON_LINE = re.compile(
    r"(?m)^\s*(?:@(?:reboot|hourly|daily|weekly|monthly|yearly|annually|midnight)|(?:[\d*][^\s=]*\s+){4}[^\s=]+)\s+\S"
)
_PROC_LINE = re.compile(r"(?m)^[A-Za-z0-9_-]+:\s+\S")


@click.command(
    "import",
    cls=Command,
    epilog="""\b
Examples:
  corral import docker-compose.yml --write corral.toml
  corral import /etc/systemd/system/backup.timer
  crontab -l | corral import - --format crontab""",
)
@click.argument("paths", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Format of the file; found by name and content by default."
)
@click.option("--write", "target", metavar="FILE|-", help="Write a file; default is stdout.")
@click.pass_context
def import_(context: click.Context, paths: tuple[str, ...], form: str | None, target: str | None) -> None:
    """Convert files of other supervisors.

    FILE is a Compose file, a Procfile, a supervisord.conf, an ecosystem file of pm2, units of systemd or a crontab.
    Settings without an equivalent are listed on stderr and in comments. Of a file with mcpServers it adds the
    servers, as `corral mcp import` does.
    """
    session: Session = context.obj
    texts = {path: _text(path, form) for path in paths}
    first = paths[0]
    found = form or detected(first, texts[first])
    if found == "mcp":
        context.invoke(import_servers.import_, words=paths, write=target)
        return
    if len(paths) > 1 and found != "systemd":
        words = f"cannot import {len(paths)} files at once: only units of systemd belong together"
        raise InvalidParams(words, key="FILE", value=list(paths))
    draft = converted(found, texts)
    if not draft.entries:
        reason = "it has no programs" if not draft.file.notes else str(draft.file.notes[0])
        raise unreadable(first, reason)
    draft.finish()
    settle(draft, os.path.dirname(os.path.abspath(target)) if target not in (None, "-") else os.getcwd())
    _hand_over(session, draft, None if target in (None, "-") else target)


def _text(path: str, form: str | None) -> str:
    if path == "-":
        if form is None:
            raise InvalidParams("cannot import stdin: name its format by --format", key="--format", value=None)
        return sys.stdin.read(MAX_FILE_BYTES)
    return read_text(path, MAX_FILE_BYTES)


def detected(path: str, text: str) -> str:
    """Returns the format of a file, by its name, else by its content."""
    name = os.path.basename(path)
    ending = os.path.splitext(name)[1].lower()
    if ending in (".service", ".timer", ".socket", ".target", ".path"):
        return "systemd"
    if name.lower().startswith("procfile"):
        return "procfile"
    if ending in (".js", ".cjs", ".mjs"):
        return "pm2"
    if "/cron.d/" in os.path.abspath(path) or name.startswith(("crontab", "cron.")):
        return "crontab"
    if re.search(r"(?m)^\s*\[(program:|supervisord\])", text):
        return "supervisord"
    if re.search(r"(?m)^\s*\[(Service|Timer)\]", text):
        return "systemd"
    if ending in (".json", ".toml") or text.lstrip().startswith("{"):
        if _has_servers(path):
            return "mcp"
        return "pm2"
    if ending in (".yml", ".yaml") or re.search(r"(?m)^(services|apps):", text):
        top = as_object(yaml_text.document(text, path)) or {}
        if "mcpServers" in top:
            raise unreadable(path, "its MCP servers are in YAML: write them as JSON, as editors do")
        return "compose" if "services" in top else "pm2"
    if _CRON_LINE.search(text):
        return "crontab"
    if _PROC_LINE.search(text):
        return "procfile"
    raise unreadable(path, f"its format is not known; name one by --format: {', '.join(FORMATS)}")


def _has_servers(path: str) -> bool:
    try:
        return bool(import_files.read(path, os.path.expanduser("~")))
    except CorralError:
        return False


def converted(form: str, texts: Mapping[str, str]) -> Draft:
    """Converts the texts of files, by path."""
    path, text = next(iter(texts.items()))
    place = os.path.abspath(path)
    folder = os.path.dirname(place)
    if any("\0" in each for each in texts.values()):
        raise unreadable(path, "it has a NUL character")
    if form == "systemd":
        return systemd_unit.convert(_with_services(texts), ", ".join(texts), folder)
    if form == "crontab":
        return crontab.convert(text, path, folder, is_system="/cron.d/" in place or place == "/etc/crontab")
    others: dict[str, Callable[[str, str, str], Draft]] = {
        **{"compose": compose.convert, "procfile": procfile.convert},
        **{"pm2": pm2.convert, "supervisord": supervisord.convert},
    }
    return others[form](text, path, folder)


MENDABLE = ("instances", "resources", "recovery", "monitoring", "labels", "description", "health", "listen", "timeout")
"""Keys without which a program is still the same one, and `process` but for what its rights are."""


def settle(draft: Draft, folder: str) -> None:
    """Makes corral take the whole file: a value that it refuses becomes a note, and a program that needs it a comment."""
    admit_msgspec()
    from corral.supervisor.config.spec.loader import decode  # noqa: PLC0415 - start-up time: only this command
    from corral.supervisor.config.spec.sources import Variables  # noqa: PLC0415 - likewise

    variables = Variables.beside(folder, os.environ)
    entries = {each.name: each for each in draft.entries}
    while True:
        _release(draft)
        try:
            decode(draft.text(), source=draft.source, directory=folder, variables=variables)
            return
        except InvalidParams as error:
            refused = [error.data, *map(as_object, as_array(error.data.get("errors")) or [])]
        for each in refused:
            _, _, path = str((each or {}).get("key")).partition(".")
            name, _, key = path.partition(".")
            entry = entries.get(name)
            assert entry is not None, "all that is written belongs to a program"
            if entry.is_complete:
                _mend(entry, key, str((each or {}).get("reason")))


def _mend(entry: Entry, key: str, reason: str) -> None:
    """Removes a key that was refused, with a note, or makes a comment of an entry that would be another without it."""
    while key and entry.get(key) is None:
        key = key.rpartition(".")[0]
    is_mendable = key.startswith(MENDABLE) or key in ("process.stop_signal", "process.nice", "process.spawn_timeout")
    origin = entry.origins.get(key) or key
    if is_mendable:
        entry.set(key, None)
        entry.note(origin, f"left out: {reason}")
    else:
        entry.exclude(origin or "name", reason)


def _release(draft: Draft) -> None:
    commented = {each.name for each in draft.entries if not each.is_complete}
    for entry in draft.entries:
        names = [str(each) for each in as_array(entry.table.get("requires")) or []]
        for name in commented.intersection(names):
            entry.note(f"requires {name}", "it is a comment")
        entry.set("requires", [name for name in names if name not in commented] or None)


def _with_services(texts: Mapping[str, str]) -> dict[str, str]:
    """Returns the units by file name, with the services beside timers and sockets."""
    units = {os.path.basename(path): text for path, text in texts.items()}
    for path in texts:
        beside = os.path.splitext(path)[0] + ".service"
        if path.endswith((".timer", ".socket")) and os.path.exists(beside):
            units.setdefault(os.path.basename(beside), read_text(beside, MAX_FILE_BYTES))
    return units


def _hand_over(session: Session, draft: Draft, target: str | None) -> None:
    """Writes the configuration, and notes what is not in it."""
    text, notes = draft.text(), draft.every_note()
    found: dict[str, object] = {
        "format": draft.format,
        "agents": [each.name for each in draft.agents.values() if each.is_complete],
        "schedules": [each.name for each in draft.schedules.values() if each.is_complete],
        "notes": [note._asdict() for note in notes],
    }
    if target is not None:
        write_new(target, text)
        found |= {"file": target, "problem": None}  # `settle` found none
        session.note(f'wrote "{target}": {_counted(draft)}, {len(notes)} notes')
        session.note(f"corrald --config {target} runs it")
    elif not session.json:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        found["toml"] = text
    if session.json:
        session.print_json(found)
    if notes:
        session.note("without an equivalent, or different (also in the comments of the file):")
    for note in notes:
        session.note(f"  {render.one_line(str(note))}")


def _counted(draft: Draft) -> str:
    numbers = [(len(draft.agents), "agent"), (len(draft.schedules), "schedule")]
    return ", ".join(f"{count} {what}{'s' if count != 1 else ''}" for count, what in numbers if count)
