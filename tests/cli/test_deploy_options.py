"""The options of `corral deploy`, as params."""

import pytest

from corral.cli.packages.package import nested, percent
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("text", "found"), [("10%", 10), ("1", 1), ("99%", 99)])
def test_a_share_is_a_whole_number_of_percent(text: str, found: int) -> None:
    assert percent(text) == found


@pytest.mark.parametrize("text", ["0%", "100%", "-1", "1.5%", "ten", "", "²%"])
def test_a_share_of_none_or_of_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        percent(text)


def test_settings_are_json_or_text_and_their_keys_may_be_inner_ones() -> None:
    given = ("instances=3", "title=The kit", "resources.max_memory_bytes=1GiB", "resources.nice=1", "x=null")
    assert nested(given) == {
        "instances": 3,
        "title": "The kit",
        "resources": {"max_memory_bytes": "1GiB", "nice": 1},
        "x": None,
    }


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(InvalidParams):
        nested(["instances"])
