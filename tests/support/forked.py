"""Forks of an interpreter that has imported a program once: importing is most of what a short life costs, and no test's subject.

What runs is a process of its own as any other, with its own pid, descriptors, environment and exit status; only exec(2) and
the imports are left out. Where these are the subject, a test starts the program itself, by subprocess.
"""

import array
import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from typing import IO

LENGTH = struct.Struct("=I")
STATUS = struct.Struct("=i")
SEEN_AT_EXEC = ("PYTHON", "LD_")
"""Beginnings of the names of variables that are read when a process begins."""

ENVIRON = dict(os.environ)
"""The environment of the interpreters: this one, before any test changes it."""


class Forked:
    """A process of such an interpreter, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        (self.pid,) = STATUS.unpack(told.recv(STATUS.size, socket.MSG_WAITALL))
        self.returncode: int | None = None

    def __del__(self) -> None:
        self._told.close()

    def poll(self) -> int | None:
        """The exit status, as of subprocess; None while it runs."""
        if self.returncode is None and _ready(0, self._told):
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, as soon as it has ended."""
        if self.returncode is None:
            if not _ready(timeout, self._told):
                raise subprocess.TimeoutExpired("a forked program", timeout or 0.0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        (self.returncode,) = STATUS.unpack(self._told.recv(STATUS.size, socket.MSG_WAITALL))
        self._told.close()


class Interpreter:
    """One that has imported modules, and runs in forks the `main` of the first."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._asking = threading.Lock()
        self._asked = self._begun()
        atexit.register(self._stop)

    def _begun(self) -> socket.socket:
        """Begins the interpreter, which ends when nobody can ask it any more.

        It is no child of this process: the room `process` takes all children for its own, and kills them with a launcher.
        """
        asked, theirs = socket.socketpair()
        command = [sys.executable, "-P", __file__, str(theirs.fileno()), *self._modules]
        with theirs:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/", env=ENVIRON, check=True
            )  # fmt: skip
        return asked

    def _stop(self) -> None:
        with self._asked:
            self._asked.shutdown(socket.SHUT_WR)
            self._asked.recv(1)  # until it has ended

    def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        stdin: IO[bytes] | IO[str] | int,
        stdout: IO[bytes] | IO[str] | int,
        stderr: IO[bytes] | IO[str] | int,
        cwd: str | None = None,
    ) -> Forked:
        """Begins a process, with these three descriptors and no other."""
        request = json.dumps([list(argv), dict(environ), cwd or os.getcwd()]).encode()
        told, theirs = socket.socketpair()
        with theirs:
            passed = [each if isinstance(each, int) else each.fileno() for each in (stdin, stdout, stderr)]  # fmt: skip
            fds = array.array("i", [*passed, theirs.fileno()])
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)
            with self._asking:
                try:
                    self._asked.sendmsg([LENGTH.pack(len(request))], [rights])
                except BrokenPipeError:  # it was killed, as a process that became ours can be
                    self._asked.close()
                    self._asked = self._begun()
                    self._asked.sendmsg([LENGTH.pack(len(request))], [rights])
                self._asked.sendall(request)
        return Forked(told)


def run_corral(
    argv: Sequence[str], environ: Mapping[str, str], cwd: str, stdin: str | None, timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Runs the command `corral` without a terminal, as `subprocess.run` would; without a stdin it reads nothing."""
    corral = interpreter("corral.cli.__main__", "corral.cli.context", "click")
    with ExitStack() as ours, ExitStack() as theirs:

        def pipe() -> tuple[IO[bytes], IO[bytes]]:
            reading, writing = os.pipe()
            return open(reading, "rb", buffering=0), open(writing, "wb", buffering=0)

        given, giving = pipe()
        out, to_out = pipe()
        err, to_err = pipe()
        for each in (giving, out, err):
            ours.enter_context(each)
        for each in (given, to_out, to_err):
            theirs.enter_context(each)
        fork = corral.start(argv, environ, given, to_out, to_err, cwd)
        theirs.close()
        said: dict[IO[bytes], bytes] = {out: b"", err: b""}
        rest = memoryview((stdin or "").encode())
        deadline = time.monotonic() + timeout_s
        while reading := [each for each in said if not each.closed]:
            pipes = reading if giving.closed else [*reading, giving]
            found = _ready(max(deadline - time.monotonic(), 0), *pipes)
            if not found:
                fork.kill()
                raise subprocess.TimeoutExpired(list(argv), timeout_s)
            if giving in found:
                try:
                    rest = rest[giving.write(rest[: select.PIPE_BUF]) or 0 :]
                except BrokenPipeError:
                    rest = rest[:0]
                if not rest:
                    giving.close()
            for each in said.keys() & found:
                data = each.read(2**16)
                said[each] += data
                if not data:
                    each.close()
        status = fork.wait(max(deadline - time.monotonic(), 1))
    texts = [said[each].decode().replace("\r\n", "\n") for each in (out, err)]
    return subprocess.CompletedProcess(list(argv), status, *texts)


@cache
def interpreter(*modules: str) -> Interpreter:
    """The one of this process for these modules."""
    return Interpreter(*modules)


def _ready(timeout_s: float | None, *files: IO[bytes] | socket.socket) -> set[object]:
    """Those that can be read, or written to, or whose other end is closed; none after the timeout."""
    watched = select.poll()  # select(2) takes no descriptor above 1023
    by_fd = {each.fileno(): each for each in files}
    for fd, each in by_fd.items():
        is_given = isinstance(each, socket.socket) or each.readable()
        watched.register(fd, select.POLLIN if is_given else select.POLLOUT)
    found = watched.poll(None if timeout_s is None else timeout_s * 1000)
    return {by_fd[fd] for fd, _ in found}


def is_usual(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment begins as an interpreter of these does."""
    return _seen(environ) == _seen(ENVIRON)


def _seen(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(SEEN_AT_EXEC)}


# --- in the interpreter ---------------------------------------------------------------------------


def serve(asked: socket.socket) -> None:
    """Forks at every request, and tells the exit statuses; returns in each fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who run the tests
    running: dict[int, tuple[int, socket.socket]] = {}
    watched = select.poll()
    watched.register(asked, select.POLLIN)
    while True:
        for fd, _ in watched.poll():
            if fd in running:
                pid, told = running.pop(fd)
                watched.unregister(fd)
                os.close(fd)
                told.setblocking(False)
                ended = STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                with suppress(OSError):  # nobody asks
                    told.send(ended)
                told.close()
                continue
            header, fds, *_ = socket.recv_fds(asked, LENGTH.size, 4)
            if not header:
                sys.exit()
            request = asked.recv(LENGTH.unpack(header)[0], socket.MSG_WAITALL)
            *standard, answer = fds
            pid = os.fork()
            if pid == 0:
                for number, each in enumerate(standard):
                    os.dup2(each, number)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                argv, environ, cwd = json.loads(request)
                sys.argv[:] = argv
                os.environ.clear()
                os.environ.update(environ)
                time.tzset()
                os.chdir(cwd)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return
            for each in standard:
                os.close(each)
            told = socket.socket(fileno=answer)
            with suppress(OSError):  # nobody asks
                told.send(STATUS.pack(pid))
            pidfd = os.pidfd_open(pid)
            running[pidfd] = (pid, told)
            watched.register(pidfd, select.POLLIN)


if __name__ == "__main__":
    if os.fork():  # so that it is nobody's child
        os._exit(0)
    program, *_ = [importlib.import_module(name) for name in sys.argv[2:]]
    gc.freeze()  # else a collection in a fork would copy every page
    serve(socket.socket(fileno=int(sys.argv[1])))
    program.main()
