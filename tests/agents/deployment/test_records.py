"""The records of deployments in a real store."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from corral.supervisor.agents.deployment.records import KEPT_PER_AGENT, Records
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import Conflict, NotFound
from corral.worker.control.deployments import Deployment

pytestmark = pytest.mark.shell


def record(number: int, agent: str = "kit", digest: str = "d") -> Deployment:
    return Deployment(deployment=number, agent=agent, package="kit", version="1", digest=digest, state="rolling")


def test_a_record_its_failure_and_its_lock_are_there_for_the_next_daemon(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store.open(tmp_path / "corral.db")
        records = Records(store, Bus(1))
        number = records.next_number()
        await records.put(record(number), lock="alpha==1")
        await records.fail(number, Conflict("cannot do it", name="kit"))
        await store.close()

        store = Store.open(tmp_path / "corral.db")
        again = Records(store, Bus(1))
        await again.load()
        found = again.of(number)
        assert found.state == "failed"
        assert found.error is not None
        assert (found.error.name, found.error.data) == ("Conflict", {"name": "kit"})
        assert await again.lock_of("d") == "alpha==1"
        assert await again.lock_of("other") == ""
        assert again.next_number() == number + 1
        await store.close()

    asyncio.run(test())


def test_each_step_of_a_deployment_is_one_event(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store.open(tmp_path / "corral.db")
        bus = Bus(1)
        records = Records(store, bus)
        with bus.subscribe(["deployment.*"]) as heard:
            first = await records.put(record(1))
            records.check(first, "needs", "passed")
            records.note(replace(records.of(1), step="resolve"))
            heard.close()
            steps = [(event.fields["state"], event.fields["step"]) async for event in heard]
        assert steps == [("rolling", ""), ("rolling", "resolve")]
        await store.close()

    asyncio.run(test())


def test_the_oldest_records_of_an_agent_go_and_those_of_others_stay(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store.open(tmp_path / "corral.db")
        records = Records(store, Bus(1))
        await records.put(record(1, "other"))
        for number in range(2, KEPT_PER_AGENT + 5):
            await records.put(record(number))
        kept = {each.deployment for each in records.where(lambda _: True)}
        assert kept == {1, *range(5, KEPT_PER_AGENT + 5)}
        again = Records(store, Bus(1))
        await again.load()
        assert {each.deployment for each in again.where(lambda _: True)} == kept
        with pytest.raises(NotFound):
            again.of(2)
        await store.close()

    asyncio.run(test())
