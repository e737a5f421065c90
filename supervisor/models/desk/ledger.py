"""Sums what calls of models have used by hour, model and agent, in memory and in the store, and holds models to their limits.

Sums are written together with the other figures of calls, every 0.1 s, and are kept for KEPT_S. The journals
(`journals`) have the rest when the daemon dies.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.tenants.quotas.spending import NO_TOKENS, Spending

from ..gateway.usage import Usage

HOUR_S = 3600
DAY_H = 24
KEPT_S = 90 * 86_400.0
"""Seconds for which sums are kept."""
SWEEP_S = 3600.0
"""Seconds between two removals of old sums."""

COLUMNS = ("calls", "failed", "estimated", "input", "cached", "cache_write", "output", "cost_cents")
INTO = (
    f"INSERT INTO model_use (hour, model, agent, {', '.join(COLUMNS)}) VALUES ({', '.join('?' * 11)})"
    " ON CONFLICT (hour, model, agent) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in COLUMNS)
)


@dataclass(slots=True)
class Sums:
    """Holds sums of calls; `estimated` are those whose provider has not told the usage."""

    calls: int = 0
    failed: int = 0
    estimated: int = 0
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    cost_cents: float = 0.0

    @property
    def tokens(self) -> int:
        """Returns the sum of all tokens."""
        return self.input + self.cached + self.cache_write + self.output

    def add(self, other: "Sums") -> None:
        """Adds others."""
        self.calls += other.calls  # one by one, as each call does it three times
        self.failed += other.failed
        self.estimated += other.estimated
        self.input += other.input
        self.cached += other.cached
        self.cache_write += other.cache_write
        self.output += other.output
        self.cost_cents += other.cost_cents


class Ledger:
    """Sums the calls of one daemon; belongs to the loop's thread."""

    def __init__(self, store: Store, gathered: Gathered, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._gathered = gathered
        gathered.add(self._taken)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._hours: dict[tuple[int, str, str], Sums] = {}  # those of the last 24 hours
        self._unsaved: dict[tuple[int, str, str], Sums] = {}
        self._minutes: dict[str, Spending] = {}
        self._swept_at = 0.0
        self.totals: dict[tuple[str, str], Sums] = {}
        """Sums since the start of the daemon, by model and agent."""
        self.outcomes = Counter[tuple[str, str]]()
        """Number of calls since the start of the daemon, by model and outcome."""
        self.refused = Counter[tuple[str, str]]()
        """Number of refused calls since the start of the daemon, by model and the limit, or the reason in a word."""

    async def load(self) -> None:
        """Loads the sums of the last 24 hours."""
        since = self._hour() - DAY_H
        rows = await self._store.read(
            f"SELECT hour, model, agent, {', '.join(COLUMNS)} FROM model_use WHERE hour >= ?", (since,)
        )
        for hour, model, agent, *values in rows:
            if isinstance(hour, int) and all(isinstance(each, int | float) for each in values):
                self._hours[hour, str(model), str(agent)] = Sums(*values)  # type: ignore[arg-type]  # checked above

    def add(self, model: str, agent: str, usage: Usage, cost_cents: float, *, outcome: str, is_estimated: bool) -> None:
        """Adds a call."""
        has_failed = outcome not in ("ok", "cancelled")
        sums = Sums(
            calls=1,
            failed=int(has_failed),
            estimated=int(is_estimated),
            input=usage.input,
            cached=usage.cached,
            cache_write=usage.cache_write,
            output=usage.output,
            cost_cents=cost_cents,
        )
        key = (self._hour(), model, agent)
        self._hours.setdefault(key, Sums()).add(sums)
        self._unsaved.setdefault(key, Sums()).add(sums)
        self.totals.setdefault((model, agent), Sums()).add(sums)
        self.outcomes[model, outcome] += 1
        if usage.tokens:
            self.add_to_minute(model, usage.tokens)
        self._gathered.soon()

    def add_to_minute(self, model: str, tokens: int, age_s: float = 0.0) -> None:
        """Counts tokens of a model, used so many seconds ago, against its limit of a minute."""
        spent = self._minutes.get(model, NO_TOKENS)
        self._minutes[model] = spent.plus(tokens, self._loop.time() - age_s)

    def today(self, model: str) -> Sums:
        """Returns the sums of a model since midnight, UTC."""
        hour = self._hour()
        return self._since(model, hour - hour % DAY_H)

    def agents_today(self, model: str) -> dict[str, Sums]:
        """Returns the sums of a model since midnight, UTC, by agent."""
        hour = self._hour()
        found: dict[str, Sums] = {}
        for (at, name, agent), sums in self._hours.items():
            if name == model and at >= hour - hour % DAY_H:
                found.setdefault(agent, Sums()).add(sums)
        return found

    def last_minute(self, model: str) -> int:
        """Returns the number of tokens of a model within the last minute."""
        return int(self._minutes.get(model, NO_TOKENS).used(self._loop.time()))

    def exceeded(self, model: DeclaredModel) -> tuple[str, float, float, float] | None:
        """Returns the limit of a model that is used up, its value, what is used of it, and the seconds to wait."""
        limit = model.max_tokens_per_minute
        if limit and model.name in self._minutes:
            now, spent = self._loop.time(), self._minutes[model.name]
            if spent.used(now) >= limit:
                return "max_tokens_per_minute", limit, spent.used(now), spent.wait_s(limit, now)
        cents = model.max_cost_cents_per_day
        if cents:
            hour = self._hour()
            used = self._since(model.name, hour - DAY_H + 1).cost_cents
            if used >= cents * (1 - 1e-9):  # sums of floats
                wait_s = (hour + 1) * HOUR_S - self._clock()
                return "max_cost_cents_per_day", cents, round(used, 6), wait_s
        return None

    def forget(self, tenant: str) -> None:
        """Forgets what the agents of a tenant that is removed have used."""
        self._gathered.flush()
        for sums in (self._hours, self._unsaved):
            for key in [key for key in sums if key[2].startswith(f"{tenant}/")]:
                del sums[key]
        for pair in [pair for pair in self.totals if pair[1].startswith(f"{tenant}/")]:
            del self.totals[pair]

    def _taken(self) -> Iterator[Statement]:
        unsaved, self._unsaved = self._unsaved, {}
        for key, sums in unsaved.items():
            yield INTO, (*key, *(getattr(sums, name) for name in COLUMNS))
        now = self._clock()
        if now > self._swept_at + SWEEP_S:
            self._swept_at = now
            oldest = self._hour() - DAY_H
            for key in [key for key in self._hours if key[0] < oldest]:
                del self._hours[key]
            yield "DELETE FROM model_use WHERE hour < ?", (int(now - KEPT_S) // HOUR_S,)

    def _since(self, model: str, hour: int) -> Sums:
        found = Sums()
        for (at, name, _agent), sums in self._hours.items():
            if name == model and at >= hour:
                found.add(sums)
        return found

    def _hour(self) -> int:
        return int(self._clock()) // HOUR_S
