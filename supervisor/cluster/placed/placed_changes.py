"""Changes placed agents on request of a caller of any node: how many replicas they have in the whole cluster.

The engine keeps the change, so that it outlives every node. It is in force until the agent's own table in a configuration file
changes, as that of a local agent is.
"""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, NotFound, Timeout, Unreachable
from corral.worker.control.params import ScaleParams

from ..engine.interface import Engine
from ..lease.observer import nodes_now
from ..state.state import PlacedSpec, decoded, encoded, spec_key
from ..state.view import ClusterView
from .placed_agents import placement_of, workers_of
from .placement import decide
from .placer import nodes_of

SCALED_S = 60.0
"""Seconds that a call waits until each replica has a node, and those that are too many have ended."""

REASON_S = 2.0
"""Seconds between two looks whether a replica finds no node."""

UP_S = 10.0
"""Seconds that a call waits further for the workers of new replicas."""

LOOK_S = 0.1
"""Seconds between two looks at the workers of all nodes."""

COMING = frozenset(("Initial", "Starting"))
"""States of a worker that comes up."""

Statuses = Callable[[], Awaitable[object]]
"""Returns the status of an agent on each node that runs it, in the shape of `agent.list`."""


class PlacedChanges:
    """Changes the tables of placed agents on the engine."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    async def scale(self, engine: Engine, asked: ScaleParams, statuses: Statuses) -> dict[str, object]:
        """Gives a placed agent another number of replicas; returns its status with the workers of all nodes."""
        revision = await self._store(engine, asked.name, asked.instances)
        if asked.wait:
            await self._until_placed(engine, asked.name, asked.instances, revision)
        return await self._status(asked, statuses)

    async def _store(self, engine: Engine, name: str, replicas: int) -> int:
        """Stores the number of replicas; returns the revision of the agent's table."""
        while True:
            entry = await engine.get(spec_key(name))
            present = None if entry is None else decoded(entry.value, PlacedSpec)
            if entry is None or present is None:
                raise NotFound(f'cannot find a placed agent "{name}"', name=name, known=[])
            placement = codec.as_object(present.table.get("placement")) or {}
            table = {**present.table, "placement": {**placement, "replicas": replicas}}
            wanted = replace(present, table=table, base=present.of_file)
            if placement_of(wanted) == placement_of(present):
                return entry.revision
            try:
                return await engine.put(entry.key, encoded(wanted), revision=entry.revision)
            except Conflict:
                continue  # it is changed as another caller, or a reload, has left it

    async def _until_placed(self, engine: Engine, name: str, replicas: int, revision: int) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + SCALED_S

        def is_over() -> bool:
            return name not in self._view.specs or self._is_placed(name, replicas, revision)

        while not self._is_placed(name, replicas, revision):
            try:
                async with asyncio.timeout(REASON_S):
                    await self._view.until(is_over)
            except TimeoutError:
                reason = await self.why_unplaced(engine, name)
                if not reason and loop.time() < end:
                    continue
                count = len(self._view.placed(name))
                reason = reason or "it takes long"
                raise Timeout(
                    f'cannot wait until "{name}" has {replicas} replicas, which is kept: {count} have a node; {reason}',
                    name=name,
                    wanted=replicas,
                    placed=count,
                    reason=reason,
                    uncertain=False,
                ) from None

    def _is_placed(self, name: str, replicas: int, revision: int) -> bool:
        """Returns whether exactly the wanted replicas have nodes, which have claimed them."""
        known = self._view.specs.get(name)
        if known is None:
            raise NotFound(f'cannot find a placed agent "{name}": it was removed', name=name)
        if known.revision < revision:
            return False  # of the time before the change
        if known.revision > revision and (found := placement_of(known.value)) is not None:
            replicas = found.replicas  # another one has changed it since
        claims = {
            number: each.value.lease > 0 and each.value.to is None
            for (agent, number), each in self._view.assignments.items()
            if agent == name
        }
        return sorted(claims) == [*range(replicas)] and all(claims.values())

    async def why_unplaced(self, engine: Engine, name: str) -> str:
        """Returns why a replica finds no node now, "" where all do."""
        known = self._view.specs.get(name)
        placement = None if known is None else placement_of(known.value)
        if placement is None:
            return ""
        try:
            records = {each.name: each for each in await nodes_now(engine, REASON_S)}
        except TimeoutError:
            return ""
        held = {number: node for number, node in self._view.placed(name).items() if node}
        refusal = decide(name, placement, nodes_of(self._view, records), held)[1]
        return "" if refusal is None else refusal.reason

    async def _status(self, asked: ScaleParams, statuses: Statuses) -> dict[str, object]:
        end = asyncio.get_running_loop().time() + (UP_S if asked.wait else 0)
        while True:
            joined = _joined(asked.name, await _listed(statuses))
            count = len(codec.as_array(joined["workers"]) or [])
            is_whole = count == self._workers(asked)
            is_up = is_whole and (joined["state"] not in COMING or not count)
            if is_up or asyncio.get_running_loop().time() >= end:
                return joined
            await asyncio.sleep(LOOK_S)

    def _workers(self, asked: ScaleParams) -> int:
        """Returns the number of workers that an agent is to have on all nodes."""
        known = self._view.specs.get(asked.name)
        return 0 if known is None else asked.instances * workers_of(asked.name, known.value)


async def _listed(statuses: Statuses) -> list[dict[str, object]]:
    """Returns the status of an agent on each node that runs it; of none where one has not begun with it, or does not answer."""
    try:
        found = codec.as_object(await statuses()) or {}
    except (NotFound, Timeout, Unreachable):
        return []
    agents = map(codec.as_object, codec.as_array(found.get("agents")) or [])
    return [each for each in agents if each is not None]


def _joined(name: str, found: list[dict[str, object]]) -> dict[str, object]:
    """Returns the status of an agent on several nodes as one: the state that is the least advanced, and the workers of all."""
    if not found:
        base = {"name": name, "kind": "agent", "state": "Initial", "wanted": True}
        return {**base, "degraded": False, "protocol": "corral", "workers": []}
    first = next((each for each in found if each["state"] in COMING), found[0])
    workers = [
        {**worker, "node": each.get("node")}
        for each in found
        for worker in map(codec.as_object, codec.as_array(each.get("workers")) or [])
        if worker is not None
    ]
    return {**first, "workers": workers}
