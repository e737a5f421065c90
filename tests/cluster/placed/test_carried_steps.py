"""Steps of placed tasks on a real engine: one writer at a time, whatever the lease says; nothing that was kept is lost, nothing is kept twice."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import engine_or_skip
from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import LocalServers
from corral.supervisor.cluster.placed.carried_steps import FULL_BYTES, CarriedSteps
from corral.supervisor.cluster.placed.fences import Fence, Fences
from corral.supervisor.cluster.placed.joining import Joining
from corral.supervisor.cluster.state.stored_steps import page_key
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.lifecycle.placements import Placements
from corral.worker.contract.errors import Conflict, ResourceLimitExceeded, Timeout
from corral.worker.contract.records import Task, TaskStep
from daemon_process import BOUND_S

pytestmark = [pytest.mark.shell, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

TASK = Task(id="x1", agent="a", objective="o", created_at="2026-01-01T00:00:00.000Z")


@pytest.fixture(params=["nats", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalServers]:
    engine_or_skip(request.param)
    with LocalServers(request.param, 1, tmp_path) as found:
        yield found


def run(servers: LocalServers, test: Callable[[Engine], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            engine = await open_engine(ClusterSettings(engine=servers.kind, url=servers.url))
            try:
                await test(engine)
            finally:
                await engine.close()

    asyncio.run(bounded())


class Held(Fences):
    """Holds the lease of a node until it is lost."""

    is_held = True

    def of(self, agent: str) -> Fence | None:
        return Fence(0, 1) if self.is_held else None


class Node:
    """One daemon of the cluster, and the lateness that it has published."""

    def __init__(self, name: str, engine: Engine) -> None:
        joining = Joining(ClusterSettings(engine="nats", url="nats://127.0.0.1"), name, "")
        joining.engine = engine
        self.fences = Held(joining, Placements())
        bus = Bus(1)
        self.late = bus.subscribe(["task.late"])
        self.steps = CarriedSteps(self.fences, bus)

    async def keep(self, number: int, result: object = None, state: Any = "done", size: int = 0) -> None:
        facts: dict[str, Any] = {
            "number": number,
            "name": f"s{number}",
            "state": state,
            "kind": "step",
            "at": "",
            "duration_s": 0.0,
        }
        await self.steps.keep(TASK, TaskStep(**facts, delivery=1, result=result, size_bytes=size))

    async def results(self) -> list[object]:
        """Returns the results of the steps as this node reads them."""
        whole, rest = await self.steps.read(TASK.id)
        return [each.result for each in (*whole, *rest)]


class Unheard:
    """Passes operations on to an engine whose answers to writes are lost while `is_deaf`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_deaf = False

    async def get(self, key: str) -> Any:
        return await self._engine.get(key)

    async def put(self, key: str, value: bytes | None, *, revision: int, ttl_s: int | None = None) -> int:
        found = await self._engine.put(key, value, revision=revision, ttl_s=ttl_s)
        if self.is_deaf:
            self.is_deaf = False
            raise Timeout("cannot hear the answer", uncertain=True)
        return found


def test_a_later_delivery_reads_what_was_done_and_the_one_before_is_refused_although_it_holds_its_lease(
    servers: LocalServers,
) -> None:
    async def test(engine: Engine) -> None:
        one, two = Node("one", engine), Node("two", engine)
        first = await one.steps.begin(engine, "a", TASK.id, 1)
        for number in (1, 2):
            await one.keep(number, f"one {number}")
        second = await two.steps.begin(engine, "a", TASK.id, 2)
        with pytest.raises(Conflict) as refused:
            await one.keep(3, "late")
        assert refused.value.data["reason"] == "task.late"
        assert (first.is_late, second.is_late) == (True, False)
        (told,) = await one.late.next_batch()
        assert told.fields["task"] == TASK.id
        await two.keep(3, "two 3")
        assert await one.results() == await two.results() == ["one 1", "one 2", "two 3"]
        await Node("three", engine).steps.begin(engine, "a", TASK.id, 4)
        with pytest.raises(Conflict):  # a delivery that comes late itself
            await Node("four", engine).steps.begin(engine, "a", TASK.id, 3)

    run(servers, test)


def test_the_first_delivery_that_counts_anew_finds_the_steps_of_another_and_is_refused(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one, two = Node("one", engine), Node("two", engine)
        await one.steps.begin(engine, "a", TASK.id, 1)
        await one.keep(1, "one")
        found = await two.steps.begin(engine, "a", TASK.id, 1)  # the engine has lost its count
        with pytest.raises(Conflict):
            await two.keep(1, "two")
        assert found.is_late
        assert await two.results() == ["one"]

    run(servers, test)


def test_a_node_without_its_lease_keeps_nothing(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one = Node("one", engine)
        await one.steps.begin(engine, "a", TASK.id, 1)
        one.fences.is_held = False
        with pytest.raises(Conflict):
            await one.keep(1)
        assert await one.results() == []

    run(servers, test)


def test_a_write_whose_answer_is_lost_is_known_again_as_its_own(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        unheard: Any = Unheard(engine)
        one = Node("one", unheard)
        begun = await one.steps.begin(unheard, "a", TASK.id, 1)
        for number in (1, 2):
            unheard.is_deaf = True
            await one.keep(number, number)
        assert await one.results() == [1, 2]
        assert not begun.is_late

    run(servers, test)


def test_steps_side_by_side_fill_pages_and_are_all_there(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one = Node("one", engine)
        begun = await one.steps.begin(engine, "a", TASK.id, 1)
        text = "x" * (FULL_BYTES // 5)
        await asyncio.gather(*[one.keep(number, text) for number in range(1, 41)])
        assert len(begun.revisions) >= 8
        assert await one.results() == [text] * 40
        two = Node("two", engine)
        await two.steps.begin(engine, "a", TASK.id, 2)
        await two.keep(41, "more")
        assert (await two.results())[39:] == [text, "more"]
        await two.steps.expire(engine, TASK.id)
        assert await two.results() == [*[text] * 40, "more"]

    run(servers, test)


def test_a_step_that_is_too_large_for_the_engine_is_refused_alone(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one = Node("one", engine)
        await one.steps.begin(engine, "a", TASK.id, 1)
        with pytest.raises(ResourceLimitExceeded):
            await one.keep(1, "x" * 1_000_000)
        await one.keep(2, "x" * 990_000)
        await one.keep(3, 3)
        whole, _ = await one.steps.read(TASK.id)
        assert [each.number for each in whole] == [2, 3]

    run(servers, test)


def test_the_pages_of_a_task_that_has_ended_end_by_themselves(
    servers: LocalServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.supervisor.cluster.placed.carried_steps.RESULT_S", 1)

    async def test(engine: Engine) -> None:
        one = Node("one", engine)
        await one.steps.begin(engine, "a", TASK.id, 1)
        await one.keep(1, 1)
        await one.steps.expire(engine, TASK.id)
        while await engine.get(page_key(TASK.id, 1)) is not None:
            await asyncio.sleep(0.05)

    run(servers, test)
