"""The spec of an installation: the agent's isolation, with the paths and the network that an installer needs."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.agents.deployment.runner import (
    Place,
    environment_key,
    installing_spec,
    last_lines,
    lent_variables,
    lock_of_report,
    passed_variables,
)
from corral.supervisor.config.spec.spec import Process, Spec

pytestmark = pytest.mark.core

text = st.text(max_size=20)


@given(st.tuples(text, text, text), st.tuples(text, text, text))
def test_an_environment_is_shared_by_the_same_lock_interpreter_and_owner_alone(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    if any("\0" in part for part in (*one, *other)):
        return
    assert (environment_key(*one) == environment_key(*other)) == (one == other)


def test_settings_of_indexes_pass_and_places_of_installation_do_not() -> None:
    given_ = {
        "UV_INDEX_URL": "u",
        "PIP_INDEX_URL": "p",
        "HTTPS_PROXY": "h",
        "npm_config_registry": "n",
        "UV_PYTHON": "x",
        "UV_PROJECT_ENVIRONMENT": "x",
        "PIP_TARGET": "x",
        "AWS_SECRET": "x",
    }
    wanted = {"UV_INDEX_URL", "PIP_INDEX_URL", "HTTPS_PROXY", "npm_config_registry"}
    assert passed_variables(given_).keys() == wanted


def _report(hashes: dict[str, str]) -> str:
    each = {"metadata": {"name": "alpha", "version": "1"}, "download_info": {"archive_info": {"hashes": hashes}}}
    return json.dumps({"install": [each]})


def test_the_report_of_pip_becomes_a_lock_with_hashes() -> None:
    assert lock_of_report(_report({"sha256": "ab"})) == "alpha==1 \\\n    --hash=sha256:ab\n"
    with pytest.raises(ValueError, match="no sha256"):
        lock_of_report(_report({}))


def test_the_last_lines_of_an_output_leave_out_blank_ones() -> None:
    assert last_lines("a\n\nb\n \nc\n", 2) == "b\nc"


def test_an_installation_of_a_tenant_sees_no_credentials() -> None:
    variables = {
        "UV_FIND_LINKS": "/wheels",
        "UV_INDEX_URL": "https://user:word@index.example/simple",
        "UV_INDEX_MINE_PASSWORD": "word",
        "UV_PUBLISH_TOKEN": "word",
        "PIP_INDEX_URL": "https://index.example/simple",
        "npm_config_//registry.example/:_authToken": "word",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    assert lent_variables(variables) == {
        "UV_FIND_LINKS": "/wheels",
        "PIP_INDEX_URL": "https://index.example/simple",
        "HTTPS_PROXY": "http://proxy:3128",
    }


PLACE_PATHS = {"readable": ("/cache",), "writable": ("/new",)}


def test_an_installation_of_a_strict_agent_sees_its_folders_and_the_network() -> None:
    process = Process(isolation="strict", network="proxy", allowed_hosts=("a.b",))
    spec = Spec(name="a", kind="agent", source="x", process=process)
    place = Place(cwd=Path("/new"), measured=Path("/new"), environment={}, **PLACE_PATHS)
    found = installing_spec(spec, place).process
    assert (found.isolation, found.network, found.allowed_hosts) == ("strict", "host", ())
    assert (found.read_paths, found.write_paths) == (("/cache", "/new"), ("/new",))


def test_an_installation_of_a_basic_agent_without_lists_has_none() -> None:
    place = Place(cwd=Path("/new"), measured=Path("/new"), environment={}, **PLACE_PATHS)
    found = installing_spec(Spec(name="a", kind="agent", source="x"), place).process
    assert (found.read_paths, found.write_paths) == (None, None)


def test_an_installation_of_a_tenant_gets_no_network_that_its_agent_has_not() -> None:
    process = Process(isolation="strict", network="proxy", allowed_hosts=("a.b",))
    spec = Spec(name="acme/a", kind="agent", source="x", process=process)
    place = Place(cwd=Path("/new"), measured=Path("/new"), environment={}, **PLACE_PATHS)
    found = installing_spec(spec, place).process
    assert (found.network, found.allowed_hosts) == ("proxy", ("a.b",))
    basic = installing_spec(Spec(name="acme/a", kind="agent", source="x"), place).process
    assert (basic.read_paths, basic.write_paths) == (("/cache", "/new"), ("/new",))
