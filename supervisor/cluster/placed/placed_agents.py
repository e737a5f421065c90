"""Runs the placed agents that are assigned to this node: claims them under its lease, starts them, and gives them up.

Guarantees that an agent starts only after its claim is stored, and that a replica is passed on only after all of its
processes are gone. A claim is a compare-and-swap: of two nodes that believe in an old assignment one alone gets it.
"""

import asyncio
import logging
from collections.abc import Mapping

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.declared.cluster import Placement, placement_table
from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec.loader import decode_agent
from corral.supervisor.config.spec.spec import Defaults, Spec, rescaled
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.placements import Hold
from corral.worker.contract.errors import Conflict, CorralError, Timeout

from ..engine.interface import Engine
from ..state.state import Assignment, PlacedSpec, ReplicaName, assignment_key, encoded
from ..state.view import ClusterView, Known
from .carried_state import CarriedState
from .fences import Fences
from .placed_tasks import PlacedTasks

REFUSED_MAX = 200
"""Number of refused agents that a node names with each beat; the others stay assigned to it."""

AGAIN_S = 0.5
"""Seconds until what has failed is tried again."""

logger = logging.getLogger(__name__)


class PlacedAgents:
    """Represents the placed agents of this node."""

    def __init__(
        self, node: str, view: ClusterView, fences: Fences, carried: CarriedState, agents: Agents, tasks: PlacedTasks
    ) -> None:
        self._carried = carried
        self._replicas = fences.replicas
        self._has_name = fences.joining.has_name
        self._node = node
        self._tasks = tasks
        self._view = view
        self._agents = agents
        self._placements = fences.placements
        self._bus = agents.shared.bus
        self._lease = 0
        self._claims: dict[ReplicaName, int] = {}
        self._published: dict[str, PlacedSpec] = {}
        self._refused: dict[str, str] = {}
        self._unread: dict[str, int] = {}
        self._wake = asyncio.Event()
        view.subscribe(self._wake.set)

    @property
    def load(self) -> int:
        """Returns the number of replicas that this node has claimed."""
        return len(self._claims)

    @property
    def refuses(self) -> list[str]:
        """Returns the agents that were assigned to this node but whose present table it cannot read: another node has to run them."""
        known = self._view.specs
        self._unread = {
            name: revision
            for name, revision in self._unread.items()
            if name in known and known[name].revision == revision
        }
        return sorted(self._unread)[:REFUSED_MAX]

    def permit(self, token: int) -> None:
        """Starts what is assigned to this node, under a lease."""
        self._lease = token
        self._wake.set()

    def stop(self, _reason: str) -> None:
        """Asks all of them to end now; nothing of them starts from here on."""
        self._lease = 0
        self._claims.clear()
        self._wake.set()

    async def run(self, engine: Engine) -> None:
        """Follows the assignments until it is cancelled."""
        while True:
            self._wake.clear()
            is_done = True
            try:
                is_done = await self._reconcile(engine)
            except CorralError as error:
                logger.warning("cannot follow the assignments of this node: %s", error)
                is_done = False
            try:
                async with asyncio.timeout(None if is_done else AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def release(self, engine: Engine) -> None:
        """Gives up every assignment of this node, whose processes are gone: others may start them at once."""
        for replica, known in list(self._view.assignments.items()):
            if known.value.node == self._node and self._has_name():
                await self._pass_on(engine, replica, "")

    # -- one look

    async def _reconcile(self, engine: Engine) -> bool:
        """Makes this node run what is assigned to it; returns whether nothing is left to do."""
        lease = self._lease
        is_own = self._has_name()  # else they are those of another daemon
        mine = {r: k for r, k in self._view.assignments.items() if is_own and k.value.node == self._node}
        is_done = True
        if lease:
            for replica, known in mine.items():
                if known.value.to is None and self._reads(replica[0]):
                    is_done &= await self._claimed(engine, replica, lease)
                    if self._lease != lease:
                        return True  # woken by the change
        busy = self._busy(mine)
        leaving = [
            replica
            for replica, known in mine.items()
            if (known.value.to is not None or replica[0] not in self._view.specs) and replica not in busy
        ]
        for replica in (*leaving, *(self._claims.keys() - mine.keys())):
            self._claims.pop(replica, None)
        wanted: dict[str, list[int]] = {}
        for (name, number), token in self._claims.items():
            wanted.setdefault(name, []).append(token)
            if token == max(wanted[name]):
                self._replicas[name] = number
        for agent in list(self._agents.agents.values()):
            if agent.spec.placement is not None and self._must_end(agent.name, wanted):
                await self._tasks.end(agent.name)
                await self._agents.membership.take_out([agent])
                self._placements.drop(agent.name)
                self._published.pop(agent.name, None)
        for replica in leaving:
            await self._shrunk(replica[0], wanted)
            known = mine[replica]
            await self._pass_on(engine, replica, known.value.to or "")
        for name, tokens in wanted.items():
            if self._lease == lease:
                await self._started(engine, name, tokens, lease)
        return is_done and not busy

    def _busy(self, mine: Mapping[ReplicaName, Known[Assignment]]) -> set[ReplicaName]:
        """Returns the replicas that are to move when no task runs there, and have one; their workers get no other."""
        moving: dict[str, list[ReplicaName]] = {}
        for replica, known in mine.items():
            is_moving = known.value.gently and known.value.to is not None and replica in self._claims
            if is_moving and replica[0] in self._view.specs:
                moving.setdefault(replica[0], []).append(replica)
        found: set[ReplicaName] = set()
        for name, placed in self._published.items():
            agent = self._agents.agents.get(name)
            supervisors = [] if agent is None else agent.supervisors
            count = len(moving[name]) * workers_of(name, placed) if name in moving else 0
            stay = max(0, len(supervisors) - count)
            for supervisor in supervisors[:stay]:
                if supervisor.is_cordoned(Unschedulable.MOVING):  # it stays after all
                    supervisor.uncordon(Unschedulable.MOVING)
                    supervisor.publish_change()
            for supervisor in supervisors[stay:]:
                supervisor.cordon(Unschedulable.MOVING)
                if supervisor.running:
                    found.update(moving[name])
        return found

    def _reads(self, name: str) -> bool:
        """Returns whether this version can read the table of an agent that is assigned to this node; says so where it cannot."""
        known = self._view.specs.get(name)
        if known is None or self._unread.get(name) == known.revision:
            return False
        if self._published.get(name) == known.value:
            return True
        try:
            decoded_spec(name, known.value)
        except CorralError as error:
            self._unread[name] = known.revision
            self._note_refused(name, error)
            return False
        return True

    def _note_refused(self, name: str, error: CorralError) -> None:
        if self._refused.get(name) != error.message:
            self._refused[name] = error.message
            self._bus.publish("config.refused", agent=name, reason=error.message)
            logger.error("%s", error)

    def _must_end(self, name: str, wanted: Mapping[str, object]) -> bool:
        known, begun = self._view.specs.get(name), self._published.get(name)
        if name not in wanted or known is None or begun is None:
            return True
        return not _is_same_work(begun, known.value)

    async def _claimed(self, engine: Engine, replica: ReplicaName, lease: int) -> bool:
        """Claims a replica under the lease; returns False where that has to be tried again."""
        known = self._view.assignments[replica]
        if replica in self._claims and known.value.lease == lease:
            return True
        claim = Assignment(node=self._node, lease=lease)
        try:
            token = await engine.put(assignment_key(replica), encoded(claim), revision=known.revision)
        except Conflict:
            return await self._read_anew(engine, replica)
        if self._lease == lease:
            self._claims[replica] = token
            self._view.put(replica, claim, token)
        return True

    async def _read_anew(self, engine: Engine, replica: ReplicaName) -> bool:
        """Reads an assignment whose state from the watch is old."""
        entry = await engine.get(assignment_key(replica))
        known = self._view.assignments.get(replica)
        return entry is None or (known is not None and entry.revision == known.revision)

    async def _shrunk(self, name: str, wanted: Mapping[str, list[int]]) -> None:
        """Ends the workers of replicas that leave, where others of the agent stay."""
        agent = self._agents.agents.get(name)
        if agent is not None and name in wanted:
            count = len(wanted[name]) * workers_of(name, self._published[name])
            await self._agents.replicas.scale(name, count, wait=False, reason="it was placed")

    async def _pass_on(self, engine: Engine, replica: ReplicaName, to: str) -> None:
        """Stores that a replica, whose processes are gone, is another node's, or waits for a place; or removes it."""
        known = self._view.assignments.get(replica)
        if known is None or known.value.node != self._node:
            return
        key = assignment_key(replica)
        try:
            if replica[0] not in self._view.specs or known.value.to == "":
                await engine.put(key, None, revision=known.revision)
                self._view.put(replica, None, known.revision)
                return
            passed = Assignment(node=to)
            self._view.put(replica, passed, await engine.put(key, encoded(passed), revision=known.revision))
        except Conflict:
            return  # the watch brings the newer state

    async def _started(self, engine: Engine, name: str, tokens: list[int], lease: int) -> None:
        """Starts the workers of an agent, as many as it has replicas here."""
        known = self._view.specs.get(name)
        if known is None:
            return
        self._placements.put(name, Hold(lease, max(tokens)))
        agent = self._agents.agents.get(name)
        try:
            spec = decoded_spec(name, known.value)
            count = len(tokens) * spec.instances.minimum
            if agent is None:
                numbers = [number for (each, number) in self._claims if each == name]
                ids = [f"{name}-{index}" for index in range(count)]
                await self._carried.take_workers(engine, name, numbers, ids)
                await self._carried.take_values(engine, name)
                if self._lease != lease:
                    return
                spec = rescaled(spec, count)
                self._agents.registry.check_worker_ids([spec])
                agent = self._agents.membership.insert(spec, added=True)
                self._published[name] = known.value
                if spec.autostart:
                    self._agents.startup.start_within_limit(agent.supervisors)
            elif agent.spec.placement is None:
                raise Conflict(f'cannot run "{name}" here: an agent of this daemon has its name')
            else:
                agent.spec = replace(agent.spec, placement=spec.placement)
                self._published[name] = known.value
                if len(agent.supervisors) != count:
                    agent.spec = rescaled(agent.spec, count)
                    await self._agents.replicas.scale(name, count, wait=False, reason="it was placed")
        except Timeout:
            raise  # it is tried again
        except CorralError as error:
            self._note_refused(name, error)
        else:
            self._refused.pop(name, None)
            self._tasks.begin(name, engine)


def decoded_spec(name: str, placed: PlacedSpec) -> Spec:
    """Returns the spec of a placed agent: its table stands alone, whatever the defaults of this node are."""
    return decode_agent(name, placed.table, kind="agent", defaults=Defaults(), source=STORE, directory=placed.directory)


def workers_of(name: str, placed: PlacedSpec) -> int:
    """Returns the number of workers of one replica."""
    return decoded_spec(name, placed).instances.minimum


def _is_same_work(one: PlacedSpec, other: PlacedSpec) -> bool:
    """Returns whether the workers of two tables are the same: they differ in the placement alone, if at all."""
    tables = [{**each.table, "placement": None} for each in (one, other)]
    return tables[0] == tables[1] and one.directory == other.directory


def placement_of(placed: PlacedSpec) -> Placement | None:
    """Returns the placement of a published agent; None where this version cannot read it."""
    try:
        return placement_table(placed.table.get("placement"))
    except Refused:
        return None
