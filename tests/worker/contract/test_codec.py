"""Both codecs, msgspec's and the standard library's, read and write the same values and refuse the same lines."""

import json
import math
import re
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from both_codecs import CODECS

pytestmark = pytest.mark.contract

FUZZ = settings(deadline=None, max_examples=200, print_blob=True)

VALUES: list[tuple[bytes, object]] = [
    (b"null", None),
    (b"true", True),
    (b"-0", 0),
    (b"0.1e1", 1.0),
    (b"1E+5", 100000.0),
    (b"1e-400", 0.0),
    (b"5e-324", 5e-324),
    (b"1.7976931348623157e308", sys.float_info.max),
    (b"9007199254740993", 9007199254740993),
    (b"18446744073709551616", 2**64),
    (b"-9223372036854775809", -(2**63) - 1),
    (b"9" * 4000, int("9" * 4000)),
    (b"12345678901234567890.5", 12345678901234567890.5),
    (b'"\\u0000\\/\\ud83d\\ude00"', "\0/\U0001f600"),
    (b'"\\\\ud800"', "\\ud800"),
    (b'"a\x7fb"', "a\x7fb"),
    ('"\u2028\U0001f600"'.encode(), "\u2028\U0001f600"),
    (b'{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
    (b'{"":[[],{}]}', {"": [[], {}]}),
    (b" \t[1 , 2]\r\n ", [1, 2]),
    (b"[" * 200 + b"]" * 200, json.loads("[" * 200 + "]" * 200)),
]

REFUSED = {
    "nothing": b"",
    "blank": b"  ",
    "NaN": b"NaN",
    "nested NaN": b'{"a":[NaN]}',
    "Infinity": b"Infinity",
    "minus Infinity": b"[-Infinity]",
    "1e400": b"1e400",
    "-1e400": b'{"a":-1e400}',
    "rounded to infinity": b"1.7976931348623159e308",
    "lone high surrogate": b'"\\ud800"',
    "lone high surrogate, capitals": b'"\\uD800x"',
    "lone low surrogate": b'"\\udc00"',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "lone surrogate in a key": b'{"\\ud800":1}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "overlong UTF-8": b'"\xc0\xaf"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "broken UTF-8": b'"\xff"',
    "cut-off UTF-8": b'"\xe2\x82"',
    "5,000 digits": b"9" * 5000,
    "100,000 open arrays": b"[" * 100_000,
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "control character": b'"a\x01b"',
    "tab in a string": b'"\t"',
    "NUL": b"\x00",
    "NUL after a value": b"1\x00",
    "two values": b"1 2",
    "leading zero": b"01",
    "plus": b"+1",
    "no digit before the point": b".5",
    "no digit after the point": b"1.",
    "no exponent": b"1e",
    "hexadecimal": b"0x10",
    "single quotes": b"'a'",
    "bare key": b"{a:1}",
    "number as key": b"{1:2}",
    "trailing comma": b"[1,]",
    "trailing comma in an object": b'{"a":1,}',
    "missing comma": b"[1 2]",
    "missing colon": b'{"a" 1}',
    "comment": b"1//x",
    "capital": b"True",
    "unknown escape": b'"\\x"',
    "short escape": b'"\\u12"',
    "open string": b'"abc',
    "no-break space": b"\xc2\xa01",
    "vertical tab": b"\x0b1",
}


@pytest.fixture(params=list(CODECS))
def codec(request: pytest.FixtureRequest) -> ModuleType:
    return CODECS[str(request.param)]


def _refuses(function: Callable[[object], object], value: object) -> bool:
    try:
        function(value)
    except ValueError:  # no other exception leaves a codec
        return True
    return False


def test_both_codecs_are_what_they_say() -> None:
    assert CODECS["msgspec"].msgspec is not None
    assert CODECS["json"].msgspec is None


def test_the_package_works_in_an_environment_without_msgspec() -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None\n"
        "from corral.worker.contract import codec, jsonrpc\n"
        "peer = jsonrpc.Peer(); peer.request('a', {'b': 'ü'}, deadline=None)\n"
        "sys.stdout.buffer.write(peer.take())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout)["params"] == {"b": "ü"}


@pytest.mark.parametrize(("line", "value"), VALUES)
def test_a_document_has_one_value_in_both_codecs(codec: ModuleType, line: bytes, value: object) -> None:
    for form in (line, bytearray(line), memoryview(line)):
        read = codec.decode(form)
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_json_is_a_value_error_in_both_codecs(codec: ModuleType, line: bytes) -> None:
    assert _refuses(codec.decode, line)


def test_minus_zero_keeps_its_sign(codec: ModuleType) -> None:
    assert math.copysign(1, codec.decode(b"-0.0")) == -1
    assert math.copysign(1, codec.decode(codec.encode(-0.0))) == -1


def test_a_number_that_json_cannot_say_is_written_as_null(codec: ModuleType) -> None:
    inf = float("inf")
    assert codec.encode(float("nan")) == b"null"
    assert codec.encode({"a": [1.5, inf, (-inf,)], "b": {"c": float("nan")}}) == (
        b'{"a":[1.5,null,[null]],"b":{"c":null}}'
    )


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "it is nan"),
        ({"loss": [1.5, {"b": float("inf")}]}, "it['loss'][1]['b'] is inf"),
        ([None, (2.0, -float("inf"))], "it[1][1] is -inf"),
    ],
)
def test_a_number_that_somebody_has_computed_is_refused_by_its_place(
    codec: ModuleType, value: object, place: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{place}, ")):
        codec.encode_exactly(value)
    assert codec.encode_exactly({"a": [None, 1.5]}) == b'{"a":[null,1.5]}'


class Word(str):
    __slots__ = ()


class Real(float):
    __slots__ = ()


class Whole(int):
    pass


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


PLAIN: list[tuple[object, object]] = [
    (Word("x"), "x"),
    ([Real(1.5)], [1.5]),
    (Whole(7), 7),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    ((1, (2,)), [1, [2]]),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict[str, object](int, {"a": [1]}), {"a": [1]}),
    ({1: 2}, {"1": 2}),
    (2**64, 2**64),
    (-(2**70), -(2**70)),
    ("\0\x1f\x7f\u2028\U0001f600\n", "\0\x1f\x7f\u2028\U0001f600\n"),
]


@pytest.mark.parametrize(("value", "plain"), PLAIN)
def test_plain_values_are_written_alike(codec: ModuleType, value: object, plain: object) -> None:
    line = codec.encode(value)
    assert b"\n" not in line
    assert json.loads(line) == plain


def _deep() -> object:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


def _cycle() -> object:
    value: dict[str, object] = {}
    value["self"] = value
    return value


UNSPEAKABLE: dict[str, object] = {
    "object": object(),
    "class": Exception,
    "lone surrogate": "\ud800",
    "lone surrogate in a key": {"\udfff": 1},
    "10,000 digits": 10**10_000,
    "tuple as key": {(1, 2): 3},
    "generator": iter(()),
    "range": range(2),
    "complex": 1j,
    "cycle": _cycle(),
}


@pytest.mark.parametrize("value", UNSPEAKABLE.values(), ids=UNSPEAKABLE.keys())
@pytest.mark.parametrize("nested", [False, True])
def test_what_json_cannot_say_is_a_value_error(codec: ModuleType, value: object, nested: bool) -> None:
    assert _refuses(codec.encode, [{"a": value}, float("nan")] if nested else value)


def test_what_is_nested_too_deep_is_a_value_error(codec: ModuleType) -> None:
    deep = _deep()
    assert _refuses(codec.encode, {"a": deep})
    assert _refuses(codec.encode, [float("nan"), deep])


@pytest.mark.parametrize("value", [b"x", {1}, Decimal(1), None, {None: 1}, {True: 1}])
def test_what_only_one_codec_can_say_is_bytes_or_a_value_error(codec: ModuleType, value: object) -> None:
    try:
        line = codec.encode(value)
    except ValueError:
        return
    json.loads(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)
LETTERS = b'[]{}:,"\\ud8cD0-+.eE19ntfabx \t\r\n\x00\x7f\xc0\xed\xff\xef\xbb\xbf'


def _read(codec: ModuleType, line: bytes) -> str:
    try:
        return repr(codec.decode(line))
    except ValueError:
        return "ValueError"


@FUZZ
@given(st.binary() | st.lists(st.sampled_from(LETTERS), max_size=12).map(bytes))
def test_both_codecs_agree_on_any_bytes(line: bytes) -> None:
    assert _read(CODECS["msgspec"], line) == _read(CODECS["json"], line)


@pytest.mark.long
@FUZZ
@given(JSON, st.data())
def test_both_codecs_agree_on_json_with_an_error(value: object, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    line = bytearray(text.encode("utf-8", "surrogatepass"))
    at = data.draw(st.integers(0, len(line)))
    line[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert _read(CODECS["msgspec"], bytes(line)) == _read(CODECS["json"], bytes(line))


@pytest.mark.long
@FUZZ
@given(JSON)
def test_what_one_codec_writes_the_other_reads(value: object) -> None:
    refused = [_refuses(codec.encode, value) for codec in CODECS.values()]
    assert len(set(refused)) == 1
    lines = [] if refused[0] else [codec.encode(value) for codec in CODECS.values()]
    assert not any(b"\n" in line for line in lines)
    assert len({_read(codec, line) for codec in CODECS.values() for line in lines}) <= 1


@pytest.mark.parametrize("value", [{}, [], "x", 1, True, None])
def test_as_object_and_as_array_take_only_their_kind(codec: ModuleType, value: object) -> None:
    assert codec.as_object(value) == (value if isinstance(value, dict) else None)
    assert codec.as_array(value) == (value if isinstance(value, list) else None)


@pytest.mark.parametrize(
    ("line", "mended"),
    [
        (rb'"cut \ud83d"', "cut \ufffd"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d \\\ud83d"', "\\ud83d \\\ufffd"),
        (rb'"\u0041\n"', "A\n"),
    ],
)
def test_text_that_was_cut_within_a_character_can_be_mended(codec: ModuleType, line: bytes, mended: str) -> None:
    assert codec.decode(codec.without_lone_surrogates(line)) == mended


@pytest.mark.parametrize("name", CODECS)
def test_a_byte_order_mark_is_passed_over(name: str) -> None:
    assert CODECS[name].decode(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match=r"."):
        CODECS[name].decode(b"\xef\xbb\xbf")
