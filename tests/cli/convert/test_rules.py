"""The rules of `corral import`, for every key of every format and every form of a value.

What is written can be read; no key is silently left out; where the source says nothing, the converted program is run as
the other supervisor runs it.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.cli.convert.draft import Draft
from corral.cli.convert.import_file import converted, settle
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

KEYS: Mapping[str, Mapping[str, list[str]]] = tomllib.loads((Path(__file__).parent / "keys.toml").read_text())

TEXTS = (
    *("0", "1", "7", "-1", "1.5", "10min", "1M", "80%", "512M", "infinity", "true", "no", "always", "SIGRTMIN+3"),
    *("$WORD", "${WORD}", "${WORD:-7}", "${A:-${B:-7}}", "$$5", "%i", "%h/x", "a b", "a:b", "/x/y", 'it\'s "x"', "é€"),
    *("x" * 3000, "UTC", "0644", "10", "hourly"),
)
"""Forms of a value: numbers, units, percent, booleans, words, variables, specifiers, quotes."""

TYPED: tuple[object, ...] = (0, 7, -1, 1.5, True, False, [], ["a", "b"], {}, {"a": "b"}, [{"a": 1}], [1, None])
"""Forms that YAML and JSON have beside texts."""

SERVICE = "[Service]\nExecStart=/bin/sleep 1000\n"


def source(form: str, section: str, key: str, value: object) -> dict[str, str]:
    """Returns the files that have a key in a section, by name; the ones without it for an empty key."""
    line = f"{key}={value}\n" if key else ""
    if form == "systemd":
        sections = {"Unit": "", "Service": "ExecStart=/bin/sleep 1000\n", "Install": "WantedBy=multi-user.target\n"}
        if section == "Timer":
            return {"a.timer": f"[Timer]\nOnCalendar=daily\n{line}", "a.service": SERVICE}
        if section == "Socket":
            return {"a.service": SERVICE, "a.socket": f"[Socket]\nListenStream=/run/a\n{line}"}
        return {
            "a.service": "".join(
                f"[{each}]\n{text}{line if each == section else ''}" for each, text in sections.items()
            )
        }
    if form == "supervisord":
        first, second = (line, "") if section == "supervisord" else ("", line)
        return {"supervisord.conf": f"[supervisord]\n{first}[program:a]\ncommand=sleep 1000\n{second}"}
    if form == "crontab":
        return {"crontab": f"{line}0 3 * * * /usr/bin/backup --all\n"}
    if form == "pm2":
        own = {key: value} if key else {}
        return {"a.json": json.dumps({"apps": [{"name": "a", **({} if key == "exec" else {"script": "a.js"}), **own}]})}
    service: dict[str, Any] = {"command": "sleep 1000"}
    *above, last = key.split(".") if section == "service" else [""]
    place = service
    for each in above:
        place = place.setdefault(each, {})
    if section == "service" and last:
        place[last] = value
    if last in ("interval", "timeout", "retries", "start_period", "start_interval", "disable"):
        place["test"] = ["CMD", "true"]
    top = {key: value} if section == "top" and key else {}
    return {"compose.yaml": json.dumps({"services": {"a": service}, **top})}


def outcome(form: str, files: Mapping[str, str]) -> tuple[object, Draft]:
    """Returns the tables that corral reads, and what was noted."""
    draft = converted(form, dict(files))
    draft.finish()
    settle(draft, "/srv")
    return tomllib.loads(draft.text()), draft


QUIET: Mapping[str, Mapping[str, str]] = {
    "systemd": {
        **{"*": "Documentation WantedBy", "0 no": "RemainAfterExit Persistent Accept", "no": "Restart"},
        **{"1 true": "NoNewPrivileges SendSIGKILL", "0": "SuccessExitStatus"},
        **{"0 infinity": "MemoryMax MemoryLimit WatchdogSec", "10": "StartLimitInterval StartLimitIntervalSec"},
    },
    "supervisord": {
        "0": "exitcodes numprocs_start stdout_capture_maxbytes stderr_capture_maxbytes",
        "0 no": "stdout_events_enabled stderr_events_enabled stdout_syslog stderr_syslog stopasgroup",
        **{"1 true": "killasgroup", "1": "startsecs", "10": "stdout_logfile_backups stopwaitsecs"},
    },
    "pm2": {
        "0 false": "combine_logs cron cron_restart deep_monitoring disable_logs err err_file err_log error error_file"
        " event_loop_inspector execute_command force ignore_watch log log_date_format log_file log_type merge_logs out"
        " out_file out_log output shutdown_with_message source_map_support time trace v8 wait_ready watch watch_delay"
        " watch_options",
        "0 false true": "automation disable_trace pmx vizion windowsHide",
        "[]": "args node_args interpreter_args interpreterArgs",
        **{"1 true": "autorestart treekill", "1": "instances", "0 false [] {}": "name"},
        "0": "exp_backoff_restart_delay restart_delay max_memory_restart",
    },
    "compose": {
        "*": "version",
        "false": "privileged read_only stdin_open tty init",
        "true": "init",
        "0 -1": "mem_limit deploy.resources.limits.memory",
        "0": "healthcheck.interval healthcheck.timeout healthcheck.start_period healthcheck.retries",
        "0 no false [] {}": "healthcheck.disable profiles depends_on",
        "[] {}": "environment labels entrypoint env_file",
        **{"no": "restart deploy.restart_policy.condition", "1": "scale deploy.replicas"},
        "10": "stop_grace_period deploy.restart_policy.window",
    },
    "crontab": {"*": "", "/bin/sh": "SHELL"},
}
"""By format, values and the keys for which they say what holds in any case: the default, or what the key cannot change."""

REFUSED = {("compose", "services"), ("supervisord", "environment")}
"""Keys some of whose forms make the whole file unreadable for the other supervisor, too."""


def is_quiet(form: str, key: str, value: object) -> bool:
    word = str(value).lower()
    return any(
        key in keys.split() and (values == "*" or word in values.split()) for values, keys in QUIET[form].items()
    )


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("WORD", "7")
    monkeypatch.setenv("TZ", "UTC")


PARTS = [
    pytest.param(form, section, keys[first : first + 40], id=f"{form}-{section}-{first}")
    for form, sections in KEYS.items()
    for section, keys in sections.items()
    for first in range(0, len(keys), 40)
]


@pytest.mark.long
@pytest.mark.parametrize(("form", "section", "keys"), PARTS)
def test_each_form_of_each_key_is_read_by_corral_and_is_in_the_output_or_in_a_note(
    form: str, section: str, keys: list[str]
) -> None:
    wrong: list[str] = []
    before, _ = outcome(form, source(form, section, "", ""))
    checked, _ = (
        outcome(form, source(form, section, "healthcheck.disable", None)) if form == "compose" else (before, None)
    )
    for key in keys:
        for value in (*TEXTS, *(TYPED if form in ("compose", "pm2") else ())):
            try:
                tables, draft = outcome(form, source(form, section, key, value))
            except InvalidParams as error:
                wrong += [] if (form, key) in REFUSED else [f"{key}={value!r}: {error.message}"]
                continue
            is_told = any(key.rpartition(".")[2] in str(note) for note in draft.every_note())
            if (
                tables == (checked if "healthcheck" in key else before)
                and not is_told
                and not is_quiet(form, key, value)
            ):
                wrong.append(f"{key}={value!r}")
    assert wrong == []


@pytest.mark.parametrize(
    ("form", "process", "recovery"),
    [
        ("systemd", {"working_directory": "/", "shutdown_grace_period": 90}, {"restart": "never"}),
        (
            "supervisord",
            {"working_directory": "/srv", "shutdown_grace_period": 10, "stop_signal": "SIGTERM"},
            {**{"restart": "on-failure", "max_restart_attempts": 3, "healthy_after": 0, "restart_window": 60}}
            | {"restart_backoff_base": 1, "restart_backoff_max": 3},
        ),
        (
            "pm2",
            {"working_directory": "/srv", "shutdown_grace_period": 1.6, "stop_signal": "SIGINT"},
            {**{"restart": "always", "max_restart_attempts": 16, "healthy_after": 0, "restart_window": 60}}
            | {"restart_backoff_base": 0, "restart_backoff_max": 0},
        ),
        (
            "compose",
            {"working_directory": "/srv", "shutdown_grace_period": 10, "stop_signal": "SIGTERM"},
            {"restart": "never"},
        ),
        ("crontab", {"working_directory": "${HOME}"}, None),
    ],
)
def test_silence_of_the_source_is_what_the_other_supervisor_does(
    form: str, process: Mapping[str, object], recovery: Mapping[str, object] | None
) -> None:
    files = {f"/srv/{name}": text for name, text in source(form, next(iter(KEYS[form])), "", "").items()}
    draft = converted(form, files)
    draft.finish()
    [table] = [each for kind in ("agents", "schedules") for each in tomllib.loads(draft.text()).get(kind, {}).values()]
    assert table["process"] == {"umask": "022", **process}
    assert table.get("recovery") == recovery
    assert table["resources"] == {"max_memory_bytes": 0}


@pytest.mark.parametrize(
    ("line", "recovery"),
    [  # the sixth start within ten seconds is refused: each takes 0.1 s, and a life of a second and more
        ("Restart=always", {"max_restart_attempts": 4, "healthy_after": 4.5, "restart_window": 4.5}),
        ("Restart=always\nRestartSec=1", {"max_restart_attempts": 4, "healthy_after": 0, "restart_window": 1}),
        ("Restart=always\nRestartSec=2", {"max_restart_attempts": 1000, "healthy_after": 0, "restart_window": 1}),
        (
            "Restart=always\nStartLimitBurst=0",
            {"max_restart_attempts": 1000, "healthy_after": 10, "restart_window": 10},
        ),
    ],
)
def test_systemd_gives_up_what_is_started_too_often_within_a_time(line: str, recovery: Mapping[str, object]) -> None:
    tables, _ = outcome("systemd", {"a.service": f"{SERVICE}{line}\n"})
    found: Any = tables  # the tables of a file, whose shape the test knows
    assert recovery.items() <= found["agents"]["a"]["recovery"].items()


def test_a_container_is_started_again_for_ever_and_waits_up_to_a_minute() -> None:
    found: Any = outcome("compose", {"c.yaml": "services: {a: {command: x, restart: always}}"})[0]  # likewise
    assert found["agents"]["a"]["recovery"] == {
        **{"restart": "always", "max_restart_attempts": 1000, "healthy_after": 9, "restart_window": 10_000},
        **{"restart_backoff_base": 0.1, "restart_backoff_max": 60},
    }


def test_foreman_stops_a_program_within_five_seconds(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A='b c'\nPORT=7000\n")
    draft = converted("procfile", {str(tmp_path / "Procfile"): "web: bin/web\n"})
    [web] = tomllib.loads(draft.text())["agents"].values()
    assert web["process"] == {"umask": "022", "shutdown_grace_period": 5, "working_directory": str(tmp_path)}
    assert web["environment"] == {"A": "b c", "PORT": "${port:7000}", "PS": "web.1"}
    assert web["resources"] == {"max_memory_bytes": 0}
