"""The schemas of what users write: every example is valid, wrong files are not, and the keys are those that are decoded."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # has no stubs

from corral.cli.daemon.init import TEMPLATES, planned
from corral.supervisor.api.schema import documents as reference
from corral.supervisor.api.schema.documents import DOCUMENTS, schema_of
from corral.supervisor.config.decoding.keys import fields_of, sentences_of
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import DAEMON_TABLES, SECTIONS

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.toml") if path.name != "package.toml")
AGENT = '[agents.a]\ncommand = ["x"]\n'


def is_valid(document: Any, text: str) -> bool:  # Any: one of DOCUMENTS
    validator = jsonschema_rs.validator_for(schema_of(document))
    return validator.is_valid(json.loads(json.dumps(tomllib.loads(text), default=str)))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_every_example_is_valid(path: Path) -> None:
    assert is_valid("config", path.read_text("utf-8"))


def test_another_validator_takes_the_schema_and_every_example() -> None:
    schema = json.loads(json.dumps(schema_of("config")))
    Draft202012Validator.check_schema(schema)
    validator: Any = Draft202012Validator(schema)  # Any: jsonschema has no complete types
    for path in EXAMPLES:
        validator.validate(json.loads(json.dumps(tomllib.loads(path.read_text("utf-8")), default=str)))
    assert not validator.is_valid({"agents": {"a": {"command": 3}}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        AGENT,
        "#:schema corral.schema.json\n" + AGENT,
        "include = ['conf.d/*.toml']\n",
        f"{AGENT}instances = '${{N:-2}}'\nautostart = '${{YES}}'\n",
        f"{AGENT}instances = {{ min = 1, max = '${{N}}' }}\n".replace("'${N}'", "8"),
        f"{AGENT}health = [{{ tcp = '127.0.0.1:80', interval = '5s' }}, {{ name = 'x', exec = ['x'] }}]\n",
        f"{AGENT}protocol = 'none'\nready = {{ log = 'up' }}\n",
        f"{AGENT}resources = {{ cpu_limit_percent = 80.0, max_memory_bytes = '1.5GiB' }}\n",
        "[mcp.servers.s]\nurl = 'https://h/mcp'\nheaders = { A = 'b' }\n[mcp.profiles.p]\nread_only = true\n",
        "[templates.t]\nparams.n = { type = 'integer' }\ncommand = ['x', '${param.n}']\ninstances = '${param.n}'\n"
        "process.nice = '${param.n}'\nidle_timeout = 5\n[agents.a]\ntemplate = 't'\nparams.n = 3\n"
        "[mcp.servers.s]\ntemplate = 't'\n",
        "[mcp.servers.cortex]\ndisabled = true\n",
        f"{AGENT}smoke = {{ objective = 'two\\nlines of a word' }}\n".replace("'", '"'),
        "[tasks]\nretry_on = ['worker-death', 'Timeout']\n[recovery.actions]\nx = ['y']\n",
        "[teams.t]\nlead = 'a'\nmembers = ['b']\n[[workflows.w.steps]]\nname = 'x'\nagent = 'a'\nfor_each = '${input}'\n",
    ],
)
def test_a_right_file_is_valid(text: str) -> None:
    assert is_valid("config", text)


@pytest.mark.parametrize(
    "text",
    [
        "agent = 1",
        "[monitoring]\nenable_metrics = 1",
        "[metrics]\nretention = { day = '1d' }",
        "[daemon]\nlog_level = 'loud'",
        "[process]\nisolation = 'vm'",
        "[resources]\nmax_memory_bytes = '2 gigs'",
        "[resources]\nmax_output_size_bytes = 0",
        "[process]\nspawn_timeout = '10 sec'",
        "[process]\nspawn_timeout = 0",
        "[process]\nnice = 99",
        "[process]\nstop_signal = 'TERM'",
        "[agents.a]\n",
        "[agents.a]\ncommand = 'x'",
        "[agents.a]\nentrypoint = 'a'",
        f"{AGENT}instances = 0",
        f"{AGENT}instances = '2'",
        f"{AGENT}instnaces = 1",
        f"{AGENT}environment = {{ A = 1 }}",
        f"{AGENT}idle_timeout = 1",
        f"{AGENT}process.start_concurrency = 1",
        f"{AGENT}[agents.a.resource]\n",
        "[mcp.servers.s]\ncommand = ['x']\nshare = 'worker'",
        "[mcp.servers.s]\nargs = ['x']",
        "[templates.t]\nnicer = 1",
        "[templates.t]\nparams.n = 'integer'",
        "[templates.t]\ninstances = '2'",
        "[agents.a]\ntemplate = 3",
        "[teams.t]\nlead = 'a'",
        "[workflows.w]\nsteps = []",
        "[[workflows.w.steps]]\nname = 'x'\npriority = 11",
    ],
)
def test_a_wrong_file_is_not_valid(text: str) -> None:
    assert not is_valid("config", text)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_file_is_valid_also_with_the_keys_that_are_comments(template: str) -> None:
    text = next(iter(planned("/srv", template, "hello", ["sleep", "1"]).values()))
    assert is_valid("config", text)
    uncommented = re.sub(r"^# (?=\w+ = )", "", text, flags=re.M)
    assert uncommented != text
    assert is_valid("config", re.sub(r"^url = .*$", "", uncommented, flags=re.M))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_schema_is_one_and_describes_itself(document: Any) -> None:  # Any: one of DOCUMENTS
    schema = schema_of(document)
    jsonschema_rs.meta.validate(schema)
    assert schema["title"]
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def test_the_parts_are_checked_alone() -> None:
    assert is_valid("agent", 'command = ["x"]\ninstances = "${N}"\n')
    assert not is_valid("agent", "url = 'https://h'\n")
    assert is_valid("server", "url = 'https://h/mcp'\n")
    assert is_valid("team", "mode = 'broadcast'\nmembers = ['a']\n")
    assert is_valid("task", "agent = 'a'\nobjective = 'x'\n")
    assert not is_valid("task", "agent = 'a'\nobjectiv = 'x'\n")
    event = {"seq": 1, "at": "2026-01-01T00:00:00Z", "type": "worker.state", "agent": "a"}
    assert jsonschema_rs.is_valid(schema_of("event"), event | {"worker": "a-0", "incarnation": 1})


@pytest.mark.parametrize("name", reference.TABLES)
def test_every_key_has_a_sentence(name: str) -> None:
    struct = reference.TABLES[name]
    assert sentences_of(struct).keys() >= fields_of(struct).keys()


def test_the_reference_has_a_place_for_every_table() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text("utf-8")
    assert sorted(re.findall("^<!-- keys of (.*) -->$", page, re.M)) == sorted(reference.TABLES)


@pytest.mark.parametrize("name", [*DAEMON_TABLES, *SECTIONS])
def test_the_reference_has_the_default_of_every_key(name: str) -> None:
    rows = reference.with_tables(f"<!-- keys of {name} -->").split("\n")[2:]
    for row in rows:
        key, default, *_ = (cell.strip("` ") for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        written = "" if default == "-" else f"{key} = {default}"
        assert decode(f"[{name}]\n{written}\n", source="", directory="/") == decode("", source="", directory="/"), key
    assert len(rows) == len(fields_of(reference.TABLES[name]))


def test_the_reference_says_whose_a_key_is_and_what_a_change_costs() -> None:
    table = reference.with_tables("<!-- keys of agents -->")
    (command,) = re.findall(r"^\| `command` .*$", table, re.M)
    assert command.endswith("| both | restart |")
    (idle,) = re.findall(r"^\| `idle_timeout` .*$", table, re.M)
    assert idle.startswith('| `idle_timeout` | `"5m"` | duration |')
    assert idle.endswith("| servers | live |")
