"""Workers that sleep: no process, nothing lost, and back for a task, `wake` or `start`, in a later daemon too."""

import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, NotFound, SpawnFailed, TaskFailed
from corral.worker.contract.records import ENDED
from daemon_process import AGENTS, BOUND_S, DaemonProcess

DIARIST = f"""
entrypoint = "diarist_agent:agent"
process.working_directory = "{AGENTS}"
recovery.restart_backoff_base = "10ms"
tasks.retry_backoff_base = "10ms"
"""

DIARY = f"""
[agents.ann]
{DIARIST}

[agents.bob]
{DIARIST}
instances = 2

[agents.mute]
{DIARIST}
autostart = false
config.saves_nothing = true

[agents.clumsy]
{DIARIST}
autostart = false
config.raises_saving = true

[agents.doomed]
{DIARIST}
autostart = false
config.dies_saving = true

[agents.tired]
{DIARIST}
autostart = false
hibernate_after = "100ms"

[agents.plain]
command = ["sleep", "600"]
protocol = "none"
autostart = false

[agents.function]
entrypoint = "function_agent:double"
process.working_directory = "{AGENTS}"
autostart = false

[agents.hook]
protocol = "webhook"
url = "http://127.0.0.1:9/"
hibernate_after = "100ms"
autostart = false
"""

ALONE = f"""
[agents.ann]
{DIARIST}

[agents.bob]
{DIARIST}
instances = 2
"""

HIBERNATED = {"state": "Terminated", "hibernated": True, "pid": None, "rss_bytes": 0}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("hibernate"), DIARY) as process:
        process.call("agent.start", names=["ann", "bob"])
        yield process


def run(daemon: DaemonProcess, agent: str, objective: str, given: object = None) -> Any:
    task = daemon.call("task.run", agent=agent, objective=objective, input=given)
    assert task["state"] == "succeeded", task
    return task["output"]


def begun(daemon: DaemonProcess, agent: str, objective: str) -> str:
    """The id of a task that has begun."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent=agent, objective=objective)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(event["task"] == task["id"] for event in events):
                return str(task["id"])
    raise AssertionError("the stream of events does not end")


def facts(worker: Any) -> Any:
    return {key: worker[key] for key in HIBERNATED}


def events(daemon: DaemonProcess, *types: str) -> list[Any]:
    return list(daemon.call("event.list", types=list(types))["events"])


def test_a_hibernated_agent_has_no_process_and_comes_back_for_a_task_with_what_it_knew(daemon: DaemonProcess) -> None:
    before = run(daemon, "ann", "write", "monday")["pid"]
    daemon.call("agent.hibernate", names=["ann"])
    worker = daemon.worker("ann-0")
    assert facts(worker) == HIBERNATED
    assert (worker["last_exit"]["result"], worker["wanted"]) == ("hibernated", False)
    assert not Path(f"/proc/{before}").exists()
    after = run(daemon, "ann", "read")
    assert after["pages"] == ["monday"]
    assert after["pid"] != before
    assert not daemon.worker("ann-0")["hibernated"]
    told = events(daemon, "agent.hibernated", "agent.woken")[-2:]
    assert [each["type"] for each in told] == ["agent.hibernated", "agent.woken"]
    assert told[0]["checkpoint"] == told[1]["checkpoint"]


def test_wake_and_start_bring_it_back_and_both_are_recorded(daemon: DaemonProcess) -> None:
    run(daemon, "ann", "write", "tuesday")
    known = run(daemon, "ann", "read")["pages"]
    for verb in ("wake", "start"):
        assert daemon.corral("hibernate", "ann").stdout == "hibernated ann (Terminated)\n"
        assert daemon.corral(verb, "ann").returncode == 0
        assert daemon.worker("ann-0")["state"] == "Ready"
        assert run(daemon, "ann", "read")["pages"] == known
    actions = [each["action"] for each in daemon.call("audit.list", n=20)["records"]]
    assert {"agent.hibernate", "agent.wake"} <= set(actions)


def test_again_is_harmless_and_what_was_not_asleep_cannot_be_woken(daemon: DaemonProcess) -> None:
    daemon.call("agent.hibernate", names=["ann"])
    daemon.call("agent.hibernate", names=["ann"])
    daemon.call("agent.wake", names=["ann"])
    daemon.call("agent.wake", names=["ann"])
    daemon.call("agent.stop", names=["ann"])
    with pytest.raises(Conflict):
        daemon.call("agent.wake", names=["ann"])
    with pytest.raises(Conflict):
        daemon.call("agent.hibernate", names=["ann"])
    daemon.call("agent.start", names=["ann"])
    with pytest.raises(NotFound):
        daemon.call("agent.hibernate", names=["nobody"])


def test_what_is_stopped_in_its_sleep_stays_down_and_starts_with_what_it_saved(daemon: DaemonProcess) -> None:
    run(daemon, "ann", "write", "wednesday")
    known = run(daemon, "ann", "read")["pages"]
    daemon.call("agent.hibernate", names=["ann"])
    daemon.call("agent.stop", names=["ann"])
    assert not daemon.worker("ann-0")["hibernated"]
    with pytest.raises(Conflict):
        daemon.call("task.run", agent="ann", objective="read")
    daemon.call("agent.start", names=["ann"])
    assert run(daemon, "ann", "read")["pages"] == known


def test_a_running_task_may_finish_and_what_is_queued_meanwhile_wakes_the_agent(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate, before = tmp_path / "gate", run(daemon, "ann", "read")["pid"]
    first = begun(daemon, "ann", f"hold {gate}")
    second = daemon.call("task.submit", agent="ann", objective="read")["id"]
    with ThreadPoolExecutor(1) as pool:
        sleep = pool.submit(daemon.call, "agent.hibernate", names=["ann"])
        gate.touch()
        sleep.result(BOUND_S)
    one, two = (daemon.call("task.wait", task=task) for task in (first, second))
    assert (one["state"], one["attempt"]) == ("succeeded", 1)
    assert (two["state"], two["attempt"]) == ("succeeded", 1)
    assert two["started_at"] >= one["finished_at"]
    assert two["output"]["pid"] != before  # it was given to no worker that was about to sleep


def test_who_hangs_up_while_an_agent_falls_asleep_leaves_no_task_behind(daemon: DaemonProcess, tmp_path: Path) -> None:
    gate, door = tmp_path / "gate", tmp_path / "door"
    spec = {
        "entrypoint": "diarist_agent:agent",
        "process": {"working_directory": str(AGENTS)},
        "config": {"lingers_until": str(door)},
    }
    daemon.call("agent.add", name="slow", kind="agent", spec=spec)
    begun(daemon, "slow", f"hold {gate}")
    second = daemon.call("task.submit", agent="slow", objective="read")["id"]
    with daemon.client() as client, socket.socket(socket.AF_UNIX) as asker:
        client.call("event.follow", {"types": ["agent.hibernated"]}, timeout_s=BOUND_S)
        asker.settimeout(BOUND_S)
        asker.connect(str(daemon.socket))
        asker.sendall(
            b'{"jsonrpc":"2.0","id":1,"method":"agent.hibernate","params":{"names":["slow"]}}\n'
            b'{"jsonrpc":"2.0","id":2,"method":"rpc.discover"}\n'
        )
        asker.recv(1)  # the second is answered: the first is begun
        gate.touch()
        next(client.notifications())
    door.touch()
    assert daemon.call("task.wait", task=second)["state"] == "succeeded"
    daemon.call("agent.rm", name="slow")


def test_what_stays_busy_is_refused_and_goes_on(daemon: DaemonProcess) -> None:
    task = begun(daemon, "ann", "wait")
    with pytest.raises(Conflict) as refusal:
        daemon.call("agent.hibernate", names=["ann"], timeout_s=0.05)
    assert refusal.value.data["task"] == task
    assert daemon.worker("ann-0")["state"] == "Busy"
    daemon.call("task.cancel", task=task)
    assert run(daemon, "ann", "read")


def test_what_saves_nothing_is_refused_unless_forced_and_then_begins_anew(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["mute"])
    with pytest.raises(Conflict) as refusal:
        daemon.call("agent.hibernate", names=["mute"])
    assert refusal.value.data["reason"] == "nothing-saved"
    assert daemon.worker("mute-0")["state"] == "Ready"
    assert daemon.corral("hibernate", "--force", "mute").returncode == 0
    assert facts(daemon.worker("mute-0")) == HIBERNATED
    assert run(daemon, "mute", "read")["pages"] == []
    daemon.call("agent.stop", names=["mute"])


def test_a_worker_that_fails_to_save_or_dies_of_it_is_not_hibernated(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["clumsy", "doomed"])
    with pytest.raises(TaskFailed):
        daemon.call("agent.hibernate", names=["clumsy"])
    assert daemon.worker("clumsy-0")["state"] == "Ready"
    run(daemon, "doomed", "write", "x")
    assert daemon.corral("hibernate", "doomed").returncode == 1
    daemon.await_worker("doomed-0", lambda worker: worker["state"] == "Ready")
    assert not daemon.worker("doomed-0")["hibernated"]
    daemon.call("agent.stop", names=["clumsy", "doomed"])


def test_all_workers_sleep_or_none(daemon: DaemonProcess) -> None:
    task = begun(daemon, "bob", "wait")
    busy = daemon.call("task.show", task=task)["worker"]
    other = {"bob-0": "bob-1", "bob-1": "bob-0"}[busy]
    with pytest.raises(Conflict):
        daemon.call("agent.hibernate", names=["bob"], timeout_s=0.05)
    assert not daemon.worker(other)["hibernated"]
    daemon.call("agent.hibernate", names=[other])  # one of several is no reason to wake it
    waiting = daemon.call("task.submit", agent="bob", objective="read")["id"]
    assert daemon.worker(other)["hibernated"]
    daemon.call("task.cancel", task=task)
    assert daemon.call("task.wait", task=waiting)["worker"] == busy
    daemon.call("agent.hibernate", names=["bob"])
    assert [each["name"] for each in daemon.call("agent.wake", all=True)["agents"]] == ["bob"]
    assert daemon.call("agent.wake", all=True)["agents"] == []
    assert {daemon.worker(each)["state"] for each in (busy, other)} == {"Ready"}


@pytest.mark.parametrize(
    ("method", "params"), [("agent.wake", {"names": ["bob"]}), ("task.run", {"agent": "bob", "objective": "read"})]
)
def test_a_worker_that_was_added_while_its_agent_slept_wakes_with_it(
    daemon: DaemonProcess, method: str, params: dict[str, object]
) -> None:
    daemon.call("agent.hibernate", names=["bob"])
    daemon.call("agent.scale", name="bob", instances=3)
    assert daemon.worker("bob-2")["state"] == "Initial"
    daemon.call(method, **params)
    for number in range(3):
        daemon.await_worker(f"bob-{number}", lambda worker: worker["state"] in ("Ready", "Idle"))
    daemon.call("agent.scale", name="bob", instances=2)


def test_what_speaks_no_protocol_cannot_sleep(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["plain"])
    with pytest.raises(Conflict):
        daemon.call("agent.hibernate", names=["plain"])
    daemon.call("agent.stop", names=["plain"])


def test_an_agent_without_work_sleeps_by_itself(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["tired"])
    for n in (1, 2):
        assert len(run(daemon, "tired", "read")["pages"]) == n - 1
        run(daemon, "tired", "write", n)
        daemon.await_worker("tired-0", lambda worker: worker["hibernated"] and not worker["pid"])
    daemon.call("agent.stop", names=["tired"])


def test_a_later_daemon_lets_it_sleep_until_a_task_comes(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, ALONE) as daemon:
        daemon.call("agent.start", names=["ann", "bob"])
        run(daemon, "ann", "write", "monday")
        daemon.call("agent.hibernate", names=["ann", "bob-1"])
        daemon.kill()
        daemon.start()
        daemon.await_worker("bob-0", lambda worker: worker["state"] == "Ready")
        worker = daemon.worker("ann-0")
        assert facts(worker) == HIBERNATED
        assert worker["last_exit"]["result"] == "hibernated"
        assert facts(daemon.worker("bob-1")) == HIBERNATED
        assert daemon.stop() == 0
        daemon.start()
        task = daemon.call("task.submit", agent="ann", objective="read")
        assert task["state"] == "queued"
        daemon.kill()  # it is awake, or its task wakes it again
        daemon.start()
        ended = daemon.call("task.wait", task=task["id"])
        assert ended["state"] in ENDED
        assert ended["output"]["pages"] == ["monday"]
        assert daemon.worker("bob-1")["hibernated"]


def test_a_damaged_sleep_is_no_silent_loss(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, ALONE) as daemon:
        daemon.call("agent.start", names=["ann"])
        run(daemon, "ann", "write", "monday")
        kept = daemon.call("checkpoint.save", name="ann")["checkpoints"][0]["id"]
        daemon.call("agent.start", names=["bob"])
        daemon.call("agent.hibernate", names=["ann", "bob"])
        number = daemon.call("checkpoint.list", name="ann-0")["checkpoints"][0]["id"]
        daemon.stop()
        damage(daemon, number)
        with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as store, store:
            store.execute("UPDATE resumption SET checkpoint = ? WHERE worker = 'bob-1'", (kept,))
        daemon.start()
        with pytest.raises(SpawnFailed):
            daemon.call("agent.wake", names=["bob-1"])
        assert f"checkpoint {kept}" in daemon.worker("bob-1")["last_exit"]["message"]
        refused = daemon.corral("wake", "ann")
        assert refused.returncode == 1
        assert f"checkpoint {number}" in refused.stderr
        assert f"checkpoint {number}" in daemon.worker("ann-0")["last_exit"]["message"]
        daemon.call("checkpoint.restore", checkpoint=kept)
        daemon.call("agent.start", names=["ann"])
        assert run(daemon, "ann", "read")["pages"] == ["monday"]


def damage(daemon: DaemonProcess, number: int) -> None:
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as store, store:
        (blob,) = store.execute("SELECT data FROM checkpoint WHERE id = ?", (number,)).fetchone()
        spoilt = bytearray(blob)
        spoilt[-1] ^= 1
        store.execute("UPDATE checkpoint SET data = ? WHERE id = ?", (bytes(spoilt), number))


def test_an_agent_that_keeps_nothing_but_its_sessions_is_hibernated_and_comes_back(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["function"])
    daemon.call("agent.hibernate", names=["function"])
    assert facts(daemon.worker("function-0")) == HIBERNATED
    assert run(daemon, "function", "", {"number": 21}) == 42


def test_an_agent_behind_a_webhook_is_hibernated_when_it_rests(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["hook"])
    daemon.await_worker("hook-0", lambda worker: worker["hibernated"] and not worker["pid"])
    assert facts(daemon.worker("hook-0")) == HIBERNATED
