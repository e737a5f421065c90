"""Any node answers for all: calls reach the node that has what they are about, also streams, and fail when it is gone."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied, Unreachable
from daemon_process import AGENTS, BOUND_S

pytestmark = [pytest.mark.shell, pytest.mark.long]


def echo(name: str) -> str:
    return f"""
[agents.{name}]
command = ["{sys.executable}", "{AGENTS / "sdk_sync.py"}"]
"""


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_call_reaches_the_node_that_has_the_agent(tmp_path: Path, kind: str) -> None:
    with cluster_of(tmp_path, kind) as cluster:
        one = cluster.add("one", echo("first"))
        two = cluster.add("two", echo("second"))
        done = one.call("task.run", agent="second", objective="echo", input=7)
        assert (done["state"], done["worker"]) == ("succeeded", "second-0")
        assert two.call("task.show", task=done["id"])["id"] == done["id"]
        assert one.call("task.show", task=done["id"])["id"] == done["id"]
        assert one.corral("stop", "second").returncode == 0
        assert two.worker("second-0")["pid"] is None
        two.call("agent.start", names=["second"])
        alone = one.call("daemon.status", node="two")
        assert [each["name"] for each in alone["agents"]] == ["second"]
        everything = one.call("daemon.status", node="*")
        found = {each["name"]: each["node"] for each in everything["agents"]}
        assert (found, everything["missing_nodes"]) == ({"first": "one", "second": "two"}, [])
        with pytest.raises(NotFound):
            one.call("task.run", agent="third", objective="echo")
        with pytest.raises(Unreachable):
            one.call("daemon.status", node="three")
        with pytest.raises(InvalidParams):
            one.call("agent.stop", names=["first"], node="*")
        told = one.corral("--node", "two", "status", "--json")
        assert '"second"' in told.stdout
        read = one.call("token.add", name="reader", rights="read")["token"]
        with two.client() as client:
            client.call("auth.login", {"token": two.call("token.add", name="r", rights="read")["token"]})
            with pytest.raises(PermissionDenied):  # the rights travel with the call
                client.call("agent.stop", {"names": ["first"], "node": "one"}, timeout_s=BOUND_S)
        assert read


def test_streams_come_from_the_other_node_and_end_with_it(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster:
        one = cluster.add("one")
        two = cluster.add("two", echo("second"))
        with one.client() as client:
            client.call("event.follow", {"types": ["task.*"], "node": "two"}, timeout_s=BOUND_S)
            done: Any = two.call("task.run", agent="second", objective="echo")
            batches: Any = client.notifications()
            events = (each for batch in batches for each in batch.params["events"])
            assert any(e["type"] == "task.ended" and e["task"] == done["id"] for e in events)
        lines = one.corral("logs", "second", "-n", "5")
        assert lines.returncode == 0
        with one.client() as client:
            client.call("task.submit", {"agent": "second", "objective": "sleep", "input": 1000})
            two.kill()
            with pytest.raises(Unreachable):
                client.call("daemon.status", {"node": "two"}, timeout_s=BOUND_S)


def test_a_placed_agent_is_operated_on_all_nodes_that_run_it(tmp_path: Path) -> None:
    spread = '{ replicas = 2, spread = "node" }'
    with cluster_of(tmp_path, "nats") as cluster:
        one = cluster.add("one")
        cluster.add("two", echo("wide") + f"placement = {spread}")

        def pids() -> dict[str, int | None]:
            """The process of the worker on each node."""
            agents = one.call("daemon.status")["agents"]
            return {each["node"]: each["workers"][0]["pid"] for each in agents}

        cluster.until(lambda: len(found := pids()) == 2 and all(found.values()))
        before = pids()
        done = one.corral("restart", "wide", "--json")
        assert done.returncode == 0, done.stderr
        assert {each["node"] for each in json.loads(done.stdout)["agents"]} == {"one", "two"}
        after = pids()
        assert all(after[node] != before[node] for node in ("one", "two"))
        assert one.corral("stop", "wide").returncode == 0
        assert pids() == {"one": None, "two": None}
        assert one.corral("start", "wide").returncode == 0
        assert all(pids().values())
        for node in ("one", "two"):  # one that is named does it alone
            assert one.corral("--node", node, "stop", "wide").returncode == 0
            assert {name for name, pid in pids().items() if pid is None} == {node}
            assert one.corral("start", "wide").returncode == 0
        top = json.loads(one.corral("top", "--once", "--json").stdout)
        seen = {(each["node"], each["up"]) for each in top["agents"] if each["name"] == "wide"}
        assert seen == {("one", 1), ("two", 1)}
        assert "wide@two" in one.corral("top", "--once").stdout
        shown = one.corral("node", "show", "two", "--json")
        own = {"name": "wide", "kind": "agent", "state": "Ready"}
        assert own in json.loads(shown.stdout)["agents"]
        assert "load" in one.corral("node", "show", "two").stdout
        assert one.corral("node", "show", "three").returncode == 3
