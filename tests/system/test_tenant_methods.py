"""Tenants added, shown, changed, suspended and resumed in a whole daemon."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, PermissionDenied, SpawnFailed
from daemon_process import AGENTS, DaemonProcess

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[tiers.free]
max_agents = 7
[tenants.filed]
tier = "free"
[agents."filed/live"]
entrypoint = "live_agent:agent"
[agents.live]
entrypoint = "live_agent:agent"
"""
SLEEP: dict[str, object] = {"command": ["sleep", "1000000"], "protocol": "none"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, CONFIG) as running:
        yield running


def events(daemon: DaemonProcess) -> list[tuple[str, Any]]:
    found = daemon.call("event.list", n=1000, types=["tenant.*"])["events"]
    return [(each["type"], each["tenant"]) for each in found]


def test_a_tenant_that_is_added_is_there_for_the_next_daemon(daemon: DaemonProcess) -> None:
    added = daemon.call("tenant.add", name="acme", spec={"max_agents": 3, "tier": "free"})
    assert added["created"]
    record = added["tenant"]
    assert (record["source"], record["limits"]) == ("store", {"max_agents": 3.0})
    again = daemon.call("tenant.add", name="acme", spec={"max_agents": 3})
    assert (again["created"], again["tenant"]) == (False, record)
    with pytest.raises(Conflict):
        daemon.call("tenant.add", name="acme", new=True)
    with pytest.raises(Conflict) as found:
        daemon.call("tenant.add", name="acme", spec={"max_agents": 4})
    assert found.value.data["keys"] == ["max_agents"]
    for bad in ({"max_agents": -1}, {"nonsense": 1}, {"tier": "gold"}):
        with pytest.raises(InvalidParams):
            daemon.call("tenant.add", name="other", spec=bad)
    daemon.kill()
    daemon.start()
    assert daemon.call("tenant.show", name="acme")["tenant"] == record
    assert [each["name"] for each in daemon.call("tenant.list")["tenants"]] == ["acme", "filed"]
    assert events(daemon) == [("tenant.added", "acme")]


def test_a_key_that_is_set_wins_until_it_is_taken_out(daemon: DaemonProcess) -> None:
    assert daemon.call("tenant.show", name="filed")["tenant"]["limits"] == {"max_agents": 7.0}
    changed = daemon.call("tenant.set", name="filed", spec={"max_agents": 2})
    assert changed["keys"] == ["max_agents"]
    assert daemon.call("tenant.show", name="filed")["spec"] == {"tier": "free", "max_agents": 2}
    assert daemon.call("tenant.set", name="filed", spec={"max_agents": 2})["keys"] == []
    daemon.call("tenant.set", name="filed", spec={"max_agents": None})
    assert daemon.call("tenant.show", name="filed")["tenant"]["limits"] == {"max_agents": 7.0}
    with pytest.raises(InvalidParams):
        daemon.call("tenant.set", name="filed", spec={"tier": "gold"})
    with pytest.raises(NotFound):
        daemon.call("tenant.set", name="nobody", spec={"max_agents": 2})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("agent.add", {"name": "other/new", "spec": SLEEP}),
        ("agent.add_all", {"agents": [{"name": "other/new", "spec": SLEEP}]}),
        ("team.add", {"name": "other/t", "spec": {"mode": "route", "members": ["other/live"]}}),
        ("daemon.import", {"agents": [{"name": "other/new", "spec": SLEEP}]}),
    ],
)
def test_nothing_is_added_for_a_tenant_that_is_not_declared(
    daemon: DaemonProcess, method: str, params: dict[str, object]
) -> None:
    with pytest.raises(NotFound) as found:
        daemon.call(method, **params)
    assert found.value.data["tenant"] == "other"
    assert [each["name"] for each in daemon.call("daemon.status")["agents"]] == ["filed/live", "live"]


def test_a_suspended_tenant_runs_nothing_until_it_is_resumed(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["live", "filed/live"])
    found = daemon.call("tenant.suspend", name="filed")
    assert (found["workers"], found["tenant"]["suspended"]) == (["filed/live-0"], True)
    assert daemon.worker("filed/live-0")["pid"] is None
    assert daemon.worker("live-0")["pid"], "others are untouched"
    for method, params in (
        ("agent.start", {"names": ["filed/live"]}),
        ("agent.restart", {"names": ["filed/live"]}),
        ("task.submit", {"agent": "filed/live", "objective": "say"}),
        ("task.submit", {"agent": "filed/live", "objective": "say", "when_down": "queue"}),
        ("agent.add", {"name": "filed/new", "spec": SLEEP}),
    ):
        with pytest.raises(PermissionDenied) as refused:
            daemon.call(method, **params)
        assert refused.value.data["reason"] == "suspended"
    daemon.kill()
    daemon.start()
    assert daemon.call("tenant.show", name="filed")["tenant"]["suspended"]
    assert daemon.worker("filed/live-0")["pid"] is None
    daemon.call("agent.stop", names=["live"])
    assert daemon.call("agent.start", all=True)["agents"][0]["name"] == "live"
    assert daemon.worker("filed/live-0")["pid"] is None
    found = daemon.call("tenant.resume", name="filed")
    assert (found["workers"], found["tenant"]["suspended"]) == (["filed/live-0"], False)
    daemon.call("agent.start", names=["filed/live"])
    assert daemon.worker("filed/live-0")["pid"]
    assert events(daemon) == [("tenant.suspended", "filed"), ("tenant.resumed", "filed")]


def test_an_agent_that_has_given_up_starts_again_when_its_tenant_is_got(daemon: DaemonProcess) -> None:
    spec = {"command": ["false"], "protocol": "none", "recovery": {"max_restart_attempts": 0}}
    with pytest.raises(SpawnFailed):
        daemon.call("agent.add", name="filed/broken", spec=spec)
    before = daemon.worker("filed/broken-0")["incarnation"]
    found = daemon.call("tenant.add", name="filed")
    assert (found["created"], found["restarted"]) == (False, ["filed/broken"])
    daemon.await_worker("filed/broken-0", lambda worker: worker["incarnation"] > before)


def test_the_command_prints_what_it_does(daemon: DaemonProcess) -> None:
    assert daemon.corral("tenant", "add", "acme", "max_agents=5", "tier=free").stdout == "added acme\n"
    assert daemon.corral("tenant", "add", "acme").stdout == "there is acme\n"
    assert daemon.corral("tenant", "add", "acme", "--new").returncode == 4
    assert "changed acme: max_agents" in daemon.corral("tenant", "set", "acme", "max_agents=").stdout
    assert "filed" in daemon.corral("tenant", "list").stdout
    shown = daemon.corral("tenant", "show", "filed").stdout
    assert "agents: filed/live" in shown
    assert "max_agents = 7" in shown
    assert daemon.corral("tenant", "suspend", "filed").stdout == "filed: suspended\n"
    assert daemon.corral("tenant", "resume", "filed").stdout == "filed: active\n"
    assert daemon.corral("tenant", "show", "nobody").returncode == 3
