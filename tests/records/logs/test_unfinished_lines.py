"""A line that its worker leaves unfinished is in the file within a second, and is one line for all who wait for its end."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import pytest

import log_folder
from corral.supervisor.records.logs.capture import UNFINISHED_S, LogStream
from corral.supervisor.records.logs.file_format import LogFilter, Record
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.regex import Pattern
from corral.supervisor.records.logs.store import Follower, LogStore
from corral.worker.contract.log_pieces import PieceJoiner
from log_folder import content, taken, texts, writer_of
from seeds import seeds

pytestmark = pytest.mark.shell

NAMES: tuple[Literal["stdout"], Literal["stderr"]] = ("stdout", "stderr")
STEPS = 80
TURNS = 20
"""Number of turns of the loop in which a follower has read all that there is."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop whose time the test decides; it notes the timers."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]  # typeshed types each argument
        timer = super().call_later(delay, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    async def step(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(TURNS):
            await asyncio.sleep(0)

    @property
    def waiting(self) -> int:
        """The number of timers that are to fire."""
        return sum(not timer.cancelled() and timer.when() > self.now for timer in self.timers)


def run(test: Callable[[SteppedLoop], Any]) -> None:
    with asyncio.Runner(loop_factory=SteppedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SteppedLoop)
        runner.run(test(loop))


class Printed:
    """What one stream has printed."""

    def __init__(self, dice: random.Random, stream: LogStream) -> None:
        self.all = b""
        self._dice = dice
        self._stream = stream
        self._rest = b""

    def print(self) -> None:
        words = (b"a", b"\n", "\N{SNOWMAN}".encode(), b"word: ", b"end\n", b"\r50%", b"\n\n")
        chunk = b"".join(self._dice.choices(words, k=self._dice.randrange(1, 6)))
        if self._dice.random() < 0.05:
            chunk += self._dice.choice((b"x", "\N{SNOWMAN}".encode())) * self._dice.choice((8_192, 16_384, 40_000))
        cut = self._dice.randrange(len(chunk) + 1)  # perhaps within a character
        self._write(self._rest + chunk[:cut])
        self._rest = chunk[cut:]

    def end(self) -> None:
        self._write(self._rest)
        self._stream.close()

    def _write(self, chunk: bytes) -> None:
        self.all += chunk
        self._stream.write(chunk)


def shown(records: list[Record], name: str) -> bytes:
    """The bytes of a stream that a terminal would show."""
    own = [record for record in records if record["stream"] == name]
    return b"".join(content(record) + (b"" if record.get("partial") else b"\n") for record in own)


def whole(records: list[Record], name: str) -> list[bytes]:
    assert not any(record.get("partial") for record in records)
    return [content(record) for record in records if record["stream"] == name]


async def kept(logs: LogStore, follower: Follower, position: LogPosition | None, found: list[Record]) -> None:
    async with aclosing(logs.follow(LogFilter(), None, follower, position)) as batches:
        async for batch in batches:
            found += batch


@pytest.mark.parametrize("seed", seeds(60))
def test_wherever_writes_and_pauses_fall_no_byte_is_lost_or_doubled(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    logs = LogStore(tmp_path)
    writer = writer_of(logs, max_file_bytes=dice.choice((30_000, 2**20)), max_files=200)
    writer.begin()
    printed = {name: Printed(dice, writer.stream(name)) for name in NAMES}

    async def test(loop: SteppedLoop) -> None:
        live: list[Record] = []
        lines: list[Record] = []
        followers = Follower(LogFilter()), Follower(LogFilter())
        async with asyncio.TaskGroup() as group:
            group.create_task(kept(logs, followers[0], LogPosition(), live))
            group.create_task(kept(logs, followers[1], None, lines))
            for _ in range(STEPS):
                printed[dice.choice(NAMES)].print()
                await loop.step(dice.choice((0.0, 0.01, 0.2, UNFINISHED_S, 3.0)))
                if dice.random() < 0.1:
                    await loop.step(UNFINISHED_S)
                    for name in NAMES:  # a character that has begun may be missing
                        given, all_of_it = shown(live, name), printed[name].all
                        assert all_of_it.startswith(given), (seed, name)
                        assert len(all_of_it) - len(given) < 4, (seed, name)
                    assert loop.waiting == 0, seed
            for each in printed.values():
                each.end()
            assert loop.waiting == 0, seed
            for follower in followers:
                follower.end()
        assert not any("bytes" in record for record in live), seed
        for name in NAMES:
            expected = printed[name].all.removesuffix(b"\n").split(b"\n") if printed[name].all else []
            assert whole(PieceJoiner(2**30).join(lines), name) == expected, (seed, name)
            assert whole(await logs.read(), name) == expected, (seed, name)
            assert shown(live, name) == b"".join(line + b"\n" for line in expected), (seed, name)

    run(test)
    logs.close()


def test_of_a_prompt_each_reader_sees_what_it_waits_for(tmp_path: Path) -> None:
    async def test() -> None:
        logs = LogStore(tmp_path)
        other = writer_of(logs, "echo-1").stream("stdout")
        stream = writer_of(logs).stream("stdout")
        stream.write(b"Pass")
        stream.write(b"word: ")
        assert await logs.read() == []
        async with aclosing(logs.follow(LogFilter(), 0, None, LogPosition())) as batches:
            assert texts(await taken(batches, 1)) == ["Password: "]
        for number in range(3):
            other.write(b"%d\n" % number)
        assert texts(await logs.read(n=2)) == ["1", "2", "Password: "]
        found = [r async for b in logs.history(LogFilter(), 2, LogPosition()) for r in b]
        assert texts(found) == ["Password: ", "1", "2"]
        matching = LogFilter(pattern=Pattern("word"))
        found = [r async for b in logs.history(matching, position=LogPosition()) for r in b]
        assert [(record["text"], record["partial"]) for record in found] == [("Password: ", True)]
        matching = LogFilter(pattern=Pattern("Password: x"))
        async with (
            aclosing(logs.follow(LogFilter(), 0)) as lines,
            aclosing(logs.follow(matching, 0, None, LogPosition())) as matches,
        ):
            both = [asyncio.ensure_future(taken(each, 1)) for each in (lines, matches)]
            await asyncio.sleep(0)
            stream.write(b"x\n")
            assert [texts(each) for each in await asyncio.gather(*both)] == [["Password: x"]] * 2
        logs.close()

    log_folder.run(test)


def test_what_was_begun_before_a_kill_is_read_after_it(tmp_path: Path) -> None:
    async def test(loop: SteppedLoop) -> None:
        writer = writer_of(LogStore(tmp_path))
        writer.begin()
        writer.stream("stderr").write(b"enter the code: ")
        await loop.step(UNFINISHED_S)
        again = LogStore(tmp_path, unclean=True)
        writer_of(again).stream("stdout").write(b"next\n")
        begun, gap, following = await again.read()
        assert (begun["text"], begun["partial"], begun["stream"]) == ("enter the code: ", True, "stderr")
        assert (gap["stream"], following["text"]) == ("corral", "next")
        again.close()

    run(test)


def test_a_flood_whose_chunks_end_within_lines_is_written_in_whole_lines(tmp_path: Path) -> None:
    async def test(loop: SteppedLoop) -> None:
        logs = LogStore(tmp_path)
        stream = writer_of(logs).stream("stdout")
        for number in range(200):
            stream.write(b"end %d\nbegin " % number)
            await loop.step(UNFINISHED_S / 7)
        assert len(loop.timers) < 200 / 3, "a timer is not set anew for each line"
        stream.close()
        logs.close()
        lines = (tmp_path / "echo" / "echo-0.log").read_bytes().splitlines()
        assert not [line for line in lines if b" P " in line]

    run(test)
