"""A pipe that is always full is read in larger pieces, and no line of it is lost for that."""

import asyncio
import fcntl
import os
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.supervisor.records.logs.capture_pipe import FULL_READS, LARGER_PIPES, Capture, hold_pipes, release_pipes
from corral.supervisor.records.logs.rotating_file import FLOOD_BYTES, READ_BYTES
from corral.supervisor.records.logs.store import LogStore
from log_folder import MIB, content, run, writer_of

pytestmark = pytest.mark.shell

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "logs")
    yield store
    store.close()


class Pipe:
    """A pipe that is captured, and holds as much as one usually does."""

    def __init__(self, logs: LogStore, worker: str = "echo-0") -> None:
        reading, self.writing = os.pipe()
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, READ_BYTES)
        os.set_blocking(self.writing, False)
        self.printed = b""
        writer = writer_of(logs, worker, max_file_bytes=4 * MIB)
        self.capture = Capture(reading, writer.stream("stdout"))

    @property
    def size_bytes(self) -> int:
        """What it holds."""
        return fcntl.fcntl(self.writing, fcntl.F_GETPIPE_SZ)

    def fill(self, size_bytes: int) -> None:
        """Prints so much, and has it read."""
        assert self.print(size_bytes)
        self.capture.catch_up()

    def print(self, size_bytes: int) -> bool:
        """Prints so much, wherever that ends in a line; whether the pipe took it."""
        first = len(self.printed) % len(LINE)
        chunk = (LINE * (size_bytes // len(LINE) + 2))[first : first + size_bytes]
        self.printed += chunk
        return os.write(self.writing, chunk) == size_bytes

    def end(self) -> None:
        """Nobody prints any more."""
        os.close(self.writing)
        self.capture.close()


def test_a_pipe_that_is_always_full_is_made_larger_and_nothing_of_it_is_lost(logs: LogStore) -> None:
    async def test() -> None:
        pipe = Pipe(logs)
        for _ in range(FULL_READS):
            assert pipe.size_bytes == READ_BYTES
            pipe.fill(READ_BYTES)
        assert pipe.size_bytes == FLOOD_BYTES
        for _ in range(3):
            pipe.fill(FLOOD_BYTES)
        assert pipe.print(FLOOD_BYTES)
        assert pipe.capture.read()
        assert not pipe.capture.read()  # one read took all of it
        pipe.end()
        lines = [content(record) for record in await logs.read()]
        assert b"\n".join(lines) == pipe.printed.removesuffix(b"\n")

    run(test)


def test_a_pipe_that_is_full_now_and_then_stays_as_it_is(logs: LogStore) -> None:
    async def test() -> None:
        pipe = Pipe(logs)
        for number in range(3 * FULL_READS):
            pipe.fill(READ_BYTES - (number % FULL_READS == 0))
        assert pipe.size_bytes == READ_BYTES
        pipe.end()

    run(test)


def test_so_many_pipes_are_made_larger_and_another_once_one_of_them_has_ended(logs: LogStore) -> None:
    async def test() -> None:
        pipes = [Pipe(logs, f"echo-{number}") for number in range(LARGER_PIPES + 1)]
        for pipe in pipes:
            for _ in range(FULL_READS):
                pipe.fill(READ_BYTES)
        *larger, last = pipes
        assert {pipe.size_bytes for pipe in larger} == {FLOOD_BYTES}
        assert last.size_bytes == READ_BYTES
        larger[0].end()
        for _ in range(FULL_READS):
            last.fill(READ_BYTES)
        assert last.size_bytes == FLOOD_BYTES
        for pipe in pipes[1:]:
            pipe.end()

    run(test)


def test_a_flood_waits_at_its_pipe_while_another_tenant_calls_and_loses_nothing(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    pauses = [0.001, 0.0, 3600.0]

    def pause_s(agent: str, size_bytes: int) -> float:
        asked.append((agent, size_bytes))
        return pauses.pop(0) if pauses else 0.0

    logs = LogStore(tmp_path / "logs")
    logs.pause_by(pause_s)

    async def scenario() -> None:
        pipe, quiet = Pipe(logs), Pipe(logs, "quiet-0")
        for number in (1, 2, 3):  # the first pause ends by itself
            assert pipe.print(1000)
            while len(asked) < number:
                await asyncio.sleep(0)
        assert asked == [("echo", 1000)] * 3
        assert pipe.print(1000)
        assert quiet.print(500)
        while len(asked) < 4:
            await asyncio.sleep(0)
        assert asked[3] == ("quiet", 500), "the other pipe is read meanwhile"
        os.close(pipe.writing)  # its end is no flood, and is read at once
        while not pipe.capture.closed:
            await asyncio.sleep(0)
        quiet.end()
        lines = [content(record) for record in await logs.read(["echo-0"])]
        assert b"\n".join(lines) == pipe.printed.removesuffix(b"\n")

    run(scenario)
    logs.close()


def test_a_pipe_that_comes_while_pipes_are_held_is_read_after_that(logs: LogStore) -> None:
    """Else a program that then cannot go on would have read what the one before needs."""

    async def test() -> None:
        hold_pipes()
        pipe = Pipe(logs)
        pipe.print(len(LINE))
        for _ in range(3):
            await asyncio.sleep(0)
        held = fcntl.ioctl(pipe.writing, termios.FIONREAD, b"    ")
        assert int.from_bytes(held, "little") == len(LINE)
        release_pipes()
        while not await logs.read():
            await asyncio.sleep(0)
        pipe.end()

    run(test)
