"""What does a backup of a full store cost: its time, its size, and what an empty task takes meanwhile?

A daemon with 100,000 ended tasks runs empty tasks one after the other, first alone, then while backups are made by the
command, one after the other.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import million
from bench import BOUND_S, Daemon, Measure

RECORDS, RECORDS_QUICK = 100_000, 2_000
ROUNDS, ROUNDS_QUICK = 5, 2
CALLS, CALLS_QUICK = 500, 20

Samples = dict[str, list[float]]


def _measures(count: int) -> list[Measure]:
    return [
        Measure("store", f"the store with {count:,} records", "MB"),
        Measure("archive", "its archive", "MB", "store"),
        Measure("backup", "`corral backup FILE`", "s"),
        Measure("check", "`corral restore --check FILE`", "s"),
        Measure("run_alone", "`task.run` of an empty task, alone", "ms"),
        Measure("run", "`task.run` of an empty task during a backup", "ms", "run_alone"),
    ]


def main() -> None:
    options = bench.arguments(__doc__ or "", _add_options)
    quick = options.quick
    count = options.records or (RECORDS_QUICK if quick else RECORDS)
    calls = CALLS_QUICK if quick else CALLS
    machine = bench.Machine()
    with bench.folder() as folder:
        (folder / "empty.py").write_text(million.AGENT)
        with Daemon(folder, million.CONFIG) as daemon:
            daemon.await_ready()  # makes the store
        million.filled(folder / "state/corral.db", count)
        with Daemon(folder, million.CONFIG) as daemon:
            daemon.await_ready()
            parts = [lambda: _backed_up(folder, daemon, calls)]
            taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, parts)
    bench.report("backup", _measures(count), taken, machine, options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", metavar="N", type=int, help="in place of 100,000")


def _backed_up(folder: Path, daemon: Daemon, calls: int) -> Samples:
    """One round: tasks alone, a backup with tasks meanwhile, and a check of the archive."""
    corral = [str(Path(sys.executable).parent / "corral"), "--socket", daemon.socket]
    archive = folder / "backup.tar.zst"
    archive.unlink(missing_ok=True)
    with Client(daemon.socket) as client:
        alone = [_run_ms(client) for _ in range(calls)]
        taken_s: list[float] = []

        def back_up() -> None:
            began = time.perf_counter()
            subprocess.run([*corral, "backup", str(archive)], check=True, capture_output=True)
            taken_s.append(time.perf_counter() - began)

        thread = threading.Thread(target=back_up)
        thread.start()
        during = [_run_ms(client)]
        while thread.is_alive():
            during.append(_run_ms(client))
        thread.join()
    began = time.perf_counter()
    subprocess.run([*corral, "restore", "--check", str(archive)], check=True, capture_output=True)
    check_s = time.perf_counter() - began
    store = sum(each.stat().st_size for each in (folder / "state").glob("corral.db"))
    return {
        "store": [store / 1e6],
        "archive": [archive.stat().st_size / 1e6],
        "backup": taken_s,
        "check": [check_s],
        "run_alone": alone,
        "run": during,
    }


def _run_ms(client: Client) -> float:
    began = time.perf_counter()
    client.call("task.run", {"agent": "empty", "objective": "nothing"}, timeout_s=BOUND_S)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
