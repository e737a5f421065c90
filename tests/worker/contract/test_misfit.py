"""A param that does not fit its shape is refused in plain English: the key, the value, what to write; no decoder's words."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from corral.supervisor.tasks.worker_api.requests import convert
from corral.worker.contract import worker_messages
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.misfit import misfit_of
from corral.worker.methods.table import METHODS

pytestmark = pytest.mark.contract

FOREIGN = ("Expected", "$", "`", "got ", "Invalid", "Object ", "enum", "array", "`str`", "missing required")
"""Words of the decoder."""


class Inner(Struct, forbid_unknown_fields=True):
    name: str


class Sample(Struct, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=1, le=5)] = 1
    share: Annotated[float, Meta(gt=0, lt=2)] = 1
    text: Annotated[str, Meta(min_length=1, max_length=3, pattern="^a")] = "a"
    names: Annotated[list[str], Meta(max_length=2)] = []
    word: Literal["one", "two"] = "one"
    maybe: int | None = None
    inner: Inner | None = None
    inners: list[Inner] = []
    secret: str = ""


CASES: list[tuple[object, str]] = [
    ({"count": 0}, "count = 0: write a whole number of at least 1"),
    ({"count": 9}, "count = 9: write a whole number of at most 5"),
    ({"count": "x"}, 'count = "x": write a whole number'),
    ({"count": 1.5}, "count = 1.5: write a whole number"),
    ({"share": 0}, "share = 0: write a number more than 0"),
    ({"share": 2}, "share = 2: write a number less than 2"),
    ({"text": ""}, 'text = "": write a text that is not empty'),
    ({"text": "aaaa"}, 'text = "aaaa": write at most 3 characters'),
    ({"text": "b"}, 'text = "b": write a text that matches a'),
    ({"names": 1}, "names = 1: write a list"),
    ({"names": ["a", 1]}, "names[1] = 1: write a text"),
    ({"names": ["a", "b", "c"]}, 'names = ["a", "b", "c"]: write at most 2 items'),
    ({"word": "three"}, 'word = "three": write "one" or "two"'),
    ({"maybe": "x"}, 'maybe = "x": write a whole number or null'),
    ({"inner": {}}, "inner.name: it is missing"),
    ({"inner": {"name": 3}}, "inner.name = 3: write a text"),
    ({"cuont": 1}, 'cuont: unknown key; did you mean "count"?'),
    ({"inner": {"nmae": "x"}}, 'inner.nmae: unknown key; did you mean "name"?'),
    ({"inners": [{"nmae": "x"}]}, 'inners[0].nmae: unknown key; did you mean "name"?'),
    ({"inner": {"x": "x"}}, "inner.x: unknown key; known are name"),
    ({"secret": 12345}, "secret: write a text"),
    ([], "write an object"),
]


@pytest.mark.parametrize(("value", "words"), CASES)
def test_a_misfit_names_key_value_and_rule(value: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Sample)
    assert misfit_of(caught.value, value, Sample).words == words


def shapes() -> Iterator[tuple[str, type[Struct]]]:
    """The params of every method of the control socket, and all messages of workers."""
    yield from ((name, method.params) for name, method in METHODS.items())
    for name, shape in vars(worker_messages).items():
        if isinstance(shape, type) and issubclass(shape, Struct) and shape is not Struct:
            yield name, shape


WRONG: list[Any] = [None, True, -1, 1e300, 10**30, "", "\0wrong", [], [[]], {}, {"odd": [{}]}]


def refusals() -> Iterator[InvalidParams]:
    """The errors of calls of every method, each with one value that is probably wrong."""
    for name, shape in shapes():
        calls: list[dict[str, object]] = [{}, {"no_such_key": 1}]
        calls += [{key: value} for key in shape.__struct_fields__ for value in WRONG]
        for params in calls:
            try:
                convert(params, shape, name)
            except InvalidParams as error:
                yield error


def test_no_word_of_the_decoder_reaches_a_caller_of_any_method() -> None:
    found = list(refusals())
    assert len(found) > 1000
    for error in found:
        rule = str(error.data["reason"])
        assert [word for word in FOREIGN if word in rule] == [], error.message
        assert error.message.startswith(f'cannot call "{error.data["method"]}": ')
        assert error.message.endswith(rule)
        assert error.data["key"]
