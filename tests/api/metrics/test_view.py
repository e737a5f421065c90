"""What the methods of metrics answer where agents go while they read."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from corral.supervisor.api.metrics.step import Row, Step, Tier
from corral.supervisor.api.metrics.view import MetricsView

pytestmark = pytest.mark.core

NOW_MS = 1_700_000_000_000


def test_an_agent_that_is_removed_while_the_rows_are_read_is_in_no_ranking() -> None:
    there: dict[str, Any] = {name: SimpleNamespace(spec=SimpleNamespace(kind="agent")) for name in ("stays", "goes")}

    async def of_all(tier: Tier, _since_ms: int, _until_ms: int) -> list[Row]:
        del there["goes"]
        return [Row(tier, NOW_MS, name, Step(ok=1, failed=1, span_ms=5_000)) for name in ("stays", "goes")]

    retention = SimpleNamespace(raw=3_600.0, minute=7_200.0, hour=86_400.0)
    metrics = SimpleNamespace(
        retention=retention,
        problem_error_percent=10,
        problem_error_tasks=1,
        problem_average=1.0,
        problem_average_tasks=1,
    )
    agents: Any = SimpleNamespace(agents=there, config=SimpleNamespace(metrics=metrics))  # what a view reads of each
    collector: Any = SimpleNamespace(table=SimpleNamespace(of_all=of_all), last_ms=NOW_MS, interval_s=5.0)
    statistics: Any = SimpleNamespace(health_score=id)
    view = MetricsView(collector, statistics, agents, clock=lambda: NOW_MS / 1000)
    found = asyncio.run(view.top(None, NOW_MS / 1000 - 600, 10))
    assert [each.name for each in found.worst] == ["stays"]
    assert [each.name for each in found.problems] == ["stays"]
