"""Reads and writes the tables `revision` and `agent` of the store, and the emergency stop in `meta`.

All statements of one change are for one commit. The module does not know what a table means.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import msgspec

from corral.supervisor.records.store.store import Row, Statement, Store, moment_of, number_of
from corral.worker.contract import codec

from .record import REMOVED, Cause, Draft, Head, How, Kind, Revision, State, given_up

EMERGENCY_STOP_KEY = "emergency_stop"
"""Key of the emergency stop in the table `meta`."""

KINDS: Mapping[str, Kind] = {"mcp": "mcp", "team": "team", "workflow": "workflow"}
"""Kinds as the store spells them; every other word is an agent."""


class Entry(msgspec.Struct, frozen=True):
    """Represents an addition at run time: its table is as in the configuration."""

    name: str
    kind: Kind
    table: Mapping[str, object]
    base: str | None = None
    """Fingerprint of the table of the file that it overrides."""


class EmergencyStop(msgspec.Struct, frozen=True):
    """Represents an emergency stop in force: its time (RFC 3339, UTC) and the caller that asked for it."""

    at: str
    by: str


class AgentTable:
    """Reads the table `agent`; reads and writes the emergency stop in `meta`.

    Every method that writes raises Overloaded when the store takes nothing now; then nothing is changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def entries(self) -> list[Entry]:
        """Returns what was added at run time, oldest first."""
        rows = await self._store.read("SELECT name, kind, table_json, base FROM agent ORDER BY created_at")
        return [
            Entry(str(name), KINDS.get(str(kind), "agent"), _table(text), None if base is None else str(base))
            for name, kind, text, base in rows
        ]

    async def emergency_stop(self) -> EmergencyStop | None:
        """Returns the emergency stop, if one is in force."""
        rows = await self._store.read("SELECT value FROM meta WHERE key = ?", (EMERGENCY_STOP_KEY,))
        return msgspec.json.decode(str(rows[0][0]), type=EmergencyStop) if rows else None

    async def set_emergency_stop(self, emergency_stop: EmergencyStop) -> None:
        """Stores the emergency stop, so that it is in force in later daemons too."""
        text = msgspec.json.encode(emergency_stop).decode()
        await self._store.write(("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (EMERGENCY_STOP_KEY, text)))

    async def clear_emergency_stop(self) -> None:
        """Deletes the emergency stop."""
        await self._store.write(("DELETE FROM meta WHERE key = ?", (EMERGENCY_STOP_KEY,)))


_COLUMNS = "name, number, kind, state, reason, how, made_by, why, package, of_number, table_json, is_stored, base, at, settled_at, resumes"
MAX_REVISIONS = 50
"""Number of revisions that are kept of a name."""

_KINDS: Mapping[str, Kind] = {word: word for word in get_args(Kind)}
_STATES: Mapping[str, State] = {word: word for word in get_args(State)}
_HOWS: Mapping[str, How] = {word: word for word in get_args(How)}


class RevisionTable:
    """Reads the revisions of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def heads(self) -> dict[str, Head]:
        """Returns the head of each name that has revisions."""
        rows = await self._store.read(
            "SELECT name, MAX(number), MAX(CASE state WHEN 'current' THEN number END),"
            " MAX(CASE state WHEN 'rolling' THEN number END) FROM revision GROUP BY name"
        )
        return {
            str(name): Head(number_of(last), _optional(current), _optional(rolling))
            for name, last, current, rolling in rows
        }

    async def open(self) -> list[Revision]:
        """Returns all revisions that are current or rolling."""
        sql = f"SELECT {_COLUMNS} FROM revision WHERE state IN ('current', 'rolling')"
        return [_revision(row) for row in await self._store.read(sql)]

    async def list(self, name: str, limit: int) -> list[Revision]:
        """Returns revisions of a name, the newest first."""
        sql = f"SELECT {_COLUMNS} FROM revision WHERE name = ? ORDER BY number DESC LIMIT ?"
        return [_revision(row) for row in await self._store.read(sql, (name, limit))]

    async def find(self, name: str, number: int) -> Revision | None:
        """Returns one revision; None where there is none."""
        rows = await self._store.read(f"SELECT {_COLUMNS} FROM revision WHERE name = ? AND number = ?", (name, number))
        return _revision(rows[0]) if rows else None

    async def before(self, name: str, number: int) -> Revision | None:
        """Returns the newest revision below a number that was in force once; None where there is none."""
        sql = (
            f"SELECT {_COLUMNS} FROM revision WHERE name = ? AND number < ?"
            " AND state IN ('current', 'superseded') ORDER BY number DESC LIMIT 1"
        )
        rows = await self._store.read(sql, (name, number))
        return _revision(rows[0]) if rows else None


def insertion(draft: Draft, number: int, now: float) -> list[Statement]:
    """Returns the statements that write a draft as revision `number`; one that is settled is in force with them."""
    cause = draft.cause
    state: State = "current" if draft.is_settled else "rolling"
    giving_up: Statement = (
        "UPDATE revision SET state = 'failed', reason = ?, settled_at = ? WHERE name = ? AND state = 'rolling'",
        (given_up(number), now, draft.name),
    )
    row = (
        *(draft.name, number, draft.kind, state, ""),
        *(cause.how, cause.by, cause.why, cause.package, cause.of),
        *(_text(draft.table), int(draft.is_stored), draft.base, now),
        *(now if draft.is_settled else None, 0),
    )
    marks = ", ".join("?" * len(row))
    inserted: Statement = (f"INSERT INTO revision ({_COLUMNS}) VALUES ({marks})", row)
    if not draft.is_settled:
        return [giving_up, inserted]
    sql = "UPDATE revision SET state = 'superseded', settled_at = ? WHERE name = ? AND state = 'current'"
    return [giving_up, (sql, (now, draft.name)), inserted, *_in_force(draft.name, number, now)]


def success(name: str, number: int, now: float) -> list[Statement]:
    """Returns the statements that make a revision the current one, and its table the one in force, if it is rolling."""
    which: Sequence[object] = (name, number)
    return [
        (
            "UPDATE revision SET state = 'superseded', settled_at = ? WHERE name = ? AND state = 'current'"
            " AND EXISTS (SELECT 1 FROM revision WHERE name = ? AND number = ? AND state = 'rolling')",
            (now, name, *which),
        ),
        (
            "UPDATE revision SET state = 'current', settled_at = ? WHERE name = ? AND number = ? AND state = 'rolling'",
            (now, *which),
        ),
        *_in_force(name, number, now),
    ]


def failure(name: str, number: int, reason: str, now: float) -> list[Statement]:
    """Returns the statements that make a rolling revision a failed one."""
    sql = (
        "UPDATE revision SET state = 'failed', reason = ?, settled_at = ?"
        " WHERE name = ? AND number = ? AND state = 'rolling'"
    )
    return [(sql, (reason, now, name, number))]


def resumption(name: str, number: int) -> Statement:
    """Returns the statement that counts a daemon which takes up a rolling revision again."""
    return ("UPDATE revision SET resumes = resumes + 1 WHERE name = ? AND number = ?", (name, number))


def ending(names: Iterable[str], now: float) -> list[Statement]:
    """Returns the statements that end the current and the rolling revision of names that are no more."""
    sql = (
        "UPDATE revision SET state = CASE state WHEN 'current' THEN 'superseded' ELSE 'failed' END, reason = ?,"
        " settled_at = ? WHERE name = ? AND state IN ('current', 'rolling')"
    )
    return [(sql, (REMOVED, now, name)) for name in names]


def removal(names: Sequence[str], now: float) -> list[Statement]:
    """Returns the statements that remove names, all but their history."""
    forgotten: list[Statement] = [("DELETE FROM agent WHERE name = ?", (name,)) for name in names]
    return [*ending(names, now), *forgotten]


def expiry(before: float) -> list[Statement]:
    """Returns the statements that delete old revisions, and those of names removed `before` a time; current, former and checkpointed ones stay."""
    unused = (
        "NOT EXISTS (SELECT 1 FROM checkpoint"
        " WHERE checkpoint.agent = revision.name AND checkpoint.revision = revision.number)"
    )
    return [
        (
            "DELETE FROM revision WHERE state IN ('superseded', 'failed')"
            " AND name IN (SELECT name FROM revision GROUP BY name HAVING COUNT(*) > ?)"
            " AND number <= (SELECT kept.number FROM revision AS kept WHERE kept.name = revision.name"
            " ORDER BY kept.number DESC LIMIT 1 OFFSET ?)"
            " AND number IS NOT (SELECT MAX(good.number) FROM revision AS good"
            f" WHERE good.name = revision.name AND good.state = 'superseded') AND {unused}",
            (MAX_REVISIONS, MAX_REVISIONS),
        ),
        (
            "DELETE FROM revision WHERE settled_at < ? AND name NOT IN"
            f" (SELECT name FROM revision WHERE state IN ('current', 'rolling')) AND {unused}",
            (before,),
        ),
    ]


def _in_force(name: str, number: int, now: float) -> list[Statement]:
    """Returns the statements after which the next daemon begins with the table of a revision."""
    which: Sequence[object] = (name, number)
    return [
        (
            "DELETE FROM agent WHERE name = ? AND EXISTS (SELECT 1 FROM revision"
            " WHERE name = ? AND number = ? AND state = 'current' AND NOT is_stored)",
            (name, *which),
        ),
        (
            "INSERT INTO agent (name, kind, table_json, created_at, base)"
            " SELECT name, kind, table_json, ?, base FROM revision"
            " WHERE name = ? AND number = ? AND state = 'current' AND is_stored"
            " ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, table_json = excluded.table_json,"
            " base = excluded.base",
            (now, *which),
        ),
    ]


def _revision(row: Row) -> Revision:
    (name, number, kind, state, reason, how, by, why, package, of, table, is_stored, base, at, end, resumes) = row
    return Revision(
        name=str(name),
        number=number_of(number),
        kind=_KINDS.get(str(kind), "agent"),
        state=_STATES.get(str(state), "failed"),
        reason=str(reason),
        cause=Cause(
            _HOWS.get(str(how), "set"), str(by), str(why), None if package is None else str(package), _optional(of)
        ),
        table=_table(table),
        is_stored=bool(is_stored),
        base=None if base is None else str(base),
        at=moment_of(at),
        settled_at=None if end is None else moment_of(end),
        resumes=number_of(resumes),
    )


def _optional(value: object) -> int | None:
    return None if value is None else number_of(value)


def _text(table: Mapping[str, object]) -> str:
    return codec.encode(dict(table)).decode()


def _table(text: object) -> dict[str, object]:
    table = codec.as_object(codec.decode(str(text).encode()))
    assert table is not None, "the store holds tables that this program wrote"
    return dict(table)
