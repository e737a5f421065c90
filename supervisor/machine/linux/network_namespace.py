"""Enters a network namespace with a loopback, and passes on sockets that listen there.

A socket belongs to the network that it was made in, so that another process accepts connections of a network that it is
not in. Standard library alone: the launcher loads it only on request.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct

from .kernel import prctl

PR_SET_KEEPCAPS, CAP_DAC_OVERRIDE, CAPABILITY_VERSION = 8, 1, 0x20080522
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
BACKLOG = 128
LOOPBACK = b"lo"


class Refused(Exception):
    """Reports that this machine gives no network: errno, and one line that names the refused step."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


class MapWriter:
    """Writes the maps of a user namespace for a process that has become another user, and cannot open its own files in /proc.

    Such a process is not dumpable, so that its files are root's: proc(5). The writer is a child of it that becomes the same
    user and keeps CAP_DAC_OVERRIDE alone. It is made while this process is still root.
    """

    def __init__(self, uid: int, gid: int) -> None:
        asked, self._asks = os.pipe2(os.O_CLOEXEC)
        process = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(self._asks)  # its end is the end of the wait below
                prctl(PR_SET_KEEPCAPS, 1)
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                word = 1 << CAP_DAC_OVERRIDE
                header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
                sets = (ctypes.c_uint32 * 6)(word, word, 0, 0, 0, 0)
                if ctypes.CDLL(None).capset(header, sets) == 0 and os.read(asked, 1):
                    _write_maps(str(process), uid, gid)
                    code = 0
            finally:
                os._exit(code)
        os.close(asked)

    def write(self) -> None:
        """Writes the maps of this process, which is in its new user namespace."""
        os.write(self._asks, b"m")
        os.close(self._asks)
        if os.waitpid(self._pid, 0)[1] != 0:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _write_maps(process: str, uid: int, gid: int) -> None:
    for name, value in (
        ("setgroups", b"deny"),
        ("uid_map", b"%d %d 1" % (uid, uid)),
        ("gid_map", b"%d %d 1" % (gid, gid)),
    ):
        fd = os.open(f"/proc/{process}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value)  # no codec: its module may be out of this user's reach
        finally:
            os.close(fd)


def enter(handover: int, ports: list[int], writer: MapWriter | None = None) -> None:
    """Moves this process to a new network, and sends sockets that listen at `ports` of its loopback over `handover`.

    Root needs no user namespace for it; another user gets one, in which it has its own number. `writer` writes the maps of
    that for a process that was root before.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNET if uid == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        number = ctypes.get_errno()
        raise Refused(number, f"unshare: {os.strerror(number).lower()}")
    step = "user namespace"
    try:
        if uid != 0:
            if writer is not None:
                writer.write()
            else:
                _write_maps("self", uid, gid)
        step = "loopback"
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in ports]
            asked = struct.pack("16sh22x", LOOPBACK, 0)
            (present,) = struct.unpack_from("16xh", fcntl.ioctl(listeners[0], SIOCGIFFLAGS, asked))
            up = struct.pack("16sh22x", LOOPBACK, present | IFF_UP)
            fcntl.ioctl(listeners[0], SIOCSIFFLAGS, up)
            for listener, port in zip(listeners, ports, strict=True):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(BACKLOG)
            channel = stack.enter_context(socket.socket(fileno=os.dup(handover)))
            socket.send_fds(channel, [b"l"], [listener.fileno() for listener in listeners])
    except OSError as error:
        number = error.errno or 0
        raise Refused(number, f"{step}: {os.strerror(number).lower()}") from None
