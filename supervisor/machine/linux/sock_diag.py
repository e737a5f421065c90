"""Lists the sockets of this network namespace by state, address and inode: sock_diag(7).

The kernel filters by port, so that a machine with many connections is asked about those of one address alone. No
privilege is needed. Standard library alone, as all of this room.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_REQUEST = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
UDIAG_SHOW_NAME, UNIX_DIAG_NAME = 0x1, 0
ESTABLISHED, CLOSE_WAIT, LISTEN = 1, 8, 10
"""States of a socket, as the kernel numbers them; CLOSE_WAIT is a connection whose peer sends no more, but reads."""

ANSWER_BYTES = 1 << 16
HEADER = struct.Struct("=IHHII")
INET_ADDRESS = struct.Struct(">HH16s16s")
INET_REQUEST_TAIL = struct.Struct("=III")
INET_REQUEST_HEAD = struct.Struct("=BBBBI")
INET_ANSWER_BYTES, INET_INODE = 72, struct.Struct("=I")
UNIX_REQUEST = struct.Struct("=BBHIIIII")
UNIX_ANSWER = struct.Struct("=BBBBIII")
ATTRIBUTE = struct.Struct("=HH")


class InetSocket(NamedTuple):
    """Represents a TCP socket: its own address, and its inode, 0 for a connection that was not accepted yet."""

    state: int
    host: str
    port: int
    inode: int


class UnixSocket(NamedTuple):
    """Represents a unix socket with a path: of one that was accepted, the path is that of its listening socket."""

    state: int
    path: str
    inode: int


def inet_sockets(port: int, states: Collection[int]) -> Iterator[InetSocket]:
    """Yields the TCP sockets with this port of their own in one of these states, of IPv4 and IPv6."""
    mask = sum(1 << state for state in states)
    for domain in (socket.AF_INET, socket.AF_INET6):
        head = INET_REQUEST_HEAD.pack(domain, socket.IPPROTO_TCP, 0, 0, mask)
        address = INET_ADDRESS.pack(port, 0, bytes(16), bytes(16))
        none = INET_REQUEST_TAIL.pack(0, 0xFFFFFFFF, 0xFFFFFFFF)
        for answer in _answers(head + address + none):
            found, _peer, own, _theirs = INET_ADDRESS.unpack_from(answer, 4)
            if found != port:
                continue  # of a kernel that does not filter
            packed = own[:4] if answer[0] == socket.AF_INET else own
            (inode,) = INET_INODE.unpack_from(answer, INET_ANSWER_BYTES - INET_INODE.size)
            yield InetSocket(answer[1], socket.inet_ntop(answer[0], packed), found, inode)


def unix_sockets(path: str, states: Collection[int]) -> Iterator[UnixSocket]:
    """Yields the unix sockets that are bound to this path, in one of these states; those accepted there included."""
    mask = sum(1 << state for state in states)
    request = UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, mask, 0, UDIAG_SHOW_NAME, 0, 0)
    wanted = os.fsencode(path)
    for answer in _answers(request):
        _domain, _type, state, _pad, inode, _cookie, _cookie2 = UNIX_ANSWER.unpack_from(answer)
        for kind, value in _attributes(answer[UNIX_ANSWER.size :]):
            if kind == UNIX_DIAG_NAME and value.rstrip(b"\0") == wanted:
                yield UnixSocket(state, path, inode)


def _answers(request: bytes) -> Iterator[bytes]:
    """Sends one request for a dump, and yields the payload of each answer."""
    header = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_REQUEST, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as asked:
        asked.bind((0, 0))
        asked.send(header + request)
        while True:
            data = asked.recv(ANSWER_BYTES)
            while data:
                length, type_, _flags, _seq, _pid = HEADER.unpack_from(data)
                payload = data[HEADER.size : length]
                if type_ == NLMSG_DONE:
                    return
                if type_ == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    raise OSError(number, os.strerror(number))
                yield payload
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if length < ATTRIBUTE.size:
            return
        yield kind, data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def inodes_of(pid: int) -> set[int]:
    """Returns the inodes of the sockets that a process has open; none of one that is gone, or that may not be looked at."""
    found: set[int] = set()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found
