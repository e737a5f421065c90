"""The tenants of a daemon, with a real store."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.registry.tenants import Kept, Tenants
from corral.worker.contract.errors import NotFound


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **given: Any) -> None:  # Any: the fixtures of the test
        async def whole() -> None:
            await test(*args, **given)

        asyncio.run(whole())

    return run


def config(text: str) -> Config:
    return decode(text, source="c.toml", directory="/tmp", variables=Variables({}, {}))


FILE = config('[tiers.free]\nmax_agents = 5\n[tenants.acme]\ntier = "free"\nmax_processes = 9\n')


@in_loop
async def test_what_was_kept_is_found_by_the_next_daemon(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "corral.db")
    first = Tenants(store, InForce(FILE))
    changed: list[str] = []
    first.subscribe(changed.append)
    await first.keep("new", Kept(added=True, table={"tier": "free"}, uid=1_900_000_001))
    await first.keep("acme", Kept(table={"max_processes": 3}, suspended=True))
    await first.keep("gone", Kept(added=True))
    await first.forget("gone")
    assert changed == ["new", "acme", "gone", "gone"]
    await store.close()

    store = Store.open(tmp_path / "corral.db")
    second = Tenants(store, InForce(FILE))
    await second.load()
    assert sorted(second.all()) == ["acme", "new"]
    acme, new = second.of("acme"), second.of("new")
    assert (acme.max_agents, acme.max_processes, acme.source) == (5, 3, "c.toml")
    assert (new.max_agents, new.source) == (5, STORE)
    assert second.kept("new").uid == 1_900_000_001
    assert [second.is_suspended(name) for name in ("acme", "new", "", "nobody")] == [True, False, False, True]
    await store.close()


@in_loop
async def test_the_limits_follow_the_file_and_keys_set_at_run_time_win(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "corral.db")
    in_force = InForce(FILE)
    tenants = Tenants(store, in_force)
    await tenants.keep("acme", Kept(table={"max_processes": 3}))
    in_force.adopt(config("[tenants.acme]\nmax_processes = 7\nmax_agents = 2\n[tenants.b]\n"))
    found = tenants.of("acme")
    assert (found.max_processes, found.max_agents) == (3, 2)
    await tenants.forget("acme")
    assert tenants.of("acme").max_processes == 7
    in_force.adopt(config(""))
    with pytest.raises(NotFound, match='cannot find tenant "acme"'):
        tenants.of("acme")
    await store.close()


@in_loop
async def test_a_tenant_whose_tier_is_gone_keeps_no_limit_of_it_and_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(tmp_path / "corral.db")
    in_force = InForce(FILE)
    tenants = Tenants(store, in_force)
    await tenants.keep("new", Kept(added=True, table={"tier": "free"}))
    in_force.adopt(config(""))
    assert tenants.of("new").max_agents == 0
    assert "no tier has this name" in caplog.text
    await store.close()


@in_loop
async def test_a_tenant_with_a_damaged_record_is_suspended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store.open(tmp_path / "corral.db")
    await store.write(("INSERT INTO tenant (name, record) VALUES ('acme', ?)", (b"{",)))
    tenants = Tenants(store, InForce(FILE))
    await tenants.load()
    assert tenants.is_suspended("acme")
    assert "its record is damaged" in caplog.text
    await store.close()
