"""The cost of a check is bounded whatever a schema nests: what the library checks again and again is counted as often."""

import itertools
import random
import time
from typing import Any

import pytest

from corral.mcp.pool.validation import Schema
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from seeds import seeds

BOUND_S = 0.5
"""Processor time of one check that is let through: 0.05 s on a quiet machine; what is undercounted takes seconds to hours."""

CASES = 400

UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLE = ("not", "items", "additionalProperties", "contains", "propertyNames")
NAMED = ("properties", "dependentSchemas", "patternProperties")

Json = dict[str, Any]


def nested(levels: int, keyword: str, unevaluated: str) -> Json:
    """A schema of some levels, each of which applies the next in place and asks what that has evaluated."""
    schema: Json = {"type": ["object", "array"]}
    for _ in range(levels):
        inner: Any = [schema] if keyword in LISTS else {"a": schema} if keyword in NAMED else schema
        schema = {unevaluated: {"type": "integer"}, keyword: inner, **({"then": True} if keyword == "if" else {})}
    return schema


def by_reference(levels: int) -> Json:
    definitions: Json = {"d0": {"type": "object"}}
    for number in range(1, levels + 1):
        inner = [{"$ref": f"#/$defs/d{number - 1}"}]
        definitions[f"d{number}"] = {"unevaluatedProperties": {"type": "integer"}, "anyOf": inner}
    return {"$defs": definitions, "$ref": f"#/$defs/d{levels}"}


def drawn(chance: random.Random, levels: int, names: list[str]) -> Json:
    schema: Json = {"type": chance.choice(["object", "array", "string"])} if chance.random() < 0.3 else {}
    for _ in range(chance.randint(1, 3) if levels else 0):
        keyword = chance.choice((*LISTS, *SINGLE, *NAMED, *UNEVALUATED, *UNEVALUATED, "if", "$ref"))
        if keyword in LISTS:
            schema[keyword] = [drawn(chance, levels - 1, names) for _ in range(chance.randint(1, 2))]
        elif keyword in NAMED:
            schema[keyword] = {chance.choice("ab"): drawn(chance, levels - 1, names)}
        elif keyword in UNEVALUATED:
            schema[keyword] = chance.choice([True, False, {"type": "integer"}])
        elif keyword == "$ref":
            schema.update({"$ref": f"#/$defs/{chance.choice(names)}"} if names else {})
        else:
            schema[keyword] = drawn(chance, levels - 1, names)
    return schema


def value(chance: random.Random, levels: int) -> object:
    if not levels:
        return chance.choice([1, "a", None, 1.5])
    parts = [value(chance, levels - 1) for _ in range(chance.randint(1, 4))]
    return parts if chance.random() < 0.5 else dict(zip("abcd", parts, strict=False))


@pytest.mark.parametrize("unevaluated", UNEVALUATED)
@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf", "if", "not", "dependentSchemas"])
def test_twenty_levels_that_ask_what_was_evaluated_are_refused(keyword: str, unevaluated: str) -> None:
    with pytest.raises(InvalidParams, match="too wide"):
        Schema(nested(20, keyword, unevaluated))


def test_twenty_levels_by_reference_are_refused() -> None:
    with pytest.raises(InvalidParams, match="too wide"):
        Schema(by_reference(20))


def test_a_few_levels_are_checked() -> None:
    assert Schema(nested(4, "anyOf", "unevaluatedProperties")).faults({"a": 1}) == []
    assert Schema(by_reference(4)).faults({"a": "text"}) != []


@pytest.mark.parametrize("seed", seeds(5, 2))
def test_whatever_a_schema_nests_a_check_is_short_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    for number in range(CASES):
        names = [f"d{each}" for each in range(chance.randint(0, 5))]
        definitions = {name: drawn(chance, chance.randint(1, 3), names[:at]) for at, name in enumerate(names)}
        schema: Json = {**drawn(chance, chance.randint(2, 6), names), "$defs": definitions}
        for inner in itertools.repeat("anyOf", chance.choice([0, 0, 4, 8])):
            again = {chance.choice(UNEVALUATED): {"type": "integer"}}
            schema = {**again, inner: [{k: v for k, v in schema.items() if k != "$defs"}], "$defs": definitions}
        try:
            checked = Schema(schema)
            given = value(chance, chance.randint(1, 4))
            started = time.thread_time()
            checked.faults(given)
        except (InvalidParams, ResourceLimitExceeded):
            continue
        assert time.thread_time() - started < BOUND_S, f"seed {seed}, case {number}: {schema}"


# -- patterns, long values, and the explanation of what is wrong


def text(chance: random.Random) -> str:
    return "".join(chance.choice("ab") for _ in range(chance.choice([20, 1_000, 20_000, 300_000])))


def pattern(chance: random.Random, levels: int) -> str:
    parts = list[str]()
    for _ in range(chance.randint(1, 4)):
        is_group = levels and chance.random() < 0.5
        parts += f"({pattern(chance, levels - 1)})" if is_group else chance.choice(["a", "[ab]", ".", r"\w", "[a-c]"])
        parts += chance.choice(["", "", "*", "+", "?", "{1,9}", "{0,30}", "{100}", "{1,250}", "|"])
    return "".join(parts).rstrip("|")


def long(chance: random.Random) -> object:
    number = chance.choice([100, 1_000, 10_000])
    if chance.random() < 0.5:
        return {f"a{each}": chance.choice([1, "a", []]) for each in range(number)}
    return [chance.choice([each, {"a": each}, [each]]) for each in range(number)]


def taken_s(schema: Json, given: object) -> float:
    """The processor time of a check that is let through; 0 for what is refused."""
    try:
        checked = Schema(schema)
        started = time.thread_time()
        checked.faults(given)
    except (InvalidParams, ResourceLimitExceeded):
        return 0.0
    return time.thread_time() - started


@pytest.mark.parametrize(
    "repeated", ["[ab]{1,2000}c", "([ab]{1,9}){1,99}c", "(([ab]{1,9}){1,9}){1,9}c", "[ab]{1,400}c{400}"]
)
def test_a_pattern_that_repeats_too_much_is_refused(repeated: str) -> None:
    with pytest.raises(InvalidParams, match="pattern"):
        Schema({"pattern": repeated})


@pytest.mark.parametrize(
    "usual", ["^[a-z0-9-]{1,63}$", r"^[\w.+-]+@[\w-]+\.[\w.-]+$", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"]
)
def test_usual_patterns_are_checked_beside_a_long_text(usual: str) -> None:
    schema = Schema({"properties": {"name": {"pattern": usual}, "body": {"type": "string"}}})
    assert schema.faults({"name": "!", "body": "words " * 10_000})[0]["path"] == "name"


def test_ten_thousand_members_that_were_not_evaluated_are_refused_in_a_moment() -> None:
    schema: Json = {"anyOf": [{"oneOf": [{"items": False}, True]}], "unevaluatedProperties": {"type": "object"}}
    assert 0.0 < taken_s(schema, {f"a{each}": 1 for each in range(10_000)}) < BOUND_S


def test_a_value_that_is_too_long_to_be_explained_is_refused_all_the_same() -> None:
    schema = Schema({"items": {"anyOf": [{"type": "string"}, {"type": "null"}]}})
    (fault,) = schema.faults([1] * 20_000)
    assert fault["path"] == ""


@pytest.mark.parametrize("seed", seeds(5, 2))
def test_however_long_a_value_and_whatever_its_patterns_a_check_is_short_or_refused(seed: int) -> None:
    chance = random.Random(f"long {seed}")
    for number in range(40):
        names = [f"d{each}" for each in range(chance.randint(0, 3))]
        schema = drawn(chance, chance.randint(1, 5), names)
        schema["$defs"] = {name: drawn(chance, 2, names[:at]) for at, name in enumerate(names)}
        if chance.random() < 0.5:
            schema["pattern"] = pattern(chance, 3) + "c"
        for given in (long(chance), text(chance)):
            assert taken_s(schema, given) < BOUND_S, f"seed {seed}, case {number}: {schema}"
