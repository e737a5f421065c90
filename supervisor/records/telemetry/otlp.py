"""Holds what all exports over OTLP/HTTP share: where a signal goes, what sends it, and how long that may take.

opentelemetry is imported with this module, and this module only where `[telemetry] otlp` is set.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Literal

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

TIMEOUT_S = 5.0
"""Seconds within which a collector has to take a request, tries of the SDK included."""

Signal = Literal["traces", "metrics", "logs"]


class Origin:
    """Names the daemon that a signal comes from, as its receivers show it."""

    def __init__(self, address: str, version: str, generation: int) -> None:
        # Each refused batch would be a line of its log, and is reported once by its sender.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._address = address.rstrip("/")
        self.resource = Resource.create(
            {"service.name": "corral", "service.version": version, "service.instance.id": str(generation)}
        )
        self.scope = InstrumentationScope("corral", version)

    def endpoint(self, signal: Signal) -> str:
        """Returns the address that takes a signal."""
        return f"{self._address}/v1/{signal}"


async def in_thread(act: Callable[[], bool]) -> bool:
    """Returns what `act` returns, False where it raises; `act` runs in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bool] = loop.create_future()

    def settle(found: bool) -> None:
        if not answered.done():
            answered.set_result(found)

    def run() -> None:
        found = False
        try:
            found = act()
        finally:
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:
                return  # the loop has ended meanwhile

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    return await answered
