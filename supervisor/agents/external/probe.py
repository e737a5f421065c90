"""Probes a store once: opens its path, or connects to its host and port. Nothing is written, and nothing is asked."""

import asyncio
import contextlib
import os
import socket
import stat

from corral.supervisor.config.declared.stores import Kind

SQLITE_BEGINNING = b"SQLite format 3\0"


def why_not_opened(kind: Kind, path: str) -> str:
    """Opens a path for reading, and returns why that cannot be done; "" if it can. It may block as long as the disk does."""
    try:
        # Without waiting: opening a pipe without a writer would block.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return _why_unfit(kind, fd)
        finally:
            os.close(fd)
    except OSError as error:
        return _words(error)


async def why_not_connected(host: str, port: int) -> str:
    """Connects to a TCP port, and returns why that cannot be done; "" if it can."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except (OSError, ValueError) as error:  # ValueError: a name that IDNA refuses
        return _words(error)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


def _why_unfit(kind: Kind, fd: int) -> str:
    mode = os.fstat(fd).st_mode
    if kind == "files":
        is_good = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
        return "" if is_good else "it is neither a folder nor a file"
    if not stat.S_ISREG(mode):
        return "it is no regular file"
    beginning = os.read(fd, len(SQLITE_BEGINNING))  # an empty file is an empty database
    return "" if beginning in (b"", SQLITE_BEGINNING) else "it is no SQLite database"


def _words(error: Exception) -> str:
    """Returns the reason without the address, which may have come from a secret."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "its host has no address" if isinstance(error, socket.gaierror) else "no connection"
