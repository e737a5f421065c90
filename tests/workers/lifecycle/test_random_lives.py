"""Long random lives of one worker on a simulated machine: whatever happens, the promises hold.

`World` plays the machine and the people: programs that start late or never, crash, hang, ignore what
they are told and leave others behind, and commands at any time. It keeps its own books of what is
wanted and of what the restart policy allows, and checks after every step. A life is its seed:
`PYTHONPATH=tests/support python tests/workers/lifecycle/test_random_lives.py SEED` prints one whole. Planted faults show that the checks see.
"""

import heapq
import inspect
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import asdict, replace

from corral.supervisor.config.spec.probe_spec import Readiness
from corral.supervisor.config.spec.spec import Monitoring, Process, Recovery, Spec
from corral.supervisor.workers.lifecycle import restart_policy, state_machine, transitions
from corral.supervisor.workers.lifecycle.state_machine import (
    TRANSITIONS,
    UP,
    Action,
    Ask,
    Emptied,
    Event,
    Exited,
    Freeze,
    Halt,
    Hang,
    Kill,
    Pause,
    Reconfigure,
    Refused,
    Replace,
    Reset,
    Restart,
    Resume,
    Shaken,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
    Thaw,
    Tick,
    Transition,
    Want,
    Worked,
    Worker,
)
from seeds import seeds

pytestmark = pytest.mark.core

SEEDS = 150
EVENTS = 500
LATE_S = 0.5
"""How late the daemon's loop may be."""
LAUNCH_S_MAX = 40.0
KILLS_MAX = 3
DEATH_S_MAX = 1.5
"""From a signal to the death that it brings."""
GRACE_S = 10.0
HEARTBEAT_TIMEOUT_S = 30.0
SPAWN_TIMEOUT_S = 30.0
GONE_S = LAUNCH_S_MAX + GRACE_S + (KILLS_MAX + 1) * (transitions.KILL_INTERVAL_S + DEATH_S_MAX + LATE_S)
"""After this time nothing is left of a worker that nobody wants."""

READY = Readiness(way="log", target=("listening",))

Step = Callable[[Worker, Event, float], state_machine.Step]


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Program:
    """One incarnation on the machine, and how it will behave."""

    number: int
    running: bool = False
    leader: bool = True
    others: int = 0
    doomed: bool = False
    told_dead: bool = False
    told_empty: bool = False
    hangs_since: float | None = None
    obeys_ask: bool = True
    obeys_signals: bool = True
    kills_needed: int = 1
    kills: int = 0
    frozen_at: float | None = None
    thawed_at: float = 0.0
    plans: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """What it would have done while it was frozen."""

    @property
    def exists(self) -> bool:
        return self.running and (self.leader or self.others > 0)


@dataclass
class Books:
    """What DESIGN says should follow, kept without the code under test."""

    wanted: bool = False
    waits: bool = False
    done: bool = False
    """It is a job, and has succeeded since anybody wanted it to run."""
    ready_s: float = 0.0
    ready_at: float | None = None
    paused_s: float = 0.0
    """Of the time since `ready_at`."""
    restarts: list[float] = field(default_factory=list[float])
    spawn_failures: int = 0
    back_from: float | None = None
    """When the next start is due; None: it rests until somebody starts it."""
    back_until: float = 0.0
    backed_off: tuple[float, int] | None = None
    """Since when it waits for that, and after how many failures."""
    unwanted_at: float = 0.0
    starting_at: float = 0.0
    asked_at: float | None = None
    killed: bool = False
    left: State = State.INITIAL
    cause: str = ""

    def due(self, now: float, low_s: float = 0.0, high_s: float = 0.0) -> None:
        self.back_from, self.back_until = now + low_s, now + high_s
        self.backed_off = None


class World:
    """A machine with one worker on it, and people who use it."""

    def __init__(self, seed: int, step: Step = transitions.step, *, talk: bool = False) -> None:
        self.random = random.Random(seed)
        self.step = step
        self.talk = talk
        self.now = 1000.0
        self.woke_at = 0.0
        self.worker = Worker("w-0", self._spec(), incarnation=self.random.choice([0, 7]))
        self.program: Program | None = None
        self.books = Books()
        self.calm = False
        self.seen = deque[str](maxlen=30)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._spins = 0
        self._ticked_at = 0.0
        self._command_later()

    # -- the course of things

    def live(self, events: int) -> None:
        """Lets things happen, then quiet come, then a last stop: nothing may be left of it."""
        for _ in range(events):
            self._next()
        self.calm = True
        self._send(Resume())
        self._until(self.now + 300.0)
        books = self.books
        if books.wanted and not books.waits and books.back_from is not None:
            self._broken("it did not come back")
        self._send(Reset())
        self._until(self.now + 300.0)
        if (
            books.wanted
            and not books.waits
            and not self._is_job_at_work()
            and self.worker.state not in UP
            and not self._refusing()
        ):
            self._broken("reset did not bring it back")
        self._send(Stop())
        self._until(self.now + 300.0)
        if self.program is not None and self.program.exists:
            self._broken("something outlived the last stop")

    def _is_job_at_work(self) -> bool:
        return self.worker.spec.type == "oneshot" and self.worker.state is State.STARTING

    def _refusing(self) -> bool:
        last = self.worker.last_exit
        unused = self.worker.spec.kind == "mcp" and not self.books.wanted
        return unused or (last is not None and last.result in ("exec-failed", "exited"))

    def _until(self, end: float) -> None:
        while self._next_at() <= end:
            self._next()
        self.now = max(self.now, end)
        self._check()

    def _next_at(self) -> float:
        deadline = self.worker.deadline
        queued = self._queue[0][0] if self._queue else float("inf")
        return min(queued, float("inf") if deadline is None else deadline)

    def _next(self) -> None:
        at = self._next_at()
        if at == float("inf"):
            return
        deadline = self.worker.deadline
        if not self.calm and self.random.random() < 0.004:  # the daemon itself was stopped
            self.now = max(self.now, at) + 60.0
            self.woke_at = self.now
            self._say("the daemon was stalled")
        if deadline is not None and deadline <= at:
            self.now = max(self.now, deadline + self.random.choice([0.0, 0.0, self.random.uniform(0, LATE_S)]))
            self._spins = self._spins + 1 if self.now == self._ticked_at else 0
            self._ticked_at = self.now
            self._demand(self._spins < 10, "it spins")
            self._send(Tick(max(self._heard_at(), self.woke_at)))
            return
        _, _, happen = heapq.heappop(self._queue)
        self.now = max(self.now, at)
        happen()

    def _after(self, delay_s: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._order, happen))

    def _heard_at(self) -> float:
        program = self.program
        if program is None:
            return 0.0
        if program.hangs_since is not None:
            return program.hangs_since
        if program.frozen_at is not None:
            return program.frozen_at
        if self.now - program.thawed_at < 5.0:
            return program.thawed_at - 3600.0  # it has not come to beat again
        if self.woke_at > self.now - 5.0:
            return self.woke_at - 60.0  # its beats are in the pipe, unread
        return self.now - self.random.uniform(0.0, 5.0)

    # -- people

    def _command_later(self) -> None:
        self._after(self.random.expovariate(1 / 6.0), self._command)

    def _command(self) -> None:
        if self.calm:
            return
        self._command_later()
        luck = self.random.random()
        if luck < 0.5:
            self._send(Worked(self.random.random() < 0.5))
        elif luck < 0.60:
            self._send(Tick(max(self._heard_at(), self.woke_at)))  # of an earlier deadline
        elif luck < 0.66:
            self._send(Pause())
            self._after(self.random.choice([2.0, 45.0, 200.0]), self._resume)
        elif luck < 0.67:
            self._send(Resume())
        elif luck < 0.68:
            self._send(Halt("an emergency"))
        elif luck < 0.73:
            self._send(Start())
        elif luck < 0.79:
            self._send(Stop(self.random.choice(["stopped", "hibernated"])))
        elif luck < 0.85:
            self._send(Restart())
        elif luck < 0.87:
            self._send(Replace("task-timeout", "does not let go"))
        elif luck < 0.88:
            self._send(Hang("fails its health check"))
        elif luck < 0.92:
            self._send(Reset())
        elif luck < 0.96:
            self._send(Want("waits for another"))
            self._after(self.random.uniform(0.0, 60.0), self._required_is_up)
        else:
            self._send(Reconfigure(replace(self.worker.spec, recovery=self._recovery())))

    def _resume(self) -> None:
        self._send(Resume())
        if self.random.random() < 0.3:  # which looks at its heart at once
            self._send(Reconfigure(self.worker.spec))

    def _required_is_up(self) -> None:
        if self.books.waits:
            self._send(Start())

    def _spec(self) -> Spec:
        protocol, kind = self.random.choice(
            [("corral", "agent"), ("corral", "agent"), ("mcp", "mcp"), ("none", "agent")]
        )
        is_job = protocol == "none" and self.random.random() < 0.5
        return Spec(
            name="w",
            kind="mcp" if kind == "mcp" else "agent",
            source="test",
            command=("w",),
            protocol="corral" if protocol == "corral" else "mcp" if protocol == "mcp" else "none",
            type="oneshot" if is_job else "service",
            remain=is_job and self.random.random() < 0.5,
            timeout=self.random.choice([0.0, 20.0]) if is_job else 0.0,
            ready=self.random.choice([None, READY]) if protocol == "none" and not is_job else None,
            idle_timeout=self.random.choice([0.0, 45.0]),
            process=Process(shutdown_grace_period=GRACE_S, spawn_timeout=SPAWN_TIMEOUT_S),
            monitoring=Monitoring(heartbeat_timeout=HEARTBEAT_TIMEOUT_S),
            recovery=self._recovery(),
        )

    def _recovery(self) -> Recovery:
        return Recovery(
            enable_auto_restart=self.random.random() < 0.9,
            restart=self.random.choice(["always", "on-failure", "on-failure", "never"]),
            max_restart_attempts=self.random.choice([0, 1, 3, 3, 5]),
            restart_window=self.random.choice([20.0, 60.0, 300.0]),
            restart_backoff_base=self.random.choice([0.5, 1.0, 4.0]),
            restart_backoff_max=self.random.choice([5.0, 30.0]),
            healthy_after=self.random.choice([10.0, 30.0, 200.0]),
        )

    # -- the machine

    def _spawn(self, number: int) -> None:
        chance = self.random.random
        program = Program(number)
        self.program = program
        if not self.calm:
            program.obeys_ask = chance() < 0.6
            program.obeys_signals = chance() < 0.6
            program.others = self.random.choice([0, 0, 0, 1, 2])
            program.kills_needed = self.random.choice([1, 1, 2, KILLS_MAX])
        slow = not self.calm and chance() < 0.03
        self._after(LAUNCH_S_MAX if slow else self.random.uniform(0.0, 0.3), lambda: self._launched(program))

    def _launched(self, program: Program) -> None:
        luck = 1.0 if self.calm else self.random.random()
        if program.doomed and luck < 0.5:
            self._fail(program, "it was stopped first", retryable=False)
        elif luck < 0.08:
            self._fail(program, "EAGAIN", retryable=True)
        elif luck < 0.11:
            self._fail(program, "ENOENT", retryable=False)
        else:
            program.running = True
            self._send(Spawned(1000 + program.number))
            self._plan(program)

    def _fail(self, program: Program, message: str, *, retryable: bool) -> None:
        program.leader, program.others = False, 0
        program.told_dead = program.told_empty = True
        self._books_of_spawn_failure(retryable)
        self._send(SpawnFailed(message, retryable, "", self.random.random()))

    def _plan(self, program: Program) -> None:
        """What a program does that nobody asked it for."""
        shake_s = self.random.uniform(0.05, 3.0)
        if self.worker.spec.type == "oneshot" and self.calm:
            self._dies_later(program, shake_s, (0, None))
            return
        luck = 1.0 if self.calm else self.random.random()
        if luck < 0.12:
            self._dies_later(program, self.random.uniform(0.0, 0.9), self._own_end())
            return
        if luck < 0.16:
            return  # silent for ever
        is_asked = self.worker.spec.protocol != "none" or self.worker.spec.ready is not None
        if luck < 0.18 and self.worker.spec.protocol != "none":
            self._after(shake_s, lambda: self._if_alive(program, Refused("speaks another protocol")))
            return
        if luck < 0.21:
            shake_s += SPAWN_TIMEOUT_S
        if is_asked:
            self._after(shake_s, lambda: self._if_alive(program, Shaken()))
        fate = 1.0 if self.calm else self.random.random()
        lives_s = shake_s + self.random.choice([0.2, 2.0, 15.0, 50.0, 100.0]) * self.random.random()
        if fate < 0.6:
            self._dies_later(program, lives_s, self._own_end())
        elif fate < 0.75:
            self._after(lives_s, lambda: self._hang(program))

    def _own_end(self) -> tuple[int | None, str | None]:
        return self.random.choice([(0, None), (1, None), (None, "SIGSEGV"), (None, "SIGKILL")])

    def _if_alive(self, program: Program, event: Event) -> None:
        if program is self.program and program.leader:
            if program.frozen_at is not None:
                program.plans.append(lambda: self._if_alive(program, event))
            else:
                self._send(event)

    def _hang(self, program: Program) -> None:
        if program.frozen_at is not None:
            program.plans.append(lambda: self._hang(program))
        elif program.leader:
            self._say("hangs from now on")
            program.hangs_since = self.now
            program.obeys_ask = program.obeys_signals = False

    def _dies_later(self, program: Program, delay_s: float, how: tuple[int | None, str | None]) -> None:
        def die() -> None:
            if not program.leader:
                return
            if program.frozen_at is not None and how[1] != "SIGKILL":
                program.plans.append(die)
                return
            program.leader = False
            exited = Exited(*how, at="", jitter=self.random.random())
            self._after(self.random.uniform(0.0, 0.1), lambda: self._tell_dead(program, exited))

        self._after(delay_s, die)

    def _tell_dead(self, program: Program, exited: Exited) -> None:
        first = not program.told_dead
        if program is not self.program:
            return
        program.told_dead = True
        if first and not self._books_of_success(exited):
            self._books_of_death(clean=exited.code == 0)
        before = self.worker
        self._send(exited)
        if not first:
            same = self.worker.history == before.history
            self._demand(same and self.worker.last_exit is before.last_exit, "a death counts twice")
        if first:
            self._tell_if_empty(program)
            if not self.calm and self.random.random() < 0.2:
                self._after(self.random.uniform(0, 4.0), lambda: self._tell_dead(program, exited))

    def _tell_if_empty(self, program: Program) -> None:
        def tell() -> None:
            if program is not self.program:
                return
            program.told_empty = True
            self._send(Emptied())

        if program.told_dead and program.others == 0:
            self._after(self.random.uniform(0.0, 0.1), tell)
            if not self.calm and self.random.random() < 0.1:
                self._after(self.random.uniform(0.2, 9.0), tell)

    def _others_die_later(self, program: Program, delay_s: float) -> None:
        def die() -> None:
            had = program.others
            program.others = 0
            if had:
                self._tell_if_empty(program)

        self._after(delay_s, die)

    # -- one step

    def _send(self, event: Event) -> None:
        before = self.worker
        self._books_of_command(event)
        after, actions = self.step(before, event, self.now)
        self.worker = after
        self._say(f"{event!r} -> {actions!r}")
        if isinstance(event, Halt) and before.tree and not before.exited:
            self._demand(Kill() in actions, "an emergency kills at once")
        if before.deadline is not None and isinstance(event, Tick) and self.now < before.deadline:
            self._demand(after == before and not actions, "a tick of an earlier deadline acts")
        state = before.state
        for action in actions:
            if isinstance(action, Transition):
                self._demand(action.old is state and action.new in TRANSITIONS[state], f"{action} from {state}")
                state = action.new
                self._moved(before, event, action)
            else:
                self._perform(action, event)
        self._demand(state is after.state, "the state changed without a transition")
        self._check()

    def _moved(self, before: Worker, event: Event, move: Transition) -> None:
        books = self.books
        is_shown = before.spec.protocol != "none" or before.spec.ready is not None
        if move.new is State.READY and is_shown:
            self._demand(isinstance(event, Shaken), "Ready without a sign")
        if move.new is State.STARTING:
            books.starting_at = self.now
            books.done = False
            books.backed_off = None
            books.ready_at = books.asked_at = None
            books.killed = False
        elif move.new is State.READY:
            books.ready_at = self.now
            books.paused_s = 0.0
        elif move.new is State.SHUTTING_DOWN:
            books.left = move.old
            books.cause = self._cause(before, event, move)
            if books.cause == "asked" and before.pid is not None:
                books.asked_at = self.now

    def _cause(self, before: Worker, event: Event, move: Transition) -> str:
        if isinstance(event, Stop | Restart):
            return "asked"
        if isinstance(event, Halt):
            return "halted"
        if isinstance(event, Refused):
            return "refused"
        if isinstance(event, Tick) and move.old in UP:
            hangs = self.program is not None and self.program.hangs_since is not None
            if self.worker.cause == "hung":
                self._demand(hangs, "a worker that beats is called hung")
                return "unfit"
            self.books.wanted, self.books.unwanted_at = False, self.now  # unused
            self._demand(move.old is not State.BUSY and before.spec.kind == "mcp", "ended for no reason")
            return "asked"
        return "unfit"

    def _perform(self, action: Action, event: Event) -> None:
        program = self.program
        if isinstance(action, Spawn):
            self._may_spawn(action.incarnation, event)
            self._spawn(action.incarnation)
            return
        assert program is not None, "only what was spawned is told something"
        if isinstance(action, Kill):
            self._killed(program, event)
        elif isinstance(action, Freeze):
            running = program.running and program.leader and program.frozen_at is None
            self._demand(running or program.told_dead is False, "what does not run is frozen")
            program.frozen_at = self.now
        elif isinstance(action, Thaw):
            self._thawed(program)
        elif isinstance(action, Ask):
            self._demand(program.frozen_at is None, "what is frozen is asked to end")
            self._demand(program.running, "what does not run is asked to end")
            if program.obeys_ask:
                self._dies_later(program, self.random.uniform(0.0, 12.0), (0, None))
        elif isinstance(action, Signal):
            self._demand(program.frozen_at is None, "what is frozen is sent a signal")
            if action.name == "SIGABRT" or program.obeys_signals:
                late = action.name == "SIGABRT" and self.random.random() < 0.5
                if not late:
                    self._dies_later(program, self.random.random(), (None, action.name))
            if action.tree and program.obeys_signals:
                self._others_die_later(program, self.random.random())

    def _thawed(self, program: Program) -> None:
        self._demand(program.frozen_at is not None, "what runs is thawed")
        assert program.frozen_at is not None, "demanded above"
        if self.books.ready_at is not None:
            self.books.paused_s += self.now - max(self.books.ready_at, program.frozen_at)
        if program.hangs_since is not None:
            program.hangs_since = self.now  # its silence begins with the resume
        program.frozen_at, program.thawed_at = None, self.now
        for plan in program.plans:
            self._after(self.random.uniform(0.0, 3.0), plan)
        program.plans.clear()

    def _may_spawn(self, number: int, event: Event) -> None:
        books, program = self.books, self.program
        gone = program is None or (not program.exists and program.told_empty)
        self._demand(gone, "two copies")
        self._demand(program is None or number > program.number, "an incarnation comes twice")
        self._demand(books.wanted and not books.waits, "what nobody wants is started")
        if not isinstance(event, Start | Restart | Reset):
            self._demand(books.back_from is not None, "it is started though it should rest")
            assert books.back_from is not None, "demanded above"
            self._demand(self.now >= books.back_from - 1e-6, "it is started before its backoff is over")
        books.back_from = None

    def _killed(self, program: Program, event: Event) -> None:
        books = self.books
        asked = books.cause == "asked" and books.asked_at is not None
        ending = self.worker.state is State.SHUTTING_DOWN and program.leader
        if ending and asked and not isinstance(event, Halt) and books.cause != "halted":
            assert books.asked_at is not None, "tested above"
            self._demand(self.now >= books.asked_at + GRACE_S - 1e-6, "killed within its grace period")
        books.killed = True
        program.doomed = True
        if program.frozen_at is not None:
            self._thawed(program)  # for the books: until now it stood still
        if not program.running:
            return
        program.kills += 1
        self._dies_later(program, self.random.uniform(0.0, DEATH_S_MAX), (None, "SIGKILL"))
        if program.kills >= program.kills_needed:
            self._others_die_later(program, self.random.uniform(0.0, DEATH_S_MAX))

    # -- the books

    def _books_of_command(self, event: Event) -> None:
        books, state = self.books, self.worker.state
        stays = books.done and self.worker.spec.remain
        if stays and isinstance(event, Start | Want):
            return
        if isinstance(event, Start | Restart | Stop | Want):
            books.done = False
        if isinstance(event, Start | Restart):
            books.wanted, books.waits = True, False
            going = state in UP or state is State.STARTING
            if not going:
                books.due(self.now)
        elif isinstance(event, Want):
            rests = state is State.TERMINATED and books.back_from is None
            books.waits = books.waits or not books.wanted or rests
            books.wanted = True
        elif isinstance(event, Halt):
            if books.done:
                return
            if books.wanted:
                books.unwanted_at = self.now
            books.wanted = books.waits = False
            books.back_from = None
            books.killed = True  # the grace period is over
        elif isinstance(event, Reconfigure):
            if books.backed_off is not None:
                self._due_after(books.backed_off[1], event.spec.recovery, books.backed_off[0])
        elif isinstance(event, Stop):
            if books.wanted:
                books.unwanted_at = self.now
            books.wanted = books.waits = False
            books.back_from = None
        elif isinstance(event, Reset):
            books.restarts.clear()
            books.spawn_failures = 0
            resting = state in (State.INITIAL, State.TERMINATED)
            if resting and books.wanted and not books.waits:
                books.due(self.now)
        elif isinstance(event, Spawned):
            books.spawn_failures = 0

    def _books_of_spawn_failure(self, retryable: bool) -> None:
        books = self.books
        if self.worker.state is State.SHUTTING_DOWN:
            self._books_of_death(clean=False)
        elif retryable:
            self._due_after(books.spawn_failures, self.worker.spec.recovery, self.now)
            books.spawn_failures += 1

    def _due_after(self, earlier: int, recovery: Recovery, since: float) -> None:
        wait_s = min(recovery.restart_backoff_base * 2.0**earlier, recovery.restart_backoff_max)
        self.books.due(since, 0.8 * wait_s, 1.2 * wait_s)
        self.books.backed_off = since, earlier

    def _books_of_success(self, exited: Exited) -> bool:
        """Returns whether this death is the success of a job, which ends what was wanted of it."""
        is_job = self.worker.spec.type == "oneshot"
        if not is_job or exited.code != 0 or self.worker.state is not State.STARTING:
            return False
        books = self.books
        books.wanted, books.done, books.unwanted_at = False, True, self.now
        books.restarts.clear()
        return True

    def _books_of_death(self, *, clean: bool) -> None:
        books, state = self.books, self.worker.state
        recovery = self.worker.spec.recovery
        ready_for_s = None
        if books.ready_at is not None:
            ready_for_s = self.now - books.ready_at - books.paused_s
            frozen_at = None if self.program is None else self.program.frozen_at
            if frozen_at is not None:
                ready_for_s -= self.now - max(books.ready_at, frozen_at)
        books.ready_s += ready_for_s or 0.0
        if ready_for_s is not None and ready_for_s >= recovery.healthy_after:
            books.restarts.clear()
        window = recovery.restart_window  # what is older is forgotten, whatever the window will be
        recent = [at for at in books.restarts if books.ready_s - at < window]
        books.restarts = recent
        ending = state is State.SHUTTING_DOWN
        pressed = books.back_from is not None  # somebody started it meanwhile
        rests = not books.wanted or books.waits
        if ending and books.cause == "asked":
            if not rests:
                books.due(self.now)
            return
        if ending and books.cause in ("refused", "halted"):
            return
        clean = clean and not ending and ready_for_s is not None
        policy = recovery.restart if recovery.enable_auto_restart else "never"
        if policy == "always" and self.worker.spec.type == "oneshot":
            policy = "on-failure"
        if policy == "never" or (policy == "on-failure" and clean):
            return
        counts = (books.left if ending else state) is not State.BUSY
        if counts and len(recent) >= recovery.max_restart_attempts:
            return
        if counts:
            books.restarts = [*recent, books.ready_s]
        if pressed or rests:
            return  # a failure counts though a person has settled what follows
        if ready_for_s is not None and ready_for_s >= recovery.restart_backoff_base:
            books.due(self.now)
        else:
            self._due_after(len(recent), recovery, self.now)

    # -- the promises

    def _check(self) -> None:
        worker, books, program = self.worker, self.books, self.program
        state = worker.state
        exists = program is not None and program.exists
        patience = max(self.woke_at, 0.0) + 2 * LATE_S
        self._demand(worker.wanted == books.wanted, "what is wanted is forgotten")
        self._demand(worker.done == books.done, "the success of a job is forgotten, or made up")
        is_job = worker.spec.type == "oneshot"
        self._demand(not is_job or state not in UP, "a job is called ready")
        may_last = is_job and worker.pid is not None and worker.spec.timeout == 0
        self._demand(worker.tree or not exists, "a process is unknown to its supervisor")
        frozen = program is not None and program.frozen_at is not None
        paused = worker.paused_at is not None
        if paused:
            self._demand(frozen, "what runs is called paused")
            self._demand(worker.deadline is None, "a deadline runs while it is paused")
            if self.books.wanted:
                return
        elif frozen and not worker.exited and state in (*UP, State.STARTING):
            self._broken("a pause is forgotten")
        waits = (state is State.STARTING and not may_last) or state is State.SHUTTING_DOWN
        waits = waits or (state is State.TERMINATED and worker.tree)
        waits = waits or (state is State.INITIAL and books.back_from is not None)
        waits = waits or (state in UP and worker.spec.protocol == "corral")
        self._demand(worker.deadline is not None or not waits, "it waits without a deadline")
        if worker.deadline is not None:
            self._demand(worker.deadline < self.now + 10 * SPAWN_TIMEOUT_S, "its deadline never comes")
        if state is State.INITIAL and books.backed_off is not None and not books.waits:
            due = worker.deadline is not None and worker.deadline <= books.back_until + 1e-6
            self._demand(due, "it waits longer than its backoff")
        if not books.wanted:
            self._demand(not exists or self.now < max(books.unwanted_at, patience) + GONE_S, "a stop is forgotten")
        if state is State.STARTING and not may_last:
            thawed_at = 0.0 if program is None else program.thawed_at
            until = max(books.starting_at, patience, thawed_at) + LAUNCH_S_MAX + SPAWN_TIMEOUT_S + 2 * LATE_S
            self._demand(self.now < until, "a start without end")
        if state is State.SHUTTING_DOWN and books.asked_at is not None and exists:
            until = max(books.asked_at + GRACE_S, patience) + 4 * LATE_S
            self._demand(books.killed or self.now < until, "the grace period does not end")
        gone = program is None or program.told_empty
        if books.back_from is not None and gone and books.wanted and not books.waits:
            until = max(books.back_until, patience) + GONE_S / 2
            self._demand(self.now < until, "it does not come back")
        hangs_since = None if program is None else program.hangs_since
        if state in UP and worker.spec.protocol == "corral" and hangs_since is not None:
            until = max(hangs_since, books.ready_at or 0.0, patience) + HEARTBEAT_TIMEOUT_S
            self._demand(self.now < until + 4 * LATE_S, "a hung worker is not noticed")

    def _demand(self, holds: bool, promise: str) -> None:
        if not holds:
            self._broken(promise)

    def _broken(self, promise: str) -> None:
        worker = {name: value for name, value in asdict(self.worker).items() if name != "spec"}
        spec = self.worker.spec
        facts = [worker, spec.protocol, spec.idle_timeout, spec.recovery, self.books, self.program]
        raise Broken("\n".join([promise, *self.seen, *map(str, facts)]))

    def _say(self, what: str) -> None:
        line = f"{self.now:10.3f} {self.worker.state:12} {what}"
        self.seen.append(line)
        if self.talk:
            print(line)


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_whatever_happens_in_a_long_life_the_promises_hold(seed: int) -> None:
    print(f"seed {seed}")
    World(seed).live(EVENTS)


@pytest.mark.long
def test_the_lives_are_not_idle() -> None:
    """They pass every transition of the table, and every result that the lifecycle gives by itself."""
    moves: set[tuple[State, State]] = set()
    results: set[str] = set()

    def step(worker: Worker, event: Event, now: float) -> state_machine.Step:
        after, actions = transitions.step(worker, event, now)
        moves.update((a.old, a.new) for a in actions if isinstance(a, Transition))
        if after.last_exit is not None:
            results.add(after.last_exit.result)
        return after, actions

    for seed in range(SEEDS):
        World(seed, step).live(EVENTS)
    assert moves == {(old, new) for old, news in TRANSITIONS.items() for new in news}
    assert results >= {"stopped", "exited", "signaled", "hung", "start-timeout", "exec-failed"}
    assert results >= {"task-timeout", "restart-limit", "hibernated"}


# -- planted faults: one edit each, which the lives have to see

FAULTS = {
    "it does not wait for an empty tree": ("if not worker.tree:", "if True:"),
    "a stop forgets to take the wish back": ("return replace(worker, wanted=False,", "return replace(worker,"),
    "a start has no deadline": ("deadline=now + worker.spec.process.spawn_timeout,", "deadline=None,"),
    "a death while Busy counts for the worker": ("counts = left is not State.BUSY", "counts = True"),
    "it never gives up": ("elif decision.gave_up:", "elif resume_at := now:"),
    "the backoff is not waited out": ("resume_at = now + decision.delay_s", "resume_at = now"),
    "the grace period is cut to its half": (
        "stage=Stage.SIGNALLED, deadline=worker.kill_at)\n        return signalled,",
        "stage=Stage.SIGNALLED, deadline=now)\n        return signalled,",
    ),
    "the grace period never ends": (
        "stage=Stage.SIGNALLED, deadline=worker.kill_at)\n        return signalled,",
        "stage=Stage.SIGNALLED, deadline=None)\n        return signalled,",
    ),
    "what waits for a sign is ready by living": (
        'spec.protocol == "none" and spec.ready is None and',
        'spec.protocol == "none" and',
    ),
    "a job is ready by living": ('and spec.type == "service"', ""),
    "the success of a job is answered by the restart policy": ("if job.is_success(worker.spec, last):", "if False:"),
    "the run of a job ends only by itself": ("return now + spec.timeout if spec.timeout > 0 else None", "return None"),
    "a stop leaves the success of a job": (
        "resume_at=None, backoff=None, done=False)",
        "resume_at=None, backoff=None)",
    ),
    "a run of a job begins with the success of the last": (
        "wanted=True, waits=False, done=False)",
        "wanted=True, waits=False)",
    ),
    "it kills only once": (
        "return replace(worker, stage=Stage.KILLED, deadline=now + KILL_INTERVAL_S), [Kill()]",
        "return replace(worker, stage=Stage.KILLED, deadline=None), [Kill()]",
    ),
    "what is left of a crash is not killed": (
        "return replace(after, deadline=now + KILL_INTERVAL_S), [*actions, Kill()]",
        "return after, actions",
    ),
    "a worker is called hung though it beats": ("max(event.last_message_at, ", "max(0.0, "),
    "silence is never noticed": ("now >= last_message_at + timeout_s", "now < last_message_at"),
    "being handed work buys a silent worker time": (
        "if worker.deadline is None:\n        return _watch",
        "if True:\n        return _watch",
    ),
    "a tick of an earlier deadline acts": (
        "if worker.deadline is None or now < worker.deadline:",
        "if worker.deadline is None:",
    ),
    "a program that is missing is tried for ever": ("if event.retryable and worker.wanted:", "if worker.wanted:"),
    "a machine that lacks something is not tried again": (
        "if event.retryable and worker.wanted:",
        "if not event.retryable and worker.wanted:",
    ),
    "two lives have one number": ("incarnation=worker.incarnation + 1,", "incarnation=max(worker.incarnation, 1),"),
    "a death that is told twice counts twice": (
        "if worker.exited or not worker.tree:",
        "if worker.state in (State.INITIAL, State.TERMINATED):",
    ),
    "a start while it ends is forgotten": (
        "if worker.state is State.SHUTTING_DOWN:\n        return _at_once(wanted, now), []\n    return wanted, []",
        "return worker, []",
    ),
    "an asked restart does not come back": (
        "resume_at = now if worker.wanted and not worker.waits else None",
        "resume_at = None",
    ),
    "a wish that waits is started at once": (
        "resume_at = now if worker.wanted and not worker.waits else None",
        "resume_at = now if worker.wanted else None",
    ),
    "reset does not forget": ("history=History(), spawn_failures=0, restarts=0", "restarts=0"),
    "a stop ends the life without its history": (
        "replace(worker, history=history, ready_at=None, last_exit=last, resume_at=resume_at)",
        "replace(worker, ready_at=None, last_exit=last, resume_at=resume_at)",
    ),
    "a spawn that was given up runs on": (
        "return up, [Kill()]  # it was given up before it ran",
        "return replace(up, deadline=None), []",
    ),
    "a healthy life forgives nothing": ("return History(clock)", "pass"),
    "a pause leaves the deadline running": (
        "return replace(worker, paused_at=now, deadline=None), [Freeze()]",
        "return replace(worker, paused_at=now), [Freeze()]",
    ),
    "work that ends in a pause arms a deadline": (
        "if worker.paused_at is not None:\n        return None",
        "if False:\n        return None",
    ),
    "a change of the configuration arms a deadline in a pause": (
        "if worker.state in UP and worker.paused_at is None:",
        "if worker.state in UP:",
    ),
    "what is paused is not thawed before it is asked": (
        "return after, [*actions, *thawed, Ask(grace_s)]",
        "return after, [*actions, Ask(grace_s)]",
    ),
    "what is paused is thawed after it was asked": (
        "return after, [*actions, *thawed, Ask(grace_s)]",
        "return after, [*actions, Ask(grace_s), *thawed]",
    ),
    "a pause counts as silence": ("worker.ready_at or 0.0, worker.resumed_at)", "worker.ready_at or 0.0)"),
    "a resume arms no deadline": (
        "return replace(awake, deadline=_next_check(awake, now)), actions",
        "return awake, actions",
    ),
    "a resumed start has no deadline": (
        "return replace(awake, deadline=_start_deadline(awake, now)), actions",
        "return awake, actions",
    ),
    "a pause is time spent Ready": ("ready_at += now - max(ready_at, worker.paused_at)", "pass"),
    "a second life is born paused": (
        "worker, _ = _awake(replace(worker, exited=True), now)",
        "worker = replace(worker, exited=True)",
    ),
    "what is stopped stays paused": ("awake, thawed = _awake(worker, now)", "awake, thawed = worker, [Thaw()]"),
    "an emergency leaves a wish": (
        "return _kill(_unwanted(worker), event.result, event.reason, now)",
        'return _kill(worker, "stopped", event.reason, now)',
    ),
    "an emergency waits for the grace period": (
        "return _escalate(replace(_unwanted(worker), stage=Stage.SIGNALLED), now)",
        "return _unwanted(worker), []",
    ),
    "a new backoff is not heeded": ("if backoff is None:\n        return changed", "if True:\n        return changed"),
    "a new backoff counts from now": ("due = backoff.since + backoff_s", "due = now + backoff_s"),
    "the backoff does not grow": ("* 2.0 ** min(earlier, 32)", "* 1.0"),
    "one restart too many": ("earlier >= recovery.max_restart_attempts", "earlier > recovery.max_restart_attempts"),
}


def planted(old: str, new: str) -> Step:
    """`transitions.step` as it would be if the text `old` of its functions, or of restart's, were `new`."""
    texts = {
        module: "from __future__ import annotations\ndef " + inspect.getsource(module).split("\ndef ", 1)[1]
        for module in (restart_policy, transitions)
    }
    assert sum(text.count(old) for text in texts.values()) == 1, f"not one place: {old}"
    rules: dict[str, Any] = dict(vars(restart_policy))  # Any: the contents of a module
    exec(texts[restart_policy].replace(old, new), rules)
    functions = {name: rules[name] for name in ("decide", "after_life", "backoff_s")}
    life: dict[str, Any] = dict(vars(transitions)) | functions  # Any: the contents of a module
    exec(texts[transitions].replace(old, new), life)
    step: Step = life["step"]
    return step


def test_without_a_fault_the_planted_copy_lives_as_the_original_does() -> None:
    World(0, planted("assert action.new in TRANSITIONS", "assert action.new in  TRANSITIONS")).live(EVENTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_lives_see_when(fault: str) -> None:
    step = planted(*FAULTS[fault])
    for seed in range(SEEDS):
        try:
            World(seed, step).live(EVENTS)
        except AssertionError:
            return
    pytest.fail(f"nobody notices that {fault}")


def main() -> None:
    World(int(sys.argv[1]), talk=True).live(EVENTS)


if __name__ == "__main__":
    main()
