"""The end of a task on the engine: one is kept, and published once, whatever happens to the answer, the lease and the daemon that wrote it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import engine_or_skip
from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import LocalServers
from corral.supervisor.cluster.lease.record import NodeRecord, encoded, key_of
from corral.supervisor.cluster.state.ends import TaskEnds
from corral.supervisor.cluster.state.stored_task import StoredEnd, result_key
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import Timeout
from corral.worker.contract.records import Task
from daemon_process import BOUND_S

pytestmark = [pytest.mark.shell, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

TASK = Task(id="x1", agent="a", objective="o", created_at="2026-01-01T00:00:00.000Z", state="succeeded", output=1)
END = StoredEnd(task=TASK, node="one", token=7)


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


class Daemon:
    """The ends of one daemon, and the tasks whose end it has published."""

    def __init__(self, node: str, incarnation: str) -> None:
        self.told: list[str] = []
        self.record = NodeRecord(name=node, incarnation=incarnation)
        self.ends = TaskEnds(node, incarnation, lambda task: self.told.append(task.id))

    async def join(self, engine: Engine) -> None:
        """Takes the lease of the node from whoever has it."""
        entry = await engine.get(key_of(self.record.name))
        revision = 0 if entry is None else entry.revision
        await engine.put(key_of(self.record.name), encoded(self.record), revision=revision)


class Losing:
    """An engine that does what it is asked for, and whose answers to writes are lost."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.get = engine.get

    async def put(self, key: str, value: bytes | None, **how: Any) -> int:
        await self.engine.put(key, value, **how)
        raise Timeout("cannot store it: no answer", uncertain=True)


def test_an_end_whose_answer_is_lost_is_published_once_also_beyond_the_lease(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one, may = Daemon("one", "i1"), iter([True])
        losing: Any = Losing(engine)
        kept = await one.ends.keep(losing, END, lambda: next(may, False))
        assert (kept and kept.task.output, one.told) == (1, ["x1"])
        assert await one.ends.has_ended(engine, "x1")  # delivered again, since its report was lost
        again = await one.ends.keep(engine, END, lambda: True)
        assert (again and again.token, one.told) == (7, ["x1"])

    run(servers, test)


def test_a_node_without_its_lease_stores_and_publishes_nothing(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one = Daemon("one", "i1")
        assert await one.ends.keep(engine, END, lambda: False) is None
        assert (one.told, await engine.get(result_key("x1"))) == ([], None)

    run(servers, test)


def test_of_two_ends_the_first_counts_and_its_writer_alone_publishes_it(servers: LocalServers) -> None:
    async def test(engine: Engine) -> None:
        one, two = Daemon("one", "i1"), Daemon("two", "i2")
        await one.join(engine)
        kept = await asyncio.gather(*(each.ends.keep(engine, END, lambda: True) for each in (one, two)))
        assert kept[0] == kept[1]
        assert len(one.told + two.told) == 1

    run(servers, test)


def test_the_end_of_a_daemon_that_was_killed_before_it_told_is_published_by_one_of_the_others(
    servers: LocalServers,
) -> None:
    async def test(engine: Engine) -> None:
        gone, two, three = Daemon("one", "i1"), Daemon("two", "i2"), Daemon("three", "i3")
        gone.ends = TaskEnds("one", "i1", lambda _: None)  # killed between the two
        await gone.join(engine)
        await gone.ends.keep(engine, END, lambda: True)
        assert await two.ends.has_ended(engine, "x1")
        assert two.told == []  # its writer has its lease, and tells
        await Daemon("one", "i4").join(engine)  # started again under its name
        await two.join(engine)
        assert await asyncio.gather(*(each.ends.has_ended(engine, "x1") for each in (two, three))) == [True, True]
        assert len(two.told + three.told) == 1
        found = await two.ends.find(engine, "x1")
        assert found is not None
        assert (found.task, found.node) == (TASK, "one")
        assert not await two.ends.has_ended(engine, "x2")

    run(servers, test)
