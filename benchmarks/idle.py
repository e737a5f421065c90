"""What does it cost to hear that workers live, and to look what they use?

Programs that do nothing but beat (`beater.c`, and Python where there is no C compiler), 1,000 times a second in all:
heard and each looked at once for every beat; only heard; and as many that are silent. The processor time is that of
corrald and its launcher.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import PYTHON, Daemon, Measure

ROUNDS, ROUNDS_QUICK = 5, 1
WORKERS, WORKERS_QUICK = 200, 20
BEATS_PER_S = 5
"""Of each worker."""
WATCH_S, WATCH_QUICK_S = 10.0, 1.0
"""How long processor time is measured."""
SETTLE_S, SETTLE_QUICK_S = 6.0, 0.1
"""Young workers are looked at more often."""

HERE = Path(__file__).parent

BEATER = """
import json, sys, threading, time
request = json.loads(sys.stdin.readline())
said = {"protocolVersion": "1", "name": "beater", "version": "1", "capabilities": []}
print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": said}), flush=True)
def beat():
    while True:
        time.sleep(1 / float(sys.argv[1]))
        print('{"jsonrpc":"2.0","method":"heartbeat","params":{"busy":false}}', flush=True)
threading.Thread(target=beat, daemon=True).start()
for line in sys.stdin:
    if '"shutdown"' in line:
        break
"""

Part = Callable[[], Mapping[str, list[float]]]


def measures(workers: int) -> list[Measure]:
    """The rows of the report."""
    beats = f"{workers * BEATS_PER_S:,}"
    return [
        Measure("silent", f"{workers} SDK workers that are silent", "%"),
        Measure("heard", f"{beats} heartbeats a second", "%", "silent"),
        Measure("beating", f"{beats} heartbeats a second, with one sample each", "%", "silent"),
    ]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    quick: bool = options.quick
    workers = WORKERS_QUICK if quick else WORKERS
    with bench.folder() as folder:
        beater = _beater(folder)
        times = (SETTLE_QUICK_S, WATCH_QUICK_S) if quick else (SETTLE_S, WATCH_S)
        parts = [
            _part(folder, "silent", [*beater, "0.01"], workers, times),
            _part(folder, "heard", [*beater, str(BEATS_PER_S)], workers, times),
            _part(folder, "beating", [*beater, str(BEATS_PER_S)], workers, times),
        ]
        taken = bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, parts)
    bench.report("idle", measures(workers), taken, machine, options)


def _beater(folder: Path) -> list[str]:
    """The command of a worker, without how often it beats."""
    compiler = shutil.which("cc")
    if compiler is None:
        return [*PYTHON, "-c", BEATER]
    program = folder / "beater"
    subprocess.run([compiler, "-O2", "-o", program, HERE / "beater.c"], check=True)
    program.chmod(0o755)
    return [str(program)]


def _part(folder: Path, name: str, command: list[str], workers: int, times: tuple[float, float]) -> Part:
    is_watched = name == "beating"
    look_s = 1 / BEATS_PER_S if is_watched else 5
    unwatched = "" if is_watched else "max_memory_bytes = 0\nenable_resource_tracking = false\n"
    config = (
        f"process.max_concurrent_processes = {workers}\n"
        f"[agents.beater]\ncommand = {json.dumps(command)}\ninstances = {workers}\n"
        f'monitoring.metrics_interval = {look_s}\nmonitoring.heartbeat_timeout = "1h"\n'
        f"[agents.beater.resources]\n{unwatched}"
    )
    settle_s, watch_s = times

    def part() -> Mapping[str, list[float]]:
        with Daemon(folder / name, config) as daemon:
            daemon.await_ready()
            time.sleep(settle_s)
            pids = (daemon.process.pid, daemon.launcher)
            began, before_s = time.monotonic(), sum(map(_used_s, pids))
            time.sleep(watch_s)
            used_s = sum(map(_used_s, pids)) - before_s
            return {name: [100 * used_s / (time.monotonic() - began)]}

    return part


def _used_s(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


if __name__ == "__main__":
    main()
