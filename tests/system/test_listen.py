"""Services whose sockets the daemon holds: restarts, crashes, changes and stops under clients."""

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess
from free_ports import free_port

pytestmark = pytest.mark.shell

SERVER = AGENTS / "socket_server.py"


def agent(name: str, listen: object, mode: str = "", more: str = "") -> str:
    command = [sys.executable, str(SERVER), *([mode] if mode else [])]
    return f"""
[agents.{name}]
command = {json.dumps(command)}
protocol = "none"
ready = {{ log = "serving" }}
listen = {json.dumps(listen)}
{more}
"""


def ask(address: str, seconds: float = 0.0, bound_s: float = BOUND_S) -> list[str]:
    """Sends one request on a connection of its own; the pid of the worker, the socket's name, and LIFE."""
    with connected(address, bound_s) as client:
        return asked(client, seconds)


def connected(address: str, bound_s: float = BOUND_S) -> socket.socket:
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(bound_s)
        try:
            client.connect(address.removeprefix("unix:"))
        except OSError:
            client.close()
            raise
        return client
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=bound_s)


def asked(client: socket.socket, seconds: float) -> list[str]:
    client.sendall(f"{seconds}\n".encode())
    found = b""
    while not found.endswith(b"\n"):
        part = client.recv(4096)
        if not part:
            raise ConnectionResetError("it was closed without an answer")
        found += part
    return found.decode().rstrip("\n").split(" ")


def is_refused(address: str) -> bool:
    try:
        connected(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def is_renewed(former: int, worker: Any) -> bool:
    return bool(worker["pid"] != former and worker["state"] == "Ready")


class Clients:
    """Clients that ask on and on, each request on a connection of its own, half of them on one that is kept."""

    def __init__(self, address: str, count: int) -> None:
        self.address = address
        self.lock = threading.Lock()
        self.answers = 0
        self.workers: set[int] = set()
        self.failures: Counter[str] = Counter()
        self.under_way: dict[int, float] = {}
        self.ended = threading.Event()
        self.progress = threading.Condition(self.lock)
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    def _run(self, number: int) -> None:
        client: socket.socket | None = None
        while not self.ended.is_set():
            is_fresh = client is None
            try:
                client = client or connected(self.address)
                answer = asked(client, 0.005 * (number % 4))
            except OSError as error:
                if client is not None:
                    client.close()
                client = None
                if not is_fresh and isinstance(error, ConnectionError):
                    continue  # a kept one that was idle may be closed: clients of HTTP ask again
                with self.lock:
                    self.failures[f"{type(error).__name__}: {error}"] += 1
                continue
            with self.progress:
                self.answers += 1
                self.workers.add(int(answer[0]))
                self.progress.notify_all()
            if number % 2:
                client.close()
                client = None
        if client is not None:
            client.close()

    def __enter__(self) -> "Clients":
        for each in self.threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for each in self.threads:
            each.join(BOUND_S)

    def until_answered(self, more: int) -> None:
        """Waits for so many more answers."""
        with self.progress:
            wanted = self.answers + more
            assert self.progress.wait_for(lambda: self.answers >= wanted, BOUND_S)


@pytest.mark.long
@pytest.mark.parametrize("instances", [1, 2])
def test_no_connection_is_lost_over_twenty_restarts(tmp_path: Path, instances: int) -> None:
    address = f"127.0.0.1:{free_port()}"
    config = agent("web", address, more=f"instances = {instances}")
    with DaemonProcess(tmp_path, config) as daemon:
        ask(address)
        with Clients(address, 8) as clients:
            for _ in range(20):
                clients.until_answered(20)
                daemon.call("agent.restart", names=["web"])
            clients.until_answered(20)
    assert not clients.failures
    assert len(clients.workers) >= 20


def test_a_killed_worker_cuts_the_requests_that_it_had_accepted_and_no_others(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    recovery = "[agents.web.recovery]\nrestart_backoff_base = 0\nmax_restart_attempts = 100\n"
    with DaemonProcess(tmp_path, agent("web", address, more=recovery)) as daemon:
        for _ in range(5):
            pid = int(ask(address)[0])
            in_flight = [connected(address) for _ in range(3)]
            for client in in_flight:
                client.sendall(b"0\n")
                assert client.recv(100).split()[0] == str(pid).encode()
                client.sendall(b"1000\n")  # it is in the hands of that process
            os.kill(pid, signal.SIGSTOP)  # whatever comes now waits in the backlog
            waiting = [connected(address) for _ in range(20)]
            for client in waiting:
                client.sendall(b"0\n")
            os.kill(pid, signal.SIGKILL)
            cut = 0
            for client in in_flight:
                with client, contextlib.suppress(ConnectionResetError):
                    assert client.recv(100) == b""
                cut += 1
            assert cut == 3
            answers = {client.recv(100).split()[0] for client in waiting}
            assert len(answers) == 1
            assert answers != {str(pid).encode()}
            for client in waiting:
                client.close()
        assert daemon.worker("web-0")["restarts"] == 5


def test_a_worker_that_is_replaced_finishes_what_it_has_begun(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = "[agents.web.process]\nshutdown_grace_period = 0.2\n"
    with DaemonProcess(tmp_path, agent("web", address, more=process)) as daemon:
        with connected(address) as client:
            pid = int(asked(client, 0.0)[0])
            client.sendall(b"2\n")
            with daemon.client() as waiting:
                waiting.call("agent.restart", {"names": ["web"]}, timeout_s=BOUND_S)
            assert client.recv(100).split()[0] == str(pid).encode(), "ten grace periods later"
        assert int(ask(address)[0]) != pid


def test_the_wait_for_requests_has_an_end(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = "[agents.web.process]\nshutdown_grace_period = 0.2\ndrain_timeout = 0.5\n"
    with DaemonProcess(tmp_path, agent("web", address, more=process)) as daemon:
        with connected(address) as client:
            asked(client, 0.0)
            client.sendall(b"1000\n")
            daemon.call("agent.restart", names=["web"])
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        last = daemon.worker("web-0")["last_exit"]
        assert (last["result"], last["forced"]) == ("stopped", True)
        ask(address)


def test_a_stop_refuses_connections_and_a_start_takes_them_again(tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}", f"unix:{tmp_path}/w.sock"]
    with DaemonProcess(tmp_path, agent("web", addresses)) as daemon:
        assert [ask(each)[1] for each in addresses] == ["web"] * 3
        daemon.call("agent.stop", names=["web"])
        assert all(map(is_refused, addresses))
        (status,) = daemon.call("daemon.status", names=["web"])["agents"]
        assert [each["state"] for each in status["listen"]] == ["closed"] * 3
        daemon.call("agent.start", names=["web"])
        for each in addresses:
            ask(each)
        assert daemon.stop() == 0
    assert all(map(is_refused, addresses))


def test_the_first_connection_starts_an_agent_that_does_not_start_by_itself(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with DaemonProcess(tmp_path, agent("lazy", address, "brief", "autostart = false")) as daemon:
        (status,) = daemon.call("daemon.status", names=["lazy"])["agents"]
        assert status["listen"][0]["state"] == "on-demand"
        assert status["workers"][0]["pid"] is None
        assert "connection" in daemon.corral("status", "lazy").stdout
        assert f"on-demand at {address}" in daemon.corral("show", "lazy").stdout
        first = ask(address)[0]
        daemon.await_worker("lazy-0", lambda worker: worker["state"] == "Terminated")
        assert ask(address)[0] != first, "it has ended by itself, and is started by the next one"
        events = daemon.call("event.list", types=["agent.activated"])["events"]
        assert len(events) == 2


def test_one_that_gave_up_refuses_connections_in_place_of_letting_them_wait(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    config = agent("web", address, more="autostart = false").replace(str(SERVER), str(tmp_path / "missing.py"))
    config += "[agents.web.recovery]\nmax_restart_attempts = 0\n"
    with DaemonProcess(tmp_path, config) as daemon:
        with connected(address) as client:
            daemon.await_worker("web-0", lambda worker: worker["state"] == "Terminated")
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        assert is_refused(address)


def test_an_address_in_use_keeps_that_agent_down_and_no_other(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        free = f"127.0.0.1:{free_port()}"
        with DaemonProcess(tmp_path, agent("web", taken) + agent("other", free)) as daemon:
            worker = daemon.await_worker("web-0", lambda each: each["state"] == "Terminated")
            assert worker["last_exit"]["result"] == "exec-failed"
            assert taken in worker["last_exit"]["message"]
            assert f"pid {os.getpid()}" in worker["last_exit"]["message"]
            ask(free)
            status = daemon.call("daemon.status")
            assert f"pid {os.getpid()}" in worker["last_exit"]["message"]
            assert {each["name"]: each["state"] for each in status["agents"]}["other"] == "Ready"
            other.close()
            daemon.call("agent.start", names=["web"])
            ask(taken)


def test_a_changed_address_is_another_socket_and_an_unchanged_one_the_same(tmp_path: Path) -> None:
    stays, goes, comes = (f"127.0.0.1:{free_port()}" for _ in range(3))
    with DaemonProcess(tmp_path, agent("web", [stays, goes])) as daemon:
        ask(goes)
        with Clients(stays, 4) as clients:
            for listen in ([stays, comes], [stays, goes], [stays, comes]):
                clients.until_answered(10)
                daemon.config.write_text(agent("web", listen))
                pid = daemon.worker("web-0")["pid"]
                daemon.call("daemon.reload")
                daemon.await_worker("web-0", functools.partial(is_renewed, pid))
            clients.until_answered(10)
        assert not clients.failures
        ask(comes)
        deadline = time.monotonic() + BOUND_S
        while not is_refused(goes):
            assert time.monotonic() < deadline


@pytest.mark.long
def test_a_rolling_change_loses_no_connection_and_cuts_no_request(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    def version(life: int) -> str:
        process = '[agents.web.process]\nshutdown_grace_period = "200ms"\n'
        return agent("web", address, more=f'environment = {{ LIFE = "{life}" }}\n{process}')

    with DaemonProcess(tmp_path, version(0)) as daemon, Clients(address, 8) as clients:
        for life in range(1, 6):
            clients.until_answered(20)
            with connected(address) as client:
                former = asked(client, 0.0)
                client.sendall(b"1.5\n")  # several grace periods
                daemon.config.write_text(version(life))
                daemon.call("daemon.reload")
                assert client.recv(100).split()[0] == former[0].encode()
            pid = int(former[0])
            daemon.await_worker("web-0", functools.partial(is_renewed, pid))
            deadline = time.monotonic() + BOUND_S
            while ask(address)[2] != str(life):  # the former one may accept beside it
                assert time.monotonic() < deadline
        clients.until_answered(20)
    assert not clients.failures


def test_an_agent_with_an_entrypoint_is_handed_its_sockets_too(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "both.py").write_text(
        "import os, socket, threading\n"
        "from corral.worker import Agent, Task\n"
        "agent = Agent('both')\n"
        "def serve(listening):\n"
        "    while True:\n"
        "        client, _ = listening.accept()\n"
        "        client.sendall(b'%d\\n' % (int(os.environ['LISTEN_PID']) - os.getpid()))\n"
        "        client.close()\n"
        "threading.Thread(target=serve, args=(socket.socket(fileno=3),), daemon=True).start()\n"
        "@agent.task\n"
        "def run(task: Task) -> str:\n"
        "    return 'done'\n"
    )
    config = f'[agents.both]\nentrypoint = "both:agent"\nlisten = "{address}"\n'
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("both-0", lambda each: each["state"] == "Ready")
        with connected(address) as client:
            assert client.recv(100) == b"0\n"
        assert daemon.call("task.run", agent="both", objective="x")["output"] == "done"
