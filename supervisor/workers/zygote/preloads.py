"""Keeps the processes that have imported what several agents preload: the zygotes of those agents are forks of them.

Agents share one if they are started alike: the same interpreter, `preload`, user, limits, environment, folder and isolation
(agents of tenants have no zygote). It imports `preload` alone and no agent, so that an agent's own import, death and renewal
stay its own. Its death ends the zygotes that were forked from it, and their workers; they start again. An agent that cannot have
one gets a zygote that is loaded by itself: this only saves time and memory.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import msgspec

from corral.supervisor.config.spec.spec import Monitoring, Spec
from corral.supervisor.records.logs.capture import LogHandover, LogWriter
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
from corral.worker.contract.errors import CorralError, SpawnFailed, Timeout

from ..process.launch import Host, prepare_zygote
from ..process.launcher_client import Launcher
from ..process.parent import Launch
from .agent_record import words_of_unfit
from .client import Zygote
from .handover import PreloadHandover, PreloadsHandover, SharedZygoteHandover, ZygoteHandover
from .spares import recipe_of

SUFFIX = ".preload"
"""Suffix of the name of the agent that began it, in units and logs."""

AGAIN_S = 60.0
"""Seconds after which imports that have failed are tried again."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Preload:
    """Tracks the processes for agents that are started alike: the one that forks, and those that are left of earlier sources."""

    recipe: str
    current: Zygote | None = None
    work: asyncio.Task[None] | None = None
    checked_at: float = 0.0
    failed_at: float | None = None
    loads: int = 0
    waiting: int = 0
    """Number of zygotes that are about to be forked."""
    users: dict[str, Zygote] = field(default_factory=dict[str, Zygote])
    """By the unit of an agent's zygote: the process that it is a fork of."""

    def is_forgettable(self, now: float) -> bool:
        """Returns True for a failure that is long past and that nobody waits for."""
        is_past = self.failed_at is not None and now >= self.failed_at + AGAIN_S
        return is_past and not (self.users or self.waiting or self.work)


class Preloads:
    """Loads, checks and ends these processes for one daemon."""

    def __init__(
        self,
        launcher: Launcher,
        host: Host,
        logs: LogStore,
        generation: int,
        *,
        on_changed: Callable[[str, list[str]], None],
    ) -> None:
        self._launcher = launcher
        self._host = host
        self._logs = logs
        self._generation = generation
        self._on_changed = on_changed
        self._preloads: list[Preload] = []
        self._zygotes: dict[str, tuple[Zygote, LogWriter]] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def parent_of(self, spec: Spec, unit: str) -> Zygote | None:
        """Returns the process that an agent's zygote, `unit`, is to be a fork of; None where it is to be loaded by itself.

        Its sources are those of the time of this call. `release` has to be called when the unit is gone.
        """
        if not spec.preload:
            return None
        asked_at = self._loop.time()
        found = self._preload(await self._recipe(spec))
        found.waiting += 1
        try:
            while True:
                zygote = found.current
                if found.work is not None:
                    await asyncio.shield(found.work)
                elif zygote is not None and zygote.is_loaded:
                    if found.checked_at >= asked_at:
                        found.users[unit] = zygote
                        return zygote
                    self._begin(found, self._check(found, zygote))
                elif found.failed_at is not None and self._loop.time() < found.failed_at + AGAIN_S:
                    return None
                else:
                    self._begin(found, self._load(found, spec))
        finally:
            found.waiting -= 1
            self._end_unused(found)

    def release(self, unit: str) -> None:
        """Notes that an agent's zygote has ended; the last one ends the process that it was a fork of."""
        for found in [each for each in self._preloads if unit in each.users]:
            del found.users[unit]
            self._end_unused(found)

    def _end_unused(self, found: Preload) -> None:
        if found.users or found.waiting or found.work is not None or found.failed_at is not None:
            return
        if found in self._preloads:
            self._preloads.remove(found)
        if found.current is not None:
            found.current.retire()

    def pids(self) -> list[int]:
        """Returns the pids of these processes."""
        return [zygote.pid for zygote, _ in self._zygotes.values() if zygote.pid]

    async def close(self) -> None:
        """Ends all of them; those that were forked from them should have ended."""
        self._preloads.clear()
        await asyncio.gather(*(zygote.close() for zygote, _ in [*self._zygotes.values()]))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- from one program of the daemon to the next

    @property
    def zygotes(self) -> list[Zygote]:
        """Returns these processes."""
        return [zygote for zygote, _ in self._zygotes.values()]

    @property
    def is_busy(self) -> bool:
        """Returns whether one is being loaded, checked or chosen."""
        return any(each.work or each.waiting for each in self._preloads)

    def hand_over(self) -> PreloadsHandover:
        """Returns what the next program goes on from."""
        preloads = (
            PreloadHandover(
                recipe=each.recipe,
                current=None if each.current is None else each.current.unit,
                users={unit: zygote.unit for unit, zygote in each.users.items()},
                checked_at=each.checked_at,
                failed_at=each.failed_at,
                loads=each.loads,
            )
            for each in self._preloads
        )
        running = [each for each in self._zygotes.values() if each[0].is_running]
        zygotes = (SharedZygoteHandover(log.agent, zygote.hand_over(), log.hand_over()) for zygote, log in running)
        return PreloadsHandover(tuple(preloads), tuple(zygotes))

    def take_up(
        self, left: PreloadsHandover, spec_of: Callable[[str], Spec | None]
    ) -> list[tuple[Zygote, ZygoteHandover]]:
        """Takes what the program before has left; returns the processes, which are to be resumed."""
        taken = dict[str, Zygote]()
        for each in left.preloads:
            found = Preload(each.recipe, checked_at=each.checked_at, failed_at=each.failed_at, loads=each.loads)
            self._preloads.append(found)
            for shared in left.zygotes:
                if shared.zygote.unit in (each.current, *each.users.values()):
                    spec = spec_of(shared.agent)  # None: it was removed, and others use it
                    monitoring = Monitoring() if spec is None else spec.monitoring
                    made = self._make(found, shared.zygote.launch, shared.agent, monitoring, shared.log)
                    taken[shared.zygote.unit] = made
                    made.take_up(shared.zygote)
            found.current = None if each.current is None else taken.get(each.current)
            found.users = {unit: taken[name] for unit, name in each.users.items() if name in taken}
        return [(taken[each.zygote.unit], each.zygote) for each in left.zygotes if each.zygote.unit in taken]

    def _preload(self, recipe: str) -> Preload:
        found = next((each for each in self._preloads if each.recipe == recipe), None)
        if found is None:
            now = self._loop.time()
            self._preloads = [each for each in self._preloads if not each.is_forgettable(now)]
            found = Preload(recipe)
            self._preloads.append(found)
        return found

    async def _recipe(self, spec: Spec) -> str:
        """Returns the recipe without the parts that belong to one agent: equal ones may be shared."""
        launch = await prepare_zygote(_without_agent(spec), self._host, "")
        env = {key: value for key, value in launch.env.items() if key != "CORRAL_AGENT"}
        return recipe_of(msgspec.structs.replace(launch, env=env))

    def _begin(self, found: Preload, work: Coroutine[None, None, None]) -> None:
        async def run() -> None:
            try:
                await work
            finally:
                found.work = None
                self._end_unused(found)

        found.work = self._task(run())

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _check(self, found: Preload, zygote: Zygote) -> None:
        """Retires a process whose sources have changed."""
        checked_at = self._loop.time()
        try:
            is_old = bool(await zygote.check())
        except Timeout:
            is_old = True
        found.checked_at = checked_at
        if is_old and found.current is zygote:
            found.current = None
            zygote.retire()

    async def _load(self, found: Preload, spec: Spec) -> None:
        checked_at = self._loop.time()
        unit = f"{spec.name}{SUFFIX}#{self._generation}.{next(self._numbers)}"
        reason = ""
        try:
            async with asyncio.timeout(spec.process.spawn_timeout):
                zygote = await self._started(found, spec, unit)
        except (CorralError, TimeoutError) as error:
            reason = str(error) or f"it has not loaded within {spec.process.spawn_timeout:g} s"
        else:
            found.current, found.failed_at, found.checked_at = zygote, None, checked_at
        found.loads += 1
        if reason:
            found.failed_at = self._loop.time()
            logger.warning("agents do not share the imports of %s: %s", ", ".join(spec.preload), reason)

    async def _started(self, found: Preload, spec: Spec, unit: str) -> Zygote:
        """Starts one, and returns it when it can fork."""
        launch = await prepare_zygote(_without_agent(spec), self._host, unit, anew=found.loads > 0)
        zygote = self._make(found, launch, spec.name, spec.monitoring)
        loaded = await zygote.start()
        if (unfit := words_of_unfit(loaded)) or not zygote.is_loaded:
            zygote.retire()
            raise SpawnFailed(unfit or "it died at once", unit=unit)
        return zygote

    def _make(
        self, found: Preload, launch: Launch, agent: str, monitoring: Monitoring, left: LogHandover | None = None
    ) -> Zygote:
        """Makes one, whose log goes on from what the program before has left."""
        unit, log = launch.unit, self._logs.writer(agent, agent + SUFFIX, LogLimits.of(monitoring))
        if left is not None:
            log.take_up(left)

        def lost(zygote: Zygote, _: str) -> None:
            if found.current is zygote:
                found.current = None

        def changed(paths: list[str]) -> None:
            for each in [user for user, parent in found.users.items() if parent is zygote]:
                self._on_changed(each, paths)

        zygote = Zygote(self._launcher, launch, on_changed=changed, on_lost=lost, log=log, is_shared=True)
        self._zygotes[unit] = zygote, log

        async def attend() -> None:
            await zygote.gone.wait()
            del self._zygotes[unit]
            self._logs.release(log)

        self._task(attend())
        return zygote


def _without_agent(spec: Spec) -> Spec:
    return msgspec.structs.replace(spec, entrypoint="")
