"""Runs the launcher, the parent of every worker: spawns, signals and reaps them, and leaves none behind.

Run by path, `python -I -S program.py FD [OPTIONS]`, where FD is one end of a SOCK_SEQPACKET pair whose other end the
daemon holds, and OPTIONS a JSON object: `state`, the number in the brand of every process; `group` and `group_name`,
the cgroup below which the units' groups are; `pid_namespace`, true to continue as the first process of a new one;
`plans`, false to spawn in plain Python only (see `raw_spawn`).  It has one thread and imports the standard library
alone, so that fork is cheap and plain Python may run between fork and exec.  It guarantees:

- the wait status of every worker is sent at once, and `emptied` when no process of it is left;
- when the daemon is gone, every descendant is killed until none is left, and then the launcher ends;
- no unrelated process is signalled: a child only before it is reaped, any other process only through a pidfd that was
  opened first and checked afterwards.

It knows units (`echo-0#3`: one incarnation of one worker) and decides nothing about them: no restart, no grace period,
no policy.  `supervisor.workers.process.launcher_client` is the other end; the messages are listed there.

A program that is run by path is compiled at every start, so this file is small: the rest is in the modules beside it,
which are compiled once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys

if not __package__:  # run by path: the folder of our package is the last place to look
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))))

# Absolute, since a program that is run by path has no package; and nothing else of ours.
from corral.supervisor.machine.launcher.child_setup import become
from corral.supervisor.machine.launcher.main_loop import MainLoop
from corral.supervisor.machine.launcher.process_tree import Trees
from corral.supervisor.machine.launcher.protocol import Channel, encode
from corral.supervisor.machine.launcher.raw_spawn import RawSpawner
from corral.supervisor.machine.linux.cgroup import Groups
from corral.supervisor.machine.linux.kernel import PR_SET_CHILD_SUBREAPER, PR_SET_NAME, prctl

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from typing import Any


def _wake(_signum: int, _frame: object) -> None:
    """Handles SIGCHLD by returning: only a signal with a handler reaches the wake-up descriptor (signal.set_wakeup_fd)."""


def _enter_namespace(sock: socket.socket) -> bool:
    """Enters a PID namespace and continues as its first process; sends the reason and returns False if refused."""
    from corral.supervisor.machine.linux import pid_namespace  # noqa: PLC0415 - seldom asked for

    def announce(pid: int) -> None:
        sock.send(encode({"op": "moved", "pid": pid})[0])

    try:
        pid_namespace.enter(announce)
    except pid_namespace.Refused as refused:
        sock.send(encode({"op": "refused", "errno": refused.errno, "message": str(refused)})[0])
        return False
    return True


def main() -> None:
    """Serves the daemon at the other end of the descriptor that the command line names."""
    fd, daemon_pid = int(sys.argv[1]), os.getppid()
    options: Any = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}  # Any: JSON
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    os.closerange(3, fd)
    os.closerange(fd + 1, 2**31 - 1)
    os.set_inheritable(fd, False)
    daemon = os.pidfd_open(daemon_pid)
    if os.getppid() != daemon_pid:
        return  # it died, and this may be the pidfd of a stranger
    sock = socket.socket(fileno=fd)
    if options.get("pid_namespace") and not _enter_namespace(sock):
        return
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, _wake)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    # Python ignores SIGPIPE and SIGXFSZ, and our own starter may have left us more.
    altered = [int(s) for s in signal.valid_signals() if signal.getsignal(s) != signal.SIG_DFL]
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    name = ctypes.create_string_buffer(b"corral-launcher")
    prctl(PR_SET_NAME, ctypes.addressof(name))
    os.chdir("/")
    sock.setblocking(False)
    channel = Channel(sock)
    groups = Groups(options["group"], options["group_name"]) if "group" in options else None
    trees = Trees(options.get("state", 0), groups)
    pid = os.getpid()
    main_loop = MainLoop(
        channel, daemon, wake, lambda spawn, fds, report: become(spawn, fds, report, pid, altered), trees
    )
    if options.get("plans", True):
        try:
            main_loop.raw_spawner = RawSpawner(pid, altered)
        except OSError as error:  # this machine takes none: then each is forked
            channel.send(op="unplanned", reason=str(error.strerror).lower())
    gc.freeze()  # what exists now is never collected: a fork shares its pages for longer
    main_loop.run()
    main_loop.end()


if __name__ == "__main__":
    main()
