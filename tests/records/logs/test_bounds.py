"""Reading holds little memory and lets the daemon run in between, whatever the size of the logs and the number of readers."""

import asyncio
import itertools
import os
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from corral.supervisor.records.logs.file_format import LogFilter
from corral.supervisor.records.logs.reader import BLOCKS_BYTES
from corral.supervisor.records.logs.regex import Pattern
from corral.supervisor.records.logs.store import LogStore
from corral.worker.contract import codec
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from log_folder import MIB, content, read, run, taken, texts, writer_of

pytestmark = [pytest.mark.shell, pytest.mark.long]

LINES = 60_000


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "logs")
    yield store
    store.close()


@pytest.fixture
def long(logs: LogStore) -> LogStore:
    """A log with one line on stderr, one message and the mark of its incarnation, all of them long ago."""
    writer = writer_of(logs, max_file_bytes=2 * MIB, max_files=9)
    writer.begin()
    writer.stream("stderr").write(b"an old error\n")
    writer.stream("log").line(b"an old message", "error")
    stream = writer.stream("stdout")
    for first in range(0, LINES, 600):
        stream.write(b"".join(b"%099d\n" % n for n in range(first, first + 600)))
    return logs


CHOICES = {
    "the last": (LogFilter(), 10),
    "many": (LogFilter(), LINES - 5),
    "a stream": (LogFilter(stream="stderr"), 10),
    "messages": (LogFilter(stream="log"), 10),
    "a level": (LogFilter(level="error"), 10),
    "a pattern": (LogFilter(pattern=Pattern("^an old error")), 10),
    "since": (LogFilter(since=0.0, stream="stderr"), None),
    "until": (LogFilter(until=1.0), 10),
    "previous": (LogFilter(previous=True), 10),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_whatever_is_asked_for_the_loop_has_its_turn_after_few_blocks(
    long: LogStore, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, n = CHOICES[choice]
    pread = os.pread
    in_turn: list[int] = [0]

    def counted(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        in_turn[-1] += len(data)
        return data

    async def turns() -> None:
        while True:
            in_turn.append(0)
            await asyncio.sleep(0)

    async def test() -> None:
        others = asyncio.ensure_future(turns())
        found = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", counted)
            async with aclosing(long.history(wanted, n)) as batches:
                async for batch in batches:
                    found += len(batch)
        others.cancel()
        expected = {"the last": 10, "many": LINES - 5, "until": 0, "previous": 10}
        assert found == expected.get(choice, 1)
        assert max(in_turn) < 512 * 1024

    run(test)


@pytest.mark.parametrize("choice", ["all lines", "a pattern"])
def test_what_is_held_for_a_reader_does_not_grow_with_what_it_asked_for(long: LogStore, choice: str) -> None:
    wanted = LogFilter(pattern=Pattern("0")) if choice == "a pattern" else LogFilter()

    async def test() -> None:
        tracemalloc.start()
        try:
            firsts: list[object] = []
            count = 0
            async with aclosing(long.history(wanted, LINES // 2)) as batches:
                async for batch in batches:
                    firsts = firsts or [batch[0]["text"]]
                    count += len(batch)
            assert count == LINES // 2
            assert int(str(firsts[0])) == LINES - LINES // 2
            assert tracemalloc.get_traced_memory()[1] < 3 * BLOCKS_BYTES
        finally:
            tracemalloc.stop()

    run(test)


def test_the_last_lines_of_several_workers_are_as_many_as_were_asked_for(tmp_path: Path) -> None:
    now = iter(range(1_700_000_000, 1_800_000_000))
    logs = LogStore(tmp_path, clock=lambda: next(now) * 1_000_000_000)
    streams = [writer_of(logs, f"crew-{number}").stream("stdout") for number in range(3)]
    for number in range(900):
        streams[number % 3].write(b"%d%s\n" % (number, b"x" * (3 * MIB * (number == 600))))
    for wanted in (LogFilter(), LogFilter(pattern=Pattern(".")), LogFilter(stream="stdout"), LogFilter(since=1.0)):
        for n in (1, 2, 250, 299, 301, 899, 900, 2_000):
            found = asyncio.run(history(logs, wanted, n))
            ends = [r for r in found if not r.get("partial")]
            numbers = [int(str(r["text"]).rstrip("x") or "600") for r in ends]
            assert numbers == list(range(max(0, 900 - n), 900))
    logs.close()


async def history(logs: LogStore, wanted: LogFilter, n: int | None) -> list[dict[str, object]]:
    return [record async for batch in logs.history(wanted, n) for record in batch]


def test_many_followers_work_one_in_a_turn_and_hold_up_nobody(logs: LogStore) -> None:
    async def test() -> None:
        stream = writer_of(logs, max_file_bytes=64 * MIB).stream("stdout")
        following = [logs.follow(LogFilter(), 0) for _ in range(30)]
        waiting = [asyncio.ensure_future(anext(batches)) for batches in following]
        for _ in range(len(following) + 2):
            await asyncio.sleep(0)
        stream.write((b"x" * 99 + b"\n") * 5_000)
        done: list[int] = []
        while not all(each.done() for each in waiting):
            done.append(sum(each.done() for each in waiting))
            await asyncio.sleep(0)
        at_once = max(b - a for a, b in itertools.pairwise(done))
        assert at_once <= 2
        for batches in following:
            await batches.aclose()

    run(test)


@pytest.mark.parametrize("size", ["many fields", "long text", "long fields"])
def test_whatever_messages_a_worker_sends_a_reader_can_be_sent_them(logs: LogStore, size: str) -> None:
    notes = writer_of(logs, max_file_bytes=100 * MIB).stream("log")
    text, fields, times = {
        "many fields": (b"\x01", {"blob": "\x01" * 30_000}, 200),
        "long text": (b"\x01" * 4 * MIB, {"key": "value"}, 1),
        "long fields": (b"words", {"blob": "\x01" * 4 * MIB}, 1),
    }[size]
    for _ in range(times):
        notes.line(text, "error", fields)
    notes.line(b"the last", "error")

    async def test() -> None:
        found: list[dict[str, object]] = []
        async with aclosing(logs.history(LogFilter(level="error"))) as batches:
            async for batch in batches:
                assert len(codec.encode(batch)) < MAX_MESSAGE_BYTES
                found += batch
        assert found[-1]["text"] == "the last"
        assert {record["level"] for record in found} == {"error"}
        if size == "many fields":
            assert [record["fields"] for record in found[:-1]] == [fields] * times
        else:
            whole = b"".join(content(record) for record in found[:-1])
            shown = whole.replace(b"\\u0001", b"\x01")
            assert shown.count(b"\x01") == 4 * MIB
            assert [r.get("partial", False) for r in found] == [True] * (len(found) - 2) + [False] * 2

    run(test)


def test_what_rotates_while_a_reader_begins_is_read_whole(tmp_path: Path) -> None:
    logs = LogStore(tmp_path / "logs")
    streams = [writer_of(logs, f"crew-{n}", max_file_bytes=4096).stream("stdout") for n in range(2)]
    for stream in streams:
        stream.write(b"early\n")

    async def rotate() -> None:
        streams[1].write(b"late\n" * 100)

    async def test() -> None:
        rotating = asyncio.ensure_future(rotate())  # has its turn while the reader is at the first worker
        found = await logs.read()
        await rotating
        assert texts([r for r in found if r["worker"] == "crew-1"])[0] == "early"

    run(test)
    logs.close()


@pytest.mark.parametrize("fate", ["read", "rotated away"])
def test_a_follower_learns_what_it_missed_of_a_worker_that_has_ended(logs: LogStore, fate: str) -> None:
    async def test() -> None:
        async with aclosing(logs.follow(LogFilter(), 0)) as batches:
            waiting: Awaitable[list[dict[str, object]]] = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            writer = writer_of(logs, "brief-0", max_file_bytes=4_096, max_files=2)
            count = 1 if fate == "read" else 1_000
            for number in range(count):
                writer.stream("stdout").write(b"%d\n" % number)
            logs.release(writer)
            got = await waiting
            while got[-1]["text"] != str(count - 1):
                got += await anext(batches)
            gaps = [record for record in got if record["stream"] == "corral"]
            assert [gap["skipped_lines"] for gap in gaps] == ([] if count == 1 else [count - len(got) + 1])
            writer_of(logs, "brief-0").stream("stdout").write(b"again\n")
            assert texts(await taken(batches, 1)) == ["again"]

    run(test)


Step = Callable[[], None]


def test_a_shipper_that_joins_parts_by_stream_gets_each_line_by_itself(logs: LogStore) -> None:
    writer = writer_of(logs)
    out, err, notes = writer.stream("stdout"), writer.stream("stderr"), writer.stream("log")
    steps: list[Step] = [
        lambda: err.write(b"e" * 40_000),
        lambda: notes.line(b"in between", "info"),
        lambda: err.write(b"E\n"),
        lambda: out.write(b"o" * 40_000),
        lambda: notes.line(b"x" * 40_000, "info"),
        lambda: out.write(b"O\n"),
    ]
    for step in steps:
        step()
    joined: list[bytes] = []
    parts: dict[bytes, bytes] = {}
    for line in (logs.directory / "echo" / "echo-0.log").read_bytes().splitlines():
        _, stream, tag, text = line.split(b" ", 3)
        parts[stream] = parts.get(stream, b"") + text
        if tag == b"F":
            joined.append(parts.pop(stream))
    assert parts == {}
    assert joined[1] == b"e" * 40_000 + b"E"
    assert joined[3] == b"o" * 40_000 + b"O"
    assert codec.decode(joined[0]) == {"level": "info", "text": "in between"}
    assert codec.decode(joined[2]) == {"level": "info", "text": "x" * 40_000}
    for n in (1, 2, 3, 4):
        assert [len(content(r)) for r in read(logs, n=n)] == [10, 40_001, 40_000, 40_001][-n:]
