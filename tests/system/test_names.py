"""Names that end in digits, in a running daemon: a word is a name or the id of a worker, never both."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict
from daemon_process import AGENTS, DaemonProcess

pytestmark = pytest.mark.shell

PLAIN = '[agents.{}]\ncommand = ["sh", "-c", "echo I am {}; sleep 600"]\nprotocol = "none"\ninstances = {}\n'
SLEEP = {"command": ["sleep", "600"], "protocol": "none"}


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    config = PLAIN.format("worker", "worker", 2) + PLAIN.format("node-1", "node-1", 2)
    with DaemonProcess(tmp_path_factory.mktemp("names"), config) as process:
        for each in ("worker-1", "node-1-1"):
            process.await_worker(each, lambda w: w["state"] == "Ready")
        yield process


def conflict(daemon: DaemonProcess, method: str, **params: object) -> dict[str, object]:
    with pytest.raises(Conflict) as caught:
        daemon.call(method, **params)
    return caught.value.data


def test_an_agent_with_such_a_name_is_found_by_it_and_so_are_its_workers(daemon: DaemonProcess) -> None:
    shown = daemon.call("agent.show", name="node-1")
    assert [w["id"] for w in shown["agent"]["workers"]] == ["node-1-0", "node-1-1"]
    killed = daemon.worker("node-1-1")
    daemon.call("agent.signal", name="node-1-1", signal="SIGKILL")
    back = daemon.await_worker("node-1-1", lambda w: w["incarnation"] > killed["incarnation"] and w["state"] == "Ready")
    assert back["restarts"] == 1
    assert daemon.worker("node-1-0")["restarts"] == 0
    logs = daemon.corral("--json", "logs", "node-1-1", "-n", "10").stdout.splitlines()
    assert {json.loads(line)["worker"] for line in logs} == {"node-1-1"}
    logs = daemon.corral("--json", "logs", "node-1", "-n", "10").stdout.splitlines()
    assert {json.loads(line)["worker"] for line in logs} == {"node-1-0", "node-1-1"}
    assert daemon.call("agent.select", names=["node-1*"])["names"] == ["node-1"]
    daemon.call("agent.stop", names=["node-1-0"])
    assert daemon.worker("node-1-0")["state"] == "Terminated"
    assert daemon.worker("node-1-1")["state"] == "Ready"


def test_a_word_is_never_both_a_name_and_a_worker(daemon: DaemonProcess) -> None:
    data = conflict(daemon, "agent.add", name="worker-1", spec=SLEEP)
    assert (data["name"], data["agent"]) == ("worker-1", "worker")
    team = {"members": ["worker"], "mode": "route"}
    assert conflict(daemon, "team.add", name="worker-0", spec=team)["agent"] == "worker"
    data = conflict(daemon, "agent.add", name="node", spec={**SLEEP, "instances": 2})
    assert (data["name"], data["agent"]) == ("node-1", "node")

    daemon.call("agent.add", name="worker-2", spec=SLEEP)
    data = conflict(daemon, "agent.scale", name="worker", instances=3)
    assert (data["name"], data["max"]) == ("worker-2", 2)
    assert [w["id"] for w in daemon.call("agent.show", name="worker")["agent"]["workers"]] == ["worker-0", "worker-1"]
    daemon.call("agent.add", name="node", spec=SLEEP)

    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("instances = 2", "instances = 3", 1))
    data = conflict(daemon, "daemon.reload")
    assert (data["name"], data["agent"]) == ("worker-2", "worker")
    daemon.call("agent.rm", name="worker-2")
    assert daemon.call("daemon.reload")["changed"] == {"worker": "live"}
    daemon.await_worker("worker-2", lambda w: w["state"] == "Ready")


def test_a_restart_keeps_an_agent_with_such_a_name(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="worker-7", spec={**SLEEP, "instances": 2})
    daemon.kill()
    daemon.start()
    daemon.await_worker("worker-7-1", lambda w: w["state"] == "Ready")
    daemon.await_worker("worker-1", lambda w: w["state"] == "Ready")


def test_an_agent_with_a_range_grows_up_to_the_name_of_another(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = f"""
    [tasks]
    scale_up_after = 0
    [agents.crew]
    entrypoint = "crew_agent:agent"
    process.working_directory = "{AGENTS}"
    instances = {{ min = 1, max = 8 }}
    process.shutdown_grace_period = 0
    """ + PLAIN.format("crew-2", "crew-2", 1)
    with DaemonProcess(tmp_path_factory.mktemp("range"), config) as daemon:
        daemon.await_worker("crew-0", lambda w: w["state"] == "Ready")
        with daemon.client() as client:
            client.call("event.follow", {"types": ["agent.scaled"]}, timeout_s=30)
            for _ in range(6):
                daemon.call("task.submit", agent="crew", objective="wait")
            coming = client.notifications()
            told: list[Any] = []
            while not any("crew-2" in each["reason"] for each in told):
                events: Any = next(coming).params["events"]
                told += events
            assert {each["instances"] for each in told} == {2}
        workers = daemon.call("agent.show", name="crew")["agent"]["workers"]
        assert [w["id"] for w in workers] == ["crew-0", "crew-1"]
