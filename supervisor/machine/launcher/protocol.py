"""Encodes the messages between the daemon and its launcher: JSON objects, each one packet of a SOCK_SEQPACKET pair.

Descriptors travel beside a packet, and a long message as a sealed memfd, its last descriptor.  Nothing here blocks.
Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
from collections import deque

from ..linux.kernel import read_fd

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
MESSAGE_BYTES = 65536
"""Bytes of a packet; a longer message travels as a sealed memfd."""
DESCRIPTORS = 16
"""Number of descriptors that may come with one message."""

FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
"""Flags of each reception, made once: an enum computes them in Python."""

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one each time


def encode(message: dict[str, object]) -> tuple[bytes, int | None]:
    """Encodes a message; returns the packet and, for a long one, the sealed memfd to send as its last descriptor."""
    message["v"] = VERSION
    data = _encode(message).encode("ascii")
    if len(data) <= MESSAGE_BYTES:
        return data, None
    fd = os.memfd_create("corral-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    known = {key: message[key] for key in ("v", "op", "seq", "unit") if key in message}
    return json.dumps({**known, "memfd": True}).encode("ascii"), fd


def receive(sock: socket.socket) -> tuple[Any, list[int]]:  # Any: JSON
    """Receives the next message and its descriptors, which the caller has to close.

    A long message whose memfd did not arrive (this process is out of descriptors) keeps its
    envelope: `memfd` is still true in it.
    """
    data, ancillary, _flags, _address = sock.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(4 * DESCRIPTORS), FLAGS)
    if not data:
        raise EOFError
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(payload) - len(payload) % 4
            fds += memoryview(payload[:whole]).cast("i")
    message = json.loads(data)
    if message.get("memfd") and fds:
        last = fds[-1]
        sealed = stat.S_ISREG(os.fstat(last).st_mode)
        sealed = sealed and fcntl.fcntl(last, fcntl.F_GET_SEALS) & SEALS == SEALS
        if sealed:
            message = json.loads(read_fd(last))
            os.close(fds.pop())
    return message, fds


class Channel:
    """Sends messages to the daemon without blocking.

    Messages that the daemon does not read wait here.  The queue needs no limit of its own: each unit has at most three
    messages in its life, every other one answers a request, and pongs and roots never queue.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.queue: deque[tuple[bytes, int | None]] = deque()

    def send(self, **message: object) -> None:
        """Sends a message, or keeps it until the daemon reads again."""
        self.queue.append(encode(message))
        self.flush()

    def flush(self) -> None:
        """Sends the waiting messages, as far as the daemon reads."""
        while self.queue:
            data, memfd = self.queue[0]
            try:
                socket.send_fds(self.sock, [data], [] if memfd is None else [memfd])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # the daemon is gone; the loop notices that by itself
            self.queue.popleft()
            if memfd is not None:
                os.close(memfd)
