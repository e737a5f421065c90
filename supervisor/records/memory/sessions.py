"""Restores the session of an agent before a task, and stores it with the task's end.

The store has everything. A session is a row, a record of the whole as of the last compaction, and a record of each turn
since; all are sealed, so that any later change of them is noticed. A turn is
written in the same group as the end of its task: both are durable, or neither. The contents in the daemon's
memory are a cache of bounded size; of a session that a task works on, the sizes are known even when its content has
left it, so that a turn can be held to the limits without reading.

The queue guarantees that the tasks of one session run one after the other.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.config.spec import spec
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import Conflict, Corrupted, NotFound, ResourceLimitExceeded, WorkerFailed
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.records import Task
from corral.worker.contract.worker_messages import MemoryDelta

from ..events.bus import Bus, rfc3339
from ..store.store import Statement, Store, moment_of, number_of
from .key_value import KeyValues, RemoveKeys
from .pooling import Bounds, Claim, Membership, Name
from .session import ContentCache, HeldSession, SessionState, encoded, read
from .table import SELECT, AppendTurn, Compact, Remove, Replace, accessed, ending, named, record_of, stored

INLINE_BYTES = 64 * 1024
"""Bytes of a session that is decoded on the loop; a longer one in a thread, as it takes milliseconds."""


class _Pending(NamedTuple):
    session: HeldSession
    step: AppendTurn


class Memory:
    """Restores and stores the sessions of all agents of one daemon, and their values by key (`key_values`)."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        in_force: InForce,
        spec_of: Callable[[str], Spec | None],
        tenants: Callable[[], Mapping[str, Tenant]],
    ) -> None:
        self.cache = ContentCache()
        self.key_values = KeyValues(store, self._rules, self._claim, self._publish_claim)
        self._store = store
        self._bus = bus
        self._in_force = in_force
        self._spec_of = spec_of
        self._tenants = tenants
        self._bounds = Bounds()
        self._in_use: dict[Name, HeldSession] = {}  # given to running tasks
        self._users: dict[Name, str] = {}
        self._pending: dict[str, _Pending] = {}

    def _rules(self, agent: str) -> spec.Memory:
        found = self._spec_of(agent)
        return self._in_force.config.defaults.memory if found is None else found.memory

    # -- pools

    @property
    def membership(self) -> Membership:
        """Returns the pools of all agents, as they are now."""
        return Membership(self._in_force.config, self._tenants(), self._spec_of)

    def _claim(self, agent: str) -> Claim | None:
        membership = self.membership
        pool = membership.of(agent)
        if pool is None:
            return None
        return Claim(pool, membership, frozenset(self._in_use.keys() | self._users.keys()), self._bounds)

    def _publish_claim(self, claim: Claim) -> None:
        """Publishes what gave way to a write in its pool."""
        keys: dict[str, int] = {}
        for entry in claim.evicted:
            if entry.key is not None:
                keys[entry.agent] = keys.get(entry.agent, 0) + 1
                continue
            self.cache.remove((entry.agent, entry.session))
            session, pool = entry.session, claim.pool.name
            self._bus.publish("memory.evicted", agent=entry.agent, session=session, pool=pool)
        for agent, count in keys.items():
            self._bus.publish("memory.keys_evicted", agent=agent, keys=count, pool=claim.pool.name)
        sessions: dict[str, int] = {}
        for entry in claim.expired:
            self.cache.remove((entry.agent, entry.session))
            sessions[entry.agent] = sessions.get(entry.agent, 0) + 1
        self.publish_expired(sessions, claim.expired_keys)

    def publish_expired(self, sessions: Mapping[str, int], keys: Mapping[str, int]) -> None:
        """Publishes how many sessions and keys have expired, by agent."""
        for agent in sorted({*sessions, *keys}):
            self._bus.publish("memory.expired", agent=agent, sessions=sessions.get(agent, 0), keys=keys.get(agent, 0))

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
        """Returns the content of a session, for `task/run`; a new session is empty."""
        name = (agent, session)
        found = self.cache.get(name)
        if found is None:
            self.cache.misses += 1
            found = await self._load(name)
        else:
            self.cache.hits += 1
        if found is not None and found.is_over(time.time()):
            await self._store.write(Remove.named(agent, session))
            self.cache.remove(name)
            self.publish_expired({agent: 1}, {})
            found = None
        if found is None:
            await self._check_room(name)
            found = HeldSession(SessionState(), time.time(), is_stored=False)
        content = found.state.as_json()
        self._in_use[name] = found
        self._note_access(name, found)
        self._hold(name, found)
        return {"session": session, **content}

    def keep(self, task: Task, answer: object) -> tuple[Statement, ...]:
        """Returns the statements that store a turn, to be written with the end of its task; `kept` or `dropped` follows."""
        if task.session is None:
            return ()
        name = (task.agent, task.session)
        session = self._in_use.get(name)
        if session is None:
            raise Conflict(f'cannot keep session "{name[1]}" of agent "{name[0]}": no task was given it', **named(name))
        rules = self._rules(name[0])
        delta = _delta(task, answer)
        turn = session.state.plan(
            delta, limit_bytes=rules.max_session_bytes, trims=rules.overflow == "trim", named=named(name)
        )
        step = AppendTurn(
            name, session, turn, rules, spared=self.spared(name[0]), ttl_s=delta.ttl_s, claim=self._claim(name[0])
        )
        self._pending[task.id] = _Pending(session, step)
        return (step,)

    def kept(self, task: Task) -> None:
        """Notes that the turn of a task is durable."""
        pending = self._pending.pop(task.id, None)
        if pending is None or task.session is None:
            return
        name, (session, step) = (task.agent, task.session), pending
        turn = step.turn
        if step.claim is not None:
            self._publish_claim(step.claim)
        for evicted in step.evicted:
            self.cache.remove((task.agent, evicted))
            self._bus.publish("memory.evicted", agent=task.agent, session=evicted, pool=None)
        if step.was_stored is not session.is_stored:  # it was removed meanwhile
            self.cache.remove(name)
            return
        session.state.apply(turn)
        session.is_stored = True
        session.accessed_at = step.at
        if step.expires_at is not UNSET:
            session.expires_at = step.expires_at
        session.rows += 1
        session.since_bytes += step.size_bytes
        self._hold(name, session)
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
            self.cache.remove((task.agent, task.session))

    # -- for the other nodes of a cluster

    async def packed(self, agent: str, session: str) -> bytes | None:
        """Returns a whole session as one record; None where there is none."""
        name = (agent, session)
        found = self.cache.get(name)
        if found is None or found.state.content is None:
            found = await self._load(name)
        return None if found is None else encoded(found.state.whole())

    async def unpack(self, agent: str, session: str, record: bytes, ends_at: float | None = None) -> None:
        """Replaces a whole session by a record of `packed`, with its end; it is durable when this returns."""
        name = (agent, session)
        await self._store.write(Replace(name, record, self._rules(agent).compression, ends_at))
        self.cache.remove(name)

    async def session_end(self, agent: str, session: str) -> float | None:
        """Returns when a session ends, in seconds of the Unix epoch; None where no end was given to it."""
        name = (agent, session)
        found = self.cache.get(name) or await self._load(name)
        return None if found is None else found.expires_at

    async def drop_session(self, agent: str, session: str) -> None:
        """Removes a session of this node alone."""
        step = Remove.named(agent, session)
        await self._store.write(step)
        self.forget(agent, step.removed)

    def empty_session(self) -> bytes:
        """Returns a session without a turn, as `packed` does."""
        return encoded(SessionState().whole())

    async def take_value(self, agent: str, session: str, key: str, value: object, ends_at: float | None) -> None:
        """Keeps a value by key of another node until a time, None for good; a value of None is its end."""
        if value is None:
            await self.key_values.drop(agent, session, key)
            return
        ttl_s = None if ends_at is None else max(ends_at - time.time(), 0.001)
        await self.key_values.put(agent, session, key, value, ttl_s=ttl_s, is_taken=True)

    def _hold(self, name: Name, session: HeldSession) -> None:
        self.cache.limit_bytes = self._in_force.config.defaults.memory.max_pool_bytes
        self.cache.put(name, session)

    def _note_access(self, name: Name, session: HeldSession) -> None:
        session.accessed_at = time.time()
        if session.is_stored:
            self._store.post(accessed(name, session.accessed_at))

    async def _check_room(self, name: Name) -> None:
        """Refuses a session that would be one too many, unless another gives way to it."""
        rules = self._rules(name[0])
        if rules.session_overflow == "evict":
            return
        rows = await self._store.read("SELECT COUNT(*) FROM session WHERE agent = ?", (name[0],))
        coming = sum(not each.is_stored for (agent, _), each in self._in_use.items() if agent == name[0])
        if number_of(rows[0][0]) + coming >= rules.max_sessions:
            raise ResourceLimitExceeded(
                f'cannot begin session "{name[1]}" of agent "{name[0]}": it has {rules.max_sessions} sessions',
                limit="max_sessions",
                value=rules.max_sessions,
                **named(name),
            )

    async def _load(self, name: Name) -> HeldSession | None:
        rows = await self._store.read(SELECT, (*name, *name))
        if not rows:
            return None
        whole = stored(rows)
        try:
            if whole.size_bytes > INLINE_BYTES:
                state = await asyncio.to_thread(read, whole, record_of(name))
            else:
                state = read(whole, record_of(name))
        except Corrupted as error:
            error.data.update(named(name))
            self._bus.publish("memory.corrupted", agent=name[0], session=name[1], reason=str(error.data.get("reason")))
            raise
        return HeldSession(
            state,
            whole.created_at,
            is_stored=True,
            expires_at=whole.expires_at,
            rows=len(whole.since),
            since_bytes=sum(map(len, whole.since)),
        )

    # -- for clients

    async def show(self, agent: str, session: str, last: int | None) -> dict[str, object]:
        """Returns a session with its content, of its history at most the `last` messages; that counts as an access."""
        name = (agent, session)
        found = self.cache.get(name) or await self._load(name)
        if found is None or not found.is_stored or found.is_over(time.time()):
            raise NotFound(f'cannot find session "{session}" of agent "{agent}"', **named(name))
        self._note_access(name, found)
        state = found.state
        return {
            "agent": agent,
            "session": session,
            "messages": state.messages,
            "size_bytes": state.size_bytes,
            "created_at": rfc3339(found.created_at),
            "accessed_at": rfc3339(found.accessed_at),
            "expires_at": rfc3339(self.ends_at(agent, found.accessed_at, found.expires_at)),
            **state.as_json(last),
        }

    async def clear(self, agent: str, session: str | None) -> dict[str, int]:
        """Removes a session, or all memory of an agent; returns how much it was, once that is durable."""
        used = [name for name in self._users if name[0] == agent and session in (None, name[1])]
        if used:
            task = self._users[used[0]]
            raise Conflict(
                f'cannot clear session "{used[0][1]}" of agent "{agent}": task "{task}" works on it',
                task=task,
                **named(used[0]),
            )
        carried = await self.key_values.carrier.clear(agent, session)
        step = Remove.named(agent, session)
        keys = RemoveKeys("agent = ? AND (? IS NULL OR session = ?)", (agent, session, session))
        _, keys_removed = await self._store.write(step, keys)
        self.forget(agent, step.removed)
        if session is not None and not (step.removed or keys_removed or carried):
            raise NotFound(f'cannot find session "{session}" of agent "{agent}"', **named((agent, session)))
        sessions = max(len(step.removed), carried)
        self._bus.publish("memory.cleared", agent=agent, session=session, sessions=sessions, keys=keys_removed)
        return {"sessions": sessions, "keys": keys_removed}

    async def expire_session(self, agent: str, session: str, ttl_s: float | None) -> str:
        """Sets the end of a session to `ttl_s` seconds from now, or to none; returns the time at which it will be gone."""
        name, now = (agent, session), time.time()
        expires_at = None if ttl_s is None else now + ttl_s
        (found,) = await self._store.write(ending(name, expires_at, now))
        if not found:
            raise NotFound(f'cannot find session "{session}" of agent "{agent}"', **named(name))
        await self.key_values.carrier.end_session(agent, session, expires_at)
        for held in (self._in_use.get(name), self.cache.get(name)):
            if held is not None:
                held.expires_at = expires_at
        ((accessed_at,),) = await self._store.read(
            "SELECT COALESCE(MAX(accessed_at), ?) FROM session WHERE agent = ? AND session = ?", (now, *name)
        )
        return rfc3339(self.ends_at(agent, moment_of(accessed_at), expires_at))

    def retention_s(self, agent: str) -> float:
        """Returns how long a session of an agent is kept after its last use: that of its pool, if it has one."""
        pool = self.membership.of(agent)
        if pool is not None and pool.retention:
            return pool.retention
        return self._rules(agent).retention

    def ends_at(self, agent: str, accessed_at: float, expires_at: float | None) -> float:
        """Returns the time at which a session will be gone, unless it is used before."""
        unused_at = accessed_at + self.retention_s(agent)
        return unused_at if expires_at is None else min(unused_at, expires_at)

    # -- for the other modules of this room

    def cache_state(self) -> dict[str, int]:
        """Returns the numbers of the cache of contents."""
        cache = self.cache
        return {
            "sessions": len(cache),
            "size_bytes": cache.size_bytes,
            "limit_bytes": self._in_force.config.defaults.memory.max_pool_bytes,
            "hits": cache.hits,
            "misses": cache.misses,
            "evictions": cache.evictions,
        }

    def spared(self, agent: str) -> frozenset[str]:
        """Returns the sessions of an agent that tasks work on, or are about to, while they are read."""
        return frozenset(session for name, session in self._in_use.keys() | self._users.keys() if name == agent)

    def forget(self, agent: str, sessions: Iterable[str]) -> None:
        """Drops the contents of sessions that were removed."""
        for session in sessions:
            self.cache.remove((agent, session))


def _delta(task: Task, answer: object) -> MemoryDelta:
    if answer is None:
        return MemoryDelta()
    try:
        return msgspec.convert(answer, MemoryDelta)
    except msgspec.ValidationError as error:
        text = f'cannot read the memory that task "{task.id}" answered: {misfit_of(error, answer, MemoryDelta).words}'
        raise WorkerFailed(text, worker=task.worker, result="exited") from error
