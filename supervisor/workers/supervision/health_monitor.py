"""Runs the health checks of one worker: performs the actions that `health_check.step` decides, and returns each outcome to it.

Beside the checks it notes that the worker has given up, which degrades its agent too. It lives as long as the
worker is configured; `changed` is called for every change of it. Nothing here decides when a check has failed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from corral.mcp.upstream.session import Session
from corral.supervisor.config.spec.probe_spec import NO_ACTIONS, SIGNAL, Check
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus
from corral.worker.contract.channel import Channel
from corral.worker.contract.errors import CorralError, Overloaded
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.worker_messages import HealthAnswer

from ..lifecycle import health_check, state_machine
from ..lifecycle.health_check import Health, Rule
from ..lifecycle.state_machine import UP, State, Worker
from .line import CorralLine
from .probes import RECOVERY_TIMEOUT_S, Finding, Probes

LOOK_S = 1.0
"""Seconds between two checks whether a silent server has an excuse, or has sent a message."""

MESSAGE_CHARS = 500
"""Characters of the message of a check; a program wrote part of it."""

logger = logging.getLogger(__name__)


class Life(Protocol):
    """Defines the present incarnation, as far as its checks are concerned."""

    @property
    def line(self) -> object:
        """Returns the line; that of a worker that speaks corral has the checks that it announced."""
        ...


class Subject(Protocol):
    """Defines the operations on the monitored worker."""

    worker: Worker

    @property
    def spec(self) -> Spec:
        """Returns the spec in force."""
        ...

    @property
    def session(self) -> Session:
        """Returns the connection to an MCP server."""
        ...

    @property
    def channel(self) -> Channel:
        """Returns the connection to a worker that speaks corral."""
        ...

    @property
    def life(self) -> Life | None:
        """Returns the present incarnation, whose line has the checks that the worker announced."""
        ...

    def send(self, event: state_machine.Event) -> None:
        """Takes an event to the lifecycle."""
        ...

    def signal(self, name: str, *, tree: bool) -> None:
        """Sends a signal."""
        ...

    def publish_change(self) -> None:
        """Notifies listeners of a possible change of the worker."""
        ...


class Surroundings(Struct, frozen=True):
    """Holds the collaborators of the checks of all workers; `awake_since` is when the daemon last woke from a stall."""

    bus: Bus
    probes: Probes
    awake_since: Callable[[], float]
    wall_clock: Callable[[], str]


_NONE: dict[str, Any] = {}  # Any: it is empty, whatever it would hold
"""One for all workers without a check, of which there may be thousands: nothing is ever put into it."""


class HealthMonitor:
    """Runs the checks of one worker."""

    __slots__ = (
        "_announced",
        "_around",
        "_asking",
        "_gave_up",
        "_healths",
        "_in_hurry",
        "_incarnation",
        "_loop",
        "_recovering",
        "_spec",
        "_subject",
        "_timers",
    )

    def __init__(self, subject: Subject, surroundings: Surroundings) -> None:
        self._subject = subject
        self._around = surroundings
        self._loop = asyncio.get_running_loop()
        self._healths: dict[str, Health] = _NONE
        self._timers: dict[str, asyncio.TimerHandle] = _NONE
        self._asking: dict[str, asyncio.Task[None]] = _NONE
        self._recovering: dict[str, asyncio.Task[None]] = _NONE
        self._gave_up = False
        self._in_hurry = False
        self._spec: Spec | None = None
        self._announced: tuple[Check, ...] = ()
        self._incarnation: int | None = None  # the one that may be asked now
        self.changed()

    @property
    def healths(self) -> list[Health]:
        """Returns the state of every check."""
        return list(self._healths.values())

    @property
    def is_degraded(self) -> bool:
        """Returns True if the worker is wanted, and has given up or fails a check for too long."""
        is_ill = self._gave_up or any(each.degraded for each in self._healths.values())
        return is_ill and self._subject.worker.wanted

    def hurry(self, *, is_due: bool = True) -> None:
        """Runs checks as soon as the worker is up, from now on or (with `is_due` false) no longer: others wait for the results."""
        self._in_hurry = is_due
        self._hurry()

    def _hurry(self) -> None:
        """Runs the checks now whose `start_delay` nobody has written."""
        slow = {each.name for each in self._subject.spec.health or () if each.start_delay is not None}
        for name in [each for each in self._healths if self._in_hurry and each not in slow]:
            self._send(name, health_check.Hurry())

    def changed(self) -> None:
        """Notes a possible change of the worker: its state, incarnation or spec."""
        worker = self._subject.worker
        announced = self._announced_now(worker)
        if worker.spec is not self._spec or announced != self._announced:
            self._spec, self._announced = worker.spec, announced
            self._configure(worker.spec)
        self._note_giving_up(worker)
        if not worker.wanted:
            for recovering in self._recovering.values():
                recovering.cancel()  # nothing is mended that is to be gone
        may_be_asked = worker.state in UP and worker.paused_at is None
        incarnation = worker.incarnation if may_be_asked else None
        if incarnation == self._incarnation:
            return
        self._incarnation = incarnation
        event = health_check.Down() if incarnation is None else health_check.Up(incarnation)
        for name in list(self._healths):
            self._send(name, event)
        if incarnation is not None:
            self._hurry()

    def _announced_now(self, worker: Worker) -> tuple[Check, ...]:
        """Returns the checks that the worker has announced; until it is up again those of its last life."""
        life = self._subject.life
        line = life.line if worker.state in UP and life is not None else None
        return line.checks if isinstance(line, CorralLine) else self._announced

    async def close(self) -> None:
        """Ends the checks of a removed worker."""
        for timer in self._timers.values():
            timer.cancel()
        tasks = [*self._asking.values(), *self._recovering.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _configure(self, spec: Spec) -> None:
        threshold = spec.recovery.failure_threshold
        is_graceful = spec.recovery.enable_graceful_degradation
        own = [spec.filled(each) for each in self._announced]  # a check of the file comes first
        checks = {each.name: each for each in (*own, *spec.checks)}
        rules = {name: Rule(each, threshold, is_graceful) for name, each in checks.items()}
        if rules and self._healths is _NONE:
            self._healths, self._timers, self._asking, self._recovering = {}, {}, {}, {}
        for name in list(self._healths):
            if name not in rules:
                self._send(name, health_check.Down())
                if self._healths.pop(name).degraded:
                    self._publish("health.recovered", name, {"message": "it is no longer checked"})
        for name, rule in rules.items():
            if name in self._healths:
                self._send(name, health_check.Configure(rule))
            else:
                self._healths[name] = Health(rule)
                if self._incarnation is not None:
                    self._send(name, health_check.Up(self._incarnation))

    def _note_giving_up(self, worker: Worker) -> None:
        last = worker.last_exit
        if worker.state in UP:
            if self._gave_up:
                self._gave_up = False
                self._publish("health.recovered", None, {"message": "it is up again"})
        elif worker.state is State.TERMINATED and worker.wanted and not self._gave_up:
            self._gave_up = last is not None and last.result == "restart-limit"
            if last is not None and self._gave_up:
                self._publish("health.degraded", None, {"failures": None, "message": last.message[:MESSAGE_CHARS]})

    # -- events in

    def _send(self, name: str, event: health_check.Event) -> None:
        known = self._healths.get(name)
        if known is None:
            return  # it is no longer checked
        after, actions = health_check.step(known, event, self._loop.time())
        self._healths[name] = after
        asking = self._asking.get(name)
        if asking is not None and after.phase is not health_check.Phase.ASKING:
            asking.cancel()  # unless it has just brought its answer
        for action in actions:
            self._perform(name, action)
        self._rearm(name)

    def _rearm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        known = self._healths.get(name)
        if known is not None and known.deadline is not None:
            self._timers[name] = self._loop.call_at(known.deadline, self._send, name, health_check.Tick())

    # -- actions out

    def _perform(self, name: str, action: health_check.Action) -> None:
        if isinstance(action, health_check.Ask):
            self._asking[name] = self._loop.create_task(self._ask(name, action.run))
        elif isinstance(action, health_check.Recover):
            before = self._recovering.get(name)
            recovering = self._recover(name, action.run, action.recovery, before)
            self._recovering[name] = self._loop.create_task(recovering)
        elif isinstance(action, health_check.Hang):
            self._subject.send(state_machine.Hang(action.reason))
        elif isinstance(action, health_check.Fail):
            limit = self._healths[name].rule.failure_threshold
            facts: dict[str, object] = {"failures": action.failures, "message": action.message}
            # One that fails for ever is not stored for ever.
            self._publish("health.failed", name, facts, store=action.failures <= limit)
        elif isinstance(action, health_check.Degrade):
            facts = {"failures": action.failures, "message": action.message}
            logger.warning("%s is degraded: %s: %s", self._worker, name, action.message)
            self._publish("health.degraded", name, facts)
        else:
            if action.was_degraded:
                self._publish("health.recovered", name, {"message": None})
            else:
                self._publish("health.passed", name)

    def _publish(
        self, event_type: str, check: str | None, facts: Mapping[str, object] | None = None, *, store: bool = True
    ) -> None:
        worker = self._subject.worker
        self._around.bus.publish(
            event_type,
            agent=worker.spec.name,
            worker=worker.id,
            incarnation=worker.incarnation,
            store=store,
            check=check,
            **dict(facts or {}),
        )

    @property
    def _worker(self) -> str:
        return self._subject.worker.id

    async def _ask(self, name: str, run: int) -> None:
        known = self._healths[name]
        check = known.rule.check
        try:
            if check.way == "mcp":
                finding = await self._ask_server(known.rule)
            elif check.way == "worker":
                finding = await self._ask_worker(check)
            else:
                assert check.timeout is not None, "Spec.checks fills it in"
                finding = await self._around.probes.ask(
                    check,
                    self._subject.spec,
                    self._worker,
                    timeout_s=check.timeout,
                    environment=self._environment(check),
                )
        except Exception as error:  # a defect of ours must not end the checking
            logger.exception("cannot ask %s by %s", self._worker, name)
            finding = Finding(False, f"cannot ask: {error!r}")
        message = finding.message[:MESSAGE_CHARS]
        at, awake_since = self._around.wall_clock(), self._around.awake_since()
        del self._asking[name]
        was_healthy = self._healths[name].healthy if name in self._healths else None
        self._send(name, health_check.Answer(run, finding.is_good, message, at, awake_since))
        found = self._healths.get(name)
        if found is not None and found.healthy != was_healthy:
            self._subject.publish_change()  # a change of the spec waits for it

    async def _ask_worker(self, check: Check) -> Finding:
        """Runs a check of the agent's own in the worker."""
        try:
            answer = await self._subject.channel.request("health/check", {"name": check.name}, timeout_s=check.timeout)
            found = msgspec.convert(answer, HealthAnswer)
        except CorralError as error:
            return Finding(False, error.message)
        except msgspec.ValidationError as error:
            return Finding(False, misfit_of(error, None, HealthAnswer).words)
        return Finding(found.ok, "" if found.ok else found.message or "it failed")

    async def _recover_worker(self, check: Check) -> dict[str, object]:
        """Runs a recovery of the agent's own in the worker; returns what the event is to say."""
        try:
            await self._subject.channel.request("health/recover", {"name": check.name}, timeout_s=RECOVERY_TIMEOUT_S)
        except CorralError as error:
            return {"message": error.message[:MESSAGE_CHARS], "result": "failed"}
        return {}

    async def _ask_server(self, rule: Rule) -> Finding:
        """Checks whether the server sends any message; it is not pinged while it has an excuse for silence."""
        timeout_s = rule.check.timeout
        assert timeout_s is not None, "Spec.checks fills it in"
        try:
            session = self._subject.session
        except CorralError as error:
            return Finding(False, error.message)
        live = session.liveness
        begun = self._loop.time() - rule.interval_s
        while live.is_excused and live.last_message_at < begun:
            await asyncio.sleep(LOOK_S)
        if live.last_message_at >= begun:
            return Finding(True)
        asked_at = self._loop.time()
        ping = self._loop.create_task(session.ping(timeout_s=None))
        try:
            while live.last_message_at < asked_at:
                if ping.done() and not live.is_excused:
                    return _end_of(ping)
                silent_at = health_check.silent_at(
                    asked_at=asked_at,
                    last_message_at=live.last_message_at,
                    rested_at=live.rested_at,
                    timeout_s=timeout_s,
                )
                left_s = silent_at - self._loop.time()
                if left_s <= 0 and not live.is_excused:
                    return Finding(False, f"it has been silent for {timeout_s:g} s")
                await _wait(() if ping.done() else (ping,), min(max(left_s, 0.01), LOOK_S))
            return Finding(True)
        finally:
            ping.cancel()
            await asyncio.gather(ping, return_exceptions=True)

    async def _recover(self, name: str, run: int, recovery: str, before: asyncio.Task[None] | None) -> None:
        """Runs a recovery, after one of an earlier incarnation that still runs: never two at a time."""
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        known = self._healths.get(name)
        if known is None or known.phase is not health_check.Phase.RECOVERING or known.run != run:
            return  # it was stopped or restarted meanwhile
        check = known.rule.check
        facts: dict[str, object] = {"code": None, "signal": None, "message": "", "result": "done"}
        if check.way == "worker":
            facts |= await self._recover_worker(check)
        elif recovery not in NO_ACTIONS and not recovery.startswith(SIGNAL):
            outcome = await self._around.probes.recover(
                recovery, self._subject.spec, self._worker, environment=self._environment(check, known.message)
            )
            message = "" if outcome.is_success else outcome.words[:MESSAGE_CHARS]
            facts |= {"code": outcome.code, "signal": outcome.signal, "message": message}
            facts["result"] = "done" if outcome.is_success else "failed"
        is_kept = known.failures <= known.rule.failure_threshold
        self._publish("health.recovery", name, {"recovery": recovery, **facts}, store=is_kept)
        if recovery == "restart":
            self._subject.send(state_machine.Restart(f'health check "{name}" has failed: {known.message}'))
        elif recovery.startswith(SIGNAL):
            self._subject.signal(recovery.removeprefix(SIGNAL), tree=False)
        self._send(name, health_check.Acted(run))

    def _environment(self, check: Check, message: str = "") -> dict[str, str]:
        """Returns the environment of a check's command and its recovery."""
        pid = self._subject.worker.pid
        return {
            "CORRAL_CHECK_NAME": check.name,
            "CORRAL_CHECK_WORKER": self._worker,
            "CORRAL_CHECK_PID": "" if pid is None else str(pid),
            "CORRAL_CHECK_MESSAGE": message.replace("\0", " "),
        }


def _end_of(ping: asyncio.Task[None]) -> Finding:
    """Returns the finding of a ping without an answer."""
    error = ping.exception()
    if error is None or isinstance(error, Overloaded):
        return Finding(True)  # so much is in flight to it that calls will tell
    return Finding(False, str(error))


async def _wait(tasks: tuple[asyncio.Task[None], ...], timeout_s: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)
    else:
        await asyncio.sleep(timeout_s)
