"""Agents of tenants in a whole daemon."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[tenants.acme]
[agents."acme/live"]
entrypoint = "live_agent:agent"
capabilities = ["own"]
[agents."acme/other"]
entrypoint = "live_agent:agent"
[agents.live]
entrypoint = "live_agent:agent"
capabilities = ["shared"]
[agents.asking]
entrypoint = "asking_agent:agent"
[agents."acme/asking"]
entrypoint = "asking_agent:agent"
[teams."acme/team"]
mode = "route"
members = ["live"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder: Path = tmp_path_factory.mktemp("tenants")
    with DaemonProcess(folder, CONFIG) as running:
        yield running


def run(daemon: DaemonProcess, agent: str, objective: str, value: object = None) -> Any:  # a record
    task = daemon.call("task.submit", agent=agent, objective=objective, input=value)
    return daemon.call("task.wait", task=task["id"])


def test_an_agent_of_a_tenant_runs_and_logs_under_its_full_name(daemon: DaemonProcess) -> None:
    task = run(daemon, "acme/live", "say", "of acme")
    assert (task["agent"], task["worker"]) == ("acme/live", "acme/live-0")
    run(daemon, "live", "say", "of the-owner")
    for name in ("acme/live", "acme/live-0"):
        lines = daemon.corral("logs", name).stdout.splitlines()
        assert {line.rpartition(" ")[2] for line in lines if "of " in line} == {"acme"}
    assert (daemon.state_dir / "logs" / "acme" / "live" / "live-0.log").exists()
    status = daemon.call("daemon.status", names=["acme/live*"])
    assert [each["name"] for each in status["agents"]] == ["acme/live"]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"agent": "live"}, "acme/live"),
        ({"agent": "acme/live"}, "acme/live"),
        ({"agent": "team"}, "acme/team"),
        ({"capability": "own"}, "acme/live"),
        ({"agent": "nobody/live"}, "NotFound"),
        ({"agent": "acme/nobody"}, "NotFound"),
        ({"capability": "shared"}, "NotFound"),
    ],
)
def test_an_agent_of_a_tenant_reaches_its_tenants_agents_alone(
    daemon: DaemonProcess, asked: dict[str, str], answer: str
) -> None:
    assert run(daemon, "acme/asking", "delegate", asked)["output"] == answer


def test_the_owners_agents_do_not_reach_a_tenants_by_capability(daemon: DaemonProcess) -> None:
    assert run(daemon, "asking", "delegate", {"capability": "own"})["output"] == "NotFound"
    assert run(daemon, "asking", "delegate", {"capability": "shared"})["output"] == "live"


def test_what_the_agents_of_a_tenant_publish_is_for_them_alone(daemon: DaemonProcess) -> None:
    for name in ("asking", "acme/asking"):
        run(daemon, name, "subscribe")
    run(daemon, "live", "publish")
    run(daemon, "acme/other", "publish")
    for name, sender in (("asking", "live-0"), ("acme/asking", "acme/other-0")):
        assert run(daemon, name, "heard", 5)["output"] == [sender] * 5


def test_tenants_are_summed_in_rankings_and_costs(tmp_path: Path) -> None:
    text = "[monitoring]\nmetrics_interval = 0.1\n" + CONFIG
    with DaemonProcess(tmp_path, text) as daemon:
        run(daemon, "acme/live", "use", {"tokens": 5, "cents": 2})
        run(daemon, "acme/other", "use", {"tokens": 1, "cents": 1})
        run(daemon, "live", "nothing")
        until = time.monotonic() + BOUND_S
        while True:
            found = daemon.call("metrics.top", since=0)["tenants"]
            sums = {each["name"]: each for each in found}
            if {"acme", None} <= sums.keys() and sums["acme"]["total"]["executed"] == 2:
                break
            assert time.monotonic() < until
        assert (sums["acme"]["agents"], sums[None]["agents"]) == (3, 3)  # cortex is the owner's
        assert (sums["acme"]["total"]["tokens"], sums["acme"]["total"]["cost_cents"]) == (6, 3.0)
        assert "(owner)" in daemon.corral("metrics", "--top").stdout
        points = json.loads(daemon.corral("--tenant", "acme", "metrics", "--json").stdout)["points"]
        assert [sum(each[key] for each in points) for key in ("executed", "tokens")] == [2, 6]
        assert points[-1]["up"] == sums["acme"]["total"]["up"] > 1
        token = daemon.call("token.add", name="some", rights="read", agents=["acme/live"])["token"]
        points = json.loads(daemon.corral("--token", token, "metrics", "--json").stdout)["points"]
        assert [sum(each[key] for each in points) for key in ("executed", "tokens")] == [1, 5]
        costs = daemon.call("cost.list", by="tenant")["costs"]
        assert {each["name"]: each["cost_cents"] for each in costs} == {"acme": 3.0, None: 0.0}
