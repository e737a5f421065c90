"""Writes rows together: all that arrive until the writer takes them go in one statement.

With each statement the writer's thread lets go of the interpreter and waits for it while the loop is busy, so that a
thousand small writes cost more in waiting than in writing. Each row has its own result all the same: where the batch
cannot be written, its rows are written one by one.
"""

import asyncio
import sqlite3
import threading
from typing import TypeAlias

from corral.worker.contract.errors import CorralError

from .store import Step, Store, insert

BATCH_BYTES = 256 * 1024
"""Bytes of the rows of one batch; a longer row has a batch of its own."""

BATCH_ROWS = 1_000
"""Number of rows of one batch."""

ROW_BYTES = 256
"""Bytes that a row is estimated to take beside its blobs."""

Values: TypeAlias = tuple[object, ...]
Writing: TypeAlias = asyncio.Future[list[int]]
"""Ends when the row is durable, or with the error of the store."""


class _Batch(Step):
    def __init__(self, sql: str, size_bytes: int) -> None:
        self.sql = sql
        self.size_bytes = max(BATCH_BYTES, size_bytes)  # at its largest
        self.waiting: list[Writing] = []
        self.rows: list[Values] = []
        self.count = 0
        self._lock = threading.Lock()
        # Under the lock:
        self._room_bytes = self.size_bytes
        self._is_taken = False

    def add(self, sql: str, row: Values, size_bytes: int, waiting: Writing) -> bool:
        """Adds a row; returns False where it is too late or too much."""
        with self._lock:
            self._room_bytes -= size_bytes
            full = self._room_bytes < 0 or len(self.rows) == BATCH_ROWS
            if self._is_taken or full or sql != self.sql:
                self._is_taken = True
                return False
            self.rows.append(row)
            self.count += 1
            self.waiting.append(waiting)
            return True

    def seal(self) -> None:
        """Takes no more rows; called on the writer's thread."""
        with self._lock:
            self._is_taken = True

    def run(self, connection: sqlite3.Connection) -> int:
        """Inserts the rows; called on the writer's thread. Returns their number."""
        return insert(connection, self.sql, self.rows)


class Batches:
    """Writes rows to a store, in the order of the calls; belongs to the loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._open: _Batch | None = None
        self._may_wait = False
        """Whether the open batch waits for the commit of another."""

    def write(self, sql: str, row: Values, wait_s: float = 0.0) -> Writing:
        """Writes one row by an `INSERT … VALUES (…)`, with any clauses after it; waits and ends as `Store.begin` does."""
        waiting: Writing = self._loop.create_future()
        size_bytes = ROW_BYTES
        for value in row:
            if type(value) is bytes:  # isinstance takes thrice the time, of every row
                size_bytes += len(value)
        if self._open is not None and self._open.add(sql, row, size_bytes, waiting):
            if self._may_wait and not wait_s:
                self._may_wait = False
                self._store.hasten()
            return waiting
        batch = _Batch(sql, size_bytes)
        batch.add(sql, row, size_bytes, waiting)
        self._open = None
        written = self._store.begin(batch, wait_s=wait_s)
        self._open, self._may_wait = batch, wait_s > 0
        written.add_done_callback(lambda done: self._written(batch, done))
        return waiting

    def end_batch(self) -> None:
        """Ends the open batch: a direct write to the store now comes after all rows so far, and before all later ones."""
        self._open = None

    def _written(self, batch: _Batch, written: Writing) -> None:
        error = None if written.cancelled() else written.exception()
        if error is not None and len(batch.rows) > 1:
            for row, waiting in zip(batch.rows, batch.waiting, strict=True):
                self._write_alone(batch.sql, row, waiting)
            return
        for waiting in batch.waiting:
            if waiting.done():
                continue
            if error is not None:
                waiting.set_exception(error)
            elif written.cancelled():
                waiting.cancel()
            else:
                waiting.set_result([1])

    def _write_alone(self, sql: str, row: Values, waiting: Writing) -> None:
        def answer(done: Writing) -> None:
            if waiting.done() or done.cancelled():
                waiting.cancel()
                return
            error = done.exception()
            if error is None:
                waiting.set_result(done.result())
            else:
                waiting.set_exception(error)

        try:
            self._store.begin((sql, row)).add_done_callback(answer)
        except CorralError as error:
            if not waiting.done():
                waiting.set_exception(error)
