"""Converts a Compose file (compose.yaml, docker-compose.yml).

corral runs programs of the machine, not images; the parts that an image brings are noted. What holds where a service
says nothing is that of the Compose specification (05-services, 12-interpolation) and of Docker: restart is "no",
stop_signal SIGTERM, stop_grace_period 10 s; a container that is restarted waits 0.1 s, then twice as long, up to a
minute, and begins anew once it was up for 10 s; a health check is asked each 30 s and has 30 s and three tries.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import CorralError

from ..new_file import read_text
from . import yaml_text
from .draft import ENDLESS, FOREVER_S, Draft, Entry, Meaning, Table, Unfit, keys, ref, take, to, unreadable
from .values import flag, number, seconds, signal, size, text
from .variable_file import FILE_BYTES_MAX, parsed, take_files

DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "process": {"stop_signal": "SIGTERM", "shutdown_grace_period": 10.0},
    "recovery": {
        **{"restart": "never", "max_restart_attempts": ENDLESS, "healthy_after": 10.0},
        **{"restart_backoff_base": 0.1, "restart_backoff_max": 60.0},
    },
}
HEALTH: Table = {"interval": 30.0, "timeout": 30.0, "threshold": 3}

LOCAL = "programs of one machine reach each other on 127.0.0.1, not by the name of the service"
VALUES = (
    'write ${secret:NAME} in environment ("corral secret"), or the path of the file in the configuration of the program'
)
FILES = "a program sees the files of the machine: write the paths on the left in its configuration, or read_paths and write_paths"
INCLUDE = 'not followed: import the output of "docker compose config"'
TOP = keys(
    {
        **{
            "services version": None,
            "networks": LOCAL,
            "volumes": FILES,
            "secrets configs": VALUES,
            "include": INCLUDE,
        },
        "name": "corral has one set of agents, without a project name",
    }
)
EXTENSION = "an extension: only what other keys take from it by an anchor is used"
RESTARTS = {
    **{"no": "never", "none": "never", "always": "always", "any": "always", "unless-stopped": "always"},
    "on-failure": "on-failure",
}

_INNER = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*"
_VARIABLE = re.compile(rf"\$(?:(\$)|([A-Za-z_]\w*)|\{{([A-Za-z_]\w*)(?:(:?[-?+])({_INNER}))?\}})")
NESTED = frozenset(
    [
        "deploy",
        "deploy.resources",
        "deploy.resources.limits",
        "deploy.resources.reservations",
        "deploy.restart_policy",
        "logging",
        "logging.options",
        "ulimits",
        "healthcheck",
    ]
)
"""Tables whose keys are read by themselves."""


class Variables:
    """Replaces the variables of a file: by references, or where corral has none such, by the values of now."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        """Reads `.env` of the project, over which the environment wins."""
        try:
            self._dotenv = env_file({}, read_text(f"{folder}/.env", FILE_BYTES_MAX))
        except CorralError:
            self._dotenv = {}
        self.values = {**self._dotenv, **environ}
        self.taken: set[str] = set()

    def of_dotenv(self) -> list[str]:
        """Returns the variables that were referred to and are in `.env`."""
        return sorted(self.taken & self._dotenv.keys())

    def now(self, value: object) -> object:
        """Returns a value with the variables in its texts replaced."""
        if isinstance(value, str):
            return _VARIABLE.sub(lambda found: expanded(found, self.values), value)
        if (table := as_object(value)) is not None:
            return {key: self.now(each) for key, each in table.items()}
        return [self.now(each) for each in array] if (array := as_array(value)) is not None else value

    def referred(self, entry: Entry, written: str) -> str:
        """Returns a text with references to its variables; a kind that corral has not is replaced now, with a note."""

        def reference(found: re.Match[str]) -> str:
            name, how, rest = found[2] or found[3], found[4] or "", found[5] or ""
            if found[1]:
                return "$"  # the program's own dollar
            if how.endswith("?") and name in self.values:
                self.taken.add(name)
                return ref(name)
            if how in ("", ":-") and not set("$}\0") & set(rest):
                self.taken.add(name)
                return ref(f"{name}:-{rest}")
            value = expanded(found, self.values)
            entry.note(found[0], f'has no equivalent: "{value}", as the variables are now')
            return value

        return _VARIABLE.sub(reference, written)


def expanded(found: re.Match[str], values: Mapping[str, str]) -> str:
    """Returns the value of one variable, as Compose interpolates it."""
    name, how, rest = found[2] or found[3], found[4] or "", found[5] or ""
    if found[1]:
        return "$"
    value = values.get(name)
    is_set = bool(value) if how.startswith(":") else value is not None
    if how.endswith("?") and not is_set:
        raise Unfit(f"the variable {name} is not set, which Compose refuses")
    if (how.endswith("-") and not is_set) or (how.endswith("+") and is_set):
        return _VARIABLE.sub(lambda inner: expanded(inner, values), rest)
    return "" if value is None or how.endswith("+") else value


def env_file(values: Mapping[str, str], written: str) -> dict[str, str]:
    """Returns the variables of an env_file, in which those of the environment are replaced."""
    return parsed(written, escaped='nt"\\$', expand=lambda value: _VARIABLE.sub(lambda m: expanded(m, values), value))


# --- services -------------------------------------------------------------------------------------


def convert(source_text: str, source: str, folder: str) -> Draft:
    """Converts the text of a Compose file."""
    top = as_object(yaml_text.document(source_text, source)) or {}
    services = as_object(top.get("services"))
    if services is None:
        raise unreadable(source, "it has no table services")
    draft = Draft(source, "Compose file", folder, DEFAULTS)
    take(draft.file, top.items(), {**TOP, **{key: EXTENSION for key in top if str(key).startswith("x-")}})
    variables = Variables(folder, os.environ)
    tables = {str(name): as_object(each) or {} for name, each in services.items()}
    for name, table in tables.items():
        entry = draft.agent(name)
        try:
            _convert(draft, entry, table, variables)
        except Unfit as error:  # a variable that has to be set
            entry.exclude("variables", str(error))
    for name, table in tables.items():
        _require(draft, name, table)
    if names := variables.of_dotenv():
        draft.file.note(".env", f"corrald reads it beside its own configuration: copy {', '.join(names)} there")
    return draft


def _convert(draft: Draft, entry: Entry, table: Mapping[str, object], variables: Variables) -> None:
    variables.now(dict(table))  # or Unfit, where one that is not set has to be
    say = partial(variables.referred, entry)
    given: Mapping[str, Meaning] = {
        **dict.fromkeys(("command", "entrypoint", "image", "build", "healthcheck.test")),
        "environment": partial(_environment, say),
        "labels": partial(_labels, say),
        "user": partial(_user, say),
        "working_dir": to(lambda value: draft.path(say(text(value))), "process.working_directory"),
    }
    _program(entry, table, say)
    for key, value in _flat(table):
        plain = value if key in given else variables.now(value)
        if plain is not None:
            take(entry, [(key, plain)], {key: EXTENSION} if key.startswith("x-") else {**MEANINGS, **given})
        if plain != value:
            entry.note(key, "as its variables are now: here they are not read again")
    _files(draft, entry, variables, table.get("env_file"))
    _health(entry, table, say)


def _files(draft: Draft, entry: Entry, variables: Variables, value: object) -> None:
    now = variables.now(value)
    files = as_array(now) or ([] if now is None else [now])
    tables = [as_object(each) or {"path": each} for each in files]
    found = [(draft.path(text(each.get("path"))), each.get("required") is False) for each in tables]
    take_files(entry, "env_file", found, partial(env_file, variables.values))


def _flat(table: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yields the keys of a service, those of some tables in it as `deploy.replicas`."""
    for key, value in table.items():
        name = f"{above}{key}"
        inner = as_object(value) if name in NESTED else None
        yield from [(name, value)] if inner is None else _flat(inner, f"{name}.")


def _program(entry: Entry, table: Mapping[str, object], say: Callable[[str], str]) -> None:
    words = [*_argv(table.get("entrypoint"), say), *_argv(table.get("command"), say)]
    if table.get("image") is not None or "build" in table:
        reason = "corral runs programs of this machine: install it here"
        if not table.get("entrypoint"):
            reason += ", and write the entrypoint of the image before the command"
        entry.note(f"image {text(table['image'])}" if table.get("image") is not None else "build", reason)
    if words:
        entry.set("command", words)
    else:
        entry.exclude("command", "missing here: the image has it")


def _argv(value: object, say: Callable[[str], str]) -> list[str]:
    """Returns the words of `command` or `entrypoint`; a text is split like the words of a shell, as Compose does."""
    if (array := as_array(value)) is not None:
        return [say(text(each)) for each in array]
    pieces = say(text(value)).split("\0")
    try:  # a reference is a part of one word, also where its default has a space
        words = shlex.split("\0".join(str(n) if n % 2 else piece for n, piece in enumerate(pieces)))
    except ValueError as error:
        raise Unfit("the quotes of its command do not match") from error
    return [re.sub("\0(.*?)\0", lambda found: ref(pieces[int(found[1])]), word) for word in words]


def _pairs(value: object) -> dict[str, str | None]:
    """Returns a table that is written as one or as a list of `K=V`; a key without a value has None."""
    if (array := as_array(value)) is not None:
        parts = [text(each).partition("=") for each in array]
        return {name: each if equals else None for name, equals, each in parts}
    if as_object(value) is None:
        raise Unfit("it is neither a table nor a list")
    return {str(k): None if v is None else text(v) for k, v in (as_object(value) or {}).items()}


def _environment(say: Callable[[str], str], entry: Entry, value: object) -> None:
    """Takes the variables; one without a value is that of the daemon, if it has one."""
    for name, each in _pairs(value).items():
        if each is None:
            entry.note(f"environment.{name}", "taken from the environment of corrald, empty without it")
        entry.environment({name: ref(f"{name}:-") if each is None else say(each)})


def _labels(say: Callable[[str], str], entry: Entry, value: object) -> None:
    labels = {name: say(each or "") for name, each in _pairs(value).items()}
    if any("," in each for each in labels.values()):
        entry.note("labels", "a comma is not allowed in a value: it became a space")
    entry.set("labels", {name: each.replace(",", " ") for name, each in labels.items()})


def _user(say: Callable[[str], str], entry: Entry, value: object) -> None:
    user, group = re.fullmatch(rf"((?:\$\{{{_INNER}\}}|[^:])*):?(.*)", text(value), re.DOTALL).groups()  # type: ignore[union-attr]  # it matches anything
    entry.set("process.user", say(user) or None)
    entry.set("process.group", say(group) or None)


def _cpus(value: object) -> int:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text(value)):
        raise Unfit("it is no number of processors")
    return max(1, round(float(text(value)) * 100)) if float(text(value)) else 0


def _memory(value: object) -> object:
    return 0 if text(value) == "-1" else size(value)


def _copies(entry: Entry, value: object) -> None:
    copies = number(value)
    if copies < 0:
        raise Unfit("there is no such number of workers")
    entry.set("instances", copies if copies > 1 else None)
    entry.set("autostart", None if copies else False)


def _descriptors(entry: Entry, value: object) -> None:
    limits = as_object(value) or {"soft": value}
    soft = number(limits.get("soft"))
    entry.set("resources.max_file_descriptors", soft if soft >= 0 else 1 << 20)
    if limits.get("hard", soft) != soft:
        raise Unfit("the soft limit is both here")


def _profiles(entry: Entry, value: object) -> None:
    if value:
        entry.set("autostart", False)
        raise Unfit('not started by itself: "corral start NAME"')


def _restart(entry: Entry, value: object) -> None:
    word, _, attempts = text(value).partition(":")
    if word not in RESTARTS:
        raise Unfit("no such policy: not restarted")
    entry.set("recovery.restart", RESTARTS[word])
    if attempts:
        entry.set("recovery.max_restart_attempts", number(attempts))
    if word == "unless-stopped":
        raise Unfit("one that you stopped is started with the next corrald; one with autostart = false is not")


LIMITS = "deploy.resources.limits"
MEANINGS: Mapping[str, Meaning] = keys(
    {
        "env_file depends_on": None,
        "restart deploy.restart_policy.condition": _restart,
        "deploy.restart_policy.delay": to(seconds, "recovery.restart_backoff_base", "recovery.restart_backoff_max"),
        "deploy.restart_policy.max_attempts": to(number, "recovery.max_restart_attempts"),
        "deploy.restart_policy.window": to(seconds, "recovery.healthy_after"),
        "stop_signal": to(signal, "process.stop_signal"),
        "stop_grace_period": to(seconds, "process.shutdown_grace_period"),
        f"mem_limit {LIMITS}.memory": to(_memory, "resources.max_memory_bytes"),
        f"cpus {LIMITS}.cpus": to(_cpus, "resources.cpu_limit_percent"),
        f"pids_limit {LIMITS}.pids": to(lambda value: max(0, number(value)), "resources.max_processes"),
        "scale deploy.replicas": _copies,
        "ulimits.nofile": _descriptors,
        "profiles": _profiles,
        "logging.driver": ('"corral logs" has the output', "json-file", "local"),
        "logging.options.max-size": to(size, "monitoring.max_log_file_bytes"),
        "logging.options.max-file": to(number, "monitoring.max_log_files"),
        "healthcheck.disable": to(lambda value: flag(value) or None, "health.disable"),
        "healthcheck.interval": to(lambda value: seconds(value) or None, "health.interval"),
        "healthcheck.timeout": to(lambda value: seconds(value) or None, "health.timeout"),
        "healthcheck.start_period": to(lambda value: seconds(value) or None, "health.start_delay"),
        "healthcheck.retries": to(lambda value: number(value) or None, "health.threshold"),
        "ports expose": "a program listens by itself, on 127.0.0.1 for others of this machine: have it bind the address on the left",
        "volumes tmpfs": FILES,
        "networks network_mode links external_links": LOCAL,
        "container_name": "the name of the agent is used",
        "hostname extra_hosts dns dns_search dns_opt sysctls shm_size platform": "that of the machine is used",
        "secrets configs": VALUES,
        "extends": INCLUDE,
        "init": ("children that have ended are reaped in any case", "true", "false"),
        "tty stdin_open": ("a program has pipes, no terminal, and stdin is empty", "false"),
        "cap_add cap_drop security_opt": "a program has the rights of its user",
        "privileged": ("a program has the rights of its user", "false"),
        "read_only": ("write_paths in the section process names what it may write", "false"),
    }
)


def _health(entry: Entry, table: Mapping[str, object], say: Callable[[str], str]) -> None:
    """Makes a check of the test, and of the times that were taken already."""
    times = as_object(entry.table.pop("health", None)) or {}
    written = as_object(table.get("healthcheck")) or {}
    test = written.get("test")
    array = [text(each) for each in as_array(test) or []]
    if test is None or array[:1] == ["NONE"] or times.pop("disable", False):
        if times:
            entry.note("healthcheck", f"without a test: {', '.join(times)} are left out")
        return
    words = array[1:] if array[:1] == ["CMD"] else ["/bin/sh", "-c", " ".join(array[1:]) if array else text(test)]
    entry.set("health", [{"exec": [say(each) for each in words], **HEALTH, **times}])


def _require(draft: Draft, name: str, table: Mapping[str, object]) -> None:
    entry = draft.named(name)
    assert entry is not None, "it was added before"
    written = table.get("depends_on")
    conditions = {str(key): as_object(how) or {} for key, how in (as_object(written) or {}).items()}
    conditions |= {str(each): {} for each in as_array(written) or []}
    if not conditions and written:
        entry.note("depends_on", "it is neither a table nor a list")
    names: list[str] = []
    for other, how in conditions.items():
        found = draft.named(other)
        if found is None or not found.is_complete:
            entry.note(f"depends_on {other}", "it is no program of this file that corral can start")
            continue
        names.append(found.name)
        condition = how.get("condition", "service_started")
        if condition == "service_completed_successfully":
            found.run_once()
        elif condition == "service_healthy":
            _await_health(found)
        elif condition != "service_started":
            entry.note(f"depends_on {other}", f"{condition}: no equivalent")
        for key, quiet in (("restart", False), ("required", True)):
            if how.get(key, quiet) is not quiet:
                entry.note(f"depends_on {other}", f"{key}: no equivalent")
    entry.set("requires", names or None)


def _await_health(entry: Entry) -> None:
    """Makes a program ready once its health check succeeds, however long that takes: Compose does not kill it."""
    checks = as_array(entry.get("health"))
    if not checks:
        entry.note("depends_on service_healthy", "it has no health check here: ready after one second")
        return
    probe = as_object(checks[0]) or {}
    entry.set("ready", {key: probe[key] for key in ("exec", "interval", "timeout")})
    entry.set("process.spawn_timeout", FOREVER_S)
