"""The hands of the lifecycle: performs what `lifecycle.step` decides for one worker, and reports back.

A Keeper lives as long as its worker is configured; each incarnation has its process, its pipes and
its `Line`, the protocol that is spoken with it. Outcomes that belong to an earlier incarnation are
recognised by their unit and dropped. Nothing here decides when to start, stop or kill.
"""

import asyncio
import logging
import os
import pwd
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ..mcp.messages import Era, Tool
from ..mcp.session import Session
from ..worker.channel import Channel
from ..worker.errors import (
    CorralError,
    NotInitialized,
    Overloaded,
    SpawnFailed,
    Timeout,
    WorkerFailed,
)
from ..worker.wire import Notification, Request
from . import lifecycle
from .bus import Bus
from .lifecycle import UP, LastExit, State, Worker
from .line import DRAIN_S, CorralLine, Hooks, Line, McpLine, line_of
from .logs import Capture, LogStore, LogWriter
from .process import Child, Exit, Launch, Launcher, Scope
from .spec import Spec
from .store import Store

EXITS_KEPT = 10
"""Ends that `show` lists per worker."""

logger = logging.getLogger(__name__)


class Wakefulness:
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
    """What all keepers share."""

    launcher: Launcher
    bus: Bus
    store: Store
    logs: LogStore
    generation: int
    environ: Mapping[str, str]
    sdk_path: Path
    wakefulness: Wakefulness
    starting: asyncio.Semaphore
    ordinary_user: bool
    default_user: str | None = None


class Service(Protocol):
    """Who serves what workers ask for and say."""

    async def serve(self, keeper: "Keeper", request: Request) -> object:
        """Answers a request of a worker."""
        ...

    def hear(self, keeper: "Keeper", notification: Notification) -> None:
        """Takes a notification of a worker."""
        ...

    def changed(self, keeper: "Keeper") -> None:
        """Called after every change of a worker's state."""
        ...

    def removed(self, agent: str) -> None:
        """Called when an agent is no more."""
        ...


@dataclass
class Incarnation:
    """One life of the worker."""

    number: int
    unit: str
    line: Line
    started_at: float
    child: Child | None = None
    captures: list[Capture] = field(default_factory=list[Capture])
    task: asyncio.Task[None] | None = None
    doomed: bool = False
    early: list[Exit | None] = field(default_factory=list["Exit | None"])


class Keeper:
    """Keeps one worker."""

    def __init__(
        self, shared: Shared, worker_id: str, spec: Spec, service: Service, *, incarnation: int
    ) -> None:
        self.shared = shared
        self.service = service
        self.worker = Worker(worker_id, spec, incarnation=incarnation)
        self.life: Incarnation | None = None
        self.running: dict[str, float] = {}
        self.rested_at = 0.0
        self.exits: list[tuple[int, LastExit]] = []
        self.tools: tuple[Tool, ...] = ()
        self.era: Era | None = None
        self.announced: tuple[str, ...] = ()
        self.log: LogWriter = shared.logs.writer(
            spec.name,
            worker_id,
            max_file_bytes=spec.monitoring.max_log_file_bytes,
            max_files=spec.monitoring.max_log_files,
        )
        self._notes = self.log.stream("log")
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: set[asyncio.Event] = set()
        self._events: list[lifecycle.Event] = []
        self._stepping = False
        self._cleanups: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    @property
    def spec(self) -> Spec:
        """The spec in force."""
        return self.worker.spec

    @property
    def id(self) -> str:
        """The worker's id, `NAME-N`."""
        return self.worker.id

    # -- events in

    def send(self, event: lifecycle.Event) -> None:
        """Takes an event to the lifecycle and performs what it decides."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                self._step(self._events.pop(0))
        finally:
            self._stepping = False
        self._rearm()
        for waiting in self._waiting:
            waiting.set()
        self.service.changed(self)

    def _step(self, event: lifecycle.Event) -> None:
        before = self.worker
        self.worker, actions = lifecycle.step(before, event, self._loop.time())
        if self.worker.last_exit is not None and self.worker.last_exit is not before.last_exit:
            if self.exits and self.exits[0][0] == before.incarnation:
                del self.exits[0]  # the same end, of which more is known now
            self.exits.insert(0, (before.incarnation, self.worker.last_exit))
            del self.exits[EXITS_KEPT:]
        for action in actions:
            self._perform(action)

    async def until(self, done: Callable[[Worker], bool]) -> Worker:
        """The worker, as soon as `done` says yes to it. Whoever calls this bounds it."""
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            while not done(self.worker):
                changed.clear()
                await changed.wait()
        finally:
            self._waiting.discard(changed)
        return self.worker

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.worker.deadline is not None:
            self._timer = self._loop.call_at(self.worker.deadline, self._tick)

    def _tick(self) -> None:
        heard_at = self.life.line.heard_at if self.life is not None else 0.0
        self.send(lifecycle.Tick(max(heard_at, self.shared.wakefulness.floor())))
        # A timer may fire a hair before its time: then the deadline still stands, and is armed again.

    def reconfigure(self, spec: Spec) -> None:
        """Takes a changed spec; what needs a new process takes effect with the next one."""
        self.log = self.shared.logs.writer(
            spec.name,
            self.id,
            max_file_bytes=spec.monitoring.max_log_file_bytes,
            max_files=spec.monitoring.max_log_files,
        )
        self.send(lifecycle.Reconfigure(spec))

    def start_after(self, ready: Coroutine[None, None, None], reason: str) -> None:
        """Starts the worker once `ready` is done; a stop meanwhile cancels that."""
        self.forget_start()
        self.send(lifecycle.Want(reason))

        async def follow() -> None:
            await ready
            self.send(lifecycle.Start())

        self._following = self._loop.create_task(follow())

    def forget_start(self) -> None:
        """Cancels a start that still waits for others."""
        if self._following is not None:
            self._following.cancel()
            self._following = None

    def begin(self, task_id: str) -> None:
        """The worker has been given work."""
        self.running[task_id] = self._loop.time()
        self.send(lifecycle.Worked(True))

    def end(self, task_id: str) -> None:
        """The worker has put work down."""
        if self.running.pop(task_id, None) is not None and not self.running:
            self.rested_at = self._loop.time()
            self.send(lifecycle.Worked(False))

    def exited(self, report: Exit) -> None:
        """The launcher says that the leader is dead."""
        life = self.life
        if life is None or life.unit != report.unit:
            return
        if life.child is None:
            life.early.append(report)  # it died before we were told that it lived
            return
        error = WorkerFailed(
            f'cannot go on with worker "{self.id}": {_cause_of_death(report)}',
            worker=self.id,
            **_exit_facts(report),
        )
        cleanup = self._loop.create_task(self._clean_up(life, error))
        self._cleanups.add(cleanup)
        cleanup.add_done_callback(self._cleanups.discard)
        code, name = _code_and_signal(report.status)
        self.send(
            lifecycle.Exited(
                code,
                name,
                at=utc_now(),
                jitter=random.random(),
                result=_LIMIT_SIGNALS.get(name or ""),
                message=self._last_words(report),
            )
        )

    def emptied(self, unit: str) -> None:
        """The launcher says that nothing of the tree is left."""
        life = self.life
        if life is None or life.unit != unit:
            return
        if life.child is None:
            life.early.append(None)
            return
        self.send(lifecycle.Emptied())

    # -- actions out

    def _perform(self, action: lifecycle.Action) -> None:
        if isinstance(action, lifecycle.Transition):
            self._publish(action)
        elif isinstance(action, lifecycle.Spawn):
            self._spawn(action.incarnation)
        elif isinstance(action, lifecycle.Ask):
            self._ask(action.grace_s)
        elif isinstance(action, lifecycle.Signal):
            self.signal(action.name, tree=action.tree)
        else:
            self._kill()

    def _publish(self, transition: lifecycle.Transition) -> None:
        flip = {transition.old, transition.new} == {State.BUSY, State.IDLE}
        self.shared.bus.publish(
            "worker.state",
            agent=self.spec.name,
            worker=self.id,
            incarnation=self.worker.incarnation,
            store=not (flip or transition.new is State.BUSY),
            **{"from": str(transition.old), "to": str(transition.new)},
            reason=transition.reason,
        )
        if transition.new is State.TERMINATED:
            logger.info("worker %s is Terminated: %s", self.id, transition.reason)

    def _ask(self, grace_s: float) -> None:
        assert self.life is not None, "only what runs is asked to end"
        if not self.life.line.ask(grace_s):
            self.signal(self.spec.process.stop_signal, tree=False)

    def signal(self, name: str, *, tree: bool) -> None:
        """Sends a signal to the leader, or to every process group of the tree."""
        if self.life is not None:
            scope: Scope = "tree" if tree else "leader"
            try:
                self.shared.launcher.signal(self.life.unit, signal.Signals[name], scope)
            except Overloaded as error:  # the next stage comes by its deadline
                logger.warning("%s", error)

    def _kill(self) -> None:
        life = self.life
        if life is None:
            return
        if life.child is None:
            life.doomed = True
        else:
            self.shared.launcher.kill(life.unit)

    def _spawn(self, number: int) -> None:
        unit = f"{self.id}#{number}"
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
                tools=self._list,
            ),
        )
        life = Incarnation(number, unit, line, self._loop.time())
        self.life = life
        life.task = self._loop.create_task(self._bring_up(life))

    async def _bring_up(self, life: Incarnation) -> None:
        """From the decision to start to Ready, or to the reason why not."""
        try:
            async with self.shared.starting:
                await self._launch(life)
        except CorralError as error:
            retryable = bool(error.data.get("retryable")) or not isinstance(error, SpawnFailed)
            failed = lifecycle.SpawnFailed(
                error.message, retryable=retryable, at=utc_now(), jitter=random.random()
            )
            self.send(failed)
            return
        if self.spec.protocol == "none":
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
                self.send(lifecycle.Refused(error.message))
            return
        if self.life is life:
            self._note_agreed(life.line)
            self.send(lifecycle.Shaken())

    def _note_agreed(self, line: Line) -> None:
        if isinstance(line, CorralLine):
            self.announced = line.announced
        elif isinstance(line, McpLine):
            self.era = line.session.era
            self._list(line.session.tools)

    async def _launch(self, life: Incarnation) -> None:
        if life.doomed:
            raise SpawnFailed(f'cannot start worker "{self.id}": it was stopped first')
        await self.shared.store.write(
            (
                "INSERT INTO incarnation (worker, value) VALUES (?, ?)"
                " ON CONFLICT (worker) DO UPDATE SET value = excluded.value",
                (self.id, life.number),
            )
        )
        has_stdin = self.spec.protocol != "none"
        _refuse_what_is_not_there(self.spec)
        launch = self._launch_of(life.unit)
        child = await self.shared.launcher.spawn(launch, pipe_stdin=has_stdin)
        life.child = child
        life.started_at = self._loop.time()
        life.captures.append(Capture(child.stderr_fd, self.log.stream("stderr")))
        if not has_stdin and child.stdout_fd is not None:
            life.captures.append(Capture(child.stdout_fd, self.log.stream("stdout")))
        self.send(lifecycle.Spawned(child.pid))
        for report in life.early:
            if report is None:
                self.emptied(life.unit)
            else:
                self.exited(report)

    def _launch_of(self, unit: str) -> Launch:
        spec = self.spec
        process = spec.process
        env = {
            name: self.shared.environ[name]
            for name in process.inherit_environment
            if name in self.shared.environ
        }
        if process.environment_file is not None:
            env |= read_environment_file(Path(process.environment_file))
        user = process.user or self.shared.default_user
        if user is not None:
            env |= _home_of(user)
        env |= spec.environment
        argv = spec.command
        if spec.entrypoint is not None:
            python = spec.python or sys.executable
            argv = (python, "-P", "-m", "corral.worker", spec.entrypoint)
            if spec.python is not None:
                inherited = env.get("PYTHONPATH")
                paths = [str(self.shared.sdk_path), *([inherited] if inherited else [])]
                env["PYTHONPATH"] = os.pathsep.join(paths)
        return Launch(
            unit=unit,
            argv=argv,
            env=env,
            cwd=process.working_directory,
            umask=int(process.umask, 8),
            nice=process.nice,
            user=user,
            group=process.group,
            no_new_privs=process.isolation != "none",
            limits=self._limits(),
        )

    def _limits(self) -> dict[str, int]:
        resources = self.spec.resources
        limits = {"NOFILE": resources.max_file_descriptors, "CORE": 0}
        optional = {
            "CPU": resources.max_cpu_seconds,
            "FSIZE": resources.max_file_size_bytes,
            "AS": resources.max_address_space_bytes,
        }
        limits |= {name: value for name, value in optional.items() if value}
        if resources.max_processes:
            if not self.shared.ordinary_user:
                raise SpawnFailed(
                    f'cannot start worker "{self.id}": max_processes = {resources.max_processes} needs'
                    " a cgroup or an ordinary user, because the kernel does not count root's processes",
                    limit="max_processes",
                    value=resources.max_processes,
                )
            limits["NPROC"] = resources.max_processes
        return limits

    async def _clean_up(self, life: Incarnation, error: WorkerFailed) -> None:
        """After a death: the last words from the pipes, then the descriptors are closed."""
        await asyncio.gather(
            life.line.finish(error), *(capture.drain(DRAIN_S) for capture in life.captures)
        )

    async def close(self) -> None:
        """Waits for what is still read from dead incarnations, then closes the log."""
        self.forget_start()
        if self._timer is not None:
            self._timer.cancel()
        if self.life is not None and self.life.task is not None:
            self.life.task.cancel()
            await asyncio.gather(self.life.task, return_exceptions=True)
        if self._cleanups:
            await asyncio.gather(*self._cleanups, return_exceptions=True)
        self.log.close()

    def _last_words(self, report: Exit) -> str:
        cause = _cause_of_death(report)
        if self.worker.state in UP:
            return cause
        words = self.stderr_tail(1)
        return f"{cause}: {words[-1]}" if words else cause

    def note(self, level: str, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Writes a line with a level to the worker's log."""
        self._notes.line(text.encode("utf-8", "surrogateescape"), level, fields)

    def stderr_tail(self, lines: int) -> list[str]:
        """The last lines that the worker wrote to stderr."""
        return self.log.tail("stderr", lines)

    # -- the line's side

    async def _serve(self, request: Request) -> object:
        return await self.service.serve(self, request)

    def _hear(self, notification: Notification) -> None:
        self.service.hear(self, notification)

    def _list(self, tools: tuple[Tool, ...]) -> None:
        self.tools = tools
        self.service.changed(self)

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
    def takes_tasks(self) -> bool:
        """Whether it is up and can be spoken with: one that closed its pipes lives on until it is hung."""
        line = self.life.line if self.life is not None else None
        channel = line.channel if isinstance(line, CorralLine) else None
        return self.worker.state in UP and channel is not None and not channel.is_closed

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


def _refuse_what_is_not_there(spec: Spec) -> None:
    """A limit that cannot be held is an error at the start, never silently dropped.

    Raises:
        SpawnFailed: with `key`.
    """
    asked: dict[str, object] = {
        "resources.cpu_limit_percent": spec.resources.cpu_limit_percent,
        "resources.max_tokens_per_minute": spec.resources.max_tokens_per_minute,
        "process.read_paths": spec.process.read_paths,
        "process.write_paths": spec.process.write_paths,
        "process.connect_ports": spec.process.connect_ports,
        "recovery.enable_checkpointing": spec.recovery.enable_checkpointing,
        "environment": next((v for v in spec.environment.values() if "${secret:" in v), None)
        and "…",
    }
    for key, value in asked.items():
        if value:
            raise SpawnFailed(
                f'cannot start "{spec.name}": {key} is not available in this version', key=key
            )


def _home_of(user: str) -> dict[str, str]:
    """What login(1) sets: the variables by which programs find their home. An unknown user fails later."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return {}
    return {"HOME": account.pw_dir, "USER": user, "LOGNAME": user, "SHELL": account.pw_shell}


_LIMIT_SIGNALS = {"SIGXCPU": "cpu-time", "SIGXFSZ": "file-size"}


def utc_now() -> str:
    """The wall-clock time for people, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_environment_file(path: Path) -> dict[str, str]:
    """The variables of a file of `NAME=value` lines; `#` begins a comment line, nothing is expanded.

    Raises:
        SpawnFailed: the file cannot be read, or a line is none of these.
    """
    found: dict[str, str] = {}
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise SpawnFailed(f'cannot read environment_file "{path}": {error}') from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise SpawnFailed(
                f'cannot read environment_file "{path}": line {number} has no NAME=value'
            )
        found[name.strip()] = value
    return found


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
        return "the launcher died, and its workers with it"
    code, name = _code_and_signal(report.status)
    return f"killed by {name}" if name is not None else f"exited with status {code}"


def _exit_facts(report: Exit) -> dict[str, object]:
    code, name = _code_and_signal(report.status)
    return {"result": "signaled" if name else "exited", "code": code, "signal": name}
