"""The limits of a tenant's tasks with a real store, and the bounded events about refusals."""

import asyncio
from pathlib import Path

import pytest

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.quotas.room import EVENT_S, Refusals
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.worker.contract.errors import Overloaded

pytestmark = pytest.mark.shell

TEXT = "[tenants.acme]\nmax_tasks_per_minute = 60\n[tenants.free]\n"


def test_no_more_tasks_than_those_of_a_minute_pass_in_any_minute(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store.open(tmp_path / "corral.db")
        config = decode(TEXT, source="c.toml", directory="/tmp", variables=Variables({}, {}))
        events: list[Event] = []
        now = 1000.0
        refusals = Refusals(Bus(1, events.append), lambda: now)
        limits = TaskLimits(Tenants(store, InForce(config)), refusals)
        passed: list[float] = []
        looks = 0
        while now < 1300.0:
            try:
                limits.check("acme", "acme/x", 0, now, retry_after_s=lambda: 1.0)
            except Overloaded as error:
                wait_s = error.data["retry_after_s"]
                assert isinstance(wait_s, float)
                later = now + wait_s
                limits.check("acme", "acme/x", 0, later, retry_after_s=lambda: 1.0)
            else:
                limits.note("acme", now)
                passed.append(now)
            limits.check("free", "free/x", 10**6, now, retry_after_s=lambda: 1.0)
            now += 0.1
            looks += 1
        most = max(sum(at <= each < at + 60 for each in passed) for at in passed)
        assert most == 60
        assert len(passed) > 60 * 4
        assert refusals.counts["acme", "max_tasks_per_minute"] + len(passed) == looks
        assert len(events) <= 300 / EVENT_S + 1
        told = sum(int(each.fields["refused"]) for each in events if isinstance(each.fields["refused"], int))  # fmt: skip
        assert 0 < told <= refusals.counts["acme", "max_tasks_per_minute"]
        limits.forget("acme")
        assert not refusals.counts
        assert limits.submitted("acme", now) == 0
        await store.close()

    asyncio.run(test())
