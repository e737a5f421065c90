"""The zygotes of one daemon: which agents' workers are forks, and of what; their spares; their renewal.

`warmth` decides; here zygotes are started, ended and asked. It knows specs and units, not keepers.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from .bus import Bus
from .launch import Host
from .lifecycle import Worker
from .logs import LogStore
from .process import Child, Exit, Launch, Launcher
from .spec import Spec

if TYPE_CHECKING:
    from .offspring import Parent


class Kept(Protocol):
    """A worker, as far as it is looked at here."""

    @property
    def worker(self) -> Worker:
        """What it is doing."""
        ...


class Crew(Protocol):
    """An agent with its workers, as far as it is looked at here."""

    spec: Spec

    @property
    def keepers(self) -> Sequence[Kept]:
        """Its workers."""
        ...


class Zygotes:
    """The zygotes of all agents of one daemon."""

    def __init__(
        self,
        launcher: Launcher,
        host: Host,
        bus: Bus,
        logs: LogStore,
        *,
        on_exit: Callable[[Exit], None],
        on_empty: Callable[[str], None],
    ) -> None:
        self._launcher = launcher
        self._host = host
        self._bus = bus
        self._logs = logs
        self._on_exit = on_exit
        self._on_empty = on_empty

    async def prepared(self, spec: Spec, doomed: "asyncio.Event | asyncio.Future[None]") -> None:
        """Returns as soon as it is clear how a worker of this spec starts; at once when `doomed` is set."""

    async def spawn(
        self, spec: Spec, launch: Launch, *, pipe_stdin: bool
    ) -> "tuple[Parent, Child, str | None]":
        """Starts a worker as a fork, or else by its program: its parent, itself, and its temporary folder.

        Raises:
            SpawnFailed, ShuttingDown: as `Launcher.spawn`.
        """
        child = await self._launcher.spawn(launch, pipe_stdin=pipe_stdin)
        return self._launcher, child, launch.temporary

    def note(self, agent: Crew) -> None:
        """Takes note of a change of an agent, or of its workers."""

    def exited(self, report: Exit) -> bool:
        """Takes the death of a unit that is a zygote; False for others."""
        return False

    def emptied(self, unit: str) -> bool:
        """Takes the end of a unit that is a zygote; False for others."""
        return False

    def renew(self, name: str, reason: str) -> None:
        """Has the workers of an agent be forks of a new zygote, one after the other."""

    async def check_sources(self, names: Iterable[str]) -> None:
        """Looks whether sources of these agents have changed, and returns when those that have are read anew."""

    def facts(self, name: str) -> dict[str, object] | None:
        """What `status` tells of an agent's zygote; None where it has none."""
        return None

    async def close(self) -> None:
        """Ends all zygotes and spares."""
