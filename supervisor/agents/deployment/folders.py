"""Owns a folder of folders, each of which is whole once its marker is written, last and synced, and compares their files.

Environments and installed packages cannot be moved after they were built: programs in them name their paths. So each is
built under its final name, and whatever has no marker is the rest of a build that was killed. The SHA-256 of a version's files
is noted when it is installed, and compared before each start of a worker: files that its install script has changed are
noted as they are then, and files that it has made are not. A file whose inode has not changed is not read again.
"""

import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.machine.launcher.child_setup import Refused, identity_of
from corral.supervisor.machine.linux.kernel import sync_file_system
from corral.supervisor.workers.lifecycle.state_machine import CORRUPTED
from corral.supervisor.workers.process.launch import Identity, Order
from corral.supervisor.workers.process.sandbox import remove_temporary
from corral.worker.contract.errors import SpawnFailed

MARKER = ".whole"
OF_TENANT = "+"
"""Ends the name of a tenant that a folder belongs to, at the beginning of the folder's name."""
REMOVAL_S = 60.0
"""Seconds that the removal of one folder may take: the next start removes the rest."""


class Owner(Struct, frozen=True):
    """Represents the user that an agent runs as; `is_other` unless that is the daemon's own."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Returns whether files of the daemon are another user's for it."""
        return self.uid != os.getuid()

    @classmethod
    def of(cls, spec: Spec, identity: Identity | None, default_user: str | None) -> "Owner":
        """Returns the user of a spec; `identity` is that of one who is a number alone."""
        if identity is not None:
            return cls(identity[0], identity[1])
        try:
            uid, gid, _ = identity_of(spec.process.user or default_user, spec.process.group)
        except Refused as error:
            raise SpawnFailed(f'cannot install "{spec.name}": {error}', agent=spec.name) from None
        return cls(uid, gid)

    def give(self, path: Path) -> None:
        """Makes the user the owner of one folder."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def give_tree(self, path: Path) -> None:
        """Makes the user the owner of a folder and all in it, which nobody else has been able to change."""
        if self.is_other:
            for _, folders, files, fd in os.fwalk(path, follow_symlinks=False):
                os.fchown(fd, self.uid, self.gid)
                for name in (*folders, *files):
                    os.chown(name, self.uid, self.gid, dir_fd=fd, follow_symlinks=False)

    def take_tree(self, path: Path) -> None:
        """Takes a folder back from the user, which can read and run all in it then, and change nothing.

        The user may have put anything there: files with a second name elsewhere and those of others stay as they are.
        """
        if not self.is_other:
            return
        for _, _, files, fd in os.fwalk(path, follow_symlinks=False):
            if os.fstat(fd).st_uid == self.uid:
                os.fchown(fd, os.getuid(), self.gid)
                os.fchmod(fd, 0o750)
            for name in files:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == self.uid:
                    os.chown(name, os.getuid(), self.gid, dir_fd=fd, follow_symlinks=False)
                    mode = stat.S_IMODE(found.st_mode) & 0o755
                    os.chmod(name, mode | (0o050 if mode & 0o100 else 0o040), dir_fd=fd)


class MarkedFolders:
    """Keeps folders by name in `root`. Its methods block; none is called for one name at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Makes the root; other users can pass through it, not list it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o711 if os.getuid() == 0 else 0o700)

    def path_of(self, name: str) -> Path:
        """Returns the path of a folder, which need not exist."""
        return self.root / name

    def is_whole(self, name: str) -> bool:
        """Returns whether the folder is there, complete."""
        return (self.root / name / MARKER).is_file()

    def begin(self, name: str) -> Path:
        """Makes a folder that is not whole; one of this name before it is removed."""
        path = self.root / name
        remove(path)
        path.mkdir(mode=0o700)
        if os.getuid() == 0:
            path.chmod(0o711)  # whatever the umask: its user passes through it
        return path

    def finish(self, name: str) -> None:
        """Marks a folder as whole, once all in it is on the disk."""
        path = self.root / name
        sync_file_system(path)
        (path / MARKER).touch(mode=0o600, exist_ok=True)
        sync_file_system(path)

    def set_aside(self) -> list[Path]:
        """Renames what an earlier daemon did not finish, and returns it; to be called before anything is built."""
        found: list[Path] = []
        for path in sorted(self.root.iterdir()):
            if not (path / MARKER).is_file():
                aside = path if path.name.startswith(".") else self.root / f".{path.name}"
                if aside != path:
                    remove(aside)
                    path.rename(aside)
                found.append(aside)
        return found

    def unused(self, used: Collection[str]) -> list[Path]:
        """Returns the whole folders that are not `used`."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(p for p in self.root.iterdir() if p.name not in used and (p / MARKER).is_file())
        return []


def remove(path: Path) -> bool:
    """Removes a folder and its content, which may be hostile; returns whether nothing of it is left."""
    with contextlib.suppress(OSError):  # first: a folder that is half removed is not whole
        (path / MARKER).unlink()
    return remove_temporary(str(path), REMOVAL_S)


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
            words = f'cannot start "{order.spec.name}": {problem}; deploy the package again'
            raise SpawnFailed(words, result=CORRUPTED, agent=order.spec.name, retryable=False)
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
