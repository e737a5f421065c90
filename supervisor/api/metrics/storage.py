"""Measures the bytes that the parts of the state folder take: rarely, and in a thread, since folders may be large."""

import os
from collections.abc import Mapping
from pathlib import Path

PARTS: Mapping[str, tuple[str, ...]] = {
    "store": ("corral.db", "corral.db-wal", "corral.db-shm"),
    "logs": ("logs",),
    "memory": ("cortex",),
    "packages": ("packages", "installed", "environments"),
}
"""Part -> the files and folders of it. The sessions and keys of agents are in the store, and their size is added to `memory`."""

ENTRIES_MAX = 500_000
"""Number of entries of one part that are looked at; further ones are not counted."""


def storage_bytes(state_dir: Path) -> dict[str, int]:
    """Returns the bytes on disk of each part; blocks."""
    return {part: sum(_bytes_of(str(state_dir / name)) for name in names) for part, names in PARTS.items()}


def _bytes_of(path: str) -> int:
    """Returns the bytes on disk of a file, or of all files below a folder; 0 of one that is gone."""
    found, left = 0, [path]
    looks = 0
    while left and looks < ENTRIES_MAX:
        each = left.pop()
        looks += 1
        try:
            with os.scandir(each) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    else:
                        looks += 1
                        found += _size_of(entry.stat(follow_symlinks=False))
        except NotADirectoryError:
            found += _size_of(os.lstat(each))
        except OSError:
            continue  # it was removed meanwhile
    return found


def _size_of(status: os.stat_result) -> int:
    return status.st_blocks * 512
