"""A task that no node can run ends at its deadline and its queue_timeout, once, also when the node that accepted it is gone."""

import time
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell


def ends_of(node: DaemonProcess, task: Any) -> int:
    """Returns how often the end of a task was published."""
    events = node.call("event.list", task=task["id"], types=["task.ended"])["events"]
    return len(events)


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_task_that_no_node_can_run_ends_at_its_limits_with_the_reasons_of_a_local_one(
    tmp_path: Path, kind: str
) -> None:
    (folder := tmp_path / "work").mkdir()
    nowhere = placed(folder).replace("placement = {}", 'placement = { labels = { zone = "none" } }')
    limited = nowhere.replace("agents.single", "agents.limited") + '[agents.limited.tasks]\nqueue_timeout = "1s"\n'
    with cluster_of(tmp_path, kind, ["one", "two"], nowhere + limited) as cluster:
        one, two = cluster.nodes.values()
        cluster.until(lambda: one.call("event.list", types=["agent.unplaced"])["events"])
        begun = time.time()
        given: list[dict[str, object]] = [
            {"agent": "single", "deadline_s": 1.0},
            {"agent": "single", "queue_timeout_s": 1.0, "deadline_s": 60.0},
            {"agent": "limited"},
        ]
        tasks = [one.call("task.submit", objective="x", **each) for each in given]
        later = one.call("task.submit", agent="single", objective="x", deadline_s=1.5, at=time.time() + 0.5)
        forever = two.call("task.submit", agent="single", objective="x")
        ended = [two.call("task.wait", task=each["id"]) for each in tasks]
        assert time.time() - begun < 10
        assert [each["state"] for each in ended] == ["timeout"] * 3
        assert [each["error"]["data"]["limit"] for each in ended] == ["deadline_s", "queue_timeout", "queue_timeout"]
        assert all("2 without the labels" in each["error"]["message"] for each in ended)
        assert ended[0]["error"]["data"]["value"] == ended[0]["deadline_at"]
        assert [ends_of(two, each) for each in tasks] == [1, 1, 1]
        assert one.call("task.wait", task=later["id"])["error"]["data"]["limit"] == "deadline_s"
        assert two.call("task.show", task=forever["id"])["state"] == "queued"
        assert one.corral("run", "single", "x", "--deadline", "1s").returncode == 5


def test_a_deadline_is_kept_when_the_node_that_accepted_the_task_is_gone_or_starts_again(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    nowhere = placed(folder).replace("placement = {}", 'placement = { labels = { zone = "none" } }')
    with cluster_of(tmp_path, "nats", ["one", "two"], nowhere) as cluster:
        one, two = cluster.nodes["one"], cluster.nodes["two"]
        cluster.until(lambda: two.call("task.list", node="two", agent="single") is not None)
        task = one.call("task.submit", agent="single", objective="x", deadline_s=5.0)
        cluster.nodes.pop("one").kill()
        ended = two.call("task.wait", task=task["id"])
        assert (ended["state"], ended["error"]["data"]["limit"]) == ("timeout", "deadline_s")
        assert ends_of(two, task) == 1
        task = two.call("task.submit", agent="single", objective="x", queue_timeout_s=6.0)
        two.kill()
        two.start()  # alone
        ended = cluster.until(lambda: two.call("task.wait", task=task["id"]))
        assert (ended["state"], ended["error"]["data"]["limit"]) == ("timeout", "queue_timeout")


def test_a_task_that_waits_behind_another_ends_in_time_and_one_that_runs_is_ended_by_its_node(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, "nats", ["one", "two"], placed(folder)) as cluster:
        first = home_of(cluster)
        other = next(node for name, node in cluster.nodes.items() if name != first)
        running = other.call("task.submit", agent="single", objective="wait", deadline_s=4.0, queue_timeout_s=1.0)
        began(cluster, folder, running)
        waits = other.call("task.submit", agent="single", objective="x", queue_timeout_s=1.0)
        ended = other.call("task.wait", task=waits["id"])
        assert (ended["state"], ended["error"]["data"]["limit"]) == ("timeout", "queue_timeout")
        assert other.call("task.show", task=running["id"])["state"] == "running"
        ended = other.call("task.wait", task=running["id"])
        assert (ended["state"], ended["error"]["data"]["limit"]) == ("timeout", "deadline_s")
        assert [ends_of(other, each) for each in (running, waits)] == [1, 1]
        assert other.call("task.run", agent="single", objective="x", input=3)["output"]["input"] == 3
