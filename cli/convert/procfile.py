"""Converts a Procfile, as foreman, honcho, Heroku and overmind read it."""

import re

from . import shell_line
from .draft import Draft, Entry, literal

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)")
_PORT = re.compile(r"\$(?:PORT\b|\{PORT\b)")
FIRST_PORT = 5000
PORTS_EACH = 100
"""Number of ports from one process type to the next."""


def convert(text: str, source: str) -> Draft:
    """Converts the text of a Procfile."""
    draft = Draft(source, "Procfile")
    number = 0
    for count, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            draft.note(f"line {count}", "it is not NAME: COMMAND")
            continue
        entry = draft.agent(found[1])
        entry.set("command", [literal(word) for word in shell_line.argv(found[2])])
        entry.set("environment", None)
        if _PORT.search(found[2]):
            _give_port(entry, FIRST_PORT + PORTS_EACH * number)
        if found[1] == "release":
            entry.run_once()
            entry.note("release", "runs once at the start; add it to requires of what waits for it")
        number += 1
    if draft.agents:
        draft.note("restart", "a program that fails is restarted, where foreman ends them all")
    return draft


def _give_port(entry: Entry, port: int) -> None:
    entry.environment({"PORT": f"${{port:{port}}}"})
