"""Signs packages, and reads a whole one: the archive, its package.toml, its lock and its signature, which have to agree.

A signature is ed25519 over the manifest's bytes, which hold the SHA-256 of each file. Keys are files of one line. A signature
names its public key; which keys count is the daemon's decision.
"""

import base64
import binascii
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Struct

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, PermissionDenied

from .archive import SIGNATURE_MAX_BYTES, Archive, Reader, mode_of
from .manifest import LOCKS, MANIFEST_MAX_BYTES, PACKAGE_TOML, Manifest, refused, too_large
from .spec import PackageSpec, decode_package

DOMAIN = b"corral package 1\n"
"""Bytes before the manifest in what is signed: a signature for something else is none for a package."""

SECRET_PREFIX = "corral-secret-key:"
PUBLIC_PREFIX = "ed25519:"
"""Beginning of the text of a public key."""

Text = Annotated[str, msgspec.Meta(max_length=200)]


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """Represents a signature: its public key as text, and its 64 bytes in base64."""

    key: Text
    signature: Text


def decode_signature(data: bytes) -> Signature:
    """Decodes the signature of an archive."""
    try:
        found = msgspec.json.decode(data, type=Signature)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(f"its signature is damaged: {error}") from error
    if msgspec.json.encode(found) != data or len(data) > SIGNATURE_MAX_BYTES:
        raise refused("its signature is not written canonically")
    return found


def verify(data: bytes, manifest: bytes) -> str:
    """Returns the public key that signed a manifest; the caller decides whether it is one that counts."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # only who verifies pays
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415  # likewise

    found = decode_signature(data)
    try:
        key = Ed25519PublicKey.from_public_bytes(public_bytes(found.key))
        key.verify(_bytes(found.signature), DOMAIN + manifest)
    except InvalidSignature as error:
        raise refused(f"its signature by {found.key} is not one of this content", key=found.key) from error
    except ValueError as error:
        raise refused(f"its signature is damaged: {error}") from error
    return found.key


def public_bytes(text: str) -> bytes:
    """Returns the 32 bytes of a public key."""
    if not text.startswith(PUBLIC_PREFIX):
        raise ValueError(f'a public key begins with "{PUBLIC_PREFIX}"')
    data = _bytes(text.removeprefix(PUBLIC_PREFIX))
    if len(data) != 32:
        raise ValueError("a public key has 32 bytes")
    return data


def _bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError("it is not canonical base64")
    return data


def sign(secret: bytes, manifest: bytes) -> bytes:
    """Returns the signature of a manifest as an archive holds it, by the 32 bytes of a secret key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  # likewise

    made = base64.b64encode(Ed25519PrivateKey.from_private_bytes(secret).sign(DOMAIN + manifest)).decode()
    return msgspec.json.encode(Signature(public_text(secret), made))


def public_text(secret: bytes) -> str:
    """Returns the text of the public key that belongs to a secret one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  # likewise

    key = Ed25519PrivateKey.from_private_bytes(secret).public_key()
    return PUBLIC_PREFIX + base64.b64encode(key.public_bytes_raw()).decode()


def generate(path: Path) -> str:
    """Makes a key pair, writes the secret key to a new file of mode 0600, and returns the text of the public one."""
    secret = os.urandom(32)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Conflict(f'cannot write a key: "{path}" exists', path=str(path)) from error
    with os.fdopen(fd, "wb") as file:
        file.write(f"{SECRET_PREFIX}{base64.b64encode(secret).decode()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    return public_text(secret)


def read_secret(path: Path) -> bytes:
    """Returns the 32 bytes of a secret key in a file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1000).decode("ascii", "replace").strip()
    except FileNotFoundError as error:
        raise NotFound(f'cannot sign: there is no key "{path}"', path=str(path)) from error
    except OSError as error:
        raise InvalidParams(f'cannot sign with "{path}": {(error.strerror or "").lower()}', path=str(path)) from error
    if mode & 0o077:
        raise PermissionDenied(f'cannot sign with "{path}": others can read it; chmod 600 it', path=str(path))
    try:
        secret = _bytes(text.removeprefix(SECRET_PREFIX))
    except ValueError:
        secret = b""
    if not text.startswith(SECRET_PREFIX) or len(secret) != 32:
        raise InvalidParams(f'cannot sign with "{path}": it is no secret key', path=str(path))
    return secret


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
        words = f'cannot read {PACKAGE_TOML}: install = "{spec.install}": it {what}'
        raise InvalidParams(words, file=PACKAGE_TOML, key="install", value=spec.install, reason=f"it {what}")
