"""Finds remains of an import that forks must not share: threads, sockets, processes and more, each by name.

A fork has one thread, and shares every open file description and all shared memory with its siblings: a thread that an
import has started does not exist in it, two forks that read from one connection get half of the data each, and a lock of
multiprocessing whose holder dies stays locked for all. An agent with such an import is started cold.

These are harmless: files open for reading or appending, and folders (each fork opens them again, see `reopen`, so that
it has its own offset); terminals and the kernel's /dev/null, zero and random; pidfds; and threads that their library
ends by itself before a fork, as OpenBLAS does, which a trial fork shows. An epoll, eventfd, timer or ring counts even if
nothing waits for it now. Standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from typing import NamedTuple

from corral.supervisor.machine.linux import kernel

NAMED = 32
"""Number of findings that are reported."""
NAME_LENGTH = 200
"""Characters of a finding's description."""
MEMORY_DEVICES = 1
"""Number of the major device of /dev/null, zero, full, random and urandom (null(4), random(4))."""


class Unfit(NamedTuple):
    """Names one obstacle to forks: `kind` is thread, socket, descriptor, process or memory; `module` introduced it."""

    kind: str
    what: str
    module: str


class Finding(NamedTuple):
    """Describes one object found in the process: `key` identifies it within its kind."""

    kind: str
    key: object
    what: str


class Inspection:
    """Inspects this process; objects that exist when the inspection is made do not count."""

    def __init__(self) -> None:
        self.own = frozenset(descriptors())
        self._own_memory = dict(_shared_memory())
        self._seen: dict[tuple[str, object], str] = {}

    def look(self, module: str) -> None:
        """Attributes all objects that are new since the last look to `module`."""
        for finding in self._findings():
            self._seen.setdefault(finding[:2], module)

    def judge(self) -> list[Unfit]:
        """Returns the obstacles to a fork now, each with the module after whose import it was first seen."""
        findings = list(self._findings())
        if any(finding.kind == "thread" for finding in findings):
            try_fork()
            findings = list(self._findings())
        return [
            Unfit(kind, one_line(what)[:NAME_LENGTH], self._seen.get((kind, key), ""))
            for kind, key, what in findings[:NAMED]
        ]

    def harmless(self) -> list[int]:
        """Returns the descriptors that an import has left open and that forks may keep."""
        return [fd for fd, link in descriptors().items() if fd not in self.own and not _hazard(fd, link)]

    def _findings(self) -> Iterator[Finding]:
        yield from _threads()
        for fd, link in descriptors().items():
            if fd not in self.own and (hazard := _hazard(fd, link)):
                yield Finding(hazard[0], (fd, link), hazard[1])
        yield from _processes()
        for place, what in _shared_memory():
            if self._own_memory.get(place) != what:
                yield Finding("memory", place, what)


def one_line(text: str) -> str:
    """Returns the text on one line in valid UTF-8, since names of files and threads may contain anything."""
    return " ".join(text.encode(errors="backslashreplace").decode().splitlines())


def descriptors() -> dict[int, str]:
    """Returns the open descriptors with the targets of their links in /proc/self/fd."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def reopen(fd: int) -> None:
    """Gives a regular file or folder an open file description of its own, at the same offset."""
    if not stat.S_ISREG(os.fstat(fd).st_mode) and not stat.S_ISDIR(os.fstat(fd).st_mode):
        return
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        own = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return  # it may not be opened any more: then it stays shared, as any inherited file
    try:
        if not flags & os.O_PATH and stat.S_ISREG(os.fstat(fd).st_mode):
            os.lseek(own, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
        os.dup2(own, fd, os.get_inheritable(fd))
    finally:
        os.close(own)


def try_fork() -> None:
    """Forks once for trial, so that the handlers of libraries (pthread_atfork(3)) have run."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel reaps it
        os.waitpid(pid, 0)


def _threads() -> Iterator[Finding]:
    known = {thread.native_id: thread for thread in threading.enumerate()}
    for name in os.listdir("/proc/self/task"):
        tid = int(name)
        if tid == os.getpid():
            continue
        thread = known.get(tid)
        if thread is not None:
            yield Finding("thread", tid, f"{thread.name}, {_target(thread)}")
        elif comm := kernel.read_proc(f"/proc/self/task/{tid}/comm"):
            yield Finding("thread", tid, f"{os.fsdecode(comm).strip()}, not of Python")


def _target(thread: threading.Thread) -> str:
    """Returns the name of the function that a thread runs, as far as it can be determined."""
    target: object = getattr(thread, "_target", None)
    if target is None:
        target = type(thread).run
    while hasattr(target, "func"):  # a partial
        target = target.func
    module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    return f"{module}.{name}" if name else type(target).__qualname__


def _processes() -> Iterator[Finding]:
    if kernel.HAS_CHILDREN_FILE:
        pids = [int(pid) for pid in kernel.read_proc(kernel.OWN_CHILDREN).split()]
    else:
        pids = kernel.children_by_parent(os.getpid())
    for pid in pids:
        process = kernel.look_up(pid)
        if process is not None and not process.is_dead:
            comm = os.fsdecode(kernel.read_proc(f"/proc/{pid}/comm")).strip()
            yield Finding("process", (pid, process.starttime), f"{comm}, pid {pid}")


def _shared_memory() -> Iterator[tuple[str, str]]:
    """Yields the address and the file of each writable shared mapping, see proc_pid_maps(5)."""
    for line in kernel.read_proc("/proc/self/maps").splitlines():
        place, rights, rest = line.split(maxsplit=2)
        if rights[1:2] == b"w" and rights[3:4] == b"s":
            path = rest.split(maxsplit=3)[3:]  # after offset, device and inode
            yield place.decode(), os.fsdecode(path[0]) if path else "anonymous"


def _hazard(fd: int, link: str) -> tuple[str, str] | None:
    """Returns kind and name of a descriptor that forks may not share; None if they may."""
    try:
        found, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:  # closed meanwhile
        return None
    mode = found.st_mode
    if stat.S_ISSOCK(mode):
        return "socket", _address(fd)
    if "pidfd" in link or stat.S_ISDIR(mode) or flags & os.O_PATH:
        return None
    if stat.S_ISFIFO(mode):
        return "descriptor", "pipe" if link.startswith("pipe:") else f"pipe {link}"
    if stat.S_ISCHR(mode):
        is_harmless = os.major(found.st_rdev) == MEMORY_DEVICES or os.isatty(fd)
        return None if is_harmless else ("descriptor", f"device {link}")
    if link.startswith("anon_inode:"):
        return "descriptor", link.partition(":")[2].strip("[]")
    is_reader = flags & os.O_ACCMODE == os.O_RDONLY
    if is_reader or flags & os.O_APPEND:
        return None
    return "descriptor", f"{link}, open for writing"


def _address(fd: int) -> str:
    """Describes a socket: address family, type and both ends."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        domain = sock.family.name if isinstance(sock.family, socket.AddressFamily) else sock.family
        kind = sock.type.name if isinstance(sock.type, socket.SocketKind) else sock.type
        text = f"{domain} {kind}"
        for ask, word in ((sock.getsockname, ""), (sock.getpeername, "to ")):
            try:
                address = ask()
            except OSError:
                continue
            if isinstance(address, tuple):
                address = ":".join(map(str, address[:2]))
            if address:
                text += f" {word}{address!s}"
    return text
