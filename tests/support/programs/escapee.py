"""An agent that tries to leave what it is kept in: the objective names the way, the input says where."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from corral.worker import Agent, SyncTask

agent = Agent("escapee")


def in_temporary() -> str:
    return os.path.join(tempfile.mkdtemp(), "new")


def by_link(path: str) -> str:
    link = in_temporary()
    os.symlink(path, link)
    return Path(link).read_text()


def by_hard_link(path: str) -> str:
    link = in_temporary()
    os.link(path, link)
    return Path(link).read_text()


def by_rename(path: str) -> str:
    new = in_temporary()
    os.rename(path, new)
    return Path(new).read_text()


def by_child(path: str, program: str = "/bin/cat") -> str:
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    return done.stdout or "EACCES"


def by_copied_program(path: str) -> str:
    return by_child(path, shutil.copy("/bin/cat", in_temporary()))


def write(path: str) -> str:
    Path(path).write_text("overwritten")
    return "written"


def write_by_child(path: str) -> str:
    words = ["/bin/sh", "-c", 'echo overwritten > "$1"', "sh", path]
    done = subprocess.run(words, stderr=subprocess.DEVNULL, check=False)
    return "EACCES" if done.returncode else "written"


def connect(port: int, protocol: int = 0) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as sock:
        sock.connect(("127.0.0.1", port))
    return "connected"


def connect_by_child(port: int) -> str:
    program = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    words = [sys.executable, "-I", "-c", program]
    done = subprocess.run(words, stderr=subprocess.DEVNULL, check=False)
    return "EACCES" if done.returncode else "connected"


def shoot(pid: int) -> str:
    os.kill(pid, signal.SIGCONT)
    return "shot"


def truncate(path: str) -> str:
    os.truncate(path, 0)
    return "written"


def remove(path: str) -> str:
    os.unlink(path)
    return "written"


PATHS: dict[str, Callable[[str], str]] = {
    "open": lambda path: Path(path).read_text(),
    "dots": lambda path: Path(os.path.dirname(__file__), "../../../../../..", path[1:]).read_text(),
    "link": by_link,
    "hard link": by_hard_link,
    "rename": by_rename,
    "root of another": lambda path: Path(f"/proc/{os.getppid()}/root{path}").read_text(),
    "child": by_child,
    "copied program": by_copied_program,
    "list": lambda path: str(os.listdir(os.path.dirname(path))),
    "write": write,
    "write by child": write_by_child,
    "truncate": truncate,
    "remove": remove,
}
NUMBERS: dict[str, Callable[[int], str]] = {
    "connect": connect,
    "connect by child": connect_by_child,
    "connect by mptcp": lambda port: connect(port, 262),
    "shoot": shoot,
    "shoot parent": lambda _: shoot(os.getppid()),
}


@agent.task
def run(task: SyncTask) -> object:
    """What came of it; of an OSError its name."""
    try:
        if task.objective in PATHS:
            return PATHS[task.objective](task.input)
        return NUMBERS[task.objective](task.input)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


if __name__ == "__main__":
    agent.run()
