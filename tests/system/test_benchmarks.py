"""The benchmarks run, and say what they promise; how fast anything is, is never asserted."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

BOUND_S = 100.0
"""A quick benchmark ends in a quarter of this on an idle machine."""

SPREAD = ("median", "min", "max")

SHARES = ("%", "kB", "power", "files")
"""An idle program may use no tick at all, what one of many workers adds to the memory of a process
is the difference of two readings, which pages given back between them can turn below zero, a cost need not grow, and no file of aiohttp is to be there."""

FOLDER = ROOT / "benchmarks"
PROGRAMS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in ("bench", "run") and "bench.report(" in path.read_text()
)

SHORT = {"memory", "rpc", "streaming", "tasks", "warm"}
"""What `make test` runs; `make long` runs the others."""

PARAMS = [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in PROGRAMS]


@pytest.fixture(scope="module", params=PARAMS)
def record(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:  # JSON
    written = tmp_path_factory.mktemp("benchmark") / "figures.json"
    program = str(FOLDER / f"{request.param}.py")
    command = [sys.executable, "-P", program, "--quick", f"--json={written}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as benchmark:
        try:
            assert benchmark.wait(BOUND_S) == 0
        finally:
            benchmark.send_signal(signal.SIGINT)  # it stops its daemons, if it is still there
    return json.loads(written.read_text())


def test_a_report_says_what_was_run_where_and_when(record: Any) -> None:
    assert set(record) == {"benchmark", "at", "command", "quick", "machine", "rows", "notes"}
    assert record["quick"] is True
    assert set(record["machine"]) == {
        "cpu",
        "cpus",
        "memory_bytes",
        "kernel",
        "python",
        "commit",
        "load_before",
        "load_after",
        "others_cpu_percent",
    }


def test_every_row_has_a_median_within_its_spread(record: Any) -> None:
    assert record["rows"]
    for row in record["rows"]:
        assert {"name", "what", "unit", "n", "p99", "against", "ratio", "over"} < set(row)
        assert row["n"] > 0
        for part in (row, row["ratio"] or row):
            assert all(math.isfinite(part[key]) for key in SPREAD)
            assert part["min"] <= part["median"] <= part["max"]


def test_what_took_time_or_memory_took_some(record: Any) -> None:
    for row in record["rows"]:
        if row["unit"] in SHARES:
            continue
        for part in (row, row["ratio"] or row):
            assert all(part[key] > 0 for key in SPREAD), row["name"]


def test_a_ratio_is_to_a_row_of_the_same_report_and_unit(record: Any) -> None:
    rows = {row["name"]: row for row in record["rows"]}
    assert len(rows) == len(record["rows"])
    for row in record["rows"]:
        assert (row["over"] is None) == (row["against"] is None)
        if row["against"] is None:
            assert row["ratio"] is None
            continue
        base = rows[row["against"]]
        assert base["unit"] == row["unit"]
        assert row["ratio"] is not None or base["min"] == 0  # there is no ratio to nothing
