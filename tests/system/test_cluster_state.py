"""Sessions and checkpoints of a placed agent go with it to another node, and a node that was replaced writes none."""

from pathlib import Path

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
