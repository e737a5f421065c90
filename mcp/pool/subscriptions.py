"""Who is told of which changed resource: subscriptions that are shared by callers and outlive the process.

A subscription belongs to a server, a URI and a sharer, and is made once, however many want it; when its
process starts anew it is made again, and its callers are told, since a change may have been missed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol, TypeAlias

from ...worker.contract.errors import CorralError, Overloaded
from ..protocol.messages import SUBSCRIBE, UNSUBSCRIBE
from ..upstream.session import Session

MAX_SUBSCRIPTIONS = 1_000
"""Of one server."""

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str, str | None]
"""The server, the URI as the server calls it, and whose process it is about."""


class Holder(Protocol):
    """The process that a subscription lives at."""

    @property
    def life(self) -> int:
        """The number of its incarnation."""
        ...

    @property
    def session(self) -> Session | None:
        """The session, where a request can be sent at once."""
        ...


Connect = Callable[[str, str | None], Awaitable[tuple[Holder, Callable[[], None]]]]
"""Gives the process of a server for a sharer, up, and what lets go of it."""


class _Subscription:
    def __init__(self, key: Key) -> None:
        self.key = key
        self.listeners: dict[int, Callable[[], None]] = {}
        self.changing = asyncio.Lock()
        self.asked: Holder | None = None
        """Whose news are of it, from before it has answered."""
        self.holder: Holder | None = None
        self.let_go: Callable[[], None] | None = None
        self.life = -1

    @property
    def uri(self) -> str:
        return self.key[1]

    def tell(self) -> None:
        for listener in list(self.listeners.values()):
            listener()

    def release(self) -> None:
        if self.let_go is not None:
            self.let_go()
            self.let_go = None


class Subscribers:
    """All subscriptions of a pool."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._subscriptions: dict[Key, _Subscription] = {}
        self._last_listener = 0
        self._chores: set[asyncio.Task[None]] = set()

    async def subscribe(self, key: Key, listener: Callable[[], None]) -> Callable[[], None]:
        """Has `listener` called at each change; returns what ends that.

        Raises:
            CorralError: the server refuses, or cannot be had.
            Overloaded: it has too many subscriptions already.
        """
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
        holder, let_go = await self._connect(server, sharer)
        subscription.asked = holder
        try:
            session = holder.session
            if session is not None:  # one that has just died comes again, and `renew` after it
                await session.request(SUBSCRIBE, {"uri": uri})
                subscription.life = holder.life
        except BaseException:
            let_go()
            raise
        subscription.holder, subscription.let_go = holder, let_go

    def _leave(self, subscription: _Subscription) -> None:
        """The last listener ends it at the server, too."""
        if subscription.listeners:
            return
        if self._subscriptions.get(subscription.key) is subscription:
            del self._subscriptions[subscription.key]
        if subscription.holder is not None:
            self._begin(self._close(subscription))

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

    def updated(self, server: str, holder: Holder, uri: str) -> None:
        """A process says that a resource has changed, one that is subscribed to or below one that is.

        Where a server is not shared by all, whoever has another process does not hear of it.
        """
        for key, subscription in list(self._subscriptions.items()):
            is_theirs = key[2] is None or subscription.asked is holder
            if (
                key[0] == server
                and is_theirs
                and (uri == key[1] or uri.startswith(key[1].rstrip("/") + "/"))
            ):
                subscription.tell()

    def renew(self, server: str) -> None:
        """A process of a server may be another life now: what was subscribed to there is so again."""
        if not self._subscriptions:
            return
        for key, subscription in list(self._subscriptions.items()):
            holder = subscription.holder
            if (
                key[0] == server
                and holder is not None
                and holder.session is not None
                and holder.life != subscription.life
            ):
                subscription.life = holder.life  # asked once for each life
                self._begin(self._again(subscription))

    async def _again(self, subscription: _Subscription) -> None:
        session = None if subscription.holder is None else subscription.holder.session
        if session is None:
            return
        try:
            async with subscription.changing:
                await session.request(SUBSCRIBE, {"uri": subscription.uri})
        except CorralError as error:
            logger.warning(
                'changes of "%s" are not told any more: %s', subscription.uri[:200], error
            )
            return
        subscription.tell()

    def drop(self, server: str) -> None:
        """A server is no more: its subscriptions end without a word."""
        for key in [key for key in self._subscriptions if key[0] == server]:
            self._subscriptions.pop(key).release()

    async def close(self) -> None:
        """Ends what is still asked of servers."""
        for task in self._chores:
            task.cancel()
        if self._chores:
            await asyncio.gather(*self._chores, return_exceptions=True)

    def _begin(self, chore: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
