"""Stores the checkpoints of workers and tasks, sealed: keeps, finds and removes them, and skips damaged ones.

A checkpoint belongs to a task, whose next attempt gets it, or to a worker, whose next life may begin with it. It is
durable when `put` returns. For each task, and for each worker and reason, as many are kept as `[recovery]` of its
agent allows. A request for a damaged one by its number fails; a request for the newest returns the
newest intact one, and an event reports the damaged ones. The meaning of the data is not known here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

from corral.supervisor.config.spec.spec import Recovery
from corral.supervisor.records.events.bus import Bus, rfc3339
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import Row, Statement, Store, moment_of, names_in, number_of, one_of
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, Corrupted, NotFound, ResourceLimitExceeded
from corral.worker.contract.records import CheckpointRecord

Reason = Literal["task", "worker", "asked", "interval", "hibernate", "restore", "removed", "taken"]
"""Reasons of a checkpoint: by a task or a worker itself; on request; periodic; before its process
ended; as a copy of a restored one; as that of another node of the cluster. Those of a removed agent are `removed`: no worker begins with them by itself."""

BESIDE_BYTES = 64 * 1024
"""Bytes above which data is packed and read on a thread, because that takes milliseconds."""

EXPIRED_AT_ONCE = 1_000
"""Number of rows in one statement: a longer one would delay other users of the store."""

T = TypeVar("T")

logger = logging.getLogger(__name__)

_PENDING = "(SELECT checkpoint FROM resumption WHERE checkpoint IS NOT NULL)"
_RECORD = "id, agent, worker, task, reason, at, size_bytes"


class Resumption(NamedTuple):
    """Represents the checkpoint for a worker's next life, and whether it is hibernated until then. `checkpoint` None: without state."""

    agent: str
    checkpoint: int | None
    hibernated: bool
    at: float


class Carrier(Protocol):
    """Holds the checkpoints of the agents that a cluster places."""

    async def checkpoint(self, agent: str, worker: str | None, task: str | None, text: bytes) -> None:
        """Stores a checkpoint for the node that runs the agent next; does nothing for an agent of this daemon alone."""
        ...


class NotCarried:
    """Carries nothing: all agents are of this daemon alone."""

    async def checkpoint(self, agent: str, worker: str | None, task: str | None, text: bytes) -> None:
        """Stores nothing."""


class Checkpoints:
    """Manages the tables `checkpoint` and `resumption`.

    Every method that writes raises Overloaded when the store takes nothing now; nothing is changed then.
    """

    def __init__(self, store: Store, bus: Bus, recovery_of: Callable[[str], Recovery]) -> None:
        """Takes its collaborators; `recovery_of` returns the limits of an agent by its name, also of one that is gone."""
        self._store = store
        self._bus = bus
        self._recovery_of = recovery_of
        self._carrier: Carrier = NotCarried()

    def carry_by(self, carrier: Carrier) -> None:
        """Gives each checkpoint to a cluster, which has that of an agent that it places before it is kept here."""
        self._carrier = carrier

    # -- saving

    async def put(self, agent: str, worker: str | None, task: str | None, data: object, reason: Reason) -> int:
        """Keeps data like `keep`, and returns the number."""
        return (await self.keep(agent, worker, task, data, reason)).id

    async def keep(
        self, agent: str, worker: str | None, task: str | None, data: object, reason: Reason
    ) -> CheckpointRecord:
        """Keeps what was saved, in place of the oldest of its like."""
        text = self.encoded(agent, data, f'worker "{worker}"' if task is None else f'task "{task}"')
        if reason != "taken":
            await self._carrier.checkpoint(agent, worker, task, text)
        blob = await _beside(len(text), lambda: seal(text, compress=True))
        at = time.time()
        insertion = (
            "INSERT INTO checkpoint (agent, worker, task, reason, at, size_bytes, data, revision)"
            " VALUES (?, ?, ?, ?, ?, ?, ?,"
            " (SELECT number FROM revision WHERE name = ? AND state = 'current'))",
            (agent, worker, task, reason, at, len(text), blob, agent),
        )
        rotation = _rotation(worker, task, reason, self._recovery_of(agent).max_checkpoints)
        ids = await self._store.write(insertion, rotation)
        return CheckpointRecord(
            id=ids[0], agent=agent, worker=worker, task=task, reason=reason, at=rfc3339(at), size_bytes=len(text)
        )

    async def take_over(self, agent: str, worker: str | None, task: str | None, data: object) -> None:
        """Keeps a checkpoint that another node of the cluster saved."""
        await self.keep(agent, worker, task, data, "taken")

    def encoded(self, agent: str, data: object, subject: str) -> bytes:
        """Encodes the data before it is sealed; the error names its owner."""
        text, most = codec.encode(data), self._recovery_of(agent).max_checkpoint_bytes
        if len(text) > most:
            raise ResourceLimitExceeded(
                f"cannot save a checkpoint of {subject}: {len(text)} bytes are more than max_checkpoint_bytes = {most}",
                limit="max_checkpoint_bytes",
                value=len(text),
            )
        return text

    # -- reading

    async def of_task(self, task_id: str) -> dict[str, object]:
        """Returns the last checkpoint of a task, as `{"checkpoint": data}`; empty if there is none."""
        return await self._newest("task = ?", task_id)

    async def latest(self, worker_id: str) -> dict[str, object]:
        """Returns the last checkpoint of a worker, as `{"checkpoint": data}`; empty if there is none."""
        return await self._newest("worker = ? AND task IS NULL AND reason <> 'removed'", worker_id)

    async def _newest(self, where: str, value: str) -> dict[str, object]:
        first: Corrupted | None = None
        below = 2**63 - 1
        while True:
            rows = await self._store.read(
                f"SELECT {_RECORD}, data FROM checkpoint WHERE {where} AND id < ? ORDER BY id DESC LIMIT 1",
                (value, below),
            )
            if not rows:
                break
            record = _record_of(rows[0])
            try:
                return {"checkpoint": await _opened(rows[0])}
            except Corrupted as error:
                first = first or error
                below = record.id
                self._publish(record, error)
        if first is not None:
            raise first
        return {}

    def _publish(self, record: CheckpointRecord, error: Corrupted) -> None:
        logger.error("%s", error)
        self._bus.publish(
            "checkpoint.corrupted",
            agent=record.agent,
            worker=record.worker,
            checkpoint=record.id,
            task=record.task,
            reason=error.message,
        )

    async def find(self, number: int) -> tuple[CheckpointRecord, object]:
        """Returns one checkpoint and its data."""
        rows = await self._store.read(f"SELECT {_RECORD}, data FROM checkpoint WHERE id = ?", (number,))
        if not rows:
            raise _not_found(number)
        return _record_of(rows[0]), await _opened(rows[0])

    async def revision_of(self, number: int) -> int | None:
        """Returns the number of the revision of the agent with which a checkpoint was saved; None where there was none."""
        rows = await self._store.read("SELECT revision FROM checkpoint WHERE id = ?", (number,))
        return None if not rows or rows[0][0] is None else number_of(rows[0][0])

    async def list(
        self, name: str | None, limit: int, knows: Callable[[str], bool] | None = None
    ) -> list[CheckpointRecord]:
        """Checkpoints without their data, newest first; of an agent, a worker or a task where `name` is given.

        With `knows` only those of agents that pass.
        """
        conditions: Sequence[str] = ()
        values: Sequence[str] = ()
        if name is not None:
            conditions = ("(agent = ? OR (worker = ? AND task IS NULL) OR task = ?)",)
            values = (name, name, name)
        if knows is not None:
            agents = await names_in(self._store, "checkpoint", knows)
            conditions = (*conditions, one_of("agent", agents))
            values = (*values, *agents)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = await self._store.read(
            f"SELECT {_RECORD} FROM checkpoint {where} ORDER BY id DESC LIMIT ?", (*values, limit)
        )
        return [_record_of(row) for row in rows]

    # -- removing

    async def remove(self, numbers: Sequence[int], *, force: bool = False) -> Sequence[int]:
        """Removes checkpoints, all or none; those that a worker is to begin with only with `force`: then it begins anew."""
        marks = ", ".join("?" * len(numbers))
        rows = await self._store.read(f"SELECT id FROM checkpoint WHERE id IN ({marks})", numbers)
        there = {row[0] for row in rows}
        missing = [number for number in numbers if number not in there]
        if missing:
            raise _not_found(missing[0])
        pending = await self._store.read(
            f"SELECT checkpoint, worker FROM resumption WHERE checkpoint IN ({marks})", numbers
        )
        if pending and not force:
            number, worker = pending[0]
            text = f'cannot remove checkpoint {number}: worker "{worker}" is to begin with it; --force'
            raise Conflict(text, checkpoint=number, worker=worker, reason="pending")
        await self._store.write(
            (f"UPDATE resumption SET checkpoint = NULL WHERE checkpoint IN ({marks})", numbers),
            (f"DELETE FROM checkpoint WHERE id IN ({marks})", numbers),
        )
        return tuple(dict.fromkeys(numbers))

    async def expire(self, now: float) -> None:
        """Removes checkpoints older than checkpoint_retention of their agent, and those of succeeded tasks.

        A checkpoint that a worker begins with stays, and so do those of tasks that have not ended.
        """
        agents = await self._store.read("SELECT DISTINCT agent FROM checkpoint")
        for (agent,) in agents:
            before = now - self._recovery_of(str(agent)).checkpoint_retention
            await self._delete(
                f"agent = ? AND at < ? AND id NOT IN {_PENDING} AND NOT EXISTS (SELECT 1 FROM task"
                " WHERE task.id = checkpoint.task AND task.state IN ('queued', 'running'))",
                (str(agent), before),
            )
        await self._delete(
            "task IS NOT NULL AND EXISTS (SELECT 1 FROM task"
            " WHERE task.id = checkpoint.task AND task.state = 'succeeded')",
            (),
        )

    async def _delete(self, where: str, values: Iterable[object]) -> None:
        statement = (
            f"DELETE FROM checkpoint WHERE id IN (SELECT id FROM checkpoint WHERE {where} LIMIT {EXPIRED_AT_ONCE})"
        )
        while (await self._store.write((statement, tuple(values))))[0] >= EXPIRED_AT_ONCE:
            pass

    def removed(self, agent: str) -> None:
        """Marks the checkpoints of a removed agent: another one of its name does not begin with them by itself."""
        self._store.post(
            ("DELETE FROM resumption WHERE agent = ?", (agent,)),
            ("UPDATE checkpoint SET reason = 'removed' WHERE agent = ? AND task IS NULL", (agent,)),
        )

    # -- what the next lives begin with

    async def resumptions(self) -> dict[str, Resumption]:
        """Sets the checkpoints that workers begin with, by their ids."""
        rows = await self._store.read("SELECT worker, agent, checkpoint, hibernated, at FROM resumption")
        return {
            str(worker): Resumption(
                str(agent), None if checkpoint is None else number_of(checkpoint), bool(hibernated), moment_of(at)
            )
            for worker, agent, checkpoint, hibernated, at in rows
        }

    async def resume(self, resumptions: Mapping[str, Resumption]) -> None:
        """Keeps what workers are to begin with, all or none; it is durable when this returns."""
        await self._store.write(*_writes(resumptions))

    def resume_soon(self, worker_id: str, resumption: Resumption | None) -> None:
        """Sets the checkpoint of one worker like `resume`, without waiting; None clears it."""
        if resumption is None:
            self._store.post(("DELETE FROM resumption WHERE worker = ?", (worker_id,)))
        else:
            self._store.post(*_writes({worker_id: resumption}))


def _writes(resumptions: Mapping[str, Resumption]) -> list[Statement]:
    return [
        (
            "INSERT OR REPLACE INTO resumption (worker, agent, checkpoint, hibernated, at) VALUES (?, ?, ?, ?, ?)",
            (worker_id, each.agent, each.checkpoint, int(each.hibernated), each.at),
        )
        for worker_id, each in resumptions.items()
    ]


def _rotation(worker: str | None, task: str | None, reason: Reason, most: int) -> Statement:
    """Removes the oldest beyond `most` of a task, or of a worker for one reason."""
    where, values = "worker = ? AND task IS NULL AND reason = ?", [worker, reason]
    if task is not None:
        where, values = "task = ?", [task]
    beyond = f"SELECT id FROM checkpoint WHERE {where} ORDER BY id DESC LIMIT -1 OFFSET {most}"
    return (f"DELETE FROM checkpoint WHERE id IN ({beyond}) AND id NOT IN {_PENDING}", values)


async def _opened(row: Row) -> object:
    """Decodes the data of a row of `_RECORD, data`."""
    blob, record = row[7], f"checkpoint {row[0]}"
    if not isinstance(blob, bytes):
        raise Corrupted(f"cannot read {record}: it is no blob", record=record, reason="no-envelope")
    return await _beside(len(blob), lambda: _value(blob, record))


def _value(blob: bytes, record: str) -> object:
    try:
        return codec.decode(unseal(blob, record))
    except ValueError as error:
        raise Corrupted(f"cannot read {record}: it is no JSON", record=record, reason="no-envelope") from error


async def _beside(size_bytes: int, work: Callable[[], T]) -> T:
    """Runs `work`, on a thread if that many bytes would block the loop."""
    return await asyncio.to_thread(work) if size_bytes > BESIDE_BYTES else work()


def _record_of(row: Row) -> CheckpointRecord:
    number, agent, worker, task, reason, at, size_bytes = row[:7]
    return CheckpointRecord(
        id=number_of(number),
        agent=str(agent),
        worker=None if worker is None else str(worker),
        task=None if task is None else str(task),
        reason=str(reason),
        at=rfc3339(moment_of(at)),
        size_bytes=number_of(size_bytes),
    )


def _not_found(number: int) -> NotFound:
    return NotFound(f"cannot find checkpoint {number}", checkpoint=number)
