"""The queue through the whole: keys, dependencies, times, lanes, sessions, limits, tasks that are in no store."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, Overloaded
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CREW = f"""
[tasks]
retry_backoff_base = "10ms"
max_total_queue_size = 60
max_total_queue_bytes = "1MiB"

[agents.crew]
entrypoint = "crew_agent:agent"
capabilities = ["work", "night"]
process.working_directory = "{AGENTS}"
recovery.restart_backoff_base = "10ms"

[agents.trio]
entrypoint = "crew_agent:agent"
instances = 3
capabilities = ["work"]
process.working_directory = "{AGENTS}"
resources.max_concurrent_requests = 8

[agents.ring]
autostart = false
entrypoint = "crew_agent:agent"
instances = 3
capabilities = []
process.working_directory = "{AGENTS}"
tasks.routing = "round-robin"

[agents.hasty]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
tasks.queue_timeout = "1s"

[agents.small]
autostart = false
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
tasks.max_queue_size = 2
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("queue"), CREW) as process:
        process.call("agent.start", all=False, names=["crew", "trio", "ring", "hasty", "small"])
        yield process


def run(daemon: DaemonProcess, agent: str, objective: str = "echo", **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, **more)


def submit(daemon: DaemonProcess, agent: str, objective: str = "echo", **more: object) -> str:
    task = daemon.call("task.submit", agent=agent, objective=objective, **more)
    assert task["state"] == "queued"
    return str(task["id"])


def await_end(daemon: DaemonProcess, task: str) -> Any:
    return daemon.call("task.wait", task=task, timeout_s=BOUND_S)


def begin_wait(daemon: DaemonProcess, agent: str, **more: object) -> str:
    """Submits a task that waits, and returns its id when it does."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = submit(daemon, agent, "wait", **more)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(each["task"] == task for each in events):
                return task
    raise AssertionError("the stream of events does not end")


# -- idempotency keys


def test_a_task_that_is_sent_twice_with_one_key_is_queued_once(daemon: DaemonProcess) -> None:
    first = run(daemon, "crew", input=1, idempotency_key="once")
    again = run(daemon, "crew", input=1, idempotency_key="once")
    assert again == first
    other = run(daemon, "trio", input=1, idempotency_key="once")
    assert other["id"] != first["id"], "keys are each agent's own"


def test_a_key_that_was_given_to_another_task_is_refused(daemon: DaemonProcess) -> None:
    first = run(daemon, "crew", input=1, idempotency_key="taken")
    with pytest.raises(Conflict) as refusal:
        run(daemon, "crew", input=2, idempotency_key="taken")
    assert refusal.value.data["task"] == first["id"]


def test_one_of_many_tasks_with_one_key_is_queued(daemon: DaemonProcess) -> None:
    with ThreadPoolExecutor(8) as threads:
        for way in ({"agent": "trio"}, {"capability": "work"}):
            asked = {"objective": "echo", "idempotency_key": f"crowd {way}", **way}
            calls = [threads.submit(daemon.call, "task.submit", **asked) for _ in range(8)]
            assert len({call.result()["id"] for call in calls}) == 1


def test_the_key_of_a_capabilitys_task_is_known_whoever_took_it(daemon: DaemonProcess) -> None:
    taken = {daemon.call("task.run", capability="work", objective="echo", idempotency_key="k")["id"] for _ in range(4)}
    assert len(taken) == 1


# -- dependencies


def test_a_task_begins_when_those_before_it_have_succeeded(daemon: DaemonProcess) -> None:
    done = run(daemon, "crew")["id"]
    first = submit(daemon, "crew", input=1)
    second = submit(daemon, "trio", input=2, after=[first, done])
    third = daemon.call("task.run", agent="trio", objective="echo", after=[second, first])
    records = [await_end(daemon, each) for each in (first, second, third["id"])]
    assert [each["state"] for each in records] == ["succeeded"] * 3
    assert records[0]["finished_at"] <= records[1]["started_at"]
    assert records[1]["finished_at"] <= records[2]["started_at"]


def test_a_waiting_task_says_what_it_waits_for(daemon: DaemonProcess) -> None:
    blocker = begin_wait(daemon, "crew")
    task = submit(daemon, "trio", after=[blocker])
    assert blocker in daemon.call("task.show", task=task)["reason"]
    daemon.call("task.cancel", task=blocker)
    assert await_end(daemon, task)["state"] == "cancelled"


@pytest.mark.parametrize("ended", [True, False])
def test_a_task_after_one_that_failed_is_cancelled_with_the_ones_after_it(daemon: DaemonProcess, ended: bool) -> None:
    failing = submit(daemon, "crew", "raise it")
    if ended:
        await_end(daemon, failing)
    second = submit(daemon, "trio", after=[failing])
    third = submit(daemon, "trio", after=[second])
    record = await_end(daemon, second)
    assert (record["state"], record["attempt"]) == ("cancelled", 0)
    assert record["error"]["data"]["dependency"] == failing
    assert record["error"]["data"]["state"] == "failed"
    assert await_end(daemon, third)["error"]["data"]["dependency"] == second


def test_a_task_after_one_that_there_is_not_is_refused(daemon: DaemonProcess) -> None:
    with pytest.raises(NotFound) as refusal:
        submit(daemon, "crew", after=["000000000000"])
    assert refusal.value.data["task"] == "000000000000"


# -- times


def test_a_task_begins_when_its_time_has_come_and_not_before(daemon: DaemonProcess) -> None:
    at = time.time() + 0.5
    task = submit(daemon, "crew", at=at)
    waiting = daemon.call("task.show", task=task)
    assert waiting["scheduled_at"] in waiting["reason"]
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(await_end, daemon, task).result(BOUND_S)
    assert ended["started_at"] >= ended["scheduled_at"]
    assert run(daemon, "crew", at=at - 100)["state"] == "succeeded"


def test_a_task_that_waits_for_its_time_can_be_cancelled(daemon: DaemonProcess) -> None:
    task = submit(daemon, "crew", at=time.time() + 3600)
    assert daemon.call("task.cancel", task=task)["state"] == "cancelled"


def test_a_task_that_no_worker_took_in_time_has_timed_out(daemon: DaemonProcess) -> None:
    blocker = begin_wait(daemon, "hasty")
    late = await_end(daemon, submit(daemon, "hasty"))
    assert (late["state"], late["error"]["data"]["limit"]) == ("timeout", "queue_timeout")
    daemon.call("task.cancel", task=blocker)


# -- whose it is


def test_what_is_required_has_to_be_offered_by_who_takes_it(daemon: DaemonProcess) -> None:
    both = daemon.call("task.run", objective="echo", required_capabilities=["night", "work"])
    assert both["agent"] == "crew"
    narrowed = daemon.call("task.run", capability="work", objective="echo", required_capabilities=["night"])
    assert narrowed["agent"] == "crew"
    with pytest.raises(Conflict) as refusal:
        run(daemon, "trio", required_capabilities=["work", "night"])
    assert refusal.value.data["capability"] == "night"
    with pytest.raises(NotFound):
        daemon.call("task.run", objective="echo", required_capabilities=["work", "nothing"])
    with pytest.raises(InvalidParams):
        daemon.call("task.run", objective="echo")


def test_tasks_with_one_sticky_key_go_to_one_worker(daemon: DaemonProcess) -> None:
    of_key: dict[str, set[str]] = {}
    for n in range(24):
        task = run(daemon, "trio", sticky_key=f"k{n % 6}")
        of_key.setdefault(f"k{n % 6}", set()).add(task["worker"])
    assert all(len(workers) == 1 for workers in of_key.values())
    assert len(set[str]().union(*of_key.values())) > 1


def test_round_robin_gives_each_worker_its_turn(daemon: DaemonProcess) -> None:
    workers = [run(daemon, "ring")["worker"] for _ in range(6)]
    assert sorted(workers[:3]) == ["ring-0", "ring-1", "ring-2"]
    assert workers[3:] == workers[:3]


def test_tasks_of_a_session_run_one_after_the_other_and_hold_up_nobody(daemon: DaemonProcess) -> None:
    first = begin_wait(daemon, "trio", session="talk")
    second = submit(daemon, "trio", session="talk")
    third = submit(daemon, "trio", session="talk")
    assert run(daemon, "trio")["state"] == "succeeded"
    assert run(daemon, "trio", session="other")["state"] == "succeeded"
    for each in (second, third):
        assert daemon.call("task.show", task=each)["state"] == "queued"
    daemon.call("task.cancel", task=first)
    records = [await_end(daemon, each) for each in (second, third)]
    assert [each["state"] for each in records] == ["succeeded", "succeeded"]
    assert records[0]["finished_at"] <= records[1]["started_at"]


# -- retries


def test_a_task_may_say_itself_what_it_is_tried_again_after(daemon: DaemonProcess) -> None:
    retry = {"max_attempts": 2, "retry_on": "any", "retry_backoff_base_s": 0.001}
    assert run(daemon, "crew", "raise it", retry=retry)["attempt"] == 2
    retry = {"max_attempts": 5, "retry_on": ["TaskFailed"], "retry_backoff_base_s": 0.001}
    assert run(daemon, "crew", "raise it", retry=retry)["attempt"] == 5
    assert run(daemon, "crew", "die-once", retry={"retry_on": "never"})["state"] == "failed"


def test_a_timeout_is_tried_again_where_it_is_named_and_only_there(daemon: DaemonProcess) -> None:
    retry: dict[str, object] = {"max_attempts": 2, "retry_on": "any", "retry_backoff_base_s": 0.001}
    once = run(daemon, "crew", "wait", timeout_s=0.1, retry=retry)
    assert (once["state"], once["attempt"]) == ("timeout", 1)
    retry["retry_on"] = ["Timeout"]
    twice = run(daemon, "crew", "wait", timeout_s=0.1, retry=retry)
    assert (twice["attempt"], twice["error"]["name"]) == (2, "Timeout")
    assert run(daemon, "crew")["state"] == "succeeded"


# -- limits


def test_all_queues_together_are_bounded_in_number_and_in_bytes(daemon: DaemonProcess) -> None:
    later = time.time() + 3600
    waiting = [submit(daemon, "crew", input="x" * 200_000, at=later) for _ in range(5)]
    with pytest.raises(Overloaded) as refusal:
        submit(daemon, "trio", input="x" * 200_000)
    assert refusal.value.data["limit"] == "max_total_queue_bytes"
    after_s: Any = refusal.value.data["retry_after_s"]
    assert 1.0 <= after_s <= 60.0
    waiting += [submit(daemon, "trio", at=later) for _ in range(55)]
    with pytest.raises(Overloaded) as refusal:
        submit(daemon, "crew")
    assert refusal.value.data["limit"] == "max_total_queue_size"
    with ThreadPoolExecutor(8) as threads:
        ends = [threads.submit(daemon.call, "task.cancel", task=each) for each in waiting]
        assert {end.result()["state"] for end in ends} == {"cancelled"}
    assert run(daemon, "crew")["state"] == "succeeded"


# -- in no store


def stored(daemon: DaemonProcess, task: str) -> bool:
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as connection:
        rows = connection.execute("SELECT count(*) FROM task WHERE id = ?", (task,)).fetchone()[0]
    events = daemon.call("event.list", types=["task.*"], task=task)["events"]
    return bool(rows) or bool(events)


def test_a_task_that_is_not_durable_is_found_while_the_daemon_lives_and_in_no_store(daemon: DaemonProcess) -> None:
    with daemon.client() as listener:  # who hears of it does not make it stored
        listener.call("event.follow", {"types": ["task.*"]}, timeout_s=BOUND_S)
        task = run(daemon, "crew", input="quick", durable=False, idempotency_key="fleeting")
    assert stored(daemon, run(daemon, "crew")["id"]), "so would it be seen"
    assert (task["state"], task["durable"]) == ("succeeded", False)
    assert daemon.call("task.show", task=task["id"]) == task
    assert await_end(daemon, task["id"]) == task
    listed = daemon.call("task.list", agent="crew", limit=3)["tasks"]
    assert task in listed
    assert run(daemon, "crew", input="quick", durable=False, idempotency_key="fleeting") == task
    run(daemon, "crew")  # its record is committed, and so would be whatever came before
    assert not stored(daemon, task["id"])
    blocker = begin_wait(daemon, "trio", durable=False)
    with pytest.raises(Conflict):
        submit(daemon, "crew", after=[blocker])
    assert blocker in [each["id"] for each in daemon.call("task.list", state="running")["tasks"]]
    daemon.call("task.cancel", task=blocker)


def test_a_list_has_durable_and_other_tasks_in_one_order_on_all_its_pages(daemon: DaemonProcess) -> None:
    sent = [run(daemon, "small", durable=n % 3 != 0)["id"] for n in range(10)]
    listed: list[str] = []
    more: str | None = None
    while True:
        page = daemon.call("task.list", agent="small", limit=3, before=more)
        assert len(page["tasks"]) <= 3
        listed += [each["id"] for each in page["tasks"]]
        more = page.get("more")
        if more is None:
            break
    assert [each for each in listed if each in sent] == sent[::-1]
    assert len(listed) == len(set(listed))


# -- from one daemon to the next


def test_what_waits_goes_on_to_wait_in_the_next_daemon(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", names=["crew", "trio", "hasty"])
        done = run(daemon, "crew", idempotency_key="kept")
        blocker = begin_wait(daemon, "crew")
        after = submit(daemon, "trio", after=[blocker, done["id"]])
        later = submit(daemon, "trio", at=time.time() + 3600)
        soon = submit(daemon, "trio", at=time.time() + 1.0)
        failing = submit(daemon, "trio", "raise it")
        await_end(daemon, failing)
        busy = begin_wait(daemon, "hasty")
        hasty = submit(daemon, "hasty")
        fleeting = run(daemon, "trio", durable=False)["id"]
        daemon.kill()
        daemon.start()
        assert run(daemon, "crew", idempotency_key="kept") == done
        assert blocker in daemon.call("task.show", task=after)["reason"]
        assert await_end(daemon, soon)["state"] == "succeeded"
        waiting = daemon.call("task.show", task=later)
        assert (waiting["state"], waiting["scheduled_at"] in waiting["reason"]) == ("queued", True)
        late = await_end(daemon, hasty)
        assert (late["state"], late["error"]["data"]["limit"]) == ("timeout", "queue_timeout")
        with pytest.raises(NotFound):
            daemon.call("task.show", task=fleeting)
        for each in (blocker, busy):
            daemon.call("task.cancel", task=each)
        assert await_end(daemon, after)["error"]["data"]["dependency"] == blocker


def test_what_a_task_waited_for_may_end_or_expire_while_there_is_no_daemon(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", names=["crew", "trio"])
        blockers = [begin_wait(daemon, "trio") for _ in range(2)]
        waiting = [submit(daemon, "crew", after=[each]) for each in blockers]
        daemon.kill()
        with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as connection:
            connection.execute("DELETE FROM task WHERE id = ?", (blockers[0],))
            connection.commit()
        daemon.start()
        ended = await_end(daemon, waiting[0])
        assert (ended["state"], ended["error"]["data"]["state"]) == ("cancelled", "unknown")
        daemon.call("task.cancel", task=blockers[1])
        assert await_end(daemon, waiting[1])["error"]["data"]["state"] == "cancelled"
