"""Each payment is made once: the documented pattern under deaths and orderly interruptions at random.

    .venv/bin/python -P tests/chaos/payments.py [--seed N] [--payments 1000]

A submitter orders payments while workers are killed, the agent is restarted, the configuration is reloaded with a
change that needs new workers, the daemon is killed, and the daemon is stopped in order. `payer.py` pays into a ledger that would take
a second payment of a task. At the end the ledger has each task once, and no beginning has the number of an earlier one.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, CorralError

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from daemon_process import BOUND_S, DaemonProcess, marked

WORKERS = 4

WORK_S = 0.3
"""Seconds before the payment, and after it, at the most: a task is interrupted in each part."""

PAUSE_S = (0.1, 0.8)
"""Seconds between two interruptions."""

RUN_S = 40 * BOUND_S
"""Seconds after which a run has failed."""

CONFIG = """
[tasks]
max_attempts = 1000
retry_backoff_base = "10ms"
[recovery]
max_restart_attempts = 1000
restart_backoff_base = "10ms"
restart_backoff_max = "100ms"
[agents.payer]
command = ["python", "-P", "-m", "corral.worker", "payer:agent"]
instances = {workers}
process.working_directory = "{folder}"
process.shutdown_grace_period = "{grace_ms}ms"
environment = {{ ROUND = "{round}" }}
"""


@dataclass
class Verdict:
    """The counts of one run; `wrong` says in words whatever is."""

    seed: int
    payments: int
    interruptions: Counter[str]
    beginnings: int = 0
    repeated: int = 0
    """Number of beginnings after the first of their task."""
    spared: int = 0
    """Number of beginnings that found their task paid, and did not pay again."""
    uncounted: int = 0
    """Number of later beginnings at which `attempt` was 1: the test by `attempt` would have paid twice."""
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.interruptions.items()))
        return (
            f"seed {self.seed}: {self.payments} payments; {kinds}; {self.beginnings} beginnings, of which"
            f" {self.repeated} were repeated ({self.uncounted} of them with attempt 1), {self.spared} found the payment made;"
            f" {len(self.wrong)} wrong" + "".join(f"\n  {each}" for each in self.wrong[:20])
        )


class Interruptions:
    """Interrupts a daemon's work in one of five ways at a time."""

    def __init__(self, daemon: DaemonProcess, chance: random.Random) -> None:
        self.counts = Counter[str]()
        self._daemon = daemon
        self._chance = chance
        self._kinds: dict[str, Callable[[], None]] = {
            "worker killed": self._kill_worker,
            "restart": lambda: self._ask("agent.restart", names=["payer"], wait=False),
            "reload": self._reload,
            "daemon killed": self._kill_daemon,
            "daemon stopped": self._stop_daemon,
        }

    def happen(self) -> None:
        """Does one, those that cost no start of a daemon more often."""
        weights = (6, 3, 3, 1, 1)
        (name,) = self._chance.choices(tuple(self._kinds), weights)
        self._kinds[name]()
        self.counts[name] += 1

    @property
    def has_had_all(self) -> bool:
        """Returns True if each kind has happened."""
        return self.counts.keys() == self._kinds.keys()

    def _ask(self, method: str, **params: object) -> None:
        with suppress(Conflict):  # it meets the change before
            self._daemon.call(method, **params)

    def _kill_worker(self) -> None:
        status = self._daemon.call("daemon.status", names=["payer"])
        pids = [worker["pid"] for worker in status["agents"][0]["workers"] if worker["pid"]]
        if pids:
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(pids), signal.SIGKILL)

    def _reload(self) -> None:
        self._daemon.config.write_text(config(self._daemon.folder, self._chance))
        self._ask("daemon.reload")

    def _kill_daemon(self) -> None:
        self._daemon.kill()
        self._daemon.start()

    def _stop_daemon(self) -> None:
        assert self._daemon.stop() == 0
        self._daemon.start()


class Submitter(threading.Thread):
    """Orders payments, each until it is acknowledged, no more than a few ahead of the workers."""

    AHEAD = 3 * WORKERS

    def __init__(self, daemon: DaemonProcess, count: int, folder: Path) -> None:
        super().__init__(name="submitter")
        self.tasks: list[str] = []
        self.outputs: list[Any] = []  # JSON
        self.failed: list[str] = []
        self._daemon = daemon
        self._count = count
        self._folder = folder

    def run(self) -> None:
        """Orders one after the other, and waits for the ends."""
        for number in range(self._count):
            given = {"number": number, "folder": str(self._folder), "work_s": WORK_S}
            params = {"agent": "payer", "objective": "pay", "input": given}
            task = self._answered("task.submit", {**params, "idempotency_key": f"order-{number}"})
            self.tasks.append(task["id"])
            if len(self.tasks) > self.AHEAD:
                self._note_end(self.tasks[-self.AHEAD - 1])
        for task_id in self.tasks[-self.AHEAD :]:
            self._note_end(task_id)

    def _note_end(self, task_id: str) -> None:
        ended = self._answered("task.wait", {"task": task_id})
        if ended["state"] != "succeeded":
            self.failed.append(f"{task_id} {ended['state']}: {ended['error']}")
        self.outputs.append(ended["output"])

    def _answered(self, method: str, params: dict[str, object]) -> Any:  # JSON
        until = time.monotonic() + RUN_S
        while True:
            try:
                with Client(str(self._daemon.socket)) as client:
                    return client.call(method, params, timeout_s=BOUND_S)
            except CorralError as error:
                if time.monotonic() > until:
                    self.failed.append(f"{method}: {error}")
                    raise
                time.sleep(0.02)  # the next daemon is on its way


def config(folder: Path, chance: random.Random) -> str:
    """Returns a configuration that differs from the one before, so that a reload replaces the workers."""
    return CONFIG.format(folder=folder, workers=WORKERS, round=chance.random(), grace_ms=chance.choice((20, 60, 1000)))


def payments(folder: Path, seed: int, count: int) -> Verdict:
    """Runs `count` payments, and interruptions until the last one is made, each kind at least once."""
    folder.chmod(0o755)
    for name in ("ledger", "journal"):
        (folder / name).touch()
        (folder / name).chmod(0o666)  # agents may run as another user
    shutil.copy(Path(__file__).parent / "payer.py", folder)
    chance = random.Random(seed)
    with DaemonProcess(folder, config(folder, chance)) as daemon:
        interruptions = Interruptions(daemon, chance)
        submitter = Submitter(daemon, count, folder)
        submitter.start()
        until = time.monotonic() + RUN_S
        while submitter.is_alive() or not interruptions.has_had_all:
            interruptions.happen()
            time.sleep(chance.uniform(*PAUSE_S))
            if time.monotonic() > until:
                break
        submitter.join()
        verdict = Verdict(seed, len(submitter.tasks), interruptions.counts)
        verdict.wrong += submitter.failed
        records = {task: daemon.call("task.show", task=task)["delivery"] for task in submitter.tasks}
    _judge(folder, records, verdict)
    verdict.spared = sum(bool(output and output["again"]) for output in submitter.outputs)
    verdict.wrong += [f"left: pid {pid}" for pid in marked(folder)]
    return verdict


def _judge(folder: Path, records: dict[str, int], verdict: Verdict) -> None:
    paid = Counter((folder / "ledger").read_text().splitlines())
    for task in records:
        if paid[task] != 1:
            verdict.wrong.append(f"{task} is paid {paid[task]} times")
    if paid.keys() - records.keys():
        verdict.wrong.append("there are payments that were not ordered")
    begun: dict[str, list[int]] = {}
    for line in (folder / "journal").read_text().splitlines():
        task, delivery, attempt = line.split()
        verdict.beginnings += 1
        verdict.repeated += task in begun
        verdict.uncounted += task in begun and attempt == "1"
        begun.setdefault(task, []).append(int(delivery))
    for task, numbers in begun.items():
        # One may be missing: written down, and not handed over when the daemon was killed.
        if numbers != sorted(set(numbers)) or numbers[-1] > records[task]:
            verdict.wrong.append(f"{task} began as {numbers}, its record has {records[task]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="the choices; without it, any")
    parser.add_argument("--payments", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    folder = Path(tempfile.mkdtemp(prefix="payments-"))
    began = time.monotonic()
    verdict = payments(folder, seed, chosen.payments)
    print(f"{verdict} ({time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.0f})")
    if verdict.wrong:
        print(f"kept: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
