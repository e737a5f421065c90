"""Holds the agents that this node may run for its cluster, each under a lease and with a fencing token.

Without a cluster it is empty. An agent with `placement` starts only while it is here: its processes belong to the lease, at
whose end the launcher kills them.
"""

from msgspec import Struct

from corral.worker.contract.errors import SpawnFailed


class Hold(Struct, frozen=True):
    """Represents the right to run an agent: the lease of this node, and the token of the assignment."""

    lease: int
    fencing_token: int


class Placements:
    """Holds the rights by the name of the agent."""

    def __init__(self) -> None:
        self._held: dict[str, Hold] = {}
        self.epoch = 0
        """Number of times that all rights were lost."""

    def put(self, agent: str, hold: Hold) -> None:
        """Permits an agent."""
        self._held[agent] = hold

    def drop(self, agent: str) -> None:
        """Forbids new processes of an agent."""
        self._held.pop(agent, None)

    def clear(self) -> int:
        """Forbids new processes of all, and returns how many there were."""
        self.epoch += 1
        count = len(self._held)
        self._held.clear()
        return count

    def find(self, agent: str) -> Hold | None:
        """Returns the right to run an agent; None where there is none."""
        return self._held.get(agent)

    def lease(self, agent: str) -> int:
        """Returns the lease that the processes of a placed agent belong to."""
        hold = self._held.get(agent)
        if hold is None:
            reason = "this node does not hold it in the cluster"
            raise SpawnFailed(f'cannot start "{agent}": {reason}', agent=agent, reason=reason, retryable=True)
        return hold.lease
