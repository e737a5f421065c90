"""Makes what goes to a collector of OpenTelemetry: spans, figures and log lines, as `[telemetry]` asks for.

opentelemetry costs 0.4 s and 20 MB: it is imported where `otlp` is set, and nowhere else.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from corral import __version__
from corral.supervisor.config.spec.spec import Telemetry
from corral.worker.contract.errors import InvalidParams

from ..events.bus import Bus
from ..logs.file_format import Record
from ..logs.store import LogStore
from .log_lines import LogExport, Report
from .tracing import Tracer, Tracing

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from .otlp import Origin

logger = logging.getLogger(__name__)


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
                address = self._settings.otlp
                logger.warning("cannot export all %s to %s: the others are dropped", signal, address)
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
