"""Counts and records the tool calls of workers and clients: in the audit, as events, and with the record of their task.

A call that has reached no server is a refusal: many alike are one record, and a worker's is no event. A row of a task is
written after the answer, together with others, so that the last 100 ms may be missing after a `kill -9`, as in the audit. A
task keeps MAX_CALLS calls; its record counts all. The calls go with the record of their task.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from corral.mcp.pool.directory import SEPARATOR
from corral.mcp.protocol.messages import Caller
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.secrets.secrets import masked, masked_address
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.audit.hash_chain import digest
from corral.supervisor.records.audit.log import REFUSALS, Audit, refusal_key
from corral.supervisor.records.events.bus import Bus, rfc3339
from corral.supervisor.records.store.store import Row, Step, Store, insert, moment_of, number_of
from corral.supervisor.records.telemetry.tracing import ToolCall as TracedCall
from corral.supervisor.tenants.quotas.spending import Minute
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, Overloaded
from corral.worker.contract.records import TaskCall, copied

from ..run.backlog import Entry

FLUSH_S = 0.08
"""Seconds that a row waits for others."""

FLUSH_ROWS = 500
"""Number of rows that are written at once without waiting."""

MAX_CALLS = 1_000
"""Number of calls that are kept of one task."""

RESULT_BYTES = 4096
"""Bytes of a result that are kept."""

SWEEP_ROWS = 1_000
"""Number of rows that one statement looks at, to remove those without a task."""

SWEEP_PAUSE_S = 0.02
"""Seconds between two such removals."""

INSERT = (
    "INSERT INTO task_call (task, delivery, at, tool, outcome, duration_s, size_bytes, result)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

ROW_BYTES = 256
"""Bytes that a row is estimated to take beside its result."""


class Ended(Struct, frozen=True):
    """Describes a tool call that has ended. `result` is MCP's, None where it failed without one."""

    task: str
    delivery: int
    at_s: float
    tool: str
    outcome: str
    duration_s: float
    result: object = None


class _Rows(Step):
    """Inserts rows as one step of the store: a commit of other writes waits for few statements."""

    def __init__(self, rows: Sequence[Row], size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.count = len(rows)
        self._rows = rows

    def run(self, connection: sqlite3.Connection) -> int:
        """Inserts the rows; returns their number."""
        return insert(connection, INSERT, self._rows)


class CallHistory:
    """Writes and reads the tool calls of tasks in a store; belongs to the loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Row] = []
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Ended, *, with_result: bool) -> None:
        """Keeps a call, within 100 ms, if the store takes it."""
        encoded = None if call.result is None else codec.encode(call.result)
        size_bytes = 0 if encoded is None else len(encoded)
        kept = None
        if with_result and encoded is not None:
            kept = codec.encode(bounded_result(call.result, size_bytes))
        row = (*(call.task, call.delivery, call.at_s, call.tool, call.outcome), *(call.duration_s, size_bytes, kept))
        self._waiting.append(row)
        self._waiting_bytes += ROW_BYTES + (0 if kept is None else len(kept))
        if len(self._waiting) >= FLUSH_ROWS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Gives the waiting rows to the store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._store.post(_Rows(self._waiting, self._waiting_bytes))
            self._waiting, self._waiting_bytes = [], 0

    async def of(self, task: str) -> list[TaskCall]:
        """Returns the calls of a task that have ended, oldest first; while the store takes no writes, those that it has."""
        self.flush()
        with contextlib.suppress(CorralError):
            await self._store.write()  # what was given to it before is there after this
        rows = await self._store.read(
            "SELECT delivery, at, tool, outcome, duration_s, size_bytes, result FROM task_call"
            " WHERE task = ? ORDER BY id LIMIT ?",
            (task, MAX_CALLS),
        )
        return [
            TaskCall(
                delivery=number_of(delivery),
                at=rfc3339(moment_of(at)),
                tool=str(tool),
                ok=outcome == "ok",
                outcome=str(outcome),
                duration_s=moment_of(duration_s),
                size_bytes=number_of(size_bytes),
                result=_decoded(result),
            )
            for delivery, at, tool, outcome, duration_s, size_bytes, result in rows
        ]

    async def expire(self) -> int:
        """Removes the calls of tasks whose records are gone, a few at a time; returns how many there were."""
        self.flush()
        removed = 0
        place, newest = 0, time.time() - 60.0  # a task that is not durable may run still
        while True:
            rows = await self._store.read(
                "SELECT id, EXISTS (SELECT 1 FROM task WHERE task.id = task_call.task) FROM task_call"
                " WHERE id > ? AND at < ? ORDER BY id LIMIT ?",
                (place, newest, SWEEP_ROWS),
            )
            if not rows:
                return removed
            place = number_of(rows[-1][0])
            gone = [row[0] for row in rows if not row[1]]
            if gone:
                marks = ", ".join("?" * len(gone))
                await self._store.write((f"DELETE FROM task_call WHERE id IN ({marks})", gone))
                removed += len(gone)
            await asyncio.sleep(SWEEP_PAUSE_S)


def bounded_result(result: object, size_bytes: int) -> object:
    """Returns a result as it is kept: masked, and of one that is longer than RESULT_BYTES the beginning of its text."""
    if size_bytes <= RESULT_BYTES:
        return masked(result)
    table = codec.as_object(result) or {}
    texts: list[str] = []
    room = RESULT_BYTES
    for item in codec.as_array(table.get("content")) or []:
        text = (codec.as_object(item) or {}).get("text")
        if isinstance(text, str) and room > 0:
            texts.append(text[:room].encode("utf-8", "replace")[:room].decode("utf-8", "ignore"))
            room -= len(texts[-1].encode("utf-8"))
    return {"cut": True, "text": masked_address("\n".join(texts))}


def _decoded(result: object) -> object:
    try:
        return codec.decode(result) if isinstance(result, bytes) else None
    except ValueError:
        return None  # a damaged byte costs this result alone


class CallRates:
    """Holds the numbers of tool calls by agent; `now` is in seconds of a clock that never goes back."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._limited: set[str] = set()
        """Agents whose last call was refused."""
        self._minutes = defaultdict[str, Minute](Minute)
        self.refused = Counter[str]()
        """Number of calls that exceeded the limit, by agent."""

    def charge(self, spec: Spec, now: float) -> None:
        """Counts a call of an agent; raises Overloaded, with the seconds to wait, where it exceeds its limit."""
        name, limit = spec.name, spec.resources.max_tool_calls_per_minute
        wait_s = self.take(name, limit, now)
        if not wait_s:
            self._limited.discard(name)
            return
        wait_s, reason = round(wait_s, 3), f"max_tool_calls_per_minute = {limit} is used up"
        if name not in self._limited:
            self._limited.add(name)
            self._bus.publish("limit.tool_calls", agent=name, limit=limit, wait_s=wait_s, reason=reason)
        words = f'cannot call a tool for "{name}": {reason}; next in {wait_s:.1f} s'
        raise Overloaded(words, agent=name, limit="max_tool_calls_per_minute", value=limit, retry_after_s=wait_s)

    def take(self, agent: str, limit: int, now: float) -> float:
        """Counts a call and returns 0, or the seconds to wait where it exceeds the `limit` of a minute; 0 is no limit."""
        wait_s = self._minutes[agent].take(limit, now)
        if wait_s:
            self.refused[agent] += 1
        return wait_s

    def last_minute(self, agent: str, now: float) -> int:
        """Returns the number of calls of an agent within the last minute."""
        return self._minutes[agent].count(now) if agent in self._minutes else 0

    def total(self, now: float) -> int:
        """Returns the number of calls of all agents within the last minute."""
        return sum(each.count(now) for each in self._minutes.values())


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
        if sha256 is not None and (
            size_bytes <= MAX_ARGUMENTS_BYTES and self._registry.config.audit.arguments == "keep"
        ):
            kept["value"] = masked(arguments)
        record["arguments"] = kept
        self._audit.add(record)

    def keep(self, call: ToolCall, spec: Spec, outcome: str, result: object) -> None:
        """Keeps a call that has ended with the record of its task."""
        wanted = spec.tasks.record_tool_calls
        if wanted == "none" or call.task is None or call.number > MAX_CALLS:
            return
        facts = copied(call, "task delivery at_s duration_s")
        ended = Ended(tool=call.tool[:MAX_TOOL_NAME], outcome=outcome, result=result, **facts)
        self.history.add(ended, with_result=wanted == "results")
