"""A schema for an output is refused or holds, never passed over, never slow; an error of any length fits into a record."""

import json
from typing import Any

import msgspec
import pytest

from corral.supervisor.tasks.rules.payload import (
    ERROR_BYTES,
    ERROR_LEAST_BYTES,
    MAX_SCHEMA_BYTES,
    bounded,
    check_format,
    check_output,
    check_result,
    error_room,
)
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded, TaskFailed
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.contract.records import Error, OutputFormat, Task

pytestmark = pytest.mark.shell


def nested(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


WIDE: dict[str, object] = {
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {"type": "string"}},
    "$ref": "#/$defs/d0",
}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integr"},
        {"minimum": "3"},
        {"pattern": "("},
        {"pattern": "(a{1,1000}){1,1000}"},
        {"$ref": "https://example.org/schema"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/nowhere"},
        {"$dynamicRef": "#a"},
        {"$schema": "https://example.org/dialect"},
        {"description": "x" * MAX_SCHEMA_BYTES},
        nested(200),
        WIDE,
    ],
    ids=lambda schema: json.dumps(schema)[:30],
)
def test_a_schema_that_cannot_be_applied_is_refused_with_the_reason(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidParams) as refused:
        check_format(OutputFormat(schema=schema))
    assert refused.value.data["key"] == "output_format.schema"
    assert refused.value.data["reason"]


def test_what_asks_for_nothing_is_taken() -> None:
    for form in (None, OutputFormat(), OutputFormat("words"), OutputFormat(schema={})):
        check_format(form)
        check_output(Task(id="t", agent="a", output_format=form), {"any": "thing"})


def asked(schema: dict[str, object] | bool) -> Task:
    form = OutputFormat(schema=schema)
    check_format(form)
    return Task(id="t", agent="a", worker="a-0", output_format=form)


def test_some_of_many_faults_are_reported_with_the_first_in_front() -> None:
    task = asked({"items": {"type": "integer"}})
    with pytest.raises(TaskFailed) as failed:
        check_output(task, ["x", 1, "y", *"abcdefgh"])
    errors: Any = failed.value.data["errors"]
    assert [each["path"] for each in errors] == ["[0]", "[2]", "[3]", "[4]", "[5]"]
    assert (failed.value.data["path"], failed.value.data["worker"]) == ("[0]", "a-0")


def test_a_number_that_is_too_large_for_most_is_judged_too() -> None:
    check_output(asked({"type": "integer"}), 10**40)
    with pytest.raises(TaskFailed):
        check_output(asked({"type": "string"}), 10**40)


def test_what_could_take_long_to_check_is_refused_by_its_limit() -> None:
    """A recursive schema whose work doubles with each level of the output."""
    tree: dict[str, object] = {"properties": {"a": {"$ref": "#"}}, "anyOf": [{"items": {"$ref": "#"}}, True]}
    value: object = 1
    for _ in range(40):
        value = {"a": value}
    with pytest.raises(ResourceLimitExceeded) as refused:
        check_output(asked(tree), value)
    assert refused.value.data["limit"] == "schema_steps"


def test_a_long_output_is_held_against_a_plain_schema() -> None:
    rows: list[dict[str, object]] = [{"name": "x", "sizes": [1, 2.5]} for _ in range(50_000)]
    row: dict[str, object] = {"type": "object", "properties": {"sizes": {"items": {"type": "number"}}}}
    check_output(asked({"type": "array", "items": row}), rows)
    rows[-1]["sizes"] = ["many"]
    with pytest.raises(TaskFailed) as failed:
        check_output(asked({"type": "array", "items": row}), rows)
    assert failed.value.data["path"] == "[49999].sizes[0]"


def test_an_output_that_could_be_read_but_not_passed_on_is_refused() -> None:
    task = Task(id="1", agent="team", kind="team")
    deep: object = "end"
    for _ in range(20_000):  # which no Python's encoder goes down
        deep = [deep]
    with pytest.raises(ResourceLimitExceeded):
        check_result(task, deep, 0)
    check_result(task, [["shallow"]], 0)


# -- the error of a record


def nested_list(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_an_error_for_which_there_is_room_stays_as_it_is() -> None:
    error = Error(-33013, "TaskFailed", "no", {"a": 1, "b": "x" * 1000})
    assert bounded(error, ERROR_BYTES) is error


@pytest.mark.parametrize("limit", [1000, ERROR_LEAST_BYTES, ERROR_BYTES])
def test_a_longer_one_keeps_its_short_facts_and_names_the_others(limit: int) -> None:
    facts: dict[str, object] = {"long": "x" * limit, "deep": nested_list(20_000), "short": 7}
    facts |= {"\x01" * limit + str(n): n for n in range(9)}
    found = bounded(Error(-33013, "TaskFailed", "\x01" * limit, facts), limit)
    assert (found.code, found.name) == (-33013, "TaskFailed")
    assert found.message
    assert found.data["short"] == 7
    omitted: Any = found.data["omitted"]
    assert omitted[:2] == ["long", "deep"]
    assert len(msgspec.json.encode(found)) <= limit + 1000  # beside the names


def test_there_is_room_for_an_error_beside_words_of_any_length() -> None:
    assert error_room(0) == ERROR_BYTES
    assert error_room(MAX_MESSAGE_BYTES) == ERROR_LEAST_BYTES
