"""Reads a whole package: the archive, its package.toml, its lock and its signature, which have to agree."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from corral.worker.contract.errors import InvalidParams

from .archive import Archive, Reader, mode_of
from .manifest import LOCKS, MANIFEST_MAX_BYTES, PACKAGE_TOML, Manifest, refused, too_large
from .signature import verify
from .spec import PackageSpec, decode_package


class Package(Struct, frozen=True):
    """Describes a package that was read whole: `lock` is the text of its lock or "", `signer` the public key or ""."""

    spec: PackageSpec
    manifest: Manifest
    digest: str
    lock: str = ""
    signer: str = ""

    @property
    def reference(self) -> str:
        """Returns NAME@VERSION."""
        return f"{self.spec.name}@{self.spec.version}"


def read_package(source: BinaryIO, folder: Path | None = None) -> Package:
    """Reads a package from the beginning of a file to its end, and verifies everything; writes its files into an empty folder.

    A signature that it has must be right; whether its key counts is for the caller to say. A failure may leave some of the
    files.
    """
    reader = Reader(source)
    kept: dict[str, bytes] = {}
    for entry, content in reader.files():
        if entry.path in (PACKAGE_TOML, *LOCKS):
            if entry.size > MANIFEST_MAX_BYTES:
                raise too_large(f"the size of {entry.path}", entry.size, MANIFEST_MAX_BYTES)
            kept[entry.path] = b"".join(content)
            content = iter([kept[entry.path]])
        if folder is not None:
            _write(folder / entry.path, content, mode_of(entry))
    found = reader.archive
    spec = decode_package(kept[PACKAGE_TOML])
    check_agreement(spec, found.manifest)
    lock = next((kept[name] for name in LOCKS if name in kept), b"")
    try:
        text = lock.decode()
    except UnicodeDecodeError as error:
        raise refused("its lock is not UTF-8") from error
    return Package(spec, found.manifest, found.digest, text, signer_of(found))


def _write(path: Path, content: Iterable[bytes], mode: int) -> None:
    """Writes a file, of which nothing is there yet; only the daemon can change the folder meanwhile, and no link is followed."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.writelines(content)
        os.fchmod(file.fileno(), mode)


def signer_of(archive: Archive) -> str:
    """Returns the public key that signed an archive, "" where it has no signature."""
    return verify(archive.signature, archive.manifest.encode()) if archive.signature else ""


def check_agreement(spec: PackageSpec, manifest: Manifest) -> None:
    """Checks that a manifest is that of a package.toml."""
    for key in ("name", "version"):
        written, listed = getattr(spec, key), getattr(manifest, key)
        if written != listed:
            raise refused(f'{PACKAGE_TOML} has {key} "{written}", the manifest "{listed}"', key=key)
    if not spec.install:
        return
    script = manifest.find(spec.install)
    if script is None or not script.executable:
        what = "is not in the package" if script is None else "is not executable: chmod +x it"
        raise InvalidParams(
            f'cannot read {PACKAGE_TOML}: install = "{spec.install}": it {what}',
            file=PACKAGE_TOML,
            key="install",
            value=spec.install,
            reason=f"it {what}",
        )
