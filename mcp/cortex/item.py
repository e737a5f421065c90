"""Represents one item of the memory server: its row, its form for callers, and the check of its integrity.

The content has a hash, the rest of the row a seal. It must not know how items are stored, merged or found.
"""

import hashlib
import struct
from datetime import UTC, datetime
from typing import NamedTuple

from corral.worker.contract.codec import as_array, as_object, decode

MAX_TIME_S = 253_402_300_800.0
"""Seconds of the Unix epoch at the end of the year 9999: no stored time is later."""

ITEM = """CAST(m.id AS TEXT), m.key, m.namespace, m.content, m.tags, m.metadata, m.created_at, m.expires_at, m.archived_at,
    m.hash, m.seal"""
"""The columns of an `ItemRow`."""

_UNEXPIRED = "(m.expires_at IS NULL OR m.expires_at > :now)"

LIVE = f"m.archived_at IS NULL AND {_UNEXPIRED}"
"""The condition of items that are neither archived nor, at `:now`, expired."""

IN_NAMESPACE = "(:namespace IS NULL OR m.namespace = :namespace)"

ROW = """m.seq, CAST(m.id AS TEXT), m.plain, m.hash, m.tags, m.metadata, m.expires_at, m.namespace,
    m.created_at, m.key"""
"""The columns of a `Row`."""

ItemRow = tuple[str, str | None, str, str, str, str, float, float | None, float | None, bytes, bytes | None]


class Item(NamedTuple):
    """Represents one item for callers; times are UTC, RFC 3339."""

    id: str
    key: str | None
    namespace: str
    content: str
    tags: list[str]
    metadata: dict[str, object]
    created_at: str
    expires_at: str | None
    archived_at: str | None


class Row(NamedTuple):
    """Represents the columns of an existing item that storing and merging need."""

    seq: int
    id: str
    plain: int
    hash: bytes
    tags: str
    metadata: str
    expires_at: float | None
    namespace: str
    created_at: float
    key: str | None


def item_of(row: ItemRow) -> Item:
    """Returns a row in the form for callers."""
    item_id, key, namespace, content, tags, metadata, created_at, expires_at, archived_at, *_ = row
    return Item(
        item_id,
        key,
        namespace,
        content,
        strings_of(tags),
        object_of(metadata),
        _when(created_at),
        None if expires_at is None else _when(expires_at),
        None if archived_at is None else _when(archived_at),
    )


def is_whole(row: ItemRow) -> bool:
    """Returns True if an item is undamaged: the content by its hash, the rest by the seal, if it has one.

    The time of archiving is not sealed; it has to be a valid time.
    """
    item_id, key, namespace, content, tags, metadata, created_at, expires_at, archived_at, *_ = row
    digest, seal = row[-2:]
    facts = (namespace, tags, metadata, created_at, expires_at)
    try:
        return (
            digest == sha256(content.encode())
            and (seal is None or seal == seal_for(item_id, key, *facts))
            and (archived_at is None or 0 <= archived_at < MAX_TIME_S)
        )
    except (UnicodeError, AttributeError, TypeError, struct.error):  # invalid UTF-8, or of another type
        return False


def plain_id(item_id: str) -> str:
    """Returns an id as valid text, even if the disk has damaged it."""
    return item_id.encode("utf-8", "replace").decode()


def seal_of(row: Row) -> bytes:
    """Returns the seal for a row."""
    facts = (row.namespace, row.tags, row.metadata, row.created_at, row.expires_at)
    return seal_for(row.id, row.key, *facts)


def seal_for(
    item_id: str, key: str | None, namespace: str, tags: str, metadata: str, created_at: float, expires_at: float | None
) -> bytes:
    """Computes the digest of an item without its content."""
    times = struct.pack("!dd", created_at, -1.0 if expires_at is None else expires_at)
    data = times + "\0".join((item_id, key or "", namespace, tags, metadata)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=16).digest()


def sha256(data: bytes) -> bytes:
    """Computes the digest of a content."""
    return hashlib.sha256(data).digest()


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def strings_of(text: str) -> list[str]:
    """Decodes a JSON array of strings, the stored form of tags."""
    return [str(each) for each in as_array(decode(text.encode())) or ()]


def object_of(text: str) -> dict[str, object]:
    """Decodes a JSON object, the stored form of metadata."""
    return as_object(decode(text.encode())) or {}
