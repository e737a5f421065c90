"""Speaks systemd's native journal protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): fields in, one datagram out.

An entry that is too long for a datagram travels as a sealed memfd. Nothing here waits: the outcome of an entry that cannot be
sent now shows whether a writable socket will change that, or only time. It knows no daemon, and no loop.
"""

import errno
import fcntl
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum, auto
from functools import lru_cache

from corral.worker.contract.errors import InvalidParams

SOCKET = "/run/systemd/journal/socket"
DATAGRAM_BYTES = 64 * 1024
"""Bytes of a datagram; a longer entry travels as a memfd: data in a socket is kernel memory, which is not swapped."""
ENTRY_BYTES = 32 * 1024 * 1024 - 4096
"""Bytes that journald takes from an ordinary user, in any field; the rest of a longer MESSAGE is cut off."""
SEND_BUFFER_BYTES = 8 * 1024 * 1024
"""Bytes that the socket may hold, where the system allows as much."""
NAME_BYTES = 64
"""Bytes of the name of a field, as in systemd."""

PRIORITIES = {
    **{"emergency": 0, "alert": 1, "critical": 2, "fatal": 2, "error": 3, "warning": 4},
    **{"warn": 4, "notice": 5, "info": 6, "debug": 7, "trace": 7},
}
"""Levels as syslog(3) numbers them."""

Fields = Mapping[str, str | bytes | int]

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_GONE = frozenset({errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ENOENT})


class Outcome(Enum):
    """Represents the outcome of sending an entry."""

    SENT = auto()
    FULL = auto()
    """The queue is full: the entry can be sent when the socket is writable."""
    AWAY = auto()
    """Nothing listens, or the kernel is short of something: only time can help."""
    REFUSED = auto()
    """It will never be taken."""


def encode(fields: Fields) -> bytes:
    """Encodes an entry."""
    parts: list[bytes] = []
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else _bytes(str(value))
        if b"\n" in data:
            parts.append(b"%b\n%b%b\n" % (_key(name), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%b=%b\n" % (_key(name), data))
    return b"".join(parts)


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return text.encode("utf-8", "backslashreplace")


@lru_cache(1024)
def _key(name: str) -> bytes:
    if len(name) > NAME_BYTES or not _NAME.fullmatch(name):
        text = f'cannot send the field "{name}": a name has up to {NAME_BYTES} characters A-Z, 0-9 and _'
        raise InvalidParams(text, key="name", value=name)
    return name.encode("ascii")


@lru_cache(1024)
def field_name(key: str) -> str:
    """Returns the name of a journal field for a fact: `retry_after_s` is CORRAL_RETRY_AFTER_S."""
    return f"CORRAL_{re.sub('[^A-Z0-9_]', '_', key.upper())}"[:NAME_BYTES]


def is_stream_to_journal(fd: int, journal_stream: str) -> bool:
    """Returns whether a descriptor is the stream to the journal that JOURNAL_STREAM names; see systemd.exec(5)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


class Journal:
    """Represents a connection to journald, opened by the first entry, and again after it was lost."""

    def __init__(self, path: str = SOCKET, *, has_memfd: bool = hasattr(os, "memfd_create")) -> None:
        self._path = path
        self._has_memfd = has_memfd
        self._socket: socket.socket | None = None

    @property
    def fd(self) -> int | None:
        """Returns the descriptor to wait for after FULL; None while there is no connection."""
        return None if self._socket is None else self._socket.fileno()

    @property
    def is_reachable(self) -> bool:
        """Returns whether journald listens."""
        return self._connected() is not None

    def send(self, fields: Fields) -> Outcome:
        """Sends an entry, if that can be done now."""
        data = encode(fields)
        if len(data) > ENTRY_BYTES:
            data = _cut(fields, len(data) - ENTRY_BYTES)
        outcome = self._send(data)
        if outcome is Outcome.REFUSED and len(data) > DATAGRAM_BYTES:
            outcome = self._datagram(_cut(fields, len(data) - DATAGRAM_BYTES // 2))
        return outcome

    def close(self) -> None:
        """Closes the connection; the next entry opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket | None:
        if self._socket is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            try:
                sock = socket.socket(socket.AF_UNIX, kind)
            except OSError:  # no descriptor is free
                return None
            try:
                with suppress(OSError):  # as much as there may be
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                # Connected: of a socket that is not, poll(2) cannot tell whether its peer reads.
                sock.connect(self._path)
            except OSError:
                sock.close()
                return None
            self._socket = sock
        return self._socket

    def _send(self, data: bytes) -> Outcome:
        if len(data) <= DATAGRAM_BYTES:
            outcome = self._datagram(data)
            if outcome is not Outcome.REFUSED:
                return outcome
        return self._memfd(data) if self._has_memfd else Outcome.REFUSED

    def _datagram(self, data: bytes) -> Outcome:
        return self._attempt([data], [])

    def _memfd(self, data: bytes) -> Outcome:
        try:
            fd = os.memfd_create("corral-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            is_short = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
            return Outcome.AWAY if is_short else Outcome.REFUSED
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return self._attempt([], [fd])
        except OSError as error:
            return Outcome.AWAY if error.errno == errno.ENOSPC else Outcome.REFUSED
        finally:
            os.close(fd)

    def _attempt(self, buffers: list[bytes], fds: list[int]) -> Outcome:
        for _ in range(2):  # after a restart of journald, the old connection fails first
            sock = self._connected()
            if sock is None:
                return Outcome.AWAY
            try:
                if fds:
                    socket.send_fds(sock, buffers, fds)
                else:
                    sock.send(buffers[0])
                return Outcome.SENT
            except BlockingIOError:
                return Outcome.FULL
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return Outcome.REFUSED
                if error.errno not in _GONE:
                    return Outcome.AWAY  # no memory, or too many descriptors under way
                self.close()
        return Outcome.AWAY


def _cut(fields: Fields, excess_bytes: int) -> bytes:
    """Returns the entry with the end of its MESSAGE cut off, and CORRAL_CUT_BYTES that reports it."""
    message = fields.get("MESSAGE", b"")
    data = message if isinstance(message, bytes) else _bytes(str(message))
    keep = max(0, len(data) - excess_bytes - NAME_BYTES)
    return encode({**fields, "MESSAGE": data[:keep], "CORRAL_CUT_BYTES": len(data) - keep})
