"""One upgrade after the other under load, with kills of daemon and launcher in between: `make long upgrade-chaos`.

Tasks, tool calls and printed lines go on; where nobody was killed pids stay the same, each task ends once with `delivery` 1, and no
call fails. The counts are printed, and the seed with them.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "support")]
from corral.worker.contract.errors import CorralError, Unreachable
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked, until

CONFIG = f"""
[agents.slow]
command = ["{sys.executable}", "-P", "{AGENTS / "upgraded_agent.py"}"]
instances = 2
resources.max_concurrent_requests = 4
[agents.sleeps]
command = ["sleep", "100000"]
protocol = "none"
instances = 5
[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
"""


class Ordeal:
    """One daemon, its load, and what is counted."""

    def __init__(self, folder: Path, seed: int, kill_ratio: float) -> None:
        self.counts = Counter[str]()
        self._random = random.Random(seed)
        self._kill_ratio = kill_ratio
        self._daemon = DaemonProcess(folder, CONFIG)
        self._is_over = threading.Event()
        self._is_hurt = threading.Event()
        """Since the load began, daemon or launcher was killed."""

    def run(self, seconds: float, every_s: float) -> None:
        """Upgrades for so many seconds; a failed `assert` is a defect."""
        with self._daemon as daemon:
            until(lambda: all(w["state"] in ("Ready", "Idle", "Busy") for w in self._workers()))
            with ThreadPoolExecutor(3) as pool:
                load = [pool.submit(self._loop, act) for act in (self._task, self._task, self._call)]
                try:
                    end = time.monotonic() + seconds
                    while time.monotonic() < end:
                        self._upgrade(daemon)
                        time.sleep(every_s)
                finally:
                    self._is_over.set()
                for each in load:
                    each.result()
            assert daemon.stop() == 0
        assert marked(daemon.folder) == [], "something is left"

    def _workers(self) -> list[dict[str, object]]:
        agents = self._daemon.call("daemon.status")["agents"]
        return [worker for agent in agents for worker in agent["workers"]]

    def _upgrade(self, daemon: DaemonProcess) -> None:
        before = {w["id"]: w["pid"] for w in self._workers()}
        victim = self._random.choice(("daemon", "launcher")) if self._random.random() < self._kill_ratio else ""
        killer = threading.Timer(self._random.uniform(0, 2), self._kill, (victim,)) if victim else None
        if killer is not None:
            self._is_hurt.set()
            killer.start()
        try:
            daemon.call("daemon.upgrade")
            self.counts["upgrades"] += 1
        except CorralError as error:
            self.counts[f"refused: {error.data.get('reason')}"] += 1
            was_lost = isinstance(error, Unreachable)
        else:
            was_lost = False
        assert victim or not was_lost, "the daemon has gone by itself"
        if killer is None:
            assert {w["id"]: w["pid"] for w in self._workers()} == before
            return
        killer.join()
        if victim == "daemon":
            daemon.process.wait(BOUND_S) if daemon.process is not None else None
            daemon.start()
        until(lambda: all(w["state"] in ("Ready", "Idle", "Busy") for w in self._workers()))

    def _kill(self, victim: str) -> None:
        pid = self._daemon.pid
        if victim == "launcher":
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pid = next((int(c) for c in children if "launcher" in Path(f"/proc/{c}/cmdline").read_text()), 0)
        if pid:
            os.kill(pid, signal.SIGKILL)
            self.counts[f"kills of {victim}"] += 1

    def _loop(self, act: Callable[[], None]) -> None:
        while not self._is_over.is_set():
            try:
                act()
            except CorralError:
                assert self._is_hurt.is_set(), "nobody was killed"
                self.counts["failed after a kill"] += 1
                time.sleep(0.2)

    def _task(self) -> None:
        seconds = self._random.uniform(0.1, 2.0)
        task = self._daemon.call("task.run", agent="slow", objective="work", input={"seconds": seconds})
        assert task["state"] == "succeeded", task
        if not self._is_hurt.is_set():
            assert (task["delivery"], task["output"]["given"]) == (1, 1), task
        self.counts["tasks"] += 1

    def _call(self) -> None:
        self._daemon.call("mcp.call", name="state__get", arguments={})
        self.counts["tool calls"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two upgrades")
    parser.add_argument("--kills", type=float, default=0.2, help="share of the upgrades in which something is killed")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="upgrades-") as folder:
        ordeal = Ordeal(Path(folder), options.seed, options.kills)
        ordeal.run(60 * options.minutes, options.every)
    for name, count in sorted(ordeal.counts.items()):
        print(f"{count:>8} {name}")


if __name__ == "__main__":
    main()
