"""Reserves a worker's stdin and stdout for the protocol; stderr is the log.

Only protocol messages may reach the real stdout: not `print`, not a subprocess, not a library in C. Both ends are
therefore moved away before the agent's code can use them. It must not know messages or a loop.
"""

import contextlib
import faulthandler
import fcntl
import io
import os
import stat
import sys
import threading
import traceback
from typing import NamedTuple, NoReturn, cast

FLUSH_S = 0.5
"""Seconds that flushing at the exit may take: the reader of stderr may be gone, or slow."""


class Pipes(NamedTuple):
    """Holds private descriptors of the worker's real stdin and stdout."""

    read_fd: int
    write_fd: int


_pipes: Pipes | None = None
_are_streams_ready = False


def take_stdio() -> Pipes | None:
    """Moves the real stdin and stdout to private descriptors, once; returns None if they are not pipes.

    From then on stdin is empty and stdout goes where stderr goes, for this process and for its
    children: neither `print` nor a subprocess can write into the protocol.
    """
    global _pipes
    if _pipes is not None:
        return _pipes
    if not _is_pipe(0) or not _is_pipe(1):
        return None
    read_fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    write_fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    ready_streams()
    _pipes = Pipes(read_fd, write_fd)
    return _pipes


def is_taken() -> bool:
    """Returns True if this process speaks to the daemon."""
    return _pipes is not None


def ready_streams() -> None:
    """Sets stdout to line buffering and enables faulthandler; once, because the agent may change both."""
    global _are_streams_ready
    if _are_streams_ready:
        return
    _are_streams_ready = True
    stdout: object = sys.stdout  # the agent may have replaced it
    if isinstance(stdout, io.TextIOWrapper):
        text = cast("io.TextIOWrapper[io.BufferedWriter]", stdout)
        # Earlier output is flushed now, to stderr; later output by the line.
        text.reconfigure(line_buffering=True, errors="backslashreplace")
        text.flush()
    faulthandler.enable(file=2)  # SIGABRT and crashes print the stack of each thread


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def log_line(text: str) -> None:
    """Writes a line of the SDK itself to the log."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is gone or replaced
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def log_traceback(error: BaseException, text: str) -> None:
    """Writes a failure and its traceback to the log."""
    log_line(f"corral: {text}\n{''.join(traceback.format_exception(error)).rstrip()}")


def exit_now(status: int) -> NoReturn:
    """Ends the process without waiting for threads: one of them may even hold the lock of stderr."""
    flusher = threading.Thread(target=_flush, daemon=True)
    try:
        flusher.start()
        flusher.join(FLUSH_S)
    finally:
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # its reader is gone, or the agent has closed or replaced it
