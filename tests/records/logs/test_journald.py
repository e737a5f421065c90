"""The journal's native protocol, with a datagram socket as journald and a parser that knows the specification only;
and workers' lines on their way there: all of them, once, in order, and nobody held up where nobody reads."""

import array
import asyncio
import contextlib
import fcntl
import json
import os
import resource
import select
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from corral.supervisor.records.events.bus import Bus, Subscription
from corral.supervisor.records.logs.forwarder import Forwarding
from corral.supervisor.records.logs.journald import Journal, Outcome, is_stream_to_journal
from corral.supervisor.records.logs.store import LogStore
from corral.worker.contract.errors import InvalidParams
from log_folder import BOUND_S, MIB, run, writer_of

pytestmark = pytest.mark.shell

Entry: TypeAlias = dict[str, bytes]


def parsed(data: bytes) -> Entry:
    """An entry, by the text of the specification."""
    found: Entry = {}
    while data:
        newline = data.index(b"\n")
        line = data[:newline]
        if b"=" in line:
            name, _, value = line.partition(b"=")
            data = data[newline + 1 :]
        else:
            name = line
            size = int.from_bytes(data[newline + 1 : newline + 9], "little")
            value = data[newline + 9 : newline + 9 + size]
            assert data[newline + 9 + size : newline + 10 + size] == b"\n"
            data = data[newline + 10 + size :]
        assert name.decode() not in found
        found[name.decode()] = value
    return found


class Journald:
    """Listens where journald would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sealed = 0
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setblocking(False)
        self.socket.bind(str(path))

    def entry(self) -> Entry | None:
        """The next entry that is there, None where there is none."""
        try:
            data, ancillary, _, _ = self.socket.recvmsg(4 * MIB, socket.CMSG_SPACE(64))
        except BlockingIOError:
            return None
        if not ancillary:
            return parsed(data)
        assert data == b""
        fds = array.array("i", ancillary[0][2])
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        assert len(fds) == 1
        assert fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & seals == seals
        self.sealed += 1
        with os.fdopen(fds[0], "rb") as file:
            file.seek(0)
            return parsed(file.read())

    def entries(self) -> list[Entry]:
        """All that is there."""
        return list(iter(self.entry, None))

    async def take(self, count: int) -> list[Entry]:
        """The next `count` entries, as soon as they have come."""
        loop = asyncio.get_running_loop()
        got: list[Entry] = []
        while len(got) < count:
            entry = self.entry()
            if entry is not None:
                got.append(entry)
                continue
            readable = asyncio.Event()
            loop.add_reader(self.socket, readable.set)
            await readable.wait()
            loop.remove_reader(self.socket)
        return got

    def close(self) -> None:
        """Nobody listens any more."""
        self.socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    listening = Journald(tmp_path / "journal")
    yield listening
    listening.close()


@pytest.fixture
def journal(journald: Journald) -> Iterator[Journal]:
    sender = Journal(str(journald.path))
    yield sender
    sender.close()


def fill(journal: Journal) -> int:
    """Sends numbered entries until no more are taken; how many were."""
    count = 0
    while journal.send({"N": count}) is Outcome.SENT:
        count += 1
    return count


# -- entries


def test_every_byte_of_every_field_arrives(journald: Journald, journal: Journal) -> None:
    values = {
        "MESSAGE": b"one\ntwo\n",
        "BYTES": bytes(range(256)),
        "LINE": bytes(set(range(256)) - {10}),
        "EMPTY": b"",
        "NEWLINE": b"\n",
        "EQUALS": b"a=b",
    }
    assert journal.send({**values, "TEXT": "grün", "PRIORITY": 6}) is Outcome.SENT
    expected = {**values, "TEXT": "grün".encode(), "PRIORITY": b"6"}
    assert journald.entries() == [expected]


@pytest.mark.parametrize("name", ["", "lower", "_PID", "1ST", "A B", "A=B", "A\n", "Ä", "A" * 65])
def test_a_field_that_journald_would_drop_is_refused_by_name(name: str, journald: Journald, journal: Journal) -> None:
    with pytest.raises(InvalidParams) as refused:
        journal.send({"MESSAGE": "x", name: "y"})
    assert refused.value.data["value"] == name
    assert journald.entries() == []


@pytest.mark.parametrize("size", [60_000, 70_000, MIB, 5 * MIB])
def test_a_long_entry_arrives_whole_in_a_sealed_file(size: int, journald: Journald, journal: Journal) -> None:
    text = os.urandom(size)
    assert journal.send({"MESSAGE": text, "AFTER": "x"}) is Outcome.SENT
    assert journald.entries() == [{"MESSAGE": text, "AFTER": b"x"}]
    assert journald.sealed == (size > 65_536)


def test_where_there_are_no_sealed_files_a_long_entry_is_cut_and_says_so(journald: Journald) -> None:
    journal = Journal(str(journald.path), has_memfd=False)
    text = b"x" * MIB
    assert journal.send({"MESSAGE": text, "AFTER": "x"}) is Outcome.SENT
    (entry,) = journald.entries()
    assert len(entry["MESSAGE"]) > 16_384
    assert len(entry["MESSAGE"]) + int(entry["CORRAL_CUT_BYTES"]) == MIB
    assert entry["AFTER"] == b"x"
    journal.close()


def test_an_entry_that_journald_would_refuse_is_cut_and_says_so(journald: Journald, journal: Journal) -> None:
    size = 33 * MIB
    assert journal.send({"MESSAGE": b"\n" * size}) is Outcome.SENT
    (entry,) = journald.entries()
    assert len(entry["MESSAGE"]) + int(entry["CORRAL_CUT_BYTES"]) == size
    assert size - 2 * MIB < len(entry["MESSAGE"]) < 32 * MIB


# -- whoever listens


def test_a_journald_that_does_not_read_is_distinguished_from_one_that_does(
    journald: Journald, journal: Journal
) -> None:
    count = fill(journal)
    assert journal.send({"N": "more"}) is Outcome.FULL
    assert journal.send({"N": b"x" * MIB}) is Outcome.FULL
    assert journal.fd is not None
    poller = select.poll()
    poller.register(journal.fd, select.POLLOUT)
    assert poller.poll(0) == []  # whoever waits for it does not spin
    assert journald.entry() == {"N": b"0"}
    assert poller.poll(BOUND_S * 1000)
    assert journal.send({"N": count}) is Outcome.SENT
    assert [entry["N"] for entry in journald.entries()] == [str(n).encode() for n in range(1, count + 1)]


def test_nobody_who_listens_is_away_until_somebody_does(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    assert journal.send({"MESSAGE": "lost"}) is Outcome.AWAY
    assert not journal.is_reachable
    journald = Journald(tmp_path / "journal")
    assert journal.is_reachable
    assert journal.send({"MESSAGE": "heard"}) is Outcome.SENT
    assert journald.entries() == [{"MESSAGE": b"heard"}]
    journald.close()
    assert journal.send({"MESSAGE": "lost"}) is Outcome.AWAY
    journal.close()


def test_without_a_free_descriptor_it_is_away_until_there_is_one(journald: Journald, journal: Journal) -> None:
    for size in (1, MIB):
        with no_free_descriptor():
            assert journal.send({"MESSAGE": b"x" * size}) is Outcome.AWAY
        assert journal.send({"MESSAGE": b"y" * size}) is Outcome.SENT
    assert [entry["MESSAGE"][:1] for entry in journald.entries()] == [b"y", b"y"]


@contextlib.contextmanager
def no_free_descriptor() -> Generator[None, None, None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("was_full", [False, True])
def test_after_a_restart_of_journald_the_next_entry_arrives(
    was_full: bool, tmp_path: Path, journal: Journal, journald: Journald
) -> None:
    assert journal.send({"MESSAGE": "first"}) is Outcome.SENT
    if was_full:
        fill(journal)
    journald.close()
    again = Journald(journald.path)
    assert journal.send({"MESSAGE": "second"}) is Outcome.SENT
    assert again.entries() == [{"MESSAGE": b"second"}]
    again.close()


def test_the_stream_to_the_journal_is_known_by_its_numbers() -> None:
    reading, writing = os.pipe()
    status = os.fstat(writing)
    name = f"{status.st_dev}:{status.st_ino}"
    assert is_stream_to_journal(writing, name)
    assert not is_stream_to_journal(writing, f"{status.st_dev}:{status.st_ino + 1}")
    assert not is_stream_to_journal(writing, "")
    os.close(writing)
    os.close(reading)
    assert not is_stream_to_journal(writing, name)


# -- workers' lines


class Sender:
    """A log folder whose lines are forwarded."""

    def __init__(self, folder: Path, path: Path, *, patience_s: float = 5.0, close_s: float = 5.0):
        self.logs = LogStore(folder / "logs")
        self.bus = Bus(1)
        self.forwarding = Forwarding(self.logs, self.bus, path=str(path), patience_s=patience_s, close_s=close_s)

    async def start(self) -> None:
        self.forwarding.want(True)
        assert await self.forwarding.placed()

    async def close(self) -> None:
        await self.forwarding.close()
        self.logs.close()


def forwarded(tmp_path: Path, journald: Journald, test: Callable[[Sender], Awaitable[None]]) -> None:
    async def whole() -> None:
        sender = Sender(tmp_path, journald.path, close_s=BOUND_S)
        await sender.start()
        try:
            await test(sender)
        finally:
            await sender.close()

    run(whole)


def test_what_a_worker_writes_arrives_with_who_how_and_when(tmp_path: Path, journald: Journald) -> None:
    async def test(sender: Sender) -> None:
        writer = writer_of(sender.logs, "echo-7")
        writer.stream("stdout").write(b"on stdout\n")
        writer.stream("stderr").write(b"raw \xff\n")
        writer.stream("stderr").line(b"told", "error", {"request": 17, "of": ["a"]})
        first, second, third = await journald.take(3)
        at = first.pop("CORRAL_TIMESTAMP")
        assert at.startswith(b"20")
        assert at.endswith(b"Z")
        who = {"CORRAL_AGENT": b"echo", "CORRAL_WORKER": b"echo-7", "SYSLOG_IDENTIFIER": b"echo-7"}
        assert first == {**who, "MESSAGE": b"on stdout", "PRIORITY": b"6", "CORRAL_STREAM": b"stdout"}
        assert (second["MESSAGE"], second["CORRAL_STREAM"]) == (b"raw \xff", b"stderr")
        assert second["PRIORITY"] == b"6"
        assert (third["MESSAGE"], third["CORRAL_STREAM"]) == (b"told", b"log")
        assert (third["PRIORITY"], third["CORRAL_LEVEL"]) == (b"3", b"error")
        assert json.loads(third["CORRAL_FIELDS"]) == {"request": 17, "of": ["a"]}
        writer.stream("stdout").write(b"y" * MIB + b"\n")
        (long,) = await journald.take(1)
        assert long["MESSAGE"] == b"y" * MIB

    forwarded(tmp_path, journald, test)


def test_only_what_is_written_while_it_is_wanted_is_sent_and_all_of_that(tmp_path: Path, journald: Journald) -> None:
    async def test(sender: Sender) -> None:
        stream = writer_of(sender.logs).stream("stdout")
        stream.write(b"one\n")
        sender.forwarding.want(False)
        assert [entry["MESSAGE"] for entry in await journald.take(1)] == [b"one"]
        await sender.forwarding.close()
        stream.write(b"two\n")
        await sender.start()
        stream.write(b"three\n")
        assert [entry["MESSAGE"] for entry in await journald.take(1)] == [b"three"]
        sender.forwarding.want(False)
        sender.forwarding.want(True)  # before it has ended: it goes on
        while not sender.forwarding.is_running:
            await asyncio.sleep(0)
        await sender.forwarding.placed()
        stream.write(b"four\n")
        assert [entry["MESSAGE"] for entry in await journald.take(1)] == [b"four"]

    forwarded(tmp_path, journald, test)


def test_the_last_line_is_sent_before_the_end_even_through_a_full_socket(tmp_path: Path, journald: Journald) -> None:
    count = 5_000

    async def test(sender: Sender) -> None:
        writer = writer_of(sender.logs)
        stream = writer.stream("stdout")
        stream.write(b"0\n")
        entries = await journald.take(1)
        for number in range(1, count):
            stream.write(b"%d\n" % number)
        stream.write(b"the end")  # a last line without a newline, from a pipe that closes
        stream.close()
        sender.logs.release(writer)
        ending = asyncio.create_task(sender.forwarding.close())
        entries += await journald.take(count)
        await ending
        expected = [*(str(n).encode() for n in range(count)), b"the end"]
        assert [entry["MESSAGE"] for entry in entries] == expected
        assert sender.forwarding.lost_lines == 0

    forwarded(tmp_path, journald, test)


def test_a_journald_that_does_not_read_costs_the_lines_that_are_rotated_away_and_no_others(
    tmp_path: Path, journald: Journald
) -> None:
    async def test(sender: Sender) -> None:
        writer = writer_of(sender.logs, max_file_bytes=5_000, max_files=2)
        stream = writer.stream("stdout")
        count = 3_000
        for number in range(count):
            stream.write(b"%d\n" % number)
            if number % 100 == 0:
                await asyncio.sleep(0)
        sent: list[int] = []
        gaps: list[int] = []
        while not sent or sent[-1] != count - 1:
            (entry,) = await journald.take(1)
            if entry["CORRAL_STREAM"] == b"corral":
                gaps.append(int(entry["CORRAL_SKIPPED_LINES"]))
                assert entry["PRIORITY"] == b"4"
            else:
                sent.append(int(entry["MESSAGE"]))
        assert sent == sorted(set(sent))
        assert gaps
        assert sum(gaps) == count - len(sent) == sender.forwarding.lost_lines

    forwarded(tmp_path, journald, test)


@contextlib.asynccontextmanager
async def degraded(
    folder: Path, journald: Journald, *, patience_s: float, close_s: float
) -> AsyncGenerator[tuple[Sender, Subscription], None]:
    """A sender with 10,000 lines for a journald that does not read, once it says so, and what else is published."""
    sender = Sender(folder, journald.path, patience_s=patience_s, close_s=close_s)
    with sender.bus.subscribe(["daemon.*"]) as seen:
        await sender.start()
        stream = writer_of(sender.logs).stream("stdout")
        for number in range(10_000):
            stream.write(b"%d\n" % number)
        try:
            (event,) = await seen.next_batch()
            assert (event.type, event.fields["part"]) == ("daemon.degraded", "journal")
            yield sender, seen
        finally:
            await sender.close()


def test_a_journald_that_never_reads_is_reported_and_holds_up_the_end_for_a_bounded_time(
    tmp_path: Path, journald: Journald
) -> None:
    async def whole() -> None:
        async with degraded(tmp_path, journald, patience_s=0.05, close_s=0.1) as (sender, _):
            assert sender.forwarding.is_degraded

    run(whole)


def test_lines_wait_in_the_files_while_journald_is_away_and_come_with_it(tmp_path: Path, journald: Journald) -> None:
    async def whole() -> None:
        sender = Sender(tmp_path, journald.path, patience_s=0.01)
        with sender.bus.subscribe(["daemon.*"]) as seen:
            await sender.start()
            try:
                stream = writer_of(sender.logs).stream("stdout")
                stream.write(b"before\n")
                assert [entry["MESSAGE"] for entry in await journald.take(1)] == [b"before"]
                journald.close()
                stream.write(b"meanwhile\n")
                (event,) = await seen.next_batch()
                assert event.type == "daemon.degraded"
                with contextlib.closing(Journald(journald.path)) as again:
                    assert [entry["MESSAGE"] for entry in await again.take(1)] == [b"meanwhile"]
                (event,) = await seen.next_batch()
                assert (event.type, event.fields["lost"]) == ("daemon.recovered", 0)
                assert not sender.forwarding.is_degraded
            finally:
                await sender.close()

    run(whole)


def test_a_journald_that_never_read_is_no_trouble_any_more_once_no_lines_are_wanted_there(
    tmp_path: Path, journald: Journald
) -> None:
    async def whole() -> None:
        async with degraded(tmp_path, journald, patience_s=0.01, close_s=0.01) as (sender, seen):
            sender.forwarding.want(False)
            (event,) = await seen.next_batch()
            assert (event.type, event.fields["part"]) == ("daemon.recovered", "journal")
            assert not sender.forwarding.is_degraded

    run(whole)


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_what_is_written_after_off_and_on_again_is_sent(turns: int, tmp_path: Path, journald: Journald) -> None:
    async def test(sender: Sender) -> None:
        workers = [f"echo-{number}" for number in range(5)]
        streams = [writer_of(sender.logs, worker).stream("stdout") for worker in workers]
        sender.forwarding.want(False)
        sender.forwarding.want(True)
        for _ in range(turns):
            await asyncio.sleep(0)
        for stream in streams:
            stream.write(b"x\n")
        entries = await journald.take(len(workers))
        assert {entry["CORRAL_WORKER"].decode() for entry in entries} == {*workers}

    forwarded(tmp_path, journald, test)


def test_lines_that_journald_has_not_taken_yet_survive_off_and_on_again(tmp_path: Path, journald: Journald) -> None:
    count = 2_000

    async def whole() -> None:
        sender = Sender(tmp_path, journald.path, patience_s=0.01, close_s=0.05)
        with sender.bus.subscribe(["daemon.*"]) as seen:
            await sender.start()
            stream = writer_of(sender.logs).stream("stdout")
            for number in range(count):
                stream.write(b"%d\n" % number)
            try:
                await seen.next_batch()  # it waits
                sender.forwarding.want(False)
                sender.forwarding.want(True)
                (event,) = await seen.next_batch()
                assert event.type == "daemon.recovered"
                (event,) = await seen.next_batch()
                assert event.type == "daemon.degraded"
                entries = await journald.take(count)
                assert [int(entry["MESSAGE"]) for entry in entries] == list(range(count))
            finally:
                await sender.close()

    run(whole)
