"""Ports for programs that are started later: no other program of the machine gets them by chance, nor another test."""

from corral.supervisor.cluster.engine.local_ports import Held, reserve

_held: list[Held] = []


def free_ports(count: int) -> list[int]:
    """Ports that stay reserved as long as this process lives."""
    ports, held = reserve(count)
    _held.extend(held)
    return ports


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]
