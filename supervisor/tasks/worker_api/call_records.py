"""Records the tool calls of workers and clients: in the audit, as events, and with the record of their task.

A call that has reached no server is a refusal: many alike are one record, and a worker's is no event.
"""

import time
from collections.abc import Callable, Mapping

from corral.mcp.pool.directory import SEPARATOR
from corral.mcp.protocol.caller import Caller
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.secrets.secrets import masked
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.audit.hash_chain import digest
from corral.supervisor.records.audit.log import REFUSALS, Audit, refusal_key
from corral.supervisor.records.events.bus import Bus, rfc3339
from corral.supervisor.records.telemetry.tracing import ToolCall as TracedCall
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

from ..run.backlog import Entry
from .call_history import MAX_CALLS, CallHistory, Ended

MAX_TOOL_NAME = 200
"""Characters of a tool's name in a record: no tool has a longer one."""

MAX_ARGUMENTS_BYTES = 4096
"""Bytes of JSON in a record that keeps arguments; of longer ones it has the SHA-256 alone."""

REFUSED = frozenset(error.__name__ for error in REFUSALS)


class ToolCall:
    """Holds the facts of a tool call before its outcome."""

    __slots__ = (
        *("above", "at_s", "delivery", "duration_s", "entry", "number", "server", "started"),
        *("supervisor", "task", "tool", "who"),
    )

    def __init__(self, tool: str, who: Mapping[str, object], supervisor: WorkerSupervisor | None) -> None:
        self.tool = tool
        self.server = tool.partition(SEPARATOR)[0]
        self.who = who
        self.task: str | None = None
        self.entry: Entry | None = None
        """The one task that it is made for."""
        self.delivery = 0
        self.above: str | None = None
        """Traceparent of the attempt that it is made in."""
        self.number = 0
        """Number of this call among those of its task."""
        self.supervisor = supervisor
        self.at_s = time.time()
        self.started = time.monotonic()
        self.duration_s = 0.0

    def ended(self, outcome: str) -> TracedCall:
        """Returns it as its span shows it."""
        tool, server = self.tool[:MAX_TOOL_NAME], self.server[:MAX_TOOL_NAME]
        return TracedCall(tool, server, self.task, self.at_s, self.duration_s, outcome)


class CallRecords:
    """Records the tool calls of one daemon."""

    def __init__(self, bus: Bus, registry: Registry, audit: Audit, history: CallHistory) -> None:
        self._bus = bus
        self._registry = registry
        self._audit = audit
        self.history = history
        self._listeners: list[Callable[[str | None, str, str, float], None]] = []

    def subscribe(self, listener: Callable[[str | None, str, str, float], None]) -> None:
        """Calls `listener` with the agent, the server, the outcome and the seconds of each call that was made."""
        self._listeners.append(listener)

    def add(self, call: ToolCall, caller: Caller, outcome: str, arguments: object, *, has_reached: bool) -> None:
        """Publishes and records a call that has ended."""
        call.duration_s = round(time.monotonic() - call.started, 6)
        supervisor = call.supervisor
        is_refusal = outcome in REFUSED and not has_reached
        if not is_refusal:
            agent = None if supervisor is None else supervisor.spec.name
            for listener in self._listeners:
                listener(agent, call.server, outcome, call.duration_s)
        bus = self._bus
        # It is not stored, and there are thousands a second: without a subscriber no event is made, and no number used.
        if (supervisor is None or not is_refusal) and bus.has_subscribers("mcp.call"):
            found = self._registry.agents.get(call.server)
            has_server = found is not None and found.spec.kind == "mcp"
            bus.publish(
                "mcp.call",
                agent=None if supervisor is None else supervisor.spec.name,
                worker=None if supervisor is None else supervisor.id,
                incarnation=None if supervisor is None else supervisor.worker.incarnation,
                caller=caller.name,
                server=call.server if has_server else None,
                tool=call.tool[:MAX_TOOL_NAME],
                task=call.task,
                outcome=outcome,
                duration_s=call.duration_s,
                store=False,  # the audit has it: a tool call is one stored row
            )
        self._record(call, outcome, None if is_refusal else arguments, is_refusal=is_refusal)

    def refuse(self, call: ToolCall, outcome: str) -> None:
        """Records a call that was refused before it was made."""
        self._record(call, outcome)

    def _record(self, call: ToolCall, outcome: str, arguments: object = None, *, is_refusal: bool = True) -> None:
        record: dict[str, object] = {
            "at": rfc3339(call.at_s),
            "action": "mcp.call",
            "who": call.who,
            "tool": call.tool[:MAX_TOOL_NAME],
            "server": call.server[:MAX_TOOL_NAME],
            "task": call.task,
            "result": outcome,
            "duration_s": call.duration_s,
        }
        if is_refusal:
            if self._audit.refuse(record, refusal_key(call.who)):
                self._audit.add(record)
            return
        sha256, size_bytes = digest(arguments)
        kept: dict[str, object] = {"sha256": sha256, "bytes": size_bytes}
        if sha256 is not None and self._keeps(size_bytes):
            kept["value"] = masked(arguments)
        record["arguments"] = kept
        self._audit.add(record)

    def _keeps(self, size_bytes: int) -> bool:
        """Returns whether arguments of this size are kept, beside their digest."""
        return size_bytes <= MAX_ARGUMENTS_BYTES and self._registry.config.audit.arguments == "keep"

    def keep(self, call: ToolCall, spec: Spec, outcome: str, result: object) -> None:
        """Keeps a call that has ended with the record of its task."""
        wanted = spec.tasks.record_tool_calls
        if wanted == "none" or call.task is None or call.number > MAX_CALLS:
            return
        ended = Ended(
            task=call.task,
            delivery=call.delivery,
            at_s=call.at_s,
            tool=call.tool[:MAX_TOOL_NAME],
            outcome=outcome,
            duration_s=call.duration_s,
            result=result,
        )
        self.history.add(ended, with_result=wanted == "results")
