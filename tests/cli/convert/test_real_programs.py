"""What the converters read is what the other programs read, where these are installed."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cronsim import CronSim

from corral.cli.convert import values
from corral.cli.convert.calendar_event import crons
from corral.cli.convert.import_file import converted

pytestmark = pytest.mark.shell

BOUND_S = 60.0
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")

UNITS = "usec us μs msec ms seconds second sec s minutes minute min m hours hour hr h days day d weeks week w months month M"
SPANS = [
    *(f"{count}{unit}" for count in ("1", "2.5") for unit in (*UNITS.split(), "years", "year", "y")),
    *("90", "1h 30min", "5min20s", "2w 1M", "1y 1M 1w 1d 1h 1m 1s"),
]


def analyzed(*words: str) -> str:
    env = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    command = ["systemd-analyze", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=True, env=env).stdout


@needs_systemd
def test_a_time_span_is_as_long_as_for_systemd() -> None:
    found = re.findall(r"(?m)^\s*[μu]s: (\d+)$", analyzed("timespan", *SPANS))
    assert [round(values.seconds(each) * 1_000_000) for each in SPANS] == [int(each) for each in found]


EVENTS = (
    *(
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "yearly",
        "*-*-* 02:30:00",
        "Mon..Fri 10:00",
        "Sat,Sun 10:00",
    ),
    *("Fri..Sun 1:00", "*:0/15", "*:5/15", "*-*-01 04:00", "*-1,7-1 0:0:0", "*-*-* 8..17:00", "*-02..04-1/10 6:00"),
)


@needs_systemd
@pytest.mark.parametrize("event", EVENTS)
def test_a_calendar_event_elapses_when_it_does_for_systemd(event: str) -> None:
    text = analyzed("calendar", "--base-time=2026-01-01 00:00:30 UTC", "--iterations=5", event)
    expected = re.findall(r"(?m)(?:Next elapse|Iteration #\d+|Iter\. #\d+): \w{3} (\S+ \S+) UTC$", text)
    [cron] = crons(event)
    times = CronSim(cron, datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC))
    assert [f"{next(times):%Y-%m-%d %H:%M:%S}" for _ in expected] == expected
    assert expected


SUPERVISORD = """\
[supervisord]
umask=027
environment=COMMON="a,b"
[program:one]
command=/bin/sh -c "echo 'a b' \\"$HOME\\"" %(program_name)s %%d  ; comment
environment=A="1 2",B='x;y',C=%(here)s
[program:two]
command=/bin/two --x='y z'   # comment
directory=/tmp
autostart=off
autorestart=yes     ; always
startsecs=5
startretries=7
stopsignal=USR1
stopwaitsecs=33
umask=002
numprocs=2
process_name=%(program_name)s_%(process_num)02d
stdout_logfile_maxbytes=3MB
stdout_logfile_backups=4
"""


def test_supervisord_reads_the_same_programs(tmp_path: Path) -> None:
    options = pytest.importorskip("supervisor.options").ServerOptions()
    (tmp_path / "supervisord.conf").write_text(SUPERVISORD)
    options.realize(["-c", str(tmp_path / "supervisord.conf"), "-n"])
    draft = converted("supervisord", {str(tmp_path / "supervisord.conf"): SUPERVISORD})
    draft.finish()
    tables = tomllib.loads(draft.text())["agents"]
    for group in options.process_group_configs:
        table = tables[group.name]
        recovery, process = table["recovery"], table["process"]
        assert len(group.process_configs) == table.get("instances", 1)
        for config in group.process_configs:
            assert shlex.split(config.command) == [each.replace("$$", "$") for each in table["command"]]
            assert {**options.configroot.supervisord.environment, **config.environment}.items() <= table[
                "environment"
            ].items()
            assert config.autostart == table.get("autostart", True)
            assert config.startretries == recovery["max_restart_attempts"]
            assert config.startsecs == recovery["healthy_after"] + 1
            assert config.stopsignal == signal.Signals[process["stop_signal"]]
            assert config.stopwaitsecs == process["shutdown_grace_period"]
            assert (options.umask if config.umask is None else config.umask) == int(process["umask"], 8)
            assert config.stdout_logfile_maxbytes == values_of(table["monitoring"]["max_log_file_bytes"])
            assert config.stdout_logfile_backups == table["monitoring"]["max_log_files"] - 1


def values_of(size: object) -> int:
    """Returns the bytes of a size that has MiB behind it."""
    return int(str(size).removesuffix("MiB")) << 20
