"""What does a store with a million ended tasks cost: on disk, at the start, for new tasks and for who asks?

Two daemons take turns, one with that many records and one with a thousand. The records are written by the
statement that the daemon writes them with, 1 of 50 a dead letter, over the last six days. Then all of them
expire, while tasks go on.
"""

import argparse
import contextlib
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from corral.supervisor.tasks.run.table import Records
from corral.worker.client.sync import Client
from corral.worker.contract.records import Error, Task

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure

RECORDS, RECORDS_QUICK = 1_000_000, 5_000
FEW = 1_000
ROUNDS, ROUNDS_QUICK = 5, 2
CALLS, CALLS_QUICK = 100, 10
DAYS = 6
"""Less than result_retention, until that is made shorter."""
DEAD = 50
CHUNK = 10_000
EXPIRY_S = 600.0

AGENTS = ("empty", "writer", "reader", "gone")
"""Whose the records are; the first is there, and has a worker."""

AGENT = """
from corral.worker import Agent
agent = Agent("empty")
@agent.task
async def run(task):
    pass
"""

CONFIG = '[agents.empty]\nentrypoint = "empty:agent"\n'
EXPIRING = '[tasks]\nresult_retention = "1s"\ndead_letter_retention = "1s"\n' + CONFIG

Part = Callable[[], dict[str, list[float]]]

QUESTIONS = {
    "list": ("`task.list`: the newest 100", "task.list", {}),
    "of": ("`task.list`: the newest 100 of an agent", "task.list", {"agent": "writer"}),
    "failed": ("`task.list`: the newest 100 that failed", "task.list", {"state": "failed"}),
    "status": ("`daemon.status`", "daemon.status", {}),
}


def _measures(count: int) -> list[Measure]:
    rows = [
        Measure("fill", f"bytes of the store for each of {count:,} records", "B"),
        Measure("ready_few", "daemon to READY, a thousand records", "ms"),
        Measure("ready", f"daemon to READY, {count:,} records", "ms", "ready_few"),
        Measure("pss_few", "PSS of the daemon, a thousand records", "MB"),
        Measure("pss", f"PSS of the daemon, {count:,} records", "MB", "pss_few"),
        Measure("run_few", "`task.run` of an empty task, a thousand records", "ms"),
        Measure("run", f"`task.run` of an empty task, {count:,} records", "ms", "run_few"),
        Measure("show_few", "`task.show` of any, a thousand records", "ms"),
        Measure("show", f"`task.show` of any, {count:,} records", "ms", "show_few"),
    ]
    for name, (words, _, _) in QUESTIONS.items():
        rows.append(Measure(f"{name}_few", f"{words}, a thousand records", "ms"))
        rows.append(Measure(name, f"{words}, {count:,} records", "ms", f"{name}_few"))
    return [
        *rows,
        Measure("run_expiring", "`task.run` while all records expire", "ms"),
        Measure("expired", f"until {count:,} records have expired", "s"),
    ]


def main() -> None:
    options = bench.arguments(__doc__ or "", _add_options)
    quick = options.quick
    count = options.records or (RECORDS_QUICK if quick else RECORDS)
    calls = CALLS_QUICK if quick else CALLS
    machine = bench.Machine()
    with bench.folder() as folder:
        for name in ("few", "many"):
            (folder / name).mkdir()
            (folder / name / "empty.py").write_text(AGENT)
            with Daemon(folder / name, CONFIG) as daemon:
                daemon.await_ready()  # compiles what Python compiles, and makes the store
        few_ids = filled(folder / "few/state/corral.db", FEW)
        ids = filled(folder / "many/state/corral.db", count)
        file_bytes = sum(path.stat().st_size for path in (folder / "many/state").glob("corral.db*"))
        parts = [
            lambda: _looked_at(folder / "few", "_few", few_ids, calls),
            lambda: _looked_at(folder / "many", "", ids, calls),
        ]
        taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, parts)
        taken["fill"] = [[file_bytes / count]]
        for name, values in _expired(folder / "many").items():
            taken[name] = [values]
    bench.report("million", _measures(count), taken, machine, options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", metavar="N", type=int, help="in place of a million")


def filled(path: Path, count: int) -> list[str]:
    """Writes the records; returns some of their ids."""
    chance = random.Random(0)
    now = time.time()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = -1000000")  # in KiB
        records = Records.__new__(Records)  # no store: only what it would write
        sql = records.statements(_task(chance, 0, now), now)[0][0]
        first = now - DAYS * 86400
        tasks = (_row(records, chance, number, first + number * (now - 600 - first) / count) for number in range(count))
        while rows := [row for _, row in zip(range(CHUNK), tasks, strict=False)]:
            connection.execute("BEGIN")
            connection.executemany(sql, rows)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return [_id(number) for number in range(0, count, max(1, count // 1000))]


def _row(records: Records, chance: random.Random, number: int, created: float) -> object:
    (_, values), *_ = records.statements(_task(chance, number, created), created)
    return (*values[:6], created + 0.5, *values[7:])  # it ended then, and not while we write it


def _id(number: int) -> str:
    return f"{number:06x}{(number * 0x9E3779B1) & 0xFFFFFF:06x}"[::-1]


def _task(chance: random.Random, number: int, created: float) -> Task:
    has_failed = number % DEAD == 0
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(created))
    return Task(
        id=_id(number),
        agent=AGENTS[number % len(AGENTS)],
        worker=f"{AGENTS[number % len(AGENTS)]}-0",
        state="failed" if has_failed else "succeeded",
        priority=chance.randint(1, 10),
        attempt=1,
        objective=f"Summarise chapter {number} of the report",
        input={"chapter": number, "path": f"/srv/reports/{number}.md"},
        output=None if has_failed else {"summary": "x" * chance.randint(50, 400)},
        error=Error(-33013, "TaskFailed", "cannot read it", {}) if has_failed else None,
        created_at=at,
        started_at=at,
        finished_at=at,
        duration_s=0.5,
    )


def _looked_at(where: Path, suffix: str, ids: list[str], calls: int) -> dict[str, list[float]]:
    """One life of a daemon: its start, tasks, questions."""
    with Daemon(where, CONFIG) as daemon:
        daemon.await_ready()
        with Client(daemon.socket) as client:
            run = _each_ms(client, calls, "task.run", _endless(_RUN))
            chance = random.Random(0)
            shown = ({"task": chance.choice(ids)} for _ in range(calls))
            found = {
                "ready": [daemon.ready_ms],
                "run": run,
                "show": _each_ms(client, calls, "task.show", shown),
                **{
                    name: _each_ms(client, max(3, calls // 10), method, _endless(params))
                    for name, (_, method, params) in QUESTIONS.items()
                },
                "pss": [bench.memory_mb(daemon.process.pid)[1]],
            }
    return {name + suffix: values for name, values in found.items()}


_RUN: dict[str, object] = {"agent": "empty", "objective": "nothing"}


def _endless(params: dict[str, object]) -> Iterator[dict[str, object]]:
    while True:
        yield params


def _each_ms(client: Client, count: int, method: str, each: Iterator[dict[str, object]]) -> list[float]:
    found: list[float] = []
    for _ in range(count):
        params = next(each)
        began = time.perf_counter()
        client.call(method, params, timeout_s=BOUND_S)
        found.append((time.perf_counter() - began) * 1000)
    return found


def _expired(where: Path) -> dict[str, list[float]]:
    """A daemon that keeps ended tasks for no longer than a second; what a task takes meanwhile."""
    run: list[float] = []
    path = where / "state/corral.db"
    filled = time.time() - 60  # what _row made is older
    with Daemon(where, EXPIRING) as daemon, Client(daemon.socket) as client:
        daemon.await_ready()
        until = daemon.began + EXPIRY_S
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            agents = ", ".join(f"'{agent}'" for agent in AGENTS)
            sql = f"SELECT EXISTS (SELECT 1 FROM task WHERE agent IN ({agents}) AND created_at < ?)"
            while not run or connection.execute(sql, (filled,)).fetchone()[0]:
                assert time.perf_counter() < until, "the records expire"
                run += _each_ms(client, 10, "task.run", _endless(_RUN))
    return {"run_expiring": run, "expired": [time.perf_counter() - daemon.began]}


if __name__ == "__main__":
    main()
