"""Names the reasons why a worker gets no new task (Kubernetes: cordon), and what each of them still permits."""

import enum


class Unschedulable(enum.StrEnum):
    """Names a reason why a worker gets no new task. Several may hold at once, each of its own owner."""

    HIBERNATING = "hibernating"
    """Its state is being saved or replaced: an assigned task is not handed over either."""
    OUTDATED = "outdated"
    """A fork of a newer zygote is about to replace it: an assigned task is not handed over either."""
    SURPLUS = "surplus"
    """The agent is scaled down: it finishes its tasks, then it is removed."""
    MOVING = "moving"
    """Its replica moves to another node of the cluster: it finishes its tasks, then it is removed."""
    HIBERNATED = "hibernated"
    """Its process was ended after it had saved a checkpoint; a task, `wake` or `start` brings it back."""
    INCOMING = "incoming"
    """It is to replace a worker of another spec, and is not known to be sound yet."""
    OUTGOING = "outgoing"
    """A worker of another spec replaces it: it finishes its tasks, then it is ended."""


HANDS_NOTHING_OVER = frozenset({Unschedulable.HIBERNATING, Unschedulable.OUTDATED})
"""Reasons for which a worker is not handed a task that was assigned to it before."""

TAKES_NOTHING_NEW = frozenset(
    {Unschedulable.SURPLUS, Unschedulable.MOVING, Unschedulable.INCOMING, Unschedulable.OUTGOING}
)
"""Reasons for which a worker only finishes what it was assigned before."""
