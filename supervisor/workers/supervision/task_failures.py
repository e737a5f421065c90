"""Notices that tasks of an agent fail again and again: `[monitoring] alert_task_failures` within a window.

An agent is failing when that many of its tasks have failed within the window. It stays so until fewer have, and is
published again after each further window in which it stays so. This module does not deliver alerts: `alerts` does.
"""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Monitoring, Spec
from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.records import Task

FAILED = frozenset({"failed", "timeout"})
"""States of a task that has failed; a cancelled one was not wanted any more."""

REASON_CHARS = 300
"""Characters of the error of the last failure in an event."""


class Failures(Struct, frozen=True):
    """Holds the last failures of an agent's tasks, in seconds of a clock, oldest first."""

    times: tuple[float, ...] = ()
    published_at: float | None = None
    """Time of the last event about them; None while the agent is not failing."""

    def plus(self, now: float, limit: int) -> "Failures":
        """Returns them with one more; no more than `limit` are needed to decide."""
        return Failures((*self.times, now)[-limit:], self.published_at)

    def decided(self, now: float, limit: int, window_s: float) -> tuple["Failures", str, float | None]:
        """Decides what is published now.

        Returns:
            The failures from here on; the event, "failing", "recovered" or none; and the time of the next decision,
            None where only a further failure can change anything.
        """
        times = tuple(at for at in self.times if now < at + window_s)
        is_failing = limit > 0 and len(times) >= limit
        if not is_failing:
            return Failures(times), "recovered" if self.published_at is not None else "", None
        published, event = self.published_at, ""
        if published is None or now >= published + window_s:
            published, event = now, "failing"
        return Failures(times, published), event, min(times[-limit] + window_s, published + window_s)


class TaskFailures:
    """Observes the ends of all tasks, and publishes `agent.tasks_failing` and `agent.tasks_recovered`."""

    def __init__(self, bus: Bus, in_force: InForce, spec_of: Callable[[str], Spec | None]) -> None:
        self._bus = bus
        self._in_force = in_force
        self._spec_of = spec_of
        self._loop = asyncio.get_running_loop()
        self._failures: dict[str, Failures] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._reasons: dict[str, str] = {}

    def started(self, task: Task) -> None:
        """Does nothing: an attempt has not failed yet."""

    def ended(self, task: Task) -> None:
        """Counts a task that has failed."""
        if task.state not in FAILED:
            return
        limit = self._monitoring(task.agent).alert_task_failures
        if limit == 0:
            self._forget(task.agent)
            return
        before = self._failures.get(task.agent, Failures())
        self._failures[task.agent] = before.plus(self._loop.time(), limit)
        if task.error is not None:
            self._reasons[task.agent] = f"{task.error.name}: {task.error.message}"[:REASON_CHARS]
        self._look(task.agent)

    def _look(self, agent: str) -> None:
        """Publishes the change that this moment brings, and comes back when the next is due."""
        if (timer := self._timers.pop(agent, None)) is not None:
            timer.cancel()
        monitoring = self._monitoring(agent)
        limit, window_s = monitoring.alert_task_failures, monitoring.alert_task_failures_window
        failures, event, following = self._failures[agent].decided(self._loop.time(), limit, window_s)
        self._failures[agent] = failures
        if event:
            self._publish(agent, event, len(failures.times), window_s)
        if following is not None:
            self._timers[agent] = self._loop.call_at(following, self._look, agent)
        elif not failures.times:
            self._forget(agent)

    def _publish(self, agent: str, event: str, count: int, window_s: float) -> None:
        last = self._reasons.get(agent, "")
        if event == "failing":
            reason = f"{count} tasks have failed within {window_s:g} s; the last one: {last}"
            self._bus.publish("agent.tasks_failing", agent=agent, failures=count, window_s=window_s, reason=reason)
        else:
            self._bus.publish("agent.tasks_recovered", agent=agent, failures=count, window_s=window_s)

    def _forget(self, agent: str) -> None:
        self._failures.pop(agent, None)
        self._reasons.pop(agent, None)
        if (timer := self._timers.pop(agent, None)) is not None:
            timer.cancel()

    def _monitoring(self, agent: str) -> Monitoring:
        spec = self._spec_of(agent)
        return self._in_force.config.defaults.monitoring if spec is None else spec.monitoring
