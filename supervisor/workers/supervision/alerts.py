"""Sends alerts to people: runs a command or posts to an address for the events that matter.

An alert never holds anything up. It is bounded in size, time and number: a storm of events costs
BURST alerts and then one in every INTERVAL_S, and the next one has the number of those left out. One that cannot be
delivered is counted and logged, and not tried again. This module does not decide what is wrong: events do.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Monitoring, Spec
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.events.catalog import SKIPPED
from corral.worker.contract import codec

from ..process.command import INPUT_BYTES, Commands
from .probes import http_status

ALERTED = (
    "health.degraded",
    "health.recovered",
    "limit.memory",
    "limit.cpu_seconds",
    "limit.file_size",
    "agent.tasks_failing",
    "agent.tasks_recovered",
    "daemon.degraded",
    "daemon.recovered",
    "daemon.launcher_lost",
    "daemon.emergency*",
)
"""The types of events that alert, as globs."""

BURST = 20
"""Number of alerts at once after a quiet time."""

INTERVAL_S = 3.0
"""Seconds after which one more alert is allowed."""

TIMEOUT_S = 30.0
"""Seconds for one delivery."""

DELIVERIES_MAX = 4
"""Number of deliveries at a time."""

WAITING_MAX = 100
"""Number of waiting events; beyond it the oldest is dropped."""

TEXT_CHARS = 1000

logger = logging.getLogger(__name__)


class Allowance:
    """Limits the rate of alerts: BURST, and one more in every INTERVAL_S."""

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._counted_at = now

    def take(self, now: float) -> bool:
        """Takes a token; returns False if there is none."""
        self._left = min(BURST, self._left + (now - self._counted_at) / INTERVAL_S)
        self._counted_at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass
class Counts:
    """Counts the alerts since the start of the daemon by result."""

    sent: int = 0
    failed: int = 0
    suppressed: int = 0


class Alerts:
    """Runs the alert hook of one daemon.

    `counts` is kept up to date; `spec_of` finds an agent's own by its name.
    """

    def __init__(
        self, bus: Bus, commands: Commands, in_force: InForce, spec_of: Callable[[str], Spec | None], directory: str
    ) -> None:
        self.counts = Counts()
        self._bus = bus
        self._commands = commands
        self._in_force = in_force
        self._spec_of = spec_of
        self._directory = directory  # of the configuration file, as for an agent
        self._loop = asyncio.get_running_loop()
        self._allowance = Allowance(self._loop.time())
        self._slots = asyncio.Semaphore(DELIVERIES_MAX)
        self._untold = 0  # suppressed since the last alert

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        async with asyncio.TaskGroup() as deliveries:
            with self._bus.subscribe(ALERTED, limit=WAITING_MAX) as subscription:
                async for event in subscription:
                    if event.type == SKIPPED:
                        count = event.fields.get("count")
                        self._suppress(count if isinstance(count, int) else 1)
                        continue
                    monitoring = self._monitoring(event)
                    if monitoring.alert is None and monitoring.alert_url is None:
                        continue
                    if not self._allowance.take(self._loop.time()):
                        self._suppress(1)
                        continue
                    body = _body(event, self._untold)
                    self._untold = 0
                    await self._slots.acquire()
                    deliveries.create_task(self._deliver(event, monitoring, body))

    def _suppress(self, count: int) -> None:
        self._untold += count
        self.counts.suppressed += count

    def _monitoring(self, event: Event) -> Monitoring:
        spec = None if event.agent is None else self._spec_of(event.agent)
        return self._in_force.config.defaults.monitoring if spec is None else spec.monitoring

    async def _deliver(self, event: Event, monitoring: Monitoring, body: bytes) -> None:
        try:
            if monitoring.alert is not None:
                problem = await self._run(event, monitoring.alert, body)
                self._note(event, "alert", problem)
            if monitoring.alert_url is not None:
                problem = await _post(monitoring.alert_url, body)
                self._note(event, "alert_url", problem)
        except Exception as error:  # a defect of ours must not end the alerting
            logger.exception("cannot alert about %s", event.type)
            self._note(event, "alert", repr(error))
        finally:
            self._slots.release()

    async def _run(self, event: Event, argv: tuple[str, ...], body: bytes) -> str:
        """Runs the alert command; returns what went wrong, if anything."""
        outcome = await self._commands.run(
            self._spec(argv),
            argv,
            unit="alert",
            timeout_s=TIMEOUT_S,
            environment={
                "CORRAL_ALERT_TYPE": event.type,
                "CORRAL_ALERT_AGENT": event.agent or "",
                "CORRAL_ALERT_WORKER": event.worker or "",
                "CORRAL_ALERT_MESSAGE": _text(event.fields).replace("\0", " "),
            },
            stdin=body,
        )
        return "" if outcome.is_success else outcome.words

    def _spec(self, argv: tuple[str, ...]) -> Spec:
        """Returns the spec of an agent with the defaults of the configuration, for its user and limits."""
        defaults = self._in_force.config.defaults
        process = defaults.process
        folder = process.working_directory or self._directory
        return Spec(
            name="corrald.alert",  # no agent has such a name, and what it may do
            kind="agent",
            source="built-in",
            command=argv,
            protocol="none",
            environment=process.environment,
            process=replace(process, working_directory=folder, environment={}),
            resources=defaults.resources,
        )

    def _note(self, event: Event, key: str, problem: str) -> None:
        if not problem:
            self.counts.sent += 1
            return
        self.counts.failed += 1
        logger.warning("cannot deliver an alert about %s by %s: %s", event.type, key, problem)
        self._bus.publish("daemon.alert_failed", about=event.seq, key=key, message=problem[:TEXT_CHARS])


async def _post(url: str, body: bytes) -> str:
    """Posts to an address; returns what went wrong, if anything."""
    try:
        status = await http_status("POST", url, timeout_s=TIMEOUT_S, body=body)
    except TimeoutError:
        return f"no answer within {TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return "" if 200 <= status < 300 else f"answered with status {status}"


def _text(fields: Mapping[str, object]) -> str:
    text = fields.get("message") or fields.get("reason") or ""
    return str(text)[:TEXT_CHARS]


def _body(event: Event, untold: int) -> bytes:
    """Encodes the event as JSON on one line, at most INPUT_BYTES; of a longer one only its subject."""
    record = {**event.record(), "suppressed": untold}
    body = codec.encode(record) + b"\n"
    if len(body) <= INPUT_BYTES:
        return body
    kept = ("seq", "at", "type", "agent", "worker", "incarnation", "suppressed")
    text = _text(event.fields)[: TEXT_CHARS // 4]
    short = {**{key: record[key] for key in kept}, "message": text, "cut": True}
    return codec.encode(short) + b"\n"
