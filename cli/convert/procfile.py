"""Converts a Procfile, as foreman, honcho, Heroku and overmind read it.

What holds where a line says nothing is that of foreman(1): PORT is 5000, or that of `.env`, then 5100, … in the order of the lines,
PS is NAME.1, the variables of `.env` beside the file are set, and a program that does not end within 5 s of SIGTERM is killed. The line
is one of a shell, which runs it here as it stands.
"""

import os
import re
from functools import partial

from corral.worker.contract.errors import InvalidParams

from ..new_file import read_text
from .draft import Draft, ref
from .variable_file import FILE_BYTES_MAX, parsed, take_files

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)")
_PLAIN = re.compile(
    r"(?!(?:\.|source|exec|eval|set|unset|export|command|function|time|cd|ulimit|umask|trap|wait|if|for|while|until|case)(?: |\Z))[\w@%+:,./-]+(?: +[\w@%+=:,./-]+)*"
)
"""A line that has the same words without a shell: of letters that are not special to it, and no builtin of it first."""

ESCAPED = 'nt"\\$'
"""Characters that a backslash may stand before in .env."""

FIRST_PORT = 5000
"""The port of the first process type, unless .env sets PORT."""

PORT_MAX = 65_535
PORTS_EACH = 100
"""Number of ports from one process type to the next."""

GRACE_S = 5.0
"""Seconds that foreman waits after SIGTERM."""


def argv(line: str) -> list[str]:
    """Returns a shell that runs the line as it stands, or the words of a line that needs none."""
    return line.split() if _PLAIN.fullmatch(line) else ["/bin/sh", "-c", line]


def convert(text: str, source: str, folder: str) -> Draft:
    """Converts the text of a Procfile."""
    draft = Draft(source, "Procfile", folder, {"process": {"shutdown_grace_period": GRACE_S}})
    dotenv = f"{folder}/.env"
    port = _first_port(dotenv)
    for count, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            draft.file.note(f"line {count}", "it is not NAME: COMMAND")
            continue
        entry = draft.agent(found[1])
        entry.set("command", argv(found[2].strip()))
        entry.environment({"PORT": ref(f"port:{port}"), "PS": f"{found[1]}.1"})
        if os.path.exists(dotenv):
            take_files(entry, "environment", [(dotenv, True)], partial(parsed, escaped=ESCAPED))
        if found[1] == "release":
            entry.run_once()
            entry.note("release", "runs once at the start; add it to requires of what waits for it")
        port += PORTS_EACH
    if draft.agents:
        draft.file.note("restart", "a program that fails is restarted, where foreman ends them all")
        draft.file.note(
            "environment", "programs get inherit_environment of the section process, not all that corrald has"
        )
    return draft


def _first_port(dotenv: str) -> int:
    """Returns the port from which foreman counts: that of .env, if it has one."""
    try:
        found = parsed(read_text(dotenv, FILE_BYTES_MAX), escaped=ESCAPED).get("PORT", "")
    except InvalidParams:  # absent, or unreadable, which is noted with its variables
        return FIRST_PORT
    return int(found) if found.isdecimal() and 0 < int(found) <= PORT_MAX else FIRST_PORT
