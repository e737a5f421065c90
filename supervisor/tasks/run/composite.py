"""Executes the tasks of teams and workflows, which need no worker: from their start, or where a daemon left them, to the end.

The workflow engine computes the result; here its task is begun, timed, stopped and ended. Must not know what a team or
a workflow is.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Protocol

from msgspec.structs import replace

from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.records.events.bus import rfc3339
from corral.worker.contract.errors import CorralError, InternalError, NotFound, Timeout, from_wire
from corral.worker.contract.records import Task, TaskKind, TaskParams
from corral.worker.contract.worker_messages import TaskResult

from ..rules.payload import check_result
from .accounting import Accounting
from .attempt import state_of
from .backlog import Entry
from .executor import CLOSE_S, Executor, gone
from .record_writer import RecordWriter

logger = logging.getLogger(__name__)


class WorkflowEngine(Protocol):
    """Executes the tasks of teams and workflows, which need no worker of their own."""

    def timeout_s(self, name: str) -> float | None:
        """Returns the seconds that a task of that name may take at most, whatever it asks for; None for no limit."""

    def members_for(self, task: Task) -> tuple[str, ...] | None:
        """Returns the only agents to which a running task may delegate, since it leads a team; None if it leads none."""

    def check(self, params: TaskParams) -> None:
        """Returns if a task for a team or workflow can be accepted."""

    async def execute(self, task: Task) -> TaskResult:
        """Returns the result of a task; also called again for one that a daemon left, `attempt` unchanged.

        It is cancelled when the task is cancelled or timed out; the tasks that it submitted are cancelled by the executor.
        """

    def note_end(self, task: Task) -> None:
        """Forgets a task of a team or workflow that has ended."""


class PlacedRunner(Protocol):
    """Runs the tasks of agents that a cluster places, on whichever node has the agent."""

    def is_placed(self, name: str) -> bool:
        """Returns whether the cluster places an agent of this name."""

    def default_priority(self, name: str) -> int:
        """Returns the priority of tasks of an agent of the cluster that have none."""

    async def execute(self, task: Task) -> Task:
        """Returns the end of a task on the node that ran it; also called again for one that a daemon left."""

    async def withdraw(self, task: Task) -> None:
        """Cancels a task whose end nobody waits for any more."""


class CompositeRunner:
    """Executes the tasks of one daemon that need no worker of it: those of teams, workflows and placed agents."""

    def __init__(self, writer: RecordWriter, agents: Agents, executor: Executor, accounting: Accounting) -> None:
        self._accounting = accounting
        self._placed: PlacedRunner | None = None
        self._writer = writer
        self._registry = agents.registry
        self._groups = agents.groups
        self._executor = executor
        self._workflows: WorkflowEngine | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def bind(self, workflows: WorkflowEngine) -> None:
        """Connects the engine, which submits tasks itself."""
        self._workflows = workflows

    def bind_placed(self, placed: PlacedRunner) -> None:
        """Connects the cluster."""
        self._placed = placed

    def checked(self, params: TaskParams, name: str, kind: TaskKind) -> TaskParams:
        """Returns the params of a new task of a team or workflow, with the timeout of that."""
        if self._workflows is None:
            words = f'cannot run a task of {kind} "{name}": supervisor/tasks/workflows is not installed'
            raise NotFound(words, room="orchestration")
        self._workflows.check(params)
        limit_s = self._workflows.timeout_s(name)
        if limit_s is None:
            return params
        least_s = min(limit_s, params.boundaries.timeout_s or limit_s)
        return replace(params, boundaries=replace(params.boundaries, timeout_s=least_s))

    async def close(self) -> None:
        """Interrupts all: the next daemon goes on with them."""
        for each in tuple(self._running):
            each.cancel()
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=CLOSE_S)
            for each in late:
                each.cancel()

    def begin(self, entry: Entry) -> None:
        """Starts a task of a team or workflow."""
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
                await self._executor.try_later(entry, error)
                return
            self._executor.note_started(entry, None, task)
        execute = self._executed(entry)
        if execute is None:
            await self._executor.end(entry, "failed", gone(task))
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
        """Returns what executes a task; None where nothing of its name is left."""
        task = entry.task
        if task.kind == "placed":
            return None if self._placed is None else self._on_its_node(entry, self._placed)
        if self._workflows is None or task.agent not in self._groups.by_name:
            return None
        return self._workflows.execute(task)

    async def _on_its_node(self, entry: Entry, placed: PlacedRunner) -> TaskResult:
        """Returns the result of a task of a placed agent, and takes over what it has used."""
        ended = await placed.execute(entry.task)
        self._accounting.record_usage(entry, ended.tokens_used, ended.cost_cents)
        entry.task = replace(entry.task, worker=ended.worker, tool_calls=ended.tool_calls, delivery=ended.delivery)
        if ended.error is not None:
            error = ended.error
            raise from_wire({"code": error.code, "message": error.message, "data": error.data})
        return TaskResult(output=ended.output)

    async def _end(self, entry: Entry, work: asyncio.Task[TaskResult], stop: asyncio.Future[CorralError]) -> None:
        task = entry.task
        is_withdrawn = stop.done() or not work.done() or work.cancelled()
        if is_withdrawn and task.kind == "placed" and self._placed is not None:
            await self._placed.withdraw(task)
        if stop.done():
            await self._executor.end(entry, state_of(stop.result()), stop.result())
            return
        if not work.done() or work.cancelled():
            limit_s = task.boundaries.timeout_s or 0.0
            text = f'cannot finish task "{task.id}" within {limit_s:g} s'
            await self._executor.end(entry, "timeout", Timeout(text, limit="timeout_s", value=limit_s))
            return
        error = work.exception()
        if error is None:
            try:
                check_result(task, work.result().output, entry.size_bytes)
            except CorralError as misfit:
                error = misfit
        if error is None:
            await self._executor.end(entry, "succeeded", output=work.result().output)
        elif self._registry.draining and task.kind != "placed":
            return  # its parts were refused or put down: the next daemon goes on with it
        elif isinstance(error, CorralError):
            state = state_of(error) if task.kind == "placed" else "failed"
            await self._executor.end(entry, state, error)
        else:
            logger.error("cannot perform task %s", task.id, exc_info=error)
            defect = InternalError(f'cannot perform task "{task.id}": {error!r}')
            await self._executor.end(entry, "failed", defect)


def _left_s(task: Task) -> float | None:
    """Returns the seconds left to a task that needs no worker; its clock runs on while there is no daemon."""
    limit_s = task.boundaries.timeout_s
    if limit_s is None or task.started_at is None:
        return limit_s
    begun = datetime.fromisoformat(task.started_at).timestamp()
    return max(0.0, limit_s - max(0.0, time.time() - begun))
