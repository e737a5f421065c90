"""How much does the flood of one tenant slow the tasks of another?

Tenant b sends a short task each 20 ms from a process of its own, and measures until it has the end. Meanwhile tenant a floods from other
processes: tasks (200 submissions in flight), tasks to an agent that does not exist, connections that
send one call and close, lines of log, published events, and tool calls of 20 tasks at once. Each flood takes turns with the same without
any, and the ratio is of the p99 of a round: no more than 2 is aimed at.

The flooding processes and the agents of a have the least priority of the scheduler (nice 19), so that the figures are of the daemon's
own queues and not of a lack of processors.

Two rows are floors, without corral: b's task is then a message to a program that writes and syncs a file, asks another program,
syncs again and answers; beside it as many processes of least priority as a flood has are busy, or one of them writes a file without end.

`--only` measures some of the floods. With `--limited` tenant a has limits as an operator would give them: 600 tasks a minute, and a queue of 100.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Measure

from corral.worker.client.async_ import Connection
from corral.worker.contract.errors import CorralError

PERIOD_S = 0.02
"""Seconds from the begin of one task of b to the next."""

WARM_UP_S = 0.3
"""Seconds that a flood has before b is measured."""

FLOODERS = 1
"""Number of processes that flood from outside."""

IN_FLIGHT = 200
"""Number of calls that one of them has open at most."""

WHOLE = {"rounds": 3, "tasks": 150}
QUICK = {"rounds": 1, "tasks": 50}

AGENT = """
import asyncio
from corral.worker import Agent, CorralError
agent = Agent("short")
@agent.task
async def run(task):
    if task.objective == "logs":
        while True:
            for _ in range(100):
                print("x" * 200)
            await asyncio.sleep(0)
    if task.objective == "events":
        while True:
            try:
                await task.publish("flood.event", {"data": "x" * 200})
            except CorralError:
                await asyncio.sleep(0.01)
    if task.objective == "calls":
        while True:
            try:
                await task.tool("state__get")
            except CorralError:
                await asyncio.sleep(0.01)
"""

SERVER = """
import json, sys
TOOL = {"name": "get", "description": "Returns nothing.", "inputSchema": {"type": "object"}}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, result = asked["method"], {}
    if method == "initialize":
        info = {"name": "state", "version": "1"}
        version = asked["params"]["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": [TOOL]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": "1"}]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""

RELAY = """
import os, subprocess, sys
answer = "import sys\\nfor line in sys.stdin: print(line, end='', flush=True)"
worker = subprocess.Popen([sys.executable, "-c", answer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
journal = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin.buffer:
    os.write(journal, bytes(4096))
    os.fdatasync(journal)
    worker.stdin.write(line)
    worker.stdin.flush()
    worker.stdout.readline()
    os.write(journal, bytes(4096))
    os.fdatasync(journal)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
worker.stdin.close()
worker.wait()
"""
"""Does for a task what no daemon could leave out: two commits, and a message to a worker and back."""

BUSY = """
import os, sys
os.nice(19)
while True:
    if len(sys.argv) > 1:
        with open(sys.argv[1], "wb") as file:
            for _ in range(1000):
                file.write(b"x" * 65536)
"""

BUSY_COUNT = 3
"""Number of busy processes of a floor: as many as those of a flood of tasks."""

CONFIG = """
[process]
working_directory = "FOLDER"
[resources]
max_task_duration = "1h"
max_tool_calls_per_task = 1000000
[tenants.a]
LIMITS
[tenants.b]
[agents."b/short"]
entrypoint = "short:agent"
[agents."a/short"]
entrypoint = "short:agent"
instances = 2
[agents."a/short".process]
nice = 19
[agents."a/loud"]
entrypoint = "short:agent"
[agents."a/loud".process]
nice = 19
[agents."a/loud".resources]
max_concurrent_requests = 20
[mcp.servers."a/state"]
command = ["PYTHON", "server.py"]
"""

LIMITS = "max_tasks_per_minute = 600\nmax_queue_size = 100"

Flood = Callable[[str, Event], None]


def _flood(flood: Flood, path: str, stop: Event) -> None:
    os.nice(19)
    flood(path, stop)


async def _bound(path: str, tenant: str) -> Connection:
    """Returns a connection of a tenant."""
    connection = await Connection.open(path)
    await connection.call("auth.login", {"tenant": tenant})
    return connection


async def _repeat(path: str, stop: Event, method: str, params: dict[str, object]) -> None:
    """Keeps IN_FLIGHT calls open; errors are answers, too."""
    connection = await _bound(path, "a")

    async def one() -> None:
        while not stop.is_set():
            with contextlib.suppress(CorralError):
                await connection.call(method, params)

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    await connection.close()


def _tasks(path: str, stop: Event) -> None:
    params: dict[str, object] = {"agent": "a/short", "objective": "nothing", "input": "x" * 1000}
    asyncio.run(_repeat(path, stop, "task.submit", params))


def _failed(path: str, stop: Event) -> None:
    params: dict[str, object] = {"agent": "a/nobody", "objective": "nothing"}
    asyncio.run(_repeat(path, stop, "task.submit", params))


def _connections(path: str, stop: Event) -> None:
    async def one() -> None:
        while not stop.is_set():
            connection = await _bound(path, "a")
            await connection.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(10)))

    asyncio.run(all_of_them())


OUTSIDE: dict[str, Flood] = {"tasks": _tasks, "failed": _failed, "connections": _connections}
"""Floods from other processes, by name."""

INSIDE = {"logs": 1, "events": 1, "calls": 20}
"""Number of tasks of a's own agent that flood, by name."""

WORDS = {
    "tasks": "tasks",
    "failed": "tasks for nobody",
    "connections": "connections",
    "logs": "lines of log",
    "events": "published events",
    "calls": "tool calls",
}

FLOORS = {
    "processors": "busy processes, without corral",
    "disk": "busy processes, and one that writes a file, without corral",
}


def _measures() -> list[Measure]:
    found: list[Measure] = []
    for kind, words in WORDS.items():
        found += [
            Measure(f"{kind}_quiet_p50", f"b's task, p50, before a's flood of {words}", "ms"),
            Measure(f"{kind}_p50", "the same during the flood", "ms", against=f"{kind}_quiet_p50"),
            Measure(f"{kind}_quiet_p99", f"b's task, p99, before a's flood of {words}", "ms"),
            Measure(f"{kind}_p99", "the same during the flood", "ms", against=f"{kind}_quiet_p99"),
        ]
    for kind, words in FLOORS.items():
        found += [
            Measure(f"{kind}_quiet_p99", f"a message that is synced twice, p99, before {words}", "ms"),
            Measure(f"{kind}_p99", "the same beside them", "ms", against=f"{kind}_quiet_p99"),
        ]
    return found


async def _latencies_ms(path: str, count: int) -> list[float]:
    """Returns the duration of each task of b; one that takes longer than the period delays no other."""
    connection = await _bound(path, "b")
    took_ms: list[float] = []

    async def one() -> None:
        began = time.perf_counter()
        await connection.call("task.run", {"agent": "b/short", "objective": "nothing"})
        took_ms.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number * PERIOD_S - time.perf_counter()))
            group.create_task(one())
    await connection.close()
    return sorted(took_ms)


def _percentiles(name: str, took_ms: list[float]) -> dict[str, list[float]]:
    last = len(took_ms) - 1
    return {f"{name}_p50": [took_ms[last // 2]], f"{name}_p99": [took_ms[int(last * 0.99)]]}


async def _inside(path: str, kind: str, count: int) -> list[float]:
    connection = await Connection.open(path)
    flood = {"agent": "a/loud", "objective": kind, "durable": False}
    asked = [await connection.call("task.submit", flood) for _ in range(INSIDE[kind])]
    await asyncio.sleep(WARM_UP_S)
    took_ms = await _latencies_ms(path, count)
    for task in asked:
        record: Any = task
        await connection.call("task.cancel", {"task": record["id"]})
    await connection.close()
    return took_ms


def _outside(path: str, flood: Flood, count: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    flooders = [context.Process(target=_flood, args=(flood, path, stop)) for _ in range(FLOODERS)]
    for flooder in flooders:
        flooder.start()
    try:
        asyncio.run(asyncio.sleep(WARM_UP_S))
        return asyncio.run(_latencies_ms(path, count))
    finally:
        stop.set()
        for flooder in flooders:
            flooder.join(bench.BOUND_S)
        asyncio.run(_emptied(path))


async def _emptied(path: str) -> None:
    """Ends what still waits, so that the next measure begins with an empty queue."""
    connection = await Connection.open(path)
    while True:
        found: Any = await connection.call("task.list", {"states": ["queued"], "limit": 500})
        if not found["tasks"]:
            break
        for task in found["tasks"]:
            await connection.call("task.cancel", {"task": task["id"]})
    await connection.close()


def _one(path: str, kind: str, count: int) -> dict[str, list[float]]:
    quiet = asyncio.run(_latencies_ms(path, count))
    flooded = _outside(path, OUTSIDE[kind], count) if kind in OUTSIDE else asyncio.run(_inside(path, kind, count))
    return {**_percentiles(f"{kind}_quiet", quiet), **_percentiles(kind, flooded)}


def _relayed_ms(folder: Path, count: int) -> list[float]:
    """Returns the duration of each message through RELAY, one each PERIOD_S."""
    relay = subprocess.Popen(
        [*bench.PYTHON, "-c", RELAY, folder / "journal"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    took_ms: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        relay.stdin.write(b"nothing\n")
        relay.stdin.flush()
        relay.stdout.readline()
        took_ms.append((time.perf_counter() - began) * 1e3)
        time.sleep(max(0.0, PERIOD_S - (time.perf_counter() - began)))
    relay.stdin.close()
    relay.wait()
    relay.stdout.close()
    return sorted(took_ms)


def _floor(folder: Path, kind: str, count: int) -> dict[str, list[float]]:
    quiet = _relayed_ms(folder, count)
    writes = [[folder / "log"] if kind == "disk" else [], *([[]] * (BUSY_COUNT - 1))]
    busy = [subprocess.Popen([*bench.PYTHON, "-c", BUSY, *each]) for each in writes]
    try:
        time.sleep(WARM_UP_S)
        beside = _relayed_ms(folder, count)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    found = {**_percentiles(f"{kind}_quiet", quiet), **_percentiles(kind, beside)}
    return {name: values for name, values in found.items() if name.endswith("p99")}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limited", action="store_true", help="limit tenant a")
    every = [*WORDS, *FLOORS]
    parser.add_argument("--only", action="append", choices=every, help="a flood, or a floor")
    parser.add_argument("--rounds", type=int, default=0, help="number of rounds")


def main() -> None:
    """Measures, and reports."""
    options = bench.arguments(__doc__ or "", _add_options)
    size = QUICK if options.quick else WHOLE
    wanted = options.only or [*WORDS, *FLOORS]
    machine = bench.Machine()
    with bench.folder() as folder:
        folder.chmod(0o755)  # tenants have users of their own
        (folder / "short.py").write_text(AGENT)
        (folder / "server.py").write_text(SERVER)
        config = CONFIG.replace("LIMITS", LIMITS if options.limited else "")
        config = config.replace("PYTHON", bench.PYTHON[0]).replace("FOLDER", str(folder))
        with bench.Daemon(folder, config) as daemon:
            daemon.await_ready()
            path = daemon.socket
            parts = [lambda kind=kind: _one(path, kind, size["tasks"]) for kind in WORDS if kind in wanted]
            parts += [lambda kind=kind: _floor(folder, kind, size["tasks"]) for kind in FLOORS if kind in wanted]
            rounds = bench.interleaved(options.rounds or size["rounds"], parts)
    measures = [each for each in _measures() if each.name.split("_")[0] in wanted]
    bench.report("flood", measures, rounds, machine, options)


if __name__ == "__main__":
    main()
