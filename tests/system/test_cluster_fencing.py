"""A node that was frozen beyond its lease, with its launcher, comes back: what its worker writes then is refused and counted, and changes nothing."""

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster_of_daemons import Cluster, cluster_of, home_of, placed
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell


def launcher_of(node: DaemonProcess) -> int:
    """Returns the process id of the launcher, the one child of a daemon."""
    (found,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return int(found)


@contextmanager
def frozen(*processes: int) -> Generator[None]:
    """Stops processes; lets those that are there go on at the end."""
    for each in processes:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            try:
                os.kill(each, signal.SIGCONT)
            except ProcessLookupError:
                continue


def late_worker(cluster: Cluster, folder: Path, *others: int) -> int:
    """Returns the process in which a task writes once it may, beside those that are known."""

    def found() -> list[int]:
        pids = {int(each.name.partition("-")[2]) for each in folder.glob("late-*")}
        return sorted(pids - set(others))

    return int(cluster.until(found)[0])


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_late_checkpoints_memory_steps_sessions_and_ends_are_refused_and_change_nothing(
    tmp_path: Path, kind: str
) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder)) as cluster:
        first = home_of(cluster)
        node = cluster.nodes.pop(first)
        other = next(iter(cluster.nodes.values()))
        task = other.call("task.submit", agent="single", objective="late", session="talk")
        old = late_worker(cluster, folder)
        launcher = launcher_of(node)
        with frozen(launcher):
            with frozen(node.pid):
                new = late_worker(cluster, folder, old)  # its lease is over, and the task is elsewhere
                assert (folder / f"late-{old}").exists()
                assert Path(f"/proc/{old}").exists()  # nobody was there to end it
                (folder / f"go-{new}").touch()
                assert other.call("task.wait", task=task["id"])["output"] == new
                (folder / f"go-{old}").touch()
            refused = cluster.until((folder / f"refused-{old}").exists) and (
                folder / f"refused-{old}"
            ).read_text().split("\n")
            assert refused == ["checkpoint Conflict", "memory Conflict", "step Conflict"]
            events = cluster.until(lambda: node.call("event.list", types=["task.late"])["events"])
            assert {each["agent"] for each in events} == {"single"}
        cluster.until(lambda: not Path(f"/proc/{old}").exists())
        assert (folder / f"refused-{new}").read_text() == ""
        ended = other.call("task.show", task=task["id"])
        assert (ended["state"], ended["output"]) == ("succeeded", new)
        run = {"agent": "single", "session": "talk"}
        assert other.call("task.run", objective="recall", input="by", **run)["output"] == new
        assert other.call("task.run", objective="variables", **run)["output"] == {"by": new}
        cluster.nodes[first] = node
        cluster.until(lambda: first in [each["name"] for each in other.call("node.list")["nodes"]])
        assert home_of(cluster) != first
