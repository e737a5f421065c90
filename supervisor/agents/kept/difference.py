"""Compares two tables key by key, for people; values in, values out."""

from collections.abc import Mapping
from typing import NamedTuple

from corral.worker.contract import codec


class Difference(NamedTuple):
    """Represents a key that differs, such as `tasks.max_attempts`; a value is None where the table has no such key."""

    key: str
    before: object
    after: object


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[Difference]:
    """Returns the keys that differ, in the order of their names; a table within a table is compared by its own keys."""
    one, other = _flat(before, ""), _flat(after, "")
    return [
        Difference(key, one.get(key), other.get(key))
        for key in sorted({*one, *other})
        if key not in one or key not in other or one[key] != other[key]
    ]


def _flat(table: Mapping[str, object], above: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in table.items():
        inner = codec.as_object(value)
        if inner:
            found |= _flat(inner, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
