"""What does a level of isolation cost?

Workers of one agent of the SDK, started cold, in each level: nothing (none), basic, strict with the network of the host, with none and
with the proxy, and in a container of each engine that runs here, whose image is this Python. Times are those of a caller of the daemon, from the call until it is told that the worker is Ready. Memory is the sum of the
PSS of each worker and of the processes that hold its sandbox or its container.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import bench
from bench import BOUND_S, Daemon, Measure, memory_mb

from container_images import python_rootfs, why_not
from corral.supervisor.machine.isolation import availability
from corral.worker.client.sync import Client

AGENTS = bench.ROOT / "tests" / "support" / "programs"

LEVELS = {
    "none": 'process.isolation = "none"',
    "basic": 'process.isolation = "basic"',
    "strict": 'process.isolation = "strict"',
    "offline": 'process.isolation = "strict"\nprocess.network = "none"',
    "proxied": 'process.isolation = "strict"\nprocess.network = "proxy"',
}
WORDS = {
    "none": "none",
    "basic": "basic",
    "strict": "strict",
    "offline": 'strict, network = "none"',
    "proxied": 'strict, network = "proxy"',
}
SANDBOXED = ("strict", "offline", "proxied")
"""Levels that need bubblewrap."""
ENGINES = ("runc", "podman")
"""Engines that run a folder as an image."""
ROUNDS, ROUNDS_QUICK = 9, 1
STARTS, STARTS_QUICK = 5, 1
"""Starts of one level in a round."""
MANY, MANY_QUICK = 10, 2
"""Workers whose memory is looked at, and that are started at once."""

Found = dict[str, list[float]]


def levels(image: Path, names: Sequence[str]) -> dict[str, str]:
    """The keys of each of these levels and engines."""
    contained = 'process.isolation = "container"\nprocess.image = "{}"\nprocess.runtime = "{}"'
    return {name: LEVELS.get(name) or contained.format(image, name) for name in names}


def config(many: int, keys_of: Mapping[str, str]) -> str:
    """One agent of each level."""
    return "[process]\nmax_concurrent_processes = 1000\n" + "".join(
        f'[agents.{name}]\nentrypoint = "framework_none:agent"\nwarm = false\nautostart = false\n'
        f'instances = {many}\nprocess.working_directory = "{AGENTS}"\n{keys}\n'
        for name, keys in keys_of.items()
    )


class Farm:
    """The daemon, as the measures use it."""

    def __init__(self, daemon: Daemon) -> None:
        self._client = Client(daemon.socket)

    def call(self, method: str, **params: object) -> Any:  # Any: JSON
        """The result of a method."""
        return self._client.call(method, params, timeout_s=5 * BOUND_S)

    def start_ms(self, *names: str) -> float:
        """Until all of these workers are Ready."""
        began = time.perf_counter()
        self.call("agent.start", names=list(names))
        return (time.perf_counter() - began) * 1000

    def pss_mb(self, name: str) -> float:
        """Of all workers of an agent, of the processes above them up to the launcher, and of all below."""
        status = self.call("daemon.status", names=[name])
        launcher = status["daemon"]["launcher_pid"]
        found = 0.0
        for worker in status["agents"][0]["workers"]:
            top = pid = worker["pid"]
            while pid != launcher:
                top = pid
                stat = Path(f"/proc/{pid}/stat").read_text()
                pid = int(stat.rpartition(")")[2].split()[1])
            found += sum(memory_mb(each)[1] for each in _tree(top))
        return found


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    quick = options.quick
    starts, many = (STARTS_QUICK, MANY_QUICK) if quick else (STARTS, MANY)
    sandbox = availability.tried(os.environ).problem
    reasons = {**dict.fromkeys(SANDBOXED, sandbox), **{each: why_not(each) for each in ENGINES}}
    given = [name for name in (*LEVELS, *ENGINES) if not reasons.get(name)]
    with bench.folder() as folder:
        folder.chmod(0o755)  # an image is read by the user of the agent
        image = python_rootfs(folder) if any(name in ENGINES for name in given) else folder
        keys_of = levels(image, given)
        with Daemon(folder / "farm", config(many, keys_of)) as daemon:
            farm = Farm(daemon)
            parts = [_part(farm, name, starts, many) for name in keys_of]
            taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, parts)
    notes = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    bench.report("isolation", _measures(many, given), taken, machine, options, notes)


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        below += map(int, (task / "children").read_text().split())
    return [pid, *(each for child in below for each in _tree(child))]


def _part(farm: Farm, name: str, starts: int, many: int) -> Callable[[], Found]:
    def measured() -> Found:
        taken: list[float] = []
        for _ in range(starts):
            taken.append(farm.start_ms(f"{name}-0"))
            farm.call("agent.stop", names=[name])
        workers = [f"{name}-{number}" for number in range(many)]
        found = {name: taken, f"{name}_wide": [farm.start_ms(*workers)]}
        found[f"{name}_pss"] = [farm.pss_mb(name) / many]
        farm.call("agent.stop", names=[name])
        return found

    return measured


def _measures(many: int, names: Sequence[str]) -> list[Measure]:
    words_of = {name: WORDS.get(name, f"container by {name}") for name in names}
    found: list[Measure] = []
    for suffix, what, unit in (
        ("", "a cold start until Ready", "ms"),
        ("_wide", f"{many} cold starts at once", "ms"),
        ("_pss", f"PSS of one of {many} workers, with its sandbox", "MB"),
    ):
        for name, words in words_of.items():
            against = None if name == "none" else f"none{suffix}"
            found.append(Measure(f"{name}{suffix}", f"{words}: {what}", unit, against))
    return found


if __name__ == "__main__":
    main()
