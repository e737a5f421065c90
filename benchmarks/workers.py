"""What do 1,000 workers cost: their start, a look at them, keeping them, a death, their end?

Programs that do nothing, under the daemon (`protocol = "none"`), against the least that keeps
processes: a C program of posix_spawn and waitpid, `least.c`, in the same rounds. A worker counts from
its own main(), which it tells through a FIFO. Without a C compiler there is nothing to compare with;
the report says so.
"""

import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BIN, BOUND_S, PYTHON, Daemon, Measure


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    workers: int
    calls: int
    kills: int
    idle_s: float


WHOLE = Size(rounds=5, workers=1000, calls=20, kills=50, idle_s=20.0)
QUICK = Size(rounds=1, workers=50, calls=5, kills=5, idle_s=0.5)

SETTLE_S = 0.3
"""Between Ready and a look at the memory."""

NAME = "sleeper"

HERE = Path(__file__).parent

CORRAL = str(BIN / "corral")

CONFIG = """
process.max_concurrent_processes = {workers}
[agents.{name}]
command = [{command}]
protocol = "none"
instances = {workers}
"""

Found = dict[str, list[float]]
Part = Callable[[], Found]


def measures(size: Size, has_compiler: bool) -> list[Measure]:
    """The rows; those of the C program, and the ratios to them, only where there is one."""
    n = f"{size.workers:,}"
    rows = [
        Measure("bare", "`python -c pass`", "ms"),
        Measure("least_start", f"C: start of {n} to the last main()", "ms"),
        Measure("start", f"corrald's start to the last of {n} main()", "ms", "least_start"),
        Measure("again", f"`agent.start` of all {n} to the last main()", "ms", "least_start"),
        Measure("ready", f"corrald's start to all {n} Ready", "ms", "least_start"),
        Measure("least_restart", "C: kill -9 of a worker to the next main()", "ms"),
        Measure("restart", "kill -9 of a worker to the next main()", "ms", "least_restart"),
        Measure("least_stop", f"C: stop of {n}, to its own end", "ms"),
        Measure("stop", f"`agent.stop` of all {n} to its answer", "ms", "least_stop"),
        Measure("end", f"SIGTERM to the end of corrald with {n}", "ms", "least_stop"),
        Measure("rpc_status", f"`daemon.status` of {n} over an open socket", "ms"),
        Measure("cli_status", f"`corral status` of {n}", "ms", "bare"),
        Measure("cli_json", f"`corral --json status` of {n}", "ms", "bare"),
        Measure("idle", f"CPU of corrald and launcher, {n} idle", "%"),
        Measure("pss_none", "PSS of corrald and launcher, no worker", "MB"),
        Measure("pss", f"PSS of corrald and launcher, {n} workers", "MB", "pss_none"),
        Measure("pss_daemon_each", "PSS of corrald, for each worker", "kB"),
        Measure("pss_launcher_each", "PSS of the launcher, for each worker", "kB"),
    ]
    if has_compiler:
        return rows
    return [
        Measure(row.name, row.what, row.unit, None if (row.against or "") in LEAST else row.against)
        for row in rows
        if row.name not in LEAST
    ]


LEAST = ("least_start", "least_restart", "least_stop")


class Births:
    """The FIFO in which workers say that they are in their main()."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        path.chmod(0o666)  # agents may run as another user
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # never at its end
        self._rest = b""

    def next(self, count: int = 1, within_s: float = BOUND_S) -> list[tuple[int, float]]:
        """The next so many: pid, and seconds of the monotonic clock."""
        found: list[tuple[int, float]] = []
        until = time.monotonic() + within_s
        while len(found) < count:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                pid, at_ns = line.split()
                found.append((int(pid), int(at_ns) / 1e9 or time.monotonic()))
                continue
            assert time.monotonic() < until, f"{len(found)} of {count} workers have begun"
            if select.select([self._fd], [], [], 1.0)[0]:
                self._rest += os.read(self._fd, 65536)
        return found

    def forget(self) -> None:
        """Whoever has begun until now."""
        self._rest = b""
        while select.select([self._fd], [], [], 0)[0]:
            os.read(self._fd, 65536)

    def last(self, count: int) -> float:
        """When the last of so many began."""
        return max(at for _pid, at in self.next(count))

    def after_kill_ms(self, pids: list[int]) -> list[float]:
        """Kills one worker after the other; how long until the next in its place was in its main()."""
        found: list[float] = []
        for pid in pids:
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            found.append((self.last(1) - began) * 1000)
        return found


@dataclass(frozen=True)
class Bench:
    """Where the programs are, and how much of everything."""

    folder: Path
    size: Size
    births: Births
    worker: list[str]
    least: Path | None

    def parts(self) -> list[Part]:
        """What takes turns."""
        parts: list[Part] = [self._bare, self._daemon]
        return [*parts, self._least] if self.least is not None else parts

    def _bare(self) -> Found:
        return {"bare": [bench.process_ms(*PYTHON, "-c", "pass") for _ in range(self.size.calls)]}

    def _least(self) -> Found:
        """The C program: started, robbed of workers, and stopped."""
        began = time.monotonic()
        command = [str(self.least), str(self.size.workers), *self.worker]
        with subprocess.Popen(command, env=bench.ENVIRON, stdin=subprocess.DEVNULL) as process:
            try:
                born = self.births.next(self.size.workers)
                pids = [pid for pid, _at in born[: self.size.kills]]
                restarts = self.births.after_kill_ms(pids)
                stopping = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert bench.wait(process) == 0
            except BaseException:
                process.kill()  # its workers end with it
                raise
        return {
            "least_start": [(max(at for _pid, at in born) - began) * 1000],
            "least_restart": restarts,
            "least_stop": [(time.monotonic() - stopping) * 1000],
        }

    def _daemon(self) -> Found:
        """The daemon: with all of it from its start to its end."""
        size = self.size
        command = ", ".join(f'"{word.replace(chr(36), chr(36) * 2)}"' for word in self.worker)
        config = CONFIG.format(name=NAME, workers=size.workers, command=command)
        shutil.rmtree(self.folder / "many", ignore_errors=True)
        none_mb = self.none_mb()
        with Daemon(self.folder / "many", config) as daemon:
            born = self.births.next(size.workers)
            found: Found = {
                "start": [(max(at for _pid, at in born) - daemon.began) * 1000],
                "ready": [daemon.await_ready()],
            }
            time.sleep(SETTLE_S)
            found["idle"] = [_busy_percent(daemon, size.idle_s)]
            found |= self._looks(daemon)
            daemon_mb, launcher_mb = _pss_mb(daemon)
            found |= {
                "pss_none": [sum(none_mb)],
                "pss": [daemon_mb + launcher_mb],
                "pss_daemon_each": [(daemon_mb - none_mb[0]) / size.workers * 1000],
                "pss_launcher_each": [(launcher_mb - none_mb[1]) / size.workers * 1000],
            }
            found["restart"] = self.births.after_kill_ms([pid for pid, _at in born[: size.kills]])
            daemon.await_ready()
            with Client(daemon.socket) as client:
                began = time.monotonic()
                client.call("agent.stop", {"names": [NAME]}, timeout_s=BOUND_S)
                found["stop"] = [(time.monotonic() - began) * 1000]
                began = time.monotonic()
                client.call("agent.start", {"names": [NAME], "wait": False}, timeout_s=BOUND_S)
                found["again"] = [(self.births.last(size.workers) - began) * 1000]
            daemon.await_ready()
            found["end"] = [daemon.stop_ms()]
        return found

    def _looks(self, daemon: Daemon) -> Found:
        """Status, asked over the socket and by the command."""
        with Client(daemon.socket) as client:
            client.call("daemon.status", timeout_s=BOUND_S)
            rpc: list[float] = []
            for _ in range(self.size.calls):
                began = time.perf_counter()
                client.call("daemon.status", timeout_s=BOUND_S)
                rpc.append((time.perf_counter() - began) * 1000)
        whole = [CORRAL, "--socket", daemon.socket]
        calls = range(self.size.calls)
        return {
            "rpc_status": rpc,
            "cli_status": [bench.process_ms(*whole, "status") for _ in calls],
            "cli_json": [bench.process_ms(*whole, "--json", "status") for _ in calls],
        }

    def none_mb(self) -> tuple[float, float]:
        """PSS of daemon and launcher without a worker."""
        with Daemon(self.folder / "none", "") as daemon:
            time.sleep(SETTLE_S)
            return _pss_mb(daemon)


def _pss_mb(daemon: Daemon) -> tuple[float, float]:
    return bench.memory_mb(daemon.process.pid)[1], bench.memory_mb(daemon.launcher)[1]


def _busy_percent(daemon: Daemon, passed_s: float) -> float:
    """How much of one core the daemon and its launcher use, in nanoseconds by their CPU clocks."""
    pids = (daemon.process.pid, daemon.launcher)
    before_s = sum(map(cpu_s, pids))
    began = time.monotonic()
    time.sleep(passed_s)
    return 100 * (sum(map(cpu_s, pids)) - before_s) / (time.monotonic() - began)


def cpu_s(pid: int) -> float:
    """User and system time of all threads: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def compiled(folder: Path) -> Mapping[str, Path]:
    """The C programs, if there is a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler `cc`: nothing to compare with, and the workers are shells")
        return {}
    programs = {name: folder / name for name in ("least", "sleeper")}
    for name, path in programs.items():
        subprocess.run([compiler, "-O2", "-o", path, HERE / f"{name}.c"], check=True)
        path.chmod(0o755)
    return programs


def command(programs: Mapping[str, Path], births: Births) -> list[str]:
    """The worker: `sleeper`, or where there is no compiler a shell that says the same."""
    if programs:
        return [str(programs["sleeper"]), str(births.path)]
    told = f"echo $$ 0 > {shlex.quote(str(births.path))}; exec sleep 1000000"
    return ["/bin/sh", "-c", told]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    with bench.folder() as folder:
        programs = compiled(folder)
        births = Births(folder / "births")
        worker = command(programs, births)
        this = Bench(folder, size, births, worker, programs.get("least"))
        this.none_mb()  # writes what Python compiles, and fills the page cache
        taken = bench.interleaved(size.rounds, this.parts())
    bench.report("workers", measures(size, bool(programs)), taken, machine, options)


if __name__ == "__main__":
    main()
