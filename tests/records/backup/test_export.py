"""The export: a TOML text from which the same tables are read again, with no value that its reader may not see."""

import itertools
import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.config.spec.loader import decode, decode_agent
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config, Defaults
from corral.supervisor.records.backup.export import export
from corral.worker.contract import toml_text
from corral.worker.contract.records import Boundaries, Retry, ScheduleRecord, TaskParams
from corral.worker.contract.toml_text import literal_table

pytestmark = pytest.mark.core

WHOLE = """
[process]
environment = { SHARED = "everywhere" }
[resources]
max_memory_bytes = "1GiB"
[agents.crawler]
command = ["crawl", "--home", "${HOME}", "$$x", "a ${instance}"]
environment = { KEY = "${secret:key}", PLAIN = "plain value", FROM = "${TOKEN}" }
requires = ["store"]
[agents.crawler.config]
nested = { deep = ["$${literal}", "tab\\t", "\\u007f"] }
[agents.store]
entrypoint = "m:a"
[agents.store.tasks]
max_attempts = 7
[mcp.servers.time]
url = "https://example.org/mcp?api_key=abc"
headers = { Authorization = "Bearer ${secret:time}", X-Plain = "open sesame" }
[teams.red]
mode = "broadcast"
members = ["crawler", "store"]
[workflows.flow]
steps = [{ name = "one", agent = "crawler", objective = "${input.what}" }]
[schedules.nightly]
cron = "0 3 * * *"
timezone = "Europe/Berlin"
agent = "crawler"
objective = "all"
timeout = "5m"
max_attempts = 2
[schedules.sweep]
every = "1h"
command = ["sweep", "--all"]
environment = { WHERE = "here" }
"""

VARIABLES = Variables({"HOME": "/root", "TOKEN": "a secret token"}, {})


def read(text: str) -> Config:
    return decode(text, source="corral.toml", directory="/srv", variables=VARIABLES)


def records(config: Config) -> list[ScheduleRecord]:
    return [
        ScheduleRecord(
            name=each.name,
            task=each.task,
            every_s=each.every,
            cron=each.cron,
            timezone=each.timezone,
            command=list(each.command) or None,
            source=each.source,
        )
        for each in config.schedules.values()
    ]


def exported(config: Config, *, shows_values: bool = True) -> str:
    specs, groups = config.agents.values(), config.groups.values()
    return export(specs, groups, records(config), shows_values=shows_values).toml


def test_the_text_is_read_as_the_same_agents_teams_workflows_and_schedules() -> None:
    before = read(WHOLE)
    text = exported(before)
    after = read(text)
    assert {n: s.environment for n, s in after.agents.items()} == {n: s.environment for n, s in before.agents.items()}
    for name, spec in before.agents.items():
        found = after.agents[name]
        assert (found.command, found.config, found.url, found.headers) == (
            spec.command,
            spec.config,
            spec.url,
            spec.headers,
        )
        assert (found.resources, found.tasks, found.process) == (spec.resources, spec.tasks, spec.process)
    assert after.groups == before.groups
    assert after.schedules == before.schedules
    assert exported(after) == text


def test_references_stay_and_what_a_variable_held_is_not_in_the_text() -> None:
    text = exported(read(WHOLE))
    assert "a secret token" not in text
    table = tomllib.loads(text)["agents"]["crawler"]
    assert table["environment"]["FROM"] == "${TOKEN}"
    assert table["environment"]["KEY"] == "${secret:key}"
    assert table["command"][2:] == ["${HOME}", "$$x", "a ${instance}"]
    assert export(read(WHOLE).agents.values(), [], [], shows_values=True).secrets == ["key", "time"]


def test_a_caller_without_admin_sees_a_variable_in_place_of_each_plain_value() -> None:
    config = read(WHOLE)
    found = export(config.agents.values(), [], records(config), shows_values=False)
    for value in ("plain value", "open sesame", "everywhere", "api_key=abc"):
        assert value not in found.toml
    assert tomllib.loads(found.toml)["agents"]["crawler"]["environment"] == {
        "SHARED": "${CRAWLER_SHARED}",
        "KEY": "${secret:key}",
        "PLAIN": "${CRAWLER_PLAIN}",
        "FROM": "${TOKEN}",
    }
    assert {"CRAWLER_PLAIN", "TIME_URL", "TIME_X_PLAIN", "SWEEP_WHERE"} <= set(found.hidden)


def test_a_time_that_is_past_and_params_that_a_file_cannot_have_are_named() -> None:
    task = TaskParams(
        objective="x",
        agent="a",
        boundaries=Boundaries(max_tool_calls=3, timeout_s=5.0),
        retry=Retry(retry_backoff_base_s=1.0),
        input={"keep": 1, "lose": None},
    )
    past = ScheduleRecord(name="past", task=task, at="2020-01-01T00:00:00Z")
    hourly = ScheduleRecord(name="hourly", task=task, every_s=3600.0, start_at="2020-01-01T00:00:00Z")
    text = export([], [], [past, hourly], shows_values=True).toml
    tables = tomllib.loads(text)["schedules"]
    assert tables == {"hourly": {"every": 3600, "agent": "a", "objective": "x", "timeout": 5, "input": {"keep": 1}}}
    for words in ("is past", "boundaries.max_tool_calls", "retry.retry_backoff_base_s", "input.lose"):
        assert words in text


TEXTS = st.text(alphabet=string.printable + "${}\x00\x1b\x7f äß€\U0001f600", max_size=12)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS.filter(bool), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(TEXTS.filter(lambda t: "\x00" not in t), max_size=4),
    st.dictionaries(TEXTS.filter(bool), VALUES, max_size=3),
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z_]{0,5}", fullmatch=True),
        TEXTS.filter(lambda t: "\x00" not in t and "${secret:" not in t),
        max_size=3,
    ),
)
def test_any_values_come_back_from_the_text_as_they_were(
    arguments: list[str], config: dict[str, object], environment: dict[str, str]
) -> None:
    table = {"command": ["run", *arguments], "config": config, "environment": environment}
    spec = decode_agent("a", table, kind="agent", defaults=Defaults(), source="store", directory="/srv")
    text = export([spec], [], [], shows_values=True).toml
    found = decode(text, source="store", directory="/", variables=VARIABLES).agents["a"]
    assert (found.command, found.config, found.environment) == (spec.command, spec.config, spec.environment)
    assert export([found], [], [], shows_values=True).toml == text


PIECES = ("$", "$$", "${HOME}", "$HOME", "${X:-y}", "{", "a", '"', "'", "\\", "\t", "\x7f", "é😀", "#", "${")
WRITTEN = ["".join(each) for each in itertools.product(PIECES, repeat=2)]


def test_every_text_is_exported_byte_for_byte() -> None:
    table = {"command": ["sh", *WRITTEN], "environment": {f"V{n}": each for n, each in enumerate(WRITTEN)}}
    config = read("\n".join(toml_text.lines(("agents", "a"), {"protocol": "none", **literal_table(table)})))
    for spec in (config.agents["a"], read(exported(config)).agents["a"]):
        assert list(spec.command[1:]) == WRITTEN
        assert list(spec.environment.values()) == WRITTEN
