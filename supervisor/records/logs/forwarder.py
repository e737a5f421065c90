"""Sends the lines of workers to the system's journal, too: it follows the log files, and sends each record.

The files are the record, and the journal a copy: capturing knows nothing of it. A journald that does not take entries
holds up this follower alone, which is skipped ahead, with a count, when a file that it has not read was rotated away.
No memory grows meanwhile: waiting lines are in the files.
"""

import asyncio
import base64
import logging
from contextlib import aclosing

from corral.worker.contract import codec
from corral.worker.contract.log_pieces import PieceJoiner

from ..events.bus import Bus
from .file_format import LogFilter, Record
from .journald import PRIORITIES, SOCKET, Fields, Journal, Outcome, field_name
from .store import Follower, LogStore

PATIENCE_S = 5.0
"""Seconds without progress after which the daemon counts as degraded, and the connection is made again."""
AWAY_S = 0.5
"""Seconds until the next attempt where nothing listens."""
TURN_ENTRIES = 64
"""Number of entries sent in one turn of the loop: a millisecond or two."""
CLOSE_S = 5.0
"""Seconds that sending the last lines may take."""
PLACE_S = 10.0
"""Seconds for which finding the ends of all files may hold up the start."""

NO_LEVEL = PRIORITIES["info"]
"""Of what a worker printed itself, on stderr as on stdout: programs use stderr for all that is no result."""

logger = logging.getLogger(__name__)


class Forwarding:
    """Sends what workers write to journald, while that is wanted."""

    def __init__(
        self, logs: LogStore, bus: Bus, *, path: str = SOCKET, patience_s: float = PATIENCE_S, close_s: float = CLOSE_S
    ) -> None:
        self.lost_lines = 0
        """Lines that will never be in the journal: rotated away before journald took them, or refused."""
        self._unreported = 0
        self._logs = logs
        self._bus = bus
        self._patience_s = patience_s
        self._close_s = close_s
        self._journal = Journal(path)
        self.is_wanted = False
        """Whether lines of workers go to the journal from now on."""
        self._follower: _ResumableFollower | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stalled_at: float | None = None
        self.is_degraded = False
        """Whether journald has taken nothing for longer than `patience_s`."""

    @property
    def is_running(self) -> bool:
        """Returns whether lines are being sent, be it only the last ones."""
        return self._task is not None

    def want(self, wanted: bool) -> None:
        """Starts with the lines written from now on, or ends after those written until now.

        If it is wanted again before it has ended, no line in between is missed.
        """
        self.is_wanted = wanted
        if not wanted:
            self._end()
            self._recover()  # forwarding that is not wanted is not degraded
        elif self._task is None:
            self._follower = _ResumableFollower(LogFilter())
            self._task = asyncio.create_task(self._run(self._follower), name="forwarding")
            self._task.add_done_callback(self._ended)
        elif self._closing is not None and self._follower is not None:
            self._closing.cancel()
            self._closing = None
            self._follower.resume()

    def _end(self) -> None:
        if self._follower is not None and self._task is not None and self._closing is None:
            self._follower.end()
            self._closing = asyncio.get_running_loop().call_later(self._close_s, self._task.cancel)

    async def placed(self) -> bool:
        """Waits until nothing that is written from then on is missed; False where that takes too long."""
        if self._follower is not None:
            try:
                async with asyncio.timeout(PLACE_S):
                    await self._follower.placed.wait()
            except TimeoutError:
                logger.warning("the first lines of workers may be missing in the journal")
                return False
        return True

    async def close(self) -> None:
        """Ends when the last line was sent, or after `close_s`."""
        self.is_wanted = False
        self._end()
        if self._task is not None:
            ending = self._task
            await asyncio.wait([ending])
            if ending.cancelled():
                logger.warning("the last lines of workers are not in the journal: it did not take them")
        self._journal.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = self._follower = self._stalled_at = None
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.is_degraded = self.is_wanted
            logger.error("cannot go on sending lines to the journal", exc_info=error)
        elif self.is_wanted:  # it was wanted again meanwhile
            self.want(True)

    async def _run(self, follower: Follower) -> None:
        joiner = PieceJoiner()
        async with aclosing(self._logs.follow(LogFilter(), 0, follower)) as batches:
            async for batch in batches:
                for number, record in enumerate(joiner.join(batch)):
                    if number % TURN_ENTRIES == 0:
                        await asyncio.sleep(0)  # lets the daemon's other tasks run
                    fields = entry_of(record)
                    outcome = self._journal.send(fields)
                    while outcome in (Outcome.FULL, Outcome.AWAY):
                        await self._wait(outcome)
                        outcome = self._journal.send(fields)
                    self._note(record, outcome)

    def _note(self, record: Record, outcome: Outcome) -> None:
        self._stalled_at = None
        lost = int(outcome is Outcome.REFUSED)
        if "skipped_lines" in record:
            skipped = record["skipped_lines"]
            lost += skipped if isinstance(skipped, int) else 1  # how many is not known
        self.lost_lines += lost
        self._unreported += lost
        self._recover()

    def _recover(self) -> None:
        if self.is_degraded:
            self.is_degraded = False
            self._publish("daemon.recovered", 0.0)

    def _publish(self, what: str, stalled_s: float) -> None:
        lost, self._unreported = self._unreported, 0
        self._bus.publish(what, part="journal", stalled_s=round(stalled_s, 3), lost=lost)

    async def _wait(self, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        self._stalled_at = loop.time() if self._stalled_at is None else self._stalled_at
        stalled_s = loop.time() - self._stalled_at
        if stalled_s > self._patience_s and self.is_wanted and not self.is_degraded:
            self.is_degraded = True
            self._publish("daemon.degraded", stalled_s)
        fd = self._journal.fd
        if outcome is Outcome.AWAY or fd is None:
            await asyncio.sleep(AWAY_S)
            return
        writable = asyncio.Event()
        loop.add_writer(fd, writable.set)
        try:
            async with asyncio.timeout(self._patience_s):
                await writable.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_writer(fd)
        if not writable.is_set():
            self._journal.close()  # perhaps another journald listens at that path by now


class _ResumableFollower(Follower):
    def resume(self) -> None:
        """Continues after `end`, unless the following has ended already."""
        self._is_ending = False


def entry_of(record: Record) -> Fields:
    """Returns the fields of one record of a log."""
    coded = record.get("bytes")
    level = record["level"]
    fields: dict[str, str | bytes | int] = {
        "MESSAGE": str(record.get("text", "")) if coded is None else base64.b64decode(str(coded)),
        "PRIORITY": NO_LEVEL if level is None else PRIORITIES.get(str(level).lower(), NO_LEVEL),
        "SYSLOG_IDENTIFIER": str(record["worker"]),
        "CORRAL_AGENT": str(record["agent"]),
        "CORRAL_WORKER": str(record["worker"]),
        "CORRAL_STREAM": str(record["stream"]),
        # journald takes no time of ours for its own fields: those with an underscore are what it has seen itself.
        "CORRAL_TIMESTAMP": str(record["at"]),
    }
    if level is not None:
        fields["CORRAL_LEVEL"] = str(level)
    if more := record.get("fields"):
        # One field for all: each name that a worker invents would be an index of its own in the journal.
        fields["CORRAL_FIELDS"] = codec.encode(more)
    for key in ("partial", "skipped_lines", "lost_lines", "lost_bytes"):
        if record.get(key):
            fields[field_name(key)] = int(bool(record[key])) if key == "partial" else str(record[key])
    return fields
