"""Assigns the processes of one MCP server to requests, and admits calls to each: performs the decisions of `placement`.

A process is started, added or restarted where a decision requires it. At one, calls run in order of arrival: several
shared ones or one exclusive one. Waiting is bounded in number and in time. It must not know the requests themselves.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from corral.worker.contract.errors import CorralError, Overloaded, SpawnFailed, Timeout, ToolFailed

from ..protocol.messages import Tool
from ..upstream.session import Session
from .backend import Backend, Process
from .placement import Allowance, Decision, Grow, Phase, Place, Renew, Use, allow, choose, gained

MAX_WAITING = 1_000
"""Number of calls that wait at one process."""


class _Entry(NamedTuple):
    ready: asyncio.Future[None]
    shared: bool


class Gate:
    """Represents the readers-writer lock of one process of the server `name`."""

    def __init__(self, name: str, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._queue: deque[_Entry] = deque()
        self._sharing = 0
        self._is_exclusive = False

    @property
    def waiting(self) -> int:
        """Returns the number of waiting calls."""
        return len(self._queue)

    def is_free(self, shared: bool) -> bool:
        """Returns True if a call would be admitted at once."""
        return not (self._queue or self._is_exclusive) and (shared or self._sharing == 0)

    def enter(self, shared: bool) -> bool:
        """Enters if that is possible at once; returns False if not. `leave` is due after True."""
        if not self.is_free(shared):
            return False
        self._take(shared)
        return True

    async def wait(self, shared: bool) -> None:
        """Waits until the call is admitted; `leave` is due afterwards, unless the wait was cancelled."""
        if len(self._queue) >= self._max_waiting:
            text = f'cannot queue a call of MCP server "{self._name}": {self._max_waiting} wait already'
            raise Overloaded(text, server=self._name, limit="queue", value=self._max_waiting, retry_after_s=1)
        turn = _Entry(asyncio.get_running_loop().create_future(), shared)
        self._queue.append(turn)
        self._admit()
        try:
            await turn.ready
        except asyncio.CancelledError:
            if turn.ready.done() and not turn.ready.cancelled():
                self.leave(shared)  # it was admitted in the same instant
            else:
                with suppress(ValueError):  # it may have been removed already
                    self._queue.remove(turn)
                self._admit()  # later shared calls may join those inside
            raise

    def leave(self, shared: bool) -> None:
        """Leaves after `enter` or `wait`, and admits waiting calls."""
        if shared:
            self._sharing -= 1
        else:
            self._is_exclusive = False
        if self._queue:
            self._admit()

    def _take(self, shared: bool) -> None:
        if shared:
            self._sharing += 1
        else:
            self._is_exclusive = True

    def _admit(self) -> None:
        while self._queue:
            shared = self._queue[0].shared
            if self._is_exclusive or not (shared or self._sharing == 0):
                return
            turn = self._queue.popleft()
            if not turn.ready.done():
                self._take(shared)
                turn.ready.set_result(None)


UNSENT_RETRIES = 2
"""Number of restarts for a call of a server that died before the call was sent."""


def may_retry(tool: Tool | None, error: ToolFailed, attempt: int, max_retries: int) -> bool:
    """Returns True if a call is retried after the attempt of this number, from 1, ended with `error`.

    Only after the loss of a server: any call if it was not sent, else those that are safe to repeat.
    """
    if error.data.get("lost") is not True:
        return False
    if error.data.get("sent") is False:
        return attempt <= max(UNSENT_RETRIES, max_retries)
    return (tool is None or tool.is_idempotent) and attempt <= max_retries


REST_S = 0.1
"""Seconds without a call after which a process counts as idle: noting every short pause would cost more than a call."""

BUSY_RETRY_S = 1.0
"""Seconds after which a caller that found no free process should retry."""

T = TypeVar("T")


class Slot:
    """Holds the pool's state of one process."""

    def __init__(self, process: Process, gate: Gate) -> None:
        self.process = process
        self.gate = gate
        self.in_flight = 0
        """Number of calls that run or wait here, and of subscriptions."""
        self.watching = 0
        """Number of subscriptions: they move to the next process, so that one which is held need not wait for them."""
        self.sharer: str | None = None
        self.leased_in = -1
        self.rested_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        """The timer that detects idleness; set from the first call until the process is noted as idle."""
        self._noted_in = -1

    def take(self) -> None:
        """Counts a request or subscription, and notes that the process is busy."""
        self.in_flight += 1
        if self._rest is None:
            # A starting process cannot be busy yet: it is noted again when it is up.
            self._noted_in = -1 if self.process.session is None else self.process.life
            self.process.note(is_busy=True)
            self._rest = self._loop.call_later(REST_S, self._check_idle)

    def changed(self) -> None:
        """Notes a new incarnation as busy, if it has taken over the work of the earlier one."""
        process = self.process
        if self.in_flight and process.life != self._noted_in and process.session is not None:
            self._noted_in = process.life
            process.note(is_busy=True)
            if self._rest is None:  # it was held, with subscriptions alone
                self._rest = self._loop.call_later(REST_S, self._check_idle)

    def release(self) -> None:
        """Counts the end of a request or subscription."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.rested_at = self._loop.time()

    def _check_idle(self) -> None:
        """Checks for idleness, with one timer for any number of calls: consecutive calls keep the process busy."""
        now = self._loop.time()
        is_held = self.watching > 0 and self.process.phase is Phase.HELD
        is_busy = self.in_flight > (self.watching if is_held else 0)
        due = now + REST_S if is_busy else self.rested_at + REST_S
        if due > now:
            self._rest = self._loop.call_at(due, self._check_idle)
        else:
            self._rest = None
            self.process.note(is_busy=False)

    @property
    def is_watched(self) -> bool:
        """Returns whether its process counts as busy, until it is noted as idle."""
        return self._rest is not None

    def close(self) -> None:
        """Cancels the timer: nothing is noted after this."""
        if self._rest is not None:
            self._rest.cancel()

    def place(self, is_shared: bool) -> Place:
        """Returns the input of `choose` for this process."""
        process = self.process
        return Place(
            phase=process.phase,
            load=self.in_flight,
            is_free=self.gate.is_free(is_shared),
            life=process.life,
            sharer=self.sharer,
            leased_in=self.leased_in,
            rested_at=self.rested_at,
        )


class _Turn(NamedTuple):
    ready: asyncio.Future[None]
    sharer: str | None


class Dispatcher:
    """Holds the processes of one server, its queue of callers, and its counters."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.calls = 0
        self.failures = 0
        self.retries = 0
        self.refused = 0
        self.allowance: Allowance | None = None
        self.is_refusing = False
        self.refreshed_at = float("-inf")
        self.waiting: deque[_Turn] = deque()
        self._slots: list[Slot] = []
        self._leaving: list[Slot] = []
        """Slots of processes that were replaced, and have calls to finish."""
        self._processes: Sequence[Process] = ()

    @property
    def slots(self) -> list[Slot]:
        """Returns one slot for each present process."""
        processes = self.backend.processes
        if processes is not self._processes:
            known = {id(slot.process): slot for slot in self._slots}
            self._slots = [known.get(id(process)) or Slot(process, Gate(self.backend.name)) for process in processes]
            gone = [slot for slot in known.values() if slot not in self._slots]
            # Its process is idle when its calls have ended, and may be waited for.
            self._leaving = [slot for slot in (*self._leaving, *gone) if slot.is_watched]
            self._processes = processes
        return self._slots

    def close(self) -> None:
        """Closes the slots: nothing is noted after this."""
        for slot in (*self._slots, *self._leaving):
            slot.close()

    def wake(self) -> None:
        """Makes the first waiting caller choose again."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.ready.done():
                turn.ready.set_result(None)
                return

    def _wake_all(self) -> None:
        for _ in range(len(self.waiting)):
            self.wake()

    def _wake_others(self, sharer: str | None) -> None:
        """Makes waiting callers of this sharer choose again: it has a process now, which they may use."""
        for turn in [each for each in self.waiting if each.sharer == sharer]:
            self.waiting.remove(turn)
            if not turn.ready.done():
                turn.ready.set_result(None)

    def pick(self, sharer: str | None, is_shared: bool) -> Slot | None:
        """Takes a process that is available at once and returns it; None if the request has to wait for one."""
        slots = self.slots
        if sharer is None and len(slots) == 1 and slots[0].process.phase is not Phase.HELD:
            slots[0].take()
            return slots[0]
        decision = self._decide(slots, sharer, is_shared)
        return self._use(slots, decision, sharer) if isinstance(decision, Use) else None

    def _decide(self, slots: Sequence[Slot], sharer: str | None, is_shared: bool) -> Decision:
        settings = self.backend.settings
        return choose(
            [slot.place(is_shared) for slot in slots],
            share=settings.share,
            sharer=sharer or "",
            spares=settings.spares,
            maximum=self.backend.max_processes,
        )

    def _use(self, slots: Sequence[Slot], decision: Use, sharer: str | None) -> Slot | None:
        if not slots:
            return None
        if decision.also is not None:
            slots[decision.also].process.start()
        slot = slots[decision.number]
        slot.sharer = sharer
        slot.take()
        if self.waiting:
            self._wake_others(sharer)
        return slot

    async def wait(self, sharer: str | None, is_shared: bool, deadline: float | None) -> Slot:
        """Takes a process that has to be added, renewed or waited for, and returns it."""
        backend = self.backend
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + backend.settings.request_timeout_s
        while True:
            backend.check()
            slots = self.slots
            decision = self._decide(slots, sharer, is_shared)
            if isinstance(decision, Use):
                slot = self._use(slots, decision, sharer)
                if slot is not None:
                    return slot
            elif isinstance(decision, Renew):
                return await self._renew(slots[decision.number], sharer, deadline)
            if isinstance(decision, Grow | Use):
                await within(deadline, backend.grow(), partial(all_in_use, backend.name))
            else:
                await self._wait_for_change(sharer, deadline)

    async def _renew(self, slot: Slot, sharer: str | None, deadline: float) -> Slot:
        earlier, slot.sharer = (slot.sharer, slot.leased_in), sharer
        slot.take()
        self._wake_others(sharer)
        try:
            await within(deadline, slot.process.renew(), partial(all_in_use, self.backend.name))
        except BaseException:
            # Other calls of this sharer may wait there, or were served by the new incarnation: it keeps the process then.
            if slot.in_flight == 1 and slot.leased_in == earlier[1]:
                slot.sharer = earlier[0]  # the earlier sharer's state may still be there
            self.release(slot)
            raise
        return slot

    def _none_free(self) -> Overloaded:
        name = self.backend.name
        if all(slot.process.phase is not Phase.HELD for slot in self.slots):
            return all_in_use(name)
        text = f'cannot call MCP server "{name}": its process is being replaced'
        return Overloaded(text, server=name, limit="replaced", retry_after_s=BUSY_RETRY_S)

    async def _wait_for_change(self, sharer: str | None, deadline: float) -> None:
        if len(self.waiting) >= MAX_WAITING:
            raise self._none_free()
        turn = _Turn(asyncio.get_running_loop().create_future(), sharer)
        self.waiting.append(turn)
        try:
            await within(deadline, turn.ready, self._none_free)
        except BaseException:
            if turn.ready.done() and not turn.ready.cancelled():
                self.wake()  # it became ready in the same instant
            else:
                with suppress(ValueError):  # it may have been removed already
                    self.waiting.remove(turn)
            raise

    def release(self, slot: Slot) -> None:
        """Releases a slot after a request, and wakes a waiting caller."""
        slot.release()
        if self.waiting and not slot.in_flight:
            self.wake()

    def end(self, sharer: str) -> None:
        """Ends the processes that serve or served this sharer in their present life, or start for it."""
        for slot in self.slots:
            process = slot.process
            has_served = slot.in_flight > 0 or slot.leased_in == process.life
            # One that comes up for a call that was given up has no owner, and nobody else asked for it.
            if slot.sharer == sharer and (has_served or process.phase is Phase.COMING):
                process.end()

    def changed(self) -> None:
        """Takes note that the state of a process has changed."""
        for slot in self.slots:
            slot.changed()
        self._wake_all()

    def check_rate(self) -> float:
        """Counts a request towards `max_calls_per_minute`; returns the seconds to wait if it exceeds the limit, else 0."""
        now = asyncio.get_running_loop().time()
        self.allowance, wait_s = allow(self.allowance, self.backend.settings.max_calls_per_minute, now)
        return wait_s

    @property
    def used(self) -> int:
        """Returns the number of requests that count towards `max_calls_per_minute` now."""
        limit = self.backend.settings.max_calls_per_minute
        if self.allowance is None or not limit:
            return 0
        return round(limit - gained(self.allowance, limit, asyncio.get_running_loop().time()))

    async def acquire(
        self, process: Process, deadline: float | None, late: Callable[[], CorralError] | None = None
    ) -> Session:
        """Returns a session with a process, after starting it if needed; a long backoff is not waited for.

        At the deadline the cause of the failed start, if known, is raised in place of the timeout.
        """
        self.backend.check()
        limit_s = self.backend.settings.request_timeout_s
        if deadline is None and is_backing_off(process):
            deadline = asyncio.get_running_loop().time() + limit_s
        if late is None:
            late = partial(too_late, self.backend.name, limit_s)
        return await within(deadline, process.acquire(), lambda: process.trouble() or late())


async def within(deadline: float | None, doing: Awaitable[T], late: Callable[[], CorralError]) -> T:
    """Awaits a result; raises the error `late` at the deadline, on the loop's clock."""
    if deadline is None:
        return await doing
    try:
        async with asyncio.timeout_at(deadline):
            return await doing
    except TimeoutError as error:
        raise late() from error


def is_backing_off(process: Process) -> bool:
    """Returns True if the process has failed and waits for its next start."""
    return process.phase is Phase.COMING and isinstance(process.trouble(), SpawnFailed)


def too_late(name: str, limit_s: float) -> Timeout:
    """Returns the error of a wait that exceeded its limit."""
    return Timeout(f'cannot wait for "{name}" longer than {limit_s:g} s', tool=name, timeout_s=limit_s)


def all_in_use(server: str) -> Overloaded:
    """Returns the error of a request that got no process."""
    text = f'cannot call MCP server "{server}": all of its processes are in use by others'
    return Overloaded(text, server=server, limit="instances", retry_after_s=BUSY_RETRY_S)
