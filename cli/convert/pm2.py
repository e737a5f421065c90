"""Converts an ecosystem file of pm2: JSON, YAML, or JavaScript, which an installed node evaluates.

What holds where an app says nothing is that of pm2's "Ecosystem File Reference" and lib/API/schema.json: a program is
started again for ever, but not after 16 lives in a row that were shorter than `min_uptime` (1 s); it is stopped by
SIGINT, and killed after 1.6 s.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping

from corral.worker.contract.codec import as_array, as_object

from . import yaml_text
from .draft import Draft, Entry, Meaning, Unfit, keys, ref, take, to, unreadable
from .values import flag, milliseconds, number, size, text

DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "process": {"stop_signal": "SIGINT", "shutdown_grace_period": 1.6},
    "environment": {"NODE_APP_INSTANCE": ref("instance")},
    "recovery": {
        **{"restart": "always", "max_restart_attempts": 16, "healthy_after": 1.0},
        **{"restart_backoff_base": 0.0, "restart_backoff_max": 0.0},
    },
}
BACKOFF_MAX_S = 15.0
"""The longest wait of exp_backoff_restart_delay."""

NODE_S = 20.0
"""Seconds for node to evaluate a file."""

EVALUATE = (
    "const found = require(process.argv[1]);"
    "process.stdout.write('\\n\\0' + JSON.stringify(found && found.default || found))"
)
INTERPRETERS = {".py": "python3", ".sh": "bash", ".rb": "ruby", ".php": "php", ".pl": "perl"}
NODE_ENDINGS = frozenset((".js", ".cjs", ".mjs", ".ts", ""))


def _copies(entry: Entry, value: object) -> None:
    wanted = 0 if value == "max" else number(value)
    copies = wanted if wanted > 0 else max(1, (os.cpu_count() or 1) + wanted)
    entry.set("instances", copies if copies > 1 else None)
    if wanted <= 0:
        raise Unfit(f"{text(value)}: counted on this machine, {copies}")


def _instance_variable(entry: Entry, value: object) -> None:
    variables = as_object(entry.table.pop("environment", None)) or {}
    entry.environment({text(value) if k == "NODE_APP_INSTANCE" else k: str(v) for k, v in variables.items()})


def _increment_variable(entry: Entry, value: object) -> None:
    first = text((as_object(entry.get("environment")) or {}).get(text(value), "0"))
    is_port = first.isdecimal() and 0 < int(first) < 65_536
    entry.environment({text(value): ref(f"port:{first}") if is_port else ref("instance")})
    if not is_port and first != "0":
        raise Unfit("counts from 0: it is no port")


def _environment(entry: Entry, value: object) -> None:
    table = as_object(value)
    if table is None:
        raise Unfit("write a table of variables")
    entry.environment({key: each if isinstance(each, str) else json.dumps(each) for key, each in table.items()})


def _growing_wait(entry: Entry, value: object) -> None:
    first_s = milliseconds(value)
    if first_s:
        entry.set("recovery.restart_backoff_base", first_s)
        entry.set("recovery.restart_backoff_max", max(BACKOFF_MAX_S, first_s))


def _mode(_entry: Entry, value: object) -> None:
    if text(value) not in ("fork", "fork_mode"):
        raise Unfit(f"{value}: the processes share no socket: give each a port, such as ${{port:8000}}")


OFF = ("false", "0", "", "none")
LOGS = ('"corral logs NAME" has the output', *OFF)
MEANINGS: Mapping[str, Meaning] = keys(
    {
        "name script exec args interpreter exec_interpreter node_args interpreter_args interpreterArgs": None,
        "env": _environment,
        "instances": _copies,
        "instance_var": _instance_variable,
        "increment_var": _increment_variable,
        "port": lambda entry, value: entry.environment({"PORT": text(value)}),
        "uid user": to(text, "process.user"),
        "gid": to(text, "process.group"),
        "kill_timeout": to(milliseconds, "process.shutdown_grace_period"),
        "max_memory_restart": to(size, "resources.max_memory_bytes"),
        "autostart": to(flag, "autostart"),
        "autorestart": to(lambda value: "always" if flag(value) else "never", "recovery.restart"),
        "max_restarts": to(number, "recovery.max_restart_attempts"),
        "min_uptime": to(milliseconds, "recovery.healthy_after"),
        "restart_delay": to(milliseconds, "recovery.restart_backoff_base", "recovery.restart_backoff_max"),
        "exp_backoff_restart_delay": _growing_wait,
        "namespace": to(text, "labels.namespace"),
        "exec_mode": _mode,
        "execute_command": ('write interpreter: "none"', *OFF),
        "out_file out output out_log error_file error err err_file err_log log_file log": LOGS,
        "merge_logs combine_logs time log_date_format log_type": LOGS,
        "disable_logs": ("enable_log_aggregation = false in the section monitoring", *OFF),
        "watch ignore_watch watch_delay watch_options": ("a program is not watched: corral restart NAME", *OFF),
        "cron_restart cron": ("a restart at a time has no equivalent; a job at a time is [schedules.NAME]", *OFF),
        "wait_ready": ("write ready = { tcp|http|log|exec = … }: process.send('ready') is not heard", *OFF),
        "listen_timeout": "write spawn_timeout in the section process, with ready = {…}",
        "shutdown_with_message": ("a program is asked to stop by stop_signal", *OFF),
        "source_map_support": ("add --enable-source-maps to the command", *OFF),
        "stop_exit_codes": "only exit 0 is a success",
        "post_update": "there is no deployment by git",
        "filter_env": "a program gets inherit_environment of the section process only",
        "treekill": ("all processes of a program are always ended", "true"),
        "vizion pmx automation disable_trace windowsHide": ("no equivalent", "true", *OFF),
        "force trace v8 event_loop_inspector deep_monitoring": ("no equivalent", *OFF),
    }
)
ANOTHER = "another set of variables: write a file of its own, or environment_file"


def convert(source_text: str, source: str, folder: str) -> Draft:
    """Converts the text of an ecosystem file."""
    is_script = source.endswith((".js", ".cjs", ".mjs"))
    found = _evaluated(source) if is_script else yaml_text.document(source_text, source)
    top = as_object(found) or {}
    apps = as_array(found) or as_array(top.get("apps")) or as_array(top.get("pm2"))
    apps = apps if apps is not None else [top["apps"]] if "apps" in top else [top] if "script" in top else None
    if not apps:
        reason = "it has neither apps, as a file of pm2, nor MCP servers under mcpServers, servers or context_servers"
        raise unreadable(source, reason)
    draft = Draft(source, "pm2 ecosystem file", folder, DEFAULTS)
    for each in apps:
        table = as_object(each) or {}
        script = os.path.splitext(os.path.basename(str(table.get("script") or "app")))[0]
        _convert(draft, draft.agent(str(table.get("name") or script)), table)
    for key in top:
        if "apps" in top and key != "apps":
            draft.file.note(key, "there is no deployment by ssh and git" if key == "deploy" else "no equivalent")
    draft.file.note("environment", "programs get inherit_environment of the section process, not all that pm2 has")
    return draft


def _evaluated(path: str) -> object:
    """Returns what a module exports, as JSON. It runs the file, as pm2 does."""
    node = shutil.which("node")
    if node is None:
        raise unreadable(path, "it is JavaScript, and there is no node to evaluate it: write it as .json", "read")
    try:
        done = subprocess.run(
            [node, "-e", EVALUATE, os.path.abspath(path)],
            capture_output=True, text=True, timeout=NODE_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found: object = json.loads(done.stdout.rpartition("\n\0")[2])
    except subprocess.TimeoutExpired as error:
        raise unreadable(path, f"node does not end within {NODE_S:g} s", "read") from error
    except ValueError as error:
        lines = [line for line in done.stderr.splitlines() if "Error" in line] or ["it exports no JSON"]
        raise unreadable(path, lines[0], "read") from error
    yaml_text.check(found)
    return found


def _convert(draft: Draft, entry: Entry, table: Mapping[str, object]) -> None:
    folder = to(lambda value: draft.path(text(value)), "process.working_directory")
    meanings = {**MEANINGS, "cwd": folder, **{key: ANOTHER for key in table if key.startswith("env_")}}
    late = ("increment_var", "instance_var")  # of variables that env has
    settings = sorted(table.items(), key=lambda each: each[0] in late)
    take(entry, [each for each in settings if each[1] is not None], meanings)
    try:
        entry.set("command", _command(table))
    except Unfit as error:
        entry.exclude("script or args", str(error))


def _command(table: Mapping[str, object]) -> list[str]:
    script = text(table.get("script") or table.get("exec"))
    if not script:
        raise Unfit("missing")
    head = _words(script) if " " in script and not os.path.exists(script) else [script]
    interpreter = table.get("interpreter", table.get("exec_interpreter"))
    if interpreter is None:
        ending = os.path.splitext(head[0])[1]
        known = INTERPRETERS.get(ending) or ("node" if ending in NODE_ENDINGS else "")
        is_program = len(head) > 1 or (ending == "" and "/" not in head[0])
        interpreter = "none" if is_program or not known else known
    options = [each for key in ("node_args", "interpreter_args", "interpreterArgs") for each in _words(table.get(key))]
    before = [] if interpreter == "none" else [text(interpreter), *options]
    return [*before, *head, *_words(table.get("args"))]


def _words(value: object) -> list[str]:
    if (array := as_array(value)) is not None:
        return [text(each) for each in array]
    try:
        return shlex.split(text(value))
    except ValueError as error:
        raise Unfit("its quotes do not match") from error
