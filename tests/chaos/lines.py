"""No line is lost, cut or repeated: workers print numbered lines while they are killed, and all is read back.

    .venv/bin/python -P tests/chaos/lines.py [--megabytes 200 500] [--workers 1 50] [--kills 40] [--daemon-kills 0]
        [--full-disk] [--rounds 1] [--seed N]

Each worker keeps account of what it has written (see scribe.py), and goes on where a killed one was. Their files rotate all the
time, about ROTATIONS times each, and what was rotated is compressed meanwhile. One reader has followed from the beginning
(`corral logs -f`), one asks at the end (`corral logs`), and one takes the files alone (CRI and gzip): each has to have
seen every line once, whole and in order. Of a line of which a killed worker had itself printed but a part, this part is there.

With --full-disk the folder of the logs is a small tmpfs, which is full in the middle of the flood until space is made: what corral
says is missing, in the log and in the status, has to be what is missing. That takes the right to mount. With --daemon-kills the
daemon is killed, too: at most a read buffer and a pipe may be missing then, for each worker, where the log says so.
One line for each run; the exit status is 1 when something was wrong. A seed repeats the choices, though not the moments.
"""

import argparse
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from chaos.ledger import PREFIX_BYTES, Life, Reader, Seen, Tally, lives_of, seen_in_files
from chaos.scribe import WIDTH
from corral.worker.client.sync import Client
from daemon_process import BIN, BOUND_S, DaemonProcess

SCRIBE = Path(__file__).parent / "scribe.py"

NAME = "scribe"

ROTATIONS = 40

STILL_S = 60.0
"""When nothing moves for so long, a run is given up."""

PAUSE_S = 0.005
"""Between two looks at what goes on."""

EVER = ["--since", "2000-01-01T00:00:00Z"]

PER_LAUNCHER_KILL = 8
"""One of so many kills hits the launcher, and with it all workers."""

ROOM = 0.4
"""Of the whole, what a disk takes that is to be full in the middle."""

HOLD = 0.8
"""Of its lines, what a worker prints while the disk is full, or before the last kill; the rest comes afterwards."""

CONFIG = """
[process]
max_concurrent_processes = 200
[recovery]
max_restart_attempts = 1000
restart_backoff_base = "10ms"
restart_backoff_max = "100ms"
[monitoring]
max_log_file_bytes = {file_bytes}
max_log_files = 1000
[agents.{name}]
command = ["{python}", "-I", "-S", "{scribe}", "{folder}", "{count}", "{hold}", "{seed}"]
protocol = "none"
instances = {workers}
autostart = false
"""


class NoMount(Exception):
    """A small disk cannot be had here; the text says why."""


@dataclass(frozen=True)
class Course:
    """What one run does."""

    megabytes: float
    workers: int
    kills: int = 0
    daemon_kills: int = 0
    full_disk: bool = False
    seed: int = 0

    @property
    def count(self) -> int:
        """The lines of one worker."""
        return int(self.megabytes * 1e6) // WIDTH // self.workers

    @property
    def total(self) -> int:
        """The lines of all workers."""
        return self.count * self.workers

    @property
    def file_bytes(self) -> int:
        """So large that it rotates often, and so small that nothing is ever rotated away."""
        return max(16 * 1024, self.count * (WIDTH + PREFIX_BYTES) // ROTATIONS)

    @property
    def hold(self) -> int:
        """Before which line the workers wait."""
        return int(self.count * HOLD) if self.full_disk or self.kills or self.daemon_kills else 0

    @property
    def stored_bytes(self) -> int:
        """What the files hold in the end, if nothing is lost."""
        return self.total * (WIDTH + PREFIX_BYTES)

    @property
    def ids(self) -> list[str]:
        """The workers."""
        return [f"{NAME}-{number}" for number in range(self.workers)]


@dataclass
class Verdict:
    """What one run came to: what each reader saw, and what it was like meanwhile."""

    course: Course
    tallies: dict[str, Tally] = field(default_factory=dict[str, Tally])
    status_ms: list[float] = field(default_factory=list[float])
    kills: int = 0
    launcher_kills: int = 0
    daemon_kills: int = 0
    rss_before_mb: float = 0.0
    rss_after_mb: float = 0.0
    rss_most_mb: float = 0.0
    printed_s: float = 0.0
    files: int = 0
    compressed: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        course = self.course
        tally = self.tallies.get("files", Tally())
        answers = sorted(self.status_ms)
        words = [
            f"{course.megabytes:g} MB from {course.workers}, seed {course.seed}",
            f"killed: workers {self.kills}, launcher {self.launcher_kills}, daemon {self.daemon_kills}",
            f"lost {tally.lost}, cut {tally.cut}, repeated {tally.repeated}",
            f"halved by a kill {tally.halved}",
        ]
        if course.full_disk:
            words.append(f"swallowed by the full disk and counted {tally.swallowed}")
        if course.daemon_kills:
            words.append(f"gone with the daemon {tally.struck}")
        words += [
            f"{self.files} files, {self.compressed} compressed",
            f"printed in {self.printed_s:.1f} s",
            f"status p99 {answers[int(0.99 * (len(answers) - 1))]:.1f} ms of {len(answers)}",
            f"RSS {self.rss_before_mb:.1f} to {self.rss_after_mb:.1f} MB (most {self.rss_most_mb:.1f})",
            f"{len(self.wrong)} wrong",
        ]
        return "; ".join(words) + "".join(f"\n  {each}" for each in self.wrong[:20])


@contextlib.contextmanager
def small_disk(where: Path, size_bytes: int) -> Generator[None]:
    """A tmpfs in that folder, for as long as the context lasts.

    Raises:
        NoMount: this machine, or this user, cannot mount one.
    """
    where.mkdir(parents=True)
    where.parent.chmod(0o700)
    options = f"size={size_bytes},mode=700"
    try:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
        made = subprocess.run(command, capture_output=True, timeout=BOUND_S, check=False)
    except FileNotFoundError as error:
        raise NoMount("there is no mount(8)") from error
    if made.returncode != 0:
        raise NoMount(made.stderr.decode().strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True, timeout=BOUND_S)


def ordeal(folder: Path, course: Course) -> Verdict:
    """One run in an empty folder.

    Raises:
        NoMount: the course wants a small disk, which cannot be had.
    """
    folder.chmod(0o755)
    (folder / "account").mkdir()
    (folder / "account").chmod(0o777)  # agents may run as another user
    os.mkfifo(folder / "go")
    (folder / "go").chmod(0o666)
    shutil.copy(SCRIBE, folder)
    config = CONFIG.format(
        name=NAME,
        python=sys.executable,
        scribe=folder / SCRIBE.name,
        folder=folder,
        count=course.count,
        hold=course.hold,
        seed=course.seed,
        workers=course.workers,
        file_bytes=course.file_bytes,
    )
    logs = folder / "state" / "logs"
    with contextlib.ExitStack() as stack:
        if course.full_disk:
            room_bytes = int(course.stored_bytes * ROOM)
            size_bytes = int(course.stored_bytes * 1.1) + course.workers * 2**20 + 2**24
            stack.enter_context(small_disk(logs, size_bytes))
            with (logs / "ballast").open("wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, size_bytes - room_bytes)
        with DaemonProcess(folder, config) as daemon:
            run = _Run(folder, course, daemon)
            run.go()
            status = daemon.stop()
        if status != 0:
            run.verdict.wrong.append(f"the daemon ended with {status}")
        run.judge("files", {each: seen_in_files(logs / NAME, each) for each in course.ids})
        run.look_at_files(logs / NAME)
    return run.verdict


class _Run:
    """The flood, from its start until all is read back from the daemon."""

    def __init__(self, folder: Path, course: Course, daemon: DaemonProcess) -> None:
        self.verdict = Verdict(course)
        self._folder = folder
        self._course = course
        self._daemon = daemon
        self._chance = random.Random(course.seed)
        self._struck: dict[str, set[int]] = {worker: set() for worker in course.ids}
        self._told: tuple[int, ...] = (0, 0)  # lines and bytes that the status says are lost
        self._go = -1
        self._due = self._thresholds()

    def go(self) -> None:
        course, verdict = self._course, self.verdict
        verdict.rss_before_mb, _ = self._memory_mb()
        with contextlib.ExitStack() as stack:
            follower = None
            if not course.daemon_kills:  # which ends whoever follows
                # By then workers may have begun.  Where a full disk left the newest file empty, --since stops at it.
                past = ["-n", "1000000"] if course.full_disk else EVER
                shown = self._folder / "followed"
                follower = stack.enter_context(_following(self._daemon, shown, past))
            began = time.monotonic()
            self._flood()
            verdict.printed_s = time.monotonic() - began
            if follower is not None:
                self._await_follower(follower)
        verdict.rss_after_mb, verdict.rss_most_mb = self._memory_mb()
        self._read_back()

    def judge(self, reader: str, seen: dict[str, Seen]) -> None:
        """Compares what a reader saw with the accounts."""
        total = Tally()
        for worker, each in seen.items():
            lives = [
                replace(life, struck=number in self._struck[worker]) for number, life in enumerate(self._lives(worker))
            ]
            tally = each.tally(lives, self._course.count)
            if tally.wrong:
                gaps = [f"{jump.after}..{jump.before}" for jump in each.jumps[:9]]
                self.verdict.wrong.append(f"{reader}: {worker}: {tally}; gaps {' '.join(gaps)}")
            total += tally
        self.verdict.tallies[reader] = total
        if self._course.daemon_kills:
            return  # the counts begin with the daemon
        jumps = [jump for each in seen.values() for jump in each.jumps]
        stated = (sum(jump.lines for jump in jumps), sum(jump.size_bytes for jump in jumps))
        if stated != self._told:
            self.verdict.wrong.append(f"{reader}: {stated} lost, in the status {self._told}")
        if self._course.full_disk and not total.swallowed:
            self.verdict.wrong.append("the disk was never full")

    def look_at_files(self, folder: Path) -> None:
        names = [path.name for path in folder.iterdir()]
        self.verdict.files = len(names)
        self.verdict.compressed = sum(name.endswith(".gz") for name in names)
        self.verdict.wrong += [f"left: {name}" for name in names if name.endswith(".tmp")]

    # -- the flood

    def _flood(self) -> None:
        """Starts the workers, and kills as decided before, until all of them have printed all."""
        is_held = self._course.hold > 0
        client = self._begin()
        moved_s, before = time.monotonic(), -1
        try:
            while True:
                status = self._ask(client)
                workers = status["agents"][0]["workers"]
                done = {worker: self._lives(worker) for worker in self._course.ids}
                total = sum(lives[-1].done for lives in done.values() if lives)
                if total > before:
                    moved_s, before = time.monotonic(), total
                assert time.monotonic() < moved_s + STILL_S, f"nothing moves: {workers}"
                if is_held and not self._course.full_disk and not self._due:
                    self._let_go()
                    is_held = False
                if self._course.full_disk and is_held and total >= ROOM * self._course.total:
                    self._leave_no_room()
                    if all(lives and lives[-1].done >= self._course.hold for lives in done.values()):
                        self._make_room()
                        is_held = False
                if total == self._course.total:
                    break
                while self._due and self._due[0][0] <= total:
                    _, victim = self._due.pop(0)
                    if victim == "daemon":
                        client.close()
                        self._kill_daemon()
                        client = self._begin()
                    else:
                        self._kill(victim, status)
                time.sleep(PAUSE_S)
            client.call("agent.stop", {"names": [NAME]}, timeout_s=BOUND_S)
            workers = self._ask(client)["agents"][0]["workers"]
            lost = ([each[f"log_lost_{what}"] for each in workers] for what in ("lines", "bytes"))
            self._told = tuple(map(sum, lost))
        finally:
            client.close()
            if self._go >= 0:
                os.close(self._go)

    def _begin(self) -> Client:
        client = self._daemon.client()
        client.call("agent.start", {"names": [NAME], "wait": False}, timeout_s=BOUND_S)
        return client

    def _ask(self, client: Client) -> Any:  # the status, as JSON
        began = time.perf_counter()
        status: Any = client.call("daemon.status", {}, timeout_s=BOUND_S)
        self.verdict.status_ms.append((time.perf_counter() - began) * 1000)
        return status

    def _thresholds(self) -> list[tuple[int, str]]:
        """After how many lines of all workers together who is killed."""
        course = self._course
        victims = ["worker" if (number + 1) % PER_LAUNCHER_KILL else "launcher" for number in range(course.kills)]
        victims += ["daemon"] * course.daemon_kills
        self._chance.shuffle(victims)
        total = course.total
        # Not near the end, where a kill comes too late for a short run.
        moments = sorted(self._chance.uniform(0.02, 0.75) * total for _ in victims)
        return [(int(moment), victim) for moment, victim in zip(moments, victims, strict=True)]

    def _kill(self, victim: str, status: Any) -> None:
        if victim == "launcher":
            self.verdict.launcher_kills += _end(status["daemon"]["launcher_pid"], b"launcher")
            return
        pids = [each["pid"] for each in status["agents"][0]["workers"] if each["pid"]]
        if pids:
            self.verdict.kills += _end(self._chance.choice(pids), SCRIBE.name.encode())

    def _kill_daemon(self) -> None:
        before = {worker: len(self._lives(worker)) for worker in self._course.ids}
        self._daemon.kill()
        self.verdict.daemon_kills += 1
        self._daemon.start()
        for worker, count in before.items():
            self._struck[worker] |= set(range(max(count - 1, 0), len(self._lives(worker))))

    def _leave_no_room(self) -> None:
        """Takes what compression has made free."""
        ballast = self._folder / "state" / "logs" / "ballast"
        with ballast.open("ab") as file, contextlib.suppress(OSError):  # somebody may be faster
            room = os.statvfs(ballast)
            free_bytes = room.f_bavail * room.f_frsize
            if free_bytes:
                os.posix_fallocate(file.fileno(), ballast.stat().st_size, free_bytes)

    def _make_room(self) -> None:
        (self._folder / "state" / "logs" / "ballast").unlink()
        self._let_go()

    def _let_go(self) -> None:
        # Held: a worker that comes later does not wait either.
        self._go = os.open(self._folder / "go", os.O_RDWR)

    def _lives(self, worker: str) -> list[Life]:
        return lives_of(self._folder / "account" / worker)

    def _memory_mb(self) -> tuple[float, float]:
        """RSS of the daemon now, and the most it ever was."""
        text = Path(f"/proc/{self._daemon.pid}/status").read_text()
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.MULTILINE))
        return int(found["VmRSS"]) * 1024 / 1e6, int(found["VmHWM"]) * 1024 / 1e6

    # -- the readers

    def _await_follower(self, followed: Path) -> None:
        """Takes in what `corral logs -f` has printed, until it has shown the last line of each worker."""
        reader = Reader(self._course.ids)
        moved_s = time.monotonic()
        with followed.open("rb") as file:
            while any(seen.last < self._course.count - 1 for seen in reader.seen.values()):
                data = file.read(2**20)
                if data:
                    reader.feed(data)
                    moved_s = time.monotonic()
                elif time.monotonic() > moved_s + STILL_S:
                    break
                else:
                    time.sleep(PAUSE_S)
            reader.feed(file.read())
        self._judge_reader("logs -f", reader)

    def _read_back(self) -> None:
        reader = Reader(self._course.ids)
        with subprocess.Popen(
            [*_corral(self._daemon), "logs", NAME, *EVER], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as asked:
            assert asked.stdout is not None, "it is a pipe"
            while data := asked.stdout.read(2**20):
                reader.feed(data)
        if asked.returncode != 0:
            self.verdict.wrong.append(f"corral logs ended with {asked.returncode}")
        self._judge_reader("logs", reader)

    def _judge_reader(self, name: str, reader: Reader) -> None:
        self.judge(name, reader.seen)
        if reader.skipped:
            self.verdict.wrong.append(f"{name}: was skipped ahead {reader.skipped} times")


def _corral(daemon: DaemonProcess) -> list[str]:
    return [str(BIN / "corral"), "--socket", str(daemon.socket), "--json"]


@contextlib.contextmanager
def _following(daemon: DaemonProcess, shown: Path, past: list[str]) -> Generator[Path]:
    """Runs `corral logs -f` into a file; it is ended like a person would."""
    with (
        shown.open("wb") as output,
        subprocess.Popen(
            [*_corral(daemon), "logs", NAME, "-f", *past], stdin=subprocess.DEVNULL, stdout=output
        ) as process,
    ):
        try:
            yield shown
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(BOUND_S)
            finally:
                process.kill()


def _end(pid: int, program: bytes) -> bool:
    """SIGKILL to a process that the daemon has just named; not if its number is somebody else's by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if program not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(pidfd)
    return True


def _leave(_signal: int, _frame: object) -> None:
    sys.exit(1)  # not without unmounting


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[200, 500])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--kills", type=int, default=40, help="of workers and launchers, each run")
    parser.add_argument("--daemon-kills", type=int, default=0, help="of the daemon, each run")
    parser.add_argument("--full-disk", action="store_true", help="needs the right to mount")
    parser.add_argument("--rounds", type=int, default=1, help="how often each of the runs")
    parser.add_argument("--seed", type=int, help="the first one; without it, any")
    options: Any = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    runs = itertools.product(range(options.rounds), options.megabytes, options.workers)
    failed = False
    for number, (_, megabytes, workers) in enumerate(runs):
        kills = (options.kills, options.daemon_kills)
        course = Course(megabytes, workers, *kills, options.full_disk, first + number)
        folder = Path(tempfile.mkdtemp(prefix="corral-lines-"))
        try:
            verdict = ordeal(folder, course)
        except NoMount as error:
            print(f"cannot fill a disk: {error}", flush=True)
            shutil.rmtree(folder)
            return 1
        print(f"{verdict}; load {os.getloadavg()[0]:.1f}", flush=True)
        if verdict.wrong:
            failed = True
            print(f"  its folder {folder} stays, to be looked at", flush=True)
        else:
            shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
