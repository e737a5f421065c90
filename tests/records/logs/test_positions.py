"""Positions of readers: cut anywhere, also by a new daemon, they go on without a line lost, doubled or missed in silence."""

import asyncio
import base64
import random
from collections import Counter, defaultdict
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from corral.supervisor.records.logs.capture import LogStream, LogWriter
from corral.supervisor.records.logs.file_format import LogFilter, Record
from corral.supervisor.records.logs.merging import POSITION_BYTES, STALE_RECORDS, LogPosition
from corral.supervisor.records.logs.store import Follower, LogStore
from log_folder import content, run, settle, texts, writer_of

pytestmark = pytest.mark.shell

STEPS = 60


class Life:
    """Workers that write numbers, under one daemon after the other."""

    def __init__(self, folder: Path, dice: random.Random, workers: int, max_files: int) -> None:
        self.dice = dice
        self.now_ns = 1_700_000_000_000_000_000
        self.lines: dict[str, list[str]] = {f"crew-{number}": [] for number in range(workers)}
        self._folder = folder
        self._max_files = max_files
        self._count = 0
        self._slow: dict[str, tuple[str, int]] = {}
        self._streams: dict[tuple[str, str], LogStream] = {}
        self.logs: LogStore
        self.begin()

    def clock(self) -> int:
        self.now_ns += self.dice.choice((0, 10, 1_000))
        return self.now_ns

    def begin(self) -> None:
        self.logs = LogStore(self._folder, self.clock, compress_after_s=0)
        for worker in self.lines:
            writer = self.writer(worker)
            writer.begin()
            for name in ("stdout", "stderr"):
                self._streams[worker, name] = writer.stream(name)

    def end(self) -> None:
        self.end_slow_lines()
        for stream in self._streams.values():
            stream.close()
        self.logs.close()

    def writer(self, worker: str) -> LogWriter:
        return writer_of(self.logs, worker, max_file_bytes=30_000, max_files=self._max_files)

    def restart(self) -> None:
        self.end()
        self.now_ns += 1_000_000
        self.begin()

    def pack(self) -> None:
        settle(self.logs)

    def write(self) -> None:
        for _ in range(self.dice.choice((1, 3, 40))):
            self.say(self.dice.choice(list(self.lines)), "stdout", "")

    def flood(self) -> None:
        """Many lines in one write, of which a reader is given a part."""
        worker = self.dice.choice(list(self.lines))
        found = [self._text(worker, "stdout", "") for _ in range(self.dice.choice((2, 300, 700)))]
        self._streams[worker, "stdout"].write("".join(f"{text}\n" for text in found).encode())

    def write_long(self) -> None:
        """A line in parts, some of which begin in the middle of a character."""
        long = "\N{SNOWMAN}" * self.dice.choice((6_000, 12_000)) + "x" * self.dice.randrange(3)
        self.say(self.dice.choice(list(self.lines)), "stdout", long)

    def write_slowly(self) -> None:
        """A part of a line on the stream that has only such lines: others come between its parts."""
        if self._max_files < 10:  # the rest of a line whose beginning is gone would look like any other
            self.write()
            return
        worker = self.dice.choice([*self._slow] or list(self.lines))
        if worker not in self._slow:
            self._count += 1
            self._slow[worker] = f"{self._count} stderr " + "\N{SNOWMAN}" * 15_000, 0
        text, done = self._slow.pop(worker)
        data = f"{text}\n".encode()
        self._streams[worker, "stderr"].write(data[done : done + 17_000])
        if done + 17_000 < len(data):
            self._slow[worker] = text, done + 17_000
        else:
            self.lines[worker].append(text)

    def end_slow_lines(self) -> None:
        while self._slow:
            self.write_slowly()

    def log(self) -> None:
        worker = self.dice.choice(list(self.lines))
        text = self._text(worker, "log", "y" * self.dice.choice((1, 50_000)))
        self._streams[worker, "stdout"].line(text.encode(), "info")

    def say(self, worker: str, stream: str, more: str) -> None:
        self._streams[worker, stream].write(self._text(worker, stream, more).encode() + b"\n")

    def _text(self, worker: str, stream: str, more: str) -> str:
        self._count += 1
        text = f"{self._count} {stream} {more}"
        self.lines[worker].append(text)
        return text


class Reader:
    """Somebody whose connection is cut again and again: all that he keeps is the last text that he was given."""

    def __init__(self, dice: random.Random, *, follows: bool, wanted: LogFilter) -> None:
        self.got: list[Record] = []
        self.text: str | None = None
        self.longest = 0
        self._dice = dice
        self._follows = follows
        self._wanted = wanted

    async def read(self, life: Life, *, to_end: bool = False) -> None:
        """Reads some batches, while there is more and more, and loses the last one of them on the way."""
        logs = life.logs
        position = LogPosition() if self.text is None else LogPosition.parse(self.text)
        most = None if to_end else self._dice.choice((0, 1, 2, 5, 50))
        follower = Follower(self._wanted)
        if self._follows:
            batches = logs.follow(self._wanted, None, follower, position)
        else:
            batches = logs.history(self._wanted, None, position)
        is_ending = to_end or self._dice.random() < 0.5
        if is_ending:
            follower.end()
        else:
            life.write()  # it does not end before there is a batch
        async with aclosing(batches):
            async for batch in batches:
                if most == 0:
                    return
                if most is not None:
                    most -= 1
                    self._dice.choice(WRITES)(life)
                    if not is_ending:
                        life.write()
                self.got += batch
                self.text = position.text()
                self.longest = max(self.longest, len(self.text))
        self.text = position.text()

    def judge(self, lines: dict[str, list[str]], *, gaps: bool) -> int:
        """Each line is there once, in order for its stream, or was said to be gone; returns how many gaps there were."""
        expected = {worker: list(own) for worker, own in lines.items()}
        begun: defaultdict[tuple[object, object], str] = defaultdict(str)
        found = 0
        # What was gone before the first reading is no gap.
        may_skip = set(lines) if gaps else set[str]()
        for record in self.got:
            worker = str(record["worker"])
            key = (worker, record["stream"])
            if "skipped_lines" in record:
                assert gaps, record
                found += 1
                may_skip.add(worker)
                for other in [each for each in begun if each[0] == worker]:
                    del begun[other]
                continue
            assert gaps or "bytes" not in record, "a character was cut"
            begun[key] += content(record).decode("utf-8", "replace")
            if record.get("partial"):
                continue
            text = begun.pop(key)
            own = expected[worker]
            if worker in may_skip:
                if text not in own:  # so does the rest of a long one
                    continue
                del own[: own.index(text)]
                may_skip.discard(worker)
            assert text in own[:40], (text[:40], [each[:20] for each in own[:5]])
            # The two streams of a slow line come as their lines end.
            own.remove(text)
        left = {w: [each[:30] for each in own[:4]] for w, own in expected.items() if own}
        assert not {worker for worker in left if worker not in may_skip}, left
        return found


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))]
WRITES = [Life.write] * 5 + [Life.flood] * 2 + [Life.write_slowly] * 3 + [Life.write_long, Life.log]
LIVES = [*WRITES, Life.restart, Life.pack]


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("workers", [1, 3, 60])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reader_that_is_cut_anywhere_gets_each_line_once(
    tmp_path: Path, seed: int, workers: int, follows: bool
) -> None:
    dice = random.Random(f"{seed} {workers} {follows}")
    life = Life(tmp_path, dice, workers, max_files=400)
    reader = Reader(dice, follows=follows, wanted=LogFilter())

    async def test() -> None:
        for _ in range(STEPS):
            dice.choice(LIVES)(life)
            if dice.random() < 0.5:
                await reader.read(life)
        await reader.read(life, to_end=True)
        life.end()
        await reader.read(life, to_end=True)

    run(test)
    assert reader.judge(life.lines, gaps=False) == 0
    assert reader.longest <= 4 * (POSITION_BYTES + 64) // 3


@pytest.mark.parametrize("workers", [1, 3, 60])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_rotated_away_while_nobody_reads_is_reported(tmp_path: Path, seed: int, workers: int) -> None:
    dice = random.Random(f"{seed} {workers}")
    life = Life(tmp_path, dice, workers, max_files=2)
    reader = Reader(dice, follows=bool(seed % 2), wanted=LogFilter())

    async def test() -> None:
        for _ in range(STEPS):
            dice.choice(LIVES)(life)
            if dice.random() < 0.2:
                await reader.read(life)
        life.end()
        await reader.read(life, to_end=True)

    run(test)
    gaps = reader.judge(life.lines, gaps=True)
    assert gaps > 0 or workers > 1


def test_a_reader_whose_files_are_all_gone_gets_an_error(tmp_path: Path) -> None:
    logs = LogStore(tmp_path)
    stream = writer_of(logs, "echo-0").stream("stdout")
    stream.write(b"one\n")

    async def test() -> None:
        position = LogPosition()
        assert texts([r async for b in logs.history(LogFilter(), None, position) for r in b])
        logs.close()
        for path in tmp_path.glob("echo/*"):
            path.unlink()
        again = LogPosition.parse(position.text())
        later = LogStore(tmp_path)
        (gap,) = [r async for b in later.history(LogFilter(), None, again) for r in b]
        assert (gap["worker"], gap["stream"], gap["skipped_lines"]) == ("echo-0", "corral", None)

    run(test)


def test_a_clock_that_is_set_back_costs_a_reader_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path, random.Random(0), 5, max_files=400)
    reader = Reader(random.Random(1), follows=True, wanted=LogFilter())

    async def test() -> None:
        for number in range(60):
            life.write()
            life.flood()
            if number % 20 == 10:
                life.now_ns -= 3_600_000_000_000
            await reader.read(life)
        life.end()
        await reader.read(life, to_end=True)

    run(test)
    assert reader.judge(life.lines, gaps=False) == 0


def test_lines_that_are_written_while_others_are_merged_are_given_once(tmp_path: Path) -> None:
    """Positions of few places: a reader goes on by the time alone, so none may be given before an earlier one."""
    now_ns = 1_700_000_000_000_000_000

    def clock() -> int:
        nonlocal now_ns
        now_ns += 1_000
        return now_ns

    logs = LogStore(tmp_path, clock)
    workers = [f"{'crew' * 30}-{number}" for number in range(20)]
    writers = [writer_of(logs, worker, max_file_bytes=2**24) for worker in workers]
    streams = [writer.stream("stdout") for writer in writers]
    written: list[str] = []

    def write() -> None:
        for stream in reversed(streams):  # the reader comes from the other side
            written.append(str(len(written)))
            stream.write(f"{written[-1]}\n".encode())

    async def test() -> None:
        write()
        got: list[object] = []
        position = LogPosition()
        for _ in range(30):
            follower = Follower(LogFilter())
            async with aclosing(logs.follow(LogFilter(), None, follower, position)) as batches:
                reading = asyncio.ensure_future(anext(batches))
                while not reading.done():
                    write()
                    await asyncio.sleep(0)
                got += texts(reading.result())
                position = LogPosition.parse(position.text())
        logs.close()
        got += texts([r async for b in logs.history(LogFilter(), None, position) for r in b])
        assert Counter(got) == Counter(written)

    run(test)


def test_a_reader_that_wants_little_of_much_has_its_position_moved(tmp_path: Path) -> None:
    logs = LogStore(tmp_path)
    stream = writer_of(logs, "echo-0", max_file_bytes=2**24).stream("stdout")
    stream.write(b"no\n" * 2 * STALE_RECORDS)

    async def test() -> None:
        position = LogPosition()
        wanted = LogFilter(stream="stderr")
        async with aclosing(logs.follow(wanted, None, None, position)) as batches:
            assert await anext(batches) == []
            place = LogPosition.parse(position.text())
        stream.write(b"and no more\n")
        logs.close()
        left = [r async for b in logs.history(LogFilter(), None, place) for r in b]
        assert 0 < len(left) <= STALE_RECORDS + 1

    run(test)


NO_PLACES: list[object] = []


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "====",
        "\N{SNOWMAN}",
        "A" * 5_000,
        encoded(None),
        encoded([2, 0, NO_PLACES]),
        encoded([1, -1, NO_PLACES]),
        encoded([1, 2**63, NO_PLACES]),
        encoded([1, 0, [["a", "a-0", 0, -1, NO_PLACES]]]),
        encoded([1, 0, [["a", "a-0", 0, 0, [["log", b"x"]]]]]),
        encoded([1, 0, [["a", "a-0", 0, 0, [["stdout", b"long"]]]]]),
        encoded([1, 0, [["a" * 300, "a-0", 0, 0, NO_PLACES]]]),
    ],
)
def test_a_text_that_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        LogPosition.parse(text)


def test_a_place_inside_a_line_is_no_place(tmp_path: Path) -> None:
    logs = LogStore(tmp_path)
    writer_of(logs, "echo-0").stream("stdout").write(b"one\ntwo\n")

    async def test() -> None:
        position = LogPosition()
        _ = [r async for b in logs.history(LogFilter(), None, position) for r in b]
        (head, offset, _) = position.places["echo", "echo-0"]
        for wrong in (1, offset - 1, offset + 1, 2**40):
            hostile = LogPosition(position.at, [(("echo", "echo-0"), (head, wrong, ()))])
            got = [r async for b in logs.history(LogFilter(), None, hostile) for r in b]
            assert [record["stream"] for record in got] == ["corral"]
        whole = LogPosition(position.at, [(("echo", "echo-0"), (head, 0, ()))])
        got = [r async for b in logs.history(LogFilter(), None, whole) for r in b]
        assert texts(got) == ["one", "two"]

    run(test)
    logs.close()
