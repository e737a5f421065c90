"""Calls a remote agent of A2A by JSON-RPC or by HTTP with JSON, with streams of server-sent events."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from yarl import URL

from corral import __version__

from ..contract.codec import as_object, decode
from ..contract.errors import ResourceLimitExceeded, TaskFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..sdk.task import Task
from ..webhook import delivery
from ..webhook.service import Service, whole_body
from .messages import REST, VERSION, Interface, call_of, card_url, error_of, interface_of

CARD_S = 300.0
"""Seconds for which a card is good."""
EVENTS = "text/event-stream"

Json = Any  # a value of the protocol, checked where it is used


class Remote:
    """Represents one remote agent."""

    def __init__(self, service: Service) -> None:
        self.target = service.target
        self._service = service
        self._interface: Interface | None = None
        self._known_at = 0.0

    async def interface(self, task: Task) -> Interface:
        """Returns where the agent is, by its card."""
        now = time.monotonic()
        if self._interface is None or now > self._known_at + CARD_S:
            url = card_url(self.target.url)
            async with self._request(task, "GET", url, None) as response:
                card = self._decoded(await whole_body(response, task.id))
            self._interface, self._known_at = interface_of(card, self.target.url), now
        return self._interface

    async def call(self, task: Task, method: str, params: Mapping[str, object]) -> Json:
        """Returns the result of a call."""
        interface = await self.interface(task)
        call = call_of(interface, task.id, method, params)
        async with self._request(task, call.verb, call.url, call.body) as response:
            return self._result(interface, await whole_body(response, task.id))

    async def stream(self, task: Task, method: str, params: Mapping[str, object]) -> AsyncGenerator[Json, None]:
        """Yields the results that a call streams; raises as `call`."""
        interface = await self.interface(task)
        call = call_of(interface, task.id, method, params)
        async with self._request(task, call.verb, call.url, call.body, accept=EVENTS) as response:
            if response.content_type != EVENTS:
                yield self._result(interface, await whole_body(response, task.id))
                return
            async for data in self._events(response):
                yield self._result(interface, data)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yields the data of each event."""
        rest, data = b"", list[bytes]()
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    data.append(line[5:].strip())
                elif not line and data:
                    yield b"\n".join(data)
                    data.clear()
            if len(rest) + sum(map(len, data)) > MAX_MESSAGE_BYTES:
                text = f"cannot read an event of {self.target.address}: it exceeds {MAX_MESSAGE_BYTES} bytes"
                raise ResourceLimitExceeded(text, limit="message", value=MAX_MESSAGE_BYTES)

    def _result(self, interface: Interface, body: bytes) -> Json:
        answer = as_object(self._decoded(body))
        is_rest = interface.binding == REST
        if answer is None or not (is_rest or "result" in answer or "error" in answer):
            shown = delivery.shown(body)
            text = f"cannot read an answer of {self.target.address}: it is none of {interface.binding}: {shown}"
            raise TaskFailed(text, answer=shown)
        if answer.get("error") is not None:
            raise error_of(answer["error"], self.target.address)
        return answer if is_rest else answer["result"]

    def _decoded(self, body: bytes) -> Json:
        try:
            return decode(body)
        except ValueError as error:
            shown = delivery.shown(body)
            text = f"cannot read an answer of {self.target.address}: it is not JSON: {shown}"
            raise TaskFailed(text, reason=str(error)) from None

    def _request(
        self, task: Task, method: str, url: URL, body: bytes | None, accept: str = "application/json"
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        own = {"Accept": accept, "A2A-Version": VERSION, "User-Agent": f"corral/{__version__}"}
        if body is not None:
            own["Content-Type"] = "application/json"
        if task.traceparent is not None:
            own["traceparent"] = task.traceparent
        return self._service.request(task, method, url, body, {**own, **self.target.headers})
