"""Tokens under a whole daemon: made, shown once, used on the socket, rotated, ended, and never shown again."""

import http.client
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound, Overloaded, PermissionDenied
from daemon_process import BOUND_S, DaemonProcess
from mcp_editor import serving

pytestmark = pytest.mark.shell

CONFIG = """
[daemon]
log_level = "debug"
[agents.web]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
[agents.mail]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("tokens"), CONFIG) as process:
        yield process


def logged_in(daemon: DaemonProcess, token: str) -> Client:
    client = daemon.client()
    try:
        client.call("auth.login", {"token": token}, timeout_s=BOUND_S)
    except CorralError:
        client.close()
        raise
    return client


def ping_for(client: Client, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.call("daemon.ping", {}, timeout_s=BOUND_S)


def test_a_token_restricts_a_connection_and_is_never_shown_again(daemon: DaemonProcess) -> None:
    made = daemon.call("token.add", name="reader", rights="read", expires_s=3600)
    text = made["token"]
    assert text.startswith("corral_")
    assert len(text) > 45
    with logged_in(daemon, text) as client:
        who = client.call("auth.whoami", {}, timeout_s=BOUND_S)
        assert who == {
            "name": "reader",
            "rights": "read",
            "agents": None,
            "via": "socket",
            "token": "reader",
            "tenant": None,
            "node": None,
        }
        assert client.call("daemon.status", {}, timeout_s=BOUND_S)
        with pytest.raises(PermissionDenied):
            client.call("agent.stop", {"names": ["web"]}, timeout_s=BOUND_S)
        with pytest.raises(Conflict):
            client.call("auth.login", {"token": text}, timeout_s=BOUND_S)
    (listed,) = daemon.call("token.list")["tokens"]
    assert (listed["name"], listed["rights"], listed["expired"]) == ("reader", "read", False)
    assert listed["last_used"] is not None
    assert "token" not in listed
    denied = [r for r in daemon.call("audit.list")["records"] if r["action"] == "agent.stop"]
    assert denied[-1]["who"]["token"] == "reader"
    with pytest.raises(PermissionDenied):
        daemon.call("auth.login", token=text + "x")
    with pytest.raises(Conflict):
        daemon.call("token.add", name="reader", rights="admin")
    daemon.call("token.rm", name="reader")
    with pytest.raises(NotFound):
        daemon.call("token.rm", name="reader")
    wrongs: list[dict[str, object]] = [{"rights": "root"}, {"rights": "read", "agents": []}]
    for wrong in wrongs:
        with pytest.raises(InvalidParams):
            daemon.call("token.add", name="wrong", **wrong)
    shown = daemon.log.read_text() + json.dumps(daemon.call("audit.list"))
    shown += json.dumps(daemon.call("event.list", n=10_000))
    assert "token.add" in shown
    assert text not in shown
    for file in daemon.state_dir.rglob("*"):
        if file.is_file():
            assert text.encode() not in file.read_bytes(), file


def test_a_token_that_is_removed_or_rotated_ends_on_open_connections(daemon: DaemonProcess) -> None:
    first = daemon.call("token.add", name="live", rights="operate")["token"]
    with logged_in(daemon, first) as client, logged_in(daemon, first) as follower:
        follower.call("event.follow", {}, timeout_s=BOUND_S)
        second = daemon.call("token.rotate", name="live", overlap_s=600)["token"]
        assert client.call("auth.whoami", {}, timeout_s=BOUND_S)["rights"] == "operate"  # type: ignore[index]  # it is an object
        third = daemon.call("token.rotate", name="live")["token"]
        for text in (first, second):
            with pytest.raises(PermissionDenied):
                logged_in(daemon, text)
        with pytest.raises(PermissionDenied):
            client.call("daemon.ping", {}, timeout_s=BOUND_S)
        daemon.call("event.publish", type="custom.end")
        with pytest.raises(CorralError):
            for _ in follower.notifications():
                pass
    with logged_in(daemon, third) as client:
        daemon.call("token.rm", name="live")
        with pytest.raises(PermissionDenied):
            client.call("daemon.ping", {}, timeout_s=BOUND_S)


def test_a_token_ends_at_its_time(daemon: DaemonProcess) -> None:
    text = daemon.call("token.add", name="short", rights="read", expires_s=1)["token"]
    with logged_in(daemon, text) as client, pytest.raises(PermissionDenied):
        ping_for(client, BOUND_S)
    (listed,) = [t for t in daemon.call("token.list")["tokens"] if t["name"] == "short"]
    assert listed["expired"]
    daemon.call("token.rm", name="short")


def test_a_command_takes_a_token(daemon: DaemonProcess) -> None:
    done = daemon.corral("token", "add", "ci", "--rights", "operate", "--expires", "30d")
    assert done.returncode == 0, done.stderr
    text = done.stdout.strip()
    assert text.startswith("corral_")
    assert text not in done.stderr
    assert daemon.corral("--token", text, "whoami").stdout == "ci: operate, agents: all\n"
    assert daemon.corral("--token", text, "token", "list").returncode == 4
    assert daemon.corral("--token", "wrong", "status").returncode == 4
    os.environ["CORRAL_TOKEN"] = text
    try:
        assert json.loads(daemon.corral("--json", "whoami").stdout)["token"] == "ci"
        assert daemon.corral("daemon", "stop").returncode == 4
        assert daemon.corral("status").returncode == 0
    finally:
        del os.environ["CORRAL_TOKEN"]
    assert "ci" in daemon.corral("token", "list").stdout
    rotated = daemon.corral("--json", "token", "rotate", "ci", "--overlap", "10s")
    assert json.loads(rotated.stdout)["token"] != text
    assert daemon.corral("token", "rm", "ci").stdout == "removed ci\n"
    assert daemon.corral("token", "rm", "ci").returncode == 3


def test_tokens_outlive_the_daemon_and_a_damaged_one_is_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    with DaemonProcess(tmp_path_factory.mktemp("kept"), CONFIG) as daemon:
        kept = daemon.call("token.add", name="kept", rights="read")["token"]
        lost = daemon.call("token.add", name="lost", rights="read", agents=["web"])["token"]
        daemon.kill()
        with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as base:
            (blob,) = base.execute("SELECT record FROM access_token WHERE name = 'lost'").fetchone()
            widened = blob.replace(b'"web"', b'"***"')
            assert widened != blob
            base.execute("UPDATE access_token SET record = ? WHERE name = 'lost'", (widened,))
            base.commit()
        daemon.start()
        with logged_in(daemon, kept) as client:
            client.call("daemon.ping", {}, timeout_s=BOUND_S)
        with pytest.raises(PermissionDenied):
            logged_in(daemon, lost)


def status_over_http(address: str, token: str | None) -> int:
    """The status of a listing of tools over MCP."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=BOUND_S)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **({} if token is None else {"Authorization": f"Bearer {token}"}),
    }
    body: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    body["params"] = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x"}}
    with closing(connection):
        connection.request("POST", "/mcp", json.dumps(body), headers)
        return connection.getresponse().status


def test_a_request_over_http_has_the_rights_of_its_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = CONFIG.replace("[daemon]", '[daemon]\nhttp = "127.0.0.1:0"')
    key = "a-key-of-an-operator"
    folder = tmp_path_factory.mktemp("http")
    with DaemonProcess(folder, config, environ={"OS_SECURITY_KEY": key}) as daemon:
        address = daemon.call("daemon.status")["daemon"]["http"]
        made = daemon.call("token.add", name="reader", rights="read")["token"]
        of_file = (daemon.state_dir / "http.token").read_text().strip()
        for token in (made, of_file, key):
            assert status_over_http(address, token) == 200
        daemon.call("token.rm", name="reader")
        for token in (None, made, key + "x"):
            assert status_over_http(address, token) == 401
        with pytest.raises(Conflict):
            daemon.call("token.add", name="OS_SECURITY_KEY", rights="read")


def test_a_caller_makes_as_many_changes_in_a_minute_as_it_may(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = CONFIG.replace("[daemon]", "[daemon]\nmax_changes_per_minute = 2")
    with DaemonProcess(tmp_path_factory.mktemp("rate"), config) as daemon:
        token = daemon.call("token.add", name="ci", rights="operate")["token"]
        daemon.call("agent.reset", names=["web"])
        with pytest.raises(Overloaded) as caught:
            daemon.call("agent.reset", names=["web"])
        assert 0 < caught.value.data["retry_after_s"] <= 61  # type: ignore[operator]  # a number
        with logged_in(daemon, token) as client:
            for _ in range(2):
                client.call("agent.reset", {"names": ["web"]}, timeout_s=BOUND_S)
            with pytest.raises(Overloaded):
                client.call("agent.reset", {"names": ["web"]}, timeout_s=BOUND_S)
            assert client.call("daemon.status", {}, timeout_s=BOUND_S)
        daemon.call("daemon.emergency_stop")


def test_an_editor_with_a_token_has_its_tools_alone(daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = daemon.call("token.add", name="editor", rights="read", agents=["web"])["token"]

    def tools() -> set[str]:
        with serving(daemon.socket) as editor:
            editor.initialize()
            return {each["name"] for each in editor.ask("list", "tools/list")["result"]["tools"]}

    assert {"corral__run", "corral__list"} <= tools()
    monkeypatch.setenv("CORRAL_TOKEN", reader)
    assert "corral__list" in tools()
    assert "corral__run" not in tools()
    monkeypatch.setenv("CORRAL_TOKEN", "wrong")
    with serving(daemon.socket) as editor:
        assert editor.process.wait(BOUND_S) == 4
    daemon.call("token.rm", name="editor")


def test_a_stream_over_http_ends_with_its_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = CONFIG.replace("[daemon]", '[daemon]\nhttp = "127.0.0.1:0"')
    with DaemonProcess(tmp_path_factory.mktemp("stream"), config) as daemon:
        host, _, port = daemon.call("daemon.status")["daemon"]["http"].rpartition(":")
        token = daemon.call("token.add", name="dashboard", rights="read")["token"]
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        with closing(http.client.HTTPConnection(host, int(port), timeout=BOUND_S)) as connection:
            connection.request("GET", "/api/v1/events", headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200
            daemon.call("event.publish", type="custom.first", data="seen")
            seen = b""
            while b"custom.first" not in seen:
                seen += answer.readline()
            daemon.call("token.rm", name="dashboard")
            daemon.call("event.publish", type="custom.second", data="hidden")
            rest = answer.read()
            assert b"event: error" in rest
            assert b'"reason":"token"' in rest
            assert b"hidden" not in rest
