"""The one decoder of configuration: keys from a Struct's annotations, and refusals with the whole path of the key."""

from typing import Annotated, Literal, cast

import pytest
from msgspec import Struct

from corral.supervisor.config.decoding.decoder import Document, decode_key
from corral.supervisor.config.decoding.keys import Field, fields_of
from corral.supervisor.config.decoding.values import Path, Paths, Refused, RefusedKey, Seconds, whole
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core


class Section(Struct, frozen=True, kw_only=True):
    name: str = ""
    enabled: bool = True
    mode: Literal["one", "two"] = "one"
    count: Annotated[int, whole(1, 9)] | None = None
    wait: Seconds = 1.0
    folder: Path = ""
    folders: Paths = ()


FIELDS = fields_of(Section)


def test_the_keys_are_the_fields_with_a_rule_in_their_order() -> None:
    assert list(FIELDS) == ["enabled", "mode", "count", "wait", "folder", "folders"]


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("enabled", False, False),
        ("mode", "two", "two"),
        ("count", 3, 3),
        ("wait", "500ms", 0.5),
        ("folder", "x/y", "/etc/x/y"),
        ("folder", "/x", "/x"),
        ("folders", ["a", "/b"], ("/etc/a", "/b")),
    ],
)
def test_a_value_passes_the_rules_of_its_annotation(key: str, raw: object, value: object) -> None:
    assert decode_key(key, raw, FIELDS, directory="/etc") == value


@pytest.mark.parametrize(("key", "raw"), [("enabled", 1), ("mode", "three"), ("count", 0), ("wait", -1), ("absent", 1)])
def test_a_refusal_names_the_key_and_the_value(key: str, raw: object) -> None:
    with pytest.raises(RefusedKey) as refused:
        decode_key(key, raw, FIELDS)
    assert (refused.value.path, refused.value.item) == ((key,), raw)


def test_a_refusal_inside_a_value_has_the_whole_path() -> None:
    def inner(raw: object) -> object:
        table = cast(dict[str, object], raw)
        return {key: decode_key(key, value, FIELDS) for key, value in table.items()}

    outer = {"table": Field((inner,))}
    document = Document("x.toml", "[a.table]\ncount = 0\n")
    with document.collecting():
        document.decode(("a",), {"table": {"count": 0}}, outer)
    with pytest.raises(InvalidParams) as error:
        document.check()
    assert error.value.data["key"] == "a.table.count"
    assert error.value.data["line"] == 2


def test_the_culprit_of_a_rule_is_shown_in_place_of_the_whole_value() -> None:
    def rule(raw: object) -> object:
        raise Refused("write another", "culprit")

    with pytest.raises(RefusedKey) as refused:
        decode_key("key", ["a", "culprit"], {"key": Field((rule,))})
    assert refused.value.item == "culprit"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert decode_key("count", 3.0, FIELDS) == 3
    assert type(decode_key("count", 3.0, FIELDS)) is int
    with pytest.raises(RefusedKey):
        decode_key("count", 3.5, FIELDS)
