"""TLS over a connection that is open already: as much of it as one question and the beginning of its answer take.

The loop could do it, if it had loaded OpenSSL when it was imported; see `openssl`.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import ssl

CHUNK_BYTES = 16 * 1024

Found = TypeVar("Found")


class Secure:
    """The client's side. Everything waits as long as the other side does: the caller bounds it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: "ssl.SSLContext",
        host: str,
    ) -> None:
        from ssl import MemoryBIO, SSLWantReadError  # noqa: PLC0415  # see `openssl`

        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = MemoryBIO(), MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._wants_more: type[Exception] = SSLWantReadError

    @staticmethod
    async def begin(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> "Secure":
        """The connection, once the other side has proven that it is `host`.

        Raises:
            OSError: it has not.
        """
        secure = Secure(reader, writer, await asyncio.to_thread(trusting), host)
        await secure._until(secure._object.do_handshake)
        return secure

    async def write(self, data: bytes) -> None:
        """Sends it all."""
        left = memoryview(data)
        while left:
            left = left[await self._until(functools.partial(self._object.write, left)) :]

    async def read(self) -> bytes:
        """What comes next, at least one byte.

        Raises:
            OSError: that is the end, or it is no TLS.
        """
        return await self._until(functools.partial(self._object.read, CHUNK_BYTES))

    async def _until(self, do: Callable[[], Found]) -> Found:
        while True:
            try:
                return do()
            except self._wants_more:
                pass
            finally:
                if data := self._outgoing.read():
                    self._writer.write(data)
                    await self._writer.drain()
            chunk = await self._reader.read(CHUNK_BYTES)
            if chunk:
                self._incoming.write(chunk)
            else:
                self._incoming.write_eof()


@functools.cache
def trusting() -> "ssl.SSLContext":
    """Whom this machine trusts; reading that takes milliseconds."""
    import ssl  # noqa: PLC0415  # see `openssl`

    return ssl.create_default_context()
