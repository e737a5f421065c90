"""Uses everything that a daemon offers for hours, measures what it holds meanwhile, and says what grows without end.

    .venv/bin/python -P tests/chaos/soak.py [--hours 2] [--pace 1] [--keep FOLDER]

Each of `LOOPS` repeats one use after a pause of its own, times `--pace`. Records are kept for five minutes, so that the state
folder is full before the warm-up ends. Every minute a line of figures is printed, and at the end the table of growth.py. The exit
status is 1 where something leaks or a use failed.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "support")]  # `python -P` leaves them out

from chaos.growth import ALLOWED, Row, table
from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError
from daemon_process import AGENTS, BOUND_S, DaemonProcess, children, until
from http_api_client import Api

SAMPLE_S = 5.0

CONFIG = f"""
[daemon]
http = "127.0.0.1:0"
max_changes_per_minute = 100000
log_level = "warning"
[process]
working_directory = "{AGENTS}"
[tasks]
result_retention = "5m"
dead_letter_retention = "5m"
retry_backoff_base = "10ms"
[events]
retention = "5m"
max_bytes = "8MiB"
[audit]
retention = "5m"
[metrics]
retention = {{ raw = "5m", minute = "5m", hour = "5m" }}
[memory]
retention = "5m"
max_sessions = 50
[recovery]
restart_backoff_base = "100ms"
max_restart_attempts = 1000
[agents.crew]
entrypoint = "crew_agent:agent"
instances = 2
environment = {{ ROUND = "@ROUND@" }}
[agents.other]
entrypoint = "crew_agent:agent"
[agents.victim]
entrypoint = "rolled_agent:agent"
[agents.spare]
entrypoint = "crew_agent:agent"
[agents.dies]
entrypoint = "crew_agent:agent"
[agents.crowd]
entrypoint = "rolled_agent:agent"
[agents.streams]
entrypoint = "streaming_agent:agent"
[agents.diary]
entrypoint = "diarist_agent:agent"
recovery = {{ enable_checkpointing = true, checkpoint_interval = "1h" }}
[agents.noise]
protocol = "none"
command = ["sh", "-c", "while :; do echo a line of noise; sleep 0.5; done"]
[agents.job]
type = "oneshot"
command = ["true"]
autostart = false
[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
[schedules.often]
every = "5s"
agent = "crew"
objective = "echo"
"""


class Loops:
    """What is repeated, each on a thread and a connection of its own, and how often it was done or refused."""

    def __init__(self, daemon: DaemonProcess, pace: float) -> None:
        self.daemon = daemon
        self.api = Api(daemon)
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, pause_s * pace, use))
            for name, (pause_s, use) in LOOPS.items()
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, name: str, pause_s: float, use: "Callable[[Loops, Client, int], object]") -> None:
        with self.daemon.client() as client:
            number = 0
            while not self._is_over.wait(random.uniform(0.5, 1.5) * pause_s):
                number += 1
                failure = ""
                try:
                    use(self, client, number)
                except (CorralError, OSError, AssertionError) as error:
                    failure = f"{name}: {type(error).__name__}: {error}"[:200]
                with self._lock:
                    self.done[name] += 1
                    if failure:
                        self.failures[failure] += 1

    def end(self) -> None:
        """Ends all, each after its present use."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def ask(self, verb: str, path: str, body: object = None, **more: Any) -> Any:
        """An answer over HTTP, which has to be a success."""
        answer = self.api.ask(verb, path, body, **more)
        assert answer.status < 300, (verb, path, answer.status, answer.text)
        return answer


def call(client: Client, method: str, **params: object) -> Any:  # the result, whose shape the caller knows
    return client.call(method, params, timeout_s=BOUND_S)


def run(client: Client, agent: str, objective: str, **more: object) -> None:
    task = call(client, "task.run", agent=agent, objective=objective, **more)
    assert task["state"] == "succeeded", task["error"]


def heard(loops: Loops, method: str, count: int, **params: object) -> None:
    """Follows on a connection of its own, until so many notifications have come."""
    with loops.daemon.client() as client:
        call(client, method, **params)
        for _, _ in zip(range(count), client.notifications(BOUND_S), strict=False):
            pass


def delegate(_loops: Loops, client: Client, number: int) -> None:
    run(client, "crew", "delegate other", input=number)
    waiting = call(client, "task.submit", agent="streams", objective="gate", input="/none")
    call(client, "task.cancel", task=waiting["id"])


def memory(_loops: Loops, client: Client, number: int) -> None:
    key = f"key-{number % 50}"
    call(client, "memory.put", agent="crew", key=key, value="v" * random.randrange(500), ttl_s=60.0)
    call(client, "memory.search", agent="crew", query=key)
    if number % 3 == 0:
        call(client, "memory.delete", agent="crew", key=key)


def over_http(loops: Loops, _client: Client, _number: int) -> None:
    loops.ask("POST", "/agents/crew/run", {"objective": "echo", "input": "h"})
    loops.ask("GET", "/status")
    loops.ask("GET", "/metrics", below="")
    assert loops.api.ask("GET", "/status", Authorization="Bearer wrong").status == 401


def server_sent(loops: Loops, _client: Client, number: int) -> None:
    path = ("/events?since_time=0", "/logs?names=noise&follow=true")[number % 2]
    with closing(loops.api.connection()) as connection:
        headers = {"Authorization": f"Bearer {loops.api.token}", "Accept": "text/event-stream"}
        connection.request("GET", f"/api/v1{path}", headers=headers)
        answer = connection.getresponse()
        assert answer.read1(2000)


def over_mcp(loops: Loops, _client: Client, _number: int) -> None:
    accept = {"Accept": "application/json, text/event-stream"}
    info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
    session = loops.ask("POST", "/mcp", begin, below="", **accept).headers["Mcp-Session-Id"]
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    loops.ask("POST", "/mcp", listing, below="", Mcp_Session_Id=session, **accept)
    loops.ask("DELETE", "/mcp", below="", Mcp_Session_Id=session)


def follow_events(loops: Loops, client: Client, number: int) -> None:
    call(client, "event.publish", type="soak.round", data={"number": number})
    heard(loops, "event.follow", 1, types=["soak.*"], n=1)


def starts(_loops: Loops, client: Client, number: int) -> None:
    for verb in ("restart",) if number % 2 else ("stop", "start"):
        call(client, f"agent.{verb}", names=["spare"])


def change(_loops: Loops, client: Client, number: int) -> None:
    call(client, "agent.set", name="victim", spec={"environment": {"VERSION": str(number)}})
    if number % 2 == 0:
        call(client, "agent.rollback", name="victim")


def reload(loops: Loops, client: Client, number: int) -> None:
    loops.daemon.config.write_text(CONFIG.replace("@ROUND@", str(number // 10)))  # every tenth changes something
    call(client, "daemon.reload")


def add(_loops: Loops, client: Client, number: int) -> None:
    name = f"passing-{number % 5}"
    spec = {"entrypoint": "rolled_agent:agent", "process": {"working_directory": str(AGENTS)}}
    call(client, "agent.add", name=name, spec=spec)
    run(client, name, "nothing")
    call(client, "agent.rm", name=name)


def stream(_loops: Loops, client: Client, _number: int) -> None:
    asked: dict[str, object] = {"agent": "streams", "objective": "values 20", "stream": True}
    parts: list[object] = []  # which the client would keep, up to 100,000 of them
    task: Any = client.call("task.run", asked, timeout_s=BOUND_S, on_notification=parts.append)
    assert task["state"] == "succeeded", task["error"]
    assert parts


def schedule(_loops: Loops, client: Client, number: int) -> None:
    name = f"timed-{number % 5}"
    call(client, "schedule.run", name="often")
    call(client, "schedule.add", name=name, every_s=3600.0, task={"agent": "crew", "objective": "echo"})
    call(client, "schedule.rm", name=name)


def checkpoint(_loops: Loops, client: Client, _number: int) -> None:
    (saved,) = call(client, "checkpoint.save", name="diary")["checkpoints"]
    call(client, "checkpoint.restore", checkpoint=saved["id"])
    for each in call(client, "checkpoint.list", name="diary")["checkpoints"][1:]:
        call(client, "checkpoint.rm", checkpoints=[each["id"]])


def back_up(_loops: Loops, client: Client, _number: int) -> None:
    made = call(client, "backup.make", logs=False)
    call(client, "backup.read", id=made["id"])
    call(client, "backup.discard", id=made["id"])


def figures(_loops: Loops, client: Client, _number: int) -> None:
    call(client, "statistics.show")
    call(client, "metrics.latest")
    call(client, "metrics.history", agent="crew", since=time.time() - 60)
    call(client, "metrics.top")


def lists(_loops: Loops, client: Client, _number: int) -> None:
    for method in ("task.list", "event.list", "audit.list", "quota.list", "cost.list", "memory.stats", "mcp.tools"):
        call(client, method)
    call(client, "revision.list", name="victim")


def rights(_loops: Loops, client: Client, number: int) -> None:
    call(client, "token.add", name=f"token-{number}", rights="read")
    call(client, "token.rm", name=f"token-{number}")
    call(client, "tenant.add", name=f"tenant-{number % 5}")
    call(client, "tenant.rm", name=f"tenant-{number % 5}")
    call(client, "secret.set", name="word", secret=str(number))
    call(client, "secret.rm", name="word")


LOOPS: dict[str, tuple[float, Callable[[Loops, Client, int], object]]] = {
    "connect": (0.5, lambda loops, _client, _number: loops.daemon.call("daemon.ping")),
    "tasks": (0.1, lambda _loops, client, number: run(client, "crew", "echo", input="x" * (number % 200))),
    "sessions": (0.5, lambda _loops, client, number: run(client, "crew", "echo", session=f"session-{number % 100}")),
    "delegations": (2.0, delegate),
    "streams": (1.0, stream),
    "tools": (0.2, lambda _loops, client, _number: call(client, "mcp.call", name="state__get", arguments={})),
    "tools-of-tasks": (1.0, lambda _loops, client, _number: run(client, "crew", "tool state__get")),
    "memory": (0.5, memory),
    "http": (1.0, over_http),
    "http-streams": (3.0, server_sent),
    "http-mcp": (3.0, over_mcp),
    "events": (2.0, follow_events),
    "logs": (3.0, lambda loops, _client, _number: heard(loops, "log.follow", 2, names=["noise"], n=5)),
    "starts": (10.0, starts),
    "deaths": (15.0, lambda _loops, client, _number: run(client, "dies", "die-once")),
    "scale": (10.0, lambda _loops, client, number: call(client, "agent.scale", name="crowd", instances=1 + number % 3)),
    "set": (15.0, change),
    "reload": (20.0, reload),
    "add": (15.0, add),
    "schedules": (5.0, schedule),
    "jobs": (10.0, lambda _loops, client, _number: call(client, "agent.restart", names=["job"])),
    "exec": (10.0, lambda _loops, client, _number: call(client, "agent.run_command", name="crew-0", argv=["true"])),
    "checkpoints": (10.0, checkpoint),
    "backup": (60.0, back_up),
    "metrics": (5.0, figures),
    "lists": (5.0, lists),
    "rights": (10.0, rights),
}
"""The uses by name: seconds between two of them on average, and what is done on the loop's connection at the n-th time."""


def sample(daemon: DaemonProcess, path: Path) -> dict[str, float]:
    """What the daemon and its launcher hold now."""
    path.unlink(missing_ok=True)
    os.kill(daemon.pid, signal.SIGUSR2)
    until(path.exists)
    counts = json.loads(path.read_text())
    (launcher,) = [pid for pid in children(daemon.pid) if b"launcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    found: dict[str, float] = {"blocks": counts["blocks"], "tasks": counts["tasks"]}
    for pid, who in ((daemon.pid, "daemon"), (launcher, "launcher")):
        rows = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        found |= {f"{who} RSS": 1024 * int(rows["Rss:"]), f"{who} PSS": 1024 * int(rows["Pss:"])}
    found["threads"] = len(os.listdir(f"/proc/{daemon.pid}/task"))
    found["descriptors"] = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    found["launcher descriptors"] = len(os.listdir(f"/proc/{launcher}/fd"))
    found["processes"] = _descendants(daemon.pid)
    found["files"] = sum(len(files) for _, _, files in os.walk(daemon.state_dir))
    found["database"] = sum(each.stat().st_size for each in daemon.state_dir.glob("corral.db*"))
    return {measure: found[measure] for measure in ALLOWED}


def _descendants(pid: int) -> int:
    return sum(1 + _descendants(child) for child in children(pid))


def soak(folder: Path, hours: float, pace: float) -> tuple[list[Row], Loops]:
    """The samples of so many hours, and what was done."""
    path = folder / "counts.json"
    prefix = [sys.executable, "-P", str(AGENTS / "counted.py"), str(path)]
    rows: list[Row] = []
    with DaemonProcess(folder, CONFIG.replace("@ROUND@", "0"), prefix=prefix) as daemon:
        daemon.call("agent.start", names=["*"])
        loops = Loops(daemon, pace)
        begin = time.monotonic()
        try:
            while (at_h := (time.monotonic() - begin) / 3600) < hours:
                row = Row(at_h, loops.done.total(), sample(daemon, path))
                rows.append(row)
                if len(rows) % 12 == 1:
                    held = ", ".join(f"{measure} {value:,.0f}" for measure, value in row.held.items())
                    failed = loops.failures.total()
                    print(f"{at_h * 60:4.0f} min, {row.operations:,} done, {failed} failed: {held}", flush=True)
                time.sleep(min(SAMPLE_S, hours * 3600 / 100))
        finally:
            loops.end()
    return rows, loops


def main() -> int:
    """Runs for as long as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--pace", type=float, default=1.0, help="the pauses are so many times as long")
    parser.add_argument("--keep", type=Path, help="a new folder for the daemon, which is left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows, loops = soak(folder, options.hours, options.pace)
    lines, leaking = table(rows)
    print(*lines, "done: " + ", ".join(f"{name} {count:,}" for name, count in sorted(loops.done.items())), sep="\n")
    for failure, count in loops.failures.most_common(20):
        print(f"{count:6} times {failure}")
    print("leaks: " + (", ".join(leaking) or "none"))
    return 1 if leaking or loops.failures else 0


if __name__ == "__main__":
    sys.exit(main())
