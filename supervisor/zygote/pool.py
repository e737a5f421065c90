"""The zygotes of one daemon: whose workers are forks, and of what; when they are loaded, renewed and ended.

`warmth` decides about each agent; here zygotes are started, asked and ended, and every outcome becomes an event for
it. Whose turn it is to be replaced after a renewal, others find out (`renewal`): here is only told that one is on.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from ...worker.contract.errors import CorralError, SpawnFailed
from ..config.spec import Spec
from ..events.bus import Bus
from ..lifecycle.state_machine import UP, Worker
from ..logs.capture import LogWriter
from ..logs.rotating_file import LogLimits
from ..logs.store import LogStore
from ..process.launch import Host, prepare, prepare_zygote, why_cold
from ..process.launcher_client import Launcher
from ..process.parent import Child, Exit, Launch, Parent
from . import policy
from .client import Loaded, Zygote
from .policy import Phase, Warmth
from .spares import Reserve, substance

CHECK_S = 5.0
"""A zygote that does not say in this time which sources have changed is taken for one that knows of none."""

CLOSE_S = 10.0
"""How long the end of zygotes is waited for; the launcher kills what is left."""

PRELOAD = "its preload has changed"

SUFFIX = ".zygote"
"""What the name of an agent has behind it where its zygote is meant: in its unit, and in its log."""

SHOWN = 3
"""Names of changed files, or of what forbids to fork, in one reason."""

NAME_CHARS = 255
"""Of the name of a file, which may be anything, in a reason."""

logger = logging.getLogger(__name__)


class Kept(Protocol):
    """A worker, as far as it is looked at here."""

    @property
    def worker(self) -> Worker:
        """What it is doing."""
        ...


class AgentZygotes(Protocol):
    """An agent with its workers, as far as it is looked at here."""

    @property
    def spec(self) -> Spec:
        """The spec in force."""
        ...

    @property
    def supervisors(self) -> Sequence[Kept]:
        """Its workers."""
        ...


@dataclass(frozen=True, eq=False)
class Order:
    """Workers are to be replaced: those of the zygotes in `old`, and those that began cold before `since`."""

    old: frozenset[Parent]
    since: float
    reason: str


@dataclass(eq=False)
class Nest:
    """One zygote, from the decision to load it until nothing is left of it."""

    spec: Spec
    task: asyncio.Task[None]
    zygote: Zygote | None = None
    loaded: Loaded | None = None
    is_ending: bool = False
    is_retired: bool = False

    @property
    def is_leaving(self) -> bool:
        """Whether it is being ended, or has nothing left to stay for, and something is left of it."""
        has_units = self.zygote is not None and self.zygote.count > 0
        return not self.task.done() and (self.is_ending or (self.is_retired and not has_units))


@dataclass(eq=False)
class Kin:
    """One agent's zygotes: those of which it has forks, the one that is loaded, and what is forked ahead."""

    spec: Spec
    reserve: Reserve
    state: Warmth = field(default_factory=Warmth)
    recipe: Launch | None = None
    nests: dict[int, Nest] = field(default_factory=dict[int, Nest])
    order: Order | None = None
    forking: list[Parent] = field(default_factory=list[Parent])
    """Those that are asked for a worker of which nothing is known yet, once for each."""
    timer: asyncio.TimerHandle | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    log: LogWriter | None = None

    @property
    def current(self) -> Zygote | None:
        """What is forked from."""
        nest = self.nest
        return None if nest is None else nest.zygote

    @property
    def nest(self) -> Nest | None:
        """That of `current`."""
        return None if self.state.current is None else self.nests.get(self.state.current)


class Zygotes:
    """The zygotes of all agents of one daemon."""

    def __init__(
        self,
        launcher: Launcher,
        host: Host,
        bus: Bus,
        logs: LogStore,
        generation: int,
        *,
        on_exit: Callable[[Exit], None],
        on_empty: Callable[[str], None],
    ) -> None:
        self.on_order: Callable[[str], None] = lambda _: None
        """Called with the name of an agent whose workers are to be replaced, one after the other."""
        self._launcher = launcher
        self._host = host
        self._bus = bus
        self._logs = logs
        self._generation = generation
        self._on_exit = on_exit
        self._on_empty = on_empty
        self._kins: dict[str, Kin] = {}
        self._starts = 0
        self._chores: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # -- how a worker starts

    async def prepared(self, spec: Spec, doomed: asyncio.Event) -> None:
        """Returns as soon as it is clear how a worker of this spec starts; at once when `doomed` is set."""
        if not is_warm(spec):
            return
        kin = self._kin(spec)
        self._feed(kin, policy.Wanted())
        kin.reserve.put_off()
        with contextlib.suppress(CorralError):  # the start itself says so
            recipe = await self._recipe(spec)
            if kin.recipe is not None and kin.recipe != recipe:
                kin.spec, kin.recipe = spec, recipe
                self._feed(kin, policy.Remade())
        if kin.state.phase is not Phase.LOADING:
            return  # as a rule
        stopped = self._loop.create_task(doomed.wait())
        try:
            while kin.state.phase is Phase.LOADING and not doomed.is_set():
                kin.changed.clear()
                change = self._loop.create_task(kin.changed.wait())
                await asyncio.wait({change, stopped}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
        finally:
            stopped.cancel()

    async def spawn(
        self, spec: Spec, launch: Launch, *, pipe_stdin: bool
    ) -> tuple[Parent, Child, str | None]:
        """Starts a worker: a spare, a fork, or by its program. Its parent, itself, and its temporary folder.

        Raises:
            SpawnFailed, ShuttingDown: as `Launcher.spawn`.
        """
        kin = self._kins.get(spec.name) if is_warm(spec) else None
        self._starts += 1
        try:
            while kin is not None and (zygote := kin.current) is not None:
                kin.reserve.put_off()
                spare = kin.reserve.take(zygote, launch)
                if spare is not None:
                    return zygote, spare.child, spare.temporary
                try:
                    child = await self._fork(kin, zygote, launch, pipe_stdin=pipe_stdin)
                except SpawnFailed:
                    if kin.current is zygote:
                        raise  # else it has died meanwhile, or retired
                else:
                    return zygote, child, zygote.temporary_of(launch)
            child = await self._launcher.spawn(launch, pipe_stdin=pipe_stdin)
            return self._launcher, child, launch.temporary
        finally:
            self._starts -= 1

    async def _fork(self, kin: Kin, zygote: Zygote, launch: Launch, *, pipe_stdin: bool) -> Child:
        kin.forking.append(zygote)
        try:
            return await zygote.spawn(launch, pipe_stdin=pipe_stdin)
        finally:
            kin.forking.remove(zygote)
            if kin.order is not None:  # which may have waited for this alone
                self._loop.call_soon(self.on_order, kin.spec.name)

    def kill(self, name: str, unit: str) -> None:
        """Ends a worker of an agent that is being forked, of which nothing is known yet."""
        kin = self._kins.get(name)
        for nest in () if kin is None else kin.nests.values():
            if nest.zygote is not None:
                nest.zygote.kill(unit)

    # -- what others do and see

    def note(self, agent: AgentZygotes) -> None:
        """Takes note of a change of an agent, or of its workers."""
        spec = agent.spec
        kin = self._kins.get(spec.name)
        if kin is None and not is_warm(spec):
            return
        is_needed = any(each.worker.wanted or each.worker.tree for each in agent.supervisors)
        if kin is None:
            if not is_needed:
                return
            kin = self._kin(spec)
        before, kin.spec = kin.spec, spec
        if not is_needed:
            self._feed(kin, policy.Unwanted())
        elif not is_warm(spec):
            self._feed(kin, policy.OptedOut())
        elif any(each.worker.wanted for each in agent.supervisors):
            self._feed(kin, policy.Wanted())
        if spec is not before:
            self._take_over(kin, before)
        if kin.state.hopes and any(
            _is_up_since(each.worker, kin.state.settled_at) for each in agent.supervisors
        ):
            self._feed(kin, policy.ColdUp())

    def forget(self, name: str) -> None:
        """The agent is no more."""
        kin = self._kins.get(name)
        if kin is not None:
            self._feed(kin, policy.Unwanted())
            self._begin(self._forget(name, kin))

    async def _forget(self, name: str, kin: Kin) -> None:
        await self.until_ended([name])
        if kin.state.phase is Phase.ABSENT and not kin.nests and self._kins.get(name) is kin:
            del self._kins[name]
            await self._release(kin)

    async def _release(self, kin: Kin) -> None:
        await kin.reserve.close()
        if kin.log is not None:
            self._logs.release(kin.log)

    async def check_sources(self, names: Iterable[str], *, dry_run: bool = False) -> list[str]:
        """Those of these agents whose sources have changed; they, and what cannot be forked, are read anew."""
        found = [kin for name in names if (kin := self._kins.get(name)) is not None]
        has_changed = await asyncio.gather(*(self._check(kin, dry_run=dry_run) for kin in found))
        return [kin.spec.name for kin, has in zip(found, has_changed, strict=True) if has]

    async def settled(self, names: Iterable[str]) -> None:
        """Waits until nothing is being read for these agents.

        Raises:
            SpawnFailed: what has changed of one cannot be imported; its workers are as they were.
        """
        for name in names:
            kin = self._kins.get(name)
            if kin is None:
                continue
            while not kin.state.is_settled:  # each step is bounded
                kin.changed.clear()
                await kin.changed.wait()
            if kin.state.current is not None and kin.state.reason:
                raise SpawnFailed(
                    f'cannot restart "{name}": {kin.state.reason}; its workers go on as they are',
                    name=name,
                    result="exec-failed",
                )

    def current(self, name: str) -> Parent | None:
        """The zygote of which an agent's next worker is a fork."""
        kin = self._kins.get(name)
        return None if kin is None else kin.current

    def order(self, name: str) -> Order | None:
        """Which workers of an agent are to be replaced now."""
        kin = self._kins.get(name)
        return None if kin is None else kin.order

    def done(self, order: Order, name: str) -> bool:
        """All that were to be replaced are; False while another one of them is still being forked."""
        kin = self._kins.get(name)
        if kin is None or kin.order is not order:
            return True
        if not order.old.isdisjoint(kin.forking):
            return False
        kin.order = None
        return True

    def exited(self, report: Exit) -> bool:
        """Takes the death of a zygote; False for other units."""
        found = self._zygote_of(report.unit)
        if found is not None:
            found.exited(report)
        return found is not None

    def emptied(self, unit: str) -> bool:
        """Takes the end of a zygote; False for other units."""
        found = self._zygote_of(unit)
        if found is not None:
            found.emptied()
        return found is not None

    def facts(self, name: str) -> dict[str, object] | None:
        """What `status` tells of an agent's zygote; None where there is none, and none is wanted."""
        kin = self._kins.get(name)
        if kin is None or kin.state.phase is Phase.ABSENT:
            return None
        state, words = kin.state, _STATES[kin.state.phase]
        if kin.order is not None and state.current is not None:
            words = "renewing"
        zygote = kin.current
        loaded = None if kin.nest is None else kin.nest.loaded
        facts: dict[str, object] = {
            "state": words,
            "pid": None if zygote is None else zygote.pid,
            "spares": len(kin.reserve),
            "reason": state.reason or None,
        }
        if loaded is not None:
            facts |= {
                "load_s": round(loaded.duration_s, 3),
                "rss_bytes": loaded.rss_bytes,
                "modules": loaded.modules,
            }
        return facts

    async def until_ended(self, names: Collection[str]) -> None:
        """Waits, for a bounded time, until nothing is left of those zygotes of these agents that are ending."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for kin in [self._kins[name] for name in names if name in self._kins]:
                    while tasks := [n.task for n in kin.nests.values() if n.is_leaving]:
                        await asyncio.wait(tasks)

    async def close(self) -> None:
        """Ends all zygotes and spares."""
        for kin in self._kins.values():
            self._feed(kin, policy.Unwanted())
            for number in kin.nests:
                self._end(kin, number)
        await self.until_ended(self._kins)
        for kin in self._kins.values():
            for nest in kin.nests.values():  # the launcher kills what is left
                nest.task.cancel()
            await self._release(kin)
        self._kins.clear()
        for chore in self._chores:
            chore.cancel()

    # -- one agent

    def _kin(self, spec: Spec) -> Kin:
        kin = self._kins.get(spec.name)
        if kin is None:
            is_urgent = lambda: self._starts > 0  # noqa: E731  # said where it is asked for
            reserve = Reserve(spec.name, self._host, self._bus, self._generation, is_urgent)
            kin = self._kins[spec.name] = Kin(spec, reserve)
        return kin

    def _feed(self, kin: Kin, event: policy.Event) -> None:
        before = kin.state
        kin.state, actions = policy.step(before, event, self._loop.time())
        for action in actions:
            self._perform(kin, action)
        if kin.timer is not None:
            kin.timer.cancel()
            kin.timer = None
        if kin.state.due is not None:
            kin.timer = self._loop.call_at(kin.state.due, self._feed, kin, policy.Tick())
        if kin.state == before:
            return
        if kin.state.phase is Phase.ABSENT:
            kin.order = kin.recipe = None
        kin.reserve.aim(kin.current, kin.spec)
        kin.changed.set()

    def _begin(self, chore: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _perform(self, kin: Kin, action: policy.Action) -> None:
        if isinstance(action, policy.Load):
            task = self._loop.create_task(self._load(kin, action.number))
            kin.nests[action.number] = Nest(kin.spec, task)
        elif isinstance(action, policy.Look):
            self._begin(self._look(kin, action.number))
        elif isinstance(action, policy.Retire):
            nest = kin.nests.get(action.number)
            if nest is not None and nest.zygote is not None:
                nest.is_retired = True
                nest.zygote.retire()
        elif isinstance(action, policy.End):
            self._end(kin, action.number)
        elif isinstance(action, policy.Roll):
            earlier = [nest.zygote for n, nest in kin.nests.items() if n < action.number]
            since = self._loop.time()  # of who began cold meanwhile, nobody knows what it has read
            kin.order = Order(frozenset(filter(None, earlier)), since, action.reason)
            self._loop.call_soon(self.on_order, kin.spec.name)
        else:
            self._tell(kin, action)

    def _tell(self, kin: Kin, told: policy.Tell) -> None:
        name = kin.spec.name
        if told.what == "warm":
            assert kin.nest is not None, "it is told when it is loaded"
            facts = kin.nest.loaded
            assert facts is not None, "it is told when it is loaded"
            self._bus.publish(
                "agent.warm",
                agent=name,
                duration_s=round(facts.duration_s, 3),
                rss_bytes=facts.rss_bytes,
            )
        elif told.what == "cold":
            logger.warning("the workers of %s start cold: %s", name, told.reason)
            self._bus.publish("agent.cold", agent=name, reason=told.reason)
        else:
            is_ok = told.what == "renewed"
            if not is_ok:
                logger.warning("%s is not renewed, its workers go on: %s", name, told.reason)
            self._bus.publish("agent.renewal", agent=name, ok=is_ok, reason=told.reason)

    def _take_over(self, kin: Kin, before: Spec) -> None:
        spec = kin.spec
        if kin.log is not None:
            kin.log.configure(LogLimits.of(spec.monitoring))
        if is_warm(spec) and is_warm(before) and spec.preload != before.preload:
            self._feed(kin, policy.Changed(PRELOAD, urgent=True))
        kin.reserve.aim(kin.current, spec)

    async def _check(self, kin: Kin, *, dry_run: bool) -> bool:
        """Somebody wants to be sure that what runs is what is written; whether it is not, as far as that is known."""
        while (zygote := kin.current) is not None:
            paths = await self._changed_sources(kin, zygote)
            if kin.current is not zygote:
                continue  # which may have been asked too early, too
            if paths and not dry_run:
                self._feed(kin, policy.Changed(_words_of_changes(paths), urgent=True))
            return bool(paths)
        if not dry_run:  # what is being loaded may have read what was there before
            self._feed(kin, policy.Changed("somebody has asked for it", urgent=True))
        return False

    async def _look(self, kin: Kin, number: int) -> None:
        """Whether one has read what has changed while it was loaded."""
        nest = kin.nests.get(number)
        if nest is None or nest.zygote is None:
            return
        if nest.spec.preload != kin.spec.preload:
            self._feed(kin, policy.Changed(PRELOAD, urgent=True))
            return
        paths = await self._changed_sources(kin, nest.zygote)
        if kin.state.current == number and paths:
            self._feed(kin, policy.Changed(_words_of_changes(paths)))
        else:
            self._feed(kin, policy.Unchanged(number))

    async def _changed_sources(self, kin: Kin, zygote: Zygote) -> list[str]:
        try:
            async with asyncio.timeout(CHECK_S):
                return await zygote.check()
        except (TimeoutError, CorralError) as error:
            text = "cannot tell whether sources of %s have changed: %s"
            logger.warning(text, kin.spec.name, error)
            return []

    async def _recipe(self, spec: Spec) -> Launch:
        """How a zygote is started, without what a renewal takes up by itself: two that are equal may have the same forks."""
        launch = substance(await prepare(spec, self._host, ""))
        return msgspec.structs.replace(launch, argv=(spec.python or "", spec.entrypoint or ""))

    # -- one zygote

    async def _load(self, kin: Kin, number: int) -> None:
        nest = kin.nests[number]
        limit_s = nest.spec.process.spawn_timeout
        try:
            async with asyncio.timeout(limit_s):
                nest.loaded = await self._start(kin, number, nest)
        except TimeoutError:
            await self._give_up(kin, number, f"its zygote has not loaded within {limit_s:g} s")
        except CorralError as error:
            lacking = bool(error.data.get("retryable"))
            await self._give_up(kin, number, error.message, lacking=lacking)
        except Exception as error:  # a defect of ours: workers wait for this
            logger.exception("cannot load the zygote of %s", nest.spec.name)
            await self._give_up(kin, number, repr(error))
        else:
            nest.task = self._loop.create_task(self._attend(kin, number, nest))
            self._feed(kin, policy.Loaded(number, _words_of_unfit(nest.loaded)))

    async def _start(self, kin: Kin, number: int, nest: Nest) -> Loaded:
        spec = nest.spec
        kin.recipe = await self._recipe(spec)
        unit = f"{spec.name}{SUFFIX}#{self._generation}.{number}"
        launch = await prepare_zygote(spec, self._host, unit, anew=number > 1)
        if kin.log is None:
            limits = LogLimits.of(spec.monitoring)
            kin.log = self._logs.writer(spec.name, spec.name + SUFFIX, limits)
        nest.zygote = Zygote(
            self._launcher,
            launch,
            on_exit=partial(self._exited, kin),
            on_empty=partial(self._emptied, kin),
            on_changed=partial(self._note_changes, kin, number),
            on_lost=partial(self._note_loss, kin, number),
            log=kin.log,
        )
        loaded = await nest.zygote.start()
        if not nest.zygote.is_loaded:
            raise SpawnFailed(f'cannot load "{unit}": it died at once', unit=unit)
        return loaded

    async def _attend(self, kin: Kin, number: int, nest: Nest) -> None:
        """One that retired ends by itself."""
        assert nest.zygote is not None, "it has loaded"
        await nest.zygote.gone.wait()
        await self._remove(kin, number)

    async def _give_up(self, kin: Kin, number: int, reason: str, *, lacking: bool = False) -> None:
        self._feed(kin, policy.Failed(number, reason, lacking))  # nobody waits for its end
        await self._remove(kin, number)

    def _end(self, kin: Kin, number: int) -> None:
        """Ends it, whether it has loaded or not."""
        nest = kin.nests[number]
        if not nest.is_ending:
            nest.is_ending = True
            nest.task.cancel()
            nest.task = self._loop.create_task(self._bury(kin, number, nest.task))

    async def _bury(self, kin: Kin, number: int, task: asyncio.Task[None]) -> None:
        await asyncio.wait({task})
        await self._remove(kin, number)

    async def _remove(self, kin: Kin, number: int) -> None:
        nest = kin.nests.get(number)
        if nest is None:
            return
        try:
            if nest.zygote is not None and nest.zygote.pid:
                await nest.zygote.close()
        except asyncio.CancelledError:
            raise  # `_end` cancels this, and does it once more
        except BaseException:
            del kin.nests[number]
            raise
        del kin.nests[number]

    def _note_changes(self, kin: Kin, number: int, paths: list[str]) -> None:
        if number == kin.state.current or number == kin.state.coming:
            self._feed(kin, policy.Changed(_words_of_changes(paths)))

    def _note_loss(self, kin: Kin, number: int, _: Zygote, reason: str) -> None:
        nest = kin.nests.get(number)
        if nest is not None and nest.loaded is not None:  # else its start says more
            self._feed(kin, policy.Lost(number, reason))

    def _exited(self, kin: Kin, report: Exit) -> None:
        if not kin.reserve.exited(report):
            self._on_exit(report)

    def _emptied(self, kin: Kin, unit: str) -> None:
        if not kin.reserve.emptied(unit):
            self._on_empty(unit)

    def _zygote_of(self, unit: str) -> Zygote | None:
        worker, _, number = unit.partition("#")
        kin = self._kins.get(worker.removesuffix(SUFFIX)) if worker.endswith(SUFFIX) else None
        nest = None if kin is None else kin.nests.get(int(number.partition(".")[2]))
        return None if nest is None else nest.zygote


_STATES = {
    Phase.LOADING: "loading",
    Phase.WARM: "warm",
    Phase.RENEWING: "renewing",
    Phase.RESTING: "cold",
    Phase.COLD: "cold",
}


def is_warm(spec: Spec) -> bool:
    """Whether the workers of a spec are to be forks."""
    return spec.entrypoint is not None and spec.protocol == "corral" and why_cold(spec) is None


def _is_up_since(worker: Worker, since: float) -> bool:
    return worker.state in UP and worker.ready_at is not None and worker.ready_at > since


def _words_of_changes(paths: Sequence[str]) -> str:
    found = {" ".join(os.path.basename(path).split())[:NAME_CHARS] for path in paths}
    names = ", ".join(sorted(found)[:SHOWN])
    more = len(paths) - SHOWN
    return f"{names} and {more} more have changed" if more > 0 else f"changed: {names}"


def _words_of_unfit(loaded: Loaded) -> str:
    """What forbids to fork, "" for nothing."""
    found = [f'{each.kind} "{each.what}" of {each.module}' for each in loaded.unfit]
    more = len(found) - SHOWN
    words = ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"its imports leave what no fork may have: {words}" if found else ""
