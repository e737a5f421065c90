"""Rows that are written together: as many as come until the writer takes them go in one statement.

With each statement the writer's thread lets go of the interpreter and waits for it while the loop is busy, so that a
thousand small writes cost more in waiting than in writing. Each row has its own end all the same: where the sheet
cannot be written, its rows are written one by one.
"""

import asyncio
import sqlite3
import threading
from functools import lru_cache
from typing import TypeAlias

from ...worker.contract.errors import CorralError
from .store import ROWS_AT_ONCE, Store

SHEET_BYTES = 256 * 1024
"""What the rows of one sheet may take; a longer row has a sheet of its own."""

SHEET_ROWS = 1_000

ROW_BYTES = 256
"""What a row is reckoned to take beside its blobs."""

Values: TypeAlias = tuple[object, ...]
Writing: TypeAlias = asyncio.Future[list[int]]
"""Ends when what is written is durable, or with the error of the store."""


class _Sheet:
    """Rows of one statement, as `store.Step` has it."""

    def __init__(self, sql: str, size_bytes: int) -> None:
        self.sql = sql
        self.size_bytes = max(SHEET_BYTES, size_bytes)  # all that it may become
        self.waiting: list[Writing] = []
        self.rows: list[Values] = []
        self._lock = threading.Lock()
        # Under the lock:
        self._room_bytes = self.size_bytes
        self._is_taken = False

    @property
    def count(self) -> int:
        """Returns how many rows."""
        return len(self.rows)

    def add(self, sql: str, row: Values, size_bytes: int, waiting: Writing) -> bool:
        """Takes one more; False where it is too late or too much."""
        with self._lock:
            self._room_bytes -= size_bytes
            full = self._room_bytes < 0 or len(self.rows) == SHEET_ROWS
            if self._is_taken or full or sql != self.sql:
                self._is_taken = True
                return False
            self.rows.append(row)
            self.waiting.append(waiting)
            return True

    def seal(self) -> None:
        """On the writer's thread: whatever becomes of them, no more can come."""
        with self._lock:
            self._is_taken = True

    def run(self, connection: sqlite3.Connection) -> int:
        """On the writer's thread."""
        done = 0
        for size in ROWS_AT_ONCE:
            while len(self.rows) - done >= size:
                chunk = self.rows[done : done + size]
                values = [value for row in chunk for value in row]
                connection.execute(_of_many(self.sql, size), values)
                done += size
        return done


@lru_cache(64)
def _of_many(sql: str, rows: int) -> str:
    before, values, after = sql.partition(" VALUES ")
    marks, closing, rest = after.partition(")")
    return f"{before}{values}{', '.join([marks + closing] * rows)}{rest}"


class Batches:
    """Writes rows of a store, in the order in which they come; of the loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._open: _Sheet | None = None

    def write(self, sql: str, row: Values) -> Writing:
        """Writes one row by an `INSERT … VALUES (…)`, whatever follows; ends as `Store.begin` does.

        Raises:
            Overloaded, ShuttingDown: as `Store.begin`.
        """
        waiting: Writing = self._loop.create_future()
        size_bytes = ROW_BYTES
        for value in row:
            if type(value) is bytes:  # isinstance takes thrice the time, of every row
                size_bytes += len(value)
        if self._open is not None and self._open.add(sql, row, size_bytes, waiting):
            return waiting
        sheet = _Sheet(sql, size_bytes)
        sheet.add(sql, row, size_bytes, waiting)
        self._open = None
        written = self._store.begin(sheet)
        self._open = sheet
        written.add_done_callback(lambda done: self._written(sheet, done))
        return waiting

    def turn(self) -> None:
        """What is written by others now comes after all rows so far, and before all later ones."""
        self._open = None

    def _written(self, sheet: _Sheet, written: Writing) -> None:
        error = None if written.cancelled() else written.exception()
        if error is not None and len(sheet.rows) > 1:
            for row, waiting in zip(sheet.rows, sheet.waiting, strict=True):
                self._write_alone(sheet.sql, row, waiting)
            return
        for waiting in sheet.waiting:
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
