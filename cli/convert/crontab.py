"""Converts a crontab: that of a user, or of the system with a user in each line (/etc/crontab, /etc/cron.d).

What holds where a line says nothing is that of crontab(5) and cron(8): a command is run by /bin/sh in the home of its
user with a PATH of /usr/bin:/bin, a variable is that of the lines below it, and a run begins though the one before goes on.
"""

import os
import pwd
import re
from collections.abc import Mapping, Sequence

from .draft import Draft, Entry, Unfit
from .values import home_of, local_zone

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
DEFAULTS: Mapping[str, object] = {"environment": {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}}
OWN = {
    "MAILTO": 'no mail is sent: "corral logs" has the output, [monitoring] alert tells of failures',
    "MAILFROM": "no mail is sent",
    "RANDOM_DELAY": "runs are on time",
    "START_HOURS_RANGE": "no equivalent",
}
"""Variables that cron itself reads, beside CRON_TZ."""

WITH_INPUT = 'printf %s "$1" | "$0" -c "$2"'
"""A shell that gives its second word, as input, to the shell that is its first and runs the line that is its third."""


def convert(text: str, source: str, folder: str, *, is_system: bool) -> Draft:
    """Converts the text of a crontab; where it `is_system`, the sixth word of a line is a user."""
    draft = Draft(source, "crontab", folder, DEFAULTS)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    jobs = [_parts(line, has_user=True) for _, line in lines if not _ASSIGNMENT.fullmatch(line)]
    if not is_system and jobs and all(job is not None and _is_user(job[1]) for job in jobs):
        is_system = True
        draft.file.note("users", "the sixth word of each line is a user of this machine, and was taken for one")
    variables: dict[str, str] = {}
    for number, line in lines:
        if assigned := _ASSIGNMENT.fullmatch(line):
            variables[assigned[1]] = _unquoted(assigned[2])
            if assigned[1] in OWN and variables[assigned[1]]:
                draft.file.note(assigned[1], OWN[assigned[1]])
        elif (job := _parts(line, has_user=is_system)) is None:
            draft.file.note(f"line {number}", "it is no line of a crontab")
        else:
            when, user, command = job
            entry = _timed(draft, when, _name_of(command), variables)
            entry.environment({k: v for k, v in variables.items() if k not in OWN and k != "CRON_TZ"})
            _set_user(entry, user, variables)
            _set_command(entry, command, variables.get("SHELL") or "/bin/sh")
    if draft.schedules:
        draft.file.note("overlap", "a run is left out while the one before goes on, where cron begins another")
    return draft


def _parts(line: str, *, has_user: bool) -> tuple[list[str], str | None, str] | None:
    """Returns the times, the user and the command of a line; None: it is not one of a crontab."""
    count = 1 if line.startswith("@") else 5
    words = line.split(None, count + has_user)
    is_whole = len(words) > count + has_user
    return (words[:count], words[count] if has_user else None, words[-1]) if is_whole else None


def _is_user(name: str | None) -> bool:
    return name in {account.pw_name for account in pwd.getpwall()}


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _timed(draft: Draft, when: Sequence[str], name: str, variables: Mapping[str, str]) -> Entry:
    if when == ["@reboot"]:
        entry = draft.agent(name)
        entry.run_once()
        entry.set("remain", True)
        entry.set("recovery.restart", "never")
        entry.note("@reboot", "runs at the first start of corrald after the machine's")
        return entry
    entry = draft.schedule(name)
    expression = " ".join(when)
    entry.set("cron", expression.removeprefix("-"))
    if expression.startswith("-"):
        entry.note("-", "each run is in the log")
    entry.reading = "CRON_TZ"
    entry.set("timezone", variables.get("CRON_TZ") or local_zone())
    entry.set("catch_up", False)
    return entry


def _set_user(entry: Entry, user: str | None, variables: Mapping[str, str]) -> None:
    entry.set("process.user", user)
    home = variables.get("HOME")
    try:
        home = home_of(user) if home is None else home
        entry.set("process.working_directory", home)
    except Unfit as error:
        entry.exclude("user", str(error))


def _set_command(entry: Entry, command: str, shell: str) -> None:
    r"""Sets the shell and its line; `\%` is a percent sign, and the first other one begins the input of the command."""
    line, *given = (part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", command))
    text = "".join(part + "\n" for part in given)
    entry.set("command", [shell, "-c", WITH_INPUT, shell, text, line] if given else [shell, "-c", line])


def _name_of(command: str) -> str:
    """Returns a name from the program of a line: its first word that is no variable, option or change of folder."""
    for word in re.split(r"[\s|&;<>()]+", re.split(r"&&|;", command)[-1] if command.startswith("cd ") else command):
        name = os.path.basename(word.strip("\"'"))
        if (
            word
            and "=" not in word
            and not word.startswith("-")
            and name not in ("sh", "bash", "exec", "python3", "python", "test", "[", "nice", "env", "sudo")
        ):
            return os.path.splitext(name)[0] or "job"
    return "job"
