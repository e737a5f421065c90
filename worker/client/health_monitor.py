"""Defines `corral.HealthMonitor`: health checks and recoveries that are functions of a program beside the agents.

Guarantees that of one check of one agent only one function runs at a time. What fails and recovers is told by events,
so that other programs learn of it. Nothing is checked while the program does not run: the checks of an agent's own, and
those of the configuration, are the daemon's.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from ..contract.errors import Conflict, CorralError, InvalidParams, NotFound
from ..contract.records import AgentStatus
from .runtime import AgentRuntime

Check = Callable[[AgentStatus], Awaitable[object]] | Callable[[AgentStatus], object]

FAILED, RECOVERED = "check.failed", "check.recovered"
"""Types of the events."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Registered:
    name: str
    function: Check
    interval_s: float
    timeout_s: float
    threshold: int


class HealthMonitor:
    """Checks agents of one daemon by functions; for the event loop of its runtime, in an `async with`."""

    def __init__(self, runtime: AgentRuntime) -> None:
        self._runtime = runtime
        self._checks: dict[str, _Registered] = {}
        self._recoveries: dict[str, Check] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._failing: dict[tuple[str, str], str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def register_check(
        self, name: str, check: Check, *, interval_s: float = 60.0, timeout_s: float = 5.0, threshold: int = 1
    ) -> None:
        """Registers a check: a function that is called with the status of each monitored agent every `interval_s` seconds.

        It passes if it returns None or True, and fails if it returns False or a text that describes the fault, raises, or
        takes longer than `timeout_s`. `threshold` bad results in a row are one failure.

        Raises:
            Conflict: there is a check of this name.
            InvalidParams: a value is out of range.
        """
        if interval_s <= 0 or timeout_s <= 0 or threshold < 1:
            text = f'cannot check "{name}" every {interval_s} s within {timeout_s} s, {threshold} times'
            raise InvalidParams(text, key="check", value=name)
        if name in self._checks:
            raise Conflict(f'cannot register a second health check "{name}"', key=name)
        self._checks[name] = _Registered(name, check, interval_s, timeout_s, threshold)

    def register_recovery(self, name: str, recovery: Check) -> None:
        """Registers a function that is called with the agent's status once for each failure of the check of this name.

        Raises:
            Conflict: there is a recovery of this name.
        """
        if name in self._recoveries:
            raise Conflict(f'cannot register a second recovery "{name}"', key=name)
        self._recoveries[name] = recovery

    async def monitor_agent(self, agent: str) -> None:
        """Begins to run the registered checks for an agent, until it is removed or this is closed; again after more are registered.

        Raises:
            NotFound: there is no such agent.
        """
        await self._runtime.agent_status(agent)
        for name, check in self._checks.items():
            if (agent, name) not in self._tasks:
                self._tasks[agent, name] = asyncio.create_task(self._run(agent, check))

    @property
    def failing(self) -> Mapping[tuple[str, str], str]:
        """Returns the fault of each check that fails, by agent and name."""
        return MappingProxyType(self._failing)

    async def close(self) -> None:
        """Ends all checks; an `async def` that runs is cancelled."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, agent: str, check: _Registered) -> None:
        place = agent, check.name
        bad = 0
        while True:
            try:
                status = await self._runtime.agent_status(agent)
                fault = await _fault(check.function, status, check.timeout_s)
                bad = 0 if fault is None else bad + 1
                if fault is None and self._failing.pop(place, None) is not None:
                    await self._runtime.publish(RECOVERED, {"agent": agent, "check": check.name})
                elif fault is not None and bad == check.threshold:
                    bad = 0
                    self._failing[place] = fault
                    await self._runtime.publish(FAILED, {"agent": agent, "check": check.name, "message": fault})
                    await self._recover(check, status)
            except NotFound:
                self._failing.pop(place, None)
                del self._tasks[place]
                return
            except CorralError as error:  # the daemon is away, or refuses it now
                logger.warning('cannot check "%s" of %s: %s', check.name, agent, error)
            await asyncio.sleep(check.interval_s)

    async def _recover(self, check: _Registered, status: AgentStatus) -> None:
        recovery = self._recoveries.get(check.name)
        if recovery is None:
            return
        try:
            await _called(recovery, status)
        except Exception:
            logger.exception('cannot recover "%s" of %s: the function failed', check.name, status.name)


async def _fault(check: Check, status: AgentStatus, timeout_s: float) -> str | None:
    """Returns what a check finds wrong; None where it passes."""
    try:
        async with asyncio.timeout(timeout_s):
            found = await _called(check, status)
    except TimeoutError:
        return f"it did not answer within {timeout_s:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found is None or found is True:
        return None
    return found if isinstance(found, str) else "it failed"


async def _called(function: Check, status: AgentStatus) -> object:
    """Calls a function: an `async def` in the loop, a `def` in a thread, since it may block."""
    if inspect.iscoroutinefunction(function):
        return await function(status)
    found = await asyncio.to_thread(function, status)
    return await found if inspect.isawaitable(found) else found
