"""The worker's stdin, stdout and stderr: the first two become the protocol's alone, the third is the log.

Nothing but the protocol may reach the real stdout: not `print`, not a subprocess, not a library in C.
So both ends are moved away before an author's code can use them. It knows no message and no loop.
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
"""How long the last words may take: whoever reads stderr may be gone, or slow."""


class Pipes(NamedTuple):
    """The worker's real stdin and stdout, moved out of everybody's way."""

    read_fd: int
    write_fd: int


_pipes: Pipes | None = None
_are_streams_ready = False


def take_stdio() -> Pipes | None:
    """Moves the real stdin and stdout to private descriptors, once; None when corral is not there.

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


def ready_streams() -> None:
    """Lets what is printed leave by the line, and a crash say where it was: once, since an author may change both."""
    global _are_streams_ready
    if _are_streams_ready:
        return
    _are_streams_ready = True
    stdout: object = sys.stdout  # whatever the author has put there
    if isinstance(stdout, io.TextIOWrapper):
        text = cast("io.TextIOWrapper[io.BufferedWriter]", stdout)
        # What was printed before this point leaves now, to stderr, and what follows by the line.
        text.reconfigure(line_buffering=True, errors="backslashreplace")
        text.flush()
    faulthandler.enable(file=2)  # SIGABRT, and every crash, shows where each thread was


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def say(text: str) -> None:
    """Writes to the log what the SDK itself has to say."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is gone or replaced
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def say_traceback(error: BaseException, what: str) -> None:
    """Writes to the log what has failed, and where."""
    say(f"corral: {what}\n{''.join(traceback.format_exception(error)).rstrip()}")


def leave(status: int) -> NoReturn:
    """Ends the process now, whatever its threads do: one of them may even hold the lock of stderr."""
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
            continue  # nobody reads it any more, or the author has closed or replaced it
