"""What the memory server remembers: one SQLite file, full-text search, nothing lost once it is stored.

Guarantees: a store that has returned survives `kill -9` and a power cut (WAL, synchronous=FULL); several
processes may use one file at once; any text is a safe query; nothing is ever deleted, what is replaced,
expired or merged is archived. It must not know MCP, JSON-RPC or who asks.

An *item* is a content in a namespace, found by its id, by words, or by a key. A key names one item, and
storing under it again replaces the content. The same content without a key is kept once in a namespace.
"""

import hashlib
import os
import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ..worker.codec import as_array, as_object, decode, encode
from ..worker.errors import InvalidParams, NotFound, ResourceLimitExceeded
from .cortex_store import Store

MAX_ITEM_BYTES = 4 * 1024 * 1024
"""One item as JSON. Quoted twice in an MCP result it still fits into a message of 16 MiB."""

MAX_FOUND_BYTES = MAX_ITEM_BYTES
"""All items of one search as JSON; the first one always fits."""

MAX_TERMS = 64
"""Words of a query that are looked for; further ones are ignored."""

MAX_ARCHIVED = 10_000
"""Items that one consolidation archives at most; the next one goes on."""

HALF_LIFE_S = 30 * 86_400.0
"""An item of this age has half of the freshness that a new one adds to its score."""

_ITEM = "m.id, m.key, m.namespace, m.content, m.tags, m.metadata, m.created_at, m.expires_at, m.archived_at"
_UNEXPIRED = "(m.expires_at IS NULL OR m.expires_at > :now)"
_LIVE = f"m.archived_at IS NULL AND {_UNEXPIRED}"
_IN_NAMESPACE = "(:namespace IS NULL OR m.namespace = :namespace)"

# A multiplication by 1 (old) to 2 (new): freshness decides between good hits, it does not make one.
_SCORE = """-bm25(memory_index, 1.0, 2.0, 1.0)
    * (1.0 + :half_life / (:half_life + max(0.0, :now - m.created_at)))"""
_HAS_TAGS = """NOT EXISTS (SELECT 1 FROM json_each(:tags) AS wanted
    WHERE wanted.value NOT IN (SELECT value FROM json_each(m.tags)))"""
_SEARCH = f"""
    SELECT {_ITEM}, best.score FROM (
        SELECT m.seq AS seq, {_SCORE} AS score
        FROM memory_index JOIN memory AS m ON m.seq = memory_index.rowid
        WHERE memory_index MATCH :match AND {_LIVE} AND {_IN_NAMESPACE} AND {_HAS_TAGS}
        ORDER BY score DESC, m.seq DESC LIMIT :limit
    ) AS best JOIN memory AS m ON m.seq = best.seq ORDER BY best.score DESC, m.seq DESC"""

_ItemRow = tuple[str, str | None, str, str, str, str, float, float | None, float | None]


class Stored(NamedTuple):
    """Where a content is; `created` is false when an item that was there has it now."""

    id: str
    created: bool


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


class Found(NamedTuple):
    """The items of a search with their scores, best first; `truncated` when more did not fit."""

    items: list[tuple[Item, float]]
    truncated: bool


class Consolidated(NamedTuple):
    """Ids that were (or, in a dry run, would be) archived, and those kept in place of duplicates."""

    archived: list[str]
    kept: list[str]


class _Row(NamedTuple):
    """What storing and merging need to know of an item that is there."""

    seq: int
    id: str
    plain: int
    hash: bytes
    tags: str
    metadata: str
    expires_at: float | None


_ROW = "m.seq, m.id, m.plain, m.hash, m.tags, m.metadata, m.expires_at"


class Memory:
    """The items in one store; `clock` gives the seconds since 1970."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time):
        self._store = store
        self._clock = clock

    def store(
        self,
        content: str,
        *,
        key: str | None = None,
        namespace: str = "default",
        tags: Sequence[str] = (),
        metadata: Mapping[str, object] | None = None,
        ttl_s: float | None = None,
    ) -> Stored:
        """Remembers `content`; it is on the disk when this returns.

        Raises:
            InvalidParams: the metadata cannot be said in JSON.
            ResourceLimitExceeded: the item is too large, or the disk is full.
            Overloaded: another process kept the file locked for longer than BUSY_S.
        """
        now = self._clock()
        new = _New.of(content, key, namespace, tags, metadata or {}, now, ttl_s)
        with self._store.transaction():
            stored = self._store_plain(new) if key is None else self._store_keyed(new)
        self._store.trim_log()
        return stored

    def _store_plain(self, new: "_New") -> Stored:
        same = self._same_content(new)
        if same is None:
            return self._insert(new, plain=1)
        self._merge(same, new, key_of=None)
        return Stored(same.id, created=False)

    def _store_keyed(self, new: "_New") -> Stored:
        named = self._row("m.namespace = :namespace AND m.key = :key", new.parameters)
        if named is not None and named.expires_at is not None and named.expires_at <= new.now:
            self._archive(named.seq, "expired", new.now)
            self._release_key(named.seq)
            named = None
        if named is None:
            same = self._same_content(new, "AND m.key IS NULL")
            if same is None:
                return self._insert(new, plain=0)
            self._merge(same, new, key_of=new.key)
            return Stored(same.id, created=False)
        if named.plain and named.hash != new.hash:
            # Somebody stored this content without the key, and holds its id: it stays what it is.
            self._release_key(named.seq)
            return self._insert(new, plain=0)
        if named.hash != new.hash:
            self._store.connection.execute(
                """INSERT INTO memory (id, namespace, plain, content, hash, normal, tags, metadata,
                    created_at, expires_at, archived_at, archived_why)
                SELECT ?, namespace, 0, content, hash, normal, tags, metadata,
                    created_at, expires_at, ?, 'replaced' FROM memory WHERE seq = ?""",
                (_new_id(), new.now, named.seq),
            )
        self._store.connection.execute(
            """UPDATE memory SET content = :content, hash = :hash, normal = :normal, tags = :tags,
                metadata = :metadata, created_at = :now, expires_at = :expires_at,
                archived_at = NULL, archived_why = NULL WHERE seq = :seq""",
            {**new.parameters, "seq": named.seq},
        )
        return Stored(named.id, created=False)

    def _same_content(self, new: "_New", condition: str = "") -> _Row | None:
        where = f"m.namespace = :namespace AND m.hash = :hash AND {_LIVE} {condition}"
        return self._row(where, new.parameters)

    def _row(self, where: str, parameters: Mapping[str, object]) -> _Row | None:
        query = f"SELECT {_ROW} FROM memory AS m WHERE {where} ORDER BY m.seq LIMIT 1"
        row = self._store.connection.execute(query, parameters).fetchone()
        return None if row is None else _Row(*row)

    def _insert(self, new: "_New", *, plain: int) -> Stored:
        item_id = _new_id()
        self._store.connection.execute(
            """INSERT INTO memory (id, namespace, key, plain, content, hash, normal, tags, metadata,
                created_at, expires_at) VALUES (:id, :namespace, :key, :plain, :content, :hash,
                :normal, :tags, :metadata, :now, :expires_at)""",
            {**new.parameters, "id": item_id, "plain": plain},
        )
        return Stored(item_id, created=True)

    def _merge(self, row: _Row, new: "_New", *, key_of: str | None) -> None:
        """Makes `row` answer for `new` as well: its tags and facts too, for the longer of both lives."""
        metadata = encode({**_object(row.metadata), **_object(new.metadata)}).decode()
        tags = _union([row.tags, new.tags])
        _check_size([new.parameters["content"], metadata, tags])
        self._store.connection.execute(
            """UPDATE memory SET plain = plain OR ?, key = coalesce(?, key), tags = ?, metadata = ?,
                expires_at = ? WHERE seq = ?""",
            (
                int(key_of is None),
                key_of,
                tags,
                metadata,
                _longest([row.expires_at, new.expires_at]),
                row.seq,
            ),
        )

    def _release_key(self, seq: int) -> None:
        self._store.connection.execute("UPDATE memory SET key = NULL WHERE seq = ?", (seq,))

    def _archive(self, seq: int, why: str, now: float) -> None:
        self._store.connection.execute(
            "UPDATE memory SET archived_at = ?, archived_why = ? WHERE seq = ?", (now, why, seq)
        )

    def search(
        self,
        query: str,
        *,
        namespace: str | None = None,
        tags: Sequence[str] = (),
        limit: int = 10,
    ) -> Found:
        """The best `limit` items that have all words of `query`, or else any of them, and all `tags`.

        Without a namespace all namespaces are searched. A query without a word finds nothing.
        """
        # FTS5 reads a query as a C string and knows operators; a quoted term has neither.
        words = dict.fromkeys(query.replace("\0", " ").split())
        terms = ['"' + word.replace('"', '""') + '"' for word in list(words)[:MAX_TERMS]]
        found = Found([], truncated=False)
        for operator in (" AND ", " OR ")[: len(terms)]:  # one term needs one try, none needs none
            parameters = {
                "match": operator.join(terms),
                "now": self._clock(),
                "namespace": namespace,
                "tags": encode(list(tags)).decode(),
                "limit": limit,
                "half_life": HALF_LIFE_S,
            }
            with self._store.typed_errors():
                found = _within_limit(self._store.connection.execute(_SEARCH, parameters))
            if found.items:
                break
        return found

    def retrieve(
        self, *, item_id: str | None = None, key: str | None = None, namespace: str | None = None
    ) -> Item:
        """The item of that id or, in the namespace, of that key; one archived as a duplicate too.

        Raises:
            NotFound: there is none, or it has expired.
        """
        assert (item_id is None) != (key is None), "an item is retrieved by its id or by its key"
        query = f"""SELECT {_ITEM} FROM memory AS m
            WHERE {"m.id = :id" if key is None else "m.key = :key"} AND {_IN_NAMESPACE}
            AND {_UNEXPIRED} AND m.archived_why IS NOT 'replaced'"""
        parameters = {"id": item_id, "key": key, "namespace": namespace, "now": self._clock()}
        with self._store.typed_errors():
            row: _ItemRow | None = self._store.connection.execute(query, parameters).fetchone()
        if row is not None:
            return _item(row)
        asked: dict[str, object] = {"id": item_id} if key is None else {"key": key}
        if namespace is not None:
            asked["namespace"] = namespace
        words = " in ".join(f'{name} "{value}"' for name, value in asked.items())
        raise NotFound(f"cannot retrieve {words}: nothing is stored there", **asked)

    def consolidate(self, *, namespace: str | None = None, dry_run: bool = True) -> Consolidated:
        """Archives what has expired, and all but the newest of items whose normalised texts are equal.

        The one that is kept takes over the tags, and lives as long as the longest of them. What it
        does depends on the items alone; a dry run changes nothing.
        """
        done = Consolidated([], [])
        with self._store.transaction(writes=not dry_run):
            now = self._clock()
            for row in self._expired(namespace, now):
                done.archived.append(row.id)
                if not dry_run:
                    self._archive(row.seq, "expired", now)
            for kept, *older in self._duplicates(namespace, now):
                if len(done.archived) + len(older) > MAX_ARCHIVED:
                    break
                done.kept.append(kept.id)
                done.archived.extend(row.id for row in older)
                if not dry_run:
                    self._replace_duplicates(kept, older, now)
        self._store.trim_log()
        return done

    def _expired(self, namespace: str | None, now: float) -> list[_Row]:
        where = f"m.archived_at IS NULL AND m.expires_at <= :now AND {_IN_NAMESPACE}"
        query = f"SELECT {_ROW} FROM memory AS m WHERE {where} ORDER BY m.seq LIMIT {MAX_ARCHIVED}"
        parameters = {"namespace": namespace, "now": now}
        return [_Row(*row) for row in self._store.connection.execute(query, parameters)]

    def _duplicates(self, namespace: str | None, now: float) -> Iterator[list[_Row]]:
        """Groups of live items with equal normalised texts, the newest of each group first."""
        groups = self._store.connection.execute(
            f"""SELECT m.namespace, m.normal FROM memory AS m WHERE {_LIVE} AND {_IN_NAMESPACE}
            GROUP BY m.namespace, m.normal HAVING count(*) > 1 ORDER BY min(m.seq) LIMIT {MAX_ARCHIVED}""",
            {"namespace": namespace, "now": now},
        ).fetchall()
        query = f"""SELECT {_ROW} FROM memory AS m
            WHERE {_LIVE} AND m.namespace = :namespace AND m.normal = :normal
            ORDER BY m.created_at DESC, m.seq DESC LIMIT {MAX_ARCHIVED}"""
        for group_namespace, normal in groups:
            parameters = {"namespace": group_namespace, "normal": normal, "now": now}
            yield [_Row(*row) for row in self._store.connection.execute(query, parameters)]

    def _replace_duplicates(self, kept: _Row, older: list[_Row], now: float) -> None:
        for row in older:
            self._archive(row.seq, "duplicate", now)
        tags = _union([row.tags for row in (kept, *older)])
        expires_at = _longest([row.expires_at for row in (kept, *older)])
        if (tags, expires_at) != (kept.tags, kept.expires_at):
            self._store.connection.execute(
                "UPDATE memory SET tags = ?, expires_at = ? WHERE seq = ?",
                (tags, expires_at, kept.seq),
            )


class _New(NamedTuple):
    """A content on its way in, with everything that its row needs."""

    key: str | None
    hash: bytes
    tags: str
    metadata: str
    now: float
    expires_at: float | None
    parameters: dict[str, object]

    @classmethod
    def of(
        cls,
        content: str,
        key: str | None,
        namespace: str,
        tags: Sequence[str],
        metadata: Mapping[str, object],
        now: float,
        ttl_s: float | None,
    ) -> "_New":
        try:
            facts = encode(metadata).decode()
        except ValueError as error:
            text = f"cannot store the item: metadata cannot be said in JSON: {error}"
            raise InvalidParams(text, field="metadata") from error
        wanted = encode(sorted(set(tags))).decode()
        _check_size([content, facts, wanted])
        normal = " ".join(unicodedata.normalize("NFKC", content).casefold().split())
        expires_at = None if ttl_s is None else now + ttl_s
        digest = hashlib.sha256(content.encode()).digest()
        parameters: dict[str, object] = {
            "content": content,
            "key": key,
            "namespace": namespace,
            "tags": wanted,
            "metadata": facts,
            "hash": digest,
            "normal": hashlib.sha256(normal.encode()).digest(),
            "now": now,
            "expires_at": expires_at,
        }
        return cls(key, digest, wanted, facts, now, expires_at, parameters)


def _check_size(parts: Sequence[object]) -> None:
    size = len(encode(parts))
    if size > MAX_ITEM_BYTES:
        text = f"cannot store the item: content takes {size} bytes, the limit is {MAX_ITEM_BYTES}"
        raise ResourceLimitExceeded(text, field="content", limit=MAX_ITEM_BYTES, value=size)


def _within_limit(rows: sqlite3.Cursor) -> Found:
    items: list[tuple[Item, float]] = []
    size = 0
    for *columns, score in rows:
        row: _ItemRow = tuple(columns)
        item = _item(row)
        size += len(encode(item))
        if items and size > MAX_FOUND_BYTES:
            rows.close()
            return Found(items, truncated=True)
        items.append((item, score))
    return Found(items, truncated=False)


def _item(row: _ItemRow) -> Item:
    item_id, key, namespace, content, tags, metadata, created_at, expires_at, archived_at = row
    return Item(
        item_id,
        key,
        namespace,
        content,
        _strings(tags),
        _object(metadata),
        _when(created_at),
        None if expires_at is None else _when(expires_at),
        None if archived_at is None else _when(archived_at),
    )


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _new_id() -> str:
    return os.urandom(10).hex()


def _strings(text: str) -> list[str]:
    return [str(each) for each in as_array(decode(text.encode())) or ()]


def _object(text: str) -> dict[str, object]:
    return as_object(decode(text.encode())) or {}


def _union(lists: Sequence[str]) -> str:
    return encode(sorted({tag for each in lists for tag in _strings(each)})).decode()


def _longest(expiries: Sequence[float | None]) -> float | None:
    known = [each for each in expiries if each is not None]
    return max(known) if len(known) == len(expiries) else None
