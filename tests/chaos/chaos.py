"""Nothing accepted is lost: tasks go on while workers, launcher and daemon are killed at random.

    .venv/bin/python -P tests/chaos/chaos.py [--seed N] [--seeds 20] [--tasks 5000] [--jobs 1] [--containment auto]

A submitter hands in tasks as fast as they are acknowledged; whatever is not acknowledged is sent again with the same
idempotency key. They have priorities; some wait for others, or for a moment; some are turns of a session, some delegate
or are a workflow of two steps, some are cancelled. Meanwhile kill -9 hits a worker, the launcher or the daemon, which is started again as its
service manager would. `witness.py` says what has to be true then. A seed repeats the choices, though not the moments.
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
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError, Overloaded, ShuttingDown, Timeout, Unreachable

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from chaos.witness import Evidence, Order
from daemon_process import BOUND_S, DaemonProcess, marked

WORKERS = 8
"""Of the toiler; two more help those who delegate."""

PAUSE_S = (0.02, 0.4)
"""Between two kills."""

WORK_S = (0.0, 0.1)

VICTIMS = {"worker": 6, "launcher": 2, "daemon": 4}
"""Who is killed, and how often in proportion."""

TASKS_PER_KILL = 50

PACE_S = 0.002
"""Between two tasks: so that they go on while kills do."""

SESSIONS = 20

SHARES = {"workflow": 0.03, "session": 0.15, "delegates": 0.05, "after": 0.1, "at": 0.03, "is_cancelled": 0.02}
"""What part of the tasks is of a kind; one may be of several."""

RUN_S = 20 * BOUND_S
"""A run that takes longer than this has failed."""

CONFIG = """
[daemon]
containment = "{containment}"
[tasks]
max_attempts = 1000
max_queue_size = 100000
max_total_queue_size = 100000
retry_backoff_base = "10ms"
[recovery]
max_restart_attempts = 1000
restart_backoff_base = "10ms"
restart_backoff_max = "100ms"
[agents.toiler]
command = ["python", "-P", "-m", "corral.worker", "toiler:agent"]
instances = {workers}
process.working_directory = "{folder}"
[agents.helper]
command = ["python", "-P", "-m", "corral.worker", "toiler:agent"]
instances = 2
process.working_directory = "{folder}"
[workflows.pair]
output = "${{steps.second.output}}"
[[workflows.pair.steps]]
name = "first"
agent = "helper"
objective = "help"
input = "${{input}}"
[[workflows.pair.steps]]
name = "second"
agent = "helper"
objective = "help"
input = "${{input}}"
after = ["first"]
"""


@dataclass
class Verdict:
    """What one run came to; whatever is wrong is in `wrong`, in words."""

    seed: int
    tasks: int
    kills: Counter[str]
    sent_again: int
    attempts: int = 0
    children: int = 0
    untold: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {self.kills[victim]}" for victim in VICTIMS)
        return (
            f"seed {self.seed}: {self.tasks} tasks, killed: {kills}; {self.sent_again} sent again,"
            f" {self.attempts} attempts of {self.tasks + self.children} tasks with the delegated,"
            f" {self.untold} ends without an event, {len(self.wrong)} wrong"
            + "".join(f"\n  {each}" for each in self.wrong[:20])
        )


class Submitter(threading.Thread):
    """Hands in so many tasks, each until it is acknowledged."""

    def __init__(self, daemon: DaemonProcess, seed: int, count: int, folder: Path) -> None:
        super().__init__(name="submitter")
        self.orders: dict[int, Order] = {}
        self.acknowledged: dict[int, str] = {}
        self.cancelled: dict[int, str] = {}
        """Order -> the state that a cancel was answered with."""
        self.sent_again = 0
        self.refused: list[str] = []
        self._daemon = daemon
        self._random = random.Random(seed)
        self._count = count
        self._folder = folder
        self._until = time.monotonic() + RUN_S
        self._client: Client | None = None

    def run(self) -> None:
        """One after the other."""
        for number in range(self._count):
            order = self._order(number)
            self.orders[number] = order
            try:
                task = self._call("task.submit", order.params)
                self.acknowledged[number] = task["id"]
                if order.is_cancelled:
                    ended = self._call("task.cancel", {"task": task["id"]})
                    self.cancelled[number] = ended["state"]
            except CorralError as error:
                self.refused.append(f"order {number}: {error}")
            time.sleep(PACE_S)
        if self._client is not None:
            self._client.close()

    def _order(self, number: int) -> Order:
        chance = self._random
        kinds = {kind: chance.random() < share for kind, share in SHARES.items()}
        given: dict[str, Any] = {
            "number": number,
            "folder": str(self._folder),
            "work_s": chance.uniform(*WORK_S),
            "delegates": kinds["delegates"] and not kinds["workflow"],
        }
        params: dict[str, Any] = {
            "agent": "pair" if kinds["workflow"] else "toiler",
            "objective": "toil",
            "input": given,
            "priority": chance.randint(1, 10),
            "idempotency_key": f"order-{number}",
        }
        if kinds["session"] and not kinds["workflow"]:
            params["session"] = f"session-{chance.randrange(SESSIONS)}"
        if kinds["at"]:
            params["at"] = time.time() + chance.uniform(0.1, 1.0)
        earlier = [n for n in self.acknowledged if not self.orders[n].is_cancelled]
        after = tuple(chance.sample(earlier, min(len(earlier), 2))) if kinds["after"] else ()
        if after:
            params["after"] = [self.acknowledged[n] for n in after]
        return Order(number, params, after, kinds["is_cancelled"])

    def _call(self, method: str, params: Any) -> Any:  # JSON
        """The answer; where none came, the same is sent again."""
        while True:
            try:
                if self._client is None:
                    self._client = self._daemon.client()
                return self._client.call(method, params, timeout_s=BOUND_S)
            except (Unreachable, ShuttingDown, Overloaded, Timeout):
                if time.monotonic() > self._until:
                    raise
                if self._client is not None:
                    self.sent_again += 1  # the daemon may have taken it, or not
                    self._client.close()
                    self._client = None
                time.sleep(0.01)  # nobody listens: the next daemon is on its way


def ordeal(folder: Path, seed: int, count: int, containment: str = "auto") -> Verdict:
    """One run: `count` tasks, and kills in proportion, each kind of victim among them."""
    folder.chmod(0o755)
    journal, locks = folder / "journal", folder / "locks"
    journal.touch()
    journal.chmod(0o666)  # agents may run as another user
    locks.mkdir()
    locks.chmod(0o777)
    shutil.copy(Path(__file__).parent / "toiler.py", folder)
    config = CONFIG.format(containment=containment, workers=WORKERS, folder=folder)
    with DaemonProcess(folder, config) as daemon:
        submitter = Submitter(daemon, seed, count, folder)
        submitter.start()
        try:
            kills = _kill(daemon, random.Random(seed), count)
        finally:
            submitter.join()
        verdict = Verdict(seed, len(submitter.acknowledged), kills, submitter.sent_again)
        verdict.wrong += submitter.refused
        _await_ends(daemon, submitter.acknowledged.values(), verdict)
        said = daemon.corral("--json", "events", "--type", "task.ended", "-n", str(4 * count))
        assert said.returncode == 0, said
        status = daemon.stop()
        if status != 0:
            verdict.wrong.append(f"the daemon ended with {status}")
    evidence = Evidence.of(
        folder,
        orders=submitter.orders,
        acknowledged=submitter.acknowledged,
        cancelled=submitter.cancelled,
        ends=[json.loads(line) for line in said.stdout.splitlines()],
    )
    verdict.attempts = sum(line.startswith("begun") for line in evidence.journal)
    verdict.children = sum(row.parent is not None for row in evidence.rows.values())
    verdict.untold = evidence.untold
    verdict.wrong += evidence.wrong()
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
        status = daemon.call("daemon.status", names=["toiler", "helper"])
        workers = [worker for agent in status["agents"] for worker in agent["workers"]]
        pids = [worker["pid"] for worker in workers if worker["pid"]]
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


def _await_ends(daemon: DaemonProcess, tasks: Iterable[str], verdict: Verdict) -> None:
    """Waits until every task has ended, those that others delegated, too."""
    until = time.monotonic() + RUN_S
    with daemon.client() as client:
        for task in tasks:
            left_s = max(1.0, until - time.monotonic())
            try:
                client.call("task.wait", {"task": task, "timeout_s": left_s}, timeout_s=RUN_S)
            except CorralError as error:  # lost, or stuck: said once more by what the record has
                verdict.wrong.append(f"{task}: {error}")
        for state in ("running", "queued"):
            listed: Any = client.call("task.list", {"state": state}, timeout_s=BOUND_S)
            for left in listed["tasks"]:  # of a parent that ended first: they are being cancelled
                client.call("task.wait", {"task": left["id"], "timeout_s": BOUND_S})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="the first one; without it, any")
    parser.add_argument("--seeds", type=int, default=20, help="how many runs")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at once")
    parser.add_argument("--containment", choices=["auto", "launcher", "cgroup", "pidns"], default="auto")
    options: Any = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed

    def run(seed: int) -> bool:
        folder = Path(tempfile.mkdtemp(prefix="corral-chaos-"))
        print(f"seed {seed} in {folder}", flush=True)
        began_s = time.monotonic()
        try:
            verdict = ordeal(folder, seed, options.tasks, options.containment)
        except Exception as error:
            print(f"seed {seed}: {error!r}", flush=True)
            return False
        took_s = time.monotonic() - began_s
        print(f"{verdict}; {took_s:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        if not verdict.wrong:
            shutil.rmtree(folder, ignore_errors=True)  # another one stays, to be looked at
        return not verdict.wrong

    with ThreadPoolExecutor(options.jobs) as pool:
        good = list(pool.map(run, range(first, first + options.seeds)))
    print(f"{sum(good)} of {len(good)} runs without a fault")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
