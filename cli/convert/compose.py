"""Converts a Compose file (compose.yaml, docker-compose.yml).

corral runs programs of the machine, not images; the parts that an image brings are noted.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams

from . import yaml_text
from .draft import Draft, Entry, Reference, Table, expanded, list_unknown
from .quantities import seconds_of, size_of

DONE = (
    *("command", "entrypoint", "image", "build", "environment", "env_file", "working_dir", "user"),
    *("deploy", "scale", "depends_on", "restart", "healthcheck", "labels", "logging", "profiles"),
    *("stop_signal", "stop_grace_period", "mem_limit", "cpus", "pids_limit", "ulimits", "init"),
)
REASONS = {
    "ports": "a program listens by itself: have it bind the address on the left",
    "expose": "not needed: programs of one machine reach each other on 127.0.0.1",
    "volumes": "a program sees the files of the machine: write the paths on the left in its configuration, or read_paths and write_paths in the section process",
    "networks": "programs of one machine reach each other on 127.0.0.1, not by the name of the service",
    "container_name": "the name of the agent is used",
    "hostname": "a program has the name of the machine",
    "links": "write 127.0.0.1 in place of the name",
    "secrets": 'write ${secret:NAME} in environment: "corral secret"',
    "configs": "write the path of the file in the configuration of the program",
    "extends": 'not followed: import the output of "docker compose config"',
    "tty": "a program has pipes, no terminal",
    "stdin_open": "stdin is empty",
    "privileged": "a program has the rights of its user",
    "cap_add": "a program has the rights of its user",
    "cap_drop": 'isolation = "basic" sets no_new_privs',
    "read_only": "write_paths in the section process names what it may write",
    "tmpfs": "no file systems are mounted",
    "platform": "programs of this machine are run",
    "pull_policy": "no images are pulled",
    "extra_hosts": "/etc/hosts of the machine is used",
    "dns": "the resolver of the machine is used",
    "sysctls": "set by the machine",
    "shm_size": "/dev/shm of the machine is used",
}
TOP_REASONS = {
    "volumes": "programs use folders of the machine",
    "networks": "programs of one machine reach each other on 127.0.0.1",
    "secrets": 'write ${secret:NAME} in environment: "corral secret"',
    "configs": "write the path of the file in the configuration of the program",
    "include": 'not followed: import the output of "docker compose config"',
    "name": "corral has one set of agents, without a project name",
}
RESTARTS = {"no": "never", "always": "always", "on-failure": "on-failure", "unless-stopped": "always"}
MOST_ATTEMPTS = 1000
"""Number of restarts within a minute that is never reached: Compose does not give up."""

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-?+])([^{}]*))?\})")


def convert(text: str, source: str) -> Draft:
    """Converts the text of a Compose file."""
    top = as_object(yaml_text.document(text, source)) or {}
    services = as_object(top.get("services"))
    if services is None:
        reason = "it has no table services"
        raise InvalidParams(f'cannot import "{source}": {reason}', file=source, reason=reason)
    draft = Draft(source, "Compose file")
    list_unknown(
        draft,
        {key: each for key, each in top.items() if not str(key).startswith("x-")},
        TOP_REASONS,
        ("services", "version"),
    )
    for key in top:
        if str(key).startswith("x-"):
            draft.note(str(key), "an extension: only what other keys take from it by an anchor is used")
    tables = {str(name): as_object(each) or {} for name, each in services.items()}
    for name, table in tables.items():
        _convert(draft.agent(name), table)
    for name, table in tables.items():
        _require(draft, name, table)
    return draft


def _convert(entry: Entry, table: Mapping[str, object]) -> None:
    image = table.get("image")
    words = [*_argv(entry, table.get("entrypoint")), *_argv(entry, table.get("command"))]
    if image is not None or "build" in table:
        what = f"image {image}" if image is not None else "build"
        reason = "corral runs programs of this machine: install it here"
        if not table.get("entrypoint"):
            reason += (
                ", and write the entrypoint of the image before the command"
                if words
                else (f", and write its command; the image of {what} says which" if image is None else "")
            )
        entry.note(what, reason)
    if not words:
        words = ["COMMAND"]
        entry.is_complete = False
        entry.note("command", "missing here: the image has it, so this program is a comment")
    entry.set("command", words)
    entry.environment(_environment(entry, table.get("environment")))
    _files(entry, table.get("env_file"))
    entry.set("process.working_directory", _text(entry, table.get("working_dir")))
    user, _, group = str(table.get("user", "")).partition(":")
    entry.set("process.user", user or None)
    entry.set("process.group", group or None)
    entry.set("process.stop_signal", _signal(table.get("stop_signal")))
    entry.set("process.shutdown_grace_period", seconds_of(table.get("stop_grace_period")))
    if table.get("profiles"):
        entry.set("autostart", False)
        entry.note("profiles", 'not started by itself: "corral start NAME"')
    labels = _pairs(table.get("labels"))
    if any("," in value for value in labels.values()):
        entry.note("labels", "a comma is not allowed in a value: it became a space")
    entry.set("labels", {key: value.replace(",", " ") for key, value in labels.items()} or None)
    _limits(entry, table)
    _restart(entry, table)
    _health(entry, as_object(table.get("healthcheck")) or {})
    logging = as_object(table.get("logging")) or {}
    options = as_object(logging.get("options")) or {}
    entry.set("monitoring.max_log_file_bytes", size_of(options.get("max-size")))
    files = str(options.get("max-file", ""))
    entry.set("monitoring.max_log_files", int(files) if files.isdecimal() else None)
    if logging.get("driver") not in (None, "json-file", "local"):
        entry.note("logging.driver", '"corral logs" has the output')
    list_unknown(entry, table, REASONS, DONE)


def _argv(entry: Entry, value: object) -> list[str]:
    """Returns the words of `command` or `entrypoint`; a text is split like the words of a shell, as Compose does."""
    if value is None:
        return []
    if (array := as_array(value)) is not None:
        return [_expanded(entry, str(each)) for each in array]
    try:
        return [_expanded(entry, each) for each in shlex.split(str(value))]
    except ValueError:
        return ["sh", "-c", _expanded(entry, str(value))]


def _expanded(entry: Entry, text: str) -> str:
    """Translates the variables of Compose to those of corral's configuration."""

    def variable(found: re.Match[str]) -> str:
        if found[1]:
            return "$"  # the program's own dollar
        name, how, rest = found[2] or found[3], found[4] or "", found[5] or ""
        if how.endswith("+"):
            entry.note(found[0], "such a replacement has no equivalent")
            return found[0]
        if how.endswith("?"):
            return Reference(f"${{{name}}}")
        if "$" in rest:
            entry.note(found[0], "a variable inside a default has no equivalent")
        return Reference(f"${{{name}:-{rest}}}")

    return expanded(text, _VARIABLE, variable)


def _text(entry: Entry, value: object) -> str | None:
    return None if value is None else _expanded(entry, str(value))


def _pairs(value: object) -> dict[str, str]:
    """Returns a table that is written as one or as a list of `K=V`; a key without a value has none."""
    if (array := as_array(value)) is not None:
        return {str(e).partition("=")[0]: str(e).partition("=")[2] for e in array}
    return {str(k): _scalar(v) for k, v in (as_object(value) or {}).items()}


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _environment(entry: Entry, value: object) -> Table:
    """Returns the variables; one without a value is that of the daemon, if it has one."""
    if (array := as_array(value)) is not None:
        found = [(str(e).partition("=")[0], str(e).partition("=")[2] if "=" in str(e) else None) for e in array]
    else:
        items = (as_object(value) or {}).items()
        found = [(str(k), None if v is None else _scalar(v)) for k, v in items]
    taken = [name for name, each in found if each is None]
    for name in taken:
        entry.note(f"environment.{name}", "taken from the environment of corrald, empty without it")
    return {k: f"${{{k}:-}}" if v is None else _expanded(entry, v) for k, v in found}


def _files(entry: Entry, value: object) -> None:
    found = as_array(value)
    paths = found if found is not None else ([] if value is None else [value])
    names = [str((as_object(each) or {}).get("path", each)) for each in paths]
    if names:
        entry.set("process.environment_file", names[0])
    for name in names[1:]:
        entry.note(f"env_file {name}", "only one file: join them")


def _signal(value: object) -> str | None:
    if value is None:
        return None
    name = str(value).upper()
    return name if name.startswith("SIG") else f"SIG{name}"


def _limits(entry: Entry, table: Mapping[str, object]) -> None:
    deploy = as_object(table.get("deploy")) or {}
    limits = as_object((as_object(deploy.get("resources")) or {}).get("limits")) or {}
    entry.set("resources.max_memory_bytes", size_of(limits.get("memory", table.get("mem_limit"))))
    cpus = str(limits.get("cpus", table.get("cpus", "")))
    if re.fullmatch(r"\d*\.?\d+", cpus):
        entry.set("resources.cpu_limit_percent", max(1, round(float(cpus) * 100)))
    processes = limits.get("pids", table.get("pids_limit"))
    if isinstance(processes, int) and processes > 0:
        entry.set("resources.max_processes", processes)
    ulimits = as_object(table.get("ulimits")) or {}
    files = ulimits.get("nofile")
    soft = (as_object(files) or {}).get("soft", files)
    entry.set("resources.max_file_descriptors", soft if isinstance(soft, int) else None)
    for key in ulimits:
        if key != "nofile":
            entry.note(f"ulimits.{key}", "the section resources has the limits of corral")
    replicas = deploy.get("replicas", table.get("scale"))
    if isinstance(replicas, int) and replicas > 1:
        entry.set("instances", replicas)
    if replicas == 0:
        entry.set("autostart", False)
    list_unknown(
        entry,
        {f"deploy.{k}": v for k, v in deploy.items()},
        {},
        ("deploy.replicas", "deploy.resources", "deploy.restart_policy"),
    )


def _restart(entry: Entry, table: Mapping[str, object]) -> None:
    deploy = as_object(table.get("deploy")) or {}
    policy = as_object(deploy.get("restart_policy")) or {}
    words = {"none": "no", "any": "always"}
    written = str(policy.get("condition", table.get("restart", "no")))
    word, _, attempts = words.get(written, written).partition(":")
    entry.set("recovery.restart", RESTARTS.get(word, "on-failure"))
    if word not in RESTARTS:
        entry.note(f"restart {word}", "unknown: restarted on failure")
    most = policy.get("max_attempts", attempts if attempts.isdecimal() else None)
    if most is not None:
        entry.set("recovery.max_restart_attempts", int(str(most)))
    elif word in ("always", "unless-stopped"):
        entry.set("recovery.max_restart_attempts", MOST_ATTEMPTS)
    entry.set("recovery.restart_backoff_base", seconds_of(policy.get("delay")))


def _health(entry: Entry, check: Mapping[str, object]) -> None:
    test = check.get("test")
    if test is None or check.get("disable") is True:
        return
    array = [str(each) for each in as_array(test) or []]
    if array[:1] == ["NONE"]:
        return
    words = array[1:] if array[:1] == ["CMD"] else ["sh", "-c", " ".join(array[1:]) if array else str(test)]
    probe: Table = {"exec": [_expanded(entry, each) for each in words]}
    for key, name in (("interval", "interval"), ("timeout", "timeout"), ("start_period", "start_delay")):
        if (seconds := seconds_of(check.get(key))) is not None:
            probe[name] = seconds
    retries = check.get("retries", 3)
    if isinstance(retries, int) and retries > 0:
        probe["threshold"] = retries
    entry.set("health", [probe])
    for key in check:
        if key not in ("test", "interval", "timeout", "start_period", "retries", "disable"):
            entry.note(f"healthcheck.{key}", "no equivalent")


def _require(draft: Draft, name: str, table: Mapping[str, object]) -> None:
    """Translates `depends_on`, once all programs are known."""
    entry = draft.named(name)
    assert entry is not None, "it was added before"
    wanted = as_object(table.get("depends_on"))
    needs: Sequence[object] = as_array(table.get("depends_on")) or []
    conditions = {str(k): as_object(v) or {} for k, v in (wanted or {}).items()} or {str(each): {} for each in needs}
    names: list[str] = []
    for other, how in conditions.items():
        found = draft.named(other)
        if found is None or not found.is_complete:
            entry.note(f"depends_on {other}", "it is no program of this file that corral can start")
            continue
        names.append(found.name)
        if how.get("condition") == "service_completed_successfully":
            found.run_once()
        if how.get("restart") is True:
            entry.note(f"depends_on {other}", "is not restarted with it")
    entry.set("requires", names or None)
