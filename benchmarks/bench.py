"""What the benchmarks share: interleaved rounds, medians with their spread, JSON and tables, a daemon.

A benchmark answers one question and runs alone. Its measures take turns in rounds, so that what
disturbs the machine disturbs all of them; a ratio is made within a round, and the median of these is
what may be quoted. Nothing here fails because of a time.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import select
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corral.worker.client.sync import Client

ROOT = Path(__file__).resolve().parents[1]

BIN = Path(sys.executable).parent

BOUND_S = 60.0
"""Every wait for something measured ends after this long, by failing."""

BUSY_PERCENT = 10.0
"""When others used more of the processors than this during a run, its table says so."""

ENVIRON = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "PYTHON"))}
"""What measured processes get: PYTHONDONTWRITEBYTECODE, say, would have them compile at every start."""
ENVIRON["PATH"] = f"{BIN}:{ENVIRON.get('PATH', os.defpath)}"

PYTHON = [str(BIN / "python")]


# --- measures and what became of them -------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One row of the table: its words, its unit, and the row that it is compared with."""

    name: str
    what: str
    unit: str
    against: str | None = None


Rounds = dict[str, list[list[float]]]
"""Name of a measure -> what each round gave: one value, or one per repetition."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of at least one value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def row(measure: Measure, rounds: Rounds) -> dict[str, Any]:  # Any: JSON
    """What the report says about one measure; a ratio and a difference are made within each round."""
    taken = rounds[measure.name]
    values = sorted(value for each in taken for value in each)
    found: dict[str, Any] = {
        "name": measure.name,
        "what": measure.what,
        "unit": measure.unit,
        "n": len(values),
        **spread(values),
        "p99": values[int(0.99 * (len(values) - 1))] if len(values) >= 100 else None,
        "against": measure.against,
        "ratio": None,
        "over": None,
    }
    if measure.against is not None:
        pairs = [
            (statistics.median(mine), statistics.median(base))
            for mine, base in zip(taken, rounds[measure.against], strict=True)
        ]
        # Processor time of a quick run may be less than a tick of its clock.
        ratios = [mine / base for mine, base in pairs if base]
        found["ratio"] = spread(ratios) if ratios else None
        found["over"] = spread([mine - base for mine, base in pairs])
    return found


def interleaved(count: int, parts: Sequence[Callable[[], Mapping[str, list[float]]]]) -> Rounds:
    """Runs all parts `count` times, every other round backwards: no part always follows the same one."""
    rounds: Rounds = {}
    for number in range(count):
        for part in parts if number % 2 == 0 else reversed(parts):
            for name, values in part().items():
                rounds.setdefault(name, []).append(values)
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {count}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return rounds


# --- the report -----------------------------------------------------------------------------------


class Machine:
    """The machine, and what others did on it from the moment this was made."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self._began = self._others()

    def record(self) -> dict[str, Any]:  # Any: JSON
        """Machine and run, for the report."""
        busy_s, passed_s = (now - then for now, then in zip(self._others(), self._began, strict=True))
        cpus = os.cpu_count() or 1
        cpu = next(
            line.partition(":")[2].strip()
            for line in [*Path("/proc/cpuinfo").read_text().splitlines(), "model name: unknown"]
            if line.startswith("model name")
        )
        return {
            "cpu": cpu,
            "cpus": cpus,
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "commit": commit(),
            "load_before": self.load_before,
            "load_after": os.getloadavg()[0],
            "others_cpu_percent": max(0.0, 100 * busy_s / (passed_s * cpus)),
        }

    @staticmethod
    def _others() -> tuple[float, float]:
        """Seconds of processor time that are not ours or our children's, and the clock."""
        fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        idle = fields[3] + fields[4]
        all_s = (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return all_s - sum(used.ru_utime + used.ru_stime for used in both), time.monotonic()


def report(
    question: str,
    measures: Sequence[Measure],
    rounds: Rounds,
    machine: Machine,
    options: argparse.Namespace,
    notes: Sequence[str] = (),
) -> None:
    """Prints the table, and writes the JSON file when one was asked for.

    `notes` are sentences beside the table; `NAME: why` tells why the rows of a name are not there.
    """
    record = {
        "benchmark": question,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(["benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "quick": options.quick,
        "machine": machine.record(),
        "rows": [row(measure, rounds) for measure in measures],
        "notes": list(notes),
    }
    print(table(record))
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def table(record: Mapping[str, Any]) -> str:  # Any: JSON
    """The record for people; also what docs/explanation/benchmarks.md shows."""
    header = ["what", "n", "median", "min..max", "ratio", "min..max", "over it"]
    lines = [header, ["---:"] * len(header)]
    for each in record["rows"]:
        unit = each["unit"]
        what = each["what"]
        if each["p99"] is not None:
            what += f" (p99 {number(each['p99'])} {unit})"
        ratio, over = each["ratio"], each["over"]
        lines.append(
            [
                what,
                str(each["n"]),
                f"{number(each['median'])} {unit}",
                f"{number(each['min'])}..{number(each['max'])}",
                "" if ratio is None else f"{number(ratio['median'])} of {each['against']}",
                "" if ratio is None else f"{number(ratio['min'])}..{number(ratio['max'])}",
                "" if over is None else f"{over['median']:+.1f} {unit}",
            ]
        )
    text = aligned(lines)
    notes = [line for note in record["notes"] for line in ("", note)]
    return "\n".join([text, "", machine_line(record), *notes])


def aligned(lines: list[list[str]]) -> str:
    """A table whose second line says which columns are numbers (`---:`); the first never is."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    is_number = [column and mark.endswith(":") for column, mark in enumerate(lines[1])]
    lines[1] = [
        "-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, is_number, strict=True)
    ]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        )
        + " |"
        for line in lines
    )


def commit() -> str | None:
    """The short name of what is checked out, `+` if it was changed since; None where that cannot be told."""
    if shutil.which("git") is None:
        return None
    commands = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    done = [
        subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, check=False) for command in commands
    ]
    if any(each.returncode for each in done):
        return None
    name, changes = (each.stdout.decode().strip() for each in done)
    return name + ("+" if changes else "")


def machine_line(record: Mapping[str, Any]) -> str:  # Any: JSON
    """One sentence about where and how the figures came about."""
    machine = record["machine"]
    words = (
        f"{record['at'][:10]}, {machine['cpus']} processors {machine['cpu']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}; load {machine['load_before']:.1f} before and "
        f"{machine['load_after']:.1f} after; others used {machine['others_cpu_percent']:.0f} % "
        "of the processors meanwhile"
    )
    if machine["others_cpu_percent"] > BUSY_PERCENT:
        words += "; the machine was busy: trust the ratios, not the times"
    if machine["commit"] is not None:
        words += f"; commit {machine['commit']}"
    if record["quick"]:
        words += "; --quick: too few rounds to quote"
    return words + "."


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def arguments(
    question: str, add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None
) -> argparse.Namespace:
    """The options that every benchmark takes, and those of one."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    add_options(parser)
    return parser.parse_args()


# --- processes ------------------------------------------------------------------------------------


def process_ms(*command: str) -> float:
    """How long a process takes from before its start until it has been waited for."""
    began = time.perf_counter()
    done = subprocess.run(
        command, env=ENVIRON, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    passed_ms = (time.perf_counter() - began) * 1000
    assert done.returncode == 0, (command, done)
    return passed_ms


def wait(process: subprocess.Popen[bytes]) -> int:
    """The exit status, as soon as there is one: Popen.wait with a timeout looks every 50 ms only."""
    pidfd = os.pidfd_open(process.pid)
    try:
        readable, _, _ = select.select([pidfd], [], [], BOUND_S)
    finally:
        os.close(pidfd)
    assert readable, f"{process.args!r} did not end within {BOUND_S:.0f} s"
    return process.wait()


def memory_mb(pid: int) -> tuple[float, float]:
    """RSS and PSS of one process, in MB."""
    rollup = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    rss, pss = (int(rollup[key].split()[0]) * 1024 / 1e6 for key in ("Rss", "Pss"))
    return rss, pss


def cpu_s(pid: int) -> float:
    """The processor time that one process has used, without that of its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The direct children of all threads of a process."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@contextlib.contextmanager
def folder() -> Generator[Path]:
    """A temporary folder that other users may look into, since agents may run as one."""
    path = Path(tempfile.mkdtemp(prefix="corral-bench-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def used_s(pid: int) -> float:
    """Returns the processor seconds of a process with all its threads."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


class Daemon:
    """A daemon of the checkout with its files in a folder of its own; a `with` ends it.

    Args:
        where: a folder, made if need be; the configuration's relative names lead there.
        config: the text of corral.toml.
    """

    def __init__(self, where: Path, config: str) -> None:
        where.mkdir(exist_ok=True)
        self.socket = str(where / "corral.sock")
        (where / "corral.toml").write_text(config)
        (where / "notify.sock").unlink(missing_ok=True)
        self._log = where / "daemon.log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self._log.open("ab") as log:
            notified.bind(str(where / "notify.sock"))
            self.began = time.perf_counter()
            self.process = subprocess.Popen(
                [
                    str(BIN / "corrald"),
                    f"--config={where / 'corral.toml'}",
                    f"--socket={self.socket}",
                    f"--state-dir={where / 'state'}",
                ],
                env={**ENVIRON, "NOTIFY_SOCKET": str(where / "notify.sock")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                pidfd = os.pidfd_open(self.process.pid)
                readable, _, _ = select.select([notified.fileno(), pidfd], [], [], BOUND_S)
                self.ready_ms = (time.perf_counter() - self.began) * 1000
                os.close(pidfd)
                assert notified.fileno() in readable, "the daemon ended, or did not become ready"
                assert notified.recv(256) == b"READY=1", "that is what it says first"
            except BaseException:
                self.process.kill()
                self.process.wait()
                sys.stderr.write(self._log.read_text())
                raise

    def await_ready(self) -> float:
        """Waits until every worker that is wanted is Ready; returns the ms since the start."""
        with Client(self.socket) as client:
            client.call("event.follow", {"types": ["worker.state"]}, timeout_s=BOUND_S)
            status: Any = client.call("daemon.status", timeout_s=BOUND_S)
            missing = {
                worker["id"] for agent in status["agents"] for worker in agent["workers"] if worker["state"] != "Ready"
            }
            changes = client.notifications()
            while missing:
                told: Any = next(changes).params
                for event in told["events"]:
                    assert event["to"] != "Terminated", self._log.read_text()
                    if event["to"] == "Ready":
                        missing.discard(event["worker"])
            return (time.perf_counter() - self.began) * 1000

    @property
    def launcher(self) -> int:
        """The pid of the launcher: the daemon's only child."""
        (pid,) = children(self.process.pid)
        return pid

    def stop_ms(self) -> float:
        """SIGTERM; returns how long it took until the daemon had exited."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        status = wait(self.process)
        passed_ms = (time.perf_counter() - began) * 1000
        assert status == 0, (status, self._log.read_text())
        return passed_ms

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(BOUND_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
