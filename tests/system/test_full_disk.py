"""A full disk is a lasting state with one alert, not an alarm that comes and goes."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Overloaded
from corral.worker.contract.jsonrpc import Notification
from daemon_process import BOUND_S, DaemonProcess
from small_disk import mounted

REFUSED_S = 4.0
"""Time for which the disk stays full: an alarm that comes and goes does so every second."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "32m")


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    with path.open("wb", buffering=0) as ballast:
        for size in (65_536, 4_096, 1):
            with contextlib.suppress(OSError):
                while ballast.write(b"x" * size):
                    pass


def events(notification: Notification) -> list[str]:
    told: Any = notification.params["events"]
    return [each["type"] for each in told]


@pytest.mark.long
def test_a_full_disk_shows_in_the_status_all_the_time_and_alerts_once(small_disk: Path) -> None:
    program = "import time\nwhile True: print('x' * 2000, flush=True); time.sleep(0.05)"
    config = f"""
[agents.noisy]
command = ["python3", "-c", {program!r}]
protocol = "none"
"""
    daemon = DaemonProcess(small_disk, config)
    try:
        with daemon.client() as client:
            client.call("event.follow", {"types": ["daemon.*"]}, timeout_s=BOUND_S)
            changes = client.notifications()
            fill(small_disk / "ballast")
            told: list[str] = []
            seen: list[list[str]] = []
            number = 0
            while "daemon.degraded" not in told:
                daemon.call("event.publish", type="fills.disk", data="x" * 20_000)
                number += 1
                assert number < 500, "it is not said at all"
                degraded = daemon.call("daemon.status")["daemon"]["degraded"]
                if "store" in degraded:
                    told += events(next(changes))
            until = time.monotonic() + REFUSED_S
            while time.monotonic() < until:  # some are stored after all, others are refused
                with contextlib.suppress(Overloaded):  # more than 1,000 in a second
                    size = 1 + number % 3 * 9_000
                    daemon.call("event.publish", type="fills.disk", data="x" * size)
                number += 1
                seen.append(daemon.call("daemon.status")["daemon"]["degraded"])
            assert [each for each in seen if "store" not in each] == []
            (small_disk / "ballast").unlink()
            while "daemon.recovered" not in told:
                told += events(next(changes))
            assert told == ["daemon.degraded", "daemon.recovered"]
            status = daemon.call("daemon.status")["daemon"]
            assert "store" not in status["degraded"]
    finally:
        daemon.stop()
