"""An agent whose tasks tell what its process is like, and what its module has found when it was imported."""

import atexit
import gc
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import uuid
from typing import Any

from corral.worker import Agent, SyncTask

agent = Agent("tested")
imported = {"argv": list(sys.argv), "path": list(sys.path), "folder": os.getcwd()}
os.environ["SET_BY_IMPORT"] = "yes"
signal.signal(signal.SIGUSR1, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
reader = open(__file__, encoding="utf-8")  # noqa: SIM115  left open on purpose
tempfile.gettempdir()  # which it remembers
atexit.register(lambda: print("the module's exit", os.getpid(), file=sys.stderr))
forked: list[int] = []
os.register_at_fork(after_in_child=lambda: forked.append(os.getpid()))


@agent.on_start
def started(_: object) -> None:
    atexit.register(lambda: print("the agent's exit", os.getpid(), file=sys.stderr))


@agent.task
def run(task: SyncTask) -> object:
    match task.objective:
        case "surroundings":
            return surroundings()
        case "chance":
            with tempfile.NamedTemporaryFile() as file:
                return [random.random(), uuid.uuid4().hex, file.name]
        case "read":
            return reader.readline()
        case "forked":
            return forked == [os.getpid()]
        case "log":
            logging.getLogger("tested").warning("logged by %d", os.getpid())
            return os.getpid()
        case "breed":
            return breed()
        case "threads":
            return [thread.name for thread in threading.enumerate()]
        case "environment":
            return os.environ.get(task.input["name"])
        case "signal":
            try:
                os.kill(task.input["pid"], 0)
            except PermissionError:
                return False
            return True
        case "write":
            with open(task.input["path"], "w", encoding="utf-8") as file:
                file.write("written")
            return True
        case other:
            raise ValueError(other)


def surroundings() -> dict[str, Any]:
    with open("/proc/self/status", encoding="ascii") as status:
        facts = dict(line.rstrip("\n").split(":\t", 1) for line in status)
    names = ("Umask", "NoNewPrivs", "SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups", "Seccomp")
    with open("/proc/self/oom_score_adj", encoding="ascii") as score:
        oom_score_adj = score.read()
    limits = {
        name: resource.getrlimit(getattr(resource, name))
        for name in dir(resource)
        if name.startswith("RLIMIT_") and name != "RLIMIT_RSS"
    }
    return {
        **{name: facts[name] for name in names},
        "descriptors": {
            fd: os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
            for fd in map(int, os.listdir("/proc/self/fd"))
            if os.path.exists(f"/proc/self/fd/{fd}")
        },
        "inheritable": [fd for fd in range(64) if is_inheritable(fd)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "imported": imported,
        "argv": sys.argv,
        "path": sys.path,
        "limits": limits,
        "oom_score_adj": oom_score_adj,
        "nice": os.nice(0),
        "leads_session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "collects": gc.isenabled(),
        "threads": threading.active_count(),
        "tempdir": tempfile.gettempdir(),
    }


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def breed() -> list[int]:
    """The pids of a child, and of one in a session of its own whose parent is gone."""
    child = os.fork()
    if child == 0:
        signal.pause()
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        os.setsid()
        grandchild = os.fork()
        if grandchild == 0:
            signal.pause()
        os.write(writing, str(grandchild).encode())
        os._exit(0)
    os.waitpid(between, 0)
    return [child, int(os.read(reading, 32))]


agent.run()
