"""Defines the life of one worker: its states, the events that it answers, the actions that follow, and `Worker` itself.

A worker is an agent's or an MCP server's process, over all its incarnations. Everything here is a frozen value; `transitions`
decides which follows which. Instead of timers there is one `deadline` in the worker; the shell sends Tick when it has come.

Intent and state are separate: `wanted` is the intent that the worker is up, `state` its present state. A dead worker passes
Terminated and Initial before it starts again, and it leaves Terminated only when its whole process tree is empty: there are
never two copies.
"""

import enum

from msgspec import Struct

from corral.supervisor.config.spec.spec import Spec

from .restart_policy import History

ASKED_FOR = frozenset({"stopped", "hibernated"})
"""Results of requested ends, which do not count against the worker."""

NEEDS_LOGIN = "needs-login"
"""Result of a start for which a remote MCP server wants a token that the daemon does not have."""

CORRUPTED = "corrupted"
"""Result of a start from a package with a file that has changed since it was installed."""

GIVEN_UP = frozenset({"restart-limit", "exec-failed", "start-timeout", NEEDS_LOGIN, CORRUPTED})
"""Results of ends after which a worker is not started again."""


class State(enum.StrEnum):
    """Represents the state of a worker, as `status` shows it."""

    INITIAL = "Initial"
    STARTING = "Starting"
    READY = "Ready"
    BUSY = "Busy"
    IDLE = "Idle"
    SHUTTING_DOWN = "ShuttingDown"
    TERMINATED = "Terminated"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.INITIAL: frozenset({State.STARTING, State.TERMINATED}),
    State.STARTING: frozenset({State.READY, State.SHUTTING_DOWN, State.TERMINATED}),
    State.READY: frozenset({State.BUSY, State.SHUTTING_DOWN, State.TERMINATED}),
    State.BUSY: frozenset({State.IDLE, State.SHUTTING_DOWN, State.TERMINATED}),
    State.IDLE: frozenset({State.BUSY, State.SHUTTING_DOWN, State.TERMINATED}),
    State.SHUTTING_DOWN: frozenset({State.TERMINATED}),
    State.TERMINATED: frozenset({State.INITIAL}),
}

UP = frozenset({State.READY, State.BUSY, State.IDLE})


class Stage(enum.StrEnum):
    """Represents the progress of a shutdown."""

    ASKED = "asked"
    SIGNALLED = "signalled"
    ABORTED = "aborted"
    KILLED = "killed"


class LastExit(Struct, frozen=True):
    """Records the end of an incarnation. `result` is one of the words in docs/reference/lifecycle.md."""

    result: str
    code: int | None = None
    signal: str | None = None
    forced: bool = False
    at: str = ""
    message: str = ""


class Backoff(Struct, frozen=True):
    """Holds the inputs of the wait for the next start, so that changed settings apply during the wait."""

    since: float
    earlier: int
    jitter: float


class Worker(Struct, frozen=True):
    """Holds the state of one worker.

    `tree` means that processes of it may exist, `exited` that the leader of this incarnation is dead;
    `deadline` is when the next Tick is due; `resume_at` when it starts again once its tree is empty
    (None: it rests). `drain_until` is how long its end waits for connections that it serves. `waits` means that it is wanted, but must not start before the event Start. While
    it is ShuttingDown, `cause` is the result that its end will be called and `left` the state from
    which the end began. `paused_at` is since when it is frozen, `paused_s` the sum of the earlier pauses of
    this incarnation, `resumed_at` the end of the last one; `backoff` what `resume_at` or, in Initial, the
    deadline was computed from.
    """

    id: str
    spec: Spec
    state: State = State.INITIAL
    wanted: bool = False
    waits: bool = False
    incarnation: int = 0
    pid: int | None = None
    exited: bool = False
    tree: bool = False
    deadline: float | None = None
    ready_at: float | None = None
    idle_at: float | None = None
    stage: Stage | None = None
    kill_at: float = 0.0
    drain_until: float = 0.0
    cause: str = ""
    left: State = State.INITIAL
    reason: str = ""
    resume_at: float | None = None
    backoff: Backoff | None = None
    paused_at: float | None = None
    paused_s: float = 0.0
    resumed_at: float = 0.0
    spawn_failures: int = 0
    restarts: int = 0
    renewals: int = 0
    history: History = History()
    last_exit: LastExit | None = None
    done: bool = False

    @property
    def is_satisfied(self) -> bool:
        """Returns True if those that require it may start: it is up, or a job that has succeeded."""
        return self.done or self.state in UP

    def frozen_s(self, now: float) -> float:
        """Returns the seconds of this incarnation in which it was paused, up to `now`."""
        return self.paused_s + (0.0 if self.paused_at is None else now - self.paused_at)


# -- events


class Start(Struct, frozen=True):
    """Requests a start."""


class Want(Struct, frozen=True):
    """Requests a start that is not possible yet; Start follows when it is."""

    reason: str


class Stop(Struct, frozen=True):
    """Requests a stop; `result` becomes the result of the end. With `drains` another worker has taken its place."""

    result: str = "stopped"
    reason: str = "asked to stop"
    drains: bool = False


class Restart(Struct, frozen=True):
    """Requests a new incarnation."""

    reason: str = "asked to restart"


class Replace(Struct, frozen=True):
    """Requests a kill without grace, because this incarnation is unfit (`result` names why)."""

    result: str
    reason: str


class Hang(Struct, frozen=True):
    """Reports that it hangs: it is aborted, then killed, like one without heartbeats."""

    reason: str


class Halt(Struct, frozen=True):
    """Requests a kill without grace in any state, after which it is not wanted any more; `result` becomes that of the end."""

    reason: str
    result: str = "stopped"


class Pause(Struct, frozen=True):
    """Requests a pause."""


class Resume(Struct, frozen=True):
    """Requests the end of a pause."""


class Reset(Struct, frozen=True):
    """Clears its failures, and starts it if it is wanted."""


class Reconfigure(Struct, frozen=True):
    """Changes limits and policies that need no new process."""

    spec: Spec


class Spawned(Struct, frozen=True):
    """Reports that the program runs."""

    pid: int


class SpawnFailed(Struct, frozen=True):
    """Reports that the program could not be started; `retryable` for a temporary lack of resources."""

    message: str
    retryable: bool
    at: str
    jitter: float
    result: str = "exec-failed"


class Shaken(Struct, frozen=True):
    """Reports the end of the protocol's handshake."""


class Refused(Struct, frozen=True):
    """Reports that the handshake failed for good: the program speaks another protocol, or `result` says what it lacks."""

    message: str
    result: str = "exec-failed"


class Worked(Struct, frozen=True):
    """Reports that it has begun its first task (`busy`), or ended its last one."""

    busy: bool


class Exited(Struct, frozen=True):
    """Reports that the leader of its tree is dead: with `code`, or by `signal`."""

    code: int | None
    signal: str | None
    at: str
    jitter: float
    result: str | None = None
    message: str = ""


class Emptied(Struct, frozen=True):
    """Reports that its process tree is empty."""


class Tick(Struct, frozen=True):
    """Reports that the deadline may have come.

    `last_message_at` is the time of its last message, or when the daemon last woke up. `serves` is true while it has
    connections that came in at the addresses of `listen`.
    """

    last_message_at: float = 0.0
    serves: bool = False


Event = (
    Start
    | Want
    | Stop
    | Restart
    | Replace
    | Hang
    | Halt
    | Pause
    | Resume
    | Reset
    | Reconfigure
    | Spawned
    | SpawnFailed
    | Shaken
    | Refused
    | Worked
    | Exited
    | Emptied
    | Tick
)


# -- actions


class Spawn(Struct, frozen=True):
    """Starts the program as this incarnation; the shell answers with Spawned or SpawnFailed."""

    incarnation: int


class Ask(Struct, frozen=True):
    """Requests the end of the program in the way of its protocol; it has `grace_s` seconds."""

    grace_s: float


class Signal(Struct, frozen=True):
    """Sends a signal to the leader, or to the process groups of the whole tree."""

    name: str
    tree: bool


class Kill(Struct, frozen=True):
    """Kills the whole tree by SIGKILL, repeatedly until it is empty; the shell answers with Emptied."""


class Freeze(Struct, frozen=True):
    """Freezes all processes of the tree."""


class Thaw(Struct, frozen=True):
    """Thaws all processes of the tree."""


class Transition(Struct, frozen=True):
    """Publishes a change of the state."""

    old: State
    new: State
    reason: str


Action = Spawn | Ask | Signal | Kill | Freeze | Thaw | Transition

Step = tuple[Worker, list[Action]]
