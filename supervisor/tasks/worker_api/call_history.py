"""Keeps the tool calls of each task with its record: tool, outcome, duration, size and, where it is wanted, the result.

A row is written after the answer, together with others, so that the last 100 ms may be missing after a `kill -9`, as in
the audit. A task keeps MAX_CALLS calls; its record counts all. The calls go with the record of their task.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Sequence

from msgspec import Struct

from corral.supervisor.config.secrets.secrets import masked, masked_address
from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.store.store import Row, Step, Store, insert, moment_of, number_of
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import TaskCall

FLUSH_S = 0.08
"""Seconds that a row waits for others."""

FLUSH_ROWS = 500
"""Number of rows that are written at once without waiting."""

MAX_CALLS = 1_000
"""Number of calls that are kept of one task."""

RESULT_BYTES = 4096
"""Bytes of a result that are kept."""

SWEEP_ROWS = 1_000
"""Number of rows that one statement looks at, to remove those without a task."""

SWEEP_PAUSE_S = 0.02
"""Seconds between two such removals."""

INSERT = (
    "INSERT INTO task_call (task, delivery, at, tool, outcome, duration_s, size_bytes, result)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

ROW_BYTES = 256
"""Bytes that a row is estimated to take beside its result."""


class Ended(Struct, frozen=True):
    """Describes a tool call that has ended. `result` is MCP's, None where it failed without one."""

    task: str
    delivery: int
    at_s: float
    tool: str
    outcome: str
    duration_s: float
    result: object = None


class _Rows(Step):
    """Inserts rows as one step of the store: a commit of other writes waits for few statements."""

    def __init__(self, rows: Sequence[Row], size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.count = len(rows)
        self._rows = rows

    def run(self, connection: sqlite3.Connection) -> int:
        """Inserts the rows; returns their number."""
        return insert(connection, INSERT, self._rows)


class CallHistory:
    """Writes and reads the tool calls of tasks in a store; belongs to the loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Row] = []
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Ended, *, with_result: bool) -> None:
        """Keeps a call, within 100 ms, if the store takes it."""
        encoded = None if call.result is None else codec.encode(call.result)
        size_bytes = 0 if encoded is None else len(encoded)
        kept = None
        if with_result and encoded is not None:
            kept = codec.encode(bounded_result(call.result, size_bytes))
        row = (*(call.task, call.delivery, call.at_s, call.tool, call.outcome), *(call.duration_s, size_bytes, kept))
        self._waiting.append(row)
        self._waiting_bytes += ROW_BYTES + (0 if kept is None else len(kept))
        if len(self._waiting) >= FLUSH_ROWS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Gives the waiting rows to the store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._store.post(_Rows(self._waiting, self._waiting_bytes))
            self._waiting, self._waiting_bytes = [], 0

    async def of(self, task: str) -> list[TaskCall]:
        """Returns the calls of a task that have ended, oldest first; while the store takes no writes, those that it has."""
        self.flush()
        with contextlib.suppress(CorralError):
            await self._store.write()  # what was given to it before is there after this
        rows = await self._store.read(
            "SELECT delivery, at, tool, outcome, duration_s, size_bytes, result FROM task_call"
            " WHERE task = ? ORDER BY id LIMIT ?",
            (task, MAX_CALLS),
        )
        return [
            TaskCall(
                delivery=number_of(delivery),
                at=rfc3339(moment_of(at)),
                tool=str(tool),
                ok=outcome == "ok",
                outcome=str(outcome),
                duration_s=moment_of(duration_s),
                size_bytes=number_of(size_bytes),
                result=_decoded(result),
            )
            for delivery, at, tool, outcome, duration_s, size_bytes, result in rows
        ]

    async def expire(self) -> int:
        """Removes the calls of tasks whose records are gone, a few at a time; returns how many there were."""
        self.flush()
        removed = 0
        place, newest = 0, time.time() - 60.0  # a task that is not durable may run still
        while True:
            rows = await self._store.read(
                "SELECT id, EXISTS (SELECT 1 FROM task WHERE task.id = task_call.task) FROM task_call"
                " WHERE id > ? AND at < ? ORDER BY id LIMIT ?",
                (place, newest, SWEEP_ROWS),
            )
            if not rows:
                return removed
            place = number_of(rows[-1][0])
            gone = [row[0] for row in rows if not row[1]]
            if gone:
                marks = ", ".join("?" * len(gone))
                await self._store.write((f"DELETE FROM task_call WHERE id IN ({marks})", gone))
                removed += len(gone)
            await asyncio.sleep(SWEEP_PAUSE_S)


def bounded_result(result: object, size_bytes: int) -> object:
    """Returns a result as it is kept: masked, and of one that is longer than RESULT_BYTES the beginning of its text."""
    if size_bytes <= RESULT_BYTES:
        return masked(result)
    table = codec.as_object(result) or {}
    texts: list[str] = []
    room = RESULT_BYTES
    for item in codec.as_array(table.get("content")) or []:
        text = (codec.as_object(item) or {}).get("text")
        if isinstance(text, str) and room > 0:
            texts.append(text[:room].encode("utf-8", "replace")[:room].decode("utf-8", "ignore"))
            room -= len(texts[-1].encode("utf-8"))
    return {"cut": True, "text": masked_address("\n".join(texts))}


def _decoded(result: object) -> object:
    try:
        return codec.decode(result) if isinstance(result, bytes) else None
    except ValueError:
        return None  # a damaged byte costs this result alone
