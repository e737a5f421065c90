"""Expressions of workflows: what they give, what they refuse, and that nothing gets out of them."""

from typing import Any

import pytest

from corral.supervisor.config.decoding.expression import (
    MAX_BYTES,
    BadExpression,
    Use,
    condition_uses,
    holds,
    is_reference,
    rendered,
    uses,
    value_of,
)

pytestmark = pytest.mark.core

NAMES: dict[str, Any] = {
    "input": {
        "url": "u",
        "n": [1, 2, {"deep": True}],
        "a-b": 7,
        "text": 'say "x"',
        "none": None,
        "flags": {"x": [True]},
        "counts": {"x": [1]},
    },
    "steps": {"gather": {"state": "succeeded", "output": {"count": 2, "items": ["a", "b"]}}},
    "item": "it",
    "index": 3,
}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${input.url}", "u"),
        ("${input.n}", [1, 2, {"deep": True}]),
        ("${input.n[0]}", 1),
        ("${input.n[-1].deep}", True),
        ('${input["a-b"]}', 7),
        ("${input.none}", None),
        ("read ${input.url}: ${input.n[1]} of ${steps.gather.output.items}", 'read u: 2 of ["a","b"]'),
        ("${input.none} ${input.n[2].deep}", "null true"),
        ("$${input.url} costs $5", "${input.url} costs $5"),
        ("a } b { c", "a } b { c"),
        ('${input["url"] == "}"}', False),
        ("${len(steps.gather.output.items)}", 2),
        ("${[input.url, index, -1]}", ["u", 3, -1]),
        ({"a": ["${item}", {"b": "${index}"}], "c": 4}, {"a": ["it", {"b": 3}], "c": 4}),
        (5, 5),
        (None, None),
    ],
)
def test_a_reference_gives_what_stands_there(template: object, value: object) -> None:
    uses(template)
    assert rendered(template, NAMES) == value


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("steps.gather.output.count > 0", True),
        ("steps.gather.output.count > 2", False),
        ("1 < steps.gather.output.count <= 2", True),
        ('steps.gather.state == "succeeded"', True),
        ("input.none == null", True),
        ("input.n[2].deep == 1", False),
        ("input.n[0] == true", False),
        ("input.n[0] == 1.0", True),
        ("not input.none", True),
        ('"count" in steps.gather.output and steps.gather.output.count', True),
        ('"missing" in steps.gather.output and steps.gather.output.missing', False),
        ('"b" in steps.gather.output.items', True),
        ('"z" not in steps.gather.output.items', True),
        ('"ay" in input.text', True),
        ("true in [1]", False),
        ("[true] == [1]", False),
        ("[[0], 1] == [[false], 1]", False),
        ("[true] in [[1]]", False),
        ("[1, [2.0], null] == [1.0, [2], null]", True),
        ("[1] != [1, 2]", True),
        ("input.flags == input.counts", False),
        ("input.flags == input.flags", True),
        ("input.none or input.url", True),
        ('"a" < "b"', True),
        ("len(input.text) >= 7", True),
        ("false", False),
    ],
)
def test_a_condition_is_met_or_not(text: str, is_met: bool) -> None:
    condition_uses(text)
    assert holds(text, NAMES) is is_met


@pytest.mark.parametrize(
    "text",
    [
        "${",
        "${}",
        "${ }",
        "${input.url",
        "${input.}",
        "${1 + 1}",
        "${steps.my-step.output}",
        "${input.url.upper()}",
        "${open('/etc/passwd')}",
        "${__import__('os')}",
        "${len(input, input)}",
        "${lambda: 1}",
        "${[x for x in input.n]}",
        "${{1: 2}}",
        "${input if input else 1}",
        "${input is null}",
        "${input.n[0:1]}",
        "${f'{input}'}",
        "${b'x'}",
        "${1j}",
        "${1e999}",
        "${...}",
        "${(a := 1)}",
        "${await x}",
        "${not " + "not " * 100 + "1}",
        "${" + "(" * 300 + "1" + ")" * 300 + "}",
        "${" + "a" * 2000 + "}",
        "${'\ud800'}",
        r"${'\ud800'}",
        r"${input['\udfff']}",
        "${0x" + "f" * 17 + "}",
    ],
)
def test_what_is_not_known_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(BadExpression):
        uses(text)
    with pytest.raises(BadExpression):
        uses({"a": [text]})


def test_a_template_that_is_too_deep_is_refused() -> None:
    nested: object = "${input}"
    for _ in range(100):
        nested = [nested]
    with pytest.raises(BadExpression):
        uses(nested)


@pytest.mark.parametrize(
    "text",
    [
        "${nobody}",
        "${input.missing}",
        "${input.url.length}",
        "${input.n.first}",
        "${input.n[3]}",
        "${input.n[true]}",
        "${input.n['0']}",
        "${input[0]}",
        "${input.url[0]}",
        "${input.none.x}",
        "${input.url < 1}",
        "${true < 2}",
        "${-input.url}",
        "${len(index)}",
        "${1 in input.url}",
        "${1 in index}",
        "${input.__class__}",
    ],
)
def test_what_has_no_value_says_why(text: str) -> None:
    uses(text)
    with pytest.raises(BadExpression) as caught:
        rendered(text, NAMES)
    assert caught.value.reason


def test_an_error_does_not_repeat_the_value() -> None:
    with pytest.raises(BadExpression) as caught:
        rendered("${input.key.x}", {"input": {"key": "a secret"}})
    assert "secret" not in caught.value.reason


def test_what_a_template_makes_is_bounded() -> None:
    names = {"input": {"long": "x" * (MAX_BYTES // 4), "list": ["x" * (MAX_BYTES // 4)]}}
    assert rendered("${input.long}", names)
    for template in ("${input.long}" * 5, ["${input.long}"] * 5, ["${input.list}"] * 5):
        with pytest.raises(BadExpression):
            rendered(template, names)


def test_a_value_that_no_record_could_hold_is_refused() -> None:
    deep: object = "end"
    for _ in range(20_000):  # which no Python's encoder goes down
        deep = [deep]
    for template in ("${input}", "it is ${input}", [["${input}"]]):
        with pytest.raises(BadExpression):
            rendered(template, {"input": deep})


def test_a_value_is_taken_as_it_is_however_large() -> None:
    items = ["x" * MAX_BYTES, "y"]
    assert value_of("${input.items}", {"input": {"items": items}}) is items


def test_uses_name_the_constant_part_of_each_path() -> None:
    found = uses({"a": "${steps.gather.output[index]} ${len(input.n)}", "b": '${steps["a-b"].state}'})
    assert found == {
        Use("index", ()),
        Use("steps", ("gather", "output")),
        Use("input", ("n",)),
        Use("steps", ("a-b", "state")),
    }
    assert condition_uses("steps.a.output and not true") == {Use("steps", ("a", "output"))}


def test_a_reference_is_a_text_that_is_nothing_else() -> None:
    assert is_reference("${input}")
    assert not is_reference("${input} ")
    assert not is_reference("${input}${input}")
    assert not is_reference("input")
    assert not is_reference(["${input}"])
