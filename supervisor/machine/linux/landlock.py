"""Restricts a process and its descendants for good, by Landlock: files, TCP ports, signals (landlock(7)).

Mechanism only: the daemon decides which paths a program needs in order to run at all.  A restriction is held whole or
refused by name, also where the kernel could hold a part of it.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Iterable

# The same numbers on every architecture that Landlock came to, since all are newer than 424.
SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2

FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_MAKE_AND_REMOVE = 0b1_1111_1111 << 4  # REMOVE_DIR to MAKE_SYM
FS_REFER, FS_TRUNCATE, FS_IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
NET_CONNECT_TCP = 1 << 1
SCOPE_ABSTRACT_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1

READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR
WRITE = FS_WRITE_FILE | FS_MAKE_AND_REMOVE | FS_REFER | FS_TRUNCATE
OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV
"""The rights that apply to a file that is not a folder."""

NEEDED_ABI = {"read_paths": 2, "write_paths": 3, "connect_ports": 4, "scope_signals": 6}
"""The first ABI version that holds all of a key: version 1 forbids every move between folders, 2 does not cover truncate(2)."""
IOCTL_DEV_ABI = 5

UNREACHABLE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP))

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class Impossible(Exception):
    """Reports that the restriction `key` cannot be held: `errno`, the reason, and facts for programs."""

    def __init__(self, key: str, number: int, why: str, **facts: str) -> None:
        super().__init__(why)
        self.key = key
        self.errno = number
        self.why = why
        self.facts = facts


def abi() -> int:
    """Returns the kernel's Landlock ABI version; 0 where it is not built in or switched off."""
    try:
        return system_call(SYS_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict(
    *,
    read_paths: Iterable[str] | None = None,
    write_paths: Iterable[str] | None = None,
    connect_ports: Iterable[int] | None = None,
    scope_signals: bool = False,
    scope_sockets: bool = False,
    temporary: str | None = None,
    version: int | None = None,
) -> None:
    """Restricts this thread and all that it starts to these paths and ports; None restricts nothing.

    A writable path is readable too, and `temporary` is both.  A path that begins with "-" is skipped where it cannot
    be reached, as in systemd.exec(5).  `scope_sockets` keeps it from abstract sockets of others.  no_new_privs has to be set before.  `version` is the kernel's unless given.
    """
    asked = {
        "read_paths": read_paths is not None,
        "write_paths": write_paths is not None,
        "connect_ports": connect_ports is not None,
        "scope_signals": scope_signals,
    }
    if not any(asked.values()) and not scope_sockets:
        return
    version = abi() if version is None else version
    _check(asked, version)
    writing = WRITE | (FS_IOCTL_DEV if version >= IOCTL_DEV_ABI else 0)
    files = (READ if asked["read_paths"] else 0) | (writing if asked["write_paths"] else 0)
    if files:
        files |= FS_REFER  # a ruleset for files denies moves between folders unless it says otherwise
    fields = (files, NET_CONNECT_TCP if asked["connect_ports"] else 0)
    attributes = struct.pack("=QQ", *fields)
    if version >= NEEDED_ABI["scope_signals"]:
        scopes = SCOPE_SIGNAL if scope_signals else 0
        attributes += struct.pack("=Q", scopes | (SCOPE_ABSTRACT_SOCKET if scope_sockets else 0))
    elif version < NEEDED_ABI["connect_ports"]:
        attributes = attributes[:8]
    ruleset = system_call(SYS_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        if files and not asked["write_paths"]:
            # The kernel still denies a move by which a file would become more readable than it was.
            _allow(ruleset, "read_paths", "/", FS_REFER)
        for path in read_paths or ():
            _allow(ruleset, "read_paths", path, READ)
        for path in write_paths or ():
            _allow(ruleset, "write_paths", path, files)
        if temporary is not None and files:
            _allow(ruleset, "temporary", temporary, files)
        for port in connect_ports or ():
            system_call(SYS_ADD_RULE, ruleset, RULE_NET_PORT, struct.pack("=QQ", NET_CONNECT_TCP, port), 0)
        system_call(SYS_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _check(asked: dict[str, bool], version: int) -> None:
    """Refuses a restriction that needs a later kernel."""
    for key, needed in NEEDED_ABI.items():
        if asked[key] and version < needed:
            has = f"this kernel has {version}" if version else "this kernel has none"
            why = f"it needs version {needed} of Landlock, and {has}"
            raise Impossible(key, errno.EOPNOTSUPP, why, **{"needs_abi": str(needed), "abi": str(version)})


def _allow(ruleset: int, key: str, path: str, rights: int) -> None:
    """Allows these rights on a file, or on a folder and everything below it."""
    optional, path = path.startswith("-"), path.removeprefix("-")
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        number = error.errno or errno.EINVAL
        if number not in UNREACHABLE:
            raise
        if optional:
            return
        raise Impossible(key, number, _unreachable(number), path=path) from None
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= OF_FILES
        # A packed struct: the kernel takes twelve bytes.
        system_call(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _unreachable(number: int) -> str:
    return {
        errno.ENOENT: "it does not exist",
        errno.ENOTDIR: "a part of it is not a folder",
        errno.EACCES: f"uid {os.getuid()} may not reach it",
    }.get(number, os.strerror(number).lower())


def system_call(number: int, *arguments: bytes | int | None) -> int:
    """Makes a system call and returns its result."""
    # An int goes as a whole register: through the C library's variadic syscall(2) half would be noise.
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _syscall(ctypes.c_long(number), *words)
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result
