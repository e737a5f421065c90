"""Sends the lines of workers to a collector, too: it follows the log files, and sends their records in batches.

The files are the record, and what a collector has a copy: capturing knows nothing of it. While a collector takes nothing, the
lines wait in the files; those that are rotated away meanwhile are skipped, with a count. A batch that it refuses TRIES times
is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from corral.worker.contract.log_pieces import PieceJoiner

from ..logs.file_format import LogFilter, Record
from ..logs.store import Follower, LogStore

BATCH_RECORDS = 512
"""Number of records in one request at most."""
GATHER_S = 1.0
"""Seconds for which the first record of a request waits for others."""
TRIES = 6
"""Number of times that a batch is sent before it is dropped; the waits between them double from GATHER_S, to 31 s in all."""
CLOSE_S = 2.0
"""Seconds that sending the last lines may take."""

Send = Callable[[Sequence[Record]], Awaitable[bool]]
"""Sends records; returns whether the collector took them."""

Report = Callable[[bool, int], None]
"""Takes after each batch whether records were dropped, and the number of those that were."""


class LogExport:
    """Sends what workers write from its start on, until it is closed."""

    def __init__(self, logs: LogStore, send: Send, report: Report, gather_s: float = GATHER_S):
        self._logs = logs
        self._send = send
        self._report = report
        self._gather_s = gather_s
        self._follower = Follower(LogFilter())
        self._is_closing = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="log export")

    async def placed(self) -> None:
        """Waits until nothing that is written from then on is missed."""
        await self._follower.placed.wait()

    async def close(self) -> None:
        """Ends when the last line was sent, or after CLOSE_S."""
        self._is_closing.set()
        self._follower.end()
        await asyncio.wait([self._task], timeout=CLOSE_S)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        joiner = PieceJoiner()
        async with aclosing(self._logs.follow(LogFilter(), 0, self._follower)) as batches:
            async for batch in batches:
                records = list(joiner.join(batch))
                for first in range(0, len(records), BATCH_RECORDS):
                    await self._deliver(records[first : first + BATCH_RECORDS])
                if len(records) < BATCH_RECORDS:  # what is written meanwhile comes in one batch
                    await self._pause(self._gather_s)

    async def _deliver(self, records: Sequence[Record]) -> None:
        skipped = sum(_skipped(each) for each in records)
        if skipped:
            self._report(True, skipped)
        for tries in range(TRIES):
            if await self._send(records):
                if not skipped:
                    self._report(False, 0)
                return
            await self._pause(self._gather_s * 2**tries)
        self._report(True, len(records))

    async def _pause(self, delay_s: float) -> None:
        """Waits, at the end of the daemon no longer than until then."""
        try:
            async with asyncio.timeout(delay_s):
                await self._is_closing.wait()
        except TimeoutError:
            return


def _skipped(record: Record) -> int:
    skipped = record.get("skipped_lines", 0)
    return skipped if isinstance(skipped, int) else 1  # how many is not known
