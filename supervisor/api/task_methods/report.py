"""Serves the methods `cost.list` and `task.log` of the table."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.events.history import EventFilter, EventHistory
from corral.supervisor.records.logs.file_format import LogFilter
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.tool_calls import ToolCalls
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract.log_pieces import PieceJoiner
from corral.worker.contract.records import ENDED, Task
from corral.worker.control.reports import CostParams, Costs, TaskLog, TaskLogEntry, TaskLogParams
from corral.worker.methods.task import COST_LIST, TASK_LOG

from ..reports.costs import CostSums
from ..reports.timeline import LATE_S, TaskLines, Timeline
from ..table.handlers import Caller, serve
from .task import children_of

STORED = ("task.started", "task.progress", "task.retried")
"""Types of events that tell steps of a task."""

FOLLOWED = (*STORED, "task.queued", "task.ended", "mcp.call")
"""Types that a follower of a task needs: of it, of its tool calls, of tasks that it delegates."""

MOST_CHILDREN = 1_000
"""Number of delegated tasks in one log."""

MOST_EVENTS = 5_000
"""Number of stored events in one log, the first."""

ENTRIES_AT_ONCE = 500
"""Number of entries in one notification."""

LAST_LINES_S = 5.0
"""Seconds that the last lines may take after the end of the task."""


@dataclass(frozen=True, eq=False)
class ReportMethods:
    """Serves the methods that say what tasks did, and what they cost."""

    _tasks: Tasks
    _costs: CostSums
    _tool_calls: ToolCalls
    _lines: TaskLines
    _bus: Bus
    _history: EventHistory
    _logs: LogStore

    @serve(COST_LIST)
    async def _cost_list(self, params: CostParams, caller: Caller) -> Costs:
        return await self._costs.listed(params, knows(caller.agents))

    @serve(TASK_LOG)
    async def _task_log(self, params: TaskLogParams, caller: Caller) -> TaskLog:
        if not params.follow:
            task = await self._tasks.show(params.task)
            entries, _ = await self._past(task, params.lines)
            return TaskLog(task=task.id, state=task.state, entries=entries)
        children: set[str] = set()

        def is_of_task(event: Event) -> bool:
            fields = event.fields
            of = fields.get("task")
            if event.type == "task.queued" and fields.get("parent") == params.task:
                if len(children) < MOST_CHILDREN:
                    children.add(str(of))
                return True
            return of == params.task or of in children

        with self._bus.subscribe(FOLLOWED, where=is_of_task) as subscription:
            task = await self._tasks.show(params.task)
            newest = self._bus.newest
            children |= {*task.children[:MOST_CHILDREN]}
            entries, position = await self._past(task, params.lines)
            _send(caller, entries)
            await caller.drain()
            if task.state in ENDED:
                return TaskLog(task=task.id, state=task.state, entries=[])
            timeline = Timeline(task)

            async def send_events() -> None:
                async for event in subscription:
                    if event.seq > newest:
                        entry = timeline.of_live_event(event.record())
                        _send(caller, [] if entry is None else [entry])
                        await caller.drain()

            async def send_lines() -> None:
                place = LogPosition.parse(position.text())  # as a reader that comes back with it
                batches = self._lines.of_task(task, LogFilter(), None, place, follow=True)
                joiner = PieceJoiner()
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        _send(caller, [timeline.of_line(line) for line in joiner.join(batch)])
                        await caller.drain()
                _send(caller, [timeline.of_line(line) for line in joiner.flush()])

            async with asyncio.TaskGroup() as group:
                group.create_task(send_events())
                lines = group.create_task(send_lines())
                ended = await self._tasks.wait(params.task)
                await asyncio.wait([lines], timeout=LAST_LINES_S)
                lines.cancel()
                subscription.close()
            _send(caller, [timeline.end(ended)])
        return TaskLog(task=ended.id, state=ended.state, entries=[])

    async def _past(self, task: Task, count: int) -> tuple[list[TaskLogEntry], LogPosition]:
        """Returns the entries so far, with the last `count` log lines, and the place in the log behind them."""
        history, newest = self._history, self._bus.newest
        wanted = EventFilter(STORED, task=task.id, since_s=datetime.fromisoformat(task.created_at).timestamp() - LATE_S)
        start = await history.begin(wanted, newest=newest, since=None, n=None, until=newest)
        events: list[Mapping[str, object]] = []
        async for page in history.history(start, newest, wanted, reports_expired=False):
            events += page.records[: MOST_EVENTS - len(events)]
        calls = await self._tool_calls.history.of(task.id)
        children = await children_of(self._tasks, task, MOST_CHILDREN)
        position, joiner = LogPosition(), PieceJoiner()
        lines: list[dict[str, object]] = []
        batches = self._lines.of_task(task, LogFilter(), count, position, follow=False)
        async with self._logs.answering, contextlib.aclosing(batches):
            async for batch in batches:
                lines += joiner.join(batch)
        lines += joiner.flush()
        return Timeline(task).history(events, calls, children, lines), position


def _send(caller: Caller, entries: Sequence[TaskLogEntry]) -> None:
    for some in _messages(entries):
        caller.notify("task.log", {"entries": [msgspec.to_builtins(each) for each in some]})


def _messages(entries: Sequence[TaskLogEntry]) -> Iterator[Sequence[TaskLogEntry]]:
    for place in range(0, len(entries), ENTRIES_AT_ONCE):
        yield entries[place : place + ENTRIES_AT_ONCE]
