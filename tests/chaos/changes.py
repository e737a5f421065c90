"""Changes an agent, a server and two services again and again under load, and counts what failed, was cut, or was done twice.

`python tests/chaos/changes.py [CHANGES] [SEED]`: prints one line of JSON; the exit status is 1 where a count is not 0.
One of the services has a socket that the daemon holds (`listen`), and gets a request on a new connection again and again. Each task writes a line with its id when it begins; one that began twice was doubled, or cut and begun again.
"""

import json
import random
import socket
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "support")]  # `python -P` leaves them out

from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError
from daemon_process import AGENTS, DaemonProcess

SETTLE_S = 120.0
"""Seconds within which each change has to end."""

TASK_S = (0.05, 0.05, 0.2, 1.0, 5.0, 20.0)
"""Seconds that a task may take, each as often."""

ENDS = ["agent.rolled", "agent.taken_back"]

TEXT = """
[process]
working_directory = "{folder}"
[agents.crew]
entrypoint = "rolled_agent:agent"
instances = 2
warm = {warm}
environment = {{ VERSION = "{agent}" }}
[agents.plain]
protocol = "none"
command = ["sleep", "{sleep}"]
[agents.site]
protocol = "none"
command = ["{python}", "{folder}/socket_server.py"]
ready = {{ log = "serving" }}
listen = "{socket}"
environment = {{ VERSION = "{site}" }}
[mcp.servers.state]
command = ["{python}", "-I", "{folder}/mcp_state.py"]
environment = {{ VERSION = "{server}" }}
"""


class Load:
    """Tasks and tool calls that go on until `end`, with their outcomes."""

    def __init__(self, daemon: DaemonProcess, seed: int, address: str) -> None:
        self._daemon = daemon
        self._address = address
        self._chance = random.Random(seed)
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        loops = [self._run_tasks] * 6 + [self._call_tools] * 2 + [self._ask] * 2
        self._threads = [threading.Thread(target=loop) for loop in loops]
        for thread in self._threads:
            thread.start()

    def _run_tasks(self) -> None:
        with self._daemon.client() as client:
            while not self._is_over.is_set():
                with self._lock:
                    wait_s = self._chance.choice(TASK_S)
                params = {"agent": "crew", "objective": "sleep", "input": wait_s}
                try:
                    task: Any = client.call("task.run", params, timeout_s=SETTLE_S)
                except CorralError as error:
                    self._note("failed_tasks", str(error))
                    continue
                self._note("tasks")
                if task["state"] != "succeeded":
                    self._note("failed_tasks", json.dumps(task["error"]))
                elif task["output"]["delivery"] != 1:
                    self._note("doubled_tasks", f"{task['id']} began {task['output']['delivery']} times")

    def _call_tools(self) -> None:
        with self._daemon.client() as client:
            while not self._is_over.is_set():
                try:
                    client.call("mcp.call", {"name": "state__get", "arguments": {}}, timeout_s=60)
                except CorralError as error:
                    self._note("failed_calls", str(error))
                else:
                    self._note("calls")
                self._is_over.wait(0.01)

    def _ask(self) -> None:
        while not self._is_over.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(SETTLE_S)
                    client.connect(self._address)
                    client.sendall(b"0.02\n")
                    answer = client.recv(4096)
            except OSError as error:
                self._note("failed_requests", repr(error))
            else:
                self._note(*(("requests",) if answer else ("failed_requests", "no answer")))
            self._is_over.wait(0.01)

    def _note(self, what: str, reason: str = "") -> None:
        with self._lock:
            self.counts[what] += 1
            if reason:
                self.failures.append(reason[:300])

    def end(self) -> None:
        """Ends the load, each loop after its present call."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def end_of(client: Client, name: str) -> str:
    """The type of the next event that ends a change of this name; `client` follows them."""
    for notification in client.notifications(SETTLE_S):
        events: Any = notification.params["events"]
        for event in events:
            if event["agent"] == name:
                return str(event["type"])
    raise AssertionError("notifications end by an error")


def played(folder: Path, changes: int, seed: int) -> dict[str, Any]:
    """Makes so many changes under load; returns the counts."""
    chance = random.Random(seed)
    now = {"agent": "0", "server": "0", "sleep": "600", "warm": "false", "site": "0"}
    address = str(folder / "site.sock")
    fixed = {"folder": AGENTS, "python": sys.executable, "socket": f"unix:{address}"}
    ends: Counter[str] = Counter()
    with DaemonProcess(folder, TEXT.format(**now, **fixed)) as daemon, daemon.client() as client:
        client.call("event.follow", {"types": ENDS}, timeout_s=SETTLE_S)
        for number in range(2):
            daemon.await_worker(f"crew-{number}", lambda w: w["state"] == "Ready")
        daemon.call("mcp.call", name="state__get", arguments={})
        load = Load(daemon, seed, address)
        try:
            for number in range(1, changes + 1):
                kind = chance.choice(["agent", "server", "sleep", "bad", "warm", "site"])
                before = dict(now)
                if kind == "bad":
                    now["agent"] = chance.choice(["bad-exit", "bad-import", "bad-health"])
                elif kind == "warm":
                    now |= {"warm": chance.choice(["true", "false"]), "agent": str(number)}
                else:
                    now[kind] = str(600 + number)
                name = {"server": "state", "sleep": "plain", "site": "site"}.get(kind, "crew")
                daemon.config.write_text(TEXT.format(**now, **fixed))
                daemon.call("daemon.reload")
                end = end_of(client, name)
                ends[f"{kind}: {end}"] += 1
                expected = "agent.taken_back" if kind == "bad" else "agent.rolled"
                load.counts["wrong_ends"] += end != expected
                if kind == "bad":
                    now = before
        finally:
            load.end()
    return {"changes": changes, "seed": seed, **ends, **load.counts, "failures": load.failures[:20]}


def main() -> int:
    """Plays, prints the counts, and returns the exit status."""
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        found = played(Path(folder), changes, seed)
    print(json.dumps(found))
    bad = ("failed_tasks", "doubled_tasks", "failed_calls", "failed_requests", "wrong_ends")
    return int(any(found.get(key) for key in bad))


if __name__ == "__main__":
    sys.exit(main())
