"""JSON as every part of corral writes it: one UTF-8 line, no NaN, no lone surrogate, errors as ValueError.

msgspec where it is installed, the standard library's json where it is not: a worker must run in any
virtual environment. Both take and give plain dicts, lists, strings, numbers, booleans and None, and
agree on them; what only msgspec can say (bytes, dates, Structs) is not portable. A number that JSON
cannot say (NaN, an infinity) is written as null, as JSON.stringify does, and never read.
"""

import json
import math
import re
from typing import NoReturn, cast

try:
    import msgspec
except ImportError:  # an agent's own environment need not have it
    msgspec = None  # type: ignore[assignment]  # the one place that knows which is there


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


def _finite_or_null(value: object) -> object:
    """The value with null for every number that JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()  # the encoder judges the keys
        return {key: _finite_or_null(item) for key, item in pairs}
    if isinstance(value, list | tuple):
        items = cast("list[object] | tuple[object, ...]", value)  # the encoder judges the items
        return [_finite_or_null(item) for item in items]
    return value


if msgspec is not None:

    def _plain(value: object) -> object:
        """The plain form of what the standard library's encoder takes as it is, a numpy.float64 say."""
        for kind in (str, int, float):
            if isinstance(value, kind):
                return kind(value)
        raise TypeError(f"{type(value).__name__} is not JSON")

    _ENCODER = msgspec.json.Encoder(enc_hook=_plain)
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
    # Each once: json.dumps and json.loads make one for each call that asks for anything but their defaults.
    _dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    _loads = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant).decode

    def encode(value: object) -> bytes:
        """One line of JSON, without the newline.

        Raises:
            ValueError: the value holds something that JSON cannot say.
        """
        try:
            try:
                text = _dumps(value)
            except ValueError:  # a NaN, or a cycle: then the second attempt says so
                text = _dumps(_finite_or_null(value))
            return text.encode("utf-8")
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def decode(line: bytes | bytearray | memoryview) -> object:
        """The value of one JSON document.

        Raises:
            ValueError: it is not UTF-8, not JSON, or nested deeper than the interpreter allows.
        """
        try:
            text = bytes(line).decode("utf-8")
            value: object = _loads(text)
            if "\\ud" in text or "\\uD" in text:
                _dumps(value).encode("utf-8")  # a lone surrogate has no UTF-8
        except RecursionError as error:
            raise ValueError(str(error)) from error
        return value


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)
"""An escape in a JSON string (RFC 8259, 7): a pair of surrogates, half of one, or any other."""

LONE_BYTES = 6
"""The length of half a pair, as an escape."""


def without_lone_surrogates(line: bytes) -> bytes:
    """The line with U+FFFD for each half of a surrogate pair: text that was cut within a character (RFC 8259, 8.2)."""
    return _ESCAPE.sub(lambda m: m[0] if len(m[0]) != LONE_BYTES else rb"\ufffd", line)


MARGIN_LEVELS = 150
"""So much deeper a value could stand and still be written: records and messages are put around it."""

SHALLOW_LEVELS = 50
"""What has no more than so many levels can be written wherever something is, with the margin around it."""


def encode_with_margin(value: object) -> bytes:
    """As `encode`, for what others will be put around.

    Raises:
        ValueError: it holds something that JSON cannot say, or is nested so deeply that no record could hold it.
    """
    line = encode(value)
    if line.count(b"[") + line.count(b"{") <= SHALLOW_LEVELS:  # those in its text count, too
        return line
    inner = value
    for _ in range(MARGIN_LEVELS):
        inner = [inner]
    return encode(inner)[MARGIN_LEVELS:-MARGIN_LEVELS]


def as_object(value: object) -> dict[str, object] | None:
    """The value if it is a JSON object, else None."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]  JSON has no keys but strings
    return None


def as_array(value: object) -> list[object] | None:
    """The value if it is a JSON array, else None."""
    if isinstance(value, list):
        return value  # pyright: ignore[reportUnknownVariableType]  a JSON array may hold anything
    return None
