"""Zygotes are renewed when their sources change, and spares are there ahead: nothing is dropped, nothing is left."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, NotFound, SpawnFailed
from daemon_process import BOUND_S, DaemonProcess, marked, until

pytestmark = pytest.mark.long

AGENT = """
import asyncio
import os

import version
from corral.worker import Agent

agent = Agent("renewed")


@agent.checkpoint
def save():
    return version.NUMBER


@agent.task
async def run(task):
    if task.objective.startswith("/"):  # a fifo: it goes on when somebody writes there
        await task.progress(0, "holds")
        await asyncio.to_thread(open(task.objective, "rb", buffering=0).read, 1)
    return {"version": version.NUMBER, "pid": os.getpid(), "worker": os.environ["CORRAL_WORKER"]}
"""

HELD_BIRTH = """
NUMBER = 0
import os

def hold():
    if os.path.exists("gate"):
        open("gate", "rb", buffering=0).read(1)

os.register_at_fork(after_in_child=hold)
"""
BROKEN = "NUMBER = no_such_name"
THREADED = """
NUMBER = "threaded"
import threading
threading.Thread(target=threading.Event().wait, daemon=True, name="left-behind").start()
"""

SECTIONS = {
    "busy": "instances = 4",
    "one": "process.shutdown_grace_period = 0",  # a task that is cut begins anew
    "pair": "instances = 2",
    "crowd": "instances = 2",
    "leaving": "instances = 2",
    "late": "instances = 1",
    "sleeper": "instances = 2",
    "broken": "instances = 2",
    "threaded": "instances = 2",
    "spared": "min_spare = 2",
    "restless": "min_spare = 1",
    "live": "instances = 2",
}

CountedEntry = dict[str, Any]  # an event, whose fields the test knows


class Home:
    """A daemon with an agent per section, each with sources of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in SECTIONS:
            (folder / name).mkdir()
            (folder / name / "app.py").write_text(AGENT)
            self.write(name, "NUMBER = 0")

    def config(self, **changed: str) -> str:
        return "\n".join(
            f"""
            [agents.{name}]
            entrypoint = "app:agent"
            autostart = false
            process.working_directory = "{self.folder / name}"
            recovery.restart_backoff_base = "10ms"
            {changed.get(name, section)}
            """
            for name, section in SECTIONS.items()
        )

    def write(self, name: str, text: str) -> None:
        """Another version of the sources, as an editor writes it."""
        beside = self.folder / name / "version.py~"
        beside.write_text(text)
        beside.rename(self.folder / name / "version.py")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("renewal"))


@pytest.fixture(scope="module")
def daemon(home: Home) -> Iterator[DaemonProcess]:
    with DaemonProcess(home.folder, home.config()) as process:
        yield process


def start(daemon: DaemonProcess, name: str) -> None:
    daemon.call("agent.start", names=[name])


def run(daemon: DaemonProcess, name: str, objective: str = "say") -> Any:
    task = daemon.call("task.run", agent=name, objective=objective)
    assert task["state"] == "succeeded", task
    return task["output"]


def entry(daemon: DaemonProcess, name: str) -> Any:
    (found,) = daemon.call("daemon.status", names=[name])["agents"]
    return found


def await_entry(daemon: DaemonProcess, name: str, is_so: Callable[[Any], bool]) -> Any:
    """An agent's status as soon as it is so."""
    return until(lambda: entry(daemon, name), is_so)


def is_warm(found: Any) -> bool:
    """Nothing is being renewed, and all of its workers are up."""
    return is_up(found) and found["warm"] is not None and found["warm"]["state"] == "warm"


def is_up(found: Any) -> bool:
    return all(worker["state"] in ("Ready", "Busy", "Idle") for worker in found["workers"])


def lives(found: Any) -> list[int]:
    return [worker["incarnation"] for worker in found["workers"]]


def pids(found: Any) -> list[int]:
    return [worker["pid"] for worker in found["workers"]]


def processes(home: Home, name: str) -> set[int]:
    """All that run in the folder of an agent: its workers, its spares and its zygotes."""
    return set(marked(home.folder / name))


def children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@contextmanager
def watched(daemon: DaemonProcess, name: str) -> Generator[Callable[..., CountedEntry], None, None]:
    """What waits for the next event of an agent of a type, with these fields."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["agent.*"], "agent": name}, timeout_s=BOUND_S)
        notifications = client.notifications()

        def until_told(kind: str, **fields: object) -> CountedEntry:
            for notification in notifications:
                told: Any = notification.params["events"]
                for event in told:
                    same = all(event[key] == value for key, value in fields.items())
                    if event["type"] == kind and same:
                        return dict(event)
            raise AssertionError("the stream of events does not end")

        yield until_told


class Held:
    """A task that a worker is busy with, until `release`."""

    def __init__(self, daemon: DaemonProcess, home: Home, name: str) -> None:
        self._daemon = daemon
        self._fifo = home.folder / name / f"fifo-{threading.get_ident()}"
        os.mkfifo(self._fifo)
        self._fd = os.open(self._fifo, os.O_RDWR)
        with daemon.client() as client:
            params = {"types": ["task.progress"], "agent": name}
            client.call("event.follow", params, timeout_s=BOUND_S)
            self.id = daemon.call("task.submit", agent=name, objective=str(self._fifo))["id"]
            next(client.notifications())
        self.worker: str = daemon.call("task.show", task=self.id)["worker"]

    def release(self) -> Any:
        """Lets it end; the task's record."""
        os.write(self._fd, b"\n" * 8)
        try:
            return self._daemon.call("task.wait", task=self.id)
        finally:
            os.close(self._fd)
            self._fifo.unlink()


# -- changed sources


def test_sources_that_change_under_load_drop_no_task_and_all_end_on_the_newest(
    daemon: DaemonProcess, home: Home
) -> None:
    start(daemon, "busy")
    tasks, versions = list[Any](), SimpleQueue[object]()
    is_over = threading.Event()

    def work(number: int) -> None:
        with daemon.client() as client:
            while not is_over.is_set():
                params = {"agent": "busy", "objective": "say", "durable": number % 2 == 0}
                task: Any = client.call("task.run", params, timeout_s=BOUND_S)
                tasks.append(task)
                versions.put(task["output"]["version"])

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(work, number) for number in range(4)]
        try:
            for number in range(1, 6):
                home.write("busy", f"NUMBER = {number}")
                if number == 2:
                    daemon.call("agent.restart", names=["busy"])
                elif number == 4:
                    daemon.call("daemon.reload")
                while versions.get(timeout=BOUND_S) != number:
                    pass
            await_entry(daemon, "busy", is_warm)
        finally:
            is_over.set()
        for load in loads:
            load.result(BOUND_S)
    assert {task["state"] for task in tasks} == {"succeeded"}
    assert len({task["id"] for task in tasks}) == len(tasks) > 100
    ends = daemon.call("event.list", types=["task.succeeded"], agent="busy", n=100_000)["events"]
    ended = Counter(event["task"] for event in ends)
    durable = [task["id"] for task in tasks if task["id"] in ended]
    assert all(ended[task] == 1 for task in durable)
    found = entry(daemon, "busy")
    outputs = [run(daemon, "busy") for _ in range(12)]
    assert {output["version"] for output in outputs} == {5}
    zygote = found["warm"]["pid"]
    assert children(zygote) == set(pids(found))


def test_a_task_ends_on_what_its_worker_began_with_and_the_next_one_runs_what_is_new(
    daemon: DaemonProcess, home: Home
) -> None:
    start(daemon, "one")
    task = Held(daemon, home, "one")
    with watched(daemon, "one") as until_told:
        home.write("one", "NUMBER = 1")
        until_told("agent.renewal", ok=True)
    waiting = daemon.call("task.submit", agent="one", objective="say")["id"]
    assert entry(daemon, "one")["warm"]["state"] == "renewing"
    assert task.release()["output"]["version"] == 0
    assert daemon.call("task.wait", task=waiting)["output"]["version"] == 1
    assert lives(await_entry(daemon, "one", is_warm)) == [2]


def test_who_is_idle_is_replaced_while_another_is_busy(daemon: DaemonProcess, home: Home) -> None:
    start(daemon, "pair")
    task = Held(daemon, home, "pair")
    busy, idle = (0, 1) if task.worker == "pair-0" else (1, 0)
    home.write("pair", "NUMBER = 1")
    await_entry(daemon, "pair", lambda found: found["workers"][idle]["incarnation"] == 2)
    assert run(daemon, "pair")["version"] == 1
    assert lives(entry(daemon, "pair"))[busy] == 1
    assert task.release()["output"]["version"] == 0
    assert lives(await_entry(daemon, "pair", is_warm)) == [2, 2]


def test_sources_that_cannot_be_imported_leave_what_works_and_are_reported(daemon: DaemonProcess, home: Home) -> None:
    start(daemon, "broken")
    before = await_entry(daemon, "broken", is_warm)
    with watched(daemon, "broken") as until_told:
        home.write("broken", BROKEN)
        told = until_told("agent.renewal")
    assert (told["ok"], "no_such_name" in told["reason"]) == (False, True)
    assert "broken" in daemon.call("daemon.reload", dry_run=True)["renewed"]
    found = entry(daemon, "broken")
    assert pids(found) == pids(before)
    assert "no_such_name" in found["warm"]["reason"]
    assert run(daemon, "broken")["version"] == 0
    with pytest.raises(SpawnFailed, match="no_such_name"):
        daemon.call("agent.restart", names=["broken"])
    os.kill(pids(found)[0], signal.SIGKILL)
    daemon.await_worker("broken-0", lambda worker: worker["incarnation"] == 2 and worker["pid"])
    with watched(daemon, "broken") as until_told:
        home.write("broken", "NUMBER = 2")
        until_told("agent.renewal", ok=True)
    found = await_entry(daemon, "broken", is_warm)
    assert found["warm"]["reason"] is None
    assert "broken" not in daemon.call("daemon.reload", dry_run=True)["renewed"]
    assert run(daemon, "broken")["version"] == 2


def test_sources_that_forbid_to_fork_now_have_the_workers_start_cold(daemon: DaemonProcess, home: Home) -> None:
    start(daemon, "threaded")
    with watched(daemon, "threaded") as until_told:
        home.write("threaded", THREADED)
        assert "left-behind" in until_told("agent.cold")["reason"]
    found = await_entry(daemon, "threaded", lambda found: lives(found) == [2, 2] and is_up(found))
    assert found["warm"]["state"] == "cold"
    assert "left-behind" in found["warm"]["reason"]
    assert run(daemon, "threaded")["version"] == "threaded"
    home.write("threaded", "NUMBER = 2")
    daemon.call("agent.restart", names=["threaded"])
    assert entry(daemon, "threaded")["warm"]["state"] == "warm"
    assert run(daemon, "threaded")["version"] == 2


def test_a_restart_has_read_what_was_written_before_it(daemon: DaemonProcess, home: Home) -> None:
    start(daemon, "crowd")
    for number in range(1, 4):
        home.write("crowd", f"NUMBER = {number}")
        daemon.call("agent.restart", names=["crowd"])
        assert {run(daemon, "crowd")["version"] for _ in range(4)} == {number}


def test_a_fork_of_the_old_one_that_comes_after_the_renewal_is_replaced_too(daemon: DaemonProcess, home: Home) -> None:
    home.write("late", HELD_BIRTH)
    start(daemon, "late")
    (first,) = pids(entry(daemon, "late"))
    gate = home.folder / "late" / "gate"
    os.mkfifo(gate)
    os.kill(first, signal.SIGKILL)
    with gate.open("wb", buffering=0) as opened:  # its fork is on the way, and waits
        gate.unlink()
        with watched(daemon, "late") as until_told:
            home.write("late", "NUMBER = 1")
            until_told("agent.renewal", ok=True)
        opened.write(b"\n")
    assert await_entry(daemon, "late", is_warm)["workers"][0]["incarnation"] == 3
    assert run(daemon, "late")["version"] == 1


def renewing(daemon: DaemonProcess, home: Home, name: str, text: str) -> Held:
    """An agent in the middle of a renewal: one worker is new, the other one is busy."""
    start(daemon, name)
    before = lives(await_entry(daemon, name, is_warm))
    task = Held(daemon, home, name)
    idle = 1 - int(task.worker[-1])
    home.write(name, text)
    await_entry(daemon, name, lambda found: lives(found)[idle] > before[idle] and is_up(found))
    return task


def test_a_worker_that_is_paused_is_replaced_when_it_goes_on(daemon: DaemonProcess, home: Home) -> None:
    task = renewing(daemon, home, "pair", "NUMBER = 11")
    daemon.call("agent.pause", names=[task.worker])
    before = daemon.worker(task.worker)
    assert {run(daemon, "pair")["version"] for _ in range(4)} == {11}
    daemon.call("agent.resume", names=[task.worker])
    assert daemon.worker(task.worker)["incarnation"] == before["incarnation"]
    assert task.release()["state"] == "succeeded"
    await_entry(daemon, "pair", is_warm)
    assert daemon.worker(task.worker)["incarnation"] == before["incarnation"] + 1


def test_a_stop_in_the_middle_leaves_nothing_and_a_start_runs_what_is_new(daemon: DaemonProcess, home: Home) -> None:
    task = renewing(daemon, home, "pair", "NUMBER = 21")
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(daemon.call, "agent.stop", names=["pair"])
        assert task.release()["state"] == "succeeded"
        stopping.result(BOUND_S)
    assert processes(home, "pair") == set()
    assert entry(daemon, "pair")["warm"] is None
    start(daemon, "pair")
    assert run(daemon, "pair")["version"] == 21
    assert entry(daemon, "pair")["warm"]["state"] == "warm"


def test_who_is_added_in_the_middle_is_new_and_who_is_taken_away_is_gone(daemon: DaemonProcess, home: Home) -> None:
    task = renewing(daemon, home, "pair", "NUMBER = 31")
    daemon.call("agent.scale", name="pair", instances=4)
    assert {run(daemon, "pair")["version"] for _ in range(9)} == {31}
    with ThreadPoolExecutor(1) as pool:
        scaling = pool.submit(daemon.call, "agent.scale", name="pair", instances=2)
        assert task.release()["output"]["version"] != 31
        scaling.result(BOUND_S)
    found = await_entry(daemon, "pair", is_warm)
    assert len(found["workers"]) == 2
    assert children(found["warm"]["pid"]) == set(pids(found))


def test_who_sleeps_through_a_renewal_wakes_as_what_is_new(daemon: DaemonProcess, home: Home) -> None:
    start(daemon, "sleeper")
    assert run(daemon, "sleeper")["version"] == 0
    daemon.call("agent.hibernate", names=["sleeper"])
    assert processes(home, "sleeper") == set()
    home.write("sleeper", "NUMBER = 1")
    assert run(daemon, "sleeper")["version"] == 1
    task = renewing(daemon, home, "sleeper", "NUMBER = 2")
    with pytest.raises(Conflict):
        daemon.call("agent.hibernate", names=["sleeper"], timeout_s=0.01)
    assert task.release()["output"]["version"] == 1
    await_entry(daemon, "sleeper", is_warm)
    daemon.call("agent.hibernate", names=["sleeper"])
    assert processes(home, "sleeper") == set()
    assert run(daemon, "sleeper")["version"] == 2


def test_what_is_removed_in_the_middle_is_gone(daemon: DaemonProcess, home: Home) -> None:
    task = renewing(daemon, home, "leaving", "NUMBER = 1")
    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(daemon.call, "agent.rm", names=["leaving"])
        assert task.release()["state"] == "succeeded"
        removing.result(BOUND_S)
    assert processes(home, "leaving") == set()
    with pytest.raises(NotFound):
        entry(daemon, "leaving")


# -- spares


def spares(daemon: DaemonProcess, name: str, count: int) -> set[int]:
    """Returns the pids of an agent's spares, as soon as there are so many: one that was killed has to be reaped."""

    def ahead(found: Mapping[str, Any]) -> set[int]:
        return children(found["warm"]["pid"]) - set(pids(found))

    def is_settled(found: Mapping[str, Any]) -> bool:
        return is_warm(found) and found["warm"]["spares"] == count == len(ahead(found))

    return ahead(await_entry(daemon, name, is_settled))


def test_a_spare_becomes_the_next_worker_and_another_takes_its_place(daemon: DaemonProcess, home: Home) -> None:
    start(daemon, "spared")
    ahead = spares(daemon, "spared", 2)
    assert len(ahead) == 2
    daemon.call("agent.restart", names=["spared"])
    output = run(daemon, "spared")
    assert output["pid"] in ahead
    assert output["worker"] == "spared-0#2"
    (left,) = ahead - {output["pid"]}
    assert left in spares(daemon, "spared", 2)
    home.write("spared", "NUMBER = 1")
    await_entry(daemon, "spared", lambda found: lives(found) == [3])
    fresh = spares(daemon, "spared", 2)
    assert (len(fresh), left in fresh) == (2, False)
    daemon.call("agent.restart", names=["spared"])
    assert run(daemon, "spared")["version"] == 1
    daemon.call("agent.stop", names=["spared"])
    assert processes(home, "spared") == set()


def test_a_spare_that_dies_is_reported_and_replaced(daemon: DaemonProcess) -> None:
    start(daemon, "restless")
    (before,) = spares(daemon, "restless", 1)
    worker = daemon.worker("restless-0")["pid"]
    with watched(daemon, "restless") as until_told:
        os.kill(before, signal.SIGKILL)
        until_told("agent.spare_lost")
    (after,) = spares(daemon, "restless", 1)
    assert after != before
    assert daemon.worker("restless-0")["pid"] == worker


# -- the configuration


def test_what_is_warm_and_how_many_spares_there_are_follows_the_configuration(
    daemon: DaemonProcess, home: Home
) -> None:
    start(daemon, "live")
    before = await_entry(daemon, "live", is_warm)

    def reload(section: str) -> None:
        daemon.config.write_text(home.config(live=section))
        planned = daemon.call("daemon.reload")
        assert planned["changed"] == {"live": "live"}

    reload("instances = 2\nmin_spare = 3")
    assert len(spares(daemon, "live", 3)) == 3
    reload("instances = 2\nmin_spare = 1")
    assert len(spares(daemon, "live", 1)) == 1
    assert pids(entry(daemon, "live")) == pids(before)
    reload('instances = 2\npreload = ["colorsys"]')
    found = await_entry(daemon, "live", lambda found: lives(found) == [2, 2] and is_warm(found))
    assert "colorsys" in Path(f"/proc/{found['warm']['pid']}/cmdline").read_text()
    reload("instances = 2\nwarm = false")
    assert pids(entry(daemon, "live")) == pids(found)
    daemon.call("agent.restart", names=["live"])
    assert not Path(f"/proc/{found['warm']['pid']}").exists()
    assert entry(daemon, "live")["warm"] is None
    reload("instances = 2")
    daemon.call("agent.restart", names=["live"])
    assert entry(daemon, "live")["warm"]["state"] == "warm"
