"""Converters of other supervisors' files: what becomes a key, and what is listed with its reason."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from corral.cli.convert import calendar_event, procfile, values
from corral.cli.convert.draft import Draft, Unfit
from corral.cli.convert.import_file import converted, detected
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core


VARIABLES = Variables({"HOME": "/home/x", "MUST": "1"}, {})


def read(draft: Draft) -> Any:  # the tables of a file, whose shape the test knows
    draft.finish()
    decode(draft.text(), source="corral.toml", directory="/srv", variables=VARIABLES)
    return tomllib.loads(draft.text())


def noted(draft: Draft) -> set[str]:
    return {f"{note.subject}: {note.key}" if note.subject else note.key for note in draft.every_note()}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "run --port $PORT",
            "run --text '$PORT'",
            "A=1 run",
            "cd app && run *.txt",
            "a | b",
            "a; b",
            "a > out",
            "a &",
        ),
        *("exec a", "cd x", "a 'unclosed", "sh -c 'a && b'", "X=`a b` c", "source f", "if x", "a \\ b", "~/x", "a #b"),
    ],
)
def test_a_line_of_shell_is_run_as_it_stands(line: str) -> None:
    assert procfile.argv(line) == ["/bin/sh", "-c", line]


def test_a_line_that_no_shell_would_change_is_run_without_one() -> None:
    assert procfile.argv("python3 -m app.web  --port=80 -c a/b:c,d@e%f+g") == [
        *("python3", "-m", "app.web", "--port=80", "-c", "a/b:c,d@e%f+g")
    ]


@pytest.mark.parametrize(
    ("event", "cron"),
    [
        ("daily", "0 0 * * *"),
        ("*-*-* 02:30:00", "30 2 * * *"),
        ("*-*-* 02:30", "30 2 * * *"),
        ("Mon..Fri 10:00", "0 10 * * 1-5"),
        ("Fri..Sun *-*-* 1:00", "0 1 * * 5-7"),
        ("Sat,Sun 10:00", "0 10 * * 6,0"),
        ("*:0/15", "*/15 * * * *"),
        ("*:5/15", "5-59/15 * * * *"),
        ("*-*-01 04:00:00", "0 4 1 * *"),
        ("*-1,7-1 0:0:0", "0 0 1 1,7 *"),
        ("*-*-* 00:00:30", "30 0 0 * * *"),
        ("Mon", "0 0 * * 1"),
        ("*-*-* 8..17:00 UTC", "0 8-17 * * *"),
        ("Mon *-*-1 00:00", None),
        ("2026-01-01 00:00", None),
        ("*-*~1 00:00", None),
        ("nonsense", None),
    ],
)
def test_a_calendar_event_becomes_cron_where_cron_can_say_it(event: str, cron: str | None) -> None:
    assert calendar_event.crons(event) == ([] if cron is None else [cron])


def test_durations_and_sizes_are_read_as_the_others_write_them() -> None:
    durations = {"90": 90.0, "1m30s": 90.0, "2min 5s": 125.0, "100ms": 0.1, "5d": 432_000.0, "1M 1y": 34_187_400.0}
    assert {text: values.seconds(text) for text in durations} == durations
    assert values.milliseconds(1500) == 1.5
    sizes = {"512m": "512MiB", "1G": "1GiB", "1.5g": "1536MiB", "1000": 1000, "50MB": "50MiB", "0": 0}
    assert {text: values.size(text) for text in sizes} == sizes
    for read, wrong in (
        (values.seconds, ("", "x", "5 x", "-1")),
        (values.size, ("x", "80%", "")),
        (values.number, ("80%", "1.5", "")),
    ):
        for text in wrong:
            with pytest.raises(Unfit):
                read(text)


COMPOSE = """
x-common: &common
  restart: unless-stopped
services:
  web:
    <<: *common
    build: .
    entrypoint: python3 -m http.server
    command: ["${PORT:-8000}", "$HOME", "${MUST:?}"]
    ports: ["8000:8000"]
    environment: { A: "$$5 $${X}", B: 12:30, C: no, D: null, E: true }
    env_file: [.env, two.env]
    depends_on: { migrate: { condition: service_completed_successfully }, db: { condition: service_started } }
    healthcheck: { test: [CMD, curl, -f, "http://x"], interval: 1m30s, retries: 5, start_period: 10s }
    deploy: { replicas: 2, resources: { limits: { memory: 512M, cpus: "0.5", pids: 20 } } }
    logging: { options: { max-size: 10m, max-file: "3" } }
    labels: [team=red, flag]
    stop_grace_period: 20s
    stop_signal: INT
    user: "10:20"
    working_dir: /srv
    gpus: all
  migrate: { image: x/migrate, command: "migrate --all=${WHICH:-a b}c 'd e'", restart: no }
  db: { image: postgres }
  tool_1.x: { image: y, command: run, profiles: [debug], restart: "on-failure:7" }
networks: { a: {} }
"""


def test_a_compose_file_is_converted_and_the_rest_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUST", "1")
    draft = converted("compose", {"/srv/shop/compose.yml": COMPOSE})
    tables = read(draft)
    web, migrate = tables["agents"]["web"], tables["agents"]["migrate"]
    assert web["command"] == [*["python3", "-m", "http.server"], "${PORT:-8000}", "${HOME:-}", "${MUST}"]
    assert migrate["command"] == ["migrate", "--all=${WHICH:-a b}c", "d e"]
    assert web["environment"] == {**{"A": "$5 $${X}", "B": "12:30", "C": "no", "D": "${D:-}", "E": "true"}}
    assert web["instances"] == 2
    assert web["requires"] == ["migrate"]
    times = {"interval": 90, "timeout": 30, "threshold": 5, "start_delay": 10}
    assert web["health"] == [{"exec": ["curl", "-f", "http://x"], **times}]
    assert web["labels"] == {"team": "red", "flag": ""}
    assert web["resources"] == {**{"max_memory_bytes": "512MiB", "cpu_limit_percent": 50, "max_processes": 20}}
    assert web["process"] == {
        **{"working_directory": "/srv", "user": "10", "group": "20", "environment_file": "/srv/shop/.env"},
        "umask": "022",
        **{"stop_signal": "SIGINT", "shutdown_grace_period": 20},
    }
    assert web["monitoring"] == {"max_log_file_bytes": "10MiB", "max_log_files": 3}
    assert web["recovery"]["restart"] == "always"
    assert (migrate["type"], migrate["recovery"]["restart"]) == ("oneshot", "never")
    assert tables["agents"]["tool_1-x"]["autostart"] is False
    assert tables["agents"]["tool_1-x"]["recovery"]["max_restart_attempts"] == 7
    assert "db" not in tables["agents"]  # a comment: nobody knows its command
    assert "# [agents.db]" in draft.text()
    expected = {"x-common", "networks", "web: ports", "web: build", "web: gpus", "db: command"}
    assert expected | {"web: depends_on db", "web: env_file /srv/shop/two.env"} <= noted(draft)


PROCFILE = """\
# two
web: serve --port $PORT
worker: work -q 'a b'
release: migrate ${DB}
nonsense
"""


def test_a_procfile_is_converted() -> None:
    draft = converted("procfile", {"Procfile": PROCFILE})
    agents = read(draft)["agents"]
    assert agents["web"]["command"] == ["/bin/sh", "-c", "serve --port $PORT"]
    assert agents["web"]["environment"] == {"PORT": "${port:5000}", "PS": "web.1"}
    assert agents["worker"]["command"] == ["/bin/sh", "-c", "work -q 'a b'"]
    assert agents["release"]["type"] == "oneshot"
    assert agents["release"]["command"] == ["/bin/sh", "-c", "migrate $${DB}"]
    assert "line 5" in noted(draft)


@pytest.mark.parametrize(("port", "first"), [("3000", 3000), ("'4000'", 4000), ("none", 5000), ("70000", 5000)])
def test_foreman_counts_ports_from_that_of_its_variables(tmp_path: Path, port: str, first: int) -> None:
    (tmp_path / ".env").write_text(f"PORT={port}\n")
    agents = read(converted("procfile", {str(tmp_path / "Procfile"): "web: a\nworker: b\n"}))["agents"]
    found = [agents[name]["environment"]["PORT"] for name in ("web", "worker")]
    assert found == [f"${{port:{first}}}", f"${{port:{first + 100}}}"]


@pytest.mark.parametrize(
    ("mode", "is_told"), [("", True), ("KillMode=control-group\n", True), ("KillMode=mixed\n", False)]
)
def test_that_only_the_main_process_is_signalled_at_once_is_told(mode: str, is_told: bool) -> None:
    draft = converted("systemd", {"a.service": f"[Service]\nExecStart=/bin/a\n{mode}[Install]\nWantedBy=x\n"})
    assert ("a: KillMode" in noted(draft)) == is_told


SUPERVISORD = """\
[unix_http_server]
file=/tmp/supervisor.sock
[supervisord]
logfile=/tmp/supervisord.log ; the log
environment=COMMON="yes",OTHER=%(ENV_HOME)s
[program:cat]
command=/bin/cat --port=80%(process_num)02d "a b" %%d
process_name=%(program_name)s_%(process_num)02d
numprocs=3
directory=%(here)s
autostart=false
autorestart=true
startretries=5
exitcodes=0,2
stopsignal=QUIT
stopwaitsecs=7
environment=A="1,2",B='x'
stdout_logfile=/a/path
stdout_logfile_maxbytes=1MB
priority=1
[program:dog]
command=/bin/dog
[group:pets]
programs=cat,dog
[eventlistener:l]
command=x
[include]
files = relative/*.ini
"""


def test_a_supervisord_configuration_is_converted() -> None:
    draft = converted("supervisord", {"/srv/s/supervisord.conf": SUPERVISORD})
    tables = read(draft)
    cat, dog = tables["agents"]["cat"], tables["agents"]["dog"]
    assert dog["environment"] == {"COMMON": "yes", "OTHER": "${HOME}"}
    assert cat["command"] == ["/bin/cat", "--port=80${instance}", "a b", "%d"]
    assert (cat["instances"], cat["autostart"]) == (3, False)
    assert cat["environment"] == {"COMMON": "yes", "OTHER": "${HOME}", "A": "1,2", "B": "x"}
    assert cat["process"] == {
        **{"working_directory": "/srv/s", "stop_signal": "SIGQUIT", "shutdown_grace_period": 7, "umask": "022"}
    }
    assert (cat["recovery"]["restart"], cat["recovery"]["max_restart_attempts"]) == ("always", 5)
    assert cat["labels"] == dog["labels"] == {"group": "pets"}
    assert (dog["recovery"]["restart"], dog["recovery"]["max_restart_attempts"]) == ("on-failure", 3)
    expected = {"[eventlistener:l]", "include relative/*.ini", "[unix_http_server]", "cat: priority"}
    assert expected | {"supervisord.logfile", "cat: exitcodes", "cat: stdout_logfile"} <= noted(draft)


PM2 = """
{"apps": [
  {"name": "api", "script": "./server.js", "instances": 2, "exec_mode": "cluster", "increment_var": "PORT",
   "env": {"PORT": 3000, "DEBUG": true}, "env_production": {"PORT": 80}, "max_memory_restart": "300M",
   "watch": true, "kill_timeout": 3000, "restart_delay": 4000, "node_args": "--inspect", "cwd": "/srv"},
  {"script": "worker.py", "args": ["-q", "a b"], "autorestart": false, "cron_restart": "0 0 * * *", "watch": false},
  {"name": "bin", "script": "/usr/bin/true", "interpreter": "none"}
], "deploy": {}}
"""


def test_an_ecosystem_file_is_converted() -> None:
    draft = converted("pm2", {"ecosystem.json": PM2})
    agents = read(draft)["agents"]
    api, worker = agents["api"], agents["worker"]
    assert api["command"] == ["node", "--inspect", "./server.js"]
    assert api["environment"] == {**{"PORT": "${port:3000}", "DEBUG": "true", "NODE_APP_INSTANCE": "${instance}"}}
    assert api["process"] == {
        **{"working_directory": "/srv", "shutdown_grace_period": 3, "stop_signal": "SIGINT", "umask": "022"}
    }
    assert api["recovery"]["restart_backoff_base"] == 4
    assert api["resources"] == {"max_memory_bytes": "300MiB"}
    assert worker["command"] == ["python3", "worker.py", "-q", "a b"]
    assert worker["recovery"]["restart"] == "never"
    assert agents["bin"]["command"] == ["/usr/bin/true"]
    expected = {"deploy", "api: watch", "api: env_production", "api: exec_mode"}
    assert expected | {"worker: cron_restart"} <= noted(draft)
    assert "worker: watch" not in noted(draft)


SERVICE = """\
[Unit]
Description=A service of %p
Requires=db.service
After=network.target db.service
[Service]
Type=notify
ExecStart=/usr/bin/app --port ${PORT} \\
  --name %i
Environment="A=1 2" B=%%x
EnvironmentFile=-/etc/app.env
Restart=always
RestartSec=2min 5s
MemoryMax=1G
CPUQuota=50%
KillSignal=SIGINT
TimeoutStopSec=5
ProtectSystem=strict
WatchdogSec=30
[Install]
WantedBy=multi-user.target
"""
JOB = "[Service]\nType=oneshot\nTimeoutStartSec=1h\nRemainAfterExit=yes\nExecStart=/bin/one\nExecStart=-/bin/two\n"
TIMER = "[Timer]\nOnCalendar=Mon..Fri 02:30\nPersistent=true\nRandomizedDelaySec=5m\n"


def test_units_of_systemd_are_converted_with_the_service_of_a_timer() -> None:
    units = {"app@.service": SERVICE, "db.service": JOB, "b.timer": TIMER, "b.service": JOB, "x.socket": ""}
    draft = converted("systemd", units)
    tables = read(draft)
    app, db, schedule = tables["agents"]["app"], tables["agents"]["db"], tables["schedules"]["b"]
    assert app["command"] == [*("/bin/sh", "-c", """exec /usr/bin/app --port "$${PORT}" --name '${instance}'""")]
    assert app["description"] == "A service of app"
    assert (app["environment"]["A"], app["environment"]["B"]) == ("1 2", "%x")
    assert app["requires"] == ["db"]
    assert "environment_file" not in app["process"]  # it may be absent there, and is now
    recovery = {"restart": "always", "restart_backoff_base": 125, "restart_backoff_max": 125, "healthy_after": 0}
    assert app["recovery"] == {
        **recovery,
        "max_restart_attempts": 1000,
        "restart_window": 1,
    }  # never five in ten seconds
    assert (db["type"], db["remain"], db["autostart"]) == ("oneshot", True, False)
    assert (db["timeout"], db["recovery"]["restart"]) == (3600, "never")
    assert db["command"] == ["/bin/sh", "-c", "/bin/one && { /bin/two || :; }"]
    assert (schedule["cron"], schedule["catch_up"]) == ("30 2 * * 1-5", True)
    assert schedule["command"] == db["command"]
    assert "b" not in tables["agents"]
    expected = {"x.socket", "b: RandomizedDelaySec=5m", "app@: ProtectSystem=strict"}
    assert expected | {"app@: WatchdogSec=30", "app@: Type=notify"} <= noted(draft)


SOCKET = """[Socket]
ListenStream=8080
ListenStream=[::1]:8081
ListenStream=/run/web.sock
ListenDatagram=9000
FileDescriptorName=web
SocketMode=0660
[Install]
WantedBy=sockets.target
"""


def test_the_addresses_of_a_socket_unit_are_those_of_its_service() -> None:
    service = "[Service]\nExecStart=/usr/bin/web\n"
    units = {"web.socket": SOCKET, "web.service": service, "each.service": service}
    units |= {"each.socket": "[Socket]\nListenStream=1\nAccept=yes\n"}
    units |= {"other.socket": "[Socket]\nListenStream=2\nService=each.service\n"}
    draft = converted("systemd", units)
    tables = read(draft)
    assert tables["agents"]["web"]["listen"] == [
        {"address": "[::]:8080", "name": "web"},
        {"address": "[::1]:8081", "name": "web"},
        {"address": "unix:/run/web.sock", "name": "web", "mode": "0660"},
    ]
    assert tables["agents"]["web"]["autostart"] is False
    assert tables["agents"]["each"]["listen"] == ["[::]:2"]
    assert {"web.socket: ListenDatagram=9000", "each.socket"} <= noted(draft)


CRONTAB = """\
SHELL=/bin/bash
MAILTO=me@example.org
CRON_TZ=Europe/Berlin
A = "b c"
*/5 * * * * /usr/bin/poll.sh >/dev/null 2>&1
@daily cd /srv && ./backup --all ${X}
@reboot /bin/start-me
0 22 * * 1-5 mail joe%Joe,%bye
30 4 * * * date +\\%F
wrong
"""


def test_a_crontab_is_converted() -> None:
    draft = converted("crontab", {"crontab": CRONTAB})
    tables = read(draft)
    schedules = tables["schedules"]
    assert list(schedules) == ["poll", "backup", "mail", "date"]
    assert schedules["poll"]["cron"] == "*/5 * * * *"
    assert schedules["poll"]["timezone"] == "Europe/Berlin"
    assert schedules["backup"]["command"] == ["/bin/bash", "-c", "cd /srv && ./backup --all $${X}"]
    assert schedules["mail"]["command"][3:] == ["/bin/bash", "Joe,\nbye\n", "mail joe"]
    assert schedules["date"]["command"][2] == "date +%F"
    assert schedules["date"]["environment"] == {"A": "b c", "PATH": "/usr/bin:/bin", "SHELL": "/bin/bash"}
    assert tables["agents"]["start-me"]["type"] == "oneshot"
    assert {"MAILTO", "line 10"} <= noted(draft)
    system = converted("crontab", {"/etc/cron.d/x": "0 1 * * * root /bin/x --y\n"})
    assert read(system)["schedules"]["x"]["process"]["user"] == "root"


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("docker-compose.yml", "services: {}", "compose"),
        ("anything", "services:\n  a: {}", "compose"),
        ("eco.yaml", "apps: []", "pm2"),
        ("ecosystem.config.js", "", "pm2"),
        ("process.json", '{"apps": []}', "pm2"),
        ("Procfile.dev", "web: x", "procfile"),
        ("procs", "web: x\nother: y", "procfile"),
        ("a.conf", "[program:x]\ncommand=y", "supervisord"),
        ("a.timer", "", "systemd"),
        ("unit", "[Service]\nExecStart=x", "systemd"),
        ("table", "# m h\n*/5 * * * * x", "crontab"),
        ("table", "@daily x", "crontab"),
    ],
)
def test_the_format_is_found_by_name_and_content(tmp_path: Path, name: str, text: str, form: str) -> None:
    (tmp_path / name).write_text(text)
    assert detected(str(tmp_path / name), text) == form


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("compose", "services: [\n"),
        ("compose", "a: 1"),
        ("compose", "just words"),
        ("supervisord", "no section"),
        ("pm2", "{}"),
        ("pm2", '{"apps": [}'),
        ("pm2", '{"apps": [{"script": "a\\u0000"}]}'),
        ("pm2", '{"apps": [{"script": "a\\ud83d"}]}'),
    ],
)
def test_a_text_that_is_not_of_the_format_is_refused(form: str, text: str) -> None:
    with pytest.raises(InvalidParams):
        converted(form, {"file": text})


def test_odd_texts_end_in_a_draft_or_a_refusal() -> None:
    """Whatever the file has, no defect of ours shows."""
    odd = [
        "services: {a: null, b: 3, c: [x], d: {command: 3, environment: 3, deploy: 3, healthcheck: 3}}",
        "services: {a: {depends_on: 3, labels: 3, ulimits: 3, env_file: {}, user: 3, cpus: x, restart: 3}}",
    ]
    for text in odd:
        read(converted("compose", {"f": text}))
    for text in ('{"apps": [3, {"script": 3, "env": 3, "instances": "x", "args": 3}]}', '[{"script": "a b"}]'):
        read(converted("pm2", {"f.json": text}))
    read(converted("systemd", {"a.service": "ExecStart\n[Service]\nExecStart=\nNice=x\nMemoryMax=x\n[X"}))
    read(converted("supervisord", {"f": "[program:]\ncommand='\n[group:x]\nprograms=y\n[program:b]\nnumprocs=x"}))
