"""Filters of records: until a time, of a severity, with a pattern, of the previous incarnation; and bounds of their time."""

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.records.logs import regex
from corral.supervisor.records.logs.file_format import LogFilter, Record
from corral.supervisor.records.logs.merging import BATCH_BYTES, BATCH_RECORDS, in_batches
from corral.supervisor.records.logs.regex import LENGTH_LIMIT, SEARCH_S, Pattern
from corral.supervisor.records.logs.store import LogStore
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from log_folder import BOUND_S, content, run, taken, texts, writer_of

pytestmark = pytest.mark.shell

START_S = 1_700_000_000


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "logs", compress_after_s=0)
    yield store
    store.close()


def ticking(tmp_path: Path) -> LogStore:
    """A store of which the clock goes on by a second with each look."""
    now = iter(range(START_S, START_S + 10_000_000))
    return LogStore(tmp_path / "ticking", clock=lambda: next(now) * 1_000_000_000)


def chosen(logs: LogStore, wanted: LogFilter, n: int | None = None) -> list[Record]:
    async def gather() -> list[Record]:
        return [record async for batch in logs.history(wanted, n) for record in batch]

    return asyncio.run(gather())


def test_the_last_lines_until_a_time_are_those_before_it(tmp_path: Path) -> None:
    now = [START_S]
    logs = LogStore(tmp_path / "logs", clock=lambda: now[0] * 1_000_000_000)
    stream = writer_of(logs, max_file_bytes=100_000, max_files=50).stream("stdout")
    for number in range(10_000):
        now[0] = START_S + number // 3  # several lines have the same time
        stream.write(b"%d\n" % number if number % 1_000 else b"%d%s\n" % (number, b"x" * 40_000))
    for second in (0, 1, 700, 1_500, 3_332, 3_333, 9_999):
        last = min(3 * second + 2, 9_999)
        found = chosen(logs, LogFilter(until=START_S + second + 0.001), 5)  # no two times are the same
        numbers = [int(str(text).rstrip("x")) for text in texts(found)]
        assert numbers == list(range(max(0, last - 4), last + 1))
        found = chosen(logs, LogFilter(since=START_S + second - 1, until=START_S + second + 0.001))
        numbers = [int(str(text).rstrip("x")) for text in texts(found)]
        assert numbers == list(range(max(0, 3 * second - 3), last + 1))[: len(numbers)]
        assert len(numbers) == min(6, last + 1, max(0, 10_000 - 3 * second + 3))
    assert chosen(logs, LogFilter(until=START_S - 1), 5) == []
    logs.close()


def test_a_level_means_at_least_so_severe_and_leaves_out_what_has_none(logs: LogStore) -> None:
    writer = writer_of(logs)
    notes = writer.stream("log")
    for level in ("debug", "info", "notice", "warning", "error", "critical", "emergency", "odd"):
        notes.line(level.encode(), level)
    writer.stream("stderr").write(b"error: a print is no message\n")
    assert texts(chosen(logs, LogFilter(level="warning"))) == ["warning", "error", "critical", "emergency"]
    assert texts(chosen(logs, LogFilter(level="info"), 3)) == ["critical", "emergency", "odd"]
    assert len(chosen(logs, LogFilter(level="debug"))) == 8


def test_a_pattern_finds_lines_however_long_ago_they_are(logs: LogStore) -> None:
    stream = writer_of(logs, max_file_bytes=200_000, max_files=50).stream("stdout")
    other = writer_of(logs, "other-0").stream("stderr")
    for number in range(20_000):
        stream.write(b"needle %d\n" % number if number in (3, 9_000, 19_999) else b"hay\n")
    stream.write(b"h" * 20_000 + b" long \xff needle\n" + b"i" * 10_000 + b" needle\n")
    other.write(b"a n\xc3\xa9edle\n")
    found = texts(chosen(logs, LogFilter(pattern=Pattern("^needle"))))
    assert found == ["needle 3", "needle 9000", "needle 19999"]
    assert texts(chosen(logs, LogFilter(pattern=Pattern("^needle")), 2)) == found[1:]
    assert texts(chosen(logs, LogFilter(pattern=Pattern("^needle")), 9)) == found
    assert texts(chosen(logs, LogFilter(pattern=Pattern("(?i)N.EDLE$")), 1)) == ["a néedle"]
    # What is behind the first 16 KiB of a line is not searched.
    found = [len(content(each)) for each in chosen(logs, LogFilter(pattern=Pattern(" needle$")), 9)]
    assert found == [10_007]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)*b", "(.*)*(.*)*(.*)*c", "(a*)*b"])
def test_a_pattern_that_would_take_for_ever_is_refused_and_the_loop_goes_on(logs: LogStore, pattern: str) -> None:
    writer_of(logs).stream("stdout").write(b"a" * 5_000 + b"!\n")

    async def test() -> None:
        for _ in range(2):
            with pytest.raises(ResourceLimitExceeded):
                async for _ in logs.history(LogFilter(pattern=Pattern(pattern)), 10):
                    pass
        async with aclosing(logs.follow(LogFilter(pattern=Pattern(pattern)), 0)) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            writer_of(logs).stream("stdout").write(b"a" * 5_000 + b"!\n")
            with pytest.raises(ResourceLimitExceeded):
                await waiting
        assert len(await logs.read()) == 2

    run(test)


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "x" * (LENGTH_LIMIT + 1), "(?P<a>.)(?P<a>.)"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        Pattern(pattern)
    assert refused.value.data["key"] == "grep"


def test_a_pattern_that_may_mean_something_else_one_day_is_taken_as_it_is() -> None:
    assert list(Pattern("[[a]").matching(["[", "b"], str)) == [["["]]


def test_a_search_that_takes_long_is_cut_into_slices_between_which_the_loop_turns() -> None:
    slices: list[list[str]] = []
    with pytest.raises(ResourceLimitExceeded):  # the lines never end: a fast machine takes as many slices as a slow one
        slices.extend(Pattern("x*x*y").matching(itertools.repeat("x" * 100), str))
    assert len(slices) > 3


def test_a_search_whose_time_ran_out_at_the_end_of_a_slice_has_no_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def spend_all(clock: Any, *_: object) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        clock.spent_s = regex.SEARCH_S

    monkeypatch.setattr(f"{regex.__name__}._Clock.__exit__", spend_all)
    slices = Pattern("x*x*y").matching(itertools.repeat("x" * 100), str)
    next(slices)
    with pytest.raises(ResourceLimitExceeded):
        next(slices)


def test_one_line_has_half_the_time_of_a_search() -> None:
    begun = time.process_time()
    with pytest.raises(ResourceLimitExceeded):
        list(Pattern("(x+x+)+y").matching(["x" * 5_000], str))
    assert time.process_time() - begun < SEARCH_S


def test_lines_that_report_a_loss_are_shown_whatever_is_asked_for(tmp_path: Path) -> None:
    logs = ticking(tmp_path)
    writer = writer_of(logs)
    writer.stream("stdout").write(b"before\n")
    writer.lose(7, 70, "a test")
    writer.stream("stdout").write(b"after\n")
    for wanted in (
        LogFilter(level="critical"),
        LogFilter(stream="stderr"),
        LogFilter(pattern=Pattern("none has this")),
    ):
        (note,) = chosen(logs, wanted)
        assert (note["stream"], note["lost_lines"], note["lost_bytes"]) == ("corral", 7, 70)
    logs.close()


@pytest.mark.parametrize("seed", range(4))
def test_previous_is_what_the_incarnation_before_printed(logs: LogStore, seed: int) -> None:
    dice = random.Random(seed)
    writer = writer_of(logs, max_file_bytes=100_000, max_files=1_000)
    running = frozenset({"echo-0"})
    lives: list[list[str]] = []
    for life in range(6):
        writer.begin()
        if lives:
            assert texts(chosen(logs, LogFilter(previous=True, running=running))) == lives[-1]
        out, err = writer.stream("stdout"), writer.stream("stderr")
        lives.append([])
        for number in range(dice.choice((1, 2, 300, 600))):
            text = f"{life}.{number}" + "x" * dice.choice((0, 0, 0, 20_000))
            if dice.random() < 0.1:
                writer.stream("log").line(text.encode(), "info")
            else:
                dice.choice((out, err)).write(text.encode() + b"\n")
            lives[-1].append(text)
        before = lives[-2] if life else []
        assert texts(chosen(logs, LogFilter(previous=True, running=running))) == before
        assert texts(chosen(logs, LogFilter(previous=True, running=running), 3)) == before[-3:]
        out.close()
        err.close()
        assert texts(chosen(logs, LogFilter(previous=True))) == lives[-1]  # it does not run now
    assert texts(chosen(logs, LogFilter())) == [text for life in lives for text in life]


def test_what_is_left_in_a_pipe_belongs_to_the_incarnation_that_wrote_it(logs: LogStore) -> None:
    writer = writer_of(logs)
    writer.begin()
    late = writer.stream("stderr")
    late.write(b"first\n")
    writer.begin()
    late.write(b"last words\n")
    writer.stream("stderr").write(b"second\n")
    found = chosen(logs, LogFilter(previous=True, running=frozenset({"echo-0"})))
    assert texts(found) == ["first", "last words"]


def test_logs_of_what_is_removed_stay_until_they_expire(logs: LogStore) -> None:
    gone, old, kept = (writer_of(logs, f"{name}-0") for name in ("gone", "old", "kept"))
    scaled = writer_of(logs, "kept-1")
    for writer in (gone, old, kept, scaled):
        writer.stream("stdout").write(b"hello\n")
    for writer in (gone, old, scaled):
        logs.release(writer)
    for name in ("old/old-0", "kept/kept-0", "kept/kept-1"):
        os.utime(logs.directory / f"{name}.log", (START_S, START_S))
    asyncio.run(logs.expire(START_S + 1))
    assert logs.names() == {"gone", "gone-0", "kept", "kept-0"}
    assert not (logs.directory / "old").exists()
    assert len(chosen(logs, LogFilter(names=frozenset({"gone-0"})))) == 1


def test_a_writer_that_two_asked_for_is_closed_by_the_last(logs: LogStore) -> None:
    first, second = writer_of(logs), writer_of(logs)
    assert first is second
    logs.release(first)
    second.stream("stdout").write(b"still open\n")
    assert logs.find_writer("echo", "echo-0") is second
    logs.release(second)
    assert logs.find_writer("echo", "echo-0") is None
    second.stream("stdout").write(b"too late\n")
    assert texts(chosen(logs, LogFilter())) == ["still open"]


def test_a_batch_is_bounded_in_number_and_size() -> None:
    sizes = [10] * 1_000 + [BATCH_BYTES // 2] * 5 + [3 * BATCH_BYTES] * 2 + [0]
    batches = list(in_batches({"text": "x" * size} for size in sizes))
    assert [len(str(r["text"])) for batch in batches for r in batch] == sizes
    assert max(map(len, batches)) <= BATCH_RECORDS
    for batch in batches:
        assert sum(len(str(r["text"])) for r in batch[:-1]) < BATCH_BYTES


def test_a_follower_sees_only_what_it_asked_for(logs: LogStore) -> None:
    async def test() -> None:
        async with asyncio.timeout(BOUND_S):
            wanted = LogFilter(level="error", pattern=Pattern("disk"))
            writer = writer_of(logs)
            writer.stream("log").line(b"disk full", "error")
            async with aclosing(logs.follow(wanted)) as batches:
                assert texts(await taken(batches, 1)) == ["disk full"]
                writer.stream("log").line(b"disk", "info")
                writer.stream("stdout").write(b"disk\n")
                writer.stream("log").line(b"memory", "error")
                writer.stream("log").line(b"a disk again", "critical")
                assert texts(await taken(batches, 1)) == ["a disk again"]

    run(test)
