"""The list of scenarios names only tests that there are, and leaves no number out."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]

TEXT = (TESTS / "README.md").read_text("utf-8")

NAMED = sorted(set(re.findall(r"`((?:\w+/)+test_\w+\.py)::(test_\w+)`", TEXT)))


def test_a_test_that_is_named_is_there() -> None:
    missing = [
        f"{file}::{test}"
        for file, test in NAMED
        if not re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_scenario_has_its_row_with_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*`(?:\w+/)+test_\w+\.py::test_\w+`", TEXT, re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == 68
