"""A real corrald in a temporary folder, for the tests of the whole."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import forked
from corral.worker.client.sync import Client
from forked import Forked, interpreter, is_usual

BOUND_S = 60.0
"""Every wait of a system test ends after this long, by failing."""

BIN = Path(sys.executable).parent

AGENTS = Path(__file__).parent / "programs"


LOOK_S = 0.02

Value = TypeVar("Value")

NO_RIGHTS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
"""Begin of a command that root's processes run without capabilities: as those of an ordinary user, to others."""


class DaemonProcess:
    """A daemon that was started; a `with` stops it, and checks that nothing of it is left."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._prefix = prefix
        self.config = folder / "corral.toml"
        self.socket = folder / "corral.sock"
        self.state_dir = folder / "state"
        self.config.write_text(config)
        tomllib.loads(config)
        self.log = folder / "daemon.log"
        self._arguments = arguments
        self.environ = dict(environ or {})
        """More of its environment, from its next start on."""
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.start()

    def start(self) -> None:
        """Starts it and waits until it says that it is ready (sd_notify)."""
        address = self.folder / "notify.sock"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            notified.settimeout(BOUND_S)
            environ = {
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "NOTIFY_SOCKET": str(address),
                **self.environ,
            }
            command = [
                *self._prefix,
                str(BIN / "corrald"),
                f"--config={self.config}",
                f"--socket={self.socket}",
                f"--state-dir={self.state_dir}",
                *self._arguments,
            ]
            with self.log.open("ab") as log, open(os.devnull, "rb") as nothing:
                if self._prefix or not is_usual(environ):
                    self.process = subprocess.Popen(command, env=environ, stdin=nothing, stdout=log, stderr=log)
                else:
                    corrald = interpreter("corral.supervisor.__main__")
                    self.process = corrald.start(command, environ, nothing, log, log)
            said = notified.recv(256)
            while said.startswith(b"EXTEND_TIMEOUT_USEC="):  # the machine is busy
                said = notified.recv(256)
        assert said == b"READY=1", (said, self.log.read_text())
        address.unlink()

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        assert self.process is not None, "it was started"
        return self.process.pid

    def client(self) -> Client:
        """A new connection."""
        return Client(str(self.socket))

    def call(self, method: str, **params: object) -> Any:  # the result, whose shape the test knows
        """The result of one call on a connection of its own."""
        with self.client() as client:
            return client.call(method, params, timeout_s=BOUND_S)

    def worker(self, worker_id: str) -> Any:  # a worker's status
        """The status of one worker."""
        name = worker_id.rpartition("-")[0]
        status = self.call("daemon.status", names=[name])
        entries = [*status["agents"], *status["mcp_servers"]]
        return next(w for entry in entries for w in entry["workers"] if w["id"] == worker_id)

    def await_worker(self, worker_id: str, is_so: Callable[[Any], bool]) -> Any:
        """A worker's status as soon as it is so; looked at again after each change of a state."""
        with self.client() as client:
            client.call("event.follow", {"types": ["worker.state"]}, timeout_s=BOUND_S)
            status = self.worker(worker_id)
            changes = client.notifications()
            while not is_so(status):
                next(changes)
                status = self.worker(worker_id)
            return status

    def corral(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs the command against this daemon."""
        return run_corral(Path.cwd(), "--socket", str(self.socket), *arguments, stdin=stdin)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None, "it was started"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(BOUND_S)

    def kill(self) -> None:
        """SIGKILL, which no daemon survives."""
        assert self.process is not None, "it was started"
        self.process.kill()
        self.process.wait(BOUND_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(BOUND_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise


def run_corral(folder: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, without a terminal."""
    command = [str(BIN / "corral"), *words]
    if is_usual(os.environ):
        return forked.run_corral(command, os.environ, str(folder), stdin, BOUND_S)
    return subprocess.run(
        command,
        cwd=folder,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def until(look: Callable[[], Value], is_so: Callable[[Value], object] = bool) -> Value:
    """What is looked at, once it is so: for what no event tells. Between two looks the processor is left to others."""
    end = time.monotonic() + BOUND_S
    while not is_so(found := look()):
        assert time.monotonic() < end, found
        time.sleep(LOOK_S)
    return found


PASSING = re.compile(r'"(?:uptime_s|next_start_in_s)": [0-9.e-]+')
"""What is another figure in a status at each look."""

LOOKS = 1000


def check_status(daemon: DaemonProcess) -> None:
    """What `daemon.status` keeps of all is what is looked up by name, in a moment in which nothing changes."""

    def anew() -> str:
        return PASSING.sub("-", json.dumps(daemon.call("daemon.status", names=names)))

    for _ in range(LOOKS):
        status = daemon.call("daemon.status")
        names = [entry["name"] for entry in status["agents"] + status["mcp_servers"]]
        before = anew()
        kept = PASSING.sub("-", json.dumps(daemon.call("daemon.status")))
        if before == anew():
            assert kept == before
            return
    raise AssertionError("it never stood still")


def children(pid: int) -> set[int]:
    """The pids of a process's children; none when it is gone."""
    try:
        return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def marked(folder: Path) -> list[int]:
    """The pids of all processes that a daemon with its files in `folder` keeps: their cwd is there."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
