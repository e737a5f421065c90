"""Reads and writes the tables `session` and `session_turn`, each change in one transaction.

A session is a row, which may hold the record of the whole, and a row for each turn since. Each step here is a part of
a group of the store: it runs on the writer's thread, inside a transaction, and may be run again.
"""

import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence

from ...worker.contract.errors import CorralError, Corrupted
from ..store.sealed import seal
from ..store.store import Row, Statement, moment_of, number_of
from .session import SessionState, StoredSession, Turn, encoded, read

Name = tuple[str, str]
"""The names of the agent and of the session, which is unique within the agent."""

logger = logging.getLogger(__name__)

SELECT = (
    "SELECT 0, value, turns, messages, created_at FROM session WHERE agent = ? AND session = ?"
    " UNION ALL SELECT session_turn.id, session_turn.value, 0, 0, 0.0 FROM session"
    " JOIN session_turn ON session_turn.session_id = session.id WHERE agent = ? AND session = ?"
    " ORDER BY 1"
)
"""Selects a whole session, named twice, in one statement: between two of them its turns could be compacted."""


class SessionRow:
    """Represents the first row of `SELECT`."""

    def __init__(
        self, _: object, value: object, turns: object, messages: object, created_at: object
    ) -> None:
        self.value = None if value is None else _blob(value)
        self.turns = number_of(turns)
        self.messages = number_of(messages)
        self.created_at = moment_of(created_at)


def stored(head: SessionRow, rows: Sequence[Row]) -> StoredSession:
    """Returns the session in the rows of `SELECT`; `head` is the first of them."""
    return StoredSession(head.turns, head.messages, head.value, [_blob(row[1]) for row in rows[1:]])


class AppendTurn:
    """Writes a turn, and makes room for its session if that is new."""

    count = 1

    def __init__(
        self,
        name: Name,
        state: SessionState,
        turn: Turn,
        *,
        created_at: float,
        is_stored: bool,
        compress: bool,
        max_sessions: int | None,
        spared: frozenset[str],
    ) -> None:
        self.at = time.time()
        self.evicted: tuple[str, ...] = ()
        self.was_stored = is_stored
        self._name = name
        self._turn = turn
        self._blob = encoded(turn)
        self._is_sealed = False
        self._compress = compress
        self._created_at = created_at
        self._max_sessions = max_sessions
        self._spared = spared
        self._messages, self._content_bytes = state.after(turn)

    @property
    def size_bytes(self) -> int:
        """Returns the bytes that it takes of the memory for waiting writes."""
        return len(self._blob)

    def seal(self) -> None:
        """Compresses the record, on the writer's thread."""
        if not self._is_sealed:
            self._blob = seal(self._blob, compress=self._compress)
            self._is_sealed = True

    def run(self, connection: sqlite3.Connection) -> int:
        """Writes the turn.

        Raises:
            Corrupted: the session in the store has other turns than those before this one.
        """
        agent, session = self._name
        self.evicted = ()
        turns = self._turn.turn
        found = connection.execute(
            "UPDATE session SET accessed_at = ?, turns = ?, messages = ?, size_bytes = ?"
            " WHERE agent = ? AND session = ? AND turns = ? RETURNING id",
            (self.at, turns, self._messages, self._content_bytes, agent, session, turns - 1),
        ).fetchone()
        self.was_stored = found is not None
        if found is None:
            self._check_gone(connection)
            # A session that was removed while the task ran begins again with this turn.
            alone = SessionState()
            alone.apply(self._turn)
            found = connection.execute(
                "INSERT INTO session (agent, session, created_at, accessed_at, turns, messages, size_bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (
                    agent,
                    session,
                    self._created_at,
                    self.at,
                    turns,
                    alone.messages,
                    alone.size_bytes,
                ),
            ).fetchone()
            self._make_room(connection)
        connection.execute(
            "INSERT INTO session_turn (session_id, value) VALUES (?, ?)", (found[0], self._blob)
        )
        return 1

    def _check_gone(self, connection: sqlite3.Connection) -> None:
        """Refuses a session that is in the store with another number of turns: its row was damaged.

        Raises:
            Corrupted: the session is in the store.
        """
        found = connection.execute(
            "SELECT turns FROM session WHERE agent = ? AND session = ?", self._name
        ).fetchone()
        if found is not None:
            record = record_of(self._name)
            text = f"cannot write {record}: it has {found[0]!r} turns, not {self._turn.turn - 1}"
            raise Corrupted(text, record=record, reason="missing", **named(self._name))

    def _make_room(self, connection: sqlite3.Connection) -> None:
        agent = self._name[0]
        if self._max_sessions is None:
            return
        (count,) = connection.execute(
            "SELECT COUNT(*) FROM session WHERE agent = ?", (agent,)
        ).fetchone()
        excess = count - self._max_sessions
        if excess <= 0:
            return
        spared = self._spared | {self._name[1]}
        # Those that are spared are at most so many, so that there are enough others among these.
        oldest = connection.execute(
            "SELECT session FROM session WHERE agent = ? ORDER BY accessed_at LIMIT ?",
            (agent, excess + len(spared)),
        )
        self.evicted = tuple([each for (each,) in oldest if each not in spared][:excess])
        _delete(connection, agent, self.evicted)


class Compact:
    """Compacts all records of a session into one; leaves a damaged session as it is."""

    size_bytes = 0
    count = 1

    def __init__(self, name: Name, compress: bool) -> None:
        self._name = name
        self._compress = compress

    def seal(self) -> None:
        """Ends nothing: this step does not grow."""

    def run(self, connection: sqlite3.Connection) -> int:
        """Reads, joins and writes the records."""
        rows: list[Row] = connection.execute(SELECT, (*self._name, *self._name)).fetchall()
        if not rows:
            return 0
        try:
            state = read(stored(SessionRow(*rows[0]), rows), record_of(self._name))
        except CorralError as error:  # the next task of the session fails with it
            logger.warning("%s", error)
            return 0
        blob = seal(encoded(state.whole()), compress=self._compress)
        (number,) = connection.execute(
            "UPDATE session SET value = ? WHERE agent = ? AND session = ? RETURNING id",
            (blob, *self._name),
        ).fetchone()
        connection.execute("DELETE FROM session_turn WHERE session_id = ?", (number,))
        return 1


class Remove:
    """Removes sessions of an agent: those named, or all."""

    size_bytes = 0
    count = 1

    def __init__(self, agent: str, sessions: Sequence[str]) -> None:
        self.removed: tuple[str, ...] = ()
        self._agent = agent
        self._sessions = sessions

    def seal(self) -> None:
        """Ends nothing: this step does not grow."""

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the sessions."""
        found = connection.execute("SELECT session FROM session WHERE agent = ?", (self._agent,))
        there = [str(each) for (each,) in found]
        self.removed = tuple(each for each in there if not self._sessions or each in self._sessions)
        _delete(connection, self._agent, self.removed)
        return len(self.removed)


class Expire:
    """Removes the sessions of an agent that were last used before a time, except those in use."""

    size_bytes = 0
    count = 1

    def __init__(self, agent: str, before: float, spared: frozenset[str]) -> None:
        self.removed: tuple[str, ...] = ()
        self._agent = agent
        self._before = before
        self._spared = spared

    def seal(self) -> None:
        """Ends nothing: this step does not grow."""

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the sessions."""
        old = connection.execute(
            "SELECT session FROM session WHERE agent = ? AND accessed_at < ?",
            (self._agent, self._before),
        )
        self.removed = tuple(each for (each,) in old if each not in self._spared)
        _delete(connection, self._agent, self.removed)
        return len(self.removed)


def _delete(connection: sqlite3.Connection, agent: str, sessions: Iterable[str]) -> None:
    for session in sessions:
        found = connection.execute(
            "DELETE FROM session WHERE agent = ? AND session = ? RETURNING id", (agent, session)
        ).fetchone()
        if found is not None:
            connection.execute("DELETE FROM session_turn WHERE session_id = ?", found)


def accessed(name: Name, at: float) -> Statement:
    """Returns the statement that updates the last access of a session."""
    return (
        "UPDATE session SET accessed_at = MAX(accessed_at, ?) WHERE agent = ? AND session = ?",
        (at, *name),
    )


def named(name: Name) -> Mapping[str, str]:
    """Returns the data of an error about a session."""
    return {"agent": name[0], "session": name[1]}


def record_of(name: Name) -> str:
    """Returns the name of a session for an error."""
    return f'session "{name[1]}" of agent "{name[0]}"'


def _blob(value: object) -> bytes:
    """Returns a column as bytes; none where a flipped byte has changed its type: then no record can be read."""
    return value if isinstance(value, bytes) else b""
