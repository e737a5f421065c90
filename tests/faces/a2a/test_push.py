"""Push notifications of A2A: the newest status comes to allowed addresses alone, also after a kill of the daemon."""

import json
import sqlite3
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from corral.supervisor.faces.a2a.push import is_allowed
from daemon_process import BOUND_S, DaemonProcess
from free_ports import free_port
from http_api_client import Api

a2a_types = pytest.importorskip("a2a.types", reason="a2a-sdk is not installed")
json_format = pytest.importorskip("google.protobuf.json_format")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.contract

AGENT = """
async def answer(task, objective, input):
    return await task.ask("Which?") if objective == "ask" else objective
"""


class Hook:
    """An address that takes notifications; `status` is what it answers from now on."""

    def __init__(self, port: int = 0) -> None:
        self.taken: Queue[Any] = Queue()
        self.status: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                json_format.ParseDict(body, a2a_types.StreamResponse())
                status = hook.status.pop(0) if hook.status else 200
                hook.taken.put((status, dict(self.headers), body))
                self.send_response(status)
                self.send_header("Location", hook.url)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self) -> Any:
        return self.taken.get(timeout=BOUND_S)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def hooked(port: int = 0) -> Generator[Hook]:
    hook = Hook(port)
    try:
        yield hook
    finally:
        hook.close()


def config(port: object) -> str:
    return f"""
[daemon]
http = "127.0.0.1:0"
a2a_push = ["http://127.0.0.1:{port}/hook", "https://hooks.example.com:*"]
[agents.talker]
entrypoint = "talking:answer"
resources.max_concurrent_requests = 4
"""


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with hooked() as made:
        yield made


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, hook: Hook) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("push")
    (folder / "talking.py").write_text(AGENT)
    with DaemonProcess(folder, config(hook.url.split(":")[2].split("/")[0])) as daemon:
        yield Api(daemon)


def ask(api: Api, method: str, params: Any, token: str = "") -> Any:
    headers = {"A2A-Version": "1.0", "Authorization": f"Bearer {token or api.token}"}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return httpx.post(f"http://{api.address}/a2a/talker", json=body, headers=headers).json()


def begun(api: Api, words: str, **settings: Any) -> str:
    message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": words}]}
    answer = ask(api, "SendMessage", {"message": message, "configuration": settings})
    return str(answer["result"]["task"]["id"])


def answered(api: Api, task: str) -> None:
    (question,) = api.daemon.call("approval.list", task=task)["approvals"]
    api.daemon.call("approval.answer", approval=question["id"], answer="this")


def state(body: Any) -> str:
    shown = body.get("task") or body["statusUpdate"]
    return str(shown["status"]["state"])


def test_a_client_is_notified_of_the_question_and_the_end_of_its_task(api: Api, hook: Hook) -> None:
    card = httpx.get(
        f"http://{api.address}/a2a/talker/.well-known/agent-card.json", headers={"Authorization": f"Bearer {api.token}"}
    ).json()
    assert card["capabilities"]["pushNotifications"] is True
    wish = {"url": hook.url, "token": "t0ken", "authentication": {"scheme": "Bearer", "credentials": "s3cret"}}
    hook.status = [503]
    task = begun(api, "ask", returnImmediately=False, taskPushNotificationConfig=wish)
    found: list[Any] = []
    while not found or state(found[-1][2]) != "TASK_STATE_INPUT_REQUIRED" or found[-1][0] != 200:
        found.append(hook.next())
    assert found[0][0] == 503  # and it was tried again
    assert found[-1][2]["statusUpdate"]["status"]["message"]["parts"][0]["text"] == "Which?"
    answered(api, task)
    while state((last := hook.next())[2]) != "TASK_STATE_COMPLETED":
        pass
    assert last[2]["task"]["artifacts"][0]["parts"][0]["text"] == "this"
    assert last[1]["Authorization"] == "Bearer s3cret"
    assert last[1]["X-A2A-Notification-Token"] == "t0ken"


def test_configurations_are_made_shown_listed_and_removed(api: Api, hook: Hook) -> None:
    task = begun(api, "hello")
    made = ask(
        api, "CreateTaskPushNotificationConfig", {"taskId": task, "id": "one", "url": hook.url, "token": "t0ken"}
    )["result"]
    assert made == {"taskId": task, "id": "one", "url": hook.url}  # without its token
    about = {"taskId": task, "id": "one"}
    assert ask(api, "GetTaskPushNotificationConfig", about)["result"] == made
    listed = ask(api, "ListTaskPushNotificationConfigs", {"taskId": task})["result"]
    assert listed["configs"] == [made]
    headers = {"A2A-Version": "1.0", "Authorization": f"Bearer {api.token}"}
    there = f"http://{api.address}/a2a/talker/tasks/{task}/pushNotificationConfigs"
    assert httpx.get(f"{there}/one", headers=headers).json() == made
    for _ in range(2):
        assert httpx.delete(f"{there}/one", headers=headers).status_code == 200
    assert httpx.get(f"{there}/one", headers=headers).status_code == 404
    for number in range(10):
        given = {"taskId": task, "id": str(number), "url": hook.url}
        assert "result" in ask(api, "CreateTaskPushNotificationConfig", given)
    more = {"taskId": task, "id": "more", "url": hook.url}
    assert ask(api, "CreateTaskPushNotificationConfig", more)["error"]["code"] == -32602


def test_an_address_that_is_not_allowed_is_refused_before_anything_is_done(api: Api, hook: Hook) -> None:
    task = begun(api, "hello")
    before = len(api.daemon.call("task.list", agent="talker", limit=100)["tasks"])
    for url in ("http://169.254.169.254/latest", hook.url.replace("/hook", "/other"), "file:///x"):
        given = {"taskId": task, "url": url}
        error = ask(api, "CreateTaskPushNotificationConfig", given)["error"]
        assert error["code"] == -32602
        assert error["data"][0]["metadata"]["reason"] == "address-not-allowed"
        message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
        settings = {"taskPushNotificationConfig": {"url": url}}
        sent = ask(api, "SendMessage", {"message": message, "configuration": settings})
        assert sent["error"]["code"] == -32602
    assert len(api.daemon.call("task.list", agent="talker", limit=100)["tasks"]) == before
    reader = api.daemon.call("token.add", name="reader", rights="read")["token"]
    for method in ("CreateTaskPushNotificationConfig", "DeleteTaskPushNotificationConfig"):
        given = {"taskId": task, "id": "x", "url": hook.url}
        assert "read" in ask(api, method, given, token=reader)["error"]["message"]


def test_a_redirection_is_not_followed(api: Api, hook: Hook) -> None:
    task = begun(api, "ask", returnImmediately=False)
    ask(api, "CreateTaskPushNotificationConfig", {"taskId": task, "url": hook.url})
    hook.status = [307, 307]
    answered(api, task)
    states: list[str] = []
    while "TASK_STATE_COMPLETED" not in states:
        states.append(state(hook.next()[2]))
    hook.status.clear()
    api.daemon.call("task.wait", task=begun(api, "hello"))
    assert hook.taken.empty()  # no state came twice, as it would to the address of the redirection
    assert len(states) == len(set(states))


def known(daemon: DaemonProcess) -> object:
    """Returns the status that an address is known to have, as the store of a daemon has it."""
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as store:
        return store.execute("SELECT notified FROM push_target").fetchall()


def test_a_notification_outlives_a_kill_of_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "talking.py").write_text(AGENT)
    port = free_port()
    with DaemonProcess(tmp_path, config(port)) as daemon:
        api = Api(daemon)
        task = begun(api, "ask", returnImmediately=False)
        given = {"taskId": task, "url": f"http://127.0.0.1:{port}/hook"}
        assert "result" in ask(api, "CreateTaskPushNotificationConfig", given)
        answered(api, task)
        daemon.call("task.wait", task=task)
        daemon.kill()
        before = known(daemon)
        with hooked(port) as hook:
            daemon.start()
            assert state(hook.next()[2]) == "TASK_STATE_COMPLETED"
            end = time.monotonic() + BOUND_S
            while known(daemon) == before:  # else it comes again, as it may
                assert time.monotonic() < end
            daemon.kill()
            daemon.start()
            begun(Api(daemon), "hello")
            assert hook.taken.empty()  # it knows the status already


def test_an_address_that_is_allowed_no_more_is_removed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "talking.py").write_text(AGENT)
    with hooked() as first, hooked() as second:
        ports = [each.url.split(":")[2].split("/")[0] for each in (first, second)]
        both = config(ports[0]).replace("https://hooks.example.com:*", f"http://127.0.0.1:{ports[1]}")
        with DaemonProcess(tmp_path, both) as daemon:
            api = Api(daemon)
            task = begun(api, "ask", returnImmediately=False)
            for each in (first, second):
                given = {"taskId": task, "url": each.url}
                assert "result" in ask(api, "CreateTaskPushNotificationConfig", given)
            daemon.kill()
            daemon.config.write_text(config(ports[1]))
            daemon.start()
            api = Api(daemon)
            about = {"taskId": task}
            left = [first.url, second.url]
            while len(left) > 1:
                listed = ask(api, "ListTaskPushNotificationConfigs", about)["result"]["configs"]
                left = [each["url"] for each in listed]
            assert left == [second.url]
            while not daemon.call("approval.list", task=task)["approvals"]:
                time.sleep(0)  # the next attempt asks again
            answered(api, task)
            while state(second.next()[2]) != "TASK_STATE_COMPLETED":
                pass
            assert first.taken.empty()


@pytest.mark.core
@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://a.example/hooks/1", True),
        ("https://A.example:443/hooks", True),
        ("https://a.example/hooksmore", False),
        ("https://a.example/hooks/../x", False),
        ("https://a.example/hooks/%2e%2e/x", False),
        ("https://a.example@evil.example/hooks", False),
        ("https://a.example:8443/hooks", False),
        ("http://a.example/hooks", False),
        ("https://b.example:8443/any", True),
        ("https://b.example.evil.example/any", False),
        ("https://[::1", False),
    ],
)
def test_addresses_are_compared_by_their_parts(url: str, allowed: bool) -> None:
    assert is_allowed(url, ["https://a.example/hooks", "https://b.example:*"]) is allowed
