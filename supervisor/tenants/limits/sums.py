"""Decides, from figures alone, which worker of a tenant ends for all of them, when to look again, and who gets which share."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from corral.supervisor.workers.usage.limits import GROWTH_BYTES_PER_S, IDLE_LOOK_S, MIN_LOOK_S

from ..quotas.fair_share import shares

LOOK_S = 1.0
"""Seconds between two looks at a tenant that is far from its limits."""

HEADROOM = 1.5
"""Ratio of the share of a worker to its use, as long as there is enough for all."""

LEAST_PERCENT = 1.0
"""Percent of one core, the least share of a worker: with less it could not even be frozen and thawed."""

K = TypeVar("K")


class Over(NamedTuple):
    """Represents a limit that all workers of a tenant together have passed."""

    key: str
    limit: int
    used: int
    result: str
    reason: str


def over_memory(tenant: str, limit: int, used: Mapping[str, int]) -> tuple[str, Over] | None:
    """Returns the worker that uses the most bytes, and the limit that all of them together have passed; None for none."""
    total = sum(used.values())
    if not limit or total <= limit:
        return None
    worker = max(used, key=lambda each: used[each])
    text = (
        f'all processes of its tenant "{tenant}" use {_mib(total)} of max_memory_bytes = {_mib(limit)} of the tenant,'
        f" and its process tree the most, {_mib(used[worker])}"
    )
    return worker, Over("max_memory_bytes", limit, total, "oom", text)


def over_processes(tenant: str, limit: int, used: Mapping[str, int]) -> tuple[str, Over] | None:
    """Returns the worker with the most processes and threads, and the limit that all together have passed; None for none."""
    total = sum(used.values())
    if not limit or total <= limit:
        return None
    worker = max(used, key=lambda each: used[each])
    text = (
        f'all workers of its tenant "{tenant}" have {total} of max_processes = {limit} processes and threads of the'
        f" tenant, and its process tree the most, {used[worker]}"
    )
    return worker, Over("max_processes", limit, total, "processes", text)


def over_disk(tenant: str, limit: int, used: int) -> Over:
    """Returns the limit of disk that the files of a tenant's processes have passed."""
    text = f'the files of its tenant "{tenant}" have {_mib(used)} of max_disk_bytes = {_mib(limit)}'
    return Over("max_disk_bytes", limit, used, "disk", text)


def look_in_s(room_bytes: int | None, *, holds_cpu: bool, counts: bool) -> float:
    """Returns the seconds until the next look: before all memory that the machine can give in them fills the room."""
    wait_s = IDLE_LOOK_S if holds_cpu else LOOK_S
    if counts:
        wait_s = min(wait_s, LOOK_S / 4)
    if room_bytes is not None:
        wait_s = min(wait_s, room_bytes / GROWTH_BYTES_PER_S)
    return max(wait_s, MIN_LOOK_S)


def shared_percent(limit: int, wanted: Mapping[K, float]) -> dict[K, int]:
    """Returns the percent of one core that each worker of a tenant may use."""
    found = shares(float(limit), {key: max(LEAST_PERCENT, use * HEADROOM) for key, use in wanted.items()})
    spare = (limit - sum(found.values())) / max(len(found), 1)
    return {key: max(1, round(share + spare)) for key, share in found.items()}


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"
