"""Reading logs: any set of workers by time, the last lines, filtered ones, and new ones."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from corral.supervisor.records.logs.capture_pipe import Capture
from corral.supervisor.records.logs.file_format import LogFilter, Record
from corral.supervisor.records.logs.store import LogStore
from log_folder import BOUND_S, MIB, content, read, run, taken, texts, writer_of

pytestmark = pytest.mark.shell


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "logs")
    yield store
    store.close()


def test_records_of_many_workers_are_merged_by_time(tmp_path: Path) -> None:
    ticks = iter(range(1_700_000_000_000_000_000, 1_800_000_000_000_000_000, 1_000_000_000))
    logs = LogStore(tmp_path, clock=lambda: next(ticks))
    streams = [writer_of(logs, f"crew-{number}").stream("stdout") for number in range(5)]
    for number in range(100):
        streams[number * 7 % 5].write(b"%d\n" % number)
    assert texts(read(logs)) == [str(number) for number in range(100)]
    assert texts(read(logs, n=12)) == [str(number) for number in range(88, 100)]
    assert texts(read(logs, "crew-0", n=2)) == ["90", "95"]
    assert texts(read(logs, "crew", n=1)) == ["99"]
    assert read(logs, "nobody", "../crew") == []
    times = [str(record["at"]) for record in read(logs)]
    assert times == sorted(times)
    logs.close()


def test_since_and_until_choose_by_time_in_long_logs_too(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000_000]
    logs = LogStore(tmp_path, clock=lambda: now[0])
    stream = writer_of(logs, max_file_bytes=100_000, max_files=50).stream("stdout")
    for number in range(10_000):
        now[0] += 1_000_000_000
        stream.write(b"%d\n" % number if number % 1_000 else b"%d%s\n" % (number, b"x" * 40_000))

    async def test() -> None:
        for first in (0, 1, 999, 1_000, 2_500, 9_999, 20_000):
            since = 1_700_000_001 + first
            found = await logs.read(since=since)
            assert len(found) == max(10_000 - first, 0)
            assert not found or str(found[0]["text"]).startswith(str(first))
        found = await logs.read(since=1_700_000_011, until=1_700_000_020)
        assert texts(found) == [str(number) for number in range(10, 20)]
        assert texts(await logs.read(since=1_700_000_011, n=1)) == ["9999"]
        assert len(await logs.read(since=1_700_009_999, n=10)) == 2

    run(test)
    logs.close()


def test_an_empty_newest_file_hides_nothing_that_is_older(logs: LogStore) -> None:
    writer_of(logs).stream("stdout").write(b"early\n")
    current = logs.directory / "echo" / "echo-0.log"
    current.rename(current.with_name("echo-0.log.1"))
    current.touch()  # the disk was full at a rotation
    assert texts(asyncio.run(logs.read(["echo-0"], since=0.0))) == ["early"]
    assert texts(read(logs, n=1)) == ["early"]


def test_what_was_written_before_its_writer_opened_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    lines = [str(number).zfill(99) for number in range(120)]
    killed = LogStore(tmp_path)
    writer = writer_of(killed, max_file_bytes=5_000)
    writer.begin()
    writer.stream("stdout").write("".join(f"{line}\n" for line in lines).encode())
    for _ in range(2):  # the first of the next daemons says that lines may be missing, and is killed, too
        logs = LogStore(tmp_path, unclean=True)
        writer = writer_of(logs, max_file_bytes=5_000)
        logs.check()
        writer.begin()
        *shown, note = read(logs)
        assert texts(shown) == lines
        assert (note["stream"], note["lost_lines"]) == ("corral", 0)


@pytest.mark.parametrize("width", [1, 99, 20_000])
def test_files_that_are_shorter_than_what_is_written_at_once_are_all_read(logs: LogStore, width: int) -> None:
    writer = writer_of(logs, max_file_bytes=5_000, max_files=1_000)
    stream = writer.stream("stdout")
    lines = [str(number).zfill(width)[:width] for number in range(1_000 if width < 1_000 else 5)]
    stream.write("".join(f"{line}\n" for line in lines).encode())
    assert texts(read(logs)) == lines
    assert texts(read(logs, n=3)) == lines[-3:]


def test_a_follower_sees_each_line_once_across_rotation_restart_and_new_workers(logs: LogStore) -> None:
    async def test() -> None:
        writer = writer_of(logs, max_file_bytes=3_000, max_files=50)
        stream = writer.stream("stdout")
        for number in range(100):
            stream.write(b"%d\n" % number)
        async with aclosing(logs.follow(LogFilter(frozenset({"echo"})), n=5)) as batches:
            assert texts(await taken(batches, 5)) == ["95", "96", "97", "98", "99"]
            first = 100
            for count in (1, 40, 300, 1, 3):  # within a file, over one rotation, over several
                for number in range(first, first + count):
                    stream.write(b"%d\n" % number)
                stream.close()
                stream = writer.stream("stdout")  # another incarnation
                numbers = [int(str(text)) for text in texts(await taken(batches, count))]
                assert numbers == list(range(first, first + count))
                first += count
            writer_of(logs, "other-0").stream("stderr").write(b"not asked for\n")
            writer_of(logs, "echo-1").stream("stderr").write(b"new here\n")
            assert texts(await taken(batches, 1)) == ["new here"]
            logs.release(writer)
            writer_of(logs).stream("stdout").write(b"again\n")
            assert texts(await taken(batches, 1)) == ["again"]

    run(test)


def test_a_follower_beside_a_flood_through_rotations_misses_and_repeats_nothing(logs: LogStore) -> None:
    count = 100_000
    program = f"for i in range({count}): print('%050d' % i)"
    writer = writer_of(logs, max_file_bytes=200_000, max_files=100)

    async def test() -> None:
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            capture = Capture(os.dup(process.stdout.fileno()), writer.stream("stdout"))
            process.stdout.close()
            async with aclosing(logs.follow(LogFilter(), n=None)) as batches:
                got = await taken(batches, count)
            assert texts(got) == [f"{number:050d}" for number in range(count)]
            assert await capture.drain(BOUND_S)

    run(test)


@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_a_follower_that_is_too_slow_learns_how_many_lines_it_missed(logs: LogStore, at_once: int) -> None:
    async def test() -> None:
        stream = writer_of(logs, max_file_bytes=2_000, max_files=3).stream("stdout")
        stream.write(b"0\n")
        async with aclosing(logs.follow(LogFilter())) as batches:
            assert texts(await taken(batches, 1)) == ["0"]
            for first in range(1, 1_000, at_once):
                some = range(first, min(first + at_once, 1_000))
                stream.write(b"".join(b"%d\n" % number for number in some))
            got: list[Record] = []
            while not got or got[-1]["text"] != "999":
                got += await anext(batches)
            gaps = [record for record in got if record["stream"] == "corral"]
            numbers = [int(str(r["text"])) for r in got if r["stream"] != "corral"]
            assert len(gaps) == 1
            assert gaps[0]["skipped_lines"] == 999 - len(numbers)
            assert numbers == list(range(numbers[0], 1_000))

    run(test)


def test_a_follower_that_begins_inside_a_long_line_is_given_the_whole_line(logs: LogStore) -> None:
    async def test() -> None:
        stream = writer_of(logs).stream("stdout")
        stream.write(b"before\n" + b"x" * 50_000)
        async with aclosing(logs.follow(LogFilter(), n=0)) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            stream.write(b"y" * 50_000 + b"\nafter\n")
            got = await waiting
            assert [content(record) for record in got] == [b"x" * 50_000 + b"y" * 50_000, b"after"]

    run(test)


def test_the_last_lines_of_a_long_log_cost_no_more_than_those_of_a_short_one(
    logs: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = writer_of(logs, max_file_bytes=100 * MIB).stream("stdout")
    reads: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        reads.append(len(data))
        return data

    costs: list[int] = []
    for _ in range(2):
        stream.write(b"x" * 99 + b"\n")
        stream.write((b"x" * 99 + b"\n") * 100_000)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", counted)
            assert len(read(logs, n=100)) == 100
        costs.append(sum(reads))
        reads.clear()
    assert max(costs) < MIB


def test_a_follower_goes_on_after_others_truncated_the_file(logs: LogStore) -> None:
    async def test() -> None:
        stream = writer_of(logs).stream("stdout")
        stream.write(b"one\ntwo\nthree\n")
        async with aclosing(logs.follow(LogFilter())) as batches:
            assert texts(await taken(batches, 3)) == ["one", "two", "three"]
            os.truncate(logs.directory / "echo" / "echo-0.log", 0)
            stream.write(b"four\n")
            assert texts(await taken(batches, 1)) == ["four"]
            stream.write(b"five\n")
            assert texts(await taken(batches, 1)) == ["five"]

    run(test)


@pytest.mark.parametrize("count", [1, 100], ids=["one file", "many files"])
def test_a_follower_that_begins_at_an_empty_file_sees_what_is_written_to_it(logs: LogStore, count: int) -> None:
    async def test() -> None:
        stream = writer_of(logs, max_file_bytes=1_000, max_files=50).stream("stdout")
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))  # as if the disk were full
        try:
            stream.write(b"lost\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert (logs.directory / "echo" / "echo-0.log").stat().st_size == 0
        async with aclosing(logs.follow(LogFilter(), n=1_000)) as batches:
            first = asyncio.ensure_future(anext(batches))
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert not first.done()
            stream.write("".join(f"{number}\n" for number in range(count)).encode())
            seen = await first
            while seen[-1]["text"] != str(count - 1):
                seen += await anext(batches)
        assert [each for each in texts(seen) if str(each).isdigit()] == list(map(str, range(count)))
        assert [each["lost_lines"] for each in seen if "lost_lines" in each] == [1]
        assert not any("skipped_lines" in each for each in seen)

    run(test)


def test_the_last_lines_are_right_while_files_are_renamed_under_the_reader(logs: LogStore) -> None:
    async def test() -> None:
        streams = [
            writer_of(logs, f"crew-{number}", max_file_bytes=1_000, max_files=9).stream("stdout")
            for number in range(20)
        ]
        for number in range(100):
            for stream in streams:
                stream.write(b"%d\n" % number)
        reading = asyncio.ensure_future(logs.read(["crew"], n=10_000))
        for number in range(100, 130):
            await asyncio.sleep(0)
            for stream in streams:
                stream.write(b"%d\n" % number)
        records = await reading
        for worker in range(20):
            own = [int(str(r["text"])) for r in records if r["worker"] == f"crew-{worker}"]
            assert own == list(range(own[0], own[-1] + 1))
            assert own[-1] >= 99

    run(test)
