"""A worker that tries to get round its supervisor, and prints what came of each attempt as one line of JSON.

Arguments: the control socket, the state folder, the configuration, and the pid of another worker. Standard library
alone, so that any interpreter runs it as any user.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
SOCKET, STATE, CONFIG, NEIGHBOUR = sys.argv[1:5]
LAUNCHER = os.getppid()
with open(f"/proc/{LAUNCHER}/stat", "rb") as stat:
    DAEMON = int(stat.read().rpartition(b")")[2].split()[1])


def connected() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(SOCKET)
    return sock


def asked(sock: socket.socket, method: str = "daemon.status") -> str:
    """What the daemon answers: "served", or the code of the error."""
    sock.settimeout(20)
    sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\n")
    line = sock.makefile().readline()
    if not line:
        return "hung up"
    answer = json.loads(line)
    return str(answer["error"]["code"]) if "error" in answer else "served"


def calls() -> str:
    """It simply connects."""
    with connected() as sock:
        return asked(sock)


def calls_for(method: str) -> Callable[[], str]:
    """It asks for something else."""

    def attempt() -> str:
        with connected() as sock:
            return asked(sock, method)

    return attempt


def calls_as_orphan() -> str:
    """A child that has left the session and lost its parent connects."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        middle = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == middle:
            time.sleep(0.001)
        _tell(writing, calls)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        return told.read()


def calls_on_a_passed_connection(*, dead: bool) -> Callable[[], str]:
    """A child connects and hands the connection over; where it is `dead`, it is gone when the daemon hears of it."""

    def attempt() -> str:
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            sock = connected()
            socket.send_fds(theirs, [b"x"], [sock.fileno()])
            if not dead:
                theirs.recv(1)
            os._exit(0)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if dead:
            os.waitpid(child, 0)
        with socket.socket(fileno=fds[0]) as sock:
            answer = asked(sock)
        if not dead:
            ours.send(b"x")
            os.waitpid(child, 0)
        ours.close()
        theirs.close()
        return answer

    return attempt


def signals(pid: int) -> Callable[[], str]:
    """It kills somebody who is not below it. (SIGWINCH does what SIGKILL may do, and harms nobody if it may.)"""

    def attempt() -> str:
        os.kill(pid, signal.SIGWINCH)
        return "signalled"

    return attempt


def debugs(pid: int) -> Callable[[], str]:
    """It looks into somebody's memory."""

    def attempt() -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(PTRACE_ATTACH, pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        libc.ptrace(PTRACE_DETACH, pid, None, None)
        return "attached"

    return attempt


def reads(path: str) -> Callable[[], str]:
    """It reads a file, or the list of a folder."""

    def attempt() -> str:
        if os.path.isdir(path):
            return f"read {len(os.listdir(path))}"
        with open(path, "rb") as file:
            return f"read {len(file.read(10))}"

    return attempt


def _tell(fd: int, attempt: Callable[[], str]) -> None:
    with contextlib.suppress(BaseException):
        os.write(fd, outcome(attempt).encode())
    os._exit(0)


def outcome(attempt: Callable[[], str]) -> str:
    """What came of it: what it got, or the name of the errno."""
    try:
        return attempt()
    except OSError as error:
        return type(error).__name__


ATTEMPTS: dict[str, Callable[[], str]] = {
    "call": calls,
    "reload": calls_for("daemon.reload"),
    "call as orphan": calls_as_orphan,
    "call on a passed connection": calls_on_a_passed_connection(dead=False),
    "call on a dead one's connection": calls_on_a_passed_connection(dead=True),
    "signal launcher": signals(LAUNCHER),
    "signal daemon": signals(DAEMON),
    "signal neighbour": signals(int(NEIGHBOUR)),
    "debug daemon": debugs(DAEMON),
    "debug neighbour": debugs(int(NEIGHBOUR)),
    "read store": reads(f"{STATE}/corral.db"),
    "read logs": reads(f"{STATE}/logs"),
    "read configuration": reads(CONFIG),
    "read daemon's environment": reads(f"/proc/{DAEMON}/environ"),
    "read daemon's files": reads(f"/proc/{DAEMON}/fd"),
}

print(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}), flush=True)
time.sleep(1000)
