"""What do a thousand tenants cost, each with one agent that hibernates?

Tenants are added at run time, each with one agent of the SDK. Each is started once, does a task and hibernates. Then come the memory of the
daemon, the time of its status, the start of one agent by a task, and the removal of one tenant with all that there is of it.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure, memory_mb

from corral.worker.client.sync import Client

AGENTS = bench.ROOT / "tests" / "support" / "programs"
MANY, MANY_QUICK = 1000, 5
ROUNDS, ROUNDS_QUICK = 9, 1
TIMES, TIMES_QUICK = 5, 1
"""Measurements of one kind in a round."""
REMOVED, REMOVED_QUICK = 3, 1
"""Tenants that are removed in a round."""
AT_ONCE = 10
"""Agents that are up at a time while they are filled."""

CONFIG = "[process]\nmax_concurrent_processes = 2000\n[tasks]\nmax_total_queue_size = 100000\n"

Found = dict[str, list[float]]


class Town:
    """The daemon with its tenants, as the measures use it."""

    def __init__(self, daemon: Daemon, many: int) -> None:
        self._daemon = daemon
        self._client = Client(daemon.socket)
        self.names = [f"t{number}" for number in range(many)]

    def call(self, method: str, **params: object) -> Any:  # Any: JSON
        """The result of a method."""
        return self._client.call(method, params, timeout_s=5 * BOUND_S)

    def memory(self) -> float:
        """PSS of the daemon in MB."""
        return memory_mb(self._daemon.process.pid)[1]

    def fill(self) -> float:
        """Adds all, has each do a task and hibernate; the seconds that it took."""
        began = time.perf_counter()
        for first in range(0, len(self.names), AT_ONCE):
            some = self.names[first : first + AT_ONCE]
            for name in some:
                self.call("tenant.add", name=name, spec={"max_agents": 3})
            spec = {"entrypoint": "live_agent:agent", "autostart": False, "process": {"working_directory": str(AGENTS)}}
            tables = [{"name": f"{name}/a", "spec": spec} for name in some]
            self.call("agent.add_all", agents=tables, start=False)
            self.call("agent.start", names=[f"{name}/a" for name in some])
            self.call("agent.hibernate", names=[f"{name}/a" for name in some])
        return time.perf_counter() - began

    def timed_ms(self, method: str, **params: object) -> float:
        """One call."""
        began = time.perf_counter()
        self.call(method, **params)
        return (time.perf_counter() - began) * 1000


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    quick = options.quick
    many, times = (MANY_QUICK, TIMES_QUICK) if quick else (MANY, TIMES)
    rounds, removed = (ROUNDS_QUICK, REMOVED_QUICK) if quick else (ROUNDS, REMOVED)
    with bench.folder() as folder, Daemon(folder / "town", CONFIG) as daemon:
        town = Town(daemon, many + rounds * removed)
        empty = town.memory()
        took = town.fill()
        parts = [_part(town, times, removed)]
        taken = bench.interleaved(rounds, parts)
        taken["empty"] = [[empty]]
        taken["fill"] = [[took * 1000 / len(town.names)]]
    bench.report("tenants", _measures(many), taken, machine, options)


def _part(town: Town, times: int, removed: int) -> Callable[[], Found]:
    def measured() -> Found:
        found: Found = {"memory": [town.memory()], "start": []}
        found["status"] = [town.timed_ms("daemon.status") for _ in range(times)]
        found["list"] = [town.timed_ms("tenant.list") for _ in range(times)]
        for name in town.names[:times]:
            found["start"].append(town.timed_ms("agent.wake", names=[f"{name}/a"]))
            town.call("agent.hibernate", names=[f"{name}/a"])
        gone = [town.names.pop() for _ in range(removed)]
        found["remove"] = [town.timed_ms("tenant.rm", name=name) for name in gone]
        return found

    return measured


def _measures(many: int) -> list[Measure]:
    return [
        Measure("empty", "PSS of the daemon without tenants", "MB"),
        Measure("memory", f"PSS of the daemon with {many:,} tenants, one hibernated agent each", "MB"),
        Measure("fill", "a tenant added, its agent added, started and hibernated", "ms"),
        Measure("status", "the status of all agents", "ms"),
        Measure("list", "the list of all tenants", "ms"),
        Measure("start", "one agent woken until it is Ready, cold", "ms"),
        Measure("remove", "one tenant removed with all that there is of it", "ms"),
    ]


if __name__ == "__main__":
    main()
