"""Defines the limit of a part that a task streams, and how parts become one output: for workers, the daemon and commands.

It needs the standard library alone, since a worker imports it.
"""

from . import codec
from .errors import InvalidParams, ResourceLimitExceeded
from .jsonrpc import MAX_MESSAGE_BYTES

MAX_PART_BYTES = 64 * 1024
"""Bytes of JSON of one part."""

ESCAPE_BYTES = 6
"""Bytes of JSON that one character needs at most."""


def size_of(part: object) -> int:
    """Returns the size of a part in bytes of JSON; of a short text an upper bound.

    Raises:
        ResourceLimitExceeded: it is larger than MAX_PART_BYTES.
        InvalidParams: JSON cannot express it.
    """
    if isinstance(part, str) and part.isascii() and len(part) <= MAX_PART_BYTES // ESCAPE_BYTES:
        return len(part) + 2
    try:
        size = len(codec.encode(part))
    except (TypeError, ValueError) as error:
        raise InvalidParams(f"cannot stream a {type(part).__name__}: {error}", key="part") from error
    if size > MAX_PART_BYTES:
        text = f"cannot stream a part of {size} bytes: the limit is {MAX_PART_BYTES}"
        raise ResourceLimitExceeded(text, limit="part", value=MAX_PART_BYTES, size_bytes=size)
    return size


class JoinedParts:
    """Joins parts to one output: text where all of them are, else a list. Keeps no more than a message can hold."""

    def __init__(self) -> None:
        self._parts: list[object] = []
        self._size = 0
        self._is_text = True

    def add(self, part: object, size: int) -> None:
        """Appends a part of `size` bytes."""
        self._is_text = self._is_text and isinstance(part, str)
        self._size += size
        if self._size <= MAX_MESSAGE_BYTES:
            self._parts.append(part)

    @property
    def value(self) -> object:
        """Returns the text, or the list of the parts; None without any part.

        Raises:
            ResourceLimitExceeded: they are larger than a message.
        """
        if self._size > MAX_MESSAGE_BYTES:
            text = f"cannot return {self._size} bytes of parts: the limit is {MAX_MESSAGE_BYTES}"
            raise ResourceLimitExceeded(text, limit="message", value=MAX_MESSAGE_BYTES, size_bytes=self._size)
        if not self._parts:
            return None
        return "".join(map(str, self._parts)) if self._is_text else self._parts
