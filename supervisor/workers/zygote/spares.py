"""Keeps the spare workers of one agent: forked ahead, and waiting for the `initialize` that gives them an identity.

They are forked one after the other when nothing more urgent is to be started, taken in the order of their age,
and end with their zygote. One that dies is replaced after a pause, which doubles. No
status lists them, and no limit of processes counts them.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable

import msgspec

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.machine.linux import kernel
from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.errors import CorralError

from ..process.launch import INSTANCE, Host, prepare
from ..process.launcher_link import close_all
from ..process.parent import Child, Exit, Launch, UnitOwner
from ..process.sandbox import remove_temporary
from .client import Zygote
from .handover import SpareHandover
from .policy import SPARE_S, doubled_s

REFILL_S = 0.05
"""Seconds after the start of a worker in which no spare is forked: another start may follow."""

STEADY_S = 30.0
"""Seconds of life after which the death of a spare does not count as a failed start."""

LAST_WORDS_BYTES = 4096

logger = logging.getLogger(__name__)


class Spare(msgspec.Struct, frozen=True):
    """A worker without a name, with its zygote and its launch."""

    zygote: Zygote
    child: Child
    recipe: str
    temporary: str | None
    born_at: float


class Reserve:
    """Manages the spares of one agent, at most `min_spare` and always of one zygote."""

    def __init__(self, name: str, host: Host, bus: Bus, generation: int, is_urgent: Callable[[], bool]) -> None:
        self._name = name
        self._host = host
        self._bus = bus
        self._generation = generation
        self._is_urgent = is_urgent
        self._spec: Spec | None = None
        self._zygote: Zygote | None = None
        self._spares: dict[str, Spare] = {}
        self._ending: dict[str, str | None] = {}
        self._numbers = itertools.count(1)
        self._failures = 0
        self._not_before = 0.0
        self._filling: asyncio.Task[None] | None = None
        self._removals: set[asyncio.Task[bool]] = set()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._spares)

    def set_goal(self, zygote: Zygote | None, spec: Spec) -> None:
        """Sets the goal: `min_spare` forks of this zygote, or none without a zygote."""
        self._spec = spec
        if zygote is not self._zygote:
            self._zygote = zygote
            self._failures = 0
            self._not_before = self._loop.time() + REFILL_S
        for unit, spare in list(self._spares.items()):
            if spare.zygote is not zygote or len(self._spares) > spec.min_spare:
                self._end(unit)
        self._fill_soon()

    def delay(self) -> None:
        """Delays the next fork, because a worker is being started."""
        self._not_before = max(self._not_before, self._loop.time() + REFILL_S)

    def take(self, zygote: Zygote, launch: Launch, owner: UnitOwner) -> Spare | None:
        """Takes a spare that was started like `launch`; it is that worker from now on."""
        recipe = recipe_of(launch) if self._spares else ""
        for unit, spare in list(self._spares.items()):
            if spare.zygote is not zygote or spare.recipe != recipe:
                self._end(unit)  # a variable or a secret has changed since
                continue
            if not zygote.rename(unit, launch.unit, owner):
                continue  # `exited` will report its end
            del self._spares[unit]
            self._failures = 0
            self._fill_soon()
            child = msgspec.structs.replace(spare.child, unit=launch.unit)
            return msgspec.structs.replace(spare, child=child)
        self._fill_soon()
        return None

    def exited(self, report: Exit) -> None:
        """Handles the death of a spare."""
        spare = self._spares.pop(report.unit, None)
        if spare is None:
            return  # it was to end
        words = _last_words(spare.child.stderr_fd)
        cause = f"it ended with status {os.waitstatus_to_exitcode(report.status)}"
        self._release(spare)
        if not report.lost:  # else its zygote has died, which is reported
            if self._loop.time() - spare.born_at >= STEADY_S:
                self._failures = 0
            self._fail(f"{cause}: {words}" if words else cause)

    def emptied(self, unit: str) -> None:
        """Handles the end of a spare."""
        temporary = self._ending.pop(unit, None)
        if temporary is not None:
            removal = self._loop.create_task(asyncio.to_thread(remove_temporary, temporary))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def close(self) -> None:
        """Ends all spares; the end of the zygote ends their remaining processes."""
        self._zygote = None
        for unit in list(self._spares):
            self._end(unit)
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        await asyncio.gather(*self._removals, return_exceptions=True)

    # -- from one program of the daemon to the next

    @property
    def obstacle(self) -> str:
        """Returns what is under way that no other program can go on with; empty where it may be handed over."""
        return f'a spare of "{self._name}" is ending' if self._ending or self._removals else ""

    def hand_over(self) -> tuple[SpareHandover, ...]:
        """Returns what the next program goes on from."""
        return tuple(
            SpareHandover(each.child, each.recipe, each.temporary, each.born_at) for each in self._spares.values()
        )

    def take_up(self, left: Iterable[SpareHandover], zygote: Zygote, spec: Spec) -> None:
        """Goes on from what the program before has left: forks of this zygote."""
        self._zygote, self._spec = zygote, spec
        for each in left:
            self._spares[each.child.unit] = Spare(zygote, each.child, each.recipe, each.temporary, each.born_at)

    @property
    def units(self) -> Iterable[str]:
        """Returns the units of the spares."""
        return self._spares

    # -- one after the other

    @property
    def _is_short(self) -> bool:
        is_wanted = self._zygote is not None and self._spec is not None
        return is_wanted and self._spec is not None and len(self._spares) < self._spec.min_spare

    def _fill_soon(self) -> None:
        if self._is_short and self._filling is None:
            self._filling = self._loop.create_task(self._fill())
            self._filling.add_done_callback(self._filled)

    def _filled(self, task: asyncio.Task[None]) -> None:
        self._filling = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("cannot fork ahead for %s", self._name, exc_info=task.exception())
        elif not task.cancelled():
            self._fill_soon()  # one may have been taken since it was done

    async def _fill(self) -> None:
        while self._is_short:
            wait_s = self._not_before - self._loop.time()
            if wait_s > 0.0:
                await asyncio.sleep(wait_s)
            elif self._is_urgent():
                self.delay()
            else:
                await self._fork()

    async def _fork(self) -> None:
        zygote, spec = self._zygote, self._spec
        assert zygote is not None, "_is_short has checked it"
        assert spec is not None, "_is_short has checked it"
        unit = f"{self._name}.spare#{self._generation}.{next(self._numbers)}"
        try:
            launch = await prepare(spec, self._host, unit)
            child = await zygote.spawn(launch, self)
        except CorralError as error:
            if zygote is self._zygote:
                self._fail(error.message)
            return
        spare = Spare(zygote, child, recipe_of(launch), zygote.temporary_of(launch), self._loop.time())
        self._spares[unit] = spare
        if zygote is not self._zygote or self._spec is None or len(self) > self._spec.min_spare:
            self._end(unit)

    def _fail(self, reason: str) -> None:
        self._not_before = self._loop.time() + doubled_s(SPARE_S, self._failures)
        self._failures += 1
        logger.warning("a spare of %s died: %s", self._name, reason)
        if self._failures == 1:  # one event for all that die in a row
            self._bus.publish("agent.spare_lost", agent=self._name, reason=reason)
        self._fill_soon()

    def _end(self, unit: str) -> None:
        spare = self._spares.pop(unit)
        self._release(spare)
        spare.zygote.kill(unit)

    def _release(self, spare: Spare) -> None:
        self._ending[spare.child.unit] = spare.temporary
        fds = (spare.child.stdin_fd, spare.child.stdout_fd, spare.child.stderr_fd)
        close_all([fd for fd in fds if fd is not None])


def substance(launch: Launch) -> Launch:
    """Removes the parts of a launch that differ with each incarnation: equal results start alike."""
    own = {kernel.MARK, INSTANCE, *(("TMPDIR",) if launch.temporary is not None else ())}
    env = {k: v for k, v in launch.env.items() if k not in own}
    return msgspec.structs.replace(launch, unit="", temporary=None, env=env)


def recipe_of(launch: Launch) -> str:
    """Returns what is equal for launches that start alike, also of a version that knows more or fewer keys with a default."""
    defaults = {each.name: each.default for each in msgspec.structs.fields(Launch)}
    own = {k: v for k, v in msgspec.to_builtins(substance(launch)).items() if v != defaults[k]}
    # Not by msgspec: an environment may have bytes that are no UTF-8.
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _last_words(fd: int) -> str:
    """Returns the last line in a pipe that has no reader yet."""
    with contextlib.suppress(OSError):
        lines = os.read(fd, 64 * 1024)[-LAST_WORDS_BYTES:].decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
