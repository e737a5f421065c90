"""How fast are logs captured, and what does it cost?

Numbered lines of 100 bytes from one worker and from fifty, attributed, with times, and rotated, against a C program
that copies the pipes to files as they are (`copier.c`), in the same rounds. After each round all files are read:
a line that is missing, cut, repeated or out of order ends the benchmark. Without a C compiler there is nothing to
compare with; the report says so.
"""

import gzip
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.worker.client import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure

HERE = Path(__file__).parent

WIDTH = 100
PREFIX = 40
MANY = 50
PAUSE_S = 0.005
"""Between two looks at the status: they are not to be what keeps the daemon busy."""

PRINTER = f"""
import os, sys
count = int(sys.argv[1])
for first in range(0, count, 600):
    some = range(first, min(first + 600, count))
    os.write(1, b"".join(b"%0{WIDTH - 1}d\\n" % number for number in some))
"""
"""Where there is no compiler."""

CONFIG = """
process.max_concurrent_processes = 100
[agents.flood]
command = [{command}]
protocol = "none"
instances = {workers}
autostart = false
recovery.restart = "never"
monitoring.max_log_files = 1000
monitoring.max_log_file_bytes = {file_bytes}
"""

FILE_BYTES = 10 * 1024 * 1024
"""As by default."""

Found = dict[str, list[float]]
Part = Callable[[], Found]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    size_bytes: int
    kept_bytes: int
    reads: int


WHOLE = Size(rounds=5, size_bytes=500_000_000, kept_bytes=1_000_000_000, reads=20)
QUICK = Size(rounds=1, size_bytes=20_000_000, kept_bytes=50_000_000, reads=3)


def measures(size: Size, has_compiler: bool) -> list[Measure]:
    """The rows; those of the C program, and the ratios to them, only where there is one."""
    mega = f"{size.size_bytes / 1e6:.0f} MB"
    rows = [
        Measure("copy_one", f"C: copy of {mega} from one pipe", "MB/s"),
        Measure("cat_one", f"`cat` of {mega} to a file", "MB/s", "copy_one"),
        Measure("one", f"corrald: {mega} from one worker", "MB/s", "copy_one"),
        Measure("copy_many", f"C: copy of {mega} from {MANY} pipes", "MB/s"),
        Measure("many", f"corrald: {mega} from {MANY} workers", "MB/s", "copy_many"),
        Measure("copy_cpu_one", "C: CPU, one pipe", "s/GB"),
        Measure("cpu_one", "corrald: CPU, one worker", "s/GB", "copy_cpu_one"),
        Measure("copy_cpu_many", f"C: CPU, {MANY} pipes", "s/GB"),
        Measure("cpu_many", f"corrald: CPU, {MANY} workers", "s/GB", "copy_cpu_many"),
        Measure("status_one", "`daemon.status` while one worker floods", "ms"),
        Measure("status_many", f"`daemon.status` while {MANY} flood", "ms"),
        Measure("rss_before", "RSS of corrald before", "MB"),
        Measure("rss_one", "RSS of corrald after one", "MB", "rss_before"),
        Measure("rss_many", f"RSS of corrald after {MANY}", "MB", "rss_before"),
        Measure("last_short", "the last 100 lines of a log of 1 MB", "ms"),
        Measure(
            "last_long",
            f"the last 100 lines of a log of {size.kept_bytes / 1e6:.0f} MB",
            "ms",
            "last_short",
        ),
    ]
    if has_compiler:
        return rows
    left = [row for row in rows if not row.name.startswith("copy")]
    return [
        Measure(r.name, r.what, r.unit, None if (r.against or "").startswith("copy") else r.against)
        for r in left
    ]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    compiler = shutil.which("cc")
    with bench.folder() as folder:
        programs = _programs(folder, compiler)
        parts = [
            *_copies(folder, size, programs, compiler),
            lambda: _captured(folder, size, programs, 1, "one"),
            lambda: _captured(folder, size, programs, MANY, "many"),
            lambda: _last_lines(folder, size, programs),
        ]
        taken = bench.interleaved(size.rounds, parts)
    bench.report("logs", measures(size, compiler is not None), taken, machine, options)


def _programs(folder: Path, compiler: str | None) -> list[str]:
    """The command of the printer, without its count; the copier is compiled beside it."""
    if compiler is None:
        print("no C compiler: nothing to compare with", file=sys.stderr)
        return [sys.executable, "-c", PRINTER]
    for name in ("copier", "printer"):
        source = str(HERE / f"{name}.c")
        subprocess.run([compiler, "-O2", "-o", str(folder / name), source], check=True)
    return [str(folder / "printer")]


def _arguments(programs: list[str], size_bytes: int, workers: int) -> list[str]:
    return [*programs, str(size_bytes // WIDTH // workers), str(WIDTH)]


def _copies(folder: Path, size: Size, programs: list[str], compiler: str | None) -> list[Part]:
    def copy(workers: int, name: str) -> Found:
        target = folder / f"copy-{name}"
        target.mkdir()
        command = _arguments(programs, size.size_bytes, workers)
        began, cpu = time.perf_counter(), _children_cpu_s()
        subprocess.run([folder / "copier", target, str(workers), *command], check=True)
        passed_s = time.perf_counter() - began
        # The printers' own time is in it, too; in corrald's it is not: they are the launcher's children.
        used_s = _children_cpu_s() - cpu - _printing_s(command, workers)
        shutil.rmtree(target)
        giga = size.size_bytes / 1e9
        return {
            f"copy_{name}": [giga * 1000 / passed_s],
            f"copy_cpu_{name}": [max(used_s, 0.001) / giga],
        }

    def cat() -> Found:
        with (folder / "cat").open("wb") as target:
            began = time.perf_counter()
            printer = subprocess.Popen(
                _arguments(programs, size.size_bytes, 1), stdout=subprocess.PIPE
            )
            subprocess.run(["cat"], stdin=printer.stdout, stdout=target, check=True)
            assert printer.stdout is not None, "it is a pipe"
            printer.stdout.close()
            assert printer.wait(BOUND_S) == 0
            passed_s = time.perf_counter() - began
        (folder / "cat").unlink()
        return {"cat_one": [size.size_bytes / 1e6 / passed_s]}

    if compiler is None:
        return [cat]
    return [lambda: copy(1, "one"), cat, lambda: copy(MANY, "many")]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _printing_s(command: list[str], workers: int) -> float:
    """What the printers use by themselves."""
    before = _children_cpu_s()
    with open(os.devnull, "wb") as nowhere:
        for _ in range(workers):
            subprocess.run(command, stdout=nowhere, check=True)
    return _children_cpu_s() - before


def _captured(folder: Path, size: Size, programs: list[str], workers: int, name: str) -> Found:
    where = folder / f"capture-{name}"
    command = _arguments(programs, size.size_bytes, workers)
    shown = ", ".join(map(repr, command))
    config = CONFIG.format(command=shown, workers=workers, file_bytes=FILE_BYTES)
    with Daemon(where, config) as daemon, Client(daemon.socket) as client:
        pid = daemon.process.pid
        rss_before, cpu_before = bench.memory_mb(pid)[0], _cpu_s(pid)
        began = time.perf_counter()
        client.call("agent.start", {"names": ["flood"], "wait": False}, timeout_s=BOUND_S)
        answers = _await_ends(client)
        passed_s = time.perf_counter() - began
        used_s = _cpu_s(pid) - cpu_before
        rss_after = bench.memory_mb(pid)[0]
    count = size.size_bytes // WIDTH // workers
    for number in range(workers):
        _check(where / "state" / "logs" / "flood", f"flood-{number}", count)
    shutil.rmtree(where)
    found = {
        name: [size.size_bytes / 1e6 / passed_s],
        f"cpu_{name}": [used_s / (size.size_bytes / 1e9)],
        f"status_{name}": answers,
        f"rss_{name}": [rss_after],
    }
    return found | ({"rss_before": [rss_before]} if workers == 1 else {})


def _await_ends(client: Client) -> list[float]:
    """Asks for the status until all workers have ended; returns how long each answer took, in ms."""
    answers: list[float] = []
    deadline = time.monotonic() + BOUND_S
    while True:
        asked = time.perf_counter()
        status: Any = client.call("daemon.status", {}, timeout_s=BOUND_S)
        answers.append((time.perf_counter() - asked) * 1000)
        (agent,) = status["agents"]
        if all(worker["state"] == "Terminated" for worker in agent["workers"]):
            return answers
        assert time.monotonic() < deadline, status
        time.sleep(PAUSE_S)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _check(folder: Path, worker: str, count: int) -> None:
    """Every line once, whole and in order, over all files."""
    names = [
        path
        for path in folder.iterdir()
        if re.fullmatch(rf"{worker}\.log(\.\d+(\.gz)?)?", path.name)
    ]
    names.sort(key=lambda path: int([*path.name.split("."), "0"][2]), reverse=True)
    expected = 0
    for path in names:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert data.endswith(b"\n"), f"{path} ends inside a line"
        for line in data[:-1].split(b"\n"):
            assert len(line) == PREFIX + WIDTH - 1, f"a line of {path} is cut: {line!r}"
            assert int(line[PREFIX:]) == expected, f"{path}: {line!r} is not {expected}"
            expected += 1
    assert expected == count, f"{worker}: {expected} lines of {count}"


def _last_lines(folder: Path, size: Size, programs: list[str]) -> Found:
    """The same question to a short log and to a long one."""
    found: Found = {}
    for name, kept_bytes in (("last_short", 1_000_000), ("last_long", size.kept_bytes)):
        where = folder / name
        command = ", ".join(map(repr, _arguments(programs, kept_bytes, 1)))
        # In a few files, as by default: to list a hundred takes time of its own.
        config = CONFIG.format(command=command, workers=1, file_bytes=kept_bytes // 3)
        with Daemon(where, config) as daemon, Client(daemon.socket) as client:
            client.call("agent.start", {"names": ["flood"], "wait": False}, timeout_s=BOUND_S)
            _await_ends(client)
            found[name] = []
            for _ in range(size.reads):
                asked = time.perf_counter()
                answer: Any = client.call("log.read", {"n": 100}, timeout_s=BOUND_S)
                found[name].append((time.perf_counter() - asked) * 1000)
                last = kept_bytes // WIDTH - 1
                assert [int(r["text"]) for r in answer["records"]] == [*range(last - 99, last + 1)]
        shutil.rmtree(where)
    return found


if __name__ == "__main__":
    main()
