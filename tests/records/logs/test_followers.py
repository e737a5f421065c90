"""Followers through every fate of the files that they read: the order of events comes from a seed alone."""

import asyncio
import random
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from corral.supervisor.records.logs.capture import LogWriter
from corral.supervisor.records.logs.file_format import LogFilter, Record
from corral.supervisor.records.logs.store import LogStore
from log_folder import run, settle, writer_of
from seeds import seeds

pytestmark = pytest.mark.shell

STEPS = 120
TURNS = 3_000
"""Of the loop, in which a follower has to be given all that there is."""

NOTE = "a note of corral's own"


class Life:
    """A worker that writes numbers, and everything that may happen to it and to its files meanwhile."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.dice = dice
        self.now_ns = 1_700_000_000_000_000_000
        self.logs = LogStore(folder, self._clock, compress_after_s=0)
        self.max_files = dice.choice((2, 3, 8, 40))
        self.lines: list[str] = []
        """What is or was in the files, whole."""
        self._written = self._moved = 0
        self.writer: LogWriter
        self._hire()

    def _clock(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def _hire(self) -> None:
        self.writer = writer_of(self.logs, max_file_bytes=20_000, max_files=self.max_files)
        self._stream = self.writer.stream("stdout")

    def _note(self, before: int, written: int = 0) -> None:
        self.lines += [NOTE] * (self.writer.lines - before - written)

    def write(self) -> None:
        for _ in range(self.dice.choice((1, 3, 50, 400))):
            length = self.dice.choice((0, 0, 10, 10, 100, 5))
            self.say(f"{self._written} " + "x" * (20_000 if self.dice.random() < 0.003 else length))
            self._written += 1

    def say(self, text: str) -> None:
        before = self.writer.lines
        self._stream.write(text.encode() + b"\n")
        self._note(before, 1)
        self.lines.append(text)

    def rotate(self) -> None:
        for _ in range(self.dice.choice((1, 2, self.max_files, 2 * self.max_files)) // 2 + 1):
            self.say(f"{self._written} " + "y" * 16_000)
            self._written += 1

    def pass_time(self) -> None:
        self.now_ns += 2_000_000_000
        before = self.writer.lines
        self.writer.check()
        self._note(before)

    def restart(self) -> None:
        self._stream.close()
        self.writer.begin()
        self._stream = self.writer.stream("stdout")

    def replace(self) -> None:
        """The agent is removed; one with the same name may be added at once or later."""
        self._stream.close()
        before = self.writer.lines
        self.logs.release(self.writer)
        self._note(before)
        if self.dice.random() < 0.5:
            self.begin_packing()
        self._hire()

    def begin_packing(self) -> None:
        if not list(self.logs.directory.glob("*/.*.tmp")):
            before = self.writer.lines
            self.logs.check()
            self._note(before)

    def compress(self) -> None:
        before = self.writer.lines
        settle(self.logs)
        self._note(before)

    def rename(self) -> None:
        """Somebody renames the present file."""
        path = self.logs.directory / "echo" / "echo-0.log"
        if path.exists():
            self._moved += 1
            path.rename(path.with_name(f"echo-0.log-{self._moved}"))

    def delete(self) -> None:
        """Somebody removes the folder."""
        self.compress()
        shutil.rmtree(self.logs.directory / "echo", ignore_errors=True)

    def unlink(self) -> None:
        """Somebody removes one of the files."""
        paths = sorted((self.logs.directory / "echo").glob("echo*"))
        if paths:
            self.dice.choice(paths).unlink()


class Reader:
    """Somebody who follows, as fast as the dice let him."""

    def __init__(self, batches: AsyncGenerator[list[Record], None], start: int | None) -> None:
        self.got: list[Record] = []
        self._batches = batches
        self._start = start
        self._waiting = asyncio.ensure_future(anext(batches))

    def look(self) -> None:
        """Takes what has come."""
        if self._waiting.done():
            self.got += self._waiting.result()
            self._waiting = asyncio.ensure_future(anext(self._batches))

    async def leave(self) -> None:
        self._waiting.cancel()
        await asyncio.gather(self._waiting, return_exceptions=True)

    def has_ended(self) -> bool:
        return bool(self.got) and self.got[-1]["text"] == "end"

    def judge(self, lines: list[str]) -> None:
        """Each line is there once and in order, or was counted."""
        expected = self._start
        begun = ""
        for index, record in enumerate(self.got):
            shown = [(r["stream"], str(r["text"])[:40]) for r in self.got[max(index - 4, 0) : index + 3]]
            skipped = record.get("skipped_lines")
            if "skipped_lines" in record:
                assert isinstance(skipped, int), shown
                assert skipped > 0, shown
                expected = None if expected is None else expected + skipped
                continue
            if record.get("partial"):  # there is a note in the middle of that line
                begun += str(record["text"])
                continue
            text = NOTE
            if record["stream"] != "corral":
                text, begun = begun + str(record["text"]), ""
            if expected is None and text != NOTE:  # it began with the last lines
                expected = lines.index(text)
            if expected is None:
                continue
            assert expected < len(lines), shown
            assert text == lines[expected], (expected, lines[expected][:30], shown)
            expected += 1
        assert expected == len(lines)


KINDS = {
    "its own": (),
    "renames": (Life.rename,),
    "losses": (Life.delete, Life.unlink),
    "all": (Life.rename, Life.delete, Life.unlink),
}


@pytest.mark.parametrize("seed", seeds(8, 2))
def test_through_all_that_can_happen_followers_see_each_line_once_or_learn_how_many_they_missed(
    tmp_path: Path, seed: int
) -> None:
    live(tmp_path, seed)


def live(folder: Path, seed: int) -> None:
    dice = random.Random(seed)
    life = Life(folder, dice)
    steps = [Life.write] * 8 + [Life.pass_time] * 3 + [Life.rotate] * 2
    steps += [Life.restart, Life.replace, Life.begin_packing, Life.compress, Life.compress]
    steps += list(KINDS.values())[seed % len(KINDS)]

    async def test() -> None:
        readers: list[Reader] = []
        async with AsyncExitStack() as stack:

            async def follow(n: int | None, start: int | None) -> None:
                batches = await stack.enter_async_context(aclosing(life.logs.follow(LogFilter(), n)))
                readers.append(Reader(batches, start))

            await follow(None, 0)
            await asyncio.sleep(0)  # it begins when it has its turn
            for number in range(STEPS):
                if number in (20, 75):
                    # What somebody had renamed before is no part of what a reader begins with.
                    await follow(0 if Life.rename in steps else dice.choice((None, 0, 5, 500)), None)
                dice.choice(steps)(life)
                slow = dice.choice((0, 1))  # only every other of them may take what it has
                for _ in range(dice.choice((0, 0, 1, 1, 4, 60))):
                    await asyncio.sleep(0)
                    for index, reader in enumerate(readers):
                        if index % 2 == slow or number % 40 > 30:
                            reader.look()
            life.pass_time()  # what was renamed or removed is found before the last line
            life.say("end")
            for _ in range(TURNS):
                await asyncio.sleep(0)
                for reader in readers:
                    reader.look()
                if all(reader.has_ended() for reader in readers):
                    break
            for reader in readers:
                assert reader.has_ended(), [str(r["text"])[:40] for r in reader.got[-3:]]
                await reader.leave()
        for reader in readers:
            reader.judge(life.lines)

    run(test)
    life.logs.close()
