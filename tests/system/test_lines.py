"""No line is lost, cut or repeated: the short form of tests/chaos/lines.py, with a seed that pytest shows."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from chaos.ledger import OWN, PREFIX_BYTES, Life, Seen, Tally
from chaos.lines import Course, NoMount, Verdict, ordeal
from chaos.scribe import WIDTH, line
from daemon_process import DaemonProcess


def run(folder: Path, course: Course) -> Verdict:
    verdict = ordeal(folder, replace(course, seed=random.SystemRandom().randrange(10**6)))
    print(verdict)  # pytest shows it when the test fails
    return verdict


def test_every_line_is_read_back_once_and_whole_although_its_printer_is_killed(tmp_path: Path) -> None:
    verdict = run(tmp_path, Course(megabytes=1, workers=2, kills=5))
    assert verdict.wrong == []
    assert set(verdict.tallies) == {"files", "logs", "logs -f"}
    assert all(tally.wrong == 0 for tally in verdict.tallies.values())
    assert verdict.kills + verdict.launcher_kills > 0


def test_what_a_full_disk_swallows_is_what_log_and_status_say(tmp_path: Path) -> None:
    try:
        verdict = run(tmp_path, Course(megabytes=1, workers=2, full_disk=True))
    except NoMount as error:
        pytest.skip(f"no small disk for us: {error}")
    assert verdict.wrong == []
    assert all(tally.swallowed > 0 for tally in verdict.tallies.values())


def test_what_a_killed_daemon_takes_with_it_is_bounded_and_reported(tmp_path: Path) -> None:
    verdict = run(tmp_path, Course(megabytes=1, workers=2, kills=1, daemon_kills=2))
    assert verdict.wrong == []
    assert verdict.daemon_kills == 2


TALKER = """
import json, sys
request = json.loads(sys.stdin.readline())
hello = {"protocolVersion": "1", "name": "talker"}
print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": hello}), flush=True)
out = sys.stdout
out.write("before\\n\\n  \\n" + "x" * 2**20 + "\\n")
out.write('{"level": "' + "y" * 17 * 2**20 + "\\nafter\\n")
out.flush()
sys.stdin.readline()
"""


def test_what_is_printed_beside_the_protocol_is_kept_however_long_or_what_is_missing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    config = f"""
monitoring.max_log_file_bytes = "100MiB"
[agents.talker]
command = ["{sys.executable}", "-I", "{tmp_path / "talker.py"}"]
"""
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["talker"])
    lines: list[bytes] = []
    notes: list[dict[str, object]] = []
    text = b""
    (path,) = (tmp_path / "state" / "logs" / "talker").iterdir()
    for each in path.read_bytes().split(b"\n")[:-1]:
        if each[28:29] == OWN:
            notes.append(msgspec.json.decode(each[PREFIX_BYTES:]))
            continue
        text += each[PREFIX_BYTES:]
        if each[38:39] == b"F":
            lines.append(text)
            text = b""
    assert lines[:3] == [b"before", b"", b"  "]
    assert lines[3] == b"x" * 2**20
    assert lines[4][:100] == b'{"level": "' + b"y" * 89
    assert [*map(len, lines[4:])] == [4096, 5]
    cut_bytes = 17 * 2**20 + len('{"level": "') - 4096
    assert [(note["lost_lines"], note["lost_bytes"]) for note in notes] == [(1, cut_bytes)]


# -- what is wrong would be seen


COUNT = 100


def judged(seen: Seen, *lives: Life) -> Tally:
    return seen.tally(lives or (Life(0, COUNT, COUNT),), COUNT)


def with_lines(*numbers: int) -> Seen:
    seen = Seen()
    for number in numbers:
        seen.line(line(number)[:-1])
    return seen


def test_a_whole_log_has_nothing_wrong() -> None:
    assert judged(with_lines(*range(COUNT))) == Tally()


def test_a_lost_line_is_seen_wherever_it_is() -> None:
    for lost in (0, 50, COUNT - 1):
        found = judged(with_lines(*(number for number in range(COUNT) if number != lost)))
        assert found == Tally(lost=1)


def test_a_line_that_comes_twice_or_too_late_is_seen() -> None:
    assert judged(with_lines(*range(COUNT), 7)) == Tally(repeated=1)
    assert judged(with_lines(*range(7), 8, 7, *range(9, COUNT))) == Tally(lost=1, repeated=1)


def test_a_cut_line_is_seen_and_so_is_one_with_a_foreign_end() -> None:
    for piece in (line(7)[:50], line(7)[:50] + line(8)[:-1], b""):
        seen = with_lines(*range(7))
        seen.line(piece)
        for number in range(8, COUNT):
            seen.line(line(number)[:-1])
        assert judged(seen) == Tally(lost=1, cut=1)


def test_a_gap_that_is_counted_wrongly_is_seen() -> None:
    for lines, size_bytes, expected in (
        (10, 10 * WIDTH, Tally(swallowed=10)),
        (9, 9 * WIDTH, Tally(swallowed=9, lost=1)),
        (11, 11 * WIDTH, Tally(swallowed=10, miscounted=1)),
        (10, 10 * WIDTH - 1, Tally(swallowed=10, miscounted=1)),
    ):
        seen = with_lines(*range(20))
        seen.note(lines, size_bytes)
        for number in range(30, COUNT):
            seen.line(line(number)[:-1])
        assert judged(seen) == expected


def test_any_part_of_the_last_write_before_a_kill_may_be_in_the_log() -> None:
    lives = (Life(0, 30, 20), Life(30, COUNT, COUNT))
    assert judged(with_lines(*range(20), *range(30, COUNT)), *lives) == Tally()
    assert judged(with_lines(*range(25), *range(30, COUNT)), *lives) == Tally()
    assert judged(with_lines(*range(19), *range(30, COUNT)), *lives) == Tally(lost=1)
    half = with_lines(*range(25))
    half.line(line(25)[:50])
    for number in range(30, COUNT):
        half.line(line(number)[:-1])
    assert judged(half, *lives) == Tally(halved=1)
    assert judged(half, Life(0, 30, 26), Life(30, COUNT, COUNT)) == Tally(lost=1, cut=1)


def test_a_daemon_that_was_killed_excuses_nothing_that_the_log_does_not_tell() -> None:
    lives = (Life(0, 30, 30, struck=True), Life(30, COUNT, COUNT))
    assert judged(with_lines(*range(20), *range(30, COUNT)), *lives) == Tally(lost=10)
    told = with_lines(*range(20))
    told.note(0, 0)
    for number in range(30, COUNT):
        told.line(line(number)[:-1])
    assert judged(told, *lives) == Tally(struck=10)
    assert judged(with_lines(*range(30, COUNT)), *lives) == Tally(lost=30)
