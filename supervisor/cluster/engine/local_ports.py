"""Reserves ports of this machine for servers that are started later.

A port that is asked for by binding to 0 and let go may be given to another program before its server listens. These are outside
the range from which the kernel gives, and each is held by a name of its own, which the kernel frees when the process ends.
"""

import os
import socket
from pathlib import Path

from corral.worker.contract.errors import ResourceLimitExceeded

FIRST = 10_000
"""Number of the least port; servers with a port of their own rarely have one between it and the kernel's range."""

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")

Held = socket.socket
"""Holds one reservation until it is closed."""


def reserve(count: int) -> tuple[list[int], list[Held]]:
    """Returns ports that nothing listens on, and what holds them."""
    last = min(int(GIVEN.read_text().split()[0]), 2**16)
    size = last - FIRST
    ports, held = list[int](), list[Held]()
    for step in range(max(0, size)):
        if len(ports) == count:
            break
        port = FIRST + (os.getpid() * 64 + step) % size
        reservation = _reservation(port)
        if reservation is not None:
            ports.append(port)
            held.append(reservation)
    if len(ports) < count:
        for each in held:
            each.close()
        raise ResourceLimitExceeded(
            f"cannot reserve {count} ports: {len(ports)} are free between {FIRST} and {last}",
            limit="ports",
            value=count,
        )
    return ports, held


def _reservation(port: int) -> Held | None:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(f"\0corral-port-{port}")  # one process has it, and it is free when that ends
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("", port))
    except OSError:
        held.close()
        return None
    return held
