"""Variables of the environment in a configuration: which are expanded, what an unset one is, and what never shows a value."""

from pathlib import Path
from typing import cast

import pytest

from corral.supervisor.config.spec import loader
from corral.supervisor.config.spec.sources import NO_VARIABLES, Variables, literal_warnings, parsed
from corral.supervisor.config.spec.spec import Config, Scale
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

ENVIRON = {"N": "3", "EMPTY": "", "HOME": "/home/me", "KEY": "hunter2", "PORTS": "x", "YES": "true"}
VARIABLES = Variables(ENVIRON, {"N": "9", "FROM_FILE": "file"}, "/etc/corral")


def decode(text: str) -> Config:
    return loader.decode(text, source="/etc/corral.toml", directory="/etc", variables=VARIABLES)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${HOME}/x", "/home/me/x"),
        ("${N:-1}${ABSENT:-2}", "32"),
        ("${EMPTY}", ""),
        ("${EMPTY:-usual}", "usual"),
        ("${ABSENT:-}", ""),
        ("${FROM_FILE}", "file"),
        ("$N $ $", "$N $ $"),
        ("$$", "$"),
        ("$${N}", "${N}"),
        ("$$$${N}", "$${N}"),
        ("${secret:KEY} ${instance} ${port:8000}", "${secret:KEY} ${instance} ${port:8000}"),
    ],
)
def test_a_string_is_expanded_once(text: str, expanded: str) -> None:
    agent = decode(f"[agents.a]\ncommand = ['x', '{text}']\nenvironment.V = '{text}'").agents["a"]
    assert (agent.command, agent.environment) == (("x", expanded), {"V": expanded})
    assert {type(agent.command[1]), type(agent.environment["V"])} == {str}


def test_a_key_that_is_no_string_takes_a_variable_too() -> None:
    config = decode(
        "[agents.a]\ncommand = ['${N}']\ninstances = '${N:-2}'\nautostart = '${YES}'\n"
        "config = { text = '${N}' }\n"
        "resources.max_memory_bytes = '${N}MiB'\nprocess.connect_ports = ['${PORT:-80}', 443]\n"
        "[agents.b]\ncommand = ['x']\ninstances = { min = 1, max = '${N}' }\n"
    )
    a, b = config.agents["a"], config.agents["b"]
    assert (a.command, a.instances, a.autostart) == (("3",), Scale(3, 3), True)
    assert a.config == {"text": "3"}
    assert (a.resources.max_memory_bytes, a.process.connect_ports) == (3 << 20, (80, 443))
    assert b.instances == Scale(1, 3)


def test_every_unset_variable_is_named_once_with_its_key() -> None:
    with pytest.raises(InvalidParams) as caught:
        decode(
            "[agents.a]\ncommand = ['${NO}']\ninstances = '${NEITHER}'\n"
            "environment = { URL = 'postgres://u:hunter2@${HOST}' }\n"
        )
    errors = cast("list[dict[str, object]]", caught.value.data["errors"])
    assert [(e["key"], e["value"], e["line"]) for e in errors] == [
        ("agents.a.command", "${NO}", 2),
        ("agents.a.instances", "${NEITHER}", 3),
        ("agents.a.environment.URL", "${HOST}", 4),
    ]
    assert all(name in str(e["reason"]) for e, name in zip(errors, ("NO", "NEITHER", "HOST"), strict=True))
    assert "hunter2" not in str(caught.value.data)


@pytest.mark.parametrize("text", ["${a.b}", "${}", "${N", "${1}", "${N:2}", "${N-2}"])
def test_what_looks_like_a_variable_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        decode(f"[agents.a]\ncommand = ['x', '{text}']")
    assert caught.value.data["key"] == "agents.a.command"


def test_an_error_about_a_value_repeats_what_is_written_and_not_what_the_variable_holds() -> None:
    with pytest.raises(InvalidParams) as caught:
        decode("[agents.a]\ncommand = ['x']\ninstances = '${KEY}'\n")
    assert caught.value.data["value"] == "${KEY}"
    assert "hunter2" not in caught.value.message


def test_a_shown_table_has_what_is_written() -> None:
    config = decode(
        "process.working_directory = '/'\n"
        "[agents.a]\ncommand = ['x', '${KEY}']\ninstances = '${N}'\nresources.max_processes = '${N}'\n"
    )
    assert loader.to_table(config.agents["a"], config.defaults) == {
        "command": ["x", "${KEY}"],
        "instances": "${N}",
        "resources": {"max_processes": "${N}"},
    }


def test_a_workflow_keeps_its_expressions() -> None:
    config = decode(
        "[agents.a]\ncommand = ['x']\n[[workflows.w.steps]]\nname = 'one'\nagent = 'a'\nobjective = '${objective}'\n"
    )
    assert "w" in config.groups


def test_a_table_from_elsewhere_is_expanded_only_with_variables() -> None:
    table = {"command": ["x", "${KEY}"]}
    defaults = decode("").defaults
    kept = loader.decode_agent("a", table, kind="agent", defaults=defaults, source="store", directory="/")
    filled = loader.decode_agent(
        "a", table, kind="agent", defaults=defaults, source="store", directory="/", variables=VARIABLES
    )  # fmt: skip
    assert (kept.command[1], filled.command[1]) == ("${KEY}", "hunter2")
    with pytest.raises(InvalidParams):
        loader.decode_agent(
            "a", table, kind="agent", defaults=defaults, source="store", directory="/", variables=NO_VARIABLES
        )  # fmt: skip


def test_a_file_of_variables_is_read_as_docker_compose_reads_it(tmp_path: Path) -> None:
    assert parsed(
        '\n# comment\nA=1\nexport B = two words # comment\nC=\'$x # no\'\nD="a\\nb\\"" # c\nE=\nF=#\nG=a#b\n'
    ) == {"A": "1", "B": "two words", "C": "$x # no", "D": 'a\nb"', "E": "", "F": "", "G": "a#b"}
    (tmp_path / ".env").write_text("no equals\n")
    with pytest.raises(InvalidParams) as caught:
        Variables.beside(str(tmp_path), {})
    assert "line 1" in caught.value.message
    assert Variables.beside(str(tmp_path / "absent"), {}).dotenv == {}


def test_a_variable_that_stays_as_it_is_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A=${HOME}/x\nB=plain\n")
    agents = decode(
        f"[agents.a]\ncommand = ['sh', '-c', 'echo $HOME']\nprocess.environment_file = '{file}'\n"
        "environment = { P = '$HOME/x', Q = '${HOME}/x', R = '5 $' }\n"
    ).agents
    found = literal_warnings(agents.values())
    assert len(found) == 2
    assert "environment P" in found[0]
    assert f'"{file}": ${{HOME}}' in found[1]
