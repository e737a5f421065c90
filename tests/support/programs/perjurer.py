"""An agent whose module takes over its zygote: what it does there, the variable PERJURY says. Otherwise it is honest."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from corral.supervisor.machine.launcher.protocol import Channel
from corral.worker import Agent, Task

HERE = os.environ.get("PERJURY", "")
FLOOD = 100_000
ENDED = b'{"op":"exited","unit":"perjurer-0#1","status":0,"rusage":{"utime_s":0,"stime_s":0,"maxrss_bytes":0}}'

agent = Agent("perjurer")


@agent.task
async def run(task: Task) -> object:
    """Says who it is, leaves an escapee behind, or sleeps."""
    if task.objective == "escape":
        escapee = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        return escapee.pid
    if task.objective == "sleep":
        await asyncio.sleep(1000)
    return {"pid": os.getpid(), "parent": os.getppid(), "unit": os.environ["CORRAL_WORKER"]}


def _channel() -> socket.socket:
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if sock.type == socket.SOCK_SEQPACKET:
            return sock
        sock.close()
    raise AssertionError("it is a zygote's module")


def _send(*packets: bytes) -> None:
    sock = _channel()
    sock.setblocking(True)
    for packet in packets:
        sock.send(packet)


def _send_descriptors() -> None:
    message = b'{"op":"moved","pid":1}'
    try:
        socket.send_fds(_channel(), [message], [0, 0, 0])
    except PermissionError:  # the daemon does not take any: Linux 6.16
        _send(message)


def _lie(kind: str, **changed: Any) -> None:
    """From now on its messages of one kind say something else."""
    honest = Channel.send

    def send(self: Channel, **message: object) -> None:
        honest(self, **(message | changed if message["op"] == kind else message))

    Channel.send = send  # type: ignore[method-assign]  # it is what this is for


def _later(act: Any) -> None:
    """Once it has told of a worker, and is asked for a sign of life."""
    honest = Channel.send
    told: set[object] = set()

    def send(self: Channel, **message: object) -> None:
        honest(self, **message)
        told.add(message["op"])
        if message["op"] == "pong" and "spawned" in told:
            act()

    Channel.send = send  # type: ignore[method-assign]  # as above


def _hang() -> None:
    while True:
        time.sleep(1000)


def _close() -> None:
    sock = _channel()
    sock.shutdown(socket.SHUT_RDWR)
    _hang()


def _escape() -> None:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)


PERJURIES: dict[str, Any] = {
    "": lambda: None,
    "garbage": lambda: _send(b'{"op":"spawned"'),
    "number": lambda: _send(b"[1]"),
    "huge": lambda: _send(b'{"op":"changed","paths":["' + b"x" * 100_000 + b'"]}'),
    "unknown": lambda: _send(b'{"op":"emptied","unit":"nobody-0#1"}'),
    "pong": lambda: _send(b'{"op":"pong","seq":1000000}'),
    "descriptors": _send_descriptors,
    "descriptor": lambda: socket.send_fds(_channel(), [b"{}"], [0]),
    "stillborn": lambda: os.register_at_fork(after_in_child=_hang),
    "checked": lambda: _later(lambda: _send(*[b'{"op":"checked","seq":1,"changed":[]}'] * FLOOD)),
    "flood": lambda: _later(lambda: _send(*[b'{"op":"changed","paths":[]}'] * FLOOD)),
    "hang-later": lambda: _later(_hang),
    "close": lambda: _later(_close),
    "die": lambda: _later(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "hang": _hang,
    "exit": lambda: sys.exit("enough"),
    "escape": _escape,
    "pid": lambda: _lie("spawned", pid=1),
    "alive": lambda: _later(lambda: _send(ENDED)),
    "status": lambda: _lie("exited", status=0x137F),
    "twice": lambda: _lie("exited", op="spawned", starttime=1),
    "empty": lambda: _lie("exited", op="emptied"),
    "deaf": lambda: _lie("emptied", op="roots", pids=[]),
}
PERJURIES[HERE]()
