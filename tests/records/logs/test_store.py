"""Logs: real pipes, real files, real processes; every line can be read back, or its loss is counted."""

import asyncio
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from corral.supervisor.records.logs.capture_pipe import Capture
from corral.supervisor.records.logs.file_format import LINE_LIMIT_BYTES, LogFilter
from corral.supervisor.records.logs.store import LogStore
from log_folder import BOUND_S, MIB, content, read, run, taken, texts, writer_of
from small_disk import mounted

pytestmark = pytest.mark.shell


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "logs")
    yield store
    store.close()


def test_a_line_is_stored_as_container_runtimes_do_and_read_as_a_record(tmp_path: Path) -> None:
    logs = LogStore(tmp_path, clock=lambda: 1_767_225_600_123_456_789)
    writer_of(logs).stream("stderr").write(b"hello\nworld\n")
    stored = (tmp_path / "echo" / "echo-0.log").read_bytes()
    at = "2026-01-01T00:00:00.123456780Z"
    assert stored == f"{at} stderr F hello\n{at} stderr F world\n".encode()
    common = {"at": at, "agent": "echo", "worker": "echo-0", "stream": "stderr", "level": None}
    assert read(logs) == [{**common, "text": "hello"}, {**common, "text": "world"}]
    logs.close()


def test_folder_and_files_are_private(logs: LogStore) -> None:
    writer_of(logs).stream("stdout").write(b"secret\n")
    folder = logs.directory / "echo"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "echo-0.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_fifty_megabytes_through_a_pipe_and_rotations_come_back_complete_and_in_order(logs: LogStore) -> None:
    count = 500_000
    program = f"import sys\nfor i in range({count}): sys.stdout.write('%099d\\n' % i)\n"
    writer = writer_of(logs, max_file_bytes=4 * MIB, max_files=40)

    async def test() -> None:
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            capture = Capture(os.dup(process.stdout.fileno()), writer.stream("stdout"))
            process.stdout.close()
            assert await capture.drain(BOUND_S)
        expected = 0
        async with aclosing(logs.history(LogFilter())) as batches:
            async for batch in batches:
                for record in batch:
                    assert record["text"] == f"{expected:099d}"
                    expected += 1
        assert expected == count

    run(test)
    files = sorted((logs.directory / "echo").iterdir())
    assert len(files) > 10
    assert all(file.stat().st_size <= 4 * MIB for file in files)
    assert all(file.read_bytes().endswith(b"\n") for file in files)
    assert (writer.lost_lines, writer.lost_bytes, writer.lines) == (0, 0, count)


def test_no_more_files_are_kept_than_asked_for_and_they_hold_the_newest_lines(logs: LogStore) -> None:
    writer = writer_of(logs, max_file_bytes=2_000, max_files=3)
    stream = writer.stream("stdout")
    for number in range(1_000):
        stream.write(b"%d\n" % number)
    names = sorted(path.name for path in (logs.directory / "echo").iterdir())
    assert names == ["echo-0.log", "echo-0.log.1", "echo-0.log.2"]
    numbers = [int(str(text)) for text in texts(read(logs))]
    assert numbers == list(range(numbers[0], 1_000))
    assert len(numbers) > 80


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_in_any_pieces_come_back_as_they_were(logs: LogStore, seed: int) -> None:
    dice = random.Random(seed)
    alphabet = [b"\r", b"\0", b"\xff", b"\xc3\xa9", b"\xc3", b" ", b"\x1b[0m", b"x", b"P ", b"\xe2\x80\xa8"]
    lines = [b"".join(dice.choices(alphabet, k=dice.choice((0, 1, 5, 100, 9_000, 40_000)))) for _ in range(30)]
    printed = b"\n".join(lines) + b"\n"
    stream = writer_of(logs, max_file_bytes=100_000, max_files=100).stream("stderr")
    position = 0
    while position < len(printed):
        size = dice.choice((1, 7, 1_000, 65_536))
        stream.write(printed[position : position + size])
        position += size
    assert [content(record) for record in read(logs)] == lines
    for n in (1, 2, 7, 29):
        assert [content(record) for record in read(logs, n=n)] == lines[-n:]


@pytest.mark.parametrize("excess", [-1, 0, 1, LINE_LIMIT_BYTES, LINE_LIMIT_BYTES + 1])
def test_a_line_around_the_limit_is_whole(logs: LogStore, excess: int) -> None:
    line = b"a" * (LINE_LIMIT_BYTES + excess)
    writer_of(logs).stream("stdout").write(b"before\n" + line + b"\nafter\n")
    assert [content(record) for record in read(logs)] == [b"before", line, b"after"]
    stored = (logs.directory / "echo" / "echo-0.log").read_bytes()
    assert stored.count(b" stdout P ") == max(len(line) - 1, 0) // LINE_LIMIT_BYTES


def test_a_line_of_a_megabyte_is_stored_in_parts_and_read_whole(logs: LogStore) -> None:
    line = bytes(random.Random(1).choices(b"abcdefghij", k=MIB))
    stream = writer_of(logs, max_file_bytes=300_000, max_files=10).stream("stdout")
    other = writer_of(logs, max_file_bytes=300_000, max_files=10).stream("stderr")
    for position in range(0, MIB, 65_536):
        stream.write(line[position : position + 65_536])
        other.write(b"meanwhile\n")
    stream.write(b"\nnext\n")
    stored = (logs.directory / "echo" / "echo-0.log").read_bytes()
    assert max(map(len, stored.split(b"\n"))) <= LINE_LIMIT_BYTES + 40
    records = read(logs, stream="stdout")
    assert [content(record) for record in records] == [line, b"next"]
    assert [content(record) for record in read(logs, stream="stdout", n=2)] == [line, b"next"]
    assert len(read(logs, stream="stderr")) == 16


def test_a_last_line_without_a_newline_is_kept(logs: LogStore) -> None:
    async def test() -> None:
        reading, writing = os.pipe()
        capture = Capture(reading, writer_of(logs).stream("stdout"))
        os.write(writing, b"one\ntwo")
        os.close(writing)
        assert await capture.drain(BOUND_S)
        assert texts(await logs.read()) == ["one", "two"]

    run(test)


def test_a_drain_ends_although_a_grandchild_holds_the_pipe(logs: LogStore) -> None:
    async def test() -> None:
        reading, writing = os.pipe()
        capture = Capture(reading, writer_of(logs).stream("stdout"))
        os.write(writing, b"last words")
        assert not await capture.drain(0)
        assert capture.closed
        assert texts(await logs.read()) == ["last words"]
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        os.close(writing)
        reading, writing = os.pipe()
        capture = Capture(reading, writer_of(logs).stream("stdout"))
        os.write(writing, b"at the last moment")
        capture.close()
        os.close(writing)
        assert texts(await logs.read(n=1)) == ["at the last moment"]

    run(test)


def test_what_a_dead_process_wrote_is_caught_up_with_at_once(logs: LogStore) -> None:
    async def test() -> None:
        reading, writing = os.pipe()
        capture = Capture(reading, writer_of(logs).stream("stderr"))
        os.write(writing, b"last words\n" + b"x" * 40_000)
        capture.catch_up()
        assert writer_of(logs).tail()[-1].endswith("x")
        assert not capture.closed
        os.close(writing)
        capture.catch_up()
        assert capture.closed
        assert [len(content(record)) for record in await logs.read()] == [10, 40_000]

    run(test)


def test_a_pipe_that_was_closed_is_not_read_again(logs: LogStore) -> None:
    async def test() -> None:
        reading, writing = os.pipe()
        capture = Capture(reading, writer_of(logs).stream("stdout"))
        os.close(writing)
        assert await capture.drain(BOUND_S)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reading)
        assert await capture.drain(BOUND_S)
        capture.close()

    run(test)


def test_a_notification_keeps_level_fields_and_newlines_and_cannot_be_forged(logs: LogStore) -> None:
    writer = writer_of(logs)
    writer.stream("log").line(b"two\nlines", "warning", {"key": [1, "é\udc80"]})
    writer.stream("log").line(b"x" * 50_000, "info")
    path = logs.directory / "echo" / "echo-0.log"
    payload = path.read_bytes().split(b"\n")[0][40:]
    writer.stream("stderr").line(payload)
    first, long, forged = read(logs)
    assert (first["stream"], first["level"], first["text"]) == ("log", "warning", "two\nlines")
    assert first["fields"] == {"key": [1, "é?"]}
    assert (long["text"], long["level"]) == ("x" * 50_000, "info")
    assert (forged["stream"], forged["level"], content(forged)) == ("stderr", None, payload)
    assert [record["stream"] for record in read(logs, stream="log")] == ["log", "log"]


def test_lines_that_come_one_by_one_are_written_together_and_in_order(
    logs: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(logs)
    writes: list[int] = []
    write_of = os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(len(data))
        return write_of(fd, data)

    async def test() -> None:
        foreign, notes = writer.stream("stdout"), writer.stream("log")
        monkeypatch.setattr(os, "write", counted)
        for number in range(500):
            foreign.line(b"%d" % number)
        assert writes == []
        await asyncio.sleep(0)
        assert len(writes) == 1
        foreign.line(b"before the message")
        notes.line(b"the message", "info")
        foreign.line(b"after it")
        assert writer.tail("stdout")[-1] == "after it"
        for _ in range(10):
            foreign.line(b"x" * 20_000)  # more than may be held
        assert sum(writes) > 100_000
        foreign.line(b"at the end")
        logs.release(writer)
        await asyncio.sleep(0)
        got = texts(await logs.read())
        assert got[:503] == [*(str(number) for number in range(500)), "before the message", "the message", "after it"]
        assert [len(str(text)) for text in got[503:]] == [20_000] * 10 + [10]

    run(test)


def test_the_tail_is_answered_without_the_file(logs: LogStore) -> None:
    writer = writer_of(logs)
    assert writer.tail() == []
    stream = writer.stream("stderr")
    stream.write(b"one\ntwo\nthr")
    assert writer.tail(lines=2) == ["two", "thr"]
    stream.write(b"ee\n")
    assert writer.tail() == ["one", "two", "three"]
    stream.write(b"x" * 3_000 + b"\n" + b"y" * 3_000 + b"\n")
    assert writer.tail() == ["y" * 3_000]
    assert writer.tail("stdout") == []


def test_a_deleted_folder_comes_back_and_the_loss_is_counted(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000_000]
    logs = LogStore(tmp_path / "logs", clock=lambda: now[0])
    writer = writer_of(logs)
    stream = writer.stream("stdout")
    stream.write(b"deleted\n")
    logs.check()
    stream.write(b"deleted too\n")
    shutil.rmtree(logs.directory)
    stream.write(b"lost\n")
    now[0] += 2_000_000_000
    stream.write(b"kept\n")
    note, kept = read(logs)
    assert (note["stream"], note["lost_lines"], note["lost_bytes"]) == ("corral", 2, 17)
    assert (writer.lost_lines, writer.lost_bytes, writer.trouble) == (2, 17, None)
    assert kept["text"] == "kept"
    logs.close()


def test_a_file_that_others_rotate_is_opened_anew_and_no_line_is_lost(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000_000]
    logs = LogStore(tmp_path / "logs", clock=lambda: now[0])
    writer = writer_of(logs)
    stream = writer.stream("stdout")

    async def test() -> None:
        stream.write(b"one\n")
        async with aclosing(logs.follow(LogFilter())) as batches:
            assert texts(await taken(batches, 1)) == ["one"]
            path = logs.directory / "echo" / "echo-0.log"
            path.rename(path.with_name("echo-0.log-20260101"))
            stream.write(b"two\n")
            now[0] += 2_000_000_000
            stream.write(b"three\n")
            assert texts(await taken(batches, 2)) == ["two", "three"]
            assert b"three" in path.read_bytes()
            assert b"two" not in path.read_bytes()

    run(test)
    assert writer.lost_lines == 0
    logs.close()


def test_a_line_that_a_killed_daemon_left_torn_is_removed_and_reported(logs: LogStore) -> None:
    writer_of(logs).stream("stdout").write(b"whole\n")
    path = logs.directory / "echo" / "echo-0.log"
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:00:00.000000000Z stdout F to")
    again = LogStore(logs.directory, unclean=True)
    assert texts(read(again)) == ["whole"]
    writer_of(again).stream("stdout").write(b"next\n")
    first, note, last = read(again)
    assert [first["text"], last["text"]] == ["whole", "next"]
    assert (note["stream"], note["lost_lines"]) == ("corral", 1)
    again.close()


def test_a_line_of_which_the_end_was_lost_is_marked_and_not_continued(logs: LogStore) -> None:
    path = logs.directory / "echo" / "echo-0.log"
    path.parent.mkdir(parents=True)
    at = "2026-01-01T00:00:00.00000000"
    note = '{"level":"warning","text":"corral: lost","lost_lines":1,"lost_bytes":9}'
    lines = ("0Z stdout P begun", f"2Z stderr F {note}", "0Z stdout P ano", "0Z stdout F ther")
    path.write_text("".join(f"{at}{line}\n" for line in lines))
    records = read(logs)
    assert [(r["stream"], r["text"], r.get("partial")) for r in records] == [
        ("stdout", "begun", True),
        ("corral", "corral: lost", None),
        ("stdout", "another", None),
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "1m")


def test_what_a_full_disk_swallows_is_counted_exactly_and_no_line_is_cut(small_disk: Path) -> None:
    logs = LogStore(small_disk / "logs")
    writer = writer_of(logs, max_file_bytes=100 * MIB)
    stream = writer.stream("stdout")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 700_000)
    number = 0
    while writer.lost_lines < 5_000:  # fill it, and go on for a while
        stream.write(b"".join(b"%08d\n" % n for n in range(number, number + 100)))
        number += 100
        if number % 700 == 0:
            stream.write(b"z" * 40_000 + b"\n")
    assert writer.trouble is not None
    ballast.unlink()
    logs.check()
    assert writer.trouble is None
    stream.write(b"works again\n")
    records = read(logs)
    notes = [record for record in records if record["stream"] == "corral"]
    shown = [r for r in records if r["stream"] != "corral" and not r.get("partial")]
    lines = [content(record) for record in shown]
    numbered = [line for line in lines if len(line) == 8]
    assert set(map(len, lines)) <= {8, 11, 40_000}
    assert numbered == sorted(set(numbered))
    printed = number + number // 700 + 1
    assert sum(int(str(note["lost_lines"])) for note in notes) == printed - len(lines)
    assert writer.lost_lines == printed - len(lines)
    size = number * 9 + (number // 700) * 40_001 + 12
    kept = sum(len(content(r)) + (not r.get("partial")) for r in records if r["stream"] != "corral")
    assert sum(int(str(note["lost_bytes"])) for note in notes) == size - kept
    logs.close()


def test_a_file_that_may_not_grow_loses_lines_but_never_raises(tmp_path: Path) -> None:
    program = """
import asyncio, resource, sys
from pathlib import Path
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
logs = LogStore(Path(sys.argv[1]))
writer = logs.writer("echo", "echo-0", LogLimits(1_000_000, 2))
stream = writer.stream("stdout")
for number in range(1_000):
    stream.write(b"%08d\\n" % number)
lost = writer.lost_lines
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
stream.write(b"afterward\\n")
logs.close()
records = asyncio.run(logs.read())
kept = [r["text"] for r in records if r["stream"] == "stdout"]
note = [r for r in records if r["stream"] == "corral"]
assert kept == ["%08d" % n for n in range(1_000 - lost)] + ["afterward"], kept[-3:]
assert 0 < lost == note[-1]["lost_lines"] and len(note) == 1, note
assert note[0]["lost_bytes"] == 9 * lost
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=BOUND_S)


def test_a_reader_that_is_killed_leaves_only_whole_lines(tmp_path: Path) -> None:
    program = """
import itertools, sys
from pathlib import Path
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
stream = LogStore(Path(sys.argv[1])).writer(
    "echo", "echo-0", LogLimits(300_000, 9)).stream("stdout")
for number in itertools.count():
    stream.write(b"%099d\\n" % number)
    print(number, flush=True)
"""
    for round_number in range(5):
        folder = tmp_path / str(round_number)
        arguments = [sys.executable, "-c", program, str(folder)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(200 * (round_number + 1)):
                process.stdout.readline()
            process.kill()
            written = [line for line in process.stdout.read().split("\n")[:-1] if line]
        last = int(written[-1]) if written else 200 * (round_number + 1) - 1
        logs = LogStore(folder, unclean=True)
        numbers = [int(str(text)) for text in texts(read(logs))]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > last
        logs.close()


@pytest.mark.parametrize("max_buffer_bytes", [4 * 1024, 64 * 1024, MIB])
def test_nothing_that_is_held_at_once_is_larger_than_the_buffer_and_nothing_is_lost_for_it(
    logs: LogStore, max_buffer_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = b"\n" * 70_000 + b"x" * 70_000 + b"\n" + b"ab\n" * 40_000 + b"y" * 5_000
    writer = writer_of(logs, max_file_bytes=100 * MIB, max_files=2, max_buffer_bytes=max_buffer_bytes)
    sizes: list[int] = []
    read_of, write_of = os.read, os.write

    def counted_read(fd: int, size: int) -> bytes:
        sizes.append(size)
        return read_of(fd, size)

    def counted_write(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write_of(fd, data)

    async def test() -> None:
        reading, writing = os.pipe()
        capture = Capture(reading, writer.stream("stdout"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", counted_read)
            patch.setattr(os, "write", counted_write)
            await asyncio.to_thread(print_all, writing, printed)
            assert await capture.drain(BOUND_S)

    def print_all(fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[write_of(fd, view) :]
        os.close(fd)

    run(test)
    assert max(sizes) <= max_buffer_bytes // 2
    assert b"\n".join(content(record) for record in read(logs)) == printed
    assert len(writer.tail("stdout")[-1]) <= max_buffer_bytes // 2


def test_a_line_of_64_megabytes_costs_no_memory_and_the_next_one_is_whole(logs: LogStore) -> None:
    writer = writer_of(logs, max_file_bytes=10 * MIB, max_files=20)
    stream = writer.stream("stdout")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    piece = b"0123456789abcdef" * 4096
    for _ in range(64 * MIB // len(piece)):
        stream.write(piece)
    stream.write(b"\nthe next\n")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB

    async def test() -> None:
        size = 0
        async with aclosing(logs.history(LogFilter())) as batches:
            async for batch in batches:
                for record in batch:
                    if record["text"] == "the next":
                        assert size == 64 * MIB
                        return
                    text = str(record["text"])
                    assert len(text) <= 2 * MIB
                    assert text.encode() == piece * (len(text) // len(piece)) + piece[: len(text) % len(piece)]
                    size += len(text)
        raise AssertionError("the next line is missing")

    run(test)


def test_without_a_new_line_a_killed_daemons_gap_is_reported_once(tmp_path: Path) -> None:
    writer = writer_of(LogStore(tmp_path))
    writer.begin()
    writer.stream("stdout").write(b"whole\n")
    for _ in range(3):  # daemons that are killed, too
        again = LogStore(tmp_path, unclean=True)
        writer = writer_of(again)
        again.check()
        writer.begin()
        first, note = read(again)
        assert first["text"] == "whole"
        assert (note["stream"], note["lost_lines"], note["lost_bytes"]) == ("corral", 0, 0)
        again.close()
    clean = LogStore(tmp_path)
    writer_of(clean).stream("stdout").write(b"next\n")
    assert texts(read(clean, stream="stdout"))[-1] == "next"
    assert len(read(clean)) == 3
    clean.close()


def test_a_killed_daemons_gap_is_reported_for_running_workers_alone_also_for_silent_ones(tmp_path: Path) -> None:
    async def test() -> None:
        logs = LogStore(tmp_path)
        writers = [writer_of(logs, f"echo-{number}") for number in range(3)]
        pipes = [os.pipe() for _ in writers]
        captures: list[Capture] = []
        for writer, (reader, _) in zip(writers, pipes, strict=True):
            writer.begin()
            captures.append(Capture(reader, writer.stream("stderr")))
        ended, printing, silent = captures
        for capture, (_, end) in zip((ended, printing), pipes, strict=False):
            os.write(end, b"whole\n")
            capture.catch_up()
        os.close(pipes[0][1])
        assert await ended.drain(BOUND_S)
        writers[2].begin()  # its next life, before the last words of the one before were read
        os.close(pipes[2][1])
        assert await silent.drain(BOUND_S)
        again = LogStore(tmp_path, unclean=True)
        for number in range(4):
            writer_of(again, f"echo-{number}")
        again.check()
        seen = {str(record["worker"]) for record in await again.read() if record["stream"] == "corral"}
        assert seen == {"echo-1", "echo-2"}
        third = LogStore(tmp_path, unclean=True)
        writer_of(third, "echo-1")
        third.check()
        assert len(await third.read(["echo-1"])) == 2  # it lived no more
        for store in (logs, again, third):
            store.close()
        os.close(pipes[1][1])

    run(test)


def test_a_gap_that_a_killed_daemon_could_not_report_is_possible_for_the_next(tmp_path: Path) -> None:
    async def test() -> None:
        logs = LogStore(tmp_path)
        writer = writer_of(logs)
        writer.begin()
        path = tmp_path / "echo" / "echo-0.log"
        path.mkdir(parents=True)  # nothing can be written
        reader, end = os.pipe()
        capture = Capture(reader, writer.stream("stderr"))
        os.write(end, b"lost\n")
        os.close(end)
        await capture.drain(BOUND_S)
        assert writer.lost_lines == 1
        path.rmdir()
        again = LogStore(tmp_path, unclean=True)
        writer_of(again)
        again.check()
        assert [record["stream"] for record in await again.read()] == ["corral"]
        again.close()
        logs.close()

    run(test)


def test_pieces_of_a_line_become_one_and_what_was_cut_of_it_is_counted(logs: LogStore) -> None:
    writer = writer_of(logs)
    stream = writer.stream("stdout")
    stream.line(b"before")
    stream.line(b"x" * 50_000, ended=False)
    stream.line(b"y" * 50_000, ended=False)
    stream.line(b"")
    stream.line(b"")
    assert (writer.lost_lines, writer.lost_bytes) == (0, 0)
    stream.line(b'{"head', ended=False)
    stream.line(b"", cut_bytes=1_000)
    stream.line(b"after")
    records = read(logs)
    assert [record["stream"] for record in records] == ["stdout"] * 4 + ["corral", "stdout"]
    assert texts(records)[:4] == ["before", "x" * 50_000 + "y" * 50_000, "", '{"head']
    assert (records[4]["lost_lines"], records[4]["lost_bytes"]) == (1, 1_000)
    assert (writer.lost_lines, writer.lost_bytes) == (1, 1_000)
    silent = writer_of(logs, "mute-0", keeps=False)
    silent.stream("stdout").line(b"head", cut_bytes=5)
    assert silent.lost_lines == 0


def test_a_gap_is_reported_although_the_kill_came_right_after_a_rotation(tmp_path: Path) -> None:
    writer = writer_of(LogStore(tmp_path))
    writer.begin()
    writer.stream("stdout").write(b"whole\n")
    (tmp_path / "echo" / "echo-0.log").rename(tmp_path / "echo" / "echo-0.log.1")
    again = LogStore(tmp_path, unclean=True)
    writer_of(again).stream("stdout").write(b"next\n")
    assert [record["stream"] for record in read(again)] == ["stdout", "corral", "stdout"]
    again.close()


def test_what_was_written_since_the_last_look_at_a_truncated_file_counts_as_lost(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000_000]
    logs = LogStore(tmp_path / "logs", clock=lambda: now[0])
    writer = writer_of(logs)
    stream = writer.stream("stdout")
    path = logs.directory / "echo" / "echo-0.log"
    stream.write(b"copied long ago\n")
    logs.check()
    stream.write(b"one\ntwo\n")
    path.with_name("echo-0.log-copy").write_bytes(path.read_bytes())
    os.truncate(path, 0)
    logs.check()
    stream.write(b"after\n")
    note, after = read(logs)
    assert (note["lost_lines"], note["lost_bytes"]) == (2, 8)
    assert after["text"] == "after"
    os.truncate(path, 0)
    logs.check()
    os.truncate(path, 0)  # nothing was written meanwhile
    logs.check()
    stream.write(b"again\n")
    assert writer.lost_lines == 3
    logs.close()


def test_what_is_not_to_be_kept_is_in_the_tail_only(logs: LogStore) -> None:
    writer = writer_of(logs, keeps=False)
    writer.stream("stderr").write(b"words\n")
    writer.stream("log").line(b"a message", "error")
    assert writer.tail() == ["words"]
    assert read(logs) == []
    writer_of(logs, keeps=True).stream("stderr").write(b"kept\n")
    assert texts(read(logs)) == ["kept"]
