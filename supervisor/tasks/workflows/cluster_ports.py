"""Defines what schedules ask of the cluster that the daemon has joined."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from corral.worker.contract.records import ScheduleRecord


class ClusterRuns(Protocol):
    """Decides which node of a cluster submits a run."""

    def is_placed(self, agent: str | None, /) -> bool:
        """Returns whether the cluster places an agent."""

    async def claim(
        self, schedule: str, agent: str, at: str, *, may_overlap: bool
    ) -> Literal["run", "later", "elsewhere", "busy"]:
        """Returns what this node does about a run: submit its task, ask again, or skip it."""


class SharedSchedules(Protocol):
    """Keeps the schedules that all nodes of a cluster have; each raises Timeout while the engine is away."""

    def known(self) -> Mapping[str, ScheduleRecord] | None:
        """Returns them by name; None before they were read from the engine."""

    def subscribe(self, listener: Callable[[], None], /) -> None:
        """Calls `listener` after each change."""

    async def add(self, record: ScheduleRecord, /) -> None:
        """Adds one; raises Conflict where there is one of its name."""

    async def remove(self, name: str, /) -> None:
        """Removes one."""

    async def set_paused(self, name: str, /, *, paused: bool) -> None:
        """Pauses or resumes one."""
