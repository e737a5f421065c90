"""Converts a Procfile, as foreman, honcho, Heroku and overmind read it.

What holds where a line says nothing is that of foreman(1): PORT is 5000, 5100, … in the order of the lines, PS is NAME.1,
the variables of `.env` beside the file are set, and a program that does not end within 5 s of SIGTERM is killed. The line
is one of a shell, which runs it here as it stands.
"""

import os
import re
from functools import partial

from .draft import Draft, ref
from .variable_file import parsed, take_files

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)")
_PLAIN = re.compile(
    r"(?!(?:\.|source|exec|eval|set|unset|export|command|function|time|cd|ulimit|umask|trap|wait|if|for|while|until|case)(?: |\Z))[\w@%+:,./-]+(?: +[\w@%+=:,./-]+)*"
)
"""A line that has the same words without a shell: of letters that are not special to it, and no builtin of it first."""

FIRST_PORT = 5000
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
    number = 0
    for count, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            draft.file.note(f"line {count}", "it is not NAME: COMMAND")
            continue
        entry = draft.agent(found[1])
        entry.set("command", argv(found[2].strip()))
        entry.environment({"PORT": ref(f"port:{FIRST_PORT + PORTS_EACH * number}"), "PS": f"{found[1]}.1"})
        if os.path.exists(f"{folder}/.env"):
            take_files(entry, "environment", [(f"{folder}/.env", True)], partial(parsed, escaped='nt"\\$'))
        if found[1] == "release":
            entry.run_once()
            entry.note("release", "runs once at the start; add it to requires of what waits for it")
        number += 1
    if draft.agents:
        draft.file.note("restart", "a program that fails is restarted, where foreman ends them all")
        draft.file.note(
            "environment", "programs get inherit_environment of the section process, not all that corrald has"
        )
    return draft
