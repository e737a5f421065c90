"""Helpers of the tests of logs: short names for writing and for reading back."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop

from corral.supervisor.records.logs.capture import LogWriter
from corral.supervisor.records.logs.file_format import Record
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore

BOUND_S = 60.0
MIB = 1024 * 1024


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test()

    uvloop.run(bounded())


def read(logs: LogStore, *names: str, n: int | None = None, stream: str | None = None) -> list[Record]:
    return asyncio.run(logs.read(names, n=n, stream=stream))


def texts(records: list[Record]) -> list[object]:
    return [record["text"] for record in records]


def content(record: Record) -> bytes:
    coded = record.get("bytes")
    return base64.b64decode(str(coded)) if coded else str(record["text"]).encode()


def writer_of(
    logs: LogStore,
    worker: str = "echo-0",
    *,
    max_file_bytes: int = MIB,
    max_files: int = 5,
    max_buffer_bytes: int = MIB,
    keeps: bool = True,
) -> LogWriter:
    limits = LogLimits(max_file_bytes, max_files, max_buffer_bytes, keeps)
    return logs.writer(worker.rpartition("-")[0], worker, limits)


async def taken(records: AsyncIterator[list[Record]], count: int) -> list[Record]:
    """The next `count` records that a follower is given."""
    got: list[Record] = []
    while len(got) < count:
        got += await anext(records)
    assert len(got) == count
    return got


def compressed(logs: LogStore) -> list[str]:
    """The names of the files that are compressed."""
    return sorted(path.name for path in logs.directory.glob("*/*.gz"))


def compress_files(logs: LogStore, until: int) -> None:
    """Lets the daemon look after its logs until so many are compressed."""
    deadline = time.monotonic() + BOUND_S
    while len(compressed(logs)) < until:
        assert time.monotonic() < deadline
        logs.check()
        time.sleep(0.001)  # what it waits for happens in a thread


def settle(logs: LogStore) -> None:
    """Lets the daemon finish what it compresses, and whatever else it would, without a wait for time."""
    deadline = time.monotonic() + BOUND_S
    logs.check()
    while list(logs.directory.glob("*/.*.tmp")):
        assert time.monotonic() < deadline
        logs.check()
        time.sleep(0.0005)  # what it waits for happens in a thread
