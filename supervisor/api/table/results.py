"""Makes the parts that several results share.

It must not know a method.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import msgspec
from msgspec import UNSET, Struct

from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Error

T = TypeVar("T")


def recorded_values(result: object, keys: tuple[str, ...]) -> dict[str, object]:
    """Returns these keys of a result as plain values, without those that it lacks."""
    found = {key: getattr(result, key, UNSET) for key in keys}
    return {key: msgspec.to_builtins(each) for key, each in found.items() if each is not UNSET}


def error_records(errors: Mapping[str, CorralError]) -> dict[str, Error]:
    """Returns errors by name as results have them."""
    return {name: Error.of(error) for name, error in errors.items()}


def as_result(found: object, type_: type[T]) -> T:
    """Returns what a room answers as a result of the table, to which no key is unknown."""
    result = msgspec.convert(found, type_)
    _check_keys(found, result)
    return result


def _check_keys(found: object, result: object) -> None:
    entries, keys = codec.as_array(found), codec.as_object(found)
    if entries is not None:
        results = cast("Sequence[object]", result) if entries else ()
        for each, converted in zip(entries, results, strict=True):
            _check_keys(each, converted)
    elif keys is not None and isinstance(result, Struct):
        names = dict(zip(result.__struct_encode_fields__, result.__struct_fields__, strict=True))
        assert keys.keys() <= names.keys(), f"{type(result).__name__}: {keys.keys() - names}"
        for key, value in keys.items():
            if isinstance(value, list | dict):
                _check_keys(cast("object", value), getattr(result, names[key]))
    elif keys is not None and found is not result:
        results_by_key = codec.as_object(result) or {}
        for key, value in keys.items():
            _check_keys(value, results_by_key[key])
