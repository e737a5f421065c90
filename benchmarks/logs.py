"""How fast are logs captured, and what does it cost?

Numbered lines of 100 bytes, 200 MB and 500 MB of them, from one worker and from fifty, attributed, with times, and rotated,
against others that keep what programs print, in the same rounds (`loggers.py`): `cat`, the least in C (`copier.c`),
s6-log with times and without, supervisord. After each round all files are read: what the others lost or cut is told below
the table, and if corral did, the benchmark ends. The others are put into a temporary folder, or `--peers FOLDER`; who cannot be had, or no C
compiler, is left out with a word, and with --quick whoever is neither in that folder nor on the PATH.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import loggers
import long_line
import peers
from bench import BOUND_S, Daemon, Measure
from loggers import Flood, Kept

HERE = Path(__file__).parent

WIDTH = 100
PREFIX = 40
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
    megabytes: tuple[int, ...]
    kept_bytes: int
    reads: int
    workers: tuple[int, ...] = (1, 50)


WHOLE = Size(rounds=5, megabytes=(200, 500), kept_bytes=1_000_000_000, reads=20)
QUICK = Size(rounds=1, megabytes=(4,), kept_bytes=10_000_000, reads=2, workers=(1, 5))

CORRAL = "corral"

BASE = "cat"
"""Which all others are compared with."""


@dataclass
class Keepers:
    """Whoever is there to keep what is printed, by a short name, and what they did wrong."""

    by_name: dict[str, tuple[str, Callable[[Flood, Path], Kept]]]
    wrong: Counter[str] = field(default_factory=Counter[str])
    """Lines lost and files that end inside a line, of each."""
    floods: Counter[str] = field(default_factory=Counter[str])
    notes: list[str] = field(default_factory=list[str])
    """Who is left out, and why."""

    def part(self, name: str, flood: Flood, folder: Path, suffix: str) -> Found:
        """One flood to one supervisor."""
        kept = self.by_name[name][1](flood, folder / f"{name}-{suffix}")
        self.wrong[f"{name} lost"] += kept.lost
        self.wrong[f"{name} cut"] += kept.cut
        self.floods[name] += flood.lines * flood.workers
        assert name != CORRAL or not kept.lost + kept.cut, f"corral has lost or cut lines: {kept}"
        giga = flood.size_bytes / 1e9
        found = {
            f"{name}_{suffix}": [giga * 1000 / kept.passed_s],
            f"{name}_cpu_{suffix}": [max(kept.cpu_s, 0.001) / giga],
        }
        if kept.rss_mb is not None:
            before, after = f"{name}_rss_before_{suffix}", f"{name}_rss_after_{suffix}"
            found |= {before: [kept.rss_mb[0]], after: [kept.rss_mb[1]]}
        if kept.answers_ms:
            found[f"{name}_status_{suffix}"] = kept.answers_ms
        return found

    def told(self) -> str:
        """What all of them did wrong."""
        words = [
            f"{self.by_name[name][0]}: of {self.floods[name]} lines {self.wrong[f'{name} lost']} lost,"
            f" {self.wrong[f'{name} cut']} cut in two"
            for name in self.by_name
        ]
        return "read back from the files: " + "; ".join(words) + "."


def measures(size: Size, supervisors: Keepers) -> list[Measure]:
    """The rows."""
    rows: list[Measure] = []
    floods = [(mega, workers) for mega in size.megabytes for workers in size.workers]
    for what, unit, infix in (("", "MB/s", ""), ("CPU, ", "s/GB", "cpu_")):
        for mega, workers in floods:
            suffix = _suffix(mega, workers)
            for name, (words, _) in supervisors.by_name.items():
                base = None if name == BASE else f"{BASE}_{infix}{suffix}"
                text = f"{words}: {what}{mega} MB from {workers}"
                rows.append(Measure(f"{name}_{infix}{suffix}", text, unit, base))
    for mega, workers in floods:
        suffix = _suffix(mega, workers)
        text = f"`daemon.status` while {mega} MB come from {workers}"
        rows.append(Measure(f"{CORRAL}_status_{suffix}", text, "ms"))
    for name, words in ((CORRAL, "corrald"), ("supervisord", "supervisord")):
        for workers in size.workers if name in supervisors.by_name else ():
            mega = max(size.megabytes)
            suffix = _suffix(mega, workers)
            before = f"{name}_rss_before_{suffix}"
            text = f"{mega} MB from {workers}"
            rows.append(Measure(before, f"RSS of {words} before {text}", "MB"))
            rows.append(Measure(f"{name}_rss_after_{suffix}", f"RSS of {words} after {text}", "MB", before))
    long = f"the last 100 lines of a log of {size.kept_bytes / 1e6:.0f} MB"
    return [
        *rows,
        Measure("last_short", "the last 100 lines of a log of 1 MB", "ms"),
        Measure("last_long", long, "ms", "last_short"),
        *long_line.measures(long_line.scenes(quick=size is QUICK)),
    ]


def _suffix(megabytes: int, workers: int) -> str:
    return f"{megabytes}_{workers}"


def main() -> None:
    options = bench.arguments(__doc__ or "", _add_options)
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    with bench.folder() as folder:
        printer, copier = _programs(folder, shutil.which("cc"))
        supervisors = _supervisors(copier, options.peers or (None if options.quick else folder / "peers"))
        parts: list[Part] = []
        for mega in size.megabytes:
            for workers in size.workers:
                lines = mega * 1_000_000 // WIDTH // workers
                flood = Flood([*printer, str(lines), str(WIDTH)], workers, lines, WIDTH)
                suffix = _suffix(mega, workers)
                parts += [partial(supervisors.part, name, flood, folder, suffix) for name in supervisors.by_name]
        parts.append(lambda: _last_lines(folder, size, printer))
        for scene in long_line.scenes(quick=options.quick):
            parts.append(partial(long_line.taken, folder / f"long-{scene.name}", scene))
        taken = bench.interleaved(size.rounds, parts)
    notes = [*supervisors.notes, supervisors.told()]
    bench.report("logs", measures(size, supervisors), taken, machine, options, notes)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", metavar="FOLDER", type=Path, help="where the others are, or are put and kept")


def _programs(folder: Path, compiler: str | None) -> tuple[list[str], Path | None]:
    """The command of the printer, without its count, and the copier."""
    if compiler is None:
        return [sys.executable, "-c", PRINTER], None
    for name in ("copier", "printer"):
        source = str(HERE / f"{name}.c")
        subprocess.run([compiler, "-O2", "-o", str(folder / name), source], check=True)
    return [str(folder / "printer")], folder / "copier"


def _supervisors(copier: Path | None, where: Path | None) -> Keepers:
    """Those that are there, in the order of the table; peers from their folder, else from the PATH."""
    found = Keepers({BASE: ("`cat` to a file each", loggers.by_cat)})
    if copier is None:
        found.notes.append("copier: left out, no C compiler")
    else:
        found.by_name["copier"] = ("C: copy to files", partial(loggers.by_copier, copier=copier))
    found.by_name[CORRAL] = ("corrald", _by_corral)
    root = None if where is None else peers.from_debian(where, "s6")
    program = shutil.which("s6-log") if root is None else str(root / "usr/bin/s6-log")
    if program is None:
        found.notes.append("s6: left out, it is neither on the PATH nor could it be downloaded")
    else:
        environment = bench.ENVIRON if root is None else peers.debian_environment(root)
        by_s6_log = partial(loggers.by_s6_log, program=program, environment=environment)
        found.by_name["s6_stamped"] = ("s6-log with times", partial(by_s6_log, stamped=True))
        found.by_name["s6"] = ("s6-log without", partial(by_s6_log, stamped=False))
    programs = None if where is None else peers.from_pypi(where, "supervisor")
    program = shutil.which("supervisord") if programs is None else str(programs / "supervisord")
    if program is None:
        found.notes.append("supervisord: left out, it is neither on the PATH nor could it be had")
    else:
        by_supervisord = partial(loggers.by_supervisord, program=program)
        found.by_name["supervisord"] = ("supervisord, no times", by_supervisord)
    return found


def _by_corral(flood: Flood, folder: Path) -> Kept:
    shown = ", ".join(map(repr, flood.command))
    config = CONFIG.format(command=shown, workers=flood.workers, file_bytes=FILE_BYTES)
    with Daemon(folder, config) as daemon, Client(daemon.socket) as client:
        pids = (daemon.process.pid, daemon.launcher)
        before_mb, used_before_s = bench.memory_mb(pids[0])[0], sum(map(bench.cpu_s, pids))
        began = time.perf_counter()
        client.call("agent.start", {"names": ["flood"], "wait": False}, timeout_s=BOUND_S)
        answers_ms = _await_ends(client)
        passed_s = time.perf_counter() - began
        cpu_s = sum(map(bench.cpu_s, pids)) - used_before_s
        rss_mb = (before_mb, bench.memory_mb(pids[0])[0])
    logs = folder / "state" / "logs" / "flood"
    files = (loggers.numbered(logs, f"flood-{number}.log") for number in range(flood.workers))
    lost, cut = loggers.read_back(files, flood, PREFIX)
    shutil.rmtree(folder)
    return Kept(passed_s, cpu_s, lost, cut, rss_mb, answers_ms)


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


def _last_lines(folder: Path, size: Size, printer: list[str]) -> Found:
    """The same question to a short log and to a long one."""
    found: Found = {}
    for name, kept_bytes in (("last_short", 1_000_000), ("last_long", size.kept_bytes)):
        where = folder / name
        arguments = [*printer, str(kept_bytes // WIDTH), str(WIDTH)]
        command = ", ".join(map(repr, arguments))
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
