"""A change of a spec under a running daemon: new workers beside the former ones, which finish what they have; a bad one is taken back."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, Overloaded
from daemon_process import AGENTS, BOUND_S, DaemonProcess

Json = Any  # Any: the shape of each answer is the test's affair

AGENT = f"""
[process]
working_directory = "{AGENTS}"
shutdown_grace_period = "2s"
[recovery]
restart_backoff_base = "1ms"
[agents.one]
entrypoint = "rolled_agent:agent"
warm = false
environment = {{ VERSION = "one" }}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, AGENT) as process:
        process.await_worker("one-0", lambda w: w["state"] == "Ready")
        yield process


def rewrite(daemon: DaemonProcess, text: str) -> Json:
    daemon.config.write_text(text)
    return daemon.call("daemon.reload")


def version(name: str, text: str = AGENT) -> str:
    return text.replace('VERSION = "one"', f'VERSION = "{name}"')


def more(text: str, keys: str) -> str:
    return text.replace("warm = false", f"warm = false\n{keys}")


class Watch:
    """The events of a daemon from now on."""

    def __init__(self, daemon: DaemonProcess, *types: str) -> None:
        self._client = daemon.client()
        self._client.call("event.follow", {"types": list(types)}, timeout_s=BOUND_S)
        self._events = self._client.notifications(BOUND_S)
        self._waiting: list[Json] = []
        self.seen: list[Json] = []

    def next(self, kind: str) -> Json:
        """The next event of a type."""
        while True:
            event = self.any()
            if event["type"] == kind:
                return event

    def any(self) -> Json:
        """The next event."""
        while not self._waiting:
            events: Json = next(self._events).params["events"]
            self._waiting += events
        self.seen.append(self._waiting.pop(0))
        return self.seen[-1]

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def settled(daemon: DaemonProcess, text: str) -> Json:
    """Changes the file, and returns the event that ends the change."""
    with Watch(daemon, "agent.rolled", "agent.taken_back") as watch:
        rewrite(daemon, text)
        return watch.any()


def run(daemon: DaemonProcess, objective: str = "version", **params: object) -> Json:
    return daemon.call("task.run", agent="one", objective=objective, **params)


def begun(daemon: DaemonProcess, gate: Path) -> Json:
    """A task that holds until the file is there, once it has begun."""
    with Watch(daemon, "task.progress") as watch:
        task = daemon.call("task.submit", agent="one", objective="hold", input=str(gate))
        watch.next("task.progress")
    return task


def test_a_task_goes_on_in_its_worker_while_new_ones_are_run_by_the_new_one(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    before = daemon.worker("one-0")
    task = begun(daemon, gate)
    assert settled(daemon, version("two"))["type"] == "agent.rolled"
    after = daemon.worker("one-0")
    assert after["pid"] != before["pid"]
    assert after["incarnation"] > before["incarnation"]
    assert after["restarts"] == 0
    assert run(daemon)["output"]["version"] == "two"
    with Watch(daemon, "worker.state") as watch:
        gate.touch()
        ended = daemon.call("task.wait", task=task["id"], timeout_s=BOUND_S)
        assert ended["output"] == {"version": "one", "pid": before["pid"], "delivery": 1}
        while watch.next("worker.state")["to"] != "Terminated":
            pass
        assert watch.seen[-1]["incarnation"] == before["incarnation"]
    assert not Path(f"/proc/{before['pid']}").exists()
    assert daemon.worker("one-0")["pid"] == after["pid"]


@pytest.mark.parametrize("bad", ["bad-import", "bad-exit", "bad-health"])
def test_a_version_that_does_not_come_up_is_taken_back_and_never_gets_a_task(daemon: DaemonProcess, bad: str) -> None:
    before = daemon.worker("one-0")
    event = settled(daemon, version(bad))
    assert event["type"] == "agent.taken_back"
    assert event["reason"]
    assert daemon.worker("one-0")["pid"] == before["pid"]
    assert run(daemon)["output"] == {"version": "one", "pid": before["pid"], "delivery": 1}


def test_the_zygote_of_the_former_version_is_there_again_after_a_bad_one(tmp_path: Path) -> None:
    warm = AGENT.replace("warm = false", "warm = true")
    with DaemonProcess(tmp_path, warm) as daemon:
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        with Watch(daemon, "agent.warm", "agent.renewal", "agent.taken_back") as watch:
            rewrite(daemon, version("bad-import", warm))
            watch.next("agent.taken_back")
            assert watch.any()["type"] in ("agent.warm", "agent.renewal")
        zygote = daemon.call("agent.show", name="one")["agent"]["warm"]
        assert zygote["state"] in ("warm", "renewing"), "its workers may be forks of the earlier one still"
        assert zygote["reason"] is None
        assert run(daemon)["output"]["version"] == "one"


def test_a_caller_that_waits_learns_whether_a_change_is_in_force_or_why_it_was_taken_back(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    daemon.config.write_text(version("bad-exit"))
    refused = daemon.corral("reload", "--wait", "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stdout)["error"]
    assert (error["name"], list(error["data"]["taken_back"])) == ("WorkerFailed", ["one"])
    shown = daemon.call("daemon.status")["agents"][0]["taken_back"]
    assert (shown["revision"], shown["reason"]) == (2, error["data"]["taken_back"]["one"])
    assert f"change 2 was taken back: {shown['reason']}" in daemon.corral("status").stdout
    smoke = {"objective": "hold", "input": str(gate)}
    spec = {"environment": {"VERSION": "two"}, "smoke": smoke}
    found = daemon.call("agent.set", name="one", spec=spec)
    assert (found["revision"], found["rolling"]) == (3, True)
    late = daemon.corral("set", "one", "environment.VERSION=two", "--timeout", "1ms")
    assert late.returncode == 5, "nothing differs, and what is rolling is waited for"
    assert "rolls 1 to 3, 0 of 1 ready" in daemon.corral("status", "one").stdout
    gate.touch()
    done = daemon.corral("set", "one", "environment.VERSION=two", "--wait")
    assert (done.returncode, done.stdout) == (0, "one is unchanged\n")
    assert run(daemon)["output"]["version"] == "two"
    found = daemon.call("agent.rollback", name="one", revision=1, wait=True)
    assert (found["revision"], found["of"], found["rolling"]) == (4, 1, False)
    assert run(daemon)["output"]["version"] == "one"
    assert "taken_back" not in daemon.call("daemon.status")["agents"][0]
    daemon.config.write_text(version("three"))
    assert daemon.corral("reload", "--dry-run").stdout.startswith("~ one: rolls: environment")
    assert daemon.call("daemon.reload", wait=True)["rolling"] == ["one"]
    assert run(daemon)["output"]["version"] == "three"


@pytest.mark.parametrize("keys", ["", ", input = 1, timeout = 20"])
@pytest.mark.parametrize(("name", "end"), [("two", "agent.rolled"), ("bad-smoke", "agent.taken_back")])
def test_the_smoke_task_decides_whether_a_version_gets_others(
    daemon: DaemonProcess, name: str, end: str, keys: str
) -> None:
    smoke = f'smoke = {{ objective = "smoke"{keys} }}'
    assert settled(daemon, more(version(name), smoke))["type"] == end
    tasks = daemon.call("task.list", agent="one")["tasks"]
    assert [task["objective"] for task in tasks] == ["smoke"]
    assert run(daemon)["output"]["version"] == ("two" if end == "agent.rolled" else "one")


def test_a_worker_that_may_not_have_another_beside_it_finishes_first_and_is_started_anew(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    before = daemon.worker("one-0")
    task = begun(daemon, gate)
    with Watch(daemon, "agent.draining", "agent.rolled") as watch:
        rewrite(daemon, more(version("two"), "rolling = false"))
        assert watch.next("agent.draining")["worker"] == "one-0"
        waiting = daemon.call("task.submit", agent="one", objective="version")
        gate.touch()
        ended = daemon.call("task.wait", task=task["id"], timeout_s=BOUND_S)
        assert ended["output"] == {"version": "one", "pid": before["pid"], "delivery": 1}
        watch.next("agent.rolled")
    ended = daemon.call("task.wait", task=waiting["id"], timeout_s=BOUND_S)
    assert ended["output"]["version"] == "two"


def test_a_worker_that_may_not_have_another_beside_it_waits_for_those_of_earlier_changes(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    task = begun(daemon, gate)
    first = daemon.worker("one-0")["incarnation"]
    assert settled(daemon, version("two"))["type"] == "agent.rolled"
    with Watch(daemon, "worker.state", "agent.rolled") as watch:
        rewrite(daemon, more(version("three"), "rolling = false"))
        assert run(daemon)["output"]["version"] == "two", "it serves until the other has ended"
        gate.touch()
        ended = daemon.call("task.wait", task=task["id"], timeout_s=BOUND_S)
        assert ended["output"]["version"] == "one"
        watch.next("agent.rolled")
    moves = [(e.get("incarnation"), e.get("to")) for e in watch.seen]
    newest = daemon.worker("one-0")["incarnation"]
    assert moves.index((first, "Terminated")) < moves.index((newest, "Starting"))
    assert run(daemon)["output"]["version"] == "three"


def test_a_start_waits_for_the_end_of_a_new_worker_that_a_stop_has_met(daemon: DaemonProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    begins = f", BEGUN = {json.dumps(str(tmp_path / 'begun'))} }}"
    with Watch(daemon, "worker.state") as watch:
        rewrite(daemon, version("slow-end").replace(" }", begins))
        while watch.next("worker.state")["to"] != "Starting":
            pass
        second = watch.seen[-1]["incarnation"]
        (tmp_path / "begun").read_text()
        daemon.call("agent.stop", names=["one"], wait=False)
        rewrite(daemon, more(version("three"), "rolling = false"))
        daemon.call("agent.start", names=["one"])
        newest = daemon.worker("one-0")["incarnation"]
        while watch.next("worker.state")["to"] != "Ready":
            pass
    moves = [(e.get("incarnation"), e.get("to")) for e in watch.seen]
    assert moves.index((second, "Terminated")) < moves.index((newest, "Starting"))
    assert run(daemon)["output"]["version"] == "three"


def test_workers_that_a_scaling_takes_away_during_a_change_leave_nothing_of_it(tmp_path: Path) -> None:
    text, gate = more(AGENT, "instances = 2"), tmp_path / "gate"
    smoke = f'smoke = {{ objective = "hold", input = {json.dumps(str(gate))} }}'
    with DaemonProcess(tmp_path, text) as daemon:
        for number in range(2):
            daemon.await_worker(f"one-{number}", lambda w: w["state"] == "Ready")
        with Watch(daemon, "task.progress", "agent.rolled", "agent.taken_back") as watch:
            rewrite(daemon, version("two", more(text, smoke)))
            watch.next("task.progress")  # the smoke task holds, on the first of both
            daemon.call("agent.scale", name="one", instances=1)
            gate.touch()
            end = watch.any()
            while end["type"] == "task.progress":
                end = watch.any()
            assert end["type"] == "agent.rolled", end
        daemon.call("agent.scale", name="one", instances=2)
        assert settled(daemon, version("three", text))["type"] == "agent.rolled"
        assert {run(daemon)["output"]["version"] for _ in range(4)} == {"three"}
        assert daemon.worker("one-1")["state"] in ("Ready", "Idle")


def test_what_the_coming_configuration_requires_is_not_removed(daemon: DaemonProcess, tmp_path: Path) -> None:
    ground = {"entrypoint": "rolled_agent:agent", "warm": False}
    daemon.call("agent.add", name="ground", spec=ground)
    daemon.call("agent.add", name="late", spec=ground)
    gate = tmp_path / "gate"
    smoke = {"objective": "hold", "input": str(gate)}
    changes = {"environment": {"VERSION": "two"}, "requires": ["ground"], "smoke": smoke}
    with Watch(daemon, "task.progress", "agent.rolled") as watch:
        daemon.call("agent.set", name="late", spec=changes)
        watch.next("task.progress")
        with pytest.raises(Conflict):
            daemon.call("agent.rm", names=["ground"])
        gate.touch()
        watch.next("agent.rolled")
    daemon.call("agent.rm", names=["ground"], cascade=True)
    assert [a["name"] for a in daemon.call("daemon.status")["agents"]] == ["one"]


def test_what_is_started_anew_in_its_place_and_fails_is_the_former_one_again(daemon: DaemonProcess) -> None:
    event = settled(daemon, more(version("bad-exit"), "rolling = false"))
    assert event["type"] == "agent.taken_back"
    assert run(daemon)["output"]["version"] == "one"


def test_without_room_for_another_process_a_worker_is_started_anew_in_its_place(tmp_path: Path) -> None:
    text = AGENT.replace("[process]", "[process]\nmax_concurrent_processes = 1")
    with DaemonProcess(tmp_path, text) as daemon:
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        with Watch(daemon, "agent.draining", "agent.rolled") as watch:
            rewrite(daemon, version("two", text))
            assert "room" in watch.next("agent.draining")["reason"]
            watch.next("agent.rolled")
        assert run(daemon)["output"]["version"] == "two"


def test_the_newest_of_two_changes_wins(daemon: DaemonProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    smoke = f'smoke = {{ objective = "hold", input = {json.dumps(str(gate))} }}'
    with Watch(daemon, "task.progress", "agent.rolled", "agent.taken_back") as watch:
        rewrite(daemon, more(version("two"), smoke))
        watch.next("task.progress")  # its smoke task runs, and would hold for a minute
        rewrite(daemon, version("three"))
        assert watch.next("agent.taken_back")["reason"]
        watch.next("agent.rolled")
    assert run(daemon)["output"]["version"] == "three"


def test_a_stop_ends_new_and_former_workers_alike(daemon: DaemonProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pids = {daemon.worker("one-0")["pid"]}
    begun(daemon, gate)
    assert settled(daemon, version("two"))["type"] == "agent.rolled"
    pids.add(daemon.worker("one-0")["pid"])
    daemon.call("agent.stop", names=["one"])
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    gate.touch()
    daemon.call("agent.start", names=["one"])
    assert run(daemon)["output"]["version"] == "two"


def test_workers_that_finish_are_shown_with_their_incarnation(daemon: DaemonProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    before = daemon.worker("one-0")
    task = begun(daemon, gate)
    settled(daemon, version("two"))
    entry = daemon.call("daemon.status", names=["one"])["agents"][0]
    (finishing,) = entry["beside"]
    assert finishing["id"] == "one-0"
    assert finishing["incarnation"] == before["incarnation"]
    assert finishing["pid"] == before["pid"]
    assert finishing["task"] == task["id"]
    gate.touch()
    daemon.call("task.wait", task=task["id"], timeout_s=BOUND_S)


def test_a_removal_waits_for_the_workers_that_finish(daemon: DaemonProcess, tmp_path: Path) -> None:
    table = {"entrypoint": "rolled_agent:agent", "warm": False, "environment": {"VERSION": "one"}}
    daemon.call("agent.add", name="late", spec=table)
    daemon.await_worker("late-0", lambda w: w["state"] == "Ready")
    pid = daemon.worker("late-0")["pid"]
    with Watch(daemon, "task.progress", "agent.rolled") as watch:
        daemon.call("task.submit", agent="late", objective="hold", input=str(tmp_path / "gate"))
        watch.next("task.progress")
        daemon.call("agent.set", name="late", spec={"environment": {"VERSION": "two"}})
        watch.next("agent.rolled")
    daemon.call("agent.rm", names=["late"])
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(CorralError):
        daemon.call("agent.show", name="late")


def test_a_service_is_replaced_beside_the_former_one(tmp_path: Path) -> None:
    loop = "import time, os\nprint('up', flush=True)\ntime.sleep(600)"
    text = f'[agents.plain]\nprotocol = "none"\ncommand = ["{sys.executable}", "-c", {json.dumps(loop)}, "1"]\n'
    with DaemonProcess(tmp_path, text) as daemon:
        before = daemon.await_worker("plain-0", lambda w: w["state"] == "Ready")
        assert settled(daemon, text.replace('"1"', '"2"'))["type"] == "agent.rolled"
        after = daemon.worker("plain-0")
        assert after["pid"] not in (None, before["pid"])
        broken = text.replace("time.sleep(600)", "raise SystemExit(3)")
        event = settled(daemon, broken)
        assert event["type"] == "agent.taken_back"
        assert "rolling = false" in event["reason"]
        assert daemon.worker("plain-0")["pid"] == after["pid"]
        os.kill(after["pid"], 0)


def test_a_call_of_a_server_goes_on_in_its_process_while_others_meet_the_new_one(tmp_path: Path) -> None:
    server = f'[mcp.servers.state]\ncommand = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]\n'
    with DaemonProcess(tmp_path, server) as daemon:
        daemon.call("mcp.call", name="state__get", arguments={})
        before = daemon.worker("state-0")
        changed = server + 'environment = { VERSION = "two" }\n'
        assert settled(daemon, changed)["type"] == "agent.rolled"
        daemon.call("mcp.call", name="state__get", arguments={})
        assert daemon.worker("state-0")["pid"] != before["pid"]


def test_calls_of_a_server_that_is_replaced_in_its_place_wait_for_the_new_process(tmp_path: Path) -> None:
    server = f"""[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
concurrency = "parallel"
rolling = false
"""
    with DaemonProcess(tmp_path, server) as daemon, ThreadPoolExecutor(4) as pool:

        def call(tool: str, **arguments: object) -> str:
            found = daemon.call("mcp.call", name=f"state__{tool}", arguments=arguments)
            return str(found["content"][0]["text"])

        before = call("pid")
        finished = pool.submit(call, "meet", folder=str(tmp_path), name="here", other="there")
        with Watch(daemon, "agent.draining", "agent.rolled", "agent.taken_back") as watch:
            daemon.await_worker("state-0", lambda w: w["state"] == "Busy")
            rewrite(daemon, server + 'environment = { VERSION = "two" }\n')
            watch.next("agent.draining")
            held = [pool.submit(call, "pid") for _ in range(3)]
            with pytest.raises(Overloaded) as late:
                daemon.call("mcp.call", name="state__pid", arguments={}, timeout_s=0.05)
            assert late.value.data["limit"] == "replaced"
            assert not any(each.done() for each in held)
            (tmp_path / "there").touch()
            assert watch.any()["type"] == "agent.rolled"
            assert finished.result(BOUND_S) == "met"
        after = {each.result(BOUND_S) for each in held}
        assert after == {str(daemon.worker("state-0")["pid"])}
        assert after != {before}
        bad = server.replace('"]', '", "--dies"]')
        with Watch(daemon, "agent.rolled", "agent.taken_back") as watch:
            rewrite(daemon, bad)
            assert call("pid") != ""
            assert watch.any()["type"] == "agent.taken_back"
        assert call("pid") == str(daemon.worker("state-0")["pid"])
