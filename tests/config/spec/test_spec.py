"""The configuration: what decodes to what, what is refused and with which facts, and that the manual is true."""

import json
import random
import re
import signal
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.supervisor.config.decoding import values
from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.decoding.keys import fields_of
from corral.supervisor.config.spec import diff, loader, references, spec
from corral.supervisor.config.spec.spec import Config, Defaults, Scale
from corral.worker.contract.errors import InvalidParams
from seeds import seeds

pytestmark = pytest.mark.core

FILE = "/etc/corral/corral.toml"
FOLDER = "/etc/corral"
MANUAL = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
AGENT = '[agents.a]\ncommand = ["x"]\n'
SERVER = '[mcp.servers.s]\ncommand = ["x"]\n'


DAEMON_WIDE = ("daemon", "events", "audit")


def decode(text: str) -> Config:
    return loader.decode(text, source=FILE, directory=FOLDER)


def refused(text: str) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        decode(text)
    return caught.value


# --- what decodes --------------------------------------------------------------------------------


def test_an_empty_file_gives_every_default() -> None:
    config = decode("")
    assert config == Config(
        daemon=spec.Daemon(),
        events=spec.Events(),
        audit=spec.Audit(),
        process=spec.Process(),
        agents={},
        defaults=Defaults(),
    )


@pytest.mark.parametrize(
    ("section", "key", "written", "value"),
    [
        ("process", "spawn_timeout", '"500ms"', 0.5),
        ("process", "spawn_timeout", '"1.5m"', 90.0),
        ("process", "spawn_timeout", "7", 7.0),
        ("process", "spawn_timeout", "0.25", 0.25),
        ("process", "shutdown_grace_period", "0", 0.0),
        ("tasks", "result_retention", '"2d"', 172_800.0),
        ("tasks", "result_retention", '"1 h"', 3600.0),
        ("resources", "max_memory_bytes", '"64MiB"', 64 << 20),
        ("resources", "max_memory_bytes", '"500MB"', 500_000_000),
        ("resources", "max_memory_bytes", '"1.5GiB"', 3 << 29),
        ("resources", "max_memory_bytes", '"8 kB"', 8000),
        ("resources", "max_memory_bytes", "4096", 4096),
        ("resources", "max_memory_bytes", "0", 0),
        ("resources", "max_cpu_seconds", '"10m"', 600),
        ("recovery", "max_restart_attempts", "0", 0),
        ("process", "umask", '"0027"', "0027"),
        ("process", "nice", "-20", -20),
        ("process", "user", '"1000"', "1000"),
        ("process", "read_paths", '["/usr", "data", "a/../b"]', ("/usr", f"{FOLDER}/data", f"{FOLDER}/a/../b")),
        ("process", "read_paths", "[]", ()),
        ("process", "connect_ports", "[80, 443]", (80, 443)),
        ("process", "isolation", '"strict"', "strict"),
        ("process", "working_directory", '"work"', f"{FOLDER}/work"),
        ("process", "working_directory", '"/srv"', "/srv"),
        ("process", "environment_file", '"env"', f"{FOLDER}/env"),
        ("process", "stop_signal", '"SIGINT"', "SIGINT"),
        ("mcp", "protocol_version", '"2025-11-25"', "2025-11-25"),
        ("mcp", "cortex_binary_path", '"bin/cortex"', f"{FOLDER}/bin/cortex"),
        ("daemon", "socket", '"c.sock"', f"{FOLDER}/c.sock"),
        ("daemon", "http", '"[::1]:8080"', "[::1]:8080"),
    ],
)  # fmt: skip
def test_a_value_is_decoded(section: str, key: str, written: str, value: object) -> None:
    config = decode(f"[{section}]\n{key} = {written}\n")
    home = config if section in DAEMON_WIDE else config.defaults
    decoded = getattr(getattr(home, section), key)
    assert decoded == value
    assert type(decoded) is type(value)


def test_an_agent_overrides_its_sections_key_by_key() -> None:
    config = decode(
        "[recovery]\nmax_restart_attempts = 7\nrestart_window = 9\n"
        f"{AGENT}[agents.a.recovery]\nrestart_window = '1m'\n{SERVER}"
    )
    assert config.agents["a"].recovery == spec.Recovery(max_restart_attempts=7, restart_window=60.0)
    assert config.agents["s"].recovery == config.defaults.recovery
    assert config.defaults.recovery.restart_window == 9


def test_environments_are_merged_and_the_nearest_wins() -> None:
    config = decode(
        '[process.environment]\nA = "1"\nB = "1"\nC = "1"\nD = "%\\n\\" #${secret:X}"\n'
        f'{AGENT}environment = {{ C = "3" }}\n'
        '[agents.a.process.environment]\nB = "2"\nC = "2"\n'
    )
    agent = config.agents["a"]
    assert agent.environment == {"A": "1", "B": "2", "C": "3", "D": '%\n" #${secret:X}'}
    assert agent.process.environment == {}
    assert config.process.environment["C"] == "1"


def test_an_agent_has_what_its_table_says() -> None:
    agent = decode(
        '[agents.a]\nentrypoint = "pkg.mod:agent"\npython = "venv/bin/python"\n'
        'instances = {min = 2, max = 5}\ncapabilities = ["x"]\ntools = []\nrequires = ["s", "cortex"]\n'
        f"autostart = false\nconfig = {{a = [1, {{b = true}}]}}\n{SERVER}"
    ).agents["a"]
    assert (agent.kind, agent.source, agent.protocol) == ("agent", FILE, "corral")
    assert (agent.command, agent.entrypoint) == ((), "pkg.mod:agent")
    assert agent.python == f"{FOLDER}/venv/bin/python"
    assert (agent.instances.minimum, agent.instances.maximum) == (2, 5)
    assert (agent.capabilities, agent.tools, agent.requires) == (("x",), (), ("s", "cortex"))
    assert agent.autostart is False
    assert agent.config == {"a": [1, {"b": True}]}
    assert agent.process.working_directory == FOLDER


def test_a_python_without_a_slash_is_left_to_path() -> None:
    text = '[agents.a]\nentrypoint = "m:a"\npython = "python3.12"\n'
    assert decode(text).agents["a"].python == "python3.12"


def test_a_server_speaks_mcp_and_idles() -> None:
    server = decode(f'{SERVER}protocol = "mcp"\nconcurrency = "serial"\ninstances = 3\n').agents["s"]
    assert (server.kind, server.protocol, server.concurrency) == ("mcp", "mcp", "serial")
    assert (server.idle_timeout, server.instances) == (300.0, Scale(3, 3))


def test_cortex_may_be_disabled_without_a_command() -> None:
    cortex = decode("[mcp.servers.cortex]\ndisabled = true\n").agents["cortex"]
    assert (cortex.disabled, cortex.command) == (True, ())


def test_a_working_directory_defaults_to_where_the_table_came_from() -> None:
    table = {"command": ["x"]}
    for section, folder in (("", "/home/me"), ("[process]\nworking_directory = 'w'\n", f"{FOLDER}/w")):
        added = loader.decode_agent(
            "a", table, kind="agent", defaults=decode(section).defaults, source="store", directory="/home/me"
        )  # fmt: skip
        assert added.process.working_directory == folder


@pytest.mark.parametrize(
    ("section", "own", "result"),
    [
        ("", "", (True, "basic")),
        ("", "enable_isolation = false", (False, "none")),
        ("", 'isolation = "none"', (False, "none")),
        ("", 'isolation = "none"\nenable_isolation = false', (False, "none")),
        ("enable_isolation = false", "", (False, "none")),
        ("enable_isolation = false", "enable_isolation = true", (True, "basic")),
        ("enable_isolation = false", 'isolation = "basic"\nenable_isolation = true', (True, "basic")),
        ('isolation = "none"', "nice = 1", (False, "none")),
    ],
)
def test_isolation_is_one_choice_with_two_keys(section: str, own: str, result: tuple[bool, str]) -> None:
    process = decode(f"[process]\n{section}\n{AGENT}[agents.a.process]\n{own}\n").agents["a"].process
    assert (process.enable_isolation, process.isolation) == result


@pytest.mark.parametrize(
    ("written", "base_s", "max_s"),
    [('restart_backoff_base = "1m"', 60, 60), ('restart_backoff_max = "100ms"', 0.1, 0.1)],
)
def test_the_backoff_that_was_written_counts(written: str, base_s: float, max_s: float) -> None:
    recovery = decode(f"[recovery]\n{written}\n").defaults.recovery
    assert (recovery.restart_backoff_base, recovery.restart_backoff_max) == (base_s, max_s)


# --- what is refused -----------------------------------------------------------------------------

BAD: list[tuple[str, str, object]] = [
    # tables and keys
    ("agent = 1", "agent", 1),
    ("process = 3", "process", 3),
    ("agents = 3", "agents", 3),
    ("[[agents]]\nname = 'x'", "agents", ["a table"]),
    ("[agents]\na = ['x']", "agents.a", ["x"]),
    ("mcp = 1", "mcp", 1),
    ("[mcp]\nservers = 1", "mcp.servers", 1),
    ("[mcpServers.x]\ncommand = 'y'", "mcpServers", "a table"),
    ("[process]\numsk = '077'", "process.umsk", "077"),
    (f"{AGENT}commando = 1", "agents.a.commando", 1),
    (f"{AGENT}name = 'b'", "agents.a.name", "b"),
    (f"{AGENT}source = 'b'", "agents.a.source", "b"),
    (f"{AGENT}max_memory_bytes = 1", "agents.a.max_memory_bytes", 1),
    (f"{AGENT}resources = 1", "agents.a.resources", 1),
    (f"{AGENT}[agents.a.daemon]", "agents.a.daemon", "a table"),
    (f"{AGENT}[agents.a.resources]\nx = 1", "agents.a.resources.x", 1),
    (f"{AGENT}idle_timeout = 1", "agents.a.idle_timeout", 1),
    (f"{AGENT}disabled = true", "agents.a.disabled", True),
    (f"{SERVER}hibernate_after = 1", "mcp.servers.s.hibernate_after", 1),
    (f"{AGENT}hibernate_after = 1\nprotocol = 'none'", "agents.a.hibernate_after", 1.0),
    (f"{AGENT}warm = true", "agents.a.warm", True),
    (f"{AGENT}preload = ['json']", "agents.a.preload", ["json"]),
    ("[agents.a]\nentrypoint = 'm:a'\npreload = ['a b']", "agents.a.preload", "a b"),
    ("[agents.a]\nentrypoint = 'm:a'\nmin_spare = 1\nwarm = false", "agents.a.min_spare", 1),
    (f"{SERVER}tools = []", "mcp.servers.s.tools", []),
    (f"{SERVER}entrypoint = 'm:a'", "mcp.servers.s.entrypoint", "m:a"),
    (f"{SERVER}url = 'http://h'", "mcp.servers.s.url", "http://h"),
    ("mcp.servers.s.url = 'http://h:99999/mcp'", "mcp.servers.s.url", "http://h:99999/mcp"),
    ("mcp.servers.s.url = 'http://h:0/mcp'", "mcp.servers.s.url", "http://h:0/mcp"),
    ("mcp.servers.s.url = 'http://[::1/mcp'", "mcp.servers.s.url", "http://[::1/mcp"),
    ("mcp.servers.s.url = 'http://u:p@h/mcp'", "mcp.servers.s.url", "..."),
    (f"{AGENT}process.max_concurrent_processes = 1", "agents.a.process.max_concurrent_processes", 1),
    (f"{SERVER}mcp.cortex_args = []", "mcp.servers.s.mcp.cortex_args", []),
    # durations, sizes, numbers
    ("[process]\nspawn_timeout = 0", "process.spawn_timeout", 0),
    ("[process]\nspawn_timeout = -1", "process.spawn_timeout", -1),
    ("[process]\nspawn_timeout = true", "process.spawn_timeout", True),
    ("[process]\nspawn_timeout = '30'", "process.spawn_timeout", "30"),
    ("[process]\nspawn_timeout = '1w'", "process.spawn_timeout", "1w"),
    ("[process]\nspawn_timeout = '-1s'", "process.spawn_timeout", "-1s"),
    ("[process]\nspawn_timeout = nan", "process.spawn_timeout", "nan"),
    ("[process]\nspawn_timeout = inf", "process.spawn_timeout", "inf"),
    ("[process]\nspawn_timeout = []", "process.spawn_timeout", []),
    ("[process]\nspawn_timeout = '999999999d'", "process.spawn_timeout", "999999999d"),
    (f"[process]\nspawn_timeout = 1{'0' * 400}", "process.spawn_timeout", "a huge number"),
    ("[resources]\nmax_memory_bytes = '2 gigs'", "resources.max_memory_bytes", "2 gigs"),
    ("[resources]\nmax_memory_bytes = '512M'", "resources.max_memory_bytes", "512M"),
    ("[resources]\nmax_memory_bytes = -1", "resources.max_memory_bytes", -1),
    ("[resources]\nmax_memory_bytes = 1.5", "resources.max_memory_bytes", 1.5),
    ("[resources]\nmax_memory_bytes = false", "resources.max_memory_bytes", False),
    ("[resources]\nmax_memory_bytes = '99999999TiB'", "resources.max_memory_bytes", "99999999TiB"),
    ("[resources]\nmax_output_size_bytes = 0", "resources.max_output_size_bytes", 0),
    ("[resources]\nmax_cpu_seconds = 0.5", "resources.max_cpu_seconds", 0.5),
    ("[resources]\ncpu_limit_percent = 12.5", "resources.cpu_limit_percent", 12.5),
    ("[recovery]\nmax_restart_attempts = true", "recovery.max_restart_attempts", True),
    ("[recovery]\nmax_restart_attempts = -1", "recovery.max_restart_attempts", -1),
    ("[recovery]\nmax_restart_attempts = 1001", "recovery.max_restart_attempts", 1001),
    ("[recovery]\nmax_restart_attempts = '3'", "recovery.max_restart_attempts", "3"),
    ("[recovery]\nenable_auto_restart = 1", "recovery.enable_auto_restart", 1),
    ("[tasks]\ndefault_priority = 11", "tasks.default_priority", 11),
    ("[process]\nnice = 20", "process.nice", 20),
    # words
    ("[recovery]\nrestart = 'allways'", "recovery.restart", "allways"),
    ("[recovery]\nrestart = true", "recovery.restart", True),
    ("[daemon]\non_daemon_loss = 'keep'", "daemon.on_daemon_loss", "keep"),
    ("[daemon]\ncontainment = 'jail'", "daemon.containment", "jail"),
    ("[daemon]\nlog_level = 'loud'", "daemon.log_level", "loud"),
    ("[daemon]\nhttp = 8080", "daemon.http", 8080),
    ("[daemon]\nhttp = 'localhost:99999'", "daemon.http", "localhost:99999"),
    ("[mcp]\nprotocol_version = '1'", "mcp.protocol_version", "1"),
    ("[mcp]\nprotocol_version = 2025-11-25", "mcp.protocol_version", "2025-11-25"),
    ("[process]\nstop_signal = 'TERM'", "process.stop_signal", "TERM"),
    ("[process]\nstop_signal = 'SIGSTOP'", "process.stop_signal", "SIGSTOP"),
    ("[process]\nstop_signal = 15", "process.stop_signal", 15),
    ("[process]\numask = 63", "process.umask", 63),
    ("[process]\numask = '089'", "process.umask", "089"),
    ("[process]\nuser = 1000", "process.user", 1000),
    ("[process]\nuser = 'a b'", "process.user", "a b"),
    ("[process]\nuser = ''", "process.user", ""),
    ("[process]\nworking_directory = '~/x'", "process.working_directory", "~/x"),
    ("[process]\nworking_directory = ''", "process.working_directory", ""),
    ("[process]\nread_paths = '/usr'", "process.read_paths", "/usr"),
    ("[process]\nread_paths = ['/usr', 3]", "process.read_paths", 3),
    ("[process]\nconnect_ports = [0]", "process.connect_ports", 0),
    ("[process]\nconnect_ports = [70000]", "process.connect_ports", 70000),
    ("[process]\ninherit_environment = ['A=B']", "process.inherit_environment", "A=B"),
    # contradictions
    ("[process]\nenable_isolation = false\nisolation = 'strict'", "process.isolation", "strict"),
    ("[process]\nenable_isolation = true\nisolation = 'none'", "process.isolation", "none"),
    ("[process]\nnetwork = 'none'", "process.network", "none"),
    ("[process]\nisolation = 'basic'\nnetwork = 'proxy'", "process.network", "proxy"),
    ("[process]\nisolation = 'strict'\nnetwork = 'some'", "process.network", "some"),
    ("[process]\nallowed_hosts = ['a.b']", "process.allowed_hosts", ["a.b"]),
    ("[process]\nisolation='strict'\nnetwork='proxy'\nallowed_hosts = ['a b']", "process.allowed_hosts", "a b"),
    ("[process]\nisolation='strict'\nnetwork='proxy'\nallowed_hosts = ['a:0']", "process.allowed_hosts", "a:0"),
    ("[process]\nisolation = 'container'", "process.isolation", "container"),
    ("[process]\nimage = 'x'", "process.image", "x"),
    ("[process]\nisolation = 'full'", "process.isolation", "full"),
    ("[monitoring]\nheartbeat_timeout = '2s'", "monitoring.heartbeat_timeout", "2s"),
    ("[monitoring]\nheartbeat_interval = 30", "monitoring.heartbeat_interval", 30),
    ("[recovery]\nrestart_backoff_base = 9\nrestart_backoff_max = 8", "recovery.restart_backoff_max", 8),
    ("[agents.a]\ncommand = ['x']\nentrypoint = 'm:a'", "agents.a.entrypoint", "m:a"),
    ("[agents.a]\ncommand = ['x']\npython = '/p'", "agents.a.python", "/p"),
    ("[agents.a]\nentrypoint = 'm:a'\nprotocol = 'none'", "agents.a.protocol", "none"),
    (f"{SERVER}protocol = 'corral'", "mcp.servers.s.protocol", "corral"),
    # jobs
    (f"{AGENT}type = 'job'", "agents.a.type", "job"),
    (f"{SERVER}type = 'stdio'", "mcp.servers.s.type", "stdio"),
    (f"{AGENT}remain = true", "agents.a.remain", True),
    (f"{AGENT}timeout = 60", "agents.a.timeout", 60.0),
    (f"{AGENT}type = 'oneshot'\nprotocol = 'corral'", "agents.a.protocol", "corral"),
    (f"{AGENT}type = 'oneshot'\nready = {{ tcp = '127.0.0.1:1' }}", "agents.a.ready", None),
    (f"{AGENT}type = 'oneshot'\nrecovery.restart = 'always'", "agents.a.recovery.restart", "always"),
    ("[agents.a]\nentrypoint = 'm:a'\ntype = 'oneshot'", "agents.a.entrypoint", "m:a"),
    # programs
    ("[agents.a]", "agents.a.command", None),
    ("[agents.a]\ncommand = []", "agents.a.command", []),
    ("[agents.a]\ncommand = ['']", "agents.a.command", [""]),
    ("[agents.a]\ncommand = ['x', 3]", "agents.a.command", 3),
    ("[agents.a]\ncommand = 'python -m x'", "agents.a.command", "python -m x"),
    ('[agents.a]\ncommand = "x\\u2028 y"', "agents.a.command", "x\u2028 y"),
    ("[agents.a]\ncommand = 'it\"s'", "agents.a.command", 'it"s'),
    ("[agents.a]\nentrypoint = 'm'", "agents.a.entrypoint", "m"),
    ("[mcp.servers.s]", "mcp.servers.s.command", None),
    ("[mcp.servers.s]\ndisabled = true", "mcp.servers.s.command", None),
    ("[mcp.servers.cortex]", "mcp.servers.cortex.command", None),
    ("[mcp.servers.s]\ncommand = 'npx'\nargs = ['-y']", "mcp.servers.s.args", ["-y"]),
    (f"{SERVER}env = {{ K = 'secret' }}", "mcp.servers.s.env", "a table"),
    # the rest of a table
    (f"{AGENT}instances = 0", "agents.a.instances", 0),
    (f"{AGENT}instances = 1001", "agents.a.instances", 1001),
    (f"{AGENT}instances = {{min = 3, max = 2}}", "agents.a.instances", "a table"),
    (f"{AGENT}instances = {{min = 3}}", "agents.a.instances", "a table"),
    (f"{AGENT}instances = true", "agents.a.instances", True),
    (f"{AGENT}tools = 'x'", "agents.a.tools", "x"),
    (f"{AGENT}tools = ['x', 'a b']", "agents.a.tools", "a b"),
    (f"{AGENT}capabilities = ['']", "agents.a.capabilities", ""),
    (f"{AGENT}config = 1", "agents.a.config", 1),
    (f"{AGENT}config = {{ day = 2026-01-01 }}", "agents.a.config", "2026-01-01"),
    (f"{AGENT}config = {{ x = [nan] }}", "agents.a.config", "nan"),
    (f"{AGENT}config = {{ x = {'[' * 40}{']' * 40} }}", "agents.a.config", "..."),
    (f"{AGENT}environment = {{ PORT = 8080 }}", "agents.a.environment.PORT", 8080),
    (f"{AGENT}environment = {{ DEBUG = true }}", "agents.a.environment.DEBUG", True),
    (f"{AGENT}environment = {{ K = ['secret'] }}", "agents.a.environment.K", "a list"),
    (f"{AGENT}environment = {{ K = \"secret\\u0000\" }}", "agents.a.environment.K", "a string"),
    (f"{AGENT}environment = ['K=secret']", "agents.a.environment", "a list"),
    (f"{AGENT}process.environment.A = 1", "agents.a.process.environment.A", 1),
    # names
    ("[agents]\n'a/b' = { command = ['x'] }", 'agents."a/b"', "a"),
    ("[agents.a__b]\ncommand = ['x']", "agents.a__b", "a__b"),
    ("[agents.1a]\ncommand = ['x']", "agents.1a", "1a"),
    ("[agents.'']\ncommand = ['x']", 'agents.""', ""),
    ("[agents.é]\ncommand = ['x']".replace("é", "'é'"), 'agents."\\u00e9"', "é"),
    ('[agents."a\\n"]\ncommand = ["x"]', 'agents."a\\n"', "a\n"),
    (f"[agents.{'a' * 49}]\ncommand = ['x']", f"agents.{'a' * 49}", "a" * 49),
    (f"{AGENT}[mcp.servers.a]\ncommand = ['x']", "mcp.servers.a", "a"),
    # requires
    (f"{AGENT}requires = ['b']", "agents.a.requires", "b"),
    (f"{AGENT}requires = ['a']", "agents.a.requires", "a"),
    (f"{AGENT}requires = 'b'", "agents.a.requires", "b"),
    (f"{SERVER}requires = ['x']", "mcp.servers.s.requires", "x"),
    (f"{AGENT}requires = ['cortex']\n[mcp.servers.cortex]\ndisabled = true", "agents.a.requires", "cortex"),
]  # fmt: skip


def test_a_secret_that_would_go_into_an_address_as_it_stands_is_refused() -> None:
    assert refused("mcp.servers.s.url = 'http://h/${secret:K}'").data["key"] == "mcp.servers.s.url"


@pytest.mark.parametrize(("text", "key", "value"), BAD)
def test_a_mistake_is_refused_with_its_facts(text: str, key: str, value: object) -> None:
    error = refused(text)
    assert (error.data["file"], error.data["key"], error.data["value"]) == (FILE, key, value)
    assert type(error.data["value"]) is type(value)
    assert error.data["reason"]
    assert error.message.startswith("cannot read ")
    assert error.message.isprintable()
    for fact in (FILE, key):
        assert str(fact) in error.message
    assert "secret" not in error.message
    json.dumps(error.data, allow_nan=False)


def test_forty_eight_characters_are_a_name() -> None:
    name = "a" * 48
    assert list(decode(f"[agents.{name}]\ncommand = ['x']").agents) == [name]


@pytest.mark.parametrize(
    ("text", "line", "column"), [("a = 1\nb == 2\n", 2, 4), (AGENT + AGENT, 3, 10), ("a = 'x", 1, 7), ("x", 1, 2)]
)
def test_broken_toml_names_line_and_column(text: str, line: int, column: int) -> None:
    data = refused(text).data
    assert (data["file"], data["line"], data["column"]) == (FILE, line, column)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000])
def test_what_the_toml_reader_cannot_take_is_refused(text: str) -> None:
    assert refused(text).data["file"] == FILE


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n[process]\n# umask = 1\numask = 1\n", 4),
        ("[agents]\n[agents . 'a']\ncommand = ['x']\nresources.max_memory_bytes = true\n", 4),
        ("[agents.a]\n\n[agents.b]\ncommand = 1\n", 1),
        ("agents.a.command = 1\n", 1),
        ('[agents.a]\nconfig.x = """\ncommand = 1\n"""\ncommand = 1\n', 5),
        (f"{AGENT}environment = {{ X = 1 }}\n", 3),
        (f"{AGENT}[agents.a.environment]\nB = ''\nX = 1\n", 5),
        (f"{AGENT}[agents.b]\ncommand = ['x']\nrequires = ['c']\n", 5),
        ("[typo.deep]\n", 1),
    ],
)
def test_the_line_of_the_key_is_found(text: str, line: int) -> None:
    assert refused(text).data["line"] == line


def test_the_line_of_a_step_is_found_by_its_name_or_number() -> None:
    text = (
        f"{AGENT}[[workflows.w.steps]]\nname = 'one'\nagent = 'a'\n"
        "[[workflows.w.steps]]\nagent = 'a'\n"
        "[[workflows.w.steps]]\nname = 'two'\nagent = 'a'\npriority = 11\n"
    )
    errors = cast("list[dict[str, object]]", refused(text).data["errors"])
    assert [(each["key"], each["line"]) for each in errors] == [
        ("workflows.w.steps.2.name", 6),
        ("workflows.w.steps.two.priority", 11),
    ]


def test_all_mistakes_of_a_file_are_reported_at_once_in_the_order_of_their_lines() -> None:
    text = """
[daemon]
log_level = "loud"
[resources]
max_memory_bytes = "2 gigs"
[agents.a]
comand = ["x"]
[agents.b]
command = ["x"]
requires = ["a", "nobody"]
instances = 0
resources.nope = 1
[agents.c]
command = ["x"]
requires = ["a", "b"]
health = { tcp = "127.0.0.1:80", recovery = "nothing" }
[agents.d]
resources.max_processes = -1
[mcp.servers.a]
command = ["x"]
[teams.t]
lead = "a"
members = ["b", "nobody"]
[teams.u]
mode = "none"
[[workflows.w.steps]]
name = "one"
agent = "nobody"
[typo]
"""
    error = refused(text)
    errors = cast("list[dict[str, object]]", error.data["errors"])
    assert [(each["key"], each["line"]) for each in errors] == [
        ("daemon.log_level", 3),
        ("resources.max_memory_bytes", 5),
        ("agents.a.comand", 7),
        ("agents.b.instances", 11),
        ("agents.b.resources.nope", 12),
        ("agents.c.health.recovery", 16),
        ("agents.d.command", 17),
        ("agents.d.resources.max_processes", 18),
        ("mcp.servers.a", 19),
        ("teams.t.members", 23),
        ("teams.u.mode", 25),
        ("workflows.w.steps.one.agent", 28),
        ("typo", 29),
    ]
    assert all({"file", "key", "value", "reason", "message"} <= each.keys() for each in errors)
    assert (error.data["key"], error.data["line"]) == ("daemon.log_level", 3)
    assert error.messages == [each["message"] for each in errors]


def test_one_mistake_is_reported_alone_without_those_that_follow_from_it() -> None:
    text = "[agents.a]\ncomand = ['x']\n[agents.b]\ncommand = ['x']\nrequires = ['a']\n"
    error = refused(text + "[teams.t]\nlead = 'a'\nmembers = ['b']\n")
    assert "errors" not in error.data
    assert error.data["key"] == "agents.a.comand"


@pytest.mark.long
def test_a_file_of_mistakes_lists_a_hundred_of_them() -> None:
    error = refused("".join(f"[agents.n{n}x]\ncommand = 1\n" for n in range(1000)))
    assert len(error.messages) == 100
    assert "999 more" in error.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[metrics]\nretention = '1d'", ['{ raw = "1d"']),
        (f"{AGENT}cron = '* * * * *'", ["[schedules.NAME]"]),
        (f"{AGENT}timeout = 60", ["max_task_duration", "resources"]),
        ("[agents.a]", ["entrypoint", "command"]),
        ("[agents.a]\nentrypoint = 'a.py'", ['"a:agent"']),
        ("[agents.a]\nentrypoint = 'a.py:bot'", ['"a:bot"']),
        ("[agents.a]\nentrypoint = 'src/a.py:agent'", ['"src.a:agent"']),
        ("[agents.a]\ncommand = ['cd /tmp && ls']", ["no shell", '["sh", "-c", "cd /tmp && ls"]']),
        ("[agents.a]\ncommand = ['node x.js', '-v']", ["no shell", '["node", "x.js", "-v"]']),
        ("[agents.a]\ncommand = 'cd /tmp && ls'", ['["sh", "-c", "cd /tmp && ls"]']),
        ("agents:\n  a:\n    command: x", ["TOML"]),
        ('{"agents": {}}', ["TOML"]),
    ],
)
def test_a_usual_mistake_is_reported_with_what_to_write(text: str, words: list[str]) -> None:
    reason = str(refused(text).data["reason"])
    assert [word for word in words if word not in reason] == []


def test_a_pattern_of_tools_that_no_server_has_is_warned_of() -> None:
    text = (
        "[agents.a]\ncommand = ['x']\ntools = ['gti__*', 'git__*', '*__read', 'corral__*', 'g?t__x']\n"
        "denied_tools = ['cortex__*', 'off__*', 'log']\n"
        "[mcp.servers.git]\ncommand = ['x']\n[mcp.servers.off]\ncommand = ['x']\ndisabled = true\n"
        "[mcp.profiles.p]\ntools = ['time__*']\n"
    )
    found = references.tool_warnings(decode(text))
    words = ['agents.a.tools: "gti__*"', '"off__*"', '"log"', 'mcp.profiles.p.tools: "time__*"']
    assert [line for line, word in zip(found, words, strict=True) if word not in line] == []
    assert 'did you mean "git__*"' in found[0]


def test_a_program_in_a_folder_with_spaces_is_one_program() -> None:
    assert decode("[agents.a]\ncommand = ['/opt/My App/run']").agents["a"].command


def test_a_line_that_is_not_plain_to_see_is_left_out() -> None:
    data = refused("agents = { a = { command = ['x'], resources = { nope = 1 } } }").data
    assert data["key"] == "agents.a.resources.nope"
    assert "line" not in data


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("[recovery]\nmax_restart_attempt = 1", "max_restart_attempts"),
        ("[recover]", "recovery"),
        (f"{AGENT}instance = 1", "instances"),
        (f"{AGENT}[agents.a.resource]", "resources"),
        (f"{AGENT}max_memory_byte = 1", "max_memory_bytes"),
        (f"{AGENT}requires = ['plannr']\n[agents.planner]\ncommand = ['x']", "planner"),
    ],
)
def test_an_unknown_word_suggests_the_nearest(text: str, near: str) -> None:
    assert f'"{near}"' in str(refused(text).data["reason"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{AGENT}restart = 'always'", ['"restart"', "recovery"]),
        (f"{AGENT}user = 'nobody'", ['"user"', "process"]),
        (f"{AGENT}memory = '1GiB'", ["max_memory_bytes", "resources"]),
        (f"{AGENT}depends_on = ['b']", ["requires"]),
        ("[mcp.server.time]\ncommand = ['x']", ["[mcp.servers.NAME]"]),
        ("[monitoring]\nalert = 'mail me'", ['["mail", "me"]']),
    ],
)
def test_a_word_of_another_place_or_program_suggests_where_it_belongs(text: str, words: list[str]) -> None:
    reason = str(refused(text).data["reason"])
    assert [word for word in words if word not in reason] == []
    assert "command" not in reason


def test_a_circle_is_named_whole() -> None:
    text = "".join(
        f"[agents.{name}]\ncommand = ['x']\nrequires = {needs}\n"
        for name, needs in {"free": ["b"], "b": ["c"], "c": ["d"], "d": ["free2", "b"]}.items()
    )
    error = refused(text + "[agents.free2]\ncommand = ['x']\n")
    assert (error.data["key"], error.data["value"]) == ("agents.b.requires", "c")
    assert error.data["cycle"] == ["b", "c", "d", "b"]


def test_a_long_chain_of_requires_is_no_circle() -> None:
    text = "".join(f"[agents.n{n}x]\ncommand = ['x']\nrequires = ['n{n + 1}x']\n" for n in range(3000))
    assert len(decode(text + "[agents.n3000x]\ncommand = ['x']\n").agents) == 3001


def test_requires_of_a_running_set_are_checked_too() -> None:
    agents = decode(AGENT).agents
    added = loader.decode_agent(
        "b", {"command": ["x"], "requires": ["nobody"]},
        kind="agent", defaults=Defaults(), source="store", directory="/",
    )  # fmt: skip
    references.check_requires(agents)
    with pytest.raises(InvalidParams) as caught:
        references.check_requires({**agents, "b": added})
    assert (caught.value.data["file"], caught.value.data["key"]) == ("store", "agents.b.requires")


@pytest.mark.parametrize(
    ("name", "kind", "table", "named"),
    [
        ("b", "agent", {"command": ["x"], "resources": {"max_memory_bytes": "2gigs"}}, '"2gigs"'),
        ("b", "mcp", {"command": ["x"], "instances": 0}, "instances = 0"),
        ("b", "agent", {}, "command"),
        ("b__1", "agent", {"command": ["x"]}, '"b__1"'),
    ],
)
def test_a_refused_agent_that_is_in_no_file_is_named_itself_and_no_file_is(
    name: str, kind: Literal["agent", "mcp"], table: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        loader.decode_agent(name, table, kind=kind, defaults=Defaults(), source=STORE, directory="/")
    assert f'"{name}"' in caught.value.message
    assert named in caught.value.message
    assert "store" not in caught.value.message


@pytest.mark.parametrize("table", [None, [], 3, {1: 2}, {"command": None}, {"command": ["x"], "nice": 1}])
def test_a_table_from_elsewhere_is_refused_the_same_way(table: Any) -> None:  # Any: not a table
    with pytest.raises(InvalidParams) as caught:
        loader.decode_agent("a", table, kind="agent", defaults=Defaults(), source="store", directory="/")
    assert caught.value.data["file"] == "store"


# --- properties ----------------------------------------------------------------------------------

_WORDS = [
    *("daemon", "process", "resources", "mcp", "monitoring", "tasks", "events", "recovery"),
    *("agents", "servers", "a", "b-1", "cortex", "args", "env", "min", "max", "unknown", ""),
    *(key for table in [spec.Spec, *spec.DAEMON_TABLES.values(), *spec.SECTIONS.values()] for key in fields_of(table)),
]
_SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(["30s", "64MiB", "basic", "none", "auto", "m:a", "SIGTERM", "a", "/x", "077"]),
)
_TABLES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(_WORDS), st.text(max_size=5)), inner, max_size=5),
    ),
    max_leaves=25,
)


def refusal(work: Callable[[], object]) -> InvalidParams | None:
    """The typed refusal, if there is one; any other exception is a failure of the test."""
    try:
        work()
    except InvalidParams as error:
        return error
    return None


def assert_plain(error: InvalidParams | None) -> None:
    if error is not None:
        json.dumps(error.data, allow_nan=False)
        assert error.message.startswith("cannot read ")
        assert error.message.isprintable()


@settings(max_examples=150, deadline=None)
@given(table=st.dictionaries(st.sampled_from(_WORDS), _TABLES, max_size=5), kind=st.sampled_from(("agent", "mcp")))
def test_any_table_is_decoded_or_refused(table: dict[str, object], kind: Literal["agent", "mcp"]) -> None:
    assert_plain(
        refusal(lambda: loader.decode_agent("a", table, kind=kind, defaults=Defaults(), source="f", directory="/d"))
    )


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(_WORDS), _TABLES, max_size=5))
def test_any_document_is_decoded_or_refused(document: dict[str, object]) -> None:
    text = "".join(f"{json.dumps(key)} = {inline(value)}\n" for key, value in document.items())
    assert_plain(refusal(lambda: decode(text)))


_PIECES = ["\n[", "]\n", " = ", '"', "agents.a", "command", "'''", "\n", "[[", "process", "umask"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(_PIECES)), max_size=12))
def test_any_text_is_decoded_or_refused(pieces: list[str]) -> None:
    assert_plain(refusal(lambda: decode("".join(pieces))))


def some_sections(rng: random.Random, isolated: bool) -> dict[str, dict[str, object]]:
    """Random valid section tables."""
    isolation: dict[str, list[object]] = (
        {"read_paths": [[], ["x", "/y"]], "connect_ports": [[], [443]]} if isolated else {"isolation": ["none"]}
    )
    choices: dict[str, dict[str, list[object]]] = {
        "process": {
            "spawn_timeout": [1, 2.5, "3m"], "umask": ["077", "022"], "nice": [0, 5],
            "user": ["u"], **isolation,
            "environment": [{"A": "1"}, {"A": "2", "B": "3"}], "working_directory": ["w", "/w"],
        },
        "resources": {"max_memory_bytes": [0, "1GiB", "2GiB"], "max_cpu_seconds": [0, "1h"]},
        "mcp": {"protocol_version": ["auto", "2025-06-18"], "max_retries": [0, 3]},
        "monitoring": {"heartbeat_interval": [1, 2], "agent_log_level": ["debug", "info"]},
        "tasks": {"retry_on": ["any", "never"], "max_attempts": [1, 3]},
        "recovery": {"restart_backoff_base": [0.5, "40s"], "restart_backoff_max": ["100s", 50]},
    }  # fmt: skip
    return {
        name: {key: rng.choice(values) for key, values in keys.items() if rng.random() < 0.4}
        for name, keys in choices.items()
        if rng.random() < 0.6
    }


def some_table(rng: random.Random, kind: str, isolated: bool) -> dict[str, object]:
    """A random valid table of an agent or a server."""
    choices: dict[str, list[object]] = {
        "instances": [1, 2, {"min": 1, "max": 4}, {"min": 2, "max": 2}],
        "requires": [[], ["x"]], "autostart": [True, False], "environment": [{"A": "1"}, {"C": ""}],
    }  # fmt: skip
    if kind == "agent":
        choices |= {
            "protocol": ["corral"], "capabilities": [[], ["c", "d"]], "tools": [[], ["t__*"]],
            "denied_tools": [[], ["t__x"]],
            "config": [{}, {"x": [1, 2.0, {"y": ""}]}],
            "hibernate_after": [0, "10m"],
        }  # fmt: skip
    else:
        choices |= {
            "idle_timeout": [0, "5m", 7.5],
            "concurrency": ["auto", "serial"],
            "share": ["all", "agent"],
            "spares": [0, 1],
            "max_calls_per_minute": [0, 60],
            "relays": [[], ["roots", "sampling"]],
            "denied_tools": [[], ["write_*"]],
            "disabled": [True],
        }
    table: dict[str, object] = {key: rng.choice(values) for key, values in choices.items() if rng.random() < 0.5}
    if kind == "agent" and rng.random() < 0.5:
        table |= {"entrypoint": "m:a", "python": rng.choice(["python3", "venv/python"])}
        table |= rng.choice([{}, {"warm": False}, {"preload": ["json", "a.b"], "min_spare": 2}])
    else:
        table["command"] = rng.choice([["x"], ["x", "", "-y"]])
    return table | some_sections(rng, isolated)


@pytest.mark.parametrize("seed", seeds(300))
def test_a_spec_survives_its_own_table(seed: int) -> None:
    rng = random.Random(seed)
    kind: Literal["agent", "mcp"] = rng.choice(["agent", "mcp"])
    isolated = seed % 2 == 0
    sections = some_sections(rng, isolated)
    document = {**sections, "agents": {}}
    defaults = decode(toml(document)).defaults
    old = loader.decode_agent(
        "a", some_table(rng, kind, isolated), kind=kind, defaults=defaults, source=FILE, directory="/first"
    )
    table = loader.to_table(old, defaults)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    new = loader.decode_agent("a", table, kind=kind, defaults=defaults, source=FILE, directory="/second")
    assert new == old
    assert loader.to_table(new, defaults) == table
    for key in table:
        if key not in ("command", "entrypoint", "python"):
            fewer = {k: v for k, v in table.items() if k != key}
            without = loader.decode_agent("a", fewer, kind=kind, defaults=defaults, source=FILE, directory="/second")  # fmt: skip
            assert without != old, f"{key} is not needed"


def toml(table: dict[str, Any]) -> str:
    """Sections of scalars, lists and one level of inline tables, as TOML."""
    lines: list[str] = []
    for name, section in table.items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            lines.append(f"{key} = {inline(value)}")
    return "\n".join(lines)


def inline(value: object) -> str:
    if values.is_table(value):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if values.is_list(value):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def test_a_table_is_minimal() -> None:
    config = decode("[recovery]\nrestart = 'always'\n[process]\nworking_directory = '/w'\n" + AGENT)
    agent = config.agents["a"]
    assert loader.to_table(agent, config.defaults) == {"command": ["x"]}
    assert loader.to_table(agent) == {
        "command": ["x"],
        "process": {"working_directory": "/w"},
        "recovery": {"restart": "always"},
    }


def test_a_job_speaks_no_protocol_and_survives_its_own_table() -> None:
    config = decode(AGENT + "type = 'oneshot'\nremain = true\ntimeout = '1h'\n")
    job = config.agents["a"]
    assert (job.protocol, job.remain, job.timeout) == ("none", True, 3600.0)
    table = loader.to_table(job, config.defaults)
    del table["process"]
    assert table == {"command": ["x"], "type": "oneshot", "remain": True, "timeout": 3600}
    again = loader.decode_agent("a", table, kind="agent", defaults=config.defaults, source=FILE, directory=FOLDER)  # fmt: skip
    assert again == job


def test_a_disabled_cortex_survives_its_own_table() -> None:
    config = decode("[mcp.servers.cortex]\ndisabled = true\n")
    table = loader.to_table(config.agents["cortex"], config.defaults)
    again = loader.decode_agent("cortex", table, kind="mcp", defaults=config.defaults, source=FILE, directory="/")  # fmt: skip
    assert again == config.agents["cortex"]


# --- changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("", "", set[str]()),
        ("[process]\nmax_concurrent_processes = 5", "[process]\nstart_concurrency = 3", set[str]()),
        ("[mcp]\ncortex_args = []", "", set[str]()),
        ("", "[recovery]\nrestart = 'never'", {"live"}),
        ("", "[agents.a]\ntools = []", {"live"}),
        ("", "[resources]\nmax_memory_bytes = 1", {"live"}),
        ("", "[resources]\nmax_processes = 9", {"restart"}),
        ("", "[process]\nenvironment = { A = '1' }", {"restart"}),
        ("", "[agents.a]\nconfig = { x = 1 }", {"restart"}),
        ("[agents.a]\nconfig = { x = 1 }", "[agents.a]\nconfig = { x = true }", {"restart"}),
        ("", "[tasks]\nmax_attempts = 1\n[agents.a]\nprotocol = 'none'", {"live", "restart"}),
        ("", "[mcp]\nprotocol_version = '2025-06-18'", {"live"}),
        ("[agents.a]\nprotocol = 'mcp'", "[mcp]\nprotocol_version = '2025-06-18'\n[agents.a]\nprotocol = 'mcp'", {"restart"}),
    ],
)  # fmt: skip
def test_a_change_is_live_or_needs_a_restart(before: str, after: str, kinds: set[str]) -> None:
    old, new = (
        decode((text if "[agents.a]" in text else f"{text}\n[agents.a]") + "\ncommand = ['x']\n")
        for text in (before, after)
    )
    assert set(diff.changed(old.agents["a"], new.agents["a"]).values()) == kinds


def test_an_agent_that_becomes_a_server_is_restarted() -> None:
    agent = decode(f"{AGENT}protocol = 'mcp'").agents["a"]
    server = decode("[mcp.servers.a]\ncommand = ['x']").agents["a"]
    assert "restart" in diff.changed(agent, server).values()


def test_what_all_have_used_is_started_anew_before_it_is_one_s_own() -> None:
    server = "[mcp.servers.a]\ncommand = ['x']\n"
    old, new = decode(server).agents["a"], decode(server + "share = 'agent'").agents["a"]
    assert diff.changed(old, new) == {"share": "restart"}


# --- the manual ----------------------------------------------------------------------------------


def test_the_example_of_the_manual_decodes() -> None:
    *_, example = re.findall(r"```toml\n(.*?)```", MANUAL.read_text("utf-8"), re.S)
    config = decode(example)
    assert set(config.agents) == {"planner", "researcher", "bridge", "time", "cortex"}
    assert config.agents["researcher"].resources.max_memory_bytes == 512 << 20
    assert config.agents["researcher"].environment["LANG"] == "C.UTF-8"


def test_every_signal_is_one_of_the_platform() -> None:
    assert set(values.SIGNALS) <= set(signal.Signals.__members__)
    stops = {"SIGSTOP", "SIGCONT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCHLD"}
    assert stops.isdisjoint(values.SIGNALS)


# --- cost ----------------------------------------------------------------------------------------


def calls_to_decode(agents: int) -> int:
    """The number of calls, of Python and of C, that a file with so many agents takes."""
    text = "".join(
        f"[agents.n{n:03}x]\ncommand = ['python', '-m', 'm']\ninstances = 2\ntools = ['t__*']\n"
        f"[agents.n{n:03}x.resources]\nmax_memory_bytes = '1GiB'\n[agents.n{n:03}x.recovery]\nrestart = 'always'\n"
        for n in range(agents)
    )
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event.endswith("call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        decode(text)
    finally:
        sys.setprofile(before)
    return calls


def test_what_a_file_costs_grows_with_its_agents_and_no_faster() -> None:
    few, more, most = (calls_to_decode(agents) for agents in (50, 100, 200))
    assert most - more <= 2 * (more - few) * 1.05
