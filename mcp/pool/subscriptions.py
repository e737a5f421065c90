"""Shares subscriptions to resources among callers, and renews them in the next incarnation of a process.

A subscription belongs to a server, a URI and a sharer, and is made once for all its callers; after a restart of its
process it is made again, and its callers are notified, because a change may have been missed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeAlias

from corral.worker.contract.errors import CorralError, Overloaded

from ..protocol.messages import SUBSCRIBE, UNSUBSCRIBE
from .backend import Process

MAX_SUBSCRIPTIONS = 1_000
"""Number of subscriptions of one server."""

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str, str | None]
"""The server, the server's own URI, and the sharer of the process."""


Connect = Callable[[str, str | None], Awaitable[tuple[Process, Callable[[], None]]]]
"""Returns the running process of a server for a sharer, and a function that releases it."""


class _Subscription:
    def __init__(self, key: Key) -> None:
        self.key = key
        self.listeners: dict[int, Callable[[], None]] = {}
        self.changing = asyncio.Lock()
        self.asked: Process | None = None
        """The process that was asked; its notifications count even before it has responded."""
        self.holder: Process | None = None
        self.release_holder: Callable[[], None] | None = None
        self.life = -1

    @property
    def uri(self) -> str:
        return self.key[1]

    def notify(self) -> None:
        for listener in list(self.listeners.values()):
            listener()

    def release(self) -> None:
        if self.release_holder is not None:
            self.release_holder()
            self.release_holder = None


class Subscribers:
    """Holds all subscriptions of a pool."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._subscriptions: dict[Key, _Subscription] = {}
        self._last_listener = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def subscribe(self, key: Key, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` at each change; returns a function that ends the subscription."""
        known = self._subscriptions.get(key)
        if known is None:
            if sum(each[0] == key[0] for each in self._subscriptions) >= MAX_SUBSCRIPTIONS:
                text = f'cannot subscribe to "{key[1]}": {MAX_SUBSCRIPTIONS} resources are already'
                raise Overloaded(text, server=key[0], limit="subscriptions", retry_after_s=1)
            known = self._subscriptions[key] = _Subscription(key)
        subscription = known
        self._last_listener += 1
        number = self._last_listener
        subscription.listeners[number] = listener

        def end() -> None:
            if subscription.listeners.pop(number, None) is not None:
                self._leave(subscription)

        try:
            async with subscription.changing:
                if subscription.holder is None:
                    await self._open(subscription)
        except BaseException:
            end()
            raise
        return end

    async def _open(self, subscription: _Subscription) -> None:
        server, uri, sharer = subscription.key
        holder, release_holder = await self._connect(server, sharer)
        subscription.asked = holder
        try:
            session = holder.session
            if session is not None:  # after a restart of one that has just died, `renew` subscribes
                await session.request(SUBSCRIBE, {"uri": uri})
                subscription.life = holder.life
        except BaseException:
            release_holder()
            raise
        subscription.holder, subscription.release_holder = holder, release_holder

    def _leave(self, subscription: _Subscription) -> None:
        """Ends a subscription at the server when its last listener is gone."""
        if subscription.listeners:
            return
        if self._subscriptions.get(subscription.key) is subscription:
            del self._subscriptions[subscription.key]
        if subscription.holder is not None:
            self._start(self._close(subscription))

    async def _close(self, subscription: _Subscription) -> None:
        holder = subscription.holder
        try:
            async with subscription.changing:
                session = None if holder is None else holder.session
                is_held = holder is not None and holder.life == subscription.life
                if session is not None and is_held and subscription.key not in self._subscriptions:
                    await session.request(UNSUBSCRIBE, {"uri": subscription.uri})
        except CorralError as error:
            logger.debug("a subscription of %s is not ended: %s", subscription.key[0], error)
        finally:
            subscription.release()

    def updated(self, server: str, holder: Process, uri: str) -> None:
        """Notifies the subscribers of a changed resource, or of one above it.

        Where a server is not shared by all, only the sharer of this process is notified.
        """
        for key, subscription in list(self._subscriptions.items()):
            concerns = key[2] is None or subscription.asked is holder
            if key[0] == server and concerns and (uri == key[1] or uri.startswith(key[1].rstrip("/") + "/")):
                subscription.notify()

    def renew(self, server: str, present: Sequence[Process]) -> None:
        """Subscribes again at processes of a server that are in a new incarnation, or have been replaced by `present` ones."""
        if not self._subscriptions:
            return
        for key, subscription in list(self._subscriptions.items()):
            holder = subscription.holder
            if key[0] != server or holder is None:
                continue
            if not any(holder is each for each in present):
                subscription.holder = None  # once
                self._start(self._move(subscription))
            elif holder.session is not None and holder.life != subscription.life:
                subscription.life = holder.life  # once for each incarnation
                self._start(self._subscribe_again(subscription))

    async def _move(self, subscription: _Subscription) -> None:
        """Subscribes at another process, and lets go of the replaced one, which may end then."""
        async with subscription.changing:
            subscription.release()
            if self._subscriptions.get(subscription.key) is not subscription:
                return
            try:
                await self._open(subscription)
            except CorralError as error:
                _warn_of(subscription, error)
                return
        subscription.notify()
        self._leave(subscription)  # its last listener may have gone meanwhile

    async def _subscribe_again(self, subscription: _Subscription) -> None:
        session = None if subscription.holder is None else subscription.holder.session
        if session is None:
            return
        try:
            async with subscription.changing:
                await session.request(SUBSCRIBE, {"uri": subscription.uri})
        except CorralError as error:
            _warn_of(subscription, error)
            return
        subscription.notify()

    def drop(self, server: str) -> None:
        """Drops the subscriptions of a removed server, without notification."""
        for key in [key for key in self._subscriptions if key[0] == server]:
            self._subscriptions.pop(key).release()

    async def close(self) -> None:
        """Cancels pending requests to servers."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _warn_of(subscription: _Subscription, error: CorralError) -> None:
    logger.warning('changes of "%s" are not reported any more: %s', subscription.uri[:200], error)
