"""Compressed logs: read like the others, and a kill at any moment loses and repeats nothing."""

import asyncio
import gzip
import os
import random
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from corral.supervisor.records.logs.bgzf import BLOCK_BYTES, Archive, compress
from corral.supervisor.records.logs.capture import LogWriter
from corral.supervisor.records.logs.file_format import LogFilter
from corral.supervisor.records.logs.store import LogStore
from log_folder import compress_files, compressed, read, run, taken, texts, writer_of

pytestmark = pytest.mark.shell


@pytest.mark.parametrize("seed", range(5))
def test_any_place_of_an_archive_is_read_as_in_the_original(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    size = dice.choice((0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 700_000))
    original = dice.randbytes(size // 2) + bytes(dice.choices(b"abc\n", k=size - size // 2))
    (tmp_path / "plain").write_bytes(original)
    with (tmp_path / "plain").open("rb") as source, (tmp_path / "packed.gz").open("w+b") as target:
        assert compress(source.fileno(), target.fileno(), lambda: False)
        archive = Archive(target.fileno())
        assert archive.size == size
        for _ in range(50):
            offset, length = dice.randrange(size + 2), dice.randrange(200_000)
            assert archive.pread(length, offset) == original[offset : offset + length]
    unpacked = subprocess.run(["gzip", "-dc", tmp_path / "packed.gz"], capture_output=True, check=True)
    assert unpacked.stdout == original


@pytest.mark.parametrize("left", [0, 17, 18, 5_000, -1, -28])
def test_what_is_no_whole_archive_is_refused(tmp_path: Path, left: int) -> None:
    (tmp_path / "plain").write_bytes(random.Random(left).randbytes(100_000))
    with (tmp_path / "plain").open("rb") as source, (tmp_path / "packed.gz").open("w+b") as target:
        compress(source.fileno(), target.fileno(), lambda: False)
        os.truncate(target.fileno(), left if left >= 0 else target.seek(0, os.SEEK_END) + left)
        with pytest.raises(ValueError, match=r"."):
            Archive(target.fileno())


def store_of(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path / "logs", compress_after_s=0)


def fill(writer: LogWriter, first: int, count: int) -> None:
    stream = writer.stream("stdout")
    for number in range(first, first + count):
        stream.write(b"%d\n" % number if number % 50 else b"%d %s\n" % (number, b"x" * 20_000))


def number_of(text: object) -> int:
    return int(str(text).partition(" ")[0])


def test_all_but_the_two_newest_files_are_compressed_and_read_like_the_others(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer = writer_of(logs, max_file_bytes=100_000, max_files=9)
    fill(writer, 0, 1_500)
    before = read(logs)
    plain = len(list((logs.directory / "echo").iterdir()))
    compress_files(logs, plain - 2)
    names = {path.name for path in (logs.directory / "echo").iterdir()}
    assert {"echo-0.log", "echo-0.log.1", "echo-0.log.2.gz"} <= names
    assert len(names) == plain
    assert read(logs) == before
    for n in (1, 100, 700, len(before)):
        assert read(logs, n=n) == before[-n:]
    assert {path.stat().st_mode & 0o777 for path in (logs.directory / "echo").iterdir()} == {0o600}
    middle = before[len(before) // 3]

    async def test() -> None:
        since = await logs.read(until=2e9, since=0)
        assert since == before
        assert middle in since

    run(test)
    fill(writer, 1_500, 1_500)
    numbers = [number_of(text) for text in texts(read(logs))]
    assert numbers == list(range(numbers[0], 3_000))
    assert len(list((logs.directory / "echo").iterdir())) <= 9
    logs.close()


def test_a_follower_that_is_behind_reads_on_in_the_compressed_file(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer = writer_of(logs, max_file_bytes=50_000, max_files=50)
    fill(writer, 0, 1_000)

    async def test() -> None:
        async with aclosing(logs.follow(LogFilter(), n=None)) as batches:
            got = await anext(batches)
            plain = len(list((logs.directory / "echo").iterdir()))
            compress_files(logs, plain - 2)  # also the file that it was reading
            fill(writer, 1_000, 1_000)
            while len(got) < 2_000:
                got += await anext(batches)
            assert [number_of(text) for text in texts(got)] == list(range(2_000))
            compress_files(logs, len(list((logs.directory / "echo").iterdir())) - 2)
            writer.stream("stdout").write(b"2000\n")
            assert texts(await taken(batches, 1)) == ["2000"]

    run(test)
    logs.close()


def test_files_of_an_earlier_daemon_are_compressed_and_what_it_left_half_done_is_removed(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    fill(writer_of(logs, max_file_bytes=100_000, max_files=9), 0, 1_000)
    logs.close()
    before = read(logs)
    folder = logs.directory / "echo"
    (folder / ".echo-0.log.123.tmp").write_bytes(b"half")
    again = store_of(tmp_path)
    compress_files(again, 1)
    assert not list(folder.glob(".echo-0.log.123*"))
    assert read(again) == before
    again.close()
    assert not list(folder.glob(".*"))


def test_a_file_beside_its_copy_is_read_once_and_the_copy_goes(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer = writer_of(logs, max_file_bytes=100_000, max_files=9)
    fill(writer, 0, 1_000)
    before = read(logs)
    folder = logs.directory / "echo"
    plain = (folder / "echo-0.log.2").read_bytes()
    while not (folder / "echo-0.log.2.gz").exists():
        compress_files(logs, len(compressed(logs)) + 1)
    logs.close()
    (folder / "echo-0.log.2").write_bytes(plain)  # killed between the copy and the removal
    assert read(logs) == before
    again = store_of(tmp_path)
    fill(writer_of(again, max_file_bytes=100_000, max_files=9), 1_000, 1)
    assert not (folder / "echo-0.log.2.gz").exists()
    assert texts(read(again)) == [*texts(before), f"1000 {'x' * 20_000}"]
    again.close()


def test_a_compressed_file_of_somebody_else_is_passed_over(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer = writer_of(logs, max_file_bytes=100_000, max_files=9)
    fill(writer, 0, 1_000)
    before = read(logs)
    count = len(list((logs.directory / "echo").iterdir()))
    logs.close()
    folder = logs.directory / "echo"
    for number in (count, count + 1):
        (folder / f"echo-0.log.{number}.gz").write_bytes(gzip.compress(b"not ours\n" * 1_000))
    assert read(logs) == before
    assert read(logs, n=10_000) == before
    oldest = folder / f"echo-0.log.{count - 1}"
    (folder / f"echo-0.log.{count - 2}").rename(folder / "kept")
    (folder / f"echo-0.log.{count - 2}.gz").write_bytes(b"half")
    lines = oldest.read_bytes().count(b" F ")
    (folder / "kept").rename(oldest)
    numbers = [number_of(text) for text in texts(read(logs)) if str(text)[:6] != "corral"]
    assert numbers == [number_of(text) for text in texts(before)][lines:]


KILLED = """
import sys, time
from pathlib import Path
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
logs = LogStore(Path(sys.argv[1]), compress_after_s=0, unclean=True)
writer = logs.writer("echo", "echo-0", LogLimits(20_000, 1_000))
stream = writer.stream("stdout")
first = int(sys.argv[2])
print("begun", flush=True)
for number in range(first, first + 100_000):
    stream.write(b"%099d\\n" % number)
    if number % 20 == 0:
        logs.check()
"""


@pytest.mark.long
def test_a_kill_while_files_are_rotated_and_compressed_loses_and_repeats_nothing(tmp_path: Path) -> None:
    dice = random.Random(7)
    first = 0
    for _ in range(12):
        arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(first)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(dice.random() / 10)  # anywhere: what is asserted holds at every moment
            process.kill()
        records = asyncio.run(LogStore(tmp_path).read(["echo"]))
        numbers = [int(str(r["text"])) for r in records if r["stream"] == "stdout"]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= first
        first = len(numbers)
    assert first > 0
    assert list(tmp_path.glob("echo/*.gz"))


def test_a_hole_that_a_killed_rotation_left_is_filled_before_an_old_file_goes(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer = writer_of(logs, max_file_bytes=2_000, max_files=5)
    fill_lines(writer, 0, 200)
    folder = logs.directory / "echo"
    (folder / "echo-0.log.4").unlink()
    (folder / "echo-0.log.3").rename(folder / "echo-0.log.4")
    (folder / "echo-0.log.2").rename(folder / "echo-0.log.3")  # and then it was killed
    before = [number_of(text) for text in texts(read(logs))]
    first_rotation = len(writer.files) and writer.files[-1]
    number = 200
    while writer.files[-1] == first_rotation:
        fill_lines(writer, number, 1)
        number += 1
    assert [number_of(text) for text in texts(read(logs))] == list(range(before[0], number))
    logs.close()


def fill_lines(writer: LogWriter, first: int, count: int) -> None:
    stream = writer.stream("stdout")
    for number in range(first, first + count):
        stream.write(b"%d\n" % number)
