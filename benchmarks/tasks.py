"""How long does an empty task take, and how many of them end in a second?

Durable and not, one at a time and in a burst, through two workers. Beside it concurrent.futures.ProcessPoolExecutor, which
keeps nothing, and RQ and Celery with a Redis of their own that syncs always, or every second as it does by itself.
They are installed into a temporary folder, or `--peers FOLDER`; with --quick only what is in that folder takes part.
`--only NAME` leaves out the rest.

Of corral it is counted, too, what processor time a task of a burst takes: of the daemon with its store, of both workers, and
of the caller, who is no part of it. On a busy machine this is what can be compared.
"""

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import peers
from bench import BOUND_S, Daemon, Measure

HERE = Path(__file__).resolve().parent

ROUNDS, ROUNDS_QUICK = 7, 2
ONE, ONE_QUICK = 100, 10
"""Tasks in each round, one at a time."""
MANY, MANY_QUICK = 800, 50
"""Tasks of a burst: all handed in at once, fewer than one connection to corral may have open."""
WORKERS = 2
SLOTS = 32
"""Tasks that a worker of the agent `wide` has at once."""
SYNCS = 20
ROUND_S = 600.0
"""A round of one way ends within this: on a busy machine Redis waits for its disk more than a thousand times."""

AGENT = """
from corral.worker import Agent
agent = Agent("empty")
@agent.task
async def run(task):
    pass
"""

CONFIG = f"""
[agents.narrow]
entrypoint = "empty:agent"
instances = {WORKERS}
tasks.max_queue_size = 10000
[agents.wide]
entrypoint = "empty:agent"
instances = {WORKERS}
tasks.max_queue_size = 10000
resources.max_concurrent_requests = {SLOTS}
"""

SPENT = {
    "daemon_us": "processor of the daemon, each of a burst",
    "workers_us": "processor of the workers, each of a burst",
    "caller_us": "processor of the caller, each of a burst",
}

REDIS_SYNCS = {"always": "synced always", "everysec": "synced every second"}

Found = dict[str, list[float]]
Timed = Callable[[int], list[float]]
"""Hands in so many at once; when each had ended, in ms since."""


@dataclass(frozen=True)
class Way:
    """A way to have a task done, and its three rows."""

    name: str
    what: str
    round: Callable[[int, int], Found]
    """Of so many one at a time and a burst of so many: `one_ms`, `many_ms` and `rate`, and what SPENT has."""
    is_spent: bool = False
    """Whether it is known what it takes of the processors."""

    def measures(self) -> list[Measure]:
        """One at a time, of a burst, and how many a second; what each takes."""
        rows = (
            ("one_ms", "one at a time", "ms"),
            ("many_ms", "each of a burst", "ms"),
            ("rate", "in a burst", "tasks/s"),
        )
        found = [
            Measure(f"{self.name}_{row}", f"{self.what}, {words}", unit, None if self.name == "pool" else f"pool_{row}")
            for row, words, unit in rows
        ]
        spent = SPENT if self.is_spent else {}
        return found + [Measure(f"{self.name}_{row}", f"{self.what}: {words}", "µs") for row, words in spent.items()]

    def part(self, one: int, many: int) -> Found:
        """One round."""
        return {f"{self.name}_{row}": values for row, values in self.round(one, many).items()}


def main() -> None:
    options = bench.arguments(__doc__ or "", _add_options)
    quick = options.quick
    one, many = (ONE_QUICK, MANY_QUICK) if quick else (ONE, MANY)
    machine = bench.Machine()
    with bench.folder() as folder, contextlib.ExitStack() as stack:
        ways = [_pool(stack), *_corral(stack, folder / "corral")]
        where = options.peers or (None if quick else folder / "peers")
        if where is not None:
            ways += _redis(stack, where, folder)
        if options.only:
            ways = [way for way in ways if way.name == "pool" or way.name in options.only]
        parts = [lambda way=way: way.part(one, many) for way in ways]
        bench.interleaved(1, parts)
        taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, [*parts, _syncs(folder)])
    sync = Measure("fsync", "one append and fsync in the same folder", "ms")
    by_kind = zip_longest(*(way.measures() for way in ways))
    measures = [sync, *(measure for kind in by_kind for measure in kind if measure is not None)]
    bench.report("tasks", measures, taken, machine, options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", metavar="FOLDER", type=Path, help="where RQ and Celery are, or are put and kept")
    parser.add_argument("--only", metavar="NAME", action="append", help="a way, beside the pool")


def _syncs(folder: Path) -> Callable[[], Found]:
    def synced(fd: int) -> float:
        began = time.perf_counter()
        os.write(fd, bytes(4096))
        os.fsync(fd)
        return (time.perf_counter() - began) * 1000

    def part() -> Found:
        fd = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return {"fsync": [synced(fd) for _ in range(SYNCS)]}
        finally:
            os.close(fd)

    return part


def _rounds(timed: Timed, burst: Timed | None = None) -> Callable[[int, int], Found]:
    def round_of(one: int, many: int) -> Found:
        one_ms = [each for _ in range(one) for each in timed(1)]
        began = time.perf_counter()
        many_ms = (burst or timed)(many)
        rate = many / (time.perf_counter() - began)
        return {"one_ms": one_ms, "many_ms": many_ms, "rate": [rate]}

    return round_of


# --- the pool -------------------------------------------------------------------------------------


def nothing() -> None:
    """The empty task, for processes of the pool."""


def _pool(stack: contextlib.ExitStack) -> Way:
    pool = stack.enter_context(ProcessPoolExecutor(WORKERS))

    def timed(count: int) -> list[float]:
        ended_ms: list[float] = []
        began = time.perf_counter()

        def ended(_: Future[None]) -> None:
            ended_ms.append((time.perf_counter() - began) * 1000)

        futures = [pool.submit(nothing) for _ in range(count)]
        for future in futures:
            future.add_done_callback(ended)
        for future in futures:
            future.result(BOUND_S)
        return ended_ms

    return Way("pool", "ProcessPoolExecutor, keeps nothing", _rounds(timed))


# --- corral ---------------------------------------------------------------------------------------


class Flood:
    """A connection to the control socket that is no bottleneck: it reads no more of an answer than its id."""

    _BEFORE_ID = b'{"jsonrpc":"2.0","id":'
    _ENDED = b'"state":"succeeded"'

    def __init__(self, path: str, agent: str, *, durable: bool) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ROUND_S)
        self._socket.connect(path)
        params = {"agent": agent, "objective": "nothing", "durable": durable}
        self._request = b',"method":"task.run","params":' + json.dumps(params).encode() + b"}\n"

    def __call__(self, count: int) -> list[float]:
        ended_ms: list[float] = []
        began = time.perf_counter()
        self._socket.sendall(b"".join(b"%b%d%b" % (self._BEFORE_ID, n, self._request) for n in range(count)))
        rest = b""
        while len(ended_ms) < count:
            data = self._socket.recv(1 << 18)
            assert data, "the daemon goes on"
            now_ms = (time.perf_counter() - began) * 1000
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(self._BEFORE_ID):  # else it tells how a task stands
                    assert self._ENDED in line, line
                    ended_ms.append(now_ms)
        return ended_ms


def processor_us(pid: int) -> float:
    """The processor time of all threads of a process, to the nanosecond."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1000


def _spending(flood: Flood, daemon: int, workers: Sequence[int]) -> Callable[[int, int], Found]:
    def spent() -> list[float]:
        own_us = time.process_time() * 1e6
        return [processor_us(daemon), sum(map(processor_us, workers)), own_us]

    def timed(count: int) -> list[float]:
        nonlocal taken
        before = spent()
        ended_ms = flood(count)
        taken = [(now - then) / count for now, then in zip(spent(), before, strict=True)]
        return ended_ms

    taken: list[float] = []
    in_rounds = _rounds(flood, timed)

    def round_of(one: int, many: int) -> Found:
        found = in_rounds(one, many)
        return found | {row: [each] for row, each in zip(SPENT, taken, strict=True)}

    return round_of


def _workers(path: str) -> dict[str, list[int]]:
    """The pids of each agent's workers."""
    with Client(path) as client:
        status: Any = client.call("daemon.status", timeout_s=BOUND_S)
    return {agent["name"]: [worker["pid"] for worker in agent["workers"]] for agent in status["agents"]}


def _corral(stack: contextlib.ExitStack, folder: Path) -> list[Way]:
    folder.mkdir()
    (folder / "empty.py").write_text(AGENT)
    daemon = stack.enter_context(Daemon(folder, CONFIG))
    daemon.await_ready()
    workers = _workers(daemon.socket)
    shapes = {"narrow": f"{WORKERS} workers", "wide": f"{WORKERS} workers of {SLOTS} tasks each"}
    return [
        Way(
            f"{agent}_{'durable' if durable else 'loose'}",
            f"corral, {'durable' if durable else 'not durable'}, {shape}",
            _spending(Flood(daemon.socket, agent, durable=durable), daemon.process.pid, workers[agent]),
            is_spent=True,
        )
        for durable in (True, False)
        for agent, shape in shapes.items()
    ]


# --- RQ and Celery --------------------------------------------------------------------------------


def _redis(stack: contextlib.ExitStack, where: Path, folder: Path) -> list[Way]:
    if shutil.which("redis-server") is None:
        print("no redis-server: RQ and Celery are left out", file=sys.stderr)
        return []
    programs = {
        "rq": ("RQ", peers.from_pypi(where, "rq"), WORKERS),
        "celery": ("Celery", peers.from_pypi(where, "celery[redis]"), 1),  # which has its own two
    }
    ways: list[Way] = []
    for syncs, words in REDIS_SYNCS.items():
        for kind, (name, program, workers) in programs.items():
            if program is None:
                continue
            port = peers.free_port()
            files = folder / f"{kind}-{syncs}"
            files.mkdir()
            keep = ["--dir", str(files), "--save", "", "--appendonly", "yes", "--appendfsync", syncs]
            redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), *keep]
            log = folder / f"{kind}-{syncs}.log"
            stack.enter_context(peers.listening(port, redis, log))
            queues = [str(program / "python"), str(HERE / "queues.py")]
            for _ in range(workers):
                stack.enter_context(_worker([*queues, f"{kind}-worker", str(port)], log))
            caller = stack.enter_context(_caller([*queues, kind, str(port)], log))
            ways.append(Way(f"{kind}_{syncs}", f"{name}, Redis {words}", caller))
    return ways


@contextlib.contextmanager
def _worker(command: Sequence[str], log: Path) -> Generator[None]:
    """A worker of RQ or Celery, who is asked to end."""
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command,
            env={**bench.ENVIRON, "PYTHONPATH": str(HERE)},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _caller(command: Sequence[str], log: Path) -> Generator[Callable[[int, int], Found]]:
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command, env=bench.ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        ) as process,
    ):

        def line() -> bytes:
            assert process.stdout is not None, "asked for"
            ready, _, _ = select.select([process.stdout], [], [], ROUND_S)
            found = process.stdout.readline() if ready else b""
            assert found, log.read_text()
            return found

        def round_of(one: int, many: int) -> Found:
            assert process.stdin is not None, "asked for"
            process.stdin.write(json.dumps({"one": one, "many": many}).encode() + b"\n")
            process.stdin.flush()
            found = json.loads(line())
            rate = many / found["took_s"]
            return {"one_ms": found["one_ms"], "many_ms": found["many_ms"], "rate": [rate]}

        try:
            assert line() == b"ready\n", "it says so first"
            yield round_of
        finally:
            process.kill()


if __name__ == "__main__":
    main()
