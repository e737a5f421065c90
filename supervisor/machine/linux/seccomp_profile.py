"""Encodes the seccomp filter of the level strict: system calls that a program inside a sandbox has no business with.

Refused are the ways to another process's memory, to mounts and new namespaces, to the kernel's keys, modules, clocks and
programs (bpf), to io_uring, which other filters do not see, and to sockets other than unix, IPv4, IPv6 and netlink. Each
is answered as by a kernel or a user without it, so that programs go on. Standard library alone, like `seccomp`.
"""

from __future__ import annotations

import errno

from .seccomp import (
    ALLOW,
    ANY_BIT,
    ARCHITECTURE,
    ARGUMENTS,
    AT_LEAST,
    CALL,
    EQUAL,
    ERRNO,
    RETURN,
    X32,
    Unknown,
    instruction,
    load,
)

REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "vhangup": (153, 58),
    "syslog": (103, 116),
}
"""System calls that are refused with EPERM: their numbers on x86_64, and on the machines with the generic table."""

MISSING = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
"""System calls that are not there (ENOSYS): of clone3 a filter cannot see the flags, and libraries use clone without it."""

PORTS = (172, 173)
"""iopl and ioperm, of x86_64 alone."""

NEW_NAMESPACES = 0x7E020080
"""Bits of the flags of clone(2) and unshare(2) that make a namespace: CLONE_NEWNS, NEWTIME, and NEWCGROUP to NEWNET."""

DOMAINS = (1, 2, 10, 16)
"""Numbers of the domains of socket(2) that are left: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. AF_VSOCK is in no network namespace."""

FROM_NEWTIME = 0x80
"""Bit of CLONE_NEWTIME, which in clone(2) is a part of the signal number, and counts for unshare(2) alone."""

TABLES = {
    "x86_64": (0xC000003E, 0, {"clone": 56, "unshare": 272, "socket": 41, "socketpair": 53}),
    "aarch64": (0xC00000B7, 1, {"clone": 220, "unshare": 97, "socket": 198, "socketpair": 199}),
    "riscv64": (0xC00000F3, 1, {"clone": 220, "unshare": 97, "socket": 198, "socketpair": 199}),
    "loongarch64": (0xC0000102, 1, {"clone": 220, "unshare": 97, "socket": 198, "socketpair": 199}),
}
"""By os.uname().machine: the architecture for audit(7), the column of the numbers, and the calls whose arguments count."""


def strict_program(machine: str) -> bytes:
    """Encodes the filter; programs of another architecture, such as 32-bit ones, can make no system call."""
    try:
        architecture, column, judged = TABLES[machine]
    except KeyError:
        raise Unknown(machine) from None
    steps = [
        load(ARCHITECTURE),
        instruction(EQUAL, architecture, then=1),
        instruction(RETURN, ERRNO | errno.EPERM),
        load(CALL),
    ]
    if machine == "x86_64":
        steps += _refuse(AT_LEAST, X32, errno.EPERM)
        for number in PORTS:
            steps += _refuse(EQUAL, number, errno.EPERM)
    for numbers in REFUSED.values():
        steps += _refuse(EQUAL, numbers[column], errno.EPERM)
    for numbers in MISSING.values():
        steps += _refuse(EQUAL, numbers[column], errno.ENOSYS)
    namespaces = _refuse(ANY_BIT, NEW_NAMESPACES & ~FROM_NEWTIME, errno.EPERM)
    steps += _judged(judged["clone"], namespaces)
    steps += _judged(judged["unshare"], _refuse(ANY_BIT, NEW_NAMESPACES, errno.EPERM))
    left = [instruction(EQUAL, domain, then=len(DOMAINS) - at) for at, domain in enumerate(DOMAINS)]
    domains = [*left, instruction(RETURN, ERRNO | errno.EAFNOSUPPORT)]
    for name in ("socket", "socketpair"):
        steps += _judged(judged[name], domains)
    return b"".join([*steps, instruction(RETURN, ALLOW)])


def _judged(call: int, body: list[bytes]) -> list[bytes]:
    """Returns instructions that apply `body` to the first argument of a call."""
    whole = [load(ARGUMENTS), *body, load(CALL)]
    return [instruction(EQUAL, call, otherwise=len(whole)), *whole]


def _refuse(test: int, value: int, number: int) -> list[bytes]:
    return [instruction(test, value, otherwise=1), instruction(RETURN, ERRNO | number)]
