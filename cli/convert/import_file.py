"""Implements `corral import`: converts files of other supervisors to a corral configuration."""

import os
import re
import sys
from collections.abc import Callable

import click

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CorralError, InvalidParams

from .. import render
from ..config_check import problem_of
from ..context import Command, Session
from ..new_file import read_text, write_new
from ..tools import import_files, import_servers
from . import compose, crontab, pm2, procfile, supervisord, systemd_unit, yaml_text
from .draft import Draft

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Bytes of the largest file that is read."""

FORMATS = ("compose", "procfile", "supervisord", "pm2", "systemd", "crontab", "mcp")
RELATIVE = frozenset(("compose", "procfile", "pm2"))
"""Formats whose programs run in the folder of the file."""

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
    draft.note_secrets()
    if not (draft.agents or draft.schedules):
        reason = "it has no programs" if not draft.notes else str(draft.notes[0])
        raise InvalidParams(f'cannot import "{first}": {reason}', file=first, reason=reason)
    folder = os.path.dirname(os.path.abspath(first))
    is_beside = target not in (None, "-") and os.path.dirname(os.path.abspath(str(target))) == folder
    if found in RELATIVE and not is_beside and first != "-":
        process = draft.sections.setdefault("process", {})
        process.setdefault("working_directory", folder)
    _hand_over(session, draft, None if target in (None, "-") else target)


def _text(path: str, form: str | None) -> str:
    if path == "-":
        if form is None:
            words = "cannot import stdin: name its format by --format"
            raise InvalidParams(words, key="--format", value=None)
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
        return "compose" if "services" in top else "pm2"
    if _CRON_LINE.search(text):
        return "crontab"
    if _PROC_LINE.search(text):
        return "procfile"
    words = f'cannot import "{path}": its format is not known; name one by --format: {", ".join(FORMATS)}'
    raise InvalidParams(words, file=path, reason="unknown format")


def _has_servers(path: str) -> bool:
    try:
        return bool(import_files.read(path, os.path.expanduser("~")))
    except CorralError:
        return False


def converted(form: str, texts: dict[str, str]) -> Draft:
    """Converts the texts of files, by path."""
    path, text = next(iter(texts.items()))
    folder = os.path.dirname(os.path.abspath(path))
    if form == "systemd":
        return systemd_unit.convert(_with_services(texts), ", ".join(texts))
    if form == "crontab":
        system = "/cron.d/" in os.path.abspath(path) or os.path.abspath(path) == "/etc/crontab"
        return crontab.convert(text, path, has_users=system)
    if form == "supervisord":
        return supervisord.convert(text, path, folder)
    others: dict[str, Callable[[str, str], Draft]] = {
        "compose": compose.convert,
        "procfile": procfile.convert,
        "pm2": pm2.convert,
    }
    return others[form](text, path)


def _with_services(texts: dict[str, str]) -> dict[str, str]:
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
        problem = problem_of(target)
        found |= {"file": target, "problem": problem or None}
        session.note(f'wrote "{target}": {_counted(draft)}, {len(notes)} notes')
        for line in problem.splitlines():
            session.note(line)
        if not problem:
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
