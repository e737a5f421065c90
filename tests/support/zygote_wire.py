"""The daemon's end of a zygote, blocking: for tests that speak to a real one, and to its workers, as the daemon does."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher_wire import AGENTS, BOUND_S, Wire, birth


class Worker:
    """One worker process at the other ends of three pipes, however it was started."""

    def __init__(self, unit: str, stdin_fd: int, stdout_fd: int, stderr_fd: int) -> None:
        self.unit = unit
        self.pid = 0
        self.stderr_fd = stderr_fd
        self._stdin_fd = stdin_fd
        self._stdout_fd = stdout_fd
        self._left = b""
        self._id = 0

    def initialize(self, worker: str = "tested-0", incarnation: int | str = 1) -> None:
        self.ask(
            "initialize",
            protocolVersion="1",
            agent="tested",
            worker=worker,
            incarnation=incarnation,
            heartbeat_interval_s=60,
            limits={},
            config={},
        )

    def run(self, objective: str = "", **given: Any) -> Any:  # Any: JSON
        """The output of a task."""
        boundaries: dict[str, object] = {}
        self._id += 1
        task = {"task": f"t{self._id}", "attempt": 1, "objective": objective, "input": given}
        return self.ask("task/run", **task, context={}, boundaries=boundaries)["output"]

    def ask(self, method: str, **params: object) -> Any:  # Any: JSON
        self._id += 1
        request = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        os.write(self._stdin_fd, json.dumps(request).encode() + b"\n")
        while True:
            line = self._line()
            message: Any = json.loads(line) if line.strip() else {}  # Any: JSON
            if message.get("id") == self._id and "method" not in message:
                assert "result" in message, message
                return message["result"]

    def stop(self) -> None:
        """It is told to leave, and does in order."""
        notification = {"jsonrpc": "2.0", "method": "shutdown", "params": {"grace_s": BOUND_S}}
        os.write(self._stdin_fd, json.dumps(notification).encode() + b"\n")

    def hang_up(self) -> None:
        """Its stdin ends, at which it leaves at once."""
        os.close(self._stdin_fd)
        self._stdin_fd = -1

    def said(self) -> str:
        """All that it writes to stderr, until nobody has that open any more."""
        parts: list[bytes] = []
        while True:
            assert select.select([self.stderr_fd], [], [], BOUND_S)[0], b"".join(parts)
            part = os.read(self.stderr_fd, 65536)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)

    def _line(self) -> bytes:
        while b"\n" not in self._left:
            assert select.select([self._stdout_fd], [], [], BOUND_S)[0], f"only {self._left!r}"
            part = os.read(self._stdout_fd, 65536)
            assert part, f"the end of its stdout, after {self._left!r}"
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        return line

    def close(self) -> None:
        for fd in (self._stdin_fd, self._stdout_fd, self.stderr_fd):
            if fd >= 0:
                os.close(fd)


class ZygoteWire(Wire):
    """The daemon's end of one zygote; `said` by it are messages, `stderr_fd` is what it writes to the log."""

    def __init__(
        self,
        entrypoint: str,
        preload: Sequence[str] = (),
        *,
        folder: Path = AGENTS,
        launcher: Wire | None = None,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.said, self.seq, self.workers = [], 0, list[Worker]()
        self.folder = folder
        self.env = {"PATH": os.defpath} if env is None else dict(env)
        order = {"entrypoint": entrypoint, "preload": list(preload)}
        argv = [python, "-P", "-m", "corral.worker.zygote.program", json.dumps(order)]
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(BOUND_S)
        self.stderr_fd, writing = os.pipe()
        self.launcher = launcher
        self.unit, self.pid = "tested.zygote-0#1", 0
        try:
            if launcher is None:
                self.process = subprocess.Popen(
                    argv,
                    stdin=theirs.fileno(),
                    stdout=writing,
                    stderr=writing,
                    cwd=folder,
                    env=self.env,
                    start_new_session=True,
                )
                self.pid = self.process.pid
            else:
                fds = [theirs.fileno(), writing, writing]
                request = birth(self.env, folder) | options
                seq = launcher.send(fds, op="spawn", unit=self.unit, argv=argv, **request)
                answer = launcher.hear(seq=seq)
                assert answer["op"] == "spawned", answer
                self.pid = answer["pid"]
        except BaseException:
            self.sock.close()
            os.close(self.stderr_fd)
            raise
        finally:
            theirs.close()
            os.close(writing)

    def loaded(self) -> dict[str, Any]:
        return self.hear("loaded")

    def fork(self, unit: str = "tested-0#1", *, more_fds: Sequence[int] = (), **options: Any) -> Worker:
        """A new worker; its start has been confirmed."""
        worker, seq = self.ask_fork(unit, more_fds=more_fds, **options)
        worker.pid = self.hear("spawned", seq=seq)["pid"]
        return worker

    def ask_fork(self, unit: str, *, more_fds: Sequence[int] = (), **options: Any) -> tuple[Worker, int]:
        """A worker that may come to be; and the number of the request."""
        request = birth(self.env, self.folder) | options
        with piped(unit) as (worker, theirs):
            seq = self.send([*theirs, *more_fds], op="spawn", unit=unit, argv=[], **request)
        self.workers.append(worker)
        return worker, seq

    def log(self) -> str:
        """All that the zygote writes, until it ends."""
        return Worker("", -1, -1, self.stderr_fd).said()

    def close(self) -> None:
        self.sock.close()
        for worker in self.workers:
            worker.close()
        if self.launcher is None:
            self.process.wait(BOUND_S)
        os.close(self.stderr_fd)


@contextlib.contextmanager
def piped(unit: str) -> Generator[tuple[Worker, list[int]]]:
    """Our end of a worker, and the descriptors that it is started with."""
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    theirs = [stdin[0], stdout[1], stderr[1]]
    yield Worker(unit, stdin[1], stdout[0], stderr[0]), theirs
    for fd in theirs:
        os.close(fd)
