"""Sessions and checkpoints of a placed agent go with it to another node, and a node that was replaced writes none."""

from pathlib import Path

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell


def count(node: DaemonProcess) -> object:
    """Returns the number of turns that a session has counted, with this one."""
    done = node.call("task.run", agent="single", objective="count", session="talk")
    assert done["state"] == "succeeded"
    return done["output"]["count"]


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_a_session_and_a_checkpoint_go_on_where_the_agent_starts_next(
    tmp_path: Path, kind: str
) -> None:
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
