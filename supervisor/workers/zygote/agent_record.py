"""Tracks the zygotes of one agent: the loaded one, those with forks left, and the request to replace workers.

Holds state and words alone; `pool` changes it. Must not know how a zygote is started or ended.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.logs.capture import LogWriter

from ..process.parent import Parent
from .client import Loaded, Zygote
from .handover import AgentZygotesHandover
from .policy import Phase, Warmth
from .spares import Reserve

SHOWN = 3
"""Number of changed files, or of obstacles to forking, named in one reason."""

NAME_CHARS = 255
"""Characters of the name of a file, which may be anything, in a reason."""


_STATES = {
    Phase.LOADING: "loading",
    Phase.WARM: "warm",
    Phase.RENEWING: "renewing",
    Phase.RESTING: "cold",
    Phase.COLD: "cold",
}


@dataclass(frozen=True, eq=False)
class Order:
    """Requests the replacement of workers: forks of the zygotes in `old`, and those that began cold before `since`."""

    old: frozenset[Parent]
    since: float
    reason: str


@dataclass(eq=False)
class ZygoteSlot:
    """Tracks one zygote, from the decision to load it until none of its processes is left."""

    spec: Spec
    task: asyncio.Task[None]
    zygote: Zygote | None = None
    loaded: Loaded | None = None
    unit: str = ""
    is_ending: bool = False
    is_retired: bool = False

    @property
    def is_leaving(self) -> bool:
        """Returns True while a zygote that is ending, or retired without workers, still has processes."""
        has_units = self.zygote is not None and self.zygote.count > 0
        return not self.task.done() and (self.is_ending or (self.is_retired and not has_units))


@dataclass(eq=False)
class AgentRecord:
    """Tracks one agent's zygotes: those with forks, the one that is loaded, and its spares."""

    spec: Spec
    reserve: Reserve
    state: Warmth = field(default_factory=Warmth)
    recipe: str | None = None
    slots: dict[int, ZygoteSlot] = field(default_factory=dict[int, ZygoteSlot])
    order: Order | None = None
    forking: list[Parent] = field(default_factory=list[Parent])
    """Parents of requested workers without a report yet, once for each."""
    timer: asyncio.TimerHandle | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    log: LogWriter | None = None

    @property
    def current(self) -> Zygote | None:
        """Returns the zygote from which workers are forked."""
        slot = self.slot
        return None if slot is None else slot.zygote

    @property
    def slot(self) -> ZygoteSlot | None:
        """Returns the slot of `current`."""
        return None if self.state.current is None else self.slots.get(self.state.current)

    @property
    def obstacle(self) -> str:
        """Returns what is under way that no other program can go on with; empty where it may be handed over."""
        is_changing = self.order or any(slot.is_ending or not slot.loaded for slot in self.slots.values())
        if is_changing or not self.state.is_settled:
            return f'"{self.spec.name}" is being loaded or renewed'
        return self.reserve.obstacle

    def hand_over(self) -> AgentZygotesHandover:
        """Returns what the next program goes on from; without an obstacle."""
        zygotes = {number: slot.zygote for number, slot in self.slots.items() if slot.zygote is not None}
        return AgentZygotesHandover(
            state=self.state,
            recipe=self.recipe,
            zygotes={number: zygote.hand_over() for number, zygote in zygotes.items() if zygote.is_running},
            spares=self.reserve.hand_over(),
            log=None if self.log is None else self.log.hand_over(),
        )

    def facts(self) -> dict[str, object] | None:
        """Returns the facts for `status`; None if there is no zygote, and none is wanted."""
        if self.state.phase is Phase.ABSENT:
            return None
        state, words = self.state, _STATES[self.state.phase]
        if self.order is not None and state.current is not None:
            words = "renewing"
        zygote = self.current
        loaded = None if self.slot is None else self.slot.loaded
        facts: dict[str, object] = {
            "state": words,
            "pid": None if zygote is None else zygote.pid,
            "spares": len(self.reserve),
            "reason": state.reason or None,
        }
        if zygote is not None and isinstance(zygote.launcher, Zygote):
            facts["shared_pid"] = zygote.launcher.pid
        if loaded is not None:
            facts |= {"load_s": round(loaded.duration_s, 3), "rss_bytes": loaded.rss_bytes, "modules": loaded.modules}
        return facts


def words_of_changes(paths: Sequence[str]) -> str:
    """Describes changed source files."""
    names = ", ".join(sorted({" ".join(os.path.basename(path).split())[:NAME_CHARS] for path in paths})[:SHOWN])
    more = len(paths) - SHOWN
    return f"{names} and {more} more have changed" if more > 0 else f"changed: {names}"


def words_of_unfit(loaded: Loaded) -> str:
    """Describes the obstacles to forking, "" for none."""
    found = [f'{each.kind} "{each.what}" of {each.module}' for each in loaded.unfit]
    more = len(found) - SHOWN
    words = ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"its imports leave what no fork may have: {words}" if found else ""
