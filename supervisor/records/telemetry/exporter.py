"""Exports spans over OTLP/HTTP by the SDK of OpenTelemetry, in a thread of its own.

Spans wait in a bounded queue; those that find no room there, and those that a collector does not take, are dropped and counted. The
begin and the end of that are told once each. It is imported only where `[telemetry] otlp` is set.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .otlp import TIMEOUT_S, Origin
from .tracing import Kind, Span

QUEUE_SPANS = 8192
"""Number of spans that wait to be exported, in the queue of the SDK and in the batch that is being sent."""

BATCH_SPANS = 512
"""Number of spans in one request at most."""

DELAY_MS = 1000
"""Milliseconds that a span waits for others."""

CLOSE_S = 2.0
"""Seconds that the end of the daemon waits for a collector."""

CALM_S = 30.0
"""Seconds without a dropped span after which it is told that none is dropped any more."""

KINDS: dict[Kind, SpanKind] = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}

_SAMPLED = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

Report = Callable[[bool, int], None]
"""Takes that spans are dropped now, or no longer, and how many were so far."""


class _Deferred(ReadableSpan):
    """Represents a span in the queue: all else is made of it in the thread that sends it."""

    def __init__(self, span: Span) -> None:
        self.span = span

    @property
    def context(self) -> SpanContext:
        """Returns a context that is sampled, which is all that the queue asks for."""
        return _SAMPLED


class _Counted(SpanExporter):
    """Sends batches, and counts what was taken and what was not; belongs to the thread that sends."""

    def __init__(self, inner: SpanExporter, origin: Origin) -> None:
        self.taken = 0
        self.refused = 0
        self.on_batch: Callable[[bool], None] = lambda _: None
        self._inner = inner
        self._origin = origin

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends one batch."""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export([self._readable(each.span) for each in spans if isinstance(each, _Deferred)])
        finally:
            is_taken = result is SpanExportResult.SUCCESS
            if is_taken:
                self.taken += len(spans)
            else:
                self.refused += len(spans)
            self.on_batch(is_taken)
        return result

    def shutdown(self) -> None:
        """Ends the connections."""
        self._inner.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        trace, flags = int(span.context.trace, 16), TraceFlags(span.context.flags)
        parent = None
        if span.parent:
            parent = SpanContext(trace, int(span.parent, 16), is_remote=False, trace_flags=flags)
        attributes, status = dict(span.attributes), Status(StatusCode.UNSET)
        if span.error:
            attributes["error.type"] = span.error
            status = Status(StatusCode.ERROR, span.message or span.error)
        return ReadableSpan(
            span.name,
            context=SpanContext(trace, int(span.context.span, 16), is_remote=False, trace_flags=flags),
            parent=parent,
            resource=self._origin.resource,
            attributes=attributes,
            kind=KINDS[span.kind],
            status=status,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._origin.scope,
        )


class Exporter:
    """Takes the spans of one daemon."""

    def __init__(self, origin: Origin, report: Report) -> None:
        self._counted = _Counted(OTLPSpanExporter(endpoint=origin.endpoint("traces"), timeout=TIMEOUT_S), origin)
        self._counted.on_batch = self._note_batch
        self._processor = BatchSpanProcessor(
            self._counted, max_queue_size=QUEUE_SPANS, schedule_delay_millis=DELAY_MS, max_export_batch_size=BATCH_SPANS
        )
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._given = 0
        self._overflown = 0
        self._is_dropping = False
        self._dropped_at = 0.0

    @property
    def dropped(self) -> int:
        """Returns how many spans were dropped so far."""
        return self._overflown + self._counted.refused

    def emit(self, span: Span) -> None:
        """Queues a span; drops it where there is no room."""
        if self._given - self._counted.taken - self._counted.refused >= QUEUE_SPANS:
            self._overflown += 1
            self._note_dropped()
            return
        self._given += 1
        self._processor.on_end(_Deferred(span))

    async def close(self) -> None:
        """Sends what waits, within CLOSE_S; the rest is dropped."""
        closed = asyncio.Event()

        def shut_down() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own signature
            self._loop.call_soon_threadsafe(closed.set)

        # Not of the loop's pool, whose threads the end of the process would wait for.
        threading.Thread(target=shut_down, name="telemetry-close", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_S):
                await closed.wait()
        except TimeoutError:
            self._overflown += self._given - self._counted.taken - self._counted.refused
            self._note_dropped()

    def _note_batch(self, is_taken: bool) -> None:
        if self._is_dropping or not is_taken:
            self._loop.call_soon_threadsafe(self._look, is_taken)

    def _look(self, is_taken: bool) -> None:
        if not is_taken:
            self._note_dropped()
        elif self._is_dropping and self._loop.time() >= self._dropped_at + CALM_S:
            self._is_dropping = False
            self._report(False, self.dropped)

    def _note_dropped(self) -> None:
        self._dropped_at = self._loop.time()
        if not self._is_dropping:
            self._is_dropping = True
            self._report(True, self.dropped)
