"""The tables of `health`, `ready` and `[recovery.actions]`: what they say, and every refusal with its key."""

import json
import random
from typing import Any

import pytest

from corral.supervisor.config.spec import diff, loader
from corral.supervisor.config.spec.probe_spec import Check, Readiness
from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import InvalidParams
from seeds import seeds

pytestmark = pytest.mark.core

PROGRAM = '[agents.a]\ncommand = ["x"]\nprotocol = "none"\n'
SERVER = '[mcp.servers.a]\ncommand = ["x"]\n'


def decoded(text: str) -> Spec:
    return loader.decode(text, source="corral.toml", directory="/etc").agents["a"]


# -- what is in force


def test_what_speaks_mcp_is_asked_by_it_and_others_are_not_asked() -> None:
    (asked,) = decoded(SERVER).checks
    assert asked == Check(name="mcp", way="mcp", interval=10.0, timeout=30.0, start_delay=10.0)
    assert decoded(SERVER + "health = []").checks == ()
    assert decoded(SERVER.replace("mcp.servers", "agents") + 'protocol = "mcp"').checks == (asked,)
    assert decoded(PROGRAM).checks == ()
    assert decoded(PROGRAM.replace("none", "corral")).checks == ()


def test_what_is_written_replaces_the_question_by_mcp() -> None:
    (asked,) = decoded(SERVER + 'health = { tcp = "127.0.0.1:80" }').checks
    assert asked.way == "tcp"
    both = decoded(SERVER + 'health = [{ mcp = true }, { tcp = "127.0.0.1:80" }]').checks
    assert [check.name for check in both] == ["mcp", "tcp"]


def test_what_is_left_open_comes_from_the_sections() -> None:
    text = "[monitoring]\nhealth_check_interval = '3s'\nheartbeat_timeout = '7s'\n"
    (asked,) = decoded(text + SERVER).checks
    assert (asked.interval, asked.timeout, asked.start_delay) == (3.0, 7.0, 3.0)
    (asked,) = decoded(text + PROGRAM + 'health = { exec = ["t"], interval = "1s" }').checks
    assert (asked.interval, asked.timeout, asked.start_delay) == (1.0, 5.0, 1.0)
    assert (asked.threshold, asked.recovery) == (1, "none")


@pytest.mark.parametrize(
    ("table", "check"),
    [
        ('{ exec = ["a", "b c"] }', Check(name="exec", way="exec", target=("a", "b c"))),
        ('{ http = "http://h:80/p?q" }', Check(name="http", way="http", target=("http://h:80/p?q",))),
        ('{ http = "https://[::1]/", name = "w" }', Check(name="w", way="http", target=("https://[::1]/",))),
        ('{ tcp = "[::1]:80", timeout = "1s" }', Check(name="tcp", way="tcp", target=("[::1]:80",), timeout=1.0)),
        ('{ tcp = "h:1", start_delay = 0 }', Check(name="tcp", way="tcp", target=("h:1",), start_delay=0.0)),
        ('{ tcp = "h:1", recovery = "signal:SIGHUP", threshold = 3 }',
         Check(name="tcp", way="tcp", target=("h:1",), recovery="signal:SIGHUP", threshold=3)),
        ('{ tcp = "h:1", recovery = "restart" }', Check(name="tcp", way="tcp", target=("h:1",), recovery="restart")),
    ],
)  # fmt: skip
def test_a_check_says(table: str, check: Check) -> None:
    assert decoded(f"{PROGRAM}health = {table}").health == (check,)


def test_a_start_delay_of_none_is_none() -> None:
    (asked,) = decoded(PROGRAM + 'health = { tcp = "h:1", start_delay = 0 }').checks
    assert asked.start_delay == 0.0


def test_ready_says() -> None:
    ready = decoded(PROGRAM + 'ready = { log = "listening on \\\\d+" }').ready
    assert ready == Readiness(way="log", target=(r"listening on \d+",))
    ready = decoded(PROGRAM + 'ready = { tcp = "h:1", interval = "1s", timeout = "2s" }').ready
    assert ready == Readiness(way="tcp", target=("h:1",), interval=1.0, timeout=2.0)


def test_actions_are_merged_with_those_of_the_defaults_and_may_be_named() -> None:
    text = '[recovery.actions]\na = ["1"]\nb = ["2"]\n' + PROGRAM
    text += 'health = [{ name = "x", tcp = "h:1", recovery = "a" }, { name = "y", tcp = "h:1", recovery = "c" }]\n'
    text += '[agents.a.recovery.actions]\nb = ["3", "4"]\nc = ["5"]\n'
    assert decoded(text).recovery.actions == {"a": ("1",), "b": ("3", "4"), "c": ("5",)}


def test_a_changed_check_needs_no_restart() -> None:
    old, new = decoded(PROGRAM), decoded(PROGRAM + 'health = { tcp = "h:1" }')
    assert set(diff.changed(old, new).values()) == {"live"}
    assert set(diff.changed(new, new).values()) == set()


# -- what is refused


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("health = true", "health"),
        ("health = {}", "health"),
        ('health = { tcp = "h:1", exec = ["x"] }', "health"),
        ('health = { tpc = "h:1" }', "health.tpc"),
        ('health = { tcp = "h" }', "health.tcp"),
        ('health = { tcp = "h:0" }', "health.tcp"),
        ('health = { tcp = "h:65536" }', "health.tcp"),
        ('health = { http = "ftp://h" }', "health.http"),
        ('health = { http = "http://" }', "health.http"),
        ('health = { http = "http://h:99999/" }', "health.http"),
        ('health = { http = "http://user:secret@h/" }', "health.http"),
        ('health = { http = "http://h/a b" }', "health.http"),
        ('health = { http = "http://h/\\r\\nX: y" }', "health.http"),
        ('health = { exec = "true" }', "health.exec"),
        ("health = { exec = [] }", "health.exec"),
        ("health = { exec = [1] }", "health.exec"),
        ('health = { log = "x" }', "health.log"),
        ("health = { mcp = true }", "health.mcp"),
        ("health = { mcp = false }", "health.mcp"),
        ('health = { tcp = "h:1", interval = 0 }', "health.interval"),
        ('health = { tcp = "h:1", timeout = "soon" }', "health.timeout"),
        ('health = { tcp = "h:1", threshold = 0 }', "health.threshold"),
        ('health = { tcp = "h:1", threshold = true }', "health.threshold"),
        ('health = { tcp = "h:1", name = "a b" }', "health.name"),
        ('health = { tcp = "h:1", recovery = "signal:SIGSTOP" }', "health.recovery"),
        ('health = { tcp = "h:1", recovery = "reboot" }', "health.recovery"),
        ('health = { tcp = "h:1", recovery = ["x"] }', "health.recovery"),
        ('health = [{ tcp = "h:1" }, { tcp = "h:2" }]', "health.name"),
        (f"health = [{', '.join(['{}'] * 21)}]", "health"),
        ("ready = true", "ready"),
        ("ready = {}", "ready"),
        ('ready = { log = "(" }', "ready.log"),
        ('ready = { log = "" }', "ready.log"),
        ('ready = { log = "x", interval = 1 }', "ready.interval"),
        ('ready = { tcp = "h:1", recovery = "restart" }', "ready.recovery"),
        ("recovery.actions = true", "recovery.actions"),
        ('recovery.actions = { restart = ["x"] }', "recovery.actions.restart"),
        ('recovery.actions = { a = "x" }', "recovery.actions.a"),
        ("recovery.actions = { a = [] }", "recovery.actions.a"),
        ("monitoring.alert = []", "monitoring.alert"),
        ('monitoring.alert = "mail"', "monitoring.alert"),
        ('monitoring.alert_url = "mail@example.org"', "monitoring.alert_url"),
    ],
)
def test_a_mistake_is_refused_by_its_key(line: str, key: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        decoded(PROGRAM + line)
    assert refused.value.data["key"] == f"agents.a.{key}"
    assert refused.value.data["line"] == 4


@pytest.mark.parametrize("line", ["threshold = 2", 'recovery = "restart"'])
def test_a_server_that_does_not_answer_is_replaced_whatever_is_written(line: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        decoded(f"{SERVER}health = {{ mcp = true, {line} }}")
    assert refused.value.data["key"] == f"mcp.servers.a.health.{line.split()[0]}"


@pytest.mark.parametrize("protocol", ["corral", "mcp"])
def test_ready_is_for_programs_that_cannot_say_it(protocol: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        decoded(PROGRAM.replace("none", protocol) + 'ready = { log = "x" }')
    assert refused.value.data["key"] == "agents.a.ready"


# -- what is written survives


@pytest.mark.parametrize("seed", seeds(200))
def test_checks_survive_their_own_table(seed: int) -> None:
    rng = random.Random(seed)
    ways: list[dict[str, object]] = [{"exec": ["a", ""]}, {"http": "http://h/"}, {"tcp": "h:1"}]
    extras: dict[str, list[object]] = {
        "interval": ["1s", 0.25],
        "timeout": [3],
        "threshold": [1, 4],
        "start_delay": [0, "2s"],
        "recovery": ["none", "restart", "signal:SIGUSR1", "kick"],
    }
    checks = [
        {"name": f"c{n}", **rng.choice(ways)}
        | {key: rng.choice(some) for key, some in extras.items() if rng.random() < 0.4}
        for n in range(rng.randrange(4))
    ]
    table: dict[str, object] = {"command": ["x"], "protocol": "none", "health": checks}
    table["recovery"] = {"actions": {"kick": ["k", "1"]}}
    if rng.random() < 0.5:
        table["ready"] = rng.choice([{"log": "x"}, {"tcp": "h:1", "interval": 2}, {"exec": ["e"]}])
    if rng.random() < 0.5:
        table["monitoring"] = {"alert": ["mail", "me"], "alert_url": "http://h/"}
    defaults = loader.decode("", source="", directory="/").defaults

    def read(raw: Any) -> Spec:  # Any: a table
        return loader.decode_agent("a", raw, kind="agent", defaults=defaults, source="", directory="/")

    old = read(table)
    written = loader.to_table(old, defaults)
    assert json.loads(json.dumps(written)) == written
    assert read(written) == old
