"""The chain of hashes that the audit is: how a record becomes bytes, how it is appended, and how the whole is looked at.

The hash of a record is SHA-256 over the hash before, its number (8 bytes, big-endian) and its bytes. Here
are the statements and what they mean; who runs them, and when, is not known.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ...worker.contract import codec
from ..store.store import Row, insert

MAX_RECORD_BYTES = 16 * 1024
"""No record is longer: whoever makes one cuts it."""

ROW_BYTES = 60
"""What a record takes beside itself in the store: its hash, its number, and their headers."""

HEAD = "SELECT CAST(head_id AS INTEGER), CAST(head_hash AS BLOB) FROM audit_chain WHERE one = 1"

ADVANCE = (
    "UPDATE audit_chain SET head_id = ?, head_hash = ?, size_bytes = size_bytes + ? WHERE one = 1"
)

CHAIN = (
    "SELECT CAST(anchor_id AS INTEGER), CAST(anchor_hash AS BLOB), CAST(head_id AS INTEGER),"
    " CAST(head_hash AS BLOB), CAST(size_bytes AS INTEGER) FROM audit_chain WHERE one = 1"
)

# Whatever somebody has put there, it is read as bytes, and no more of it than a record may have.
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
    """Where the chain begins (after the anchor) and ends, and what it takes in the store."""

    anchor: Position
    head: Position
    size_bytes: int


def encode(value: object) -> bytes:
    """JSON in its one form: UTF-8, sorted keys, no spaces.

    Raises:
        ValueError: the value holds something that JSON cannot say.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, OverflowError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def parse_position(text: str) -> Position:
    """Returns the position that `NUMBER:HASH` says.

    Raises:
        ValueError: it has another form.
    """
    number, _, digits = text.partition(":")
    if not number.isdecimal() or len(digits) != 64:
        raise ValueError("not NUMBER:HASH")
    return Position(int(number), bytes.fromhex(digits))


def digest(value: object) -> tuple[str | None, int]:
    """SHA-256 of the one form of a JSON value, in hexadecimal digits, and the length of that form."""
    try:
        data = encode(value)
    except ValueError:
        return None, 0
    return hashlib.sha256(data).hexdigest(), len(data)


class Appending:
    """Appends records, as a step of one group: either all of them are behind the head, or none is.

    The hashes are calculated here, inside the transaction: their order is that of the commits, and a commit that
    fails leaves no hole.
    """

    def __init__(self, records: Sequence[bytes]) -> None:
        self._records = records
        self.size_bytes = sum(map(len, records))
        self.count = len(records)

    def seal(self) -> None:
        """Nothing: it does not grow."""

    def run(self, connection: sqlite3.Connection) -> int:
        """Returns how many records were appended: none, where the chain has no head."""
        head = connection.execute(HEAD).fetchone()
        if head is None:
            return 0
        number, hash_ = integer(head[0]), to_bytes(head[1])
        rows: list[Row] = []
        for record in self._records:
            number += 1
            hash_ = chain_hash(hash_, number, record)
            rows.append((number, record, hash_))
        insert(connection, "audit (id, record, hash)", rows)
        taken_bytes = self.size_bytes + len(rows) * ROW_BYTES
        connection.execute(ADVANCE, (number, hash_, taken_bytes))
        return len(rows)


def cells(row: Row) -> tuple[int, bytes, bytes]:
    """Returns the number, the record and the hash of a row, whatever somebody has made of it."""
    number, record, hash_ = row
    return integer(number), to_bytes(record), to_bytes(hash_)


def decode(record: bytes) -> Record:
    """What a record says; what somebody has damaged says only that."""
    try:
        said = codec.as_object(codec.decode(record))
    except ValueError:
        said = None
    return said if said is not None else {"action": "?", "damaged": True}


class Walk:
    """Represents one look at the whole chain, slice by slice."""

    def __init__(self, chain: Chain, expected: Position | None) -> None:
        self.at = chain.anchor
        """The last position that was found right."""
        self.wrong: Record | None = None
        self._chain = chain
        self._expected = expected
        self._records = 0
        self._pruned: Record | None = None

    def look_before(self, first: int | None) -> None:
        """Nothing may be left that the anchor says is gone."""
        if first is not None and first <= self._chain.anchor.number:
            self._blame(first, "is at or before the anchor")

    def take(self, rows: list[Row]) -> None:
        """Returns the next records."""
        for row in rows:
            number, record, hash_ = cells(row)
            if number != self.at.number + 1:
                self._blame(self.at.number + 1, "is missing")
                return
            if len(record) > MAX_RECORD_BYTES or chain_hash(self.at.hash, number, record) != hash_:
                self._blame(number, "is not what was written")
                return
            self.at = Position(number, hash_)
            self._records += 1
            if self._expected is not None and self._expected.number == number:
                self._check_expected(hash_)
                if self.wrong is not None:
                    return
            if b'"audit.pruned"' in record and (said := decode(record))["action"] == "audit.pruned":
                self._pruned = said

    def look_behind(self, beyond: int | None) -> None:
        """Returns all that the head stands for was there, the anchor is the one that was written, and no more is there."""
        if self.wrong is not None:
            return
        head, anchor, expected = self._chain.head, self._chain.anchor, self._expected
        if self.at.number != head.number:
            self._blame(self.at.number + 1, "is missing")
        elif self.at.hash != head.hash:
            self._blame(head.number, "is not the head of the chain")
        elif beyond is not None:
            self._blame(beyond, "is behind the head of the chain")
        elif anchor.number and not self._has_anchor():
            self._blame(anchor.number, "is an anchor that the audit did not write")
        elif expected is not None and expected.number <= anchor.number:
            if expected.number < anchor.number:
                self._blame(expected.number, "is pruned, so that it cannot be compared")
            else:
                self._check_expected(anchor.hash)
        elif expected is not None and expected.number > head.number:
            self._blame(expected.number, "is missing")

    def verdict(self) -> Record:
        """What `Audit.verify` answers."""
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
        said, anchor = self._pruned, self._chain.anchor
        return said is not None and (said.get("last"), said.get("hash")) == (
            anchor.number,
            anchor.hash.hex(),
        )

    def _check_expected(self, hash_: bytes) -> None:
        assert self._expected is not None, "the caller has looked"
        if self._expected.hash != hash_:
            self._blame(self._expected.number, "has another hash than the expected one")

    def _blame(self, number: int, what: str) -> None:
        self.wrong = {"id": number, "what": what}


def integer(value: object) -> int:
    """Returns a column that was cast to a number."""
    return value if isinstance(value, int) else 0


def to_bytes(value: object) -> bytes:
    """Returns a column that was cast to bytes; none where it is null."""
    return value if isinstance(value, bytes) else b""
