"""What the error of a record holds of an error of any length: its class, its message, its short facts."""

from typing import Any

import msgspec
import pytest

from corral.supervisor.tasks.attempt import ERROR_BYTES, ERROR_LEAST_BYTES, bounded, error_room
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.contract.records import Error

pytestmark = pytest.mark.shell


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_an_error_for_which_there_is_room_stays_as_it_is() -> None:
    error = Error(-33013, "TaskFailed", "no", {"a": 1, "b": "x" * 1000})
    assert bounded(error, ERROR_BYTES) is error


@pytest.mark.parametrize("limit", [1000, ERROR_LEAST_BYTES, ERROR_BYTES])
def test_a_longer_one_keeps_its_short_facts_and_names_the_others(limit: int) -> None:
    facts: dict[str, object] = {"long": "x" * limit, "deep": nested(900), "short": 7}
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
