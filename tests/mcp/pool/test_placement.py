"""Which process takes a call: a table of choices, and long random lives in which nobody meets another's state."""

import random

import pytest
from msgspec.structs import replace

from corral.mcp.pool.placement import Allowance, Decision, Grow, Phase, Place, Renew, Share, Use, Wait, allow, choose

pytestmark = pytest.mark.core

UP, COMING, DOWN, LOST = Phase.UP, Phase.COMING, Phase.DOWN, Phase.LOST
HELD = Phase.HELD

LIVES = 200
EVENTS = 300


def for_all(*places: Place, spares: int = 0) -> Decision:
    return choose(places, share="all", sharer="", spares=spares, maximum=len(places))


def leased(*places: Place, sharer: str = "me", maximum: int = 2) -> Decision:
    return choose(places, share="agent", sharer=sharer, spares=0, maximum=maximum)


def owned(by: str, load: int = 0, rested_at: float = 0.0) -> Place:
    return Place(UP, load=load, life=3, sharer=by, leased_in=3, rested_at=rested_at)


@pytest.mark.parametrize(
    ("places", "spares", "decision"),
    [
        ([Place(DOWN)], 0, Use(0)),
        ([Place(UP, load=9, is_free=False)], 0, Use(0)),
        ([Place(UP, load=1), Place(UP)], 0, Use(1)),
        ([Place(UP), Place(UP)], 0, Use(0)),
        ([Place(LOST), Place(UP, load=5)], 0, Use(1)),
        ([Place(LOST), Place(LOST)], 0, Use(0)),
        ([], 0, Use(0)),
        ([Place(HELD)], 0, Wait()),
        ([Place(HELD), Place(LOST)], 0, Wait()),
        ([Place(HELD), Place(UP, load=5, is_free=False)], 0, Use(1)),
        ([Place(UP), Place(DOWN)], 0, Use(0)),
        ([Place(UP, load=1), Place(DOWN)], 0, Use(0, also=1)),
        ([Place(UP, load=1, is_free=False), Place(DOWN)], 0, Use(1)),
        ([Place(UP, load=1, is_free=False), Place(COMING, load=4)], 0, Use(1)),
        ([Place(COMING, load=1), Place(DOWN)], 0, Use(1)),
        ([Place(UP), Place(UP)], 1, Use(0)),
        ([Place(UP, load=50, is_free=False), Place(UP)], 1, Use(0)),
        ([Place(DOWN), Place(UP)], 1, Use(1, also=0)),
        ([Place(COMING), Place(UP)], 1, Use(1)),
        ([Place(DOWN), Place(DOWN)], 1, Use(0, also=1)),
        ([Place(LOST), Place(UP)], 1, Use(1)),
        ([Place(UP, load=1), Place(UP), Place(DOWN)], 1, Use(1)),
    ],
)
def test_where_all_share_the_least_loaded_process_takes_a_call(
    places: list[Place], spares: int, decision: Decision
) -> None:
    assert for_all(*places, spares=spares) == decision


@pytest.mark.parametrize(
    ("places", "maximum", "decision"),
    [
        ([Place(DOWN)], 1, Use(0)),
        ([owned("other"), Place(DOWN)], 2, Use(1)),
        ([Place(DOWN), Place(UP, life=1)], 2, Use(1)),
        ([owned("other"), owned("me", load=7)], 2, Use(1)),
        ([owned("other")], 2, Grow()),
        ([owned("other")], 1, Renew(0)),
        ([owned("x", rested_at=9), owned("y", rested_at=5)], 2, Renew(1)),
        ([owned("x", load=1), owned("y", rested_at=5)], 2, Renew(1)),
        ([owned("x", load=1), owned("y", load=2)], 2, Wait()),
        ([Place(LOST)], 1, Use(0)),
        ([Place(UP, life=4, sharer="other", leased_in=3)], 1, Use(0)),
        ([Place(COMING, load=1, sharer="other", leased_in=3)], 1, Wait()),
        ([Place(COMING, sharer="other", leased_in=3)], 1, Use(0)),
    ],
)
def test_where_nobody_shares_each_has_his_own_process(places: list[Place], maximum: int, decision: Decision) -> None:
    assert leased(*places, maximum=maximum) == decision


class Life:
    """Processes as a pool keeps them, and calls that come and end in any order."""

    def __init__(self, draw: random.Random, share: Share) -> None:
        self.draw = draw
        self.share: Share = share
        self.spares = draw.choice((0, 0, 1, 2)) if share == "all" else 0
        self.maximum = draw.randint(1, 4) + self.spares
        count = self.maximum if share == "all" else 1
        self.places = [Place(DOWN) for _ in range(count)]
        self.calls: list[tuple[int, str]] = []
        self.served: dict[tuple[int, int], str] = {}
        self.now = 0.0

    def set(self, number: int, **changes: object) -> None:
        self.places[number] = replace(self.places[number], **changes)

    def step(self) -> None:
        self.now += 1
        roll = self.draw.random()
        if roll < 0.5:
            self.call(self.draw.choice("abcd") if self.share != "all" else "")
        elif roll < 0.8 and self.calls:
            number, _ = self.calls.pop(self.draw.randrange(len(self.calls)))
            self.set(number, load=self.places[number].load - 1, rested_at=self.now)
        else:
            number = self.draw.randrange(len(self.places))
            self.set(number, phase=self.draw.choice((COMING, DOWN, DOWN, LOST)))

    def call(self, sharer: str) -> None:
        before = list(self.places)
        decision = choose(before, share=self.share, sharer=sharer, spares=self.spares, maximum=self.maximum)
        if isinstance(decision, Grow):
            assert len(before) < self.maximum
            self.places.append(Place(DOWN))
            return self.call(sharer)
        if isinstance(decision, Wait):
            usable = [place for place in before if place.phase is not LOST]
            assert all(place.load > 0 and place.owner != sharer for place in usable)
            return None
        place = before[decision.number]
        if isinstance(decision, Use) and decision.also is not None:
            assert before[decision.also].phase is DOWN
            self.start(decision.also)
        if place.phase is LOST:
            assert all(each.phase is LOST for each in before)
            return None
        if isinstance(decision, Renew):
            assert place.load == 0
            self.set(decision.number, phase=DOWN)
        self.check_reserve(before, decision.number)
        if self.places[decision.number].phase is not UP:
            self.start(decision.number)
        self.take(decision.number, sharer)
        return None

    def check_reserve(self, before: list[Place], number: int) -> None:
        up = [n for n, place in enumerate(before) if place.phase is UP]
        if self.share == "all" and before[number].phase is UP:
            count = max(1, len(before) - self.spares)
            assert number in up[:count], "a spare has work while the others are up"
            free = [before[n].load for n in up[:count] if before[n].is_free]
            assert not free or before[number].load == min(free)

    def start(self, number: int) -> None:
        self.set(number, phase=UP, life=self.places[number].life + 1)

    def take(self, number: int, sharer: str) -> None:
        place = self.places[number]
        if self.share != "all":
            others = {who for at, who in self.calls if at == number} - {sharer}
            assert not others, "two have calls at one process"
            earlier = self.served.setdefault((number, place.life), sharer)
            assert earlier == sharer, "a life that served one serves another"
        self.calls.append((number, sharer))
        self.set(number, load=place.load + 1, sharer=sharer, leased_in=place.life)


@pytest.mark.parametrize("share", ["all", "agent"])
def test_in_any_life_reserves_are_kept_and_no_two_sharers_meet(share: Share) -> None:
    first = random.randrange(2**32)
    print(f"seeds {first} to {first + LIVES - 1}")
    for seed in range(first, first + LIVES):
        life = Life(random.Random(seed), share)
        for _ in range(EVENTS):
            life.step()


def test_a_sharer_keeps_his_process_while_it_lives() -> None:
    places = [owned("me"), owned("you")]
    for load in (0, 1, 40):
        assert leased(owned("me", load=load), owned("you")) == Use(0)
    places[0] = Place(DOWN, life=3, sharer="me", leased_in=3)
    assert leased(*places) == Use(0), "it is nobody's when it is down, and his again"
    assert leased(*places, sharer="you") == Use(1)


# -- how many calls


def test_a_minute_s_calls_may_come_at_once_and_then_evenly() -> None:
    allowance: Allowance | None = None
    for _ in range(6):
        allowance, wait_s = allow(allowance, 6, 100.0)
        assert wait_s == 0
    allowance, wait_s = allow(allowance, 6, 100.0)
    assert wait_s == pytest.approx(10.0)
    allowance, wait_s = allow(allowance, 6, 105.0)
    assert wait_s == pytest.approx(5.0)
    allowance, wait_s = allow(allowance, 6, 110.0)
    assert wait_s == 0
    _, wait_s = allow(allowance, 6, 100_000.0)
    assert wait_s == 0


def test_over_any_time_no_more_calls_are_allowed_than_the_bucket_holds_and_gets() -> None:
    first = random.randrange(2**32)
    print(f"seeds {first} to {first + 49}")
    for seed in range(first, first + 50):
        draw = random.Random(seed)
        limit = draw.choice((1, 2, 7, 60, 1000))
        allowance: Allowance | None = None
        taken: list[float] = []
        now = 0.0
        for _ in range(500):
            now += draw.expovariate(draw.choice((0.1, 1.0, 30.0)))
            allowance, wait_s = allow(allowance, limit, now)
            if not wait_s:
                taken.append(now)
            else:
                assert not allow(allowance, limit, now + wait_s + 1e-6)[1], "the hint is true"
        for n, since in enumerate(taken):
            until = taken[min(n + 3 * limit, len(taken) - 1)]
            count = min(n + 3 * limit, len(taken) - 1) - n + 1
            assert count <= limit + (until - since) * limit / 60 + 1e-6
