"""Composes what goes to a collector of OpenTelemetry: spans, figures and log lines, as `[telemetry]` asks for.

opentelemetry costs 0.4 s and 20 MB: it is imported where `otlp` is set, and nowhere else.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from corral import __version__
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Telemetry
from corral.supervisor.faces.prometheus.snapshot import Figures
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.logs.file_format import Record
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.records.telemetry.log_lines import LogExport, Report
from corral.supervisor.records.telemetry.tracing import Tracer
from corral.worker.contract.errors import InvalidParams

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from corral.supervisor.records.telemetry.otlp import Origin

logger = logging.getLogger(__name__)


class Exports:
    """Makes what sends each signal."""

    def __init__(self, settings: Telemetry, generation: int, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        self._dropping: set[str] = set()
        self._origin = None if settings.otlp is None else _origin(settings.otlp, generation)

    def tracer(self, stack: contextlib.AsyncExitStack) -> Tracer | None:
        """Returns what makes spans, None where none are wanted; `stack` ends it."""
        if self._origin is None or not self._settings.traces:
            return None
        from corral.supervisor.records.telemetry.exporter import Exporter  # noqa: PLC0415  # as the head of this file says

        exporter = Exporter(self._origin, self._report_of("traces"))
        stack.push_async_callback(exporter.close)
        return Tracer(exporter.emit, self._settings.max_traces_per_second)

    async def follow(self, logs: LogStore, stack: contextlib.AsyncExitStack) -> None:
        """Sends the lines that are written from now on, if that is wanted; `stack` ends it."""
        if self._origin is None or not self._settings.logs:
            return
        from corral.supervisor.records.telemetry.otlp import in_thread  # noqa: PLC0415  # as above
        from corral.supervisor.records.telemetry.otlp_logs import LogExporter  # noqa: PLC0415  # as above

        exporter = LogExporter(self._origin)

        async def send(records: Sequence[Record]) -> bool:
            return await in_thread(lambda: exporter.send(records))

        export = LogExport(logs, send, self._report_of("logs"))
        stack.push_async_callback(export.close)
        await export.placed()

    async def figures(self, figures: Figures, in_force: InForce) -> None:
        """Sends the figures of `/metrics` until it is cancelled, if that is wanted."""
        if self._origin is None or not self._settings.metrics:
            return
        from corral.supervisor.faces.prometheus.push import push  # noqa: PLC0415  # as above
        from corral.supervisor.records.telemetry.otlp import in_thread  # noqa: PLC0415  # as above
        from corral.supervisor.records.telemetry.otlp_metrics import MetricsExporter  # noqa: PLC0415  # as above

        exporter = MetricsExporter(self._origin)

        async def send(metrics: "Callable[[], Iterable[Metric]]", started_ns: int, now_ns: int) -> bool:
            return await in_thread(lambda: exporter.send(metrics(), started_ns, now_ns))

        await push(figures, in_force, send, self._report_of("metrics"), self._settings.metrics_interval)

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
        from corral.supervisor.records.telemetry.otlp import Origin  # noqa: PLC0415  # as the head of this file says
    except ImportError as error:
        raise InvalidParams(
            f'cannot export to [telemetry] otlp: {error.name} is not installed; install "corral[otel]"',
            key="telemetry.otlp",
            extra="otel",
        ) from error
    return Origin(address, __version__, generation)
