"""Webhook agents under a whole daemon: a task is one HTTP request to a real service."""

import hmac
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import pytest

from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    Overloaded,
    ResourceLimitExceeded,
    TaskFailed,
    Timeout,
    WorkerFailed,
    from_wire,
)
from corral.worker.contract.jsonrpc import Notification
from corral.worker.webhook.delivery import retry_after_s
from daemon_process import BOUND_S, DaemonProcess

TOKEN, KEY = "hunter2-token", "hunter2-key"

CONFIG = """
[daemon]
secrets_file = "secrets"
log_level = "debug"
[tasks]
retry_backoff_base = "10ms"
[agents.hook]
protocol = "webhook"
url = "http://127.0.0.1:PORT/hook?a=b&token=hunter2-query"
headers = { Authorization = "Bearer ${secret:TOKEN}", X-Plain = "shown" }
webhook_secret = "${secret:KEY}"
config = { team = "red" }
health = { http = "http://127.0.0.1:PORT/health", interval = "50ms" }
process.connect_ports = []
resources.max_output_size_bytes = "1KiB"
[agents.wide]
protocol = "webhook"
method = "PUT"
url = "http://127.0.0.1:PORT/wide"
resources.max_concurrent_requests = 2
[agents.patient]
protocol = "webhook"
url = "http://127.0.0.1:PORT/patient"
tasks.retry_on = ["worker-death", "Overloaded"]
[agents.nobody]
protocol = "webhook"
url = "http://127.0.0.1:CLOSED/"
"""


class Request(NamedTuple):
    """What the service was sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def task(self) -> Any:  # JSON, whose shape the test knows
        """The task in it."""
        return json.loads(self.body)


class Service:
    """A service that does what the objective says, and tells what it was sent."""

    def __init__(self) -> None:
        self.requests: Queue[Request] = Queue()
        self.ends: Queue[str] = Queue()
        self.at_once = threading.Barrier(2)
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body, time.monotonic())
                service.requests.put(request)
                service.act(self, request)

            do_PUT = do_POST

            def do_GET(self) -> None:
                service.answer(self, 200, b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    def answer(self, to: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
        """Sends a whole response."""
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)

    def act(self, to: http.server.BaseHTTPRequestHandler, request: Request) -> None:
        """Does what the objective says."""
        task = request.task
        match task["objective"].split():
            case ["answer", text]:
                self.answer(to, 200, text.encode())
            case ["nothing"]:
                self.answer(to, 204, b"")
            case ["status", status, *words]:
                self.answer(to, int(status), " ".join(words).encode(), Retry_After="7")
            case ["leak"]:
                said = f"{request.headers['authorization']} {request.path}"
                self.answer(to, 400, said.encode())
            case ["redirect"]:
                self.answer(to, 302, b"", Location="/elsewhere")
            case ["hang"]:
                to.connection.settimeout(BOUND_S)
                self.ends.put("closed" if to.connection.recv(1) == b"" else "sent more")
                to.close_connection = True
            case ["stream", kind, text]:
                to.send_response(200)
                to.send_header("Content-Type", kind)
                to.end_headers()
                for each in text.encode().decode("unicode_escape").split("|"):
                    to.wfile.write(each.encode())
                    to.wfile.flush()
                to.close_connection = True
            case ["flood"]:
                to.send_response(200)
                to.end_headers()
                try:
                    while True:
                        to.wfile.write(b" " * 65536)
                except OSError:
                    self.ends.put("closed")
                to.close_connection = True
            case ["break", "first"] if task["attempt"] == 1:
                to.close_connection = True
            case ["busy", "first"] if task["attempt"] == 1:
                self.answer(to, 503, b"", Retry_After="0")
            case ["later", "first"] if task["attempt"] == 1:
                self.answer(to, 503, b"", Retry_After="1")
            case ["together"]:
                self.at_once.wait(BOUND_S)
                self.answer(to, 200, b'"both"')
            case _:
                self.answer(to, 200, json.dumps({"output": task["attempt"]}).encode())


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    found = Service()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join(BOUND_S)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("webhook")
    secrets = folder / "secrets"
    secrets.touch(mode=0o600)
    secrets.write_text(f"TOKEN={TOKEN}\nKEY={KEY}\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nothing listens, and nobody else gets it
        config = CONFIG.replace("PORT", str(service.port))
        config = config.replace("CLOSED", str(closed.getsockname()[1]))
        with DaemonProcess(folder, config) as process:
            yield process


def run(daemon: DaemonProcess, agent: str, objective: str, **params: object) -> Any:  # a record
    """The record of a task that has ended."""
    return daemon.call("task.run", agent=agent, objective=objective, **params)


def failure(daemon: DaemonProcess, agent: str, objective: str, **params: object) -> CorralError:
    """The error with which a task has ended."""
    return from_wire(run(daemon, agent, objective, **params)["error"])


def last_request(service: Service) -> Request:
    """What the service was sent last."""
    request = service.requests.get(timeout=BOUND_S)
    while not service.requests.empty():
        request = service.requests.get()
    return request


def test_the_service_gets_the_whole_task(daemon: DaemonProcess, service: Service) -> None:
    record = run(daemon, "hook", "answer [1]", input={"a": 1}, context="why", session="s1")
    request = last_request(service)
    assert (request.method, request.path) == ("POST", "/hook?a=b&token=hunter2-query")
    task = request.task
    assert task["boundaries"].pop("timeout_s") == 300
    assert task.pop("boundaries").keys() >= {"max_tool_calls", "allowed_tools", "constraints"}
    assert task == {
        "task": record["id"],
        "attempt": 1,
        "delivery": 1,
        "agent": "hook",
        "worker": "hook-0",
        "objective": "answer [1]",
        "input": {"a": 1},
        "context": "why",
        "session": "s1",
        "output_format": None,
        "config": {"team": "red"},
    }
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-plain"] == "shown"
    assert request.headers["idempotency-key"] == record["id"]


def test_the_signature_proves_who_sent_the_body_and_when(daemon: DaemonProcess, service: Service) -> None:
    run(daemon, "hook", "answer 1")
    request = last_request(service)
    signed = request.headers["x-corral-timestamp"].encode() + b"." + request.body
    digest = hmac.new(KEY.encode(), signed, "sha256").hexdigest()
    assert request.headers["x-corral-signature"] == f"sha256={digest}"
    run(daemon, "wide", "answer 1")
    plain = last_request(service)
    assert plain.method == "PUT"
    assert "x-corral-signature" not in plain.headers


@pytest.mark.parametrize(
    ("objective", "output"),
    [
        ('answer {"output":{"a":1}}', {"a": 1}),
        ('answer {"output":1,"more":2}', {"output": 1, "more": 2}),
        ('answer {"tokens_used":1}', {"tokens_used": 1}),
        ("answer [1,2]", [1, 2]),
        ("answer null", None),
        ("nothing", None),
        ("status 202 7", 7),
    ],
)
def test_the_response_is_the_output(daemon: DaemonProcess, objective: str, output: object) -> None:
    assert run(daemon, "hook", objective)["output"] == output


def test_what_the_service_spent_is_in_the_record(daemon: DaemonProcess) -> None:
    record = run(daemon, "hook", 'answer {"output":1,"tokens_used":12,"cost_cents":0.5}')
    assert (record["output"], record["tokens_used"], record["cost_cents"]) == (1, 12, 0.5)


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_asks_for_a_pause_is_overloaded(daemon: DaemonProcess, status: int) -> None:
    error = failure(daemon, "hook", f"status {status}")
    assert isinstance(error, Overloaded)
    assert (error.data["status"], error.data["retry_after_s"]) == (status, 7)


def test_an_overload_is_tried_again_where_the_configuration_says_so(daemon: DaemonProcess) -> None:
    assert run(daemon, "patient", "busy first")["output"] == 2


def test_the_next_attempt_keeps_to_the_pause_that_the_service_asks_for(daemon: DaemonProcess, service: Service) -> None:
    while not service.requests.empty():
        service.requests.get()
    assert run(daemon, "patient", "later first")["output"] == 2
    first, second = (service.requests.get(timeout=BOUND_S) for _ in range(2))
    assert second.at_s - first.at_s >= 1


@pytest.mark.parametrize("status", [400, 404, 500, 501])
def test_another_status_is_a_failure_of_the_task(daemon: DaemonProcess, status: int) -> None:
    error = failure(daemon, "hook", f"status {status} the disk is full")
    assert isinstance(error, TaskFailed)
    assert (error.data["status"], error.data["body"]) == (status, "the disk is full")
    assert "the disk is full" in error.message


def test_a_redirection_is_not_followed(daemon: DaemonProcess, service: Service) -> None:
    error = failure(daemon, "hook", "redirect")
    assert isinstance(error, TaskFailed)
    assert error.data["status"] == 302
    assert last_request(service).path.startswith("/hook")


@pytest.mark.parametrize("body", ["{", "<html>", '{"output":1,"tokens_used":-1}'])
def test_a_response_that_is_not_valid_fails_the_task(daemon: DaemonProcess, body: str) -> None:
    assert isinstance(failure(daemon, "hook", f"answer {body}"), TaskFailed)


def test_the_output_is_held_to_its_size(daemon: DaemonProcess) -> None:
    error = failure(daemon, "hook", f"answer {json.dumps('x' * 2000)}")
    assert isinstance(error, ResourceLimitExceeded)
    assert error.data["limit"] == "max_output_size_bytes"


@pytest.mark.parametrize(
    ("answered", "parts", "output"),
    [
        (r"text/event-stream data:a\n\n|data:b|c\n\ndata:[DONE]\n\n", "abc", "abc"),
        (r'text/event-stream data:a\n\nevent:result\ndata:{"output":1}\n\n', "a", 1),
        (r"text/plain one|two", "onetwo", "onetwo"),
        (r'application/x-ndjson {"a":1}\n{"a"|:2}', [{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
    ],
    ids=["events", "result", "text", "lines"],
)
def test_a_response_in_parts_is_streamed(daemon: DaemonProcess, answered: str, parts: object, output: object) -> None:
    found: list[Any] = []

    def hear(notification: Notification) -> None:
        if notification.method == "task.part":
            found.append(notification.params["part"])

    with daemon.client() as client:
        asked = {"agent": "wide", "objective": f"stream {answered}", "stream": True}
        record: Any = client.call("task.run", asked, timeout_s=BOUND_S, on_notification=hear)
    assert record["output"] == output
    assert (found if isinstance(parts, list) else "".join(found)) == parts


def test_a_body_without_end_is_not_read_to_its_end(daemon: DaemonProcess, service: Service) -> None:
    assert isinstance(failure(daemon, "hook", "flood"), ResourceLimitExceeded)
    assert service.ends.get(timeout=BOUND_S) == "closed"


def test_the_timeout_closes_the_connection(daemon: DaemonProcess, service: Service) -> None:
    assert isinstance(failure(daemon, "hook", "hang", timeout_s=0.3), Timeout)
    assert service.ends.get(timeout=BOUND_S) == "closed"


def test_a_cancelled_task_closes_the_connection(daemon: DaemonProcess, service: Service) -> None:
    task = daemon.call("task.submit", agent="hook", objective="hang")["id"]
    while service.requests.get(timeout=BOUND_S).task["task"] != task:
        pass
    daemon.call("task.cancel", task=task)
    assert service.ends.get(timeout=BOUND_S) == "closed"
    assert daemon.call("task.wait", task=task)["state"] == "cancelled"
    assert daemon.worker("hook-0")["restarts"] == 0


def test_a_service_that_breaks_off_is_asked_again(daemon: DaemonProcess, service: Service) -> None:
    record = run(daemon, "hook", "break first")
    assert (record["output"], record["attempt"]) == (2, 2)
    assert last_request(service).headers["idempotency-key"] == record["id"]
    assert daemon.worker("hook-0")["restarts"] == 0


def test_a_service_that_nobody_reaches_is_named_after_the_last_attempt(daemon: DaemonProcess) -> None:
    error = failure(daemon, "nobody", "anything")
    assert isinstance(error, WorkerFailed)
    assert (error.data["attempts"], error.data["result"]) == (3, "unreachable")
    assert "http://127.0.0.1:" in error.message


def test_so_many_requests_run_at_once_as_the_agent_may_have(daemon: DaemonProcess) -> None:
    tasks = [daemon.call("task.submit", agent="wide", objective="together") for _ in range(2)]
    ended = [daemon.call("task.wait", task=task["id"]) for task in tasks]
    assert [record["output"] for record in ended] == ["both", "both"]


def test_its_process_is_restarted_and_its_task_sent_again(daemon: DaemonProcess, service: Service) -> None:
    task = daemon.call("task.submit", agent="patient", objective="hang")["id"]
    while service.requests.get(timeout=BOUND_S).task["task"] != task:
        pass
    daemon.call("agent.signal", names=["patient"], signal="SIGKILL")
    assert service.ends.get(timeout=BOUND_S) == "closed"
    again = service.requests.get(timeout=BOUND_S)
    assert (again.task["task"], again.task["attempt"]) == (task, 2)
    daemon.call("task.cancel", task=task)
    assert service.ends.get(timeout=BOUND_S) == "closed"


def test_its_health_check_asks_the_service(daemon: DaemonProcess) -> None:
    def is_healthy(worker: Any) -> bool:
        return [check["healthy"] for check in worker["health"]] == [True]

    with daemon.client() as client:
        client.call("event.follow", {"types": ["*"]}, timeout_s=BOUND_S)
        changes = client.notifications()
        while not is_healthy(daemon.worker("hook-0")):
            next(changes)


def test_no_credential_is_anywhere_but_in_its_process(daemon: DaemonProcess, service: Service) -> None:
    error = failure(daemon, "hook", "leak")
    assert error.data["status"] == 400
    spec = daemon.call("agent.show", name="hook")["spec"]
    assert spec["headers"] == {"Authorization": "***", "X-Plain": "***"}
    assert (spec["webhook_secret"], spec["url"].rpartition("token=")[2]) == ("***", "***")
    said = [json.dumps([error.to_wire(), spec])]
    said += [
        daemon.corral("--json", *words).stdout
        for words in (
            ("status",),
            ("show", "hook"),
            ("tasks",),
            ("events", "-n", "1000"),
            ("audit", "-n", "1000"),
            ("logs", "-n", "1000"),
            ("doctor",),
        )
    ]
    said.append(daemon.log.read_text())
    pid = daemon.worker("hook-0")["pid"]
    said.append(Path(f"/proc/{pid}/cmdline").read_text())
    said.append(Path(f"/proc/{daemon.worker('wide-0')['pid']}/environ").read_text())
    assert all(said)
    for value in (TOKEN, KEY, "hunter2-query"):
        assert [text for text in said if value in text] == []


def test_a_command_adds_one_and_its_key_is_shown_nowhere(daemon: DaemonProcess, service: Service) -> None:
    url = f"http://127.0.0.1:{service.port}/added"
    options = ("--webhook", url, "--header", "X-One=1", "--webhook-secret", "hunter2-plain")
    added = daemon.corral("add", "added", *options)
    assert added.returncode == 0, added.stderr
    done = daemon.corral("run", "added", "answer 5")
    assert (done.returncode, done.stdout.strip()) == (0, "5")
    request = last_request(service)
    assert (request.path, request.headers["x-one"]) == ("/added", "1")
    assert "x-corral-signature" in request.headers
    shown = daemon.corral("show", "added")
    assert "hunter2" not in shown.stdout + shown.stderr
    assert "hunter2" not in daemon.corral("--json", "audit", "-n", "1000").stdout
    both = daemon.corral("add", "both", "--webhook", url, "--", "true")
    assert both.returncode == 2


@pytest.mark.parametrize(
    ("value", "after_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("", 1.0),
        ("soon", 1.0),
        ("-1", 1.0),
        ("9" * 9, 86_400.0),
        ("9" * 99, 1.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
    ],
)
def test_a_pause_is_a_number_of_seconds_or_a_date(value: str, after_s: float) -> None:
    assert retry_after_s(value, datetime(2026, 1, 1, tzinfo=UTC)) == after_s


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"protocol": "webhook"}, "url"),
        ({"url": "http://h/"}, "url"),
        ({"command": ["x"], "webhook_secret": "hunter2"}, "webhook_secret"),
        ({"protocol": "webhook", "url": "http://h/", "command": ["x"]}, "command"),
        ({"protocol": "webhook", "url": "http://h/", "entrypoint": "a:b"}, "entrypoint"),
        ({"protocol": "webhook", "url": "http://u:hunter2@h/"}, "url"),
        ({"protocol": "webhook", "url": "http://h/", "method": "GET"}, "method"),
        ({"protocol": "webhook", "url": "http://h/", "headers": {"A": 1}}, "headers.A"),
        ({"protocol": "webhook", "url": "http://h/", "type": "oneshot"}, "protocol"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_by_key(
    daemon: DaemonProcess, table: dict[str, object], key: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        daemon.call("agent.add", name="odd", kind="agent", spec=table)
    assert str(caught.value.data["key"]).endswith(f"odd.{key}")
    assert "hunter2" not in json.dumps(caught.value.to_wire())
