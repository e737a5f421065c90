"""Decides how many connections each client may have: one user or token, or all of a tenant, cannot take those of the others."""

import resource
from collections import Counter
from collections.abc import Hashable

from corral.worker.contract.errors import Overloaded

RETRY_AFTER_S = 1.0

DESCRIPTORS_SHARE = 4
"""Ratio of the descriptors that the daemon may have to those of the connections of one kind: the others are for workers."""


def allowed(wanted: int) -> int:
    """Returns the number of connections that there may be, `wanted` unless the daemon may have few descriptors."""
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // DESCRIPTORS_SHARE)


class Clients:
    """Knows the client of each connection whose client is known; values and counts alone, no sockets.

    Of `most` connections a client has a quarter, all clients but the owner, "", together seven eighths, and all that are known
    fifteen sixteenths: what is left lets the owner in, and probes, which show no token.
    """

    def __init__(self, most: int) -> None:
        self._share = max(1, most // 4)
        self._together = max(1, most - most // 8)
        self._known = max(1, most - most // 16)
        self._owners: dict[Hashable, str] = {}
        self._counts: Counter[str] = Counter()

    def __contains__(self, connection: Hashable) -> bool:
        return connection in self._owners

    def note(self, connection: Hashable, owner: str) -> None:
        """Notes whose connection it is; raises Overloaded where this client, or all of them, have too many."""
        if self._owners.get(connection) == owner:
            return
        held = self._counts[owner]
        limits = [(self._known, len(self._owners))]
        if owner:
            limits += [(self._share, held), (self._together, len(self._owners) - self._counts[""])]
        for limit, taken in limits:
            if taken >= limit:
                text = f"cannot serve another connection: {owner or 'the owner'} has {held}, all clients {len(self._owners)}"
                raise Overloaded(text, limit="connections", value=limit, retry_after_s=RETRY_AFTER_S)
        self.forget(connection)
        self._owners[connection] = owner
        self._counts[owner] += 1

    def forget(self, connection: Hashable) -> None:
        """Forgets a connection that is over, or was never known."""
        owner = self._owners.pop(connection, None)
        if owner is not None:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]
