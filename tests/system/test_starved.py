"""A daemon that lacks something it lives on: its store stands still, or every descriptor is taken."""

import os
import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Overloaded, SpawnFailed, Timeout
from daemon_process import BIN, BOUND_S, marked

pytestmark = pytest.mark.long

PLAIN = """
[agents.plain]
command = ["sleep", "1000"]
protocol = "none"
resources.max_file_descriptors = 32
"""


@contextmanager
def corrald(
    folder: Path, manager: socket.socket, *, descriptors: int | None = None
) -> Generator["subprocess.Popen[bytes]", None, None]:
    """A ready daemon with a watchdog, and with a hard limit of descriptors."""
    manager.bind(str(folder / "notify.sock"))
    manager.settimeout(BOUND_S)
    (folder / "corral.toml").write_text(PLAIN)
    limited = f"ulimit -n {descriptors}; " if descriptors else ""
    with (
        (folder / "daemon.log").open("wb") as log,
        subprocess.Popen(
            ["sh", "-c", f'{limited}exec "$@"', "sh", str(BIN / "corrald"), f"--config={folder}/corral.toml",
             f"--socket={folder}/corral.sock", f"--state-dir={folder}/state"],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": "3000000"},
            cwd=folder,
            stdout=log,
            stderr=log,
        ) as process,
    ):  # fmt: skip
        try:
            while manager.recv(256) != b"READY=1":
                pass
            yield process
        finally:
            process.terminate()
            try:
                assert process.wait(BOUND_S) == 0
            finally:
                process.kill()
    assert marked(folder) == []


def beats(manager: socket.socket, count: int) -> None:
    """The watchdog is fed so many times from now on."""
    manager.setblocking(False)
    try:
        while True:
            manager.recv(256)
    except BlockingIOError:
        manager.settimeout(BOUND_S)
    assert [manager.recv(256) for _ in range(count)] == [b"WATCHDOG=1"] * count


def test_a_store_that_stands_still_degrades_the_daemon_and_neither_the_watchdog_nor_workers_notice(
    tmp_path: Path,
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        corrald(tmp_path, manager),
        Client(str(tmp_path / "corral.sock")) as client,
    ):
        client.call("agent.start", {"names": ["plain"]}, timeout_s=BOUND_S)
        before = worker(client)
        with closing(sqlite3.connect(tmp_path / "state/corral.db", isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            with pytest.raises(Timeout):
                client.call("agent.scale", {"name": "plain", "instances": 2}, timeout_s=0.1)
            beats(manager, 6)  # it has waited for the store, and given up, in that time
            assert worker(client) == before
            held.execute("ROLLBACK")
        assert worker(client) == before


def worker(client: Client) -> object:
    """Who the first worker is."""
    status: Any = client.call("daemon.status", {"names": ["plain"]}, timeout_s=BOUND_S)
    found = status["agents"][0]["workers"][0]
    return found["pid"], found["incarnation"]


def test_a_daemon_without_descriptors_is_steered_and_feeds_its_watchdog(tmp_path: Path) -> None:
    path = str(tmp_path / "corral.sock")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        corrald(tmp_path, manager, descriptors=64) as process,
        ExitStack() as idle,
    ):
        with Client(path) as client:
            client.call("agent.start", {"names": ["plain"]}, timeout_s=BOUND_S)
            before = worker(client)
        taken = exhausted(process.pid, path, idle)
        for _ in range(10):
            done = subprocess.run(
                [sys.executable, "-P", "-m", "corral.cli", "--socket", path, "--json", "status"],
                capture_output=True,
                timeout=BOUND_S,
                check=False,
            )
            assert done.returncode == 0, (taken, done.stderr)
        with Client(path) as client:
            assert worker(client) == before
            limits = {"max_file_descriptors": 32}
            spec = {"command": ["sleep", "1000"], "protocol": "none", "resources": limits}
            with pytest.raises((SpawnFailed, Overloaded)):
                client.call("agent.add", {"name": "more", "spec": spec, "directory": "/"}, timeout_s=BOUND_S)
            assert worker(client) == before
        beats(manager, 2)
        idle.close()
        with Client(path) as client:  # and it goes on as if nothing had been
            client.call("agent.stop", {"names": ["plain"]}, timeout_s=BOUND_S)
            client.call("agent.start", {"names": ["plain"]}, timeout_s=BOUND_S)


def exhausted(pid: int, path: str, idle: ExitStack) -> int:
    """Connects until the daemon has no descriptor left but its reserve; how many connections that took."""
    soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    count = 0
    while len(os.listdir(f"/proc/{pid}/fd")) < soft:
        sock = idle.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(path)
        sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}\n')
        sock.settimeout(BOUND_S)
        assert sock.recv(4096)  # it was accepted
        count += 1
    return count
