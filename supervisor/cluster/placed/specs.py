"""Publishes the placed agents of this node's configuration to the engine, where all nodes find them.

The first node that publishes a name settles its table. A node whose file says something else at its start follows the
engine, and says so; a change of the file, seen by a reload, is published, and so is its end. A table that was changed on
request stays until then.
"""

import asyncio
import logging
from collections.abc import Mapping

from corral.supervisor.config.spec.loader import expanded_table
from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.errors import Conflict, CorralError

from ..engine.interface import Engine
from ..state.state import PlacedSpec, encoded, spec_key
from ..state.state import decoded as decoded_value

AGAIN_S = 1.0
"""Seconds until what has failed is tried again."""

logger = logging.getLogger(__name__)


class SpecPublisher:
    """Publishes the placed agents of the configuration in force."""

    def __init__(self, node: str, config: Config, bus: Bus) -> None:
        self._node = node
        self._bus = bus
        self._config = config
        self._published: dict[str, dict[str, object]] = {}
        self._wake = asyncio.Event()

    def reloaded(self, config: Config) -> None:
        """Follows a configuration that was read again."""
        self._config = config
        self._wake.set()

    async def run(self, engine: Engine) -> None:
        """Publishes, and follows reloads, until it is cancelled."""
        while True:
            self._wake.clear()
            is_done = True
            try:
                await self._publish(engine, self._config.placed)
            except CorralError as error:
                logger.warning("cannot publish the placed agents: %s", error)
                is_done = False
            try:
                async with asyncio.timeout(None if is_done else AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _publish(self, engine: Engine, specs: Mapping[str, Spec]) -> None:
        for name in [name for name in self._published if name not in specs]:
            entry = await engine.get(spec_key(name))
            if entry is not None:
                await engine.put(entry.key, None, revision=entry.revision)
            del self._published[name]
        for name, spec in specs.items():
            table = expanded_table(spec)
            if self._published.get(name) == table:
                continue
            wanted = PlacedSpec(table=table, directory=spec.process.working_directory or "/", by=self._node)
            entry = await engine.get(spec_key(name))
            present = None if entry is None else decoded_value(entry.value, PlacedSpec)
            if present is not None and name not in self._published and present.of_file != table:
                self._bus.publish(
                    "config.shadowed",
                    agent=name,
                    reason=f"node {present.by} has published another table of this placed agent, which counts",
                )
            elif present is None or present.of_file != table:
                try:
                    revision = 0 if entry is None else entry.revision
                    await engine.put(spec_key(name), encoded(wanted), revision=revision)
                except Conflict:
                    self._wake.set()  # another node was first: look at its table
                    continue
            self._published[name] = table
