"""Keeps the secrets that were set by command: a file each in a folder of the state folder, readable by its owner alone.

A write replaces the whole file at once, so that a secret is the old or the new one after a `kill -9`. A secret may be
for some agents only. This module must not know which agents there are, and no error of it has a value.
"""

import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from msgspec import Struct

from corral.supervisor.machine.linux.durable import replace_file, sync_folder
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, Overloaded
from corral.worker.contract.names import SEPARATOR, TENANT

FOLDER = "secrets.d"
"""Name of the folder in the state folder."""

NAME = re.compile(rf"(?:{TENANT}/)?[A-Za-z_][A-Za-z0-9_.-]{{0,99}}")
"""Name of a secret of the owner, or the full one of a tenant's."""

JOINT = "+"
"""Stands for the `/` of a full name in the name of its file, which is in no name."""

MAX_VALUE_BYTES = 64 * 1024
"""Bytes of a value: the kernel takes 128 KiB for one variable of an environment."""


class KeptSecret(Struct, frozen=True, kw_only=True):
    """Represents a secret as its file has it."""

    value: str
    agents: tuple[str, ...] = ()
    """Globs of the agents and servers that may have it; all if there is none."""
    changed_at: str = ""

    def is_for(self, agent: str) -> bool:
        """Returns whether an agent or server may have it."""
        return not self.agents or any(fnmatchcase(agent, each) for each in self.agents)

    def __repr__(self) -> str:
        """Returns it without its value."""
        return f"KeptSecret(agents={self.agents!r}, changed_at={self.changed_at!r})"


@dataclass(frozen=True)
class SecretStore:
    """Reads and writes the secrets of one folder, which is made by the first write."""

    folder: Path

    def get(self, name: str) -> KeptSecret | None:
        """Returns a secret; None if there is none of this name."""
        if not NAME.fullmatch(name):
            return None
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & 0o077:
                raise ValueError(f"others may use its file, mode {mode:04o}: chmod 600")
            data = file.read()
        try:
            return msgspec.json.decode(data, type=KeptSecret)
        except msgspec.DecodeError:  # whose text may have a part of the value
            raise ValueError("its file is damaged; set it again") from None

    def names(self) -> list[str]:
        """Returns the names of the secrets, sorted."""
        try:
            found = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        names = (each.replace(JOINT, SEPARATOR) for each in found if SEPARATOR not in each)
        return sorted(each for each in names if NAME.fullmatch(each))

    def set(self, name: str, value: str, agents: tuple[str, ...], *, replace: bool) -> None:
        """Keeps a secret; on disk when this returns."""
        if not NAME.fullmatch(name):
            words = "a name has letters, digits, _ . and -, begins with a letter or _, and has 100 characters at most"
            raise InvalidParams(f'cannot set secret "{name}": {words}', key="name", value=name)
        if problem := _problem(value):
            raise InvalidParams(f'cannot set secret "{name}": {problem}', key="secret", name=name)
        if not replace and self._path(name).exists():
            words = f'it is there already; "corral secret rotate {name}" or --replace changes it'
            raise Conflict(f'cannot set secret "{name}": {words}', name=name)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            kept = KeptSecret(value=value, agents=agents, changed_at=now)
            replace_file(self._path(name), msgspec.json.encode(kept))
        except OSError as error:
            raise _refused(name, error) from None

    def rotate(self, name: str, value: str, agents: tuple[str, ...] | None) -> None:
        """Replaces the value of a secret, and its agents unless these are None; on disk when this returns."""
        try:
            before = self.get(name)
        except (OSError, ValueError):
            before = KeptSecret(value="")  # a damaged one is mended by this
            if agents is None:
                words = "its file is damaged: give the agents, too"
                raise InvalidParams(f'cannot rotate secret "{name}": {words}', key="agents") from None
        if before is None:
            raise NotFound(f'cannot find secret "{name}"; "corral secret set {name}" keeps one', name=name)
        self.set(name, value, before.agents if agents is None else agents, replace=True)

    def remove(self, name: str) -> None:
        """Removes a secret."""
        if name not in self.names():
            raise NotFound(f'cannot find secret "{name}"', name=name)
        try:
            os.unlink(self._path(name))
            sync_folder(self.folder)
        except OSError as error:
            raise _refused(name, error) from None

    def _path(self, name: str) -> Path:
        return self.folder / name.replace(SEPARATOR, JOINT)


def _problem(value: str) -> str:
    if not value:
        return "it is empty"
    if "\0" in value:
        return "it has a NUL, which no variable can have"
    size = len(value.encode("utf-8", "surrogatepass"))
    return f"it has {size} bytes of at most {MAX_VALUE_BYTES}" if size > MAX_VALUE_BYTES else ""


def _refused(name: str, error: OSError) -> Overloaded:
    return Overloaded(f'cannot write secret "{name}": {error.strerror}', name=name)
