"""The page of figures has a row for each aim and each figure, and a run replaces those of what it measured, alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"

REPORT = """
import json, sys
sys.path.append("benchmarks")
import aims, run
row = {"unit": "ms", "min": 1.0, "max": 3.0, "p99": None, "against": None, "ratio": None}
rows = [row | {"name": "failover", "unit": "s", "median": 2.0}, row | {"name": "wide_loose_one_ms", "median": 0.2}]
machine = {"commit": "abcdef0", "others_cpu_percent": 1.0}
report = {"at": "2030-01-02T03:04:05Z", "machine": machine, "rows": rows}
parts = {name: report for name in sys.argv[2:]}
lines = [aim.judged(parts, {}) for aim in aims.AIMS]
print(run.written(open(sys.argv[1]).read(), {"parts": parts, "aims": lines}), end="")
"""


def written(*parts: str) -> str:
    command = [sys.executable, "-P", "-c", REPORT, str(PAGE), *parts]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_run_of_nothing_leaves_every_figure_of_the_page() -> None:
    assert written() == PAGE.read_text()


def test_a_run_replaces_the_rows_of_what_it_measured_alone() -> None:
    before, after = PAGE.read_text().splitlines(), written("cluster").splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert {line.split("|")[1].strip() for line in changed} == {
        "an empty task by NATS on 3 nodes, beside NATS alone",
        "the same by Redis, beside Redis alone",
        "kill -9 of a node until its agent is Ready elsewhere",
        "cluster",
    }
    assert any("2.00 s" in line for line in changed)
    assert any("2030-01-02" in line and "abcdef0" in line for line in changed)


def test_an_aim_that_is_measured_counts_as_met_or_missed() -> None:
    row = next(line for line in written("tasks").splitlines() if line.startswith("| an empty task, not durable"))
    assert [cell.strip() for cell in row.split("|")][-3:-1] == ["0.20 ms", "yes"]
