"""Converts a crontab: that of a user, or of the system with a user in each line (/etc/crontab, /etc/cron.d)."""

import os
import re
import shlex
from collections.abc import Mapping

from .draft import Draft, Entry, literal
from .quantities import local_zone

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_WORDS = {
    **dict.fromkeys(("@yearly", "@annually"), "0 0 1 1 *"),
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    **dict.fromkeys(("@daily", "@midnight"), "0 0 * * *"),
    "@hourly": "0 * * * *",
}
OWN = frozenset(("MAILTO", "MAILFROM", "CRON_TZ", "TZ", "SHELL"))
"""Variables that cron itself reads."""


def convert(text: str, source: str, *, has_users: bool) -> Draft:
    """Converts the text of a crontab; with `has_users` the sixth word of a line is a user."""
    draft = Draft(source, "crontab")
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if assigned := _ASSIGNMENT.fullmatch(line):
            variables[assigned[1]] = _unquoted(assigned[2])
            if assigned[1] == "MAILTO" and variables["MAILTO"]:
                draft.note(
                    "MAILTO", 'no mail is sent: "corral logs" has the output, [monitoring] alert tells of failures'
                )
            continue
        _convert_line(draft, line, number, variables, has_users=has_users)
    return draft


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _convert_line(draft: Draft, line: str, number: int, variables: Mapping[str, str], *, has_users: bool) -> None:
    count = 1 if line.startswith("@") else 5
    words = line.split(None, count + (1 if has_users else 0))
    if len(words) <= count + (1 if has_users else 0):
        draft.note(f"line {number}", "it is no line of a crontab")
        return
    when, user, command = words[:count], words[count] if has_users else None, words[-1]
    name = _name_of(command)
    if when == ["@reboot"]:
        entry = draft.agent(name)
        entry.run_once()
        entry.set("remain", True)
        entry.set("recovery.restart", "never")
        entry.note("@reboot", "runs at the first start of corrald after the machine's")
        variables_key = True
    else:
        entry = draft.schedule(name)
        expression = _WORDS.get(when[0], "") if count == 1 else " ".join(when)
        if not expression:
            entry.note(when[0], "no such word")
            entry.is_complete = False
        entry.set("cron", expression or "* * * * *")
        entry.set("timezone", variables.get("CRON_TZ") or local_zone())
        entry.set("catch_up", False)
        variables_key = False
    _set_command(entry, command, variables)
    if user is not None:
        entry.set("process.user", user)
    extra = {k: literal(v) for k, v in variables.items() if k not in OWN}
    if extra or variables_key:
        entry.environment(extra)


def _set_command(entry: Entry, command: str, variables: Mapping[str, str]) -> None:
    r"""Sets the shell and its line; `\%` is a percent sign, and the first other one begins the input."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", command)]
    line = parts[0].strip()
    if len(parts) > 1:
        given = "".join(part + "\n" for part in parts[1:])
        line = f"printf %s {shlex.quote(given)} | {line}"
    entry.set("command", [variables.get("SHELL") or "/bin/sh", "-c", literal(line)])


def _name_of(command: str) -> str:
    """Returns a name from the program of a line: its first word that is no variable, option or change of folder."""
    last = re.split(r"&&|;", command)[-1] if command.startswith("cd ") else command
    for word in re.split(r"[\s|&;<>()]+", last):
        name = os.path.basename(word.strip("\"'"))
        if (
            word
            and "=" not in word
            and not word.startswith("-")
            and name not in ("sh", "bash", "exec", "python3", "python", "test", "[", "nice", "env", "sudo")
        ):
            return os.path.splitext(name)[0] or "job"
    return "job"
