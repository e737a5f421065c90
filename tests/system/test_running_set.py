"""The running set: in what order it starts and stops, what is taken in and given up whole, how many may run."""

import json
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound, ResourceLimitExceeded
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked

RAW = AGENTS / "raw_worker.py"


def raw(fault: str = "garbage", **more: object) -> dict[str, object]:
    return {"command": [sys.executable, "-S", str(RAW), fault], **more}


def many(*agents: tuple[str, dict[str, object]]) -> list[dict[str, object]]:
    return [{"name": name, "spec": spec} for name, spec in agents]


CHAIN = many(("roof", raw(requires=["wall"])), ("wall", raw(requires=["ground"])), ("ground", raw()), ("tree", raw()))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, "") as process:
        yield process


def moves(daemon: DaemonProcess) -> dict[tuple[str, str, int], int]:
    """When each worker came into each state, by the number of its life: the event's own number."""
    return {
        (event["agent"], event["to"], event["incarnation"]): event["seq"]
        for event in daemon.call("event.list", types=["worker.state"])["events"]
    }


def names(daemon: DaemonProcess) -> list[str]:
    return [a["name"] for a in daemon.call("daemon.status")["agents"]]


# -- order


def test_what_is_required_starts_first_and_stops_last(daemon: DaemonProcess) -> None:
    daemon.call("agent.add_all", agents=CHAIN)
    daemon.call("agent.stop", names=["ground", "roof", "wall", "tree"])
    seen = moves(daemon)
    for upper, lower in (("roof", "wall"), ("wall", "ground")):
        assert seen[lower, "Ready", 1] < seen[upper, "Starting", 1]
        assert seen[upper, "Terminated", 1] < seen[lower, "ShuttingDown", 1]
    assert seen["tree", "ShuttingDown", 1] < seen["roof", "Terminated", 1], "it waits for nobody"
    assert {w["state"] for a in daemon.call("daemon.status")["agents"] for w in a["workers"]} == {"Terminated"}


@pytest.mark.parametrize("everything", [True, False])
def test_a_restart_ends_in_the_one_order_and_starts_in_the_other(daemon: DaemonProcess, everything: bool) -> None:
    daemon.call("agent.add_all", agents=CHAIN)
    chosen = {"all": True} if everything else {"names": ["wall", "ground", "roof"]}
    daemon.call("agent.restart", **chosen)
    seen = moves(daemon)
    for upper, lower in (("roof", "wall"), ("wall", "ground")):
        assert seen[upper, "Terminated", 1] < seen[lower, "ShuttingDown", 1]
        assert seen[lower, "Ready", 2] < seen[upper, "Starting", 2]


def test_a_start_that_comes_while_a_stop_waits_for_its_turn_wins(daemon: DaemonProcess) -> None:
    slow = raw("deaf", requires=["ground"], process={"shutdown_grace_period": "1s"})
    daemon.call("agent.add_all", agents=many(("ground", raw()), ("slow", slow)))
    daemon.call("agent.stop", names=["ground", "slow"], wait=False)
    assert daemon.worker("ground-0")["state"] == "Ready"
    daemon.call("agent.start", names=["ground"])
    daemon.await_worker("slow-0", lambda w: w["state"] == "Terminated")
    assert daemon.worker("ground-0")["incarnation"] == 1


def test_a_stubborn_worker_delays_nobody(daemon: DaemonProcess) -> None:
    stubborn = raw("deaf", process={"shutdown_grace_period": "5s"})
    daemon.call("agent.add_all", agents=many(("stubborn", stubborn), ("quick", raw())))
    with ThreadPoolExecutor() as pool:
        both = pool.submit(daemon.call, "agent.stop", names=["stubborn", "quick"])
        daemon.await_worker("quick-0", lambda w: w["state"] == "Terminated")
        assert daemon.worker("stubborn-0")["state"] == "ShuttingDown"
        daemon.call("agent.start", names=["quick"])
        daemon.call("agent.restart", names=["quick"])
        assert daemon.worker("stubborn-0")["state"] == "ShuttingDown"
        both.result(BOUND_S)
    assert daemon.worker("stubborn-0")["last_exit"]["forced"] is True
    assert daemon.worker("quick-0")["incarnation"] == 3


# -- all or none


def test_agents_that_require_each_other_are_added_at_once_and_stay(daemon: DaemonProcess) -> None:
    answer = daemon.call("agent.add_all", agents=CHAIN)
    assert answer["failures"] == {}
    assert {a["name"]: a["state"] for a in answer["agents"]} == dict.fromkeys(
        ("roof", "wall", "ground", "tree"), "Ready"
    )
    daemon.kill()
    daemon.start()
    daemon.await_worker("roof-0", lambda w: w["state"] == "Ready")
    assert sorted(names(daemon)) == ["ground", "roof", "tree", "wall"]


WRONG: dict[str, tuple[list[dict[str, object]], type[CorralError], str]] = {
    "an unknown key": (many(("bad", raw(colour="red"))), InvalidParams, "agents.bad.colour"),
    "a name that is taken": (many(("taken", raw())), Conflict, "taken"),
    "a name that is there twice": (many(("twin", raw()), ("twin", raw())), Conflict, "twin"),
    "what nobody is": (many(("bad", raw(requires=["nobody"]))), InvalidParams, "agents.bad.requires"),
    "a circle": (
        many(("one", raw(requires=["two"])), ("two", raw(requires=["one"]))),
        InvalidParams,
        "",
    ),
    "a circle of one": (many(("self", raw(requires=["self"]))), InvalidParams, ""),
    "too many": (many(("crowd", raw(instances=9))), ResourceLimitExceeded, ""),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_no_agent_is_added_when_one_of_several_is_wrong(tmp_path: Path, what: str) -> None:
    more, refusal, names_it = WRONG[what]
    with DaemonProcess(tmp_path, "process.max_concurrent_processes = 8\n") as daemon:
        daemon.call("agent.add", name="taken", spec=raw())
        with pytest.raises(refusal) as refused:
            daemon.call("agent.add_all", agents=[*many(("good", raw())), *more])
        facts = refused.value.data
        assert names_it in (facts.get("key", ""), facts.get("name", ""), "")
        assert names(daemon) == ["taken"]
        daemon.kill()
        daemon.start()
        assert names(daemon) == ["taken"]


def test_what_does_not_come_up_is_added_and_reported_and_the_others_are_up(daemon: DaemonProcess) -> None:
    recovery = {"restart": "never"}
    agents = many(("good", raw()), ("bad", raw("exit", recovery=recovery)), ("fine", raw()))
    answer = daemon.call("agent.add_all", agents=agents)
    assert {name: error["name"] for name, error in answer["failures"].items()} == {"bad": "SpawnFailed"}
    states = {a["name"]: a["state"] for a in answer["agents"]}
    assert states == {"good": "Ready", "bad": "Terminated", "fine": "Ready"}


def test_a_file_is_added_as_a_whole_by_the_command(daemon: DaemonProcess) -> None:
    file = daemon.folder / "more.toml"
    command = f'command = ["{sys.executable}", "-S", "{RAW}", "garbage"]'
    good = f"[agents.one]\n{command}\nrequires = ['two']\n[agents.two]\n{command}\n"
    file.write_text(f"{good}[agents.three]\n{command}\ncolour = 'red'\n")
    assert daemon.corral("add", "--file", str(file)).returncode == 2
    assert names(daemon) == []
    file.write_text(good)
    assert daemon.corral("add", "--file", str(file)).returncode == 0
    assert names(daemon) == ["one", "two"]


def test_what_is_required_is_removed_with_those_that_require_it_or_not_at_all(daemon: DaemonProcess) -> None:
    daemon.call("agent.add_all", agents=CHAIN)
    with pytest.raises(Conflict) as refusal:
        daemon.call("agent.rm", names=["tree", "ground"])
    assert refusal.value.data["required_by"] == ["wall"]
    with pytest.raises(NotFound):
        daemon.call("agent.rm", names=["tree", "nobody"])
    assert len(names(daemon)) == 4
    answer = daemon.call("agent.rm", names=["ground"], cascade=True)
    assert sorted(answer["removed"]) == ["ground", "roof", "wall"]
    seen = moves(daemon)
    assert seen["roof", "Terminated", 1] < seen["wall", "ShuttingDown", 1]
    assert seen["wall", "Terminated", 1] < seen["ground", "ShuttingDown", 1]
    assert names(daemon) == ["tree"]
    daemon.kill()
    daemon.start()
    assert names(daemon) == ["tree"]


def test_several_are_removed_in_one_call_when_they_require_only_each_other(daemon: DaemonProcess) -> None:
    daemon.call("agent.add_all", agents=CHAIN)
    done = daemon.corral("rm", "wall", "roof", "ground")
    assert (done.returncode, names(daemon)) == (0, ["tree"])
    assert daemon.corral("rm", "tree", "--cascade").returncode == 0
    assert marked(daemon.folder) == []


def test_the_lives_of_a_name_that_comes_back_are_counted_on(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="phoenix", spec=raw())
    daemon.call("agent.rm", name="phoenix")
    daemon.call("agent.add", name="phoenix", spec=raw())
    assert daemon.worker("phoenix-0")["incarnation"] == 2
    daemon.call("agent.scale", name="phoenix", instances=0)
    daemon.call("agent.scale", name="phoenix", instances=1)
    assert daemon.worker("phoenix-0")["incarnation"] == 3


def test_what_is_being_removed_is_not_started_for_another_that_requires_it(daemon: DaemonProcess) -> None:
    slow = raw("deaf", process={"shutdown_grace_period": "1s"})
    agents = many(("slow", slow), ("after", raw(requires=["slow"])))
    daemon.call("agent.add_all", agents=agents)
    daemon.call("agent.stop", names=["after"])
    pid = daemon.worker("slow-0")["pid"]
    with ThreadPoolExecutor() as pool:
        scaling = pool.submit(daemon.call, "agent.scale", name="slow", instances=0)
        daemon.await_worker("slow-0", lambda w: w["state"] == "ShuttingDown")
        for verb in ("start", "restart"):
            with pytest.raises(Conflict):
                daemon.call(f"agent.{verb}", names=["after"])
        scaling.result(BOUND_S)
    assert not Path(f"/proc/{pid}").exists()
    assert daemon.worker("after-0")["state"] == "Terminated"
    daemon.call("agent.scale", name="slow", instances=1)
    daemon.call("agent.start", names=["after"])


@pytest.mark.long
@pytest.mark.parametrize("first", ["rm", "add"])
def test_what_is_removed_and_what_comes_to_require_it_meet_in_the_store(daemon: DaemonProcess, first: str) -> None:
    daemon.call("agent.add_all", agents=many(("none", raw()), ("other", raw())), start=False)
    daemon.call("agent.scale", name="none", instances=0)
    calls: dict[str, tuple[str, dict[str, object]]] = {
        "rm": ("agent.rm", {"names": ["none"]}),
        "add": ("agent.set", {"name": "other", "spec": {"requires": ["none"]}}),
    }
    order = [first, *(each for each in calls if each != first)]
    path = daemon.state_dir / "corral.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as held, ThreadPoolExecutor() as pool:
        held.execute("BEGIN IMMEDIATE")
        asked: list[Future[Any]] = []
        for each in order:
            method, params = calls[each]
            asked.append(pool.submit(daemon.call, method, **params))
            for _ in range(20):  # by then it waits for the store
                daemon.call("rpc.discover")
        held.execute("ROLLBACK")
        assert isinstance(asked[1].exception(BOUND_S), Conflict)
        assert asked[0].exception(BOUND_S) is None
    daemon.call("agent.start", all=True)
    assert ("none" in names(daemon)) == (first == "add")


@pytest.mark.long
@pytest.mark.parametrize("verb", ["start", "reset"])
def test_what_has_given_up_starts_again_in_order(daemon: DaemonProcess, verb: str) -> None:
    works = daemon.folder / "works"
    works.touch()
    again = {"command": ["sh", "-c", f"test -e {works} && exec sleep 600"], "protocol": "none"}
    never = {"recovery": {"restart": "never"}}
    agents = many(("after", {**again, **never, "requires": ["first"]}), ("first", {**again, **never}))
    daemon.call("agent.add_all", agents=agents)
    for name in ("after", "first"):
        daemon.call("agent.signal", name=name, signal="KILL")
        daemon.await_worker(f"{name}-0", lambda w: w["state"] == "Terminated")
    daemon.call(f"agent.{verb}", names=["after", "first"])
    daemon.await_worker("after-0", lambda w: w["state"] == "Ready")
    seen = moves(daemon)
    assert seen["first", "Ready", 2] < seen["after", "Starting", 2]


def test_a_start_that_a_stop_takes_back_is_a_conflict_also_when_it_has_ended_before(daemon: DaemonProcess) -> None:
    never = {"command": ["sleep", "600"], "protocol": "none", "ready": {"log": "never"}}
    daemon.call("agent.add", name="never", spec=never, start=False)
    with ThreadPoolExecutor() as pool:
        for _ in range(2):
            starting = pool.submit(daemon.call, "agent.start", names=["never"])
            daemon.await_worker("never-0", lambda w: w["state"] == "Starting")
            daemon.call("agent.stop", names=["never"])
            with pytest.raises(Conflict):
                starting.result(BOUND_S)


# -- how many


def test_what_is_started_on_the_way_counts(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "process.max_concurrent_processes = 2\n") as daemon:
        daemon.call("agent.add_all", agents=CHAIN, start=False)
        daemon.call("agent.start", names=["tree"])
        for name in ("wall", "roof"):
            with pytest.raises(ResourceLimitExceeded):
                daemon.call("agent.start", names=[name])
        assert daemon.worker("ground-0")["state"] == "Initial"
        daemon.call("agent.stop", names=["tree"])
        daemon.call("agent.start", names=["wall"])


def test_the_room_of_what_waits_for_others_is_taken(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "process.max_concurrent_processes = 2\n") as daemon:
        agents = many(("slow", raw("silent")), ("after", raw(requires=["slow"])), ("other", raw()))
        daemon.call("agent.add_all", agents=agents, start=False)
        daemon.call("agent.start", names=["after"], wait=False)
        with pytest.raises(ResourceLimitExceeded):
            daemon.call("agent.start", names=["other"])


def test_racing_starts_never_pass_the_limit(tmp_path: Path) -> None:
    limit, count = 3, 8

    with DaemonProcess(tmp_path, f"process.max_concurrent_processes = {limit}\n") as daemon:

        def start(n: int) -> bool:
            try:
                daemon.call("agent.start", names=[f"a{n}"])
            except ResourceLimitExceeded:
                return False
            return True

        agents = many(*((f"a{n}", raw()) for n in range(count)))
        daemon.call("agent.add_all", agents=agents, start=False)
        with ThreadPoolExecutor(count) as pool:
            for _ in range(5):
                started = list(pool.map(start, range(count)))
                assert sum(started) == limit
                agents_now = daemon.call("daemon.status")["agents"]
                assert sum(a["workers"][0]["pid"] is not None for a in agents_now) == limit
                daemon.call("agent.stop", all=True)


# -- a changed file


def test_a_new_backoff_applies_to_a_worker_that_waits(tmp_path: Path) -> None:
    config = """
        [agents.crashes]
        command = ["false"]
        protocol = "none"
        recovery.restart_backoff_base = "{base}"
        recovery.max_restart_attempts = {attempts}
        """
    with DaemonProcess(tmp_path, config.format(base="1h", attempts=1)) as daemon:
        waiting = daemon.await_worker("crashes-0", lambda w: w["next_start_in_s"] is not None)
        assert waiting["next_start_in_s"] > 60
        daemon.config.write_text(config.format(base="10ms", attempts=1))
        assert daemon.call("daemon.reload")["changed"] == {"crashes": "live"}
        ended = daemon.await_worker("crashes-0", lambda w: w["state"] == "Terminated")
        assert (ended["last_exit"]["result"], ended["incarnation"]) == ("restart-limit", 2)
        daemon.config.write_text(config.format(base="10ms", attempts=5))
        daemon.call("daemon.reload")
        assert daemon.worker("crashes-0")["state"] == "Terminated", "it is not started by that"
        daemon.call("agent.reset", names=["crashes"])
        again: Any = daemon.await_worker(
            "crashes-0", lambda w: w["incarnation"] == 2 + 1 + 5 and w["state"] == "Terminated"
        )
        assert again["last_exit"]["result"] == "restart-limit"


def test_a_file_that_closes_a_circle_or_names_nobody_changes_nothing(tmp_path: Path) -> None:
    config = '[agents.{name}]\ncommand = ["sleep", "600"]\nprotocol = "none"\nrequires = {requires}\n'
    first = config.format(name="one", requires="[]") + config.format(name="two", requires='["one"]')
    with DaemonProcess(tmp_path, first) as daemon:
        daemon.call("agent.add", name="added", spec=raw(requires=["two"]))
        for wrong in (
            config.format(name="one", requires='["two"]') + config.format(name="two", requires='["one"]'),
            config.format(name="one", requires='["nobody"]'),
            config.format(name="one", requires="[]"),  # `added` requires what is gone then
        ):  # fmt: skip
            daemon.config.write_text(wrong)
            with pytest.raises(InvalidParams):
                daemon.call("daemon.reload")
        assert names(daemon) == ["one", "two", "added"]


# -- tasks meanwhile


@pytest.mark.long
def test_a_worker_that_is_replaced_between_two_steps_of_a_dispatch_costs_no_attempt(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="busy", spec=raw(tasks={"max_attempts": 1}, instances=2))
    tasks: list[str] = []
    for _ in range(15):
        daemon.call("agent.restart", names=["busy"], wait=False)
        tasks += [daemon.call("task.submit", agent="busy", objective="x")["id"] for _ in range(4)]
        daemon.call("agent.start", names=["busy"])
        tasks += [daemon.call("task.submit", agent="busy", objective="x")["id"] for _ in range(4)]
    ended = [daemon.call("task.wait", task=task) for task in tasks]
    assert {(task["state"], task["attempt"]) for task in ended} == {("succeeded", 1)}


def test_the_count_of_the_queue_is_that_of_its_tasks(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="busy", spec=raw())
    daemon.call("agent.pause", names=["busy"])
    tasks = [daemon.call("task.submit", agent="busy", objective="x")["id"] for _ in range(3)]
    daemon.call("task.cancel", task=tasks[1])
    status = daemon.call("daemon.status")
    assert (status["agents"][0]["queued"], status["tasks"]["queued"]) == (2, 2)
    daemon.call("agent.resume", names=["busy"])
    for task in tasks:
        daemon.call("task.wait", task=task)
    status = daemon.call("daemon.status")
    assert (status["agents"][0]["queued"], status["tasks"]["queued"]) == (0, 0)
    assert (status["tasks"]["succeeded"], status["tasks"]["running"]) == (2, 0)


@pytest.mark.long
@pytest.mark.parametrize("what", ["agent.pause", "agent.signal"])
def test_a_task_is_not_given_to_a_worker_that_changed_while_the_attempt_was_written_down(
    daemon: DaemonProcess, what: str
) -> None:
    """A foreign lock on the store holds up the attempt between the choice of a worker and its request."""
    recovery = {"restart_backoff_base": 0.01}
    daemon.call("agent.add", name="busy", spec=raw(tasks={"max_attempts": 1}, recovery=recovery))
    daemon.call("agent.pause", names=["busy"])
    task = daemon.call("task.submit", agent="busy", objective="x")["id"]
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        daemon.call("agent.resume", names=["busy"])
        assert daemon.worker("busy-0")["state"] == "Busy"
        if what == "agent.pause":
            daemon.call("agent.pause", names=["busy"])
        else:
            daemon.call("agent.signal", name="busy", signal="KILL")
            while daemon.worker("busy-0")["state"] == "Busy":
                time.sleep(0.01)
        held.execute("ROLLBACK")
    if what == "agent.pause":
        while daemon.worker("busy-0")["state"] == "Busy":
            time.sleep(0.01)  # of that flip the stream tells only those who listen already
        shown = daemon.call("task.show", task=task)
        assert (shown["state"], shown["attempt"]) == ("queued", 0)
        daemon.call("agent.resume", names=["busy"])
    ended = daemon.call("task.wait", task=task)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 1)


def test_agents_beyond_the_limit_are_not_added_when_many_come_at_once(tmp_path: Path) -> None:
    limit = 4
    with DaemonProcess(tmp_path, f"process.max_concurrent_processes = {limit}\n") as daemon:

        def add(number: int) -> bool:
            try:
                daemon.call("agent.add", name=f"a{number}", spec=raw())
            except ResourceLimitExceeded:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            taken = list(pool.map(add, range(32)))
        assert sum(taken) == limit
        assert sorted(names(daemon)) == sorted(f"a{n}" for n, is_in in enumerate(taken) if is_in)


def test_a_scale_that_is_refused_adds_no_worker(tmp_path: Path) -> None:
    config = """
process.max_concurrent_processes = 2
recovery.restart = "never"
[agents.ground]
command = ["sleep", "1.2"]
protocol = "none"
[agents.wall]
command = ["sleep", "600"]
protocol = "none"
requires = ["ground"]
"""
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("wall-0", lambda worker: worker["state"] == "Ready")
        daemon.await_worker("ground-0", lambda worker: worker["state"] == "Terminated")
        with pytest.raises(ResourceLimitExceeded):  # the ground would have to be started, too
            daemon.call("agent.scale", name="wall", instances=2)
        (wall,) = daemon.call("daemon.status", names=["wall"])["agents"]
        assert [worker["id"] for worker in wall["workers"]] == ["wall-0"]


def test_what_was_started_without_workers_is_up_when_it_is_given_some(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="one", spec=raw())
    daemon.call("agent.stop", names=["one"])
    daemon.call("agent.scale", name="one", instances=0)
    daemon.call("daemon.emergency_stop")
    daemon.call("agent.start", names=["one"])
    daemon.call("agent.scale", name="one", instances=1)
    assert daemon.worker("one-0")["state"] == "Ready"


# -- who hangs up

HELD = """
import os, socket
with socket.socket(socket.AF_UNIX) as line:
    line.connect("held.sock")
    socket.send_fds(line, [b"2"], [2])
os.execvp("sleep", ["sleep", "1000"])
"""


def test_who_hangs_up_while_workers_are_taken_away_leaves_no_gap_in_their_numbers(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listening, closing(daemon.client()) as client:
        listening.bind(str(tmp_path / "held.sock"))
        listening.listen()
        spec = {"command": [sys.executable, "-IS", "-c", HELD], "protocol": "none", "instances": 3}
        client.call("event.follow", {"types": ["worker.state"]}, timeout_s=BOUND_S)
        daemon.call("agent.add", name="held", spec=spec, directory=str(tmp_path), wait=False)
        fds: list[int] = []
        for _ in range(3):  # what they print to is read for a while after their ends
            with listening.accept()[0] as line:
                fds += socket.recv_fds(line, 1, 1)[1]
        asked = {"jsonrpc": "2.0", "id": 1, "method": "agent.scale"}
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.connect(str(daemon.socket))
            params = {"name": "held", "instances": 1}
            line.sendall(json.dumps({**asked, "params": params}).encode() + b"\n")
            ended: set[str] = set()
            for notification in client.notifications():
                told: Any = notification.params["events"]
                ended |= {event["worker"] for event in told if event["to"] == "Terminated"}
                if ended == {"held-1", "held-2"}:
                    break
            daemon.call("daemon.status")  # it has heard of that, too
        for fd in fds:
            os.close(fd)
        told = daemon.call("agent.scale", name="held", instances=3, wait=False)
        assert [worker["id"] for worker in told["workers"]] == [f"held-{n}" for n in range(3)]


def test_who_hangs_up_while_the_store_is_slow_leaves_what_the_store_has(daemon: DaemonProcess) -> None:
    path = daemon.state_dir / "corral.db"
    daemon.call("agent.add_all", agents=many(("stays", raw()), ("goes", raw())), start=False)
    asked = {"jsonrpc": "2.0", "id": 1, "method": "agent.rm", "params": {"names": ["goes"]}}
    with closing(sqlite3.connect(path, isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.connect(str(daemon.socket))
            line.sendall(json.dumps(asked).encode() + b"\n")
            for _ in range(10):  # by then it waits for the store
                daemon.call("rpc.discover")
        daemon.call("rpc.discover")
        held.execute("ROLLBACK")
        daemon.call("agent.add_all", agents=many(("later", raw())), start=False)
        stored = {name for (name,) in held.execute("SELECT name FROM agent")}
    assert set(names(daemon)) == stored
