"""Searches items of the memory server by words: ranks them once, then returns them page by page.

Scores change with every store, but the pages of one search must not: its ranking is kept for the next page. Any text is
a safe query.
"""

import base64
import math
import struct
from array import array
from collections.abc import Mapping
from typing import NamedTuple

from corral.worker.contract.codec import encode
from corral.worker.contract.errors import InvalidParams

from .database import IN_NAMESPACE, ITEM, LIVE, Item, ItemRow, Store, is_whole, item_of, plain_id, sha256

MAX_FOUND_BYTES = 4 * 1024 * 1024
"""Bytes of all items of one page as JSON; the first one always fits."""

MAX_TERMS = 64
"""Number of words of a query that are used; further ones are ignored."""

MAX_OFFSET = 10_000
"""Number of items that the pages of one search can return."""

MAX_RANKINGS = 32
"""Number of cursors whose ranking is kept; with an older one the search is ranked anew."""

HALF_LIFE_S = 30 * 86_400.0
"""Seconds of age at which an item has half of the freshness of a new one in its score."""

# A factor of 1 (old) to 2 (new): freshness decides between good hits, it does not make one.
_SCORE = """-bm25(memory_index, 1.0, 2.0, 1.0)
    * (1.0 + :half_life / (:half_life + max(0.0, :now - m.created_at)))"""

_HAS_TAGS = """NOT EXISTS (SELECT 1 FROM json_each(:tags) AS wanted
    WHERE wanted.value NOT IN (SELECT value FROM json_each(m.tags)))"""

_HAS_METADATA = """NOT EXISTS (SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
    SELECT 1 FROM json_each(CASE WHEN json_valid(m.metadata) THEN m.metadata END) AS has
    WHERE has.key = wanted.key AND has.type = wanted.type AND has.value IS wanted.value))"""

_IN_TIME = """(:since IS NULL OR m.created_at >= :since) AND (:until IS NULL OR m.created_at < :until)"""

_RANK = f"""
    SELECT m.seq, {_SCORE} AS score, CAST(m.created_at AS REAL)
    FROM memory_index JOIN memory AS m ON m.seq = memory_index.rowid
    WHERE memory_index MATCH :match AND {LIVE} AND {IN_NAMESPACE} AND {_IN_TIME}
        AND m.seq <= :newest AND (:tags = '[]' OR json_valid(m.tags) AND {_HAS_TAGS})
        AND (:metadata = '{{}}' OR {_HAS_METADATA})
    ORDER BY score DESC, m.seq DESC LIMIT {MAX_OFFSET + 1}"""

_RANKED = f"""SELECT {ITEM} FROM memory AS m
    WHERE m.seq = ? AND m.archived_at IS NULL AND CAST(m.created_at AS REAL) IS ?"""


class Found(NamedTuple):
    """Represents a page of a search: items with their scores, best first.

    `truncated` is True if the size limit ended the page; `cursor` selects the next page, if there is one; `damaged`
    are ids of items that were found damaged.
    """

    items: list[tuple[Item, float]]
    truncated: bool = False
    cursor: str | None = None
    damaged: tuple[str, ...] = ()


class Search:
    """Searches one store, page by page."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rankings: dict[str, _Ranking] = {}  # by cursor, the newest last

    def page(self, query: str, filters: Mapping[str, object], *, limit: int, now: float, cursor: str | None) -> Found:
        """Returns the best `limit` items of a query, or those after a cursor; `filters` are the parameters of `_RANK`."""
        # FTS5 reads a query as a C string and knows operators; a quoted term has neither.
        words = dict.fromkeys(query.replace("\0", " ").split())
        terms = ['"' + word.replace('"', '""') + '"' for word in list(words)[:MAX_TERMS]]
        asked = sha256(encode([terms, filters]))[:8]
        place = self._first(now) if cursor is None else _Place.read(cursor, asked)
        ranking = self._rankings.get(cursor or "")
        for operator in (" AND ", " OR ")[place.tries : max(1, len(terms))]:
            if not terms:
                break
            with self._store.typed_errors():
                if ranking is None:
                    ranking = self._ranking({**filters, "match": operator.join(terms)}, place)
                found = self._page(ranking, place, limit, now, asked)
            if found.items or found.damaged or cursor is not None:
                if found.cursor is not None:
                    self._rankings.pop(found.cursor, None)
                    self._rankings[found.cursor] = ranking
                    if len(self._rankings) > MAX_RANKINGS:
                        del self._rankings[next(iter(self._rankings))]
                return found
            place, ranking = place._replace(tries=place.tries + 1), None
        return Found([])

    def _ranking(self, parameters: Mapping[str, object], place: "_Place") -> "_Ranking":
        more = {"now": place.now, "newest": place.newest, "half_life": HALF_LIFE_S}
        ranking = _Ranking(array("q"), array("d"), array("d"))
        for seq, score, created_at in self._store.connection.execute(_RANK, {**parameters, **more}):
            ranking.seqs.append(seq)
            ranking.scores.append(score)
            ranking.created_at.append(created_at)
        return ranking

    def _page(self, ranking: "_Ranking", place: "_Place", limit: int, now: float, asked: bytes) -> Found:
        """Returns as many items as fit into one page, and the cursor of the next one."""
        items: list[tuple[Item, float]] = []
        damaged: list[str] = []
        size = 0
        end = place.offset
        is_cut = False
        for end in range(place.offset, min(place.offset + limit, len(ranking.seqs))):
            which = (ranking.seqs[end], ranking.created_at[end])
            row: ItemRow | None = self._store.connection.execute(_RANKED, which).fetchone()
            if row is None:  # archived or replaced since the first page
                continue
            if not is_whole(row):
                damaged.append(plain_id(row[0]))
            elif row[7] is None or row[7] > now:  # later pages exclude items that have expired since
                item = item_of(row)
                size += len(encode(item))
                if items and size > MAX_FOUND_BYTES:
                    is_cut = True
                    break
                items.append((item, ranking.scores[end]))
        else:
            end = min(place.offset + limit, len(ranking.seqs))
        goes_on = end < len(ranking.seqs) and end <= MAX_OFFSET
        following = place._replace(offset=end)
        return Found(
            items, truncated=is_cut, cursor=following.cursor(asked) if goes_on else None, damaged=tuple(damaged)
        )

    def _first(self, now: float) -> "_Place":
        with self._store.typed_errors():
            row = self._store.connection.execute("SELECT max(seq) FROM memory").fetchone()
        return _Place(now, row[0] or 0, 0, 0)


class _Ranking(NamedTuple):
    seqs: "array[int]"
    scores: "array[float]"
    created_at: "array[float]"


class _Place(NamedTuple):
    """Represents the position of a page: the time and newest item of the search, all words (0) or any (1), and the offset."""

    now: float
    newest: int
    tries: int
    offset: int

    def cursor(self, asked: bytes) -> str:
        """Encodes the position for `read`; `asked` is the digest of the search."""
        return base64.urlsafe_b64encode(asked + struct.pack("!dqBI", *self)).decode().rstrip("=")

    @classmethod
    def read(cls, cursor: str, asked: bytes) -> "_Place":
        try:
            packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
            place = cls(*struct.unpack("!dqBI", packed[len(asked) :]))
        except (ValueError, struct.error) as error:
            raise InvalidParams("cannot search on: it is not a cursor", field="cursor") from error
        if (
            packed[: len(asked)] != asked
            or not math.isfinite(place.now)
            or place.tries > 1
            or place.offset > MAX_OFFSET
        ):
            raise InvalidParams("cannot search on: the cursor is that of another search", field="cursor")
        return place
