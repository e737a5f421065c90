"""Agents are placed on nodes, one at a time, and start elsewhere when their node dies, is drained, or is frozen."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import Cluster, began, cluster_of
from cluster_of_daemons import placed as placed_worker
from corral import Runtime
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, Timeout
from daemon_process import AGENTS, DaemonProcess
from free_ports import free_port
from http_api_client import Api

pytestmark = pytest.mark.shell


def placed(folder: Path, name: str = "single", placement: str = "{}") -> str:
    """Returns the table of a placed agent that keeps a journal in `folder`."""
    return f"""
[agents.{name}]
command = ["{sys.executable}", "{AGENTS / "placed_agent.py"}"]
placement = {placement}
[agents.{name}.config]
folder = "{folder}"
[agents.{name}.process]
shutdown_grace_period = "2s"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (found := tmp_path / "journal").mkdir()
    return found


def journal(folder: Path, word: str) -> list[list[str]]:
    path = folder / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split() for line in lines if line.split()[0] == word]


def workers(node: DaemonProcess, name: str = "single") -> list[Any]:
    """Returns the workers of an agent that are up on a node."""
    status = node.call("daemon.status", node=node.config.parent.name)
    found = [each for each in status["agents"] if each["name"] == name]
    return [w for each in found for w in each["workers"] if w["pid"] is not None]


def homes(cluster: Cluster, name: str = "single") -> list[str]:
    """Returns the nodes that run an agent, once for each of its workers; nodes that cannot answer have none."""
    found: list[str] = []
    for node, daemon in cluster.nodes.items():
        try:
            found += [node] * len(workers(daemon, name))
        except OSError:
            continue
    return found


def home(cluster: Cluster, lives: int, folder: Path) -> str:
    """Returns the node of a singleton once it has begun so many lives."""
    cluster.until(lambda: sum(each[1] == "single" for each in journal(folder, "alone")) >= lives)
    return str(cluster.until(lambda: homes(cluster))[0])


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_an_agent_of_a_killed_node_starts_elsewhere_once_with_a_greater_token(
    tmp_path: Path, folder: Path, kind: str
) -> None:
    with cluster_of(tmp_path, kind, ["one", "two", "three"], placed(folder)) as cluster:
        first = home(cluster, 1, folder)
        assert homes(cluster) == [first]
        cluster.nodes.pop(first).kill()
        second = home(cluster, 2, folder)
        assert second != first
        lives = journal(folder, "alone")
        assert len(lives) == 2
        assert journal(folder, "twice") == []
        assert int(lives[1][2]) > int(lives[0][2])


def test_a_drained_node_passes_its_agent_on_and_replicas_spread(tmp_path: Path, folder: Path) -> None:
    with cluster_of(tmp_path, "nats", ["one", "two"]) as cluster:
        many = placed(folder, "many", '{ replicas = 4, spread = "node" }')
        file = cluster.nodes["one"].config
        file.write_text(file.read_text() + placed(folder) + many)
        cluster.nodes["one"].call("daemon.reload")
        first = home(cluster, 1, folder)
        cluster.until(lambda: sorted(homes(cluster, "many")) == ["one", "one", "two", "two"])
        other = "two" if first == "one" else "one"
        cluster.nodes[other].call("node.drain", name=first)
        cluster.until(lambda: homes(cluster) == [other])
        cluster.until(lambda: homes(cluster, "many") == [other] * 4)
        assert [each for each in journal(folder, "twice") if each[1] == "single"] == []
        cluster.nodes[other].call("node.resume", name=first)
        third = cluster.add("three")
        assert workers(third) == []  # nothing moves to even out load


def test_a_frozen_node_runs_nothing_beyond_its_lease_and_comes_back_without_harm(tmp_path: Path, folder: Path) -> None:
    with cluster_of(tmp_path, "nats", ["one", "two"], placed(folder)) as cluster:
        first = home(cluster, 1, folder)
        frozen = cluster.nodes.pop(first)
        os.kill(frozen.pid, signal.SIGSTOP)  # its launcher goes on
        try:
            second = home(cluster, 2, folder)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        cluster.nodes[first] = frozen
        cluster.until(lambda: first in [n["name"] for n in frozen.call("node.list")["nodes"]])
        assert homes(cluster) == [second]
        assert journal(folder, "twice") == []


def test_a_node_without_its_engine_stops_placed_agents_and_runs_them_again(tmp_path: Path, folder: Path) -> None:
    with cluster_of(tmp_path, "nats", ["one"], placed(folder)) as cluster:
        home(cluster, 1, folder)
        cluster.servers.kill(0)
        cluster.until(lambda: homes(cluster) == [])
        cluster.servers.start(0)
        home(cluster, 2, folder)
        assert journal(folder, "twice") == []


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_tasks_of_a_placed_agent_are_accepted_by_any_node_and_end_once_when_a_node_dies(
    tmp_path: Path, folder: Path, kind: str
) -> None:
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder)) as cluster:
        first = home(cluster, 1, folder)
        other = cluster.nodes["two" if first == "one" else "one"]
        done = other.call("task.run", agent="single", objective="x", input=7)
        assert (done["state"], done["output"]["input"]) == ("succeeded", 7)
        assert done["output"]["token"] == int(journal(folder, "alone")[0][2])
        shown = cluster.nodes[first].call("task.show", task=done["id"])
        assert shown["output"] == done["output"]
        slow = [
            other.call("task.submit", agent="single", objective="slow", input=n, idempotency_key=f"k{n}")
            for n in range(5)
        ]
        cluster.until(lambda: any(line[1] == slow[0]["id"] for line in journal(folder, "ran")))
        cluster.nodes.pop(first).kill()
        ended = [other.call("task.wait", task=each["id"]) for each in slow]
        assert [each["state"] for each in ended] == ["succeeded"] * 5
        assert sorted(each["output"]["input"] for each in ended) == list(range(5))
        again = other.call("task.run", agent="single", objective="slow", input=0, idempotency_key="k0")
        assert (again["id"], again["output"]) == (slow[0]["id"], ended[0]["output"])
        runs = [line[1] for line in journal(folder, "ran")]
        assert runs.count(slow[0]["id"]) == 2  # it had begun on the node that died
        later = other.call("task.run", agent="single", objective="quick", after=[slow[0]["id"]])
        assert later["state"] == "succeeded"


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_scale_changes_the_copies_in_the_whole_cluster_and_outlives_nodes(
    tmp_path: Path, folder: Path, kind: str
) -> None:
    table = placed(folder)
    with cluster_of(tmp_path, kind) as cluster:
        for name in ("one", "two"):
            cluster.add(name, table, capacity=3)
        first = home(cluster, 1, folder)
        other = "two" if first == "one" else "one"
        before = workers(cluster.nodes[first])[0]["pid"]
        scaled = cluster.nodes[other].call("agent.scale", name="single", instances=3)
        assert {each["node"] for each in scaled["workers"]} == {"one", "two"}
        assert len(homes(cluster)) == len(scaled["workers"]) == 3
        assert before in [each["pid"] for each in scaled["workers"]]  # which goes on
        cluster.nodes.pop(first).kill()
        cluster.until(lambda: homes(cluster) == [other] * 3)
        with pytest.raises(Timeout) as full:  # it is wanted all the same
            cluster.nodes[other].call("agent.scale", name="single", instances=4)
        assert (full.value.data["wanted"], full.value.data["placed"]) == (4, 3)
        assert "full" in str(full.value.data["reason"])
        third = cluster.add("three", table, capacity=3)  # whose file says 1, too
        cluster.until(lambda: sorted(homes(cluster)) == sorted([other] * 3 + ["three"]))
        none = third.corral("scale", "single", "0")
        assert (none.returncode, none.stdout) == (0, "scaled single to 0 (Initial)\n")
        assert homes(cluster) == []
        waiting = third.call("task.submit", agent="single", objective="x")
        assert third.corral("scale", "single", "1").returncode == 0
        assert third.call("task.wait", task=waiting["id"])["state"] == "succeeded"
        assert len(homes(cluster)) == 1
        file = cluster.nodes[other].config  # its change ends what was wanted by calls
        file.write_text(file.read_text().replace("placement = {}", "placement = { replicas = 2 }"))
        cluster.nodes[other].call("daemon.reload")
        cluster.until(lambda: len(homes(cluster)) == 2)


def test_labels_choose_nodes_and_a_reload_adds_changes_and_removes(tmp_path: Path, folder: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster:
        one = cluster.add("one")
        two = cluster.add("two", 'labels = { zone = "b" }\n')
        table = one.config.read_text()
        one.config.write_text(table + placed(folder, placement='{ labels = { zone = "b" } }'))
        one.call("daemon.reload")
        cluster.until(lambda: homes(cluster) == ["two"])
        with pytest.raises(Conflict):
            two.call("agent.rm", name="single")
        with pytest.raises(Conflict) as kept:
            one.call("agent.set", name="single", spec={"title": "x"})
        assert kept.value.data["remedy"] == "corral reload"
        job: object = {"command": ["true"], "type": "oneshot", "placement": {}}
        with pytest.raises(InvalidParams):
            two.call("agent.add", name="other", spec=job)
        one.config.write_text(table)
        one.call("daemon.reload")
        cluster.until(lambda: homes(cluster) == [])
        cluster.until(lambda: "single" not in [a["name"] for a in two.call("daemon.status")["agents"]])


def test_a_spread_agent_is_on_all_nodes_after_a_start_at_once_and_after_a_node_came_back_and_no_task_is_ended(
    tmp_path: Path, folder: Path
) -> None:
    (work := tmp_path / "work").mkdir()
    table = placed_worker(work, "many").replace("placement = {}", 'placement = { replicas = 2, spread = "node" }')
    with cluster_of(tmp_path, "nats") as cluster:
        with ThreadPoolExecutor() as pool:  # at once
            list(pool.map(cluster.add, ("one", "two"), (table, table)))
        cluster.until(lambda: sorted(homes(cluster, "many")) == ["one", "two"])
        gone = cluster.nodes.pop("two")
        gone.kill()
        one = cluster.nodes["one"]
        cluster.until(lambda: homes(cluster, "many") == ["one", "one"])
        tasks = [one.call("task.submit", agent="many", objective="wait", input=n) for n in range(3)]
        for each in tasks[:2]:
            began(cluster, work, each)
        gone.start()
        cluster.nodes["two"] = gone
        cluster.until(lambda: "two" in [each["name"] for each in one.call("node.list")["nodes"]])
        time.sleep(2)  # it is time enough to end one
        assert [one.call("task.show", task=each["id"])["state"] for each in tasks] == ["running", "running", "queued"]
        (work / "go").touch()
        ended = [one.call("task.wait", task=each["id"]) for each in tasks]
        assert [(each["state"], each["delivery"]) for each in ended[:2]] == [("succeeded", 1)] * 2
        assert ended[2]["state"] == "succeeded"
        cluster.until(lambda: sorted(homes(cluster, "many")) == ["one", "two"])
        done = [one.call("task.run", agent="many", objective="x", input=n) for n in range(4)]
        assert [each["state"] for each in done] == ["succeeded"] * 4


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_placed_agents_are_added_and_removed_at_run_time_on_any_node_and_outlive_it(
    tmp_path: Path, folder: Path, kind: str
) -> None:
    with cluster_of(tmp_path, kind) as cluster:
        one = cluster.add("one", f'labels = {{ zone = "a" }}\n[daemon]\nhttp = "127.0.0.1:{free_port()}"\n')
        two = cluster.add("two", 'labels = { zone = "b" }\n')
        spec: dict[str, object] = {
            "command": [sys.executable, str(AGENTS / "placed_agent.py")],
            "config": {"folder": str(folder)},
            "placement": {"labels": {"zone": "b"}},
        }
        with Runtime.connect(one.config.parent / "corral.sock") as runtime:
            added = runtime.add_agent("single", spec)
            assert (added.state, [each.id for each in added.workers]) == ("Ready", ["single-0"])
            assert homes(cluster) == ["two"]
            assert runtime.execute_task("single", "x", input=7).state == "succeeded"
        with pytest.raises(Conflict):
            two.call("agent.add", name="single", spec=spec)
        file = tmp_path / "more.toml"
        file.write_text(placed(folder, "filed", "{ replicas = 2 }"))
        assert two.corral("add", "--file", str(file)).returncode == 0
        assert len(homes(cluster, "filed")) == 2
        api = Api(one)
        assert api.ask(
            "POST", "/agents", {"name": "web", "spec": {**spec, "placement": dict[str, object]()}}
        ).status in (200, 201)
        assert len(homes(cluster, "web")) == 1
        with pytest.raises(Timeout) as nowhere:
            one.call("agent.add", name="far", spec=spec | {"placement": {"labels": {"zone": "c"}}})
        assert "2 without the labels" in str(nowhere.value.data["reason"])
        cluster.nodes.pop("one").kill()  # that added them
        cluster.until(lambda: len(homes(cluster, "filed")) == 2)
        assert two.call("task.run", agent="single", objective="x", input=8)["state"] == "succeeded"
        assert two.corral("rm", "single", "far").returncode == 0
        assert homes(cluster) == []
        assert "single" not in [each["name"] for each in two.call("agent.list")["agents"]]
        with pytest.raises(NotFound):
            two.call("task.submit", agent="single", objective="x")
