"""JSON as every part of corral writes it: one UTF-8 line, no NaN, no lone surrogate, errors as ValueError.

msgspec where it is installed, the standard library's json where it is not: a worker must run in any
virtual environment. Both give plain dicts, lists, strings, numbers, booleans and None.
"""

import json
from typing import NoReturn, cast

try:
    import msgspec
except ImportError:  # an agent's own environment need not have it
    msgspec = None  # type: ignore[assignment]  # the one place that knows which is there


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


if msgspec is not None:
    _ENCODER = msgspec.json.Encoder()
    _DECODER = msgspec.json.Decoder()
    _UNSPEAKABLE = (TypeError, UnicodeError, RecursionError, msgspec.MsgspecError)
    _UNREADABLE = (UnicodeError, RecursionError, msgspec.DecodeError)

    def encode(value: object) -> bytes:
        """One line of JSON, without the newline.

        Raises:
            ValueError: the value holds something that JSON cannot say.
        """
        try:
            return _ENCODER.encode(value)
        except _UNSPEAKABLE as error:
            raise ValueError(str(error)) from error

    def decode(line: bytes | bytearray | memoryview) -> object:
        """The value of one JSON document.

        Raises:
            ValueError: it is not UTF-8, not JSON, or nested deeper than the interpreter allows.
        """
        try:
            value: object = _DECODER.decode(line)
        except _UNREADABLE as error:
            raise ValueError(str(error)) from error
        return value

else:

    def encode(value: object) -> bytes:
        """One line of JSON, without the newline.

        Raises:
            ValueError: the value holds something that JSON cannot say.
        """
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode("utf-8")
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def decode(line: bytes | bytearray | memoryview) -> object:
        """The value of one JSON document.

        Raises:
            ValueError: it is not UTF-8, not JSON, or nested deeper than the interpreter allows.
        """
        try:
            value: object = json.loads(bytes(line).decode("utf-8"), parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ValueError(str(error)) from error
        return value


def as_object(value: object) -> dict[str, object] | None:
    """The value if it is a JSON object, else None."""
    if isinstance(value, dict):
        return cast("dict[str, object]", value)  # JSON has no keys but strings
    return None


def as_array(value: object) -> list[object] | None:
    """The value if it is a JSON array, else None."""
    if isinstance(value, list):
        return cast("list[object]", value)  # a JSON array may hold anything
    return None
