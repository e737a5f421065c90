"""The steps of a placed task go with it: the node that goes on with it does none again that had ended, and every node shows them."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from cluster_of_daemons import Cluster, cluster_of, home_of, placed
from daemon_process import AGENTS

pytestmark = pytest.mark.shell


def paid(folder: Path) -> list[str]:
    """Returns the steps that were begun, in order."""
    path = folder / "paid"
    return path.read_text().split() if path.exists() else []


def until_paid(cluster: Cluster, folder: Path, count: int) -> None:
    cluster.until(lambda: len(paid(folder)) >= count)


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_node_that_is_killed_between_steps_is_followed_by_one_that_goes_on_at_the_next(
    tmp_path: Path, kind: str
) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder)) as cluster:
        first = home_of(cluster)
        (other,) = (node for name, node in cluster.nodes.items() if name != first)
        task = other.call("task.submit", agent="single", objective="steps", input=30)["id"]
        until_paid(cluster, folder, 10)
        shown = other.call("task.show", task=task, steps=True)  # from a node that does not run it
        assert [each["name"] for each in shown["steps"]][:3] == ["pay", "pay#2", "pay#3"]
        cluster.nodes.pop(first).kill()
        ended = other.call("task.wait", task=task)
        assert (ended["state"], ended["output"]) == ("succeeded", sum(range(30))), ended["error"]
        counts = Counter(paid(folder))
        assert (len(counts), counts.total() <= 31) == (30, True), counts
        steps = other.call("task.show", task=task, steps=True)["steps"]
        assert [each["result"] for each in steps] == list(range(30))
        assert {each["delivery"] for each in steps} == {1, 2}
        table = other.corral("task", "show", task, "--steps").stdout
        assert len(table.splitlines()) == 31


def test_a_worker_that_is_killed_goes_on_at_the_next_step_on_its_node(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, "nats", ["one"], placed(folder)) as cluster:
        node = cluster.nodes["one"]
        home_of(cluster)
        task = node.call("task.submit", agent="single", objective="steps", input=20)["id"]
        until_paid(cluster, folder, 8)
        os.kill(node.worker("single-0")["pid"], signal.SIGKILL)
        assert node.call("task.wait", task=task)["output"] == sum(range(20))
        counts = Counter(paid(folder))
        assert (len(counts), counts.total() <= 21) == (20, True), counts


SERVER = f"""
[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
"""


def test_every_node_shows_the_tool_calls_of_a_task_also_when_the_node_that_ended_it_is_gone(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    config = placed(folder) + SERVER
    config = config.replace("placement = {}", 'placement = {}\ntasks = { record_tool_calls = "results" }')
    with cluster_of(tmp_path, "nats", ["one", "two"], config) as cluster:
        first = home_of(cluster)
        (other,) = (node for name, node in cluster.nodes.items() if name != first)
        task = other.call("task.run", agent="single", objective="call")["id"]
        asked = {"task": task, "calls": True}
        for node in (cluster.nodes[first], other):
            (call,) = node.call("task.show", **asked)["calls"]
            assert (call["tool"], call["ok"], "hello" in str(call["result"])) == ("odd__echo", True, True)
        cluster.nodes.pop(first).kill()
        assert other.call("task.show", **asked)["calls"] == [call]
        assert other.call("task.show", task=task)["calls"] is None
