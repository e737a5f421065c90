"""A second daemon of a node name in use takes no lease and no part in the cluster, says so, and joins when the first one is gone."""

from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of, cluster_table, home_of, placed, until_all_answer
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell


def daemon_of(node: DaemonProcess) -> Any:
    return node.call("daemon.status")["daemon"]


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_second_daemon_of_a_name_in_use_is_degraded_until_the_first_is_gone(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "work").mkdir()
    local = placed(folder, "local").replace("placement = {}\n", "")
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder)) as cluster:
        first, two = cluster.nodes["one"], cluster.nodes["two"]
        until_all_answer(cluster)
        home = home_of(cluster)
        (second_folder := tmp_path / "second").mkdir()
        config = cluster_table(cluster.servers, "one") + placed(folder) + placed(folder, "other") + local
        with DaemonProcess(second_folder, config) as second:
            cluster.until(lambda: daemon_of(second)["degraded"] == ["cluster"])
            found = daemon_of(second)["cluster_problem"]
            assert '"one"' in found
            assert str(first.config.parent) in found
            assert f"process {first.pid}" in found
            assert found in second.corral("status").stdout.replace("\n", " ")
            assert "degraded: cluster (" in second.corral("status").stdout
            degraded = second.call("event.list", types=["daemon.degraded"], node="one")["events"]
            assert [each["part"] for each in degraded] == ["cluster"]
            # It runs its local agents, and has no part in what the cluster does under its name.
            assert second.call("task.run", agent="local", objective="x", input=1)["state"] == "succeeded"
            assert second.call("task.run", agent="single", objective="x", input=2)["worker"] == "single-0"
            assert {each["name"]: each["here"] for each in second.call("node.list")["nodes"]} == {
                "one": False,
                "two": False,
            }
            for _ in range(5):  # the first one answers for the name
                pids = {each["pid"] for each in (two.call("daemon.status", node="one")["daemon"],)}
                assert pids == {first.pid}
            assert "other" not in [each["name"] for each in two.call("agent.list")["agents"]]
            assert daemon_of(first)["degraded"] == daemon_of(two)["degraded"] == []
            assert (daemon_of(first)["cluster_problem"], home_of(cluster)) == ("", home)
            second.stop()  # which gives up nothing of the first one
            assert two.call("task.run", agent="single", objective="x", input=3)["output"]["input"] == 3
            assert home_of(cluster) == home
            second.start()
            cluster.until(lambda: daemon_of(second)["degraded"] == ["cluster"])
            cluster.nodes.pop("one").kill()
            cluster.until(lambda: daemon_of(second)["degraded"] == [])
            cluster.until(lambda: two.call("daemon.status", node="one")["daemon"]["pid"] == second.pid)
            cluster.until(lambda: "other" in [each["name"] for each in two.call("agent.list")["agents"]])
