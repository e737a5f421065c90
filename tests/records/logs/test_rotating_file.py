"""Log files after a kill, a power cut or an error of the disk."""

import errno
import os
from pathlib import Path

import pytest

from corral.supervisor.records.logs.store import LogStore
from log_folder import content, read, texts, writer_of

pytestmark = pytest.mark.shell

LINES = [b"one", b"", b"x" * 40_000, b"\xff\x00", b"last"]


def test_wherever_a_file_is_cut_off_all_lines_before_are_whole_and_the_gap_is_reported_once(tmp_path: Path) -> None:
    first = LogStore(tmp_path / "whole")
    writer_of(first).stream("stdout").write(b"\n".join(LINES) + b"\n")
    first.close()
    whole = (tmp_path / "whole" / "echo" / "echo-0.log").read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = {sum(map(len, lines[: i + 1])): line for i, line in enumerate(lines)}
    last = len(lines[-1])
    around = [end + offset for end in ends for offset in (-1, 0, 1)]
    # Anywhere in the last line, about the end of each other one, and far from any.
    for size in {*range(len(whole) - last - 2, len(whole) + 1), *around[:-1], 20_000}:
        path = tmp_path / str(size) / "echo" / "echo-0.log"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:size])
        killed = LogStore(tmp_path / str(size))
        writer_of(killed).begin()
        killed.close()
        count = sum(end <= size for end, line in ends.items() if b" stdout F " in line)
        expected = LINES[:count]
        for life in range(2):  # the second daemon is killed, too, and had nothing to write
            logs = LogStore(tmp_path / str(size), unclean=True)
            writer = writer_of(logs)
            logs.check()
            writer.begin()
            records = read(logs)
            kept = [r for r in records if r["stream"] == "stdout" and not r.get("partial")]
            assert [content(record) for record in kept] == expected
            (note,) = [record for record in records if record["stream"] == "corral"]
            assert note["lost_lines"] == (size not in ends), (size, life)
            if life:
                writer.stream("stdout").write(b"next\n")
                assert texts(read(logs, n=1)) == ["next"]
            logs.close()


@pytest.mark.parametrize("size", [1, 1_000, 100_000])
def test_blocks_that_a_power_cut_left_empty_are_glued_to_no_line(tmp_path: Path, size: int) -> None:
    first = LogStore(tmp_path)
    writer = writer_of(first)
    writer.begin()
    writer.stream("stdout").write(b"before\n")
    first.close()
    with (tmp_path / "echo" / "echo-0.log").open("ab") as file:
        file.write(bytes(size))
    logs = LogStore(tmp_path, unclean=True)
    writer_of(logs).stream("stdout").write(b"after\n")
    assert texts(read(logs, stream="stdout")) == ["before", texts(read(logs))[-2], "after"]
    logs.close()


def test_a_torn_line_that_could_not_be_taken_back_is_before_the_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = LogStore(tmp_path)
    writer = writer_of(logs)
    stream = writer.stream("stdout")
    stream.write(b"whole\n")
    write_of = os.write

    def torn(fd: int, data: bytes) -> int:
        if len(data) < 60:
            raise OSError(errno.EIO, "Input/output error")
        return write_of(fd, data[:50])

    def refused(_fd: int, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        patch.setattr(os, "ftruncate", refused)
        stream.write(b"this one is torn by a disk\n")
    stream.write(b"next\n")
    whole, note, last = read(logs)
    assert (whole["text"], last["text"]) == ("whole", "next")
    assert (note["lost_lines"], note["lost_bytes"]) == (1, 27)
    logs.close()


def test_a_life_is_noted_when_its_process_is_about_to_start_and_not_when_it_is_planned(tmp_path: Path) -> None:
    for is_noted in (False, True):
        killed = LogStore(tmp_path / str(is_noted))
        writer = writer_of(killed)
        writer.expect()
        if is_noted:
            writer.note_life()
        killed.close()
        logs = LogStore(tmp_path / str(is_noted), unclean=True)
        writer_of(logs)
        logs.check()
        kept = [record for record in read(logs) if record["stream"] == "corral"]
        assert bool(kept) == is_noted, "what may be lost is told, and nothing else"
        logs.close()
