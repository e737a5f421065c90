"""The envelope around what the store keeps of programs: whatever is changed of it afterwards is noticed.

A sealed record is a header and a payload. The header has a magic, the version of the format, flags, the length of
what was sealed, and the SHA-256 of all other bytes. Rows of before there were envelopes are plain JSON, and still
read as such: a header has a byte that no JSON text has, so that one that was damaged is never taken for one of those.
"""

import struct
import zlib
from hashlib import sha256

from ...worker.contract import codec
from ...worker.contract.errors import Corrupted

MAGIC = b"\x93CRL"
VERSION = 1
"""Of the format. As a byte it is a control character, which JSON has nowhere unescaped; that holds below 9."""

COMPRESSED = 1
"""The flag of a payload that is a zlib stream."""

MOST_BYTES = 256 * 1024 * 1024
"""No record is longer unpacked: the limits of what is taken are far below."""

WORTH_BYTES = 256
"""What is shorter is not compressed."""

LEVEL = 1
"""Of zlib: for JSON it takes a third of the time of its usual level, and the result is a tenth longer."""

_HEAD = struct.Struct(">4sBBQ")
_DIGEST_BYTES = 32
HEADER_BYTES = _HEAD.size + _DIGEST_BYTES


def seal(data: bytes, *, compress: bool) -> bytes:
    """Returns the record that holds `data`; with `compress` in fewer bytes, where that is so."""
    payload, flags = data, 0
    if compress and len(data) >= WORTH_BYTES:
        packed = zlib.compress(data, LEVEL)
        if len(packed) < len(data):
            payload, flags = packed, COMPRESSED
    head = _HEAD.pack(MAGIC, VERSION, flags, len(data))
    return b"".join((head, _digest(head, payload), payload))


def unsealed(blob: bytes, record: str, limit: int = MOST_BYTES) -> bytes:
    """What was sealed in `blob`, or `blob` itself where it is plain JSON; `record` names it in the error.

    Args:
        blob: a record.
        record: what it is called in an error, such as `checkpoint 7`.
        limit: bytes; a longer content was not sealed by whoever asks.

    Raises:
        Corrupted: it is not what was written; `data` has `record` and `reason`: `no-envelope`, `newer-version`,
            `truncated`, `checksum` or `too-large`.
    """
    if not blob.startswith(MAGIC):
        return _plain(blob, record)
    if len(blob) < HEADER_BYTES:
        raise _corrupted(record, "truncated", "it is cut off")
    _, version, flags, length = _HEAD.unpack_from(blob)
    # A newer format may differ from here on, so that nothing else can be said of it.
    if version > VERSION:
        raise _corrupted(record, "newer-version", f"its format {version} is newer than {VERSION}")
    head, payload = blob[: _HEAD.size], memoryview(blob)[HEADER_BYTES:]
    if _digest(head, payload) != blob[_HEAD.size : HEADER_BYTES]:
        raise _corrupted(record, "checksum", "it is not what was written")
    if length > limit:
        raise _corrupted(record, "too-large", f"{length} bytes are more than {limit}")
    data = _unpacked(payload, length, record) if flags & COMPRESSED else bytes(payload)
    if len(data) != length:
        raise _corrupted(record, "truncated", f"{len(data)} of {length} bytes are there")
    return data


def _digest(head: bytes, payload: bytes | memoryview) -> bytes:
    digest = sha256(head)
    digest.update(payload)
    return digest.digest()


def _unpacked(payload: memoryview, length: int, record: str) -> bytes:
    try:
        return zlib.decompressobj().decompress(payload, length + 1)
    except zlib.error as error:
        raise _corrupted(record, "checksum", str(error)) from error


def _plain(blob: bytes, record: str) -> bytes:
    try:
        codec.decode(blob)
    except ValueError as error:
        raise _corrupted(record, "no-envelope", "it is neither sealed nor JSON") from error
    return blob


def _corrupted(record: str, reason: str, words: str) -> Corrupted:
    return Corrupted(f"cannot read {record}: {words}", record=record, reason=reason)
