"""Manages the zygotes of one daemon: starts, checks, renews and ends them, and forks workers from them.

`policy` decides for each agent; its actions are performed here, and every outcome becomes an event for
it. The replacement of workers after a renewal is done by `rolling_restart`: here it is only requested.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.logs.capture import LogWriter
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
from corral.worker.contract.errors import CorralError, SpawnFailed

from ..lifecycle.state_machine import UP, Worker
from ..process.launch import Host, prepare, prepare_zygote, why_cold
from ..process.launcher_client import Launcher
from ..process.parent import Child, Launch, Parent, UnitOwner
from . import policy
from .agent_record import AgentRecord, Order, ZygoteSlot, words_of_changes, words_of_unfit
from .client import Loaded, Zygote
from .handover import PoolHandover, ZygoteHandover
from .policy import Phase
from .preloads import Preloads
from .spares import Reserve, recipe_of

CHECK_S = 5.0
"""Seconds after which a zygote without an answer counts as one without changed sources."""

REMADE_MAX = 2
"""Number of loads that one start may cause: two starts of different specs do not cause them for ever."""

CLOSE_S = 10.0
"""Seconds to wait for the end of zygotes; the launcher kills those that are left."""

PRELOAD = "its preload has changed"

SUFFIX = ".zygote"
"""Suffix of an agent's name that denotes its zygote, in units and logs."""

logger = logging.getLogger(__name__)


class HasWorker(Protocol):
    """Represents a supervisor, as far as the zygotes need it."""

    @property
    def worker(self) -> Worker:
        """Returns the state of the worker."""
        ...


class HasWorkers(Protocol):
    """Represents an agent with its workers, as far as the zygotes need it."""

    @property
    def spec(self) -> Spec:
        """Returns the spec in force."""
        ...

    @property
    def supervisors(self) -> Sequence[HasWorker]:
        """Returns the supervisors of its workers."""
        ...

    @property
    def lives(self) -> Sequence[HasWorker]:
        """Returns all that may have processes: its workers, and those beside them."""
        ...


class ZygotePool:
    """Manages the zygotes of all agents of one daemon."""

    def __init__(self, launcher: Launcher, host: Host, bus: Bus, logs: LogStore, generation: int) -> None:
        self._on_order: list[Callable[[str], None]] = []
        self._launcher = launcher
        self._host = host
        self._bus = bus
        self._logs = logs
        self._generation = generation
        self._preloads = Preloads(launcher, host, logs, generation, on_changed=self._note_shared_changes)
        self._records: dict[str, AgentRecord] = {}
        self._taken_up: dict[str, AgentRecord] = {}
        self._left: dict[str, tuple[Zygote, ZygoteHandover]] = {}
        self._starts = 0
        self._chores: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def subscribe(self, on_order: Callable[[str], None]) -> None:
        """Subscribes `on_order` to the names of agents whose workers have to be replaced, one after the other."""
        self._on_order.append(on_order)

    def _publish_order(self, name: str) -> None:
        for notify in self._on_order:
            notify(name)

    # -- from one program of the daemon to the next

    @property
    def _zygotes(self) -> list[Zygote]:
        slots = (slot for record in self._records.values() for slot in record.slots.values())
        return [*(slot.zygote for slot in slots if slot.zygote is not None), *self._preloads.zygotes]

    @property
    def units(self) -> frozenset[str]:
        """Returns the units of all zygotes."""
        return frozenset(zygote.unit for zygote in self._zygotes)

    def obstacles(self) -> list[str]:
        """Returns what no other program can go on with, each in words."""
        each_in_words = [each.obstacle for each in self._zygotes] + [each.obstacle for each in self._records.values()]
        is_busy = self._chores or self._preloads.is_busy
        return [*filter(None, each_in_words), *(["zygotes are being loaded or checked"] if is_busy else [])]

    def hand_over(self) -> PoolHandover:
        """Returns what the next program goes on from; without obstacles."""
        agents = {name: record.hand_over() for name, record in self._records.items()}
        return PoolHandover(agents, self._preloads.hand_over())

    def hold(self) -> None:
        """Reads and forks nothing more: the next program goes on from there."""
        for zygote in self._zygotes:
            zygote.hold()

    def take_up(self, left: PoolHandover, spec_of: Callable[[str], Spec | None]) -> dict[str, UnitOwner]:
        """Takes what the program before has left; returns the owners of the units of zygotes and spares.

        `resume` follows when the workers were taken up; nobody is told of a zygote before, as its agent has no worker yet.
        """
        self._left = {each.unit: (zygote, each) for zygote, each in self._preloads.take_up(left.shared, spec_of)}
        owners: dict[str, UnitOwner] = {unit: zygote for unit, (zygote, _) in self._left.items()}
        for name, each in left.agents.items():
            if (spec := spec_of(name)) is None:
                continue  # its processes have no owner, and are killed
            self._taken_up[name] = record = self._make_record(spec)
            record.state, record.recipe = each.state, each.recipe
            if each.log is not None:
                self._log_of(record).take_up(each.log)
            for number, zygote in each.zygotes.items():
                owners[zygote.unit] = self._take_up_zygote(record, number, zygote)
            if record.current is not None:
                record.reserve.take_up(each.spares, record.current, spec)
                owners |= dict.fromkeys(record.reserve.units, record.reserve)
        return owners

    def _take_up_zygote(self, record: AgentRecord, number: int, left: ZygoteHandover) -> Zygote:
        parent = self._left[left.parent][0] if left.parent else self._launcher
        zygote = self._zygote(record, number, parent, left.launch)
        task = self._loop.create_task(self._attend(record, number, zygote))
        slot = ZygoteSlot(record.spec, task, zygote, left.loaded, left.unit, is_retired=left.is_retired)
        record.slots[number] = slot
        zygote.take_up(left)
        self._left[left.unit] = zygote, left
        return zygote

    def resume(self, owners: Mapping[str, UnitOwner]) -> None:
        """Reads and forks again, with the owners of all units."""
        for zygote, left in self._left.values():
            zygote.resume(left, owners)
        self._records |= self._taken_up
        self._left, self._taken_up = {}, {}
        for record in self._records.values():
            self._arm(record)
            record.reserve.set_goal(record.current, record.spec)

    def parent(self, unit: str) -> Parent:
        """Returns a zygote that was taken up, by its unit; the launcher for ""."""
        return self._left[unit][0] if unit else self._launcher

    # -- how a worker starts

    async def prepared(self, spec: Spec, doomed: asyncio.Event) -> None:
        """Returns as soon as it is clear how a worker of this spec starts; at once when `doomed` is set."""
        if not is_warm(spec):
            return
        record = self._record(spec)
        self._feed(record, policy.Wanted())
        record.reserve.delay()
        recipe: str | None = None
        with contextlib.suppress(CorralError):  # the start itself reports it
            recipe = await self._recipe(spec)
        stopped = self._loop.create_task(doomed.wait())
        remade = 0
        try:
            while not doomed.is_set():
                # Also after a load: it may have begun before its recipe was known, for a spec that is no longer wanted.
                is_other = None not in (recipe, record.recipe) and record.recipe != recipe
                if is_other and remade < REMADE_MAX:
                    remade += 1
                    record.spec, record.recipe = spec, recipe
                    self._feed(record, policy.Remade())
                if record.state.phase is not Phase.LOADING:
                    return  # as a rule at once
                record.changed.clear()
                change = self._loop.create_task(record.changed.wait())
                await asyncio.wait({change, stopped}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
        finally:
            stopped.cancel()

    def restore(self, spec: Spec) -> None:
        """Loads what the next worker of a spec is forked from, after another spec of the agent was taken back."""
        if spec.name in self._records:
            self._begin(self.prepared(spec, asyncio.Event()))

    async def spawn(
        self, spec: Spec, launch: Launch, owner: UnitOwner, *, pipe_stdin: bool
    ) -> tuple[Parent, Child, str | None]:
        """Starts a worker as a spare, a fork, or by its program; returns its parent, itself, and its temporary folder."""
        record = self._records.get(spec.name) if is_warm(spec) else None
        self._starts += 1
        try:
            while record is not None and (zygote := record.current) is not None:
                record.reserve.delay()
                spare = record.reserve.take(zygote, launch, owner)
                if spare is not None:
                    return zygote, spare.child, spare.temporary
                try:
                    child = await self._fork(record, zygote, launch, owner, pipe_stdin=pipe_stdin)
                except SpawnFailed:
                    if record.current is zygote:
                        raise  # else it has died meanwhile, or retired
                else:
                    return zygote, child, zygote.temporary_of(launch)
            child = await self._launcher.spawn(launch, owner, pipe_stdin=pipe_stdin)
            return self._launcher, child, launch.temporary
        finally:
            self._starts -= 1

    async def _fork(
        self, record: AgentRecord, zygote: Zygote, launch: Launch, owner: UnitOwner, *, pipe_stdin: bool
    ) -> Child:
        record.forking.append(zygote)
        try:
            return await zygote.spawn(launch, owner, pipe_stdin=pipe_stdin)
        finally:
            record.forking.remove(zygote)
            if record.order is not None:  # which may have waited for this alone
                self._loop.call_soon(self._publish_order, record.spec.name)

    def kill(self, name: str, unit: str) -> None:
        """Ends a worker of an agent that is being forked and not known yet."""
        record = self._records.get(name)
        for slot in () if record is None else record.slots.values():
            if slot.zygote is not None:
                slot.zygote.kill(unit)

    # -- use by other rooms

    def note(self, agent: HasWorkers) -> None:
        """Notes a change of an agent, or of its workers."""
        spec = agent.spec
        record = self._records.get(spec.name)
        if record is None and not is_warm(spec):
            return
        is_needed = any(each.worker.wanted or each.worker.tree for each in agent.lives)
        if record is None:
            if not is_needed:
                return
            record = self._record(spec)
        before, record.spec = record.spec, spec
        if not is_needed:
            self._feed(record, policy.Unwanted())
        elif not is_warm(spec):
            self._feed(record, policy.OptedOut())
        elif any(each.worker.wanted for each in agent.supervisors):
            self._feed(record, policy.Wanted())
        if spec is not before:
            self._take_over(record, before)
        if record.state.hopes and any(_is_up_since(each.worker, record.state.settled_at) for each in agent.supervisors):
            self._feed(record, policy.ColdUp())

    def forget(self, name: str) -> None:
        """Forgets a removed agent."""
        record = self._records.get(name)
        if record is not None:
            self._feed(record, policy.Unwanted())
            self._begin(self._forget(name, record))

    async def _forget(self, name: str, record: AgentRecord) -> None:
        await self.until_ended([name])
        if record.state.phase is Phase.ABSENT and not record.slots and self._records.get(name) is record:
            del self._records[name]
            await self._release(record)

    async def _release(self, record: AgentRecord) -> None:
        await record.reserve.close()
        if record.log is not None:
            self._logs.release(record.log)

    async def check_sources(self, names: Iterable[str], *, dry_run: bool = False) -> list[str]:
        """Returns the agents with changed sources; they, and those that cannot be forked, are loaded again."""
        found = [record for name in names if (record := self._records.get(name)) is not None]
        has_changed = await asyncio.gather(*(self._check(record, dry_run=dry_run) for record in found))
        return [record.spec.name for record, has in zip(found, has_changed, strict=True) if has]

    async def settled(self, names: Iterable[str]) -> None:
        """Waits until no load is under way for these agents."""
        for name in names:
            record = self._records.get(name)
            if record is None:
                continue
            while not record.state.is_settled:  # each step is bounded
                record.changed.clear()
                await record.changed.wait()
            if record.state.current is not None and record.state.reason:
                raise SpawnFailed(
                    f'cannot restart "{name}": {record.state.reason}; its workers go on as they are',
                    name=name,
                    result="exec-failed",
                )

    def current(self, name: str) -> Parent | None:
        """Returns the zygote from which an agent's next worker is forked."""
        record = self._records.get(name)
        return None if record is None else record.current

    def pids(self) -> list[int]:
        """Returns the pids of all zygotes, those that are ending included."""
        slots = [slot for record in self._records.values() for slot in record.slots.values()]
        pids = [slot.zygote.pid for slot in slots if slot.zygote is not None and slot.zygote.pid]
        return pids + self._preloads.pids()

    def order(self, name: str) -> Order | None:
        """Returns the present request to replace workers of an agent."""
        record = self._records.get(name)
        return None if record is None else record.order

    def done(self, order: Order, name: str) -> bool:
        """Ends a request whose workers are replaced; returns False while one of them is still being forked."""
        record = self._records.get(name)
        if record is None or record.order is not order:
            return True
        if not order.old.isdisjoint(record.forking):
            return False
        record.order = None
        return True

    def facts(self, name: str) -> dict[str, object] | None:
        """Returns the facts of an agent's zygote for `status`; None if there is none, and none is wanted."""
        record = self._records.get(name)
        return None if record is None else record.facts()

    async def until_ended(self, names: Collection[str]) -> None:
        """Waits, for a bounded time, until the ending zygotes of these agents are gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for record in [self._records[name] for name in names if name in self._records]:
                    while tasks := [n.task for n in record.slots.values() if n.is_leaving]:
                        await asyncio.wait(tasks)

    async def close(self) -> None:
        """Ends all zygotes and spares."""
        for record in self._records.values():
            self._feed(record, policy.Unwanted())
            for number in record.slots:
                self._end(record, number)
        await self.until_ended(self._records)
        for record in self._records.values():
            for slot in record.slots.values():  # the launcher kills what is left
                slot.task.cancel()
            await self._release(record)
        self._records.clear()
        await self._preloads.close()
        for chore in self._chores:
            chore.cancel()

    # -- one agent

    def _record(self, spec: Spec) -> AgentRecord:
        record = self._records.get(spec.name)
        if record is None:
            record = self._records[spec.name] = self._make_record(spec)
        return record

    def _make_record(self, spec: Spec) -> AgentRecord:
        is_urgent = lambda: self._starts > 0  # noqa: E731  # evaluated at each call
        return AgentRecord(spec, Reserve(spec.name, self._host, self._bus, self._generation, is_urgent))

    def _feed(self, record: AgentRecord, event: policy.Event) -> None:
        before = record.state
        record.state, actions = policy.step(before, event, self._loop.time())
        for action in actions:
            self._perform(record, action)
        self._arm(record)
        if record.state == before:
            return
        if record.state.phase is Phase.ABSENT:
            record.order = record.recipe = None
        record.reserve.set_goal(record.current, record.spec)
        record.changed.set()

    def _arm(self, record: AgentRecord) -> None:
        if record.timer is not None:
            record.timer.cancel()
            record.timer = None
        if record.state.due is not None:
            record.timer = self._loop.call_at(record.state.due, self._feed, record, policy.Tick())

    def _begin(self, chore: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _perform(self, record: AgentRecord, action: policy.Action) -> None:
        if isinstance(action, policy.Load):
            task = self._loop.create_task(self._load(record, action.number))
            record.slots[action.number] = ZygoteSlot(record.spec, task)
        elif isinstance(action, policy.Look):
            self._begin(self._look(record, action.number))
        elif isinstance(action, policy.Retire):
            slot = record.slots.get(action.number)
            if slot is not None and slot.zygote is not None:
                slot.is_retired = True
                slot.zygote.retire()
        elif isinstance(action, policy.End):
            self._end(record, action.number)
        elif isinstance(action, policy.Roll):
            earlier = [slot.zygote for n, slot in record.slots.items() if n < action.number]
            since = self._loop.time()  # workers that began cold meanwhile may have imported either version
            record.order = Order(frozenset(filter(None, earlier)), since, action.reason)
            self._loop.call_soon(self._publish_order, record.spec.name)
        else:
            self._announce(record, action)

    def _announce(self, record: AgentRecord, announced: policy.Announce) -> None:
        name = record.spec.name
        if announced.change == "warm":
            assert record.slot is not None, "it is announced when it is loaded"
            facts = record.slot.loaded
            assert facts is not None, "it is announced when it is loaded"
            self._bus.publish(
                "agent.warm", agent=name, duration_s=round(facts.duration_s, 3), rss_bytes=facts.rss_bytes
            )
        elif announced.change == "cold":
            logger.warning("the workers of %s start cold: %s", name, announced.reason)
            self._bus.publish("agent.cold", agent=name, reason=announced.reason)
        else:
            is_ok = announced.change == "renewed"
            if not is_ok:
                logger.warning("%s is not renewed, its workers go on: %s", name, announced.reason)
            self._bus.publish("agent.renewal", agent=name, ok=is_ok, reason=announced.reason)

    def _take_over(self, record: AgentRecord, before: Spec) -> None:
        spec = record.spec
        if record.log is not None:
            record.log.configure(LogLimits.of(spec.monitoring))
        if is_warm(spec) and is_warm(before) and spec.preload != before.preload:
            self._feed(record, policy.Changed(PRELOAD, urgent=True))
        record.reserve.set_goal(record.current, spec)

    async def _check(self, record: AgentRecord, *, dry_run: bool) -> bool:
        """Checks on request whether the running sources are the present ones; returns True if they are known to differ."""
        while (zygote := record.current) is not None:
            paths = await self._changed_sources(record, zygote)
            if record.current is not zygote:
                continue  # which may have been checked too early, too
            if paths and not dry_run:
                self._feed(record, policy.Changed(words_of_changes(paths), urgent=True))
            return bool(paths)
        if not dry_run:  # the zygote being loaded may have imported the earlier sources
            self._feed(record, policy.Changed("requested", urgent=True))
        return False

    async def _look(self, record: AgentRecord, number: int) -> None:
        """Checks whether a zygote has imported the changes during its load."""
        slot = record.slots.get(number)
        if slot is None or slot.zygote is None:
            return
        if slot.spec.preload != record.spec.preload:
            self._feed(record, policy.Changed(PRELOAD, urgent=True))
            return
        paths = await self._changed_sources(record, slot.zygote)
        if record.state.current == number and paths:
            self._feed(record, policy.Changed(words_of_changes(paths)))
        else:
            self._feed(record, policy.Unchanged(number))

    async def _changed_sources(self, record: AgentRecord, zygote: Zygote) -> list[str]:
        try:
            async with asyncio.timeout(CHECK_S):
                paths = await zygote.check()
                if isinstance(zygote.launcher, Zygote):
                    paths += await zygote.launcher.check()
                return paths
        except (TimeoutError, CorralError) as error:
            logger.warning("cannot check whether sources of %s have changed: %s", record.spec.name, error)
            return []

    async def _recipe(self, spec: Spec) -> str:
        """Returns the recipe of a zygote without the parts that a renewal handles: zygotes with equal ones may fork for each other."""
        launch = await prepare(spec, self._host, "")
        return recipe_of(msgspec.structs.replace(launch, argv=(spec.python or "", spec.entrypoint or "")))

    # -- one zygote

    async def _load(self, record: AgentRecord, number: int) -> None:
        slot = record.slots[number]
        limit_s = slot.spec.process.spawn_timeout
        try:
            async with asyncio.timeout(limit_s):
                slot.loaded = await self._start(record, number, slot)
        except TimeoutError:
            await self._give_up(record, number, f"its zygote has not loaded within {limit_s:g} s")
        except CorralError as error:
            lacking = bool(error.data.get("retryable"))
            await self._give_up(record, number, error.message, lacking=lacking)
        except Exception as error:  # a defect of corral: workers wait for this
            logger.exception("cannot load the zygote of %s", slot.spec.name)
            await self._give_up(record, number, repr(error))
        else:
            assert slot.zygote is not None, "it has loaded"
            slot.task = self._loop.create_task(self._attend(record, number, slot.zygote))
            self._feed(record, policy.Loaded(number, words_of_unfit(slot.loaded)))

    async def _start(self, record: AgentRecord, number: int, slot: ZygoteSlot) -> Loaded:
        spec = slot.spec
        record.recipe = await self._recipe(spec)
        unit = f"{spec.name}{SUFFIX}#{self._generation}.{number}"
        slot.unit = unit
        parent = await self._preloads.parent_of(spec, unit)
        launch = await prepare_zygote(spec, self._host, unit, anew=number > 1)
        slot.zygote = self._zygote(record, number, parent or self._launcher, launch)
        loaded = await slot.zygote.start()
        if not slot.zygote.is_loaded:
            raise SpawnFailed(f'cannot load "{unit}": it died at once', unit=unit)
        return loaded

    def _zygote(self, record: AgentRecord, number: int, parent: Launcher | Zygote, launch: Launch) -> Zygote:
        return Zygote(
            parent,
            launch,
            on_changed=partial(self._note_changes, record, number),
            on_lost=partial(self._note_loss, record, number),
            log=self._log_of(record),
        )

    def _log_of(self, record: AgentRecord) -> LogWriter:
        name = record.spec.name
        record.log = record.log or self._logs.writer(name, name + SUFFIX, LogLimits.of(record.spec.monitoring))
        return record.log

    async def _attend(self, record: AgentRecord, number: int, zygote: Zygote) -> None:
        """Waits for the end of a retired zygote, and removes it."""
        await zygote.gone.wait()
        await self._remove(record, number)

    async def _give_up(self, record: AgentRecord, number: int, reason: str, *, lacking: bool = False) -> None:
        self._feed(record, policy.Failed(number, reason, lacking))  # its end is not waited for
        await self._remove(record, number)

    def _end(self, record: AgentRecord, number: int) -> None:
        """Ends a zygote, loaded or not."""
        slot = record.slots[number]
        if not slot.is_ending:
            slot.is_ending = True
            slot.task.cancel()
            slot.task = self._loop.create_task(self._remove_after(record, number, slot.task))

    async def _remove_after(self, record: AgentRecord, number: int, task: asyncio.Task[None]) -> None:
        await asyncio.wait({task})
        await self._remove(record, number)

    async def _remove(self, record: AgentRecord, number: int) -> None:
        slot = record.slots.get(number)
        if slot is None:
            return
        try:
            if slot.zygote is not None and slot.zygote.pid:
                await slot.zygote.close()
        except asyncio.CancelledError:
            raise  # `_end` cancels this, and does it once more
        except BaseException:
            self._forget_slot(record, number)
            raise
        self._forget_slot(record, number)

    def _forget_slot(self, record: AgentRecord, number: int) -> None:
        self._preloads.release(record.slots.pop(number).unit)

    def _note_changes(self, record: AgentRecord, number: int, paths: list[str]) -> None:
        if number == record.state.current or number == record.state.coming:
            self._feed(record, policy.Changed(words_of_changes(paths)))

    def _note_shared_changes(self, unit: str, paths: list[str]) -> None:
        found = self._slot_of(unit)
        if found is not None:
            record, number = found
            self._note_changes(record, number, paths)

    def _note_loss(self, record: AgentRecord, number: int, _: Zygote, reason: str) -> None:
        slot = record.slots.get(number)
        if slot is not None and slot.loaded is not None:  # else its start reports more
            self._feed(record, policy.Lost(number, reason))

    def _slot_of(self, unit: str) -> tuple[AgentRecord, int] | None:
        """Returns the agent and the number of the slot of a zygote."""
        worker, _, counted = unit.partition("#")
        record = self._records.get(worker.removesuffix(SUFFIX)) if worker.endswith(SUFFIX) else None
        number = int(counted.partition(".")[2]) if record is not None else 0
        return (record, number) if record is not None and number in record.slots else None


def is_warm(spec: Spec) -> bool:
    """Returns True if the workers of a spec start as forks."""
    return spec.entrypoint is not None and spec.protocol == "corral" and why_cold(spec) is None


def _is_up_since(worker: Worker, since: float) -> bool:
    return worker.state in UP and worker.ready_at is not None and worker.ready_at > since
