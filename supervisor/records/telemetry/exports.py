"""Makes what goes to a collector of OpenTelemetry: spans, figures and log lines, as `[telemetry]` asks for.

opentelemetry costs 0.4 s and 20 MB: it is imported where `otlp` is set, and nowhere else. Lines of workers are sent from the log
files, which are the record: while a collector takes nothing they wait there; those that are rotated away meanwhile are skipped, with
a count. A batch that it refuses TRIES times is dropped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from corral import __version__
from corral.supervisor.config.spec.spec import Telemetry
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.log_pieces import PieceJoiner

from ..events.bus import Bus
from ..logs.file_format import LogFilter, Record
from ..logs.store import Follower, LogStore
from .tracing import Tracer, Tracing

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from .otlp import Origin

logger = logging.getLogger(__name__)

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
        try:
            async with asyncio.timeout(delay_s):
                await self._is_closing.wait()
        except TimeoutError:
            return


def _skipped(record: Record) -> int:
    skipped = record.get("skipped_lines", 0)
    return skipped if isinstance(skipped, int) else 1  # how many is not known


class FiguresExport(NamedTuple):
    """Describes how figures are sent: what sends them, what takes whether they were dropped, and the seconds in between."""

    send: "Callable[[Callable[[], Iterable[Metric]], int, int], Awaitable[bool]]"
    report: Report
    interval_s: float


class Exports:
    """Makes what sends each signal."""

    def __init__(self, settings: Telemetry, generation: int, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        self._dropping: set[str] = set()
        self._origin = None if settings.otlp is None else _origin(settings.otlp, generation)

    def tracing(self, stack: contextlib.AsyncExitStack) -> Tracing:
        """Returns what makes spans, where any are wanted; `stack` ends it."""
        if self._origin is None or not self._settings.traces:
            return Tracing()
        from .exporter import Exporter  # noqa: PLC0415  # as the head of this file says

        exporter = Exporter(self._origin, self._report_of("traces"))
        stack.push_async_callback(exporter.close)
        return Tracer(exporter.emit, self._settings.max_traces_per_second)

    async def follow(self, logs: LogStore, stack: contextlib.AsyncExitStack) -> None:
        """Sends the lines that are written from now on, if that is wanted; `stack` ends it."""
        if self._origin is None or not self._settings.logs:
            return
        from .otlp import in_thread  # noqa: PLC0415  # as above
        from .otlp_logs import LogExporter  # noqa: PLC0415  # as above

        exporter = LogExporter(self._origin)

        async def send(records: Sequence[Record]) -> bool:
            return await in_thread(lambda: exporter.send(records))

        export = LogExport(logs, send, self._report_of("logs"))
        stack.push_async_callback(export.close)
        await export.placed()

    def of_figures(self) -> FiguresExport | None:
        """Returns what sends the figures of `/metrics`, None where none are wanted."""
        if self._origin is None or not self._settings.metrics:
            return None
        from .otlp import in_thread  # noqa: PLC0415  # as above
        from .otlp_metrics import MetricsExporter  # noqa: PLC0415  # as above

        exporter = MetricsExporter(self._origin)

        async def send(metrics: "Callable[[], Iterable[Metric]]", started_ns: int, now_ns: int) -> bool:
            return await in_thread(lambda: exporter.send(metrics(), started_ns, now_ns))

        return FiguresExport(send, self._report_of("metrics"), self._settings.metrics_interval)

    def _report_of(self, signal: str) -> Report:
        """Returns what takes the state of a signal, as often as it likes: the first drop of any and the end of all are told."""

        def report(is_dropping: bool, lost: int) -> None:
            were_any = bool(self._dropping)
            (self._dropping.add if is_dropping else self._dropping.discard)(signal)
            if is_dropping and not were_any:
                logger.warning("cannot export all %s to %s: the others are dropped", signal, self._settings.otlp)
                self._bus.publish("daemon.degraded", part="telemetry", stalled_s=0.0, lost=lost)
            elif were_any and not self._dropping:
                self._bus.publish("daemon.recovered", part="telemetry", stalled_s=0.0, lost=lost)

        return report


def _origin(address: str, generation: int) -> "Origin":
    try:
        from .otlp import Origin  # noqa: PLC0415  # as the head of this file says
    except ImportError as error:
        raise InvalidParams(
            f'cannot export to [telemetry] otlp: {error.name} is not installed; install "corral[otel]"',
            key="telemetry.otlp",
            extra="otel",
        ) from error
    return Origin(address, __version__, generation)
