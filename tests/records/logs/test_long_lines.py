"""A line of megabytes costs a reader no more memory than a short one, and is read once, whatever becomes of its files meanwhile."""

import asyncio
import gzip
import itertools
import random
import re
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from corral.supervisor.records.logs.capture import LogStream
from corral.supervisor.records.logs.file_format import LogFilter, Record
from corral.supervisor.records.logs.store import LogStore
from corral.worker.contract.log_pieces import PieceJoiner
from log_folder import MIB, compress_files, content, run, settle, writer_of
from seeds import seeds

pytestmark = [pytest.mark.shell, pytest.mark.long]

SEEDS = 8
STEPS = 60
FILES = 6
TOKEN = re.compile(rb"[oe][0-9]{6}\.[0-9]{7}\|")
HELD_BYTES = 4 * MIB


def tokens(text: bytes) -> list[bytes]:
    return TOKEN.findall(text)


class Printer:
    """Prints lines of numbered words, so that each part of each line is known again."""

    def __init__(self, stream: LogStream, letter: bytes, numbers: Iterator[int]) -> None:
        self._stream = stream
        self._letter = letter
        self._numbers = numbers
        self._word = 0
        self._line = next(numbers)

    def print(self, words: int, *, ended: bool) -> None:
        for first in range(0, words, 4_000):
            some = range(self._word + first, self._word + min(first + 4_000, words))
            text = b"".join(b"%s%06d.%07d|" % (self._letter, self._line, word) for word in some)
            self._stream.write(text)
        self._word += words
        if ended:
            self._stream.write(b"\n")
            self._word, self._line = 0, next(self._numbers)


def stored(directory: Path, worker: str, *, only_ended: bool = False) -> dict[str, list[bytes]]:
    """What is in the files of a worker by stream, read in the order of their names by nothing of ours."""
    ended = {"stdout": 0, "stderr": 0}
    found: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    paths = {
        int((re.findall(r"\.log\.([0-9]+)", path.name) or ["0"])[0]): path
        for path in sorted(directory.glob(f"{worker}.log*"), reverse=True)  # plain before .gz
    }
    for _, path in sorted(paths.items(), reverse=True):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in data.splitlines():
            if line[28:29] in b"03":
                name = line[31:37].decode()
                found[name].append(line[40:])
                ended[name] = len(found[name]) if line[38:39] == b"F" else ended[name]
    return {name: tokens(b"".join(parts[: ended[name]] if only_ended else parts)) for name, parts in found.items()}


def read_words(records: list[Record], stream: str) -> list[bytes]:
    return tokens(b"".join(content(r) for r in records if r["stream"] == stream))


class Life:
    """A random life of one worker's log, with a reader that follows it at its own pace."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self._now = 1_700_000_000_000_000_000
        self._directory = directory
        self._numbers = itertools.count()
        self.got: list[Record] = []
        self._reading: asyncio.Future[list[Record]] | None = None

    def _clock(self) -> int:
        self._now += self.random.choice((10, 1_000_000, 300_000_000))
        return self._now

    def _open(self, *, unclean: bool) -> None:
        self.logs = LogStore(self._directory, clock=self._clock, unclean=unclean, compress_after_s=0)
        file_bytes = self.random.choice((20_000, 60_000, 250_000))
        writer = writer_of(self.logs, max_file_bytes=file_bytes, max_files=FILES)
        writer.begin()
        self._printers = [
            Printer(writer.stream("stdout"), b"o", self._numbers),
            Printer(writer.stream("stderr"), b"e", self._numbers),
        ]

    async def run(self) -> None:
        for life in range(3):
            self._open(unclean=life == 1)
            await self._followed()
            self.logs.close()

    async def _followed(self) -> None:
        self.got = []
        async with aclosing(self.logs.follow(LogFilter(), 0)) as batches:
            self._reading = asyncio.ensure_future(anext(batches))
            for _ in range(10):
                await asyncio.sleep(0)
            before = stored(self._directory / "echo", "echo-0")
            for _ in range(STEPS):
                await self._step(batches)
            await self._check(before, batches)

    async def _step(self, batches: AsyncGenerator[list[Record], None]) -> None:
        chance = self.random.random()
        if chance < 0.6:
            words = self.random.choice((1, 10, 900, 2_000, 9_000))
            ended = self.random.random() < 0.6
            self.random.choice(self._printers).print(words, ended=ended)
        elif chance < 0.75:
            self.logs.check()
        elif chance < 0.8:
            settle(self.logs)
        elif chance < 0.84:
            self._delete()
        else:
            await self._take(batches, self.random.choice((1, 2, 10)))

    def _delete(self) -> None:
        """Removes a file, as another program might."""
        found = sorted((self._directory / "echo").glob("echo-0.log*"))
        if found:
            self.random.choice(found).unlink()

    async def _take(self, batches: AsyncGenerator[list[Record], None], count: int) -> None:
        """Gives the reader some turns, and takes what it has."""
        for _ in range(count):
            assert self._reading is not None
            await asyncio.wait((self._reading,), timeout=0)
            for _ in range(8):
                await asyncio.sleep(0)
            if self._reading.done():
                self.got += self._reading.result()
                self._reading = asyncio.ensure_future(anext(batches))

    async def _check(self, before: dict[str, list[bytes]], batches: AsyncGenerator[list[Record], None]) -> None:
        for printer in self._printers:
            printer.print(1, ended=True)
        folder = self._directory / "echo"
        ends = {name: found[-1:] for name, found in stored(folder, "echo-0", only_ended=True).items()}
        assert self._reading is not None
        seen = {name: set(read_words(self.got, name)) for name in ends}
        while any(not seen[name].issuperset(end) for name, end in ends.items()):
            records = await self._reading
            for name, found in seen.items():
                found.update(read_words(records, name))
            self.got += records
            self._reading = asyncio.ensure_future(anext(batches))
        self._reading.cancel()
        await asyncio.wait((self._reading,))
        past = [record async for batch in self.logs.history(LogFilter()) for record in batch]
        parts = stored(folder, "echo-0")
        for name, on_disk in stored(folder, "echo-0", only_ended=True).items():
            told = read_words(past, name)
            assert told == parts[name][: len(told)]
            assert len(told) >= len(on_disk), "the parts of a line that has not ended may come later"
            read = read_words(self.got, name)
            assert read == sorted(set(read)), "once, and in order"
            assert not (set(on_disk) - set(before[name])) - set(read), "all that is left"
            lines = self.random.randrange(1, 30)
            few = await self.logs.read(n=lines)
            assert not past or str(few[-1]["text"])[-17:] == str(past[-1]["text"])[-17:]
            assert read_words(few, name) == told[len(told) - len(read_words(few, name)) :]


@pytest.mark.parametrize("seed", seeds(SEEDS, 2))
def test_long_lines_are_read_once_through_rotation_compression_deletion_and_restarts(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    run(Life(tmp_path, seed).run)


def test_a_line_longer_than_many_compressed_files_is_read_to_its_end_in_little_memory(tmp_path: Path) -> None:
    logs = LogStore(tmp_path, compress_after_s=0)
    stream = writer_of(logs, max_file_bytes=MIB, max_files=50).stream("stdout")
    for letter in range(12 * 16):
        stream.write(b"%c" % (65 + letter % 26) * 65_536)
    stream.write(b"\nafter\n")
    compress_files(logs, 4)

    async def test() -> None:
        for choice in (LogFilter(), LogFilter(stream="stdout"), LogFilter(since=1.0)):
            for n in (None, 1, 2, 100):
                tracemalloc.start()
                size = 0
                async with aclosing(logs.history(choice, n)) as batches:
                    async for batch in batches:
                        size += sum(len(str(record["text"])) for record in batch)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                assert size == (5 if n == 1 else 12 * MIB + 5)
                assert peak < HELD_BYTES

    run(test)
    logs.close()


@pytest.mark.parametrize("following", [False, True])
def test_long_lines_of_many_workers_are_not_held_all_at_once(tmp_path: Path, following: bool) -> None:
    logs = LogStore(tmp_path)
    for number in range(8):
        stream = writer_of(logs, f"crew-{number}", max_file_bytes=64 * MIB).stream("stdout")
        for _ in range(3):
            for _ in range(32):
                stream.write(b"x" * 65_536)
            stream.write(b"\n")

    async def test() -> None:
        size = ended = 0
        tracemalloc.start()
        batches = logs.follow(LogFilter(), None) if following else logs.history(LogFilter(), 100)
        async with aclosing(batches):
            async for batch in batches:
                size += sum(len(str(record["text"])) for record in batch)
                ended += sum(not record.get("partial") for record in batch)
                if ended == 24:
                    break
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size == 8 * 3 * 2 * MIB
        assert peak < HELD_BYTES
        joined = await logs.read(["crew-3"])
        assert [len(str(record["text"])) for record in joined] == [2 * MIB] * 3

    run(test)
    logs.close()


def test_a_piece_of_text_ends_at_a_whole_character(tmp_path: Path) -> None:
    logs = LogStore(tmp_path)
    stream = writer_of(logs, max_file_bytes=64 * MIB).stream("stdout")
    line = "x" + "aé€😀" * 100_000
    stream.write(line.encode() + b"\n" + b"\xff" * MIB + b"\n")

    async def test() -> None:
        records = [record async for batch in logs.history(LogFilter()) for record in batch]
        text = [record for record in records if "bytes" not in record]
        assert len(text) > 2
        assert "".join(str(record["text"]) for record in text) == line
        assert PieceJoiner().join(records)[0]["text"] == line
        assert b"".join(map(content, records[len(text) :])) == b"\xff" * MIB

    run(test)
    logs.close()
