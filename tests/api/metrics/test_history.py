"""The history of metrics by values: histograms, roll-ups, ranges and gaps, each against a count by hand; time is an argument."""

import math
import random

import pytest
from msgspec.structs import replace

from corral.supervisor.api.metrics.collector import label_ms, wait_until_next
from corral.supervisor.api.metrics.health import health_score
from corral.supervisor.api.metrics.histogram import bucket_of, difference, merged, quantile_ms, upper_ms
from corral.supervisor.api.metrics.series import (
    POINTS,
    Range,
    by_tenant,
    chosen_range,
    points,
    problems,
    ranking,
    ranking_tier,
)
from corral.supervisor.api.metrics.step import (
    DAEMON,
    PERIOD_MS,
    RollUp,
    Row,
    Step,
    Tier,
    added,
    decoded,
    encoded,
    gained,
    is_worth_a_row,
    total,
)
from corral.supervisor.config.spec.spec import Metrics
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

STEP_MS, MINUTE_MS, HOUR_MS = 5_000, PERIOD_MS[Tier.MINUTE], PERIOD_MS[Tier.HOUR]
NOW_MS = 500_000 * HOUR_MS
DAY_MS = 24 * HOUR_MS
RETENTION_MS = {Tier.RAW: DAY_MS, Tier.MINUTE: 7 * DAY_MS, Tier.HOUR: 90 * DAY_MS}


# -- histograms


def test_a_quantile_is_within_its_bound_of_the_exact_one_also_of_merged_histograms() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    durations = [random.Random(seed + n).expovariate(0.01) + 0.01 for n in range(4_000)]
    histograms = [merged([{bucket_of(each): 1} for each in durations[part::7]]) for part in range(7)]
    whole = merged(histograms)
    assert sum(whole.values()) == len(durations)
    for percent in (1, 50, 90, 99, 100):
        exact = sorted(durations)[max(1, math.ceil(percent * len(durations) / 100)) - 1]
        found = quantile_ms(whole, percent)
        assert found is not None
        assert abs(found / exact - 1) < 0.045
    assert difference(whole, merged(histograms[1:])) == histograms[0]


@pytest.mark.parametrize("duration_ms", [0.0, 0.0009, 0.001, 0.5, 1.0, 1e3, 6e7, 1e12])
def test_each_duration_has_a_bucket_whose_bounds_hold_it(duration_ms: float) -> None:
    bucket = bucket_of(duration_ms)
    assert duration_ms < upper_ms(bucket)
    assert not bucket or duration_ms >= upper_ms(bucket - 1) * (1 - 1e-9)
    assert quantile_ms({}, 50) is None


# -- steps


def test_a_step_is_what_came_since_the_reading_before_and_the_store_gives_it_back() -> None:
    earlier = Step(ok=5, failed=1, tokens=10, cost_cents=0.5, durations={3: 5, 4: 1}, cpu_ms=9.0)
    later = Step(ok=7, failed=1, tokens=4, cost_cents=0.75, durations={3: 7, 4: 1}, cpu_ms=8.0, up=2)
    step = gained(later, earlier, STEP_MS)
    assert (step.ok, step.failed, step.cost_cents, step.durations) == (2, 0, 0.25, {3: 2})
    assert (step.tokens, step.cpu_ms) == (4, 0.0), "a counter that fell has begun anew"
    assert (step.up, step.span_ms) == (2, STEP_MS)
    assert decoded(encoded(step)) == step
    assert len(encoded(gained(Step(), Step(), STEP_MS))) < 60
    assert decoded(b"\xc1") is None
    assert decoded(encoded(step)[:-3]) is None


def test_an_idle_worker_is_worth_no_row_and_whatever_happens_to_it_is() -> None:
    before = Step(up=1, processes=1, memory_bytes=100 << 20)
    idle = Step(up=1, processes=1, memory_bytes=(100 << 20) + 4096, cpu_ms=20.0)
    assert not is_worth_a_row(idle, before)
    changed = Step(up=1, processes=1, memory_bytes=120 << 20)
    assert is_worth_a_row(changed, before)
    assert is_worth_a_row(replace(idle, cpu_ms=60.0), before)
    for key in ("ok", "failed", "cancelled", "tool_calls", "tokens", "restarts", "cost_cents"):
        assert is_worth_a_row(replace(idle, **{key: 1}), before), key
    for key in ("failed_checks", "limit_hits", "hung", "queued", "running"):
        assert is_worth_a_row(replace(idle, **{key: 1}), before), key
    for key in ("up", "processes"):
        assert is_worth_a_row(replace(idle, **{key: 2}), before), key


# -- roll-ups


def lives(count: int, seed: int) -> list[tuple[int, dict[str, Step]]]:
    """Steps of five seconds with two subjects, of which one is often idle."""
    chance = random.Random(seed)
    found: list[tuple[int, dict[str, Step]]] = []
    for number in range(count):
        ok = chance.randrange(5)
        steps = {DAEMON: Step(span_ms=STEP_MS, begins=not number, ok=ok, memory_bytes=number)}
        if ok > 2:
            steps["ann"] = Step(span_ms=STEP_MS, ok=ok, durations={ok: ok}, queued=number)
        found.append((NOW_MS + 1_000 + number * STEP_MS, steps))
    return found


def fed(roll_up: RollUp, steps: list[tuple[int, dict[str, Step]]]) -> list[Row]:
    return [row for at_ms, each in steps for row in roll_up.feed(at_ms, each)]


def test_minutes_and_hours_are_the_sums_of_their_steps() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    steps = lives(2_000, seed)  # 2 h 46 min
    roll_up = RollUp()
    rows = fed(roll_up, steps)
    for tier, period_ms in PERIOD_MS.items():
        found = [row for row in rows if row.tier is tier]
        begin_ms, partial = roll_up.partial(tier)
        found += [Row(tier, begin_ms, *each) for each in partial.items()]
        assert len({(row.at_ms, row.subject) for row in found}) == len(found)
        for row in found:
            assert row.at_ms % period_ms == 0
            own = [
                each[row.subject]
                for at_ms, each in steps
                if row.at_ms <= at_ms < row.at_ms + period_ms and row.subject in each
            ]
            assert row.step == total(own)
        assert sum(row.step.ok for row in found if row.subject == "ann") == sum(
            each["ann"].ok for _, each in steps if "ann" in each
        )


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 500, 719, 720, 721, 1_999])
def test_a_restart_at_any_step_changes_no_minute_and_no_hour(cut: int) -> None:
    steps = lives(2_000, cut)
    whole = RollUp()
    expected = fed(whole, steps)
    before, after = RollUp(), RollUp()
    kept = fed(before, steps[:cut])
    minutes = [row for row in kept if row.tier is Tier.MINUTE]
    last_minute = max((row.at_ms + MINUTE_MS for row in minutes), default=0)
    last_hour = max((row.at_ms + HOUR_MS for row in kept if row.tier is Tier.HOUR), default=0)
    raw = [Row(Tier.RAW, at_ms, *each) for at_ms, own in steps[:cut] for each in own.items()]
    kept += after.seed(
        [row for row in minutes if row.at_ms >= last_hour], [row for row in raw if row.at_ms >= last_minute]
    )
    kept += fed(after, steps[cut:])
    assert sorted(kept, key=lambda row: row[:3]) == sorted(expected, key=lambda row: row[:3])
    assert after.partial(Tier.HOUR) == whole.partial(Tier.HOUR)


# -- ranges


def chosen(since_ms: int, until_ms: int, step_ms: int | None = None) -> Range:
    return chosen_range(since_ms, until_ms, step_ms, now_ms=NOW_MS, interval_ms=STEP_MS, retention_ms=RETENTION_MS)


@pytest.mark.parametrize(
    ("back_ms", "step_ms", "tier", "given_ms"),
    [
        (HOUR_MS, None, Tier.RAW, STEP_MS),
        (HOUR_MS + STEP_MS, None, Tier.MINUTE, MINUTE_MS),
        (12 * HOUR_MS, None, Tier.MINUTE, MINUTE_MS),
        (13 * HOUR_MS, None, Tier.HOUR, HOUR_MS),
        (60 * DAY_MS, None, Tier.HOUR, 2 * HOUR_MS),
        (4_000 * DAY_MS, None, Tier.HOUR, 134 * HOUR_MS),
        (HOUR_MS, 1_000, Tier.RAW, STEP_MS),
        (HOUR_MS, 12_000, Tier.RAW, 15_000),
        (HOUR_MS, 100_000, Tier.MINUTE, 120_000),
        (DAY_MS, HOUR_MS, Tier.HOUR, HOUR_MS),
        (2 * DAY_MS, STEP_MS, Tier.MINUTE, MINUTE_MS),
    ],
)
def test_the_finest_tier_that_fits_and_is_still_there_is_taken(
    back_ms: int, step_ms: int | None, tier: Tier, given_ms: int
) -> None:
    found = chosen(NOW_MS - back_ms, NOW_MS, step_ms)
    assert (found.tier, found.step_ms) == (tier, given_ms)
    assert found.since_ms % given_ms == 0
    assert found.since_ms <= NOW_MS - back_ms
    if step_ms is None:
        assert back_ms <= given_ms * POINTS


@pytest.mark.parametrize(
    ("back_ms", "subjects", "tier"),
    [
        (HOUR_MS, 200, Tier.RAW),
        (HOUR_MS, 1_000, Tier.MINUTE),
        (2 * DAY_MS, 1, Tier.MINUTE),
        (7 * DAY_MS, 100, Tier.HOUR),
        (NOW_MS, 1_000, Tier.HOUR),
    ],
)
def test_a_ranking_of_many_or_of_a_long_time_is_made_of_coarser_rows(back_ms: int, subjects: int, tier: Tier) -> None:
    found = ranking_tier(NOW_MS - back_ms, NOW_MS, subjects, interval_ms=STEP_MS, retention_ms=RETENTION_MS)
    assert found is tier


def test_a_range_without_end_or_with_too_many_points_is_refused() -> None:
    with pytest.raises(InvalidParams):
        chosen(NOW_MS, NOW_MS)
    with pytest.raises(InvalidParams):
        chosen(NOW_MS - DAY_MS, NOW_MS, STEP_MS)


def daemon_rows(*numbers: int, begins: int = -1) -> list[tuple[int, Step]]:
    return [(n * STEP_MS, Step(span_ms=STEP_MS, begins=n == begins)) for n in numbers]


def test_a_step_without_a_row_keeps_the_gauges_and_one_without_a_daemon_is_a_gap() -> None:
    daemon = daemon_rows(0, 1, 2, 3, 6, 7, 8, begins=6)
    own = [(STEP_MS, Step(span_ms=STEP_MS, ok=3, up=2, queued=4)), (7 * STEP_MS, Step(up=1, ok=1))]
    found = points(Range(Tier.RAW, 0, 10 * STEP_MS, STEP_MS), "ann", daemon, own, None)
    assert [(each.at_ms // STEP_MS, each.step.ok, each.step.up, each.step.queued) for each in found] == [
        (1, 3, 2, 4),
        (2, 0, 2, 4),
        (3, 0, 2, 4),
        (7, 1, 1, 0),
        (8, 0, 1, 0),
    ], "0: before it was there; 4 and 5: no daemon; 6: another daemon, which has not said anything"
    held = points(Range(Tier.RAW, 0, STEP_MS, STEP_MS), "ann", daemon, own, Step(up=5, ok=9))
    assert (held[0].step.up, held[0].step.ok) == (5, 0)


def test_points_of_several_steps_add_up_and_know_for_how_long_was_collected() -> None:
    daemon = daemon_rows(0, 1, 2, 3, 4, 5, 9)
    own = [(n * STEP_MS, Step(ok=n, memory_bytes=n, memory_peak_bytes=n)) for n in (1, 2, 4)]
    found = points(Range(Tier.RAW, 0, 12 * STEP_MS, 3 * STEP_MS), "ann", daemon, own, None)
    assert [
        (each.at_ms // STEP_MS, each.span_ms // STEP_MS, each.step.ok, each.step.memory_bytes) for each in found
    ] == [(0, 2, 3, 2), (3, 3, 4, 4), (9, 1, 0, 4)]
    assert sum(each.step.ok for each in found) == 7


def test_steps_are_labelled_evenly_though_timers_are_not_exact() -> None:
    assert label_ms(100.004, STEP_MS) == 100_000
    assert label_ms(99.998, STEP_MS) == 100_000
    assert label_ms(101.2, STEP_MS) == 100_000
    assert label_ms(102.4, STEP_MS) == 102_400
    assert label_ms(99.9, STEP_MS) == 99_900, "a step is not of the future"
    assert wait_until_next(99.998, 5.0) == pytest.approx(5.002)
    assert wait_until_next(101.0, 5.0) == pytest.approx(4.0)


# -- health and rankings


def test_health_falls_with_what_happens_and_rises_as_it_leaves_the_window() -> None:
    assert health_score([], [], since=0.0) == 100
    assert health_score([(1.0, False)], [], since=0.0) == 88
    assert health_score([(1.0, False)] * 5 + [(1.0, True)] * 5, [], since=0.0) == 70
    assert health_score([(1.0, False)] * 50, [], since=0.0) == 40
    incidents = [(1.0, "restarts"), (2.0, "hung"), (3.0, "limit_hits"), (3.0, "failed_checks")]
    scores = [health_score([], incidents, since=since) for since in (0.0, 1.0, 2.0, 3.0)]
    assert scores == [60, 70, 90, 100]
    assert health_score([], [(1.0, "restarts")] * 9, since=0.0) == 60
    every = [(1.0, kind) for kind in ("restarts", "hung", "limit_hits", "failed_checks")] * 20
    assert health_score([(1.0, False)] * 9, every, since=0.0) == 0
    assert health_score([], [], since=0.0, has_given_up=True) == 0


def test_rankings_have_only_those_to_which_they_apply_and_equals_by_name() -> None:
    slow = bucket_of(20_000)
    steps = {
        "good": Step(ok=9, duration_ms=9, durations={1: 9}),
        "bad": Step(ok=1, failed=4, duration_ms=5, durations={1: 5}, cost_cents=2.0),
        "slow": Step(ok=3, duration_ms=60_000, durations={slow: 3}, tokens=5),
        "also": Step(ok=9, duration_ms=9, durations={1: 9}),
        "idle": Step(up=1),
    }
    found = ranking(steps, 3)
    assert found.best == ["also", "good", "slow"]
    assert found.worst == ["bad"]
    assert found.slowest[0] == "slow"
    assert found.expensive == ["bad", "slow"]
    asked = Metrics()
    assert {name for name, step in steps.items() if problems(step, asked)} == {"bad", "slow"}
    assert not problems(Step(ok=1, failed=3), asked), "too few to judge"
    assert not problems(Step(ok=17, failed=3), asked), "15 % is not more than 15 %"
    assert problems(Step(ok=16, failed=4), asked)
    assert not problems(Step(ok=2, duration_ms=60_000, durations={slow: 2}), asked)


def test_tenants_have_the_sums_of_their_agents_and_the_owner_too() -> None:
    steps = {
        "own": Step(ok=1, up=1, cost_cents=1.0),
        "acme/a": Step(span_ms=5, ok=2, failed=1, up=1, memory_bytes=7, cost_cents=2.5),
        "acme/b": Step(span_ms=9, ok=3, up=2, memory_bytes=5, memory_peak_bytes=8, queued=4),
        "bee/c": Step(ok=9),
    }
    found = by_tenant(steps)
    assert list(found) == ["acme", "", "bee"]
    acme = found["acme"]
    assert (acme.span_ms, acme.ok, acme.failed, acme.cost_cents) == (9, 5, 1, 2.5)
    assert (acme.up, acme.memory_bytes, acme.memory_peak_bytes, acme.queued) == (3, 12, 8, 4)
    assert found[""] == steps["own"]
    assert by_tenant({"own": steps["own"]}) == {}


def test_two_steps_added_have_the_later_gauges_and_the_higher_peaks() -> None:
    one = Step(span_ms=1, ok=1, up=3, memory_peak_bytes=9, queued_peak=4, storage={"store": 1})
    other = Step(span_ms=2, ok=2, up=1, memory_peak_bytes=5, queued_peak=6, begins=True)
    both = added(one, other)
    assert (both.span_ms, both.ok, both.up, both.memory_peak_bytes, both.queued_peak) == (3, 3, 1, 9, 6)
    assert both.begins
    assert both.storage == {"store": 1}
