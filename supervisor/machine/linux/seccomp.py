"""Closes, by filters of system calls (seccomp(2)), ways past Landlock: to TCP connections, and to others' resource limits.

Landlock looks at connect(2) of a TCP socket, and a program may connect without it: by the first data of
TCP Fast Open (MSG_FASTOPEN), by MPTCP and SMC sockets, which fall back to plain TCP, and by io_uring, which
does any of these past this filter.  Each is answered as on a kernel that does not have it, so that programs
go on without.  Nor does Landlock look at prlimit(2), by which a process ends another of its user: one second of
processor time is soon used up.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .kernel import prctl
from .landlock import system_call

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_SECCOMP, MODE_FILTER = 22, 2
SET_MODE_FILTER, SPEC_ALLOW = 1, 1 << 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

# The 32 bits at an offset of seccomp_data: the call, the architecture, the lower half of an argument.
LOAD, RETURN, EQUAL, AT_LEAST, ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
CALL, ARCHITECTURE, ARGUMENTS = 0, 4, 16
X32 = 0x40000000

AF_SMC, IPPROTO_SMC, IPPROTO_MPTCP = 43, 256, 262
MSG_FASTOPEN = 0x20000000
IO_URING_SETUP = 425

GENERIC = (198, 206, 211, 269)
CALLS = {
    "x86_64": (0xC000003E, (41, 44, 46, 307)),
    "aarch64": (0xC00000B7, GENERIC),
    "riscv64": (0xC00000F3, GENERIC),
    "loongarch64": (0xC0000102, GENERIC),
}
"""By os.uname().machine, all little-endian: the architecture for audit(7), and the numbers of socket, sendto,
sendmsg and sendmmsg."""


SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "loongarch64": 277}
"""Number of seccomp(2) by machine."""

LIMITS = {
    "x86_64": ((0xC000003E, 302), (0xC000003E, X32 | 302), (0x40000003, 340)),
    "aarch64": ((0xC00000B7, 261), (0x40000028, 369)),
    "riscv64": ((0xC00000F3, 261),),
    "loongarch64": ((0xC0000102, 261),),
}
"""By machine: each architecture whose programs it runs, with the number of prlimit64 there."""


class Unknown(Exception):
    """Reports that no filter is known for this machine's architecture."""


def only_plain_connects() -> None:
    """Leaves this thread and all that it starts connect(2) of a TCP socket as the only way to connect.

    Programs of another architecture, such as 32-bit ones, can make no system call any more.  no_new_privs has to be set
    before.
    """
    install(b"".join(_filter(os.uname().machine)))


def only_own_limits() -> None:
    """Leaves this thread and all that it starts no resource limits to set but those of the process that asks, by pid 0.

    Limits of any process may still be read.  no_new_privs has to be set before.
    """
    install(limits_program(os.uname().machine))


def can_scope_limits() -> bool:
    """Returns whether `only_own_limits` is possible on this machine."""
    try:
        prctl(PR_SET_SECCOMP, MODE_FILTER)
    except OSError as error:
        # It has read the mode, and wants the program; see seccomp(2).
        return error.errno == errno.EFAULT and os.uname().machine in LIMITS
    return False


def header(program: bytes, address: int) -> bytes:
    """Encodes the struct sock_fprog of a program in memory."""
    return struct.pack("@HP", len(program) // 8, address)


def limits_program(machine: str) -> bytes:
    """Encodes the filter of `only_own_limits`."""
    try:
        calls = LIMITS[machine]
    except KeyError:
        raise Unknown(machine) from None
    steps: list[bytes] = []
    for architecture, call in calls:
        body = [
            load(ARGUMENTS),
            instruction(EQUAL, 0, then=5),  # of itself
            load(ARGUMENTS + 8 * 2),
            instruction(EQUAL, 0, otherwise=2),
            load(ARGUMENTS + 8 * 2 + 4),
            instruction(EQUAL, 0, then=1),  # no new limit: it only asks
            instruction(RETURN, ERRNO | errno.EPERM),
            instruction(RETURN, ALLOW),
        ]
        steps += [load(ARCHITECTURE), instruction(EQUAL, architecture, otherwise=2 + len(body))]
        steps += [load(CALL), instruction(EQUAL, call, otherwise=len(body)), *body]
    return b"".join([*steps, instruction(RETURN, ALLOW)])


def install(program: bytes) -> None:
    """Installs a filter, without the slower branches that kernels before 5.16 give a filtered process otherwise."""
    instructions = ctypes.create_string_buffer(program)
    encoded = header(program, ctypes.addressof(instructions))
    system_call(SECCOMP[os.uname().machine], SET_MODE_FILTER, SPEC_ALLOW, encoded)


def _filter(machine: str) -> Iterator[bytes]:
    try:
        architecture, (socket, sendto, sendmsg, sendmmsg) = CALLS[machine]
    except KeyError:
        raise Unknown(machine) from None
    yield load(ARCHITECTURE)
    yield instruction(EQUAL, architecture, then=1)
    yield instruction(RETURN, ERRNO | errno.EPERM)
    yield load(CALL)
    yield from _refuse(AT_LEAST, X32, errno.EPERM)
    yield from _refuse(EQUAL, IO_URING_SETUP, errno.ENOSYS)
    yield from _judge(socket, 0, EQUAL, (AF_SMC,), errno.EAFNOSUPPORT)
    yield from _judge(socket, 2, EQUAL, (IPPROTO_SMC, IPPROTO_MPTCP), errno.EPROTONOSUPPORT)
    yield from _judge(sendto, 3, ANY_BIT, (MSG_FASTOPEN,), errno.EOPNOTSUPP)
    yield from _judge(sendmsg, 2, ANY_BIT, (MSG_FASTOPEN,), errno.EOPNOTSUPP)
    yield from _judge(sendmmsg, 3, ANY_BIT, (MSG_FASTOPEN,), errno.EOPNOTSUPP)
    yield instruction(RETURN, ALLOW)


def _judge(call: int, argument: int, test: int, values: tuple[int, ...], number: int) -> Iterator[bytes]:
    """Returns instructions that refuse a call if its argument passes the test with one of the values."""
    body = [load(ARGUMENTS + 8 * argument)]
    for value in values:
        body += _refuse(test, value, number)
    body.append(load(CALL))
    yield instruction(EQUAL, call, otherwise=len(body))
    yield from body


def _refuse(test: int, value: int, number: int) -> Iterator[bytes]:
    yield instruction(test, value, otherwise=1)
    yield instruction(RETURN, ERRNO | number)


def load(offset: int) -> bytes:
    """Encodes the instruction that loads 32 bits of seccomp_data."""
    return instruction(LOAD, offset)


def instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Encodes a struct sock_filter; `then` and `otherwise` are numbers of instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
