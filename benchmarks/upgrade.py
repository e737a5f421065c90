"""For how long is nothing answered while another program takes the place of the daemon's own?

A client pings every 5 ms over one connection, another opens a connection for each ping, while upgrades are made: with one
worker, and with a hundred.  The longest time to an answer is the gap.
"""

import sys
import threading
import time
from pathlib import Path

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure

WORKERS, WORKERS_QUICK = 100, 10
ROUNDS, ROUNDS_QUICK = 5, 1
PING_S = 0.005

CONFIG = """
[agents.sleeper]
command = ["sleep", "1000000"]
protocol = "none"
instances = {count}
"""

MEASURES = [
    Measure("gap_one", "the longest time to an answer over one connection, with 1 worker", "ms"),
    Measure("gap_many", "the longest time to an answer over one connection, with many workers", "ms", "gap_one"),
    Measure("gap_new", "the longest time to an answer over a new connection, with many workers", "ms", "gap_one"),
    Measure("upgrade", "`daemon.upgrade`, with the proof of the next program", "s"),
]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    many = WORKERS_QUICK if options.quick else WORKERS
    machine = bench.Machine()
    with bench.folder() as folder:
        (folder / "one").mkdir()
        (folder / "many").mkdir()
        with (
            Daemon(folder / "one", CONFIG.format(count=1)) as one,
            Daemon(folder / "many", CONFIG.format(count=many)) as hundred,
        ):
            one.await_ready()
            hundred.await_ready()
            parts = [lambda: _one(one), lambda: _many(hundred)]
            taken = bench.interleaved(ROUNDS_QUICK if options.quick else ROUNDS, parts)
    bench.report("upgrade", MEASURES, taken, machine, options)


def _one(daemon: Daemon) -> dict[str, list[float]]:
    gap, _, _ = _upgraded(daemon)
    return {"gap_one": [gap]}


def _many(daemon: Daemon) -> dict[str, list[float]]:
    gap, new, took_s = _upgraded(daemon)
    return {"gap_many": [gap], "gap_new": [new], "upgrade": [took_s]}


def _upgraded(daemon: Daemon) -> tuple[float, float, float]:
    """Upgrades once; returns the longest times to an answer, in ms: over one connection, and over new ones; and the whole time, in s."""
    is_over = threading.Event()
    longest = {"one": 0.0, "new": 0.0}

    def ping(name: str, client: Client | None) -> None:
        while not is_over.wait(PING_S):
            begun = time.perf_counter()
            if client is not None:
                client.call("daemon.ping", {}, timeout_s=BOUND_S)
            else:
                with Client(daemon.socket) as fresh:
                    fresh.call("daemon.ping", {}, timeout_s=BOUND_S)
            longest[name] = max(longest[name], 1000 * (time.perf_counter() - begun))

    with Client(daemon.socket) as kept:
        pings = [threading.Thread(target=ping, args=each) for each in (("one", kept), ("new", None))]
        for each in pings:
            each.start()
        begun = time.perf_counter()
        with Client(daemon.socket) as asking:
            asking.call("daemon.upgrade", {}, timeout_s=BOUND_S)
        took_s = time.perf_counter() - begun
        time.sleep(10 * PING_S)
        is_over.set()
        for each in pings:
            each.join()
    return longest["one"], longest["new"], took_s


if __name__ == "__main__":
    main()
