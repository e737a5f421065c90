"""Supervises one worker: performs the actions that `lifecycle.transitions` decides, and sends every outcome back as an event.

A WorkerSupervisor lives as long as its worker is configured; each incarnation has its process, its pipes and
its `Line`, the protocol that is spoken with it. Outcomes that belong to an earlier incarnation are
recognised by their unit and dropped. Nothing here decides when to start, stop or kill.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping

from msgspec import Struct, convert
from msgspec.structs import replace

from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.protocol.messages import Era
from corral.mcp.upstream.session import Session
from corral.supervisor.config.spec.probe_spec import Readiness
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.logs.capture import Fields, LogHandover, LogStream, LogWriter
from corral.supervisor.records.logs.file_format import severity
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.worker.contract import codec
from corral.worker.contract.channel import Channel
from corral.worker.contract.errors import NotInitialized, WorkerFailed
from corral.worker.contract.jsonrpc import Notification, Request
from corral.worker.contract.read_turns import ReadTurns

from ..lifecycle import start_failure, state_machine, transitions
from ..lifecycle.cordon import HANDS_NOTHING_OVER, TAKES_NOTHING_NEW, Unschedulable
from ..lifecycle.state_machine import UP, LastExit, State, Worker
from ..process.parent import Exit
from .health_monitor import HealthMonitor
from .incarnation import Incarnation, LifeHandover, bring_up, is_serving
from .job import Job
from .line import CorralLine, Line, LineHandover, Log, McpLine, line_of
from .probes import Finding
from .requests import Requests
from .shared import Shared, utc_now
from .worker_changes import WorkerChanges, publish, publish_transition

PAUSED = "paused"
"""Reason of a freeze on request."""

LATE_S = 0.1
"""Seconds of delay of a deadline after which unread messages are expected."""

READ_S = 0.02
"""Seconds for reading such messages before a deadline is judged."""

READINGS = 5
"""Number of times that one deadline is put off for that."""

EXITS_KEPT = 10
"""Number of exits that `show` lists per worker."""

# One for all, where there is nothing: an empty set of its own costs each of thousands of supervisors 216 bytes.
NO_EVENTS: frozenset[asyncio.Event] = frozenset()
NO_CLEANUPS: frozenset[asyncio.Future[list[object]]] = frozenset()
NO_CORDONS: frozenset["Unschedulable"] = frozenset()
NOTHING_RUNS: dict[str, float] = {}  # nothing is ever put into it


class WorkerHandover(Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: `worker` has the fields of `Worker` but its spec, which is read again."""

    worker: Mapping[str, object]
    exits: tuple[tuple[int, LastExit], ...]
    rested_at: float
    log: LogHandover
    life: LifeHandover | None
    line: LineHandover | None = None
    running: Mapping[str, float] = {}

    @property
    def descriptors(self) -> list[int]:
        """Returns the descriptors that are handed over."""
        return [*([] if self.life is None else self.life.descriptors), *(() if self.line is None else self.line.fds)]


class _LineHooks:
    """Connects the line of one incarnation with its supervisor."""

    __slots__ = ("_supervisor", "incarnation", "log", "printed")

    def __init__(self, supervisor: "WorkerSupervisor", incarnation: int) -> None:
        self._supervisor = supervisor
        self.incarnation = incarnation
        self.printed = supervisor.log.stream("stdout")
        self.log: Log = self.printed.line

    @property
    def name(self) -> str:
        return self._supervisor.id

    @property
    def generation(self) -> int:
        return self._supervisor.shared.generation

    @property
    def turns(self) -> ReadTurns:
        return self._supervisor.shared.turns

    @property
    def era_hint(self) -> Era | None:
        return self._supervisor.era

    def initial(self) -> Mapping[str, object]:
        life = self._supervisor.life
        found = (life.checkpoint if life is not None else None) or {}
        hold = self._supervisor.shared.placements.find(self._supervisor.spec.name)
        return found if hold is None else {**found, "fencing_token": hold.fencing_token}

    def serve(self, request: Request) -> Awaitable[object]:
        return self._supervisor.requests.answer(self._supervisor, request)

    def receive(self, notification: Notification) -> None:
        if self._supervisor.spec.protocol == "mcp":
            self._log_message(notification.params)
        else:
            self._supervisor.requests.take(self._supervisor, notification)

    def _log_message(self, params: Mapping[str, object]) -> None:
        """Logs a line of an MCP server (`notifications/message`)."""
        level, data = str(params.get("level", "info")), params.get("data")
        spec = self._supervisor.spec
        if not spec.mcp.enable_mcp_logging:
            return
        if severity(level) >= severity(spec.monitoring.agent_log_level):
            fields = {"logger": params["logger"]} if "logger" in params else None
            text = data if isinstance(data, str) else codec.encode(data).decode()
            self._supervisor.note(level, text, fields)

    def catalogue_changed(self, catalogue: Catalogue) -> None:
        self._supervisor.on_catalogue(catalogue)

    def resource_updated(self, uri: str) -> None:
        self._supervisor.on_updated(uri)

    async def token(self, wish: Mapping[str, object]) -> object:
        return await self._supervisor.requests.token_of(self._supervisor.spec, wish)

    async def probe(self, ready: Readiness) -> Finding:
        supervisor = self._supervisor
        life = supervisor.life
        pid = str(life.child.pid) if life is not None and life.child is not None else ""
        return await supervisor.shared.probes.ask(
            ready,
            supervisor.spec,
            supervisor.id,
            timeout_s=ready.timeout,
            environment={"CORRAL_CHECK_NAME": "ready", "CORRAL_CHECK_PID": pid},
        )


class WorkerSupervisor:
    """Supervises one worker."""

    # There may be thousands.
    __slots__ = (
        "__weakref__",
        "_armed_for",
        "_changes",
        "_cleanups",
        "_cordons",
        "_events",
        "_excused_to",
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
        "id",
        "job",
        "life",
        "log",
        "on_catalogue",
        "on_updated",
        "requests",
        "rested_at",
        "running",
        "shared",
        "spec",
        "worker",
    )

    def __init__(
        self,
        shared: Shared,
        requests: "Requests[WorkerSupervisor]",
        changes: "WorkerChanges[WorkerSupervisor]",
        worker_id: str,
        spec: Spec,
        *,
        incarnation: int,
    ) -> None:
        self.shared = shared
        self.requests = requests
        self._changes = changes
        self.id = worker_id
        """The worker's id, `NAME-N`."""
        self.worker = Worker(worker_id, spec, incarnation=incarnation)
        self.spec = spec
        """The spec in force: that of `worker`, as an attribute, because every loop over workers reads it."""
        self.life: Incarnation | None = None
        self.running = NOTHING_RUNS
        self.rested_at = 0.0
        self.exits: tuple[tuple[int, LastExit], ...] = ()
        self.era: Era | None = None
        self.on_catalogue: Callable[[Catalogue], None] = _ignore
        self.on_updated: Callable[[str], None] = _ignore
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
        self._cleanups = NO_CLEANUPS
        self._cordons = NO_CORDONS
        self.has_room = False
        """Room is kept for it: it is started as soon as it is in the store."""
        self.job = Job()
        self.health_monitor = HealthMonitor(self, shared.surroundings)

    def bind_catalogue(
        self, era: Era | None, on_catalogue: Callable[[Catalogue], None], on_updated: Callable[[str], None]
    ) -> None:
        """Connects the supervisor of an MCP server with its catalogue, before the first start.

        `era` is that of the last handshake, tried first. `on_catalogue` takes the catalogue at each handshake and after
        each change, `on_updated` the URI of a changed resource.
        """
        self.era, self.on_catalogue, self.on_updated = era, on_catalogue, on_updated

    # -- from one program of the daemon to the next

    @property
    def obstacle(self) -> str:
        """Returns what is under way that no other program can go on with; empty where it may be handed over."""
        worker, life = self.worker, self.life
        if worker.tree and (life is None or life.child is None or life.task is not None):
            return f'worker "{self.id}" is starting'
        if self._cleanups or self.job.is_to_end or (worker.exited and worker.tree):
            return f'worker "{self.id}" is ending'
        if self._cordons - {Unschedulable.HIBERNATED}:
            return f'worker "{self.id}" is being replaced'
        if not worker.tree or life is None:
            return ""
        return life.line.obstacle if isinstance(life.line, CorralLine | McpLine) else ""

    def hand_over(self) -> WorkerHandover:
        """Returns what the next program goes on from; for one without an `obstacle`."""
        life = self.life if self.worker.tree else None
        child = None if life is None else life.child
        return WorkerHandover(
            worker={key: getattr(self.worker, key) for key in Worker.__struct_fields__ if key != "spec"},
            exits=self.exits,
            rested_at=self.rested_at,
            log=self.log.hand_over(),
            life=None if life is None or child is None else life.hand_over(),
            line=life.line.hand_over(child) if life and child and isinstance(life.line, CorralLine | McpLine) else None,
            running=self.running,
        )

    def hold(self) -> None:
        """Reads no more messages of the worker, until `release`."""
        if self.life is not None and isinstance(self.life.line, CorralLine | McpLine):
            self.life.line.hold()

    def release(self) -> None:
        """Reads its messages again."""
        if self.life is not None and isinstance(self.life.line, CorralLine | McpLine):
            self.life.line.release()

    def leave(self) -> None:
        """Sends nothing more to the worker and decides nothing more: the next program does."""
        if self.life is not None and isinstance(self.life.line, CorralLine | McpLine):
            self.life.line.leave()
        if self._timer is not None:
            self._timer.cancel()

    async def take_up(self, left: WorkerHandover) -> None:
        """Goes on from what the program before has left; `resume` follows."""
        self.worker = convert({**left.worker, "spec": self.spec}, Worker)
        self.exits, self.rested_at = left.exits, left.rested_at
        self.log.take_up(left.log)
        if left.life is not None:
            line = line_of(self.spec, _LineHooks(self, left.life.number))
            parent = self.shared.zygotes.parent(left.life.parent)
            self.life = Incarnation.taken_up(left.life, line, parent, self.log)
            if isinstance(line, CorralLine | McpLine) and left.line is not None:
                await line.take_up(left.line)
                self._note_announced(line)
        self.running = dict(left.running) or NOTHING_RUNS

    def resume(self) -> None:
        """Judges and reads the worker again, when all that runs on it was taken up."""
        self._excused_to = self._loop.time()  # nothing was read meanwhile
        self.release()
        self._rearm()
        self.health_monitor.changed()
        self._changes.publish(self)

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
            self.publish_load()
        else:
            self.health_monitor.changed()
            self._changes.publish(self)

    def _step(self, event: state_machine.Event) -> None:
        before = self.worker
        self.worker, actions = transitions.step(before, event, self._loop.time())
        if self.worker.incarnation != before.incarnation:
            actions = self._number(actions)
        self.spec = self.worker.spec
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
                publish_transition(self.shared.bus, self.worker, action, number)
            else:
                self._perform(action)

    def _number(self, actions: list[state_machine.Action]) -> list[state_machine.Action]:
        """Gives a beginning life the next number of its worker id, which another supervisor may have used."""
        number = max(self.worker.incarnation, self.shared.incarnations.last(self.id) + 1)
        self.worker = replace(self.worker, incarnation=number)
        spawn = state_machine.Spawn(number)
        return [spawn if isinstance(each, state_machine.Spawn) else each for each in actions]

    async def until(self, done: Callable[[Worker], bool]) -> Worker:
        """Waits until `done` holds for the worker, and returns it. The caller bounds the time."""
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
        floor = max(self._excused_to, self.shared.stall_clock.floor())
        serves = is_serving(self.life, self.worker, self.shared, now)
        self.send(state_machine.Tick(max(self._last_message_at, floor), serves))
        # A timer may fire a hair before its time: then the deadline still stands, and is armed again.

    @property
    def _last_message_at(self) -> float:
        return self.life.line.last_message_at if self.life is not None else 0.0

    def excuse(self, frozen_s: float) -> None:
        """Excuses a silence of the given seconds from now on."""
        self._excused_to = max(self._excused_to, self._last_message_at) + frozen_s

    def reconfigure(self, spec: Spec) -> None:
        """Adopts a changed spec; settings that need a new process take effect with the next one."""
        self.log.configure(LogLimits.of(spec.monitoring))
        if self.life is not None:
            self.life.line.configure(spec)
        if spec.monitoring != self.spec.monitoring:  # it could not know what it must not exceed
            self._excused_to = max(self._excused_to, self._loop.time())
        self.send(state_machine.Reconfigure(spec))

    def start_after(self, ready: Coroutine[None, None, None], reason: str) -> None:
        """Starts the worker once `ready` is done; any later request for it cancels that."""
        self.job.run_after(ready, lambda: self.send(state_machine.Start()))
        self.send(state_machine.Want(reason))

    @property
    def takes_room(self) -> bool:
        """Returns True if it has, or is about to have, processes, which count against the limit."""
        worker = self.worker
        backs_off = worker.state is State.INITIAL and worker.deadline is not None
        is_coming = self.has_room or (worker.waits and self.job.is_waiting)
        return worker.tree or backs_off or is_coming

    def rest(self, last: LastExit, *, done: bool = False) -> None:
        """Notes how it ended under an earlier daemon, a job as `done`; before its first event here."""
        self.worker = transitions.rested(self.worker, last, done=done)

    def succeed(self, former: "WorkerSupervisor") -> None:
        """Takes the place of another supervisor of this worker id, with what is counted over all its lives."""
        counted, own = former.worker, self.worker
        renewals, last = counted.renewals + 1, own.last_exit or counted.last_exit
        restarts = counted.restarts + own.restarts
        self.worker = replace(own, restarts=restarts, renewals=renewals, last_exit=last)
        self.exits = (*self.exits, *former.exits)[:EXITS_KEPT]

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

    @property
    def is_open_to_calls(self) -> bool:
        """Returns whether a server's worker gets new calls: not while it is replaced in its place."""
        return self._cordons.isdisjoint(TAKES_NOTHING_NEW)

    def publish_change(self) -> None:
        """Notifies listeners of a possible change of the worker."""
        self._changes.publish(self)

    def publish_load(self) -> None:
        """Notifies listeners of load of a change of what the worker does."""
        self._changes.publish_load(self)

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
        return self._cordons.isdisjoint(TAKES_NOTHING_NEW) and self.takes_tasks

    def begin(self, task_id: str) -> None:
        """Notes that the worker got a task."""
        if not self.running:
            self.running = {}
        self.running[task_id] = self._loop.time()
        if self.worker.state is not State.BUSY:
            self.send(state_machine.Worked(True))

    def end(self, task_id: str) -> None:
        """Notes that the worker ended a task."""
        if self.running.pop(task_id, None) is not None and not self.running:
            self.running = NOTHING_RUNS
            self.rested_at = self._loop.time()
            self.send(state_machine.Worked(False))

    async def load_checkpoint(self) -> Mapping[str, object]:
        """Returns the state that the next incarnation begins with."""
        return await self.requests.beginning_of(self)

    def spawned(self, incarnation: Incarnation) -> None:
        """Takes note that the process runs, and of reports of its end that came earlier."""
        assert incarnation.child is not None, "a launch that does not raise has a child"
        self.send(state_machine.Spawned(incarnation.child.pid))
        for report in incarnation.early:
            if report is None:
                self.emptied(incarnation.unit)
            else:
                self.exited(report)

    def exited(self, report: Exit) -> None:
        """Takes the launcher's report that the leader is dead."""
        life = self.life
        if life is None or life.unit != report.unit:
            return
        if life.child is None:
            life.early += (report,)  # it died before its start was reported
            return
        death = life.exited(report, self.spec.resources)
        excess = death.excess
        text = f'cannot go on with worker "{self.id}": {death.cause}'
        error = WorkerFailed(text, worker=self.id, **death.facts)
        if excess is not None and (
            excess.key == "max_memory_bytes" or self.worker.state is not State.SHUTTING_DOWN
        ):  # a kill at the end of its grace looks like one for processor time; the kernel's OOM killer counts its own
            publish(self.shared.bus, excess.event, self.worker, **excess.facts)
        message = death.cause
        if self.worker.state not in UP:
            lines = self.log.tail("stderr", start_failure.LINES)
            message = start_failure.words_of_end(self.spec, death.cause, death.code, lines)
        self.send(
            state_machine.Exited(
                death.code,
                death.signal,
                at=utc_now(),
                jitter=random.random(),
                result=None if excess is None else excess.result,
                message=message,
            )
        )
        finishing = life.finish(error)
        if finishing is not None:
            self._cleanups |= {finishing}
            finishing.add_done_callback(self._forget_cleanup)

    def _forget_cleanup(self, done: asyncio.Future[list[object]]) -> None:
        self._cleanups = self._cleanups - {done} or NO_CLEANUPS

    def emptied(self, unit: str) -> None:
        """Takes the launcher's report that no process of the tree is left."""
        self.shared.sockets.ended(unit)
        life = self.life
        if life is None or life.unit != unit:
            return
        if life.child is None:
            life.early += (None,)
            return
        life.release_folders(self.shared.removals)
        self.send(state_machine.Emptied())
        life.release_pipes()  # only now: a file that notes a life is not removed to be made again

    # -- actions out

    def _perform(self, action: state_machine.Action) -> None:
        if isinstance(action, state_machine.Spawn):
            self._spawn(action.incarnation)
            return
        life = self.life
        if life is None:
            return
        if isinstance(action, state_machine.Ask):
            life.thaw_to_end()
            if not life.line.ask(action.grace_s):
                life.signal(self.spec.process.stop_signal, tree=False)
        elif isinstance(action, state_machine.Signal):
            life.thaw_to_end()
            life.signal(action.name, tree=action.tree)
        elif isinstance(action, state_machine.Freeze):
            life.freeze(PAUSED)
            publish(self.shared.bus, "agent.paused", self.worker)
        elif isinstance(action, state_machine.Thaw):
            life.thaw(PAUSED)
            publish(self.shared.bus, "agent.resumed", self.worker)
        else:
            life.kill()
            if life.child is None and life.abandoned is not None:
                self.shared.zygotes.kill(self.spec.name, life.unit)

    def signal(self, name: str, *, tree: bool) -> None:
        """Sends a signal to the leader, or to every process group of the tree."""
        if self.life is not None:
            self.life.signal(name, tree=tree)

    def _spawn(self, number: int) -> None:
        unit = f"{self.id}#{number}"
        self.log.expect()
        line = line_of(self.spec, _LineHooks(self, number))
        life = Incarnation(number, unit, line, self._loop.time(), self.shared.launcher)
        life.numbered = self.shared.incarnations.claim(self.id, number)
        self.life = life
        if self.spec.protocol == "none" and self.spec.ready is None:
            leave = self.shared.start_gate.leave  # it is up as soon as it is launched
            self.shared.start_gate.enter(life, functools.partial(self._begin, life, leave))
        else:
            self._begin(life)

    def _begin(self, life: Incarnation, done: Callable[[object], None] | None = None) -> None:
        life.task = self._loop.create_task(self._bring_up(life))
        life.task.add_done_callback(life.forget_task)
        if done is not None:
            life.task.add_done_callback(done)

    async def _bring_up(self, life: Incarnation) -> None:
        event = await bring_up(life, self, self.shared)
        if life.has_failed_handshake:
            self.era = None  # some servers end when they are asked in the wrong era
        if event is None or self.life is not life:
            return
        if isinstance(event, state_machine.Shaken):
            self._note_announced(life.line)
        self.send(event)

    def _note_announced(self, line: Line) -> None:
        """Takes note of what the program has announced."""
        if isinstance(line, CorralLine):
            self.announced = line.announced
        elif isinstance(line, McpLine):
            self.era = line.session.era
            self.on_catalogue(line.session.catalogue)

    async def close(self) -> None:
        """Waits for what is still read from dead incarnations, then closes the log."""
        self.job.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self.life is not None and self.life.task is None:
            # else the gate would begin a start whose task nothing awaits
            self.shared.start_gate.withdraw(self.life)
        elif self.life is not None and self.life.task is not None:
            self.life.task.cancel()
            await asyncio.gather(self.life.task, return_exceptions=True)
        await self.health_monitor.close()
        if self._cleanups:
            await asyncio.gather(*self._cleanups, return_exceptions=True)
        if self.life is not None and self.worker.exited:  # something of it survives SIGKILL
            self.life.release_pipes()
        self.shared.logs.release(self.log)
        if not self.worker.tree:
            self.life = None  # its line refers to this supervisor: without a circle both are freed at once

    def note(self, level: str, text: str, fields: Fields = None, task: str | None = None) -> None:
        """Writes a line with a level to the worker's log, as one of a task where that is known."""
        self._notes = self._notes or self.log.stream("log")
        self._notes.line(text.encode("utf-8", "surrogateescape"), level, fields, task=task)

    @property
    def channel(self) -> Channel:
        """Returns the connection to a worker that speaks corral."""
        line = self.life.line if self.life is not None else None
        if not isinstance(line, CorralLine) or line.channel is None:
            words = f'cannot reach worker "{self.id}": it is not running'
            raise WorkerFailed(words, worker=self.id)
        return line.channel

    @property
    def session(self) -> Session:
        """Returns the connection to an MCP server."""
        line = self.life.line if self.life is not None else None
        if not isinstance(line, McpLine) or self.worker.state not in UP:
            raise NotInitialized(f'cannot reach MCP server "{self.spec.name}": it is not ready')
        return line.session


def _ignore(_: object) -> None:
    return
