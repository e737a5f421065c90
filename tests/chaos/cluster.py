"""Hurts a cluster of real daemons for a while, and counts: `python -P tests/chaos/cluster.py --seconds 600 --seed 7`.

Three nodes run agents of which one copy may run at a time, and take tasks. Nodes are killed, frozen beyond their lease, and
restarted at random, from the seed, and so are the servers of the engine. Prints a line of JSON for each setup; exits 1 if an accepted task is
lost, if an agent ran twice at a time, or if a fencing token went back. An engine that is not installed is left out.

It does not rely on corral for what ran: each life of an agent holds a lock of the kernel, and notes lives and runs in a journal.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

sys.path += [
    str(Path(__file__).resolve().parents[1]),
    str(Path(__file__).resolve().parents[1] / "support"),
]  # `python -P` leaves it out
from cluster_of_daemons import Cluster, until_all_answer
from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.local_servers import Fsync, LocalServers, program_of
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import CorralError, InvalidParams, Timeout
from daemon_process import AGENTS, DaemonProcess
from faults import versions
from faults.hurts import Hurts
from faults.place import Places, why_not_apart

Setup = tuple[Literal["nats", "redis"], int, Fsync]

SETUPS: tuple[Setup, ...] = (("nats", 1, "usual"), ("nats", 3, "usual"), ("redis", 1, "usual"), ("redis", 1, "always"))

SINGLETONS = 4
"""Number of agents of which one copy may run at a time."""

SETTLE_S = 90.0
"""Seconds after the last hurt within which every accepted task has to end."""

CALL_S = 4.0
"""Seconds that a call of a node may take: a frozen one answers nothing."""

PAUSE_S = 0.05
"""Seconds between two tasks."""


NODES = ("one", "two", "three")

BAD = ("lost", "doubled", "twice_at_a_time", "tokens_back", "foreign_ends")
"""The counts that have to be 0."""

INSIDE = "CORRAL_CHAOS_INSIDE"
"""The variable of the environment that is set in namespaces that nobody else uses."""


class Load:
    """Submits tasks to nodes at random, each again under its key until one of them has acknowledged it."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self.accepted: dict[str, str] = {}
        self.unanswered = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            key, agent = f"key-{number}", f"single{number % SINGLETONS}"
            number += 1
            while not self._stop.is_set():
                node = self._rng.choice(list(self._cluster.nodes.values()))
                params = {"agent": agent, "objective": "brief", "input": number, "idempotency_key": key}
                try:
                    with node.client() as client:
                        task: Any = client.call("task.submit", params, timeout_s=CALL_S)
                except (CorralError, OSError):
                    self.unanswered += 1
                    self._stop.wait(0.05)
                    continue
                self.accepted[task["id"]] = agent
                break
            self._stop.wait(PAUSE_S)


class Ends:
    """Watches the ends of tasks on the engine from the beginning, and counts those that changed."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self.first: dict[str, bytes] = {}
        self.changed = 0
        self._loop = asyncio.new_event_loop()
        self._watching = self._loop.create_task(self._watch())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._watching.cancel)
        self._thread.join()
        self._loop.close()

    def note(self, task: str, value: bytes) -> None:
        """Takes the end of a task as it is now."""
        self.changed += self.first.setdefault(task, value) != value

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._watching)

    async def _watch(self) -> None:
        engine = await open_engine(self._settings, start_s=SETTLE_S)
        try:
            watch = await engine.watch("results")
            while True:
                change = await watch.next()
                if change.value is not None:
                    self.note(change.key.removeprefix("results/"), change.value)
        finally:
            await engine.close()


def life(
    setup: Setup,
    folder: Path,
    seconds: float,
    seed: int,
    *,
    is_apart: bool = False,
    older: str = "",
    ways: Sequence[str] = (),
) -> dict[str, object]:
    """Lives one life, and returns its counts.

    With `is_apart` each program has a network, a disk and clocks of its own, see `Places`; with `older`, nodes of that commit take part. `ways` are those of the hurts; all if absent.
    """
    kind, count, fsync = setup
    lease_s, beat_s = (10.0, 1.0) if count > 1 else (3.0, 0.5)
    (notes := folder / "notes").mkdir()
    began = time.monotonic()
    with ExitStack() as stack:
        places = Places(folder, NODES, count, older=older, is_apart=is_apart, stack=stack)
        servers = stack.enter_context(places.engine(kind, fsync))
        cluster = Cluster(folder, servers, stack)
        for name in NODES:
            cluster.add(
                name,
                agents(notes),
                prefix=places.prefix(name),
                environ=places.environ(name),
                lease=int(lease_s),
                beat=beat_s,
            )
        settings = ClusterSettings(engine=kind, url=servers.url, token=servers.token)
        seen = Ends(settings)
        load = Load(cluster, seed)
        hurts = Hurts(cluster, places, seed, lease_s, ways)
        try:
            hurts.run(seconds)
        finally:
            load.finish()
            seen.finish()
        until_all_answer(cluster)
        ends = asyncio.run(ends_of(settings, load.accepted))
        for task, value in ends.items():
            seen.note(task, value)
        late = sum(len(late_of(node)) for node in cluster.nodes.values())
    lines = [line.split() for line in (notes / "journal").read_text().splitlines()]
    records = {task: json.loads(value) for task, value in ends.items()}
    return {
        "engine": kind,
        "servers": count,
        "fsync": fsync,
        "seconds": round(time.monotonic() - began),
        "seed": seed,
        "hurts": dict(sorted(hurts.counts.items())),
        "accepted": len(load.accepted),
        "unanswered": load.unanswered,
        "ended": len(ends),
        "lost": len(load.accepted.keys() - ends.keys()),
        "doubled": seen.changed,
        "failed": sum(end["task"]["state"] != "succeeded" for end in records.values()),
        "run_more_than_once": again(lines),
        "lives": sum(line[0] == "alone" for line in lines),
        "twice_at_a_time": sum(line[0] == "twice" for line in lines),
        "tokens_back": tokens_back(lines),
        "foreign_ends": foreign(lines, records),
        "late_ends_refused": late,
        "lost_tasks": sorted(load.accepted.keys() - ends.keys())[:5],
    }


def agents(notes: Path) -> str:
    """Returns the tables of the singletons."""
    return "".join(
        f"""
[agents.single{number}]
command = ["{sys.executable}", "{AGENTS / "placed_agent.py"}"]
placement = {{}}
[agents.single{number}.config]
folder = "{notes}"
[agents.single{number}.process]
shutdown_grace_period = "2s"
[agents.single{number}.recovery]
max_restart_attempts = 1000
"""
        for number in range(SINGLETONS)
    )


async def ends_of(settings: ClusterSettings, accepted: dict[str, str]) -> dict[str, bytes]:
    """Returns the ends that the engine has of accepted tasks, waiting for those that are missing."""
    engine = await open_engine(settings, start_s=SETTLE_S)
    ends: dict[str, bytes] = {}
    deadline = time.monotonic() + SETTLE_S
    try:
        while True:
            with suppress(Timeout):  # a leader is being elected
                for task in accepted.keys() - ends.keys():
                    if (entry := await engine.get(f"results/{task}")) is not None:
                        ends[task] = entry.value
            if len(ends) == len(accepted) or time.monotonic() > deadline:
                return ends
            await asyncio.sleep(0.2)
    finally:
        await engine.close()


def late_of(node: DaemonProcess) -> list[Any]:
    """Returns the events of ends that were refused on a node."""
    found: list[Any] = node.call("event.list", types=["task.late"], n=10_000)["events"]
    return found


def again(lines: Sequence[Sequence[str]]) -> int:
    """Returns the number of tasks that began more than once."""
    runs = Counter(line[1] for line in lines if line[0] == "ran")
    return sum(count > 1 for count in runs.values())


def tokens_back(lines: Sequence[Sequence[str]]) -> int:
    """Returns how often a life began with a token that is not above that of an earlier life on another node."""
    newest: dict[str, int] = {}
    back = 0
    for line in lines:
        if line[0] == "alone":
            token = int(line[2])
            back += token < newest.get(line[1], 0)
            newest[line[1]] = max(token, newest.get(line[1], 0))
    return back


def foreign(lines: Sequence[Sequence[str]], ends: dict[str, Any]) -> int:
    """Returns the number of succeeded ends whose token is that of no run of the task."""
    runs = {(line[1], line[2]) for line in lines if line[0] == "ran"}
    good = [end for end in ends.values() if end["task"]["state"] == "succeeded"]
    return sum((end["task"]["id"], str(end["task"]["output"]["token"])) not in runs for end in good)


def failover(folder: Path, setup: Setup, rounds: int) -> list[float]:
    """Returns the seconds from the kill of the node that runs an agent to its next life, of each round, in order of size."""
    kind, count, fsync = setup
    (folder / "engine").mkdir()
    (notes := folder / "notes").mkdir()
    found: list[float] = []
    with LocalServers(kind, count, folder / "engine", fsync=fsync) as servers, ExitStack() as stack:
        cluster = Cluster(folder, servers, stack)
        for name in ("one", "two", "three"):
            cluster.add(name, agents(notes))
        for _ in range(rounds):
            found.append(_one_failover(cluster, notes))
    return sorted(round(each, 2) for each in found)


def _one_failover(cluster: Cluster, notes: Path) -> float:
    before = cluster.until(lambda: _lives(notes, 0))
    holder = cluster.until(lambda: _holder(cluster, int(before[-1][3])))
    time.sleep(random.uniform(0.0, 1.0))  # anywhere between two beats
    at = time.monotonic()
    holder.kill()
    after = cluster.until(lambda: _lives(notes, len(before)))
    holder.start()
    until_all_answer(cluster)
    return float(after[-1][4]) - at


def _lives(notes: Path, more_than: int) -> list[list[str]]:
    """Returns the lives of the first agent once there are more than so many."""
    path = notes / "journal"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    lives = [line for line in lines if line[0] == "alone" and line[1] == "single0"]
    return lives if len(lives) > more_than else []


def _holder(cluster: Cluster, pid: int) -> DaemonProcess | None:
    """Returns the node of which a process is a worker."""
    for name, node in cluster.nodes.items():
        for agent in node.call("daemon.status", node=name)["agents"]:
            if any(worker["pid"] == pid for worker in agent["workers"]):
                return node
    return None


def is_good(found: dict[str, object]) -> bool:
    """Returns whether nothing happened that must not."""
    return not any(found[key] for key in BAD)


def main() -> int:
    """Lives one life for each setup; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for each setup")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of one setup, from 0")
    parser.add_argument("--older", default="", help="a commit of which nodes run, too")
    parser.add_argument("--ways", default="", help="names of hurts, with commas; all if absent")
    parser.add_argument("--keep", type=Path, help="folder in which all is kept")
    parser.add_argument("--failover", type=int, default=0, help="rounds that are timed, in place of a life")
    options = parser.parse_args()
    if options.older and (reason := versions.why_not(options.older)):
        parser.error(f"cannot run {options.older}: {reason}")
    is_apart = INSIDE in os.environ
    if not is_apart and not options.failover:
        if not (reason := why_not_apart()):
            os.environ[INSIDE] = "1"
            command = ["unshare", "--net", "--mount", sys.executable, "-P", *sys.argv]
            os.execvp("unshare", command)  # the same program, in namespaces of its own
        print(f"without partitions, clocks and full disks: {reason}", file=sys.stderr)
    failed = 0
    for number, setup in enumerate(SETUPS):
        if options.only not in (None, number):
            continue
        try:
            program_of(setup[0])
            __import__(setup[0])
        except (InvalidParams, ImportError) as error:
            print(error, file=sys.stderr)
            continue
        with ExitStack() as stack:
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corral-cluster-")))
            if options.failover:
                seconds = failover(folder, setup, options.failover)
                print(json.dumps({"engine": setup[0], "failover_s": seconds}), flush=True)
                continue
            found = life(
                setup,
                folder,
                options.seconds,
                options.seed,
                is_apart=is_apart,
                older=options.older,
                ways=options.ways.split(",") if options.ways else (),
            )
        print(json.dumps(found), flush=True)
        failed += not is_good(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
