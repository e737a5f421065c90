"""How long does a ping take while a queue of 50,000 tasks ends: by an emergency stop, or with its agent?

Each way has a daemon of its own, in which one task runs and the others wait. A ping is a `daemon.ping` on a connection of its
own, every few milliseconds, from the request until it is answered and all ends are announced.
Alone: `python -P benchmarks/long_queue.py [--tasks N] [WAY…]`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon
from long_line import watched_daemon

WAYS: dict[str, tuple[str, dict[str, object]]] = {
    "emergency-stop": ("daemon.emergency_stop", {}),
    "removal": ("agent.rm", {"names": ["slow"]}),
}
"""Way -> the method, and its params."""

AGENT = """
import asyncio
from corral.worker import Agent

agent = Agent("slow")


@agent.task
async def run(task):
    await asyncio.Event().wait()
"""

CONFIG = """
[tasks]
max_queue_size = 1000000
max_total_queue_size = 1000000
"""


def measure(where: Path, method: str, params: dict[str, object], tasks: int) -> tuple[float, float]:
    """Returns the seconds until the method has answered, and the longest ping in ms."""
    where.mkdir()
    (where / "slow.py").write_text(AGENT)
    with Daemon(where, CONFIG) as daemon, Client(daemon.socket) as client:
        # Only an agent that was added at run time can be removed.
        process = {"working_directory": str(where), "shutdown_grace_period": "1s"}
        spec = {"entrypoint": "slow:agent", "process": process}
        client.call("agent.add", {"name": "slow", "spec": spec}, timeout_s=BOUND_S)
        for _ in range(tasks):
            client.call("task.submit", {"agent": "slow", "objective": "wait"}, timeout_s=BOUND_S)
        with watched_daemon(daemon) as watched:
            asked = time.perf_counter()
            client.call(method, params, timeout_s=4 * BOUND_S)
            took_s = time.perf_counter() - asked
            _await_empty(client)
    return took_s, max(watched.pings_s) * 1000


def _await_empty(client: Client) -> None:
    deadline = time.monotonic() + 4 * BOUND_S
    while True:
        status: Any = client.call("daemon.status", {}, timeout_s=BOUND_S)
        if status["tasks"]["queued"] == 0:
            return
        assert time.monotonic() < deadline, status["tasks"]
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("ways", nargs="*", default=[*WAYS])
    asked = parser.parse_args()
    for way in asked.ways:
        with bench.folder() as folder:
            took_s, ping_ms = measure(folder / way, *WAYS[way], asked.tasks)
        print(f"{way} of {asked.tasks} tasks: {took_s:.2f} s, longest ping {ping_ms:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
