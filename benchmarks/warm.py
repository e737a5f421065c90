"""What is a worker worth that is forked, not started?

Agents of real frameworks, with fake models, as in the tests: each of them cold (an interpreter that imports everything, for each
worker) and warm (a fork of the one process that has imported it). Times are those of a caller of the daemon: from the call, or
the kill, until it is told that the worker is Ready. Memory is the sum of the PSS of all workers, and of the zygote, after a
task on each.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure, memory_mb

from corral.worker.client.sync import Client

AGENTS = bench.ROOT / "tests" / "support" / "programs"

FRAMEWORKS, FRAMEWORKS_QUICK = ("pydantic_ai", "langgraph", "mcp"), ("none",)
PRELOAD = {"mcp": ["jsonschema", "anyio._backends._asyncio"]}
"""What a framework imports at its first use only: in the zygote it is there once, in each fork it would be a copy of its own."""
ROUNDS, ROUNDS_QUICK = 5, 1
STARTS, STARTS_QUICK = 20, 2
"""Forks, spares and kills of one round; cold starts are a fifth of that."""
WIDE, WIDE_QUICK = 8, 2
MANY, MANY_QUICK = 50, 2
"""Workers whose memory is looked at."""
TASKS_AT_ONCE = 8

Found = dict[str, list[float]]


def agent(name: str, framework: str, instances: int, more: str = "") -> str:
    """The table of one agent."""
    return f"""
[agents.{name}]
entrypoint = "framework_{framework}:agent"
autostart = false
instances = {instances}
process.working_directory = "{AGENTS}"
{more}
"""


def config(frameworks: tuple[str, ...], wide: int, many: int) -> str:
    """Of each framework: one worker beside one that keeps the zygote, one with a spare, some at once, and many; cold, too."""
    tables = """
[process]
max_concurrent_processes = 1000
spawn_timeout = "300s"
[recovery]
restart_backoff_base = 0
max_restart_attempts = 1000
"""
    for each in frameworks:
        preload = f"preload = {json.dumps(PRELOAD.get(each, []))}\n"
        tables += agent(f"{each}_fork", each, 2, preload)
        tables += agent(f"{each}_spare", each, 2, preload + "min_spare = 1")
        tables += agent(f"{each}_wide", each, wide + 1, preload)
        tables += agent(f"{each}_many", each, many, preload)
        tables += agent(f"{each}_cold", each, max(wide, many), "warm = false")
    return tables


class Farm:
    """The daemon, as the measures use it."""

    def __init__(self, daemon: Daemon) -> None:
        self._client = Client(daemon.socket)
        self._socket = daemon.socket

    def call(self, method: str, **params: object) -> Any:  # Any: JSON
        """The result of a method."""
        return self._client.call(method, params, timeout_s=5 * BOUND_S)

    def start_ms(self, *names: str) -> float:
        """Until all of these workers are Ready."""
        began = time.perf_counter()
        self.call("agent.start", names=list(names))
        return (time.perf_counter() - began) * 1000

    def stop(self, *names: str) -> None:
        """Until nothing of them is left."""
        self.call("agent.stop", names=list(names))

    def status(self, name: str) -> Any:  # Any: JSON
        """An agent's status."""
        return self.call("daemon.status", names=[name])["agents"][0]

    def await_spare(self, name: str) -> None:
        """Until a worker is there that nobody has asked for yet."""
        end = time.monotonic() + BOUND_S
        while not self.status(name)["warm"]["spares"]:
            assert time.monotonic() < end, "no spare comes"
            time.sleep(0.002)
        time.sleep(0.05)  # it is forked; now it is initialised, too

    def killed_ms(self, worker: str) -> float:
        """From a kill -9 until the next life is Ready."""
        name, _, number = worker.rpartition("-")
        pid = self.status(name)["workers"][int(number)]["pid"]
        with Client(self._socket) as client:
            client.call("event.follow", {"types": ["worker.state"]}, timeout_s=BOUND_S)
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            for told in client.notifications():
                events: Any = told.params["events"]
                if any(e["worker"] == worker and e["to"] == "Ready" for e in events):
                    return (time.perf_counter() - began) * 1000
        raise AssertionError("the stream of events does not end")

    def run_on_each(self, name: str, count: int) -> None:
        """A task on each worker: the longest rested is the next."""

        def run(_: int) -> None:
            with Client(self._socket) as client:
                params = {"agent": name, "objective": "How many live in Vienna?"}
                task: Any = client.call("task.run", params, timeout_s=5 * BOUND_S)
                assert task["state"] == "succeeded", task["error"]

        with ThreadPoolExecutor(TASKS_AT_ONCE) as pool:
            list(pool.map(run, range(count)))

    def pss_mb(self, name: str) -> float:
        """Of all workers of an agent, and of its zygote."""
        found = self.status(name)
        pids = [worker["pid"] for worker in found["workers"] if worker["pid"]]
        warm = found["warm"]
        if warm is not None and warm["pid"] is not None:
            pids.append(warm["pid"])
        return sum(memory_mb(pid)[1] for pid in pids)


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    quick = options.quick
    frameworks = FRAMEWORKS_QUICK if quick else FRAMEWORKS
    starts, wide = (STARTS_QUICK, WIDE_QUICK) if quick else (STARTS, WIDE)
    many = MANY_QUICK if quick else MANY
    with bench.folder() as folder, Daemon(folder / "farm", config(frameworks, wide, many)) as daemon:
        farm = Farm(daemon)
        parts: list[Callable[[], Found]] = []
        for each in frameworks:
            parts += _parts(farm, each, starts, wide)
        taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, parts)
        for each in frameworks:
            taken |= {name: [values] for name, values in _memory(farm, each, many).items()}
    bench.report("warm", _measures(frameworks, wide, many), taken, machine, options)


def _parts(farm: Farm, framework: str, starts: int, wide: int) -> list[Callable[[], Found]]:
    fork, spare, cold = (f"{framework}_{word}" for word in ("fork", "spare", "cold"))
    all_wide = f"{framework}_wide"

    def started(name: str, count: int, before: Callable[[], None] = lambda: None) -> list[float]:
        taken: list[float] = []
        for _ in range(count):
            before()
            taken.append(farm.start_ms(f"{name}-0"))
            farm.stop(f"{name}-0")
        return taken

    def forked() -> Found:
        first_ms = farm.start_ms(f"{fork}-1")
        warm = farm.status(fork)["warm"]
        assert warm["state"] == "warm", warm
        found = {
            f"{framework}_first": [first_ms],
            f"{framework}_load": [warm["load_s"] * 1000],
            f"{framework}_fork": started(fork, starts),
        }
        farm.start_ms(f"{fork}-0")
        found[f"{framework}_killed"] = [farm.killed_ms(f"{fork}-0") for _ in range(starts)]
        farm.stop(fork)
        return found

    def spared() -> Found:
        farm.start_ms(f"{spare}-1")
        taken = started(spare, starts, lambda: farm.await_spare(spare))
        farm.stop(spare)
        return {f"{framework}_spare": taken}

    def at_once() -> Found:
        farm.start_ms(f"{all_wide}-{wide}")
        taken = farm.start_ms(*(f"{all_wide}-{number}" for number in range(wide)))
        farm.stop(all_wide)
        return {f"{framework}_wide": [taken]}

    def cold_started() -> Found:
        found = {f"{framework}_cold": started(cold, max(1, starts // 5))}
        farm.start_ms(f"{cold}-0")
        found[f"{framework}_cold_killed"] = [farm.killed_ms(f"{cold}-0") for _ in range(max(1, starts // 5))]
        farm.stop(f"{cold}-0")
        taken = farm.start_ms(*(f"{cold}-{number}" for number in range(wide)))
        farm.stop(cold)
        return found | {f"{framework}_cold_wide": [taken]}

    return [forked, spared, at_once, cold_started]


def _memory(farm: Farm, framework: str, many: int) -> Found:
    found: Found = {}
    for word, row in (("many", "pss"), ("cold", "cold_pss")):
        name = f"{framework}_{word}"
        for number in range(0, many, TASKS_AT_ONCE):
            farm.start_ms(*(f"{name}-{n}" for n in range(number, min(many, number + TASKS_AT_ONCE))))
        farm.run_on_each(name, many)
        found[f"{framework}_{row}"] = [farm.pss_mb(name)]
        farm.stop(name)
    return found


def _measures(frameworks: tuple[str, ...], wide: int, many: int) -> list[Measure]:
    found: list[Measure] = []
    for each in frameworks:
        words = each.replace("_", "-")
        found += [
            Measure(f"{each}_fork", f"{words}: a fork until Ready", "ms"),
            Measure(f"{each}_cold", "a cold start", "ms", f"{each}_fork"),
            Measure(f"{each}_spare", "a spare that was forked ahead", "ms", f"{each}_fork"),
            Measure(f"{each}_load", "the zygote's imports", "ms"),
            Measure(f"{each}_first", "the first worker, with these", "ms", f"{each}_cold"),
            Measure(f"{each}_killed", "kill -9 until the next fork is Ready", "ms"),
            Measure(f"{each}_cold_killed", "the same, cold", "ms", f"{each}_killed"),
            Measure(f"{each}_wide", f"{wide} forks at once", "ms"),
            Measure(f"{each}_cold_wide", f"{wide} cold starts at once", "ms", f"{each}_wide"),
            Measure(f"{each}_cold_pss", f"PSS of {many} cold workers after a task each", "MB"),
            Measure(f"{each}_pss", "of as many forks and their zygote", "MB", f"{each}_cold_pss"),
        ]
    return found


if __name__ == "__main__":
    main()
