"""Holds agents and tenants to their budgets: the tokens of a minute, the cents of a day.

One that has used up a budget is given no task until enough of it is past; nothing that runs is stopped. Tokens and cents
of an agent of a cluster count on all its nodes together.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.tenants.quotas.spending import DAY_S, NO_COST, NO_TOKENS, Spending
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.workers.usage.limits import Excess
from corral.worker.contract.names import SEPARATOR, tenant_of

from .cluster import Cluster

SAVE_COST = (
    "INSERT INTO spending (agent, at, cost_cents) VALUES (?, ?, ?)"
    " ON CONFLICT (agent, at) DO UPDATE SET cost_cents = excluded.cost_cents"
)

LOOK_S = 60.0
"""Seconds after which a held agent is checked again at the latest: limits change, and so does the wall clock."""

SWEEP_S = 3_600.0
"""Seconds between two removals of cost that counts no more."""

NO_BUDGET = (0, 0)
"""Tokens of a minute and cents of a day that are without limit."""

Key = Literal["max_tokens_per_minute", "max_cost_cents_per_day"]


class Budgets:
    """Limits the tokens of a minute and the cost of a day of each agent, and of all agents of a tenant together.

    An agent that has used up `max_tokens_per_minute` or `max_cost_cents_per_day`, or whose tenant has, is given no task
    until enough of it is past; running tasks go on. Costs are kept in the store, so that a day outlives the daemon. After
    a `kill -9` reports of agents of the last 0.1 s may be missing; measured usage is not, see `models.desk`. The sums of a
    tenant stand under its name with a slash.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        spec_of: Callable[[str], Spec | None],
        tenants: TaskLimits,
        gathered: Gathered,
        cluster: Cluster,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._bus = bus
        self._spec = spec_of
        self._tenants = tenants
        self._cluster = cluster
        self._free_listeners: list[Callable[[str], None]] = []
        self._clock = clock
        self._tokens: dict[str, Spending] = {}
        self._costs: dict[str, Spending] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unsaved: dict[str, float] = {}  # by agent: from which entry on
        self._gathered = gathered
        self._gathered.add(self._taken)
        self._swept_at = 0.0
        self.held = Counter[tuple[str, str]]()
        """Number of times that a budget was used up, by agent and key."""
        self._loop = asyncio.get_running_loop()

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with each agent, or tenant with a slash, that has used up its budget no more."""
        self._free_listeners.append(listener)

    async def load(self) -> None:
        """Loads the costs of the last day, also those under earlier daemons."""
        self._remove_old(self._clock())
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

    def charge(self, agent: str, tokens: int, cost_cents: float) -> None:
        """Counts tokens and cents of an agent; `holds` may give a reason from then on."""
        found = self._charge(agent, tokens, cost_cents)
        if found is not None:
            self.held[agent, found.key] += 1
            self._bus.publish(found.event, agent=agent, worker=None, incarnation=None, store=True, **found.facts)
            self._await_room(agent)
        tenant = tenant_of(agent)
        found = self._charge(tenant_key(tenant), tokens, cost_cents) if tenant else None
        if found is not None:
            self.held[tenant_key(tenant), found.key] += 1
            used = found.used or 0.0
            text = f'the tenant "{tenant}" has used {used:g} of {found.key} = {found.limit}'
            self._tenants.refusals.note(tenant, found.key, found.limit, used, text, agent=agent)
            self._await_room(tenant_key(tenant))

    def restore_tokens(self, agent: str, tokens: int, age_s: float) -> None:
        """Counts tokens that an agent has used so many seconds ago, under an earlier daemon."""
        tenant = tenant_of(agent)
        for name in (agent, *([tenant_key(tenant)] if tenant else [])):
            if self._limits(name) is not None:
                past = self._tokens.get(name, NO_TOKENS)
                self._tokens[name] = past.plus(tokens, self._loop.time() - age_s)

    def _charge(self, name: str, tokens: int, cost_cents: float) -> Excess | None:
        limits = self._limits(name)
        before = None if limits is None else self._excess(name, *limits)
        if tokens and limits is not None:
            past = self._tokens.get(name, NO_TOKENS)
            self._tokens[name] = past.plus(tokens, self._loop.time())
        if cost_cents:
            self._costs[name] = self._costs.get(name, NO_COST).plus(cost_cents, self._clock())
            self._unsaved.setdefault(name, self._costs[name].entries[-1][0])
            self._gathered.soon()
        if limits not in (None, NO_BUDGET):
            self._cluster.elsewhere.changed(name)
        return None if limits is None or before is not None else self._excess(name, *limits)

    def _limits(self, name: str) -> tuple[int, int] | None:
        """Returns the tokens of a minute and the cents of a day of an agent or tenant, 0 for no limit; None if it is gone."""
        if name.endswith(SEPARATOR):
            return self._tenants.budget(name[:-1])
        spec = self._spec(name)
        if spec is None:
            return None
        return spec.resources.max_tokens_per_minute, spec.tasks.max_cost_cents_per_day

    def holds(self, spec: Spec) -> str | None:
        """Returns why an agent of this spec is given no task now; None when it is."""
        name, tenant = spec.name, tenant_of(spec.name)
        own = spec.resources.max_tokens_per_minute, spec.tasks.max_cost_cents_per_day
        found = self._held(name, own) if own != NO_BUDGET else None
        if found is not None:
            return f"it waits: {found.message}"
        limits = self._tenants.budget(tenant) if tenant else NO_BUDGET
        found = self._held(tenant_key(tenant), limits) if limits != NO_BUDGET else None
        return None if found is None else f'it waits: of its tenant "{tenant}", {found.message}'

    def _held(self, name: str, limits: tuple[int, int]) -> Excess | None:
        found = self._excess(name, *limits)
        if found is not None and name not in self._timers:
            self._await_room(name)  # the usage of an earlier daemon, or a new limit
        return found

    def exceeded(self, spec: Spec) -> tuple[dict[str, str], Excess, float] | None:
        """Returns the limit of an agent or its tenant that is used up, after whose it is, and the seconds until it is not."""
        tenant = tenant_of(spec.name)
        own = spec.resources.max_tokens_per_minute, spec.tasks.max_cost_cents_per_day
        found = [({"agent": spec.name}, spec.name, own)]
        if tenant:
            found.append(({"tenant": tenant}, tenant_key(tenant), self._tenants.budget(tenant)))
        for whose, name, limits in found:
            excess = self._held(name, limits) if limits != NO_BUDGET else None
            if excess is not None:
                return whose, excess, self._wait_s(name, *limits)
        return None

    def used(self, agent: str) -> tuple[int, float]:
        """Returns the tokens that an agent, or a tenant with a slash, has used within the last minute, and its cents of the last day."""
        (tokens, now), (cents, today) = self._tokens_of(agent), self._cents_of(agent)
        return int(tokens.used(now)), round(cents.used(today), 6)

    def spent(self, agent: str) -> tuple[Spending, Spending]:
        """Returns the tokens of the last minute and the cents of the last day on this node alone, by the wall clock."""
        tokens = self._tokens.get(agent, NO_TOKENS)
        ahead_s = self._clock() - self._loop.time()
        return tokens.with_others(NO_TOKENS, ahead_s), self._costs.get(agent, NO_COST)

    def _tokens_of(self, name: str) -> tuple[Spending, float]:
        own, now = self._tokens.get(name, NO_TOKENS), self._loop.time()
        others = self._cluster.elsewhere.tokens(name)
        if not others.entries:
            return own, now
        today = self._clock()
        return own.with_others(others, today - now), today

    def _cents_of(self, name: str) -> tuple[Spending, float]:
        own, others = self._costs.get(name, NO_COST), self._cluster.elsewhere.cents(name)
        return own.with_others(others, 0.0) if others.entries else own, self._clock()

    def _excess(self, name: str, tokens: int, cents: int) -> Excess | None:
        if tokens:
            spent, now = self._tokens_of(name)
            if (used := spent.used(now)) >= tokens:
                return _excess("max_tokens_per_minute", tokens, int(used))
        if cents:
            spent, now = self._cents_of(name)
            if (used := spent.used(now)) >= cents * (1 - 1e-9):  # sums of floats
                return _excess("max_cost_cents_per_day", cents, round(used, 6))
        return None

    def _await_room(self, name: str) -> None:
        if name in self._timers:
            return  # one timer, however much is reported
        limits = self._limits(name)
        if limits is None:
            return  # it was removed meanwhile
        wait_s = self._wait_s(name, *limits)
        self._timers[name] = self._loop.call_later(min(wait_s, LOOK_S), self._look, name)

    def _wait_s(self, name: str, tokens: int, cents: int) -> float:
        wait_s = 0.0
        if tokens:
            spent, now = self._tokens_of(name)
            wait_s = spent.wait_s(tokens, now)
        if cents:
            spent, now = self._cents_of(name)
            wait_s = max(wait_s, spent.wait_s(cents, now))
        return wait_s

    def _look(self, name: str) -> None:
        del self._timers[name]
        limits = self._limits(name)
        if limits is None:
            self._tokens.pop(name, None)
        elif self._excess(name, *limits) is None:
            for listener in self._free_listeners:
                listener(name)
        else:
            self._await_room(name)

    def look_again(self) -> None:
        """Checks every held agent at once: limits have changed."""
        for agent in tuple(self._timers):
            self._timers[agent].cancel()
            self._look(agent)

    def reloaded(self, _: Config) -> None:
        """Looks again after the agents, which follow a configuration after the listeners to it."""
        asyncio.get_running_loop().call_soon(self.look_again)

    def save(self) -> None:
        """Writes the costs that are not written yet."""
        self._gathered.flush()

    def _taken(self) -> Iterator[Statement]:
        unsaved, self._unsaved = self._unsaved, {}
        for agent, since in unsaved.items():
            for at, cents in self._costs[agent].entries if agent in self._costs else ():
                if at >= since:
                    yield SAVE_COST, (agent, at, cents)
        if unsaved:
            self._remove_old(self._clock())

    def forget(self, tenant: str) -> None:
        """Forgets what the agents of a tenant that is removed have used: no row of it follows."""
        self.save()
        for sums in (self._tokens, self._costs):
            for name in [each for each in sums if tenant_of(each) == tenant]:
                del sums[name]
        for pair in [pair for pair in self.held if tenant_of(pair[0]) == tenant]:
            del self.held[pair]

    def _remove_old(self, now: float) -> None:
        if now < self._swept_at + SWEEP_S:
            return
        self._swept_at = now
        self._store.post(("DELETE FROM spending WHERE at < ?", (now - DAY_S - NO_COST.step_s,)))
        for agent, spent in tuple(self._costs.items()):
            if not spent.used(now):
                del self._costs[agent]

    def close(self) -> None:
        """Saves the last costs, and cancels the timers."""
        self.save()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def _excess(key: Key, limit: int, used: float) -> Excess:
    return Excess(key, limit, used, f"it has used {used:g} of {key} = {limit}")


def tenant_key(tenant: str) -> str:
    """Returns the name under which the sums of a tenant stand: no agent can have it."""
    return f"{tenant}{SEPARATOR}"
