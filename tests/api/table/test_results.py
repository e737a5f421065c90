"""A key that a room adds to its answer is noticed, not dropped."""

import pytest
from msgspec import Struct

from corral.supervisor.api.table.handlers import as_result


class Inner(Struct, frozen=True):
    a: int = 0


class Outer(Struct, frozen=True, rename="camel"):
    one_inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    by_name: dict[str, list[Inner]] = {}
    free: object = None


WHOLE = {"oneInner": {"a": 1}, "inners": [{"a": 2}], "byName": {"x": [{"a": 3}]}, "free": {"any": [{"key": 1}]}}


def test_an_answer_is_the_result_that_it_describes() -> None:
    expected = Outer(Inner(1), (Inner(2),), {"x": [Inner(3)]}, {"any": [{"key": 1}]})
    assert as_result(WHOLE, Outer) == expected
    assert as_result([WHOLE, {}], list[Outer]) == [expected, Outer()]


@pytest.mark.parametrize(
    "more",
    [
        {"other": 1},
        {"oneInner": {"a": 1, "b": 2}},
        {"inners": [{"a": 2}, {"b": 2}]},
        {"byName": {"x": [], "y": [{"b": 1}]}},
    ],
)
def test_a_key_that_no_result_has_is_noticed_wherever_it_is(more: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match=r"Outer: .*other|Inner: .*b"):
        as_result({**WHOLE, **more}, Outer)
    with pytest.raises(AssertionError):
        as_result([{**WHOLE, **more}], list[Outer])
