"""Checkpoints through the whole: saved on request and by themselves, given back after a crash, carried over."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, Corrupted, NotFound, ResourceLimitExceeded, TaskFailed
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
recovery.max_checkpoint_bytes = "1KiB"

[agents.heir]
{DIARIST}

[agents.pair]
{DIARIST}
instances = 2

[agents.mute]
{DIARIST}
config.saves_nothing = true

[agents.careful]
{DIARIST}
recovery.enable_checkpointing = true
recovery.checkpoint_interval = "100ms"
"""

CRASHING = f"""
[agents.ann]
{DIARIST}

[agents.heir]
{DIARIST}
"""

CAREFUL = f"""
[agents.careful]
{DIARIST}
recovery.enable_checkpointing = true
recovery.checkpoint_interval = "1h"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("checkpoints"), DIARY) as process:
        process.call("agent.start", all=True)
        yield process


def run(daemon: DaemonProcess, agent: str, objective: str, given: object = None) -> Any:
    task = daemon.call("task.run", agent=agent, objective=objective, input=given)
    assert task["state"] == "succeeded", task
    return task["output"]


def pages(daemon: DaemonProcess, agent: str) -> Any:
    return run(daemon, agent, "read")["pages"]


def save(daemon: DaemonProcess, name: str) -> int:
    """The number of a checkpoint that one worker has saved now."""
    (record,) = daemon.call("checkpoint.save", name=name)["checkpoints"]
    return int(record["id"])


def write(daemon: DaemonProcess, agent: str, page: str) -> Any:
    run(daemon, agent, "write", page)
    return pages(daemon, agent)


def await_saved(daemon: DaemonProcess, agent: str, page: str) -> Any:
    """Writes a page; the pages, when a checkpoint that was saved by itself has them."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["checkpoint.saved"]}, timeout_s=BOUND_S)
        now = write(daemon, agent, page)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            for event in (each for each in events if each["agent"] == agent):
                shown = daemon.call("checkpoint.show", checkpoint=event["checkpoint"])
                if shown["data"] == {"pages": now}:
                    return now
    raise AssertionError("the stream of events does not end")


def damage(daemon: DaemonProcess, number: int) -> None:
    """Flips one bit of a checkpoint in the store, behind the daemon's back."""
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", timeout=BOUND_S)) as store, store:
        (blob,) = store.execute("SELECT data FROM checkpoint WHERE id = ?", (number,)).fetchone()
        spoilt = bytearray(blob)
        spoilt[len(spoilt) // 2] ^= 1
        store.execute("UPDATE checkpoint SET data = ? WHERE id = ?", (bytes(spoilt), number))


def test_a_worker_goes_on_from_what_it_saved_earlier(daemon: DaemonProcess) -> None:
    then = write(daemon, "ann", "monday")
    number = save(daemon, "ann")
    assert write(daemon, "ann", "tuesday") != then
    answer = daemon.call("checkpoint.restore", checkpoint=number)
    assert (answer["worker"], answer["live"]) == ("ann-0", True)
    assert pages(daemon, "ann") == then
    shown = daemon.call("checkpoint.show", checkpoint=number)
    assert (shown["data"], shown["worker"], shown["reason"]) == ({"pages": then}, "ann-0", "asked")


def test_another_agent_continues_where_one_stood(daemon: DaemonProcess) -> None:
    then = write(daemon, "ann", "wednesday")
    number = save(daemon, "ann-0")
    daemon.call("checkpoint.restore", checkpoint=number, name="heir")
    assert pages(daemon, "heir") == then
    spec = {"entrypoint": "diarist_agent:agent", "process": {"working_directory": str(AGENTS)}}
    daemon.call("agent.add", name="young", spec=spec, start=False)
    answer = daemon.call("checkpoint.restore", checkpoint=number, name="young")
    assert not answer["live"]
    daemon.call("agent.start", names=["young"])
    assert pages(daemon, "young") == then
    daemon.call("agent.restart", names=["young"])
    assert pages(daemon, "young") == []  # it began with it once
    daemon.call("agent.stop", names=["young"])
    answer = daemon.call("checkpoint.restore", checkpoint=number, name="young", start=True)
    assert (answer["live"], daemon.worker("young-0")["state"]) == (True, "Ready")
    assert pages(daemon, "young") == then
    daemon.call("agent.rm", name="young")


def test_the_command_carries_a_state_through_a_file(daemon: DaemonProcess, tmp_path: Path) -> None:
    then = write(daemon, "ann", "thursday")
    number = save(daemon, "ann")
    file = tmp_path / "state.json"
    assert daemon.corral("checkpoint", "show", str(number), "--output", str(file)).returncode == 0
    assert json.loads(file.read_text()) == {"pages": then}
    said = daemon.corral("checkpoint", "restore", "--input", f"@{file}", "heir")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("heir-0 goes on with it")
    assert pages(daemon, "heir") == then


def test_the_commands_list_show_and_remove(daemon: DaemonProcess) -> None:
    saved = daemon.corral("--json", "checkpoint", "save", "pair")
    numbers = [each["id"] for each in json.loads(saved.stdout)["checkpoints"]]
    assert len(numbers) == 2
    listed = json.loads(daemon.corral("--json", "checkpoint", "list", "pair").stdout)
    assert {each["id"] for each in listed} >= set(numbers)
    assert str(numbers[0]) in daemon.corral("checkpoint", "list", "-n", "5", "pair").stdout
    nothing = daemon.corral("checkpoint", "list", "nobody")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr
    assert '"pages"' in daemon.corral("checkpoint", "show", str(numbers[0])).stdout
    assert daemon.corral("checkpoint", "rm", *map(str, numbers)).returncode == 0
    assert daemon.corral("checkpoint", "show", str(numbers[0])).returncode == 3
    assert daemon.corral("checkpoint", "show", "x").returncode == 3
    assert daemon.corral("checkpoint", "restore").returncode == 2


def test_what_cannot_be_saved_or_restored_is_refused_with_its_reason(daemon: DaemonProcess) -> None:
    number = save(daemon, "heir")
    with pytest.raises(Conflict):  # which of the two?
        daemon.call("checkpoint.restore", checkpoint=number, name="pair")
    with pytest.raises(Conflict) as refusal:
        daemon.call("checkpoint.save", name="mute")
    assert refusal.value.data["reason"] == "nothing-saved"
    with pytest.raises(NotFound):
        daemon.call("checkpoint.restore", checkpoint=10**9)
    with pytest.raises(NotFound):
        daemon.call("checkpoint.save", name="nobody")
    with pytest.raises(TaskFailed):
        daemon.call("checkpoint.restore", data="poison", name="heir")
    daemon.call("agent.pause", names=["heir"])
    for method in ("checkpoint.save", "checkpoint.restore"):
        given = {"name": "heir"} | ({"checkpoint": number} if method.endswith("restore") else {})
        with pytest.raises(Conflict) as refusal:
            daemon.call(method, **given)
        assert refusal.value.data["reason"] == "paused"
    daemon.call("agent.resume", names=["heir"])
    run(daemon, "heir", "save", {"of": "a task"})
    of_a_task = daemon.call("checkpoint.list", name="heir", limit=1)["checkpoints"][0]
    with pytest.raises(Conflict):
        daemon.call("checkpoint.restore", checkpoint=of_a_task["id"])


def test_a_state_that_is_too_large_is_a_typed_error_and_the_worker_goes_on(daemon: DaemonProcess) -> None:
    before, known = daemon.worker("ann-0")["incarnation"], pages(daemon, "ann")
    task = daemon.call("task.run", agent="ann", objective="save", input="x" * 2000)
    assert task["error"]["name"] == "ResourceLimitExceeded"
    with pytest.raises(ResourceLimitExceeded) as refusal:
        daemon.call("checkpoint.restore", data={"pages": ["x" * 2000]}, name="ann")
    assert refusal.value.data["limit"] == "max_checkpoint_bytes"
    assert (daemon.worker("ann-0")["incarnation"], pages(daemon, "ann")) == (before, known)


def test_a_flipped_bit_is_a_typed_error_that_names_the_record(daemon: DaemonProcess) -> None:
    number = save(daemon, "ann")
    damage(daemon, number)
    for method in ("checkpoint.show", "checkpoint.restore"):
        with pytest.raises(Corrupted) as refusal:
            daemon.call(method, checkpoint=number)
        assert refusal.value.data["record"] == f"checkpoint {number}"
    assert daemon.corral("checkpoint", "show", str(number)).returncode == 1
    assert run(daemon, "ann", "read")
    daemon.call("checkpoint.rm", checkpoints=[number])


def test_after_a_crash_a_worker_begins_with_what_was_saved_by_itself(daemon: DaemonProcess) -> None:
    then = await_saved(daemon, "careful", "friday")
    before = daemon.worker("careful-0")
    os.kill(before["pid"], signal.SIGKILL)
    daemon.await_worker(
        "careful-0", lambda worker: worker["incarnation"] > before["incarnation"] and worker["state"] == "Ready"
    )
    assert pages(daemon, "careful") == then


def test_a_task_goes_on_from_its_last_checkpoint_when_worker_or_daemon_was_killed(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CRASHING) as daemon:
        daemon.call("agent.start", names=["ann", "heir"])
        of_worker = daemon.call("task.submit", agent="ann", objective="steps")["id"]
        await_step(daemon, of_worker, "step 2")
        os.kill(daemon.worker("ann-0")["pid"], signal.SIGKILL)
        ended = daemon.call("task.wait", task=of_worker)
        assert ended["output"] == {"done": 3, "attempt": 2, "began_at": 2}
        of_daemon = daemon.call("task.submit", agent="heir", objective="steps")["id"]
        await_step(daemon, of_daemon, "step 2")
        daemon.kill()
        daemon.start()
        ended = daemon.call("task.wait", task=of_daemon)
        assert ended["output"] == {"done": 3, "attempt": 2, "began_at": 2}


def await_step(daemon: DaemonProcess, task: str, message: str) -> None:
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        if daemon.call("task.show", task=task)["progress_message"] == message:
            return
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(e["task"] == task and e["message"] == message for e in events):
                return


def test_a_damaged_checkpoint_is_passed_over_for_an_earlier_one(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CAREFUL) as daemon:
        daemon.call("agent.start", names=["careful"])
        then = write(daemon, "careful", "monday")
        save(daemon, "careful")
        write(daemon, "careful", "tuesday")
        newest = save(daemon, "careful")
        daemon.kill()
        damage(daemon, newest)
        daemon.start()
        daemon.await_worker("careful-0", lambda worker: worker["state"] == "Ready")
        assert pages(daemon, "careful") == then
        (event,) = daemon.call("event.list", types=["checkpoint.corrupted"])["events"]
        assert (event["checkpoint"], event["worker"]) == (newest, "careful-0")
