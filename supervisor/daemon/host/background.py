"""Starts the daemon in the background where no service manager does, and keeps its own log in a file.

The daemon runs in a session of its own. The process that started it ends when the daemon is ready, as it tells
service managers (sd_notify(3)), or when it has failed.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from corral.worker.contract.errors import CorralError, PermissionDenied, SpawnFailed, Timeout

READY_S = 90.0
"""Seconds until a daemon has to be ready: as long as systemd gives a service by default."""

LOOK_S = 0.1
"""Seconds between two looks whether a daemon that is not ready has ended."""

STOP_S = 10.0
"""Seconds until a daemon that was not ready in time has to end."""

MAX_LOG_BYTES = 10 * 1024 * 1024
"""Bytes of the file of the daemon's own log; one file before it is kept."""

LOG_TAIL_BYTES = 64 * 1024
"""Bytes at the end of the log in which the error of a failed start is looked for."""

LOG_NAME = "corrald.log"

STDOUT, STDERR = 1, 2


class LogFile:
    """Holds the file to which the daemon writes its own log, its stdout and its stderr."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the file as stdout and stderr of this process."""
        this = cls(path.absolute())
        try:
            this._use()
        except OSError as error:
            raise _refused(path, error) from error
        return this

    def rotate(self) -> None:
        """Begins a new file when the file is full; the file before it is kept as `PATH.1`."""
        try:
            if os.fstat(STDERR).st_size > MAX_LOG_BYTES:
                os.replace(self.path, f"{self.path}.1")
                self._use()
        except OSError:
            return  # a full disk, or a folder that is gone: it goes on in the file that it has

    def _use(self) -> None:
        fd = _opened(self.path)
        try:
            os.dup2(fd, STDOUT)
            os.dup2(fd, STDERR)
        finally:
            os.close(fd)


def start(arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> int:
    """Starts `corrald ARGUMENTS` in the background, and returns its pid when it is ready."""
    try:
        fd = _opened(log)
    except OSError as error:
        raise _refused(log, error) from error
    begin = os.fstat(fd).st_size
    with (
        tempfile.TemporaryDirectory(prefix="corrald-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
        open(fd, "wb") as output,
    ):
        ready.bind(f"{folder}/ready")
        ready.settimeout(LOOK_S)
        own = {key: value for key, value in environ.items() if key != "JOURNAL_STREAM"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "corral.supervisor", *arguments, f"--log-file={log}"],
                env={**own, "NOTIFY_SOCKET": f"{folder}/ready"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise SpawnFailed(f"cannot start a daemon: {error.strerror}") from error
        try:
            _await_ready(process, ready, log, begin)
        except BaseException:
            _end(process)
            raise
    return process.pid


def _await_ready(process: "subprocess.Popen[bytes]", ready: socket.socket, log: Path, begin: int) -> None:
    give_up_at = time.monotonic() + READY_S
    while time.monotonic() < give_up_at:
        try:
            if ready.recv(256) == b"READY=1":  # of a slow start others come before
                return
        except TimeoutError:
            if (code := process.poll()) is not None:
                raise CorralError(_last_line(log, begin), code=code) from None
    text = f'cannot start a daemon within {READY_S:g} s: it is not ready; its log is "{log}"'
    raise Timeout(text, limit=READY_S, log=str(log))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a daemon that was not ready, with all that it has started."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path, begin: int) -> str:
    """Returns the error with which a start has ended, from what it has written to the log."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    last = ([line for line in lines if line.startswith("corrald: ")] or lines)[-1:]
    return last[0].removeprefix("corrald: ") if last else "cannot start a daemon: its log is empty"


def _opened(path: Path) -> int:
    """Opens a log for appending; others may not read it."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)


def _refused(path: Path, error: OSError) -> PermissionDenied:
    return PermissionDenied(f'cannot write the log "{path}": {error.strerror}', path=str(path))
