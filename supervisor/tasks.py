"""Tasks: acknowledged, queued, given to one worker at a time, ended once in the record.

A task is committed before it is acknowledged, an attempt before it is dispatched, an end before it is
told. In between the record is in memory, and the store has what a new daemon needs to go on.
Which task is next, on which worker, and what follows a failed attempt is decided in `schedule`.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime

from msgspec.structs import replace

from ..worker.errors import (
    Cancelled,
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
    Timeout,
    WorkerFailed,
)
from ..worker.schema import (
    Error,
    Task,
    TaskParams,
    TaskState,
)
from ..worker.wire import MAX_MESSAGE_BYTES
from .agents import Agents
from .attempt import RECORD_MARGIN_BYTES, Attempt, BrokenOff, Failed, Succeeded, words_bytes
from .backlog import Backlog, Entry, Progress
from .crew import Agent
from .keeper import Keeper, Shared, utc_now
from .lifecycle import State
from .records import Records
from .schedule import (
    Attempted,
    Limits,
    Load,
    Slot,
    can_ever_run,
    choose,
    has_capability,
    limits,
    retries,
    retry_delay_s,
    route,
)

CLOSE_S = 10.0
"""How long what is still being written down is waited for at the end."""

HALT_S = 10.0
"""How long an emergency stop waits for its ends to be written down."""

RETRY_AFTER_S = 1.0

REASON_CHARS = 1_000
"""Of an error's message in an event; the task's record has it whole."""

logger = logging.getLogger(__name__)


class Tasks:
    """The tasks of one daemon."""

    def __init__(self, shared: Shared, agents: Agents) -> None:
        self.shared = shared
        self.agents = agents
        self.counts: dict[str, int] = {"succeeded": 0, "failed": 0, "cancelled": 0, "timeout": 0}
        self._records = Records(shared.store)
        self._backlog = Backlog()
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # -- from an earlier daemon

    async def load(self) -> None:
        """Takes up what an earlier daemon left: queued tasks wait on, begun ones follow retry_on."""
        self.counts |= await self._records.counts()
        for task, created in await self._records.unfinished():
            await self._take_up(task, created)

    async def _take_up(self, task: Task, created: float) -> None:
        agent = self.agents.agents.get(task.agent)
        if agent is None:
            entry = Entry(task, created, _NO_LIMITS)
            await self._end(entry, "failed", error=_gone(task))
            return
        entry = Entry(task, created, limits(task.boundaries, agent.spec.resources))
        self._backlog.add(entry)
        if self.agents.brake is not None:
            halted = Cancelled(f'cannot finish task "{task.id}": an emergency stop')
            await self._end(entry, "cancelled", error=halted)
            return
        if task.parent is not None:  # whoever delegated it begins again, and delegates again
            reason = "the daemon died while another task waited for it"
            orphaned = Cancelled(f'cannot finish task "{task.id}": {reason}', reason=reason)
            await self._end(entry, "cancelled", error=orphaned)
            return
        if task.state == "running":
            ended = Attempted(died=True)
            if not retries(agent.spec.tasks, task.attempt, ended):
                gone = WorkerFailed(
                    f'cannot finish task "{task.id}": the daemon died while it ran',
                    worker=task.worker,
                    result="daemon-gone",
                )
                await self._end(entry, "failed", error=gone)
                return
            again = replace(task, state="queued", worker=None, reason="the daemon died")
            self._backlog.put(entry, again)
        self._enqueue(entry)

    # -- asking

    async def submit(self, params: TaskParams, *, parent: str | None = None) -> Task:
        """The acknowledged task: it is in the store.

        Raises:
            NotFound: no such agent, or none with the capability.
            Conflict: the agent is stopped, or speaks no protocol that takes tasks.
            Overloaded: its queue is full.
            ShuttingDown: the daemon is stopping.
        """
        if self.agents.draining:
            raise ShuttingDown("cannot take the task: the daemon is stopping")
        self.agents.check_brake("take the task")
        agent = self._addressee(params.agent, params.capability)
        self._check_takes_tasks(agent)
        boundaries = params.boundaries
        if params.timeout_s is not None:
            least = min(params.timeout_s, boundaries.timeout_s or params.timeout_s)
            boundaries = replace(boundaries, timeout_s=least)
        created = time.time()
        task = Task(
            id=secrets.token_hex(6),
            agent=agent.name,
            priority=params.priority or agent.spec.tasks.default_priority,
            objective=params.objective,
            input=params.input,
            context=params.context,
            boundaries=boundaries,
            created_at=utc_now(),
            parent=parent,
        )
        _check_size(task, agent)
        entry = Entry(task, created, limits(boundaries, agent.spec.resources))
        self._backlog.add(entry)
        # A caller who hangs up meanwhile does not take back what the store may have already.
        await asyncio.shield(self._keep(self._accept(entry, agent)))
        return entry.task

    async def _accept(self, entry: Entry, agent: Agent) -> None:
        try:
            await self._save(entry, entry.task)
        except BaseException:
            self._backlog.drop(entry)
            raise
        task = entry.task
        self._publish("task.queued", task, priority=task.priority, parent=task.parent)
        if agent.spec.tasks.queue_timeout > 0:
            self._loop.call_later(agent.spec.tasks.queue_timeout, self._leave_queue, entry)
        self._enqueue(entry)

    def _leave_queue(self, entry: Entry) -> None:
        """A task that no worker took within queue_timeout ends as timeout."""
        if entry.task.attempt == 0 and entry.task.state == "queued" and entry.stop is None:
            late = Timeout(
                f'cannot start task "{entry.task.id}" within queue_timeout', limit="queue_timeout"
            )
            self._keep(self._end(entry, "timeout", error=late))

    def _keep(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Goes on with something whose end `close` waits for."""
        task = self._loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _addressee(self, name: str | None, capability: str | None) -> Agent:
        if (name is None) == (capability is None):
            raise InvalidParams(
                "cannot tell whom the task is for: give agent or capability", key="agent"
            )
        if name is not None:
            return self.agents.of(name)
        assert capability is not None, "one of the two is given"
        able = [
            agent
            for agent in self.agents.agents.values()
            if agent.spec.protocol == "corral" and agent.wanted and _offers(agent, capability)
        ]
        loads = [Load(a.name, self._free(a.name), self.queued(a.name)) for a in able]
        chosen = route(loads)
        if chosen is None:
            raise NotFound(
                f'cannot find an agent with capability "{capability}" that is up',
                capability=capability,
            )
        return self.agents.of(chosen)

    def _check_takes_tasks(self, agent: Agent) -> None:
        name = agent.name
        if agent.spec.protocol != "corral":
            raise Conflict(
                f'cannot run a task on "{name}": it speaks protocol "{agent.spec.protocol}", which has none',
                agent=name,
            )
        if not agent.wanted:
            raise Conflict(
                f'cannot run a task on "{name}": it is stopped; corral start {name}', agent=name
            )
        limit = agent.spec.tasks.max_queue_size
        if self.queued(name) >= limit:
            raise Overloaded(
                f'cannot queue a task for "{name}": {limit} are waiting',
                limit="max_queue_size",
                value=limit,
                retry_after_s=RETRY_AFTER_S,
            )

    def find(self, task_id: str) -> Task | None:
        """The record of a task that has not ended."""
        entry = self._backlog.find(task_id)
        return None if entry is None else entry.task

    async def show(self, task_id: str) -> Task:
        """The record of a task.

        Raises:
            NotFound: there is none, or it has expired.
        """
        task = self.find(task_id)
        if task is not None:
            return task
        task = await self._records.find(task_id)
        if task is None:
            raise NotFound(f'cannot find task "{task_id}"', task=task_id)
        return task

    async def list(self, agent: str | None, state: TaskState | None, limit: int) -> list[Task]:
        """Records, newest first; fewer than `limit` where they would not fit into one message."""
        stored = await self._records.newest(agent, state, limit)
        fresh = [self.find(task.id) or task for task in stored]
        return [task for task in fresh if state is None or task.state == state]

    async def wait(self, task_id: str, *, listener: Progress | None = None) -> Task:
        """The record of a task when it has ended; `listener` is told how it stands, and of each change.

        Raises:
            NotFound: there is no such task.
        """
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        if listener is not None:
            entry.listeners.append(listener)
            if entry.task.reason or entry.task.progress is not None:
                listener(entry.task)
        try:
            await entry.ended.wait()
        finally:
            if listener is not None:
                entry.listeners.remove(listener)
        return entry.task

    async def cancel(self, task_id: str, reason: str = "cancelled on request") -> Task:
        """Cancels a task and those that it delegated; one that has ended stays as it is.

        Raises:
            NotFound: there is no such task.
        """
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        error = Cancelled(f'cannot finish task "{task_id}": {reason}', reason=reason)
        if entry.stop is not None:
            if not entry.stop.done():
                entry.stop.set_result(error)
        else:
            self._keep(self._end(entry, "cancelled", error=error))  # also when the caller hangs up
        await entry.ended.wait()
        return entry.task

    def halt(self) -> tuple[str, ...]:
        """Cancels every task, as `halted` then waits for; nothing of them begins any more. Their ids."""
        reason = "an emergency stop"
        entries = tuple(self._backlog)
        for entry in entries:
            error = Cancelled(f'cannot finish task "{entry.task.id}": {reason}', reason=reason)
            if entry.stop is None:
                self._keep(self._end(entry, "cancelled", error=error))
            elif not entry.stop.done():
                entry.stop.set_result(error)
        return tuple(entry.task.id for entry in entries)

    async def halted(self, task_ids: Iterable[str]) -> None:
        """Waits until the ends of tasks are written down.

        Raises:
            Overloaded: the store does not take them now; it will, as soon as it can.
        """
        try:
            async with asyncio.timeout(HALT_S):
                for entry in filter(None, map(self._backlog.find, task_ids)):
                    await entry.ended.wait()
        except TimeoutError:
            text = "cannot write down the ends of all tasks yet: the store takes nothing now"
            raise Overloaded(text, retry_after_s=RETRY_AFTER_S) from None

    # -- the queue

    def queued(self, agent: str) -> int:
        """How many tasks wait for a worker of the agent."""
        return self._backlog.queued(agent)

    def totals(self) -> dict[str, int]:
        """How many tasks there are, by what became of them; a timeout is a failure."""
        return {
            "queued": self._backlog.count("queued"),
            "running": self._backlog.count("running"),
            "succeeded": self.counts["succeeded"],
            "failed": self.counts["failed"] + self.counts["timeout"],
        }

    def _enqueue(self, entry: Entry, delay_s: float = 0.0) -> None:
        if delay_s > 0:
            self._loop.call_later(delay_s, self._enqueue, entry)
            return
        if entry.task.state != "queued" or entry.is_ending:
            return  # it was cancelled while it waited for its next attempt
        if entry.task.agent not in self.agents.agents:
            self._keep(self._end(entry, "failed", error=_gone(entry.task)))
            return
        self._backlog.line_up(entry)
        self.dispatch(entry.task.agent)
        self.say_why(entry.task.agent)

    def abandon(self, name: str) -> None:
        """Ends what still waits for an agent that was removed."""
        for entry in self._backlog.of(name):
            if entry.task.state == "queued" and entry.stop is None:
                self._keep(self._end(entry, "failed", error=_gone(entry.task)))

    def say_why(self, name: str) -> None:
        """Tells waiting tasks that no worker takes them, when their agent has given up or is paused."""
        if not self._backlog.queued(name):
            return
        agent = self.agents.agents.get(name)
        reason = None if agent is None else _why_not(agent)
        if reason is None:
            return
        for entry in self._backlog.of(name):
            if entry.task.state == "queued" and entry.task.reason != reason:
                entry.task = replace(entry.task, reason=reason)
                self._tell(entry)

    def dispatch(self, name: str) -> None:
        """Gives waiting tasks to free workers of an agent."""
        agent = self.agents.agents.get(name)
        while agent is not None and not self.agents.draining:
            entry = self._backlog.first(name)
            worker_id = None if entry is None else choose(_slots(agent))
            if entry is None or worker_id is None:
                return
            self._backlog.take(entry)
            keeper = next(keeper for keeper in agent.keepers if keeper.id == worker_id)
            entry.stop = self._loop.create_future()
            keeper.begin(entry.task.id)
            self._keep(self._run(entry, agent, keeper))

    def _free(self, name: str) -> int:
        return sum(slot.capacity - slot.running for slot in _slots(self.agents.of(name)))

    # -- one attempt

    async def _run(self, entry: Entry, agent: Agent, keeper: Keeper) -> None:
        task_id = entry.task.id
        try:
            await self._attempt(entry, agent, keeper)
        except (
            CorralError
        ) as error:  # the store refuses: the task stays as it was, and is tried again
            logger.warning("cannot go on with task %s: %s", task_id, error)
            await self._try_later(entry, error)
        finally:
            keeper.end(task_id)
            self.dispatch(agent.name)

    async def _try_later(self, entry: Entry, error: CorralError) -> None:
        if entry.is_ending:
            return  # the daemon is stopping: the next one finds it as the store has it
        stop, entry.stop = entry.stop, None
        task = replace(entry.task, state="queued", worker=None, reason=error.message)
        self._backlog.put(entry, task)
        if stop is not None and stop.done():
            await self._end(entry, "cancelled", error=stop.result())
        else:
            self._enqueue(entry, RETRY_AFTER_S)

    async def _attempt(self, entry: Entry, agent: Agent, keeper: Keeper) -> None:
        assert entry.stop is not None, "dispatch made it"
        is_first = entry.task.started_at is None
        started = replace(
            entry.task,
            state="running",
            worker=keeper.id,
            attempt=entry.task.attempt + 1,
            started_at=utc_now(),
            finished_at=None,
            tool_calls=0,
            reason="",
        )
        attempt = Attempt(started, entry.limits, keeper, entry.stop)
        await self._save(entry, started)
        self._backlog.put(entry, started)
        entry.attempt = attempt
        self._publish("task.started", entry.task)
        self._tell(entry)
        checkpoint = {} if is_first else await self._records.checkpoint(started.id)
        outcome = await attempt.outcome(checkpoint)
        if isinstance(outcome, Succeeded):
            result = outcome.result
            self.used(entry, result.tokens_used, result.cost_cents)
            await self._end(entry, "succeeded", output=result.output)
        elif isinstance(outcome, BrokenOff):
            await self._end(entry, outcome.state, error=outcome.error)
            await attempt.let_go(outcome.state)
        else:
            await self._after_failure(entry, agent, outcome)

    async def _after_failure(self, entry: Entry, agent: Agent, failed: Failed) -> None:
        """Tried again, or failed."""
        task = entry.task
        if entry.stop is not None and entry.stop.done():
            await self._end(entry, "cancelled", error=entry.stop.result())
            return
        ended = Attempted(died=failed.died, counts=not failed.put_down)
        if not retries(agent.spec.tasks, task.attempt, ended):
            await self._end(entry, "failed", error=failed.error)
            return
        attempt = task.attempt - 1 if failed.put_down else task.attempt
        reason = failed.error.message
        again = replace(task, state="queued", worker=None, attempt=attempt, reason=reason)
        self._backlog.put(entry, again)
        entry.stop = None
        await self._save(entry, entry.task)
        self._publish("task.retried", task, reason=reason[:REASON_CHARS])
        self._tell(entry)
        # The first retry of a task whose worker died needs no wait: the worker's own start is one.
        first = failed.put_down or (failed.died and task.attempt == 1)
        delay_s = 0.0 if first else retry_delay_s(agent.spec.tasks, task.attempt, random.random())
        self._enqueue(entry, delay_s)

    async def _end(
        self,
        entry: Entry,
        state: TaskState,
        *,
        output: object = None,
        error: CorralError | None = None,
    ) -> None:
        if entry.is_ending:
            return
        entry.is_ending = True
        task = entry.task
        now = utc_now()
        ended = replace(
            task,
            state=state,
            output=output,
            error=None
            if error is None
            else Error(error.code, error.name, error.message, error.data),
            finished_at=now,
            duration_s=None if task.started_at is None else _seconds_between(task.started_at, now),
            reason="",
        )
        await self._save_end(entry, ended)
        self._backlog.drop(entry)
        entry.task = ended
        self.counts[state] += 1
        entry.ended.set()
        self._tell(entry)
        self._publish(
            "task.ended",
            ended,
            state=state,
            error=None if error is None else error.name,
            reason=None if error is None else error.message[:REASON_CHARS],
            duration_s=ended.duration_s,
            tool_calls=ended.tool_calls,
            tokens_used=ended.tokens_used,
            cost_cents=ended.cost_cents,
        )
        for child in task.children:
            if self._backlog.find(child) is not None:
                self._keep(self._cancel_child(child))

    async def _save_end(self, entry: Entry, ended: Task) -> None:
        """An end cannot be refused: it has happened. It is told when the store takes it."""
        while True:
            try:
                return await self._save(entry, ended)
            except Overloaded as error:
                if self.agents.draining:
                    raise
                logger.warning("cannot write down the end of task %s yet: %s", ended.id, error)
                await asyncio.sleep(RETRY_AFTER_S)

    async def _cancel_child(self, child: str) -> None:
        await self.cancel(child, "the task that delegated it has ended")

    # -- what a worker says about its task

    def task_of(self, keeper: Keeper, task_id: str | None) -> Entry | None:
        """The running task of a worker that a message is about; None when it is about none.

        Raises:
            NotFound: the worker does not run that task.
        """
        if task_id is None:
            if len(keeper.running) != 1:
                return None
            task_id = next(iter(keeper.running))
        entry = self._backlog.find(task_id)
        if entry is None or task_id not in keeper.running:
            raise NotFound(f'cannot find task "{task_id}" on worker "{keeper.id}"', task=task_id)
        return entry

    def progressed(self, entry: Entry, fraction: float, total: float | None, message: str) -> None:
        """Notes and tells how far a task has come."""
        self.beaten(entry)
        entry.task = replace(
            entry.task, progress=fraction, progress_total=total, progress_message=message[:1000]
        )
        self._publish(
            "task.progress",
            entry.task,
            store=False,
            progress=fraction,
            total=total,
            message=message[:1000],
        )
        self._tell(entry)

    def beaten(self, entry: Entry) -> None:
        """The handler of a task has shown a sign of life, which stall_timeout asks for."""
        if entry.attempt is not None:
            entry.attempt.beat()

    def used(self, entry: Entry, tokens: int, cost_cents: float) -> None:
        """Adds to what a task has used."""
        task = entry.task
        agent = self.agents.agents.get(task.agent)
        for keeper in agent.keepers if agent is not None else ():
            if keeper.id == task.worker:
                keeper.spend(tokens)
        entry.task = replace(
            task, tokens_used=task.tokens_used + tokens, cost_cents=task.cost_cents + cost_cents
        )

    def count_tool_call(self, entry: Entry) -> None:
        """Counts a tool call of a task.

        Raises:
            ResourceLimitExceeded: it would be one more than the task may make.
        """
        allowed = entry.limits.max_tool_calls
        if entry.task.tool_calls >= allowed:
            raise ResourceLimitExceeded(
                f'cannot call a tool in task "{entry.task.id}": it may make {allowed} calls',
                limit="max_tool_calls",
                value=allowed,
                task=entry.task.id,
            )
        entry.task = replace(entry.task, tool_calls=entry.task.tool_calls + 1)

    async def delegate(self, params: TaskParams, parent: Entry | None) -> Task:
        """The ended record of a task that a task asked for; cancelling the caller cancels it.

        Raises:
            Conflict: it could never run, since everybody who could run it waits for it.
        """
        if parent is not None:
            self._check_can_run(params, parent)
        child = await self.submit(params, parent=None if parent is None else parent.task.id)
        if parent is not None:
            parent.task = replace(parent.task, children=[*parent.task.children, child.id])
            parent.waits.append(child.id)
        try:
            return await self.wait(child.id)
        except asyncio.CancelledError:
            await self.cancel(child.id, "the worker that delegated it no longer waits")
            raise
        finally:
            if parent is not None:
                parent.waits.remove(child.id)

    def _check_can_run(self, params: TaskParams, parent: Entry) -> None:
        agent = self._addressee(params.agent, params.capability)
        possible = can_ever_run(
            agent.name,
            asking=parent.task.id,
            tasks={entry.task.id: entry.task for entry in self._backlog},
            waits={entry.task.id: entry.waits for entry in self._backlog},
            free=self._free,
        )
        if not possible:
            raise Conflict(
                f'cannot delegate to "{agent.name}": every worker of it waits for this task',
                agent=agent.name,
                task=parent.task.id,
            )

    # -- shared

    async def close(self) -> None:
        """Waits for attempts that are still being written down; their workers are gone."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSE_S)
            for each in late:
                each.cancel()

    def _tell(self, entry: Entry) -> None:
        for listener in tuple(entry.listeners):
            listener(entry.task)

    def _publish(self, what: str, task: Task, *, store: bool = True, **facts: object) -> None:
        self.shared.bus.publish(
            what,
            agent=task.agent,
            worker=task.worker,
            incarnation=None,
            store=store,
            task=task.id,
            attempt=task.attempt,
            **facts,
        )

    async def _save(self, entry: Entry, task: Task) -> None:
        await self._records.save(task, entry.created)


def _check_size(task: Task, agent: Agent) -> None:
    """Refuses what, together with its output, would be too long for a message to hold."""
    size = words_bytes(task)
    output = min(agent.spec.resources.max_output_size_bytes, MAX_MESSAGE_BYTES // 2)
    limit = MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - output
    if size > limit:
        raise ResourceLimitExceeded(
            f'cannot take a task for "{agent.name}": {size} bytes of objective, input and context are'
            f" more than {limit}",
            limit="message",
            value=size,
        )


def _gone(task: Task) -> NotFound:
    return NotFound(f'cannot run task "{task.id}": agent "{task.agent}" is gone', name=task.agent)


def _why_not(agent: Agent) -> str | None:
    """Why no worker of an agent takes a task, where that does not change by itself."""
    if agent.is_paused:
        return f"it is paused; corral resume {agent.name}"
    if any(keeper.is_out_of_tokens for keeper in agent.keepers) and not list(_slots(agent)):
        return "max_tokens_per_minute is used up: it waits for tokens"
    if agent.state is not State.TERMINATED:
        return None
    exits = [k.worker.last_exit for k in agent.keepers if k.worker.last_exit is not None]
    return f"no worker is up: {exits[0].message}" if exits else None


_NO_LIMITS = Limits(0.0, 0, None)


def _slots(agent: Agent) -> Iterable[Slot]:
    capacity = agent.spec.resources.max_concurrent_requests
    return [
        Slot(keeper.id, len(keeper.running), capacity, keeper.rested_at)
        for keeper in agent.keepers
        if keeper.takes_tasks and not keeper.is_out_of_tokens
    ]


def _offers(agent: Agent, capability: str) -> bool:
    announced: Sequence[str] = next((k.announced for k in agent.keepers if k.announced), ())
    return has_capability(agent.spec, announced, capability)


def _seconds_between(earlier: str, later: str) -> float:
    return round(
        (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds(), 3
    )
