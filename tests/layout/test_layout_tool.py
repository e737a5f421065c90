"""`make layout` counts what is there: its short form, without the traced paths."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from layout.test_rooms import MODULES

ROOT = Path(__file__).parents[2]

MODULE = '''"""Docstring."""
import os

# why
class Part(Protocol):
    """Two
    lines."""

    def __init__(self, one: int, two: str = "") -> None:
        self._one = one

    def add(self, one: int) -> None:
        self._one.add(one)
'''


def layout(*arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "layout.py"), "--no-trace", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", done.stdout, re.MULTILINE))


def test_each_line_of_a_module_is_counted_as_one_kind(tmp_path: Path) -> None:
    (tmp_path / "supervisor" / "group" / "room").mkdir(parents=True)
    (tmp_path / "supervisor" / "group" / "room" / "part.py").write_text(MODULE)
    (tmp_path / "README.md").write_text("three words here")
    rows = layout("--tree", str(tmp_path))
    kinds = {kind: rows[kind] for kind in ("docstring", "import", "comment", "blank", "signature", "statement")}
    assert kinds == {"docstring": "3", "import": "1", "comment": "1", "blank": "3", "signature": "2", "statement": "3"}
    assert rows["lines"] == "13"
    assert rows["groups of supervisor"] == "1"
    assert rows["largest constructor"] == "supervisor.group.room.part.Part, 2 parameters"
    assert (rows["protocols"], rows["forwarding methods"]) == ("1", "1")
    assert rows["words of docs, written by hand"] == "3"


@pytest.mark.long
def test_the_table_of_this_tree_is_measured_from_this_tree() -> None:
    rows = layout()
    assert rows["files"] == str(len(MODULES))
    assert rows["groups of supervisor"] == "12"
