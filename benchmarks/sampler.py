"""What does it cost to watch workers, and how well are their limits held?

The daemon's processor time with 100 idle workers, watched and not; how far a tree that takes memory as
fast as it can gets beyond max_memory_bytes; and what share of a processor a busy tree has that is held
back by freezing.
"""

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, PYTHON, Daemon, Measure

ROUNDS, ROUNDS_QUICK = 5, 1
HOGS, HOGS_QUICK = 4, 1
"""Hogs for each limit in each round."""
WATCH_S, WATCH_QUICK_S = 10.0, 1.0
"""How long processor time is measured."""
SHARE_S, SHARE_QUICK_S = 5.0, 0.5
SETTLE_S = 6.0
"""A daemon that has just started has more to do, and young workers are looked at more often."""
SETTLE_QUICK_S = 0.1

MIB = 1024 * 1024

WORKERS = 100
LIMITS_MIB = (256, 2048)
SHARES_PERCENT = (5, 20, 50, 80)

HOG = """
import mmap, struct, sys, time
with open(sys.argv[1], "r+b") as file:
    told = mmap.mmap(file.fileno(), 16)
taken, began = [], time.perf_counter()
while len(taken) < int(sys.argv[2]):
    block = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block[:: mmap.PAGESIZE] = bytes((1 << 20) // mmap.PAGESIZE)
    taken.append(block)
    struct.pack_into("qd", told, 0, len(taken), time.perf_counter() - began)
time.sleep(600)
"""
"""Touches new pages as fast as Python can, and tells in a file how many MiB, in how many seconds."""

MEASURES = [
    Measure("cpu_unwatched", f"processor time, {WORKERS} idle workers, nothing watched", "%"),
    Measure("cpu_watched", "the same with the defaults: watched, 2 GiB each", "%", "cpu_unwatched"),
    Measure("cpu_throttled", "the same, each with a cpu_limit_percent", "%", "cpu_unwatched"),
    Measure("hog_rate", "memory that the hog takes, alone", "GB/s"),
    *(
        Measure(f"taken_{limit}", f"memory that it took when held to {limit * MIB / 1e6:.0f} MB", "MB")
        for limit in LIMITS_MIB
    ),
    *(Measure(f"share_{limit}", f"share of a busy tree, held to {limit} %", "%") for limit in SHARES_PERCENT),
]

Part = Callable[[], dict[str, list[float]]]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    quick: bool = options.quick
    with bench.folder() as folder:
        parts = [
            *_costs(folder, WATCH_QUICK_S if quick else WATCH_S, SETTLE_QUICK_S if quick else SETTLE_S),
            *_hogs(folder, HOGS_QUICK if quick else HOGS, LIMITS_MIB[:1] if quick else LIMITS_MIB),
            *_shares(folder, SHARE_QUICK_S if quick else SHARE_S, SHARES_PERCENT[:1] if quick else SHARES_PERCENT),
        ]
        taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, parts)
    measures = [measure for measure in MEASURES if measure.name in taken]
    bench.report("sampler", measures, taken, machine, options)


def _costs(folder: Path, watch_s: float, settle_s: float) -> list[Part]:
    """The processor time of a daemon with idle workers."""

    def cost(name: str, resources: str) -> Part:
        config = (
            f'[agents.idle]\ncommand = ["sleep", "1000000"]\nprotocol = "none"\n'
            f"instances = {WORKERS}\n[agents.idle.resources]\n{resources}\n"
        )

        def part() -> dict[str, list[float]]:
            with Daemon(folder / "cost", config) as daemon:
                daemon.await_ready()
                time.sleep(settle_s)
                return {name: [_percent([daemon.process.pid], watch_s)]}

        return part

    return [
        cost("cpu_unwatched", "max_memory_bytes = 0\nenable_resource_tracking = false"),
        cost("cpu_watched", ""),
        cost("cpu_throttled", "cpu_limit_percent = 50"),
    ]


def _percent(pids: list[int], seconds: float) -> float:
    """The share of one processor that processes have from now on."""
    began, before = time.perf_counter(), sum(map(_used_s, pids))
    time.sleep(seconds)
    return 100 * (sum(map(_used_s, pids)) - before) / (time.perf_counter() - began)


def _used_s(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


def _hogs(folder: Path, count: int, limits_mib: Sequence[int]) -> list[Part]:
    """How fast a hog is, and how far it gets."""
    told = folder / "told"
    told.write_bytes(bytes(16))
    hog = [*PYTHON, "-c", HOG, str(told)]

    def rate() -> dict[str, list[float]]:
        with subprocess.Popen([*hog, str(max(limits_mib))]) as process:
            while _told(told)[0] < max(limits_mib):
                time.sleep(0.01)
            process.kill()
        mib, seconds = _told(told)
        return {"hog_rate": [mib * MIB / 1e9 / seconds]}

    def over(limit_mib: int) -> Part:
        config = (
            f'[agents.hog]\ncommand = {json.dumps([*hog, "1000000"])}\nprotocol = "none"\n'
            f'autostart = false\nresources.max_memory_bytes = "{limit_mib}MiB"\n'
            'recovery.restart = "never"\n'
        )

        def part() -> dict[str, list[float]]:
            with Daemon(folder / "hog", config) as daemon:
                found = [_taken_mb(daemon, told) for _ in range(count)]
            return {f"taken_{limit_mib}": found}

        return part

    return [rate, *(over(limit) for limit in limits_mib)]


def _told(path: Path) -> tuple[int, float]:
    mib, seconds = struct.unpack("qd", path.read_bytes())
    return mib, seconds


def _taken_mb(daemon: Daemon, told: Path) -> float:
    """Starts a hog, and returns how many MB it had touched when it was dead, the interpreter not counted."""
    with Client(daemon.socket) as client:
        client.call("event.follow", {"types": ["worker.state"]}, timeout_s=BOUND_S)
        client.call("agent.start", {"names": ["hog"], "wait": False}, timeout_s=BOUND_S)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(event["to"] == "Terminated" for event in events):
                break
    return _told(told)[0] * MIB / 1e6


def _shares(folder: Path, seconds: float, limits: Sequence[int]) -> list[Part]:
    """What share of a processor a tree has that wants a whole one."""

    def share(limit: int) -> Part:
        command = json.dumps([*PYTHON, "-c", "while True: pass"])
        config = f'[agents.busy]\ncommand = {command}\nprotocol = "none"\nresources.cpu_limit_percent = {limit}\n'

        def part() -> dict[str, list[float]]:
            with Daemon(folder / "share", config) as daemon:
                daemon.await_ready()
                with Client(daemon.socket) as client:
                    status: Any = client.call("daemon.status", timeout_s=BOUND_S)
                pid = status["agents"][0]["workers"][0]["pid"]
                return {f"share_{limit}": [_percent([pid], seconds)]}

        return part

    return [share(limit) for limit in limits]


if __name__ == "__main__":
    main()
