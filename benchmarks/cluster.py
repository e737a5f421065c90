"""What does a cluster cost: an empty task on one, two and three nodes, a fail-over, three idle nodes, and a task that has nothing to do with it?

Real daemons and a real server on the loopback address; all of them share the processors of this machine, so three nodes are no faster than
one here. The agent has a replica on each node. A task is run by a client of the first node and waited for: one at a time, then many at once, over NATS
and over Redis; the processor time of the latter is that of the daemons with their launchers and workers, and of the server. "the
engine alone" appends, takes and settles a task by the client that a node uses, without any daemon. A local agent, which no cluster knows, is asked on a
daemon in a cluster and on one without. A fail-over is the time from the kill of the daemon that runs an agent until another node says that it is Ready.
Messages of NATS are those that any client publishes, seen by one that subscribes to all; of Redis, its commands.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure

from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.local_servers import LocalServers
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.client.async_ import Connection
from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError

Kind = Literal["nats", "redis"]

AGENT = """
from corral.worker import Agent
agent = Agent("empty")
@agent.task
async def run(task):
    pass
if __name__ == "__main__":
    agent.run()
"""

WHOLE = {"rounds": 5, "one": 60, "many": 600, "failovers": 4, "idle_s": 8, "agents": 10}
QUICK = {"rounds": 1, "one": 5, "many": 20, "failovers": 1, "idle_s": 1, "agents": 2}
AT_ONCE = 16
SLOTS = 16
SIZES = (1, 2, 3)
ENGINES: tuple[Kind, ...] = ("nats", "redis")
TITLES = {"nats": "NATS", "redis": "Redis"}
LEASE_S = 3

Found = dict[str, list[float]]


def config(node: str, servers: LocalServers | None, folder: Path, replicas: int, many: int) -> str:
    """Returns the configuration of a daemon that publishes `many` placed agents; without servers, of one without a cluster."""
    command = f'command = ["{sys.executable}", "-P", "{folder / "empty.py"}"]'
    wide = f"resources.max_concurrent_requests = {SLOTS}\ntasks.max_queue_size = 10000\n"
    text = f"[agents.local]\n{command}\n{wide}"
    if servers is None:
        return text
    text = f'[cluster]\nengine = "{servers.kind}"\nurl = "{servers.url}"\nnode = "{node}"\n{text}'
    placement = f'placement = {{ replicas = {replicas}, spread = "node" }}\n'
    names = ["placed", *(f"idle{number}" for number in range(many - 1))][:many]
    return text + "".join(f"[agents.{name}]\n{command}\n{placement}{wide}" for name in names)


class Nodes:
    """Holds one engine and some nodes with it."""

    def __init__(self, kind: Kind, count: int, folder: Path, stack: ExitStack, many: int = 1) -> None:
        folder.mkdir()
        (folder / "empty.py").write_text(AGENT)
        self.servers = stack.enter_context(LocalServers(kind, 1, folder / "engine"))
        self._folder, self._stack, self._many = folder, stack, many
        self._replicas = count if many == 1 else 1
        self.daemons: dict[str, Daemon] = {}
        self._publisher = f"node-{count - 1}"  # the last one: replicas spread over those that are there
        for number in range(count):
            self.start(f"node-{number}")
        self.until(self._is_placed)

    @property
    def first(self) -> str:
        """Returns the socket of the first node."""
        return self.daemons["node-0"].socket

    def used_us(self) -> dict[str, float]:
        """Returns the processor time of the first node, of the others, and of the server, in microseconds."""
        nodes = {name: _tree_s(daemon.process.pid) for name, daemon in self.daemons.items()}
        first = nodes.pop("node-0")
        server = bench.used_s(self.servers.processes[0].pid)
        found = {"first": first, "others": sum(nodes.values()), "server": server}
        return {key: 1e6 * value for key, value in found.items()}

    def start(self, name: str) -> None:
        """Starts a node."""
        many = self._many if name == self._publisher else 0
        text = config(name, self.servers, self._folder, self._replicas, many)
        self.daemons[name] = self._stack.enter_context(Daemon(self._folder / name, text))

    def until(self, is_so: Callable[[], object]) -> Any:
        """Returns what `is_so` returns once it is true."""
        end = time.monotonic() + BOUND_S
        while not (found := is_so()):
            assert time.monotonic() < end, "it never was so"
            time.sleep(0.005)
        return found

    def ready(self, without: str = "") -> dict[str, list[str]]:
        """Returns the placed agents that are Ready, with their nodes."""
        found: dict[str, list[str]] = {}
        for name, daemon in self.daemons.items():
            if name == without:
                continue
            with Client(daemon.socket) as client:
                status: Any = client.call("daemon.status", {"node": name}, timeout_s=BOUND_S)
            for agent in status["agents"]:
                if any(worker["state"] == "Ready" for worker in agent["workers"]):
                    found.setdefault(agent["name"], []).append(name)
        return found

    def _is_placed(self) -> bool:
        ready = self.ready()
        ready.pop("local", None)
        return len(ready) == self._many and sum(map(len, ready.values())) == self._many * self._replicas


# -- tasks


async def _timed(count: int, work: Callable[[], Awaitable[object]]) -> list[float]:
    found: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await work()
        found.append((time.perf_counter() - began) * 1e6)
    return found


async def _rate(count: int, work: Callable[[], Awaitable[object]]) -> list[float]:
    numbers = iter(range(count))

    async def one() -> None:
        for _ in numbers:
            await work()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return [count / (time.perf_counter() - began)]


def _of_nodes(nodes: Nodes, name: str, size: Mapping[str, int]) -> Found:
    """Returns the times of tasks of the placed agent, and the processor time of one where many are at once."""
    found = asyncio.run(_of_tasks(nodes.first, "placed", name, {**size, "many": 0}))
    before = nodes.used_us()
    found |= asyncio.run(_of_tasks(nodes.first, "placed", name, {**size, "one": 0})) | {
        f"{name}_us": found[f"{name}_us"]
    }
    used = nodes.used_us()
    for key, value in used.items():
        found[f"{name}_{key}"] = [(value - before[key]) / (size["many"] + 1)]
    return found


def _tree_s(pid: int) -> float:
    return bench.used_s(pid) + sum(map(_tree_s, bench.children(pid)))


async def _of_tasks(socket: str, agent: str, name: str, size: Mapping[str, int]) -> Found:
    async with await Connection.open(socket) as client:

        async def work() -> None:
            task: Any = await client.call("task.run", {"agent": agent, "objective": "nothing"}, timeout_s=BOUND_S)
            assert task["state"] == "succeeded", task

        await work()
        each = await _timed(size["one"], work)
        return {f"{name}_us": each, f"{name}_rate": await _rate(size["many"], work)}


async def _of_engine(servers: LocalServers, size: Mapping[str, int], name: str = "engine") -> Found:
    engine = await open_engine(ClusterSettings(engine=servers.kind, url=servers.url))
    numbers = iter(range(10**9))
    stamp = time.monotonic_ns()
    try:

        async def work() -> None:
            await engine.append("bare", f"{stamp}-{next(numbers)}", b"{}")
            (taken,) = await engine.take("bare", 2.0)
            await engine.settle(taken, "done")

        await work()
        each = await _timed(size["one"], work)
        return {f"{name}_us": each, f"{name}_rate": await _rate(size["many"], work)}
    finally:
        await engine.close()


# -- fail-over


def _failover(nodes: Nodes) -> Found:
    (holder,) = nodes.until(lambda: nodes.ready().get("placed"))
    time.sleep(0.1 * (time.monotonic_ns() % 10))  # anywhere between two beats
    daemon = nodes.daemons[holder]
    began = time.perf_counter()
    daemon.process.kill()
    daemon.process.wait()

    def again() -> list[str] | None:
        try:
            return nodes.ready(without=holder).get("placed")
        except CorralError:
            return None

    nodes.until(again)
    passed_s = time.perf_counter() - began
    nodes.start(holder)
    names: Any = []
    while len(names) < len(nodes.daemons):
        with Client(nodes.first) as client:
            names = client.call("node.list", timeout_s=BOUND_S)["nodes"]  # type: ignore[index]  # JSON
    return {"failover": [passed_s], "failover_leases": [passed_s / LEASE_S]}


# -- idle


def _pids(pid: int) -> list[int]:
    return [pid, *bench.children(pid)]


def _idle(nodes: Nodes, seconds: float) -> Found:
    """Returns what nodes and engine use while nothing happens; the workers are not counted."""
    daemons = [pid for each in nodes.daemons.values() for pid in _pids(each.process.pid)]
    server = nodes.servers.processes[0].pid
    before = [sum(map(bench.used_s, daemons)), bench.used_s(server)]
    began = time.perf_counter()
    time.sleep(seconds)
    passed_s = time.perf_counter() - began
    count = len(nodes.daemons)
    used = (sum(map(bench.used_s, daemons)) - before[0]) / count
    return {
        "idle_node": [100 * used / passed_s],
        "idle_server": [100 * (bench.used_s(server) - before[1]) / passed_s],
        "node_mb": [sum(bench.memory_mb(pid)[1] for pid in daemons) / count],
        "server_mb": [bench.memory_mb(server)[1]],
        "messages": [asyncio.run(_messages(nodes.servers, seconds))],
    }


def _alone(daemon: Daemon, seconds: float) -> Found:
    pids = _pids(daemon.process.pid)
    before, began = sum(map(bench.used_s, pids)), time.perf_counter()
    time.sleep(seconds)
    used = sum(map(bench.used_s, pids)) - before
    return {
        "idle_alone": [100 * used / (time.perf_counter() - began)],
        "alone_mb": [sum(bench.memory_mb(pid)[1] for pid in pids)],
    }


async def _messages(servers: LocalServers, seconds: float) -> float:
    """Returns the messages a second that clients publish, or the commands of Redis."""
    if servers.kind == "redis":
        import redis.asyncio  # noqa: PLC0415  # only for this engine

        client: Any = redis.asyncio.from_url(servers.url)
        before = (await client.info("stats"))["total_commands_processed"]
        await asyncio.sleep(seconds)
        after = (await client.info("stats"))["total_commands_processed"]
        await client.aclose()
        return float(after - before) / seconds
    import nats  # noqa: PLC0415  # only for this engine

    count = 0

    async def note(_message: object) -> None:
        nonlocal count
        count += 1

    seen = await nats.connect(servers.url)
    await seen.subscribe(">", cb=note)
    await seen.flush()
    count = 0
    await asyncio.sleep(seconds)
    await seen.close()
    return count / seconds


def _measures(kind: Kind) -> list[Measure]:
    """Returns the rows of one engine."""
    title = TITLES[kind]
    several = {n: f"{n} node{'s' * (n > 1)}" for n in SIZES}
    rows = [Measure(f"{kind}_us", f"append, take and settle a task: {title} alone", "µs")]
    rows += [
        Measure(f"{kind}{n}_us", f"an empty task, {title}, {words}", "µs", f"{kind}_us") for n, words in several.items()
    ]
    rows.append(Measure(f"{kind}_rate", f"{title} alone, {AT_ONCE} at once", "/s"))
    rows += [
        Measure(f"{kind}{n}_rate", f"empty tasks, {AT_ONCE} at once, {title}, {words}", "/s", f"{kind}_rate")
        for n, words in several.items()
    ]
    for n, words in several.items():
        what = f"processor time of one of them, {title}, {words}"
        rows.append(Measure(f"{kind}{n}_first", f"{what}: the node that accepts it", "µs"))
        if n > 1:
            rows.append(Measure(f"{kind}{n}_others", f"{what}: the others together", "µs"))
        rows.append(Measure(f"{kind}{n}_server", f"{what}: the server", "µs"))
    return rows


TASKS = [
    *(measure for kind in ENGINES for measure in _measures(kind)),
    Measure("alone_us", "an empty task of a local agent, no cluster", "µs"),
    Measure("local_us", "an empty task of a local agent, in a cluster", "µs", "alone_us"),
    Measure("alone_rate", f"of a local agent, {AT_ONCE} at once, no cluster", "/s"),
    Measure("local_rate", f"of a local agent, {AT_ONCE} at once, in a cluster", "/s", "alone_rate"),
]
NODES = [
    Measure("failover", "kill -9 of a node until its agent is Ready elsewhere", "s"),
    Measure("failover_leases", "the same in leases of 3 s", "each"),
    Measure("idle_alone", "processor of an idle daemon, no cluster", "%"),
    Measure("idle_node", "processor of an idle node, one of three", "%", "idle_alone"),
    Measure("idle_server", "processor of the server with three idle nodes", "%"),
    Measure("alone_mb", "memory (PSS) of a daemon with its launcher, no cluster", "MB"),
    Measure("node_mb", "memory (PSS) of a node with its launcher", "MB", "alone_mb"),
    Measure("server_mb", "memory (PSS) of the server", "MB"),
    Measure("messages", "messages of three idle nodes", "/s"),
]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=ENGINES, default="nats", help="of the nodes that fail and that are idle")
    parser.add_argument("--tasks", action="store_true", help="measure tasks alone")


def main() -> None:
    """Measures, and reports."""
    options = bench.arguments(__doc__ or "", _options)
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    notes: list[str] = []
    with bench.folder() as folder, ExitStack() as stack:
        (folder / "alone").mkdir()
        (folder / "alone" / "empty.py").write_text(AGENT)
        alone = Daemon(folder / "alone", config("", None, folder / "alone", 0, 0))
        stack.enter_context(alone).await_ready()
        with ExitStack() as nodes:
            found = _tasks(folder, nodes, alone, size)
        if not options.tasks:  # all tasks have ended: their time is not that of others
            many = Nodes(options.engine, 3, folder / "idle", stack, size["agents"])
            found |= bench.interleaved(
                min(3, size["rounds"]), [lambda: _idle(many, size["idle_s"]), lambda: _alone(alone, size["idle_s"])]
            )
            fails = Nodes(options.engine, 3, folder / "fails", stack, 2)
            found |= bench.interleaved(size["failovers"], [lambda: _failover(fails)])
            notes.append(
                f"Idle and failing nodes: {TITLES[options.engine]}, one server. The idle cluster has {size['agents']} agents."
            )
    rows = TASKS if options.tasks else [*TASKS, *NODES]
    bench.report("cluster", rows, found, machine, options, notes)


def _tasks(folder: Path, stack: ExitStack, alone: Daemon, size: Mapping[str, int]) -> dict[str, list[list[float]]]:
    sized = {(kind, n): Nodes(kind, n, folder / f"{kind}-{n}", stack) for kind in ENGINES for n in SIZES}
    first = sized[ENGINES[0], 1].first
    parts: list[Callable[[], Found]] = [
        lambda: asyncio.run(_of_tasks(first, "local", "local", size)),
        lambda: asyncio.run(_of_tasks(alone.socket, "local", "alone", size)),
    ]
    for kind in ENGINES:
        servers = sized[kind, 1].servers
        parts.append(lambda servers=servers, kind=kind: asyncio.run(_of_engine(servers, size, kind)))
        parts += [lambda nodes=sized[kind, n], name=f"{kind}{n}": _of_nodes(nodes, name, size) for n in SIZES]
    return dict(bench.interleaved(size["rounds"], parts))


if __name__ == "__main__":
    main()
