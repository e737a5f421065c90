"""One item of the memory server: its row, what callers see of it, and whether the disk still has what was stored.

A content has a hash, and the rest of the row a seal. It must not know how items are stored, merged or found.
"""

import hashlib
import struct
from datetime import UTC, datetime
from typing import NamedTuple

from ...worker.contract.codec import as_array, as_object, decode

MAX_TIME_S = 253_402_300_800.0
"""The end of the year 9999: no time that was ever noted is later."""

ITEM = """CAST(m.id AS TEXT), m.key, m.namespace, m.content, m.tags, m.metadata, m.created_at, m.expires_at, m.archived_at,
    m.hash, m.seal"""
"""The columns of an `ItemRow`."""

_UNEXPIRED = "(m.expires_at IS NULL OR m.expires_at > :now)"

LIVE = f"m.archived_at IS NULL AND {_UNEXPIRED}"
"""Neither archived nor, at `:now`, expired."""

IN_NAMESPACE = "(:namespace IS NULL OR m.namespace = :namespace)"

ROW = """m.seq, CAST(m.id AS TEXT), m.plain, m.hash, m.tags, m.metadata, m.expires_at, m.namespace,
    m.created_at, m.key"""
"""The columns of a `Row`."""

ItemRow = tuple[
    str, str | None, str, str, str, str, float, float | None, float | None, bytes, bytes | None
]


class Item(NamedTuple):
    """One memory as callers see it; times are UTC, RFC 3339."""

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
    """What storing and merging need to know of an item that is there."""

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
    """A row as callers see it."""
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
    """Whether an item is what was stored: content by its hash, the rest by the seal, where it has one.

    When it was archived is not sealed; it has to be a time.
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
    except (UnicodeError, AttributeError, TypeError, struct.error):  # no UTF-8, or of another type
        return False


def plain_id(item_id: str) -> str:
    """An id as it can be said, whatever the disk has made of it."""
    return item_id.encode("utf-8", "replace").decode()


def seal_of(row: Row) -> bytes:
    """The seal that a row has to have."""
    facts = (row.namespace, row.tags, row.metadata, row.created_at, row.expires_at)
    return seal_for(row.id, row.key, *facts)


def seal_for(
    item_id: str,
    key: str | None,
    namespace: str,
    tags: str,
    metadata: str,
    created_at: float,
    expires_at: float | None,
) -> bytes:
    """The digest of all that an item has beside its content."""
    times = struct.pack("!dd", created_at, -1.0 if expires_at is None else expires_at)
    texts = "\0".join((item_id, key or "", namespace, tags, metadata))
    data = times + texts.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=16).digest()


def sha256(data: bytes) -> bytes:
    """The digest of a content."""
    return hashlib.sha256(data).digest()


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def strings_of(text: str) -> list[str]:
    """The strings of a JSON array, as tags are kept."""
    return [str(each) for each in as_array(decode(text.encode())) or ()]


def object_of(text: str) -> dict[str, object]:
    """The members of a JSON object, as metadata are kept."""
    return as_object(decode(text.encode())) or {}
