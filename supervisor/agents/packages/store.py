"""Keeps the packages of a daemon: the archives in a folder by digest, their records in the store.

An archive is verified whole before its record is written, and only a record makes it a package. So a daemon that is killed
at any moment leaves a file without a record at most, which the next start removes. A tenant has packages of its own: their names
are TENANT/NAME, their archives lie in a folder of it, and no two owners share one.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
from msgspec import Struct

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.machine.linux.durable import sync_folder
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
)
from corral.worker.contract.names import qualified

from .archive import CHUNK, opened
from .package import Package, read_package
from .spec import PackageSpec

UPLOADS_MAX = 4
"""Number of uploads of one owner at a time."""

IDLE_S = 600.0
"""Seconds after which an upload that got no bytes gives way to another."""

PACKAGES_MAX = 10_000
"""Number of packages of the owner."""

TENANT_PACKAGES_MAX = 1000
"""Number of packages of a tenant."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Stored(Struct, frozen=True, kw_only=True):
    """Represents a package that was added; `lock` is the text of its lock, or ""."""

    spec: PackageSpec
    digest: str
    size_bytes: int
    content_bytes: int
    files: int
    signer: str
    lock: str
    added_at: str
    added_by: str
    tenant: str = ""

    @property
    def name(self) -> str:
        """Returns its full name."""
        return qualified(self.spec.name, self.tenant)

    @property
    def reference(self) -> str:
        """Returns NAME@VERSION, with its full name."""
        return f"{self.name}@{self.spec.version}"


class _Upload:
    def __init__(self, path: Path, tenant: str, now: float) -> None:
        self.path = path
        self.tenant = tenant
        self.size = 0
        self.at = now
        self.is_busy = False


Users = Callable[[str, str], Sequence[str]]
"""Returns the names of the agents that need a package, by its name and digest."""


class Packages:
    """Holds the packages of one daemon."""

    def __init__(
        self, store: Store, folder: Path, in_force: InForce, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._folder = folder
        self._in_force = in_force
        self._users: list[Users] = []
        self._clock = clock
        self._kept: dict[tuple[str, str], Stored] = {}
        self._uploads: dict[str, _Upload] = {}
        self._turn = asyncio.Lock()

    def keep_for(self, users: Users) -> None:
        """Keeps packages as long as `users` returns the names of agents that need them."""
        self._users.append(users)

    def users(self, name: str, digest: str) -> list[str]:
        """Returns the names of the agents that need a package."""
        return [user for find in self._users for user in find(name, digest)]

    async def load(self) -> None:
        """Reads the records, and removes the files of an earlier daemon that have none."""
        rows = await self._store.read("SELECT name, version, record FROM package ORDER BY name, version")
        for name, version, blob in rows:
            try:
                data = unseal(blob if isinstance(blob, bytes) else b"", f"package {name}@{version}")
                self._kept[str(name), str(version)] = msgspec.json.decode(data, type=Stored)
            except (Corrupted, msgspec.MsgspecError) as error:
                logger.error("cannot use package %s@%s: its record is damaged: %s", name, version, error)
        if len(self._kept) == len(rows):  # a damaged record does not cost its archive
            kept = {self._path(each.digest, each.tenant) for each in self._kept.values()}
            await asyncio.to_thread(self._sweep, kept)

    def _sweep(self, kept: set[Path]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._folder.rglob("*"):
            if path not in kept and not path.is_dir():
                path.unlink()

    async def upload(self, upload: str | None, offset: int, data: str, tenant: str = "") -> tuple[str, int]:
        """Appends bytes in base64 to an upload of an owner, or a new one; returns its id and size. A repeated chunk is answered as at first."""
        content = _decoded(data)
        key = self._begin(tenant) if upload is None else upload
        found = self._of(key, tenant)
        try:
            if found.is_busy:
                raise Conflict("cannot upload: another call is writing to this upload", upload=key)
            if offset + len(content) == found.size and offset < found.size:
                return key, found.size
            if offset != found.size:
                words = f"cannot upload: the bytes begin at {offset}, and {found.size} have arrived"
                raise Conflict(words, upload=key, offset=found.size)
            self._check_size(found.size + len(content))
            found.is_busy = True
            try:
                await _finished(asyncio.to_thread(_append, found.path, content))
                found.size += len(content)
            finally:
                found.is_busy = False
        except CorralError:
            if upload is None:
                self._drop(key)
            raise
        found.at = self._clock()
        return key, found.size

    def _begin(self, tenant: str) -> str:
        now = self._clock()
        for key, each in list(self._uploads.items()):
            if now - each.at > IDLE_S and not each.is_busy:
                self._drop(key)
        if sum(each.tenant == tenant for each in self._uploads.values()) >= UPLOADS_MAX:
            words = f"cannot upload: {UPLOADS_MAX} packages are being uploaded"
            raise Overloaded(words, limit=UPLOADS_MAX, retry_after_s=10.0)
        key = secrets.token_hex(16)
        self._uploads[key] = _Upload(self._folder / tenant / f"upload-{key}.part", tenant, now)
        return key

    def _of(self, key: str, tenant: str) -> _Upload:
        found = self._uploads.get(key)
        if found is None or found.tenant != tenant:
            raise NotFound("cannot find this upload: it was added, or waited too long", upload=key)
        return found

    def _drop(self, key: str) -> None:
        self._uploads.pop(key).path.unlink(missing_ok=True)

    def _check_size(self, size: int) -> None:
        limit = self._in_force.config.packages.max_bytes
        if size > limit:
            words = f"cannot take a package of more than {limit} bytes (packages.max_bytes)"
            raise ResourceLimitExceeded(words, limit=limit, value=size)

    async def add(self, key: str, sha256: str | None, by: str, at: str, tenant: str = "") -> Stored:
        """Verifies an upload of an owner and keeps it as a package; returns the one of the same content that is there. The upload is gone afterwards."""
        found = self._of(key, tenant)
        if found.is_busy:
            raise Conflict("cannot add: another call is writing to this upload", upload=key)
        found.is_busy = True
        return await _finished(self._add(key, found, sha256, by, at))

    async def _add(self, key: str, found: _Upload, sha256: str | None, by: str, at: str) -> Stored:
        try:
            async with self._turn:
                package = await asyncio.to_thread(_verified, found.path, sha256)
                self._check_signature(package)
                record = Stored(
                    spec=package.spec,
                    digest=package.digest,
                    size_bytes=found.size,
                    content_bytes=package.manifest.size_bytes,
                    files=len(package.manifest.files),
                    signer=package.signer,
                    lock=package.lock,
                    added_at=at,
                    added_by=by,
                    tenant=found.tenant,
                )
                before = self._kept.get((record.name, package.spec.version))
                return await self._keep(found.path, record) if before is None else _same(before, record)
        finally:
            await asyncio.to_thread(self._drop, key)

    async def _keep(self, path: Path, record: Stored) -> Stored:
        limit = TENANT_PACKAGES_MAX if record.tenant else PACKAGES_MAX
        count = sum(each.tenant == record.tenant for each in self._kept.values())
        if count >= limit:
            raise ResourceLimitExceeded(f"cannot add a package: there are {limit}", limit=limit, value=count)
        target = self._path(record.digest, record.tenant)
        await asyncio.to_thread(_place, path, target)
        sealed = seal(msgspec.json.encode(record), compress=True)
        key = record.name, record.spec.version
        statement = "INSERT INTO package (name, version, digest, record) VALUES (?, ?, ?, ?)"
        digest = qualified(record.digest, record.tenant)  # each owner has a content once
        try:
            await self._store.write((statement, (*key, digest, sealed)))
        except (CorralError, sqlite3.Error):
            await asyncio.to_thread(target.unlink, missing_ok=True)
            raise
        self._kept[key] = record
        return record

    def _check_signature(self, package: Package) -> None:
        """Refuses a package by a key that is not trusted, and one without a signature where they are required."""
        settings = self._in_force.config.packages
        if not settings.require_signature or package.signer in settings.trusted_keys:
            return
        reason = f"{package.signer} is not in packages.trusted_keys" if package.signer else "it is not signed"
        words = f"cannot take the package {package.reference}: {reason}"
        raise PermissionDenied(words, package=package.reference, signer=package.signer or None)

    async def remove(self, reference: str) -> Stored:
        """Removes a package."""
        return await _finished(self._remove(reference))

    async def _remove(self, reference: str) -> Stored:
        async with self._turn:
            found = self.of(reference)
            if users := self.users(found.name, found.digest):
                words = f"cannot remove the package {found.reference}: {', '.join(users)} can come back to it"
                raise Conflict(words, package=found.reference, used_by=users)
            key = found.name, found.spec.version
            await self._store.write(("DELETE FROM package WHERE name = ? AND version = ?", key))
            del self._kept[key]
            await asyncio.to_thread(self._path(found.digest, found.tenant).unlink, missing_ok=True)
            return found

    def forget(self, tenant: str) -> None:
        """Drops the packages and the uploads of a tenant that is removed; its rows and files are erased with it."""
        self._kept = {key: each for key, each in self._kept.items() if each.tenant != tenant}
        for key in [key for key, each in self._uploads.items() if each.tenant == tenant]:
            self._drop(key)

    def list(self, name: str | None = None) -> list[Stored]:
        """Returns the packages by name, of each the highest version first."""
        names = sorted({key[0] for key in self._kept if name in (None, key[0])})
        return [each for one in names for each in _by_version(self._kept[k] for k in self._kept if k[0] == one)]

    def of(self, reference: str) -> Stored:
        """Returns the package that NAME@VERSION names, or NAME: its highest version, a final one where there is one."""
        name, _, version = reference.partition("@")
        found = self.list(name)
        if version:
            found = [each for each in found if each.spec.version in (version, _normal(version))]
        finals = [each for each in found if not _is_preview(each.spec.version)]
        chosen = next(iter(finals or found), None)
        if chosen is None:
            raise no_package(reference)
        return chosen

    async def find(self, reference: str) -> Stored:
        """Returns the package that a reference names, after each byte of it was verified."""
        found = self.of(reference)
        self._check_signature(await asyncio.to_thread(self._checked, found.digest, found.tenant))
        return found

    def unpack(self, digest: str, target: Path, tenant: str = "") -> None:
        """Writes the files of a package of an owner into an empty folder, and verifies them meanwhile; blocks."""
        self._checked(digest, tenant, target)

    def _checked(self, digest: str, tenant: str, target: Path | None = None) -> Package:
        path = self._path(digest, tenant)
        try:
            with opened(path) as file:
                package = read_package(file, target)
        except (CorralError, OSError) as error:
            if target is not None and not isinstance(error, CorralError | FileNotFoundError):
                raise  # the disk that is written to is full
            raise _corrupted(path, digest, str(error)) from error
        if package.digest != digest:
            raise _corrupted(path, digest, "it is another package")
        return package

    def _path(self, digest: str, tenant: str = "") -> Path:
        return self._folder / tenant / f"{digest}.corral"


def no_package(reference: str) -> NotFound:
    """Returns the error of a reference that names no package."""
    return NotFound(f'cannot find a package "{reference}"; corral package list shows all', package=reference)


async def _finished(work: Coroutine[object, object, T]) -> T:
    """Completes work also where its caller is cancelled meanwhile."""
    return await asyncio.shield(work)


def _corrupted(path: Path, digest: str, reason: str) -> Corrupted:
    words = f'cannot use the package in "{path}": it was changed: {reason}'
    return Corrupted(words, record=digest, path=str(path), reason=reason)


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParams(f"cannot upload: the data is no base64: {error}", key="data") from error


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def _verified(path: Path, sha256: str | None) -> Package:
    with opened(path) as file:
        if sha256 is not None and (found := _digest_of_file(file)) != sha256:
            words = f"cannot add the package: its SHA-256 is {found}, and not {sha256}"
            raise InvalidParams(words, key="sha256", value=found)
        return read_package(file)


def _digest_of_file(file: BinaryIO) -> str:
    found = hashlib.sha256()
    while data := file.read(CHUNK):
        found.update(data)
    return found.hexdigest()


def _same(before: Stored, record: Stored) -> Stored:
    if before.digest == record.digest:
        return before
    words = f"cannot add the package {record.reference}: there is one with another content; give it another version"
    raise Conflict(words, package=record.reference, digest=before.digest)


def _place(path: Path, target: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o400)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(path, target)
    sync_folder(target.parent)


def _by_version(found: Iterable[Stored]) -> Sequence[Stored]:
    from packaging.version import Version  # noqa: PLC0415  # only who has packages pays

    return sorted(found, key=lambda each: Version(each.spec.version), reverse=True)


def _is_preview(version: str) -> bool:
    from packaging.version import Version  # noqa: PLC0415  # likewise

    return Version(version).is_prerelease


def _normal(version: str) -> str:
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415  # likewise

    with contextlib.suppress(InvalidVersion):
        return str(Version(version))
    return version
