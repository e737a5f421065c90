"""Nothing accepted is lost: tasks go on while workers, launcher and daemon are killed at random.

    .venv/bin/python -P tests/chaos/chaos.py [--seed N] [--seeds 5] [--tasks 2000] [--containment auto]

A submitter hands in tasks as fast as they are acknowledged; meanwhile kill -9 hits a worker, the launcher or the
daemon, which is started again as its service manager would. Then for every task that was acknowledged: it is in
the record, it has succeeded with its own answer, it has ended once, and none of its attempts was begun twice.
Whatever was not acknowledged may be there or not. A seed repeats the choices, though not the moments.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.worker.client import Client
from corral.worker.errors import CorralError

sys.path.append(str(Path(__file__).parents[1]))  # `python -P` leaves out where the harness is

from daemon_process import BOUND_S, DaemonProcess, marked

WORKERS = 6

PAUSE_S = (0.02, 0.2)
"""Between two kills."""

WORK_S = (0.0, 0.1)

VICTIMS = {"worker": 6, "launcher": 2, "daemon": 4}
"""Who is killed, and how often in proportion."""

TASKS_PER_KILL = 15

PACE_S = 0.005
"""Between two tasks: so that they go on while kills do."""

CONFIG = """
[daemon]
containment = "{containment}"
[tasks]
max_attempts = 1000
retry_backoff_base = "10ms"
[recovery]
max_restart_attempts = 1000
restart_backoff_base = "10ms"
restart_backoff_max = "100ms"
[agents.toiler]
command = ["python", "-P", "-m", "corral.worker", "toiler:agent"]
instances = {workers}
process.working_directory = "{folder}"
"""


@dataclass
class Verdict:
    """What one run came to; whatever is wrong is in `wrong`, in words."""

    seed: int
    tasks: int
    kills: Counter[str]
    refused: int
    attempts_max: int
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {self.kills[victim]}" for victim in VICTIMS)
        return (
            f"seed {self.seed}: {self.tasks} tasks, killed: {kills}; {self.refused} not acknowledged,"
            f" {self.attempts_max} attempts at most, {len(self.wrong)} wrong"
            + "".join(f"\n  {each}" for each in self.wrong[:20])
        )


class Submitter(threading.Thread):
    """Hands in tasks until so many are acknowledged."""

    def __init__(self, daemon: DaemonProcess, seed: int, count: int, begun: Path) -> None:
        super().__init__(name="submitter")
        self.acknowledged: dict[str, int] = {}
        """Task id -> its number."""
        self.refused = 0
        self._daemon = daemon
        self._random = random.Random(seed)
        self._count = count
        self._begun = begun

    def run(self) -> None:
        """One after the other; what is not acknowledged is handed in again, as another task."""
        until = time.monotonic() + 10 * BOUND_S
        while len(self.acknowledged) < self._count and time.monotonic() < until:
            try:
                with self._daemon.client() as client:
                    while len(self.acknowledged) < self._count:
                        self._submit(client, len(self.acknowledged))
                        time.sleep(PACE_S)
            except CorralError:
                self.refused += 1
                time.sleep(0.01)  # nobody listens: the next daemon is on its way

    def _submit(self, client: Client, number: int) -> None:
        given = {
            "number": number,
            "begun": str(self._begun),
            "work_s": self._random.uniform(*WORK_S),
        }
        params = {"agent": "toiler", "objective": "toil", "input": given}
        task: Any = client.call("task.submit", params, timeout_s=BOUND_S)
        self.acknowledged[task["id"]] = number


def ordeal(folder: Path, seed: int, count: int, containment: str = "auto") -> Verdict:
    """One run: `count` tasks, and kills in proportion, each kind of victim among them."""
    folder.chmod(0o755)
    begun = folder / "begun"
    begun.touch()
    begun.chmod(0o666)  # agents may run as another user
    shutil.copy(Path(__file__).parent / "toiler.py", folder)
    config = CONFIG.format(containment=containment, workers=WORKERS, folder=folder)
    with DaemonProcess(folder, config) as daemon:
        submitter = Submitter(daemon, seed, count, begun)
        submitter.start()
        try:
            kills = _kill(daemon, random.Random(seed), count)
        finally:
            submitter.join()
        verdict = Verdict(seed, len(submitter.acknowledged), kills, submitter.refused, 0)
        if verdict.tasks < count:
            verdict.wrong.append(f"only {verdict.tasks} of {count} tasks were acknowledged")
        _judge(daemon, submitter.acknowledged, verdict)
        status = daemon.stop()
        if status != 0:
            verdict.wrong.append(f"the daemon ended with {status}")
    twice = [line for line, n in Counter(begun.read_text().splitlines()).items() if n > 1]
    verdict.wrong += [f"begun twice: {line}" for line in twice]
    verdict.wrong += [f"left: pid {pid}" for pid in marked(folder)]
    return verdict


def _kill(daemon: DaemonProcess, chance: random.Random, count: int) -> Counter[str]:
    """Kills one after the other; who and how often has been decided before the first."""
    rounds = max(1, count // TASKS_PER_KILL // sum(VICTIMS.values()))
    victims = [victim for victim, share in VICTIMS.items() for _ in range(rounds * share)]
    chance.shuffle(victims)
    kills: Counter[str] = Counter()
    for victim in victims:
        time.sleep(chance.uniform(*PAUSE_S))
        which = chance.random()
        if victim == "daemon":
            daemon.kill()
            daemon.start()
            kills[victim] += 1
            continue
        status = daemon.call("daemon.status", names=["toiler"])
        pids = [each["pid"] for each in status["agents"][0]["workers"] if each["pid"]]
        if victim == "launcher":
            pids = [status["daemon"]["launcher_pid"]]
        if pids and _end(pids[int(which * len(pids))], daemon.pid):
            kills[victim] += 1
    return kills


def _end(pid: int | None, daemon: int) -> bool:
    """SIGKILL to a process that the daemon has just named, unless it has ended meanwhile."""
    if pid is None:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if daemon not in _ancestors(pid):
            return False  # its number is somebody else's by now
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1:
        try:
            line = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(line.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def _judge(daemon: DaemonProcess, acknowledged: dict[str, int], verdict: Verdict) -> None:
    """Waits for the end of every task, and compares record and events with what was handed in."""
    with daemon.client() as client:
        for task, number in acknowledged.items():
            record: Any = client.call("task.wait", {"task": task}, timeout_s=10 * BOUND_S)
            verdict.attempts_max = max(verdict.attempts_max, record["attempt"])
            if record["state"] != "succeeded" or record["output"] != {"number": number}:
                verdict.wrong.append(f"{task}: {record['state']} {record['error']}")
    counts = daemon.call("daemon.status")["tasks"]
    if counts["failed"]:
        verdict.wrong.append(f"failed: {counts['failed']}")
    said = daemon.corral("--json", "events", "--type", "task.ended", "-n", str(2 * verdict.tasks))
    assert said.returncode == 0, said
    ends = Counter(json.loads(line)["task"] for line in said.stdout.splitlines())
    verdict.wrong += [f"{task}: ended {n} times" for task, n in ends.items() if n > 1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; 1 when something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="the first one; without it, any")
    parser.add_argument("--seeds", type=int, default=5, help="how many runs")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument(
        "--containment", choices=["auto", "launcher", "cgroup", "pidns"], default="auto"
    )
    options: Any = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    failed = False
    for seed in range(first, first + options.seeds):
        folder = Path(tempfile.mkdtemp(prefix="corral-chaos-"))
        print(f"seed {seed} in {folder}", flush=True)
        verdict = ordeal(folder, seed, options.tasks, options.containment)
        print(f"{verdict}; load {os.getloadavg()[0]:.1f}", flush=True)
        if verdict.wrong:
            failed = True  # its folder stays, to be looked at
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
