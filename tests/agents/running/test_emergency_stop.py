"""An emergency stop and a store that does not answer."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from configurations import in_force
from corral.supervisor.agents.kept.revision_rows import AgentTable
from corral.supervisor.agents.running import emergency_stop
from corral.supervisor.agents.running.emergency_stop import EmergencyStopSwitch
from corral.supervisor.agents.running.operations import Operations
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.agents.running.startup import Startup
from corral.supervisor.records.store import schema
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.worker.contract.errors import Overloaded

pytestmark = pytest.mark.shell

BOUND_S = 60.0


def test_an_emergency_stop_is_in_force_and_answered_while_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", BOUND_S)  # as a disk that hangs
    monkeypatch.setattr(emergency_stop, "STORE_S", 0.05)
    path = tmp_path / "corral.db"

    def publish(*_: object, **__: object) -> None: ...

    async def test() -> None:
        store = Store.open(path)
        bus = SimpleNamespace(publish=publish)
        shared: Any = SimpleNamespace(bus=bus, zygotes=None)  # enough for a stop of no worker
        following = in_force()
        registry = Registry(following)
        switch = EmergencyStopSwitch(AgentTable(store), shared.bus)
        tenants = Tenants(store, following)
        startup = Startup(registry, switch, shared.bus, tenants, TenantRoom(registry, None))
        operations = Operations(shared, registry, startup, switch)
        stopped: list[str] = []
        with closing(sqlite3.connect(path, isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            for number in range(1, 3):
                with pytest.raises(Overloaded):
                    async with asyncio.timeout(BOUND_S / 3):
                        await operations.halt("test", lambda: stopped.append("tasks"))
                assert switch.in_force is not None
                assert len(stopped) == number
            held.execute("ROLLBACK")
        await store.close()

    uvloop.run(test())
