"""Sees the leases of all nodes, and reports a node over when no worker of it can run any more."""

import asyncio
from collections.abc import Callable

from ..engine.interface import Change, Engine, Watch
from .lease import TIMING, Observed, Timing, is_over, observed, over_at, vanished
from .membership import boot_clock
from .record import NODES, NodeRecord, decoded, name_of


async def nodes_now(engine: Engine, timeout_s: float) -> list[NodeRecord]:
    """Returns the nodes that have a lease, by name."""
    watch = await engine.watch(NODES)
    try:
        async with asyncio.timeout(timeout_s):
            await watch.synced()
        found = [decoded(entry.value) for entry in watch.entries().values()]
    finally:
        await watch.close()
    return sorted((each for each in found if each is not None), key=lambda each: each.name)


class Observer:
    """Follows the leases of all nodes."""

    def __init__(
        self,
        engine: Engine,
        on_over: Callable[[str], None],
        *,
        on_change: Callable[[], None] = lambda: None,
        timing: Timing = TIMING,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._engine = engine
        self._on_over = on_over
        self._timing = timing
        self._clock = clock
        self._known: dict[str, Observed] = {}
        self._on_change = on_change
        self._began_at: float | None = None
        self._beginning = asyncio.Event()
        self.records: dict[str, NodeRecord] = {}
        """The nodes that have a lease, as they described themselves last."""

    async def began(self) -> None:
        """Returns once all nodes with a lease are known."""
        await self._beginning.wait()

    def may_run(self, name: str) -> bool:
        """Returns whether workers of a node may still run: it has a lease, or had one a moment ago.

        A node that was never seen had none when this began to look: it is over a whole lease later.
        """
        if name in self._known:
            return True
        if self._began_at is None:
            return True
        return not is_over(Observed(0, self._began_at, is_gone=True), self._clock(), self._timing)

    async def run(self) -> None:
        """Follows until it is cancelled."""
        watch = await self._engine.watch(NODES)
        try:
            await watch.synced()
            while watch.unread:
                self._take(await watch.next())
            self._began_at = self._clock()
            self._beginning.set()
            while True:
                await self._wait(watch)
                now = self._clock()
                for name, known in list(self._known.items()):
                    if is_over(known, now, self._timing):
                        del self._known[name]
                        self._on_over(name)
        finally:
            await watch.close()

    async def _wait(self, watch: Watch) -> None:
        """Takes one change, or waits until the next lease that is gone may be believed to be over."""
        gone = [over_at(known, self._timing) for known in self._known.values() if known.is_gone]
        wait_s = None if not gone else max(0.0, min(gone) - self._clock())
        try:
            async with asyncio.timeout(wait_s):
                self._take(await watch.next())
        except TimeoutError:
            pass

    def _take(self, change: Change) -> None:
        name = name_of(change.key)
        known = self._known.get(name)
        before = self.records.get(name)
        if change.value is not None:
            self._known[name] = observed(known, change.revision, self._clock())
            if (found := decoded(change.value)) is not None:
                self.records[name] = found
        elif known is not None:
            self._known[name] = vanished(known)
            self.records.pop(name, None)
        if self.records.get(name) != before:
            self._on_change()
