"""Tasks of a placed agent are shown, followed, listed and cancelled from every node, whichever accepted or runs them."""

from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed
from corral.worker.contract.errors import NotFound
from daemon_process import BOUND_S, DaemonProcess
from free_ports import free_port
from http_api_client import Api

pytestmark = pytest.mark.shell


def parts_of(node: DaemonProcess, method: str, params: dict[str, object], folder: Path) -> Any:
    """Returns the parts of a call, which lets the task end once all have come, and its result."""
    with node.client() as client:
        found: list[object] = []

        def take(name: str, part: Any) -> None:
            if name == "task.part":
                found.append(part["part"])
                if len(found) == 3:
                    (folder / "go").touch()

        done = client.call(
            method,
            {**params, "stream": True},
            timeout_s=BOUND_S,
            on_notification=lambda each: take(each.method, each.params),
        )
        return found, done


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_tasks_are_shown_listed_followed_and_cancelled_from_every_node(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind) as cluster:
        one = cluster.add("one", placed(folder) + f'[daemon]\nhttp = "127.0.0.1:{free_port()}"\n')
        two, three = (cluster.add(each, placed(folder)) for each in ("two", "three"))
        first = home_of(cluster)
        here = cluster.nodes[first]
        other, third = (node for name, node in cluster.nodes.items() if name != first)
        running = other.call("task.submit", agent="single", objective="wait", input=1)
        began(cluster, folder, running)
        waits = [other.call("task.submit", agent="single", objective="x", input=n) for n in (2, 3)]
        for node in (here, other, third):
            assert node.call("task.show", task=running["id"])["worker"] == "single-0"
            assert node.call("task.show", task=waits[0]["id"])["state"] == "queued"
            listed = {each["id"]: each for each in node.call("task.list")["tasks"]}
            assert listed[running["id"]]["node"] == first
            assert [listed[each["id"]]["state"] for each in waits] == ["queued", "queued"]
            status = node.call("daemon.status")
            assert status["missing_nodes"] == []
            assert {"single": first} == {e["name"]: e["node"] for e in status["agents"]}
        assert third.call("task.cancel", task=waits[0]["id"])["state"] == "cancelled"
        assert other.call("task.wait", task=waits[0]["id"])["state"] == "cancelled"
        assert third.call("task.cancel", task=running["id"])["state"] == "cancelled"
        assert other.call("task.wait", task=running["id"])["error"]["name"] == "Cancelled"
        assert third.call("task.wait", task=waits[1]["id"])["output"]["input"] == 3
        with pytest.raises(NotFound):
            third.call("task.show", task="x0123456789abcdef")

        found, done = parts_of(third, "task.run", {"agent": "single", "objective": "parts"}, folder)
        assert (found, done["state"]) == ([{"part": 0}, {"part": 1}, {"part": 2}], "succeeded")
        found, done = parts_of(other, "task.run", {"agent": "single", "objective": "parts"}, folder)
        assert len(found) == 3  # also of a task that has ended before anybody asked

        api = Api(one)
        everything = api.ask("GET", "/status").json
        assert [each["node"] for each in everything["agents"]] == [first]
        alone = api.ask("GET", "/status", query={"node": "two"}).json
        assert len(alone["agents"]) == (first == "two")
        headed = api.ask("GET", "/status", Corral_Node="three").json
        assert len(headed["agents"]) == (first == "three")
        ran = api.ask("POST", "/agents/single/run", {"objective": "x", "input": 9}, query={"node": "two"})
        assert ran.json["output"]["input"] == 9
        printed = two.corral("status").stdout
        assert "NODE" in printed
        assert first in printed
        assert "NODE" in three.corral("tasks").stdout

        gone = next(name for name in cluster.nodes if name != first)
        cluster.nodes.pop(gone).kill()
        told = here.call("daemon.status")  # bounded, and names what is missing until the lease ends
        assert told["missing_nodes"] in ([gone], [])
        assert [each["name"] for each in told["agents"]] == ["single"]
