"""Stores and retrieves the items of the memory server, in one SQLite file with full-text search.

Guarantees: a store that has returned survives `kill -9` and a power cut (WAL, synchronous=FULL); several
processes may use one file at once; any text is a safe query; nothing is ever deleted: replaced, expired and merged
items are archived; an item that the disk has damaged is detected. It must not know MCP, JSON-RPC or the client.

An *item* is a content in a namespace, found by its id, by words, or by a key. A key names one item, and
storing under it again replaces the content. The same content without a key is kept once in a namespace.
"""

import os
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from corral.worker.contract.codec import encode
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, ResourceLimitExceeded

from .database import (
    IN_NAMESPACE,
    ITEM,
    LIVE,
    ROW,
    Item,
    ItemRow,
    Row,
    Store,
    is_whole,
    item_of,
    object_of,
    plain_id,
    seal_for,
    seal_of,
    sha256,
    strings_of,
)
from .search import Found, Search

MAX_ITEM_BYTES = 4 * 1024 * 1024
"""Bytes of one item as JSON. Quoted twice in an MCP result it still fits into a message of 16 MiB."""

MAX_ARCHIVED = 10_000
"""Number of items that one consolidation archives; the next one continues."""

RECEIPT_S = 7 * 86_400.0
"""Seconds that an idempotency key is kept."""


class Stored(NamedTuple):
    """Represents a stored content; `created` is False if an existing item has it."""

    id: str
    created: bool


class Quota(NamedTuple):
    """Limits the content of a namespace; archived items do not count."""

    items: int = 1_000_000
    bytes: int = 1024 * 1024 * 1024


class Consolidated(NamedTuple):
    """Lists the ids that were (in a dry run, would be) archived, and those kept in place of duplicates."""

    archived: list[str]
    kept: list[str]


class Memory:
    """Manages the items in one store; `clock` returns seconds since 1970, `quota` applies to each namespace."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time, quota: Quota | None = None):
        self._store = store
        self._clock = clock
        self._quota = quota or Quota()
        self._search = Search(store)

    def store(
        self,
        content: str,
        *,
        key: str | None = None,
        namespace: str = "default",
        tags: Sequence[str] = (),
        metadata: Mapping[str, object] | None = None,
        ttl_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Stores `content`; it is on the disk when this returns.

        A repetition with the same `idempotency_key`, within RECEIPT_S, does nothing and returns the first result.
        """
        now = self._clock()
        new = _New.of(content, key, namespace, tags, metadata or {}, now, ttl_s)
        asked = encode([content, key, sorted(set(tags)), new.metadata, ttl_s])
        with self._store.transaction():
            known = self._receipt(idempotency_key, asked, new)
            if known is not None:
                return known
            before = self._used(namespace)
            stored = self._store_plain(new) if key is None else self._store_keyed(new)
            self._check_quota(namespace, before, now)
            if idempotency_key is not None:
                self._store.connection.execute(
                    "INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?)",
                    (namespace, idempotency_key, sha256(asked), *stored, now),
                )
        self._store.trim_log()
        return stored

    def _receipt(self, idempotency_key: str | None, asked: bytes, new: "_New") -> Stored | None:
        if idempotency_key is None:
            return None
        connection = self._store.connection
        connection.execute("DELETE FROM receipt WHERE at <= ?", (new.now - RECEIPT_S,))
        row = connection.execute(
            "SELECT digest, item, created FROM receipt WHERE namespace = ? AND key = ?",
            (new.namespace, idempotency_key),
        ).fetchone()
        if row is None:
            return None
        digest, item_id, created = row
        if digest != sha256(asked):
            words = f'cannot store the item: idempotency key "{idempotency_key}" was used for another'
            raise Conflict(words, field="idempotency_key", id=item_id)
        return Stored(item_id, created=bool(created))

    def _used(self, namespace: str) -> Quota:
        query = "SELECT items, bytes FROM usage WHERE namespace = ?"
        row = self._store.connection.execute(query, (namespace,)).fetchone()
        return Quota(0, 0) if row is None else Quota(*row)

    def _check_quota(self, namespace: str, before: Quota, now: float) -> None:
        """Refuses a change that exceeds the quota of a namespace, after archiving its expired items."""
        if not self._excess(before, self._used(namespace)):
            return
        for row in self._expired(namespace, now):
            self._archive(row.seq, "expired", now)
        used = self._used(namespace)
        for limit in self._excess(before, used):
            most, has = getattr(self._quota, limit), getattr(used, limit)
            words = f'cannot store the item: namespace "{namespace}" would have {has} {limit}, its quota is {most}'
            raise ResourceLimitExceeded(words, limit=limit, namespace=namespace, quota=most, value=has)

    def _excess(self, before: Quota, used: Quota) -> list[str]:
        each = zip(Quota._fields, before, used, self._quota, strict=True)
        return [limit for limit, had, has, most in each if has > max(had, most)]

    def _store_plain(self, new: "_New") -> Stored:
        same = self._same_content(new)
        if same is None:
            return self._insert(new, plain=1)
        self._merge(same, new, key_of=None)
        return Stored(same.id, created=False)

    def _store_keyed(self, new: "_New") -> Stored:
        named = self._row("m.namespace = :namespace AND m.key = :key", new._asdict())
        if named is not None and named.expires_at is not None and named.expires_at <= new.now:
            self._archive(named.seq, "expired", new.now)
            self._release_key(named)
            named = None
        if named is None:
            same = self._same_content(new, "AND m.key IS NULL")
            if same is None:
                return self._insert(new, plain=0)
            self._merge(same, new, key_of=new.key)
            return Stored(same.id, created=False)
        if (named.plain and named.hash != new.hash) or not named.id.isascii():
            # This content was also stored without the key, and its id is in use: the item stays unchanged. An id that
            # the disk has damaged cannot be returned.
            self._release_key(named)
            return self._insert(new, plain=0)
        if named.hash != new.hash:
            copy_id = _new_id()
            seal = seal_of(named._replace(id=copy_id, key=None)) if self._is_whole(named) else b""
            self._store.connection.execute(
                """INSERT INTO memory (id, namespace, plain, content, hash, normal, tags, metadata,
                    created_at, expires_at, seal, archived_at, archived_why)
                SELECT ?, namespace, 0, content, hash, normal, tags, metadata,
                    created_at, expires_at, ?, ?, 'replaced' FROM memory WHERE seq = ?""",
                (copy_id, seal, new.now, named.seq),
            )
        self._store.connection.execute(
            """UPDATE memory SET content = :content, hash = :hash, normal = :normal, tags = :tags,
                metadata = :metadata, created_at = :now, expires_at = :expires_at, seal = :seal,
                archived_at = NULL, archived_why = NULL WHERE seq = :seq""",
            {**new.sealed(named.id), "seq": named.seq},
        )
        return Stored(named.id, created=False)

    def _same_content(self, new: "_New", condition: str = "") -> Row | None:
        """Returns the undamaged item that has this content already, if any."""
        where = f"m.namespace = :namespace AND m.hash = :hash AND {LIVE} {condition}"
        query = f"SELECT {ROW} FROM memory AS m WHERE {where} ORDER BY m.seq"
        found = map(Row._make, self._store.connection.execute(query, new._asdict()))
        return next(filter(self._is_whole, found), None)

    def _is_whole(self, row: Row) -> bool:
        query = f"SELECT {ITEM} FROM memory AS m WHERE m.seq = ?"
        return is_whole(self._store.connection.execute(query, (row.seq,)).fetchone())

    def _row(self, where: str, parameters: Mapping[str, object]) -> Row | None:
        query = f"SELECT {ROW} FROM memory AS m WHERE {where} ORDER BY m.seq LIMIT 1"
        row = self._store.connection.execute(query, parameters).fetchone()
        return None if row is None else Row(*row)

    def _insert(self, new: "_New", *, plain: int) -> Stored:
        item_id = _new_id()
        self._store.connection.execute(
            """INSERT INTO memory (id, namespace, key, plain, content, hash, normal, tags, metadata,
                created_at, expires_at, seal) VALUES (:id, :namespace, :key, :plain, :content, :hash,
                :normal, :tags, :metadata, :now, :expires_at, :seal)""",
            {**new.sealed(item_id), "plain": plain},
        )
        return Stored(item_id, created=True)

    def _merge(self, row: Row, new: "_New", *, key_of: str | None) -> None:
        """Merges `new` into `row`: both sets of tags and metadata, and the later of both expiries."""
        metadata = encode({**object_of(row.metadata), **object_of(new.metadata)}).decode()
        tags = _union([row.tags, new.tags])
        _check_size([new.content, metadata, tags])
        expires_at = _longest([row.expires_at, new.expires_at])
        changed = row._replace(tags=tags, metadata=metadata, expires_at=expires_at)
        seal = seal_of(changed._replace(key=key_of or row.key))
        self._store.connection.execute(
            """UPDATE memory SET plain = plain OR ?, key = coalesce(?, key), tags = ?, metadata = ?,
                expires_at = ?, seal = ? WHERE seq = ?""",
            (int(key_of is None), key_of, tags, metadata, expires_at, seal, row.seq),
        )

    def _release_key(self, row: Row) -> None:
        seal = seal_of(row._replace(key=None)) if self._is_whole(row) else b""
        self._store.connection.execute("UPDATE memory SET key = NULL, seal = ? WHERE seq = ?", (seal, row.seq))

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
        metadata: Mapping[str, object] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 10,
        cursor: str | None = None,
    ) -> Found:
        """Returns the best `limit` items that have all words of `query`, or else any of them, and all `tags`.

        Without a namespace all namespaces are searched. A query without a word finds nothing. `metadata` are members
        that an item must have, `since` (inclusive) and `until` bound its `created_at`. With the `cursor` of an earlier
        page of the same search it returns the next page, without items stored in the meantime.
        """
        wanted: dict[str, object] = {
            "namespace": namespace,
            "tags": encode(list(tags)).decode(),
            "metadata": encode(metadata or {}).decode(),
            "since": since,
            "until": until,
        }
        return self._search.page(query, wanted, limit=limit, now=self._clock(), cursor=cursor)

    def retrieve(self, *, item_id: str | None = None, key: str | None = None, namespace: str | None = None) -> Item:
        """Returns the item of an id or, in the namespace, of a key; also one archived as a duplicate."""
        assert (item_id is None) != (key is None), "an item is retrieved by its id or by its key"
        query = f"""SELECT {ITEM} FROM memory AS m
            WHERE {"m.id = :id" if key is None else "m.key = :key"} AND {IN_NAMESPACE}
            AND m.archived_why IS NOT 'replaced'"""
        parameters = {"id": item_id, "key": key, "namespace": namespace}
        with self._store.typed_errors():
            row: ItemRow | None = self._store.connection.execute(query, parameters).fetchone()
        if row is not None:
            if not is_whole(row):
                shown = plain_id(row[0])
                words = f'cannot retrieve item "{shown}": it is damaged: not what was stored'
                raise Conflict(words, id=shown, reason="checksum")
            if row[7] is None or row[7] > self._clock():
                return item_of(row)
        asked: dict[str, object] = {"id": item_id} if key is None else {"key": key}
        if namespace is not None:
            asked["namespace"] = namespace
        words = " in ".join(f'{name} "{value}"' for name, value in asked.items())
        raise NotFound(f"cannot retrieve {words}: nothing is stored there", **asked)

    def consolidate(self, *, namespace: str | None = None, dry_run: bool = True) -> Consolidated:
        """Archives expired items, and all but the newest of items whose normalised texts are equal.

        The kept item takes over all tags and the latest expiry. The result depends on the items alone; a dry run
        changes nothing.
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

    def _expired(self, namespace: str | None, now: float) -> list[Row]:
        where = f"m.archived_at IS NULL AND m.expires_at <= :now AND {IN_NAMESPACE}"
        query = f"SELECT {ROW} FROM memory AS m WHERE {where} ORDER BY m.seq LIMIT {MAX_ARCHIVED}"
        return [Row(*row) for row in self._store.connection.execute(query, {"namespace": namespace, "now": now})]

    def _duplicates(self, namespace: str | None, now: float) -> Iterator[list[Row]]:
        """Yields groups of live items with equal normalised texts, the newest of each group first."""
        groups = self._store.connection.execute(
            f"""SELECT m.namespace, m.normal FROM memory AS m WHERE {LIVE} AND {IN_NAMESPACE}
            GROUP BY m.namespace, m.normal HAVING count(*) > 1 ORDER BY min(m.seq) LIMIT {MAX_ARCHIVED}""",
            {"namespace": namespace, "now": now},
        ).fetchall()
        query = f"""SELECT {ROW} FROM memory AS m
            WHERE {LIVE} AND m.namespace = :namespace AND m.normal = :normal
            ORDER BY m.created_at DESC, m.seq DESC LIMIT {MAX_ARCHIVED}"""
        for group_namespace, normal in groups:
            parameters = {"namespace": group_namespace, "normal": normal, "now": now}
            found = [Row(*row) for row in self._store.connection.execute(query, parameters)]
            if whole := [row for row in found if self._is_whole(row)]:
                yield whole

    def _replace_duplicates(self, kept: Row, older: list[Row], now: float) -> None:
        for row in older:
            self._archive(row.seq, "duplicate", now)
        tags = _union([row.tags for row in (kept, *older)])
        expires_at = _longest([row.expires_at for row in (kept, *older)])
        if (tags, expires_at) != (kept.tags, kept.expires_at):
            seal = seal_of(kept._replace(tags=tags, expires_at=expires_at))
            self._store.connection.execute(
                "UPDATE memory SET tags = ?, expires_at = ?, seal = ? WHERE seq = ?", (tags, expires_at, seal, kept.seq)
            )


class _New(NamedTuple):
    content: str
    key: str | None
    namespace: str
    tags: str
    metadata: str
    hash: bytes
    normal: bytes
    now: float
    expires_at: float | None

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
            text = f"cannot store the item: metadata cannot be encoded as JSON: {error}"
            raise InvalidParams(text, field="metadata") from error
        wanted = encode(sorted(set(tags))).decode()
        _check_size([content, facts, wanted])
        normal = " ".join(unicodedata.normalize("NFKC", content).casefold().split())
        digests = sha256(content.encode()), sha256(normal.encode())
        return cls(content, key, namespace, wanted, facts, *digests, now, None if ttl_s is None else now + ttl_s)

    def sealed(self, item_id: str) -> dict[str, object]:
        """Returns the parameters of a row with this id, and its seal."""
        facts = (self.namespace, self.tags, self.metadata, self.now, self.expires_at)
        return {**self._asdict(), "id": item_id, "seal": seal_for(item_id, self.key, *facts)}


def _check_size(parts: Sequence[object]) -> None:
    size = len(encode(parts))
    if size > MAX_ITEM_BYTES:
        text = f"cannot store the item: content takes {size} bytes, the limit is {MAX_ITEM_BYTES}"
        raise ResourceLimitExceeded(text, field="content", limit=MAX_ITEM_BYTES, value=size)


def _new_id() -> str:
    return os.urandom(10).hex()


def _union(lists: Sequence[str]) -> str:
    return encode(sorted({tag for each in lists for tag in strings_of(each)})).decode()


def _longest(expiries: Sequence[float | None]) -> float | None:
    known = [each for each in expiries if each is not None]
    return max(known) if len(known) == len(expiries) else None
