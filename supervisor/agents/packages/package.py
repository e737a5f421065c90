"""Reads a whole package: the archive, its package.toml, its lock and its signature, which have to agree."""

from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from corral.worker.contract.errors import InvalidParams

from .archive import Archive, Discard, Sink, Unpacked, read_archive
from .manifest import LOCKS, PACKAGE_TOML, FileEntry, Manifest, refused
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


class _Both(Discard):
    """Gives the files to another sink too."""

    def __init__(self, sink: Sink) -> None:
        super().__init__((PACKAGE_TOML, *LOCKS))
        self._sink = sink

    def begin(self, entry: FileEntry) -> None:
        super().begin(entry)
        self._sink.begin(entry)

    def write(self, data: bytes) -> None:
        super().write(data)
        self._sink.write(data)

    def end(self) -> None:
        self._sink.end()


def read_package(source: BinaryIO, sink: Sink | None = None) -> Package:
    """Reads a package from the beginning of a file to its end, and gives its files to `sink`; verifies everything.

    A signature that it has must be right; whether its key counts is for the caller to say.
    """
    kept = _Both(sink or Discard())
    found = read_archive(source, kept)
    spec = decode_package(kept.kept[PACKAGE_TOML])
    check_agreement(spec, found.manifest)
    lock = next((kept.kept[name] for name in LOCKS if name in kept.found), b"")
    try:
        text = lock.decode()
    except UnicodeDecodeError as error:
        raise refused("its lock is not UTF-8") from error
    return Package(spec, found.manifest, found.digest, text, signer_of(found))


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


def unpack(source: BinaryIO, target: Path) -> Package:
    """Writes the files of a package into an empty folder while it verifies them; a failure may leave some of them."""
    sink = Unpacked(target)
    try:
        return read_package(source, sink)
    finally:
        sink.close()
