"""Converts units of systemd: services, and timers and sockets with the service beside them."""

import re
import shlex
from collections.abc import Mapping, Sequence

from .calendar_event import crons
from .draft import Draft, Entry, Reference, expanded
from .quantities import local_zone, seconds_of, size_of
from .systemd_socket import convert_socket

Unit = Mapping[str, Sequence[tuple[str, str]]]
"""Settings by section, in their order; a key may occur several times."""

NOT_NEEDED = frozenset(
    ("Documentation", "NoNewPrivileges", "GuessMainPID", "SyslogIdentifier", "WantedBy", "DefaultDependencies")
)
"""Settings that lose nothing: corral has them in any case, or they have no effect on the program."""

LOGS = '"corral logs NAME" has the output; [daemon] journal = true sends it to the journal, too'
REASONS = {
    **dict.fromkeys(("StandardOutput", "StandardError"), LOGS),
    "StandardInput": "stdin is empty",
    "ExecStop": "a program is asked to stop by stop_signal",
    "ExecStopPost": "no equivalent",
    "ExecStartPost": "write ready = {…}, or a program that requires this one",
    "ExecReload": 'send the signal of the reload: "corral signal NAME HUP"',
    "WatchdogSec": "WATCHDOG=1 is not heard: write health = {…}, or stall_timeout for an agent",
    "NotifyAccess": "write ready = {…}",
    "PIDFile": "the program has to stay in the foreground",
    "Before": "starts are ordered by requires",
    "Conflicts": "no equivalent",
    "OnFailure": "[monitoring] alert runs a command at a failure",
    "WantedBy": "autostart = true",
    "Alias": "no equivalent",
    "Also": "import each unit",
    "KillMode": "all processes of a program are always ended",
    "RandomizedDelaySec": "no equivalent",
    "AccuracySec": "runs are on time to a second",
}
_CONFINING = re.compile(
    r"Protect|Private|Restrict|SystemCall|Capability|Ambient|ReadOnly|ReadWrite|Inaccessible|Temporary|Bind|Dynamic|Memory|Lock|Remove|Mount|Device|UMask"
)
_SPECIFIERS = re.compile(r"%([%a-zA-Z])")
_VARIABLE = re.compile(r"\$(?:\{[A-Za-z_]\w*\}|[A-Za-z_])")
BURST, BURST_S = 5, 10
"""Number of starts within these seconds after which systemd gives up, unless the unit says otherwise."""

RESTARTS = {"no": "never", "always": "always", "on-success": "always"}
SIMPLE = {
    "WorkingDirectory": "process.working_directory",
    "User": "process.user",
    "Group": "process.group",
    "UMask": "process.umask",
    "KillSignal": "process.stop_signal",
    "Description": "description",
}
SECONDS = {
    "TimeoutStartSec": ("process.spawn_timeout",),
    "TimeoutStopSec": ("process.shutdown_grace_period",),
    "TimeoutSec": ("process.spawn_timeout", "process.shutdown_grace_period"),
    "RestartSec": ("recovery.restart_backoff_base",),
    "RestartMaxDelaySec": ("recovery.restart_backoff_max",),
    "StartLimitIntervalSec": ("recovery.restart_window",),
    "StartLimitInterval": ("recovery.restart_window",),
}
NUMBERS = {
    "Nice": "process.nice",
    "TasksMax": "resources.max_processes",
    "LimitNPROC": "resources.max_processes",
    "LimitNOFILE": "resources.max_file_descriptors",
    "LimitCPU": "resources.max_cpu_seconds",
    "StartLimitBurst": "recovery.max_restart_attempts",
}
SIZES = {
    "MemoryMax": "resources.max_memory_bytes",
    "MemoryLimit": "resources.max_memory_bytes",
    "LimitFSIZE": "resources.max_file_size_bytes",
    "LimitAS": "resources.max_address_space_bytes",
}


def parse(text: str) -> dict[str, list[tuple[str, str]]]:
    """Returns the settings of a unit file; a backslash at the end of a line joins it with the next one."""
    sections: dict[str, list[tuple[str, str]]] = {}
    here: list[tuple[str, str]] = []
    joined = ""
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            joined += line[:-1].strip() + " "
            continue
        whole, joined = (joined + line.strip()).strip(), ""
        if whole.startswith("[") and whole.endswith("]"):
            here = sections.setdefault(whole[1:-1], [])
        elif "=" in whole:
            key, _, value = whole.partition("=")
            here.append((key.strip(), value.strip()))
    return sections


def convert(units: Mapping[str, str], source: str) -> Draft:
    """Converts unit files: their texts by file name; a timer belongs to the service of its name, or of `Unit=`."""
    draft = Draft(source, "systemd units")
    parsed = {name: parse(text) for name, text in units.items()}
    timed = {_target(name, unit) for name, unit in parsed.items() if name.endswith(".timer")}
    for name, unit in parsed.items():
        if name.endswith(".service") and name not in timed:
            _convert_service(draft.agent(name.removesuffix(".service")), name, unit)
    for name, unit in parsed.items():
        if name.endswith(".timer"):
            _convert_timer(draft, name, unit, parsed)
        elif name.endswith(".socket"):
            convert_socket(draft, name, unit)
        elif not name.endswith(".service"):
            draft.note(name, "only .service, .socket and .timer have an equivalent")
    for name, unit in parsed.items():
        entry = draft.named(name.removesuffix(".service"))
        if entry is not None:
            _require(draft, entry, unit)
    return draft


def _target(name: str, unit: Unit) -> str:
    settings = dict(unit.get("Timer", ()))
    return settings.get("Unit", name.removesuffix(".timer") + ".service")


def _convert_service(entry: Entry, name: str, unit: Unit) -> None:
    settings = [each for section in ("Unit", "Service", "Install") for each in unit.get(section, ())]
    kind = dict(settings).get("Type", "simple")
    variables: dict[str, str] = {}
    starts: list[str] = []
    for key, value in settings:
        if key == "Environment":
            variables |= _assignments(entry, value, name)
        elif key in ("ExecStart", "ExecStartPre"):
            starts = [*starts, value] if value else []
        else:
            _set(entry, key, value, name)
    entry.environment(variables)
    entry.set("command", _command(entry, starts, name))
    entry.set_default("recovery.restart", "never")
    if kind == "oneshot":
        _bound_run(entry)
        entry.run_once()
    elif kind == "forking":
        entry.note("Type forking", "the program has to stay in the foreground: look for such an option")
    elif kind in ("notify", "notify-reload", "dbus"):
        entry.note(f"Type {kind}", "ready after one second: write ready = { tcp|http|log|exec = … }")
    if "Install" not in unit:
        entry.set("autostart", False)
        entry.note("[Install]", 'missing, so it is not started by itself: "corral start NAME"')


def _bound_run(entry: Entry) -> None:
    """Moves the time for the start to that for a run: a job is never ready."""
    process = entry.table.get("process")
    if isinstance(process, dict) and "spawn_timeout" in process:
        entry.set("timeout", process.pop("spawn_timeout"))


def _set(entry: Entry, key: str, value: str, unit: str) -> None:
    """Translates one setting, or notes why not."""
    number = re.match(r"-?\d+", value)
    if key in ("Type", "After", "Requires", "Wants", "BindsTo", "Requisite", "PartOf") or key in NOT_NEEDED:
        return
    if key in SIMPLE:
        text = value.removeprefix("-") if key == "WorkingDirectory" else value
        entry.set(SIMPLE[key], "${HOME}" if text == "~" else _specified(entry, text, unit))
    elif key in SECONDS and (seconds := seconds_of(value)) is not None:
        for path in SECONDS[key]:
            entry.set(path, seconds)
    elif key in NUMBERS and number:
        entry.set(NUMBERS[key], int(number[0]))
    elif key in SIZES and (size := size_of(value)) is not None:
        entry.set(SIZES[key], size)
    elif key == "CPUQuota" and number:
        entry.set("resources.cpu_limit_percent", int(number[0]))
    elif key == "Restart":
        entry.set("recovery.restart", RESTARTS.get(value, "on-failure"))
        if value != "no":
            entry.set_default("recovery.max_restart_attempts", BURST)
            entry.set_default("recovery.restart_window", BURST_S)
    elif key == "RemainAfterExit":
        entry.set("remain", True if value in ("yes", "true", "1", "on") else None)
    elif key == "EnvironmentFile" and "process.environment_file" not in entry.table:
        entry.set("process.environment_file", _specified(entry, value.removeprefix("-"), unit))
    elif _CONFINING.match(key):
        reason = (
            "not set: isolation, read_paths, write_paths and connect_ports in the section process confine a program"
        )
        entry.note(f"{key}={value}", reason)
    elif value not in ("infinity", ""):
        entry.note(f"{key}={value}", REASONS.get(key, "no equivalent"))


def _specified(entry: Entry, text: str, unit: str) -> str:
    """Translates specifiers: `%n` is the unit, `%h` the home folder of the daemon's user."""
    stem = unit.rpartition(".")[0]
    name, at, instance = stem.partition("@")
    values = {"n": unit, "N": stem, "p": name, "%": "%", "i": instance, "I": instance}

    def specifier(found: re.Match[str]) -> str:
        letter = found[1]
        if letter == "h":
            return Reference("${HOME}")
        if letter in "iI" and at and not instance:
            return Reference("${instance}")
        if letter not in values:
            entry.note(found[0], "this specifier has no equivalent")
        return values.get(letter, found[0])

    return expanded(text, _SPECIFIERS, specifier)


def _assignments(entry: Entry, value: str, unit: str) -> dict[str, str]:
    try:
        pairs = [word.partition("=") for word in shlex.split(value)]
    except ValueError:
        entry.note("Environment", "its quotes do not match")
        return {}
    return {name: _specified(entry, each, unit) for name, equals, each in pairs if equals}


def _command(entry: Entry, starts: Sequence[str], unit: str) -> list[str]:
    """Returns the program; several commands, and variables in one, need a shell."""
    if not starts:
        entry.is_complete = False
        entry.note("ExecStart", "missing, so this program is a comment")
        return ["COMMAND"]
    lines: list[str] = []
    for start in starts:
        prefix = re.match(r"[@:+!|-]*", start)
        signs = prefix[0] if prefix else ""
        for sign in signs:
            if sign != "-" or len(starts) == 1:
                entry.note(f"{sign} before the command", "no equivalent")
        lines.append(start[len(signs) :] + (" || true" if "-" in signs and len(starts) > 1 else ""))
    is_plain = len(lines) == 1 and not _VARIABLE.search(lines[0])
    if is_plain:
        try:
            return [_specified(entry, word, unit) for word in shlex.split(lines[0])]
        except ValueError:
            pass
    lines[-1] = lines[-1] if lines[-1].endswith("|| true") else f"exec {lines[-1]}"
    return ["sh", "-c", _specified(entry, " && ".join(lines), unit)]


def _require(draft: Draft, entry: Entry, unit: Unit) -> None:
    names: dict[str, None] = {}
    for key, value in unit.get("Unit", ()):
        if key in ("Requires", "BindsTo", "Wants", "After", "Requisite", "PartOf"):
            for other in value.split():
                found = draft.named(other.removesuffix(".service"))
                if found is not None and key != "PartOf":
                    names[found.name] = None
                elif not other.endswith((".target", ".slice")):
                    entry.note(f"{key} {other}", "it is not among the imported units")
    entry.set("requires", [*names] or None)


def _convert_timer(draft: Draft, name: str, unit: Unit, parsed: Mapping[str, Unit]) -> None:
    entry = draft.schedule(name.removesuffix(".timer"))
    target = _target(name, unit)
    settings = unit.get("Timer", ())
    times = [(key, value) for key, value in settings if key.startswith("On")]
    calendar = [cron for key, value in times if key == "OnCalendar" for cron in crons(value)]
    every = [seconds_of(value) for key, value in times if key in ("OnUnitActiveSec", "OnUnitInactiveSec")]
    if calendar:
        entry.set("cron", calendar[0])
        is_utc = any(value.endswith(" UTC") for key, value in times if key == "OnCalendar")
        entry.set("timezone", None if is_utc else local_zone())
    elif every and every[0] is not None:
        entry.set("every", every[0])
    else:
        entry.is_complete = False
    for key, value in settings:
        if key == "OnCalendar" and (not calendar or crons(value) != calendar[:1]):
            reason = "write a second schedule" if crons(value) else "cron has no such time"
            entry.note(f"{key}={value}", reason)
        elif key == "Persistent":
            continue
        elif key not in ("OnCalendar", "Unit") and (calendar or key != "OnUnitActiveSec"):
            entry.note(f"{key}={value}", REASONS.get(key, "no equivalent"))
    entry.set("catch_up", dict(settings).get("Persistent", "no") in ("yes", "true", "1", "on"))
    service = parsed.get(target)
    if service is None:
        entry.set("command", ["COMMAND"])
        entry.is_complete = False
        entry.note(f"Unit {target}", "give its file, too: without it this schedule is a comment")
        return
    _take_service(draft, entry, target, service)


def _take_service(draft: Draft, entry: Entry, target: str, service: Unit) -> None:
    """Moves the program of a timer's service into the schedule, which makes a job of it."""
    scratch = Entry(target.removesuffix(".service"), "scratch")
    _convert_service(scratch, target, service)
    entry.table |= {key: each for key, each in scratch.table.items() if key not in OF_SERVICES}
    entry.is_complete = entry.is_complete and scratch.is_complete
    entry.notes += [note for note in scratch.notes if note.key != "[Install]"]


OF_SERVICES = frozenset({"type", "remain", "autostart", "protocol"})
"""Keys of an agent that a schedule with a command has by itself."""
