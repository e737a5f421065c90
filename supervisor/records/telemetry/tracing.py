"""Passes the trace context of tasks on, and with `[telemetry] otlp` makes their spans.

`Tracing` is what other rooms call: without telemetry it hands on what a caller gave, which costs nothing. `Tracer` makes a span of
each task, attempt and tool call when it has ended. It must not know the SDK, nor a collector.
"""

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Task
from corral.worker.contract.trace_context import TraceContext, is_silent, parse

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


class ModelCall(NamedTuple):
    """Describes a call of a model that has ended; `outcome` is ok, failed, cut, cancelled or lost, tokens are of input and output."""

    model: str
    provider: str
    agent: str
    task: str | None
    duration_s: float
    tokens: tuple[int, int]
    outcome: str


class Tracing:
    """Hands on the context that the caller of a task gave, and records nothing."""

    def of_attempt(self, task: Task) -> str | None:
        """Returns the traceparent for what the running attempt of a task begins."""
        return task.traceparent

    def of_root(self) -> str | None:
        """Returns the traceparent for a task whose caller gave none; None where its trace is its own."""
        return None

    def of_call(self, above: str | None) -> str | None:
        """Returns the traceparent for a tool call below another one."""
        return above

    def retried(self, task: Task, error: CorralError) -> None:
        """Notes that the attempt of a task has failed, and another one follows."""

    def called(self, above: str | None, own: str | None, call: ToolCall) -> None:
        """Notes that a tool call has ended: `above` and `own` as of `of_call`."""

    def modelled(self, above: str | None, call: ModelCall) -> None:
        """Notes that a call of a model has ended: `above` is the traceparent of the attempt that made it."""


class Tracer(Tracing):
    """Makes the spans of tasks and tool calls; it observes all tasks."""

    def __init__(
        self, emit: Callable[[Span], None], traces_per_second: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._emit = emit
        self._rate = traces_per_second
        self._clock = clock
        self._tokens = float(traces_per_second)
        self._at_s = clock()

    def of_root(self) -> str | None:
        """Returns the context of a trace that is not recorded where too many have begun; None else."""
        if not self._rate:
            return None
        now_s = self._clock()
        self._tokens = min(self._tokens + (now_s - self._at_s) * self._rate, float(self._rate))
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        digits = secrets.token_hex(24)
        return str(TraceContext(digits[:32], digits[32:], 0))

    def of_attempt(self, task: Task) -> str | None:
        """Returns the traceparent of the running attempt of a task; in a trace that is not recorded the one above."""
        if is_silent(task.traceparent):
            return task.traceparent
        return str(spans.attempt_context(task))

    def of_call(self, above: str | None) -> str | None:
        """Returns a new traceparent, in the trace of the one above, or in a new one."""
        above = above or self.of_root()
        parent, span = parse(above), secrets.token_hex(8)
        if parent is not None:
            return str(parent._replace(span=span))
        return str(TraceContext(secrets.token_hex(16), span))

    def started(self, task: Task) -> None:
        """Records the wait for the first attempt."""
        if is_silent(task.traceparent):
            return
        if (span := spans.wait_span(task)) is not None:
            self._emit(span)

    def retried(self, task: Task, error: CorralError) -> None:
        """Records an attempt that another one follows."""
        if is_silent(task.traceparent):
            return
        span = spans.failed_attempt(task, time.time_ns(), error.name, error.message)
        if span is not None:
            self._emit(span)

    def ended(self, task: Task) -> None:
        """Records a task with its last attempt."""
        if is_silent(task.traceparent):
            return
        for span in spans.task_spans(task):
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

    def modelled(self, above: str | None, call: ModelCall) -> None:
        """Records a call of a model."""
        context = parse(self.of_call(above))
        if context is None or not context.is_sampled:
            return
        parent, end_ns = parse(above), time.time_ns()
        self._emit(
            spans.model_span(
                context,
                "" if parent is None else parent.span,
                (end_ns - int(call.duration_s * 1e9), end_ns),
                model=call.model,
                provider=call.provider,
                task=call.task,
                agent=call.agent,
                tokens=call.tokens,
                outcome=call.outcome,
            )
        )
