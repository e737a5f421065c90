"""What a version of a package becomes: the table of its agent, its settings, and what it lacks."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from corral.supervisor.agents.deployment.plan import Facts, Need, Package, agent_table, kept_settings, missing, words
from corral.supervisor.config.spec.template_spec import merge
from corral.worker.contract import codec

pytestmark = pytest.mark.core

keys = st.sampled_from("abc")
tables = st.recursive(
    st.dictionaries(keys, st.integers() | st.none(), max_size=3),
    lambda inner: st.dictionaries(keys, st.integers() | st.none() | inner, max_size=3),
    max_leaves=8,
)


def package(**table: object) -> Package:
    return Package("kit", "1.0", "d1", dict(table))


def _brings_back(first: dict[str, object], second: dict[str, object]) -> bool:
    """Whether a table is set where there was none before: no merge patch can both remove and set."""
    for key in first.keys() & second.keys():
        before, after = codec.as_object(first[key]), codec.as_object(second[key])
        if after is not None and (before is None or _brings_back(before, after)):
            return True
    return False


@given(tables, tables, tables)
def test_settings_that_are_kept_do_the_same_as_one_after_the_other(
    table: dict[str, object], first: dict[str, object], second: dict[str, object]
) -> None:
    assume(not _brings_back(first, second))
    one_by_one = merge(merge(table, first), second)
    assert merge(table, kept_settings(first, second)) == one_by_one


def test_an_entrypoint_runs_on_the_python_of_the_environment_in_the_installed_folder() -> None:
    table = agent_table(package(entrypoint="kit:agent"), {}, "/in/files", "/env/bin/python", "/bin")
    assert table["python"] == "/env/bin/python"
    assert table["process"] == {"working_directory": "/in/files"}
    assert "environment" not in table


def test_a_command_finds_the_programs_of_its_environment_first() -> None:
    own = package(command=["serve"], environment={"MODE": "x"})
    table = agent_table(own, {}, "/in/files", "/env/bin/python", "/usr/bin")
    assert table["environment"] == {"PATH": "/env/bin:/usr/bin", "VIRTUAL_ENV": "/env", "MODE": "x"}
    assert "python" not in table


def test_settings_override_the_package_and_no_setting_moves_the_folder() -> None:
    own = package(command=["serve"], instances=1, resources={"max_memory_bytes": "1GiB"})
    settings = {
        "instances": 3,
        "resources": {"max_memory_bytes": None},
        "process": {"working_directory": "/elsewhere", "read_paths": ["/data"]},
    }
    table = agent_table(own, settings, "/in/files", "", "/bin")
    assert table["instances"] == 3
    assert table["resources"] == {}
    process = {"working_directory": "/in/files", "read_paths": ["/data", "/in/files"]}
    assert table["process"] == process


def test_each_missing_need_is_named_with_its_remedy() -> None:
    needs = [
        Need("mcp", "git"),
        Need("agents", "planner"),
        Need("capabilities", "search", is_optional=True),
        Need("secrets", "KEY"),
        Need("commands", "ffmpeg"),
    ]
    facts = Facts(mcp={"git"}, secrets={"OTHER"})
    lacking = missing(needs, facts)
    assert [need.name for need in lacking] == ["planner", "search", "KEY", "ffmpeg"]
    text = words(lacking)
    assert all(need.name in text for need in lacking)
    assert "corral secret set" in text
