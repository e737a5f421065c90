"""What the agents may use in a minute and in a day: counted as they report it, and held to before a task is given out.

An agent that has used up `max_tokens_per_minute` or `max_cost_cents_per_day` takes no task until enough of it
is past; what runs goes on. Costs are kept in the store, so that a day outlives the daemon: of a daemon that was
killed the last tenth of a second may be missing.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from ..config.spec import Spec
from ..events.bus import Bus
from ..process.limits import Excess
from ..store.store import Store
from .boundaries import DAY_S, NO_COST, NO_TOKENS, Spending

FLUSH_S = 0.1
"""So long costs are gathered before they are written down."""

LOOK_S = 60.0
"""An agent that is held is looked at again this often at least: limits change, and so does the clock on the wall."""

SWEEP_S = 3_600.0
"""What counts no more is forgotten this often."""

Key = Literal["max_tokens_per_minute", "max_cost_cents_per_day"]


class Budgets:
    """The budgets of all agents.

    Args:
        store: keeps the costs.
        bus: is told of a budget that is used up.
        spec_of: the spec of an agent as it is now, None where there is none of the name.
        clock: seconds of the Unix epoch.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        spec_of: Callable[[str], Spec | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_free: Callable[[str], None] = _nobody
        """Called with the name of an agent that may take tasks again."""
        self._store = store
        self._bus = bus
        self._spec = spec_of
        self._clock = clock
        self._tokens: dict[str, Spending] = {}
        self._costs: dict[str, Spending] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unsaved: dict[str, float] = {}  # by agent: from which entry on
        self._flush: asyncio.TimerHandle | None = None
        self._swept_at = 0.0
        self._loop = asyncio.get_running_loop()

    async def load(self) -> None:
        """Takes up what agents have cost within the last day, also under earlier daemons.

        Raises:
            Overloaded, Conflict: the store cannot be read.
        """
        self._forget_old(self._clock())
        since = self._clock() - DAY_S - NO_COST.step_s
        rows = await self._store.read(
            "SELECT agent, at, cost_cents FROM spending WHERE at >= ? ORDER BY agent, at", (since,)
        )
        entries: dict[str, list[tuple[float, float]]] = {}
        for agent, at, cents in rows:
            if isinstance(at, float) and isinstance(cents, float):  # else a byte of it is damaged
                entries.setdefault(str(agent), []).append((at, cents))
        for agent, found in entries.items():
            self._costs[agent] = Spending(NO_COST.window_s, NO_COST.step_s, tuple(found))

    # -- what is used

    def charge(self, agent: str, tokens: int, cost_cents: float) -> None:
        """Counts what an agent has used; `holds` may follow from it."""
        spec = self._spec(agent)
        before = None if spec is None else self._found(spec)
        if tokens and spec is not None and spec.resources.max_tokens_per_minute:
            past = self._tokens.get(agent, NO_TOKENS)
            self._tokens[agent] = past.plus(tokens, self._loop.time())
        if cost_cents:
            self._costs[agent] = self._costs.get(agent, NO_COST).plus(cost_cents, self._clock())
            self._save_soon(agent)
        found = None if spec is None or before is not None else self._found(spec)
        if found is not None:
            self._bus.publish(
                found.event, agent=agent, worker=None, incarnation=None, store=True, **found.facts
            )
            self._await_room(agent)

    def holds(self, agent: str) -> str | None:
        """Why an agent takes no task now; None when it may."""
        spec = self._spec(agent)
        found = None if spec is None else self._found(spec)
        if found is None:
            return None
        if (
            agent not in self._timers
        ):  # held by what an earlier daemon noted, or by a limit that is new
            self._await_room(agent)
        return f"it waits: {found.message}"

    def _found(self, spec: Spec) -> Excess | None:
        """Which limit is reached."""
        tokens, cents = spec.resources.max_tokens_per_minute, spec.tasks.max_cost_cents_per_day
        if tokens and spec.name in self._tokens:
            used = self._tokens[spec.name].used(self._loop.time())
            if used >= tokens:
                return _excess("max_tokens_per_minute", tokens, int(used))
        if cents and spec.name in self._costs:
            used = self._costs[spec.name].used(self._clock())
            if used >= cents * (1 - 1e-9):  # sums of floats
                return _excess("max_cost_cents_per_day", cents, round(used, 6))
        return None

    # -- until it may go on

    def _await_room(self, agent: str) -> None:
        if agent in self._timers:
            return  # one timer, however much is reported
        spec = self._spec(agent)
        assert spec is not None, "only who is there is held"
        wait_s = 0.0
        tokens, cents = spec.resources.max_tokens_per_minute, spec.tasks.max_cost_cents_per_day
        if tokens and agent in self._tokens:
            wait_s = self._tokens[agent].wait_s(tokens, self._loop.time())
        if cents and agent in self._costs:
            wait_s = max(wait_s, self._costs[agent].wait_s(cents, self._clock()))
        self._timers[agent] = self._loop.call_later(min(wait_s, LOOK_S), self._look, agent)

    def _look(self, agent: str) -> None:
        del self._timers[agent]
        spec = self._spec(agent)
        if spec is None:
            self._tokens.pop(agent, None)
        elif self._found(spec) is None:
            self.on_free(agent)
        else:
            self._await_room(agent)

    def look_again(self) -> None:
        """Limits have changed: who was held may be free."""
        for agent in tuple(self._timers):
            self._timers[agent].cancel()
            self._look(agent)

    # -- the store

    def _save_soon(self, agent: str) -> None:
        self._unsaved.setdefault(agent, self._costs[agent].entries[-1][0])
        if self._flush is None:
            self._flush = self._loop.call_later(FLUSH_S, self.save)

    def save(self) -> None:
        """Has the store take what was not written down yet."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        for agent, since in self._unsaved.items():
            for at, cents in self._costs[agent].entries:
                if at < since:
                    continue
                self._store.post(
                    (
                        "INSERT INTO spending (agent, at, cost_cents) VALUES (?, ?, ?)"
                        " ON CONFLICT (agent, at) DO UPDATE SET cost_cents = excluded.cost_cents",
                        (agent, at, cents),
                    )
                )
        self._unsaved.clear()
        self._forget_old(self._clock())

    def _forget_old(self, now: float) -> None:
        if now < self._swept_at + SWEEP_S:
            return
        self._swept_at = now
        self._store.post(("DELETE FROM spending WHERE at < ?", (now - DAY_S - NO_COST.step_s,)))
        for agent, spent in tuple(self._costs.items()):
            if not spent.used(now):
                del self._costs[agent]

    def close(self) -> None:
        """Writes down the last, and ends the waiting."""
        self.save()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def _excess(key: Key, limit: int, used: float) -> Excess:
    return Excess(key, limit, used, f"it has used {used:g} of {key} = {limit}")


def _nobody(_agent: str) -> None:
    """Nobody has asked to be told yet."""
