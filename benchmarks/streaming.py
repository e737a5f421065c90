"""What does it cost that an agent streams: until a part is there, for the daemon, and for tasks that stream nothing?

An agent streams texts of 100 bytes that begin with the time; the reader is a client on the socket, and the latency is the time
until it has decoded the part. Alone means one part at a time, after a silence: nothing is gathered. Beside it, the same text over a
plain pipe from a child in Python, the least that a part can take, and a `daemon.ping`, there and back.

A flood is one part a millisecond (what the machine makes of it is a row) with ten readers or none; each reader takes part
in turn what has come. The processor time of the daemon is counted beside the clock. Last, 1,000 short tasks that stream
nothing, with callers that ask for parts and without.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Measure

from corral.worker.client.async_ import Connection, Stream

READERS = 10

WHOLE = {"rounds": 5, "alone": 200, "flood": 3_000, "short": 300}
QUICK = {"rounds": 2, "alone": 20, "flood": 200, "short": 30}

AGENT = """
import asyncio, time
from corral.worker import Agent
agent = Agent("teller")
@agent.task
async def run(task):
    count, pause_s = task.input
    if not count:
        return None
    began = time.monotonic()
    for number in range(count):
        await task.stream(f"{time.monotonic_ns():<100}")
        await asyncio.sleep(max(0.0, began + (number + 1) * pause_s - time.monotonic()))
    return time.monotonic() - began
"""

CONFIG = """
[agents.teller]
entrypoint = "teller:agent"
"""

PIPE = """
import sys, time
for line in sys.stdin:
    sys.stdout.write(f"{time.monotonic_ns():<100}\\n")
    sys.stdout.flush()
"""

MEASURES = [
    Measure("pipe_us", "a text over a plain pipe", "µs"),
    Measure("ping_us", "daemon.ping, there and back", "µs"),
    Measure("alone_us", "a part alone, from the handler to the reader", "µs", against="pipe_us"),
    Measure("flood_us", f"the oldest text of a message in a flood, to {READERS} readers", "µs"),
    Measure("flood_rate", "parts a second in that flood", "/s"),
    Measure("flood_messages", f"messages to {READERS} readers for a part of it", "each"),
    Measure("flood_cpu_us", f"processor time of the daemon for a part, {READERS} readers", "µs"),
    Measure("unread_cpu_us", "the same without any reader", "µs"),
    Measure("plain_us", "a task that streams nothing, whose caller does not ask", "µs"),
    Measure("asked_us", "the same, whose caller asks for parts", "µs", against="plain_us"),
]

Found = dict[str, list[float]]


async def _alone(path: str, count: int) -> Found:
    latencies: list[float] = []
    stream = await Stream.open(path)
    params = {"agent": "teller", "objective": "tell", "input": [count, 0.02], "stream": True}
    asking = asyncio.ensure_future(_closing(stream.connection, params))
    try:
        async for notification in stream:
            if notification.method == "task.part":
                latencies.append(_age_us(notification.params))
    except Exception:
        await asking
    return {"alone_us": latencies[1:]}


async def _closing(connection: Connection, params: Mapping[str, object]) -> Any:  # a record
    try:
        return await connection.call("task.run", params)
    finally:
        await connection.close()


def _age_us(params: Mapping[str, Any]) -> float:
    return (time.monotonic_ns() - int(params["part"][:99])) / 1e3


async def _flood(path: str, pid: int, count: int, readers: int) -> Found:
    connection = await Connection.open(path)
    asked = {"agent": "teller", "objective": "tell", "input": [count, 0.001]}
    latencies: list[float] = []
    used_s = _processor_s(pid)
    task: Any = await connection.call("task.submit", asked)

    async def read() -> None:
        stream = await Stream.open(path)
        waiting = asyncio.ensure_future(_wait(stream.connection, task["id"]))
        try:
            async for notification in stream:
                if notification.method == "task.part":
                    latencies.append(_age_us(notification.params))
        except Exception:
            await waiting

    await asyncio.gather(*(read() for _ in range(readers)))
    record: Any = await connection.call("task.wait", {"task": task["id"]})
    used_us = (_processor_s(pid) - used_s) * 1e6 / count
    await connection.close()
    if not readers:
        return {"unread_cpu_us": [used_us]}
    return {
        "flood_us": latencies,
        "flood_rate": [count / record["output"]],
        "flood_messages": [len(latencies) / count],
        "flood_cpu_us": [used_us],
    }


def _processor_s(pid: int) -> float:
    """Returns the processor time of a process' main thread, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _wait(connection: Connection, task: str) -> None:
    try:
        await connection.call("task.wait", {"task": task, "stream": True})
    finally:
        await connection.close()


async def _short(path: str, count: int, *, is_asked: bool) -> Found:
    connection = await Connection.open(path)
    params = {"agent": "teller", "objective": "tell", "input": [0, 0], "durable": False}
    if is_asked:
        params["stream"] = True
    took_us: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await connection.call("task.run", params)
        took_us.append((time.perf_counter() - began) * 1e6)
    await connection.close()
    return {"asked_us" if is_asked else "plain_us": took_us}


async def _ping(path: str, count: int) -> Found:
    connection = await Connection.open(path)
    took_us: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await connection.call("daemon.ping")
        took_us.append((time.perf_counter() - began) * 1e6)
    await connection.close()
    return {"ping_us": took_us}


def _pipe(count: int) -> Found:
    took_us: list[float] = []
    with subprocess.Popen([*bench.PYTHON, "-c", PIPE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None, "asked for"
        assert child.stdout is not None, "asked for"
        for _ in range(count + 1):
            child.stdin.write(b"\n")
            child.stdin.flush()
            stamp = int(os.read(child.stdout.fileno(), 4096))
            took_us.append((time.monotonic_ns() - stamp) / 1e3)
        child.stdin.close()
    return {"pipe_us": took_us[1:]}


def main() -> None:
    """Measures, and reports."""
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    with bench.folder() as folder:
        (folder / "teller.py").write_text(AGENT)
        with bench.Daemon(folder, CONFIG) as daemon:
            daemon.await_ready()
            path, pid = daemon.socket, daemon.process.pid
            parts = [
                lambda: _pipe(size["alone"]),
                lambda: asyncio.run(_ping(path, size["alone"])),
                lambda: asyncio.run(_alone(path, size["alone"])),
                lambda: asyncio.run(_flood(path, pid, size["flood"], READERS)),
                lambda: asyncio.run(_flood(path, pid, size["flood"], 0)),
                lambda: asyncio.run(_short(path, size["short"], is_asked=False)),
                lambda: asyncio.run(_short(path, size["short"], is_asked=True)),
            ]
            rounds = bench.interleaved(size["rounds"], parts)
    bench.report("streaming", MEASURES, rounds, machine, options)


if __name__ == "__main__":
    main()
