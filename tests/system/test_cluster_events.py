"""The events of a task of a placed agent are found on any node, also when the nodes that had them are gone, and its end is among them once."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell


def types_of(daemon: DaemonProcess, task: str, **more: object) -> list[str]:
    """Returns the types of the events of a task, in their order, as a node answers."""
    return [each["type"] for each in daemon.call("event.list", task=task, **more)["events"]]


LIFE = ["task.queued", "task.started", "task.ended"]


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_events_of_a_placed_task_are_found_on_every_node_also_when_the_one_that_ran_it_is_gone(
    tmp_path: Path, kind: str
) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two", "three"], placed(folder)) as cluster:
        first = home_of(cluster)
        other, third = (node for name, node in cluster.nodes.items() if name != first)
        done = other.call("task.run", agent="single", objective="x", input=1)
        for node in cluster.nodes.values():
            assert types_of(node, done["id"]) == LIFE
        printed = third.corral("events", "--task", done["id"], "--json").stdout.splitlines()
        assert [json.loads(line)["type"] for line in printed] == LIFE
        assert types_of(third, done["id"], types=["task.ended"]) == ["task.ended"]
        assert types_of(cluster.nodes[first], done["id"], node=first) == ["task.started", "task.ended"]
        running = other.call("task.submit", agent="single", objective="wait", input=2)
        began(cluster, folder, running)
        assert types_of(third, running["id"]) == ["task.queued", "task.started"]
        cluster.nodes.pop(first).kill()
        (folder / "go").touch()
        third.call("task.wait", task=running["id"])
        assert types_of(other, running["id"])[-2:] == ["task.started", "task.ended"]  # of its second delivery
        gone = types_of(other, done["id"])
        assert gone == LIFE
        cluster.nodes.clear()
        cluster.nodes["three"] = third
        found = third.call("event.list", task=done["id"])["events"]
        ended: Any = found[-1]
        assert (ended["state"], ended["node"], ended["worker"]) == ("succeeded", first, "single-0")


def test_a_task_that_is_followed_shows_its_end_once(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    (folder / "go").touch()
    with cluster_of(tmp_path, "nats", ["one", "two"], placed(folder)) as cluster:
        home_of(cluster)
        for node in cluster.nodes.values():
            task = node.call("task.submit", agent="single", objective="wait")
            with node.client() as client:
                found: list[Any] = []
                client.call(
                    "task.follow",
                    {"task": task["id"]},
                    timeout_s=BOUND_S,
                    on_notification=lambda each: found.append(each.params["event"]),  # noqa: B023  # called at once
                )
            assert [each["type"] for each in found].count("task.ended") == 1
            assert found[-1]["state"] == "succeeded"
            assert types_of(node, task["id"]) == LIFE
