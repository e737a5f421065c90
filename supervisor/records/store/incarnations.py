"""Numbers the incarnations of workers; no number repeats, since each is reserved on disk before its incarnation begins.

The next number of a worker is reserved while the present incarnation runs, so that a worker that died is replaced
without waiting for the disk. After a kill of the daemon a reserved number counts as used; after a stop none is lost.
"""

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from corral.worker.contract.errors import CorralError
from corral.worker.contract.names import tenant_of

from .store import Statement, Store, number_of

AHEAD_S = 0.05
"""Seconds after an incarnation has begun until the next number is reserved, together with those of other workers."""

# One statement for all: with each one the writer lets go of the interpreter, and waits for it while the loop is busy.
RESERVE = (
    "INSERT INTO incarnation (worker, value) SELECT key, value FROM json_each(?) WHERE true"
    " ON CONFLICT (worker) DO UPDATE SET value = max(value, excluded.value)"
)
RELEASE = "INSERT OR REPLACE INTO incarnation (worker, value) SELECT key, value FROM json_each(?)"

logger = logging.getLogger(__name__)


class Incarnations:
    """Owns the table `incarnation`: the last number of each worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._used: dict[str, int] = {}
        self._reserved: dict[str, int] = {}  # on disk
        self._asked: dict[str, int] = {}  # reserved by the next write
        self._answer: asyncio.Future[None] | None = None  # of that write
        self._timer: asyncio.Handle | None = None
        self._writing: asyncio.Future[list[int]] | None = None  # the newest write

    async def load(self) -> None:
        """Reads the numbers that earlier daemons have used or reserved."""
        rows = await self._store.read("SELECT worker, value FROM incarnation")
        self._used = {str(worker): max(0, number_of(value)) for worker, value in rows}

    def last(self, worker: str) -> int:
        """Returns the number of a worker's newest incarnation; 0 before its first."""
        return self._used.get(worker, 0)

    def claim(self, worker: str, number: int) -> asyncio.Future[None] | None:
        """Takes a number for an incarnation; returns a future to await before its process may start, if it is not on disk yet.

        It is shared by many: a caller that may be cancelled shields it. It raises as `Store.write` does.
        """
        self._used[worker] = number
        self._asked[worker] = number + 1
        loop = asyncio.get_running_loop()
        if number <= self._reserved.get(worker, 0):
            if self._timer is None:
                self._timer = loop.call_later(AHEAD_S, self._write)
            return None
        if self._answer is None:
            self._answer = loop.create_future()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_soon(self._write)  # with all that are started together
        return self._answer

    async def forget(self, tenant: str) -> None:
        """Writes nothing more of the workers of a tenant that is removed; in this daemon their numbers go on."""
        if self._writing is not None:
            await asyncio.wait([self._writing])  # its reservations are known then
        for numbers in (self._reserved, self._asked):
            for worker in [each for each in numbers if tenant_of(each) == tenant]:
                del numbers[worker]

    async def release_unused(self) -> None:
        """Frees unused reserved numbers for the next daemon, once no incarnation is to begin any more."""
        if self._timer is not None and self._answer is None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait([self._writing])  # its reservations are known then
        unused = {worker: self._used[worker] for worker in self._reserved}
        self._reserved = {}  # an incarnation that begins all the same has to wait
        if unused:
            try:
                await self._store.write(_for_all(RELEASE, unused))
            except CorralError as error:
                logger.debug("%s: some numbers are left out", error)

    def _write(self) -> None:
        asked, self._asked = self._asked, {}
        answer, self._answer = self._answer, None
        self._timer = None
        try:
            self._writing = self._store.begin(_for_all(RESERVE, asked))
        except CorralError as error:
            _fail(answer, error)
            return

        def note(done: asyncio.Future[list[int]]) -> None:
            if done.cancelled():
                _fail(answer, asyncio.CancelledError())
            elif (error := done.exception()) is not None:
                _fail(answer, error)
            else:
                self._reserved.update(asked)
                if answer is not None:
                    answer.set_result(None)

        self._writing.add_done_callback(note)


def _for_all(sql: str, numbers: Mapping[str, int]) -> Statement:
    return sql, (msgspec.json.encode(numbers).decode(),)


def _fail(answer: asyncio.Future[None] | None, error: BaseException) -> None:
    if answer is None:
        logger.debug("%s: the next incarnations wait for their numbers", error)
        return
    answer.set_exception(error)
    answer.exception()  # a caller whose start was cancelled does not read it
