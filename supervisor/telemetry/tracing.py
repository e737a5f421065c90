"""Passes the trace context of tasks on, and with `[telemetry] otlp` makes their spans.

`Tracing` is what other rooms call: without telemetry it hands on what a caller gave, which costs nothing. `Tracer` makes a span of
each task, attempt and tool call when it has ended. It must not know the SDK, nor a collector.
"""

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from ...worker.contract.errors import CorralError
from ...worker.contract.records import Task
from ...worker.contract.trace_context import TraceContext, parse
from . import spans
from .spans import Span


class ToolCall(NamedTuple):
    """Describes a tool call that has ended; `start_s` in Unix seconds. `outcome` is ok, error, cancelled, or an error's name."""

    tool: str
    server: str
    task: str | None
    start_s: float
    duration_s: float
    outcome: str


class Tracing:
    """Hands on the context that the caller of a task gave, and records nothing."""

    def of_attempt(self, task: Task) -> str | None:
        """Returns the traceparent for what the running attempt of a task begins."""
        return task.traceparent

    def of_call(self, above: str | None) -> str | None:
        """Returns the traceparent for a tool call below another one."""
        return above

    def retried(self, task: Task, error: CorralError) -> None:
        """Notes that the attempt of a task has failed, and another one follows."""

    def called(self, above: str | None, own: str | None, call: ToolCall) -> None:
        """Notes that a tool call has ended: `above` and `own` as of `of_call`."""


class Tracer(Tracing):
    """Makes the spans of tasks and tool calls; it observes all tasks.

    Args:
        emit: takes each span.
        sampling: the fraction of the traces that begin here which are recorded.
    """

    def __init__(self, emit: Callable[[Span], None], sampling: float = 1.0) -> None:
        self._emit = emit
        self._sampling = sampling

    def of_attempt(self, task: Task) -> str | None:
        """Returns the traceparent of the running attempt of a task."""
        return str(spans.attempt_context(task, self._sampling))

    def of_call(self, above: str | None) -> str | None:
        """Returns a new traceparent, in the trace of the one above, or in a new one."""
        parent = parse(above)
        span = secrets.token_hex(8)
        if parent is not None:
            return str(parent._replace(span=span))
        trace = secrets.token_hex(16)
        is_sampled = int(trace[:8], 16) < self._sampling * 2**32
        return str(TraceContext(trace, span, int(is_sampled)))

    def started(self, task: Task) -> None:
        """Records the wait for the first attempt."""
        if (span := spans.wait_span(task, self._sampling)) is not None:
            self._emit(span)

    def retried(self, task: Task, error: CorralError) -> None:
        """Records an attempt that another one follows."""
        now_ns = time.time_ns()
        span = spans.failed_attempt(task, now_ns, error.name, error.message, self._sampling)
        if span is not None:
            self._emit(span)

    def ended(self, task: Task) -> None:
        """Records a task with its last attempt."""
        for span in spans.task_spans(task, self._sampling):
            self._emit(span)

    def called(self, above: str | None, own: str | None, call: ToolCall) -> None:
        """Records a tool call."""
        context, parent = parse(own), parse(above)
        if context is None or not context.is_sampled:
            return
        start_ns = int(call.start_s * 1e9)
        self._emit(
            spans.tool_span(
                context,
                "" if parent is None else parent.span,
                (start_ns, start_ns + int(call.duration_s * 1e9)),
                tool=call.tool,
                server=call.server,
                task=call.task,
                outcome=call.outcome,
            )
        )
