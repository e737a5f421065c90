"""Converts the configuration file of supervisord."""

import configparser
import re
import shlex
from collections.abc import Mapping

from corral.worker.contract.errors import InvalidParams

from .draft import Draft, Entry, Reference, Table, expanded, list_unknown
from .quantities import size_of

DONE = (
    *("command", "process_name", "numprocs", "numprocs_start", "autostart", "autorestart", "directory"),
    *("startretries", "stopsignal", "stopwaitsecs", "user", "environment", "umask", "priority"),
    *("startsecs", "exitcodes", "stopasgroup", "killasgroup", "redirect_stderr"),
    *("stdout_logfile_maxbytes", "stdout_logfile_backups"),
)
LOGS = '"corral logs NAME" has the output, rotated by max_log_file_bytes and max_log_files'
REASONS = {
    "stdout_logfile": LOGS,
    "stderr_logfile": LOGS,
    "stderr_logfile_maxbytes": LOGS,
    "stderr_logfile_backups": LOGS,
    "stdout_capture_maxbytes": "programs send no events by their output",
    "stderr_capture_maxbytes": "programs send no events by their output",
    "stdout_events_enabled": '"corral logs -f" follows the output',
    "stderr_events_enabled": '"corral logs -f" follows the output',
    "stdout_syslog": "[daemon] journal = true sends all output to the journal",
    "stderr_syslog": "[daemon] journal = true sends all output to the journal",
    "serverurl": "programs get CORRAL_SOCKET",
}
SECTIONS = {
    "unix_http_server": "the control socket is [daemon] socket; its rights are group and the owner",
    "inet_http_server": "[daemon] http serves the API, with tokens",
    "supervisorctl": "the corral command finds the socket by itself; else CORRAL_SOCKET",
    "rpcinterface": "no equivalent",
    "eventlistener": '"corral events -f --json" gives the events to a program',
    "fcgi-program": "corral opens no sockets for programs",
}
DAEMON = {
    **dict.fromkeys(
        ("logfile", "logfile_maxbytes", "logfile_backups"), "corrald logs to stderr, and to the journal under systemd"
    ),
    **dict.fromkeys(("pidfile", "nodaemon", "silent"), "corrald runs in the foreground: systemd keeps it"),
    **dict.fromkeys(("minfds", "minprocs"), "LimitNOFILE= and LimitNPROC= of the unit of corrald"),
    "loglevel": "log_level in the section daemon",
    "childlogdir": "the logs are in state_dir",
    "user": "runs as the user that starts corrald; user in the section process is that of programs",
    "directory": "working_directory in the section process; by default the folder of the configuration file",
}
_EXPRESSION = re.compile(r"%(?:(%)|\(([A-Za-z_0-9]+)\)(0?\d*)([sd]))")


def convert(text: str, source: str, folder: str) -> Draft:
    """Converts the text of a supervisord.conf that lies in `folder`."""
    parser = configparser.RawConfigParser(
        inline_comment_prefixes=(";",), strict=False, allow_no_value=True, default_section="\0"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as typeshed knows: a function
    try:
        parser.read_string(text)
    except configparser.Error as error:
        reason = str(error).splitlines()[0]
        raise InvalidParams(f'cannot read "{source}": {reason}', file=source, reason=reason) from error
    draft = Draft(source, "supervisord.conf")
    sections = {name: {k: v or "" for k, v in parser[name].items()} for name in parser.sections()}
    for section, table in sections.items():
        kind, _, name = section.partition(":")
        if kind == "program":
            _convert(draft.agent(name), table, folder)
        elif kind == "supervisord":
            _convert_daemon(draft, table, folder)
        elif kind == "include":
            draft.note(f"include {table.get('files', '')}", "not followed: import each of its files")
        elif kind != "group":
            draft.note(f"[{section}]", SECTIONS.get(kind, "no equivalent"))
    for section, table in sections.items():
        if section.startswith("group:"):
            _label(draft, section.partition(":")[2], table)
    return draft


def _convert(entry: Entry, table: Mapping[str, str], folder: str) -> None:
    here = {"here": folder, "program_name": entry.original, "group_name": entry.original}
    here["process_num"] = "${instance}"

    def text(key: str) -> str | None:
        return _expanded(entry, table[key], here) if table.get(key) else None

    number = table.get("numprocs", "1")
    if number.isdecimal() and int(number) > 1:
        entry.set("instances", int(number))
    if table.get("numprocs_start", "0") != "0":
        entry.note("numprocs_start", "${instance} counts from 0")
    try:
        entry.set(
            "command", [_expanded(entry, each, here) for each in shlex.split(table.get("command", ""), comments=False)]
        )
    except ValueError:
        entry.set("command", ["sh", "-c", text("command") or ""])
    if not entry.table.get("command"):
        entry.set("command", ["COMMAND"])
        entry.is_complete = False
        entry.note("command", "missing, so this program is a comment")
    entry.environment(_variables(entry, table.get("environment", ""), here))
    entry.set("process.working_directory", text("directory"))
    entry.set("process.user", table.get("user"))
    entry.set("process.umask", table.get("umask"))
    entry.set(
        "process.stop_signal", f"SIG{table['stopsignal'].removeprefix('SIG')}" if table.get("stopsignal") else None
    )
    entry.set("process.shutdown_grace_period", _number(table.get("stopwaitsecs")))
    if table.get("autostart", "true").lower() in ("false", "no", "0", "off"):
        entry.set("autostart", False)
    word = table.get("autorestart", "unexpected").lower()
    always = word in ("true", "yes", "1", "on")
    entry.set("recovery.restart", "always" if always else "on-failure" if word == "unexpected" else "never")
    entry.set("recovery.max_restart_attempts", _number(table.get("startretries")))
    entry.set("monitoring.max_log_file_bytes", size_of(table.get("stdout_logfile_maxbytes")))
    entry.set("monitoring.max_log_files", _number(table.get("stdout_logfile_backups")) or None)
    if table.get("exitcodes", "0") != "0":
        entry.note("exitcodes", "only 0 is a success")
    if table.get("startsecs", "1") != "1":
        entry.note("startsecs", "a program is ready after one second: ready = { tcp|http|log|exec = … } says it better")
    if table.get("priority", "999") != "999":
        entry.note("priority", "starts are ordered by requires, which waits until the other is ready")
    name = table.get("process_name", "")
    if name not in ("", "%(program_name)s") and "process_num" not in name:
        entry.note("process_name", "workers are called NAME-0, NAME-1 and so on")
    list_unknown(entry, table, REASONS, DONE)


def _expanded(entry: Entry, text: str, values: Mapping[str, str]) -> str:
    """Translates `%(NAME)s` to a value, or to a variable of corral's configuration."""

    def expression(found: re.Match[str]) -> str:
        if found[1]:
            return "%"
        name = found[2]
        if name.startswith("ENV_"):
            return Reference(f"${{{name.removeprefix('ENV_')}}}")
        if name == "process_num" and found[3]:
            entry.note(found[0], "${instance} has no leading zeros")
        if name not in values:
            entry.note(found[0], "no equivalent")
            return found[0]
        return Reference(values[name]) if name == "process_num" else values[name]

    return expanded(text, _EXPRESSION, expression)


def _variables(entry: Entry, text: str, values: Mapping[str, str]) -> Table:
    """Reads `A="1",B='2',C=3`."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace = ", \t\r\n"
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        pairs = [word.partition("=") for word in lexer]
    except ValueError:
        entry.note("environment", "its quotes do not match")
        return {}
    return {name: _expanded(entry, value, values) for name, equals, value in pairs if equals}


def _convert_daemon(draft: Draft, table: Mapping[str, str], folder: str) -> None:
    entry = Entry("supervisord", "process")
    variables = _variables(entry, table.get("environment", ""), {"here": folder})
    section: Table = {}
    if variables:
        section["environment"] = variables
    if table.get("umask"):
        section["umask"] = table["umask"]
    if section:
        draft.sections["process"] = section
    draft.notes += entry.notes
    for key in table:
        if key not in ("environment", "umask"):
            draft.note(f"supervisord.{key}", DAEMON.get(key, "no equivalent"))


def _label(draft: Draft, name: str, table: Mapping[str, str]) -> None:
    """Makes a group a label: `corral restart -l group=NAME`."""
    for program in table.get("programs", "").split(","):
        entry = draft.named(program.strip())
        if entry is None:
            draft.note(f"[group:{name}]", f'there is no program "{program.strip()}"')
        else:
            entry.set("labels.group", name)
    if table.get("priority"):
        draft.note(f"[group:{name}] priority", "starts are ordered by requires")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
