"""Converts the configuration file of supervisord.

What holds where a section says nothing is that of supervisor's manual, "Configuration File", `[program:x]`, and of
`[supervisord]` above it (umask 022). A program that ends before it was up for `startsecs` is tried again
`startretries` times; one that was up is started again for ever.
"""

import configparser
import os
import re
import shlex
from collections.abc import Mapping

from .draft import Draft, Entry, Meaning, Unfit, keys, ref, take, to, unreadable
from .values import flag, number, seconds, signal, size, text

DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "process": {"stop_signal": "SIGTERM", "shutdown_grace_period": 10.0},
    "monitoring": {"max_log_file_bytes": "50MiB", "max_log_files": 11},
    "recovery": {
        **{"restart": "on-failure", "max_restart_attempts": 3, "healthy_after": 1.0},
        **{"restart_backoff_base": 1.0, "restart_backoff_max": 3},
    },
}
ENDLESS_LOG = 1 << 40
"""Bytes of a log file that is never rotated."""

SECTIONS = {
    "unix_http_server": "the control socket is [daemon] socket; its rights are group and the owner",
    "inet_http_server": "[daemon] http serves the API, with tokens",
    "supervisorctl": "the corral command finds the socket by itself; else CORRAL_SOCKET",
    "eventlistener": '"corral events -f --json" gives the events to a program',
    "fcgi-program": "corral opens no sockets for programs",
}
DAEMON = keys(
    {
        "environment umask directory": None,
        "logfile logfile_maxbytes logfile_backups": "corrald logs to stderr, and to the journal under systemd",
        "pidfile nodaemon silent": "corrald runs in the foreground: systemd keeps it",
        "minfds minprocs": "LimitNOFILE= and LimitNPROC= of the unit of corrald",
        "loglevel": "log_level in the section daemon",
        "childlogdir": "the logs are in state_dir",
        "user": "runs as the user that starts corrald; user in the section process is that of programs",
    }
)


def _restart(value: object) -> str:
    if text(value).lower() == "unexpected":
        return "on-failure"
    return "always" if flag(value) else "never"


def _process_name(_entry: Entry, value: object) -> None:
    if "\0" not in text(value):
        raise Unfit("workers are called NAME-0, NAME-1 and so on")


OFF = ("false", "no", "0", "off")
FOLLOW = '"corral logs -f" follows the output; programs send no events by it'
LOGS = '"corral logs NAME" has the output, rotated by max_log_file_bytes and max_log_files'
MEANINGS: Mapping[str, Meaning] = keys(
    {
        "command environment": None,
        "directory": to(text, "process.working_directory"),
        "user": to(text, "process.user"),
        "umask": to(text, "process.umask"),
        "stopsignal": to(signal, "process.stop_signal"),
        "stopwaitsecs": to(seconds, "process.shutdown_grace_period"),
        "numprocs": to(number, "instances"),
        "autostart": to(flag, "autostart"),
        "autorestart": to(_restart, "recovery.restart"),
        "startsecs": to(seconds, "recovery.healthy_after"),
        "startretries": to(number, "recovery.max_restart_attempts", "recovery.restart_backoff_max"),
        "stdout_logfile_maxbytes": to(lambda value: size(value) or ENDLESS_LOG, "monitoring.max_log_file_bytes"),
        "stdout_logfile_backups": to(lambda value: number(value) + 1, "monitoring.max_log_files"),
        "process_name": _process_name,
        "numprocs_start": ("${instance} counts from 0", "0"),
        "exitcodes": ("only 0 is a success", "0"),
        "priority": ("starts are ordered by requires, which waits until the other is ready", "999"),
        "redirect_stderr": '"corral logs" has both, each line with its stream',
        "stopasgroup": ("the signal goes to the program alone, and what then remains is killed", *OFF),
        "killasgroup": ("all processes of a program are always killed", "true", "yes", "1", "on"),
        "stdout_logfile stderr_logfile": (LOGS, "auto"),
        "stderr_logfile_maxbytes stderr_logfile_backups": LOGS,
        "stdout_capture_maxbytes stderr_capture_maxbytes": (FOLLOW, "0"),
        "stdout_events_enabled stderr_events_enabled": (FOLLOW, *OFF),
        "stdout_syslog stderr_syslog": ("[daemon] journal = true sends all output to the journal", *OFF),
        "serverurl": ("programs get CORRAL_SOCKET", "auto"),
    }
)
_EXPRESSION = re.compile(r"%(?:(%)|\(([A-Za-z_0-9]+)\)(0?\d*)([sd]))")


def convert(source_text: str, source: str, folder: str) -> Draft:
    """Converts the text of a supervisord.conf that lies in `folder`."""
    parser = configparser.RawConfigParser(
        inline_comment_prefixes=(";", "#"), strict=False, allow_no_value=True, default_section="\0"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as typeshed knows: a function
    try:
        parser.read_string(source_text)
        return _sections(parser, source, folder)
    except (configparser.Error, Unfit) as error:
        raise unreadable(source, str(error).splitlines()[0], "read") from error


def _sections(parser: configparser.RawConfigParser, source: str, folder: str) -> Draft:
    sections = {name: {k: v or "" for k, v in parser[name].items()} for name in parser.sections()}
    daemon = sections.get("supervisord", {})
    draft = Draft(source, "supervisord.conf", folder)
    here = {"here": folder}
    place = _expanded(draft.file, daemon.get("directory") or ("/" if folder.startswith("/etc") else folder), here)
    draft.defaults = {
        **DEFAULTS,
        "process": {**DEFAULTS["process"], "working_directory": place, "umask": daemon.get("umask", "022")},
        "environment": _variables(draft.file, daemon.get("environment", ""), here),
    }
    for section, table in sections.items():
        kind, _, name = section.partition(":")
        if kind == "program":
            _convert(draft.agent(name), table, folder)
        elif kind == "supervisord":
            take(draft.file, table.items(), DAEMON, shown="supervisord.{}")
        elif kind == "include":
            draft.file.note(f"include {table.get('files', '')}", "not followed: import each of its files")
        elif kind != "group":
            draft.file.note(f"[{section}]", SECTIONS.get(kind, "no equivalent"))
    if "directory" not in daemon:
        draft.file.note("directory", f"programs start in {place}; there they start in the folder of supervisord")
    draft.file.note(
        "environment", "programs get inherit_environment of the section process, not all that the daemon has"
    )
    for section, table in sections.items():
        if section.startswith("group:"):
            _label(draft, section.partition(":")[2], table)
    return draft


def _convert(entry: Entry, table: Mapping[str, str], folder: str) -> None:
    here = {"here": folder, "program_name": entry.original, "group_name": entry.original}
    here |= {"process_num": ref("instance"), "host_node_name": os.uname().nodename}
    here["numprocs"] = table.get("numprocs", "1")
    try:
        variables = _variables(entry, table.get("environment", ""), here)
        entry.environment(variables)
        with_own = here | {f"ENV_{name}": value for name, value in variables.items()}
        entry.set("command", shlex.split(_expanded(entry, table["command"], with_own)))
    except (ValueError, KeyError):  # of shlex; and Unfit
        entry.exclude("command or environment", "missing, or its quotes do not match")
    read = [
        (key, value if MEANINGS.get(key, "") is None else _expanded(entry, value, here)) for key, value in table.items()
    ]
    take(entry, read, MEANINGS)
    if entry.get("recovery.restart") == "never":
        entry.note("autorestart", "one that ends early is not started again, where startretries counts")


def _expanded(entry: Entry, value: str, values: Mapping[str, str]) -> str:
    """Translates `%(NAME)s` to a value, or to a variable of corral's configuration."""

    def expression(found: re.Match[str]) -> str:
        name = found[2]
        if found[1]:
            return "%"
        if name == "process_num" and found[3]:
            entry.note(found[0], "${instance} has no leading zeros")
        if name not in values and not name.startswith("ENV_"):
            entry.note(found[0], "no equivalent")
            return found[0]
        return values.get(name) or ref(name.removeprefix("ENV_"))

    return _EXPRESSION.sub(expression, value)


def _variables(entry: Entry, written: str, values: Mapping[str, str]) -> dict[str, str]:
    lexer = shlex.shlex(_expanded(entry, written, values), posix=True)
    lexer.whitespace = ", \t\r\n"
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return {name: value for name, equals, value in (word.partition("=") for word in lexer) if equals}
    except ValueError:
        raise Unfit("its quotes do not match") from None


def _label(draft: Draft, name: str, table: Mapping[str, str]) -> None:
    """Makes a group a label: `corral restart -l group=NAME`."""
    for program in table.get("programs", "").split(","):
        entry = draft.named(program.strip())
        if entry is None:
            draft.file.note(f"[group:{name}]", f'there is no program "{program.strip()}"')
        else:
            entry.set("labels.group", name)
    if "priority" in table:
        draft.file.note(f"[group:{name}] priority", "starts are ordered by requires")
