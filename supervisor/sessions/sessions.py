"""Restores the session of an agent before a task, and stores it with the task's end.

The store has everything. A session is a row, a record of the whole as of the last compaction, and a record of each turn
since; all are sealed, so that any later change of them is noticed. A turn is
written in the same group as the end of its task: both are durable, or neither. The pool of contents in the daemon's
memory is a cache of bounded size; of a session that a task works on, the sizes are known even when its content has
left the pool, so that a turn can be held to the limits without reading.

The queue guarantees that the tasks of one session run one after the other.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from ...worker.contract.errors import (
    Conflict,
    Corrupted,
    NotFound,
    ResourceLimitExceeded,
    WorkerFailed,
)
from ...worker.contract.misfit import misfit_of
from ...worker.contract.records import Task
from ...worker.contract.worker_messages import MemoryDelta
from ..config import spec
from ..config.spec import Config, Spec
from ..events.bus import Bus, rfc3339
from ..store.names import names_in, one_of
from ..store.store import Row, Statement, Store, moment_of, number_of
from .key_value import KeyValues
from .session import SessionState, Turn, read
from .table import (
    SELECT,
    AppendTurn,
    Compact,
    Expire,
    Name,
    Remove,
    SessionRow,
    accessed,
    named,
    record_of,
    stored,
)

ROWS_MAX = 256
"""Number of turns that are stored one by one before a compaction."""

SINCE_BYTES = 1024 * 1024
"""Bytes of turns that are stored one by one, beside the content: each may store the history as a whole."""

INLINE_BYTES = 64 * 1024
"""Bytes of a session that is decoded on the loop; a longer one in a thread, as it takes milliseconds."""

LIST_MAX = 10_000
"""Number of sessions that a list has at most."""


class _Session:
    """Represents a session that is in memory, with or without its content."""

    __slots__ = (
        "accessed_at",
        "created_at",
        "is_stored",
        "rows",
        "since_bytes",
        "state",
    )

    def __init__(
        self,
        state: SessionState,
        created_at: float,
        *,
        is_stored: bool,
        rows: int = 0,
        since_bytes: int = 0,
    ) -> None:
        self.state = state
        self.created_at = created_at
        self.accessed_at = created_at
        self.is_stored = is_stored
        self.rows = rows
        self.since_bytes = since_bytes

    @property
    def needs_compaction(self) -> bool:
        """Returns whether its turns are to be compacted: reading them takes long, or much memory."""
        most = SINCE_BYTES + self.state.size_bytes
        return self.rows >= ROWS_MAX or self.since_bytes > most


class _Pending(NamedTuple):
    """Represents a turn that is being stored."""

    session: _Session
    turn: Turn
    step: AppendTurn


class Pool:
    """Caches the contents of sessions, and evicts the least recently used first."""

    def __init__(self) -> None:
        self.limit_bytes = 0
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._sessions: OrderedDict[Name, tuple[_Session, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: Name) -> _Session | None:
        """Returns a session whose content is here, now the most recently used."""
        found = self._sessions.get(name)
        if found is None:
            return None
        self._sessions.move_to_end(name)
        return found[0]

    def put(self, name: Name, session: _Session) -> None:
        """Adds a content, or notes its new size; evicts contents beyond the limit, this one too if need be."""
        self.remove(name, drop_content=False)
        size = session.state.footprint_bytes
        if not size:
            return
        self._sessions[name] = (session, size)
        self.size_bytes += size
        while self._sessions and self.size_bytes > self.limit_bytes:
            self.remove(next(iter(self._sessions)))
            self.evictions += 1

    def remove(self, name: Name, *, drop_content: bool = True) -> None:
        """Drops a content, if it is here."""
        found = self._sessions.pop(name, None)
        if found is not None:
            self.size_bytes -= found[1]
            if drop_content:
                found[0].state.drop_content()


class Memory:
    """Restores and stores the sessions of all agents of one daemon, and their values by key (`key_values`).

    Args:
        store: the daemon's store.
        bus: publishes evictions, expiries and damage.
        config: returns the configuration in force.
        spec_of: returns the spec of an agent; None of one that was removed, whose memory stays.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        config: Callable[[], Config],
        spec_of: Callable[[str], Spec | None],
    ) -> None:
        self.pool = Pool()
        self.key_values = KeyValues(store, self._rules)
        self._store = store
        self._bus = bus
        self._config = config
        self._spec_of = spec_of
        self._in_use: dict[Name, _Session] = {}  # given to running tasks
        self._users: dict[Name, str] = {}
        self._pending: dict[str, _Pending] = {}

    def _rules(self, agent: str) -> spec.Memory:
        found = self._spec_of(agent)
        return self._config().defaults.memory if found is None else found.memory

    # -- for the tasks

    def started(self, task: Task) -> None:
        """Notes that a task begins: its session cannot be cleared from now on."""
        if task.session is not None:
            self._users[task.agent, task.session] = task.id

    def ended(self, task: Task) -> None:
        """Notes that a task has ended: its session is free."""
        self._pending.pop(task.id, None)
        if task.session is not None and self._users.get((task.agent, task.session)) == task.id:
            del self._users[task.agent, task.session]
            self._in_use.pop((task.agent, task.session), None)

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        """Returns the content of a session, for `task/run`; a new session is empty.

        Raises:
            Corrupted: a record was changed since it was stored; `data` names agent and session.
            ResourceLimitExceeded: the agent has as many sessions as it may.
            Overloaded: the store cannot be read now.
        """
        name = (agent, session)
        found = self.pool.get(name)
        if found is None:
            self.pool.misses += 1
            found = await self._load(name)
            if found is None:
                await self._check_room(name)
                found = _Session(SessionState(), time.time(), is_stored=False)
        else:
            self.pool.hits += 1
        content = found.state.as_json()
        self._in_use[name] = found
        self._note_access(name, found)
        self._pool(name, found)
        return {"session": session, **content}

    def keep(self, task: Task, answer: object) -> tuple[Statement, ...]:
        """Returns the statements that store a turn, to be written with the end of its task; `kept` or `dropped` follows.

        Raises:
            ResourceLimitExceeded: the session would be too large.
            WorkerFailed: `answer` is no change of a session.
        """
        if task.session is None:
            return ()
        name = (task.agent, task.session)
        session = self._in_use.get(name)
        if session is None:
            raise Conflict(
                f'cannot keep session "{name[1]}" of agent "{name[0]}": no task was given it',
                **named(name),
            )
        rules = self._rules(name[0])
        turn = session.state.plan(
            _delta(task, answer),
            limit_bytes=rules.max_session_bytes,
            trims=rules.overflow == "trim",
            named=named(name),
        )
        step = AppendTurn(
            name,
            session.state,
            turn,
            created_at=session.created_at,
            is_stored=session.is_stored,
            compress=rules.compression,
            max_sessions=rules.max_sessions if rules.session_overflow == "evict" else None,
            spared=self._spared(name[0]),
        )
        self._pending[task.id] = _Pending(session, turn, step)
        return (step,)

    def kept(self, task: Task) -> None:
        """Notes that the turn of a task is durable."""
        pending = self._pending.pop(task.id, None)
        if pending is None or task.session is None:
            return
        name, (session, turn, step) = (task.agent, task.session), pending
        for evicted in step.evicted:
            self.pool.remove((task.agent, evicted))
            self._bus.publish("memory.evicted", agent=task.agent, session=evicted)
        if step.was_stored is not session.is_stored:  # it was removed meanwhile
            self.pool.remove(name)
            return
        session.state.apply(turn)
        session.is_stored = True
        session.accessed_at = step.at
        session.rows += 1
        session.since_bytes += step.size_bytes
        self._pool(name, session)
        if turn.drop:
            self._bus.publish(
                "memory.trimmed",
                agent=task.agent,
                session=task.session,
                task=task.id,
                dropped=turn.drop,
                size_bytes=session.state.size_bytes,
            )
        if session.needs_compaction:
            session.rows = session.since_bytes = 0
            self._store.post(Compact(name, self._rules(task.agent).compression))

    def dropped(self, task: Task) -> None:
        """Notes that the turn of a task was not stored: the session is read from the store before the next."""
        self._pending.pop(task.id, None)
        if task.session is not None:
            self.pool.remove((task.agent, task.session))

    def _pool(self, name: Name, session: _Session) -> None:
        self.pool.limit_bytes = self._config().defaults.memory.max_pool_bytes
        self.pool.put(name, session)

    def _note_access(self, name: Name, session: _Session) -> None:
        session.accessed_at = time.time()
        if session.is_stored:
            self._store.post(accessed(name, session.accessed_at))

    async def _check_room(self, name: Name) -> None:
        """Refuses a session that would be one too many, unless another gives way to it.

        Raises:
            ResourceLimitExceeded: the agent has as many sessions as it may.
        """
        rules = self._rules(name[0])
        if rules.session_overflow == "evict":
            return
        rows = await self._store.read("SELECT COUNT(*) FROM session WHERE agent = ?", (name[0],))
        coming = sum(
            not each.is_stored for (agent, _), each in self._in_use.items() if agent == name[0]
        )
        if number_of(rows[0][0]) + coming >= rules.max_sessions:
            raise ResourceLimitExceeded(
                f'cannot begin session "{name[1]}" of agent "{name[0]}":'
                f" it has {rules.max_sessions} sessions",
                limit="max_sessions",
                value=rules.max_sessions,
                **named(name),
            )

    async def _load(self, name: Name) -> _Session | None:
        """Reads a session from the store.

        Raises:
            Corrupted: a record was changed since it was stored.
        """
        rows = await self._store.read(SELECT, (*name, *name))
        if not rows:
            return None
        head = SessionRow(*rows[0])
        whole = stored(head, rows)
        try:
            if whole.size_bytes > INLINE_BYTES:
                state = await asyncio.to_thread(read, whole, record_of(name))
            else:
                state = read(whole, record_of(name))
        except Corrupted as error:
            error.data.update(named(name))
            self._bus.publish(
                "memory.corrupted",
                agent=name[0],
                session=name[1],
                reason=str(error.data.get("reason")),
            )
            raise
        return _Session(
            state,
            head.created_at,
            is_stored=True,
            rows=len(whole.since),
            since_bytes=sum(map(len, whole.since)),
        )

    # -- for clients

    async def sessions(
        self, agent: str | None, limit: int, knows: Callable[[str], bool] | None = None
    ) -> list[dict[str, object]]:
        """Lists sessions of an agent, or of all that pass `knows`, the most recently used first."""
        chosen = await self._chosen("session", agent, knows)
        rows = await self._store.read(
            "SELECT agent, session, turns, messages, size_bytes, COALESCE(LENGTH(value), 0) +"
            " (SELECT COALESCE(SUM(LENGTH(value)), 0) FROM session_turn WHERE session_id = session.id),"
            f" created_at, accessed_at FROM session WHERE {'TRUE' if chosen is None else one_of('agent', chosen)}"
            " ORDER BY accessed_at DESC LIMIT ?",
            (*(chosen or ()), min(limit, LIST_MAX)),
        )
        return [_listed(row) for row in rows]

    async def _chosen(
        self, table: str, agent: str | None, knows: Callable[[str], bool] | None
    ) -> list[str] | None:
        """Returns the agents that a list is about; None for all."""
        if agent is not None:
            return [agent]
        return None if knows is None else await names_in(self._store, table, knows)

    async def show(self, agent: str, session: str, last: int | None) -> dict[str, object]:
        """Returns a session with its content, of its history at most the `last` messages; that counts as an access.

        Raises:
            NotFound: there is none.
            Corrupted: a record was changed since it was stored.
        """
        name = (agent, session)
        found = self.pool.get(name) or await self._load(name)
        if found is None or not found.is_stored:
            text = f'cannot find session "{session}" of agent "{agent}"'
            raise NotFound(text, **named(name))
        self._note_access(name, found)
        state = found.state
        return {
            "agent": agent,
            "session": session,
            "messages": state.messages,
            "size_bytes": state.size_bytes,
            "created_at": rfc3339(found.created_at),
            "accessed_at": rfc3339(found.accessed_at),
            **state.as_json(last),
        }

    async def clear(self, agent: str, session: str | None) -> dict[str, int]:
        """Removes a session, or all memory of an agent; returns how much it was, once that is durable.

        Raises:
            Conflict: a task works on it.
            NotFound: there is no such session.
        """
        used = [name for name in self._users if name[0] == agent and session in (None, name[1])]
        if used:
            task = self._users[used[0]]
            raise Conflict(
                f'cannot clear session "{used[0][1]}" of agent "{agent}": task "{task}" works on it',
                task=task,
                **named(used[0]),
            )
        step = Remove(agent, () if session is None else (session,))
        keys = self.key_values.clear_keys(agent, session)
        await self._store.write(step, keys)
        self._forget(agent, step.removed)
        if session is not None and not step.removed and not keys.removed:
            text = f'cannot find session "{session}" of agent "{agent}"'
            raise NotFound(text, **named((agent, session)))
        sessions = len(step.removed)
        self._bus.publish(
            "memory.cleared", agent=agent, session=session, sessions=sessions, keys=keys.removed
        )
        return {"sessions": sessions, "keys": keys.removed}

    async def stats(
        self, agent: str | None, knows: Callable[[str], bool] | None = None
    ) -> dict[str, object]:
        """Returns the number and size of sessions and keys, by agent, and the state of the pool.

        They are of one agent, or of all that pass `knows`; of very many, of the first in the order of names.
        """
        chosen = await self._chosen("session", agent, knows)
        rows = await self._store.read(
            "SELECT agent, COUNT(*), SUM(turns), SUM(messages), SUM(size_bytes) FROM session"
            f" WHERE {'TRUE' if chosen is None else one_of('agent', chosen)}"
            " GROUP BY agent ORDER BY agent LIMIT ?",
            (*(chosen or ()), LIST_MAX),
        )
        agents: dict[str, dict[str, object]] = {}
        for name, *counts in rows:
            keys = ("sessions", "turns", "messages", "size_bytes")
            agents[str(name)] = dict(zip(keys, counts, strict=True))
        for name, count, size in await self.key_values.usage(
            await self._chosen("memory_usage", agent, knows)
        ):
            nothing: dict[str, object] = {"sessions": 0, "turns": 0, "messages": 0, "size_bytes": 0}
            agents.setdefault(name, nothing).update(keys=count, keys_bytes=size)
        pool = self.pool
        return {
            "pool": {
                "sessions": len(pool),
                "size_bytes": pool.size_bytes,
                "limit_bytes": self._config().defaults.memory.max_pool_bytes,
                "hits": pool.hits,
                "misses": pool.misses,
                "evictions": pool.evictions,
            },
            "agents": [
                {"agent": name, "keys": 0, "keys_bytes": 0, **facts}
                for name, facts in sorted(agents.items())
            ],
        }

    # -- retention

    async def expire(self, now: float, only: str | None = None) -> dict[str, int]:
        """Removes sessions unused for longer than their agent's retention, and keys whose time is over.

        Args:
            now: seconds since 1970.
            only: the agent; None for all.

        Returns:
            The numbers of removed `sessions` and `keys`.

        Raises:
            Overloaded: the store takes nothing now.
        """
        rows = await self._store.read("SELECT DISTINCT agent FROM session")
        sessions: dict[str, int] = {}
        for agent in sorted({str(each) for (each,) in rows if only in (None, str(each))}):
            before = now - self._rules(agent).retention
            step = Expire(agent, before, self._spared(agent))
            await self._store.write(step)
            self._forget(agent, step.removed)
            if step.removed:
                sessions[agent] = len(step.removed)
        keys = await self.key_values.expire(now, only)
        for agent in sorted({*sessions, *keys}):
            self._bus.publish(
                "memory.expired",
                agent=agent,
                sessions=sessions.get(agent, 0),
                keys=keys.get(agent, 0),
            )
        return {"sessions": sum(sessions.values()), "keys": sum(keys.values())}

    def _spared(self, agent: str) -> frozenset[str]:
        """Returns the sessions of an agent that tasks work on, or are about to, while they are read."""
        used = self._in_use.keys() | self._users.keys()
        return frozenset(session for name, session in used if name == agent)

    def _forget(self, agent: str, sessions: Iterable[str]) -> None:
        for session in sessions:
            self.pool.remove((agent, session))


def _delta(task: Task, answer: object) -> MemoryDelta:
    if answer is None:
        return MemoryDelta()
    try:
        return msgspec.convert(answer, MemoryDelta)
    except msgspec.ValidationError as error:
        text = f'cannot read the memory that task "{task.id}" answered: {misfit_of(error, answer, MemoryDelta).words}'
        raise WorkerFailed(text, worker=task.worker, result="exited") from error


def _listed(row: Row) -> dict[str, object]:
    keys = ("agent", "session", "turns", "messages", "size_bytes", "stored_bytes")
    listed: dict[str, object] = dict(zip(keys, row, strict=False))
    for key, at in zip(("created_at", "accessed_at"), row[6:], strict=True):
        listed[key] = rfc3339(moment_of(at))
    return listed
