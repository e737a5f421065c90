"""Executes the tasks of teams and workflows, which need no worker: from their start, or where a daemon left them, to the end.

The workflow engine computes the result; here its task is begun, timed, stopped and ended. Must not know what a team or
a workflow is.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.events.bus import rfc3339
from corral.worker.contract.errors import CorralError, InternalError, Timeout
from corral.worker.contract.records import Task, TaskParams
from corral.worker.contract.worker_messages import TaskResult

from ..rules.payload import check_result
from .accounting import Accounting
from .attempt import state_of
from .backlog import Entry
from .cluster import Cluster
from .endings import CLOSE_S, Endings, agent_gone
from .record_writer import RETRY_AFTER_S, RecordWriter

logger = logging.getLogger(__name__)


class WorkflowEngine:
    """Executes the tasks of teams and workflows, which need no worker of their own; this one stands for it until it is made."""

    def members_for(self, task: Task) -> tuple[str, ...] | None:
        """Returns the only agents to which a running task may delegate, since it leads a team; None if it leads none."""
        return None

    def checked(self, params: TaskParams) -> TaskParams:
        """Returns the params of a task that can be accepted, within the time that its workflow may take."""
        return params

    async def execute(self, task: Task) -> TaskResult:
        """Returns the result of a task; also called again for one that a daemon left, `attempt` unchanged.

        It is cancelled when the task is cancelled or timed out; the tasks that it submitted are cancelled by others.
        """
        raise agent_gone(task)

    def note_end(self, task: Task) -> None:
        """Forgets a task of a team or workflow that has ended."""


class CompositeRunner:
    """Executes the tasks of one daemon that need no worker of it: those of teams, workflows and placed agents."""

    def __init__(
        self, writer: RecordWriter, endings: Endings, accounting: Accounting, agents: Agents, cluster: Cluster
    ) -> None:
        self._writer = writer
        self._endings = endings
        self._accounting = accounting
        self._registry = agents.registry
        self._groups = agents.groups
        self._cluster = cluster
        self._engine = WorkflowEngine()
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        writer.subscribe_to_ends(self._note_end)

    def execute_with(self, engine: WorkflowEngine) -> None:
        """Executes teams and workflows with an engine, which is made later, since it submits tasks itself."""
        self._engine = engine

    def members_for(self, task: Task) -> tuple[str, ...] | None:
        """Returns the only agents to which a running task may delegate, since it leads a team; None if it leads none."""
        return self._engine.members_for(task)

    def checked(self, params: TaskParams) -> TaskParams:
        """Returns the params of a new task of a team or workflow, with the timeout of that."""
        return self._engine.checked(params)

    def _note_end(self, entry: Entry) -> None:
        if entry.task.kind in ("team", "workflow"):
            self._engine.note_end(entry.task)

    async def close(self) -> None:
        """Interrupts all: the next daemon goes on with them."""
        for each in tuple(self._running):
            each.cancel()
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=CLOSE_S)
            for each in late:
                each.cancel()

    def begin_at_once(self, entry: Entry) -> bool:
        """Begins a new task, before it is accepted."""
        self.enqueue(entry)
        return True

    def enqueue(self, entry: Entry) -> None:
        """Begins a task."""
        if entry.is_begun or entry.is_ending:
            return  # it was cancelled while it waited for the store
        entry.stop = self._loop.create_future()
        task = self._loop.create_task(self._run(entry, entry.stop))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, entry: Entry, stop: asyncio.Future[CorralError]) -> None:
        """Executes a task that needs no worker to its end; once more, if a daemon left it."""
        task = entry.task
        if task.state == "queued":
            task = replace(
                task,
                state="running",
                attempt=max(task.attempt, 1),
                delivery=max(task.delivery, 1),
                started_at=rfc3339(time.time()),
                reason="",
            )
            written = self._writer.save(entry, task)
            try:
                if written is not None:
                    await written
            except CorralError as error:
                if await self._endings.take_back(entry, error):
                    self._loop.call_later(RETRY_AFTER_S, self.enqueue, entry)
                return
            self._writer.start(entry, task)
        execute = self._executed(entry)
        if execute is None:
            await self._endings.end(entry, "failed", agent_gone(task))
            return
        work = self._loop.create_task(execute)
        try:
            ends: set[asyncio.Future[Any]] = {work, stop}  # of different results
            await asyncio.wait(ends, timeout=_left_s(task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():  # also when the daemon stops: the next one executes it again
                work.cancel()
                await asyncio.wait({work}, timeout=CLOSE_S)
        await self._end(entry, work, stop)

    def _executed(self, entry: Entry) -> Coroutine[Any, Any, TaskResult] | None:
        task = entry.task
        if task.kind == "placed":
            return self._on_its_node(entry) if self._cluster.is_joined else None
        return self._engine.execute(task) if task.agent in self._groups.by_name else None

    async def _on_its_node(self, entry: Entry) -> TaskResult:
        """Returns the result of a task of a placed agent, and takes over what it has used."""
        ended = await self._cluster.runner.execute(entry.task)
        self._accounting.record_usage(entry, ended.tokens_used, ended.cost_cents)
        entry.task = replace(entry.task, worker=ended.worker, tool_calls=ended.tool_calls, delivery=ended.delivery)
        if ended.error is not None:
            raise ended.error.as_error()
        return TaskResult(output=ended.output)

    async def _end(self, entry: Entry, work: asyncio.Task[TaskResult], stop: asyncio.Future[CorralError]) -> None:
        task = entry.task
        is_withdrawn = stop.done() or not work.done() or work.cancelled()
        if is_withdrawn and task.kind == "placed":
            await self._cluster.runner.withdraw(task)
        if stop.done():
            await self._endings.end(entry, state_of(stop.result()), stop.result())
            return
        if not work.done() or work.cancelled():
            limit_s = task.boundaries.timeout_s or 0.0
            text = f'cannot finish task "{task.id}" within {limit_s:g} s'
            await self._endings.end(entry, "timeout", Timeout(text, limit="timeout_s", value=limit_s))
            return
        error = work.exception()
        if error is None:
            try:
                check_result(task, work.result().output, entry.size_bytes)
            except CorralError as misfit:
                error = misfit
        if error is None:
            await self._endings.end(entry, "succeeded", output=work.result().output)
        elif self._registry.draining and task.kind != "placed":
            return  # its parts were refused or put down: the next daemon goes on with it
        elif isinstance(error, CorralError):
            await self._endings.end(entry, state_of(error) if task.kind == "placed" else "failed", error)
        else:
            logger.error("cannot perform task %s", task.id, exc_info=error)
            defect = InternalError(f'cannot perform task "{task.id}": {error!r}')
            await self._endings.end(entry, "failed", defect)


def _left_s(task: Task) -> float | None:
    """Returns the seconds left to a task that needs no worker; its clock runs on while there is no daemon."""
    limit_s = task.boundaries.timeout_s
    if limit_s is None or task.started_at is None:
        return limit_s
    begun = datetime.fromisoformat(task.started_at).timestamp()
    return max(0.0, limit_s - max(0.0, time.time() - begun))
