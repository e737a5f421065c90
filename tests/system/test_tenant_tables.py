"""A tenant adds and changes its own agents, teams and workflows, in a whole daemon."""

from collections.abc import Iterator
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied
from daemon_process import BOUND_S, DaemonProcess

SLEEP: dict[str, object] = {"command": ["sleep", "1000000"], "protocol": "none"}
CONFIG = """
[tenants.acme]
[tenants.beta]
[agents."beta/secretive"]
command = ["sleep", "1000000"]
protocol = "none"
autostart = false
[agents.owners]
command = ["sleep", "1000000"]
protocol = "none"
autostart = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("tables"), CONFIG) as running:
        yield running


@pytest.fixture
def acme(daemon: DaemonProcess) -> Iterator[Client]:
    with daemon.client() as client:
        client.call("auth.login", {"tenant": "acme"}, timeout_s=BOUND_S)
        yield client


def call(client: Client, method: str, **params: object) -> Any:  # a result
    return client.call(method, params, timeout_s=BOUND_S)


def test_a_tenant_adds_its_agents_by_short_names(acme: Client) -> None:
    assert call(acme, "agent.add", name="a", spec=SLEEP)["name"] == "acme/a"
    spec = {**SLEEP, "requires": ["a"]}
    assert call(acme, "agent.add_all", agents=[{"name": "b", "spec": spec}])["added"] == ["acme/b"]
    call(acme, "agent.set", name="a", spec={"title": "mine"})
    assert call(acme, "agent.show", name="a")["spec"]["title"] == "mine"
    with pytest.raises(InvalidParams) as found:  # it is its own that is looked at, which has no tasks
        call(acme, "team.add", name="t", spec={"mode": "route", "members": ["a"]})
    assert "acme/a" in str(found.value)
    call(acme, "agent.rm", names=["b", "a"])


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({**SLEEP, "process": {"user": "root"}}, "process.user"),
        ({**SLEEP, "control": "admin"}, "control"),
        ({**SLEEP, "process": {"read_paths": ["/etc"]}}, "process.read_paths"),
        ({**SLEEP, "environment": {"A": "${HOME}"}}, "environment.A"),
        ({**SLEEP, "stores": ["main"]}, "stores"),
    ],
)
def test_a_key_of_the_owner_is_refused_on_every_way(acme: Client, spec: dict[str, object], key: str) -> None:
    call(acme, "agent.add", name="way", spec=SLEEP)
    changes = {name: each for name, each in spec.items() if name not in SLEEP}
    ways: list[tuple[str, dict[str, object]]] = [
        ("agent.add", {"name": "new", "spec": spec}),
        ("agent.add_all", {"agents": [{"name": "new", "spec": spec}]}),
        ("agent.set", {"name": "way", "spec": changes}),
    ]
    try:
        for method, params in ways:
            with pytest.raises(PermissionDenied) as found:
                call(acme, method, **params)
            assert found.value.data["key"] == key, method
    finally:
        call(acme, "agent.rm", names=["way"])


@pytest.mark.parametrize("local", ["secretive", "new"])
def test_names_of_others_are_as_those_that_are_not_there(acme: Client, local: str) -> None:
    def answers(tenant: str) -> list[str]:
        name = f"{tenant}/{local}"
        ways: list[tuple[str, dict[str, object]]] = [
            ("agent.add", {"name": name, "spec": SLEEP}),
            ("agent.add_all", {"agents": [{"name": name, "spec": SLEEP}]}),
            ("agent.set", {"name": name, "spec": {"title": "x"}}),
            ("team.add", {"name": name, "spec": {"mode": "route", "members": [name]}}),
        ]
        found: list[str] = []
        for method, params in ways:
            with pytest.raises(NotFound) as refused:
                call(acme, method, **params)
            text = f"{refused.value} {sorted(refused.value.data.items())}"
            found.append(text.replace(tenant, "TENANT"))
        return found

    assert answers("beta") == answers("nowhere")
