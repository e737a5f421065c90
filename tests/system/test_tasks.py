"""Tasks through the whole: the daemon, its launcher, real workers, the store."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, NotFound, Overloaded, ResourceLimitExceeded, Timeout
from corral.worker.contract.records import ENDED
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CREW = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
tasks.retry_backoff_base = "10ms"
recovery.restart_backoff_base = "10ms"

[agents.pair]
entrypoint = "crew_agent:agent"
instances = 2
capabilities = ["pairing"]
process.working_directory = "{AGENTS}"

[agents.lively]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
monitoring.stall_timeout = "300ms"

[agents.free]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
process.isolation = "none"

[agents.strict]
entrypoint = "crew_agent:agent"
tools = ["cortex__cortex_search"]
process.working_directory = "{AGENTS}"
[agents.strict.resources]
max_output_size_bytes = "1KiB"
max_tool_calls_per_task = 1
[agents.strict.tasks]
cancel_grace = "100ms"
max_queue_size = 2
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("tasks"), CREW) as process:
        process.call("agent.start", all=False, names=["crew", "pair", "strict"])
        yield process


def run(daemon: DaemonProcess, agent: str, objective: str, given: object = None, **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, input=given, **more)


def submit_and_await(daemon: DaemonProcess, agent: str, objective: str, message: str) -> str:
    """Submits a task and waits for its progress message; returns its id."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent=agent, objective=objective)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(e["task"] == task["id"] and e["message"] == message for e in events):
                return str(task["id"])
    raise AssertionError("the stream of events does not end")


def test_a_late_waiter_learns_how_far_the_task_is(daemon: DaemonProcess) -> None:
    task = submit_and_await(daemon, "crew", "wait", "waits")
    with daemon.client() as client:
        with pytest.raises(Timeout):
            client.call("task.wait", {"task": task, "timeout_s": 0.01}, timeout_s=BOUND_S)
        told = next(client.notifications())
    assert (told.method, told.params["message"]) == ("task.progress", "waits")
    daemon.call("task.cancel", task=task)


def test_a_task_comes_back_with_its_output(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "echo", {"a": [1, "ü"]})
    assert task["state"] == "succeeded"
    assert task["output"]["input"] == {"a": [1, "ü"]}
    assert task["attempt"] == 1
    assert task["error"] is None
    assert task["duration_s"] >= 0
    assert daemon.call("task.show", task=task["id"]) == task


def test_a_list_of_tasks_that_carry_megabytes_is_cut_to_what_a_message_holds(daemon: DaemonProcess) -> None:
    sent = [daemon.call("task.submit", agent="crew", objective="none", input="x" * 6_000_000)["id"] for _ in range(3)]
    for task in sent:
        daemon.call("task.wait", task=task)
    listed = daemon.call("task.list", agent="crew")["tasks"]
    assert [task["id"] for task in listed] == sent[:1:-1]


def test_a_handler_that_raises_fails_its_task_and_not_its_worker(daemon: DaemonProcess) -> None:
    before = daemon.worker("crew-0")["pid"]
    task = run(daemon, "crew", "raise because")
    assert task["state"] == "failed"
    assert task["error"]["name"] == "TaskFailed"
    assert task["error"]["data"]["exception"] == "ValueError"
    assert daemon.worker("crew-0")["pid"] == before


def test_a_task_whose_worker_dies_is_tried_again_on_its_next_life(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "die-once")
    assert task["state"] == "succeeded"
    assert task["attempt"] == 2
    assert task["output"] == {"attempt": 2}


def test_a_task_that_kills_every_worker_is_given_up_and_the_agent_is_not(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "die")
    assert task["state"] == "failed"
    assert task["attempt"] == 3
    assert task["error"]["name"] == "WorkerFailed"
    assert task["error"]["data"]["signal"] == "SIGKILL"
    assert (task["error"]["data"]["task"], task["error"]["data"]["attempts"]) == (task["id"], 3)
    for words in (f'task "{task["id"]}" after 3 attempts', "corral show crew"):
        assert words in task["error"]["message"]
    assert run(daemon, "crew", "echo")["state"] == "succeeded"


def test_a_task_beyond_its_timeout_ends_as_timeout_and_the_worker_goes_on(daemon: DaemonProcess) -> None:
    before = daemon.worker("crew-0")["pid"]
    task = run(daemon, "crew", "wait", timeout_s=0.2)
    assert task["state"] == "timeout"
    assert task["error"]["name"] == "Timeout"
    assert run(daemon, "crew", "echo")["output"]["pid"] == before


def test_a_worker_that_holds_on_to_a_timed_out_task_is_replaced(daemon: DaemonProcess) -> None:
    before = daemon.worker("strict-0")["incarnation"]
    task = run(daemon, "strict", "hold", timeout_s=0.2)
    assert task["state"] == "timeout"
    after = daemon.await_worker(
        "strict-0", lambda worker: worker["incarnation"] > before and worker["state"] == "Ready"
    )
    assert after["last_exit"]["result"] == "task-timeout"
    assert "never retrieved" not in daemon.log.read_text()


def test_a_task_goes_on_from_its_checkpoint_when_its_worker_died(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "checkpoint")
    assert (task["attempt"], task["output"]) == (2, {"done": 3})


def test_a_handler_that_shows_no_sign_of_life_within_stall_timeout_is_hung(daemon: DaemonProcess) -> None:
    task = run(daemon, "lively", "stall")
    assert (task["state"], task["attempt"]) == ("succeeded", 2)
    exits = daemon.call("agent.show", name="lively")["exits"]
    assert exits[0]["result"] == "hung"


def test_a_cancelled_task_ends_as_cancelled(daemon: DaemonProcess) -> None:
    task_id = submit_and_await(daemon, "crew", "wait", "waits")
    task = daemon.call("task.cancel", task=task_id)
    assert task["state"] == "cancelled"
    assert task["error"]["name"] == "Cancelled"
    assert run(daemon, "crew", "echo")["state"] == "succeeded"


def test_a_queued_task_can_be_cancelled(daemon: DaemonProcess) -> None:
    first = submit_and_await(daemon, "crew", "wait", "waits")
    second = daemon.call("task.submit", agent="crew", objective="echo")
    assert second["state"] == "queued"
    assert daemon.call("task.cancel", task=second["id"])["state"] == "cancelled"
    assert daemon.call("task.cancel", task=first)["state"] == "cancelled"


def test_the_most_urgent_task_runs_first(daemon: DaemonProcess) -> None:
    blocker = submit_and_await(daemon, "crew", "wait", "waits")
    low = daemon.call("task.submit", agent="crew", objective="echo", priority=1)
    high = daemon.call("task.submit", agent="crew", objective="echo", priority=10)
    daemon.call("task.cancel", task=blocker)
    low = daemon.call("task.wait", task=low["id"])
    high = daemon.call("task.wait", task=high["id"])
    assert high["started_at"] <= low["started_at"]
    assert high["finished_at"] <= low["started_at"]


def test_an_agent_delegates_by_name_and_by_capability(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "delegate pair", {"n": 1})
    assert task["output"]["child"]["input"] == {"n": 1}
    (child_id,) = task["children"]
    assert daemon.call("task.show", task=child_id)["parent"] == task["id"]
    task = run(daemon, "crew", "delegate-anything", {"n": 2})
    assert task["output"]["child"]["input"] == {"n": 2}


def test_a_delegation_that_could_never_run_is_refused(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "self crew")
    assert task["state"] == "failed"
    assert task["error"]["name"] == "Conflict"


def test_two_workers_work_at_the_same_time(daemon: DaemonProcess) -> None:
    one = submit_and_await(daemon, "pair", "wait", "waits")
    two = submit_and_await(daemon, "pair", "wait", "waits")
    workers = {daemon.call("task.show", task=each)["worker"] for each in (one, two)}
    assert workers == {"pair-0", "pair-1"}
    for each in (one, two):
        daemon.call("task.cancel", task=each)


def test_tools_are_called_through_the_pool_and_the_allow_list_holds(daemon: DaemonProcess) -> None:
    stored = run(daemon, "crew", "tool cortex__cortex_store", {"content": "the horse is brown"})
    assert stored["output"]["is_error"] is False
    found = run(daemon, "strict", "tool cortex__cortex_search", {"query": "horse"})
    assert "brown" in found["output"]["text"]
    assert found["tool_calls"] == 1
    refused = run(daemon, "strict", "tool cortex__cortex_store", {"content": "x"})
    assert refused["error"]["name"] == "PermissionDenied"
    assert run(daemon, "strict", "tools")["output"] == ["cortex__cortex_search"]
    narrowed = run(
        daemon, "crew", "tool cortex__cortex_store", {"content": "x"}, boundaries={"allowed_tools": ["git__*"]}
    )
    assert narrowed["error"]["name"] == "PermissionDenied"


def test_a_task_may_make_so_many_tool_calls_and_no_more(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", "tool cortex__cortex_search", {"query": "x"}, boundaries={"max_tool_calls": 0})
    assert task["error"]["name"] == "ResourceLimitExceeded"


def test_a_result_that_is_too_large_is_refused_and_the_worker_is_usable(daemon: DaemonProcess) -> None:
    task = run(daemon, "strict", "big 2000")
    assert task["state"] == "failed"
    assert task["error"]["name"] == "ResourceLimitExceeded"
    assert run(daemon, "strict", "big 10")["state"] == "succeeded"


def test_what_is_remembered_is_there_for_the_agents_next_task(daemon: DaemonProcess) -> None:
    run(daemon, "crew", "remember colour", {"it": "blue"})
    assert run(daemon, "crew", "recall colour")["output"] == {"it": "blue"}
    assert run(daemon, "strict", "recall colour")["output"] is None  # another agent's memory


def test_a_full_queue_refuses_with_a_hint(daemon: DaemonProcess) -> None:
    running = submit_and_await(daemon, "strict", "wait", "waits")
    waiting = [daemon.call("task.submit", agent="strict", objective="echo") for _ in range(2)]
    with pytest.raises(Overloaded) as refusal:
        daemon.call("task.submit", agent="strict", objective="echo")
    after_s: Any = refusal.value.data["retry_after_s"]
    assert 1.0 <= after_s <= 60.0
    assert refusal.value.data["limit"] == "max_queue_size"
    for task in (*[w["id"] for w in waiting], running):
        daemon.call("task.cancel", task=task)


def test_what_does_not_exist_is_not_found(daemon: DaemonProcess) -> None:
    for params in ({"agent": "nobody"}, {"capability": "nothing"}):
        with pytest.raises(NotFound):
            daemon.call("task.run", objective="x", **params)
    with pytest.raises(NotFound):
        daemon.call("task.show", task="000000000000")


def test_a_stopped_agent_takes_no_tasks(daemon: DaemonProcess) -> None:
    daemon.call("agent.stop", names=["pair"])
    with pytest.raises(Conflict):
        daemon.call("task.run", agent="pair", objective="echo")
    daemon.call("agent.start", names=["pair"])
    assert run(daemon, "pair", "echo")["state"] == "succeeded"


def test_an_agent_has_no_rights_on_the_control_socket(daemon: DaemonProcess) -> None:
    task = run(daemon, "crew", f"connect {daemon.socket}")
    assert '"code":-33003' in task["output"]


def test_an_agent_gets_no_rights_by_a_child_that_is_dead_when_the_daemon_looks(daemon: DaemonProcess) -> None:
    # An isolated one may not stop the daemon, and so could not make it look too late.
    task = run(daemon, "free", f"connect-by-a-dead-child {daemon.pid} {daemon.socket}")
    assert '"code":-33003' in task["output"]


def test_an_agents_events_reach_the_stream_and_the_daemons_cannot_be_forged(daemon: DaemonProcess) -> None:
    assert run(daemon, "crew", "announce finding", {"n": 1})["state"] == "succeeded"
    events = daemon.call("event.list", types=["finding"])["events"]
    assert events[-1]["data"] == {"n": 1}
    assert events[-1]["worker"] == "crew-0"
    assert run(daemon, "crew", "announce worker.state")["error"]["name"] == "PermissionDenied"


def test_tasks_and_their_ends_survive_kill_9_of_the_daemon(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", names=["crew"])
        done = run(daemon, "crew", "echo", 1)
        begun = submit_and_await(daemon, "crew", "wait", "waits")
        queued = [daemon.call("task.submit", agent="crew", objective="echo", input=n) for n in range(20)]
        daemon.kill()
        daemon.start()
        assert daemon.call("task.show", task=done["id"]) == done
        restarted = daemon.call("task.show", task=begun)
        assert restarted["state"] in ("queued", "running")
        with daemon.client() as client:
            client.call("event.follow", {"types": ["task.progress"], "n": 100}, timeout_s=BOUND_S)
            next(client.notifications())  # its second attempt says that it waits
        daemon.call("task.cancel", task=begun)
        for n, task in enumerate(queued):
            ended = daemon.call("task.wait", task=task["id"])
            assert ended["state"] == "succeeded"
            assert ended["output"]["input"] == n
            assert ended["attempt"] == 1


def test_the_tasks_of_an_agent_that_is_removed_end(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, 'process.shutdown_grace_period = "1s"\n' + CREW) as daemon:
        daemon.call("agent.start", names=["pair"])
        tasks = [submit_and_await(daemon, "pair", "wait", "waits") for _ in range(2)]
        tasks += [daemon.call("task.submit", agent="pair", objective="echo")["id"]]
        daemon.call("agent.rm", name="pair")
        for task_id in tasks:
            ended = daemon.call("task.wait", task=task_id, timeout_s=BOUND_S)
            assert (ended["state"], ended["error"]["name"]) == ("failed", "NotFound")
        totals = daemon.call("daemon.status")["tasks"]
        assert (totals["queued"], totals["running"]) == (0, 0)


def test_what_a_task_delegated_is_not_done_twice_when_the_daemon_was_killed(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", names=["crew", "pair"])
        with daemon.client() as client:
            client.call("event.follow", {"types": ["task.*"]}, timeout_s=BOUND_S)
            parent = daemon.call("task.submit", agent="crew", objective="delegate-wait pair")["id"]
            children: set[str] = set()
            for notification in client.notifications():
                events: Any = notification.params["events"]
                children |= {e["task"] for e in events if e["agent"] == "pair"}
                if any(e.get("message") == "waits" for e in events):
                    break
        (first,) = children
        daemon.kill()
        daemon.start()
        assert daemon.call("task.wait", task=first)["state"] == "cancelled"
        second: set[str] = set()
        with daemon.client() as client:
            client.call("event.follow", {"types": ["task.started"], "n": 1000}, timeout_s=BOUND_S)
            for notification in client.notifications():
                events = notification.params["events"]
                second |= {e["task"] for e in events if e["agent"] == "pair"} - {first}
                if second:
                    break
        assert daemon.call("task.show", task=second.pop())["parent"] == parent
        daemon.call("task.cancel", task=parent)


def test_a_task_whose_record_no_message_could_hold_is_refused(daemon: DaemonProcess) -> None:
    with pytest.raises(ResourceLimitExceeded):
        daemon.call("task.submit", agent="crew", objective="echo", input="x" * 9_000_000)
    task = run(daemon, "crew", "echo", "x" * 5_000_000)
    assert len(daemon.call("task.show", task=task["id"])["output"]["input"]) == 5_000_000


def tell(daemon: DaemonProcess, method: str, **params: object) -> None:
    """Sends a request and hangs up."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(daemon.socket))
        caller.sendall(json.dumps(request).encode() + b"\n")


def hold_store(daemon: DaemonProcess) -> sqlite3.Connection:
    """A backup tool's lock: until it is closed, the daemon's store takes nothing."""
    held = sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    return held


def test_an_end_that_the_store_refuses_is_written_and_reported_when_it_can_be(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", names=["crew"])
        running = submit_and_await(daemon, "crew", "wait", "waits")
        queued = daemon.call("task.submit", agent="crew", objective="echo")["id"]
        with closing(hold_store(daemon)):
            for task_id in (running, queued):
                tell(daemon, "task.cancel", task=task_id)
            with pytest.raises(Overloaded):  # by now the store has refused the ends, too
                daemon.call("task.submit", agent="crew", objective="echo")
            for task_id in (running, queued):
                assert daemon.call("task.show", task=task_id)["state"] not in ENDED  # not durable
        for task_id in (running, queued):
            assert daemon.call("task.wait", task=task_id, timeout_s=BOUND_S)["state"] == "cancelled"
        assert run(daemon, "crew", "echo")["state"] == "succeeded"
        daemon.kill()
        daemon.start()
        assert daemon.call("task.show", task=running)["state"] == "cancelled"


@pytest.mark.long
def test_a_task_whose_caller_hangs_up_at_once_is_taken_whole_or_not_at_all(daemon: DaemonProcess) -> None:
    before = {task["id"] for task in daemon.call("task.list")["tasks"]}
    for _ in range(20):
        tell(daemon, "task.submit", agent="crew", objective="echo")
    run(daemon, "crew", "echo")  # the last in the queue
    after = [task for task in daemon.call("task.list")["tasks"] if task["id"] not in before]
    for task in after:
        ended = daemon.call("task.wait", task=task["id"], timeout_s=BOUND_S)
        assert ended["state"] == "succeeded"
