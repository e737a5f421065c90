"""The events of a daemon, for a program that listens: in order, without gaps, at its own pace."""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

import msgspec

from ..contract.codec import as_array, as_object
from ..contract.errors import Unreachable
from .async_ import Stream, shaped


class DaemonEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event; `fields` is what its type has beside what all have."""

    seq: int
    at: str
    type: str
    agent: str | None = None
    worker: str | None = None
    incarnation: int | None = None
    fields: dict[str, object] = {}


class EventStream:
    """The events of a daemon, in order and without gaps.

    A reader that is slow slows nobody down: what it has not read yet stays in the store. When the connection
    breaks, it goes on where it was if the daemon is there.
    """

    def __init__(self, path: str, wanted: Mapping[str, object], since: int | None) -> None:
        self._path = path
        self._wanted = wanted
        self._since = since
        self._stream: Stream | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _open(self) -> Stream:
        stream = await Stream.open(self._path)
        try:
            asked = dict(self._wanted)
            if self._since is not None:
                asked["since"] = self._since
            started = as_object(await stream.connection.call("event.follow", asked)) or {}
            position = started.get("position")
            if isinstance(position, int):
                self._since = position
        except BaseException:
            await stream.connection.close()
            raise
        self._stream = stream
        return stream

    async def __aiter__(self) -> AsyncIterator[DaemonEvent]:
        """The events, as they come.

        Raises:
            Unreachable: the daemon is gone; `data["since"]` is where to go on.
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
        """Hears no more."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.connection.close()


def _event(record: Mapping[str, object]) -> DaemonEvent:
    names = DaemonEvent.__struct_fields__
    common = {key: value for key, value in record.items() if key in names and key != "fields"}
    fields = {key: value for key, value in record.items() if key not in common}
    return shaped(DaemonEvent, {**common, "fields": fields}, "event.follow")
