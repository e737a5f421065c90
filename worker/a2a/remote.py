"""Calls a remote agent of A2A by JSON-RPC or by HTTP with JSON, with streams of server-sent events."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
from yarl import URL

from corral import __version__

from ..contract.codec import as_object, decode
from ..contract.errors import ResourceLimitExceeded, TaskFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..sdk.task import Task
from ..webhook import delivery
from ..webhook.service import Target, connections, head_of, unreachable, whole_body
from .messages import REST, VERSION, Interface, call_of, card_url, error_of, interface_of

CARD_S = 300.0
"""Seconds for which a card is good."""
EVENTS = "text/event-stream"

Json = Any  # a value of the protocol, checked where it is used


class Remote:
    """Represents one remote agent."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._http: aiohttp.ClientSession
        self._interface: Interface | None = None
        self._known_at = 0.0

    def open(self) -> None:
        """Opens the pool of connections."""
        self._http = connections()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def interface(self, task: Task) -> Interface:
        """Returns where the agent is, by its card."""
        now = time.monotonic()
        if self._interface is None or now > self._known_at + CARD_S:
            url = card_url(self.target.url)
            async with _Request(self, task, "GET", url, None) as response:
                card = self._decoded(await whole_body(response, task.id))
            self._interface, self._known_at = interface_of(card, self.target.url), now
        return self._interface

    async def call(self, task: Task, method: str, params: Mapping[str, object]) -> Json:
        """Returns the result of a call."""
        interface = await self.interface(task)
        call = call_of(interface, task.id, method, params)
        async with _Request(self, task, call.verb, call.url, call.body) as response:
            return self._result(interface, await whole_body(response, task.id))

    async def stream(self, task: Task, method: str, params: Mapping[str, object]) -> AsyncGenerator[Json, None]:
        """Yields the results that a call streams; raises as `call`."""
        interface = await self.interface(task)
        call = call_of(interface, task.id, method, params)
        async with _Request(self, task, call.verb, call.url, call.body, accept=EVENTS) as response:
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

    def request(
        self, task: Task, method: str, url: URL, body: bytes | None, accept: str
    ) -> Any:  # Any: a context manager of aiohttp
        """Returns a request, which is sent when it is entered."""
        own = {"Accept": accept, "A2A-Version": VERSION, "User-Agent": f"corral/{__version__}"}
        if body is not None:
            own["Content-Type"] = "application/json"
        if task.traceparent is not None:
            own["traceparent"] = task.traceparent
        headers = {**own, **self.target.headers}
        return self._http.request(method, url, data=body, headers=headers, allow_redirects=False)


class _Request:
    """Sends a request, and turns what fails into a typed error."""

    def __init__(
        self, remote: Remote, task: Task, method: str, url: URL, body: bytes | None, accept: str = "application/json"
    ) -> None:
        self._address, self._worker = remote.target.address, task.worker
        self._entered = remote.request(task, method, url, body, accept)

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._entered.__aenter__()
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
            raise unreachable(error, self._address, self._worker) from None
        if 200 <= response.status < 300:
            return response
        head, now = await head_of(response), datetime.now(UTC)
        response.close()
        raise delivery.error_of(response.status, response.headers, head, self._address, now)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self._entered.__aexit__(kind, error, trace)
        if isinstance(error, aiohttp.ClientError | OSError):
            raise unreachable(error, self._address, self._worker) from None
