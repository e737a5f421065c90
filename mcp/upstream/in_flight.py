"""Tracks the requests in flight on one connection, and routes the server's messages to their callers.

A server process is shared by independent callers. Progress is routed to its request by a token. Log messages and
requests of the server name no request: they are routed to a caller only while exactly one request is in flight. It
knows methods and callers, but must not know a connection.

A call in flight excuses the silence of a server; but calls to one that has proved silent excuse nothing, else a server
that no longer reads would look busy as long as it is called. It has proved silent when a call ended without an answer
and no message was received for `patience_s`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from corral.worker.contract.channel import Call
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CorralError, InvalidParams, MethodNotFound
from corral.worker.contract.jsonrpc import Request

from ..protocol.messages import RELAYED, Caller, Relay, read_progress

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Flight:
    """Represents one request; without `step_s`, progress does not extend its deadline."""

    __slots__ = ("asking", "call", "caller", "hard_at", "number", "step_s", "token")

    def __init__(self, token: int, number: int, caller: Caller, hard_at: float, step_s: float | None) -> None:
        self.token = token
        self.number = number
        self.caller = caller
        self.hard_at = hard_at
        self.step_s = step_s
        self.call: Call | None = None
        self.asking: set[asyncio.Task[object]] | None = None

    @property
    def is_answered(self) -> bool:
        """Returns True once its response has arrived, even if its caller has not resumed yet."""
        return self.call is not None and self.call.answer.done()

    @property
    def wants_progress(self) -> bool:
        """Returns True if the server should report progress: for the caller, or to extend the deadline."""
        return self.step_s is not None or self.caller.on_progress is not None


class Flights:
    """Holds the requests in flight on one connection."""

    def __init__(self, relays: frozenset[Relay], reschedule: Callable[[Call, float], None]) -> None:
        self._relays = relays
        self._reschedule = reschedule
        self._loop = asyncio.get_running_loop()
        self._flights: dict[object, Flight] = {}
        self.last_token = 0
        self.received_token = 0
        """The last token at the time of the last message, which cannot concern later requests."""

    def begin(self, number: int, caller: Caller, hard_at: float, step_s: float | None) -> Flight:
        """Registers a request that is about to be sent; `number` is an id of the owner's."""
        self.last_token = token = self.last_token + 1
        flight = self._flights[token] = Flight(token, number, caller, hard_at, step_s)
        return flight

    def end(self, flight: Flight) -> None:
        """Removes a request, and cancels the server's requests to its caller."""
        del self._flights[flight.token]
        if flight.asking is not None:
            for task in flight.asking:
                task.cancel("the request that it belongs to has ended")

    def progressed(self, params: Mapping[str, object]) -> None:
        """Routes a progress notification; late and unknown ones are dropped."""
        found = read_progress(params)
        if found is None:
            return
        token, progress = found
        flight = self._flights.get(token) if type(token) is int else None
        if flight is None or flight.is_answered:
            return
        if not flight.asking:
            self._prolong(flight)
        if flight.caller.on_progress is not None:
            _notify(flight.caller.on_progress, progress)

    def logged(self, params: Mapping[str, object]) -> None:
        """Routes a log message, if exactly one request is unanswered."""
        waiting = [flight for flight in self._flights.values() if not flight.is_answered]
        if len(waiting) == 1 and waiting[0].caller.on_message is not None:
            _notify(waiting[0].caller.on_message, params)

    async def ask(self, request: Request) -> object:
        """Passes a request of the server to the one caller that it concerns, and returns its response.

        Meanwhile the server need not report progress: the deadline of the caller's request is its maximum, which
        also bounds the response.
        """
        relay = RELAYED.get(request.method)
        if relay is None or relay not in self._relays:
            text = f'cannot serve "{request.method}": this client has not declared it'
            raise MethodNotFound(text, method=request.method, reason="not-declared")
        flight = self._concerned()
        if flight is None:
            text = f'cannot serve "{request.method}": {len(self._flights)} calls are under way, and it names none'
            raise MethodNotFound(text, method=request.method, reason="uncertain-caller")
        ask = flight.caller.ask
        if ask is None or as_object(flight.caller.capabilities.get(relay)) is None:
            text = f'cannot serve "{request.method}": its caller, {flight.caller.name or "corral"}, cannot be asked'
            raise MethodNotFound(text, method=request.method, reason="no-person")
        mode = request.params.get("mode", "form")
        if relay == "elicitation" and mode != "form":
            text = f"cannot ask in mode {mode!r}: this client has not declared it"
            raise InvalidParams(text, field="mode", value=mode)
        task = asyncio.current_task()
        assert task is not None, "a request is served in a task"
        if flight.asking is None:
            flight.asking = set()
        flight.asking.add(task)
        self._prolong(flight)
        try:
            return await ask(request.method, request.params)
        finally:
            flight.asking.discard(task)
            self._prolong(flight)

    def _concerned(self) -> Flight | None:
        """Returns the request that a message of the server concerns, if that is certain.

        Requests answered before the message are removed by now, because the loop resumes tasks in order; requests
        begun since then are excluded.
        """
        if len(self._flights) != 1:
            return None
        (flight,) = self._flights.values()
        return None if flight.is_answered or flight.token > self.received_token else flight

    def _prolong(self, flight: Flight) -> None:
        """Restarts the time limit of a request without progress; there is none while its caller is asked."""
        if flight.step_s is None or flight.call is None:
            return
        step_at = self._loop.time() + flight.step_s
        self._reschedule(flight.call, flight.hard_at if flight.asking else min(step_at, flight.hard_at))


def _notify(listener: Callable[[_T], None], value: _T) -> None:
    """Notifies a caller; a failure is logged, because the connection is shared with other callers."""
    try:
        listener(value)
    except CorralError as error:
        logger.warning("a caller was not notified of a message of an MCP server: %s", error)


class Liveness:
    """Tracks the messages and calls of one connection."""

    def __init__(self, patience_s: float) -> None:
        self.last_message_at = 0.0
        """Time of the last valid message."""
        self.rested_at = 0.0
        """Time at which the last excusing call ended."""
        self._patience_s = patience_s
        self._asked_at: float | None = None  # the first call since the last message
        self._in_flight = 0
        self._no_excuses: set[int] = set()  # the calls in flight that excuse nothing, usually none
        self._has_proved_silent = False
        self._last_call = 0

    @property
    def is_excused(self) -> bool:
        """Returns True if its silence is excused now."""
        return self._in_flight > len(self._no_excuses)

    def received(self, now: float) -> None:
        """Records a valid message, which proves it alive: every call in flight is an excuse again."""
        self.last_message_at = now
        self._asked_at = now if self._in_flight else None
        if self._has_proved_silent:
            self._has_proved_silent = False
            self._no_excuses.clear()

    def began(self, now: float) -> int:
        """Records a call and returns its number for `ended`."""
        self._last_call += 1
        self._in_flight += 1
        if self._asked_at is None:
            self._asked_at = now
        if self._has_proved_silent:
            self._no_excuses.add(self._last_call)
        return self._last_call

    def ended(self, call: int, now: float, *, is_answered: bool) -> None:
        """Records the end of a call; unanswered after a timeout or a cancellation."""
        self._in_flight -= 1
        asked_at = self._asked_at
        if not is_answered and asked_at is not None and now - asked_at >= self._patience_s:
            self._has_proved_silent = True
        if call in self._no_excuses:
            self._no_excuses.discard(call)
        elif self._in_flight == len(self._no_excuses):
            self.rested_at = now
