"""Seals the data of programs in the store: any later change of a record is noticed when it is read.

A sealed record is a header and a payload. The header has a magic, the version of the format, flags, the length of
the content, and the SHA-256 of all other bytes. Rows from before the format are plain JSON, and still read as such:
a header has a byte that no JSON text has, so that a damaged record is never taken for one of those.
"""

import struct
import zlib
from hashlib import sha256

from corral.worker.contract import codec
from corral.worker.contract.errors import Corrupted

MAGIC = b"\x93CRL"
VERSION = 1
"""Version of the format. As a byte it is a control character, which JSON has nowhere unescaped; that holds below 9."""

COMPRESSED = 1
"""Flag of a payload that is a zlib stream."""

MOST_BYTES = 256 * 1024 * 1024
"""Bytes of the content of a record: all limits of data that is stored are far below."""

WORTH_BYTES = 256
"""Bytes below which data is not compressed."""

LEVEL = 1
"""Number from 1 to 9 for zlib: for JSON a third of the time of its default, and a result that is a tenth longer."""

_HEAD = struct.Struct(">4sBBQ")
_DIGEST_BYTES = 32
HEADER_BYTES = _HEAD.size + _DIGEST_BYTES
"""Bytes before the payload."""


def seal(data: bytes, *, compress: bool) -> bytes:
    """Seals `data` in a record; with `compress` a compressed one, where that is shorter."""
    payload, flags = data, 0
    if compress and len(data) >= WORTH_BYTES:
        packed = zlib.compress(data, LEVEL)
        if len(packed) < len(data):
            payload, flags = packed, COMPRESSED
    head = _HEAD.pack(MAGIC, VERSION, flags, len(data))
    return b"".join((head, _digest(head, payload), payload))


def unseal(blob: bytes, record: str, limit: int = MOST_BYTES) -> bytes:
    """Returns the content of a sealed `blob`, or `blob` itself where it is plain JSON."""
    if not blob.startswith(MAGIC):
        return _plain(blob, record)
    if len(blob) < HEADER_BYTES:
        raise corrupted(record, "truncated", "it is cut off")
    _, version, flags, length = _HEAD.unpack_from(blob)
    # A newer format may differ from here on, so that nothing else can be checked.
    if version > VERSION:
        raise corrupted(record, "newer-version", f"its format {version} is newer than {VERSION}")
    head, payload = blob[: _HEAD.size], memoryview(blob)[HEADER_BYTES:]
    if _digest(head, payload) != blob[_HEAD.size : HEADER_BYTES]:
        raise corrupted(record, "checksum", "it is not what was written")
    if length > limit:
        raise corrupted(record, "too-large", f"{length} bytes are more than {limit}")
    data = _unpacked(payload, length, record) if flags & COMPRESSED else bytes(payload)
    if len(data) != length:
        raise corrupted(record, "truncated", f"{len(data)} of {length} bytes are there")
    return data


def _digest(head: bytes, payload: bytes | memoryview) -> bytes:
    digest = sha256(head)
    digest.update(payload)
    return digest.digest()


def _unpacked(payload: memoryview, length: int, record: str) -> bytes:
    try:
        return zlib.decompressobj().decompress(payload, length + 1)
    except zlib.error as error:
        raise corrupted(record, "checksum", str(error)) from error


def _plain(blob: bytes, record: str) -> bytes:
    try:
        codec.decode(blob)
    except ValueError as error:
        raise corrupted(record, "no-envelope", "it is neither sealed nor JSON") from error
    return blob


def corrupted(record: str, reason: str, words: str) -> Corrupted:
    """Returns the error for a damaged record."""
    return Corrupted(f"cannot read {record}: {words}", record=record, reason=reason)
