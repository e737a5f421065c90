"""The hands of the lifecycle: performs what `lifecycle.step` decides for one worker, and reports back.

A WorkerSupervisor lives as long as its worker is configured; each incarnation has its process, its pipes and
its `Line`, the protocol that is spoken with it. Outcomes that belong to an earlier incarnation are
recognised by their unit and dropped. Nothing here decides when to start, stop or kill.
"""

import asyncio
import contextlib
import enum
import functools
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from ...mcp.protocol.catalog import Catalogue
from ...mcp.protocol.messages import Era
from ...mcp.upstream.session import Session
from ...worker.contract import codec
from ...worker.contract.channel import Channel
from ...worker.contract.errors import (
    CorralError,
    NotInitialized,
    Overloaded,
    SpawnFailed,
    Timeout,
    WorkerFailed,
)
from ...worker.contract.jsonrpc import Notification, Request
from ..config.probe_spec import Readiness
from ..config.spec import Spec
from ..events.bus import Bus
from ..events.history import EventHistory
from ..lifecycle import state_machine
from ..lifecycle.state_machine import UP, LastExit, State, Worker
from ..logs.capture import LogStream, LogWriter, StreamName
from ..logs.capture_pipe import Capture
from ..logs.file_format import severity
from ..logs.rotating_file import LogLimits
from ..logs.store import LogStore
from ..process import limits as excess
from ..process.launch import Host, prepare
from ..process.launcher_client import Launcher
from ..process.limits import Excess
from ..process.parent import Child, Exit, Launch, Parent, Scope
from ..process.sandbox import Removals
from ..store.incarnations import Incarnations
from ..store.store import Store
from ..zygote.pool import Zygotes
from .alerts import Counts
from .checkpoints import Checkpoints
from .health_monitor import HealthMonitor, Surroundings
from .line import DRAIN_S, CorralLine, Hooks, Line, McpLine, SilentLine, line_of
from .probes import Finding, Probes
from .start_gate import StartGate

PAUSED = "paused"
"""The reason for which a tree is frozen when somebody has asked for it."""

FREEZE_AGAIN_S = 0.5
"""When the launcher does not keep up, it is told to freeze or thaw again after this time."""

LATE_S = 0.1
"""A deadline that is noticed so late finds us with things unread."""

READ_S = 0.02
"""What has come meanwhile is read in this time, before anything is judged."""

READINGS = 5
"""How often, at most, one deadline is put off for that."""

AHEAD = 128
"""Starts that are prepared: more than may be under way. A thousand tasks that wait would take 3 kB each."""

LOG_S = 0.02
"""The log tells so much later of an end that another life follows."""

EXITS_KEPT = 10
"""Ends that `show` lists per worker."""

# One for all, where there is nothing: an empty set of its own costs each of thousands of supervisors 216 bytes.
NO_EVENTS: frozenset[asyncio.Event] = frozenset()
NO_TASKS: frozenset[asyncio.Task[object]] = frozenset()
NO_REASONS: frozenset[str] = frozenset()
NO_CORDONS: frozenset["Unschedulable"] = frozenset()
NOTHING_RUNS: dict[str, float] = {}  # nothing is ever put into it

logger = logging.getLogger(__name__)


class StallClock:
    """When the daemon itself last came back from a stall: silence before that is nobody's fault.

    A daemon that was stopped, starved or suspended finds its workers' heartbeats unread. Whoever
    judges a silence counts it from `floor()`. `notice` has to be called every second or so.
    """

    STALL_S = 3.0

    def __init__(self) -> None:
        self._seen_at = time.monotonic()
        self._woke_at = 0.0

    def floor(self) -> float:
        """The monotonic time before which nothing that was not heard counts."""
        now = time.monotonic()
        if now - self._seen_at > self.STALL_S:
            logger.warning("the daemon was stalled for %.1f s", now - self._seen_at)
            self._woke_at = now
        self._seen_at = now
        return self._woke_at


@dataclass
class Shared:
    """What all supervisors share."""

    launcher: Launcher
    zygotes: Zygotes
    bus: Bus
    event_history: EventHistory
    store: Store
    incarnations: Incarnations
    checkpoints: Checkpoints
    logs: LogStore
    generation: int
    host: Host
    wakefulness: StallClock
    probes: Probes
    alert_counts: Counts
    starting: asyncio.Semaphore
    ahead: StartGate = field(default_factory=lambda: StartGate(AHEAD))
    removals: Removals = field(default_factory=Removals)

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        """What the checks of all workers share."""
        return Surroundings(self.bus, self.probes, self.wakefulness.floor, utc_now)


class Unschedulable(enum.StrEnum):
    """Says why a worker is given no new task (Kubernetes: cordon). Several reasons may hold at once, each of its own owner."""

    HIBERNATING = "hibernating"
    """Its state is being saved or replaced: an assigned task is not handed over either."""
    OUTDATED = "outdated"
    """A fork of a newer zygote is about to replace it: an assigned task is not handed over either."""
    SURPLUS = "surplus"
    """The agent is scaled down: it finishes its tasks, then it is removed."""
    HIBERNATED = "hibernated"
    """Its process was ended after it had saved a checkpoint; a task, `wake` or `start` brings it back."""


HANDS_NOTHING_OVER = frozenset({Unschedulable.HIBERNATING, Unschedulable.OUTDATED})
"""Reasons for which a worker is not handed a task that was assigned to it before."""

Listener = Callable[["WorkerSupervisor"], None]


class WorkerChanges:
    """Calls listeners when a worker has changed, in the order in which they subscribed.

    A change of load (a worker takes up work, or puts down the last of it) comes with every task, so only
    those that ask for it are called for that.
    """

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._load_listeners: tuple[Listener, ...] = ()

    def subscribe(self, listener: Listener, *, load: bool = False) -> None:
        """Calls `listener` after each change of state, life, spec or intent; with `load` also after one of load alone."""
        self._listeners += (listener,)
        if load:
            self._load_listeners += (listener,)

    def publish(self, supervisor: "WorkerSupervisor") -> None:
        """Calls every listener."""
        for listener in self._listeners:
            listener(supervisor)

    def publish_load(self, supervisor: "WorkerSupervisor") -> None:
        """Calls the listeners for changes of load."""
        for listener in self._load_listeners:
            listener(supervisor)


class Service(Protocol):
    """Who serves what workers ask for and say."""

    def serve(self, supervisor: "WorkerSupervisor", request: Request) -> Awaitable[object]:
        """The answer to a request of a worker."""
        ...

    def handle_notification(
        self, supervisor: "WorkerSupervisor", notification: Notification
    ) -> None:
        """Takes a notification of a worker."""
        ...

    @property
    def changes(self) -> "WorkerChanges":
        """Where changes of workers are published."""
        ...

    async def checkpoint_of(self, supervisor: "WorkerSupervisor") -> dict[str, object]:
        """What the next life of a worker begins with, as `{"checkpoint": data}`, or nothing.

        Raises:
            SpawnFailed: it cannot be had, and the worker is not to begin without it.
        """
        ...

    def removed(self, agent: str) -> None:
        """Called when an agent is no more."""
        ...


@dataclass(slots=True, eq=False)
class Incarnation:
    """One life of the worker."""

    number: int
    unit: str
    line: Line
    started_at: float
    parent: Parent
    child: Child | None = None
    captures: tuple[Capture, ...] = ()
    task: asyncio.Task[None] | None = None
    doomed: bool = False
    stopped: asyncio.Event | None = None
    """Set when it is doomed, for one that may wait for a zygote."""
    early: tuple[Exit | None, ...] = ()
    temporary: str | None = None
    proc_fd: int | None = None
    checkpoint: Mapping[str, object] | None = None
    numbered: asyncio.Future[None] | None = None
    """Until which it may not begin: its number is not on disk yet."""
    used_s: float = 0.0
    """Of processor time: its leader's and of all that this has waited for, once it is dead."""

    def forget_task(self, _: object) -> None:
        """It is up, or failed: the task that did it is a kilobyte that nobody needs."""
        self.task = None


class WorkerSupervisor:
    """Keeps one worker."""

    # There may be thousands.
    __slots__ = (
        "__weakref__",
        "_armed_for",
        "_cleanups",
        "_cordons",
        "_events",
        "_excused_to",
        "_following",
        "_frozen_for",
        "_loop",
        "_notes",
        "_stepping",
        "_timer",
        "_waiting",
        "announced",
        "era",
        "exits",
        "has_room",
        "health_monitor",
        "is_to_end",
        "life",
        "log",
        "on_catalogue",
        "on_updated",
        "rested_at",
        "running",
        "service",
        "shared",
        "worker",
    )

    def __init__(
        self, shared: Shared, worker_id: str, spec: Spec, service: Service, *, incarnation: int
    ) -> None:
        self.shared = shared
        self.service = service
        self.worker = Worker(worker_id, spec, incarnation=incarnation)
        self.life: Incarnation | None = None
        self.running = NOTHING_RUNS
        self.rested_at = 0.0
        self.exits: tuple[tuple[int, LastExit], ...] = ()
        self.era: Era | None = None
        self.on_catalogue: Callable[[Catalogue], None] = _ignore
        """Takes what an MCP server offers, at each handshake and whenever that changes."""
        self.on_updated: Callable[[str], None] = _ignore
        """Takes the URI of a resource of an MCP server that has changed."""
        self.announced: tuple[str, ...] = ()
        limits = LogLimits.of(spec.monitoring)
        self.log: LogWriter = shared.logs.writer(spec.name, worker_id, limits)
        self._notes: LogStream | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._waiting = NO_EVENTS
        self._events: tuple[state_machine.Event, ...] = ()
        self._stepping = False
        self._excused_to = 0.0
        self._cleanups = NO_TASKS
        self.is_to_end = False
        self._cordons = NO_CORDONS
        self.has_room = False
        """Room is kept for it: it is started as soon as it is in the store."""
        self._frozen_for = NO_REASONS
        self._following: asyncio.Task[None] | None = None
        self.health_monitor = HealthMonitor(self, shared.surroundings)

    @property
    def spec(self) -> Spec:
        """The spec in force."""
        return self.worker.spec

    @property
    def id(self) -> str:
        """The worker's id, `NAME-N`."""
        return self.worker.id

    # -- events in

    def send(self, event: state_machine.Event) -> None:
        """Takes an event to the lifecycle and performs what it decides."""
        self._events += (event,)
        if self._stepping:
            return
        self._stepping = True
        is_load_alone = True
        try:
            while self._events:
                first, *later = self._events
                self._events = tuple(later)
                is_load_alone = is_load_alone and isinstance(first, state_machine.Worked)
                self._step(first)
        finally:
            self._stepping = False
        self._rearm()
        for waiting in self._waiting:
            waiting.set()
        if is_load_alone:
            self.service.changes.publish_load(self)
        else:
            self.health_monitor.changed()
            self.service.changes.publish(self)

    def _step(self, event: state_machine.Event) -> None:
        before = self.worker
        self.worker, actions = state_machine.step(before, event, self._loop.time())
        if self.worker.last_exit is not None and self.worker.last_exit is not before.last_exit:
            earlier = self.exits
            if earlier and earlier[0][0] == before.incarnation:
                earlier = earlier[1:]  # the same end, of which more is known now
            newest = (before.incarnation, self.worker.last_exit)
            self.exits = (newest, *earlier)[:EXITS_KEPT]
        number = before.incarnation
        for action in actions:
            if isinstance(action, state_machine.Transition):
                if action.new is State.STARTING:  # what came before was of the earlier life
                    number = self.worker.incarnation
                self._publish(action, number)
            else:
                self._perform(action)

    async def until(self, done: Callable[[Worker], bool]) -> Worker:
        """The worker, as soon as `done` says yes to it. Whoever calls this bounds it."""
        changed = asyncio.Event()
        self._waiting |= {changed}
        try:
            while not done(self.worker):
                changed.clear()
                await changed.wait()
        finally:
            self._waiting = self._waiting - {changed} or NO_EVENTS
        return self.worker

    def _rearm(self) -> None:
        due = self.worker.deadline
        if self._timer is not None:
            if due == self._armed_for:
                return  # also while it is put off: events must not put it off for ever
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._armed_for = due
            self._timer = self._loop.call_at(due, self._tick, due)

    def _tick(self, due: float, readings: int = READINGS) -> None:
        now = self._loop.time()
        if now - due > LATE_S and readings:  # timers come before what is to be read
            due = now + READ_S
            self._timer = self._loop.call_at(due, self._tick, due, readings - 1)
            return
        self._timer = None
        floor = max(self._excused_to, self.shared.wakefulness.floor())
        self.send(state_machine.Tick(max(self._heard_at, floor)))
        # A timer may fire a hair before its time: then the deadline still stands, and is armed again.

    @property
    def _heard_at(self) -> float:
        return self.life.line.heard_at if self.life is not None else 0.0

    def excuse(self, frozen_s: float) -> None:
        """For so long from now on it cannot speak: that is no silence of its own."""
        self._excused_to = max(self._excused_to, self._heard_at) + frozen_s

    def reconfigure(self, spec: Spec) -> None:
        """Takes a changed spec; what needs a new process takes effect with the next one."""
        self.log.configure(LogLimits.of(spec.monitoring))
        line = self.life.line if self.life is not None else None
        if isinstance(line, McpLine):
            line.session.limit(spec.mcp.request_timeout, spec.mcp.max_request_timeout)
        self.send(state_machine.Reconfigure(spec))

    def start_after(self, ready: Coroutine[None, None, None], reason: str) -> None:
        """Starts the worker once `ready` is done; whatever is asked of it meanwhile cancels that."""
        self.do_after(ready, lambda: self.send(state_machine.Start()))
        self.send(state_machine.Want(reason))

    def do_after(
        self, ready: Coroutine[None, None, None], act: Callable[[], None], *, ends: bool = False
    ) -> None:
        """Calls `act` once `ready` is done; `forget` cancels that. `ends` says that it ends the worker."""
        self.forget()

        async def follow() -> None:
            await ready
            self._following = None
            self.is_to_end = False
            act()

        self.is_to_end = ends
        self._following = self._loop.create_task(follow())
        self._following.add_done_callback(lambda _: ready.close())

    def forget(self) -> None:
        """Cancels what still waits for others."""
        self.is_to_end = False
        if self._following is not None:
            self._following.cancel()
            self._following = None

    @property
    def is_following(self) -> bool:
        """Whether something waits for others before it is done."""
        return self._following is not None

    @property
    def takes_room(self) -> bool:
        """Whether it has, or is about to have, processes: so much of the limit is taken."""
        worker = self.worker
        backs_off = worker.state is State.INITIAL and worker.deadline is not None
        is_coming = self.has_room or (worker.waits and self._following is not None)
        return worker.tree or backs_off or is_coming

    def freeze(self, reason: str) -> None:
        """Lets no process of the tree run, for one more reason; of what is ending nothing is frozen."""
        if self.worker.pid is None or self.worker.state is State.SHUTTING_DOWN:
            return
        self._frozen_for |= {reason}
        if len(self._frozen_for) == 1:
            self._turn()

    def thaw(self, reason: str) -> None:
        """Takes one reason back; the tree runs again when there is none left."""
        if reason in self._frozen_for:
            self._frozen_for = self._frozen_for - {reason} or NO_REASONS
            if not self._frozen_for:
                self._turn()

    def _thaw_for_its_end(self) -> None:
        if self._frozen_for:
            self._frozen_for = NO_REASONS
            self._turn()

    def _turn(self) -> None:
        """Tells its parent what is to be, until it takes it."""
        life = self.life
        if life is None or life.child is None:
            return
        try:
            if self._frozen_for:
                life.parent.freeze(life.unit)
            else:
                life.parent.thaw(life.unit)
        except Overloaded as error:
            logger.warning("%s", error)
            self._loop.call_later(FREEZE_AGAIN_S, self._turn)

    def rest(self, last: LastExit) -> None:
        """Notes how it ended under an earlier daemon; before its first event here."""
        self.worker = state_machine.rested(self.worker, last)

    # -- tasks

    def cordon(self, reason: Unschedulable) -> None:
        """Gives the worker no new task, for one more reason."""
        self._cordons |= {reason}

    def uncordon(self, reason: Unschedulable) -> None:
        """Takes one reason back, if it holds; `publish_change` lets tasks come again."""
        self._cordons = self._cordons - {reason} or NO_CORDONS

    def is_cordoned(self, reason: Unschedulable) -> bool:
        """Returns whether the worker is given no new task for this reason."""
        return reason in self._cordons

    def publish_change(self) -> None:
        """Has listeners look at the worker again."""
        self.service.changes.publish(self)

    @property
    def takes_tasks(self) -> bool:
        """Returns whether a task that was assigned to the worker can be handed over now.

        It has to be up and its channel open: one that closed its pipes lives on until it is found hung.
        """
        line = self.life.line if self.life is not None else None
        channel = line.channel if isinstance(line, CorralLine) else None
        is_up = self.worker.state in UP and self.worker.paused_at is None
        is_up = is_up and self._cordons.isdisjoint(HANDS_NOTHING_OVER)
        return is_up and channel is not None and not channel.is_closed

    @property
    def is_schedulable(self) -> bool:
        """Returns whether the worker may be assigned another task, as far as its slots allow."""
        return Unschedulable.SURPLUS not in self._cordons and self.takes_tasks

    def begin(self, task_id: str) -> None:
        """The worker has been given work."""
        if not self.running:
            self.running = {}
        self.running[task_id] = self._loop.time()
        if self.worker.state is not State.BUSY:
            self.send(state_machine.Worked(True))

    def end(self, task_id: str) -> None:
        """The worker has put work down."""
        if self.running.pop(task_id, None) is not None and not self.running:
            self.running = NOTHING_RUNS
            self.rested_at = self._loop.time()
            self.send(state_machine.Worked(False))

    def exited(self, report: Exit) -> None:
        """The launcher says that the leader is dead."""
        life = self.life
        if life is None or life.unit != report.unit:
            return
        if life.child is None:
            life.early += (report,)  # it died before we were told that it lived
            return
        for capture in life.captures:  # what it wrote last belongs to this life
            capture.catch_up()
        code, name = _code_and_signal(report.status)
        used_s = life.used_s = report.utime_s + report.stime_s
        over = excess.at_end(code, name, used_s, report.oom_kills, self.spec.resources)
        cause = _cause_of_death(report) if over is None else over.message
        facts = (
            _exit_facts(report) if over is None else {**_exit_facts(report), "result": over.result}
        )
        error = WorkerFailed(
            f'cannot go on with worker "{self.id}": {cause}', worker=self.id, **facts
        )
        if over is not None and self.worker.state is not State.SHUTTING_DOWN:
            self.publish_excess(over)
        self.send(
            state_machine.Exited(
                code,
                name,
                at=utc_now(),
                jitter=random.random(),
                result=None if over is None else over.result,
                message=self._last_words(cause),
            )
        )
        open_ones = [capture for capture in life.captures if not capture.closed]
        life.captures = tuple(capture for capture in life.captures if capture.closed)
        if open_ones or life.line.has_to_finish:
            self._note_cleanup(self._loop.create_task(_clean_up(life.line, open_ones, error)))

    def emptied(self, unit: str) -> None:
        """The launcher says that nothing of the tree is left."""
        life = self.life
        if life is None or life.unit != unit:
            return
        if life.child is None:
            life.early += (None,)
            return
        self._clear_away(life)
        self.send(state_machine.Emptied())
        self._let_go(life)  # only now: a file that notes a life is not removed to be made again

    # -- actions out

    def _perform(self, action: state_machine.Action) -> None:
        if isinstance(action, state_machine.Spawn):
            self._spawn(action.incarnation)
        elif isinstance(action, state_machine.Ask):
            self._ask(action.grace_s)
        elif isinstance(action, state_machine.Signal):
            self._thaw_for_its_end()
            self.signal(action.name, tree=action.tree)
        elif isinstance(action, state_machine.Freeze):
            self.freeze(PAUSED)
            self._tell("agent.paused")
        elif isinstance(action, state_machine.Thaw):
            self.thaw(PAUSED)
            self._tell("agent.resumed")
        else:
            self._kill()

    def _publish(self, transition: state_machine.Transition, incarnation: int) -> None:
        old, new = transition.old, transition.new
        is_stored = not (new is State.BUSY or (new is State.IDLE and old is State.BUSY))
        if not is_stored and not self.shared.bus.has_subscribers("worker.state"):
            return  # with each task there are two
        self.shared.bus.publish(
            "worker.state",
            agent=self.spec.name,
            worker=self.id,
            incarnation=incarnation,
            store=is_stored,
            **{"from": str(transition.old), "to": str(transition.new)},
            reason=transition.reason,
        )
        if transition.new is State.TERMINATED:
            facts = {"agent": self.spec.name, "worker": self.id, "incarnation": incarnation}
            tell = functools.partial(
                logger.info,
                "worker %s is Terminated: %s",
                self.id,
                transition.reason,
                extra={"fields": facts},
            )
            if self.worker.resume_at is None:
                tell()
            else:
                self._loop.call_later(LOG_S, tell)

    def _tell(self, what: str) -> None:
        number = self.worker.incarnation
        self.shared.bus.publish(
            what, agent=self.spec.name, worker=self.id, incarnation=number, store=True
        )

    def publish_excess(self, found: Excess) -> None:
        """Tells of a limit that was reached or passed."""
        assert self.life is not None, "only what runs, or ran, has limits"
        self.shared.bus.publish(
            found.event,
            agent=self.spec.name,
            worker=self.id,
            incarnation=self.life.number,
            store=True,
            **found.facts,
        )

    def _ask(self, grace_s: float) -> None:
        assert self.life is not None, "only what runs is asked to end"
        self._thaw_for_its_end()
        if not self.life.line.ask(grace_s):
            self.signal(self.spec.process.stop_signal, tree=False)

    def signal(self, name: str, *, tree: bool) -> None:
        """Sends a signal to the leader, or to every process group of the tree."""
        if self.life is not None:
            scope: Scope = "tree" if tree else "leader"
            try:
                self.life.parent.signal(self.life.unit, signal.Signals[name], scope)
            except Overloaded as error:  # the next stage comes by its deadline
                logger.warning("%s", error)

    def _kill(self) -> None:
        life = self.life
        if life is None:
            return
        self._frozen_for = NO_REASONS  # a kill reaches what is frozen
        if life.child is None:
            life.doomed = True
            if life.stopped is not None:
                life.stopped.set()
                self.shared.zygotes.kill(self.spec.name, life.unit)
        else:
            life.parent.kill(life.unit)

    def _spawn(self, number: int) -> None:
        unit = f"{self.id}#{number}"
        self.log.expect()
        line = line_of(
            self.spec,
            Hooks(
                name=self.id,
                incarnation=number,
                generation=self.shared.generation,
                era_hint=self.era,
                serve=self._serve,
                hear=self._hear,
                log=self.log.stream("stdout").line,
                listed=self._list,
                updated=self._update,
                probe=self._probe,
                initial=lambda: life.checkpoint or {},
            ),
        )
        life = Incarnation(number, unit, line, self._loop.time(), self.shared.launcher)
        life.numbered = self.shared.incarnations.claim(self.id, number)
        self.life = life
        self._frozen_for = NO_REASONS
        if self.spec.protocol == "none" and self.spec.ready is None:
            leave = self.shared.ahead.leave  # it is up as soon as it is launched
            self.shared.ahead.enter(life, functools.partial(self._begin, life, leave))
        else:
            self._begin(life)

    def _begin(self, life: Incarnation, done: Callable[[object], None] | None = None) -> None:
        life.task = self._loop.create_task(self._bring_up(life))
        life.task.add_done_callback(life.forget_task)
        if done is not None:
            life.task.add_done_callback(done)

    async def _bring_up(self, life: Incarnation) -> None:
        """From the decision to start to Ready, or to the reason why not."""
        try:
            if self.spec.entrypoint is not None:
                life.stopped = asyncio.Event()
                await self.shared.zygotes.prepared(self.spec, life.stopped)
            async with self.shared.starting:
                await self._launch(life)
        except CorralError as error:
            retryable = bool(error.data.get("retryable")) or not isinstance(error, SpawnFailed)
            self._fail_start(error.message, retryable=retryable)
            return
        except Exception as error:  # a defect of ours: whoever keeps a worker has to end its start
            logger.exception("cannot start worker %s", self.id)
            if life.child is None:
                text = f'cannot start worker "{self.id}": {error!r}'
                self._fail_start(text, retryable=False)
            else:
                self._kill()  # its exit tells the rest
            return
        if self.spec.protocol == "none":
            if self.spec.ready is not None:
                await self._await_ready(life)
            return
        assert life.child is not None, "a launch that does not raise has a child"
        if self.worker.state is not State.STARTING:  # it was stopped first: nobody takes its pipes
            for fd in (life.child.stdin_fd, life.child.stdout_fd):
                assert fd is not None, "a worker that speaks has both"
                os.close(fd)
            return
        try:
            await life.line.open(life.child)
        except CorralError as error:
            # One that died, closed its pipe or is silent: the exit or the deadline tells the rest.
            gone = isinstance(error, WorkerFailed | Timeout) or bool(error.data.get("lost"))
            self.era = None  # some servers end when they are asked in the wrong era
            if self.life is life and not gone:
                self.send(state_machine.Refused(error.message))
            return
        life.checkpoint = None  # it may be megabytes
        if self.life is life:
            self._note_agreed(life.line)
            self.send(state_machine.Shaken())

    def _fail_start(self, text: str, *, retryable: bool) -> None:
        """Nothing runs: there was no process."""
        self.send(
            state_machine.SpawnFailed(
                text, retryable=retryable, at=utc_now(), jitter=random.random()
            )
        )

    def _stream(self, life: Incarnation, name: StreamName) -> LogStream:
        tap = life.line.tap() if isinstance(life.line, SilentLine) else None
        return self.log.stream(name, tap)

    async def _await_ready(self, life: Incarnation) -> None:
        """A program without a protocol has something else that shows when it is Ready."""
        assert life.child is not None, "a launch that does not raise has a child"
        await life.line.open(life.child)
        if self.life is life:
            self.send(state_machine.Shaken())

    async def _probe(self, ready: Readiness) -> Finding:
        pid = self.life.child.pid if self.life and self.life.child else ""
        return await self.shared.probes.ask(
            ready,
            self.spec,
            self.id,
            timeout_s=ready.timeout,
            environment={"CORRAL_CHECK_NAME": "ready", "CORRAL_CHECK_PID": str(pid)},
        )

    def _note_agreed(self, line: Line) -> None:
        if isinstance(line, CorralLine):
            self.announced = line.announced
        elif isinstance(line, McpLine):
            self.era = line.session.era
            self._list(line.session.catalogue)

    async def _launch(self, life: Incarnation) -> None:
        if life.doomed:
            raise SpawnFailed(f'cannot start worker "{self.id}": it was stopped first')
        if self.spec.protocol == "corral":
            life.checkpoint = await self.service.checkpoint_of(self)
        if life.numbered is not None:
            await asyncio.shield(life.numbered)  # others wait for the same
            life.numbered = None
        self.log.note_life()  # not before its turn: a thousand files would keep the first process waiting
        has_stdin = self.spec.protocol != "none"
        launch = await prepare(self.spec, self.shared.host, life.unit)
        life.temporary = launch.temporary
        try:
            child = await self._spawned(life, launch, has_stdin)
        except BaseException:
            self._clear_away(life)
            raise
        if launch.read_paths is not None:
            # What Landlock allows of /proc/PID is lost when the kernel forgets that folder, unless it is held.
            with contextlib.suppress(OSError):
                life.proc_fd = os.open(f"/proc/{child.pid}", os.O_PATH | os.O_CLOEXEC)
        life.child = child
        life.started_at = self._loop.time()
        life.captures += (Capture(child.stderr_fd, self._stream(life, "stderr")),)
        if not has_stdin and child.stdout_fd is not None:
            life.captures += (Capture(child.stdout_fd, self._stream(life, "stdout")),)
        self.send(state_machine.Spawned(child.pid))
        for report in life.early:
            if report is None:
                self.emptied(life.unit)
            else:
                self.exited(report)

    async def _spawned(self, life: Incarnation, launch: Launch, has_stdin: bool) -> Child:
        """Its process: a fork of its agent's zygote, or a child of the launcher."""
        if self.spec.entrypoint is None:
            return await self.shared.launcher.spawn(launch, pipe_stdin=has_stdin)
        found = await self.shared.zygotes.spawn(self.spec, launch, pipe_stdin=has_stdin)
        life.parent, child, life.temporary = found
        return child

    def _let_go(self, life: Incarnation) -> None:
        """Of the pipes that have been read to their ends."""
        for capture in life.captures:
            capture.release()
        life.captures = ()

    def _clear_away(self, life: Incarnation) -> None:
        """Removes what an incarnation of which nothing is left had for its own."""
        if life.proc_fd is not None:
            os.close(life.proc_fd)
            life.proc_fd = None
        if life.temporary is not None:
            self.shared.removals.add(life.temporary)
            life.temporary = None

    def _note_cleanup(self, cleanup: asyncio.Task[object]) -> None:
        def forget(done: asyncio.Task[object]) -> None:
            self._cleanups = self._cleanups - {done} or NO_TASKS

        self._cleanups |= {cleanup}
        cleanup.add_done_callback(forget)

    async def close(self) -> None:
        """Waits for what is still read from dead incarnations, then closes the log."""
        self.forget()
        if self._timer is not None:
            self._timer.cancel()
        if self.life is not None and self.life.task is None:
            self.shared.ahead.withdraw(self.life)  # it would begin a start that nobody waits for
        elif self.life is not None and self.life.task is not None:
            self.life.task.cancel()
            await asyncio.gather(self.life.task, return_exceptions=True)
        await self.health_monitor.close()
        if self._cleanups:
            await asyncio.gather(*self._cleanups, return_exceptions=True)
        if self.life is not None and self.worker.exited:  # something of it survives SIGKILL
            self._let_go(self.life)
        self.shared.logs.release(self.log)

    def _last_words(self, cause: str) -> str:
        if self.worker.state in UP:
            return cause
        words = self.stderr_tail(1)
        return f"{cause}: {words[-1]}" if words else cause

    def note(self, level: str, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Writes a line with a level to the worker's log."""
        if self._notes is None:
            self._notes = self.log.stream("log")
        self._notes.line(text.encode("utf-8", "surrogateescape"), level, fields)

    def stderr_tail(self, lines: int) -> list[str]:
        """The last lines that the worker wrote to stderr."""
        return self.log.tail("stderr", lines)

    # -- the line's side

    def _serve(self, request: Request) -> Awaitable[object]:
        return self.service.serve(self, request)

    def _hear(self, notification: Notification) -> None:
        if self.spec.protocol == "mcp":
            self._note_message(notification.params)
        else:
            self.service.handle_notification(self, notification)

    def _note_message(self, params: Mapping[str, object]) -> None:
        """Keeps what an MCP server logs (`notifications/message`)."""
        level, data = str(params.get("level", "info")), params.get("data")
        monitoring = self.spec.monitoring
        if self.spec.mcp.enable_mcp_logging and (
            severity(level) >= severity(monitoring.agent_log_level)
        ):
            fields = {"logger": params["logger"]} if "logger" in params else None
            text = data if isinstance(data, str) else codec.encode(data).decode()
            self.note(level, text, fields)

    def _list(self, catalogue: Catalogue) -> None:
        self.on_catalogue(catalogue)

    def _update(self, uri: str) -> None:
        self.on_updated(uri)

    @property
    def channel(self) -> Channel:
        """The connection to a worker that speaks corral.

        Raises:
            WorkerFailed: it has none now.
        """
        line = self.life.line if self.life is not None else None
        if not isinstance(line, CorralLine) or line.channel is None:
            raise WorkerFailed(
                f'cannot reach worker "{self.id}": it is not running', worker=self.id
            )
        return line.channel

    @property
    def session(self) -> Session:
        """The connection to an MCP server.

        Raises:
            NotInitialized: it has none now.
        """
        line = self.life.line if self.life is not None else None
        if not isinstance(line, McpLine) or self.worker.state not in UP:
            raise NotInitialized(f'cannot reach MCP server "{self.spec.name}": it is not ready')
        return line.session


def _ignore(_: object) -> None:
    return


async def _clean_up(line: Line, captures: Sequence[Capture], error: WorkerFailed) -> None:
    """After a death: the last words from the pipes, then the descriptors are closed."""
    await asyncio.gather(line.finish(error), *(capture.drain(DRAIN_S) for capture in captures))


def utc_now() -> str:
    """The wall-clock time for people, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _code_and_signal(status: int) -> tuple[int | None, str | None]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return None, signal.Signals(number).name
        except ValueError:
            return None, f"SIG{number}"
    return os.waitstatus_to_exitcode(status), None


def _cause_of_death(report: Exit) -> str:
    if report.lost:
        return report.cause
    code, name = _code_and_signal(report.status)
    return f"killed by {name}" if name is not None else f"exited with status {code}"


def _exit_facts(report: Exit) -> dict[str, object]:
    code, name = _code_and_signal(report.status)
    return {"result": "signaled" if name else "exited", "code": code, "signal": name}
