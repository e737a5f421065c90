"""Tables fit the terminal, and records are shown as text: what the functions of `cli` make of values."""

import io
import os
import random
import time

import pytest

from corral.cli import render
from corral.cli.console import Session
from corral.cli.fields import field_lines, toml_text
from corral.cli.local_time import brief, local
from corral.cli.render import word
from corral.cli.screen.samples import overhead_line
from corral.cli.status_table import print_entries

pytestmark = pytest.mark.core

SEED = int(os.environ.get("SEED", "20261123"))


def test_no_line_of_a_table_is_longer_than_the_terminal() -> None:
    draw = random.Random(SEED)
    for _ in range(500):
        count = draw.randrange(1, 12)
        header = [f"C{i}" for i in range(count)]
        cell = "x" if draw.random() < 0.7 else "ü界"
        rows = [[cell * draw.choice((0, 1, 5, 12, 48, 300)) for _ in header] for _ in range(4)]
        width = draw.choice((40, 80, 120))
        lines = render.table(
            header, rows, width=width, droppable=draw.sample(header, count // 3), right=draw.sample(header, count // 3)
        )
        assert max(map(render.columns, lines)) <= width, SEED


def test_a_table_without_a_terminal_is_whole() -> None:
    rows = [["a" * 300, "1", "b" * 300]]
    header, line = render.table(("A", "N", "B"), rows, width=None, droppable=("N",))
    assert line.split() == rows[0]
    assert header.split() == ["A", "N", "B"]


def test_text_is_cut_before_a_column_is_dropped_and_figures_are_cut_last() -> None:
    header, line = render.table(
        ("NAME", "SIZE", "AT", "WHY"),
        [["n" * 30, "12.5M", "07:00:00", "w" * 90]],
        width=80,
        droppable=("AT",),
        right=("SIZE",),
    )
    assert header.split() == ["NAME", "SIZE", "AT", "WHY"], "the long texts alone are cut"
    assert "12.5M" in line
    assert line.endswith("…")
    assert "n" * 30 in line


def shown(table: render.Table, *records: render.Record) -> list[list[str]]:
    """The words of each line of a table of records, where stdout is no terminal."""
    session = Session({})
    session.is_terminal = False
    return [line.split() for line in session.lines_of(records, table)]


def test_a_table_shows_keys_by_their_names_and_values_by_their_units() -> None:
    table = render.Table("NAME SIZE=disk.size_bytes TOOK=duration_s STATE", state=lambda record: word(record, "mode"))
    record = {"name": "a", "disk": {"size_bytes": 2048}, "duration_s": 90, "state": "unused", "mode": "live"}
    assert shown(table, record, {"name": "b"}) == [
        ["NAME", "SIZE", "TOOK", "STATE"],
        ["a", "2.0K", "1m30s", "live"],
        ["b", "-", "-", "-"],
    ]


def test_a_sparse_column_is_there_where_a_record_has_a_value() -> None:
    table = render.Table("NAME NODE REASON", sparse="NODE REASON")
    assert shown(table, {"name": "a"}, {"name": "b", "reason": "full"}) == [
        ["NAME", "REASON"],
        ["a", "-"],
        ["b", "full"],
    ]


def test_a_record_is_shown_without_json() -> None:
    record = {
        "id": "t-1",
        "created_at": "2026-01-01T00:00:00Z",
        "duration_s": 75.0,
        "size_bytes": 2048,
        "reason": "",
        "step": None,
        "children": [],
        "waits": True,
        "boundaries": {"timeout_s": None, "max_tool_calls": 5, "allowed_tools": ["a", "b"]},
        "attempts": [{"worker": "w-0", "error": {"name": "Timeout"}}],
    }
    lines = field_lines(record, lambda stamp: f"<{stamp}>")
    assert dict(line.split(maxsplit=1) for line in lines) == {
        "id": "t-1",
        "created_at": "<2026-01-01T00:00:00Z>",
        "duration_s": "1m15s",
        "size_bytes": "2.0K",
        "waits": "yes",
        "boundaries.max_tool_calls": "5",
        "boundaries.allowed_tools": "a, b",
        "attempts.0.worker": "w-0",
        "attempts.0.error.name": "Timeout",
    }
    assert toml_text({"min": 1, "names": ["a"], "on": True}) == ('{ min = 1, names = ["a"], on = true }')


def test_times_are_local_and_short_where_the_day_is_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        now = 1_767_225_600.0  # 2026-01-01T00:00:00Z
        assert brief("2025-12-31T23:30:00.5Z", now) == "08:30:00"
        assert brief("2025-12-30T23:30:00Z", now) == "2025-12-31 08:30"
        assert local("2025-12-31T23:30:00.123456Z") == "2026-01-01 08:30:00.123"
        assert local("later") == "later"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_memory_that_is_not_measured_yet_is_no_figure() -> None:
    session = Session({})
    session.stdout = io.StringIO()
    worker = {"id": "web-0", "pid": 4711, "state": "Starting", "rss_bytes": 0}
    print_entries(session, [{"name": "web", "state": "Starting", "workers": [worker]}])
    header, row = session.stdout.getvalue().splitlines()
    assert row.split()[header.split().index("RSS")] == "-"


def test_one_zygote_is_counted_in_the_singular() -> None:
    assert "1 zygote 2.0M" in overhead_line({"overhead": {"zygotes": {"active": 1, "memory_bytes": 2 << 20}}})
    assert "2 zygotes 4.0M" in overhead_line({"overhead": {"zygotes": {"active": 2, "memory_bytes": 4 << 20}}})
