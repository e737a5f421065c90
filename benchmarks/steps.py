"""What does a step that is done once cost, and how many are kept in a second?

A step does nothing; its result is in the store, synced, before the handler goes on. One task alone, and 64 tasks side by side on two workers; a
task that begins again with all its steps kept, as processor time of the daemon for each. Beside it DBOS with SQLite, one workflow and
64, and one append with fsync in the same folder.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import peers
from bench import BOUND_S, Daemon, Measure, cpu_s

from corral.worker.client.sync import Client

HERE = Path(__file__).resolve().parent
ROUNDS = 5
STEPS, STEPS_QUICK = 500, 50
TASKS = 64

CONFIG = f"""
[tasks]
retry_backoff_base = "1ms"
[recovery]
restart_backoff_base = "1ms"
[agents.stepper]
entrypoint = "step_agent:agent"
process.working_directory = "{HERE}"
instances = 2
resources.max_concurrent_requests = 32
"""

Found = dict[str, list[float]]


def ran(daemon: Daemon, objective: str, steps: int) -> list[float]:
    """Runs one task; returns the milliseconds of each of its steps."""
    with Client(daemon.socket) as client:
        asked: Any = {"agent": "stepper", "objective": objective, "input": steps}
        record: Any = client.call("task.run", asked, timeout_s=BOUND_S)
    assert record["state"] == "succeeded", record["error"]
    return record["output"]  # type: ignore[no-any-return]  # its shape is known


def side_by_side(daemon: Daemon, steps: int) -> Found:
    """Steps a second of TASKS tasks."""
    with ThreadPoolExecutor(TASKS) as pool:
        began = perf_counter()
        done = list(pool.map(lambda _: ran(daemon, "once", steps), range(TASKS)))
        return {"many": [len(done) * steps / (perf_counter() - began)]}


def again(daemon: Daemon, steps: int) -> Found:
    """Microseconds of the daemon's processor time for a step that is answered from the record: beyond a task without steps."""
    pid, used = daemon.process.pid, []
    for count in (0, 10 * steps):
        before = cpu_s(pid)
        ran(daemon, "once", count)
        once = cpu_s(pid) - before
        ran(daemon, "twice", count)
        used.append(cpu_s(pid) - before - 2 * once)
    return {"again": [max(0.0, used[1] - used[0]) * 1e6 / (10 * steps)]}


def syncs(path: Path) -> list[float]:
    """Milliseconds of each of a hundred appends that are synced."""
    took: list[float] = []
    with path.open("ab", buffering=0) as file:
        for _ in range(100):
            began = perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append((perf_counter() - began) * 1000)
    return took


def of_dbos(python: Path, folder: Path, steps: int, workflows: int) -> Found:
    """The same by DBOS: the milliseconds of steps of one workflow, or the steps a second of many."""
    command = [
        str(python),
        str(HERE / "dbos_steps.py"),
        str(folder / f"dbos-{workflows}.sqlite"),
        str(steps),
        str(workflows),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=True)
    found: Any = json.loads(done.stdout.splitlines()[-1])
    return {"dbos_one": found["took"]} if workflows == 1 else {"dbos_many": [found["rate"]]}


def main() -> None:
    options = bench.arguments(
        __doc__ or "",
        lambda parser: parser.add_argument(
            "--peers", metavar="FOLDER", type=Path, help="where DBOS is, or is put and kept"
        ),
    )
    machine = bench.Machine()
    steps = STEPS_QUICK if options.quick else STEPS
    with bench.folder() as folder, Daemon(folder / "corral", CONFIG) as daemon:
        daemon.await_ready()
        parts: list[Callable[[], Found]] = [
            lambda: {"fsync": syncs(folder / "synced")},
            lambda: {"one": ran(daemon, "once", steps)},
            lambda: side_by_side(daemon, max(steps // 10, 10)),
            lambda: again(daemon, steps),
        ]
        home = None if options.quick and options.peers is None else peers.from_pypi(options.peers or folder, "dbos")
        if home is not None:
            python = home / "python"
            parts += [
                lambda: of_dbos(python, folder, steps, 1),
                lambda: of_dbos(python, folder, max(steps // 10, 10), TASKS),
            ]
        taken = bench.interleaved(1 if options.quick else ROUNDS, parts)
    rows = [
        Measure("fsync", "one append and fsync in the same folder", "ms"),
        Measure("one", "a step, one after another", "ms", "fsync"),
        Measure("dbos_one", "the same by DBOS on SQLite", "ms", "one"),
        Measure("many", f"steps a second of {TASKS} tasks", "/s"),
        Measure("dbos_many", "the same by DBOS on SQLite", "/s", "many"),
        Measure("again", "a step answered from the record: processor time of the daemon", "µs"),
    ]
    notes = [] if "dbos_one" in taken else ["dbos: it is not there"]
    bench.report("steps", [each for each in rows if each.name in taken], taken, machine, options, notes)


if __name__ == "__main__":
    main()
