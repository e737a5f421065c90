"""Runs one attempt of a task on one worker, from the request to its outcome.

Distinguishes the outcomes that the record and the retry depend on: an answer, an error that the agent
returned, the death of the worker (with the reason of its exit), a stop on request, a timeout.
Writes no record; replaces a worker that does not let go of a task that is over.
"""

import asyncio
import contextlib
import heapq
import math
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, State
from corral.supervisor.workers.supervision.line import DRAIN_S
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.channel import Call, Channel
from corral.worker.contract.errors import (
    Cancelled,
    CorralError,
    InternalError,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
    Timeout,
    WorkerFailed,
    of_agent,
)
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.records import Task, TaskState, copied
from corral.worker.contract.worker_messages import TaskResult

from ..rules.boundaries import Limits
from ..rules.payload import check_agent_output, check_result

ALARMS_SLACK = 64
"""Number of cancelled alarms that are kept, beside as many as are set."""


class Succeeded(NamedTuple):
    """Represents an answer of the agent."""

    result: TaskResult


class Failed(NamedTuple):
    """Represents a failure.

    `died`: by the death of the worker, or of the service behind a webhook or A2A (`remote`); `put_down`: because the worker
    was asked to stop.
    """

    error: CorralError
    died: bool
    put_down: bool
    remote: bool = False


class BrokenOff(NamedTuple):
    """Represents the end of an attempt for the record, whatever the worker still does: see `let_go`."""

    state: TaskState
    error: CorralError


Outcome = Succeeded | Failed | BrokenOff


class AttemptHandover(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: the id of the request to the worker, and the clocks of the task."""

    request: str | int
    begun: float
    beat_at: float
    asked_s: float


class Attempt:
    """Runs one attempt."""

    def __init__(
        self,
        task: Task,
        limits: Limits,
        words: int,
        supervisor: WorkerSupervisor,
        stop: asyncio.Future[CorralError],
        alarms: "Alarms",
        traceparent: str | None = None,
    ) -> None:
        self._task = task
        self._traceparent = traceparent
        self._limits = limits
        self._words = words
        self.supervisor = supervisor
        self._stop = stop
        self._alarms = alarms
        self._incarnation = supervisor.worker.incarnation
        self.is_again = False
        """True if there was one before, which may have left a checkpoint."""
        self._loop = alarms.loop
        self._beat_at = self._loop.time()
        self._begun: float | None = None
        """Since when its time counts, less the pauses before; None before it is sent."""
        self._call: Call | None = None
        self._channel: Channel | None = None
        self._answer = _Answer(loop=self._loop)
        self._questions: list[str] = []
        self._asked_at = 0.0
        self._asked_s = 0.0  # in which a question was open, up to the last answer
        self._all_answered: asyncio.Event | None = None  # there while a question is open

    # -- from one program of the daemon to the next

    @property
    def is_carried(self) -> bool:
        """Returns whether another program can go on with it: its worker has the task, and nothing has ended it."""
        is_open = not self._answer.done() and not self._stop.done()
        return self._call is not None and self._begun is not None and is_open

    def hand_over(self) -> AttemptHandover:
        """Returns what the next program goes on from."""
        assert self._call is not None, "it is carried"
        assert self._begun is not None, "it is carried"
        now = self._loop.time()
        asks, asked_s = bool(self._questions), self._asked_s
        return AttemptHandover(
            request=self._call.id,
            begun=self._begun,
            beat_at=now if asks else self._beat_at,
            asked_s=asked_s + now - self._asked_at if asks else asked_s,
        )

    def take_up(self, left: AttemptHandover, answer: asyncio.Future[object]) -> None:
        """Goes on from what the program before has left: the worker is sent nothing."""
        self._channel = self.supervisor.channel
        self._call = Call(left.request, self._answer)
        self._begun, self._beat_at, self._asked_s = left.begun, left.beat_at, left.asked_s
        answer.add_done_callback(self._answer.follow)

    @property
    def is_handed_over(self) -> bool:
        """Returns True if its worker has been sent the task."""
        return self._call is not None

    @property
    def asks(self) -> str:
        """Returns the question that has been open the longest; empty while there is none."""
        return self._questions[0] if self._questions else ""

    def beat(self) -> None:
        """Restarts stall_timeout: the handler has shown a sign of life."""
        self._beat_at = self._loop.time()

    @contextlib.contextmanager
    def question(self, text: str) -> Iterator[None]:
        """Stops both clocks while a question of the task is open: a person takes the time that it takes."""
        if not self._questions:
            self._asked_at = self._loop.time()
            self._all_answered = asyncio.Event()
        self._questions.append(text)
        try:
            yield
        finally:
            self._questions.remove(text)
            if not self._questions:
                self._asked_s += self._loop.time() - self._asked_at
                self.beat()
                assert self._all_answered is not None, "it is there while a question is open"
                self._all_answered.set()
                self._all_answered = None

    async def outcome(self, more: Mapping[str, object]) -> Outcome:
        """Returns the outcome; `more` is sent to the worker too: the checkpoint of an earlier attempt, the session."""
        if self._call is None:
            if not self._can_begin:
                # While the attempt was written, the worker was replaced, or cordoned.
                return Failed(self._not_begun(), died=False, put_down=True)
            try:
                connected = self.supervisor.channel
                await connected.drain()
                self._hand_over(connected, more)
            except CorralError as error:
                return await self._failed(error, died=isinstance(error, WorkerFailed))
        call, channel = self._call, self._channel
        assert call is not None, "it was handed over"
        assert channel is not None, "it was handed over"
        late = await self._until_over(call)
        if not call.answer.done() and not self._stop.done() and late is None:
            stall_s = self.supervisor.worker.spec.monitoring.stall_timeout
            reason = f'its task "{self._task.id}" has shown no sign of life for {stall_s:g} s'
            self.supervisor.send(state_machine.Replace("hung", reason))
            await asyncio.wait({call.answer})  # its death ends the call, at the latest
        if call.answer.done():
            return await self._answered(channel, call.answer)
        if self._stop.done():
            over = BrokenOff(state_of(self._stop.result()), self._stop.result())
        else:
            assert late is not None, "what is not answered and not stopped is late"
            over = BrokenOff("timeout", late)
        channel.withdraw(call, over.error.message)
        return over

    def try_at_once(self) -> None:
        """Sends the task to the worker in this turn of the loop, if that needs no waiting; else `outcome` does."""
        if self._can_begin and (channel := self.supervisor.channel).can_send:
            with contextlib.suppress(CorralError):  # `outcome` meets it, too
                self._hand_over(channel, {})

    def withdraw(self, reason: str) -> None:
        """Cancels the request, where the worker has been sent it and has not answered."""
        if self._call is not None and self._channel is not None and not self._answer.done():
            self._channel.withdraw(self._call, reason)

    @property
    def _can_begin(self) -> bool:
        supervisor = self.supervisor
        return supervisor.worker.incarnation == self._incarnation and supervisor.takes_tasks

    def _hand_over(self, channel: Channel, more: Mapping[str, object]) -> None:
        params = self._params()
        if more:
            params |= more
        self._call = channel.start("task/run", params, timeout_s=None, answer=self._answer)
        self._channel = channel

    async def let_go(self, state: TaskState) -> None:
        """Gives the worker cancel_grace to let go of the task after BrokenOff, and replaces it if it does not."""
        call = self._call
        assert call is not None, "what is broken off had begun"
        grace_s = self.supervisor.worker.spec.tasks.cancel_grace
        call.answer.add_done_callback(_retrieve)  # the record is closed in any case
        await asyncio.wait({call.answer}, timeout=grace_s)
        while not call.answer.done() and self._is_paused:
            await self._until_resumed({call.answer})
            await asyncio.wait({call.answer}, timeout=grace_s)
        if not call.answer.done() and self.supervisor.worker.incarnation == self._incarnation:
            reason = f'held on to task "{self._task.id}" for {grace_s:g} s after its {state}'
            self.supervisor.send(state_machine.Replace("task-timeout", reason))

    def _not_begun(self) -> WorkerFailed:
        worker = self.supervisor.worker
        state = "paused" if worker.paused_at is not None else str(worker.state)
        return WorkerFailed(f'cannot begin task "{self._task.id}": worker "{worker.id}" is {state}', worker=worker.id)

    def _params(self) -> dict[str, object]:
        task = self._task
        allowed = self._limits.allowed_tools
        params: dict[str, object] = {
            "task": task.id,
            "attempt": task.attempt,
            "delivery": task.delivery,
            "objective": task.objective,
            "input": task.input,
            "context": task.context,
            "boundaries": {
                "timeout_s": self._limits.timeout_s,
                "max_tool_calls": self._limits.max_tool_calls,
                "allowed_tools": None if allowed is None else list(allowed),
                "constraints": task.boundaries.constraints,
                "scope": task.boundaries.scope,
                "max_tokens": task.boundaries.max_tokens,
                "max_cost_cents": task.boundaries.max_cost_cents,
            },
        }
        if task.output_format is not None:
            params["output_format"] = msgspec.to_builtins(task.output_format)
        if self._traceparent is not None:
            params["traceparent"] = self._traceparent
        return params

    async def _until_over(self, call: Call) -> Timeout | None:
        """Waits for the answer, a cancel, the timeout (which is returned), or a stall of the handler.

        Neither clock runs while the worker is paused, or a question of the task is open.
        """
        limit_s = self._limits.timeout_s
        stall_s = self.supervisor.worker.spec.monitoring.stall_timeout
        if self._begun is None:
            self._beat_at = self._loop.time()
            self._begun = self._beat_at - self.supervisor.worker.frozen_s(self._beat_at)
        begun = self._begun
        while True:
            due = begun + limit_s + self._still_s(self._loop.time())
            if stall_s > 0:
                due = min(due, self._alive_at() + stall_s)
            if await self._is_ended_before(due, call):
                return None
            if self._is_paused:
                await self._until_resumed({call.answer, self._stop})
                continue
            if self._all_answered is not None:
                await _first_of({call.answer, self._stop}, self._all_answered.wait())
                continue
            now = self._loop.time()
            if now >= begun + limit_s + self._still_s(now):
                text = f'cannot finish task "{self._task.id}" within {limit_s:g} s'
                return Timeout(text, limit="timeout_s", value=limit_s, worker=self._task.worker)
            if stall_s > 0 and now >= self._alive_at() + stall_s:
                return None

    async def _is_ended_before(self, due: float, call: Call) -> bool:
        """Waits for the answer or a cancel; False when neither has come until then.

        Not by asyncio.wait, which takes three times as long, for every task.
        """
        if call.answer.done() or self._stop.done():
            return True
        woken: asyncio.Future[bool] = self._loop.create_future()

        def wake(_: object) -> None:
            if not woken.done():
                woken.set_result(True)

        self._answer.waiting = woken
        self._stop.add_done_callback(wake)
        alarm = self._alarms.set(due, woken)
        try:
            return await woken
        finally:
            self._answer.waiting = None
            self._stop.remove_done_callback(wake)
            self._alarms.cancel(alarm)

    @property
    def _is_paused(self) -> bool:
        worker = self.supervisor.worker
        return worker.paused_at is not None and worker.incarnation == self._incarnation

    def _still_s(self, now: float) -> float:
        asked_s = now - self._asked_at if self._questions else 0.0
        return self.supervisor.worker.frozen_s(now) + self._asked_s + asked_s

    async def _until_resumed(self, ends: set[asyncio.Future[Any]]) -> None:
        await _first_of(ends, self.supervisor.until(lambda _: not self._is_paused))

    def _alive_at(self) -> float:
        return max(self._beat_at, self.supervisor.worker.resumed_at, self.supervisor.shared.stall_clock.floor())

    async def _answered(self, channel: Channel, answer: asyncio.Future[object]) -> Outcome:
        error = answer.exception()
        if error is None:
            try:
                return Succeeded(self._checked(answer.result()))
            except CorralError as misfit:
                return Failed(misfit, died=False, put_down=False)
        if not isinstance(error, CorralError):
            error = InternalError(f'cannot read the end of task "{self._task.id}": {error!r}')
        else:
            error = of_agent(error)
        is_remote = self.supervisor.spec.protocol in ("webhook", "a2a") and isinstance(error, WorkerFailed)
        if is_remote and not channel.is_closed:
            return Failed(error, died=True, put_down=False, remote=True)
        # An agent may return any error, as of a task that it delegated: that is not its own death.
        died = channel.is_closed and isinstance(error, WorkerFailed | Overloaded)
        return await self._failed(error, died=died)

    async def _failed(self, error: CorralError, *, died: bool) -> Failed:
        if died:
            error = await self._cause_of_death(error)
        worker = self.supervisor.worker
        # Its last message may be read when it has ended, and the next incarnation is starting: then the exit alone knows why.
        ends = [last.result for number, last in self.supervisor.exits if number == self._incarnation]
        leaving = worker.state is State.SHUTTING_DOWN or died or bool(ends)
        reasons = {worker.cause, str(error.data.get("result")) if died else "", *ends}
        asked = leaving and not reasons.isdisjoint(ASKED_FOR)
        return Failed(error, died, asked and (died or isinstance(error, Cancelled | ShuttingDown)))

    async def _cause_of_death(self, error: CorralError) -> CorralError:
        """Returns the reason of the exit, which is often reported after the pipe was closed; it is the better one."""
        supervisor, incarnation = self.supervisor, self._incarnation
        try:
            async with asyncio.timeout(DRAIN_S):
                await supervisor.until(lambda w: w.incarnation != incarnation or w.pid is None)
        except TimeoutError:
            return error  # it closed its pipe and lives
        last = next((last for number, last in supervisor.exits if number == incarnation), None)
        if last is None:
            return error
        text = f'cannot go on with worker "{supervisor.id}": {last.message}'
        facts = {"worker": supervisor.id, "agent": self._task.agent, "task": self._task.id}
        return WorkerFailed(text, **facts, **copied(last, "result code signal"))

    def _checked(self, answer: object) -> TaskResult:
        task = self._task
        try:
            result = msgspec.convert(answer, TaskResult)
        except msgspec.ValidationError as error:
            text = f'cannot read the result of task "{task.id}": {misfit_of(error, answer, TaskResult).words}'
            raise WorkerFailed(text, worker=task.worker, result="exited") from error
        limit_bytes = self.supervisor.worker.spec.resources.max_output_size_bytes
        check_result(task, result.output, self._words, limit_bytes)
        check_agent_output(task, self.supervisor.spec.output_schema, result.output)
        return result


async def _first_of(ends: set[asyncio.Future[Any]], other: Coroutine[Any, Any, object]) -> None:
    """Waits for one of `ends`, or for `other`, which is cancelled where it is not the first."""
    waiting = asyncio.ensure_future(other)
    try:
        await asyncio.wait({*ends, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


class _Answer(asyncio.Future[object]):
    """Represents the answer of a worker; its waiter goes on in the next turn of the loop, and not in the one after."""

    waiting: asyncio.Future[bool] | None = None

    def set_result(self, result: object, /) -> None:
        super().set_result(result)
        self._wake()

    def set_exception(self, exception: type | BaseException, /) -> None:
        super().set_exception(exception)
        self.exception()  # counts as read: an attempt that has ended otherwise asks no more, and that is no fault
        self._wake()

    def follow(self, other: asyncio.Future[object]) -> None:
        """Ends as another future has ended."""
        if (error := other.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(other.result())

    def _wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(True)


class Alarm:
    """Represents a time at which a future ends with False, unless it has ended by then."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[bool]) -> None:
        self.future: asyncio.Future[bool] | None = future


class Alarms:
    """Holds the deadlines of all attempts on one timer of the loop: nearly all are cancelled long before they come."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Alarm]] = []
        self._arrivals = 0
        self._standing = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf

    def set(self, at: float, future: asyncio.Future[bool]) -> Alarm:
        """Ends a future with False at a time of the loop's clock."""
        alarm = Alarm(future)
        self._arrivals += 1
        self._standing += 1
        heapq.heappush(self._heap, (at, self._arrivals, alarm))
        if at < self._armed_for:
            self._arm(at)
        return alarm

    def __len__(self) -> int:
        """Returns the number of alarms, with the cancelled ones."""
        return len(self._heap)

    def cancel(self, alarm: Alarm) -> None:
        """Cancels an alarm; harmless for one that has rung."""
        if alarm.future is None:
            return
        alarm.future = None
        self._standing -= 1
        if len(self._heap) > 2 * self._standing + ALARMS_SLACK:
            self._heap = [each for each in self._heap if each[2].future is not None]
            heapq.heapify(self._heap)

    def hold(self) -> None:
        """Lets none ring, until `release`."""
        self.close()
        self._armed_for = -math.inf

    def release(self) -> None:
        """Lets them ring again, those that are late at once."""
        self._armed_for = math.inf
        if self._heap:
            self._arm(self._heap[0][0])

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = at
        self._timer = self.loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._armed_for = None, math.inf
        now = self.loop.time()
        while self._heap:
            at, _, alarm = self._heap[0]
            if alarm.future is not None and at > now:
                self._arm(at)
                return
            heapq.heappop(self._heap)
            future = alarm.future
            self.cancel(alarm)
            if future is not None and not future.done():
                future.set_result(False)

    def close(self) -> None:
        """Cancels the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def given_up(task: Task, error: CorralError) -> CorralError:
    """Returns the error of a task that is not tried again after the death of its worker, or of the daemon."""
    worker = error.data.get("worker")
    why = error.message.removeprefix(f'cannot go on with worker "{worker}": ')
    cause = why if why == error.message else f'worker "{worker}" ended: {why}'
    times = "1 attempt" if task.attempt == 1 else f"{task.attempt} attempts"
    text = f'cannot finish task "{task.id}" after {times}: {cause}; corral show {task.agent}'
    return WorkerFailed(text, **{**error.data, "task": task.id, "attempts": task.attempt})


def state_of(stopped: CorralError) -> TaskState:
    """Returns the state of a task that was stopped with this error: by a caller, a limit of its own, or its deadline."""
    if isinstance(stopped, Timeout):
        return "timeout"
    return "failed" if is_breach(stopped) else "cancelled"


def is_breach(stopped: CorralError) -> bool:
    """Returns True if a limit stopped the task: then no answer counts any more."""
    return isinstance(stopped, ResourceLimitExceeded)


def _retrieve(answer: asyncio.Future[object]) -> None:
    """Retrieves the exception of an answer without a waiter, which asyncio would log."""
    if not answer.cancelled():
        answer.exception()
