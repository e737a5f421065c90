"""`make layout` counts what is there: its short form, without the traced paths."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from layout.test_rooms import ALLOWED, MODULES

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


def test_the_table_of_this_tree_is_measured_from_this_tree() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "layout.py"), "--no-trace"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", done.stdout, re.MULTILINE))
    modules = [name for name in MODULES if not name.endswith("__init__")]
    assert rows["modules; largest folder"].startswith(f"{len(modules)}; ")
    rooms = {name for name in ALLOWED if any(m.rpartition(".")[0] == name for m in modules)}
    assert int(rows["rooms"]) == len(rooms)
    assert rows["attributes set from outside in daemon.py"] == "0"
