"""Executes the tasks of jobs, each one run of the command on a worker of the job that is at rest, and the smoke tasks of specs.

A run is never repeated for its task: it may have done half of its work, so a task whose daemon died has failed. The
restart policy of the job decides whether a failed command is tried again, within the same task. Runs of one job that
find all of its workers at work wait for their turn, in the order in which they came.
"""

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.rollout.roll import Try
from corral.supervisor.agents.running.startup import has_ended
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle import job, state_machine
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Cancelled, CorralError, InternalError, Timeout, WorkerFailed
from corral.worker.contract.records import Boundaries, Retry, Task, TaskParams, TaskState

from .attempt import state_of
from .backlog import Entry, Origin
from .endings import Endings, agent_gone
from .executor import begun
from .record_writer import RETRY_AFTER_S, RecordWriter
from .tasks import Tasks


def smoke_of(tasks: Tasks) -> Try:
    """Returns the function that runs a smoke task; it returns why the task has failed, "" if it has not."""

    async def attempt(supervisor: WorkerSupervisor, spec: Spec) -> str:
        smoke = spec.smoke
        assert smoke is not None, "it is tried where one is asked for"
        params = TaskParams(
            smoke.objective,
            agent=spec.name,
            input=smoke.input,
            boundaries=Boundaries(timeout_s=smoke.timeout),
            retry=Retry(max_attempts=1, retry_on="never"),
        )
        try:
            task = await tasks.submit(params, Origin(only=supervisor))
        except CorralError as error:
            return error.message
        try:
            ended = await tasks.wait(task.id)
        except asyncio.CancelledError:
            with contextlib.suppress(CorralError):
                await tasks.cancel(task.id, "the change that it was to try is taken back")
            raise
        except CorralError as error:
            return error.message
        if ended.state == "succeeded":
            return ""
        return ended.error.message if ended.error is not None else f"it is {ended.state}"

    return attempt


WAITS = "it waits for the run before"
"""Reason of a task that waits for its turn."""

logger = logging.getLogger(__name__)


class JobRunner:
    """Executes the tasks of one daemon's jobs."""

    def __init__(self, writer: RecordWriter, endings: Endings, agents: Agents) -> None:
        self._writer = writer
        self._endings = endings
        self._agents = agents
        self._waiting: dict[str, deque[Entry]] = {}
        self._taken: set[WorkerSupervisor] = set()
        self._loop = asyncio.get_running_loop()

    def begin_at_once(self, entry: Entry) -> bool:
        """Begins a new task, before it is accepted, if a worker of its job is at rest; returns False if none is."""
        name = entry.task.agent
        supervisor = None if self._waiting.get(name) else self._free(name)
        if supervisor is None:
            return False
        self._begin(entry, supervisor)
        return True

    def enqueue(self, entry: Entry) -> None:
        """Begins a task as soon as its turn has come."""
        if entry.is_begun or entry.is_ending:
            return  # it was cancelled meanwhile
        name = entry.task.agent
        agent = self._agents.agents.get(name)
        if agent is None or agent.spec.type != "oneshot":
            self._endings.end_soon(entry, "failed", agent_gone(entry.task))
            return
        self._waiting.setdefault(name, deque()).append(entry)
        self._dispatch(name)
        if not entry.is_begun:
            entry.task = replace(entry.task, reason=WAITS)
            entry.notify()

    def worker_changed(self, supervisor: WorkerSupervisor) -> None:
        """Begins the next task of a job whose worker may be at rest."""
        if supervisor.worker.spec.type == "oneshot":
            self._dispatch(supervisor.worker.spec.name)

    def _dispatch(self, name: str) -> None:
        waiting = self._waiting.get(name)
        while waiting:
            entry = waiting[0]
            if entry.is_begun or entry.is_ending or entry.ended.is_set():
                waiting.popleft()  # it was cancelled meanwhile
                continue
            supervisor = self._free(name)
            if supervisor is None:
                return
            waiting.popleft()
            self._begin(entry, supervisor)
        self._waiting.pop(name, None)

    def _free(self, name: str) -> WorkerSupervisor | None:
        agent = self._agents.agents.get(name)
        if agent is None or self._agents.draining:
            return None
        idle = (k for k in agent.supervisors if k not in self._taken and not k.takes_room)
        return next(idle, None)

    def _begin(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        self._taken.add(supervisor)
        entry.stop = self._loop.create_future()
        self._endings.keep(self._run(entry, supervisor, entry.stop))

    async def _run(self, entry: Entry, supervisor: WorkerSupervisor, stop: asyncio.Future[CorralError]) -> None:
        task = entry.task
        started = begun(task, supervisor.id)
        try:
            written = self._writer.save(entry, started)
            if written is not None:
                await written
        except CorralError as error:
            self._release(supervisor)
            if await self._endings.take_back(entry, error):
                self._loop.call_later(RETRY_AFTER_S, self.enqueue, entry)
            return
        self._writer.start(entry, started)
        try:
            await self._perform(entry, supervisor, stop)
        except Exception as error:  # a defect of ours must not keep the task, or block its callers
            logger.exception("cannot perform task %s", task.id)
            defect = InternalError(f'cannot perform task "{task.id}": {error!r}'[:1000])
            await self._endings.end(entry, "failed", defect)
        finally:
            self._release(supervisor)

    def _release(self, supervisor: WorkerSupervisor) -> None:
        self._taken.discard(supervisor)
        self._dispatch(supervisor.spec.name)

    async def _perform(self, entry: Entry, supervisor: WorkerSupervisor, stop: asyncio.Future[CorralError]) -> None:
        task, before = entry.task, supervisor.worker.incarnation
        limit_s = task.boundaries.timeout_s
        work = self._loop.create_task(self._agents.operations.restart([supervisor]))
        ends: set[asyncio.Future[Any]] = {work, stop}  # of different results
        await asyncio.wait(ends, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            supervisor.job.cancel()
            supervisor.send(state_machine.Stop(reason="its task has ended"))
            await supervisor.until(has_ended(supervisor.worker.incarnation))
        if stop.done():
            await self._endings.end(entry, state_of(stop.result()), stop.result())
        elif work.cancelled():
            late = Timeout(f'cannot finish task "{task.id}" within {limit_s:g} s', limit="timeout_s", value=limit_s)
            await self._endings.end(entry, "timeout", late)
        else:
            state, error = _outcome(task, supervisor, before, work.exception())
            output = {"code": 0, "incarnation": supervisor.worker.incarnation}
            await self._endings.end(entry, state, error, output=None if error else output)


def _outcome(
    task: Task, supervisor: WorkerSupervisor, before: int, error: BaseException | None
) -> tuple[TaskState, CorralError | None]:
    """Returns how the run of a task has ended; `before` is the number of the worker's life before it."""
    if error is None:
        return "succeeded", None
    if not isinstance(error, CorralError):
        raise error
    last, number = supervisor.worker.last_exit, supervisor.worker.incarnation
    if last is None or number == before:
        return "failed", error  # it could not be started
    facts: dict[str, object] = {
        "worker": supervisor.id,
        "incarnation": number,
        "result": last.result,
        "code": last.code,
        "signal": last.signal,
    }
    text = f'cannot finish task "{task.id}": {last.message}'
    if last.result == job.LATE:
        return "timeout", Timeout(text, **facts)
    if last.result in ASKED_FOR:
        return "cancelled", Cancelled(text, **facts)
    return "failed", WorkerFailed(text, **facts)
