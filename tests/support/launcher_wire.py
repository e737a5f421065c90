"""The daemon's end of a launcher, blocking: for tests that speak to a real one as the daemon does."""

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

import pytest

from corral.supervisor.machine.launcher import program as launcher
from corral.supervisor.machine.launcher import protocol
from corral.supervisor.machine.linux import kernel
from corral.supervisor.workers.process import containment

BOUND_S = 60.0
AGENTS = Path(__file__).parent / "programs"
PYTHON = [sys.executable, "-I", "-S"]
PATH = os.defpath
STATE = 4711
"""In the brand of every process."""


class Wire:
    """The daemon's end, blocking: one launcher process and what it says."""

    def __init__(
        self, subtree: containment.Subtree | None = None, program: str = launcher.__file__, *, plans: bool = True
    ) -> None:
        self.subtree = subtree
        options: dict[str, object] = {"state": STATE, "plans": plans}
        if subtree is not None:
            options |= {"group": str(subtree.path), "group_name": subtree.name}
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*PYTHON, program, str(theirs.fileno()), json.dumps(options)],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={},
            )
        self.sock.settimeout(BOUND_S)
        self.said: list[dict[str, Any]] = []
        self.seq = 0

    def send(self, fds: Sequence[int] = (), **message: object) -> int:
        self.seq += 1
        data, memfd = protocol.encode({**message, "seq": self.seq})
        socket.send_fds(self.sock, [data], [*fds, *([] if memfd is None else [memfd])])
        if memfd is not None:
            os.close(memfd)
        return self.seq

    def spawn(self, unit: str, argv: Sequence[str], **options: Any) -> tuple[int, int]:
        """Send a spawn; the sequence number, and the reading end of the child's stdout."""
        reading, writing = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        request = birth({"PATH": PATH}, Path("/")) | options
        seq = self.send([null, writing, null], op="spawn", unit=unit, argv=list(argv), **request)
        os.close(writing)
        os.close(null)
        return seq, reading

    def start(self, unit: str, argv: Sequence[str], **options: Any) -> tuple[int, str]:
        """Spawn; the pid, and the first line that it prints."""
        seq, reading = self.spawn(unit, argv, **options)
        pid = self.hear("spawned", seq=seq)["pid"]
        with os.fdopen(reading) as stdout:
            return pid, first_line(stdout.fileno())

    def tree(self, unit: str, token: str, escapees: int, siblings: int, *more: str) -> list[int]:
        program = [*PYTHON, str(AGENTS / "launcher_tree.py"), token]
        line = self.start(unit, [*program, str(escapees), str(siblings), *more])[1]
        return [int(pid) for pid in json.loads(line)]

    def hear(self, op: str = "", **facts: object) -> dict[str, Any]:
        """The first message, said already or to come, of this kind and with these facts."""
        wanted = {"op": op, **facts} if op else facts
        while True:
            for message in self.said:
                if wanted.items() <= message.items():
                    self.said.remove(message)
                    return message
            message, fds = protocol.receive(self._wait())
            for fd in fds:
                os.close(fd)
            self.said.append(message)

    def _wait(self) -> socket.socket:
        assert select.select([self.sock], [], [], BOUND_S)[0], f"silence; said: {self.said}"
        return self.sock

    def listed(self) -> dict[str, Any]:
        return self.hear("listed", seq=self.send(op="list"))

    def close(self) -> None:
        self.sock.close()
        self.process.wait(BOUND_S)


def birth(env: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """What a spawn says beside its unit and its program."""
    return {
        "env": dict(env),
        "cwd": str(folder),
        "umask": 0o077,
        "nice": 0,
        "user": None,
        "group": None,
        "no_new_privs": True,
        "limits": {},
        "memory_bytes": 0,
        "cpu_percent": 0,
        "processes": 0,
    }


def first_line(fd: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([fd], [], [], BOUND_S)[0], f"no line, only {line!r}"
        part = os.read(fd, 65536)
        assert part, f"the end of the file, after {line!r}"
        line += part
    return line.decode()


@contextlib.contextmanager
def debugged(pid: int) -> Generator[None]:
    """A debugger is attached to the process, and does not notice when it dies."""
    debugger = [sys.executable, str(AGENTS / "debugger.py"), str(pid)]
    with subprocess.Popen(debugger, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if (number := int(first_line(process.stdout.fileno()))) != 0:
                pytest.skip(f"nobody is debugged here: {os.strerror(number)}")
            yield
        finally:
            process.kill()


def with_token(token: str) -> list[int]:
    """The living processes that have the token in their command line."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit() and token.encode() in kernel.read_proc(f"/proc/{name}/cmdline"):
            found.append(int(name))
    return found
