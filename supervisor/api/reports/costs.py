"""Sums what tasks have used by hour, agent and session, in the store: it stays when records expire and agents are removed.

A task counts in the hour of its end. Sums are written every FLUSH_S, together with what calls of models have used: after a
`kill -9` the tasks of the last second may be missing that have called no model through the gateway.
Sums by session and hour are kept for DETAIL_S, then folded into days of an agent, which are kept for KEPT_S.
"""

import time
from collections.abc import Callable

from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Row, Statement, Store
from corral.worker.contract.records import Task
from corral.worker.control.reports import Cost, CostParams, Costs

HOUR_S = 3600

DAY_H = 24

FLUSH_S = 1.0
"""Seconds that the sum of a task waits for others."""

DETAIL_S = 7 * 86_400.0
"""Seconds for which sums are kept by session and hour."""

KEPT_S = 400 * 86_400.0
"""Seconds for which the sums of days are kept: a year, and what a report about it takes."""

INTO = (
    "INSERT INTO cost (hour, agent, session, tasks, failed, tokens, cost_cents, cpu_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hour, agent, session) DO UPDATE SET"
    " tasks = tasks + excluded.tasks, failed = failed + excluded.failed, tokens = tokens + excluded.tokens,"
    " cost_cents = cost_cents + excluded.cost_cents, cpu_ms = cpu_ms + excluded.cpu_ms"
)

FOLD = (
    "INSERT INTO cost (hour, agent, session, tasks, failed, tokens, cost_cents, cpu_ms)"
    " SELECT hour - hour % 24, agent, '', SUM(tasks), SUM(failed), SUM(tokens), SUM(cost_cents), SUM(cpu_ms)"
    " FROM cost WHERE hour < ? AND (session <> '' OR hour % 24 <> 0) GROUP BY hour / 24, agent"
    " ON CONFLICT (hour, agent, session) DO UPDATE SET"
    " tasks = tasks + excluded.tasks, failed = failed + excluded.failed, tokens = tokens + excluded.tokens,"
    " cost_cents = cost_cents + excluded.cost_cents, cpu_ms = cpu_ms + excluded.cpu_ms"
)

FOLDED = "DELETE FROM cost WHERE hour < ? AND (session <> '' OR hour % 24 <> 0)"

SUMS = "SUM(tasks), SUM(failed), SUM(tokens), SUM(cost_cents), SUM(cpu_ms)"

GROUPS = {
    "agent": ("agent", "''", "NULL"),
    "session": ("agent", "session", "NULL"),
    "tenant": ("CASE instr(agent, '/') WHEN 0 THEN '' ELSE substr(agent, 1, instr(agent, '/') - 1) END", "''", "NULL"),
    "day": ("''", "''", "hour - hour % 24"),
    "hour": ("''", "''", "hour"),
}
"""Columns by which is grouped: agent or tenant, session, and hour."""


class CostSums:
    """Adds the usage of each task that ends; belongs to the loop's thread."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time, gathered: Gathered | None = None) -> None:
        self._store = store
        self._clock = clock
        self._sums: dict[tuple[int, str, str], list[float]] = {}
        self._gathered = gathered or Gathered(store)
        self._gathered.add(self._taken)

    def started(self, task: Task) -> None:
        """Does nothing: a task counts when it has ended."""

    def ended(self, task: Task) -> None:
        """Adds a task that has ended."""
        key = (int(self._clock()) // HOUR_S, task.agent, task.session or "")
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0, 0, 0, 0.0, 0.0]
            self._gathered.soon(FLUSH_S)
        sums[0] += 1
        if task.state != "succeeded" and task.state != "cancelled":
            sums[1] += 1
        if task.kind in ("team", "workflow"):
            return  # the tasks below it have their own usage
        sums[2] += task.tokens_used
        sums[3] += task.cost_cents
        sums[4] += task.cpu_ms or 0.0

    def used(self, agent: str, tokens: int, cost_cents: float) -> None:
        """Adds what an agent has used beside its tasks."""
        key = (int(self._clock()) // HOUR_S, agent, "")
        sums = self._sums.setdefault(key, [0, 0, 0, 0.0, 0.0])
        sums[2] += tokens
        sums[3] += cost_cents
        self._gathered.soon(FLUSH_S)

    def flush(self) -> None:
        """Gives the sums so far to the store."""
        self._gathered.flush()

    def _taken(self) -> list[Statement]:
        sums, self._sums = self._sums, {}
        return [(INTO, (*key, *values)) for key, values in sums.items()]

    async def settle(self) -> None:
        """Writes the sums so far: a reader that comes after finds them, and none is written later."""
        await self._gathered.settle()

    async def forget(self, _tenant: str) -> None:
        """Writes the sums so far, before those of a tenant are erased: none of them is written later."""
        await self.settle()

    async def listed(self, params: CostParams, knows: Callable[[str], bool] | None) -> Costs:
        """Returns the sums that are asked for, the most expensive first, or in order of time; of agents that pass `knows`."""
        await self.settle()
        until = self._clock() + HOUR_S if params.until is None else params.until
        first, last = int(0.0 if params.since is None else params.since) // HOUR_S, int(-(-until // HOUR_S))
        # The day that `since` is in is folded to its first hour, once it is old.
        if first < self._detail_from():
            first -= first % DAY_H
        where, values = ["hour >= ?", "hour < ?"], list[object]([first, last])
        agents = None if params.agent is None else [params.agent]
        if knows is not None:
            rows = await self._store.read("SELECT DISTINCT agent FROM cost")
            agents = [name for name in agents or [str(row[0]) for row in rows] if knows(name)]
        if agents is not None:
            where.append(f"agent IN ({', '.join('?' * len(agents))})")
            values += agents
        name, session, hour = GROUPS[params.by]
        order = "3" if hour != "NULL" else "7 DESC, 6 DESC, 4 DESC, 1, 2"
        clause = " AND ".join(where)
        rows = await self._store.read(
            f"SELECT {name}, {session}, {hour}, {SUMS} FROM cost WHERE {clause}"
            f" GROUP BY 1, 2, 3 ORDER BY {order} LIMIT ?",
            [*values, params.limit],
        )
        total = await self._store.read(f"SELECT '', '', NULL, {SUMS} FROM cost WHERE {clause}", values)
        return Costs(
            by=params.by,
            since=rfc3339(first * HOUR_S) if params.since is not None else None,
            costs=[_cost(row) for row in rows],
            total=_cost(total[0]),
        )

    async def expire(self) -> None:
        """Folds and removes old sums."""
        await self.settle()
        now = self._clock()
        limit = self._detail_from()
        gone = int(now - KEPT_S) // HOUR_S
        await self._store.write((FOLD, (limit,)), (FOLDED, (limit,)), ("DELETE FROM cost WHERE hour < ?", (gone,)))

    def _detail_from(self) -> int:
        hour = int(self._clock() - DETAIL_S) // HOUR_S
        return hour - hour % DAY_H


def _cost(row: Row) -> Cost:
    name, session, hour, tasks, failed, tokens, cost_cents, cpu_ms = row
    return Cost(
        name=str(name) or None,
        session=str(session) or None,
        at=rfc3339(hour * HOUR_S) if isinstance(hour, int) else None,
        tasks=_integer(tasks),
        failed=_integer(failed),
        tokens=_integer(tokens),
        cost_cents=round(_real(cost_cents), 6),
        cpu_ms=round(_real(cpu_ms), 3),
    )


def _integer(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _real(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
