"""Answers questions about the history and the present, from the rows of the store and from what is not complete yet."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.events.bus import rfc3339
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import copied
from corral.worker.control import metrics as shapes

from .collector import RECENT_MS, Collector, Reading, Snapshot
from .histogram import quantile_ms
from .series import POINTS_MAX, Point, Range, by_tenant, chosen_range, points, problems, ranking, ranking_tier, together
from .statistics import Statistics
from .step import DAEMON, PERIOD_MS, Row, Step, Tier, total
from .table import by_subject

HOUR_MS = PERIOD_MS[Tier.HOUR]

ROWS_PER_POINT = 60
"""Number of rows of the store that one point may be made of where its step is the finest that fits."""

SHOWN = (
    "up processes memory_bytes cpu_ms open_files queued running restarts executed ok failed cancelled tool_calls tokens"
    " failed_checks limit_hits hung"
)
"""Figures of a step that a point has as they are."""

LOOKS = 1_000
"""Number of steps before a range that are searched for the last row of a subject."""


class MetricsView:
    """Reads the metrics of one daemon."""

    def __init__(
        self, collector: Collector, statistics: Statistics, agents: Agents, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.collector = collector
        self.statistics = statistics
        self._agents = agents
        self._clock = clock

    def forget(self, tenant: str) -> None:
        """Forgets what is not complete yet of the agents of a tenant that is removed: no row of them follows."""
        self.collector.forget(tenant)

    async def history(
        self,
        name: str | None,
        since: float | None,
        until: float | None,
        step_s: float | None,
        *,
        knows: Callable[[str], bool] | None = None,
    ) -> shapes.MetricsHistory:
        """Returns the points of an agent or server; with None of the daemon, or of the sum of those that the caller `knows`."""
        now_ms = int(self._clock() * 1000)
        until_ms = max(now_ms, self.collector.last_ms) + 1 if until is None else int(until * 1000)
        since_ms = max(0, until_ms - HOUR_MS if since is None else int(since * 1000))
        chosen = self._range(since_ms, until_ms, None if step_s is None else max(1, round(step_s * 1000)), now_ms)
        daemon = await self._rows(chosen, DAEMON)
        subjects = [DAEMON] if name is None else [name]
        if name is None and knows is not None:
            subjects = [each for each in self._agents.agents if knows(each)]
        series = [await self._points(chosen, each, daemon) for each in subjects]
        if name is not None and name not in self._agents.agents and not series[0]:
            raise self._agents.unknown("agent or MCP server", name)
        found = await asyncio.to_thread(lambda: [point_of(each) for each in together(series)])
        return shapes.MetricsHistory(
            agent=name,
            since=rfc3339(chosen.since_ms / 1000),
            until=rfc3339(until_ms / 1000),
            step_s=chosen.step_ms / 1000,
            resolution_s=PERIOD_MS.get(chosen.tier, self._interval_ms) / 1000,
            points=found,
        )

    async def _points(self, chosen: Range, subject: str, daemon: list[tuple[int, Step]]) -> list[Point]:
        if subject == DAEMON:
            return await asyncio.to_thread(points, chosen, subject, daemon, daemon, None)
        own = await self._rows(chosen, subject)
        before = await self.collector.table.last_before(chosen.tier, subject, chosen.since_ms, LOOKS)
        return await asyncio.to_thread(points, chosen, subject, daemon, own, before)

    def _range(self, since_ms: int, until_ms: int, step_ms: int | None, now_ms: int) -> Range:
        return chosen_range(
            since_ms, until_ms, step_ms, now_ms=now_ms, interval_ms=self._interval_ms, retention_ms=self.retention_ms
        )

    @property
    def _interval_ms(self) -> int:
        return max(1, round(self.collector.interval_s * 1000))

    @property
    def retention_ms(self) -> Mapping[Tier, int]:
        """Returns how long the rows of each tier are kept."""
        kept = self._agents.config.metrics.retention
        seconds = {Tier.RAW: kept.raw, Tier.MINUTE: kept.minute, Tier.HOUR: kept.hour}
        return {tier: int(each * 1000) for tier, each in seconds.items()}

    async def expire(self, now: float) -> int:
        """Removes the rows that are older than `[metrics] retention`; returns how many there were."""
        before = {tier: int(now * 1000) - kept for tier, kept in self.retention_ms.items()}
        return await self.collector.table.expire(before)

    async def _rows(self, chosen: Range, subject: str) -> list[tuple[int, Step]]:
        """Returns the rows of a subject within a range, with what is not complete yet."""
        limit = POINTS_MAX * ROWS_PER_POINT
        rows = await self.collector.table.of_subject(chosen.tier, subject, chosen.since_ms, chosen.until_ms, limit)
        if chosen.tier is not Tier.RAW:
            begin_ms, partial = self.collector.roll_up.partial(chosen.tier)
            is_new = not rows or rows[-1][0] < begin_ms
            if subject in partial and is_new and chosen.since_ms <= begin_ms < chosen.until_ms:
                rows.append((begin_ms, partial[subject]))
        return rows

    async def top(self, names: list[str] | None, since: float | None, limit: int) -> shapes.MetricsTop:
        """Ranks agents and servers; with None all that there are."""
        now_ms = max(int(self._clock() * 1000), self.collector.last_ms) + 1
        since_ms = max(0, now_ms - HOUR_MS if since is None else int(since * 1000))
        known = [*self._agents.agents] if names is None else names
        tier = ranking_tier(
            since_ms, now_ms, max(1, len(known)), interval_ms=self._interval_ms, retention_ms=self.retention_ms
        )
        rows = await self.collector.table.of_all(tier, since_ms, now_ms)
        if tier is not Tier.RAW:
            begin_ms, partial = self.collector.roll_up.partial(tier)
            if begin_ms >= since_ms or not rows:
                rows += [Row(tier, begin_ms, *each) for each in partial.items()]
        steps = await asyncio.to_thread(_totals, rows)
        return self._ranked(known, steps, since_ms, now_ms, limit)

    def _ranked(
        self, known: list[str], steps: Mapping[str, Step], since_ms: int, now_ms: int, limit: int
    ) -> shapes.MetricsTop:
        # One may have been removed while the rows were read.
        own = {name: steps[name] for name in known if name in steps and name in self._agents.agents}
        whole = steps.get(DAEMON, Step())
        found = ranking(own, limit)

        def point(name: str) -> shapes.MetricPoint:
            return point_of(Point(since_ms, whole.span_ms, own[name]))

        def ranked(names: list[str]) -> list[shapes.Ranked]:
            return [shapes.Ranked(name=name, total=point(name), **self._described(name)) for name in names]

        reasons = {name: problems(step, self._agents.config.metrics) for name, step in own.items()}
        return shapes.MetricsTop(
            since=rfc3339(since_ms / 1000),
            until=rfc3339(now_ms / 1000),
            best=ranked(found.best),
            worst=ranked(found.worst),
            slowest=ranked(found.slowest),
            expensive=ranked(found.expensive),
            problems=[
                shapes.Problem(name=name, total=point(name), reasons=each, **self._described(name))
                for name, each in reasons.items()
                if each
            ],
            tenants=[
                shapes.TenantMetrics(
                    name=tenant or None,
                    agents=sum(tenant_of(name) == tenant for name in known),
                    total=point_of(Point(since_ms, whole.span_ms, step)),
                )
                for tenant, step in by_tenant(own).items()
            ],
        )

    async def latest(self, names: list[str] | None) -> shapes.MetricsLatest:
        """Returns the figures of the last step; with None of all agents and servers, and of the daemon."""
        if self.collector.is_enabled and not self.collector.steps:
            await self.collector.close()
        snapshot = await self.collector.present()
        if not self.collector.is_enabled or not snapshot.readings:
            return shapes.MetricsLatest(
                enabled=self.collector.is_enabled,
                at=None,
                step_s=self.collector.interval_s,
                daemon=None,
                agents=[],
                mcp_servers=[],
            )
        known = [*self._agents.agents] if names is None else names
        described = {
            name: self._described(name) for name in known if name in snapshot.readings and name in self._agents.agents
        }
        lifetime_ms = int(self.statistics.uptime_s * 1000)
        return await asyncio.to_thread(_latest, snapshot, described, lifetime_ms, with_daemon=names is None)

    # Any: each value has the type of its key in the results.
    def _described(self, name: str) -> dict[str, Any]:
        agent = self._agents.agents[name]
        return {"kind": agent.spec.kind, "health_score": self.statistics.health_score(agent)}


def _latest(
    snapshot: Snapshot, described: Mapping[str, dict[str, Any]], lifetime_ms: int, *, with_daemon: bool
) -> shapes.MetricsLatest:
    """Returns the figures of a snapshot; with a thousand busy agents it takes tens of milliseconds."""
    at_ms, readings = snapshot.at_ms, snapshot.readings
    span_ms = min(RECENT_MS, max(1, lifetime_ms))

    def present(name: str | None, reading: Reading, facts: Mapping[str, Any]) -> shapes.SubjectMetrics:
        return shapes.SubjectMetrics(
            name=name,
            total=point_of(Point(at_ms - lifetime_ms, lifetime_ms, reading.level)),
            last_minute=point_of(Point(at_ms - span_ms, span_ms, reading.last_minute(at_ms))),
            **facts,
        )

    found: dict[str, list[shapes.SubjectMetrics]] = {"agent": [], "mcp": []}
    for name, facts in described.items():
        found[facts["kind"]].append(present(name, readings[name], facts))
    daemon = None
    if with_daemon:
        daemon = present(None, readings[DAEMON], {"kind": "daemon", "health_score": None})
    return shapes.MetricsLatest(
        enabled=True,
        at=rfc3339(at_ms / 1000),
        step_s=snapshot.span_ms / 1000,
        daemon=daemon,
        agents=found["agent"],
        mcp_servers=found["mcp"],
    )


def point_of(point: Point) -> shapes.MetricPoint:
    """Returns a point as methods answer it."""
    step, span_ms = point.step, max(1, point.span_ms)
    p50_ms, p90_ms, p99_ms = (quantile_ms(step.durations, percent) for percent in (50, 90, 99))
    rate, average_ms = step.error_rate, step.average_ms
    return shapes.MetricPoint(
        at=rfc3339(point.at_ms / 1000),
        span_s=round(point.span_ms / 1000, 3),
        **copied(step, SHOWN),
        memory_peak_bytes=max(step.memory_peak_bytes, step.memory_bytes),
        cpu_percent=round(100.0 * step.cpu_ms / span_ms, 2),
        queued_peak=max(step.queued_peak, step.queued),
        executions_per_minute=round(step.executed * 60_000 / span_ms, 3),
        error_rate=None if rate is None else round(rate, 6),
        average_ms=None if average_ms is None else round(average_ms, 3),
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        cost_cents=round(step.cost_cents, 6),
        storage=UNSET if step.storage is None else step.storage,
    )


def _totals(rows: list[Row]) -> dict[str, Step]:
    """Returns the sum of the rows of each subject; takes a while."""
    return {name: total(row.step for row in each) for name, each in by_subject(rows).items()}
