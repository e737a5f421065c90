"""How much does a daemon grow, and how long does a ping take, while a worker prints or somebody reads lines of megabytes?

Each scene has a daemon of its own. The growth is the largest RSS that is sampled, beside that right before the scene; a
ping is a `daemon.ping` on a connection of its own, every few milliseconds. Readers are `corral logs`, as a person types it.
Alone: `python -P benchmarks/long_line.py [--quick] [SCENE…]`; the exit status is 1 where the daemon grew by more than AIM_MB.
"""

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure

MIB = 1024 * 1024
PAUSE_S = 0.004
"""Between two samples, and two pings."""

SETTLE_S = 1.0
"""Time for which a daemon is pinged before it is measured: its own start is no growth."""

PRINTER = """
import os, sys
lines, size = int(sys.argv[1]), int(sys.argv[2])
line = memoryview(b"x" * (size - 1) + b"\\n")
for _ in range(lines):
    rest = line
    while rest:
        rest = rest[os.write(1, rest):]
"""

CONFIG = """
[agents.long]
command = [{command}]
protocol = "none"
instances = {workers}
autostart = false
recovery.restart = "never"
monitoring.max_log_files = {files}
monitoring.max_log_file_bytes = {file_bytes}
"""


@dataclass(frozen=True)
class Scene:
    """Lines that workers print, and readers of them."""

    name: str
    words: str
    workers: int
    lines: int
    line_bytes: int
    file_bytes: int
    files: int = 5
    following: int = 0
    """Readers with -f while it is printed."""
    reading: int = 1
    """Readers at the same time once all is printed."""
    compressed: bool = False
    """Whether to read only when the old files are compressed."""

    def smaller(self) -> "Scene":
        """The same with an eighth of the bytes."""
        sizes = (self.line_bytes // 8, max(self.file_bytes // 8, 128 * 1024))
        return Scene(
            self.name,
            self.words,
            self.workers,
            self.lines,
            *sizes,
            self.files,
            self.following,
            self.reading,
            self.compressed,
        )


SCENES = (
    Scene("printed", "one line of 64 MiB, nobody reads", 1, 1, 64 * MIB, 10 * MIB, reading=0),
    Scene("read", "one line of 64 MiB, then `logs`", 1, 1, 64 * MIB, 10 * MIB),
    Scene("followed", "one line of 64 MiB, `logs -f`", 1, 1, 64 * MIB, 10 * MIB, following=1),
    Scene(
        "both", "one line of 64 MiB, 8 times `logs -f`, then 8 times `logs`", 1, 1, 64 * MIB, 10 * MIB,
        following=8, reading=8,
    ),
    Scene(
        "compressed", "one line of 12 MiB in files of 1 MiB, compressed, then `logs`", 1, 1,
        12 * MIB, MIB, files=50, compressed=True,
    ),
    Scene(
        "many", "8 workers with 10 lines of 2 MiB each, `logs -f`, then 8 times `logs`", 8, 10,
        2 * MIB, 10 * MIB, following=1, reading=8,
    ),
)  # fmt: skip


QUICK = ("both", "compressed")

AIM_MB = 32.0


@dataclass
class Watched:
    """What was sampled."""

    rss_bytes: list[int] = field(default_factory=list[int])
    pings_s: list[float] = field(default_factory=list[float])


def measure(where: Path, scene: Scene) -> tuple[float, float]:
    """Returns the MiB by which the daemon grew, and the longest ping in ms."""
    command = [sys.executable, "-c", PRINTER, str(scene.lines), str(scene.line_bytes)]
    config = CONFIG.format(
        command=", ".join(map(_quoted, command)), workers=scene.workers, files=scene.files, file_bytes=scene.file_bytes
    )
    with Daemon(where, config) as daemon, Client(daemon.socket) as client:
        with watched_daemon(daemon):
            time.sleep(SETTLE_S)
        before = _rss_bytes(daemon.process.pid)
        with watched_daemon(daemon) as watched:
            following = [_reader(where, daemon, number, "-f") for number in range(scene.following)]
            client.call("agent.start", {"names": ["long"], "wait": False}, timeout_s=BOUND_S)
            _await_ends(client)
            if scene.compressed:
                _await_compressed(where)
            reading = [_reader(where, daemon, 100 + number, "-n1000") for number in range(scene.reading)]
            for process in reading:
                assert process.wait(4 * BOUND_S) == 0, "it has to answer"
            for process in following:
                process.terminate()
                process.wait(BOUND_S)
    return (max(watched.rss_bytes) - before) / MIB, max(watched.pings_s) * 1000


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _reader(where: Path, daemon: Daemon, number: int, *options: str) -> subprocess.Popen[bytes]:
    with (where / f"read-{number}").open("wb") as out:
        return subprocess.Popen(
            [str(bench.BIN / "corral"), f"--socket={daemon.socket}", "logs", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            env=bench.ENVIRON,
        )


def _await_ends(client: Client) -> None:
    deadline = time.monotonic() + 4 * BOUND_S
    while True:
        status: Any = client.call("daemon.status", {}, timeout_s=BOUND_S)
        if all(worker["state"] == "Terminated" for worker in status["agents"][0]["workers"]):
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def _await_compressed(where: Path) -> None:
    logs = where / "state" / "logs" / "long"
    deadline = time.monotonic() + BOUND_S
    while len(list(logs.glob("*.gz"))) < len(list(logs.glob("*.log.*"))) - 1:
        assert time.monotonic() < deadline, list(logs.iterdir())
        time.sleep(0.05)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@contextlib.contextmanager
def watched_daemon(daemon: Daemon) -> Generator[Watched]:
    watched = Watched()
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(PAUSE_S):
            watched.rss_bytes.append(_rss_bytes(daemon.process.pid))

    def ping() -> None:
        with Client(daemon.socket) as client:
            while not is_over.wait(PAUSE_S):
                asked = time.perf_counter()
                client.call("daemon.ping", {}, timeout_s=BOUND_S)
                watched.pings_s.append(time.perf_counter() - asked)

    threads = [threading.Thread(target=sample), threading.Thread(target=ping)]
    for thread in threads:
        thread.start()
    try:
        yield watched
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def scenes(*, quick: bool) -> list[Scene]:
    """All, or those that say most, with fewer bytes."""
    return [each.smaller() for each in SCENES if each.name in QUICK] if quick else [*SCENES]


def measures(measured: list[Scene]) -> list[Measure]:
    """The rows."""
    return [
        row
        for scene in measured
        for row in (
            Measure(f"long_{scene.name}_growth", f"growth: {scene.words}", "MiB"),
            Measure(f"long_{scene.name}_ping", f"longest ping: {scene.words}", "ms"),
        )
    ]


def taken(where: Path, scene: Scene) -> dict[str, list[float]]:
    """One scene, as rows."""
    growth_mb, ping_ms = measure(where, scene)
    shutil.rmtree(where)
    growth_mb = max(growth_mb, 0.1)  # a daemon may give memory back
    return {f"long_{scene.name}_growth": [growth_mb], f"long_{scene.name}_ping": [ping_ms]}


def main() -> None:
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    excess = False
    for scene in scenes(quick="--quick" in sys.argv):
        if names and scene.name not in names:
            continue
        with bench.folder() as folder:
            growth_mb, ping_ms = measure(folder / scene.name, scene)
        print(f"{scene.words}: grew {growth_mb:.1f} MiB, longest ping {ping_ms:.0f} ms", flush=True)
        excess = excess or growth_mb > AIM_MB
    sys.exit(1 if excess else 0)


if __name__ == "__main__":
    main()
