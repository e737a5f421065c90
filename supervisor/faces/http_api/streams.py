"""Serves a method as a stream of server-sent events: its notifications as they come, and its result last.

A call that fails before its first notification is answered with the error and its status, as without a stream; later the last event is
`error`. Where the table says how a reader goes on (`faces.resumption`), each record is an event of its own, or each
notification, with its id.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping

from aiohttp import web

from corral.supervisor.api.table.table import Control
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InternalError
from corral.worker.control.nodes import places_of, places_text
from corral.worker.methods.faces import Resumption
from corral.worker.methods.method import AnyMethod

from ..http.callers import OneAnswer
from ..http.event_sender import Outbox, event, send_call
from ..http.face import HttpClient

RECORDS = {"event": "events"}
"""The key of a notification's records; each is an event of its own."""

logger = logging.getLogger(__name__)


class StreamCaller(OneAnswer):
    """Represents a caller that gets its notifications as events."""

    def __init__(self, client: HttpClient, resumption: Resumption | None) -> None:
        super().__init__(client)
        self.following: Awaitable[None] | None = None
        self.outbox = Outbox()
        self._is_valid = client.is_valid
        self._resumption = resumption

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Queues a notification as an event, or as one for each of its records; of a token that has ended, none."""
        if not self._is_valid():
            self.outbox.break_off()
            return
        if self._resumption is None:
            self.outbox.put(event(method, params))
            return
        if self._resumption.of_all:
            self.outbox.put(event(method, params, params.get(self._resumption.field)))
            return
        records = codec.as_array(params.get(RECORDS.get(method, "")))
        if records is None:
            self.outbox.put(event(method, params))
            return
        place = params.get("position")
        places = places_of(place) if isinstance(place, str) else None
        for record in records:
            fields = codec.as_object(record) or {}
            number = fields.get(self._resumption.field)
            if places is not None and isinstance(number, int):
                places[str(fields.get("node"))] = str(number)
                self.outbox.put(event(method, record, places_text(places)))
            else:
                self.outbox.put(event(method, record, number))

    async def drain(self) -> None:
        """Waits while the client reads too slowly."""
        await self.outbox.drain()

    def follow(self, following: Awaitable[None]) -> None:
        """Keeps `following` for after the call: it goes on until the client hangs up."""
        self.following = following
        self.outbox.is_patient = True


async def serve_stream(
    request: web.BaseRequest, control: Control, method: AnyMethod, params: Mapping[str, object], client: HttpClient
) -> web.StreamResponse:
    """Answers a request with the events of a call."""
    caller = StreamCaller(client, method.faces.resumption)
    if method.faces.parts:
        params = {"stream": True, **params}
    call = _performed(control, method, params, caller)
    return await send_call(request, caller.outbox, call, _ending)


async def _performed(control: Control, method: AnyMethod, params: Mapping[str, object], caller: StreamCaller) -> object:
    """Calls the method, and does what follows the call; returns the result of the call."""
    result = await control.call(method.name, params, caller)
    if caller.following is not None:
        position = getattr(result, "position", None)
        # An id without an event: a reader that loses its stream before the first one has a place, too.
        caller.outbox.put(b": corral\n\n" if position is None else f"id: {position}\n\n".encode())
        await caller.following
    return result


def _ending(call: "asyncio.Future[object]") -> bytes:
    try:
        return event("result", call.result())
    except CorralError as error:
        return event("error", error.to_record())
    except Exception as error:  # a defect of ours: the status is sent already
        logger.exception("cannot go on with a stream")
        return event("error", InternalError(f"cannot go on: {type(error).__name__}").to_record())
