"""Enters a network namespace with a loopback, and passes on a socket that listens there.

A socket belongs to the network that it was made in, so that another process accepts connections of a network that it is
not in. Standard library alone: the launcher loads it only on request.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
BACKLOG = 128
LOOPBACK = b"lo"


class Refused(Exception):
    """Reports that this machine gives no network: errno, and one line that names the refused step."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


def enter(handover: int, port: int) -> None:
    """Moves this process to a new network, and sends a socket that listens at `port` of its loopback over `handover`.

    Root needs no user namespace for it; another user gets one, in which it has its own number.

    Raises:
        Refused: the kernel refuses a step.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNET if uid == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        number = ctypes.get_errno()
        raise Refused(number, f"unshare: {os.strerror(number).lower()}")
    step = "user namespace"
    try:
        if uid != 0:
            for name, value in (
                ("setgroups", b"deny"),
                ("uid_map", b"%d %d 1" % (uid, uid)),
                ("gid_map", b"%d %d 1" % (gid, gid)),
            ):
                fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, value)  # no codec: its module may be out of this user's reach
                finally:
                    os.close(fd)
        step = "loopback"
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            asked = struct.pack("16sh22x", LOOPBACK, 0)
            (present,) = struct.unpack_from("16xh", fcntl.ioctl(listener, SIOCGIFFLAGS, asked))
            fcntl.ioctl(listener, SIOCSIFFLAGS, struct.pack("16sh22x", LOOPBACK, present | IFF_UP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(BACKLOG)
            with socket.socket(fileno=os.dup(handover)) as channel:
                socket.send_fds(channel, [b"l"], [listener.fileno()])
    except OSError as error:
        number = error.errno or 0
        raise Refused(number, f"{step}: {os.strerror(number).lower()}") from None
