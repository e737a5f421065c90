"""Reads and writes the tables `session` and `session_turn`, each change in one transaction.

A session is a row, which may hold the record of the whole, and a row for each turn since. Each step here is a part of
a group of the store: it runs on the writer's thread, inside a transaction, and may be run again.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import UNSET, UnsetType

from corral.supervisor.config.spec import spec
from corral.worker.contract.errors import CorralError, Corrupted

from ..store.sealed import seal
from ..store.store import Row, Statement, Step, moment_of, number_of
from .pooling import Claim, Entry, Name, remove_session
from .session import HeldSession, SessionState, StoredSession, Turn, decoded, encoded, read

logger = logging.getLogger(__name__)

SELECT = (
    "SELECT 0, value, turns, messages, created_at, expires_at FROM session WHERE agent = ? AND session = ?"
    " UNION ALL SELECT session_turn.id, session_turn.value, 0, 0, 0.0, NULL FROM session"
    " JOIN session_turn ON session_turn.session_id = session.id WHERE agent = ? AND session = ?"
    " ORDER BY 1"
)
"""Selects a whole session, named twice, in one statement: between two of them its turns could be compacted."""


def stored(rows: Sequence[Row]) -> StoredSession:
    """Returns the session in the rows of `SELECT`."""
    _, base, turns, messages, created_at, expires_at = rows[0]
    return StoredSession(
        number_of(turns),
        number_of(messages),
        None if base is None else _blob(base),
        [_blob(row[1]) for row in rows[1:]],
        moment_of(created_at),
        None if expires_at is None else moment_of(expires_at),
    )


class AppendTurn(Step):
    """Writes a turn, and makes room for its session if that is new."""

    def __init__(
        self,
        name: Name,
        session: HeldSession,
        turn: Turn,
        rules: spec.Memory,
        *,
        spared: frozenset[str],
        ttl_s: float | UnsetType | None = UNSET,
        claim: Claim | None = None,
    ) -> None:
        self.at = time.time()
        self.evicted: tuple[str, ...] = ()
        self.was_stored = session.is_stored
        self.turn = turn
        """The turn that was written; it drops more messages than the planned one where the pool is full."""
        self.claim = claim
        self._name = name
        self._state = session.state
        self._planned = turn
        self._ttl_s = ttl_s
        self._blob = encoded(turn)
        self.size_bytes = len(self._blob)
        self._is_sealed = False
        self._compress = rules.compression
        self._created_at = session.created_at
        self._max_sessions = rules.max_sessions if rules.session_overflow == "evict" else None
        self._spared = spared

    @property
    def expires_at(self) -> float | UnsetType | None:
        """Returns the end that the turn gives to its session, None for no end; UNSET where it leaves that as it is."""
        return self._ttl_s if self._ttl_s in (None, UNSET) else self.at + self._ttl_s

    def seal(self) -> None:
        """Compresses the record, on the writer's thread."""
        if not self._is_sealed:
            self._blob = seal(self._blob, compress=self._compress)
            self.size_bytes = len(self._blob)
            self._is_sealed = True

    def run(self, connection: sqlite3.Connection) -> int:
        """Writes the turn."""
        agent, session = self._name
        self.evicted = ()
        self.turn = self._planned
        turns = self.turn.turn
        state = self._state
        messages, content_bytes = state.after(self.turn)
        before_bytes = state.size_bytes
        found = connection.execute(
            "UPDATE session SET accessed_at = ?, turns = ?, messages = ?, size_bytes = ?"
            " WHERE agent = ? AND session = ? AND turns = ? RETURNING id",
            (self.at, turns, messages, content_bytes, agent, session, turns - 1),
        ).fetchone()
        self.was_stored = found is not None
        if found is None:
            self._check_gone(connection)
            # A session that was removed while the task ran begins again with this turn.
            state, before_bytes = SessionState(), 0
            messages, content_bytes = state.after(self.turn)
            found = connection.execute(
                "INSERT INTO session (agent, session, created_at, accessed_at, turns, messages, size_bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (agent, session, self._created_at, self.at, turns, messages, content_bytes),
            ).fetchone()
            self._make_room(connection)
        blob = self._blob
        if self.claim is not None and content_bytes > before_bytes:
            written = Entry(agent, session, size_bytes=content_bytes)
            excess_bytes = self.claim.settle(
                connection, written, content_bytes - before_bytes, self.at, has_history=True
            )
            if excess_bytes:
                blob = self._trim(connection, self.claim, state, written, excess_bytes)
        connection.execute("INSERT INTO session_turn (session_id, value) VALUES (?, ?)", (found[0], blob))
        if self.expires_at is not UNSET:
            connection.execute("UPDATE session SET expires_at = ? WHERE id = ?", (self.expires_at, found[0]))
        return 1

    def _trim(
        self, connection: sqlite3.Connection, claim: Claim, state: SessionState, written: Entry, excess_bytes: int
    ) -> bytes:
        """Drops the oldest messages until the pool fits; returns the record of the turn."""
        trimmed = state.trimmed(self.turn, written.size_bytes - excess_bytes)
        if trimmed is None:
            raise claim.refusal(written, claim.pool.max_bytes + excess_bytes)
        self.turn = trimmed
        connection.execute(
            "UPDATE session SET messages = ?, size_bytes = ? WHERE agent = ? AND session = ?",
            (*state.after(trimmed), *self._name),
        )
        return seal(encoded(trimmed), compress=self._compress)

    def _check_gone(self, connection: sqlite3.Connection) -> None:
        """Refuses a session that is in the store with another number of turns: its row was damaged."""
        found = connection.execute("SELECT turns FROM session WHERE agent = ? AND session = ?", self._name).fetchone()
        if found is not None:
            record = record_of(self._name)
            text = f"cannot write {record}: it has {found[0]!r} turns, not {self._planned.turn - 1}"
            raise Corrupted(text, record=record, reason="missing", **named(self._name))

    def _make_room(self, connection: sqlite3.Connection) -> None:
        agent = self._name[0]
        if self._max_sessions is None:
            return
        (count,) = connection.execute("SELECT COUNT(*) FROM session WHERE agent = ?", (agent,)).fetchone()
        excess = count - self._max_sessions
        if excess <= 0:
            return
        spared = self._spared | {self._name[1]}
        # Those that are spared are at most so many, so that there are enough others among these.
        oldest = connection.execute(
            "SELECT session FROM session WHERE agent = ? ORDER BY accessed_at LIMIT ?", (agent, excess + len(spared))
        )
        self.evicted = tuple([each for (each,) in oldest if each not in spared][:excess])
        for each in self.evicted:
            remove_session(connection, agent, each)


class Compact(Step):
    """Compacts all records of a session into one; leaves a damaged session as it is."""

    def __init__(self, name: Name, compress: bool) -> None:
        self._name = name
        self._compress = compress

    def run(self, connection: sqlite3.Connection) -> int:
        """Reads, joins and writes the records."""
        rows: list[Row] = connection.execute(SELECT, (*self._name, *self._name)).fetchall()
        if not rows:
            return 0
        try:
            state = read(stored(rows), record_of(self._name))
        except CorralError as error:  # the next task of the session fails with it
            logger.warning("%s", error)
            return 0
        blob = seal(encoded(state.whole()), compress=self._compress)
        (number,) = connection.execute(
            "UPDATE session SET value = ? WHERE agent = ? AND session = ? RETURNING id", (blob, *self._name)
        ).fetchone()
        connection.execute("DELETE FROM session_turn WHERE session_id = ?", (number,))
        return 1


class Replace(Step):
    """Replaces a session by the one record of a whole."""

    def __init__(self, name: Name, record: bytes, compress: bool, ends_at: float | None = None) -> None:
        self.size_bytes = len(record)
        self._ends_at = ends_at
        self._name = name
        self._record = record
        self._compress = compress

    def run(self, connection: sqlite3.Connection) -> int:
        """Writes the record in place of all that there are."""
        state = SessionState()
        state.apply(decoded(self._record))
        now = time.time()
        (number,) = connection.execute(
            "INSERT INTO session (agent, session, created_at, accessed_at, turns, messages, size_bytes, value,"
            " expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (agent, session) DO UPDATE SET"
            " accessed_at = excluded.accessed_at, turns = excluded.turns, messages = excluded.messages,"
            " size_bytes = excluded.size_bytes, value = excluded.value, expires_at = excluded.expires_at"
            " RETURNING id",
            (
                *self._name,
                now,
                now,
                state.turns,
                state.messages,
                state.size_bytes,
                seal(self._record, compress=self._compress),
                self._ends_at,
            ),
        ).fetchone()
        connection.execute("DELETE FROM session_turn WHERE session_id = ?", (number,))
        return 1


class Remove(Step):
    """Removes the sessions of an agent that are chosen and meet a condition; `removed` are their names."""

    def __init__(
        self, agent: str, is_chosen: Callable[[str], bool], condition: str = "TRUE", values: Sequence[object] = ()
    ) -> None:
        self.removed: tuple[str, ...] = ()
        self._agent = agent
        self._is_chosen = is_chosen
        self._condition = condition
        self._values = values

    @classmethod
    def named(cls, agent: str, session: str | None) -> "Remove":
        """Makes the removal of one session, or of all."""
        return cls(agent, lambda each: session in (None, each))

    @classmethod
    def expired(cls, agent: str, now: float, before: float, spared: frozenset[str]) -> "Remove":
        """Makes the removal of those whose time is over, or that were last used before a time, except those in use."""
        return cls(agent, lambda each: each not in spared, "(accessed_at < ? OR expires_at <= ?)", (before, now))

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the sessions."""
        sql = f"SELECT session FROM session WHERE agent = ? AND {self._condition}"
        found = connection.execute(sql, (self._agent, *self._values)).fetchall()
        self.removed = tuple(str(each) for (each,) in found if self._is_chosen(str(each)))
        for each in self.removed:
            remove_session(connection, self._agent, each)
        return len(self.removed)


def accessed(name: Name, at: float) -> Statement:
    """Returns the statement that updates the last access of a session."""
    return ("UPDATE session SET accessed_at = MAX(accessed_at, ?) WHERE agent = ? AND session = ?", (at, *name))


def ending(name: Name, expires_at: float | None, now: float) -> Statement:
    """Returns the statement that sets the end of a session that is there, None for no end of its own."""
    sql = "UPDATE session SET expires_at = ? WHERE agent = ? AND session = ?"
    return (f"{sql} AND (expires_at IS NULL OR expires_at > ?)", (expires_at, *name, now))


def named(name: Name) -> Mapping[str, str]:
    """Returns the data of an error about a session."""
    return {"agent": name[0], "session": name[1]}


def record_of(name: Name) -> str:
    """Returns the name of a session for an error."""
    return f'session "{name[1]}" of agent "{name[0]}"'


def _blob(value: object) -> bytes:
    """Returns a column as bytes; none where a flipped byte has changed its type: then no record can be read."""
    return value if isinstance(value, bytes) else b""
