"""Limits that real programs hit: what happens to them, and that nobody else notices."""

import sys
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess

HOG = AGENTS / "hog.py"


def program(name: str, *arguments: str, more: str = "") -> str:
    words = ", ".join(f'"{word}"' for word in (sys.executable, str(HOG), *arguments))
    return (
        f"[agents.{name}]\nprotocol = \"none\"\ncommand = [{words}]\nautostart = false\n"
        f'resources.max_memory_bytes = "100MiB"\nrecovery.restart = "never"\n{more}\n'
    )  # fmt: skip


@pytest.mark.parametrize("where", ["self", "child"])
def test_a_tree_that_takes_more_memory_than_it_may_is_killed_as_oom(
    tmp_path: Path, where: str
) -> None:
    config = program("hog", where, "300") + program("neighbour", "self", "10")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["neighbour"])
        before = daemon.worker("neighbour-0")
        daemon.call("agent.start", names=["hog"], wait=False)
        hog = daemon.await_worker("hog-0", lambda w: w["state"] == "Terminated")
        assert hog["last_exit"]["result"] == "oom"
        (event,) = daemon.call("event.list", types=["limit.memory"])["events"]
        assert event["used"] > event["limit"] == 100 * 1024 * 1024
        after = daemon.worker("neighbour-0")
        assert (after["pid"], after["state"]) == (before["pid"], "Ready")


def test_workers_that_share_their_pages_are_not_taken_for_hogs(tmp_path: Path) -> None:
    config = program("family", "shared", "60", "5") + program("hog", "self", "300")
    with DaemonProcess(tmp_path, config) as daemon:
        with daemon.client() as client:
            client.call("log.follow", {"names": ["family"]}, timeout_s=BOUND_S)
            daemon.call("agent.start", names=["family"])
            seen = 0
            for notification in client.notifications():
                records: Any = notification.params["records"]
                seen += len(records)
                if seen >= 6:
                    break
        assert daemon.worker("family-0")["rss_bytes"] > 6 * 60 * 1024 * 1024
        daemon.call("agent.start", names=["hog"], wait=False)
        # By the time that a later hog has been found, the family was looked at too.
        daemon.await_worker("hog-0", lambda w: w["state"] == "Terminated")
        assert daemon.worker("family-0")["state"] == "Ready"
