"""The requests of callers that are in flight on one connection, and what may be said and asked about them.

A server process is shared by callers who know nothing of each other. What it says of progress goes to the one request
that it is about, by a token of ours. What it logs or asks names no request: it goes to a caller only while exactly
one request is in flight, and to nobody else ever. It knows methods and callers, and no connection.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from ...worker.contract.channel import Call
from ...worker.contract.codec import as_object
from ...worker.contract.errors import CorralError, InvalidParams, MethodNotFound
from ...worker.contract.jsonrpc import Request
from ..protocol.caller import Caller
from ..protocol.messages import RELAYED, Relay, read_progress

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Flight:
    """One request; without `step_s`, progress gives it no more time than it has."""

    __slots__ = ("asking", "call", "caller", "hard_at", "number", "step_s", "token")

    def __init__(
        self, token: int, number: int, caller: Caller, hard_at: float, step_s: float | None
    ) -> None:
        self.token = token
        self.number = number
        self.caller = caller
        self.hard_at = hard_at
        self.step_s = step_s
        self.call: Call | None = None
        self.asking: set[asyncio.Task[object]] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether its answer is here, even if who waits for it has not been woken yet."""
        return self.call is not None and self.call.answer.done()

    @property
    def wants_progress(self) -> bool:
        """Whether the server shall report progress: for the caller, or for the time that it gives."""
        return self.step_s is not None or self.caller.on_progress is not None


class Flights:
    """All of them on one connection.

    Args:
        relays: what the server was told that it may ask for.
        reschedule: gives a request another deadline, on the loop's clock.
    """

    def __init__(self, relays: frozenset[Relay], reschedule: Callable[[Call, float], None]) -> None:
        self._relays = relays
        self._reschedule = reschedule
        self._loop = asyncio.get_running_loop()
        self._flights: dict[object, Flight] = {}
        self.last_token = 0
        self.heard_token = 0
        """The last one when a message came last: it cannot be about requests that were made since."""

    def begin(self, number: int, caller: Caller, hard_at: float, step_s: float | None) -> Flight:
        """A request that is about to be sent; `number` is its owner's."""
        self.last_token = token = self.last_token + 1
        flight = self._flights[token] = Flight(token, number, caller, hard_at, step_s)
        return flight

    def end(self, flight: Flight) -> None:
        """The request has ended, and with it whatever is asked of its caller."""
        del self._flights[flight.token]
        if flight.asking is not None:
            for task in flight.asking:
                task.cancel("the request that it belongs to has ended")

    def progressed(self, params: Mapping[str, object]) -> None:
        """Takes a progress notification; what is late, or about nothing, is dropped."""
        heard = read_progress(params)
        if heard is None:
            return
        token, progress = heard
        flight = self._flights.get(token) if type(token) is int else None
        if flight is None or flight.is_answered:
            return
        if not flight.asking:
            self._prolong(flight)
        if flight.caller.on_progress is not None:
            _tell(flight.caller.on_progress, progress)

    def told(self, params: Mapping[str, object]) -> None:
        """Takes a log message, which is a caller's if he is the only one who waits."""
        waiting = [flight for flight in self._flights.values() if not flight.is_answered]
        if len(waiting) == 1 and waiting[0].caller.on_message is not None:
            _tell(waiting[0].caller.on_message, params)

    async def ask(self, request: Request) -> object:
        """The answer of the one caller whom a question of the server can be for.

        While he is asked, the server is not expected to progress: his request has all the time it may take, and
        the question no more than that.

        Raises:
            MethodNotFound: nothing of the kind was declared, or it is not certain who is meant, or he cannot be asked.
            InvalidParams: it is to be asked in a way that was not declared.
            CorralError: what the caller raises.
        """
        relay = RELAYED.get(request.method)
        if relay is None or relay not in self._relays:
            text = f'cannot serve "{request.method}": this client has not declared it'
            raise MethodNotFound(text, method=request.method)
        flight = self._questioned()
        ask = None if flight is None else flight.caller.ask
        if (
            flight is None
            or ask is None
            or as_object(flight.caller.capabilities.get(relay)) is None
        ):
            text = f'cannot serve "{request.method}": there is nobody who can be asked'
            raise MethodNotFound(text, method=request.method)
        mode = request.params.get("mode", "form")
        if relay == "elicitation" and mode != "form":
            text = f"cannot ask in mode {mode!r}: this client has not declared it"
            raise InvalidParams(text, field="mode", value=mode)
        task = asyncio.current_task()
        assert task is not None, "questions are answered in tasks"
        if flight.asking is None:
            flight.asking = set()
        flight.asking.add(task)
        self._prolong(flight)
        try:
            return await ask(request.method, request.params)
        finally:
            flight.asking.discard(task)
            self._prolong(flight)

    def _questioned(self) -> Flight | None:
        """The request that a question belongs to, if that is certain.

        Whatever was answered before the question came has left by now, for the loop wakes in order; what was begun
        since then is not the one.
        """
        if len(self._flights) != 1:
            return None
        (flight,) = self._flights.values()
        return None if flight.is_answered or flight.token > self.heard_token else flight

    def _prolong(self, flight: Flight) -> None:
        """Starts the time anew that a request may be without progress; none runs while its caller is asked."""
        if flight.step_s is None or flight.call is None:
            return
        step_at = self._loop.time() + flight.step_s
        deadline = flight.hard_at if flight.asking else min(step_at, flight.hard_at)
        self._reschedule(flight.call, deadline)


def _tell(listener: Callable[[_T], None], what: _T) -> None:
    """Tells a caller. That one of them cannot be told must not cost the others the connection."""
    try:
        listener(what)
    except CorralError as error:
        logger.warning("a caller was not told what an MCP server says: %s", error)
