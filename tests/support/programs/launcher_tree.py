"""A worker that is hard to end: children in its group, and grandchildren that escaped into sessions of their own.

`launcher_tree.py TOKEN [escapees] [siblings] [--exit]` prints the pids of all its processes as one JSON line.
Every process has TOKEN in its command line, ignores SIGTERM, and lives until it is killed; with
--exit the leader itself exits at once after the line; with --no-brand the grandchildren lower even the
resource limit that tells whose they are.
"""

import json
import os
import resource
import signal
import sys

WAIT = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


def live(token: str, environment: dict[str, str]) -> None:
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", WAIT, token], environment)


def escape(token: str) -> int:
    """The pid of a process that has another session and, a moment later, another parent."""
    reading, writing = os.pipe()
    ready, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if "--no-brand" in sys.argv:
                resource.setrlimit(resource.RLIMIT_RSS, (0, 0))
            os.write(writing, str(os.getpid()).encode())
            os.dup2(told, 1)
            live(token, {})
        os._exit(0)
    os.wait()
    os.close(told)
    os.read(ready, 1)  # it runs what it is to run
    return int(os.read(reading, 20))


def sibling(token: str) -> int:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(told, 1)
        live(token, dict(os.environ))
    os.close(told)
    os.read(ready, 1)
    return pid


def main() -> None:
    token, escapees, siblings = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    pids += [escape(token) for _ in range(escapees)]
    pids += [sibling(token) for _ in range(siblings)]
    print(json.dumps(pids), flush=True)
    if "--exit" not in sys.argv:
        signal.pause()


main()
