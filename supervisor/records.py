"""The records of tasks in the store: written whole at each change that matters, read back by id or by age."""

import time

import msgspec

from ..worker import codec
from ..worker.schema import ENDED, Task, TaskState
from .store import Store

LIST_BYTES = 8 * 1024 * 1024
"""What a list of records may hold: half a message, since what runs may have grown after it was stored."""


class Records:
    """The table of tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def save(self, task: Task, created: float) -> None:
        """Writes a record; it is durable when this returns. `created` is in seconds of the Unix epoch.

        Raises:
            Overloaded: the store takes nothing now.
        """
        await self._store.write(
            (
                "INSERT INTO task (id, agent, state, priority, attempt, created_at, finished_at, record)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempt = excluded.attempt,"
                " finished_at = excluded.finished_at, record = excluded.record",
                (
                    task.id,
                    task.agent,
                    task.state,
                    task.priority,
                    task.attempt,
                    created,
                    time.time() if task.state in ENDED else None,
                    msgspec.json.encode(task),
                ),
            )
        )

    async def counts(self) -> dict[str, int]:
        """How many records there are in each state that is an end."""
        rows = await self._store.read("SELECT state, COUNT(*) FROM task GROUP BY state")
        return {str(state): int(str(n)) for state, n in rows if str(state) in ENDED}

    async def unfinished(self) -> list[tuple[Task, float]]:
        """What has not ended, oldest first, with the time of its creation."""
        rows = await self._store.read(
            "SELECT record, created_at FROM task WHERE state IN ('queued', 'running') ORDER BY created_at"
        )
        return [(_task(record), float(str(created))) for record, created in rows]

    async def find(self, task_id: str) -> Task | None:
        """A record by its id."""
        rows = await self._store.read("SELECT record FROM task WHERE id = ?", (task_id,))
        return _task(rows[0][0]) if rows else None

    async def newest(self, agent: str | None, state: TaskState | None, limit: int) -> list[Task]:
        """Records, newest first; fewer than `limit` where they would be more than LIST_BYTES."""
        where = [clause for clause, value in (("agent = ?", agent), ("state = ?", state)) if value]
        sql = "SELECT record FROM task"
        sql += f" WHERE {' AND '.join(where)}" if where else ""
        sql += " ORDER BY created_at DESC LIMIT ?"
        values = [value for value in (agent, state) if value]
        rows = await self._store.read(sql, [*values, limit])
        found: list[Task] = []
        room = LIST_BYTES
        for row in rows:
            room -= len(_blob(row[0]))
            if room < 0 and found:
                break
            found.append(_task(row[0]))
        return found

    async def checkpoint(self, task_id: str) -> dict[str, object]:
        """What a task saved last, as `{"checkpoint": data}`; empty when it saved nothing."""
        rows = await self._store.read(
            "SELECT data FROM checkpoint WHERE task = ? ORDER BY id DESC LIMIT 1", (task_id,)
        )
        return {"checkpoint": codec.decode(_blob(rows[0][0]))} if rows else {}


def _task(record: object) -> Task:
    return msgspec.json.decode(_blob(record), type=Task)


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes), "records are stored as blobs"
    return value
