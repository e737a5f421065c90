"""Answers what workers ask, by the handlers of rooms above: their requests, their notifications, what a life begins with.

It is made before the supervisors and knows no handler; each room enters its own before the first worker starts.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, Protocol, TypeVar

from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import CorralError, MethodNotFound
from corral.worker.contract.jsonrpc import Notification, Request

Supervisor = TypeVar("Supervisor", bound="Asking")

Handler = Callable[[Supervisor, Mapping[str, object]], Awaitable[object]]
"""Answers a request with the given params."""

Hearer = Callable[[Supervisor, Mapping[str, object]], None]
"""Takes a notification with the given params."""

Gate = Callable[[Supervisor, str], Awaitable[None] | None]
"""Refuses a request of a method, returns what it has to wait for first, or None."""

Beginning = Callable[[Supervisor], Awaitable[Mapping[str, object]]]
"""Returns the state for the next life of a worker, as `{"checkpoint": data}`, or nothing."""


TokenOf = Callable[[Spec, Mapping[str, object]], Awaitable[dict[str, object]]]
"""Returns the access token of the moment for a remote server, or another one than that which it refused; {} where it has none."""


class Asking(Protocol):
    """Represents the supervisor of a worker, as far as it is known here."""

    @property
    def spec(self) -> Spec:
        """Returns the spec in force."""
        ...

    def note(self, level: str, text: str) -> None:
        """Writes a line to the worker's log."""
        ...


async def _anew(_: object) -> Mapping[str, object]:
    return {}


async def _no_token(_spec: Spec, _wish: Mapping[str, object]) -> dict[str, object]:
    return {}


def _at_once(_supervisor: object, _method: str) -> None:
    return None


class Requests(Generic[Supervisor]):
    """Holds the handlers of one daemon by method."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler[Supervisor]] = {}
        self._hearers: dict[str, Hearer[Supervisor]] = {}
        self._gate: Gate[Supervisor] = _at_once
        self.beginning_of: Beginning[Supervisor] = _anew
        """Returns what the next life of a worker begins with."""
        self.token_of: TokenOf = _no_token
        """Returns the access token of the moment for the process of a remote server."""

    def serve(self, method: str, handler: Handler[Supervisor]) -> None:
        """Answers the requests of a method by `handler`."""
        self._handlers[method] = handler

    def hear(self, notification: str, hearer: Hearer[Supervisor]) -> None:
        """Takes the notifications of a type by `hearer`."""
        self._hearers[notification] = hearer

    def admit_by(self, gate: Gate[Supervisor]) -> None:
        """Asks `gate` before each request is served."""
        self._gate = gate

    def begin_by(self, beginning_of: Beginning[Supervisor]) -> None:
        """Asks `beginning_of` before each life."""
        self.beginning_of = beginning_of

    def give_tokens_by(self, token_of: TokenOf) -> None:
        """Asks `token_of` for the access tokens of remote servers."""
        self.token_of = token_of

    def answer(self, supervisor: Supervisor, request: Request) -> Awaitable[object]:
        """Returns the answer to a request of a worker."""
        handler = self._handlers.get(request.method)
        if handler is None:
            raise MethodNotFound(f'cannot call "{request.method}": workers have no such method')
        turn = self._gate(supervisor, request.method)
        if turn is None:
            return handler(supervisor, request.params)
        return _in_turn(turn, handler, supervisor, request.params)

    def take(self, supervisor: Supervisor, notification: Notification) -> None:
        """Takes a notification of a worker; one that is malformed goes to its log, an unknown one is from a newer worker."""
        hearer = self._hearers.get(notification.method)
        if hearer is None:
            return
        try:
            hearer(supervisor, notification.params)
        except CorralError as error:
            supervisor.note("warning", f'refused "{notification.method}": {error.message}')


async def _in_turn(
    turn: Awaitable[None], handler: Handler[Supervisor], supervisor: Supervisor, params: Mapping[str, object]
) -> object:
    await turn
    return await handler(supervisor, params)
