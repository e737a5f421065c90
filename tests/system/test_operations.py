"""Eight clients do a thousand things at once; whatever they do, there is one copy of each worker, and none is lost.

The operations come from a printed seed; how they interleave does not. After each burst everything that
was paused is resumed, the daemon comes to rest, and it is looked at: the processes of the machine, the
status, the stream of events. In the ordinary run it is a short form; `CORRAL_OPERATIONS=1000` and
`CORRAL_SEED=7` make it long, or repeat one.
"""

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.linux.kernel import MARK
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError, Unreachable
from corral.worker.contract.records import ENDED
from daemon_process import AGENTS, BOUND_S, DaemonProcess, check_status, children, marked
from worker_lives import TYPES, check_lives

OPERATIONS = int(os.environ.get("CORRAL_OPERATIONS", "300"))
SEED = int(os.environ.get("CORRAL_SEED", "0")) or random.randrange(1, 1_000_000)
CLIENTS = 8
BURST = 100
"""Operations between two looks."""

REST_S = 60.0
"""So long the daemon may take to come to rest: every start and every stop is bounded by less."""

RAW = f'"{sys.executable}", "-S", "{AGENTS}/raw_worker.py"'
QUICK = """
process.shutdown_grace_period = "1s"
process.spawn_timeout = "10s"
recovery.restart_backoff_base = "{base}ms"
"""

RANGE = "{ min = 1, max = 4 }"
WARM_AGENT = """
import asyncio, os, version
from corral.worker import Agent

agent = Agent("warm")

@agent.checkpoint
def save():
    return version.NUMBER

@agent.task
async def run(task):
    if task.objective == "hold":
        await asyncio.sleep(0.05)
    if task.objective == "die":
        os._exit(3)
    return version.NUMBER
"""

CONFIG = (
    f"""
process.max_concurrent_processes = 20
[agents.crew]
command = [{RAW}, "garbage"]
instances = 2
environment = {{ OF = "crew" }}
{QUICK}
[agents.deaf]
command = [{RAW}, "deaf"]
{QUICK}
[agents.litter]
command = [{RAW}, "litter"]
{QUICK}
[agents.exits]
command = [{RAW}, "exit"]
{QUICK}
[agents.plain]
command = ["sleep", "600"]
protocol = "none"
{QUICK}
[agents.lone]
command = [{RAW}, "garbage"]
environment = {{ OF = "lone" }}
rolling = false
{QUICK}
[agents.after]
command = [{RAW}, "garbage"]
requires = ["plain", "crew"]
{QUICK}
[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
{QUICK}
[agents.warm]
entrypoint = "app:agent"
instances = {RANGE}
min_spare = 2
tasks.scale_up_after = "10ms"
tasks.scale_down_after = "50ms"
process.working_directory = "{{FOLDER}}"
{QUICK}
"""
).replace("{base}", "20")

NAMES = ("crew", "deaf", "litter", "exits", "plain", "lone", "after", "odd", "warm")
ALONE = ("lone",)
"""Names of agents that permit no two of their workers at a time."""

ADDED = ("one", "two", "three", "four")
"""Names that come and go."""

REFUSALS = {
    "ok",
    "NotFound",
    "Conflict",
    "SpawnFailed",
    "Timeout",
    "InvalidParams",
    "ResourceLimitExceeded",
    "ToolFailed",
    "WorkerFailed",
    "ShuttingDown",
    "NotInitialized",
}
"""How a call may end when others do what they like."""

LEGAL = frozenset({"Initial", "Starting", "Ready", "Busy", "Idle", "ShuttingDown", "Terminated"})


def result(call: Callable[[], Any]) -> tuple[str, Any]:
    """How a call ended: "ok" and its answer, or the name of the error and that."""
    try:
        return "ok", call()
    except Unreachable:
        raise
    except CorralError as error:
        return error.name, error


class Person:
    """One client, and what it does."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.random = random.Random(SEED * CLIENTS + number)
        self.client: Client = world.daemon.client()
        luck = self.random
        self.deeds: list[tuple[int, Callable[[], tuple[str, dict[str, object]]]]] = [
            (14, lambda: ("agent.start", {"names": self.some(), "wait": luck.random() < 0.5})),
            (10, lambda: ("agent.stop", {"names": self.some(), "wait": luck.random() < 0.5})),
            (8, lambda: ("agent.restart", {"names": self.some(), "wait": luck.random() < 0.5})),
            (2, lambda: ("agent.start", {"all": True, "wait": False})),
            (2, lambda: ("agent.restart", {"all": True, "wait": luck.random() < 0.5})),
            (1, lambda: ("agent.stop", {"all": True, "wait": luck.random() < 0.5})),
            (5, lambda: ("agent.reset", {"names": self.some()})),
            (6, lambda: ("agent.scale", {"name": self.one(), "instances": luck.randrange(4)})),
            (10, self.add),
            (8, lambda: ("agent.rm", {"names": [luck.choice(ADDED)], "cascade": luck.random() < 0.5})),
            (7, lambda: ("agent.pause", {"names": self.some()})),
            (9, lambda: ("agent.resume", {"names": self.some()})),
            (6, lambda: ("agent.signal", {"name": self.one(), "signal": luck.choice(["KILL", "TERM", "HUP"])})),
            (3, self.reload),
            (10, lambda: ("task.submit", {"agent": luck.choice(("crew", "after", *ADDED)), "objective": "x"})),
            (8, self.work),
            (3, lambda: ("agent.hibernate", {"names": ["warm"], "force": luck.random() < 0.5})),
            (3, lambda: ("agent.wake", {"names": ["warm"], "wait": False})),
            (4, self.harm),
            (3, self.hang_up),
            (4, lambda: ("mcp.call", {"name": "odd__echo", "arguments": {"text": "a"}, "timeout_s": 5.0})),
            (3, lambda: ("daemon.status", {})),
            (1, lambda: ("daemon.emergency_stop", {})),
        ]  # fmt: skip

    def one(self) -> str:
        name = self.random.choice(NAMES + ADDED)
        return name if self.random.random() < 0.7 else f"{name}-{self.random.randrange(2)}"

    def some(self) -> list[str]:
        return [self.one() for _ in range(self.random.choice([1, 1, 1, 2, 3]))]

    def add(self) -> tuple[str, dict[str, object]]:
        names = self.random.sample(ADDED, self.random.choice([1, 1, 2]))
        agents: list[dict[str, object]] = []
        for name in names:
            spec: dict[str, object] = {
                "command": [sys.executable, "-S", f"{AGENTS}/raw_worker.py", "garbage"],
                "instances": self.random.choice([1, 1, 2]),
                "process": {"shutdown_grace_period": "1s"},
                "requires": self.random.choice([[], [], ["crew"], [self.random.choice(ADDED)]]),
            }
            directory = str(self.world.daemon.folder)
            agents.append({"name": name, "spec": spec, "directory": directory})
        return "agent.add_all", {"agents": agents, "wait": self.random.random() < 0.5}

    def work(self) -> tuple[str, dict[str, object]]:
        objective = self.random.choice(["x", "hold", "hold", "die"])
        return "task.submit", {"agent": "warm", "objective": objective, "durable": self.random.random() < 0.5}

    def harm(self) -> tuple[str, dict[str, object]]:
        """Ends a zygote, or a process that it has forked, or changes what it has read."""
        warm: Any = self.world.warm()["warm"]
        zygote: int = warm["pid"] or 0 if warm else 0
        if not zygote or self.random.random() < 0.4:
            self.world.write(self.random.randrange(1000))
        else:
            victim = self.random.choice([zygote, *children(zygote)])
            self.world.say(f"kill {victim}, zygote {zygote}")
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        return "daemon.status", {}

    def hang_up(self) -> tuple[str, dict[str, object]]:
        """Asks for something, and hears of no answer."""
        method, params = self.random.choice([
            ("agent.scale", {"name": self.random.choice(("crew", "warm")), "instances": self.random.randrange(4)}),
            ("agent.restart", {"names": self.some()}),
            ("agent.hibernate", {"names": ["warm"]}),
            ("agent.rm", {"names": [self.random.choice(ADDED)]}),
            ("task.run", {"agent": "warm", "objective": "hold"}),
        ])  # fmt: skip
        self.world.say(f"hangs up: {method} {params}")
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.world.daemon.socket))
            line.sendall(json.dumps(asked).encode() + b"\n")
            line.settimeout(self.random.uniform(0.0001, 0.05))
            with suppress(TimeoutError):
                line.recv(1)
        return "daemon.status", {}

    def reload(self) -> tuple[str, dict[str, object]]:
        text = CONFIG.replace("{FOLDER}", f"{self.world.daemon.folder}/warm").replace(
            '"20ms"', f'"{self.random.choice([10, 20, 40])}ms"'
        )
        if self.random.random() < 0.3:
            text = text.replace("instances = 2", "instances = 3")
        if self.random.random() < 0.2:
            text = text.replace('"sleep", "600"', f'"sleep", "60{self.random.randrange(10)}"')
        for name in ("crew", "lone"):
            if self.random.random() < 0.3:
                text = text.replace(f'OF = "{name}"', f'OF = "{self.random.randrange(1000)}"')
        if self.random.random() < 0.5:
            ranges = ["1", "3", "{ min = 0, max = 2 }", "{ min = 2, max = 5 }"]
            text = text.replace(f"instances = {RANGE}", f"instances = {self.random.choice(ranges)}")
            text = text.replace("min_spare = 2", f"min_spare = {self.random.randrange(4)}")
        if self.random.random() < 0.1:
            text = text.replace("min_spare", "warm = false\nmin_spare")
        new = self.world.daemon.folder / f"corral.toml.{threading.get_ident()}"
        new.write_text(text)
        new.rename(self.world.daemon.config)
        return "daemon.reload", {}

    def act(self, deeds: int) -> None:
        """Does so many things, one after the other."""
        weights = [weight for weight, _ in self.deeds]
        for _ in range(deeds):
            (deed,) = self.random.choices([deed for _, deed in self.deeds], weights)
            method, params = deed()
            self.world.say(f"{method} {params}")
            began = time.monotonic()
            outcome, answer = result(lambda: self.client.call(method, params, timeout_s=REST_S))  # noqa: B023 - called at once
            assert outcome in REFUSALS, (method, params, answer)
            assert time.monotonic() - began < REST_S, f"{method} {params} hung"
            if (method, outcome) == ("task.submit", "ok"):
                self.world.tasks.append(answer["id"])
            self.world.outcomes[method, outcome] += 1


class World:
    """A daemon, what was done to it, and what it must look like."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.tasks: list[str] = []
        self.outcomes = Counter[tuple[str, str]]()
        self.done: list[str] = []
        self.moves: list[dict[str, Any]] = []
        self._ended = threading.Event()
        self._stream = daemon.client()
        self._stream.call("event.follow", {"since": 0, "types": TYPES}, timeout_s=BOUND_S)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def say(self, what: str) -> None:
        self.done.append(f"{time.monotonic():.3f} {threading.current_thread().name} {what}")

    def _read(self) -> None:
        try:
            for notification in self._stream.notifications():
                events: Any = notification.params["events"]
                self.moves += events
        except Unreachable:
            pass
        self._ended.set()

    def close(self) -> None:
        """After the daemon has ended: the stream has, too."""
        assert self._ended.wait(BOUND_S)
        self._reader.join()
        self._stream.close()

    def write(self, number: int) -> None:
        """Another version of what the warm agent imports."""
        beside = self.daemon.folder / f"version.{threading.get_ident()}"
        beside.write_text(f"NUMBER = {number}")
        beside.rename(self.daemon.folder / "warm" / "version.py")

    # -- at rest

    def entries(self) -> list[Any]:
        status = self.daemon.call("daemon.status")
        return [*status["agents"], *status["mcp_servers"]]

    def workers(self) -> dict[str, Any]:
        """Every worker's status, by its id."""
        return {worker["id"]: worker for entry in self.entries() for worker in entry["workers"]}

    def come_to_rest(self) -> dict[str, Any]:
        """Resumes all, and waits until nothing more is on its way."""
        end = time.monotonic() + REST_S
        while time.monotonic() < end:
            self.daemon.call("agent.resume", all=True)
            entries = self.entries()
            workers = {worker["id"]: worker for entry in entries for worker in entry["workers"]}
            is_quiet = not any("rolling" in entry or "beside" in entry for entry in entries)
            is_quiet = is_quiet and all(map(is_at_rest, workers.values()))
            if is_quiet and self.is_warmed():
                return workers
            time.sleep(0.05)
        changing = [e for e in self.entries() if "rolling" in e or "beside" in e]
        assert not changing, f"no rest: {changing}"
        restless = [worker for worker in self.workers().values() if not is_at_rest(worker)]
        raise AssertionError(f"no rest: {restless}, {self.warm()}")

    def warm(self) -> Any:  # an agent's status
        (entry,) = self.daemon.call("daemon.status", names=["warm"])["agents"]
        return entry

    def is_warmed(self) -> bool:
        """Whether as much is forked ahead as is to be, or nothing is."""
        warm = self.warm()["warm"]
        if warm is None or warm["state"] == "cold":
            return True
        spec = self.daemon.call("agent.show", name="warm")["spec"]
        return bool(warm["state"] == "warm" and warm["spares"] == spec.get("min_spare", 0))

    def snapshot(self) -> tuple[dict[str, Any], list[tuple[int, str]]]:
        """Workers and processes of one moment: nothing has changed while both were read."""
        end = time.monotonic() + REST_S
        workers = self.come_to_rest()
        while time.monotonic() < end:
            lives = living(self.daemon.folder)
            before, workers = workers, self.come_to_rest()
            if current(before) == current(workers):
                return workers, lives
        raise AssertionError("the workers change for ever")

    def look(self) -> None:
        """The promises, when everybody has been answered."""
        workers, lives = self.snapshot()
        assert {worker["state"] for worker in workers.values()} <= LEGAL
        strays = [(pid, unit) for pid, unit in lives if unit not in current(workers) and ".zygote#" not in unit]
        assert strays == [], [workers.get(unit.rpartition("#")[0]) for _, unit in strays]
        leaders = {w["pid"]: w for w in workers.values() if w["pid"]}
        assert set(leaders) <= {pid for pid, _ in lives}, (lives, workers)
        self.look_at_forks()
        check_status(self.daemon)
        check_lives(list(self.moves), ALONE)
        assert "Traceback" not in self.daemon.log.read_text()

    def look_at_forks(self) -> None:
        """Every process of the warm agent is a worker, its zygote, or a spare that is counted."""
        end = time.monotonic() + REST_S
        while True:
            entry = self.warm()
            found = set(marked(self.daemon.folder / "warm"))
            leaders: set[int] = {worker["pid"] for worker in entry["workers"] if worker["pid"]}
            warm: Any = entry["warm"] or {"pid": 0, "spares": 0}
            zygote: int = warm["pid"] or 0
            others = found - leaders - {zygote}
            spares = others & children(zygote)
            is_told = spares == others and len(spares) == warm["spares"] and leaders <= found
            if is_told or time.monotonic() > end:
                assert is_told, (entry, found)
                return


def is_at_rest(worker: dict[str, Any]) -> bool:
    """Up, or down for a reason that somebody can read, and nothing on its way."""
    if worker["state"] in UP:
        return not worker["paused"]
    if worker["state"] == "Initial":
        return worker["next_start_in_s"] is None and (not worker["wanted"] or worker["reason"])
    ended = worker["last_exit"] is not None
    return worker["state"] == "Terminated" and worker["pid"] is None and ended


def current(workers: dict[str, Any]) -> set[str]:
    """The marks that processes may have now."""
    up = [worker for worker in workers.values() if worker["state"] in UP]
    return {f"{worker['id']}#{worker['incarnation']}" for worker in up}


def living(folder: Path) -> list[tuple[int, str]]:
    """The processes below the daemon, each with the mark of the life that it belongs to."""
    found: list[tuple[int, str]] = []
    for pid in marked(folder):
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        value = (b"\0" + environ).partition(f"\0{MARK}=".encode())[2].partition(b"\0")[0]
        if value:  # else it is just between fork and exec, or gone
            found.append((pid, value.decode()))
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "app.py").write_text(WARM_AGENT)
    (tmp_path / "warm" / "version.py").write_text("NUMBER = 0")
    with DaemonProcess(tmp_path, CONFIG.replace("{FOLDER}", f"{tmp_path}/warm")) as daemon:
        world = World(daemon)
        try:
            yield world
        finally:
            daemon.stop()
            world.close()
    assert marked(tmp_path) == []


def test_whatever_eight_clients_do_at_once_the_promises_hold(world: World) -> None:
    print(f"seed {SEED}, {OPERATIONS} operations")
    people = [Person(world, number) for number in range(CLIENTS)]
    try:
        left = OPERATIONS
        while left > 0:
            burst = min(BURST, left)
            left -= burst
            with ThreadPoolExecutor(CLIENTS) as pool:
                shares = [burst // CLIENTS + (n < burst % CLIENTS) for n in range(CLIENTS)]
                acts = [pool.submit(person.act, n) for person, n in zip(people, shares, strict=True)]
                for act in acts:
                    act.result()
            world.look()
        world.daemon.call("agent.stop", all=True)
        assert living(world.daemon.folder) == []
    except BaseException:
        print("\n".join(world.done[-60:]))
        print(*world.workers().values(), sep="\n")
        raise
    finally:
        for person in people:
            person.client.close()
        print(*sorted(world.outcomes.items()), sep="\n")


def test_no_task_is_lost_whatever_is_done_to_its_agent(world: World) -> None:
    people = [Person(world, number) for number in range(CLIENTS)]
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for act in [pool.submit(person.act, 8) for person in people]:
                act.result()
    finally:
        for person in people:
            person.client.close()
    world.come_to_rest()
    world.daemon.call("agent.stop", all=True)
    for name in ("crew", "plain", "after", "warm", *ADDED):
        for method, params in (
            ("agent.start", {"names": [name]}),  # which also lets go of the brake
            ("agent.scale", {"name": name, "instances": 2}),  # it may have been left with none
        ):
            outcome, _ = result(lambda: world.daemon.call(method, **params))  # noqa: B023 - called at once
            assert outcome in ("ok", "NotFound"), name
    for task in world.tasks:
        outcome, _ = result(lambda: world.daemon.call("task.wait", task=task))  # noqa: B023 - called at once
        record = world.daemon.call("task.show", task=task)
        status = world.daemon.call("daemon.status")
        assert record["state"] in ENDED, json.dumps([outcome, record, status], indent=1)
