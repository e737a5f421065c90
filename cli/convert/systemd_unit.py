"""Converts units of systemd: services, and timers and sockets with the service beside them.

What holds where a unit says nothing is that of a system manager: systemd.exec(5) (UMask=0022, WorkingDirectory=/, PATH),
systemd.service(5) (Restart=no, RestartSec=100ms, the time limits of systemd-system.conf(5), 90 s), systemd.unit(5)
(five starts in ten seconds), systemd.resource-control(5) (no MemoryMax=).
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .calendar_event import crons
from .draft import ENDLESS, FOREVER_S, Draft, Entry, Meaning, Unfit, keys, ref, take, to
from .systemd_command import argv, commands, words
from .values import NO, YES, flag, home_of, local_zone, number, seconds, size, text, time_limit
from .variable_file import parsed, take_files

Unit = Mapping[str, Sequence[str]]
"""The values of each setting of a unit; an empty assignment has removed those before it."""

DEFAULTS: Mapping[str, object] = {
    "environment": {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    "process": {"working_directory": "/", "shutdown_grace_period": 90.0},
    "recovery": {"restart": "never", "restart_backoff_base": 0.1, "restart_backoff_max": 0.1},
}
BURST, BURST_S = 5, 10.0
"""Starts within so many seconds after which systemd gives up."""

CONFINED = "not set: isolation, read_paths, write_paths and connect_ports in the section process confine a program"
_CONFINING = re.compile(
    r"Protect|Private|Restrict|SystemCall|Capability|Ambient|ReadOnly|ReadWrite|NoExec|ExecPaths|Inaccessible|Temporary|Bind|Dynamic|Memory|Lock|Remove|Mount|Device|Root|IPAddress|SocketBind"
)
_SPECIFIERS = re.compile(r"%(.)")
PRINTABLE = "".join(map(chr, range(32, 127)))


def _limit(read: Callable[[object], object], path: str, endless: object = 0) -> Meaning:
    """Returns the meaning of a limit for which infinity is none; of `SOFT:HARD` the soft one counts."""

    def action(entry: Entry, value: object) -> None:
        soft, _, hard = text(value).partition(":")
        if soft.endswith("%"):
            raise Unfit("a share of the machine's: write a number, or bytes")
        entry.set(path, endless if soft == "infinity" else read(soft))
        if hard not in ("", soft):
            raise Unfit("the soft limit is both here")

    return action


def _percent(value: object) -> int:
    if not text(value).endswith("%"):
        raise Unfit("it is no percentage")
    return max(1, number(text(value)[:-1]))


def _folder(entry: Entry, value: object) -> None:
    folder = text(value)
    is_home = folder.lstrip("-") == "~"
    entry.set("process.working_directory", home_of(entry.get("process.user")) if is_home else folder.removeprefix("-"))
    if folder.startswith("-"):
        raise Unfit("here the folder has to exist")


def _start_limit(entry: Entry, value: object) -> None:
    limit_s = time_limit(value)
    if limit_s <= 1:
        raise Unfit("a program is ready after one second, and has succeeded in starting then")
    entry.set("process.spawn_timeout", limit_s)


def _both_limits(entry: Entry, value: object) -> None:
    entry.set("process.shutdown_grace_period", time_limit(value))
    _start_limit(entry, value)


def _restart(entry: Entry, value: object) -> None:
    entry.set("recovery.restart", RESTARTS.get(text(value), "on-failure"))
    if text(value) not in RESTARTS:
        raise Unfit("on-failure: restarted after every end but exit 0")


RESTARTS = {"no": "never", "always": "always", "on-failure": "on-failure"}
LOGS = '"corral logs NAME" has the output; [daemon] journal = true sends it to the journal, too'
TO_THE_GROUP = "the main process alone gets the stop signal at once; the others when it has ended, or after half of shutdown_grace_period"
READY = "ready after one second: write ready = { tcp|http|log|exec = … }, and let the program stay in the foreground"
MEANINGS: Mapping[str, Meaning] = keys(
    {
        "ExecStart ExecStartPre Environment EnvironmentFile PassEnvironment": None,
        "StartLimitIntervalSec StartLimitInterval StartLimitBurst": None,
        "After Requires Wants BindsTo Requisite Documentation WantedBy": None,
        "Type": (READY, "simple", "exec", "oneshot"),
        "Description": to(text, "description"),
        "NoNewPrivileges": ("no_new_privs is set in any case, unless isolation is none", *YES),
        "User": to(text, "process.user"),
        "Group": to(text, "process.group"),
        "WorkingDirectory": _folder,
        "UMask": to(lambda value: text(value).lstrip("0").rjust(3, "0"), "process.umask"),
        "KillSignal": to(text, "process.stop_signal"),
        "Nice": to(number, "process.nice"),
        "TimeoutStartSec": _start_limit,
        "TimeoutStopSec": to(time_limit, "process.shutdown_grace_period"),
        "TimeoutSec": _both_limits,
        "RemainAfterExit": to(lambda value: flag(value) or None, "remain"),
        "Restart": _restart,
        "RestartSec": to(seconds, "recovery.restart_backoff_base", "recovery.restart_backoff_max"),
        "RestartMaxDelaySec": to(seconds, "recovery.restart_backoff_max"),
        "TasksMax LimitNPROC": _limit(number, "resources.max_processes"),
        "LimitNOFILE": _limit(number, "resources.max_file_descriptors", 1 << 20),
        "LimitCPU": _limit(seconds, "resources.max_cpu_seconds"),
        "LimitFSIZE": _limit(size, "resources.max_file_size_bytes"),
        "LimitAS": _limit(size, "resources.max_address_space_bytes"),
        "LimitCORE": _limit(size, "resources.max_core_dump_bytes", (1 << 63) - 1),
        "MemoryMax MemoryLimit": _limit(size, "resources.max_memory_bytes"),
        "CPUQuota": to(_percent, "resources.cpu_limit_percent"),
        "StandardOutput StandardError": (LOGS, "journal", "inherit"),
        "StandardInput": ("stdin is empty", "null"),
        "ExecStop": "a program is asked to stop by stop_signal",
        "NotifyAccess ExecStartPost PIDFile": READY,
        "ExecReload": 'send the signal of the reload: "corral signal NAME HUP"',
        "ExecCondition": "write it before the command: CONDITION || exit 0",
        "WatchdogSec": ("WATCHDOG=1 is not heard: write health = {…}", "0", "infinity"),
        "Before PartOf": "starts and stops are ordered by requires",
        "OnFailure": "[monitoring] alert runs a command at a failure",
        "KillMode": ("all processes of a program are always ended", "control-group", "mixed"),
        "SendSIGKILL": ("what does not end is killed", *YES),
        "SuccessExitStatus": ("only exit status 0 is a success", "0"),
    }
)


# --- unit files -----------------------------------------------------------------------------------


def parse(unit_text: str) -> dict[str, dict[str, list[str]]]:
    """Returns the settings of a unit file by section; a backslash at the end of a line joins it with the next one."""
    sections: dict[str, dict[str, list[str]]] = {}
    here: dict[str, list[str]] = {}
    joined = ""
    for line in unit_text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            joined += line[:-1].strip() + " "
            continue
        whole, joined = (joined + line.strip()).strip(), ""
        key, equals, value = (part.strip() for part in whole.partition("="))
        if whole.startswith("[") and whole.endswith("]"):
            here = sections.setdefault(whole[1:-1], {})
        elif equals:
            here[key] = [*here.get(key, ()), value] if value else []
    return sections


def convert(units: Mapping[str, str], source: str, folder: str) -> Draft:
    """Converts unit files: their texts by file name; a timer belongs to the service of its name, or of `Unit=`."""
    draft = Draft(source, "systemd units", folder, DEFAULTS)
    if "/systemd/user" in folder:
        draft.defaults = {**DEFAULTS, "process": {"working_directory": ref("HOME"), "shutdown_grace_period": 90.0}}
    parsed_units = {name: parse(each) for name, each in units.items()}
    timed = {_target(name, unit) for name, unit in parsed_units.items() if name.endswith(".timer")}
    for name, unit in parsed_units.items():
        if name.endswith(".service") and name not in timed:
            _convert_service(draft.agent(name.removesuffix(".service")), name, unit)
    for name, unit in parsed_units.items():
        if name.endswith(".timer"):
            _convert_timer(draft, name, unit, parsed_units)
        elif name.endswith(".socket"):
            _convert_socket(draft, name, unit.get("Socket", {}))
        elif not name.endswith(".service"):
            draft.file.note(name, "only .service, .socket and .timer have an equivalent")
    for name, unit in parsed_units.items():
        entry = draft.named(name.removesuffix(".service"))
        if entry is not None:
            _require(draft, entry, unit.get("Unit", {}))
    return draft


def _specified(entry: Entry, name: str, value: str) -> str:
    """Translates specifiers: `%n` is the unit, `%h` the home folder of the daemon's user; see systemd.unit(5)."""
    stem = name.rpartition(".")[0]
    prefix, at, instance = stem.partition("@")
    values = {"n": name, "N": stem, "p": prefix, "P": prefix, "%": "%", "t": "/run", "S": "/var/lib", "C": "/var/cache"}
    values |= {"i": instance, "I": instance, "h": ref("HOME"), "H": os.uname().nodename, "L": "/var/log", "E": "/etc"}
    values |= {"T": "/tmp", "V": "/var/tmp"}

    def specifier(found: re.Match[str]) -> str:
        if found[1] in "iI" and at and not instance:
            return ref("instance")
        if found[1] not in values:
            entry.note(found[0], "this specifier has no equivalent")
        return values.get(found[1], found[0])

    return _SPECIFIERS.sub(specifier, value)


# --- services -------------------------------------------------------------------------------------


def _convert_service(entry: Entry, name: str, unit: Mapping[str, Unit]) -> None:
    parts = [unit.get(part, {}) for part in ("Unit", "Service", "Install")]
    settings = {key: values for part in parts for key, values in part.items() if values}
    say = partial(_specified, entry, name)
    order = sorted(settings, key=lambda key: key != "User")  # whose home others need
    several = ("Exec", "Condition", "Assert")
    each = ((key, value) for key in order for value in settings[key][0 if key.startswith(several) else -1 :])
    plain = [(key, value if key.startswith("Exec") else say(value)) for key, value in each]
    confined = {key: CONFINED for key in settings if _CONFINING.match(key) and key not in MEANINGS}
    take(entry, plain, {**MEANINGS, **confined}, shown="{}={}")
    _variables(entry, settings, say)
    _command(entry, settings, say)
    _count_starts(entry, settings)
    if settings.get("Type", [""])[-1] == "oneshot":
        limit_s = entry.get("process.spawn_timeout")
        entry.set("process.spawn_timeout", None)
        entry.set("timeout", None if limit_s == FOREVER_S else limit_s)  # a job is never ready
        entry.run_once()
    if settings.get("KillMode", ["control-group"])[-1] == "control-group":
        entry.note("KillMode", TO_THE_GROUP)
    if "Install" not in unit:
        entry.set("autostart", False)
        entry.note("[Install]", 'missing, so it is not started by itself: "corral start NAME"')


def _variables(entry: Entry, settings: Unit, say: partial[str]) -> None:
    """Takes Environment= and the files of variables, which win over it."""
    try:
        pairs = [word.partition("=") for value in settings.get("Environment", ()) for word in words(value)]
        entry.environment({name: say(each) for name, equals, each in pairs if equals})
        for name in (name for name, equals, _ in pairs if not equals):
            entry.note("Environment", f"{name} is no NAME=VALUE")
        files = [(say(each.removeprefix("-")), each.startswith("-")) for each in settings.get("EnvironmentFile", ())]
        take_files(entry, "EnvironmentFile", files, partial(parsed, escaped='"\\`$', bare=PRINTABLE), wins=True)
    except Unfit as error:
        entry.note("Environment, EnvironmentFile", str(error))
    passed = [word for value in settings.get("PassEnvironment", ()) for word in value.split()]
    if passed:
        entry.set("process.inherit_environment", ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", *passed])


def _command(entry: Entry, settings: Unit, say: partial[str]) -> None:
    try:
        before = [each for line in settings.get("ExecStartPre", ()) for each in commands(line)]
        run = [each for line in settings.get("ExecStart", ()) for each in commands(line)]
        if not run:
            raise Unfit("missing")
    except Unfit as error:
        entry.exclude("ExecStartPre or ExecStart" if "ExecStartPre" in settings else "ExecStart", str(error))
        return
    entry.set("command", argv([*before, *run], say))
    quiet = ":-" if len(before) + len(run) > 1 else ":"
    for sign in (sign for each in (*before, *run) for sign in each.signs if sign not in quiet):
        entry.note(f"{sign} before the command", "no equivalent")


def _count_starts(entry: Entry, settings: Unit) -> None:
    """Sets how often it is started again: systemd counts starts within a time, and corral failures in a row.

    A program that cannot be started so often within the time, because of RestartSec= or of how long it lives, is never
    given up: a life of `ready_s` from Ready on, which it is after one second, begins the count anew.
    """
    burst, span_s = BURST, BURST_S
    for key in ("StartLimitInterval", "StartLimitIntervalSec", "StartLimitBurst"):
        value = settings.get(key, [""])[-1]
        entry.reading = key if value else entry.reading
        try:
            if value and key == "StartLimitBurst":
                burst = number(value)
            elif value:
                span_s = FOREVER_S if value == "infinity" else seconds(value)
        except Unfit as error:
            entry.note(f"{key}={value}", str(error))
    wait_s = float(str(entry.get("recovery.restart_backoff_base")))
    ready_s = max(0.0, span_s - burst * (1 + wait_s))
    entry.set("recovery.max_restart_attempts", burst - 1 if burst > 0 and burst * wait_s < span_s else ENDLESS)
    entry.set("recovery.healthy_after", 1 + ready_s)
    entry.set("recovery.restart_window", max(1.0, ready_s))
    entry.reading = ""


def _require(draft: Draft, entry: Entry, settings: Unit) -> None:
    names: dict[str, None] = {}
    for key in ("Requires", "BindsTo", "Requisite", "Wants", "After"):
        for other in (word for value in settings.get(key, ()) for word in value.split()):
            found = draft.named(other.removesuffix(".service"))
            if found is not None and found is not entry:
                if key in ("Wants", "After") and found.name not in names:
                    entry.note(f"{key}={other}", "it waits until that one is ready, and does not start without it")
                names[found.name] = None
            elif not other.endswith((".target", ".slice")):
                entry.note(f"{key}={other}", "it is not among the imported units")
    entry.set("requires", [*names] or None)


# --- timers and sockets ---------------------------------------------------------------------------


def _target(name: str, unit: Mapping[str, Unit]) -> str:
    written = unit.get("Timer", {}).get("Unit")
    target = written[-1] if written else name.removesuffix(".timer") + ".service"
    instance = name.removesuffix(".timer").partition("@")[2]
    return target.replace("%i", instance).replace("%I", instance)


def _convert_timer(draft: Draft, name: str, unit: Mapping[str, Unit], units: Mapping[str, Mapping[str, Unit]]) -> None:
    settings = unit.get("Timer", {})
    target = _target(name, unit)
    entry = draft.schedule(name.removesuffix(".timer"))
    if target in units:
        _convert_service(entry, target, units[target])
        entry.notes[:] = [note for note in entry.notes if note.key != "[Install]"]
        for key in ("type", "remain", "autostart"):  # which each scheduled command is
            entry.set(key, None)
    else:
        entry.exclude(f"Unit={target}", "give its file, too: without it nothing is run")
    entry.set("catch_up", False)
    take(entry, [(key, each) for key, values in settings.items() for each in values], TIMER, shown="{}={}")
    if entry.get("cron"):
        entry.set("timezone", None if settings["OnCalendar"][0].endswith(" UTC") else local_zone())
    elif not entry.get("every"):
        entry.exclude("[Timer]", "it has no time that a schedule can have")


def _calendar(entry: Entry, value: object) -> None:
    found = crons(text(value))
    if not found:
        raise Unfit("cron has no such time")
    if entry.get("cron") not in (None, *found):
        raise Unfit("write a second schedule")
    entry.set("every", None)
    entry.set("cron", found[0])


def _interval(entry: Entry, value: object) -> None:
    if entry.get("cron") or entry.get("every"):
        raise Unfit("a schedule has one time: write a second one")
    entry.set("every", seconds(value))


TIMER: Mapping[str, Meaning] = keys(
    {
        "Unit": None,
        "Persistent": to(flag, "catch_up"),
        "OnCalendar": _calendar,
        "OnUnitActiveSec OnUnitInactiveSec": _interval,
        "RandomizedDelaySec AccuracySec": "runs are on time to a second",
    }
)

MODE = "0666"
"""Mode of a unix socket that has no SocketMode=, see systemd.socket(5)."""

NO_ADDRESS = "only ListenStream= has an equivalent: TCP, and unix sockets with a path"


def _convert_socket(draft: Draft, name: str, settings: Unit) -> None:
    """Adds the addresses of a socket unit to its service, or notes why not."""
    known = {key: values[-1] for key, values in settings.items() if values}
    service = known.get("Service", name.removesuffix(".socket") + ".service")
    entry = draft.named(service.removesuffix(".service"))
    if entry is None:
        draft.file.note(name, f"{service} is not among the files: import both")
        return
    if known.get("Accept", "no").lower() not in NO:
        draft.file.note(name, f"Accept={known['Accept']} starts a process for each connection: no equivalent")
        return
    found: list[object] = []

    def listen(_entry: Entry, value: object) -> None:
        address = _address(text(value))
        mode = {"mode": known.get("SocketMode", MODE)} if address.startswith("unix:") else {}
        given = {"name": known["FileDescriptorName"]} if "FileDescriptorName" in known else {}
        found.append({"address": address, **given, **mode} if given or mode else address)

    own: Mapping[str, Meaning] = dict.fromkeys(("Service", "FileDescriptorName", "SocketMode", "Accept"))
    others: Mapping[str, Meaning] = {key: NO_ADDRESS for key in settings if key.startswith("Listen")}
    each = [(key, value) for key, values in settings.items() for value in values]
    take(draft.file, each, {**others, **own, "ListenStream": listen}, shown=f"{name}: {{}}={{}}")
    entry.set("listen", found or None)


def _address(value: str) -> str:
    if value.startswith("/"):
        return f"unix:{value}"
    if value.isdecimal():
        return f"[::]:{value}"
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]+", value):
        raise Unfit(NO_ADDRESS)
    return value
