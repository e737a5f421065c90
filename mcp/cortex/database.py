"""Opens the file of the memory server: one SQLite database in WAL mode, shared by several processes.

Guarantees: a committed transaction survives `kill -9` and a power cut; triggers keep the full-text index equal to the
table, for every writer; a file that is damaged, newer or another program's is refused before anything is written to
it. An item is a row, whose content has a hash and whose rest has a seal: damage is detected.
"""

import hashlib
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from corral.worker.contract.codec import as_array, as_object, decode
from corral.worker.contract.errors import Conflict, Overloaded, PermissionDenied, ResourceLimitExceeded

BUSY_S = 10.0
"""Seconds to wait for another process that writes to the same file."""

BUSY_SLICE_S = 0.5
"""Seconds of one wait inside SQLite, during which no signal is handled."""

WAL_BYTES = 4 * 1024 * 1024
"""Bytes of the write-ahead log above which it is copied into the database."""

MAX_FILE_BYTES = 4 * 1024 * 1024 * 1024
"""Bytes of the database at most, by default; the write-ahead log is not included."""

SCHEMA_VERSION = 2
APPLICATION_ID = 0x636F7274
"""Code that marks the file as corral's; see https://www.sqlite.org/pragma.html#pragma_application_id."""

_SCHEMA = (
    """CREATE TABLE memory (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        namespace TEXT NOT NULL,
        key TEXT,
        plain INTEGER NOT NULL,         -- 1: also stored without its key, so it outlives the key
        content TEXT NOT NULL,
        hash BLOB NOT NULL,             -- SHA-256 of the content
        normal BLOB NOT NULL,           -- SHA-256 of the normalised content
        tags TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        archived_at REAL,
        archived_why TEXT               -- replaced, expired or duplicate
    )""",
    "CREATE UNIQUE INDEX memory_key ON memory (namespace, key) WHERE key IS NOT NULL",
    "CREATE INDEX memory_hash ON memory (namespace, hash) WHERE archived_at IS NULL",
    "CREATE INDEX memory_normal ON memory (namespace, normal) WHERE archived_at IS NULL",
    "CREATE INDEX memory_expiry ON memory (expires_at) WHERE archived_at IS NULL AND expires_at IS NOT NULL",
    """CREATE VIRTUAL TABLE memory_index USING fts5 (content, key, tags,
        content = 'memory', content_rowid = 'seq', tokenize = 'unicode61 remove_diacritics 2')""",
    """CREATE TRIGGER memory_added AFTER INSERT ON memory WHEN new.archived_at IS NULL BEGIN
        INSERT INTO memory_index (rowid, content, key, tags)
        VALUES (new.seq, new.content, new.key, new.tags);
    END""",
    """CREATE TRIGGER memory_changed AFTER UPDATE OF content, key, tags, archived_at ON memory BEGIN
        INSERT INTO memory_index (memory_index, rowid, content, key, tags)
        SELECT 'delete', old.seq, old.content, old.key, old.tags WHERE old.archived_at IS NULL;
        INSERT INTO memory_index (rowid, content, key, tags)
        SELECT new.seq, new.content, new.key, new.tags WHERE new.archived_at IS NULL;
    END""",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

_BYTES = " + ".join(f"length(CAST({{row}}.{column} AS BLOB))" for column in ("content", "tags", "metadata"))
_OLD, _NEW = (f"({row}.archived_at IS NULL)" for row in ("old", "new"))

_SECOND = (
    # Of id, key, namespace, tags, metadata and times; `hash` is that of the content. Older items have none.
    "ALTER TABLE memory ADD COLUMN seal BLOB",
    """CREATE TABLE usage (
        namespace TEXT PRIMARY KEY,
        items INTEGER NOT NULL,         -- that are not archived
        bytes INTEGER NOT NULL          -- of their contents, tags and metadata
    ) WITHOUT ROWID""",
    f"""INSERT INTO usage SELECT namespace, count(*), sum({_BYTES.format(row="memory")})
        FROM memory WHERE archived_at IS NULL GROUP BY namespace""",
    f"""CREATE TRIGGER memory_counted AFTER INSERT ON memory WHEN new.archived_at IS NULL BEGIN
        INSERT INTO usage VALUES (new.namespace, 1, {_BYTES.format(row="new")})
        ON CONFLICT DO UPDATE SET items = items + 1, bytes = bytes + excluded.bytes;
    END""",
    f"""CREATE TRIGGER memory_recounted
        AFTER UPDATE OF namespace, content, tags, metadata, archived_at ON memory BEGIN
        UPDATE usage SET items = items - {_OLD}, bytes = bytes - {_OLD} * ({_BYTES.format(row="old")})
            WHERE namespace = old.namespace;
        INSERT INTO usage VALUES (new.namespace, {_NEW}, {_NEW} * ({_BYTES.format(row="new")}))
        ON CONFLICT DO UPDATE SET items = items + excluded.items, bytes = bytes + excluded.bytes;
    END""",
    """CREATE TABLE receipt (             -- what a store with an idempotency key was answered
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,           -- SHA-256 of what was asked for
        item TEXT NOT NULL,
        created INTEGER NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (namespace, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX receipt_age ON receipt (at)",
)

STEPS = (_SCHEMA, _SECOND)
"""The migrations from each version of the schema to the next; the first one from an empty file."""


class Store:
    """Holds the open file. For one thread; other processes may have the same file open."""

    def __init__(self, path: Path, *, busy_s: float = BUSY_S, max_file_bytes: int = MAX_FILE_BYTES):
        """Opens the file, which is created with mode 0600 (its folder 0700) if it is not there."""
        self._path = path
        self._busy_s = busy_s
        self._trim_at_bytes = WAL_BYTES
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except PermissionError as error:
            raise PermissionDenied(_cannot_open(path, error.strerror), path=str(path)) from error
        except OSError as error:
            raise Conflict(_cannot_open(path, error.strerror), path=str(path)) from error
        with self.typed_errors():
            self.connection = sqlite3.connect(path, timeout=BUSY_SLICE_S, isolation_level=None)
            self.connection.text_factory = _text
            try:
                self._patiently(lambda: _prepare(path, self.connection))
                size: int = self.connection.execute("PRAGMA page_size").fetchone()[0]
                self.connection.execute(f"PRAGMA max_page_count = {max(1, max_file_bytes // size)}")
            except BaseException:
                self.connection.close()
                raise

    def close(self) -> None:
        """Closes the file; the last process to do so leaves no write-ahead log behind."""
        self.connection.close()

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Generator[None, None, None]:
        """Runs a transaction: its changes are on the disk at the end, or undone by an exception."""
        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        with self.typed_errors():
            self._patiently(lambda: self.connection.execute(begin))
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def _patiently(self, action: Callable[[], object]) -> None:
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                action()
            except sqlite3.OperationalError as error:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.005)  # a change of the journal mode is refused without waiting
            else:
                return

    def trim_log(self) -> None:
        """Copies a large write-ahead log into the database.

        SQLite's own checkpoints run beside writers of other processes, and before 3.51.3 that could
        lose pages (https://www.sqlite.org/wal.html#walresetbug): they are off. This one takes the
        write lock first.
        """
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            size = 0
        if size < self._trim_at_bytes:
            return
        with self.typed_errors():
            busy: int = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        # A reader that stays must not make every later store wait for it.
        self._trim_at_bytes = size + WAL_BYTES if busy else WAL_BYTES

    @contextmanager
    def typed_errors(self) -> Generator[None, None, None]:
        """Turns what SQLite reports about the file and the machine into our errors."""
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.InterfaceError):
            raise  # a defect of ours
        except sqlite3.DatabaseError as error:
            code = _code(error)
            where = {"path": str(self._path), "reason": str(error)}
            if _is_busy(error):
                text = f'cannot use memory "{self._path}": another process kept it locked for {self._busy_s} s'
                raise Overloaded(text, retry_after_s=1, **where) from error
            text = f'cannot use memory "{self._path}": {error}'
            if code == sqlite3.SQLITE_FULL:
                raise ResourceLimitExceeded(text, limit="disk", **where) from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
                raise PermissionDenied(text, **where) from error
            raise Conflict(text, **where) from error


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    version = _schema_version(path, connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise Conflict(_cannot_open(path, "its file system has no WAL"), path=str(path), mode=mode)
    if version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        for step in STEPS[_schema_version(path, connection) :]:  # another process may have been faster
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    connection.execute("SELECT 1 FROM memory JOIN memory_index ON 0").fetchone()


def _schema_version(path: Path, connection: sqlite3.Connection) -> int:
    """Returns the version of corral's schema in the file, 0 for an empty file."""
    reads_alone = not connection.in_transaction
    if reads_alone:
        connection.execute("BEGIN")  # one snapshot: another process may be creating the schema
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if reads_alone:
        connection.execute("COMMIT")
    if mark != APPLICATION_ID and (tables or version):
        raise Conflict(_cannot_open(path, "it belongs to another program"), path=str(path))
    if version > SCHEMA_VERSION:
        text = _cannot_open(path, f"its schema {version} is newer than {SCHEMA_VERSION}, the newest known here")
        raise Conflict(text, path=str(path), version=version, limit=SCHEMA_VERSION)
    return version


def _text(data: bytes) -> str:
    """Decodes a text of the database; invalid UTF-8 of a damaged disk is preserved, for the checksum to detect."""
    return str(data, "utf-8", "surrogateescape")


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """Returns SQLite's primary result code; errors of Python's own wrapper have none."""
    extended: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return extended & 0xFF


def _cannot_open(path: Path, reason: str | None) -> str:
    return f'cannot open memory "{path}": {reason}'


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
