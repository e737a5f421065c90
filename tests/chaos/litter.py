"""A worker with descendants that do all they can to be left behind: `litter.py FOLDER HOW`.

Whoever watches need not believe corral. The worker opens FOLDER/alive/WORKER, a FIFO, and takes a lock on
FOLDER/locks/WORKER; every descendant inherits both. So the FIFO is at its end exactly when the last of them is
dead, and a life that does not get the lock has met one of an earlier life. Each says one line in the FIFO when
it is there: `ROLE free` or `ROLE overlap`.

HOW is one of
  escape   three grandchildren, forked twice, each in a session of its own, with an empty environment, another
           name, and deaf to SIGTERM
  deaf     the same, and the worker itself is deaf to SIGTERM
  group    one child in the worker's own group, deaf to SIGTERM; SIGUSR1 has the worker exit with 0
  hop      four grandchildren that fork and exit, as fast as they can, each HOPS times at most
  breed    a grandchild whose every process forks two others and then sleeps, BRED at most
  alone    nothing but itself
  brief    the same, and it ends at once
"""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable

ESCAPED = 3
HOPPERS = 4
HOPS = 5000
BRED = 200


def main() -> None:
    litter(*sys.argv[1:3])
    while sys.argv[2] != "brief":
        signal.pause()


def litter(folder: str, how: str) -> None:
    """Has all of this worker be there, and say so."""
    worker = os.environ["CORRAL_WORKER"].partition("#")[0]
    alive = os.open(f"{folder}/alive/{worker}", os.O_WRONLY)
    lock = os.open(f"{folder}/locks/{worker}", os.O_RDWR | os.O_CREAT, 0o666)
    free = "free"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = "overlap"
    os.set_inheritable(alive, True)
    os.set_inheritable(lock, True)

    def tell(role: str) -> None:
        os.write(alive, f"{role} {free}\n".encode())

    if how in ("escape", "deaf"):
        for _ in range(ESCAPED):
            _escape(lambda: _sleep(tell, "grandchild"))
    elif how == "group":
        signal.signal(signal.SIGUSR1, _leave)
        if os.fork() == 0:
            _sleep(tell, "child")
    elif how == "hop":
        for _ in range(HOPPERS):
            _escape(lambda: _hop(tell))
    elif how == "breed":
        _escape(lambda: _breed(tell))
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("leader")


def _leave(_signum: int, _frame: object) -> None:
    os._exit(0)


def _escape(become: Callable[[], None]) -> None:
    """Runs it in a process that is nobody's child and nobody's group."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            become()
        os._exit(0)
    os.waitpid(child, 0)


def _sleep(tell: Callable[[str], None], role: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which an exec keeps
    tell(role)
    program = shutil.which("sleep") or "/bin/sleep"
    os.execve(program, ["kworker/0:1", "1000000"], {})


def _hop(tell: Callable[[str], None]) -> None:
    """The process that is looked at is never the one that is killed; after HOPS it sleeps."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("hopper")
    for _ in range(HOPS):
        if os.fork():
            os._exit(0)
    while True:
        signal.pause()


def _breed(tell: Callable[[str], None]) -> None:
    """Never more than BRED in all: each needs a token, and nobody gives one back."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tokens, given = os.pipe()
    os.set_blocking(tokens, False)
    os.write(given, b"x" * BRED)
    tell("breeder")
    while True:
        try:
            for _ in range(2):
                os.read(tokens, 1)
                if os.fork() == 0:
                    break
            else:
                signal.pause()
        except BlockingIOError:
            signal.pause()


if __name__ == "__main__":
    main()
