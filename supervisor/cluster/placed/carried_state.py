"""Carries what placed agents keep from node to node: checkpoints, sessions and values by key, each a key of the engine, and `steps`.

A write goes to the engine before it is acknowledged, with the fencing tokens of its writers: of a node that was replaced it is
refused, and counted. Reads are from the store of the node, which takes over what the engine has when an agent starts there,
and when a task of a session begins.
"""

import asyncio
import contextlib
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tasks.worker_api.call_records import CallHistory
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.worker.contract.errors import Conflict, Timeout
from corral.worker.contract.records import TaskCall

from ..engine.interface import VALUE_BYTES_MAX, Engine, Entry
from ..state.state import decoded, encoded
from ..state.stored_task import RESULT_S
from ..state.view import PlacedNames
from .carried_steps import CarriedSteps
from .fences import Fences

CARRIED = "carried"
"""The prefix of what placed agents keep."""

CALLS = "calls"
"""The prefix of the tool calls of tasks that have ended."""

GIVEN_MAX = 10_000
"""Number of sessions of which it is remembered that the store of this node has what the engine has."""

VALUE = "value-"
SESSION = "session-"
NOTHING = b"null"
"""Bytes of a value that was deleted."""

READ_S = 5.0
"""Seconds that the values of an agent may take to be read."""

ENDED_S = 30 * 86_400
"""Seconds that the end of a session, and of the values that ended with it, is kept for nodes that have them yet."""

TASK_S = 7 * 86_400
"""Seconds that the checkpoint of a task is kept on the engine."""


class Carried(Struct, frozen=True, kw_only=True):
    """Represents one value: `tokens` has the fencing token of the last writer of each replica, `name` what it is of."""

    tokens: dict[str, int]
    data: Raw
    name: list[str] = []
    ends_at: float | None = None
    is_over: bool = False
    """Whether a session was cleared; `data` is an empty one."""


class CarriedState:
    """Writes and reads what is carried."""

    def __init__(
        self,
        fences: Fences,
        placed: PlacedNames,
        bus: Bus,
        memory: Memory,
        checkpoints: Checkpoints,
        calls: CallHistory,
    ) -> None:
        self.steps = CarriedSteps(fences, bus)
        self._fences = fences
        self._is_placed = placed.has
        self._bus = bus
        self._memory = memory
        self._checkpoints = checkpoints
        self._calls = calls
        self._given: OrderedDict[tuple[str, str], int] = OrderedDict()

    # -- checkpoints

    async def checkpoint(self, agent: str, worker: str | None, task: str | None, text: bytes) -> None:
        """Stores a checkpoint of a placed agent on the engine; does nothing for another one."""
        if not self._is_placed(agent):
            return
        if task is not None:
            await self._write(agent, f"task-{task}", text, task, ttl_s=TASK_S)
        elif worker is not None:
            fence = self._fences.of(agent)
            replica = 0 if fence is None else fence.replica
            await self._write(agent, f"worker-{replica}-{worker}", text, "", name=[worker])

    async def take_task(self, engine: Engine, agent: str, task: str) -> None:
        """Takes over the checkpoint of a task that began on another node."""
        await self._take_checkpoint(engine, f"task-{task}", agent, None, task)

    async def take_workers(self, engine: Engine, agent: str, replicas: Sequence[int], workers: Sequence[str]) -> None:
        """Takes over the last checkpoints of the workers of replicas that start here."""
        for replica in replicas:
            for worker in workers:
                await self._take_checkpoint(engine, f"worker-{replica}-{worker}", agent, worker, None)

    async def _take_checkpoint(
        self, engine: Engine, what: str, agent: str, worker: str | None, task: str | None
    ) -> None:
        found = _carried(await engine.get(_key(agent, what)))
        if found is not None:
            data = msgspec.json.decode(found.data)
            await self._checkpoints.take_over(agent, worker, task, data)

    # -- values by key

    async def value(self, agent: str, session: str, key: str, text: bytes | None, ttl_s: float | None) -> None:
        """Stores a value of a placed agent on the engine, None for its end; does nothing for another agent."""
        if not self._is_placed(agent):
            return
        what = VALUE + _digest(f"{session}\0{key}")
        await self._write(
            agent,
            what,
            NOTHING if text is None else text,
            "",
            name=[session, key],
            ttl_s=None if ttl_s is None else math.ceil(ttl_s) + 1,
            ends_at=None if ttl_s is None else time.time() + ttl_s,
        )

    async def take_values(self, engine: Engine, agent: str) -> None:
        """Takes over the values of an agent that starts here."""
        for what, found in (await self._all(engine, agent)).items():
            if not what.startswith(VALUE):
                continue
            if found.ends_at is None or found.ends_at > time.time():
                session, name = found.name
                data = msgspec.json.decode(found.data)
                await self._memory.take_value(agent, session, name, data, found.ends_at)

    async def _all(self, engine: Engine, agent: str) -> dict[str, Carried]:
        """Returns all that an agent keeps."""
        watch = await engine.watch(f"{CARRIED}/{agent}")
        try:
            async with asyncio.timeout(READ_S):
                await watch.synced()
            entries = watch.entries()
        except TimeoutError:
            raise Timeout(f'cannot read what "{agent}" keeps: the engine is too slow') from None
        finally:
            await watch.close()
        found = {key.removeprefix(f"{CARRIED}/{agent}/"): _carried(e) for key, e in entries.items()}
        return {what: each for what, each in found.items() if each is not None}

    # -- sessions

    async def take_session(self, engine: Engine, agent: str, session: str) -> int:
        """Takes over a session as the engine has it; returns its revision there, 0 where there is none."""
        entry = await engine.get(_session_key(agent, session))
        found = _carried(entry)
        given = self._given.pop((agent, session), None)
        if entry is not None and entry.revision == given:
            return given  # the store of this node has it as it was given
        if entry is None or found is None:
            return 0 if entry is None else entry.revision
        if found.is_over or (found.ends_at is not None and found.ends_at <= time.time()):
            await self._memory.drop_session(agent, session)
        else:
            await self._memory.unpack(agent, session, bytes(found.data), found.ends_at)
        return entry.revision

    async def give_session(self, agent: str, session: str, task: str, revision: int) -> None:
        """Stores a session with the turn of a task that was given it at `revision`."""
        record = await self._memory.packed(agent, session)
        if record is not None:
            given = await self._write(
                agent,
                _session_name(session),
                record,
                task,
                name=[session],
                revision=revision,
                ends_at=await self._memory.session_end(agent, session),
            )
            self._given[agent, session] = given
            if len(self._given) > GIVEN_MAX:
                self._given.popitem(last=False)

    async def end_session(self, agent: str, session: str, ends_at: float | None) -> None:
        """Gives an end to a session of a placed agent on the engine, None for none; does nothing for another agent."""
        engine = self._fences.joining.engine
        if not self._is_placed(agent) or engine is None:
            return
        entry = await engine.get(_session_key(agent, session))
        found = _carried(entry)
        if entry is not None and found is not None and not found.is_over:
            what, data = _session_name(session), bytes(found.data)
            await self._write(agent, what, data, "", name=[session], revision=entry.revision, ends_at=ends_at)

    async def clear(self, agent: str, session: str | None) -> int:
        """Ends a session of a placed agent with its values on the engine, or all; returns the number of sessions."""
        engine = self._fences.joining.engine
        if not self._is_placed(agent) or engine is None:
            return 0
        empty, count = self._memory.empty_session(), 0
        for what, found in (await self._all(engine, agent)).items():
            is_session = what.startswith(SESSION)
            if found.is_over or (is_session or what.startswith(VALUE)) is False:
                continue
            if session in (None, found.name[0]):
                data = empty if is_session else NOTHING
                name, is_over = found.name, is_session
                await self._write(agent, what, data, "", name=name, ttl_s=ENDED_S, is_over=is_over)
                count += is_session
        return count

    # -- tool calls

    async def give_calls(self, engine: Engine, task: str) -> None:
        """Stores the tool calls of a task that ends here, for as long as its end; without the results where they are too many."""
        calls = await self._calls.of(task)
        value = msgspec.json.encode(calls)
        if len(value) > VALUE_BYTES_MAX:
            value = msgspec.json.encode([replace(each, result=None) for each in calls])
        with contextlib.suppress(Conflict):  # an end of it was stored before
            await engine.put(f"{CALLS}/{task}", value, revision=0, ttl_s=RESULT_S)

    async def calls(self, engine: Engine, task: str) -> list[TaskCall]:
        """Returns the tool calls of a task that has ended, as the node knew them that has ended it."""
        entry = await engine.get(f"{CALLS}/{task}")
        return [] if entry is None else msgspec.json.decode(entry.value, type=list[TaskCall])

    # -- one write

    async def _write(
        self,
        agent: str,
        what: str,
        data: bytes,
        task: str,
        *,
        name: Sequence[str] = (),
        revision: int | None = None,
        ttl_s: int | None = None,
        ends_at: float | None = None,
        is_over: bool = False,
    ) -> int:
        engine, fence = self._fences.joining.engine, self._fences.of(agent)
        if fence is None or engine is None:
            raise self._late(agent, what, task, "this node has lost its lease")
        key = _key(agent, what)
        while True:
            entry = await engine.get(key)
            present = _carried(entry)
            tokens = {} if present is None else present.tokens
            if tokens.get(str(fence.replica), 0) > fence.token:
                raise self._late(agent, what, task, "a newer node has written it")
            here = 0 if entry is None else entry.revision
            if revision is not None and here != revision:
                reason = "another node has written it since"
                raise Conflict(f'cannot keep {what} of "{agent}": {reason}', reason=reason)
            value = Carried(
                tokens={**tokens, str(fence.replica): fence.token},
                data=Raw(data),
                name=list(name),
                ends_at=ends_at,
                is_over=is_over,
            )
            try:
                return await engine.put(key, encoded(value), revision=here, ttl_s=ttl_s)
            except Conflict:
                continue  # it is read anew: a newer token may be there

    def _late(self, agent: str, what: str, task: str, reason: str) -> Conflict:
        self._bus.publish("task.late", agent=agent, task=task, reason=f"{what}: {reason}")
        return Conflict(f'cannot keep {what} of "{agent}": {reason}', agent=agent, reason=reason)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _key(agent: str, what: str) -> str:
    return f"{CARRIED}/{agent}/{what}"


def _session_name(session: str) -> str:
    return SESSION + _digest(session)


def _session_key(agent: str, session: str) -> str:
    return _key(agent, _session_name(session))


def _carried(entry: Entry | None) -> Carried | None:
    return None if entry is None else decoded(entry.value, Carried)
