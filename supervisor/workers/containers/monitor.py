"""Leads the unit of a worker in a container: runs the engine, and ends with the container, whichever ends first.

Run by path, `python -I -S monitor.py PLAN`, where PLAN is a JSON object: `run`, the command line of the engine; `remove`, the
one that removes the container by force; `env`, the environment of both; `pid_file`, where the engine writes the pid of the
container's first process; `outcome`, where the exit code
is written if no container has started; `record`, a file that is removed with the container.

It guarantees: no process and no container is left when it ends, also when its parent is killed; a signal reaches the
program inside; its exit code is the program's, and it dies by the signal by which the program did. Standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NAME = 1, 36, 15
"""Numbers of operations of prctl(2)."""
ENGINE_FAILED = 125
"""Exit code where no container has started; 126 and 127 say that its program cannot be executed, or is not there."""
REMOVE_S = 10.0
"""Seconds that the removal of a container may take."""
PASSED_ON = frozenset(
    {
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
    }
)
"""Signals for the program inside."""
REMOVE = signal.SIGRTMIN
"""Signal of the launcher at its end: the program is killed and the container removed."""
FATAL = PASSED_ON - {signal.SIGWINCH}
"""Those of them that end a process that does not handle them."""


class Monitor:
    """Runs one container."""

    def __init__(self, plan: Any) -> None:  # Any: JSON of our own
        self.plan = plan
        self.parent = os.getppid()
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.engine = 0
        self.ended_by: int | None = None
        self.has_ended = False

    def run(self) -> int:
        """Runs the container, and returns the wait status of the engine."""
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.libc.prctl(PR_SET_NAME, ctypes.create_string_buffer(b"corral-monitor"), 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, REMOVE, signal.SIGCHLD})
        # In place of SIGKILL: the container has to go too. SIGHUP, since it is looked at who sent it.
        self.libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
        if os.getppid() != self.parent:
            return signal.SIGKILL
        self.start()
        while True:
            found = signal.sigwaitinfo({*PASSED_ON, REMOVE, signal.SIGCHLD})
            if found.si_signo == REMOVE or os.getppid() != self.parent:
                return signal.SIGKILL
            if found.si_signo == signal.SIGCHLD:
                status = self.reap()
                if status is not None:
                    self.has_ended = os.WIFEXITED(status)  # one that was killed has removed nothing
                    return status
            else:
                self.pass_on(found.si_signo)

    def start(self) -> None:
        """Starts the engine, which inherits all descriptors; stdin and stdout are its own then."""
        words = self.plan["run"]
        self.engine = os.fork()
        if self.engine == 0:
            self.libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            try:
                os.execve(words[0], words, self.plan["env"])
            finally:
                os._exit(ENGINE_FAILED)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(nothing, fd)

    def reap(self) -> int | None:
        """Reaps what has ended; returns the wait status of the engine, None while it runs."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == self.engine:
                return status
            if pid == 0:
                return None

    def pass_on(self, signum: int) -> None:
        """Sends a signal to the program inside.

        The kernel drops one that the first process of a container does not handle: that process is killed then, as if
        the signal had been one for an ordinary process.
        """
        first = self.first_process()
        if first and signum in FATAL and not _handles(first, signum):
            self.ended_by = signum
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(first or self.engine, signum)

    def first_process(self) -> int:
        """Returns the pid of the first process of the container; 0 before there is one."""
        try:
            with open(str(self.plan["pid_file"]), encoding="ascii") as file:
                return int(file.read().strip() or 0)
        except (OSError, ValueError):
            return 0

    def has_started(self) -> bool:
        """Returns whether the engine has noted a first process."""
        try:
            return os.stat(str(self.plan["pid_file"])).st_size > 0
        except OSError:
            return False

    def clean_up(self) -> None:
        """Kills what is left, and removes the container."""
        deadline = time.monotonic() + REMOVE_S
        while time.monotonic() < deadline:
            children = _children()
            for pid in children:
                _kill_below(pid)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not children:
                break
            time.sleep(0.005)
        if self.has_ended and self.has_started():
            return  # the engine has removed it
        words = self.plan["remove"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                words,
                env=self.plan["env"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=REMOVE_S,
                check=False,
            )


def _handles(pid: int, signum: int) -> bool:
    """Returns whether a process has a handler for a signal, or waits for it with it blocked, as an init does; True where that cannot be read."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(("SigCgt:", "SigIgn:", "SigBlk:")) and int(line.split()[1], 16) >> (signum - 1) & 1:
                    return True
    except OSError:
        return True
    return False


def _children(pid: int | None = None) -> list[int]:
    """Returns the children of a process."""
    own = os.getpid() if pid is None else pid
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{own}/task"):
            with open(f"/proc/{own}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return found


def _kill_below(pid: int) -> None:
    for child in _children(pid):
        _kill_below(child)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Runs the container of the plan, and ends as its program does."""
    monitor = Monitor(json.loads(sys.argv[1]))
    status = monitor.run()
    has_started = monitor.has_started()
    monitor.clean_up()
    with contextlib.suppress(OSError):  # nothing is left to remove
        os.unlink(str(monitor.plan["record"]))
    code = os.waitstatus_to_exitcode(status) if not monitor.ended_by else -monitor.ended_by
    if has_started and code > 128:
        code = 128 - code  # by a signal inside
    if not has_started and code >= 0:
        code = code if code in (126, 127) else ENGINE_FAILED
        with contextlib.suppress(OSError), open(str(monitor.plan["outcome"]), "w") as file:
            file.write(str(code))
    if code < 0:
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        with contextlib.suppress(OSError, ValueError):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
            os.kill(os.getpid(), -code)
        code = 128 - code
    os._exit(code)


if __name__ == "__main__":
    main()
