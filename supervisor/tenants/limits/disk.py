"""Measures how much each tenant with a limit keeps on disk: its folder, its logs, its packages, and its rows in the store."""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from corral.supervisor.records.store.store import Store, number_of
from corral.worker.contract.errors import CorralError

from ..quotas.room import DiskUse

LOOK_S = 5.0
"""Seconds between two looks at the disk at least."""

SHARE = 0.02
"""Ratio of the time that the looks take: a large folder is looked at less often."""

BLOCK_BYTES = 512
"""Bytes of a block in st_blocks, see stat(2)."""

ROWS = """
    SELECT (SELECT COALESCE(SUM(LENGTH(record)), 0) FROM task WHERE agent >= ? AND agent < ?)
        + (SELECT COALESCE(SUM(size_bytes), 0) FROM checkpoint WHERE agent >= ? AND agent < ?)
        + (SELECT COALESCE(SUM(size_bytes + session_bytes), 0) FROM memory_usage
            WHERE agent >= ? AND agent < ?)
"""

logger = logging.getLogger(__name__)


class TenantDisk:
    """Looks at the disk for one daemon."""

    def __init__(self, use: DiskUse, store: Store, state_dir: Path) -> None:
        self._use = use
        self._store = store
        self._state_dir = state_dir
        self._over = set[str]()
        self._on_over: list[Callable[[str, int, int], None]] = []
        self._on_room: list[Callable[[], None]] = []

    def subscribe(self, on_over: Callable[[str, int, int], None], on_room: Callable[[], None]) -> None:
        """Subscribes to both sides of the limits.

        `on_over` is called after each look with a tenant whose own files are larger than its limit, the limit, and their
        bytes; `on_room` when the files of a tenant fit into its limit again.
        """
        self._on_over.append(on_over)
        self._on_room.append(on_room)

    async def run(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            began = time.monotonic()
            for tenant in self._use.limited():
                await self._look(tenant)
            await asyncio.sleep(max(LOOK_S, (time.monotonic() - began) / SHARE))

    async def _look(self, tenant: str) -> None:
        files = await asyncio.to_thread(_folder_bytes, [self._state_dir / "tenants" / tenant])
        kept = files + await asyncio.to_thread(_folder_bytes, self._others(tenant))
        try:
            rows = await self._store.read(ROWS, (f"{tenant}/", f"{tenant}0") * 3)  # "0" follows "/"
        except CorralError as error:
            logger.warning("cannot measure the rows of tenant %s: %s", tenant, error)
            return
        self._use.note(tenant, kept + (number_of(rows[0][0]) if rows else 0), files)
        limit = self._use.limit(tenant)
        if limit and files >= limit:
            self._over.add(tenant)
            for report in self._on_over:
                report(tenant, limit, files)
        elif tenant in self._over:
            self._over.discard(tenant)
            for announce in self._on_room:
                announce()

    def _others(self, tenant: str) -> list[Path]:
        """Returns the folders, beside its own, that the daemon fills for a tenant."""
        found = [self._state_dir / part / tenant for part in ("logs", "packages")]
        for part in ("installed", "environments", "cache"):
            found += (self._state_dir / part).glob(f"{tenant}+*")
        return found


def _folder_bytes(folders: Sequence[Path]) -> int:
    """Returns the bytes that are allocated to all files below folders; a file with two names counts once."""
    seen = set[tuple[int, int]]()
    total = 0
    waiting = [str(each) for each in folders]
    while waiting:
        for found in _entries(waiting.pop()):
            try:
                status = found.stat(follow_symlinks=False)
            except OSError:
                continue  # it is gone
            if stat.S_ISDIR(status.st_mode):
                waiting.append(found.path)
            elif status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * BLOCK_BYTES
    return total


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError:
        return
