"""The spec of an installation: the agent's isolation, with the paths and the network that an installer needs."""

from pathlib import Path

import pytest

from corral.supervisor.agents.deployment.runner import Place, installing_spec
from corral.supervisor.config.spec.spec import Process, Spec

pytestmark = pytest.mark.core

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
