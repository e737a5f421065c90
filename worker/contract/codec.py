"""Encodes and decodes JSON for all of corral: one UTF-8 line, no NaN, no lone surrogate, errors as ValueError.

It uses msgspec where it is installed, else the standard library's json: a worker must run in any virtual
environment. Both accept and return plain dicts, lists, strings, numbers, booleans and None, with equal results;
types that only msgspec encodes (bytes, dates, Structs) are not portable. A number that JSON cannot express (NaN,
infinity) is encoded as null, as JSON.stringify does, and never decoded.
"""

import json
import math
import re
from typing import NoReturn, cast

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some programs write before their first message; a reader of JSON may ignore it (RFC 8259, 8.1)."""

try:
    import msgspec
except ImportError:  # an agent's own environment need not have it
    msgspec = None  # type: ignore[assignment]  # the only module that knows which one is used


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


def _finite_or_null(value: object) -> object:
    """Returns the value with None for every number that JSON cannot express."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()  # the encoder checks the keys
        return {key: _finite_or_null(item) for key, item in pairs}
    if isinstance(value, list | tuple):
        items = cast("list[object] | tuple[object, ...]", value)  # the encoder checks the items
        return [_finite_or_null(item) for item in items]
    return value


if msgspec is not None:

    def _plain(value: object) -> object:
        """Returns the plain form of a subclass that the standard library's encoder accepts, such as numpy.float64."""
        for kind in (str, int, float):
            if isinstance(value, kind):
                return kind(value)
        raise TypeError(f"{type(value).__name__} is not JSON")

    _ENCODER = msgspec.json.Encoder(enc_hook=_plain)
    _DECODER = msgspec.json.Decoder()
    _NOT_ENCODABLE = (TypeError, UnicodeError, RecursionError, msgspec.MsgspecError)
    _NOT_DECODABLE = (UnicodeError, RecursionError, msgspec.DecodeError)

    def encode(value: object) -> bytes:
        """Encodes a value as one line of JSON, without the newline.

        Raises:
            ValueError: JSON cannot express the value.
        """
        try:
            return _ENCODER.encode(value)
        except _NOT_ENCODABLE as error:
            raise ValueError(str(error)) from error

    def decode(line: bytes | bytearray | memoryview) -> object:
        """Decodes one JSON document.

        Raises:
            ValueError: it is not UTF-8, not JSON, or nested deeper than the interpreter allows.
        """
        try:
            value: object = _DECODER.decode(line)
        except _NOT_DECODABLE as error:
            if line[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK:
                return decode(line[len(BYTE_ORDER_MARK) :])
            raise ValueError(str(error)) from error
        return value

else:
    # Created once: json.dumps and json.loads create one for each call with other options than their defaults.
    _dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    _loads = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant).decode

    def encode(value: object) -> bytes:
        """Encodes a value as one line of JSON, without the newline.

        Raises:
            ValueError: JSON cannot express the value.
        """
        try:
            try:
                text = _dumps(value)
            except ValueError:  # a NaN; or a cycle, for which the second attempt raises
                text = _dumps(_finite_or_null(value))
            return text.encode("utf-8")
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def decode(line: bytes | bytearray | memoryview) -> object:
        """Decodes one JSON document.

        Raises:
            ValueError: it is not UTF-8, not JSON, or nested deeper than the interpreter allows.
        """
        try:
            text = bytes(line).decode("utf-8").removeprefix("\ufeff")
            value: object = _loads(text)
            if "\\ud" in text or "\\uD" in text:
                _dumps(value).encode("utf-8")  # a lone surrogate has no UTF-8
        except RecursionError as error:
            raise ValueError(str(error)) from error
        return value


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL
)
"""An escape in a JSON string (RFC 8259, 7): a pair of surrogates, half of one, or any other."""

LONE_BYTES = 6
"""Bytes of half a pair as an escape."""


def without_lone_surrogates(line: bytes) -> bytes:
    """Replaces each lone surrogate of a line by U+FFFD: text that was cut within a character (RFC 8259, 8.2)."""
    return _ESCAPE.sub(lambda m: m[0] if len(m[0]) != LONE_BYTES else rb"\ufffd", line)


MARGIN_LEVELS = 150
"""Number of levels that a value can be nested deeper and still be encoded: records and messages enclose it."""

SHALLOW_LEVELS = 50
"""Number of levels up to which a value can be encoded anywhere, with the margin around it."""


def encode_with_margin(value: object) -> bytes:
    """Encodes a value that records and messages will enclose.

    Raises:
        ValueError: JSON cannot express the value, or it is nested too deeply to be enclosed.
    """
    line = encode(value)
    if line.count(b"[") + line.count(b"{") <= SHALLOW_LEVELS:  # those in strings count, too
        return line
    inner = value
    for _ in range(MARGIN_LEVELS):
        inner = [inner]
    return encode(inner)[MARGIN_LEVELS:-MARGIN_LEVELS]


def encode_exactly(value: object) -> bytes:
    """Encodes a value that somebody has computed: a number that JSON cannot express is refused, and not encoded as null.

    Raises:
        ValueError: JSON cannot express the value; of a NaN or an infinity it says where it is.
    """
    line = encode(value)
    if b"null" in line and (found := _not_finite(value)):
        raise ValueError(f"{found}, which JSON cannot express")
    return line


def _not_finite(value: object, place: str = "it") -> str:
    """Returns which number of a value is no finite one, and where; "" for none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{place} is {value!r}"
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        inner = ((f"{place}[{key!r}]", item) for key, item in pairs)
    elif isinstance(value, list | tuple):
        items = cast("list[object] | tuple[object, ...]", value)
        inner = ((f"{place}[{number}]", item) for number, item in enumerate(items))
    else:
        return ""
    return next((found for where, item in inner if (found := _not_finite(item, where))), "")


def as_object(value: object) -> dict[str, object] | None:
    """Returns the value if it is a JSON object, else None."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]  JSON keys are strings
    return None


def as_array(value: object) -> list[object] | None:
    """Returns the value if it is a JSON array, else None."""
    if isinstance(value, list):
        return value  # pyright: ignore[reportUnknownVariableType]  a JSON array may hold anything
    return None
