"""Closes, by a filter of system calls (seccomp(2)), the ways to a TCP connection that Landlock does not see.

Landlock looks at connect(2) of a TCP socket, and a program may connect without it: by the first data of
TCP Fast Open (MSG_FASTOPEN), by MPTCP and SMC sockets, which fall back to plain TCP, and by io_uring, which
does any of these past this filter.  Each is answered as on a kernel that does not have it, so that programs
go on without.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .kernel import prctl

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_SECCOMP, MODE_FILTER = 22, 2
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


class Unknown(Exception):
    """Reports that no filter is known for this machine's architecture."""


def only_plain_connects() -> None:
    """Leaves this thread and all that it starts connect(2) of a TCP socket as the only way to connect.

    Programs of another architecture, such as 32-bit ones, can make no system call any more.  no_new_privs has to be set
    before.

    Raises:
        Unknown: there is no filter for this architecture.
        OSError: the kernel has no seccomp.
    """
    program = b"".join(_filter(os.uname().machine))
    instructions = ctypes.create_string_buffer(program)
    prog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    header = ctypes.create_string_buffer(prog)
    prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(header))


def _filter(machine: str) -> Iterator[bytes]:
    try:
        architecture, (socket, sendto, sendmsg, sendmmsg) = CALLS[machine]
    except KeyError:
        raise Unknown(machine) from None
    yield _load(ARCHITECTURE)
    yield _instruction(EQUAL, architecture, then=1)
    yield _instruction(RETURN, ERRNO | errno.EPERM)
    yield _load(CALL)
    yield from _refuse(AT_LEAST, X32, errno.EPERM)
    yield from _refuse(EQUAL, IO_URING_SETUP, errno.ENOSYS)
    yield from _judge(socket, 0, EQUAL, (AF_SMC,), errno.EAFNOSUPPORT)
    yield from _judge(socket, 2, EQUAL, (IPPROTO_SMC, IPPROTO_MPTCP), errno.EPROTONOSUPPORT)
    yield from _judge(sendto, 3, ANY_BIT, (MSG_FASTOPEN,), errno.EOPNOTSUPP)
    yield from _judge(sendmsg, 2, ANY_BIT, (MSG_FASTOPEN,), errno.EOPNOTSUPP)
    yield from _judge(sendmmsg, 3, ANY_BIT, (MSG_FASTOPEN,), errno.EOPNOTSUPP)
    yield _instruction(RETURN, ALLOW)


def _judge(
    call: int, argument: int, test: int, values: tuple[int, ...], number: int
) -> Iterator[bytes]:
    """Returns instructions that refuse a call if its argument passes the test with one of the values."""
    body = [_load(ARGUMENTS + 8 * argument)]
    for value in values:
        body += _refuse(test, value, number)
    body.append(_load(CALL))
    yield _instruction(EQUAL, call, otherwise=len(body))
    yield from body


def _refuse(test: int, value: int, number: int) -> Iterator[bytes]:
    yield _instruction(test, value, otherwise=1)
    yield _instruction(RETURN, ERRNO | number)


def _load(offset: int) -> bytes:
    return _instruction(LOAD, offset)


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Encodes a struct sock_filter; `then` and `otherwise` are numbers of instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
