"""Decides for one node when to renew its lease, when to stop its workers, and when another node's lease is over.

All times are seconds of the clock that goes on while the machine sleeps (CLOCK_BOOTTIME). No wall clock takes part.

A lease counts from the moment the beat that renewed it was *sent*, so that it ends here before it ends in the engine,
however long the answer took. Before that end, at `stop_at`, the node is told to stop its workers. The launcher holds a
second deadline, `kill_at`: it kills the workers when the daemon is frozen and has not renewed. An observer believes in
an end only if the engine reports it and its own clock has passed a whole lease since the last beat that it knows of: a
server whose clock jumps ahead ends no lease early.
"""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace


class Timing(Struct, frozen=True):
    """Holds the times of leases, in seconds.

    `early_s` is how much earlier than promised an engine may let a lease end, `kill_s` how long killing all workers
    may take, `grace_s` how long workers have between the request to stop and the kill.
    """

    lease_s: float = 3.0
    beat_s: float = 0.5
    early_s: float = 0.25
    kill_s: float = 0.75
    grace_s: float = 0.25

    @property
    def kill_after_s(self) -> float:
        """Returns the seconds between the last good beat and the kill."""
        return self.lease_s - self.early_s - self.kill_s

    @property
    def stop_after_s(self) -> float:
        """Returns the seconds between the last good beat and the request to stop."""
        return self.kill_after_s - self.grace_s


TIMING = Timing()

ELECTION_TIMING = Timing(lease_s=10.0, beat_s=1.0)
"""Leases that outlive the election of a leader: three servers of NATS confirm nothing for 5 to 8 s when one is killed."""

Phase = Literal["joining", "held", "doubtful", "stopped"]
"""joining: no lease. held: all is well. doubtful: a beat is missing, nothing new starts. stopped: no worker may run."""

NEVER = float("-inf")


class Lease(Struct, frozen=True):
    """Represents the lease of this node.

    `token` is the revision at which it was taken; it changes when the node joins anew. `good_at` is when the last beat
    that the engine confirmed was sent, `next_at` when the next is due, `sent_at` when the one under way was sent.
    """

    phase: Phase = "joining"
    token: int = 0
    good_at: float = NEVER
    next_at: float = NEVER
    sent_at: float | None = None
    missed: int = 0


class Tick(Struct, frozen=True):
    """Represents that time has passed."""


class Granted(Struct, frozen=True):
    """Represents the engine's yes to the beat sent at `sent_at`; `token` is the one of the lease."""

    sent_at: float
    token: int


class Taken(Struct, frozen=True):
    """Represents the engine's no: the lease ended, or another process has the name of this node."""

    sent_at: float


class Failed(Struct, frozen=True):
    """Represents a beat without an answer: the engine may have stored it or not."""

    sent_at: float


Event = Tick | Granted | Taken | Failed


class Beat(Struct, frozen=True):
    """Requests a beat: takes the lease where `token` is 0, else renews it."""

    token: int


class Arm(Struct, frozen=True):
    """Requests that the launcher kills this cluster's workers at `kill_at` unless it is armed again."""

    kill_at: float


class Run(Struct, frozen=True):
    """Permits workers: the node holds its lease under `token`."""

    token: int


class Cordon(Struct, frozen=True):
    """Forbids to start anything new until the next Run; workers that run go on."""


class Stop(Struct, frozen=True):
    """Orders that all workers of the cluster end now; after `kill_at` of the last Arm none may be left."""

    reason: str


Action = Beat | Arm | Run | Cordon | Stop


def step(lease: Lease, event: Event, now: float, timing: Timing = TIMING) -> tuple[Lease, tuple[Action, ...]]:
    """Returns the lease after an event, and the actions to perform, in order."""
    match event:
        case Granted():
            return _granted(lease, event, now, timing)
        case Taken():
            if event.sent_at != lease.sent_at:
                return lease, ()  # the answer to a beat that was given up
            return _lost(lease, now, timing, "another process has the lease of this node")
        case Failed():
            if event.sent_at != lease.sent_at:
                return lease, ()
            return _missed(replace(lease, sent_at=None), now, timing)
        case Tick():
            return _tick(lease, now, timing)


def deadline(lease: Lease, timing: Timing = TIMING) -> float:
    """Returns when the next Tick is due."""
    due = lease.next_at if lease.sent_at is None else lease.sent_at + timing.beat_s
    if lease.phase in ("held", "doubtful"):
        due = min(due, lease.good_at + timing.stop_after_s)
    return due


def must_kill(kill_at: float | None, now: float) -> bool:
    """Returns whether the launcher has to kill the workers of the cluster; None is no deadline."""
    return kill_at is not None and now >= kill_at


def _granted(lease: Lease, event: Granted, now: float, timing: Timing) -> tuple[Lease, tuple[Action, ...]]:
    """Counts the lease from when the beat was sent; an answer that took longer than the lease grants nothing.

    The answer to a beat that was given up counts too, unless it belongs to an earlier lease.
    """
    runs = lease.phase in ("held", "doubtful")
    if runs and event.token != lease.token:
        return lease, ()
    is_current = event.sent_at == lease.sent_at
    sent_at = None if is_current else lease.sent_at
    good_at = max(lease.good_at, event.sent_at)
    if now >= good_at + timing.stop_after_s:
        return _missed(replace(lease, sent_at=sent_at, token=event.token, good_at=good_at), now, timing)
    if not runs and not is_current:
        return lease, ()
    held = replace(lease, phase="held", token=event.token, good_at=good_at, sent_at=sent_at, missed=0)
    held = replace(held, next_at=max(lease.next_at, good_at + timing.beat_s))
    actions: tuple[Action, ...] = (Arm(good_at + timing.kill_after_s),)
    return held, actions if lease.phase == "held" else (*actions, Run(event.token))


def _missed(lease: Lease, now: float, timing: Timing) -> tuple[Lease, tuple[Action, ...]]:
    """Counts a beat without an answer; the second one in a row makes the lease doubtful."""
    missed = lease.missed + 1
    after = replace(lease, missed=missed, next_at=max(lease.next_at, now))
    if after.phase == "held" and missed >= 2:
        after = replace(after, phase="doubtful")
        stopped, actions = _tick(after, now, timing)
        return stopped, (Cordon(), *actions)
    return _tick(after, now, timing) if after.phase in ("held", "doubtful") else (after, ())


def _lost(lease: Lease, now: float, timing: Timing, reason: str) -> tuple[Lease, tuple[Action, ...]]:
    ran = lease.phase in ("held", "doubtful")
    phase: Phase = "stopped" if ran or lease.phase == "stopped" else "joining"
    return Lease(phase=phase, next_at=now + timing.beat_s), (Stop(reason),) if ran else ()


def _tick(lease: Lease, now: float, timing: Timing) -> tuple[Lease, tuple[Action, ...]]:
    actions: list[Action] = []
    runs = lease.phase in ("held", "doubtful")
    if runs and now >= lease.good_at + timing.stop_after_s:
        silent = now - lease.good_at
        lease = replace(lease, phase="stopped")
        actions.append(Stop(f"no beat was confirmed for {silent:.1f} s"))
    if lease.sent_at is not None and now >= lease.sent_at + timing.beat_s:
        after, more = _missed(replace(lease, sent_at=None), now, timing)
        return after, (*actions, *more)
    if lease.sent_at is None and now >= lease.next_at:
        lease = replace(lease, sent_at=now, next_at=now + timing.beat_s)
        actions.append(Beat(lease.token))
    return lease, tuple(actions)


# -- what other nodes see


class Observed(Struct, frozen=True):
    """Represents another node's lease as seen here: the last revision, when it was seen first, and whether it is gone."""

    revision: int
    seen_at: float
    is_gone: bool = False


def observed(known: Observed | None, revision: int, now: float) -> Observed:
    """Returns what is known after the engine showed a revision; one that is known already proves no new beat."""
    if known is not None and revision <= known.revision:
        return known
    return Observed(revision, now)


def vanished(known: Observed) -> Observed:
    """Returns what is known after the engine reported the end of a lease."""
    return replace(known, is_gone=True)


def is_over(known: Observed, now: float, timing: Timing = TIMING) -> bool:
    """Returns whether the agents of that node may start elsewhere."""
    return known.is_gone and now >= over_at(known, timing)


def over_at(known: Observed, timing: Timing = TIMING) -> float:
    """Returns when a lease that is gone may be believed to be over."""
    return known.seen_at + timing.lease_s - timing.early_s
