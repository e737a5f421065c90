"""The budgets of a placed agent are those of the whole cluster: what it has used on one node counts on the next one."""

from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of, home_of, placed
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell

BUDGET = """
[agents.single.tasks]
max_cost_cents_per_day = 4
"""


def spend(node: DaemonProcess) -> None:
    """Runs a task of 10 tokens and 2 cents."""
    done = node.call("task.run", agent="single", objective="spend")
    assert done["state"] == "succeeded", done


def used(node: DaemonProcess) -> float:
    """Returns the cents of the last day, as the node that runs the agent counts them."""
    quotas: Any = node.call("quota.list", names=["single"])["quotas"]
    return next(float(each["used"]) for each in quotas if each["key"] == "tasks.max_cost_cents_per_day")


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_a_budget_that_is_used_up_on_two_nodes_holds_on_both(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder) + BUDGET) as cluster:
        first = home_of(cluster)
        second = next(name for name in cluster.nodes if name != first)
        spend(cluster.nodes[first])
        cluster.nodes[first].call("node.drain", name=first)
        cluster.until(lambda: home_of(cluster) == second)
        cluster.until(lambda: used(cluster.nodes[second]) == 2)
        assert used(cluster.nodes[first]) == 2, "of the node that runs it"
        spend(cluster.nodes[first])
        held = cluster.nodes[first].call("task.submit", agent="single", objective="spend")
        cluster.nodes[first].call("node.resume", name=first)
        cluster.until(lambda: waits(cluster.nodes[second], held["id"]))
        cluster.nodes.pop(second).kill()
        cluster.until(lambda: home_of(cluster) == first)
        assert used(cluster.nodes[first]) == 4
        cluster.until(lambda: waits(cluster.nodes[first], held["id"]))


def waits(node: DaemonProcess, task: str) -> bool:
    """Returns whether a task waits for the budget of its agent."""
    shown = node.call("task.show", task=task)
    assert shown["state"] == "queued", shown
    return "max_cost_cents_per_day" in str(shown["reason"])
