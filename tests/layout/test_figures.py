"""The page of figures has a place for each benchmark, and is written from what a run has found."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"

BOUND_S = 60.0

MARKED = re.compile(r"<!-- figures: (\w+) -->\n(.*?)\n<!-- end of (\w+) -->", re.DOTALL)

Record = dict[str, Any]  # JSON

MACHINE: Record = {
    "cpu": "one",
    "cpus": 2,
    "memory_bytes": 2**34,
    "kernel": "6.1",
    "python": "3.12.0",
    "commit": "abcdef0",
    "load_before": 0.0,
    "load_after": 0.0,
    "others_cpu_percent": 0.0,
}


def row(name: str, median: float, unit: str, p99: float | None = None, **more: Any) -> Record:
    spread = {"median": median, "min": median, "max": median}
    base: Record = {"name": name, "what": f"what {name} is", "unit": unit, "n": 1, "p99": p99}
    return {**base, **spread, "against": None, "ratio": None, "over": None, **more}


def against(name: str, ratio: float) -> Record:
    spread = {"median": ratio, "min": ratio, "max": ratio}
    return {"against": name, "ratio": spread, "over": {"median": 0.0, "min": 0.0, "max": 0.0}}


def figures(name: str, rows: Iterable[Record], notes: Iterable[str] = ()) -> Record:
    return {
        "benchmark": name,
        "at": "2026-01-02T03:04:05Z",
        "command": f"benchmarks/{name}.py --quick",
        "quick": True,
        "machine": MACHINE,
        "rows": list(rows),
        "notes": list(notes),
    }


def run(folder: Path, reports: Iterable[Record], *options: str) -> tuple[int, Record]:
    """The runner, given reports and told to run nothing; its exit status and what it found."""
    arguments = list(options)
    for report in reports:
        path = folder / f"{report['benchmark']}.json"
        path.write_text(json.dumps(report))
        arguments.append(f"--read={path}")
    written = folder / "all.json"
    command = [sys.executable, "-P", str(FOLDER / "run.py"), f"--json={written}", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=BOUND_S, check=False)
    return done.returncode, json.loads(written.read_text())


def judged(folder: Path, *reports: Record) -> dict[str, Record]:
    """The aims by what they are about and the row that they are held to."""
    _, record = run(folder, reports)
    return {f"{line['part']} {line['row']} {line['aim']}": line for line in record["aims"]}


def parts() -> list[str]:
    """Every benchmark that the runner knows."""
    text = (FOLDER / "run.py").read_text()
    return re.findall(r'^    Part\("(\w+)"', text, re.MULTILINE)


def test_every_benchmark_and_no_other_has_a_place_on_the_page() -> None:
    places = MARKED.findall(PAGE.read_text())
    assert all(begin == end for begin, _, end in places)
    assert sorted(name for name, _, _ in places) == sorted([*parts(), "aims"])


def test_every_benchmark_of_the_folder_is_one_that_the_runner_runs() -> None:
    programs = {
        path.stem
        for path in FOLDER.glob("*.py")
        if "bench.report(" in path.read_text() and path.stem not in ("bench", "run")
    }
    assert programs <= set(parts())


def test_every_file_of_the_folder_is_named_on_the_page() -> None:
    text = PAGE.read_text()
    files = [path for path in FOLDER.iterdir() if path.suffix in (".py", ".c")]
    assert [path.name for path in files if f"`{path.name}`" not in text] == []


def test_tables_are_written_between_their_markers_and_nothing_else_is_touched(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    report = figures("tasks", [row("wide_durable_one_ms", 0.5, "ms")], ["a note of the run"])
    status, _ = run(tmp_path, [report], f"--write={page}")
    assert status == 0
    before, after = (MARKED.findall(path.read_text()) for path in (PAGE, page))
    changed = {name for (name, old, _), (_, new, _) in zip(before, after, strict=True) if old != new}
    assert changed == {"tasks", "aims"}
    (shown,) = (text for name, text, _ in after if name == "tasks")
    wanted = ("what wide_durable_one_ms is", "2026-01-02", "abcdef0", "a note of the run")
    assert all(word in shown for word in (*wanted, report["command"]))
    assert MARKED.sub("", page.read_text()) == MARKED.sub("", PAGE.read_text())


def test_a_page_without_the_markers_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place for anything\n")
    status, _ = run(tmp_path, [figures("tasks", [row("fsync", 1.0, "ms")])], f"--write={page}")
    assert status != 0
    assert page.read_text() == "no place for anything\n"


def test_an_aim_is_met_or_missed_by_the_row_that_it_names(tmp_path: Path) -> None:
    rows = [row("wide_loose_one_ms", 0.2, "ms"), row("wide_durable_rate", 3_999.0, "tasks/s")]
    found = judged(tmp_path, figures("tasks", rows))
    assert found["tasks wide_loose_one_ms ≤ 0.3"]["met"] is True
    assert found["tasks wide_durable_rate ≥ 4000"]["met"] is False


def test_an_aim_beside_another_row_takes_the_ratio_that_was_made_within_a_round(tmp_path: Path) -> None:
    slow = row("restart", 100.0, "ms", 300.0, **against("least_restart", 1.9))
    found = judged(tmp_path, figures("workers", [slow, row("least_restart", 1.0, "ms", 70.0)]))
    line = found["workers restart ≤ 2 times C"]
    assert (line["measured"], line["unit"], line["met"]) == (1.9, "times", True)
    line = found["workers restart ≤ 4 times C (p99)"]
    assert (round(line["measured"], 3), line["met"]) == (4.286, False)


def test_an_aim_may_leave_room_beyond_a_multiple_of_another_row(tmp_path: Path) -> None:
    for start_ms, met in ((1_299.0, True), (1_301.0, False)):
        rows = [row("start", start_ms, "ms", **against("least_start", 1.0)), row("least_start", 400.0, "ms")]
        line = judged(tmp_path, figures("workers", rows))["workers start ≤ 2.5 times C + 300"]
        assert (line["measured"], line["limit"], line["met"]) == (start_ms, 1_300.0, met)


def test_an_aim_may_be_about_the_sum_of_rows(tmp_path: Path) -> None:
    rows = [row("pss_daemon_each", 4.0, "kB"), row("pss_launcher_each", 2.5, "kB")]
    line = judged(tmp_path, figures("workers", rows))["workers pss_daemon_each + pss_launcher_each ≤ 6"]
    assert (line["measured"], line["met"]) == (6.5, False)


def test_of_rows_of_many_sizes_the_greatest_is_held_to_the_aim(tmp_path: Path) -> None:
    rows = [
        row(f"{name}_{mega}_50", value, "MB/s")
        for mega, ours in ((200, 300.0), (500, 450.0))
        for name, value in (("copier", 600.0), ("corral", ours), ("s6_stamped", 200.0))
    ]
    found = judged(tmp_path, figures("logs", rows))
    line = found[r"logs corral_\d+_50 ≥ 2 times s6-log"]
    assert (line["measured"], line["met"]) == (2.25, True)


def test_what_was_not_measured_is_neither_met_nor_missed_and_says_why(tmp_path: Path) -> None:
    note = "s6: left out, it could not be had"
    report = figures("supervisors", [row("corral_start", 500.0, "ms")], [note])
    found = judged(tmp_path, report)
    line = found["supervisors s6_start ≥ 1 times ours"]
    assert (line["met"], line["reason"]) == (None, note)
    line = found["tasks wide_durable_rate ≥ 4000"]
    assert line["met"] is None
    assert "tasks.py" in line["reason"]


def test_every_aim_is_held_to_a_benchmark_that_the_runner_runs(tmp_path: Path) -> None:
    assert {key.partition(" ")[0] for key in judged(tmp_path, figures("tasks", []))} <= set(parts())
