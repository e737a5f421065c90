"""Starts every worker by its own program: stands in for the pool of zygotes where that room is left out.

Guarantees that a reason is published and shown in `status` for each agent whose workers would be forks otherwise.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus

from ..process.launch import why_cold
from ..process.launcher_client import Launcher
from ..process.parent import Child, Launch, Parent

REASON = "this installation of corral has no zygotes"

logger = logging.getLogger(__name__)


class ColdStarts:
    """Implements the port of the zygotes without zygotes: it has nothing to load, to renew or to end."""

    def __init__(self, launcher: Launcher, bus: Bus) -> None:
        self._launcher = launcher
        self._bus = bus
        self._cold: set[str] = set()

    async def prepared(self, spec: Spec, _doomed: asyncio.Event) -> None:
        """Publishes once per agent that its workers start cold."""
        is_to_be_warm = spec.protocol == "corral" and why_cold(spec) is None
        if is_to_be_warm and spec.name not in self._cold:
            self._cold.add(spec.name)
            logger.warning("the workers of %s start cold: %s", spec.name, REASON)
            self._bus.publish("agent.cold", agent=spec.name, reason=REASON)

    async def spawn(self, _spec: Spec, launch: Launch, *, pipe_stdin: bool) -> tuple[Parent, Child, str | None]:
        """Spawns a worker by the launcher; returns the launcher, the process and its temporary folder."""
        child = await self._launcher.spawn(launch, pipe_stdin=pipe_stdin)
        return self._launcher, child, launch.temporary

    def kill(self, name: str, unit: str) -> None:
        """Does nothing: no fork is under way."""

    def note(self, agent: object) -> None:
        """Does nothing: no zygote follows its agent."""

    def restore(self, spec: Spec) -> None:
        """Does nothing: nothing is loaded before a start."""

    def forget(self, name: str) -> None:
        """Forgets an agent that was removed."""
        self._cold.discard(name)

    async def check_sources(self, _names: Iterable[str], *, dry_run: bool = False) -> list[str]:
        """Returns no name: each start reads the sources as they are."""
        return []

    async def settled(self, names: Iterable[str]) -> None:
        """Returns at once: nothing is being loaded."""

    async def until_ended(self, names: Collection[str]) -> None:
        """Returns at once: no zygote is ending."""

    def current(self, _name: str) -> Parent | None:
        """Returns None: no zygote is forked from."""
        return None

    def pids(self) -> list[int]:
        """Returns no pid: there are no zygotes."""
        return []

    def facts(self, name: str) -> dict[str, object] | None:
        """Returns the facts of `status` for an agent whose workers would be forks; None for others."""
        if name not in self._cold:
            return None
        return {"state": "cold", "pid": None, "spares": 0, "reason": REASON}
