"""Keeps subscriptions at a modern server: requests that stay open (`subscriptions/listen`, MCP 2026-07-28).

Each subscription is one such request. It holds from its acknowledgement until it is cancelled here; if the server ends
it, the request is repeated after a pause, and the interruption is reported as a gap. After a refusal it is not
repeated. It must not know lists or resources, only filters.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping

from corral.worker.contract.channel import Call, Channel
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CorralError, Overloaded, Timeout, ToolFailed
from corral.worker.contract.jsonrpc import Id

from ..protocol.messages import LISTEN, SUBSCRIPTION_ID

RELISTEN_S = 1.0
"""Seconds before a subscription that its server has ended is requested again."""

MAX_SUBSCRIPTIONS = 1_000
"""Number of subscriptions of one connection."""

logger = logging.getLogger(__name__)


class _Stream:
    def __init__(self, key: str, filters: Mapping[str, object]) -> None:
        self.key = key
        self.filters = filters
        self.call: Call | None = None
        self.honoured: asyncio.Future[Mapping[str, object] | CorralError] = asyncio.get_running_loop().create_future()
        self.again: asyncio.Task[None] | None = None


class Subscriptions:
    """Holds the subscriptions on one connection, by a key of the owner's choice."""

    def __init__(
        self,
        channel: Channel,
        params_of: Callable[[Mapping[str, object]], dict[str, object]],
        on_gap: Callable[[str], None],
    ) -> None:
        self._channel = channel
        self._params_of = params_of
        self._on_gap = on_gap
        self._streams: dict[str, _Stream] = {}

    def __contains__(self, key: str) -> bool:
        """Returns True if there is a subscription of this key, acknowledged or not."""
        return key in self._streams

    async def start(self, key: str, filters: Mapping[str, object]) -> None:
        """Sends the request without waiting for its acknowledgement; does nothing if the key exists."""
        if key in self._streams:
            return
        if len(self._streams) >= MAX_SUBSCRIPTIONS:
            text = f'cannot subscribe to "{key}": there are {MAX_SUBSCRIPTIONS} subscriptions'
            raise Overloaded(text, limit=MAX_SUBSCRIPTIONS, retry_after_s=1)
        stream = self._streams[key] = _Stream(key, filters)
        try:
            await self._send(stream)
        except BaseException:
            self.end(key)
            raise

    async def honoured(self, key: str, *, timeout_s: float) -> Mapping[str, object]:
        """Waits for the acknowledgement and returns the notifications that the server has agreed to send."""
        stream = self._streams.get(key)
        if stream is None:
            raise ToolFailed(f'cannot subscribe to "{key}": the subscription has ended')
        done, _ = await asyncio.wait((stream.honoured,), timeout=timeout_s)
        if not done:
            raise Timeout(f'cannot subscribe to "{key}": not acknowledged within {timeout_s:g} s', timeout_s=timeout_s)
        honoured = stream.honoured.result()
        if isinstance(honoured, CorralError):
            raise honoured
        return honoured

    def end(self, key: str) -> None:
        """Cancels a subscription at the server, if there is one."""
        stream = self._streams.pop(key, None)
        if stream is None:
            return
        self._settle(stream, ToolFailed(f'cannot subscribe to "{key}": it was ended'))
        if stream.again is not None:
            stream.again.cancel()
        if stream.call is not None and not stream.call.answer.done():
            self._channel.cancel(stream.call, "no longer filters")

    def hand_over(self) -> dict[str, tuple[Id, Mapping[str, object]]]:
        """Returns the request and the filters of each acknowledged subscription, for another program."""
        found = ((each.key, each.call, each.filters) for each in self._streams.values() if each.honoured.done())
        return {key: (call.id, filters) for key, call, filters in found if call is not None}

    def take_up(
        self, left: Mapping[str, tuple[Id, Mapping[str, object]]], answers: Mapping[Id, asyncio.Future[object]]
    ) -> None:
        """Goes on with subscriptions of another program."""
        for key, (request_id, filters) in left.items():
            stream = self._streams[key] = _Stream(key, filters)
            stream.honoured.set_result(filters)
            stream.call = Call(request_id, answers[request_id])
            stream.call.answer.add_done_callback(functools.partial(self._over, stream))

    def close(self) -> None:
        """Ends all subscriptions with the connection."""
        for key in list(self._streams):
            self.end(key)

    def acknowledged(self, params: Mapping[str, object]) -> None:
        """Takes the params of an acknowledgement; it is dropped if its request is not in flight."""
        request_id = (as_object(params.get("_meta")) or {}).get(SUBSCRIPTION_ID)
        for stream in self._streams.values():
            if stream.call is not None and stream.call.id == request_id:
                self._settle(stream, as_object(params.get("notifications")) or {})

    def withdrawn(self, request_id: object) -> None:
        """Takes a cancellation by the server, which may end a subscription this way."""
        for stream in list(self._streams.values()):
            if stream.call is not None and stream.call.id == request_id:
                self._channel.cancel(stream.call, "ended by the server")
                stream.call.answer.cancel()

    @staticmethod
    def _settle(stream: _Stream, outcome: Mapping[str, object] | CorralError) -> None:
        if not stream.honoured.done():
            stream.honoured.set_result(outcome)

    async def _send(self, stream: _Stream) -> None:
        params = self._params_of({"notifications": stream.filters})
        stream.call = await self._channel.call(LISTEN, params, timeout_s=None)
        stream.call.answer.add_done_callback(functools.partial(self._over, stream))

    def _over(self, stream: _Stream, answer: asyncio.Future[object]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if self._streams.get(stream.key) is not stream:
            return
        if not stream.honoured.done() or self._channel.is_closed:
            logger.debug("%s does not notify of %s: %s", self._channel.name, stream.key, error)
            refusal = error if isinstance(error, CorralError) else None
            text = f'cannot subscribe to "{stream.key}": the server has ended it at once'
            self._settle(stream, refusal or ToolFailed(text))
            del self._streams[stream.key]
            return
        stream.call = None
        stream.again = asyncio.get_running_loop().create_task(self._subscribe_again(stream))

    async def _subscribe_again(self, stream: _Stream) -> None:
        await asyncio.sleep(RELISTEN_S)
        stream.honoured = asyncio.get_running_loop().create_future()
        try:
            await self._send(stream)
        except CorralError as error:
            logger.debug("cannot subscribe again: %s", error)
            if self._streams.get(stream.key) is stream:
                del self._streams[stream.key]
            self._settle(stream, error)
        else:
            self._on_gap(stream.key)
