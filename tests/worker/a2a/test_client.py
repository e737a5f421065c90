"""Remote agents of A2A as agents of a daemon: a server of the official SDK, and another daemon, on the other side."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams, TaskFailed, WorkerFailed
from daemon_process import AGENTS, DaemonProcess, until
from free_ports import free_port
from http_api_client import Api

pytest.importorskip("a2a.server.routes", reason="a2a-sdk is not installed")
pytest.importorskip("sse_starlette", reason="a2a-sdk is not installed with its server")

pytestmark = pytest.mark.contract

KEY = "key-of-the-remote-agent"


class RemoteAgent:
    """A process with an agent of the official SDK."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(AGENTS / "a2a_agent.py"), KEY, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def told(self) -> Any:  # JSON
        with urllib.request.urlopen(f"{self.url}/seen", timeout=20) as answer:
            return json.load(answer)

    def close(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteAgent]:
    agent = RemoteAgent()
    yield agent
    agent.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, remote: RemoteAgent) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("a2a-client")
    secrets = folder / "secrets"
    secrets.write_text(f"KEY={KEY}\n")
    secrets.chmod(0o600)
    polled = RemoteAgent("--no-streams")
    by_http = RemoteAgent("--rest")
    text = f"""
[daemon]
secrets_file = "{secrets}"
[tasks]
retry_backoff_base = "10ms"
[agents.streamed]
protocol = "a2a"
url = "{remote.url}"
headers = {{ X-Api-Key = "${{secret:KEY}}" }}
resources.max_concurrent_requests = 4
[agents.polled]
protocol = "a2a"
url = "{polled.url}/.well-known/agent-card.json"
headers = {{ X-Api-Key = "${{secret:KEY}}" }}
[agents.by_http]
protocol = "a2a"
url = "{by_http.url}"
headers = {{ X-Api-Key = "${{secret:KEY}}" }}
[agents.stranger]
protocol = "a2a"
url = "{remote.url}"
headers = {{ X-Api-Key = "a-wrong-key" }}
[agents.nobody]
protocol = "a2a"
url = "http://127.0.0.1:{free_port()}"
tasks.max_attempts = 2
"""
    with DaemonProcess(folder, text) as process:
        process.call("agent.start", names=["*"])
        yield process
    polled.close()
    by_http.close()


def run(daemon: DaemonProcess, agent: str, objective: str, **params: Any) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, **params)


@pytest.mark.parametrize("agent", ["streamed", "polled", "by_http"])
def test_the_output_of_a_task_is_that_of_the_remote_agent(daemon: DaemonProcess, agent: str) -> None:
    assert run(daemon, agent, "words")["output"] == "the sea"
    assert run(daemon, agent, "two")["output"] == ["one", {"n": 2}]
    assert run(daemon, agent, "hello")["output"] == "hello yourself"
    found = run(daemon, agent, "paint", input={"colour": "red"}, session="s1")
    assert found["output"] == "paint 1 s1"


def test_parts_are_streamed_while_they_come(daemon: DaemonProcess) -> None:
    shown = daemon.corral("run", "streamed", "words", "--stream", "off")
    assert (shown.returncode, shown.stdout.strip()) == (0, "the sea")
    parts: list[object] = []
    with daemon.client() as client:
        client.call(
            "task.run",
            {"agent": "streamed", "objective": "words", "stream": True},
            on_notification=lambda note: parts.append(note.params.get("part")),
        )
    assert "".join(str(each) for each in parts if each) == "the sea"


@pytest.mark.parametrize("agent", ["streamed", "polled", "by_http"])
@pytest.mark.parametrize(
    ("objective", "state", "words"),
    [
        ("fail", "TASK_STATE_FAILED", "no luck"),
        ("reject", "TASK_STATE_REJECTED", "not for me"),
        ("login", "TASK_STATE_AUTH_REQUIRED", "headers"),
    ],
)
def test_a_failure_of_the_remote_agent_is_typed(
    daemon: DaemonProcess, agent: str, objective: str, state: str, words: str
) -> None:
    record = submitted(daemon, agent, objective)
    error = record["error"]
    assert (record["state"], error["name"], error["data"]["state"]) == (*("failed", TaskFailed.__name__), state)
    assert words in error["message"]


def submitted(daemon: DaemonProcess, agent: str, objective: str) -> Any:
    task = daemon.call("task.submit", agent=agent, objective=objective)
    return daemon.call("task.wait", task=task["id"])


@pytest.mark.parametrize("agent", ["streamed", "polled", "by_http"])
def test_a_question_of_the_remote_agent_is_answered_by_a_person(daemon: DaemonProcess, agent: str) -> None:
    task = daemon.call("task.submit", agent=agent, objective="ask me")
    asked = question(daemon, task["id"])
    assert asked["question"] == "which colour?"
    daemon.call("approval.answer", approval=asked["id"], answer="blue")
    record = daemon.call("task.wait", task=task["id"])
    assert record["output"].startswith("blue 0 ")


def question(daemon: DaemonProcess, task: str) -> Any:
    while True:
        for each in daemon.call("approval.list")["approvals"]:
            if each["task"] == task and each["state"] == "open":
                return each


def test_a_worker_that_dies_during_a_question_goes_on_with_the_same_remote_task(
    daemon: DaemonProcess, remote: RemoteAgent
) -> None:
    task = daemon.call("task.submit", agent="streamed", objective="ask again")
    asked = question(daemon, task["id"])
    before = len(sent(remote))
    os.kill(daemon.worker("streamed-0")["pid"], signal.SIGKILL)
    daemon.call("approval.answer", approval=asked["id"], answer="green")
    record = daemon.call("task.wait", task=task["id"])
    assert record["output"].startswith("green 0 ")
    assert len(sent(remote)) == before + 1


def sent(remote: RemoteAgent) -> list[Any]:
    return [each for each in remote.told()["seen"] if each["method"].startswith("Send")]


def test_a_cancelled_task_is_cancelled_there(daemon: DaemonProcess, remote: RemoteAgent) -> None:
    task = daemon.call("task.submit", agent="streamed", objective="wait")
    until(lambda: "it works" in (daemon.call("task.show", task=task["id"])["progress_message"] or ""))
    daemon.call("task.cancel", task=task["id"])
    until(lambda: "cancelled" in remote.told()["notes"])
    assert daemon.call("task.wait", task=task["id"])["state"] == "cancelled"


class Wire:
    """A way to a server that can be cut: connections to its port are those to the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()


@pytest.mark.parametrize("options", [(), ("--rest",)])
def test_a_stream_that_is_cut_is_taken_up_again(tmp_path: Path, options: tuple[str, ...]) -> None:
    port = free_port()
    wire = Wire(port)
    far = RemoteAgent("--at", wire.url, "--port", str(port), *options)
    text = f"""
[agents.far]
protocol = "a2a"
url = "{wire.url}"
headers = {{ X-Api-Key = "{KEY}" }}
"""
    try:
        with DaemonProcess(tmp_path, text) as daemon:
            task = daemon.call("task.submit", agent="far", objective="gate")
            until(lambda: daemon.call("task.show", task=task["id"])["progress_message"] == "it works")
            wire.cut()
            until(lambda: _took_up(far))
            urllib.request.urlopen(f"{far.url}/go", timeout=20).close()
            record = daemon.call("task.wait", task=task["id"])
            assert (record["output"], record["attempt"]) == ("the sea", 1)
            assert len([each for each in far.told()["seen"] if "message" in json.dumps(each)]) == 1
    finally:
        wire.close()
        far.close()


def _took_up(far: RemoteAgent) -> bool:
    told = far.told()
    methods = {each.get("method") for each in told["seen"]}
    return "SubscribeToTask" in methods or any("subscribe" in each for each in told["paths"])


def test_credentials_are_sent_and_never_shown(daemon: DaemonProcess) -> None:
    error = submitted(daemon, "stranger", "words")["error"]
    assert (error["name"], error["data"]["status"]) == ("TaskFailed", 401)
    assert "a-wrong-key" not in json.dumps(error)
    assert KEY not in json.dumps(daemon.call("agent.show", name="streamed"))


def test_an_agent_that_cannot_be_reached_is_tried_again(daemon: DaemonProcess) -> None:
    record = submitted(daemon, "nobody", "words")
    assert (record["attempt"], record["error"]["name"]) == (2, WorkerFailed.__name__)
    assert record["error"]["data"]["result"] == "unreachable"


@pytest.mark.parametrize("key", ['method = "PUT"', 'webhook_secret = "x"', 'command = ["x"]'])
def test_keys_of_other_agents_are_refused(daemon: DaemonProcess, key: str) -> None:
    name, _, value = key.partition(" = ")
    spec = {"protocol": "a2a", "url": "http://127.0.0.1:1", name: json.loads(value)}
    with pytest.raises(InvalidParams) as refused:
        daemon.call("agent.add", name="other", spec=spec)
    assert str(refused.value.data["key"]).endswith(name)


def test_one_daemon_runs_tasks_of_agents_of_another(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    (tmp_path / "far" / "talking.py").write_text(
        "async def answer(task, objective, input):\n"
        "    if objective == 'fail':\n        raise ValueError('it fails')\n"
        "    if objective == 'ask':\n        return await task.ask('Which?')\n"
        "    for word in ('the ', 'sea'):\n        await task.stream(word)\n"
        "    return {'said': objective, 'input': input}\n"
    )
    far_config = '[daemon]\nhttp = "127.0.0.1:0"\n[agents.talker]\nentrypoint = "talking:answer"\n'
    with DaemonProcess(tmp_path / "far", far_config) as far:
        api = Api(far)
        near_config = f"""
[agents.talker]
protocol = "a2a"
url = "http://{api.address}/a2a/talker"
headers = {{ Authorization = "Bearer {api.token}" }}
"""
        with DaemonProcess(tmp_path / "near", near_config) as near:
            found = run(near, "talker", "say", input=[1, 2])
            assert found["output"] == {"said": "say", "input": [1, 2]}
            error = submitted(near, "talker", "fail")["error"]
            assert error["data"]["state"] == "TASK_STATE_FAILED"
            task = near.call("task.submit", agent="talker", objective="ask")
            asked = question(near, task["id"])
            assert asked["question"] == "Which?"
            near.call("approval.answer", approval=asked["id"], answer="that one")
            assert near.call("task.wait", task=task["id"])["output"] == "that one"
            assert far.call("approval.list")["approvals"] == []
