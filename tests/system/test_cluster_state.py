"""Sessions and checkpoints of a placed agent go with it to another node, and a node that was replaced writes none."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed
from corral.worker.contract.errors import NotFound
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell


def count(node: DaemonProcess) -> object:
    """Returns the number of turns that a session has counted, with this one."""
    done = node.call("task.run", agent="single", objective="count", session="talk")
    assert done["state"] == "succeeded"
    return done["output"]["count"]


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_a_session_and_a_checkpoint_go_on_where_the_agent_starts_next(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two", "three"], placed(folder)) as cluster:
        first = home_of(cluster)
        other = next(node for name, node in cluster.nodes.items() if name != first)
        assert [count(other) for _ in range(3)] == [1, 2, 3]
        other.call("task.run", agent="single", objective="learn", input="blue")
        begun = other.call("task.submit", agent="single", objective="step")
        began(cluster, folder, begun)
        cluster.nodes.pop(first).kill()
        done = other.call("task.wait", task=begun["id"])
        assert done["output"] == {"checkpoint": {"step": 7}}
        assert count(other) == 4
        assert other.call("task.run", agent="single", objective="recall")["output"] == "blue"
        second = home_of(cluster)
        assert second != first
        other.call("node.drain", name=second)
        cluster.until(lambda: home_of(cluster) != second)
        assert [count(other) for _ in range(2)] == [5, 6]
        other.call("node.resume", name=second)
        other.call("node.drain", name=home_of(cluster))  # back to where an older session is
        cluster.until(lambda: home_of(cluster) == second)
        assert count(other) == 7


def test_memory_that_is_cleared_or_ends_is_so_on_all_nodes(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, "nats", ["one", "two"], placed(folder)) as cluster:
        first = home_of(cluster)
        second = next(name for name in cluster.nodes if name != first)
        here, there = cluster.nodes[first], cluster.nodes[second]
        assert [count(there) for _ in range(2)] == [1, 2]
        there.call("task.run", agent="single", objective="learn", input="blue")

        def move(source: str, target: str) -> None:
            here.call("node.drain", name=source)
            cluster.until(lambda: home_of(cluster) == target)
            here.call("node.resume", name=source)

        move(first, second)
        assert count(there) == 3
        assert there.call("task.run", agent="single", objective="recall")["output"] == "blue"
        # The node that had it before answers for the one that has it now.
        cleared = here.call("memory.clear", agent="single")
        assert (cleared["sessions"], cleared["keys"]) == (1, 1)
        move(second, first)  # where an older state is
        assert count(here) == 1
        assert here.call("task.run", agent="single", objective="recall")["output"] is None
        there.call("memory.expire", agent="single", session="talk", ttl_s=0.001)
        move(first, second)
        assert count(there) == 1
        with pytest.raises(NotFound):
            here.call("memory.clear", agent="single", session="nothing")


WIDE = 'placement = { replicas = 2, spread = "node" }'


def test_one_key_is_the_same_on_all_replicas_at_once(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    table = placed(folder).replace("placement = {}", WIDE)
    with cluster_of(tmp_path, "nats", ["one"]) as cluster:
        cluster.add("two", table)  # the last one: what is placed stays where it is
        nodes = cluster.nodes

        def values() -> list[object]:
            """What the replica on each node has."""
            asked: Any = {"agent": "single", "key": "colour"}
            return [nodes[name].call("memory.get", **asked, node=name)["value"] for name in nodes]

        cluster.until(lambda: len(up_on(nodes["one"], "single")) == 2)
        nodes["one"].call("memory.put", agent="single", key="colour", value="blue")
        assert values() == ["blue", "blue"]
        assert nodes["two"].corral("memory", "rm", "single", "colour").returncode == 0
        assert values() == [None, None]
        with pytest.raises(NotFound):
            nodes["one"].call("memory.delete", agent="single", key="colour")


def test_any_node_shows_the_figures_and_the_runs_of_all(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    table = placed(folder).replace("placement = {}", WIDE)
    with cluster_of(tmp_path, "nats", ["one"]) as cluster:
        one, two = cluster.nodes["one"], cluster.add("two", table)
        cluster.until(lambda: len(up_on(one, "single")) == 2)
        begun = [one.call("task.submit", agent="single", objective="wait") for _ in range(2)]
        for each in begun:  # one on each node
            began(cluster, folder, each)
        (folder / "go").touch()
        for each in begun:
            one.call("task.wait", task=each["id"])

        def ended(node: DaemonProcess) -> dict[object, object]:
            """The number of tasks that have succeeded on each node, as one of them shows it."""
            top = json.loads(node.corral("top", "--once", "--json").stdout)
            return {each["node"]: each["ok"] for each in top["agents"]}

        both = [{"one": 1, "two": 1}] * 2
        cluster.until(lambda: [ended(node) for node in (one, two)] == both)
        task: object = {"agent": "single", "objective": "x"}
        one.call("schedule.add", name="tick", every_s=1, task=task)

        def runs(node: DaemonProcess) -> set[tuple[object, object]]:
            recent = node.call("schedule.show", name="tick")["recent"]
            return {(each["task"], each["node"]) for each in recent}

        cluster.until(lambda: runs(one) and runs(one) == runs(two))
        assert "NODE" in two.corral("schedule", "show", "tick").stdout


def up_on(node: DaemonProcess, agent: str) -> set[object]:
    """Returns the nodes on which an agent is up."""
    agents = node.call("daemon.status")["agents"]
    return {each["node"] for each in agents if each["name"] == agent and any(w["pid"] for w in each["workers"])}
