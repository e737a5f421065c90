"""Shares what placed agents use of their budgets between nodes, so that each holds its replicas to the whole.

Each node writes what it has used itself, a moment after it has; another node knows it a moment later. Within that time
several nodes may begin tasks beyond a budget. Times are those of wall clocks: an
amount with a time that is more than AHEAD_S ahead does not count yet.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from corral.supervisor.tasks.run import cluster
from corral.supervisor.tasks.run.budgets import Budgets
from corral.supervisor.tenants.quotas.spending import DAY_S, NO_COST, NO_TOKENS, Spending
from corral.worker.contract.errors import Conflict, Timeout

from ..engine.interface import Engine
from ..state.state import Spent, encoded, spent_key
from ..state.view import ClusterView

PAUSE_S = 0.2
"""Seconds between two writes."""

AHEAD_S = 60.0
"""Seconds by which the clock of another node may be ahead."""

KEPT_S = int(DAY_S + NO_COST.step_s)
"""Seconds that the engine keeps what a node has used, after its last use."""


class SharedBudgets(cluster.Elsewhere):
    """Knows what all nodes have used."""

    def __init__(self, node: str, view: ClusterView, budgets: Budgets, clock: Callable[[], float] = time.time) -> None:
        self._node = node
        self._view = view
        self._clock = clock
        self._budgets = budgets
        self._changed: set[str] = set()
        self._has_changed = asyncio.Event()

    def tokens(self, agent: str) -> Spending:
        """Returns the tokens of the last minute on other nodes."""
        return self._sum(NO_TOKENS, (each.tokens for each in self._others(agent)))

    def cents(self, agent: str) -> Spending:
        """Returns the cents of the last day on other nodes."""
        return self._sum(NO_COST, (each.cents for each in self._others(agent)))

    def changed(self, agent: str) -> None:
        """Notes that this node has used more of the budgets of an agent."""
        if agent in self._view.specs:
            self._changed.add(agent)
            self._has_changed.set()

    async def run(self, engine: Engine) -> None:
        """Writes what this node has used until it is cancelled."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changed, self._changed = self._changed, set()
            for agent in sorted(changed):
                try:
                    await self._write(engine, agent)
                except (Conflict, Timeout):
                    self.changed(agent)  # again, after the pause
            await asyncio.sleep(PAUSE_S)

    async def _write(self, engine: Engine, agent: str) -> None:
        tokens, cents = self._budgets.spent(agent)
        key = spent_key(agent, self._node)
        entry = await engine.get(key)
        revision = 0 if entry is None else entry.revision
        value = encoded(Spent(tokens=tokens.entries, cents=cents.entries))
        await engine.put(key, value, revision=revision, ttl_s=KEPT_S)

    def _others(self, agent: str) -> Iterable[Spent]:
        known = self._view.spent.get(agent, {})
        return [each.value for node, each in known.items() if node != self._node]

    def _sum(self, none: Spending, parts: Iterable[tuple[tuple[float, float], ...]]) -> Spending:
        latest = self._clock() + AHEAD_S
        found = none
        for entries in parts:
            counted = tuple((at, count) for at, count in entries if at <= latest)
            found = found.with_others(Spending(none.window_s, none.step_s, counted), 0.0)
        return found
