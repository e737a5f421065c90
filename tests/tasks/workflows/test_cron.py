"""When schedules are due: grids, cron, time zones, and clocks that jump."""

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.tasks.workflows.cron import JUMP_S, LATE_S, Due, Times, check, decide, following

pytestmark = pytest.mark.core

YEAR_S = 365 * 86_400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def text(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


START = at("2026-03-01T10:00:00+00:00")


def test_a_grid_is_due_at_its_start_and_then_at_whole_steps_from_it() -> None:
    times = Times(START, every_s=300, start=START)
    assert following(times, START - 1000) == START
    assert following(times, START) == START + 300
    assert following(times, START + 299.9) == START + 300
    assert following(times, START + 300) == START + 600


def test_a_grid_of_uneven_steps_never_stands_still_and_never_goes_past_a_step() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(500):
        every_s = rng.choice((1.0, 1.1, 7.7, 86_400.0, rng.uniform(1, 1e6)))
        times = Times(START + rng.random(), every_s=every_s)
        now = START + rng.uniform(0, 1e9)
        due = following(times, now)
        assert due is not None
        assert now < due <= now + every_s * 1.000001 + 1e-5
        after = following(times, due)
        assert after is not None
        assert after > due


@pytest.mark.parametrize(
    ("cron", "zone", "after", "due"),
    [
        ("*/5 * * * *", None, "2026-03-01T10:02:30+00:00", "2026-03-01T10:05:00"),
        ("0 18 * * mon-fri", None, "2026-02-27T19:00:00+00:00", "2026-03-02T18:00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-01-10T12:00:00+00:00", "2026-01-11T01:30:00"),
        ("0 0 29 2 *", None, "2026-03-01T00:00:00+00:00", "2028-02-29T00:00:00"),
        # The day of the month or the day of the week, as cron has always had it.
        ("0 0 13 * fri", None, "2026-03-01T00:00:00+00:00", "2026-03-06T00:00:00"),
        # Half past two does not exist on this day: it is made up for when the hour has passed.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+00:00", "2026-03-29T01:00:00"),
        ("*/10 * * * * *", None, "2026-03-01T10:00:01+00:00", "2026-03-01T10:00:10"),
        ("@daily", "Europe/Berlin", "2026-01-10T12:00:00+00:00", "2026-01-10T23:00:00"),
        ("@hourly", None, "2026-01-10T12:00:00+00:00", "2026-01-10T13:00:00"),
        ("@weekly", None, "2026-01-10T12:00:00+00:00", "2026-01-11T00:00:00"),
        ("@monthly", None, "2026-01-10T12:00:00+00:00", "2026-02-01T00:00:00"),
        ("@yearly", None, "2026-01-10T12:00:00+00:00", "2027-01-01T00:00:00"),
    ],
)
def test_cron_is_read_as_cron_does(cron: str, zone: str | None, after: str, due: str) -> None:
    times = Times(0.0, cron=cron, timezone=zone)
    check(times)
    assert text(following(times, at(after))) == due


def test_what_happens_daily_happens_once_when_an_hour_is_there_twice() -> None:
    times = Times(0.0, cron="30 2 * * *", timezone="Europe/Berlin")
    now, days = at("2026-10-20T12:00:00+00:00"), set[str]()
    for _ in range(10):
        due = following(times, now)
        assert due is not None
        day = datetime.fromtimestamp(due, ZoneInfo("Europe/Berlin")).date().isoformat()
        assert day not in days
        days.add(day)
        now = due
    assert "2026-10-25" in days


@pytest.mark.parametrize(
    ("times", "key"),
    [
        (Times(START), "every_s"),
        (Times(START, every_s=5, cron="* * * * *"), "every_s"),
        (Times(START, cron="* * *"), "cron"),
        (Times(START, cron="99 * * * *"), "cron"),
        (Times(START, cron="0 0 31 2 *"), "cron"),
        (Times(START, cron="* * * * *", timezone="Mars/Olympus"), "timezone"),
        (Times(START, cron="* * * * *", timezone="../../etc/passwd"), "timezone"),
        (Times(START, cron="* * * * *", timezone="Europe"), "timezone"),
        (Times(START, every_s=5, timezone="Europe/Berlin"), "timezone"),
    ],
)
def test_times_that_cannot_be_read_are_refused_by_key(times: Times, key: str) -> None:
    with pytest.raises(Refused) as refused:
        check(times)
    assert refused.value.item == key


def test_cron_is_not_due_before_its_start_and_may_be_at_it() -> None:
    times = Times(START, cron="0 10 * * *", start=START)
    assert following(times, START - YEAR_S) == START
    late = Times(START, cron="0 10 * * *", start=START + 0.5)
    assert following(late, START - 5) == START + 86_400


def test_a_grid_without_a_start_goes_on_where_a_clock_was_set_back_to() -> None:
    due = following(Times(START, every_s=7), START - YEAR_S)
    assert due is not None
    assert START - YEAR_S < due <= START - YEAR_S + 7


def test_nothing_is_due_beyond_the_end_of_time() -> None:
    assert following(Times(START, every_s=YEAR_S), 253_402_300_000.0) is None


# -- what is to be done


EVERY = Times(START, every_s=60)


def test_what_is_not_due_yet_is_waited_for() -> None:
    assert decide(EVERY, START + 60, START, START + 59) == Due(None, START + 60)


def test_many_times_that_have_passed_are_one_run() -> None:
    due = decide(EVERY, START + 60, START, START + 3600)
    assert due == Due(START + 60, START + 3660, missed=True)
    in_time = decide(EVERY, START + 60, START, START + 60 + LATE_S)
    assert in_time.missed is False


def test_a_clock_that_jumps_a_year_ahead_makes_one_run_and_back_again_goes_on_at_once() -> None:
    ahead = START + YEAR_S + 17
    due = decide(EVERY, START + 60, START, ahead)
    assert due.run == START + 60
    assert due.next_at is not None
    assert ahead < due.next_at <= ahead + 60
    ran_there = decide(EVERY, due.next_at, due.run, due.next_at)
    assert ran_there.next_at is not None
    back = decide(EVERY, ran_there.next_at, ran_there.run, START + 90)
    assert back == Due(None, START + 120)


def test_a_clock_that_goes_back_a_little_makes_no_run_twice() -> None:
    assert decide(EVERY, START + 120, START + 60, START + 59) == Due(None, START + 120)
    assert decide(EVERY, START + 120, START + 60, START + 60 - JUMP_S) == Due(None, START + 120)


def test_what_is_never_due_is_never_run() -> None:
    assert decide(EVERY, None, START, START + YEAR_S) == Due(None, None)


def test_however_the_clock_goes_each_look_makes_one_run_at_most_and_there_is_always_a_next() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(50):
        times = rng.choice((EVERY, Times(START, cron="*/7 * * * *"), Times(START, every_s=1)))
        now = START
        next_at, last = following(times, now), None
        for _ in range(100):
            jump = rng.choice((0.5, 30.0, 400.0, -5.0, -500.0, YEAR_S, -YEAR_S, -700.0))
            now = max(0.0, now + jump)
            due = decide(times, next_at, last, now)
            assert due.next_at is not None
            if due.run is not None:
                assert due.run == next_at
                assert due.run <= now < due.next_at
                last = due.run
            elif last is not None and now >= last - JUMP_S:
                assert due.next_at == next_at  # nothing is due twice
            next_at = due.next_at
