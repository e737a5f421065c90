"""Follows the events of a daemon from a program: in order, without gaps, at the pace of the reader."""

from collections.abc import AsyncIterator, Mapping
from typing import Self

import msgspec

from ..contract.codec import as_array, as_object
from ..contract.errors import Unreachable
from .async_ import Stream, decode_answer


class DaemonEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Represents one event; `fields` has the keys that only its type has."""

    seq: int
    at: str
    type: str
    agent: str | None = None
    worker: str | None = None
    incarnation: int | None = None
    fields: dict[str, object] = {}


class EventStream:
    """Iterates over the events of a daemon, in order and without gaps.

    A slow reader delays nobody: unread events stay in the store. When the connection breaks, iteration continues
    at the same position as long as the daemon can be reached.
    """

    def __init__(self, path: str, filters: Mapping[str, object], since: int | None) -> None:
        self._path = path
        self._filters = filters
        self._since = since
        self._stream: Stream | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> Stream:
        stream = await Stream.open(self._path)
        try:
            params = dict(self._filters)
            if self._since is not None:
                params["since"] = self._since
            started = as_object(await stream.connection.call("event.follow", params)) or {}
            position = started.get("position")
            if isinstance(position, int):
                self._since = position
        except BaseException:
            await stream.connection.close()
            raise
        self._stream = stream
        return stream

    async def __aiter__(self) -> AsyncIterator[DaemonEvent]:
        """Yields the events in order.

        Raises:
            Unreachable: the daemon is gone; `data["since"]` is the event number to continue after.
        """
        try:
            while True:
                stream = self._stream or await self._open()
                try:
                    async for notification in stream:
                        for record in as_array(notification.params.get("events")) or ():
                            event = _event(as_object(record) or {})
                            self._since = max(self._since or 0, event.seq)
                            yield event
                except Unreachable:
                    self._stream = None
        except Unreachable as error:
            raise Unreachable(error.message, **{**error.data, "since": self._since}) from error
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the subscription and closes its connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.connection.close()


def _event(record: Mapping[str, object]) -> DaemonEvent:
    names = DaemonEvent.__struct_fields__
    common = {key: value for key, value in record.items() if key in names and key != "fields"}
    fields = {key: value for key, value in record.items() if key not in common}
    return decode_answer(DaemonEvent, {**common, "fields": fields}, "event.follow")
