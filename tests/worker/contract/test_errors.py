"""The one table of errors: class, code and exit status, both ways; and what hostile peers make of it."""

from typing import cast

import pytest

from corral.worker.contract import errors
from corral.worker.contract.errors import CLASSES, CorralError, InternalError, from_wire

pytestmark = pytest.mark.contract

TABLE = [
    ("ParseError", -32700, 2),
    ("InvalidRequest", -32600, 2),
    ("MethodNotFound", -32601, 2),
    ("InvalidParams", -32602, 2),
    ("InternalError", -32603, 2),
    ("Unreachable", -33000, 6),
    ("NotFound", -33001, 3),
    ("Conflict", -33002, 4),
    ("PermissionDenied", -33003, 4),
    ("Timeout", -33004, 5),
    ("ResourceLimitExceeded", -33005, 7),
    ("NotInitialized", -33006, 4),
    ("ShuttingDown", -33007, 4),
    ("SpawnFailed", -33008, 1),
    ("WorkerFailed", -33009, 1),
    ("Cancelled", -33010, 8),
    ("Overloaded", -33011, 7),
    ("ToolFailed", -33012, 1),
    ("TaskFailed", -33013, 1),
    ("Corrupted", -33014, 1),
]


@pytest.mark.parametrize(("name", "code", "exit_status"), TABLE)
def test_each_class_has_its_code_and_its_exit_status(name: str, code: int, exit_status: int) -> None:
    cls = cast("type[CorralError]", getattr(errors, name))
    error = cls("cannot", limit=1)
    assert (error.name, error.code, error.exit_status) == (name, code, exit_status)
    assert CLASSES[code] is cls


def test_the_table_has_no_other_class_and_no_other_code() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, CorralError) and value is not CorralError
    }
    assert defined == {name for name, _, _ in TABLE}
    assert set(CLASSES) == {code for _, code, _ in TABLE}


def test_a_class_of_a_program_takes_no_place_in_the_table() -> None:
    class Declined(errors.Conflict):
        """An error of a program, which is a Conflict for others."""

    assert (Declined.code, Declined.exit_status, Declined.http_status) == (-33002, 4, 409)
    assert CLASSES[Declined.code] is errors.Conflict


@pytest.mark.parametrize("code", [code for _, code, _ in TABLE])
def test_an_error_comes_back_from_the_wire_as_it_was_sent(code: int) -> None:
    sent = CLASSES[code]('cannot find "x"', limit="message", value=3)
    assert sent.to_wire() == {"code": code, "message": sent.message, "data": sent.data}
    back = from_wire(sent.to_wire())
    assert type(back) is type(sent)
    assert (back.message, back.data) == (sent.message, sent.data)


def test_a_record_names_the_class() -> None:
    record = errors.NotFound("cannot find it", agent="a").to_record()
    assert record == {"code": -33001, "name": "NotFound", "message": "cannot find it", "data": {"agent": "a"}}


@pytest.mark.parametrize("code", [0, 1, -32000, -33099, 10**30, None, True, "-33001", -33001.0, []])
def test_an_unknown_code_is_an_internal_error_that_keeps_it(code: object) -> None:
    error = from_wire({"code": code, "message": "m", "data": {"x": 1}})
    assert type(error) is InternalError
    assert error.data == {"x": 1, "code": code}
    assert error.message == "m"


@pytest.mark.parametrize("shape", [None, 1, "text", True, [], [1], 1.5])
def test_an_error_that_is_no_object_is_an_internal_error(shape: object) -> None:
    error = from_wire(shape)
    assert type(error) is InternalError
    assert error.data == {"error": shape}


@pytest.mark.parametrize("message", [None, "", 0, {}, [], {"a": 1}, [1], 5, True])
def test_a_message_of_any_type_is_read_as_text(message: object) -> None:
    error = from_wire({"code": -33001, "message": message})
    assert type(error) is errors.NotFound
    assert error.message
    assert error.data == {}


@pytest.mark.parametrize("data", ["text", 1, [1], True, 0, ""])
def test_data_that_is_no_object_is_kept_under_its_own_key(data: object) -> None:
    assert from_wire({"code": -33001, "message": "m", "data": data}).data == {"data": data}


def test_no_name_of_a_fact_is_taken_for_an_argument_of_ours() -> None:
    facts = {"self": 1, "message": 2, "code": 3, "data": 4, "": 5, "a b": 6, "args": 7}
    assert from_wire({"code": -33001, "message": "m", "data": facts}).data == facts
    assert from_wire({"code": 7, "message": "m", "data": facts}).data == {**facts, "code": 7}
