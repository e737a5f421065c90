"""Notes the SHA-256 of a version's files when it is installed, and compares them before each start of a worker.

Files that its install script has changed are noted as they are then, and files that it has made are not noted. A file
whose inode has not changed since it was read is not read again. All functions but `checked` block.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from corral.supervisor.workers.lifecycle.state_machine import CORRUPTED
from corral.supervisor.workers.process.launch import Order
from corral.worker.contract.errors import SpawnFailed

from .folders import MARKER, MarkedFolders

SUMS = "sums.json"
"""File beside the marker: path below the folder of files -> SHA-256 in hexadecimal."""

FILES = "files"
"""Folder of the package's own files in an installed folder."""

Stamp = tuple[int, int, int, int]


def files_in(folder: Path) -> list[str]:
    """Returns the paths of all regular files below a folder."""
    found = (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink())
    return sorted(str(each.relative_to(folder)) for each in found)


def note_sums(root: Path, names: Sequence[str]) -> None:
    """Notes the present content of files of an installed folder; one that is gone is left out."""
    sums = {name: _digest(root / FILES / name) for name in names}
    data = msgspec.json.encode({name: digest for name, digest in sums.items() if digest})
    target = root / SUMS
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


class Integrity:
    """Compares the files of installed versions with what was noted."""

    def __init__(self, installed: MarkedFolders) -> None:
        self._root = str(installed.root)
        self._seen: dict[str, tuple[Stamp, str]] = {}

    def covers(self, folder: str) -> bool:
        """Returns whether a working directory is that of a version whose installation has ended."""
        root = os.path.dirname(folder)
        return os.path.dirname(root) == self._root and os.path.exists(f"{root}/{MARKER}")

    async def checked(self, order: Order) -> Order:
        """Refuses a launch in a folder whose files have changed: a launch step."""
        folder = order.spec.process.working_directory
        if self.covers(folder) and (problem := await asyncio.to_thread(self.problem, folder)):
            raise SpawnFailed(
                f'cannot start "{order.spec.name}": {problem}; deploy the package again',
                result=CORRUPTED,
                agent=order.spec.name,
                retryable=False,
            )
        return order

    def problem(self, folder: str) -> str:
        """Returns which file of an installed version has changed; "" if none has."""
        try:
            sums = msgspec.json.decode((Path(folder).parent / SUMS).read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError) as error:
            return f"the list of its files cannot be read: {error}"
        for name, wanted in sums.items():
            if self._sum_of(os.path.join(folder, name)) != wanted:
                return f"{name} is not as it was installed"
        return ""

    def _sum_of(self, path: str) -> str:
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return ""
        # The time of the last change of the inode, unlike that of the content, cannot be set.
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)
        seen = self._seen.get(path)
        if seen is None or seen[0] != stamp:
            seen = self._seen[path] = (stamp, _digest(Path(path)))
        return seen[1]


def _digest(path: Path) -> str:
    """Returns the SHA-256 of a file; "" for one that cannot be read, or is no regular file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
