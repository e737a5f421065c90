"""Converts an ecosystem file of pm2: JSON, YAML, or JavaScript, which an installed node evaluates."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams

from . import yaml_text
from .draft import Draft, Entry, list_unknown, literal
from .quantities import seconds_of, size_of

DONE = (
    *("name", "script", "args", "cwd", "interpreter", "exec_interpreter", "interpreter_args", "node_args"),
    *("instances", "env", "max_memory_restart", "autorestart", "max_restarts", "restart_delay"),
    *("kill_timeout", "exp_backoff_restart_delay", "min_uptime", "uid", "gid", "user", "namespace"),
    *("increment_var", "instance_var", "exec_mode", "autostart"),
)
LOGS = '"corral logs NAME" has the output'
REASONS = {
    **dict.fromkeys(("error_file", "out_file", "log_file", "output", "error", "log"), LOGS),
    **dict.fromkeys(("merge_logs", "combine_logs", "time", "log_date_format", "log_type"), LOGS),
    "watch": "a program is not watched: corral restart NAME; a warm Python agent is renewed when its sources change",
    "ignore_watch": "a program is not watched",
    "watch_delay": "a program is not watched",
    "cron_restart": "a restart at a time has no equivalent; a job at a time is [schedules.NAME]",
    "wait_ready": "write ready = { tcp|http|log|exec = … }: process.send('ready') is not heard",
    "listen_timeout": "write spawn_timeout in the section process, with ready = {…}",
    "shutdown_with_message": "a program is asked to stop by stop_signal",
    "source_map_support": "add --enable-source-maps to the command",
    "stop_exit_codes": "only exit 0 is a success",
    "post_update": "there is no deployment by git",
    "pmx": "no equivalent",
    "vizion": "no equivalent",
    "force": "no equivalent",
    "filter_env": "a program gets inherit_environment of the section process only",
    "treekill": "all processes of a program are always ended",
    "disable_trace": "no equivalent",
}
RESTARTS = 16
"""Number of restarts after which pm2 gives up, unless the file says otherwise."""

NODE_S = 20.0
"""Seconds for node to evaluate a file."""

EVALUATE = (
    "const found = require(process.argv[1]);"
    "process.stdout.write('\\n\\0' + JSON.stringify(found && found.default || found))"
)
INTERPRETERS = {".py": "python3", ".sh": "bash", ".rb": "ruby", ".php": "php", ".pl": "perl"}
NODE_ENDINGS = frozenset((".js", ".cjs", ".mjs", ".ts", ""))


def convert(text: str, source: str) -> Draft:
    """Converts the text of an ecosystem file."""
    is_script = source.endswith((".js", ".cjs", ".mjs"))
    found = _evaluated(source) if is_script else yaml_text.document(text, source)
    top = as_object(found) or {}
    apps = as_array(found) or as_array(top.get("apps")) or as_array(top.get("pm2"))
    apps = apps if apps is not None else [top["apps"]] if "apps" in top else [top] if "script" in top else None
    if not apps:
        reason = "it has no apps"
        raise InvalidParams(f'cannot import "{source}": {reason}', file=source, reason=reason)
    draft = Draft(source, "pm2 ecosystem file")
    for each in apps:
        table = as_object(each) or {}
        name = str(table.get("name") or os.path.splitext(os.path.basename(str(table.get("script", "app"))))[0])
        _convert(draft.agent(name), table)
    if "deploy" in top:
        draft.note("deploy", "there is no deployment by ssh and git")
    return draft


def _evaluated(path: str) -> object:
    """Returns what a module exports, as JSON. It runs the file, as pm2 does."""
    node = shutil.which("node")
    if node is None:
        reason = "it is JavaScript, and there is no node to evaluate it: write it as .json"
        raise InvalidParams(f'cannot read "{path}": {reason}', file=path, reason=reason)
    try:
        done = subprocess.run(
            [node, "-e", EVALUATE, os.path.abspath(path)],
            capture_output=True, text=True, timeout=NODE_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return json.loads(done.stdout.rpartition("\n\0")[2])
    except subprocess.TimeoutExpired as error:
        reason = f"node does not end within {NODE_S:g} s"
        raise InvalidParams(f'cannot read "{path}": {reason}', file=path, reason=reason) from error
    except ValueError as error:
        lines = [line for line in done.stderr.splitlines() if "Error" in line] or ["it exports no JSON"]
        raise InvalidParams(f'cannot read "{path}": {lines[0]}', file=path, reason=lines[0]) from error


def _convert(entry: Entry, table: Mapping[str, object]) -> None:
    words = _command(entry, table)
    if not words:
        entry.is_complete = False
        entry.note("script", "missing, so this program is a comment")
    entry.set("command", [literal(each) for each in words] or ["COMMAND"])
    variables = as_object(table.get("env")) or {}
    entry.environment({k: literal(_scalar(v)) for k, v in variables.items()})
    _instances(entry, table, variables)
    entry.set("process.working_directory", table.get("cwd"))
    for key, names in (("user", ("user", "uid")), ("group", ("gid",))):
        given = next((table[name] for name in names if table.get(name) is not None), None)
        entry.set(f"process.{key}", None if given is None else str(given))
    entry.set("process.shutdown_grace_period", seconds_of(table.get("kill_timeout", 1600), 0.001))
    entry.set("resources.max_memory_bytes", size_of(table.get("max_memory_restart")))
    entry.set("recovery.restart", "never" if table.get("autorestart") is False else "always")
    most = table.get("max_restarts", RESTARTS)
    entry.set("recovery.max_restart_attempts", most if isinstance(most, int) else None)
    delay = seconds_of(table.get("restart_delay"), 0.001)
    if delay:
        entry.set("recovery.restart_backoff_base", delay)
        entry.set("recovery.restart_backoff_max", delay)
    backoff = seconds_of(table.get("exp_backoff_restart_delay"), 0.001)
    if backoff:
        entry.set("recovery.restart_backoff_base", backoff)
        entry.set("recovery.restart_backoff_max", max(15.0, backoff))
    entry.set("recovery.healthy_after", seconds_of(table.get("min_uptime"), 0.001))
    entry.set("labels", {"namespace": str(table["namespace"])} if table.get("namespace") else None)
    if table.get("autostart") is False:
        entry.set("autostart", False)
    for key in table:
        if key.startswith("env_"):
            entry.note(key, "another set of variables: write a file of its own, or environment_file")
    quiet = [key for key, each in table.items() if key.startswith("env_") or each in (False, None)]
    list_unknown(entry, table, REASONS, (*DONE, *quiet))


def _command(entry: Entry, table: Mapping[str, object]) -> list[str]:
    script = str(table.get("script") or "")
    if not script:
        return []
    head = shlex.split(script) if " " in script and not os.path.exists(script) else [script]
    interpreter = table.get("interpreter", table.get("exec_interpreter"))
    if interpreter is None:
        ending = os.path.splitext(head[0])[1]
        known = INTERPRETERS.get(ending) or ("node" if ending in NODE_ENDINGS else "")
        is_program = len(head) > 1 or (ending == "" and "/" not in head[0])
        interpreter = "none" if is_program or not known else known
    options = table.get("interpreter_args", table.get("node_args"))
    before = [] if interpreter == "none" else [str(interpreter), *_words(options)]
    return [*before, *head, *_words(table.get("args"))]


def _words(value: object) -> list[str]:
    if (array := as_array(value)) is not None:
        return [str(each) for each in array]
    try:
        return shlex.split(str(value)) if value is not None else []
    except ValueError:
        return str(value).split()


def _instances(entry: Entry, table: Mapping[str, object], variables: Mapping[str, object]) -> None:
    wanted = table.get("instances", 1)
    number = int(str(wanted)) if str(wanted).lstrip("-").isdecimal() else 0
    if number <= 0:
        processors = os.cpu_count() or 1
        number = max(1, processors + number)
        entry.note(f"instances {wanted}", f"counted on this machine: {number}")
    if number > 1:
        entry.set("instances", number)
    if number > 1 or "instance_var" in table:
        entry.environment({str(table.get("instance_var", "NODE_APP_INSTANCE")): "${instance}"})
    if (name := table.get("increment_var")) is not None:
        first = str(variables.get(str(name), "0"))
        if first.isdecimal() and int(first) > 0:
            entry.environment({str(name): f"${{port:{first}}}"})
        else:
            entry.environment({str(name): "${instance}"})
    if str(table.get("exec_mode", "")).startswith("cluster"):
        reason = "the processes are independent and share no socket: give each a port, such as ${port:8000}"
        entry.note("exec_mode cluster", reason)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if as_object(value) or as_array(value) else str(value)
