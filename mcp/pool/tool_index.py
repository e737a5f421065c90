"""Finds tools by words: those of their names, titles, descriptions and parameters, the words of names taken apart.

Values in, values out. The index is in memory (SQLite FTS5: English stems, bm25) and kept for the lists that were searched
last. Any text is a safe query.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from corral.worker.contract.codec import as_object

RESULTS = 5
"""Number of tools that a search returns by default."""

QUERY_WORDS = 32
"""Number of words of a query that count."""

PREFIX_CHARACTERS = 3
"""Length from which a word is also looked for as the beginning of others."""

TEXT_CHARACTERS = 4_000
"""Characters of each part of a tool that are searched."""

INDEXES = 16
"""Number of lists whose index is kept."""

_WORD = re.compile(r"\w+")

STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and any are as at be by can do does for from has have how i if in into is it its me my of on or our please"
        " that the their them there these they this to up us was we what when where which who why will with you your"
    )
)
"""Words that tell nothing of a tool."""

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
"""Places between the words of a name such as `getHTTPStatus`."""

_HUMPED = re.compile(r"[A-Za-z0-9]*[a-z0-9][A-Z][A-Za-z0-9]*|[A-Z]{2,}[a-z]{2}[A-Za-z0-9]*")

_RANK = "SELECT rowid FROM tool WHERE tool MATCH ? ORDER BY bm25(tool, 6.0, 3.0, 2.0, 1.0), rowid LIMIT ?"
"""The weights are those of the parts of a `Document`."""


class Document(NamedTuple):
    """Holds what is searched of a tool."""

    name: str
    title: str
    description: str
    parameters: str


def document_of(tool: Mapping[str, object]) -> Document:
    """Returns what is searched of a tool, given as MCP's object."""
    schema = as_object(tool.get("inputSchema")) or {}
    parts: list[str] = []
    for name, about in (as_object(schema.get("properties")) or {}).items():
        parts += [name, str((as_object(about) or {}).get("description") or "")]
    title = tool.get("title") or (as_object(tool.get("annotations")) or {}).get("title")
    texts = (str(title or ""), str(tool.get("description") or ""), " ".join(parts))
    return Document(str(tool["name"]), *(text[:TEXT_CHARACTERS] for text in texts))


def search(query: str, tools: tuple[Document, ...], limit: int = RESULTS) -> list[str]:
    """Returns the names of the tools that fit a query best, the best first.

    Where too few have one of its words, those follow that have a word which begins like one.
    """
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(_apart(query))))[:QUERY_WORDS]
    words = [word for word in words if word not in STOP_WORDS] or words
    found = _ranked(tools, [f'"{word}"' for word in words], limit)
    if len(found) < limit:
        beginnings = [f'"{word}"*' for word in words if len(word) >= PREFIX_CHARACTERS]
        found += [number for number in _ranked(tools, beginnings, limit) if number not in found]
    return [tools[number].name for number in found[:limit]]


def _ranked(tools: tuple[Document, ...], terms: Sequence[str], limit: int) -> list[int]:
    if not tools or not terms:
        return []
    return [number for (number,) in _index(tools).execute(_RANK, (" OR ".join(terms), limit))]


@lru_cache(INDEXES)
def _index(tools: tuple[Document, ...]) -> sqlite3.Connection:
    # A second event loop may search the same list: SQLite's own lock is held for each statement.
    index = sqlite3.connect(":memory:", check_same_thread=False)
    tokenize = "porter unicode61 remove_diacritics 2"
    index.execute(
        f"CREATE VIRTUAL TABLE tool USING fts5(name, title, description, parameters, tokenize = '{tokenize}')"
    )
    rows = [(number, *(_apart(text) for text in each)) for number, each in enumerate(tools)]
    index.executemany("INSERT INTO tool (rowid, name, title, description, parameters) VALUES (?, ?, ?, ?, ?)", rows)
    return index


def _apart(text: str) -> str:
    """Returns a text with the words of each name in it, after the name as it is; the tokenizer takes those with `_` apart."""
    text = text.replace("\0", " ").encode("utf-8", "replace").decode()
    return _HUMPED.sub(lambda name: f"{name[0]} {_HUMP.sub(' ', name[0])}", text).replace("_", " ")
