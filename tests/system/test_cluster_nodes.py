"""Daemons join a cluster, show in it, leave it, and go on with their local agents when the engine is away."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of, cluster_table, names
from corral.worker.contract.errors import NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

ECHO = f"""
[agents.echo]
command = ["{sys.executable}", "{AGENTS / "sdk_sync.py"}"]
"""

ROOMS = ("cluster_node", "engine", "nodes", "cluster.lease", "cluster.placement")


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_daemons_show_as_nodes_drain_and_leave(tmp_path: Path, kind: str) -> None:
    with cluster_of(tmp_path, kind) as cluster:
        one = cluster.add("one", capacity=7)
        two = cluster.add("two")
        found = {each["name"]: each for each in one.call("node.list")["nodes"]}
        assert [(each, found[each]["here"]) for each in found] == [("one", True), ("two", False)]
        assert (found["one"]["capacity"], found["one"]["state"]) == (7, "ready")
        drained = two.corral("node", "drain", "one")
        assert (drained.returncode, drained.stdout) == (0, "one: draining\n")
        cluster.until(lambda: one.call("node.list")["nodes"][0]["state"] == "draining")
        assert two.call("node.resume", name="one")["state"] == "ready"
        cluster.until(lambda: two.call("node.list")["nodes"][0]["state"] == "ready")
        with pytest.raises(NotFound) as unknown:
            one.call("node.drain", name="three")
        assert unknown.value.data["known"] == ["one", "two"]
        assert "two" in one.corral("nodes").stdout
        assert two.stop() == 0
        assert names(one) == ["one"]  # it gave its lease back


def test_a_node_without_its_engine_says_so_goes_on_locally_and_joins_again(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster:
        one = cluster.add("one", ECHO)
        with one.client() as client:
            client.call("event.follow", {"types": ["node.*", "daemon.*"]}, timeout_s=BOUND_S)
            cluster.servers.kill(0)
            seen: dict[str, object] = {}
            batches: Any = client.notifications()  # of shapes that the test knows
            events = (each for batch in batches for each in batch.params["events"])
            for event in events:
                seen[event["type"]] = event
                if event["type"] == "node.stopped":
                    break
            assert {"node.cordoned", "node.stopped", "daemon.degraded"} <= seen.keys()
            status = one.call("daemon.status")
            assert status["daemon"]["degraded"] == ["cluster"]
            done = one.call("task.run", agent="echo", objective="echo")
            assert done["state"] == "succeeded"
            cluster.servers.start(0)
            assert any(event["type"] == "daemon.recovered" for event in events)
        assert one.call("daemon.status")["daemon"]["degraded"] == []
        assert names(one) == ["one"]


def test_a_daemon_starts_without_the_engine_and_joins_when_it_is_there(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster:
        cluster.servers.kill(0)
        (folder := tmp_path / "one").mkdir()
        table = cluster_table(cluster.servers, "one")
        with DaemonProcess(folder, f"{table}\n{ECHO}") as one:
            assert one.call("task.run", agent="echo", objective="echo")["state"] == "succeeded"
            cluster.until(lambda: one.call("daemon.status")["daemon"]["degraded"] == ["cluster"])
            cluster.servers.start(0)
            cluster.until(lambda: names(one) == ["one"])


def test_a_daemon_without_a_cluster_imports_nothing_of_it(tmp_path: Path) -> None:
    config = tmp_path / "corral.toml"
    config.write_text(ECHO)
    program = (
        "import sys\n"
        "import corral.supervisor.daemon, corral.supervisor.composition\n"
        "from corral.supervisor.installation import read_config\n"
        "from pathlib import Path\n"
        "read_config(Path(sys.argv[1]))\n"
        "print(*sorted(sys.modules))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program, str(config)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    loaded = ended.stdout.split()
    assert "corral.supervisor.composition" in loaded
    rooms = tuple(f"corral.supervisor.{room}" for room in ROOMS)
    assert [name for name in loaded if name.startswith((*rooms, "nats", "redis"))] == []
    with DaemonProcess(tmp_path, ECHO) as here, pytest.raises(NotFound) as alone:
        here.call("node.list")
    assert alone.value.data["key"] == "cluster"
