"""Passes the trace context of tasks on, and with `[telemetry] otlp` makes their spans.

`Tracing` is what other rooms call: without telemetry it hands on what a caller gave, which costs nothing. `Tracer` makes a span of
each task, attempt and tool call when it has ended. Names and attributes are those of OpenTelemetry's semantic conventions for
generative AI and MCP; those that they do not have begin with `corral.`. It must not know the SDK, nor a collector.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Literal, NamedTuple

from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Task
from corral.worker.contract.trace_context import TraceContext, is_silent, parse

Kind = Literal["internal", "server", "client"]

Attributes = Mapping[str, str | int | float | bool]

MESSAGE_CHARS = 300
"""Characters of an error's message in a span."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Span(NamedTuple):
    """Represents a span that has ended; times are in nanoseconds of the Unix epoch.

    `parent` is the id of the span above it, "" where there is none. `error` is the name of the error with which it has ended, "" without one.
    """

    name: str
    context: TraceContext
    parent: str
    kind: Kind
    start_ns: int
    end_ns: int
    attributes: Attributes
    error: str = ""
    message: str = ""


def task_context(task: Task) -> TraceContext:
    """Returns the context of a task's span.

    Its trace is that of its caller, else its own.
    """
    above = parse(task.traceparent)
    found = _digest(task.id, task.created_at)
    if above is not None:
        return TraceContext(above.trace, found[:16], above.flags)
    return TraceContext(_digest("trace", task.id, task.created_at), found[:16])


def attempt_context(task: Task) -> TraceContext:
    """Returns the context of the attempt that is under way; of a team or workflow that of the task, since it has none."""
    context = task_context(task)
    if not task.delivery or task.kind not in ("task", "job"):
        return context
    return context._replace(span=_digest(task.id, task.created_at, str(task.delivery))[:16])


def task_spans(task: Task) -> list[Span]:
    """Returns the spans of a task that has ended: its own, and that of its last attempt, or of its wait for one."""
    context = task_context(task)
    if not context.is_sampled:
        return []
    above = parse(task.traceparent)
    start_ns, end_ns = unix_ns(task.created_at), unix_ns(task.finished_at or task.created_at)
    error, message = "", ""
    if task.error is not None:
        error, message = task.error.name, task.error.message[:MESSAGE_CHARS]
    operation = "invoke_workflow" if task.kind == "workflow" else "invoke_agent"
    attributes: dict[str, str | int | float | bool] = {
        "gen_ai.operation.name": operation,
        "gen_ai.agent.name": task.agent,
        "corral.task.id": task.id,
        "corral.task.kind": task.kind,
        "corral.task.state": task.state,
        "corral.task.attempts": task.attempt,
        "corral.task.tool_calls": task.tool_calls,
        "corral.task.tokens_used": task.tokens_used,
        "corral.task.cost_cents": task.cost_cents,
    }
    if task.session is not None:
        attributes["gen_ai.conversation.id"] = task.session
    if task.parent is not None:
        attributes["corral.task.parent"] = task.parent
    if task.step:
        attributes["corral.task.step"] = task.step
    kind: Kind = "server" if above is not None and task.parent is None else "internal"
    parent = "" if above is None else above.span
    own = Span(f"{operation} {task.agent}", context, parent, kind, start_ns, end_ns, attributes, error, message)
    if task.started_at is None:
        return [own, _wait(task, context, end_ns)]
    if task.kind not in ("task", "job"):
        return [own]
    return [own, _attempt(task, context, end_ns, (error, message))]


def wait_span(task: Task) -> Span | None:
    """Returns the span of a task's wait for its first attempt, which begins; None of a later one."""
    context = task_context(task)
    if not context.is_sampled or task.delivery > 1 or task.started_at is None:
        return None
    return _wait(task, context, unix_ns(task.started_at))


def failed_attempt(task: Task, now_ns: int, error: str, message: str) -> Span | None:
    """Returns the span of an attempt that another one follows."""
    context = task_context(task)
    if not context.is_sampled or task.started_at is None:
        return None
    return _attempt(task, context, now_ns, (error, message[:MESSAGE_CHARS]))


class ToolCall(NamedTuple):
    """Describes a tool call that has ended; `start_s` in Unix seconds. `outcome` is ok, error, cancelled, or an error's name."""

    tool: str
    server: str
    task: str | None
    start_s: float
    duration_s: float
    outcome: str

    def span(self, context: TraceContext, parent: str) -> Span:
        """Returns its span."""
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": self.tool,
            "mcp.method.name": "tools/call",
            "corral.mcp.server": self.server,
            "corral.tool.outcome": self.outcome,
        }
        if self.task is not None:
            attributes["corral.task.id"] = self.task
        error = {"ok": "", "error": "tool_error"}.get(self.outcome, self.outcome)
        start_ns = int(self.start_s * 1e9)
        end_ns = start_ns + int(self.duration_s * 1e9)
        return Span(f"execute_tool {self.tool}", context, parent, "client", start_ns, end_ns, attributes, error)


class ModelCall(NamedTuple):
    """Describes a call of a model that has ended; `outcome` is ok, failed, cut, cancelled or lost, tokens are of input and output."""

    model: str
    provider: str
    agent: str
    task: str | None
    duration_s: float
    tokens: tuple[int, int]
    outcome: str

    def span(self, context: TraceContext, parent: str, end_ns: int) -> Span:
        """Returns its span."""
        attributes: dict[str, str | int | float | bool] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self.provider,
            "gen_ai.request.model": self.model,
            "gen_ai.agent.name": self.agent,
            "gen_ai.usage.input_tokens": self.tokens[0],
            "gen_ai.usage.output_tokens": self.tokens[1],
            "corral.model.outcome": self.outcome,
        }
        if self.task is not None:
            attributes["corral.task.id"] = self.task
        error = "" if self.outcome == "ok" else self.outcome
        start_ns = end_ns - int(self.duration_s * 1e9)
        return Span(f"chat {self.model}", context, parent, "client", start_ns, end_ns, attributes, error)


def unix_ns(stamp: str) -> int:
    """Returns the nanoseconds of a time in RFC 3339."""
    return (datetime.fromisoformat(stamp) - _EPOCH) // _MICROSECOND * 1000


def _wait(task: Task, context: TraceContext, end_ns: int) -> Span:
    start_ns = unix_ns(task.created_at)
    own = context._replace(span=_digest("wait", task.id, task.created_at)[:16])
    attributes: dict[str, str | int | float | bool] = {"corral.task.id": task.id}
    attributes["corral.task.priority"] = task.priority
    return Span("queue", own, context.span, "internal", min(start_ns, end_ns), end_ns, attributes)


def _attempt(task: Task, context: TraceContext, end_ns: int, error: tuple[str, str]) -> Span:
    assert task.started_at is not None, "the attempt has begun"
    attributes: dict[str, str | int | float | bool] = {
        "corral.task.id": task.id,
        "corral.task.attempt": task.attempt,
        "corral.task.delivery": task.delivery,
    }
    if task.worker is not None:
        attributes["gen_ai.agent.id"] = task.worker
    own = attempt_context(task)
    start_ns = min(unix_ns(task.started_at), end_ns)
    return Span(f"attempt {task.attempt}", own, context.span, "internal", start_ns, end_ns, attributes, *error)


def _digest(*words: str) -> str:
    """Returns 32 hexadecimal digits that these words alone have."""
    return blake2b("\0".join(words).encode(), digest_size=16).hexdigest()


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
        return str(attempt_context(task))

    def of_call(self, above: str | None) -> str | None:
        """Returns a new traceparent, in the trace of the one above, or in a new one."""
        above = above or self.of_root()
        parent, span = parse(above), secrets.token_hex(8)
        if parent is not None:
            return str(parent._replace(span=span))
        return str(TraceContext(secrets.token_hex(16), span))

    def started(self, task: Task) -> None:
        """Records the wait for the first attempt."""
        if not is_silent(task.traceparent) and (span := wait_span(task)) is not None:
            self._emit(span)

    def retried(self, task: Task, error: CorralError) -> None:
        """Records an attempt that another one follows."""
        if is_silent(task.traceparent):
            return
        span = failed_attempt(task, time.time_ns(), error.name, error.message)
        if span is not None:
            self._emit(span)

    def ended(self, task: Task) -> None:
        """Records a task with its last attempt."""
        if not is_silent(task.traceparent):
            for span in task_spans(task):
                self._emit(span)

    def called(self, above: str | None, own: str | None, call: ToolCall) -> None:
        """Records a tool call."""
        context, parent = parse(own), parse(above)
        if context is not None and context.is_sampled:
            self._emit(call.span(context, "" if parent is None else parent.span))

    def modelled(self, above: str | None, call: ModelCall) -> None:
        """Records a call of a model."""
        context, parent = parse(self.of_call(above)), parse(above)
        if context is not None and context.is_sampled:
            self._emit(call.span(context, "" if parent is None else parent.span, time.time_ns()))
