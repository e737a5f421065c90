"""A single agent, team or workflow as an HTTP service: `[agents.X] http` and `corral expose`, over real sockets."""

import json
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, InvalidParams
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from free_ports import free_port
from tls_files import certificate

Json = Any  # Any: the shape of each answer is the test's affair

BASE = f"""
[process]
working_directory = "{AGENTS}"
[recovery]
restart_backoff_base = "1ms"
"""


def agent(name: str, port: int, *more: str) -> str:
    lines = [f"[agents.{name}]", 'entrypoint = "service_agent:agent"', "warm = false"]
    return "\n".join([*lines, f'http = "127.0.0.1:{port}"', *more, ""])


class Service:
    """A client of one service."""

    def __init__(self, daemon: DaemonProcess, port: int) -> None:
        self.port = port
        self.token = (daemon.state_dir / "http.token").read_text().strip()

    def ask(
        self,
        verb: str,
        path: str,
        body: Json = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Json]:
        """The status and the JSON of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=BOUND_S)
        try:
            sent = {"Authorization": f"Bearer {self.token}"}
            data = raw if raw is not None or body is None else json.dumps(body).encode()
            if data is not None:
                sent["Content-Type"] = "application/json"
            connection.request(verb, path, data, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def run(self, given: Json = None, **more: Json) -> tuple[int, Json]:
        return self.ask("POST", "/run", {"input": given, **more})

    def health(self) -> tuple[int, Json]:
        return self.ask("GET", "/health", headers={"Authorization": ""})


def await_event(daemon: DaemonProcess, kind: str, name: str, act: Json) -> Json:
    """What `act` returns, after the event that it brings."""
    with daemon.client() as client:
        client.call("event.follow", {"types": [kind]}, timeout_s=BOUND_S)
        found = act()
        for each in client.notifications():
            events: Json = each.params["events"]
            for event in events:
                if event["agent"] == name:
                    return event
    raise AssertionError(found)


def running(daemon: DaemonProcess) -> set[str]:
    """The objectives of the tasks that run now."""
    return {each["objective"] for each in daemon.call("task.list", states=["running"])["tasks"]}


def reload_with(daemon: DaemonProcess, text: str) -> None:
    daemon.config.write_text(BASE + text)
    daemon.call("daemon.reload")


def test_an_agent_runs_tasks_and_reports_its_health_and_status(tmp_path: Path) -> None:
    port = free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", port)) as daemon:
        daemon.call("agent.start", names=["one"])
        service = Service(daemon, port)
        status, found = service.run({"a": 1}, objective="try", session="s")
        assert (status, found["state"], found["output"]) == (200, "succeeded", {"a": 1})
        assert daemon.call("task.show", task=found["task"])["session"] == "s"
        assert service.health() == (200, {"name": "one", "status": "ok", "reasons": []})
        status, entry = service.ask("GET", "/status")
        assert (status, entry["name"], entry["service"]["url"]) == (200, "one", f"http://127.0.0.1:{port}")
        status, document = service.ask("GET", "/openapi.json")
        assert (status, set(document["paths"])) == (200, {"/run", "/health", "/status"})


def test_a_failed_task_has_the_status_of_its_error(tmp_path: Path) -> None:
    port = free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", port)) as daemon:
        daemon.call("agent.start", names=["one"])
        service = Service(daemon, port)
        status, found = service.run("fail")
        assert (status, found["state"], found["error"]["name"]) == (502, "failed", "TaskFailed")
        status, found = service.run("wait", timeout_s=0.1)
        assert (status, found["error"]["name"]) == (504, "Timeout")


@pytest.mark.parametrize(
    ("verb", "path", "raw", "headers", "expected"),
    [
        ("POST", "/run", b"{", {}, 400),
        ("POST", "/run", b"[1]", {}, 422),
        ("POST", "/run", b'{"inptu": 1}', {}, 422),
        ("POST", "/run", b'{"timeout_s": -1}', {}, 422),
        ("POST", "/run", b"{}", {"Content-Type": "text/plain"}, 415),
        ("POST", "/run", b"{", {"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ("POST", "/run", b"{}", {"Authorization": "Bearer wrong"}, 401),
        ("POST", "/run", b"{}", {"Origin": "https://evil.example"}, 403),
        ("POST", "/run", b"{}", {"Host": "evil.example"}, 403),
        ("GET", "/run", None, {}, 405),
        ("POST", "/health", b"{}", {}, 405),
        ("GET", "/health/x", None, {}, 404),
        ("GET", "/other", None, {}, 404),
        ("GET", "/status", None, {"Authorization": ""}, 401),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_is_served(
    daemon: DaemonProcess, verb: str, path: str, raw: bytes | None, headers: Mapping[str, str], expected: int
) -> None:
    port = int(daemon.call("agent.show", name="one")["agent"]["service"]["url"].split(":")[-1])
    service = Service(daemon, port)
    status, found = service.ask(verb, path, raw=raw, headers=headers)
    assert (status, set(found)) == (expected, {"error"})
    assert service.run(1)[0] == 200


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Json:
    with DaemonProcess(tmp_path_factory.mktemp("service"), BASE + agent("one", 0)) as process:
        process.call("agent.start", names=["one"])
        yield process


def test_a_stream_has_progress_and_then_the_result(daemon: DaemonProcess) -> None:
    port = int(daemon.call("agent.show", name="one")["agent"]["service"]["url"].split(":")[-1])
    service = Service(daemon, port)
    for body, headers in (
        ({"input": "steps", "stream": True}, {}),
        ({"input": "steps"}, {"Accept": "text/event-stream"}),
    ):
        connection = HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
        sent = {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"}
        connection.request("POST", "/run", json.dumps(body), sent | headers)
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        parts = answer.read().decode().strip().split("\n\n")
        connection.close()
        kinds = [part.split("\n")[0].removeprefix("event: ") for part in parts]
        assert kinds[-1] == "result"
        assert set(kinds[:-1]) == {"progress"}
        messages = [json.loads(part.split("data: ", 1)[1]) for part in parts]
        assert any(each.get("message") == "half" for each in messages)
        assert messages[-1]["output"] == "done"


def test_a_repeated_idempotency_key_runs_one_task(daemon: DaemonProcess) -> None:
    port = int(daemon.call("agent.show", name="one")["agent"]["service"]["url"].split(":")[-1])
    service = Service(daemon, port)
    tasks = {service.ask("POST", "/run", {"input": 1}, headers={"Idempotency-Key": "k"})[1]["task"] for _ in range(2)}
    assert len(tasks) == 1


def test_health_is_503_while_no_worker_is_up_and_200_again(tmp_path: Path) -> None:
    port = free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", port)) as daemon:
        daemon.call("agent.start", names=["one"])
        service = Service(daemon, port)
        assert service.health()[0] == 200
        daemon.call("agent.stop", names=["one"])
        status, found = service.health()
        assert (status, found["status"]) == (503, "unavailable")
        assert found["reasons"] == ["one-0 is stopped"]
        daemon.call("agent.start", names=["one"])
        assert service.health()[0] == 200
        daemon.call("agent.pause", names=["one"])
        assert service.health()[1]["reasons"] == ["one-0 is paused"]
        daemon.call("agent.resume", names=["one"])
        assert service.health()[0] == 200


def test_health_is_503_while_a_health_check_has_degraded_the_agent(tmp_path: Path) -> None:
    port, mark = free_port(), tmp_path / "ill"
    check = f'health = {{ exec = ["test", "!", "-e", "{mark}"], interval = "20ms", threshold = 1 }}'
    with DaemonProcess(tmp_path, BASE + agent("one", port, check)) as daemon:
        daemon.call("agent.start", names=["one"])
        service = Service(daemon, port)
        await_event(daemon, "health.degraded", "one", mark.touch)
        status, found = service.health()
        assert (status, len(found["reasons"])) == (503, 1)
        await_event(daemon, "health.recovered", "one", mark.unlink)
        assert service.health()[0] == 200


@pytest.mark.long
def test_a_reload_moves_the_port_and_no_request_in_flight_fails(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", first, "instances = 2")) as daemon:
        daemon.call("agent.start", names=["one"])
        before = [daemon.worker("one-0")["pid"], daemon.worker("one-1")["pid"]]
        old, new = Service(daemon, first), Service(daemon, second)
        has_moved = threading.Event()
        statuses: list[int] = []

        def load() -> None:
            while not has_moved.is_set():
                try:
                    statuses.append(old.run("short")[0])
                except ConnectionRefusedError:  # nobody listens there any more
                    return

        with ThreadPoolExecutor(4) as pool:
            loaders = [pool.submit(load) for _ in range(3)]
            with daemon.client() as client:
                client.call("event.follow", {"types": ["task.started"]}, timeout_s=BOUND_S)
                slow = pool.submit(old.run, "gate", objective="gate")
                started = client.notifications()
                while "gate" not in running(daemon):
                    next(started)
                await_event(
                    daemon,
                    "agent.http_opened",
                    "one",
                    lambda: reload_with(daemon, agent("one", second, "instances = 2")),
                )
            assert new.run(1)[0] == 200
            with pytest.raises(ConnectionRefusedError):
                old.health()
            assert (
                new.run("wait", timeout_s=4)[0] == 504
            )  # longer than LEAVE_S, and the two seconds that a server takes to close
            assert not slow.done()
            daemon.call("event.publish", type="gate.open", data=None)
            assert slow.result(BOUND_S)[0] == 200
            has_moved.set()
            for each in loaders:
                each.result(BOUND_S)
        assert statuses
        assert set(statuses) == {200}
        assert [daemon.worker("one-0")["pid"], daemon.worker("one-1")["pid"]] == before
        reload_with(daemon, agent("one", second).replace("http =", "#"))
        daemon.await_worker("one-0", lambda w: w["state"] != "Starting")
        assert "service" not in daemon.call("agent.show", name="one")["agent"]


@pytest.mark.long
def test_a_taken_port_degrades_the_service_alone_until_it_is_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        daemon = DaemonProcess(tmp_path, BASE + agent("one", port))
        with daemon:
            daemon.call("agent.start", names=["one"])
            entry = daemon.call("agent.show", name="one")["agent"]
            assert (entry["state"], entry["service"]["state"]) == ("Ready", "degraded")
            assert entry["service"]["reason"]
            status = daemon.call("daemon.status")
            assert "service of one" in status["daemon"]["degraded"]
            findings = daemon.call("daemon.doctor")["findings"]
            assert any(f["topic"] == "http" and f["verdict"] == "warning" for f in findings)
            events = daemon.call("event.list", types=["agent.http_failed"])["events"]
            assert [each["agent"] for each in events] == ["one"]
            await_event(daemon, "agent.http_opened", "one", taken.close)
            assert Service(daemon, port).run(1)[0] == 200
            assert daemon.call("daemon.status")["daemon"]["degraded"] == []


def test_two_agents_a_team_and_a_workflow_have_a_service_each(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(4)]
    groups = f"""
[teams.pair]
mode = "broadcast"
members = ["one", "two"]
http = "127.0.0.1:{ports[2]}"
[workflows.flow]
http = "127.0.0.1:{ports[3]}"
[[workflows.flow.steps]]
name = "first"
agent = "one"
objective = "x"
input = "${{input}}"
"""
    text = BASE + agent("one", ports[0]) + agent("two", ports[1]) + groups
    with DaemonProcess(tmp_path, text) as daemon:
        daemon.call("agent.start", names=["one", "two"])
        one, two, pair, flow = (Service(daemon, port) for port in ports)
        assert [one.run(1)[1]["output"], two.run(2)[1]["output"]] == [1, 2]
        assert [each["output"] for each in pair.run(3, objective="x")[1]["output"]] == [3, 3]
        assert flow.run(4, objective="x")[1]["output"] == {"first": 4}
        assert flow.ask("GET", "/status")[1]["kind"] == "workflow"
        daemon.call("agent.stop", names=["one"])
        assert [each.health()[0] for each in (one, two, pair, flow)] == [503, 200, 200, 503]


def test_an_address_that_two_have_is_refused_with_both_names(tmp_path: Path) -> None:
    port = free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", port)) as daemon:
        daemon.config.write_text(BASE + agent("one", port) + agent("two", port))
        with pytest.raises(CorralError) as refused:
            daemon.call("daemon.reload")
        assert refused.value.data["key"] == "agents.two.http"
        assert refused.value.data["other"] == "agents.one.http"
        daemon.config.write_text(f'[daemon]\nhttp = "localhost:{port}"\n' + BASE + agent("one", port))
        with pytest.raises(CorralError) as refused:
            daemon.call("daemon.reload")
        assert refused.value.data["other"] == "daemon.http"


def test_what_is_exposed_at_run_time_outlives_the_daemon(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", other)) as daemon:
        daemon.call("agent.start", names=["one"])
        done = daemon.corral("expose", "one", "--port", str(port))
        assert done.returncode == 0, done.stderr
        assert f"http://127.0.0.1:{port}/run" in done.stdout
        service = Service(daemon, port)
        assert service.run(1)[0] == 200
        daemon.kill()
        daemon.start()
        daemon.call("agent.start", names=["one"])
        assert service.run(2)[1]["output"] == 2
        assert daemon.call("agent.show", name="one")["agent"]["service"]["exposed"] is True
        assert daemon.corral("expose", "one", "--off").returncode == 0
        with pytest.raises(ConnectionRefusedError):
            service.health()
        assert "service" not in daemon.call("agent.show", name="one")["agent"]


def test_expose_is_refused_where_it_could_not_be_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, DaemonProcess(tmp_path, BASE + agent("one", 0)) as daemon:
        port = int(taken.getsockname()[1])
        before = daemon.call("agent.show", name="one")["agent"]["service"]["state"]
        for name, address, error in (
            ("one", f"127.0.0.1:{port}", "Conflict"),
            ("one", "192.0.2.1:80", "InvalidParams"),
            ("one", "127.0.0.1:99999", "InvalidParams"),
            ("one", "nonsense", "InvalidParams"),
            ("cortex", "127.0.0.1:0", "InvalidParams"),
            ("nobody", "127.0.0.1:0", "NotFound"),
        ):
            with pytest.raises(CorralError) as refused:
                daemon.call("agent.expose", name=name, address=address)
            assert refused.value.name == error, address
        after = daemon.call("agent.show", name="one")["agent"]["service"]
        assert (before, after["state"], after["exposed"]) == ("open", "open", False)


def test_an_expose_that_is_refused_leaves_the_old_address_open_all_the_time(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken, DaemonProcess(tmp_path, BASE + agent("one", port)) as daemon:
        is_over = threading.Event()
        service = Service(daemon, port)

        def connect() -> int:
            count = 0
            while not is_over.is_set():
                with socket.create_connection(("127.0.0.1", port), timeout=BOUND_S):
                    count += 1
            return count

        with ThreadPoolExecutor(2) as pool:
            clients = [pool.submit(connect) for _ in range(2)]
            try:
                for _ in range(20):
                    with pytest.raises(Conflict):
                        daemon.call("agent.expose", name="one", address=f"127.0.0.1:{taken.getsockname()[1]}")
            finally:
                is_over.set()
            assert all(each.result(BOUND_S) for each in clients)
        shown = daemon.call("agent.show", name="one")["agent"]["service"]
        assert (shown["address"], shown["exposed"]) == (f"127.0.0.1:{port}", False)
        assert daemon.call("event.list", types=["agent.http_closed"])["events"] == []
        assert service.ask("GET", "/status")[0] == 200
        new = daemon.call("agent.expose", name="one", address="127.0.0.1:0")["service"]["url"]
        assert Service(daemon, int(new.rpartition(":")[2])).ask("GET", "/status")[0] == 200
        with pytest.raises(ConnectionRefusedError):
            service.health()
        # Two spellings of one address: the old listener has to go first.
        there = new.rpartition(":")[2]
        daemon.call("agent.expose", name="one", address=f"localhost:{there}")
        assert Service(daemon, int(there)).ask("GET", "/status")[0] == 200


def test_a_service_that_others_reach_speaks_tls_as_the_daemon_does(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, BASE + agent("one", free_port())) as daemon:
        with pytest.raises(InvalidParams) as refused:
            daemon.call("agent.expose", name="one", address="0.0.0.0:0")
        assert "http_tls_cert" in refused.value.message
    folder = tmp_path / "tls"
    folder.mkdir()
    cert, key = certificate(folder, "one")
    secure = f'[daemon]\nhttp_tls_cert = "{cert}"\nhttp_tls_key = "{key}"\n'
    secure += 'http_hosts = ["corral.example.org"]\n'
    with DaemonProcess(folder, secure + BASE + agent("one", free_port())) as daemon:
        url = daemon.call("agent.expose", name="one", address="0.0.0.0:0")["service"]["url"]
        assert url.startswith("https://0.0.0.0:")
        port = int(url.rpartition(":")[2])
        token = (daemon.state_dir / "http.token").read_text().strip()
        context = ssl.create_default_context(cafile=str(cert))
        connection = HTTPSConnection("localhost", port, context=context, timeout=BOUND_S)
        with closing(connection):
            for host, bearer, status in (
                ("corral.example.org", token, 200),
                ("corral.example.org", "wrong", 401),
                ("example.org", token, 403),
            ):
                headers = {"Host": host, "Authorization": f"Bearer {bearer}"}
                connection.request("GET", "/status", headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status, (host, bearer)
        with socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: corral.example.org\r\n\r\n")
            plain.shutdown(socket.SHUT_WR)
            assert not plain.recv(100).startswith(b"HTTP")


def test_a_service_without_a_token_reaches_its_own_agent_alone(tmp_path: Path) -> None:
    port = free_port()
    with DaemonProcess(tmp_path, BASE + agent("one", port, 'http_auth = "none"')) as daemon:
        daemon.call("agent.start", names=["one"])
        service = Service(daemon, port)
        nothing = {"Authorization": ""}
        assert service.ask("POST", "/run", {"input": 1}, headers=nothing)[0] == 200
        assert service.ask("GET", "/status", headers=nothing)[0] == 200
        status, _ = service.ask("POST", "/run", {"input": 1, "agent": "two"}, headers=nothing)
        assert status == 422
        foreign = nothing | {"Origin": "https://evil.example"}
        assert service.ask("POST", "/run", {"input": 1}, headers=foreign)[0] == 403


def test_no_token_is_for_loopback_addresses_only(tmp_path: Path) -> None:
    text = BASE + agent("one", 0, 'http_auth = "none"')
    with DaemonProcess(tmp_path, text) as daemon:
        daemon.config.write_text(text.replace("127.0.0.1", "0.0.0.0"))
        with pytest.raises(CorralError) as refused:
            daemon.call("daemon.reload")
        assert refused.value.data["key"] == "agents.one.http_auth"


def test_without_any_service_nothing_of_http_is_imported(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, BASE) as daemon:
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        assert "aiohttp" not in maps
