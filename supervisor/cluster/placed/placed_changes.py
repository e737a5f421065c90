"""Adds, scales and removes placed agents on request of a caller of any node, in the whole cluster.

The engine keeps the change, so that it outlives every node. A number of replicas is in force until the agent's own table in a configuration file
changes, as that of a local agent is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.loader import expanded_table, why_not_placed
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, Timeout, Unreachable
from corral.worker.control.params import AddAllParams, AddParams, ScaleParams

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

    def __init__(self, node: str, view: ClusterView, agents: Agents) -> None:
        self._node = node
        self._view = view
        self._agents = agents

    async def add(self, engine: Engine, asked: AddParams, statuses: Statuses) -> dict[str, object]:
        """Adds a placed agent, and returns its status with the workers of all nodes."""
        wanted = self._added(Addition(asked.name, asked.kind, asked.spec, asked.directory or "/"), asked.start)
        revision = await self._put_new(engine, asked.name, wanted)
        placement = placement_of(wanted)
        scaled = ScaleParams(name=asked.name, instances=placement.replicas if placement else 1, wait=asked.wait)
        if scaled.wait:
            await self._until_placed(engine, scaled.name, scaled.instances, revision)
        return await self._status(scaled, statuses)

    async def add_all(
        self, engine: Engine, asked: AddAllParams, statuses: Callable[[str], Statuses]
    ) -> dict[str, object]:
        """Adds placed agents, those that are there by the rule of `present`; returns the answer of `agent.add_all`."""
        found: dict[str, PlacedSpec] = {}
        for each in asked.agents:
            addition = Addition(each.name, each.kind, each.spec, each.directory or "/", each.environment)
            found[each.name] = self._added(addition, asked.start)
        changed: dict[str, list[str]] = {}
        present = {name: self._view.specs[name].value for name in found if name in self._view.specs}
        for name, known in present.items():
            keys = sorted(
                k for k in {**known.table, **found[name].table} if known.table.get(k) != found[name].table.get(k)
            )
            if asked.present == "refuse" or (keys and (asked.present == "keep" or not known.is_added)):
                raise _taken(name)
            if keys:
                changed[name] = keys
        added = [name for name in found if name not in present]
        agents: list[object] = []
        for name in [] if asked.dry_run else [*added, *changed]:
            revision = await self._put_new(engine, name, found[name], may_replace=name in changed)
            placement = placement_of(found[name])
            scaled = ScaleParams(name=name, instances=placement.replicas if placement else 1, wait=asked.wait)
            if scaled.wait:
                await self._until_placed(engine, name, scaled.instances, revision)
            agents.append(await self._status(scaled, statuses(name)))
        unchanged = [name for name in present if name not in changed]
        return {"agents": agents, "failures": {}, "added": added, "changed": changed, "unchanged": unchanged}

    def _added(self, addition: Addition, start: bool) -> PlacedSpec:
        name = addition.name
        spec = self._agents.membership.decoded(addition)
        reason = why_not_placed(spec)
        if reason or spec.placement is None:
            reason = reason or "agents with and without a placement are added one after the other"
            raise InvalidParams(f'cannot add "{name}": {reason}', key="placement", reason=reason)
        local = self._agents.agents.get(name)
        if local is not None and local.spec.placement is None:
            raise _taken(name)
        self._agents.groups.check_free(name, "add")
        table = expanded_table(spec) | ({} if start else {"autostart": False})
        directory = spec.process.working_directory or "/"
        return PlacedSpec(table=table, directory=directory, by=self._node, is_added=True)

    async def _put_new(self, engine: Engine, name: str, wanted: PlacedSpec, *, may_replace: bool = False) -> int:
        """Stores an agent under a name that is free, or that may be replaced; returns its revision, once it is known here."""
        entry = await engine.get(spec_key(name)) if may_replace else None
        try:
            revision = await engine.put(
                spec_key(name), encoded(wanted), revision=0 if entry is None else entry.revision
            )
        except Conflict:
            raise _taken(name) from None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REASON_S):
                await self._view.until(lambda: name in self._view.specs and self._view.specs[name].revision >= revision)
        return revision

    async def remove(self, engine: Engine, names: Sequence[str]) -> dict[str, object]:
        """Removes placed agents that were added on request, all or none; returns their names once none of them runs."""
        for name in names:
            if name in self._view.specs and not self._view.specs[name].value.is_added:
                reason = "the cluster places it: take it out of the configuration file"
                raise Conflict(f'cannot remove "{name}": {reason}', name=name)
        for name in names:
            while (entry := await engine.get(spec_key(name))) is not None:
                with contextlib.suppress(Conflict):  # it was changed, and is to go as it is now
                    await engine.put(entry.key, None, revision=entry.revision)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SCALED_S):
                await self._view.until(
                    lambda: all(
                        name not in self._view.specs and not any(key[0] == name for key in self._view.assignments)
                        for name in names
                    )
                )
        return {"removed": [*names]}

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


def _taken(name: str) -> Conflict:
    return Conflict(f'cannot add "{name}": the name is taken by an agent', name=name)


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
