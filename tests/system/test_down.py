"""A task for an agent that runs none until somebody acts: refused at once with the remedy, on every face, or kept on request."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from mcp_editor import serving

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[recovery]
restart_backoff_base = "10ms"
restart_backoff_max = "20ms"

[agents.missing]
command = ["no-such-program-anywhere"]
capabilities = ["rare"]
[agents.crashing]
command = ["sh", "-c", "echo its last words >&2; exit 3"]
[agents.importing]
entrypoint = "no_such_module_anywhere:agent"
[agents.idle]
entrypoint = "crew_agent:agent"
autostart = false
[agents.dependent]
entrypoint = "crew_agent:agent"
requires = ["crashing"]
[agents.patient]
command = ["no-such-program-anywhere"]
tasks.when_down = "queue"

[agents.slow]
command = ["sleep", "600"]
[agents.retrying]
command = ["sh", "-c", "exit 3"]
recovery.restart_backoff_base = "1h"
recovery.restart_backoff_max = "1h"
[agents.after-slow]
entrypoint = "crew_agent:agent"
requires = ["slow"]

[agents.mortal]
entrypoint = "crew_agent:agent"
recovery.restart = "never"
[agents.crew]
entrypoint = "crew_agent:agent"
capabilities = ["rare", "common"]

[teams.both]
mode = "broadcast"
members = ["missing", "crew"]
[workflows.one]
[[workflows.one.steps]]
name = "first"
agent = "missing"
objective = "echo"
"""

DOWN = ("missing", "crashing", "importing", "dependent")
"""The agents that have given up, or wait for one that has."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("down"), CONFIG) as process:
        for name in ("crashing", "importing"):
            process.await_worker(f"{name}-0", gave_up)
        process.await_worker("crew-0", lambda worker: worker["state"] in ("Ready", "Idle"))
        yield process


def gave_up(worker: Any) -> bool:
    last = worker["last_exit"]  # the state alone is Terminated before each new start, too
    return last is not None and last["result"] in ("restart-limit", "exec-failed")


def refusal(daemon: DaemonProcess, method: str, **params: object) -> CorralError:
    with pytest.raises(CorralError) as caught:
        daemon.call(method, **params)
    return caught.value


def ended(daemon: DaemonProcess, task: str) -> Any:
    return daemon.call("task.wait", task=task, timeout_s=BOUND_S)


@pytest.mark.parametrize("name", DOWN)
def test_a_task_for_an_agent_that_gave_up_is_refused_with_the_remedy(daemon: DaemonProcess, name: str) -> None:
    cause = "crashing" if name == "dependent" else name
    result = "exec-failed" if name == "missing" else None
    for method in ("task.run", "task.submit"):
        error = refusal(daemon, method, agent=name, objective="echo")
        assert isinstance(error, Conflict)
        assert error.data["reason"] == "down"
        assert result in (None, error.data["result"])
        assert str(error.data["remedy"]).endswith(f"corral reset {cause}")
        assert str(error.data["remedy"]) in error.message
    said = daemon.corral("run", name, "echo")
    assert (said.returncode, said.stdout) == (4, "")
    assert f"corral reset {cause}" in said.stderr


def test_one_that_is_stopped_or_scaled_to_none_names_its_own_remedy(daemon: DaemonProcess) -> None:
    assert refusal(daemon, "task.run", agent="idle", objective="echo").data["remedy"] == ("corral start idle")
    daemon.call("agent.scale", name="idle", instances=0)
    assert refusal(daemon, "task.run", agent="idle", objective="echo").data["remedy"] == ("corral scale idle 1")
    daemon.call("agent.scale", name="idle", instances=1)  # which starts it
    daemon.call("agent.stop", names=["idle"])


def test_every_way_to_a_task_ends_with_the_reason(daemon: DaemonProcess) -> None:
    delegated = daemon.call("task.run", agent="crew", objective="delegate missing")
    assert (delegated["error"]["name"], delegated["error"]["data"]["result"]) == ("Conflict", "exec-failed")
    flow = daemon.call("task.run", agent="one", objective="x")
    assert "corral reset missing" in flow["error"]["message"]
    team = daemon.call("task.run", agent="both", objective="echo")
    assert [each["state"] for each in team["output"]] == ["failed", "succeeded"]
    assert "corral reset missing" in team["output"][0]["error"]["message"]
    daemon.call("schedule.add", name="hourly", every_s=3600, task={"agent": "missing", "objective": "x"})
    assert isinstance(refusal(daemon, "schedule.run", name="hourly"), Conflict)
    with serving(daemon.socket) as editor:
        editor.initialize()
        for agent, is_error, words in (("missing", True, "corral reset missing"), ("slow", False, "corral__task")):
            arguments: Any = {"agent": agent, "objective": "echo", "wait_s": 0.1}
            answer = editor.ask(agent, "tools/call", name="corral__run", arguments=arguments)["result"]
            assert answer["isError"] == is_error
            assert words in answer["content"][0]["text"]
    (left,) = daemon.call("task.list", state="queued")["tasks"]
    daemon.call("task.cancel", task=left["id"])


def test_a_capability_goes_to_an_agent_that_is_up_and_is_refused_where_none_is(daemon: DaemonProcess) -> None:
    for _ in range(3):
        assert daemon.call("task.run", capability="rare", objective="echo")["agent"] == "crew"
    daemon.call("agent.stop", names=["crew"])
    error = refusal(daemon, "task.run", capability="rare", objective="echo")
    assert isinstance(error, NotFound)
    assert "corral reset missing" in error.message
    daemon.call("agent.start", names=["crew"])


@pytest.mark.parametrize("name", ["slow", "retrying", "after-slow"])
def test_one_that_starts_or_waits_or_backs_off_is_not_down(daemon: DaemonProcess, name: str) -> None:
    task = daemon.call("task.submit", agent=name, objective="echo")
    assert daemon.call("task.show", task=task["id"])["state"] == "queued"
    assert daemon.call("task.cancel", task=task["id"])["state"] == "cancelled"


@pytest.mark.parametrize("name", ["patient", "missing", "idle"])
def test_a_task_waits_where_it_or_its_agent_says_so(daemon: DaemonProcess, name: str) -> None:
    more = {} if name == "patient" else {"when_down": "queue"}
    task = daemon.call("task.submit", agent=name, objective="echo", **more)
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.ended"]}, timeout_s=BOUND_S)
        late = daemon.call("task.submit", agent=name, objective="echo", queue_timeout_s=0.2, **more)
        over = daemon.call("task.submit", agent=name, objective="echo", deadline_s=0.3, **more)
        assert ended(daemon, late["id"])["error"]["data"]["limit"] == "queue_timeout"
        late = ended(daemon, over["id"])
    assert (late["state"], late["error"]["data"]["limit"]) == ("timeout", "deadline_s")
    shown = daemon.call("task.show", task=task["id"])
    assert shown["state"] == "queued"
    assert f"{name}" in shown["reason"]
    assert daemon.call("task.cancel", task=task["id"])["state"] == "cancelled"


def test_what_waits_fails_when_the_last_worker_is_gone_for_good(daemon: DaemonProcess) -> None:
    running = daemon.call("task.submit", agent="mortal", objective="wait")
    worker = daemon.await_worker("mortal-0", lambda each: each["state"] == "Busy")
    waiting = daemon.call("task.submit", agent="mortal", objective="echo")
    patient = daemon.call("task.submit", agent="mortal", objective="echo", when_down="queue")
    os.kill(worker["pid"], signal.SIGKILL)
    for task in (running, waiting):
        record = ended(daemon, task["id"])
        assert (record["state"], record["error"]["name"]) == ("failed", "Conflict")
        assert record["error"]["data"]["remedy"].endswith("corral reset mortal")
    assert daemon.call("task.show", task=patient["id"])["state"] == "queued"
    daemon.call("agent.reset", names=["mortal"])
    assert ended(daemon, patient["id"])["state"] == "succeeded"
    assert daemon.call("task.run", agent="mortal", objective="echo")["state"] == "succeeded"


def test_a_stop_fails_what_has_not_begun_and_keeps_what_it_interrupted(daemon: DaemonProcess) -> None:
    running = daemon.call("task.submit", agent="crew", objective="hold")
    daemon.await_worker("crew-0", lambda each: each["state"] == "Busy")
    waiting = daemon.call("task.submit", agent="crew", objective="echo")
    daemon.call("agent.stop", names=["crew"])
    failed = ended(daemon, waiting["id"])
    assert (failed["state"], failed["error"]["data"]["remedy"]) == ("failed", "corral start crew")
    shown = daemon.call("task.show", task=running["id"])
    assert (shown["state"], shown["delivery"]) == ("queued", 1)
    daemon.call("task.cancel", task=running["id"])
    daemon.call("agent.start", names=["crew"])
    # A restart is no stop, although it is one for a moment.
    running = daemon.call("task.submit", agent="crew", objective="wait")
    daemon.await_worker("crew-0", lambda each: each["state"] == "Busy")
    waiting = daemon.call("task.submit", agent="crew", objective="echo")
    daemon.call("agent.restart", names=["crew"])
    daemon.call("task.cancel", task=running["id"])
    assert ended(daemon, waiting["id"])["state"] == "succeeded"


@pytest.mark.long
def test_a_mended_configuration_takes_tasks_again_and_a_later_daemon_lets_tasks_wait(tmp_path: Path) -> None:
    broken = '[agents.a]\ncommand = ["no-such-program-anywhere"]\n'
    mended = f"""
        [agents.a]
        entrypoint = "crew_agent:agent"
        process.working_directory = "{AGENTS}"
        tasks.when_down = "WHEN"
        [agents.rests]
        command = ["sleep", "600"]
        autostart = false
    """
    with DaemonProcess(tmp_path, broken) as daemon:
        daemon.await_worker("a-0", gave_up)
        assert isinstance(refusal(daemon, "task.run", agent="a", objective="echo"), Conflict)
        daemon.config.write_text(mended.replace("WHEN", "queue"))
        daemon.call("daemon.reload")
        assert daemon.call("task.run", agent="a", objective="echo")["state"] == "succeeded"
        daemon.call("agent.stop", names=["a"])
        task = daemon.call("task.submit", agent="a", objective="echo")
        rests = daemon.call("task.submit", agent="rests", objective="x", when_down="queue")
        daemon.config.write_text(mended.replace("WHEN", "refuse"))
        daemon.call("daemon.reload")  # takes effect at once
        assert ended(daemon, task["id"])["state"] == "failed"
        daemon.call("agent.start", names=["a"])
        daemon.call("task.submit", agent="a", objective="wait")
        left = daemon.call("task.submit", agent="a", objective="echo", priority=1)
        daemon.kill()
        daemon.start()  # the agent is up only later
        assert daemon.call("task.show", task=left["id"])["state"] != "failed"
        assert daemon.call("task.show", task=rests["id"])["state"] == "queued"
        said = daemon.corral("--json", "run", "rests", "x", "--queue", "--queue-timeout", "100ms")
        assert said.returncode == 5
        assert json.loads(said.stdout)["error"]["data"]["limit"] == "queue_timeout"
