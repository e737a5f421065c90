"""An agent under the hardening of the unit: tries what ordinary agents do, and prints what came of it as one line of JSON."""

import ctypes
import json
import mmap
import multiprocessing
import os
import pty
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable

SYS_LANDLOCK_CREATE_RULESET = 444
LANDLOCK_CREATE_RULESET_VERSION = 1
PTRACE_ATTACH = 16


def compiles_while_it_runs() -> bool:
    """What node and every other just-in-time compiler asks for."""
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        return len(page) > 0


def sandboxes() -> bool:
    """What browsers and bubblewrap do: namespaces of their own, with mounts and a /proc in them."""
    inside = ["sh", "-c", "mount -t tmpfs none /mnt && test $$ = 1"]
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", *inside]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def sandboxes_itself() -> bool:
    """Landlock (landlock_create_ruleset(2)): its version, or "this kernel has none", but no refusal of the call."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (SYS_LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    return libc.syscall(*arguments) > 0 or ctypes.get_errno() in (38, 95)


def has_terminals() -> bool:
    """A pseudo-terminal, for a shell."""
    for fd in pty.openpty():
        os.close(fd)
    return True


def shares_memory() -> bool:
    """A semaphore in /dev/shm, which multiprocessing is made of."""
    with multiprocessing.Lock():
        return True


def asks_for_interfaces() -> bool:
    """Netlink, which resolvers ask."""
    return len(socket.if_nameindex()) > 0


def writes(path: str) -> Callable[[], bool]:
    """Whether a file can be made there."""

    def attempt() -> bool:
        with open(path, "w"):
            return True

    return attempt


def reads(path: str) -> Callable[[], bool]:
    """Whether a file, or a folder's list, can be read there."""

    def attempt() -> bool:
        if os.path.isdir(path):
            os.listdir(path)
            return True
        with open(path, "rb") as file:
            file.read(1)
            return True

    return attempt


def connects(path: str) -> Callable[[], bool]:
    """Whether a socket lets us in."""

    def attempt() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            return True

    return attempt


def shares_a_folder() -> bool:
    """A folder whose files get its group, as `git init --shared` makes them."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o2770)
    return True


def opens(family: int, kind: int) -> Callable[[], bool]:
    """Whether there are sockets of a family."""

    def attempt() -> bool:
        socket.socket(family, kind).close()
        return True

    return attempt


def debugs() -> bool:
    """Whether it may look into a process of its own by ptrace(2)."""
    with subprocess.Popen(["sleep", "100"]) as child:
        try:
            return bool(ctypes.CDLL(None).ptrace(PTRACE_ATTACH, child.pid, None, None) == 0)
        finally:
            child.kill()


ATTEMPTS: dict[str, Callable[[], bool]] = {
    "jit": compiles_while_it_runs,
    "sandbox": sandboxes,
    "landlock": sandboxes_itself,
    "terminal": has_terminals,
    "shared memory": shares_memory,
    "interfaces": asks_for_interfaces,
    "home": writes(os.path.expanduser("~/it")),
    "tmp": writes(f"/tmp/{os.getpid()}"),
    "srv": writes("/srv/it"),
    "etc": writes("/etc/it"),
    "usr": writes("/usr/it"),
    "sysctl": writes("/proc/sys/kernel/domainname"),
    "whole proc": reads("/run/corral-proc/proc"),
    "store": reads("/var/lib/corral/corral.db"),
    "logs": reads("/var/lib/corral/logs"),
    "config": reads("/etc/corral/corral.toml"),
    "control": connects("/run/corral/corral.sock"),
    "debug": debugs,
    "shared folder": shares_a_folder,
    "raw socket": opens(socket.AF_INET, socket.SOCK_RAW),
    "kernel crypto": opens(socket.AF_ALG, socket.SOCK_SEQPACKET),
    "own cgroup": lambda: os.access("/sys/fs/cgroup/system.slice/corrald.service/cgroup.procs", os.W_OK),
    "other cgroup": lambda: os.access("/sys/fs/cgroup/init.scope/cgroup.procs", os.W_OK),
}


def attempted(attempt: Callable[[], bool]) -> bool:
    """Whether it worked."""
    try:
        return attempt()
    except OSError:
        return False


print(json.dumps({name: attempted(attempt) for name, attempt in ATTEMPTS.items()}), flush=True)
time.sleep(1000)
