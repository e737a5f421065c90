"""What a kill, a power cut or a disk leaves behind, and a follower through all that can become of its files."""

import asyncio
import errno
import os
import random
from contextlib import aclosing
from pathlib import Path

import pytest

from corral.supervisor.logfile import Record
from corral.supervisor.logs import LogStore, LogWriter, Wanted
from log_folder import content, read, run, texts, writer_of

LINES = [b"one", b"", b"x" * 40_000, b"\xff\x00", b"last"]


def test_wherever_a_file_is_cut_off_all_lines_before_are_whole_and_the_gap_is_told_once(
    tmp_path: Path,
) -> None:
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


class Life:
    """A worker that writes numbers, and everything that may happen to its files meanwhile."""

    def __init__(self, folder: Path, dice: random.Random, max_files: int) -> None:
        self.logs = LogStore(folder, pack_after_s=0)
        self.dice = dice
        self.max_files = max_files
        self.written = 0
        self.now_ns = 1_700_000_000_000_000_000
        self.logs.clock = self.clock
        self.moved = 0
        self.writer: LogWriter
        self._hire()

    def clock(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def _hire(self) -> None:
        self.writer = writer_of(self.logs, max_file_bytes=20_000, max_files=self.max_files)
        self.stream = self.writer.stream("stdout")

    def write(self) -> None:
        for _ in range(self.dice.choice((1, 3, 50, 400))):
            tail = b"x" * self.dice.choice(
                (0, 0, 10, 10, 100, 20_000 if self.dice.random() < 0.02 else 5)
            )
            self.stream.write(b"%d %s\n" % (self.written, tail))
            self.written += 1

    def pass_time(self) -> None:
        self.now_ns += self.dice.choice((1_000, 2_000_000_000))
        self.logs.check()

    def restart(self) -> None:
        self.stream.close()
        self.writer.begin()
        self.stream = self.writer.stream("stdout")

    def move(self) -> None:
        """Somebody renames the present file."""
        path = self.logs.directory / "echo" / "echo-0.log"
        if path.exists():
            self.moved += 1
            path.rename(path.with_name(f"echo-0.log-{self.moved}"))

    async def others(self) -> None:
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(0, 8, 2))
def test_through_all_that_can_happen_a_follower_sees_each_line_once_or_is_told_how_many_it_missed(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    # Of files that were moved the writer knows as many as it keeps.
    life = Life(tmp_path, dice, 100 if seed % 2 == 0 else dice.choice((3, 40)))
    steps = [life.write] * 6 + [life.pass_time] * 3 + [life.restart]
    if seed % 2 == 0:
        steps.append(life.move)

    async def test() -> None:
        got: list[Record] = []
        async with aclosing(life.logs.follow(Wanted(), None)) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            for _ in range(150):
                dice.choice(steps)()
                for _ in range(dice.choice((0, 1, 1, 30))):
                    await life.others()
                    if waiting.done():
                        got += await waiting
                        waiting = asyncio.ensure_future(anext(batches))
            life.restart()
            life.stream.write(b"end\n")
            while not got or got[-1]["text"] != "end":
                got += await waiting
                waiting = asyncio.ensure_future(anext(batches))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        shown = [(r["stream"], str(r["text"])[:30], r.get("skipped_lines")) for r in got]
        expected = 0
        for index, record in enumerate(got[:-1]):
            if record["stream"] == "corral":
                skipped = record["skipped_lines"]
                assert isinstance(skipped, int), shown[index - 3 : index + 3]
                expected += skipped
            else:
                number = int(str(record["text"]).partition(" ")[0])
                assert number == expected, shown[index - 5 : index + 3]
                expected += 1
        assert expected == life.written

    run(test)
    assert life.writer.lost_lines == 0
    life.logs.close()
