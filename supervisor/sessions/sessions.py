"""What agents remember of their sessions: restored before a task, stored with its end.

The store has everything. A session is a row, the record of what it was when its turns were last put together, and a
record of each turn since; all are sealed, so that whatever is changed of them afterwards is noticed. A turn is
written in the same group as the end of its task: both are durable, or neither. The pool of contents in the daemon's
memory is a cache of bounded size; of a session that a task works on, the sizes are known even when its content has
left the pool, so that a turn can be held to the limits without reading.

That the tasks of one session come one after the other is the queue's promise.
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
from ...worker.contract.records import Task
from ...worker.contract.worker_messages import MemoryDelta
from ..config import spec
from ..config.spec import Config, Spec
from ..events.bus import Bus, rfc3339
from ..store.store import Row, Statement, Store, moment_of, number_of
from .key_value import KeyValues
from .session import Conversation, Turn, read
from .table import (
    SELECT,
    Expire,
    Head,
    Keep,
    Name,
    PutTogether,
    Remove,
    accessed,
    named,
    record_of,
    stored,
)

ROWS_MAX = 256
"""Turns that are stored one by one before they are put together."""

SINCE_BYTES = 1024 * 1024
"""What turns that are stored one by one may take beside the content: a history may be stored as a whole with each."""

INLINE_BYTES = 64 * 1024
"""A longer session is unpacked beside the loop, as it takes milliseconds."""

LIST_MAX = 10_000
"""Sessions that a list has at most."""


class _Session:
    """A session of which something is in memory."""

    __slots__ = (
        "accessed_at",
        "conversation",
        "created_at",
        "is_stored",
        "rows",
        "since_bytes",
    )

    def __init__(
        self,
        conversation: Conversation,
        created_at: float,
        *,
        is_stored: bool,
        rows: int = 0,
        since_bytes: int = 0,
    ) -> None:
        self.conversation = conversation
        self.created_at = created_at
        self.accessed_at = created_at
        self.is_stored = is_stored
        self.rows = rows
        self.since_bytes = since_bytes

    @property
    def is_scattered(self) -> bool:
        """Returns whether its turns are to be put together: reading them takes long, or much memory."""
        most = SINCE_BYTES + self.conversation.size_bytes
        return self.rows >= ROWS_MAX or self.since_bytes > most


class _Pending(NamedTuple):
    """A turn that is being written down."""

    session: _Session
    turn: Turn
    step: Keep


class Pool:
    """Represents the contents that are in memory, the least recently used of which go first."""

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
        """Takes a content, or notes its new size; what is too much leaves, this one too if need be."""
        self.remove(name, slim=False)
        size = session.conversation.footprint_bytes
        if not size:
            return
        self._sessions[name] = (session, size)
        self.size_bytes += size
        while self._sessions and self.size_bytes > self.limit_bytes:
            self.remove(next(iter(self._sessions)))
            self.evictions += 1

    def remove(self, name: Name, *, slim: bool = True) -> None:
        """Lets go of a content, if it is here."""
        found = self._sessions.pop(name, None)
        if found is not None:
            self.size_bytes -= found[1]
            if slim:
                found[0].conversation.slim()


class Memory:
    """Represents the sessions of all agents of one daemon, and what they remember by key (`notebook`).

    Args:
        store: where it is kept.
        bus: where it is told what was forgotten.
        config: the configuration in force.
        spec_of: that of an agent; None of one that was removed, whose memory stays.
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
        self._in_use: dict[Name, _Session] = {}  # what running tasks were given
        self._users: dict[Name, str] = {}
        self._pending: dict[str, _Pending] = {}

    def _rules(self, agent: str) -> spec.Memory:
        found = self._spec_of(agent)
        return self._config().defaults.memory if found is None else found.memory

    # -- what the engine asks

    def started(self, task: Task) -> None:
        """Returns a task begins: nobody clears its session from now on."""
        if task.session is not None:
            self._users[task.agent, task.session] = task.id

    def ended(self, task: Task) -> None:
        """Returns a task has ended: its session is free."""
        self._pending.pop(task.id, None)
        if task.session is not None and self._users.get((task.agent, task.session)) == task.id:
            del self._users[task.agent, task.session]
            self._in_use.pop((task.agent, task.session), None)

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        """What an agent remembers of a session, for `task/run`; a new session is empty.

        Raises:
            Corrupted: the store has not what was stored; `data` names agent and session.
            ResourceLimitExceeded: it would be a session more than the agent may have.
            Overloaded: the store cannot be read now.
        """
        name = (agent, session)
        found = self.pool.get(name)
        if found is None:
            self.pool.misses += 1
            found = await self._load(name)
            if found is None:
                await self._check_room(name)
                found = _Session(Conversation(), time.time(), is_stored=False)
        else:
            self.pool.hits += 1
        content = found.conversation.said()
        self._in_use[name] = found
        self._note_access(name, found)
        self._pool(name, found)
        return {"session": session, **content}

    def keep(self, task: Task, said: object) -> tuple[Statement, ...]:
        """What stores a turn, to be written with the end of its task; `kept` or `dropped` follows.

        Raises:
            ResourceLimitExceeded: the session would be too large.
            WorkerFailed: `said` is no change of a session.
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
        turn = session.conversation.planned(
            _delta(task, said),
            limit_bytes=rules.max_session_bytes,
            trims=rules.overflow == "trim",
            named=named(name),
        )
        step = Keep(
            name,
            session.conversation,
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
        """Returns the turn of a task is durable."""
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
        session.conversation.apply(turn)
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
                size_bytes=session.conversation.size_bytes,
            )
        if session.is_scattered:
            session.rows = session.since_bytes = 0
            self._store.post(PutTogether(name, self._rules(task.agent).compression))

    def dropped(self, task: Task) -> None:
        """Returns the turn of a task was not stored: what the store has is looked at before the next."""
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
            ResourceLimitExceeded: as it says.
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
        """Returns a session as the store has it.

        Raises:
            Corrupted: that is not what was stored.
        """
        rows = await self._store.read(SELECT, name)
        if not rows:
            return None
        head = Head(*rows[0])
        whole = stored(head, rows)
        try:
            if whole.size_bytes > INLINE_BYTES:
                conversation = await asyncio.to_thread(read, whole, record_of(name))
            else:
                conversation = read(whole, record_of(name))
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
            conversation,
            head.created_at,
            is_stored=True,
            rows=len(whole.since),
            since_bytes=sum(map(len, whole.since)),
        )

    # -- what people ask

    async def sessions(self, agent: str | None, limit: int) -> list[dict[str, object]]:
        """Sessions, the one that was used last first."""
        rows = await self._store.read(
            "SELECT agent, session, turns, messages, size_bytes, COALESCE(LENGTH(value), 0) +"
            " (SELECT COALESCE(SUM(LENGTH(value)), 0) FROM session_turn WHERE session_id = session.id),"
            " created_at, accessed_at FROM session WHERE ?1 IS NULL OR agent = ?1"
            " ORDER BY accessed_at DESC LIMIT ?2",
            (agent, min(limit, LIST_MAX)),
        )
        return [_listed(row) for row in rows]

    async def show(self, agent: str, session: str, last: int | None) -> dict[str, object]:
        """Returns a session with its content, of its history at most the `last` messages; that counts as an access.

        Raises:
            NotFound: there is none.
            Corrupted: the store has not what was stored.
        """
        name = (agent, session)
        found = self.pool.get(name) or await self._load(name)
        if found is None or not found.is_stored:
            text = f'cannot find session "{session}" of agent "{agent}"'
            raise NotFound(text, **named(name))
        self._note_access(name, found)
        conversation = found.conversation
        return {
            "agent": agent,
            "session": session,
            "messages": conversation.messages,
            "size_bytes": conversation.size_bytes,
            "created_at": rfc3339(found.created_at),
            "accessed_at": rfc3339(found.accessed_at),
            **conversation.said(last),
        }

    async def clear(self, agent: str, session: str | None) -> dict[str, int]:
        """Forgets a session, or all that an agent remembers; how much it was, durably gone.

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
        keys = self.key_values.clearing(agent, session)
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

    async def stats(self, agent: str | None) -> dict[str, object]:
        """Returns how much is remembered, by agent, and what of it is in memory."""
        rows = await self._store.read(
            "SELECT agent, COUNT(*), SUM(turns), SUM(messages), SUM(size_bytes) FROM session"
            " WHERE ?1 IS NULL OR agent = ?1 GROUP BY agent ORDER BY agent LIMIT ?2",
            (agent, LIST_MAX),
        )
        agents: dict[str, dict[str, object]] = {}
        for name, *counts in rows:
            keys = ("sessions", "turns", "messages", "size_bytes")
            agents[str(name)] = dict(zip(keys, counts, strict=True))
        for name, count, size in await self.key_values.usage(agent):
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

    # -- what has an end

    async def expire(self, now: float) -> None:
        """Forgets sessions that nobody has used for longer than their agent's retention, and keys whose time is over.

        Raises:
            Overloaded: the store takes nothing now.
        """
        rows = await self._store.read("SELECT DISTINCT agent FROM session")
        for agent in sorted({str(each) for (each,) in rows}):
            before = now - self._rules(agent).retention
            step = Expire(agent, before, self._spared(agent))
            await self._store.write(step)
            self._forget(agent, step.removed)
            if step.removed:
                self._bus.publish("memory.expired", agent=agent, sessions=len(step.removed))
        await self.key_values.expire(now)

    def _spared(self, agent: str) -> frozenset[str]:
        """Returns the sessions of an agent that tasks work on, or are about to: theirs are being read."""
        used = self._in_use.keys() | self._users.keys()
        return frozenset(session for name, session in used if name == agent)

    def _forget(self, agent: str, sessions: Iterable[str]) -> None:
        for session in sessions:
            self.pool.remove((agent, session))


def _delta(task: Task, said: object) -> MemoryDelta:
    if said is None:
        return MemoryDelta()
    try:
        return msgspec.convert(said, MemoryDelta)
    except msgspec.ValidationError as error:
        text = f'cannot read the memory that task "{task.id}" answered: {error}'
        raise WorkerFailed(text, worker=task.worker, result="exited") from error


def _listed(row: Row) -> dict[str, object]:
    keys = ("agent", "session", "turns", "messages", "size_bytes", "stored_bytes")
    listed: dict[str, object] = dict(zip(keys, row, strict=False))
    for key, at in zip(("created_at", "accessed_at"), row[6:], strict=True):
        listed[key] = rfc3339(moment_of(at))
    return listed
