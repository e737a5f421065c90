"""Defines the hash chain of the audit: how a record is encoded, appended, and how the whole chain is verified.

The hash of a record is SHA-256 over the hash before, its number (8 bytes, big-endian) and its bytes. Here
are the statements and their meaning; when they run is the caller's business.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from corral.worker.contract import codec

from ..store.store import Row, Step, insert

MAX_RECORD_BYTES = 16 * 1024
"""Bytes of a record; its writer cuts a longer one."""

ROW_BYTES = 60
"""Bytes that a record takes beside itself in the store: its hash, its number, and their headers."""

HEAD = "SELECT CAST(head_id AS INTEGER), CAST(head_hash AS BLOB) FROM audit_chain WHERE one = 1"

ADVANCE = "UPDATE audit_chain SET head_id = ?, head_hash = ?, size_bytes = size_bytes + ? WHERE one = 1"

CHAIN = (
    "SELECT CAST(anchor_id AS INTEGER), CAST(anchor_hash AS BLOB), CAST(head_id AS INTEGER),"
    " CAST(head_hash AS BLOB), CAST(size_bytes AS INTEGER) FROM audit_chain WHERE one = 1"
)

# A tampered column may hold anything: it is read as bytes, and no more of it than a record may have.
COLUMNS = f"id, CAST(substr(record, 1, {MAX_RECORD_BYTES + 1}) AS BLOB), CAST(hash AS BLOB)"

SLICE = f"SELECT {COLUMNS} FROM audit WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"

Record = dict[str, object]


_ENCODER = msgspec.json.Encoder(order="deterministic")


def chain_hash(previous: bytes, number: int, record: bytes) -> bytes:
    """Returns the hash that stands for a record and all before it."""
    return hashlib.sha256(b"".join((previous, number.to_bytes(8, "big"), record))).digest()


class Position(NamedTuple):
    """A record's number and hash, written `NUMBER:HASH` with the hash in hexadecimal digits."""

    number: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"


class Chain(NamedTuple):
    """Represents the chain: it begins after the anchor, ends at the head, and takes `size_bytes` in the store."""

    anchor: Position
    head: Position
    size_bytes: int


def encode(value: object) -> bytes:
    """Encodes a value as canonical JSON: UTF-8, sorted keys, no spaces."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, OverflowError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def parse_position(text: str) -> Position:
    """Parses a position written as `NUMBER:HASH`."""
    number, _, digits = text.partition(":")
    if not number.isdecimal() or len(digits) != 64:
        raise ValueError("not NUMBER:HASH")
    return Position(int(number), bytes.fromhex(digits))


def digest(value: object) -> tuple[str | None, int]:
    """Returns SHA-256 of a value as canonical JSON, in hexadecimal digits, and the length of that JSON."""
    try:
        data = encode(value)
    except ValueError:
        return None, 0
    return hashlib.sha256(data).hexdigest(), len(data)


class AppendRecords(Step):
    """Appends records, as a step of one group: either all of them are behind the head, or none is.

    The hashes are calculated here, inside the transaction: their order is that of the commits, and a commit that
    fails leaves no hole.
    """

    def __init__(self, records: Sequence[bytes]) -> None:
        self._records = records
        self.size_bytes = sum(map(len, records))
        self.count = len(records)

    def run(self, connection: sqlite3.Connection) -> int:
        """Appends the records; returns their number, or 0 where the chain has no head."""
        head = connection.execute(HEAD).fetchone()
        if head is None:
            return 0
        number, hash_ = integer(head[0]), to_bytes(head[1])
        rows: list[Row] = []
        for record in self._records:
            number += 1
            hash_ = chain_hash(hash_, number, record)
            rows.append((number, record, hash_))
        insert(connection, "INSERT INTO audit (id, record, hash) VALUES (?, ?, ?)", rows)
        connection.execute(ADVANCE, (number, hash_, self.size_bytes + len(rows) * ROW_BYTES))
        return len(rows)


def cells(row: Row) -> tuple[int, bytes, bytes]:
    """Returns the number, the record and the hash of a row, also of a damaged one."""
    number, record, hash_ = row
    return integer(number), to_bytes(record), to_bytes(hash_)


def decode(record: bytes) -> Record:
    """Decodes a record; one that was damaged becomes `{"action": "?", "damaged": true}`."""
    try:
        decoded = codec.as_object(codec.decode(record))
    except ValueError:
        decoded = None
    return decoded if decoded is not None else {"action": "?", "damaged": True}


class ChainVerifier:
    """Verifies the whole chain, slice by slice."""

    def __init__(self, chain: Chain, expected: Position | None) -> None:
        self.at = chain.anchor
        """The last position that was verified."""
        self.wrong: Record | None = None
        self._chain = chain
        self._expected = expected
        self._records = 0
        self._pruned: Record | None = None

    def check_start(self, first: int | None) -> None:
        """Rejects records that are at or before the anchor, which says that they were pruned."""
        if first is not None and first <= self._chain.anchor.number:
            self._note_wrong(first, "is at or before the anchor")

    def take(self, rows: list[Row]) -> None:
        """Verifies the next records."""
        for row in rows:
            number, record, hash_ = cells(row)
            if number != self.at.number + 1:
                self._note_wrong(self.at.number + 1, "is missing")
                return
            if len(record) > MAX_RECORD_BYTES or chain_hash(self.at.hash, number, record) != hash_:
                self._note_wrong(number, "is not what was written")
                return
            self.at = Position(number, hash_)
            self._records += 1
            if self._expected is not None and self._expected.number == number:
                self._check_expected(hash_)
                if self.wrong is not None:
                    return
            if b'"audit.pruned"' in record and (decoded := decode(record))["action"] == "audit.pruned":
                self._pruned = decoded

    def check_end(self, beyond: int | None) -> None:
        """Verifies that no record up to the head is missing, that none is behind it, and that the anchor was written here."""
        if self.wrong is not None:
            return
        head, anchor, expected = self._chain.head, self._chain.anchor, self._expected
        if self.at.number != head.number:
            self._note_wrong(self.at.number + 1, "is missing")
        elif self.at.hash != head.hash:
            self._note_wrong(head.number, "is not the head of the chain")
        elif beyond is not None:
            self._note_wrong(beyond, "is behind the head of the chain")
        elif anchor.number and not self._has_anchor():
            self._note_wrong(anchor.number, "is an anchor that the audit did not write")
        elif expected is not None and expected.number <= anchor.number:
            if expected.number < anchor.number:
                self._note_wrong(expected.number, "is pruned, so that it cannot be compared")
            else:
                self._check_expected(anchor.hash)
        elif expected is not None and expected.number > head.number:
            self._note_wrong(expected.number, "is missing")

    def verdict(self) -> Record:
        """Returns the result of `Audit.verify`."""
        return {
            "ok": self.wrong is None,
            "records": self._records,
            "first": self._chain.anchor.number + 1 if self._records else None,
            "last": self.at.number if self._records else None,
            "anchor": str(self._chain.anchor),
            "head": str(self.at),
            "wrong": self.wrong,
        }

    def _has_anchor(self) -> bool:
        """Returns whether the newest record of a pruning names the anchor; it is never pruned before another comes."""
        decoded, anchor = self._pruned, self._chain.anchor
        return decoded is not None and (decoded.get("last"), decoded.get("hash")) == (anchor.number, anchor.hash.hex())

    def _check_expected(self, hash_: bytes) -> None:
        assert self._expected is not None, "the caller has looked"
        if self._expected.hash != hash_:
            self._note_wrong(self._expected.number, "has another hash than the expected one")

    def _note_wrong(self, number: int, what: str) -> None:
        self.wrong = {"id": number, "what": what}


def integer(value: object) -> int:
    """Returns a column that was cast to a number."""
    return value if isinstance(value, int) else 0


def to_bytes(value: object) -> bytes:
    """Returns a column that was cast to bytes; none where it is null."""
    return value if isinstance(value, bytes) else b""
