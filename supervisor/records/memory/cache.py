"""Holds sessions of running tasks, and caches the contents of others in the daemon's memory up to a number of bytes."""

from collections import OrderedDict
from dataclasses import dataclass, field

from .pooling import Name
from .session import SessionState

ROWS_MAX = 256
"""Number of turns that are stored one by one before a compaction."""

SINCE_BYTES = 1024 * 1024
"""Bytes of turns that are stored one by one, beside the content: each may store the history as a whole."""


@dataclass(slots=True, eq=False)
class HeldSession:
    """Represents a session that is in memory, with or without its content."""

    state: SessionState
    created_at: float
    is_stored: bool
    expires_at: float | None = None
    """Seconds since 1970 at which it is gone; None for no end of its own."""
    rows: int = 0
    since_bytes: int = 0
    accessed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.accessed_at = self.created_at

    def is_over(self, now: float) -> bool:
        """Returns whether its own time is over."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def needs_compaction(self) -> bool:
        """Returns whether its turns are to be compacted: reading them takes long, or much memory."""
        most = SINCE_BYTES + self.state.size_bytes
        return self.rows >= ROWS_MAX or self.since_bytes > most


class ContentCache:
    """Caches contents, and evicts the least recently used first."""

    def __init__(self) -> None:
        self.limit_bytes = 0
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._sessions: OrderedDict[Name, tuple[HeldSession, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: Name) -> HeldSession | None:
        """Returns a session whose content is here, now the most recently used."""
        found = self._sessions.get(name)
        if found is None:
            return None
        self._sessions.move_to_end(name)
        return found[0]

    def put(self, name: Name, session: HeldSession) -> None:
        """Adds a content, or notes its new size; evicts contents beyond the limit, this one too if need be."""
        self.remove(name, drop_content=False)
        size = session.state.footprint_bytes
        if not size:
            return
        self._sessions[name] = (session, size)
        self.size_bytes += size
        while self._sessions and self.size_bytes > self.limit_bytes:
            self.remove(next(iter(self._sessions)))
            self.evictions += 1

    def remove(self, name: Name, *, drop_content: bool = True) -> None:
        """Drops a content, if it is here."""
        found = self._sessions.pop(name, None)
        if found is not None:
            self.size_bytes -= found[1]
            if drop_content:
                found[0].state.drop_content()
